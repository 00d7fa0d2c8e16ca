//! The story of a prune, from top to bottom.
//!
//! What is kept is decided in [`super::retention`], what becomes of folders without a backup in
//! [`super::leftover`]; both are pure. Here the store is asked and told. Nothing is removed that the
//! plan did not show, and nothing while another run of the job is at work.

use super::leftover::{Fate, Folder, is_abandoned};
use super::retention::{Candidate, Keep, Proof, Verdict, decide};
use crate::catalog::lease::{self, Lease};
use crate::catalog::{Catalog, HostKey, Listed, Standing, Verification, layout};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::{BackupId, Label};
use crate::progress::Progress;
use crate::record::Outcome;
use crate::store::{PendingUpload, check};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Folders of no job, whose uploads take moments: one that is a week old was abandoned.
const SHARED: [&str; 2] = [layout::PLUGINS, check::FOLDER];

/// Folders that are looked into at the same time.
const FOLDERS_IN_FLIGHT: usize = 8;

/// A job whose old backups are to be removed, with everything that this needs. No plugin is loaded.
#[derive(Clone)]
pub struct Request {
    /// The job.
    pub job: Label,
    /// The store's catalogue.
    pub catalog: Catalog,
    /// What is kept.
    pub keep: Keep,
    /// Whose days, weeks, months and years are meant.
    pub zone: TimeZone,
    /// Whether folders and uploads of runs that made no backup are removed too.
    pub with_orphans: bool,
    /// Signs the notes of what was removed.
    pub host_key: Arc<HostKey>,
    /// Where file locks of this machine are.
    pub lock_dir: PathBuf,
    /// How long a lease must stand still before it is taken over.
    pub lease_duration: Duration,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Ends everything.
    pub cancel: CancellationToken,
}

/// What would be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The store's clock when it was made.
    pub now: Timestamp,
    /// Every backup, oldest first, kept or not.
    pub backups: Vec<Planned>,
    /// Every folder that holds no backup, in the order of their ids.
    pub folders: Vec<Left>,
    /// Every upload that was begun and neither completed nor aborted.
    pub uploads: Vec<Begun>,
}

/// A backup of a plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What is recorded.
    pub listed: Listed,
    /// What is decided.
    pub verdict: Verdict,
}

/// A folder without a backup.
#[derive(Clone, Debug)]
pub struct Left {
    /// What was found.
    pub folder: Folder,
    /// What becomes of it.
    pub fate: Fate,
    /// Objects and versions in it.
    pub n_objects: usize,
    /// Their bytes.
    pub stored_bytes: u64,
}

/// An upload that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The upload.
    pub upload: PendingUpload,
    /// When its last part was stored, by the store's clock.
    pub last_part: Timestamp,
    /// Whether it is aborted.
    pub is_abandoned: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Backups whose records were removed.
    pub backups: Vec<BackupId>,
    /// Folders that were emptied.
    pub folders: Vec<BackupId>,
    /// Objects and versions that were removed from them.
    pub n_objects: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Versions that were to be removed and are locked.
    pub n_locked: u64,
    /// Uploads that were aborted.
    pub n_uploads: u64,
    /// Why something that was planned was not done; the rest was.
    pub failed: Option<Error>,
}

impl Planned {
    /// The other backups that restoring it needs.
    fn needs(&self) -> impl Iterator<Item = &BackupId> {
        let needs = self.listed.trusted().into_iter().flat_map(|record| &record.needs);
        needs.filter(|id| **id != self.listed.id)
    }
}

impl Plan {
    /// The backups that are removed, in the order in which they go: what needs another one goes before it, whatever
    /// the clocks said when they were made, and otherwise the newest first. A circle ends with its newest.
    pub fn removed(&self) -> Vec<&Planned> {
        let mut left: Vec<_> = self.backups.iter().rev().filter(|planned| !planned.verdict.is_kept()).collect();
        let mut n_needing: BTreeMap<&BackupId, usize> = BTreeMap::new();
        for needed in left.iter().flat_map(|planned| planned.needs()) {
            *n_needing.entry(needed).or_default() += 1;
        }
        let mut ordered = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let is_free = |planned: &&Planned| n_needing.get(&planned.listed.id).is_none_or(|n| *n == 0);
            let next = left.remove(left.iter().position(is_free).unwrap_or(0));
            for needed in next.needs() {
                n_needing.entry(needed).and_modify(|n| *n -= 1);
            }
            ordered.push(next);
        }
        ordered
    }

    /// The folders that are removed.
    pub fn emptied(&self) -> impl Iterator<Item = &Left> {
        self.folders.iter().filter(|left| matches!(left.fate, Fate::Remove(_)))
    }

    /// The uploads that are aborted.
    pub fn aborted(&self) -> impl Iterator<Item = &PendingUpload> {
        self.uploads.iter().filter(|begun| begun.is_abandoned).map(|begun| &begun.upload)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.removed().is_empty() && self.emptied().next().is_none() && self.aborted().next().is_none()
    }
}

