//! From a prepared command to a running process with its supervisor and its feeder.

use super::feed::{self, Food};
use super::leader::Leader;
use super::output::{Body, Pipe};
use super::pod::flow::flow;
use super::pod::session::{Open, Out};
use super::supervise::{self, Handles, Shared, Tail};
use super::{PIPE_BYTES, local};
use crate::error::{Error, IoContext, Result};
use crate::policy::exec::{CommandLine, StdinGrant};
use crate::secret::Redactor;
use crate::stream::Source;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};

/// A command that is ready to be started.
pub(super) struct Prepared {
    /// What is started.
    pub start: Start,
    /// How it is ended.
    pub killer: Killer,
    /// What the container's wrapper writes: its own lines on standard error begin with it, and
    /// standard output ends with it.
    pub marker: Option<String>,
}

/// What is started, without its pipes.
pub(super) enum Start {
    /// What it becomes ([`super::image`]), directory and limits.
    Process(Command),
    /// A session in which nothing was sent yet.
    Session(Box<Open>),
}

/// How a process is ended.
pub(super) enum Killer {
    /// By its process group on this machine.
    Group,
    /// Where it runs first, then what leads there: the client's own process group, or the session.
    Inside(Box<dyn Inside>),
}

/// Ends a program somewhere else.
pub(super) trait Inside: Send {
    /// Whether it could be ended. Asked before a command that acts on what it reads: if its source failed
    /// and it could not be ended, it would see an end of input. Blocks.
    fn check(&self, _command: &CommandLine) -> Result<()> {
        Ok(())
    }

    /// Signals the program and its children. Blocks. The error is what was said.
    fn send(&self, signal: Signal) -> Result<(), String>;

    /// Where it is, for messages.
    fn place(&self) -> String;
}

/// What `spawn` makes a process of.
pub(super) struct Launched {
    pub shared: Arc<Shared>,
    pub handles: Arc<Handles>,
    pub stdout: Pipe,
}

/// Starts it. The process is ended when the result, or the future itself, is dropped.
pub(super) async fn launch(
    prepared: Prepared,
    command: CommandLine,
    stdin: Option<Source>,
    redactor: Redactor,
) -> Result<Launched> {
    let food = match (&command.stdin, stdin) {
        (StdinGrant::Text { text, hold }, _) => Some(Food::Text { text: text.clone(), hold: *hold }),
        (_, Some(source)) => Some(Food::Source(source)),
        (_, None) => None,
    };
    let acts_on_input = matches!(food, Some(Food::Source(_))) && !command.detects_short_input;
    // A session needs no thread of its own to begin on, and its killer was asked already.
    if let Start::Session(_) = prepared.start {
        return follow(start(prepared, &command, food, redactor)?).await;
    }
    let (send, receive) = tokio::sync::oneshot::channel();
    // The result is dropped, and with it the process, when nobody waits for it any more.
    let job = move || {
        let check = match &prepared.killer {
            Killer::Inside(killer) if acts_on_input => killer.check(&command),
            Killer::Inside(_) | Killer::Group => Ok(()),
        };
        drop(send.send(check.and_then(|()| start(prepared, &command, food, redactor))));
    };
    on_starter(job)?;
    follow(receive.await.map_err(|error| Error::failed("the thread that starts commands is gone").because(error))??)
        .await
}

/// Waits until the program runs, and feeds it.
async fn follow((launched, fed): (Launched, Fed)) -> Result<Launched> {
    launched.shared.started().await?;
    if let Some((pipe, food)) = fed {
        feed::start(launched.shared.clone(), pipe, food)?;
    }
    Ok(launched)
}

type Fed = Option<(OwnedFd, Food)>;

fn start(prepared: Prepared, command: &CommandLine, food: Option<Food>, redactor: Redactor) -> Result<(Launched, Fed)> {
    let (stderr, child_stderr) = pipe()?;
    let mut peek = None;
    let mut fed = None;
    let mut child_stdin = None;
    if let Some(food) = food {
        let (read, write) = pipe()?;
        enlarge(&write);
        peek = Some(read.try_clone().doing(|| "keep an end of a pipe".to_owned())?);
        child_stdin = Some(read);
        not_blocking(&write)?;
        fed = Some((write, food));
    }
    not_blocking(&stderr)?;
    let (leader, body) = match prepared.start {
        // The command holds the child's ends of the pipes: they close with it, or no pipe would ever end.
        Start::Process(mut child) => {
            let (stdout, child_stdout) = pipe()?;
            enlarge(&stdout);
            not_blocking(&stdout)?;
            child.stdout(child_stdout).stderr(child_stderr).stdin(child_stdin.map_or_else(Stdio::null, Stdio::from));
            let child = child.spawn().map_err(|error| local::start_error(command, error))?;
            (Leader::child(child)?, Body::Pipe(stdout))
        }
        Start::Session(open) => {
            let (inlet, outlet) = flow();
            (Leader::Session(open.start(child_stdin, Out::Flow(inlet), child_stderr)?), Body::Flow(outlet))
        }
    };
    let stdout = Pipe::new(body, prepared.marker.clone());
    let tail = Tail::new(redactor, prepared.marker);
    let shared = supervise::start(command, leader, prepared.killer, tail, stderr, peek)?;
    let handles = Arc::new(Handles::new(shared.clone()));
    Ok((Launched { shared, handles, stdout }, fed))
}

/// Runs `job` on the one thread that starts commands. A child's parent-death signal follows the
/// thread that forked it, so that thread must live as long as the host does.
fn on_starter(job: impl FnOnce() + Send + 'static) -> Result<()> {
    type Job = Box<dyn FnOnce() + Send>;
    static STARTER: OnceLock<Option<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Job>();
        let work = move || {
            local::keep_inherited_files_from_children();
            receive.into_iter().for_each(|job| job());
        };
        std::thread::Builder::new().name("exec-start".to_owned()).spawn(work).ok().map(|_| send)
    });
    let gone = || Error::failed("the thread that starts commands could not be started");
    starter.as_ref().ok_or_else(gone)?.send(Box::new(job)).map_err(|_| gone())
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".to_owned())
}

/// A larger pipe is a favour: at the user's limit the kernel refuses, and the smaller one works too.
fn enlarge(end: &OwnedFd) {
    let _ = fcntl_setpipe_size(end, PIPE_BYTES);
}

/// For this end only: the child's end of a pipe is another open file.
fn not_blocking(end: &OwnedFd) -> Result<()> {
    let set = || fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK);
    set().doing(|| "set up a pipe".to_owned())
}
