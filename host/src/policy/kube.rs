//! Resources of clusters as data. The interface that asks comes later; what may be granted, what a
//! ceiling compares and what is dangerous is laid down here.
//!
//! This module talks to no cluster: kinds, namespaces and names are compared as text.

use super::slot::quoted;
use super::{Decision, Effect, Mistake, Occasion, When, toml_key};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
}

/// Resources of one cluster that the operator granted.
#[derive(Clone, Debug)]
pub struct KubeGrant {
    /// What may be done.
    pub may: BTreeSet<KubeVerb>,
    /// Kinds as `group/Kind`, the core group as `/Kind`; `*` is every kind that gives no power over
    /// the cluster.
    pub kinds: BTreeSet<String>,
    /// Namespaces; none is all of them, and what lies in none.
    pub namespaces: BTreeSet<String>,
    /// Names; none is all of them.
    pub names: BTreeSet<String>,
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
    /// What it wants to do.
    pub verb: KubeVerb,
    /// The kind as `group/Kind`.
    pub kind: &'a str,
    /// The namespace; `None` for what lies in none, and for a list over all.
    pub namespace: Option<&'a str>,
    /// The name; `None` for a list.
    pub name: Option<&'a str>,
}

/// Kinds whose owner runs programs, reads every Secret, or makes rules for the whole cluster.
/// `*` never covers them. A group that is `*` is any group.
const POWERFUL: &[&str] = &[
    "/Pod",
    "/PodTemplate",
    "/ReplicationController",
    "/Node",
    "/Secret",
    "/ServiceAccount",
    "/PersistentVolume",
    "/Namespace",
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
];

/// Whether a kind gives power over the cluster.
pub fn is_powerful(kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    POWERFUL.iter().any(|powerful| match powerful.strip_suffix("/*") {
        Some(whole) => group.eq_ignore_ascii_case(whole),
        None => powerful.eq_ignore_ascii_case(kind),
    })
}

impl KubeVerb {
    /// The verb as it is written.
    pub fn name(self) -> &'static str {
        match self {
            KubeVerb::List => "list",
            KubeVerb::Get => "get",
            KubeVerb::DryRun => "dry-run",
            KubeVerb::Apply => "apply",
            KubeVerb::Delete => "delete",
        }
    }

    /// Whether it changes the cluster: then only a grant with `effect = "changes"` gives it.
    pub fn changes(self) -> bool {
        matches!(self, KubeVerb::Apply | KubeVerb::Delete)
    }
}

impl KubeGrant {
    /// Whether whoever holds it is the cluster's administrator: it may change something that gives
    /// power over the cluster, or read every Secret.
    pub fn is_administrator(&self) -> bool {
        let changes = self.may.iter().any(|verb| verb.changes());
        let powerful = self.kinds.iter().any(|kind| is_powerful(kind));
        let reads_secrets = self.secret_data && self.namespaces.is_empty() && self.names.is_empty();
        (changes && powerful) || reads_secrets
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
        for kind in self.kinds.iter().filter(|kind| *kind != "*" && kind.contains('*')) {
            say("kinds", format!("{} names no kind", quoted(kind)), "write kinds in full, or \"*\" alone");
        }
        mistakes
    }

