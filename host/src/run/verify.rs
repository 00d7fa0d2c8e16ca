//! Is this backup good? Three depths, each of which proves more.
//!
//! `stored`: the bytes at rest are those of the record; needs neither key nor plugin.
//! `contents`: every artifact decrypts, decodes and is the plaintext that was recorded, and the
//! component's own reader accepts it. `restore`: a restore into a scratch place brought back what
//! the facts say.

use super::artifact::StoredArtifacts;
use super::{Job, made, readable};
use crate::audit::{Beginning, Configuration, Log};
use crate::catalog::{Catalog, HostKey, Listed, Verification, Whereabouts, verified};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::BackupId;
use crate::plugin::context::{Check, CheckOutcome};
use crate::plugin::verb::{Depth, VerifyRequest};
use crate::policy::Verb;
use crate::progress::Progress;
use crate::record::{ArtifactRecord, BackupRecord};
use crate::store::StoreSegments;
use crate::stream::{Budget, check_stored};
use crate::unit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// What a verification found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// How deep it was looked.
    pub depth: &'static str,
    /// The findings: the host's own first, then the plugin's.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != CheckOutcome::Failed)
    }
}

/// What a verification of stored bytes needs: neither key of the store nor plugin, and no configuration
/// but the store's.
pub struct Stored<'a> {
    /// Where the backup is.
    pub catalog: &'a Catalog,
    /// Signs what is kept of it.
    pub key: &'a HostKey,
    /// Where it is written down.
    pub audit: &'a Log,
    /// The configuration, as the log compares it.
    pub configuration: Configuration,
    /// Memory and workers.
    pub budget: &'a Arc<Budget>,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// Ends it.
    pub cancel: &'a CancellationToken,
}

/// Compares the bytes at rest with the record.
pub async fn verify_stored(with: Stored<'_>, listed: &Listed) -> Result<Verdict> {
    let beginning = Beginning {
        run: BackupId::generate(clock::now())?,
        job: Some(listed.job.to_string()),
        verb: "verify-stored",
        dry: false,
        configuration: with.configuration.clone(),
    };
    let chain = with.audit.begin_async(beginning).await?;
    let compared = compare_stored(&with, listed).await;
    super::closed(&chain, compared).await
}

async fn compare_stored(with: &Stored<'_>, listed: &Listed) -> Result<Verdict> {
    let Stored { catalog, budget, progress, cancel, .. } = *with;
    let record = readable(listed, true)?;
    let found = catalog.whereabouts(record).await?;
    let mut checks: Vec<Check> = names_check(listed, &found).into_iter().collect();
    for artifact in &record.artifacts {
        let segments =
            StoreSegments::new(found.store.clone(), &record.job, &record.id, &artifact.name, artifact.encrypted)?;
        let read = AtomicU64::new(0);
        let name = artifact.name.as_str();
        progress.artifact_started(name);
        let moved =
            |n| progress.artifact_bytes(name, read.fetch_add(n, Ordering::Relaxed) + n, artifact.stored_bytes());
        let found = check_stored(artifact, &segments, budget, moved, cancel.child_token()).await;
        match &found {
            Ok(()) => progress.artifact_done(name, artifact.stored_bytes(), artifact.stored_bytes()),
            Err(_) => progress.artifact_dropped(name),
        }
        checks.push(artifact_check("host.stored", "stored bytes", artifact, found)?);
        failpoint::reach(Point::VerifyRead);
    }
    let verdict = Verdict { id: record.id.clone(), depth: "stored", checks };
    keep(catalog, with.key, record, &verdict).await;
    Ok(verdict)
}

/// Verifies a backup with its plugin. `place_given` says that a target was named, whose place and
/// options the job has: without it a verification by restore is refused unless `on_source`.
pub async fn verify(job: &Job, listed: &Listed, depth: Depth, options: serde_json::Value) -> Result<Verdict> {
    let record = readable(listed, true)?.clone();
    let run = BackupId::generate(clock::now())?;
    let cancel = job.cancel.child_token();
    let found = job.catalog.whereabouts(&record).await?;
    let artifacts = StoredArtifacts::new(job, record.clone(), &cancel).from_store(found.store.clone());
    artifacts.check_identity().await?;

    let request = VerifyRequest { settings: job.settings.clone(), depth, backup: made(&record), options };
    let chain = job.begin(Verb::Verify, false, &run).await?;
    let (context, scratch) = job.context(Verb::Verify, false, &run, Arc::new(artifacts.clone()), &cancel)?;
    failpoint::reach(Point::VerifyBegun);
    let recorder = job.recorder(&chain, &context);
    let answer = match job.plugin.start_observed(context, recorder.clone()).await {
        Ok(instance) => {
            let found = instance.verify(request).await;
            let told = recorder.finish();
            found.and_then(|found| told.map(|()| found))
        }
        Err(error) => return super::closed(&chain, Err(error)).await,
    };
    drop(scratch);
    let answer = super::closed(&chain, answer).await;
    if job.cancel.is_cancelled() {
        return Err(Error::cancelled(format!("the verification of backup {} was cancelled", record.id)));
    }

    // That the bytes are those recorded is the host's own check: it reads what the plugin did not.
    let mut checks: Vec<Check> = names_check(listed, &found).into_iter().collect();
    for artifact in &record.artifacts {
        let proven = if artifacts.is_proven(&artifact.name) { Ok(()) } else { artifacts.read_through(artifact).await };
        checks.push(artifact_check("host.artifact", "decrypted, decoded and compared", artifact, proven)?);
        failpoint::reach(Point::VerifyRead);
    }
    let damaged = checks.iter().any(|check| check.outcome == CheckOutcome::Failed);
    let looked = |checks: &[Check]| checks.iter().any(|check| check.outcome != CheckOutcome::Skipped);
    match answer {
        // Bytes that are as recorded are no test restore.
        Ok(found) if depth == Depth::Restore && !looked(&found) => {
            checks.extend(found);
            checks.push(not_restored(job));
        }
        Ok(found) => checks.extend(found),
        // The damage is named above; what the plugin made of it is only a consequence.
        Err(error) if damaged => checks.push(plugin_failed(job, &error)),
        Err(error) => return Err(error),
    }
    let verdict = Verdict { id: record.id.clone(), depth: depth_name(depth), checks };
    keep(&job.catalog, &job.host_key, &record, &verdict).await;
    Ok(verdict)
}

