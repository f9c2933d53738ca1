//! Tests of `run`: what a run does with the world it finds.

use jiff::Timestamp;

use super::facts::{Backup, BackupState, Facts, Snapshot, SnapshotState, Volume};
use super::run::*;
use super::spec::{Job, Task};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).expect("timestamp")
}

fn job(task: Task, concurrency: usize) -> Job {
    Job { task, concurrency, ..Job::for_tests("nightly") }
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.into(),
        uid: format!("uid-{name}"),
        node: Some("n1".into()),
        node_ready: true,
        attached: true,
        unusable: None,
        target: "default".into(),
    }
}

fn facts(volumes: impl IntoIterator<Item = Volume>) -> Facts {
    Facts { volumes: volumes.into_iter().map(|v| (v.name.clone(), v)).collect(), drop_used_snapshots: true, ..Facts::default() }
}

fn snapshot(volume: &str, state: SnapshotState, created: Timestamp) -> Snapshot {
    Snapshot {
        volume: volume.into(),
        job: Some("nightly".into()),
        takes_snapshot: true,
        state,
        taken_at: created,
        created,
        deleting: false,
    }
}

fn backup(volume: &str, snapshot: &str, state: BackupState, moved_at: Timestamp) -> Backup {
    Backup {
        volume: volume.into(),
        snapshot: snapshot.into(),
        job: Some("nightly".into()),
        waits_for: None,
        made_here: true,
        job_uid: None,
        state,
        snapshot_at: moved_at,
        moved_at,
        deleting: false,
        being_restored: false,
    }
}

/// Does what `act` does when everything works.
fn make(run: &mut Run, facts: &mut Facts, step: &Step, now: Timestamp) {
    for wanted in &step.wanted {
        if wanted.make_snapshot {
            facts.snapshots.insert(wanted.snapshot.clone(), snapshot(&wanted.volume, SnapshotState::Waiting, now));
        }
        if let Some(name) = &wanted.backup {
            facts.backups.insert(name.clone(), backup(&wanted.volume, &wanted.snapshot, BackupState::Unfinished, now));
        }
        assert_eq!(note_made(run, wanted, &Made::All), None);
    }
}

fn stages(run: &Run) -> Vec<(&str, &Stage)> {
    run.entries.iter().map(|e| (e.volume.as_str(), &e.stage)).collect()
}

#[test]
fn no_more_volumes_than_the_concurrency_are_worked_on_at_once_and_all_get_their_turn() {
    let job = job(Task::Backup, 3);
    let mut facts = facts((0..20).map(|i| volume(&format!("v{i:02}"))));
    let mut run = begin(&job, &facts, None, at(0), at(1)).run;
    let mut rounds = 0;
    while outcome(&run).is_none() {
        let now = at(2 + rounds);
        let step = step(&mut run, &job, &facts, now);
        make(&mut run, &mut facts, &step, now);
        let busy = run.entries.iter().filter(|e| e.stage == Stage::Running).count();
        assert!(busy <= 3, "{busy} at once");
        for backup in facts.backups.values_mut() {
            backup.state = BackupState::Completed;
        }
        rounds += 1;
        assert!(rounds < 20, "the run does not end");
    }
    assert_eq!(outcome(&run), Some(Outcome::Succeeded));
    assert_eq!(facts.backups.len(), 20);
    assert_eq!(rounds, 8, "7 rounds of work, one to see the end");
}

#[test]
fn a_volume_that_cannot_take_part_is_left_out_with_the_reason() {
    let cases: Vec<(&str, Volume, bool, Result<(), &str>)> = vec![
        ("attached", volume("v1"), false, Ok(())),
        ("detached", Volume { attached: false, ..volume("v1") }, false, Err("detached")),
        ("detached, allowed", Volume { attached: false, ..volume("v1") }, true, Ok(())),
        ("not placed", Volume { node: None, ..volume("v1") }, false, Err("on no node")),
        ("restoring", Volume { unusable: Some("is being restored"), ..volume("v1") }, true, Err("being restored")),
        ("its node is away", Volume { node_ready: false, ..volume("v1") }, false, Err("node n1")),
    ];
    for (what, volume, detached_too, expected) in cases {
        let facts = Facts { detached_too, ..facts([volume]) };
        let begun = begin(&job(Task::Backup, 10), &facts, None, at(0), at(0));
        match (&begun.run.entries[0].stage, expected) {
            (Stage::Waiting, Ok(())) => {}
            (Stage::Skipped(reason) | Stage::Failed(reason), Err(words)) => {
                assert!(reason.contains(words), "{what}: {reason}");
                assert_eq!(begun.skipped.len() + begun.failed.len(), 1, "{what}: counted once");
            }
            (stage, _) => panic!("{what}: {stage:?}"),
        }
    }
}

