//! Listing a tree in the order of keys, page by page, in bounded memory.
//!
//! In the order of keys (bytes of the encoded text) the contents of a directory `a` stand where `a/`
//! stands, behind a file `a!`. So each directory is a place of its own in the order (`a`) and its
//! contents are another (`a/`). A walk is a stack of levels on the heap, never a recursion; each level
//! holds a window of its smallest names to come, filled by one scan of the directory. When the
//! windows together exceed [`WINDOWS_BYTES`], those nearest to the root are dropped and scanned again
//! when the walk comes back. So memory is bounded at any number of entries and at any depth, and a
//! directory of a million entries is scanned some ten times.

use super::beneath::{MAX_PATH_BYTES, Root, list_from, refused};
use crate::bucket::{Object, ObjectKind};
use crate::error::Result;
use crate::keytext;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// Most bytes of names that one level holds at once.
const WINDOW_BYTES: usize = 8 << 20;
/// Most bytes of names that all levels hold together.
const WINDOWS_BYTES: usize = 16 << 20;
/// What a name costs beyond its text: the string's header and its place in the tree.
const NAME_OVERHEAD: usize = 48;
/// Levels from the root whose directories stay open during a walk.
const OPEN_LEVELS: usize = 16;

/// A walk over the keys that begin with a prefix, standing between two of them.
#[derive(Debug)]
pub(super) struct Walk {
    prefix: String,
    /// Where it began: keys below (or equal to, unless inclusive) are passed over.
    seek: String,
    seek_inclusive: bool,
    levels: Vec<Level>,
    /// Encoded path of the deepest level, empty or ending in a slash.
    base: String,
    window_bytes: usize,
    windows_bytes: usize,
}

#[derive(Debug)]
struct Level {
    /// Length of `base` at this level.
    base_len: usize,
    dir: Option<OwnedFd>,
    /// Names to come; one with a slash at its end stands for a directory's contents.
    window: BTreeSet<String>,
    held: usize,
    /// Names from here on are still to come; exclusive unless `inclusive`.
    from: String,
    inclusive: bool,
    /// The last name of the last scan, when names behind it did not fit into the window.
    bound: Option<String>,
    /// Whether the directory has been scanned and everything behind `from` is in the window.
    complete: bool,
}

impl Walk {
    /// Begins behind `after`, or at the first key that begins with `prefix`.
    pub(super) fn new(prefix: &str, after: Option<&str>) -> Self {
        let (seek, seek_inclusive) = match after {
            Some(after) if after >= prefix => (after.to_owned(), false),
            _ => (prefix.to_owned(), true),
        };
        let mut walk = Self {
            prefix: prefix.to_owned(),
            seek,
            seek_inclusive,
            levels: Vec::new(),
            base: String::new(),
            window_bytes: WINDOW_BYTES,
            windows_bytes: WINDOWS_BYTES,
        };
        walk.push_level(String::new());
        walk
    }

    /// The same walk with windows so small that they overflow in a test.
    #[cfg(test)]
    pub(super) fn with_windows(mut self, window_bytes: usize, windows_bytes: usize) -> Self {
        (self.window_bytes, self.windows_bytes) = (window_bytes, windows_bytes);
        self
    }

