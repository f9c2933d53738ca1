//! Objects in a bucket of any S3 service.
//!
//! Needs only `s3:PutObject`, `s3:GetObject`, `s3:ListBucket` and `s3:DeleteObject`, and sends no request that other services
//! than Amazon's are known to refuse.

mod client;
mod clock;
mod dial;
mod error;
mod tls;
mod transport;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::delete_objects::DeleteObjectsError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Delete, Object, ObjectIdentifier};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use md5::{Digest, Md5};

pub use self::tls::TlsError;

use self::clock::ServerClock;
use self::dial::Proxies;
use self::error::Request;
use self::transport::{Transport, attempt_timeout};
use super::metered::Counters;
use super::{Depth, Driver, DriverError, Listed, Meta, Result, StorePath};
use crate::backupstore::credentials::Credentials;

/// Keys of one DeleteObjects request, by S3's rule.
const DELETE_BATCH: usize = 1000;
/// DeleteObject requests at a time, for services without DeleteObjects.
const SINGLE_DELETES: usize = 8;
/// Waiting between the attempts of a call.
const BACKOFF: Duration = Duration::from_secs(2);
/// No object is larger than a call of `get` can carry in this time, and a server's wish to be asked later ends with it.
const GET_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A bucket, or a folder in it.
pub struct S3 {
    client: Client,
    bucket: String,
    /// The folder: empty or with a final `/`.
    base: String,
    clock: Arc<ServerClock>,
    /// Whether bodies need no signature, because TLS guards them.
    over_tls: bool,
    /// Whether DeleteObjects was refused before and single deletes were not.
    single_deletes: AtomicBool,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.bucket).field("base", &self.base).finish_non_exhaustive()
    }
}

impl S3 {
    /// Sets the driver up; sends nothing. Requests are noted in `counters`.
    pub(super) fn new(
        bucket: &str,
        region: &str,
        path: &str,
        credentials: &Credentials,
        counters: Arc<Counters>,
    ) -> Result<Self, TlsError> {
        let clock = Arc::new(ServerClock::default());
        let proxies = Proxies::new(credentials.proxy.clone());
        let transport = Transport::new(tls::client_config(&credentials.certificates)?, proxies, counters, clock.clone());
        Ok(Self {
            client: client::new(format!("{bucket}@{region}/{path} {:?}", credentials.endpoint), region, credentials, &transport),
            bucket: bucket.to_owned(),
            base: path.to_owned(),
            clock,
            over_tls: credentials.endpoint.as_ref().is_none_or(|endpoint| endpoint.scheme() == "https"),
            single_deletes: AtomicBool::new(false),
        })
    }

    fn key(&self, path: &StorePath) -> String {
        format!("{}{path}", self.base)
    }

