//! The manager's placement, admission, schedules and retention on a real API server.
//!
//! The controllers run in this process and are aborted like a killed leader; what an agent would write into statuses, and the removal of
//! data that a deletion waits for, is written here.

use std::sync::Arc;
use std::time::Duration;

use drover::controllers::caches::Caches;
use drover::controllers::stores::Stores;
use drover::controllers::{Context, events, node, recurring_job, requeue, snapshot, volume};
use drover::crd::{
    Backup, BackupState, Condition, DiskStatus, Node, NodeSpec, RecurringJob, RunOutcome, Snapshot, Time, Volume, VolumeOutcome,
    VolumeState, condition_type, find_condition, names, set_condition,
};
use drover::metrics::Metrics;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::roles::{self, Role};

const SOON: Duration = Duration::from_secs(30);

/// The manager's controllers; dropping it stops them in the middle of whatever they do.
struct Leader {
    _tasks: JoinSet<()>,
}

impl Leader {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        let client = cluster.client();
        let context = Arc::new(Context {
            client: client.clone(),
            namespace: cluster.namespace().to_owned(),
            events: events::Events::new(client.clone(), "manager", name.to_owned()),
            stores: Stores::new(client, cluster.namespace(), Default::default()),
            metrics: Arc::new(Metrics::new()),
            backoff: requeue::Backoff::default(),
        });
        let shutdown = CancellationToken::new();
        let caches = Caches::start(&context, &shutdown).await.expect("caches");
        let mut tasks = JoinSet::new();
        tasks.spawn(volume::run(context.clone(), caches.clone(), shutdown.clone()));
        tasks.spawn(snapshot::run(context.clone(), caches.clone(), shutdown.clone()));
        tasks.spawn(node::run(context.clone(), caches.clone(), shutdown.clone()));
        tasks.spawn(recurring_job::run(context, caches, shutdown));
        Self { _tasks: tasks }
    }
}

fn api<K>(cluster: &Cluster) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(cluster.client(), cluster.namespace())
}

async fn write_status<K>(api: &Api<K>, name: &str, status: serde_json::Value)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await.expect("a status");
}

/// A node whose agent has just said that it is well and has 1 TiB.
async fn beat(nodes: &Api<Node>) -> Result<(), kube::Error> {
    let mut node = match nodes.get_opt("n1").await? {
        Some(node) => node,
        None => nodes.create(&PostParams::default(), &Node::new("n1", NodeSpec::default())).await?,
    };
    let status = node.status.get_or_insert_default();
    status.last_heartbeat_at = Time::now();
    let pool = DiskStatus { storage_maximum: 1 << 40, storage_available: 1 << 40, ..DiskStatus::default() };
    status.disk_status = [("pool".to_owned(), pool)].into();
    set_condition(
        &mut status.conditions,
        Condition::new(condition_type::READY, true, "AgentRunning", "", None, Timestamp::now()),
    );
    nodes.replace_status("n1", &PostParams::default(), &node).await.map(drop)
}

/// What the agent of `n1` and the manager's deleter do, as far as objects show it, until dropped.
struct Agent {
    _tasks: JoinSet<()>,
}

impl Agent {
    fn start(cluster: &Cluster) -> Self {
        let (nodes, snapshots, backups) = (api::<Node>(cluster), api::<Snapshot>(cluster), api::<Backup>(cluster));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut round = 0u32;
            loop {
                if round.is_multiple_of(25) {
                    // A conflict with the manager's own write is made good by the next beat.
                    let _ = beat(&nodes).await;
                }
                work(&snapshots, &backups).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                round += 1;
            }
        });
        Self { _tasks: tasks }
    }
}

async fn work(snapshots: &Api<Snapshot>, backups: &Api<Backup>) {
    let mine = ListParams::default().labels(&format!("{}=n1", names::LABEL_NODE));
    // Objects change under our hands: the next round sees them again.
    let Ok(list) = snapshots.list(&mine).await else { return };
    stream::iter(list)
        .for_each_concurrent(8, |snapshot| async move {
            let name = snapshot.name_any();
            if snapshot.meta().deletion_timestamp.is_some() {
                let _ = release(snapshots, &name).await;
            } else if !snapshot.status.is_some_and(|status| status.ready_to_use) {
                let status = json!({ "readyToUse": true, "creationTime": Time::now(), "userCreated": true });
                let _ = snapshots.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await;
            }
        })
        .await;
    let Ok(list) = backups.list(&mine).await else { return };
    stream::iter(list)
        .for_each_concurrent(8, |backup| async move {
            let name = backup.name_any();
            if backup.meta().deletion_timestamp.is_some() {
                let _ = release(backups, &name).await;
            } else if !backup.status.as_ref().is_some_and(|status| status.state.is_terminal()) {
                let _ = backups
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": completed(&backup) })))
                    .await;
            }
        })
        .await;
}

