//! One run of one verb for one job: the level that knows the story.
//!
//! Nothing here reads a configuration, prints, or knows what a component is.

pub mod artifact;
pub mod backup;
pub mod diagnose;
mod identity;
pub mod leftover;
pub mod prune;
pub mod restore;
pub mod retention;
pub mod scratch;
pub mod source;
pub mod trend;
pub mod unfinished;
pub mod verify;

pub use identity::LateIdentity;

use crate::audit::{Beginning, Chain, Configuration, Log, Recorder, Summary};
use crate::bucket::SharedBucket;
use crate::catalog::lease;
use crate::catalog::{Catalog, HostKey, Listed, Whereabouts};
use crate::clock;
use crate::cluster::{Clusters, Marks, PURPOSE_MARKS};
use crate::error::{Error, Result};
use crate::exec::Place;
use crate::id::{BackupId, Label};
use crate::metrics::Metrics;
use crate::plugin::Plugin;
use crate::plugin::context::{Artifacts, Level, Reporter, RunContext, Step};
use crate::plugin::limits::Limits;
use crate::plugin::verb::Made;
use crate::policy::narrowing::Narrowing;
use crate::policy::{Grants, Occasion, Policy, Verb};
use crate::progress::Progress;
use crate::record::{BackupRecord, HostIdentity, Outcome};
use crate::store::Store;
use crate::stream::{Budget, Compression, Recipients};
use scratch::Scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A job with everything it names resolved: ready to run any verb.
#[derive(Clone)]
pub struct Job {
    /// Its name.
    pub name: Label,
    /// Where its backups are kept.
    pub store: Arc<dyn Store>,
    /// Which backups there are, and whose are believed.
    pub catalog: Catalog,
    /// How artifacts are sealed.
    pub sealing: Sealing,
    /// What opens them, fetched when they are read.
    pub identity: Option<Arc<LateIdentity>>,
    /// The plugin, loaded and linked for these grants.
    pub plugin: Plugin,
    /// Its bytes, as they were loaded: kept beside the backups, and let go of when they are there.
    pub plugin_bytes: bytes::Bytes,
    /// The text of its signature, where that was checked: kept beside the backups as well.
    pub plugin_signature: Option<String>,
    /// The verb that it was made ready for.
    pub verb: Verb,
    /// What it may do in this job.
    pub grants: Grants,
    /// What is different in each verb.
    pub terms: BTreeMap<Verb, Terms>,
    /// What it may use.
    pub limits: Limits,
    /// Where its commands run.
    pub place: Arc<Place>,
    /// Buckets by label.
    pub buckets: BTreeMap<String, SharedBucket>,
    /// Clusters by label.
    pub clusters: Clusters,
    /// What its plugin may write and ask of metrics; the run that ends it merges what was written.
    pub metrics: Metrics,
    /// Its `settings`.
    pub settings: serde_json::Value,
    /// Signs records.
    pub host_key: Arc<HostKey>,
    /// Where what the plugin does is written down.
    pub audit: Log,
    /// The configuration that it comes from, as the log compares it.
    pub configuration: Configuration,
    /// Memory and workers of the process.
    pub budget: Arc<Budget>,
    /// Where scratch directories are made.
    pub scratch_root: PathBuf,
    /// Where file locks of this machine are.
    pub lock_dir: PathBuf,
    /// Where it is noted that a restore has begun to change its target.
    pub restore_notes: PathBuf,
    /// How long a lease must stand still before it is taken over.
    pub lease_duration: Duration,
    /// The identity of a source that the operator confirmed as a new one, for this run.
    pub new_source: Option<String>,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Ends everything.
    pub cancel: CancellationToken,
}

/// What is different in one verb of a job.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The grants that hold in it, of those of the job.
    pub narrowing: Option<Narrowing>,
    /// Names of the secrets that its commands are given in the job's own place.
    pub secrets: BTreeSet<String>,
}

/// How artifacts are sealed in a store.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// Who can open them; `None` without encryption.
    pub recipients: Option<Arc<Recipients>>,
    /// How hard, where a plugin does not say that it is of no use.
    pub compression: Compression,
    /// Parts of a segment; how large they are and how many are under way is the budget's.
    pub parts_per_segment: u32,
}

impl Job {
    /// What this run lends to its plugin, and the scratch directory that lives as long as the run.
    fn context(
        &self,
        verb: Verb,
        plan_only: bool,
        run: &BackupId,
        artifacts: Arc<dyn Artifacts>,
        cancel: &CancellationToken,
    ) -> Result<(RunContext, Scratch)> {
        if verb != self.verb {
            let (made, asked) = (self.verb.name(), verb.name());
            return Err(Error::failed(format!("job \"{}\" was made ready for {made}, and not for {asked}", self.name)));
        }
        let mut scratch = Scratch::make(&self.scratch_root, run, &self.place.run_in)?;
        let policy = Policy {
            plugin: self.plugin.label().to_owned(),
            grants: self.grants_for(verb),
            occasion: Occasion { verb, plan_only },
            settings: self.settings.clone(),
        };
        let guest_dir = policy.scratch().map(|_| scratch.make_for_guest()).transpose()?;
        let context = RunContext {
            guest_dir,
            policy: Arc::new(policy),
            place: self.place.clone(),
            buckets: self.buckets.clone(),
            // A verification may restore into a scratch place.
            clusters: self.clusters.of(matches!(verb, Verb::Restore | Verb::Verify)),
            marks: (verb == Verb::Backup || (verb == Verb::Restore && plan_only))
                .then(|| Arc::new(Marks::new(self.host_key.derive(PURPOSE_MARKS)))),
            restoring: self.clusters.restoring.clone(),
            artifacts,
            scratch: Some(scratch.path().to_owned()),
            reporter: Arc::new(Attributed { plugin: self.plugin.label().to_owned(), progress: self.progress.clone() }),
            metrics: self.metrics.clone(),
            limits: self.limits.clone(),
            cancel: cancel.clone(),
        };
        Ok((context, scratch))
    }