/// Says what would be done, and changes nothing. Needs no lease.
///
/// Errors: those of the store; `Denied`, `Damaged` or `Failed` when a record of the job is not
/// believed or cannot be read, since nobody can say what it needs.
pub async fn plan(request: &Request) -> Result<Plan> {
    let leased = lease::held_by(request.catalog.store(), &request.job).await?;
    draw_up(request, leased.as_ref()).await
}

/// Does what `shown` says, as far as it is still what should be done once the job's lease is held.
///
/// Guarantee: a backup exists until its record is removed, and from then on its data stays for
/// [`super::leftover::GRACE`]; cancelled or killed at any moment, the next prune goes on.
pub async fn prune(request: &Request, shown: &Plan) -> Result<Pruned> {
    let run = BackupId::generate(clock::now())?;
    let cancel = request.cancel.child_token();
    let asked = super::lease_request(&request.job, &run, request.lease_duration, &request.lock_dir);
    let lease = Lease::take(request.catalog.store(), asked, &cancel).await?;
    if let Some(warning) = &lease.warning {
        request.progress.warn(warning);
    }
    let result = match draw_up(request, lease.taken_from.as_ref()).await {
        Ok(plan) => {
            failpoint::reach(Point::PrunePlanned);
            Ok(carry_out(request, shown, &plan, &Turn { run: &run, lease: &lease, cancel: &cancel }).await)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = lease.release().await {
        request.progress.warn(&format!(
            "could not give the job's lease back ({error}): the next run waits until it has stood still"
        ));
    }
    result
}

/// Asks the store for everything, and decides. `leased` is the run that may be at work.
async fn draw_up(request: &Request, leased: Option<&BackupId>) -> Result<Plan> {
    let catalog = &request.catalog;
    let now = catalog.store().now().await?;
    // What a failed run could only hide, because the store had locked it, has no name any more.
    let survey = catalog.survey_of_versions(&request.job).await?;
    let listed = catalog.with_verifications(survey.backups).await?;
    believe_all(request, &listed)?;

    let begun = open_uploads(request, now, leased).await?;
    let has_locks = !survey.without_record.is_empty() && may_be_locked(request).await?;
    let folders: Vec<Left> = stream::iter(survey.without_record)
        .map(|id| look_into(request, id, &begun, now, leased, has_locks))
        .buffered(FOLDERS_IN_FLIGHT)
        .try_collect()
        .await?;
    let hidden = needs_of_hidden(request, &folders).await?;
    let verdicts = decide_with_locks(request, &listed, &hidden, now).await?;

    let planned = |(listed, verdict)| Planned { listed, verdict };
    Ok(Plan { now, backups: listed.into_iter().zip(verdicts).map(planned).collect(), folders, uploads: begun })
}

/// A record that is not believed may be the one that matters: whatever it is, somebody has to look.
fn believe_all(request: &Request, listed: &[Listed]) -> Result<()> {
    let strange: Vec<&Listed> = listed.iter().filter(|listed| listed.standing != Standing::Trusted).collect();
    let Some(first) = strange.first() else { return Ok(()) };
    let what = format!("nothing of job \"{}\" is pruned while a record of it is not believed", request.job);
    let error = first.not_believed().while_doing(what);
    Err(if strange.len() > 1 { error.fact("records", format!("{} of {}", strange.len(), listed.len())) } else { error })
}

/// What backups need whose records lie under deleted names, with the backups: they can be restored for as long as
/// that is there. A record that nobody here believes counts as well, which can only keep more.
async fn needs_of_hidden(request: &Request, folders: &[Left]) -> Result<Vec<(BackupId, Vec<BackupId>)>> {
    let mut found = Vec::new();
    for left in folders.iter().filter(|left| left.folder.has_hidden_record) {
        let id = &left.folder.id;
        match request.catalog.read_any(&request.job, id).await {
            Ok(listed) => found.extend(listed.record.map(|record| (id.clone(), record.needs))),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Decides, asks the store for the locks of what would be removed, and decides again: that can
/// only keep more.
async fn decide_with_locks(
    request: &Request,
    listed: &[Listed],
    hidden: &[(BackupId, Vec<BackupId>)],
    now: Timestamp,
) -> Result<Vec<Verdict>> {
    let mut candidates: Vec<Candidate> = listed.iter().filter_map(candidate).collect();
    for candidate in &mut candidates {
        let needing = hidden.iter().filter(|(_, needs)| needs.contains(&candidate.id));
        candidate.needed_by = needing.map(|(id, _)| id.clone()).collect();
    }
    let verdicts = decide(&request.keep, &request.zone, now, &candidates)?;
    if !may_be_locked(request).await? {
        return Ok(verdicts);
    }
    let removed: Vec<usize> = (0..verdicts.len()).filter(|n| !verdicts[*n].is_kept()).collect();
    let locks: Vec<Option<String>> = stream::iter(removed.iter().map(|n| candidates[*n].id.clone()))
        .map(|id| async move {
            let contents = request.catalog.contents(&request.job, &id).await?;
            request.catalog.lock_of(&contents.versions, now).await
        })
        .buffered(FOLDERS_IN_FLIGHT)
        .try_collect()
        .await?;
    for (n, lock) in removed.into_iter().zip(locks) {
        candidates[n].locked = lock;
    }
    decide(&request.keep, &request.zone, now, &candidates)
}

/// Whether objects of the store can be locked. One that does not say is asked for each object.
async fn may_be_locked(request: &Request) -> Result<bool> {
    Ok(request.catalog.store().properties().await?.object_lock != Some(false))
}

/// A believed backup as the decision sees it.
fn candidate(listed: &Listed) -> Option<Candidate> {
    let record = listed.trusted()?;
    let failed = listed.verified.last().is_some_and(|last| !last.passed);
    Some(Candidate {
        id: record.id.clone(),
        at: record.started,
        source: record.source_id.clone(),
        is_good: record.outcome == Outcome::Complete && !failed,
        proof: if failed { None } else { listed.verified.iter().filter_map(proof).max() },
        needs: record.needs.clone(),
        needed_by: Vec::new(),
        locked: None,
    })
}

fn proof(found: &Verification) -> Option<Proof> {
    match found.depth.as_str() {
        _ if !found.passed => None,
        "stored" => Some(Proof::Stored),
        "contents" => Some(Proof::Contents),
        "restore" => Some(Proof::Restored),
        _ => None,
    }
}

/// Uploads of the job that were begun, and with orphans those that belong to no job; those of a run that the lease names are never abandoned.
async fn open_uploads(request: &Request, now: Timestamp, leased: Option<&BackupId>) -> Result<Vec<Begun>> {
    let store = request.catalog.store();
    let mut found = Vec::new();
    let mut uploads = store.pending_uploads(&format!("{}/", request.job)).await?;
    if request.with_orphans {
        for folder in SHARED {
            uploads.extend(store.pending_uploads(&format!("{folder}/")).await?);
        }
        // One that noted no key is found under every prefix.
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        uploads.dedup();
    }
    for upload in uploads {
        let last_part = store.last_part(&upload).await?;
        let is_leased = leased.is_some_and(|run| folder_of(&upload) == Some(run.as_str()));
        let is_abandoned = request.with_orphans && !is_leased && is_abandoned(last_part, now);
        found.push(Begun { upload, last_part, is_abandoned });
    }
    Ok(found)
}

fn folder_of(upload: &PendingUpload) -> Option<&str> {
    upload.key.split('/').nth(1)
}

/// Looks into a folder in which no record was seen, and decides what becomes of it.
async fn look_into(
    request: &Request,
    id: BackupId,
    begun: &[Begun],
    now: Timestamp,
    leased: Option<&BackupId>,
    has_locks: bool,
) -> Result<Left> {
    let contents = request.catalog.contents(&request.job, &id).await?;
    let parts = begun.iter().filter(|begun| folder_of(&begun.upload) == Some(id.as_str())).map(|begun| begun.last_part);
    let mut folder = Folder {
        has_hidden_record: contents.has_record,
        removed: contents.removed,
        youngest: contents.youngest().into_iter().chain(parts).max(),
        is_leased: leased == Some(&id),
        locked: None,
        id,
    };
    if has_locks && folder.may_go(now) {
        folder.locked = request.catalog.last_lock_of(&contents.versions, now).await?;
    }
    let fate = folder.fate(now, request.with_orphans);
    Ok(Left { fate, folder, n_objects: contents.versions.len(), stored_bytes: contents.stored_bytes() })
}

/// The right to remove: the run that has the lease, for as long as it has it.
struct Turn<'a> {
    run: &'a BackupId,
    lease: &'a Lease,
    /// Cancelled when the lease is lost, or the operator wants it.
    cancel: &'a CancellationToken,
}

/// Removes what both plans name. What fails is told at the end, and keeps nothing else from being done.
async fn carry_out(request: &Request, shown: &Plan, plan: &Plan, turn: &Turn<'_>) -> Pruned {
    let (catalog, job) = (&request.catalog, &request.job);
    let mut done = Pruned::default();

    // What stays, for whatever reason, still needs what it needs.
    let mut needed = BTreeSet::new();
    let was_shown: BTreeSet<_> = shown.removed().into_iter().map(|planned| &planned.listed.id).collect();
    for planned in plan.removed() {
        let id = &planned.listed.id;
        if was_shown.contains(id) && !needed.contains(id) && !stopped(request, turn, &mut done).await {
            match catalog.remove_record(job, id, turn.run, &request.host_key).await {
                Ok(()) => {
                    done.backups.push(id.clone());
                    continue;
                }
                Err(error) => done.fail(error.while_doing(format!("could not remove backup {id} of job \"{job}\""))),
            }
        }
        needed.extend(planned.needs().cloned());
    }
    let may_be_locked = may_be_locked(request).await.unwrap_or(true);
    for left in plan.emptied() {
        let id = &left.folder.id;
        if !shown.emptied().any(|left| left.folder.id == *id) || stopped(request, turn, &mut done).await {
            continue;
        }
        match catalog.remove_folder(job, id, plan.now, may_be_locked).await {
            Ok(freed) => {
                done.folders.push(id.clone());
                done.n_objects += freed.n_objects;
                done.freed_bytes = done.freed_bytes.saturating_add(freed.bytes);
                done.n_locked += freed.n_locked;
            }
            Err(error) => done.fail(error.while_doing(format!("could not remove what is left under \"{job}/{id}/\""))),
        }
    }
    for upload in plan.aborted() {
        if !shown.aborted().any(|other| other == upload) || stopped(request, turn, &mut done).await {
            continue;
        }
        match catalog.store().abort_pending(upload).await {
            Ok(()) => {
                done.n_uploads += 1;
                failpoint::reach(Point::PruneUpload);
            }
            Err(error) => done.fail(error.while_doing(format!("could not abort the upload of \"{}\"", upload.key))),
        }
    }
    done
}

/// Whether the operator, or the loss of the lease, ends it here: asked before each removal, since what another run
/// does meanwhile may need what would be removed.
async fn stopped(request: &Request, turn: &Turn<'_>, done: &mut Pruned) -> bool {
    let stands = turn.lease.stands(turn.cancel).await;
    let job = &request.job;
    let error = if request.cancel.is_cancelled() {
        Error::cancelled(format!("the prune of job \"{job}\" was cancelled"))
    } else if turn.cancel.is_cancelled() {
        Error::conflict(format!("the lease of job \"{job}\" was taken over by another run"))
            .hint("run it again: it goes on where it stopped")
    } else if !stands {
        turn.cancel.cancel();
        Error::conflict(format!("the lease of job \"{job}\" could not be renewed: another run may have it"))
            .hint("run it again when the store answers: it goes on where it stopped")
    } else {
        return false;
    };
    done.fail(error);
    true
}

impl Pruned {
    /// The first error wins; that it was stopped is said only when nothing else was wrong.
    fn fail(&mut self, error: Error) {
        if self.failed.is_none() || self.failed.as_ref().is_some_and(|first| first.kind() == Kind::Cancelled) {
            self.failed = Some(error);
        }
    }
}

#[cfg(test)]
mod tests;
