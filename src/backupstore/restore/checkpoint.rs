//! How far a restore is, as the sink keeps it.

use crate::backupstore::block::Checksum;

/// Names this form; another one is not read.
const MAGIC: &[u8; 8] = b"drover-2";

/// Which groups of a plan are durable in the sink, and whether the rest of it may hold something else than zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    digest: Checksum,
    groups: usize,
    needs_zeroing: bool,
    bits: Vec<u8>,
}

impl Checkpoint {
    /// Nothing is done of the backup whose config has `digest`. `needs_zeroing`: the sink is not known to be blank.
    pub fn new(digest: Checksum, groups: usize, needs_zeroing: bool) -> Self {
        Self { digest, groups, needs_zeroing, bits: vec![0; groups.div_ceil(8)] }
    }

    /// What was saved, if it is about that very backup.
    pub fn parse(state: &[u8], digest: Checksum, groups: usize) -> Option<Self> {
        let new = Self::new(digest, groups, false);
        let (needs_zeroing, bits) = state.strip_prefix(&new.header()[..])?.split_first()?;
        (bits.len() == new.bits.len()).then(|| Self { needs_zeroing: *needs_zeroing != 0, bits: bits.to_vec(), ..new })
    }

    /// The form to save.
    pub fn encode(&self) -> Vec<u8> {
        let mut state = self.header();
        state.push(u8::from(self.needs_zeroing));
        state.extend_from_slice(&self.bits);
        state
    }

    fn header(&self) -> Vec<u8> {
        [&MAGIC[..], self.digest.to_string().as_bytes(), &(self.groups as u64).to_le_bytes()].concat()
    }

    /// Whether zeros must still be written where the backup has none.
    pub fn needs_zeroing(&self) -> bool {
        self.needs_zeroing
    }

    /// Notes that they are written.
    pub fn set_zeroed(&mut self) {
        self.needs_zeroing = false;
    }

    /// Whether a group is done.
    pub fn is_done(&self, group: usize) -> bool {
        self.bits[group / 8] & (1 << (group % 8)) != 0
    }

    /// Notes that a group is done.
    pub fn set_done(&mut self, group: usize) {
        self.bits[group / 8] |= 1 << (group % 8);
    }

    /// Number of groups done.
    pub fn done(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_for_the_same_backup_only() {
        let (digest, other) = (Checksum::of(b"a"), Checksum::of(b"b"));
        let mut checkpoint = Checkpoint::new(digest, 19, true);
        for group in [0, 7, 8, 18] {
            checkpoint.set_done(group);
        }
        let state = checkpoint.encode();
        let read = Checkpoint::parse(&state, digest, 19).unwrap();
        assert_eq!(read, checkpoint);
        assert_eq!((read.done(), read.is_done(18), read.is_done(17), read.needs_zeroing()), (4, true, false, true));
        checkpoint.set_zeroed();
        assert!(!Checkpoint::parse(&checkpoint.encode(), digest, 19).unwrap().needs_zeroing());
        assert_eq!(Checkpoint::parse(&state, other, 19), None);
        assert_eq!(Checkpoint::parse(&state, digest, 20), None);
        assert_eq!(Checkpoint::parse(&state[..state.len() - 1], digest, 19), None);
        assert_eq!(Checkpoint::parse(b"", digest, 19), None);
    }
}
