//! The whole of it, interleaved: two writers of two clusters and a deleter on one volume, each call of each a step that a random schedule
//! orders, delays, fails, sends twice or leaves without an answer; processes are cut off, frozen, killed and started again. Time is the schedule's.
//!
//! The real operations run, over the memory driver. After every change that adds a backup or takes a block away, every complete backup
//! must have all its blocks. `DROVER_SOAK_ROUNDS` sets how many thousand schedules are tried, `DROVER_SEED` repeats a run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::sync::{Notify, oneshot};

use super::hooked::{Call, Hook, Hooked, Verdict, Write};
use super::*;
use crate::backupstore::clock::Clock;

const BLOCK: u64 = 512;
const BLOCKS: usize = 4;
const WRITERS: usize = 2;
const PROCESSES: usize = WRITERS + 1;

/// A request whose sender gave up can take effect this much later. The lock protocol allows for a tenth of a lock's life.
const LATE: Duration = Duration::from_millis(14_900);
/// One whose sender is dead: its connection is closed.
const LATE_OF_DEAD: Duration = Duration::from_millis(1_900);
/// A server has carried out a request by then, or never does, also where its sender is frozen and so cannot give it up: what the fence
/// leaves of a lock's life. No client can answer for a server that takes longer.
const CARRIED_OUT: Duration = Duration::from_secs(60);

/// What the schedule does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Answers a waiting call.
    Answer(u8, Verdict),
    /// Answers that the call failed; it takes effect later.
    Late(u8),
    /// Carries out and answers a waiting call at its second attempt; the first takes effect later.
    Again(u8),
    /// Moves the clock to the next alarm.
    Tick,
    /// Lets seconds pass, calls waiting.
    Wait(u8),
    /// Lets seconds pass that no process sees: all are frozen.
    Freeze(u8),
    /// Answers no call of a process.
    Suspend(u8),
    /// Answers them again.
    Resume(u8),
    /// Kills a process; it starts again at the next step.
    Kill(u8),
}

/// The next step, of which those of misfortune have `trouble` times their usual share.
fn step(trouble: u32) -> impl Strategy<Value = Step> {
    let process = 0..PROCESSES as u8;
    prop_oneof![
        24 => any::<u8>().prop_map(|n| Step::Answer(n, Verdict::Go)),
        trouble => any::<u8>().prop_map(|n| Step::Answer(n, Verdict::FailBefore)),
        trouble => any::<u8>().prop_map(|n| Step::Answer(n, Verdict::FailAfter)),
        trouble => any::<u8>().prop_map(Step::Late),
        trouble => any::<u8>().prop_map(Step::Again),
        6 => Just(Step::Tick),
        trouble => (1u8..=200).prop_map(Step::Wait),
        trouble => (1u8..=200).prop_map(Step::Freeze),
        trouble => process.clone().prop_map(Step::Suspend),
        trouble => process.clone().prop_map(Step::Resume),
        trouble => process.prop_map(Step::Kill),
    ]
}

/// A call that waits for the schedule.
struct Ticket {
    process: usize,
    write: Option<Write>,
    sent: Duration,
    /// Whether it takes effect was decided while its sender was frozen.
    decided: Arc<AtomicBool>,
    answer: oneshot::Sender<Verdict>,
}

struct World {
    clock: VirtualClock,
    memory: Arc<Memory>,
    tickets: Mutex<Vec<Ticket>>,
    /// Changes that take effect by that time, though nobody waits for them.
    late: Mutex<Vec<(Duration, Write)>>,
    /// Decides whether a call that was given up takes effect.
    coin: AtomicUsize,
    suspended: [AtomicBool; PROCESSES],
    dying: [AtomicBool; PROCESSES],
    changed: AtomicBool,
    scripts: [Mutex<Script>; PROCESSES],
    finished: Notify,
}

/// What a process has to do, kept as its API objects are: over its death.
#[derive(Debug, Default)]
struct Script {
    /// Writers: backups to make, first one next.
    to_make: Vec<(String, Arc<Snapshot>)>,
    /// Deleter: backups to remove, first one next.
    to_delete: Vec<String>,
    /// Backups whose making was answered with success.
    made: Vec<(String, Arc<Snapshot>)>,
    ended: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call on its way: what becomes of it when its sender gives it up.
struct InFlight {
    world: Arc<World>,
    process: usize,
    write: Option<Write>,
    decided: Arc<AtomicBool>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(write) = self.write.take()
            && !self.decided.load(SeqCst)
            && !self.world.coin.fetch_add(1, SeqCst).is_multiple_of(3)
        {
            let window = if self.world.dying[self.process].load(SeqCst) { LATE_OF_DEAD } else { LATE };
            self.world.later(window, write);
        }
    }
}

