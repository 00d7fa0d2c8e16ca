//! Which kinds a cluster has. The server's own answer decides what a kind is called and where it lies:
//! what a plugin says of one is held against it.

use super::failure::Doing;
use super::path::encode;
use super::request::Ask;
use super::{Cluster, failure};
use crate::error::{Error, Result};
use futures_util::StreamExt;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything in one answer, where the server has it; else its list of groups.
/// <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// What is not known is looked for again, but not more often than this: a definition that was created
/// just now is served some hundred milliseconds later.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A kind that a cluster serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `ConfigMap`.
    pub kind: String,
    /// Such as `configmaps`.
    pub plural: String,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// What can be done with it, in the server's words.
    pub verbs: Vec<String>,
    /// Whether its status is written on its own.
    pub has_status: bool,
}

impl Kind {
    /// `group/Kind`, as policies name it; the core group is empty.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.kind)
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The kinds of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Every kind once, at the version that the server prefers.
    pub kinds: Vec<Kind>,
    /// Group and version of each that did not answer, and why.
    pub failed: Vec<(String, String)>,
}

/// What was found, and all that is served besides.
pub(super) struct Known {
    discovery: Discovery,
    /// By group, version and plural.
    served: BTreeMap<(String, String, String), Kind>,
    since: Instant,
}

impl Cluster {
    /// The kinds of the cluster, asked for anew.
    ///
    /// Errors: the cluster does not answer. A group that does not is told of in the answer.
    pub async fn kinds(&self) -> Result<Discovery> {
        let known = Box::pin(self.discover()).await?;
        *self.known.lock().await = Some(known.clone());
        Ok(known.discovery.clone())
    }

    /// The kind that a plugin names, as the server has it.
    ///
    /// Errors: `NotFound` for one that is not served; `Invalid` for one that is something else.
    pub async fn resolve(&self, group: &str, version: &str, plural: &str, kind: &str) -> Result<Kind> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        let find = |known: &Known| known.served.get(&key).cloned();
        let found = self.find(find).await?.ok_or_else(|| self.not_served(&api_version(group, version), plural))?;
        if found.kind != kind {
            return Err(Error::invalid(format!("{self}: \"{}\" are not of kind \"{}\"", line(plural), line(kind)))
                .fact("expected", found.kind));
        }
        Ok(found)
    }

    /// The kind of an object, by its own words.
    ///
    /// Errors: `NotFound` for one that is not served in this version.
    pub async fn resolve_object(&self, version: &str, kind: &str) -> Result<Kind> {
        let (group, only) = version.rsplit_once('/').unwrap_or(("", version));
        let find = |known: &Known| {
            let same = |served: &&Kind| served.group == group && served.version == only && served.kind == kind;
            let can_write = |served: &&Kind| served.verbs.iter().any(|verb| verb == "create" || verb == "update");
            known.served.values().filter(same).max_by_key(can_write).cloned()
        };
        self.find(find).await?.ok_or_else(|| self.not_served(version, kind))
    }

    fn not_served(&self, version: &str, kind: &str) -> Error {
        Error::not_found(format!("{self} does not serve \"{}\" of \"{}\"", line(kind), line(version)))
            .hint("is its definition there, and does it still have this version?")
    }

    async fn find(&self, find: impl Fn(&Known) -> Option<Kind>) -> Result<Option<Kind>> {
        let mut known = self.known.lock().await;
        if let Some(at) = &*known {
            let found = find(at);
            if found.is_some() || at.since.elapsed() < LOOK_AGAIN_AFTER {
                return Ok(found);
            }
        }
        let fresh = Box::pin(self.discover()).await?;
        let found = find(&fresh);
        *known = Some(fresh);
        Ok(found)
    }

    async fn discover(&self) -> Result<Arc<Known>> {
        let mut groups = Vec::new();
        let mut failed = Vec::new();
        for root in ["/api", "/apis"] {
            let mut ask = Ask::get(root.to_owned(), Doing::plain("ask which kinds there are"));
            ask.accept = AGGREGATED;
            let body = self.send_ok(&ask).await?;
            let answer: Answered = serde_json::from_slice(&body).map_err(|error| failure::not_json(self, &error))?;
            match answer {
                Answered::Aggregated { items } => groups.extend(items.into_iter().map(Group::from)),
                Answered::Core { versions } => {
                    let names = versions.into_iter().map(|version| (String::new(), version)).collect();
                    self.discover_each(vec![names], &mut groups, &mut failed).await;
                }
                Answered::Groups { groups: found } => {
                    let names = found.into_iter().map(NamedGroup::versions).collect();
                    self.discover_each(names, &mut groups, &mut failed).await;
                }
            }
        }
        Ok(Arc::new(known(groups, failed)))
    }

    /// Asks for each version of each group by itself, as servers before 1.27 want it.
    async fn discover_each(
        &self,
        names: Vec<Vec<(String, String)>>,
        groups: &mut Vec<Group>,
        failed: &mut Vec<(String, String)>,
    ) {
        let ask = |(group, version): (String, String)| async move {
            let path = if group.is_empty() {
                format!("/api/{}", encode(&version))
            } else {
                format!("/apis/{}/{}", encode(&group), encode(&version))
            };
            let found = self.send_ok(&Ask::get(path, Doing::plain("ask for the kinds of a group"))).await;
            let list = found.and_then(|body| {
                serde_json::from_slice::<Resources>(&body).map_err(|error| failure::not_json(self, &error))
            });
            (group, version, list)
        };
        for versions in names {
            let mut found: Vec<_> = futures_util::stream::iter(versions.into_iter().enumerate())
                .map(|(at, name)| {
                    let answer = ask(name);
                    async move { (at, answer.await) }
                })
                .buffer_unordered(self.in_flight())
                .collect()
                .await;
            // In the server's order: the first is the one that it prefers.
            found.sort_by_key(|(at, _)| *at);
            let mut group = Group::default();
            for (_, (name, version, list)) in found {
                group.name.clone_from(&name);
                match list {
                    Ok(list) => group.versions.push((version, list.kinds())),
                    Err(error) => failed.push((api_version(&name, &version), error.message().to_owned())),
                }
            }
            groups.push(group);
        }
    }
}

