//! Reading objects back out of a backup's archives.

use crate::inventory::{self, Archive, attribute};
use crate::kind::is_secret;
use crate::secret;
use std::io::Read;
use strongroom_plugin::bytes::Source;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{ArchiveReader, Entry};

/// An object that a backup holds.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) path: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// Its JSON; of a Secret without the data.
    pub(crate) json: String,
    /// Of a Secret: the same with marks in the place of its values, where the backup has them.
    pub(crate) marked: Option<String>,
    /// The whole Secret, unseen.
    pub(crate) unseen: Option<Source>,
}

/// The objects of an archive, in its order.
#[derive(Debug)]
pub(crate) struct Objects {
    unseen: bool,
    reader: ArchiveReader,
}

/// Opens an archive of the backup in scope.
pub(crate) fn open(archive: &Archive) -> Result<Objects> {
    Ok(Objects { unseen: is_secret(&archive.kind()), reader: storage::open_archive(&archive.artifact)? })
}

impl Objects {
    /// One object by the path of its entry.
    pub(crate) fn object(&self, path: &str) -> Result<Recorded> {
        let (entry, source) = self.reader.open(path)?;
        read(entry, source, self.unseen)
    }
}

impl Iterator for Objects {
    type Item = Result<Recorded>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.reader.next()?;
        Some(entry.and_then(|(entry, source)| read(entry, source, self.unseen)))
    }
}

fn read(entry: Entry, mut source: Source, unseen: bool) -> Result<Recorded> {
    let Some((namespace, name)) = inventory::place(&entry.path) else {
        return Err(Error::failed(format!("{:?} is no path of an object", entry.path)));
    };
    let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
    let (json, marked, unseen) = if unseen {
        let seen = entry.attribute(attribute::SEEN).map(str::to_owned);
        let json =
            seen.ok_or_else(|| Error::failed(format!("{:?} has no attribute {}", entry.path, attribute::SEEN)))?;
        if secret::may_be_marked(&json) {
            let mut object = serde_json::from_str(&json).map_err(|error| Error::from(error).context(&entry.path))?;
            secret::forget_marks(&mut object);
            (object.to_string(), Some(json), Some(source))
        } else {
            (json, None, Some(source))
        }
    } else {
        let mut json = String::with_capacity(usize::try_from(entry.size).unwrap_or(0).min(4 << 20));
        source.read_to_string(&mut json).map_err(|error| Error::from(error).context(&entry.path))?;
        (json, None, None)
    };
    Ok(Recorded { path: entry.path, namespace, name, json, marked, unseen })
}
