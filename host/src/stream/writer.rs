//! Writing: from a source to sealed segments, in parallel, with flat memory.
//!
//! ```text
//! source -> reader thread: hash -> workers: compress -> assembler thread -> workers: seal, hash
//!        -> uploads, at most K parts in flight -> all segments completed -> StoredArtifact
//! ```
//!
//! Nothing heavy happens on the async runtime. An artifact exists for the caller only when its
//! source ended well and every byte was acknowledged; otherwise every segment that was begun is
//! aborted. This module never writes a record.

use super::assemble::{Assembler, EncodedFrame, Follower, Ordered, until_cancelled};
use super::budget::{Bench, Budget, Transfer};
use super::digest::{GrowingPiece, PieceDigest};
use super::frame::{Compression, FRAME_BYTES, MAX_FRAME_STORED_BYTES};
use super::pool::Buffer;
use super::seal::{MAX_HEADER_BYTES, Recipients};
use super::segment::Segments;
use super::source::{ByteSource, Source};
use super::upload::Upload;
use crate::error::{Error, Result};
use crate::footprint::Age;
use crate::id::ArtifactName;
use crate::record::SegmentRecord;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Parts of a segment by default: below the 1,000 parts that the smallest S3-compatible servers
/// list in one page, and 7.4 GiB of 8 MiB each.
pub const DEFAULT_PARTS_PER_SEGMENT: u32 = 950;

/// The least that a segment must have room for, in bytes: an age header, the largest frame with the
/// tags of its messages, and the two closing frames.
pub const MIN_SEGMENT_BYTES: u64 = (MAX_FRAME_STORED_BYTES + MAX_FRAME_STORED_BYTES / 4 + MAX_HEADER_BYTES) as u64;

/// How one artifact is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Its name, for messages.
    pub name: ArtifactName,
    /// How frames are held.
    pub compression: Compression,
    /// For whom segments are sealed; `None` leaves them as plain zstd.
    pub recipients: Option<Arc<Recipients>>,
    /// The most parts of one segment, at least 2; then the next segment begins. A segment must have
    /// room for a header and one frame ([`MIN_SEGMENT_BYTES`]).
    pub parts_per_segment: u32,
    /// How long a failed or cancelled write waits for the store to abort. The aborts go on in the
    /// background after that.
    pub abort_patience: Duration,
}

impl WriteOptions {
    /// Defaults for an artifact of this name: level 2, not encrypted, 950 parts, 10 s.
    pub fn new(name: ArtifactName) -> Self {
        Self {
            name,
            compression: Compression::default(),
            recipients: None,
            parts_per_segment: DEFAULT_PARTS_PER_SEGMENT,
            abort_patience: Duration::from_secs(10),
        }
    }
}

/// An artifact of which every byte was acknowledged: what a record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Plaintext in bytes.
    pub size: u64,
    /// BLAKE3 of the plaintext, as `b3sum` prints it.
    pub blake3: String,
    /// Whether segments are age files.
    pub encrypted: bool,
    /// Segments 1, 2, 3, … in order.
    pub segments: Vec<SegmentRecord>,
}

/// Reads `source` to its proven end and stores it as segments.
///
/// `progress` is called on the reader's thread with the number of plaintext bytes read since the
/// last call. Memory: see [`super::budget`].
///
/// Errors: the first one, from the source, the store or the cancellation; every segment that was
/// begun is then aborted (for at most `abort_patience`, the rest in the background) and nothing
/// is visible. Dropping the future has the same effect, in the background. A source that hangs
/// keeps its thread until it returns, and nothing else.
pub async fn write_artifact(
    source: Source,
    options: WriteOptions,
    budget: &Arc<Budget>,
    segments: Arc<dyn Segments>,
    progress: impl Fn(u64) + Send + 'static,
    cancel: CancellationToken,
) -> Result<StoredArtifact> {
    if options.parts_per_segment < 2 {
        // A segment of one part that is not the last could be no single PUT without being held.
        return Err(Error::invalid("a segment must have room for two parts")
            .fact("expected", "`parts_per_segment` of at least 2")
            .fact("got", options.parts_per_segment.to_string()));
    }
    let max_segment_bytes = u64::from(options.parts_per_segment) * budget.settings().part_bytes as u64;
    if max_segment_bytes < MIN_SEGMENT_BYTES {
        return Err(Error::invalid("a segment has no room for a frame")
            .fact("expected", format!("parts that make at least {MIN_SEGMENT_BYTES} bytes"))
            .fact("got", format!("{} parts of {} bytes", options.parts_per_segment, budget.settings().part_bytes)));
    }
    // Ends everything below when this future is dropped, and when the upload is over.
    let stop = cancel.child_token();
    let guard = stop.clone().drop_guard();
    let transfer = Arc::new(budget.begin());
    let (frames, ordered) = mpsc::unbounded_channel();
    let (events, uploads) = mpsc::unbounded_channel();

    // Until all of it is stored.
    let age = Arc::new(Age::default());
    let (compression, cancel) = (options.compression, stop.clone());
    let reader = Reader { transfer: transfer.clone(), compression, frames, cancel, age: age.clone() };
    spawn_thread("stream-reader", move || reader.run(source, &progress))?;
    let follower = (options.compression == Compression::Auto).then(Follower::default);
    let recipients = options.recipients.clone();
    let assembler = Assembler { transfer, recipients, max_segment_bytes, events, cancel: stop.clone(), follower };
    spawn_thread("stream-order", move || assembler.run(ordered))?;

    let upload = Upload::new(segments, options.abort_patience, stop);
    let stored = tokio::spawn(upload.run(uploads)).await;
    drop((guard, age));
    let (size, blake3, segments) = stored
        .unwrap_or_else(|error| Err(Error::failed("the upload stopped without an answer").because(error)))
        .map_err(|error| match error.kind() {
            crate::error::Kind::Cancelled => error,
            _ => error.while_doing(format!("could not store artifact \"{}\"", options.name)),
        })?;
    Ok(StoredArtifact { size, blake3: blake3.to_string(), encrypted: options.recipients.is_some(), segments })
}