fn completed(backup: &Backup) -> serde_json::Value {
    let volume = backup.labels().get(names::LABEL_BACKUP_VOLUME);
    json!({ "state": "Completed", "progress": 100, "volumeName": volume, "snapshotName": backup.spec.snapshot_name, "snapshotCreatedAt": Time::now() })
}

async fn release<K>(api: &Api<K>, name: &str) -> Result<K, kube::Error>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } }))).await
}

fn volume_manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: longhorn.io/v1beta2\nkind: Volume\nmetadata: {{name: {name}}}\nspec: {{size: \"16777216\", frontend: blockdev, {more}}}\n"
    )
}

fn job_manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: longhorn.io/v1beta2\nkind: RecurringJob\nmetadata: {{name: {name}}}\nspec: {{name: {name}, concurrency: 10, groups: [default], {more}}}\n"
    )
}

async fn attached(cluster: &Cluster, name: &str) {
    let volumes = api::<Volume>(cluster);
    eventually(SOON, "the volume is placed", || async {
        let volume = volumes.get(name).await.map_err(|e| e.to_string())?;
        volume.labels().get(names::LABEL_NODE).map(drop).ok_or_else(|| format!("{:?}", volume.status))
    })
    .await;
    write_status(&volumes, name, json!({ "state": VolumeState::Attached, "currentNodeID": "n1" })).await;
}

/// A daily schedule whose time was two minutes ago: it fires again tomorrow only, or when a test makes it due.
fn two_minutes_ago() -> (String, Timestamp) {
    let past = Timestamp::now().as_second() - 120;
    let at = Timestamp::from_second(past - past % 60).unwrap();
    let wall = at.to_zoned(jiff::tz::TimeZone::UTC);
    (format!("{} {} * * *", wall.minute(), wall.hour()), at)
}

/// Lets `at` be the job's next time: its run begins at once.
async fn make_due(cluster: &Cluster, job: &str, at: Timestamp) {
    let jobs = api::<RecurringJob>(cluster);
    eventually(SOON, "the job was seen", || async {
        let object = jobs.get(job).await.map_err(|e| e.to_string())?;
        object.status.filter(|s| s.next_schedule_at.get().is_some()).map(drop).ok_or_else(|| "no next time".to_owned())
    })
    .await;
    let earlier = at - SignedDuration::from_hours(24);
    write_status(&jobs, job, json!({ "nextScheduleAt": Time::from(at), "lastScheduledAt": Time::from(earlier) })).await;
}

async fn run_over(cluster: &Cluster, job: &str, at: Timestamp, within: Duration) -> RecurringJob {
    eventually(within, "the run is over", || async {
        let object = api::<RecurringJob>(cluster).get(job).await.map_err(|e| e.to_string())?;
        let run = object.status.as_ref().and_then(|status| status.last_run.clone()).ok_or("no run")?;
        let over = run.scheduled_at.get() == Some(at) && !run.finished_at.is_unset();
        if over {
            Ok(object)
        } else {
            Err(format!("{:?} of {:?}: {:?}", run.outcome, run.scheduled_at, run.volumes.iter().take(3).collect::<Vec<_>>()))
        }
    })
    .await
}

async fn executions(cluster: &Cluster, job: &str) -> i64 {
    api::<RecurringJob>(cluster).get(job).await.unwrap().status.unwrap_or_default().execution_count
}

async fn event(cluster: &Cluster, reason: &str, about: &str) -> String {
    let events = Api::<Event>::namespaced(cluster.client(), cluster.namespace());
    eventually(SOON, &format!("an Event {reason} about {about}"), || async {
        let list = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
        let found = list.items.into_iter().find(|event| {
            event.reason.as_deref() == Some(reason) && event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(about)
        });
        found.and_then(|event| event.note).ok_or_else(|| "none".to_owned())
    })
    .await
}

