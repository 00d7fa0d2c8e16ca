//! The private scratch directory of a guest with WASI, and the account of what lies in it.
//!
//! The guest sees it as `/scratch` and no other file of the machine. The runtime's own
//! `wasi:filesystem` resolves paths beneath it and reads; everything that makes it larger goes through
//! the account here first ([`files`], [`stream`]). Never told to the guest: where it lies. Never there:
//! hard links, symbolic links, special files. Why so: `docs/decisions/scratch.md`.
//!
//! What counts is the length of files, holes included, so that the account is never less than what the
//! disk holds of them. A file that was removed and is still open counts until it is closed.

mod files;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use files::{Files, ScratchFiles};

use super::budget::{Counter, Limit};
use super::guard::{Guard, lock};
use super::ledger::Ledger;
use crate::error::Error;
use crate::unit;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

/// Where the guest sees it.
pub(super) const GUEST_PATH: &str = "/scratch";

/// Names that all open listings may hold together, as a multiple of the limit `scratch_files`: a listing
/// is made at once, with some 300 bytes of host memory for a name.
const LISTED_TIMES: u64 = 4;

/// The scratch directory of one run; a copy is the same one.
#[derive(Clone)]
pub(super) struct Scratch(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    most: Most,
    streams: Counter,
    account: Mutex<Account>,
    /// Told when the run ends.
    ledger: Option<Arc<Ledger>>,
}

/// What it may hold at most.
#[derive(Clone, Copy, Debug)]
struct Most {
    bytes: u64,
    files: u64,
    open: usize,
}

/// What it holds: never less than there is.
#[derive(Debug, Default)]
struct Account {
    bytes: u64,
    /// The most that `bytes` ever was.
    peak_bytes: u64,
    files: u64,
    open: Vec<Open>,
    removed: Vec<Removed>,
    /// Open listings by their handle, with how many files there were when each was made.
    listings: BTreeMap<u32, u64>,
    /// The first thing that the guest wanted more of than there is.
    refused: Option<Spent>,
}

/// What was not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spent {
    /// The size that is granted.
    Bytes,
    /// One of the plugin's limits.
    Limit(Limit),
}

/// A file or directory that the guest has open, or a stream on it.
#[derive(Debug)]
struct Open {
    id: Id,
    node: Node,
    file: Weak<File>,
}

/// Something that was removed while it was open: its place is free when it is closed.
#[derive(Debug)]
struct Removed {
    node: Node,
    bytes: u64,
}

/// What the runtime calls the same object, by handle and by path: a hash of device and inode.
type Id = (u64, u64);
/// Device and inode.
type Node = (u64, u64);

/// Something that is about to lose its name.
#[derive(Clone, Copy, Debug)]
struct Named {
    id: Id,
    /// Length of a file; 0 for what is none.
    bytes: u64,
}

fn node(file: &File) -> io::Result<(Node, u64)> {
    let about = file.metadata()?;
    Ok(((about.dev(), about.ino()), about.len()))
}

fn no_space() -> io::Error {
    Errno::NOSPC.into()
}

impl Scratch {
    /// The directory `dir`, which must be empty and belong to the run, for at most `bytes`.
    pub(super) fn open(dir: &Path, bytes: u64, guard: &Guard, streams: &Counter) -> Self {
        let limits = guard.limits();
        let most = Most { bytes, files: limits.scratch_files, open: limits.scratch_open };
        Self::make(dir, most, streams, Some(guard.ledger_always("scratch", GUEST_PATH)))
    }

    fn make(dir: &Path, most: Most, streams: &Counter, ledger: Option<Arc<Ledger>>) -> Self {
        let (dir, streams) = (dir.to_owned(), streams.clone());
        Self(Arc::new(Inner { dir, most, streams, account: Mutex::default(), ledger }))
    }

    /// Where it lies on the host.
    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// What the guest wanted more of than it may have, if it did: the error that names it.
    pub(super) fn spent(&self, guard: &Guard) -> Option<Error> {
        let spent = lock(&self.0.account).refused?;
        Some(match spent {
            Spent::Limit(limit) => guard.spent(limit),
            Spent::Bytes => {
                let (label, most) = (guard.label(), self.0.most.bytes);
                let raised = unit::bytes(most.saturating_mul(2));
                Error::limit(format!("plugin \"{label}\" has used up its scratch directory (\"grant.scratch.bytes\")"))
                    .fact("limit", unit::bytes(most))
                    .hint(format!(
                        "if that is too little, grant more, such as {raised}: [plugin.{label}.grant.scratch] bytes"
                    ))
            }
        })
    }

    /// Counts a call, for the line of the audit log that tells of all of them.
    fn count(&self, function: &'static str, bytes: u64) {
        if let Some(ledger) = &self.0.ledger {
            ledger.count(function, None, bytes, None);
        }
    }

    /// Makes room for one more file or directory; false when there is none.
    fn take_file(&self) -> bool {
        let mut account = lock(&self.0.account);
        if account.files >= self.0.most.files {
            account.sweep();
        }
        let has_room = account.files < self.0.most.files;
        if has_room {
            account.files += 1;
        } else {
            account.refuse(Spent::Limit(Limit::ScratchFiles));
        }
        has_room
    }

    /// Takes back [`Self::take_file`] for what was not made.
    fn give_file(&self) {
        let mut account = lock(&self.0.account);
        account.files = account.files.saturating_sub(1);
    }

