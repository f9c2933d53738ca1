//! RecurringJob: makes snapshots and backups by schedule, and removes the ones beyond what is to be kept.
//!
//! A run is written into the job's status with all its volumes before anything is made for it; every pass then moves each volume as far as
//! its Snapshot and Backup are. All of it can be done again at any point by another leader without doubling or losing anything.

mod act;
mod due;
mod facts;
mod observe;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;
mod retire;
#[cfg(test)]
mod retire_tests;
mod run;
#[cfg(test)]
mod run_tests;
mod spec;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

pub use act::owner;
pub use facts::TAKEN_UP_WITHIN;

use self::observe::{JustMade, observe};
use self::plan::{Note, State};
use self::run::{Outcome, Stage};
use self::spec::Job;
use super::caches::Caches;
use super::events::Reason;
use super::setting::definitions::name::MAX_RETENTION;
use super::settings::Settings;
use super::{Context, Error, drive, failed, meta, status};
use crate::crd::{Condition, ConditionStatus, RecurringJob, condition_type, find_condition, names, set_condition};
use crate::metrics::RunLabels;

/// The longest time between two looks: also covers a wall clock that was set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A timer may fire a moment before the wall clock gets there.
const JUST_AFTER: Duration = Duration::from_millis(5);

/// What every pass uses.
struct Jobs {
    context: Arc<Context>,
    caches: Caches,
    made: JustMade,
}

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, caches: Caches, shutdown: CancellationToken) {
    let snapshots = caches.snapshots.touched().filter_map(|object| std::future::ready(job_of(object.as_ref())));
    let backups = caches.backups.touched().filter_map(|object| std::future::ready(job_of(object.as_ref())));
    let controller = Controller::for_stream(caches.jobs.trigger(), caches.jobs.reader())
        .reconcile_on(snapshots)
        .reconcile_on(backups)
        .reconcile_on(on_limit(&caches));
    let jobs = Arc::new(Jobs { context: context.clone(), caches, made: JustMade::default() });
    drive(controller, context, shutdown, move |object| {
        let jobs = jobs.clone();
        async move { jobs.reconcile(&object).await }
    })
    .await;
}

/// Every job, whenever the limit of `retain` changes: one that was refused for it waits for nothing else.
fn on_limit(caches: &Caches) -> impl Stream<Item = ObjectRef<RecurringJob>> + Send + 'static + use<> {
    let jobs = caches.jobs.clone();
    caches.settings.touched().flat_map(move |setting| {
        let all = if setting.name_any() == MAX_RETENTION { jobs.all() } else { Vec::new() };
        stream::iter(all.into_iter().map(|job| ObjectRef::from_obj(job.as_ref())))
    })
}

/// The job that made the object.
fn job_of<K: Resource<DynamicType = ()>>(object: &K) -> Option<ObjectRef<RecurringJob>> {
    let job = object.labels().get(names::LABEL_RECURRING_JOB)?;
    Some(ObjectRef::new(job).within(object.namespace()?.as_str()))
}

impl Jobs {
    async fn reconcile(&self, object: &RecurringJob) -> Result<Action, Error> {
        if object.meta().deletion_timestamp.is_some() {
            // What the job made stays.
            meta::release(&self.context.api(), object).await?;
            return Ok(Action::await_change());
        }
        let settings = Settings::from_objects(self.caches.settings.all().iter().map(Arc::as_ref));
        match Job::parse(object, settings.max_retention()) {
            Ok(job) => Ok(self.keep_time(object, &job, self.carry_out(object, &job, &settings).await)),
            Err(words) => self.refuse(object, words).await,
        }
    }

    /// A failure delays what failed and not the schedule: the next look is never later than the job's next time.
    fn keep_time(&self, object: &RecurringJob, job: &Job, result: Result<Action, Error>) -> Action {
        // Not the key of the controller, for which a pass that ends here went well.
        let key = format!("run of {}", object.name_any());
        let error = match result {
            Ok(action) => {
                self.context.backoff.reset(&key);
                return action;
            }
            Err(error) => error,
        };
        let now = Timestamp::now();
        let again_in = self.context.backoff.after(&key, &error).min(wait(now, [job.schedule.next_after(now), None]));
        failed(&self.context, object, &error, again_in);
        Action::requeue(again_in)
    }

    /// Says in status and Event why nothing will run.
    async fn refuse(&self, object: &RecurringJob, words: String) -> Result<Action, Error> {
        let mut status = object.status.clone().unwrap_or_default();
        status.next_schedule_at = crate::crd::Time::UNSET;
        let news = find_condition(&status.conditions, condition_type::VALID).is_none_or(|c| c.message != words);
        set_condition(&mut status.conditions, valid(object, false, &words, Timestamp::now()));
        status::write(&self.context.api(), object, status).await?;
        if news {
            // Each edit is news of its own: the recorder would fold it into the Event of the one before.
            let spec = ObjectReference {
                field_path: Some(format!("spec{{{}}}", object.meta().generation.unwrap_or(0))),
                ..object.object_ref(&())
            };
            self.context.events.warning(object, Reason::Invalid, words, Some(spec)).await;
        }
        Ok(Action::await_change())
    }

