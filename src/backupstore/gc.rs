//! Which blocks no backup refers to, and which backup is the last one: pure functions of what a listing showed.

use std::collections::HashSet;

use super::block::Checksum;
use super::config::BackupConfig;
use super::driver::Meta;
use crate::names::BackupName;

/// Why garbage was left for a later delete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// A backup is being made, or was until a short while ago.
    #[error("backup {0} is in progress")]
    InProgress(BackupName),
    /// A backup's config cannot be read, so nobody knows which blocks it needs.
    #[error("the config of backup {name} is damaged: {reason}")]
    Damaged {
        /// The backup.
        name: BackupName,
        /// What is wrong.
        reason: String,
    },
    /// Backups came or went meanwhile.
    #[error("the backups of the volume changed meanwhile")]
    Changed,
}

/// What the remaining backups of a volume need.
#[derive(Debug, Default)]
pub struct Survey {
    /// Their blocks.
    pub used: HashSet<Checksum>,
    /// The newest by snapshot time: (snapshot time, name), both as in its config.
    pub newest: Option<(String, String)>,
    /// The first reason why no block may be removed.
    pub skip: Option<Skipped>,
}

impl Survey {
    /// Counts a complete backup that stays.
    pub fn add(&mut self, config: &BackupConfig) {
        self.used.extend(config.blocks.iter().map(|block| block.checksum));
        let candidate = (config.snapshot_created_at.clone(), config.name.clone());
        // Times are RFC 3339 in UTC and whole seconds, so their text sorts as they do.
        if self.newest.as_ref().is_none_or(|newest| *newest < candidate) {
            self.newest = Some(candidate);
        }
    }

    /// Notes a reason to remove no block.
    pub fn skip(&mut self, reason: Skipped) {
        self.skip.get_or_insert(reason);
    }

    /// Blocks that nobody needs.
    pub fn garbage(&self, stored: Vec<(Checksum, Meta)>) -> Vec<(Checksum, Meta)> {
        stored.into_iter().filter(|(checksum, _)| !self.used.contains(checksum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::backupstore::config::Block;

    fn config(name: u8, second: u8, blocks: &[u8]) -> BackupConfig {
        BackupConfig {
            name: format!("b-{name}"),
            snapshot_created_at: format!("2026-11-23T05:12:{:02}Z", second % 60),
            blocks: blocks.iter().map(|n| Block { offset: 0, checksum: Checksum::of(&[*n]) }).collect(),
            ..BackupConfig::default()
        }
    }

    proptest! {
        #[test]
        fn garbage_is_exactly_what_no_backup_has(backups: Vec<(u8, u8, Vec<u8>)>, stored: Vec<u8>) {
            let mut survey = Survey::default();
            for (name, second, blocks) in &backups {
                survey.add(&config(*name, *second, blocks));
            }
            let meta = Meta { size: 1, modified: Timestamp::UNIX_EPOCH };
            let listed = stored.iter().map(|n| (Checksum::of(&[*n]), meta)).collect();
            let garbage: HashSet<Checksum> = survey.garbage(listed).into_iter().map(|(checksum, _)| checksum).collect();
            for n in stored {
                let used = backups.iter().any(|(_, _, blocks)| blocks.contains(&n));
                prop_assert_eq!(garbage.contains(&Checksum::of(&[n])), !used);
            }
        }

        #[test]
        fn the_newest_is_the_one_with_the_latest_snapshot(backups in proptest::collection::vec((any::<u8>(), 0u8..60), 1..6)) {
            let mut survey = Survey::default();
            for (name, second) in &backups {
                survey.add(&config(*name, *second, &[]));
            }
            let latest = backups.iter().map(|(_, second)| *second).max().unwrap();
            let newest = survey.newest.unwrap().0;
            prop_assert_eq!(newest, format!("2026-11-23T05:12:{latest:02}Z"));
        }
    }
}