    /// Whether one more may be opened.
    fn may_open(&self) -> bool {
        let mut account = lock(&self.0.account);
        account.sweep();
        let may = account.open.len() < self.0.most.open;
        if !may {
            account.refuse(Spent::Limit(Limit::ScratchOpen));
        }
        may
    }

    /// Notes what was opened, before the guest gets it.
    fn opened(&self, id: Id, file: &Arc<File>) -> io::Result<()> {
        let (node, _) = node(file)?;
        let mut account = lock(&self.0.account);
        // What had this inode before it is closed: the inode was given out again.
        account.sweep();
        account.open.push(Open { id, node, file: Arc::downgrade(file) });
        Ok(())
    }

    /// Notes that something has lost its name.
    fn lost_name(&self, named: Named) {
        let mut account = lock(&self.0.account);
        account.sweep();
        match account.open.iter().find(|open| open.id == named.id) {
            Some(open) => {
                let bytes = open.file.upgrade().and_then(|file| file.metadata().ok());
                // What cannot be looked at any more is closed by now, and was as long as it is said.
                let bytes = bytes.filter(std::fs::Metadata::is_file).map_or(named.bytes, |about| about.len());
                let removed = Removed { node: open.node, bytes };
                account.removed.push(removed);
            }
            None => {
                account.files = account.files.saturating_sub(1);
                account.bytes = account.bytes.saturating_sub(named.bytes);
            }
        }
    }

    /// Writes all of `buffer` at `offset`, or at the end without one, and gives how much was written.
    ///
    /// Blocks. One such call at a time, so that lengths before and after are those of this write.
    fn write(&self, file: &File, buffer: &[u8], offset: Option<u64>) -> io::Result<u64> {
        let mut account = lock(&self.0.account);
        let (node, before) = node(file)?;
        let offset = offset.unwrap_or(before);
        let end = offset.checked_add(buffer.len() as u64).ok_or(Errno::FBIG)?;
        let grows = end.saturating_sub(before);
        self.take_bytes(&mut account, node, grows)?;
        let written = write_all_at(file, buffer, offset);
        // A write that failed half-way has made it longer all the same.
        let grew = file.metadata().map_or(grows, |about| about.len().saturating_sub(before));
        account.give_bytes(node, grows.saturating_sub(grew));
        drop(account);
        written?;
        self.count("scratch.write", buffer.len() as u64);
        Ok(buffer.len() as u64)
    }

    /// Makes a file as long as `size`; a hole counts like what is written. Blocks.
    fn set_size(&self, file: &File, size: u64) -> io::Result<()> {
        let mut account = lock(&self.0.account);
        let (node, before) = node(file)?;
        let grows = size.saturating_sub(before);
        self.take_bytes(&mut account, node, grows)?;
        let set = file.set_len(size);
        account.give_bytes(node, if set.is_ok() { before.saturating_sub(size) } else { grows });
        set
    }

    fn take_bytes(&self, account: &mut Account, node: Node, bytes: u64) -> io::Result<()> {
        let most = self.0.most.bytes;
        if account.bytes.saturating_add(bytes) > most {
            account.sweep();
        }
        if account.bytes.saturating_add(bytes) > most {
            account.refuse(Spent::Bytes);
            return Err(no_space());
        }
        account.bytes += bytes;
        account.peak_bytes = account.peak_bytes.max(account.bytes);
        if let Some(removed) = account.removed.iter_mut().find(|removed| removed.node == node) {
            removed.bytes += bytes;
        }
        Ok(())
    }

    /// Whether one more listing may be made.
    fn may_list(&self) -> bool {
        let mut account = lock(&self.0.account);
        let listed: u64 = account.listings.values().sum();
        let may = listed.saturating_add(account.files) <= self.0.most.files.saturating_mul(LISTED_TIMES)
            && account.listings.len() < self.0.most.open;
        if !may {
            account.refuse(Spent::Limit(Limit::ScratchFiles));
        }
        may
    }

    fn listed(&self, handle: u32) {
        let mut account = lock(&self.0.account);
        let files = account.files;
        account.listings.insert(handle, files);
    }

    fn unlisted(&self, handle: u32) {
        lock(&self.0.account).listings.remove(&handle);
    }

    /// A place for one more stream on a file.
    fn stream_place(&self) -> Option<super::budget::Permit> {
        let place = self.0.streams.take();
        if place.is_none() {
            lock(&self.0.account).refuse(Spent::Limit(Limit::OpenStreams));
        }
        place
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.outcome(format!("held {} at most", unit::bytes(lock(&self.account).peak_bytes)));
        }
    }
}

impl Account {
    fn refuse(&mut self, spent: Spent) {
        self.refused.get_or_insert(spent);
    }

    /// Frees the places of what was removed and is closed by now.
    fn sweep(&mut self) {
        self.open.retain(|open| open.file.strong_count() > 0);
        let Self { bytes, files, open, removed, .. } = self;
        removed.retain(|gone| {
            let is_open = open.iter().any(|open| open.node == gone.node);
            if !is_open {
                *bytes = bytes.saturating_sub(gone.bytes);
                *files = files.saturating_sub(1);
            }
            is_open
        });
    }

    fn give_bytes(&mut self, node: Node, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(removed) = self.removed.iter_mut().find(|removed| removed.node == node) {
            removed.bytes = removed.bytes.saturating_sub(bytes);
        }
    }
}

fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    // Without bytes there is nothing to do, but a file that is not open for writing says so.
    if buffer.is_empty() {
        return file.write_at(buffer, offset).map(drop);
    }
    file.write_all_at(buffer, offset)
}
