//! What comes next for a volume on this node: pure, from facts that were read a moment ago.

use crate::engine::Content;

/// The pool rounds volumes up to this many bytes.
const ROUNDING: u64 = 2 << 20;

/// The image in this node's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Bytes.
    pub size: u64,
    /// Whether its content is whole.
    pub ready: bool,
    /// Whether it has a device.
    pub attached: bool,
}

/// The restore into the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    /// None is running in this process.
    Idle,
    /// It runs or waits for its turn.
    Running,
    /// All bytes are in the image.
    Filled,
    /// It failed for good.
    Failed,
    /// It was stopped before its end.
    Stopped,
}

/// What is known about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// A deletion was asked for.
    pub deleting: bool,
    /// Our finalizer is on the object.
    pub held: bool,
    /// `spec.size`.
    pub size: u64,
    /// `spec.nodeID` names this node.
    pub wanted_here: bool,
    /// The content comes from a backup.
    pub from_backup: bool,
    /// The status says that the volume was whole here before.
    pub lived: bool,
    /// The image.
    pub image: Option<Image>,
    /// The restore.
    pub restore: Restore,
    /// A restore of this generation of the object failed for good, says the status.
    pub restore_given_up: bool,
    /// Backups or a restore of it run.
    pub transfers: bool,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the image.
    Create(Content),
    /// The image that must be here is not: the content is lost, and nothing is made in its place.
    Lost,
    /// Begin or go on with the restore.
    BeginRestore,
    /// Let the restore run.
    AwaitRestore,
    /// The restore's bytes are complete: make the volume ready.
    FinishRestore,
    /// Forget a restore that ended early, so that it can begin again.
    ClearRestore,
    /// Grow the image.
    Expand,
    /// Make the device.
    Attach,
    /// Take the device away.
    Detach,
    /// End the volume's transfers.
    StopTransfers,
    /// Remove the image and its snapshots.
    Delete,
    /// Let the object go.
    Release,
    /// Nothing to do.
    Rest,
}

/// Decides by the facts. Each step is idempotent and brings the facts closer to rest.
pub fn plan(facts: &Facts) -> Step {
    if facts.deleting {
        return plan_deletion(facts);
    }
    let Some(image) = facts.image else {
        return match (facts.lived, facts.from_backup) {
            // A pool that was emptied or swapped must not look like a volume that is well.
            (true, _) => Step::Lost,
            (false, true) => Step::Create(Content::Restoring),
            (false, false) => Step::Create(Content::Blank),
        };
    };
    if !image.ready {
        return plan_restore(facts);
    }
    match (facts.wanted_here, image.attached) {
        _ if facts.size.next_multiple_of(ROUNDING) > image.size => Step::Expand,
        (true, false) => Step::Attach,
        (false, true) => Step::Detach,
        _ => Step::Rest,
    }
}

fn plan_restore(facts: &Facts) -> Step {
    match facts.restore {
        Restore::Running => Step::AwaitRestore,
        Restore::Filled => Step::FinishRestore,
        Restore::Stopped => Step::ClearRestore,
        Restore::Failed if facts.restore_given_up => Step::ClearRestore,
        Restore::Failed => Step::Rest,
        Restore::Idle if facts.restore_given_up || !facts.from_backup => Step::Rest,
        Restore::Idle => Step::BeginRestore,
    }
}

fn plan_deletion(facts: &Facts) -> Step {
    match facts.image {
        _ if facts.transfers => Step::StopTransfers,
        Some(image) if image.attached => Step::Detach,
        Some(_) => Step::Delete,
        None if facts.held => Step::Release,
        None => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GI: u64 = 1 << 30;

    fn detached() -> Facts {
        Facts {
            deleting: false,
            held: true,
            size: GI,
            wanted_here: false,
            from_backup: false,
            lived: true,
            image: Some(Image { size: GI, ready: true, attached: false }),
            restore: Restore::Idle,
            restore_given_up: false,
            transfers: false,
        }
    }

    fn attached() -> Facts {
        Facts { wanted_here: true, image: Some(Image { size: GI, ready: true, attached: true }), ..detached() }
    }

    fn restoring(restore: Restore) -> Facts {
        Facts {
            from_backup: true,
            lived: false,
            image: Some(Image { size: GI, ready: false, attached: false }),
            restore,
            ..detached()
        }
    }

    #[test]
    fn table() {
        let new = Facts { lived: false, image: None, ..detached() };
        for (what, facts, wanted) in [
            ("a new volume", new.clone(), Step::Create(Content::Blank)),
            ("a new volume from a backup", Facts { from_backup: true, ..new.clone() }, Step::Create(Content::Restoring)),
            ("its restore begins", restoring(Restore::Idle), Step::BeginRestore),
            ("its restore runs", restoring(Restore::Running), Step::AwaitRestore),
            ("all bytes are there", restoring(Restore::Filled), Step::FinishRestore),
            ("it failed and the status must say so", restoring(Restore::Failed), Step::Rest),
            (
                "it failed and the status says so",
                Facts { restore_given_up: true, ..restoring(Restore::Failed) },
                Step::ClearRestore,
            ),
            ("given up for this generation", Facts { restore_given_up: true, ..restoring(Restore::Idle) }, Step::Rest),
            ("wanted here while it is restored", Facts { wanted_here: true, ..restoring(Restore::Running) }, Step::AwaitRestore),
            ("nothing wanted", detached(), Step::Rest),
            ("wanted here", Facts { wanted_here: true, ..detached() }, Step::Attach),
            ("attached", attached(), Step::Rest),
            ("wanted elsewhere or nowhere", Facts { wanted_here: false, ..attached() }, Step::Detach),
            ("grown", Facts { size: GI + 1, ..attached() }, Step::Expand),
            ("grown before it is attached", Facts { size: 2 * GI, wanted_here: true, ..detached() }, Step::Expand),
            ("smaller is not grown", Facts { size: GI / 2, ..detached() }, Step::Rest),
            ("an emptied pool", Facts { image: None, ..attached() }, Step::Lost),
            ("deleted while a backup reads it", Facts { deleting: true, transfers: true, ..attached() }, Step::StopTransfers),
            ("deleted while attached", Facts { deleting: true, ..attached() }, Step::Detach),
            ("deleted while detached", Facts { deleting: true, ..detached() }, Step::Delete),
            ("deleted in mid-restore", Facts { deleting: true, ..restoring(Restore::Idle) }, Step::Delete),
            ("deleted and gone", Facts { deleting: true, image: None, ..detached() }, Step::Release),
            ("deleted before it was made", Facts { deleting: true, ..new }, Step::Release),
            ("released", Facts { deleting: true, held: false, image: None, ..detached() }, Step::Rest),
        ] {
            assert_eq!(plan(&facts), wanted, "{what}");
        }
    }

    #[test]
    fn a_size_within_the_rounding_is_no_growth() {
        let image = Some(Image { size: 4 << 20, ready: true, attached: false });
        assert_eq!(plan(&Facts { size: (2 << 20) + 1, image, ..detached() }), Step::Rest);
        assert_eq!(plan(&Facts { size: (4 << 20) + 1, image, ..detached() }), Step::Expand);
    }
}
