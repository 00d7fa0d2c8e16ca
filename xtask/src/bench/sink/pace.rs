//! What is not perfect about a server: that it is slow, stands still, is far away or refuses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What every client meets, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they come.
    #[default]
    Free,
    /// At most so many bytes each second.
    BytesPerSecond(u64),
    /// After so many bytes, nothing at all for this long, once.
    StallAfter(u64, Duration),
    /// Every answer this much later, as one from far away is.
    Delay(Duration),
    /// Every so many-th write is taken and then answered with 503 `SlowDown`.
    RefuseEvery(u64),
}

/// What every connection passes with each slice of a body.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Whether there is anything to wait for: the fast path takes no lock.
    holds: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    bytes: u64,
    writes: u64,
    /// When counting began; for a stall, when it ends.
    at: Option<Instant>,
}

impl Gate {
    pub(super) fn set(&self, pace: Pace) {
        *self.lock() = State { pace, ..State::default() };
        self.holds.store(pace != Pace::Free, Ordering::Release);
    }

    /// Counts `n` bytes and waits as long as they have to.
    pub(super) fn pass(&self, n: u64) {
        if self.holds.load(Ordering::Acquire) {
            let wait = self.count(n, Instant::now());
            if !wait.is_zero() {
                // A server that is slow is what this is: it has nothing else to wait for.
                std::thread::sleep(wait);
            }
        }
    }

    /// Waits before an answer as long as it takes from far away.
    pub(super) fn wait(&self) {
        let pace = if self.holds.load(Ordering::Acquire) { self.lock().pace } else { Pace::Free };
        if let Pace::Delay(delay) = pace {
            std::thread::sleep(delay);
        }
    }

    /// Counts a write and says whether it is to be refused.
    pub(super) fn refuses(&self) -> bool {
        if !self.holds.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.lock();
        state.writes += 1;
        matches!(state.pace, Pace::RefuseEvery(n) if state.writes.is_multiple_of(n.max(1)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long `n` more bytes have to wait at this time.
    fn count(&self, n: u64, now: Instant) -> Duration {
        let mut state = self.lock();
        state.bytes += n;
        match state.pace {
            Pace::Free | Pace::Delay(_) | Pace::RefuseEvery(_) => Duration::ZERO,
            Pace::BytesPerSecond(rate) => {
                let began = *state.at.get_or_insert(now);
                let due = began + Duration::from_micros(state.bytes.saturating_mul(1_000_000) / rate.max(1));
                due.saturating_duration_since(now)
            }
            Pace::StallAfter(bytes, _) if state.bytes <= bytes => Duration::ZERO,
            Pace::StallAfter(_, pause) => state.at.get_or_insert(now + pause).saturating_duration_since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(pace: Pace, steps: &[(u64, u64)]) -> Vec<u64> {
        let (gate, start) = (Gate::default(), Instant::now());
        gate.set(pace);
        let wait = |(n, at_ms): &(u64, u64)| gate.count(*n, start + Duration::from_millis(*at_ms)).as_millis();
        steps.iter().map(|step| u64::try_from(wait(step)).unwrap()).collect()
    }

    #[test]
    fn a_slow_server_takes_so_many_bytes_each_second_and_not_more() {
        let steps = [(500, 0), (500, 500), (1000, 1000), (1, 5000)];
        assert_eq!(waits(Pace::BytesPerSecond(1000), &steps), [500, 500, 1000, 0]);
    }

    #[test]
    fn a_stalled_server_stands_still_once_for_every_connection() {
        let steps = [(1000, 0), (1, 10), (1, 30), (1, 200)];
        assert_eq!(waits(Pace::StallAfter(1000, Duration::from_millis(100)), &steps), [0, 100, 80, 0]);
        assert_eq!(waits(Pace::Free, &steps), [0; 4]);
    }

    #[test]
    fn a_refusing_server_refuses_every_so_many_th_write() {
        let gate = Gate::default();
        assert!(!gate.refuses());
        gate.set(Pace::RefuseEvery(3));
        assert_eq!([(); 6].map(|()| gate.refuses()), [false, false, true, false, false, true]);
    }
}
