//! Writing one object of a tree: whole under its name, or not at all.
//!
//! A file is written under a temporary name beside its own (`.strongroom-*.part`, mode 0600), given its
//! attributes and renamed: without overwriting, or in one step over what was there. A process killed
//! half-way leaves the temporary file and nothing else; `diagnose` of the bucket plugin counts them.
//!
//! Directories on the way are made with mode 0700. Such a directory is not there yet in the sense of
//! `keep`: the first write of its own key gives it its attributes. So a restore writes files, then
//! links, then directories from the deepest up, and no time is changed by what comes later.
//!
//! Flushing: nothing is flushed object by object; [`super::LocalBucket::flush`] makes all of it durable
//! at once. A file on another file system than the root's, which that call does not reach, is flushed
//! before it is renamed.

use super::Shared;
use super::attributes::{NotAFile, Wanted};
use super::beneath::{Identity, KeyPath, refused};
use super::listing::object_of;
use crate::bucket::Object;
use crate::error::{Error, Result};
use crate::failpoint::{self, Point};
use crate::stream::Source;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, statat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Blocks that are zeros become holes where a file is sparse; the block size of usual file systems.
const HOLE_BYTES: usize = 4_096;

pub(super) fn write(
    shared: &Shared,
    key: &str,
    attributes: &[(String, String)],
    body: Source,
    overwrite: bool,
) -> Result<Object> {
    let path = KeyPath::parse(key)?;
    let wanted = Wanted::parse(key, attributes)?;
    let place = Place { shared, key, path, overwrite };
    let dir = shared
        .root
        .make_dir(place.path.parent(), |made| shared.remember(made))
        .map_err(|errno| refused(errno, format!("make the directory that {key:?} lies in")))?;
    match &wanted.special {
        None => place.file(&dir, &wanted, body)?,
        Some(NotAFile::Dir) => place.directory(&dir, &wanted)?,
        Some(NotAFile::Symlink { target }) => place.link(&dir, &wanted, target)?,
    }
    let stat = statat(&dir, place.path.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| refused(errno, format!("look at {key:?} after writing it")))?;
    Ok(object_of(key.to_owned(), &stat))
}

struct Place<'a> {
    shared: &'a Shared,
    key: &'a str,
    path: KeyPath,
    overwrite: bool,
}

impl Place<'_> {
    fn exists(&self) -> Error {
        Error::conflict(format!("could not write {:?}", self.key))
            .fact("got", "something is there already")
            .hint("restore into another place, or allow overwriting")
    }

    fn refuse(&self, errno: Errno) -> Error {
        refused(errno, format!("write {:?}", self.key))
    }

    /// Refuses early what the rename at the end would refuse, before the body is read.
    fn expect_free(&self, dir: &OwnedFd) -> Result<()> {
        match statat(dir, self.path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.refuse(errno)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(self.exists().fact("expected", "no directory in this place"))
            }
            Ok(_) if self.overwrite => Ok(()),
            Ok(_) => Err(self.exists()),
        }
    }

    fn file(&self, dir: &OwnedFd, wanted: &Wanted, body: Source) -> Result<()> {
        self.expect_free(dir)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let temporary = Temporary::named(dir.as_fd())?;
        let fd = openat(dir, temporary.name.as_bytes(), flags, Mode::RUSR | Mode::WUSR).map_err(|e| self.refuse(e))?;
        self.copy(&fd, wanted.sparse, body)?;
        wanted.apply(fd.as_fd(), self.key)?;
        let stat = fstat(&fd).map_err(|errno| self.refuse(errno))?;
        if !self.shared.on_root_file_system(&stat) {
            rustix::fs::fsync(&fd).map_err(|errno| self.refuse(errno))?;
        }
        failpoint::reach(Point::BucketWritten);
        self.rename(dir, temporary)?;
        failpoint::reach(Point::BucketNamed);
        Ok(())
    }

    /// Copies the body to its proven end.
    fn copy(&self, fd: &OwnedFd, sparse: bool, mut body: Source) -> Result<()> {
        let mut at = 0_u64;
        while let Some(chunk) = body.body.next_chunk()? {
            for (is_hole, run) in runs(at, &chunk, sparse) {
                if !is_hole {
                    self.write_at(fd, run, at)?;
                }
                at += u64::try_from(run.len()).map_err(|_| self.refuse(Errno::FBIG))?;
            }
        }
        if sparse {
            rustix::fs::ftruncate(fd, at).map_err(|errno| self.refuse(errno))?;
        }
        Ok(())
    }

    fn write_at(&self, fd: &OwnedFd, mut run: &[u8], mut at: u64) -> Result<()> {
        while !run.is_empty() {
            match rustix::io::pwrite(fd, run, at) {
                Ok(0) => return Err(self.refuse(Errno::IO)),
                Ok(n) => {
                    run = &run[n..];
                    at += u64::try_from(n).map_err(|_| self.refuse(Errno::FBIG))?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.refuse(errno)),
            }
        }
        Ok(())
    }

    fn directory(&self, dir: &OwnedFd, wanted: &Wanted) -> Result<()> {
        let name = self.path.name();
        let fresh = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(self.refuse(errno)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(self.exists().fact("expected", "a directory, or nothing")),
            done => done.map_err(|errno| self.refuse(errno))?,
        };
        let stat = fstat(&fd).map_err(|errno| self.refuse(errno))?;
        // Made by us on the way to something beneath it: its turn is now.
        let implied = self.shared.forget(Identity::of(&stat));
        if !(fresh || implied || self.overwrite) {
            return Err(self.exists());
        }
        wanted.apply(fd.as_fd(), self.key)
    }

    fn link(&self, dir: &OwnedFd, wanted: &Wanted, target: &[u8]) -> Result<()> {
        self.expect_free(dir)?;
        let temporary = Temporary::named(dir.as_fd())?;
        rustix::fs::symlinkat(target, dir, temporary.name.as_bytes()).map_err(|errno| self.refuse(errno))?;
        wanted.apply_to_link(dir.as_fd(), temporary.name.as_bytes(), self.key)?;
        self.rename(dir, temporary)
    }

    fn rename(&self, dir: &OwnedFd, mut temporary: Temporary<'_>) -> Result<()> {
        let (from, to) = (temporary.name.as_bytes(), self.path.name());
        let flags = if self.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let done = match renameat_with(dir, from, dir, to, flags) {
            // A file system without renames that keep what is there: a second name, which must be free.
            Err(Errno::INVAL | Errno::NOSYS) if !self.overwrite => {
                return rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()).map_err(|errno| match errno {
                    Errno::EXIST => self.exists(),
                    errno => self.refuse(errno),
                });
            }
            done => done,
        };
        match done {
            Ok(()) => {
                temporary.gone = true;
                Ok(())
            }
            Err(Errno::EXIST | Errno::ISDIR) => Err(self.exists()),
            Err(errno) => Err(self.refuse(errno)),
        }
    }
}

