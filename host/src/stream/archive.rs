//! Many small things as one artifact: a tar file that GNU tar reads, and an index beside it.
//!
//! [`pack()`] gives three ends: [`ArchiveInput`] takes the entries, [`ArchiveTar`] is the source of the
//! tar's bytes, and [`ArchiveEnd`] holds the index once the tar has ended. [`ArchiveReader`] reads
//! the entries one after another, [`IndexedArchive`] one alone. Neither trusts what it reads: any
//! bytes give entries or an error, in bounded memory.
//!
//! Paths are text as [`crate::keytext`] writes it; in the tar they are the bytes that they stand for.
//!
//! Memory while packing: [`ENTRIES_AHEAD`] x [`SMALL_BYTES`] = 16 MiB of bodies read ahead, 32 bytes for each
//! path that was added (duplicates are refused), and the index beyond 256 KiB in an unnamed file under a key
//! that only this process holds. While reading: 16 MiB of small bodies not yet consumed;
//! [`IndexedArchive`] 32 bytes for each entry besides.

mod index;
mod pack;
mod queue;
mod spool;
mod tar;
#[cfg(test)]
mod tests;
mod unpack;

pub use index::{EntryOutcome, INDEX_FORMAT, IndexLine, IndexReader};
pub use pack::{ArchiveEnd, ArchiveInput, ArchiveTar, PackOptions, Packed, index_name, pack};
pub use unpack::{ArchiveReader, IndexedArchive, RandomAccess};

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is added to an archive's name for the artifact that holds its index.
pub const INDEX_SUFFIX: &str = ".index";
/// Entries that are queued, opened ahead of their turn, or taken and not yet in the tar.
pub const ENTRIES_AHEAD: usize = 128;
/// Bodies up to this size are read whole ahead of their turn; larger ones stream in their turn.
pub const SMALL_BYTES: u64 = 128 * 1024;
/// Longest path of an entry, in bytes of its text: 4 times the longest path of a local bucket.
pub const MAX_PATH_BYTES: usize = 64 * 1024;
/// Most attributes of one entry.
pub const MAX_ATTRIBUTES: usize = 1_024;
/// Most bytes of names and values of one entry's attributes: Linux takes 64 KiB a value.
pub const MAX_ATTRIBUTES_BYTES: usize = 512 * 1024;

/// An entry of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its path as it was added.
    pub path: String,
    /// Its attributes, sorted by name; every name once.
    pub attributes: Vec<(String, String)>,
    /// Its size in bytes.
    pub size: u64,
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses a path that no entry can have.
fn check_path(path: &str) -> Result<()> {
    let why = match path.len() {
        0 => "an empty path",
        n if n > MAX_PATH_BYTES => "a path of more than 64 KiB",
        _ if path.contains('\0') => "a NUL",
        _ => return Ok(()),
    };
    let shown: String = path.chars().take(100).collect();
    Err(Error::invalid(format!("{shown:?} cannot be the path of an archive's entry")).fact("got", why))
}

/// The attributes of a body and those given with it, which win.
fn merged(own: Vec<(String, String)>, given: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let all: BTreeMap<_, _> = own.into_iter().chain(given).collect();
    let bytes: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    if all.len() > MAX_ATTRIBUTES || bytes > MAX_ATTRIBUTES_BYTES {
        return Err(Error::new(crate::error::Kind::Limit, "an entry of an archive has too many attributes")
            .fact("expected", format!("at most {MAX_ATTRIBUTES} attributes of {MAX_ATTRIBUTES_BYTES} bytes together"))
            .fact("got", format!("{} attributes of {bytes} bytes", all.len())));
    }
    if all.keys().any(|name| name.is_empty() || name.contains('\0')) {
        return Err(Error::invalid("an attribute of an archive's entry has an empty name, or one with a NUL"));
    }
    Ok(all.into_iter().collect())
}
