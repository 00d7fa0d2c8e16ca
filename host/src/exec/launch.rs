//! From a prepared command to a running process with its supervisor and its feeder.

use super::container::ContainerKiller;
use super::feed::{self, Food};
use super::output::Pipe;
use super::supervise::{self, Handles, Shared, Tail};
use super::{PIPE_BYTES, local};
use crate::error::{Error, IoContext, Result};
use crate::policy::exec::{CommandLine, StdinGrant};
use crate::secret::Redactor;
use crate::stream::Source;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};

/// A command that is ready to be started.
pub(super) struct Prepared {
    /// What it becomes ([`super::image`]), directory and limits; not yet its pipes.
    pub child: Command,
    /// How it is ended.
    pub killer: Killer,
    /// What the container's wrapper writes: its own lines on standard error begin with it, and
    /// standard output ends with it.
    pub marker: Option<String>,
}

/// How a process is ended.
pub(super) enum Killer {
    /// By its process group on this machine.
    Group,
    /// Inside its container first, then the client's own process group.
    Container(ContainerKiller),
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
    let (send, receive) = tokio::sync::oneshot::channel();
    // The result is dropped, and with it the process, when nobody waits for it any more.
    let job = move || {
        let check = match &prepared.killer {
            Killer::Container(killer) if acts_on_input => killer.check(&command),
            Killer::Container(_) | Killer::Group => Ok(()),
        };
        drop(send.send(check.and_then(|()| start(prepared, &command, food, redactor))));
    };
    on_starter(job)?;
    let (launched, fed) =
        receive.await.map_err(|error| Error::failed("the thread that starts commands is gone").because(error))??;
    launched.shared.started().await?;
    if let Some((pipe, food)) = fed {
        feed::start(launched.shared.clone(), pipe, food)?;
    }
    Ok(launched)
}

type Fed = Option<(OwnedFd, Food)>;

fn start(
    mut prepared: Prepared,
    command: &CommandLine,
    food: Option<Food>,
    redactor: Redactor,
) -> Result<(Launched, Fed)> {
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    // A larger pipe is a favour: at the user's limit the kernel refuses, and the smaller one works too.
    let _ = fcntl_setpipe_size(&stdout, PIPE_BYTES);
    prepared.child.stdout(child_stdout).stderr(child_stderr).stdin(Stdio::null());
    let mut peek = None;
    let mut fed = None;
    if let Some(food) = food {
        let (read, write) = pipe()?;
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        peek = Some(read.try_clone().doing(|| "keep an end of a pipe".to_owned())?);
        prepared.child.stdin(read);
        not_blocking(&write)?;
        fed = Some((write, food));
    }
    not_blocking(&stdout)?;
    not_blocking(&stderr)?;
    let child = prepared.child.spawn().map_err(|error| local::start_error(command, error))?;
    let stdout = Pipe::new(stdout, prepared.marker.clone());
    let tail = Tail::new(redactor, prepared.marker);
    // The command holds the child's ends of the pipes: they must close now, or no pipe would ever end.
    drop(prepared.child);
    let shared = supervise::start(command, child, prepared.killer, tail, stderr, peek)?;
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

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".to_owned())
}

/// For this end only: the child's end of a pipe is another open file.
fn not_blocking(end: &OwnedFd) -> Result<()> {
    let set = || fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK);
    set().doing(|| "set up a pipe".to_owned())
}
