//! `strongroom show`

use super::backup::{ArtifactDone, artifacts, facts_text};
use super::exit::Exit;
use super::list::{Signer, Verified, depth_word, signer};
use super::output::Output;
use super::session::Session;
use super::{BareStore, Globals, table, vendor};
use crate::record::{BackupRecord, Outcome};
use crate::{clock, unit};
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom show orders latest
  strongroom show orders 20261120T020000Z-x7k2m9qd --output json   the record itself")]
pub struct ShowArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// The backup: its id, the beginning of one, or "latest"
    pub id: String,
    /// For a store that no configuration describes.
    #[command(flatten)]
    pub bare: BareStore,
}

/// Runs it.
pub async fn run(args: ShowArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let (session, bare) = Session::open_or_bare(globals, &args.bare, cancel)?;
    let session = session.in_a_hurry();
    let store = match bare {
        Some(label) => label,
        None => session.config.job(&args.job)?.1.store.clone(),
    };
    let catalog = session.catalog(&store, None).await?;
    let listed = catalog.find(&args.job.parse()?, &args.id).await?;
    let listed = catalog.with_verifications(vec![listed]).await?.remove(0);
    for what in &listed.tampered {
        session.progress.warn(&format!("a name of backup {} was tampered with: {what}", listed.id));
    }
    let (Some(record), Some(key)) = (&listed.record, &listed.signer) else {
        return Err(listed.not_believed().into());
    };
    let verified: Vec<Verified> = listed.verified.iter().map(Verified::from).collect();
    let signer = signer(&listed, session.host_key()?.public());
    drop(session);
    let (signer_key, tampered) = (&key.to_string(), &listed.tampered[..]);
    Shown { record, signer, signer_key, verified: &verified, tampered }.print(&globals.output())
}

/// The result of `show` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    /// The record as it is stored.
    pub record: &'a BackupRecord,
    /// Whose signature it bears.
    pub signer: Signer,
    /// Public key of the signer.
    pub signer_key: &'a str,
    /// Verifications, oldest first.
    pub verified: &'a [Verified],
    /// What happened to the names of its record and its verifications, where an older version had to be read.
    pub tampered: &'a [String],
}

impl Shown<'_> {
    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let record = self.record;
        let took = std::time::Duration::try_from(record.finished.duration_since(record.started)).unwrap_or_default();
        let signer = match self.signer {
            Signer::Own => "this host",
            Signer::Trusted => "a trusted host",
            Signer::Unknown => "UNKNOWN: restored only with --trust-signer",
        };
        let outcome = if record.outcome == Outcome::Complete { "complete" } else { "INCOMPLETE" };
        let plugin = &record.plugin;
        let mut text = table::pairs(
            [
                ("backup", record.id.to_string()),
                ("job", record.job.to_string()),
                ("outcome", outcome.to_owned()),
                ("finished", format!("{}, after {}", clock::show(record.finished), unit::duration(took))),
                ("plugin", format!("{} {}, sha256 {}", plugin.name, plugin.version, plugin.sha256)),
                ("host", format!("{}, strongroom {}", record.host.machine, record.host.version)),
                ("signed by", format!("{signer} ({})", self.signer_key)),
                ("source", record.source_id.clone().unwrap_or_else(|| "not told".to_owned())),
            ],
            "",
        );
        let list: Vec<_> = record
            .artifacts
            .iter()
            .map(|artifact| ArtifactDone {
                name: artifact.name.as_str(),
                size_bytes: artifact.size,
                stored_bytes: artifact.stored_bytes(),
                blake3: &artifact.blake3,
            })
            .collect();
        text.push_str(&format!("\n{}", artifacts(&list)));
        if !record.facts.is_empty() {
            text.push_str(&format!("\nfacts:\n{}", facts_text(&record.facts)));
        }
        if !record.skipped.is_empty() {
            text.push_str(&format!("\nskipped:\n{}", facts_text(&record.skipped)));
        }
        for (title, lines) in [("never in such a backup", &record.not_captured), ("warnings", &record.warnings)] {
            if !lines.is_empty() {
                text.push_str(&format!("\n{title}:\n"));
                lines.iter().for_each(|line| text.push_str(&format!("  {}\n", vendor::line(line, vendor::MAX_BYTES))));
            }
        }
        if !self.verified.is_empty() {
            text.push_str("\nverified:\n");
        }
        for Verified { at, depth, passed } in self.verified {
            let result = if *passed { "passed" } else { "FAILED" };
            text.push_str(&format!("  {} {}: {result}\n", clock::show(*at), depth_word(*depth)));
        }
        text
    }
}
