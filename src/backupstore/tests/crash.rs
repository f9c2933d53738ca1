//! A process dies at any write of any operation: the store stays valid, and the next try ends what was begun.

use std::time::Duration;

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::hooked::{Call, Hook, Hooked, Verdict};
use super::*;

const BLOCK: u64 = 512;

/// A process that dies at a chosen write: nothing it does later reaches the store.
struct Cut {
    memory: Arc<Memory>,
    left: AtomicI64,
    /// Whether the last write still takes effect.
    applies: bool,
    died: Notify,
}

impl Cut {
    /// `writes` writes take effect; the next one does if `applies`, and is never answered.
    fn new(memory: Arc<Memory>, writes: i64, applies: bool) -> Arc<Self> {
        Arc::new(Self { memory, left: AtomicI64::new(writes), applies, died: Notify::new() })
    }

    fn driver(self: &Arc<Self>) -> Arc<dyn Driver> {
        Arc::new(Hooked { memory: self.memory.clone(), hook: self.clone() })
    }

    /// Runs `future` as the process that dies: `None` when it did.
    async fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died.notified() => None,
            result = future => Some(result),
        }
    }
}

impl Hook for Arc<Cut> {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict> {
        async move {
            let Some(write) = call.write else { return Verdict::Go };
            match self.left.fetch_sub(1, SeqCst) {
                1.. => Verdict::Go,
                0 => {
                    if self.applies {
                        write.apply(&self.memory);
                    }
                    self.died.notify_one();
                    std::future::pending().await
                }
                _ => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// A store with one backup of a disk that has changed since.
struct Rig {
    time: Time,
    memory: Arc<Memory>,
    disk: Disk,
    first: Vec<u8>,
}

impl Rig {
    fn new() -> Self {
        let time = Time::new();
        let clock = time.clock.clone();
        let memory = Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp())));
        let mut disk = Disk::new(8 * BLOCK as usize);
        for (i, byte) in disk.data_mut().iter_mut().enumerate() {
            *byte = (i / BLOCK as usize) as u8 * 3 % 7;
        }
        let rig = Self { first: disk.data().to_vec(), time, memory, disk };
        rig.complete("b-1", rig.disk.clone().snapshot("snap-b-1"));
        rig
    }

    /// The disk after b-1: some blocks new, one zeroed, b-1's snapshot still there.
    fn second(&self) -> Arc<Snapshot> {
        let mut disk = self.disk.clone();
        disk.snapshot("snap-b-1");
        for (block, byte) in [(0, 50), (3, 0), (5, 51), (6, 50)] {
            disk.data_mut()[block * BLOCK as usize..(block + 1) * BLOCK as usize].fill(byte);
        }
        disk.snapshot("snap-b-2")
    }

    fn store(&self) -> Store {
        store(self.memory.clone(), &self.time.clock)
    }

    fn complete(&self, backup: &str, source: Arc<Snapshot>) {
        self.time.run(create(&self.store(), BLOCK, request(backup, &self.time.clock), source)).unwrap();
    }

    /// Restores as an agent does: again, while a dead process's lock is held.
    fn restored(&self, backup: &str) -> Vec<u8> {
        for _ in 0..3 {
            let sink = Image::used(8 * BLOCK as usize);
            match self.time.run(restore(&self.store(), backup, sink.clone())) {
                Err(Error::LockHeld { .. }) => self.time.clock.advance(Duration::from_secs(100)),
                result => {
                    result.unwrap();
                    return sink.data();
                }
            }
        }
        panic!("a dead process holds its lock for ever");
    }

    /// Deletes as a manager does: again, while a lock is held.
    fn delete(&self, backup: &str) {
        for _ in 0..3 {
            match self.time.run(self.store().delete_backup(&volume(), &name(backup))) {
                Err(Error::LockHeld { .. }) => self.time.clock.advance(Duration::from_secs(100)),
                result => {
                    assert_eq!(result.unwrap().skipped, None);
                    return;
                }
            }
        }
        panic!("a dead process holds its lock for ever");
    }

