//! Archives: many small things as one artifact, written and read entry by entry.

use super::super::bytes::{GuestSource, Watch};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::storage;
use crate::plugin::budget::Permit;
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Entry};
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::state::{State, check_leashes};
use crate::record::ArtifactRecord;
use crate::stream::source::InMemory;
use crate::stream::{Origin, Source};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

/// Longest path of an entry, in bytes: the longest that Linux takes.
const MAX_PATH_BYTES: usize = 4096;
/// Most bytes of all attributes of one entry.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

/// An archive being packed, in the guest's hands. Dropping it abandons the artifact.
pub struct GuestArchive {
    /// Away after an `add` that was given up: the archive has ended badly.
    writer: Option<Box<dyn ArchiveWriter>>,
    watch: Watch,
    stop: CancellationToken,
    _permit: Permit,
}

impl Drop for GuestArchive {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An archive being read, in the guest's hands.
pub struct GuestArchiveReader {
    reader: Box<dyn ArchiveReader>,
    inspect: bool,
    _permit: Permit,
}

impl GuestArchive {
    pub(super) fn new(writer: Box<dyn ArchiveWriter>, stop: CancellationToken, permit: Permit) -> Self {
        Self { writer: Some(writer), watch: Watch::default(), stop, _permit: permit }
    }

    async fn add(&mut self, path: String, attributes: Vec<(String, String)>, body: Source) -> Result<()> {
        check_entry(&path, &attributes)?;
        check_leashes(&body.waits_for, "the archive")?;
        let body = self.watch.over(body, &self.stop);
        // Taken out: an add that is given up half-way must not be followed by another one.
        let mut writer = self.writer.take().ok_or_else(ended_badly)?;
        let added = writer.add(path, attributes, body).await;
        self.writer = Some(writer);
        added
    }

    /// Ends it; fails when nothing moves for as long as `stall`.
    pub(super) async fn finish(
        mut self,
        stall: Duration,
        guard: &Guard,
    ) -> Result<(ArtifactRecord, Vec<(String, String)>), Refusal> {
        let writer = self.writer.take().ok_or_else(ended_badly)?;
        let mut finish = writer.finish();
        loop {
            let seen = self.watch.seen();
            match tokio::time::timeout(stall, &mut finish).await {
                Ok(finished) => return Ok(finished?),
                Err(_) if self.watch.seen() == seen => return Err(guard.stalled().into()),
                Err(_) => {}
            }
        }
    }
}

fn ended_badly() -> Error {
    Error::invalid("the archive has ended badly: an earlier call on it was given up")
}

fn check_entry(path: &str, attributes: &[(String, String)]) -> Result<()> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err(Error::invalid(format!("a path in an archive is 1 to {MAX_PATH_BYTES} bytes without NUL")));
    }
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ATTRIBUTE_BYTES {
        return Err(Error::invalid(format!("the attributes of an entry are at most {MAX_ATTRIBUTE_BYTES} bytes")));
    }
    Ok(())
}

impl GuestArchiveReader {
    pub(super) fn new(reader: Box<dyn ArchiveReader>, inspect: bool, permit: Permit) -> Self {
        Self { reader, inspect, _permit: permit }
    }
}

fn entry_for_guest(entry: Entry) -> storage::Entry {
    storage::Entry { path: entry.path, attributes: entry.attributes, size: entry.size }
}

impl storage::HostArchive for State {
    async fn add(
        &mut self,
        this: Resource<GuestArchive>,
        path: String,
        attributes: Vec<(String, String)>,
        body: Resource<GuestSource>,
    ) -> Result<(), Refusal> {
        let taken = self.take_source(body)?;
        let guard = self.guard.clone();
        let archive = self.table.get_mut(&this)?;
        let work = async {
            let source = taken?.source;
            if matches!(source.origin, Origin::Exec { .. } | Origin::Plugin) {
                return Err(Error::invalid("the length of a process's output or a pipe is not known beforehand")
                    .hint("the plugin should store it as an artifact of its own, with put")
                    .into());
            }
            Ok(archive.add(path, attributes, source).await?)
        };
        guard.pass("storage.archive.add", None, Deadline::Stall, work).await
    }

    async fn add_bytes(
        &mut self,
        this: Resource<GuestArchive>,
        path: String,
        attributes: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Result<(), Refusal> {
        let guard = self.guard.clone();
        let archive = self.table.get_mut(&this)?;
        let work = async {
            let source = Source::new(Origin::Plugin, InMemory::new(body));
            Ok(archive.add(path, attributes, source).await?)
        };
        guard.pass("storage.archive.add-bytes", None, Deadline::Stall, work).await
    }

    async fn drop(&mut self, this: Resource<GuestArchive>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl storage::HostArchiveReader for State {
    async fn next(
        &mut self,
        this: Resource<GuestArchiveReader>,
    ) -> Result<Option<(storage::Entry, Resource<GuestSource>)>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let archive = self.table.get_mut(&this)?;
            let Some((entry, mut source)) = archive.reader.next().await? else { return Ok(None) };
            source.inspect = archive.inspect;
            Ok(Some((entry_for_guest(entry), self.push_source(source, None)?)))
        };
        guard.pass("storage.archive-reader.next", None, Deadline::Stall, work).await
    }

    async fn open(
        &mut self,
        this: Resource<GuestArchiveReader>,
        path: String,
    ) -> Result<(storage::Entry, Resource<GuestSource>), Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let archive = self.table.get_mut(&this)?;
            let (entry, mut source) = archive.reader.open(&path).await?;
            source.inspect = archive.inspect;
            Ok((entry_for_guest(entry), self.push_source(source, None)?))
        };
        guard.pass("storage.archive-reader.open", None, Deadline::Stall, work).await
    }

    async fn drop(&mut self, this: Resource<GuestArchiveReader>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
