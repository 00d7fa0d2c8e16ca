//! Places where backups are kept: one trait, its backends, and the one layer that retries.
//!
//! Everything but a lease is written once. No backend retries by itself; [`retry::RetryStore`] is
//! the only place that does, and [`pace::PacedStore`] beneath it decides how much is asked at once. This module never sees a plugin, a configuration or an artifact's
//! plain bytes, and no credential leaves it in any text.

pub mod bandwidth;
pub mod check;
pub mod conformance;
pub mod discard;
pub mod faulty;
pub mod local;
pub mod lock;
pub mod memory;
pub mod pace;
pub mod retry;
pub mod s3;
pub mod segments;
mod version;

pub use crate::stream::digest::{combine_crc64nvme, crc64nvme};
pub use lock::{LockMode, ObjectLock};
pub use segments::StoreSegments;
pub use version::{Lock, ObjectVersion, remove_for_good};

use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Objects on one page of a listing: what S3 gives at most.
pub const PAGE_OBJECTS: usize = 1000;

/// Where a store is, as plain data with its secrets resolved.
#[derive(Clone, Debug)]
pub enum StoreSpec {
    /// A directory of this machine, which must exist.
    Local {
        /// The directory.
        path: PathBuf,
    },
    /// A bucket of an S3-compatible server.
    S3(s3::S3Spec),
}

/// Opens a store behind the retry layer. Asks no server anything yet; a local directory that is
/// missing is an error.
pub async fn open(spec: StoreSpec) -> Result<Arc<dyn Store>> {
    open_with(spec, retry::RetryPolicy::default()).await
}

/// As [`open`], with this much patience.
pub async fn open_with(spec: StoreSpec, patience: retry::RetryPolicy) -> Result<Arc<dyn Store>> {
    open_paced(spec, patience, pace::Pace::default()).await
}

/// As [`open_with`], used no more than `pace` allows.
pub async fn open_paced(spec: StoreSpec, patience: retry::RetryPolicy, pace: pace::Pace) -> Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = match spec {
        StoreSpec::Local { path } => Arc::new(pace::PacedStore::new(Arc::new(local::LocalStore::open(&path)?), &pace)),
        StoreSpec::S3(spec) => {
            let store = s3::S3Store::open_limited(spec, pace.upload.clone(), pace.download.clone()).await?;
            Arc::new(pace::PacedStore::window_only(Arc::new(store), &pace))
        }
    };
    Ok(Arc::new(retry::RetryStore::new(store, patience)))
}

/// The error for bytes that are not those that were announced.
pub(crate) fn wrong_checksum(what: &str, expected: u64, got: u64) -> Error {
    Error::damaged(format!("{what} does not have the announced checksum"))
        .fact("expected", format!("CRC64NVME {expected:016x}"))
        .fact("got", format!("CRC64NVME {got:016x}"))
        .hint("something between here and the store changes bytes: check memory, network and the server's disks")
}

/// Bytes as a count that fits every platform's file sizes.
pub(crate) fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory fits 64 bits")
}

/// When a put may take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Only if nothing is there under this name: every object of a backup.
    Absent,
    /// Only over this very object: a lease being renewed. Holds the entity tag.
    Unchanged(String),
}

/// An object as the store describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// CRC64NVME over the whole object, where the store knows it.
    pub crc64nvme: Option<u64>,
    /// Entity tag: changes when the object does. Not a digest.
    pub etag: Option<String>,
    /// Version id, where the store keeps versions.
    pub version: Option<String>,
    /// Last change by the store's clock; in the answer to a put, this machine's time where the store
    /// does not say.
    pub modified: Timestamp,
}

/// One page of a listing, in the order of keys.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Objects of this page.
    pub objects: Vec<ObjectInfo>,
    /// Give it back as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key that it would become.
    pub key: String,
    /// The store's name for it.
    pub id: String,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
}

