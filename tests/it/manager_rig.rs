//! The manager with a real API server and a MinIO behind a counting proxy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use drover::backupstore::Store;
use drover::backupstore::block::Compression;
use drover::backupstore::create::{BlockSize, CreateRequest, Mode, SnapshotRef, VolumeRef};
use drover::backupstore::credentials::Credentials;
use drover::backupstore::driver;
use drover::backupstore::io::Source;
use drover::backupstore::lock::Timings;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::minio::Minio;
use crate::support::proxy::Proxy;
use crate::support::roles::{self, Role};

pub const URL: &str = "s3://backupbucket@us-east-1/";
pub const SOON: Duration = Duration::from_secs(20);
pub const BLOCK: u64 = 2 << 20;
/// Locks that live a second.
const LOCKS: &str = "--lock-timings=50,300,600,1000";

/// A cluster namespace, a MinIO behind a counting proxy, and a manager.
pub struct World {
    pub cluster: Cluster,
    pub minio: Minio,
    pub proxy: Proxy,
    pub manager: Role,
}

impl World {
    pub async fn new(what: &str) -> Self {
        Self::with(Cluster::shared(what).await, &[])
    }

    pub fn with(cluster: Cluster, extra: &[&str]) -> Self {
        let minio = Minio::start();
        let proxy = Proxy::to(minio.port());
        let manager = roles::manager(&cluster, "manager", &[&[LOCKS], extra].concat());
        Self { cluster, minio, proxy, manager }
    }

