//! The index of chains: a chain of signed lines that says which files there are, with which first and
//! last hash, and a signed head that says how long it is.
//!
//! Everything here happens under one lock (`flock` on `lock`), for a short time. The head is written
//! after the index, so a crash leaves an index that is longer than its head says, never a shorter one.

use super::chain::{Chain, Ends, now};
use super::line::{Event, Line, hash, unsealed};
use super::verify::{self, State};
use super::{Beginning, Configuration, Keys, Log};
use crate::catalog::PublicKey;
use crate::error::{Error, IoContext, Kind, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Hash that stands before the first line of the index.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const PURPOSE_ENTRY: &[u8] = b"strongroom audit index 1\n";
const PURPOSE_HEAD: &[u8] = b"strongroom audit head 1\n";
const SIG: &[u8] = b",\"sig\":\"";
const END: &[u8] = b"\"}";
/// Letters of an Ed25519 signature in base64url without padding.
const SIG_LETTERS: usize = 86;
/// Configurations that the head remembers; the one that was used longest ago goes first.
const MAX_CONFIGURATIONS: usize = 16;
/// A line of the index is far shorter, in bytes.
const MAX_ENTRY_BYTES: u64 = 8 << 10;

/// A line of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) at: Timestamp,
    pub(super) event: EntryEvent,
    pub(super) run: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verb: Option<String>,
    pub(super) lines: u64,
    pub(super) first: String,
    pub(super) last: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) sig: String,
}

/// What a line of the index tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EntryEvent {
    /// A chain was begun.
    Open,
    /// It was closed, by its run or by the next one.
    Close,
    /// It was found broken after its run was killed: nothing is added to it any more.
    Broken,
    /// Its file was removed because it was old.
    Removed,
}

/// How long the index is, and what the next run needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) last: String,
    /// Runs whose chains are open.
    pub(super) open: Vec<String>,
    /// Lines of the index that a committed record anchors.
    pub(super) anchored: u64,
    /// Keyed hashes of the sections of configurations that runs were made with.
    pub(super) configurations: Vec<Seen>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) sig: String,
}

/// A configuration that a run was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) sections: BTreeMap<String, String>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            lines: 0,
            bytes: 0,
            last: GENESIS.to_owned(),
            open: Vec::new(),
            anchored: 0,
            configurations: Vec::new(),
            sig: String::new(),
        }
    }
}

impl Entry {
    /// Checks a line by itself and reads it. The error says what is wrong.
    pub(super) fn open(text: &[u8], public: &PublicKey) -> Result<Self, String> {
        check_signed(text, PURPOSE_ENTRY, public)?;
        serde_json::from_slice(text).map_err(|error| format!("it is not a line that this version reads: {error}"))
    }
}

impl Head {
    /// Checks the head and reads it.
    pub(super) fn open(text: &[u8], public: &PublicKey) -> Result<Self, String> {
        let text = text.strip_suffix(b"\n").ok_or("it does not end in a newline")?;
        check_signed(text, PURPOSE_HEAD, public)?;
        serde_json::from_slice(text).map_err(|error| format!("it is not what this version reads: {error}"))
    }

    /// Takes the effect of a line of the index over.
    fn take(&mut self, entry: &Entry, bytes: u64, hash: String) {
        self.lines = entry.seq;
        self.bytes += bytes;
        self.last = hash;
        self.open.retain(|run| *run != entry.run);
        if entry.event == EntryEvent::Open {
            self.open.push(entry.run.clone());
        }
    }
}

/// `value` and a signature as its last member.
fn sign(value: &impl Serialize, purpose: &[u8], keys: &Keys) -> Result<Vec<u8>> {
    let host = keys.host.as_ref().ok_or_else(|| Error::failed("the index is signed by its host only"))?;
    let mut text = unsealed(value)?;
    let signature = host.sign(&[purpose, &text].concat());
    text.extend_from_slice(SIG);
    text.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
    text.extend_from_slice(END);
    Ok(text)
}

fn check_signed(text: &[u8], purpose: &[u8], public: &PublicKey) -> Result<(), String> {
    let ending = SIG.len() + SIG_LETTERS + END.len();
    let at = text.len().checked_sub(ending).ok_or("it is too short to be signed")?;
    let (unsigned, ending) = text.split_at(at);
    let letters = ending.strip_prefix(SIG).and_then(|rest| rest.strip_suffix(END));
    let signature = letters.and_then(|letters| URL_SAFE_NO_PAD.decode(letters).ok());
    let signature = signature.ok_or("it does not end in a signature")?;
    if public.verifies(&[purpose, unsigned].concat(), &signature) {
        return Ok(());
    }
    Err("its signature is not of these bytes: it was changed, or not written by this host".to_owned())
}

