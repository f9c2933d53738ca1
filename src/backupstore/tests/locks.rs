//! The lock protocol as a whole: who wins, who loses, and that nobody writes on a lock that may have expired.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::SignedDuration;

use super::hooked::{Call, Hook, Hooked, Verdict};
use super::*;
use crate::backupstore::clock::Clock;
use crate::backupstore::driver::fence::Fence;
use crate::backupstore::lock::LockKind;

const BLOCK: u64 = 512;

struct Rig {
    time: Time,
    memory: Arc<Memory>,
}

impl Rig {
    /// A store whose server's clock is `skew` ahead of everybody's.
    fn skewed(skew: SignedDuration) -> Self {
        let time = Time::new();
        let clock = time.clock.clone();
        Self { memory: Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp() + skew))), time }
    }

    fn new() -> Self {
        Self::skewed(SignedDuration::from_hours(5))
    }

    fn store(&self) -> Store {
        store(self.memory.clone(), &self.time.clock)
    }

    /// A store on which `hook` decides about every call.
    fn hooked(&self, hook: impl Hook) -> Store {
        store(Arc::new(Hooked { memory: self.memory.clone(), hook }), &self.time.clock)
    }

    fn put_lock(&self, name: &str, body: &str) {
        let path = layout().lock(&name.parse().unwrap());
        self.time.run(self.memory.put(&path, bytes::Bytes::from(body.to_owned()))).unwrap();
    }

    fn back_up(&self, store: &Store) -> Result<Receipt> {
        self.time.run(create(store, BLOCK, request("b-1", &self.time.clock), disk()))
    }

    fn locks(&self) -> usize {
        Inside::of(&self.memory).locks
    }
}

fn disk() -> Arc<Snapshot> {
    let mut disk = Disk::new(4 * BLOCK as usize);
    for (i, block) in disk.data_mut().chunks_mut(BLOCK as usize).enumerate() {
        block.fill(i as u8 + 1);
    }
    disk.snapshot("snap-b-1")
}

/// A hook that is a function.
struct Decide<F>(F);

impl<F: Fn(&Call) -> BoxFuture<'static, Verdict> + Send + Sync + 'static> Hook for Decide<F> {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict> {
        (self.0)(&call)
    }
}

fn at_once(verdict: Verdict) -> BoxFuture<'static, Verdict> {
    std::future::ready(verdict).boxed()
}

const BACKUP: &str = r#"{"Name":"lock-0123456789abcdef","Type":1,"Acquired":true}"#;
const DELETION: &str = r#"{"Name":"lock-0123456789abcdef","Type":2,"Acquired":true}"#;
const FOREIGN: &str = "lock-0123456789abcdef";

#[test]
fn a_held_lock_excludes_the_other_kind_and_the_loser_removes_its_own() {
    let rig = Rig::new();
    rig.put_lock(FOREIGN, DELETION);
    rig.time.clock.advance(Duration::from_secs(20));
    match rig.back_up(&rig.store()).unwrap_err() {
        Error::LockHeld { holder, kind: LockKind::Delete, age, .. } => {
            assert_eq!(holder.as_str(), FOREIGN);
            assert_eq!(age, Duration::from_secs(22));
        }
        other => panic!("{other}"),
    }
    assert_eq!(objects(&rig.memory).len(), 1, "only the other one's lock is there");
}

#[test]
fn locks_of_one_kind_go_together() {
    let rig = Rig::new();
    rig.put_lock(FOREIGN, BACKUP);
    rig.back_up(&rig.store()).unwrap();
    assert_eq!(rig.locks(), 1);
    let error = rig.time.run(rig.store().delete_backup(&volume(), &name("b-1"))).unwrap_err();
    assert!(matches!(error, Error::LockHeld { kind: LockKind::Transfer, .. }), "{error}");
}

