//! Many small things: a thousand artifacts in one backup, a hundred thousand files in one archive.

use super::{Bench, DEFAULT_LEVEL};
use crate::bench::host::{JOB, Job};
use crate::bench::measure::Pipeline;
use crate::bench::place::{Kind, Place};
use crate::bench::table::{Better, float, median};
use anyhow::{Context, Result};
use std::path::Path;

/// Artifacts of one backup, and how many of them each second into a real S3 server.
const ARTIFACTS: u64 = 1000;
const ARTIFACTS_GOAL: f64 = 200.0;
/// Files of one archive, their size in bytes, and how many of them each second.
const FILES: u64 = 100_000;
const FILE_BYTES: usize = 4 << 10;
const FILES_GOAL: f64 = 20_000.0;
/// Files of one folder.
const FOLDER_FILES: u64 = 1000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for (kind, goal) in
        [(Kind::Drain, None), (Kind::Versitygw, Some(ARTIFACTS_GOAL)), (Kind::Minio, Some(ARTIFACTS_GOAL))]
    {
        let (place, name) = (bench.start(kind)?, kind.name());
        // What the store and the pipeline cost, and what it costs to start a command for each besides.
        let seconds_of = |job: &Job| seconds(bench, &place, job);
        let (tiny, lines) = (seconds_of(&Job::Tiny(ARTIFACTS))?, seconds_of(&Job::Lines(ARTIFACTS))?);
        let what = format!("{name}: {ARTIFACTS} tiny artifacts in one backup");
        bench.find(&format!("artifacts/{name}"), what, float(ARTIFACTS) / tiny, "/s", Better::Higher, goal);
        let what = format!("{name}: {ARTIFACTS} artifacts in one backup, each the output of a command of its own");
        bench.find(&format!("outputs/{name}"), what, float(ARTIFACTS) / lines, "/s", Better::Higher, None);
    }
    let place = bench.start(Kind::Local)?;
    let tree = bench.arena.scratch.empty("tree")?;
    plant(&tree)?;
    let seconds = seconds(bench, &place, &Job::Tree(tree.clone()))?;
    std::fs::remove_dir_all(tree)?;
    let what = format!("local: {FILES} files of {FILE_BYTES} bytes in one archive");
    bench.find("files/local", what, float(FILES) / seconds, "/s", Better::Higher, Some(FILES_GOAL));
    Ok(())
}

/// Median of the seconds that a backup of this job takes.
fn seconds(bench: &Bench, place: &Place, job: &Job) -> Result<f64> {
    bench.arena.host.configure(place, DEFAULT_LEVEL, job)?;
    let mut seconds = Vec::new();
    for _ in 0..bench.options.rounds {
        let process = bench.arena.host.process(&["backup", JOB]);
        let output = bench.arena.scratch.path("output");
        let line = Pipeline::new(vec![process], output, bench.arena.host.log().to_path_buf());
        seconds.push(line.run()?.seconds);
    }
    Ok(median(&seconds))
}

/// Makes the tree: files that differ, and shrink as text does.
fn plant(root: &Path) -> Result<()> {
    for n in 0..FILES {
        let folder = root.join(format!("{:03}", n / FOLDER_FILES));
        if n % FOLDER_FILES == 0 {
            std::fs::create_dir(&folder)?;
        }
        let mut text = format!("file {n}: ").repeat(FILE_BYTES / 12);
        text.truncate(FILE_BYTES);
        std::fs::write(folder.join(format!("{n:06}")), format!("{text:.<FILE_BYTES$}"))
            .context("could not plant a file")?;
    }
    Ok(())
}
