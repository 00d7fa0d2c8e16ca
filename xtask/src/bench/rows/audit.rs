//! What the audit log costs: a line of a call, without a flush and with one.

use super::Bench;
use crate::bench::host::Job;
use crate::bench::input::Input;
use crate::bench::measure::Pipeline;
use crate::bench::place::Kind;
use crate::bench::table::{Better, median};
use anyhow::{Context, Result};
use std::path::Path;

/// A line must cost less than so many microseconds.
const GOAL_US: f64 = 5.0;
/// Each writes some ten thousand lines.
const RUNS: usize = 5;

/// What statfs says of a file system in memory (`linux/magic.h`, TMPFS_MAGIC).
const IN_MEMORY: u64 = 0x0102_1994;

/// In a folder of the build: the scratch folder is in memory, where a flush costs nothing.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let state = bench.arena.build.join("audit-state");
    std::fs::create_dir_all(&state).with_context(|| format!("could not make {}", state.display()))?;
    let on = if is_in_memory(&state)? { "in memory, where the build folder is" } else { "on the disk of the build" };
    bench.input(Input::Text)?;
    let place = bench.start(Kind::Local)?;
    let file = bench.arena.scratch.path(Input::Text.name());
    bench.arena.host.configure(&place, super::DEFAULT_LEVEL, &Job::Stream { file, bytes: 1 })?;
    let (mut lines, mut flushes, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..RUNS {
        let process = bench.arena.host.process(&["audit", "cost", "--output", "json"]);
        let process = process.env("STRONGROOM_STATE_DIR", &state);
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
    let what = format!("a flush of it, {on}");
    bench.find("flush", what, median(&flushes), "µs", Better::Lower, None);
    std::fs::remove_dir_all(&state).with_context(|| format!("could not remove {}", state.display()))
}

fn is_in_memory(dir: &Path) -> Result<bool> {
    let found = rustix::fs::statfs(dir).with_context(|| format!("could not look at {}", dir.display()))?;
    Ok(u64::try_from(found.f_type).is_ok_and(|kind| kind == IN_MEMORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_told_from_others() {
        assert!(is_in_memory(Path::new("/dev/shm")).unwrap());
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
        assert!(is_in_memory(Path::new("/no/such/folder")).is_err());
    }
}
