//! A counting HTTP proxy between Drover and a real server, which can also lose, delay or refuse what it is told to.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::ports::Port;

type AnyError = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, AnyError>;

/// What happens to a request that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on after this long.
    Delay(Duration),
    /// The connection closes; the server never sees it.
    Refuse,
    /// It is passed on and done, but the connection closes instead of an answer.
    LoseAnswer,
    /// The answer breaks off after so many bytes of its body.
    CutAnswer(usize),
    /// No answer ever comes, and the server never sees it.
    Stall,
    /// This status is the answer; the server never sees it.
    Answer(StatusCode),
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: String,
    /// The status that came back from the server; `None` when none did.
    pub status: Option<StatusCode>,
}

/// What an S3 request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Writes an object.
    Put,
    /// Reads an object or a part of it.
    Get,
    /// Lists a bucket.
    List,
    /// Removes one object or many.
    Delete,
    /// Asks for an object's size and times.
    Stat,
    /// Anything else.
    Other,
}

impl Seen {
    /// What it asks for, if the server is an S3 one with the bucket in the path.
    pub fn verb(&self) -> Verb {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let has_key = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
        match (self.method.as_str(), has_key) {
            ("PUT", true) => Verb::Put,
            ("GET", true) => Verb::Get,
            ("GET", false) => Verb::List,
            ("DELETE", true) => Verb::Delete,
            ("POST", false) if query.starts_with("delete") => Verb::Delete,
            ("HEAD", true) => Verb::Stat,
            _ => Verb::Other,
        }
    }
}

type Applies = Box<dyn Fn(&Method, &str) -> bool + Send>;

struct Rule {
    applies: Applies,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<Vec<Rule>>,
}

/// A running proxy. It listens until it is dropped.
pub struct Proxy {
    port: Port,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Proxy {
    /// Starts a proxy to an HTTP server at `127.0.0.1:server`.
    pub fn to(server: u16) -> Self {
        // A runtime of its own: a test that blocks its own thread does not stop the proxy.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (port, state) = (Port::free(), Arc::new(State::default()));
        // Bound without the runtime: a test that is async itself may not block on another one.
        let listener = std::net::TcpListener::bind(port.address()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        runtime.spawn(serve(listener, server, state.clone()));
        Self { port, state, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Every request since the start or the last [`forget`](Self::forget).
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// How many of them asked for this.
    pub fn count(&self, verb: Verb) -> usize {
        self.seen().iter().filter(|request| request.verb() == verb).count()
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    /// Lets `fault` happen to the next `times` requests that `applies` (method, path and query) says yes to.
    pub fn inject(&self, fault: Fault, times: usize, applies: impl Fn(&Method, &str) -> bool + Send + 'static) {
        self.state.rules.lock().unwrap().push(Rule { applies: Box::new(applies), times, fault });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.rules.lock().unwrap().clear();
    }
}

impl State {
    /// Writes the request down; its place in the list.
    fn note(&self, method: &Method, target: &str) -> usize {
        let mut seen = self.seen.lock().unwrap();
        seen.push(Seen { method: method.clone(), target: target.to_owned(), status: None });
        seen.len() - 1
    }

    fn note_status(&self, place: usize, status: StatusCode) {
        // The list may have been cleared meanwhile.
        if let Some(request) = self.seen.lock().unwrap().get_mut(place) {
            request.status = Some(status);
        }
    }

    fn fault(&self, method: &Method, target: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.applies)(method, target))?;
        rule.times -= 1;
        Some(rule.fault)
    }
}

async fn serve(listener: TcpListener, server: u16, state: Arc<State>) {
    let client: Client<HttpConnector, Incoming> = Client::builder(TokioExecutor::new()).build_http();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, state) = (client.clone(), state.clone());
        let pass = service_fn(move |request| pass(request, server, client.clone(), state.clone()));
        // An error of the service closes the connection without an answer: that is how answers get lost.
        tokio::spawn(http1::Builder::new().preserve_header_case(true).serve_connection(TokioIo::new(stream), pass));
    }
}

async fn pass(
    mut request: Request<Incoming>,
    server: u16,
    client: Client<HttpConnector, Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, AnyError> {
    let (method, target) = (request.method().clone(), request.uri().to_string());
    let place = state.note(&method, &target);
    let fault = state.fault(&method, &target);
    match fault {
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Refuse) => return Err("refused by a test".into()),
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Answer(status)) => {
            // Read to the end first, as a server does: otherwise the client sees a broken pipe and not the status.
            request.into_body().collect().await?;
            let empty = Full::default().map_err(|never: Infallible| match never {}).boxed_unsync();
            return Ok(Response::builder().status(status).body(empty)?);
        }
        Some(Fault::LoseAnswer | Fault::CutAnswer(_)) | None => {}
    }
    // The Host header stays: the signature covers it.
    *request.uri_mut() = Uri::try_from(format!("http://127.0.0.1:{server}{target}"))?;
    let answer = client.request(request).await?;
    state.note_status(place, answer.status());
    match fault {
        Some(Fault::LoseAnswer) => {
            answer.into_body().collect().await?;
            Err("answer lost by a test".into())
        }
        Some(Fault::CutAnswer(after)) => Ok(answer.map(|body| cut(body, after))),
        _ => Ok(answer.map(|body| body.map_err(AnyError::from).boxed_unsync())),
    }
}

/// The first `after` bytes of a body, then an error.
fn cut(body: Incoming, after: usize) -> Body {
    let frames = futures::stream::try_unfold((body, after), async |(mut body, left)| {
        let Some(frame) = body.frame().await.transpose()? else { return Ok(None) };
        match frame.into_data() {
            Ok(data) if left == 0 && !data.is_empty() => Err(AnyError::from("cut by a test")),
            Ok(data) => {
                let kept = data.slice(..data.len().min(left));
                let left = left - kept.len();
                Ok(Some((Frame::data(kept), (body, left))))
            }
            Err(trailers) => Ok(Some((trailers, (body, left)))),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}
