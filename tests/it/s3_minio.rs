//! The S3 driver against a real MinIO: every promise of a driver, and every way in which it can be refused.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drover::backupstore::credentials::Credentials;
use drover::backupstore::driver::metered::{Metered, Verb};
use drover::backupstore::driver::{Depth, Driver, DriverError, StorePath, open};
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::driver_conformance;
use crate::support::minio::{BUCKET, Minio, Options, SECRET_KEY, self_signed_certificate};
use crate::support::run;
use crate::support::scratch::Scratch;

fn driver(url: &str, credentials: &Credentials) -> Arc<Metered> {
    open(&url.parse().unwrap(), Some(credentials)).unwrap()
}

/// The bucket itself as a target.
fn bucket(credentials: &Credentials) -> Arc<Metered> {
    driver(&format!("s3://{BUCKET}@us-east-1/"), credentials)
}

async fn list(driver: &dyn Driver) -> Result<usize, DriverError> {
    driver.list(None, Depth::All).try_fold(0, |n, _| async move { Ok(n + 1) }).await
}

/// B-9: a user with exactly the documented policy is enough for everything.
#[tokio::test]
async fn s3_keeps_every_promise_of_a_driver_with_the_documented_policy() {
    let minio = Minio::start();
    let credentials = minio.credentials(&[]);
    let store = bucket(&credentials);
    driver_conformance::every_promise(&*store).await;

    // A target is a folder of its own: the other one is as empty as if there were no other.
    let inner = driver("s3://backupbucket@us-east-1/team/a/", &credentials);
    assert_eq!(list(&*inner).await.unwrap(), 0);
    driver_conformance::every_promise(&*inner).await;
    let key = StorePath::parse("team/a/whole/object").unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "second");
}

#[tokio::test]
async fn requests_are_counted_as_they_are_sent() {
    let minio = Minio::start();
    let store = bucket(&minio.credentials(&[]));
    let key = |i: usize| StorePath::parse(&format!("n/{i}")).unwrap();
    for i in 0..3 {
        store.put(&key(i), Bytes::from_static(b"12")).await.unwrap();
    }
    store.get(&key(0)).await.unwrap();
    store.stat(&key(0)).await.unwrap();
    assert_eq!(list(&*store).await.unwrap(), 3);
    store.delete(&[key(0), key(1), key(2)]).await.unwrap();
    store.server_time().await.unwrap();

    let seen = store.counters().snapshot();
    let requests = Verb::ALL.map(|verb| (verb, seen.verb(verb).requests));
    assert_eq!(
        requests,
        [(Verb::Put, 3), (Verb::Get, 1), (Verb::List, 1), (Verb::Delete, 1), (Verb::Stat, 1)],
        "the clock was read off the answers"
    );
    assert_eq!((seen.bytes_written, seen.bytes_read), (6, 2));
}

#[tokio::test]
async fn wrong_keys_are_refused_as_credentials_and_never_shown() {
    let minio = Minio::start();
    for wrong in [("AWS_SECRET_ACCESS_KEY", "hunter2hunter2"), ("AWS_ACCESS_KEY_ID", "hunter2hunter2")] {
        let store = bucket(&minio.credentials(&[wrong]));
        let error = list(&*store).await.unwrap_err();
        assert!(matches!(error, DriverError::Credentials { .. }), "{error:?}");
        assert!(!error.is_transient());
        let text = format!("{error} {error:?} {store:?}");
        assert!(!text.contains("hunter2") && !text.contains(SECRET_KEY), "{text}");
    }
}

