//! The ordered step of writing: frames in, parts of segments out.
//!
//! It copies each frame once, to where it will lie in the part, and leaves room for the tags of the
//! sealed messages; sealing and hashing a part is a worker's job again. A message that reaches over
//! the border of two parts (one in 128) is put together beside them and sealed here. This module
//! never waits for a store, only for the permit to fill another part.

use super::blocking::wait_for;
use super::budget::{Transfer, worker_failed};
use super::digest::{GrowingPart, PieceDigest, Tree};
use super::frame::FRAME_BYTES;
use super::level::{FRAMES_PER_DECISION, SharedLevel, Waits};
use super::pool::Buffer;
use super::seal::{self, CHUNK_BYTES, PayloadKey, Recipients, SEALED_CHUNK_BYTES};
use super::tail::{MAX_FRAMES_PER_SEGMENT, Tail};
use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};
use bytes::Bytes;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// A frame as it comes from a worker. The buffer holds the frame's permit.
pub(super) struct EncodedFrame {
    /// The frame and room behind it.
    pub(super) buffer: Buffer,
    /// Its length at rest.
    pub(super) stored_bytes: usize,
    /// Its plaintext.
    pub(super) plain_bytes: usize,
    /// Digest of its plaintext.
    pub(super) digest: PieceDigest,
}

/// What the reader hands over, in the order of the stream.
pub(super) enum Ordered {
    /// The next frame, once its worker is done.
    Frame(oneshot::Receiver<Result<EncodedFrame>>),
    /// The proven end. Without it there is no artifact.
    End,
    /// The source failed.
    Failed(Error),
}

/// A part as it will lie in the store.
pub(super) struct SealedPart {
    pub(super) body: Bytes,
    pub(super) crc64nvme: u64,
    pub(super) digest: PieceDigest,
    /// Nothing follows it, in its segment or in the artifact.
    pub(super) is_only: bool,
}

/// What the uploader is told, in the order of the stream.
pub(super) enum Event {
    /// Part `number` of segment `segment` is being sealed.
    Part { segment: u32, number: u32, sealed: oneshot::Receiver<Result<SealedPart>> },
    /// All parts of the segment were announced.
    SegmentEnd { segment: u32, n_parts: u32, zstd_bytes: u64, frames: u64 },
    /// The artifact is whole.
    Whole { size: u64, blake3: blake3::Hash },
    /// It never will be.
    Failed(Error),
}

/// Puts frames together. Runs on a thread of its own until the end or the first error.
pub(super) struct Assembler {
    pub(super) transfer: Arc<Transfer>,
    pub(super) recipients: Option<Arc<Recipients>>,
    pub(super) max_segment_bytes: u64,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) cancel: CancellationToken,
    /// Of a transfer whose level follows what it waits for.
    pub(super) follower: Option<Follower>,
}

/// Measures what the assembler waits for, and says so once in a while.
#[derive(Default)]
pub(super) struct Follower {
    waits: Cell<Waits>,
    n_frames: Cell<u32>,
    /// Parts that no worker has sealed yet.
    n_unsealed: Arc<AtomicUsize>,
}

/// What is waited for.
#[derive(Clone, Copy)]
enum For {
    /// Room for another part.
    Part,
    /// A frame that was read.
    Frame,
    /// A frame that is to be read.
    Source,
}

impl Follower {
    fn waited(&self, what: For, time: Duration) {
        let mut waits = self.waits.get();
        match what {
            // What held the others up until now: before the store has a part, a worker seals it.
            For::Part if self.n_unsealed.load(Ordering::Relaxed) == 0 => waits.store += time,
            For::Part | For::Frame => waits.workers += time,
            For::Source => waits.source += time,
        }
        self.waits.set(waits);
    }

    /// One more frame has passed.
    fn passed(&self, level: &SharedLevel) {
        self.n_frames.set(self.n_frames.get() + 1);
        if self.n_frames.get() == FRAMES_PER_DECISION {
            level.follow(self.waits.take());
            self.n_frames.set(0);
        }
    }
}

impl Assembler {
    /// Takes frames until the end; the last event is `Whole` or `Failed`.
    pub(super) fn run(self, frames: mpsc::UnboundedReceiver<Ordered>) {
        let last = match self.assemble(frames) {
            Ok((size, blake3)) => Event::Whole { size, blake3 },
            Err(error) => Event::Failed(error),
        };
        // The uploader is gone only when it failed or was cancelled, and has said so itself.
        let _ = self.events.send(last);
    }

