//! The proven index of an artifact: where each frame lies and what it must hash to.
//!
//! Opening reads the tails of all segments and merges their chaining values: the result is the
//! digest of the signed record or there is no index. A frame that matches its chaining value is
//! thereby proven, at any offset, before a byte of it is handed on. This module never reads a frame.

use super::budget::{Budget, worker_failed};
use super::check::Look;
use super::digest::Tree;
use super::frame::{FRAME_BYTES, MAX_FRAME_STORED_BYTES};
use super::pool::Room;
use super::seal::{self, CHUNK_BYTES, Identity, PayloadKey, SEALED_CHUNK_BYTES};
use super::segment::SealedSegments;
use super::tail::{FrameEntry, MAX_FRAMES_PER_SEGMENT, Tail};
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage};
use crate::record::{ArtifactRecord, SegmentRecord};
use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// How many tails are kept at hand (2.5 MiB each at most, 150 KiB for ordinary data); those of
/// larger artifacts are read again, and compared with what was proven, when they are needed.
const KEPT_SEGMENTS: usize = 4;

/// The most stored bytes of an artifact that are read only to name a segment in an error: about a second of work,
/// far below the time after which a call without progress is given up.
const MAX_NAMED_BYTES: u64 = 256 << 20;

/// What is said where they were not read for it.
const WHO_NAMES_THEM: &str = "`verify --depth stored` tells which segment was changed, swapped or put back";

/// A segment of which the tail was parsed.
pub(super) struct OpenedSegment {
    pub(super) number: u32,
    /// Number of its first frame in the artifact, from 0.
    pub(super) first_frame: u64,
    pub(super) stored_bytes: u64,
    /// Length of the age header with its nonce; 0 without encryption.
    header_bytes: u64,
    zstd_bytes: u64,
    pub(super) key: Option<PayloadKey>,
    tail: Tail,
    /// BLAKE3 of the tail as it was when its chaining values were proven.
    fingerprint: blake3::Hash,
    /// The whole segment where it is small and was read anyway.
    whole: Option<Bytes>,
}

impl OpenedSegment {
    pub(super) fn frames(&self) -> &[FrameEntry] {
        self.tail.frames()
    }

    /// Stored bytes that hold `range` of the zstd stream: whole messages when it is sealed.
    pub(super) fn stored_range(&self, range: Range<u64>) -> Range<u64> {
        match &self.key {
            None => range,
            Some(_) => stored_range_of(self.header_bytes, self.stored_bytes, &range),
        }
    }

    /// Where byte `at` of the zstd stream lies in the segment as stored.
    pub(super) fn stored_offset(&self, at: u64) -> u64 {
        match &self.key {
            None => at,
            Some(_) => {
                let chunk = CHUNK_BYTES as u64;
                self.header_bytes + at / chunk * SEALED_CHUNK_BYTES as u64 + at % chunk
            }
        }
    }

    /// The bytes `range` of the zstd stream out of `stored`, which begins at `stored_start`;
    /// decrypted into `scratch` when they are sealed. Errors: the message number that is damaged.
    pub(super) fn open<'a>(
        &self,
        stored: &'a [u8],
        stored_start: u64,
        range: Range<u64>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let needed = self.stored_range(range.clone());
        let stored = slice(stored, stored_start, &needed)?;
        let Some(key) = &self.key else { return Ok(stored) };
        open_messages(key, stored, &range, self.zstd_bytes, scratch)
    }

    /// Stored bytes of this segment, from memory where they are there already.
    pub(super) async fn fetch(&self, segments: &dyn SealedSegments, range: Range<u64>, room: &Room) -> Result<Bytes> {
        match &self.whole {
            Some(whole) => slice(whole, 0, &range).map(|found| whole.slice_ref(found)),
            None => read_exactly(segments, self.number, range, room).await,
        }
    }
}

/// A record and its segments, checked, opened and proven. Shared by all readers of the artifact.
pub(super) struct Index {
    pub(super) record: ArtifactRecord,
    pub(super) blake3: blake3::Hash,
    pub(super) segments: Arc<dyn SealedSegments>,
    pub(super) budget: Arc<Budget>,
    pub(super) cancel: CancellationToken,
    identity: Option<Identity>,
    /// First frame of each segment, and the number of frames at the end.
    first_frames: Vec<u64>,
    fingerprints: Vec<blake3::Hash>,
    kept: Mutex<VecDeque<Arc<OpenedSegment>>>,
}

