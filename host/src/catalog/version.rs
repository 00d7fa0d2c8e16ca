//! What a record names, when the names in the store stand for something else now.
//!
//! A locked version stays whatever happens to its name: whoever may write can put something else under
//! it or delete it. So where a name is missing, or what it stands for does not match, the versions
//! are listed and the one that matches is read: for a record the oldest with a good signature, for
//! anything else the oldest with the recorded size and checksum. That it happened is always said.
//! Nothing is written or removed here. A store that keeps no versions, or does not let them be listed,
//! is read as it is.

use super::{Catalog, Listed, MAX_RECORD_BYTES, RECORDS_IN_FLIGHT, Standing, layout};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::id::{BackupId, Label, ObjectKey};
use crate::record::{BackupRecord, SegmentRecord};
use crate::store::{ObjectVersion, Store, StoreSegments};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Versions of one name that are looked at: the oldest, since what was written first is what was
/// recorded. Nobody can push it out of these by writing more.
const MAX_CANDIDATES: usize = 64;

/// What is read back at once where a store keeps no checksum, in bytes: as much as a frame.
const READ_BACK_BYTES: u64 = 2 << 20;

/// Where the objects of a backup are to be read.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// The store, reading the versions that the record names.
    pub store: Arc<dyn Store>,
    /// What happened to the names, a sentence each; empty when nothing did.
    pub tampered: Vec<String>,
}

/// Versions of one name.
#[derive(Default)]
pub(super) struct Name {
    latest: Option<ObjectVersion>,
    /// Newest first, and only the oldest of them.
    candidates: VecDeque<ObjectVersion>,
    n_versions: usize,
}

impl Name {
    /// Whether the name stands for the only version there ever was.
    pub(super) fn is_plain(&self) -> bool {
        self.n_versions == 1 && self.latest.as_ref().is_some_and(|latest| !latest.is_marker)
    }

    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &ObjectVersion> {
        self.candidates.iter().rev()
    }

    pub(super) fn stands_for(&self, version: &ObjectVersion) -> bool {
        self.latest.as_ref().is_some_and(|latest| latest.id == version.id && !latest.is_marker)
    }

    /// What happened to it, as a sentence.
    pub(super) fn story(&self, key: &str, read: &ObjectVersion) -> String {
        let what = match &self.latest {
            Some(latest) if latest.is_marker => format!("was deleted {}", clock::show(latest.modified)),
            Some(latest) => format!("was overwritten {}", clock::show(latest.modified)),
            None => "lost its name".to_owned(),
        };
        format!(
            "\"{key}\" {what}; its version \"{}\" of {} is read",
            read.id.as_deref().unwrap_or_default(),
            clock::show(read.modified)
        )
    }
}

/// Versions by key under `prefix`; candidates are those that `fits`. Nothing where the store keeps
/// no versions or does not say.
pub(super) async fn names(
    store: &Arc<dyn Store>,
    prefix: &str,
    fits: impl Fn(&ObjectVersion) -> bool,
) -> Result<BTreeMap<String, Name>> {
    let mut versions = match store.versions(prefix).await {
        Ok(versions) => versions,
        Err(error) if error.is_retryable() || error.kind() == Kind::Cancelled => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "versions cannot be listed");
            return Ok(BTreeMap::new());
        }
    };
    versions.retain(|version| version.id.is_some());
    // Newest first. Servers list them so, but markers apart; within a second their order stays.
    versions
        .sort_by(|a, b| (&a.key, !a.is_latest).cmp(&(&b.key, !b.is_latest)).then_with(|| b.modified.cmp(&a.modified)));
    let mut names = BTreeMap::<String, Name>::new();
    for version in versions {
        let name = names.entry(version.key.clone()).or_default();
        name.n_versions += 1;
        if version.is_latest {
            name.latest = Some(version.clone());
        }
        if !version.is_marker && fits(&version) {
            name.candidates.push_back(version);
            if name.candidates.len() > MAX_CANDIDATES {
                name.candidates.pop_front();
            }
        }
    }
    Ok(names)
}