/// An object store. Keys are relative to the store's own prefix.
///
/// Errors: `NotFound` (this object; a missing bucket or root is `Failed`), `Conflict` (a condition
/// did not hold), `Denied`, `Unavailable` and `TimedOut` (may be tried again), `Damaged` (the store
/// or the wire changed the bytes), `Failed`.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// What a person calls it, such as `s3 bucket "backups" at https://…`; no credentials.
    fn describe(&self) -> String;

    /// The directory of a store that is one: its leases are file locks there. A decorator hands on
    /// what it wraps.
    fn local_root(&self) -> Option<std::path::PathBuf> {
        None
    }

    /// Stores a small object in one request, its checksum sent along.
    ///
    /// A condition that does not hold is `Conflict`, except when the object there has the very
    /// same bytes: that is a success, since it cannot be told from an earlier attempt whose answer
    /// was lost. Whoever must tell writers apart puts something of their own into the bytes.
    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo>;

    /// Begins an object of unknown length. It becomes visible when it is completed, and only if
    /// nothing is there under its name.
    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>>;

    /// The bytes of `range`, exactly as many as asked for; a shorter object is `Damaged`.
    async fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        self.read_into(key, range, &Room::fresh()).await
    }

    /// The same, into memory of `room`: for reading much, piece by piece.
    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes>;

    /// A whole small object of at most `limit` bytes; a longer one is `Limit`.
    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)>;

    /// What the store knows of an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo>;

    /// Objects whose keys begin with `prefix`, at most 1,000 a page.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page>;

    /// Names directly beneath `prefix` (which is empty or ends in `/`) that have objects beneath
    /// them, without the trailing slash, all of them, sorted.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes an object, or one version of it. Removing what is not there succeeds.
    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()>;

    /// Uploads under `prefix` that were begun and neither completed nor aborted.
    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>>;

    /// Aborts one of them. Aborting what is not there succeeds.
    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()>;

    /// The time by the store's own clock, to the second: what ages are measured against.
    async fn now(&self) -> Result<Timestamp>;

    /// Every version of every object under `prefix`, delete markers too, in no order; where no
    /// versions are kept, every object. Memory: some 200 bytes for each.
    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>>;

    /// What keeps one version of an object from being removed. An object that is not there is free.
    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock>;

    /// When the last part of a pending upload was stored, by the store's clock; its beginning when
    /// it has none yet.
    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp>;

    /// What the store says of itself; `None` where it does not say.
    async fn properties(&self) -> Result<Properties> {
        Ok(Properties::default())
    }

    /// As [`Store::folders`], and those whose every object has a deleted name as well.
    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.folders(prefix).await
    }

    /// The same store, in which reading one of these keys reads this version of it (`get`, `read`
    /// and `head`), and `extend_lock` locks it; nothing else changes. `None` where the store keeps no versions.
    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        let _ = versions;
        None
    }

    /// How objects are locked when they are written; `None` when they are not. What is written over
    /// ([`Condition::Unchanged`]), leases and the probes of `store check` never are.
    fn object_lock(&self) -> Option<ObjectLock> {
        None
    }

    /// Locks an object that is there for as long as if it were written now; a lock that lasts longer
    /// stays. Does nothing where [`Store::object_lock`] is `None`.
    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        let _ = key;
        Ok(())
    }
}

/// What a store says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Whether it keeps the versions of an object.
    pub versions: Option<bool>,
    /// Whether objects can be locked against removal.
    pub object_lock: Option<bool>,
    /// For how many days it locks by itself whatever is stored in it, leases too; `None` where it does not, or
    /// does not say.
    pub locks_for_days: Option<u32>,
}

/// An object on its way into a store.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Stores part `number` (from 1); parts may be under way together and in any order. Every
    /// part but the last has the same size. Sending a part again replaces it, but one part must not
    /// be sent twice at the same time.
    ///
    /// Returns once the store acknowledged the bytes with a matching CRC64NVME, or once it holds
    /// them to send them later: the first part of an upload may stay in memory until a second one
    /// arrives or `complete` is called, so that an object of one part is one PUT. An open upload
    /// therefore costs its first part; whoever counts memory counts it, or calls
    /// [`Upload::expect_more`] first.
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()>;

    /// Says that nothing may be held back: from now on `part` returns only once the store
    /// acknowledged the bytes. What was held before stays so.
    fn expect_more(&self) {}

    /// Makes the object visible if nothing is there under its name (`Conflict` otherwise). Whether
    /// it worked is decided by what is there, not by the answer: after a lost response, a 404 or an
    /// error inside a 200, size and checksum of the object decide.
    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo>;

    /// Removes what was sent. Safe to call more than once, and after a failed `complete`.
    async fn abort(&self) -> Result<()>;
}
