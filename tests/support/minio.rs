//! A real MinIO of the test's own, with a user who may do exactly what the user's document (B-9) grants.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use drover::backupstore::credentials::Credentials;

use super::ports::Port;
use super::process::Process;
use super::scratch::Scratch;
use super::{eventually_blocking, random_hex, repository, run, script, tools, try_run};

const START: Duration = Duration::from_secs(60);

/// The access key of the user's document.
pub const ACCESS_KEY: &str = "longhorn-test-access-key";
/// The secret key of the user's document.
pub const SECRET_KEY: &str = "longhorn-test-secret-key";
/// The bucket of the user's document.
pub const BUCKET: &str = "backupbucket";

/// How a server is started.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Folder with `public.crt` and `private.key`: the server speaks TLS only.
    pub certificates: Option<PathBuf>,
    /// The region that requests must be signed for; `None`: any.
    pub region: Option<&'static str>,
}

/// A server with bucket and user. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Minio {
    options: Options,
    root: Keys,
    port: Port,
    process: Option<Process>,
    folder: Scratch,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Keys {
    access: String,
    secret: String,
}

impl Minio {
    /// Starts a server over plain HTTP.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a server with a self-signed certificate, as `openssl req -x509` makes it (a CA).
    pub fn start_tls() -> Self {
        let folder = Scratch::new("certificate");
        self_signed_certificate(&folder);
        Self::start_with(Options { certificates: Some(folder.to_path_buf()), ..Options::default() })
    }

    /// Starts a server; returns when bucket and user are there.
    pub fn start_with(options: Options) -> Self {
        let root = Keys { access: random_hex(16), secret: random_hex(32) };
        let mut minio = Self { options, root, port: Port::free(), process: None, folder: Scratch::new("minio") };
        let certs = minio.folder.join("certs");
        fs::create_dir(&certs).unwrap();
        if let Some(from) = &minio.options.certificates {
            for file in ["public.crt", "private.key"] {
                fs::copy(from.join(file), certs.join(file)).unwrap();
            }
        }
        minio.resume();
        minio.make_bucket_and_user();
        minio
    }

    /// Starts the server again on the same port with the same data.
    pub fn resume(&mut self) {
        assert!(self.process.is_none(), "minio is running");
        let mut command = script("test-server");
        command.arg("minio").arg(&*self.folder).arg(self.port.number().to_string());
        command.envs([("MINIO_ROOT_USER", &self.root.access), ("MINIO_ROOT_PASSWORD", &self.root.secret)]);
        if let Some(region) = self.options.region {
            command.env("MINIO_SITE_REGION", region);
        }
        let mut process = Process::spawn("minio", &mut command, &self.folder.join("log"));
        // Only this server has these root keys: an answer to a signed request comes from no other.
        process.wait_ready(START, || self.request_as(&self.root, "GET", "/", None));
        self.process = Some(process);
    }

    /// Ends the server at once; connections break, the data stay.
    pub fn stop(&mut self) {
        self.process.take().expect("minio is running").kill();
    }

