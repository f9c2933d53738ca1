//! Tests of `retire`: whose objects go, when, and why.

use jiff::Timestamp;

use super::facts::{Backup, BackupState, Facts, Snapshot, SnapshotState, Volume};
use super::retire::*;
use super::run::{Entry, Run, Stage};
use super::spec::{Job, Task};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).expect("timestamp")
}

fn job(task: Task, retain: usize) -> Job {
    Job { task, retain, ..Job::for_tests("nightly") }
}

fn facts() -> Facts {
    let volume = Volume {
        name: "v1".into(),
        uid: "u1".into(),
        node: Some("n1".into()),
        node_ready: true,
        attached: true,
        unusable: None,
        target: "default".into(),
    };
    Facts { volumes: [("v1".to_owned(), volume)].into(), drop_used_snapshots: true, ..Facts::default() }
}

/// A completed backup `backup-{n}` of snapshot `snapshot-{n}`, both made by `job`, taken at second `n`.
fn add(facts: &mut Facts, n: i64, job: Option<&str>) {
    let job = job.map(str::to_owned);
    let snapshot = Snapshot {
        volume: "v1".into(),
        job: job.clone(),
        takes_snapshot: true,
        state: SnapshotState::Ready,
        taken_at: at(n),
        created: at(n),
        deleting: false,
    };
    let backup = Backup {
        volume: "v1".into(),
        snapshot: format!("snapshot-{n}"),
        job,
        waits_for: None,
        made_here: true,
        job_uid: None,
        state: BackupState::Completed,
        snapshot_at: at(n),
        moved_at: at(n),
        deleting: false,
        being_restored: false,
    };
    facts.snapshots.insert(format!("snapshot-{n}"), snapshot);
    facts.backups.insert(format!("backup-{n}"), backup);
}

fn four() -> Facts {
    let mut facts = facts();
    (1..=4).for_each(|n| add(&mut facts, n, Some("nightly")));
    facts
}

fn change(facts: &mut Facts, n: i64, change: impl FnOnce(&mut Backup)) {
    change(facts.backups.get_mut(&format!("backup-{n}")).expect("backup"));
}

fn names(job: &Job, facts: &Facts) -> Vec<String> {
    removals(job, facts, None, at(100)).into_iter().map(|removal| removal.name).collect()
}

#[test]
fn a_backup_job_keeps_its_newest_backups_and_the_snapshot_the_next_one_starts_from() {
    let all = removals(&job(Task::Backup, 2), &four(), None, at(100));
    let names: Vec<_> = all.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["backup-1", "backup-2", "snapshot-1", "snapshot-2", "snapshot-3"]);
    assert!(all.iter().all(|r| r.reason.starts_with("removed: ")), "{all:?}");
}

#[test]
fn nothing_goes_before_a_newer_backup_is_complete() {
    let mut facts = four();
    for n in [3, 4] {
        change(&mut facts, n, |b| b.state = BackupState::Unfinished);
    }
    assert_eq!(
        names(&job(Task::Backup, 2), &facts),
        ["snapshot-1"],
        "backups 1 and 2 are the newest two, 3 and 4 are being read"
    );
    for n in [3, 4] {
        change(&mut facts, n, |b| b.state = BackupState::Failed("x".into()));
    }
    assert_eq!(
        names(&job(Task::Backup, 2), &facts),
        ["snapshot-1", "snapshot-3", "snapshot-4"],
        "failed ones do not count and stay for their time"
    );
}

#[test]
fn what_others_made_is_never_touched_nor_counted() {
    for other in [None, Some("hourly")] {
        let mut facts = facts();
        add(&mut facts, 1, Some("nightly"));
        (2..=9).for_each(|n| add(&mut facts, n, other));
        assert_eq!(names(&job(Task::Backup, 1), &facts), ["snapshot-1"], "its snapshot is no base any more: backup-9 is newer");
    }
    let mut foreign = four();
    for n in 1..=4 {
        change(&mut foreign, n, |b| b.made_here = false);
    }
    assert_eq!(
        names(&job(Task::Backup, 1), &foreign),
        ["snapshot-1", "snapshot-2", "snapshot-3"],
        "found in the store, perhaps another cluster's"
    );
}

