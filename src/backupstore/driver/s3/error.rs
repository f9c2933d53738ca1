//! What an S3 server's refusal means to the caller.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::transport::{chain, is_certificate_error};
use crate::backupstore::driver::DriverError;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) operation: &'static str,
    /// The key or prefix below the target.
    pub(super) path: &'a str,
    pub(super) bucket: &'a str,
}

/// A refusal as the server worded it.
#[derive(Debug, Default)]
struct Refusal {
    status: u16,
    code: String,
    message: String,
    /// The region the bucket is in, when the server says so.
    region: Option<String>,
}

impl Request<'_> {
    /// Sorts the SDK's error by what can be done about it.
    pub(super) fn classify<E>(&self, error: &SdkError<E, HttpResponse>) -> DriverError
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(refused) => match refusal(refused.err(), refused.raw()) {
                // Not an error of S3: the answer could not be read as one of S3's at all.
                Refusal { status: 200..=299, code, .. } if code.is_empty() => self.nonsense(refused.raw(), error),
                refusal => self.refused(&refusal),
            },
            SdkError::ResponseError(answer) => self.nonsense(answer.raw(), error),
            _ => self.unsent(error),
        }
    }

    fn nonsense(&self, answer: &HttpResponse, error: &(dyn StdError + 'static)) -> DriverError {
        let status = answer.status().as_u16();
        self.invalid(format!("the answer (HTTP {status}) is not S3's: is AWS_ENDPOINTS the S3 port? {}", words(error)))
    }

    /// No answer: the request was not made, not sent or not answered.
    fn unsent(&self, error: &(dyn StdError + 'static)) -> DriverError {
        match chain(error).find_map(|error| error.downcast_ref::<CredentialsError>()) {
            Some(late @ CredentialsError::ProviderTimedOut(_)) => return self.unavailable(words(late)),
            Some(missing) => {
                let message = format!("no AWS_ACCESS_KEY_ID is given and no IAM role can be used here: {}", words(missing));
                return DriverError::Credentials { message };
            }
            None => {}
        }
        if is_certificate_error(error) {
            return self.invalid(format!(
                "the server's TLS certificate is not trusted: {}; put the certificate of the server or of its authority into \
                 AWS_CERT of the Secret",
                words(error)
            ));
        }
        self.unavailable(words(error))
    }

    fn refused(&self, refusal: &Refusal) -> DriverError {
        let message = refusal.words();
        match refusal.code.as_str() {
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidSecurity" => DriverError::Credentials { message },
            "NoSuchBucket" => DriverError::NoRoot { root: format!("bucket {}", self.bucket), message },
            "NoSuchKey" => DriverError::NotFound { path: self.path.to_owned() },
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" | "InvalidRegion" => {
                self.invalid(refusal.region_advice(self.bucket))
            }
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "InsufficientCapacity" => {
                DriverError::NoSpace { message }
            }
            "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "RequestTimeout" | "RequestTimeTooSkewed" | "OperationAborted" => {
                self.unavailable(message)
            }
            _ => match refusal.status {
                301 | 307 | 308 => self.invalid(refusal.region_advice(self.bucket)),
                401 => DriverError::Credentials { message },
                403 => DriverError::Denied { path: self.path.to_owned(), message },
                507 => DriverError::NoSpace { message },
                408 | 409 | 429 | 500.. => self.unavailable(message),
                _ => self.invalid(message),
            },
        }
    }

    /// One key's error out of an answer that is a success as a whole.
    pub(super) fn refused_key(&self, code: &str, message: &str) -> DriverError {
        let status = match code {
            "AccessDenied" => 403,
            "InternalError" | "ServiceUnavailable" => 500,
            _ => 400,
        };
        self.refused(&Refusal { status, code: code.to_owned(), message: message.to_owned(), region: None })
    }

    pub(super) fn invalid(&self, message: String) -> DriverError {
        DriverError::Invalid { operation: self.operation, path: self.path.to_owned(), message }
    }

    pub(super) fn unavailable(&self, message: String) -> DriverError {
        DriverError::Unavailable { operation: self.operation, path: self.path.to_owned(), message }
    }
}

