//! The last step of writing: parts into a store, and all or nothing in the end.
//!
//! Runs on the async runtime and only waits. This module never looks into a part.

use super::assemble::{Event, SealedPart};
use super::budget::worker_failed;
use super::digest::{self, PieceDigest, Tree};
use super::segment::{SegmentWrite, Segments};
use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage, Point};
use crate::footprint;
use crate::record::SegmentRecord;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// A transfer of so many bytes or more gives back the code that sent it before it is completed, and the code that
/// completed it before the plugin goes on: all its buffers are still in memory then.
const BYTES_OF_A_LONG_TRANSFER: u64 = 32 << 20;

/// What a whole upload comes to: size, digest and segments of the artifact.
pub(super) type Whole = (u64, blake3::Hash, Vec<SegmentRecord>);

/// One artifact on its way into a store.
pub(super) struct Upload {
    segments: Arc<dyn Segments>,
    abort_patience: Duration,
    cancel: CancellationToken,
    under_way: BTreeMap<u32, Segment>,
    beginnings: FuturesUnordered<BoxFuture<'static, Begun>>,
    parts: FuturesUnordered<BoxFuture<'static, Result<StoredPart>>>,
}

type Begun = (u32, Result<Arc<dyn SegmentWrite>>);

/// What is known of a segment so far: as much for one of many parts as for one of few.
#[derive(Default)]
struct Segment {
    write: Option<Arc<dyn SegmentWrite>>,
    /// Parts that came before the store had answered that the segment began.
    early: Vec<(u32, Sealed)>,
    sum: Sum,
    end: Option<End>,
}

type Sealed = oneshot::Receiver<Result<SealedPart>>;

struct End {
    n_parts: u32,
    zstd_bytes: u64,
    frames: u64,
}

/// What the parts that the store has come to. A part is kept only until those before it are there,
/// and of those at most as many are missing as are under way.
#[derive(Default)]
struct Sum {
    stored_bytes: u64,
    crc64nvme: u64,
    tree: Tree,
    ahead: BTreeMap<u32, StoredPart>,
}

impl Sum {
    fn add(&mut self, part: StoredPart) {
        self.ahead.insert(part.number, part);
        while let Some(next) = self.ahead.first_entry() {
            if u64::from(*next.key()) != self.tree.n_pieces() + 1 {
                break;
            }
            let part = next.remove();
            self.crc64nvme = digest::combine_crc64nvme(self.crc64nvme, part.crc64nvme, part.bytes);
            self.stored_bytes += part.bytes;
            self.tree.push(&part.digest);
        }
    }
}

struct StoredPart {
    segment: u32,
    number: u32,
    bytes: u64,
    crc64nvme: u64,
    digest: PieceDigest,
}

/// What is needed to complete a segment, and what the record says of it.
struct Complete {
    write: Arc<dyn SegmentWrite>,
    n_parts: u32,
    crc64nvme: u64,
    record: SegmentRecord,
}

impl Upload {
    pub(super) fn new(segments: Arc<dyn Segments>, abort_patience: Duration, cancel: CancellationToken) -> Self {
        Self {
            segments,
            abort_patience,
            cancel,
            under_way: BTreeMap::new(),
            beginnings: FuturesUnordered::new(),
            parts: FuturesUnordered::new(),
        }
    }

    /// Uploads until the artifact is whole and complete, or until the first error; then it aborts.
    pub(super) async fn run(mut self, events: mpsc::UnboundedReceiver<Event>) -> Result<Whole> {
        let cancel = self.cancel.clone();
        let outcome = cancel.run_until_cancelled(self.upload(events)).await;
        let outcome = outcome.unwrap_or_else(|| Err(Error::cancelled("the transfer was cancelled")));
        if outcome.is_err() {
            // The threads of this transfer end, too, wherever they wait.
            self.cancel.cancel();
            self.abort().await;
        }
        outcome
    }

