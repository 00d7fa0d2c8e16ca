//! The text that Prometheus, node_exporter's textfile collector and the Pushgateway read.
//!
//! Format 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>. The same values give
//! the same bytes. No time stands in it: the collector refuses files with times.

use super::builtin;
use super::registry::{Kept, Value};
use super::series::{Key, bounds};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Every series, each metric with its help and its type first.
pub fn render(series: &BTreeMap<Key, Kept>) -> String {
    let mut text = String::new();
    let mut last = "";
    for (Key { name, labels }, kept) in series {
        if name != last {
            let help = builtin::find(name).map_or("Written by a plugin.", |metric| metric.help);
            // Writing into a text cannot fail.
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", escape(help, false), kept.kind.name());
            last = name;
        }
        match &kept.value {
            Value::Number(value) => line(&mut text, name, "", labels.iter(), None, &number(value.0)),
            Value::Histogram(histogram) => {
                let mut so_far = 0_u64;
                let ends = bounds(name).iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
                for (end, count) in ends.zip(&histogram.counts) {
                    so_far = so_far.saturating_add(*count);
                    line(&mut text, name, "_bucket", labels.iter(), Some(&end), &so_far.to_string());
                }
                line(&mut text, name, "_sum", labels.iter(), None, &number(histogram.sum));
                line(&mut text, name, "_count", labels.iter(), None, &so_far.to_string());
            }
        }
    }
    text
}

/// A number as the format has it; all of ours are finite.
fn number(value: f64) -> String {
    // Display never writes an exponent, and the text is read as a 64-bit float again.
    value.to_string()
}

fn line<'a>(
    text: &mut String,
    name: &str,
    part: &str,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
    end: Option<&str>,
    value: &str,
) {
    let mut all: Vec<String> = labels.map(|(label, value)| format!("{label}=\"{}\"", escape(value, true))).collect();
    all.extend(end.map(|end| format!("le=\"{end}\"")));
    let braces = if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) };
    let _ = writeln!(text, "{name}{part}{braces} {value}");
}

/// What would end a line or a value is escaped.
fn escape(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::series::{Histogram, Kind, Labels};
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn the_text_holds_every_series_and_escapes_what_would_end_a_line() {
        let kept = |kind, value| Kept { kind, value, touched: Timestamp::UNIX_EPOCH };
        let key = |name: &str, labels: &[(&str, &str)]| Key {
            name: name.to_owned(),
            labels: labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect::<Labels>(),
        };
        let mut histogram = Histogram::new("shop_wait_seconds");
        [0.002, 3.0, 1e6].into_iter().for_each(|value| histogram.observe("shop_wait_seconds", value));
        let series = BTreeMap::from([
            (key("shop_rows", &[("t", "a\\b \"q\"\nx")]), kept(Kind::Gauge, Value::of(0.5))),
            (key("shop_rows", &[]), kept(Kind::Gauge, Value::of(1e21))),
            (key("shop_wait_seconds", &[("t", "x")]), kept(Kind::Histogram, Value::Histogram(histogram))),
        ]);
        let text = render(&series);
        assert!(text.starts_with(
            "# HELP shop_rows Written by a plugin.\n# TYPE shop_rows gauge\nshop_rows 1000000000000000000000\nshop_rows{t=\"a\\\\b \\\"q\\\"\\nx\"} 0.5\n"
        ), "{text}");
        for line in [
            "shop_wait_seconds_bucket{t=\"x\",le=\"0.001\"} 0\n",
            "shop_wait_seconds_bucket{t=\"x\",le=\"0.005\"} 1\n",
            "shop_wait_seconds_bucket{t=\"x\",le=\"5\"} 2\n",
            "shop_wait_seconds_bucket{t=\"x\",le=\"86400\"} 2\n",
            "shop_wait_seconds_bucket{t=\"x\",le=\"+Inf\"} 3\n",
            "shop_wait_seconds_sum{t=\"x\"} 1000003.002\n",
            "shop_wait_seconds_count{t=\"x\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} {text}");
        }
        assert_eq!(text.matches("# TYPE").count(), 2);
    }
}
