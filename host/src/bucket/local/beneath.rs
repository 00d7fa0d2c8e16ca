//! Resolving paths beneath the root of a bucket. No symbolic link is ever followed, and no path
//! leads out: not through `..`, not through a link that is swapped in while we look.
//!
//! `openat2` with `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS` makes the kernel resolve the whole
//! path under these rules in one call; it is used through rustix rather than cap-std, because the
//! bucket needs extended attributes, `O_NOATIME`, renames without overwrite and bytes as names. Where
//! the call is missing (an old kernel, a seccomp profile), every component is opened on its own
//! without following links, which gives the same guarantee for more calls.

use crate::error::{Error, IoContext, Kind, Result, kind_of_io};
use crate::keytext;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest path beneath the root, in bytes: 4 times Linux' `PATH_MAX`, since paths are resolved in pieces.
pub(super) const MAX_PATH_BYTES: usize = 16 * 1024;
/// Longest component, in bytes: Linux' `NAME_MAX`.
const MAX_NAME_BYTES: usize = 255;
/// Bytes of a path that one call resolves; below Linux' `PATH_MAX` of 4,096.
const PIECE_BYTES: usize = 3_584;
/// How often a path is resolved again after a rename nearby made the kernel give up (`EAGAIN`).
const RACES: usize = 16;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A key of the bucket as a path: relative, without empty, `.` and `..` components, without NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath {
    bytes: Vec<u8>,
    name_at: usize,
}

impl KeyPath {
    /// Parses a key. Errors: `Invalid`, saying which rule it breaks.
    pub(super) fn parse(key: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("{key:?} is not a key of a local bucket")).fact("got", why);
        let bytes = keytext::decode(key)?;
        if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES {
            return Err(bad("an empty path, or one of more than 16 KiB"));
        }
        if bytes.contains(&0) {
            return Err(bad("a NUL"));
        }
        let mut name_at = 0;
        for (i, part) in bytes.split(|b| *b == b'/').enumerate() {
            match part {
                b"" => return Err(bad("an empty component, such as a slash at an end")),
                b"." | b".." => return Err(bad("a component . or ..")),
                _ if part.len() > MAX_NAME_BYTES => return Err(bad("a component of more than 255 bytes")),
                _ if i == 0 => {}
                _ => name_at = bytes.len(),
            }
        }
        if name_at > 0 {
            name_at = bytes.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
        }
        Ok(Self { bytes, name_at })
    }

    /// The last component.
    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[self.name_at..]
    }

    /// What lies before it, without a slash at its end; empty is the root.
    pub(super) fn parent(&self) -> &[u8] {
        &self.bytes[..self.name_at.saturating_sub(1)]
    }
}

/// The root of a bucket, held open: it stays the same directory even if its path is renamed.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    one_by_one: AtomicBool,
}

impl Root {
    /// Opens a directory as a root. Links in the operator's own path are followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open the bucket at {path:?}"))?;
        Ok(Self { fd, one_by_one: AtomicBool::new(false) })
    }

    /// The root itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Resolves every component by itself from now on, as if `openat2` were missing.
    #[cfg(test)]
    pub(super) fn resolve_one_by_one(&self) {
        self.one_by_one.store(true, Ordering::Relaxed);
    }

    /// The directory at `path` (empty is the root), as a place to resolve names in.
    pub(super) fn dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut at = None;
        for piece in pieces(path) {
            let base = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            at = Some(self.resolve(base, piece)?);
        }
        at.map_or_else(|| openat(&self.fd, c".", DIRECTORY, Mode::empty()), Ok)
    }

    /// The directory at `path`, opened for listing it.
    pub(super) fn listable(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        list_from(self.dir(path)?.as_fd())
    }

    fn resolve(&self, base: BorrowedFd<'_>, piece: &[u8]) -> rustix::io::Result<OwnedFd> {
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RACES {
            if self.one_by_one.load(Ordering::Relaxed) {
                break;
            }
            match openat2(base, piece, DIRECTORY, Mode::empty(), rules) {
                Err(Errno::NOSYS | Errno::PERM) => self.one_by_one.store(true, Ordering::Relaxed),
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
        let mut at: Option<OwnedFd> = None;
        for part in piece.split(|b| *b == b'/') {
            let base = at.as_ref().map_or(base, AsFd::as_fd);
            at = Some(step(base, part)?);
        }
        at.ok_or(Errno::INVAL)
    }

    /// The directory at `path`; what is missing of it is made with mode 0700, and `made` is told
    /// the identity of each directory that was.
    pub(super) fn make_dir(&self, path: &[u8], mut made: impl FnMut(Identity)) -> rustix::io::Result<OwnedFd> {
        match self.dir(path) {
            Err(Errno::NOENT) => {}
            done => return done,
        }
        let mut at = self.dir(b"")?;
        for part in path.split(|b| *b == b'/') {
            let fresh = match rustix::fs::mkdirat(&at, part, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(errno),
            };
            at = step(at.as_fd(), part)?;
            if fresh {
                made(Identity::of(&rustix::fs::fstat(&at)?));
            }
        }
        Ok(at)
    }
}

/// One component, which must be a directory; the kernel follows no link here.
fn step(base: BorrowedFd<'_>, part: &[u8]) -> rustix::io::Result<OwnedFd> {
    if matches!(part, b"" | b"." | b"..") {
        return Err(Errno::INVAL);
    }
    openat(base, part, DIRECTORY, Mode::empty())
}

/// Opens a directory that is held as a place for listing it.
pub(super) fn list_from(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Cuts a path at slashes into pieces that the kernel takes in one call.
fn pieces(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.len() <= PIECE_BYTES {
            return Some(std::mem::take(&mut rest));
        }
        let cut = rest[..PIECE_BYTES].iter().rposition(|b| *b == b'/').unwrap_or(PIECE_BYTES);
        let piece = &rest[..cut];
        rest = rest.get(cut + 1..).unwrap_or_default();
        Some(piece)
    })
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    dev: u64,
    ino: u64,
}

