//! The host's own metrics: one table, from which the text for Prometheus, the rules of
//! `strongroom alerts` and `docs/metrics.md` are made. Pure.
//!
//! The names are those that dashboards of backups have already. No label is called `job`: Prometheus
//! would rename it, since it gives every series one of its own.

use super::changes::Changes;
use super::registry::JOB;
use super::series::{Key, Kind, Labels};
use jiff::Timestamp;
use std::time::Duration;

/// A metric of the host.
#[derive(Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// One sentence, for people.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

const OF_JOB: &[&str] = &[JOB, "plugin", "store"];
const OF_STORE: &[&str] = &["store"];

const fn gauge(name: &'static str, help: &'static str) -> Builtin {
    Builtin { name, kind: Kind::Gauge, help, labels: OF_JOB }
}

const fn counter(name: &'static str, help: &'static str) -> Builtin {
    Builtin { name, kind: Kind::Counter, help, labels: OF_JOB }
}

/// When a backup that is whole was made last.
pub const LAST_SUCCESS: &str = "backup_last_success_timestamp_seconds";
/// When a verification passed last.
pub const VERIFIED: &str = "backup_verification_last_success_timestamp_seconds";
/// When a restore, or a verification by restore, succeeded last.
pub const RESTORED: &str = "backup_restore_test_last_success_timestamp_seconds";

/// Every metric of the host.
pub const BUILTIN: &[Builtin] = &[
    gauge(LAST_SUCCESS, "When the newest backup that is whole was finished."),
    gauge("backup_last_failure_timestamp_seconds", "When a backup failed last."),
    gauge(
        "backup_last_incomplete_timestamp_seconds",
        "When a backup was made last that is incomplete: something was skipped.",
    ),
    gauge("backup_last_run_timestamp_seconds", "When a backup was tried last, however it ended."),
    counter("backup_success_total", "Backups that are whole."),
    counter("backup_failure_total", "Backups that failed."),
    counter("backup_incomplete_total", "Backups that are incomplete."),
    gauge("backup_duration_seconds", "How long the last backup took that was made."),
    gauge("backup_size_bytes", "Size of the last backup as the component produced it."),
    gauge("backup_stored_bytes", "Size of the last backup at rest."),
    gauge("backup_skipped_items", "What the last backup was to capture and did not."),
    gauge(VERIFIED, "When a verification of a backup passed last."),
    gauge(
        "backup_verification_last_failure_timestamp_seconds",
        "When a verification failed last, or could not be done.",
    ),
    gauge("backup_verification_last_run_timestamp_seconds", "When a backup was verified last, however it ended."),
    counter("backup_verification_success_total", "Verifications that passed."),
    counter("backup_verification_failure_total", "Verifications that failed, or could not be done."),
    gauge("backup_verification_duration_seconds", "How long the last verification took."),
    gauge(RESTORED, "When a restore, or a verification by restore, succeeded last."),
    gauge("backup_restore_last_success_timestamp_seconds", "When a restore succeeded last."),
    gauge("backup_restore_last_failure_timestamp_seconds", "When a restore failed last."),
    gauge("backup_restore_last_run_timestamp_seconds", "When a restore was tried last, however it ended."),
    counter("backup_restore_success_total", "Restores that succeeded."),
    counter("backup_restore_failure_total", "Restores that failed."),
    gauge("backup_restore_duration_seconds", "How long the last restore took."),
    gauge(
        "backup_prune_last_success_timestamp_seconds",
        "When old backups were removed last, or there were none to remove.",
    ),
    gauge("backup_prune_last_failure_timestamp_seconds", "When a prune failed last."),
    gauge("backup_prune_last_run_timestamp_seconds", "When a prune was tried last, however it ended."),
    counter("backup_prune_success_total", "Prunes that succeeded."),
    counter("backup_prune_failure_total", "Prunes that failed."),
    gauge("backup_prune_duration_seconds", "How long the last prune took."),
    counter("backup_prune_removed_total", "Backups that prunes removed."),
    Builtin {
        name: "backup_storage_free_bytes",
        kind: Kind::Gauge,
        help: "Room that is left where a local store lies, at the end of the last run.",
        labels: OF_STORE,
    },
    Builtin {
        name: "backup_storage_size_bytes",
        kind: Kind::Gauge,
        help: "Room that there is in all where a local store lies.",
        labels: OF_STORE,
    },
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|metric| metric.name == name)
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// `strongroom backup`
    Backup,
    /// `strongroom verify`
    Verify,
    /// `strongroom restore`
    Restore,
    /// `strongroom prune`
    Prune,
}

impl Deed {
    /// What its metrics begin with.
    fn prefix(self) -> &'static str {
        match self {
            Deed::Backup => "backup",
            Deed::Verify => "backup_verification",
            Deed::Restore => "backup_restore",
            Deed::Prune => "backup_prune",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Success,
    /// A backup was made, and something is missing in it.
    Incomplete,
    /// It did not do what it was for.
    Failure,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Bytes as the component produced them.
    pub size_bytes: u64,
    /// Bytes at rest.
    pub stored_bytes: u64,
    /// How much was skipped.
    pub n_skipped: usize,
}

/// Whose metrics are written.
#[derive(Clone, Debug)]
pub struct Subject {
    labels: Labels,
}

impl Subject {
    /// A job with its plugin and its store.
    pub fn job(job: &str, plugin: &str, store: &str) -> Self {
        let label = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self { labels: [(JOB, job), ("plugin", plugin), ("store", store)].map(label).into() }
    }

