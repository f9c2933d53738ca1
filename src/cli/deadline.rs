//! Deadlines for the API server: a call that it took and never answers must fail, or whoever made it hangs for ever.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use kube::{Client, Config};
use tower_service::Service;

/// How long a connection may be silent: longer than the 290 s after which a watch ends by itself.
const SILENCE: Duration = Duration::from_secs(295);
/// How long a call that is no watch may be without an answer: below the 40 s after which a node's agent counts as dead.
const ANSWER: Duration = Duration::from_secs(30);

/// A client whose calls all end.
pub fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection lay idle before a call would count too.
    config.reset_reader_on_write = true;
    let inner = Client::try_from(config)?;
    Ok(bounded(inner, ANSWER))
}

fn bounded(inner: Client, answer: Duration) -> Client {
    let (namespace, valid_until) = (inner.default_namespace().to_owned(), *inner.valid_until());
    Client::new(Bounded { inner, answer }, namespace).with_valid_until(valid_until)
}

struct Bounded {
    inner: Client,
    answer: Duration,
}

impl Service<Request<Body>> for Bounded {
    type Response = Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, answer) = (self.inner.clone(), self.answer);
        Box::pin(async move {
            if is_watch(&request) {
                return Ok(inner.send(request).await?);
            }
            match tokio::time::timeout(answer, inner.send(request)).await {
                Ok(answered) => Ok(answered?),
                Err(_) => {
                    let words = format!("the API server did not answer within {} s", answer.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, words).into())
                }
            }
        })
    }
}

/// A watch may be silent from its first moment on: nothing changes.
fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_is_taken_and_never_answered_fails() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = silent.local_addr().expect("its address");
        let config = Config::new(format!("http://{address}").parse().expect("a URL"));
        let client = bounded(Client::try_from(config).expect("a client"), Duration::from_millis(100));
        let request = Request::get("/api").body(Vec::new()).expect("a request");
        let call = client.request_text(request);
        let (taken, answered) = tokio::join!(silent.accept(), call);
        assert!(taken.is_ok());
        let error = answered.expect_err("no answer came");
        assert!(format!("{error:?}").contains("did not answer"), "{error:?}");
    }

    #[test]
    fn only_watches_may_take_longer() {
        let request = |uri: &str| Request::get(uri).body(Body::empty()).expect("a request");
        assert!(is_watch(&request("/api/v1/namespaces/n/secrets?&watch=true&timeoutSeconds=290")));
        assert!(!is_watch(&request("/api/v1/namespaces/n/secrets?&limit=500")));
        assert!(!is_watch(&request("/api/v1/namespaces/n/secrets/watch=true")));
    }
}