/// Whether a complete backup can lack a block after `write` and not before: what adds a backup or takes a block away.
fn matters(write: &Write) -> bool {
    match write {
        Write::Put(path, _) => path.as_str().contains("/backups/"),
        Write::Delete(paths) => paths.iter().any(|path| path.as_str().contains("/blocks/")),
    }
}

struct Process {
    world: Arc<World>,
    number: usize,
}

impl Hook for Process {
    fn call(&self, call: Call) -> BoxFuture<'_, Verdict> {
        let (answer, verdict) = oneshot::channel();
        let decided = Arc::<AtomicBool>::default();
        let in_flight =
            InFlight { world: self.world.clone(), process: self.number, write: call.write.clone(), decided: decided.clone() };
        let matters = call.write.as_ref().is_some_and(matters);
        async move {
            // Whole: captured by field, it would be dropped before the call begins.
            let mut in_flight = in_flight;
            let sent = self.world.clock.now();
            locked(&self.world.tickets).push(Ticket { process: self.number, write: call.write, sent, decided, answer });
            let verdict = verdict.await.unwrap_or(Verdict::FailBefore);
            in_flight.write = None;
            if matters && verdict != Verdict::FailBefore {
                self.world.changed.store(true, SeqCst);
            }
            verdict
        }
        .boxed()
    }
}

impl World {
    fn later(&self, window: Duration, write: Write) {
        locked(&self.late).push((self.clock.now() + window, write));
    }

    /// Moves the clock, late changes first.
    fn advance(&self, by: Duration) {
        let to = self.clock.now() + by;
        loop {
            let mut late = locked(&self.late);
            let Some(next) = (0..late.len()).min_by_key(|i| late[*i].0).filter(|i| late[*i].0 <= to) else { break };
            let (at, write) = late.swap_remove(next);
            drop(late);
            self.clock.advance(at.saturating_sub(self.clock.now()));
            write.apply(&self.memory);
            self.changed.fetch_or(matters(&write), SeqCst);
        }
        self.clock.advance(to.saturating_sub(self.clock.now()));
    }

    /// Moves the clock while nobody sees it. The server meanwhile carries out what was sent, or loses it; the connections are gone.
    fn freeze(&self, by: Duration) {
        let (now, mut tickets) = (self.clock.now(), locked(&self.tickets));
        for ticket in tickets.drain(..) {
            let carried_out = (ticket.sent + CARRIED_OUT).min(now + by);
            if let Some(write) =
                ticket.write.filter(|_| !ticket.answer.is_closed() && !self.coin.fetch_add(1, SeqCst).is_multiple_of(3))
            {
                self.later(carried_out.saturating_sub(now), write);
            }
            ticket.decided.store(true, SeqCst);
            let _ = ticket.answer.send(Verdict::FailBefore);
        }
        drop(tickets);
        self.advance(by);
    }

    fn tick(&self) -> bool {
        match self.clock.next_alarm() {
            Some(at) => {
                self.advance(at.saturating_sub(self.clock.now()));
                true
            }
            None => false,
        }
    }

    /// The calls that the schedule may answer: those of processes that run.
    fn take_ticket(&self, which: u8) -> Option<Ticket> {
        let mut tickets = locked(&self.tickets);
        tickets.retain(|ticket| !ticket.answer.is_closed());
        let able: Vec<usize> = (0..tickets.len()).filter(|i| !self.suspended[tickets[*i].process].load(SeqCst)).collect();
        (!able.is_empty()).then(|| tickets.remove(able[usize::from(which) % able.len()]))
    }

    fn answer(&self, which: u8, verdict: Verdict) -> bool {
        let ticket = self.take_ticket(which);
        ticket.map(|ticket| ticket.answer.send(verdict)).is_some()
    }

    /// Answers a call one of whose attempts takes effect when nobody waits for it any more.
    fn answer_late(&self, which: u8, verdict: Verdict) -> bool {
        let Some(ticket) = self.take_ticket(which) else { return false };
        if let Some(write) = ticket.write {
            self.later(LATE, write);
        }
        let _ = ticket.answer.send(verdict);
        true
    }

    fn check(&self) {
        if self.changed.swap(false, SeqCst) {
            Inside::of(&self.memory).assert_valid();
        }
    }

    fn store(self: &Arc<Self>, number: usize) -> Store {
        let hook = Process { world: self.clone(), number };
        store(Arc::new(Hooked { memory: self.memory.clone(), hook }), &self.clock)
    }

