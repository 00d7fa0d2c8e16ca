//! One run of a plugin: a store of its own, one verb, and what is said when it does not end well.

use super::bindings;
use super::bindings::strongroom::plugin::types;
use super::budget::Limit;
use super::context::{Check, RunContext};
use super::guard::{Deadline, Denials, Guard, Refusal};
use super::load::Plugin;
use super::log::Log;
use super::observer::{Observer, Stop};
use super::scratch::Scratch;
use super::speech;
use super::state::State;
use super::verb::{BackupReport, BackupRequest, DiagnoseRequest, RestoreRequest, VerifyRequest, checks_from_guest};
use crate::error::{Error, Kind, Result};
use crate::footprint;
use crate::policy::{Call, Policy, Verb};
use rustix::io::Errno;
use std::sync::Arc;
use tokio_util::sync::DropGuard;
use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};

/// A plugin that was started for one verb. The verb takes it: a store is never used twice.
///
/// Dropping it, or the future of its verb, ends everything that the guest began.
pub struct Instance {
    store: Store<State>,
    guest: bindings::Plugin,
    ending: Ending,
}

/// What is needed to say how a run ended, after its store is gone.
struct Ending {
    name: String,
    version: String,
    label: String,
    guard: Guard,
    log: Log,
    /// Ends all that the guest began, also where it is not a future: readers, writes, processes.
    stop: DropGuard,
}

