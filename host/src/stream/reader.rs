//! Reading: from sealed segments back to the artifact, in parallel, each frame proven first.
//!
//! ```text
//! K ranged reads in order -> workers: open, decode, compare with the proven chaining value
//!                         -> one frame after the other to the consumer
//! ```
//!
//! No byte leaves before its frame is proven; there is no temporary copy. A whole read also
//! compares each segment's CRC64NVME as stored with the record, so that damage which does not
//! change the plaintext (padding bits of a frame) is found too. This module never writes.

use super::assemble::until_cancelled;
use super::blocking::wait_for;
use super::budget::{Budget, Permit, Transfer, worker_failed};
use super::digest;
use super::frame::FRAME_BYTES;
use super::index::{Index, OpenedSegment, in_segment, segment_number, slice};
use super::pool::{Buffer, Room};
use super::seal::Identity;
use super::segment::SealedSegments;
use super::source::{ByteSource, SourceInfo, take_from};
use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};
use crate::footprint::Age;
use crate::record::ArtifactRecord;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Opens an artifact to be read: reads the tails of its segments and proves them against the
/// record's digest, so that every frame is proven before it leaves.
///
/// `record` must come from a record whose signature was checked. Memory: four tails at hand (150 KiB each for ordinary
/// data, 2.5 MiB at most), while they are proven K more, and while reading what [`super::budget`] says. Errors:
/// `Denied` without a fitting identity, `Damaged` for anything that is not as recorded, and those of the store.
pub async fn open_artifact(
    record: &ArtifactRecord,
    segments: Arc<dyn SealedSegments>,
    identity: Option<&Identity>,
    budget: &Arc<Budget>,
    cancel: CancellationToken,
) -> Result<ArtifactReader> {
    let index = Index::open(record, segments, identity, budget, cancel).await?;
    Ok(ArtifactReader {
        range: 0..index.record.size,
        index: Arc::new(index),
        runtime: Handle::current(),
        state: State::Idle,
        current: Bytes::new(),
        cached: Mutex::new(None),
    })
}

/// An opened artifact. As a [`ByteSource`] it is the whole artifact, or a range of it; the random
/// access of [`ArtifactReader::read_at`] is independent of that. For blocking threads; needs the
/// runtime that it was opened on.
pub struct ArtifactReader {
    index: Arc<Index>,
    runtime: Handle,
    range: Range<u64>,
    state: State,
    current: Bytes,
    /// The frame that was read last by `read_at`: neighbours in an archive are mostly in it.
    cached: Mutex<Option<(u64, Bytes)>>,
}

enum State {
    /// Nothing was asked for yet, nothing is fetched.
    Idle,
    Running(Running),
    /// The proven end was handed out.
    Ended,
    /// An error was handed out; there is nothing after it.
    Broken,
}

struct Running {
    steps: mpsc::UnboundedReceiver<Result<Step>>,
    /// Plaintext offset of the frame that comes next.
    offset: u64,
    /// CRC64NVME of the segment so far, as stored, and how many bytes that is.
    crc: (u64, u64),
    age: Age,
    stop: CancellationToken,
    _stopped_when_dropped: DropGuard,
}

/// What the fetcher hands over, in order.
enum Step {
    Frame(oneshot::Receiver<Result<ProvenFrame>>),
    /// All stored bytes of this segment were seen.
    SegmentEnd(usize),
}

struct ProvenFrame {
    buffer: Buffer,
    len: usize,
    /// CRC64NVME of the stored bytes that came with it, and how many they are.
    stored: (u64, u64),
}

impl ArtifactReader {
    /// Plaintext of the whole artifact in bytes.
    pub fn size(&self) -> u64 {
        self.index.record.size
    }

    /// The record that it was opened by.
    pub fn record(&self) -> &ArtifactRecord {
        &self.index.record
    }

    /// A reader of `range` of the plaintext only, from its start. Costs nothing until it is read.
    pub fn range(&self, range: Range<u64>) -> Result<Self> {
        self.check_range(&range)?;
        Ok(Self {
            index: self.index.clone(),
            runtime: self.runtime.clone(),
            range,
            state: State::Idle,
            current: Bytes::new(),
            cached: Mutex::new(None),
        })
    }

