//! What is not perfect about a server: that it is slow, stands still, is far away, refuses or fails.

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
    /// Every so many-th write fails.
    FailEvery(u64, Failure),
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is taken and then answered with 503 `SlowDown`.
    Refused,
    /// It is taken and then answered with 500 `InternalError` and 503 `SlowDown` in turn.
    Answered,
    /// Its connection is reset in the middle of its body. Only parts of uploads are counted, and fail.
    Reset,
}

/// What becomes of one write that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Status and code of the answer.
    Answer(u16, &'static str),
    /// Half of its body is taken.
    Cut,
}

const SLOW_DOWN: Fault = Fault::Answer(503, "SlowDown");
const INTERNAL_ERROR: Fault = Fault::Answer(500, "InternalError");

/// What passes of an answer between two waits.
const SLICE_BYTES: usize = 64 << 10;

/// What every connection passes with each slice of a body, of requests and of answers.
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

    /// How much of an answer passes at once: all of it where there is nothing to wait for.
    pub(super) fn slice_bytes(&self) -> usize {
        if self.holds.load(Ordering::Acquire) { SLICE_BYTES } else { usize::MAX }
    }

    /// Waits before an answer as long as it takes from far away.
    pub(super) fn wait(&self) {
        let pace = if self.holds.load(Ordering::Acquire) { self.lock().pace } else { Pace::Free };
        if let Pace::Delay(delay) = pace {
            std::thread::sleep(delay);
        }
    }

    /// Counts a write, which may be a part of an upload, and says how it is to fail, if it is.
    pub(super) fn fault(&self, is_part: bool) -> Option<Fault> {
        if !self.holds.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let Pace::FailEvery(n, failure) = state.pace else { return None };
        if failure == Failure::Reset && !is_part {
            return None;
        }
        state.writes += 1;
        let (nth, rest) = (state.writes / n.max(1), state.writes % n.max(1));
        (rest == 0).then_some(match failure {
            Failure::Refused => SLOW_DOWN,
            Failure::Answered if nth % 2 == 0 => SLOW_DOWN,
            Failure::Answered => INTERNAL_ERROR,
            Failure::Reset => Fault::Cut,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long `n` more bytes have to wait at this time.
    fn count(&self, n: u64, now: Instant) -> Duration {
        let mut state = self.lock();
        state.bytes += n;
        match state.pace {
            Pace::Free | Pace::Delay(_) | Pace::FailEvery(..) => Duration::ZERO,
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
    fn every_so_many_th_write_fails_and_of_those_that_are_reset_only_parts_count() {
        let gate = Gate::default();
        let cut = Fault::Cut;
        for (failure, of_any, of_parts) in [
            (Failure::Refused, [None, Some(SLOW_DOWN)], [None, Some(SLOW_DOWN)]),
            (Failure::Answered, [None, Some(INTERNAL_ERROR)], [None, Some(SLOW_DOWN)]),
            (Failure::Reset, [None, None], [None, Some(cut)]),
        ] {
            gate.set(Pace::Free);
            assert_eq!(gate.fault(true), None);
            gate.set(Pace::FailEvery(2, failure));
            assert_eq!([(); 2].map(|()| gate.fault(false)), of_any, "{failure:?}");
            assert_eq!([(); 2].map(|()| gate.fault(true)), of_parts, "{failure:?}");
        }
    }
}