#[test]
fn an_expired_lock_binds_nobody_whatever_the_clocks_say() {
    for hours in [-30, 0, 30] {
        let rig = Rig::skewed(SignedDuration::from_hours(hours));
        rig.put_lock(FOREIGN, DELETION);
        rig.time.clock.advance(Duration::from_secs(147));
        assert!(matches!(rig.back_up(&rig.store()), Err(Error::LockHeld { .. })), "at 149 s it still holds");
        rig.time.clock.advance(Duration::from_secs(1));
        rig.back_up(&rig.store()).unwrap();
    }
}

#[test]
fn a_lock_that_nobody_can_read_is_held() {
    let rig = Rig::new();
    rig.put_lock(FOREIGN, "{\"Ty");
    assert!(matches!(rig.back_up(&rig.store()), Err(Error::LockHeld { .. })));
    assert!(matches!(rig.time.run(rig.store().delete_volume(&volume())), Err(Error::LockHeld { .. })));
}

#[test]
fn without_a_whole_listing_there_is_no_lock() {
    let rig = Rig::new();
    rig.put_lock(FOREIGN, BACKUP);
    for (verb, part) in [("list", "/locks"), ("get", "/locks/")] {
        let fails = Decide(move |call: &Call| {
            at_once(if call.verb == verb && call.path.contains(part) { Verdict::FailBefore } else { Verdict::Go })
        });
        let error = rig.back_up(&rig.hooked(fails)).unwrap_err();
        assert_eq!((error.category(), error.is_transient()), ("StoreUnavailable", true));
        assert_eq!(rig.locks(), 1, "our own lock was removed");
    }
}

#[test]
fn a_long_upload_keeps_its_lock() {
    let rig = Rig::new();
    let clock = rig.time.clock.clone();
    let refreshes = Arc::new(Mutex::new(0));
    let seen = refreshes.clone();
    let slow = Decide(move |call: &Call| {
        if call.verb == "put" && call.path.contains("/locks/") {
            *seen.lock().unwrap() += 1;
        }
        let pause = if call.path.ends_with(".blk") { 400 } else { 0 };
        clock.sleep(Duration::from_secs(pause)).map(|()| Verdict::Go).boxed()
    });
    rig.back_up(&rig.hooked(slow)).unwrap();
    assert!(*refreshes.lock().unwrap() >= 2 + 6, "a refresh each minute");
    Inside::of(&rig.memory).assert_tidy();
}

#[test]
fn a_process_that_was_suspended_writes_nothing_more() {
    // Longer than the fence, and longer than the lock's life.
    for seconds in [95, 1000] {
        let rig = Rig::new();
        let clock = rig.time.clock.clone();
        let suspended = Decide(move |call: &Call| {
            if call.verb == "put" && call.path.contains("/locks/") && call_is_refresh(&clock) {
                return at_once(Verdict::FailBefore);
            }
            // The last thing before the commit: the lock is looked at.
            if call.verb == "stat" && call.path.contains("/locks/") {
                clock.advance(Duration::from_secs(seconds));
            }
            at_once(Verdict::Go)
        });
        let error = rig.back_up(&rig.hooked(suspended)).unwrap_err();
        assert_eq!((error.category(), error.is_transient()), ("LockLost", true), "{error}");
        let inside = Inside::of(&rig.memory);
        assert_eq!(inside.complete().count(), 0);
        assert_eq!(inside.configs.len(), 1, "the mark is left for whoever holds the lock now");
    }
}

/// Whether the settle wait is over.
fn call_is_refresh(clock: &VirtualClock) -> bool {
    clock.now() > Duration::from_secs(10)
}

#[test]
fn a_lock_that_cannot_be_refreshed_ends_the_upload() {
    let rig = Rig::new();
    let clock = rig.time.clock.clone();
    let cut_off = Decide(move |call: &Call| {
        if call.path.contains("/locks/") && call_is_refresh(&clock) {
            return at_once(Verdict::FailBefore);
        }
        let pause = if call.path.ends_with(".blk") { 10_000 } else { 0 };
        clock.sleep(Duration::from_secs(pause)).map(|()| Verdict::Go).boxed()
    });
    let error = rig.back_up(&rig.hooked(cut_off)).unwrap_err();
    assert_eq!(error.category(), "LockLost");
    assert!(rig.time.clock.now() < Duration::from_secs(160), "it ended when the lock did");
}

