//! Runs requests on the calling thread. Created only when something has to wait: reading a file does not.

use std::cell::OnceCell;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// Runs futures.
#[derive(Default)]
pub(crate) struct Driver(OnceCell<Runtime>);

impl Driver {
    /// Runs this future to its end.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system cannot provide what waiting needs.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        if let Some(runtime) = self.0.get() {
            return Ok(runtime.block_on(work));
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Error::temporary(format!("cannot start: {error}; nothing was sent"))
        })?;
        Ok(self.0.get_or_init(|| runtime).block_on(work))
    }
}
