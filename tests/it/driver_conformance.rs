//! What every driver promises, tried on each of them: plain functions over `&dyn Driver`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use drover::backupstore::driver::local::Local;
use drover::backupstore::driver::memory::Memory;
use drover::backupstore::driver::{Depth, Driver, DriverError, Listed, StorePath};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

/// More than one page of a listing and more than one DeleteObjects request.
const MANY: usize = 1100;

fn path(key: &str) -> StorePath {
    StorePath::parse(key).unwrap_or_else(|| panic!("{key:?} is no key"))
}

async fn put(driver: &dyn Driver, key: &str, data: &[u8]) {
    driver.put(&path(key), Bytes::copy_from_slice(data)).await.unwrap();
}

/// Rows as text: objects as they are, folders with a final `/`.
async fn list(driver: &dyn Driver, prefix: Option<&str>, depth: Depth) -> BTreeSet<String> {
    let rows: Vec<_> = driver.list(prefix.map(path).as_ref(), depth).try_collect().await.unwrap();
    let texts: Vec<_> = rows
        .iter()
        .map(|row| match row {
            Listed::Object(path, _) => path.to_string(),
            Listed::Folder(path) => format!("{path}/"),
        })
        .collect();
    let set: BTreeSet<_> = texts.iter().cloned().collect();
    assert_eq!(set.len(), texts.len(), "a row is listed twice: {texts:?}");
    set
}

fn set<const N: usize>(rows: [&str; N]) -> BTreeSet<String> {
    rows.map(str::to_owned).into()
}

fn assert_not_found<T: std::fmt::Debug>(result: Result<T, DriverError>, key: &str) {
    match result {
        Err(DriverError::NotFound { path }) => assert_eq!(path, key),
        other => panic!("{key}: {other:?}"),
    }
}

async fn a_put_object_is_read_back_and_overwritten_whole(driver: &dyn Driver) {
    put(driver, "whole/object", b"first and longer").await;
    assert_eq!(driver.get(&path("whole/object")).await.unwrap(), "first and longer");
    put(driver, "whole/object", b"second").await;
    assert_eq!(driver.get(&path("whole/object")).await.unwrap(), "second");
}

async fn an_empty_object_is_an_object(driver: &dyn Driver) {
    put(driver, "empty/object", b"").await;
    assert_eq!(driver.get(&path("empty/object")).await.unwrap(), "");
    assert_eq!(driver.get_range(&path("empty/object"), 0..10).await.unwrap(), "");
    assert_eq!(driver.stat(&path("empty/object")).await.unwrap().unwrap().size, 0);
    assert_eq!(list(driver, Some("empty"), Depth::All).await, set(["empty/object"]));
}