impl Index {
    /// Checks the record, reads all tails and proves their chaining values.
    pub(super) async fn open(
        record: &ArtifactRecord,
        segments: Arc<dyn SealedSegments>,
        identity: Option<&Identity>,
        budget: &Arc<Budget>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let (blake3, first_frames) = check_record(record)?;
        if record.encrypted && identity.is_none() {
            return Err(Error::denied(format!("artifact \"{}\" is encrypted", record.name))
                .hint("name the age identity of one of its recipients, identity = { file = \"…\" }"));
        }
        let mut index = Self {
            record: record.clone(),
            blake3,
            segments,
            budget: budget.clone(),
            cancel,
            identity: identity.cloned(),
            first_frames,
            fingerprints: Vec::new(),
            kept: Mutex::new(VecDeque::new()),
        };
        let cancel = index.cancel.clone();
        let fingerprints = cancel.run_until_cancelled(index.prove()).await;
        index.fingerprints = fingerprints.unwrap_or_else(|| Err(Error::cancelled("reading was cancelled")))?;
        Ok(index)
    }

    /// Merges the chaining values of all segments, some of them read ahead, in order.
    async fn prove(&self) -> Result<Vec<blake3::Hash>> {
        let n_ahead = self.budget.settings().n_parts_in_flight;
        let mut opened =
            futures_util::stream::iter(0..self.record.segments.len()).map(|i| self.load(i)).buffered(n_ahead);
        let (mut tree, mut fingerprints) = (Tree::default(), Vec::new());
        while let Some(segment) = opened.try_next().await? {
            for frame in segment.frames() {
                tree.push_chaining(frame.chaining);
            }
            fingerprints.push(segment.fingerprint);
            self.keep(segment);
        }
        // A single frame is proven when it is decoded: its digest is the artifact's own.
        let is_proven = tree.n_pieces() == 1 || tree.finish() == Some(self.blake3);
        if is_proven || failpoint::is_broken(Breakage::IgnoreChaining) {
            return Ok(fingerprints);
        }
        let error =
            Error::damaged(format!("the segments of artifact \"{}\" are not those of its record", self.record.name))
                .fact("expected", format!("chaining values that merge into {}", self.blake3));
        Err(self.naming_the_segments(error).await)
    }

    /// Chaining values prove all segments together or none of them. Which one is not as it was, the stored bytes
    /// tell, and where they are few they are read for it.
    async fn naming_the_segments(&self, error: Error) -> Error {
        if self.record.stored_bytes() > MAX_NAMED_BYTES {
            return error.hint(WHO_NAMES_THEM);
        }
        let transfer = &self.budget.begin();
        // Reading contents is what came here: nobody else tells the place.
        let (record, segments) = (&self.record, self.segments.as_ref());
        let look = Look { record, segments, transfer, progress: &|_| {}, place: None };
        match look.all_segments().await {
            Ok(()) => error.fact("segments", "each of them is stored as it was recorded: the record is not true"),
            Err(found) if found.kind() == Kind::Damaged => {
                found.facts().iter().fold(error, |error, (label, fact)| error.fact(label, fact.clone()))
            }
            Err(unread) => {
                let why = format!("which one was not found out: {unread}: {}", unread.origin().message());
                error.fact("segments", why).hint(WHO_NAMES_THEM)
            }
        }
    }

    pub(super) fn n_frames(&self) -> u64 {
        self.first_frames.last().copied().unwrap_or(0)
    }

    /// Place of the segment with frame number `frame` in the record.
    pub(super) fn segment_of(&self, frame: u64) -> usize {
        self.first_frames.partition_point(|first| *first <= frame).saturating_sub(1)
    }

    /// The segment at this place in the record, proven; read again when it is not at hand.
    pub(super) async fn segment(&self, i: usize) -> Result<Arc<OpenedSegment>> {
        let number = segment_number(i)?;
        let kept = self.kept().iter().find(|segment| segment.number == number).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let again = self.load(i).await?;
        if self.fingerprints.get(i) != Some(&again.fingerprint) {
            return Err(self.damaged(
                number,
                again.stored_offset(again.tail.frames_bytes()),
                Error::damaged("its closing frames changed while it was read"),
            ));
        }
        self.keep(again.clone());
        Ok(again)
    }

    /// An error that says where in which segment; its kind is that of the cause.
    pub(super) fn damaged(&self, segment: u32, stored_offset: u64, cause: Error) -> Error {
        at(&self.record, segment, stored_offset, cause)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<OpenedSegment>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, segment: Arc<OpenedSegment>) {
        let mut kept = self.kept();
        if kept.len() == KEPT_SEGMENTS {
            kept.pop_front();
        }
        kept.push_back(segment);
    }

