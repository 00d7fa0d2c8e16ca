//! One series: its name, its labels, and what its value may be. Pure.
//!
//! The rules are those that keep the text for Prometheus right whatever a plugin says: names as the
//! data model has them, no control characters, nothing that could be taken for a label of Prometheus
//! itself. <https://prometheus.io/docs/concepts/data_model/>

use crate::error::{Error, Result};
pub use crate::policy::metrics::{MAX_NAME_BYTES, RESERVED, is_name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Labels of a series, by name.
pub type Labels = BTreeMap<String, String>;

/// Longest value of a label, in bytes: longer than any name that a person chose.
pub const MAX_VALUE_BYTES: usize = 256;
/// Most labels that a plugin gives to one series.
pub const MAX_LABELS: usize = 16;

/// Labels that Prometheus, the Pushgateway or the host sets.
const RESERVED_LABELS: [&str; 7] = ["backup_job", "instance", "job", "le", "plugin", "quantile", "store"];

/// Ends of names that the text of a histogram or a counter gives a meaning to.
const ENDS_OF_PARTS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Is what it was set to last.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Which series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

/// Checks a plugin's series and makes its key. `fixed` are the host's labels; they are added.
///
/// Errors: `Invalid`, and `Limit` for too many labels; the name was allowed by the policy before.
pub fn key_of_plugin(kind: Kind, name: &str, labels: &[(String, String)], fixed: &Labels) -> Result<Key> {
    check_name(kind, name)?;
    if labels.len() > MAX_LABELS {
        return Err(Error::limit("a series has too many labels")
            .fact("expected", format!("at most {MAX_LABELS}"))
            .fact("got", labels.len().to_string()));
    }
    let mut all = fixed.clone();
    for (label, value) in labels {
        check_label(label, value)?;
        if all.insert(label.clone(), value.clone()).is_some() {
            return Err(Error::invalid(format!("the label \"{label}\" is given twice")));
        }
    }
    Ok(Key { name: name.to_owned(), labels: all })
}

fn check_name(kind: Kind, name: &str) -> Result<()> {
    let shown = name.escape_debug();
    if !is_name(name) {
        return Err(Error::invalid(format!("\"{shown:.80}\" is not the name of a metric"))
            .fact("expected", format!("letters, digits and _, at most {MAX_NAME_BYTES} bytes")));
    }
    if let Some(end) = ENDS_OF_PARTS.into_iter().find(|end| name.ends_with(end)) {
        return Err(Error::invalid(format!("the metric \"{shown}\" ends in {end}, which is a part of a histogram")));
    }
    match (kind, name.ends_with("_total")) {
        (Kind::Counter, false) => {
            Err(Error::invalid(format!("the counter \"{shown}\" does not end in _total, as counters do")))
        }
        (Kind::Gauge | Kind::Histogram, true) => {
            Err(Error::invalid(format!("the {} \"{shown}\" ends in _total, as only counters do", kind.name())))
        }
        _ => Ok(()),
    }
}

fn check_label(label: &str, value: &str) -> Result<()> {
    let shown = label.escape_debug();
    if !is_name(label) || label.starts_with("__") {
        return Err(Error::invalid(format!("\"{shown:.80}\" is not the name of a label"))
            .fact("expected", "letters, digits and _, not beginning with __"));
    }
    if RESERVED_LABELS.contains(&label) {
        return Err(Error::invalid(format!("the label \"{shown}\" is set by the host or by Prometheus")));
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::limit(format!("the value of the label \"{shown}\" is too long"))
            .fact("expected", format!("at most {MAX_VALUE_BYTES} bytes"))
            .fact("got", format!("{} bytes", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the value of the label \"{shown}\" holds a control character")));
    }
    Ok(())
}

/// Upper bounds of the buckets of a metric: sizes for names that end in `_bytes`, else from a
/// millisecond to a day, as runs and their steps take. One bucket more holds what is above.
pub fn bounds(name: &str) -> &'static [f64] {
    const SECONDS: &[f64] =
        &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
    // 1 KiB to 1 TiB, each four times the one before.
    const BYTES: &[f64] = &[
        1024.0,
        4096.0,
        16_384.0,
        65_536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
        16_777_216.0,
        67_108_864.0,
        268_435_456.0,
        1_073_741_824.0,
        4_294_967_296.0,
        17_179_869_184.0,
        68_719_476_736.0,
        274_877_906_944.0,
        1_099_511_627_776.0,
    ];
    if name.ends_with("_bytes") { BYTES } else { SECONDS }
}

/// Observations in buckets; the bounds are [`bounds`] of the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many fell into each bucket, not those below it; the last is above every bound.
    pub counts: Vec<u64>,
    /// Sum of what was observed.
    #[serde(with = "exact")]
    pub sum: f64,
}

