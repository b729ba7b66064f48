//! What runs the few tasks of a command that serves nobody.

use runtime::error::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// With no thread of its own.
pub(crate) fn small() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start an executor")
}
