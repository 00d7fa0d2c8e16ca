//! Checks the log: every change by somebody without the host's key, and every truncation before the
//! last anchor. What a crash leaves is told apart from what somebody did.
//!
//! It changes nothing, takes no lock that a run would wait for, and holds one line in memory at a time.

use super::Keys;
use super::chain::Ends;
use super::index::{Entry, EntryEvent, GENESIS, Head, head_file, index_file, run_file, runs_dir};
use super::line::{Event, Line, MAX_LINE_BYTES, hash};
use crate::error::{IoContext, Result};
use crate::record::AuditAnchor;
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What was found in a log.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The chains, oldest first.
    pub runs: Vec<VerifiedChain>,
    /// What is not as it was written; empty when all is well.
    pub findings: Vec<Finding>,
    /// Lines of the index.
    pub index_lines: u64,
    /// Lines of the index that a committed record anchors, as the head says.
    pub anchored: u64,
}

/// One chain.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedChain {
    /// The run.
    pub run: String,
    /// How it stands.
    pub state: State,
    /// Lines that are good.
    pub lines: u64,
}

/// How a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It ended as it should.
    Ended,
    /// Its run is under way.
    Running,
    /// Its run was killed; the lines that it wrote are all there up to the last that is anchored.
    Killed,
    /// Its file was removed because it was old, after a record had anchored it.
    Removed,
    /// Something is wrong with it: see the findings.
    Bad,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The first bad line of it; `null` where it is about the whole file.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// A chain's file, read to its end or to its first bad line.
pub(super) struct Read {
    pub(super) ends: Ends,
    pub(super) state: State,
    /// Bytes of good lines.
    pub(super) bytes: u64,
    /// Bytes after the last newline.
    pub(super) torn: u64,
    /// First bad line, and what is wrong with it.
    pub(super) bad: Option<(u64, String)>,
    /// What the first line follows.
    pub(super) prev: String,
    /// Hashes at the lines that were asked for.
    pub(super) at: BTreeMap<u64, String>,
}

/// Reads a chain's file. `wanted` are lines whose hashes are needed.
pub(super) fn chain(path: &Path, run: &str, wanted: Option<&BTreeSet<u64>>, keys: &Keys) -> Result<Read> {
    let doing = || format!("read the audit log \"{}\"", path.display());
    let mut reader = BufReader::new(File::open(path).doing(doing)?);
    let mut read = Read {
        ends: Ends { first: GENESIS.to_owned(), last: GENESIS.to_owned(), lines: 0 },
        state: State::Killed,
        bytes: 0,
        torn: 0,
        bad: None,
        prev: String::new(),
        at: BTreeMap::new(),
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = MAX_LINE_BYTES as u64 + 1;
        std::io::Read::by_ref(&mut reader).take_line(most, &mut line).doing(doing)?;
        if line.is_empty() {
            return Ok(read);
        }
        let number = read.ends.lines + 1;
        let Some(text) = line.strip_suffix(b"\n") else {
            if line.len() > MAX_LINE_BYTES {
                read.bad = Some((number, "it is longer than any line".to_owned()));
            } else {
                read.torn = line.len() as u64;
            }
            return Ok(read);
        };
        let hash = hash(text);
        if let Err(what) = follow(&mut read, text, &hash, run, number, keys) {
            read.bad = Some((number, what));
            return Ok(read);
        }
        read.bytes += line.len() as u64;
        if wanted.is_some_and(|wanted| wanted.contains(&number)) {
            read.at.insert(number, hash);
        }
    }
}

/// One more line, if it follows those before.
fn follow(read: &mut Read, text: &[u8], hash: &str, run: &str, number: u64, keys: &Keys) -> Result<(), String> {
    let line = Line::open(text, keys)?;
    if line.run != run {
        return Err(format!("it is a line of run {}", line.run));
    }
    if line.seq != number {
        return Err(format!("it is number {}: lines were removed, added or moved", line.seq));
    }
    if number == 1 {
        read.prev.clone_from(&line.prev);
        hash.clone_into(&mut read.ends.first);
    } else if line.prev != read.ends.last {
        return Err("it does not follow the line before".to_owned());
    }
    if read.state == State::Ended {
        return Err("it follows the end of the chain".to_owned());
    }
    hash.clone_into(&mut read.ends.last);
    read.ends.lines = number;
    if line.event == Event::End {
        read.state = State::Ended;
    }
    Ok(())
}