impl Identity {
    /// The identity of what `stat` describes.
    #[allow(clippy::useless_conversion, reason = "the fields have other widths on other machines")]
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        Self { dev: u64::from(stat.st_dev), ino: u64::from(stat.st_ino) }
    }
}

/// Turns an error of the kernel into ours; `what` completes "could not …".
pub(super) fn refused(errno: Errno, what: impl Into<String>) -> Error {
    let io = std::io::Error::from(errno);
    let what = format!("could not {}", what.into());
    match errno {
        Errno::LOOP => Error::denied(what).fact("got", "a symbolic link on the way, which is never followed"),
        Errno::XDEV => Error::denied(what).fact("got", "a path that leads out of the bucket"),
        Errno::NOTDIR => {
            Error::not_found(what).fact("got", "something on the way that is not a directory, or a link").because(io)
        }
        Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => Error::conflict(what).because(io),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
            Error::failed(what).because(io).hint("make room on the bucket's file system, then try again")
        }
        Errno::MFILE | Errno::NFILE => Error::new(Kind::Limit, what).because(io).hint("raise the limit of open files"),
        _ => Error::new(kind_of_io(&io), what).because(io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_name_no_path_beneath_are_refused() {
        let long = format!("a/{}", "x".repeat(256));
        let deep = "d/".repeat(9_000) + "x";
        for wrong in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            ".",
            "a/../b",
            "a/..",
            "./a",
            "a\0b",
            "\u{10ff2f}",
            &long,
            &deep,
        ] {
            assert_eq!(KeyPath::parse(wrong).unwrap_err().kind(), Kind::Invalid, "{wrong:?}");
        }
    }

    #[test]
    fn a_key_falls_into_parent_and_name() {
        for (key, parent, name) in [
            ("a", &b""[..], &b"a"[..]),
            ("a/b", b"a", b"b"),
            ("a/b/...", b"a/b", b"..."),
            ("x\u{10ffff}/-", b"x\xff", b"-"),
        ] {
            let path = KeyPath::parse(key).unwrap();
            assert_eq!((path.parent(), path.name()), (parent, name), "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_path_of_a_file_system_is_a_key(parts in prop::collection::vec(
            prop::collection::vec((1_u8..).prop_filter("slash", |b| *b != b'/'), 1..40)
                .prop_filter("dots", |p| p != b"." && p != b".."), 1..5)) {
            let path = parts.join(&b'/');
            let parsed = KeyPath::parse(&keytext::encode(&path)).unwrap();
            prop_assert_eq!(parsed.name(), parts.last().unwrap().as_slice());
            prop_assert_eq!(parsed.bytes, path);
        }

        #[test]
        fn pieces_are_short_and_make_up_the_path(parts in prop::collection::vec("[a-c]{1,200}", 0..150)) {
            let path = parts.join("/");
            let cut: Vec<_> = pieces(path.as_bytes()).collect();
            prop_assert!(cut.iter().all(|piece| piece.len() <= PIECE_BYTES));
            prop_assert_eq!(cut.join(&b'/'), path.as_bytes());
        }
    }
}
