//! Ctrl-C is waited for, so that what was made goes before the process does.

use std::process::ExitCode;

use anyhow::Result;
use tokio::runtime::Builder;

/// What ends a demonstration.
pub struct Stop;

impl Stop {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn prepare() -> Result<Self> {
        Ok(Stop)
    }

    /// Waits until it comes.
    #[allow(clippy::unused_self, reason = "elsewhere it has something to hold")]
    pub fn wait(&self) -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::signal::ctrl_c())?;
        Ok(())
    }

    /// How a shell elsewhere counts it.
    #[allow(clippy::unused_self, reason = "elsewhere it has something to hold")]
    pub fn end(self) -> ExitCode {
        ExitCode::from(130)
    }
}
