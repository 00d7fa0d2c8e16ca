//! What one run wants changed: collected in memory, merged when the run ends.
//!
//! Bounded: a run has at most so many series, each of bounded text ([`super::series`]). At the default
//! limit of 1,000 lines of 17 labels that is some 10 MiB in the worst case.

use super::series::{Histogram, Key, Kind, finite, lines};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One change of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A counter grows by this.
    Add(f64),
    /// A gauge is this.
    Set(f64),
    /// A gauge is this if it was less: times of which the latest counts, whoever is merged last.
    Raise(f64),
    /// A histogram gets these observations besides.
    Observe(Histogram),
}

impl Change {
    /// The kind of the series that it is for.
    pub fn kind(&self) -> Kind {
        match self {
            Change::Add(_) => Kind::Counter,
            Change::Set(_) | Change::Raise(_) => Kind::Gauge,
            Change::Observe(_) => Kind::Histogram,
        }
    }
}

/// What a run wants changed, by series.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Each series once.
    pub(super) series: BTreeMap<Key, Change>,
    n_lines: usize,
}

/// Why a plugin's value was not taken.
#[derive(Debug)]
pub enum Refused {
    /// The run has as many series as it may.
    Full,
    /// Something about it is wrong.
    Wrong(Error),
}

impl Changes {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// A counter of the host grows.
    pub fn add(&mut self, key: Key, value: f64) {
        self.put(key, Change::Add(value));
    }

    /// A gauge of the host is set.
    pub fn set(&mut self, key: Key, value: f64) {
        self.put(key, Change::Set(value));
    }

    /// A gauge of the host is raised.
    pub fn raise(&mut self, key: Key, value: f64) {
        self.put(key, Change::Raise(value));
    }

    /// A plugin's value of a series whose key was checked. At most `limit` lines of text belong to
    /// the run's series together.
    pub fn put_for_plugin(&mut self, kind: Kind, key: Key, value: f64, limit: usize) -> Result<(), Refused> {
        let wrong = |what: &str| Refused::Wrong(Error::invalid(format!("{what} {value}")));
        let change = match kind {
            _ if !value.is_finite() => return Err(wrong("a metric has no value of")),
            Kind::Counter if value < 0.0 => return Err(wrong("a counter only grows, and does not change by")),
            Kind::Counter => Change::Add(value),
            Kind::Gauge => Change::Set(value),
            Kind::Histogram => {
                let mut histogram = Histogram::new(&key.name);
                histogram.observe(&key.name, value);
                Change::Observe(histogram)
            }
        };
        match self.series.get(&key) {
            Some(there) if there.kind() != kind => {
                return Err(Refused::Wrong(
                    Error::conflict(format!("the metric \"{}\" is a {} already", key.name, there.kind().name()))
                        .fact("got", kind.name()),
                ));
            }
            Some(_) => {}
            None if self.n_lines + lines(kind, &key.name) > limit => return Err(Refused::Full),
            None => {}
        }
        let of_name = self.series.range(Key { name: key.name.clone(), labels: BTreeMap::new() }..).next();
        if let Some((_, there)) = of_name.filter(|(there, change)| there.name == key.name && change.kind() != kind) {
            return Err(Refused::Wrong(
                Error::conflict(format!("the metric \"{}\" is a {} already", key.name, there.kind().name()))
                    .fact("got", kind.name()),
            ));
        }
        self.put(key, change);
        Ok(())
    }

    fn put(&mut self, key: Key, change: Change) {
        match (self.series.get_mut(&key), change) {
            (Some(Change::Add(sum)), Change::Add(more)) => *sum = finite(*sum + more),
            (Some(Change::Raise(value)), Change::Raise(other)) => *value = value.max(other),
            (Some(Change::Observe(histogram)), Change::Observe(other)) => histogram.merge(&other),
            (Some(there), change) => *there = change,
            (None, change) => {
                self.n_lines += lines(change.kind(), &key.name);
                self.series.insert(key, change);
            }
        }
    }
}

/// The changes of a run that is under way, shared by those who make them.
#[derive(Debug, Default)]
pub struct Pending(Mutex<Changes>);

impl Pending {
    /// The changes so far. Held for a moment only, never across a wait.
    pub fn lock(&self) -> MutexGuard<'_, Changes> {
        // What it holds is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes them out: there are none afterwards.
    pub fn take(&self) -> Changes {
        std::mem::take(&mut *self.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, label: &str) -> Key {
        Key { name: name.to_owned(), labels: [("x".to_owned(), label.to_owned())].into() }
    }

    #[test]
    fn a_run_cannot_have_more_series_than_its_limit_and_keeps_those_it_has() {
        let mut changes = Changes::default();
        for n in 0..10 {
            changes.put_for_plugin(Kind::Gauge, key("a", &n.to_string()), 1.0, 10).unwrap();
        }
        let full = changes.put_for_plugin(Kind::Gauge, key("a", "more"), 1.0, 10);
        assert!(matches!(full, Err(Refused::Full)), "{full:?}");
        changes.put_for_plugin(Kind::Gauge, key("a", "3"), 2.0, 10).unwrap();
        assert_eq!(changes.series[&key("a", "3")], Change::Set(2.0));
        // A histogram counts as all of its lines.
        let mut changes = Changes::default();
        let full = changes.put_for_plugin(Kind::Histogram, key("h_seconds", "1"), 1.0, 18);
        assert!(matches!(full, Err(Refused::Full)), "{full:?}");
        changes.put_for_plugin(Kind::Histogram, key("h_seconds", "1"), 1.0, 19).unwrap();
    }

    #[test]
    fn values_that_are_none_and_names_of_two_kinds_are_refused() {
        let mut changes = Changes::default();
        for (kind, value) in [
            (Kind::Gauge, f64::NAN),
            (Kind::Gauge, f64::INFINITY),
            (Kind::Histogram, f64::NEG_INFINITY),
            (Kind::Counter, f64::NAN),
            (Kind::Counter, -1.0),
        ] {
            let refused = changes.put_for_plugin(kind, key("a", "1"), value, 100);
            assert!(matches!(refused, Err(Refused::Wrong(_))), "{kind:?} {value} {refused:?}");
        }
        assert!(changes.is_empty());
        changes.put_for_plugin(Kind::Gauge, key("a", "1"), 1.0, 100).unwrap();
        for label in ["0", "1", "2"] {
            let refused = changes.put_for_plugin(Kind::Histogram, key("a", label), 1.0, 100);
            assert!(matches!(refused, Err(Refused::Wrong(_))), "{label} {refused:?}");
        }
    }

    #[test]
    fn counters_add_up_gauges_are_replaced_and_times_only_rise() {
        let mut changes = Changes::default();
        changes.add(key("a_total", "1"), 1.0);
        changes.add(key("a_total", "1"), 2.0);
        changes.raise(key("t", "1"), 5.0);
        changes.raise(key("t", "1"), 3.0);
        assert_eq!(changes.series[&key("a_total", "1")], Change::Add(3.0));
        assert_eq!(changes.series[&key("t", "1")], Change::Raise(5.0));
    }
}
