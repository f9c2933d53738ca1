//! The settings that have an effect here: Longhorn's names, what each may hold, and its default.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The Setting object's name.
    pub name: &'static str,
    /// Its value where the user gave none.
    pub default: &'static str,
    /// What it may hold.
    pub kind: Kind,
}

/// What a setting may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, both ends allowed.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`, or `{"v1":"true"}`: one value for each data engine, of which v1 is read.
    BoolPerEngine,
    /// A backup target's URL, or nothing.
    TargetUrl,
    /// A Secret's name, or nothing.
    SecretName,
}

/// Names of the settings.
pub mod name {
    /// Whether a schedule also runs for volumes that are not attached.
    pub const ALLOW_DETACHED: &str = "allow-recurring-job-while-volume-detached";
    /// Compression of new backups where the volume names none.
    pub const COMPRESSION: &str = "backup-compression-method";
    /// Blocks that one backup works on at once.
    pub const BACKUP_CONCURRENCY: &str = "backup-concurrent-limit";
    /// Blocks that one restore works on at once.
    pub const RESTORE_CONCURRENCY: &str = "restore-concurrent-limit";
    /// Transfers of one node at once.
    pub const TRANSFERS_PER_NODE: &str = "concurrent-volume-backup-restore-per-node-limit";
    /// Minutes after which a failed Backup is removed, 0 = never.
    pub const FAILED_TTL: &str = "failed-backup-ttl";
    /// MiB of a block of a new volume's backups.
    pub const BLOCK_SIZE: &str = "default-backup-block-size";
    /// The largest `retain` of a RecurringJob.
    pub const MAX_RETENTION: &str = "recurring-job-max-retention";
    /// Whether a job's snapshot goes once it is no longer needed as a base.
    pub const CLEANUP_JOB_SNAPSHOT: &str = "auto-cleanup-recurring-job-backup-snapshot";
    /// Whether a mounted file system is frozen for the instant of a snapshot.
    pub const FREEZE: &str = "freeze-filesystem-for-snapshot";
    /// Snapshots a volume may have where it names no limit of its own.
    pub const SNAPSHOT_MAX: &str = "snapshot-max-count";
    /// Alias of the target `default`'s `spec.backupTargetURL`.
    pub const TARGET: &str = "backup-target";
    /// Alias of the target `default`'s `spec.credentialSecret`.
    pub const TARGET_SECRET: &str = "backup-target-credential-secret";
    /// Alias of the target `default`'s `spec.pollInterval`, in seconds.
    pub const POLL_INTERVAL: &str = "backupstore-poll-interval";
}

const fn define(name: &'static str, default: &'static str, kind: Kind) -> Definition {
    Definition { name, default, kind }
}

