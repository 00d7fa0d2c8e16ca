//! The file itself: read only if nobody else can write it, replaced as a whole or not at all.

use crate::error::{Error, IoContext, Result};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest configuration in bytes; far more than people write.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a configuration.
///
/// Who can write it can run commands as this user, so it is refused when others can: the file or
/// its directory writable by others, or by a group that is not its owner's own (same number, as
/// most systems make them). In a directory with the sticky bit, such as `/tmp`, the file must
/// belong to this user or to root.
///
/// Errors: `NotFound`, `Denied`, `Invalid` (not UTF-8, too long, not a file).
pub fn read_guarded(path: &Path) -> Result<String> {
    let file = File::open(path).doing(|| format!("read the configuration \"{}\"", path.display()))?;
    let about = file.metadata().doing(|| format!("look at \"{}\"", path.display()))?;
    if !about.is_file() {
        return Err(Error::invalid(format!("the configuration \"{}\" is not a file", path.display())));
    }
    let directory = directory_of(path)?;
    let around = std::fs::metadata(&directory).doing(|| format!("look at \"{}\"", directory.display()))?;
    guard(path, &about, "chmod go-w")?;
    let sticky = around.mode() & 0o1000 != 0;
    if !sticky {
        guard(&directory, &around, "chmod go-w")?;
    } else if around.mode() & 0o022 != 0 && ![0, rustix::process::geteuid().as_raw()].contains(&about.uid()) {
        return Err(Error::denied(format!("the configuration \"{}\" belongs to somebody else", path.display()))
            .fact("expected", "a file of this user or of root, since anybody can put files there")
            .fact("got", format!("a file of user {}", about.uid()))
            .hint("move it into a directory of your own"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).doing(|| format!("read \"{}\"", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(format!("the configuration \"{}\" is too long", path.display()))
            .fact("expected", format!("at most {}", crate::unit::bytes(MAX_BYTES))));
    }
    String::from_utf8(bytes).map_err(|error| {
        Error::invalid(format!("the configuration \"{}\" is not UTF-8", path.display()))
            .fact("got", format!("another byte at offset {}", error.utf8_error().valid_up_to()))
    })
}

fn guard(path: &Path, about: &Metadata, command: &str) -> Result<()> {
    let mode = about.mode();
    let own_group = about.gid() == about.uid();
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && !own_group) {
        return Err(Error::denied(format!("others can write \"{}\"", path.display()))
            .fact("expected", "a configuration that only its owner can write")
            .fact("got", format!("mode {:04o}, group {}", mode & 0o7777, about.gid()))
            .hint(format!("{command} \"{}\"", path.display())));
    }
    Ok(())
}

/// The directory of a file, absolute, with links followed.
pub fn directory_of(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize().doing(|| format!("find \"{}\"", path.display()))?;
    Ok(real.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Replaces a file that still holds `old` with `new`: a temporary file beside it, synced, renamed
/// over it, and the directory synced. Mode and owner stay. After an error the file is as it was.
///
/// Errors: `Conflict` when the file changed meanwhile; those of the file system.
pub fn replace(path: &Path, old: &str, new: &str) -> Result<()> {
    let real = path.canonicalize().doing(|| format!("find \"{}\"", path.display()))?;
    let directory = directory_of(&real)?;
    let what = || format!("replace \"{}\"", real.display());
    let about = std::fs::metadata(&real).doing(what)?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".strongroom.")
        .suffix(".toml")
        .tempfile_in(&directory)
        .doing(|| format!("create a file in \"{}\"", directory.display()))?;
    temporary.write_all(new.as_bytes()).doing(what)?;
    let ours = temporary.as_file().metadata().doing(what)?;
    if (ours.uid(), ours.gid()) != (about.uid(), about.gid()) {
        std::os::unix::fs::fchown(temporary.as_file(), Some(about.uid()), Some(about.gid())).doing(what)?;
    }
    let mode = std::fs::Permissions::from_mode(about.mode() & 0o7777);
    temporary.as_file().set_permissions(mode).doing(what)?;
    temporary.as_file().sync_all().doing(what)?;
    let now = std::fs::read(&real).doing(what)?;
    if now != old.as_bytes() {
        return Err(Error::conflict(format!("\"{}\" changed meanwhile", real.display())).hint("run the command again"));
    }
    temporary.persist(&real).map_err(|error| error.error).doing(what)?;
    File::open(&directory).and_then(|directory| directory.sync_all()).doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn scratch(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("strongroom.toml");
        std::fs::write(&path, text).unwrap();
        chmod(&path, 0o644);
        (directory, path)
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_and_the_message_says_how_to_change_that() {
        let (_directory, path) = scratch("");
        chmod(&path, 0o646);
        let error = read_guarded(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.hint_text().unwrap().starts_with("chmod go-w"), "{error:?}");
        chmod(&path, 0o644);
        assert_eq!(read_guarded(&path).unwrap(), "");
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let (directory, path) = scratch("");
        chmod(directory.path(), 0o707);
        assert_eq!(read_guarded(&path).unwrap_err().kind(), Kind::Denied);
        chmod(directory.path(), 0o1777);
        assert!(read_guarded(&path).is_ok(), "with the sticky bit others cannot replace our file");
        chmod(directory.path(), 0o700);
    }

    #[test]
    fn what_is_missing_or_no_file_or_no_text_is_told_apart() {
        let (directory, path) = scratch("");
        assert_eq!(read_guarded(&directory.path().join("other.toml")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(read_guarded(directory.path()).unwrap_err().kind(), Kind::Invalid);
        std::fs::write(&path, [b'#', 0xff]).unwrap();
        assert_eq!(read_guarded(&path).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn replacing_keeps_the_mode_and_leaves_no_other_file() {
        let (directory, path) = scratch("old");
        chmod(&path, 0o600);
        replace(&path, "old", "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_not_replaced() {
        let (directory, path) = scratch("somebody else's");
        assert_eq!(replace(&path, "old", "new").unwrap_err().kind(), Kind::Conflict);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody else's");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let (directory, path) = scratch("old");
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "old", "new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
