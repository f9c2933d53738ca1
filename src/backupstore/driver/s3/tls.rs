//! Which server certificates are trusted: those of the system's authorities, and those named in the Secret.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Why no TLS connection can be made at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate of the Secret cannot be read.
    #[error("AWS_CERT holds something that is not an X.509 certificate")]
    Certificate(#[source] Error),
    /// The library refuses our parameters.
    #[error("failed to set up TLS")]
    Setup(#[source] Error),
}

/// TLS with the system's authorities and `own` certificates trusted.
pub(super) fn client_config(own: &[CertificateDer<'static>]) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(own, &provider)?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Asks webpki, except for one kind of certificate: a self-signed one that says of itself that it is an authority.
///
/// `openssl req -x509` makes such, many a MinIO runs with one, and Longhorn's Go accepts it as a server's once it is trusted.
/// webpki never takes an authority as a server. Here it is taken when it is byte for byte one of the Secret's.
#[derive(Debug)]
struct Verifier {
    /// `None`: no authority is known, as in an image without any. Nothing but TLS needs one.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    own: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(own: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in own {
            roots.add(certificate.clone()).map_err(TlsError::Certificate)?;
        }
        let webpki = match roots.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|error| TlsError::Setup(Error::General(error.to_string())))?,
            ),
        };
        Ok(Self { webpki, own: own.to_vec(), algorithms: provider.signature_verification_algorithms })
    }
}

/// webpki looks at a certificate's dates before it asks whether it is an authority, so this error says that the dates are right.
fn is_authority_as_server(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(webpki) = &self.webpki else { return Err(CertificateError::UnknownIssuer.into()) };
        match webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_authority_as_server(&error) => {
                if !self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::pem::PemObject;

    use super::*;

    /// Self-signed, CA:TRUE, for 127.0.0.1 and minio.default, valid from November 2026 for a hundred years:
    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=minio -addext subjectAltName=...`
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBlzCCAT2gAwIBAgIUf1HoaIjXiErqzL+24fxhcZ1FrZswCgYIKoZIzj0EAwIw\n\
        EDEOMAwGA1UEAwwFbWluaW8wIBcNMjYxMTIzMjEzMzEyWhgPMjEyNjEwMzAyMTMz\n\
        MTJaMBAxDjAMBgNVBAMMBW1pbmlvMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n\
        0hgEc3lyLMFGA2ExBF2bphVQgliNxkzd42+9R2xK/D85NU9oNJp5kjZBVs+ooSw8\n\
        2b+UhJom2AtMC93rAlE+XqNzMHEwHQYDVR0OBBYEFEBTna+vgGHw1xMPzV0d62A3\n\
        iSFfMB8GA1UdIwQYMBaAFEBTna+vgGHw1xMPzV0d62A3iSFfMA8GA1UdEwEB/wQF\n\
        MAMBAf8wHgYDVR0RBBcwFYcEfwAAAYINbWluaW8uZGVmYXVsdDAKBggqhkjOPQQD\n\
        AgNIADBFAiEAxtUOQC2jSiuTQNyc/gmwhbwqjMdumbPyKmZCFZfAticCIDov8kfW\n\
        FioQVpyodGXE0bcWbJwDALKlcpe/wK/P9MC4\n\
        -----END CERTIFICATE-----\n";

    fn verdict(own: bool, name: &'static str, seconds: u64) -> Result<(), Error> {
        let certificate = CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap();
        let own = if own { vec![certificate.clone()] } else { Vec::new() };
        let verifier = Verifier::new(&own, &Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], now).map(drop)
    }

    const YEAR: u64 = 365 * 24 * 3600;
    const IN_2030: u64 = 60 * YEAR;

    #[test]
    fn an_authority_is_taken_as_a_server_when_it_is_our_own() {
        assert_eq!(verdict(true, "127.0.0.1", IN_2030), Ok(()));
        assert_eq!(verdict(true, "minio.default", IN_2030), Ok(()));
        assert_eq!(verdict(false, "127.0.0.1", IN_2030), Err(CertificateError::UnknownIssuer.into()));
    }

    #[test]
    fn name_and_dates_of_our_own_are_checked_like_any_others() {
        let error = verdict(true, "minio.elsewhere", IN_2030).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })), "{error:?}");
        let error = verdict(true, "127.0.0.1", IN_2030 + 200 * YEAR).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");
        let error = verdict(true, "127.0.0.1", IN_2030 - 20 * YEAR).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })), "{error:?}");
    }
}
