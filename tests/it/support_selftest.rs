//! The tests' own ground: what starts is real, limited as promised, and gone afterwards.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::support::cluster::Cluster;
use crate::support::minio::{BUCKET, Minio};
use crate::support::pool::{Disk, Kind, make_file_system};
use crate::support::postgres::Postgres;
use crate::support::process::Process;
use crate::support::proxy::{Fault, Proxy, Verb};
use crate::support::scratch::Scratch;
use crate::support::{eventually, eventually_blocking, run, script};

#[tokio::test]
async fn a_cluster_serves_our_kinds_and_ends_a_namespace_with_what_is_in_it() {
    let cluster = Cluster::shared("selftest").await;
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: doomed}, data: {key: value}}");
    assert_eq!(cluster.get("configmap", "doomed")["data"]["key"], "value");
    assert!(cluster.list("volumes.longhorn.io").is_empty());

    cluster.kubectl(&["delete", "namespace", cluster.namespace(), "--wait=false"]);
    eventually(Duration::from_secs(60), "the namespace ends", async || {
        let found = cluster.kubectl(&["get", "namespace", cluster.namespace(), "--ignore-not-found", "-o", "name"]);
        if found.is_empty() { Ok(()) } else { Err(found) }
    })
    .await;
    assert!(cluster.get("configmap", "doomed").is_null());
}

#[test]
fn the_minio_user_may_do_what_the_policy_says_and_nothing_else() {
    let mut minio = Minio::start();
    let user = minio.user();
    let ask = |minio: &Minio, method, path: &str, body| minio.request_as(&user, method, path, body);
    let object = format!("/{BUCKET}/folder/object");

    ask(&minio, "PUT", &object, Some(b"content".as_slice())).unwrap();
    assert_eq!(ask(&minio, "GET", &object, None).unwrap(), "content");
    assert!(
        ask(&minio, "GET", &format!("/{BUCKET}?list-type=2&prefix=folder%2F"), None)
            .unwrap()
            .contains("<Key>folder/object</Key>")
    );
    assert_eq!(minio.keys(), ["folder/object"]);

    for (method, path) in [("PUT", "/another"), ("GET", &format!("/{BUCKET}?location=")), ("DELETE", &format!("/{BUCKET}"))] {
        let refusal = ask(&minio, method, path, None).unwrap_err();
        assert!(refusal.contains("AccessDenied"), "{method} {path}: {refusal}");
    }
    // MinIO lists the buckets a user may see instead of refusing: there is just the one.
    let buckets = ask(&minio, "GET", "/", None).unwrap();
    assert_eq!(buckets.matches("<Bucket>").count(), 1, "{buckets}");
    minio.request_as(minio.root(), "PUT", "/another", None).unwrap();
    assert!(ask(&minio, "PUT", "/another/object", Some(b"x".as_slice())).unwrap_err().contains("AccessDenied"));

    minio.stop();
    assert!(ask(&minio, "GET", &object, None).is_err());
    minio.resume();
    assert_eq!(minio.get("folder/object"), "content");
    ask(&minio, "DELETE", &object, None).unwrap();
    assert!(minio.keys().is_empty());
}

#[test]
fn minio_speaks_tls_with_a_certificate_that_is_its_own_authority() {
    let minio = Minio::start_tls();
    minio.put("object", b"content");
    assert_eq!(minio.get("object"), "content");
    let plain = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(minio.endpoint().replace("https", "http"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&plain.stdout), "400");
}

