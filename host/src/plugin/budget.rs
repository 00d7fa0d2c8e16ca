//! What a run has used of its limits: memory, processor time, streams, processes and log text.

use super::engine::TICK;
use super::limits::Limits;
use crate::error::Error;
use crate::unit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wasmtime::ResourceLimiter;

/// Most steps of a restore that are kept.
pub(super) const MAX_STEPS: u64 = 20_000;

/// One of the limits, as the configuration and messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Memory,
    TableElements,
    Instances,
    Cpu,
    WallClock,
    Stall,
    Handles,
    OpenStreams,
    Processes,
    Artifacts,
    ArchiveEntries,
    EntryPath,
    CallBytes,
    LogBytes,
    MetricSeries,
    Stack,
    ScratchFiles,
    ScratchOpen,
    CompileMemory,
    CompileCpu,
    CompileTime,
}

impl Limit {
    /// Its name in the configuration.
    pub(crate) fn key(self, limits: &Limits) -> &'static str {
        self.describe(limits).0
    }

    /// The error that says it is spent, with the TOML that raises it.
    ///
    /// `label` is the plugin's name in the configuration.
    pub(crate) fn spent(self, label: &str, limits: &Limits) -> Error {
        let (key, what, value, raised) = self.describe(limits);
        Error::limit(format!("plugin \"{label}\" has used up its limit \"{key}\" ({what})")).fact("limit", value).hint(
            format!("if that is too little, raise it in the configuration: [plugin.{label}.limits] {key} = {raised}"),
        )
    }

    /// Key, meaning, value, and twice the value as TOML.
    fn describe(self, limits: &Limits) -> (&'static str, &'static str, String, String) {
        let size = |bytes: usize| {
            let bytes = bytes as u64;
            (unit::bytes(bytes), toml_bytes(bytes.saturating_mul(2)))
        };
        let time = |d: Duration| (unit::duration(d), format!("\"{}s\"", d.as_secs().saturating_mul(2).max(1)));
        let count = |n: usize| (n.to_string(), n.saturating_mul(2).to_string());
        let (key, what, (value, raised)) = match self {
            Limit::Memory => ("memory", "linear memory", size(limits.memory_bytes)),
            Limit::TableElements => ("table_elements", "elements of one table", count(limits.table_elements)),
            Limit::Instances => ("instances", "core instances, tables or memories", count(limits.instances)),
            Limit::Cpu => ("cpu", "time that it computes itself", time(limits.cpu)),
            Limit::WallClock => ("wall_clock", "time of one verb", time(limits.wall_clock)),
            Limit::Stall => ("stall", "time without progress", time(limits.stall)),
            Limit::Handles => ("handles", "handles alive at once", count(limits.handles)),
            Limit::OpenStreams => ("open_streams", "streams alive at once", count(limits.open_streams)),
            Limit::Processes => ("processes", "processes alive at once", count(limits.processes)),
            Limit::Artifacts => ("artifacts", "artifacts of one backup", count(limits.artifacts)),
            Limit::ArchiveEntries => {
                let most = limits.archive_entries;
                let shown = (most.to_string(), most.saturating_mul(2).to_string());
                ("archive_entries", "entries of all archives of one backup", shown)
            }
            Limit::EntryPath => ("entry_path", "path of an entry of an archive", size(limits.entry_path_bytes)),
            Limit::CallBytes => ("call_bytes", "bytes given to one call", size(limits.call_bytes)),
            Limit::LogBytes => ("log_bytes", "log text of one run", size(limits.log_bytes)),
            Limit::MetricSeries => ("metric_series", "series of metrics of one run", count(limits.metric_series)),
            Limit::Stack => ("stack", "stack of its calls", size(limits.stack_bytes)),
            Limit::ScratchFiles => {
                let most = limits.scratch_files;
                let shown = (most.to_string(), most.saturating_mul(2).to_string());
                ("scratch_files", "files and directories in its scratch directory", shown)
            }
            Limit::ScratchOpen => {
                ("scratch_open", "files of its scratch directory open at once", count(limits.scratch_open))
            }
            Limit::CompileMemory => {
                let most = limits.compile_memory_bytes;
                ("compile_memory", "memory of its compiler", (unit::bytes(most), toml_bytes(most.saturating_mul(2))))
            }
            Limit::CompileCpu => ("compile_cpu", "processor time of its compiler", time(limits.compile_cpu)),
            Limit::CompileTime => ("compile_time", "time of its compiler", time(limits.compile_time)),
        };
        (key, what, value, raised)
    }
}

fn toml_bytes(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("\"{}MiB\"", bytes >> 20)
    } else {
        format!("\"{}KiB\"", bytes.div_ceil(1 << 10))
    }
}