impl Refusal {
    fn words(&self) -> String {
        let (code, message) = (self.code.as_str(), self.message.as_str());
        match (code, message) {
            ("", "") => format!("HTTP {}", self.status),
            ("", text) | (text, "") => format!("{text} (HTTP {})", self.status),
            _ => format!("{code}: {message} (HTTP {})", self.status),
        }
    }

    fn region_advice(&self, bucket: &str) -> String {
        match &self.region {
            Some(region) => format!("the bucket is in region {region}: write s3://{bucket}@{region}/ ({})", self.words()),
            None => format!("is the region in the target URL the bucket's? ({})", self.words()),
        }
    }
}

fn refusal<E: ProvideErrorMetadata>(error: &E, raw: &HttpResponse) -> Refusal {
    let body = raw.body().bytes().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default();
    Refusal {
        status: raw.status().as_u16(),
        code: error.code().unwrap_or_default().to_owned(),
        message: error.message().unwrap_or_default().to_owned(),
        region: region(raw.headers().get("x-amz-bucket-region"), body),
    }
}

fn region(header: Option<&str>, body: &str) -> Option<String> {
    let element = || Some(body.split_once("<Region>")?.1.split_once("</Region>")?.0);
    let region = header.or_else(element)?;
    let sound = !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    sound.then(|| region.to_owned())
}

/// The error and its sources in words on one line, each said once.
fn words(error: &(dyn StdError + 'static)) -> String {
    let one_line = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    chain(error).map(ToString::to_string).map(one_line).fold(String::new(), |words, text| match words.as_str() {
        "" => text,
        _ if words.contains(&text) => words,
        _ => format!("{words}: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::Error;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    const REQUEST: Request<'static> = Request { operation: "list", path: "backupstore", bucket: "backups" };

    fn refused(status: u16, code: &str, region: Option<&str>) -> DriverError {
        let region = region.map(str::to_owned);
        REQUEST.refused(&Refusal { status, code: code.to_owned(), message: "words".to_owned(), region })
    }

    #[test]
    fn refusals_are_sorted_by_what_can_be_done() {
        use DriverError as E;
        assert!(matches!(refused(403, "InvalidAccessKeyId", None), E::Credentials { .. }));
        assert!(matches!(refused(403, "SignatureDoesNotMatch", None), E::Credentials { .. }));
        assert!(matches!(refused(400, "ExpiredToken", None), E::Credentials { .. }));
        assert!(matches!(refused(403, "AccessDenied", None), E::Denied { .. }));
        assert!(matches!(refused(404, "NoSuchBucket", None), E::NoRoot { .. }));
        assert!(matches!(refused(404, "NoSuchKey", None), E::NotFound { .. }));
        assert!(matches!(refused(507, "", None), E::NoSpace { .. }));
        assert!(matches!(refused(400, "XMinioAdminBucketQuotaExceeded", None), E::NoSpace { .. }));
        for status in [429, 500, 502, 503, 504] {
            assert!(refused(status, "", None).is_transient(), "{status}");
        }
        assert!(matches!(refused(400, "InvalidArgument", None), E::Invalid { .. }));
    }

    #[test]
    fn without_keys_and_role_the_secret_is_what_to_look_at() {
        let sdk = |error: CredentialsError| SdkError::<Error, HttpResponse>::dispatch_failure(ConnectorError::user(error.into()));
        match REQUEST.classify(&sdk(CredentialsError::not_loaded("no role:\n  none"))) {
            DriverError::Credentials { message } => {
                assert!(message.starts_with("no AWS_ACCESS_KEY_ID is given") && message.ends_with("no role: none"), "{message}")
            }
            other => panic!("{other:?}"),
        }
        let late = sdk(CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)));
        assert!(REQUEST.classify(&late).is_transient());
    }

    #[test]
    fn a_wrong_region_is_answered_with_the_right_one() {
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(region(None, body).as_deref(), Some("eu-west-1"));
        assert_eq!(region(Some("eu-north-1"), "").as_deref(), Some("eu-north-1"));
        assert_eq!(region(Some("<script>"), ""), None);

        let message = refused(400, "AuthorizationHeaderMalformed", Some("eu-west-1")).to_string();
        assert!(message.contains("write s3://backups@eu-west-1/"), "{message}");
        let message = refused(301, "", None).to_string();
        assert!(message.contains("region in the target URL"), "{message}");
    }
}
