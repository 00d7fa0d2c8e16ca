//! What is on the disk, and what only in the memory of the machine: a model fed with the system calls of a
//! real run, as `strace` saw them. At every moment it assumes the worst power cut: bytes that were not
//! flushed are gone, and so is a name whose folder was not flushed after it was made; or, where that would be
//! worse, the name is there already.
//!
//! It knows nothing of the order in which a kernel writes by itself: what no flush demands did not happen.

use crate::{Sandbox, host_binary, program};
use anyhow::{Context, Result, bail};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Calls that change files, names, or what is on the disk.
const CALLS: &str = "openat,openat2,write,pwrite64,pwritev,pwritev2,writev,ftruncate,fsync,fdatasync,syncfs,\
                     rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir";

/// How much of what is written is kept: a line of the audit log says by then what it is about.
const SHOWN_BYTES: &str = "600";

/// Something that a process did, in the order in which it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new, empty file.
    Create(PathBuf),
    /// Bytes or length of a file changed; the beginning of what was written, as `strace` escapes it.
    Write(PathBuf, String),
    /// A file, or the names in a folder, are on the disk.
    Flush(PathBuf),
    /// Everything is.
    FlushAll,
    /// A file or folder has another name.
    Rename(PathBuf, PathBuf),
    /// A file has a second name.
    Link(PathBuf, PathBuf),
    /// A name is gone.
    Remove(PathBuf),
    /// A folder was made.
    Folder(PathBuf),
}

/// Runs `strongroom` with these arguments and returns what it did to the disk, itself and not its children.
/// Fails unless it ends with `code`.
pub fn traced(sandbox: &Sandbox, args: &[&str], broken: Option<&str>, code: i32) -> Result<Vec<Event>> {
    let log = sandbox.path("strace.log");
    let host = host_binary()?;
    let mut line: Vec<String> =
        ["-f", "-y", "-s", SHOWN_BYTES, "-e", &format!("trace={CALLS}"), "-e", "signal=none", "-o"]
            .map(str::to_owned)
            .into();
    line.push(log.display().to_string());
    line.push(host.display().to_string());
    line.extend(args.iter().map(|arg| (*arg).to_owned()));
    let mut command = sandbox.command(program("strace")?, line);
    if let Some(broken) = broken {
        command = command.env("STRONGROOM_BREAK", broken);
    }
    let output = command.run();
    if output.code != Some(code) {
        bail!("expected exit code {code} of {args:?} under strace, got {output:?}");
    }
    let text = std::fs::read_to_string(&log).with_context(|| format!("could not read {}", log.display()))?;
    std::fs::remove_file(&log)?;
    events(&text, sandbox.dir())
}

