//! Artifacts of the run, and labelled buckets as data.
//!
//! This module never opens anything: keys and names are compared as text, prefixes byte by byte.

#[cfg(test)]
mod tests;

use super::narrowing::name_of;
use super::slot::quoted;
use super::{Decision, Effect, Mistake, Occasion, Policy, Verb, When, toml_key, toml_text};
use std::collections::BTreeSet;

/// What may be done with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BucketVerb {
    /// List keys.
    List,
    /// Hand on an object's bytes and attributes.
    Read,
    /// Write objects that are not there.
    Write,
    /// Replace objects that are there.
    Overwrite,
    /// Keep what gives power beyond the bucket when writing: owners, set-id bits, and extended
    /// attributes other than `user.*`. Without it the host leaves them out, as one that is not root would.
    Owners,
    /// Delete the current object.
    Delete,
    /// Delete one version for good.
    DeleteVersion,
    /// Read the bucket's configuration.
    ReadConfig,
    /// Write the bucket's configuration.
    WriteConfig,
}

/// A bucket that the operator granted.
#[derive(Clone, Debug)]
pub struct BucketGrant {
    /// What may be done.
    pub may: BTreeSet<BucketVerb>,
    /// Keys it holds for: prefixes; `""` is the whole bucket.
    pub prefixes: Vec<String>,
    /// Whether the guest may read the objects' bytes.
    pub inspect: bool,
    /// When it holds.
    pub when: When,
}

/// What may be done with the artifacts of the run.
#[derive(Clone, Debug, Default)]
pub struct ArtifactGrant {
    /// Artifacts whose bytes the guest may read: patterns of the slots' language.
    pub inspect: Vec<super::slot::SlotRule>,
    /// What the manifest requests of them, once it is known: a name must match here as well.
    pub requested: Option<Vec<super::slot::SlotRule>>,
}

/// What a guest asks of a bucket.
#[derive(Clone, Debug)]
pub struct BucketCall<'a> {
    /// The operator's label.
    pub bucket: &'a str,
    /// What it wants to do; `None` only opens the bucket.
    pub verb: Option<BucketVerb>,
    /// The key or prefix it is about.
    pub key: Option<&'a str>,
    /// The part of the configuration it is about.
    pub part: Option<&'a str>,
}

/// What a guest asks of the run's artifacts.
#[derive(Clone, Debug)]
pub struct ArtifactCall<'a> {
    /// What it wants to do.
    pub verb: ArtifactVerb,
    /// The artifact; empty for a list of all of them.
    pub name: &'a str,
}

/// What may be done with an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactVerb {
    /// Store a new one: only in a backup.
    Put,
    /// Read one back: only in a verification or a restore.
    Get,
    /// List names, sizes and digests of those of the backup in scope.
    List,
}

impl ArtifactVerb {
    /// The verb as the audit log has it.
    pub fn name(self) -> &'static str {
        match self {
            ArtifactVerb::Put => "put",
            ArtifactVerb::Get => "get",
            ArtifactVerb::List => "list",
        }
    }
}

/// Longest key or prefix in bytes: a path of 4096 bytes, each written as a character of 4.
const KEY_BYTES: usize = 16 * 1024;

/// Parts of a bucket's configuration that give power over it: granted by name only.
const POWERFUL_PARTS: [&str; 6] = ["policy", "acl", "notification", "replication", "lifecycle", "website"];

impl BucketVerb {
    /// The verb as it is written.
    pub fn name(self) -> &'static str {
        match self {
            BucketVerb::List => "list",
            BucketVerb::Read => "read",
            BucketVerb::Write => "write",
            BucketVerb::Overwrite => "overwrite",
            BucketVerb::Owners => "owners",
            BucketVerb::Delete => "delete",
            BucketVerb::DeleteVersion => "delete-version",
            BucketVerb::ReadConfig => "read-config",
            BucketVerb::WriteConfig => "write-config",
        }
    }

    /// Whether it changes the bucket: then only a grant with `effect = "changes"` gives it.
    pub fn changes(self) -> bool {
        match self {
            BucketVerb::List | BucketVerb::Read | BucketVerb::ReadConfig => false,
            BucketVerb::Write
            | BucketVerb::Overwrite
            | BucketVerb::Owners
            | BucketVerb::Delete
            | BucketVerb::DeleteVersion
            | BucketVerb::WriteConfig => true,
        }
    }

    fn is_about_configuration(self) -> bool {
        matches!(self, BucketVerb::ReadConfig | BucketVerb::WriteConfig)
    }
}

