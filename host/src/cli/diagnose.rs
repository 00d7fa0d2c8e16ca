//! `strongroom diagnose`; prints with [`super::check`].

use super::Globals;
use super::check::Findings;
use super::exit::Exit;
use super::measure::Measure;
use super::session::{Needs, Session};
use crate::policy::Verb;
use crate::run::diagnose;
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
pub async fn run(args: DiagnoseArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let session = Session::open(globals, cancel)?.in_a_hurry();
    let measure = Measure::begin(&session, &args.job);
    let job = session.job(&args.job, Needs::of(Verb::Diagnose)).await?;
    let objective = session.config.job(&args.job)?.1.objective;
    let checks = diagnose::diagnose(&job, objective).await;
    if let Some(measure) = measure {
        measure.plugin_only(&session).await;
    }
    let checks = checks?;
    drop(session);
    Findings::new(&args.job, None, None, &checks).print(&globals.output())
}
