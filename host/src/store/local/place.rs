//! Temporary files and how they get their names: never over another, never half-written.

use super::{Root, describe_io, modified};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::store::PendingUpload;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, File, FileExt, OpenOptions, OpenOptionsExt};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags, flock, fsync, openat, renameat, renameat_with};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

/// The folder beneath the root that holds what is being written. Listings never show it.
pub const TEMPORARY: &str = ".tmp";
/// Backups are nobody else's business.
pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Beside each temporary file lies one with this ending that holds the key it is for.
const KEY_ENDING: &str = ".key";
/// Held while an object is compared and replaced.
const LOCK: &str = "lock";

/// A file on its way to its name; removed when it is dropped without having got there.
#[derive(Debug)]
pub(super) struct Temporary {
    root: Arc<Root>,
    dir: Dir,
    id: String,
    file: File,
    what: String,
}

impl Temporary {
    /// Makes an empty one for `key`.
    pub(super) fn create(root: &Arc<Root>, key: &ObjectKey) -> Result<Self> {
        let what = format!("write object {}", root.name(key));
        let dir = root.temporary_dir()?;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::failed("could not get random bytes for a temporary name").because(e.to_string()))?;
        let id = format!("{}-{:016x}", clock::millis(clock::now()), u64::from_be_bytes(random));
        let failed = |error| describe_io(error, &what);
        // The note of the key comes first, so that there is no file whose key is unknown.
        let note = create_new(&dir, &format!("{id}{KEY_ENDING}")).map_err(failed)?;
        let file = note.write_all_at(key.as_str().as_bytes(), 0).and_then(|()| create_new(&dir, &id));
        match file {
            Ok(file) => Ok(Self { root: Arc::clone(root), dir, id, file, what }),
            Err(error) => {
                remove_if_there(&dir, &format!("{id}{KEY_ENDING}")).map_err(failed)?;
                Err(failed(error))
            }
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| describe_io(error, &self.what))
    }

    /// Cuts or extends it to exactly `size` bytes.
    pub(super) fn set_len(&self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|error| describe_io(error, &self.what))
    }

    /// Returns once the bytes are on the disk.
    pub(super) fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| describe_io(error, &self.what))
    }

    /// Gives it its name unless something is there; then says `false`.
    pub(super) fn place_if_absent(&self, root: &Root, key: &ObjectKey) -> Result<bool> {
        self.place(root, key, true, |parent, name| {
            match renameat_with(&self.dir, &self.id, parent, name, RenameFlags::NOREPLACE) {
                // Network and older file systems cannot do this, but they can link.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.dir.hard_link(&self.id, parent, name),
                done => done.map_err(io::Error::from),
            }
        })
    }

    /// Gives it its name in place of what is there. The caller holds [`Root::lock`].
    pub(super) fn place_over(&self, root: &Root, key: &ObjectKey) -> Result<()> {
        self.place(root, key, false, |parent, name| Ok(renameat(&self.dir, &self.id, parent, name)?))?;
        Ok(())
    }

    fn place(
        &self,
        root: &Root,
        key: &ObjectKey,
        is_new: bool,
        act: impl Fn(&Dir, &str) -> io::Result<()>,
    ) -> Result<bool> {
        let failed = |error| describe_io(error, &self.what);
        // A removal that tidies up empty directories may take one away between the two steps.
        for _ in 0..16 {
            let (parent, name) = root.make_parent(key).map_err(failed)?;
            match act(&parent, name) {
                Ok(()) => {
                    if let Err(error) = self.root.flush_dir(&parent) {
                        let error = failed(error);
                        return Err(if is_new { take_back(&parent, name, error) } else { error });
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.dir.exists(&self.id) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::failed(format!("could not {}", self.what))
                        .because(error)
                        .hint("its temporary file was removed, perhaps by a prune with too short an age"));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Error::unavailable(format!("could not {}", self.what)).hint("its directory was removed again and again"))
    }

    /// Removes it, if it has not got its name.
    pub(super) fn remove(&self) -> Result<()> {
        let file = remove_if_there(&self.dir, &self.id);
        let note = remove_if_there(&self.dir, &format!("{}{KEY_ENDING}", self.id));
        file.and(note).map_err(|error| {
            describe_io(error, &format!("remove a temporary file in \"{}\"", self.root.path.display()))
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a temporary file stays behind; pruning finds it");
        }
    }
}

/// Removes a name that may not be on the disk, so that nobody finds the object in the page cache and
/// believes that it is stored.
fn take_back(parent: &Dir, name: &str, error: Error) -> Error {
    match remove_if_there(parent, name) {
        Ok(()) => error,
        Err(removing) => error.fact("still visible", format!("\"{name}\" could not be removed again: {removing}")),
    }
}

fn create_new(dir: &Dir, name: &str) -> io::Result<File> {
    dir.open_with(name, OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE))
}

fn remove_if_there(dir: &Dir, name: &str) -> io::Result<()> {
    match dir.remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns once the names in a directory are on the disk. A handle that only resolves paths cannot
/// be flushed, so the directory itself is opened again through it.
fn flush_dir(dir: &Dir) -> io::Result<()> {
    let readable = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fsync(readable)?)
}

impl Root {
    fn temporary_dir(&self) -> Result<Dir> {
        self.make_dir(&self.dir, TEMPORARY, TEMPORARY)
            .map_err(|error| describe_io(error, &format!("write into \"{}\"", self.path.display())))
    }

    /// Opens `name` in `parent`, making it first; its name is on the disk when this returns. `path`
    /// is its whole path. One that exists is flushed too when this process meets it first: whoever
    /// made it may have died before it was.
    fn make_dir(&self, parent: &Dir, name: &str, path: &str) -> io::Result<Dir> {
        let opened = match parent.open_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        if opened.is_none() {
            match parent.create_dir_with(name, DirBuilder::new().mode(DIR_MODE)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => self.flushed().remove(path),
            };
        }
        if !self.flushed().contains(path) {
            self.flush_dir(parent)?;
            self.flushed().insert(path.to_owned());
        }
        opened.map_or_else(|| parent.open_dir(name), Ok)
    }

    fn flushed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Nothing that can panic happens under the lock.
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush_dir(&self, dir: &Dir) -> io::Result<()> {
        #[cfg(test)]
        self.flushes.next()?;
        flush_dir(dir)
    }

    /// Returns once an object that somebody else stored is on the disk, with its name.
    pub(super) fn flush_object(&self, key: &ObjectKey) -> Result<()> {
        let failed = |error| describe_io(error, &format!("flush object {}", self.name(key)));
        let (file, _) = self.open(key)?;
        file.sync_all().map_err(failed)?;
        let (parent, _) = self.make_parent(key).map_err(failed)?;
        self.flush_dir(&parent).map_err(failed)
    }

    /// The directory that the object lies in, made if needed, and its name there.
    fn make_parent<'a>(&self, key: &'a ObjectKey) -> io::Result<(Dir, &'a str)> {
        let (parents, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
        let mut dir = self.dir.try_clone()?;
        let mut vanished = 0;
        let parts: Vec<_> = parents.split('/').filter(|part| !part.is_empty()).collect();
        let mut at = 0;
        while at < parts.len() {
            match self.make_dir(&dir, parts[at], &parts[..=at].join("/")) {
                Ok(next) => {
                    dir = next;
                    at += 1;
                }
                // The directory was tidied away beneath us: begin again from the root.
                Err(error) if error.kind() == io::ErrorKind::NotFound && vanished < 16 => {
                    vanished += 1;
                    dir = self.dir.try_clone()?;
                    at = 0;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((dir, name))
    }

    /// Waits for the lock under which an object is compared and replaced; it ends with the file.
    pub(super) fn lock(&self) -> Result<File> {
        let failed = |error| describe_io(error, &format!("lock \"{}\"", self.path.display()));
        let dir = self.temporary_dir()?;
        let file = dir
            .open_with(LOCK, OpenOptions::new().read(true).write(true).create(true).mode(FILE_MODE))
            .map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }

    /// Removes an object and the directories that it leaves empty. On the disk when it returns.
    pub(super) fn remove(&self, key: &ObjectKey) -> Result<()> {
        self.check_key(key)?;
        let failed = |error| describe_io(error, &format!("remove object {}", self.name(key)));
        let (parents, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
        let parent = if parents.is_empty() { self.dir.try_clone() } else { self.dir.open_dir(parents) };
        let parent = match parent {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            parent => parent.map_err(failed)?,
        };
        match parent.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(failed)?,
        }
        self.flush_dir(&parent).map_err(failed)?;
        let mut left = parents;
        while !left.is_empty() && self.dir.remove_dir(left).is_ok() {
            self.flushed().remove(left);
            left = left.rsplit_once('/').map_or("", |(above, _)| above);
        }
        Ok(())
    }
}

/// Files under `.tmp` that were begun for keys with this prefix.
pub(super) fn pending(root: &Root, prefix: &str) -> Result<Vec<PendingUpload>> {
    let failed = |error| describe_io(error, &format!("list \"{}/{TEMPORARY}\"", root.path.display()));
    let dir = match root.dir.open_dir(TEMPORARY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in dir.entries().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(KEY_ENDING)) else { continue };
        // It may be finished between the two steps; then it is not pending.
        let (Ok(key), Ok(metadata)) = (dir.read_to_string(&name), dir.metadata(&name)) else { continue };
        if key.starts_with(prefix) {
            found.push(PendingUpload { key, id: id.to_owned(), begun: modified(&metadata) });
        }
    }
    found.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    Ok(found)
}

/// When one of them was written to last; its beginning when nothing was written yet.
pub(super) fn last_write(root: &Root, upload: &PendingUpload) -> Result<Timestamp> {
    let failed = |error| describe_io(error, &format!("look at a temporary file in \"{}\"", root.path.display()));
    match root.dir.open_dir(TEMPORARY).and_then(|dir| dir.metadata(&upload.id)) {
        Ok(metadata) => Ok(modified(&metadata).max(upload.begun)),
        // The note alone is there: the file was not made yet, or has got its name.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(upload.begun),
        Err(error) => Err(failed(error)),
    }
}

/// Removes one of them.
pub(super) fn abort_pending(root: &Root, id: &str) -> Result<()> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Err(Error::new(Kind::Invalid, format!("\"{}\" is not an upload of a local store", id.escape_debug())));
    }
    let failed = |error| describe_io(error, &format!("remove a temporary file in \"{}\"", root.path.display()));
    let dir = match root.dir.open_dir(TEMPORARY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir.map_err(failed)?,
    };
    remove_if_there(&dir, id).map_err(failed)?;
    remove_if_there(&dir, &format!("{id}{KEY_ENDING}")).map_err(failed)
}
