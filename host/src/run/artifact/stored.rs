//! Artifacts of a backup that exists, read back: every frame is proven before it leaves the host.

use crate::error::{Error, Kind, Result};
use crate::id::ArtifactName;
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Artifacts, Entry, PutOptions, Transfer};
use crate::progress::Progress;
use crate::record::{ArtifactRecord, BackupRecord};
use crate::run::{Job, LateIdentity};
use crate::store::{Store, StoreSegments};
use crate::stream::archive::{self, IndexedArchive, RandomAccess};
use crate::stream::{ArtifactReader, Budget, ByteSource, Origin, Source, SourceInfo, open_artifact};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The artifacts of one backup, to be read.
#[derive(Clone)]
pub struct StoredArtifacts {
    record: Arc<BackupRecord>,
    store: Arc<dyn Store>,
    identity: Option<Arc<LateIdentity>>,
    budget: Arc<Budget>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
    /// Those that were read to their proven end.
    proven: Arc<Mutex<BTreeSet<ArtifactName>>>,
}

impl StoredArtifacts {
    /// The artifacts that `record` names.
    pub fn new(job: &Job, record: BackupRecord, cancel: &CancellationToken) -> Self {
        Self {
            record: Arc::new(record),
            store: job.store.clone(),
            identity: job.identity.clone(),
            budget: job.budget.clone(),
            progress: job.progress.clone(),
            cancel: cancel.clone(),
            proven: Arc::default(),
        }
    }

    /// The same artifacts, read from here: see [`crate::catalog::Catalog::whereabouts`].
    #[must_use]
    pub fn from_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = store;
        self
    }

    /// The backup.
    pub fn record(&self) -> &BackupRecord {
        &self.record
    }

    /// Whether this artifact has been read to its proven end.
    pub fn is_proven(&self, name: &ArtifactName) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn find(&self, name: &ArtifactName) -> Result<&ArtifactRecord> {
        self.record
            .artifacts
            .iter()
            .find(|artifact| artifact.name == *name)
            .ok_or_else(|| Error::not_found(format!("backup {} has no artifact \"{name}\"", self.record.id)))
    }

    /// Whether the identity opens the backup, before a plugin is started: `Denied` if not, `Invalid` if it
    /// cannot be had. Damage is found, and named, where the artifacts are read.
    pub async fn check_identity(&self) -> Result<()> {
        let Some(first) = self.record.artifacts.iter().find(|artifact| artifact.encrypted) else {
            return Ok(());
        };
        self.identity.as_ref().map(|late| late.get()).transpose()?;
        match self.open(first).await {
            Err(error) if error.kind() == Kind::Denied => {
                Err(error.while_doing(format!("backup {} cannot be opened with this identity", self.record.id)))
            }
            _ => Ok(()),
        }
    }

    /// Opens one artifact for reading.
    pub async fn open(&self, artifact: &ArtifactRecord) -> Result<ArtifactReader> {
        let segments = StoreSegments::new(
            self.store.clone(),
            &self.record.job,
            &self.record.id,
            &artifact.name,
            artifact.encrypted,
        )?;
        let cancel = self.cancel.child_token();
        let late = self.identity.as_ref().filter(|_| artifact.encrypted);
        let identity = late.map(|late| late.get()).transpose()?;
        open_artifact(artifact, Arc::new(segments), identity.as_deref(), &self.budget, cancel).await
    }

    /// Reads one artifact to its proven end and throws the bytes away.
    pub async fn read_through(&self, artifact: &ArtifactRecord) -> Result<()> {
        let mut source = self.source(artifact).await?;
        blocking(move || {
            while source.body.next_chunk()?.is_some() {}
            Ok(())
        })
        .await
    }

    async fn source(&self, artifact: &ArtifactRecord) -> Result<Source> {
        let reader = self.open(artifact).await?;
        self.progress.artifact_started(artifact.name.as_str());
        let origin = Origin::Artifact { name: artifact.name.to_string(), made_by: Box::new(artifact.origin.clone()) };
        Ok(Source::new(
            origin,
            Proving {
                reader,
                name: artifact.name.clone(),
                size: artifact.size,
                stored: artifact.stored_bytes(),
                read: 0,
                ended: false,
                proven: self.proven.clone(),
                progress: self.progress.clone(),
            },
        ))
    }
}

/// An artifact being read, that remembers when it was read to its end.
struct Proving {
    reader: ArtifactReader,
    name: ArtifactName,
    size: u64,
    stored: u64,
    read: u64,
    ended: bool,
    proven: Arc<Mutex<BTreeSet<ArtifactName>>>,
    progress: Arc<dyn Progress>,
}

impl Proving {
    fn note(&mut self, n: usize) {
        self.read += n as u64;
        if n > 0 {
            self.progress.artifact_bytes(self.name.as_str(), self.read, self.stored);
        } else if !self.ended {
            self.ended = true;
            self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name.clone());
            self.progress.artifact_done(self.name.as_str(), self.read, self.stored);
        }
    }
}

impl ByteSource for Proving {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.size), attributes: Vec::new() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = self.reader.read(buf)?;
        self.note(n);
        Ok(n)
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.reader.next_chunk()?;
        self.note(chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }
}

