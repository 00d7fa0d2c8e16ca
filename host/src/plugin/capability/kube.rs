//! `kube`: resources of clusters. Text enters the plugin where a list or an object is granted, bodies
//! only where `inspect` is, and values of Secrets nowhere without a grant of their own.
//!
//! What a plugin says a kind is called is held against what the cluster says, before anything is asked
//! for under its name.

mod list;
mod look;
mod ready;
mod unseen;
mod write;

pub use list::GuestListing;

use crate::cluster::{Ahead, Cluster, Discovery, Kind, Labels};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::{kube, types};
use crate::plugin::capability::bytes::GuestSource;
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::ledger::Ledger;
use crate::plugin::speech::line;
use crate::plugin::state::State;
use crate::policy::Call;
use crate::policy::kube::{KubeCall, KubeObject, KubeVerb};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Resource;

/// Most objects, references or questions of one call.
const MAX_OBJECTS: usize = 1000;

/// A cluster in the guest's hands: an opening is a promise of nothing, each call is decided on its own.
pub struct GuestCluster {
    label: String,
    cluster: Arc<Cluster>,
    /// Its kinds, where they were asked for and not taken yet.
    kinds: Option<Ahead<Result<Discovery>>>,
    /// Counts what is read of it.
    ledger: Arc<Ledger>,
}

/// A cluster, for as long as one call of it takes.
#[derive(Clone)]
struct Open {
    label: String,
    cluster: Arc<Cluster>,
    ledger: Arc<Ledger>,
}

/// What a guest names: an object, or many of a kind.
#[derive(Clone, Debug)]
struct Named {
    /// `group/Kind`.
    kind: String,
    namespaced: bool,
    namespace: Option<String>,
    name: Option<String>,
}

impl Named {
    fn of(kind: &kube::Kind, namespace: Option<String>, name: Option<String>) -> Self {
        Self { kind: format!("{}/{}", kind.group, kind.kind), namespaced: kind.namespaced, namespace, name }
    }

    fn object<'a>(&'a self, labels: Option<&'a Labels>) -> KubeObject<'a> {
        KubeObject {
            kind: &self.kind,
            namespaced: self.namespaced,
            namespace: self.namespace.as_deref(),
            name: self.name.as_deref(),
            labels,
        }
    }
}

impl Open {
    /// The kind that a guest names, as the cluster has it.
    async fn resolve(&self, kind: &kube::Kind) -> Result<Kind> {
        let found = Box::pin(self.cluster.resolve(&kind.group, &kind.version, &kind.plural, &kind.kind)).await?;
        if found.namespaced != kind.namespaced {
            return Err(Error::invalid(format!("kind \"{}\" is not what the cluster says it is", line(&kind.kind))));
        }
        Ok(found)
    }

    /// Does something with one object that a guest names: decided by its name, and by its labels once
    /// they are known, which `work` gives with what it found.
    async fn read<T>(
        &self,
        guard: &Guard,
        function: &'static str,
        verb: KubeVerb,
        named: &Named,
        work: impl Future<Output = Result<(T, Labels), Refusal>>,
    ) -> Result<T, Refusal> {
        let objects = [named.object(None)];
        let call = Call::Kube(KubeCall { cluster: &self.label, verb: Some(verb), objects: &objects });
        let asks = guard.policy().kube_asks_for_labels(&self.label, verb, &objects[0]);
        let work = async {
            let (found, labels) = work.await?;
            if asks {
                let known = [named.object(Some(&labels))];
                let call = Call::Kube(KubeCall { cluster: &self.label, verb: Some(verb), objects: &known });
                let decision = guard.policy().decide(&call);
                if !decision.allowed {
                    return Err(guard.deny(function, decision));
                }
            }
            Ok(found)
        };
        // A request has its own time, and so have those that are made for one call.
        guard.pass_on(&self.ledger, function, Some(&call), Deadline::Own, work).await
    }

    /// Asks something about the cluster itself.
    async fn ask<T>(
        &self,
        guard: &Guard,
        function: &'static str,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let call = Call::Kube(KubeCall { cluster: &self.label, verb: None, objects: &[] });
        guard.pass_on(&self.ledger, function, Some(&call), Deadline::Own, work).await
    }
}

impl State {
    fn kube(&self, this: &Resource<GuestCluster>) -> Result<Open, Refusal> {
        let cluster = self.table.get(this)?;
        Ok(Open {
            label: cluster.label.clone(),
            cluster: Arc::clone(&cluster.cluster),
            ledger: Arc::clone(&cluster.ledger),
        })
    }

    fn configured(&self, label: &str) -> Result<Arc<Cluster>> {
        self.run.clusters.get(label).cloned().ok_or_else(|| {
            Error::not_found(format!("no cluster is named \"{}\"", line(label)))
                .hint(format!("add [cluster.{}] to the configuration", line(label)))
        })
    }
}

impl From<Kind> for kube::Kind {
    fn from(kind: Kind) -> Self {
        let Kind { group, version, kind, plural, namespaced, verbs, .. } = kind;
        Self { group, version, kind, plural, namespaced, verbs }
    }
}

