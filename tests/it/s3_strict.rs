//! The S3 driver against servers that are stricter, older or more broken than MinIO.
//!
//! No such server can be had here, so one HTTP server in this file answers by the documented rules of those services. What a
//! real server can show is tested in `s3_minio`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use drover::backupstore::credentials::Credentials;
use drover::backupstore::driver::fence::Fence;
use drover::backupstore::driver::metered::{Metered, Verb};
use drover::backupstore::driver::{Depth, Driver, DriverError, StorePath, open};
use futures::TryStreamExt;
use md5::{Digest, Md5};

/// What the server does with one request instead of serving it.
enum Fault {
    Status(StatusCode, &'static str),
    /// Promises more bytes than it sends and closes the connection.
    BreakOff,
}

/// One request as it came.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, Bytes>>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    without_delete_objects: bool,
    /// The key that DeleteObjects reports as refused.
    locked: Option<&'static str>,
}

impl Server {
    /// Listens on a free port until the test ends.
    async fn listen(self) -> (Arc<Self>, u16) {
        let server = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(serve).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (server, port)
    }

    fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn delete_objects(&self, headers: &HeaderMap, body: &Bytes) -> Response {
        if self.without_delete_objects {
            return refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
        }
        let digest = aws_smithy_types::base64::encode(Md5::digest(body));
        if headers.get("content-md5").is_none_or(|sent| *sent != digest.as_str()) {
            return refuse(StatusCode::BAD_REQUEST, "InvalidDigest");
        }
        let body = std::str::from_utf8(body).unwrap();
        let mut errors = String::new();
        for key in body.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0) {
            if self.locked == Some(key) {
                errors += &format!("<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>locked</Message></Error>");
            } else {
                self.objects.lock().unwrap().remove(key);
            }
        }
        format!("<DeleteResult>{errors}</DeleteResult>").into_response()
    }
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, format!("<Error><Code>{code}</Code><Message>because of {code}</Message></Error>")).into_response()
}

/// The rule of the services that know only what S3 had before checksum headers and trailers (B-15).
fn is_too_new(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // DeleteObjects demands a digest; a service that does not know this one reads Content-MD5.
    let checksum = method != Method::POST && headers.keys().any(|name| name.as_str().contains("checksum"));
    checksum
        || headers.contains_key("x-amz-trailer")
        || headers.contains_key("x-amz-decoded-content-length")
        || text("content-encoding").contains("aws-chunked")
        || text("x-amz-content-sha256").starts_with("STREAMING")
}

async fn serve(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    server.seen.lock().unwrap().push(Seen { method: method.clone(), uri: uri.clone(), headers: headers.clone() });
    match server.faults.lock().unwrap().pop_front() {
        Some(Fault::Status(status, body)) => return (status, body).into_response(),
        Some(Fault::BreakOff) => return broken_off(),
        None => {}
    }
    if is_too_new(&method, &headers) {
        return refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
    }
    let key = uri.path().trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    let query = uri.query().unwrap_or_default();
    let object = server.objects.lock().unwrap().get(&key).cloned();
    match (method.as_str(), object) {
        ("PUT", _) => {
            server.objects.lock().unwrap().insert(key, body);
            StatusCode::OK.into_response()
        }
        ("POST", _) => server.delete_objects(&headers, &body),
        ("DELETE", _) => {
            server.objects.lock().unwrap().remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        ("GET", _) if query.contains("list-type=2") => listing(&server.objects.lock().unwrap()).into_response(),
        // Ranges are ignored, as HTTP allows.
        ("GET", Some(data)) => data.into_response(),
        ("GET", None) => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn listing(objects: &BTreeMap<String, Bytes>) -> String {
    let rows = objects.iter().map(|(key, data)| {
        format!(
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-23T00:00:00Z</LastModified></Contents>",
            data.len()
        )
    });
    format!("<ListBucketResult>{}<IsTruncated>false</IsTruncated></ListBucketResult>", rows.collect::<String>())
}

fn broken_off() -> Response {
    let chunks = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("broken off"))];
    Response::builder().header("content-length", "1000").body(Body::from_stream(futures::stream::iter(chunks))).unwrap()
}

fn driver(endpoint: &str, extra: &[(&str, &str)]) -> Arc<Metered> {
    let pairs = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_ENDPOINTS", endpoint)];
    let data = pairs.iter().chain(extra).map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
    open(&"s3://bucket@region-1/".parse().unwrap(), Some(&Credentials::parse(&data).unwrap())).unwrap()
}

fn local(port: u16) -> Arc<Metered> {
    driver(&format!("http://127.0.0.1:{port}"), &[])
}

fn path(key: &str) -> StorePath {
    StorePath::parse(key).unwrap()
}

async fn list(driver: &dyn Driver) -> Result<usize, DriverError> {
    driver.list(None, Depth::All).try_fold(0, |n, _| async move { Ok(n + 1) }).await
}

fn methods(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.method.as_str()).collect()
}

