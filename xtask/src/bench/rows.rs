//! The rows of the benchmark: what is measured, one after another. Adding one is a line in [`ROWS`] and a file.

mod audit;
mod kube;
mod many;
mod memory;
mod start;
mod stream;

use super::contender::{Arena, Contender, Entry};
use super::input::Input;
use super::measure::{Measured, Pipeline};
use super::options::Options;
use super::place::{Kind, Place};
use super::table::{Better, Cell, Finding, RATIO, Sample, Table};
use anyhow::{Context, Result, bail};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// Whether it runs only when it is named, or with `--long`.
    pub is_long: bool,
    run: fn(&mut Bench) -> Result<()>,
}

/// Every row, in order.
pub const ROWS: &[Row] = &[
    Row { name: "s3", what: "Backup to S3 (the sink)", is_long: false, run: stream::s3 },
    Row { name: "local", what: "Backup to a local store in memory", is_long: false, run: stream::local },
    Row { name: "servers", what: "Backup to real servers on the same cores", is_long: false, run: stream::servers },
    Row { name: "far", what: "Backup to a sink that is far away, refuses or fails", is_long: false, run: stream::far },
    Row { name: "restore", what: "Restore", is_long: false, run: stream::restore },
    Row { name: "start", what: "Start-up", is_long: false, run: start::run },
    Row { name: "many", what: "Many small things", is_long: false, run: many::run },
    Row { name: "audit", what: "The audit log", is_long: false, run: audit::run },
    Row { name: "kube", what: "A Kubernetes cluster", is_long: false, run: kube::speed },
    Row { name: "kube-exec", what: "The output of a command in a pod", is_long: false, run: kube::exec },
    Row { name: "kube-memory", what: "Peak memory over ten times the objects", is_long: false, run: kube::memory },
    Row { name: "memory", what: "Peak memory over 1 GiB", is_long: false, run: memory::short },
    Row { name: "memory-long", what: "Peak memory over 100 GiB", is_long: true, run: memory::long },
];

/// The level of a store that says none, as in `docs/configuration.md`.
const DEFAULT_LEVEL: u32 = 2;

/// A run of the benchmark.
#[derive(Debug)]
pub struct Bench {
    /// Everything that command lines are made from.
    pub arena: Arena,
    /// What was asked for.
    pub options: Options,
    /// What was found so far.
    pub table: Table,
    row: &'static str,
}

impl Bench {
    /// Nothing was measured yet.
    pub fn new(arena: Arena, options: Options) -> Self {
        Self { arena, options, table: Table::default(), row: "" }
    }

    /// Runs the rows that were asked for, in their order.
    pub fn run(&mut self) -> Result<()> {
        let asked = self.options.rows.clone();
        for row in ROWS.iter().filter(|row| asked.iter().any(|name| name == row.name)) {
            self.row = row.name;
            println!("== {}: {}", row.name, row.what);
            (row.run)(self).with_context(|| format!("row \"{}\"", row.name))?;
        }
        Ok(())
    }

    fn start(&self, kind: Kind) -> Result<Place> {
        kind.start(&self.arena.scratch, &self.arena.peers)
    }