    /// Bytes that all windows hold now.
    pub(super) fn held_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.held).sum()
    }

    fn push_level(&mut self, base: String) {
        let (from, inclusive) = match self.seek.strip_prefix(base.as_str()) {
            Some(rest) => (rest.to_owned(), self.seek_inclusive),
            None => (String::new(), true),
        };
        let depth = self.levels.len();
        if let Some(above) = self.levels.last_mut().filter(|_| depth > OPEN_LEVELS) {
            above.dir = None;
        }
        self.levels.push(Level {
            base_len: base.len(),
            dir: None,
            window: BTreeSet::new(),
            held: 0,
            from,
            inclusive,
            bound: None,
            complete: false,
        });
        self.base = base;
    }

    /// The next object, or `None` at the end. What vanished since its directory was scanned is passed over.
    pub(super) fn next(&mut self, root: &Root) -> Result<Option<Object>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.base.truncate(level.base_len);
            let Some(name) = level.take() else {
                if level.complete {
                    self.levels.pop();
                } else {
                    self.scan(root)?;
                }
                continue;
            };
            if name.ends_with('/') {
                let base = format!("{}{name}", self.base);
                self.push_level(base);
            } else if let Some(object) = self.look_at(root, &name)? {
                return Ok(Some(object));
            }
        }
    }

    /// What lies under `name` of the deepest level; a directory's contents are put into the window.
    fn look_at(&mut self, root: &Root, name: &str) -> Result<Option<Object>> {
        let key = format!("{}{name}", self.base);
        let raw = keytext::decode(name)?;
        if !self.open_level(root)? {
            return Ok(None);
        }
        let prefix = &self.prefix;
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let Some(dir) = &level.dir else { return Ok(None) };
        let stat = match statat(dir, raw.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(refused(errno, format!("look at {key:?}"))),
        };
        let mut object = object_of(key, &stat);
        if object.kind == ObjectKind::Dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let readable = openat(dir, raw, flags, Mode::empty());
            let too_deep = keytext::decode(&self.base)?.len() + name.len() + 256 > MAX_PATH_BYTES;
            if too_deep || matches!(readable, Err(Errno::ACCESS | Errno::PERM)) {
                object.kind = ObjectKind::Special;
            } else {
                let contents = format!("{name}/");
                let beyond = level.bound.as_ref().is_some_and(|bound| contents > *bound);
                let whole = format!("{}/", object.key);
                if !beyond && (whole.starts_with(prefix.as_str()) || prefix.starts_with(&whole)) {
                    level.insert(contents);
                }
            }
        }
        // The contents of a directory may be looked for although the directory itself is not.
        Ok(object.key.starts_with(prefix.as_str()).then_some(object))
    }

    /// Opens the directory of the deepest level; false when it is gone.
    fn open_level(&mut self, root: &Root) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        if level.dir.is_none() {
            let path = keytext::decode(self.base.strip_suffix('/').unwrap_or(&self.base))?;
            match root.listable(&path) {
                Ok(dir) => level.dir = Some(dir),
                // Removed, or replaced by something else, since it was named: it has no contents now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                Err(errno) => return Err(refused(errno, format!("list {:?}", self.base))),
            }
        }
        Ok(true)
    }

    /// Fills the window of the deepest level with the smallest names to come.
    fn scan(&mut self, root: &Root) -> Result<()> {
        let gone = !self.open_level(root)?;
        let prefix = &self.prefix;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(dir) = level.dir.as_ref().filter(|_| !gone) else {
            level.complete = true;
            return Ok(());
        };
        let refuse = |errno| refused(errno, format!("list {:?}", self.base));
        let listed = Dir::new(list_from(dir.as_fd()).map_err(refuse)?).map_err(refuse)?;
        // Of a prefix, what concerns the names of this level.
        let wanted = prefix.strip_prefix(self.base.as_str()).unwrap_or("");
        let mut found = BTreeSet::new();
        let mut held = 0;
        let mut overflowed = false;
        let (from, inclusive) = (level.from.as_str(), level.inclusive);
        for entry in listed {
            let entry = entry.map_err(refuse)?;
            let raw = entry.file_name().to_bytes();
            if matches!(raw, b"." | b"..") {
                continue;
            }
            let name = keytext::encode(raw);
            let to_come = if inclusive { name.as_str() >= from } else { name.as_str() > from };
            let item = if to_come && name.starts_with(wanted) {
                name
            } else {
                // Its contents may be still to come, or be what the prefix is about.
                let contents = format!("{name}/");
                let holds = contents.as_str() > from || from.starts_with(&contents);
                let concerns = contents.starts_with(wanted) || wanted.starts_with(&contents);
                if !holds || !concerns || !is_dir(dir, raw, entry.file_type()) {
                    continue;
                }
                contents
            };
            held += item.len() + NAME_OVERHEAD;
            found.insert(item);
            while held > self.window_bytes && found.len() > 1 {
                overflowed = true;
                held -= found.pop_last().map_or(held, |last| last.len() + NAME_OVERHEAD);
            }
        }
        level.bound = if overflowed { found.last().cloned() } else { None };
        level.complete = !overflowed;
        level.window = found;
        level.held = held;
        self.drop_windows();
        Ok(())
    }

    /// Keeps all windows together within their bound, at the cost of scanning a directory again.
    fn drop_windows(&mut self) {
        let mut total = self.held_bytes();
        let Some((_, above)) = self.levels.split_last_mut() else { return };
        for level in above {
            if total <= self.windows_bytes {
                break;
            }
            total -= level.held;
            level.held = 0;
            level.complete &= level.window.is_empty();
            level.window = BTreeSet::new();
            level.bound = None;
        }
    }
}

impl Level {
    fn take(&mut self) -> Option<String> {
        let name = self.window.pop_first()?;
        self.held = self.held.saturating_sub(name.len() + NAME_OVERHEAD);
        match name.strip_suffix('/') {
            // The first text behind everything that begins with `name`: `0` follows the slash in ASCII.
            Some(dir) => (self.from, self.inclusive) = (format!("{dir}0"), true),
            None => (self.from, self.inclusive) = (name.clone(), false),
        }
        Some(name)
    }

    fn insert(&mut self, name: String) {
        self.held += name.len() + NAME_OVERHEAD;
        self.window.insert(name);
    }
}

fn is_dir(dir: &OwnedFd, name: &[u8], known: FileType) -> bool {
    match known {
        FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        known => known == FileType::Directory,
    }
}

/// An object as the listing and a write return it.
pub(super) fn object_of(key: String, stat: &Stat) -> Object {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => ObjectKind::File,
        FileType::Directory => ObjectKind::Dir,
        FileType::Symlink => ObjectKind::Symlink,
        _ => ObjectKind::Special,
    };
    let size = if kind == ObjectKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    let ms = super::attributes::mtime_ns(stat).div_euclid(1_000_000);
    let last_modified_ms = u64::try_from(ms).unwrap_or(0);
    Object { key, kind, version: None, is_latest: true, size, etag: None, last_modified_ms }
}