    async fn load(&self, i: usize) -> Result<Arc<OpenedSegment>> {
        let (number, record) = (segment_number(i)?, &self.record.segments[i]);
        let first_frame = self.first_frames[i];
        // Small segments come whole with the header: a thousand tiny artifacts are one request each.
        let head_bytes = record.stored_bytes.min(seal::MAX_HEADER_BYTES as u64);
        let is_whole = head_bytes == record.stored_bytes;
        let wrong = |offset, cause| self.damaged(number, offset, cause);
        let head = if is_whole || self.record.encrypted {
            read_exactly(self.segments.as_ref(), number, 0..head_bytes, &Room::fresh())
                .await
                .map_err(|e| wrong(0, e))?
        } else {
            Bytes::new()
        };
        let (header_bytes, key) = match &self.identity {
            Some(identity) if self.record.encrypted => {
                let (bytes, key) = seal::open_file(&head, identity).map_err(|e| wrong(0, e))?;
                (bytes as u64, Some(key))
            }
            _ => (0, None),
        };
        let expected = if key.is_some() { seal::sealed_bytes(record.zstd_bytes) } else { Some(record.zstd_bytes) };
        if expected.and_then(|bytes| bytes.checked_add(header_bytes)) != Some(record.stored_bytes) {
            return Err(wrong(
                0,
                Error::damaged("its header does not fit the recorded length")
                    .fact(
                        "expected",
                        format!("{} bytes with {} bytes of content", record.stored_bytes, record.zstd_bytes),
                    )
                    .fact("got", format!("a header of {header_bytes} bytes")),
            ));
        }
        let tail = record.zstd_bytes - Tail::len_for(record.frames)..record.zstd_bytes;
        let stored_range = match &key {
            Some(_) => stored_range_of(header_bytes, record.stored_bytes, &tail),
            None => tail.clone(),
        };
        let offset = stored_range.start;
        let stored = match is_whole {
            true => slice(&head, 0, &stored_range).map(|found| head.slice_ref(found)),
            false => read_exactly(self.segments.as_ref(), number, stored_range, &Room::fresh()).await,
        };
        let stored = stored.map_err(|e| wrong(offset, e))?;
        let (n_frames, zstd_bytes, stored_bytes) = (record.frames, record.zstd_bytes, record.stored_bytes);
        let whole = is_whole.then_some(head);
        // Decrypting and hashing up to 2.5 MiB is not for the async runtime.
        let opened = self.budget.submit(move |bench| {
            let plain = match &key {
                Some(key) => open_messages(key, &stored, &tail, zstd_bytes, &mut bench.scratch)?,
                None => &stored[..],
            };
            let fingerprint = blake3::hash(plain);
            let tail = Tail::parse(plain, n_frames, zstd_bytes)?;
            Ok(OpenedSegment {
                number,
                first_frame,
                stored_bytes,
                header_bytes,
                zstd_bytes,
                key,
                tail,
                fingerprint,
                whole,
            })
        });
        let opened = opened.await.map_err(worker_failed)?.map_err(|e| wrong(offset, e))?;
        self.check_last_frame(&opened).map_err(|e| wrong(offset, e))?;
        Ok(Arc::new(opened))
    }

    /// Every frame is full but the artifact's last, which holds the rest.
    fn check_last_frame(&self, segment: &OpenedSegment) -> Result<()> {
        let Some(last) = segment.frames().last() else { return Err(Error::damaged("it has no frame")) };
        let number = segment.first_frame + segment.tail.n_frames() - 1;
        let start = number * FRAME_BYTES as u64;
        let expected = self.record.size.saturating_sub(start).min(FRAME_BYTES as u64);
        if u64::from(last.plain_bytes) == expected {
            return Ok(());
        }
        Err(Error::damaged("its last frame does not hold what the record says")
            .fact("expected", format!("{expected} bytes"))
            .fact("got", format!("{} bytes", last.plain_bytes)))
    }
}

/// An error at a place of a segment. A segment that is not there is damage, since a record names it.
pub(super) fn at(record: &ArtifactRecord, segment: u32, stored_offset: u64, cause: Error) -> Error {
    let name = &record.name;
    match cause.kind() {
        Kind::NotFound => Error::damaged(format!("artifact \"{name}\" segment {segment:04} is missing")).because(cause),
        Kind::Cancelled => cause,
        kind => Error::new(kind, format!("artifact \"{name}\" segment {segment:04} at stored offset {stored_offset}"))
            .because(cause),
    }
}