    /// The running server, to be paused or looked at.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("minio is running")
    }

    /// `http://127.0.0.1:PORT`, `https://` with TLS.
    pub fn endpoint(&self) -> String {
        let scheme = if self.options.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.port.address())
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The certificate to trust, PEM; with TLS only.
    pub fn certificate(&self) -> String {
        fs::read_to_string(self.certificate_file()).unwrap()
    }

    fn certificate_file(&self) -> PathBuf {
        self.folder.join("certs/public.crt")
    }

    /// The folder of all buckets.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The user's credentials as the Secret's keys, with `extra` ones added or replaced.
    pub fn secret(&self, extra: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let endpoint = self.endpoint();
        let own = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_ENDPOINTS", &endpoint)];
        own.iter().chain(extra).map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    /// [`secret`](Self::secret), parsed.
    pub fn credentials(&self, extra: &[(&str, &str)]) -> Credentials {
        Credentials::parse(&self.secret(extra)).unwrap()
    }

    /// The credentials of the user who may do everything.
    pub fn root_credentials(&self) -> Credentials {
        self.credentials(&[("AWS_ACCESS_KEY_ID", &self.root.access), ("AWS_SECRET_ACCESS_KEY", &self.root.secret)])
    }

    /// The keys of the server's administrator.
    pub fn root(&self) -> &Keys {
        &self.root
    }

    /// The keys of the limited user.
    pub fn user(&self) -> Keys {
        Keys { access: ACCESS_KEY.to_owned(), secret: SECRET_KEY.to_owned() }
    }

    /// Every key of the bucket under `prefix`, in order, as the administrator sees it.
    pub fn keys_under(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys.last().map(|key| format!("&start-after={}", encoded(key))).unwrap_or_default();
            // SigV4 as curl 7.88 does it wants the query in order.
            let query = format!("/{BUCKET}?list-type=2&prefix={}{after}", encoded(prefix));
            let page = self.request_as(&self.root, "GET", &query, None).unwrap();
            keys.extend(between(&page, "<Key>", "</Key>"));
            if !page.contains("<IsTruncated>true</IsTruncated>") {
                return keys;
            }
        }
    }

    /// Every key of the bucket, in order.
    pub fn keys(&self) -> Vec<String> {
        self.keys_under("")
    }

    /// The content of one object that is text.
    pub fn get(&self, key: &str) -> String {
        self.object_as(&self.root, "GET", key, None).unwrap()
    }

    /// Writes one object as the administrator.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.object_as(&self.root, "PUT", key, Some(content)).unwrap();
    }

    /// Removes one object as the administrator.
    pub fn delete(&self, key: &str) {
        self.object_as(&self.root, "DELETE", key, None).unwrap();
    }

    /// One request for an object of the bucket, by curl.
    pub fn object_as(&self, who: &Keys, method: &str, key: &str, body: Option<&[u8]>) -> Result<String, String> {
        self.request_as(who, method, &format!("/{BUCKET}/{key}"), body)
    }

    /// One signed request by curl: the answer's text, or status and text when it is not 2xx.
    pub fn request_as(&self, who: &Keys, method: &str, path: &str, body: Option<&[u8]>) -> Result<String, String> {
        self.request_through(&self.endpoint(), who, method, path, body)
    }

    /// [`request_as`](Self::request_as), by way of another address.
    pub fn request_through(
        &self,
        endpoint: &str,
        who: &Keys,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<String, String> {
        let mut command = script("s3");
        command.arg(method).arg(format!("{endpoint}{path}"));
        command.envs([("S3_ACCESS_KEY", &who.access), ("S3_SECRET_KEY", &who.secret)]);
        command.env("S3_REGION", self.options.region.unwrap_or("us-east-1"));
        let file = body.map(|body| {
            let mut file = tempfile::NamedTempFile::new_in(&*self.folder).unwrap();
            file.write_all(body).unwrap();
            file
        });
        if let Some(file) = &file {
            command.arg(file.path());
        }
        try_run(&mut command)
    }

    fn make_bucket_and_user(&self) {
        let mut command = Command::new(tools().join("minio-user"));
        command.arg(self.endpoint()).arg(BUCKET).arg(repository().join("tests/data/backupstore-policy.json"));
        command.envs([("MINIO_ROOT_USER", &self.root.access), ("MINIO_ROOT_PASSWORD", &self.root.secret)]);
        command.envs([("USER_ACCESS_KEY", ACCESS_KEY), ("USER_SECRET_KEY", SECRET_KEY)]);
        command.env("SSL_CERT_FILE", self.certificate_file());
        // The server answers S3 requests some moments before it can keep users.
        eventually_blocking(START, "minio keeps a user", || try_run(&mut command));
    }
}

/// Makes `public.crt` and `private.key` in `folder` for 127.0.0.1, as people make them: self-signed, and so marked as a CA.
pub fn self_signed_certificate(folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/CN=minio-service.default", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
    openssl.arg("-keyout").arg(folder.join("private.key")).arg("-out").arg(folder.join("public.crt"));
    run(&mut openssl);
}

/// The texts between each `from` and the next `to`.
fn between(text: &str, from: &str, to: &str) -> Vec<String> {
    text.split(from).skip(1).filter_map(|rest| rest.split(to).next()).map(str::to_owned).collect()
}

/// A query value as SigV4 wants it.
fn encoded(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
