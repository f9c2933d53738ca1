//! What goes with a namespace or with the kinds themselves takes nothing out of the store, and a fresh install finds it all again.

use std::sync::Arc;
use std::time::Duration;

use drover::backupstore::restore::RestoreRequest;
use k8s_openapi::ByteString;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::manager_rig::{BLOCK, URL, World};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::proxy::Verb;

/// The API server takes its time to empty a namespace.
const TEARDOWN: Duration = Duration::from_secs(120);

/// Requests that remove anything but the probe's own object.
fn removals(world: &World) -> Vec<String> {
    let probe = "/backupstore/drover/";
    let of_data = |seen: &crate::support::proxy::Seen| seen.verb() == Verb::Delete && !seen.target.contains(probe);
    world.proxy.seen().into_iter().filter(of_data).map(|seen| format!("{} {}", seen.method, seen.target)).collect()
}

fn data(world: &World) -> Vec<String> {
    world.minio.keys().into_iter().filter(|key| key.contains("/volumes/") && !key.ends_with(".lck")).collect()
}

/// B-17, B-19: the Secret and the target as the user's document writes them; only the endpoint leads to this test's server.
async fn as_documented(world: &World) {
    let endpoint = serde_json::to_string(&ByteString(world.proxy.endpoint().into_bytes())).unwrap();
    world.cluster.apply(&format!(
        "apiVersion: v1
kind: Secret
metadata:
  name: minio-secret
  namespace: longhorn-system
type: Opaque
data:
  AWS_ACCESS_KEY_ID: bG9uZ2hvcm4tdGVzdC1hY2Nlc3Mta2V5 # longhorn-test-access-key
  AWS_SECRET_ACCESS_KEY: bG9uZ2hvcm4tdGVzdC1zZWNyZXQta2V5 # longhorn-test-secret-key
  AWS_ENDPOINTS: {endpoint}
"
    ));
    world.target(json!({ "backupTargetURL": URL, "credentialSecret": "minio-secret", "pollInterval": "0" }));
    world.available().await;
}

/// The bytes of a backup, read back from the store.
async fn restored(world: &World, volume: &str, backup: &str) -> Vec<u8> {
    let image = Image::blank(usize::try_from(2 * BLOCK).unwrap());
    let request = RestoreRequest { volume: volume.parse().unwrap(), backup: backup.parse().unwrap() };
    world.store().restore(request, image.clone(), Arc::default(), CancellationToken::new()).await.unwrap();
    image.data()
}

fn blocks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| vec![*byte; usize::try_from(BLOCK).unwrap()]).collect()
}

async fn two_backups(world: &World) {
    world.put_backup("vol-1", "backup-a", b"ab").await;
    world.put_backup("vol-1", "backup-b", b"ac").await;
    as_documented(world).await;
    world.names("backups", 2).await;
    world.names("backupvolumes", 1).await;
    world.proxy.forget();
}

#[tokio::test]
async fn deleting_the_kinds_sends_no_delete_and_applying_them_again_brings_every_backup_back() {
    let world = World::with(Cluster::start_with_controllers().await, &[]);
    two_backups(&world).await;
    let before = data(&world);
    let kinds = world.cluster.crds();
    world.cluster.kubectl(&["delete", "-f", &kinds, "--wait=false"]);
    eventually(TEARDOWN, "the kinds are gone", async || {
        let left = world.cluster.kubectl(&["get", "customresourcedefinitions", "-o", "name"]);
        if left.contains("longhorn.io") { Err(left) } else { Ok(()) }
    })
    .await;
    assert_eq!(removals(&world), [""; 0]);
    assert_eq!(data(&world), before);

    world.cluster.kubectl(&["apply", "--server-side", "-f", &kinds]);
    world.cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &kinds]);
    eventually(TEARDOWN, "the target is made again", async || {
        let target = world.cluster.try_kubectl(&["get", "backuptarget", "default", "-o", "name"]);
        target.map(drop)
    })
    .await;
    world.ready().await;
    world.names("backups", 2).await;
    world.state("backup-a", "Completed").await;
    assert_eq!(removals(&world), [""; 0]);
}

/// B-2: the store outlives the namespace, and an install into a new one restores from it.
#[tokio::test]
async fn deleting_the_namespace_sends_no_delete_and_a_fresh_install_finds_every_backup() {
    let mut world = World::with(Cluster::start_with_controllers().await, &[]);
    two_backups(&world).await;
    let before = data(&world);
    let namespace = world.cluster.namespace().to_owned();
    world.cluster.kubectl(&["delete", "namespace", &namespace, "--wait=false"]);
    eventually(TEARDOWN, "the namespace is gone", async || {
        let left = world.cluster.kubectl(&["get", "namespaces", "-o", "name"]);
        if left.contains(&namespace) { Err(left) } else { Ok(()) }
    })
    .await;
    assert_eq!(removals(&world), [""; 0]);
    assert_eq!(data(&world), before);

    // Its pods would be gone with it.
    world.manager.process.kill();
    world.cluster.kubectl(&["create", "namespace", &namespace]);
    world.manager.restart();
    world.ready().await;
    world.names("backups", 2).await;
    let backup = world.state("backup-b", "Completed").await;
    assert_eq!(backup["status"]["volumeSize"], json!("4194304"));
    assert_eq!(backup["status"]["url"], format!("{URL}?backup=backup-b&volume=vol-1"));
    for (backup, bytes) in [("backup-a", b"ab"), ("backup-b", b"ac")] {
        assert!(restored(&world, "vol-1", backup).await == blocks(bytes), "{backup} has other bytes than were backed up");
    }
    assert_eq!(removals(&world), [""; 0]);
}
