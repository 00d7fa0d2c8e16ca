//! Runs granted command lines where the operator said.
//!
//! This module decides nothing: what arrives here was allowed, with every slot filled. It never
//! goes through a shell on this machine, never passes the host's own environment on to a granted
//! program, and never turns a source that failed into an end of input.
//!
//! One process is one supervisor thread (its end, its standard error, its kill), one feeder thread
//! where it reads something, and a pipe that whoever wants the output reads.

mod container;
mod feed;
mod find;
mod image;
mod launch;
mod leader;
mod local;
mod output;
mod pod;
mod probe;
mod program;
mod supervise;
#[cfg(test)]
mod tests;

use crate::error::{Error, Kind, Result};
use crate::policy::exec::{CommandLine, StdinGrant};
use crate::secret::{Redactor, Secret, Secrets};
use crate::stream::{Leash, Origin, Source};
pub use container::client_places;
pub use find::{STANDARD_PATH, find_program};
pub use local::keep_inherited_files_from_children;
use output::{Pipe, Stdout};
pub use pod::{Choice, Pod, PodSpec, Several};
pub use probe::probe;
pub use program::Program;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervise::{Handles, Kill, Shared};
use tokio_util::sync::CancellationToken;

/// The most of standard error that is kept: its end. From `wit/exec.wit`.
pub const STDERR_BYTES: usize = 64 * 1024;
/// Size of the pipes on standard input and output: what an unprivileged process may ask for
/// (`/proc/sys/fs/pipe-max-size`, 1 MiB unless the machine says otherwise).
const PIPE_BYTES: usize = 1 << 20;
/// Time between asking a process group to end and ending it.
const GRACE: Duration = Duration::from_secs(2);
/// What to do about a program that had too little memory.
pub const RAISE_MEMORY: &str = "if it needs more memory, raise command_memory in [plugin.….limits]";
/// How often a blocking wait looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(100);

/// User and group ids of a user of this machine.
///
/// Errors: `NotFound` for a user that is not in `/etc/passwd`.
pub fn user_ids(name: &str) -> Result<(u32, u32)> {
    use crate::error::IoContext;
    let passwd = std::fs::read_to_string("/etc/passwd").doing(|| "read \"/etc/passwd\"".to_owned())?;
    local::find_user(&passwd, name)
        .ok_or_else(|| Error::not_found(format!("there is no user {name:?} on this machine")).hint("correct run_in"))
}

/// Where the commands of a job run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunIn {
    /// On this machine, as the user of the host or as another one.
    Local {
        /// User name to become; needs the right to do so.
        user: Option<String>,
    },
    /// In a running container, through docker's or podman's own client.
    Container {
        /// Name or id of the container.
        name: String,
        /// The client and the arguments that come before its verb, such as `["/usr/bin/podman"]`.
        client: Vec<String>,
    },
    /// In a pod, through the API server of its cluster; [`Place::pod`] is the way there.
    Pod(PodSpec),
}

/// What the operator gives to every command of a job: where it runs and what surrounds it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where commands run.
    pub run_in: RunIn,
    /// The job's `env`: hosts, ports, users. Wins over the grant's own.
    pub env: BTreeMap<String, String>,
    /// Secrets by name; a command gets only those its grant names, which are fetched when it starts.
    pub secrets: Secrets,
    /// The pod, where commands run in one.
    pub pod: Option<Arc<Pod>>,
}

/// The secrets of one command by name, from when it is prepared until it has started.
type Fetched = BTreeMap<String, Secret>;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it. (In a container 128 and more are its own words.)
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last [`STDERR_BYTES`] of standard error, with the job's secrets blotted out.
    pub stderr: String,
}

impl Exit {
    /// Whether it exited with 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Of a program that failed as one does that gets no more memory, what to say of the limit that it had: it
    /// ended itself, did something without memory, or says something of memory.
    pub fn at_memory_limit(&self, limit_bytes: u64) -> Option<String> {
        let telling = match self.signal {
            // SIGABRT, SIGBUS, SIGSEGV. The limit itself kills nothing.
            Some(signal) => matches!(signal, 6 | 7 | 11),
            None => !self.is_success() && self.stderr.to_lowercase().contains("memory"),
        };
        let limit = crate::unit::bytes(limit_bytes);
        telling.then(|| format!("it may have reached its limit \"command_memory\", {limit} for each process"))
    }
}