    async fn upload(&mut self, mut events: mpsc::UnboundedReceiver<Event>) -> Result<Whole> {
        let mut whole = None;
        loop {
            if let Some((size, blake3)) = whole
                && self.parts.is_empty()
                && self.beginnings.is_empty()
            {
                let segments = if size < BYTES_OF_A_LONG_TRANSFER {
                    self.complete().await?
                } else {
                    footprint::seldom(self.complete()).await?
                };
                return Ok((size, blake3, segments));
            }
            tokio::select! {
                event = events.recv(), if whole.is_none() => match event {
                    Some(Event::Whole { size, blake3 }) => whole = Some((size, blake3)),
                    Some(Event::Failed(error)) => return Err(error),
                    Some(Event::Part { segment, number, sealed }) => self.send_part(segment, number, sealed),
                    Some(Event::SegmentEnd { segment, n_parts, zstd_bytes, frames }) => {
                        self.under_way.entry(segment).or_default().end = Some(End { n_parts, zstd_bytes, frames });
                    }
                    None => return Err(Error::failed("the thread that orders frames stopped without an end")),
                },
                Some((segment, begun)) = self.beginnings.next() => {
                    let write = begun.map_err(|error| error.while_doing(format!("could not begin segment {segment:04}")))?;
                    failpoint::reach(Point::SegmentBegun);
                    let state = self.under_way.entry(segment).or_default();
                    state.write = Some(write);
                    for (number, sealed) in std::mem::take(&mut state.early) {
                        self.send_part(segment, number, sealed);
                    }
                }
                Some(stored) = self.parts.next() => {
                    let part = stored?;
                    self.under_way.entry(part.segment).or_default().sum.add(part);
                }
            }
        }
    }

    /// Sends the part, or keeps it until its segment has begun.
    fn send_part(&mut self, segment: u32, number: u32, sealed: Sealed) {
        let is_new = !self.under_way.contains_key(&segment);
        let state = self.under_way.entry(segment).or_default();
        match state.write.clone() {
            Some(write) => self.parts.push(Box::pin(store_part(write, segment, number, sealed))),
            None => state.early.push((number, sealed)),
        }
        if is_new {
            self.begin(segment);
        }
    }

    /// A task of its own, so that a segment that the store begins after everybody left is known,
    /// and aborted.
    fn begin(&mut self, segment: u32) {
        let segments = self.segments.clone();
        let begun = tokio::spawn(async move {
            // The first begins before there is anything to send.
            if segment == 1 { segments.begin(segment).await } else { footprint::seldom(segments.begin(segment)).await }
        });
        self.beginnings.push(Box::pin(async move {
            let stopped = |error| Err(Error::failed("the store stopped without an answer").because(error));
            (segment, begun.await.unwrap_or_else(stopped))
        }));
    }

    /// Completes the segments in order once all of their bytes were acknowledged.
    async fn complete(&mut self) -> Result<Vec<SegmentRecord>> {
        let segments: Vec<_> =
            self.under_way.iter().map(|(number, segment)| segment.add_up(*number)).collect::<Result<_>>()?;
        let mut records = Vec::with_capacity(segments.len());
        for (i, segment) in segments.into_iter().enumerate() {
            failpoint::reach(Point::SegmentCompleting);
            let completed =
                segment.write.complete(segment.n_parts, segment.record.stored_bytes, segment.crc64nvme).await;
            completed.map_err(|error| error.while_doing(format!("could not complete segment {:04}", i + 1)))?;
            failpoint::reach(Point::SegmentComplete);
            records.push(segment.record);
        }
        Ok(records)
    }

    async fn abort(&mut self) {
        // Parts first: nothing may arrive at a store after its upload was aborted.
        self.parts.clear();
        // Answers that are there already and were not looked at.
        while let Some(Some((number, begun))) = self.beginnings.next().now_or_never() {
            if let Ok(write) = begun {
                self.under_way.entry(number).or_default().write = Some(write);
            }
        }
        // Those that are still to come are not waited for: the store may never answer.
        tokio::spawn(std::mem::take(&mut self.beginnings).for_each_concurrent(None, |(number, begun)| async move {
            if let Ok(write) = begun {
                abort_segment(number, write).await;
            }
        }));
        let under_way = std::mem::take(&mut self.under_way);
        let writes = under_way.into_iter().filter_map(|(number, segment)| Some((number, segment.write?)));
        let aborts =
            tokio::spawn(join_all(writes.map(|(number, write)| abort_segment(number, write)).collect::<Vec<_>>()));
        if tokio::time::timeout(self.abort_patience, aborts).await.is_err() {
            tracing::warn!(
                "the store did not answer while uploads were aborted; they go on being aborted in the background"
            );
        }
    }
}

