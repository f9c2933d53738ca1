//! The difference between what a store lists and the objects that describe it: pure.
//!
//! Two rules make it safe. The objects are read before the store is listed, and a backup's config is in the store before its object
//! says Completed: so a Completed object whose backup is not listed describes nothing any more. And a Backup that an agent is making,
//! or that failed, is nobody's business here.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{BackupName, VolumeName};

/// A Backup object of any target, as far as the catalogue cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBackup {
    /// The object's name.
    pub name: String,
    /// The volume, as the store names it.
    pub volume: String,
    /// Its target is the one that was listed.
    pub ours: bool,
    /// Whether it says that the store holds it: Completed, or made from the store and not yet filled.
    pub stored: bool,
    /// It has a deletion time.
    pub deleting: bool,
}

/// A BackupVolume object of the target that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVolume {
    /// The object's name.
    pub name: String,
    /// The volume, as the store names it.
    pub volume: String,
    /// It has a deletion time.
    pub deleting: bool,
}

/// What to change so that the objects describe the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Volumes without a BackupVolume.
    pub new_volumes: Vec<VolumeName>,
    /// Backups without a Backup.
    pub new_backups: Vec<(VolumeName, BackupName)>,
    /// Backup objects whose backup is gone, with their volume.
    pub gone_backups: Vec<(String, String)>,
    /// BackupVolume objects whose volume is gone.
    pub gone_volumes: Vec<String>,
    /// Backups that cannot be shown, because the name belongs to an object of another volume or target.
    pub hidden: Vec<(VolumeName, BackupName)>,
}

/// Compares the complete listing with the objects that were read before it.
pub fn plan(listing: &BTreeMap<VolumeName, Vec<BackupName>>, volumes: &[KnownVolume], backups: &[KnownBackup]) -> Plan {
    let mut plan = Plan::default();
    let known: BTreeMap<&str, &KnownVolume> = volumes.iter().map(|v| (v.volume.as_str(), v)).collect();
    let objects: BTreeMap<&str, &KnownBackup> = backups.iter().map(|b| (b.name.as_str(), b)).collect();
    let listed: BTreeSet<(&str, &str)> =
        listing.iter().flat_map(|(volume, names)| names.iter().map(move |b| (volume.as_str(), b.as_str()))).collect();

    for (volume, names) in listing {
        match known.get(volume.as_str()) {
            // Its data is going: what is still listed is on its way out.
            Some(object) if object.deleting => continue,
            Some(_) => {}
            None => plan.new_volumes.push(volume.clone()),
        }
        for backup in names {
            match objects.get(backup.as_str()) {
                None => plan.new_backups.push((volume.clone(), backup.clone())),
                Some(object) if object.ours && object.volume == volume.as_str() => {}
                Some(_) => plan.hidden.push((volume.clone(), backup.clone())),
            }
        }
    }
    plan.gone_backups = backups
        .iter()
        .filter(|b| b.ours && b.stored && !b.deleting && !listed.contains(&(b.volume.as_str(), b.name.as_str())))
        .map(|b| (b.name.clone(), b.volume.clone()))
        .collect();
    plan.gone_volumes = volumes
        .iter()
        .filter(|v| !v.deleting && !listing.keys().any(|listed| listed.as_str() == v.volume))
        .map(|v| v.name.clone())
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(rows: &[(&str, &[&str])]) -> BTreeMap<VolumeName, Vec<BackupName>> {
        rows.iter().map(|(v, bs)| (v.parse().expect("volume"), bs.iter().map(|b| b.parse().expect("backup")).collect())).collect()
    }

    fn volume(name: &str) -> KnownVolume {
        KnownVolume { name: format!("{name}-12345678"), volume: name.into(), deleting: false }
    }

    fn backup(volume: &str, name: &str) -> KnownBackup {
        KnownBackup { name: name.into(), volume: volume.into(), ours: true, stored: true, deleting: false }
    }

    #[test]
    fn objects_that_agree_with_the_store_are_left_alone() {
        let plan = plan(&listing(&[("v1", &["b1", "b2"])]), &[volume("v1")], &[backup("v1", "b1"), backup("v1", "b2")]);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn what_only_the_store_has_gets_objects_and_what_only_objects_say_goes() {
        let plan = plan(
            &listing(&[("v1", &["b1", "b2"]), ("v2", &[])]),
            &[volume("v1"), volume("v3")],
            &[backup("v1", "b1"), backup("v3", "b9")],
        );
        assert_eq!(plan.new_volumes, ["v2".parse().expect("name")]);
        assert_eq!(plan.new_backups, [("v1".parse().expect("name"), "b2".parse().expect("name"))]);
        assert_eq!(plan.gone_volumes, ["v3-12345678"]);
        assert_eq!(plan.gone_backups, [("b9".to_owned(), "v3".to_owned())]);
    }

    #[test]
    fn a_backup_that_an_agent_makes_or_that_failed_is_neither_removed_nor_doubled() {
        let making = KnownBackup { stored: false, ..backup("v1", "b1") };
        assert_eq!(plan(&listing(&[("v1", &[])]), &[volume("v1")], std::slice::from_ref(&making)), Plan::default());
        assert_eq!(plan(&listing(&[("v1", &["b1"])]), &[volume("v1")], &[making]), Plan::default());
    }

    #[test]
    fn deletions_under_way_are_left_to_whoever_does_them() {
        let leaving = KnownBackup { deleting: true, ..backup("v1", "b1") };
        assert_eq!(plan(&listing(&[("v1", &[])]), &[volume("v1")], &[leaving]), Plan::default());
        let leaving = KnownVolume { deleting: true, ..volume("v1") };
        assert_eq!(plan(&listing(&[("v1", &["b1"])]), std::slice::from_ref(&leaving), &[]), Plan::default());
        assert_eq!(plan(&listing(&[]), &[leaving], &[]), Plan::default());
    }

    #[test]
    fn objects_of_another_target_are_not_judged_and_their_names_are_not_taken() {
        let foreign = KnownBackup { ours: false, ..backup("v1", "b1") };
        let plan = plan(&listing(&[("v1", &["b1"])]), &[volume("v1")], &[foreign]);
        assert_eq!(plan.hidden, [("v1".parse().expect("name"), "b1".parse().expect("name"))]);
        assert!(plan.gone_backups.is_empty() && plan.new_backups.is_empty());
    }
}
