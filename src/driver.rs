//! What drives requests, on the thread that asks. It is made once something has to wait: a look at a file
//! does not.

use std::cell::OnceCell;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// Drives what waits.
#[derive(Default)]
pub(crate) struct Driver(OnceCell<Runtime>);

impl Driver {
    /// Drives this to its end.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system has nothing to wait with.
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
