//! The readable end of a byte stream, wherever it comes from.

use crate::error::Result;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Where the bytes of an artifact came from. The host knows it, the plugin cannot change it, and
/// the record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// Standard output of a granted command.
    Exec {
        /// The label of the grant, such as `pg_dump`.
        command: String,
        /// Of a command in a pod: how it was shown that all of its output arrived.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proof: Option<Proof>,
    },
    /// An object or file of a labelled bucket.
    Bucket {
        /// The operator's label.
        label: String,
    },
    /// Objects or logs of a labelled cluster.
    Cluster {
        /// The operator's label.
        label: String,
    },
    /// An artifact read back from a backup, with where that one came from.
    Artifact {
        /// Its name in the backup.
        name: String,
        /// Its own origin as recorded.
        made_by: Box<Origin>,
    },
    /// Bytes that went through the plugin, or that it made.
    Plugin,
    /// An archive that the host packed from many sources.
    Archive,
}

/// What was measured of an output beside its source and agreed with what arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The POSIX checksum (a CRC of 32 bits) and the number of bytes.
    Cksum,
    /// The number of bytes.
    Count,
    /// Nothing but the marker behind the last byte, where the source has no tool to measure.
    Marker,
}

impl std::fmt::Display for Origin {
    /// What a person reads: `command "pg_dump"`, `artifact "a.dump", made by command "pg_dump"`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Exec { command, .. } => write!(f, "command {command:?}"),
            Origin::Bucket { label } => write!(f, "bucket {label:?}"),
            Origin::Cluster { label } => write!(f, "cluster {label:?}"),
            Origin::Artifact { name, made_by } => write!(f, "artifact {name:?}, made by {made_by}"),
            Origin::Plugin => f.write_str("the plugin"),
            Origin::Archive => f.write_str("the host's archive"),
        }
    }
}

/// What is known about a source once it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// Exact length in bytes where it is known beforehand.
    pub len: Option<u64>,
    /// Attributes that travel with the bytes, such as a file's `mode`.
    pub attributes: Vec<(String, String)>,
}

/// What [`ByteSource::next_chunk`] gives at a time where a source has no chunks of its own, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;

/// Bytes that can be read once, from start to end, on a blocking thread.
///
/// Guarantee: `Ok(0)` (or `None`) is the proven end. A producer that failed, a connection that
/// broke or an artifact that is not as recorded ends in an error instead, always. A call blocks
/// until there are bytes, and returns [`crate::error::Kind::Cancelled`] soon after the run is
/// cancelled. Dropping a source before its end tells the producer to stop.
pub trait ByteSource: Send {
    /// Opens what is behind the source; reading opens it as well. May be called once, first.
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo::default())
    }

    /// Fills `buf` with 1 to `buf.len()` bytes as soon as there are any; 0 is the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// The next bytes without a copy where the source holds them already; `None` is the end.
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let mut buf = vec![0; CHUNK_BYTES];
        let n = self.read(&mut buf)?;
        buf.truncate(n);
        Ok((n > 0).then(|| buf.into()))
    }
}

/// Moves to `buf` what fits of the bytes that a source holds. The last of them lets their memory go.
pub(super) fn take_from(held: &mut Bytes, buf: &mut [u8]) -> usize {
    let n = buf.len().min(held.len());
    buf[..n].copy_from_slice(&held.split_to(n));
    n
}

/// Says whether the guest still holds an end of a stream in its own hands.
///
/// A wait that only the guest could end would never end, since it is single-threaded: every wait
/// asks the leashes of what it waits for and refuses at once when one is held.
#[derive(Clone, Debug, Default)]
pub struct Leash(Arc<Hold>);

#[derive(Debug, Default)]
struct Hold {
    itself: AtomicBool,
    /// What the end became when it was split.
    halves: OnceLock<[Leash; 2]>,
}

impl Leash {
    /// A leash in the guest's hands.
    pub fn held() -> Self {
        Self(Arc::new(Hold { itself: AtomicBool::new(true), halves: OnceLock::new() }))
    }

    /// The guest let go: it handed the end to the host, finished it, or dropped it.
    pub fn release(&self) {
        self.0.itself.store(false, Ordering::Release);
    }

    /// The end became two: it is in the guest's hands as long as one of them is.
    pub fn split(&self, halves: [Self; 2]) {
        // A source is taken to be split, so nothing splits it again.
        let _ = self.0.halves.set(halves);
    }

    /// Whether the guest holds it.
    pub fn is_held(&self) -> bool {
        self.0.itself.load(Ordering::Acquire)
            || self.0.halves.get().is_some_and(|halves| halves.iter().any(Self::is_held))
    }
}

/// A source with what the host knows about it.
pub struct Source {
    /// Where its bytes come from.
    pub origin: Origin,
    /// Whether the guest may read it (`inspect`).
    pub inspect: bool,
    /// What must leave the guest's hands before this source can end.
    pub waits_for: Vec<Leash>,
    /// Held while the guest holds this source itself.
    pub leash: Leash,
    /// The bytes.
    pub body: Box<dyn ByteSource>,
}

impl Source {
    /// A source that waits for nothing and that the guest may not read.
    pub fn new(origin: Origin, body: impl ByteSource + 'static) -> Self {
        Self { origin, inspect: false, waits_for: Vec::new(), leash: Leash::default(), body: Box::new(body) }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("origin", &self.origin).field("inspect", &self.inspect).finish_non_exhaustive()
    }
}

/// Bytes in memory as a source; for tests and for small artifacts that the host makes itself.
pub struct InMemory {
    rest: Bytes,
}

impl InMemory {
    /// A source of exactly these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { rest: bytes.into() }
    }
}

impl ByteSource for InMemory {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.rest.len() as u64), attributes: Vec::new() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        Ok(take_from(&mut self.rest, buf))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let n = CHUNK_BYTES.min(self.rest.len());
        Ok((n > 0).then(|| self.rest.split_to(n)))
    }
}
