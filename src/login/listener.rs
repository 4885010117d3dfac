//! Waits for the browser to come back.
//!
//! Promises:
//! - It listens on loopback addresses only, on the redirect URI's port.
//! - One callback with the right state counts. Everything else (a forged one, a favicon, a port
//!   scan) is answered, a client that says nothing is dropped, and the waiting goes on.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::ConsentQuestion;
use super::failure::{denied, too_late};
use super::pages::{self, Page};
use crate::client;
use crate::error::{Error, Hint, Result};
use crate::protocol::consent::ConsentAnswer;

/// A longer head of a request is no browser's: each cookie of `localhost` is sent to all its ports.
const LONGEST_HEAD: usize = 1 << 20;

/// A longer first line is not one, either.
const LONGEST_LINE: usize = 64 << 10;

/// A client that takes longer to say what it wants, or to take its answer, is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many browsers do not come at once: another connection takes the oldest one's place.
const MOST_CALLERS: usize = 64;

/// How long to wait before a port that gives no connection is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What listens for the browser.
pub(crate) struct Listener {
    visitors: Receiver<WaitingBrowser>,
    path: String,
}

/// A browser that asked for something, with its GET request's target.
struct WaitingBrowser {
    stream: Arc<TcpStream>,
    target: String,
}

/// The browser that brought the code, waiting to be told what came of it.
pub(crate) struct Browser(Arc<TcpStream>);

impl Browser {
    /// Shows the last page.
    pub(crate) fn show(self, page: &Page) {
        // Nothing depends on what the browser shows.
        let _ = reply(&self.0, page);
    }
}

impl Listener {
    /// Listens where a redirect URI leads. `shield` is what each thread does first.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the URI leads elsewhere, or the port is taken.
    pub(crate) fn bind(redirect_uri: &str, shield: fn()) -> Result<Self> {
        let loopback = client::loopback(redirect_uri).filter(|loopback| loopback.port != 0);
        let Some(loopback) = loopback else {
            let message = "the redirect URI is no http address of this machine";
            return Err(Error::config(message).with_hint(Hint::fixed(
                "use --paste, or a redirect URI like http://localhost:8080/callback that is registered with the app",
                "请使用 --paste，或使用已在应用中登记的本机地址，例如 http://localhost:8080/callback",
            )));
        };
        let (sender, visitors) = mpsc::channel();
        let mut bound = false;
        let mut missing = None;
        for address in loopback.addresses {
            let socket = match TcpListener::bind(SocketAddr::new(address, loopback.port)) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    return Err(taken(loopback.port, &error));
                }
                // A machine may have only one kind of address.
                Err(error) => {
                    missing = Some(error);
                    continue;
                }
            };
            bound = true;
            let sender = sender.clone();
            spawn(shield, move || accept(&socket, &sender, shield));
        }
        if let Some(error) = missing.filter(|_| !bound) {
            return Err(taken(loopback.port, &error));
        }
        Ok(Listener {
            visitors,
            path: loopback.path,
        })
    }

    /// Waits for the answer to a question.
    ///
    /// # Errors
    /// [`crate::Kind::Reauthorize`] if the consent is refused, [`crate::Kind::Temporary`] if none
    /// comes in time.
    pub(crate) fn wait(
        self,
        question: &ConsentQuestion,
        wait: Duration,
    ) -> Result<(SecretString, Browser)> {
        let deadline = Instant::now() + wait;
        let mut told = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let visitor = match self.visitors.recv_timeout(left) {
                Ok(visitor) => visitor,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(too_late(wait));
                }
            };
            let (path, query) = visitor
                .target
                .split_once('?')
                .unwrap_or((&visitor.target, ""));
            let answer = if path == self.path {
                question.answer(query)
            } else {
                ConsentAnswer::Other
            };
            match answer {
                ConsentAnswer::Code(code) => return Ok((code, Browser(visitor.stream))),
                ConsentAnswer::Denied(denial) => {
                    let page = pages::without_consent(&denial);
                    let _ = reply_with(&visitor.stream, page, &denial.words);
                    return Err(denied(&denial));
                }
                ConsentAnswer::WrongState => {
                    // Once: there may come thousands.
                    if !told {
                        told = true;
                        log::warn!(
                            "an answer with the wrong state came to the redirect URI: it does not count"
                        );
                    }
                    let _ = reply(&visitor.stream, &pages::WRONG_STATE);
                }
                ConsentAnswer::Other => {
                    let _ = reply(&visitor.stream, &pages::NOT_FOUND);
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for late in self.visitors.try_iter() {
            let _ = reply(&late.stream, &pages::LATE);
        }
    }
}

