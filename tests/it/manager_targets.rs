//! The manager with a real API server and MinIO: targets, the catalogue, settings, Backups that users apply, and who may delete.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::manager_rig::{BLOCK, SOON, URL, World, object};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::proxy::Verb;

#[tokio::test]
async fn b10_b11_b17_b20_b21_the_target_says_what_is_wrong_and_works_once_the_secret_is_right() {
    let world = World::new("secret").await;
    world.unavailable("backup target URL is empty").await;
    assert_eq!(world.events("Unavailable"), 0, "an empty URL is no fault");
    // The right Secret, in another namespace.
    let elsewhere = format!("{}-elsewhere", world.cluster.namespace());
    world.cluster.kubectl(&["create", "namespace", &elsewhere]);
    let secret = ["create", "secret", "generic", "minio-secret", "--namespace", &elsewhere];
    let values: Vec<String> = world
        .minio
        .secret(&[])
        .into_iter()
        .map(|(key, value)| format!("--from-literal={key}={}", String::from_utf8(value).unwrap()))
        .collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    world.cluster.kubectl(&[&secret[..], &values].concat());
    world.target(json!({ "backupTargetURL": URL, "credentialSecret": "minio-secret", "pollInterval": "0" }));
    let ours = world.cluster.namespace();
    world
        .unavailable(&format!("there is no Secret \"minio-secret\" in namespace \"{ours}\", which is the only one searched"))
        .await;
    world.secret(&[("AWS_SECRET_ACCESS_KEY", "longhorn-test-secret-key\n")]);
    world.unavailable("invalid trailing newline in AWS_SECRET_ACCESS_KEY").await;
    world.secret(&[("AWS_SECRET_ACCESS_KEY", "some-wrong-key")]);
    world.unavailable("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY").await;
    let manager = world.manager.process.pid();
    world.secret(&[]);
    world.available().await;
    assert_eq!(world.manager.process.pid(), manager);
    assert_eq!((world.events("Unavailable"), world.events("Available")), (1, 1), "Events tell of changes only");
    assert_eq!(world.manager.metric("drover_backup_target_available{backup_target=\"default\"}"), Some(1.0));
    // B-18: an empty store is no error.
    assert!(world.cluster.list("backupvolumes").is_empty());
    assert!(!world.manager.process.log().contains("longhorn-test-secret-key"));
}

#[tokio::test]
async fn b12_b16_the_alias_settings_and_the_target_are_one_truth() {
    let mut world = World::new("alias").await;
    let setting = |world: &World, name: &str| world.cluster.get("setting", name)["value"].as_str().map(str::to_owned);
    let say = |world: &World, name: &str, value: &str| world.merge("setting", name, &json!({ "value": value }));
    let spec = |world: &World, field: &str| world.cluster.get("backuptarget", "default")["spec"][field].clone();
    eventually(SOON, "the settings are there", async || setting(&world, "failed-backup-ttl").ok_or("none")).await;
    assert_eq!(setting(&world, "backup-compression-method").as_deref(), Some("lz4"));

    say(&world, "backup-target", URL);
    say(&world, "backup-target-credential-secret", "minio-secret");
    say(&world, "backupstore-poll-interval", "60");
    eventually(SOON, "the settings reach the target", async || {
        let seen = json!([spec(&world, "backupTargetURL"), spec(&world, "credentialSecret"), spec(&world, "pollInterval")]);
        if seen == json!([URL, "minio-secret", "1m0s"]) { Ok(()) } else { Err(seen) }
    })
    .await;
    world.merge("backuptarget", "default", &json!({ "spec": { "pollInterval": "2m0s" } }));
    eventually(SOON, "the target reaches the setting", async || {
        let value = setting(&world, "backupstore-poll-interval").unwrap();
        if value == "120" { Ok(()) } else { Err(value) }
    })
    .await;

    // B-13, B-14: refused with the correction, and the target stays as it is.
    for (url, corrected) in [
        ("s3://backupbucket@us-east-1", "write s3://backupbucket@us-east-1/"),
        ("s3://backupbucket/", "as in s3://backupbucket@us-east-1/"),
    ] {
        let patch = json!({ "value": url }).to_string();
        let refusal =
            world.cluster.try_kubectl(&["patch", "setting", "backup-target", "--type=merge", "-p", &patch]).unwrap_err();
        assert!(refusal.contains(corrected), "{refusal}");
    }
    assert_eq!(setting(&world, "backup-target").as_deref(), Some(URL));
    assert_eq!(spec(&world, "backupTargetURL"), URL);

    // Both edited while nobody looked.
    world.manager.process.kill();
    say(&world, "backup-target-credential-secret", "mine");
    world.merge("backuptarget", "default", &json!({ "spec": { "credentialSecret": "yours" } }));
    world.manager.restart();
    world.event("Setting", "SettingConflict").await;
    assert_eq!(setting(&world, "backup-target-credential-secret").as_deref(), Some("yours"));
    assert_eq!(spec(&world, "credentialSecret"), "yours");
}

