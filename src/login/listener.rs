//! Waits for the browser to come back.
//!
//! Promises:
//! - It listens on loopback addresses alone, on the redirect URI's port.
//! - One callback with the right state counts. Everything else (a forged one, a favicon, a port
//!   scan, a client that says nothing) is answered or dropped, and the waiting goes on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::pages::{self, Page};
use super::{Question, denied};
use crate::client;
use crate::error::{Error, Hint, Result};
use crate::protocol::consent::Answer;

/// A longer head of a request is no browser's.
const LONGEST_HEAD: usize = 16 << 10;

/// A client that takes longer to say what it wants is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// What listens for the browser.
pub(crate) struct Listener {
    callers: Receiver<Caller>,
    path: String,
}

/// A browser that asked for something.
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
            let message = "the redirect URI leads to another machine than this one";
            return Err(Error::config(message).with_hint(Hint::fixed(
                "use --paste, or a redirect URI like http://localhost:8080/callback that is registered with the app",
                "请使用 --paste，或使用已在应用中登记的本机地址，例如 http://localhost:8080/callback",
            )));
        };
        let (sender, callers) = mpsc::channel();
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
            spawn(shield, move || {
                for stream in socket.incoming().flatten() {
                    let sender = sender.clone();
                    spawn(shield, move || {
                        if let Ok(Some(target)) = read_target(&stream) {
                            let caller = Caller { stream, target };
                            if let Err(late) = sender.send(caller) {
                                let _ = reply(late.0.stream, &pages::LATE);
                            }
                        }
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

fn spawn(shield: fn(), work: impl FnOnce() + Send + 'static) {
    // Without a thread for it, a connection is dropped.
    let _ = thread::Builder::new().spawn(move || {
        shield();
        work();
    });
}

/// The target of a GET request; none if it is something else.
fn read_target(mut stream: &TcpStream) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    while head.len() < LONGEST_HEAD {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) if request.method == Some("GET") => {
                return Ok(request.path.map(str::to_owned));
            }
            _ => break,
        }
    }
    Ok(None)
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

fn too_late(wait: Duration) -> Error {
    let message = format!(
        "no consent came within {} s; nothing was changed",
        wait.as_secs()
    );
    Error::temporary(message).with_hint(Hint::fixed(
        "run feishu-refresh login again, or wait longer with --wait",
        "请重新运行 feishu-refresh login，或用 --wait 延长等待时间",
    ))
}