impl BucketGrant {
    /// What is wrong with the grant by itself; the configuration refuses to load with any.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = self.when.check();
        let mut say = |key: &str, message: String, hint: &str| {
            mistakes.push(Mistake { key: key.to_owned(), message, hint: hint.to_owned() });
        };
        if self.may.is_empty() {
            say("may", "a grant to do nothing grants nothing".to_owned(), "name at least one of list, read, write");
        }
        if let Some(verb) = self.may.iter().find(|verb| verb.changes() && self.when.effect == Effect::Reads) {
            let message = format!("{} changes the bucket, and effect says \"reads\"", verb.name());
            say("effect", message, "write effect = \"changes\", or leave the verb out");
        }
        if self.inspect && !self.may.contains(&BucketVerb::Read) {
            say(
                "inspect",
                "it lets the plugin read bytes that it may not fetch".to_owned(),
                "add \"read\", or remove it",
            );
        }
        if self.prefixes.is_empty() {
            say(
                "prefixes",
                "a grant for no key grants nothing".to_owned(),
                "write prefixes = [\"\"] for the whole bucket",
            );
        }
        for prefix in &self.prefixes {
            if let Err(reason) = check_key(prefix, true) {
                say(
                    "prefixes",
                    format!("{} is not a prefix: {reason}", quoted(prefix)),
                    "end it with / to mean a folder",
                );
            }
        }
        mistakes
    }

    /// Whether this grant alone lets the call go on; the error is reason and what is missing.
    fn allows(&self, rule: &str, call: &BucketCall<'_>, occasion: Occasion) -> Result<(), (String, String)> {
        self.when.holds(occasion).map_err(|reason| (reason, self.when.missing(rule, occasion)))?;
        let Some(verb) = call.verb else { return Ok(()) };
        if !self.may.contains(&verb) {
            let mut may: Vec<_> = self.may.iter().map(|verb| verb.name()).collect();
            may.push(verb.name());
            let may: Vec<_> = may.into_iter().map(toml_text).collect();
            let effect = if verb.changes() { "\neffect = \"changes\"" } else { "" };
            return Err((
                format!("it does not grant {}", verb.name()),
                format!("[{rule}]\nmay = [{}]{effect}", may.join(", ")),
            ));
        }
        if verb.changes() && self.when.effect == Effect::Reads {
            let reason = format!("{} changes the bucket, and the grant only reads", verb.name());
            return Err((reason, format!("[{rule}]\neffect = \"changes\"")));
        }
        if verb.is_about_configuration() {
            return match call.part {
                None => Err(("it names no part of the configuration".to_owned(), String::new())),
                Some(part) if verb.changes() && is_powerful(part) => Err((
                    format!("{} gives power over the bucket and is not granted by name", quoted(part)),
                    String::new(),
                )),
                Some(_) => Ok(()),
            };
        }
        let key = match (call.key, verb) {
            (Some(key), _) => key,
            (None, BucketVerb::List) => "",
            (None, _) => return Err(("it names no key".to_owned(), String::new())),
        };
        let whole = self.prefixes.iter().any(String::is_empty);
        check_key(key, !whole)
            .map_err(|reason| (format!("{} is not a key for it: {reason}", quoted(key)), String::new()))?;
        if self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())) {
            return Ok(());
        }
        let granted: Vec<_> = self.prefixes.iter().map(|prefix| quoted(prefix)).collect();
        let mut prefixes: Vec<_> = self.prefixes.iter().map(|prefix| toml_text(prefix)).collect();
        prefixes.push(toml_text(key));
        Err((
            format!("{} begins with none of the granted prefixes: {}", quoted(key), granted.join(", ")),
            format!("[{rule}]\nprefixes = [{}]", prefixes.join(", ")),
        ))
    }
}

impl ArtifactGrant {
    /// What is wrong with the grant by itself.
    pub fn check(&self) -> Vec<Mistake> {
        let repeated =
            self.inspect.iter().any(|rule| rule.max_count != 1 || rule.kind == super::slot::SlotKind::Scratch);
        let mistake = || Mistake {
            key: "inspect".to_owned(),
            message: "a pattern of names has no count and is not the scratch directory".to_owned(),
            hint: "write inspect = [\"globals[.]json\"]".to_owned(),
        };
        repeated.then(mistake).into_iter().collect()
    }
}