    pub fn secret(&self, changes: &[(&str, &str)]) {
        let endpoint = self.proxy.endpoint();
        let values = self.minio.secret(&[&[("AWS_ENDPOINTS", endpoint.as_str())], changes].concat());
        let data: BTreeMap<_, _> = values.iter().map(|(key, value)| (key, String::from_utf8(value.clone()).unwrap())).collect();
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "minio-secret" }, "type": "Opaque", "stringData": data });
        self.cluster.apply(&secret.to_string());
    }

    pub fn target(&self, spec: Value) {
        self.cluster.apply(&object("BackupTarget", "default", spec).to_string());
    }

    /// The target as the user's document has it, available.
    pub async fn ready(&self) {
        self.secret(&[]);
        self.target(json!({ "backupTargetURL": URL, "credentialSecret": "minio-secret", "pollInterval": "0" }));
        self.available().await;
    }

    pub async fn available(&self) {
        self.condition("the target is available", |condition| condition["status"] == "False").await;
    }

    pub async fn unavailable(&self, words: &str) {
        let fits = |c: &Value| c["status"] == "True" && c["message"].as_str().is_some_and(|message| message.contains(words));
        self.condition(words, fits).await;
        assert_eq!(self.cluster.get("backuptarget", "default")["status"]["available"], false);
    }

    pub async fn condition(&self, what: &str, fits: impl Fn(&Value) -> bool) {
        eventually(SOON, what, async || {
            let target = self.cluster.get("backuptarget", "default");
            let conditions = target["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let current = |c: &&Value| c["type"] == "Unavailable" && c["observedGeneration"] == target["metadata"]["generation"];
            conditions.iter().find(current).filter(|c| fits(c)).map(drop).ok_or_else(|| target["status"].to_string())
        })
        .await;
    }

    /// Asks for a listing and waits until it was made.
    pub async fn sync(&self) {
        let at = Timestamp::now().to_string();
        self.merge("backuptarget", "default", &json!({ "spec": { "syncRequestedAt": at } }));
        eventually(SOON, "the store is listed", async || {
            let target = self.cluster.get("backuptarget", "default");
            let answered =
                target["status"]["syncAnsweredAt"].as_str().is_some_and(|answered| answered == format!("{}Z", &at[..19]));
            answered.then_some(()).ok_or_else(|| target["status"].to_string())
        })
        .await;
    }

    pub fn merge(&self, kind: &str, name: &str, patch: &Value) {
        self.cluster.kubectl(&["patch", kind, name, "--type=merge", "-p", &patch.to_string()]);
    }

    pub fn merge_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.cluster.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    pub async fn state(&self, backup: &str, state: &str) -> Value {
        eventually(SOON, &format!("{backup} becomes {state:?}"), async || {
            let found = self.cluster.get("backup", backup);
            if found["status"]["state"] == state { Ok(found) } else { Err(found.to_string()) }
        })
        .await
    }

    pub async fn gone(&self, kind: &str, name: &str) {
        eventually(SOON, &format!("{kind} {name} is gone"), async || {
            let found = self.cluster.get(kind, name);
            if found.is_null() { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }

    pub async fn names(&self, kind: &str, count: usize) -> Vec<String> {
        eventually(SOON, &format!("{count} {kind}"), async || {
            let names: Vec<String> =
                self.cluster.list(kind).iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect();
            if names.len() == count { Ok(names) } else { Err(format!("{names:?}")) }
        })
        .await
    }

    pub async fn event(&self, kind: &str, reason: &str) -> String {
        eventually(SOON, &format!("an Event {reason} on a {kind}"), async || {
            let events = self.cluster.list("events.events.k8s.io");
            let found = events.iter().find(|event| event["reason"] == reason && event["regarding"]["kind"] == kind);
            found.map(|event| event["note"].as_str().unwrap_or_default().to_owned()).ok_or("none")
        })
        .await
    }

    pub fn events(&self, reason: &str) -> usize {
        self.cluster.list("events.events.k8s.io").iter().filter(|event| event["reason"] == reason).count()
    }

    pub fn store(&self) -> Store {
        let driver = driver::open(&URL.parse().unwrap(), Some(&self.credentials())).unwrap();
        let ms = Duration::from_millis;
        Store::new(driver, Timings { settle: ms(50), refresh: ms(300), fence: ms(600), expiry: ms(1000) })
    }

    pub fn credentials(&self) -> Credentials {
        self.minio.credentials(&[])
    }

    /// Puts a backup of `blocks` (each one byte repeated) into the store, as another cluster would.
    pub async fn put_backup(&self, volume: &str, backup: &str, blocks: &[u8]) {
        let request = CreateRequest {
            volume: VolumeRef {
                name: volume.parse().unwrap(),
                created_at: Timestamp::now(),
                labels: BTreeMap::new(),
                storage_class: String::new(),
            },
            backup: backup.parse().unwrap(),
            snapshot: SnapshotRef {
                name: format!("snap-{backup}").parse().unwrap(),
                id: format!("id-{backup}"),
                created_at: Timestamp::now(),
            },
            block_size: BlockSize::Mi2,
            compression: Compression::Lz4,
            mode: Mode::Incremental,
            labels: [("RecurringJob".to_owned(), "nightly".to_owned())].into(),
            parameters: BTreeMap::new(),
        };
        let source = Arc::new(Blocks(blocks.to_vec()));
        self.store().create(request, source, Arc::default(), CancellationToken::new()).await.unwrap();
    }

    pub fn stored(&self, part: &str) -> usize {
        self.minio.keys().iter().filter(|key| key.contains(part)).count()
    }
}

/// A volume of whole blocks, each filled with one byte.
struct Blocks(Vec<u8>);

impl Source for Blocks {
    fn size(&self) -> u64 {
        self.0.len() as u64 * BLOCK
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.0[usize::try_from((offset + i as u64) / BLOCK).unwrap()];
        }
        Ok(())
    }
    fn allocated(&self) -> std::io::Result<Vec<Range<u64>>> {
        Ok(vec![Range { start: 0, end: self.size() }])
    }
    fn changed_since(&self, _: &str) -> std::io::Result<Option<Vec<Range<u64>>>> {
        Ok(None)
    }
}

/// A manifest of one of our kinds.
pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "longhorn.io/v1beta2", "kind": kind, "metadata": { "name": name }, "spec": spec })
}
