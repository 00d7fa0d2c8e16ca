//! What a plugin may do: pure data and total functions, no I/O and no async.
//!
//! Effective = what the manifest requests, and what the operator grants, and what every ceiling
//! allows. Every host function asks [`Policy::decide`] with a [`Call`] and gets a
//! [`Decision`] that names the rule, allowed or not.

pub mod ceiling;
pub mod exec;
pub mod kube;
pub mod metrics;
pub mod narrowing;
pub mod scratch;
pub mod slot;
pub mod storage;
#[cfg(test)]
mod tests;

use crate::stream::Origin;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The verb that a run was started for. Every grant names the verbs it holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Makes a backup; changes nothing.
    Backup,
    /// Checks a backup; changes only scratch places.
    Verify,
    /// Brings data back.
    Restore,
    /// Looks for trouble; changes nothing.
    Diagnose,
}

/// Whether a grant can change the system it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It only reads.
    Reads,
    /// It changes something.
    Changes,
}

/// The moment that a call is made in: verb, and whether a restore only plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// The verb of the run.
    pub verb: Verb,
    /// A restore that reports what it would do and changes nothing.
    pub plan_only: bool,
}

/// When a grant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// Verbs it holds for; never empty.
    pub verbs: BTreeSet<Verb>,
    /// What it can do.
    pub effect: Effect,
    /// Its changes stay inside scratch places: `verify` may use it.
    pub scratch: bool,
}

/// Everything one plugin may do in one job.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Command lines by the label that the plugin uses.
    pub exec: BTreeMap<String, exec::ExecGrant>,
    /// Buckets by label; a bucket may have several grants, such as one to read and one to restore.
    pub buckets: BTreeMap<String, Vec<storage::BucketGrant>>,
    /// Clusters by label; a cluster may have several grants as well.
    pub kube: BTreeMap<String, Vec<kube::KubeGrant>>,
    /// The artifacts of the run, if granted at all.
    pub artifacts: Option<storage::ArtifactGrant>,
    /// A private scratch directory, if granted at all.
    pub scratch: Option<scratch::ScratchGrant>,
    /// Metrics, if granted at all.
    pub metrics: Option<metrics::MetricsGrant>,
    /// What a job has narrowed away of what the plugin is granted, by name: for the refusal to say.
    pub withheld: BTreeMap<String, narrowing::Narrowing>,
    /// What none of them may exceed, whoever wrote them: each ceiling takes away, none gives.
    pub ceilings: Vec<Arc<ceiling::Ceiling>>,
}

/// The policy of one run: grants, occasion, and the job's settings that slots refer to.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name of the plugin, for messages.
    pub plugin: String,
    /// What is effective.
    pub grants: Grants,
    /// When.
    pub occasion: Occasion,
    /// The job's `settings` table: `{ setting = "databases" }` in a slot admits what is here.
    pub settings: serde_json::Value,
}

/// One call that a guest made, with every argument that a policy can depend on.
#[derive(Clone, Debug)]
pub enum Call<'a> {
    /// `exec.spawn` and `exec.run`.
    Exec(exec::ExecCall<'a>),
    /// A function of `storage.bucket`.
    Bucket(storage::BucketCall<'a>),
    /// A function on the run's artifacts.
    Artifact(storage::ArtifactCall<'a>),
    /// The private scratch directory, which is opened before the guest runs.
    Scratch,
    /// A function of `kube`.
    Kube(kube::KubeCall<'a>),
    /// A function of `metrics`.
    Metrics(metrics::MetricsCall<'a>),
    /// `bytes.source.read` on a stream that came from `origin`; `granted` was decided where it was made.
    Read {
        /// What the bytes are, for the message.
        origin: &'a Origin,
        /// Whether the source carries `inspect`.
        granted: bool,
    },
}

/// Yes or no, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// The rule that decided, such as `plugin.postgres.grant.exec.pg_dump`.
    pub rule: String,
    /// For people (operator and audit log; the guest sees none of it).
    pub reason: String,
    /// What would allow it, as TOML or a hint; empty when allowed.
    pub missing: String,
}

/// Something wrong with a grant by itself, for the configuration to show at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the grant, such as `env.LD_PRELOAD`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Policy {
    /// Whether a call may go on: total, pure, and the same answer every time.
    ///
    /// For a command, `{scratch}` counts as there; [`Policy::command_line`] gives the line itself.
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        match call {
            Call::Exec(call) => match self.command_line(call, Some("/scratch")) {
                Ok(line) => {
                    let reason = format!("{} runs {}", slot::quoted(call.command), slot::quoted(&line.program));
                    Decision::allow(self.exec_rule(call.command), reason)
                }
                Err(denied) => denied,
            },
            Call::Bucket(call) => self.decide_bucket(call),
            Call::Artifact(call) => self.decide_artifact(call),
            Call::Scratch => self.decide_scratch(),
            Call::Kube(call) => self.decide_kube(call),
            Call::Metrics(call) => self.decide_metrics(call),
            Call::Read { origin, granted } => self.decide_read(origin, *granted),
        }
    }

    fn decide_read(&self, origin: &Origin, granted: bool) -> Decision {
        let (rule, missing) = match origin {
            Origin::Exec { command, .. } => (self.exec_rule(command), "inspect = true".to_owned()),
            Origin::Bucket { label } => (self.bucket_rule(label), "inspect = true".to_owned()),
            Origin::Cluster { label } => (self.kube_rule(label), "inspect = true".to_owned()),
            Origin::Artifact { name, .. } => {
                (self.artifact_rule(), format!("inspect = [{}]", toml_text(&regex::escape(name))))
            }
            Origin::Plugin => (format!("plugin.{}", toml_key(&self.plugin)), String::new()),
            Origin::Archive => (self.artifact_rule(), "inspect = [\"…\"] with the archive's name".to_owned()),
        };
        if granted {
            Decision::allow(rule, format!("the plugin may read bytes from {origin}"))
        } else {
            let missing = if missing.is_empty() { missing } else { format!("[{rule}]\n{missing}") };
            Decision::deny(&rule, format!("the plugin may not read bytes from {origin}"), missing)
        }
    }
}

impl Call<'_> {
    /// Whether it does something that outlives the call: starts a program, stores, writes or deletes.
    pub fn acts(&self) -> bool {
        match self {
            Call::Exec(_) => true,
            Call::Bucket(call) => call.verb.is_some_and(storage::BucketVerb::changes),
            Call::Artifact(call) => call.verb == storage::ArtifactVerb::Put,
            Call::Kube(call) => call.verb.is_some_and(kube::KubeVerb::changes),
            Call::Scratch | Call::Metrics(_) | Call::Read { .. } => false,
        }
    }
}