/// A completed backup that the job made in an earlier run.
async fn earlier_backup(cluster: &Cluster, name: &str, job: Option<&str>, volume: &str, taken: &str) {
    let mut labels = json!({ (names::LABEL_BACKUP_VOLUME): volume, (names::LABEL_BACKUP_TARGET): "default" });
    if let Some(job) = job {
        labels[names::LABEL_RECURRING_JOB] = json!(job);
    }
    let object: Backup = serde_json::from_value(json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Backup",
        "metadata": { "name": name, "labels": labels, "finalizers": [names::FINALIZER] },
        "spec": { "snapshotName": format!("of-{name}") },
    }))
    .unwrap();
    let backups = api::<Backup>(cluster);
    backups.create(&PostParams::default(), &object).await.unwrap();
    write_status(&backups, name, json!({ "state": "Completed", "volumeName": volume, "snapshotCreatedAt": taken })).await;
    // Only now the agent sees it: it would take one without a state for one to make.
    let node = json!({ "metadata": { "labels": { (names::LABEL_NODE): "n1" } } });
    backups.patch(name, &PatchParams::default(), &Patch::Merge(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_placed_and_snapshots_are_handed_to_their_node_or_told_why_not() {
    let cluster = Cluster::shared("placing").await;
    let _leader = Leader::start(&cluster, "m1").await;

    cluster.apply(&volume_manifest("vol-a", "numberOfReplicas: 3, backupTargetName: default"));
    let volumes = api::<Volume>(&cluster);
    eventually(SOON, "no node is said", || async {
        let status = volumes.get("vol-a").await.unwrap().status.unwrap_or_default();
        let condition = find_condition(&status.conditions, condition_type::SCHEDULED).cloned().ok_or("no condition")?;
        condition.message.contains("no node is known").then_some(()).ok_or(condition.message)
    })
    .await;
    assert!(event(&cluster, "FailedScheduling", "vol-a").await.contains("no node is known"));

    // A snapshot waits for its volume's node, another names a volume that is not there.
    let snapshot = |name: &str, volume: &str| {
        format!(
            "apiVersion: longhorn.io/v1beta2\nkind: Snapshot\nmetadata: {{name: {name}}}\nspec: {{volume: {volume}, createSnapshot: true}}\n"
        )
    };
    cluster.apply(&snapshot("snap-a", "vol-a"));
    cluster.apply(&snapshot("snap-b", "vol-b"));
    let snapshots = api::<Snapshot>(&cluster);
    eventually(SOON, "the unknown volume is named", || async {
        let error = snapshots.get("snap-b").await.unwrap().status.unwrap_or_default().error;
        (error == "failed to get volume vol-b").then_some(()).ok_or(error)
    })
    .await;

    beat(&api(&cluster)).await.unwrap();
    cluster.apply(&volume_manifest("vol-b", "numberOfReplicas: 1, backupTargetName: default"));
    for (snap, vol) in [("snap-a", "vol-a"), ("snap-b", "vol-b")] {
        let admitted = eventually(SOON, "the snapshot is handed to n1", || async {
            let snapshot = snapshots.get(snap).await.unwrap();
            if snapshot.labels().get(names::LABEL_NODE).is_some_and(|node| node == "n1") {
                Ok(snapshot)
            } else {
                Err(format!("{:?}", snapshot.metadata))
            }
        })
        .await;
        let volume = volumes.get(vol).await.unwrap();
        assert_eq!(admitted.labels().get(names::LABEL_VOLUME).map(String::as_str), Some(vol));
        assert_eq!(admitted.owner_references()[0].uid, volume.uid().unwrap());
        assert_eq!(admitted.finalizers(), [names::FINALIZER]);
        assert_eq!(admitted.status.unwrap_or_default().error, "");
        assert_eq!(volume.labels().get(names::LABEL_NODE).map(String::as_str), Some("n1"));
        assert_eq!(volume.labels().get("recurring-job-group.longhorn.io/default").map(String::as_str), Some("enabled"));
        assert_eq!(volume.finalizers(), [names::FINALIZER]);
    }
    assert!(event(&cluster, "Degraded", "vol-a").await.contains("3 copies"));

    // Asked for elsewhere: nothing moves, and the Event names the node.
    volumes.patch("vol-a", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "nodeID": "n9" } }))).await.unwrap();
    eventually(SOON, "the wrong node is told", || async {
        let notes = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
        notes.contains("data is on node n1").then_some(()).ok_or(notes)
    })
    .await;

    // Without a node that has it, an object goes as soon as it is deleted.
    cluster.apply(&volume_manifest("vol-c", "numberOfReplicas: 1, backupTargetName: default, nodeSelector: [nowhere]"));
    eventually(SOON, "it is seen", || async {
        (!volumes.get("vol-c").await.unwrap().finalizers().is_empty()).then_some(()).ok_or("not yet".to_owned())
    })
    .await;
    volumes.delete("vol-c", &DeleteParams::default()).await.unwrap();
    eventually(SOON, "it is gone", || async {
        volumes.get_opt("vol-c").await.unwrap().map_or(Ok(()), |_| Err("there".to_owned()))
    })
    .await;

    // The agent says nothing more: after 40 s nobody knows how the node is.
    eventually(Duration::from_secs(70), "the silent node is marked", || async {
        let status = api::<Node>(&cluster).get("n1").await.unwrap().status.unwrap_or_default();
        let ready = find_condition(&status.conditions, condition_type::READY).cloned().ok_or("no condition")?;
        (ready.reason == "AgentSilent").then_some(()).ok_or(ready.reason)
    })
    .await;
    beat(&api(&cluster)).await.unwrap();
    let status = api::<Node>(&cluster).get("n1").await.unwrap().status.unwrap_or_default();
    assert_eq!(find_condition(&status.conditions, condition_type::READY).unwrap().reason, "AgentRunning");
}

