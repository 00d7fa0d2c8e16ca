//! Configuration: `strongroom.toml` as written, checked as a whole, and as meant.
//!
//! Two levels: `read` knows shapes (the table of keys in [`key`]), the rest knows meanings. Below
//! this module nothing checks a value again. No secret is ever part of a [`Config`], only where to
//! find it; [`secret`] fetches it as late as possible.

pub mod ceiling;
mod cluster;
pub mod diff;
pub mod edit;
pub mod environment;
mod fields;
pub mod file;
mod grant;
mod job;
pub mod key;
pub mod metrics;
pub mod mistake;
pub mod narrow;
pub mod place;
mod plugin;
mod read;
pub mod schema;
pub mod secret;
mod sections;
mod store;
#[cfg(test)]
mod tests;

pub use cluster::{ClusterConfig, CredentialRefs, Identity};
pub use metrics::{MetricsConfig, MetricsServer};
pub use sections::Sections;
pub use store::{S3Config, StoreConfig, StorePlace};

use crate::error::{Error, Result};
use crate::exec::RunIn;
use crate::id::Label;
use crate::plugin::Trust;
use crate::plugin::limits::Limits;
use crate::plugin::signature::TrustedKey;
use crate::policy::kube::KubeGrant;
use crate::policy::narrowing::Narrowing;
use crate::policy::{Grants, Verb};
use crate::run::retention::Keep;
use ceiling::Ceilings;
use fields::Fields;
use jiff::tz::TimeZone;
use mistake::Mistakes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration as meant: ids parsed, defaults filled, references known to resolve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Public keys of hosts whose records are believed, besides this host's own.
    pub trusted_hosts: Vec<String>,
    /// Whose signatures on plugins count, and what never runs; ceilings included.
    pub trust: Trust,
    /// What is over every grant.
    pub ceilings: Ceilings,
    /// Stores by label.
    pub stores: BTreeMap<Label, StoreConfig>,
    /// Buckets by label.
    pub buckets: BTreeMap<Label, BucketConfig>,
    /// Clusters by label.
    pub clusters: BTreeMap<Label, ClusterConfig>,
    /// Plugins by label.
    pub plugins: BTreeMap<Label, PluginConfig>,
    /// Places to restore into by label.
    pub targets: BTreeMap<Label, TargetConfig>,
    /// Jobs by label.
    pub jobs: BTreeMap<Label, JobConfig>,
    /// `metrics`: where metrics go.
    pub metrics: MetricsConfig,
    /// `audit.keep`: how long logs of what plugins did are kept at least.
    pub audit_keep: Duration,
    /// The text of every section, such as `job.orders`, for the audit log to compare.
    pub sections: Sections,
    /// What is allowed and yet worth a word, such as a store with one recipient only.
    pub warnings: Mistakes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            trusted_hosts: Vec::new(),
            trust: Trust::default(),
            ceilings: Ceilings::default(),
            stores: BTreeMap::new(),
            buckets: BTreeMap::new(),
            clusters: BTreeMap::new(),
            plugins: BTreeMap::new(),
            targets: BTreeMap::new(),
            jobs: BTreeMap::new(),
            metrics: MetricsConfig::default(),
            audit_keep: crate::audit::KEEP,
            sections: Sections::default(),
            warnings: Mistakes::default(),
        }
    }
}

/// A secret by reference; the text is never in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "PATH" }`; a trailing newline is not part of it.
    File(PathBuf),
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
    /// `sha256`: the digest that was approved, in lower case; without it nothing runs.
    pub sha256: Option<String>,
    /// `signature`: where its signature lies, if it has one.
    pub signature: PathBuf,
    /// `trusted_keys`: the only keys for this plugin.
    pub trusted_keys: Option<Vec<TrustedKey>>,
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
    /// `grants`: those of the plugin that hold in this job; all unless set.
    pub grants: Option<Narrowing>,
    /// `backup`, `verify`, `restore` and `diagnose`: what is different in one verb.
    pub verbs: BTreeMap<Verb, VerbConfig>,
    /// `settings`, checked against the plugin's schema when the job runs.
    pub settings: serde_json::Value,
    /// `verify.depth` and `verify.target`: what `strongroom verify` does unless told otherwise.
    pub verify: VerifyConfig,
    /// `objective`: how old the last good backup may be before `diagnose` fails.
    pub objective: Option<Duration>,
    /// `keep`: which backups `prune` keeps.
    pub keep: Option<Keep>,
    /// `timezone` of the periods of `keep`; UTC unless set.
    pub timezone: TimeZone,
}