#[tokio::test]
async fn b2_a_store_is_shown_as_objects_and_what_it_loses_goes_from_the_objects_only() {
    let world = World::new("catalogue").await;
    world.put_backup("vol-1", "backup-a", b"ab").await;
    world.put_backup("vol-1", "backup-b", b"ac").await;
    world.put_backup("vol-2", "backup-c", b"x").await;
    let folder =
        world.minio.keys().into_iter().find(|key| key.contains("vol-2/backups/")).unwrap().replace("backup_backup-c.cfg", "");
    world
        .minio
        .put(&format!("{folder}backup_in-progress.cfg"), br#"{"Name":"in-progress","VolumeName":"vol-2","CreatedTime":""}"#);
    world.minio.put(&format!("{folder}backup_damaged.cfg"), b"{not json");
    world.minio.put(&format!("{folder}backup_.hidden..cfg"), b"{}");
    world.ready().await;

    let mut names = world.names("backups", 3).await;
    names.sort();
    assert_eq!(names, ["backup-a", "backup-b", "backup-c"]);
    let backup = world.state("backup-a", "Completed").await;
    assert_eq!(backup["metadata"]["labels"]["drover.io/from-store"], "true");
    assert_eq!(backup["metadata"]["labels"]["RecurringJob"], "nightly");
    assert_eq!(backup["spec"]["snapshotName"], "snap-backup-a");
    assert_eq!(backup["status"]["url"], format!("{URL}?backup=backup-a&volume=vol-1"));
    assert_eq!(backup["status"]["volumeSize"], (2 * BLOCK).to_string());
    world.names("backupvolumes", 2).await;
    eventually(SOON, "the volumes are described", async || {
        let volumes = world.cluster.list("backupvolumes");
        let of = |name: &str| volumes.iter().find(|v| v["spec"]["volumeName"] == name).unwrap()["status"].clone();
        let (first, second) = (of("vol-1"), of("vol-2"));
        let damaged = second["messages"]["damaged"].as_str().is_some_and(|message| message.contains("damaged"));
        if first["lastBackupName"] == "backup-b" && damaged { Ok(()) } else { Err(format!("{first} {second}")) }
    })
    .await;

    // Idle: the listing, and one for each volume; the damaged config is looked at again.
    let lists =
        || world.manager.metric("drover_store_requests_total{backup_target=\"default\",verb=\"list\"}").unwrap_or_default();
    eventually(SOON, "the requests are counted by verb", async || if lists() >= 1.0 { Ok(()) } else { Err(lists()) }).await;
    let before = lists();
    world.proxy.forget();
    world.sync().await;
    eventually(SOON, "so are the new ones", async || if lists() > before { Ok(()) } else { Err(lists()) }).await;
    assert!(world.proxy.count(Verb::List) <= 12, "{:#?}", world.proxy.seen());
    world.proxy.forget();
    world.minio.delete(&format!("{folder}backup_backup-c.cfg"));
    world.sync().await;
    world.gone("backup", "backup-c").await;
    let deletes: Vec<_> =
        world.proxy.seen().into_iter().filter(|r| r.verb() == Verb::Delete && !r.target.contains("/drover/")).collect();
    assert!(deletes.is_empty(), "{deletes:#?}");
    world.state("backup-a", "Completed").await;
}

#[tokio::test]
async fn deleting_an_object_deletes_its_data_and_nothing_that_another_backup_needs() {
    let world = World::new("delete").await;
    world.put_backup("vol-1", "backup-a", b"ab").await;
    world.put_backup("vol-1", "backup-b", b"ac").await;
    world.ready().await;
    world.names("backups", 2).await;
    assert_eq!(world.stored(".blk"), 3);
    world.cluster.kubectl(&["delete", "backup", "backup-b", "--wait=false"]);
    world.gone("backup", "backup-b").await;
    assert_eq!((world.stored("backup_backup-b.cfg"), world.stored("backup_backup-a.cfg"), world.stored(".blk")), (0, 1, 2));
    world.event("Backup", "Deleted").await;
    eventually(SOON, "the volume shows the one that is left", async || {
        let status = world.cluster.list("backupvolumes")[0]["status"].clone();
        if status["lastBackupName"] == "backup-a" { Ok(()) } else { Err(status) }
    })
    .await;

    // A damaged config names nobody knows which blocks: they stay, and that is told.
    world.put_backup("vol-1", "backup-d", b"d").await;
    world.sync().await;
    world.state("backup-d", "Completed").await;
    let config = world.minio.keys().into_iter().find(|key| key.ends_with("backup_backup-a.cfg")).unwrap();
    let folder = config.replace("backup_backup-a.cfg", "");
    world.minio.put(&format!("{folder}backup_damaged.cfg"), b"{not json");
    let blocks = world.stored(".blk");
    world.cluster.kubectl(&["delete", "backup", "backup-d", "--wait=false"]);
    world.gone("backup", "backup-d").await;
    assert_eq!(world.stored(".blk"), blocks);
    assert!(world.event("Backup", "GarbageLeft").await.contains("the config of backup damaged is damaged"));
    world.minio.delete(&format!("{folder}backup_damaged.cfg"));

    // The label keeps the data, and the next listing shows it again.
    world.cluster.kubectl(&["label", "backup", "backup-a", "longhorn.io/delete-custom-resource-only=true"]);
    world.cluster.kubectl(&["delete", "backup", "backup-a", "--wait=false"]);
    world.gone("backup", "backup-a").await;
    world.event("Backup", "KeptInStore").await;
    assert_eq!(world.stored("backup_backup-a.cfg"), 1);
    world.sync().await;
    world.state("backup-a", "Completed").await;

    let volume = world.names("backupvolumes", 1).await.remove(0);
    world.cluster.kubectl(&["delete", "backupvolume", &volume, "--wait=false"]);
    world.gone("backupvolume", &volume).await;
    world.gone("backup", "backup-a").await;
    assert_eq!(world.stored("vol-1"), 0, "{:?}", world.minio.keys());
}

#[tokio::test]
async fn a_deletion_waits_for_its_store_and_ends_when_the_target_is_deleted() {
    let mut world = World::new("waiting").await;
    for backup in ["backup-a", "backup-b"] {
        world.put_backup("vol-1", backup, b"a").await;
    }
    world.ready().await;
    world.names("backups", 2).await;
    world.minio.stop();
    world.cluster.kubectl(&["delete", "backup", "backup-a", "--wait=false"]);
    let waiting = world.state("backup-a", "Deleting").await;
    assert!(!waiting["metadata"]["deletionTimestamp"].is_null());
    eventually(SOON, "it says why it waits", async || {
        let messages = world.cluster.get("backup", "backup-a")["status"]["messages"].clone();
        if messages.is_object() { Ok(()) } else { Err(messages) }
    })
    .await;
    world.minio.resume();
    eventually(Duration::from_secs(90), "it is gone", async || {
        let found = world.cluster.get("backup", "backup-a");
        if found.is_null() { Ok(()) } else { Err(found["status"].to_string()) }
    })
    .await;
    assert_eq!((world.stored("backup_backup-a.cfg"), world.stored("backup_backup-b.cfg")), (0, 1));

    // A Secret that is gone: it waits, visibly.
    world.cluster.kubectl(&["delete", "secret", "minio-secret"]);
    world.unavailable("there is no Secret").await;
    world.cluster.kubectl(&["delete", "backup", "backup-b", "--wait=false"]);
    world.event("Backup", "DeletionWaiting").await;
    world.cluster.kubectl(&["delete", "backuptarget", "default", "--wait=false"]);
    world.gone("backup", "backup-b").await;
    world.event("Backup", "KeptInStore").await;
    assert_eq!(world.stored("backup_backup-b.cfg"), 1);
    world.unavailable("backup target URL is empty").await;
}

#[tokio::test]
async fn a_swapped_store_is_noticed_and_believed_only_after_the_users_word() {
    let world = World::new("swapped").await;
    world.put_backup("vol-1", "backup-a", b"ab").await;
    world.ready().await;
    world.names("backups", 1).await;
    for key in world.minio.keys() {
        world.minio.delete(&key);
    }
    world.proxy.forget();
    let at = Timestamp::now().to_string();
    world.merge("backuptarget", "default", &json!({ "spec": { "syncRequestedAt": at } }));
    world.unavailable("drover.io/confirm-store-id=none").await;
    world.event("BackupTarget", "StoreChanged").await;
    // A deletion must not reach what is not the store of that backup either.
    world.cluster.kubectl(&["delete", "backup", "backup-a", "--wait=false"]);
    world.event("Backup", "DeletionWaiting").await;
    assert_eq!(world.cluster.list("backups").len(), 1);
    assert_eq!(world.cluster.list("backupvolumes").len(), 1);
    assert_eq!((world.proxy.count(Verb::Delete), world.proxy.count(Verb::Put)), (0, 0), "{:#?}", world.proxy.seen());
    world.cluster.kubectl(&["annotate", "backuptarget", "default", "drover.io/confirm-store-id=none"]);
    world.available().await;
    world.names("backups", 0).await;
    world.names("backupvolumes", 0).await;
    assert!(world.cluster.get("backuptarget", "default")["metadata"]["annotations"]["drover.io/confirm-store-id"].is_null());
}

#[tokio::test]
async fn b5_an_applied_backup_is_checked_waits_in_words_and_is_given_to_the_volumes_node() {
    let world = World::with(Cluster::shared("applied").await, &["--agent-timeout=3000"]);
    world.cluster.apply(&object("Backup", "orphan", json!({ "snapshotName": "nowhere" })).to_string());
    let failed = world.state("orphan", "Error").await;
    assert!(failed["status"]["error"].as_str().unwrap().starts_with("Failed to get the Snapshot nowhere"), "{failed}");
    assert_eq!(failed["status"]["messages"]["error"], failed["status"]["error"]);
    assert!(world.cluster.list("snapshots").is_empty(), "a snapshot is never made for it");
    world.event("Backup", "Error").await;

    let volume = json!({ "size": "2097152", "numberOfReplicas": 1, "frontend": "blockdev" });
    let mut volume = object("Volume", "vol-1", volume);
    volume["metadata"]["labels"] = json!({ "longhornnode": "node-1" });
    world.cluster.apply(&volume.to_string());
    world.cluster.apply(&object("Snapshot", "snap-1", json!({ "volume": "vol-1", "createSnapshot": true })).to_string());
    world.cluster.apply(&object("Backup", "backup-1", json!({ "snapshotName": "snap-1" })).to_string());
    let info = |words: &'static str| {
        let world = &world;
        async move {
            eventually(SOON, words, async || {
                let found = world.cluster.get("backup", "backup-1");
                let message = found["status"]["messages"]["info"].as_str().unwrap_or_default().to_owned();
                if message.contains(words) && found["status"]["state"] == "Pending" { Ok(()) } else { Err(found.to_string()) }
            })
            .await;
        }
    };
    info("backup target default is not available: backup target URL is empty").await;
    world.ready().await;
    info("Waiting for the snapshot snap-1 to be ready").await;
    world.merge_status("snapshot", "snap-1", &json!({ "readyToUse": true, "userCreated": true, "size": 0, "restoreSize": 0 }));
    info("Waiting for the agent of node node-1").await;
    let given = world.cluster.get("backup", "backup-1");
    let labels = &given["metadata"]["labels"];
    assert_eq!(
        (&labels["longhornnode"], &labels["backup-volume"], &labels["backup-target"]),
        (&json!("node-1"), &json!("vol-1"), &json!("default"))
    );
    assert_eq!(given["metadata"]["finalizers"], json!(["longhorn.io"]));
    // No agent ever comes.
    let lost = world.state("backup-1", "Error").await;
    assert!(lost["status"]["error"].as_str().unwrap().contains("the agent of node node-1 has given no sign of life"), "{lost}");
    assert_eq!(world.manager.metric("longhorn_backup_state{volume=\"vol-1\",backup=\"backup-1\",recurring_job=\"\"}"), Some(4.0));

    // failed-backup-ttl: what failed a day and more ago goes.
    world.merge_status("backup", "backup-1", &json!({ "completedAt": "2020-01-01T00:00:00Z" }));
    world.merge("setting", "failed-backup-ttl", &json!({ "value": "1439" }));
    world.gone("backup", "backup-1").await;
    assert!(world.event("Backup", "FailedBackupRemoved").await.contains("no sign of life"));
    assert_eq!(world.manager.metric("longhorn_backup_state{volume=\"vol-1\",backup=\"backup-1\",recurring_job=\"\"}"), None);
}