/// What `exec.run` gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How the program ended.
    pub exit: Exit,
    /// All of its standard output, with the job's secrets blotted out.
    pub stdout: Vec<u8>,
}

/// A running program. It is ended, with its whole process group, when this and the source of its
/// standard output are gone: SIGTERM, then SIGKILL after 2 seconds.
///
/// Threads and pipes: 1 MiB for each of standard input and output, [`STDERR_BYTES`] for standard
/// error.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    handles: Arc<Handles>,
    stdout: Option<Pipe>,
    inspect: bool,
    hold: bool,
    redactor: Redactor,
    cancel: CancellationToken,
    stall: Duration,
    input_waits_for: Vec<Leash>,
    stdout_leash: Option<Leash>,
}

/// The end of a process: seen without keeping it alive.
#[derive(Clone, Debug)]
pub struct End(tokio::sync::watch::Receiver<bool>);

impl End {
    /// Whether the program has ended, or nobody watches it any more.
    pub fn is_over(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Starts a command line that the policy gave.
///
/// `scratch` is the run's scratch directory: the working directory of a command that uses it (`/`
/// for others). `stdin` comes along where the grant reads an artifact or the plugin. `stall` is
/// the longest time without a byte of input or output while somebody waits, unless the grant
/// says another; standard error does not count. Cancelling ends the process.
///
/// Errors name label and program: `NotFound` for a program or container that is missing, `Denied`
/// for one that may not be run or is not the one that is pinned, `Invalid` for what can never work.
pub async fn spawn(
    command: CommandLine,
    place: Arc<Place>,
    scratch: Option<PathBuf>,
    stdin: Option<Source>,
    stall: Duration,
    cancel: CancellationToken,
) -> Result<Process> {
    spawn_opened(command, None, place, scratch, stdin, stall, cancel).await
}

/// The same with the file of its program, where somebody has opened it to see whether it is the one
/// that is pinned. It is compared here in any case, and is what runs.
pub async fn spawn_opened(
    command: CommandLine,
    program: Option<Program>,
    place: Arc<Place>,
    scratch: Option<PathBuf>,
    stdin: Option<Source>,
    stall: Duration,
    cancel: CancellationToken,
) -> Result<Process> {
    let wants_source = matches!(command.stdin, StdinGrant::Artifact { .. } | StdinGrant::Plugin);
    if wants_source != stdin.is_some() {
        let got = if wants_source { "no source for standard input" } else { "a source for standard input" };
        return Err(Error::invalid(format!("could not run {:?}", command.label)).fact("got", got));
    }
    let mut secrets = Fetched::new();
    for name in command.secrets.iter().chain(command.secret_files.values()) {
        if let Some(secret) = place.secrets.fetch(name)? {
            secrets.insert(name.clone(), secret);
        }
    }
    let hold = matches!(command.stdin, StdinGrant::Text { hold: true, .. });
    let inspect = command.inspect;
    let stall = command.timeout.unwrap_or(stall);
    let input_waits_for = stdin.as_ref().map(|source| source.waits_for.clone()).unwrap_or_default();
    let redactor = place.secrets.redactor().clone();
    let label = command.label.clone();
    let start = async {
        let (prepared, stdin) = match &place.run_in {
            RunIn::Local { user } => {
                let program = pinned(&command, program).await?;
                let user = user.as_deref();
                (local::prepare(&command, program, &place, &secrets, user, scratch.as_deref())?, stdin)
            }
            RunIn::Container { name, client } => (container::prepare(&command, &place, &secrets, name, client)?, stdin),
            RunIn::Pod(_) => {
                let Some(pod) = &place.pod else {
                    return Err(cannot_start(Kind::Invalid, &command, "the way to its pod is missing"));
                };
                let (size, stdin) = opened(stdin).await?;
                (pod::prepare(&command, &place, &secrets, pod, size).await?, stdin)
            }
        };
        // What the child is to get is in the prepared command, and goes with it.
        drop(secrets);
        launch::launch(prepared, command, stdin, redactor.clone()).await
    };
    let launched = tokio::select! {
        biased;
        launched = Box::pin(start) => launched?,
        () = cancel.cancelled() => return Err(Error::cancelled(format!("starting {label:?} was cancelled"))),
        () = tokio::time::sleep(stall) => {
            return Err(Error::timed_out(format!("could not start {label:?}")).fact("waited", crate::unit::duration(stall)));
        }
    };
    Ok(Process {
        handles: launched.handles,
        shared: launched.shared,
        stdout: Some(launched.stdout),
        inspect,
        hold,
        redactor,
        cancel,
        stall,
        input_waits_for,
        stdout_leash: None,
    })
}

/// The file that a command pins its program to, and no other.
async fn pinned(command: &CommandLine, program: Option<Program>) -> Result<Option<Program>> {
    let Some(expected) = &command.sha256 else { return Ok(None) };
    let program = match program {
        Some(program) => program,
        None => open_program(&command.program)
            .await
            .map_err(|error| error.while_doing(format!("could not start {:?}", command.label)))?,
    };
    if program.sha256() == expected {
        return Ok(Some(program));
    }
    Err(cannot_start(Kind::Denied, command, "the program is not the one that is pinned")
        .fact("expected", format!("sha256 {expected}"))
        .fact("got", format!("sha256 {}", program.sha256()))
        .hint("find out what changed it; if that was meant, write the new digest as `sha256` of its grant"))
}

/// [`Program::open`] for who must not block.
pub async fn open_program(path: &str) -> Result<Program> {
    let owned = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Program::open(&owned)).await;
    opened.map_err(|error| Error::failed(format!("the program {path:?} could not be read")).because(error))?
}

/// What a program elsewhere cannot be held to: its file is not on this machine.
fn check_unpinned(command: &CommandLine, whose: &str) -> Result<()> {
    if command.sha256.is_none() {
        return Ok(());
    }
    let reason = format!("its grant pins a program of this machine by its digest, and the program is {whose}");
    Err(cannot_start(Kind::Invalid, command, reason)
        .hint("take sha256 out of its grant, or run this command on this machine; for a pod, pin `image`"))
}

/// Opens a source for who must know beforehand how long it is.
async fn opened(source: Option<Source>) -> Result<(Option<u64>, Option<Source>)> {
    let Some(mut source) = source else { return Ok((None, None)) };
    let open = tokio::task::spawn_blocking(move || source.body.open().map(|info| (info.len, Some(source))));
    open.await.map_err(|error| Error::failed("the source of standard input could not be opened").because(error))?
}

/// Waits until every process whose handles are gone has ended, with its group; at most `most`.
/// Returns how many have not, those included that are still in use.
///
/// Handles only ask for the end when they are dropped. Call this before the host exits: a program
/// that ignores SIGTERM, or runs in a container, needs some seconds.
pub async fn settled(most: Duration) -> usize {
    supervise::settled(most).await
}

impl Process {
    /// Standard output, once. The source ends well only when the pipe has ended **and** the program
    /// has exited with 0 and has read its input as the grant wants it; else it ends in an error
    /// with label, program, exit code and the end of standard error. From a container or a pod, every byte
    /// up to the wrapper's marker has arrived, and what was measured there agrees, or it ends in an error too.
    ///
    /// Its leash is held: release it when the guest hands the source on.
    pub fn stdout(&mut self) -> Result<Source> {
        let command = self.shared.label.clone();
        let Some(pipe) = self.stdout.take() else {
            return Err(Error::invalid(format!("standard output of {command:?} was taken already")));
        };
        let leash = Leash::held();
        self.stdout_leash = Some(leash.clone());
        let body = Stdout::new(pipe, self.handles.clone(), self.stall, self.cancel.clone(), leash.clone());
        Ok(Source {
            origin: Origin::Exec { command, proof: self.shared.proof() },
            inspect: self.inspect,
            waits_for: self.input_waits_for.clone(),
            leash,
            body: Box::new(body),
        })
    }

