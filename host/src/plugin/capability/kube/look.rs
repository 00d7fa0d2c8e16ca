//! Looking at single objects, their logs, and what the host may do.

use super::{GuestCluster, MAX_OBJECTS, Named, too_many};
use crate::cluster::{Health, Labels, Question, StepOutcome, Values};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::{kube, types};
use crate::plugin::capability::bytes::GuestSource;
use crate::plugin::guard::Refusal;
use crate::plugin::speech::line;
use crate::plugin::state::State;
use crate::policy::kube::{KubeScope, KubeVerb};
use crate::stream::source::InMemory;
use crate::stream::{Origin, Source};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use std::time::Duration;
use wasmtime::component::Resource;

impl State {
    pub(super) async fn get_object(
        &mut self,
        this: &Resource<GuestCluster>,
        reference: kube::Reference,
    ) -> Result<String, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let kube::Reference { kind, namespace, name } = reference;
        let named = Named::of(&kind, namespace, Some(name.clone()));
        let shows = guard.policy().kube_shows_secret(&open.label, KubeVerb::Get, &named.object(None));
        let marks = self.run.marks.clone();
        let work = async {
            let kind = open.resolve(&kind).await?;
            let blotted = Values::Blotted(marks.as_deref());
            let (text, labels) = open.cluster.get(&kind, named.namespace.as_deref(), &name, blotted).await?;
            let at = named.object(Some(&labels));
            if shows && guard.policy().kube_shows_secret(&open.label, KubeVerb::Get, &at) {
                return Ok(open.cluster.get(&kind, named.namespace.as_deref(), &name, Values::Whole).await?);
            }
            Ok((text, labels))
        };
        let text = Box::pin(open.read(&guard, "kube.cluster.get", KubeVerb::Get, &named, work)).await?;
        guard.moved(text.len());
        Ok(text)
    }

    pub(super) async fn object_body(
        &mut self,
        this: &Resource<GuestCluster>,
        reference: kube::Reference,
    ) -> Result<Resource<GuestSource>, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let kube::Reference { kind, namespace, name } = reference;
        let named = Named::of(&kind, namespace, Some(name.clone()));
        let work = async {
            let kind = open.resolve(&kind).await?;
            let whole = open.cluster.whole(&kind, named.namespace.as_deref(), &name).await?;
            let labels = crate::cluster::labels_in(&whole);
            let inspect = guard.policy().kube_inspects(&open.label, KubeVerb::Get, &named.object(Some(&labels)));
            Ok(((whole, inspect), labels))
        };
        let (whole, inspect) = Box::pin(open.read(&guard, "kube.cluster.body", KubeVerb::Get, &named, work)).await?;
        self.push_source(body_source(&open.label, whole, inspect), None, open.ledger)
    }

    pub(super) async fn wait_for_object(
        &mut self,
        this: &Resource<GuestCluster>,
        reference: kube::Reference,
        wanted: (&str, &str),
        timeout: Duration,
    ) -> Result<(), Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let kube::Reference { kind, namespace, name } = reference;
        let named = Named::of(&kind, namespace, Some(name.clone()));
        let timeout = timeout.min(self.run.limits.stall);
        let work = async {
            let kind = open.resolve(&kind).await?;
            if guard.policy().kube_asks_for_labels(&open.label, KubeVerb::Get, &named.object(None)) {
                // Whose labels are asked for is looked at first, and not waited for.
                let (_, labels) =
                    open.cluster.get(&kind, named.namespace.as_deref(), &name, Values::Blotted(None)).await?;
                if !guard.policy().kube_allows(&open.label, KubeVerb::Get, &named.object(Some(&labels))) {
                    return Ok(((), labels));
                }
                open.cluster.wait(&kind, named.namespace.as_deref(), &name, wanted, timeout).await?;
                return Ok(((), labels));
            }
            open.cluster.wait(&kind, named.namespace.as_deref(), &name, wanted, timeout).await?;
            Ok(((), Labels::new()))
        };
        Box::pin(open.read(&guard, "kube.cluster.wait", KubeVerb::Get, &named, work)).await
    }

    pub(super) async fn pod_logs(
        &mut self,
        this: &Resource<GuestCluster>,
        namespace: String,
        pod: String,
        container: Option<String>,
        tail_lines: Option<u32>,
    ) -> Result<Resource<GuestSource>, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let named = Named {
            kind: "/Pod".to_owned(),
            namespaced: true,
            namespace: Some(namespace.clone()),
            name: Some(pod.clone()),
        };
        let cancel = self.run.cancel.clone();
        let work = async {
            let mut labels = Labels::new();
            let asks = guard.policy().kube_asks_for_labels(&open.label, KubeVerb::Logs, &named.object(None));
            if asks {
                let kind = open.cluster.resolve("", "v1", "pods", "Pod").await?;
                labels = open.cluster.get(&kind, Some(&namespace), &pod, Values::Blotted(None)).await?.1;
            }
            let at = named.object(Some(&labels));
            if asks && !guard.policy().kube_allows(&open.label, KubeVerb::Logs, &at) {
                return Ok((None, labels));
            }
            let mut source = open.cluster.logs(&namespace, &pod, container.as_deref(), tail_lines, &cancel).await?;
            source.inspect = guard.policy().kube_inspects(&open.label, KubeVerb::Logs, &at);
            Ok((Some(source), labels))
        };
        let source = Box::pin(open.read(&guard, "kube.cluster.logs", KubeVerb::Logs, &named, work)).await?;
        let source = source.ok_or_else(|| Error::failed("the log was not opened"))?;
        self.push_source(source, None, open.ledger)
    }

    pub(super) async fn ask_access(
        &mut self,
        this: &Resource<GuestCluster>,
        questions: Vec<kube::Question>,
    ) -> Result<Vec<bool>, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let n_questions = questions.len();
        let (asked, policy, restorer) = (&open, guard.policy(), self.run.restoring.get(&open.label).cloned());
        let who_restores = restorer.as_ref().unwrap_or(&asked.cluster);
        let answer = |question: kube::Question| async move {
            let kube::Question { verb, kind, namespace, restores } = question;
            if verb.is_empty() || verb.len() > 64 || !verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'*') {
                return Err(Error::invalid(format!("\"{}\" is no verb of a cluster", line(&verb))));
            }
            let kind = asked.resolve(&kind).await?;
            let as_whom = if restores { who_restores } else { &asked.cluster };
            // What is granted for some namespaces is used in those alone.
            let places = match (policy.kube_scope(&asked.label, &kind.name(), kind.namespaced), namespace) {
                (KubeScope::Some { names, patterns }, None)
                    if kind.namespaced && patterns.is_empty() && !names.is_empty() && !restores =>
                {
                    names.into_iter().map(Some).collect()
                }
                (_, namespace) => vec![namespace],
            };
            for namespace in places {
                let question = Question { verb: verb.clone(), kind: kind.clone(), namespace };
                if !Box::pin(as_whom.can_i(&question)).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let work = async {
            if n_questions > MAX_OBJECTS {
                return Err(too_many("questions", n_questions).into());
            }
            let answers = futures_util::stream::iter(questions).map(answer).buffered(asked.cluster.in_flight());
            Ok(answers.try_collect().await?)
        };
        open.ask(&guard, "kube.cluster.can-i", work).await
    }
}

/// A whole object as a source. Its length is known, so that it may go into an archive.
pub(super) fn body_source(label: &str, whole: Bytes, inspect: bool) -> Source {
    let mut source = Source::new(Origin::Cluster { label: label.to_owned() }, InMemory::new(whole));
    source.inspect = inspect;
    source
}

/// How a cluster is reached, in the guest's terms.
pub(super) fn health_for_guest(health: Health) -> kube::Health {
    let millis = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).unwrap_or_default();
    let step = |step: crate::cluster::ProbeStep| kube::ProbeStep {
        step: step.step.to_owned(),
        outcome: match step.outcome {
            StepOutcome::Passed => types::Outcome::Passed,
            StepOutcome::Failed => types::Outcome::Failed,
            StepOutcome::Skipped => types::Outcome::Skipped,
        },
        evidence: line(&step.evidence),
        took_ms: u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX),
    };
    kube::Health {
        steps: health.steps.into_iter().map(step).collect(),
        certificate_ends_ms: health.certificate_ends.map(millis),
        credential_ends_ms: health.credential_ends.map(millis),
    }
}