    fn assemble(&self, mut frames: mpsc::UnboundedReceiver<Ordered>) -> Result<(u64, blake3::Hash)> {
        let (mut tree, mut size, mut number) = (Tree::default(), 0, 0);
        let mut open: Option<OpenSegment<'_>> = None;
        loop {
            let frame = match self.wait(For::Source, frames.recv())? {
                Some(Ordered::Frame(frame)) => self.wait(For::Frame, frame)?.map_err(worker_failed)??,
                Some(Ordered::End) => break,
                Some(Ordered::Failed(error)) => return Err(error),
                None => return Err(Error::failed("the thread that reads the source stopped without an end")),
            };
            if let Some(full) = open.take_if(|segment| !segment.has_room_for(frame.stored_bytes)) {
                full.finish(false)?;
            }
            let segment = match &mut open {
                Some(segment) => segment,
                None => {
                    number += 1;
                    open.insert(OpenSegment::begin(self, number)?)
                }
            };
            segment.put_payload(&frame.buffer[..frame.stored_bytes])?;
            let stored_bytes = u32::try_from(frame.stored_bytes).map_err(|_| too_large(frame.stored_bytes))?;
            let plain_bytes = u32::try_from(frame.plain_bytes).map_err(|_| too_large(frame.plain_bytes))?;
            segment.tail.push(stored_bytes, plain_bytes, frame.digest.chaining);
            tree.push(&frame.digest);
            size += u64::from(plain_bytes);
            if let Some(follower) = &self.follower {
                follower.passed(self.transfer.budget().level());
            }
        }
        match open {
            Some(last) => last.finish(true)?,
            None => return Err(Error::failed("the source ended without its last frame")),
        }
        let blake3 = tree.finish().ok_or_else(|| Error::failed("the artifact has no digest"))?;
        Ok((size, blake3))
    }

    /// As [`until_cancelled`], measured where the level follows it.
    fn wait<F: Future>(&self, what: For, future: F) -> Result<F::Output> {
        let Some(follower) = &self.follower else { return until_cancelled(&self.cancel, future) };
        let began = Instant::now();
        let done = until_cancelled(&self.cancel, future);
        follower.waited(what, began.elapsed());
        done
    }
}

/// Waits on this blocking thread until the future is ready or the transfer is over.
pub(super) fn until_cancelled<F: Future>(cancel: &CancellationToken, future: F) -> Result<F::Output> {
    wait_for(cancel.run_until_cancelled(future)).ok_or_else(|| Error::cancelled("the transfer was cancelled"))
}

fn too_large(bytes: usize) -> Error {
    Error::failed(format!("a frame of {bytes} bytes is longer than {FRAME_BYTES} bytes can be"))
}

struct OpenSegment<'a> {
    to: &'a Assembler,
    number: u32,
    tail: Tail,
    header_bytes: u64,
    sealing: Option<Sealing>,
    part: Option<Part>,
    n_parts: u32,
}

/// The payload of an age file while it grows.
struct Sealing {
    key: Arc<PayloadKey>,
    /// Number of the message that is being filled, and how full it is.
    index: u64,
    filled: usize,
    /// Number of the payload's last message, once the tail is about to be written.
    last_index: Option<u64>,
    /// Holds a message that does not fit into the part that is being filled.
    beside: Option<Vec<u8>>,
}

struct Part {
    buffer: Buffer,
    /// Where the next byte goes; a message that is being filled starts here.
    filled: usize,
    /// Messages that lie whole in this part and are still to be sealed.
    messages: Vec<Message>,
}

struct Message {
    at: usize,
    len: usize,
    index: u64,
    is_last: bool,
}

impl<'a> OpenSegment<'a> {
    fn begin(to: &'a Assembler, number: u32) -> Result<Self> {
        let mut segment =
            Self { to, number, tail: Tail::default(), header_bytes: 0, sealing: None, part: None, n_parts: 0 };
        if let Some(recipients) = &to.recipients {
            let (header, key) = seal::begin_file(recipients)?;
            segment.put_raw(&header)?;
            segment.header_bytes = header.len() as u64;
            segment.sealing = Some(Sealing { key: Arc::new(key), index: 0, filled: 0, last_index: None, beside: None });
        }
        Ok(segment)
    }

    /// Whether the segment with this frame and its tail stays within its parts.
    fn has_room_for(&self, frame_bytes: usize) -> bool {
        let n_frames = self.tail.n_frames() + 1;
        let zstd_bytes = self.tail.frames_bytes() + frame_bytes as u64 + Tail::len_for(n_frames);
        let payload = if self.sealing.is_some() { seal::sealed_bytes(zstd_bytes) } else { Some(zstd_bytes) };
        n_frames <= MAX_FRAMES_PER_SEGMENT
            && payload.is_some_and(|bytes| self.header_bytes + bytes <= self.to.max_segment_bytes)
    }

    /// Writes the tail. Only a part that ends the artifact may stay with the store until it is
    /// completed: of an earlier segment it would pin a permit that others wait for.
    fn finish(mut self, is_last: bool) -> Result<()> {
        let zstd_bytes = self.tail.zstd_bytes();
        let tail = self.tail.encode()?;
        if let Some(sealing) = &mut self.sealing {
            sealing.last_index = Some(seal::n_chunks(zstd_bytes) - 1);
        }
        self.put_payload(&tail)?;
        if self.sealing.as_ref().is_some_and(|sealing| sealing.filled > 0) {
            self.end_message()?;
        }
        let is_only = is_last && self.n_parts == 0;
        self.dispatch_part(is_only);
        self.tell(Event::SegmentEnd {
            segment: self.number,
            n_parts: self.n_parts,
            zstd_bytes,
            frames: self.tail.n_frames(),
        });
        Ok(())
    }

