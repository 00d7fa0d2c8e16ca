//! The audit log: what plugins did, as chains of lines that cannot be changed unseen.
//!
//! Each run has a file of JSON lines, each with the hash of the one before and a code that only the
//! host's key makes. A locked, signed index holds each file's first and last hash, and the record of a
//! backup holds the chain so far, so that the log is anchored outside this machine. `docs/audit.md`
//! has the format and what it proves.
//!
//! This module never writes a secret (values that hold one become keyed hashes), never changes a line
//! that was written, and never removes a file without a line in the index that says so.

mod batch;
mod chain;
pub mod cost;
mod index;
mod line;
mod lives;
mod recorder;
pub mod show;
mod summary;
#[cfg(test)]
mod tests;
pub mod unused;
pub mod verify;

pub use chain::Chain;
pub use line::{Argument, Counted, Event, Line, Verdict};
pub use lives::{loaded, over_a_ceiling, refused};
pub use recorder::{MAX_LINES, Recorder, outcome};
pub use summary::Summary;

use crate::catalog::{HostKey, PublicKey};
use crate::error::{Error, Result};
use crate::id::BackupId;
use index::Index;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long logs are kept unless the configuration says otherwise: 400 days, so that a yearly review
/// finds the whole year before it.
pub const KEEP: Duration = Duration::from_secs(400 * 86_400);

/// For what the key that lines are sealed with is derived from the host's key.
const PURPOSE_LINES: &str = "strongroom 2026 audit log: codes of lines";
/// The same for hashes of values that are not written.
const PURPOSE_VALUES: &str = "strongroom 2026 audit log: hashes of secret values";

/// What lines and the index are sealed and checked with.
pub struct Keys {
    host: Option<Arc<HostKey>>,
    public: PublicKey,
    lines: Option<Zeroizing<[u8; 32]>>,
    values: Option<Zeroizing<[u8; 32]>>,
}

impl Keys {
    /// The keys of this host.
    pub fn own(host: Arc<HostKey>) -> Arc<Self> {
        Arc::new(Self {
            public: host.public().clone(),
            lines: Some(host.derive(PURPOSE_LINES)),
            values: Some(host.derive(PURPOSE_VALUES)),
            host: Some(host),
        })
    }

    /// The public half alone, to check a copy of another host's log: signatures and hashes, not the
    /// codes of lines.
    pub fn public_only(public: PublicKey) -> Arc<Self> {
        Arc::new(Self { host: None, public, lines: None, values: None })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.public)
    }
}

/// The audit log of this host.
#[derive(Clone, Debug)]
pub struct Log {
    dir: PathBuf,
    keys: Arc<Keys>,
    keep: Duration,
}

/// What a chain begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The run; the file is named by it.
    pub run: BackupId,
    /// The job, if it is for one.
    pub job: Option<String>,
    /// `backup`, `verify`, `restore`, `diagnose`, `verify-stored` (without a plugin), `load` or `approve`.
    pub verb: &'static str,
    /// Whether it only plans, or stores nothing.
    pub dry: bool,
    /// The configuration that it runs with.
    pub configuration: Configuration,
}

/// A configuration as the log compares it with that of the last run: where it is, and what every
/// section says, as text that only its hash is kept of.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Path of the file; empty for one that was made for a single run, which is not compared.
    pub path: String,
    /// Text by section, such as `job.orders` or `plugin.pg.grant`.
    pub sections: BTreeMap<String, String>,
}

impl Log {
    /// The log in `dir` (files are made when something is written). Closed files older than `keep` are
    /// removed by a later run, once a record in a store anchors them.
    pub fn new(dir: &Path, host: Arc<HostKey>, keep: Duration) -> Self {
        Self { dir: dir.to_owned(), keys: Keys::own(host), keep }
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its keys.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Begins the chain of a run, and closes those of runs that were killed.
    ///
    /// Errors name the file: what cannot be written down does not happen.
    pub fn begin(&self, beginning: &Beginning) -> Result<Arc<Chain>> {
        let index = Index::new(&self.dir, &self.keys);
        let mut locked = index.lock()?;
        locked.close_dead()?;
        locked.retire(self.keep)?;
        locked.begin(self, beginning)
    }

    /// The same, without blocking the runtime.
    pub async fn begin_async(&self, beginning: Beginning) -> Result<Arc<Chain>> {
        let log = self.clone();
        tokio::task::spawn_blocking(move || log.begin(&beginning))
            .await
            .map_err(|e| Error::failed("the host failed while it began the audit log").because(e))?
    }

    /// A chain of one event of its own, outside a run: `approve`, or a plugin that could not be loaded.
    pub fn note(&self, beginning: &Beginning, event: Line, outcome: &str) -> Result<()> {
        let chain = self.begin(beginning)?;
        chain.append(event)?;
        chain.close(outcome)
    }
}