    fn start(self: &Arc<Self>, number: usize) -> tokio::task::JoinHandle<()> {
        let world = self.clone();
        world.dying[number].store(false, SeqCst);
        world.suspended[number].store(false, SeqCst);
        let store = world.store(number);
        tokio::spawn(async move {
            if number < WRITERS {
                world.make_all(number, &store).await
            } else {
                world.delete_all(number, &store).await
            }
            locked(&world.scripts[number]).ended = true;
            world.finished.notify_one();
        })
    }

    async fn make_all(&self, number: usize, store: &Store) {
        loop {
            let Some((backup, source)) = locked(&self.scripts[number]).to_make.first().cloned() else { return };
            match create(store, BLOCK, request(&backup, &self.clock), source.clone()).await {
                Ok(_) => {
                    let mut script = locked(&self.scripts[number]);
                    let made = script.to_make.remove(0);
                    script.made.push(made);
                }
                Err(error) => {
                    assert!(error.is_transient(), "{backup}: {error}");
                    self.clock.sleep(Duration::from_secs(5)).await;
                }
            }
        }
    }

    async fn delete_all(&self, number: usize, store: &Store) {
        loop {
            let Some(backup) = locked(&self.scripts[number]).to_delete.first().cloned() else { return };
            match store.delete_backup(&volume(), &name(&backup)).await {
                Ok(_) => drop(locked(&self.scripts[number]).to_delete.remove(0)),
                Err(error) => {
                    assert!(error.is_transient(), "{backup}: {error}");
                    self.clock.sleep(Duration::from_secs(20)).await;
                }
            }
        }
    }

    fn all_ended(&self) -> bool {
        self.scripts.iter().all(|script| locked(script).ended)
    }
}

/// The contents of one backup's volume: a byte per block, few enough that backups share blocks.
type Content = [u8; BLOCKS];

fn disk_of(disk: &mut Disk, content: Content, id: &str) -> Arc<Snapshot> {
    for (block, byte) in disk.data_mut().chunks_mut(BLOCK as usize).zip(content) {
        block.fill(byte);
    }
    disk.snapshot(id)
}

/// Backups `{prefix}-0`, `{prefix}-1`, ... of one disk.
fn backups(prefix: &str, contents: &[Content]) -> Vec<(String, Arc<Snapshot>)> {
    let mut disk = Disk::new(BLOCK as usize * BLOCKS);
    let numbered = contents.iter().enumerate().map(|(i, content)| (format!("{prefix}-{i}"), *content));
    numbered.map(|(backup, content)| (backup.clone(), disk_of(&mut disk, content, &format!("snap-{backup}")))).collect()
}

fn run(contents: [Vec<Content>; 3], steps: Vec<Step>) {
    let time = Time::new();
    let clock = time.clock.clone();
    let memory = Arc::new(Memory::with_clock(Arc::new(move || clock.timestamp())));
    let old = backups("old", &contents[2]);
    for (backup, source) in &old {
        let store = store(memory.clone(), &time.clock);
        time.run(create(&store, BLOCK, request(backup, &time.clock), source.clone())).unwrap();
    }
    let world = Arc::new(World {
        clock: time.clock.clone(),
        memory: memory.clone(),
        tickets: Mutex::default(),
        late: Mutex::default(),
        coin: AtomicUsize::new(steps.len()),
        suspended: Default::default(),
        dying: Default::default(),
        changed: AtomicBool::new(true),
        scripts: Default::default(),
        finished: Notify::new(),
    });
    locked(&world.scripts[0]).to_make = backups("a", &contents[0]);
    locked(&world.scripts[1]).to_make = backups("b", &contents[1]);
    // One that is old, and one that may not be there yet.
    locked(&world.scripts[2]).to_delete = vec!["old-0".into(), "a-0".into(), "old-1".into()];
    interleave(&time, &world, steps);
    while !locked(&world.late).is_empty() {
        world.advance(LATE);
    }
    world.check();
    check_end(&time, &world, old);
}