/// The files of an index.
pub(super) struct Index {
    dir: PathBuf,
    keys: Arc<Keys>,
}

/// The index while its lock is held.
pub(super) struct Locked {
    dir: PathBuf,
    keys: Arc<Keys>,
    head: Head,
    _lock: File,
}

/// Where the index of a log lies.
pub(super) fn index_file(dir: &Path) -> PathBuf {
    dir.join("index.jsonl")
}

/// Where its head lies.
pub(super) fn head_file(dir: &Path) -> PathBuf {
    dir.join("head.json")
}

/// Where the chains lie.
pub(super) fn runs_dir(dir: &Path) -> PathBuf {
    dir.join("runs")
}

/// Where the chain of a run lies.
pub(super) fn run_file(dir: &Path, run: &str) -> PathBuf {
    runs_dir(dir).join(format!("{run}.jsonl"))
}

fn not_ours(path: &Path, what: impl Into<String>) -> Error {
    Error::damaged(format!("the audit log \"{}\" cannot be continued", path.display()))
        .fact("reason", what)
        .hint("see what is wrong with `strongroom audit verify`; to begin a new log, move its directory to where it is kept as evidence")
}

impl Index {
    pub(super) fn new(dir: &Path, keys: &Arc<Keys>) -> Self {
        Self { dir: dir.to_owned(), keys: keys.clone() }
    }

    /// Takes the lock, and what a crash left is put right: a torn last line is cut off, whole lines that
    /// the head does not know are taken over.
    ///
    /// Errors: `Damaged` when index and head do not belong together.
    pub(super) fn lock(&self) -> Result<Locked> {
        let runs = runs_dir(&self.dir);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&runs)
            .doing(|| format!("make the directory of the audit log \"{}\"", runs.display()))?;
        let path = self.dir.join("lock");
        let doing = || format!("lock the audit log \"{}\"", path.display());
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .doing(doing)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).doing(doing)?;
        let mut locked = Locked { dir: self.dir.clone(), keys: self.keys.clone(), head: Head::default(), _lock: lock };
        locked.load()?;
        Ok(locked)
    }
}

