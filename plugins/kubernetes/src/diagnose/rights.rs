//! What the identities of a cluster may do of what a backup and a restore need. Asked of the cluster's own
//! access control, which changes nothing.

use super::inside::some;
use crate::kind::is;
use crate::policy::Policy;
use strongroom_plugin::kube::{Cluster, Kind, Question};
use strongroom_plugin::prelude::*;

/// Questions in one call, half of what the host takes.
const BATCH: usize = 500;
/// Questions for one check: who names a thousand namespaces waits seconds, not minutes.
const MAX_QUESTIONS: usize = 6_000;

/// What a restore does with an object: it is read, created, and its managers are put back.
const RESTORE_VERBS: [&str; 3] = ["get", "create", "patch"];
/// What whoever makes a role needs, beside, to grant more than it has itself.
const ROLE_VERBS: [&str; 2] = ["bind", "escalate"];

/// What came of many questions.
#[derive(Debug, Default)]
struct Asked {
    n: usize,
    missing: Vec<String>,
    unasked: usize,
}

impl Asked {
    fn evidence(&self) -> String {
        let unasked = match self.unasked {
            0 => String::new(),
            n => format!("; {n} more were not asked"),
        };
        format!("{} of {}: {}{unasked}", self.missing.len(), self.n, some(&self.missing))
    }
}

/// Whether the job's identity may list what a backup needs.
pub(super) fn of_backup(label: &str, cluster: &Cluster, policy: &Policy, wanted: &[Kind]) -> Check {
    let (id, title) =
        (format!("kubernetes.rights.{label}"), format!("{label}: the job's identity may list what it backs up"));
    let questions: Vec<_> = wanted.iter().map(|kind| question("list", kind, false)).collect();
    let asked = match ask(cluster, &questions, policy.literal_namespaces().as_deref()) {
        Ok(asked) => asked,
        Err(error) => return Check::failed(id, title).evidence(error.to_string()).remedy("kubectl auth can-i --list"),
    };
    if asked.missing.is_empty() {
        return Check::passed(id, title).evidence(format!("{} kinds", wanted.len()));
    }
    Check::failed(id, title)
        .evidence(asked.evidence())
        .cause("the role of the identity does not name these kinds, or is bound in other namespaces")
        .remedy("kubectl create clusterrole strongroom-reader --verb=get,list --resource='*.*', and bind it")
        .remedy("kubectl auth can-i --list --context CONTEXT")
        .remedy("name in exclude_kinds what needs no backup")
}

/// Whether the identity that restores may write what is backed up. Only a warning: a job may be there to
/// back up, and its backups may be restored elsewhere.
pub(super) fn of_restore(label: &str, cluster: &Cluster, policy: &Policy, wanted: &[Kind]) -> Check {
    let (id, title) = (
        format!("kubernetes.restore-rights.{label}"),
        format!("{label}: the identity that restores may write what is backed up"),
    );
    let each = |kind: &Kind| {
        let more: &[&str] = if is_role(kind) { &ROLE_VERBS } else { &[] };
        RESTORE_VERBS.iter().chain(more).map(|verb| question(verb, kind, true)).collect::<Vec<_>>()
    };
    let questions: Vec<_> = wanted.iter().flat_map(each).collect();
    let asked = match ask(cluster, &questions, policy.literal_namespaces().as_deref()) {
        Ok(asked) => asked,
        Err(error) => {
            return Check::warned(id, title)
                .evidence(error.to_string())
                .remedy(format!("see `restore` of [cluster.{label}]: who restores has to be let in as well"));
        }
    };
    if asked.missing.is_empty() {
        return Check::passed(id, title).evidence(format!("{} kinds", wanted.len()));
    }
    Check::warned(id, title)
        .evidence(asked.evidence())
        .cause("the identity may only read, which is well for a backup, and a restore into this cluster would be refused")
        .cause("roles that grant more than their maker has can be made by nobody without the verbs bind and escalate")
        .remedy(format!(
            "give [cluster.{label}] `restore` with an identity of its own, whose role has get, list, create, patch and update"
        ))
        .remedy("kubectl auth can-i create deployments --as IDENTITY")
}

fn is_role(kind: &Kind) -> bool {
    let group = "rbac.authorization.k8s.io";
    is(kind, group, "Role") || is(kind, group, "ClusterRole")
}

fn question(verb: &str, kind: &Kind, restores: bool) -> Question {
    Question { verb: verb.to_owned(), kind: kind.clone(), namespace: None, restores }
}

/// Asks for all namespaces at once, and what is denied there for each namespace by its name, where the
/// settings name them.
fn ask(cluster: &Cluster, questions: &[Question], namespaces: Option<&[&str]>) -> Result<Asked> {
    let mut asked = Asked { n: questions.len(), ..Asked::default() };
    let mut closer = Vec::new();
    for question in denied(cluster, questions)? {
        match namespaces {
            Some(names) if question.kind.namespaced => {
                asked.n += names.len() - 1;
                closer.extend(
                    names.iter().map(|name| Question { namespace: Some((*name).to_owned()), ..question.clone() }),
                );
            }
            _ => asked.missing.push(shown(&question)),
        }
    }
    asked.unasked = closer.len().saturating_sub(MAX_QUESTIONS);
    closer.truncate(MAX_QUESTIONS);
    asked.missing.extend(denied(cluster, &closer)?.iter().map(shown));
    Ok(asked)
}

fn denied(cluster: &Cluster, questions: &[Question]) -> Result<Vec<Question>> {
    let mut denied = Vec::new();
    for some in questions.chunks(BATCH) {
        let answers = cluster.can_i(some)?;
        denied.extend(some.iter().zip(answers).filter(|(_, may)| !may).map(|(question, _)| question.clone()));
    }
    Ok(denied)
}

fn shown(question: &Question) -> String {
    let inside = question.namespace.as_ref().map_or_else(String::new, |name| format!(" in {name}"));
    format!("{} {}{inside}", question.verb, question.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_verb_and_place() {
        let kind = Kind {
            group: "rbac.authorization.k8s.io".into(),
            version: "v1".into(),
            kind: "Role".into(),
            plural: "roles".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        assert!(is_role(&kind));
        let asked = Question { namespace: Some("shop".into()), ..question("escalate", &kind, true) };
        assert!(shown(&asked).starts_with("escalate ") && shown(&asked).ends_with(" in shop"), "{}", shown(&asked));
        let all = Asked { n: 9, missing: vec!["list /Pod".into()], unasked: 3 };
        assert_eq!(all.evidence(), "1 of 9: list /Pod; 3 more were not asked");
    }
}
