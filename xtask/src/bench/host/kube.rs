//! Jobs of a cluster: its objects, and a command in one of its pods.

use super::{Host, JOB, Plugin};
use std::path::Path;

/// What is asked for and granted: the two kinds that the cluster is filled with.
const KINDS: &str = "[\"/ConfigMap\", \"bench.example.org/Widget\"]";

fn cluster(kubeconfig: &Path) -> String {
    format!("[cluster.a]\ncontext = \"admin\"\nkubeconfig = \"{}\"\n\n", kubeconfig.display())
}

/// Runs the job's commands in the pod `worker`; appended to a whole configuration.
pub(super) fn run_in_pod(kubeconfig: &Path, namespace: &str) -> String {
    format!(
        "\n{}[job.{JOB}.run_in.pod]\ncluster = \"a\"\nnamespace = \"{namespace}\"\nname = \"worker\"\n",
        cluster(kubeconfig)
    )
}

impl Host {
    pub(super) fn describe_objects(&self, kubeconfig: &Path) -> String {
        let Plugin { path, digest } = &self.plugins[2];
        let grants = [
            ("\"list\", \"get\"", "\"backup\", \"restore\"", "reads"),
            ("\"dry-run\"", "\"restore\"", "reads"),
            ("\"apply\"", "\"restore\"", "changes"),
        ];
        let grants: String = grants
            .iter()
            .map(|(may, verbs, effect)| {
                format!(
                    "[[plugin.kubernetes.grant.kube.a]]\nmay = [{may}]\nkinds = {KINDS}\nverbs = [{verbs}]\n\
                     effect = \"{effect}\"\n\n"
                )
            })
            .collect();
        format!(
            "{}[plugin.kubernetes]\nsource = \"{}\"\nsha256 = \"{digest}\"\n\n\
             [plugin.kubernetes.grant.artifacts]\ninspect = [\"inventory[.]json\", \".*[.]objects[.].*\"]\n\n{grants}\
             [job.{JOB}]\nplugin = \"kubernetes\"\nstore = \"main\"\n\n\
             [job.{JOB}.settings]\nclusters = [\"a\"]\nkinds = {KINDS}\ncluster_resources = false\n",
            cluster(kubeconfig),
            path.display()
        )
    }
}