#[test]
fn work_of_an_earlier_time_makes_its_volume_sit_out_and_is_watched_to_its_end() {
    let job = job(Task::Backup, 10);
    let mut facts = facts([volume("v1"), volume("v2")]);
    let mut first = begin(&job, &facts, None, at(0), at(0)).run;
    let made = step(&mut first, &job, &facts, at(0));
    make(&mut first, &mut facts, &made, at(0));
    let done = first.entries[1].backup.clone().expect("backup of v2");
    facts.backups.get_mut(&done).expect("v2").state = BackupState::Completed;
    for snapshot in facts.snapshots.values_mut() {
        snapshot.state = SnapshotState::Ready;
    }
    step(&mut first, &job, &facts, at(30));

    let begun = begin(&job, &facts, Some(&first), at(60), at(60));
    assert_eq!(begun.skipped.len(), 1);
    assert_eq!(begun.skipped[0].0, "v1");
    let mut second = begun.run;
    assert_eq!(stages(&second), [("v1", &Stage::Running), ("v2", &Stage::Waiting)]);
    let made = step(&mut second, &job, &facts, at(61));
    assert_eq!(made.wanted.len(), 1, "only v2 begins: {made:?}");
    make(&mut second, &mut facts, &made, at(61));
    for backup in facts.backups.values_mut() {
        backup.state = BackupState::Completed;
    }
    assert_eq!(step(&mut second, &job, &facts, at(62)).ended.len(), 2);
    assert_eq!(outcome(&second), Some(Outcome::Succeeded));
}

#[test]
fn a_volume_whose_turn_never_came_is_first_next_time() {
    let job = job(Task::Snapshot, 1);
    let mut facts = facts([volume("v1"), volume("v2"), volume("v3")]);
    let mut first = begin(&job, &facts, None, at(0), at(0)).run;
    let made = step(&mut first, &job, &facts, at(0));
    make(&mut first, &mut facts, &made, at(0));
    for snapshot in facts.snapshots.values_mut() {
        snapshot.state = SnapshotState::Ready;
    }
    step(&mut first, &job, &facts, at(59));
    let second = begin(&job, &facts, Some(&first), at(60), at(60)).run;
    let order: Vec<_> = second.entries.iter().map(|e| e.volume.as_str()).collect();
    assert_eq!(order, ["v2", "v3", "v1"]);
}

#[test]
fn what_nobody_takes_up_fails_after_ten_minutes_and_not_before() {
    let job = job(Task::Backup, 10);
    let mut facts = facts([volume("v1")]);
    let mut run = begin(&job, &facts, None, at(0), at(0)).run;
    let made = step(&mut run, &job, &facts, at(0));
    make(&mut run, &mut facts, &made, at(0));
    assert_eq!(step(&mut run, &job, &facts, at(599)), Step { look_at: Some(at(600)), ..Step::default() });
    assert_eq!(step(&mut run, &job, &facts, at(600)).ended, [0]);
    assert!(matches!(&run.entries[0].stage, Stage::Failed(reason) if reason.contains("10 minutes")), "{run:?}");
    // It does not keep the next time from beginning.
    assert_eq!(begin(&job, &facts, None, at(660), at(660)).run.entries[0].stage, Stage::Waiting);
}

#[test]
fn what_stood_still_fails_with_the_reason_that_it_gives_itself() {
    let job = job(Task::Backup, 10);
    let mut facts = facts([volume("v1")]);
    let mut run = begin(&job, &facts, None, at(0), at(0)).run;
    let made = step(&mut run, &job, &facts, at(0));
    make(&mut run, &mut facts, &made, at(0));
    for backup in facts.backups.values_mut() {
        backup.waits_for = Some("Waiting for the snapshot s1 to be ready".into());
    }
    assert_eq!(step(&mut run, &job, &facts, at(600)).ended, [0]);
    assert!(
        matches!(&run.entries[0].stage, Stage::Failed(reason) if reason.ends_with("Waiting for the snapshot s1 to be ready"))
    );
}

