//! Whether a node's agent is alive. Pure.

use std::time::Duration;

/// An agent writes its heartbeat every 10 s; four in a row missed are more than a slow API server.
pub const STALE_AFTER: Duration = Duration::from_secs(40);

/// What to do about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Look again after this time.
    LookAgain(Duration),
    /// Say that nobody knows how the node is.
    MarkUnknown,
}

/// `unchanged_for`: how long this process has seen the same heartbeat, by its own monotonic clock, so that the clocks of two nodes are
/// never compared. `marked`: the node is marked already.
pub fn plan(unchanged_for: Duration, marked: bool) -> Plan {
    match STALE_AFTER.checked_sub(unchanged_for) {
        Some(left) if !left.is_zero() => Plan::LookAgain(left),
        _ if marked => Plan::LookAgain(STALE_AFTER),
        _ => Plan::MarkUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_marked_once_its_heartbeat_stood_still_for_forty_seconds() {
        let s = Duration::from_secs;
        assert_eq!(plan(s(0), false), Plan::LookAgain(s(40)));
        assert_eq!(plan(s(39), false), Plan::LookAgain(s(1)));
        assert_eq!(plan(s(40), false), Plan::MarkUnknown);
        assert_eq!(plan(s(400), false), Plan::MarkUnknown);
        assert_eq!(plan(s(400), true), Plan::LookAgain(s(40)), "and not again");
        assert_eq!(plan(s(3), true), Plan::LookAgain(s(37)), "its agent is back and takes the mark away");
    }
}
