//! What a run found: figures of contenders, and findings that have goals. Also how both are kept as JSON.

use super::contender::Contender;
use super::input::Input;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

/// The middle of the values; the mean of the two middle ones of an even number; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => (sorted[middle - 1] + value) / 2.0,
    }
}

/// A number of bytes for arithmetic; exact up to 2^53.
pub fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// One run of one contender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Wall time.
    pub seconds: f64,
    /// CPU time of the client.
    pub cpu_seconds: f64,
    /// Peak memory of the client.
    pub peak_bytes: u64,
    /// Bytes at rest.
    pub stored_bytes: u64,
}

/// Medians of one contender's runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The row of the benchmark, such as `s3`.
    pub row: String,
    /// Where to or from.
    pub place: String,
    /// What.
    pub input: Input,
    /// The level; `None` for contenders with a level of their own.
    pub level: Option<u32>,
    /// Who.
    pub contender: Contender,
    /// Plaintext, 10^6 bytes each second.
    pub mb_per_s: f64,
    /// CPU seconds of the client for each GiB of plaintext.
    pub cpu_s_per_gib: f64,
    /// Peak memory of the client in MiB: the highest of all runs.
    pub peak_mib: f64,
    /// Bytes at rest.
    pub stored_bytes: u64,
}

impl Cell {
    /// Sums up runs over `bytes` bytes of plaintext each.
    pub fn of(row: &str, place: &str, who: (Input, Option<u32>, Contender), bytes: u64, samples: &[Sample]) -> Self {
        let middle = |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>());
        let (input, level, contender) = who;
        Self {
            row: row.to_owned(),
            place: place.to_owned(),
            input,
            level,
            contender,
            mb_per_s: float(bytes) / 1e6 / middle(|sample| sample.seconds),
            cpu_s_per_gib: middle(|sample| sample.cpu_seconds) * GIB / float(bytes),
            peak_mib: float(samples.iter().map(|sample| sample.peak_bytes).max().unwrap_or(0)) / MIB,
            stored_bytes: samples.last().map_or(0, |sample| sample.stored_bytes),
        }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Speeds.
    Higher,
    /// Costs.
    Lower,
}

/// The unit of ratios: what holds on any machine, and what `--check` compares.
pub const RATIO: &str = "x";

/// The name under which [`Table::about`] says what machine it was.
pub const MACHINE: &str = "machine";

/// One number that something is said about.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Stable name, beginning with the row's: `s3/mixed/2/best-pipeline`.
    pub id: String,
    /// In words.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit; [`RATIO`] for a ratio of medians of one run.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// The goal, where there is one.
    pub goal: Option<f64>,
}

impl Finding {
    /// Whether the goal is met; `None` without a goal.
    pub fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| match self.better {
            Better::Higher => self.value >= goal,
            Better::Lower => self.value <= goal,
        })
    }

    /// The row that it belongs to.
    pub fn row(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }
}

/// Everything that a run found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Machine, versions and settings, by name, in the order in which they are shown.
    pub about: Vec<(String, String)>,
    /// Plaintext of a run, in bytes.
    pub bytes: u64,
    /// Figures.
    pub cells: Vec<Cell>,
    /// Findings.
    pub findings: Vec<Finding>,
}

impl Table {
    /// The figures of a contender in a row; an error names what is missing.
    pub fn cell(
        &self,
        row: &str,
        place: &str,
        input: Input,
        level: Option<u32>,
        contender: Contender,
    ) -> Result<&Cell> {
        let found = self.cells.iter().find(|cell| {
            (cell.row.as_str(), cell.place.as_str(), cell.input, cell.level, cell.contender)
                == (row, place, input, level, contender)
        });
        found.with_context(|| format!("{} was not measured in row \"{row}\"", contender.name()))
    }

