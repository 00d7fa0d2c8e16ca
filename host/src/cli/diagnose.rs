//! `strongroom diagnose`; prints with [`super::check`].

use super::Globals;
use super::exit::Exit;
use crate::error::Error;
use clap::Args;
use tokio_util::sync::CancellationToken;

/// Arguments of `diagnose`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom diagnose orders
  strongroom diagnose orders --output json   exit code 5 when a check failed")]
pub struct DiagnoseArgs {
    /// The job, as in [job.NAME]
    pub job: String,
}

/// Runs it.
pub async fn run(_args: DiagnoseArgs, _globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    Err(Error::failed("internal error: `strongroom diagnose` is not wired to its run").into())
}
