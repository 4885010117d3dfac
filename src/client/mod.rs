//! Carries one request to a service and its reply back. Knows nothing of fields or tokens.
//!
//! Promises:
//! - Secrets travel over HTTPS, or over plain HTTP to a loopback address and then never through a
//!   proxy (P10). No redirect is followed, and the HTTP library never resends.
//! - A failure says whether the request can have reached the server ([`SendError::maybe_sent`]).
//! - Time and memory are bounded, whatever the server does (P11).

mod cause;
pub(crate) mod encoding;
mod proxy;
pub(crate) mod tls;

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Url, redirect, retry};
use secrecy::ExposeSecret;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::protocol::{Address, Request, Response, is_loopback};
pub(crate) use cause::Cause;

/// At most this much of a reply is read. A token endpoint's is shorter: tokens have 4 KB at most, and there are two.
pub(crate) const LONGEST_REPLY: usize = 1 << 20;

/// Headers of a reply; hyper's default is a hundred. Hyper limits their total length, too (408 KiB).
const MOST_HEADERS: usize = 4096;

/// On a time-out, the connection is read this much longer before it counts (P8).
const ONE_MORE_LOOK: Duration = Duration::from_millis(250);

/// A connection idle for longer is not reused.
const LONGEST_IDLE: Duration = Duration::from_secs(5);

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How long one attempt may take.
    pub(crate) timeout: Duration,
    /// A file with further CA certificates to trust.
    pub(crate) ca_cert: Option<PathBuf>,
    /// What each new thread does first, so that no thread lets a signal through.
    pub(crate) shield: fn(),
}

/// A connection to one service. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: Address,
    /// The proxy on the way, for messages; empty without one.
    via: String,
    /// How long one attempt may take.
    timeout: Duration,
    has_warned: Arc<AtomicBool>,
}

/// Why there is no whole reply.
pub(crate) struct SendError {
    /// What happened.
    pub(crate) message: String,
    /// Whether the server may have read the request, and acted on it.
    pub(crate) maybe_sent: bool,
    /// Its cause.
    pub(crate) cause: Cause,
    /// The part of the reply that arrived.
    pub(crate) partial: Option<Response>,
}

#[cfg(feature = "fail-points")]
impl crate::fail::Injected for SendError {
    fn injected(name: &str) -> Self {
        SendError {
            message: format!("fail point {name}"),
            maybe_sent: true,
            cause: Cause::Passing,
            partial: None,
        }
    }
}

impl Client {
    /// A client for the service at this address.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the certificates to trust or the proxy are not valid.
    pub(crate) fn new(address: &Address, settings: &Settings) -> Result<Self> {
        let timeout = settings.timeout;
        let failed = |error: &dyn std::error::Error| {
            Error::config(format!(
                "cannot set up the connection to {address}: {error}"
            ))
        };
        let tls = tls::configuration(settings.ca_cert.as_deref())?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("feishu-refresh/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            // A small mistake in the header must not cost the pair in the body.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_headers(MOST_HEADERS)
            // Middleboxes drop idle connections silently.
            .pool_idle_timeout(LONGEST_IDLE)
            // A little less, so that the error says where the time went.
            .connect_timeout(timeout.mul_f64(0.9))
            .dns_resolver(Resolver {
                shield: settings.shield,
            });
        let mut via = String::new();
        if address.is_loopback() {
            // A name that a resolver could point elsewhere is not a loopback address.
            let port = address.port();
            let local = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            let local = local.map(|address| (address, port).into());
            builder = builder.no_proxy().resolve_to_addrs("localhost", &local);
        } else if let Some((proxy, name)) = proxy::from_environment(address.url())? {
            builder = builder.proxy(proxy);
            via = format!(" (through the proxy {name})");
        } else {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| failed(&error))?;
        Ok(Client {
            http,
            address: address.clone(),
            via,
            timeout,
            has_warned: Arc::default(),
        })
    }

    /// Whether this is the first warning about it.
    pub(crate) fn is_first_warning(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }

    /// Sends one request, once, and waits for the whole reply, or the first 1 MiB of it.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response, SendError> {
        let mut response = None;
        let ended = {
            let mut exchange = pin!(self.exchange(request, &mut response));
            match timeout(self.timeout, &mut exchange).await {
                Ok(ended) => ended,
                // This program may have been suspended: what has arrived meanwhile counts.
                Err(_) => match timeout(ONE_MORE_LOOK, &mut exchange).await {
                    Ok(ended) => ended,
                    Err(_) => Err(too_late(self.timeout)),
                },
            }
        };
        if let Some(response) = &mut response {
            encoding::unpack(response, LONGEST_REPLY);
        }
        match ended {
            Ok(()) => Ok(response.unwrap_or_default()),
            Err(error) => Err(SendError {
                message: error.message + &self.via,
                partial: response,
                ..error
            }),
        }
    }

