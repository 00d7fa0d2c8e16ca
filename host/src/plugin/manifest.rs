//! The manifest: what a plugin is and what it asks for (`plugin.toml`, custom section
//! `strongroom:manifest` at the outermost level of the component).
//!
//! Everything in it is the vendor's word: shown, compared, never trusted.

mod check;
mod effective;
mod narrow;
mod schema;
#[cfg(test)]
mod tests;

pub use effective::{UnknownCommand, missing_grants, unknown_commands};

use crate::error::{Error, Result};
use crate::policy::kube::{KubeGrant, KubeVerb};
use crate::policy::metrics::MetricsGrant;
use crate::policy::storage::BucketVerb;
use crate::policy::{Effect, Verb, When};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the custom section.
pub const SECTION: &str = "strongroom:manifest";

/// Longest manifest, in bytes: enough for some hundred requests, small enough to be read by people.
pub const MAX_BYTES: usize = 256 << 10;

/// A parsed manifest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PluginManifest {
    /// Name, a label such as `postgres`.
    pub name: String,
    /// Version, `major.minor.patch`.
    pub version: String,
    /// One line.
    pub summary: String,
    /// SPDX expression.
    pub licence: String,
    /// Versions of the contract that it can run on, such as `["0.1"]`.
    pub component: Vec<String>,
    /// Oldest host that it runs on.
    #[serde(default)]
    pub minimum_host: Option<String>,
    /// JSON Schema of the job's `settings`.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// JSON Schema of restore options.
    #[serde(default)]
    pub options: serde_json::Value,
    /// What it asks for, each with a reason.
    #[serde(default)]
    pub request: Requests,
}

impl PluginManifest {
    /// Parses the text of `plugin.toml`, which is also the text of the custom section.
    ///
    /// Errors: `Invalid`; one mistake is the message itself, several are its facts. Every mistake
    /// is found at once, unless the text is not TOML.
    pub fn parse(text: &str) -> Result<Self> {
        check::parse(text)
    }

    /// Whether a job's `settings` are as the manifest's schema says.
    ///
    /// Errors: `Invalid`, with the place (`settings.databases[0]`), what was expected and what was found.
    pub fn check_settings(&self, settings: &serde_json::Value) -> Result<()> {
        schema::validate("settings", &self.name, &self.settings, settings)
    }

    /// Whether restore options are as the manifest's schema says; see [`Self::check_settings`].
    pub fn check_options(&self, options: &serde_json::Value) -> Result<()> {
        schema::validate("options", &self.name, &self.options, options)
    }

    /// Whether this host speaks a version of the contract that the plugin can run on, and is new enough.
    pub fn check_host(&self) -> Result<()> {
        if !self.component.iter().any(|version| version == CONTRACT) {
            return Err(Error::invalid(format!("plugin \"{}\" does not run on this host's contract", self.name))
                .fact("expected", format!("strongroom:plugin {CONTRACT}"))
                .fact("got", self.component.join(", "))
                .hint("use a version of the plugin made for this host, or a host made for this plugin"));
        }
        let own = env!("CARGO_PKG_VERSION");
        if let Some(minimum) = &self.minimum_host
            && check::version_numbers(minimum) > check::version_numbers(own)
        {
            return Err(Error::invalid(format!("plugin \"{}\" needs a newer host", self.name))
                .fact("expected", format!("strongroom {minimum} or newer"))
                .fact("got", own));
        }
        Ok(())
    }
}

/// The version of the contract that this host speaks.
pub const CONTRACT: &str = "0.1";

/// What a plugin asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// Command lines.
    #[serde(default)]
    pub exec: Vec<ExecRequest>,
    /// Buckets.
    #[serde(default)]
    pub bucket: Vec<BucketRequest>,
    /// Clusters.
    #[serde(default)]
    pub kube: Vec<KubeRequest>,
    /// The artifacts of its own backups.
    #[serde(default)]
    pub artifacts: Option<ArtifactRequest>,
    /// A private scratch directory.
    #[serde(default)]
    pub scratch: Option<ScratchRequest>,
    /// Metrics.
    #[serde(default)]
    pub metrics: Option<MetricsRequest>,
}

/// A private scratch directory, for a component that imports WASI.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchRequest {
    /// Why.
    pub reason: String,
    /// What its files hold together at most, such as `64MiB`.
    pub bytes: String,
    /// Verbs it is for.
    pub verbs: BTreeSet<Verb>,
}

