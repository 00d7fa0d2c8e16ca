//! A guest for tests: writes and queries metrics as its settings say, and reports what it was answered.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use strongroom_plugin::prelude::*;

struct Meter;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    calls: Vec<Call>,
    #[serde(default)]
    flood: u32,
    #[serde(default)]
    fail: bool,
    skip: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Options {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    #[serde(rename = "do")]
    what: String,
    /// Of a metric, or a query.
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// A number as text, such as `NaN`.
    #[serde(default)]
    value: String,
    /// How far a range goes back, and its step.
    #[serde(default)]
    range_ms: u64,
    #[serde(default)]
    step_ms: u64,
}

impl Call {
    fn make(&self) -> Result<String> {
        let labels: Vec<(&str, &str)> =
            self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let value = || self.value.parse().map_err(|_| Error::Invalid(format!("{:?} is no number", self.value)));
        let done = |()| "done".to_owned();
        match self.what.as_str() {
            "add" => metrics::add(&self.name, &labels, value()?).map(done),
            "set" => metrics::set(&self.name, &labels, value()?).map(done),
            "observe" => metrics::observe(&self.name, &labels, value()?).map(done),
            "query" => metrics::query(&self.name).map(|samples| shown(&samples)),
            "query-range" => {
                let to = run::now();
                let from = Timestamp { ms: to.ms.saturating_sub(self.range_ms) };
                metrics::query_range(&self.name, from, to, Duration::from_millis(self.step_ms))
                    .map(|samples| shown(&samples))
            }
            other => Err(Error::Invalid(format!("there is nothing called {other:?}"))),
        }
    }
}

fn shown(samples: &[metrics::Sample]) -> String {
    let one = |sample: &metrics::Sample| {
        let labels: Vec<_> = sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}: {} points, last {:?}", labels.join(" "), sample.points.len(), sample.value())
    };
    samples.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Every call with its answer.
fn answers(settings: &Settings) -> Vec<(String, String)> {
    let mut answers: Vec<(String, String)> = settings
        .calls
        .iter()
        .enumerate()
        .map(|(n, call)| {
            let answer = call.make().unwrap_or_else(|error| format!("{error:?}"));
            (format!("call-{n}"), answer)
        })
        .collect();
    if settings.flood > 0 {
        let refused = (0..settings.flood)
            .find_map(|n| metrics::set("meter_flood", &[("n", &n.to_string())], 1.0).err().map(|error| (n, error)));
        answers.push(("flood".to_owned(), format!("{refused:?}")));
    }
    answers
}

fn checks(settings: &Settings) -> Vec<Check> {
    answers(settings)
        .into_iter()
        .map(|(name, answer)| Check::passed(name, "what the host answered").evidence(answer))
        .collect()
}

impl Plugin for Meter {
    type Settings = Settings;
    type Options = Options;

    fn backup(request: BackupRequest<Settings>) -> Result<Report> {
        let (mut sink, source) = bytes::pipe()?;
        sink.write_all(b"something")?;
        sink.finish()?;
        storage::put("out", source).start()?.wait()?;
        let mut report = Report::new();
        for (name, answer) in answers(&request.settings) {
            report = report.fact(name, answer);
        }
        if let Some(skip) = &request.settings.skip {
            report = report.skipped(skip, "it was told to skip it");
        }
        if request.settings.fail {
            return Err(Error::Failed("it was told to fail".to_owned()));
        }
        Ok(report)
    }

    fn verify(request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
        Ok(checks(&request.settings))
    }

    fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
        for (name, answer) in answers(&request.settings) {
            Step::passed(name, answer).report();
        }
        Ok(())
    }

    fn diagnose(request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
        Ok(checks(&request.settings))
    }
}

strongroom_plugin::export!(Meter);