#[tokio::test(flavor = "multi_thread")]
async fn b25_b26_b38_jobs_make_their_objects_at_their_time_and_keep_exactly_their_own_newest() {
    let cluster = Cluster::shared("jobs").await;
    let _leader = Leader::start(&cluster, "m1").await;
    let _agent = Agent::start(&cluster);
    for volume in ["vol-on", "vol-off"] {
        cluster.apply(&volume_manifest(volume, "numberOfReplicas: 1, backupTargetName: default"));
    }
    attached(&cluster, "vol-on").await;
    attached(&cluster, "vol-off").await;
    write_status(&api::<Volume>(&cluster), "vol-off", json!({ "state": "detached", "currentNodeID": "" })).await;

    // Earlier results: three of the job, one of another job, one of a user.
    for (name, job, taken) in [
        ("backup-old1", Some("backups"), "2026-01-01T00:00:00Z"),
        ("backup-old2", Some("backups"), "2026-01-02T00:00:00Z"),
        ("backup-old3", Some("backups"), "2026-01-03T00:00:00Z"),
        ("backup-other", Some("others"), "2025-01-01T00:00:00Z"),
        ("backup-user", None, "2025-01-01T00:00:00Z"),
    ] {
        earlier_backup(&cluster, name, job, "vol-on", taken).await;
    }
    let (cron, at) = two_minutes_ago();
    cluster.apply(&job_manifest("backups", &format!("task: backup, cron: \"{cron}\", retain: 2, labels: {{tier: gold}}")));
    cluster.apply(&job_manifest("snaps", "task: snapshot, cron: \"* * * * *\", retain: 1"));
    let backups = api::<Backup>(&cluster);
    let names_now = || async {
        backups.list(&ListParams::default()).await.unwrap().items.into_iter().map(|b| b.name_any()).collect::<Vec<_>>()
    };
    make_due(&cluster, "backups", at).await;
    let job = run_over(&cluster, "backups", at, SOON).await;
    let status = job.status.clone().unwrap();
    let run = status.last_run.unwrap();
    assert_eq!(run.outcome, RunOutcome::Succeeded, "{run:?}");
    assert_eq!((status.counts.succeeded, status.counts.skipped, status.execution_count), (1, 1, 1));
    let of = |name: &str| run.volumes.iter().find(|v| v.volume == name).unwrap().clone();
    assert_eq!(of("vol-off").outcome, VolumeOutcome::Skipped);
    assert!(of("vol-off").reason.contains("allow-recurring-job-while-volume-detached"), "{:?}", of("vol-off"));
    assert!(event(&cluster, "RunSkipped", "backups").await.contains("vol-off"));
    let volume = api::<Volume>(&cluster).get("vol-on").await.unwrap();
    let expected = names::run_names(&job.uid().unwrap(), &volume.uid().unwrap(), at);
    assert_eq!((of("vol-on").backup, of("vol-on").snapshot), (expected.backup.clone(), expected.snapshot.clone()));
    let made = backups.get(&expected.backup).await.unwrap();
    assert_eq!(made.spec.snapshot_name, expected.snapshot);
    assert_eq!(made.spec.labels.get("tier").map(String::as_str), Some("gold"));
    assert_eq!(made.spec.labels.get(names::LABEL_RECURRING_JOB).map(String::as_str), Some("backups"));
    assert_eq!(made.spec.labels.get(names::LABEL_RECURRING_JOB_UID), job.uid().as_ref());

    eventually(SOON, "retain 2 is kept, and nothing of others is touched", || async {
        let mut have = names_now().await;
        have.sort();
        let mut want =
            vec!["backup-old3".to_owned(), "backup-other".to_owned(), "backup-user".to_owned(), expected.backup.clone()];
        want.sort();
        if have == want { Ok(()) } else { Err(format!("{have:?}")) }
    })
    .await;
    eventually(SOON, "each removal is told with its reason", || async {
        let notes =
            cluster.kubectl(&["get", "events", "--field-selector", "reason=Retired", "-o", "jsonpath={.items[*].message}"]);
        let both = ["backup-old1", "backup-old2"].iter().all(|name| notes.contains(name));
        if both && notes.contains("retain is 2") { Ok(()) } else { Err(notes) }
    })
    .await;

    assert!(event(&cluster, "MissedSchedule", "backups").await.contains("late"));

    // The same time once more, as after a restored status: nothing is made twice. B-27: with the setting, the detached volume runs too.
    cluster.apply(
        "apiVersion: longhorn.io/v1beta2\nkind: Setting\nmetadata: {name: allow-recurring-job-while-volume-detached}\nvalue: \"true\"\n",
    );
    eventually(SOON, "a run with both volumes", || async {
        let before = executions(&cluster, "backups").await;
        make_due(&cluster, "backups", at).await;
        eventually(SOON, "one more run is over", || async {
            let now = executions(&cluster, "backups").await;
            (now > before).then_some(()).ok_or(format!("{now}"))
        })
        .await;
        let job = run_over(&cluster, "backups", at, SOON).await;
        let run = job.status.and_then(|status| status.last_run).unwrap_or_default();
        let both = run.volumes.len() == 2 && run.volumes.iter().all(|v| v.outcome == VolumeOutcome::Succeeded);
        both.then_some(()).ok_or_else(|| format!("{run:?}"))
    })
    .await;
    let second = names_now().await;
    assert_eq!(second.iter().filter(|name| **name == expected.backup).count(), 1);
    assert_eq!(second.len(), 5, "one more, of vol-off: {second:?}");

    // B-26: two firings by the clock, one snapshot of each volume is kept.
    let mut fired = std::collections::BTreeSet::new();
    eventually(Duration::from_secs(150), "two runs by the clock", async || {
        let status = api::<RecurringJob>(&cluster).get("snaps").await.unwrap().status.unwrap_or_default();
        let run = status.last_run.filter(|run| run.outcome == RunOutcome::Succeeded);
        fired.extend(run.and_then(|run| run.scheduled_at.get()));
        if fired.len() >= 2 { Ok(()) } else { Err(format!("{fired:?}")) }
    })
    .await;
    eventually(SOON, "one snapshot of the job is kept for each volume", || async {
        let mine = ListParams::default().labels(&format!("{}=snaps", names::LABEL_RECURRING_JOB));
        let list = api::<Snapshot>(&cluster).list(&mine).await.unwrap().items;
        let count = |volume: &str| list.iter().filter(|s| s.spec.volume == volume).count();
        let counts = (count("vol-on"), count("vol-off"));
        if counts == (1, 1) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;

    // Deleting a job deletes nothing of what it made.
    let jobs = api::<RecurringJob>(&cluster);
    let left = names_now().await;
    jobs.delete("backups", &DeleteParams::default()).await.unwrap();
    eventually(SOON, "the job is gone", || async { jobs.get_opt("backups").await.unwrap().map_or(Ok(()), |_| Err("there")) })
        .await;
    assert_eq!(names_now().await, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_volumes_on_one_schedule_run_once_each_though_the_leader_dies_twice() {
    const VOLUMES: usize = 200;
    let cluster = Cluster::shared("many").await;
    let leader = Leader::start(&cluster, "m1").await;
    let agent = Agent::start(&cluster);
    let volumes = api::<Volume>(&cluster);
    let named: Vec<String> = (0..VOLUMES).map(|i| format!("vol-{i:03}")).collect();
    let (cluster_ref, volumes_ref) = (&cluster, &volumes);
    stream::iter(&named)
        .for_each_concurrent(8, |name| async move {
            let object: Volume = serde_json::from_value(json!({
                "apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "metadata": { "name": name }, "spec": { "size": "16777216" },
            }))
            .unwrap();
            volumes_ref.create(&PostParams::default(), &object).await.unwrap();
            attached(cluster_ref, name).await;
        })
        .await;
    let (cron, at) = two_minutes_ago();
    cluster.apply(&job_manifest("many", &format!("task: backup, cron: \"{cron}\", retain: 2")));
    make_due(&cluster, "many", at).await;

    let backups = api::<Backup>(&cluster);
    let count = || async { backups.list_metadata(&ListParams::default()).await.unwrap().items.len() };
    let mut leader = Some(leader);
    for (n, made) in [(2, 20), (3, 110)] {
        eventually(Duration::from_secs(120), "some of the run is done", || async {
            (count().await >= made).then_some(()).ok_or("not yet".to_owned())
        })
        .await;
        drop(leader.take());
        leader = Some(Leader::start(&cluster, &format!("m{n}")).await);
    }
    let job = run_over(&cluster, "many", at, Duration::from_secs(180)).await;
    drop(agent);
    let status = job.status.unwrap();
    assert_eq!(status.last_run.as_ref().unwrap().outcome, RunOutcome::Succeeded);
    assert_eq!((status.counts.succeeded, status.counts.failed, status.counts.skipped, status.execution_count), (200, 0, 0, 1));
    let made = backups.list(&ListParams::default()).await.unwrap().items;
    let mut backed_up: Vec<String> = made.iter().map(|b| b.labels().get(names::LABEL_BACKUP_VOLUME).cloned().unwrap()).collect();
    backed_up.sort();
    assert_eq!(backed_up, named, "every volume once");
    assert!(made.iter().all(|b| b.status.as_ref().is_some_and(|s| s.state == BackupState::Completed)));
    assert_eq!(api::<Snapshot>(&cluster).list_metadata(&ListParams::default()).await.unwrap().items.len(), VOLUMES);
    drop(leader);
}

/// Volumes on n1, attached.
async fn attached_volumes(cluster: &Cluster, count: usize) {
    for n in 0..count {
        let name = format!("vol-{n:02}");
        cluster.apply(&volume_manifest(&name, "numberOfReplicas: 1, backupTargetName: default"));
        attached(cluster, &name).await;
    }
}

/// The next full minute that is not too near, with a schedule that fires then and tomorrow.
fn next_minute() -> (String, Timestamp) {
    let soon = Timestamp::now().as_second() + 10;
    let at = Timestamp::from_second(soon - soon % 60 + 60).unwrap();
    let wall = at.to_zoned(jiff::tz::TimeZone::UTC);
    (format!("{} {} * * *", wall.minute(), wall.hour()), at)
}

/// Of two processes, the index of the one that leads.
async fn leading(cluster: &Cluster, managers: &[Role; 2]) -> usize {
    eventually(SOON, "one of the processes leads", async || {
        let holder = cluster.get("lease", "drover-manager")["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let is_it = |role: &Role| holder.contains(&format!("_{}_", role.process.pid()));
        managers.iter().position(is_it).ok_or(holder)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_made_once_though_the_leading_process_is_killed_in_its_minute() {
    const VOLUMES: usize = 12;
    let cluster = Cluster::shared("handover").await;
    let mut managers = ["one", "two"].map(|name| roles::manager(&cluster, name, &[]));
    let _agent = Agent::start(&cluster);
    attached_volumes(&cluster, VOLUMES).await;
    let first = leading(&cluster, &managers).await;
    let (cron, at) = next_minute();
    let manifest = job_manifest("minute", &format!("task: snapshot, cron: \"{cron}\", retain: 5"));
    cluster.apply(&manifest.replace("concurrency: 10", "concurrency: 1"));

    let snapshots = api::<Snapshot>(&cluster);
    let made = || async { snapshots.list_metadata(&ListParams::default()).await.unwrap().items.len() };
    eventually(Duration::from_secs(90), "the run begins by the clock", || async {
        (made().await > 0).then_some(()).ok_or("nothing was made")
    })
    .await;
    managers[first].process.kill();
    assert!(Timestamp::now().duration_since(at) < SignedDuration::from_secs(60), "killed in the minute of the run");
    assert!(made().await < VOLUMES, "killed in the middle of the run");

    let job = run_over(&cluster, "minute", at, Duration::from_secs(90)).await;
    assert_eq!(leading(&cluster, &managers).await, 1 - first);
    let status = job.status.unwrap();
    let run = status.last_run.unwrap();
    assert_eq!((run.outcome, run.volumes.len(), status.execution_count), (RunOutcome::Succeeded, VOLUMES, 1), "{run:?}");
    let mut of: Vec<String> = snapshots.list(&ListParams::default()).await.unwrap().into_iter().map(|s| s.spec.volume).collect();
    of.sort();
    assert_eq!(of, (0..VOLUMES).map(|n| format!("vol-{n:02}")).collect::<Vec<_>>(), "one snapshot of each volume");
    // The outcome is on the metrics of the process that saw it.
    let metric = "drover_recurring_job_volume_runs_total{recurring_job=\"minute\",outcome=\"succeeded\"}";
    let counted = managers[1 - first].metric(metric).unwrap_or_default();
    assert!(1.0 <= counted && counted <= VOLUMES as f64, "{counted}");

    // The one that died comes back, waits, and nothing is made again.
    managers[first].restart();
    assert_eq!(leading(&cluster, &managers).await, 1 - first);
    assert_eq!((made().await, executions(&cluster, "minute").await), (VOLUMES, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn b36_b37_a_job_that_cannot_run_says_so_and_runs_once_it_is_mended() {
    let cluster = Cluster::shared("invalid").await;
    let _leader = Leader::start(&cluster, "m1").await;
    let jobs = api::<RecurringJob>(&cluster);
    // What the API server itself refuses is as good; what it lets through is said in the status.
    for (name, more, words) in [
        ("trims", "task: filesystem-trim, cron: \"0 * * * *\", retain: 1", "not supported yet"),
        ("zones", "task: backup, cron: \"0 * * * *\", timeZone: Mars/Olympus, retain: 1", "Mars/Olympus"),
        ("never", "task: backup, cron: \"61 * * * *\", retain: 1", "61"),
    ] {
        match cluster.try_apply(&job_manifest(name, more)) {
            Err(refusal) => assert!(refusal.contains(words) || refusal.contains("spec"), "{name}: {refusal}"),
            Ok(_) => {
                assert!(event(&cluster, "Invalid", name).await.contains(words), "{name}");
                let status = jobs.get(name).await.unwrap().status.unwrap();
                let valid = find_condition(&status.conditions, condition_type::VALID).unwrap();
                assert!(valid.message.contains(words) && status.next_schedule_at.is_unset(), "{name}: {status:?}");
            }
        }
    }
    // Refused for a limit, it runs once the limit is raised.
    cluster.apply(&job_manifest("hoards", "task: backup, cron: \"0 * * * *\", retain: 150"));
    assert!(event(&cluster, "Invalid", "hoards").await.contains("recurring-job-max-retention"));
    cluster
        .apply("apiVersion: longhorn.io/v1beta2\nkind: Setting\nmetadata: {name: recurring-job-max-retention}\nvalue: \"200\"\n");
    eventually(SOON, "the raised limit lets the job run", || async {
        let status = jobs.get("hoards").await.unwrap().status.unwrap();
        status.next_schedule_at.get().map(drop).ok_or_else(|| format!("{:?}", status.conditions))
    })
    .await;

    jobs.patch("zones", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "timeZone": "Europe/Berlin" } })))
        .await
        .unwrap();
    eventually(SOON, "the mended job has a next time and no run of the past", || async {
        let status = jobs.get("zones").await.unwrap().status.unwrap();
        match (status.next_schedule_at.get(), status.last_run) {
            (Some(next), None) if next > Timestamp::now() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
