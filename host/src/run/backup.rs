//! The story of a backup, from top to bottom.

use super::artifact::NewArtifacts;
use super::{Job, made, source, trend};
use crate::audit::Chain;
use crate::catalog::lease::Lease;
use crate::catalog::{Listed, NotCommitted, Survey, layout};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage, Point};
use crate::id::BackupId;
use crate::plugin::verb::BackupRequest;
use crate::policy::Verb;
use crate::record::{BackupRecord, FORMAT, Outcome};
use crate::store::discard::DiscardStore;
use crate::stream::Compression;
use bytes::Bytes;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Makes a backup of `job`.
///
/// Guarantee: when this returns a record, the record is in the store and every byte that it names
/// was acknowledged with a matching checksum. When it returns an error there is no record, and what
/// was stored under the id has been removed; if the store cannot be reached for that, the error
/// says so.
pub async fn backup(mut job: Job) -> Result<BackupRecord> {
    // Let go of when they are stored: a long run has no use for them.
    let plugin_bytes = std::mem::take(&mut job.plugin_bytes);
    let id = BackupId::generate(clock::now())?;
    let chain = job.begin(Verb::Backup, false, &id).await?;
    let result = under_lease(&job, plugin_bytes, &id, &chain).await;
    let ended = chain.close_async(super::outcome_word(&result)).await;
    if let (Ok(_), Err(error)) = (&result, ended) {
        // The backup is there, and says how long its log was before it was recorded.
        job.progress.warn(&format!("the audit log of this backup could not be closed: {error}"));
    }
    result
}

async fn under_lease(job: &Job, plugin_bytes: Bytes, id: &BackupId, chain: &Arc<Chain>) -> Result<BackupRecord> {
    let cancel = job.cancel.child_token();
    let lease = Lease::take(&job.store, job.lease_request(id), &cancel).await?;
    failpoint::reach(Point::LeaseTaken);
    if let Some(warning) = &lease.warning {
        job.progress.warn(warning);
    }
    let result = match make(job, plugin_bytes, id, chain, &cancel).await {
        Ok(record) => Ok(record),
        Err(Unmade::Unknown(error)) => Err(leave(job, id, error)),
        Err(Unmade::Failed(error)) => Err(clean_up(job, id, error).await),
    };
    failpoint::reach(Point::LeaseReleasing);
    let released = lease.release().await;
    failpoint::reach(Point::LeaseReleased);
    match (result, released) {
        // The lease was taken over, which cancelled the run: that is what happened, and not that
        // the operator stopped it.
        (Err(error), Err(lost)) if error.kind() == Kind::Cancelled && !job.cancel.is_cancelled() => Err(lost),
        (result, Err(error)) => {
            job.progress.warn(&format!(
                "could not give the job's lease back ({error}): the next run waits until it has stood still"
            ));
            result
        }
        (result, Ok(())) => result,
    }
}

