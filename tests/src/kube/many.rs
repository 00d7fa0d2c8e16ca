//! Many objects at once, as fast as an API server takes and gives them: kubectl writes one after the other.

use super::{Cluster, START_WAIT};
use crate::wait_until;
use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Requests in flight: an API server on two cores is busy with fewer.
const IN_FLIGHT: usize = 16;
/// How often, and after what time, an object of a kind is tried that is not served yet.
const TRIES: (usize, Duration) = (200, Duration::from_millis(25));

/// `apiVersion` and kind.
type Kind = (String, String);

impl Cluster {
    /// Creates objects as the administrator, in no order.
    pub fn create_many(&self, objects: &[Value]) -> Result<()> {
        let runtime = runtime()?;
        let client = runtime.block_on(self.client())?;
        let wanted: BTreeSet<Kind> = objects.iter().map(kind_of).collect();
        let find = || runtime.block_on(plurals(&client, &wanted));
        let plurals = wait_until("the kinds are served", START_WAIT, find)?;
        let create = |object: &Value| {
            let client = client.clone();
            let path = path(object, &plurals[&kind_of(object)]);
            let body = object.to_string().into_bytes();
            async move { create(&client, &path, body).await.with_context(|| format!("could not create {path}")) }
        };
        let all = futures_util::stream::iter(objects.iter().map(create));
        runtime.block_on(all.buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>()).map(drop)
    }

    /// Every object with these labels, of every kind that can be listed and created, but events.
    pub fn list_many(&self, selector: &str) -> Result<Vec<Value>> {
        let runtime = runtime()?;
        runtime.block_on(async {
            let client = self.client().await?;
            let kinds = all_kinds(&client).await?;
            let list = |((api_version, kind), plural): (Kind, String)| {
                let client = client.clone();
                async move {
                    let path = format!("{}/{plural}?labelSelector={selector}", root(&api_version));
                    let mut found = ask(&client, Method::GET, &path, Vec::new()).await?;
                    let mut items: Vec<Value> = found["items"]
                        .as_array_mut()
                        .map(std::mem::take)
                        .with_context(|| format!("{path} is no list"))?;
                    for item in &mut items {
                        // Lists leave both out.
                        item["apiVersion"] = api_version.as_str().into();
                        item["kind"] = kind.as_str().into();
                    }
                    Ok::<_, anyhow::Error>(items)
                }
            };
            let all = futures_util::stream::iter(kinds.into_iter().map(list)).buffer_unordered(IN_FLIGHT);
            Ok(all.try_collect::<Vec<_>>().await?.concat())
        })
    }

    async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.admin_kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn ask(client: &Client, method: Method, path: &str, body: Vec<u8>) -> Result<Value, kube::Error> {
    let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json").body(body);
    client.request(request.map_err(kube::Error::HttpError)?).await
}

async fn create(client: &Client, path: &str, body: Vec<u8>) -> Result<(), kube::Error> {
    let (tries, pause) = TRIES;
    for _ in 1..tries {
        match ask(client, Method::POST, path, body.clone()).await {
            // A kind is served a moment after its definition says so.
            Err(kube::Error::Api(status)) if status.code == 404 => tokio::time::sleep(pause).await,
            other => return other.map(drop),
        }
    }
    ask(client, Method::POST, path, body).await.map(drop)
}

fn kind_of(object: &Value) -> Kind {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

fn root(api_version: &str) -> String {
    format!("/{}/{api_version}", if api_version.contains('/') { "apis" } else { "api" })
}

/// Where an object is created.
fn path(object: &Value, plural: &str) -> String {
    let root = root(&kind_of(object).0);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}?fieldManager=kubectl-create"),
        None => format!("{root}/{plural}?fieldManager=kubectl-create"),
    }
}

/// What a version serves that can be listed and created: kinds and their plurals.
async fn served(client: &Client, api_version: &str) -> Result<BTreeMap<Kind, String>, kube::Error> {
    let found = ask(client, Method::GET, &root(api_version), Vec::new()).await?;
    let can = |resource: &Value, verb: &str| {
        resource["verbs"].as_array().into_iter().flatten().any(|one| one.as_str() == Some(verb))
    };
    let resources = found["resources"].as_array().into_iter().flatten();
    let whole = resources.filter(|one| can(one, "list") && can(one, "create"));
    let named = whole.filter_map(|one| Some((one["kind"].as_str()?.to_owned(), one["name"].as_str()?.to_owned())));
    Ok(named.map(|(kind, plural)| ((api_version.to_owned(), kind), plural)).collect())
}

/// The plurals of these kinds; none until all of them are served.
async fn plurals(client: &Client, wanted: &BTreeSet<Kind>) -> Result<Option<BTreeMap<Kind, String>>> {
    let versions: BTreeSet<&String> = wanted.iter().map(|(api_version, _)| api_version).collect();
    let mut found = BTreeMap::new();
    for version in versions {
        found.extend(served(client, version).await?);
    }
    Ok(wanted.iter().all(|kind| found.contains_key(kind)).then_some(found))
}

/// Every kind at the version that the server prefers.
async fn all_kinds(client: &Client) -> Result<BTreeMap<Kind, String>> {
    let groups = ask(client, Method::GET, "/apis", Vec::new()).await?;
    let preferred = groups["groups"].as_array().into_iter().flatten();
    let mut versions: Vec<&str> =
        preferred.filter_map(|group| group["preferredVersion"]["groupVersion"].as_str()).collect();
    versions.push("v1");
    let all = versions.into_iter().map(|version| served(client, version));
    let found: Vec<_> = futures_util::stream::iter(all).buffer_unordered(IN_FLIGHT).try_collect().await?;
    Ok(found.into_iter().flatten().filter(|((_, kind), _)| kind != "Event").collect())
}