/// B-15, as far as one server can stand for the others.
#[tokio::test]
async fn nothing_is_sent_that_older_services_refuse() {
    let (server, port) = Server::default().listen().await;
    let store = local(port);
    store.put(&path("a/b"), Bytes::from(vec![7; 3 << 20])).await.unwrap();
    store.put(&path("a/c"), Bytes::new()).await.unwrap();
    assert_eq!(store.get(&path("a/b")).await.unwrap().len(), 3 << 20);
    assert_eq!(store.get_range(&path("a/b"), 5..9).await.unwrap().len(), 4, "a server may ignore ranges");
    assert_eq!(list(&*store).await.unwrap(), 2);
    store.delete(&[path("a/b"), path("a/c")]).await.unwrap();
    assert_eq!(list(&*store).await.unwrap(), 0);
    assert_eq!(methods(&server.seen()), ["PUT", "PUT", "GET", "GET", "GET", "POST", "GET"], "none was refused and repeated");
}

#[tokio::test]
async fn a_service_without_delete_objects_gets_single_deletes() {
    let (server, port) = Server { without_delete_objects: true, ..Server::default() }.listen().await;
    let store = local(port);
    for round in ["first", "second"] {
        let keys = ["x", "y", "z"].map(|name| path(&format!("{round}/{name}")));
        for key in &keys {
            store.put(key, Bytes::new()).await.unwrap();
        }
        server.seen();
        store.delete(&keys).await.unwrap();
        assert_eq!(list(&*store).await.unwrap(), 0);
        let tried = if round == "first" { 1 } else { 0 };
        let seen = server.seen();
        assert_eq!(seen.iter().filter(|seen| seen.method == Method::POST).count(), tried, "{round}: it is asked for once");
        assert_eq!(seen.iter().filter(|seen| seen.method == Method::DELETE).count(), 3);
    }
}