    /// Whether it lets the call go on; `plugin` and `cluster` are for the rule's name.
    pub fn decide(&self, plugin: &str, call: &KubeCall<'_>, occasion: Occasion) -> Decision {
        let rule = format!("plugin.{}.grant.kube.{}", toml_key(plugin), toml_key(call.cluster));
        let what = format!("{} {} in cluster {}", call.verb.name(), quoted(call.kind), quoted(call.cluster));
        let deny = |why: String| Decision::deny(rule.clone(), format!("{what}: {why}"), "");
        if let Err(why) = self.when.holds(occasion) {
            return deny(why);
        }
        // A dry run asks as the change would, and is what a plan does instead of it.
        let covered =
            self.may.contains(&call.verb) || (call.verb == KubeVerb::DryRun && self.may.contains(&KubeVerb::Apply));
        if !covered {
            return deny(format!("it does not grant {}", call.verb.name()));
        }
        if call.verb.changes() && self.when.effect == Effect::Reads {
            return deny("it changes the cluster, and the grant only reads".to_owned());
        }
        let by_star = self.kinds.contains("*") && !is_powerful(call.kind);
        if !by_star && !self.kinds.contains(call.kind) {
            return deny("the kind is not granted".to_owned());
        }
        let inside = |all: &BTreeSet<String>, given: Option<&str>| {
            all.is_empty() || given.is_some_and(|given| all.contains(given))
        };
        if !inside(&self.namespaces, call.namespace) {
            return deny("the namespace is not granted".to_owned());
        }
        if !inside(&self.names, call.name) && call.verb != KubeVerb::List {
            return deny("the name is not granted".to_owned());
        }
        Decision::allow(rule, what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verb;
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn grant(may: &[KubeVerb], kinds: &[&str]) -> KubeGrant {
        let changes = may.iter().any(|verb| verb.changes());
        KubeGrant {
            may: may.iter().copied().collect(),
            kinds: set(kinds),
            namespaces: set(&["shop"]),
            names: BTreeSet::new(),
            inspect: false,
            secret_data: false,
            when: When {
                verbs: [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into(),
                effect: if changes { Effect::Changes } else { Effect::Reads },
                scratch: false,
            },
        }
    }

    fn decide(grant: &KubeGrant, verb: KubeVerb, kind: &str, namespace: Option<&str>, occasion: Occasion) -> bool {
        let call = KubeCall { cluster: "prod", verb, kind, namespace, name: Some("x") };
        let decision = grant.decide("kube", &call, occasion);
        assert!(decision.rule == "plugin.kube.grant.kube.prod" && !decision.reason.is_empty());
        decision.allowed
    }

    const BACKUP: Occasion = Occasion { verb: Verb::Backup, plan_only: false };
    const RESTORE: Occasion = Occasion { verb: Verb::Restore, plan_only: false };

    #[test]
    fn kinds_that_give_power_are_covered_only_when_named() {
        let all = grant(&[KubeVerb::List, KubeVerb::Get], &["*"]);
        assert!(decide(&all, KubeVerb::Get, "/ConfigMap", Some("shop"), BACKUP));
        for kind in ["/Secret", "/Pod", "apps/Deployment", "rbac.authorization.k8s.io/ClusterRole", "/secret"] {
            assert!(is_powerful(kind), "{kind}");
            assert!(!decide(&all, KubeVerb::Get, kind, Some("shop"), BACKUP), "{kind}");
            let named = grant(&[KubeVerb::Get], &["*", kind]);
            assert!(decide(&named, KubeVerb::Get, kind, Some("shop"), BACKUP), "{kind}");
        }
    }

    #[test]
    fn nothing_outside_the_granted_namespaces_names_and_verbs_is_reached() {
        let get = grant(&[KubeVerb::Get], &["/ConfigMap"]);
        assert!(!decide(&get, KubeVerb::Get, "/ConfigMap", Some("kube-system"), BACKUP));
        assert!(!decide(&get, KubeVerb::Get, "/ConfigMap", None, BACKUP), "all namespaces are not one of them");
        assert!(!decide(&get, KubeVerb::List, "/ConfigMap", Some("shop"), BACKUP));
        assert!(!decide(&get, KubeVerb::Get, "/Service", Some("shop"), BACKUP));
        let named = KubeGrant { names: set(&["y"]), ..get };
        assert!(!decide(&named, KubeVerb::Get, "/ConfigMap", Some("shop"), BACKUP));
    }

    #[test]
    fn a_cluster_changes_in_a_restore_only_and_never_in_a_plan() {
        for verb in [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose] {
            for plan_only in [false, true] {
                for deed in [KubeVerb::Apply, KubeVerb::Delete] {
                    let grant = grant(&[KubeVerb::Apply, KubeVerb::Delete], &["/ConfigMap"]);
                    let allowed = decide(&grant, deed, "/ConfigMap", Some("shop"), Occasion { verb, plan_only });
                    assert_eq!(allowed, verb == Verb::Restore && !plan_only, "{verb:?} {plan_only} {deed:?}");
                }
            }
        }
        let reads = KubeGrant {
            when: When { effect: Effect::Reads, ..grant(&[], &[]).when },
            ..grant(&[KubeVerb::Apply], &["*"])
        };
        assert!(!decide(&reads, KubeVerb::Apply, "/ConfigMap", Some("shop"), RESTORE));
        assert!(decide(&reads, KubeVerb::DryRun, "/ConfigMap", Some("shop"), RESTORE), "a dry run changes nothing");
        assert_eq!(reads.check()[0].key, "effect");
    }

    #[test]
    fn who_may_change_what_gives_power_or_read_every_secret_is_the_administrator() {
        assert!(!grant(&[KubeVerb::Apply], &["*"]).is_administrator());
        assert!(grant(&[KubeVerb::Apply], &["apps/Deployment"]).is_administrator());
        assert!(!grant(&[KubeVerb::Get], &["apps/Deployment"]).is_administrator());
        let secrets =
            KubeGrant { secret_data: true, namespaces: BTreeSet::new(), ..grant(&[KubeVerb::Get], &["/Secret"]) };
        assert!(secrets.is_administrator());
        assert!(grant(&[], &[]).check().len() >= 2);
        assert_eq!(grant(&[KubeVerb::Get], &["apps/*"]).check()[0].key, "kinds");
    }
}
