//! Metrics: what runs count and measure, kept across runs, written where Prometheus finds it, and
//! questions to the operator's Prometheus.
//!
//! A run collects what it wants changed ([`Pending`]); at its end the [`Registry`] merges that under a
//! lock, so that two runs, or a run that fails, change only their own series. Nothing here ends a
//! run: a metric that cannot be kept or sent is a warning.

pub mod alert;
pub mod builtin;
pub mod changes;
pub mod client;
pub mod promql;
pub mod registry;
pub mod series;
pub mod text;

pub use changes::{Changes, Pending};
pub use client::{Credentials, Server, Window};
pub use registry::{Merged, Registry};
pub use series::{Kind, Labels};

use std::sync::Arc;

/// What one run lends to its plugin of metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// What it wants changed so far.
    pub pending: Arc<Pending>,
    /// Labels that the host adds to every series of the plugin: whose they are.
    pub labels: Labels,
    /// The operator's Prometheus, if one is configured.
    pub prometheus: Option<Arc<Server>>,
}
