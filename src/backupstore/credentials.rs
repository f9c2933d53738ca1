//! The Secret of a backup target, as types.
//!
//! Takes the keys that Longhorn takes and names every one that is wrong. A value is never part of an error or of `Debug`
//! output: a user may have pasted a secret under any key.

use std::collections::BTreeMap;
use std::fmt;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::Url;

const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
const ENDPOINTS: &str = "AWS_ENDPOINTS";
const CERT: &str = "AWS_CERT";
const VIRTUAL_HOSTED_STYLE: &str = "VIRTUAL_HOSTED_STYLE";
const SIGN_ACCEPT_ENCODING: &str = "AWS_SIGN_ACCEPT_ENCODING";
const IAM_ROLE_ARN: &str = "AWS_IAM_ROLE_ARN";
const HTTP_PROXY: &str = "HTTP_PROXY";
const HTTPS_PROXY: &str = "HTTPS_PROXY";
const NO_PROXY: &str = "NO_PROXY";

/// Every key that is read, for whoever collects them from elsewhere than a Secret.
pub const KEYS: [&str; 11] = [
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
    ENDPOINTS,
    CERT,
    VIRTUAL_HOSTED_STYLE,
    SIGN_ACCEPT_ENCODING,
    IAM_ROLE_ARN,
    HTTP_PROXY,
    HTTPS_PROXY,
    NO_PROXY,
];

/// What a backup target's Secret says. `Debug` shows which parts are set, never their values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The pair of keys. `None`: the role of the node or of the service account is used.
    pub access_key: Option<AccessKey>,
    /// `http://` or `https://` URL of an S3 service other than Amazon's, without path, query or user.
    pub endpoint: Option<Url>,
    /// Certificates to trust besides the system's.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Whether the bucket is part of the host name. `None`: yes for Amazon's own service, no for an endpoint of one's own.
    pub virtual_hosted_style: Option<bool>,
    /// The role that the pod gets from its platform; its presence says that keys are left out on purpose.
    pub iam_role: Option<String>,
    /// Proxies to use for this target.
    pub proxy: ProxySettings,
}

/// An access key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// `AWS_SESSION_TOKEN`: a temporary pair is good for nothing without it.
    pub session_token: Option<String>,
}

/// Proxies by the scheme of the endpoint.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ProxySettings {
    /// `HTTP_PROXY`: for `http://` endpoints.
    pub http: Option<Url>,
    /// `HTTPS_PROXY`: for `https://` endpoints.
    pub https: Option<Url>,
    /// `NO_PROXY`: hosts that are reached directly.
    pub no_proxy: Vec<String>,
}

