//! Resources of clusters as data: what may be granted, what a ceiling compares, what is dangerous.
//!
//! This module talks to no cluster: kinds, namespaces, names and labels are compared as text.

#[cfg(test)]
mod tests;

use super::narrowing::name_of;
use super::slot::quoted;
use super::{Decision, Effect, Mistake, Occasion, Policy, Verb, When, toml_key, toml_text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What may be done with resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubeVerb {
    /// List them.
    List,
    /// Read one.
    Get,
    /// Ask the server what applying one would do; changes nothing.
    DryRun,
    /// Create or replace them.
    Apply,
    /// Delete them.
    Delete,
    /// Hand on the logs of pods.
    Logs,
}

/// A text in which `*` stands for any characters, none included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

/// Resources of one cluster that the operator granted.
#[derive(Clone, Debug)]
pub struct KubeGrant {
    /// What may be done.
    pub may: BTreeSet<KubeVerb>,
    /// Kinds as `group/Kind`, the core group as `/Kind`; `*` is every kind that gives no power over
    /// the cluster.
    pub kinds: BTreeSet<String>,
    /// Namespaces; none is all of them, and what lies in none.
    pub namespaces: Vec<NamePattern>,
    /// Names; none is all of them.
    pub names: Vec<NamePattern>,
    /// Labels that objects must have.
    pub labels: BTreeMap<String, NamePattern>,
    /// Whether the plugin may read their bodies itself.
    pub inspect: bool,
    /// Whether the data of Secrets is shown to it.
    pub secret_data: bool,
    /// When it holds.
    pub when: When,
}

/// What a guest asks of a cluster.
#[derive(Clone, Debug)]
pub struct KubeCall<'a> {
    /// The operator's label of the cluster.
    pub cluster: &'a str,
    /// What it wants to do; `None` asks about the cluster itself.
    pub verb: Option<KubeVerb>,
    /// With what; all of them must be granted.
    pub objects: &'a [KubeObject<'a>],
}

/// An object, or many of a kind, that a call is about.
#[derive(Clone, Copy, Debug)]
pub struct KubeObject<'a> {
    /// The kind as `group/Kind`.
    pub kind: &'a str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// The namespace; `None` for what lies in none, and for a list over all that are granted.
    pub namespace: Option<&'a str>,
    /// The name; `None` for a list.
    pub name: Option<&'a str>,
    /// Its labels, once they are known. Until then a grant for labels does not refuse it.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// Where a list looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeScope {
    /// Everywhere.
    All,
    /// In these namespaces (of the kind `/Namespace`: at these names), and in those that match.
    Some {
        /// Named in full.
        names: BTreeSet<String>,
        /// By a pattern.
        patterns: Vec<NamePattern>,
    },
}

/// Kinds whose owner runs programs, reads every Secret, or makes rules for the whole cluster.
/// `*` never covers them. A group that is `*` is any group.
const POWERFUL: &[&str] = &[
    "/Pod",
    "/PodTemplate",
    "/ReplicationController",
    "/Node",
    "/Secret",
    TOKEN_SECRET,
    "/ServiceAccount",
    "/PersistentVolume",
    "/Namespace",
    // A workload can be rolled back to one.
    "apps/ControllerRevision",
    "apps/DaemonSet",
    "apps/Deployment",
    "apps/ReplicaSet",
    "apps/StatefulSet",
    "batch/CronJob",
    "batch/Job",
    "rbac.authorization.k8s.io/*",
    "admissionregistration.k8s.io/*",
    "apiextensions.k8s.io/*",
    "apiregistration.k8s.io/*",
    "certificates.k8s.io/*",
    "authentication.k8s.io/*",
    "authorization.k8s.io/*",
];

/// What a Secret that is a token of the cluster is called when it is written: whoever writes one for a
/// service account gets that account's token.
pub const TOKEN_SECRET: &str = "/TokenSecret";

/// The kind whose names are the namespaces themselves.
const NAMESPACE: &str = "/Namespace";

/// Whether a kind gives power over the cluster.
pub fn is_powerful(kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    POWERFUL.iter().any(|powerful| match powerful.strip_suffix("/*") {
        Some(whole) => group.eq_ignore_ascii_case(whole),
        None => powerful.eq_ignore_ascii_case(kind),
    })
}