fn line(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

fn known(groups: Vec<Group>, mut failed: Vec<(String, String)>) -> Known {
    let (mut kinds, mut served) = (Vec::new(), BTreeMap::new());
    for group in groups {
        let mut seen = BTreeSet::new();
        for version in group.stale {
            failed.push((api_version(&group.name, &version), "the server could not reach what serves it".to_owned()));
        }
        for (version, resources) in group.versions {
            for resource in resources {
                let kind = Kind { group: group.name.clone(), version: version.clone(), ..resource };
                if seen.insert(kind.plural.clone()) {
                    kinds.push(kind.clone());
                }
                served.insert((kind.group.clone(), kind.version.clone(), kind.plural.clone()), kind);
            }
        }
    }
    Known { discovery: Discovery { kinds, failed }, served, since: Instant::now() }
}

/// A group with its versions, the preferred one first.
#[derive(Default)]
struct Group {
    name: String,
    versions: Vec<(String, Vec<Kind>)>,
    stale: Vec<String>,
}

/// Any of the three answers.
#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Answered {
    #[serde(rename = "APIGroupDiscoveryList")]
    Aggregated { items: Vec<AggregatedGroup> },
    #[serde(rename = "APIVersions")]
    Core { versions: Vec<String> },
    #[serde(rename = "APIGroupList")]
    Groups { groups: Vec<NamedGroup> },
}

