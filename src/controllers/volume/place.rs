//! Which node takes a volume. Pure.

use std::collections::BTreeSet;

/// A node, as far as placement asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Why it takes no volume now: not ready, disabled, its pool full. In words that follow "node X ".
    pub closed: Option<String>,
    /// Tags of the node.
    pub tags: BTreeSet<String>,
    /// Its pools.
    pub disks: Vec<Disk>,
    /// Bytes promised to the volumes that are on it.
    pub promised: u64,
}

/// A pool of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Tags of the disk.
    pub tags: BTreeSet<String>,
    /// Bytes it can hold, without what is reserved.
    pub capacity: u64,
}

/// What a volume asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Bytes.
    pub size: u64,
    /// The node it must be on, when the user named one.
    pub node: Option<String>,
    /// Tags that the node must have.
    pub node_tags: Vec<String>,
    /// Tags that the pool must have.
    pub disk_tags: Vec<String>,
}

/// The node for the volume, or why there is none, in words with a part per node.
///
/// A node has room when the sizes of its volumes together stay within its pool: volumes are sparse, but each may be written full.
/// Among several, the one with the most room left; then the first by name.
pub fn place<'a>(request: &Request, candidates: &'a [Candidate]) -> Result<&'a str, String> {
    let asked: Vec<&Candidate> =
        candidates.iter().filter(|node| request.node.as_ref().is_none_or(|wanted| *wanted == node.name)).collect();
    if asked.is_empty() {
        return Err(match &request.node {
            Some(node) => format!("spec.nodeID names node {node:?}, which is not known: known are {}", names(candidates)),
            None => "no node is known yet: is an agent running?".to_owned(),
        });
    }
    let mut best: Option<(&Candidate, u64)> = None;
    let mut reasons = Vec::new();
    for node in asked {
        match room(request, node) {
            Ok(room) => {
                if best.is_none_or(|(other, most)| (room, std::cmp::Reverse(&node.name)) > (most, std::cmp::Reverse(&other.name)))
                {
                    best = Some((node, room));
                }
            }
            Err(reason) => reasons.push(format!("node {} {reason}", node.name)),
        }
    }
    best.map(|(node, _)| node.name.as_str()).ok_or_else(|| reasons.join("; "))
}

/// Bytes left on the node once the volume is there.
fn room(request: &Request, node: &Candidate) -> Result<u64, String> {
    if let Some(reason) = &node.closed {
        return Err(reason.clone());
    }
    if let Some(tag) = request.node_tags.iter().find(|tag| !node.tags.contains(*tag)) {
        return Err(format!("lacks tag {tag:?}, which spec.nodeSelector asks for"));
    }
    let fitting = node.disks.iter().filter(|disk| request.disk_tags.iter().all(|tag| disk.tags.contains(tag)));
    let capacity = fitting.map(|disk| disk.capacity).max().ok_or_else(|| match request.disk_tags.as_slice() {
        [] => "has no pool".to_owned(),
        tags => format!("has no pool with the tags that spec.diskSelector asks for: {}", tags.join(", ")),
    })?;
    let free = capacity.saturating_sub(node.promised);
    free.checked_sub(request.size).ok_or_else(|| {
        format!(
            "has room for {free} bytes more and the volume wants {} ({} of {capacity} are promised to its volumes)",
            request.size, node.promised
        )
    })
}

fn names(candidates: &[Candidate]) -> String {
    match candidates {
        [] => "none".to_owned(),
        some => some.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GI: u64 = 1 << 30;

    fn node(name: &str, capacity: u64, promised: u64) -> Candidate {
        Candidate { name: name.into(), disks: vec![Disk { tags: BTreeSet::new(), capacity }], promised, ..Default::default() }
    }

    fn tagged(mut node: Candidate, tags: &[&str], disk_tags: &[&str]) -> Candidate {
        node.tags = tags.iter().map(|t| (*t).to_owned()).collect();
        node.disks[0].tags = disk_tags.iter().map(|t| (*t).to_owned()).collect();
        node
    }

    fn closed(mut node: Candidate, reason: &str) -> Candidate {
        node.closed = Some(reason.into());
        node
    }

    fn request(size: u64) -> Request {
        Request { size, ..Default::default() }
    }

    #[test]
    fn table() {
        let on = |node: &str| Request { node: Some(node.into()), ..request(GI) };
        let with = |tags: &[&str], disks: &[&str]| Request {
            node_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            disk_tags: disks.iter().map(|t| (*t).to_owned()).collect(),
            ..request(GI)
        };
        #[allow(clippy::type_complexity)] // a table
        let cases: Vec<(&str, Request, Vec<Candidate>, Result<&str, &str>)> = vec![
            ("the most room wins", request(GI), vec![node("a", 10 * GI, 8 * GI), node("b", 9 * GI, GI)], Ok("b")),
            ("equal room: the first by name", request(GI), vec![node("b", 4 * GI, 0), node("a", 4 * GI, 0)], Ok("a")),
            ("exactly full is full enough", request(2 * GI), vec![node("a", 4 * GI, 2 * GI)], Ok("a")),
            (
                "a byte too much does not fit",
                request(2 * GI + 1),
                vec![node("a", 4 * GI, 2 * GI)],
                Err("room for 2147483648 bytes more"),
            ),
            ("promises over the pool leave no room", request(1), vec![node("a", GI, 3 * GI)], Err("room for 0 bytes")),
            ("a named node is taken though another has more", on("a"), vec![node("a", 2 * GI, 0), node("b", 9 * GI, 0)], Ok("a")),
            ("a named node that is not there", on("x"), vec![node("a", 2 * GI, 0)], Err("known are a")),
            ("no node at all", request(1), vec![], Err("no node is known yet")),
            ("a closed node says why", request(1), vec![closed(node("a", GI, 0), "is not ready")], Err("node a is not ready")),
            (
                "tags of the node",
                with(&["ssd"], &[]),
                vec![node("a", 9 * GI, 0), tagged(node("b", 2 * GI, 0), &["ssd"], &[])],
                Ok("b"),
            ),
            ("a tag nobody has", with(&["ssd"], &[]), vec![node("a", 9 * GI, 0)], Err("lacks tag \"ssd\"")),
            (
                "tags of the pool",
                with(&[], &["nvme"]),
                vec![node("a", 9 * GI, 0), tagged(node("b", 2 * GI, 0), &[], &["nvme"])],
                Ok("b"),
            ),
            ("a pool tag nobody has", with(&[], &["nvme"]), vec![node("a", 9 * GI, 0)], Err("spec.diskSelector")),
        ];
        for (what, request, candidates, expected) in cases {
            match (place(&request, &candidates), expected) {
                (Ok(node), Ok(wanted)) => assert_eq!(node, wanted, "{what}"),
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{what}: {reason}"),
                (got, wanted) => panic!("{what}: got {got:?}, wanted {wanted:?}"),
            }
        }
    }
}
