//! The main job, end to end: a schedule backs up a database in use, and it comes back whole.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::agent_rig::{MI, SOON, TRANSFER, sum, write_random};
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
    let load = server.load(Duration::from_secs(600));
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
    drop(load);
    server.stop();
}

/// B-27: left out and told by default; with the setting the node's file is read, and nothing is attached.
#[test]
fn a_detached_volume_is_left_out_visibly_or_backed_up_without_attaching_it() {
    let system = System::start(1024 * MI);
    let size = 32 * MI;
    let device = system.attached_volume("resting", size, Some("nightly"), "");
    write_random(&device, 4 * MI, 8 * MI);
    let wanted = sum(&device);
    system.rig.attach("resting", false);
    system.rig.wait("Volume", "resting", "state", "detached", SOON);
    let now = Timestamp::now().as_second();
    let first = Timestamp::from_second(now - now % 60 - 3600).unwrap();
    system.job("nightly", "0 0 1 1 *", 2);

    system.make_due("nightly", first);
    let status = system.run_over("nightly", first, SOON);
    assert_eq!(status["lastRun"]["outcome"], "Skipped", "{status}");
    let notes = eventually_blocking(SOON, "the skip is told", || system.rig.events("nightly", "RunSkipped").pop().ok_or("none"));
    assert!(notes.contains("resting") && notes.contains("allow-recurring-job-while-volume-detached"), "{notes}");
    assert!(system.names("snapshots").is_empty() && system.names("backups").is_empty());

    system.rig.kubectl(&[
        "patch",
        "settings.longhorn.io",
        "allow-recurring-job-while-volume-detached",
        "--type=merge",
        "--patch",
        r#"{"value":"true"}"#,
    ]);
    let second = first + SignedDuration::from_mins(1);
    system.make_due("nightly", second);
    let status = system.run_over("nightly", second, TRANSFER);
    assert_eq!(status["lastRun"]["outcome"], "Succeeded", "{status}");
    let volume = system.rig.get("Volume", "resting");
    assert_eq!(volume["status"]["state"], "detached", "{volume}");
    assert!(system.rig.events("resting", "Attached").len() <= 1, "the device came back for the backup");
    let backup = completed(&system).remove(0);
    let restored = system.attached_volume("restored", size, None, backup["status"]["url"].as_str().unwrap());
    assert_eq!(sum(&restored), wanted);
}
