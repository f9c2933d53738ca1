//! A job's status, to and from the terms of the decisions.

use super::plan::State;
use super::run::{Entry, Outcome, Run, Stage};
use crate::crd::{LastRun, RecurringJobStatus, RunCounts, RunOutcome, VolumeOutcome, VolumeRun};

/// What the status remembers.
pub fn read(status: Option<&RecurringJobStatus>) -> State {
    let Some(status) = status else { return State::default() };
    let last_run = status.last_run.as_ref().filter(|run| run.outcome != RunOutcome::Missed);
    State {
        last: status.last_scheduled_at.get(),
        next: status.next_schedule_at.get(),
        run: last_run.and_then(read_run),
        given_up: status.last_run.as_ref().filter(|run| run.outcome == RunOutcome::Missed).and_then(|run| run.finished_at.get()),
        finished: last_run.and_then(|run| run.finished_at.get().zip(read_outcome(run.outcome))),
        executions: status.execution_count,
        succeeded: status.counts.succeeded,
        failed: status.counts.failed,
        skipped: status.counts.skipped,
    }
}

fn read_run(run: &LastRun) -> Option<Run> {
    let scheduled_at = run.scheduled_at.get()?;
    let entries = run.volumes.iter().map(read_entry).collect();
    Some(Run { scheduled_at, started_at: run.started_at.get().unwrap_or(scheduled_at), entries })
}

fn read_entry(entry: &VolumeRun) -> Entry {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let reason = || entry.reason.clone();
    Entry {
        volume: entry.volume.clone(),
        stage: match entry.outcome {
            VolumeOutcome::Waiting => Stage::Waiting,
            VolumeOutcome::Running => Stage::Running,
            VolumeOutcome::Succeeded => Stage::Succeeded,
            VolumeOutcome::Skipped => Stage::Skipped(reason()),
            VolumeOutcome::Failed | VolumeOutcome::Unknown => Stage::Failed(reason()),
        },
        snapshot: some(&entry.snapshot),
        backup: some(&entry.backup),
    }
}

fn read_outcome(outcome: RunOutcome) -> Option<Outcome> {
    match outcome {
        RunOutcome::Succeeded => Some(Outcome::Succeeded),
        RunOutcome::PartiallyFailed => Some(Outcome::PartiallyFailed),
        RunOutcome::Failed => Some(Outcome::Failed),
        RunOutcome::Skipped => Some(Outcome::Skipped),
        RunOutcome::Running | RunOutcome::Missed | RunOutcome::Unknown => None,
    }
}

/// Puts `state` into `status`; what the state does not speak of stays.
pub fn write(state: &State, status: &mut RecurringJobStatus) {
    status.last_scheduled_at = state.last.into();
    status.next_schedule_at = state.next.into();
    status.execution_count = state.executions;
    status.counts = RunCounts { succeeded: state.succeeded, failed: state.failed, skipped: state.skipped };
    if let Some(given_up) = state.given_up {
        status.last_run = Some(LastRun {
            scheduled_at: state.last.into(),
            finished_at: given_up.into(),
            outcome: RunOutcome::Missed,
            ..LastRun::default()
        });
    } else if let Some(run) = &state.run {
        status.last_run = Some(LastRun {
            scheduled_at: run.scheduled_at.into(),
            started_at: run.started_at.into(),
            finished_at: state.finished.map(|(at, _)| at).into(),
            outcome: state.finished.map_or(RunOutcome::Running, |(_, outcome)| write_outcome(outcome)),
            volumes: run.entries.iter().map(write_entry).collect(),
        });
    }
}

fn write_outcome(outcome: Outcome) -> RunOutcome {
    match outcome {
        Outcome::Succeeded => RunOutcome::Succeeded,
        Outcome::PartiallyFailed => RunOutcome::PartiallyFailed,
        Outcome::Failed => RunOutcome::Failed,
        Outcome::Skipped => RunOutcome::Skipped,
    }
}

fn write_entry(entry: &Entry) -> VolumeRun {
    let (outcome, reason) = match &entry.stage {
        Stage::Waiting => (VolumeOutcome::Waiting, String::new()),
        Stage::Running => (VolumeOutcome::Running, String::new()),
        Stage::Succeeded => (VolumeOutcome::Succeeded, String::new()),
        Stage::Failed(reason) => (VolumeOutcome::Failed, reason.clone()),
        Stage::Skipped(reason) => (VolumeOutcome::Skipped, reason.clone()),
    };
    VolumeRun {
        volume: entry.volume.clone(),
        outcome,
        reason,
        backup: entry.backup.clone().unwrap_or_default(),
        snapshot: entry.snapshot.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let at = |s: i64| Timestamp::from_second(1_767_225_600 + s).expect("timestamp");
        let stages =
            [Stage::Waiting, Stage::Running, Stage::Succeeded, Stage::Failed("bad".into()), Stage::Skipped("detached".into())];
        let entries = stages.into_iter().enumerate().map(|(i, stage)| Entry {
            volume: format!("v{i}"),
            stage,
            snapshot: (i > 0).then(|| format!("snapshot-{i}")),
            backup: (i > 1).then(|| format!("backup-{i}")),
        });
        let run = Run { scheduled_at: at(0), started_at: at(1), entries: entries.collect() };
        let state = State {
            last: Some(at(0)),
            next: Some(at(60)),
            run: Some(run),
            executions: 3,
            succeeded: 4,
            failed: 5,
            skipped: 6,
            ..State::default()
        };
        for finished in [None, Some((at(9), Outcome::PartiallyFailed)), Some((at(9), Outcome::Skipped))] {
            let state = State { finished, ..state.clone() };
            let mut status = RecurringJobStatus::default();
            write(&state, &mut status);
            let wire = serde_json::to_string(&status).expect("json");
            let back: RecurringJobStatus = serde_json::from_str(&wire).expect("status");
            assert_eq!(read(Some(&back)), state);
        }
    }
}
