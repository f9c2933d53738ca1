//! One node for the agent's tests: an agent with its pool, its namespace, and a store behind a proxy.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::cluster::Cluster;
use crate::support::minio::Minio;
use crate::support::pool::{Disk, Kind};
use crate::support::proxy::Proxy;
use crate::support::roles::{self, Role};
use crate::support::{eventually_blocking, random_hex, run};

pub const MI: u64 = 1 << 20;
/// For what takes moments; long, since all tests of a run share the machine.
pub const SOON: Duration = Duration::from_secs(60);
/// For a transfer.
pub const TRANSFER: Duration = Duration::from_secs(240);
/// Locks that live three seconds.
pub const LOCKS: &str = "--lock-timings=200,1000,2000,3000";
const TARGET: &str = "s3://backupbucket@us-east-1/";

/// Dropped in this order: the agent first, then what it uses.
pub struct Rig {
    pub agent: Role,
    pub node: String,
    pub proxy: Proxy,
    pub minio: Minio,
    pub devices: PathBuf,
    _disk: Disk,
    pub cluster: Cluster,
}

impl Rig {
    /// A node whose pool has `pool` bytes on XFS, and a target `default` that leads to a MinIO of its own.
    pub fn start(pool: u64) -> Self {
        // Only kubectl is used here: no client outlives this runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = runtime.block_on(Cluster::shared("agent"));
        let node = format!("node-{}", random_hex(4));
        let disk = Disk::new(Kind::Xfs, pool);
        let devices = disk.outside("dev");
        let minio = Minio::start();
        let proxy = Proxy::to(minio.port());
        let agent = roles::agent(&cluster, &node, &disk.path().join("pool"), &devices, &[LOCKS]);
        let rig = Self { agent, node, proxy, minio, devices, _disk: disk, cluster };
        rig.make_target();
        rig
    }

    fn make_target(&self) {
        let secret = self.minio.secret(&[("AWS_ENDPOINTS", &self.proxy.endpoint())]);
        let data: Vec<String> =
            secret.into_iter().map(|(key, value)| format!("  {key}: {:?}", String::from_utf8(value).unwrap())).collect();
        self.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: minio-secret\nstringData:\n{}\n", data.join("\n")));
        self.apply(&format!(
            "apiVersion: longhorn.io/v1beta2\nkind: BackupTarget\nmetadata:\n  name: default\nspec:\n  backupTargetURL: {TARGET}\n  credentialSecret: minio-secret\n"
        ));
        self.usable_target("");
    }

    /// Says of the target, as it is now, what the manager says of one that can be used and whose store has the id `store`; nothing: any.
    pub fn usable_target(&self, store: &str) {
        let generation = self.get("BackupTarget", "default")["metadata"]["generation"].clone();
        let usable = json!({ "type": "Unavailable", "status": "False", "reason": "Available", "observedGeneration": generation });
        let status = json!({ "status": { "available": true, "storeID": store, "conditions": [usable] } });
        self.patch("backuptargets", "default", &["--subresource=status"], &status);
    }

    /// Merges `patch` into an object; `more` are further flags.
    pub fn patch(&self, kind: &str, name: &str, more: &[&str], patch: &Value) {
        let (kind, patch) = (format!("{kind}.longhorn.io"), patch.to_string());
        self.kubectl(&[&["patch", &kind, name, "--type=merge", "--patch", &patch], more].concat());
    }

    /// Applies a manifest that must be taken.
    pub fn apply(&self, manifest: &str) {
        self.cluster.apply(manifest);
    }

