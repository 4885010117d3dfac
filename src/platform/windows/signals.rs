//! Signals are deferred while a token is at risk (P6): here Ctrl-C, Ctrl-Break, the closing of the console
//! window, the end of the session and that of the system.
//!
//! The system reports them to a process on a separate thread, so there is no mask: one thread receives them all, and
//! either ends the program or notes what came. The last three can be deferred only for a few seconds, which is enough
//! for a save, but not for a slow server.

#![allow(
    clippy::unused_self,
    reason = "elsewhere a mask and a gate have a state of their own"
)]

use std::future::poll_fn;
use std::io;
use std::mem;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;

use tokio::runtime;
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};

/// The exit code of an interrupted program, `STATUS_CONTROL_C_EXIT`: what the system itself uses when nothing is
/// deferred, and what batch files recognise as an interruption.
const INTERRUPTED: u32 = 0xC000_013A;

/// What happened to interruptions, and what to do with them.
struct Interruptions {
    /// Whether the thread that receives them was started.
    is_heard: bool,
    /// Whether they wait.
    wait: bool,
    /// Whether one came while they waited.
    came: bool,
    /// What to call for each that comes.
    tell: Option<Box<dyn Fn() + Send>>,
}

static INTERRUPTIONS: Mutex<Interruptions> = Mutex::new(Interruptions {
    is_heard: false,
    wait: false,
    came: false,
    tell: None,
});

impl Interruptions {
    fn lock() -> MutexGuard<'static, Interruptions> {
        INTERRUPTIONS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&mut self) {
        self.came = true;
        if !self.wait {
            end();
        }
        if let Some(tell) = &self.tell {
            tell();
        }
    }

    /// Lets those that waited take effect.
    fn deliver(&self) {
        if self.came {
            end();
        }
    }
}

fn end() -> ! {
    process::exit(INTERRUPTED.cast_signed())
}

/// Starts to receive interruptions. Until then, the system ends the program.
fn listen() -> io::Result<()> {
    let (mut c, mut pause, mut close) = (ctrl_c()?, ctrl_break()?, ctrl_close()?);
    let (mut logoff, mut shutdown) = (ctrl_logoff()?, ctrl_shutdown()?);
    let runtime = runtime::Builder::new_current_thread().build()?;
    let work = move || loop {
        runtime.block_on(poll_fn(|context| {
            let came = [
                c.poll_recv(context),
                pause.poll_recv(context),
                close.poll_recv(context),
                logoff.poll_recv(context),
                shutdown.poll_recv(context),
            ];
            if came.iter().any(Poll::is_ready) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        Interruptions::lock().hear();
    };
    thread::Builder::new().spawn(work).map(drop)
}

/// The right to defer them.
#[derive(Default)]
pub(crate) struct Mask {
    is_on: bool,
}

impl Mask {
    /// From now on, they wait.
    pub(crate) fn defer(&mut self) {
        let mut interruptions = Interruptions::lock();
        if !interruptions.is_heard {
            // If that fails, they take effect at once, as usual.
            interruptions.is_heard = listen().is_ok();
        }
        interruptions.wait = true;
        self.is_on = true;
    }

    /// Those that waited take effect now.
    pub(crate) fn deliver(&mut self) {
        if mem::take(&mut self.is_on) {
            let mut interruptions = Interruptions::lock();
            interruptions.wait = false;
            interruptions.deliver();
        }
    }

    /// Has a thread leave them to the main thread, which they never disturb here.
    pub(crate) fn shield_thread() {}

    /// A gate for a worker thread of this one.
    pub(crate) fn gate(&self) -> SignalGate {
        SignalGate
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.deliver();
    }
}

/// Lets them through on a working thread, while the main thread is busy reporting.
pub(crate) struct SignalGate;

impl SignalGate {
    /// Those that waited take effect now.
    pub(crate) fn deliver(&self) {
        Interruptions::lock().deliver();
    }

    /// From now on, they take effect at once, whatever the main thread does.
    pub(crate) fn let_go(&self) {
        let mut interruptions = Interruptions::lock();
        interruptions.wait = false;
        interruptions.deliver();
    }

    /// Calls `tell` for each that waits. It takes effect when they are delivered.
    #[expect(clippy::unnecessary_wraps, reason = "other systems need a thread")]
    pub(crate) fn watch(&self, tell: Box<dyn Fn() + Send>) -> io::Result<()> {
        let mut interruptions = Interruptions::lock();
        if interruptions.came {
            tell();
        }
        interruptions.tell = Some(tell);
        Ok(())
    }
}
