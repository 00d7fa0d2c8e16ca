//! What the audit log costs: a line of a call, without a flush.

use super::Bench;
use crate::bench::host::Job;
use crate::bench::input::Input;
use crate::bench::measure::Pipeline;
use crate::bench::place::Kind;
use crate::bench::table::{Better, median};
use anyhow::{Context, Result};

/// A line must cost less than so many microseconds.
const GOAL_US: f64 = 5.0;
/// Each writes some ten thousand lines.
const RUNS: usize = 5;

/// On the disk of the scratch directory.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    bench.input(Input::Text)?;
    let place = bench.start(Kind::Local)?;
    let file = bench.arena.scratch.path(Input::Text.name());
    bench.arena.host.configure(&place, super::DEFAULT_LEVEL, &Job::Stream { file, bytes: 1 })?;
    let (mut lines, mut flushes, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..RUNS {
        let process = bench.arena.host.process(&["audit", "cost", "--output", "json"]);
        let output = bench.arena.scratch.path("output");
        let log = bench.arena.host.log().to_path_buf();
        Pipeline::new(vec![process], output.clone(), log).run()?;
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&output)?)?;
        let number = |key: &str| said[key].as_f64().with_context(|| format!("`audit cost` says no {key}"));
        lines.push(number("line_us")?);
        flushes.push(number("flush_us")?);
        bytes = number("line_bytes")?;
    }
    let what = format!("a line of the audit log ({bytes} bytes) without a flush");
    bench.find("line", what, median(&lines), "µs", Better::Lower, Some(GOAL_US));
    let what = "a flush of it".to_owned();
    bench.find("flush", what, median(&flushes), "µs", Better::Lower, None);
    Ok(())
}