impl Locked {
    fn load(&mut self) -> Result<()> {
        let (head_path, path) = (head_file(&self.dir), index_file(&self.dir));
        let size = match std::fs::metadata(&path) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).doing(|| format!("look at \"{}\"", path.display())),
        };
        match std::fs::read(&head_path) {
            Ok(bytes) => {
                self.head = Head::open(&bytes, &self.keys.public).map_err(|what| not_ours(&head_path, what))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && size == 0 => {
                // The head is there before the first line of the index is.
                return self.write_head();
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(not_ours(&head_path, "it is gone, and the index is not empty"));
            }
            Err(error) => return Err(error).doing(|| format!("read \"{}\"", head_path.display())),
        }
        if size < self.head.bytes {
            return Err(not_ours(&path, format!("{size} bytes long, and its head says {}", self.head.bytes)));
        }
        self.check_last_line(&path)?;
        if size > self.head.bytes { self.take_over(&path) } else { Ok(()) }
    }

    /// The last line that the head knows is the one that it knows.
    fn check_last_line(&self, path: &Path) -> Result<()> {
        if self.head.lines == 0 {
            return Ok(());
        }
        let doing = || format!("read \"{}\"", path.display());
        let mut file = File::open(path).doing(doing)?;
        let from = self.head.bytes.saturating_sub(MAX_ENTRY_BYTES);
        file.seek(SeekFrom::Start(from)).doing(doing)?;
        let mut tail = Vec::new();
        file.take(self.head.bytes - from).read_to_end(&mut tail).doing(doing)?;
        let line = tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next());
        if line.is_none_or(|line| hash(line) != self.head.last) {
            return Err(not_ours(path, format!("line {} is not the one that its head names", self.head.lines)));
        }
        Ok(())
    }

    /// What a run wrote into the index before it was killed on its way to the head.
    fn take_over(&mut self, path: &Path) -> Result<()> {
        let doing = || format!("read \"{}\"", path.display());
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).doing(doing)?;
        file.seek(SeekFrom::Start(self.head.bytes)).doing(doing)?;
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).doing(doing)?;
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else {
                // Torn by a crash: it never was a line.
                file.set_len(self.head.bytes).doing(|| format!("cut a torn line off \"{}\"", path.display()))?;
                break;
            };
            let entry = Entry::open(text, &self.keys.public)
                .map_err(|what| not_ours(path, format!("line {}: {what}", self.head.lines + 1)))?;
            if entry.seq != self.head.lines + 1 || entry.prev != self.head.last {
                return Err(not_ours(path, format!("line {} does not follow the one before", self.head.lines + 1)));
            }
            self.head.take(&entry, line.len() as u64, hash(text));
        }
        self.write_head()
    }

    fn write_head(&mut self) -> Result<()> {
        let path = head_file(&self.dir);
        let doing = || format!("write the audit log \"{}\"", path.display());
        self.head.sig.clear();
        let mut text = sign(&self.head, PURPOSE_HEAD, &self.keys)?;
        text.push(b'\n');
        let mut temporary = tempfile::Builder::new().prefix(".head-").tempfile_in(&self.dir).doing(doing)?;
        temporary.write_all(&text).and_then(|()| temporary.as_file().sync_all()).doing(doing)?;
        temporary.persist(&path).map_err(|error| error.error).doing(doing)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).doing(doing)
    }

    /// Appends a line, flushed, then the head.
    fn append(&mut self, event: EntryEvent, run: &str, ends: &Ends, about: About<'_>) -> Result<()> {
        let entry = Entry {
            seq: self.head.lines + 1,
            prev: self.head.last.clone(),
            at: now(),
            event,
            run: run.to_owned(),
            job: about.job.map(str::to_owned),
            verb: about.verb.map(str::to_owned),
            lines: ends.lines,
            first: ends.first.clone(),
            last: ends.last.clone(),
            outcome: about.outcome.map(str::to_owned),
            sig: String::new(),
        };
        let mut text = sign(&entry, PURPOSE_ENTRY, &self.keys)?;
        let hash = hash(&text);
        text.push(b'\n');
        let path = index_file(&self.dir);
        let doing = || format!("write the audit log \"{}\"", path.display());
        let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).doing(doing)?;
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // Half a line is cut off now, or by the next run.
            let _ = file.set_len(self.head.bytes);
            return Err(error).doing(doing);
        }
        self.head.take(&entry, text.len() as u64, hash);
        self.write_head()
    }

    /// Length and last hash of the index.
    pub(super) fn ends(&self) -> Ends {
        Ends { first: String::new(), last: self.head.last.clone(), lines: self.head.lines }
    }

    /// Makes a chain and says so; the first line after its beginning tells what is new in the configuration.
    pub(super) fn begin(&mut self, log: &Log, beginning: &Beginning) -> Result<Arc<Chain>> {
        let path = run_file(&self.dir, beginning.run.as_str());
        let chain = Chain::create(log, &path, beginning, &self.head.last)?;
        let changed = self.compare(&beginning.configuration);
        let about = About { job: chain.job(), verb: Some(chain.verb()), outcome: None };
        self.append(EntryEvent::Open, chain.run(), &chain.ends(), about)?;
        if let Some(detail) = changed {
            chain.append(Line { detail: Some(detail), ..Line::of(Event::Configuration) })?;
        }
        Ok(Arc::new(chain))
    }

    pub(super) fn close(&mut self, run: &str, ends: &Ends, outcome: &str, anchored: Option<u64>) -> Result<()> {
        self.head.anchored = self.head.anchored.max(anchored.unwrap_or(0));
        self.append(EntryEvent::Close, run, ends, About { outcome: Some(outcome), ..About::default() })
    }

    /// Closes the chains of runs that have ended without doing so: a last line says that they were killed.
    /// One that is broken is left as it is.
    pub(super) fn close_dead(&mut self) -> Result<()> {
        for run in self.head.open.clone() {
            let path = run_file(&self.dir, &run);
            let doing = || format!("close the audit log \"{}\"", path.display());
            let mut file = match std::fs::OpenOptions::new().read(true).append(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let ends = Ends { first: GENESIS.to_owned(), last: GENESIS.to_owned(), lines: 0 };
                    let about = About { outcome: Some("the file is gone"), ..About::default() };
                    self.append(EntryEvent::Broken, &run, &ends, about)?;
                    continue;
                }
                Err(error) => return Err(error).doing(doing),
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                // Its run lives.
                continue;
            }
            let read = verify::chain(&path, &run, None, &self.keys)?;
            if let Some(bad) = &read.bad {
                let outcome = format!("line {}: {}", bad.0, bad.1);
                let about = About { outcome: Some(&outcome), ..About::default() };
                self.append(EntryEvent::Broken, &run, &read.ends, about)?;
                continue;
            }
            let mut ends = read.ends;
            let outcome = if read.state == State::Ended {
                "killed after its last line"
            } else {
                if read.torn > 0 {
                    file.set_len(read.bytes).doing(doing)?;
                }
                let torn = match read.torn {
                    0 => String::new(),
                    n => format!("; {n} bytes of a line that was never whole were cut off"),
                };
                let line = Line {
                    seq: ends.lines + 1,
                    prev: ends.last.clone(),
                    at: now(),
                    run: run.clone(),
                    detail: Some(format!("the run ended without closing its log; the next run closed it{torn}")),
                    outcome: Some("killed".to_owned()),
                    ..Line::of(Event::Crash)
                };
                let (text, hash) = line.seal(&self.keys)?;
                file.write_all(&text).and_then(|()| file.sync_all()).doing(doing)?;
                (ends.last, ends.lines) = (hash, ends.lines + 1);
                "killed"
            };
            self.append(EntryEvent::Close, &run, &ends, About { outcome: Some(outcome), ..About::default() })?;
        }
        Ok(())
    }

    /// Removes the files of chains that were closed longer than `keep` ago and that a committed record
    /// anchors, each with a line that says so.
    pub(super) fn retire(&mut self, keep: Duration) -> Result<()> {
        let path = index_file(&self.dir);
        let Some(before) = now().checked_sub(keep).ok().filter(|_| self.head.anchored > 0) else { return Ok(()) };
        let bytes = std::fs::read(&path).doing(|| format!("read \"{}\"", path.display()))?;
        let mut old: BTreeMap<String, Ends> = BTreeMap::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // What is not a line is for `audit verify` to name; nothing is removed because of it.
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
            match entry.event {
                // Nothing is removed on the word of a line that somebody else wrote.
                EntryEvent::Close
                    if entry.at < before
                        && entry.seq <= self.head.anchored
                        && Entry::open(line, &self.keys.public).is_ok() =>
                {
                    old.insert(entry.run, Ends { first: entry.first, last: entry.last, lines: entry.lines });
                }
                EntryEvent::Removed => drop(old.remove(&entry.run)),
                _ => {}
            }
        }
        for (run, ends) in old {
            // Said first: a file that is gone without a word would be a finding.
            let about = About { outcome: Some("old"), ..About::default() };
            self.append(EntryEvent::Removed, &run, &ends, about)?;
            let path = run_file(&self.dir, &run);
            match std::fs::remove_file(&path).doing(|| format!("remove \"{}\"", path.display())) {
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is new since the last run with this configuration; `None` when nothing is. The head keeps
    /// what it says now.
    fn compare(&mut self, now: &Configuration) -> Option<String> {
        if now.path.is_empty() {
            return None;
        }
        let hashed = |text: &String| self.keys.hash_value(text.as_bytes()).unwrap_or_default();
        let sections: BTreeMap<_, _> = now.sections.iter().map(|(name, text)| (name.clone(), hashed(text))).collect();
        let at = self.head.configurations.iter().position(|seen| seen.path == now.path);
        let before = at.map(|at| self.head.configurations.remove(at));
        let changed = match &before {
            None => Some(format!("\"{}\": seen for the first time", now.path)),
            Some(before) if before.sections == sections => None,
            Some(before) => {
                let names = |of: &BTreeMap<String, String>, not: &BTreeMap<String, String>| {
                    of.iter().filter(|(k, v)| not.get(*k) != Some(*v)).map(|(k, _)| k.clone()).collect::<Vec<_>>()
                };
                let gone = before.sections.keys().filter(|name| !sections.contains_key(*name));
                let mut all: Vec<_> = names(&sections, &before.sections);
                all.extend(gone.map(|name| format!("{name} (gone)")));
                Some(format!("\"{}\": {}", now.path, super::line::cut(&all.join(", "))))
            }
        };
        self.head.configurations.push(Seen { path: now.path.clone(), sections });
        let surplus = self.head.configurations.len().saturating_sub(MAX_CONFIGURATIONS);
        self.head.configurations.drain(..surplus);
        changed
    }
}

/// What a line of the index says besides.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    job: Option<&'a str>,
    verb: Option<&'a str>,
    outcome: Option<&'a str>,
}
