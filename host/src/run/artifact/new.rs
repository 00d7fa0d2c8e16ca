//! Artifacts being made: each on a task of its own, none visible before it is whole.

use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::{ArtifactName, BackupId, Label};
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Artifacts, PutOptions, Transfer};
use crate::progress::Progress;
use crate::record::ArtifactRecord;
use crate::run::{Job, Sealing};
use crate::store::{Store, StoreSegments};
use crate::stream::archive::{ArchiveEnd, ArchiveInput, PackOptions, index_name, pack};
use crate::stream::budget;
use crate::stream::source::InMemory;
use crate::stream::{Budget, Compression, Look, Origin, Source, WriteOptions, segment_number, write_artifact};
use async_trait::async_trait;
use futures_util::stream::{self, TryStreamExt};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Questions to the store about what it holds, at the same time.
const QUESTIONS_IN_FLIGHT: usize = 16;

/// The artifacts of a backup that is being made.
pub struct NewArtifacts {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    max_artifacts: usize,
    spool_dir: PathBuf,
    tasks: TaskTracker,
}

/// What the tasks that store artifacts need.
struct Shared {
    job: Label,
    id: BackupId,
    store: Arc<dyn Store>,
    sealing: Sealing,
    budget: Arc<Budget>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: BTreeSet<ArtifactName>,
    /// In the order in which they were begun.
    slots: Vec<Slot>,
    /// Entries of archives that are not whole: path and reason.
    failed_entries: Vec<(String, String)>,
}

enum Slot {
    Storing(ArtifactName),
    Stored(ArtifactRecord),
    Failed(ArtifactName, String),
}

