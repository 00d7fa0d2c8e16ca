//! Reading an archive: entry after entry from a stream, or one alone from its place.
//!
//! What is read is not trusted. With an index, an entry's body is what the index says, or its source
//! fails; an entry that was not whole when it was packed fails when it is read.

use super::index::{EntryOutcome, IndexLine, IndexReader, max_line_bytes};
use super::tar::{self, BLOCK, Block, Pax};
use super::{Entry, SMALL_BYTES, locked};
use crate::error::{Error, Kind, Result};
use crate::stream::{ByteSource, Leash, Origin, Source, SourceInfo};
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Small bodies that are read but not yet consumed, together; beyond it, bodies stream.
const BUDGET_BYTES: u64 = 16 << 20;
/// Most bytes that one read at a place asks for.
const PIECE_BYTES: usize = 256 * 1024;

/// Bytes of an artifact at any place.
pub trait RandomAccess: Send {
    /// Up to `len` bytes from `offset`, fewer only at the end of the artifact; proven as recorded.
    fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes>;
}

fn damaged(got: impl Into<String>) -> Error {
    Error::damaged("could not read an archive").fact("got", got)
}

/// The tar as a stream that knows where it stands.
struct Input {
    source: Box<dyn ByteSource>,
    chunk: Bytes,
    position: u64,
}

impl Input {
    /// The next bytes, at most `max`; empty at the proven end.
    fn some(&mut self, max: usize) -> Result<Bytes> {
        if self.chunk.is_empty() {
            self.chunk = self.source.next_chunk()?.unwrap_or_default();
        }
        let n = max.min(self.chunk.len());
        self.position = self.position.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        Ok(self.chunk.split_to(n))
    }

    /// Exactly `n` bytes, which the caller has bounded.
    fn exact(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut all = Vec::with_capacity(n);
        while all.len() < n {
            let some = self.some(n - all.len())?;
            if some.is_empty() {
                return Err(damaged("an end in the middle of an entry"));
            }
            all.extend_from_slice(&some);
        }
        Ok(all)
    }

    fn skip(&mut self, mut n: u64) -> Result<()> {
        while n > 0 {
            let some = self.some(usize::try_from(n).unwrap_or(usize::MAX))?;
            if some.is_empty() {
                return Err(damaged("an end in the middle of an entry"));
            }
            n -= u64::try_from(some.len()).unwrap_or(n).min(n);
        }
        Ok(())
    }
}

/// Reads entries in their order. Blocking.
pub struct ArchiveReader {
    shared: Arc<Shared>,
    index: Option<IndexReader>,
    origin: Origin,
    budget: Arc<AtomicU64>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    free: Condvar,
}

struct State {
    input: Input,
    /// The body that is being read from the stream, by the number of its entry.
    body: Option<Body>,
    number: u64,
    /// Left of the entry that was handed out last, with its padding.
    left: u64,
}

struct Body {
    expected: Option<Expected>,
    leash: Leash,
    left: u64,
    /// Its source lives.
    in_use: bool,
}

impl State {
    /// Reads what is left of the body that was handed out last, and checks all of it.
    fn pass_over(&mut self) -> Result<()> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        while body.left > 0 {
            let some = self.input.some(usize::try_from(body.left).unwrap_or(usize::MAX))?;
            if some.is_empty() {
                return Err(damaged("an end in the middle of an entry"));
            }
            if let Some(expected) = &mut body.expected {
                expected.hash.update(&some);
            }
            let n = u64::try_from(some.len()).unwrap_or(0);
            body.left = body.left.saturating_sub(n);
            self.left = self.left.saturating_sub(n);
        }
        body.expected.as_ref().map_or(Ok(()), Expected::check)
    }
}

struct Expected {
    path: String,
    blake3: blake3::Hash,
    hash: blake3::Hasher,
}

impl Expected {
    fn check(&self) -> Result<()> {
        let got = self.hash.finalize();
        if got == self.blake3 {
            return Ok(());
        }
        Err(Error::damaged(format!("{:?} in an archive is not what was packed", self.path))
            .fact("expected", format!("BLAKE3 {}", self.blake3.to_hex()))
            .fact("got", format!("BLAKE3 {}", got.to_hex())))
    }
}