impl KubeVerb {
    /// All of them.
    pub const ALL: [KubeVerb; 6] =
        [KubeVerb::List, KubeVerb::Get, KubeVerb::DryRun, KubeVerb::Apply, KubeVerb::Delete, KubeVerb::Logs];

    /// The verb as it is written.
    pub fn name(self) -> &'static str {
        match self {
            KubeVerb::List => "list",
            KubeVerb::Get => "get",
            KubeVerb::DryRun => "dry-run",
            KubeVerb::Apply => "apply",
            KubeVerb::Delete => "delete",
            KubeVerb::Logs => "logs",
        }
    }

    /// The verb of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == text)
    }

    /// Whether it changes the cluster: then only a grant with `effect = "changes"` gives it.
    pub fn changes(self) -> bool {
        matches!(self, KubeVerb::Apply | KubeVerb::Delete)
    }
}

impl NamePattern {
    /// A pattern of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a name and no pattern.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether all of `text` matches.
    pub fn admits(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            match text.find(part) {
                Some(at) => text = &text[at + part.len()..],
                None => return false,
            }
        }
        text.ends_with(last)
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl KubeGrant {
    /// Whether whoever holds it is the cluster's administrator: it may change something that gives
    /// power over the cluster, or read every Secret.
    pub fn is_administrator(&self) -> bool {
        let all = |patterns: &[NamePattern]| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.0.bytes().all(|byte| byte == b'*'))
        };
        let changes = self.may.iter().any(|verb| verb.changes());
        let powerful = self.kinds.iter().any(|kind| is_powerful(kind));
        let reads_secrets = self.secret_data && all(&self.namespaces) && all(&self.names) && self.labels.is_empty();
        (changes && powerful) || reads_secrets
    }

    /// Whether a backup may read Secrets with it, and so store them.
    pub fn captures_secrets(&self) -> bool {
        self.kinds.contains("/Secret")
            && self.may.iter().any(|verb| matches!(verb, KubeVerb::List | KubeVerb::Get))
            && self.when.verbs.contains(&Verb::Backup)
    }

    /// What is wrong with the grant by itself; the configuration refuses to load with any.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = self.when.check();
        let mut say = |key: &str, message: String, hint: &str| {
            mistakes.push(Mistake { key: key.to_owned(), message, hint: hint.to_owned() });
        };
        if self.may.is_empty() {
            say("may", "a grant to do nothing grants nothing".to_owned(), "name at least one of list, get, apply");
        }
        if self.kinds.is_empty() {
            say("kinds", "a grant for no kind grants nothing".to_owned(), "name kinds, such as \"/ConfigMap\"");
        }
        if let Some(verb) = self.may.iter().find(|verb| verb.changes() && self.when.effect == Effect::Reads) {
            let message = format!("{} changes the cluster, and effect says \"reads\"", verb.name());
            say("effect", message, "write effect = \"changes\", or leave the verb out");
        }
        for kind in self.kinds.iter().filter(|kind| *kind != "*") {
            if kind.contains('*') {
                say("kinds", format!("{} names no kind", quoted(kind)), "write kinds in full, or \"*\" alone");
            } else if kind.matches('/').count() != 1 || kind.ends_with('/') {
                say(
                    "kinds",
                    format!("{} is not a kind", quoted(kind)),
                    "write group/Kind, and /Kind of the core group",
                );
            }
        }
        if self.may.contains(&KubeVerb::Logs) && !self.kinds.contains("/Pod") {
            say("may", "logs are of pods, and the kind is not granted".to_owned(), "add \"/Pod\" to kinds");
        }
        if self.secret_data && !self.kinds.contains("/Secret") {
            say("secret_data", "Secrets are not granted".to_owned(), "add \"/Secret\" to kinds, or remove it");
        }
        for (key, patterns) in [("namespaces", &self.namespaces), ("names", &self.names)] {
            for pattern in patterns.iter().filter(|pattern| pattern.0.is_empty() || pattern.0.contains(['/', '%'])) {
                say(
                    key,
                    format!("{} is no name", quoted(&pattern.0)),
                    "write names, where * stands for any characters",
                );
            }
        }
        mistakes
    }

    /// Whether it lets something be done with an object. Makes no text: it is asked of every object of a
    /// list.
    fn allows(&self, verb: KubeVerb, object: &KubeObject<'_>, occasion: Occasion) -> bool {
        self.grants_verb(verb)
            && self.grants_kind(object.kind)
            && self.grants_namespace(verb, object)
            && self.grants_name(verb, object)
            && object.labels.is_none_or(|labels| self.grants_labels(labels))
            && self.holds(Some(verb), occasion).is_ok()
    }

    /// Whether it holds for this on an occasion. What changes nothing is not withheld from a plan, or from
    /// whoever only reads, because the same grant may change something elsewhere: unlike a command, it
    /// cannot do more than its name says.
    fn holds(&self, verb: Option<KubeVerb>, occasion: Occasion) -> Result<(), String> {
        if verb.is_some_and(KubeVerb::changes) {
            return self.when.holds(occasion);
        }
        if verb == Some(KubeVerb::DryRun) && occasion.verb == super::Verb::Backup {
            return Err("a backup does not ask what a change would do".to_owned());
        }
        When { effect: Effect::Reads, ..self.when.clone() }.holds(occasion)
    }

    fn grants_verb(&self, verb: KubeVerb) -> bool {
        // A dry run asks as the change would, and is what a plan does instead of it.
        let named = self.may.contains(&verb) || (verb == KubeVerb::DryRun && self.may.contains(&KubeVerb::Apply));
        named && !(verb.changes() && self.when.effect == Effect::Reads)
    }

    fn grants_kind(&self, kind: &str) -> bool {
        self.kinds.contains(kind) || (self.kinds.contains("*") && !is_powerful(kind))
    }

    fn grants_namespace(&self, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        if self.namespaces.is_empty() {
            return true;
        }
        let lies_in = match (object.kind, object.namespaced) {
            (NAMESPACE, _) => object.name,
            (_, true) => object.namespace,
            // What lies in no namespace belongs to all of them.
            (_, false) => return false,
        };
        match lies_in {
            Some(namespace) => self.namespaces.iter().any(|pattern| pattern.admits(namespace)),
            // A list looks where it may.
            None => verb == KubeVerb::List,
        }
    }

    fn grants_name(&self, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        self.names.is_empty()
            || match object.name {
                Some(name) => self.names.iter().any(|pattern| pattern.admits(name)),
                None => verb == KubeVerb::List,
            }
    }

    fn grants_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, pattern)| labels.get(key).is_some_and(|value| pattern.admits(value)))
    }

    /// Why it does not, and what it would take.
    fn refusal(&self, rule: &str, verb: KubeVerb, object: &KubeObject<'_>, occasion: Occasion) -> (String, String) {
        if let Err(why) = self.holds(Some(verb), occasion) {
            return (why, self.when.missing(rule, occasion));
        }
        let list = |key: &str, words: Vec<&str>, more: &str| {
            let words: Vec<_> = words.into_iter().chain([more]).map(toml_text).collect();
            format!("[{rule}]\n{key} = [{}]", words.join(", "))
        };
        if !self.grants_verb(verb) {
            let effect = if verb.changes() { "\neffect = \"changes\"" } else { "" };
            let may =
                list("may", self.may.iter().filter(|may| **may != verb).map(|may| may.name()).collect(), verb.name());
            return (format!("it does not grant {}", verb.name()), format!("{may}{effect}"));
        }
        if !self.grants_kind(object.kind) {
            let power = if is_powerful(object.kind) { ", which gives power over the cluster," } else { "" };
            let kinds = list("kinds", self.kinds.iter().map(String::as_str).collect(), object.kind);
            return (format!("the kind {}{power} is not granted", quoted(object.kind)), kinds);
        }
        let patterns = |patterns: &'_ [NamePattern]| patterns.iter().map(|p| p.0.clone()).collect::<Vec<_>>();
        if !self.grants_namespace(verb, object) {
            return match object.namespace.or(object.name.filter(|_| object.kind == NAMESPACE)) {
                Some(namespace) => {
                    let names = patterns(&self.namespaces);
                    let missing = list("namespaces", names.iter().map(String::as_str).collect(), namespace);
                    (format!("the namespace {} is not granted", quoted(namespace)), missing)
                }
                None => ("it lies in no namespace, and only some namespaces are granted".to_owned(), String::new()),
            };
        }
        if !self.grants_name(verb, object) {
            let names = patterns(&self.names);
            let name = object.name.unwrap_or_default();
            return (
                format!("the name {} is not granted", quoted(name)),
                list("names", names.iter().map(String::as_str).collect(), name),
            );
        }
        ("it does not have the labels that are granted".to_owned(), String::new())
    }
}

