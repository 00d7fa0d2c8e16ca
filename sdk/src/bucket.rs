//! An object store granted as data: the bucket to back up, or the one to restore into.

use crate::bindings::strongroom::plugin::storage as wit;
use crate::bytes::Source;
use crate::{Error, Result, Timestamp};

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// An object, or a regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A socket, device or pipe: it can be named but not read.
    Special,
    /// A version that says the object was deleted.
    DeleteMarker,
}

/// One object, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key; of a local bucket the path beneath its root.
    pub key: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Its version where the store keeps versions.
    pub version: Option<String>,
    /// Whether it is the current one.
    pub is_latest: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Its entity tag; not a digest.
    pub etag: Option<String>,
    /// When it was last changed.
    pub last_modified: Timestamp,
}

impl From<wit::Object> for Object {
    fn from(object: wit::Object) -> Self {
        Self {
            key: object.key,
            kind: match object.kind {
                wit::ObjectKind::File => ObjectKind::File,
                wit::ObjectKind::Dir => ObjectKind::Dir,
                wit::ObjectKind::Symlink => ObjectKind::Symlink,
                wit::ObjectKind::Special => ObjectKind::Special,
                wit::ObjectKind::DeleteMarker => ObjectKind::DeleteMarker,
            },
            version: object.version,
            is_latest: object.is_latest,
            size: object.size,
            etag: object.etag,
            last_modified: Timestamp { ms: object.last_modified_ms },
        }
    }
}

/// What a write does with an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// [`Error::Conflict`], and the object stays as it was.
    Keep,
    /// Replaced at once and as a whole; needs the verb `overwrite`.
    Replace,
}

/// A labelled bucket.
#[derive(Debug)]
pub struct Bucket {
    label: String,
    inner: wit::Bucket,
}

/// Opens the bucket that the operator calls `label`; the plugin sees neither address nor
/// credentials.
pub fn open_bucket(label: impl Into<String>) -> Result<Bucket> {
    let label = label.into();
    let inner = wit::open_bucket(&label)
        .map_err(|error| Error::from(error).context(format_args!("open bucket \"{label}\"")))?;
    Ok(Bucket { label, inner })
}

impl Bucket {
    /// The operator's name for it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Every object whose key begins with `prefix`, page by page, in the store's order.
    pub fn objects<'a>(&'a self, prefix: &'a str) -> Objects<'a> {
        Objects { bucket: self, prefix, page: Vec::new().into_iter(), after: Some(None) }
    }

    /// Headers, user metadata, tags, retention and legal hold of one version; of files their
    /// mode, times, owner and link target.
    pub fn attributes(&self, key: &str, version: Option<&str>) -> Result<Vec<(String, String)>> {
        self.inner.attributes(key, version).map_err(|error| self.error(error, "read the attributes of", key))
    }

    /// The bytes of one version. Nothing is fetched until the source is used.
    pub fn read(&self, key: &str, version: Option<&str>) -> Result<Source> {
        Ok(Source(self.inner.read(key, version).map_err(|error| self.error(error, "read", key))?))
    }

    /// Starts writing. Several may be under way; waits for a place when too many are.
    pub fn write(
        &self,
        key: &str,
        attributes: &[(String, String)],
        body: Source,
        existing: Existing,
    ) -> Result<Writing> {
        let existing = match existing {
            Existing::Keep => wit::Existing::Keep,
            Existing::Replace => wit::Existing::Replace,
        };
        let inner =
            self.inner.write(key, attributes, body.0, existing).map_err(|error| self.error(error, "write", key))?;
        Ok(Writing { inner })
    }

    /// Deletes the current object, or one version for good.
    pub fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        self.inner.delete(key, version).map_err(|error| self.error(error, "delete", key))
    }

    /// One part of the bucket's own configuration as JSON, such as `versioning`; none if unset.
    pub fn read_config(&self, part: &str) -> Result<Option<String>> {
        self.inner.read_config(part).map_err(|error| self.error(error, "read the configuration", part))
    }

    /// Replaces one part of the bucket's own configuration.
    pub fn write_config(&self, part: &str, json: &str) -> Result<()> {
        self.inner.write_config(part, json).map_err(|error| self.error(error, "write the configuration", part))
    }

    fn error(&self, error: impl Into<Error>, what: &str, key: &str) -> Error {
        error.into().context(format_args!("{what} \"{key}\" in bucket \"{}\"", self.label))
    }
}

/// Iterates over the objects of a bucket; ends after the first error.
#[derive(Debug)]
pub struct Objects<'a> {
    bucket: &'a Bucket,
    prefix: &'a str,
    page: std::vec::IntoIter<wit::Object>,
    /// Where the next page begins; the outer none: there is none.
    after: Option<Option<String>>,
}

impl Iterator for Objects<'_> {
    type Item = Result<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(object) = self.page.next() {
                return Some(Ok(object.into()));
            }
            let after = self.after.take()?;
            match self.bucket.inner.objects(self.prefix, after.as_deref()) {
                Ok(page) => {
                    self.page = page.objects.into_iter();
                    self.after = page.next.map(Some);
                }
                Err(error) => return Some(Err(self.bucket.error(error, "list", self.prefix))),
            }
        }
    }
}

/// An object on its way into a bucket.
#[derive(Debug)]
pub struct Writing {
    inner: wit::Writing,
}

impl Writing {
    /// The object, once the store has acknowledged it.
    pub fn wait(&self) -> Result<Object> {
        Ok(self.inner.wait()?.into())
    }
}
