//! How large a cluster is: what a backup of it takes grows with that.

use crate::clean::text;
use serde_json::Value;
use std::collections::BTreeSet;
use strongroom_plugin::kube::{Cluster, Kind};
use strongroom_plugin::prelude::*;

/// Pods that are counted: a list of more takes longer than somebody waits for a diagnosis.
const MAX_PODS: u64 = 20_000;
/// Kinds of which a cluster has most that evidence names.
const LARGEST: usize = 5;

/// Pods, and the nodes that they are on. Nodes themselves are nothing that the plugin may read.
#[derive(Debug, Default)]
pub(super) struct Pods {
    n: u64,
    nodes: BTreeSet<String>,
    without_node: u64,
    has_more: bool,
}

impl Pods {
    fn add(&mut self, pod: &Value) {
        self.n += 1;
        match text(pod, &["spec", "nodeName"]) {
            Some(node) => {
                self.nodes.insert(node.to_owned());
            }
            None => self.without_node += 1,
        }
    }

    fn shown(&self) -> String {
        let pending = match self.without_node {
            0 => String::new(),
            n => format!(", {n} of them on none yet"),
        };
        let (more, least) = if self.has_more { ("more than ", "at least ") } else { ("", "") };
        format!("{more}{} pods on {least}{} nodes{pending}", self.n, self.nodes.len())
    }
}

/// Counts pods.
pub(super) fn count(cluster: &Cluster, kind: &Kind) -> Result<Pods> {
    let mut pods = Pods::default();
    let mut listing = cluster.list(kind).start()?;
    while let Some(page) = listing.next_page()? {
        if pods.n >= MAX_PODS {
            pods.has_more = true;
            break;
        }
        for json in page.objects {
            pods.add(&serde_json::from_str(&json)?);
        }
    }
    Ok(pods)
}

/// How large a cluster is. No size is wrong.
pub(super) fn judge(label: &str, pods: Option<Result<Pods>>, last: Option<&Made>) -> Check {
    let (id, title) =
        (format!("kubernetes.size.{label}"), format!("{label}: how large it is, as far as it may be read"));
    let (check, seen) = match pods {
        Some(Ok(pods)) => (Check::passed(id, title), pods.shown()),
        Some(Err(error)) => (Check::skipped(id, title), format!("pods are not counted: {error}")),
        None => (Check::skipped(id, title), "the cluster serves no pods".to_owned()),
    };
    check.evidence(match last.and_then(|last| largest(label, last)) {
        Some(recorded) => format!("{seen}; {recorded}"),
        None => seen,
    })
}

/// The kinds of which the last backup holds most.
fn largest(label: &str, last: &Made) -> Option<String> {
    let prefix = format!("{label}/");
    let mut kinds: Vec<(u64, &str)> = last
        .facts_under(&prefix)
        .filter_map(|(of, n)| Some((n.parse().ok()?, of.rsplit('/').next().unwrap_or(of))))
        .collect();
    kinds.sort_by(|one, other| other.cmp(one));
    let objects = last.fact(&format!("{label}.objects"))?;
    let most: Vec<String> = kinds.iter().take(LARGEST).map(|(n, kind)| format!("{n} {kind}")).collect();
    Some(format!("in the last backup {objects} objects of {} kinds, most of all {}", kinds.len(), most.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_and_the_nodes_that_they_are_on_are_counted() {
        let mut pods = Pods::default();
        for node in ["n-1", "n-2", "n-1"] {
            pods.add(&json!({"spec": {"nodeName": node}}));
        }
        assert_eq!(pods.shown(), "3 pods on 2 nodes");
        pods.add(&json!({"spec": {}}));
        assert_eq!(pods.shown(), "4 pods on 2 nodes, 1 of them on none yet");
        pods.has_more = true;
        assert_eq!(pods.shown(), "more than 4 pods on at least 2 nodes, 1 of them on none yet");
    }

    #[test]
    fn the_kinds_of_which_there_are_most_are_those_of_the_last_backup() {
        let facts = [
            ("prod.objects", "60"),
            ("prod/v1/ConfigMap", "20"),
            ("prod/apps/v1/Deployment", "30"),
            ("prod/v1/Secret", "5"),
            ("prod/v1/Service", "2"),
            ("prod/batch/v1/Job", "2"),
            ("prod/batch/v1/CronJob", "1"),
            ("other/v1/Secret", "900"),
        ];
        let last = Made {
            backup_id: "x".into(),
            created: Timestamp { ms: 0 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: facts.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            skipped: Vec::new(),
            state: String::new(),
        };
        let said = "in the last backup 60 objects of 6 kinds, most of all 30 Deployment, 20 ConfigMap, 5 Secret, 2 Service, 2 Job";
        let check = judge("prod", Some(Ok(Pods::default())), Some(&last));
        assert_eq!((check.outcome, check.evidence), (Outcome::Passed, format!("0 pods on 0 nodes; {said}")));
        let denied = judge("prod", Some(Err(Error::Denied("no".into()))), None);
        assert!(denied.outcome == Outcome::Skipped && denied.evidence.starts_with("pods are not counted: "));
        assert_eq!(largest("spare", &last), None, "no backup of it yet");
    }
}
