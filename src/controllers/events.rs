//! Events: one closed list of reasons, published on transitions only.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// Publishes Events in the name of one role.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

/// The reasons of this project's Events. Longhorn's names where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A backup ended well (on the volume).
    Completed,
    /// A backup failed (on the volume and the backup).
    Error,
    /// A backup's data went from the store.
    Deleted,
    /// Blocks that a deleted backup left behind could not be removed.
    GarbageLeft,
    /// A deletion waits for the store.
    DeletionWaiting,
    /// A deletion was carried out on the object only.
    KeptInStore,
    /// A failed backup's object was removed when its time was up.
    FailedBackupRemoved,
    /// Retention removed a snapshot or backup.
    Retired,
    /// A snapshot was made.
    Create,
    /// A snapshot became ready.
    Update,
    /// A snapshot was removed.
    Delete,
    /// A snapshot failed.
    Failed,
    /// The volume's device is there.
    Attached,
    /// The volume's device is gone.
    Detached,
    /// The volume grew.
    Expanded,
    /// The volume's content came back from a backup.
    Restored,
    /// The restore failed.
    FailedRestore,
    /// A volume asks for more copies than this engine keeps.
    Degraded,
    /// No node can take the volume.
    FailedScheduling,
    /// A scheduled run began.
    RunStarted,
    /// A scheduled run ended and every volume succeeded.
    RunSucceeded,
    /// A scheduled run ended with failures.
    RunFailed,
    /// A volume was left out of a run.
    RunSkipped,
    /// A missed run is made late, or was given up.
    MissedSchedule,
    /// The target can be used again.
    Available,
    /// The target cannot be used.
    Unavailable,
    /// The target's store is another one than before.
    StoreChanged,
    /// An alias setting and its target were both edited.
    SettingConflict,
    /// The pool fills up.
    PoolPressure,
    /// The object asks for something that cannot be.
    Invalid,
}

impl Events {
    /// `role` is the reporting controller, `instance` the process.
    pub fn new(client: Client, role: &'static str, instance: String) -> Self {
        Self { recorder: Recorder::new(client, Reporter { controller: format!("drover-{role}"), instance: Some(instance) }) }
    }

    /// Something went as wished.
    pub async fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: Reason,
        note: String,
        related: Option<ObjectReference>,
    ) {
        self.publish(object, EventType::Normal, reason, note, related).await;
    }

    /// Something a person should look at.
    pub async fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: Reason,
        note: String,
        related: Option<ObjectReference>,
    ) {
        self.publish(object, EventType::Warning, reason, note, related).await;
    }

    /// The recorder folds Events of one (object, reason, related) into a series with the first one's note: pass what the note
    /// is about as `related` where several follow each other.
    async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: Reason,
        mut note: String,
        related: Option<ObjectReference>,
    ) {
        // The API server refuses notes over 1024 bytes.
        if note.len() > 1000 {
            let end = (0..=1000).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
            note.truncate(end);
            note.push('…');
        }
        let reason = format!("{reason:?}");
        let event = Event { type_, action: reason.clone(), reason, note: Some(note), secondary: related };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            // What the Event says is in the object's status too.
            tracing::warn!(%error, reason = event.reason, "failed to publish an Event");
        }
    }
}
