//! Directory trees: made with everything that a file system can hold, and compared with each other in
//! everything that a backup keeps.

use crate::wait::wait_until;
use anyhow::{Result, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What one object of a tree is besides its bytes. Access and birth times are nobody's promise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime_ns: i128,
    size: u64,
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything beneath a directory, by its path as bytes.
fn entries(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of a tree") {
            let path = entry.expect("an entry of a tree").path();
            let about = path.symlink_metadata().expect("an entry of a tree");
            let kind = match about.file_type() {
                kind if kind.is_dir() => "dir",
                kind if kind.is_file() => "file",
                kind if kind.is_symlink() => "link",
                _ => "special",
            };
            let key = path.strip_prefix(root).expect("beneath").as_os_str().as_bytes().to_vec();
            let of_file = |value: u64| if kind == "file" { value } else { 0 };
            found.insert(
                key,
                Entry {
                    kind,
                    mode: about.mode(),
                    owner: (about.uid(), about.gid()),
                    mtime_ns: i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec()),
                    size: of_file(about.size()),
                    target: (kind == "link")
                        .then(|| std::fs::read_link(&path).expect("a link").into_os_string().into_vec()),
                    xattrs: if matches!(kind, "file" | "dir") { xattrs(&path) } else { BTreeMap::new() },
                },
            );
            if kind == "dir" {
                folders.push(path);
            }
        }
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let n = rustix::fs::llistxattr(path, names.as_mut_slice()).expect("extended attributes");
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).expect("an extended attribute");
        value.truncate(n);
        value
    };
    names[..n].split(|b| *b == 0).filter(|name| !name.is_empty()).map(|name| (name.to_vec(), value(name))).collect()
}

/// What differs between two trees in names, kinds, modes, owners, times, links, extended attributes and
/// bytes. Sockets, pipes and devices of the first, which have no bytes, are passed over.
pub fn differences(expected: &Path, got: &Path) -> Vec<String> {
    let (before, mut after) = (entries(expected), entries(got));
    let mut found = Vec::new();
    for (key, entry) in before.iter().filter(|(_, entry)| entry.kind != "special") {
        let shown = String::from_utf8_lossy(key).chars().take(80).collect::<String>();
        match after.remove(key) {
            None => found.push(format!("{shown:?} is missing")),
            Some(other) if other != *entry => found.push(format!("{shown:?} is {other:?} instead of {entry:?}")),
            Some(_) if entry.kind == "file" => {
                let name = OsStr::from_bytes(key);
                if !same_bytes(&expected.join(name), &got.join(name)) {
                    found.push(format!("{shown:?} has other bytes"));
                }
            }
            Some(_) => {}
        }
    }
    found.extend(after.keys().map(|key| format!("{:?} is new", String::from_utf8_lossy(key))));
    found
}

/// Compares two files of the same size; where both are holes there is nothing to read.
fn same_bytes(one: &Path, other: &Path) -> bool {
    let (one, other) = (File::open(one).expect("a file"), File::open(other).expect("a file"));
    let len = one.metadata().expect("a file").len();
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        at = next_data(&one, at, len).min(next_data(&other, at, len));
        let n = usize::try_from(len - at).unwrap_or(usize::MAX).min(left.len());
        if n == 0 {
            return true;
        }
        one.read_exact_at(&mut left[..n], at).expect("bytes of a file");
        other.read_exact_at(&mut right[..n], at).expect("bytes of a file");
        if left[..n] != right[..n] {
            return false;
        }
        at += n as u64;
    }
}

/// Where the next bytes are that are no hole.
fn next_data(file: &File, at: u64, len: u64) -> u64 {
    if at == len { len } else { rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)).unwrap_or(len) }
}

/// How many objects lie beneath a directory.
pub fn count(root: &Path) -> usize {
    entries(root).len()
}

/// Sets the time of the last change of a file, directory or link.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("the time of a file");
}

