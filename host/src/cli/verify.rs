//! `strongroom verify`; prints with [`super::check`].

use super::exit::Exit;
use super::{BareStore, Globals};
use crate::config::Depth;
use crate::error::Error;
use clap::Args;
use tokio_util::sync::CancellationToken;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom verify orders                                   the latest backup, as [job.orders] verify says
  strongroom verify orders --depth stored                    the bytes at rest; needs no key and no plugin
  strongroom verify orders --depth restore --target scratch  a test restore, compared with the recorded facts")]
pub struct VerifyArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// The backup: its id, the beginning of one, or "latest"
    #[arg(default_value = "latest")]
    pub id: String,
    /// How deep to look [default: as the job says, else contents]
    #[arg(long, value_enum)]
    pub depth: Option<Depth>,
    /// With --depth restore: where to, as in [target.NAME]
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// For a store that no configuration describes.
    #[command(flatten)]
    pub bare: BareStore,
}

/// Runs it.
pub async fn run(_args: VerifyArgs, _globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    Err(Error::failed("internal error: `strongroom verify` is not wired to its run").into())
}