#[tokio::test]
async fn a_missing_bucket_a_foreign_bucket_and_a_wrong_region_are_told_apart() {
    let minio = Minio::start_with(Options { region: Some("eu-west-1"), ..Options::default() });
    let key = StorePath::parse("some/key").unwrap();

    let missing = driver("s3://no-such-bucket@eu-west-1/", &minio.root_credentials());
    let no_root = |error: DriverError| match error {
        DriverError::NoRoot { root, .. } => assert_eq!(root, "bucket no-such-bucket"),
        other => panic!("{other:?}"),
    };
    no_root(list(&*missing).await.unwrap_err());
    no_root(missing.get(&key).await.unwrap_err());
    no_root(missing.stat(&key).await.unwrap_err());
    no_root(missing.put(&key, Bytes::new()).await.unwrap_err());
    no_root(missing.delete(&[key.clone(), StorePath::parse("b").unwrap()]).await.unwrap_err());

    let foreign = driver("s3://no-such-bucket@eu-west-1/", &minio.credentials(&[]));
    let error = list(&*foreign).await.unwrap_err();
    assert!(matches!(error, DriverError::Denied { .. }), "{error:?}");

    let elsewhere = driver("s3://backupbucket@us-east-1/", &minio.credentials(&[]));
    let error = list(&*elsewhere).await.unwrap_err();
    assert!(matches!(error, DriverError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("write s3://backupbucket@eu-west-1/"), "{error}");

    let right = driver("s3://backupbucket@eu-west-1/", &minio.credentials(&[]));
    assert_eq!(list(&*right).await.unwrap(), 0);
}

#[tokio::test]
async fn a_stopped_server_is_unavailable_in_bounded_time() {
    let mut minio = Minio::start();
    let store = bucket(&minio.credentials(&[]));
    let key = StorePath::parse("some/key").unwrap();
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    minio.stop();

    let from = Instant::now();
    let error = store.get(&key).await.unwrap_err();
    assert!(matches!(error, DriverError::Unavailable { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "the cause is told: {error}");
    assert!(from.elapsed() < Duration::from_secs(20), "{:?}", from.elapsed());
    let seen = store.counters().snapshot().verb(Verb::Get);
    assert_eq!((seen.calls, seen.requests, seen.errors), (1, 4, 1), "four attempts");
}

/// A proxy that knows CONNECT only and leads to `port` whatever is asked for; its URL, and what was asked for.
async fn connect_proxy(port: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(client.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let address = request.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
            log.lock().unwrap().push(address.to_owned());
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_when_the_secret_names_it_and_only_then() {
    let certificates = Scratch::new("s3-tls");
    self_signed_certificate(&certificates);
    let text = run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(certificates.join("public.crt")));
    assert!(text.contains("CA:TRUE"), "the case that matters: {text}");
    let minio = Minio::start_with(Options { certificates: Some(certificates.to_path_buf()), ..Options::default() });
    let own = minio.certificate();

    let store = bucket(&minio.credentials(&[("AWS_CERT", &own)]));
    driver_conformance::every_promise(&*store).await;

    let refused = |error: DriverError, words: &str| {
        assert!(matches!(error, DriverError::Invalid { .. }), "asking again does not help: {error:?}");
        let text = error.to_string();
        assert!(text.contains("TLS certificate is not trusted") && text.contains(words), "{text}");
    };
    let store = bucket(&minio.credentials(&[]));
    refused(list(&*store).await.unwrap_err(), "put the certificate of the server");
    assert_eq!(store.counters().snapshot().requests(), 1, "not tried again");

    let other = Scratch::new("s3-tls");
    self_signed_certificate(&other);
    let other = std::fs::read_to_string(other.join("public.crt")).unwrap();
    refused(list(&*bucket(&minio.credentials(&[("AWS_CERT", &other)]))).await.unwrap_err(), "UnknownIssuer");

    let (proxy, asked) = connect_proxy(minio.port()).await;
    let mut extra = vec![("AWS_CERT", own.as_str()), ("HTTPS_PROXY", proxy.as_str())];
    list(&*bucket(&minio.credentials(&extra))).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [format!("127.0.0.1:{}", minio.port())], "one tunnel");
    extra.push(("AWS_ENDPOINTS", "https://minio.elsewhere.test"));
    refused(list(&*bucket(&minio.credentials(&extra))).await.unwrap_err(), "not valid for name");
    assert_eq!(asked.lock().unwrap().last().unwrap(), "minio.elsewhere.test:443");
}
