//! Numbers out, and questions to the operator's Prometheus.
//!
//! What is written belongs to the job: the host adds the labels `backup_job` and `plugin`, keeps the
//! series across runs, and merges those of a run when it ends, also when it failed. Names begin with the
//! granted prefix; those of counters end in `_total`. Labels are few and their values short: each
//! combination is a series of its own, and a run has at most 1,000 unless the operator allows more.

use crate::bindings::strongroom::plugin::metrics as wit;
use crate::{Error, Result, Timestamp};
use std::time::Duration;

/// Adds to a counter.
pub fn add(counter: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    wit::add(counter, &owned(labels), value).map_err(|error| named(error, counter))
}

/// Sets a gauge.
pub fn set(gauge: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    wit::set(gauge, &owned(labels), value).map_err(|error| named(error, gauge))
}

/// Adds an observation to a histogram. Its buckets are the host's: from 1 KiB to 1 TiB for names that
/// end in `_bytes`, else from a millisecond to a day.
pub fn observe(histogram: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    wit::observe(histogram, &owned(labels), value).map_err(|error| named(error, histogram))
}

/// A series that a query found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels by name; its own name, where it has one, is `__name__`.
    pub labels: Vec<(String, String)>,
    /// Its values, oldest first; one for [`query`].
    pub points: Vec<(Timestamp, f64)>,
}

impl Sample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    /// The newest value.
    pub fn value(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value)
    }
}

/// Asks for values now. Every selector names a granted metric in front of its braces.
pub fn query(promql: &str) -> Result<Vec<Sample>> {
    wit::query(promql).map(samples).map_err(|error| named(error, promql))
}

/// Asks for values between two times, both included, one for each `step`.
pub fn query_range(promql: &str, from: Timestamp, to: Timestamp, step: Duration) -> Result<Vec<Sample>> {
    let step_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
    wit::query_range(promql, from.ms, to.ms, step_ms).map(samples).map_err(|error| named(error, promql))
}

fn samples(found: Vec<wit::Sample>) -> Vec<Sample> {
    let point = |(ms, value)| (Timestamp { ms }, value);
    found
        .into_iter()
        .map(|one| Sample { labels: one.labels, points: one.points.into_iter().map(point).collect() })
        .collect()
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn named(error: crate::bindings::strongroom::plugin::types::Error, what: &str) -> Error {
    Error::from(error).context(format!("metric {what:?}"))
}