#[test]
fn a_commit_without_an_answer_is_adopted_or_made_again() {
    for verdict in [Verdict::FailBefore, Verdict::FailAfter] {
        let rig = Rig::new();
        let unanswered = Decide(move |call: &Call| {
            let is_commit = matches!(&call.write, Some(hooked::Write::Put(_, data)) if call.path.contains("/backups/") && data.windows(8).any(|w| w == b"\"Blocks\""));
            at_once(if is_commit { verdict } else { Verdict::Go })
        });
        let before = rig.time.clock.now();
        let error = rig.back_up(&rig.hooked(unanswered)).unwrap_err();
        assert_eq!(error.category(), "StoreUnavailable");
        let waited = rig.time.clock.now() - before;
        assert!(waited >= Duration::from_secs(17), "the lock was held while the request could take effect: {waited:?}");
        assert_eq!(rig.locks(), 0);
        let receipt = rig.back_up(&rig.store()).unwrap();
        assert_eq!(receipt.adopted, verdict == Verdict::FailAfter);
        Inside::of(&rig.memory).assert_tidy();
    }
}

/// Sends what `chosen` chooses twice; the first attempt takes effect as late as any can.
fn first_attempt_late(rig: &Rig, chosen: impl Fn(&Call) -> bool + Send + Sync + 'static) -> impl Hook {
    let (memory, clock) = (rig.memory.clone(), rig.time.clock.clone());
    Decide(move |call: &Call| {
        let Some(write) = call.write.clone().filter(|_| chosen(call)) else { return at_once(Verdict::Go) };
        let (memory, late) = (memory.clone(), clock.sleep(Duration::from_millis(14_900)));
        tokio::spawn(async move {
            late.await;
            write.apply(&memory);
        });
        at_once(Verdict::GoAgain)
    })
}

fn puts(call: &Call, text: &str) -> bool {
    match &call.write {
        Some(hooked::Write::Put(_, data)) => std::str::from_utf8(data).is_ok_and(|data| data.contains(text)),
        _ => false,
    }
}

#[test]
fn a_mark_that_was_sent_twice_does_not_meet_the_final_config() {
    let rig = Rig::new();
    let hook = first_attempt_late(&rig, |call| call.path.contains("/backups/") && !puts(call, "\"Blocks\""));
    rig.back_up(&rig.hooked(hook)).unwrap();
    rig.time.run(rig.time.clock.sleep(Duration::from_secs(60)));
    let inside = Inside::of(&rig.memory);
    assert_eq!(inside.complete().count(), 1);
    inside.assert_tidy();
}

#[test]
fn a_mark_that_was_sent_twice_does_not_outlive_the_lock_of_a_cancelled_backup() {
    let rig = Rig::new();
    let store = rig.hooked(first_attempt_late(&rig, |call| call.path.contains("/backups/")));
    let (clock, cancel) = (rig.time.clock.clone(), CancellationToken::new());
    let progress = Arc::new(Progress::default());
    let transfer = store.create_blocks_of(BLOCK, request("b-1", &clock), disk(), progress, cancel.clone());
    // While it waits for the mark.
    let gate = async { clock.sleep(Duration::from_secs(5)).map(|()| cancel.cancel()).await };
    let (result, ()) = rig.time.run(futures::future::join(transfer, gate));
    assert_eq!(result.unwrap_err().category(), "Cancelled");
    rig.back_up(&rig.store()).unwrap();
    rig.time.run(rig.time.clock.sleep(Duration::from_secs(60)));
    Inside::of(&rig.memory).assert_tidy();
    assert_eq!(Inside::of(&rig.memory).complete().count(), 1);
}