    /// Adds bytes of the zstd stream.
    fn put_payload(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.sealing.is_none() {
            return self.put_raw(bytes);
        }
        while !bytes.is_empty() {
            self.need_part()?;
            let (Some(sealing), Some(part)) = (&mut self.sealing, &mut self.part) else { break };
            if sealing.filled == 0 && part.buffer.len() - part.filled < SEALED_CHUNK_BYTES {
                sealing.beside = Some(vec![0; CHUNK_BYTES]);
            }
            let n = bytes.len().min(CHUNK_BYTES - sealing.filled);
            let to = match &mut sealing.beside {
                Some(beside) => &mut beside[sealing.filled..sealing.filled + n],
                None => &mut part.buffer[part.filled + sealing.filled..part.filled + sealing.filled + n],
            };
            to.copy_from_slice(&bytes[..n]);
            sealing.filled += n;
            bytes = &bytes[n..];
            if sealing.filled == CHUNK_BYTES {
                self.end_message()?;
            }
        }
        Ok(())
    }

    /// The message that is being filled is whole.
    fn end_message(&mut self) -> Result<()> {
        let Some(sealing) = &mut self.sealing else { return Ok(()) };
        let (index, len) = (sealing.index, sealing.filled);
        let is_last = sealing.last_index == Some(index);
        sealing.index += 1;
        sealing.filled = 0;
        if let Some(mut beside) = sealing.beside.take() {
            beside.truncate(len);
            let tag = sealing.key.seal(index, is_last, &mut beside)?;
            self.put_raw(&beside)?;
            self.put_raw(&tag)
        } else {
            if let Some(part) = &mut self.part {
                part.messages.push(Message { at: part.filled, len, index, is_last });
                part.filled += len + seal::TAG_BYTES;
            }
            self.dispatch_if_full();
            Ok(())
        }
    }

    /// Adds bytes as they will lie in the store, over as many parts as it takes.
    fn put_raw(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.need_part()?;
            let Some(part) = &mut self.part else { break };
            let n = bytes.len().min(part.buffer.len() - part.filled);
            part.buffer[part.filled..part.filled + n].copy_from_slice(&bytes[..n]);
            part.filled += n;
            bytes = &bytes[n..];
            self.dispatch_if_full();
        }
        Ok(())
    }

    fn need_part(&mut self) -> Result<()> {
        if self.part.is_none() {
            let permit = self.to.wait(For::Part, self.to.transfer.part_permit())?;
            let buffer = self.to.transfer.budget().part_buffer();
            let buffer = if failpoint::is_broken(Breakage::ReleaseParts) { buffer } else { buffer.with(permit) };
            self.part = Some(Part { buffer, filled: 0, messages: Vec::new() });
        }
        Ok(())
    }

    fn dispatch_if_full(&mut self) {
        if self.part.as_ref().is_some_and(|part| part.filled == part.buffer.len()) {
            self.dispatch_part(false);
        }
    }

    /// Gives the part, if there is one, to a worker to be sealed and hashed.
    fn dispatch_part(&mut self, is_only: bool) {
        let Some(part) = self.part.take() else { return };
        let offset = u64::from(self.n_parts) * part.buffer.len() as u64;
        self.n_parts += 1;
        let key = self.sealing.as_ref().map(|sealing| sealing.key.clone());
        let n_unsealed = self.to.follower.as_ref().map(|follower| follower.n_unsealed.clone());
        if let Some(n_unsealed) = &n_unsealed {
            n_unsealed.fetch_add(1, Ordering::Relaxed);
        }
        let sealed = self.to.transfer.budget().submit(move |_| {
            let sealed = seal_part(part, key.as_deref(), offset, is_only);
            if let Some(n_unsealed) = n_unsealed {
                n_unsealed.fetch_sub(1, Ordering::Relaxed);
            }
            sealed
        });
        self.tell(Event::Part { segment: self.number, number: self.n_parts, sealed });
    }

    fn tell(&self, event: Event) {
        // See `Assembler::run`.
        let _ = self.to.events.send(event);
    }
}

fn seal_part(mut part: Part, key: Option<&PayloadKey>, offset: u64, is_only: bool) -> Result<SealedPart> {
    let mut digest = GrowingPart::begin(offset);
    for message in &part.messages {
        let Some(key) = key else { break };
        let end = message.at + message.len;
        let tag = key.seal(message.index, message.is_last, &mut part.buffer[message.at..end])?;
        part.buffer[end..end + seal::TAG_BYTES].copy_from_slice(&tag);
        // Messages lie in the order of the part, and what is between them is sealed already.
        digest.grown_to(&part.buffer[..end + seal::TAG_BYTES]);
    }
    let (crc64nvme, digest) = digest.finish(&part.buffer[..part.filled]);
    Ok(SealedPart { body: part.buffer.freeze(part.filled), crc64nvme, digest, is_only })
}
