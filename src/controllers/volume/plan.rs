//! What the manager does about a Volume: defaults, and the node that is to hold it. Pure.

use super::place::{Candidate, Request, place};

/// What is known of a Volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// A deletion was asked for.
    pub deleting: bool,
    /// Our finalizer is on it.
    pub finalizer: bool,
    /// The node that it is labelled with: it holds the volume's bytes, and its agent owns the status.
    pub node: Option<String>,
    /// Any label of a job or of a group of jobs is on it.
    pub job_label: bool,
    /// `spec.backupTargetName` is given.
    pub target_named: bool,
    /// `spec.numberOfReplicas`.
    pub replicas: i64,
    /// What it asks of a node.
    pub request: Request,
    /// What it is restored from.
    pub source: Source,
    /// Every known node.
    pub nodes: Vec<Candidate>,
}

/// What a volume's content comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// Nothing: it begins empty.
    #[default]
    Empty,
    /// `spec.fromBackup` is no backup URL, in these words.
    Unreadable(String),
    /// A backup that no object shows (yet).
    Unknown(String),
    /// A backup whose volume had this size.
    Backup {
        /// The backup's name.
        name: String,
        /// Bytes.
        size: u64,
    },
}

/// What to write into the object's metadata and spec, in one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Put our finalizer on.
    pub finalizer: bool,
    /// Put it into the default group of jobs.
    pub default_group: bool,
    /// Name the default backup target.
    pub default_target: bool,
    /// Fill in the size of the backup it comes from.
    pub size: Option<u64>,
    /// Hand it to this node.
    pub node: Option<String>,
}

impl Patch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a node was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It has its node already.
    Held,
    /// This node takes it. Its status says so before its label does: once labelled, the status is the agent's.
    Take(String),
    /// None can, for now or until the object changes: `reason` is one word.
    None {
        /// CamelCase.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, or nothing that is ours to do.
    Leave,
    /// Let the object go: no node knows of it.
    Release,
    /// Bring it in order.
    Arrange {
        /// Metadata and spec.
        patch: Patch,
        /// The node.
        placement: Placement,
        /// Words for an Event `Degraded`, when it is placed.
        degraded: Option<String>,
        /// Words for an Event `FailedScheduling`, though it has its node: `spec.nodeID` names another one.
        misplaced: Option<String>,
    },
}

/// Decides.
pub fn plan(seen: &Observed) -> Plan {
    if seen.deleting {
        // A node that holds it removes the image first, then the finalizer.
        return if seen.finalizer && seen.node.is_none() { Plan::Release } else { Plan::Leave };
    }
    let mut patch = Patch {
        finalizer: !seen.finalizer,
        default_group: !seen.job_label,
        default_target: !seen.target_named,
        ..Patch::default()
    };
    let placement = match (&seen.node, size(seen)) {
        (Some(_), _) => Placement::Held,
        (None, Err(placement)) => placement,
        (None, Ok(size)) => {
            patch.size = (size != seen.request.size).then_some(size);
            match place(&Request { size, ..seen.request.clone() }, &seen.nodes) {
                Ok(node) => Placement::Take(node.to_owned()),
                Err(message) => Placement::None { reason: "NoNode", message },
            }
        }
    };
    if let Placement::Take(node) = &placement {
        patch.node = Some(node.clone());
    }
    let degraded = (matches!(placement, Placement::Take(_)) && seen.replicas > 1).then(|| {
        format!(
            "spec.numberOfReplicas asks for {} copies; this engine keeps one, so the volume works with robustness degraded",
            seen.replicas
        )
    });
    Plan::Arrange { patch, placement, degraded, misplaced: misplaced(seen) }
}

/// The size to place, which a backup gives when the object does not.
fn size(seen: &Observed) -> Result<u64, Placement> {
    let asked = seen.request.size;
    let invalid = |message: String| Err(Placement::None { reason: "Invalid", message });
    match &seen.source {
        Source::Unreadable(words) => invalid(words.clone()),
        Source::Backup { name, size } if asked != 0 && asked < *size => invalid(format!(
            "spec.size is {asked} and spec.fromBackup names backup {name} of a volume of {size} bytes: it must be at least that, or be left out"
        )),
        Source::Backup { size, .. } if asked == 0 => Ok(*size),
        Source::Unknown(name) if asked == 0 => Err(Placement::None {
            reason: "WaitingForBackup",
            message: format!("spec.size is not given, and no Backup object shows the size of backup {name} yet"),
        }),
        Source::Empty if asked == 0 => {
            invalid("spec.size must be given, in bytes, unless spec.fromBackup names a backup".to_owned())
        }
        Source::Empty | Source::Unknown(_) | Source::Backup { .. } => Ok(asked),
    }
}

fn misplaced(seen: &Observed) -> Option<String> {
    let (held, wanted) = (seen.node.as_ref()?, seen.request.node.as_ref()?);
    (held != wanted).then(|| {
        format!("spec.nodeID names node {wanted}, but the volume's data is on node {held} and cannot be attached elsewhere: set spec.nodeID to {held}")
    })
}

