//! The artifacts of the backup in scope, archives of many small things, and labelled buckets.

pub use crate::archive::{ArchiveReader, ArchiveWriter, Entry, FinishedArchive, create_archive, open_archive};
pub use crate::bucket::{Bucket, Existing, Object, ObjectKind, Objects, Writing, open_bucket};

use crate::bindings::strongroom::plugin::storage as wit;
use crate::bytes::{self, Source};
use crate::{Error, Result};
use std::io::Write;

/// An artifact: what the component produced, and how large it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its name.
    pub name: String,
    /// Bytes as the component produced them.
    pub size: u64,
    /// Bytes at rest, after compression and encryption.
    pub stored_size: u64,
    /// BLAKE3 of the bytes as the component produced them, in hex.
    pub blake3: String,
}

impl From<wit::Artifact> for Artifact {
    fn from(artifact: wit::Artifact) -> Self {
        let wit::Artifact { name, size, stored_size, blake3 } = artifact;
        Self { name, size, stored_size, blake3 }
    }
}

/// What an artifact or archive is stored with.
#[derive(Clone, Debug)]
pub(crate) struct Options(pub(crate) wit::PutOptions);

impl Default for Options {
    fn default() -> Self {
        Self(wit::PutOptions { media_type: None, compress: true })
    }
}

/// An artifact that is about to be stored.
#[derive(Debug)]
#[must_use = "nothing is stored before it is started"]
pub struct Put {
    name: String,
    body: Source,
    options: Options,
}

/// Stores `body` as the artifact `name` (`[A-Za-z0-9][A-Za-z0-9._-]{0,127}`).
pub fn put(name: impl Into<String>, body: Source) -> Put {
    Put { name: name.into(), body, options: Options::default() }
}

impl Put {
    /// The media type to record.
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.options.0.media_type = Some(media_type.into());
        self
    }

    /// False for bytes that do not shrink, such as compressed images.
    pub fn compress(mut self, compress: bool) -> Self {
        self.options.0.compress = compress;
        self
    }

    /// Starts; waits while too many transfers are under way (4, unless set otherwise).
    pub fn start(self) -> Result<Transfer> {
        let inner = wit::put(&self.name, self.body.0, &self.options.0)
            .map_err(|error| Error::from(error).context(format_args!("store \"{}\"", self.name)))?;
        Ok(Transfer { name: self.name, inner })
    }
}

/// Stores bytes that the plugin made itself, and waits for it. Takes one of the places for
/// transfers: finish another one first when all are taken.
pub fn put_bytes(name: impl Into<String>, media_type: impl Into<String>, body: &[u8]) -> Result<Artifact> {
    let (mut sink, source) = bytes::pipe()?;
    let transfer = put(name, source).media_type(media_type).start()?;
    sink.write_all(body)?;
    sink.finish()?;
    transfer.wait()
}

/// An artifact on its way into the store. Dropping it unfinished abandons the artifact.
#[derive(Debug)]
pub struct Transfer {
    name: String,
    inner: wit::Transfer,
}

impl Transfer {
    /// The name of the artifact.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The artifact, once the store has acknowledged every byte of it.
    pub fn wait(&self) -> Result<Artifact> {
        let artifact =
            self.inner.wait().map_err(|error| Error::from(error).context(format_args!("store \"{}\"", self.name)))?;
        Ok(artifact.into())
    }
}

/// The place in the list of a transfer that is done, well or not; waits until there is one.
pub fn first_done(transfers: &[&Transfer]) -> Result<usize> {
    let inner: Vec<&wit::Transfer> = transfers.iter().map(|transfer| &transfer.inner).collect();
    let place = usize::try_from(wit::first_done(&inner)?).unwrap_or(usize::MAX);
    if place < transfers.len() {
        Ok(place)
    } else {
        Err(Error::failed("the host named a transfer that it was not asked for"))
    }
}

/// The artifacts of the backup in scope: the one being made, verified or restored.
pub fn artifacts() -> Result<Vec<Artifact>> {
    Ok(wit::artifacts()?.into_iter().map(Artifact::from).collect())
}

/// Reads an artifact back. The source fails at its end when the bytes are not those recorded.
pub fn get(name: &str) -> Result<Source> {
    Ok(Source(wit::get(name).map_err(|error| Error::from(error).context(format_args!("read \"{name}\"")))?))
}