    /// Waits for the program to end; output that nobody took is thrown away.
    ///
    /// An exit code other than 0 is not an error here. Errors: its input failed, it stopped reading
    /// early and exited with 0 without `partial_stdin`, no progress for too long (`TimedOut`, the
    /// process is ended), cancelled, and `Invalid` for a command whose input is held open: that
    /// ends only when the process is dropped, so waiting for it would never end.
    pub async fn wait(&mut self) -> Result<Exit> {
        if let Some(pipe) = self.stdout.take() {
            self.shared.drain(pipe.into_body(), u64::MAX);
        }
        if self.hold && !self.shared.has_ended() {
            let label = &self.shared.label;
            return Err(Error::invalid(format!("waiting for {label:?} would never end"))
                .fact("reason", "its standard input is held open until the process is dropped")
                .hint("read its output, then drop the process"));
        }
        let mut ended = self.shared.subscribe();
        let began = Instant::now();
        loop {
            let left = self.stall.saturating_sub(self.shared.idle_since(began));
            tokio::select! {
                biased;
                result = ended.wait_for(|ended| *ended) => {
                    result.map_err(|error| self.shared.lost().because(error))?;
                    return self.shared.exit();
                }
                () = self.cancel.cancelled() => {
                    self.shared.kill(Kill::Soon, "the run was cancelled");
                    return Err(self.shared.cancelled());
                }
                () = tokio::time::sleep(left) => {
                    if self.shared.idle_since(began) >= self.stall {
                        self.shared.kill(Kill::Soon, "it made no progress");
                        return Err(self.shared.stalled(self.stall));
                    }
                }
            }
        }
    }

