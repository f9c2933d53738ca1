//! Which block goes where: a pure function of a backup's config.

use std::ops::Range;

use crate::backupstore::block::Checksum;
use crate::backupstore::config::Block;
use crate::backupstore::list::BackupInfo;

/// The blocks of a backup, those of zeros left out, grouped by checksum; groups in the order of their first offset.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sorted by checksum, then offset.
    blocks: Vec<Block>,
    groups: Vec<Range<usize>>,
}

impl Plan {
    /// The plan for a backup, or what is wrong with its config.
    pub fn new(info: &BackupInfo) -> Result<Self, String> {
        let zeros = Checksum::of_zeros(info.block_size);
        let mut offsets: Vec<u64> = info.config.blocks.iter().map(|block| block.offset).collect();
        offsets.sort_unstable();
        if let Some(odd) = offsets.iter().find(|offset| **offset % info.block_size != 0) {
            return Err(format!("block offset {odd} is not a multiple of the block size, {}", info.block_size));
        }
        if let Some(pair) = offsets.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("there are two blocks at offset {}", pair[0]));
        }
        let mut blocks: Vec<Block> = info.config.blocks.iter().filter(|block| block.checksum != zeros).copied().collect();
        blocks.sort_unstable_by_key(|block| (block.checksum, block.offset));
        let mut groups = Vec::new();
        let mut start = 0;
        for group in blocks.chunk_by(|a, b| a.checksum == b.checksum) {
            groups.push(start..start + group.len());
            start += group.len();
        }
        groups.sort_unstable_by_key(|group| blocks[group.start].offset);
        Ok(Self { blocks, groups })
    }

    /// Number of different blocks.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Number of places.
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The places of one block; never empty.
    pub fn group(&self, group: usize) -> &[Block] {
        &self.blocks[self.groups[group].clone()]
    }

    /// Ranges of the volume that no block is written to, ascending.
    pub fn zeros(&self, volume_size: u64, block_size: u64) -> Vec<Range<u64>> {
        let mut offsets: Vec<u64> = self.blocks.iter().map(|block| block.offset).collect();
        offsets.sort_unstable();
        let ends = offsets.iter().map(|offset| offset + block_size);
        let starts = std::iter::once(0).chain(ends);
        let gaps = starts.zip(offsets.iter().copied().chain([volume_size])).map(|(start, end)| start..end);
        gaps.filter(|gap| !gap.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backupstore::config::BackupConfig;

    const BLOCK: u64 = 512;

    fn info(blocks: Vec<Block>, volume_size: u64) -> BackupInfo {
        BackupInfo { config: BackupConfig { blocks, ..BackupConfig::default() }, volume_size, block_size: BLOCK }
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_or_zeroed_once(map in proptest::collection::btree_map(0u64..20, 0u8..5, 0..20)) {
            let checksum = |n: u8| if n == 0 { Checksum::of_zeros(BLOCK) } else { Checksum::of(&[n]) };
            let blocks = map.iter().map(|(i, n)| Block { offset: i * BLOCK, checksum: checksum(*n) }).collect();
            let plan = Plan::new(&info(blocks, 20 * BLOCK)).unwrap();
            let mut seen = [None; 20];
            for group in 0..plan.groups() {
                for block in plan.group(group) {
                    prop_assert_eq!(seen[(block.offset / BLOCK) as usize].replace(block.checksum), None);
                }
            }
            for range in plan.zeros(20 * BLOCK, BLOCK) {
                for i in range.start / BLOCK..range.end / BLOCK {
                    prop_assert_eq!(seen[i as usize].replace(checksum(0)), None);
                }
            }
            for i in 0..20 {
                prop_assert_eq!(seen[i as usize], Some(checksum(map.get(&i).copied().unwrap_or(0))));
            }
            let firsts: Vec<u64> = (0..plan.groups()).map(|g| plan.group(g)[0].offset).collect();
            prop_assert!(firsts.is_sorted());
        }
    }

    #[test]
    fn a_config_that_contradicts_itself_is_refused() {
        let block = |offset| Block { offset, checksum: Checksum::of(b"x") };
        assert!(Plan::new(&info(vec![block(0), block(0)], BLOCK)).unwrap_err().contains("two blocks at offset 0"));
        assert!(Plan::new(&info(vec![block(7)], BLOCK)).unwrap_err().contains("offset 7"));
    }
}
