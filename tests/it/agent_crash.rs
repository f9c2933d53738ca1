//! An agent that is killed, stopped or cut off at bad moments: what was begun is finished, what was attached stays.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::agent_rig::{MI, Rig, SOON, TRANSFER, sum, write_random};
use crate::support::eventually_blocking;
use crate::support::proxy::Fault;

const SIZE: u64 = 256 * MI;

fn slow_blocks(rig: &Rig, method: &'static str) {
    rig.proxy.inject(Fault::Delay(Duration::from_millis(500)), usize::MAX, move |m, target| {
        m == method && target.contains("/blocks/")
    });
}

/// Waits until the transfer is on its way, neither at its start nor at its end.
fn wait_half_way(rig: &Rig, kind: &str, name: &str, progress: impl Fn(&serde_json::Value) -> i64) {
    eventually_blocking(TRANSFER, "the transfer is on its way", || {
        let status = rig.get(kind, name)["status"].take();
        let percent = progress(&status);
        if percent >= 10 { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn a_backup_goes_on_where_it_was_after_kill_9_of_its_agent() {
    let mut rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    let wanted = sum(&device);
    rig.ready_snapshot("s1", "data");
    slow_blocks(&rig, "PUT");
    rig.backup("b1", "s1");
    wait_half_way(&rig, "Backup", "b1", |status| status["progress"].as_i64().unwrap_or(0));
    let held = OpenOptions::new().read(true).write(true).open(&device).unwrap();
    rig.agent.process.kill();
    let before = rig.minio.keys().iter().filter(|key| key.ends_with(".blk")).count();
    assert!(before > 0, "nothing was uploaded before the kill");
    // The device is the kernel's: the guest goes on.
    held.write_all_at(&[7; 4096], 200 * MI).unwrap();
    held.sync_all().unwrap();
    rig.proxy.heal();
    rig.proxy.forget();
    rig.agent.restart();
    let done = rig.wait("Backup", "b1", "state", "Completed", TRANSFER);
    let puts = rig.proxy.seen().iter().filter(|request| request.method == "PUT" && request.target.contains("/blocks/")).count();
    assert!(puts + before <= 96 + 1, "{before} blocks were there and {puts} were sent again or anew");
    assert_eq!(rig.restored_sum("again", SIZE, done["status"]["url"].as_str().unwrap()), wanted);
}

#[test]
fn a_restore_goes_on_where_it_was_after_kill_9_of_its_agent() {
    let mut rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    let wanted = sum(&device);
    rig.ready_snapshot("s1", "data");
    let url = rig.completed_backup("b1", "s1")["status"]["url"].as_str().unwrap().to_owned();
    slow_blocks(&rig, "GET");
    rig.volume("again", SIZE, &[&format!("fromBackup: {url:?}"), &format!("nodeID: {}", rig.node)]);
    wait_half_way(&rig, "Volume", "again", |status| status["restoreProgress"]["progress"].as_i64().unwrap_or(0));
    let restoring = rig.get("Volume", "again");
    assert_eq!((&restoring["status"]["restoreRequired"], &restoring["status"]["restoreInitiated"]), (&true.into(), &true.into()));
    rig.agent.process.kill();
    rig.proxy.heal();
    rig.agent.restart();
    rig.wait("Volume", "again", "state", "attached", TRANSFER);
    assert_eq!(sum(&rig.device("again")), wanted);
}

#[test]
fn a_store_that_goes_away_in_mid_backup_is_waited_for() {
    let mut rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    let wanted = sum(&device);
    rig.ready_snapshot("s1", "data");
    slow_blocks(&rig, "PUT");
    rig.backup("b1", "s1");
    wait_half_way(&rig, "Backup", "b1", |status| status["progress"].as_i64().unwrap_or(0));
    rig.minio.stop();
    rig.proxy.heal();
    eventually_blocking(TRANSFER, "the trouble is shown", || {
        let status = rig.get("Backup", "b1")["status"].take();
        if status["messages"]["error"].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    rig.minio.resume();
    let done = rig.wait("Backup", "b1", "state", "Completed", TRANSFER);
    assert_eq!(rig.restored_sum("again", SIZE, done["status"]["url"].as_str().unwrap()), wanted);
}

#[test]
fn a_deleted_backup_is_stopped_and_signed_off() {
    let rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    rig.ready_snapshot("s1", "data");
    slow_blocks(&rig, "PUT");
    rig.backup("b1", "s1");
    wait_half_way(&rig, "Backup", "b1", |status| status["progress"].as_i64().unwrap_or(0));
    rig.kubectl(&["delete", "snapshots.longhorn.io", "s1", "--wait=false"]);
    rig.kubectl(&["delete", "backups.longhorn.io", "b1", "--wait=false"]);
    eventually_blocking(SOON, "the agent takes its sign of life away", || {
        let status = rig.get("Backup", "b1")["status"].take();
        if status["lastHeartbeatAt"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });
    // The manager removes the object; the snapshot waited for the transfer only.
    rig.wait_gone("Snapshot", "s1");
    assert!(!rig.minio.keys().iter().any(|key| key.contains("backup_b1")), "{:?}", rig.minio.keys());
    rig.kubectl(&["patch", "backups.longhorn.io", "b1", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
    rig.wait_gone("Backup", "b1");
}

/// As when somebody empties the finalizers: the agent never sees the object's deletion time.
#[test]
fn a_transfer_whose_object_was_removed_at_once_gives_its_lock_back_and_stores_nothing() {
    let rig = Rig::start(2048 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 192 * MI);
    rig.ready_snapshot("s1", "data");
    slow_blocks(&rig, "PUT");
    rig.backup("b1", "s1");
    wait_half_way(&rig, "Backup", "b1", |status| status["progress"].as_i64().unwrap_or(0));
    let locked = || rig.minio.keys().into_iter().filter(|key| key.contains("/locks/")).collect::<Vec<_>>();
    assert!(!locked().is_empty());
    rig.kubectl(&["patch", "backups.longhorn.io", "b1", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
    rig.kubectl(&["delete", "backups.longhorn.io", "b1", "--wait=false"]);
    rig.wait_gone("Backup", "b1");
    eventually_blocking(SOON, "the lock is given back", || match locked() {
        keys if keys.is_empty() => Ok(()),
        keys => Err(format!("{keys:?}")),
    });
    let blocks = rig.minio.keys().iter().filter(|key| key.ends_with(".blk")).count();
    assert!(blocks < 96, "it was stopped on its way, not at its end");
}
