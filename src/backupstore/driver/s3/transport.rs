//! HTTP under the SDK: one pool of connections per driver, deadlines by size, whole answers, every request counted.
//!
//! The SDK's own client takes no certificate verifier, which self-signed servers need. Answers are read to their end here, so
//! that one that breaks off is retried like one that never came.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::Instant;

use super::clock::ServerClock;
use super::dial::{Dial, Proxies};
use crate::backupstore::driver::metered::{Counters, Verb};

/// What an attempt may take besides moving its bytes: connecting, the TLS handshake, the server's work.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// A connection slower than this is as good as broken.
const BYTES_PER_SECOND: u64 = 128 * 1024;
/// Servers close idle connections after some minutes at most; ours go first, so that a request seldom meets a closed one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const IDLE_CONNECTIONS: usize = 64;
/// No answer is larger: a backup's config takes about 100 bytes for each 2 MiB of its volume.
const ANSWER_LIMIT: u64 = 1 << 30;
/// What an answer without a length is given time for: a page of a listing has about half of this.
const UNANNOUNCED: u64 = 1 << 20;

/// How long one attempt may take that moves `bytes`.
pub(super) fn attempt_timeout(bytes: u64) -> Duration {
    ATTEMPT_TIMEOUT + Duration::from_secs(bytes / BYTES_PER_SECOND)
}

/// Sends the requests of one driver. A clone shares everything.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Client<HttpsConnector<Dial>, SdkBody>,
    proxies: Arc<Proxies>,
    counters: Arc<Counters>,
    clock: Arc<ServerClock>,
}

impl Transport {
    pub(super) fn new(tls: ClientConfig, proxies: Proxies, counters: Arc<Counters>, clock: Arc<ServerClock>) -> Self {
        let proxies = Arc::new(proxies);
        let dial = Dial::new(proxies.clone());
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(dial);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self { client, proxies, counters, clock }
    }

    /// The same connections for other servers than the store's: their requests are not counted and their clocks not noted.
    pub(super) fn apart(&self) -> Self {
        Self { counters: Arc::default(), clock: Arc::default(), ..self.clone() }
    }

    async fn send(&self, mut request: Request<SdkBody>) -> Result<Response<SdkBody>, ConnectorError> {
        if let Some(value) = self.proxies.authorization(request.uri()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
        }
        self.counters.request(verb(&request));
        let from = Instant::now();
        let sent = http_body::Body::size_hint(request.body()).upper().unwrap_or_default();
        let answer = until(from, attempt_timeout(sent), self.client.request(request)).await?;
        let (parts, body) = answer.map_err(|error| connector_error(error.into()))?.into_parts();
        if let Some(date) = parts.headers.get(header::DATE).and_then(|date| date.to_str().ok()) {
            self.clock.note(date);
        }
        let announced = length(&parts.headers).unwrap_or(UNANNOUNCED).min(ANSWER_LIMIT);
        let limited = Limited::new(body, ANSWER_LIMIT.try_into().unwrap_or(usize::MAX));
        let whole = until(from, attempt_timeout(sent + announced), limited.collect()).await?;
        let whole: Bytes = whole.map_err(connector_error)?.to_bytes();
        Ok(Response::from_parts(parts, SdkBody::from(whole)))
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let answer = transport.send(request).await?;
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// What a request of ours does. The SDK's `Stat` is a listing of at most one key (see `S3::stat`).
fn verb(request: &Request<SdkBody>) -> Verb {
    let query = request.uri().query().unwrap_or_default();
    match request.method().as_str() {
        "PUT" => Verb::Put,
        "POST" | "DELETE" => Verb::Delete,
        _ if query.contains("max-keys=1&") || query.ends_with("max-keys=1") => Verb::Stat,
        _ if query.contains("list-type=2") => Verb::List,
        _ => Verb::Get,
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Waits for `future` until `limit` has passed since `from`.
async fn until<T>(from: Instant, limit: Duration, future: impl Future<Output = T>) -> Result<T, ConnectorError> {
    let timed_out = |_| {
        let message = format!("no answer within {} s", limit.as_secs());
        ConnectorError::timeout(io::Error::new(io::ErrorKind::TimedOut, message).into())
    };
    tokio::time::timeout_at(from + limit, future).await.map_err(timed_out)
}

/// An `io` error is tried again by the SDK, a `user` one is not: a certificate does not become right by asking twice.
fn connector_error(error: Box<dyn StdError + Send + Sync>) -> ConnectorError {
    match is_certificate_error(&*error) {
        true => ConnectorError::user(error),
        false => ConnectorError::io(error),
    }
}

/// Whether TLS failed because of the server's certificate.
pub(super) fn is_certificate_error(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// The error and what caused it. An `io::Error` hides the error it was made of from its `source()`.
pub(super) fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}