/// Why there is no backup, or may be none.
enum Unmade {
    /// There is none: what was stored is removed.
    Failed(Error),
    /// The record may be there: nothing is removed.
    Unknown(Error),
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Goes through a whole backup into a store that keeps nothing, and writes no record: what would be
/// stored.
pub async fn dry_run(job: &Job) -> Result<BackupRecord> {
    let id = BackupId::generate(clock::now())?;
    let mut job = job.clone();
    let earlier = job.catalog.backups(&job.name).await?;
    job.store = Arc::new(DiscardStore::new());
    let cancel = job.cancel.child_token();
    let chain = job.begin(Verb::Backup, true, &id).await?;
    let collected = collect(&job, &id, &earlier, &chain, &cancel).await;
    let (record, _) = super::closed(&chain, collected).await?;
    Ok(record)
}

async fn make(
    job: &Job,
    plugin_bytes: Bytes,
    id: &BackupId,
    chain: &Arc<Chain>,
    cancel: &CancellationToken,
) -> std::result::Result<BackupRecord, Unmade> {
    check_lock(job).await?;
    let survey = job.catalog.survey(&job.name).await?;
    say_what_was_interrupted(job, &survey).await;
    let earlier = survey.backups;
    let sha256 = job.plugin.identity().sha256;
    job.catalog.keep_plugin(&sha256, &plugin_bytes).await?;
    drop(plugin_bytes);
    if let Some(signature) = &job.plugin_signature {
        job.catalog.keep_signature(&sha256, signature).await?;
    }
    failpoint::reach(Point::PluginKept);
    if failpoint::is_broken(Breakage::RecordFirst) {
        record_first(job, id, &earlier).await?;
    }

    let (mut record, artifacts) = collect(job, id, &earlier, chain, cancel).await?;

    if !failpoint::is_broken(Breakage::SkipConfirm) {
        artifacts.confirm().await?;
    }
    failpoint::reach(Point::BackupConfirmed);
    if cancel.is_cancelled() {
        return Err(Error::cancelled(format!("backup {id} was cancelled before its record was written")).into());
    }
    let anchor = anchor(chain).await?;
    record.extra.insert(BackupRecord::AUDIT.to_owned(), anchor);
    if failpoint::is_broken(Breakage::RecordFirst) {
        job.store.delete(&layout::record(&job.name, id)?, None).await?;
    }
    match job.catalog.commit(&record, &job.host_key).await {
        Ok(()) => Ok(record),
        Err(NotCommitted::Refused(error)) => Err(Unmade::Failed(error)),
        Err(NotCommitted::Unknown(error)) => Err(Unmade::Unknown(error)),
    }
}

/// What a system does that updates its records: one that names what the last backup had, before
/// anything of it is there. Never called but to see a test fail.
async fn record_first(job: &Job, id: &BackupId, earlier: &[Listed]) -> Result<()> {
    let Some(last) = earlier.iter().rev().find_map(Listed::trusted) else { return Ok(()) };
    let early = BackupRecord { id: id.clone(), ..last.clone() };
    job.catalog
        .commit(&early, &job.host_key)
        .await
        .map_err(|(NotCommitted::Refused(error) | NotCommitted::Unknown(error))| error)
}

/// A store that is to lock what it keeps must be able to: found before anything is stored. `Failed` if not.
async fn check_lock(job: &Job) -> Result<()> {
    if job.store.object_lock().is_none() || job.store.properties().await?.object_lock != Some(false) {
        return Ok(());
    }
    Err(Error::failed("the store cannot lock objects, and its configuration asks for it")
        .fact("store", job.store.describe())
        .fact("expected", "object lock turned on for the bucket")
        .hint("make a bucket with object lock turned on (most servers do it only when a bucket is made), or remove `object_lock` from the store"))
}

/// The audit log so far, on the disk, as the record holds it.
async fn anchor(chain: &Arc<Chain>) -> Result<serde_json::Value> {
    let chain = chain.clone();
    let anchor = tokio::task::spawn_blocking(move || chain.anchor())
        .await
        .map_err(|e| Error::failed("the host failed while it anchored the audit log").because(e))??;
    serde_json::to_value(anchor).map_err(|e| Error::failed("could not write the anchor of the audit log").because(e))
}

/// Runs the plugin, and gathers what it stored and said into a record that is not yet written.
async fn collect(
    job: &Job,
    id: &BackupId,
    earlier: &[Listed],
    chain: &Arc<Chain>,
    cancel: &CancellationToken,
) -> Result<(BackupRecord, Arc<NewArtifacts>)> {
    let started = clock::now();
    let good: Vec<&BackupRecord> = earlier.iter().filter(|b| b.is_good()).filter_map(Listed::trusted).collect();
    let artifacts = Arc::new(NewArtifacts::new(job, id, cancel));

    let request = BackupRequest { settings: job.settings.clone(), previous: good.last().map(|record| made(record)) };
    let (context, _scratch) = job.context(Verb::Backup, false, id, artifacts.clone(), cancel)?;
    let recorder = job.recorder(chain, &context);
    let answer = match job.plugin.start_observed(context, recorder.clone()).await {
        Ok(instance) => instance.backup(request).await,
        Err(error) => Err(error),
    };
    job.budget.let_go();
    // Also of a run that failed.
    let told = recorder.finish();
    let (stored, mut skipped) = artifacts.close(answer.is_err()).await?;
    let report = answer?;
    told?;

    if stored.is_empty() {
        return Err(Error::failed(format!("plugin \"{}\" reported success and stored nothing", job.plugin.label()))
            .hint("a backup without an artifact is not one; this is a fault of the plugin"));
    }
    // What the plugin reports, and what the host knows besides.
    skipped.retain(|(what, _)| report.skipped.iter().all(|(reported, _)| reported != what));
    skipped.splice(0..0, report.skipped);
    let mut record = BackupRecord {
        format: FORMAT,
        job: job.name.clone(),
        id: id.clone(),
        started,
        finished: clock::now(),
        outcome: if skipped.is_empty() { Outcome::Complete } else { Outcome::Incomplete },
        plugin: job.plugin.identity(),
        host: super::host_identity(),
        settings: job.settings.clone(),
        source_id: report.source_id,
        artifacts: stored,
        facts: report.facts,
        skipped,
        not_captured: report.not_captured,
        needs: parse_needs(job, &report.needs)?,
        state: report.state,
        warnings: Vec::new(),
        extra: Default::default(),
    };
    if job.sealing.compression == Compression::Auto {
        record.extra.insert(BackupRecord::LEVEL.to_owned(), "auto".into());
    }
    source::check(job, &mut record, earlier)?;
    record.warnings = trend::warnings(&record, &good);
    for warning in &record.warnings {
        job.progress.warn(warning);
    }
    Ok((record, artifacts))
}

/// A run that was killed could not say so: the next one does. It begins anew under an id of its own,
/// and what was left is removed by its age.
async fn say_what_was_interrupted(job: &Job, survey: &Survey) {
    match job.catalog.interrupted(&job.name, survey).await {
        Ok(left) => {
            if let Some(newest) = left.last() {
                let runs =
                    if left.len() == 1 { "1 earlier run".to_owned() } else { format!("{} earlier runs", left.len()) };
                job.progress.warn(&format!(
                    "{runs} of job \"{0}\" did not end and left no backup, the newest {newest}: this one begins anew; `strongroom prune {0} --orphans` removes what is left once it is a week old",
                    job.name
                ));
            }
        }
        // It is good to know, and no reason to have no backup.
        Err(error) => tracing::info!(job = %job.name, %error, "could not look for what earlier runs left"),
    }
}

fn parse_needs(job: &Job, needs: &[String]) -> Result<Vec<BackupId>> {
    needs
        .iter()
        .map(|id| id.parse::<BackupId>())
        .collect::<Result<_>>()
        .map_err(|error| error.while_doing(format!("plugin \"{}\" named a backup that it needs", job.plugin.label())))
}

/// Leaves everything where it is: the record may be there, or still be on its way.
fn leave(job: &Job, id: &BackupId, error: Error) -> Error {
    Error::new(error.kind(), format!("it is not known whether backup {id} of job \"{}\" was recorded", job.name))
        .fact("where", job.store.describe())
        .hint(format!("everything was stored and nothing was removed; when the store answers again, `strongroom show {} {id}` tells whether the backup exists", job.name))
        .because(error)
}

/// Removes what a failed run stored. The first error wins; what could not be removed is added to it.
async fn clean_up(job: &Job, id: &BackupId, error: Error) -> Error {
    match job.catalog.discard(&job.name, id).await {
        Ok(_) => error,
        Err(left) => {
            let folder =
                layout::record(&job.name, id).map(|key| key.as_str().trim_end_matches("record.json").to_owned());
            let folder = folder.unwrap_or_default();
            tracing::warn!(%folder, error = %left, "could not remove what the failed run stored");
            error.fact(
                "left behind",
                format!("objects under \"{folder}\" in {} ({left}); they are not a backup", job.store.describe()),
            )
        }
    }
}
