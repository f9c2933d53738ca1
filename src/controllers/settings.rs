//! The settings in force, typed: the Setting objects' values where they are sound, the defaults elsewhere.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::ListParams;

use super::setting::definitions::{self, name};
use super::{ApiContext, Context, Error};
use crate::crd::{CompressionMethod, Setting};

/// All settings as they were at one moment.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Sound values by name; a name that is missing has its default.
    values: HashMap<&'static str, String>,
}

impl Settings {
    /// Reads them out of the objects. Unknown names and unsound values are passed over: their Setting says so.
    pub fn from_objects(objects: impl IntoIterator<Item = impl Borrow<Setting>>) -> Self {
        let sound = |object: &Setting| {
            let definition = definitions::find(&object.name_any())?;
            definition.check(&object.value).ok()?;
            Some((definition.name, object.value.clone()))
        };
        Self { values: objects.into_iter().filter_map(|object| sound(object.borrow())).collect() }
    }

    /// Asks the API server: one request.
    pub async fn read(context: &Context) -> Result<Self, Error> {
        let list = context.api::<Setting>().list(&ListParams::default()).await.context(|| "list the settings".to_owned())?;
        Ok(Self::from_objects(list.items))
    }

    /// Compression of new backups where the volume names none.
    pub fn backup_compression(&self) -> CompressionMethod {
        CompressionMethod::from(self.text(name::COMPRESSION))
    }

    /// Blocks that one backup works on at once.
    pub fn backup_concurrency(&self) -> usize {
        self.count(name::BACKUP_CONCURRENCY)
    }

    /// Blocks that one restore works on at once.
    pub fn restore_concurrency(&self) -> usize {
        self.count(name::RESTORE_CONCURRENCY)
    }

    /// Transfers of one node at once.
    pub fn transfers_per_node(&self) -> usize {
        self.count(name::TRANSFERS_PER_NODE)
    }

    /// How long a failed Backup is kept; `None`: until somebody deletes it.
    pub fn failed_backup_ttl(&self) -> Option<Duration> {
        let minutes = self.number(name::FAILED_TTL);
        (minutes > 0).then(|| Duration::from_secs(minutes.saturating_mul(60)))
    }

    /// Bytes of a block of a new volume's backups.
    pub fn backup_block_size(&self) -> u64 {
        self.number(name::BLOCK_SIZE) << 20
    }

    /// Whether a schedule also runs for volumes that are not attached.
    pub fn allow_detached(&self) -> bool {
        self.flag(name::ALLOW_DETACHED)
    }

    /// The largest `retain` of a RecurringJob.
    pub fn max_retention(&self) -> usize {
        self.count(name::MAX_RETENTION)
    }

    /// Whether a job's snapshot goes once it is no longer needed as a base.
    pub fn cleanup_job_snapshot(&self) -> bool {
        self.flag(name::CLEANUP_JOB_SNAPSHOT)
    }

    /// Whether a mounted file system is frozen for the instant of a snapshot, where the volume does not say.
    pub fn freeze(&self) -> bool {
        self.flag(name::FREEZE)
    }

    /// Snapshots a volume may have where it names no limit of its own.
    pub fn snapshot_max_count(&self) -> usize {
        self.count(name::SNAPSHOT_MAX)
    }

    fn text(&self, name: &'static str) -> &str {
        let default = || definitions::find(name).map_or("", |definition| definition.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    fn number(&self, name: &'static str) -> u64 {
        // Only sound values come here, and every default is sound.
        self.text(name).parse().unwrap_or_default()
    }

    fn count(&self, name: &'static str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    fn flag(&self, name: &'static str) -> bool {
        definitions::bool_per_engine(self.text(name)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str) -> Setting {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Setting", "metadata": { "name": name }, "value": value,
        }))
        .expect("setting")
    }

    #[test]
    fn without_objects_every_default_is_in_force() {
        let settings = Settings::default();
        assert_eq!(settings.backup_compression(), CompressionMethod::Lz4);
        assert_eq!(settings.failed_backup_ttl(), Some(Duration::from_secs(86_400)));
        assert_eq!(settings.backup_block_size(), 2 << 20);
        assert_eq!((settings.backup_concurrency(), settings.restore_concurrency(), settings.transfers_per_node()), (2, 2, 5));
        assert_eq!((settings.max_retention(), settings.snapshot_max_count()), (100, 250));
        assert!(!settings.allow_detached() && settings.freeze() && settings.cleanup_job_snapshot());
    }

    #[test]
    fn an_objects_value_counts_when_it_is_sound_and_its_default_otherwise() {
        let settings = Settings::from_objects([
            setting(name::FAILED_TTL, "0"),
            setting(name::COMPRESSION, "zstd"),
            setting(name::FREEZE, r#"{"v1":"false"}"#),
            setting(name::ALLOW_DETACHED, "true"),
            setting("some-other-name", "x"),
        ]);
        assert_eq!(settings.failed_backup_ttl(), None);
        assert_eq!(settings.backup_compression(), CompressionMethod::Lz4);
        assert!(!settings.freeze() && settings.allow_detached());
    }
}