impl NewArtifacts {
    /// None yet.
    pub fn new(job: &Job, id: &BackupId, cancel: &CancellationToken) -> Self {
        let shared = Shared {
            job: job.name.clone(),
            id: id.clone(),
            store: job.store.clone(),
            sealing: job.sealing.clone(),
            budget: job.budget.clone(),
            progress: job.progress.clone(),
            cancel: cancel.child_token(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            places: Arc::new(Semaphore::new(job.limits.open_transfers)),
            max_artifacts: job.limits.artifacts,
            spool_dir: job.scratch_root.clone(),
            tasks: TaskTracker::new(),
        }
    }

    /// Ends the making: what is still under way is abandoned when `failed`, awaited otherwise.
    /// Returns what was stored, in the order in which it was begun, and what was begun and failed.
    pub async fn close(&self, failed: bool) -> Result<(Vec<ArtifactRecord>, Vec<(String, String)>)> {
        if failed {
            self.shared.cancel.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
        let mut stored = Vec::new();
        let state = self.shared.state();
        let mut skipped = state.failed_entries.clone();
        for slot in &state.slots {
            match slot {
                Slot::Stored(artifact) => stored.push(artifact.clone()),
                Slot::Failed(name, reason) => skipped.push((format!("artifact {name}"), reason.clone())),
                Slot::Storing(name) => skipped.push((format!("artifact {name}"), "it was abandoned".to_owned())),
            }
        }
        Ok((stored, skipped))
    }

    /// Asks the store for every segment: size and checksum must be what was sent. A store that
    /// knows no checksum is read back, unless it is a local one, which flushed every byte.
    pub async fn confirm(&self) -> Result<()> {
        let (stored, _) = self.close(false).await?;
        let transfer = &self.shared.budget.begin();
        let questions = stored.iter().flat_map(|a| (0..a.segments.len()).map(move |i| Ok((a, i))));
        stream::iter(questions)
            .try_for_each_concurrent(QUESTIONS_IN_FLIGHT, |(artifact, i)| self.confirm_segment(artifact, i, transfer))
            .await
    }

    /// The same of the `i`th segment of one artifact.
    async fn confirm_segment(&self, artifact: &ArtifactRecord, i: usize, transfer: &budget::Transfer) -> Result<()> {
        let (store, segment) = (&self.shared.store, &artifact.segments[i]);
        let segments = self.shared.segments(&artifact.name, artifact.encrypted)?;
        let key = segments.key(segment_number(i)?)?;
        let info = store
            .head(&key)
            .await
            .map_err(|error| error.while_doing(format!("the store acknowledged \"{key}\" and does not have it now")))?;
        let other = || {
            Error::damaged(format!("{} acknowledged \"{key}\" and holds something else", store.describe()))
                .hint("run `strongroom store check`: this store cannot be relied upon")
        };
        let differs = |what: &str, expected: &str, got: &str| {
            Err(other().fact("expected", format!("{what} {expected}")).fact("got", format!("{what} {got}")))
        };
        if info.size != segment.stored_bytes {
            return differs("size", &segment.stored_bytes.to_string(), &info.size.to_string());
        }
        match info.crc64nvme.map(|crc| format!("{crc:016x}")) {
            Some(crc) if crc != segment.crc64nvme => differs("CRC64NVME", &segment.crc64nvme, &crc),
            Some(_) => Ok(()),
            None if store.local_root().is_some() => Ok(()),
            None => {
                // Of what is no backup yet nobody can tell the place.
                let look = Look { record: artifact, segments: &segments, transfer, progress: &|_| {}, place: None };
                match look.segment(i).await {
                    Err(error) if error.kind() == Kind::Damaged => Err(other().because(error)),
                    checked => checked,
                }
            }
        }
    }

    /// Takes a name and a place in the record's order.
    fn begin(&self, name: &ArtifactName) -> Result<usize> {
        let mut state = self.shared.state();
        if state.slots.len() >= self.max_artifacts {
            return Err(Error::limit(format!("a backup holds at most {} artifacts", self.max_artifacts))
                .hint("raise `artifacts` in the plugin's limits, or put small things into an archive"));
        }
        if !state.names.insert(name.clone()) {
            return Err(Error::conflict(format!("this backup has an artifact \"{name}\" already")));
        }
        state.slots.push(Slot::Storing(name.clone()));
        Ok(state.slots.len() - 1)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves a list that is still true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self, name: &ArtifactName, encrypted: bool) -> Result<StoreSegments> {
        StoreSegments::new(self.store.clone(), &self.job, &self.id, name, encrypted)
    }

    /// Stores one artifact, whole or not at all.
    async fn store(
        self: &Arc<Self>,
        name: &ArtifactName,
        source: Source,
        options: &PutOptions,
        cancel: CancellationToken,
    ) -> Result<ArtifactRecord> {
        let origin = source.origin.clone();
        let encrypted = self.sealing.recipients.is_some();
        let compression = if options.compress { self.sealing.compression } else { Compression::Raw };
        let write = WriteOptions {
            compression,
            recipients: self.sealing.recipients.clone(),
            parts_per_segment: self.sealing.parts_per_segment,
            ..WriteOptions::new(name.clone())
        };
        let segments = Arc::new(self.segments(name, encrypted)?);
        let shown = name.to_string();
        self.progress.artifact_started(&shown);
        let moved = {
            let (progress, shown, read) = (self.progress.clone(), shown.clone(), AtomicU64::new(0));
            move |n| progress.artifact_bytes(&shown, read.fetch_add(n, Ordering::Relaxed) + n, 0)
        };
        let stored = write_artifact(source, write, &self.budget, segments, moved, cancel).await;
        match stored {
            Ok(stored) => {
                let record = ArtifactRecord {
                    name: name.clone(),
                    size: stored.size,
                    blake3: stored.blake3,
                    media_type: options.media_type.clone(),
                    origin,
                    encrypted,
                    segments: stored.segments,
                    index: None,
                };
                self.progress.artifact_done(&shown, record.size, record.stored_bytes());
                failpoint::reach(Point::ArtifactStored);
                Ok(record)
            }
            Err(error) => {
                self.progress.artifact_dropped(&shown);
                Err(error)
            }
        }
    }

    /// Says in the record where the index of an archive is.
    fn set_index(&self, archive: &ArtifactName, index: &ArtifactName) {
        for slot in &mut self.state().slots {
            if let Slot::Stored(record) = slot
                && record.name == *archive
            {
                record.index = Some(index.clone());
            }
        }
    }

    fn finish(&self, place: usize, name: &ArtifactName, result: &Result<ArtifactRecord>) {
        let slot = match result {
            Ok(record) => Slot::Stored(record.clone()),
            Err(error) => Slot::Failed(name.clone(), error.origin().to_string()),
        };
        self.state().slots[place] = slot;
    }
}

#[async_trait]
impl Artifacts for NewArtifacts {
    async fn put(&self, name: ArtifactName, body: Source, options: PutOptions) -> Result<Transfer> {
        let place = self.begin(&name)?;
        let cancel = self.shared.cancel.child_token();
        let permit = tokio::select! {
            () = cancel.cancelled() => return Err(Error::cancelled(format!("artifact \"{name}\" was cancelled"))),
            permit = self.places.clone().acquire_owned() => permit,
        };
        let permit = permit.map_err(|_| Error::cancelled("the run is over"))?;
        let waits_for = body.waits_for.clone();
        let (shared, token) = (self.shared.clone(), cancel.clone());
        let done = self.tasks.spawn(async move {
            let result = shared.store(&name, body, &options, token).await;
            shared.finish(place, &name, &result);
            drop(permit);
            result
        });
        Ok(Transfer { done, cancel, waits_for })
    }

    fn list(&self) -> Vec<ArtifactRecord> {
        let stored = |slot: &Slot| match slot {
            Slot::Stored(record) => Some(record.clone()),
            Slot::Storing(_) | Slot::Failed(..) => None,
        };
        self.shared.state().slots.iter().filter_map(stored).collect()
    }

    async fn get(&self, name: &ArtifactName) -> Result<Source> {
        Err(Error::denied(format!("artifact \"{name}\" cannot be read back while its backup is being made")))
    }

    async fn create_archive(&self, name: ArtifactName, options: PutOptions) -> Result<Box<dyn ArchiveWriter>> {
        let index = index_name(name.as_str())?.parse::<ArtifactName>()?;
        let spool_dir = self.spool_dir.clone();
        let (input, tar, end) = pack(PackOptions { spool_dir, ..PackOptions::default() })?;
        let transfer = self.put(name, Source::new(Origin::Archive, tar), options).await?;
        // Its place is taken now, so that no artifact of the plugin can have its name.
        let index_place = self.begin(&index)?;
        let writer = PackedArchive { shared: self.shared.clone(), input, end, transfer, index, index_place };
        Ok(Box::new(writer))
    }

    async fn open_archive(&self, name: &ArtifactName) -> Result<Box<dyn ArchiveReader>> {
        Err(Error::denied(format!("archive \"{name}\" cannot be read back while its backup is being made")))
    }
}

/// An archive on its way: the tar is being stored, its index follows.
struct PackedArchive {
    shared: Arc<Shared>,
    input: ArchiveInput,
    end: ArchiveEnd,
    transfer: Transfer,
    index: ArtifactName,
    index_place: usize,
}

#[async_trait]
impl ArchiveWriter for PackedArchive {
    async fn add(&mut self, path: String, attributes: Vec<(String, String)>, body: Source) -> Result<()> {
        self.input.add(path, attributes, body).await
    }

    async fn finish(self: Box<Self>) -> Result<(ArtifactRecord, Vec<(String, String)>)> {
        let Self { shared, input, end, transfer, index, index_place } = *self;
        input.finish().await?;
        let mut tar = transfer
            .done
            .await
            .map_err(|e| Error::failed("the task that stores an archive ended badly").because(e))??;
        let packed = end.take()?;
        let options = PutOptions { media_type: Some("application/jsonl".to_owned()), compress: true };
        let source = Source { body: packed.index, ..Source::new(Origin::Archive, InMemory::new(Vec::new())) };
        let stored = shared.store(&index, source, &options, shared.cancel.child_token()).await;
        shared.finish(index_place, &index, &stored);
        stored?;
        tar.index = Some(index.clone());
        shared.set_index(&tar.name, &index);
        // Whatever the plugin makes of it: an archive with a hole is an incomplete backup.
        shared.state().failed_entries.extend(packed.failed.iter().cloned());
        Ok((tar, packed.failed))
    }
}