/// Every setting, each name once.
pub const ALL: [Definition; 14] = [
    define(name::ALLOW_DETACHED, "false", Kind::Bool),
    define(name::COMPRESSION, "lz4", Kind::Choice(&["none", "lz4", "gzip"])),
    define(name::BACKUP_CONCURRENCY, "2", Kind::Integer { min: 1, max: 64 }),
    define(name::RESTORE_CONCURRENCY, "2", Kind::Integer { min: 1, max: 64 }),
    define(name::TRANSFERS_PER_NODE, "5", Kind::Integer { min: 1, max: 100 }),
    define(name::FAILED_TTL, "1440", Kind::Integer { min: 0, max: 5_256_000 }),
    define(name::BLOCK_SIZE, "2", Kind::Choice(&["2", "16"])),
    define(name::MAX_RETENTION, "100", Kind::Integer { min: 1, max: 250 }),
    define(name::CLEANUP_JOB_SNAPSHOT, "true", Kind::Bool),
    // Longhorn's default is false: there the freeze lasts as long as the snapshot, here for an instant.
    define(name::FREEZE, r#"{"v1":"true"}"#, Kind::BoolPerEngine),
    define(name::SNAPSHOT_MAX, "250", Kind::Integer { min: 2, max: 250 }),
    define(name::TARGET, "", Kind::TargetUrl),
    define(name::TARGET_SECRET, "", Kind::SecretName),
    define(name::POLL_INTERVAL, "300", Kind::Integer { min: 0, max: 31_536_000 }),
];

/// Settings of Longhorn that are about what is not here: a manifest with them is taken, and told that they have no effect. Sorted.
pub const WITHOUT_EFFECT: [&str; 105] = [
    "allow-collecting-longhorn-usage-metrics",
    "allow-empty-disk-selector-volume",
    "allow-empty-node-selector-volume",
    "allow-node-drain-with-last-healthy-replica",
    "allow-volume-creation-with-degraded-availability",
    "auto-cleanup-snapshot-after-on-demand-backup-completed",
    "auto-cleanup-system-generated-snapshot",
    "auto-cleanup-when-delete-backup",
    "auto-delete-pod-when-volume-detached-unexpectedly",
    "auto-salvage",
    "backing-image-cleanup-wait-interval",
    "backing-image-recovery-wait-interval",
    "backup-execution-timeout",
    "blacklist-for-auto-delete-pod-when-volume-detached-unexpectedly",
    "concurrent-automatic-engine-upgrade-per-node-limit",
    "concurrent-backing-image-replenish-per-node-limit",
    "concurrent-replica-rebuild-per-node-limit",
    "crd-api-version",
    "create-default-disk-labeled-nodes",
    "csi-storage-capacity-tracking",
    "current-longhorn-version",
    "data-engine-cpu-mask",
    "data-engine-hugepage-enabled",
    "data-engine-interrupt-mode-enabled",
    "data-engine-log-flags",
    "data-engine-log-level",
    "data-engine-memory-size",
    "default-backing-image-manager-image",
    "default-data-locality",
    "default-data-path",
    "default-engine-image",
    "default-instance-manager-image",
    "default-longhorn-static-storage-class",
    "default-min-number-of-backing-image-copies",
    "default-replica-count",
    "default-share-manager-image",
    "default-ublk-number-of-queue",
    "default-ublk-queue-depth",
    "deleting-confirmation-flag",
    "detach-manually-attached-volumes-when-cordoned",
    "disable-revision-counter",
    "disable-scheduling-on-cordoned-node",
    "disable-snapshot-purge",
    "endpoint-network-for-rwx-volume",
    "engine-replica-timeout",
    "fast-replica-rebuild-enabled",
    "guaranteed-instance-manager-cpu",
    "instance-manager-pod-liveness-probe-timeout",
    "kubernetes-cluster-autoscaler-enabled",
    "latest-longhorn-version",
    "log-level",
    "log-path",
    "manager-url",
    "node-disk-health-monitoring",
    "node-down-pod-deletion-policy",
    "node-drain-policy",
    "offline-replica-rebuilding",
    "orphan-auto-deletion",
    "orphan-resource-auto-deletion",
    "orphan-resource-auto-deletion-grace-period",
    "priority-class",
    "recurring-failed-jobs-history-limit",
    "recurring-successful-jobs-history-limit",
    "registry-secret",
    "remove-snapshots-during-filesystem-trim",
    "replica-auto-balance",
    "replica-auto-balance-disk-pressure-percentage",
    "replica-disk-soft-anti-affinity",
    "replica-file-sync-http-client-timeout",
    "replica-rebuild-concurrent-sync-limit",
    "replica-rebuilding-bandwidth-limit",
    "replica-replenishment-wait-interval",
    "replica-soft-anti-affinity",
    "replica-zone-soft-anti-affinity",
    "restore-volume-recurring-jobs",
    "rwx-volume-fast-failover",
    "snapshot-count-warning-threshold",
    "snapshot-data-integrity",
    "snapshot-data-integrity-cronjob",
    "snapshot-data-integrity-immediate-check-after-snapshot-creation",
    "snapshot-heavy-task-concurrent-limit",
    "stable-longhorn-versions",
    "storage-minimal-available-percentage",
    "storage-network",
    "storage-network-for-rwx-volume-enabled",
    "storage-over-provisioning-percentage",
    "storage-reserved-percentage-for-default-disk",
    "support-bundle-failed-history-limit",
    "support-bundle-manager-image",
    "support-bundle-node-collection-timeout",
    "system-managed-components-node-selector",
    "system-managed-csi-components-resource-limits",
    "system-managed-pods-image-pull-policy",
    "taint-toleration",
    "upgrade-checker",
    "upgrade-responder-url",
    "v1-data-engine",
    "v2-data-engine",
    "v2-data-engine-cpu-mask",
    "v2-data-engine-fast-replica-rebuilding",
    "v2-data-engine-guaranteed-instance-manager-cpu",
    "v2-data-engine-hugepage-limit",
    "v2-data-engine-log-flags",
    "v2-data-engine-log-level",
    "v2-data-engine-snapshot-data-integrity",
];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Definition> {
    ALL.iter().find(|definition| definition.name == name)
}

impl Definition {
    /// Whether the setting may hold `value`; else why not, in words for the user.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let sound = match self.kind {
            Kind::Bool => as_bool(value).is_some(),
            Kind::BoolPerEngine => bool_per_engine(value).is_some(),
            Kind::Integer { min, max } => as_integer(value).is_some_and(|n| (min..=max).contains(&n)),
            Kind::Choice(words) => words.contains(&value),
            Kind::SecretName => value.is_empty() || is_object_name(value),
            Kind::TargetUrl if value.is_empty() => true,
            Kind::TargetUrl => return super::parse_target_url(value).map(drop),
        };
        let refusal = || format!("setting {} has the value {value:?}: allowed is {}", self.name, self.allowed());
        if sound { Ok(()) } else { Err(refusal()) }
    }

    /// What it may hold, in words.
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Bool => "true or false".to_owned(),
            Kind::BoolPerEngine => r#"true, false or {"v1":"true"}"#.to_owned(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Choice(words) => words.join(", "),
            Kind::TargetUrl => "a backup target's URL, or nothing".to_owned(),
            Kind::SecretName => "the name of a Secret, or nothing".to_owned(),
        }
    }
}