/// Reads to a newline, at most so many bytes.
trait TakeLine {
    fn take_line(&mut self, most: u64, line: &mut Vec<u8>) -> std::io::Result<usize>;
}

impl<R: BufRead> TakeLine for R {
    fn take_line(&mut self, most: u64, line: &mut Vec<u8>) -> std::io::Result<usize> {
        std::io::Read::take(self, most).read_until(b'\n', line)
    }
}

/// What the index says of a run.
#[derive(Default)]
struct Known {
    prev: String,
    open: Option<Ends>,
    end: Option<(EntryEvent, Ends, Option<String>)>,
    removed: bool,
}

/// The index, as far as it is good.
#[derive(Default)]
struct Indexed {
    runs: BTreeMap<String, Known>,
    hashes: Vec<String>,
    /// Whether it was read to its end: what it does not name, it would otherwise name.
    whole: bool,
}

/// Checks a log: all of it, or the index and the chains whose runs begin with one of `wanted`. `anchors` are what records in
/// stores say.
///
/// Errors: those of reading; what is wrong with the log is no error but a finding.
pub fn verify(dir: &Path, keys: &Keys, wanted: Option<&[String]>, anchors: &[AuditAnchor]) -> Result<Report> {
    let mut report = Report::default();
    let indexed = index(dir, keys, &mut report)?;
    let mut lines_wanted: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for anchor in anchors {
        lines_wanted.entry(&anchor.run).or_default().insert(anchor.lines);
    }
    let mut at: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    let is_wanted = |run: &str| wanted.is_none_or(|wanted| wanted.iter().any(|one| run.starts_with(one.as_str())));
    for (run, known) in indexed.runs.iter().filter(|(run, _)| is_wanted(run)) {
        let path = run_file(dir, run);
        let verified = match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => gone(&path, run, known, &mut report.findings),
            Err(error) => return Err(error).doing(|| format!("look at \"{}\"", path.display())),
            Ok(_) => {
                let read = chain(&path, run, lines_wanted.get(run.as_str()), keys)?;
                at.insert(run.clone(), read.at.clone());
                compare(&path, run, known, &read, &mut report.findings)?
            }
        };
        report.runs.push(verified);
    }
    strangers(dir, keys, &indexed, &is_wanted, &mut report)?;
    for anchor in anchors.iter().filter(|anchor| is_wanted(&anchor.run)) {
        report.findings.extend(anchored(dir, anchor, &indexed, &at));
    }
    report.runs.sort_by(|a, b| a.run.cmp(&b.run));
    Ok(report)
}

