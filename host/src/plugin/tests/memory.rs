//! A run's services in memory: artifacts on a shelf, a bucket in a drawer, words in notes.

use crate::bucket::{Bucket, Object, ObjectKind, ObjectPage};
use crate::error::{Error, Result};
use crate::id::ArtifactName;
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Artifacts, Level, PutOptions, Reporter, Step, Transfer};
use crate::plugin::guard::lock;
use crate::record::ArtifactRecord;
use crate::stream::source::InMemory;
use crate::stream::{Origin, Source};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

type Stored = Arc<Mutex<BTreeMap<ArtifactName, (ArtifactRecord, Vec<u8>)>>>;

/// Artifacts in memory. What fails or is abandoned is not on it.
pub(super) struct Shelf {
    stored: Stored,
    places: Arc<Semaphore>,
}

impl Shelf {
    pub(super) fn new(places: usize) -> Self {
        Self { stored: Stored::default(), places: Arc::new(Semaphore::new(places)) }
    }

    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.stored).get(&name.parse().unwrap()).map(|(_, bytes)| bytes.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.stored).is_empty()
    }

    /// Lays an artifact on it as if an earlier backup had made it.
    pub(super) fn lay(&self, name: &str, bytes: &[u8]) {
        let name: ArtifactName = name.parse().unwrap();
        let record = record(name.clone(), Origin::Plugin, bytes);
        lock(&self.stored).insert(name, (record, bytes.to_vec()));
    }
}

fn record(name: ArtifactName, origin: Origin, bytes: &[u8]) -> ArtifactRecord {
    ArtifactRecord {
        name,
        size: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
        media_type: None,
        origin,
        encrypted: false,
        segments: Vec::new(),
        index: None,
    }
}

fn read_all(source: &mut Source, stop: &CancellationToken) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = source.body.next_chunk()? {
        if stop.is_cancelled() {
            return Err(Error::cancelled("the transfer was abandoned"));
        }
        // Endless producers must not fill the memory of a test.
        if all.len() < 64 << 20 {
            all.extend_from_slice(&chunk);
        }
    }
    Ok(all)
}

#[async_trait]
impl Artifacts for Shelf {
    async fn put(&self, name: ArtifactName, mut body: Source, _: PutOptions) -> Result<Transfer> {
        let place = Arc::clone(&self.places).acquire_owned().await.unwrap();
        let (cancel, stored) = (CancellationToken::new(), Arc::clone(&self.stored));
        let (stop, waits_for) = (cancel.clone(), body.waits_for.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            let bytes = read_all(&mut body, &stop)?;
            if stop.is_cancelled() {
                return Err(Error::cancelled("the transfer was abandoned"));
            }
            let record = record(name.clone(), body.origin.clone(), &bytes);
            lock(&stored).insert(name, (record.clone(), bytes));
            Ok(record)
        });
        Ok(Transfer { done, cancel, waits_for })
    }

    fn list(&self) -> Vec<ArtifactRecord> {
        lock(&self.stored).values().map(|(record, _)| record.clone()).collect()
    }

    async fn get(&self, name: &ArtifactName) -> Result<Source> {
        let stored = lock(&self.stored);
        let (record, bytes) =
            stored.get(name).ok_or_else(|| Error::not_found(format!("no artifact is named \"{name}\"")))?;
        let origin = Origin::Artifact { name: name.to_string(), made_by: Box::new(record.origin.clone()) };
        Ok(Source::new(origin, InMemory::new(bytes.clone())))
    }

    async fn create_archive(&self, name: ArtifactName, _: PutOptions) -> Result<Box<dyn ArchiveWriter>> {
        let place = Arc::clone(&self.places).acquire_owned().await.unwrap();
        Ok(Box::new(Pile { _place: place, stored: Arc::clone(&self.stored), name, bytes: Vec::new() }))
    }

    async fn open_archive(&self, name: &ArtifactName) -> Result<Box<dyn ArchiveReader>> {
        Err(Error::not_found(format!("no archive is named \"{name}\"")))
    }
}

/// An archive that is only the bytes of its entries.
struct Pile {
    stored: Stored,
    name: ArtifactName,
    bytes: Vec<u8>,
    _place: tokio::sync::OwnedSemaphorePermit,
}

#[async_trait]
impl ArchiveWriter for Pile {
    async fn add(&mut self, _: String, _: Vec<(String, String)>, mut body: Source) -> Result<()> {
        self.bytes.extend(read_all(&mut body, &CancellationToken::new())?);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(ArtifactRecord, Vec<(String, String)>)> {
        let record = record(self.name.clone(), Origin::Archive, &self.bytes);
        lock(&self.stored).insert(self.name, (record.clone(), self.bytes));
        Ok((record, Vec::new()))
    }
}

/// What a plugin said.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) lines: Mutex<Vec<(Level, String)>>,
    pub(super) steps: Mutex<Vec<Step>>,
    pub(super) said: tokio::sync::Notify,
}

impl Reporter for Notes {
    fn log(&self, level: Level, message: &str, _: &[(String, String)]) {
        lock(&self.lines).push((level, message.to_owned()));
        self.said.notify_one();
    }

    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}

    fn step(&self, step: Step) {
        lock(&self.steps).push(step);
    }
}

/// A bucket that holds what was written to it, and one object to begin with.
#[derive(Debug)]
pub(super) struct Drawer(pub(super) Mutex<BTreeMap<String, Vec<u8>>>);

impl Default for Drawer {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::from([("one".to_owned(), b"first".to_vec())])))
    }
}

fn object(key: &str, bytes: &[u8]) -> Object {
    Object {
        key: key.to_owned(),
        kind: ObjectKind::File,
        version: None,
        is_latest: true,
        size: bytes.len() as u64,
        etag: None,
        last_modified_ms: 0,
    }
}

impl Bucket for Drawer {
    fn describe(&self) -> String {
        "drawer".to_owned()
    }

    fn objects(&self, prefix: &str, _: Option<&str>) -> Result<ObjectPage> {
        let objects = lock(&self.0);
        let objects = objects.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, bytes)| object(key, bytes));
        Ok(ObjectPage { objects: objects.collect(), next: None })
    }

    fn attributes(&self, _: &str, _: Option<&str>) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn is_open(&self) -> bool {
        true
    }

    fn read(&self, label: &str, key: &str, _: Option<&str>) -> Result<Source> {
        let bytes = lock(&self.0).get(key).cloned().ok_or_else(|| Error::not_found(format!("no object \"{key}\"")))?;
        Ok(Source::new(Origin::Bucket { label: label.to_owned() }, InMemory::new(bytes)))
    }

    fn write(&self, key: &str, _: &[(String, String)], mut body: Source, overwrite: bool) -> Result<Object> {
        let bytes = read_all(&mut body, &CancellationToken::new())?;
        let mut objects = lock(&self.0);
        if objects.contains_key(key) && !overwrite {
            return Err(Error::conflict(format!("object \"{key}\" is there already")));
        }
        let object = object(key, &bytes);
        objects.insert(key.to_owned(), bytes);
        Ok(object)
    }

    /// Its objects have one version each.
    fn delete(&self, key: &str, _: Option<&str>) -> Result<()> {
        lock(&self.0).remove(key);
        Ok(())
    }

    fn read_config(&self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn write_config(&self, part: &str, json: &str) -> Result<()> {
        lock(&self.0).insert(format!("config/{part}"), json.as_bytes().to_vec());
        Ok(())
    }
}
