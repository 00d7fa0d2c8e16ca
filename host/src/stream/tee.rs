//! One source read twice: two sources with the same bytes.
//!
//! Whoever is behind holds the other back after [`TEE_BYTES`]; if the source fails, or one half is
//! let go before its end, both fail. Bytes are shared, not copied. This module has no thread: a
//! half that needs bytes fetches them for both.

use super::assemble::until_cancelled;
use super::source::{ByteSource, Leash, Source, SourceInfo, take_from};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How far one half may be ahead, in bytes, not counting the chunk that takes it there.
pub const TEE_BYTES: usize = 1 << 20;

/// Splits a source. Each half is in the guest's hands, and waits for what the source waits for and
/// for the other half. What waited for the source waits for both.
pub fn tee(source: Source, cancel: CancellationToken) -> (Source, Source) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            source: Some(source.body),
            info: None,
            halves: [Half::default(), Half::default()],
            is_ended: false,
            failure: None,
        }),
        changed: [Notify::new(), Notify::new()],
    });
    let leashes = [Leash::held(), Leash::held()];
    source.leash.split(leashes.clone());
    let half = |i: usize, cancel: CancellationToken| {
        let body = TeeReader { shared: shared.clone(), i, cancel, current: Bytes::new() };
        let mut waits_for = source.waits_for.clone();
        waits_for.push(leashes[1 - i].clone());
        Source {
            origin: source.origin.clone(),
            inspect: source.inspect,
            waits_for,
            leash: leashes[i].clone(),
            body: Box::new(body),
        }
    };
    (half(0, cancel.clone()), half(1, cancel))
}

struct Shared {
    state: Mutex<State>,
    /// One for each half, because both may wait at the same time.
    changed: [Notify; 2],
}

struct State {
    /// `None` while one half fetches, and after the end or a failure.
    source: Option<Box<dyn ByteSource>>,
    /// What the source said when it was opened.
    info: Option<SourceInfo>,
    halves: [Half; 2],
    is_ended: bool,
    /// The first failure, which both halves report.
    failure: Option<Arc<Error>>,
}

#[derive(Default)]
struct Half {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    is_gone: bool,
}

struct TeeReader {
    shared: Arc<Shared>,
    i: usize,
    cancel: CancellationToken,
    current: Bytes,
}

/// What a half does next.
enum Turn {
    Have(Bytes),
    End,
    /// The other half fetches, or is too far behind.
    Wait,
    /// It is this half's turn to ask the source.
    Fetch(Box<dyn ByteSource>, bool),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self, i: usize) -> Result<Turn> {
        if let Some(failure) = &self.failure {
            return Err(Error::new(failure.kind(), "a source that is read twice failed").because(failure.clone()));
        }
        if let Some(bytes) = self.halves[i].queue.pop_front() {
            self.halves[i].queued_bytes -= bytes.len();
            return Ok(Turn::Have(bytes));
        }
        if self.is_ended {
            return Ok(Turn::End);
        }
        if self.halves[1 - i].queued_bytes >= TEE_BYTES {
            return Ok(Turn::Wait);
        }
        Ok(match self.source.take() {
            Some(source) => Turn::Fetch(source, self.info.is_none()),
            None => Turn::Wait,
        })
    }
}