#[test]
fn a_delete_that_was_sent_twice_does_not_outlive_its_lock() {
    let rig = Rig::new();
    rig.back_up(&rig.store()).unwrap();
    let hook = first_attempt_late(&rig, |call| call.verb == "delete" && call.path.ends_with(".blk"));
    rig.time.run(rig.hooked(hook).delete_backup(&volume(), &name("b-1"))).unwrap();
    // The same blocks again, at once: nothing may take them away.
    rig.back_up(&rig.store()).unwrap();
    rig.time.run(rig.time.clock.sleep(Duration::from_secs(60)));
    Inside::of(&rig.memory).assert_tidy();
}

#[test]
fn a_lock_that_was_sent_twice_stays_acquired() {
    let rig = Rig::new();
    let (memory, clock) = (rig.memory.clone(), rig.time.clock.clone());
    let late = first_attempt_late(&rig, |call| call.path.contains("/locks/") && puts(call, "\"Acquired\":false"));
    let slow = Decide(move |call: &Call| {
        let pause = if call.path.ends_with(".blk") { 20 } else { 0 };
        if pause == 0 {
            return at_once(late.call(call.clone()).now_or_never().unwrap());
        }
        let (memory, over) = (memory.clone(), clock.sleep(Duration::from_secs(pause)));
        async move {
            over.await;
            let lock = objects(&memory).into_iter().find(|path| path.as_str().contains("/locks/")).unwrap();
            assert!(read(&memory, &lock).unwrap().ends_with(b"\"Acquired\":true}"));
            Verdict::Go
        }
        .boxed()
    });
    rig.back_up(&rig.hooked(slow)).unwrap();
}

#[test]
fn the_driver_is_told_when_the_lock_has_ended() {
    let rig = Rig::new();
    let clock = rig.time.clock.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let commit = Decide(move |call: &Call| {
        if call.path.contains("/backups/") && puts(call, "\"Blocks\"") {
            let fence = Fence::current().unwrap();
            for seconds in [0, 130, 10] {
                clock.advance(Duration::from_secs(seconds));
                seen.lock().unwrap().push(fence.holds());
            }
        }
        at_once(Verdict::Go)
    });
    let _ = rig.back_up(&rig.hooked(commit));
    assert_eq!(*told.lock().unwrap(), [true, true, false]);
}

#[test]
fn a_writer_whose_lock_or_mark_is_gone_does_not_commit() {
    for (part, category) in [("/locks/", "LockLost"), ("/backups/", "LockLost")] {
        let rig = Rig::new();
        let memory = rig.memory.clone();
        let thief = Decide(move |call: &Call| {
            if call.path.ends_with(".blk") {
                let stolen: Vec<StorePath> = objects(&memory).into_iter().filter(|path| path.as_str().contains(part)).collect();
                hooked::Write::Delete(stolen).apply(&memory);
            }
            at_once(Verdict::Go)
        });
        let error = rig.back_up(&rig.hooked(thief)).unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        assert_eq!(Inside::of(&rig.memory).complete().count(), 0);
    }
}

#[test]
fn the_later_of_two_writers_of_one_backup_makes_it() {
    let rig = Rig::new();
    let (memory, clock) = (rig.memory.clone(), rig.time.clock.clone());
    let later = Mutex::new(Some(rig.store()));
    let other = Arc::new(Mutex::new(None));
    let task = other.clone();
    let overtaken = Decide(move |call: &Call| {
        if call.path.ends_with(".blk")
            && let Some(store) = later.lock().unwrap().take()
        {
            let wanted = request("b-1", &clock);
            *task.lock().unwrap() = Some(tokio::spawn(async move { create(&store, BLOCK, wanted, disk()).await }));
        }
        // Slow enough for the other one to pass.
        let pause = if call.path.ends_with(".blk") { 30 } else { 0 };
        clock.sleep(Duration::from_secs(pause)).map(|()| Verdict::Go).boxed()
    });
    let error = rig.back_up(&rig.hooked(overtaken)).unwrap_err();
    assert_eq!(error.category(), "Superseded");
    let other = other.lock().unwrap().take().unwrap();
    rig.time.run(other).unwrap().unwrap();
    Inside::of(&memory).assert_tidy();
}
