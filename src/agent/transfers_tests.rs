use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backupstore::driver::DriverError;
use crate::backupstore::lock::LockKind;

type Ended = mpsc::UnboundedReceiver<String>;

fn transfers(patience: Option<Duration>) -> (Arc<Transfers<u32>>, Ended) {
    Transfers::new(Arc::default(), patience)
}

fn job(name: &str, limit: usize) -> Job {
    Job { uid: format!("uid-{name}"), name: name.to_owned(), volume: "v1".to_owned(), limit }
}

fn outage() -> Error {
    let source = DriverError::Unavailable { operation: "put", path: "x".into(), message: "connection refused".into() };
    backupstore::Error::Driver { context: "write x".into(), source }.into()
}

fn end(transfers: &Transfers<u32>, name: &str) -> Arc<End<u32>> {
    transfers.view(&format!("uid-{name}")).and_then(|view| view.end).expect("it has ended")
}

async fn activity(transfers: &Transfers<u32>, name: &str, wanted: impl Fn(&Activity) -> bool) {
    let reached = async {
        while !transfers.view(&format!("uid-{name}")).is_some_and(|view| wanted(&view.activity)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("in time");
}

#[tokio::test]
async fn an_interrupted_transfer_is_tried_again_and_what_cannot_help_is_not() {
    let (transfers, mut ended) = transfers(None);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    transfers.start(job("a", 2), move |_, _| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if first { Err(outage()) } else { Ok(7) } }
    });
    activity(&transfers, "a", |activity| matches!(activity, Activity::Retrying(words) if words.contains("connection refused")))
        .await;
    assert_eq!(ended.recv().await.as_deref(), Some("a"));
    assert!(matches!(*end(&transfers, "a"), End::Done(7)));
    assert_eq!(tries.load(Ordering::Relaxed), 2);

    transfers.start(job("b", 2), |_, _| async { Err(Error::Invalid("no such backup".into())) });
    assert_eq!(ended.recv().await.as_deref(), Some("b"));
    assert!(matches!(&*end(&transfers, "b"), End::Failed(Error::Invalid(_))));
    transfers.forget("uid-b");
    assert!(transfers.view("uid-b").is_none());
}

#[tokio::test]
async fn an_outage_is_given_up_when_nothing_moved_for_the_bound() {
    let (transfers, mut ended) = transfers(Some(Duration::from_millis(100)));
    transfers.start(job("a", 2), |_, _| async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        Err(outage())
    });
    assert_eq!(ended.recv().await.as_deref(), Some("a"));
    assert!(matches!(&*end(&transfers, "a"), End::Failed(Error::Store(_))));
}

#[tokio::test]
async fn an_attempt_that_hangs_is_cancelled_and_says_for_how_long_nothing_moved() {
    let (transfers, mut ended) = transfers(Some(Duration::from_millis(200)));
    transfers.start(job("a", 2), |_, cancel: CancellationToken| async move {
        cancel.cancelled().await;
        Err(backupstore::Error::Cancelled.into())
    });
    assert_eq!(ended.recv().await.as_deref(), Some("a"));
    assert!(matches!(&*end(&transfers, "a"), End::Failed(error) if error.to_string().contains("nothing moved")));
}

#[tokio::test]
async fn an_attempt_that_does_not_end_when_told_to_is_dropped() {
    let (mut transfers, mut ended) = transfers(Some(Duration::from_millis(100)));
    Arc::get_mut(&mut transfers).expect("nobody else has it yet").grace = Duration::from_millis(50);
    transfers.start(job("stalled", 1), |_, _| std::future::pending());
    assert_eq!(ended.recv().await.as_deref(), Some("stalled"));
    assert!(matches!(&*end(&transfers, "stalled"), End::Failed(error) if error.to_string().contains("nothing moved")));

    let (mut transfers, mut ended) = self::transfers(None);
    Arc::get_mut(&mut transfers).expect("nobody else has it yet").grace = Duration::from_millis(50);
    transfers.start(job("stopped", 1), |_, _| std::future::pending());
    activity(&transfers, "stopped", |activity| *activity == Activity::Moving).await;
    transfers.stop("uid-stopped");
    assert_eq!(ended.recv().await.as_deref(), Some("stopped"));
    assert!(matches!(*end(&transfers, "stopped"), End::Stopped));
    // Its slot is free again.
    transfers.start(job("next", 1), |_, _| async { Ok(7) });
    assert_eq!(ended.recv().await.as_deref(), Some("next"));
}

#[tokio::test]
async fn a_transfer_whose_object_is_gone_is_stopped_and_forgotten_and_no_other() {
    let (transfers, mut ended) = transfers(None);
    let hold = |_: Arc<Progress>, cancel: CancellationToken| async move {
        cancel.cancelled().await;
        Err::<u32, _>(backupstore::Error::Cancelled.into())
    };
    transfers.start(job("gone", 2), hold);
    transfers.start(job("there", 2), hold);
    let existing = || HashSet::from(["uid-there".to_owned()]);
    transfers.sweep(existing);
    assert_eq!(ended.recv().await.as_deref(), Some("gone"));
    transfers.sweep(existing);
    assert!(transfers.view("uid-gone").is_none());
    assert!(transfers.view("uid-there").is_some_and(|view| view.end.is_none()));
    transfers.shut_down(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn the_wait_for_a_lock_is_shown_and_can_be_stopped() {
    let (transfers, mut ended) = transfers(Some(Duration::from_millis(1)));
    transfers.start(job("a", 2), |_, _| async {
        let volume = "v1".parse().expect("a name");
        let holder = "lock-1".parse().expect("a lock name");
        Err(backupstore::Error::LockHeld { volume, holder, kind: LockKind::Delete, age: Duration::from_secs(9) }.into())
    });
    activity(&transfers, "a", |activity| matches!(activity, Activity::Locked(words) if words.contains("9 s ago"))).await;
    assert!(transfers.is_busy("v1") && !transfers.is_busy("v2"));
    transfers.stop_volume("v1");
    assert_eq!(ended.recv().await.as_deref(), Some("a"));
    assert!(matches!(*end(&transfers, "a"), End::Stopped));
    assert!(!transfers.is_busy("v1"));
}

#[tokio::test]
async fn more_than_the_limit_wait_for_their_turn_and_the_limit_can_grow() {
    let (transfers, mut ended) = transfers(None);
    let hold = |_: Arc<Progress>, cancel: CancellationToken| async move {
        cancel.cancelled().await;
        Err::<u32, _>(backupstore::Error::Cancelled.into())
    };
    transfers.start(job("a", 1), hold);
    activity(&transfers, "a", |activity| *activity == Activity::Moving).await;
    transfers.start(job("b", 1), hold);
    transfers.start(job("b", 1), hold);
    activity(&transfers, "b", |activity| *activity == Activity::Queued).await;
    transfers.start(job("c", 3), hold);
    activity(&transfers, "b", |activity| *activity == Activity::Moving).await;
    activity(&transfers, "c", |activity| *activity == Activity::Moving).await;
    transfers.shut_down(Duration::from_secs(10)).await;
    let mut names = [ended.recv().await, ended.recv().await, ended.recv().await].map(Option::unwrap_or_default);
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
}
