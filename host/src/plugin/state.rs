//! What the host keeps for one running guest. It is thrown away as a whole when the verb ends.

use super::bindings::strongroom::plugin::types;
use super::budget::{Counter, Limit, MemoryLimiter, Permit};
use super::capability::bytes::{Watch, while_moving};
use super::capability::storage::ReadBack;
use super::context::RunContext;
use super::guard::{DENIED, Guard, Refusal, kind_for_guest, lock};
use super::ledger::Ledger;
use super::linker::{inert_wasi, wasi_with};
use super::log::Log;
use super::scratch::{Files, Scratch};
use crate::error::{Error, Kind, Result};
use std::sync::{Arc, Mutex};
use tokio::task::{AbortHandle, JoinHandle};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// Most writes into buckets that are under way at once; the next one waits.
const MAX_WRITES: usize = 8;

/// State of one guest.
pub(crate) struct State {
    pub(super) table: ResourceTable,
    pub(super) guard: Guard,
    pub(super) run: RunContext,
    pub(super) memory: MemoryLimiter,
    pub(super) streams: Counter,
    /// Processes that were started; those that have ended are forgotten at the next look.
    pub(super) processes: Vec<crate::exec::End>,
    /// Transfers that were begun: finished ones are forgotten at the next look.
    pub(super) transfers: Vec<Underway>,
    /// Writes into buckets that were begun.
    pub(super) writings: Vec<Underway>,
    /// Writes into buckets of which the guest has not learned how they ended.
    pub(super) n_unknown_writings: usize,
    pub(super) write_places: Arc<tokio::sync::Semaphore>,
    pub(super) read_back: ReadBack,
    pub(super) n_artifacts: usize,
    /// Entries of archives so far.
    pub(super) n_entries: u64,
    pub(super) n_steps: u64,
    /// Counts what was written of metrics, once something was.
    pub(super) metrics_ledger: Option<Arc<Ledger>>,
    pub(super) log: Log,
    pub(super) reaper: Reaper,
    /// What the guest has of files, if anything.
    pub(super) scratch: Option<Scratch>,
    wasi: WasiCtx,
}

impl State {
    pub(super) fn new(run: RunContext, guard: Guard, log: Log) -> Self {
        let limits = &run.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            table,
            memory: MemoryLimiter::new(limits),
            streams: Counter::new(limits.open_streams),
            processes: Vec::new(),
            transfers: Vec::new(),
            writings: Vec::new(),
            n_unknown_writings: 0,
            write_places: Arc::new(tokio::sync::Semaphore::new(MAX_WRITES)),
            read_back: ReadBack::default(),
            n_artifacts: 0,
            n_entries: 0,
            n_steps: 0,
            wasi: inert_wasi(&log),
            metrics_ledger: None,
            log,
            reaper: Reaper::default(),
            scratch: None,
            guard,
            run,
        }
    }

    /// Gives the guest a directory, before it runs.
    ///
    /// Errors: when it cannot be opened.
    pub(super) fn give(&mut self, scratch: Scratch) -> Result<()> {
        self.wasi = wasi_with(&self.log, &scratch)?;
        self.scratch = Some(scratch);
        Ok(())
    }

    /// The error of a scratch directory that was not enough, if it was not.
    pub(super) fn scratch_spent(&self) -> Option<Error> {
        self.scratch.as_ref()?.spent(&self.guard)
    }

    /// What the guest has of files, as `wasi:filesystem` is asked for them.
    pub(super) fn files(&mut self) -> Files<'_> {
        let scratch = self.scratch.clone();
        Files::new(self.filesystem(), scratch)
    }

    /// A place for one more source, sink, transfer or writing.
    pub(super) fn stream_place(&self) -> Result<Permit> {
        self.streams.take().ok_or_else(|| self.guard.spent(Limit::OpenStreams))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Something that has a place and may wait for what the guest holds.
pub(super) struct Underway {
    /// The task that it runs on; none for an archive, which is over when the guest lets go of it.
    pub(super) task: Option<AbortHandle>,
    pub(super) waits_for: Vec<crate::stream::Leash>,
    /// How far it has come.
    pub(super) watch: Watch,
}

impl Underway {
    fn waits_for_guest(&self) -> bool {
        self.waits_for.iter().any(crate::stream::Leash::is_held)
    }

    fn is_over(&self) -> bool {
        self.task.as_ref().map_or_else(|| !self.waits_for_guest(), AbortHandle::is_finished)
    }
}

/// Whether a wait for any one of these could only be ended by the guest itself.
pub(super) fn all_wait_for_guest(underway: &mut Vec<Underway>) -> bool {
    underway.retain(|one| !one.is_over());
    !underway.is_empty() && underway.iter().all(Underway::waits_for_guest)
}

/// Awaits a place that one of these has to leave, as long as any of them moves.
///
/// Errors: `TimedOut` when nothing moves for the limit `stall`.
pub(super) async fn for_a_place<T>(guard: &Guard, underway: &[Underway], work: impl Future<Output = T>) -> Result<T> {
    if underway.is_empty() {
        return Ok(work.await);
    }
    let watches: Vec<_> = underway.iter().map(|one| one.watch.clone()).collect();
    while_moving(&watches, guard.limits().stall, work).await.ok_or_else(|| guard.stalled())
}

/// Tasks whose handles the guest has dropped: they were told to stop, and clean up behind
/// themselves. The run waits for them before it says that it has ended.
#[derive(Clone, Default)]
pub(super) struct Reaper(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Reaper {
    pub(super) fn add(&self, task: JoinHandle<()>) {
        let mut tasks = lock(&self.0);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Waits until all of them have ended.
    pub(super) async fn wait(&self) {
        loop {
            let tasks = std::mem::take(&mut *lock(&self.0));
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                // A task that panicked has said so itself.
                let _ = task.await;
            }
        }
    }
}

impl types::Host for State {
    fn convert_error(&mut self, refusal: Refusal) -> wasmtime::Result<types::Error> {
        let (error, kind, told) = match refusal {
            Refusal::End(error) => return Err(error),
            Refusal::Denied(error) => (error, Kind::Denied, DENIED.to_owned()),
            Refusal::Answer(error) => {
                let (kind, told) = (kind_for_guest(error.kind()), error.message().to_owned());
                (error, kind, told)
            }
        };
        let told = self.guard.tell(error, &told);
        Ok(match kind {
            Kind::Denied => types::Error::Denied(told),
            Kind::Invalid => types::Error::Invalid(told),
            Kind::NotFound => types::Error::NotFound(told),
            Kind::Conflict => types::Error::Conflict(told),
            Kind::Unavailable => types::Error::Unavailable(told),
            Kind::TimedOut => types::Error::TimedOut(told),
            Kind::Limit => types::Error::Limit(told),
            Kind::Damaged | Kind::Cancelled | Kind::Failed => types::Error::Failed(told),
        })
    }
}

/// Refuses a wait that only the guest could end.
pub(super) fn check_leashes(waits_for: &[crate::stream::Leash], what: &str) -> Result<()> {
    if waits_for.iter().any(crate::stream::Leash::is_held) {
        return Err(Error::invalid(format!(
            "{what} would never end: it waits for a stream that the plugin itself holds"
        )));
    }
    Ok(())
}