    /// `len` bytes at `offset` of the plaintext, proven. Whole frames are read and the last one is
    /// kept, so that a walk through neighbours reads each frame once. Meant for small pieces: the
    /// answer is in memory. Errors: `Invalid` beyond the end, `Damaged`, those of the store.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64);
        self.check_range(&(offset..end))?;
        let mut out = BytesMut::new();
        let mut at = offset;
        while at < end {
            let frame = at / FRAME_BYTES as u64;
            let bytes = self.frame(frame)?;
            let piece = trim(&bytes, frame * FRAME_BYTES as u64, &(at..end));
            if piece.len() == len {
                return Ok(piece);
            }
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    fn check_range(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.size() {
            return Ok(());
        }
        Err(Error::invalid(format!("artifact \"{}\" has no such range", self.index.record.name))
            .fact("expected", format!("within {} bytes", self.size()))
            .fact("got", format!("{} to {}", range.start, range.end)))
    }

    fn frame(&self, number: u64) -> Result<Bytes> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, bytes)) = cached.filter(|(cached, _)| *cached == number) {
            return Ok(bytes);
        }
        let index = self.index.clone();
        let read = self.runtime.spawn(async move { read_one_frame(&index, number).await });
        let proven = until_cancelled(&self.index.cancel, read)?.map_err(runtime_gone)??;
        let bytes = proven.into_bytes();
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, bytes.clone()));
        Ok(bytes)
    }

    fn start(&self) -> Running {
        let (sender, steps) = mpsc::unbounded_channel();
        let stop = self.index.cancel.child_token();
        let offset = self.range.start / FRAME_BYTES as u64 * FRAME_BYTES as u64;
        let fetcher = Fetcher {
            index: self.index.clone(),
            transfer: self.index.budget.begin(),
            range: self.range.clone(),
            steps: sender,
        };
        self.runtime.spawn(stop.clone().run_until_cancelled_owned(fetcher.run()));
        Running {
            steps,
            offset,
            crc: (0, 0),
            age: Age::default(),
            stop: stop.clone(),
            _stopped_when_dropped: stop.drop_guard(),
        }
    }

    /// The next proven bytes of the range, or its end.
    fn advance(&mut self) -> Result<Option<Bytes>> {
        if matches!(self.state, State::Idle) {
            self.state = State::Running(self.start());
        }
        let running = match &mut self.state {
            State::Running(running) => running,
            State::Ended => return Ok(None),
            State::Idle | State::Broken => {
                return Err(Error::failed(format!(
                    "artifact \"{}\" was read on after an error",
                    self.index.record.name
                )));
            }
        };
        let next = running.next(&self.index, &self.range);
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Broken,
        }
        next
    }
}

impl Running {
    fn next(&mut self, index: &Index, range: &Range<u64>) -> Result<Option<Bytes>> {
        loop {
            let step = until_cancelled(&index.cancel, self.steps.recv())?;
            match step.transpose()? {
                // Tokens reach their children first: the fetcher may be gone before the run is over.
                None if self.stop.is_cancelled() => return Err(Error::cancelled("reading was cancelled")),
                None if self.offset >= range.end => return Ok(None),
                None => return Err(Error::failed("reading stopped before the end of the artifact")),
                Some(Step::Frame(decoded)) => {
                    let frame = wait_for(decoded).map_err(worker_failed)??;
                    let (crc, bytes) = frame.stored;
                    self.crc = (digest::combine_crc64nvme(self.crc.0, crc, bytes), self.crc.1 + bytes);
                    let frame = frame.into_bytes();
                    let start = self.offset;
                    self.offset += frame.len() as u64;
                    self.age.frame();
                    let bytes = trim(&frame, start, range);
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Step::SegmentEnd(i)) => {
                    let (crc, bytes) = std::mem::take(&mut self.crc);
                    check_stored_crc(index, i, crc, bytes)?;
                }
            }
        }
    }
}

/// Compares what was read of a whole segment with its record.
fn check_stored_crc(index: &Index, i: usize, crc: u64, bytes: u64) -> Result<()> {
    let (expected, got) = (&index.record.segments[i].crc64nvme, digest::show_crc(crc));
    let is_right = *expected == got && index.record.segments[i].stored_bytes == bytes;
    if is_right || failpoint::is_broken(Breakage::IgnoreStoredDigest) {
        return Ok(());
    }
    let cause = Error::damaged("the stored bytes are not those that were recorded")
        .fact("expected", format!("CRC64NVME {expected}"))
        .fact("got", format!("CRC64NVME {got}"));
    // Every frame of it was right: what else of it is not, the checksum does not say.
    Err(in_segment(&index.record, segment_number(i)?, cause))
}

impl ProvenFrame {
    /// Lets the frame's permit go: the consumer decides how long it keeps the bytes, and nothing in
    /// the pipeline may wait for that.
    fn into_bytes(mut self) -> Bytes {
        drop(self.buffer.take_permit());
        self.buffer.freeze(self.len)
    }
}