/// What is different in one verb of a job.
#[derive(Clone, Debug, Default)]
pub struct VerbConfig {
    /// `env`: laid over the job's.
    pub env: BTreeMap<String, String>,
    /// `secrets`: laid over the job's.
    pub secrets: BTreeMap<String, SecretRef>,
    /// `grants`: those that hold in this verb, of those that hold in the job.
    pub grants: Option<Narrowing>,
}

/// `verify = { … }` of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyConfig {
    /// `depth`; `contents` unless set.
    pub depth: Depth,
    /// `target`.
    pub target: Option<Label>,
    /// `on_source`.
    pub on_source: bool,
}

/// How deep a verification looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// The bytes at rest are those recorded; needs neither key nor plugin.
    Stored,
    /// Besides, the component's own reader accepts them.
    #[default]
    Contents,
    /// Besides, a restore into a scratch place succeeds and is compared with the recorded facts.
    Restore,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// Errors: `NotFound` and `Denied` of the file itself (also when others can write it);
    /// `Invalid` with [`Mistakes`] as its source, which holds every mistake of the file at once.
    pub fn load(path: &Path, ceilings: &Ceilings) -> Result<Self> {
        let text = file::read_guarded(path)?;
        let base = file::directory_of(path)?;
        Self::parse_under(&text, path, &base, ceilings)
    }

    /// Checks the text of a configuration that no ceiling is over: for tests and tools.
    ///
    /// Errors: as [`Self::parse_under`].
    pub fn parse(text: &str, name: &Path, base: &Path) -> Result<Self> {
        Self::parse_under(text, name, base, &Ceilings::none())
    }

    /// Checks the text of a configuration. `name` is the file as the operator named it, `base` the
    /// absolute directory that relative paths start from. No I/O, but for the system's time zones.
    ///
    /// Errors: as [`Self::load`], without those of the file.
    pub fn parse_under(text: &str, name: &Path, base: &Path, ceilings: &Ceilings) -> Result<Self> {
        let shown = name.display().to_string();
        let mut meaning = Meaning {
            base,
            ceilings: ceilings.clone(),
            bucket_paths: BTreeMap::new(),
            servers: BTreeMap::new(),
            mistakes: Mistakes::new(&shown, text),
            warnings: Mistakes::new(&shown, text),
        };
        let root = read::read(text, &key::ROOT, &mut meaning.mistakes);
        let mut config = meaning.config(&root);
        let mistakes = meaning.mistakes.finish();
        if !mistakes.is_empty() {
            return Err(Error::invalid(format!("the configuration \"{shown}\" is not valid")).because(mistakes));
        }
        config.sections = Sections::of(text);
        config.path = name.to_owned();
        config.warnings = meaning.warnings.finish();
        config.ceilings = ceilings.clone();
        Ok(config)
    }

    /// Whom to believe about a plugin: its own keys or the file's, and nothing that a ceiling forbids.
    pub fn trust(&self, plugin: &PluginConfig) -> Trust {
        let mut trust = self.trust.clone();
        if let Some(keys) = &plugin.trusted_keys {
            trust.keys.clone_from(keys);
        }
        self.ceilings.narrow(trust)
    }

    /// The job of this name.
    ///
    /// Errors: `Invalid`, with the nearest known name.
    pub fn job(&self, name: &str) -> Result<(&Label, &JobConfig)> {
        self.find("job", &self.jobs, name)
    }

    /// The store of this name; errors like [`Self::job`].
    pub fn store(&self, name: &str) -> Result<(&Label, &StoreConfig)> {
        self.find("store", &self.stores, name)
    }

    /// The plugin of this name; errors like [`Self::job`].
    pub fn plugin(&self, name: &str) -> Result<(&Label, &PluginConfig)> {
        self.find("plugin", &self.plugins, name)
    }

    /// The cluster of this name; errors like [`Self::job`].
    pub fn cluster(&self, name: &str) -> Result<(&Label, &ClusterConfig)> {
        self.find("cluster", &self.clusters, name)
    }

    /// The target of this name; errors like [`Self::job`].
    pub fn target(&self, name: &str) -> Result<(&Label, &TargetConfig)> {
        self.find("target", &self.targets, name)
    }

    fn find<'a, T>(&self, what: &str, map: &'a BTreeMap<Label, T>, name: &str) -> Result<(&'a Label, &'a T)> {
        if let Some(found) = map.iter().find(|(label, _)| label.as_str() == name) {
            return Ok(found);
        }
        let known = if map.is_empty() { "none".to_owned() } else { list(map.keys()) };
        let error = Error::invalid(format!("there is no {what} \"{}\"", read::escape(name)))
            .fact("expected", format!("a {what} of \"{}\": {known}", self.path.display()));
        Err(match read::nearest(name, map.keys().map(Label::as_str)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!("add [{what}.{}] to \"{}\"", read::escape(name), self.path.display())),
        })
    }
}

