//! Turning a backup into files: clean manifests for a Git repository, and lines for [`crate::compare`].
//!
//! Secrets are never written. What is written depends on nothing but the backup and the options, so that
//! exporting twice gives the same bytes.

mod left_out;
mod place;
mod writer;

use crate::compare::Seen;
use crate::inventory::{Archive, ClusterInventory, Inventory};
use crate::kind::{Rank, rank};
use crate::mapping::Mapping;
use crate::recorded;
use crate::restore::{chosen, target};
use crate::rules;
use crate::selection::Selection;
use crate::settings::{Options, Settings};
use crate::yaml;
use left_out::left_out;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use strongroom_plugin::prelude::*;
use writer::Files;

/// The list of what was left out, and why.
const LEFT_OUT: &str = "left-out.txt";

/// What the clusters have in common, and what is a cluster's own.
const BASE: &str = "base";

pub(crate) fn manifests(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let options = &request.options;
    let selection = Selection::parse(options)?;
    let inventory = Inventory::read()?;
    let clusters = chosen(&inventory, &selection, options)?;
    let common = if clusters.len() > 1 { Common::find(&clusters, &selection, options)? } else { Common::default() };

    let mut export = Export {
        options,
        selection: &selection,
        mapping: Mapping::of(options),
        files: Files::open(options, request.plan_only)?,
        resources: HashMap::new(),
        left_out: Vec::new(),
    };
    for (number, cluster) in clusters.iter().enumerate() {
        let label = target(cluster, options);
        for archive in &cluster.archives {
            let common = (clusters.len() > 1).then_some(&common);
            export.archive(&label, archive, common, number == 0)?;
        }
    }
    let labels: Vec<String> = clusters.iter().map(|cluster| target(cluster, options)).collect();
    export.kustomizations(&labels)?;
    export.left_out()?;
    let n_left_out = export.left_out.len();
    let done = export.files.finish()?;
    let place = options.to_bucket.as_deref().unwrap_or_default();
    Step::passed("write manifests", place).note(format!("{} files", done.written)).report();
    if done.removed > 0 {
        Step::passed("remove files", place).note(format!("{} of an earlier export", done.removed)).report();
    }
    if options.repository == Options::default().repository && done.written > 1 {
        let note = format!("the Applications in argocd/ name {}: no repository was given", options.repository);
        Step::skipped("name the repository", place).note(note).report();
    }
    if n_left_out > 0 {
        Step::skipped("write manifests", place)
            .note(format!("{n_left_out} objects are left out, Secrets among them; {LEFT_OUT} names each and says why"))
            .report();
    }
    Ok(())
}

/// Writes one line of JSON for each object, in one file for each cluster and kind: the other side of a
/// comparison.
pub(crate) fn lines(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let options = &request.options;
    let selection = Selection::parse(options)?;
    let inventory = Inventory::read()?;
    let mut files = Files::open(options, request.plan_only)?;
    let mut n = 0_u64;
    let meant = |cluster: &&ClusterInventory| crate::compare::is_compared_with(&cluster.label, &selection, options);
    let clusters: Vec<_> = inventory.clusters.iter().filter(meant).collect();
    if clusters.is_empty() {
        let labels: Vec<&str> = inventory.clusters.iter().map(|cluster| cluster.label.as_str()).collect();
        return Err(Error::invalid(format!("options.to_clusters: the other backup holds {}", labels.join(", "))));
    }
    for cluster in clusters {
        for archive in cluster.archives.iter().filter(|archive| selection.kind(&archive.kind())) {
            let key = crate::compare::key(&cluster.label, &archive.group, &archive.kind);
            let mut file = files.stream(&key)?;
            for seen in Seen::recorded(archive, &selection)? {
                let mut line = serde_json::to_vec(&seen?)?;
                line.push(b'\n');
                file.write_all(&line)?;
                n += 1;
            }
            file.finish()?;
        }
    }
    files.finish()?;
    Step::passed("write lines", options.to_bucket.as_deref().unwrap_or_default()).note(format!("{n} objects")).report();
    Ok(())
}