impl ScratchRequest {
    /// See `bytes`; 0 for what is no size, which a manifest that was checked does not hold.
    pub fn max_bytes(&self) -> u64 {
        crate::unit::parse_bytes(&self.bytes).unwrap_or_default()
    }
}

/// A proposed command line; `plugin approve` writes it out as a grant.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ExecRequest {
    /// Label that the code uses.
    pub name: String,
    /// Why, for a person who decides.
    pub reason: String,
    /// Program to look for, such as `pg_dump`.
    pub program: String,
    /// The rest has the same keys as a grant in the configuration.
    #[serde(flatten)]
    pub grant: RawExecGrant,
}

/// The keys that an exec request and an exec grant share, as written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RawExecGrant {
    /// Arguments with `{slot}` holes.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment with `{slot}` holes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Standard input: `{ text = "…", hold = true }`, `{ artifact = "pattern", made_by = "label" }` or `"plugin"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<RawStdin>,
    /// Slots: a pattern, `{ glob = "…" }`, `{ setting = "…" }`, with `max_bytes` and `max_count`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, RawSlot>,
    /// Names of secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Names of secrets that are given as files, by the variable that gets the path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_files: BTreeMap<String, String>,
    /// Whether its output is read by the plugin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inspect: bool,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
    /// Whether it changes something.
    pub effect: Option<Effect>,
    /// Changes only scratch places.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scratch: bool,
    /// Reading only a part of standard input is a success.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial_stdin: bool,
    /// The program fails by itself when its input ends too soon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detects_short_input: bool,
    /// Longest time without progress, such as `"10m"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Standard input as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum RawStdin {
    /// `"plugin"`.
    Word(String),
    /// A fixed text.
    Text {
        /// The text.
        text: String,
        /// Kept open until the process is dropped.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        hold: bool,
    },
    /// An artifact.
    Artifact {
        /// Pattern of its name.
        artifact: String,
        /// Label of the command that made it.
        made_by: String,
    },
}

/// A slot as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum RawSlot {
    /// An anchored regular expression.
    Pattern(String),
    /// The long form.
    Table {
        /// An anchored regular expression.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
        /// `*` stands for letters, digits, `_`, `.` and `-`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        glob: Option<String>,
        /// What the operator wrote in this setting of the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        setting: Option<String>,
        /// Longest value in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<usize>,
        /// How many values.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_count: Option<usize>,
    },
}

/// A bucket that it wants to work with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BucketRequest {
    /// The job's setting or restore option that names the bucket's label.
    pub setting: String,
    /// Why.
    pub reason: String,
    /// What it wants to do with it.
    pub may: BTreeSet<BucketVerb>,
    /// Whether it reads the bytes itself.
    #[serde(default)]
    pub inspect: bool,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Changes only scratch places.
    #[serde(default)]
    pub scratch: bool,
}

/// Clusters that it wants to work with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KubeRequest {
    /// The job's setting or restore option that names the cluster's label: a text, a list of them, or a
    /// table whose values they are.
    pub setting: String,
    /// Why.
    pub reason: String,
    /// What it wants to do with it.
    pub may: BTreeSet<KubeVerb>,
    /// Kinds as `group/Kind`; `*` is every kind that gives no power over the cluster.
    pub kinds: BTreeSet<String>,
    /// Whether it reads the bodies itself.
    #[serde(default)]
    pub inspect: bool,
    /// Whether it sees the values of Secrets.
    #[serde(default)]
    pub secret_data: bool,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Changes only scratch places.
    #[serde(default)]
    pub scratch: bool,
}

impl KubeRequest {
    /// The request as the grant that would cover it.
    pub fn as_grant(&self) -> KubeGrant {
        KubeGrant {
            may: self.may.clone(),
            kinds: self.kinds.clone(),
            namespaces: Vec::new(),
            names: Vec::new(),
            labels: BTreeMap::new(),
            inspect: self.inspect,
            secret_data: self.secret_data,
            when: When { verbs: self.verbs.clone(), effect: self.effect, scratch: self.scratch },
        }
    }
}

/// The artifacts of its own backups.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRequest {
    /// Why.
    pub reason: String,
    /// Patterns of the artifacts whose bytes it reads itself.
    #[serde(default)]
    pub inspect: Vec<String>,
}

/// Metrics that it writes, and that it asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsRequest {
    /// Why.
    pub reason: String,
    /// What names that it writes begin with.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Names that it asks Prometheus for.
    #[serde(default)]
    pub query: BTreeSet<String>,
    /// Verbs it is for; all unless it says so.
    #[serde(default = "MetricsGrant::all_verbs")]
    pub verbs: BTreeSet<Verb>,
}
