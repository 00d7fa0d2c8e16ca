//! Which pod: by name or by selector, only one that is ready, and the same one for a whole run.
//!
//! Whoever can make a pod that a selector matches receives secrets and restored data. So a pod can be
//! pinned to a service account and an image, and who changes something gets none of several.

use super::{Choice, Pod, Several};
use crate::cluster::{Kind as ApiKind, Listing, Scope, Selection, Shown};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::sync::Arc;

/// Pods that are named in an error.
const SHOWN_PODS: usize = 10;

/// The pod and the container of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Name of the pod.
    pub name: String,
    /// Tells it from another one that gets the same name.
    pub uid: String,
    /// Name of the container.
    pub container: String,
}

/// What is read of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Found {
    metadata: Metadata,
    spec: PodSpec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    service_account_name: String,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "imageID")]
    image_id: String,
    state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<serde_json::Value>,
}

impl Pod {
    /// The pod of this run: chosen once, and looked at again before each command. A pod that took its
    /// place meanwhile is another one.
    ///
    /// Errors: `NotFound` for none that matches, `Unavailable` for none that is ready or one that is gone
    /// in the middle, `Invalid` for several where one must be named; those of the cluster.
    pub(super) async fn chosen(&self) -> Result<Chosen> {
        if let Some(chosen) = self.chosen.get() {
            let found = self.look(&chosen.name).await.map_err(|error| self.gone(chosen).because(error))?;
            if found.metadata.uid != chosen.uid {
                return Err(self.gone(chosen).fact("got", "another pod of the same name"));
            }
            return match self.usable(&found) {
                Ok(container) if container == chosen.container => Ok(chosen.clone()),
                Ok(_) => Err(self.gone(chosen)),
                Err(why) => Err(self.gone(chosen).fact("got", format!("a pod that {why}"))),
            };
        }
        self.chosen.get_or_try_init(|| self.choose()).await.cloned()
    }

    async fn choose(&self) -> Result<Chosen> {
        let spec = &self.spec;
        let found = match &spec.choice {
            Choice::Name(name) => vec![self.look(name).await?],
            Choice::Selector(selector) => self.list(selector).await?,
        };
        let judged: Vec<_> = found.iter().map(|found| (found, self.usable(found))).collect();
        let mut good: Vec<Chosen> = judged
            .iter()
            .filter_map(|(found, judged)| {
                let (name, uid) = (found.metadata.name.clone(), found.metadata.uid.clone());
                Some(Chosen { name, uid, container: judged.as_ref().ok()?.clone() })
            })
            .collect();
        good.sort_by(|a, b| a.name.cmp(&b.name));
        let list = |lines: Vec<String>| {
            let more = lines.len().saturating_sub(SHOWN_PODS);
            let shown = lines.into_iter().take(SHOWN_PODS).collect::<Vec<_>>().join("; ");
            if more > 0 { format!("{shown}; {more} more") } else { shown }
        };
        match (good.len(), self.several) {
            (0, _) if judged.is_empty() => Err(Error::not_found(format!("there is no pod for {}", self.shown()))
                .hint("correct selector and namespace in run_in, or look why the pods are gone")),
            (0, _) => {
                let why = judged.iter().map(|(found, judged)| {
                    format!("\"{}\" {}", found.metadata.name, judged.as_ref().err().map_or("", String::as_str))
                });
                Err(Error::unavailable(format!("there is no pod to run commands in for {}", self.shown()))
                    .fact("pods", list(why.collect()))
                    .hint("wait until one is ready, or correct run_in"))
            }
            (1, _) | (_, Several::First) => {
                if good.len() > 1 {
                    tracing::warn!(
                        pod = good[0].name,
                        matching = good.len(),
                        "several pods match; taking the first by name"
                    );
                }
                Ok(good.swap_remove(0))
            }
            (_, Several::Refuse) => Err(Error::invalid(format!("several pods match for {}", self.shown()))
                .fact("pods", list(good.iter().map(|chosen| format!("\"{}\"", chosen.name)).collect()))
                .fact("reason", "what is restored, and its secrets, would go to any of them")
                .hint("write name = \"POD\" instead of selector into run_in")),
        }
    }

    /// Its container, or why no command can run there.
    fn usable(&self, found: &Found) -> Result<String, String> {
        let spec = &self.spec;
        if found.metadata.deletion_timestamp.is_some() {
            return Err("is being deleted".to_owned());
        }
        if let Some(pinned) = spec.service_account.as_ref().filter(|pinned| **pinned != found.spec.service_account_name)
        {
            return Err(format!("has the service account \"{}\", not \"{pinned}\"", found.spec.service_account_name));
        }
        let names: Vec<_> = found.spec.containers.iter().map(|container| format!("\"{}\"", container.name)).collect();
        let container = match (&spec.container, found.spec.containers.as_slice()) {
            (Some(name), all) => all
                .iter()
                .find(|container| container.name == *name)
                .ok_or_else(|| format!("has no container \"{name}\", but {}", names.join(", ")))?,
            (None, [only]) => only,
            (None, _) => return Err(format!("has several containers, and run_in names none of {}", names.join(", "))),
        };
        if found.status.phase != "Running" {
            return Err(format!("is {}", found.status.phase));
        }
        let status = found.status.container_statuses.iter().find(|status| status.name == container.name);
        let Some(status) = status.filter(|status| status.state.running.is_some()) else {
            return Err(format!("has a container \"{}\" that does not run", container.name));
        };
        if let Some(pinned) = &spec.image {
            let is_digest = pinned.starts_with("sha256:") && status.image_id.ends_with(&format!("@{pinned}"));
            if !is_digest && *pinned != status.image_id && *pinned != container.image {
                return Err(format!("has the image \"{}\" ({}), not \"{pinned}\"", container.image, status.image_id));
            }
        }
        let is_ready = |condition: &Condition| condition.r#type == "Ready" && condition.status == "True";
        if !found.status.conditions.iter().any(is_ready) {
            return Err("is not ready".to_owned());
        }
        Ok(container.name.clone())
    }

    async fn look(&self, name: &str) -> Result<Found> {
        let whole = self.cluster.whole(&pods(), Some(&self.spec.namespace), name).await?;
        self.decode(&whole)
    }

    async fn list(&self, selector: &str) -> Result<Vec<Found>> {
        let selection = Selection {
            kind: pods(),
            scopes: vec![Scope { namespace: Some(self.spec.namespace.clone()), name: None }],
            label_selector: Some(selector.to_owned()),
            field_selector: None,
            admit: Arc::new(|_, _, _| Shown::Whole),
        };
        let mut listing = Listing::new(self.cluster.clone(), selection);
        let mut found = Vec::new();
        while let Some(page) = listing.next_page().await? {
            for place in 0..page.len() {
                found.extend(page.whole(place).map(|whole| self.decode(&whole)).transpose()?);
            }
        }
        Ok(found)
    }

    fn decode(&self, whole: &[u8]) -> Result<Found> {
        serde_json::from_slice(whole)
            .map_err(|error| Error::failed(format!("{} sent a pod that cannot be read", self.cluster)).because(error))
    }

    fn gone(&self, chosen: &Chosen) -> Error {
        Error::unavailable("the pod of this run is not there any more, or not as it was")
            .fact("expected", format!("{} with uid {}", self.place(chosen), chosen.uid))
            .hint("run it again when a pod is ready")
    }
}

fn pods() -> ApiKind {
    ApiKind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        plural: "pods".to_owned(),
        namespaced: true,
        verbs: ["get", "list"].map(str::to_owned).to_vec(),
        has_status: true,
    }
}
