//! Removing a backup: its record first, and what that leaves for later.
//!
//! Before a record is removed a small signed note is written beside it, once for each attempt. A
//! folder with a note and without a record is the data of a backup that was removed on purpose; how
//! long ago is the age of the youngest note by the store's clock. A note beside a record says
//! nothing, and one that is signed by a stranger never does.

use super::key::{HostKey, Trust};
use super::{Catalog, layout, signed};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::{BackupId, Label, ObjectKey};
use crate::store::{Condition, Lock, ObjectVersion, remove_for_good};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest note that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Requests to the store at the same time while a folder is removed.
const IN_FLIGHT: usize = 16;

/// Says that a prune removed the record of this backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// The backup's job.
    pub job: Label,
    /// The backup.
    pub id: BackupId,
    /// When, by the clock of the machine that did it.
    pub at: Timestamp,
    /// The run of `prune` that did it.
    pub run: BackupId,
}

/// What lies in the folder of a run, every version of it.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Every version and marker; of a store without versions, every object.
    pub versions: Vec<ObjectVersion>,
    /// Whether one of them is a record.
    pub has_record: bool,
    /// When the youngest trusted note of a removal was stored, by the store's clock.
    pub removed: Option<Timestamp>,
}

impl Contents {
    /// Bytes at rest.
    pub fn stored_bytes(&self) -> u64 {
        self.versions.iter().fold(0, |sum, version| sum.saturating_add(version.size))
    }

    /// When the youngest of them was stored, by the store's clock.
    pub fn youngest(&self) -> Option<Timestamp> {
        self.versions.iter().map(|version| version.modified).max()
    }
}

/// What a removal of a folder did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Objects and versions that were removed.
    pub n_objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Versions that are locked and stay until their lock ends.
    pub n_locked: u64,
}

impl Catalog {
    /// What lies in the folder of `id`.
    pub async fn contents(&self, job: &Label, id: &BackupId) -> Result<Contents> {
        let versions = self.store.versions(&format!("{job}/{id}/")).await?;
        let record = layout::record(job, id)?;
        let has_record = versions.iter().any(|version| version.key == record.as_str() && !version.is_marker);
        let notes = layout::removed(job, id);
        let mut removed = None;
        for version in versions.iter().filter(|version| version.key.starts_with(&notes) && !version.is_marker) {
            if self.is_note(job, id, &version.key).await? {
                removed = removed.max(Some(version.modified));
            }
        }
        Ok(Contents { versions, has_record, removed })
    }

    /// Whether a trusted note of the removal of `id` lies there.
    async fn is_note(&self, job: &Label, id: &BackupId, key: &str) -> Result<bool> {
        let bytes = match self.store.get(&ObjectKey::parse(key)?, MAX_BYTES).await {
            Ok((bytes, _)) => bytes,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Limit) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(is_trusted_note(&self.trust, job, id, &bytes))
    }

    /// Whether a prune removed the record that was in the folder of `id`.
    pub async fn was_removed(&self, job: &Label, id: &BackupId) -> Result<bool> {
        let page = self.store.list(&layout::removed(job, id), None).await?;
        for object in &page.objects {
            if self.is_note(job, id, &object.key).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the record of a backup, every version of it: from here on the backup does not exist,
    /// and its data stays. The note is written first.
    ///
    /// Errors: `Denied` when the store refuses; then the backup exists as before.
    pub async fn remove_record(&self, job: &Label, id: &BackupId, run: &BackupId, key: &HostKey) -> Result<()> {
        let record = layout::record(job, id)?;
        self.note_removal(job, id, run, key).await?;
        failpoint::reach(Point::PruneNoted);
        let mut versions = self.store.versions(record.as_str()).await?;
        versions.retain(|version| version.key == record.as_str());
        // The newest last: until then the record is there for everybody.
        versions.sort_by_key(|version| version.modified);
        for version in versions {
            self.store.delete(&record, version.id.as_deref()).await?;
            failpoint::reach(Point::PruneRecord);
        }
        match self.store.head(&record).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::failed(format!("the record of backup {id} is still there after it was removed"))
                .fact("where", self.store.describe())
                .hint("run `strongroom store check`: this store cannot be relied upon")),
        }
    }

    async fn note_removal(&self, job: &Label, id: &BackupId, run: &BackupId, key: &HostKey) -> Result<()> {
        let note = Removal { job: job.clone(), id: id.clone(), at: clock::now(), run: run.clone() };
        let at = ObjectKey::parse(&format!("{}{run}.json", layout::removed(job, id)))?;
        let bytes = Bytes::from(signed::seal(signed::REMOVAL, &note, key)?);
        self.store.put(&at, bytes, Condition::Absent).await.map(drop)
    }

