//! A directory as a store.
//!
//! An object is written to a temporary file beneath `.tmp`, flushed, and moved to its name only if
//! nothing is there; then the directories are flushed. Keys never lead out of the root, not even
//! through symbolic links: every path is resolved beneath an open handle of it. Files are made
//! with mode 0600 and directories with 0700.
//!
//! Unlike a bucket, a directory cannot hold `a` and `a/b` at once, a part of a key has at most 255
//! bytes, and nothing may lie under `.tmp`.

mod place;
mod upload;
mod walk;

use super::memory::{check_limit, too_short};
use super::{
    Condition, Lock, ObjectInfo, ObjectVersion, PAGE_OBJECTS, Page, PendingUpload, Properties, Store, Upload, len_of,
    memory::cut_page,
};
use crate::error::{Error, IoContext, Result, hint_of_io, kind_of_io};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, FileExt, Metadata};
use jiff::Timestamp;
pub use place::TEMPORARY;
use place::Temporary;
use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Up to this size an object has an entity tag, which is the BLAKE3 of its bytes; a lease has some
/// hundred bytes. Larger ones would have to be read whole for it.
const TAGGED_BYTES: u64 = 64 * 1024;

/// A store in a directory of this machine.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    dir: Dir,
    path: PathBuf,
    /// Directories, relative to the root, whose names this process knows to be on the disk.
    flushed: Mutex<BTreeSet<String>>,
    #[cfg(test)]
    flushes: tests::Flushes,
}

impl LocalStore {
    /// Opens a directory that exists. `Failed` when it is missing, so that an unmounted disk never
    /// becomes an empty store.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| {
            let shown = path.display();
            match error.kind() {
                io::ErrorKind::NotFound => Error::failed(format!("the store's directory \"{shown}\" is missing"))
                    .hint("mount it, correct `path`, or make a new store with `strongroom store init`")
                    .because(error),
                io::ErrorKind::NotADirectory => {
                    Error::failed(format!("the store's path \"{shown}\" is not a directory")).because(error)
                }
                _ => describe_io(error, &format!("open the store's directory \"{shown}\"")),
            }
        })?;
        let root = Root {
            dir,
            path: path.to_owned(),
            flushed: Mutex::default(),
            #[cfg(test)]
            flushes: tests::Flushes::default(),
        };
        Ok(Self { root: Arc::new(root) })
    }

    /// Makes the directory with mode 0700 if it is missing, with its parents, and opens it.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| describe_io(error, &format!("make the store's directory \"{}\"", path.display())))?;
        Self::open(path)
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Root>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = Arc::clone(&self.root);
        on_thread(move || work(&root)).await
    }
}

/// Runs `work` on a thread that may block.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("a thread of the local store ended early").because(error)),
    }
}

/// An I/O error with the advice that it deserves; `what` completes "could not …".
fn describe_io(error: io::Error, what: &str) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full: free some space, or prune old backups",
        io::ErrorKind::QuotaExceeded => "the quota of this user is spent: raise it, or prune old backups",
        io::ErrorKind::FileTooLarge => {
            "a file may not become that large here: raise the limit (`ulimit -f`) or lower `parts_per_segment`"
        }
        io::ErrorKind::PermissionDenied => "give this user read and write access to the store's directory",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only",
        io::ErrorKind::InvalidFilename => "a part of a key has at most 255 bytes in a local store",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            "a local store cannot hold an object and others beneath its name"
        }
        _ => match hint_of_io(&error) {
            Some(hint) => hint,
            None => return Error::new(kind_of_io(&error), format!("could not {what}")).because(error),
        },
    };
    Error::new(kind_of_io(&error), format!("could not {what}")).hint(hint).because(error)
}

impl Root {
    /// What a message calls an object.
    fn name(&self, key: &ObjectKey) -> String {
        format!("\"{key}\" in \"{}\"", self.path.display())
    }

