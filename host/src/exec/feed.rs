//! Feeds standard input, on a thread of its own.
//!
//! The end of the input is given only when the source has proven its end. When it fails instead,
//! the process is killed first, and only then is the pipe closed.

use super::TICK;
use super::supervise::{Input, Kill, Shared};
use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Breakage};
use crate::stream::Source;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a program reads.
pub(super) enum Food {
    /// A fixed text; with `hold` the pipe stays open after it.
    Text { text: String, hold: bool },
    /// An artifact, or what the plugin gives.
    Source(Source),
}

enum Fed {
    All,
    /// The program ended before it had read everything.
    Stopped,
}

pub(super) fn start(shared: Arc<Shared>, pipe: OwnedFd, food: Food) -> Result<()> {
    let label = shared.label.clone();
    let run = move || feed(&shared, pipe, food);
    let thread = std::thread::Builder::new().name("exec-feed".to_owned()).spawn(run);
    thread.map(drop).doing(|| format!("start feeding {label:?}"))
}

fn feed(shared: &Shared, pipe: OwnedFd, food: Food) {
    let hold = matches!(food, Food::Text { hold: true, .. });
    // A source that panics has failed: unwinding must not close the pipe as if it had ended.
    let fed = catch_unwind(AssertUnwindSafe(|| pour(shared, &pipe, food)))
        .unwrap_or_else(|_| Err(Error::failed("the source of standard input panicked")));
    match fed {
        // Said before the pipe closes: a program that ends at the end of its input has read all of it.
        Ok(Fed::All) if hold => shared.hold(pipe),
        Ok(Fed::All) => shared.set_input(Input::Done),
        Ok(Fed::Stopped) => shared.set_input(Input::StoppedEarly),
        Err(_) if failpoint::is_broken(Breakage::AcceptBrokenInput) => shared.set_input(Input::Done),
        Err(error) => {
            shared.set_input(Input::Failed(Arc::new(error)));
            shared.kill(Kill::Now, "its standard input failed");
            shared.wait_until_gone();
            drop(pipe);
        }
    }
}

fn pour(shared: &Shared, pipe: &OwnedFd, food: Food) -> Result<Fed> {
    match food {
        Food::Text { text, .. } => write_all(shared, pipe, text.as_bytes()),
        Food::Source(mut source) => {
            while let Some(chunk) = source.body.next_chunk()? {
                if let Fed::Stopped = write_all(shared, pipe, &chunk)? {
                    return Ok(Fed::Stopped);
                }
            }
            Ok(Fed::All)
        }
    }
}

fn write_all(shared: &Shared, pipe: &OwnedFd, mut rest: &[u8]) -> Result<Fed> {
    while !rest.is_empty() {
        // The host keeps a reading end (`Shared::peek`), so a program that is gone is no EPIPE here.
        if shared.is_gone() {
            return Ok(Fed::Stopped);
        }
        match rustix::io::write(pipe, rest) {
            Ok(n) => {
                rest = &rest[n..];
                shared.progress();
            }
            Err(Errno::AGAIN) => wait_for_room(pipe)?,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Ok(Fed::Stopped),
            Err(error) => return Err(error).doing(|| format!("write to {:?}", shared.label)),
        }
    }
    Ok(Fed::All)
}

fn wait_for_room(pipe: &OwnedFd) -> Result<()> {
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    match poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&tick)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).doing(|| "wait for a pipe".to_owned()),
    }
}
