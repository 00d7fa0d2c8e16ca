//! The scratch directory of a run: empty at its start, gone at its end. A guest that is granted one has
//! its own, beside that of the commands: neither sees what the other writes.

use crate::error::{Error, IoContext, Result};
use crate::exec::RunIn;
use crate::failpoint::{self, Point};
use crate::id::BackupId;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the names of scratch directories begin with; a later run removes those of dead runs.
const PREFIX: &str = "strongroom-";
/// What the name of a guest's directory ends in, after that of its run.
const GUEST: &str = "guest";

/// A directory that is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guest: Option<PathBuf>,
    // Held while the run lives: a directory whose lock is free belongs to a dead run.
    _lock: std::fs::File,
}

impl Scratch {
    /// Makes the directory beneath `root`, mode 0700, owned by the user that commands run as, and
    /// removes those that dead runs left there.
    pub fn make(root: &Path, run: &BackupId, run_in: &RunIn) -> Result<Self> {
        std::fs::create_dir_all(root).doing(|| format!("make \"{}\"", root.display()))?;
        remove_dead(root);
        // Short, since it may hold a Unix socket, whose path is limited to 107 bytes.
        let name = format!("{PREFIX}{}", &run.as_str()[17..]);
        let lock_path = root.join(format!("{name}.lock"));
        let lock = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path)
            .doing(|| format!("make \"{}\"", lock_path.display()))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .doing(|| format!("lock \"{}\"", lock_path.display()))?;
        let path = root.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).doing(|| format!("make \"{}\"", path.display()))?;
        let scratch = Self { path, guest: None, _lock: lock };
        failpoint::reach(Point::ScratchMade);
        if let RunIn::Local { user: Some(user) } = run_in {
            let (uid, gid) = crate::exec::user_ids(user)?;
            std::os::unix::fs::chown(&scratch.path, Some(uid), Some(gid))
                .doing(|| format!("give \"{}\" to user \"{user}\"", scratch.path.display()))?;
            let mode = std::fs::metadata(root)
                .doing(|| format!("read the mode of \"{}\"", root.display()))?
                .permissions()
                .mode();
            if mode & 0o001 == 0 {
                return Err(Error::denied(format!(
                    "user \"{user}\" cannot reach the scratch directory \"{}\"",
                    scratch.path.display()
                ))
                .fact("got", format!("mode {:04o} of \"{}\"", mode & 0o7777, root.display()))
                .hint("set TMPDIR to a place that others may enter, such as /var/tmp"));
            }
        }
        Ok(scratch)
    }

    /// Makes the directory of the guest, mode 0700, which goes with this one.
    pub fn make_for_guest(&mut self) -> Result<PathBuf> {
        let path = self.path.with_extension(GUEST);
        std::fs::DirBuilder::new().mode(0o700).create(&path).doing(|| format!("make \"{}\"", path.display()))?;
        self.guest = Some(path.clone());
        failpoint::reach(Point::ScratchMade);
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the scratch directory");
        }
        if let Some(guest) = &self.guest
            && let Err(error) = remove_guest(guest)
        {
            tracing::warn!(path = %guest.display(), %error, "could not remove the plugin's scratch directory");
        }
        let _gone_or_removed_later = std::fs::remove_file(self.path.with_extension("lock"));
    }
}

/// Removes the directory of a guest, however deep that has nested others in it: each is brought up to the
/// top before it is emptied, so that no path is long and one directory is open at a time.
///
/// Only for a directory that nobody else writes into: it goes by names.
fn remove_guest(top: &Path) -> std::io::Result<()> {
    let about = std::fs::symlink_metadata(top)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(std::io::Error::other("it is not a directory of this user"));
    }
    let mut n_moved = 0_u64;
    loop {
        let folders = remove_files(top)?;
        if folders.is_empty() {
            return std::fs::remove_dir(top);
        }
        for folder in folders {
            for inner in remove_files(&folder)? {
                // A name that the guest has taken itself is passed over.
                let free = loop {
                    n_moved += 1;
                    let name = top.join(format!("{n_moved}"));
                    if std::fs::symlink_metadata(&name).is_err() {
                        break name;
                    }
                };
                std::fs::rename(&inner, &free)?;
            }
            std::fs::remove_dir(&folder)?;
        }
    }
}

/// Removes what is no directory in a directory, and gives the directories.
fn remove_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(folders)
}

fn remove_dead(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_lock = path.extension().is_some_and(|e| e == "lock");
        if !is_lock || !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // In a directory that others may write to, a name may be anything: only a plain file of ours counts.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(lock) = rustix::fs::open(&path, flags, Mode::empty()).map(std::fs::File::from) else { continue };
        let ours = |about: std::fs::Metadata| about.is_file() && about.uid() == rustix::process::geteuid().as_raw();
        if !lock.metadata().is_ok_and(ours) {
            continue;
        }
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Gone first: as long as the lock's file is there, another run tries again.
            let guest = remove_guest(&path.with_extension(GUEST));
            if guest.is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound) {
                continue;
            }
            let removed = std::fs::remove_dir_all(path.with_extension(""));
            if removed.as_ref().is_ok_and(|()| true) || removed.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
            {
                let _best_effort = std::fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_empty_private_and_gone_at_the_end_and_dead_runs_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let id = |c: char| -> BackupId { format!("20261120T020000Z-{}", c.to_string().repeat(8)).parse().unwrap() };
        let local = RunIn::Local { user: None };
        let dead = root.path().join("strongroom-dddddddd");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("left"), "x").unwrap();
        let dead_guest = root.path().join("strongroom-dddddddd.guest");
        std::fs::create_dir(&dead_guest).unwrap();
        std::fs::write(dead_guest.join("left"), "x").unwrap();
        std::fs::write(root.path().join("strongroom-dddddddd.lock"), "").unwrap();
        let first = Scratch::make(root.path(), &id('a'), &local).unwrap();
        assert!(!dead_guest.exists(), "what the guest of a dead run left is removed");
        assert!(!dead.exists(), "what a dead run left is removed");
        let second = Scratch::make(root.path(), &id('b'), &local).unwrap();
        assert!(first.path().exists(), "a living run's is not");
        assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let mut second = second;
        let guest = second.make_for_guest().unwrap();
        assert_eq!(std::fs::metadata(&guest).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir(guest.join("1")).unwrap();
        std::fs::write(guest.join("1/file"), "x").unwrap();
        drop((first, second));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_a_guest_has_nested_deeper_than_any_path_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("guest");
        std::fs::create_dir(&top).unwrap();
        let mut at = std::fs::File::open(&top).unwrap();
        // 3000 levels: more than files may be open, and with this name 300 KB of path.
        let name = "d".repeat(100);
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap().into();
        }
        std::os::unix::fs::symlink("/etc", top.join("link")).unwrap();
        remove_guest(&top).unwrap();
        assert!(!top.exists() && Path::new("/etc/passwd").exists());

        let target = root.path().join("target");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&target, root.path().join("planted")).unwrap();
        remove_guest(&root.path().join("planted")).unwrap_err();
        assert!(target.join("kept").exists(), "a link in its place is not followed");
    }
}