/// Sets an extended attribute.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("an extended attribute");
}

/// Makes a file of `len` bytes that do not compress and are the same every time.
pub fn noise(path: &Path, len: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 20);
    let file = File::create(path).expect("a file");
    for at in (0..len).step_by(1 << 20) {
        block.clear();
        while block.len() < (len - at).min(1 << 20) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate((len - at).min(1 << 20));
        file.write_all_at(&block, at as u64).expect("bytes of a file");
    }
}

/// Makes a file of `len` bytes that are a hole but for a few at the given places.
pub fn sparse(path: &Path, len: u64, places: &[(u64, &[u8])]) {
    let file = File::create(path).expect("a file");
    file.set_len(len).expect("the size of a file");
    for (at, bytes) in places {
        file.write_all_at(bytes, *at).expect("bytes of a file");
    }
}

/// Makes `n` files of `len` bytes in folders of 1,000, every one with bytes of its own.
pub fn many(root: &Path, n: usize, len: usize) {
    for i in 0..n {
        let folder = root.join(format!("{:03}", i / 1_000));
        if i.is_multiple_of(1_000) {
            std::fs::create_dir(&folder).expect("a folder");
        }
        let line = format!("{i:09} of many small files\n");
        let bytes: Vec<u8> = line.bytes().cycle().take(len).collect();
        std::fs::write(folder.join(format!("{i:06}.txt")), bytes).expect("a file");
    }
}

/// Stops the process `pid` while it is in the middle of reading `path`, calls `change`, and lets it go on.
pub fn while_reading(pid: i32, path: &Path, change: impl FnOnce()) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let process = Pid::from_raw(pid).expect("the id of a process");
    let len = path.metadata()?.len();
    let mut change = Some(change);
    // Without a pause that grows: the file is being read for some hundred milliseconds only.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(fd) = descriptor(pid, path) {
            kill_process(process, Signal::STOP)?;
            wait_until("the process stands still", Duration::from_secs(10), || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
                Ok(stat.contains(") T ").then_some(()))
            })?;
            let at = position(pid, &fd);
            let inside = at.is_some_and(|at| 0 < at && at < len);
            if let Some(change) = change.take_if(|_| inside) {
                change();
            }
            kill_process(process, Signal::CONT)?;
            if inside {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("process {pid} was never seen reading {}", path.display())
}

/// The number of an open descriptor of a file.
fn descriptor(pid: i32, path: &Path) -> Option<PathBuf> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let found = open.flatten().find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path))?;
    Some(found.file_name().into())
}

/// How far it has been read.
fn position(pid: i32, fd: &Path) -> Option<u64> {
    let info = std::fs::read_to_string(Path::new(&format!("/proc/{pid}/fdinfo")).join(fd)).ok()?;
    info.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_differ_in_anything_that_was_changed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [one.path(), other.path()] {
            std::fs::write(dir.join("a"), "bytes").unwrap();
            set_mtime(&dir.join("a"), 7, 9);
            std::os::unix::fs::symlink("nowhere", dir.join("l")).unwrap();
            set_mtime(&dir.join("l"), -1, 999_999_999);
        }
        let check = |found: &[&str]| {
            let got = differences(one.path(), other.path());
            let same = got.len() == found.len() && got.iter().zip(found).all(|(got, text)| got.contains(text));
            assert!(same, "{got:?}");
        };
        check(&[]);
        std::fs::write(other.path().join("a"), "bites").unwrap();
        check(&["mtime_ns"]);
        set_mtime(&other.path().join("a"), 7, 9);
        check(&["\"a\" has other bytes"]);
        std::fs::remove_file(other.path().join("a")).unwrap();
        std::fs::write(other.path().join("b"), "").unwrap();
        check(&["\"a\" is missing", "\"b\" is new"]);
        assert_eq!((count(one.path()), count(other.path())), (2, 2));
    }
}
