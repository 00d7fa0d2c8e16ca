//! The seam between the streaming core and whatever keeps the sealed bytes.

use super::pool::Room;
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Where the segments of one artifact go. `catalog` implements it over a store and its keys.
#[async_trait]
pub trait Segments: Send + Sync {
    /// Begins segment `number` (from 1). Nothing is visible before [`SegmentWrite::complete`].
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>>;
}

/// One segment on its way into a store.
#[async_trait]
pub trait SegmentWrite: Send + Sync {
    /// Stores part `number` (from 1). Parts may be under way at the same time and in any order;
    /// every part but the last has the same size. Returns once the store has acknowledged the
    /// part and its checksum. `body` is a pooled buffer: whoever keeps a clone of it holds memory
    /// of the budget.
    ///
    /// `is_only` says that nothing follows, in this segment or in the artifact: then the bytes may
    /// be kept until `complete`, which comes without any more of the budget. In every other case
    /// they must be let go, or transfers could wait for one another in a circle.
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()>;

    /// Makes the segment visible, whole, with these parts. A segment of one part may be one PUT.
    /// Called once all parts of all segments are acknowledged and the source ended well.
    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()>;

    /// Removes what was sent. Called when anything fails or the run is cancelled: also after a
    /// `complete` that failed or was given up half-way, and, when a later segment of the same
    /// artifact could not be completed, after one that succeeded. Nothing else is called then.
    /// What can not be removed has no record, so it is no backup, and is pruned by age.
    async fn abort(&self) -> Result<()>;
}

/// The sealed segments of one artifact as a record names them, to be read back.
#[async_trait]
pub trait SealedSegments: Send + Sync {
    /// The bytes `range` of segment `number` as stored, exactly as many as asked for, in `room`.
    async fn read(&self, number: u32, range: Range<u64>, room: &Room) -> Result<Bytes>;

    /// How many bytes the store says that the segment has, where that is cheap to ask. Lets
    /// [`super::check_stored`] find bytes behind the recorded end.
    async fn stored_bytes(&self, number: u32) -> Result<Option<u64>> {
        let _ = number;
        Ok(None)
    }
}
