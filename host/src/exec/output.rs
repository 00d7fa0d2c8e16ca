//! Standard output as a source of bytes.

use super::TICK;
use super::pod::flow::Outlet;
use super::pod::sum::Sum;
use super::supervise::{Handles, Kill};
use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Breakage};
use crate::stream::{ByteSource, Leash, Proof};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How much of an output is read and thrown away after who read it has let go of it.
const ABANDONED_BYTES: u64 = 1 << 20;

/// Where standard output comes from.
#[derive(Debug)]
pub(super) enum Body {
    /// A process of this machine writes into it.
    Pipe(OwnedFd),
    /// A session with a pod does.
    Flow(Outlet),
}

/// The reading end of standard output before anybody reads it.
#[derive(Debug)]
pub(super) struct Pipe {
    body: Body,
    marker: Option<String>,
}

impl Pipe {
    /// With a marker, output is whole only when it ends with that.
    pub(super) fn new(body: Body, marker: Option<String>) -> Self {
        Self { body, marker }
    }

    /// For who throws the output away.
    pub(super) fn into_body(self) -> Body {
        self.body
    }
}

/// The reading end of a program's standard output. Keeps the program alive.
pub(super) struct Stdout {
    body: Option<Body>,
    trailer: Option<Trailer>,
    /// Where the output is measured beside its source as well.
    sum: Option<Sum>,
    handles: Arc<Handles>,
    stall: Duration,
    cancel: CancellationToken,
    leash: Leash,
    state: State,
}

/// Holds back what may be the beginning of the marker, and nothing else: a program may write a line
/// and wait. The marker begins with a NUL, so that no line of text is ever held.
struct Trailer {
    marker: Vec<u8>,
    /// The longest end of what came that the marker begins with.
    held: Vec<u8>,
    /// What was held, turned out to be output, and has not been given out yet.
    ready: Vec<u8>,
}

impl Trailer {
    fn new(marker: &str) -> Self {
        Self { marker: [b"\0", marker.as_bytes()].concat(), held: Vec::new(), ready: Vec::new() }
    }

    /// Gives out what was held and is output after all.
    fn take_ready(&mut self, buf: &mut [u8]) -> usize {
        let n = self.ready.len().min(buf.len());
        buf[..n].copy_from_slice(&self.ready[..n]);
        self.ready.drain(..n);
        n
    }

    /// Takes `n` bytes at the front of `buf` and leaves those there that are certainly output; how
    /// many they are. With 0, the end, what is held is output unless it is the marker: of a program
    /// that failed, or else it is an error.
    fn pass(&mut self, buf: &mut [u8], n: usize) -> usize {
        if n == 0 {
            if !self.is_whole() {
                self.ready.append(&mut self.held);
            }
            return self.take_ready(buf);
        }
        if self.held.is_empty() {
            let keep = self.beginning(&buf[..n]);
            self.held.extend_from_slice(&buf[n - keep..n]);
            return n - keep;
        }
        self.held.extend_from_slice(&buf[..n]);
        let keep = self.beginning(&self.held);
        let held = self.held.split_off(self.held.len() - keep);
        self.ready = std::mem::replace(&mut self.held, held);
        self.take_ready(buf)
    }

    /// The length of the longest end of `bytes` that the marker begins with.
    fn beginning(&self, bytes: &[u8]) -> usize {
        let longest = bytes.len().min(self.marker.len());
        (0..=longest).rev().find(|&length| bytes.ends_with(&self.marker[..length])).unwrap_or(0)
    }

