//! What a verb is asked for.

use crate::bindings::exports::strongroom::plugin::component as wit;
use crate::{Result, Timestamp, settings};
use serde::de::DeserializeOwned;

/// Asks for a backup.
#[derive(Clone, Debug)]
pub struct BackupRequest<S> {
    /// The job's `settings` table.
    pub settings: S,
    /// The last good backup of the job.
    pub previous: Option<Made>,
}

/// How deep a verification looks. That the stored bytes are those recorded, the host checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The component's own reader accepts the stored bytes.
    Contents,
    /// A restore into a scratch place succeeded, and what came back was compared with the facts.
    Restore,
}

/// Asks whether a backup can be restored.
#[derive(Clone, Debug)]
pub struct VerifyRequest<S, O> {
    /// The job's `settings` table as it is now.
    pub settings: S,
    /// The options of the target; defaults without one.
    pub options: O,
    /// How deep to look.
    pub depth: Depth,
    /// The backup in scope.
    pub backup: Made,
}

/// Asks to bring a backup back.
#[derive(Clone, Debug)]
pub struct RestoreRequest<S, O> {
    /// The job's `settings` table as it is now.
    pub settings: S,
    /// What the operator chose for this restore.
    pub options: O,
    /// Report what would be done, and change nothing. The host withholds every grant that changes
    /// something.
    pub plan_only: bool,
    /// The backup in scope.
    pub backup: Made,
}

/// Asks what would keep backups from working.
#[derive(Clone, Debug)]
pub struct DiagnoseRequest<S> {
    /// The job's `settings` table.
    pub settings: S,
    /// The last good backup of the job.
    pub last: Option<Made>,
}

/// A backup that exists, as its signed record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub backup_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// The version of the plugin that made it.
    pub plugin_version: String,
    /// The job's settings then, as JSON; see [`Made::settings`].
    pub settings_json: String,
    /// Identity of what was backed up.
    pub source_id: Option<String>,
    /// What was found worth recording.
    pub facts: Vec<(String, String)>,
    /// What was to be captured and was not, and why.
    pub skipped: Vec<(String, String)>,
    /// What the backup kept for the next one.
    pub state: String,
}

impl Made {
    /// The job's settings then. An older version of the plugin may have written them.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S> {
        settings::parse("settings", &self.settings_json)
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The facts whose names begin with `prefix`: the rest of the name, and the value.
    pub fn facts_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.facts.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }
}

impl From<wit::Made> for Made {
    fn from(made: wit::Made) -> Self {
        let wit::Made { backup_id, created_ms, plugin_version, settings, source_id, facts, skipped, state } = made;
        let created = Timestamp { ms: created_ms };
        Self { backup_id, created, plugin_version, settings_json: settings, source_id, facts, skipped, state }
    }
}