impl Drop for Proving {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.artifact_dropped(self.name.as_str());
        }
    }
}

#[async_trait]
impl Artifacts for StoredArtifacts {
    async fn put(&self, name: ArtifactName, _body: Source, _options: PutOptions) -> Result<Transfer> {
        Err(Error::denied(format!("artifact \"{name}\" cannot be stored: this run reads a backup that exists")))
    }

    fn list(&self) -> Vec<ArtifactRecord> {
        self.record.artifacts.clone()
    }

    async fn get(&self, name: &ArtifactName) -> Result<Source> {
        self.source(self.find(name)?).await
    }

    async fn create_archive(&self, name: ArtifactName, _options: PutOptions) -> Result<Box<dyn ArchiveWriter>> {
        Err(Error::denied(format!("archive \"{name}\" cannot be stored: this run reads a backup that exists")))
    }

    async fn open_archive(&self, name: &ArtifactName) -> Result<Box<dyn ArchiveReader>> {
        let tar = self.find(name)?;
        let index = tar.index.as_ref().ok_or_else(|| {
            Error::invalid(format!("artifact \"{name}\" is not an archive")).hint("read it with storage.get")
        })?;
        let index = self.find(index)?;
        let bodies = self.source(tar).await?;
        let lines = self.source(index).await?;
        let sequential = archive::ArchiveReader::new(bodies.body, Some(lines.body), bodies.origin.clone());
        Ok(Box::new(OpenArchive {
            artifacts: self.clone(),
            tar: tar.clone(),
            index: index.clone(),
            origin: bodies.origin,
            sequential: Arc::new(Mutex::new(sequential)),
            ahead: VecDeque::new(),
            reading: None,
            indexed: None,
        }))
    }
}

/// An archive being read: in its order, and single entries from their places.
struct OpenArchive {
    artifacts: StoredArtifacts,
    tar: ArtifactRecord,
    index: ArtifactRecord,
    origin: Origin,
    sequential: Arc<Mutex<archive::ArchiveReader>>,
    /// Entries that were read and not yet asked for: going to another thread for each of them would
    /// cost more than reading it.
    ahead: VecDeque<Next>,
    /// The next of them, while they are read.
    reading: Option<JoinHandle<Vec<Next>>>,
    /// Made by the first `open`, which reads the whole index.
    indexed: Option<Arc<IndexedArchive>>,
}

/// An entry and its body, or the end.
type Next = Result<Option<(archive::Entry, Source)>>;

/// Entries that are read together. Their small bodies count into the archive reader's 16 MiB.
const ENTRIES_AT_ONCE: usize = 64;

struct At(ArtifactReader);

impl RandomAccess for At {
    fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        let left = self.0.size().saturating_sub(offset);
        self.0.read_at(offset, usize::try_from(left).unwrap_or(usize::MAX).min(len))
    }
}

#[async_trait]
impl ArchiveReader for OpenArchive {
    async fn next(&mut self) -> Result<Option<(Entry, Source)>> {
        if self.ahead.is_empty() {
            let reading = self.reading.get_or_insert_with(|| read_ahead(&self.sequential));
            // Given up half-way, the entries are still there for the next call.
            let read = reading.await;
            self.reading = None;
            self.ahead = read.map_err(thread_ended)?.into();
        }
        let next = self.ahead.pop_front().unwrap_or(Ok(None))?;
        if self.ahead.len() == ENTRIES_AT_ONCE / 2 && self.reading.is_none() && self.ahead.back().is_some_and(goes_on) {
            self.reading = Some(read_ahead(&self.sequential));
        }
        Ok(next.map(|(entry, source)| (adapt(entry), source)))
    }

    async fn open(&mut self, path: &str) -> Result<(Entry, Source)> {
        let indexed = match &self.indexed {
            Some(indexed) => indexed.clone(),
            None => {
                let tar = Arc::new(Mutex::new(At(self.artifacts.open(&self.tar).await?)));
                let index = Arc::new(Mutex::new(At(self.artifacts.open(&self.index).await?)));
                let origin = self.origin.clone();
                let opened = Arc::new(blocking(move || IndexedArchive::open(tar, index, origin)).await?);
                self.indexed = Some(opened.clone());
                opened
            }
        };
        let path = path.to_owned();
        let (entry, source) = blocking(move || indexed.entry(&path)).await?;
        Ok((adapt(entry), source))
    }
}

fn read_ahead(from: &Arc<Mutex<archive::ArchiveReader>>) -> JoinHandle<Vec<Next>> {
    let from = Arc::clone(from);
    tokio::task::spawn_blocking(move || {
        from.lock().unwrap_or_else(PoisonError::into_inner).next_entries(ENTRIES_AT_ONCE)
    })
}

/// Whether reading on takes nothing away from this entry, and there is something to read.
fn goes_on(last: &Next) -> bool {
    last.as_ref().is_ok_and(|next| next.as_ref().is_some_and(|(_, source)| !source.leash.is_held()))
}

fn thread_ended(error: tokio::task::JoinError) -> Error {
    Error::failed("the thread that reads an artifact ended badly").because(error)
}

fn adapt(entry: archive::Entry) -> Entry {
    let archive::Entry { path, attributes, size } = entry;
    Entry { path, attributes, size }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(thread_ended)?
}
