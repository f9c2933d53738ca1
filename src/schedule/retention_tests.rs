#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const TTL: Option<Duration> = Some(Duration::from_secs(3600));

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn done(name: &str, second: i64) -> Item {
    Item { name: name.to_owned(), created_at: at(second), state: ItemState::Completed, known_damaged: false }
}

fn kept(items: &[Item], keep: usize) -> Vec<String> {
    retain(items, keep, at(100_000), TTL).into_iter().filter(|d| d.keep).map(|d| d.name).collect()
}

#[test]
fn each_case_by_its_reason() {
    let damaged = |name: &str, second| Item { known_damaged: true, ..done(name, second) };
    let failed = |name: &str, second| Item { state: ItemState::Failed { at: at(second) }, ..done(name, second) };
    let running = |name: &str, second| Item { state: ItemState::InProgress, ..done(name, second) };
    for (case, items, keep, expected) in [
        (
            "the newest stay",
            vec![done("a", 1), done("b", 2), done("c", 3)],
            2,
            vec![
                "a removed: 2 newer ones are complete; retain is 2",
                "b kept: it is number 2 from the newest; retain is 2",
                "c kept: it is the newest; retain is 2",
            ],
        ),
        (
            "equal times go by name",
            vec![done("b", 1), done("a", 1)],
            1,
            vec!["b kept: it is the newest; retain is 1", "a removed: 1 newer one is complete; retain is 1"],
        ),
        (
            "what is not complete counts for nothing",
            vec![done("a", 1), running("b", 2), failed("c", 99_000)],
            1,
            vec![
                "a kept: it is the newest; retain is 1",
                "b kept: it is not finished",
                "c kept: it failed, and failed ones stay for a while, this one until 1970-01-02T04:30:00Z",
            ],
        ),
        (
            "a failed one goes when its time is up",
            vec![failed("a", 1), failed("b", 96_400)],
            1,
            vec![
                "a removed: it failed longer ago than failed-backup-ttl, 60 minutes",
                "b removed: it failed longer ago than failed-backup-ttl, 60 minutes",
            ],
        ),
        (
            "the newest good one stays behind damaged ones",
            vec![done("a", 1), done("b", 2), damaged("c", 3), damaged("d", 4)],
            1,
            vec![
                "a removed: 3 newer ones are complete; retain is 1",
                "b kept: every newer one is known to be damaged",
                "c removed: 1 newer one is complete; retain is 1",
                "d kept: it is the newest; retain is 1",
            ],
        ),
        ("0 is read as 1", vec![done("a", 1)], 0, vec!["a kept: it is the newest; retain is 1"]),
    ] {
        let said: Vec<String> =
            retain(&items, keep, at(100_000), TTL).into_iter().map(|d| format!("{} {}", d.name, d.reason)).collect();
        assert_eq!(said, expected, "{case}");
    }
}

#[test]
fn without_a_time_failed_ones_stay() {
    let failed = Item { state: ItemState::Failed { at: at(1) }, ..done("a", 1) };
    assert_eq!(retain(&[failed], 1, at(i64::from(u32::MAX)), None)[0].reason, Reason::FailedKeptForever);
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let state = prop_oneof![
        4 => Just(ItemState::Completed),
        1 => (0i64..200_000).prop_map(|second| ItemState::Failed { at: at(second) }),
        1 => Just(ItemState::InProgress),
    ];
    proptest::collection::vec((0i64..20, state, proptest::bool::weighted(0.3)), 0..30).prop_map(|rows| {
        let item = |(i, (second, state, known_damaged)): (usize, (i64, ItemState, bool))| Item {
            name: format!("backup-{i}"),
            created_at: at(second),
            state,
            known_damaged,
        };
        rows.into_iter().enumerate().map(item).collect()
    })
}

fn completed(items: &[Item]) -> Vec<&Item> {
    let mut completed: Vec<&Item> = items.iter().filter(|i| i.state == ItemState::Completed).collect();
    completed.sort_by_key(|i| (i.created_at, &i.name));
    completed
}

proptest! {
    #[test]
    fn exactly_as_many_as_asked_for_stay_and_one_more_only_to_keep_a_good_one(items in items(), keep in 1usize..8) {
        let names = kept(&items, keep);
        let completed = completed(&items);
        let stay: Vec<_> = completed.iter().filter(|i| names.contains(&i.name)).collect();
        let wanted = keep.min(completed.len());
        let newest = &completed[completed.len() - wanted..];
        prop_assert!(newest.iter().all(|i| names.contains(&i.name)));
        let rescued = newest.iter().all(|i| i.known_damaged) && completed.iter().any(|i| !i.known_damaged);
        prop_assert_eq!(stay.len(), wanted + usize::from(rescued));
    }

    #[test]
    fn the_newest_good_one_and_everything_unfinished_stay(items in items(), keep in 0usize..8) {
        let names = kept(&items, keep);
        if let Some(good) = completed(&items).iter().rev().find(|i| !i.known_damaged) {
            prop_assert!(names.contains(&good.name));
        }
        for item in items.iter().filter(|i| i.state == ItemState::InProgress) {
            prop_assert!(names.contains(&item.name));
        }
    }

    #[test]
    fn one_goes_only_when_enough_newer_ones_are_complete(items in items(), keep in 1usize..8) {
        for decision in retain(&items, keep, at(100_000), None).iter().filter(|d| !d.keep) {
            let gone = items.iter().find(|i| i.name == decision.name).unwrap();
            let newer = completed(&items).iter().filter(|i| (i.created_at, &i.name) > (gone.created_at, &gone.name)).count();
            prop_assert!(newer >= keep);
            prop_assert_eq!(decision.reason, Reason::BeyondRetain { newer, retain: keep });
        }
    }

    #[test]
    fn the_order_of_the_list_and_a_second_look_change_nothing(items in items(), keep in 1usize..8, turn in 0usize..30) {
        let mut turned = items.clone();
        turned.rotate_left(turn % items.len().max(1));
        turned.reverse();
        let sorted = |mut names: Vec<String>| { names.sort(); names };
        let first = sorted(kept(&items, keep));
        prop_assert_eq!(&first, &sorted(kept(&turned, keep)));
        let left: Vec<Item> = items.into_iter().filter(|i| first.contains(&i.name)).collect();
        let again = kept(&left, keep);
        prop_assert_eq!(&first, &sorted(again));
    }

    #[test]
    fn a_larger_retain_never_removes_more(items in items(), keep in 1usize..8) {
        let (fewer, more) = (kept(&items, keep), kept(&items, keep + 1));
        prop_assert!(fewer.iter().all(|name| more.contains(name)));
    }
}
