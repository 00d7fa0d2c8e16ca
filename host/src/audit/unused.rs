//! What grants were used for, from the lines that runs left.

use super::line::{Event, Line, Verdict};
use super::show::{self, Filter};
use crate::error::Result;
use crate::policy::Verb;
use crate::policy::kube::KubeVerb;
use crate::policy::storage::BucketVerb;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the runs of a period used.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Runs of plugins in it, by verb.
    pub runs: BTreeMap<Verb, u64>,
    /// Uses by rule, such as `plugin.postgres.grant.exec.pg_dump`.
    pub rules: BTreeMap<String, Used>,
}

/// What one rule was used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// In runs of these verbs.
    pub verbs: BTreeSet<Verb>,
    /// Of a bucket: what was done.
    pub bucket_verbs: BTreeSet<BucketVerb>,
    /// Of a cluster: what was done.
    pub kube_verbs: BTreeSet<KubeVerb>,
    /// Whether bytes were read by the plugin itself.
    pub inspected: bool,
}

/// Reads what runs since then used. A line that cannot be read counts as nothing.
pub fn usage(dir: &Path, since: Option<Timestamp>) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut verb = None;
    // A run that began before the period counts with the lines that lie in it: its first line is needed.
    show::read(dir, &Filter::default(), |line| {
        if line.event == Event::Begin {
            verb = line.verb.as_deref().and_then(verb_named);
            if let Some(verb) = verb.filter(|_| since.is_none_or(|since| line.at >= since)) {
                *usage.runs.entry(verb).or_default() += 1;
            }
        }
        if since.is_none_or(|since| line.at >= since)
            && let Some(verb) = verb
        {
            usage.take(line, verb);
        }
    })?;
    Ok(usage)
}

fn verb_named(name: &str) -> Option<Verb> {
    [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into_iter().find(|verb| verb.name() == name)
}

impl Usage {
    fn take(&mut self, line: &Line, verb: Verb) {
        let Some(rule) = line.rule.as_ref().filter(|_| line.decision != Some(Verdict::Denied)) else { return };
        let used = self.rules.entry(rule.clone()).or_default();
        used.verbs.insert(verb);
        let given = line.arguments.iter().find(|argument| argument.name == "verb");
        let named = given.and_then(|argument| argument.value.as_deref());
        let functions = line.function.as_deref().into_iter().chain(line.calls.iter().map(|c| c.function.as_str()));
        for function in functions {
            match function {
                "storage.bucket.objects" => drop(used.bucket_verbs.insert(BucketVerb::List)),
                "storage.bucket.attributes" | "storage.bucket.read" => drop(used.bucket_verbs.insert(BucketVerb::Read)),
                "storage.bucket.read-config" => drop(used.bucket_verbs.insert(BucketVerb::ReadConfig)),
                "kube.cluster.objects" => drop(used.kube_verbs.insert(KubeVerb::List)),
                "kube.cluster.get" | "kube.cluster.body" | "kube.cluster.wait" => {
                    used.kube_verbs.insert(KubeVerb::Get);
                }
                "kube.cluster.logs" => drop(used.kube_verbs.insert(KubeVerb::Logs)),
                "exec.run" | "bytes.source.read" => used.inspected = true,
                _ => {}
            }
        }
        // What was only tried is counted on the handle, and stands nowhere else.
        let tried = line.calls.iter().any(|call| call.function.starts_with("kube.cluster.apply"));
        used.kube_verbs.extend(tried.then_some(KubeVerb::DryRun));
        used.kube_verbs.extend(named.and_then(KubeVerb::parse).filter(|verb| verb.changes()));
        let changes = [
            BucketVerb::Write,
            BucketVerb::Overwrite,
            BucketVerb::Delete,
            BucketVerb::DeleteVersion,
            BucketVerb::WriteConfig,
        ];
        used.bucket_verbs.extend(changes.into_iter().find(|verb| named == Some(verb.name())));
        // Whether a write kept owners is not a call of its own: who wrote is taken to have used it.
        if used.bucket_verbs.iter().any(|verb| matches!(verb, BucketVerb::Write | BucketVerb::Overwrite)) {
            used.bucket_verbs.insert(BucketVerb::Owners);
        }
    }
}