fn depth_name(depth: Depth) -> &'static str {
    match depth {
        Depth::Contents => "contents",
        Depth::Restore => "restore",
    }
}

fn artifact_check(id: &str, how: &str, artifact: &ArtifactRecord, found: Result<()>) -> Result<Check> {
    let sizes = format!(
        "{} in {} segment(s), {} at rest",
        unit::bytes(artifact.size),
        artifact.segments.len(),
        unit::bytes(artifact.stored_bytes())
    );
    let (outcome, evidence, causes, remedies) = match found {
        Ok(()) => (CheckOutcome::Passed, format!("{how}: {sizes}, blake3 {}", artifact.blake3), vec![], vec![]),
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
            let mut evidence = error.message().to_owned();
            for (label, value) in error.facts() {
                evidence.push_str(&format!("; {label}: {value}"));
            }
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                evidence.push_str(&format!(": {next}"));
                cause = next;
            }
            let causes = vec![
                "the store lost or changed bytes (disk, bit rot, an interrupted copy)".to_owned(),
                "somebody changed or removed objects of the backup".to_owned(),
            ];
            let remedies = vec![
                "strongroom list: choose another backup, and make a new one now".to_owned(),
                "check the store's own logs and disks before trusting it again".to_owned(),
            ];
            (CheckOutcome::Failed, evidence, causes, remedies)
        }
        Err(error) => return Err(error),
    };
    Ok(Check {
        id: id.to_owned(),
        title: format!("artifact \"{}\"", artifact.name),
        outcome,
        evidence,
        causes,
        remedies,
    })
}

/// Names that stand for something else now: the backup is whole all the same, in older versions.
fn names_check(listed: &Listed, found: &Whereabouts) -> Option<Check> {
    let tampered: Vec<&str> = listed.tampered.iter().chain(&found.tampered).map(String::as_str).collect();
    if tampered.is_empty() {
        return None;
    }
    Some(Check {
        id: "host.names".to_owned(),
        title: "names in the store".to_owned(),
        outcome: CheckOutcome::Warned,
        evidence: format!("tampered with: {}", tampered.join("; ")),
        causes: vec!["somebody with the store's credentials overwrote or deleted what is written once".to_owned()],
        remedies: vec![
            "give this host new credentials, and find out who used the old ones".to_owned(),
            "copy the backup elsewhere before its versions can be removed".to_owned(),
        ],
    })
}

fn plugin_failed(job: &Job, error: &Error) -> Check {
    Check {
        id: "host.plugin".to_owned(),
        title: format!("plugin \"{}\" could not finish its own checks", job.plugin.label()),
        outcome: CheckOutcome::Failed,
        evidence: error.to_string(),
        causes: vec!["the damage named above".to_owned()],
        remedies: Vec::new(),
    }
}

fn not_restored(job: &Job) -> Check {
    Check {
        id: "host.restored".to_owned(),
        title: "the test restore".to_owned(),
        outcome: CheckOutcome::Failed,
        evidence: format!("plugin \"{}\" checked nothing", job.plugin.label()),
        causes: vec!["it had no place to restore into, or nothing to compare with".to_owned()],
        remedies: vec![
            "give it a target with the options that it needs: strongroom plugin inspect shows them".to_owned(),
        ],
    }
}

async fn keep(catalog: &Catalog, key: &HostKey, record: &BackupRecord, verdict: &Verdict) {
    let worth_keeping = |check: &&Check| matches!(check.outcome, CheckOutcome::Failed | CheckOutcome::Warned);
    let found = Verification {
        job: record.job.clone(),
        id: record.id.clone(),
        at: clock::now(),
        depth: verdict.depth.to_owned(),
        passed: verdict.passed(),
        findings: verdict.checks.iter().filter(worth_keeping).map(|c| (c.id.clone(), c.evidence.clone())).collect(),
    };
    // What was found is said all the same: verifying needs no right to write.
    failpoint::reach(Point::VerifyWriting);
    if let Err(error) = verified::write(catalog.store(), &found, key).await {
        tracing::warn!(%error, "could not keep what the verification found");
    }
    failpoint::reach(Point::VerifyWritten);
}