#[derive(Deserialize)]
struct AggregatedGroup {
    #[serde(default)]
    metadata: Named,
    versions: Vec<AggregatedVersion>,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct AggregatedVersion {
    version: String,
    #[serde(default)]
    resources: Vec<AggregatedResource>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    response_kind: Option<ResponseKind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    subresources: Vec<Subresource>,
}

#[derive(Deserialize)]
struct ResponseKind {
    kind: String,
}

#[derive(Deserialize)]
struct Subresource {
    subresource: String,
}

impl From<AggregatedGroup> for Group {
    fn from(group: AggregatedGroup) -> Self {
        let kind = |resource: AggregatedResource| {
            let has_status = resource.subresources.iter().any(|one| one.subresource == "status");
            Some(Kind {
                group: String::new(),
                version: String::new(),
                kind: resource.response_kind?.kind,
                plural: resource.resource,
                namespaced: resource.scope == "Namespaced",
                verbs: resource.verbs,
                has_status,
            })
        };
        let stale = group.versions.iter().filter(|version| version.freshness == "Stale");
        let stale = stale.map(|version| version.version.clone()).collect();
        let versions =
            group.versions.into_iter().map(|v| (v.version, v.resources.into_iter().filter_map(kind).collect()));
        Self { name: group.metadata.name, versions: versions.collect(), stale }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedGroup {
    name: String,
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

impl NamedGroup {
    /// Its versions, the preferred one first.
    fn versions(self) -> Vec<(String, String)> {
        let preferred = self.preferred_version.map(|preferred| preferred.version).unwrap_or_default();
        let mut versions: Vec<_> = self.versions.into_iter().map(|version| version.version).collect();
        versions.sort_by_key(|version| *version != preferred);
        versions.into_iter().map(|version| (self.name.clone(), version)).collect()
    }
}

/// `APIResourceList`.
#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

impl Resources {
    fn kinds(self) -> Vec<Kind> {
        let with_status: BTreeSet<String> =
            self.resources.iter().filter_map(|r| r.name.strip_suffix("/status").map(str::to_owned)).collect();
        let whole = self.resources.into_iter().filter(|resource| !resource.name.contains('/'));
        let kind = |resource: Resource| Kind {
            group: String::new(),
            version: String::new(),
            has_status: with_status.contains(&resource.name),
            kind: resource.kind,
            plural: resource.name,
            namespaced: resource.namespaced,
            verbs: resource.verbs,
        };
        whole.map(kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(known: &Known) -> Vec<String> {
        known.discovery.kinds.iter().map(|kind| format!("{} {}", kind.api_version(), kind.plural)).collect()
    }

    #[test]
    fn every_kind_is_there_once_at_the_preferred_version_and_all_versions_are_served() {
        let resource = |name: &str, scope: &str| {
            json!({"resource": name, "responseKind": {"group": "", "version": "", "kind": "K"}, "scope": scope,
                "verbs": ["list"], "subresources": [{"subresource": "status"}]})
        };
        let list = json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [resource("pods", "Namespaced"), resource("nodes", "Cluster")]}]},
            {"metadata": {"name": "a.b"}, "versions": [
                {"version": "v2", "resources": [resource("new", "Cluster"), resource("both", "Cluster")], "freshness": "Current"},
                {"version": "v1", "resources": [resource("both", "Cluster"), resource("old", "Cluster")]},
            ]},
            {"metadata": {"name": "down.example.org"}, "versions": [{"version": "v1", "freshness": "Stale"}]},
        ]});
        let Answered::Aggregated { items } = serde_json::from_value(list).unwrap() else { unreachable!() };
        let known = known(items.into_iter().map(Group::from).collect(), Vec::new());
        assert_eq!(names(&known), ["v1 pods", "v1 nodes", "a.b/v2 new", "a.b/v2 both", "a.b/v1 old"]);
        assert!(known.served.contains_key(&("a.b".into(), "v1".into(), "both".into())));
        assert_eq!(known.discovery.failed[0].0, "down.example.org/v1");
        assert!(known.discovery.kinds[0].namespaced && !known.discovery.kinds[1].namespaced);
        assert!(known.discovery.kinds.iter().all(|kind| kind.has_status));
    }

    #[test]
    fn an_old_server_names_the_preferred_version_and_subresources_are_no_kinds() {
        let group: NamedGroup =
            serde_json::from_value(json!({"name": "g", "versions": [{"version": "v1beta1"}, {"version": "v1"}],
            "preferredVersion": {"version": "v1"}}))
            .unwrap();
        assert_eq!(group.versions().iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        let list: Resources = serde_json::from_value(json!({"resources": [
            {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["get"]},
            {"name": "pods/status", "kind": "Pod", "namespaced": true},
            {"name": "pods/exec", "kind": "PodExecOptions"},
        ]}))
        .unwrap();
        let kinds = list.kinds();
        assert_eq!((kinds.len(), kinds[0].has_status), (1, true));
    }
}