/// One export on its way.
struct Export<'a> {
    options: &'a Options,
    selection: &'a Selection,
    mapping: Mapping,
    files: Files,
    /// Files by the folder that lists them: `base`, or the overlay of a cluster.
    resources: HashMap<String, Vec<(Rank, String)>>,
    left_out: Vec<String>,
}

impl Export<'_> {
    /// The objects of one kind. Without `common` all of them are base; with it, those that all clusters
    /// have alike are written with the first cluster, and the others into the overlay.
    fn archive(&mut self, label: &str, archive: &Archive, common: Option<&Common>, first: bool) -> Result<()> {
        let kind = archive.kind();
        if !self.selection.kind(&kind) {
            return Ok(());
        }
        for recorded in recorded::open(archive)? {
            let recorded = recorded?;
            if !self.selection.place(&kind, recorded.namespace.as_deref(), &recorded.name) {
                continue;
            }
            let mut object: Value = serde_json::from_str(&recorded.json)?;
            if !self.selection.labels(&object) {
                continue;
            }
            if let Some(why) = left_out(&kind, &object) {
                let path = recorded.path.strip_suffix(".json").unwrap_or(&recorded.path);
                let path = path.strip_prefix("_/").unwrap_or(path);
                self.left_out.push(format!("{label}: {kind} {path}: {why}"));
                continue;
            }
            let is_common = common.is_none_or(|common| common.holds(archive, &recorded.path));
            if is_common && !first {
                continue;
            }
            manifest(&kind, &mut object);
            self.mapping.apply(&kind, &mut object);
            let namespace = recorded.namespace.as_deref().map(|name| self.mapping.namespace(name));
            let name = object["metadata"]["name"].as_str().unwrap_or(&recorded.name).to_owned();
            let within = place::file(&kind, namespace.as_deref(), &name);
            let folder = if is_common { BASE.to_owned() } else { format!("overlays/{label}") };
            self.files.write(&format!("{folder}/{within}"), yaml::document(&object).as_bytes())?;
            self.resources.entry(folder).or_default().push((rank(&archive.group, &archive.kind), within));
        }
        Ok(())
    }

    fn kustomizations(&mut self, labels: &[String]) -> Result<()> {
        let base = self.resources.remove(BASE);
        let has_base = base.is_some();
        if let Some(base) = base {
            self.files.write(&format!("{BASE}/kustomization.yaml"), kustomization(base, false).as_bytes())?;
        }
        for label in labels {
            let own = self.resources.remove(&format!("overlays/{label}")).unwrap_or_default();
            if own.is_empty() && !has_base {
                continue;
            }
            self.files
                .write(&format!("overlays/{label}/kustomization.yaml"), kustomization(own, has_base).as_bytes())?;
            let application = yaml::document(&application(label, self.options));
            self.files.write(&format!("argocd/{label}.yaml"), application.as_bytes())?;
        }
        Ok(())
    }

    fn left_out(&mut self) -> Result<()> {
        self.left_out.sort();
        let mut text = "# Objects of the backup that are not in these manifests, and why.\n".to_owned();
        self.left_out.iter().for_each(|line| {
            text.push_str(line);
            text.push('\n');
        });
        self.files.write(LEFT_OUT, text.as_bytes())
    }
}

/// What belongs into a repository: what is meant, without the clusters' own names for it.
fn manifest(kind: &strongroom_plugin::kube::Kind, object: &mut Value) {
    rules::intent(kind, object);
    // Owners have uids, which no repository can know.
    crate::clean::remove(object, &["metadata", "ownerReferences"]);
    crate::clean::remove(object, &["metadata", "labels", "kubernetes.io/metadata.name"]);
    if object["spec"].as_object().is_some_and(serde_json::Map::is_empty)
        && let Some(map) = object.as_object_mut()
    {
        map.remove("spec");
    }
}

fn kustomization(mut resources: Vec<(Rank, String)>, with_base: bool) -> String {
    resources.sort();
    let mut paths: Vec<Value> = Vec::with_capacity(resources.len() + 1);
    if with_base {
        paths.push(json!(format!("../../{BASE}")));
    }
    paths.extend(resources.into_iter().map(|(_, path)| Value::from(path)));
    yaml::document(&json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": paths,
    }))
}