    /// What keeps the store from removing any of these, at `now` by its clock; the first that is found.
    pub async fn lock_of(&self, versions: &[ObjectVersion], now: Timestamp) -> Result<Option<String>> {
        let held = stream::iter(versions.iter().filter(|version| !version.is_marker))
            .map(|version| async move { self.version_lock(version, now).await })
            .buffer_unordered(IN_FLIGHT)
            .try_filter_map(|lock| async move { Ok(lock) });
        let mut held = std::pin::pin!(held);
        held.next().await.transpose()
    }

    /// Of what keeps the store from removing these at `now` by its clock, that which ends last.
    pub async fn last_lock_of(&self, versions: &[ObjectVersion], now: Timestamp) -> Result<Option<Lock>> {
        stream::iter(versions.iter().filter(|version| !version.is_marker))
            .map(|version| self.store.lock_of(version))
            .buffer_unordered(IN_FLIGHT)
            .try_fold(None::<Lock>, |last, lock| async move {
                let is_later = lock.keeps(now).is_some() && last.as_ref().is_none_or(|last| lock.ends() > last.ends());
                Ok(if is_later { Some(lock) } else { last })
            })
            .await
    }

    async fn version_lock(&self, version: &ObjectVersion, now: Timestamp) -> Result<Option<String>> {
        Ok(self.store.lock_of(version).await?.keeps(now))
    }

    /// Removes what is in a folder without a record; its notes last, so that a removal that is
    /// interrupted is gone on with. What is locked stays.
    pub async fn remove_folder(
        &self,
        job: &Label,
        id: &BackupId,
        now: Timestamp,
        may_be_locked: bool,
    ) -> Result<Freed> {
        let contents = self.contents(job, id).await?;
        if contents.has_record {
            return Err(Error::conflict(format!("backup {id} of job \"{job}\" exists and is kept")));
        }
        let notes = layout::removed(job, id);
        let (notes, data): (Vec<_>, Vec<_>) =
            contents.versions.into_iter().partition(|version| version.key.starts_with(&notes));
        // A server that removes the marker of a version beside the version itself may bring that one back.
        let (markers, bodies): (Vec<_>, Vec<_>) = data.into_iter().partition(|version| version.is_marker);
        let mut freed = Freed::default();
        for group in [bodies, markers, notes] {
            // What is left of the data stays hidden, and needs its note.
            if freed.n_locked > 0 {
                break;
            }
            let mut removed = stream::iter(group)
                .map(|version| async move {
                    if may_be_locked && !version.is_marker && self.version_lock(&version, now).await?.is_some() {
                        return Ok(None);
                    }
                    self.store.delete(&ObjectKey::parse(&version.key)?, version.id.as_deref()).await?;
                    failpoint::reach(Point::PruneObject);
                    Ok::<_, Error>(Some(version.size))
                })
                .buffer_unordered(IN_FLIGHT);
            while let Some(removed) = removed.next().await {
                match removed? {
                    Some(size) => {
                        freed.n_objects += 1;
                        freed.bytes = freed.bytes.saturating_add(size);
                    }
                    None => freed.n_locked += 1,
                }
            }
        }
        Ok(freed)
    }

    /// Removes everything under the folder of a run that made no backup. The record is asked for
    /// first: a folder with one is never touched.
    pub async fn discard(&self, job: &Label, id: &BackupId) -> Result<u64> {
        match self.store.head(&layout::record(job, id)?).await {
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::conflict(format!("backup {id} of job \"{job}\" exists and is kept"))),
        }
        let folder = format!("{job}/{id}/");
        let mut removed = 0;
        for upload in self.store.pending_uploads(&folder).await? {
            self.store.abort_pending(&upload).await?;
            removed += 1;
        }
        for version in self.store.versions(&folder).await?.iter().filter(|version| !version.is_marker) {
            remove_for_good(&self.store, &ObjectKey::parse(&version.key)?, version.id.as_deref()).await?;
            failpoint::reach(Point::DiscardRemoved);
            removed += 1;
        }
        Ok(removed)
    }
}

fn is_trusted_note(trust: &Trust, job: &Label, id: &BackupId, bytes: &[u8]) -> bool {
    signed::open::<Removal>(signed::REMOVAL, bytes)
        .is_ok_and(|note| trust.believes(&note.signer) && note.content.job == *job && note.content.id == *id)
}
