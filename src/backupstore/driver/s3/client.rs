//! The SDK's client, set up for any S3 service and one target.

use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, Credentials as SdkCredentials, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use tokio::sync::OnceCell;

use super::transport::Transport;
use crate::backupstore::credentials::Credentials;
use crate::backupstore::driver::fence::Fence;

/// Attempts of one request, the first included.
pub(super) const ATTEMPTS: u32 = 4;

/// A client that signs for `region` and goes through `transport`. Retries are rationed per `target`: one that is down takes none from others.
pub(super) fn new(target: String, region: &str, credentials: &Credentials, transport: &Transport) -> Client {
    let region = Region::new(region.to_owned());
    // A service of one's own rarely has a DNS name per bucket, Amazon's always has.
    let virtual_hosted = credentials.virtual_hosted_style.unwrap_or(credentials.endpoint.is_none());
    let builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(transport.clone())
        .region(region.clone())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(Duration::from_millis(300)))
        .retry_partition(RetryPartition::new(target))
        .interceptor(TellRetries)
        // Checksum headers and trailers that the operation does not demand are refused by many other services.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Answers are read whole, within a deadline, below the SDK.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Both would send requests that the documented policy does not allow.
        .disable_s3_express_session_auth(true)
        .disable_multi_region_access_points(true)
        .force_path_style(!virtual_hosted);
    let builder = match &credentials.endpoint {
        Some(endpoint) => builder.endpoint_url(endpoint.as_str()),
        None => builder,
    };
    let builder = match &credentials.access_key {
        Some(key) => {
            builder.credentials_provider(SdkCredentials::new(&key.id, &key.secret, key.session_token.clone(), None, "Secret"))
        }
        None => builder.credentials_provider(Environment { region, transport: transport.apart(), chain: Arc::default() }),
    };
    Client::from_conf(builder.build())
}

/// Tells the caller's fence of every attempt but the first: the one before it may only have lost its answer, or be under way still.
#[derive(Debug)]
struct TellRetries;

impl Intercept for TellRetries {
    fn name(&self) -> &'static str {
        "TellRetries"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            Fence::note_sent_again();
        }
        Ok(())
    }
}

/// The role of the pod or node: web identity, container or instance metadata, in the SDK's order. Looked up at the first request.
#[derive(Debug)]
struct Environment {
    region: Region,
    transport: Transport,
    chain: Arc<OnceCell<DefaultCredentialsChain>>,
}

impl ProvideCredentials for Environment {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl Environment {
    async fn load(&self) -> provider::Result {
        let chain = self.chain.get_or_init(|| {
            let config =
                ProviderConfig::default().with_region(Some(self.region.clone())).with_http_client(self.transport.clone());
            DefaultCredentialsChain::builder().configure(config).build()
        });
        chain.await.provide_credentials().await
    }
}
