//! Standard output as a source of bytes.

use super::TICK;
use super::supervise::{Handles, Kill};
use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Breakage};
use crate::stream::{ByteSource, Leash};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The reading end of a program's standard output. Keeps the program alive.
pub(super) struct Stdout {
    pipe: Option<OwnedFd>,
    handles: Arc<Handles>,
    stall: Duration,
    cancel: CancellationToken,
    leash: Leash,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl Stdout {
    pub(super) fn new(
        pipe: OwnedFd,
        handles: Arc<Handles>,
        stall: Duration,
        cancel: CancellationToken,
        leash: Leash,
    ) -> Self {
        Self { pipe: Some(pipe), handles, stall, cancel, leash, state: State::Open }
    }

    /// The next bytes, or 0 at the end of the pipe, however the program ends.
    pub(super) fn read_raw(&mut self, buf: &mut [u8]) -> Result<usize> {
        let shared = self.handles.shared();
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let began = Instant::now();
        loop {
            match rustix::io::read(pipe, &mut *buf) {
                Ok(0) => {
                    self.pipe = None;
                    return Ok(0);
                }
                Ok(n) => {
                    shared.progress();
                    return Ok(n);
                }
                Err(Errno::AGAIN) => {
                    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
                    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&tick)) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error).doing(|| "wait for a pipe".to_owned()),
                    }
                    self.check(began)?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).doing(|| format!("read the output of {:?}", shared.label)),
            }
        }
    }

    /// Ends the process when the run was cancelled or nothing has moved for too long.
    fn check(&self, began: Instant) -> Result<()> {
        let shared = self.handles.shared();
        if self.cancel.is_cancelled() {
            shared.kill(Kill::Soon, "the run was cancelled");
            return Err(shared.cancelled());
        }
        if shared.idle_since(began) >= self.stall {
            shared.kill(Kill::Soon, "it made no progress");
            return Err(shared.stalled(self.stall));
        }
        Ok(())
    }

    fn read_proven(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = self.read_raw(buf)?;
        if n > 0 {
            return Ok(n);
        }
        let began = Instant::now();
        while !self.handles.shared().wait_until_ended(TICK) {
            self.check(began)?;
        }
        if failpoint::is_broken(Breakage::AcceptFailedProducer) {
            return Ok(0);
        }
        self.handles.shared().verdict().map(|()| 0)
    }
}

impl ByteSource for Stdout {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.state {
            State::Open if buf.is_empty() => Ok(0),
            State::Ended => Ok(0),
            State::Failed => {
                let label = &self.handles.shared().label;
                Err(Error::failed(format!("the output of {label:?} failed before")))
            }
            State::Open => {
                let result = self.read_proven(buf);
                match result {
                    Ok(0) => self.state = State::Ended,
                    Ok(_) => {}
                    Err(_) => self.state = State::Failed,
                }
                result
            }
        }
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        self.leash.release();
    }
}
