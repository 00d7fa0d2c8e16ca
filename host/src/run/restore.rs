//! Bringing a backup back, or saying what that would do.

use super::artifact::StoredArtifacts;
use super::unfinished::Note;
use super::{Job, made, readable};
use crate::catalog::Listed;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage, Point};
use crate::id::{BackupId, Label};
use crate::plugin::context::{CheckOutcome, Level, Step};
use crate::plugin::verb::RestoreRequest;
use crate::plugin::{Ended, HandleUse, Noted, Observer, Stop};
use crate::policy::kube::KubeVerb;
use crate::policy::storage::BucketVerb;
use crate::policy::{Call, Decision, Effect, Grants, Verb};
use crate::progress::Progress;
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How a restore is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Say what would be done, and change nothing.
    pub plan_only: bool,
    /// Restore a backup that is not whole.
    pub allow_incomplete: bool,
    /// The target that was named; `None` for where the job's commands run.
    pub into: Option<Label>,
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
    /// Whether the target was changed.
    pub changed_target: bool,
    /// How it ended. After an error the steps say what the target holds now.
    pub result: Result<()>,
}

/// Restores a backup. An error before the plugin was called is returned as such: nothing changed.
pub async fn restore(job: &Job, listed: &Listed, options: Options) -> Result<Restored> {
    let record = readable(listed, options.allow_incomplete)?.clone();
    let id = record.id.clone();
    if !options.plan_only && record.plugin.name != job.plugin.identity().name {
        return Err(Error::invalid(format!(
            "backup {id} was made by plugin \"{}\", and the job uses \"{}\"",
            record.plugin.name,
            job.plugin.identity().name
        ))
        .hint("set the job's plugin to the one that made it"));
    }
    let run = BackupId::generate(clock::now())?;
    let cancel = job.cancel.child_token();
    let plan_only = options.plan_only;
    let note = Arc::new(Note::new(&job.restore_notes, &job.name, options.into.as_ref()));
    if let Some(earlier) = note.earlier() {
        job.progress.warn(&earlier);
    }
    let steps = Arc::new(Steps { inner: job.progress.clone(), plan_only, seen: Mutex::default(), note: note.clone() });
    let mut job = job.clone();
    job.progress = steps.clone();

    let found = job.catalog.whereabouts(&record).await?;
    super::say_tampered(&job.progress, listed, &found);
    let artifacts = Arc::new(StoredArtifacts::new(&job, record.clone(), &cancel).from_store(found.store));
    artifacts.check_identity().await?;
    let request = RestoreRequest { settings: job.settings.clone(), options: options.plugin, backup: made(&record) };
    let chain = job.begin(Verb::Restore, plan_only, &run).await?;
    let (context, scratch) = job.context(Verb::Restore, plan_only, &run, artifacts, &cancel)?;
    let recorder = job.recorder(&chain, &context);
    let effects = Arc::new(Effects {
        grants: job.grants.clone(),
        backup: id.clone(),
        note: note.clone(),
        began: AtomicBool::new(false),
        pending: AtomicBool::new(false),
        inner: recorder.clone(),
    });
    failpoint::reach(Point::RestoreBegun);
    let result = match job.plugin.start_observed(context, effects.clone()).await {
        Ok(instance) => instance.restore(request).await,
        Err(error) => return super::closed(&chain, Err(error)).await,
    };
    // Also of a run that failed: what it did is what is asked for then.
    let told = recorder.finish();
    let result = result.and(told);
    drop(scratch);
    let result = match result {
        Err(_) if job.cancel.is_cancelled() => {
            Err(Error::cancelled(format!("the restore of backup {id} was cancelled")))
        }
        other => other,
    };
    failpoint::reach(Point::RestoreReturned);
    let result = match result {
        Ok(()) if !options.plan_only && !failpoint::is_broken(Breakage::SkipRestoreFlush) => flush(&job).await,
        other => other,
    };
    failpoint::reach(Point::RestoreFlushed);
    note.end();
    let taken = std::mem::take(&mut *steps.seen.lock().unwrap_or_else(PoisonError::into_inner));
    // The host knows by itself what may have changed something; a plugin's word can only add to it.
    let done = |step: &Step| matches!(step.outcome, CheckOutcome::Passed | CheckOutcome::Warned);
    let changed_target = !options.plan_only && (effects.began.load(Ordering::Acquire) || taken.iter().any(done));
    let failed = taken.iter().find(|step| step.outcome == CheckOutcome::Failed);
    let result = match (result, failed) {
        (Ok(()), Some(step)) if !options.plan_only => {
            Err(Error::failed(format!("a step of the restore of backup {id} failed"))
                .fact("step", format!("{} {}", step.action, step.target))
                .fact("note", step.note.clone()))
        }
        (result, _) => result,
    };
    let result = super::closed(&chain, result).await;
    Ok(Restored { id, steps: taken, changed_target, result })
}

