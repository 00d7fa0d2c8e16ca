//! `metrics`: numbers out, under the plugin's granted prefix, and questions to the operator's
//! Prometheus about granted metrics.
//!
//! Writing is counted: a run's thousand values are one line of the audit log. Each query is a line of
//! its own, with the names that it asks for.

use crate::error::Error;
use crate::metrics::changes::Refused;
use crate::metrics::promql::Query;
use crate::metrics::{Kind, Window, series};
use crate::plugin::bindings::strongroom::plugin::metrics;
use crate::plugin::budget::Limit;
use crate::plugin::guard::{Deadline, Refusal};
use crate::plugin::state::State;
use crate::policy::Call;
use crate::policy::metrics::MetricsCall;
use std::sync::Arc;

type GuestLabels = Vec<(String, String)>;

impl State {
    async fn write_metric(
        &mut self,
        function: &'static str,
        kind: Kind,
        name: &str,
        labels: &GuestLabels,
        value: f64,
    ) -> Result<(), Refusal> {
        let guard = self.guard.clone();
        let ledger = Arc::clone(self.metrics_ledger.get_or_insert_with(|| guard.ledger("metrics", "written")));
        let work = async {
            let key = series::key_of_plugin(kind, name, labels, &self.run.metrics.labels)?;
            let limit = self.run.limits.metric_series;
            match self.run.metrics.pending.lock().put_for_plugin(kind, key, value, limit) {
                Ok(()) => Ok(()),
                Err(Refused::Full) => Err(self.guard.spent(Limit::MetricSeries).into()),
                Err(Refused::Wrong(error)) => Err(error.into()),
            }
        };
        let call = Call::Metrics(MetricsCall::Write(name));
        guard.pass_on(&ledger, function, Some(&call), Deadline::Own, work).await
    }

    async fn ask(
        &mut self,
        function: &'static str,
        promql: &str,
        window: Option<Window>,
    ) -> Result<Vec<metrics::Sample>, Refusal> {
        let guard = self.guard.clone();
        // What cannot be understood names nothing that could be granted: the policy refuses it where
        // nothing is granted at all, and the guest learns what is wrong with it only elsewhere.
        let (query, wrong) = match Query::parse(promql) {
            Ok(query) => (Some(query), None),
            Err(error) => (None, Some(error)),
        };
        let names: Vec<Option<&str>> = query.iter().flat_map(|query| &query.names).map(Option::as_deref).collect();
        let call = Call::Metrics(MetricsCall::Query(&names));
        if let Some(error) = wrong.filter(|_| self.guard.policy().grants.metrics.is_some()) {
            return guard.pass(function, None, Deadline::Own, async { Err(error.into()) }).await;
        }
        let work = async {
            let query = query.as_ref().ok_or_else(|| Error::failed("a query that was not understood was allowed"))?;
            window.map_or(Ok(()), Window::check)?;
            let labels = self.guard.policy().grants.metrics.as_ref().map(|grant| &grant.labels);
            let text = query.text_with(labels.ok_or_else(|| Error::failed("no metrics are granted"))?)?;
            let server = self.run.metrics.prometheus.as_ref().ok_or_else(|| {
                Error::failed("this host knows no Prometheus").hint("[metrics] prometheus = \"https://…\" names it")
            })?;
            let samples = server.query(&text, window).await?;
            let bytes: usize = samples.iter().map(size).sum();
            guard.moved(bytes);
            Ok(samples.into_iter().map(|one| metrics::Sample { labels: one.labels, points: one.points }).collect())
        };
        guard.pass(function, Some(&call), Deadline::Stall, work).await
    }
}

/// Bytes that a series takes in the guest.
fn size(sample: &crate::metrics::client::Sample) -> usize {
    let labels: usize = sample.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    labels + sample.points.len() * size_of::<(u64, f64)>()
}

impl metrics::Host for State {
    async fn add(&mut self, counter: String, labels: GuestLabels, value: f64) -> Result<(), Refusal> {
        self.write_metric("metrics.add", Kind::Counter, &counter, &labels, value).await
    }

    async fn set(&mut self, gauge: String, labels: GuestLabels, value: f64) -> Result<(), Refusal> {
        self.write_metric("metrics.set", Kind::Gauge, &gauge, &labels, value).await
    }

    async fn observe(&mut self, histogram: String, labels: GuestLabels, value: f64) -> Result<(), Refusal> {
        self.write_metric("metrics.observe", Kind::Histogram, &histogram, &labels, value).await
    }

    async fn query(&mut self, promql: String) -> Result<Vec<metrics::Sample>, Refusal> {
        self.ask("metrics.query", &promql, None).await
    }

    async fn query_range(
        &mut self,
        promql: String,
        start_ms: u64,
        end_ms: u64,
        step_ms: u64,
    ) -> Result<Vec<metrics::Sample>, Refusal> {
        self.ask("metrics.query-range", &promql, Some(Window { start_ms, end_ms, step_ms })).await
    }
}