    async fn carry_out(&self, object: &RecurringJob, job: &Job, settings: &Settings) -> Result<Action, Error> {
        let now = Timestamp::now();
        let mut state = record::read(object.status.as_ref());
        let facts = observe(job, state.run.as_ref(), &self.caches, &self.made, settings);

        let created = object.creation_timestamp().map_or(now, |time| time.0);
        let before = state.clone();
        let notes = plan::begin_due(job, &mut state, &facts, created, was_invalid(object), now);
        // From here on the run exists, whoever leads.
        let object = self.write_down(object, &before, &state, notes).await?;

        let before = state.clone();
        let mut step = plan::advance(job, &mut state, &facts, now);
        let full = plan::is_full_run(job, &state);
        let (made, failure) = act::make(&self.context, job, &facts, full, step.wanted, &self.made).await;
        if let Some(run) = &mut state.run {
            step.ended.extend(made.iter().filter_map(|(wanted, made)| run::note_made(run, wanted, made)));
        }
        let notes = plan::end(&mut state, &step.ended, Timestamp::now());
        let object = self.write_down(&object, &before, &state, notes).await?;

        let unfinished = state.run.as_ref().filter(|_| state.finished.is_none());
        act::remove(&self.context, &self.caches, &object, retire::removals(job, &facts, unfinished, now)).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(Action::requeue(wait(now, [state.next, step.look_at]))),
        }
    }

    /// Writes the state into the status, then tells and counts what is new in it.
    async fn write_down(
        &self,
        object: &RecurringJob,
        before: &State,
        state: &State,
        notes: Vec<Note>,
    ) -> Result<RecurringJob, Error> {
        let now = Timestamp::now();
        let mut new = object.status.clone().unwrap_or_default();
        set_condition(&mut new.conditions, valid(object, true, "", now));
        record::write(state, &mut new);
        if state.finished != before.finished
            && let Some(condition) = last_run(object, state, now)
        {
            set_condition(&mut new.conditions, condition);
        }
        let written = status::write(&self.context.api(), object, new).await?;
        let counted = [
            ("succeeded", state.succeeded - before.succeeded),
            ("failed", state.failed - before.failed),
            ("skipped", state.skipped - before.skipped),
        ];
        for (outcome, count) in counted {
            if let Ok(count @ 1..) = u64::try_from(count) {
                let labels = RunLabels { recurring_job: object.name_any(), outcome: outcome.to_owned() };
                self.context.metrics.runs.get_or_create(&labels).inc_by(count);
            }
        }
        act::tell(&self.context, &written, notes).await;
        Ok(written)
    }
}

fn valid(object: &RecurringJob, is: bool, words: &str, now: Timestamp) -> Condition {
    let reason = if is { "Valid" } else { "Invalid" };
    Condition::new(condition_type::VALID, is, reason, words, object.meta().generation, now)
}

fn was_invalid(object: &RecurringJob) -> bool {
    let conditions = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    find_condition(conditions, condition_type::VALID).is_some_and(|condition| condition.status == ConditionStatus::False)
}

fn last_run(object: &RecurringJob, state: &State, now: Timestamp) -> Option<Condition> {
    let (_, outcome) = state.finished?;
    let (holds, reason) = match outcome {
        Outcome::Succeeded => (ConditionStatus::True, "Succeeded"),
        Outcome::PartiallyFailed => (ConditionStatus::False, "PartiallyFailed"),
        Outcome::Failed => (ConditionStatus::False, "Failed"),
        Outcome::Skipped => (ConditionStatus::Unknown, "Skipped"),
    };
    let entries = state.run.iter().flat_map(|run| &run.entries);
    let failed: Vec<&str> = entries.filter(|e| matches!(e.stage, Stage::Failed(_))).map(|e| e.volume.as_str()).take(10).collect();
    let words = if failed.is_empty() { String::new() } else { format!("failed for {}", failed.join(", ")) };
    Some(Condition::new(condition_type::LAST_RUN_SUCCEEDED, holds, reason, words, object.meta().generation, now))
}

/// Until the earliest of `times`, at most [`LOOK_AGAIN`].
fn wait(now: Timestamp, times: [Option<Timestamp>; 2]) -> Duration {
    let until = |time: Timestamp| Duration::try_from(time.duration_since(now)).unwrap_or_default() + JUST_AFTER;
    times.into_iter().flatten().map(until).fold(LOOK_AGAIN, Duration::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_goes_past_the_next_time_of_a_job() {
        let now = Timestamp::from_second(1_767_225_600).expect("timestamp");
        let at = |seconds: i64| Timestamp::from_second(1_767_225_600 + seconds).ok();
        assert_eq!(wait(now, [at(7), None]), Duration::from_secs(7) + JUST_AFTER);
        assert_eq!(wait(now, [at(7), at(3)]), Duration::from_secs(3) + JUST_AFTER);
        assert_eq!(wait(now, [at(3600), None]), LOOK_AGAIN);
        assert_eq!(wait(now, [None, None]), LOOK_AGAIN);
        assert_eq!(wait(now, [at(-5), None]), JUST_AFTER);
    }
}