impl Policy {
    pub(super) fn decide_bucket(&self, call: &BucketCall<'_>) -> Decision {
        let rule = self.bucket_rule(call.bucket);
        let grants = self.grants.buckets.get(call.bucket).map(Vec::as_slice).unwrap_or_default();
        let verb = call.verb.map_or("open", BucketVerb::name);
        if grants.iter().any(|grant| grant.allows(&rule, call, self.occasion).is_ok()) {
            return Decision::allow(rule, format!("{verb} on bucket {}", quoted(call.bucket)));
        }
        // The grant that comes closest says what is missing: what it is for counts more than when it holds.
        let closeness = |grant: &&BucketGrant| {
            let verb = call.verb.is_none_or(|verb| grant.may.contains(&verb));
            std::cmp::Reverse((verb, grant.when.holds(self.occasion).is_ok()))
        };
        let closest = grants.iter().min_by_key(closeness);
        let refusal = closest.and_then(|grant| grant.allows(&rule, call, self.occasion).err());
        match refusal {
            Some((reason, missing)) => {
                Decision::deny(rule, format!("{verb} on bucket {}: {reason}", quoted(call.bucket)), missing)
            }
            None => {
                if let Some(withheld) = self.withheld(&name_of("bucket", call.bucket)) {
                    return withheld;
                }
                let missing = format!("[{rule}], which `strongroom plugin approve` writes");
                Decision::deny(rule, format!("the bucket {} is not granted", quoted(call.bucket)), missing)
            }
        }
    }

    pub(super) fn decide_artifact(&self, call: &ArtifactCall<'_>) -> Decision {
        let rule = self.artifact_rule();
        if self.grants.artifacts.is_none() {
            if let Some(withheld) = self.withheld("artifacts") {
                return withheld;
            }
            let missing = format!("[{rule}], which `strongroom plugin approve` writes");
            return Decision::deny(rule, "the artifacts of the run are not granted", missing);
        }
        let name = quoted(call.name);
        match (call.verb, self.occasion.verb) {
            (ArtifactVerb::List, verb) => {
                Decision::allow(rule, format!("the artifacts of the run are listed by {}", verb.name()))
            }
            (ArtifactVerb::Put, Verb::Backup) => Decision::allow(rule, format!("{name} is stored by a backup")),
            (ArtifactVerb::Get, Verb::Verify | Verb::Restore) => {
                Decision::allow(rule, format!("{name} is read back by {}", self.occasion.verb.name()))
            }
            (ArtifactVerb::Put, verb) => {
                Decision::deny(rule, format!("{name}: only a backup stores artifacts, and this is {}", verb.name()), "")
            }
            (ArtifactVerb::Get, verb) => {
                let reason =
                    format!("{name}: only verify and restore read artifacts back, and this is {}", verb.name());
                Decision::deny(rule, reason, "")
            }
        }
    }

    /// Whether a source made by reading `key` of this bucket carries `inspect`: a grant that
    /// allows the read says so itself.
    pub fn inspects_object(&self, bucket: &str, key: &str) -> bool {
        let call = BucketCall { bucket, verb: Some(BucketVerb::Read), key: Some(key), part: None };
        let rule = self.bucket_rule(bucket);
        let grants = self.grants.buckets.get(bucket).map(Vec::as_slice).unwrap_or_default();
        grants.iter().any(|grant| grant.inspect && grant.allows(&rule, &call, self.occasion).is_ok())
    }

    /// Whether an object written to `key` of this bucket may keep its owners, its set-id bits and
    /// extended attributes other than `user.*`.
    pub fn keeps_owners(&self, bucket: &str, key: &str) -> bool {
        let call = BucketCall { bucket, verb: Some(BucketVerb::Owners), key: Some(key), part: None };
        self.decide_bucket(&call).allowed
    }

    /// Whether a source made by reading this artifact (or an entry of this archive) carries `inspect`.
    pub fn inspects_artifact(&self, name: &str) -> bool {
        let call = ArtifactCall { verb: ArtifactVerb::Get, name };
        self.decide_artifact(&call).allowed
            && self.grants.artifacts.as_ref().is_some_and(|grant| {
                let admits = |rules: &[super::slot::SlotRule]| {
                    rules.iter().any(|rule| rule.admits(name, &self.settings).is_ok())
                };
                admits(&grant.inspect) && grant.requested.as_deref().is_none_or(admits)
            })
    }

    pub(super) fn bucket_rule(&self, label: &str) -> String {
        format!("plugin.{}.grant.bucket.{}", toml_key(&self.plugin), toml_key(label))
    }

    pub(super) fn artifact_rule(&self) -> String {
        format!("plugin.{}.grant.artifacts", toml_key(&self.plugin))
    }
}

/// What no key may hold. With `narrow`, when a prefix is to confine it, no `.` or `..` part either:
/// `photos/../private` begins with `photos/`, and a directory tree would follow it out of there.
fn check_key(key: &str, narrow: bool) -> Result<(), String> {
    if key.len() > KEY_BYTES {
        return Err(format!("it is {} bytes long, of at most {KEY_BYTES}", key.len()));
    }
    if key.contains('\0') {
        return Err("it holds a NUL".to_owned());
    }
    if narrow && key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("it holds a part that is . or ..".to_owned());
    }
    Ok(())
}

fn is_powerful(part: &str) -> bool {
    POWERFUL_PARTS.iter().any(|powerful| part.eq_ignore_ascii_case(powerful))
}