/// Linear memory and tables of a guest. A growth beyond the limit fails in the guest, and is
/// remembered: what the guest then does (mostly trap) is explained by it.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    max_bytes: usize,
    max_elements: usize,
    max_instances: usize,
    used_bytes: usize,
    /// The limit that a growth went beyond.
    pub(crate) refused: Option<Limit>,
}

impl MemoryLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_bytes: limits.memory_bytes,
            max_elements: limits.table_elements,
            max_instances: limits.instances,
            used_bytes: 0,
            refused: None,
        }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used_bytes.saturating_sub(current).saturating_add(desired);
        if used > self.max_bytes {
            self.refused = Some(Limit::Memory);
            return Ok(false);
        }
        self.used_bytes = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.max_elements {
            self.refused = Some(Limit::TableElements);
        }
        Ok(desired <= self.max_elements)
    }

    fn instances(&self) -> usize {
        self.max_instances
    }

    fn tables(&self) -> usize {
        self.max_instances
    }

    fn memories(&self) -> usize {
        self.max_instances
    }
}

/// Processor time of the guest. It does not run while the host works for it.
///
/// Measured by the clock between the borders of guest and host, and never more than two ticks at
/// once: the guest cannot run longer without a tick, so the rest is time in which it waited for a
/// processor.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    budget_ns: u64,
    used_ns: AtomicU64,
    /// When the guest last began to run, in nanoseconds since `start`.
    resumed_ns: AtomicU64,
}

impl Meter {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            start: Instant::now(),
            budget_ns: nanos(budget),
            used_ns: AtomicU64::new(0),
            resumed_ns: AtomicU64::new(0),
        }
    }

    /// The guest begins to run.
    pub(crate) fn resume(&self) {
        self.resumed_ns.store(nanos(self.start.elapsed()), Ordering::Relaxed);
    }

    /// The guest stops running, or is interrupted by a tick; false when its budget is spent.
    pub(crate) fn charge(&self) -> bool {
        let now = nanos(self.start.elapsed());
        let ran = now.saturating_sub(self.resumed_ns.swap(now, Ordering::Relaxed)).min(2 * nanos(TICK));
        self.used_ns.fetch_add(ran, Ordering::Relaxed) + ran <= self.budget_ns
    }

    /// Whether the budget is spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.used_ns.load(Ordering::Relaxed) > self.budget_ns
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Counts things that are alive; each holds a [`Permit`].
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    alive: Arc<AtomicUsize>,
    max: usize,
}

/// One thing that is alive.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Counter {
    pub(crate) fn new(max: usize) -> Self {
        Self { alive: Arc::default(), max }
    }

    /// A place, if there is one left.
    pub(crate) fn take(&self) -> Option<Permit> {
        let taken = self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < self.max).then_some(n + 1));
        taken.ok().map(|_| Permit(Arc::clone(&self.alive)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_names_itself_and_the_toml_that_raises_it() {
        let limits = Limits::default();
        let shown: Vec<_> = [Limit::Memory, Limit::Cpu, Limit::Handles, Limit::CallBytes, Limit::CompileTime]
            .map(|limit| limit.spent("pg", &limits))
            .iter()
            .map(|error| format!("{error} | {}", error.hint_text().unwrap().rsplit_once(": ").unwrap().1))
            .collect();
        assert_eq!(
            shown,
            [
                "plugin \"pg\" has used up its limit \"memory\" (linear memory) | [plugin.pg.limits] memory = \"512MiB\"",
                "plugin \"pg\" has used up its limit \"cpu\" (time that it computes itself) | [plugin.pg.limits] cpu = \"1200s\"",
                "plugin \"pg\" has used up its limit \"handles\" (handles alive at once) | [plugin.pg.limits] handles = 40000",
                "plugin \"pg\" has used up its limit \"call_bytes\" (bytes given to one call) | [plugin.pg.limits] call_bytes = \"32MiB\"",
                "plugin \"pg\" has used up its limit \"compile_time\" (time of its compiler) | [plugin.pg.limits] compile_time = \"1200s\"",
            ]
        );
    }

    #[test]
    fn a_table_that_grows_beyond_its_limit_is_refused_and_remembered() {
        let mut limiter = MemoryLimiter::new(&Limits { table_elements: 10, ..Limits::default() });
        assert!(limiter.table_growing(0, 10, None).unwrap());
        assert_eq!(limiter.refused, None);
        assert!(!limiter.table_growing(10, 11, None).unwrap());
        assert_eq!(limiter.refused, Some(Limit::TableElements));
    }

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let counter = Counter::new(1);
        let permit = counter.take().unwrap();
        assert!(counter.take().is_none());
        drop(permit);
        assert!(counter.take().is_some());
    }

    #[test]
    fn memory_counts_all_memories_of_a_guest_together() {
        let mut limiter = MemoryLimiter::new(&Limits { memory_bytes: 100, ..Limits::default() });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert_eq!(limiter.refused, Some(Limit::Memory));
        assert!(limiter.memory_growing(60, 100, None).unwrap());
    }
}
