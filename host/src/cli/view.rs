//! What verbs print: one JSON shape each, which `docs/output.md` documents, and the same for people.
//!
//! Text that came from a plugin, a store or a server is escaped before it is shown.

use super::table::Table;
use crate::catalog::{Listed, Standing};
use crate::clock;
use crate::plugin::context::{Check, CheckOutcome, Step};
use crate::record::{BackupRecord, Outcome};
use crate::run::trend;
use crate::text::printable;
use crate::unit;
use serde_json::{Value, json};
use std::fmt::Write;

/// Most rows of a kind that are printed for people; `--output json` has them all.
const MOST_ROWS: usize = 40;

/// `strongroom.backup/1`
pub fn backup_json(record: &BackupRecord, dry_run: bool) -> Value {
    json!({ "schema": "strongroom.backup/1", "dry_run": dry_run, "backup": summary_json(record) })
}

fn summary_json(record: &BackupRecord) -> Value {
    let artifacts: Vec<_> = record
        .artifacts
        .iter()
        .map(|a| json!({ "name": a.name, "size": a.size, "stored_bytes": a.stored_bytes(), "blake3": a.blake3, "segments": a.segments.len() }))
        .collect();
    json!({
        "id": record.id,
        "job": record.job,
        "outcome": record.outcome,
        "started": clock::show(record.started),
        "finished": clock::show(record.finished),
        "size": trend::size(record),
        "stored_bytes": stored_bytes(record),
        "artifacts": artifacts,
        "facts": pairs(&record.facts),
        "skipped": pairs(&record.skipped),
        "not_captured": record.not_captured,
        "warnings": record.warnings,
        "source_id": record.source_id,
    })
}

fn pairs(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

fn stored_bytes(record: &BackupRecord) -> u64 {
    record.artifacts.iter().map(crate::record::ArtifactRecord::stored_bytes).sum()
}

/// The word for an outcome.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "complete",
        Outcome::Incomplete => "incomplete",
    }
}

/// A backup that was made, for people.
pub fn backup_text(record: &BackupRecord, dry_run: bool) -> String {
    let took = record.finished.duration_since(record.started).unsigned_abs();
    let mut text = String::new();
    let what = if dry_run { "would be made" } else { outcome(record.outcome) };
    let _ = writeln!(
        text,
        "backup {} of job \"{}\" {what}: {} in {} artifact(s), {} at rest, {}",
        record.id,
        record.job,
        unit::bytes(trend::size(record)),
        record.artifacts.len(),
        unit::bytes(stored_bytes(record)),
        unit::duration(took)
    );
    text.push_str(&artifacts(record));
    text.push_str(&list("skipped", record.skipped.iter().map(|(what, why)| format!("{}: {}", printable(what), printable(why)))));
    text.push_str(&list("not captured", record.not_captured.iter().map(|what| printable(what))));
    text.push_str(&list("warning", record.warnings.iter().map(|what| printable(what))));
    text
}

fn artifacts(record: &BackupRecord) -> String {
    let mut table = Table::new(["artifact", "size", "at rest", "blake3"]).right([1, 2]);
    for artifact in record.artifacts.iter().take(MOST_ROWS) {
        let digest: String = artifact.blake3.chars().take(16).collect();
        table.row([artifact.name.to_string(), unit::bytes(artifact.size), unit::bytes(artifact.stored_bytes()), digest]);
    }
    let mut text = table.indented(2);
    more(&mut text, record.artifacts.len());
    text
}

fn more(text: &mut String, n: usize) {
    if n > MOST_ROWS {
        let _ = writeln!(text, "  … and {} more", n - MOST_ROWS);
    }
}

fn list(title: &str, lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = String::new();
    let n = lines.len();
    for line in lines.take(MOST_ROWS) {
        let _ = writeln!(text, "  {title}: {line}");
    }
    more(&mut text, n);
    text
}

/// The word for a record's standing.
pub fn standing(standing: &Standing) -> &'static str {
    match standing {
        Standing::Trusted => "trusted",
        Standing::UnknownSigner(_) => "unknown-signer",
        Standing::Forged(_) => "forged",
        Standing::Unreadable(_) => "unreadable",
    }
}

fn reason(at: &Standing) -> Option<String> {
    match at {
        Standing::Trusted => None,
        Standing::UnknownSigner(key) => Some(key.to_string()),
        Standing::Forged(reason) | Standing::Unreadable(reason) => Some(reason.clone()),
    }
}

/// One backup of `strongroom.list/1`.
pub fn listed_json(listed: &Listed) -> Value {
    let mut value = listed.record.as_ref().map_or_else(|| json!({ "id": listed.id, "job": listed.job }), summary_json);
    value["standing"] = standing(&listed.standing).into();
    value["reason"] = reason(&listed.standing).into();
    value["verified"] = listed
        .verified
        .iter()
        .map(|v| json!({ "at": clock::show(v.at), "depth": v.depth, "passed": v.passed, "findings": pairs(&v.findings) }))
        .collect();
    value
}

