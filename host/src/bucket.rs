//! Object stores as data: the bucket that a plugin backs up, or restores into.
//!
//! Blocking by design: a `local` bucket is a directory tree, and calls come from blocking threads.

pub mod local;
mod on_demand;

use crate::error::Result;
use crate::stream::Source;
use std::sync::Arc;

pub use local::LocalBucket;
pub use on_demand::OnDemand;

/// What lies under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An object or a regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A socket, device or pipe.
    Special,
    /// A deleted object's marker.
    DeleteMarker,
}

/// One object of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key, encoded as `wit/storage.wit` says.
    pub key: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Version id, where the bucket keeps versions.
    pub version: Option<String>,
    /// Whether it is the current version.
    pub is_latest: bool,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag; not a digest.
    pub etag: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub last_modified_ms: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ObjectPage {
    /// At most 1,000 objects, in the order of keys.
    pub objects: Vec<Object>,
    /// Give it back as `after`; `None` at the end.
    pub next: Option<String>,
}

/// A bucket as data. Policy (verbs, prefixes, effects) was asked before a call arrives here.
pub trait Bucket: Send + Sync + std::fmt::Debug {
    /// What a person calls it.
    fn describe(&self) -> String;
    /// Objects whose keys begin with `prefix`, in the order of keys.
    fn objects(&self, prefix: &str, after: Option<&str>) -> Result<ObjectPage>;
    /// Attributes of one object or version.
    fn attributes(&self, key: &str, version: Option<&str>) -> Result<Vec<(String, String)>>;
    /// Whether [`Self::read`] returns at once, because everything it needs is open.
    fn is_open(&self) -> bool;
    /// The object's bytes; nothing is fetched until the source is opened or read. Its
    /// [`crate::stream::SourceInfo`] holds length and attributes, and reading fails when the object changed meanwhile.
    fn read(&self, label: &str, key: &str, version: Option<&str>) -> Result<Source>;
    /// Writes an object, or makes the directory or link that the attributes name.
    fn write(&self, key: &str, attributes: &[(String, String)], body: Source, overwrite: bool) -> Result<Object>;
    /// Removes an object or version.
    fn delete(&self, key: &str, version: Option<&str>) -> Result<()>;
    /// One part of the bucket's configuration as JSON; `None` when it is not set.
    fn read_config(&self, part: &str) -> Result<Option<String>>;
    /// Sets one part of the bucket's configuration.
    fn write_config(&self, part: &str, json: &str) -> Result<()>;
    /// Makes everything that was written durable. The run calls it before it says that a restore is
    /// done; until then a power loss may take back what `write` returned.
    fn flush(&self) -> Result<()>;
}

/// A bucket shared between threads.
pub type SharedBucket = Arc<dyn Bucket>;
