//! What a run lends to its plugin: the services behind the capabilities.
//!
//! `run` builds a [`RunContext`]; the capabilities call it after the guard has asked the policy.

use super::limits::Limits;
use crate::bucket::SharedBucket;
use crate::cluster::{Cluster, Marks};
use crate::error::Result;
use crate::exec::Place;
use crate::id::ArtifactName;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::record::ArtifactRecord;
use crate::stream::Source;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything that one run lends to its plugin.
#[derive(Clone)]
pub struct RunContext {
    /// What it may do.
    pub policy: Arc<Policy>,
    /// Where its commands run.
    pub place: Arc<Place>,
    /// Buckets that are configured, by label; the policy says which of them it may open.
    pub buckets: BTreeMap<String, SharedBucket>,
    /// Clusters that are configured, by label; the policy says which of them it may ask for what.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// Marks in the place of the values of Secrets, by which equal ones are told from others; `None` where
    /// something could be written, since a guess could then be tried.
    pub marks: Option<Arc<Marks>>,
    /// The same as who restores reaches them: asked for nothing but what that identity may do.
    pub restoring: BTreeMap<String, Arc<Cluster>>,
    /// The artifacts of the backup in scope.
    pub artifacts: Arc<dyn Artifacts>,
    /// An empty directory of the run, removed at its end: `{scratch}` of commands on this machine.
    pub scratch: Option<PathBuf>,
    /// An empty directory of the run for the guest itself, which no command sees; `None` where the
    /// grants have none for this verb.
    pub guest_dir: Option<PathBuf>,
    /// Where progress, log lines and steps go.
    pub reporter: Arc<dyn Reporter>,
    /// Where the metrics go that it writes, and whom it may ask.
    pub metrics: Metrics,
    /// What it may use.
    pub limits: Limits,
    /// Ends everything.
    pub cancel: CancellationToken,
}

/// Options of `storage.put` and `storage.create-archive`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Media type to record.
    pub media_type: Option<String>,
    /// False: raw blocks in the same frames.
    pub compress: bool,
}

/// The artifacts of the backup being made, verified or restored.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Starts storing `body`; waits while too many transfers are open. A name that is taken is
    /// `Conflict`. Dropping the transfer abandons the artifact.
    async fn put(&self, name: ArtifactName, body: Source, options: PutOptions) -> Result<Transfer>;

    /// What is recorded so far, or in the backup in scope.
    fn list(&self) -> Vec<ArtifactRecord>;

    /// Reads one back; its source ends well only if every byte is as recorded.
    async fn get(&self, name: &ArtifactName) -> Result<Source>;

    /// Starts an archive: entries queue into a bounded channel, its own task packs them.
    async fn create_archive(&self, name: ArtifactName, options: PutOptions) -> Result<Box<dyn ArchiveWriter>>;

    /// Opens an archive for reading.
    async fn open_archive(&self, name: &ArtifactName) -> Result<Box<dyn ArchiveReader>>;
}

/// An artifact on its way into the store, on a task of its own.
pub struct Transfer {
    /// Finishes with the artifact once the store has acknowledged every byte.
    pub done: tokio::task::JoinHandle<Result<ArtifactRecord>>,
    /// Ends it early and removes what was sent.
    pub cancel: CancellationToken,
    /// What must leave the guest's hands before it can end.
    pub waits_for: Vec<crate::stream::Leash>,
}

/// An archive being packed.
#[async_trait]
pub trait ArchiveWriter: Send {
    /// Queues one entry; waits while too many are queued. The body's length must be known when it
    /// is opened.
    async fn add(&mut self, path: String, attributes: Vec<(String, String)>, body: Source) -> Result<()>;
    /// Ends it: the artifact, and path and reason of every entry that could not be read whole.
    async fn finish(self: Box<Self>) -> Result<(ArtifactRecord, Vec<(String, String)>)>;
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path as it was added.
    pub path: String,
    /// Its attributes.
    pub attributes: Vec<(String, String)>,
    /// Its size in bytes.
    pub size: u64,
}

/// An archive being read.
#[async_trait]
pub trait ArchiveReader: Send {
    /// The next entry and its body. What was not read of the body before is passed over.
    async fn next(&mut self) -> Result<Option<(Entry, Source)>>;
    /// One entry by its path, without reading what lies before it.
    async fn open(&mut self, path: &str) -> Result<(Entry, Source)>;
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the plugin's developer.
    Debug,
    /// A step of note.
    Info,
    /// Something was recovered from.
    Warn,
    /// Something is missing or damaged.
    Error,
}

/// Outcome of a check or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// As it should be.
    Passed,
    /// Worth a look.
    Warned,
    /// Not as it should be.
    Failed,
    /// Could not be looked at.
    Skipped,
}

/// A finding of `verify` or `diagnose`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// Stable id.
    pub id: String,
    /// What was looked at.
    pub title: String,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// What was measured.
    pub evidence: String,
    /// Likely causes, most likely first.
    pub causes: Vec<String>,
    /// What to do next.
    pub remedies: Vec<String>,
}

/// One thing that a restore did, or in a plan would do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Step {
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// For one that failed: what the target holds now.
    pub note: String,
}

/// Receives what a plugin says. Text is the vendor's: attribute, cut and escape it before showing it.
pub trait Reporter: Send + Sync {
    /// A log line.
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]);
    /// Progress of a step the plugin names.
    fn progress(&self, step: &str, done: u64, total: Option<u64>);
    /// A step of a restore as it happens.
    fn step(&self, step: Step);
}
