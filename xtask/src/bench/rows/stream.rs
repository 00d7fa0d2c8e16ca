//! One long stream, backed up and restored: to the sink, to a local store, to real servers.

use super::{Bench, DEFAULT_LEVEL};
use crate::bench::contender::{Contender, Entry};
use crate::bench::input::Input;
use crate::bench::place::{Kind, Place};
use crate::bench::table::{Better, RATIO};
use Contender::{File, Kopia, KopiaZstd, Rclone, Restic, S5cmd, Strongroom, WorkAlone, ZstdAlone};
use anyhow::Result;

/// Levels that are compared, each with how many times faster than the best pipeline a backup to S3 must be.
const LEVELS: [(u32, f64); 3] = [(1, 1.7), (2, 1.7), (3, 1.55)];
/// How many times faster than restic and kopia at their own defaults a backup must be.
const RESTIC_GOAL: f64 = 3.5;
const KOPIA_GOAL: f64 = 3.0;
/// How many times faster than the best of its peers a restore must be: `s5cmd cat | age -d | zstd -d`, and restic and
/// kopia from their own local repositories. Other pipelines stand beside them.
const RESTORE_GOAL: f64 = 2.0;
/// The client's CPU may be so many times that of zstd alone, and so many seconds for each GiB more.
const CPU_FACTOR: f64 = 1.10;
const CPU_MORE: f64 = 0.4;
/// So many rounds are enough for what has no goals: other inputs, and servers that are real, far or refusing.
const FEW_ROUNDS: usize = 3;

/// Contenders at work in one place.
fn entries<'a>(
    bench: &Bench,
    (kind, place): (Kind, &'a Place),
    input: Input,
    level: u32,
    who: &[Contender],
) -> Vec<(Kind, Entry<'a>)> {
    let bytes = bench.options.bytes;
    who.iter().map(|contender| (kind, Entry { contender: *contender, place, input, bytes, level })).collect()
}

/// The goals are about the mixed input; the others are shown beside it.
fn goal(input: Input, goal: f64) -> Option<f64> {
    (input == Input::Mixed).then_some(goal)
}

fn rounds(bench: &Bench, input: Input) -> usize {
    if input == Input::Mixed { bench.options.rounds } else { bench.options.rounds.min(FEW_ROUNDS) }
}

/// Backup to the sink: every input and level against pipelines, and against restic and kopia.
pub(super) fn s3(bench: &mut Bench) -> Result<()> {
    let place = bench.start(Kind::Drain)?;
    for input in bench.options.inputs.clone() {
        bench.input(input)?;
        let mut all = Vec::new();
        for (level, _) in LEVELS {
            let who = [Strongroom, S5cmd, Rclone, ZstdAlone, WorkAlone];
            all.extend(entries(bench, (Kind::Drain, &place), input, level, &who));
        }
        all.extend(entries(bench, (Kind::Drain, &place), input, DEFAULT_LEVEL, &[Restic, Kopia, KopiaZstd]));
        bench.interleave(&all, rounds(bench, input), Entry::backup)?;
        for (level, faster) in LEVELS {
            let at = (Kind::Drain, input, level);
            bench.compare("pipeline", at, &[S5cmd, Rclone], "the best pipeline", goal(input, faster))?;
            cpu(bench, input, level)?;
        }
        against_repositories(bench, Kind::Drain, input)?;
    }
    Ok(())
}

/// The goals are about S3: into a local store in memory, kopia at its own defaults copies and does little else.
fn against_repositories(bench: &mut Bench, kind: Kind, input: Input) -> Result<()> {
    let at = (kind, input, DEFAULT_LEVEL);
    let goal = |wanted| goal(input, wanted).filter(|_| kind == Kind::Drain);
    bench.compare("restic", at, &[Restic], "restic", goal(RESTIC_GOAL))?;
    bench.compare("kopia", at, &[Kopia], "kopia", goal(KOPIA_GOAL))?;
    bench.compare("kopia-zstd", at, &[KopiaZstd], "kopia with zstd-fastest", None)
}

