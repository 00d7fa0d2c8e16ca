//! Standard output of a command in a pod, from the task that receives it to the thread that reads it.
//!
//! A pipe would copy every byte into the kernel and out again, and wake its reader with a system call for
//! each message. Here messages are handed over as they came. Memory: [`MOST_BYTES`] and one message.

use crate::exec::PIPE_BYTES;
use crate::exec::supervise::Progress;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What may wait to be read before the program is held back: as much as in a pipe.
const MOST_BYTES: usize = PIPE_BYTES;
/// Messages that may wait: of one byte each, they are more memory than bytes.
const MOST_PARTS: usize = 1024;

/// Where the task puts bytes in. Dropping it is the end.
#[derive(Debug)]
pub(in crate::exec) struct Inlet(Arc<Flow>);

/// Where they are read. Dropping it says that nobody wants them.
#[derive(Debug)]
pub(in crate::exec) struct Outlet(Arc<Flow>);

#[derive(Debug, Default)]
struct Flow {
    state: Mutex<State>,
    filled: Condvar,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Bytes>,
    bytes: usize,
    is_ended: bool,
    reader: Reader,
}

#[derive(Debug, Default)]
enum Reader {
    /// Takes everything, when it comes to it.
    #[default]
    There,
    /// Wants none of the next so many bytes, but to know that they came.
    Discards(Arc<Progress>, u64),
    Gone,
}

/// Both ends of a new one.
pub(in crate::exec) fn flow() -> (Inlet, Outlet) {
    let flow = Arc::<Flow>::default();
    (Inlet(flow.clone()), Outlet(flow))
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data that is whole after every statement: a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that waits is read any more.
    fn leave(&self, reader: Reader) {
        let mut state = self.lock();
        state.reader = reader;
        state.parts.clear();
        state.bytes = 0;
        drop(state);
        self.drained.notify_one();
    }
}

impl Inlet {
    /// Waits for room, and puts the bytes in. Without a reader they are thrown away.
    pub(super) async fn pass(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        while !self.try_pass(&bytes) {
            self.0.drained.notified().await;
        }
    }

    /// Whether there was room.
    fn try_pass(&self, bytes: &Bytes) -> bool {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        match &mut state.reader {
            Reader::Gone => return true,
            Reader::Discards(progress, left) => {
                progress.moved();
                *left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if *left == 0 {
                    state.reader = Reader::Gone;
                }
                return true;
            }
            Reader::There => {}
        }
        if state.bytes >= MOST_BYTES || state.parts.len() >= MOST_PARTS {
            return false;
        }
        let was_empty = state.parts.is_empty();
        state.bytes += bytes.len();
        state.parts.push_back(bytes.clone());
        drop(guard);
        if was_empty {
            self.0.filled.notify_one();
        }
        true
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.lock().is_ended = true;
        self.0.filled.notify_one();
    }
}

impl Outlet {
    /// Fills `buf` with what is there; 0 is the end, `None` that nothing came within `most`. Blocks.
    pub(in crate::exec) fn read(&self, buf: &mut [u8], most: Duration) -> Option<usize> {
        let state = self.0.lock();
        let is_empty = |state: &mut State| state.parts.is_empty() && !state.is_ended;
        let waited = self.0.filled.wait_timeout_while(state, most, is_empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if is_empty(&mut state) {
            return None;
        }
        // Large parts are copied without the lock: meanwhile others can be put in.
        let mut filled = 0;
        while filled < buf.len() {
            let Some(mut part) = state.parts.pop_front() else { break };
            drop(state);
            let n = part.len().min(buf.len() - filled);
            buf[filled..filled + n].copy_from_slice(&part[..n]);
            filled += n;
            part.advance(n);
            state = self.0.lock();
            state.bytes -= n;
            if !part.is_empty() {
                state.parts.push_front(part);
            }
            // Not at once: else who waits would wake for every message.
            if state.bytes <= MOST_BYTES / 2 && state.parts.len() <= MOST_PARTS / 2 {
                self.0.drained.notify_one();
            }
        }
        Some(filled)
    }

    /// Throws away what comes from now on: the next `most` bytes as progress, the rest without a word.
    pub(in crate::exec) fn discard(self, progress: Arc<Progress>, most: u64) {
        self.0.leave(Reader::Discards(progress, most));
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let is_there = matches!(self.0.lock().reader, Reader::There);
        if is_there {
            self.0.leave(Reader::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in_and_then_the_end() {
        let (inlet, outlet) = flow();
        let expected: Vec<u8> = (0..4 * MOST_BYTES).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let reader = std::thread::spawn(move || {
            let (mut all, mut buf) = (Vec::new(), vec![0; 70_000]);
            loop {
                match outlet.read(&mut buf, LONG).expect("the other side is at it") {
                    0 => return all,
                    n => all.extend_from_slice(&buf[..n]),
                }
            }
        });
        for (at, part) in expected.chunks(33_333).enumerate() {
            inlet.pass(Bytes::copy_from_slice(part)).await;
            if at % 7 == 0 {
                inlet.pass(Bytes::new()).await;
            }
        }
        drop(inlet);
        assert!(reader.join().unwrap() == expected);
    }

    #[tokio::test]
    async fn nothing_is_no_end_and_too_much_waits_for_room() {
        let (inlet, outlet) = flow();
        let mut buf = vec![0; MOST_BYTES];
        assert_eq!(outlet.read(&mut buf, SOON), None);
        inlet.pass(Bytes::from_static(b"a line\n")).await;
        assert_eq!(outlet.read(&mut buf, LONG), Some(7));
        for _ in 0..MOST_PARTS {
            assert!(inlet.try_pass(&vec![0; MOST_BYTES / MOST_PARTS].into()));
        }
        assert!(!inlet.try_pass(&Bytes::from_static(b"more")));
        assert_eq!(outlet.read(&mut buf[1..], LONG), Some(MOST_BYTES - 1));
        assert!(inlet.try_pass(&Bytes::from_static(b"more")));
        assert_eq!(outlet.read(&mut buf, LONG), Some(5));
        drop(inlet);
        assert_eq!(outlet.read(&mut buf, LONG), Some(0));
    }

    #[tokio::test]
    async fn who_wants_nothing_holds_nobody_back() {
        let progress = Arc::new(Progress::default());
        let (inlet, outlet) = flow();
        inlet.pass(vec![0; MOST_BYTES].into()).await;
        outlet.discard(progress.clone(), 3);
        for _ in 0..3 {
            inlet.pass(vec![0; MOST_BYTES].into()).await;
        }
        assert!(matches!(inlet.0.lock().reader, Reader::Gone), "after so many bytes it is let go");
        let (inlet, outlet) = flow();
        drop(outlet);
        inlet.pass(vec![0; 2 * MOST_BYTES].into()).await;
        inlet.pass(vec![0; 2 * MOST_BYTES].into()).await;
    }
}
