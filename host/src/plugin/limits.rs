//! What one run of a plugin may use at most.

use std::time::Duration;

/// Limits of one plugin run. Each has a name in the configuration (`[plugin.x.limits]`), and the
/// error that says it is spent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `memory`: linear memory of the guest, in bytes.
    pub memory_bytes: usize,
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
    /// `artifacts`: artifacts of one backup.
    pub artifacts: usize,
    /// `archive_entries`: entries of all archives of one backup.
    pub archive_entries: u64,
    /// `call_bytes`: bytes copied from the guest in one call.
    pub call_bytes: usize,
    /// `log_bytes`: log text of one run.
    pub log_bytes: usize,
    /// `open_transfers`: artifacts being stored at once; the next `put` waits.
    pub open_transfers: usize,
    /// `metric_series`: series of metrics of one run; a histogram counts as all of its lines.
    pub metric_series: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            table_elements: 1 << 20,
            instances: 128,
            cpu: Duration::from_secs(600),
            wall_clock: Duration::from_secs(24 * 3600),
            stall: Duration::from_secs(900),
            handles: 20_000,
            open_streams: 1_024,
            processes: 64,
            artifacts: 10_000,
            archive_entries: 1_000_000_000,
            call_bytes: 16 << 20,
            log_bytes: 4 << 20,
            open_transfers: 4,
            metric_series: 1_000,
        }
    }
}
