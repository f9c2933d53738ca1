//! What the API server itself refuses, and with which words: each rule of the schemas by `kubectl apply`. Rows of the acceptance page: 2.9, B-13, B-14,
//! B-35 to B-38.

use drover::crd::Setting;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "longhorn.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn setting(name: &str, value: &str) -> Value {
    json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Setting", "metadata": {"name": name}, "value": value})
}

/// Applies each object, and compares with the words that a refusal must hold; none means that it must be taken.
fn check(cluster: &Cluster, rows: Vec<(Value, &[&str])>) {
    let (good, bad): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, words)| words.is_empty());
    if !good.is_empty() {
        let documents: Vec<String> = good.iter().map(|(manifest, _)| manifest.to_string()).collect();
        cluster.apply(&documents.join("\n---\n"));
    }
    let wrong: Vec<String> = bad.iter().filter_map(|(manifest, words)| misses(cluster, manifest, words)).collect();
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with the refusal of `manifest`.
fn misses(cluster: &Cluster, manifest: &Value, words: &[&str]) -> Option<String> {
    let said = match cluster.try_apply(&manifest.to_string()) {
        Ok(_) => return Some(format!("taken, but {words:?} was expected: {manifest}")),
        Err(said) => said,
    };
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    // A rule whose message cannot be made shows its source instead.
    let wrong = !missing.is_empty() || said.contains("failed rule");
    wrong.then(|| format!("refused without {missing:?}: {manifest}\n    {said}"))
}