async fn a_large_object_survives(driver: &dyn Driver) {
    let data: Vec<u8> = (0..16_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    put(driver, "large/object", &data).await;
    assert!(driver.get(&path("large/object")).await.unwrap() == data);
    let range = 5_000_000..5_000_100;
    assert!(driver.get_range(&path("large/object"), range).await.unwrap() == data[5_000_000..5_000_100]);
}

async fn a_range_is_cut_where_the_object_ends(driver: &dyn Driver) {
    let key = path("ranges/object");
    driver.put(&key, Bytes::from_static(b"0123456789")).await.unwrap();
    for (range, expected) in [(0..10, "0123456789"), (2..5, "234"), (8..100, "89"), (10..12, ""), (50..60, ""), (3..3, "")] {
        assert_eq!(driver.get_range(&key, range.clone()).await.unwrap(), expected, "{range:?}");
    }
}

async fn what_is_not_there_is_not_found(driver: &dyn Driver) {
    put(driver, "there/object", b"x").await;
    for key in ["missing", "there/missing", "there", "there/object/below"] {
        assert_not_found(driver.get(&path(key)).await, key);
        assert_not_found(driver.get_range(&path(key), 0..1).await, key);
        assert_not_found(driver.get_range(&path(key), 1..1).await, key);
        assert_eq!(driver.stat(&path(key)).await.unwrap(), None, "{key}");
        assert_eq!(list(driver, Some(&format!("{key}-folder")), Depth::All).await, set([]));
    }
}

async fn odd_but_legal_names_are_kept(driver: &dyn Driver) {
    let keys =
        ["odd/a b", "odd/plus+and=", "odd/ünïcode", "odd/per%20cent", "odd/&<>'\"", "odd/#?;:@", "odd/.hidden", "odd/tmp.12"];
    for key in keys {
        put(driver, key, key.as_bytes()).await;
    }
    for key in keys {
        assert_eq!(driver.get(&path(key)).await.unwrap(), key, "{key}");
        assert_eq!(driver.stat(&path(key)).await.unwrap().unwrap().size, key.len() as u64, "{key}");
    }
    assert_eq!(list(driver, Some("odd"), Depth::All).await, set(keys));
    driver.delete(&keys.map(path)).await.unwrap();
    assert_eq!(list(driver, Some("odd"), Depth::All).await, set([]));
}

async fn a_listing_looks_as_deep_as_asked(driver: &dyn Driver) {
    for key in ["depth/a", "depth/b/c", "depth/b/d/e", "depth/b2/f", "depth/b.x"] {
        put(driver, key, b"").await;
    }
    assert_eq!(list(driver, Some("depth"), Depth::Children).await, set(["depth/a", "depth/b/", "depth/b2/", "depth/b.x"]));
    let all = set(["depth/a", "depth/b/c", "depth/b/d/e", "depth/b2/f", "depth/b.x"]);
    assert_eq!(list(driver, Some("depth"), Depth::All).await, all);
    assert!(list(driver, None, Depth::Children).await.contains("depth/"));
    assert!(list(driver, None, Depth::All).await.is_superset(&all));
}

async fn a_listing_ends_at_its_folder(driver: &dyn Driver) {
    for key in ["bound/b", "bound/bc", "bound/b.d", "bound2/x"] {
        put(driver, key, b"").await;
    }
    put(driver, "bound/dir/x", b"").await;
    put(driver, "bound/dir2/y", b"").await;
    for depth in [Depth::Children, Depth::All] {
        assert_eq!(list(driver, Some("bound/dir"), depth).await, set(["bound/dir/x"]));
        assert_eq!(list(driver, Some("bound/di"), depth).await, set([]));
    }
}

async fn a_listing_has_sizes_and_times(driver: &dyn Driver) {
    put(driver, "meta/object", b"12345").await;
    let stat = driver.stat(&path("meta/object")).await.unwrap().unwrap();
    let rows: Vec<_> = driver.list(Some(&path("meta")), Depth::All).try_collect().await.unwrap();
    assert_eq!(rows, [Listed::Object(path("meta/object"), stat)]);
    assert_eq!(stat.size, 5);
}

async fn long_listings_and_deletes_are_whole(driver: &dyn Driver) {
    let key = |i: usize| format!("many/{}/{i:04}", i % 3);
    futures::stream::iter((0..MANY).map(key)).for_each_concurrent(16, |key| async move { put(driver, &key, b"x").await }).await;
    assert_eq!(list(driver, Some("many"), Depth::All).await, (0..MANY).map(key).collect());
    assert_eq!(list(driver, Some("many"), Depth::Children).await, set(["many/0/", "many/1/", "many/2/"]));

    // Half of the keys are not there, as when a delete is done again after a crash.
    let keys: Vec<_> = (0..MANY).map(key).chain((0..MANY).map(|i| format!("many/none/{i}"))).map(|key| path(&key)).collect();
    driver.delete(&keys).await.unwrap();
    assert_eq!(list(driver, Some("many"), Depth::All).await, set([]));
}

async fn deleting_what_is_not_there_succeeds(driver: &dyn Driver) {
    put(driver, "gone/object", b"x").await;
    put(driver, "gone/kept", b"x").await;
    driver.delete(&[path("gone/object")]).await.unwrap();
    driver.delete(&[path("gone/object")]).await.unwrap();
    driver.delete(&[path("gone/object"), path("nowhere/at/all"), path("gone/kept/below")]).await.unwrap();
    driver.delete(&[]).await.unwrap();
    assert_eq!(list(driver, Some("gone"), Depth::All).await, set(["gone/kept"]));
}

async fn times_are_the_servers(driver: &dyn Driver) {
    let before = driver.server_time().await.unwrap();
    put(driver, "clock/object", b"x").await;
    let modified = driver.stat(&path("clock/object")).await.unwrap().unwrap().modified;
    let after = driver.server_time().await.unwrap();
    // A Date header has whole seconds.
    let close = |a: Timestamp, b: Timestamp| a.duration_since(b).unsigned_abs() < Duration::from_secs(3);
    assert!(close(before, modified) && close(modified, after), "{before} {modified} {after}");
}

async fn concurrent_puts_leave_one_whole_value(driver: &dyn Driver) {
    let key = path("race/object");
    let values: Vec<Bytes> = (0..16_u8).map(|i| Bytes::from(vec![i; 100_000 + usize::from(i)])).collect();
    let writes = join_all(values.iter().map(|value| driver.put(&key, value.clone())));
    let reads = async {
        let mut seen = Vec::new();
        while seen.len() < 20 {
            match driver.get(&key).await {
                Ok(data) => seen.push(data),
                Err(DriverError::NotFound { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        seen
    };
    let (written, mut seen) = futures::join!(writes, reads);
    written.into_iter().for_each(|result| result.unwrap());
    seen.push(driver.get(&key).await.unwrap());
    assert!(seen.iter().all(|data| values.contains(data)), "a mixture was read");
    assert_eq!(list(driver, Some("race"), Depth::All).await, set(["race/object"]));
}

/// Every promise, one after the other, on an empty store.
pub async fn every_promise(driver: &dyn Driver) {
    a_put_object_is_read_back_and_overwritten_whole(driver).await;
    an_empty_object_is_an_object(driver).await;
    a_large_object_survives(driver).await;
    a_range_is_cut_where_the_object_ends(driver).await;
    what_is_not_there_is_not_found(driver).await;
    odd_but_legal_names_are_kept(driver).await;
    a_listing_looks_as_deep_as_asked(driver).await;
    a_listing_ends_at_its_folder(driver).await;
    a_listing_has_sizes_and_times(driver).await;
    long_listings_and_deletes_are_whole(driver).await;
    deleting_what_is_not_there_succeeds(driver).await;
    times_are_the_servers(driver).await;
    concurrent_puts_leave_one_whole_value(driver).await;
}

#[tokio::test]
async fn memory_keeps_every_promise_of_a_driver() {
    every_promise(&Memory::new()).await;
}

#[tokio::test]
async fn local_keeps_every_promise_of_a_driver() {
    let root = tempfile::tempdir().unwrap();
    every_promise(&Local::new(root.path())).await;
}
