//! Whose turn it is to delete in a store. Asked before anything is read for a deletion, so that those who wait cost nothing.
//!
//! Several deletions in one volume's folder would each see a set of backups that changes under them and leave the collection of blocks
//! to the next. And deletions share the controller with new Backups, which must not wait behind them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::controllers::Error;
use crate::controllers::requeue::Backoff;

/// Deletions at work at once: well below what the controller works on at once.
const AT_ONCE: usize = 4;
/// The longest wait between two tries to get a turn.
const WAIT_AT_MOST: Duration = Duration::from_secs(15);

/// The deletions at work, by volume, and the patience of the others.
#[derive(Debug, Default)]
pub struct Turns {
    busy: Mutex<HashSet<String>>,
    waits: Backoff,
}

/// The right to delete in one volume's folder, until dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    volume: String,
}

impl Turns {
    /// The turn of object `uid` in `volume`, or how long to wait before it asks again: longer each time.
    pub fn take(&self, uid: &str, volume: &str) -> Result<Turn<'_>, Duration> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.len() < AT_ONCE && busy.insert(volume.to_owned()) {
            self.waits.reset(uid);
            return Ok(Turn { turns: self, volume: volume.to_owned() });
        }
        let why = Error::NotYet("other deletions are at work".to_owned());
        Err(self.waits.after(uid, &why).min(WAIT_AT_MOST))
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.waits.reset(uid);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_deletion_works_in_a_volume_and_few_work_at_all() {
        let turns = Turns::default();
        let first = turns.take("u1", "v1").expect("free");
        turns.take("u2", "v1").expect_err("the volume is busy");
        let others: Vec<_> = (2..=AT_ONCE).map(|n| turns.take("u", &format!("v{n}")).expect("free")).collect();
        turns.take("u3", "v9").expect_err("enough are at work");
        drop(first);
        drop(turns.take("u2", "v1").expect("free again"));
        drop(others);
    }

    #[test]
    fn who_waits_asks_less_and_less_often_but_never_waits_long() {
        let turns = Turns::default();
        let turn = turns.take("u1", "v1").expect("free");
        let waits: Vec<_> = (0..10).map(|_| turns.take("u2", "v1").expect_err("busy")).collect();
        assert!(waits[0] < Duration::from_secs(1) && waits[3] > waits[0], "{waits:?}");
        assert_eq!(waits[9], WAIT_AT_MOST);
        drop(turn);
    }
}