impl Instance {
    pub(super) async fn start(plugin: &Plugin, mut run: RunContext, observer: Arc<dyn Observer>) -> Result<Self> {
        let manifest = &plugin.component().manifest;
        let policy = Policy { grants: manifest.effective(&run.policy.grants), ..(*run.policy).clone() };
        run.policy = Arc::new(policy.clone());
        let label = plugin.label().to_owned();
        let guard = Guard::new(&label, policy, &run.limits, observer);
        let log = Log::new(Arc::clone(&run.reporter), &run.limits, &label);
        let stopped = run.cancel.clone();
        run.cancel = run.cancel.child_token();
        let ending = Ending {
            stop: run.cancel.clone().drop_guard(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            label,
            guard: guard.clone(),
            log: log.clone(),
        };
        let limits = run.limits.clone();
        let mut store = Store::new(plugin.pre().engine(), State::new(run, guard.clone(), log));
        give_scratch(plugin, store.data_mut()).await?;
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        // Set before the guest's own initialisation runs.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let within = context.data().guard.meter().charge();
            Ok(if within { UpdateDeadline::Yield(1) } else { UpdateDeadline::Interrupt })
        });
        guard.meter().resume();
        let started = tokio::select! {
            biased;
            () = stopped.cancelled() => return Err(ending.cancelled()),
            started = tokio::time::timeout(limits.wall_clock, plugin.pre().instantiate_async(&mut store)) => started,
        };
        match started {
            Ok(Ok(guest)) => {
                footprint::forget_code();
                footprint::forget_free_memory();
                Ok(Self { store, guest, ending })
            }
            Ok(Err(error)) => Err(ending.stopped("its own initialisation", store.data(), &error)),
            Err(_) => Err(ending.spent(Limit::WallClock)),
        }
    }

    /// Calls that the policy refused, as they happen; keep it before a verb takes the instance.
    pub fn denials(&self) -> Denials {
        self.ending.guard.denials().clone()
    }

    /// Makes a backup. What it stored went through [`super::context::Artifacts`].
    ///
    /// Errors: what the plugin reported (with the host's own error behind it), a trap, a limit,
    /// `Cancelled`. In every case what it had begun and not finished is abandoned: transfers have
    /// cleaned up behind themselves when this returns, and processes have been told to end.
    pub async fn backup(self, request: BackupRequest) -> Result<BackupReport> {
        let request = request.into();
        let report = self
            .call(Verb::Backup, async |guest, store| {
                guest.strongroom_plugin_component().call_backup(store, &request).await
            })
            .await?;
        BackupReport::from_guest(report)
    }

    /// Checks a backup. Errors as [`Self::backup`]; a failed check is not an error.
    pub async fn verify(self, request: VerifyRequest) -> Result<Vec<Check>> {
        let (request, guard) = (request.into(), self.ending.guard.clone());
        let checks = self
            .call(Verb::Verify, async |guest, store| {
                guest.strongroom_plugin_component().call_verify(store, &request).await
            })
            .await?;
        checks_from_guest(checks, &guard)
    }

    /// Brings data back; its steps go to the reporter as they happen. Errors as [`Self::backup`].
    pub async fn restore(self, request: RestoreRequest) -> Result<()> {
        let request = request.into_wit(self.store.data().run.policy.occasion.plan_only);
        self.call(Verb::Restore, async |guest, store| {
            guest.strongroom_plugin_component().call_restore(store, &request).await
        })
        .await
    }

    /// Looks for trouble. Errors as [`Self::backup`]; a failed check is not an error.
    pub async fn diagnose(self, request: DiagnoseRequest) -> Result<Vec<Check>> {
        let (request, guard) = (request.into(), self.ending.guard.clone());
        let checks = self
            .call(Verb::Diagnose, async |guest, store| {
                guest.strongroom_plugin_component().call_diagnose(store, &request).await
            })
            .await?;
        checks_from_guest(checks, &guard)
    }

    async fn call<T>(
        self,
        verb: Verb,
        function: impl AsyncFnOnce(&bindings::Plugin, &mut Store<State>) -> wasmtime::Result<Result<T, types::Error>>,
    ) -> Result<T> {
        let Self { mut store, guest, ending } = self;
        let run = &store.data().run;
        let (cancel, wall_clock, reaper) = (run.cancel.clone(), run.limits.wall_clock, store.data().reaper.clone());
        if run.policy.occasion.verb != verb {
            let for_verb = run.policy.occasion.verb.name();
            return Err(Error::invalid(format!("\"{}\" was called in a run that is for \"{for_verb}\"", verb.name())));
        }
        ending.guard.meter().resume();
        let result = {
            let call = function(&guest, &mut store);
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ending.cancelled()),
                ended = tokio::time::timeout(wall_clock, call) => match ended {
                    Err(_) => Err(ending.spent(Limit::WallClock)),
                    // What it says was restored was not: nobody knows how those writes ended.
                    Ok(Ok(Ok(_))) if store.data().n_unknown_writings > 0 => {
                        Err(ending.left_open(verb.name(), store.data().n_unknown_writings))
                    }
                    Ok(Ok(Ok(value))) => Ok(value),
                    Ok(Ok(Err(reported))) => Err(ending.reported(reported, store.data())),
                    Ok(Err(error)) => Err(ending.stopped(verb.name(), store.data(), &error)),
                },
            }
        };
        // Everything that the guest still held goes now, and what it had begun is cleaned up. What
        // runs on threads of its own does not go with the call: it is told.
        drop(ending.stop);
        drop(store);
        reaper.wait().await;
        ending.guard.close();
        result
    }
}

/// Opens the scratch directory of the run for the guest, where one is granted for this verb: a call like
/// any other, and the first one.
async fn give_scratch(plugin: &Plugin, state: &mut State) -> Result<()> {
    let (Some(dir), Some(grant)) = (state.run.guest_dir.clone(), state.run.policy.scratch()) else { return Ok(()) };
    let (guard, bytes) = (state.guard.clone(), grant.bytes);
    if !plugin.component().imports_files() {
        return Ok(());
    }
    let work = async {
        let scratch = Scratch::open(&dir, bytes, &state.guard, &state.streams);
        Ok(state.give(scratch)?)
    };
    match guard.pass("scratch.open", Some(&Call::Scratch), Deadline::Own, work).await {
        Ok(()) => Ok(()),
        Err(Refusal::Denied(error) | Refusal::Answer(error)) => Err(error),
        Err(Refusal::End(error)) => {
            Err(error.downcast::<Error>().unwrap_or_else(|error| Error::failed(format!("{error:#}"))))
        }
    }
}