/// The events beneath `dir` in what `strace -f -y` wrote. A call that was interrupted by another thread's
/// counts when it came back; one that failed did nothing.
pub fn events(text: &str, dir: &Path) -> Result<Vec<Event>> {
    let call = Regex::new(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")?;
    let begun = Regex::new(r"^(\d+) +(.*) <unfinished \.\.\.>$")?;
    let back = Regex::new(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")?;
    let mut open: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(parts) = begun.captures(line) {
            open.insert(parts[1].to_owned(), line.trim_end_matches(" <unfinished ...>").to_owned());
            continue;
        }
        let whole = match back.captures(line) {
            Some(parts) => match open.remove(&parts[1]) {
                Some(beginning) => format!("{beginning}{}", &parts[2]),
                None => continue,
            },
            None => line.to_owned(),
        };
        let Some(parts) = call.captures(&whole) else { continue };
        if parts[4].starts_with('-') {
            continue;
        }
        let answer = parts.get(5).map(|path| PathBuf::from(path.as_str()));
        found.extend(event(&parts[2], &paths(&parts[3])?, &parts[3], answer));
    }
    let inside = |path: &Path| path.starts_with(dir);
    found.retain(|event| match event {
        Event::Create(path) | Event::Write(path, _) | Event::Flush(path) => inside(path),
        Event::Remove(path) | Event::Folder(path) => inside(path),
        Event::Rename(_, to) | Event::Link(_, to) => inside(to),
        Event::FlushAll => true,
    });
    Ok(found)
}

/// Paths in a list of arguments: `3</a/b>, "c"` is `/a/b/c`, `"/c"` is `/c`, and `3</a/b>` alone is `/a/b`.
fn paths(arguments: &str) -> Result<Vec<PathBuf>> {
    let path = Regex::new(r#"(?:(?:\d+|AT_FDCWD)<([^>]*)>)?(?:(?:, )?"((?:[^"\\]|\\.)*)")?"#)?;
    let mut found = Vec::new();
    for parts in path.captures_iter(arguments) {
        match (parts.get(1), parts.get(2)) {
            (Some(folder), Some(name)) => found.push(Path::new(folder.as_str()).join(name.as_str())),
            (Some(alone), None) | (None, Some(alone)) => found.push(alone.as_str().into()),
            (None, None) => {}
        }
    }
    Ok(found)
}

fn event(call: &str, paths: &[PathBuf], arguments: &str, answer: Option<PathBuf>) -> Option<Event> {
    let first = paths.first().cloned();
    Some(match call {
        "openat" | "openat2" if arguments.contains("O_CREAT") => Event::Create(answer?),
        "write" | "pwrite64" | "pwritev" | "pwritev2" | "writev" | "ftruncate" => {
            let (file, written) = arguments.split_once('>')?;
            Event::Write(file.split_once('<')?.1.into(), written.to_owned())
        }
        "fsync" | "fdatasync" => Event::Flush(first?),
        "syncfs" => Event::FlushAll,
        "rename" | "renameat" | "renameat2" => Event::Rename(first?, paths.get(1)?.clone()),
        "link" | "linkat" => Event::Link(first?, paths.get(1)?.clone()),
        "unlink" | "unlinkat" | "rmdir" => Event::Remove(first?),
        "mkdir" | "mkdirat" => Event::Folder(first?),
        _ => return None,
    })
}

/// Files and names, and which of them a power cut would take.
#[derive(Debug, Default)]
pub struct Disk {
    /// Files with bytes that were not flushed.
    dirty: BTreeSet<PathBuf>,
    /// Names that were made and whose folder was not flushed since.
    unsure: BTreeSet<PathBuf>,
    /// Names that were removed and whose folder was not flushed since.
    lingering: BTreeSet<PathBuf>,
    /// Every name that was made and is there.
    there: BTreeSet<PathBuf>,
}

impl Disk {
    /// Takes note of what happened.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => {
                if self.there.insert(path.clone()) {
                    self.unsure.insert(path.clone());
                }
            }
            Event::Folder(path) => {
                self.there.insert(path.clone());
                self.unsure.insert(path.clone());
            }
            Event::Write(path, _) => drop(self.dirty.insert(path.clone())),
            Event::Flush(path) => {
                self.dirty.remove(path);
                self.unsure.retain(|name| name.parent() != Some(path));
                self.lingering.retain(|name| name.parent() != Some(path));
            }
            Event::FlushAll => {
                self.dirty.clear();
                self.unsure.clear();
                self.lingering.clear();
            }
            Event::Rename(from, to) => {
                self.forget(from);
                if self.dirty.remove(from) {
                    self.dirty.insert(to.clone());
                }
                self.there.insert(to.clone());
                self.unsure.insert(to.clone());
            }
            Event::Link(from, to) => {
                if self.dirty.contains(from) {
                    self.dirty.insert(to.clone());
                }
                self.there.insert(to.clone());
                self.unsure.insert(to.clone());
            }
            Event::Remove(path) => {
                self.forget(path);
                self.dirty.remove(path);
                self.lingering.insert(path.clone());
            }
        }
    }

    fn forget(&mut self, path: &Path) {
        self.there.remove(path);
        self.unsure.remove(path);
    }

    /// Whether a power cut now would leave this file as it is: its bytes, its name, and every folder above
    /// it that was made.
    pub fn survives(&self, path: &Path) -> bool {
        !self.dirty.contains(path) && path.ancestors().all(|name| !self.unsure.contains(name))
    }

    /// Whether a power cut now might bring back a name that was removed.
    pub fn may_come_back(&self, path: &Path) -> bool {
        self.lingering.contains(path)
    }

    /// Names that are there, beneath `dir`.
    pub fn beneath<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.there.iter().map(PathBuf::as_path).filter(move |path| path.starts_with(dir))
    }
}

/// What a power cut at some moment of this run would break, in a local store at `store`. `also` are files
/// without which a record is worth nothing, such as the host's key.
///
/// - No object has its name before its bytes are on the disk.
/// - A record has its name only when everything beside it, and `also`, would survive.
/// - Nothing of a backup is removed while its record might come back.
/// - At the end everything survives.
pub fn broken_by_a_power_cut(events: &[Event], store: &Path, also: &[PathBuf]) -> Vec<String> {
    let temporary = store.join(strongroom::store::local::TEMPORARY);
    let is_object = |path: &Path| path.starts_with(store) && !path.starts_with(&temporary);
    let show = |path: &Path| path.strip_prefix(store).unwrap_or(path).display().to_string();
    let mut disk = Disk::default();
    let mut found = Vec::new();
    for event in events {
        let (named, from) = match event {
            Event::Rename(from, to) | Event::Link(from, to) => (Some(to), Some(from)),
            Event::Create(path) => (Some(path), None),
            _ => (None, None),
        };
        if let Some(to) = named.filter(|to| is_object(to)) {
            if from.is_none_or(|from| disk.dirty.contains(from)) {
                found.push(format!("{} has its name before its bytes are on the disk", show(to)));
            }
            if to.file_name().is_some_and(|name| name == "record.json") {
                let beside = disk.beneath(store).filter(|path| is_object(path)).map(Path::to_path_buf);
                for path in beside.chain(also.iter().cloned()).filter(|path| !disk.survives(path)) {
                    found.push(format!("{} has its name while {} may be lost", show(to), show(&path)));
                }
            }
        }
        if let Event::Remove(path) = event
            && is_object(path)
            && let Some(record) = record_of(store, path).filter(|record| record != path)
            && disk.may_come_back(&record)
        {
            found.push(format!("{} is removed while {} may come back", show(path), show(&record)));
        }
        disk.apply(event);
    }
    let at_the_end = disk.beneath(store).filter(|path| is_object(path)).map(Path::to_path_buf);
    let lost: Vec<_> = at_the_end.chain(also.iter().cloned()).filter(|path| !disk.survives(path)).collect();
    found.extend(lost.iter().map(|path| format!("{} may be lost after the end", show(path))));
    found
}