    /// Names under `.tmp` are ours.
    fn check_key(&self, key: &ObjectKey) -> Result<()> {
        if key.as_str().split('/').next() == Some(TEMPORARY) {
            return Err(Error::invalid(format!("\"{key}\" cannot be a key of a local store"))
                .hint(format!("names under \"{TEMPORARY}\" are kept for files that are being written")));
        }
        Ok(())
    }

    /// Opens an object for reading; `NotFound` when there is none.
    fn open(&self, key: &ObjectKey) -> Result<(cap_std::fs::File, Metadata)> {
        self.check_key(key)?;
        let open = || -> io::Result<_> {
            let file = self.dir.open(key.as_str())?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        match open() {
            Ok((_, metadata)) if !metadata.is_file() => Err(Error::not_found(format!("no object {}", self.name(key)))),
            Ok(opened) => Ok(opened),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                // A root that was unmounted or removed must not look like a store that is empty.
                if self.path.is_dir() {
                    Err(Error::not_found(format!("no object {}", self.name(key))))
                } else {
                    Err(Error::failed(format!("the store's directory \"{}\" is gone", self.path.display())))
                }
            }
            Err(error) => Err(describe_io(error, &format!("open object {}", self.name(key)))),
        }
    }

    fn read(&self, key: &ObjectKey, range: &Range<u64>, room: &Room) -> Result<Bytes> {
        let (file, metadata) = self.open(key)?;
        if range.start > range.end || metadata.len() < range.end {
            return Err(too_short(key, range, Some(metadata.len())));
        }
        let len = usize::try_from(range.end - range.start)
            .map_err(|_| Error::invalid(format!("a range of {} bytes does not fit memory", range.end - range.start)))?;
        let reading = || format!("read object {}", self.name(key));
        let mut file = file.into_std();
        file.seek(SeekFrom::Start(range.start)).doing(reading)?;
        let mut body = room.take(len);
        let mut at = 0;
        while at < len {
            match file.read(&mut body[at..len]) {
                Ok(0) => return Err(too_short(key, range, Some(range.start + len_of(&body[..at])))),
                Ok(n) => at += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(reading),
            }
        }
        Ok(body.freeze(len))
    }

    fn info(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let (_, metadata) = self.open(key)?;
        let etag = if metadata.len() <= TAGGED_BYTES {
            Some(tag(&self.read(key, &(0..metadata.len()), &Room::fresh())?))
        } else {
            None
        };
        Ok(describe(key.as_str(), &metadata, etag))
    }

    /// Moves a finished temporary file to its name, if the condition holds.
    fn commit(&self, key: &ObjectKey, temporary: &Temporary, condition: &Condition) -> Result<ObjectInfo> {
        match condition {
            Condition::Absent => {
                if !temporary.place_if_absent(self, key)? {
                    if !self.same_bytes(key, temporary)? {
                        return Err(Error::conflict(format!("{} holds something else already", self.name(key))));
                    }
                    self.flush_object(key)?;
                }
            }
            Condition::Unchanged(etag) => {
                let _lock = self.lock()?;
                let there = match self.info(key) {
                    Ok(info) => info.etag,
                    Err(error) if error.kind() == crate::error::Kind::NotFound => None,
                    Err(error) => return Err(error),
                };
                if there.as_ref() == Some(etag) {
                    temporary.place_over(self, key)?;
                } else if there.is_some() && self.same_bytes(key, temporary)? {
                    self.flush_object(key)?;
                } else {
                    return Err(Error::conflict(format!("{} was changed meanwhile", self.name(key)))
                        .fact("expected", etag.clone())
                        .fact("got", there.unwrap_or_else(|| "nothing".to_owned())));
                }
            }
        }
        self.info(key)
    }

