//! A job that narrows its plugin's grants: which of them hold, by name. Pure.
//!
//! A narrowing takes away and gives nothing, and it is kept in mind, so that a refusal can say where
//! to look.

use super::slot::quoted;
use super::{Decision, Grants, Policy, toml_text};
use std::collections::BTreeSet;

/// Which grants of a plugin hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    /// The table that says so, such as `job.orders` or `job.orders.restore`.
    pub table: String,
    /// Names as [`Grants::names`] has them.
    pub names: BTreeSet<String>,
}

impl Narrowing {
    /// The key that says so.
    pub fn rule(&self) -> String {
        format!("{}.grants", self.table)
    }
}

/// The name of a grant of one of the kinds that have a label: `exec.pg_dump`, `bucket.media`, `kube.prod`.
pub(super) fn name_of(kind: &str, label: &str) -> String {
    format!("{kind}.{label}")
}

impl Grants {
    /// What of the grants can be named: `exec.LABEL`, `bucket.LABEL`, `kube.LABEL`, `artifacts`, `scratch`, `metrics`.
    pub fn names(&self) -> BTreeSet<String> {
        let labelled = self.exec.keys().map(|label| name_of("exec", label));
        let labelled = labelled.chain(self.buckets.keys().map(|label| name_of("bucket", label)));
        let labelled = labelled.chain(self.kube.keys().map(|label| name_of("kube", label)));
        let whole = [
            ("artifacts", self.artifacts.is_some()),
            ("scratch", self.scratch.is_some()),
            ("metrics", self.metrics.is_some()),
        ];
        labelled.chain(whole.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name.to_owned())).collect()
    }

    /// Takes away what is not named.
    pub fn narrow(&mut self, narrowing: &Narrowing) {
        let gone: BTreeSet<String> = self.names().difference(&narrowing.names).cloned().collect();
        self.exec.retain(|label, _| !gone.contains(&name_of("exec", label)));
        self.buckets.retain(|label, _| !gone.contains(&name_of("bucket", label)));
        self.kube.retain(|label, _| !gone.contains(&name_of("kube", label)));
        self.artifacts.take_if(|_| gone.contains("artifacts"));
        self.scratch.take_if(|_| gone.contains("scratch"));
        self.metrics.take_if(|_| gone.contains("metrics"));
        self.withheld.extend(gone.into_iter().map(|name| (name, narrowing.clone())));
    }
}

impl Policy {
    /// The refusal of what the plugin is granted and does not hold in this job.
    pub(super) fn withheld(&self, name: &str) -> Option<Decision> {
        let narrowing = self.grants.withheld.get(name)?;
        let reason = format!("{} narrows its plugin's grants, and {} is not among them", narrowing.table, quoted(name));
        let names: Vec<_> = narrowing.names.iter().map(String::as_str).chain([name]).map(toml_text).collect();
        let missing = format!("[{}]\ngrants = [{}]", narrowing.table, names.join(", "));
        Some(Decision::deny(narrowing.rule(), reason, missing))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exec::ExecCall;
    use super::super::kube::KubeCall;
    use super::super::metrics::{MetricsCall, MetricsGrant};
    use super::super::scratch::{MIN_BYTES, ScratchGrant};
    use super::super::storage::{ArtifactCall, ArtifactGrant, ArtifactVerb, BucketCall};
    use super::super::{Call, Occasion, Verb};
    use super::*;

    fn grants() -> Grants {
        let scratch = ScratchGrant { bytes: MIN_BYTES, verbs: [Verb::Backup].into() };
        let metrics = MetricsGrant {
            prefix: Some("x_".to_owned()),
            query: BTreeSet::new(),
            labels: Default::default(),
            when: MetricsGrant::when(MetricsGrant::all_verbs()),
        };
        Grants {
            buckets: [("media".to_owned(), Vec::new())].into(),
            kube: [("prod".to_owned(), Vec::new())].into(),
            artifacts: Some(ArtifactGrant::default()),
            scratch: Some(scratch),
            metrics: Some(metrics),
            ..Grants::default()
        }
    }

    fn narrowing(table: &str, names: &[&str]) -> Narrowing {
        Narrowing { table: table.to_owned(), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn what_a_job_does_not_name_is_denied_and_the_job_is_what_is_named() {
        let mut narrowed = grants();
        narrowed.withheld.insert("exec.dump".to_owned(), narrowing("job.a", &["artifacts"]));
        narrowed.narrow(&narrowing("job.a", &[]));
        assert_eq!(narrowed.names(), BTreeSet::new());
        let policy = Policy {
            plugin: "p".to_owned(),
            grants: narrowed,
            occasion: Occasion { verb: Verb::Backup, plan_only: false },
            settings: serde_json::Value::Null,
        };
        let exec = ExecCall { command: "dump", slots: &[], stdin: None, reads_output: false, program: None };
        for (name, call) in [
            ("exec.dump", Call::Exec(exec)),
            ("bucket.media", Call::Bucket(BucketCall { bucket: "media", verb: None, key: None, part: None })),
            ("kube.prod", Call::Kube(KubeCall { cluster: "prod", verb: None, objects: &[] })),
            ("artifacts", Call::Artifact(ArtifactCall { verb: ArtifactVerb::Put, name: "x" })),
            ("scratch", Call::Scratch),
            ("metrics", Call::Metrics(MetricsCall::Write("x_y"))),
        ] {
            let decision = policy.decide(&call);
            assert!(!decision.allowed, "{name}");
            assert_eq!(decision.rule, "job.a.grants", "{name}: {decision:?}");
            assert!(
                decision.reason.contains(&format!("job.a narrows its plugin's grants, and \"{name}\"")),
                "{decision:?}"
            );
        }
    }

    #[test]
    fn a_second_narrowing_takes_away_and_never_gives() {
        let mut narrowed = grants();
        narrowed.narrow(&narrowing("job.a", &["artifacts", "kube.prod", "exec.never"]));
        narrowed.narrow(&narrowing("job.a.restore", &["artifacts", "metrics"]));
        assert_eq!(narrowed.names(), BTreeSet::from(["artifacts".to_owned()]));
        let by = |name: &str| narrowed.withheld[name].rule();
        assert_eq!(by("metrics"), "job.a.grants");
        assert_eq!(by("kube.prod"), "job.a.restore.grants");
        let policy = Policy {
            plugin: "p".to_owned(),
            grants: narrowed,
            occasion: Occasion { verb: Verb::Restore, plan_only: false },
            settings: serde_json::Value::Null,
        };
        let denied = policy.decide(&Call::Kube(KubeCall { cluster: "prod", verb: None, objects: &[] }));
        assert_eq!(denied.missing, "[job.a.restore]\ngrants = [\"artifacts\", \"metrics\", \"kube.prod\"]");
    }
}
