//! Clusters, for a person who decides: what is asked for, what is effective, and who is the
//! administrator by it.

use super::{Effective, Request, whole};
use crate::plugin::manifest::KubeRequest;
use crate::plugin::speech::line;
use crate::policy::kube::{KubeGrant, KubeVerb, NamePattern};

/// What follows where a grant gives power over the cluster.
pub(super) const ADMINISTRATOR: &str = "cluster administrator";

/// The verbs of which a function needs one; none for those that ask about the cluster itself.
fn verbs_of(function: &str) -> &'static [KubeVerb] {
    match function {
        "cluster.objects" | "listing.next-page" | "listing.body" => &[KubeVerb::List],
        "cluster.get" | "cluster.body" | "cluster.wait" => &[KubeVerb::Get],
        "cluster.apply" | "cluster.apply-unseen" => &[KubeVerb::Apply, KubeVerb::DryRun],
        "cluster.delete" => &[KubeVerb::Delete],
        "cluster.logs" => &[KubeVerb::Logs],
        _ => &[],
    }
}

/// Whether grants, or requests, cover a function on any occasion.
pub(super) fn covers<'a>(function: &str, mut grants: impl Iterator<Item = &'a KubeGrant>) -> bool {
    let verbs = verbs_of(function);
    grants.any(|grant| verbs.is_empty() || verbs.iter().any(|verb| grant.may.contains(verb)))
}

/// What a grant is for, in words.
pub(super) fn what(grant: &KubeGrant) -> String {
    let may: Vec<_> = grant.may.iter().map(|verb| verb.name()).collect();
    let kinds: Vec<_> = grant.kinds.iter().map(String::as_str).collect();
    let list = |what: &str, patterns: &[NamePattern]| {
        let names: Vec<_> = patterns.iter().map(NamePattern::as_str).collect();
        if names.is_empty() { String::new() } else { format!(" {what} {}", names.join(", ")) }
    };
    let labels: String = grant.labels.iter().map(|(key, value)| format!(" with {key}={value}")).collect();
    let namespaces = list("in", &grant.namespaces);
    let namespaces = if namespaces.is_empty() { " in all namespaces".to_owned() } else { namespaces };
    let names = list("named", &grant.names);
    let secrets = if grant.secret_data { "; sees the values of Secrets" } else { "" };
    let power = if grant.is_administrator() { format!("; {ADMINISTRATOR}") } else { String::new() };
    whole(&format!("{} of {}{namespaces}{names}{labels}{secrets}{power}", may.join(", "), kinds.join(", ")))
}

/// A request for people. In which namespaces is the operator's to say.
pub(super) fn request(request: &KubeRequest) -> Request {
    Request {
        kind: "kube",
        name: line(&request.setting),
        reason: line(&request.reason),
        what: what(&request.as_grant()).replacen(" in all namespaces", " in the namespaces that are granted", 1),
        slots: Vec::new(),
        secrets: Vec::new(),
        verbs: request.verbs.iter().copied().collect(),
        effect: request.effect,
        scratch: request.scratch,
        inspect: request.inspect,
    }
}

/// A grant for people.
pub(super) fn effective(label: &str, grant: &KubeGrant) -> Effective {
    Effective {
        kind: "kube",
        name: label.to_owned(),
        what: what(grant),
        verbs: grant.when.verbs.iter().copied().collect(),
        effect: grant.when.effect,
        inspect: grant.inspect,
    }
}
