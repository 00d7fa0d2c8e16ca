//! Memory that is used again: buffers of one size, and room for what is read back.
//!
//! Pages that were touched once are not asked of the system again, and nothing of changing size leaves holes in the
//! allocator's heaps. How many buffers there are at a time is bounded by the permits of whoever takes them, so taking
//! never waits. This module knows nothing of permits' order, frames or stores.

use super::budget::Permit;
use bytes::Bytes;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one size that are used again.
pub(super) struct Pool {
    buffer_bytes: usize,
    free: Mutex<Vec<Box<[u8]>>>,
    in_use: AtomicUsize,
    peak: AtomicUsize,
}

impl Pool {
    pub(super) fn new(buffer_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            buffer_bytes,
            free: Mutex::new(Vec::new()),
            in_use: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }

    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let now = self.in_use.fetch_add(1, Ordering::AcqRel) + 1;
        self.peak.fetch_max(now, Ordering::AcqRel);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| untouched(self.buffer_bytes));
        Buffer { bytes, pool: Some(self.clone()), permit: None }
    }

    /// Gives the memory of buffers that nobody uses back to the system.
    pub(super) fn let_go(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Buffers that are in use now.
    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Acquire)
    }

    /// The most that were in use at the same time so far.
    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Acquire)
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        self.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Large memory comes zeroed from the system, and no page of it is there before it is written.
fn untouched(len: usize) -> Box<[u8]> {
    vec![0; len].into_boxed_slice()
}

/// A buffer, mostly of a pool: then it goes back when it is dropped, and after it its permit.
pub struct Buffer {
    bytes: Box<[u8]>,
    pool: Option<Arc<Pool>>,
    permit: Option<Permit>,
}

impl Buffer {
    /// Keeps the permit as long as the buffer is in use.
    pub(crate) fn with(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Takes the permit away, to hand it to another buffer or to let it go.
    pub(crate) fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// The first `len` bytes, without a copy; the buffer goes back when all clones are dropped.
    pub fn freeze(self, len: usize) -> Bytes {
        Bytes::from_owner(Frozen { len: len.min(self.bytes.len()), buffer: self })
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put_back(std::mem::take(&mut self.bytes));
        }
    }
}

struct Frozen {
    buffer: Buffer,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes[..self.len]
    }
}

/// Where a store puts what it reads: buffers of a pool for what comes by the gigabyte, memory of its own for all else.
#[derive(Clone, Default)]
pub struct Room(Option<Arc<Pool>>);

impl Room {
    /// Memory that the system gives for this read alone.
    pub fn fresh() -> Self {
        Self(None)
    }

    pub(super) fn of(pool: &Arc<Pool>) -> Self {
        Self(Some(pool.clone()))
    }

    /// At least `len` bytes with anything in them: of the pool if they fit its buffers, else fresh.
    pub fn take(&self, len: usize) -> Buffer {
        match &self.0 {
            Some(pool) if len <= pool.buffer_bytes => pool.take(),
            _ => Buffer { bytes: untouched(len), pool: None, permit: None },
        }
    }

    /// The same bytes in this memory, as from a store that keeps them elsewhere.
    pub(crate) fn copy_of(&self, bytes: &[u8]) -> Bytes {
        let mut copy = self.take(bytes.len());
        copy[..bytes.len()].copy_from_slice(bytes);
        copy.freeze(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_a_buffer_of_the_pool_and_gives_it_back() {
        let pool = Pool::new(100);
        let room = Room::of(&pool);
        let mut buffer = room.take(100);
        buffer[..3].copy_from_slice(b"abc");
        let read = buffer.freeze(3);
        assert_eq!((&read[..], pool.in_use()), (&b"abc"[..], 1));
        drop(read.slice(1..));
        assert_eq!(pool.in_use(), 1, "a part of it is still there");
        drop(read);
        assert_eq!((pool.in_use(), pool.peak()), (0, 1));
        assert_eq!(room.take(1)[0], b'a', "the same memory again");
    }

    #[test]
    fn what_does_not_fit_a_buffer_is_fresh() {
        let pool = Pool::new(100);
        assert_eq!((Room::of(&pool).take(101).len(), Room::fresh().take(7).len(), pool.peak()), (101, 7, 0));
        assert_eq!(Room::fresh().take(7).freeze(9).len(), 7);
    }
}
