//! Which store an agent's backup goes to, and that it is the right one.

use serde_json::json;

use crate::agent_rig::{MI, Rig, SOON, TRANSFER, write_random};
use crate::support::eventually_blocking;

const SIZE: u64 = 64 * MI;

/// Waits until the backup says that `known` is not the store that it found.
fn refused(rig: &Rig, backup: &str, known: &str, found: &str) {
    eventually_blocking(SOON, "the backup names both stores", || {
        let status = rig.get("Backup", backup)["status"].take();
        let words = status["messages"]["error"].as_str().unwrap_or_default();
        let named = status["state"] == "InProgress" && words.contains(known) && words.contains(found);
        if named { Ok(()) } else { Err(status.to_string()) }
    });
}

fn marker(rig: &Rig, id: &str) {
    let text = json!({ "id": id, "generation": 1 }).to_string();
    rig.minio.put("backupstore/drover/store.json", text.as_bytes());
}

/// Requests to the store beside those that move blocks; a lock that lives three seconds only is refreshed more often than a real one.
fn overhead(rig: &Rig) -> Vec<String> {
    let mut seen: Vec<String> = rig.proxy.seen().iter().map(|request| format!("{} {}", request.method, request.target)).collect();
    seen.retain(|request| !(request.starts_with("PUT") && (request.contains("/blocks/") || request.contains("/locks/"))));
    seen
}

#[test]
fn a_backup_waits_for_the_store_that_its_target_is_known_by() {
    let rig = Rig::start(1024 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 16 * MI);
    rig.ready_snapshot("s1", "data");
    rig.usable_target("store-a");
    rig.backup("b1", "s1");
    refused(&rig, "b1", "store-a", "no store id");
    marker(&rig, "store-b");
    refused(&rig, "b1", "store-a", "store-b");
    assert_eq!(rig.minio.keys(), ["backupstore/drover/store.json"], "nothing else goes into another store");
    marker(&rig, "store-a");
    rig.wait("Backup", "b1", "state", "Completed", TRANSFER);
}

#[test]
fn a_full_backup_needs_at_most_sixteen_requests_beside_its_blocks() {
    let rig = Rig::start(1024 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 16 * MI);
    rig.ready_snapshot("s1", "data");
    marker(&rig, "store-a");
    rig.usable_target("store-a");
    rig.proxy.forget();
    rig.completed_backup("b1", "s1");
    let overhead = overhead(&rig);
    // One PUT makes the lock.
    assert!(overhead.len() < 16, "{overhead:#?}");
}

#[test]
fn a_backup_names_the_place_it_went_to_also_when_its_target_moved_on_the_way() {
    let rig = Rig::start(1024 * MI);
    let device = rig.attached_volume("data", SIZE);
    write_random(&device, 0, 16 * MI);
    rig.ready_snapshot("s1", "data");
    rig.usable_target("store-a");
    rig.backup("b1", "s1");
    refused(&rig, "b1", "store-a", "no store id");
    let place = "s3://backupbucket@us-east-1/elsewhere/";
    rig.patch("backuptargets", "default", &[], &json!({ "spec": { "backupTargetURL": place } }));
    rig.usable_target("");
    let done = rig.wait("Backup", "b1", "state", "Completed", TRANSFER);
    let url = done["status"]["url"].as_str().unwrap();
    assert_eq!(url, format!("{place}?backup=b1&volume=data"));
    assert!(rig.minio.keys().iter().all(|key| key.starts_with("elsewhere/")), "{:?}", rig.minio.keys());
}