impl Policy {
    fn kube_grants(&self, cluster: &str) -> &[KubeGrant] {
        self.grants.kube.get(cluster).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a grant lets this be done with an object.
    pub fn kube_allows(&self, cluster: &str, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        self.kube_grants(cluster).iter().any(|grant| grant.allows(verb, object, self.occasion))
    }

    /// Whether its labels decide: no grant allows it whatever they are.
    pub fn kube_asks_for_labels(&self, cluster: &str, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        let without = BTreeMap::new();
        !self.kube_allows(cluster, verb, &KubeObject { labels: Some(&without), ..*object })
    }

    /// Whether the values of a Secret are shown to the plugin.
    pub fn kube_shows_secret(&self, cluster: &str, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        self.kube_grants(cluster).iter().any(|grant| grant.secret_data && grant.allows(verb, object, self.occasion))
    }

    /// Whether the plugin may read the body of an object itself; of a Secret only where its values are
    /// shown as well.
    pub fn kube_inspects(&self, cluster: &str, verb: KubeVerb, object: &KubeObject<'_>) -> bool {
        self.kube_grants(cluster).iter().any(|grant| {
            let shows = grant.secret_data || object.kind != "/Secret";
            grant.inspect && shows && grant.allows(verb, object, self.occasion)
        })
    }

    /// Where a list of a kind looks: only where it is granted.
    pub fn kube_scope(&self, cluster: &str, kind: &str, namespaced: bool) -> KubeScope {
        let everywhere = KubeObject { kind, namespaced, namespace: None, name: None, labels: None };
        let (mut names, mut patterns) = (BTreeSet::new(), Vec::new());
        let grants = self.kube_grants(cluster).iter();
        for grant in grants.filter(|grant| grant.allows(KubeVerb::List, &everywhere, self.occasion)) {
            if grant.namespaces.is_empty() {
                return KubeScope::All;
            }
            for pattern in &grant.namespaces {
                if pattern.is_exact() {
                    names.insert(pattern.0.clone());
                } else {
                    patterns.push(pattern.clone());
                }
            }
        }
        KubeScope::Some { names, patterns }
    }

    pub(super) fn decide_kube(&self, call: &KubeCall<'_>) -> Decision {
        let rule = self.kube_rule(call.cluster);
        let grants = self.kube_grants(call.cluster);
        let Some(verb) = call.verb else {
            let what = format!("asks about cluster {}", quoted(call.cluster));
            return match grants.iter().map(|grant| grant.holds(None, self.occasion)).reduce(Result::or) {
                Some(Ok(())) => Decision::allow(rule, what),
                Some(Err(why)) => {
                    let missing = grants.first().map(|grant| grant.when.missing(&rule, self.occasion));
                    Decision::deny(rule, format!("{what}: {why}"), missing.unwrap_or_default())
                }
                None => self.no_kube(call.cluster),
            };
        };
        let Some(object) = call.objects.iter().find(|object| !self.kube_allows(call.cluster, verb, object)) else {
            return Decision::allow(rule, format!("{} in cluster {}", verb.name(), quoted(call.cluster)));
        };
        // The grant that comes closest says what is missing: what it is for counts more than where.
        let closeness = |grant: &&KubeGrant| {
            std::cmp::Reverse((
                grant.holds(Some(verb), self.occasion).is_ok(),
                grant.grants_verb(verb),
                grant.grants_kind(object.kind),
                grant.grants_namespace(verb, object),
            ))
        };
        let Some(closest) = grants.iter().min_by_key(closeness) else { return self.no_kube(call.cluster) };
        let (why, missing) = closest.refusal(&rule, verb, object, self.occasion);
        let what = format!("{} {} in cluster {}", verb.name(), quoted(object.kind), quoted(call.cluster));
        Decision::deny(rule, format!("{what}: {why}"), missing)
    }

    fn no_kube(&self, cluster: &str) -> Decision {
        if let Some(withheld) = self.withheld(&name_of("kube", cluster)) {
            return withheld;
        }
        let rule = self.kube_rule(cluster);
        let missing = format!("[{rule}], which `strongroom plugin approve` writes");
        Decision::deny(rule, format!("the cluster {} is not granted", quoted(cluster)), missing)
    }

    pub(super) fn kube_rule(&self, cluster: &str) -> String {
        format!("plugin.{}.grant.kube.{}", toml_key(&self.plugin), toml_key(cluster))
    }
}
