//! What one pass over a RecurringJob does: the due time, the run, its end. Pure.

use jiff::Timestamp;

use super::due::{self, Due, Memory};
use super::facts::Facts;
use super::run::{self, Outcome, Run, Stage, Step};
use super::spec::Job;

/// What a job's status holds, in the terms of the decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The time of the last run.
    pub last: Option<Timestamp>,
    /// The next time.
    pub next: Option<Timestamp>,
    /// The last run, under way or over.
    pub run: Option<Run>,
    /// When and how it ended.
    pub finished: Option<(Timestamp, Outcome)>,
    /// When the time `last` was given up instead of run, if that is the newest news.
    pub given_up: Option<Timestamp>,
    /// Runs that are over.
    pub executions: i64,
    /// Volumes that succeeded, in all runs.
    pub succeeded: i64,
    /// Volumes that failed.
    pub failed: i64,
    /// Volumes that were left out.
    pub skipped: i64,
}

/// Something a person would want to know: each becomes an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of news.
    pub kind: NoteKind,
    /// The scheduled time it is about.
    pub at: Timestamp,
    /// The volume it is about, when it is about one.
    pub volume: Option<String>,
    /// The news.
    pub words: String,
}

/// Kinds of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// A time was missed.
    Missed,
    /// A run began.
    Started,
    /// A volume was left out of a run.
    Skipped,
    /// A run ended and nothing failed.
    RunSucceeded,
    /// A run ended and something failed.
    RunFailed,
}

impl Note {
    fn new(kind: NoteKind, at: Timestamp, words: String) -> Self {
        Self { kind, at, volume: None, words }
    }

    fn skipped(volume: &str, at: Timestamp, reason: &str) -> Self {
        let words = format!("volume {volume} is left out of the run of {at}: {reason}");
        Self { kind: NoteKind::Skipped, at, volume: Some(volume.to_owned()), words }
    }
}

impl State {
    fn under_way(&self) -> Option<&Run> {
        self.run.as_ref().filter(|_| self.finished.is_none())
    }
}

/// Begins the run that is due, if one is. The caller writes the state down before it makes anything for the run.
pub fn begin_due(
    job: &Job,
    state: &mut State,
    facts: &Facts,
    created: Timestamp,
    was_invalid: bool,
    now: Timestamp,
) -> Vec<Note> {
    let memory = Memory { last: state.last, next: state.next, created, was_invalid };
    let decision = due::decide(&job.schedule, &memory, now);
    state.next = decision.next;
    let mut notes = Vec::new();
    match decision.due {
        Due::Nothing => {}
        Due::GivenUp { newest, words } => {
            if state.under_way().is_none() {
                state.last = Some(newest);
                state.given_up = Some(now);
            }
            notes.push(Note::new(NoteKind::Missed, newest, words));
        }
        Due::Run { at, missed } => {
            notes.extend(missed.map(|words| Note::new(NoteKind::Missed, at, words)));
            let begun = run::begin(job, facts, state.under_way(), at, now);
            notes.extend(supersede(state, &begun.run, at));
            state.last = Some(at);
            state.finished = None;
            state.given_up = None;
            state.skipped += count(begun.skipped.len());
            state.failed += count(begun.failed.len());
            let turns = begun.run.entries.iter().filter(|entry| entry.stage == Stage::Waiting).count();
            notes.push(Note::new(NoteKind::Started, at, format!("the run of {at} began for {}", volumes(turns))));
            notes.extend(begun.skipped.iter().map(|(volume, reason)| Note::skipped(volume, at, reason)));
            state.run = Some(begun.run);
        }
    }
    notes
}

/// Ends the account of a run that the next time finds under way. What it began goes on in `next`.
fn supersede(state: &mut State, next: &Run, at: Timestamp) -> Vec<Note> {
    let Some(run) = state.under_way() else { return Vec::new() };
    let goes_on = |volume: &str| next.entries.iter().any(|entry| entry.volume == volume && entry.stage == Stage::Running);
    let late: Vec<&str> =
        run.entries.iter().filter(|e| !e.stage.is_over() && !goes_on(&e.volume)).map(|e| e.volume.as_str()).collect();
    let reason = format!("its turn did not come before {at}, where it goes first");
    let words = format!(
        "the run of {} was not over when {at} came: {}; {} did not get a turn",
        run.scheduled_at,
        tally(run),
        volumes(late.len())
    );
    let mut notes = vec![Note::new(NoteKind::RunFailed, run.scheduled_at, words)];
    notes.extend(late.iter().map(|volume| Note::skipped(volume, run.scheduled_at, &reason)));
    state.skipped += count(late.len());
    state.executions += 1;
    notes
}

/// Moves the run on. What the step wants made is made by the caller, who then calls [`end`].
pub fn advance(job: &Job, state: &mut State, facts: &Facts, now: Timestamp) -> Step {
    if state.finished.is_some() {
        return Step::default();
    }
    state.run.as_mut().map(|run| run::step(run, job, facts, now)).unwrap_or_default()
}

/// Counts the entries that `ended`, and closes the run when nothing is left to do in it.
pub fn end(state: &mut State, ended: &[usize], now: Timestamp) -> Vec<Note> {
    let Some(run) = state.run.as_ref().filter(|_| state.finished.is_none()) else { return Vec::new() };
    let mut notes = Vec::new();
    for entry in ended.iter().filter_map(|index| run.entries.get(*index)) {
        match &entry.stage {
            Stage::Succeeded => state.succeeded += 1,
            Stage::Failed(_) => state.failed += 1,
            Stage::Skipped(reason) => {
                state.skipped += 1;
                notes.push(Note::skipped(&entry.volume, run.scheduled_at, reason));
            }
            Stage::Waiting | Stage::Running => {}
        }
    }
    let Some(outcome) = run::outcome(run) else { return notes };
    let words =
        format!("the run of {} ended after {} s: {}", run.scheduled_at, now.duration_since(run.started_at).as_secs(), tally(run));
    notes.push(match outcome {
        Outcome::Succeeded | Outcome::Skipped => Note::new(NoteKind::RunSucceeded, run.scheduled_at, words),
        Outcome::PartiallyFailed | Outcome::Failed => {
            Note::new(NoteKind::RunFailed, run.scheduled_at, format!("{words}; {}", failures(run)))
        }
    });
    state.finished = Some((now, outcome));
    state.executions += 1;
    notes
}

/// Whether the backups of the run under way carry every block anew: each `full_every`-th run does.
pub fn is_full_run(job: &Job, state: &State) -> bool {
    job.full_every.is_some_and(|every| (state.executions + 1) % i64::from(every.get()) == 0)
}

fn tally(run: &Run) -> String {
    let of = |wanted: fn(&Stage) -> bool| run.entries.iter().filter(|entry| wanted(&entry.stage)).count();
    if run.entries.is_empty() {
        return "no volume has a label of this job or of one of its groups".to_owned();
    }
    let parts = [
        (of(|s| matches!(s, Stage::Succeeded)), "succeeded"),
        (of(|s| matches!(s, Stage::Failed(_))), "failed"),
        (of(|s| matches!(s, Stage::Skipped(_))), "skipped"),
        (of(|s| matches!(s, Stage::Running)), "still in progress"),
    ];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn failures(run: &Run) -> String {
    let failed = run.entries.iter().filter_map(|entry| match &entry.stage {
        Stage::Failed(reason) => Some(format!("{}: {reason}", entry.volume)),
        _ => None,
    });
    failed.collect::<Vec<_>>().join("; ")
}

fn volumes(n: usize) -> String {
    if n == 1 { "1 volume".to_owned() } else { format!("{n} volumes") }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
