//! What a target's status, Events and metrics say.

use std::hash::{Hash, Hasher};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::observe::Usable;
use crate::controllers::events::Reason;
use crate::controllers::meta::{self, Change};
use crate::controllers::{Context, Error, status};
use crate::crd::names::ANNOTATION_CONFIRM_STORE;
use crate::crd::{
    BackupTarget, BackupTargetStatus, Condition, ConditionStatus, Time, condition_type, find_condition, reason, set_condition,
};
use crate::metrics::TargetLabels;

/// The words of Longhorn for a target without a place.
const NO_URL: &str = "backup target URL is empty";

/// Why a target cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It names no place: nothing is wrong, there is just no store.
    NoUrl,
    /// Reaching it failed at some step.
    Failed(String),
    /// It is another store than the one the objects describe.
    StoreChanged {
        /// The id that was known.
        known: String,
        /// The id that was found, if any.
        found: Option<String>,
    },
}

impl Finding {
    fn reason(&self) -> &'static str {
        match self {
            Self::NoUrl | Self::Failed(_) => reason::UNAVAILABLE,
            Self::StoreChanged { .. } => "StoreChanged",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NoUrl => NO_URL.to_owned(),
            Self::Failed(words) => words.clone(),
            Self::StoreChanged { known, found } => {
                let (seen, confirm) = match found {
                    Some(id) => (format!("carries the id {id}"), id.as_str()),
                    None => ("carries no store id".to_owned(), "none"),
                };
                format!(
                    "the store {seen}, but the backups here were in the store with id {known}. Nothing is removed. Look whether the bucket was emptied \
                     or the endpoint leads elsewhere; if this store is the right one, annotate the target with {ANNOTATION_CONFIRM_STORE}={confirm}"
                )
            }
        }
    }
}

/// Whether the status was made with the spec as it is now.
pub fn is_current(target: &BackupTarget) -> bool {
    let conditions = target.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    find_condition(conditions, condition_type::UNAVAILABLE)
        .is_some_and(|condition| condition.observed_generation == target.metadata.generation)
}

/// Why the target cannot be used by who needs it now; `None` when it can.
pub fn unusable(target: &BackupTarget) -> Option<String> {
    let status = target.status.as_ref();
    let condition = find_condition(status.map(|s| s.conditions.as_slice()).unwrap_or_default(), condition_type::UNAVAILABLE);
    match condition {
        Some(condition) if !is_current(target) || condition.status == ConditionStatus::Unknown => {
            Some("it is being checked".to_owned())
        }
        Some(condition) if condition.status == ConditionStatus::True => Some(condition.message.clone()),
        Some(_) if status.is_some_and(|status| status.available) => None,
        _ => Some("it was not checked yet".to_owned()),
    }
}

/// Changes with whether the target can be used, for predicates.
pub fn usability(target: &BackupTarget) -> Option<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    (unusable(target).is_none(), target.metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    Some(hasher.finish())
}

/// The target cannot be used. Tried again with back-off; an empty URL only when it changes.
pub async fn unavailable(context: &Context, target: &BackupTarget, finding: Finding) -> Result<Action, Error> {
    let name = target.name_any();
    let message = finding.message();
    let mut next = target.status.clone().unwrap_or_default();
    let before = availability(&next);
    next.available = false;
    if finding == Finding::NoUrl {
        // The next store is listed afresh.
        next = BackupTargetStatus { conditions: next.conditions, ..BackupTargetStatus::default() };
    }
    let same_reason = find_condition(&next.conditions, condition_type::UNAVAILABLE).is_some_and(|c| c.reason == finding.reason());
    let (generation, now) = (target.metadata.generation, Timestamp::now());
    for (type_, holds) in [(condition_type::UNAVAILABLE, true), (condition_type::READY, false)] {
        set_condition(&mut next.conditions, Condition::new(type_, holds, finding.reason(), message.clone(), generation, now));
    }
    status::write(&context.api::<BackupTarget>(), target, next).await?;
    context.metrics.target_available.get_or_create(&labels(&name)).set(0);
    let words = format!("backup target {name} is not available: {message}");
    match finding {
        Finding::NoUrl => return Ok(Action::await_change()),
        Finding::StoreChanged { .. } if before != Some(false) || !same_reason => {
            context.events.warning(target, Reason::StoreChanged, words, None).await;
        }
        Finding::Failed(_) if before != Some(false) => context.events.warning(target, Reason::Unavailable, words, None).await,
        Finding::StoreChanged { .. } | Finding::Failed(_) => {}
    }
    Err(Error::TargetUnavailable { target: name, reason: message })
}

/// The target can be used, and was listed at `synced` if at all.
pub async fn available(context: &Context, target: &BackupTarget, store: &Usable, synced: Option<Time>) -> Result<(), Error> {
    let name = target.name_any();
    let mut next = target.status.clone().unwrap_or_default();
    let before = availability(&next);
    let now = Timestamp::now();
    next.available = true;
    next.store_id.clone_from(&store.id);
    next.store_url.clone_from(&store.url);
    if let Some(synced) = synced {
        next.last_synced_at = synced;
        next.sync_answered_at = target.spec.sync_requested_at;
    }
    let generation = target.metadata.generation;
    set_condition(&mut next.conditions, Condition::new(condition_type::UNAVAILABLE, false, "Available", "", generation, now));
    let words = format!("the store {} can be used", store.id);
    set_condition(&mut next.conditions, Condition::new(condition_type::READY, true, "Available", words, generation, now));
    let api = context.api::<BackupTarget>();
    let written = status::write(&api, target, next).await?;
    context.metrics.target_available.get_or_create(&labels(&name)).set(1);
    if before != Some(true) {
        context.events.normal(&written, Reason::Available, format!("backup target {name} is available"), None).await;
    }
    // A confirmation counts once: the next change of the store is judged anew.
    if written.annotations().contains_key(ANNOTATION_CONFIRM_STORE) {
        let change = Change { annotations: [(ANNOTATION_CONFIRM_STORE, None)].into(), ..Change::default() };
        meta::patch(&api, &written, &change).await?;
    }
    Ok(())
}

/// The store could be reached but not listed.
pub async fn listing_failed(context: &Context, target: &BackupTarget, error: Error) -> Result<Action, Error> {
    match error {
        api @ Error::Api { .. } => Err(api),
        error => {
            context.stores.set_unproven(&target.name_any());
            unavailable(context, target, Finding::Failed(format!("failed to list the backups: {error}"))).await
        }
    }
}

/// The target is gone.
pub fn forget(context: &Context, name: &str) {
    context.metrics.target_available.remove(&labels(name));
    context.metrics.target_backup_volumes.remove(&labels(name));
}

fn availability(status: &BackupTargetStatus) -> Option<bool> {
    let condition = find_condition(&status.conditions, condition_type::UNAVAILABLE)?;
    match condition.status {
        // Without a place nothing was wrong, and nothing could be used either.
        ConditionStatus::True if condition.message == NO_URL => None,
        ConditionStatus::True => Some(false),
        ConditionStatus::False => Some(true),
        ConditionStatus::Unknown => None,
    }
}

pub(super) fn labels(name: &str) -> TargetLabels {
    TargetLabels { backup_target: name.to_owned() }
}
