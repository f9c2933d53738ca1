//! Tests of `plan`: how the account of runs is kept.

use std::num::NonZeroU32;

use jiff::Timestamp;

use super::facts::{Facts, Volume};
use super::plan::*;
use super::run::{Made, Outcome, Stage, note_made};
use super::spec::Job;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).expect("timestamp")
}

fn facts(volumes: &[(&str, bool)]) -> Facts {
    let volume = |name: &str, attached| Volume {
        name: name.into(),
        uid: format!("uid-{name}"),
        node: Some("n1".into()),
        node_ready: true,
        attached,
        unusable: None,
        target: "default".into(),
    };
    Facts {
        volumes: volumes.iter().map(|(name, attached)| ((*name).to_owned(), volume(name, *attached))).collect(),
        ..Facts::default()
    }
}

fn begin(job: &Job, state: &mut State, facts: &Facts, now: Timestamp) -> Vec<NoteKind> {
    begin_due(job, state, facts, at(0), false, now).into_iter().map(|note| note.kind).collect()
}

#[test]
fn a_run_is_counted_once_for_each_volume_and_once_as_a_whole() {
    let job = Job::for_tests("nightly");
    let facts = facts(&[("v1", true), ("v2", false)]);
    let mut state = State { next: Some(at(60)), ..State::default() };
    assert_eq!(begin(&job, &mut state, &facts, at(60)), [NoteKind::Started, NoteKind::Skipped]);
    assert_eq!((state.last, state.next, state.skipped), (Some(at(60)), Some(at(120)), 1));
    assert_eq!(begin(&job, &mut state, &facts, at(61)), [], "not again at the same time");

    let step = advance(&job, &mut state, &facts, at(61));
    assert_eq!(step.wanted.len(), 1);
    let run = state.run.as_mut().expect("run");
    let refused = Made::Refused("no".into());
    let ended: Vec<usize> = step.wanted.iter().filter_map(|wanted| note_made(run, wanted, &refused)).collect();
    let notes = end(&mut state, &ended, at(62));
    assert_eq!(notes.len(), 1);
    assert!(notes[0].kind == NoteKind::RunFailed && notes[0].words.contains("v1: no"), "{notes:?}");
    assert_eq!(state.finished, Some((at(62), Outcome::Failed)));
    assert_eq!((state.succeeded, state.failed, state.skipped, state.executions), (0, 1, 1, 1));
    assert_eq!(end(&mut state, &[], at(63)), [], "it ends once");
}

#[test]
fn a_run_without_volumes_ends_at_once_and_says_why() {
    let job = Job::for_tests("nightly");
    let mut state = State { next: Some(at(60)), ..State::default() };
    begin(&job, &mut state, &facts(&[]), at(60));
    let notes = end(&mut state, &[], at(60));
    assert!(notes[0].words.contains("no volume has a label"), "{notes:?}");
    assert_eq!(state.finished.map(|(_, outcome)| outcome), Some(Outcome::Skipped));
}

#[test]
fn the_next_time_closes_the_account_of_a_run_under_way() {
    let job = Job { concurrency: 1, ..Job::for_tests("nightly") };
    let facts = facts(&[("v1", true), ("v2", true)]);
    let mut state = State { next: Some(at(60)), ..State::default() };
    begin(&job, &mut state, &facts, at(60));
    let step = advance(&job, &mut state, &facts, at(60));
    note_made(state.run.as_mut().expect("run"), &step.wanted[0], &Made::All);

    let kinds = begin(&job, &mut state, &facts, at(120));
    assert_eq!(kinds, [NoteKind::RunFailed, NoteKind::Skipped, NoteKind::Started, NoteKind::Skipped]);
    // v2 lost its turn at 60, v1 sits out 120; what v1 began at 60 goes on.
    assert_eq!((state.skipped, state.executions, state.finished), (2, 1, None));
    let stages: Vec<_> = state.run.as_ref().expect("run").entries.iter().map(|e| (e.volume.as_str(), &e.stage)).collect();
    assert_eq!(stages, [("v1", &Stage::Running), ("v2", &Stage::Waiting)]);
}

#[test]
fn times_given_up_leave_a_trace_in_the_status() {
    let job =
        Job { schedule: crate::schedule::Schedule::parse("0 0 1 1 *", "UTC").expect("schedule"), ..Job::for_tests("yearly") };
    let mut state = State { next: Some(at(0)), ..State::default() };
    assert_eq!(begin(&job, &mut state, &facts(&[]), at(3 * 86_400)), [NoteKind::Missed]);
    assert_eq!((state.last, state.given_up, state.run), (Some(at(0)), Some(at(3 * 86_400)), None));
}

#[test]
fn each_nth_run_is_full() {
    let full = |every: Option<u32>, executions| {
        let job = Job { full_every: every.and_then(NonZeroU32::new), ..Job::for_tests("nightly") };
        is_full_run(&job, &State { executions, ..State::default() })
    };
    assert_eq!((0..6).map(|n| full(Some(3), n)).collect::<Vec<_>>(), [false, false, true, false, false, true]);
    assert!(full(Some(1), 0) && !full(None, 0) && !full(Some(0), 0));
}