/// Everything that is wrong with a Secret, by key name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsError {
    problems: Vec<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Blank { key: &'static str, end: End, kind: Blank },
    NotText { key: &'static str },
    Missing { key: &'static str, partner: &'static str },
    NotAnEndpoint,
    NotAProxy { key: &'static str },
    NotABool { key: &'static str },
    NotACertificate,
    NotAnArn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Leading,
    Trailing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blank {
    Newline,
    Whitespace,
}

impl std::error::Error for CredentialsError {}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("credential validation error(s): ")?;
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank { key, end, kind } => {
                let end = if *end == End::Leading { "leading" } else { "trailing" };
                let kind = if *kind == Blank::Newline { "newline" } else { "whitespace" };
                write!(f, "invalid {end} {kind} in {key}")
            }
            Self::NotText { key } => write!(f, "{key} is not UTF-8 text"),
            Self::Missing { key, partner } => write!(f, "{key} is missing, {partner} is useless without it"),
            Self::NotAnEndpoint => write!(
                f,
                "{ENDPOINTS} must be one URL of the form http://host:port or https://host:port, without path, query or user"
            ),
            Self::NotAProxy { key } => write!(f, "{key} must be a URL of the form http://host:port"),
            Self::NotABool { key } => write!(f, "{key} must be true or false"),
            Self::NotACertificate => write!(f, "{CERT} must hold one or more certificates in PEM form"),
            Self::NotAnArn => write!(f, "{IAM_ROLE_ARN} must begin with arn:"),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("endpoint", &self.endpoint.as_ref().map(Url::as_str))
            .field("certificates", &self.certificates.len())
            .field("virtual_hosted_style", &self.virtual_hosted_style)
            .field("iam_role", &self.iam_role)
            .field("proxy", &self.proxy)
            .finish()
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(redacted)")
    }
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's URL can carry a password.
        f.debug_struct("ProxySettings").field("http", &self.http.is_some()).field("https", &self.https.is_some()).finish()
    }
}

impl Credentials {
    /// Reads the `data` of a Secret. An empty value counts as absent, keys of other features are ignored.
    pub fn parse(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, CredentialsError> {
        let mut reader = Reader { values: BTreeMap::new(), problems: Vec::new() };
        for key in KEYS {
            if let Some(bytes) = data.get(key).filter(|bytes| !bytes.is_empty()) {
                reader.take(key, bytes);
            }
        }
        let credentials = Self {
            access_key: reader.access_key(),
            endpoint: reader.parsed(ENDPOINTS, endpoint),
            certificates: reader.parsed(CERT, certificates).unwrap_or_default(),
            virtual_hosted_style: reader.parsed(VIRTUAL_HOSTED_STYLE, |text| boolean(VIRTUAL_HOSTED_STYLE, text)),
            iam_role: reader.parsed(IAM_ROLE_ARN, arn),
            proxy: ProxySettings {
                http: reader.parsed(HTTP_PROXY, |text| proxy(HTTP_PROXY, text)),
                https: reader.parsed(HTTPS_PROXY, |text| proxy(HTTPS_PROXY, text)),
                no_proxy: reader.parsed(NO_PROXY, |text| Ok(host_list(text))).unwrap_or_default(),
            },
        };
        // No request of ours carries Accept-Encoding, so there is nothing to sign or to leave out: only the spelling is checked.
        reader.parsed(SIGN_ACCEPT_ENCODING, |text| boolean(SIGN_ACCEPT_ENCODING, text));
        match reader.problems.is_empty() {
            true => Ok(credentials),
            false => Err(CredentialsError { problems: reader.problems }),
        }
    }
}

/// The values that are text, and what was wrong with the others.
struct Reader<'a> {
    values: BTreeMap<&'static str, &'a str>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, key: &'static str, bytes: &'a [u8]) {
        match std::str::from_utf8(bytes) {
            Err(_) => self.problems.push(Problem::NotText { key }),
            // Every tool ends a PEM file with a newline.
            Ok(text) if key == CERT => self.take_text(key, text.trim_matches(['\n', '\r'])),
            Ok(text) => self.take_text(key, text),
        }
    }

    fn take_text(&mut self, key: &'static str, text: &'a str) {
        let ends = [(End::Leading, text.chars().next()), (End::Trailing, text.chars().next_back())];
        for (end, character) in ends {
            match character {
                Some('\n' | '\r') => self.problems.push(Problem::Blank { key, end, kind: Blank::Newline }),
                Some(c) if c.is_whitespace() => self.problems.push(Problem::Blank { key, end, kind: Blank::Whitespace }),
                _ => {}
            }
        }
        // Kept in any case, so that one mistake is not reported as another.
        self.values.insert(key, text);
    }

    fn access_key(&mut self) -> Option<AccessKey> {
        let damaged = |key| self.problems.iter().any(|p| matches!(p, Problem::NotText { key: k } if *k == key));
        let missing = match (self.values.get(ACCESS_KEY_ID), self.values.get(SECRET_ACCESS_KEY)) {
            (Some(id), Some(secret)) => {
                let session_token = self.values.get(SESSION_TOKEN).map(|token| (*token).to_owned());
                return Some(AccessKey { id: (*id).to_owned(), secret: (*secret).to_owned(), session_token });
            }
            (None, None) if self.values.contains_key(SESSION_TOKEN) => (ACCESS_KEY_ID, SESSION_TOKEN),
            (None, None) => return None,
            (Some(_), None) => (SECRET_ACCESS_KEY, ACCESS_KEY_ID),
            (None, Some(_)) => (ACCESS_KEY_ID, SECRET_ACCESS_KEY),
        };
        if !damaged(missing.0) {
            self.problems.push(Problem::Missing { key: missing.0, partner: missing.1 });
        }
        None
    }

    fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Option<T> {
        parse(self.values.get(key)?.trim()).map_err(|problem| self.problems.push(problem)).ok()
    }
}

