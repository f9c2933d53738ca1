//! What comes next for a Snapshot of a volume on this node: pure.

/// What is known about a Snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// A deletion was asked for.
    pub deleting: bool,
    /// Our finalizer is on the object.
    pub held: bool,
    /// `spec.createSnapshot`.
    pub create: bool,
    /// `status.readyToUse`.
    pub ready: bool,
    /// A Backup that has not ended reads it.
    pub read_by: Option<String>,
    /// The Volume object is there and stays.
    pub volume_stays: bool,
    /// Whether the image holds the volume's whole content: `None` without an image.
    pub whole: Option<bool>,
    /// The snapshot is in the pool.
    pub exists: bool,
    /// Snapshots that the volume has.
    pub count: usize,
    /// Snapshots that the volume may have.
    pub limit: usize,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Leave,
    /// Take it, or look at the one that is there.
    Take,
    /// It cannot be taken now; in words.
    Wait(String),
    /// It must not be taken; in words.
    Refuse(String),
    /// A backup reads it: keep it until that ended.
    Keep(String),
    /// Remove it, then let the object go.
    Remove,
}

/// Decides by the facts about the snapshot of volume `volume`.
pub fn plan(volume: &str, facts: &Facts) -> Step {
    if facts.deleting {
        return match (&facts.read_by, facts.held) {
            (_, false) => Step::Leave,
            // With the volume goes all that is of it; its backups are told to stop.
            (Some(backup), true) if facts.volume_stays => {
                Step::Keep(format!("waiting for backup {backup} to end, which reads the snapshot"))
            }
            (_, true) => Step::Remove,
        };
    }
    if facts.ready {
        return Step::Leave;
    }
    if facts.exists {
        return Step::Take;
    }
    if !facts.create {
        return Step::Refuse(format!(
            "spec.createSnapshot is false and volume {volume} has no snapshot of this name: true takes one"
        ));
    }
    match (facts.volume_stays, facts.whole) {
        (false, _) => Step::Refuse(format!("failed to get volume {volume}: it is not there or is being deleted")),
        (true, None) => Step::Wait(format!("volume {volume} is not made yet")),
        (true, Some(false)) => Step::Wait(format!("volume {volume} is being restored")),
        (true, Some(true)) if facts.count >= facts.limit => Step::Refuse(format!(
            "volume {volume} has {} snapshots and may have {} (spec.snapshotMaxCount of the volume, or setting snapshot-max-count): remove some",
            facts.count, facts.limit
        )),
        (true, Some(true)) => Step::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Facts {
        Facts {
            deleting: false,
            held: true,
            create: true,
            ready: false,
            read_by: None,
            volume_stays: true,
            whole: Some(true),
            exists: false,
            count: 3,
            limit: 250,
        }
    }

    #[test]
    fn table() {
        let deleting = Facts { deleting: true, ready: true, exists: true, ..asked() };
        for (what, facts, wanted) in [
            ("asked for", asked(), Step::Take),
            ("ready", Facts { ready: true, exists: true, ..asked() }, Step::Leave),
            ("taken before a crash", Facts { exists: true, ..asked() }, Step::Take),
            ("a mirror of one that is there", Facts { create: false, exists: true, ..asked() }, Step::Take),
            ("taken before a crash, at the limit now", Facts { exists: true, count: 250, ..asked() }, Step::Take),
            ("deleted", deleting.clone(), Step::Remove),
            ("deleted before it was taken", Facts { deleting: true, ..asked() }, Step::Remove),
            (
                "deleted with the volume in mid-backup",
                Facts { read_by: Some("b".into()), volume_stays: false, ..deleting.clone() },
                Step::Remove,
            ),
            ("released", Facts { held: false, ..deleting }, Step::Leave),
        ] {
            assert_eq!(plan("v", &facts), wanted, "{what}");
        }
    }

    #[test]
    fn what_stands_in_the_way_is_said() {
        let words = |facts| match plan("v", &facts) {
            Step::Wait(words) | Step::Refuse(words) | Step::Keep(words) => words,
            other => panic!("{other:?}"),
        };
        assert!(words(Facts { count: 250, ..asked() }).contains("has 250 snapshots and may have 250"));
        assert!(words(Facts { whole: None, ..asked() }).contains("not made yet"));
        assert!(words(Facts { whole: Some(false), ..asked() }).contains("being restored"));
        assert!(words(Facts { volume_stays: false, whole: None, ..asked() }).contains("failed to get volume v"));
        assert!(words(Facts { create: false, ..asked() }).contains("spec.createSnapshot is false"));
        assert!(words(Facts { deleting: true, read_by: Some("b1".into()), ..asked() }).contains("backup b1"));
    }
}