    /// Whether the object has the very bytes of the temporary file: an earlier attempt won.
    fn same_bytes(&self, key: &ObjectKey, temporary: &Temporary) -> Result<bool> {
        let (there, metadata) = self.open(key)?;
        let ours = temporary.file();
        let what = || format!("compare object {}", self.name(key));
        if ours.metadata().doing(what)?.len() != metadata.len() {
            return Ok(false);
        }
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        while at < metadata.len() {
            let n = usize::try_from(metadata.len() - at).unwrap_or(usize::MAX).min(a.len());
            there.read_exact_at(&mut a[..n], at).doing(what)?;
            ours.read_exact_at(&mut b[..n], at).doing(what)?;
            if a[..n] != b[..n] {
                return Ok(false);
            }
            at += len_of(&a[..n]);
        }
        Ok(true)
    }
}

/// The entity tag of a small object.
fn tag(body: &[u8]) -> String {
    blake3::hash(body).to_hex().to_string()
}

fn describe(key: &str, metadata: &Metadata, etag: Option<String>) -> ObjectInfo {
    ObjectInfo {
        key: key.to_owned(),
        size: metadata.len(),
        crc64nvme: None,
        etag,
        version: None,
        modified: modified(metadata),
    }
}

fn modified(metadata: &Metadata) -> Timestamp {
    let time = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
    time.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[async_trait]
impl Store for LocalStore {
    fn describe(&self) -> String {
        format!("local directory \"{}\"", self.root.path.display())
    }

    fn local_root(&self) -> Option<std::path::PathBuf> {
        Some(self.root.path.clone())
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        let key = key.clone();
        self.blocking(move |root| {
            root.check_key(&key)?;
            let temporary = Temporary::create(root, &key)?;
            temporary.write_at(&body, 0)?;
            temporary.flush()?;
            root.commit(&key, &temporary, &condition)
        })
        .await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let owned = key.clone();
        let temporary = self
            .blocking(move |root| {
                root.check_key(&owned)?;
                Temporary::create(root, &owned)
            })
            .await?;
        Ok(Arc::new(upload::LocalUpload::new(Arc::clone(&self.root), key.clone(), temporary)))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let (key, room) = (key.clone(), room.clone());
        self.blocking(move |root| root.read(&key, &range, &room)).await
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        let key = key.clone();
        self.blocking(move |root| {
            let (_, metadata) = root.open(&key)?;
            check_limit(&key, metadata.len(), limit)?;
            let body = root.read(&key, &(0..metadata.len()), &Room::fresh())?;
            let etag = tag(&body);
            Ok((body, describe(key.as_str(), &metadata, Some(etag))))
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let key = key.clone();
        self.blocking(move |root| root.info(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |root| {
            let mut objects = walk::objects(root, &prefix, after.as_deref(), PAGE_OBJECTS + 1)?;
            Ok(cut_page(&mut objects))
        })
        .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let prefix = prefix.to_owned();
        self.blocking(move |root| walk::folders(root, &prefix)).await
    }

    async fn delete(&self, key: &ObjectKey, _version: Option<&str>) -> Result<()> {
        let key = key.clone();
        self.blocking(move |root| root.remove(&key)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let prefix = prefix.to_owned();
        self.blocking(move |root| place::pending(root, &prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        let id = upload.id.clone();
        self.blocking(move |root| place::abort_pending(root, &id)).await
    }

    /// The clock of the file system, which is another machine's where it is mounted from one.
    async fn now(&self) -> Result<Timestamp> {
        self.blocking(|root| {
            let key = ObjectKey::parse(&format!("{}/clock", super::check::FOLDER))?;
            let temporary = Temporary::create(root, &key)?;
            let metadata =
                temporary.file().metadata().doing(|| format!("ask \"{}\" for the time", root.path.display()))?;
            Ok(modified(&metadata))
        })
        .await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        ObjectVersion::of_all(self, prefix).await
    }

    async fn lock_of(&self, _version: &ObjectVersion) -> Result<Lock> {
        Ok(Lock::Free)
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        let upload = upload.clone();
        self.blocking(move |root| place::last_write(root, &upload)).await
    }

    async fn properties(&self) -> Result<Properties> {
        Ok(Properties { versions: Some(false), object_lock: Some(false), locks_for_days: None })
    }
}

#[cfg(test)]
mod tests;