    /// Puts the rows of `newer` in the place of its own of the same names, and takes over what it is about.
    ///
    /// Rows that stay must be comparable with those that come: fails for another machine or another amount of
    /// plaintext.
    pub fn merge(&mut self, newer: Self) -> Result<()> {
        let rows: Vec<String> = newer.rows();
        self.cells.retain(|cell| !rows.contains(&cell.row));
        self.findings.retain(|finding| !rows.iter().any(|row| row == finding.row()));
        let stays = !self.cells.is_empty() || !self.findings.is_empty();
        if stays && (self.bytes, self.machine()) != (newer.bytes, newer.machine()) {
            bail!("the other rows of the last table are from another machine or another amount of plaintext");
        }
        self.cells.extend(newer.cells);
        self.findings.extend(newer.findings);
        self.about = newer.about;
        self.bytes = newer.bytes;
        Ok(())
    }

    fn machine(&self) -> Option<&str> {
        self.about.iter().find(|(name, _)| name == MACHINE).map(|(_, machine)| machine.as_str())
    }

    /// Names of the rows that it has, in their order.
    pub fn rows(&self) -> Vec<String> {
        let names = self.cells.iter().map(|cell| cell.row.as_str()).chain(self.findings.iter().map(Finding::row));
        let mut rows: Vec<String> = Vec::new();
        for name in names {
            if !rows.iter().any(|row| row == name) {
                rows.push(name.to_owned());
            }
        }
        rows
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        // Pairs and no object: the order is part of it.
        let about: Vec<Value> = self.about.iter().map(|(name, text)| json!([name, text])).collect();
        let cells: Vec<Value> = self.cells.iter().map(cell_to_json).collect();
        let findings: Vec<Value> = self.findings.iter().map(finding_to_json).collect();
        json!({ "about": about, "bytes": self.bytes, "cells": cells, "findings": findings })
    }

    /// From JSON; an error says what is missing.
    pub fn from_json(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("\"about\" holds what is no text");
        let list = |name: &str| value[name].as_array().with_context(|| format!("\"{name}\" is missing"));
        Ok(Self {
            about: list("about")?.iter().map(|pair| Ok((text(&pair[0])?, text(&pair[1])?))).collect::<Result<_>>()?,
            bytes: value["bytes"].as_u64().context("\"bytes\" is missing")?,
            cells: list("cells")?.iter().map(cell_from_json).collect::<Result<_>>()?,
            findings: list("findings")?.iter().map(finding_from_json).collect::<Result<_>>()?,
        })
    }
}

/// Three digits behind the point are more than any of this is exact to.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn cell_to_json(cell: &Cell) -> Value {
    json!({
        "row": cell.row,
        "place": cell.place,
        "input": cell.input.name(),
        "level": cell.level,
        "contender": cell.contender.name(),
        "mb_per_s": rounded(cell.mb_per_s),
        "cpu_s_per_gib": rounded(cell.cpu_s_per_gib),
        "peak_mib": rounded(cell.peak_mib),
        "stored_bytes": cell.stored_bytes,
    })
}

fn cell_from_json(value: &Value) -> Result<Cell> {
    let text = |name: &str| value[name].as_str().with_context(|| format!("a cell has no \"{name}\""));
    let number = |name: &str| value[name].as_f64().with_context(|| format!("a cell has no \"{name}\""));
    Ok(Cell {
        row: text("row")?.to_owned(),
        place: text("place")?.to_owned(),
        input: Input::parse(text("input")?).context("a cell has an unknown input")?,
        level: value["level"].as_u64().map(u32::try_from).transpose()?,
        contender: Contender::parse(text("contender")?).context("a cell has an unknown contender")?,
        mb_per_s: number("mb_per_s")?,
        cpu_s_per_gib: number("cpu_s_per_gib")?,
        peak_mib: number("peak_mib")?,
        stored_bytes: value["stored_bytes"].as_u64().context("a cell has no \"stored_bytes\"")?,
    })
}

fn finding_to_json(finding: &Finding) -> Value {
    let better = if finding.better == Better::Higher { "higher" } else { "lower" };
    json!({
        "id": finding.id,
        "what": finding.what,
        "value": rounded(finding.value),
        "unit": finding.unit,
        "better": better,
        "goal": finding.goal.map(rounded),
    })
}