/// What of `frame`, which starts at `start`, lies in `range`.
fn trim(frame: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    let place = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(frame.len());
    frame.slice(place(range.start)..place(range.end))
}

fn runtime_gone(error: tokio::task::JoinError) -> Error {
    Error::failed("the runtime stopped while an artifact was read").because(error)
}

impl ByteSource for ArtifactReader {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.range.end - self.range.start), attributes: Vec::new() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.current.is_empty() {
            match self.advance()? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        Ok(take_from(&mut self.current, buf))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        match std::mem::take(&mut self.current) {
            rest if rest.is_empty() => self.advance(),
            rest => Ok(Some(rest)),
        }
    }
}

/// Stored bytes of some frames, while they are under way or being decoded. Their room is free again
/// when the last of these frames is.
struct Run {
    segment: Arc<OpenedSegment>,
    stored: Range<u64>,
    bytes: Bytes,
}

/// A run that was asked for.
struct Asked {
    segment: Arc<OpenedSegment>,
    frames: Range<usize>,
    stored: Range<u64>,
    /// Stored bytes of this run that no earlier run had; `None` when only a range is read.
    fresh: Option<Range<u64>>,
    is_last_of_segment: bool,
    bytes: Abandoned,
}

/// A read in its own task that ends with whoever asked for it.
struct Abandoned(JoinHandle<Result<Bytes>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Fetcher {
    index: Arc<Index>,
    transfer: Transfer,
    range: Range<u64>,
    steps: mpsc::UnboundedSender<Result<Step>>,
}

impl Fetcher {
    async fn run(self) {
        let (asked, runs) = mpsc::unbounded_channel();
        // Asking runs ahead by as many parts as there are permits; handing over is in order.
        let outcome = tokio::try_join!(self.ask(asked), self.hand_over(runs));
        if let Err(error) = outcome {
            // The consumer is gone only when it does not want to know.
            let _ = self.steps.send(Err(error));
        }
    }

    async fn ask(&self, asked: mpsc::UnboundedSender<Asked>) -> Result<()> {
        let frame_bytes = FRAME_BYTES as u64;
        let first = self.range.start / frame_bytes;
        let end = self.range.end.div_ceil(frame_bytes).max(first);
        let is_whole = self.is_whole();
        // An empty artifact still has a frame to be proven.
        let frames = if is_whole { 0..self.index.n_frames() } else { first..end };
        let mut next = frames.start;
        while next < frames.end {
            let segment = self.index.segment(self.index.segment_of(next)).await?;
            let from = usize::try_from(next - segment.first_frame).unwrap_or(usize::MAX);
            let to =
                usize::try_from(frames.end - segment.first_frame).unwrap_or(usize::MAX).min(segment.frames().len());
            let mut seen = 0;
            for (run, stored) in self.split(&segment, from..to) {
                let is_last_of_segment = run.end == segment.frames().len();
                let fresh = is_whole.then_some(seen..stored.end);
                seen = stored.end;
                let bytes = self.fetch(segment.clone(), stored.clone(), self.transfer.room().await);
                let run = Asked { segment: segment.clone(), frames: run, stored, fresh, is_last_of_segment, bytes };
                if asked.send(run).is_err() {
                    return Ok(());
                }
            }
            next = segment.first_frame + segment.frames().len() as u64;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.range == (0..self.index.record.size)
    }

    /// Cuts frames into runs that are read at once, and says where each is stored. A run is a frame at least, and no
    /// longer than [`Budget::run_bytes`] otherwise.
    fn split(&self, segment: &OpenedSegment, frames: Range<usize>) -> Vec<(Range<usize>, Range<u64>)> {
        let mut runs: Vec<(Range<usize>, Range<u64>)> = Vec::new();
        for i in frames {
            if let Some((run, stored)) = runs.last_mut() {
                let longer = self.stored(segment, run.start..i + 1);
                if span_bytes(&longer) <= self.index.budget.run_bytes() {
                    (run.end, *stored) = (i + 1, longer);
                    continue;
                }
            }
            runs.push((i..i + 1, self.stored(segment, i..i + 1)));
        }
        runs
    }

    /// Where frames are stored. Where all is read, the header comes with the first of them and the tail with the last.
    fn stored(&self, segment: &OpenedSegment, frames: Range<usize>) -> Range<u64> {
        let Range { start, end } = stored_span(segment, frames.clone());
        let (is_first, is_last) = (frames.start == 0, frames.end == segment.frames().len());
        let start = if self.is_whole() && is_first { 0 } else { start };
        start..if self.is_whole() && is_last { segment.stored_bytes } else { end }
    }

    fn fetch(&self, segment: Arc<OpenedSegment>, stored: Range<u64>, room: Room) -> Abandoned {
        let index = self.index.clone();
        Abandoned(tokio::spawn(async move {
            let start = stored.start;
            let read = segment.fetch(index.segments.as_ref(), stored, &room).await;
            read.map_err(|error| index.damaged(segment.number, start, error))
        }))
    }

    async fn hand_over(&self, mut runs: mpsc::UnboundedReceiver<Asked>) -> Result<()> {
        while let Some(mut asked) = runs.recv().await {
            let bytes = (&mut asked.bytes.0).await.map_err(runtime_gone)??;
            let run = Arc::new(Run { segment: asked.segment, stored: asked.stored, bytes });
            let mut fresh = asked.fresh.clone();
            for i in asked.frames.clone() {
                let permit = self.transfer.frame_permit().await;
                let is_last = i + 1 == asked.frames.end;
                let own = fresh.as_mut().map(|fresh| {
                    let end = if is_last { fresh.end } else { stored_span(&run.segment, i..i + 1).end };
                    std::mem::replace(&mut fresh.start, end)..end
                });
                self.tell(Step::Frame(decode(&self.index, run.clone(), i, own, permit)));
            }
            if asked.is_last_of_segment && asked.fresh.is_some() {
                self.tell(Step::SegmentEnd(self.index.segment_of(run.segment.first_frame)));
            }
        }
        Ok(())
    }

    fn tell(&self, step: Step) {
        // See `Fetcher::run`.
        let _ = self.steps.send(Ok(step));
    }
}

fn span_bytes(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Stored bytes that hold these frames of a segment.
fn stored_span(segment: &OpenedSegment, frames: Range<usize>) -> Range<u64> {
    let entries = &segment.frames()[frames];
    match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => segment.stored_range(first.start..last.start + u64::from(last.stored_bytes)),
        _ => 0..0,
    }
}

/// A worker's job: open, decode and prove frame `i` of the run's segment. The checksum is that of the stored bytes
/// `own`, most of which the frame has just brought into the cache.
fn decode(
    index: &Arc<Index>,
    run: Arc<Run>,
    i: usize,
    own: Option<Range<u64>>,
    permit: Permit,
) -> oneshot::Receiver<Result<ProvenFrame>> {
    let index = index.clone();
    index.clone().budget.submit(move |bench| {
        let entry = run.segment.frames()[i];
        let mut buffer = index.budget.frame_buffer().with(permit);
        let stored = entry.start..entry.start + u64::from(entry.stored_bytes);
        let len = entry.plain_bytes as usize;
        let prove = || {
            let zstd = run.segment.open(&run.bytes, run.stored.start, stored, &mut bench.scratch)?;
            let own = own.as_ref().map(|own| slice(&run.bytes, run.stored.start, own)).transpose()?;
            let crc = own.map(|own| (digest::crc64nvme(own), own.len() as u64)).unwrap_or_default();
            bench.decoder.decode(zstd, &mut buffer[..len])?;
            let number = run.segment.first_frame + i as u64;
            let digest = digest::piece(number * FRAME_BYTES as u64, &buffer[..len]);
            let is_alone = index.n_frames() == 1;
            let is_right = digest.chaining == entry.chaining && (!is_alone || digest.alone == index.blake3);
            if is_right || failpoint::is_broken(Breakage::IgnoreFrameDigest) {
                return Ok(crc);
            }
            Err(Error::damaged(format!("frame {number} does not have the digest that the record proves")))
        };
        let offset = run.segment.stored_offset(entry.start);
        match prove() {
            Ok(stored) => Ok(ProvenFrame { buffer, len, stored }),
            Err(error) => Err(index.damaged(run.segment.number, offset, error)),
        }
    })
}

async fn read_one_frame(index: &Arc<Index>, number: u64) -> Result<ProvenFrame> {
    let read = async {
        let transfer = index.budget.begin();
        let segment = index.segment(index.segment_of(number)).await?;
        let i = usize::try_from(number - segment.first_frame).unwrap_or(usize::MAX);
        let stored = stored_span(&segment, i..i + 1);
        let room = transfer.room().await;
        let bytes = segment.fetch(index.segments.as_ref(), stored.clone(), &room).await;
        let bytes = bytes.map_err(|error| index.damaged(segment.number, stored.start, error))?;
        let run = Arc::new(Run { segment, stored, bytes });
        let permit = transfer.frame_permit().await;
        decode(index, run, i, None, permit).await.map_err(worker_failed)?
    };
    let cancelled = || Err(Error::cancelled("reading was cancelled"));
    index.cancel.run_until_cancelled(read).await.unwrap_or_else(cancelled)
}
