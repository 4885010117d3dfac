//! The floor under a refresh: one POST by the same crates in the same profile, with nothing read, saved or judged.
//!
//! `floor URL BODY [CA_FILE]`, with a JSON body.

use std::sync::Arc;
use std::{env, fs, io};

use anyhow::{Context, Result};
use reqwest::header::CONTENT_TYPE;
use reqwest::{redirect, retry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = |name| arguments.next().with_context(|| format!("no {name}"));
    let (url, body) = (next("URL")?, next("BODY")?);
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Ok(path) = next("CA_FILE") {
        for certificate in CertificateDer::pem_slice_iter(&fs::read(path)?) {
            roots.add(certificate?)?;
        }
    }
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reply = runtime.block_on(async {
        let json = (CONTENT_TYPE, "application/json; charset=utf-8");
        let request = client.post(url).header(json.0, json.1).body(body);
        request.send().await?.bytes().await
    })?;
    io::Write::write_all(&mut io::stdout(), &reply)?;
    Ok(())
}
