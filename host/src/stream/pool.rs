//! Memory that is used again: buffers of one size, and room for what is read back.
//!
//! Pages that were touched once are not asked of the system again, and nothing of changing size leaves holes in the
//! allocator's heaps. How many buffers there are at a time is bounded by the permits of whoever takes them, so taking
//! never waits; a permit stays with its buffer, whoever gave up on it. This module knows nothing of permits' order,
//! frames or stores.

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

    /// Of each of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
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
    permit: Option<Arc<Permit>>,
}

impl Buffer {
    /// Keeps the permit as long as the buffer is in use.
    pub(crate) fn with(mut self, permit: impl Into<Arc<Permit>>) -> Self {
        self.permit = Some(permit.into());
        self
    }

    /// Takes the permit away, to hand it to another buffer or to let it go.
    pub(crate) fn take_permit(&mut self) -> Option<Arc<Permit>> {
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
pub struct Room(Option<(Arc<Pool>, Arc<Permit>)>);

impl Room {
    /// Memory that the system gives for this read alone.
    pub fn fresh() -> Self {
        Self(None)
    }

    /// For one buffer at a time: another one only where an attempt has failed and its buffer was dropped.
    pub(super) fn of(pool: &Arc<Pool>, permit: Permit) -> Self {
        Self(Some((pool.clone(), permit.into())))
    }

    /// At least `len` bytes with anything in them: of the pool if they fit its buffers, else fresh.
    pub fn take(&self, len: usize) -> Buffer {
        let fresh = || Buffer { bytes: untouched(len), pool: None, permit: None };
        match &self.0 {
            Some((pool, permit)) if len <= pool.buffer_bytes => pool.take().with(permit.clone()),
            Some((_, permit)) => fresh().with(permit.clone()),
            None => fresh(),
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
    use crate::stream::blocking::wait_for;
    use crate::stream::budget::{Budget, BudgetSettings};

    #[test]
    fn a_read_takes_a_buffer_of_the_pool_and_gives_it_back_and_then_its_permit() {
        let (pool, budget) = (Pool::new(100), Budget::new(BudgetSettings::default()).unwrap());
        let transfer = budget.begin();
        let room = Room::of(&pool, wait_for(transfer.part_permit()));
        let mut buffer = room.take(100);
        drop(room);
        buffer[..3].copy_from_slice(b"abc");
        let read = buffer.freeze(3);
        assert_eq!((&read[..], pool.in_use(), budget.in_use().parts), (&b"abc"[..], 1, 1));
        drop(read.slice(1..));
        assert_eq!((pool.in_use(), budget.in_use().parts), (1, 1), "a part of it is still there");
        drop(read);
        assert_eq!((pool.in_use(), pool.peak(), budget.in_use().parts), (0, 1, 0));
        let room = Room::of(&pool, wait_for(transfer.part_permit()));
        assert_eq!(room.take(1)[0], b'a', "the same memory again");
    }

    #[test]
    fn what_does_not_fit_a_buffer_is_fresh_and_holds_its_permit_as_well() {
        let (pool, budget) = (Pool::new(100), Budget::new(BudgetSettings::default()).unwrap());
        let transfer = budget.begin();
        let large = Room::of(&pool, wait_for(transfer.part_permit())).take(101);
        assert_eq!((large.len(), pool.peak(), budget.in_use().parts), (101, 0, 1));
        drop(large);
        assert_eq!(budget.in_use().parts, 0);
        assert_eq!((Room::fresh().take(7).len(), Room::fresh().take(7).freeze(9).len()), (7, 7));
    }
}