#[test]
fn a_store_that_is_away_for_ten_days_costs_one_pinned_snapshot_at_a_time() {
    let job = job(Task::Backup, 10);
    let mut facts = facts([volume("v1")]);
    for hour in 0..240 {
        let due = at(hour * 3600);
        let mut run = begin(&job, &facts, None, due, due).run;
        let made = step(&mut run, &job, &facts, due);
        make(&mut run, &mut facts, &made, due);
        assert_eq!(facts.read_by_backups().len(), 1, "hour {hour}");
        // What the plan of the Backup does after its wait.
        for backup in facts.backups.values_mut() {
            backup.state = BackupState::Failed("backup target default is not available: no route".into());
        }
        step(&mut run, &job, &facts, at(hour * 3600 + 540));
        assert!(matches!(&run.entries[0].stage, Stage::Failed(reason) if reason.contains("is not available: no route")));
    }
    assert!(facts.read_by_backups().is_empty());
}

#[test]
fn a_leader_that_takes_over_finds_the_run_in_the_status_and_makes_only_what_is_missing() {
    let job = job(Task::Backup, 10);
    let mut facts = facts([volume("v1")]);
    let mut run = begin(&job, &facts, None, at(0), at(0)).run;
    // The first leader died after it made the Snapshot and noted it.
    let made = step(&mut run, &job, &facts, at(0));
    facts.snapshots.insert(made.wanted[0].snapshot.clone(), snapshot("v1", SnapshotState::Ready, at(0)));
    note_made(&mut run, &made.wanted[0], &Made::SnapshotOnly);
    let again = step(&mut run, &job, &facts, at(20));
    assert_eq!(again.wanted.len(), 1);
    assert!(!again.wanted[0].make_snapshot);
    assert_eq!(again.wanted[0].backup, made.wanted[0].backup, "the same name");
    // It died before it noted anything: the same wish once more, under the same names.
    let mut unnoted = begin(&job, &facts, None, at(0), at(20)).run;
    unnoted.entries[0].stage = Stage::Waiting;
    assert_eq!(step(&mut unnoted, &job, &facts, at(20)).wanted, made.wanted);
}

#[test]
fn an_object_that_somebody_deletes_during_the_run_is_not_made_again() {
    for task in [Task::Backup, Task::Snapshot] {
        let job = job(task, 10);
        let mut facts = facts([volume("v1")]);
        let mut run = begin(&job, &facts, None, at(0), at(0)).run;
        let made = step(&mut run, &job, &facts, at(0));
        make(&mut run, &mut facts, &made, at(0));
        facts.snapshots.clear();
        facts.backups.clear();
        assert_eq!(step(&mut run, &job, &facts, at(5)).wanted, []);
        assert!(matches!(&run.entries[0].stage, Stage::Failed(reason) if reason.contains("deleted")), "{run:?}");
    }
}

#[test]
fn the_outcome_tells_partial_failure_from_failure_and_from_nothing_to_do() {
    let run = |stages: &[Stage]| Run {
        scheduled_at: at(0),
        started_at: at(0),
        entries: stages
            .iter()
            .map(|stage| Entry { volume: "v".into(), stage: stage.clone(), snapshot: None, backup: None })
            .collect(),
    };
    let (ok, bad, out) = (Stage::Succeeded, Stage::Failed("x".into()), Stage::Skipped("x".into()));
    assert_eq!(outcome(&run(&[ok.clone(), out.clone()])), Some(Outcome::Succeeded));
    assert_eq!(outcome(&run(&[ok.clone(), bad.clone()])), Some(Outcome::PartiallyFailed));
    assert_eq!(outcome(&run(&[bad, out.clone()])), Some(Outcome::Failed));
    assert_eq!(outcome(&run(&[out])), Some(Outcome::Skipped));
    assert_eq!(outcome(&run(&[])), Some(Outcome::Skipped));
    assert_eq!(outcome(&run(&[ok, Stage::Running])), None);
}