    /// After the dead process's lock is gone too, nothing is left of it.
    fn assert_tidy(&self) {
        let mut inside = Inside::of(&self.memory);
        // Locks of dead processes stay; they bind nobody.
        inside.locks = 0;
        inside.assert_tidy();
    }
}

/// Runs `scenario` with a process that dies at its first, second, ... write, until it lives to the end.
fn at_every_write(scenario: impl Fn(&Rig, Arc<Cut>) -> bool) {
    for applies in [false, true] {
        let mut writes = 0;
        loop {
            let rig = Rig::new();
            let cut = Cut::new(rig.memory.clone(), writes, applies);
            if scenario(&rig, cut) {
                break;
            }
            writes += 1;
        }
        assert!(writes >= 3, "the scenario has only {writes} writes");
    }
}

#[test]
fn a_writer_that_dies_at_any_write_is_resumed() {
    at_every_write(|rig, cut| {
        let source = rig.second();
        let dying = store(cut.driver(), &rig.time.clock);
        let result = rig.time.run(cut.run(create(&dying, BLOCK, request("b-2", &rig.time.clock), source.clone())));
        Inside::of(&rig.memory).assert_valid();
        assert_eq!(rig.restored("b-1"), rig.first);

        rig.complete("b-2", source.clone());
        assert_eq!(rig.restored("b-1"), rig.first);
        assert_eq!(rig.restored("b-2"), source.data());
        let volume = rig.time.run(rig.store().volume(&volume())).unwrap().unwrap();
        assert_eq!(volume.last_backup_name, "b-2");
        rig.delete("b-1");
        assert_eq!(rig.restored("b-2"), source.data());
        rig.assert_tidy();
        result.is_some()
    });
}

#[test]
fn what_a_dead_writer_left_goes_with_the_next_delete() {
    at_every_write(|rig, cut| {
        let dying = store(cut.driver(), &rig.time.clock);
        let result = rig.time.run(cut.run(create(&dying, BLOCK, request("b-2", &rig.time.clock), rig.second())));
        let is_complete = Inside::of(&rig.memory).complete().any(|(name, _)| name == "b-2");
        rig.delete("b-3");
        assert_eq!(rig.restored("b-1"), rig.first);
        rig.assert_tidy();
        assert_eq!(Inside::of(&rig.memory).configs.len(), if is_complete { 2 } else { 1 });
        result.is_some()
    });
}

#[test]
fn a_delete_that_dies_at_any_write_is_ended_by_the_next() {
    at_every_write(|rig, cut| {
        rig.complete("b-2", rig.second());
        let dying = store(cut.driver(), &rig.time.clock);
        let result = rig.time.run(cut.run(dying.delete_backup(&volume(), &name("b-1"))));
        Inside::of(&rig.memory).assert_valid();
        rig.delete("b-1");
        rig.assert_tidy();
        let inside = Inside::of(&rig.memory);
        assert_eq!(inside.configs.keys().collect::<Vec<_>>(), ["b-2"]);
        assert_eq!(rig.restored("b-2"), rig.second().data());
        result.is_some()
    });
}

#[test]
fn a_volume_is_deleted_whenever_the_process_dies() {
    at_every_write(|rig, cut| {
        let dying = store(cut.driver(), &rig.time.clock);
        let result = rig.time.run(cut.run(dying.delete_volume(&volume())));
        Inside::of(&rig.memory).assert_valid();
        rig.time.run(rig.store().delete_volume(&volume())).unwrap();
        assert_eq!(objects(&rig.memory), []);
        result.is_some()
    });
}

#[test]
fn a_restore_goes_on_where_the_sink_was_durable() {
    let rig = Rig::new();
    for blank in [true, false] {
        for writes in 0.. {
            let sink = if blank { Image::blank(8 * BLOCK as usize) } else { Image::used(8 * BLOCK as usize) };
            sink.fail_after(writes);
            let first = rig.time.run(restore(&rig.store(), "b-1", sink.clone()));
            sink.crash();
            rig.time.run(restore(&rig.store(), "b-1", sink.clone())).unwrap();
            assert_eq!(sink.data(), rig.first);
            match first {
                Ok(()) => break,
                Err(error) => assert_eq!(error.category(), "WriteFailed"),
            }
        }
    }
}

#[test]
fn a_sink_with_the_start_of_another_restore_is_zeroed() {
    let rig = Rig::new();
    let source = rig.second();
    rig.complete("b-2", source.clone());
    // The second restore dies after any number of writes, those of zeros included, and is begun again.
    for writes in 0.. {
        let sink = Image::blank(8 * BLOCK as usize);
        rig.time.run(restore(&rig.store(), "b-1", sink.clone())).unwrap();
        sink.fail_after(writes);
        let ended = rig.time.run(restore(&rig.store(), "b-2", sink.clone())).is_ok();
        sink.crash();
        rig.time.run(restore(&rig.store(), "b-2", sink.clone())).unwrap();
        assert_eq!(sink.data(), source.data(), "after {writes} writes");
        if ended {
            assert!(writes > 2, "zeros and blocks are written one by one");
            return;
        }
    }
}