/// A plain thread, not one of the runtime: a source that hangs must not keep the process alive.
fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| Error::failed(format!("could not start thread \"{name}\"")).because_of_io(error))
}

struct Reader {
    transfer: Arc<Transfer>,
    compression: Compression,
    frames: mpsc::UnboundedSender<Ordered>,
    cancel: CancellationToken,
    age: Arc<Age>,
}

impl Reader {
    fn run(self, mut source: Source, progress: &dyn Fn(u64)) {
        let last = match self.read_all(source.body.as_mut(), progress) {
            Ok(()) => Ordered::End,
            Err(error) => Ordered::Failed(error),
        };
        // The assembler is gone only when the transfer is over.
        let _ = self.frames.send(last);
    }

    fn read_all(&self, source: &mut dyn ByteSource, progress: &dyn Fn(u64)) -> Result<()> {
        let info = source.open()?;
        let mut offset = 0;
        loop {
            let permit = until_cancelled(&self.cancel, self.transfer.frame_permit())?;
            let mut plain = self.transfer.budget().frame_buffer().with(permit);
            let mut digest = GrowingPiece::begin(offset);
            let filled = self.fill(source, &mut plain[..FRAME_BYTES], &mut digest, progress)?;
            // Nothing at the very start is an empty artifact, which is one empty frame.
            if filled > 0 || offset == 0 {
                let digest = digest.finish(&plain[..filled]);
                self.hand_over(plain, filled, digest);
            }
            offset += filled as u64;
            if filled < FRAME_BYTES {
                break;
            }
            self.age.frame();
        }
        match info.len {
            Some(len) if len != offset => Err(Error::failed("the source did not have the length that it said")
                .fact("expected", format!("{len} bytes"))
                .fact("got", format!("{offset} bytes"))),
            _ => Ok(()),
        }
    }

    /// Reads until the frame is full or the source has ended, and hashes what has come while it is in the cache.
    fn fill(
        &self,
        source: &mut dyn ByteSource,
        frame: &mut [u8],
        digest: &mut GrowingPiece,
        progress: &dyn Fn(u64),
    ) -> Result<usize> {
        let mut filled = 0;
        while filled < frame.len() {
            let n = source.read(&mut frame[filled..])?;
            if self.cancel.is_cancelled() {
                return Err(Error::cancelled("the transfer was cancelled"));
            }
            if n == 0 {
                break;
            }
            if n > frame.len() - filled {
                return Err(Error::failed("the source says that it read more than there was room for"));
            }
            filled += n;
            digest.grown_to(&frame[..filled]);
            progress(n as u64);
        }
        Ok(filled)
    }

    fn hand_over(&self, plain: Buffer, len: usize, digest: PieceDigest) {
        let budget = self.transfer.budget().clone();
        let compression = match self.compression {
            Compression::Auto => Compression::Level(budget.level().get()),
            chosen => chosen,
        };
        let encoded =
            self.transfer.budget().submit(move |bench| encode(&budget, bench, plain, len, digest, compression));
        let _ = self.frames.send(Ordered::Frame(encoded));
    }
}

/// A worker's job: compress.
fn encode(
    budget: &Budget,
    bench: &mut Bench,
    mut plain: Buffer,
    len: usize,
    digest: PieceDigest,
    compression: Compression,
) -> Result<EncodedFrame> {
    let mut buffer = budget.frame_buffer();
    let stored_bytes = bench.encoder.encode(&plain[..len], compression, &mut buffer)?;
    // From here on the frame is its compressed form; the plaintext's buffer is free.
    if let Some(permit) = plain.take_permit() {
        buffer = buffer.with(permit);
    }
    Ok(EncodedFrame { buffer, stored_bytes, plain_bytes: len, digest })
}
