//! What is kept in the store beside the volumes: its identity, and what probes write.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;

use super::hooked::{Call, Hook, Hooked, Verdict, Write};
use super::*;
use crate::backupstore::clock::Clock;
use crate::backupstore::layout;

struct Rig {
    time: Time,
    memory: Arc<Memory>,
}

impl Rig {
    fn new() -> Self {
        let time = Time::new();
        let clock = time.clock.clone();
        Self { memory: Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp()))), time }
    }

    fn store(&self) -> Store {
        store(self.memory.clone(), &self.time.clock)
    }

    fn hooked(&self, hook: impl Hook) -> Store {
        store(Arc::new(Hooked { memory: self.memory.clone(), hook }), &self.time.clock)
    }
}

/// Each write takes a second.
struct SlowWrites(VirtualClock);

impl Hook for SlowWrites {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict> {
        let pause = if call.write.is_some() { 1 } else { 0 };
        self.0.sleep(Duration::from_secs(pause)).map(|()| Verdict::Go).boxed()
    }
}

#[test]
fn of_two_that_give_a_store_its_identity_at_once_both_get_the_one_that_stays() {
    let rig = Rig::new();
    let (quick, slow) = (rig.store(), rig.hooked(SlowWrites(rig.time.clock.clone())));
    let (quick, slow) = rig.time.run(futures::future::join(quick.ensure_marker(), slow.ensure_marker()));
    let stays = rig.time.run(rig.store().marker()).unwrap().unwrap();
    assert_eq!((quick.unwrap(), slow.unwrap()), (stays.clone(), stays));
}

#[test]
fn a_store_keeps_its_identity_also_when_the_one_who_gave_it_died() {
    let rig = Rig::new();
    let written = Arc::new(Mutex::new(None));
    let (memory, seen) = (rig.memory.clone(), written.clone());
    let died = Dying(Box::new(move |write: Write| {
        write.apply(&memory);
        *seen.lock().unwrap() = read(&memory, &layout::marker());
    }));
    rig.time.run(rig.hooked(died).ensure_marker()).unwrap_err();
    let marker = rig.time.run(rig.store().ensure_marker()).unwrap();
    let written: super::super::marker::Marker = json::from_slice(&written.lock().unwrap().take().unwrap()).unwrap();
    assert_eq!(marker, written);
}

/// Its writes take effect and are never answered.
struct Dying(Box<dyn Fn(Write) + Send + Sync>);

impl Hook for Dying {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict> {
        let verdict = match call.write {
            Some(write) => {
                (self.0)(write);
                Verdict::FailBefore
            }
            None => Verdict::Go,
        };
        std::future::ready(verdict).boxed()
    }
}

#[test]
fn what_a_probe_that_died_left_goes_with_a_later_one_and_no_younger_one_is_touched() {
    let rig = Rig::new();
    let memory = rig.memory.clone();
    let dying = rig.hooked(Dying(Box::new(move |write| write.apply(&memory))));
    rig.time.run(dying.probe()).unwrap_err();
    rig.time.run(rig.store().probe()).unwrap();
    assert_eq!(objects(&rig.memory).len(), 1, "it may be under way still");
    rig.time.clock.advance(Duration::from_secs(3601));
    rig.time.run(rig.store().probe()).unwrap();
    assert_eq!(objects(&rig.memory), []);
}