    /// Whether the last bytes were the marker.
    fn is_whole(&self) -> bool {
        self.held == self.marker
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl Stdout {
    pub(super) fn new(
        pipe: Pipe,
        handles: Arc<Handles>,
        stall: Duration,
        cancel: CancellationToken,
        leash: Leash,
    ) -> Self {
        let trailer = pipe.marker.as_deref().map(Trailer::new);
        let is_measured = handles.shared().proof().is_some_and(|proof| proof != Proof::Marker);
        let sum = is_measured.then(Sum::new);
        Self { body: Some(pipe.body), trailer, sum, handles, stall, cancel, leash, state: State::Open }
    }

    /// The next bytes, or 0 at the end of the pipe, however the program ends.
    pub(super) fn read_raw(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = self.read_unmarked(buf)?;
        if let Some(sum) = &mut self.sum {
            sum.push(&buf[..n]);
        }
        Ok(n)
    }

    fn read_unmarked(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            if let Some(trailer) = self.trailer.as_mut().filter(|trailer| !trailer.ready.is_empty()) {
                return Ok(trailer.take_ready(buf));
            }
            let n = self.read_body(buf)?;
            let Some(trailer) = &mut self.trailer else { return Ok(n) };
            let out = trailer.pass(buf, n);
            if out > 0 || n == 0 {
                return Ok(out);
            }
        }
    }

    /// Whether nothing was lost between the program and this end. Asked after its end.
    pub(super) fn whole(&self) -> Result<()> {
        let label = &self.handles.shared().label;
        if self.trailer.as_ref().is_none_or(Trailer::is_whole) {
            let Some(sum) = &self.sum else { return Ok(()) };
            let there = self.handles.shared().measured();
            let expected = there.map_or_else(|| "what was measured where it ran".to_owned(), |there| there.to_string());
            let got = match there.map(|there| sum.check(there)) {
                Some(Ok(())) => return Ok(()),
                Some(Err(here)) => here.to_string(),
                None => "nothing".to_owned(),
            };
            return Err(Error::failed(format!("the output of {label:?} is not what it was where it ran"))
                .fact("expected", expected)
                .fact("got", got)
                .hint("run it again; if it stays so, look at what lies between here and the node"));
        }
        Err(Error::failed(format!("the output of {label:?} was cut on its way out of the container"))
            .fact("expected", "the host's marker behind the last byte")
            .fact("got", "an end without it, and exit code 0 from the container's client")
            .hint("run it again; if it stays so, look into the log of the container's engine, and whether the program leaves children behind that write"))
    }

    fn read_body(&mut self, buf: &mut [u8]) -> Result<usize> {
        let shared = self.handles.shared();
        let began = Instant::now();
        let pipe = match &self.body {
            None => return Ok(0),
            Some(Body::Pipe(pipe)) => pipe,
            Some(Body::Flow(flow)) => loop {
                let Some(n) = flow.read(buf, TICK) else {
                    self.check(began)?;
                    continue;
                };
                if n == 0 {
                    self.body = None;
                } else {
                    shared.progress();
                }
                return Ok(n);
            },
        };
        loop {
            match rustix::io::read(pipe, &mut *buf) {
                Ok(0) => {
                    self.body = None;
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
        self.handles.shared().verdict()?;
        self.whole().map(|()| 0)
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
        // A program that writes on sees a closed pipe soon. One that does not must not be told from one
        // that was killed, only because its wrapper still writes the marker.
        if let Some(body) = self.body.take()
            && self.trailer.is_some()
        {
            self.handles.shared().drain(body, ABANDONED_BYTES);
        }
        self.leash.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a trailer lets through of `all`, read in pieces of `size` bytes, and whether it was whole.
    fn check_passed(all: &[u8], size: usize) -> (Vec<u8>, bool) {
        let mut trailer = Trailer::new("-end-");
        let mut out = Vec::new();
        for piece in all.chunks(size) {
            let mut buf = piece.to_vec();
            let n = trailer.pass(&mut buf, piece.len());
            out.extend_from_slice(&buf[..n]);
            while !trailer.ready.is_empty() {
                let n = trailer.take_ready(&mut buf);
                out.extend_from_slice(&buf[..n]);
            }
        }
        let whole = trailer.is_whole();
        loop {
            let mut buf = vec![0; size];
            match trailer.pass(&mut buf, 0) {
                0 => return (out, whole),
                n => out.extend_from_slice(&buf[..n]),
            }
        }
    }

    #[test]
    fn the_marker_is_no_output_however_it_is_cut() {
        for size in 1..40 {
            for body in ["", "a", "\0-end", "\0-end-", "\0-end\0-end", "\0\0\0", "0123456789abcdefghijklmnopqrstuvwxyz"]
            {
                assert_eq!(check_passed(format!("{body}\0-end-").as_bytes(), size), (body.as_bytes().to_vec(), true));
            }
        }
    }

    #[test]
    fn nothing_is_held_of_a_line() {
        let mut trailer = Trailer::new("marker");
        let mut buf = *b"a line\n";
        assert_eq!(trailer.pass(&mut buf, 7), 7);
    }

    #[test]
    fn output_without_the_marker_behind_it_is_not_whole_and_nothing_of_it_is_lost() {
        for size in 1..40 {
            for body in
                ["", "a", "\0-end", "\0-end-x", "some\0-end", "\0\0\0", "-end-", "0123456789abcdefghijklmnopqrstuvwxyz"]
            {
                assert_eq!(check_passed(body.as_bytes(), size), (body.as_bytes().to_vec(), false));
            }
        }
    }
}
