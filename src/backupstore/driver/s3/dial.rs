//! TCP connections, straight or through the proxy that the Secret names.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

use crate::backupstore::credentials::ProxySettings;

/// To a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A proxy's answer to CONNECT is not longer.
const PROXY_ANSWER_LIMIT: usize = 8 * 1024;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Opens connections for the HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    tcp: HttpConnector,
    proxies: Arc<Proxies>,
}

/// Which proxy serves which address.
#[derive(Debug, Default)]
pub(super) struct Proxies(ProxySettings);

impl Dial {
    pub(super) fn new(proxies: Arc<Proxies>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(15)));
        Self { tcp, proxies }
    }

    async fn connect(mut self, uri: Uri) -> Result<Stream, BoxError> {
        let Some(proxy) = self.proxies.of(&uri) else {
            return Ok(Stream { io: self.tcp.call(uri).await?, proxied: false });
        };
        let address = without_user(proxy).parse()?;
        let io = self.tcp.call(address).await.map_err(|error| format!("failed to reach the proxy: {}", words(&error)))?;
        if uri.scheme_str() != Some("https") {
            return Ok(Stream { io, proxied: true });
        }
        let mut tcp = io.into_inner();
        tunnel(&mut tcp, &uri, authorization(proxy)).await?;
        Ok(Stream { io: TokioIo::new(tcp), proxied: false })
    }
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Asks the proxy for a connection to `uri`'s host that it does not look into.
async fn tunnel(tcp: &mut TcpStream, uri: &Uri, authorization: Option<HeaderValue>) -> Result<(), BoxError> {
    let host = uri.host().ok_or("no host to connect to")?;
    let port = uri.port_u16().unwrap_or(443);
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    tcp.write_all(&request).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the empty line belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER_LIMIT {
            return Err("the proxy's answer has no end".into());
        }
        answer.push(tcp.read_u8().await?);
    }
    let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("the proxy refused the connection: {status}").into()),
    }
}

impl Proxies {
    pub(super) fn new(settings: ProxySettings) -> Self {
        Self(settings)
    }

    fn of(&self, uri: &Uri) -> Option<&Url> {
        let proxy = if uri.scheme_str() == Some("https") { &self.0.https } else { &self.0.http }.as_ref()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        (!is_direct(&host, &self.0.no_proxy)).then_some(proxy)
    }

    /// What a plain HTTP request to `uri` must carry for its proxy. A tunnel is opened with it instead.
    pub(super) fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() == Some("https") { None } else { authorization(self.of(uri)?) }
    }
}

/// The rules of Go's `NO_PROXY`: `*`, an address, a network, or a domain with all below it (with a leading dot, only those below).
/// Link-local addresses, where clouds serve a node's role, are never behind a proxy.
fn is_direct(host: &str, no_proxy: &[String]) -> bool {
    let address = host.parse::<IpAddr>().ok();
    if matches!(address, Some(IpAddr::V4(v4)) if v4.is_link_local()) {
        return true;
    }
    no_proxy.iter().any(|rule| match (rule.as_str(), address) {
        ("*", _) => true,
        (rule, Some(address)) => rule.parse() == Ok(address) || in_network(address, rule),
        (rule, None) => {
            let domain = rule.strip_prefix("*").unwrap_or(rule);
            let below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.') || domain.starts_with('.'));
            host == domain || below
        }
    })
}

fn in_network(address: IpAddr, rule: &str) -> bool {
    let parse = || {
        let (network, bits) = rule.split_once('/')?;
        Some((network.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?))
    };
    match (address, parse()) {
        (IpAddr::V4(a), Some((IpAddr::V4(n), bits @ 0..=32))) => {
            (u32::from(a) ^ u32::from(n)).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), Some((IpAddr::V6(n), bits @ 0..=128))) => {
            (u128::from(a) ^ u128::from(n)).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn without_user(proxy: &Url) -> String {
    format!("http://{}:{}", proxy.host_str().unwrap_or_default(), proxy.port_or_known_default().unwrap_or(80))
}

fn authorization(proxy: &Url) -> Option<HeaderValue> {
    if proxy.username().is_empty() {
        return None;
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pair = format!("{}:{}", decode(proxy.username()), decode(proxy.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", aws_smithy_types::base64::encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn words(error: &dyn StdError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A connection, and whether requests on it must name the whole address for a proxy.
#[derive(Debug)]
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let rules = ["10.1.0.0/16", "192.168.7.7", "fd00::/8", "internal.example", ".svc.cluster.local"].map(str::to_owned);
        for direct in [
            "10.1.2.3",
            "192.168.7.7",
            "fd12::1",
            "internal.example",
            "s3.internal.example",
            "minio.default.svc.cluster.local",
            "169.254.169.254",
        ] {
            assert!(is_direct(direct, &rules), "{direct}");
        }
        for proxied in ["10.2.2.3", "192.168.7.8", "fe00::1", "notinternal.example", "svc.cluster.local", "example"] {
            assert!(!is_direct(proxied, &rules), "{proxied}");
        }
        assert!(is_direct("anything", &["*".to_owned()]));
        assert!(in_network("1.2.3.4".parse().unwrap(), "0.0.0.0/0"));
    }

    #[test]
    fn a_proxy_is_chosen_by_scheme() {
        let url = |text: &str| Url::parse(text).ok();
        let proxies = Proxies::new(ProxySettings {
            http: url("http://user:p%40ss@plain:3128"),
            https: url("http://secure:3128"),
            no_proxy: vec!["direct".to_owned()],
        });
        let of = |uri: &'static str| proxies.of(&Uri::from_static(uri)).and_then(Url::host_str);
        assert_eq!(of("http://minio:9000/x"), Some("plain"));
        assert_eq!(of("https://minio:9000/x"), Some("secure"));
        assert_eq!(of("http://direct:9000/x"), None);
        let header = proxies.authorization(&Uri::from_static("http://minio:9000/")).unwrap();
        assert_eq!(header, format!("Basic {}", aws_smithy_types::base64::encode("user:p@ss")).as_str());
        assert_eq!(proxies.authorization(&Uri::from_static("https://minio:9000/")), None);
    }
}
