//! The library's log on stderr: above a progress bar, and past a reader that stalls.

use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use super::bar::Bar;
use super::output::say;
use crate::platform::signals::Mask;

/// The bar that a terminal shows, if any: what the log says goes above it.
static BAR: Mutex<Option<Bar>> = Mutex::new(None);

/// From now on the log is shown above this bar.
pub(super) fn draw_over(bar: Option<Bar>) {
    *locked(&BAR) = bar;
}

/// What writes the log to stderr.
static WRITER: Mutex<LogWriter> = Mutex::new(LogWriter::Direct);

enum LogWriter {
    Direct,
    /// By a thread of its own, once there is something to say.
    ThreadLater,
    Thread(mpsc::Sender<LogMessage>, JoinHandle<()>),
}

/// What its thread is sent.
enum LogMessage {
    Line(String),
    /// Somebody waits until all before it is written.
    Awaited(mpsc::Sender<()>),
}

impl LogWriter {
    /// Takes a line.
    fn say(&mut self, line: String) {
        if let LogWriter::ThreadLater = self {
            let (sender, lines) = mpsc::channel::<LogMessage>();
            let thread = thread::Builder::new().spawn(move || write_log(lines));
            *self = thread.map_or(LogWriter::Direct, |thread| {
                LogWriter::Thread(sender, thread)
            });
        }
        match self {
            // Whoever writes it writes no more: then it is said by nobody.
            LogWriter::Thread(sender, _) => drop(sender.send(LogMessage::Line(line))),
            _ => say(&mut io::stderr(), &line),
        }
    }
}

fn write_log(said: mpsc::Receiver<LogMessage>) {
    Mask::shield_thread();
    for said in said {
        let line = match said {
            LogMessage::Line(line) => line,
            LogMessage::Awaited(who) => {
                let _ = who.send(());
                continue;
            }
        };
        let tell = || say(&mut io::stderr(), &line);
        let bar = locked(&BAR).clone();
        match bar {
            Some(bar) => bar.above(tell),
            None => tell(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the log is written by a thread of its own, so that a stderr that nobody reads holds up
/// nobody else.
pub(super) fn from_a_thread() {
    *locked(&WRITER) = LogWriter::ThreadLater;
}

/// Waits until all that was said is written.
pub(super) fn flush() {
    let (who, written) = mpsc::channel();
    match &*locked(&WRITER) {
        LogWriter::Thread(sender, _) => drop(sender.send(LogMessage::Awaited(who))),
        _ => return,
    }
    let _ = written.recv();
}

/// Waits until all of it is written, and goes back to the straight way.
pub(super) fn end_thread() {
    let road = mem::replace(&mut *locked(&WRITER), LogWriter::Direct);
    if let LogWriter::Thread(sender, thread) = road {
        drop(sender);
        let _ = thread.join();
    }
}

/// Shows the library's log on stderr. Other crates' logs are left out: they know no secrets.
pub(super) fn to_stderr(level: ::log::LevelFilter) {
    // A second run in one process keeps the first one's logger.
    let _ = ::log::set_logger(&StderrLog);
    ::log::set_max_level(level);
}

struct StderrLog;

impl ::log::Log for StderrLog {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let what = if record.level() <= ::log::Level::Warn {
                "warning: "
            } else {
                ""
            };
            let line = format!("{what}{}", record.args());
            locked(&WRITER).say(line);
        }
    }

    fn flush(&self) {}
}
