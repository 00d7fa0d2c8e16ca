//! Packing: entries in, one tar out, its index behind it.
//!
//! Bodies are opened ahead of their turn by threads; how entries pass between threads is `queue`'s.

use super::index::{self, EntryOutcome, IndexLine};
use super::queue::{Queue, Taken};
use super::spool::{Spool, SpoolSource};
use super::{Entry, INDEX_SUFFIX, SMALL_BYTES, check_path, locked, merged, tar};
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage};
use crate::stream::{ByteSource, Origin, Source};
use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Entries that could not be read whole and are named one by one; the index has them all.
const MAX_FAILED: usize = 10_000;
/// Longest reason that is kept for one entry, in bytes.
const MAX_REASON_BYTES: usize = 1_024;
/// Names of artifacts end here (`id::ArtifactName`).
const MAX_NAME_BYTES: usize = 128;

/// How an archive is packed.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Threads that open bodies ahead of their turn. Local files need few, since they are in memory
    /// or on one disk; objects over a network need many.
    pub openers: usize,
    /// Where an index of more than 256 KiB is kept until it is stored, sealed and without a name.
    pub spool_dir: PathBuf,
}

impl Default for PackOptions {
    /// 4 openers, and the system's directory for temporary files.
    fn default() -> Self {
        Self { openers: 4, spool_dir: std::env::temp_dir() }
    }
}

/// Where entries go in. Dropping it unfinished makes the tar end in an error.
pub struct ArchiveInput {
    queue: Arc<Queue<Job, Opened>>,
    openers: usize,
    started: usize,
    seen: HashSet<[u8; 16]>,
    shared: Arc<Shared>,
}

/// The bytes of the tar. It ends well only after [`ArchiveInput::finish`].
pub struct ArchiveTar {
    queue: Arc<Queue<Job, Opened>>,
    /// Entries that were taken out of the queue together.
    taken: VecDeque<Opened>,
    ready: Vec<u8>,
    at: usize,
    streaming: Option<Streaming>,
    position: u64,
    spool: Option<Spool>,
    entries: u64,
    lines: u64,
    failed: Vec<(String, String)>,
    n_failed: u64,
    ended: bool,
    shared: Arc<Shared>,
}

/// What is left when the tar has ended.
pub struct ArchiveEnd(Arc<Shared>);

/// The second artifact of an archive, and what is missing in the first.
pub struct Packed {
    /// The bytes of the index, to be stored under the archive's name and [`INDEX_SUFFIX`].
    pub index: Box<dyn ByteSource>,
    /// Path and reason of each entry that is not whole: the first 10,000, and then one that counts the rest.
    pub failed: Vec<(String, String)>,
    /// How many entries are in the tar.
    pub n_entries: u64,
    /// How many entries are not whole.
    pub n_failed: u64,
}

#[derive(Default)]
struct Shared {
    /// Why the tar failed, for whoever calls next.
    broken: Mutex<Option<(Kind, String)>>,
    done: Mutex<Option<Packed>>,
}

/// What an opener found.
enum Opened {
    /// A small body: head, body and padding, ready to be copied.
    Ready { blocks: Vec<u8>, body_at: usize, line: IndexLine },
    /// A large body, to be streamed in its turn.
    Large { entry: Entry, body: Source },
    /// Not in the tar.
    Unread(IndexLine),
    /// The archive cannot go on.
    Fatal(Error),
}

struct Job {
    path: String,
    attributes: Vec<(String, String)>,
    body: Source,
}

struct Streaming {
    body: Source,
    line: IndexLine,
    hash: blake3::Hasher,
    done: u64,
}

/// The name of the artifact that holds the index of the archive `name`. Errors: `Invalid` when it
/// would be too long.
pub fn index_name(name: &str) -> Result<String> {
    if name.len() + INDEX_SUFFIX.len() > MAX_NAME_BYTES {
        return Err(Error::invalid(format!("{name:?} is too long a name for an archive")).fact(
            "expected",
            format!(
                "at most {} bytes, since its index is called NAME{INDEX_SUFFIX}",
                MAX_NAME_BYTES - INDEX_SUFFIX.len()
            ),
        ));
    }
    Ok(format!("{name}{INDEX_SUFFIX}"))
}

