//! A directory tree as a bucket.
//!
//! Nothing outside the root is ever read, written or removed: every path is resolved beneath it
//! without following links (`beneath`), so a link that is swapped in during a run changes nothing.
//! Mounts beneath the root are part of the tree.
//!
//! Keys are paths (`keytext`); a directory's key has no slash at its end. Hard links are stored as
//! separate files. A directory that cannot be listed (no permission, or a path of some 16 KiB) is
//! listed as special, so that nothing beneath it is left out in silence. What `write` keeps and when
//! it is durable is said in `write`; what attributes there are, in `attributes`.

mod attributes;
mod beneath;
mod listing;
mod read;
#[cfg(test)]
mod tests;
mod write;

use self::beneath::{Identity, KeyPath, Root, refused};
use self::listing::Walk;
use super::{Bucket, Object, ObjectPage};
use crate::error::{Error, Result};
use crate::keytext;
use crate::stream::{Origin, Source};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects of one page.
const PAGE: usize = 1_000;
/// Listings that are kept at the place where their last page ended. Memory: 16 MiB each at most.
const WALKS: usize = 2;

/// A directory tree as a bucket; one instance per run.
#[derive(Debug)]
pub struct LocalBucket {
    path: PathBuf,
    shared: Arc<Shared>,
}

/// What reads and writes under way share with the bucket.
#[derive(Debug)]
struct Shared {
    root: Root,
    /// Device of the root's file system.
    dev: u64,
    /// Directories that were made on the way to something and not yet written by their own key:
    /// 16 bytes each, until they are.
    implied: Mutex<HashSet<Identity>>,
    walks: Mutex<Vec<Walked>>,
}

/// A walk that stands behind the last object of a page.
#[derive(Debug)]
struct Walked {
    prefix: String,
    last: String,
    walk: Walk,
}

impl LocalBucket {
    /// Opens the tree at `path`, which must be a directory. Links in `path` itself, which the operator
    /// wrote, are followed. Errors: `NotFound`, `Denied`, `Failed`.
    pub fn open(path: &Path) -> Result<Self> {
        let root = Root::open(path)?;
        let stat = fstat(root.fd()).map_err(|errno| refused(errno, format!("look at the bucket at {path:?}")))?;
        let shared = Shared { root, dev: device(&stat), implied: Mutex::default(), walks: Mutex::default() };
        Ok(Self { path: path.to_owned(), shared: Arc::new(shared) })
    }

    fn without_version(key: &str, version: Option<&str>) -> Result<()> {
        version.map_or(Ok(()), |version| {
            Err(Error::not_found(format!("could not find version {version:?} of {key:?}"))
                .fact("expected", "no version, since a local bucket keeps none"))
        })
    }
}

fn device(stat: &Stat) -> u64 {
    #[allow(clippy::useless_conversion, reason = "the field has another width on other machines")]
    u64::from(stat.st_dev)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn remember(&self, made: Identity) {
        locked(&self.implied).insert(made);
    }

    fn forget(&self, made: Identity) -> bool {
        locked(&self.implied).remove(&made)
    }

    fn on_root_file_system(&self, stat: &Stat) -> bool {
        device(stat) == self.dev
    }
}

impl Bucket for LocalBucket {
    fn describe(&self) -> String {
        format!("local bucket at {:?}", self.path)
    }

    fn objects(&self, prefix: &str, after: Option<&str>) -> Result<ObjectPage> {
        let mut walk = {
            let mut walks = locked(&self.shared.walks);
            let at = walks.iter().position(|w| w.prefix == prefix && Some(w.last.as_str()) == after);
            at.map_or_else(|| Walk::new(prefix, after), |at| walks.remove(at).walk)
        };
        let mut page = ObjectPage::default();
        while page.objects.len() < PAGE {
            match walk.next(&self.shared.root)? {
                Some(object) => page.objects.push(object),
                None => return Ok(page),
            }
        }
        page.next = page.objects.last().map(|object| object.key.clone());
        if let Some(last) = page.next.clone() {
            let mut walks = locked(&self.shared.walks);
            walks.insert(0, Walked { prefix: prefix.to_owned(), last, walk });
            walks.truncate(WALKS);
        }
        Ok(page)
    }

    fn attributes(&self, key: &str, version: Option<&str>) -> Result<Vec<(String, String)>> {
        Self::without_version(key, version)?;
        let path = KeyPath::parse(key)?;
        let refuse = |errno| refused(errno, format!("read the attributes of {key:?}"));
        let dir = self.shared.root.dir(path.parent()).map_err(refuse)?;
        let stat = statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(refuse)?;
        let mut all = attributes::of_stat(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir, path.name(), Vec::new()).map_err(refuse)?;
                all.push(("link-target".into(), keytext::encode(target.as_bytes())));
            }
            FileType::RegularFile | FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let fd = match openat(&dir, path.name(), flags | OFlags::NOATIME, Mode::empty()) {
                    Err(Errno::PERM) => openat(&dir, path.name(), flags, Mode::empty()),
                    done => done,
                }
                .map_err(refuse)?;
                all.extend(attributes::xattrs_of(fd.as_fd(), key)?);
            }
            _ => {}
        }
        Ok(all)
    }

    fn is_open(&self) -> bool {
        true
    }

    fn read(&self, label: &str, key: &str, version: Option<&str>) -> Result<Source> {
        Self::without_version(key, version)?;
        KeyPath::parse(key)?;
        let origin = Origin::Bucket { label: label.to_owned() };
        Ok(Source::new(origin, read::LocalRead::new(self.shared.clone(), key.to_owned())))
    }

    fn write(&self, key: &str, attributes: &[(String, String)], body: Source, overwrite: bool) -> Result<Object> {
        write::write(&self.shared, key, attributes, body, overwrite)
    }

    /// Removes a file, a link, a special file or an empty directory. Errors: `NotFound`, `Conflict`
    /// for a directory that is not empty, `Denied`.
    fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        Self::without_version(key, version)?;
        let path = KeyPath::parse(key)?;
        let refuse = |errno| refused(errno, format!("remove {key:?}"));
        let dir = self.shared.root.dir(path.parent()).map_err(refuse)?;
        match rustix::fs::unlinkat(&dir, path.name(), AtFlags::empty()) {
            // Linux says EISDIR for a directory, POSIX EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return done.map_err(refuse),
        }
        rustix::fs::unlinkat(&dir, path.name(), AtFlags::REMOVEDIR).map_err(refuse)
    }

    fn read_config(&self, _part: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn write_config(&self, part: &str, _json: &str) -> Result<()> {
        Err(Error::invalid(format!("could not set {part:?} of the {}", self.describe()))
            .fact("expected", "a bucket that has a configuration; a directory tree has none"))
    }

    /// Makes durable everything that was written to the root's file system (`syncfs`), names included.
    fn flush(&self) -> Result<()> {
        rustix::fs::syncfs(self.shared.root.fd())
            .map_err(|errno| refused(errno, format!("flush the {}", self.describe())))
    }
}
