//! Waits for the browser to come back.
//!
//! Promises:
//! - It listens on loopback addresses alone, on the redirect URI's port.
//! - One callback with the right state counts. Everything else (a forged one, a favicon, a port
//!   scan) is answered, a client that says nothing is dropped, and the waiting goes on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::pages::{self, Page};
use super::{Question, denied, too_late};
use crate::client;
use crate::error::{Error, Hint, Result};
use crate::protocol::consent::Answer;

/// A longer head of a request is no browser's.
const LONGEST_HEAD: usize = 16 << 10;

/// A client that takes longer to say what it wants, or to take its answer, is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many browsers do not come at once; more connections are dropped.
const MOST_CALLERS: usize = 64;

/// How long to leave a port alone that gives no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What listens for the browser.
pub(crate) struct Listener {
    callers: Receiver<Caller>,
    path: String,
}

/// A browser that asked for something, with its GET request's target.
struct Caller {
    stream: TcpStream,
    target: String,
}

/// The browser that brought the code, waiting to be told what came of it.
pub(crate) struct Browser(TcpStream);

impl Browser {
    /// Shows the last page.
    pub(crate) fn show(self, page: &Page) {
        // Nothing depends on what the browser shows.
        let _ = reply(self.0, page);
    }
}

impl Listener {
    /// Listens where a redirect URI leads. `shield` is what each thread does first.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the URI leads elsewhere, or the port is taken.
    pub(crate) fn bind(redirect_uri: &str, shield: fn()) -> Result<Self> {
        let Some(loopback) = client::loopback(redirect_uri) else {
            let message = "the redirect URI is no http address of this machine";
            return Err(Error::config(message).with_hint(Hint::fixed(
                "use --paste, or a redirect URI like http://localhost:8080/callback that is registered with the app",
                "请使用 --paste，或使用已在应用中登记的本机地址，例如 http://localhost:8080/callback",
            )));
        };
        let (sender, callers) = mpsc::channel();
        // One for each thread that listens to a caller.
        let places = Arc::new(());
        let mut bound = false;
        let mut missing = None;
        for address in loopback.addresses {
            let socket = match TcpListener::bind(SocketAddr::new(address, loopback.port)) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    return Err(taken(loopback.port, &error));
                }
                // A machine may have one kind of address alone.
                Err(error) => {
                    missing = Some(error);
                    continue;
                }
            };
            bound = true;
            let sender = sender.clone();
            let places = Arc::clone(&places);
            spawn(shield, move || {
                for stream in socket.incoming() {
                    let Ok(stream) = stream else {
                        thread::sleep(PAUSE);
                        continue;
                    };
                    let place = Arc::clone(&places);
                    if Arc::strong_count(&place) > MOST_CALLERS {
                        continue;
                    }
                    let sender = sender.clone();
                    spawn(shield, move || {
                        // Nobody is left to hear of a connection that broke.
                        let _ = listen(stream, &sender);
                        drop(place);
                    });
                }
            });
        }
        if let Some(error) = missing.filter(|_| !bound) {
            return Err(taken(loopback.port, &error));
        }
        Ok(Listener {
            callers,
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
        question: &Question,
        wait: Duration,
    ) -> Result<(SecretString, Browser)> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let caller = match self.callers.recv_timeout(left) {
                Ok(caller) => caller,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(too_late(wait));
                }
            };
            let (path, query) = caller
                .target
                .split_once('?')
                .unwrap_or((&caller.target, ""));
            let answer = if path == self.path {
                question.answer(query)
            } else {
                Answer::Other
            };
            match answer {
                Answer::Code(code) => return Ok((code, Browser(caller.stream))),
                Answer::Denied(word) => {
                    let _ = reply(caller.stream, &pages::REFUSED);
                    return Err(denied(&word));
                }
                Answer::WrongState => {
                    log::warn!(
                        "an answer with the wrong state came to the redirect URI: it does not count"
                    );
                    let _ = reply(caller.stream, &pages::WRONG_STATE);
                }
                Answer::Other => {
                    let _ = reply(caller.stream, &pages::NOT_FOUND);
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for late in self.callers.try_iter() {
            let _ = reply(late.stream, &pages::LATE);
        }
    }
}

fn spawn(shield: fn(), work: impl FnOnce() + Send + 'static) {
    // Without a thread for it, a connection is dropped.
    let _ = thread::Builder::new().spawn(move || {
        shield();
        work();
    });
}

/// Hears what a client wants, and passes on a GET request, which alone can be the browser's answer.
fn listen(mut stream: TcpStream, callers: &Sender<Caller>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    match read_target(&stream, Instant::now() + PATIENCE)? {
        Ok(target) => match callers.send(Caller { stream, target }) {
            Ok(()) => Ok(()),
            Err(late) => reply(late.0.stream, &pages::LATE),
        },
        Err(page) => {
            reply(stream.try_clone()?, page)?;
            // A connection closed with bytes unread would take the answer away again.
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut (&mut stream).take(1 << 20), &mut io::sink()).map(drop)
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
        head.extend_from_slice(&chunk[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&head);
        // The first line is enough to know that it is no GET.
        if request.method.is_some_and(|method| method != "GET") {
            return Ok(Err(&pages::WRONG_METHOD));
        }
        match (parsed, request.path) {
            (Ok(httparse::Status::Partial), _) => {}
            (Ok(_), Some(target)) => return Ok(Ok(target.to_owned())),
            _ => break,
        }
    }
    Ok(Err(&pages::NO_REQUEST))
}

fn reply(mut stream: TcpStream, page: &Page) -> io::Result<()> {
    stream.write_all(pages::response(page).as_bytes())?;
    stream.flush()
}

fn taken(port: u16, error: &io::Error) -> Error {
    let message = format!("cannot listen on port {port} of this machine: {error}");
    Error::config(message).with_hint(Hint::fixed(
        "end what uses the port, use another redirect URI that is registered with the app, or use --paste",
        "请结束占用该端口的程序，改用另一个已登记的 redirect_uri，或使用 --paste",
    ))
}