/// Starts an archive. Store [`ArchiveTar`] like any source; when it has been stored, [`ArchiveEnd`]
/// has the index, which is stored behind it.
pub fn pack(options: PackOptions) -> Result<(ArchiveInput, ArchiveTar, ArchiveEnd)> {
    let shared = Arc::new(Shared::default());
    let openers = options.openers.max(1);
    let queue = Queue::new(openers, open, never_opened);
    let mut spool = Spool::new(options.spool_dir);
    spool.push(&index::head()?)?;
    let input =
        ArchiveInput { queue: queue.clone(), openers, started: 0, seen: HashSet::new(), shared: shared.clone() };
    let tar = ArchiveTar {
        queue,
        taken: VecDeque::new(),
        ready: Vec::new(),
        at: 0,
        streaming: None,
        position: 0,
        spool: Some(spool),
        entries: 0,
        lines: 0,
        failed: Vec::new(),
        n_failed: 0,
        ended: false,
        shared: shared.clone(),
    };
    Ok((input, tar, ArchiveEnd(shared)))
}

impl ArchiveInput {
    /// Queues an entry; waits while [`super::ENTRIES_AHEAD`] are on their way. The body's own attributes are kept,
    /// those given here win over them.
    ///
    /// Errors: `Invalid` (a path that no entry can have, a body whose length is never known, a body
    /// that the guest would have to end), `Conflict` (the path was added before), and what made the
    /// archive fail meanwhile.
    pub async fn add(&mut self, path: String, attributes: Vec<(String, String)>, body: Source) -> Result<()> {
        check_path(&path)?;
        let attributes = merged(Vec::new(), attributes)?;
        let refused = |why: &str| {
            Err(Error::invalid(format!("could not add {path:?} to an archive"))
                .fact("got", why)
                .hint("store it as an artifact of its own"))
        };
        if matches!(body.origin, Origin::Exec { .. }) {
            return refused("the output of a command, whose length is not known beforehand");
        }
        if body.waits_for.iter().any(crate::stream::Leash::is_held) {
            return refused("a stream whose other end the plugin still holds");
        }
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..16]);
        if !self.seen.insert(key) {
            return Err(
                Error::conflict(format!("could not add {path:?} to an archive")).fact("got", "the same path twice")
            );
        }
        self.start_opener()?;
        self.queue.push(Job { path, attributes, body }).await.map_err(|_| self.shared.why_broken())
    }

    /// Ends the archive well. The tar then ends when the last entry is through.
    pub async fn finish(self) -> Result<()> {
        self.queue.finish().map_err(|_| self.shared.why_broken())
    }

    /// Threads start with the entries that need them.
    fn start_opener(&mut self) -> Result<()> {
        if self.started == self.openers {
            return Ok(());
        }
        let queue = self.queue.clone();
        // It ends when the input is dropped.
        std::thread::Builder::new()
            .name("archive-opener".into())
            .spawn(move || queue.work())
            .map_err(|e| Error::failed("could not start a thread that opens bodies").because_of_io(e))?;
        self.started += 1;
        Ok(())
    }
}

impl Drop for ArchiveInput {
    fn drop(&mut self) {
        self.queue.drop_input();
    }
}

impl Shared {
    fn why_broken(&self) -> Error {
        match &*locked(&self.broken) {
            Some((kind, message)) => Error::new(*kind, format!("could not go on with an archive: {message}")),
            None => Error::new(Kind::Cancelled, "could not go on with an archive that nobody reads"),
        }
    }
}

fn never_opened() -> Opened {
    Opened::Fatal(Error::failed("the body of an archive's entry was never opened"))
}

/// Opens a body, and reads it whole if it is small.
fn open(Job { path, attributes, mut body }: Job) -> Opened {
    let unread = |path: String, attributes, error: &Error| {
        Opened::Unread(IndexLine {
            path,
            offset: None,
            size: 0,
            attributes,
            blake3: None,
            outcome: EntryOutcome::Unread,
            reason: Some(reason(error)),
        })
    };
    let info = match body.body.open() {
        Ok(info) => info,
        Err(error) if error.kind() == Kind::Cancelled => return Opened::Fatal(error),
        Err(error) => return unread(path, attributes, &error),
    };
    let Some(size) = info.len else {
        return Opened::Fatal(
            Error::invalid(format!("could not add {path:?} to an archive"))
                .fact("got", "a body whose length is not known when it is opened")
                .hint("store it as an artifact of its own"),
        );
    };
    let attributes = match merged(info.attributes, attributes) {
        Ok(attributes) => attributes,
        Err(error) => return unread(path, Vec::new(), &error),
    };
    let entry = Entry { path, attributes, size };
    match usize::try_from(size) {
        Ok(len) if size <= SMALL_BYTES => read_small(entry, len, &mut *body.body),
        _ => Opened::Large { entry, body },
    }
}