/// The store in which one key is one version of it.
pub(super) fn at(store: &Arc<dyn Store>, version: &ObjectVersion) -> Option<Arc<dyn Store>> {
    store.pinned(BTreeMap::from([(version.key.clone(), version.id.clone()?)]))
}

/// Whether a version has the bytes of a segment, by the checksum that the store keeps or by reading
/// them.
async fn is_segment(store: &Arc<dyn Store>, version: &ObjectVersion, segment: &SegmentRecord) -> Result<bool> {
    let Some(store) = at(store, version) else { return Ok(false) };
    let key = ObjectKey::parse(&version.key)?;
    let info = store.head(&key).await?;
    if info.size != segment.stored_bytes {
        return Ok(false);
    }
    if let Some(crc) = info.crc64nvme {
        return Ok(format!("{crc:016x}") == segment.crc64nvme);
    }
    let (mut hash, mut read) = (blake3::Hasher::new(), 0);
    while read < segment.stored_bytes {
        let end = segment.stored_bytes.min(read + READ_BACK_BYTES);
        hash.update(&store.read(&key, read..end).await?);
        read = end;
    }
    Ok(hash.finalize().to_hex().as_str() == segment.blake3)
}

pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Damaged | Kind::Limit)
}

impl Catalog {
    /// Where the segments that `record` names are. Costs a listing; more only where something
    /// happened to a name. A segment that is nowhere is found missing when it is read.
    ///
    /// Errors: those of the store that may pass; `Invalid` for a record with keys that are none.
    pub async fn whereabouts(&self, record: &BackupRecord) -> Result<Whereabouts> {
        let mut expected = BTreeMap::new();
        for artifact in &record.artifacts {
            let segments =
                StoreSegments::new(self.store.clone(), &record.job, &record.id, &artifact.name, artifact.encrypted)?;
            for (number, segment) in (1..).zip(&artifact.segments) {
                expected.insert(segments.key(number)?.as_str().to_owned(), segment);
            }
        }
        let fits = |version: &ObjectVersion| {
            expected.get(&version.key).is_some_and(|segment| segment.stored_bytes == version.size)
        };
        let names = names(&self.store, &format!("{}/{}/data/", record.job, record.id), fits).await?;
        let (mut pins, mut tampered) = (BTreeMap::new(), Vec::new());
        for (key, segment) in expected {
            let Some(name) = names.get(&key).filter(|name| !name.is_plain()) else { continue };
            for version in name.oldest_first() {
                match is_segment(&self.store, version, segment).await {
                    Ok(true) => {
                        if !name.stands_for(version) {
                            tampered.push(name.story(&key, version));
                            pins.extend(version.id.clone().map(|id| (key.clone(), id)));
                        }
                        break;
                    }
                    Ok(false) => {}
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let store = if pins.is_empty() { None } else { self.store.pinned(pins) };
        Ok(Whereabouts { store: store.unwrap_or_else(|| self.store.clone()), tampered })
    }

    /// One backup by its id, whatever the name of its record stands for now; `NotFound` when there is
    /// no version of a record.
    pub async fn read_any(&self, job: &Label, id: &BackupId) -> Result<Listed> {
        let named = self.read_or_denied(job, id).await;
        if named.as_ref().is_err_and(|error| error.kind() != Kind::NotFound) {
            return named;
        }
        match self.older(job, id).await? {
            Some(older) => Ok(older),
            None => named,
        }
    }

    /// Backups of `job` whose record lies under a deleted name, oldest first. `since` leaves out those
    /// that began before or in that second.
    pub async fn hidden(&self, job: &Label, since: Option<&BackupId>) -> Result<Vec<Listed>> {
        let folders = match self.store.folders_of_versions(&format!("{job}/")).await {
            Ok(folders) => folders,
            Err(error) if error.is_retryable() || error.kind() == Kind::Cancelled => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "versions cannot be listed");
                return Ok(Vec::new());
            }
        };
        let ids: BTreeSet<BackupId> = folders.into_iter().filter_map(|name| name.parse().ok()).collect();
        let wanted = ids.into_iter().filter(|id| since.is_none_or(|since| id.second() > since.second()));
        let mut found = stream::iter(wanted)
            .map(|id| async move {
                match self.store.head(&layout::record(job, &id)?).await {
                    Ok(_) => Ok(None),
                    Err(error) if error.kind() == Kind::NotFound => self.older(job, &id).await,
                    Err(error) => Err(error),
                }
            })
            .buffered(RECORDS_IN_FLIGHT);
        let mut hidden = Vec::new();
        while let Some(next) = found.next().await {
            hidden.extend(next?);
        }
        Ok(hidden)
    }

    /// The oldest version of a record with a good signature, a believed one before any other, unless it
    /// is what the name stands for.
    pub(super) async fn older(&self, job: &Label, id: &BackupId) -> Result<Option<Listed>> {
        let key = layout::record(job, id)?;
        let names = names(&self.store, key.as_str(), |_| true).await?;
        let Some(name) = names.get(key.as_str()).filter(|name| !name.is_plain()) else { return Ok(None) };
        let mut best: Option<(&ObjectVersion, Bytes, Listed)> = None;
        for version in name.oldest_first() {
            let Some(store) = at(&self.store, version) else { return Ok(None) };
            let bytes = match store.get(&key, MAX_RECORD_BYTES).await {
                Ok((bytes, _)) => bytes,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let listed = self.listed(job, id, &bytes);
            match listed.standing {
                Standing::Trusted => {
                    best = Some((version, bytes, listed));
                    break;
                }
                Standing::UnknownSigner(_) if best.is_none() => best = Some((version, bytes, listed)),
                _ => {}
            }
        }
        let Some((version, bytes, mut listed)) = best.filter(|(version, ..)| !name.stands_for(version)) else {
            return Ok(None);
        };
        // Written twice with the same bytes: the answer to the first attempt was lost.
        if name.latest.as_ref().is_some_and(|latest| !latest.is_marker)
            && self.store.get(&key, MAX_RECORD_BYTES).await.is_ok_and(|(there, _)| there == bytes)
        {
            return Ok(None);
        }
        listed.tampered.push(name.story(key.as_str(), version));
        Ok(Some(listed))
    }

    /// The oldest version of a kept plugin that has the digest it is named after, and the store in which the
    /// name is that version.
    pub(super) async fn older_plugin(&self, sha256: &str, limit: u64) -> Result<Option<(Arc<dyn Store>, Bytes)>> {
        let key = layout::plugin(sha256)?;
        let names = names(&self.store, key.as_str(), |version| version.size <= limit).await?;
        let Some(name) = names.get(key.as_str()) else { return Ok(None) };
        for version in name.oldest_first() {
            let Some(store) = at(&self.store, version) else { return Ok(None) };
            match store.get(&key, limit).await {
                Ok((bytes, _)) if has_digest(&bytes, sha256) => {
                    if !name.stands_for(version) {
                        tracing::warn!("{}", name.story(key.as_str(), version));
                    }
                    return Ok(Some((store, bytes)));
                }
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The bytes of every version of one small object, oldest first; what is longer than `limit` is left
    /// out. None where the store keeps no versions.
    pub(super) async fn versions_of(&self, key: &ObjectKey, limit: u64) -> Result<Vec<Bytes>> {
        let names = names(&self.store, key.as_str(), |version| version.size <= limit).await?;
        let mut found = Vec::new();
        for version in names.get(key.as_str()).into_iter().flat_map(Name::oldest_first) {
            let Some(store) = at(&self.store, version) else { break };
            match store.get(key, limit).await {
                Ok((bytes, _)) => found.push(bytes),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Whether these are the bytes with this SHA-256 in lower-case hex.
pub(super) fn has_digest(bytes: &[u8], sha256: &str) -> bool {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>() == sha256
}