/// Hears every caller, each on a thread of its own.
fn accept(socket: &TcpListener, visitors: &Sender<WaitingBrowser>, shield: fn()) {
    let mut open: VecDeque<Weak<TcpStream>> = VecDeque::new();
    for stream in socket.incoming() {
        let Ok(stream) = stream else {
            thread::sleep(PAUSE);
            continue;
        };
        let stream = Arc::new(stream);
        open.retain(|other| other.strong_count() > 0);
        open.push_back(Arc::downgrade(&stream));
        if open.len() > MOST_CALLERS
            && let Some(oldest) = open.pop_front().and_then(|oldest| oldest.upgrade())
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let visitors = visitors.clone();
        spawn(shield, move || {
            // Nobody is left to hear of a connection that broke.
            let _ = listen(&stream, &visitors);
        });
    }
}

fn spawn(shield: fn(), work: impl FnOnce() + Send + 'static) {
    // Without a thread for it, a connection is dropped.
    let _ = thread::Builder::new().spawn(move || {
        shield();
        work();
    });
}

/// Reads what a client wants, and passes on a GET request: only that can be the browser's answer.
fn listen(stream: &Arc<TcpStream>, visitors: &Sender<WaitingBrowser>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    match read_target(stream, Instant::now() + PATIENCE)? {
        Ok(target) => {
            let stream = Arc::clone(stream);
            match visitors.send(WaitingBrowser { stream, target }) {
                Ok(()) => Ok(()),
                Err(late) => reply(&late.0.stream, &pages::LATE),
            }
        }
        Err(page) => {
            reply(stream, page)?;
            // A connection that is closed with bytes unread can lose the answer.
            stream.shutdown(Shutdown::Write)?;
            let mut rest = stream.as_ref().take(LONGEST_HEAD as u64);
            io::copy(&mut rest, &mut io::sink()).map(drop)
        }
    }
}

/// The target of a GET request, or the answer to something else.
fn read_target(
    mut stream: &TcpStream,
    deadline: Instant,
) -> io::Result<Result<String, &'static Page>> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    while head.len() < LONGEST_HEAD {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // The end may have come in two parts.
        let seen = head.len().saturating_sub(3);
        head.extend_from_slice(&chunk[..count]);
        let start = &head[..head.len().min(LONGEST_LINE)];
        let line = match start.iter().position(|byte| *byte == b'\n') {
            Some(line) => line,
            None if head.len() < LONGEST_LINE => continue,
            None => break,
        };
        // Only the first line counts; the rest is read, so that nothing stays unread.
        match target_of(&head[..=line]) {
            Ok(target) if ends(&head[seen..]) => return Ok(Ok(target)),
            Ok(_) => {}
            Err(page) => return Ok(Err(page)),
        }
    }
    Ok(Err(&pages::NO_REQUEST))
}

/// Whether the end of a request's head is in these bytes.
fn ends(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|end| end == b"\r\n\r\n") || bytes.windows(2).any(|end| end == b"\n\n")
}

/// The target in the first line of a GET request, or the answer to another.
fn target_of(line: &[u8]) -> Result<String, &'static Page> {
    let head = [line, b"\r\n"].concat();
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse(&head);
    match (parsed, request.method, request.path) {
        (_, Some(method), _) if method != "GET" => Err(&pages::WRONG_METHOD),
        (Ok(_), _, Some(target)) => Ok(target.to_owned()),
        _ => Err(&pages::NO_REQUEST),
    }
}

fn reply(stream: &TcpStream, page: &Page) -> io::Result<()> {
    reply_with(stream, page, "")
}

/// Shows a page, with these words of the server's.
fn reply_with(mut stream: &TcpStream, page: &Page, words: &str) -> io::Result<()> {
    stream.write_all(pages::response(page, words).as_bytes())?;
    stream.flush()
}

fn taken(port: u16, error: &io::Error) -> Error {
    let message = format!("cannot listen on port {port} of this machine: {error}");
    Error::config(message).with_hint(Hint::fixed(
        "end what uses the port, use another redirect URI that is registered with the app, or use --paste",
        "请结束占用该端口的程序，改用另一个已登记的 redirect_uri，或使用 --paste",
    ))
}