/// Applies the first object, which must be taken, then the second.
fn check_changes(cluster: &Cluster, rows: Vec<(Value, Value, &[&str])>) {
    for (before, after, words) in rows {
        cluster.apply(&before.to_string());
        check(cluster, vec![(after, words)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_words_that_help() {
    let cluster = Cluster::shared("crd-admission").await;
    backup_targets(&cluster);
    recurring_jobs(&cluster);
    cron_lines(&cluster);
    volumes(&cluster);
    backups_and_snapshots(&cluster);
    settings(&cluster);
    settings_agree(&cluster).await;
    changes(&cluster);
    longhorns_manifests(&cluster);
    columns(&cluster);
}

fn backup_targets(cluster: &Cluster) {
    let url = |url: &str| object("BackupTarget", "default", json!({"backupTargetURL": url}));
    let field = |field: &str, value: Value| object("BackupTarget", "default", json!({field: value}));
    check(
        cluster,
        vec![
            (url(""), &[]),
            (url("s3://backupbucket@us-east-1/"), &[]),
            (url("s3://backupbucket@us-east-1/some/folder/"), &[]),
            // B-13
            (
                url("s3://backupbucket@us-east-1"),
                &["backupTargetURL", "does not end with \"/\": write s3://backupbucket@us-east-1/"],
            ),
            (url("s3://backupbucket@us-east-1/a"), &["write s3://backupbucket@us-east-1/a/"]),
            // B-14
            (url("s3://backupbucket/"), &["names no region", "as in s3://backupbucket@us-east-1/"]),
            (url("s3://backupbucket"), &["names no region", "as in s3://backupbucket@us-east-1/"]),
            (url("s3://backupbucket@/"), &["names no region", "as in s3://backupbucket@us-east-1/"]),
            (url("s3://backupbucket/folder"), &["names no region", "as in s3://backupbucket@us-east-1/folder/"]),
            (url("s3://@us-east-1/"), &["names no bucket", "s3://bucket@region/path/"]),
            (url("gs://bucket/"), &["unsupported protocol \"gs\"", "allowed is s3://bucket@region/path/"]),
            (url("backupbucket"), &["has no protocol"]),
            (url("s3://backupbucket@us-east-1/ "), &["blank or a line end"]),
            (url("s3://backupbucket@us-east-1/\n"), &["blank or a line end"]),
            (url("s3://backupbucket@us-east-1/a,b/"), &["contains a character", "letters, digits"]),
            (url("s3://backupbucket@us-east-1/$a/"), &["contains a character"]),
            (url("s3://backupbucket@us-east-1/a//b/"), &["empty, \".\" or \"..\" part"]),
            (url("s3://backupbucket@us-east-1/a/../b/"), &["empty, \".\" or \"..\" part"]),
            // Each node would have a store of its own, and the manager an empty one.
            (url("file:///var/backups/"), &["every node has its own", "allowed is s3://bucket@region/path/"]),
            (url("file://server/folder/"), &["every node has its own"]),
            (url("nfs://longhorn-test-nfs-svc.default:/opt/backupstore"), &["nfs is not served yet", "allowed is s3://"]),
            (field("credentialSecret", json!("minio-secret")), &[]),
            (field("credentialSecret", json!("minio-secret\n")), &["spec.credentialSecret", "line ends"]),
            (field("pollInterval", json!("1h30m")), &[]),
            (field("pollInterval", json!("0")), &[]),
            (field("pollInterval", json!("300")), &["spec.pollInterval \"300\"", "5m0s"]),
            (field("pollInterval", json!("-5m")), &["spec.pollInterval \"-5m\"", "5m0s"]),
            (field("syncRequestedAt", Value::Null), &[]),
            (field("syncRequestedAt", json!("2026-01-07T12:34:56Z")), &[]),
            (field("syncRequestedAt", json!("soon")), &["spec.syncRequestedAt", "date-time"]),
            (object("BackupVolume", "bv", json!({"backupTargetName": "default", "volumeName": "vol"})), &[]),
            (
                object("BackupVolume", "bv2", json!({"backupTargetName": "", "volumeName": "vol"})),
                &["spec.backupTargetName is required"],
            ),
            (object("BackupVolume", "bv2", json!({"backupTargetName": "default"})), &["spec.volumeName", "Required"]),
        ],
    );
}

fn job(fields: Value) -> Value {
    let mut job = object("RecurringJob", "job", json!({"task": "backup", "cron": "0 0 * * *"}));
    for (name, value) in fields.as_object().unwrap() {
        job["spec"][name] = value.clone();
    }
    job
}

fn recurring_jobs(cluster: &Cluster) {
    let named = |name: &str| object("RecurringJob", name, json!({"task": "snapshot", "cron": "@daily"}));
    let forty = "a123456789b123456789c123456789d123456789";
    check(
        cluster,
        vec![
            (job(json!({})), &[]),
            // B-35
            (named("backup"), &[]),
            (named(forty), &[]),
            (named(&format!("{forty}e")), &["d123456789e", "40 characters or less"]),
            (named("Backup"), &["Backup", "lowercase"]),
            (job(json!({"name": forty})), &[]),
            (job(json!({"name": format!("{forty}e")})), &["spec.name", "40 characters or less"]),
            // B-36
            (job(json!({"task": "snapshot"})), &[]),
            (job(json!({"task": "filesystem-trim", "retain": 0})), &[]),
            (job(json!({"task": "backups"})), &["spec.task", "backups", "snapshot-cleanup", "\"backup\"", "\"snapshot\""]),
            (object("RecurringJob", "job", json!({"cron": "@daily"})), &["spec.task", "Required"]),
            // B-38
            (job(json!({"retain": 1})), &[]),
            (job(json!({"retain": 250})), &[]),
            (job(json!({"retain": 0})), &["spec.retain", "1 to 250"]),
            (job(json!({"retain": -1})), &["spec.retain", "-1", "greater than or equal to"]),
            (job(json!({"retain": 251})), &["spec.retain", "251", "less than or equal to 250"]),
            (job(json!({"concurrency": 0})), &[]),
            (job(json!({"concurrency": -1})), &["spec.concurrency", "-1"]),
            (job(json!({"retentionPolicy": "count-based", "retainAge": "24h"})), &[]),
            (job(json!({"retentionPolicy": "age-based"})), &["age-based", "count-based", "spec.retain"]),
            (job(json!({"retainAge": "-24h"})), &["spec.retainAge \"-24h\""]),
            (job(json!({"groups": ["default", "db_1"]})), &[]),
            (job(json!({"groups": ["default", "no spaces"]})), &["invalid group name \"no spaces\""]),
            (job(json!({"labels": {"app": "db", "empty": ""}})), &[]),
            (job(json!({"labels": {"example.com/tier": "gold"}})), &[]),
            (job(json!({"labels": {"no key": "x"}})), &["invalid label key \"no key\""]),
            (job(json!({"labels": {"Example.com/x": "x"}})), &["invalid label key \"Example.com/x\""]),
            (job(json!({"labels": {"app": "d b"}})), &["invalid label value \"d b\" for key \"app\""]),
            (job(json!({"parameters": {"full-backup-interval": "5", "volume-backup-policy": "always"}})), &[]),
            (job(json!({"parameters": {"full-backup-interval": "x"}})), &["full-backup-interval \"x\" is not a number"]),
            (job(json!({"parameters": {"volume-backup-policy": "x"}})), &["volume-backup-policy \"x\"", "if-not-present"]),
            (job(json!({"parameters": {"interval": "5"}})), &["\"interval\" is not a valid parameter", "full-backup-interval"]),
            (job(json!({"timeZone": "Europe/Berlin"})), &[]),
            (job(json!({"timeZone": "Etc/GMT+5"})), &[]),
            (job(json!({"timeZone": "+02:00"})), &["spec.timeZone \"+02:00\"", "IANA"]),
            (job(json!({"timeZone": "Local"})), &["spec.timeZone \"Local\"", "IANA"]),
            (job(json!({"groups": Value::Null, "labels": Value::Null, "parameters": Value::Null})), &[]),
        ],
    );
}

/// B-37
fn cron_lines(cluster: &Cluster) {
    let good = [
        "*/1 * * * *",
        "0 0 * * 0",
        "*/15 9-17 * * MON-FRI",
        "5/15 1,2,,3 ? jan,Feb sun",
        "59 23 31 12 6",
        " 00 007 01 1-12/2 0-6 ",
        "@hourly",
        "@annually",
    ];
    let bad: [(&str, &[&str]); 16] = [
        ("", &["five fields"]),
        ("* * * *", &["five fields"]),
        ("0 * * * * *", &["five fields", "none for seconds"]),
        ("60 * * * *", &["60 * * * *", "minute", "0 to 59"]),
        ("0 24 * * *", &["hour", "0 to 23"]),
        ("0 0 0 * *", &["day of month", "1 to 31"]),
        ("0 0 32 * *", &["day of month", "1 to 31"]),
        ("0 0 * 13 *", &["month", "JAN"]),
        ("0 0 * * 7", &["day of week", "0 (Sunday) to 6"]),
        ("0 0 L * *", &["day of month", "no L"]),
        ("0 0 * * 5#2", &["day of week"]),
        ("*/0 * * * *", &["minute", "steps"]),
        ("TZ=Asia/Tokyo 0 0 * * *", &["write spec.timeZone: \"Asia/Tokyo\""]),
        ("CRON_TZ=UTC @daily", &["write spec.timeZone: \"UTC\""]),
        ("@every 1h", &["intervals are not taken", "*/15 * * * *"]),
        ("@reboot", &["@hourly"]),
    ];
    // The schema and the scheduler agree; the scheduler looks closer.
    for cron in good {
        assert!(drover::schedule::Schedule::parse(cron, "").is_ok(), "{cron}");
    }
    for (cron, _) in bad {
        assert!(drover::schedule::Schedule::parse(cron, "").is_err(), "{cron}");
    }
    let good = good.iter().map(|cron| (job(json!({"cron": cron})), &[][..]));
    let bad = bad.iter().map(|(cron, words)| (job(json!({"cron": cron})), *words));
    check(cluster, good.chain(bad).collect());
}

fn volume(fields: Value) -> Value {
    let mut volume = object("Volume", "vol", json!({"size": "2147483648"}));
    for (name, value) in fields.as_object().unwrap() {
        volume["spec"][name] = value.clone();
    }
    volume
}

const BACKUP_URL: &str = "s3://backupbucket@us-east-1/?backup=backup-0123456789abcdef&volume=vol";

fn volumes(cluster: &Cluster) {
    let sixty_three = format!("v{}", "0".repeat(62));
    let named = |name: &str| object("Volume", name, json!({"size": "1073741824"}));
    check(
        cluster,
        vec![
            (volume(json!({})), &[]),
            (named(&sixty_three), &[]),
            (named(&format!("{sixty_three}0")), &["metadata.name", "2 to 63"]),
            (named("v"), &["metadata.name \"v\"", "2 to 63"]),
            (object("Volume", "none", json!({})), &["spec.size is required"]),
            (object("Volume", "none", json!({"size": "0"})), &["spec.size is required"]),
            (object("Volume", "restored", json!({"fromBackup": BACKUP_URL})), &[]),
            (volume(json!({"size": "2Gi"})), &["spec.size \"2Gi\"", "digits"]),
            (volume(json!({"size": "-1"})), &["spec.size \"-1\"", "digits"]),
            (volume(json!({"size": 2_147_483_648_u64})), &["spec.size", "string"]),
            (volume(json!({"size": "1000000000000000000000"})), &["spec.size"]),
            (volume(json!({"numberOfReplicas": 20})), &[]),
            (volume(json!({"numberOfReplicas": 0})), &["spec.numberOfReplicas", "0", "greater than or equal to 1"]),
            (volume(json!({"numberOfReplicas": 21})), &["spec.numberOfReplicas", "21", "less than or equal to 20"]),
            (
                object("Volume", "restored2", json!({"fromBackup": "s3://b@r/?backup=b1"})),
                &["cannot get backup and volume name", "s3://b@r/?backup=b1"],
            ),
            (object("Volume", "restored2", json!({"fromBackup": "s3://b@r/?volume=v&backup=b"})), &[]),
            (object("Volume", "restored3", json!({"fromBackup": "backup-1"})), &["status.url of a Backup"]),
            (volume(json!({"frontend": "blockdev", "accessMode": "rwx", "dataEngine": "v1"})), &[]),
            (volume(json!({"frontend": ""})), &[]),
            (volume(json!({"frontend": "iscsi"})), &["spec.frontend \"iscsi\"", "blockdev"]),
            (volume(json!({"frontend": "usb"})), &["spec.frontend", "usb"]),
            (volume(json!({"accessMode": "rwz"})), &["spec.accessMode", "rwz", "\"rwo\""]),
            (volume(json!({"backupCompressionMethod": "zstd"})), &["spec.backupCompressionMethod", "zstd", "\"lz4\""]),
            (volume(json!({"backupTargetName": ""})), &["spec.backupTargetName is required"]),
            (volume(json!({"snapshotMaxCount": 0})), &[]),
            (volume(json!({"snapshotMaxCount": 2})), &[]),
            (volume(json!({"snapshotMaxCount": 1})), &["spec.snapshotMaxCount is 1", "2 to 250"]),
            (volume(json!({"snapshotMaxCount": 251})), &["spec.snapshotMaxCount", "251"]),
            (volume(json!({"snapshotMaxSize": "0"})), &[]),
            (volume(json!({"snapshotMaxSize": "4294967296"})), &["spec.snapshotMaxSize is 4294967296", "not supported"]),
            (volume(json!({"restoreVolumeRecurringJob": "disabled"})), &[]),
            (
                volume(json!({"restoreVolumeRecurringJob": "enabled"})),
                &["spec.restoreVolumeRecurringJob enabled", "not supported"],
            ),
            (volume(json!({"freezeFilesystemForSnapshot": "enabled"})), &[]),
            (volume(json!({"freezeFilesystemForSnapshot": "yes"})), &["spec.freezeFilesystemForSnapshot", "enabled"]),
            (volume(json!({"encrypted": false, "Standby": false, "dataSource": "", "backingImage": ""})), &[]),
            (volume(json!({"encrypted": true})), &["spec.encrypted"]),
            (volume(json!({"Standby": true})), &["spec.Standby"]),
            (volume(json!({"dataSource": "vol://other"})), &["spec.dataSource \"vol://other\""]),
            (volume(json!({"backingImage": "debian"})), &["spec.backingImage \"debian\""]),
        ],
    );
}

fn backups_and_snapshots(cluster: &Cluster) {
    let backup = |spec: Value| object("Backup", "backup-1", spec);
    check(
        cluster,
        vec![
            (backup(json!({"snapshotName": "snap-1", "labels": {"a": "b"}})), &[]),
            (object("Backup", "b", json!({"snapshotName": "snap-1"})), &["metadata.name \"b\"", "2 to 243"]),
            (object("Backup", "backup-2", json!({"backupMode": "full", "backupBlockSize": "16777216"})), &[]),
            (
                object("Backup", "backup-3", json!({"backupMode": "differential"})),
                &["spec.backupMode", "differential", "\"full\""],
            ),
            (
                object("Backup", "backup-3", json!({"backupBlockSize": "4194304"})),
                &["spec.backupBlockSize", "4194304", "\"2097152\""],
            ),
            (object("Snapshot", "snap-1", json!({"volume": "vol", "createSnapshot": true, "labels": Value::Null})), &[]),
            (object("Snapshot", "snap-2", json!({"createSnapshot": true})), &["spec.volume", "Required"]),
            (object("Snapshot", "snap-2", json!({"volume": ""})), &["spec.volume is required"]),
        ],
    );
}

fn settings(cluster: &Cluster) {
    let without_value = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Setting", "metadata": {"name": "backup-target"}});
    check(
        cluster,
        vec![
            (setting("backup-target", "s3://backupbucket@us-east-1/"), &[]),
            (setting("freeze-filesystem-for-snapshot", r#"{"v1":"false"}"#), &[]),
            (setting("failed-backup-ttl", "0"), &[]),
            (setting("storage-over-provisioning-percentage", "200"), &[]),
            (setting("recurring-job-max-retention", "250"), &[]),
            (without_value, &["value", "Required"]),
            (setting("failed-backup-ttl", "1d"), &["failed-backup-ttl", "\"1d\"", "a whole number from 0 to 5256000"]),
            (setting("recurring-job-max-retention", "251"), &["\"251\"", "1 to 250"]),
            (setting("backup-concurrent-limit", "0"), &["\"0\"", "1 to 64"]),
            (setting("backupstore-poll-interval", "5m"), &["\"5m\"", "a whole number from 0"]),
            (setting("snapshot-max-count", "1"), &["\"1\"", "2 to 250"]),
            (setting("default-backup-block-size", "4"), &["\"4\"", "2, 16"]),
            (setting("backup-compression-method", "zstd"), &["zstd", "lz4"]),
            (setting("allow-recurring-job-while-volume-detached", "yes"), &["\"yes\"", "true or false"]),
            (setting("freeze-filesystem-for-snapshot", r#"{"v2":"true"}"#), &["allowed is true, false or {\"v1\":\"true\"}"]),
            (setting("backup-target-credential-secret", "Not_A_Name"), &["\"Not_A_Name\"", "the name of a Secret"]),
            // B-13, B-14
            (setting("backup-target", "s3://backupbucket@us-east-1"), &["write s3://backupbucket@us-east-1/"]),
            (setting("backup-target", "s3://backupbucket/"), &["names no region", "as in s3://backupbucket@us-east-1/"]),
            (setting("backup-target", "file:///var/backups/"), &["every node has its own"]),
            (setting("some-setting", "1"), &["setting some-setting does not exist", "failed-backup-ttl"]),
        ],
    );
}

/// The schema and the controllers take the same values of each setting.
async fn settings_agree(cluster: &Cluster) {
    let values = [
        "",
        "0",
        "1",
        "2",
        "16",
        "64",
        "65",
        "100",
        "101",
        "-1",
        "+5",
        "007",
        "250",
        "251",
        "5256000",
        "5256001",
        "31536000",
        "31536001",
        "10000000000",
        "true",
        "false",
        "True",
        "yes",
        r#"{"v1":"true"}"#,
        r#"{ "v2": "x", "v1": "false" }"#,
        r#"{"v2":"true"}"#,
        r#"{"v1":"x"}"#,
        r#"{"v1":true}"#,
        "lz4",
        "zstd",
        "minio-secret",
        "a.b",
        "a..b",
        "Not_A_Name",
        "s3://backupbucket@us-east-1/",
        "s3://backupbucket@us-east-1",
        "s3://backupbucket/",
        "s3://backupbucket@us-east-1/a//b/",
        "nfs://server:/path",
        "file:///folder/",
        " ",
    ];
    let settings = kube::Api::<Setting>::namespaced(cluster.client(), cluster.namespace());
    let try_only = PostParams { dry_run: true, ..PostParams::default() };
    // Some are there by now; a name of the API server's own making would be no setting.
    let all: Vec<_> = settings.list(&Default::default()).await.unwrap().items;
    for old in all {
        settings.delete(&old.metadata.name.unwrap(), &Default::default()).await.unwrap();
    }
    for definition in drover::crd::definitions::ALL {
        for value in values {
            let taken = settings.create(&try_only, &Setting::new(definition.name, value)).await;
            let sound = definition.check(value);
            assert_eq!(taken.is_ok(), sound.is_ok(), "{} {value:?}: {taken:?} but {sound:?}", definition.name);
        }
    }
}

fn changes(cluster: &Cluster) {
    let volume = |name: &str, spec: Value| object("Volume", name, spec);
    let sized = |size: &str| volume("sized", json!({"size": size}));
    let backup = |name: &str, spec: Value| object("Backup", name, spec);
    check_changes(
        cluster,
        vec![
            (sized("1073741824"), sized("2147483648"), &[]),
            (sized("2147483648"), sized("999999999"), &["shrinking volume size from 2147483648 to 999999999 is not supported"]),
            (sized("2147483648"), volume("sized", json!({"size": ""})), &["shrinking volume size"]),
            // What the manager fills in for a restored volume.
            (
                volume("filled", json!({"fromBackup": BACKUP_URL})),
                volume("filled", json!({"fromBackup": BACKUP_URL, "size": "1073741824"})),
                &[],
            ),
            (
                volume("filled", json!({"fromBackup": BACKUP_URL, "size": "1073741824"})),
                volume("filled", json!({"size": "1073741824"})),
                &["spec.fromBackup cannot be changed", "backup-0123456789abcdef"],
            ),
            (
                volume("late", json!({"size": "1073741824"})),
                volume("late", json!({"size": "1073741824", "fromBackup": BACKUP_URL})),
                &["spec.fromBackup cannot be changed"],
            ),
            (
                volume("blocks", json!({"size": "1073741824"})),
                volume("blocks", json!({"size": "1073741824", "backupBlockSize": "16777216"})),
                &[],
            ),
            (
                volume("blocks", json!({"size": "1073741824", "backupBlockSize": "16777216"})),
                volume("blocks", json!({"size": "1073741824", "backupBlockSize": "2097152"})),
                &["changing backup block size", "16777216"],
            ),
            (
                backup("fixed", json!({"snapshotName": "one", "backupMode": "full"})),
                backup("fixed", json!({"snapshotName": "two", "backupMode": "full"})),
                &["spec.snapshotName cannot be changed", "\"one\"", "\"two\""],
            ),
            (
                backup("fixed", json!({"snapshotName": "one", "backupMode": "full"})),
                backup("fixed", json!({"snapshotName": "one", "backupMode": "incremental"})),
                &["spec.backupMode cannot be changed"],
            ),
            (
                backup("usual", json!({"snapshotName": "one"})),
                backup("usual", json!({"snapshotName": "one", "backupMode": "incremental"})),
                &[],
            ),
            (
                object("Snapshot", "moved", json!({"volume": "vol-1"})),
                object("Snapshot", "moved", json!({"volume": "vol-2"})),
                &["spec.volume cannot be changed", "vol-1", "vol-2"],
            ),
            (
                object("BackupVolume", "moved", json!({"backupTargetName": "default", "volumeName": "vol"})),
                object("BackupVolume", "moved", json!({"backupTargetName": "default", "volumeName": "vol-2"})),
                &["spec.volumeName cannot be changed"],
            ),
        ],
    );
}

/// Manifests as Longhorn's own tools write them are taken as they are, and lose nothing.
fn longhorns_manifests(cluster: &Cluster) {
    let spec = json!({
        "Standby": false, "accessMode": "rwo", "backingImage": "", "backupCompressionMethod": "lz4", "backupTargetName": "default",
        "backupBlockSize": "2097152", "dataEngine": "v1", "dataLocality": "disabled", "dataSource": "", "disableFrontend": false, "diskSelector": [],
        "encrypted": false, "freezeFilesystemForSnapshot": "ignored", "fromBackup": "", "frontend": "blockdev",
        "image": "longhornio/longhorn-engine:v1.12.1", "lastAttachedBy": "", "migratable": false, "migrationNodeID": "", "nodeID": "",
        "nodeSelector": [], "numberOfReplicas": 3, "offlineRebuilding": "ignored", "replicaAutoBalance": "ignored",
        "replicaDiskSoftAntiAffinity": "ignored", "replicaSoftAntiAffinity": "ignored", "replicaZoneSoftAntiAffinity": "ignored",
        "restoreVolumeRecurringJob": "ignored", "revisionCounterDisabled": true, "size": "10737418240", "snapshotDataIntegrity": "ignored",
        "snapshotMaxCount": 250, "snapshotMaxSize": "0", "staleReplicaTimeout": 20, "unmapMarkSnapChainRemoved": "ignored",
    });
    cluster.apply(&object("Volume", "pvc-from-longhorn", spec.clone()).to_string());
    assert_eq!(cluster.get("volumes.longhorn.io", "pvc-from-longhorn")["spec"], spec);
    let job = json!({
        "concurrency": 2, "cron": "*/2 * * * *", "groups": ["default"], "labels": {}, "name": "backup-1", "parameters": {}, "retain": 3,
        "task": "backup",
    });
    cluster.apply(&object("RecurringJob", "backup-1", job.clone()).to_string());
    assert_eq!(cluster.get("recurringjobs.longhorn.io", "backup-1")["spec"], job);
    let node = json!({
        "name": "node-1", "allowScheduling": true, "evictionRequested": false, "instanceManagerCPURequest": 0, "tags": [],
        "disks": {"default-disk-1": {"allowScheduling": true, "diskDriver": "", "diskType": "filesystem", "evictionRequested": false,
                  "path": "/var/lib/longhorn/", "storageReserved": 0, "tags": []}},
    });
    cluster.apply(&object("Node", "node-1", node.clone()).to_string());
    assert_eq!(cluster.get("nodes.longhorn.io", "node-1")["spec"], node);
}

/// The two columns that Longhorn has wrong show what they should.
fn columns(cluster: &Cluster) {
    let set_status = |kind: &str, name: &str, status: Value| {
        let patch = json!({"status": status}).to_string();
        cluster.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
    };
    let condition = json!({"type": "Scheduled", "status": "True", "reason": "Placed", "message": "", "lastTransitionTime": "2026-01-07T12:34:56Z"});
    set_status("volumes.longhorn.io", "vol", json!({"state": "attached", "robustness": "healthy", "conditions": [condition]}));
    let cell = |kind: &str, name: &str, column: &str| {
        let table = cluster.kubectl(&["get", kind, name]);
        let mut lines = table.lines();
        let at = lines.next().unwrap().find(column).unwrap_or_else(|| panic!("no column {column}:\n{table}"));
        lines.next().unwrap()[at..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(cell("lhv", "vol", "SCHEDULED"), "True");
    assert_eq!(cell("lhv", "vol", "STATE"), "attached");
    cluster
        .apply(&object("BackupTarget", "columns", json!({"backupTargetURL": "s3://b-1@r/", "pollInterval": "7m0s"})).to_string());
    set_status("backuptargets.longhorn.io", "columns", json!({"available": true, "lastSyncedAt": "2026-01-07T12:34:56Z"}));
    assert_eq!(cell("lhbt", "columns", "POLLINTERVAL"), "7m0s");
    assert_eq!(cell("lhbt", "columns", "LASTSYNCEDAT"), "2026-01-07T12:34:56Z");
}