fn endpoint(text: &str) -> Result<Url, Problem> {
    http_url(text, &["http", "https"])
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .ok_or(Problem::NotAnEndpoint)
}

fn proxy(key: &'static str, text: &str) -> Result<Url, Problem> {
    http_url(text, &["http"]).ok_or(Problem::NotAProxy { key })
}

fn http_url(text: &str, schemes: &[&str]) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    (schemes.contains(&url.scheme()) && url.has_host() && bare).then_some(url)
}

/// The spellings that Longhorn takes (Go's `strconv.ParseBool`).
fn boolean(key: &'static str, text: &str) -> Result<bool, Problem> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Problem::NotABool { key }),
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    certificates.ok().filter(|list| !list.is_empty()).ok_or(Problem::NotACertificate)
}

fn arn(text: &str) -> Result<String, Problem> {
    if text.starts_with("arn:") { Ok(text.to_owned()) } else { Err(Problem::NotAnArn) }
}

fn host_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        Credentials::parse(&data(pairs)).unwrap_err().to_string()
    }

    const PAIR: [(&str, &str); 2] = [(ACCESS_KEY_ID, "longhorn-test-access-key"), (SECRET_ACCESS_KEY, "hunter2/+=")];

    fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        PAIR.iter().chain(extra).copied().collect()
    }

    #[test]
    fn b19_the_secret_of_the_users_document_is_taken() {
        let data = data(&with(&[(ENDPOINTS, "http://minio-service.default:9000")]));
        let credentials = Credentials::parse(&data).unwrap();
        assert_eq!(credentials.access_key.as_ref().unwrap().secret, "hunter2/+=");
        assert_eq!(credentials.endpoint.unwrap().as_str(), "http://minio-service.default:9000/");
        assert_eq!(credentials.virtual_hosted_style, None);
    }

    #[test]
    fn b20_a_blank_or_newline_at_either_end_is_refused_by_key_name() {
        assert_eq!(
            refusal(&[(ACCESS_KEY_ID, "id"), (SECRET_ACCESS_KEY, "hunter2\n")]),
            "credential validation error(s): invalid trailing newline in AWS_SECRET_ACCESS_KEY"
        );
        assert_eq!(
            refusal(&[(ACCESS_KEY_ID, " id"), (SECRET_ACCESS_KEY, "\nhunter2\t"), (ENDPOINTS, "http://h:9000 ")]),
            "credential validation error(s): invalid leading whitespace in AWS_ACCESS_KEY_ID; \
             invalid leading newline in AWS_SECRET_ACCESS_KEY; invalid trailing whitespace in AWS_SECRET_ACCESS_KEY; \
             invalid trailing whitespace in AWS_ENDPOINTS"
        );
    }

    #[test]
    fn a_temporary_pair_keeps_its_token() {
        let credentials = Credentials::parse(&data(&with(&[(SESSION_TOKEN, "token")]))).unwrap();
        assert_eq!(credentials.access_key.unwrap().session_token.as_deref(), Some("token"));
        assert!(refusal(&[(SESSION_TOKEN, "token")]).contains("AWS_ACCESS_KEY_ID is missing, AWS_SESSION_TOKEN is useless"));
    }

    #[test]
    fn half_a_pair_is_refused_by_the_name_of_the_missing_half() {
        assert!(refusal(&[(ACCESS_KEY_ID, "id")]).contains("AWS_SECRET_ACCESS_KEY is missing"));
        assert!(refusal(&[(SECRET_ACCESS_KEY, "x"), (ACCESS_KEY_ID, "")]).contains("AWS_ACCESS_KEY_ID is missing"));
        assert_eq!(Credentials::parse(&BTreeMap::new()), Ok(Credentials::default()));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_by_key_name() {
        let mut data = data(&PAIR);
        data.insert(SECRET_ACCESS_KEY.into(), vec![0xff, 0xfe]);
        let message = Credentials::parse(&data).unwrap_err().to_string();
        assert_eq!(message, "credential validation error(s): AWS_SECRET_ACCESS_KEY is not UTF-8 text");
    }

    #[test]
    fn values_of_the_wrong_form_are_refused_by_key_name() {
        for (key, value) in [
            (ENDPOINTS, "minio:9000"),
            (ENDPOINTS, "ftp://minio:9000"),
            (ENDPOINTS, "http://user:hunter2@minio:9000"),
            (ENDPOINTS, "http://minio:9000/bucket"),
            (ENDPOINTS, "http://a:1,http://b:2"),
            (CERT, "not a certificate"),
            (CERT, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"),
            (VIRTUAL_HOSTED_STYLE, "yes"),
            (SIGN_ACCEPT_ENCODING, "maybe"),
            (IAM_ROLE_ARN, "my-role"),
            (HTTP_PROXY, "socks5://proxy:1"),
        ] {
            let message = refusal(&with(&[(key, value)]));
            assert!(message.starts_with(&format!("credential validation error(s): {key} must ")), "{message}");
        }
    }

    #[test]
    fn optional_keys_are_typed_and_foreign_ones_ignored() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nAwQF\n-----END CERTIFICATE-----\n\n";
        let credentials = Credentials::parse(&data(&[
            (CERT, pem),
            (VIRTUAL_HOSTED_STYLE, "true"),
            (SIGN_ACCEPT_ENCODING, "false"),
            (IAM_ROLE_ARN, "arn:aws:iam::1:role/backup"),
            (HTTPS_PROXY, "http://u:p@proxy:3128"),
            (NO_PROXY, "10.0.0.1, .Svc.cluster.local,"),
            ("CIFS_PASSWORD", " anything\n"),
        ]))
        .unwrap();
        assert_eq!(credentials.certificates.len(), 2);
        assert_eq!(credentials.virtual_hosted_style, Some(true));
        assert_eq!(credentials.proxy.https.unwrap().port(), Some(3128));
        assert_eq!(credentials.proxy.no_proxy, ["10.0.0.1", ".svc.cluster.local"]);
    }

    proptest! {
        /// Random values under every key: whatever is wrong, no value shows in an error or in `Debug`.
        #[test]
        fn no_value_ever_reaches_text(values in prop::collection::vec("[ \n]?Zq[!-~]{6,20}[ \n]?", KEYS.len())) {
            let data: BTreeMap<_, _> =
                KEYS.iter().zip(&values).map(|(key, value)| ((*key).to_owned(), value.clone().into_bytes())).collect();
            let error = Credentials::parse(&data).unwrap_err();
            let text = format!("{error} {error:?}");
            prop_assert!(!text.contains("Zq"), "{}", text);

            let pair = data.into_iter().filter(|(key, _)| key == ACCESS_KEY_ID || key == SECRET_ACCESS_KEY).collect();
            if let Ok(credentials) = Credentials::parse(&pair) {
                let text = format!("{credentials:?}");
                prop_assert!(!text.contains("Zq"), "{}", text);
            }
        }
    }
}