/// Notices the first call that may have changed the target, whatever the plugin says of it.
struct Effects {
    grants: Grants,
    backup: BackupId,
    note: Arc<Note>,
    began: AtomicBool,
    /// The call that is being made may change something. A guest makes one call at a time.
    pending: AtomicBool,
    /// Sees everything that this one sees.
    inner: Arc<dyn Observer>,
}

#[async_trait]
impl Observer for Effects {
    async fn decided(&self, function: &'static str, call: &Call<'_>, decision: &Decision) -> Result<Noted> {
        let changes = match call {
            Call::Exec(exec) => {
                self.grants.exec.get(exec.command).is_some_and(|grant| grant.when.effect == Effect::Changes)
            }
            Call::Bucket(bucket) => bucket.verb.is_some_and(BucketVerb::changes),
            Call::Kube(kube) => kube.verb.is_some_and(KubeVerb::changes),
            Call::Artifact(_) | Call::Scratch | Call::Metrics(_) | Call::Read { .. } => false,
        };
        let noted = self.inner.decided(function, call, decision).await?;
        self.pending.store(decision.allowed && changes, Ordering::Release);
        if decision.allowed && changes {
            // A restore is needed most where a disk is full: it is not refused for a note.
            if let Err(error) = self.note.begin(&self.backup) {
                tracing::warn!(%error, "if this restore is interrupted, the next one will not say so");
            }
            failpoint::reach(Point::RestoreChanging);
        }
        Ok(noted)
    }

    fn ended(&self, ended: &Ended<'_>) -> Result<()> {
        // A write goes on while the guest makes other calls, and nobody knows what one that failed has left.
        let behind = ended.call.is_none() && ended.function == "storage.bucket.write";
        // Of the others, a program that was not there, or a call that was malformed, did nothing.
        let nothing =
            ended.error.is_some_and(|error| matches!(error.kind(), Kind::NotFound | Kind::Denied | Kind::Invalid));
        if behind || (self.pending.swap(false, Ordering::AcqRel) && !nothing) {
            self.began.store(true, Ordering::Release);
        }
        self.inner.ended(ended)
    }

    fn closed(&self, used: &HandleUse) {
        self.inner.closed(used);
    }

    fn stopped(&self, how: Stop, message: &str) {
        self.inner.stopped(how, message);
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
}

/// What was written into buckets is durable before a restore is called done.
async fn flush(job: &Job) -> Result<()> {
    for bucket in job.buckets.values() {
        let bucket = bucket.clone();
        tokio::task::spawn_blocking(move || bucket.flush())
            .await
            .map_err(|e| Error::failed("the thread that flushes a bucket ended badly").because(e))??;
    }
    Ok(())
}

/// Hands progress on, and keeps the steps. Those of a plan are kept only: nothing was done.
struct Steps {
    inner: Arc<dyn Progress>,
    plan_only: bool,
    seen: Mutex<Vec<Step>>,
    note: Arc<Note>,
}

impl Progress for Steps {
    fn artifact_started(&self, name: &str) {
        self.inner.artifact_started(name);
    }
    fn artifact_bytes(&self, name: &str, read: u64, stored: u64) {
        self.inner.artifact_bytes(name, read, stored);
    }
    fn artifact_done(&self, name: &str, read: u64, stored: u64) {
        self.inner.artifact_done(name, read, stored);
    }
    fn artifact_dropped(&self, name: &str) {
        self.inner.artifact_dropped(name);
    }
    fn stage(&self, name: &str, done: u64, total: Option<u64>) {
        self.inner.stage(name, done, total);
    }
    fn step(&self, step: &Step) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(step.clone());
        if !self.plan_only {
            self.note.step(step);
            self.inner.step(step);
        }
    }
    fn warn(&self, text: &str) {
        self.inner.warn(text);
    }
    fn log(&self, level: Level, plugin: &str, text: &str) {
        self.inner.log(level, plugin, text);
    }
    fn finish(&self) {
        self.inner.finish();
    }
}
