//! TLS 1.2 and 1.3, and which certificates are trusted.
//!
//! Promises:
//! - Mozilla's roots are built in: reading the system's certificate store would take longer than the
//!   whole request. It is read only where they do not know the issuer, within the same handshake.
//! - Any other flaw of a certificate (name, time, use) is refused without asking it.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_platform_verifier::Verifier as SystemVerifier;

use super::cause::Cause;
use crate::error::{Error, Hint, Result};

/// The configuration for all TLS connections. `ca_certs` name files with further trusted certificates.
///
/// # Errors
/// [`crate::Kind::Config`] if such a file holds no certificates, or something else.
pub(crate) fn configuration<'p>(
    ca_certs: impl IntoIterator<Item = &'p Path>,
) -> Result<ClientConfig> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for path in ca_certs {
        for certificate in certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| no_certificates(path, &error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(roots, Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.map_err(|error| unusable(&error))?))
        .with_no_client_auth())
}

/// A configuration for connections without TLS.
///
/// # Errors
/// [`crate::Kind::Config`] if TLS cannot be set up.
#[cfg(feature = "postgres")]
pub(crate) fn that_trusts_nobody() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(&error))?;
    Ok(builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn unusable(error: &rustls::Error) -> Error {
    Error::config(format!("cannot set up TLS: {error}"))
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).map_err(|error| Error::file("cannot read", path, error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| no_certificates(path, &error.to_string()))?;
    if certificates.is_empty() {
        return Err(no_certificates(path, "it has none"));
    }
    Ok(certificates)
}

fn no_certificates(path: &Path, why: &str) -> Error {
    let message = format!("{} does not hold CA certificates: {why}", path.display());
    Error::config(message).with_hint(Hint::fixed(
        "--ca-cert takes a PEM file, with BEGIN CERTIFICATE",
        "--ca-cert 需要 PEM 格式的证书文件（含 BEGIN CERTIFICATE）",
    ))
}

/// Asks the built-in roots, and the system's store for issuers that they do not know.
#[derive(Debug)]
struct Verifier {
    built_in: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    /// Loaded when first needed; none where the system has no certificates.
    system: OnceLock<Option<SystemVerifier>>,
}

impl Verifier {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let built_in =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let built_in = built_in.build();
        Ok(Verifier {
            built_in: built_in.map_err(|error| OtherError(Arc::new(error)))?,
            provider,
            system: OnceLock::new(),
        })
    }

    fn system(&self) -> Option<&SystemVerifier> {
        let make = || SystemVerifier::new(Arc::clone(&self.provider)).ok();
        self.system.get_or_init(make).as_ref()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = |by: &dyn ServerCertVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let unknown = match judged(&*self.built_in) {
            Err(error) if is_unknown_issuer(&error) => error,
            known => return known,
        };
        match self.system().map(|system| judged(system)) {
            Some(Err(error)) if is_unknown_issuer(&error) => Err(unknown),
            Some(known) => known,
            None => Err(unknown),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.built_in
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.built_in
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.built_in.supported_verify_schemes()
    }
}

fn is_unknown_issuer(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
    )
}

/// What is wrong with a certificate, if that caused the error.
pub(crate) fn certificate_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(error)) = error.downcast_ref() {
        return Some(error);
    }
    // An I/O error is a wrapper whose `source` skips what it wraps.
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => certificate_error(wrapped),
        None => certificate_error(error.source()?),
    }
}

/// What kind of flaw a certificate has.
pub(super) fn cause(error: &CertificateError) -> Cause {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
            Cause::OutOfTime
        }
        // webpki's own error, for which rustls has no name.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            Cause::MadeForCa
        }
        _ => Cause::Untrusted,
    }
}

/// What is wrong with a certificate, in words.
pub(crate) fn complaint(error: &CertificateError) -> String {
    let what = match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let (end, now) = (moment(*not_after), moment(*time));
            format!("it expired at {end}, and this machine's clock says {now}")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (start, now) = (moment(*not_before), moment(*time));
            format!("it is not valid before {start}, and this machine's clock says {now}")
        }
        _ if cause(error) == Cause::MadeForCa => {
            "it is a CA certificate, which must not serve as a server's".to_owned()
        }
        _ => error.to_string(),
    };
    format!("invalid peer certificate: {what}")
}

fn moment(time: UnixTime) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}