    fn request<'a>(&'a self, operation: &'static str, path: &'a str) -> Request<'a> {
        Request { operation, path, bucket: &self.bucket }
    }

    async fn fetch(&self, path: &StorePath, range: Option<&Range<u64>>) -> Result<Bytes> {
        let request = self.request("get", path.as_str());
        // HTTP counts the last byte in.
        let header = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(path)).set_range(header).send();
        let answer = match within(&request, GET_TIMEOUT, call).await? {
            // The range begins behind the object's end.
            Err(refused) if range.is_some() && status(&refused) == Some(416) => return Ok(Bytes::new()),
            answer => answer.map_err(|error| request.classify(&error))?,
        };
        let whole = answer.content_range.is_none();
        let data = answer.body.collect().await.map_err(|error| request.unavailable(error.to_string()))?.into_bytes();
        Ok(match range {
            // A server may ignore ranges.
            Some(range) if whole => slice(&data, range),
            _ => data,
        })
    }

    async fn list_page(&self, folder: &str, depth: Depth, token: Option<String>) -> Result<ListObjectsV2Output> {
        let request = self.request("list", folder.strip_prefix(&self.base).unwrap_or(folder));
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix((!folder.is_empty()).then(|| folder.to_owned()))
            .set_delimiter((depth == Depth::Children).then(|| "/".to_owned()))
            .set_continuation_token(token.clone())
            .send();
        let page = within(&request, call_timeout(0), call).await?.map_err(|error| request.classify(&error))?;
        // A page that leads nowhere or back to itself would end the listing early or never.
        if page.is_truncated() == Some(true)
            && (page.next_continuation_token().is_none() || page.next_continuation_token() == token.as_deref())
        {
            return Err(request.invalid("the server says that the listing goes on and not where".to_owned()));
        }
        Ok(page)
    }

    /// The rows of a page. What cannot be a key of ours, such as the empty objects that stand for folders, is left out.
    fn rows(&self, page: ListObjectsV2Output) -> Result<Vec<Listed>> {
        let path = |key: &str| StorePath::parse(key.strip_prefix(&self.base)?);
        let mut rows = Vec::with_capacity(page.contents().len() + page.common_prefixes().len());
        for object in page.contents() {
            if let Some(path) = object.key().and_then(path) {
                let meta = self.meta("list", &path, object)?;
                rows.push(Listed::Object(path, meta));
            }
        }
        let folders = page.common_prefixes().iter().filter_map(|prefix| path(prefix.prefix()?.strip_suffix('/')?));
        rows.extend(folders.map(Listed::Folder));
        Ok(rows)
    }

    fn meta(&self, operation: &'static str, path: &StorePath, object: &Object) -> Result<Meta> {
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let modified = object.last_modified().and_then(timestamp);
        size.zip(modified)
            .map(|(size, modified)| Meta { size, modified })
            .ok_or_else(|| self.request(operation, path.as_str()).invalid("listed without size or time".to_owned()))
    }

    async fn delete_batch(&self, paths: &[StorePath]) -> Result<()> {
        if paths.len() == 1 || self.single_deletes.load(Relaxed) {
            return self.delete_singly(paths).await;
        }
        let request = self.request("delete", paths.first().map(StorePath::as_str).unwrap_or_default());
        let keys = paths.iter().map(|path| ObjectIdentifier::builder().key(self.key(path)).build());
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| request.invalid(error.to_string()))?;
        let keys = Delete::builder().set_objects(Some(keys)).quiet(true).build();
        let keys = keys.map_err(|error| request.invalid(error.to_string()))?;
        let call = self.client.delete_objects().bucket(&self.bucket).delete(keys);
        let call = call.customize().mutate_request(add_content_md5).send();
        match within(&request, call_timeout(0), call).await? {
            Ok(answer) => answer.errors().iter().try_for_each(|error| self.deleted(error)),
            Err(error) if is_unsupported(&error) => {
                self.delete_singly(paths).await?;
                self.single_deletes.store(true, Relaxed);
                Ok(())
            }
            Err(error) => Err(request.classify(&error)),
        }
    }

    /// One key's outcome in an answer that is a success as a whole.
    fn deleted(&self, error: &aws_sdk_s3::types::Error) -> Result<()> {
        let key = error.key().unwrap_or_default();
        let request = self.request("delete", key.strip_prefix(&self.base).unwrap_or(key));
        match request.refused_key(error.code().unwrap_or_default(), error.message().unwrap_or_default()) {
            DriverError::NotFound { .. } => Ok(()),
            refused => Err(refused),
        }
    }

    async fn delete_singly(&self, paths: &[StorePath]) -> Result<()> {
        let delete = |path| async move {
            let request = self.request("delete", StorePath::as_str(path));
            let call = self.client.delete_object().bucket(&self.bucket).key(self.key(path)).send();
            match within(&request, call_timeout(0), call).await?.map_err(|error| request.classify(&error)) {
                Err(DriverError::NotFound { .. }) => Ok(()),
                done => done.map(drop),
            }
        };
        // Owned futures: one that borrows from the iterator's closure is not `Send` for every lifetime.
        let calls: Vec<_> = paths.iter().map(delete).collect();
        stream::iter(calls).buffer_unordered(SINGLE_DELETES).try_collect().await
    }
}

