//! The Backup object of a backup that the store has: every field comes from its config.

use crate::backupstore::config::BackupConfig;
use crate::backupstore::list::BackupInfo;
use crate::backupstore::target_url::{BackupUrl, Target};
use crate::crd::names::{FINALIZER, LABEL_BACKUP_TARGET, LABEL_BACKUP_VOLUME, LABEL_FROM_STORE, LABEL_RECURRING_JOB, TRUE};
use crate::crd::{Backup, BackupSpec, BackupState, BackupStatus, Bytes, CompressionMethod, Map, Time};
use crate::names::{BackupName, VolumeName};

/// The object without its status.
pub fn object(target: &str, volume: &VolumeName, backup: &BackupName, config: &BackupConfig) -> Backup {
    let labels = labels_of(config);
    let spec = BackupSpec { snapshot_name: config.snapshot_name.clone(), labels: labels.clone(), ..BackupSpec::default() };
    let mut object = Backup::new(backup.as_str(), spec);
    object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let mut own = vec![(LABEL_BACKUP_TARGET, target), (LABEL_BACKUP_VOLUME, volume.as_str()), (LABEL_FROM_STORE, TRUE)];
    // For people and metrics: retention counts an object from the store by the job's uid in `spec.labels`, never by a name.
    own.extend(labels.get(LABEL_RECURRING_JOB).filter(|job| is_label_value(job)).map(|job| (LABEL_RECURRING_JOB, job.as_str())));
    object.metadata.labels = Some(own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    object
}

/// Kubernetes' rule for label values. Labels in the store can be anything.
fn is_label_value(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= 63 && text.chars().all(inner) && end(text.chars().next()) && end(text.chars().next_back())
}

/// Its status: Completed.
pub fn status(target: &str, place: &Target, volume: &VolumeName, backup: &BackupName, info: &BackupInfo) -> BackupStatus {
    let config = &info.config;
    BackupStatus {
        state: BackupState::Completed,
        progress: 100,
        url: url(place, volume, backup),
        snapshot_name: config.snapshot_name.clone(),
        snapshot_created_at: config.snapshot_created_at().into(),
        backup_created_at: config.created_at().into(),
        size: Bytes(config.data_size),
        labels: labels_of(config),
        volume_name: volume.as_str().to_owned(),
        volume_size: Bytes(info.volume_size),
        last_synced_at: Time::now(),
        compression_method: compression_of(config),
        newly_upload_data_size: Bytes(config.newly_uploaded_data_size),
        re_uploaded_data_size: Bytes(config.re_uploaded_data_size),
        backup_target_name: target.to_owned(),
        snapshot_id: config.snapshot_id().unwrap_or_default().to_owned(),
        ..BackupStatus::default()
    }
}

/// The URL by which it can be restored.
pub fn url(place: &Target, volume: &VolumeName, backup: &BackupName) -> String {
    BackupUrl { target: place.clone(), backup: backup.clone(), volume: volume.clone() }.to_string()
}

fn labels_of(config: &BackupConfig) -> Map {
    config.labels.clone().unwrap_or_default()
}

/// A method that this build does not know shows as none named; a restore says so.
fn compression_of(config: &BackupConfig) -> CompressionMethod {
    config.compression().map_or(CompressionMethod::Inherit, |method| CompressionMethod::from(method.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(job: &str) -> BackupConfig {
        serde_json::from_value(serde_json::json!({
            "Name": "backup-1", "VolumeName": "v1", "SnapshotName": "s1",
            "SnapshotCreatedAt": "2026-01-07T12:00:00Z", "CreatedTime": "2026-01-07T12:01:00Z",
            "Size": "4194304", "NewlyUploadedDataSize": "2097152", "Labels": { "RecurringJob": job, "app": "db" },
        }))
        .expect("config")
    }

    fn names() -> (VolumeName, BackupName, Target) {
        ("v1".parse().expect("name"), "backup-1".parse().expect("name"), "s3://bucket@region/".parse().expect("url"))
    }

    #[test]
    fn b2_a_backup_from_the_store_shows_all_that_a_restore_and_retention_need() {
        let (volume, backup, place) = names();
        let info = BackupInfo { config: config("nightly"), volume_size: 8 << 20, block_size: 2 << 20 };
        let status = status("default", &place, &volume, &backup, &info);
        assert_eq!(status.state, BackupState::Completed);
        assert_eq!(status.url, "s3://bucket@region/?backup=backup-1&volume=v1");
        assert_eq!((status.size.0, status.newly_upload_data_size.0, status.volume_size.0), (4 << 20, 2 << 20, 8 << 20));
        assert_eq!(status.snapshot_created_at.to_string(), "2026-01-07T12:00:00Z");
        assert_eq!(status.labels["app"], "db");
        // An empty method is gzip by the format.
        assert_eq!(status.compression_method, CompressionMethod::Gzip);
    }

    #[test]
    fn its_object_is_labelled_for_the_job_and_never_for_an_agent() {
        let (volume, backup, _) = names();
        let object = object("default", &volume, &backup, &config("nightly"));
        let labels = object.metadata.labels.unwrap_or_default();
        assert_eq!(labels[LABEL_FROM_STORE], TRUE);
        assert_eq!(labels[LABEL_RECURRING_JOB], "nightly");
        assert_eq!((labels[LABEL_BACKUP_VOLUME].as_str(), labels[LABEL_BACKUP_TARGET].as_str()), ("v1", "default"));
        assert!(!labels.contains_key(crate::crd::names::LABEL_NODE));
        assert_eq!(object.spec.snapshot_name, "s1");
    }

    #[test]
    fn a_job_name_that_is_no_label_value_stays_out_of_the_labels() {
        let (volume, backup, _) = names();
        let object = object("default", &volume, &backup, &config("no label value!"));
        assert!(!object.metadata.labels.unwrap_or_default().contains_key(LABEL_RECURRING_JOB));
        assert_eq!(object.spec.labels["RecurringJob"], "no label value!");
    }
}
