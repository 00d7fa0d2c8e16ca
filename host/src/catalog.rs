//! The catalogue of a store: which backups there are, who signed them, and how they are committed.
//!
//! A backup exists if and only if its record does. Records are written once, last, signed; nothing
//! here ever changes one. This module never sees plaintext or a key that decrypts it.

pub mod key;
pub mod layout;
pub mod lease;
mod plugin;
pub mod removal;
mod signature;
pub mod signed;
pub mod verified;
pub mod version;

#[cfg(test)]
mod tests;

pub use key::{HostKey, PublicKey, Trust};
pub use verified::Verification;
pub use version::Whereabouts;

use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage, Point};
use crate::id::{BackupId, Label};
use crate::record::{BackupRecord, FORMAT, Outcome};
use crate::store::{Condition, Store};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest record that is read: a record with 10,000 artifacts of a dozen segments fits many times.
pub const MAX_RECORD_BYTES: u64 = 256 << 20;

/// Records read at the same time when a job is listed.
const RECORDS_IN_FLIGHT: usize = 16;

/// The backups of one store, as far as this host believes them.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Arc<dyn Store>,
    trust: Trust,
}

/// Whether a record is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Signed by this host or by one of `trusted_hosts`.
    Trusted,
    /// Signed well, by a key that nobody named: listed, never hidden, counted or used, and restored
    /// only with `--trust-signer`.
    UnknownSigner(PublicKey),
    /// The signature is not of these bytes, or the record is not of this place.
    Forged(String),
    /// Not a record that this version can read.
    Unreadable(String),
}

/// One backup of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The job in whose folder it lies.
    pub job: Label,
    /// The id of its folder.
    pub id: BackupId,
    /// Whether it is believed.
    pub standing: Standing,
    /// Who signed it, if the signature is good.
    pub signer: Option<PublicKey>,
    /// What it says; `None` when it could not be read.
    pub record: Option<BackupRecord>,
    /// What later verifications found, oldest first; filled by [`Catalog::with_verifications`].
    pub verified: Vec<Verification>,
    /// What happened to the names of its record and its verifications, where an older version had to be read.
    pub tampered: Vec<String>,
}

impl Listed {
    /// A trusted and complete backup: the kind that counts.
    pub fn is_good(&self) -> bool {
        self.standing == Standing::Trusted
            && self.record.as_ref().is_some_and(|record| record.outcome == Outcome::Complete)
    }

    /// Why it may not be used, for one whose standing is not `Trusted`.
    pub fn not_believed(&self) -> Error {
        let (id, job) = (&self.id, &self.job);
        match &self.standing {
            Standing::UnknownSigner(key) => {
                Error::denied(format!("backup {id} of job \"{job}\" is signed by a key that is not trusted"))
                    .fact("signer", key.to_string())
                    .hint("compare it with your recovery sheet or with `strongroom key show` on the machine that made it; then add --trust-signer with that key, or put it into trusted_hosts")
            }
            Standing::Forged(reason) => {
                Error::damaged(format!("the record of backup {id} of job \"{job}\" is not what was signed"))
                    .fact("reason", reason.clone())
                    .hint("somebody or something changed it; restore another backup, and look for older versions of record.json if the store keeps versions")
            }
            Standing::Unreadable(reason) => {
                Error::failed(format!("the record of backup {id} of job \"{job}\" cannot be read by this version"))
                    .fact("reason", reason.clone())
                    .hint("a newer strongroom may read it")
            }
            Standing::Trusted => Error::failed(format!("the record of backup {id} of job \"{job}\" is empty")),
        }
    }

    /// The record, if its signer is believed.
    pub fn trusted(&self) -> Option<&BackupRecord> {
        self.record.as_ref().filter(|_| self.standing == Standing::Trusted)
    }
}

/// The folders of a job.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Those with a record, oldest first.
    pub backups: Vec<Listed>,
    /// Those without one that can be seen, in the order of their ids: a run that is at work or was
    /// interrupted, or a backup that was removed.
    pub without_record: Vec<BackupId>,
}

/// Why a record was not committed, or may not have been.
#[derive(Debug)]
pub enum NotCommitted {
    /// There is no such record, and there will be none.
    Refused(Error),
    /// The store did not say: the record may be there, or appear later. Nothing may be removed.
    Unknown(Error),
}

