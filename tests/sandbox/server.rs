//! A stand-in for Feishu, Lark and 115 on loopback: the transport, and what goes wrong with it.
//!
//! [`vendor`] decides the result of a request. This counts requests, and fails on demand ([`Fault`]), one fault per
//! request, in the given order.

mod authority;
#[cfg(unix)]
mod postgres;
mod proxy;
mod vendor;

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub use authority::{Authority, Term, configuration};
#[cfg(unix)]
pub use postgres::{PgBouncer, Postgres};
pub use proxy::Proxy;
use vendor::Vendor;
pub use vendor::{APP_ID, APP_SECRET, APP_TICKET, OTHER_APP_ID, SCOPE, STANDARD_PATH, V3_PATH};

const FAULT_PATH: &str = "/sandbox/fault/";
const CONSENT_PATH: &str = "/open-apis/authen/v1/authorize?";
const LOGIN_PATH: &str = "/sandbox/login";
const COUNTS_PATH: &str = "/sandbox/counts";
const FORGET_PATH: &str = "/sandbox/forget";
const LIVE_PATH: &str = "/sandbox/live/";
const SETTLED_PATH: &str = "/sandbox/settled";

/// What goes wrong with one request.
pub enum Fault {
    /// Hang up as soon as the request is read; nothing is spent.
    CloseBeforeSpending,
    /// Spend the token, then hang up without a reply.
    CloseAfterSpending,
    /// Spend the token, then send half of the reply.
    Truncate,
    /// Spend the token, then send all of the reply but its last two bytes.
    TruncateLate,
    /// Do what is asked, but send other bytes instead of the reply's.
    Garble(fn(String) -> Vec<u8>),
    /// Do what is asked, but compress the reply like this, as the named coding.
    Compress(&'static str, fn(&[u8]) -> Vec<u8>),
    /// Do what is asked, and send these bytes among the headers of the reply.
    Head(String),
    /// Spend the token, then send a body without end.
    Endless,
    /// Take this long before doing what is asked.
    Delay(Duration),
    /// Do nothing until [`Sandbox::release`], then what is asked.
    Hold,
    /// Begin the reply, and then do nothing until [`Sandbox::release`].
    HoldAfterHead,
    /// Do nothing until [`Sandbox::release`], then hang up; nothing is spent.
    HoldThenClose,
    /// Spend nothing and reply with this instead.
    Reply {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Spend nothing, send these bytes and hang up.
    Raw(Vec<u8>),
    /// Spend nothing, and send a reply byte by byte for as long as the client accepts it.
    Drip,
    /// Do this first, as another program would, and then fail in that way.
    Meanwhile(Box<dyn FnOnce() + Send>, Box<Fault>),
    /// Do what is asked by a clock that is this far off.
    Date(SignedDuration),
    /// Do what is asked, but change the reply.
    Alter(Box<dyn Fn(&mut Value) + Send>),
}

/// A header's name and value.
type Header = (&'static str, String);

/// A name, and how to make the fault.
type NamedFault = (&'static str, fn() -> Fault);

impl Fault {
    /// The reply as other bytes, and the header that names their coding.
    fn changed(&self, reply: &Value) -> Option<(Option<Header>, Vec<u8>)> {
        let text = reply.to_string();
        match self {
            Fault::Garble(garble) => Some((None, garble(text))),
            Fault::Compress(coding, compress) => {
                let coding = ("Content-Encoding", (*coding).to_owned());
                Some((Some(coding), compress(text.as_bytes())))
            }
            _ => None,
        }
    }

    /// A reply of this status and body.
    pub fn reply(status: u16, body: impl Into<String>) -> Self {
        Fault::Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A refusal with this code, in the documented form.
    pub fn code(code: i64) -> Self {
        Fault::reply(
            200,
            json!({ "code": code, "msg": "as asked for" }).to_string(),
        )
    }

    /// A proxy's page.
    pub fn html(status: u16) -> Self {
        Fault::reply(status, "<html><body><h1>Bad gateway</h1></body></html>")
    }

    /// The faults that can be asked for over HTTP, by name.
    pub const NAMED: [NamedFault; 13] = [
        ("close-before-spending", || Fault::CloseBeforeSpending),
        ("close-after-spending", || Fault::CloseAfterSpending),
        ("truncate", || Fault::Truncate),
        ("endless", || Fault::Endless),
        ("delay", || Fault::Delay(Duration::from_secs(3))),
        ("html", || Fault::html(502)),
        ("html-200", || Fault::html(200)),
        ("no-refresh-token", || {
            Fault::Alter(Box::new(|reply| {
                reply["data"]["refresh_token"] = Value::Null;
            }))
        }),
        ("hostile", || {
            Fault::Alter(Box::new(|reply| {
                reply["data"]["access_token"] = json!("u\n\u{1b}[2J");
            }))
        }),
        ("500", || {
            Fault::reply(500, r#"{"code":20050,"msg":"System error"}"#)
        }),
        ("503", || Fault::reply(503, "")),
        ("429", || Fault::Reply {
            status: 429,
            headers: vec![("x-ogw-ratelimit-reset", "2".to_owned())],
            body: r#"{"code":99991400,"msg":"request trigger frequency limit"}"#.to_owned(),
        }),
        ("redirect", || Fault::Reply {
            status: 302,
            headers: vec![("location", "http://127.0.0.1:9/elsewhere".to_owned())],
            body: String::new(),
        }),
    ];
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
    /// When all of it had come.
    pub at: Instant,
}

impl Recorded {
    /// Whether the body is a form, not JSON.
    fn is_form(&self) -> bool {
        self.headers.get("content-type").map(String::as_str)
            == Some("application/x-www-form-urlencoded")
    }
}

/// A running stand-in. It ends with the process.
pub struct Sandbox {
    scheme: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    vendor: Vendor,
    held: usize,
    /// Connections so far.
    connections: usize,
    /// Connections that are served.
    open: usize,
    faults: VecDeque<Fault>,
    requests: Vec<Recorded>,
}

impl Sandbox {
    /// Starts a stand-in on a port of its own.
    pub fn start() -> io::Result<Self> {
        Sandbox::start_with(None)
    }

    /// The same, over TLS if there are settings for it.
    pub fn start_with(tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let for_connections = Arc::clone(&shared);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let tls = tls.clone();
                // A reply goes in one piece, and at once.
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&for_connections);
                {
                    let mut state = shared.state();
                    state.open += 1;
                    state.connections += 1;
                }
                // A broken connection is up to the client.
                thread::spawn(move || {
                    let _ = match tls {
                        None => serve(&mut stream, &shared),
                        Some(tls) => serve_tls(tls, stream, &shared),
                    };
                    shared.state().open -= 1;
                    shared.changed.notify_all();
                });
            }
        });
        Ok(Sandbox {
            scheme,
            address,
            shared,
        })
    }

    /// The address to give as `--base-url`.
    pub fn base_url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new app token, as if an app had just asked for one.
    pub fn app_token(&self) -> String {
        self.shared.state().vendor.new_app_token()
    }

    /// A new refresh token for v1 and oidc, as if a user had just consented.
    pub fn refresh_token(&self) -> String {
        self.refresh_token_for("v1")
    }

    /// The same for any api.
    pub fn refresh_token_for(&self, api: &str) -> String {
        self.shared.state().vendor.new_refresh_token(api)
    }

    /// A configuration file for this stand-in, with fresh tokens in it.
    pub fn config_file(&self) -> String {
        format!(
            "; A demo of feishu-refresh. The tokens are play money.\n\
             [TOKEN]\n\
             base_url = {}\n\
             app_access_token = {}\n\
             refresh_token = {}\n",
            self.base_url(),
            self.app_token(),
            self.refresh_token()
        )
    }

    /// A section for this api, with a fresh refresh token and all that goes with it.
    pub fn profile(&self, name: &str, api: &str) -> String {
        let app = match api {
            "115" => String::new(),
            _ => format!("app_id = {APP_ID}\napp_secret = {APP_SECRET}\n"),
        };
        format!(
            "[{name}]\napi = {api}\nbase_url = {}\n{app}refresh_token = {}\n",
            self.base_url(),
            self.refresh_token_for(api)
        )
    }

    /// Opens a consent page; returns the addresses that consenting and refusing lead to.
    pub fn consent(&self, page: &str) -> (String, String) {
        let query = page.split_once('?').map_or("", |(_, query)| query);
        let page = self.shared.state().vendor.consent_page(query);
        let link = |id: &str| {
            let link = page.split(&format!("id={id} href=\"")).nth(1);
            let link = link.and_then(|link| link.split('"').next());
            link.unwrap_or_default().replace("&amp;", "&")
        };
        (link("agree"), link("refuse"))
    }

    /// Asks for a fault; the next request without one gets it.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Waits until a request is held.
    pub fn wait_until_held(&self) {
        let mut state = self.shared.state();
        while state.held == 0 {
            state = self.shared.wait(state);
        }
    }

    /// Waits until a request is held, and lets it go on.
    pub fn release(&self) {
        self.wait_until_held();
        let mut state = self.shared.state();
        state.held = 0;
        self.shared.changed.notify_all();
    }

    /// Waits until everything sent by clients that are gone has been handled.
    pub fn settle(&self) -> io::Result<()> {
        // Connections are accepted in order: once this one has been answered, no earlier one is unseen.
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET /sandbox/fault/none HTTP/1.1\r\n\r\n")?;
        stream.read_exact(&mut [0])?;
        drop(stream);
        let mut state = self.shared.state();
        while state.open > 0 {
            state = self.shared.wait(state);
        }
        Ok(())
    }

    /// Moves the clock by which tokens expire.
    pub fn advance(&self, by: Duration) {
        self.shared.state().vendor.advance(by);
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// How many refresh tokens were exchanged for new ones.
    pub fn rotations(&self) -> usize {
        self.shared.state().vendor.rotations
    }

    /// How often a spent refresh token was sent.
    pub fn spent_seen(&self) -> usize {
        self.shared.state().vendor.spent_seen
    }

    /// Whether this refresh token would work now.
    pub fn is_live(&self, refresh_token: &str) -> bool {
        self.shared.state().vendor.is_live(refresh_token)
    }

    /// Whether this access token was ever given out.
    pub fn gave(&self, access_token: &str) -> bool {
        self.shared.state().vendor.gave(access_token)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) {
        let mut state = self.state();
        state.held += 1;
        self.changed.notify_all();
        while state.held > 0 {
            state = self.wait(state);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one connection until either side ends it.
fn serve_tls(tls: Arc<ServerConfig>, stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let session = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let served = serve(&mut stream, shared);
    stream.conn.send_close_notify();
    let _ = stream.flush();
    served
}

/// A connection's stream.
trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// Requests to the stand-in itself, by a test or a person.
fn controlled(path: &str, shared: &Shared) -> Option<(u16, String)> {
    if let Some(name) = path.strip_prefix(FAULT_PATH) {
        let known = Fault::NAMED.iter().find(|(known, _)| *known == name);
        let Some((_, fault)) = known else {
            return Some((404, format!("unknown: {name}\n")));
        };
        shared.state().faults.push_back(fault());
        return Some((200, format!("armed: {name}\n")));
    }
    if let Some(api) = path.strip_prefix(LOGIN_PATH) {
        let api = api.trim_start_matches('/');
        let token = shared.state().vendor.new_refresh_token(api);
        return Some((200, format!("{token}\n")));
    }
    if path == COUNTS_PATH {
        return Some((200, counts(&shared.state()).to_string()));
    }
    if path == FORGET_PATH {
        shared.state().requests.clear();
        return Some((200, "forgotten".to_owned()));
    }
    if let Some(token) = path.strip_prefix(LIVE_PATH) {
        let is_live = shared.state().vendor.is_live(token);
        return Some((200, if is_live { "yes" } else { "no" }.to_owned()));
    }
    if path == SETTLED_PATH {
        // This connection is being served.
        let mut state = shared.state();
        while state.open > 1 {
            state = shared.wait(state);
        }
        return Some((200, "settled".to_owned()));
    }
    None
}

fn serve(stream: &mut dyn Wire, shared: &Shared) -> io::Result<()> {
    while let Some(request) = read_request(stream)? {
        if let Some((status, said)) = controlled(&request.path, shared) {
            write_reply(stream, status, &[], said)?;
            continue;
        }
        if let Some(query) = request.path.strip_prefix(CONSENT_PATH) {
            let page = shared.state().vendor.consent_page(query);
            write_page(stream, &page)?;
            continue;
        }
        let fault = {
            let mut state = shared.state();
            state.requests.push(request.clone());
            state.faults.pop_front()
        };
        let fault = match fault {
            Some(Fault::Meanwhile(act, fault)) => {
                act();
                Some(*fault)
            }
            fault => fault,
        };
        match &fault {
            Some(Fault::CloseBeforeSpending) => return Ok(()),
            Some(Fault::HoldThenClose) => {
                shared.hold();
                return Ok(());
            }
            Some(Fault::HoldAfterHead) => {
                write_part(stream, &" ".repeat(1000), |_| 1)?;
                shared.hold();
                return Ok(());
            }
            Some(Fault::Reply {
                status,
                headers,
                body,
            }) => {
                write_reply(stream, *status, headers, body)?;
                continue;
            }
            Some(Fault::Raw(bytes)) => return stream.write_all(bytes),
            Some(Fault::Drip) => return write_drops(stream),
            Some(Fault::Delay(time)) => thread::sleep(*time),
            Some(Fault::Hold) => shared.hold(),
            _ => {}
        }
        let (answer, serial) = {
            let vendor = &mut shared.state().vendor;
            (vendor.answer(&request), vendor.serial())
        };
        let Some((status, mut reply)) = answer else {
            write_reply(stream, 404, &[], "404 page not found")?;
            continue;
        };
        let off = match &fault {
            Some(Fault::Date(off)) => *off,
            _ => SignedDuration::ZERO,
        };
        let date = (Timestamp::now() + off).strftime("%a, %d %b %Y %H:%M:%S GMT");
        let headers = [
            ("X-Tt-Logid", format!("sandbox-log-{serial}")),
            ("Date", date.to_string()),
        ];
        if let Some((coding, body)) = fault.as_ref().and_then(|fault| fault.changed(&reply)) {
            let headers: Vec<_> = headers.into_iter().chain(coding).collect();
            write_reply(stream, status, &headers, body)?;
            continue;
        }
        let whole = reply.to_string();
        match fault {
            Some(Fault::CloseAfterSpending) => return Ok(()),
            Some(Fault::Truncate) => return write_part(stream, &whole, |all| all / 2),
            Some(Fault::TruncateLate) => return write_part(stream, &whole, |all| all - 2),
            Some(Fault::Endless) => return write_endlessly(stream),
            Some(Fault::Alter(alter)) => alter(&mut reply),
            Some(Fault::Head(lines)) => return write_with(stream, &lines, &whole),
            _ => {}
        }
        write_reply(stream, status, &headers, reply.to_string())?;
    }
    Ok(())
}

/// The requests so far, and the most of them within a second and a minute.
fn counts(state: &State) -> Value {
    let all: Vec<_> = state.requests.iter().collect();
    let mut counts = counts_of(&all);
    counts["rotations"] = json!(state.vendor.rotations);
    counts["spent_tokens_sent"] = json!(state.vendor.spent_seen);
    counts["connections"] = json!(state.connections);
    for app_id in [APP_ID, OTHER_APP_ID] {
        let of_app = |request: &&Recorded| request.body.contains(app_id);
        let requests: Vec<_> = state.requests.iter().filter(of_app).collect();
        counts["apps"][app_id] = counts_of(&requests);
    }
    counts
}

/// How many requests these are, and how close together.
fn counts_of(requests: &[&Recorded]) -> Value {
    let times: Vec<_> = requests.iter().map(|request| request.at).collect();
    let most_within = |seconds| {
        let mut first = 0;
        let within = times.iter().enumerate().map(|(last, time)| {
            while *time - times[first] >= Duration::from_secs(seconds) {
                first += 1;
            }
            last - first + 1
        });
        within.max().unwrap_or_default()
    };
    let took = match (times.first(), times.last()) {
        (Some(first), Some(last)) => *last - *first,
        _ => Duration::ZERO,
    };
    json!({
        "requests": times.len(),
        "within_a_second": most_within(1),
        "within_a_minute": most_within(60),
        "seconds": took.as_secs_f64(),
    })
}

/// The next request of a connection; none once the client has hung up.
fn read_request(stream: &mut dyn Wire) -> io::Result<Option<Recorded>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head
            .parse(&bytes)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        if let httparse::Status::Complete(length) = parsed {
            let headers: HashMap<String, String> = head
                .headers
                .iter()
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    (header.name.to_ascii_lowercase(), value)
                })
                .collect();
            let expected = headers
                .get("content-length")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            if bytes.len() >= length + expected {
                return Ok(Some(Recorded {
                    method: head.method.unwrap_or_default().to_owned(),
                    path: head.path.unwrap_or_default().to_owned(),
                    headers,
                    body: String::from_utf8_lossy(&bytes[length..length + expected]).into_owned(),
                    at: Instant::now(),
                }));
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn write_reply(
    stream: &mut dyn Wire,
    status: u16,
    headers: &[(&str, String)],
    body: impl AsRef<[u8]>,
) -> io::Result<()> {
    let body = body.as_ref();
    let mut head = format!(
        "HTTP/1.1 {status} Sandbox\r\nContent-Length: {}\r\n",
        body.len()
    );
    head.push_str("Content-Type: application/json; charset=utf-8\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())
}

fn write_page(stream: &mut dyn Wire, page: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 Sandbox\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        page.len()
    );
    stream.write_all(format!("{head}{page}").as_bytes())
}

/// Sends a reply with these lines in its head.
fn write_with(stream: &mut dyn Wire, lines: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 Sandbox\r\n{lines}Content-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes())
}

/// Promises the whole body, sends a part of it and hangs up.
fn write_part(stream: &mut dyn Wire, body: &str, part: fn(usize) -> usize) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 Sandbox\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{}", &body[..part(body.len())]).as_bytes())
}

/// Sends a byte ten times a second until the client hangs up; at most for ten minutes.
fn write_drops(stream: &mut dyn Wire) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Sandbox\r\nContent-Length: 6000\r\n\r\n{")?;
    for _ in 0..6000 {
        thread::sleep(Duration::from_millis(100));
        stream.write_all(b" ")?;
    }
    Ok(())
}

/// Sends until the client hangs up; at most a gigabyte.
fn write_endlessly(stream: &mut dyn Wire) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Sandbox\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..16384 {
        stream.write_all(chunk.as_bytes())?;
    }
    Ok(())
}