impl Histogram {
    /// Empty, for the metric of this name.
    pub fn new(name: &str) -> Self {
        Self { counts: vec![0; bounds(name).len() + 1], sum: 0.0 }
    }

    /// Counts one observation.
    pub fn observe(&mut self, name: &str, value: f64) {
        let at = bounds(name).iter().position(|bound| value <= *bound).unwrap_or(bounds(name).len());
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
        self.sum = finite(self.sum + value);
    }

    /// Adds another one of the same metric. One with other bounds, of another version, replaces it.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() != other.counts.len() {
            self.clone_from(other);
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.sum = finite(self.sum + other.sum);
    }
}

/// A number that sums stay at instead of becoming infinite.
pub(super) fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

/// The lines that a series has in the text.
pub fn lines(kind: Kind, name: &str) -> usize {
    match kind {
        Kind::Counter | Kind::Gauge => 1,
        // The buckets, the one above them, the sum and the count.
        Kind::Histogram => bounds(name).len() + 3,
    }
}

/// Numbers as text, so that every bit comes back: JSON knows neither all of them nor how exact they are.
pub(super) mod exact {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::metrics) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in crate::metrics) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(D::Error::custom("expected a finite number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind as ErrorKind;

    fn check(kind: Kind, name: &str, labels: &[(&str, &str)]) -> Result<Key> {
        let labels: Vec<_> = labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect();
        key_of_plugin(kind, name, &labels, &Labels::from([("backup_job".to_owned(), "orders".to_owned())]))
    }

    #[test]
    fn what_could_break_the_text_or_look_like_another_series_is_refused() {
        let long = "v".repeat(MAX_VALUE_BYTES + 1);
        for (name, labels) in [
            ("", &[][..]),
            ("1a", &[]),
            ("a:b", &[]),
            ("a\nb", &[]),
            ("\u{430}", &[]),
            ("a_total", &[]),
            ("a_bucket", &[]),
            ("a_sum", &[]),
            ("a_count", &[]),
            ("a", &[("", "x")]),
            ("a", &[("__name__", "up")]),
            ("a", &[("__x", "up")]),
            ("a", &[("job", "node")]),
            ("a", &[("backup_job", "other")]),
            ("a", &[("le", "1")]),
            ("a", &[("x\"} 1\nup{y=\"", "x")]),
            ("a", &[("x", "1\"} 1\nbackup_last_success_timestamp_seconds 9e9\n")]),
            ("a", &[("x", "\u{1b}[31m")]),
            ("a", &[("x", &long)]),
            ("a", &[("x", "1"), ("x", "2")]),
        ] {
            assert!(check(Kind::Gauge, name, labels).is_err(), "{name:?} {labels:?}");
        }
        let many: Vec<_> = (0..=MAX_LABELS).map(|n| (format!("l{n}"), String::new())).collect();
        let error = key_of_plugin(Kind::Gauge, "a", &many, &Labels::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(check(Kind::Counter, "a", &[]).is_err() && check(Kind::Counter, "a_total", &[]).is_ok());
        let key = check(Kind::Gauge, "shop_rows", &[("table", "a \"b\" \\ é")]).unwrap();
        assert_eq!(key.labels["backup_job"], "orders");
    }

    #[test]
    fn observations_fall_into_the_bucket_that_holds_them_and_merge() {
        let mut one = Histogram::new("x_seconds");
        [0.0, 0.001, 0.002, 86_400.0, 1e9, -1.0].into_iter().for_each(|value| one.observe("x_seconds", value));
        assert_eq!((one.counts[0], one.counts[1], one.counts[15], one.counts[16]), (3, 1, 1, 1));
        let mut two = one.clone();
        two.merge(&one);
        assert_eq!(two.counts.iter().sum::<u64>(), 12);
        assert!((two.sum - 2.0 * one.sum).abs() < f64::EPSILON);
        one.observe("x_seconds", f64::MAX);
        one.observe("x_seconds", f64::MAX);
        assert!(one.sum.is_finite());
        assert!(bounds("x_bytes").windows(2).all(|pair| (pair[1] / pair[0] - 4.0).abs() < f64::EPSILON));
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        for value in [0.0, 0.1, 1e300, -5e-324, 1_763_712_000.123, f64::MAX] {
            let histogram = Histogram { counts: vec![1], sum: value };
            let text = serde_json::to_string(&histogram).unwrap();
            assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram, "{text}");
        }
        for text in ["NaN", "inf", "", "1,5"] {
            let text = format!("{{\"counts\":[],\"sum\":{text:?}}}");
            assert!(serde_json::from_str::<Histogram>(&text).is_err(), "{text}");
        }
    }
}
