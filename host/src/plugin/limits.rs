//! What one run of a plugin may use at most, and what compiling it may.

use std::time::Duration;

/// Limits of one plugin run. Each has a name in the configuration (`[plugin.x.limits]`), and the
/// error that says it is spent names it. `docs/limits.md` shows that error and its test for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `memory`: linear memory of the guest, in bytes.
    pub memory_bytes: usize,
    /// `stack`: stack of the guest's calls, in bytes; Rust guests need some tens of KiB.
    pub stack_bytes: usize,
    /// `table_elements`: elements of one table of the guest, such as pointers to functions.
    pub table_elements: usize,
    /// `instances`: core instances, and as many tables and memories; encoders make fewer than 30.
    pub instances: usize,
    /// `cpu`: time that the guest itself computes; waiting in host calls does not count.
    pub cpu: Duration,
    /// `wall_clock`: the whole call of a verb.
    pub wall_clock: Duration,
    /// `stall`: longest time without progress of a call that moves or awaits bytes.
    pub stall: Duration,
    /// `handles`: resource handles alive at once.
    pub handles: usize,
    /// `open_streams`: sources, sinks and transfers alive at once.
    pub open_streams: usize,
    /// `processes`: processes alive at once.
    pub processes: usize,
    /// `command_memory`: private memory that each process of a command on this machine may write, in bytes.
    pub command_memory_bytes: u64,
    /// `artifacts`: artifacts of one backup.
    pub artifacts: usize,
    /// `archive_entries`: entries of all archives of one backup.
    pub archive_entries: u64,
    /// `entry_path`: longest path of an entry of an archive, in bytes; Linux takes 4096.
    pub entry_path_bytes: usize,
    /// `call_bytes`: bytes copied from the guest in one call.
    pub call_bytes: usize,
    /// `log_bytes`: log text of one run.
    pub log_bytes: usize,
    /// `metric_series`: series that one run writes, by name and labels.
    pub metric_series: usize,
    /// `scratch_files`: files and directories in the private scratch directory.
    pub scratch_files: u64,
    /// `scratch_open`: files and directories of it that are open at once; each is a file of the host.
    pub scratch_open: usize,
    /// `open_transfers`: artifacts being stored at once; the next `put` waits.
    pub open_transfers: usize,
    /// `compile_memory`: addresses of the process that compiles the component, in bytes.
    pub compile_memory_bytes: u64,
    /// `compile_cpu`: processor time of all its threads; counted in whole seconds.
    pub compile_cpu: Duration,
    /// `compile_time`: its time on the clock.
    pub compile_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            stack_bytes: 512 << 10,
            table_elements: 1 << 20,
            instances: 128,
            cpu: Duration::from_secs(600),
            wall_clock: Duration::from_secs(48 * 3600),
            stall: Duration::from_secs(900),
            handles: 20_000,
            open_streams: 1_024,
            processes: 64,
            // Dump tools take some hundred MiB; what a Java program takes unless told otherwise is a quarter of the
            // machine.
            command_memory_bytes: 8 << 30,
            artifacts: 10_000,
            archive_entries: 1_000_000_000,
            entry_path_bytes: 4 << 10,
            call_bytes: 16 << 20,
            log_bytes: 4 << 20,
            metric_series: 1_000,
            scratch_files: 10_000,
            scratch_open: 64,
            open_transfers: 4,
            // A component that carries a Python interpreter takes about 1 GiB and a minute of one processor.
            compile_memory_bytes: 6 << 30,
            compile_cpu: Duration::from_secs(600),
            compile_time: Duration::from_secs(600),
        }
    }
}