impl Ending {
    fn cancelled(&self) -> Error {
        Error::cancelled(format!("plugin \"{}\" was stopped", self.label))
    }

    /// The error of a guest that says it is done while writes into buckets are under way.
    fn left_open(&self, function: &str, n: usize) -> Error {
        Error::failed(format!("plugin \"{}\" {} returned before its writes had ended", self.name, self.version))
            .fact("in", function)
            .fact("abandoned", format!("{n} write(s) into a bucket that it never waited for"))
            .hint("this is for the plugin's vendor to mend; send them this message")
    }

    /// The error that a guest returned, attributed; the host's own error behind it, if it passed one on.
    fn reported(&self, reported: types::Error, state: &State) -> Error {
        let (kind, text) = match reported {
            // Only the policy denies: without a denial of its own it is the plugin's opinion.
            types::Error::Denied(text) if !self.guard.denials().list().is_empty() => (Kind::Denied, text),
            types::Error::Denied(text) | types::Error::Failed(text) => (Kind::Failed, text),
            types::Error::Invalid(text) => (Kind::Invalid, text),
            types::Error::NotFound(text) => (Kind::NotFound, text),
            types::Error::Conflict(text) => (Kind::Conflict, text),
            types::Error::Unavailable(text) => (Kind::Unavailable, text),
            types::Error::TimedOut(text) => (Kind::TimedOut, text),
            types::Error::Limit(text) => (Kind::Limit, text),
        };
        let said = format!("plugin \"{}\" {} reported: {}", self.name, self.version, speech::line(&text));
        match self.guard.behind(&text) {
            // What a server or the operating system denied is a failure for the guest, and a denial for
            // whoever runs it.
            Some(behind) if behind.kind() == Kind::Denied => Error::denied(said).because(behind),
            Some(behind) => Error::new(kind, said).because(behind),
            // WASI has no words for it: the guest knows only that there was no space.
            None => match state.scratch_spent() {
                Some(spent) => {
                    self.guard.stopped(Stop::Limit, spent.message());
                    let hint = spent.hint_text().unwrap_or_default().to_owned();
                    Error::limit(said).because(spent).hint(hint)
                }
                None => Error::new(kind, said),
            },
        }
    }

    /// The error of a limit that is spent; the observer is told.
    fn spent(&self, limit: Limit) -> Error {
        let spent = self.guard.spent(limit);
        self.guard.stopped(Stop::Limit, spent.message());
        spent
    }

