//! The gauges that describe Backups: set when one is looked at, removed with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;

use crate::crd::names::LABEL_RECURRING_JOB;
use crate::crd::{Backup, BackupState, BackupStatus};
use crate::metrics::{BackupLabels, BackupVolumeLabels, Metrics, VolumeLabels};

/// Sets the gauges and remembers under which labels, since labels of an object can change.
pub struct Gauges {
    metrics: Arc<Metrics>,
    backups: Mutex<HashMap<String, BackupLabels>>,
    volumes: Mutex<HashMap<String, VolumeLabels>>,
}

impl Gauges {
    /// Sets gauges of `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, backups: Mutex::default(), volumes: Mutex::default() }
    }

    /// Shows the backup as it is.
    pub fn set(&self, backup: &Backup, volume: &str) {
        let status = backup.status.clone().unwrap_or_default();
        let labels =
            BackupLabels { volume: volume.to_owned(), backup: backup.name_any(), recurring_job: job_of(backup, &status) };
        let before = lock(&self.backups).insert(backup.name_any(), labels.clone());
        if let Some(before) = before.filter(|before| *before != labels) {
            self.drop_backup(&before);
        }
        self.metrics.backup_state.get_or_create(&labels).set(state_number(status.state));
        self.metrics.backup_actual_size.get_or_create(&labels).set(status.size.0);
        self.metrics.backup_uploaded.get_or_create(&labels).set(status.newly_upload_data_size.0);
    }

    /// The backup's object goes.
    pub fn remove(&self, backup: &str) {
        if let Some(labels) = lock(&self.backups).remove(backup) {
            self.drop_backup(&labels);
        }
    }

    /// Shows how many good backups a backup volume has. `backups`: all of it.
    pub fn set_backup_volume<'a>(&self, backup_volume: &str, backups: impl Iterator<Item = &'a Backup>) {
        let labels = BackupVolumeLabels { backup_volume: backup_volume.to_owned() };
        let count = u64::try_from(backups.filter(|backup| is_good(backup)).count()).unwrap_or(u64::MAX);
        if count == 0 {
            self.metrics.backup_volume_backups.remove(&labels);
        } else {
            self.metrics.backup_volume_backups.get_or_create(&labels).set(count);
        }
    }

    /// Shows the time of the volume's newest good backup in any target, 0 when there is none: a volume that was never backed up is
    /// what an alert of age has to find first. `node`: the one that holds it; `None` when there is no such Volume, which has no age.
    pub fn set_volume<'a>(&self, volume: &str, node: Option<&str>, backups: impl Iterator<Item = &'a Backup>) {
        let labels = node.map(|node| VolumeLabels { volume: volume.to_owned(), node: node.to_owned() });
        let mut shown = lock(&self.volumes);
        let before = match &labels {
            Some(labels) => shown.insert(volume.to_owned(), labels.clone()),
            None => shown.remove(volume),
        };
        if let Some(before) = before.filter(|before| Some(before) != labels.as_ref()) {
            self.metrics.volume_last_backup_at.remove(&before);
        }
        let Some(labels) = labels else { return };
        let times = backups.filter(|backup| is_good(backup)).filter_map(|b| b.status.as_ref()?.snapshot_created_at.get());
        let newest = times.max().map_or(0, jiff::Timestamp::as_second);
        self.metrics.volume_last_backup_at.get_or_create(&labels).set(newest);
    }

    fn drop_backup(&self, labels: &BackupLabels) {
        self.metrics.backup_state.remove(labels);
        self.metrics.backup_actual_size.remove(labels);
        self.metrics.backup_uploaded.remove(labels);
    }
}

fn is_good(backup: &Backup) -> bool {
    backup.status.as_ref().is_some_and(|status| status.state == BackupState::Completed)
}

/// The job that made it: by the object's label, or by the labels that came from the store.
fn job_of(backup: &Backup, status: &BackupStatus) -> String {
    let places = [backup.metadata.labels.as_ref(), Some(&backup.spec.labels), Some(&status.labels)];
    places.into_iter().flatten().find_map(|labels| labels.get(LABEL_RECURRING_JOB)).cloned().unwrap_or_default()
}

/// Longhorn's numbers.
fn state_number(state: BackupState) -> i64 {
    match state {
        BackupState::New => 0,
        BackupState::Pending => 1,
        BackupState::InProgress => 2,
        BackupState::Completed => 3,
        BackupState::Error => 4,
        BackupState::Deleting | BackupState::Unknown => 5,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{BackupSpec, Time};

    fn completed(name: &str, second: i64) -> Backup {
        let mut backup = Backup::new(name, BackupSpec::default());
        let at = Time::from(jiff::Timestamp::from_second(second).expect("time"));
        backup.status = Some(BackupStatus { state: BackupState::Completed, snapshot_created_at: at, ..BackupStatus::default() });
        backup.spec.labels.insert(LABEL_RECURRING_JOB.into(), "nightly".into());
        backup
    }

    #[test]
    fn a_gauge_goes_with_its_object() {
        let metrics = Arc::new(Metrics::new());
        let gauges = Gauges::new(metrics.clone());
        let (old, new) = (completed("b1", 1000), completed("b2", 2000));
        gauges.set(&old, "v1");
        gauges.set_backup_volume("v1-1234", [&old, &new].into_iter());
        let text = metrics.render().expect("text");
        assert!(text.contains(r#"longhorn_backup_state{volume="v1",backup="b1",recurring_job="nightly"} 3"#), "{text}");
        assert!(text.contains(r#"longhorn_backup_volume_backups_count{backup_volume="v1-1234"} 2"#), "{text}");
        gauges.remove("b1");
        gauges.set_backup_volume("v1-1234", std::iter::empty());
        let text = metrics.render().expect("text");
        assert!(!text.contains("b1") && !text.contains("v1"), "{text}");
    }

    #[test]
    fn every_volume_shows_the_time_of_its_newest_good_backup_and_zero_when_there_is_none() {
        let metrics = Arc::new(Metrics::new());
        let gauges = Gauges::new(metrics.clone());
        let shows = |wanted: &[&str]| {
            let text = metrics.render().expect("text");
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with("longhorn_volume_last_backup_at{")).collect();
            assert_eq!(lines, wanted);
        };
        gauges.set_volume("v1", Some(""), std::iter::empty());
        shows(&[r#"longhorn_volume_last_backup_at{volume="v1",node=""} 0"#]);
        let mut failed = completed("b3", 3000);
        failed.status.as_mut().expect("status").state = BackupState::Error;
        gauges.set_volume("v1", Some("n1"), [&failed].into_iter());
        shows(&[r#"longhorn_volume_last_backup_at{volume="v1",node="n1"} 0"#]);
        gauges.set_volume("v1", Some("n1"), [&completed("b1", 1000), &completed("b2", 2000), &failed].into_iter());
        shows(&[r#"longhorn_volume_last_backup_at{volume="v1",node="n1"} 2000"#]);
        gauges.set_volume("v1", None, [&completed("b1", 1000)].into_iter());
        shows(&[]);
    }
}
