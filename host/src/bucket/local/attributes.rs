//! What a file is besides its bytes, as attributes, and back onto a file.
//!
//! `type` (`file`, `dir`, `symlink`), `link-target`, `mode` (octal, such as `0644`), `mtime-ns`
//! (nanoseconds since 1970, may be negative), `uid`, `gid`, `xattr.NAME`, `sparse` (`true` for a file
//! with holes). Names and link targets are bytes as `keytext` writes them; a value that is not UTF-8,
//! or that begins with `base64:`, is `base64:` and base64. Never kept: access time, birth time,
//! inode flags, extended attributes of links.

use super::beneath::refused;
use crate::error::{Error, Result};
use crate::keytext;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

/// Longest value of an extended attribute: Linux' `XATTR_SIZE_MAX`.
const XATTR_BYTES: usize = 64 * 1024;
/// Longest target of a link: below Linux' `PATH_MAX`.
const LINK_BYTES: usize = 4_095;

/// What is to be written, as parsed from attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `None` is a regular file.
    pub(super) special: Option<NotAFile>,
    pub(super) sparse: bool,
    mode: Option<u32>,
    mtime_ns: Option<i128>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An object that has no bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotAFile {
    Dir,
    Symlink { target: Vec<u8> },
}

/// Reads `type`, `mode`, `mtime-ns`, `uid` and `gid` from what the kernel says.
pub(super) fn of_stat(stat: &Stat) -> Vec<(String, String)> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "unknown",
    };
    let mut all: Vec<(String, String)> = vec![
        ("type".into(), kind.into()),
        ("mode".into(), format!("{:04o}", stat.st_mode & 0o7777)),
        ("mtime-ns".into(), mtime_ns(stat).to_string()),
        ("uid".into(), stat.st_uid.to_string()),
        ("gid".into(), stat.st_gid.to_string()),
    ];
    let held = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if kind == "file" && held < u64::try_from(stat.st_size).unwrap_or(0) {
        all.push(("sparse".into(), "true".into()));
    }
    all
}

/// Nanoseconds since 1970 of the last change of the bytes.
pub(super) fn mtime_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

/// Extended attributes of an open file or directory; none where the file system knows none.
pub(super) fn xattrs_of(fd: BorrowedFd<'_>, key: &str) -> Result<Vec<(String, String)>> {
    let refuse = |errno| refused(errno, format!("read the extended attributes of {key:?}"));
    let mut names = vec![0_u8; 1024];
    let n = loop {
        match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
            Ok(n) => break n,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.len() < XATTR_BYTES => names.resize(XATTR_BYTES, 0),
            Err(errno) => return Err(refuse(errno)),
        }
    };
    let mut all = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; XATTR_BYTES];
        match rustix::fs::fgetxattr(fd, name, value.as_mut_slice()) {
            Ok(n) => value.truncate(n),
            // Removed since they were listed.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(refuse(errno)),
        }
        all.push((format!("xattr.{}", keytext::encode(name)), keytext::value_text(value)));
    }
    all.sort();
    Ok(all)
}

