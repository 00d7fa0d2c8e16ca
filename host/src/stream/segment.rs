//! The seam between the streaming core and whatever keeps the sealed bytes.

use crate::error::Result;
use crate::record::SegmentRecord;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;

/// Where the segments of one artifact go. `catalog` implements it over a store and its keys.
#[async_trait]
pub trait Segments: Send + Sync {
    /// Begins segment `number` (from 1). Nothing is visible before [`SegmentWrite::complete`].
    async fn begin(&self, number: u32) -> Result<Box<dyn SegmentWrite>>;
}

/// One segment on its way into a store.
#[async_trait]
pub trait SegmentWrite: Send + Sync {
    /// Stores part `number` (from 1). Parts may be under way at the same time and in any order;
    /// every part but the last has the same size. Returns once the store has acknowledged the
    /// part and its checksum.
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()>;

    /// Makes the segment visible, whole, with these parts. A segment of one part may be one PUT.
    async fn complete(self: Box<Self>, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()>;

    /// Removes what was sent. Called when anything fails or the run is cancelled.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// The sealed segments of one artifact as a record names them, to be read back.
#[async_trait]
pub trait SealedSegments: Send + Sync {
    /// The bytes `range` of segment `number` as stored, exactly as many as asked for.
    async fn read(&self, number: u32, range: Range<u64>) -> Result<Bytes>;
}

/// A convenient bundle for reading: the segments and what the signed record says of them.
pub struct SegmentRead {
    /// Where the bytes are.
    pub segments: std::sync::Arc<dyn SealedSegments>,
    /// What each of them must be, in order.
    pub records: Vec<SegmentRecord>,
}