/// Kubernetes' rule for object names (RFC 1123 subdomain).
fn is_object_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|part| {
            part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// Digits only, and no more than any setting needs: what the schema takes too.
fn as_integer(value: &str) -> Option<u64> {
    let digits = (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    if digits { value.parse().ok() } else { None }
}

fn as_bool(value: &str) -> Option<bool> {
    value.parse().ok()
}

/// The value for data engine v1, of either form.
pub fn bool_per_engine(value: &str) -> Option<bool> {
    if let Some(plain) = as_bool(value) {
        return Some(plain);
    }
    let engines: std::collections::BTreeMap<String, String> = serde_json::from_str(value).ok()?;
    engines.get("v1").and_then(|v1| as_bool(v1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check_and_no_name_comes_twice() {
        for (i, definition) in ALL.iter().enumerate() {
            assert_eq!(definition.check(definition.default), Ok(()));
            assert!(ALL[i + 1..].iter().all(|other| other.name != definition.name));
        }
    }

    #[test]
    fn what_has_an_effect_is_not_said_to_have_none() {
        assert!(WITHOUT_EFFECT.is_sorted() && WITHOUT_EFFECT.iter().all(|name| find(name).is_none()));
    }

    #[test]
    fn a_bad_value_is_refused_with_name_value_and_what_is_allowed() {
        for (name, value, words) in [
            (name::ALLOW_DETACHED, "yes", "true or false"),
            (name::COMPRESSION, "zstd", "none, lz4, gzip"),
            (name::FAILED_TTL, "-1", "a whole number from 0 to 5256000"),
            (name::MAX_RETENTION, "251", "from 1 to 250"),
            (name::BLOCK_SIZE, "4", "2, 16"),
            (name::FREEZE, r#"{"v2":"true"}"#, "{\"v1\":\"true\"}"),
            (name::TARGET_SECRET, "Not_A_Name", "the name of a Secret"),
        ] {
            let message = find(name).expect(name).check(value).expect_err(value);
            assert!(message.contains(name) && message.contains(&format!("{value:?}")) && message.contains(words), "{message}");
        }
        let message = find(name::TARGET).expect("target").check("s3://bucket@region").expect_err("no slash");
        assert!(message.contains("s3://bucket@region/"), "{message}");
    }

    #[test]
    fn an_engine_value_is_read_in_both_forms() {
        for (value, wanted) in [("true", true), (r#"{"v1":"false"}"#, false), (r#"{"v1":"true","v2":"false"}"#, true)] {
            assert_eq!(bool_per_engine(value), Some(wanted));
        }
    }
}