impl Segment {
    fn add_up(&self, number: u32) -> Result<Complete> {
        let lost = || Error::failed(format!("segment {number:04} has no end, or lost a part on the way"));
        let (Some(end), Some(write)) = (&self.end, &self.write) else { return Err(lost()) };
        if self.sum.tree.n_pieces() != u64::from(end.n_parts) || !self.sum.ahead.is_empty() {
            return Err(lost());
        }
        let Sum { stored_bytes, crc64nvme, .. } = self.sum;
        let blake3 = self.sum.tree.clone().finish().ok_or_else(lost)?;
        let record = SegmentRecord {
            stored_bytes,
            zstd_bytes: end.zstd_bytes,
            frames: end.frames,
            blake3: blake3.to_string(),
            crc64nvme: digest::show_crc(crc64nvme),
        };
        Ok(Complete { write: write.clone(), n_parts: end.n_parts, crc64nvme, record })
    }
}

async fn store_part(write: Arc<dyn SegmentWrite>, segment: u32, number: u32, sealed: Sealed) -> Result<StoredPart> {
    let SealedPart { body, crc64nvme, digest, is_only } = sealed.await.map_err(worker_failed)??;
    let bytes = body.len() as u64;
    if failpoint::is_broken(Breakage::KeepParts) && number.is_multiple_of(8) {
        // A copy: the part itself holds a permit, and keeping that would stop the transfer instead.
        std::mem::forget(body.to_vec());
    }
    let stored = write.part(number, body, crc64nvme, is_only).await;
    stored.map_err(|error| error.while_doing(format!("could not store part {number} of segment {segment:04}")))?;
    failpoint::reach(Point::PartStored);
    Ok(StoredPart { segment, number, bytes, crc64nvme, digest })
}

async fn abort_segment(number: u32, write: Arc<dyn SegmentWrite>) {
    if let Err(error) = write.abort().await {
        // The first error is the one that is reported; this one only leaves something to prune.
        tracing::warn!(segment = number, ?error, "could not abort an upload; it is removed later by its age");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, body: &[u8]) -> StoredPart {
        let digest = digest::piece(u64::from(number - 1) * 1024, body);
        let (bytes, crc64nvme) = (body.len() as u64, digest::crc64nvme(body));
        StoredPart { segment: 1, number, bytes, crc64nvme, digest }
    }

    #[test]
    fn parts_in_any_order_come_to_the_same_and_are_not_kept() {
        let body: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
        for order in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 1, 5, 3, 4]] {
            let mut sum = Sum::default();
            for number in order {
                let start = (number as usize - 1) * 1024;
                sum.add(part(number, &body[start..body.len().min(start + 1024)]));
            }
            assert!(sum.ahead.is_empty());
            assert_eq!((sum.stored_bytes, sum.crc64nvme), (5000, digest::crc64nvme(&body)));
            assert_eq!(sum.tree.finish(), Some(blake3::hash(&body)));
        }
    }

    #[test]
    fn a_segment_that_lost_a_part_does_not_add_up() {
        for numbers in [&[1, 3][..], &[1], &[2]] {
            let mut segment = Segment { end: Some(End { n_parts: 2, zstd_bytes: 1, frames: 1 }), ..Segment::default() };
            for number in numbers {
                segment.sum.add(part(*number, &[7; 1024]));
            }
            segment.write = Some(Arc::new(Nowhere));
            assert!(segment.add_up(1).is_err(), "{numbers:?}");
        }
    }

    struct Nowhere;

    #[async_trait::async_trait]
    impl SegmentWrite for Nowhere {
        async fn part(&self, _: u32, _: bytes::Bytes, _: u64, _: bool) -> Result<()> {
            Ok(())
        }
        async fn complete(&self, _: u32, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        async fn abort(&self) -> Result<()> {
            Ok(())
        }
    }
}