    /// Its end, for who counts processes.
    pub fn end(&self) -> End {
        End(self.shared.subscribe())
    }

    /// What must leave the guest's hands before [`Process::wait`] can end: whatever feeds its
    /// standard input, and its standard output while the guest holds it unread.
    pub fn waits_for(&self) -> Vec<Leash> {
        self.input_waits_for.iter().chain(&self.stdout_leash).cloned().collect()
    }

    /// Runs it to the end and collects standard output; an exit code other than 0 is not an error.
    /// The job's secrets are blotted out of the output, in all the forms that [`Redactor`] knows:
    /// a guest reads it, and no guest sees a secret.
    ///
    /// More than `max_bytes` of output is `Limit`, and ends the process. Memory: `max_bytes`.
    pub async fn run_to_end(mut self, max_bytes: usize) -> Result<Output> {
        let label = self.shared.label.clone();
        if self.hold {
            return Err(Error::invalid(format!("running {label:?} to its end would never end"))
                .fact("reason", "its standard input is held open until the process is dropped")
                .hint("spawn it instead"));
        }
        let Some(pipe) = self.stdout.take() else {
            return Err(Error::invalid(format!("standard output of {label:?} was taken already")));
        };
        let mut body = Stdout::new(pipe, self.handles.clone(), self.stall, self.cancel.clone(), Leash::default());
        let mut redacted = self.redactor.stream();
        let collected = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            let mut taken = 0;
            let mut buf = vec![0; 64 * 1024];
            loop {
                match body.read_raw(&mut buf)? {
                    0 => {
                        redacted.finish(&mut all);
                        return Ok((all, body));
                    }
                    n if taken + n > max_bytes => {
                        return Err(Error::limit(format!("the output of {label:?} is larger than it may be"))
                            .fact("limit", crate::unit::bytes(u64::try_from(max_bytes).unwrap_or(u64::MAX)))
                            .hint("spawn the command and store its output instead"));
                    }
                    n => {
                        taken += n;
                        redacted.push(&buf[..n], &mut all);
                    }
                }
            }
        });
        let (stdout, body) = collected
            .await
            .map_err(|error| Error::failed("the reader of a command's output ended early").because(error))??;
        let exit = self.wait().await?;
        if exit.is_success() {
            // What was measured where it ran is known when it has ended.
            body.whole()?;
        }
        Ok(Output { exit, stdout })
    }
}

/// What went wrong with a program that ended, in the words that every caller uses.
fn describe_exit(error: Error, exit: &Exit) -> Error {
    /// The most of standard error that an error shows: its last lines.
    const SHOWN_BYTES: usize = 2048;
    let error = match (exit.code, exit.signal) {
        (Some(code), _) => error.fact("exit code", code.to_string()),
        (None, Some(signal)) => error.fact("signal", signal_name(signal)),
        (None, None) => error,
    };
    let mut from = exit.stderr.len().saturating_sub(SHOWN_BYTES);
    while !exit.stderr.is_char_boundary(from) {
        from += 1;
    }
    let shown: String = exit.stderr[from..]
        .trim()
        .chars()
        .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if shown.is_empty() { error.fact("standard error", "(nothing)") } else { error.fact("standard error", shown) }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        6 => "SIGABRT",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        25 => "SIGXFSZ",
        _ => return signal.to_string(),
    };
    format!("{signal} ({name})")
}

/// An error of starting a program, of the right kind and with what to do.
fn cannot_start(kind: Kind, command: &CommandLine, reason: impl Into<String>) -> Error {
    Error::new(kind, format!("could not start {:?}", command.label))
        .fact("program", command.program.clone())
        .fact("reason", reason)
}
