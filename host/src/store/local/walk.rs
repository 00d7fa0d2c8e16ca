//! Listing a directory tree in the order of keys, as a bucket lists them.

use super::place::TEMPORARY;
use super::{Root, describe, describe_io};
use crate::error::Result;
use crate::id::ObjectKey;
use crate::store::ObjectInfo;
use cap_std::fs::Dir;
use std::io;

/// At most `limit` objects whose keys begin with `prefix` and sort after `after`.
///
/// Memory: the names of the directories between the root and the object at hand.
pub(super) fn objects(root: &Root, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>> {
    let mut walk = Walk { prefix, after, limit, found: Vec::new() };
    walk.enter(&root.dir, "").map_err(|error| describe_io(error, &format!("list \"{}\"", root.path.display())))?;
    Ok(walk.found)
}

/// Names directly beneath `prefix` that have objects beneath them.
pub(super) fn folders(root: &Root, prefix: &str) -> Result<Vec<String>> {
    let failed = |error| describe_io(error, &format!("list \"{}/{prefix}\"", root.path.display()));
    let dir = match prefix.strip_suffix('/') {
        None => root.dir.try_clone(),
        Some(path) => root.dir.open_dir(path),
    };
    let dir = match dir {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        dir => dir.map_err(failed)?,
    };
    let mut names = Vec::new();
    for (name, is_dir) in sorted(&dir, prefix.is_empty()).map_err(failed)? {
        if is_dir {
            let name = name.trim_end_matches('/');
            let mut walk = Walk { prefix: "", after: None, limit: 1, found: Vec::new() };
            let beneath = dir.open_dir(name).and_then(|beneath| walk.enter(&beneath, &format!("{name}/")));
            if !is_gone(beneath).map_err(failed)? && !walk.found.is_empty() {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<ObjectInfo>,
}

impl Walk<'_> {
    /// `base` is the key of `dir` with a slash at its end, or empty for the root.
    fn enter(&mut self, dir: &Dir, base: &str) -> io::Result<()> {
        for (name, is_dir) in sorted(dir, base.is_empty())? {
            let key = format!("{base}{name}");
            if is_dir {
                let may_match = key.starts_with(self.prefix) || self.prefix.starts_with(&key);
                let is_past = self.after.is_some_and(|after| after > key.as_str() && !after.starts_with(&key));
                if may_match && !is_past {
                    // A directory that was tidied away meanwhile holds nothing.
                    is_gone(dir.open_dir(name.trim_end_matches('/')).and_then(|beneath| self.enter(&beneath, &key)))?;
                }
            } else if key.starts_with(self.prefix)
                && self.after.is_none_or(|after| key.as_str() > after)
                && ObjectKey::parse(&key).is_ok()
                && let Ok(metadata) = dir.symlink_metadata(&name)
            {
                self.found.push(describe(&key, &metadata, None));
            }
            if self.found.len() >= self.limit {
                break;
            }
        }
        Ok(())
    }
}

/// Whether it failed because something vanished meanwhile; other errors stay errors.
fn is_gone(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        result => result.map(|()| false),
    }
}

/// Files and directories in the order of the keys beneath them: a directory sorts as `name/`.
/// Names that are not text, and links, devices and the like, are nothing that we wrote.
fn sorted(dir: &Dir, is_root: bool) -> io::Result<Vec<(String, bool)>> {
    let mut entries = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        let kind = match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind?,
        };
        if kind.is_dir() && !(is_root && name == TEMPORARY) {
            name.push('/');
            entries.push((name, true));
        } else if kind.is_file() {
            entries.push((name, false));
        }
    }
    entries.sort();
    Ok(entries)
}
