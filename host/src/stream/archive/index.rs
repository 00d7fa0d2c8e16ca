//! The index of an archive: JSON lines, one per entry, in the order of the tar.
//!
//! ```text
//! {"strongroom_index":1}
//! {"path":"a.txt","offset":1024,"size":5,"attributes":[["mode","0644"]],"blake3":"…","outcome":"whole"}
//! {"path":"gone","size":0,"attributes":[],"outcome":"unread","reason":"…"}
//! {"entries":2}
//! ```
//!
//! `offset` is where the body begins in the tar; an `unread` entry is not in the tar. The last line
//! proves that nothing is missing behind the last entry.

use super::{MAX_ATTRIBUTES_BYTES, MAX_PATH_BYTES};
use crate::error::{Error, Result};
use crate::stream::ByteSource;
use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};

/// The format that this version writes; every released format is read for ever.
pub const INDEX_FORMAT: u32 = 1;
/// Longest line: path and attributes with every byte as a JSON escape of six, and what is around them.
const MAX_LINE_BYTES: usize = 6 * (MAX_PATH_BYTES + MAX_ATTRIBUTES_BYTES) + (64 << 10);

/// How an entry's body came into the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryOutcome {
    /// As it was when it was opened, to its proven end.
    Whole,
    /// It ended early or could not be read on; the rest is zeros.
    Short,
    /// It had more bytes than when it was opened; they are left out.
    Cut,
    /// All bytes are there, but it changed while they were read.
    Changed,
    /// It could not be opened, and is not in the tar.
    Unread,
}

/// One entry as the index says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexLine {
    /// Its path.
    pub path: String,
    /// Where its body begins in the tar; `None` for one that is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of its body in the tar.
    pub size: u64,
    /// Its attributes, sorted by name.
    pub attributes: Vec<(String, String)>,
    /// BLAKE3 of its body as it is in the tar, in hex; `None` for one that is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// What came of it.
    pub outcome: EntryOutcome,
    /// Why it is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    strongroom_index: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    entries: u64,
}

fn damaged(got: impl Into<String>) -> Error {
    Error::damaged("could not read an archive's index").fact("got", got)
}

fn line_of(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line =
        serde_json::to_vec(value).map_err(|e| Error::failed("could not write an archive's index").because(e))?;
    line.push(b'\n');
    Ok(line)
}

/// The first line.
pub(super) fn head() -> Result<Vec<u8>> {
    line_of(&Head { strongroom_index: INDEX_FORMAT })
}

/// The last line.
pub(super) fn tail(entries: u64) -> Result<Vec<u8>> {
    line_of(&Tail { entries })
}

impl IndexLine {
    /// The line with its end.
    pub(super) fn to_line(&self) -> Result<Vec<u8>> {
        line_of(self)
    }

    /// Any bytes give a line that holds together, or `Damaged`.
    pub(super) fn parse(line: &[u8]) -> Result<Self> {
        let parsed: Self =
            serde_json::from_slice(line).map_err(|e| damaged("a line that is not an entry").because(e))?;
        super::check_path(&parsed.path).map_err(|error| damaged(error.message()))?;
        let hash_is_good = parsed.blake3.as_ref().is_none_or(|hash| blake3::Hash::from_hex(hash).is_ok());
        let in_tar = parsed.outcome != EntryOutcome::Unread;
        let end_is_good = parsed.offset.is_none_or(|offset| offset.checked_add(parsed.size).is_some());
        if !hash_is_good || !end_is_good || parsed.offset.is_some() != in_tar || parsed.blake3.is_some() != in_tar {
            return Err(damaged(format!("an entry {:?} whose parts contradict each other", parsed.path)));
        }
        Ok(parsed)
    }

    /// The entry as a reader of the archive sees it.
    pub(super) fn entry(&self) -> super::Entry {
        super::Entry { path: self.path.clone(), attributes: self.attributes.clone(), size: self.size }
    }
}

/// Reads an index line by line, in memory of one line.
pub struct IndexReader {
    source: Box<dyn ByteSource>,
    chunk: Bytes,
    line: Vec<u8>,
    begun: bool,
    ended: bool,
    entries: u64,
    /// Where the line read last begins.
    at: u64,
    next_at: u64,
}

impl IndexReader {
    /// A reader of what `source` holds, from its first line.
    pub fn new(source: Box<dyn ByteSource>) -> Self {
        let (chunk, line) = (Bytes::new(), Vec::new());
        Self { source, chunk, line, begun: false, ended: false, entries: 0, at: 0, next_at: 0 }
    }

    /// The next entry, or `None` at the proven end. Errors: `Damaged`, and those of the source.
    pub fn next_line(&mut self) -> Result<Option<IndexLine>> {
        if !self.begun {
            let head: Head = match self.fill_line()? {
                true => {
                    serde_json::from_slice(&self.line).map_err(|e| damaged("no index in its first line").because(e))?
                }
                false => return Err(damaged("nothing")),
            };
            if head.strongroom_index != INDEX_FORMAT {
                return Err(damaged(format!("format {}", head.strongroom_index))
                    .fact("expected", format!("format {INDEX_FORMAT}"))
                    .hint("read it with a newer version"));
            }
            self.begun = true;
        }
        if self.ended {
            return Ok(None);
        }
        if !self.fill_line()? {
            return Err(damaged("an end without a last line"));
        }
        if self.line.starts_with(b"{\"entries\"") {
            let tail: Tail = serde_json::from_slice(&self.line).map_err(|e| damaged("a bad last line").because(e))?;
            if tail.entries != self.entries {
                return Err(
                    damaged(format!("{} entries", self.entries)).fact("expected", format!("{} entries", tail.entries))
                );
            }
            if self.fill_line()? {
                return Err(damaged("something behind the last line"));
            }
            self.ended = true;
            return Ok(None);
        }
        self.entries += 1;
        IndexLine::parse(&self.line).map(Some)
    }

    /// Where the line read last lies: offset and length in bytes, its end not counted.
    pub(super) fn place(&self) -> (u64, usize) {
        (self.at, self.line.len())
    }

    /// Reads up to the next line end; false at the end of the source.
    fn fill_line(&mut self) -> Result<bool> {
        self.line.clear();
        self.at = self.next_at;
        loop {
            if self.chunk.is_empty() {
                match self.source.next_chunk()? {
                    Some(chunk) => self.chunk = chunk,
                    None if self.line.is_empty() => return Ok(false),
                    None => return Err(damaged("a last line without an end")),
                }
            }
            let end = self.chunk.iter().position(|b| *b == b'\n');
            let n = end.unwrap_or(self.chunk.len());
            if self.line.len() + n > MAX_LINE_BYTES {
                return Err(
                    damaged("a line that is too long").fact("expected", format!("at most {MAX_LINE_BYTES} bytes"))
                );
            }
            self.line.extend_from_slice(&self.chunk[..n]);
            let taken = n + usize::from(end.is_some());
            self.chunk.advance(taken);
            self.next_at += u64::try_from(taken).map_err(|_| damaged("too many bytes"))?;
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// Longest line that is looked for at a place.
pub(super) const fn max_line_bytes() -> usize {
    MAX_LINE_BYTES
}