#[cfg(test)]
mod tests {
    use super::super::place::Disk;
    use super::*;

    const GI: u64 = 1 << 30;

    fn node(name: &str) -> Candidate {
        Candidate { name: name.into(), disks: vec![Disk { capacity: 10 * GI, ..Disk::default() }], ..Candidate::default() }
    }

    fn new() -> Observed {
        Observed {
            replicas: 1,
            request: Request { size: GI, ..Request::default() },
            nodes: vec![node("n1")],
            ..Observed::default()
        }
    }

    fn settled() -> Observed {
        Observed { finalizer: true, node: Some("n1".into()), job_label: true, target_named: true, ..new() }
    }

    fn arranged(seen: &Observed) -> (Patch, Placement, Option<String>, Option<String>) {
        match plan(seen) {
            Plan::Arrange { patch, placement, degraded, misplaced } => (patch, placement, degraded, misplaced),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_volume_gets_its_defaults_and_its_node_in_one_write() {
        let (patch, placement, degraded, misplaced) = arranged(&new());
        assert_eq!(
            patch,
            Patch { finalizer: true, default_group: true, default_target: true, size: None, node: Some("n1".into()) }
        );
        assert_eq!((placement, degraded, misplaced), (Placement::Take("n1".into()), None, None));
    }

    #[test]
    fn a_settled_volume_is_left_alone() {
        let (patch, placement, degraded, misplaced) = arranged(&settled());
        assert!(patch.is_empty());
        assert_eq!((placement, degraded, misplaced), (Placement::Held, None, None));
        // Not even a size that makes no sense any more moves it.
        let (patch, placement, ..) = arranged(&Observed { nodes: vec![], source: Source::Unreadable("x".into()), ..settled() });
        assert!(patch.is_empty() && placement == Placement::Held);
    }

    #[test]
    fn a_job_label_keeps_it_out_of_the_default_group() {
        assert!(!arranged(&Observed { job_label: true, ..new() }).0.default_group);
    }

    #[test]
    fn more_than_one_copy_is_said_once_when_it_is_placed() {
        assert!(arranged(&Observed { replicas: 3, ..new() }).2.is_some_and(|words| words.contains("3 copies")));
        assert_eq!(arranged(&Observed { replicas: 3, ..settled() }).2, None);
    }

    #[test]
    fn a_volume_asked_for_on_another_node_stays_and_says_where_it_is() {
        let mut seen = settled();
        seen.request.node = Some("n2".into());
        let (patch, placement, _, misplaced) = arranged(&seen);
        assert!(patch.is_empty() && placement == Placement::Held);
        assert!(misplaced.is_some_and(|words| words.contains("on node n1") && words.contains("node n2")));
        seen.request.node = Some("n1".into());
        assert_eq!(arranged(&seen).3, None);
    }

    #[test]
    fn the_size_must_hold_the_backup_and_comes_from_it_when_left_out() {
        let of =
            |size: u64, source: Source| arranged(&Observed { request: Request { size, ..Request::default() }, source, ..new() });
        let backup = || Source::Backup { name: "b1".into(), size: 2 * GI };
        let reason = |placement: Placement| match placement {
            Placement::None { reason, message } => (reason, message),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(2 * GI, backup()).1, Placement::Take("n1".into()));
        assert_eq!(of(3 * GI, backup()).1, Placement::Take("n1".into()), "larger is no harm");
        assert_eq!(of(0, backup()).0.size, Some(2 * GI));
        let (word, message) = reason(of(GI, backup()).1);
        assert!(word == "Invalid" && message.contains("1073741824") && message.contains("2147483648"), "{message}");
        assert_eq!(reason(of(0, Source::Unknown("b1".into())).1).0, "WaitingForBackup");
        assert_eq!(of(GI, Source::Unknown("b1".into())).1, Placement::Take("n1".into()));
        assert_eq!(reason(of(0, Source::Empty).1).0, "Invalid");
        assert_eq!(reason(of(GI, Source::Unreadable("bad url".into())).1), ("Invalid", "bad url".into()));
    }

    #[test]
    fn no_node_is_a_reason_in_words_and_defaults_come_all_the_same() {
        let (patch, placement, ..) = arranged(&Observed { nodes: vec![], ..new() });
        assert!(patch.finalizer && patch.node.is_none());
        assert!(matches!(placement, Placement::None { reason: "NoNode", .. }), "{placement:?}");
    }

    #[test]
    fn a_deleted_volume_is_let_go_unless_a_node_holds_it() {
        assert_eq!(plan(&Observed { deleting: true, finalizer: true, ..new() }), Plan::Release);
        assert_eq!(plan(&Observed { deleting: true, ..settled() }), Plan::Leave);
        assert_eq!(plan(&Observed { deleting: true, ..new() }), Plan::Leave);
    }
}
