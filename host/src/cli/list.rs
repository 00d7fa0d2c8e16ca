//! `strongroom list`

use super::exit::Exit;
use super::output::Output;
use super::session::Session;
use super::table::{Align, Table};
use super::{BareStore, Globals};
use crate::catalog::{Listed, PublicKey, Standing, Verification};
use crate::config::Depth;
use crate::id::Label;
use crate::record::{BackupRecord, Outcome};
use crate::{clock, unit};
use clap::{Args, ValueEnum};
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
    /// Also those whose names were deleted in a store that keeps versions: they can be restored by id
    #[arg(long)]
    pub hidden: bool,
    /// For a store that no configuration describes.
    #[command(flatten)]
    pub bare: BareStore,
}

/// Runs it.
pub async fn run(args: ListArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let (session, bare) = Session::open_or_bare(globals, &args.bare, cancel)?;
    let session = session.in_a_hurry();
    let only = args.job.as_deref().map(str::parse::<Label>).transpose()?;
    let stores: Vec<Label> = match (&bare, &args.store, &only) {
        (Some(label), ..) => vec![label.clone()],
        (None, Some(store), _) => vec![session.config.store(store)?.0.clone()],
        // A job that is configured is in its store; one that was removed may be in any.
        (None, None, Some(job)) if session.config.jobs.contains_key(job) => {
            vec![session.config.jobs[job].store.clone()]
        }
        (None, None, _) => session.config.stores.keys().cloned().collect(),
    };
    let own = session.host_key()?.public().clone();
    let mut listing = Listing::default();
    for label in stores {
        let catalog = session.catalog(&label, None).await?;
        let shown = args.bare.store_url.clone().unwrap_or_else(|| label.to_string());
        let jobs = match &only {
            Some(job) => vec![job.clone()],
            None if args.hidden => catalog.jobs_of_versions().await?,
            None => catalog.jobs().await?,
        };
        for job in jobs {
            for listed in catalog.with_verifications(catalog.backups(&job).await?).await? {
                listing.add(&shown, &listed, &own);
            }
            if args.hidden {
                for listed in catalog.with_verifications(catalog.hidden(&job, None).await?).await? {
                    listing.add_hidden(&shown, &listed, &own);
                }
            }
        }
    }
    drop(session);
    listing.print(&globals.output())
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
    /// Public key of the signer.
    pub signer_key: String,
    /// The last verification; `null` when there was none.
    pub verified: Option<Verified>,
    /// Whether the name of its record was deleted, so that only `--hidden` shows it.
    pub hidden: bool,
    /// What happened to the names of its record and its verifications, where an older version of one was read; mostly empty.
    pub tampered: Vec<String>,
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
    pub fn of(store: &str, record: &BackupRecord, signer: Signer, key: &PublicKey, verified: Option<Verified>) -> Self {
        Self {
            store: store.to_owned(),
            job: record.job.to_string(),
            id: record.id.to_string(),
            finished: record.finished,
            outcome: record.outcome,
            plugin: record.plugin.name.clone(),
            plugin_version: record.plugin.version.clone(),
            n_artifacts: record.artifacts.len(),
            size_bytes: record.artifacts.iter().fold(0, |sum, artifact| sum.saturating_add(artifact.size)),
            stored_bytes: record.artifacts.iter().fold(0, |sum, artifact| sum.saturating_add(artifact.stored_bytes())),
            signer,
            signer_key: key.to_string(),
            verified,
            hidden: false,
            tampered: Vec::new(),
        }
    }
}

/// Whose signature a believed or an unknown record bears.
pub fn signer(listed: &Listed, own: &PublicKey) -> Signer {
    match &listed.signer {
        Some(key) if key == own => Signer::Own,
        Some(_) if listed.standing == Standing::Trusted => Signer::Trusted,
        _ => Signer::Unknown,
    }
}

impl From<&Verification> for Verified {
    fn from(found: &Verification) -> Self {
        // The names are those that this program writes; anything else would be of a later version.
        let depth = Depth::from_str(&found.depth, false).unwrap_or_default();
        Self { at: found.at, depth, passed: found.passed }
    }
}

impl Listing {
    fn add(&mut self, store: &str, listed: &Listed, own: &PublicKey) {
        match (&listed.record, &listed.signer) {
            (Some(record), Some(key)) => {
                let verified = listed.verified.last().map(Verified::from);
                let row = Row::of(store, record, signer(listed, own), key, verified);
                self.backups.push(Row { tampered: listed.tampered.clone(), ..row });
            }
            _ => {
                let key = format!("{}/{}/record.json", listed.job, listed.id);
                let reason = match &listed.standing {
                    Standing::Forged(reason) => format!("not what was signed: {reason}"),
                    Standing::Unreadable(reason) => reason.clone(),
                    Standing::Trusted | Standing::UnknownSigner(_) => "it has no content".to_owned(),
                };
                self.unreadable.push(Unreadable { key, reason });
            }
        }
    }

    fn add_hidden(&mut self, store: &str, listed: &Listed, own: &PublicKey) {
        let n_rows = self.backups.len();
        self.add(store, listed, own);
        self.backups.iter_mut().skip(n_rows).for_each(|row| row.hidden = true);
    }

    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let mut text = if self.backups.is_empty() { "no backups\n".to_owned() } else { self.table() };
        for row in self.backups.iter().filter(|row| row.signer == Signer::Unknown) {
            text.push_str(&format!("unknown signer of {}: {}\n", row.id, row.signer_key));
        }
        for what in self.backups.iter().flat_map(|row| &row.tampered) {
            text.push_str(&format!("tampered with: {}\n", super::vendor::line(what, 512)));
        }
        for unreadable in &self.unreadable {
            let (key, reason) =
                (super::vendor::line(&unreadable.key, 512), super::vendor::line(&unreadable.reason, 512));
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
            if row.hidden {
                notes.push("hidden");
            } else if !row.tampered.is_empty() {
                notes.push("tampered with");
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
            signer_key: "srhost1-own".to_owned(),
            verified: None,
            hidden: false,
            tampered: Vec::new(),
        };
        let later = Row {
            id: "20261121T020000Z-aaaaaaaa".to_owned(),
            outcome: Outcome::Incomplete,
            signer: Signer::Unknown,
            signer_key: "srhost1-other".to_owned(),
            verified: Some(Verified {
                at: "2026-11-21T05:00:00Z".parse().unwrap(),
                depth: Depth::Restore,
                passed: false,
            }),
            ..row.clone()
        };
        let unreadable =
            Unreadable { key: "orders/x/record.json".to_owned(), reason: "format 9 is from the future".to_owned() };
        let listing = Listing { backups: vec![row, later], unreadable: vec![unreadable] };
        insta::assert_snapshot!(listing.text(), @r"
        JOB     ID                         FINISHED                  SIZE    STORED  STORE  VERIFIED                             NOTE
        orders  20261120T020000Z-x7k2m9qd  2026-11-20T02:03:04Z  93.1 MiB  20.0 MiB  main   never
        orders  20261121T020000Z-aaaaaaaa  2026-11-20T02:03:04Z  93.1 MiB  20.0 MiB  main   FAILED restore 2026-11-21T05:00:00Z  incomplete, unknown signer
        unknown signer of 20261121T020000Z-aaaaaaaa: srhost1-other
        not readable: orders/x/record.json: format 9 is from the future
        ");
        assert_eq!(Listing::default().text(), "no backups\n");
    }
}
