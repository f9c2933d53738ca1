//! What the manager does about a Snapshot: it says which node is to take it, or that nobody can. Pure.

/// What is known of a Snapshot and its volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// `spec.createSnapshot` is false: the object shows a snapshot that the engine has, and its maker wrote all of it.
    pub mirrors: bool,
    /// A deletion was asked for.
    pub deleting: bool,
    /// Our finalizer is on it.
    pub finalizer: bool,
    /// The node it is labelled with.
    pub node: Option<String>,
    /// Whether labels, finalizer and owner are all as they should be for `node`.
    pub admitted: bool,
    /// `status.error`.
    pub error: String,
    /// `spec.volume`.
    pub volume_name: String,
    /// That volume; `None` when there is none.
    pub volume: Option<Volume>,
}

/// The volume a Snapshot names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Its uid, for the owner reference.
    pub uid: String,
    /// The node that holds it.
    pub node: Option<String>,
    /// A deletion was asked for.
    pub deleting: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Leave,
    /// Let the object go: no node knows of it.
    Release,
    /// Write this into `status.error`.
    Refuse(String),
    /// The volume is on no node yet.
    AwaitPlacement,
    /// Label it for `node`, with the volume as owner.
    Admit {
        /// The node.
        node: String,
        /// The volume's uid.
        volume_uid: String,
        /// An error that was said before is no longer true.
        clear_error: bool,
    },
}

/// Decides.
pub fn plan(seen: &Observed) -> Plan {
    if seen.deleting {
        // With a node label the agent removes the snapshot's file first, then the finalizer.
        return if seen.finalizer && seen.node.is_none() { Plan::Release } else { Plan::Leave };
    }
    if seen.mirrors || seen.admitted {
        return Plan::Leave;
    }
    let refuse = |error: String| if seen.error == error { Plan::Leave } else { Plan::Refuse(error) };
    match &seen.volume {
        // From here on the status is the agent's: without its volume the snapshot goes soon, and the agent says so.
        None if seen.node.is_some() => Plan::Leave,
        None => refuse(unknown_volume(&seen.volume_name)),
        Some(volume) if volume.deleting => refuse(format!("volume {} is being deleted", seen.volume_name)),
        Some(Volume { node: None, .. }) => Plan::AwaitPlacement,
        Some(Volume { node: Some(node), uid, .. }) => Plan::Admit {
            node: node.clone(),
            volume_uid: uid.clone(),
            clear_error: seen.node.is_none() && !seen.error.is_empty(),
        },
    }
}

/// The words of Longhorn for a volume that is not there.
pub fn unknown_volume(name: &str) -> String {
    format!("failed to get volume {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let volume = Volume { uid: "u1".into(), node: Some("n1".into()), deleting: false };
        let asked = Observed { volume_name: "v1".into(), volume: Some(volume.clone()), ..Observed::default() };
        let admit = |clear_error| Plan::Admit { node: "n1".into(), volume_uid: "u1".into(), clear_error };
        let cases = [
            ("a user's snapshot of a placed volume", asked.clone(), admit(false)),
            ("admitted already", Observed { admitted: true, node: Some("n1".into()), ..asked.clone() }, Plan::Leave),
            ("the owner is missing only", Observed { node: Some("n1".into()), ..asked.clone() }, admit(false)),
            ("a mirror of an engine's snapshot", Observed { mirrors: true, ..asked.clone() }, Plan::Leave),
            ("no such volume", Observed { volume: None, ..asked.clone() }, Plan::Refuse("failed to get volume v1".into())),
            (
                "said once is enough",
                Observed { volume: None, error: "failed to get volume v1".into(), ..asked.clone() },
                Plan::Leave,
            ),
            ("the volume came after all", Observed { error: "failed to get volume v1".into(), ..asked.clone() }, admit(true)),
            (
                "the volume waits for a node",
                Observed { volume: Some(Volume { node: None, ..volume.clone() }), ..asked.clone() },
                Plan::AwaitPlacement,
            ),
            (
                "the volume is going",
                Observed { volume: Some(Volume { deleting: true, ..volume }), ..asked.clone() },
                Plan::Refuse("volume v1 is being deleted".into()),
            ),
            (
                "an error of the agent is not ours to clear",
                Observed { node: Some("n1".into()), error: "x".into(), ..asked.clone() },
                admit(false),
            ),
            ("labelled and its volume gone", Observed { node: Some("n1".into()), volume: None, ..asked.clone() }, Plan::Leave),
            ("deleted before a node had it", Observed { deleting: true, finalizer: true, ..asked.clone() }, Plan::Release),
            (
                "deleted on its node",
                Observed { deleting: true, finalizer: true, node: Some("n1".into()), ..asked.clone() },
                Plan::Leave,
            ),
            ("deleted without our finalizer", Observed { deleting: true, ..asked }, Plan::Leave),
        ];
        for (what, seen, wanted) in cases {
            assert_eq!(plan(&seen), wanted, "{what}");
        }
    }
}
