//! How long it takes until something happens: `strongroom list`, and the first byte that a backup asks for.

use super::{Bench, DEFAULT_LEVEL};
use crate::bench::host::{JOB, Job};
use crate::bench::input::Input;
use crate::bench::measure::{Measured, Pipeline, Process};
use crate::bench::place::Kind;
use crate::bench::table::{Better, median};
use anyhow::{Context, Result};

/// Both must happen within so many milliseconds.
const GOAL_MS: f64 = 50.0;
/// Starting is short, so it can be done often.
const RUNS: usize = 21;
/// Bytes of each backup, which is not what is measured.
const BYTES: u64 = 1 << 20;

/// Local store, local lease, warm plugin cache.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    bench.input(Input::Text)?;
    let place = bench.start(Kind::Local)?;
    let file = bench.arena.scratch.path(Input::Text.name());
    bench.arena.host.configure(&place, DEFAULT_LEVEL, &Job::Stream { file, bytes: BYTES })?;
    // The first backup fills the cache of plugins and makes this host's key.
    measure(bench, &["backup", JOB])?;
    let (mut lists, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let measured = measure(bench, &["backup", JOB])?;
        let asked = measured.role_began.context("the backup asked no producer for anything")?;
        firsts.push((asked - measured.began) * 1e3);
        lists.push(measure(bench, &["list"])?.seconds * 1e3);
    }
    for (id, what, times) in [
        ("list", "`strongroom list` on a local store", lists),
        ("first-byte", "from `strongroom backup` to the first byte asked of the producer", firsts),
    ] {
        bench.find(id, what.to_owned(), median(&times), "ms", Better::Lower, Some(GOAL_MS));
    }
    Ok(())
}

fn measure(bench: &Bench, arguments: &[&str]) -> Result<Measured> {
    let process: Process = bench.arena.host.process(arguments);
    let output = bench.arena.scratch.path("output");
    Pipeline::new(vec![process], output, bench.arena.host.log().to_path_buf()).run()
}
