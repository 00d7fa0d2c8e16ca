//! Reading one file of a tree. A file that changes while it is read ends in an error, never in a
//! mixture of two states that looks whole.

use super::Shared;
use super::attributes::{mtime_ns, of_stat, xattrs_of};
use super::beneath::{Identity, KeyPath, refused};
use crate::error::{Error, Result};
use crate::stream::{ByteSource, SourceInfo};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A file, opened when it is first needed.
///
/// Its length is that of the moment when it was opened; at the end size, time of the last change of
/// the bytes, of the inode, and the inode itself must still be the same. (Before Linux 6.13 a change
/// within the same clock tick, 1 to 10 ms, as the opening can stay unnoticed if the size stays.)
pub(super) struct LocalRead {
    shared: Arc<Shared>,
    key: String,
    open: Option<OpenFile>,
    failed: bool,
}

struct OpenFile {
    fd: OwnedFd,
    then: Stat,
    done: u64,
    len: u64,
}

impl LocalRead {
    pub(super) fn new(shared: Arc<Shared>, key: String) -> Self {
        Self { shared, key, open: None, failed: false }
    }

    fn opened(&mut self) -> Result<&mut OpenFile> {
        if self.open.is_none() {
            let (fd, then) = open_file(&self.shared, &self.key)?;
            let len = u64::try_from(then.st_size).unwrap_or(0);
            self.open = Some(OpenFile { fd, then, done: 0, len });
        }
        self.open.as_mut().ok_or_else(|| Error::failed(format!("could not open {:?}", self.key)))
    }

    fn read_or_fail(&mut self, buf: &mut [u8]) -> Result<usize> {
        let key = self.key.clone();
        let open = self.opened()?;
        let n = loop {
            match rustix::io::read(&open.fd, &mut *buf) {
                Ok(n) => break n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(refused(errno, format!("read {key:?}"))),
            }
        };
        open.done = open.done.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        if n > 0 && open.done <= open.len {
            return Ok(n);
        }
        let now = fstat(&open.fd).map_err(|errno| refused(errno, format!("look at {key:?}")))?;
        match difference(&open.then, &now, open.done, open.len) {
            None => Ok(0),
            Some(what) => Err(Error::conflict(format!("{key:?} changed while it was read")).fact("changed", what)),
        }
    }
}

/// What differs between the opening and the end of a file.
fn difference(then: &Stat, now: &Stat, done: u64, len: u64) -> Option<String> {
    let mut what = String::new();
    if then.st_size != now.st_size || done != len {
        let _ = write!(what, "size {} B, then {} B, read {done} B; ", then.st_size, now.st_size);
    }
    if mtime_ns(then) != mtime_ns(now) {
        what.push_str("time of its bytes; ");
    }
    if (then.st_ctime, then.st_ctime_nsec) != (now.st_ctime, now.st_ctime_nsec) {
        what.push_str("time of its inode (name, owner, mode or bytes); ");
    }
    if Identity::of(then) != Identity::of(now) {
        what.push_str("inode; ");
    }
    let end = what.trim_end_matches("; ").len();
    what.truncate(end);
    (!what.is_empty()).then_some(what)
}

impl ByteSource for LocalRead {
    fn open(&mut self) -> Result<SourceInfo> {
        let key = self.key.clone();
        let open = self.opened()?;
        let mut attributes = of_stat(&open.then);
        attributes.extend(xattrs_of(open.fd.as_fd(), &key)?);
        Ok(SourceInfo { len: Some(open.len), attributes })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.failed {
            return Err(Error::failed(format!("could not read on in {:?} after it failed", self.key)));
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let done = self.read_or_fail(buf);
        self.failed = done.is_err();
        done
    }
}

/// Opens a regular file without following a link; anything else is an error that says what it is.
/// Devices and pipes are never opened, since opening one can block or act.
fn open_file(shared: &Shared, key: &str) -> Result<(OwnedFd, Stat)> {
    let path = KeyPath::parse(key)?;
    let refuse = |errno| refused(errno, format!("open {key:?}"));
    let dir = shared.root.dir(path.parent()).map_err(refuse)?;
    must_be_a_file(key, &statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(refuse)?)?;
    // Non-blocking: should a pipe have taken the file's place just now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat(&dir, path.name(), flags | OFlags::NOATIME, Mode::empty()) {
        // Only a file's owner and root may leave its access time alone.
        Err(Errno::PERM) => openat(&dir, path.name(), flags, Mode::empty()),
        done => done,
    }
    .map_err(refuse)?;
    let stat = fstat(&fd).map_err(refuse)?;
    must_be_a_file(key, &stat)?;
    Ok((fd, stat))
}

fn must_be_a_file(key: &str, stat: &Stat) -> Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(());
    }
    let kind = of_stat(stat).into_iter().find(|(name, _)| name == "type").map_or_else(String::new, |(_, kind)| kind);
    Err(Error::invalid(format!("could not read {key:?}"))
        .fact("expected", "a regular file")
        .fact("got", format!("a {kind}"))
        .hint("write directories and links by their attributes; sockets, devices and pipes hold no data to back up"))
}
