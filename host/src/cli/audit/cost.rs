//! `strongroom audit cost`

use crate::audit::cost::{self, Cost};
use crate::cli::Globals;
use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::clock;
use crate::error::{IoContext, Result};
use crate::id::BackupId;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `audit cost`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit cost
  strongroom audit cost --rounds 100 --output json

Writes into a directory of its own beside the log, on the same disk, and removes it.")]
pub struct CostArgs {
    /// How often 500 lines are written and flushed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
}

/// The result of `audit cost` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct AuditCost {
    /// Microseconds for a call with a line of its own and no flush: decided, told, written.
    pub line_us: f64,
    /// Bytes of such a line.
    pub line_bytes: u64,
    /// Microseconds until the disk has it: what a call that changes something waits for.
    pub flush_us: f64,
    /// How many lines were written.
    pub lines: u64,
}

/// Runs it.
pub(super) fn run(args: &CostArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let scratch = Scratch::make(&globals.directories()?.state)?;
    let measured = cost::measure(&scratch.0, args.rounds)?;
    drop(scratch);
    AuditCost::of(&measured, args.rounds).print(&globals.output())
}

impl AuditCost {
    fn of(measured: &Cost, rounds: u32) -> Self {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let Cost { line, line_bytes, flush } = *measured;
        let lines = u64::from(rounds) * u64::from(cost::CALLS);
        Self { line_us: us(line), line_bytes, flush_us: us(flush), lines }
    }

    /// Prints it.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || {
            let Self { line_us, line_bytes, flush_us, lines } = self;
            format!(
                "a line:  {line_us:.2} µs, {line_bytes} bytes\na flush: {flush_us:.0} µs\n{lines} lines; medians of rounds of {}\n",
                cost::CALLS
            )
        })?;
        Ok(Exit::Done)
    }
}

/// A directory that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(state: &Path) -> Result<Self> {
        let path = state.join(format!("audit-cost-{}", BackupId::generate(clock::now())?));
        std::fs::create_dir_all(&path).doing(|| format!("make \"{}\"", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It holds nothing of worth, and its name says what left it behind.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
