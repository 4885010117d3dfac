//! A stand-in for Feishu's token endpoint on loopback.
//!
//! It keeps the rules that make refreshing hard: a refresh token works once, a spent one is
//! refused with the documented code, an app token dies after two hours. It counts what it is
//! asked, and goes wrong on request ([`Fault`]), one fault a request, in the order given.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Life of an app token and of a user token, in seconds, as the documents give them.
const APP_TOKEN_LIFE: u64 = 7200;
const ACCESS_TOKEN_LIFE: u64 = 7140;
const REFRESH_TOKEN_LIFE: u64 = 2_591_940;

const REFRESH_PATH: &str = "/open-apis/authen/v1/refresh_access_token";
const FAULT_PATH: &str = "/sandbox/fault/";
const LOGIN_PATH: &str = "/sandbox/login";

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
    /// Do what is asked, but send other bytes for the reply's.
    Garble(fn(String) -> Vec<u8>),
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
    /// Do what is asked, but change the reply.
    Alter(Box<dyn Fn(&mut Value) + Send>),
}

/// A name, and how to make the fault.
type NamedFault = (&'static str, fn() -> Fault);

impl Fault {
    /// A reply of this status and body.
    pub fn reply(status: u16, body: impl Into<String>) -> Self {
        Fault::Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A refusal with this code, as the documents draw them.
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
}

/// A running stand-in. It ends with the process.
pub struct Sandbox {
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
    serial: u64,
    /// Added to the clock: tokens die sooner when it is moved.
    ahead: Duration,
    app_tokens: HashMap<String, Instant>,
    live: HashSet<String>,
    spent: HashSet<String>,
    access_tokens: HashSet<String>,
    rotations: usize,
    spent_seen: usize,
    held: usize,
    /// Connections that are served.
    open: usize,
    faults: VecDeque<Fault>,
    requests: Vec<Recorded>,
}

impl Sandbox {
    /// Starts a stand-in on a port of its own.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let for_connections = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&for_connections);
                shared.state().open += 1;
                // A connection that breaks is the client's business.
                thread::spawn(move || {
                    let _ = serve(&stream, &shared);
                    shared.state().open -= 1;
                    shared.changed.notify_all();
                });
            }
        });
        Ok(Sandbox { address, shared })
    }

    /// The address to give as `--base-url`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new app token, as if an app had just asked for one.
    pub fn app_token(&self) -> String {
        self.shared.state().new_app_token()
    }

    /// A new refresh token, as if a user had just consented.
    pub fn refresh_token(&self) -> String {
        self.shared.state().new_refresh_token()
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

    /// Asks for a fault; the next request without one gets it.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Waits until a request is held, and lets it go on.
    pub fn release(&self) {
        let mut state = self.shared.state();
        while state.held == 0 {
            state = self.shared.wait(state);
        }
        state.held = 0;
        self.shared.changed.notify_all();
    }

    /// Waits until all that was sent by clients that are gone has been dealt with.
    pub fn settle(&self) -> io::Result<()> {
        // Connections are taken in the order they came: once this one has been answered, there is
        // none left that nobody has seen.
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

    /// Moves the clock by which app tokens die.
    pub fn advance(&self, by: Duration) {
        self.shared.state().ahead += by;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// How many refresh tokens were exchanged for new ones.
    pub fn rotations(&self) -> usize {
        self.shared.state().rotations
    }

    /// How often a spent refresh token was sent.
    pub fn spent_seen(&self) -> usize {
        self.shared.state().spent_seen
    }

    /// Whether this refresh token would work now.
    pub fn is_live(&self, refresh_token: &str) -> bool {
        self.shared.state().live.contains(refresh_token)
    }

    /// Whether this access token was ever given out.
    pub fn gave(&self, access_token: &str) -> bool {
        self.shared.state().access_tokens.contains(access_token)
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

impl State {
    /// A token with the look and length of Feishu's, different each time.
    fn new_token(&mut self, kind: &str) -> String {
        self.serial += 1;
        format!(
            "{kind}-sandbox{:04}.Jo5CjmZ8-F7vJ8mYNq_2WzQh.xUqPd3LtR9sKfBvEaGc",
            self.serial
        )
    }

    fn new_app_token(&mut self) -> String {
        let token = self.new_token("a");
        let end = Instant::now() + self.ahead + Duration::from_secs(APP_TOKEN_LIFE);
        self.app_tokens.insert(token.clone(), end);
        token
    }

    fn new_refresh_token(&mut self) -> String {
        let token = self.new_token("ur");
        self.live.insert(token.clone());
        token
    }

    /// The reply to a refresh, and what it does to the tokens.
    fn refresh(&mut self, request: &Recorded) -> Value {
        let refusal = |code: i64, msg: &str| json!({ "code": code, "msg": msg });
        let bearer = request
            .headers
            .get("authorization")
            .and_then(|a| a.strip_prefix("Bearer "));
        let now = Instant::now() + self.ahead;
        match bearer.map(|token| self.app_tokens.get(token)) {
            None => return refusal(99_991_661, "Missing access token for authorization"),
            Some(None) => return refusal(20014, "The app access token passed is invalid"),
            Some(Some(end)) if *end < now => {
                return refusal(20014, "The app access token passed is invalid");
            }
            Some(Some(_)) => {}
        }
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let (Some("refresh_token"), Some(token)) =
            (body["grant_type"].as_str(), body["refresh_token"].as_str())
        else {
            return refusal(20001, "Invalid request. Please check request param");
        };
        if self.spent.contains(token) {
            self.spent_seen += 1;
        }
        if !self.live.remove(token) {
            return refusal(20026, "refresh token is invalid or has been used");
        }
        self.spent.insert(token.to_owned());
        self.rotations += 1;
        let (access, refresh) = (self.new_token("u"), self.new_refresh_token());
        self.access_tokens.insert(access.clone());
        json!({
            "code": 0,
            "msg": "success",
            "data": {
                "access_token": access,
                "token_type": "Bearer",
                "expires_in": ACCESS_TOKEN_LIFE,
                "name": "zhangsan",
                "open_id": "ou_sandbox",
                "refresh_expires_in": REFRESH_TOKEN_LIFE,
                "refresh_token": refresh,
            }
        })
    }
}

/// Serves one connection until either side ends it.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    while let Some(request) = read_request(stream)? {
        if let Some(name) = request.path.strip_prefix(FAULT_PATH) {
            let known = Fault::NAMED.iter().find(|(known, _)| *known == name);
            let status = if known.is_some() { 200 } else { 404 };
            shared
                .state()
                .faults
                .extend(known.map(|(_, fault)| fault()));
            let said = if known.is_some() { "armed" } else { "unknown" };
            write_reply(stream, status, &[], format!("{said}: {name}\n"))?;
            continue;
        }
        if request.path == LOGIN_PATH {
            let token = shared.state().new_refresh_token();
            write_reply(stream, 200, &[], format!("{token}\n"))?;
            continue;
        }
        let fault = {
            let mut state = shared.state();
            state.requests.push(request.clone());
            state.faults.pop_front()
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
            Some(Fault::Delay(time)) => thread::sleep(*time),
            Some(Fault::Hold) => shared.hold(),
            _ => {}
        }
        if request.path != REFRESH_PATH || request.method != "POST" {
            write_reply(stream, 404, &[], "404 page not found")?;
            continue;
        }
        let (mut reply, serial) = {
            let mut state = shared.state();
            (state.refresh(&request), state.serial)
        };
        let headers = [("X-Tt-Logid", format!("sandbox-log-{serial}"))];
        match fault {
            Some(Fault::CloseAfterSpending) => return Ok(()),
            Some(Fault::Truncate) => return write_part(stream, &reply.to_string(), |all| all / 2),
            Some(Fault::TruncateLate) => {
                return write_part(stream, &reply.to_string(), |all| all - 2);
            }
            Some(Fault::Garble(garble)) => {
                write_reply(stream, 200, &headers, garble(reply.to_string()))?;
                continue;
            }
            Some(Fault::Endless) => return write_endlessly(stream),
            Some(Fault::Alter(alter)) => alter(&mut reply),
            _ => {}
        }
        write_reply(stream, 200, &headers, reply.to_string())?;
    }
    Ok(())
}

/// The next request of a connection; none once the client has hung up.
fn read_request(mut stream: &TcpStream) -> io::Result<Option<Recorded>> {
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
    mut stream: &TcpStream,
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

/// Promises the whole body, sends a part of it and hangs up.
fn write_part(mut stream: &TcpStream, body: &str, part: fn(usize) -> usize) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 Sandbox\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{}", &body[..part(body.len())]).as_bytes())
}

/// Sends until the client has had enough; at most a gigabyte.
fn write_endlessly(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Sandbox\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..16384 {
        stream.write_all(chunk.as_bytes())?;
    }
    Ok(())
}