#[async_trait]
impl Driver for S3 {
    async fn put(&self, path: &StorePath, data: Bytes) -> Result<()> {
        let request = self.request("put", path.as_str());
        let limit = call_timeout(data.len() as u64);
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(path)).body(ByteStream::from(data)).customize();
        // Over plain HTTP the signature is what finds a body that was damaged on its way.
        let call = if self.over_tls { call.disable_payload_signing() } else { call };
        within(&request, limit, call.send()).await?.map_err(|error| request.classify(&error))?;
        Ok(())
    }

    async fn get(&self, path: &StorePath) -> Result<Bytes> {
        self.fetch(path, None).await
    }

    async fn get_range(&self, path: &StorePath, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            // HTTP has no empty range.
            let found = self.stat(path).await?;
            return found.map(|_| Bytes::new()).ok_or_else(|| DriverError::NotFound { path: path.to_string() });
        }
        self.fetch(path, Some(&range)).await
    }

    fn list<'a>(&'a self, prefix: Option<&StorePath>, depth: Depth) -> BoxStream<'a, Result<Listed>> {
        let folder = prefix.map_or(self.base.clone(), |prefix| format!("{}/", self.key(prefix)));
        // Some(None): the first page. None: there was a last one.
        let first: Option<Option<String>> = Some(None);
        stream::try_unfold((folder, first), move |(folder, next)| async move {
            let Some(token) = next else { return Ok::<_, DriverError>(None) };
            let mut page = self.list_page(&folder, depth, token).await?;
            let next = page.next_continuation_token.take().filter(|_| page.is_truncated == Some(true)).map(Some);
            let rows = self.rows(page)?;
            Ok(Some((stream::iter(rows.into_iter().map(Ok)), (folder, next))))
        })
        .try_flatten()
        .boxed()
    }

    async fn delete(&self, paths: &[StorePath]) -> Result<()> {
        for batch in paths.chunks(DELETE_BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    /// Asks by a listing of one key: unlike HEAD that tells a missing bucket from a missing object and gives the time of
    /// listings, which is finer than that of HEAD.
    async fn stat(&self, path: &StorePath) -> Result<Option<Meta>> {
        let request = self.request("stat", path.as_str());
        let key = self.key(path);
        let call = self.client.list_objects_v2().bucket(&self.bucket).prefix(&key).max_keys(1).send();
        let page = within(&request, call_timeout(0), call).await?.map_err(|error| request.classify(&error))?;
        // Keys come in order and an object's key is the first of all that begin with it.
        let found = page.contents().first().filter(|object| object.key() == Some(key.as_str()));
        found.map(|object| self.meta("stat", path, object)).transpose()
    }

    /// From the newest answer's `Date` header; asks only when there was none lately.
    async fn server_time(&self) -> Result<Timestamp> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let request = self.request("stat", "");
        let call = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.base).max_keys(1).send();
        within(&request, call_timeout(0), call).await?.map_err(|error| request.classify(&error))?;
        self.clock.now().ok_or_else(|| request.invalid("the server's answer has no Date header".to_owned()))
    }
}

/// How long a call may take with all its attempts, when each moves `bytes`.
fn call_timeout(bytes: u64) -> Duration {
    attempt_timeout(bytes) * client::ATTEMPTS + BACKOFF
}

async fn within<T>(request: &Request<'_>, limit: Duration, call: impl Future<Output = T>) -> Result<T> {
    let timed_out = |_| request.unavailable(format!("not done within {} s", limit.as_secs()));
    tokio::time::timeout(limit, call).await.map_err(timed_out)
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|raw| raw.status().as_u16())
}

/// Services without DeleteObjects, or that want it otherwise, answer so; should it be something else, a single delete will say it.
fn is_unsupported(error: &SdkError<DeleteObjectsError, HttpResponse>) -> bool {
    matches!(status(error), Some(400 | 404 | 405 | 411 | 501))
}

/// S3's rule for DeleteObjects, which the SDK keeps with a newer checksum header only; older services know this one.
fn add_content_md5(request: &mut HttpRequest) {
    if let Some(digest) = request.body().bytes().map(Md5::digest) {
        request.headers_mut().insert("content-md5", aws_smithy_types::base64::encode(digest));
    }
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), time.subsec_nanos().try_into().ok()?).ok()
}

fn slice(data: &Bytes, range: &Range<u64>) -> Bytes {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
    data.slice(clamp(range.start)..clamp(range.end))
}
