//! The way to a ceiling: every directory and link on it, and the file itself, can be changed by root and
//! the file's owner only.

use crate::error::{Error, IoContext, Kind, Result};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Longest ceiling in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Most links that are followed; the kernel follows as many.
const MAX_LINKS: usize = 40;

/// Reads a ceiling whose whole way is safe.
///
/// Errors: `NotFound` when it is not there; `Denied` when somebody else could change it, when it cannot
/// be looked at, or when a link on the way leads nowhere (somebody meant one to be there); `Invalid`
/// when it is no text.
pub(super) fn read_guarded(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).doing(|| format!("find \"{}\"", path.display()))?;
    let (real, on_the_way) = resolve(&absolute)?;
    let file = File::open(&real).doing(|| format!("read the ceiling \"{}\"", path.display()))?;
    let about = file.metadata().doing(|| format!("look at \"{}\"", real.display()))?;
    if !about.is_file() {
        return Err(Error::denied(format!("the ceiling \"{}\" is not a file", path.display())));
    }
    check(path, &real, &about, about.uid(), "the file")?;
    for (place, about) in &on_the_way {
        check(path, place, about, file_owner(&file)?, "the way to it")?;
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).doing(|| format!("read \"{}\"", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(format!("the ceiling \"{}\" is too long", path.display())));
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("the ceiling \"{}\" is not UTF-8", path.display())).because(error))
}

fn file_owner(file: &File) -> Result<u32> {
    file.metadata().map(|about| about.uid()).doing(|| "look at the ceiling".to_owned())
}

/// Who may change it: root, and `owner`. In a directory with the sticky bit others can add, and change
/// nothing that is not theirs.
fn check(ceiling: &Path, place: &Path, about: &Metadata, owner: u32, what: &str) -> Result<()> {
    let mode = about.mode();
    let sticky = about.is_dir() && mode & 0o1000 != 0;
    // The mode of a link means nothing: its directory, which was checked, says who can replace it.
    let open = mode & 0o022 != 0 && !sticky && !about.is_symlink();
    let foreign = about.uid() != 0 && about.uid() != owner;
    if !open && !foreign {
        return Ok(());
    }
    let hint = if open {
        format!("chmod go-w \"{}\"", place.display())
    } else {
        format!("chown root \"{}\"", place.display())
    };
    Err(Error::denied(format!("others can change the ceiling \"{}\"", ceiling.display()))
        .fact("expected", format!("{what} writable by root and its owner only"))
        .fact("got", format!("\"{}\" of user {}, mode {:04o}", place.display(), about.uid(), mode & 0o7777))
        .hint(hint))
}

/// The real path, and everything that decides where it leads: each directory and each link.
fn resolve(path: &Path) -> Result<(PathBuf, Vec<(PathBuf, Metadata)>)> {
    let look = |place: &Path| place.symlink_metadata().doing(|| format!("look at \"{}\"", place.display()));
    let mut rest: VecDeque<OsString> = names(path);
    let mut real = PathBuf::from("/");
    let mut on_the_way = vec![(real.clone(), look(&real)?)];
    let mut n_links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let about = look(&next).map_err(|error| match error.kind() {
            Kind::NotFound if n_links > 0 => nowhere(path, &next),
            _ => error,
        })?;
        if about.is_symlink() {
            n_links += 1;
            if n_links > MAX_LINKS {
                return Err(Error::denied(format!("too many links on the way to \"{}\"", path.display())));
            }
            let target = std::fs::read_link(&next).doing(|| format!("follow \"{}\"", next.display()))?;
            on_the_way.push((next, about));
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
            continue;
        }
        real = next;
        if about.is_dir() {
            on_the_way.push((real.clone(), about));
        }
    }
    Ok((real, on_the_way))
}

/// What is missing behind a link is no missing ceiling: a file system that is not mounted must not turn
/// it off.
fn nowhere(ceiling: &Path, missing: &Path) -> Error {
    Error::denied(format!("the ceiling \"{}\" is a link that leads nowhere", ceiling.display()))
        .fact("missing", format!("\"{}\"", missing.display()))
        .hint("put the ceiling back where the link leads, or remove the link if there is to be none")
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