impl ArchiveReader {
    /// A reader of a tar, from its first entry. `origin` is what the bodies' sources say of themselves.
    pub fn new(tar: Box<dyn ByteSource>, index: Option<Box<dyn ByteSource>>, origin: Origin) -> Self {
        let input = Input { source: tar, chunk: Bytes::new(), position: 0 };
        let state = State { input, body: None, number: 0, left: 0 };
        Self {
            shared: Arc::new(Shared { state: Mutex::new(state), free: Condvar::new() }),
            index: index.map(IndexReader::new),
            origin,
            budget: Arc::default(),
            ended: false,
        }
    }

    /// The next entry and its body, or `None` at the proven end of tar and index.
    ///
    /// A small body is read and checked at once and stays readable; a large one is part of the
    /// stream: if the host is still moving it, this waits; if only the guest holds it, its source fails
    /// from now on. What was not read of a body is passed over, and checked against the index all the
    /// same: iterating to the end proves every entry. Errors: `Damaged`, and those of the sources.
    pub fn next_entry(&mut self) -> Result<Option<(Entry, Source)>> {
        if self.ended {
            return Ok(None);
        }
        let next = self.advance();
        // Behind an error there is nothing to trust.
        self.ended = !matches!(next, Ok(Some(_)));
        next
    }

    /// The next entries as [`Self::next_entry`] gives them, at least one and at most `max`: up to the
    /// first that ends the archive, fails, or has a body that is part of the stream. All but the last
    /// stay readable whatever is asked for next. For readers that hand entries to another thread.
    pub fn next_entries(&mut self, max: usize) -> Vec<Result<Option<(Entry, Source)>>> {
        let mut entries = Vec::new();
        loop {
            let next = self.next_entry();
            let is_last = !matches!(next, Ok(Some(_))) || locked(&self.shared.state).body.is_some();
            entries.push(next);
            if is_last || entries.len() >= max {
                return entries;
            }
        }
    }

    fn advance(&mut self) -> Result<Option<(Entry, Source)>> {
        let mut state = locked(&self.shared.state);
        while state.body.as_ref().is_some_and(|body| body.in_use && !body.leash.is_held()) {
            state = self.shared.free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pass_over()?;
        let left = std::mem::take(&mut state.left);
        state.input.skip(left)?;
        let Some(found) = next_header(&mut state.input)? else {
            if let Some(line) = self.index.as_mut().map(next_in_tar).transpose()?.flatten() {
                return Err(damaged("an end of the tar").fact("expected", format!("{:?}", line.path)));
            }
            return Ok(None);
        };
        let line = self.index.as_mut().map(|index| expect(index, &found, state.input.position)).transpose()?;
        let padding = u64::try_from(tar::padding(found.size)).unwrap_or(0);
        state.left = found.size.checked_add(padding).ok_or_else(|| damaged("an entry without an end"))?;
        state.number += 1;
        let entry = line.as_ref().map_or(found, IndexLine::entry);
        if let Some(failed) = line.as_ref().and_then(FailedBody::of) {
            return Ok(Some((entry, Source::new(self.origin.clone(), failed))));
        }
        let expected = line.as_ref().map(expected_of).transpose()?;
        let info = SourceInfo { len: Some(entry.size), attributes: entry.attributes.clone() };
        let held = self.budget.load(Ordering::Relaxed);
        if entry.size <= SMALL_BYTES && held.saturating_add(entry.size) <= BUDGET_BYTES {
            let bytes = state.input.exact(usize::try_from(entry.size).unwrap_or(0))?;
            state.left = padding;
            if let Some(mut expected) = expected {
                expected.hash.update(&bytes);
                expected.check()?;
            }
            let body = SmallBody::new(info, bytes, &self.budget);
            return Ok(Some((entry, Source::new(self.origin.clone(), body))));
        }
        let leash = Leash::held();
        let (number, left) = (state.number, entry.size);
        state.body = Some(Body { expected, leash: leash.clone(), left, in_use: true });
        let body = StreamBody { shared: self.shared.clone(), number, info };
        let mut source = Source::new(self.origin.clone(), body);
        source.leash = leash;
        Ok(Some((entry, source)))
    }
}

/// Headers up to the next entry; `None` at the end of the archive, behind which there is nothing.
fn next_header(input: &mut Input) -> Result<Option<Entry>> {
    let mut pax = Pax::default();
    loop {
        match tar::parse_block(&input.exact(BLOCK)?)? {
            Block::Pax(len) => {
                let n = usize::try_from(len).map_err(|_| damaged("too long a header"))?;
                let records = input.exact(n + tar::padding(len))?;
                pax = Pax::parse(&records[..n])?;
            }
            Block::Entry(block) => return tar::parse_entry(&block, pax).map(Some),
            Block::Empty => {
                if input.exact(BLOCK)?.iter().any(|b| *b != 0) {
                    return Err(damaged("one empty block where two end an archive"));
                }
                return if input.some(1)?.is_empty() { Ok(None) } else { Err(damaged("something behind the end")) };
            }
        }
    }
}

/// The next line of an entry that is in the tar.
fn next_in_tar(index: &mut IndexReader) -> Result<Option<IndexLine>> {
    loop {
        match index.next_line()? {
            Some(line) if line.outcome == EntryOutcome::Unread => {}
            line => return Ok(line),
        }
    }
}

fn expect(index: &mut IndexReader, found: &Entry, position: u64) -> Result<IndexLine> {
    let Some(line) = next_in_tar(index)? else {
        return Err(damaged(format!("{:?}", found.path)).fact("expected", "the end, by the index"));
    };
    if (line.path.as_str(), line.size, line.offset) != (found.path.as_str(), found.size, Some(position)) {
        return Err(damaged(format!("{:?} of {} bytes at {position}", found.path, found.size))
            .fact("expected", format!("{:?} of {} bytes at {:?}, by the index", line.path, line.size, line.offset)));
    }
    Ok(line)
}

fn expected_of(line: &IndexLine) -> Result<Expected> {
    let hash = line.blake3.as_deref().unwrap_or_default();
    let blake3 = blake3::Hash::from_hex(hash).map_err(|_| damaged("an index without a digest"))?;
    Ok(Expected { path: line.path.clone(), blake3, hash: blake3::Hasher::new() })
}

/// A body that was not whole when it was packed.
struct FailedBody {
    path: String,
    reason: String,
}

impl FailedBody {
    fn of(line: &IndexLine) -> Option<Self> {
        let failed = line.outcome != EntryOutcome::Whole;
        failed.then(|| Self { path: line.path.clone(), reason: line.reason.clone().unwrap_or_default() })
    }

