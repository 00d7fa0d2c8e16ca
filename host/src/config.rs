//! Configuration: `strongroom.toml` as written, checked as a whole, and as meant.

use crate::exec::RunIn;
use crate::id::Label;
use crate::plugin::limits::Limits;
use crate::policy::Grants;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The configuration as meant: ids parsed, defaults filled, references known to resolve.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Public keys of hosts whose records are believed, besides this host's own.
    pub trusted_hosts: Vec<String>,
    /// Stores by label.
    pub stores: BTreeMap<Label, StoreConfig>,
    /// Buckets by label.
    pub buckets: BTreeMap<Label, BucketConfig>,
    /// Plugins by label.
    pub plugins: BTreeMap<Label, PluginConfig>,
    /// Places to restore into by label.
    pub targets: BTreeMap<Label, TargetConfig>,
    /// Jobs by label.
    pub jobs: BTreeMap<Label, JobConfig>,
}

/// A secret by reference; the text is never in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "PATH" }`; a trailing newline is not part of it.
    File(PathBuf),
}

/// `[store.x]`
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Where it is.
    pub place: StorePlace,
    /// `recipients`: age public keys; none and `encryption = "off"` means bare zstd.
    pub recipients: Vec<String>,
    /// `encryption = "off"`.
    pub encrypted: bool,
    /// `identity`: needed only to read.
    pub identity: Option<SecretRef>,
    /// `level`: zstd level, 1 to 19; 2 unless set.
    pub level: i32,
    /// `part_bytes`, `parts_per_segment`: 8 MiB and 950 unless set.
    pub part_bytes: usize,
    /// See `part_bytes`.
    pub parts_per_segment: u32,
    /// `parts_in_flight`: 4 unless set.
    pub parts_in_flight: usize,
}

/// Where a store is.
#[derive(Clone, Debug)]
pub enum StorePlace {
    /// `type = "local"`, `path`.
    Local {
        /// The directory.
        path: PathBuf,
    },
    /// `type = "s3"`.
    S3(S3Config),
}

/// `type = "s3"` of a store.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// `bucket`.
    pub bucket: String,
    /// `prefix`, without slashes at its ends.
    pub prefix: String,
    /// `region`; `us-east-1` unless set.
    pub region: String,
    /// `endpoint`, for servers other than AWS.
    pub endpoint: Option<String>,
    /// `path_style`; true when an endpoint is set.
    pub path_style: bool,
    /// `access_key`; the platform's standard chain unless set.
    pub access_key: Option<SecretRef>,
    /// `secret_key`.
    pub secret_key: Option<SecretRef>,
    /// `session_token`.
    pub session_token: Option<SecretRef>,
}

/// `[bucket.x]`
#[derive(Clone, Debug)]
pub enum BucketConfig {
    /// `type = "local"`, `path`.
    Local {
        /// Root of the tree.
        path: PathBuf,
    },
}

/// `[plugin.x]`
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// `source`: path of the component.
    pub source: PathBuf,
    /// `sha256`: the digest that was approved; without it nothing runs.
    pub sha256: Option<String>,
    /// `grant`.
    pub grants: Grants,
    /// `limits`.
    pub limits: Limits,
}

/// `[target.x]`
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// `run_in`; this machine unless set.
    pub run_in: RunIn,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `secrets`.
    pub secrets: BTreeMap<String, SecretRef>,
    /// `options`: restore options of this place, below those of the command line.
    pub options: serde_json::Value,
}

/// `[job.x]`
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// `plugin`.
    pub plugin: Label,
    /// `store`.
    pub store: Label,
    /// `run_in`.
    pub run_in: RunIn,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `secrets`.
    pub secrets: BTreeMap<String, SecretRef>,
    /// `settings`, checked against the plugin's schema when the job runs.
    pub settings: serde_json::Value,
    /// `verify.depth` and `verify.target`: what `strongroom verify` does unless told otherwise.
    pub verify: VerifyConfig,
    /// `objective`: how old the last good backup may be before `diagnose` fails.
    pub objective: Option<Duration>,
}

/// `verify = { … }` of a job.
#[derive(Clone, Debug, Default)]
pub struct VerifyConfig {
    /// `depth`.
    pub depth: Option<String>,
    /// `target`.
    pub target: Option<Label>,
    /// `on_source`.
    pub on_source: bool,
}