    /// What it may do in a verb.
    fn grants_for(&self, verb: Verb) -> Grants {
        let mut grants = self.grants.clone();
        if let Some(narrowing) = self.terms.get(&verb).and_then(|terms| terms.narrowing.as_ref()) {
            grants.narrow(narrowing);
        }
        grants
    }

    /// Begins the audit log of a run: which plugin it loads, and for what.
    async fn begin(&self, verb: Verb, dry: bool, run: &BackupId) -> Result<Arc<Chain>> {
        let beginning = Beginning {
            run: run.clone(),
            job: Some(self.name.to_string()),
            verb: verb.name(),
            dry,
            configuration: self.configuration.clone(),
        };
        let chain = self.audit.begin_async(beginning).await?;
        chain.set_plugin(&self.plugin.identity());
        chain.append(crate::audit::loaded(&self.plugin, &self.grants.ceilings))?;
        Ok(chain)
    }

    /// What writes a run's calls into its audit log.
    fn recorder(&self, chain: &Arc<Chain>, context: &RunContext) -> Arc<Recorder> {
        let summary = Summary::new(&self.host_key, self.place.secrets.redactor().clone());
        Recorder::new(chain.clone(), summary, context.policy.clone())
    }

    fn lease_request(&self, run: &BackupId) -> lease::Request {
        lease_request(&self.name, run, self.lease_duration, &self.lock_dir)
    }
}

/// Asks for the lease of a job in the name of this process.
fn lease_request(job: &Label, run: &BackupId, duration: Duration, lock_dir: &Path) -> lease::Request {
    lease::Request {
        job: job.clone(),
        run: run.clone(),
        holder: format!("{} process {}", machine(), std::process::id()),
        duration,
        lock_dir: lock_dir.to_owned(),
        pace: Arc::new(lease::Monotonic::new()),
    }
}

/// Closes the audit log of a run that changed nothing after its end: a log that cannot be closed fails it.
async fn closed<T>(chain: &Arc<Chain>, result: Result<T>) -> Result<T> {
    let ended = chain.close_async(outcome_word(&result)).await;
    // The first error wins.
    result.and_then(|value| ended.map(|()| value))
}

/// How a run ended, as the audit log says it.
fn outcome_word<T>(result: &Result<T>) -> &'static str {
    crate::audit::outcome(result.as_ref().err())
}

/// A backup that may be read: its signer is believed, and it is complete unless told otherwise.
fn readable(listed: &Listed, allow_incomplete: bool) -> Result<&BackupRecord> {
    let (job, id) = (&listed.job, &listed.id);
    let record = listed.trusted().ok_or_else(|| listed.not_believed())?;
    if record.outcome == Outcome::Incomplete && !allow_incomplete {
        let missing: Vec<_> = record.skipped.iter().take(8).map(|(what, why)| format!("{what} ({why})")).collect();
        let more = record.skipped.len().saturating_sub(missing.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Error::denied(format!("backup {id} of job \"{job}\" is incomplete"))
            .fact("missing", format!("{}{more}", missing.join(", ")))
            .hint("add --allow-incomplete to restore what there is, or choose another backup"));
    }
    Ok(record)
}

/// Says what happened to the names of a backup's objects before it is read. It is not the operator's
/// doing: everything here is written once.
fn say_tampered(progress: &Arc<dyn Progress>, listed: &Listed, found: &Whereabouts) {
    for text in listed.tampered.iter().chain(&found.tampered) {
        progress.warn(&format!("a name of backup {} was tampered with: {text}", listed.id));
    }
}

/// A backup as its plugin is told of it.
fn made(record: &BackupRecord) -> Made {
    Made {
        backup_id: record.id.to_string(),
        created_ms: clock::millis(record.started),
        plugin_version: record.plugin.version.clone(),
        settings: record.settings.clone(),
        source_id: record.source_id.clone(),
        facts: record.facts.clone(),
        skipped: record.skipped.clone(),
        state: record.state.clone(),
    }
}

/// Hands what the plugin says to whoever watches, with its name.
struct Attributed {
    plugin: String,
    progress: Arc<dyn Progress>,
}

impl Reporter for Attributed {
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        self.progress.log(level, &self.plugin, &format!("{message}{fields}"));
    }

    fn progress(&self, step: &str, done: u64, total: Option<u64>) {
        self.progress.stage(step, done, total);
    }

    fn step(&self, step: Step) {
        self.progress.step(&step);
    }
}

/// This host, as records name it.
fn host_identity() -> HostIdentity {
    HostIdentity { version: env!("CARGO_PKG_VERSION").to_owned(), machine: machine() }
}

/// The name of this machine, as records and metrics have it.
pub fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