#[tokio::test]
async fn every_line_of_a_json_log_is_a_json_object() {
    let mut world = World::with(Cluster::shared("json").await, &["--log-format=json"]);
    world.ready().await;
    let status = world.manager.process.stop(SOON);
    assert!(status.success());
    let log = world.manager.process.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let leading = lines.iter().find(|line| line["message"] == "leading").expect("a line of our own");
    assert_eq!(leading["level"], "INFO");
    assert!(leading["timestamp"].as_str().is_some_and(|time| time.parse::<Timestamp>().is_ok()), "{leading}");
}

#[tokio::test]
async fn a_manager_that_loses_its_lease_ends_and_another_one_takes_over() {
    let mut world = World::new("lease").await;
    world.unavailable("backup target URL is empty").await;
    let stolen = json!({ "spec": { "holderIdentity": "somebody-else" } });
    world.merge("lease", "drover-manager", &stolen);
    let status = world.manager.process.wait(SOON);
    assert!(!status.success());
    assert!(world.manager.process.log().contains("lease was lost"));

    // Asked to stop, it hands the lease on at once.
    world.merge("lease", "drover-manager", &json!({ "spec": { "holderIdentity": "" } }));
    world.manager.restart();
    world.ready().await;
    let status = world.manager.process.stop(SOON);
    assert!(status.success(), "{}", world.manager.process.log());
    assert_eq!(world.cluster.get("lease", "drover-manager")["spec"]["holderIdentity"], "");
}
