//! A limit on the bytes that go to or come from a store in a second.
//!
//! Bytes leave in slices, one slice after the other however many transfers there are: each slice
//! takes as long as its bytes need at the limit, and the next one begins when it is over. Time in
//! which nothing moved is not saved up. This module never counts what a network adds to the bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The lowest limit, in bytes a second: below it a request would look as if its server stood still.
pub const MIN_BYTES_PER_SECOND: u64 = 64 << 10;
/// The highest limit, in bytes a second: more than any network has.
pub const MAX_BYTES_PER_SECOND: u64 = 1 << 40;

/// What goes to a socket at a time where there is no limit, and at most where there is one.
pub(super) const SLICE_BYTES: usize = 64 * 1024;
/// The least that goes at a time under a low limit.
const MIN_SLICE_BYTES: u64 = 4 * 1024;
/// Slices a second under a low limit, so that transfers that share it all move.
const SLICES_PER_SECOND: u64 = 20;

/// One direction of one store. Everything that moves in this direction shares it.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when slices have followed one another without a gap, and their bytes.
    busy: Option<(Instant, u64)>,
    n_bytes: u64,
}

impl Bandwidth {
    /// A limit of so many bytes a second, brought between [`MIN_BYTES_PER_SECOND`] and
    /// [`MAX_BYTES_PER_SECOND`].
    pub fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.clamp(MIN_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND);
        Self { bytes_per_second, state: Mutex::default() }
    }

    /// Bytes that were let through so far.
    pub fn n_bytes(&self) -> u64 {
        self.lock().n_bytes
    }

    /// How much should go at a time.
    pub(super) fn slice_bytes(&self) -> usize {
        let slice = (self.bytes_per_second / SLICES_PER_SECOND).max(MIN_SLICE_BYTES);
        usize::try_from(slice).unwrap_or(SLICE_BYTES).min(SLICE_BYTES)
    }

    /// When `n` more bytes may begin to move, asked at `now`. They count from then on.
    pub(super) fn reserve(&self, n: usize, now: Instant) -> Instant {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        let mut state = self.lock();
        state.n_bytes = state.n_bytes.saturating_add(n);
        if let Some((since, bytes)) = state.busy {
            // Counted from the beginning of the row, so that rounding does not add up.
            let begins = since.checked_add(self.takes(bytes)).unwrap_or(now);
            if begins > now {
                state.busy = Some((since, bytes.saturating_add(n)));
                return begins;
            }
        }
        state.busy = Some((now, n));
        now
    }

    /// How long so many bytes take at the limit.
    fn takes(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Waits until `n` more bytes may move.
    pub(super) async fn pass(&self, n: usize) {
        let now = Instant::now();
        let begins = self.reserve(n, now);
        if begins > now {
            tokio::time::sleep_until(begins).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves slices for `parties` until a clock that only jumps from one event to the next reads
    /// `end`; every party asks again as soon as its slice is over. Bytes that began to move by then.
    fn moved_by(limit: &Bandwidth, parties: usize, end: Duration) -> u64 {
        let start = Instant::now();
        let mut asks_at = vec![start; parties];
        let mut moved = 0;
        loop {
            let (who, now) = asks_at.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
            let begins = limit.reserve(limit.slice_bytes(), now);
            if begins >= start + end {
                return moved;
            }
            moved += u64::try_from(limit.slice_bytes()).unwrap();
            asks_at[who] = begins;
        }
    }

    #[test]
    fn the_limit_is_reached_and_not_passed_whoever_shares_it() {
        for (rate, seconds) in [(MIN_BYTES_PER_SECOND, 10), (1_000_000, 10), (50 << 20, 10), (10 << 30, 1)] {
            for parties in [1, 2, 7, 64] {
                let limit = Bandwidth::new(rate);
                let moved = moved_by(&limit, parties, Duration::from_secs(seconds));
                let slice = u64::try_from(limit.slice_bytes()).unwrap();
                assert!(
                    moved <= rate * seconds + slice && moved + slice >= rate * seconds,
                    "{rate}, {parties}: {moved}"
                );
            }
        }
    }

    #[test]
    fn time_in_which_nothing_moved_is_not_saved_up() {
        let limit = Bandwidth::new(1_000_000);
        let start = Instant::now();
        assert_eq!(limit.reserve(500_000, start), start);
        let later = start + Duration::from_secs(60);
        assert_eq!(limit.reserve(500_000, later), later);
        assert_eq!(limit.reserve(1, later), later + Duration::from_millis(500));
        assert_eq!(limit.n_bytes(), 1_000_001);
    }

    #[test]
    fn slices_are_small_under_a_low_limit_so_that_everybody_moves() {
        for (rate, slice) in [(1, 4096), (200_000, 10_000), (1 << 20, 52_428), (10 << 20, 65_536), (u64::MAX, 65_536)] {
            assert_eq!(Bandwidth::new(rate).slice_bytes(), slice, "{rate}");
        }
    }
}
