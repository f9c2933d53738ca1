//! The agent's main way on real servers: volume, snapshot, backup, restore, and what must be refused.

use std::time::Duration;

use serde_json::Value;

use crate::agent_rig::{MI, Rig, SOON, TRANSFER, sum, write_random};
use crate::support::eventually_blocking;
use crate::support::proxy::{Fault, Verb};

const SIZE: u64 = 256 * MI;

/// B-1, B-6: each of three snapshots comes back as it was, also the one that was backed up after newer ones.
#[test]
fn any_snapshot_can_be_backed_up_and_comes_back_byte_for_byte() {
    let rig = Rig::start(4096 * MI);
    let device = rig.attached_volume("data", SIZE);
    let mut sums = Vec::new();
    for (i, snapshot) in ["s1", "s2", "s3"].into_iter().enumerate() {
        write_random(&device, 16 * MI * i as u64, 32 * MI);
        sums.push(sum(&device));
        let ready = rig.ready_snapshot(snapshot, "data");
        assert_eq!(ready["status"]["restoreSize"], SIZE);
        assert!(!ready["status"]["snapshotId"].as_str().unwrap().is_empty());
    }
    write_random(&device, 128 * MI, 8 * MI);
    let backups: Vec<Value> = [("b1", "s1"), ("b3", "s3"), ("b2", "s2")]
        .into_iter()
        .map(|(backup, snapshot)| rig.completed_backup(backup, snapshot))
        .collect();
    let status = &backups[0]["status"];
    assert_eq!(status["progress"], 100);
    assert_eq!(status["volumeName"], "data");
    assert_eq!(status["snapshotName"], "s1");
    assert_eq!(status["labels"]["team"], "blue");
    assert_eq!(status["compressionMethod"], "lz4");
    assert!(status["url"].as_str().unwrap().ends_with("?backup=b1&volume=data"), "{status}");
    for (backup, sum) in backups.iter().zip([&sums[0], &sums[2], &sums[1]]) {
        let name = backup["metadata"]["name"].as_str().unwrap();
        assert_eq!(&rig.restored_sum(&format!("from-{name}"), SIZE, backup["status"]["url"].as_str().unwrap()), sum, "{name}");
    }
    let volume = rig.wait("Volume", "data", "lastBackup", "b3", SOON);
    assert_eq!(volume["status"]["robustness"], "healthy");
    eventually_blocking(SOON, "an Event tells of each backup", || match rig.events("data", "Completed").len() {
        3 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert!(rig.events("data", "Completed").iter().any(|note| note.starts_with("Snapshot s2 backup b2 label map[team:blue]")));
    assert_eq!(rig.events("from-b2", "Restored").len(), 1);
}

/// B-3: the object is taken at once, progress only grows and is seen on its way.
#[test]
fn a_backup_shows_its_progress_from_nothing_to_all() {
    let rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    rig.ready_snapshot("s1", "data");
    rig.proxy.inject(Fault::Delay(Duration::from_millis(400)), usize::MAX, |method, target| {
        method == "PUT" && target.contains("/blocks/")
    });
    rig.backup("b1", "s1");
    let mut seen = Vec::new();
    eventually_blocking(TRANSFER, "the backup completes", || {
        let status = rig.get("Backup", "b1")["status"].take();
        let progress = status["progress"].as_i64().unwrap_or(0);
        seen.push((status["state"].as_str().unwrap_or("").to_owned(), progress));
        if status["state"] == "Completed" { Ok(()) } else { Err(status.to_string()) }
    });
    assert!(seen.iter().map(|(_, progress)| progress).is_sorted(), "{seen:?}");
    assert!(seen.iter().any(|(state, progress)| state == "InProgress" && (1..100).contains(progress)), "{seen:?}");
    assert_eq!(seen.last(), Some(&("Completed".to_owned(), 100)));
}

/// An incremental backup reads what changed only.
#[test]
fn the_second_backup_reads_and_uploads_what_changed() {
    let rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 128 * MI);
    rig.ready_snapshot("s1", "data");
    rig.completed_backup("b1", "s1");
    write_random(&device, 64 * MI, 4 * MI);
    rig.ready_snapshot("s2", "data");
    rig.proxy.forget();
    let second = rig.completed_backup("b2", "s2");
    let puts =
        rig.proxy.seen().iter().filter(|request| request.verb() == Verb::Put && request.target.contains("/blocks/")).count();
    assert_eq!(puts, 2, "{:?}", rig.proxy.seen());
    assert_eq!(second["status"]["bytesTotal"], 4 * MI);
}

/// B-5, and the words for what is asked wrongly.
#[test]
fn what_cannot_be_done_is_said_and_nothing_is_made_up() {
    let rig = Rig::start(1024 * MI);
    rig.backup("nothing", "no-such-snapshot");
    let failed = rig.wait("Backup", "nothing", "state", "Error", SOON);
    assert!(failed["status"]["error"].as_str().unwrap().contains("no-such-snapshot"), "{failed}");
    assert!(rig.get("Snapshot", "no-such-snapshot").is_null());

    rig.volume("astray", 16 * MI, &["fromBackup: \"s3://elsewhere@us-east-1/?backup=b1&volume=data\""]);
    let restoring = |name: &str| {
        let volume = rig.get("Volume", name);
        let conditions = volume["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "Restore").unwrap_or_default()
    };
    eventually_blocking(SOON, "an unknown place is named", || {
        let message = restoring("astray")["message"].as_str().unwrap_or("").to_owned();
        if message.contains("s3://elsewhere@us-east-1/") && message.contains("default") { Ok(()) } else { Err(message) }
    });
    rig.volume("lost", 16 * MI, &["fromBackup: \"s3://backupbucket@us-east-1/?backup=b1&volume=data\""]);
    eventually_blocking(SOON, "a backup that is not there fails the restore for good", || {
        let condition = restoring("lost");
        if condition["reason"] == "RestoreFailure" { Ok(()) } else { Err(condition.to_string()) }
    });
    let volume = rig.wait("Volume", "lost", "robustness", "faulted", SOON);
    assert_eq!(volume["status"]["state"], "detached", "{volume}");
    eventually_blocking(SOON, "the Event is there", || rig.events("lost", "FailedRestore").pop().ok_or("none"));
    for name in ["astray", "lost"] {
        rig.kubectl(&["delete", "volumes.longhorn.io", name, "--wait=false"]);
        rig.wait_gone("Volume", name);
    }
}

/// Sizes, snapshots and devices follow their objects, and deletion leaves nothing behind.
#[test]
fn a_volume_grows_while_attached_and_goes_with_its_object() {
    let rig = Rig::start(1024 * MI);
    let device = rig.attached_volume("data", 64 * MI);
    rig.kubectl(&[
        "patch",
        "volumes.longhorn.io",
        "data",
        "--type=merge",
        "--patch",
        &format!(r#"{{"spec":{{"size":"{}","numberOfReplicas":3}}}}"#, 96 * MI),
    ]);
    eventually_blocking(SOON, "the device grows", || {
        let size = std::process::Command::new("blockdev").arg("--getsize64").arg(&device).output().unwrap();
        let text = String::from_utf8(size.stdout).unwrap();
        if text.trim() == (96 * MI).to_string() { Ok(()) } else { Err(text) }
    });
    rig.wait("Volume", "data", "robustness", "degraded", SOON);
    eventually_blocking(SOON, "the Event says why", || rig.events("data", "Degraded").pop().ok_or("none"));
    rig.ready_snapshot("s1", "data");
    rig.kubectl(&["delete", "snapshots.longhorn.io", "s1", "--wait=false"]);
    rig.wait_gone("Snapshot", "s1");
    let held = std::fs::File::open(&device).unwrap();
    rig.attach("data", false);
    eventually_blocking(SOON, "the holder of the device is in the way and named", || {
        let status = rig.get("Volume", "data")["status"].take();
        if status["state"] == "detaching" && status["conditions"].to_string().contains("in use") { Ok(()) } else { Err(status) }
    });
    drop(held);
    rig.wait("Volume", "data", "state", "detached", SOON);
    assert!(!device.exists());
    rig.attach("data", true);
    rig.device("data");
    rig.kubectl(&["delete", "volumes.longhorn.io", "data", "--wait=false"]);
    rig.wait_gone("Volume", "data");
    assert!(!device.exists());
    let node = rig.get("Node", &rig.node);
    assert!(node["status"]["conditions"].to_string().contains("AgentRunning"), "{node}");
    assert!(!node["status"]["lastHeartbeatAt"].as_str().unwrap().is_empty());
}
