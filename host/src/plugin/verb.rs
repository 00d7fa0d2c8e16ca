//! The four verbs of a plugin: what each is asked and answers, in the host's own terms.

use super::bindings::exports::strongroom::plugin::component as wit;
use super::bindings::strongroom::plugin::types::Outcome;
use super::capability::run::outcome;
use super::context::Check;
use super::guard::Guard;
use super::speech;
use crate::error::{Error, Result};
use crate::unit;
use serde_json::Value;

/// Most bytes of all facts of a backup, and of its state.
const MAX_FACTS_BYTES: usize = 64 << 10;
/// Most bytes of all that a backup skipped: paths and reasons, in the signed record of the backup.
const MAX_SKIPPED_BYTES: usize = 1 << 20;
/// Most checks of one verification or diagnosis.
const MAX_CHECKS: usize = 10_000;
/// Most causes or remedies of one check.
const MAX_ADVICE: usize = 32;

/// A backup that exists, as its signed record says.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its id.
    pub backup_id: String,
    /// When its run started, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// Version of the plugin that made it.
    pub plugin_version: String,
    /// The job's settings then.
    pub settings: Value,
    /// See [`BackupReport::source_id`].
    pub source_id: Option<String>,
    /// See [`BackupReport::facts`].
    pub facts: Vec<(String, String)>,
    /// See [`BackupReport::skipped`].
    pub skipped: Vec<(String, String)>,
    /// See [`BackupReport::state`].
    pub state: String,
}

/// What `backup` is asked.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The job's settings, checked against the manifest's schema.
    pub settings: Value,
    /// The last complete backup of the job.
    pub previous: Option<Made>,
}

/// What `backup` answers. Texts are the plugin's, as it gave them, within bounds: escape before showing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Identity of what was backed up.
    pub source_id: Option<String>,
    /// Facts worth recording; at most 64 KiB in all.
    pub facts: Vec<(String, String)>,
    /// What was to be captured and was not, and why. Not empty means the backup is incomplete.
    pub skipped: Vec<(String, String)>,
    /// What this method never holds.
    pub not_captured: Vec<String>,
    /// Backups that a restore of this one needs too.
    pub needs: Vec<String>,
    /// Kept for the next backup of the job; at most 64 KiB.
    pub state: String,
}

/// How deep a verification by the plugin goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The component's own reader accepts the stored bytes.
    Contents,
    /// A restore into a scratch place.
    Restore,
}

/// What `verify` is asked.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The job's settings as they are now.
    pub settings: Value,
    /// How deep.
    pub depth: Depth,
    /// The backup.
    pub backup: Made,
    /// Options of the target, for [`Depth::Restore`].
    pub options: Value,
}

/// What `restore` is asked. Whether it only plans is the occasion of the run's policy.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The job's settings.
    pub settings: Value,
    /// Options of this restore, checked against the manifest's schema.
    pub options: Value,
    /// The backup.
    pub backup: Made,
}

/// What `diagnose` is asked.
#[derive(Clone, Debug)]
pub struct DiagnoseRequest {
    /// The job's settings.
    pub settings: Value,
    /// The last backup of the job.
    pub last: Option<Made>,
}

impl From<Made> for wit::Made {
    fn from(made: Made) -> Self {
        Self {
            backup_id: made.backup_id,
            created_ms: made.created_ms,
            plugin_version: made.plugin_version,
            settings: made.settings.to_string(),
            source_id: made.source_id,
            facts: made.facts,
            skipped: made.skipped,
            state: made.state,
        }
    }
}

impl From<BackupRequest> for wit::BackupRequest {
    fn from(request: BackupRequest) -> Self {
        Self { settings: request.settings.to_string(), previous: request.previous.map(Into::into) }
    }
}