    fn error(&self) -> Error {
        Error::failed(format!("{:?} was not captured whole", self.path)).fact("then", self.reason.clone())
    }
}

impl ByteSource for FailedBody {
    fn open(&mut self) -> Result<SourceInfo> {
        Err(self.error())
    }

    fn read(&mut self, _buf: &mut [u8]) -> Result<usize> {
        Err(self.error())
    }
}

/// A small body, read and checked.
struct SmallBody {
    info: SourceInfo,
    rest: Bytes,
    held: u64,
    budget: Arc<AtomicU64>,
}

impl SmallBody {
    fn new(info: SourceInfo, bytes: Vec<u8>, budget: &Arc<AtomicU64>) -> Self {
        let held = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        budget.fetch_add(held, Ordering::Relaxed);
        Self { info, rest: bytes.into(), held, budget: budget.clone() }
    }
}

impl Drop for SmallBody {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl ByteSource for SmallBody {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(self.info.clone())
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let rest = std::mem::take(&mut self.rest);
        Ok((!rest.is_empty()).then_some(rest))
    }
}

/// A large body, read from the stream in its turn.
struct StreamBody {
    shared: Arc<Shared>,
    number: u64,
    info: SourceInfo,
}

impl StreamBody {
    /// The next bytes, at most `max`; empty at the proven end.
    fn some(&mut self, max: usize) -> Result<Bytes> {
        let mut state = locked(&self.shared.state);
        let State { input, body, number, left } = &mut *state;
        let Some(body) = body.as_mut().filter(|_| *number == self.number) else {
            return Err(Error::invalid("could not read the body of an entry that was passed over"));
        };
        if body.left == 0 {
            return body.expected.as_ref().map_or(Ok(()), Expected::check).map(|()| Bytes::new());
        }
        let most = max.min(usize::try_from(body.left).unwrap_or(usize::MAX));
        let some = input.some(most)?;
        if some.is_empty() && most > 0 {
            return Err(damaged("an end in the middle of an entry"));
        }
        if let Some(expected) = &mut body.expected {
            expected.hash.update(&some);
        }
        let n = u64::try_from(some.len()).unwrap_or(0);
        body.left -= n;
        *left -= n;
        Ok(some)
    }
}

impl ByteSource for StreamBody {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(self.info.clone())
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let some = self.some(buf.len())?;
        buf[..some.len()].copy_from_slice(&some);
        Ok(some.len())
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let some = self.some(usize::MAX)?;
        Ok((!some.is_empty()).then_some(some))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut state = locked(&self.shared.state);
        if state.number == self.number
            && let Some(body) = &mut state.body
        {
            body.in_use = false;
        }
        drop(state);
        self.shared.free.notify_all();
    }
}

