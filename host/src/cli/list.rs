//! `strongroom list`

use super::exit::Exit;
use super::output::Output;
use super::table::{Align, Table};
use super::{BareStore, Globals};
use crate::config::Depth;
use crate::error::Error;
use crate::record::{BackupRecord, Outcome};
use crate::{clock, unit};
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom list
  strongroom list orders --output json
  strongroom list --store-url 's3://backups/prod?endpoint=https://s3.example.org:9000'")]
pub struct ListArgs {
    /// The job, as in [job.NAME] [default: all]
    pub job: Option<String>,
    /// Only of this store, as in [store.NAME]
    #[arg(long, value_name = "STORE", conflicts_with = "store_url")]
    pub store: Option<String>,
    /// For a store that no configuration describes.
    #[command(flatten)]
    pub bare: BareStore,
}

/// Runs it.
pub async fn run(_args: ListArgs, _globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    Err(Error::failed("internal error: `strongroom list` is not wired to its run").into())
}

/// Whose signature a record bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signer {
    /// This host's.
    Own,
    /// One of `trusted_hosts`.
    Trusted,
    /// Somebody else's: listed, never counted.
    Unknown,
}

/// What the last verification found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verified {
    /// When, in UTC.
    pub at: jiff::Timestamp,
    /// How deep.
    pub depth: Depth,
    /// Whether every check passed.
    pub passed: bool,
}

/// One backup.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Label of the store, or its address.
    pub store: String,
    /// The job.
    pub job: String,
    /// Its id.
    pub id: String,
    /// When the record was written, in UTC.
    pub finished: jiff::Timestamp,
    /// Whole, or with something skipped.
    pub outcome: Outcome,
    /// Name of the plugin.
    pub plugin: String,
    /// Its version.
    pub plugin_version: String,
    /// Number of artifacts.
    pub n_artifacts: usize,
    /// Bytes as the component produced them.
    pub size_bytes: u64,
    /// Bytes at rest.
    pub stored_bytes: u64,
    /// Whose signature the record bears.
    pub signer: Signer,
    /// The last verification; `null` when there was none.
    pub verified: Option<Verified>,
}

/// The result of `list` as JSON. Documented; keys are only ever added.
#[derive(Debug, Default, Serialize)]
pub struct Listing {
    /// Backups by store and job, newest last.
    pub backups: Vec<Row>,
    /// Records that could not be read, each with the reason: a listing never fails because of one.
    pub unreadable: Vec<Unreadable>,
}

/// A record that could not be read.
#[derive(Debug, Serialize)]
pub struct Unreadable {
    /// Where it lies.
    pub key: String,
    /// Why.
    pub reason: String,
}

impl Row {
    /// A record as a row.
    pub fn of(store: &str, record: &BackupRecord, signer: Signer, verified: Option<Verified>) -> Self {
        Self {
            store: store.to_owned(),
            job: record.job.to_string(),
            id: record.id.to_string(),
            finished: record.finished,
            outcome: record.outcome,
            plugin: record.plugin.name.clone(),
            plugin_version: record.plugin.version.clone(),
            n_artifacts: record.artifacts.len(),
            size_bytes: record.artifacts.iter().map(|artifact| artifact.size).sum(),
            stored_bytes: record.artifacts.iter().map(crate::record::ArtifactRecord::stored_bytes).sum(),
            signer,
            verified,
        }
    }
}

impl Listing {
    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let mut text = if self.backups.is_empty() { "no backups\n".to_owned() } else { self.table() };
        for unreadable in &self.unreadable {
            let (key, reason) = (super::vendor::line(&unreadable.key, 512), super::vendor::line(&unreadable.reason, 512));
            text.push_str(&format!("not readable: {key}: {reason}\n"));
        }
        text
    }

    fn table(&self) -> String {
        let mut table = Table::new(&[
            ("JOB", Align::Left),
            ("ID", Align::Left),
            ("FINISHED", Align::Left),
            ("SIZE", Align::Right),
            ("STORED", Align::Right),
            ("STORE", Align::Left),
            ("VERIFIED", Align::Left),
            ("NOTE", Align::Left),
        ]);
        for row in &self.backups {
            let verified = match &row.verified {
                None => "never".to_owned(),
                Some(Verified { at, depth, passed }) => {
                    let failed = if *passed { "" } else { "FAILED " };
                    format!("{failed}{} {}", depth_word(*depth), clock::show(*at))
                }
            };
            let mut notes = Vec::new();
            if row.outcome == Outcome::Incomplete {
                notes.push("incomplete");
            }
            if row.signer == Signer::Unknown {
                notes.push("unknown signer");
            }
            table.row([
                row.job.clone(),
                row.id.clone(),
                clock::show(row.finished),
                unit::bytes(row.size_bytes),
                unit::bytes(row.stored_bytes),
                row.store.clone(),
                verified,
                notes.join(", "),
            ]);
        }
        table.render()
    }
}

/// A depth as it is written.
pub fn depth_word(depth: Depth) -> &'static str {
    match depth {
        Depth::Stored => "stored",
        Depth::Contents => "contents",
        Depth::Restore => "restore",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_says_when_how_large_and_whether_it_was_verified() {
        let row = Row {
            store: "main".to_owned(),
            job: "orders".to_owned(),
            id: "20261120T020000Z-x7k2m9qd".to_owned(),
            finished: "2026-11-20T02:03:04Z".parse().unwrap(),
            outcome: Outcome::Complete,
            plugin: "postgres".to_owned(),
            plugin_version: "0.1.0".to_owned(),
            n_artifacts: 3,
            size_bytes: 97_600_000,
            stored_bytes: 20 << 20,
            signer: Signer::Own,
            verified: None,
        };
        let later = Row {
            id: "20261121T020000Z-aaaaaaaa".to_owned(),
            outcome: Outcome::Incomplete,
            signer: Signer::Unknown,
            verified: Some(Verified { at: "2026-11-21T05:00:00Z".parse().unwrap(), depth: Depth::Restore, passed: false }),
            ..row.clone()
        };
        let unreadable = Unreadable { key: "orders/x/record.json".to_owned(), reason: "format 9 is from the future".to_owned() };
        let listing = Listing { backups: vec![row, later], unreadable: vec![unreadable] };
        insta::assert_snapshot!(listing.text(), @r"
        JOB     ID                         FINISHED                  SIZE    STORED  STORE  VERIFIED                             NOTE
        orders  20261120T020000Z-x7k2m9qd  2026-11-20T02:03:04Z  93.1 MiB  20.0 MiB  main   never
        orders  20261121T020000Z-aaaaaaaa  2026-11-20T02:03:04Z  93.1 MiB  20.0 MiB  main   FAILED restore 2026-11-21T05:00:00Z  incomplete, unknown signer
        not readable: orders/x/record.json: format 9 is from the future
        ");
        assert_eq!(Listing::default().text(), "no backups\n");
    }
}
