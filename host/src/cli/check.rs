//! Prints the findings of `verify` and `diagnose`, and their JSON.

use super::exit::Exit;
use super::output::Output;
use super::{table, vendor};
use crate::plugin::context::{Check, CheckOutcome};
use serde::Serialize;

/// Findings as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Findings<'a> {
    /// The job.
    pub job: &'a str,
    /// The backup that was looked at; `null` where there was none.
    pub backup: Option<&'a str>,
    /// How deep, of a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<crate::config::Depth>,
    /// The worst of the checks: a script may look at this alone.
    pub outcome: CheckOutcome,
    /// The checks in their order.
    pub checks: &'a [Check],
}

impl<'a> Findings<'a> {
    /// The findings about a job, and a backup of it.
    pub fn new(
        job: &'a str,
        backup: Option<&'a str>,
        depth: Option<crate::config::Depth>,
        checks: &'a [Check],
    ) -> Self {
        let has = |outcome| checks.iter().any(|check| check.outcome == outcome);
        let outcome = [CheckOutcome::Failed, CheckOutcome::Warned].into_iter().find(|outcome| has(*outcome));
        Self { job, backup, depth, outcome: outcome.unwrap_or(CheckOutcome::Passed), checks }
    }

    /// Prints them and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::of_checks(self.checks))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for check in self.checks {
            text.push_str(&format!("{:<7} {}\n", word(check.outcome), vendor::line(&check.title, 256)));
            let mut pairs = Vec::new();
            if !check.evidence.is_empty() {
                pairs.push(("found", cut(&check.evidence)));
            }
            if matches!(check.outcome, CheckOutcome::Failed | CheckOutcome::Warned) {
                pairs.extend(check.causes.iter().map(|cause| ("cause", cut(cause))));
                pairs.extend(check.remedies.iter().map(|remedy| ("do", cut(remedy))));
                pairs.push(("check", cut(&check.id)));
            }
            text.push_str(&table::pairs(pairs, "        "));
        }
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        text.push_str(&format!(
            "{} passed, {} warned, {} failed, {} skipped\n",
            count(CheckOutcome::Passed),
            count(CheckOutcome::Warned),
            count(CheckOutcome::Failed),
            count(CheckOutcome::Skipped)
        ));
        text
    }
}

/// The vendor's text, at most 1 KiB of it; lines stay lines.
fn cut(text: &str) -> String {
    let mut end = text.len().min(vendor::MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

/// The outcome as it stands at the beginning of a line.
pub fn word(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Passed => "ok",
        CheckOutcome::Warned => "warning",
        CheckOutcome::Failed => "FAILED",
        CheckOutcome::Skipped => "skipped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_tell_evidence_always_and_causes_where_they_matter() {
        let check = |title: &str, outcome| Check {
            id: "host.disk".to_owned(),
            title: title.to_owned(),
            outcome,
            evidence: "3.1 GiB free, at least 5 GiB expected".to_owned(),
            causes: vec!["the cache grew".to_owned()],
            remedies: vec!["du -sh /var/cache\nrm -r /var/cache/x".to_owned()],
        };
        let checks = [
            check("disk of the state directory", CheckOutcome::Passed),
            check("disk of the cache", CheckOutcome::Failed),
        ];
        let findings = Findings::new("orders", None, None, &checks);
        assert_eq!(findings.outcome, CheckOutcome::Failed);
        insta::assert_snapshot!(findings.text(), @r"
        ok      disk of the state directory
                found: 3.1 GiB free, at least 5 GiB expected
        FAILED  disk of the cache
                found: 3.1 GiB free, at least 5 GiB expected
                cause: the cache grew
                do:    du -sh /var/cache
                       rm -r /var/cache/x
                check: host.disk
        1 passed, 0 warned, 1 failed, 0 skipped
        ");
    }
}
