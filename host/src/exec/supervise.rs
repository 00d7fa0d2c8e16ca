//! What a process is to all who hold a part of it, and the thread that watches it.
//!
//! The thread is the only one that signals or reaps. The leader of the group stays unreaped until
//! all handles are gone, so that its number cannot become another group's meanwhile.

mod tail;

pub(super) use tail::{Started, Tail};

use super::launch::Killer;
use super::leader::{Gone, Leader};
use super::output::Body;
use super::pod::sum::Measured;
use super::{Exit, GRACE, RAISE_MEMORY, describe_exit};
use crate::error::{Error, IoContext, Kind, Result};
use crate::policy::exec::CommandLine;
use crate::stream::Proof;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Signal, kill_process_group};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How urgently a process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kill {
    /// SIGTERM, and SIGKILL after the grace.
    Soon,
    /// SIGKILL.
    Now,
}

/// What became of standard input.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// There is none, or it is all written.
    Done,
    /// It is being written.
    Feeding,
    /// The program ended before it had read everything.
    StoppedEarly,
    /// Its source failed; the program was killed before it could take that for an end.
    Failed(Arc<Error>),
}

struct State {
    kill: Option<(Kill, &'static str)>,
    /// All handles are gone.
    released: bool,
    /// Standard output that nobody takes, and how much of it is thrown away before it is closed.
    drain: Option<(OwnedFd, u64)>,
    /// Standard input that is held open.
    held: Option<OwnedFd>,
    input: Input,
    /// The program has ended; its input may still be looked at, and a container's client still run.
    gone: bool,
    /// Why nobody knows how it ended.
    lost: Option<Arc<Error>>,
    /// How its output is measured where it runs, and what came of that.
    proof: Option<Proof>,
    measured: Option<Measured>,
    end: Option<Exit>,
}

/// One process, shared by its handles, its feeder and its supervisor.
pub(super) struct Shared {
    /// Label of the grant.
    pub label: String,
    program: String,
    partial_stdin: bool,
    /// The most private memory that each of its processes may write.
    memory_bytes: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
    started: watch::Sender<Started>,
    ended: watch::Sender<bool>,
    wake: OwnedFd,
    moves: Arc<Progress>,
}

/// When bytes of a process last moved.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// In milliseconds after `began`.
    moved_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { began: Instant::now(), moved_ms: AtomicU64::new(0) }
    }
}

impl Progress {
    /// Some move now.
    pub(super) fn moved(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.fetch_max(now, Ordering::Relaxed);
    }
}

/// Keeps a process alive; it ends when the last one is dropped.
#[derive(Debug)]
pub(super) struct Handles(Arc<Shared>);

impl Handles {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.lock().released = true;
        self.0.wake();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("label", &self.label).field("program", &self.program).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data that is whole after every statement: a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It only fails when the counter is full, and then the supervisor is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Ends the process; a more urgent word replaces a less urgent one.
    pub(super) fn kill(&self, kill: Kill, why: &'static str) {
        let mut state = self.lock();
        if state.kill.is_none_or(|(before, _)| before < kill) {
            let why = state.kill.map_or(why, |(_, first)| first);
            state.kill = Some((kill, why));
        }
        drop(state);
        self.wake();
    }

    /// Throws at most so many bytes of standard output away from now on, then closes it.
    pub(super) fn drain(&self, body: Body, most: u64) {
        match body {
            Body::Pipe(pipe) => self.lock().drain = Some((pipe, most)),
            Body::Flow(flow) => return flow.discard(self.moves.clone(), most),
        }
        self.wake();
    }

    /// Keeps standard input open until the process has ended.
    pub(super) fn hold(&self, pipe: OwnedFd) {
        let mut state = self.lock();
        state.input = Input::Done;
        state.held = (!state.gone).then_some(pipe);
        drop(state);
        self.wake();
    }

    pub(super) fn set_input(&self, input: Input) {
        self.lock().input = input;
        self.wake();
    }