/// A temporary name in a directory; what lies under it is removed unless it was renamed.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: String,
    gone: bool,
}

impl<'a> Temporary<'a> {
    fn named(dir: BorrowedFd<'a>) -> Result<Self> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::failed("could not get random bytes for a temporary name").because(e.to_string()))?;
        Ok(Self { dir, name: format!(".strongroom-{:016x}.part", u64::from_ne_bytes(random)), gone: false })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.gone {
            // The first error wins over the error of cleaning up.
            let _ = rustix::fs::unlinkat(self.dir, self.name.as_bytes(), AtFlags::empty());
        }
    }
}

/// Cuts a chunk that lies at offset `at` into runs that are written and runs that stay holes: blocks of
/// the file that are zeros as far as the chunk holds them. Chunks end anywhere, and what is not
/// written of a new file is zeros too.
fn runs(at: u64, chunk: &[u8], sparse: bool) -> Vec<(bool, &[u8])> {
    if !sparse {
        return vec![(false, chunk)];
    }
    let mut found: Vec<(bool, usize, usize)> = Vec::new();
    let mut start = 0;
    while start < chunk.len() {
        let block = u64::try_from(HOLE_BYTES).unwrap_or(u64::MAX);
        let offset = at.saturating_add(u64::try_from(start).unwrap_or(u64::MAX)) % block;
        let to_boundary = HOLE_BYTES - usize::try_from(offset).unwrap_or(0);
        let end = chunk.len().min(start + to_boundary);
        let is_hole = chunk[start..end].iter().all(|b| *b == 0);
        match found.last_mut() {
            Some(last) if last.0 == is_hole => last.2 = end,
            _ => found.push((is_hole, start, end)),
        }
        start = end;
    }
    found.into_iter().map(|(is_hole, start, end)| (is_hole, &chunk[start..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_make_up_the_chunk_and_holes_are_zeros(at in 0_u64..10_000, blocks in prop::collection::vec((any::<bool>(), 1_usize..9_000), 0..6)) {
            let chunk: Vec<u8> = blocks.iter().flat_map(|(zero, n)| vec![u8::from(!zero); *n]).collect();
            let runs = runs(at, &chunk, true);
            let joined: Vec<u8> = runs.iter().flat_map(|(_, run)| run.to_vec()).collect();
            prop_assert_eq!(joined, chunk.as_slice());
            prop_assert!(runs.iter().all(|(hole, run)| !hole || run.iter().all(|b| *b == 0)));
        }
    }
}