    /// Runs kubectl in the rig's namespace; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(args)
    }

    /// The object, `Null` when there is none.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(&format!("{kind}.longhorn.io"), name)
    }

    /// A Volume as the manager would have placed it on this node; `spec` is further YAML lines.
    pub fn volume(&self, name: &str, size: u64, spec: &[&str]) {
        self.object("Volume", name, &[&[&*format!("size: \"{size}\"")], spec].concat());
    }

    /// A Snapshot as the manager would have admitted it.
    pub fn snapshot(&self, name: &str, volume: &str) {
        self.object("Snapshot", name, &[&format!("volume: {volume}"), "createSnapshot: true"]);
    }

    /// A Backup as the manager would have handed it over.
    pub fn backup(&self, name: &str, snapshot: &str) {
        self.object("Backup", name, &[&format!("snapshotName: {snapshot}"), "labels: {team: blue}"]);
    }

    fn object(&self, kind: &str, name: &str, spec: &[&str]) {
        let spec: String = spec.iter().map(|line| format!("  {line}\n")).collect();
        self.apply(&format!(
            "apiVersion: longhorn.io/v1beta2\nkind: {kind}\nmetadata:\n  name: {name}\n  labels: {{longhornnode: {}}}\n  finalizers: [longhorn.io]\nspec:\n{spec}",
            self.node
        ));
    }

    /// Sets `spec.nodeID`, here or nowhere.
    pub fn attach(&self, volume: &str, here: bool) {
        let node = if here { self.node.as_str() } else { "" };
        self.kubectl(&[
            "patch",
            "volumes.longhorn.io",
            volume,
            "--type=merge",
            "--patch",
            &format!(r#"{{"spec":{{"nodeID":"{node}"}}}}"#),
        ]);
    }

    /// Waits until `field` of the status is `wanted`; the object then.
    pub fn wait(&self, kind: &str, name: &str, field: &str, wanted: impl Into<Value>, within: Duration) -> Value {
        let wanted = wanted.into();
        eventually_blocking(within, &format!("{kind} {name} has {field} {wanted}"), || {
            let object = self.get(kind, name);
            if object["status"][field] == wanted { Ok(object) } else { Err(object["status"].to_string()) }
        })
    }

    /// Waits until there is no such object.
    pub fn wait_gone(&self, kind: &str, name: &str) {
        eventually_blocking(SOON, &format!("{kind} {name} is gone"), || {
            let object = self.get(kind, name);
            if object.is_null() { Ok(()) } else { Err(object.to_string()) }
        });
    }

    /// Makes a volume and attaches it; its device.
    pub fn attached_volume(&self, name: &str, size: u64) -> PathBuf {
        self.volume(name, size, &[&format!("nodeID: {}", self.node)]);
        self.device(name)
    }

    /// The device of a volume, once it is attached.
    pub fn device(&self, volume: &str) -> PathBuf {
        let object = self.wait("Volume", volume, "state", "attached", SOON);
        let device = PathBuf::from(object["status"]["devicePath"].as_str().unwrap());
        assert_eq!(device, self.devices.join(volume));
        device
    }

    /// Takes a snapshot and waits until it is ready.
    pub fn ready_snapshot(&self, name: &str, volume: &str) -> Value {
        self.snapshot(name, volume);
        self.wait("Snapshot", name, "readyToUse", true, SOON)
    }

    /// Backs a snapshot up to the end.
    pub fn completed_backup(&self, name: &str, snapshot: &str) -> Value {
        self.backup(name, snapshot);
        self.wait("Backup", name, "state", "Completed", TRANSFER)
    }

    /// Restores `url` into a new volume, attaches it and returns its checksum.
    pub fn restored_sum(&self, volume: &str, size: u64, url: &str) -> String {
        self.volume(volume, size, &[&format!("fromBackup: {url:?}"), &format!("nodeID: {}", self.node)]);
        let object = self.wait("Volume", volume, "state", "attached", TRANSFER);
        assert_eq!(object["status"]["restoreRequired"], false);
        sum(&self.device(volume))
    }

    /// Notes of the Events with this reason about the object.
    pub fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let text = self.kubectl(&["get", "events.events.k8s.io", "--output=json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let of_it = |event: &&Value| event["regarding"]["name"] == name && event["reason"] == reason;
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(of_it)
            .map(|event| event["note"].as_str().unwrap_or("").to_owned())
            .collect()
    }
}

/// Writes `length` random bytes at `offset` of a device, durably.
pub fn write_random(device: &Path, offset: u64, length: u64) {
    let file = OpenOptions::new().write(true).open(device).unwrap();
    let mut block = vec![0; usize::try_from(MI).unwrap()];
    for at in (offset..offset + length).step_by(block.len()) {
        getrandom::fill(&mut block).unwrap();
        file.write_all_at(&block, at).unwrap();
    }
    file.sync_all().unwrap();
}

/// SHA-256 of all of a device.
pub fn sum(device: &Path) -> String {
    // Another open of the device may have cached pages from before a restore.
    run(std::process::Command::new("blockdev").arg("--flushbufs").arg(device));
    let mut file = File::open(device).unwrap();
    let mut digest = Sha256::new();
    let mut block = vec![0; usize::try_from(4 * MI).unwrap()];
    loop {
        match std::io::Read::read(&mut file, &mut block).unwrap() {
            0 => return hex::encode(digest.finalize()),
            read => digest.update(&block[..read]),
        }
    }
}
