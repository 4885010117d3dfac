//! A thread that does one job after another, for work that would block the calling thread.

use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends once nobody can give it more work.
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread. It has done `first` when this returns.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system cannot start a thread.
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

    /// Runs a job. None if it or an earlier one panicked.
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

/// The error for a thread that cannot be started.
pub(crate) fn no_thread(error: &std::io::Error) -> Error {
    Error::temporary(format!("cannot start a thread: {error}; nothing was sent"))
}