#[tokio::test]
async fn a_key_that_stays_is_an_error_though_the_answer_is_a_success() {
    let (_server, port) = Server { locked: Some("a/locked"), ..Server::default() }.listen().await;
    let store = local(port);
    match store.delete(&[path("a/free"), path("a/locked")]).await {
        Err(DriverError::Denied { path, message }) => {
            assert_eq!((path.as_str(), message.contains("locked")), ("a/locked", true));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_busy_or_broken_answer_is_asked_for_again() {
    let (server, port) = Server::default().listen().await;
    let store = local(port);
    let busy = || Fault::Status(StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>");
    server.fail_next([busy(), busy()]);
    store.put(&path("a/b"), Bytes::from_static(b"whole")).await.unwrap();
    server.fail_next([Fault::BreakOff, busy()]);
    assert_eq!(store.get(&path("a/b")).await.unwrap(), "whole");
    let seen = store.counters().snapshot();
    assert_eq!((seen.verb(Verb::Put).requests, seen.verb(Verb::Get).requests), (3, 3));

    server.fail_next([busy(), busy(), busy(), busy()]);
    let error = store.get(&path("a/b")).await.unwrap_err();
    assert!(matches!(error, DriverError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("SlowDown"), "{error}");
    assert_eq!(store.counters().snapshot().verb(Verb::Get).requests, 7, "four attempts and no more");
}

#[tokio::test]
async fn a_write_that_is_sent_again_is_told_to_its_fence() {
    let (server, port) = Server::default().listen().await;
    let store = local(port);
    let keys = [path("a/b"), path("a/c")];
    for attempts in [1, 2] {
        let fail = || server.fail_next((1..attempts).map(|_| Fault::Status(StatusCode::GATEWAY_TIMEOUT, "")));
        let fences = [Fence::new(|| true), Fence::new(|| true), Fence::new(|| true)];
        fail();
        fences[0].around(store.put(&keys[0], Bytes::new())).await.unwrap();
        fail();
        fences[1].around(store.delete(&keys)).await.unwrap();
        fail();
        fences[2].around(store.delete(&keys[..1])).await.unwrap();
        assert_eq!(fences.map(|fence| fence.sent_again()), [attempts > 1; 3]);
    }
    assert_eq!(methods(&server.seen()), ["PUT", "POST", "DELETE", "PUT", "PUT", "POST", "POST", "DELETE", "DELETE"]);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_invalid_and_says_why() {
    let (server, port) = Server::default().listen().await;
    let store = local(port);
    let endless = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    for (answer, words) in [
        ("<html><body>Welcome to the console</body></html>", "is AWS_ENDPOINTS the S3 port?"),
        (endless, "the listing goes on and not where"),
    ] {
        server.fail_next([Fault::Status(StatusCode::OK, answer)]);
        let error = list(&*store).await.unwrap_err();
        assert!(matches!(error, DriverError::Invalid { .. }) && error.to_string().contains(words), "{error:?}");
    }
}

/// The server is the proxy: no name has to resolve for it.
#[tokio::test]
async fn virtual_hosted_style_and_a_proxy_are_used_as_the_secret_says() {
    let (server, port) = Server::default().listen().await;
    let proxy = format!("http://user:hunter2@127.0.0.1:{port}");
    let store = driver("http://s3.example.test:9000", &[("VIRTUAL_HOSTED_STYLE", "true"), ("HTTP_PROXY", &proxy)]);
    store.put(&path("a/b"), Bytes::new()).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].uri.authority().unwrap(), "bucket.s3.example.test:9000");
    assert_eq!(seen[0].uri.path(), "/a/b");
    assert!(seen[0].headers.contains_key("proxy-authorization"));

    let store = driver("http://s3.example.test:9000", &[("HTTP_PROXY", &proxy)]);
    store.put(&path("a/b"), Bytes::new()).await.unwrap();
    let seen = server.seen();
    assert_eq!((seen[0].uri.authority().unwrap().as_str(), seen[0].uri.path()), ("s3.example.test:9000", "/bucket/a/b"));

    let unreachable = driver("http://s3.example.test:9000", &[("HTTP_PROXY", "http://user:hunter2@127.0.0.1:1")]);
    let text = list(&*unreachable).await.unwrap_err().to_string();
    assert!(text.contains("failed to reach the proxy") && !text.contains("hunter2"), "{text}");
}

/// Takes connections and never says a word, as a stopped process behind a listening socket does.
#[tokio::test]
async fn a_silent_server_is_given_up_in_bounded_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = local(listener.local_addr().unwrap().port());
    let key = path("a/b");
    let from = Instant::now();
    let (put, get, listed, deleted, time) = tokio::join!(
        store.put(&key, Bytes::from_static(b"x")),
        store.get(&key),
        list(&*store),
        store.delete(std::slice::from_ref(&key)),
        store.server_time(),
    );
    let errors = [put.err(), get.err(), listed.err(), deleted.err(), time.err()];
    for error in errors {
        let error = error.unwrap();
        assert!(matches!(error, DriverError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("within"), "{error}");
    }
    assert!(from.elapsed() < Duration::from_secs(60), "{:?}", from.elapsed());
}
