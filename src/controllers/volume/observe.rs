//! Reads the shared copies into what placement asks. No request to the API server.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kube::{Resource, ResourceExt};

use super::place::{Candidate, Disk, Request};
use super::plan::{Observed, Source};
use crate::backupstore::target_url::BackupUrl;
use crate::controllers::caches::Caches;
use crate::controllers::meta;
use crate::crd::{BackupState, ConditionStatus, Node, Volume, condition_type, find_condition, is_true, names};

/// How long a placement of ours may be missing from the copies.
const COPY_LAG: Duration = Duration::from_secs(30);

/// Volumes that were just placed, by name: their node, bytes and when.
#[derive(Default)]
pub struct Promised(HashMap<String, (String, u64, Instant)>);

impl Promised {
    /// Remembers that `volume` goes to `node`.
    pub fn promise(&mut self, volume: String, node: String, size: u64) {
        self.0.insert(volume, (node, size, Instant::now()));
    }
}

/// What is known of `object`.
pub fn observe(object: &Volume, caches: &Caches, promised: &mut Promised) -> Observed {
    let name = object.name_any();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let node = object.labels().get(names::LABEL_NODE).and_then(|node| some(node));
    Observed {
        deleting: object.meta().deletion_timestamp.is_some(),
        finalizer: meta::has_finalizer(object),
        job_label: object.labels().keys().any(|key| names::job_of_label(key).is_some() || names::group_of_label(key).is_some()),
        target_named: !object.spec.backup_target_name.is_empty(),
        replicas: object.spec.number_of_replicas,
        request: Request {
            size: object.spec.size.0,
            node: some(&object.spec.node_id),
            node_tags: object.spec.node_selector.clone(),
            disk_tags: object.spec.disk_selector.clone(),
        },
        source: if node.is_some() { Source::Empty } else { source(object, caches) },
        nodes: if node.is_some() { Vec::new() } else { candidates(&name, caches, promised) },
        node,
    }
}

fn source(object: &Volume, caches: &Caches) -> Source {
    if object.spec.from_backup.is_empty() {
        return Source::Empty;
    }
    let url: BackupUrl = match object.spec.from_backup.parse() {
        Ok(url) => url,
        Err(error) => return Source::Unreadable(format!("spec.fromBackup: {error}")),
    };
    let (backup, volume) = (url.backup.to_string(), url.volume.to_string());
    let namespace = object.namespace().unwrap_or_default();
    let status = caches.backups.get(&namespace, &backup).and_then(|object| object.status.clone()).unwrap_or_default();
    if status.state == BackupState::Completed && status.volume_name == volume {
        Source::Backup { name: backup, size: status.volume_size.0 }
    } else {
        Source::Unknown(backup)
    }
}

fn candidates(placing: &str, caches: &Caches, promised: &mut Promised) -> Vec<Candidate> {
    let volumes = caches.volumes.all();
    let mut by_node: BTreeMap<String, u64> = BTreeMap::new();
    promised.0.retain(|_, (_, _, since)| since.elapsed() < COPY_LAG);
    for volume in &volumes {
        if let Some(node) = volume.labels().get(names::LABEL_NODE) {
            promised.0.remove(&volume.name_any());
            *by_node.entry(node.clone()).or_default() += volume.spec.size.0;
        }
    }
    for (_, (node, size, _)) in promised.0.iter().filter(|(volume, _)| *volume != placing) {
        *by_node.entry(node.clone()).or_default() += size;
    }
    caches.nodes.all().iter().map(|node| candidate(node, by_node.get(&node.name_any()).copied().unwrap_or(0))).collect()
}

fn candidate(node: &Node, promised: u64) -> Candidate {
    let status = node.status.clone().unwrap_or_default();
    let closed = if node.meta().deletion_timestamp.is_some() {
        Some("is being deleted".to_owned())
    } else if !is_true(&status.conditions, condition_type::READY) {
        Some("is not ready".to_owned())
    } else if !node.spec.allow_scheduling {
        Some("takes no new volumes (spec.allowScheduling is false)".to_owned())
    } else {
        find_condition(&status.conditions, condition_type::SCHEDULABLE)
            .filter(|condition| condition.status == ConditionStatus::False)
            .map(|condition| format!("takes no new volumes: {}", condition.message))
    };
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    let disks = status.disk_status.iter().filter_map(|(name, disk)| {
        let spec = node.spec.disks.get(name);
        // A pool that nobody described in the spec is open: agents announce theirs in the status.
        spec.is_none_or(|spec| spec.allow_scheduling).then(|| Disk {
            tags: spec.map(|spec| spec.tags.iter().cloned().collect()).unwrap_or_default(),
            capacity: bytes(disk.storage_maximum).saturating_sub(spec.map_or(0, |spec| bytes(spec.storage_reserved))),
        })
    });
    Candidate { name: node.name_any(), closed, tags: node.spec.tags.iter().cloned().collect(), disks: disks.collect(), promised }
}
