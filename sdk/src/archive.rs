//! Many small things as one artifact, in the order they are added: a tar file with an index.

use crate::bindings::strongroom::plugin::storage as wit;
use crate::bytes::Source;
use crate::storage::{Artifact, Options};
use crate::{Error, Result};

/// Attributes of an entry or object: names and values.
type Attributes<'a> = &'a [(String, String)];

/// An archive being packed by the host.
#[derive(Debug)]
pub struct ArchiveWriter {
    name: String,
    inner: wit::Archive,
}

/// Starts the archive `name` as an artifact of the backup being made.
pub fn create_archive(name: impl Into<String>) -> Result<ArchiveWriter> {
    let name = name.into();
    let inner = wit::create_archive(&name, &Options::default().0)
        .map_err(|error| Error::from(error).context(format_args!("create archive \"{name}\"")))?;
    Ok(ArchiveWriter { name, inner })
}

impl ArchiveWriter {
    /// Queues an entry; waits while too many are queued. The length of `body` must be known when
    /// it is opened: bodies from buckets and archives are; a program's output is
    /// [`Error::Invalid`]. What a body from a bucket brings along, `attributes` are added to.
    pub fn add(&self, path: &str, attributes: Attributes<'_>, body: Source) -> Result<()> {
        Ok(self.inner.add(path, attributes, body.0)?)
    }

    /// Queues an entry of bytes that the plugin made itself.
    pub fn add_bytes(&self, path: &str, attributes: Attributes<'_>, body: &[u8]) -> Result<()> {
        Ok(self.inner.add_bytes(path, attributes, body)?)
    }

    /// Ends it and waits until the store has acknowledged every byte.
    pub fn finish(self) -> Result<FinishedArchive> {
        let finished = wit::finish_archive(self.inner)
            .map_err(|error| Error::from(error).context(format_args!("finish archive \"{}\"", self.name)))?;
        Ok(FinishedArchive { artifact: finished.artifact.into(), failed: finished.failed })
    }
}

/// An archive that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedArchive {
    /// The artifact.
    pub artifact: Artifact,
    /// Path and reason of each entry that could not be read. Not empty means incomplete.
    pub failed: Vec<(String, String)>,
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path as it was added.
    pub path: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// Its size in bytes.
    pub size: u64,
}

impl Entry {
    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An archive of the backup in scope, being read. Iterates over its entries in order; what was
/// not read of a body is passed over.
#[derive(Debug)]
pub struct ArchiveReader {
    inner: wit::ArchiveReader,
}

/// Opens the archive `name` of the backup in scope.
pub fn open_archive(name: &str) -> Result<ArchiveReader> {
    let inner =
        wit::open_archive(name).map_err(|error| Error::from(error).context(format_args!("open archive \"{name}\"")))?;
    Ok(ArchiveReader { inner })
}

impl ArchiveReader {
    /// One entry by its path, without reading what lies before it.
    pub fn open(&self, path: &str) -> Result<(Entry, Source)> {
        Ok(unpack(self.inner.open(path)?))
    }
}

impl Iterator for ArchiveReader {
    type Item = Result<(Entry, Source)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next().map(|entry| entry.map(unpack)).map_err(Error::from).transpose()
    }
}

fn unpack((entry, source): (wit::Entry, wit::Source)) -> (Entry, Source) {
    let wit::Entry { path, attributes, size } = entry;
    (Entry { path, attributes, size }, Source(source))
}