#[test]
fn the_proxy_counts_requests_and_does_what_its_rules_say() {
    let minio = Minio::start();
    let proxy = Proxy::to(minio.port());
    let user = minio.user();
    let curl = |method, path: &str, body| minio.request_through(&proxy.endpoint(), &user, method, path, body);
    let object = format!("/{BUCKET}/object");

    curl("PUT", &object, Some(b"content".as_slice())).unwrap();
    curl("GET", &object, None).unwrap();
    curl("GET", &format!("/{BUCKET}?list-type=2"), None).unwrap();
    curl("DELETE", &object, None).unwrap();
    assert_eq!([Verb::Put, Verb::Get, Verb::List, Verb::Delete, Verb::Stat].map(|verb| proxy.count(verb)), [1, 1, 1, 1, 0]);
    assert!(proxy.seen().iter().all(|request| request.status.is_some_and(|status| status.is_success())), "{:?}", proxy.seen());
    proxy.forget();

    let puts = |method: &Method, target: &str| method == Method::PUT && target.ends_with("/object");
    proxy.inject(Fault::Refuse, 1, puts);
    assert!(curl("PUT", &object, Some(b"refused".as_slice())).is_err());
    assert!(minio.keys().is_empty());
    proxy.inject(Fault::LoseAnswer, 1, puts);
    assert!(curl("PUT", &object, Some(b"lost".as_slice())).is_err());
    assert_eq!(minio.get("object"), "lost");
    proxy.inject(Fault::Answer(StatusCode::SERVICE_UNAVAILABLE), 1, puts);
    assert!(curl("PUT", &object, Some(b"busy".as_slice())).unwrap_err().contains("503"));
    proxy.inject(Fault::CutAnswer(2), 1, |method, _| method == Method::GET);
    assert!(curl("GET", &object, None).is_err());

    proxy.inject(Fault::Delay(Duration::from_millis(300)), 1, puts);
    let from = Instant::now();
    curl("PUT", &object, Some(b"late".as_slice())).unwrap();
    assert!(from.elapsed() >= Duration::from_millis(300));
    proxy.inject(Fault::Refuse, usize::MAX, |_, _| true);
    assert!(curl("GET", &object, None).is_err());
    proxy.heal();
    assert_eq!(curl("GET", &object, None).unwrap(), "late");
}

#[test]
fn a_folder_gives_back_mounts_and_loop_devices_even_when_frozen() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let disk = Disk::new(kind, 512 << 20);
        let folder = disk.path().parent().unwrap().to_owned();
        let image = disk.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image)).trim().to_owned();
        assert_eq!(disk.loop_devices(), std::slice::from_ref(&device));
        make_file_system(Kind::Ext4, Path::new(&device));
        let elsewhere = Scratch::new("elsewhere");
        run(Command::new("mount").arg(&device).arg(&*elsewhere));
        run(Command::new("fsfreeze").arg("--freeze").arg(&*elsewhere));
        run(Command::new("chattr").arg("+i").arg(&image));

        drop(disk);
        assert!(!folder.exists());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&format!("{device} ")), "{mounts}");
    }
}

#[test]
fn what_a_killed_run_has_made_is_undone() {
    let folder = Scratch::new("reaped");
    let tree = folder.join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut sleeper = Process::spawn("sleep", Command::new("sleep").arg("600"), &folder.join("log"));
    let parent = format!(
        "echo +group {}; echo +tree {}; echo +tree {}; echo -tree {1}-kept",
        sleeper.pid(),
        tree.display(),
        tree.display()
    );
    // The end of this shell's output is what a killed test run looks like to its reaper.
    let mut reaper = script("reaper");
    reaper.stdin(Command::new("sh").arg("-c").arg(parent).stdout(std::process::Stdio::piped()).spawn().unwrap().stdout.unwrap());
    run(&mut reaper);
    assert!(!tree.exists());
    eventually_blocking(Duration::from_secs(10), "the process is killed", || {
        if sleeper.is_running() { Err("it runs") } else { Ok(()) }
    });
}

#[test]
fn postgres_keeps_its_books_through_a_kill() {
    let disk = Disk::new(Kind::Ext4, 1 << 30);
    let (volume, log) = (disk.outside("volume"), disk.outside("logs").join("postgres"));
    let image = disk.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(700 << 20).unwrap();
    make_file_system(Kind::Ext4, &image);
    let volume = {
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&volume));
        volume
    };
    let server = Postgres::create(&volume, 1, &log);
    let mut load = server.load(Duration::from_secs(60));
    eventually_blocking(Duration::from_secs(30), "transactions are made", || {
        let count: u64 = server.query("select count(*) from pgbench_history").parse().unwrap();
        if count >= 100 { Ok(()) } else { Err(format!("{count} so far")) }
    });
    drop(server);
    load.kill();
    let server = Postgres::start(&volume, &log);
    assert!(server.check().unwrap() >= 100);
    server.query("update pgbench_branches set bbalance = bbalance + 1");
    assert!(server.check().unwrap_err().contains("do not balance"));
    server.stop();
}
