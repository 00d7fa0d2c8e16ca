//! `strongroom backup`

use super::exit::Exit;
use super::measure::Measure;
use super::output::Output;
use super::session::{Needs, Session};
use super::table::{self, Align, Table};
use super::{Globals, vendor};
use crate::error::Error;
use crate::policy::Verb;
use crate::record::{BackupRecord, Outcome};
use crate::run::backup;
use crate::unit;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom backup orders
  strongroom backup orders --dry-run       what would be stored; nothing is
  strongroom backup orders --output json   for a script; exit code 3 when something was skipped")]
pub struct BackupArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// Into a store that discards: no record, only what would be stored
    #[arg(long)]
    pub dry_run: bool,
    /// The source was replaced on purpose: its new identity, as the error of this verb names it
    #[arg(long, value_name = "SOURCE_ID")]
    pub new_source: Option<String>,
}

/// Runs it.
pub async fn run(args: BackupArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let session = Session::open(globals, cancel)?;
    let measure = Measure::begin(&session, &args.job);
    let made = make(&session, &args).await;
    if let Some(measure) = measure.filter(|_| !args.dry_run) {
        measure.backup(&session, made.as_ref().map_err(|_| ())).await;
    }
    let next = || format!("look for the cause: strongroom diagnose {}", args.job);
    let record = match made {
        Ok(record) => record,
        Err(Unmade::Unready(error)) => return Err(error.into()),
        Err(Unmade::Failed(error)) => return Err(super::report::with_next_step(error, next).into()),
    };
    drop(session);
    Done::of(&record, args.dry_run).print(&globals.output())
}

/// Why there is no backup.
enum Unmade {
    /// The job could not be made ready: its error says what to do.
    Unready(Error),
    /// It ran.
    Failed(Error),
}

async fn make(session: &Session, args: &BackupArgs) -> Result<BackupRecord, Unmade> {
    let mut job = session.job(&args.job, Needs::of(Verb::Backup)).await.map_err(Unmade::Unready)?;
    job.new_source.clone_from(&args.new_source);
    let made = if args.dry_run { backup::dry_run(&job).await } else { backup::backup(job).await };
    made.map_err(Unmade::Failed)
}

/// The result of `backup` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Done<'a> {
    /// The job.
    pub job: &'a str,
    /// The backup; `null` for a dry run.
    pub id: Option<&'a str>,
    /// Whether nothing was stored.
    pub dry_run: bool,
    /// Whole, or with something skipped.
    pub outcome: Outcome,
    /// Milliseconds from start to record.
    pub duration_ms: u64,
    /// Bytes as the component produced them.
    pub size_bytes: u64,
    /// Bytes at rest.
    pub stored_bytes: u64,
    /// The artifacts in their order.
    pub artifacts: Vec<ArtifactDone<'a>>,
    /// What the plugin found worth recording.
    pub facts: Vec<Pair<'a>>,
    /// What was to be captured and was not.
    pub skipped: Vec<Skipped<'a>>,
    /// What this method never holds.
    pub not_captured: &'a [String],
    /// What the host noticed.
    pub warnings: &'a [String],
}

/// An artifact that was stored.
#[derive(Debug, Serialize)]
pub struct ArtifactDone<'a> {
    /// Its name.
    pub name: &'a str,
    /// Bytes as the component produced them.
    pub size_bytes: u64,
    /// Bytes at rest.
    pub stored_bytes: u64,
    /// BLAKE3 as `b3sum` prints it.
    pub blake3: &'a str,
}

/// A fact.
#[derive(Debug, Serialize)]
pub struct Pair<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// Something that was to be captured and was not.
#[derive(Debug, Serialize)]
pub struct Skipped<'a> {
    /// What.
    pub what: &'a str,
    /// Why.
    pub reason: &'a str,
}

impl<'a> Done<'a> {
    /// What a record says about the backup that was made; with `dry_run`, would have been made.
    pub fn of(record: &'a BackupRecord, dry_run: bool) -> Self {
        let artifacts: Vec<_> = record
            .artifacts
            .iter()
            .map(|artifact| ArtifactDone {
                name: artifact.name.as_str(),
                size_bytes: artifact.size,
                stored_bytes: artifact.stored_bytes(),
                blake3: &artifact.blake3,
            })
            .collect();
        let took = record.finished.duration_since(record.started).as_millis();
        Self {
            job: record.job.as_str(),
            id: (!dry_run).then(|| record.id.as_str()),
            dry_run,
            outcome: record.outcome,
            duration_ms: u64::try_from(took).unwrap_or(0),
            size_bytes: artifacts.iter().map(|artifact| artifact.size_bytes).sum(),
            stored_bytes: artifacts.iter().map(|artifact| artifact.stored_bytes).sum(),
            artifacts,
            facts: pairs(&record.facts),
            skipped: skipped(&record.skipped),
            not_captured: &record.not_captured,
            warnings: &record.warnings,
        }
    }

    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::of_outcome(self.outcome))
    }

    fn text(&self) -> String {
        let mut text = artifacts(&self.artifacts);
        for skipped in &self.skipped {
            let (what, reason) = (vendor::line(skipped.what, 256), vendor::line(skipped.reason, 512));
            text.push_str(&format!("skipped: {what}: {reason}\n"));
        }
        for warning in self.warnings {
            text.push_str(&format!("warning: {}\n", vendor::line(warning, vendor::MAX_BYTES)));
        }
        let sizes = format!(
            "{}, {} stored, in {}",
            unit::bytes(self.size_bytes),
            unit::bytes(self.stored_bytes),
            unit::duration(std::time::Duration::from_millis(self.duration_ms))
        );
        let outcome = if self.outcome == Outcome::Incomplete { "INCOMPLETE " } else { "" };
        text.push_str(&match self.id {
            Some(id) => format!("{outcome}backup {id} of \"{}\": {sizes}\n", self.job),
            None => format!("{outcome}dry run of \"{}\": {sizes}; nothing was stored\n", self.job),
        });
        text
    }
}

/// A table of artifacts.
pub fn artifacts(artifacts: &[ArtifactDone<'_>]) -> String {
    let mut table = Table::new(&[
        ("ARTIFACT", Align::Left),
        ("SIZE", Align::Right),
        ("STORED", Align::Right),
        ("BLAKE3", Align::Left),
    ]);
    for artifact in artifacts {
        table.row([
            artifact.name.to_owned(),
            unit::bytes(artifact.size_bytes),
            unit::bytes(artifact.stored_bytes),
            artifact.blake3.chars().take(16).chain("…".chars()).collect(),
        ]);
    }
    table.render()
}

/// Facts with their names.
pub fn pairs(facts: &[(String, String)]) -> Vec<Pair<'_>> {
    facts.iter().map(|(name, value)| Pair { name, value }).collect()
}

/// What was skipped, with reasons.
pub fn skipped(list: &[(String, String)]) -> Vec<Skipped<'_>> {
    list.iter().map(|(what, reason)| Skipped { what, reason }).collect()
}

/// Facts below one another.
pub fn facts_text(facts: &[(String, String)]) -> String {
    table::pairs(facts.iter().map(|(name, value)| (name.as_str(), vendor::line(value, vendor::MAX_BYTES))), "  ")
}
