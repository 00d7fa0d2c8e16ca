//! How fast a server takes bodies: at once, slowly, or not at all for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How fast bodies are taken, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they come.
    #[default]
    Free,
    /// At most so many bytes each second.
    BytesPerSecond(u64),
    /// After so many bytes, nothing at all for this long, once.
    StallAfter(u64, Duration),
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
    /// When counting began; for a stall, when it ends.
    at: Option<Instant>,
}

impl Gate {
    pub(super) fn set(&self, pace: Pace) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { pace, bytes: 0, at: None };
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

    /// How long `n` more bytes have to wait at this time.
    fn count(&self, n: u64, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes += n;
        match state.pace {
            Pace::Free => Duration::ZERO,
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
}