    /// Bytes moved.
    pub(super) fn progress(&self) {
        self.moves.moved();
    }

    /// How long no byte has moved, counted from `began` at most.
    pub(super) fn idle_since(&self, began: Instant) -> Duration {
        let moved = self.moves.began + Duration::from_millis(self.moves.moved_ms.load(Ordering::Relaxed));
        moved.max(began).elapsed()
    }

    /// Whether the program has ended, however its input did.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Blocks until the program has ended.
    pub(super) fn wait_until_gone(&self) {
        let state = self.lock();
        drop(self.changed.wait_while(state, |state| !state.gone).unwrap_or_else(PoisonError::into_inner));
    }

    /// Blocks for at most `most`; whether the program and its input have ended.
    pub(super) fn wait_until_ended(&self, most: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, most, |state| state.end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.end.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// How its output is measured where it runs. Known once it has started.
    pub(super) fn proof(&self) -> Option<Proof> {
        self.lock().proof
    }

    /// What was measured of its output where it ran. Known once it has ended.
    pub(super) fn measured(&self) -> Option<Measured> {
        self.lock().measured
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Returns once the program runs, or why it does not. At once on this machine; in a container
    /// the wrapper says so.
    pub(super) async fn started(&self) -> Result<()> {
        let mut started = self.started.subscribe();
        let state = started.wait_for(|started| *started != Started::NotYet).await;
        let state = *state.map_err(|error| self.lost().because(error))?;
        let (kind, reason, hint) = match state {
            Started::Yes | Started::NotYet => return Ok(()),
            Started::Missing => {
                (Kind::NotFound, "there is no such file in the container", "correct `program` in the grant")
            }
            Started::Denied => {
                (Kind::Denied, "it is not executable in the container", "correct `program` in the grant")
            }
            Started::Bare => (
                Kind::Unavailable,
                "the container has no wc, or neither tee nor perl, and without them a cut input would look like its end",
                "use an image with coreutils or busybox, or a program that refuses a cut input, and say so in its grant",
            ),
            Started::Never => {
                (Kind::Unavailable, "the container's client failed", "look whether the container runs and has /bin/sh")
            }
        };
        let stderr = self.lock().end.as_ref().map(|end| end.stderr.clone()).unwrap_or_default();
        let kind = match kind {
            Kind::Unavailable if stderr.to_lowercase().contains("no such container") => Kind::NotFound,
            kind => kind,
        };
        let exit = self.lock().end.clone().unwrap_or(Exit { code: None, signal: None, stderr });
        if let Some(lost) = self.lock().lost.clone() {
            return Err(Error::new(lost.kind(), format!("could not start {:?}", self.label))
                .fact("program", self.program.clone())
                .because(Shown(lost)));
        }
        let error = Error::new(kind, format!("could not start {:?}", self.label))
            .fact("program", self.program.clone())
            .fact("reason", reason);
        Err(describe_exit(error, &exit).hint(hint))
    }

    /// How it ended; an error when its input failed or was not read to its end.
    pub(super) fn exit(&self) -> Result<Exit> {
        let state = self.lock();
        let Some(exit) = state.end.clone() else { return Err(self.lost()) };
        if let Some(lost) = &state.lost {
            // Where the host itself broke the connection off, its own reason comes first.
            let error = match (&state.input, state.kill) {
                (Input::Failed(source), _) => {
                    return Err(Error::new(source.kind(), format!("standard input of {:?} failed", self.label))
                        .fact("program", self.program.clone())
                        .because(Shown(source.clone())));
                }
                (_, Some((_, why))) => {
                    Error::new(lost.kind(), format!("{:?} was ended", self.label)).fact("reason", why)
                }
                (_, None) => Error::new(lost.kind(), format!("nobody knows how {:?} ended", self.label)),
            };
            return Err(error.fact("program", self.program.clone()).because(Shown(lost.clone())));
        }
        match &state.input {
            Input::Failed(source) => {
                let error = Error::new(source.kind(), format!("standard input of {:?} failed", self.label))
                    .fact("program", self.program.clone())
                    .fact("done", "the program was killed before it could take that for the end of its input");
                Err(error.because(Shown(source.clone())))
            }
            Input::StoppedEarly if exit.is_success() && !self.partial_stdin => {
                let error = Error::failed(format!("{:?} stopped reading before the end of its input", self.label))
                    .fact("program", self.program.clone());
                Err(describe_exit(error, &exit)
                    .hint("if it needs only the beginning, write partial_stdin = true in its grant"))
            }
            _ => Ok(exit),
        }
    }

    /// Whether it did what it was to do: [`Shared::exit`], and exit code 0.
    pub(super) fn verdict(&self) -> Result<()> {
        let exit = self.exit()?;
        if exit.is_success() {
            return Ok(());
        }
        let by_host = self.lock().kill.map(|(_, why)| why);
        let what = if exit.signal.is_some() { "was killed" } else { "failed" };
        let error = Error::failed(format!("{:?} {what}", self.label)).fact("program", self.program.clone());
        let error = describe_exit(error, &exit);
        let limit = self.memory_bytes.and_then(|bytes| exit.at_memory_limit(bytes));
        Err(match (by_host, exit.signal, limit) {
            (Some(why), ..) => error.fact("ended by strongroom", why),
            (None, _, Some(limit)) => error.fact("limit", limit).hint(RAISE_MEMORY),
            (None, Some(9), None) => error.hint("look for the out-of-memory killer in the kernel's log"),
            (None, _, None) => error,
        })
    }

    pub(super) fn stalled(&self, stall: Duration) -> Error {
        Error::timed_out(format!("{:?} made no progress", self.label))
            .fact("program", self.program.clone())
            .fact("waited", crate::unit::duration(stall))
            .fact("done", "its process group was ended")
            .hint("if it may be silent for longer, raise `timeout` in its grant")
    }

    pub(super) fn cancelled(&self) -> Error {
        Error::cancelled(format!("{:?} was ended, since the run was cancelled", self.label))
    }

    pub(super) fn lost(&self) -> Error {
        Error::failed(format!("the supervisor of {:?} is gone", self.label))
    }
}

/// A shared error as a source.
#[derive(Debug)]
struct Shown(Arc<Error>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shown {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

/// Starts watching a child that was just started. When that fails, the child is ended and reaped.
pub(super) fn start(
    command: &CommandLine,
    leader: Leader,
    killer: Killer,
    tail: Tail,
    stderr: OwnedFd,
    peek: Option<OwnedFd>,
) -> Result<Arc<Shared>> {
    let watch = || -> Result<_> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing(|| "make an event".to_owned())?;
        let shared = Arc::new(Shared {
            label: command.label.clone(),
            program: command.program.clone(),
            partial_stdin: command.partial_stdin,
            memory_bytes: command.memory_bytes,
            state: Mutex::new(State {
                kill: None,
                released: false,
                drain: None,
                held: None,
                input: if peek.is_some() { Input::Feeding } else { Input::Done },
                gone: false,
                lost: None,
                proof: None,
                measured: None,
                end: None,
            }),
            changed: Condvar::new(),
            started: watch::Sender::new(tail.started()),
            ended: watch::Sender::new(false),
            wake,
            moves: Arc::default(),
        });
        Ok(shared)
    };
    let mut leader = leader;
    let shared = match watch() {
        Ok(shared) => shared,
        Err(error) => {
            leader.signal(Signal::KILL);
            leader.reap();
            return Err(error);
        }
    };
    let group = leader.group();
    let supervisor = Supervisor {
        shared: shared.clone(),
        leader,
        killer,
        tail,
        stderr: Some(stderr),
        drain: None,
        drain_left: 0,
        peek,
        stage: Stage::Running,
        gone: None,
        _alive: Alive::new(),
    };
    let spawned = std::thread::Builder::new().name("exec-watch".to_owned()).spawn(move || supervisor.run());
    if let Err(error) = spawned {
        // Fails only when nothing is left of the group; a session ended with the supervisor.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        return Err(error).doing(|| format!("watch {:?}", command.label));
    }
    Ok(shared)
}

#[derive(Clone, Copy)]
enum Stage {
    Running,
    /// SIGTERM was sent; SIGKILL follows then.
    Ending(Instant),
    /// SIGKILL was sent; again then, to the client as well.
    Killing(Instant),
}

struct Supervisor {
    shared: Arc<Shared>,
    leader: Leader,
    killer: Killer,
    tail: Tail,
    stderr: Option<OwnedFd>,
    drain: Option<OwnedFd>,
    drain_left: u64,
    /// Another reading end of standard input: how much of it was never read.
    peek: Option<OwnedFd>,
    stage: Stage,
    gone: Option<(Option<i32>, Option<i32>)>,
    _alive: Alive,
}

impl Supervisor {
    fn run(mut self) {
        let mut swept = false;
        loop {
            let (kill, released) = {
                let mut state = self.shared.lock();
                if let Some((pipe, most)) = state.drain.take() {
                    (self.drain, self.drain_left) = (Some(pipe), most);
                }
                (state.kill.map(|(kill, _)| kill), state.released)
            };
            match self.gone {
                None => self.end_if_wanted(kill, released),
                Some(exit) => {
                    // What it left running holds its output open; of a program that failed nobody wants it.
                    if exit.0 != Some(0) && !std::mem::replace(&mut swept, true) {
                        self.killer.sweep(&self.leader);
                    }
                    self.publish(exit, kill.is_some() || released);
                    if released {
                        break;
                    }
                }
            }
            self.wait();
        }
        self.killer.sweep(&self.leader);
        // The leader is dead already: this only takes its number back.
        self.leader.reap();
    }

    fn end_if_wanted(&mut self, kill: Option<Kill>, released: bool) {
        let now = Instant::now();
        self.stage = match self.stage {
            Stage::Running if kill == Some(Kill::Now) => self.send(Signal::KILL, false),
            Stage::Running if kill.is_some() || released => self.send(Signal::TERM, false),
            Stage::Ending(until) if kill == Some(Kill::Now) || now >= until => self.send(Signal::KILL, false),
            Stage::Killing(until) if now >= until => self.send(Signal::KILL, true),
            stage => stage,
        };
    }

    fn send(&mut self, signal: Signal, last_resort: bool) -> Stage {
        self.killer.send(&self.leader, signal, last_resort);
        let until = Instant::now() + GRACE;
        if signal == Signal::KILL { Stage::Killing(until) } else { Stage::Ending(until) }
    }

    /// Tells everybody how it ended, once, as soon as its input is known too: of a program that
    /// exited with 0, whether it had read everything.
    fn publish(&mut self, (code, signal): (Option<i32>, Option<i32>), at_once: bool) {
        let unread = self.peek.as_ref().and_then(|peek| rustix::io::ioctl_fionread(peek).ok()).unwrap_or(0);
        let mut state = self.shared.lock();
        let feeding = matches!(state.input, Input::Feeding);
        if state.end.is_some() || (feeding && code == Some(0) && !at_once) {
            return;
        }
        let left = unread > 0 || self.tail.left_input();
        if left && matches!(state.input, Input::Done) || feeding {
            state.input = Input::StoppedEarly;
        }
        state.end = Some(Exit { code, signal, stderr: self.tail.text() });
        state.held = None;
        drop(state);
        self.peek = None;
        self.shared.changed.notify_all();
        self.shared.ended.send_replace(true);
        self.tail.ended();
        self.shared.started.send_replace(self.tail.started());
    }

    /// Sleeps until something happens, and takes what came.
    fn wait(&mut self) {
        let deadline = match (self.gone, self.stage) {
            (None, Stage::Ending(until) | Stage::Killing(until)) => {
                Some(until.saturating_duration_since(Instant::now()))
            }
            _ => None,
        };
        let timeout = deadline.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut polled = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if self.gone.is_none() {
            polled.push(PollFd::new(self.leader.over(), PollFlags::IN));
        }
        polled.extend(self.stderr.iter().chain(&self.drain).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        // An error here (EINTR, or no memory for a moment) means to look again.
        let _ = poll(&mut polled, timeout.as_ref());
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        // Looked at before the pipes: what a program wrote before its end is then in them.
        let gone = if self.gone.is_none() { self.leader.look() } else { None };
        take(&mut self.stderr, |bytes| self.tail.push(bytes));
        let mut left = self.drain_left;
        take(&mut self.drain, |bytes| {
            left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            self.shared.progress();
        });
        self.drain_left = left;
        if left == 0 {
            self.drain = None;
        }
        let is_gone = gone.is_some();
        if let Some(Gone { code, signal, lost }) = gone {
            self.gone = Some((code, signal));
            self.shared.lock().lost = lost.map(Arc::new);
        }
        // A wrapper says so before its client ends: it waits for the end of an input that nobody wants.
        if is_gone || self.tail.program_ended() {
            let mut state = self.shared.lock();
            state.held = None;
            if !std::mem::replace(&mut state.gone, true) {
                self.shared.changed.notify_all();
            }
        }
        if self.tail.proof().is_some() {
            let mut state = self.shared.lock();
            (state.proof, state.measured) = (self.tail.proof(), self.tail.measured());
        }
        if self.tail.started() != *self.shared.started.borrow() {
            self.shared.started.send_replace(self.tail.started());
        }
    }
}

impl Killer {
    /// Signals the process. What leads to it (a client, a session) is left alone unless as a last resort:
    /// it ends with the program, and when it ends before, the program sees an end of its input.
    fn send(&self, leader: &Leader, signal: Signal, last_resort: bool) {
        if let Killer::Inside(inside) = self {
            if let Err(said) = inside.send(signal) {
                tracing::warn!(place = inside.place(), said, "could not end a program, which may outlive this run");
            }
            if !last_resort {
                return;
            }
        }
        leader.signal(signal);
    }

    /// Ends what the leader left behind: its group here, or what it started where it ran, whose
    /// client does not wait for that.
    fn sweep(&self, leader: &Leader) {
        if let Killer::Inside(inside) = self
            && let Err(said) = inside.send(Signal::KILL)
        {
            // Most often because the container is gone, and with it everything in it. Of a pod nobody knows.
            match leader {
                Leader::Child { .. } => {
                    tracing::debug!(place = inside.place(), said, "could not look for what a program left behind");
                }
                Leader::Session(_) => {
                    tracing::warn!(place = inside.place(), said, "could not look for what a program left behind");
                }
            }
        }
        leader.signal(Signal::KILL);
    }
}

/// Supervisors that have not finished.
fn live() -> &'static watch::Sender<usize> {
    static LIVE: OnceLock<watch::Sender<usize>> = OnceLock::new();
    LIVE.get_or_init(|| watch::Sender::new(0))
}

/// Counts one supervisor for as long as it lives.
struct Alive;

impl Alive {
    fn new() -> Self {
        live().send_modify(|n| *n += 1);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        live().send_modify(|n| *n -= 1);
    }
}

/// See [`super::settled`].
pub(super) async fn settled(most: Duration) -> usize {
    let mut left = live().subscribe();
    // Too long is an answer too: how many are left.
    let _ = tokio::time::timeout(most, left.wait_for(|left| *left == 0)).await;
    *live().borrow()
}

/// Reads what is in a pipe, at most 1 MiB at a time, and closes it at its end.
fn take(pipe: &mut Option<OwnedFd>, mut with: impl FnMut(&[u8])) {
    let mut buf = [0; 16 * 1024];
    for _ in 0..64 {
        let Some(open) = &*pipe else { return };
        match rustix::io::read(open, &mut buf) {
            Ok(0) => *pipe = None,
            Ok(n) => with(&buf[..n]),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return,
            Err(_) => *pipe = None,
        }
    }
}
