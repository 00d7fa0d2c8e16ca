//! Peak memory of the host against the published formula: the same for any amount of data, and for a store that
//! is fast, slow, or stands still for a while.

use super::{Bench, DEFAULT_LEVEL};
use crate::bench::contender::{Contender, Entry};
use crate::bench::input::Input;
use crate::bench::measure::Measured;
use crate::bench::place::{Kind, Place};
use crate::bench::sink::Pace;
use crate::bench::table::{Better, float};
use anyhow::{Result, bail};
use std::time::Duration;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A store that takes less than the host could give it.
const SLOW: Pace = Pace::BytesPerSecond(50 * MIB);
/// The same for 100 GiB, which otherwise take an hour.
const SLOW_LONG: Pace = Pace::BytesPerSecond(150 * MIB);
/// A store that stands still, for less than the minute after which the host calls that a stall, and long enough for the
/// lease to be renewed twice.
const STALLED: Pace = Pace::StallAfter(100 * MIB, Duration::from_secs(45));
const STALLED_LONG: Pace = Pace::StallAfter(10 * GIB, Duration::from_secs(45));

/// `host/src/stream/budget.rs`, with one open transfer and the defaults of a store: 4 parts of 8 MiB in flight.
fn formula_mib(n_workers: usize) -> usize {
    21 + 2 * (3 * n_workers + 1) + 8 * (4 + 1)
}

/// Over 1 GiB, and reading it back.
pub(super) fn short(bench: &mut Bench) -> Result<()> {
    run(bench, GIB, SLOW, STALLED)?;
    read_back(bench)
}

/// Restores of 1 GiB. Who reads holds the frame that it was given last beside what the formula counts.
fn read_back(bench: &mut Bench) -> Result<()> {
    let input = Input::Mixed;
    let most = f64::from(u16::try_from(formula_mib(std::thread::available_parallelism()?.get()) + 2)?);
    let place = bench.start(Kind::Keep)?;
    let Place::Sink(sink) = &place else { bail!("the sink is a sink") };
    let entry = Entry { contender: Contender::Strongroom, place: &place, input, bytes: GIB, level: DEFAULT_LEVEL };
    entry.backup(&bench.arena)?.run()?;
    for (name, pace) in [("fast", Pace::Free), ("slow", SLOW), ("stalled", STALLED)] {
        let line = entry.restore(&bench.arena)?.watched_closely();
        sink.set_pace(pace);
        let measured = line.run()?;
        sink.set_pace(Pace::Free);
        let what = format!("a restore from a {name} S3 store, 1 GiB: peak memory of the host");
        let peak = told(&measured);
        bench.find(&format!("restore-{name}"), what, peak, "MiB", Better::Lower, Some(most));
    }
    Ok(())
}

/// Over 100 GiB.
pub(super) fn long(bench: &mut Bench) -> Result<()> {
    run(bench, 100 * GIB, SLOW_LONG, STALLED_LONG)
}

fn run(bench: &mut Bench, bytes: u64, slow: Pace, stalled: Pace) -> Result<()> {
    let input = Input::Mixed;
    bench.input(input)?;
    let most = formula_mib(std::thread::available_parallelism()?.get());
    let place = bench.start(Kind::Drain)?;
    for (name, pace) in [("fast", Pace::Free), ("slow", slow), ("stalled", stalled)] {
        let Place::Sink(sink) = &place else { bail!("the sink is a sink") };
        let entry = Entry { contender: Contender::Strongroom, place: &place, input, bytes, level: DEFAULT_LEVEL };
        let line = entry.backup(&bench.arena)?.watched_closely();
        sink.set_pace(pace);
        let measured = line.run()?;
        sink.set_pace(Pace::Free);
        let what = format!("a {name} store, {} GiB: peak memory of the host", bytes / GIB);
        let peak = told(&measured);
        let most = f64::from(u16::try_from(most)?);
        bench.find(name, what, peak, "MiB", Better::Lower, Some(most));
    }
    Ok(())
}

/// The peak in MiB; who made it is printed.
fn told(measured: &Measured) -> f64 {
    let mib = |bytes: u64| float(bytes) / float(MIB);
    let each: Vec<_> = measured.peak_of.iter().map(|(name, bytes)| format!("{name} {:.1} MiB", mib(*bytes))).collect();
    println!("  peak of {}", each.join(", "));
    mib(measured.peak_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_what_is_published_for_two_cores() {
        assert_eq!(formula_mib(2), 75);
    }
}