/// The error for damage somewhere in a segment, where nothing says at which place: digests are of the whole.
pub(super) fn in_segment(record: &ArtifactRecord, segment: u32, cause: Error) -> Error {
    Error::new(cause.kind(), format!("artifact \"{}\" segment {segment:04}", record.name)).because(cause)
}

/// Of the `i`th segment of a record.
pub(crate) fn segment_number(i: usize) -> Result<u32> {
    u32::try_from(i + 1).map_err(|_| Error::damaged("the record names more segments than there can be"))
}

/// Reads and makes sure that the answer is as long as what was asked for.
pub(super) async fn read_exactly(
    segments: &dyn SealedSegments,
    number: u32,
    range: Range<u64>,
    room: &Room,
) -> Result<Bytes> {
    let expected = range.end.saturating_sub(range.start);
    let bytes = segments.read(number, range, room).await?;
    if bytes.len() as u64 == expected {
        return Ok(bytes);
    }
    Err(Error::damaged("the store has fewer bytes than were recorded")
        .fact("expected", format!("{expected} bytes"))
        .fact("got", format!("{} bytes", bytes.len())))
}

/// Whether the numbers of a record can be true at all, before anything is allocated by them.
/// Returns its digest, and the first frame of each segment with their number at the end.
fn check_record(record: &ArtifactRecord) -> Result<(blake3::Hash, Vec<u64>)> {
    let bad = |what: &str| {
        Error::damaged(format!("the record of artifact \"{}\" contradicts itself", record.name)).fact("got", what)
    };
    let blake3 = blake3::Hash::from_hex(&record.blake3).map_err(|_| bad("a digest that is not 64 hex digits"))?;
    let mut first_frames = vec![0];
    let mut n_frames = 0_u64;
    for segment in &record.segments {
        if !is_possible(segment, record.encrypted) {
            return Err(bad(&format!("segment {:04} with sizes that do not fit together", first_frames.len())));
        }
        n_frames += segment.frames;
        first_frames.push(n_frames);
    }
    if n_frames == record.size.div_ceil(FRAME_BYTES as u64).max(1) {
        return Ok((blake3, first_frames));
    }
    Err(bad(&format!("{n_frames} frames for {} bytes", record.size)))
}

fn is_possible(segment: &SegmentRecord, is_encrypted: bool) -> bool {
    if segment.frames == 0 || segment.frames > MAX_FRAMES_PER_SEGMENT {
        return false;
    }
    let tail = Tail::len_for(segment.frames);
    let frames = segment.frames..=segment.frames * MAX_FRAME_STORED_BYTES as u64;
    let is_sized = segment.zstd_bytes.checked_sub(tail).is_some_and(|bytes| frames.contains(&bytes));
    is_sized
        && if is_encrypted {
            segment.stored_bytes > segment.zstd_bytes
        } else {
            segment.stored_bytes == segment.zstd_bytes
        }
}

fn stored_range_of(header_bytes: u64, stored_bytes: u64, range: &Range<u64>) -> Range<u64> {
    let (chunk, sealed) = (CHUNK_BYTES as u64, SEALED_CHUNK_BYTES as u64);
    let start = header_bytes + range.start / chunk * sealed;
    let end = header_bytes + range.end.div_ceil(chunk) * sealed;
    start..end.min(stored_bytes)
}

/// `range` of a segment out of a piece of it that begins at `start`.
pub(super) fn slice<'a>(bytes: &'a [u8], start: u64, range: &Range<u64>) -> Result<&'a [u8]> {
    let place = |at: u64| at.checked_sub(start).and_then(|at| usize::try_from(at).ok());
    let found = place(range.start).zip(place(range.end)).and_then(|(from, to)| bytes.get(from..to));
    found.ok_or_else(|| Error::damaged("a part of the segment is not where it must be"))
}

/// Opens the messages that hold `range` of a payload of `plain_bytes`; `stored` is exactly them.
fn open_messages<'a>(
    key: &PayloadKey,
    stored: &[u8],
    range: &Range<u64>,
    plain_bytes: u64,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let chunk = CHUNK_BYTES as u64;
    let first = range.start / chunk;
    let last_of_all = seal::n_chunks(plain_bytes) - 1;
    // Longer by the tags than what is needed; it is only ever grown.
    if scratch.len() < stored.len() {
        scratch.resize(stored.len(), 0);
    }
    let mut filled = 0;
    for (index, sealed) in (first..).zip(stored.chunks(SEALED_CHUNK_BYTES)) {
        let n = sealed.len().saturating_sub(seal::TAG_BYTES);
        key.open(index, index == last_of_all, sealed, &mut scratch[filled..filled + n])?;
        filled += n;
    }
    slice(&scratch[..filled], first * chunk, range)
}
