//! What has to be read for a backup: a pure function of the ranges and the earlier backup.

use std::ops::Range;

use super::base::Base;
use crate::backupstore::block::Checksum;
use crate::backupstore::config::Block;

/// What becomes of each block of the volume. A block that is in none of the lists is zeros and stays out of the backup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// As in the earlier backup.
    pub keep: Vec<Block>,
    /// To be read.
    pub read: Vec<Read>,
    /// Zeros, to be said explicitly.
    pub zeros: Vec<u64>,
}

/// A block to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Byte offset in the volume.
    pub offset: u64,
    /// If it turns out to be zeros, whether that must be said.
    pub say_zeros: bool,
}

impl Plan {
    /// Reads what would be kept although its block is not in the store.
    pub fn mend(&mut self, is_stored: impl Fn(&Checksum) -> bool) {
        let missing = self.keep.extract_if(.., |block| !is_stored(&block.checksum));
        self.read.extend(missing.map(|block| Read { offset: block.offset, say_zeros: true }));
        self.read.sort_by_key(|read| read.offset);
    }
}

/// Decides for every block of a volume of `size` bytes.
pub fn plan(size: u64, block_size: u64, allocated: &[Range<u64>], base: &Base) -> Plan {
    let mut plan = Plan::default();
    let mut allocated = Cursor::new(allocated);
    let mut changed = base.changed.as_deref().map(Cursor::new);
    for offset in (0..size).step_by(usize::try_from(block_size).unwrap_or(usize::MAX)) {
        let block = offset..offset + block_size;
        let is_allocated = allocated.touches(&block);
        let is_changed = changed.as_mut().is_none_or(|changed| changed.touches(&block)) || block.end > base.size;
        match base.block(offset) {
            Some(checksum) if !is_changed => plan.keep.push(Block { offset, checksum }),
            _ if is_changed && is_allocated => plan.read.push(Read { offset, say_zeros: base.has(offset) }),
            // Also where nothing changed since the base and only the last backup has a block.
            _ if base.has(offset) => plan.zeros.push(offset),
            _ => {}
        }
    }
    plan
}

/// Asks ascending ranges about ascending blocks.
struct Cursor<'a> {
    ranges: &'a [Range<u64>],
}

impl<'a> Cursor<'a> {
    fn new(ranges: &'a [Range<u64>]) -> Self {
        Self { ranges }
    }

    /// Whether any range has a byte of `block`.
    fn touches(&mut self, block: &Range<u64>) -> bool {
        let ended = self.ranges.iter().take_while(|range| range.end <= block.start || range.is_empty()).count();
        self.ranges = &self.ranges[ended..];
        self.ranges.first().is_some_and(|range| range.start < block.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::backupstore::config::BackupConfig;

    const BLOCK: u64 = 4;
    const BLOCKS: u64 = 12;

    fn checksum(n: u8) -> Checksum {
        Checksum::of(&[n])
    }

    /// Ascending, disjoint ranges over the volume's bytes.
    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        proptest::collection::btree_set(0..=BLOCKS * BLOCK, 0..10)
            .prop_map(|cuts| cuts.into_iter().collect::<Vec<_>>().chunks_exact(2).map(|pair| pair[0]..pair[1]).collect())
    }

    fn config() -> impl Strategy<Value = BackupConfig> {
        proptest::collection::btree_map(0..BLOCKS, any::<u8>(), 0..8).prop_map(|blocks| {
            let blocks = blocks.into_iter().map(|(i, n)| Block { offset: i * BLOCK, checksum: checksum(n) }).collect();
            BackupConfig { blocks, ..BackupConfig::default() }
        })
    }

    /// None, the last backup, a proven one, or both; with the offsets where zeros must be said.
    fn base() -> impl Strategy<Value = (Base, HashSet<u64>)> {
        let proof = proptest::option::of((config(), 0..=BLOCKS, ranges()));
        (proptest::option::of(config()), proof).prop_map(|(last, proof)| {
            let known = last.iter().chain(proof.iter().map(|(config, ..)| config));
            let offsets = known.flat_map(|config| config.blocks.iter().map(|block| block.offset)).collect();
            let base = last.as_ref().map(Base::last).unwrap_or_default();
            match proof {
                None => (base, offsets),
                Some((config, size, changed)) => (base.proven(&config, size * BLOCK, changed), offsets),
            }
        })
    }

    proptest! {
        #[test]
        fn every_block_is_decided_as_a_byte_by_byte_look_decides(allocated in ranges(), (base, said) in base()) {
            let plan = plan(BLOCKS * BLOCK, BLOCK, &allocated, &base);
            let hit = |ranges: &[Range<u64>], offset: u64| (offset..offset + BLOCK).any(|byte| ranges.iter().any(|r| r.contains(&byte)));
            for offset in (0..BLOCKS * BLOCK).step_by(BLOCK as usize) {
                let kept = plan.keep.iter().find(|b| b.offset == offset).map(|b| b.checksum);
                let read = plan.read.iter().find(|r| r.offset == offset);
                let zero = plan.zeros.contains(&offset);
                let unchanged = base.changed.as_ref().is_some_and(|changed| !hit(changed, offset)) && offset + BLOCK <= base.size;
                let say_zeros = said.contains(&offset);
                if unchanged && base.block(offset).is_some() {
                    prop_assert_eq!((kept, read.is_some(), zero), (base.block(offset), false, false));
                } else if !unchanged && hit(&allocated, offset) {
                    prop_assert_eq!(read, Some(&Read { offset, say_zeros }));
                    prop_assert!(kept.is_none() && !zero);
                } else {
                    prop_assert_eq!((kept, read.is_some(), zero), (None, false, say_zeros));
                }
            }
        }
    }

    #[test]
    fn a_kept_block_that_is_not_in_the_store_is_read_again() {
        let block = |offset, n| Block { offset, checksum: checksum(n) };
        let mut plan =
            Plan { keep: vec![block(0, 1), block(8, 2)], read: vec![Read { offset: 12, say_zeros: false }], zeros: vec![] };
        plan.mend(|found| *found == checksum(1));
        assert_eq!(plan.keep, [block(0, 1)]);
        assert_eq!(plan.read, [Read { offset: 8, say_zeros: true }, Read { offset: 12, say_zeros: false }]);
    }
}
