//! Certificates created on the fly.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Term {
    Now,
    Over,
    Ahead,
}

/// An unknown certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Authority { issuer })
    }

    /// Its own certificate, as files hold it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The settings of a server with a certificate for this name.
    pub fn server(&self, name: &str, term: Term) -> Result<Arc<ServerConfig>, rcgen::Error> {
        self.server_with(name, term, rustls::DEFAULT_VERSIONS)
    }

    /// The same, for a server with only these versions of TLS.
    pub fn server_with(
        &self,
        name: &str,
        term: Term,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Arc<ServerConfig>, rcgen::Error> {
        let (certificate, key) = self.certificate(&[name], term)?;
        configuration(
            certificate.der().clone(),
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            versions,
        )
    }

    /// A certificate for these names and its key, as files hold them.
    #[cfg(unix)]
    pub fn pem_for(&self, names: &[&str], term: Term) -> Result<(String, String), rcgen::Error> {
        let (certificate, key) = self.certificate(names, term)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn certificate(
        &self,
        names: &[&str],
        term: Term,
    ) -> Result<(Certificate, KeyPair), rcgen::Error> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let year = match term {
            Term::Now => None,
            Term::Over => Some(2020),
            Term::Ahead => Some(2120),
        };
        if let Some(year) = year {
            params.not_before = rcgen::date_time_ymd(year, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 2, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate, key))
    }
}

/// The settings of a server with this certificate.
pub fn configuration(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, rcgen::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
        });
    config
        .map(Arc::new)
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)
}
