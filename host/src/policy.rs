//! What a plugin may do: pure data and total functions, no I/O and no async.
//!
//! Effective = what the manifest requests, and what the operator grants (and later what the
//! ceiling allows). Every host function asks [`Policy::decide`] with a [`Call`] and gets a
//! [`Decision`] that names the rule, allowed or not.

pub mod exec;
pub mod slot;
pub mod storage;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The artifacts of the run, if granted at all.
    pub artifacts: Option<storage::ArtifactGrant>,
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
    /// `bytes.source.read` on a stream that came from `origin`; `granted` was decided where it was made.
    Read {
        /// What the bytes are, for the message.
        origin: &'a crate::stream::Origin,
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

impl When {
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
            (Effect::Changes, Verb::Verify, _) if self.scratch => Ok(()),
            (Effect::Changes, Verb::Restore, true) => {
                Err("it changes something, and a plan changes nothing".to_owned())
            }
            (Effect::Changes, Verb::Verify, _) => {
                Err("it changes something and is not marked scratch, and verify changes only scratch places".to_owned())
            }
            (Effect::Changes, Verb::Backup | Verb::Diagnose, _) => {
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
