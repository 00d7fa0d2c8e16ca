//! Segments in memory: the smallest complete implementation, for tests of this and higher levels.

use super::pool::Room;
use super::segment::{SealedSegments, SegmentWrite, Segments};
use crate::error::{Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Segments of one artifact in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemorySegments(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    visible: BTreeMap<u32, Bytes>,
    n_pending: usize,
}

impl MemorySegments {
    /// The segments that are visible, by number.
    pub fn visible(&self) -> BTreeMap<u32, Bytes> {
        self.lock().visible.clone()
    }

    /// How many segments were begun and neither completed nor aborted.
    pub fn n_pending(&self) -> usize {
        self.lock().n_pending
    }

    /// Puts bytes in the place of a segment, as damage does; `None` removes it.
    pub fn put(&self, number: u32, bytes: Option<Bytes>) {
        let mut inside = self.lock();
        match bytes {
            Some(bytes) => inside.visible.insert(number, bytes),
            None => inside.visible.remove(&number),
        };
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Segments for MemorySegments {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        self.lock().n_pending += 1;
        Ok(Arc::new(MemoryWrite { to: self.clone(), number, parts: Mutex::new(Some(BTreeMap::new())) }))
    }
}

#[async_trait]
impl SealedSegments for MemorySegments {
    async fn read(&self, number: u32, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let segment = self.lock().visible.get(&number).cloned();
        let segment = segment.ok_or_else(|| Error::not_found(format!("there is no segment {number:04}")))?;
        let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= segment.len());
        match (place(range.start), place(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(room.copy_of(&segment[start..end])),
            _ => Err(Error::damaged(format!("segment {number:04} is shorter than what is read from it"))
                .fact("expected", format!("{} bytes", range.end))
                .fact("got", format!("{} bytes", segment.len()))),
        }
    }

    async fn stored_bytes(&self, number: u32) -> Result<Option<u64>> {
        let segment = self.lock().visible.get(&number).map(|bytes| bytes.len() as u64);
        segment.map(Some).ok_or_else(|| Error::not_found(format!("there is no segment {number:04}")))
    }
}

struct MemoryWrite {
    to: MemorySegments,
    number: u32,
    /// `None` once it was completed or aborted.
    parts: Mutex<Option<BTreeMap<u32, Vec<u8>>>>,
}

impl MemoryWrite {
    fn parts(&self) -> MutexGuard<'_, Option<BTreeMap<u32, Vec<u8>>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SegmentWrite for MemoryWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, _is_only: bool) -> Result<()> {
        if super::digest::crc64nvme(&body) != crc64nvme {
            return Err(Error::damaged(format!("part {number} arrived with another checksum")));
        }
        let mut parts = self.parts();
        let parts = parts.as_mut().ok_or_else(|| Error::failed("the segment is closed"))?;
        // A copy, as a store makes one: the pooled buffer goes back with the acknowledgement.
        parts.insert(number, body.to_vec());
        Ok(())
    }

    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        let parts = self.parts().take().ok_or_else(|| Error::failed("the segment is closed"))?;
        let is_gapless = parts.keys().copied().eq(1..=n_parts);
        let whole = parts.into_values().collect::<Vec<_>>().concat();
        let mut inside = self.to.lock();
        inside.n_pending -= 1;
        if !is_gapless || whole.len() as u64 != stored_bytes || super::digest::crc64nvme(&whole) != crc64nvme {
            return Err(Error::damaged("the parts do not make the segment that was announced"));
        }
        if inside.visible.contains_key(&self.number) {
            return Err(Error::new(crate::error::Kind::Conflict, format!("segment {:04} exists", self.number)));
        }
        inside.visible.insert(self.number, whole.into());
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let was_pending = self.parts().take().is_some();
        let mut inside = self.to.lock();
        if was_pending {
            inside.n_pending -= 1;
        } else {
            inside.visible.remove(&self.number);
        }
        Ok(())
    }
}
