//! Bringing a backup back, or saying what that would do.

use super::artifact::StoredArtifacts;
use super::progress::Progress;
use super::{Job, readable};
use crate::catalog::Listed;
use crate::clock;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::plugin::context::{CheckOutcome, Level, Step};
use crate::plugin::verb::{Made, RestoreRequest};
use crate::policy::Verb;
use std::sync::{Arc, Mutex, PoisonError};

/// How a restore is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Say what would be done, and change nothing.
    pub plan_only: bool,
    /// Restore a backup that is not whole.
    pub allow_incomplete: bool,
    /// Options of the plugin: those of the target, then those of the command line.
    pub plugin: serde_json::Value,
}

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// The backup.
    pub id: BackupId,
    /// Every step, in the order in which it happened.
    pub steps: Vec<Step>,
    /// How it ended. After an error the steps say what the target holds now.
    pub result: Result<()>,
}

impl Restored {
    /// Whether the target was changed before it stopped.
    pub fn changed_target(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.outcome, CheckOutcome::Passed | CheckOutcome::Warned | CheckOutcome::Failed))
    }
}

/// Restores a backup. An error before the plugin was called is returned as such: nothing changed.
pub async fn restore(job: &Job, listed: &Listed, options: Options) -> Result<Restored> {
    let record = readable(listed, options.allow_incomplete)?.clone();
    let id = record.id.clone();
    if !options.plan_only && record.plugin.name != job.plugin.name() {
        return Err(Error::invalid(format!("backup {id} was made by plugin \"{}\", and the job uses \"{}\"", record.plugin.name, job.plugin.name()))
            .hint("set the job's plugin to the one that made it"));
    }
    let run = BackupId::generate(clock::now())?;
    let cancel = job.cancel.child_token();
    let steps = Arc::new(Steps { inner: job.progress.clone(), seen: Mutex::default() });
    let mut job = job.clone();
    job.progress = steps.clone();

    job.progress.stage(if options.plan_only { "planning" } else { "restoring" });
    let artifacts = Arc::new(StoredArtifacts::new(&job, record.clone(), &cancel));
    let request = RestoreRequest {
        settings: job.settings.to_string(),
        options: options.plugin.to_string(),
        plan_only: options.plan_only,
        backup: Made::from_record(&record),
    };
    let (context, scratch) = job.context(Verb::Restore, options.plan_only, &run, artifacts, &cancel)?;
    let result = job.plugin.start(context).await?.restore(request).await;
    drop(scratch);
    let result = match result {
        Err(_) if job.cancel.is_cancelled() => Err(Error::cancelled(format!("the restore of backup {id} was cancelled"))),
        other => other,
    };
    let taken = std::mem::take(&mut *steps.seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Restored { id, steps: taken, result })
}

/// Hands progress on, and keeps the steps.
struct Steps {
    inner: Arc<dyn Progress>,
    seen: Mutex<Vec<Step>>,
}

impl Progress for Steps {
    fn stage(&self, stage: &str) {
        self.inner.stage(stage);
    }

    fn artifact_started(&self, name: &str) {
        self.inner.artifact_started(name);
    }

    fn artifact_bytes(&self, name: &str, bytes: u64) {
        self.inner.artifact_bytes(name, bytes);
    }

    fn artifact_done(&self, name: &str, bytes: u64, stored_bytes: u64) {
        self.inner.artifact_done(name, bytes, stored_bytes);
    }

    fn artifact_failed(&self, name: &str, reason: &str) {
        self.inner.artifact_failed(name, reason);
    }

    fn plugin_progress(&self, plugin: &str, step: &str, done: u64, total: Option<u64>) {
        self.inner.plugin_progress(plugin, step, done, total);
    }

    fn plugin_log(&self, plugin: &str, level: Level, message: &str, fields: &[(String, String)]) {
        self.inner.plugin_log(plugin, level, message, fields);
    }

    fn restore_step(&self, step: &Step) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(step.clone());
        self.inner.restore_step(step);
    }

    fn warning(&self, text: &str) {
        self.inner.warning(text);
    }
}