    /// Makes sure that an input is there; it stays for all rows.
    fn input(&self, input: Input) -> Result<()> {
        let path = self.arena.scratch.path(input.name());
        if path.exists() {
            return Ok(());
        }
        let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path)?);
        input.write(self.options.bytes, &mut out)?;
        std::io::Write::flush(&mut out).with_context(|| format!("could not make {}", path.display()))
    }

    /// Lets everybody run in turn, round after round, and adds a cell for each. Who fails in a harsh place has no cell
    /// but a finding of how often; Strongroom must not.
    fn interleave<'a>(
        &mut self,
        entries: &[(Kind, Entry<'a>)],
        rounds: usize,
        pipeline: fn(&Entry<'a>, &Arena) -> Result<Pipeline>,
    ) -> Result<()> {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); entries.len()];
        for _ in 0..rounds {
            for ((kind, entry), samples) in entries.iter().zip(&mut samples) {
                let may_fail = kind.is_harsh() && entry.contender != Contender::Strongroom;
                match self.once(entry, &pipeline(entry, &self.arena)?) {
                    Err(error) if may_fail => println!("  FAILED: {error:#}"),
                    sample => samples.push(sample?),
                }
            }
        }
        for ((kind, entry), samples) in entries.iter().zip(&samples) {
            if samples.len() < rounds {
                self.find_failures(*kind, entry, rounds - samples.len(), rounds)?;
                continue;
            }
            let level = entry.contender.has_level().then_some(entry.level);
            let who = (entry.input, level, entry.contender);
            let cell = Cell::of(self.row, kind.name(), who, entry.bytes, samples);
            println!("  {}", super::report::line(&cell));
            self.table.cells.push(cell);
        }
        for (_, entry) in entries {
            entry.clear(&self.arena)?;
        }
        Ok(())
    }

    fn once(&self, entry: &Entry<'_>, pipeline: &Pipeline) -> Result<Sample> {
        let name = entry.contender.name();
        let measured = pipeline.run().with_context(|| name.to_owned())?;
        if measured.moved_bytes != entry.bytes {
            bail!("{name} moved {} bytes instead of {}", measured.moved_bytes, entry.bytes);
        }
        Ok(sample(&measured, entry.stored_bytes(&self.arena)?))
    }

    fn find_failures(&mut self, kind: Kind, entry: &Entry<'_>, failed: usize, rounds: usize) -> Result<()> {
        let (place, input, who) = (kind.name(), entry.input.name(), entry.contender.name());
        let id = format!("{place}/{input}/{}/failed/{who}", entry.level);
        let what = format!("{place}, {input}, level {}: failed backups of {who}", entry.level);
        let failed = f64::from(u32::try_from(failed)?);
        self.find(&id, what, failed, &format!("of {rounds}"), Better::Lower, None);
        Ok(())
    }

    /// Adds a finding of the present row.
    fn find(&mut self, id: &str, what: String, value: f64, unit: &str, better: Better, goal: Option<f64>) {
        let finding = Finding { id: format!("{}/{id}", self.row), what, value, unit: unit.to_owned(), better, goal };
        println!("  {}", super::report::finding(&finding));
        self.table.findings.push(finding);
    }

    /// Those that have a cell in a place, at the usual level.
    fn who_succeeded(&self, kind: Kind, input: Input, who: &[Contender]) -> Vec<Contender> {
        let has_cell = |contender: &Contender| {
            let level = contender.has_level().then_some(DEFAULT_LEVEL);
            self.table.cell(self.row, kind.name(), input, level, *contender).is_ok()
        };
        who.iter().copied().filter(has_cell).collect()
    }

    /// Adds how many times faster Strongroom is than the fastest of the others in a place.
    fn compare(
        &mut self,
        id: &str,
        at: (Kind, Input, u32),
        others: &[Contender],
        who: &str,
        goal: Option<f64>,
    ) -> Result<()> {
        let (kind, input, level) = at;
        let speed = |contender: Contender| {
            let level = contender.has_level().then_some(level);
            self.table.cell(self.row, kind.name(), input, level, contender).map(|cell| cell.mb_per_s)
        };
        let own = speed(Contender::Strongroom)?;
        let speeds = others.iter().map(|other| speed(*other)).collect::<Result<Vec<_>>>()?;
        let best = speeds.into_iter().fold(0.0, f64::max);
        let what = format!("{}, {}, level {level}: Strongroom / {who}", kind.name(), input.name());
        let id = format!("{}/{}/{level}/{id}", kind.name(), input.name());
        self.find(&id, what, own / best, RATIO, Better::Higher, goal);
        Ok(())
    }
}

fn sample(measured: &Measured, stored_bytes: u64) -> Sample {
    let Measured { seconds, cpu_seconds, peak_bytes, .. } = *measured;
    Sample { seconds, cpu_seconds, peak_bytes, stored_bytes }
}
