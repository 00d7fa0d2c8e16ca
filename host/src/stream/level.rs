//! `level = "auto"`: how hard to compress, decided by what a transfer waits for.
//!
//! A store that is slower than the workers leaves them idle: a higher level costs no time there and stores
//! less. Workers that are slower than everything else hold it up: a lower level is faster. Where the source is the
//! slowest the level stays, since nobody asked for the processor of a machine that has a database to run. Every
//! frame carries what its decoder needs, so the level may change between any two of them and no reader knows.
//!
//! The decision is a pure function of three durations; this module has no clock.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The level before anything is known: that of a store which does not say any.
pub const FIRST: i32 = 2;

/// The levels that it moves between. One more step would cost a third of the speed for a per cent of size, and
/// contexts of [`CONTEXT_BYTES`] would grow beyond what the published memory leaves room for.
pub const RANGE: RangeInclusive<i32> = 1..=6;

/// What a worker's compressor takes at the highest level of [`RANGE`], at most, in bytes: instead of some
/// 1 MiB at levels 1 to 3.
pub const CONTEXT_BYTES: usize = 6 << 20;

/// Frames between two decisions: 16 MiB of plaintext, about what is on its way at once, so that the last change
/// has shown before the next one.
pub(super) const FRAMES_PER_DECISION: u32 = 8;

/// What the thread that puts frames in order waited for, while a window of them passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// For room for another part, since those before it are not stored yet.
    pub store: Duration,
    /// For a frame that was read and is not compressed yet, or for a part that is not sealed yet.
    pub workers: Duration,
    /// For a frame that was not read yet.
    pub source: Duration,
}

/// The level of the next frames: one step away from `level` at most, and within [`RANGE`].
#[must_use]
pub fn next(level: i32, waits: Waits) -> i32 {
    let total = waits.store.saturating_add(waits.workers).saturating_add(waits.source);
    // The reader is ahead of workers that are the slowest; behind a slow source each frame is waited for twice,
    // until it is read and until it is compressed.
    let source_is_ahead = waits.source.saturating_mul(16) <= total;
    let step = if waits.store > total / 2 {
        1
    } else if waits.workers > total / 2 && source_is_ahead {
        -1
    } else {
        0
    };
    (level + step).clamp(*RANGE.start(), *RANGE.end())
}

/// The level that all transfers of a process share, as they share its workers.
#[derive(Debug)]
pub(super) struct SharedLevel(AtomicI32);

impl SharedLevel {
    pub(super) fn new() -> Self {
        Self(AtomicI32::new(FIRST))
    }

    pub(super) fn get(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Two transfers that decide at once may move it by one step instead of two: it is no count.
    pub(super) fn follow(&self, waits: Waits) {
        self.0.store(next(self.get(), waits), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(store: u64, workers: u64, source: u64) -> Waits {
        let [store, workers, source] = [store, workers, source].map(Duration::from_millis);
        Waits { store, workers, source }
    }

    #[test]
    fn the_level_follows_what_is_waited_for() {
        for (what, waits, step) in [
            ("nothing at all", waits(0, 0, 0), 0),
            ("the store alone", waits(100, 0, 0), 1),
            ("mostly the store", waits(60, 40, 0), 1),
            ("mostly the store, and a slow source", waits(60, 0, 40), 1),
            ("the workers alone", waits(0, 100, 0), -1),
            ("mostly the workers", waits(40, 60, 0), -1),
            ("the workers, and a reader that was late once", waits(0, 95, 5), -1),
            ("the source alone", waits(0, 0, 100), 0),
            ("a source that is a little slower than the workers", waits(0, 80, 20), 0),
            ("a source that is slower than the store", waits(30, 0, 70), 0),
            ("store and workers alike", waits(50, 50, 0), 0),
            ("all alike", waits(33, 33, 33), 0),
        ] {
            assert_eq!(next(3, waits), 3 + step, "{what}");
        }
    }

    #[test]
    fn it_never_leaves_its_range_and_moves_by_one() {
        let mut level = FIRST;
        for expected in [3, 4, 5, 6, 6, 6] {
            level = next(level, waits(1, 0, 0));
            assert_eq!(level, expected);
        }
        for expected in [5, 4, 3, 2, 1, 1] {
            level = next(level, waits(0, 1, 0));
            assert_eq!(level, expected);
        }
        assert_eq!(next(i32::MAX - 1, waits(1, 0, 0)), 6);
    }
}