fn finding_from_json(value: &Value) -> Result<Finding> {
    let text = |name: &str| value[name].as_str().with_context(|| format!("a finding has no \"{name}\""));
    Ok(Finding {
        id: text("id")?.to_owned(),
        what: text("what")?.to_owned(),
        value: value["value"].as_f64().context("a finding has no \"value\"")?,
        unit: text("unit")?.to_owned(),
        better: if text("better")? == "higher" { Better::Higher } else { Better::Lower },
        goal: value["goal"].as_f64(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn finding(id: &str, value: f64, better: Better, goal: Option<f64>) -> Finding {
        Finding { id: id.into(), what: format!("what {id} is"), value, unit: RATIO.into(), better, goal }
    }

    pub(crate) fn table() -> Table {
        let sample =
            |seconds, peak_bytes| Sample { seconds, cpu_seconds: seconds * 2.0, peak_bytes, stored_bytes: 500_000_000 };
        let samples = [sample(2.0, 50 << 20), sample(1.0, 60 << 20), sample(9.0, 40 << 20)];
        let bytes = 1 << 30;
        let cell = |contender: Contender| {
            let level = contender.has_level().then_some(2);
            Cell::of("s3", "sink", (Input::Mixed, level, contender), bytes, &samples)
        };
        Table {
            about: vec![("machine".into(), "a fast one".into()), ("restic".into(), "0.19.1".into())],
            bytes,
            cells: vec![cell(Contender::Strongroom), cell(Contender::Restic)],
            findings: vec![
                finding("s3/mixed/2/best", 1.8, Better::Higher, Some(1.7)),
                finding("start/list", 60.0, Better::Lower, Some(50.0)),
            ],
        }
    }

    #[test]
    fn medians_are_the_middle_whatever_the_order() {
        for (values, expected) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 2.0], 2.5)]
        {
            assert_eq!(median(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_cell_has_medians_of_times_and_the_highest_memory() {
        let cell = &table().cells[0];
        assert_eq!((cell.mb_per_s, cell.cpu_s_per_gib, cell.peak_mib), (536.870_912, 4.0, 60.0));
    }

    #[test]
    fn goals_are_met_at_their_bound_and_not_beyond_it() {
        for (better, value, met) in [
            (Better::Higher, 1.7, true),
            (Better::Higher, 1.69, false),
            (Better::Lower, 1.7, true),
            (Better::Lower, 1.71, false),
        ] {
            assert_eq!(finding("a", value, better, Some(1.7)).is_met(), Some(met));
        }
        assert_eq!(finding("a", 1.0, Better::Higher, None).is_met(), None);
    }

    #[test]
    fn a_table_comes_back_from_json_as_it_was() {
        let mut table = table();
        table.cells.iter_mut().for_each(|cell| cell.mb_per_s = 536.871);
        let text = serde_json::to_string(&table.to_json()).unwrap();
        assert_eq!(Table::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), table);
        let error = Table::from_json(&json!({ "about": [], "bytes": 1, "cells": [{}], "findings": [] })).unwrap_err();
        assert_eq!(error.to_string(), "a cell has no \"row\"");
    }

    #[test]
    fn newer_rows_take_the_place_of_older_ones_and_no_others() {
        let mut old = table();
        let findings = vec![finding("start/list", 40.0, Better::Lower, Some(50.0))];
        let newer = Table { cells: Vec::new(), findings, ..table() };
        for other in [Table { bytes: 1, ..newer.clone() }, Table { about: Vec::new(), ..newer.clone() }] {
            assert!(table().merge(other).unwrap_err().to_string().contains("another machine"));
        }
        old.merge(newer).unwrap();
        assert_eq!(old.cells.len(), 2);
        assert_eq!(old.findings.iter().map(|finding| finding.value).collect::<Vec<_>>(), [1.8, 40.0]);
        assert_eq!(old.rows(), ["s3", "start"]);
    }
}
