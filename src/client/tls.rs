//! TLS 1.2 and 1.3 with Mozilla's roots built in: reading the system's certificate store would
//! take longer than the whole request.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// The configuration that reqwest is given.
pub(super) fn configuration() -> Result<ClientConfig, rustls::Error> {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