/// Reads the index and its head.
fn index(dir: &Path, keys: &Keys, report: &mut Report) -> Result<Indexed> {
    let (path, head_path) = (index_file(dir), head_file(dir));
    let shown = path.display().to_string();
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read \"{}\"", path.display())),
    };
    // The head first: a run that goes on meanwhile makes the index longer, never shorter.
    let head_bytes = read(&head_path)?;
    let bytes = read(&path)?;
    let mut say = |file: &str, line: Option<u64>, what: String| {
        report.findings.push(Finding { file: file.to_owned(), line, what });
    };
    let head = match head_bytes {
        None => None,
        Some(bytes) => match Head::open(&bytes, &keys.public) {
            Ok(head) => Some(head),
            Err(what) => {
                say(&head_path.display().to_string(), None, what);
                None
            }
        },
    };
    let mut indexed = Indexed { whole: true, ..Indexed::default() };
    let mut last = GENESIS.to_owned();
    let mut bytes_read = 0_u64;
    for line in bytes.iter().flat_map(|bytes| bytes.split_inclusive(|byte| *byte == b'\n')) {
        let number = indexed.hashes.len() as u64 + 1;
        let Some(text) = line.strip_suffix(b"\n") else {
            // Torn by a crash where the head does not know of it; else the head says that it is too short.
            break;
        };
        let entry = Entry::open(text, &keys.public).and_then(|entry| {
            if entry.seq != number {
                return Err(format!("it is number {}: lines were removed, added or moved", entry.seq));
            }
            if entry.prev != last { Err("it does not follow the line before".to_owned()) } else { Ok(entry) }
        });
        match entry {
            Ok(entry) => {
                last = hash(text);
                indexed.hashes.push(last.clone());
                bytes_read += line.len() as u64;
                take(&mut indexed.runs, entry);
            }
            Err(what) => {
                say(&shown, Some(number), what);
                indexed.whole = false;
                break;
            }
        }
    }
    let lines = indexed.hashes.len() as u64;
    match &head {
        None if lines > 0 => say(&head_path.display().to_string(), None, "it is gone, or not this host's".to_owned()),
        Some(head) if indexed.whole && (head.lines > lines || head.bytes > bytes_read) => {
            indexed.whole = false;
            say(&shown, Some(lines + 1), format!("it ends after line {lines}, and its head says {}", head.lines));
        }
        Some(head) if head.lines > 0 && head.lines <= lines => {
            let at = usize::try_from(head.lines - 1).unwrap_or(usize::MAX);
            if indexed.hashes.get(at) != Some(&head.last) {
                say(
                    &head_path.display().to_string(),
                    None,
                    format!("line {} of the index is not the one that it names", head.lines),
                );
            }
        }
        _ => {}
    }
    report.index_lines = lines;
    report.anchored = head.map_or(0, |head| head.anchored);
    Ok(indexed)
}

fn take(runs: &mut BTreeMap<String, Known>, entry: Entry) {
    let ends = Ends { first: entry.first, last: entry.last, lines: entry.lines };
    let known = runs.entry(entry.run).or_default();
    match entry.event {
        EntryEvent::Open => (known.prev, known.open) = (entry.prev, Some(ends)),
        EntryEvent::Close | EntryEvent::Broken => known.end = Some((entry.event, ends, entry.outcome)),
        EntryEvent::Removed => known.removed = true,
    }
}

fn finding(path: &Path, line: Option<u64>, what: impl Into<String>) -> Finding {
    Finding { file: path.display().to_string(), line, what: what.into() }
}

/// A run whose file is not there.
fn gone(path: &Path, run: &str, known: &Known, findings: &mut Vec<Finding>) -> VerifiedChain {
    let lines = known.end.as_ref().map_or(0, |(_, ends, _)| ends.lines);
    if known.removed {
        return VerifiedChain { run: run.to_owned(), state: State::Removed, lines };
    }
    findings.push(finding(path, None, "the file is gone, and the index does not say that it was removed"));
    VerifiedChain { run: run.to_owned(), state: State::Bad, lines: 0 }
}

/// What the index says of a chain against what is there.
fn compare(path: &Path, run: &str, known: &Known, read: &Read, findings: &mut Vec<Finding>) -> Result<VerifiedChain> {
    let before = findings.len();
    let mut say = |line: Option<u64>, what: String| findings.push(finding(path, line, what));
    let first_differs =
        known.open.as_ref().is_some_and(|open| open.first != read.ends.first || known.prev != read.prev);
    let mut state = read.state;
    if let Some((line, what)) = &read.bad {
        say(Some(*line), what.clone());
    } else if read.ends.lines > 0 && first_differs {
        say(Some(1), "it is not the first line that the index names".to_owned());
    } else {
        match &known.end {
            None if is_locked(path)? => state = State::Running,
            None if read.ends.lines == 0 => {
                say(Some(1), "the file has no line, and the index names its first".to_owned());
            }
            // Its run was killed, maybe after its last line; the next run closes it.
            None => {}
            Some((EntryEvent::Broken, _, why)) => {
                say(
                    None,
                    format!("it was broken when its run had been killed: {}", why.as_deref().unwrap_or_default()),
                );
            }
            Some((_, ends, outcome)) => {
                if outcome.as_deref() == Some("killed") {
                    state = State::Killed;
                }
                if read.torn > 0 {
                    say(Some(read.ends.lines + 1), "bytes that are no line stand after the end".to_owned());
                } else if read.ends.lines < ends.lines {
                    let what =
                        format!("the file ends after line {}, and the index says {}", read.ends.lines, ends.lines);
                    say(Some(read.ends.lines + 1), what);
                } else if read.ends.lines > ends.lines {
                    say(Some(ends.lines + 1), format!("it was added: the index says {} lines", ends.lines));
                } else if read.ends.last != ends.last {
                    say(Some(ends.lines), "it is not the last line that the index names".to_owned());
                }
            }
        }
    }
    if findings.len() > before {
        state = State::Bad;
    }
    Ok(VerifiedChain { run: run.to_owned(), state, lines: read.ends.lines })
}