fn read_small(entry: Entry, len: usize, body: &mut dyn ByteSource) -> Opened {
    let mut blocks = tar::head(&entry);
    let body_at = blocks.len();
    blocks.resize(body_at + len + tar::padding(entry.size), 0);
    let mut done = 0;
    let end = loop {
        if done == len {
            break proven_end(body);
        }
        match body.read(&mut blocks[body_at + done..body_at + len]) {
            Ok(0) => break Ok((EntryOutcome::Short, Some(ended_early(done, len)))),
            Ok(n) => done += n,
            Err(error) if error.kind() == Kind::Cancelled => break Err(error),
            Err(error) => break Ok((EntryOutcome::Short, Some(reason(&error)))),
        }
    };
    match end {
        Err(error) => Opened::Fatal(error),
        Ok((outcome, reason)) => {
            let hash = blake3::hash(&blocks[body_at..body_at + len]);
            Opened::Ready { blocks, body_at, line: line_of(entry, hash, outcome, reason) }
        }
    }
}

/// All bytes are there: does the body end here, as it should?
fn proven_end(body: &mut dyn ByteSource) -> Result<(EntryOutcome, Option<String>)> {
    match body.read(&mut [0]) {
        Ok(0) => Ok((EntryOutcome::Whole, None)),
        Ok(_) => Ok((EntryOutcome::Cut, Some("it grew while it was read".to_owned()))),
        Err(error) if error.kind() == Kind::Cancelled => Err(error),
        Err(error) => Ok((EntryOutcome::Changed, Some(reason(&error)))),
    }
}

fn line_of(entry: Entry, hash: blake3::Hash, outcome: EntryOutcome, reason: Option<String>) -> IndexLine {
    IndexLine {
        path: entry.path,
        offset: Some(0),
        size: entry.size,
        attributes: entry.attributes,
        blake3: Some(hash.to_hex().to_string()),
        outcome,
        reason,
    }
}

fn ended_early(done: impl std::fmt::Display, len: impl std::fmt::Display) -> String {
    format!("it ended early: {done} of {len} bytes")
}