#[test]
fn a_backup_whose_object_was_made_anew_from_the_store_counts_for_the_job_whose_uid_it_keeps() {
    let newest_two = ["backup-1", "backup-2"];
    let none: [&str; 0] = [];
    for (what, here, uid, name, gone) in [
        ("made here, before uids were kept", true, None, "nightly", &newest_two[..]),
        ("made here", true, Some("uid-nightly"), "nightly", &newest_two),
        ("made anew, by this job", false, Some("uid-nightly"), "nightly", &newest_two),
        ("by a job of that name in another cluster", false, Some("uid-elsewhere"), "nightly", &none),
        ("nobody knows which cluster's", false, None, "nightly", &none),
        ("another job's label with this uid", false, Some("uid-nightly"), "hourly", &none),
    ] {
        let mut facts = four();
        for n in 1..=4 {
            change(&mut facts, n, |b| {
                (b.made_here, b.job_uid, b.job) = (here, uid.map(str::to_owned), Some(name.to_owned()));
            });
        }
        let removed = names(&job(Task::Backup, 2), &facts);
        let backups: Vec<_> = removed.iter().map(String::as_str).filter(|name| name.starts_with("backup-")).collect();
        assert_eq!(backups, gone, "{what}");
    }
}

#[test]
fn a_backup_that_is_being_restored_waits_for_the_end_of_that() {
    let mut facts = four();
    change(&mut facts, 1, |b| b.being_restored = true);
    assert!(!names(&job(Task::Backup, 2), &facts).contains(&"backup-1".to_owned()));
}

#[test]
fn a_snapshot_that_a_run_or_a_transfer_needs_stays() {
    let facts = four();
    let entry = Entry { volume: "v1".into(), stage: Stage::Running, snapshot: Some("snapshot-2".into()), backup: None };
    let mut run = Run { scheduled_at: at(9), started_at: at(9), entries: vec![entry] };
    let has = |facts: &Facts, run: &Run, name: &str| {
        removals(&job(Task::Backup, 2), facts, Some(run), at(100)).iter().any(|r| r.name == name)
    };
    assert!(!has(&facts, &run, "snapshot-2"));
    run.entries[0].stage = Stage::Succeeded;
    assert!(has(&facts, &run, "snapshot-2"));
    let mut facts = facts;
    add(&mut facts, 50, None);
    change(&mut facts, 50, |b| {
        b.state = BackupState::Unfinished;
        b.snapshot = "snapshot-2".into();
    });
    assert!(!has(&facts, &run, "snapshot-2"), "a user backs it up");
}

#[test]
fn a_snapshot_job_keeps_its_newest_whole_snapshots() {
    let mut facts = four();
    facts.backups.clear();
    assert_eq!(names(&job(Task::Snapshot, 3), &facts), ["snapshot-1"]);
    facts.snapshots.get_mut("snapshot-4").expect("4").state = SnapshotState::Failed("x".into());
    assert_eq!(
        names(&job(Task::Snapshot, 3), &facts),
        Vec::<String>::new(),
        "a failed one does not count, and shows until a good one follows"
    );
    facts.snapshots.get_mut("snapshot-4").expect("4").state = SnapshotState::Ready;
    facts.snapshots.get_mut("snapshot-2").expect("2").state = SnapshotState::Failed("x".into());
    assert_eq!(names(&job(Task::Snapshot, 3), &facts), ["snapshot-2"]);
}

#[test]
fn used_snapshots_stay_when_the_setting_says_so() {
    let facts = Facts { drop_used_snapshots: false, ..four() };
    assert_eq!(names(&job(Task::Backup, 2), &facts), ["backup-1", "backup-2"]);
}
