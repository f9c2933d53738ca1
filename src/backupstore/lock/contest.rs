//! Who wins when several locks meet: a pure function of what the store shows.

use jiff::Timestamp;

use super::{LockKind, LockName};

/// One lock as seen in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    pub name: LockName,
    pub kind: LockKind,
    pub acquired: bool,
    /// The server's time of its last write.
    pub modified: Timestamp,
}

impl Contender {
    /// What is acquired goes first, then what is older, then the smaller name.
    fn rank(&self) -> (bool, Timestamp, &LockName) {
        (!self.acquired, self.modified, &self.name)
    }
}

/// The first among `rivals` that excludes `me` and goes before it.
pub fn strongest_rival<'a>(me: &Contender, rivals: &'a [Contender]) -> Option<&'a Contender> {
    rivals.iter().filter(|rival| rival.kind != me.kind && rival.rank() < me.rank()).min_by(|a, b| a.rank().cmp(&b.rank()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contender() -> impl Strategy<Value = Contender> {
        (0..4u32, any::<bool>(), any::<bool>(), 0..4i64).prop_map(|(name, delete, acquired, second)| Contender {
            name: format!("lock-{name}").parse().unwrap(),
            kind: if delete { LockKind::Delete } else { LockKind::Transfer },
            acquired,
            modified: Timestamp::from_second(second).unwrap(),
        })
    }

    proptest! {
        #[test]
        fn of_two_that_exclude_each_other_exactly_one_wins(a in contender(), b in contender()) {
            prop_assume!(a.name != b.name);
            let a_wins = strongest_rival(&a, std::slice::from_ref(&b)).is_none();
            let b_wins = strongest_rival(&b, std::slice::from_ref(&a)).is_none();
            if a.kind == b.kind {
                prop_assert!(a_wins && b_wins);
            } else {
                prop_assert!(a_wins != b_wins);
            }
        }

        #[test]
        fn a_lock_that_is_not_acquired_never_beats_one_that_is(me in contender(), rivals in proptest::collection::vec(contender(), 0..5)) {
            let held = rivals.iter().any(|rival| rival.acquired && rival.kind != me.kind);
            if held && !me.acquired {
                prop_assert!(strongest_rival(&me, &rivals).is_some_and(|rival| rival.acquired));
            }
        }
    }
}