/// Whether the run that writes a chain lives: it holds a lock on the file.
fn is_locked(path: &Path) -> Result<bool> {
    let file = File::open(path).doing(|| format!("read the audit log \"{}\"", path.display()))?;
    // Shared, and let go at once: a run that begins meanwhile at most leaves the chain to the next one.
    Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Files that the index does not name. One that was begun and killed before the index knew is no finding.
fn strangers(
    dir: &Path,
    keys: &Keys,
    indexed: &Indexed,
    is_wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> Result<()> {
    let runs = runs_dir(dir);
    let entries = match std::fs::read_dir(&runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("list \"{}\"", runs.display())),
    };
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let entry = entry.doing(|| format!("list \"{}\"", runs.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let path = runs.join(&name);
        let Some(run) = name.strip_suffix(".jsonl") else {
            report.findings.push(finding(&path, None, "it is not a file of the log"));
            continue;
        };
        if indexed.runs.contains_key(run) || !is_wanted(run) {
            continue;
        }
        let read = chain(&path, run, None, keys)?;
        // The index knows a chain as soon as its first line is on the disk.
        let begun = read.ends.lines <= 1 && read.bad.is_none();
        let follows = read.ends.lines == 0 || read.prev == GENESIS || indexed.hashes.contains(&read.prev);
        if begun && follows && indexed.whole {
            report.runs.push(VerifiedChain { run: run.to_owned(), state: State::Killed, lines: read.ends.lines });
        } else {
            report.findings.push(finding(
                &path,
                read.bad.as_ref().map(|bad| bad.0),
                "the index does not name this file",
            ));
            report.runs.push(VerifiedChain { run: run.to_owned(), state: State::Bad, lines: read.ends.lines });
        }
    }
    Ok(())
}

/// What a record in a store says, against what is here.
fn anchored(
    dir: &Path,
    anchor: &AuditAnchor,
    indexed: &Indexed,
    at: &BTreeMap<String, BTreeMap<u64, String>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at_index = usize::try_from(anchor.index.lines).ok().and_then(|lines| lines.checked_sub(1));
    if at_index.is_some_and(|at| indexed.hashes.get(at) != Some(&anchor.index.hash)) {
        let what = format!("the record of backup {} holds another hash of this line, or it is gone", anchor.run);
        findings.push(finding(&index_file(dir), Some(anchor.index.lines), what));
    }
    let path = run_file(dir, &anchor.run);
    match (at.get(&anchor.run), indexed.runs.get(&anchor.run)) {
        (Some(lines), _) if lines.get(&anchor.lines) == Some(&anchor.hash) => {}
        (Some(_), _) => {
            let what = "the record of the backup holds another hash of this line, or it is gone";
            findings.push(finding(&path, Some(anchor.lines), what));
        }
        // Removed when it was old: the index, which the record anchors as well, says so.
        (None, Some(known)) if known.removed => {}
        (None, _) => {
            findings.push(finding(&path, None, "a record in the store anchors this chain, and it is not here"));
        }
    }
    findings
}
