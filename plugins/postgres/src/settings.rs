//! What the operator sets: the job's settings, and the options of a restore or a target.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The job's `settings` table; `plugin.toml` describes each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub(crate) databases: Option<Vec<String>>,
    pub(crate) maintenance_database: String,
    pub(crate) parallel: usize,
    pub(crate) lock_wait_timeout_seconds: u64,
    pub(crate) count_table_seconds: u64,
    pub(crate) count_seconds: Option<u64>,
    pub(crate) max_age_hours: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            databases: None,
            maintenance_database: "postgres".to_owned(),
            parallel: 2,
            lock_wait_timeout_seconds: 300,
            count_table_seconds: 60,
            count_seconds: None,
            max_age_hours: 24,
        }
    }
}

/// The options of a restore and of a target; `plugin.toml` describes each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    pub(crate) databases: Option<Vec<String>>,
    pub(crate) rename: BTreeMap<String, String>,
    pub(crate) overwrite: bool,
    pub(crate) with_roles: bool,
    pub(crate) update_roles: bool,
    pub(crate) tablespaces: BTreeMap<String, String>,
    pub(crate) skip_tablespaces: bool,
    pub(crate) analyze: bool,
    pub(crate) scratch: Scratch,
}

/// Where a verification restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scratch {
    /// A server of its own in the run's scratch directory.
    #[default]
    Server,
    /// A database of its own on the target.
    Database,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            databases: None,
            rename: BTreeMap::new(),
            overwrite: false,
            with_roles: true,
            update_roles: false,
            tablespaces: BTreeMap::new(),
            skip_tablespaces: false,
            analyze: true,
            scratch: Scratch::Server,
        }
    }
}
