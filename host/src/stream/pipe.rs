//! A bounded pipe inside the host: the asynchronous end writes, the blocking end reads.
//!
//! Memory: [`PIPE_BYTES`] and one write. This module never lets an unfinished stream end well.

use super::assemble::until_cancelled;
use super::source::{ByteSource, Leash, Origin, Source, take_from};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A write waits while this much or more is in the pipe: as much as a pipe of the system is set to.
pub const PIPE_BYTES: usize = 1 << 20;

/// A pipe. The source's bytes are the plugin's own, so the plugin may read them; reading waits for
/// the sink, so the source waits for the sink's leash. Both ends are in the guest's hands.
pub fn pipe(cancel: CancellationToken) -> (PipeSink, Source) {
    let shared = Arc::new(Shared::default());
    let sink = PipeSink { shared: shared.clone(), leash: Leash::held(), is_finished: false };
    let mut source = Source::new(Origin::Plugin, PipeReader { shared, cancel, current: Bytes::new() });
    source.inspect = true;
    source.waits_for = vec![sink.leash.clone()];
    source.leash = Leash::held();
    (sink, source)
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    end: End,
    is_reader_gone: bool,
}

#[derive(Clone, Copy, Default)]
enum End {
    #[default]
    Open,
    /// `finish` was called: the end is proven.
    Well,
    /// The sink was dropped.
    Badly,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.lock().end = end;
        self.readable.notify_one();
    }
}

/// The writable end of a pipe. Dropping it unfinished makes the reader fail.
pub struct PipeSink {
    shared: Arc<Shared>,
    /// Held until the sink is finished or dropped.
    pub leash: Leash,
    is_finished: bool,
}

impl PipeSink {
    /// Adds bytes; waits while the pipe is full. Given up half-way, nothing was added.
    /// Errors: `Failed` once the reader is gone.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        loop {
            {
                let mut state = self.shared.lock();
                if state.is_reader_gone {
                    return Err(Error::failed("the reader of the pipe is gone"));
                }
                if data.is_empty() {
                    return Ok(());
                }
                if state.queued_bytes < PIPE_BYTES {
                    state.queued_bytes += data.len();
                    state.queue.push_back(data);
                    drop(state);
                    self.shared.readable.notify_one();
                    return Ok(());
                }
            }
            self.shared.writable.notified().await;
        }
    }

    /// Ends the pipe well: the reader reads what is left and then the end. Errors: `Failed` when
    /// the reader is gone, because then nobody has the bytes.
    pub fn finish(mut self) -> Result<()> {
        self.is_finished = true;
        let is_reader_gone = self.shared.lock().is_reader_gone;
        self.shared.end(End::Well);
        if is_reader_gone { Err(Error::failed("the reader of the pipe is gone")) } else { Ok(()) }
    }
}

impl Drop for PipeSink {
    fn drop(&mut self) {
        if !self.is_finished {
            self.shared.end(End::Badly);
        }
        self.leash.release();
    }
}

struct PipeReader {
    shared: Arc<Shared>,
    cancel: CancellationToken,
    current: Bytes,
}

impl ByteSource for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.current.is_empty() {
            match self.next_chunk()? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        Ok(take_from(&mut self.current, buf))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(bytes) = state.queue.pop_front() {
                    state.queued_bytes -= bytes.len();
                    drop(state);
                    self.shared.writable.notify_one();
                    return Ok(Some(bytes));
                }
                match state.end {
                    End::Open => {}
                    End::Well => return Ok(None),
                    End::Badly => return Err(Error::failed("the writer of the pipe stopped before its end")),
                }
            }
            until_cancelled(&self.cancel, self.shared.readable.notified())?;
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_reader_gone = true;
        state.queue.clear();
        state.queued_bytes = 0;
        drop(state);
        self.shared.writable.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::stream::blocking::wait_for;
    use futures_util::FutureExt;

    fn read_all(source: &mut Source) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = source.body.next_chunk()? {
            all.extend(bytes);
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_comes_out_and_finish_is_the_end() {
        let (mut sink, mut source) = pipe(CancellationToken::new());
        let reader = std::thread::spawn(move || read_all(&mut source));
        let mut expected: Vec<u8> = Vec::new();
        for i in 0..200_u8 {
            let piece = vec![i; 40_000];
            expected.extend(&piece);
            wait_for(sink.write(piece.into())).unwrap();
        }
        sink.finish().unwrap();
        assert!(reader.join().unwrap().unwrap() == expected);
    }

    #[test]
    fn a_sink_that_is_dropped_unfinished_fails_the_reader_after_the_bytes() {
        let (mut sink, mut source) = pipe(CancellationToken::new());
        wait_for(sink.write(Bytes::from_static(b"half"))).unwrap();
        drop(sink);
        let mut buf = [0; 10];
        assert_eq!(source.body.read(&mut buf).unwrap(), 4);
        for _ in 0..2 {
            assert_eq!(source.body.read(&mut buf).unwrap_err().kind(), Kind::Failed, "and it stays failed");
        }
    }

    #[test]
    fn a_full_pipe_holds_the_writer_back_until_something_is_read() {
        let (mut sink, mut source) = pipe(CancellationToken::new());
        wait_for(sink.write(vec![1; PIPE_BYTES].into())).unwrap();
        assert!(sink.write(Bytes::from_static(b"x")).now_or_never().is_none());
        source.body.next_chunk().unwrap();
        assert!(sink.write(Bytes::from_static(b"x")).now_or_never().is_some());
    }

    #[test]
    fn the_writer_learns_that_the_reader_is_gone() {
        let (mut sink, source) = pipe(CancellationToken::new());
        wait_for(sink.write(vec![1; PIPE_BYTES].into())).unwrap();
        drop(source);
        assert_eq!(wait_for(sink.write(Bytes::from_static(b"x"))).unwrap_err().kind(), Kind::Failed);
        assert_eq!(sink.finish().unwrap_err().kind(), Kind::Failed);
    }

    #[test]
    fn a_reader_that_waits_is_woken_by_the_end_of_the_run() {
        let cancel = CancellationToken::new();
        let (_sink, mut source) = pipe(cancel.clone());
        let reader = std::thread::spawn(move || source.body.read(&mut [0; 4]));
        cancel.cancel();
        assert_eq!(reader.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
    }

    #[test]
    fn the_source_waits_for_the_sink_until_it_is_finished_or_dropped() {
        let (sink, source) = pipe(CancellationToken::new());
        assert!(source.waits_for.iter().any(Leash::is_held) && source.leash.is_held());
        sink.finish().unwrap();
        assert!(!source.waits_for.iter().any(Leash::is_held));
        let (sink, source) = pipe(CancellationToken::new());
        drop(sink);
        assert!(!source.waits_for.iter().any(Leash::is_held));
    }
}