/// The client's CPU beside that of zstd alone, and of what no backup of this format can leave out.
fn cpu(bench: &mut Bench, input: Input, level: u32) -> Result<()> {
    let of = |contender| {
        let cell = bench.table.cell("s3", Kind::Drain.name(), input, Some(level), contender);
        cell.map(|cell| cell.cpu_s_per_gib)
    };
    let (own, alone, work) = (of(Strongroom)?, of(ZstdAlone)?, of(WorkAlone)?);
    let id = format!("sink/{}/{level}", input.name());
    let what = format!("sink, {}, level {level}: client CPU", input.name());
    let most = CPU_FACTOR * alone + CPU_MORE;
    bench.find(&format!("{id}/cpu"), what.clone(), own, "CPU-s/GiB", Better::Lower, goal(input, most));
    for (name, than, ratio) in [("cpu-ratio", ZstdAlone, own / alone), ("cpu-work", WorkAlone, own / work)] {
        let what = format!("{what} / {}", than.name());
        bench.find(&format!("{id}/{name}"), what, ratio, RATIO, Better::Lower, None);
    }
    Ok(())
}

/// Backup to a local store in memory.
pub(super) fn local(bench: &mut Bench) -> Result<()> {
    let place = bench.start(Kind::Local)?;
    for input in bench.options.inputs.clone() {
        bench.input(input)?;
        let who = [Strongroom, File, Restic, Kopia, KopiaZstd];
        let all = entries(bench, (Kind::Local, &place), input, DEFAULT_LEVEL, &who);
        bench.interleave(&all, rounds(bench, input), Entry::backup)?;
        bench.compare("pipeline", (Kind::Local, input, DEFAULT_LEVEL), &[File], "zstd | age > file", None)?;
        against_repositories(bench, Kind::Local, input)?;
    }
    Ok(())
}

/// Backup to a store with latency, to one that says that it is asked too much, and to those that fail.
pub(super) fn far(bench: &mut Bench) -> Result<()> {
    let input = Input::Mixed;
    bench.input(input)?;
    for kind in [Kind::Far, Kind::Refusing, Kind::Failing, Kind::Resetting] {
        let place = bench.start(kind)?;
        let all = entries(bench, (kind, &place), input, DEFAULT_LEVEL, &[Strongroom, S5cmd, Rclone]);
        bench.interleave(&all, bench.options.rounds.min(FEW_ROUNDS), Entry::backup)?;
        let others = bench.who_succeeded(kind, input, &[S5cmd, Rclone]);
        if !others.is_empty() {
            bench.compare("pipeline", (kind, input, DEFAULT_LEVEL), &others, "the best pipeline", None)?;
        }
    }
    Ok(())
}

/// Backup to servers that do all that a server does, on the cores that the clients need.
pub(super) fn servers(bench: &mut Bench) -> Result<()> {
    let input = Input::Mixed;
    bench.input(input)?;
    for kind in [Kind::Versitygw, Kind::Minio] {
        let place = bench.start(kind)?;
        let all = entries(bench, (kind, &place), input, DEFAULT_LEVEL, &[Strongroom, S5cmd, Rclone]);
        bench.interleave(&all, bench.options.rounds.min(FEW_ROUNDS), Entry::backup)?;
        bench.compare("pipeline", (kind, input, DEFAULT_LEVEL), &[S5cmd, Rclone], "the best pipeline", None)?;
    }
    Ok(())
}

/// Restore from the sink, which serves from memory, and from local stores and repositories in memory.
pub(super) fn restore(bench: &mut Bench) -> Result<()> {
    let (kept, local) = (bench.start(Kind::Keep)?, bench.start(Kind::Local)?);
    for input in bench.options.inputs.clone() {
        bench.input(input)?;
        let mut all = entries(bench, (Kind::Keep, &kept), input, DEFAULT_LEVEL, &[Strongroom, S5cmd, Rclone]);
        let who = [Strongroom, File, Restic, Kopia, KopiaZstd];
        all.extend(entries(bench, (Kind::Local, &local), input, DEFAULT_LEVEL, &who));
        for (_, entry) in &all {
            entry.backup(&bench.arena)?.run()?;
        }
        bench.interleave(&all, rounds(bench, input), Entry::restore)?;
        let wanted = goal(input, RESTORE_GOAL);
        for (id, kind, others, who, wanted) in [
            ("s5cmd", Kind::Keep, [S5cmd].as_slice(), "s5cmd | age | zstd", wanted),
            ("pipeline", Kind::Keep, &[S5cmd, Rclone], "the best pipeline", None),
            ("repository", Kind::Local, &[Restic, Kopia, KopiaZstd], "the best of restic and kopia", wanted),
            ("pipeline", Kind::Local, &[File], "age | zstd < file", None),
        ] {
            bench.compare(id, (kind, input, DEFAULT_LEVEL), others, who, wanted)?;
        }
    }
    Ok(())
}