impl TeeReader {
    fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            let turn = self.shared.lock().turn(self.i)?;
            match turn {
                Turn::Have(bytes) => {
                    self.shared.changed[1 - self.i].notify_one();
                    return Ok(Some(bytes));
                }
                Turn::End => return Ok(None),
                Turn::Wait => until_cancelled(&self.cancel, self.shared.changed[self.i].notified())?,
                Turn::Fetch(source, is_first) => self.fetch(source, is_first, |source| source.next_chunk())?,
            }
        }
    }

    /// Asks the source without the lock and shares the answer out.
    fn fetch(
        &self,
        mut source: Box<dyn ByteSource>,
        is_first: bool,
        ask: impl FnOnce(&mut Box<dyn ByteSource>) -> Result<Option<Bytes>>,
    ) -> Result<()> {
        let info = if is_first { source.open().map(Some) } else { Ok(None) };
        let answer = info.and_then(|info| Ok((info, ask(&mut source)?)));
        let mut state = self.shared.lock();
        match answer {
            Ok((info, bytes)) => {
                state.info = info.or(state.info.take());
                match bytes {
                    Some(bytes) => {
                        for half in state.halves.iter_mut().filter(|half| !half.is_gone && !bytes.is_empty()) {
                            half.queued_bytes += bytes.len();
                            half.queue.push_back(bytes.clone());
                        }
                        // Not kept after a failure: dropping it tells the producer to stop.
                        if state.failure.is_none() {
                            state.source = Some(source);
                        }
                    }
                    None => state.is_ended = true,
                }
            }
            Err(error) => {
                state.failure.get_or_insert(Arc::new(error));
            }
        }
        drop(state);
        self.shared.changed[1 - self.i].notify_one();
        Ok(())
    }
}

