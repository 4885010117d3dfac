//! Signals wait while a token is at stake (P6): here Ctrl-C, Ctrl-Break, the closing of the console
//! window, the end of the session and that of the system.
//!
//! The system tells a process of them on a thread of its own, so there is no mask: one thread hears
//! them all, and either ends the program or notes what came. The system lets nobody put off the last
//! three for longer than a few seconds, which is time enough for a save, not for a slow server.

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

/// How a program ends that was interrupted, `STATUS_CONTROL_C_EXIT`: what the system itself gives when
/// nothing was put off, and what batch files know as an interruption.
const INTERRUPTED: u32 = 0xC000_013A;

/// What became of interruptions, and what is to become of them.
struct Interruptions {
    /// Whether the thread that hears of them was started.
    is_heard: bool,
    /// Whether they wait.
    wait: bool,
    /// Whether one came while they waited.
    came: bool,
    /// What is to be called for each that comes.
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

    /// Has those that waited do their work.
    fn deliver(&self) {
        if self.came {
            end();
        }
    }
}

fn end() -> ! {
    process::exit(INTERRUPTED.cast_signed())
}

/// Starts to hear of interruptions. Until then the system ends the program.
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

/// The right to have them wait.
#[derive(Default)]
pub(crate) struct Mask {
    is_on: bool,
}

impl Mask {
    /// From now on, they wait.
    pub(crate) fn defer(&mut self) {
        let mut interruptions = Interruptions::lock();
        if !interruptions.is_heard {
            // If it cannot be, they do their work at once, as ever.
            interruptions.is_heard = listen().is_ok();
        }
        interruptions.wait = true;
        self.is_on = true;
    }

    /// Those that waited do their work now.
    pub(crate) fn deliver(&mut self) {
        if mem::take(&mut self.is_on) {
            let mut interruptions = Interruptions::lock();
            interruptions.wait = false;
            interruptions.deliver();
        }
    }

    /// Has a thread leave them to the main thread, which they never disturb here.
    pub(crate) fn shield_thread() {}

    /// A gate for a thread that works for this one.
    pub(crate) fn gate(&self) -> Gate {
        Gate
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.deliver();
    }
}

/// Lets them through on a working thread, while the main thread is busy telling.
pub(crate) struct Gate;

impl Gate {
    /// Those that waited do their work now.
    pub(crate) fn deliver(&self) {
        Interruptions::lock().deliver();
    }

    /// From now on, they do it at once, whatever the main thread does.
    pub(crate) fn let_go(&self) {
        let mut interruptions = Interruptions::lock();
        interruptions.wait = false;
        interruptions.deliver();
    }

    /// Has `tell` called for each that waits. It does its work when they are delivered.
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
