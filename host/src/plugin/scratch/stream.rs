//! Streams on files of the scratch directory: written through its account, and counted like any stream.

use super::Scratch;
use crate::plugin::budget::Permit;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynInputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes of one write, which is what is held in memory of one stream.
const WRITE_BYTES: usize = 64 << 10;

/// A stream that writes into a file, at a position or at its end.
pub(super) struct FileOutput {
    scratch: Scratch,
    file: Arc<File>,
    /// Where the next write goes; `None` is the end of the file, wherever that is then.
    position: Option<u64>,
    state: State,
    _permit: Permit,
}

enum State {
    Ready,
    /// A write is under way.
    Busy(JoinHandle<io::Result<u64>>),
    /// The last write failed, and the guest has not been told.
    Failed(io::Error),
    Closed,
}

impl FileOutput {
    pub(super) fn new(scratch: Scratch, file: Arc<File>, position: Option<u64>, permit: Permit) -> Self {
        Self { scratch, file, position, state: State::Ready, _permit: permit }
    }
}

/// The error of a write, told once.
fn tell(state: &mut State) -> StreamResult<()> {
    match std::mem::replace(state, State::Closed) {
        State::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
        State::Closed => Err(StreamError::Closed),
        other => {
            *state = other;
            Ok(())
        }
    }
}

#[async_trait]
impl OutputStream for FileOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        tell(&mut self.state)?;
        if matches!(self.state, State::Busy(_)) || bytes.len() > WRITE_BYTES {
            return Err(StreamError::trap("a write without check-write, or of more than it allowed"));
        }
        let (scratch, file, position) = (self.scratch.clone(), Arc::clone(&self.file), self.position);
        self.state = State::Busy(tokio::task::spawn_blocking(move || scratch.write(&file, &bytes, position)));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        tell(&mut self.state)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        tell(&mut self.state)?;
        Ok(if matches!(self.state, State::Busy(_)) { 0 } else { WRITE_BYTES })
    }

    async fn cancel(&mut self) {
        self.ready().await;
        self.state = State::Closed;
    }
}

#[async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {
        let State::Busy(task) = &mut self.state else { return };
        self.state = match task.await {
            Ok(Ok(written)) => {
                self.position = self.position.map(|position| position.saturating_add(written));
                State::Ready
            }
            Ok(Err(error)) => State::Failed(error),
            Err(lost) => State::Failed(io::Error::other(lost)),
        };
    }
}

/// The runtime's own stream that reads a file, with its place among the streams of the run.
pub(super) struct FileInput {
    inner: DynInputStream,
    _permit: Permit,
}

impl FileInput {
    pub(super) fn new(inner: DynInputStream, permit: Permit) -> Self {
        Self { inner, _permit: permit }
    }
}

#[async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}