impl ByteSource for TeeReader {
    fn open(&mut self) -> Result<SourceInfo> {
        loop {
            let turn = {
                let mut state = self.shared.lock();
                if let Some(info) = &state.info {
                    return Ok(info.clone());
                }
                state.turn(self.i)?
            };
            match turn {
                // An empty chunk is no end: the source is opened, and nothing is read.
                Turn::Fetch(source, is_first) => self.fetch(source, is_first, |_| Ok(Some(Bytes::new())))?,
                Turn::Wait => until_cancelled(&self.cancel, self.shared.changed[self.i].notified())?,
                Turn::Have(_) | Turn::End => return Err(Error::failed("a source was read before it was opened")),
            }
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.current.is_empty() {
            match self.advance()? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        Ok(take_from(&mut self.current, buf))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.current.is_empty() { self.advance() } else { Ok(Some(std::mem::take(&mut self.current))) }
    }
}

impl Drop for TeeReader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let is_early = !state.is_ended || !state.halves[self.i].queue.is_empty() || !self.current.is_empty();
        state.halves[self.i] = Half { is_gone: true, ..Half::default() };
        if is_early && state.failure.is_none() {
            state.failure = Some(Arc::new(Error::new(Kind::Failed, "the other reader stopped before the end")));
        }
        let source = if is_early { state.source.take() } else { None };
        drop(state);
        drop(source);
        self.shared.changed[1 - self.i].notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::source::{InMemory, Origin};
    use std::thread;

    /// Chunks, and then the end or a failure.
    struct Chunks(VecDeque<Bytes>, Option<Error>);

    impl ByteSource for Chunks {
        fn open(&mut self) -> Result<SourceInfo> {
            Ok(SourceInfo { len: None, attributes: vec![("mode".into(), "600".into())] })
        }
        fn read(&mut self, _: &mut [u8]) -> Result<usize> {
            Err(Error::failed("a tee asks for chunks"))
        }
        fn next_chunk(&mut self) -> Result<Option<Bytes>> {
            match self.0.pop_front() {
                Some(bytes) => Ok(Some(bytes)),
                None => self.1.take().map_or(Ok(None), Err),
            }
        }
    }

    fn chunks(n: usize, failure: Option<Error>) -> Source {
        let chunks = (0..n).map(|i| Bytes::from(vec![i as u8; 100_000])).collect();
        Source::new(Origin::Archive, Chunks(chunks, failure))
    }

    fn read_all(mut source: Source) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match source.body.read(&mut buf)? {
                0 => return Ok(all),
                n => all.extend(&buf[..n]),
            }
        }
    }

    #[test]
    fn both_halves_have_all_bytes() {
        let (a, b) = tee(chunks(100, None), CancellationToken::new());
        let a = thread::spawn(move || read_all(a));
        let b = read_all(b).unwrap();
        assert_eq!(b.len(), 10_000_000);
        assert!(a.join().unwrap().unwrap() == b);
    }

    #[test]
    fn a_failure_reaches_both_halves() {
        let (a, b) = tee(chunks(3, Some(Error::denied("no"))), CancellationToken::new());
        let a = thread::spawn(move || read_all(a));
        for error in [read_all(b).unwrap_err(), a.join().unwrap().unwrap_err()] {
            assert_eq!(error.kind(), Kind::Denied);
        }
    }

    #[test]
    fn a_half_that_is_let_go_early_fails_the_other_one() {
        let (mut a, b) = tee(chunks(100, None), CancellationToken::new());
        a.body.next_chunk().unwrap();
        drop(b);
        assert_eq!(read_all(a).unwrap_err().kind(), Kind::Failed);
    }

    #[test]
    fn a_half_that_is_let_go_at_its_end_leaves_the_other_one_alone() {
        let (mut a, b) = tee(chunks(3, None), CancellationToken::new());
        while a.body.next_chunk().unwrap().is_some() {}
        drop(a);
        assert_eq!(read_all(b).unwrap().len(), 300_000);
    }

    #[test]
    fn the_faster_half_waits_for_the_slower_one() {
        let cancel = CancellationToken::new();
        let (mut a, mut b) = tee(chunks(100, None), cancel.clone());
        let mut ahead = 0;
        while ahead < TEE_BYTES {
            ahead += a.body.next_chunk().unwrap().unwrap().len();
        }
        let fast = thread::spawn(move || a.body.next_chunk());
        assert_eq!(b.body.next_chunk().unwrap().unwrap()[0], 0);
        assert_eq!(fast.join().unwrap().unwrap().unwrap()[0], 11, "the slower half made room");
    }

    #[test]
    fn the_end_of_the_run_wakes_a_half_that_waits() {
        let cancel = CancellationToken::new();
        let (mut a, _b) = tee(chunks(100, None), cancel.clone());
        let fast = thread::spawn(move || {
            loop {
                if let Err(error) = a.body.next_chunk() {
                    return error.kind();
                }
            }
        });
        cancel.cancel();
        assert_eq!(fast.join().unwrap(), Kind::Cancelled);
    }

    #[test]
    fn both_halves_know_what_the_source_said_when_it_was_opened() {
        let (mut a, mut b) = tee(chunks(2, None), CancellationToken::new());
        assert_eq!(a.body.open().unwrap().attributes[0].0, "mode");
        a.body.next_chunk().unwrap();
        assert_eq!(b.body.open().unwrap().attributes[0].0, "mode");
        let (mut a, _b) = tee(Source::new(Origin::Plugin, InMemory::new("12345")), CancellationToken::new());
        assert_eq!(a.body.open().unwrap().len, Some(5));
    }

    #[test]
    fn each_half_waits_for_the_source_and_for_the_other_half() {
        let mut source = chunks(1, None);
        let upstream = Leash::held();
        source.waits_for.push(upstream.clone());
        let (a, b) = tee(source, CancellationToken::new());
        b.leash.release();
        assert!(a.waits_for.iter().any(Leash::is_held), "the source is still held");
        upstream.release();
        assert!(!a.waits_for.iter().any(Leash::is_held));
        assert!(b.waits_for.iter().any(Leash::is_held), "a is still held");
    }

    #[test]
    fn a_half_that_was_split_again_is_held_as_long_as_either_part_of_it() {
        let (a, b) = tee(chunks(1, None), CancellationToken::new());
        let (b_leash, waits) = (b.leash.clone(), a.waits_for.clone());
        let (c, d) = tee(b, CancellationToken::new());
        b_leash.release();
        c.leash.release();
        assert!(waits.iter().any(Leash::is_held), "d is still held");
        d.leash.release();
        assert!(!waits.iter().any(Leash::is_held));
    }
}
