//! Archives: many small things as one artifact, written and read entry by entry.

use super::super::bytes::{GuestSource, Watch};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::storage;
use crate::plugin::budget::{Limit, Permit};
use crate::plugin::context::{ArchiveReader, ArchiveWriter, Entry};
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::ledger::Ledger;
use crate::plugin::state::{State, Underway, check_leashes};
use crate::record::ArtifactRecord;
use crate::stream::source::InMemory;
use crate::stream::{Leash, Origin, Source};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

/// Most bytes of all attributes of one entry.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

/// An archive being packed, in the guest's hands. Dropping it abandons the artifact.
pub struct GuestArchive {
    /// Away after an `add` that was given up: the archive has ended badly.
    writer: Option<Box<dyn ArchiveWriter>>,
    watch: Watch,
    stop: CancellationToken,
    /// Held until it is finished or dropped: until then its place is free for nobody else.
    leash: Leash,
    ledger: Arc<Ledger>,
    _permit: Permit,
}

impl Drop for GuestArchive {
    fn drop(&mut self) {
        self.leash.release();
        self.stop.cancel();
    }
}

/// An archive being read, in the guest's hands.
pub struct GuestArchiveReader {
    reader: Box<dyn ArchiveReader>,
    inspect: bool,
    /// Counts the bytes of entries on their way: the next one may have to wait for them.
    watch: Watch,
    /// Counts the reads of its entries as well.
    ledger: Arc<Ledger>,
    _permit: Permit,
}

impl GuestArchive {
    pub(super) fn new(
        writer: Box<dyn ArchiveWriter>,
        stop: CancellationToken,
        ledger: Arc<Ledger>,
        permit: Permit,
    ) -> Self {
        ledger.outcome("abandoned".to_owned());
        Self { writer: Some(writer), watch: Watch::default(), stop, leash: Leash::held(), ledger, _permit: permit }
    }

    pub(super) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// What is known of it when the guest has let go of it.
    pub(super) fn underway(&self) -> Underway {
        Underway { task: None, waits_for: vec![self.leash.clone()], watch: self.watch.clone() }
    }

    /// Queues an entry. The queue stands while a large entry is stored: that is progress.
    async fn add(
        &mut self,
        path: String,
        attributes: Vec<(String, String)>,
        body: Source,
        stall: Duration,
        guard: &Guard,
    ) -> Result<(), Refusal> {
        check_entry(&path, &attributes)?;
        if path.len() > guard.limits().entry_path_bytes {
            return Err(guard.spent(Limit::EntryPath).into());
        }
        check_leashes(&body.waits_for, "the archive")?;
        let body = self.watch.over(body, &self.stop);
        // Taken out: an add that is given up half-way must not be followed by another one.
        let mut writer = self.writer.take().ok_or_else(ended_badly)?;
        let added = self.watch.moving(stall, writer.add(path, attributes, body)).await;
        let added = added.ok_or_else(|| guard.stalled())?;
        self.writer = Some(writer);
        Ok(added?)
    }

    /// Ends it; fails when nothing moves for as long as `stall`.
    pub(super) async fn finish(
        mut self,
        stall: Duration,
        guard: &Guard,
    ) -> Result<(ArtifactRecord, Vec<(String, String)>), Refusal> {
        let writer = self.writer.take().ok_or_else(ended_badly)?;
        match self.watch.moving(stall, writer.finish()).await {
            Some(finished) => Ok(finished?),
            None => Err(guard.stalled().into()),
        }
    }
}

fn ended_badly() -> Error {
    Error::invalid("the archive has ended badly: an earlier call on it was given up")
}

fn check_entry(path: &str, attributes: &[(String, String)]) -> Result<()> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid("a path in an archive has at least one byte and no NUL"));
    }
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ATTRIBUTE_BYTES {
        return Err(Error::invalid(format!("the attributes of an entry are at most {MAX_ATTRIBUTE_BYTES} bytes")));
    }
    Ok(())
}

impl GuestArchiveReader {
    pub(super) fn new(reader: Box<dyn ArchiveReader>, inspect: bool, ledger: Arc<Ledger>, permit: Permit) -> Self {
        Self { reader, inspect, watch: Watch::default(), ledger, _permit: permit }
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
        let counted = self.count_entry();
        let guard = self.guard.clone();
        let (stall, archive) = (self.run.limits.stall, self.table.get_mut(&this)?);
        let ledger = archive.ledger();
        let work = async {
            let source = taken?.source;
            counted?;
            if matches!(source.origin, Origin::Exec { .. } | Origin::Plugin) {
                return Err(Error::invalid("the length of a process's output or a pipe is not known beforehand")
                    .hint("the plugin should store it as an artifact of its own, with put")
                    .into());
            }
            archive.add(path, attributes, source, stall, &guard).await
        };
        guard.pass_on(&ledger, "storage.archive.add", None, Deadline::Own, work).await
    }

    async fn add_bytes(
        &mut self,
        this: Resource<GuestArchive>,
        path: String,
        attributes: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Result<(), Refusal> {
        let counted = self.count_entry();
        let guard = self.guard.clone();
        let (stall, archive) = (self.run.limits.stall, self.table.get_mut(&this)?);
        let ledger = archive.ledger();
        let work = async {
            counted?;
            let source = Source::new(Origin::Plugin, InMemory::new(body));
            archive.add(path, attributes, source, stall, &guard).await
        };
        guard.pass_on(&ledger, "storage.archive.add-bytes", None, Deadline::Own, work).await
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
        let stall = self.run.limits.stall;
        let ledger = Arc::clone(&self.table.get(&this)?.ledger);
        let work = async {
            let archive = self.table.get_mut(&this)?;
            let next = archive.watch.moving(stall, archive.reader.next()).await.ok_or_else(|| guard.stalled())?;
            let Some((entry, source)) = next? else { return Ok(None) };
            let mut source = archive.watch.over(source, &CancellationToken::new());
            source.inspect = archive.inspect;
            Ok(Some((entry_for_guest(entry), self.push_source(source, None, Arc::clone(&ledger))?)))
        };
        guard.pass_on(&ledger, "storage.archive-reader.next", None, Deadline::Own, work).await
    }

    async fn open(
        &mut self,
        this: Resource<GuestArchiveReader>,
        path: String,
    ) -> Result<(storage::Entry, Resource<GuestSource>), Refusal> {
        let guard = self.guard.clone();
        let ledger = Arc::clone(&self.table.get(&this)?.ledger);
        let work = async {
            let archive = self.table.get_mut(&this)?;
            let (entry, mut source) = archive.reader.open(&path).await?;
            source.inspect = archive.inspect;
            Ok((entry_for_guest(entry), self.push_source(source, None, Arc::clone(&ledger))?))
        };
        guard.pass_on(&ledger, "storage.archive-reader.open", None, Deadline::Stall, work).await
    }

    async fn drop(&mut self, this: Resource<GuestArchiveReader>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