    /// The same without a time-out; what arrives of the reply is in `response`, even if it breaks off.
    async fn exchange(
        &self,
        request: &Request,
        response: &mut Option<Response>,
    ) -> Result<(), SendError> {
        let mut builder = self
            .http
            .post(self.url(request))
            .header(CONTENT_TYPE, request.content_type)
            .header(ACCEPT_ENCODING, "identity")
            .body(request.body.expose_secret().to_owned());
        if let Some(value) = &request.authorization {
            builder = builder.header(AUTHORIZATION, header(value.expose_secret())?);
        }
        let mut reply = builder.send().await.map_err(|error| failure(&error))?;
        fail_point!("after-send");
        let text = |value: &HeaderValue| Some(value.to_str().ok()?.to_owned());
        let headers = reply.headers().iter();
        let response = response.insert(Response {
            status: reply.status().as_u16(),
            headers: headers
                .filter_map(|(name, v)| Some((name.to_string(), text(v)?)))
                .collect(),
            body: Vec::new(),
            ..Response::default()
        });
        while let Some(chunk) = reply.chunk().await.map_err(|error| failure(&error))? {
            let room = LONGEST_REPLY - response.body.len();
            let part = chunk.get(..room).unwrap_or(&chunk);
            response.body.extend_from_slice(part);
            if chunk.len() > room {
                log::info!("the reply is longer than 1 MiB: the rest is not read");
                break;
            }
        }
        Ok(())
    }

    /// Where a request goes, for the log: a query may hold a key.
    pub(crate) fn shown(&self, request: &Request) -> String {
        self.address.without_query(request.path)
    }

    fn url(&self, request: &Request) -> String {
        self.address.join(request.path)
    }

    /// The proxy on the way, for messages: begins with a space, and is empty without one.
    pub(crate) fn via(&self) -> &str {
        &self.via
    }

    /// The service's name, for messages.
    pub(crate) fn host(&self) -> &str {
        self.address.host()
    }
}

/// The error for a reply that did not come. The connection was already made: that has a shorter limit.
fn too_late(limit: Duration) -> SendError {
    SendError {
        message: format!("no reply in time ({} s)", limit.as_secs_f64()),
        maybe_sent: true,
        cause: Cause::Passing,
        partial: None,
    }
}

/// Looks names up on separate threads: a look-up that hangs blocks nothing, and failing to start a thread is an error.
struct Resolver {
    shield: fn(),
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = look_up(name.as_str().to_owned(), self.shield);
        Box::pin(async move {
            let addresses: Addrs = Box::new(found.await?);
            Ok(addresses)
        })
    }
}

/// Looks a name up on a separate thread. The addresses have no port.
pub(crate) async fn look_up(
    name: String,
    shield: fn(),
) -> io::Result<impl Iterator<Item = SocketAddr> + Send> {
    let (sender, receiver) = oneshot::channel();
    let look_up = move || {
        shield();
        let found = (name.as_str(), 0).to_socket_addrs();
        // The caller may have given up.
        let _ = sender.send(found);
    };
    thread::Builder::new().spawn(look_up)?;
    let found = receiver.await;
    found.map_err(|_| io::Error::other("the look-up broke off"))?
}

fn failure(error: &reqwest::Error) -> SendError {
    let what = if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "no reply in time"
    } else {
        "the connection broke before the whole reply had come"
    };
    let certificate = tls::certificate_error(error);
    let words = certificate.map_or_else(|| root_cause(error), tls::complaint);
    SendError {
        maybe_sent: !error.is_connect() && !error.is_builder(),
        cause: match certificate {
            Some(certificate) => tls::cause(certificate),
            None if is_proxy_login(&words) => Cause::ProxyLogin,
            None => Cause::Passing,
        },
        message: if words.is_empty() {
            what.to_owned()
        } else {
            format!("{what}: {words}")
        },
        partial: None,
    }
}

/// Whether a proxy refused its login. The libraries keep their types for that private; a test pins their texts.
fn is_proxy_login(words: &str) -> bool {
    matches!(
        words,
        "tunnel error: proxy authorization required"
            | "SOCKS error: credentials not accepted"
            | "SOCKS error: server does not support user/pass authentication"
            | "SOCKS error: server implements authentication incorrectly"
    )
}

/// The innermost reason: reqwest's own text only repeats that something failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    cause.map(ToString::to_string).unwrap_or_default()
}

fn header(value: &str) -> Result<HeaderValue, SendError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| SendError {
        message: "the app's credentials have a character that cannot be sent".to_owned(),
        maybe_sent: false,
        cause: Cause::Unsendable,
        partial: None,
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// An address on this machine.
pub(crate) struct Loopback {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// The address on this machine that a plain-http URL leads to; none if it leads elsewhere.
pub(crate) fn loopback(uri: &str) -> Option<Loopback> {
    let url = Url::parse(uri).ok()?;
    if url.scheme() != "http" || !is_loopback(&url) {
        return None;
    }
    let host = url.host_str()?.trim_matches(['[', ']']);
    Some(Loopback {
        addresses: match host.parse() {
            Ok(address) => vec![address],
            Err(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        },
        port: url.port_or_known_default()?,
        path: url.path().to_owned(),
    })
}