    /// The labels that the series of the job's plugin get.
    pub fn plugin_labels(&self) -> Labels {
        let mut labels = self.labels.clone();
        labels.remove("store");
        labels
    }

    fn key(&self, name: &str) -> Key {
        let known = find(name).map_or(OF_JOB, |metric| metric.labels);
        let labels = self.labels.iter().filter(|(label, _)| known.contains(&label.as_str()));
        Key { name: name.to_owned(), labels: labels.map(|(label, value)| (label.clone(), value.clone())).collect() }
    }

    /// A run ended.
    pub fn ended(&self, changes: &mut Changes, deed: Deed, ending: Ending, at: Timestamp, took: Duration) {
        let prefix = deed.prefix();
        let word = match ending {
            Ending::Success => "success",
            Ending::Incomplete => "incomplete",
            Ending::Failure => "failure",
        };
        changes.raise(self.key(&format!("{prefix}_last_run_timestamp_seconds")), seconds(at));
        changes.raise(self.key(&format!("{prefix}_last_{word}_timestamp_seconds")), seconds(at));
        // The others are there from the first run on, so that an increase from nothing can be seen.
        let words: &[&str] =
            if deed == Deed::Backup { &["success", "incomplete", "failure"] } else { &["success", "failure"] };
        for other in words {
            changes.add(self.key(&format!("{prefix}_{other}_total")), if *other == word { 1.0 } else { 0.0 });
        }
        if ending != Ending::Failure || deed != Deed::Backup {
            changes.set(self.key(&format!("{prefix}_duration_seconds")), took.as_secs_f64());
        }
        if deed == Deed::Restore && ending == Ending::Success {
            self.test_restored(changes, at);
        }
    }

    /// What a backup that was made holds.
    pub fn sizes(&self, changes: &mut Changes, sizes: Sizes) {
        changes.set(self.key("backup_size_bytes"), number(sizes.size_bytes));
        changes.set(self.key("backup_stored_bytes"), number(sizes.stored_bytes));
        changes.set(self.key("backup_skipped_items"), number(u64::try_from(sizes.n_skipped).unwrap_or(u64::MAX)));
    }

    /// A restore into some place succeeded.
    pub fn test_restored(&self, changes: &mut Changes, at: Timestamp) {
        changes.raise(self.key(RESTORED), seconds(at));
    }

    /// Backups that a prune removed.
    pub fn removed(&self, changes: &mut Changes, n: usize) {
        changes.add(self.key("backup_prune_removed_total"), number(u64::try_from(n).unwrap_or(u64::MAX)));
    }

    /// What the store itself says of earlier times, where this machine knows nothing.
    pub fn known(&self, changes: &mut Changes, metric: &'static str, at: Timestamp) {
        changes.raise(self.key(metric), seconds(at));
    }

    /// The room of the store.
    pub fn room(&self, changes: &mut Changes, free_bytes: u64, size_bytes: u64) {
        changes.set(self.key("backup_storage_free_bytes"), number(free_bytes));
        changes.set(self.key("backup_storage_size_bytes"), number(size_bytes));
    }
}

/// Seconds since 1970 with milliseconds.
fn seconds(at: Timestamp) -> f64 {
    Duration::from_millis(crate::clock::millis(at)).as_secs_f64()
}

/// A count as Prometheus has it: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "every value of Prometheus is a 64-bit float")]
fn number(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::super::series::RESERVED;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_that_is_written_is_in_the_table_with_its_kind_and_labels() {
        let subject = Subject::job("orders", "postgres", "main");
        let mut changes = Changes::default();
        let at = Timestamp::from_second(1_763_712_000).unwrap();
        for deed in [Deed::Backup, Deed::Verify, Deed::Restore, Deed::Prune] {
            for ending in [Ending::Success, Ending::Failure] {
                subject.ended(&mut changes, deed, ending, at, Duration::from_millis(1500));
            }
        }
        subject.ended(&mut changes, Deed::Backup, Ending::Incomplete, at, Duration::ZERO);
        subject.sizes(&mut changes, Sizes::default());
        subject.removed(&mut changes, 3);
        subject.room(&mut changes, 1, 2);
        let written: BTreeSet<_> = changes.series.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(written, BUILTIN.iter().map(|metric| metric.name).collect());
        for (key, change) in &changes.series {
            let metric = find(&key.name).unwrap();
            assert_eq!(change.kind(), metric.kind, "{}", key.name);
            assert_eq!(key.labels.keys().collect::<Vec<_>>(), metric.labels, "{}", key.name);
        }
    }

    #[test]
    fn the_names_are_as_prometheus_advises_and_no_plugin_can_write_one() {
        let mut seen = BTreeSet::new();
        for Builtin { name, kind, help, .. } in BUILTIN {
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.starts_with(RESERVED[0]), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn a_failed_backup_leaves_the_last_success_alone() {
        let subject = Subject::job("orders", "postgres", "main");
        let mut changes = Changes::default();
        subject.ended(&mut changes, Deed::Backup, Ending::Failure, Timestamp::UNIX_EPOCH, Duration::ZERO);
        let written: Vec<_> = changes.series.keys().map(|key| key.name.as_str()).collect();
        assert!(!written.contains(&LAST_SUCCESS) && !written.contains(&"backup_duration_seconds"), "{written:?}");
    }
}