impl Catalog {
    /// The catalogue of `store`, believing the signers in `trust`.
    pub fn new(store: Arc<dyn Store>, trust: Trust) -> Self {
        Self { store, trust }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The same catalogue, believing one more signer.
    #[must_use]
    pub fn trusting(mut self, key: PublicKey) -> Self {
        self.trust.add(key);
        self
    }

    /// Jobs that have a folder in the store, sorted.
    pub async fn jobs(&self) -> Result<Vec<Label>> {
        Ok(jobs_in(&self.store.folders("").await?))
    }

    /// As [`Catalog::jobs`], and those whose every name was deleted.
    pub async fn jobs_of_versions(&self) -> Result<Vec<Label>> {
        Ok(jobs_in(&self.store.folders_of_versions("").await?))
    }

    /// Every backup of `job`, oldest first: those whose record exists, whatever its standing.
    pub async fn backups(&self, job: &Label) -> Result<Vec<Listed>> {
        Ok(self.survey(job).await?.backups)
    }

    /// Every folder of `job`: its backups, oldest first, and the folders in which no record is seen.
    pub async fn survey(&self, job: &Label) -> Result<Survey> {
        let folders = self.store.folders(&format!("{job}/")).await?;
        self.survey_of(job, folders).await
    }

    /// As [`Catalog::survey`], and those folders in which every name was deleted while versions are left: of a
    /// run that could only hide what the store had locked, and of a backup that somebody hid. A store that does
    /// not let versions be listed shows what has a name.
    pub async fn survey_of_versions(&self, job: &Label) -> Result<Survey> {
        let prefix = format!("{job}/");
        // Both: no quirk of a server in listing versions may hide a backup that has its name.
        let mut folders: BTreeSet<String> = self.store.folders(&prefix).await?.into_iter().collect();
        match self.store.folders_of_versions(&prefix).await {
            Ok(more) => folders.extend(more),
            Err(error) if error.is_retryable() || error.kind() == Kind::Cancelled => return Err(error),
            Err(error) => tracing::debug!(%job, %error, "versions cannot be listed"),
        }
        self.survey_of(job, folders.into_iter().collect()).await
    }

    async fn survey_of(&self, job: &Label, folders: Vec<String>) -> Result<Survey> {
        let ids = folders.into_iter().filter_map(|name| name.parse::<BackupId>().ok());
        let mut found = stream::iter(ids)
            .map(|id| async move {
                let listed = match self.read(job, &id).await {
                    // Perhaps somebody put it over the one that is believed.
                    Ok(listed) if listed.standing != Standing::Trusted => {
                        Ok(Some(self.older(job, &id).await?.unwrap_or(listed)))
                    }
                    read => read.map_or_else(absent_is_none, |listed| Ok(Some(listed))),
                };
                listed.map(|listed| (id, listed))
            })
            .buffered(RECORDS_IN_FLIGHT);
        let mut survey = Survey::default();
        while let Some(next) = found.next().await {
            match next? {
                (_, Some(listed)) => survey.backups.push(listed),
                (id, None) => survey.without_record.push(id),
            }
        }
        // Ids have whole seconds: within one, the records know better.
        let started = |listed: &Listed| listed.trusted().map(|record| record.started);
        survey.backups.sort_by(|a, b| {
            a.id.second().cmp(b.id.second()).then_with(|| started(a).cmp(&started(b))).then_with(|| a.id.cmp(&b.id))
        });
        Ok(survey)
    }

    /// Runs of `job` that left something and no backup, oldest first: folders without a record that
    /// no prune emptied of it, and uploads that a backup began. What a verification or a prune of a
    /// backup began is of one that was made.
    pub async fn interrupted(&self, job: &Label, survey: &Survey) -> Result<Vec<BackupId>> {
        let mut left = BTreeSet::new();
        for id in &survey.without_record {
            if !self.was_removed(job, id).await? {
                left.insert(id.clone());
            }
        }
        for upload in self.store.pending_uploads(&format!("{job}/")).await? {
            let mut names = upload.key.split('/').skip(1);
            let id = names.next().and_then(|name| name.parse::<BackupId>().ok());
            if names.next().is_some_and(|folder| folder == layout::VERIFIED || folder == layout::REMOVED) {
                continue;
            }
            left.extend(id.filter(|id| survey.backups.iter().all(|listed| listed.id != *id)));
        }
        Ok(left.into_iter().collect())
    }

    /// One backup by its id; `NotFound` when there is no record. A record that may not be read is
    /// listed as such: one of them must not keep a job from its next backup.
    pub async fn read(&self, job: &Label, id: &BackupId) -> Result<Listed> {
        match self.read_or_denied(job, id).await {
            Err(error) if error.kind() == Kind::Denied => Ok(unreadable(job, id, &error)),
            read => read,
        }
    }

    /// As [`Catalog::read`], for whoever asks for this very record: `Denied` stays an error.
    async fn read_or_denied(&self, job: &Label, id: &BackupId) -> Result<Listed> {
        match self.store.get(&layout::record(job, id)?, MAX_RECORD_BYTES).await {
            Ok((bytes, _)) => Ok(self.listed(job, id, &bytes)),
            Err(error) if matches!(error.kind(), Kind::Limit | Kind::Damaged) => Ok(unreadable(job, id, &error)),
            Err(error) => Err(error),
        }
    }

    /// These bytes as the record of one backup, judged.
    fn listed(&self, job: &Label, id: &BackupId, bytes: &[u8]) -> Listed {
        let (standing, signed) = self.judge(job, id, bytes);
        let (record, signer) = signed.map(|signed| (signed.content, signed.signer)).unzip();
        let (job, id) = (job.clone(), id.clone());
        Listed { job, id, standing, signer, record, verified: Vec::new(), tampered: Vec::new() }
    }

    /// The backup that `wanted` names: an id, an unambiguous beginning of one, or `latest` (the
    /// newest that is trusted). Where its record has an older version that is to be believed instead of
    /// what the name stands for, that one.
    pub async fn find(&self, job: &Label, wanted: &str) -> Result<Listed> {
        if let Ok(id) = wanted.parse::<BackupId>() {
            return match self.read_any(job, &id).await {
                Err(error) if error.kind() == Kind::NotFound => Err(self.no_such_backup(job, wanted).because(error)),
                other => other,
            };
        }
        let all = self.backups(job).await?;
        if wanted == "latest" {
            let unknown = all.iter().filter(|b| matches!(b.standing, Standing::UnknownSigner(_))).count();
            let lost = all.iter().rev().find_map(|b| match &b.standing {
                Standing::Unreadable(reason) | Standing::Forged(reason) => Some(format!("{}: {reason}", b.id)),
                _ => None,
            });
            let latest = all.into_iter().rev().find(|b| b.trusted().is_some());
            let hidden = self.hidden(job, latest.as_ref().map(|latest| &latest.id)).await?;
            let hidden: Vec<_> = hidden.iter().filter(|b| b.trusted().is_some()).map(|b| b.id.to_string()).collect();
            if let (Some(latest), Some(newest)) = (&latest, hidden.last()) {
                tracing::warn!(
                    "the name of backup {newest} was deleted, and it is newer than {}: `strongroom list {job} --hidden` shows more",
                    latest.id
                );
            }
            if let Some(latest) = latest {
                return self.read_any(job, &latest.id).await;
            }
            return Err({
                let error = Error::not_found(format!("job \"{job}\" has no backup that is trusted"))
                    .fact("where", self.store.describe());
                if !hidden.is_empty() {
                    error
                        .fact("found", format!("{} whose names were deleted, and which are still there", hidden.len()))
                        .hint(format!("`strongroom list {job} --hidden` shows them; name one by its id"))
                } else if unknown > 0 {
                    error
                        .fact("found", format!("{unknown} signed by a key that is not trusted"))
                        .hint("compare the key that `strongroom list` shows with your recovery sheet, then name a backup and add --trust-signer KEY, or add the key to trusted_hosts")
                } else if let Some(lost) = lost {
                    error
                        .fact("not readable", lost)
                        .hint(format!("`strongroom list {job}` shows every record and why it is not read"))
                } else {
                    error.hint(format!("make one with `strongroom backup {job}`"))
                }
            });
        }
        let begins = |b: &Listed| b.id.as_str().starts_with(wanted);
        let mut matching: Vec<_> = all.into_iter().filter(begins).collect();
        if matching.is_empty() {
            matching = self.hidden(job, None).await?.into_iter().filter(begins).collect();
        }
        match <[Listed; 1]>::try_from(matching) {
            Ok([one]) => self.read_any(job, &one.id).await,
            Err(none) if none.is_empty() => Err(self.no_such_backup(job, wanted)),
            Err(several) => {
                let ids: Vec<_> = several.iter().take(5).map(|b| b.id.to_string()).collect();
                Err(Error::invalid(format!("\"{wanted}\" names {} backups of job \"{job}\"", several.len()))
                    .fact("they are", ids.join(", "))
                    .hint("give more of the id"))
            }
        }
    }

    fn no_such_backup(&self, job: &Label, wanted: &str) -> Error {
        Error::not_found(format!("there is no backup \"{}\" of job \"{job}\"", wanted.escape_debug()))
            .fact("where", self.store.describe())
            .fact("expected", "an id, the beginning of one, or latest")
            .hint(format!("`strongroom list {job}` shows what there is"))
    }

    /// Adds to each backup what later verifications of it found, and what happened to their names.
    pub async fn with_verifications(&self, mut backups: Vec<Listed>) -> Result<Vec<Listed>> {
        if backups.is_empty() {
            return Ok(backups);
        }
        // Asked once, since most stores keep none: it would be a listing more for each backup.
        let versions = self.store.properties().await?.versions != Some(false);
        let found: Vec<Result<verified::Found>> = stream::iter(backups.iter().map(|b| (b.job.clone(), b.id.clone())))
            .map(|(job, id)| async move { verified::read_all(&self.store, &self.trust, &job, &id, versions).await })
            .buffered(RECORDS_IN_FLIGHT)
            .collect()
            .await;
        for (backup, found) in backups.iter_mut().zip(found) {
            let found = found?;
            backup.verified = found.verified;
            backup.tampered.extend(found.tampered);
        }
        Ok(backups)
    }

    fn judge(&self, job: &Label, id: &BackupId, bytes: &[u8]) -> (Standing, Option<signed::Opened<BackupRecord>>) {
        let opened = match signed::open::<BackupRecord>(signed::RECORD, bytes) {
            Ok(opened) => opened,
            Err(error) if error.kind() == Kind::Damaged => return (Standing::Forged(error.to_string()), None),
            Err(error) => return (Standing::Unreadable(error.to_string()), None),
        };
        let record = &opened.content;
        if record.format > FORMAT || failpoint::is_broken(Breakage::ForgetFormat) {
            let reason = format!("it has format {}, and this version reads up to {FORMAT}", record.format);
            return (Standing::Unreadable(reason), None);
        }
        if record.job != *job || record.id != *id {
            let reason = format!("it is the record of {}/{}, and lies at {job}/{id}", record.job, record.id);
            return (Standing::Forged(reason), None);
        }
        let standing = if self.trust.believes(&opened.signer) {
            Standing::Trusted
        } else {
            Standing::UnknownSigner(opened.signer.clone())
        };
        (standing, Some(opened))
    }

    /// Writes the record: from here on the backup exists. Whether it worked is decided by what is
    /// there, not by the answer: the record is read back and compared in every case.
    pub async fn commit(&self, record: &BackupRecord, key: &HostKey) -> std::result::Result<(), NotCommitted> {
        let at = layout::record(&record.job, &record.id).map_err(NotCommitted::Refused)?;
        let bytes = signed::seal(signed::RECORD, record, key).map_err(NotCommitted::Refused)?;
        let bytes = Bytes::from(bytes);
        failpoint::reach(Point::RecordWriting);
        let put = self.store.put(&at, bytes.clone(), Condition::Absent).await;
        failpoint::reach(Point::RecordWritten);
        let what = format!("could not write the record of backup {}", record.id);
        match (put, self.store.get(&at, MAX_RECORD_BYTES).await) {
            (_, Ok((there, _))) if there == bytes => {
                failpoint::reach(Point::RecordRead);
                Ok(())
            }
            (put, Ok(_)) => {
                let error = Error::conflict(format!("another record lies at \"{at}\" in {}", self.store.describe()))
                    .hint("ids are random: somebody else writes into this job's folder; run `strongroom list` to see whose it is");
                Err(NotCommitted::Refused(match put {
                    Ok(_) => error,
                    Err(answer) => error.because(answer),
                }))
            }
            // The store itself said no, and nothing is there: it did not happen.
            (Err(answer), Err(missing)) if missing.kind() == Kind::NotFound && !answer.is_retryable() => {
                Err(NotCommitted::Refused(answer.while_doing(what)))
            }
            (Ok(_), Err(missing)) if missing.kind() == Kind::NotFound => Err(NotCommitted::Refused(
                Error::damaged(format!(
                    "{} acknowledged the record of backup {} and does not have it",
                    self.store.describe(),
                    record.id
                ))
                .hint("run `strongroom store check`: this store cannot be relied upon"),
            )),
            // It may be there, or still be on its way: nothing that it names may be removed.
            (Err(answer), Err(_)) => Err(NotCommitted::Unknown(answer.while_doing(what))),
            (Ok(_), Err(unread)) => Err(NotCommitted::Unknown(unread.while_doing(what))),
        }
    }
}

fn unreadable(job: &Label, id: &BackupId, error: &Error) -> Listed {
    let standing = Standing::Unreadable(error.to_string());
    let (job, id) = (job.clone(), id.clone());
    Listed { job, id, standing, signer: None, record: None, verified: Vec::new(), tampered: Vec::new() }
}

fn jobs_in(folders: &[String]) -> Vec<Label> {
    let jobs = folders.iter().filter(|name| name.as_str() != layout::PLUGINS);
    jobs.filter_map(|name| name.parse().ok()).collect()
}

fn absent_is_none(error: Error) -> Result<Option<Listed>> {
    if error.kind() == Kind::NotFound { Ok(None) } else { Err(error) }
}
