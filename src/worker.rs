//! A thread that does one job after the other, for work that would hold up the thread that asks.

use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends once nobody has more for it to do.
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread. It has done `first` when this returns.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system has no thread.
    pub(crate) fn start(first: fn()) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel::<()>();
        let work = move || {
            first();
            drop(ready);
            for job in inbox {
                job();
            }
        };
        let thread = thread::Builder::new().spawn(work);
        thread.map_err(|error| no_thread(&error))?;
        let _ = started.recv();
        Ok(Worker { jobs })
    }

    /// Has a job done. None if it panicked, or one before it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let job = move || drop(sender.send(job()));
        self.jobs.send(Box::new(job)).ok()?;
        receiver.await.ok()
    }
}

/// The error for a thread that cannot be had.
pub(crate) fn no_thread(error: &std::io::Error) -> Error {
    Error::temporary(format!("cannot start a thread: {error}; nothing was sent"))
}
