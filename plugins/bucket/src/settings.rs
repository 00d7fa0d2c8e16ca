//! Settings and options as `plugin.toml` describes them.

use serde::Deserialize;

/// The job's `settings`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Label of the bucket.
    pub bucket: String,
    /// Only keys that begin with this text.
    #[serde(default)]
    pub prefix: String,
    /// Globs of keys to leave out, with all beneath them.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What a socket, device or pipe means.
    #[serde(default)]
    pub special_files: SpecialFiles,
    /// How old the last backup may be.
    pub max_age_hours: Option<u64>,
}

/// What a socket, device or pipe means for a backup.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SpecialFiles {
    /// It is skipped, and the backup incomplete.
    #[default]
    Report,
    /// It is named as not captured.
    Ignore,
}

/// Options of a restore, and of the target of a verification.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Label of the bucket to restore into.
    pub to_bucket: Option<String>,
    /// Takes the place of the backup's prefix.
    pub to_prefix: Option<String>,
    /// Globs of keys to restore; everything when empty.
    pub include: Vec<String>,
    /// Globs of keys to leave out.
    pub exclude: Vec<String>,
    /// Replace what is there.
    pub overwrite: bool,
    /// Go on after an entry that could not be written.
    pub keep_going: bool,
}