    /// The error of a guest that was stopped: a limit, a trap, a panic, or an exit.
    fn stopped(&self, function: &str, state: &State, error: &wasmtime::Error) -> Error {
        let trap = error.downcast_ref::<Trap>().copied();
        if let Some(limit) = self.limit(state, trap, error) {
            self.guard.stopped(Stop::Limit, limit.message());
            return self.explain(limit, function, error);
        }
        // The host's own error: what the guest did could not be written down.
        if let Some(own) = error.downcast_ref::<Error>() {
            let mut ended = Error::new(own.kind(), own.message().to_owned());
            for (label, value) in own.facts() {
                ended = ended.fact(label, value.clone());
            }
            return match own.hint_text() {
                Some(hint) => ended.hint(hint.to_owned()),
                None => ended,
            };
        }
        let reason = match trap {
            Some(Trap::UnreachableCodeReached) if self.log.panic().is_some() => "it panicked".to_owned(),
            Some(Trap::UnreachableCodeReached) => {
                "it reached code that is never reached (a panic without a message, or an abort)".to_owned()
            }
            // A stack that holds more than numbers lies in linear memory, and grows down out of it.
            Some(Trap::MemoryOutOfBounds) => {
                "it accessed memory out of bounds (calls that nest too deep end so as well)".to_owned()
            }
            Some(trap) => trap.to_string(),
            None => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                Some(exit) => format!("it called exit with code {}", exit.0),
                None => speech::line(&error.root_cause().to_string()),
            },
        };
        if let Some(hint) = is_starved(error).then(|| crate::error::hint_of_io(&Errno::NOMEM.into())).flatten() {
            let what = format!("could not run plugin \"{}\" {}: {reason}", self.name, self.version);
            return self.explain(Error::failed(what), function, error).hint(hint);
        }
        let stopped =
            Error::failed(format!("plugin \"{}\" {} stopped in \"{function}\": {reason}", self.name, self.version));
        self.guard.stopped(Stop::Trap, stopped.message());
        self.explain(stopped, function, error).hint("this is for the plugin's vendor to mend; send them this message")
    }

    fn limit(&self, state: &State, trap: Option<Trap>, error: &wasmtime::Error) -> Option<Error> {
        let meter = self.guard.meter();
        if trap == Some(Trap::Interrupt) && meter.is_spent() {
            return Some(self.guard.spent(Limit::Cpu));
        }
        if trap == Some(Trap::StackOverflow) {
            return Some(self.guard.spent(Limit::Stack));
        }
        if let Some(limit) = state.memory.refused
            && matches!(trap, None | Some(Trap::UnreachableCodeReached))
        {
            return Some(self.guard.spent(limit));
        }
        // What gives up when it has no space, it does by a panic, an abort or an exit.
        let gave_up = trap == Some(Trap::UnreachableCodeReached) || error.is::<wasmtime_wasi::I32Exit>();
        if let Some(spent) = gave_up.then(|| state.scratch_spent()).flatten() {
            return Some(spent);
        }
        let text = format!("{error:#}");
        // The runtime has no types for these three; a test holds on to the words.
        if text.contains("resource limit exceeded") {
            return Some(self.guard.spent(Limit::Instances));
        }
        if text.contains("fuel allocated for hostcalls has been exhausted") {
            return Some(self.guard.spent(Limit::CallBytes));
        }
        let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
        if full || text.contains("store handle limit exceeded") {
            return Some(self.guard.spent(Limit::Handles));
        }
        None
    }

    /// Adds what is known of the place: function, panic and backtrace.
    fn explain(&self, mut error: Error, function: &str, cause: &wasmtime::Error) -> Error {
        error = error.fact("in", function);
        if let Some(panic) = self.log.panic() {
            error = error.fact("panic", panic);
        }
        for frame in cause.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default() {
            error = error.fact("at", frame);
        }
        error
    }
}

/// Whether the system gave no memory: not the guest's doing.
fn is_starved(error: &wasmtime::Error) -> bool {
    let root = error.root_cause();
    root.downcast_ref::<Errno>() == Some(&Errno::NOMEM)
        || root.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::OutOfMemory)
}

/// The frames of a backtrace, innermost first: function names as people write them, a row of the
/// same one as one.
fn frames(trace: &WasmBacktrace) -> Vec<String> {
    let text = trace.to_string();
    let mut frames: Vec<(String, u32)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let name = line.split_once(" - ").map_or(line, |(_, name)| name);
        // `module!function`; the module is the plugin itself.
        let name = name.split_once('!').map_or(name, |(_, name)| name);
        let name = speech::line(without_hash(name));
        match frames.last_mut() {
            Some((last, times)) if *last == name => *times += 1,
            _ => frames.push((name, 1)),
        }
    }
    let show = |(name, times)| if times == 1 { name } else { format!("{name} ({times} times)") };
    frames.into_iter().map(show).collect()
}

/// A demangled Rust name without its `::h0123456789abcdef`.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path,
        _ => name,
    }
}