impl From<VerifyRequest> for wit::VerifyRequest {
    fn from(request: VerifyRequest) -> Self {
        Self {
            settings: request.settings.to_string(),
            depth: match request.depth {
                Depth::Contents => wit::Depth::Contents,
                Depth::Restore => wit::Depth::Restore,
            },
            backup: request.backup.into(),
            options: request.options.to_string(),
        }
    }
}

impl RestoreRequest {
    pub(super) fn into_wit(self, plan_only: bool) -> wit::RestoreRequest {
        wit::RestoreRequest {
            settings: self.settings.to_string(),
            options: self.options.to_string(),
            plan_only,
            backup: self.backup.into(),
        }
    }
}

impl From<DiagnoseRequest> for wit::DiagnoseRequest {
    fn from(request: DiagnoseRequest) -> Self {
        Self { settings: request.settings.to_string(), last: request.last.map(Into::into) }
    }
}

impl BackupReport {
    pub(super) fn from_guest(report: wit::BackupReport) -> Result<Self> {
        let facts_bytes = report.facts.iter().map(|(key, value)| key.len() + value.len()).sum();
        let skipped_bytes = report.skipped.iter().map(|(what, why)| what.len() + why.len()).sum();
        check_bytes("facts", facts_bytes, MAX_FACTS_BYTES)?;
        check_bytes("skipped", skipped_bytes, MAX_SKIPPED_BYTES)?;
        check_bytes("state", report.state.len(), MAX_FACTS_BYTES)?;
        check_bytes("source-id", report.source_id.as_ref().map_or(0, String::len), MAX_FACTS_BYTES)?;
        check_bytes("not-captured", report.not_captured.iter().map(String::len).sum(), MAX_FACTS_BYTES)?;
        check_bytes("needs", report.needs.iter().map(String::len).sum(), MAX_FACTS_BYTES)?;
        Ok(Self {
            source_id: report.source_id,
            facts: report.facts,
            skipped: report.skipped,
            not_captured: report.not_captured,
            needs: report.needs,
            state: report.state,
        })
    }
}

fn check_bytes(what: &str, got: usize, max: usize) -> Result<()> {
    if got > max {
        return Err(Error::limit(format!("the plugin's report holds too much under \"{what}\""))
            .fact("expected", format!("at most {}", unit::bytes(max as u64)))
            .fact("got", unit::bytes(got as u64))
            .hint("more belongs in an artifact; this is for the plugin's vendor to mend"));
    }
    Ok(())
}

/// Checks as the guest gave them, cut and escaped; one that failed because the host could not do
/// something says why it could not.
pub(super) fn checks_from_guest(checks: Vec<wit::Check>, guard: &Guard) -> Result<Vec<Check>> {
    if checks.len() > MAX_CHECKS {
        return Err(Error::limit("the plugin reported too many checks")
            .fact("expected", format!("at most {MAX_CHECKS}"))
            .fact("got", checks.len().to_string()));
    }
    let check = |check: wit::Check| Check {
        id: speech::line(&check.id),
        title: speech::line(&check.title),
        outcome: outcome(check.outcome),
        evidence: match check.outcome {
            Outcome::Failed => guard.explained(&check.evidence),
            _ => speech::line(&check.evidence),
        },
        causes: speech::lines(check.causes, MAX_ADVICE),
        remedies: speech::lines(check.remedies, MAX_ADVICE),
    };
    Ok(checks.into_iter().map(check).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_bounded_by_a_mebibyte() {
        let report = |n: usize| wit::BackupReport {
            source_id: None,
            facts: vec![],
            skipped: vec![("a".repeat(n / 2), "b".repeat(n / 2))],
            not_captured: vec![],
            needs: vec![],
            state: String::new(),
        };
        BackupReport::from_guest(report(MAX_SKIPPED_BYTES)).unwrap();
        let error = BackupReport::from_guest(report(MAX_SKIPPED_BYTES + 2)).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Limit);
        assert!(error.message().contains("\"skipped\""), "{error}");
    }
}