impl Wanted {
    /// Parses attributes. Errors: `Invalid` for what a local bucket cannot keep, so that nothing is
    /// lost in silence.
    pub(super) fn parse(key: &str, attributes: &[(String, String)]) -> Result<Self> {
        let mut wanted = Self::default();
        let mut kind = "file";
        let mut target = None;
        for (name, value) in attributes {
            let bad = |expected: &str| {
                Error::invalid(format!("could not write {key:?} with attribute {name:?}"))
                    .fact("expected", expected)
                    .fact("got", format!("{:?}", value.chars().take(100).collect::<String>()))
            };
            match name.as_str() {
                "type" => kind = value,
                "link-target" => target = Some(keytext::decode(value)?),
                "mode" => {
                    let octal = !value.is_empty() && value.bytes().all(|b| matches!(b, b'0'..=b'7'));
                    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| octal && *mode <= 0o7777);
                    wanted.mode = Some(mode.ok_or_else(|| bad("an octal mode up to 7777"))?);
                }
                "mtime-ns" => {
                    let ns: i128 = value.parse().map_err(|_| bad("nanoseconds since 1970"))?;
                    if i64::try_from(ns.div_euclid(1_000_000_000)).is_err() {
                        return Err(bad("a time within 64 bits of seconds"));
                    }
                    wanted.mtime_ns = Some(ns);
                }
                // The kernel takes 2^32 - 1 for "leave it".
                "uid" | "gid" => {
                    let id =
                        value.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| bad("an id below 2^32 - 1"))?;
                    let slot = if name == "uid" { &mut wanted.uid } else { &mut wanted.gid };
                    *slot = Some(id);
                }
                "sparse" => wanted.sparse = value == "true",
                _ => {
                    let Some(xattr) = name.strip_prefix("xattr.") else {
                        return Err(bad("type, link-target, mode, mtime-ns, uid, gid, sparse or xattr.*"));
                    };
                    let xattr = keytext::decode(xattr)?;
                    let value = keytext::value_bytes(value).ok_or_else(|| bad("text, or base64: and base64"))?;
                    if xattr.is_empty() || xattr.len() > 255 || xattr.contains(&0) || value.len() > XATTR_BYTES {
                        return Err(bad("a name of 1 to 255 bytes and a value of at most 64 KiB"));
                    }
                    wanted.xattrs.insert(xattr, value);
                }
            }
        }
        wanted.special = match (kind, target) {
            ("file", None) => None,
            ("dir", None) => Some(NotAFile::Dir),
            ("symlink", Some(target)) if (1..=LINK_BYTES).contains(&target.len()) && !target.contains(&0) => {
                Some(NotAFile::Symlink { target })
            }
            ("symlink", _) => {
                return Err(Error::invalid(format!("could not write the link {key:?}"))
                    .fact("expected", "attribute link-target of 1 to 4,095 bytes without NUL"));
            }
            ("file" | "dir", Some(_)) => {
                return Err(
                    Error::invalid(format!("could not write {key:?}")).fact("got", "a link-target without a link")
                );
            }
            (other, _) => {
                return Err(Error::invalid(format!("could not write {key:?} of type {other:?}"))
                    .fact("expected", "file, dir or symlink"));
            }
        };
        Ok(wanted)
    }

    /// Gives a file or directory its owner, mode, extended attributes and time, in this order.
    ///
    /// Owner and attributes outside `user.` are set where the system permits it: whoever needs to know
    /// reads them back. Without the wanted owner, a file gets no set-uid or set-gid bit.
    pub(super) fn apply(&self, fd: BorrowedFd<'_>, key: &str) -> Result<()> {
        let refuse = |what: &str, errno| refused(errno, format!("set the {what} of {key:?}"));
        let owned = self.apply_owner(fd).map_err(|errno| refuse("owner", errno))?;
        for (name, value) in &self.xattrs {
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) if !name.starts_with(b"user.") => {}
                Err(errno) => return Err(refuse("extended attributes", errno)),
            }
        }
        if let Some(mode) = self.mode {
            let mode = if owned { mode } else { mode & 0o1777 };
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|errno| refuse("mode", errno))?;
        }
        if let Some(times) = self.times() {
            rustix::fs::futimens(fd, &times).map_err(|errno| refuse("time", errno))?;
        }
        Ok(())
    }

    /// Gives a link its owner (where permitted) and its time.
    pub(super) fn apply_to_link(&self, dir: BorrowedFd<'_>, name: &[u8], key: &str) -> Result<()> {
        let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
        match rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(refused(errno, format!("set the owner of {key:?}"))),
        }
        if let Some(times) = self.times() {
            rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| refused(errno, format!("set the time of {key:?}")))?;
        }
        Ok(())
    }

    fn apply_owner(&self, fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let now = rustix::fs::fstat(fd)?;
        let uid = self.uid.filter(|uid| *uid != now.st_uid).map(Uid::from_raw);
        let gid = self.gid.filter(|gid| *gid != now.st_gid).map(Gid::from_raw);
        if uid.is_none() && gid.is_none() {
            return Ok(true);
        }
        match rustix::fs::fchown(fd, uid, gid) {
            Ok(()) => return Ok(true),
            Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
        // The group alone may be one of ours.
        if gid.is_some() {
            match rustix::fs::fchown(fd, None, gid) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    fn times(&self) -> Option<Timestamps> {
        let ns = self.mtime_ns?;
        let tv_sec = i64::try_from(ns.div_euclid(1_000_000_000)).ok()?;
        let tv_nsec = ns.rem_euclid(1_000_000_000).try_into().ok()?;
        Some(Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(attributes: &[(&str, &str)]) {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let error = Wanted::parse("k", &attributes).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Invalid, "{attributes:?}");
    }

    #[test]
    fn attributes_that_a_directory_tree_cannot_keep_are_refused() {
        check_refused(&[("content-type", "text/plain")]);
        check_refused(&[("type", "fifo")]);
        check_refused(&[("type", "symlink")]);
        check_refused(&[("type", "symlink"), ("link-target", "")]);
        check_refused(&[("type", "symlink"), ("link-target", "a\0b")]);
        check_refused(&[("type", "dir"), ("link-target", "x")]);
        for mode in ["", "8", "-1", "+7", "17777", "0o644", "77777777777777"] {
            check_refused(&[("mode", mode)]);
        }
        for mtime in ["", "x", "1.5", "99999999999999999999999999999999"] {
            check_refused(&[("mtime-ns", mtime)]);
        }
        for uid in ["", "-1", "root", "4294967295", "4294967296"] {
            check_refused(&[("uid", uid)]);
            check_refused(&[("gid", uid)]);
        }
        check_refused(&[("xattr.", "x")]);
        check_refused(&[("xattr.user.a", "base64:!")]);
        check_refused(&[("xattr.a\0b", "x")]);
    }
}