fn application(label: &str, options: &Options) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": label, "namespace": "argocd"},
        "spec": {
            "project": "default",
            "source": {
                "repoURL": options.repository,
                "targetRevision": options.revision,
                "path": format!("{}overlays/{label}", options.path),
            },
            // By the name under which Argo CD knows the cluster.
            "destination": {"name": label},
            // Nothing is pruned or synced before somebody has looked.
            "syncPolicy": {"syncOptions": ["ServerSideApply=true", "RespectIgnoreDifferences=true"]},
        },
    })
}

/// Which objects all clusters have alike. 40 bytes for each object.
#[derive(Debug, Default)]
struct Common {
    clusters: usize,
    objects: HashMap<u128, (u128, usize)>,
}

impl Common {
    fn find(clusters: &[&ClusterInventory], selection: &Selection, options: &Options) -> Result<Self> {
        let mut common = Self { clusters: clusters.len(), objects: HashMap::new() };
        let mapping = Mapping::of(options);
        for cluster in clusters {
            for archive in cluster.archives.iter().filter(|archive| selection.kind(&archive.kind())) {
                let kind = archive.kind();
                for recorded in recorded::open(archive)? {
                    let recorded = recorded?;
                    if recorded.unseen.is_some() {
                        continue;
                    }
                    let mut object: Value = serde_json::from_str(&recorded.json)?;
                    if left_out(&kind, &object).is_some() {
                        continue;
                    }
                    manifest(&kind, &mut object);
                    mapping.apply(&kind, &mut object);
                    common.add(archive, &recorded.path, &object.to_string());
                }
            }
        }
        Ok(common)
    }

    fn add(&mut self, archive: &Archive, path: &str, json: &str) {
        let (digest, n) = (digest(json), self.objects.entry(digest(&Self::id(archive, path))));
        n.and_modify(|(first, n)| *n += usize::from(*first == digest)).or_insert((digest, 1));
    }

    fn holds(&self, archive: &Archive, path: &str) -> bool {
        self.objects.get(&digest(&Self::id(archive, path))).is_some_and(|(_, n)| *n == self.clusters)
    }

    fn id(archive: &Archive, path: &str) -> String {
        format!("{}/{} {path}", archive.group, archive.kind)
    }
}

/// 128 bits that equal texts share, and others do not: an accident, not an attack, is what they are for.
fn digest(text: &str) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        text.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(0) << 64) | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_plugin::kube::Kind;

    #[test]
    fn a_manifest_holds_what_is_meant() {
        let kind = Kind {
            group: String::new(),
            version: "v1".into(),
            kind: "Namespace".into(),
            plural: "namespaces".into(),
            namespaced: false,
            verbs: Vec::new(),
        };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "uid": "u", "labels": {"kubernetes.io/metadata.name": "shop"},
                "ownerReferences": [{"uid": "o"}]},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        manifest(&kind, &mut object);
        assert_eq!(object, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    }

    #[test]
    fn kustomizations_list_files_in_restore_order() {
        let text =
            kustomization(vec![(Rank::CUSTOM, "b/x.yaml".into()), (rank("", "Namespace"), "c.yaml".into())], true);
        assert_eq!(
            text,
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - \"../../base\"\n  - c.yaml\n  - b/x.yaml\n"
        );
        let options =
            Options { repository: "https://git.test/x.git".into(), path: "k8s/".into(), ..Options::default() };
        assert_eq!(application("prod", &options)["spec"]["source"]["path"], "k8s/overlays/prod");
    }

    #[test]
    fn what_all_clusters_have_alike_is_common() {
        let archive = Archive {
            artifact: "x".into(),
            group: String::new(),
            version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
            namespaced: true,
            objects: 1,
            bytes: 1,
            restarted: false,
            converted: false,
        };
        let mut common = Common { clusters: 2, objects: HashMap::new() };
        for (path, json) in [("a/x", "1"), ("a/y", "1"), ("a/z", "1"), ("a/x", "1"), ("a/y", "2")] {
            common.add(&archive, path, json);
        }
        assert!(common.holds(&archive, "a/x"));
        assert!(!common.holds(&archive, "a/y") && !common.holds(&archive, "a/z") && !common.holds(&archive, "b/x"));
    }
}