fn list<'a>(labels: impl Iterator<Item = &'a Label>) -> String {
    labels.map(Label::as_str).collect::<Vec<_>>().join(", ")
}

/// From shapes to meanings, with everything that is wrong on the way.
struct Meaning<'a> {
    base: &'a Path,
    ceilings: Ceilings,
    /// Roots of the buckets by label: a ceiling compares places.
    bucket_paths: BTreeMap<String, PathBuf>,
    /// Addresses of the clusters that say them here, by label.
    servers: BTreeMap<String, String>,
    mistakes: Mistakes,
    warnings: Mistakes,
}

impl Meaning<'_> {
    fn config(&mut self, root: &Fields) -> Config {
        let mut config = Config { trusted_hosts: self.trusted_hosts(root), ..Config::default() };
        config.trust = Trust {
            keys: ceiling::trusted_keys(root, &mut self.mistakes),
            required: root.text("signatures") == Some("required"),
            revoked: ceiling::revoked(root, &mut self.mistakes),
        };
        for (label, fields) in labelled(root, "store") {
            config.stores.extend(self.store(fields).map(|store| (label, store)));
        }
        for (label, fields) in labelled(root, "bucket") {
            config.buckets.extend(self.bucket(fields).map(|bucket| (label, bucket)));
        }
        let place = |(label, BucketConfig::Local { path }): (&Label, &BucketConfig)| (label.to_string(), path.clone());
        self.bucket_paths = config.buckets.iter().map(place).collect();
        for (label, fields) in labelled(root, "cluster") {
            config.clusters.extend(self.cluster(fields).map(|cluster| (label, cluster)));
        }
        for (label, cluster) in &config.clusters {
            if let crate::cluster::Way::Address { server, .. } = &cluster.way {
                self.servers.insert(label.to_string(), server.clone());
            }
        }
        for (label, fields) in labelled(root, "plugin") {
            config.plugins.extend(self.plugin(&label, fields).map(|plugin| (label, plugin)));
        }
        for (label, fields) in labelled(root, "target") {
            config.targets.extend(self.target(root, fields).map(|target| (label, target)));
        }
        for (label, fields) in labelled(root, "job") {
            config.jobs.extend(self.job(root, fields).map(|job| (label, job)));
        }
        if let Some(fields) = root.table("metrics") {
            config.metrics = self.metrics(fields);
        }
        let keep = root.table("audit").and_then(|audit| audit.duration("keep"));
        config.audit_keep = keep.unwrap_or(config.audit_keep);
        self.grants_resolve(root);
        self.pins_are_of_this_machine(root, &config);
        self.secrets_are_sealed(root, &config);
        self.under_ceilings_without_a_grant(root, &config);
        config
    }

    /// Keys as `strongroom key show` prints them: one line of text without spaces.
    fn trusted_hosts(&mut self, root: &Fields) -> Vec<String> {
        let mut hosts = Vec::new();
        for (text, span) in root.texts("trusted_hosts") {
            if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
                self.mistakes.add(span, "trusted_hosts: this is not a public key", "expected one word").help =
                    Some("paste what `strongroom key show` prints on that host".to_owned());
            } else {
                hosts.push(text.to_owned());
            }
        }
        hosts
    }

    fn bucket(&mut self, fields: &Fields) -> Option<BucketConfig> {
        let path = self.path(fields, "path")?;
        fields.has("type").then_some(BucketConfig::Local { path })
    }

    /// A grant for a bucket or cluster that is not configured would only fail in the middle of a night.
    fn grants_resolve(&mut self, root: &Fields) {
        for (_, plugin) in labelled(root, "plugin") {
            for (kind, section) in [("bucket", "bucket"), ("kube", "cluster")] {
                for grant in plugin.table("grant").map(|grant| grant.map(kind)).unwrap_or_default() {
                    let path = format!("{}.grant.{kind}.{}", plugin.path, grant.name);
                    self.resolve(root, section, &grant.name, grant.name_span.clone(), &path);
                }
            }
        }
    }

    /// A job that reads the Secrets of a cluster stores them, so that its store must encrypt.
    fn secrets_are_sealed(&mut self, root: &Fields, config: &Config) {
        for (label, fields) in labelled(root, "job") {
            let Some(job) = config.jobs.get(&label) else { continue };
            let (Some(plugin), Some(store)) = (config.plugins.get(&job.plugin), config.stores.get(&job.store)) else {
                continue;
            };
            let grants = job.narrowed(&plugin.grants, Some(Verb::Backup));
            if !store.encrypted && grants.kube.values().flatten().any(KubeGrant::captures_secrets) {
                let message = format!(
                    "{}: plugin \"{}\" may back up Secrets of a cluster, and store \"{}\" does not encrypt",
                    fields.path, job.plugin, job.store
                );
                self.mistakes
                    .add(fields.span_of("store"), message, "everybody who reads the store would read them")
                    .help = Some(format!(
                    "write recipients = [\"age1…\"] in [store.{}] instead of encryption = \"off\", or take \"/Secret\" out of the plugin's grants for backups",
                    job.store
                ));
            }
        }
    }

    /// A program is pinned by a file of this machine. Where a backup and a diagnosis run is known here; a
    /// restore may go elsewhere.
    fn pins_are_of_this_machine(&mut self, root: &Fields, config: &Config) {
        for (label, fields) in labelled(root, "job") {
            let Some(job) = config.jobs.get(&label) else { continue };
            let Some(plugin) = config.plugins.get(&job.plugin) else { continue };
            let place = match job.run_in {
                RunIn::Local { .. } => continue,
                RunIn::Container { .. } => "container",
                RunIn::Pod(_) => "pod",
            };
            let mut pinned = BTreeSet::new();
            for verb in [Verb::Backup, Verb::Diagnose] {
                let grants = job.narrowed(&plugin.grants, Some(verb)).exec.into_iter();
                let held = grants.filter(|(_, grant)| grant.sha256.is_some() && grant.when.verbs.contains(&verb));
                pinned.extend(held.map(|(name, _)| name));
            }
            for name in pinned {
                let rule = format!("plugin.{}.grant.exec.{name}", job.plugin);
                let message =
                    format!("{}.run_in: its commands run in a {place}, and {rule} is pinned by sha256", fields.path);
                self.mistakes
                    .add(fields.span_of("run_in"), message, "a digest is that of a file of this machine")
                    .help = Some(format!(
                    "take sha256 out of [{rule}], or name the grants of this job without it: grants = [\"exec.…\"]"
                ));
            }
        }
    }

    /// The label that a key names, if there is a section of that label.
    fn label(&mut self, root: &Fields, fields: &Fields, key: &str, section: &str) -> Option<Label> {
        let text = fields.text(key)?;
        let path = format!("{}.{key}", fields.path);
        self.resolve(root, section, text, fields.span_of(key), &path)
    }

    fn resolve(&mut self, root: &Fields, section: &str, text: &str, span: Range<usize>, path: &str) -> Option<Label> {
        let known: Vec<&str> = root.map(section).iter().map(|named| named.name.as_str()).collect();
        if known.contains(&text) {
            return text.parse().ok();
        }
        let all = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let label = format!("expected the label of a {section}; known: {all}");
        let shown = read::escape(text);
        self.mistakes.add(span, format!("{path}: there is no {section} \"{shown}\""), label).help =
            Some(match read::nearest(text, known.into_iter()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add [{section}.{shown}]"),
            });
        None
    }

    /// A path, relative to the file.
    fn path(&mut self, fields: &Fields, key: &str) -> Option<PathBuf> {
        let text = fields.text(key)?;
        if text.is_empty() {
            self.mistakes.add(fields.span_of(key), format!("{}.{key} is empty", fields.path), "expected a path");
            return None;
        }
        if text == "~" || text.starts_with("~/") {
            self.mistakes
                .add(fields.span_of(key), format!("{}.{key} begins with ~", fields.path), "no shell reads this")
                .help = Some("write the path in full".to_owned());
            return None;
        }
        Some(self.base.join(text))
    }

    fn secret_ref(&self, secret: &SecretRef) -> SecretRef {
        match secret {
            SecretRef::Env(name) => SecretRef::Env(name.clone()),
            SecretRef::File(path) => SecretRef::File(self.base.join(path)),
        }
    }
}

/// A SHA-256 in lower case, if the text is one.
fn digest(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// The tables of a section by label.
fn labelled<'a>(root: &'a Fields, section: &str) -> impl Iterator<Item = (Label, &'a Fields)> {
    root.map(section).iter().filter_map(|named| Some((named.name.parse().ok()?, named.table()?)))
}