/// Reads single entries of an archive from their places.
pub struct IndexedArchive {
    tar: Arc<Mutex<dyn RandomAccess>>,
    index: Arc<Mutex<dyn RandomAccess>>,
    /// Where the line of a path begins, by the path's hash.
    places: HashMap<[u8; 16], u64>,
    origin: Origin,
}

impl IndexedArchive {
    /// Reads the whole index once. Errors: `Damaged`, and those of reading.
    pub fn open(
        tar: Arc<Mutex<dyn RandomAccess>>,
        index: Arc<Mutex<dyn RandomAccess>>,
        origin: Origin,
    ) -> Result<Self> {
        let mut lines = IndexReader::new(Box::new(Pieces { from: index.clone(), at: 0 }));
        let mut places = HashMap::new();
        while let Some(line) = lines.next_line()? {
            if places.insert(hash_of(&line.path), lines.place().0).is_some() {
                return Err(damaged(format!("{:?} twice in the index", line.path)));
            }
        }
        Ok(Self { tar, index, places, origin })
    }

    /// One entry and its body. Errors: `NotFound` also for one that could not be opened when the
    /// archive was made, with the reason.
    pub fn entry(&self, path: &str) -> Result<(Entry, Source)> {
        let missing =
            || Error::not_found(format!("{:?} is not in the archive", path.chars().take(200).collect::<String>()));
        let place = *self.places.get(&hash_of(path)).ok_or_else(missing)?;
        let line = read_line(&self.index, place)?;
        if line.path != path {
            return Err(damaged(format!("{:?} in the index", line.path)).fact("expected", format!("{path:?}")));
        }
        let Some(offset) = line.offset else {
            return Err(missing().fact("then", line.reason.unwrap_or_default()));
        };
        let entry = line.entry();
        if let Some(failed) = FailedBody::of(&line) {
            return Ok((entry, Source::new(self.origin.clone(), failed)));
        }
        let info = SourceInfo { len: Some(line.size), attributes: line.attributes.clone() };
        let body =
            PlacedBody { tar: self.tar.clone(), at: offset, left: line.size, expected: expected_of(&line)?, info };
        Ok((entry, Source::new(self.origin.clone(), body)))
    }
}

fn hash_of(path: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..16]);
    key
}

fn read_line(index: &Mutex<dyn RandomAccess>, mut at: u64) -> Result<IndexLine> {
    let mut line = Vec::new();
    loop {
        // Most lines are short: a first small read, then larger ones.
        let piece = locked(index).read_at(at, if line.is_empty() { 4_096 } else { PIECE_BYTES })?;
        let end = piece.iter().position(|b| *b == b'\n');
        line.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        if end.is_some() {
            return IndexLine::parse(&line);
        }
        if piece.is_empty() || line.len() > max_line_bytes() {
            return Err(damaged("an index that ends inside a line"));
        }
        at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
    }
}

/// An artifact from its first byte to its end, by reads at places.
struct Pieces {
    from: Arc<Mutex<dyn RandomAccess>>,
    at: u64,
}

impl ByteSource for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let piece = read_piece(&self.from, self.at, buf.len())?;
        buf[..piece.len()].copy_from_slice(&piece);
        self.at = self.at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Ok(piece.len())
    }
}

fn read_piece(from: &Mutex<dyn RandomAccess>, at: u64, max: usize) -> Result<Bytes> {
    let len = max.min(PIECE_BYTES);
    let piece = locked(from).read_at(at, len)?;
    if piece.len() > len {
        return Err(Error::new(Kind::Failed, "more bytes came than were asked for"));
    }
    Ok(piece)
}

/// A body at its place in the tar.
struct PlacedBody {
    tar: Arc<Mutex<dyn RandomAccess>>,
    at: u64,
    left: u64,
    expected: Expected,
    info: SourceInfo,
}

impl ByteSource for PlacedBody {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(self.info.clone())
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.left == 0 {
            return self.expected.check().map(|()| 0);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let piece = read_piece(&self.tar, self.at, most)?;
        if piece.is_empty() {
            return Err(damaged("an end in the middle of an entry"));
        }
        self.expected.hash.update(&piece);
        let n = u64::try_from(piece.len()).unwrap_or(0);
        self.at = self.at.saturating_add(n);
        self.left -= n;
        buf[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