impl Decision {
    /// Yes.
    pub fn allow(rule: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { allowed: true, rule: rule.into(), reason: reason.into(), missing: String::new() }
    }

    /// No; `missing` is what would allow it, empty where nothing would.
    pub fn deny(rule: impl Into<String>, reason: impl Into<String>, missing: impl Into<String>) -> Self {
        Self { allowed: false, rule: rule.into(), reason: reason.into(), missing: missing.into() }
    }

    /// The refusal as an error for the operator: rule and reason as facts, what is missing as the
    /// hint. A guest is told only that it was denied.
    pub fn into_error(self, what: impl Into<String>) -> crate::error::Error {
        let error = crate::error::Error::denied(what).fact("reason", self.reason).fact("rule", self.rule);
        if self.missing.is_empty() { error } else { error.hint(format!("it would take: {}", self.missing)) }
    }
}

impl When {
    /// What is wrong with it by itself.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut say = |key: &str, message: &str, hint: &str| {
            mistakes.push(Mistake { key: key.to_owned(), message: message.to_owned(), hint: hint.to_owned() });
        };
        if self.verbs.is_empty() {
            say(
                "verbs",
                "a grant for no verb grants nothing",
                "name at least one of backup, verify, restore, diagnose",
            );
        } else if self.effect == Effect::Changes
            && !self.verbs.iter().any(|verb| match verb {
                Verb::Restore => true,
                Verb::Verify => self.scratch,
                Verb::Backup | Verb::Diagnose => false,
            })
        {
            let hint = "add \"restore\" to verbs, mark it scratch = true for verify, or write effect = \"reads\"";
            say("effect", "no verb that it names may change anything, so it never holds", hint);
        }
        mistakes
    }

    /// Whether it holds for a verb that reads artifacts back.
    pub(crate) fn reads_artifacts(&self) -> bool {
        self.verbs.contains(&Verb::Verify) || self.verbs.contains(&Verb::Restore)
    }

    /// The TOML that would make it hold on this occasion; empty where nothing would.
    fn missing(&self, rule: &str, occasion: Occasion) -> String {
        if !self.verbs.contains(&occasion.verb) {
            let mut verbs = self.verbs.clone();
            verbs.insert(occasion.verb);
            let wider = When { verbs: verbs.clone(), ..self.clone() };
            if wider.holds(occasion).is_ok() {
                let verbs: Vec<_> = verbs.iter().map(|verb| toml_text(verb.name())).collect();
                return format!("[{rule}]\nverbs = [{}]", verbs.join(", "));
            }
        } else if (When { scratch: true, ..self.clone() }).holds(occasion).is_ok() {
            return format!("[{rule}]\nscratch = true");
        }
        String::new()
    }

    /// Whether a grant holds on this occasion; the error says why not.
    ///
    /// `backup`, `diagnose` and a plan hold no grant that changes anything; `verify` holds only
    /// those marked `scratch` besides.
    pub fn holds(&self, occasion: Occasion) -> Result<(), String> {
        let Occasion { verb, plan_only } = occasion;
        let name = verb.name();
        if !self.verbs.contains(&verb) {
            return Err(format!("it is not granted for {name}"));
        }
        match (self.effect, verb, plan_only) {
            (Effect::Reads, ..) | (Effect::Changes, Verb::Restore, false) => Ok(()),
            (Effect::Changes, _, true) => Err("it changes something, and a plan changes nothing".to_owned()),
            (Effect::Changes, Verb::Verify, false) if self.scratch => Ok(()),
            (Effect::Changes, Verb::Verify, false) => {
                Err("it changes something and is not marked scratch, and verify changes only scratch places".to_owned())
            }
            (Effect::Changes, Verb::Backup | Verb::Diagnose, false) => {
                Err(format!("it changes something, and {name} changes nothing"))
            }
        }
    }
}

impl Verb {
    /// The verb as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Backup => "backup",
            Verb::Verify => "verify",
            Verb::Restore => "restore",
            Verb::Diagnose => "diagnose",
        }
    }
}

/// A key as TOML writes it: bare where it can be.
fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { toml_text(key) }
}

/// A string as TOML writes it, cut where a guest made it long.
fn toml_text(text: &str) -> String {
    const SHOWN_CHARS: usize = 1024;
    let mut out = String::from("\"");
    for c in text.chars().take(SHOWN_CHARS) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
