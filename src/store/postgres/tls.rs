//! TLS to a database, with this program's configuration for all hosts.
//!
//! Our own, as a library's brings a certificate parser for channel binding that is larger than all else here: only one
//! field of the certificate is needed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

/// Makes TLS connections.
pub(super) struct Tls(TlsConnector);

impl Tls {
    pub(super) fn new(config: ClientConfig) -> Self {
        Tls(Arc::new(config).into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Secured<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    /// A socket's folder has no name, and does not use TLS.
    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake {
            connector: self.0.clone(),
            host: host.to_owned(),
        })
    }
}

/// A handshake with this host.
pub(super) struct Handshake {
    connector: TlsConnector,
    host: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Secured<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host);
            let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            self.connector.connect(name, stream).await.map(Secured)
        })
    }
}

/// A TLS connection.
pub(super) struct Secured<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Secured<S> {
    /// The hash of the server's certificate (RFC 5929, `tls-server-end-point`).
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first);
        let hashed = certificate.and_then(|certificate| {
            let algorithm = hash_of(signature_algorithm(certificate)?)?;
            Some(digest(algorithm, certificate).as_ref().to_vec())
        });
        hashed.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The object identifier of the algorithm that a certificate is signed with (RFC 5280, 4.1).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate)?;
    let (_to_be_signed, rest) = element(certificate)?;
    let (algorithm, _) = element(rest)?;
    let (identifier, _) = element(algorithm)?;
    Some(identifier)
}

/// The content of the first element of this DER, and the rest after it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let add = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
            (bytes.iter().fold(0, add), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The hash for a certificate: that of its signature; SHA-256 in place of weak ones (RFC 5929, 4.1).
fn hash_of(signature_algorithm: &[u8]) -> Option<&'static Algorithm> {
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01";
    const ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03";
    let with = |family| signature_algorithm.strip_prefix(family);
    match (with(RSA), with(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => Some(&SHA256),
        (Some([12]), _) | (_, Some([3])) => Some(&SHA384),
        (Some([13]), _) | (_, Some([4])) => Some(&SHA512),
        // Others do not name a single hash.
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_it_is_signed() {
        let signed_with = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let parameters = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
            parameters.self_signed(&key).unwrap()
        };
        let hash = |der: &[u8]| hash_of(signature_algorithm(der)?);
        let short = signed_with(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(hash(short.der()), Some(&SHA256));
        let long = signed_with(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(hash(long.der()), Some(&SHA384));
        let without = signed_with(&rcgen::PKCS_ED25519);
        assert_eq!(hash(without.der()), None);
        for end in 0..short.der().len() {
            assert_eq!(hash(&short.der()[..end]), None);
        }
    }
}