/// Backups, for people.
pub fn list_text(backups: &[Listed]) -> String {
    let mut table = Table::new(["id", "job", "finished", "size", "at rest", "outcome", "verified"]).right([3, 4]);
    let mut notes = String::new();
    for b in backups {
        let verified = b.verified.last().map_or_else(
            || "never".to_owned(),
            |v| format!("{} {} {}", clock::show(v.at), v.depth, if v.passed { "passed" } else { "FAILED" }),
        );
        let (finished, size, stored, shown) = match &b.record {
            Some(r) => (clock::show(r.finished), unit::bytes(trend::size(r)), unit::bytes(stored_bytes(r)), outcome(r.outcome)),
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned(), "-"),
        };
        let shown = match &b.standing {
            Standing::Trusted => shown.to_owned(),
            Standing::UnknownSigner(_) => format!("{shown}, unknown signer"),
            other => standing(other).to_owned(),
        };
        if let Some(why) = reason(&b.standing) {
            let _ = writeln!(notes, "{}: {} {}", b.id, standing(&b.standing).replace('-', " "), printable(&why));
        }
        table.row([b.id.to_string(), b.job.to_string(), finished, size, stored, shown, verified]);
    }
    format!("{}{notes}", table.indented(0))
}

/// One backup with all that its record says, for people.
pub fn show_text(listed: &Listed) -> String {
    let mut text = String::new();
    let Some(record) = &listed.record else {
        let _ = writeln!(text, "backup {} of job \"{}\": {} ({})", listed.id, listed.job, standing(&listed.standing), reason(&listed.standing).unwrap_or_default());
        return text;
    };
    text.push_str(&backup_text(record, false));
    let signer = match &listed.standing {
        Standing::UnknownSigner(key) => format!("unknown signer {key}"),
        other => standing(other).to_owned(),
    };
    let _ = writeln!(text, "  record: {signer}");
    let _ = writeln!(text, "  started {}, finished {}", clock::show(record.started), clock::show(record.finished));
    let _ = writeln!(text, "  plugin {} {} ({})", printable(&record.plugin.name), printable(&record.plugin.version), record.plugin.sha256);
    let _ = writeln!(text, "  host {} on {}", record.host.version, printable(&record.host.machine));
    if let Some(source) = &record.source_id {
        let _ = writeln!(text, "  source {}", printable(source));
    }
    text.push_str(&list("fact", record.facts.iter().map(|(name, value)| format!("{} = {}", printable(name), printable(value)))));
    for v in &listed.verified {
        let _ = writeln!(text, "  verified {}: depth {}, {}", clock::show(v.at), v.depth, if v.passed { "passed" } else { "FAILED" });
    }
    text
}

/// Checks, for people: what is wrong first, with causes and remedies.
pub fn checks_text(checks: &[Check]) -> String {
    let mut text = String::new();
    let rank = |outcome: CheckOutcome| match outcome {
        CheckOutcome::Failed => 0,
        CheckOutcome::Warned => 1,
        CheckOutcome::Skipped => 2,
        CheckOutcome::Passed => 3,
    };
    let mut sorted: Vec<_> = checks.iter().collect();
    sorted.sort_by_key(|check| rank(check.outcome));
    for check in sorted {
        let _ = writeln!(text, "{:<7} {}  {}", check_outcome(check.outcome), printable(&check.id), printable(&check.title));
        if !check.evidence.is_empty() {
            let _ = writeln!(text, "        {}", printable(&check.evidence));
        }
        if check.outcome != CheckOutcome::Passed {
            for cause in &check.causes {
                let _ = writeln!(text, "        cause: {}", printable(cause));
            }
            for remedy in &check.remedies {
                let _ = writeln!(text, "        try:   {}", printable(remedy));
            }
        }
    }
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let _ = writeln!(
        text,
        "{} passed, {} warned, {} failed, {} skipped",
        count(CheckOutcome::Passed),
        count(CheckOutcome::Warned),
        count(CheckOutcome::Failed),
        count(CheckOutcome::Skipped)
    );
    text
}

/// The word for a check's or step's outcome.
pub fn check_outcome(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Passed => "passed",
        CheckOutcome::Warned => "warned",
        CheckOutcome::Failed => "FAILED",
        CheckOutcome::Skipped => "skipped",
    }
}

/// Steps of a restore or a plan, for people.
pub fn steps_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let _ = write!(text, "{:<7} {} {}", check_outcome(step.outcome), printable(&step.action), printable(&step.target));
        let _ = if step.note.is_empty() { writeln!(text) } else { writeln!(text, ": {}", printable(&step.note)) };
    }
    text
}
