//! The main job, end to end: a schedule backs up a database in use, and it comes back whole.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::agent_rig::MI;
use crate::support::eventually_blocking;
use crate::support::pool::Mounted;
use crate::support::postgres::Postgres;
use crate::support::run;
use crate::system_rig::System;

const SIZE: u64 = 768 * MI;

fn folder(system: &System, name: &str) -> std::path::PathBuf {
    system.rig.devices.parent().unwrap().join(name)
}

/// The names of the completed backups, oldest first.
fn completed(system: &System) -> Vec<Value> {
    let mut backups = system.rig.cluster.list("backups.longhorn.io");
    backups.retain(|backup| backup["status"]["state"] == "Completed" && backup["metadata"]["deletionTimestamp"].is_null());
    backups.sort_by_key(|backup| backup["status"]["snapshotCreatedAt"].as_str().unwrap().to_owned());
    backups
}

fn file_system_is_clean(device: &Path) {
    run(Command::new("e2fsck").arg("-fn").arg(device));
}

/// B-25, B-26, B-36: by the clock, each minute; the snapshot of the run is there with its backup, and one is kept.
#[test]
fn a_postgresql_under_load_comes_back_whole_from_a_scheduled_backup() {
    let system = System::start(4096 * MI);
    let device = system.attached_volume("pgdata", SIZE, Some("minutely"), "");
    run(Command::new("mkfs.ext4").arg("-q").arg(&device));
    let at = folder(&system, "volume");
    let mounted = Mounted::new(&device, &at);
    let server = Postgres::create(&mounted, 2, &folder(&system, "postgres.log"));
    let _load = server.load(Duration::from_secs(600));
    system.job("minutely", "*/1 * * * *", 1);

    let backup = eventually_blocking(Duration::from_secs(300), "the second backup replaced the first", || {
        let retired = system.rig.events("minutely", "Retired");
        match (completed(&system).as_slice(), retired.is_empty()) {
            ([backup], false) => Ok(backup.clone()),
            (backups, _) => Err(format!("{} completed, {retired:?}", backups.len())),
        }
    });
    let snapshot = system.rig.get("Snapshot", backup["spec"]["snapshotName"].as_str().unwrap());
    assert_eq!(snapshot["status"]["readyToUse"], true, "{snapshot}");
    assert!(snapshot["status"]["stallMilliseconds"].as_i64().is_some(), "{snapshot}");

    let url = backup["status"]["url"].as_str().unwrap();
    let restored = system.attached_volume("restored", SIZE, None, url);
    file_system_is_clean(&restored);
    let at = folder(&system, "restored");
    let mounted = Mounted::new(&restored, &at);
    let copy = Postgres::start(&mounted, &folder(&system, "restored.log"));
    let kept = copy.check().unwrap();
    let all: u64 = server.query("select count(*) from pgbench_history").parse().unwrap();
    assert!(0 < kept && kept < all, "{kept} of {all} transactions");
    copy.stop();
}