fn interleave(time: &Time, world: &Arc<World>, steps: Vec<Step>) {
    let ended = async {
        while !world.all_ended() {
            world.finished.notified().await;
        }
    };
    let mut steps = steps.into_iter();
    let mut processes: Vec<Option<tokio::task::JoinHandle<()>>> = (0..PROCESSES).map(|_| None).collect();
    let mut left = 20_000;
    let mut wait_until = Duration::ZERO;
    time.run_with(ended, || {
        world.check();
        left -= 1;
        assert!(left > 0, "the processes never end");
        for (number, process) in processes.iter_mut().enumerate() {
            let ended = locked(&world.scripts[number]).ended;
            if !ended && process.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                assert!(process.is_none() || world.dying[number].load(SeqCst), "process {number} panicked");
                *process = Some(world.start(number));
                return true;
            }
        }
        let now = world.clock.now();
        if now < wait_until {
            let next = world.clock.next_alarm().map_or(wait_until, |alarm| alarm.min(wait_until));
            world.advance(next.saturating_sub(now));
            return true;
        }
        match steps.next() {
            Some(Step::Answer(which, verdict)) => world.answer(which, verdict) || world.tick() || world.resume_all(),
            Some(Step::Late(which)) => world.answer_late(which, Verdict::FailBefore) || world.tick() || world.resume_all(),
            Some(Step::Again(which)) => world.answer_late(which, Verdict::GoAgain) || world.tick() || world.resume_all(),
            Some(Step::Tick) => world.tick() || world.resume_all(),
            Some(Step::Wait(seconds)) => {
                wait_until = now + Duration::from_secs(seconds.into());
                world.idle()
            }
            Some(Step::Freeze(seconds)) => {
                world.freeze(Duration::from_secs(seconds.into()));
                world.idle()
            }
            Some(Step::Suspend(number)) => {
                world.suspended[usize::from(number)].store(true, SeqCst);
                world.idle()
            }
            Some(Step::Resume(number)) => {
                world.suspended[usize::from(number)].store(false, SeqCst);
                world.idle()
            }
            Some(Step::Kill(number)) => {
                if let Some(process) = &processes[usize::from(number)] {
                    world.dying[usize::from(number)].store(true, SeqCst);
                    process.abort();
                }
                world.idle()
            }
            None => {
                world.resume_all();
                world.answer(0, Verdict::Go) || world.tick()
            }
        }
    });
}

impl World {
    fn resume_all(&self) -> bool {
        self.suspended.iter().for_each(|suspended| suspended.store(false, SeqCst));
        true
    }

    /// A step that woke nobody.
    fn idle(&self) -> bool {
        true
    }
}

/// What was answered with success and not deleted is there, bit for bit; and then nothing else.
fn check_end(time: &Time, world: &Arc<World>, old: Vec<(String, Arc<Snapshot>)>) {
    let made = (0..WRITERS).flat_map(|number| std::mem::take(&mut locked(&world.scripts[number]).made));
    let deleted = ["old-0", "a-0", "old-1"];
    let kept: BTreeMap<String, Arc<Snapshot>> =
        old.into_iter().chain(made).filter(|(b, _)| !deleted.contains(&b.as_str())).collect();
    let inside = Inside::of(&world.memory);
    for (backup, source) in &kept {
        let config = inside.configs.get(backup).filter(|config| !config.is_in_progress());
        let config = config.unwrap_or_else(|| panic!("{backup} was complete and is gone"));
        assert_eq!(rebuild(&world.memory, config), source.data(), "{backup}");
    }
    time.clock.advance(Duration::from_secs(200));
    let store = store(world.memory.clone(), &time.clock);
    // a-0 may have been made after it was deleted.
    for backup in ["a-0", "old-0"] {
        time.run(store.delete_backup(&volume(), &name(backup))).unwrap();
    }
    let mut inside = Inside::of(&world.memory);
    // Locks of the dead stay; they bind nobody.
    inside.locks = 0;
    inside.assert_tidy();
    assert_eq!(inside.configs.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
}

fn contents() -> impl Strategy<Value = Vec<Content>> {
    proptest::collection::vec(proptest::array::uniform4(0u8..6), 2)
}

/// Half of all cases: two tests share them, and so two cores.
#[expect(clippy::print_stdout, reason = "by its seed a failed run is repeated")]
fn half(test: &str) -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let seed = number("DROVER_SEED").unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let cases = number("DROVER_SOAK_ROUNDS").unwrap_or(10) * 1000 / 2;
    println!("{test}: {cases} cases, DROVER_SEED={seed}");
    ProptestConfig {
        cases: u32::try_from(cases).unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(half("whatever the order"))]

    #[test]
    fn whatever_the_order_every_complete_backup_has_its_blocks(
        a in contents(),
        b in contents(),
        old in contents(),
        steps in proptest::collection::vec(step(1), 0..160),
    ) {
        run([a, b, old], steps);
    }
}

proptest! {
    #![proptest_config(half("whatever goes wrong"))]

    #[test]
    fn whatever_goes_wrong_every_complete_backup_has_its_blocks(
        a in contents(),
        b in contents(),
        old in contents(),
        steps in proptest::collection::vec(step(3), 0..160),
    ) {
        run([a, b, old], steps);
    }
}