fn too_many(what: &str, got: usize) -> Error {
    Error::invalid(format!("too many {what} in one call"))
        .fact("expected", format!("at most {MAX_OBJECTS}"))
        .fact("got", got.to_string())
}

impl kube::Host for State {
    async fn open(&mut self, label: String) -> Result<Resource<GuestCluster>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let cluster = self.configured(&label)?;
            let ledger = guard.ledger("cluster", &label);
            Ok(self.table.push(GuestCluster { label: label.clone(), cluster, kinds: None, ledger })?)
        };
        let call = Call::Kube(KubeCall { cluster: &label, verb: None, objects: &[] });
        guard.pass("kube.open", Some(&call), Deadline::Own, work).await
    }

    async fn first_ready(
        &mut self,
        clusters: Vec<Resource<GuestCluster>>,
        listings: Vec<Resource<GuestListing>>,
    ) -> Result<kube::Ready, Refusal> {
        Box::pin(self.first_to_answer(&clusters, &listings)).await
    }

    async fn probe(&mut self, label: String) -> Result<kube::Health, Refusal> {
        let guard = self.guard.clone();
        let cluster = self.configured(&label);
        let work = async {
            let cluster = cluster?;
            Ok(look::health_for_guest(Box::pin(cluster.probe()).await))
        };
        let call = Call::Kube(KubeCall { cluster: &label, verb: None, objects: &[] });
        guard.pass("kube.probe", Some(&call), Deadline::Own, work).await
    }
}

impl kube::HostCluster for State {
    async fn version(&mut self, this: Resource<GuestCluster>) -> Result<String, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(&this)?);
        let work = async { Ok(Box::pin(open.cluster.version()).await?) };
        open.ask(&guard, "kube.cluster.version", work).await
    }

    async fn kinds(&mut self, this: Resource<GuestCluster>) -> Result<kube::Discovery, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(&this)?);
        let asked = self.table.get_mut(&this)?.kinds.take();
        let work = async {
            let found = match asked {
                Some(asked) => asked.answer().await??,
                None => Box::pin(open.cluster.kinds()).await?,
            };
            Ok(kube::Discovery { kinds: found.kinds.into_iter().map(Into::into).collect(), failed: found.failed })
        };
        open.ask(&guard, "kube.cluster.kinds", work).await
    }

    async fn objects(
        &mut self,
        this: Resource<GuestCluster>,
        selection: kube::Selection,
    ) -> Result<Resource<GuestListing>, Refusal> {
        Box::pin(self.list_objects(&this, selection)).await
    }

    async fn get(&mut self, this: Resource<GuestCluster>, reference: kube::Reference) -> Result<String, Refusal> {
        Box::pin(self.get_object(&this, reference)).await
    }

    async fn body(
        &mut self,
        this: Resource<GuestCluster>,
        reference: kube::Reference,
    ) -> Result<Resource<GuestSource>, Refusal> {
        Box::pin(self.object_body(&this, reference)).await
    }

    async fn apply(
        &mut self,
        this: Resource<GuestCluster>,
        objects: Vec<String>,
        options: kube::WriteOptions,
    ) -> Result<Vec<Result<kube::Written, types::Error>>, Refusal> {
        Box::pin(self.apply_objects(&this, objects, options)).await
    }

    async fn apply_unseen(
        &mut self,
        this: Resource<GuestCluster>,
        objects: Vec<kube::Unseen>,
        options: kube::WriteOptions,
    ) -> Result<Vec<Result<kube::Written, types::Error>>, Refusal> {
        Box::pin(self.apply_stored(&this, objects, options)).await
    }

    async fn delete(
        &mut self,
        this: Resource<GuestCluster>,
        references: Vec<kube::Reference>,
    ) -> Result<Vec<Result<(), types::Error>>, Refusal> {
        Box::pin(self.delete_objects(&this, references)).await
    }

    async fn wait(
        &mut self,
        this: Resource<GuestCluster>,
        reference: kube::Reference,
        condition: String,
        value: String,
        timeout_ms: u64,
    ) -> Result<(), Refusal> {
        let timeout = Duration::from_millis(timeout_ms);
        Box::pin(self.wait_for_object(&this, reference, (&condition, &value), timeout)).await
    }

    async fn logs(
        &mut self,
        this: Resource<GuestCluster>,
        namespace: String,
        pod: String,
        container: Option<String>,
        tail_lines: Option<u32>,
    ) -> Result<Resource<GuestSource>, Refusal> {
        Box::pin(self.pod_logs(&this, namespace, pod, container, tail_lines)).await
    }

    async fn can_i(
        &mut self,
        this: Resource<GuestCluster>,
        questions: Vec<kube::Question>,
    ) -> Result<Vec<bool>, Refusal> {
        Box::pin(self.ask_access(&this, questions)).await
    }

    async fn drop(&mut self, this: Resource<GuestCluster>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
