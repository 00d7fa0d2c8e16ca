//! Artifacts of a backup that exists, read back: every frame is proven before it leaves the host.

use crate::catalog::layout;
use crate::error::{Error, Result};
use crate::id::ArtifactName;
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Artifacts, PutOptions, Transfer};
use crate::record::{ArtifactRecord, BackupRecord};
use crate::run::Job;
use crate::run::progress::Progress;
use crate::store::Store;
use crate::store::segments::stored_segments;
use crate::stream::{ArtifactReader, Budget, ByteSource, Identity, Origin, SealedSegments, Source, SourceInfo, open_artifact};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// The artifacts of one backup, to be read.
#[derive(Clone)]
pub struct StoredArtifacts {
    record: Arc<BackupRecord>,
    store: Arc<dyn Store>,
    identity: Option<Arc<Identity>>,
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

    /// The backup.
    pub fn record(&self) -> &BackupRecord {
        &self.record
    }

    /// Whether this artifact has been read to its proven end.
    pub fn is_proven(&self, name: &ArtifactName) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Its segments as they lie in the store.
    pub fn segments(&self, artifact: &ArtifactRecord) -> Result<Arc<dyn SealedSegments>> {
        let key = layout::artifact(&self.record.job, &self.record.id, &artifact.name)?;
        Ok(stored_segments(&self.store, &key, artifact))
    }

    fn find(&self, name: &ArtifactName) -> Result<&ArtifactRecord> {
        self.record.artifacts.iter().find(|artifact| artifact.name == *name).ok_or_else(|| {
            Error::not_found(format!("backup {} has no artifact \"{name}\"", self.record.id))
        })
    }

    /// Opens one artifact for reading.
    pub async fn open(&self, artifact: &ArtifactRecord) -> Result<ArtifactReader> {
        open_artifact(artifact, self.segments(artifact)?, self.identity.as_deref(), &self.budget, &self.cancel).await
    }

    /// Reads one artifact to its proven end and throws the bytes away.
    pub async fn read_through(&self, artifact: &ArtifactRecord) -> Result<()> {
        let mut source = self.source(artifact).await?;
        tokio::task::spawn_blocking(move || {
            while source.body.next_chunk()?.is_some() {}
            Ok(())
        })
        .await
        .map_err(|e| Error::failed("the thread that reads an artifact ended badly").because(e))?
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
            self.progress.artifact_bytes(self.name.as_str(), self.read);
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
            self.progress.artifact_failed(self.name.as_str(), "not read to its end");
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
        let _ = self.find(name)?;
        Err(Error::failed("archive"))
    }
}
