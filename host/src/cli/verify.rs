//! `strongroom verify`; prints with [`super::check`].

use super::check::Findings;
use super::exit::Exit;
use super::measure::Measure;
use super::session::{Needs, Session};
use super::{BareStore, Globals};
use crate::config::Depth;
use crate::error::{Error, Result};
use crate::id::Label;
use crate::plugin::verb;
use crate::policy::Verb;
use crate::run::verify::{self, Verdict};
use clap::{Args, ValueEnum};
use std::sync::Arc;
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
pub async fn run(args: VerifyArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let (session, bare) = Session::open_or_bare(globals, &args.bare, cancel)?;
    let verdict = match &bare {
        Some(label) => {
            if args.depth != Some(Depth::Stored) {
                return Err(Error::invalid("without a configuration only the stored bytes can be verified")
                    .hint("add --depth stored")
                    .into());
            }
            stored(&session, label, &args).await?
        }
        None => {
            let measure = Measure::begin(&session, &args.job);
            let verdict = configured(&session, &args).await;
            if let Some(measure) = measure {
                let passed = verdict.as_ref().is_ok_and(Verdict::passed);
                let is_restore = verdict.as_ref().is_ok_and(|verdict| verdict.depth == "restore");
                measure.verified(&session, passed, is_restore).await;
            }
            verdict?
        }
    };
    drop(session);
    let depth = Depth::from_str(verdict.depth, false).map_err(Error::failed)?;
    Findings::new(&args.job, Some(verdict.id.as_str()), Some(depth), &verdict.checks).print(&globals.output())
}

async fn stored(session: &Session, store: &Label, args: &VerifyArgs) -> Result<Verdict> {
    let catalog = session.catalog(store, None).await?;
    let listed = catalog.find(&args.job.parse()?, &args.id).await?;
    let budget = Session::budget(session.config.store(store.as_str())?.1)?;
    let key = Arc::new(session.host_key()?);
    let with = verify::Stored {
        catalog: &catalog,
        key: &key,
        audit: &session.audit(&key),
        configuration: super::audit::configuration(&session.config),
        budget: &budget,
        progress: &session.progress,
        cancel: &session.cancel,
    };
    verify::verify_stored(with, &listed).await
}

async fn configured(session: &Session, args: &VerifyArgs) -> Result<Verdict> {
    let (name, config) = session.config.job(&args.job)?;
    let depth = match args.depth.unwrap_or(config.verify.depth) {
        Depth::Stored => return stored(session, &config.store, args).await,
        Depth::Contents => verb::Depth::Contents,
        Depth::Restore => verb::Depth::Restore,
    };
    let mut needs = Needs { identity: true, ..Needs::of(Verb::Verify) };
    let mut options = serde_json::json!({});
    if depth == verb::Depth::Restore {
        let named = args.target.as_deref().or(config.verify.target.as_ref().map(Label::as_str));
        match named {
            Some(target) => {
                let (label, target) = session.config.target(target)?;
                needs.target = Some(label.clone());
                options = target.options.clone();
            }
            None if config.verify.on_source => {}
            None => {
                return Err(Error::invalid(format!("a verification by restore of job \"{name}\" needs a place to restore into"))
                    .fact("expected", "--target NAME, or verify = { target = \"NAME\" } in the job")
                    .hint(format!(
                        "[target.NAME] describes it; verify = {{ on_source = true }} in [job.{name}] uses a scratch place on the source itself"
                    )));
            }
        }
    }
    let job = session.job(&args.job, needs).await?;
    job.plugin.component().manifest.check_options(&options)?;
    let listed = job.catalog.find(&job.name, &args.id).await?;
    verify::verify(&job, &listed, depth, options).await
}
