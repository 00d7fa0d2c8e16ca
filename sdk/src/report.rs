//! What a verb answers: the report of a backup, checks, and steps of a restore.

use crate::bindings::exports::strongroom::plugin::component as wit;
use crate::bindings::strongroom::plugin::{run as wit_run, types};

/// The outcome of a check or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Worth a look.
    Warned,
    /// Not as it should be.
    Failed,
    /// Could not be looked at, or was left out.
    Skipped,
}

impl Outcome {
    fn into_wit(self) -> types::Outcome {
        match self {
            Self::Passed => types::Outcome::Passed,
            Self::Warned => types::Outcome::Warned,
            Self::Failed => types::Outcome::Failed,
            Self::Skipped => types::Outcome::Skipped,
        }
    }
}

/// What a backup says of itself besides its artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Report {
    source_id: Option<String>,
    facts: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
    not_captured: Vec<String>,
    needs: Vec<String>,
    state: String,
}

impl Report {
    /// What the host takes of facts, in bytes of names and values together.
    pub const MAX_FACTS_BYTES: usize = 64 << 10;

    /// A report that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Identity of what was backed up, such as a database's system identifier. When it changes,
    /// the host asks the operator before old backups may be rotated out.
    pub fn source_id(mut self, id: impl Into<String>) -> Self {
        self.source_id = Some(id.into());
        self
    }

    /// A fact worth recording: a version, a position, a count. At most
    /// [`Report::MAX_FACTS_BYTES`] in all.
    #[expect(clippy::needless_pass_by_value, reason = "a fact is given away; `&` before every number is noise")]
    pub fn fact(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.facts.push((name.into(), value.to_string()));
        self
    }

    /// Bytes that the facts take so far.
    pub fn facts_bytes(&self) -> usize {
        self.facts.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Something that was to be captured and was not, and why: the backup is incomplete.
    pub fn skipped(mut self, what: impl Into<String>, why: impl Into<String>) -> Self {
        self.skipped.push((what.into(), why.into()));
        self
    }

    /// What this method never holds. Said wherever the backup is shown; does not make it incomplete.
    pub fn not_captured(mut self, what: impl Into<String>) -> Self {
        self.not_captured.push(what.into());
        self
    }

    /// Another backup that a restore of this one needs too; it is kept as long as this one.
    pub fn needs(mut self, backup_id: impl Into<String>) -> Self {
        self.needs.push(backup_id.into());
        self
    }

    /// Kept for the next backup of the same job. At most 64 KiB; more belongs in an artifact.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = state.into();
        self
    }

    pub(crate) fn into_wit(self) -> wit::BackupReport {
        let Self { source_id, facts, skipped, not_captured, needs, state } = self;
        wit::BackupReport { source_id, facts, skipped, not_captured, needs, state }
    }
}

/// A finding of `verify` or `diagnose`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Check {
    /// Stable, such as `postgres.archive.reads`.
    pub id: String,
    /// What was looked at.
    pub title: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was measured, with its unit, and the threshold it was held against.
    pub evidence: String,
    /// Likely causes, most likely first.
    pub causes: Vec<String>,
    /// What to do next, as commands where there are any.
    pub remedies: Vec<String>,
}

impl Check {
    /// A check with this outcome.
    pub fn new(outcome: Outcome, id: impl Into<String>, title: impl Into<String>) -> Self {
        let (id, title) = (id.into(), title.into());
        Self { id, title, outcome, evidence: String::new(), causes: Vec::new(), remedies: Vec::new() }
    }

    /// As it should be.
    pub fn passed(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self::new(Outcome::Passed, id, title)
    }

    /// Worth a look.
    pub fn warned(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self::new(Outcome::Warned, id, title)
    }

    /// Not as it should be.
    pub fn failed(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, id, title)
    }

    /// Could not be looked at; the evidence says why.
    pub fn skipped(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, id, title)
    }

    /// What was measured, with its unit, and the threshold.
    pub fn evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }

    /// A likely cause; the most likely first.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// What to do next, best as a command.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    pub(crate) fn into_wit(self) -> wit::Check {
        let Self { id, title, outcome, evidence, causes, remedies } = self;
        wit::Check { id, title, outcome: outcome.into_wit(), evidence, causes, remedies }
    }
}

/// One thing that a restore did, or in a plan would do. It counts once it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a step counts once it is reported"]
pub struct Step {
    /// What was done, such as `create database`.
    pub action: String,
    /// To what.
    pub target: String,
    /// What came of it.
    pub outcome: Outcome,
    /// For one that failed: what the target holds now, and how to go on or clean up.
    pub note: String,
}

impl Step {
    /// A step with this outcome.
    pub fn new(outcome: Outcome, action: impl Into<String>, target: impl Into<String>) -> Self {
        Self { action: action.into(), target: target.into(), outcome, note: String::new() }
    }

    /// Done, or in a plan: would be done.
    pub fn passed(action: impl Into<String>, target: impl Into<String>) -> Self {
        Self::new(Outcome::Passed, action, target)
    }

    /// Done, but not quite as recorded.
    pub fn warned(action: impl Into<String>, target: impl Into<String>) -> Self {
        Self::new(Outcome::Warned, action, target)
    }

    /// Not done; the note says what the target holds now.
    pub fn failed(action: impl Into<String>, target: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, action, target)
    }

    /// Left out on purpose; the note says why.
    pub fn skipped(action: impl Into<String>, target: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, action, target)
    }

    /// Why, or what the target holds now and how to go on.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Tells the host: shown, counted and kept even if the plugin then fails.
    pub fn report(self) {
        let Self { action, target, outcome, note } = self;
        wit_run::report_step(&types::Step { action, target, outcome: outcome.into_wit(), note });
    }
}