/// An error as one line.
fn reason(error: &Error) -> String {
    let mut text = error.message().to_owned();
    for (label, value) in error.facts() {
        text.push_str(&format!("; {label}: {value}"));
    }
    if let Some(source) = std::error::Error::source(error) {
        text.push_str(&format!(": {source}"));
    }
    let end = (0..=MAX_REASON_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

impl ArchiveTar {
    /// Takes what an opener found into the stream.
    fn begin(&mut self, opened: Opened) -> Result<()> {
        match opened {
            Opened::Fatal(error) => Err(error),
            Opened::Unread(line) => self.record(&line),
            Opened::Ready { blocks, body_at, mut line } => {
                line.offset = Some(self.position + offset(body_at)?);
                if failpoint::is_broken(Breakage::KeepEntries) {
                    std::mem::forget(blocks.clone());
                }
                self.put(blocks)?;
                self.entries += 1;
                self.record(&line)
            }
            Opened::Large { entry, body } => {
                let head = tar::head(&entry);
                let mut line = line_of(entry, blake3::Hash::from_bytes([0; 32]), EntryOutcome::Whole, None);
                line.offset = Some(self.position + offset(head.len())?);
                self.put(head)?;
                self.entries += 1;
                self.streaming = Some(Streaming { body, line, hash: blake3::Hasher::new(), done: 0 });
                Ok(())
            }
        }
    }

    /// Bytes that go out next; whatever was there before has gone out.
    fn put(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.position = self.position.checked_add(offset(bytes.len())?).ok_or_else(too_large)?;
        (self.ready, self.at) = (bytes, 0);
        Ok(())
    }

    fn record(&mut self, line: &IndexLine) -> Result<()> {
        if line.outcome != EntryOutcome::Whole {
            self.n_failed += 1;
            if self.failed.len() < MAX_FAILED {
                self.failed.push((line.path.clone(), line.reason.clone().unwrap_or_default()));
            }
        }
        self.lines += 1;
        self.spool.as_mut().map_or(Ok(()), |spool| spool.push(&line.to_line()?))
    }

    /// Copies from the body that streams now. Zero when it has ended.
    fn stream(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Some(now) = &mut self.streaming else { return Ok(0) };
        let left = now.line.size - now.done;
        if left == 0 {
            if now.line.outcome == EntryOutcome::Whole {
                (now.line.outcome, now.line.reason) = proven_end(&mut *now.body.body)?;
            }
            now.line.blake3 = Some(now.hash.finalize().to_hex().to_string());
            let line = now.line.clone();
            self.streaming = None;
            self.put(vec![0; tar::padding(line.size)])?;
            self.record(&line)?;
            return Ok(0);
        }
        let most = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buf = &mut buf[..most];
        let n = match now.line.outcome {
            EntryOutcome::Whole => match now.body.body.read(buf) {
                Ok(0) => Err(ended_early(now.done, now.line.size)),
                Ok(n) => Ok(n),
                Err(error) if error.kind() == Kind::Cancelled => return Err(error),
                Err(error) => Err(reason(&error)),
            },
            _ => {
                buf.fill(0);
                Ok(buf.len())
            }
        };
        match n {
            Ok(n) => {
                now.hash.update(&buf[..n]);
                now.done += offset(n)?;
                self.position = self.position.checked_add(offset(n)?).ok_or_else(too_large)?;
                Ok(n)
            }
            Err(why) => {
                (now.line.outcome, now.line.reason) = (EntryOutcome::Short, Some(why));
                Ok(0)
            }
        }
    }

    /// The next entry, taken into the stream. False when nothing is ready and `wait` is not allowed.
    fn advance(&mut self, may_wait: bool) -> Result<bool> {
        if self.taken.is_empty() {
            match self.queue.take(may_wait) {
                Taken::Entries(taken) => self.taken = taken,
                Taken::Finished => {
                    self.put(tar::END.to_vec())?;
                    self.ended = true;
                    return Ok(true);
                }
                Taken::Dropped => {
                    return Err(Error::new(Kind::Cancelled, "an archive was dropped before it was finished"));
                }
                Taken::NotYet => return Ok(false),
            }
        }
        if let Some(opened) = self.taken.pop_front() {
            self.begin(opened)?;
        }
        Ok(true)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            if self.at < self.ready.len() {
                let some = (buf.len() - n).min(self.ready.len() - self.at);
                buf[n..n + some].copy_from_slice(&self.ready[self.at..self.at + some]);
                self.at += some;
                n += some;
            } else if self.streaming.is_some() {
                if n > 0 {
                    break;
                }
                n += self.stream(&mut buf[n..])?;
            } else if self.ended {
                if n == 0 {
                    self.close()?;
                }
                break;
            } else if !self.advance(n == 0)? {
                break;
            }
        }
        Ok(n)
    }

    /// Hands over the index, once.
    fn close(&mut self) -> Result<()> {
        let Some(mut spool) = self.spool.take() else { return Ok(()) };
        spool.push(&index::tail(self.lines)?)?;
        let index: SpoolSource = spool.read_back()?;
        let mut failed = std::mem::take(&mut self.failed);
        let more = self.n_failed - u64::try_from(failed.len()).unwrap_or(0);
        if more > 0 {
            failed.push((format!("and {more} more"), "the archive's index names them all".to_owned()));
        }
        let packed = Packed { index: Box::new(index), failed, n_entries: self.entries, n_failed: self.n_failed };
        *locked(&self.shared.done) = Some(packed);
        Ok(())
    }
}

fn offset(n: usize) -> Result<u64> {
    u64::try_from(n).map_err(|_| too_large())
}

fn too_large() -> Error {
    Error::new(Kind::Limit, "an archive cannot be larger than 2^64 bytes")
}

impl ByteSource for ArchiveTar {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if locked(&self.shared.broken).is_some() {
            return Err(self.shared.why_broken());
        }
        self.fill(buf).inspect_err(|error| {
            *locked(&self.shared.broken) = Some((error.kind(), error.message().to_owned()));
            self.queue.leave();
        })
    }
}

impl Drop for ArchiveTar {
    fn drop(&mut self) {
        self.queue.leave();
    }
}

impl ArchiveEnd {
    /// The index and what is missing. Errors: `Invalid` while the tar has not been read to its end.
    pub fn take(self) -> Result<Packed> {
        locked(&self.0.done).take().ok_or_else(|| Error::invalid("an archive has no index before its tar has ended"))
    }
}