/// The record of the backup that an object belongs to: `<job>/<id>/record.json`.
fn record_of(store: &Path, object: &Path) -> Option<PathBuf> {
    let mut parts = object.strip_prefix(store).ok()?.components();
    let (job, id) = (parts.next()?, parts.next()?);
    Some(store.join(job).join(id).join("record.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "/s";

    fn path(name: &str) -> PathBuf {
        Path::new(STORE).join(name)
    }

    /// A segment and its record, each step in the right order.
    fn right() -> Vec<Event> {
        let put = |name: &str, folder: &str| {
            [
                Event::Create(path(".tmp/1")),
                Event::Write(path(".tmp/1"), String::new()),
                Event::Flush(path(".tmp/1")),
                Event::Rename(path(".tmp/1"), path(name)),
                Event::Flush(path(folder)),
            ]
        };
        let mut events = vec![
            Event::Folder(path("j")),
            Event::Flush(path("")),
            Event::Folder(path("j/b")),
            Event::Flush(path("j")),
            Event::Folder(path("j/b/data")),
            Event::Flush(path("j/b")),
        ];
        events.extend(put("j/b/data/a.0001", "j/b/data"));
        events.extend(put("j/b/record.json", "j/b"));
        events
    }

    #[test]
    fn the_right_order_survives_and_without_any_one_flush_something_may_be_lost() {
        let store = Path::new(STORE);
        assert_eq!(broken_by_a_power_cut(&right(), store, &[]), Vec::<String>::new());
        let flushes: Vec<_> =
            right().iter().enumerate().filter(|(_, e)| matches!(e, Event::Flush(_))).map(|(i, _)| i).collect();
        assert_eq!(flushes.len(), 7);
        for i in flushes {
            let mut events = right();
            let left_out = events.remove(i);
            // A later flush of the same folder makes up for the one of `j/b` only after the record's name.
            assert!(!broken_by_a_power_cut(&events, store, &[]).is_empty(), "without {left_out:?}");
        }
    }

    #[test]
    fn data_is_not_removed_while_its_record_may_come_back() {
        let store = Path::new(STORE);
        let mut events = right();
        events.extend([
            Event::Remove(path("j/b/record.json")),
            Event::Flush(path("j/b")),
            Event::Remove(path("j/b/data/a.0001")),
            Event::Flush(path("j/b/data")),
        ]);
        assert_eq!(broken_by_a_power_cut(&events, store, &[]), Vec::<String>::new());
        events.remove(events.len() - 3);
        let found = broken_by_a_power_cut(&events, store, &[]);
        assert_eq!(found, ["j/b/data/a.0001 is removed while j/b/record.json may come back"]);
    }

    #[test]
    fn calls_are_read_with_their_folders_and_threads_are_put_together() {
        let text = "\
1 openat2(5</s/.tmp>, \"k\", {flags=O_RDWR|O_CREAT|O_EXCL, mode=0600, resolve=RESOLVE_BENEATH}, 24) = 7</s/.tmp/k>
2 pwrite64(7</s/.tmp/k>, \"{\\\"a\\\": \\\"</b>\\\"\"..., 50, 0 <unfinished ...>
1 mkdir(\"/s/j\", 0700) = 0
2 <... pwrite64 resumed>) = 50
1 mkdirat(5</s/j>, \"b\", 0700) = -1 EEXIST (File exists)
1 renameat2(5</s/.tmp>, \"k\", 6</s/j>, \"r\", RENAME_NOREPLACE) = 0
1 fsync(6</s/j>) = 0
1 write(1</elsewhere>, \"\"..., 3) = 3
1 unlinkat(5</s/.tmp>, \"k.key\", 0) = 0
";
        let expected = [
            Event::Create(path(".tmp/k")),
            Event::Folder(path("j")),
            Event::Write(path(".tmp/k"), ", \"{\\\"a\\\": \\\"</b>\\\"\"..., 50, 0".to_owned()),
            Event::Rename(path(".tmp/k"), path("j/r")),
            Event::Flush(path("j")),
            Event::Remove(path(".tmp/k.key")),
        ];
        assert_eq!(events(text, Path::new(STORE)).unwrap(), expected);
    }
}
