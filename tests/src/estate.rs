//! A cluster with something in it: objects of more than fifty kinds, and a sandbox with the job
//! `clusters`, whose component is the plugin `kubernetes`.

mod objects;

pub use objects::{KINDS, LABEL, custom, objects};

use crate::kube::Cluster;
use crate::relay::{private, sha256};
use crate::warm::Warm;
use crate::{Output, Sandbox, plugin, root};
use age::secrecy::ExposeSecret;
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

/// The kinds that the plugin asks for, as its manifest lists them.
fn requested_kinds() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("plugins/kubernetes/plugin.toml")).expect("the plugin's manifest");
    let manifest: toml::Table = text.parse().expect("a manifest is TOML");
    let kinds = manifest["request"]["kube"][0]["kinds"].as_array().expect("a request names kinds");
    kinds.iter().map(|kind| kind.as_str().expect("a kind is text").to_owned()).collect()
}

/// A sandbox with the job `clusters`.
#[derive(Debug)]
pub struct Estate {
    /// Where everything is.
    pub sandbox: Sandbox,
}

impl Estate {
    /// Clusters by their labels; `settings` and `options` are TOML lines of the job's settings and of the
    /// options of the target `there`.
    pub fn new(clusters: &[(&str, &Cluster)], settings: &str, options: &str) -> Self {
        let place = |cluster: &Cluster| format!("context = \"admin\"\nkubeconfig = {:?}", cluster.admin_kubeconfig());
        let places: Vec<(&str, String)> = clusters.iter().map(|(label, cluster)| (*label, place(cluster))).collect();
        Self::at(&places, settings, options)
    }

    /// The same with clusters as TOML lines of `[cluster.LABEL]`.
    pub fn at(clusters: &[(&str, String)], settings: &str, options: &str) -> Self {
        let estate = Self::cold(clusters, settings, options);
        static WARM: Warm = Warm::new("kubernetes");
        WARM.give(&estate.sandbox, || {
            // A cluster that answers nothing: the plugin is compiled to find that out.
            let nowhere = "api = \"https://127.0.0.1:1\"\ntoken = { file = \"token\" }".to_owned();
            let estate = Self::cold(&[("nowhere", nowhere)], "clusters = [\"nowhere\"]", "");
            private(&estate.sandbox.write("token", "none"));
            estate.run(&["diagnose", "clusters"]).check_code(5);
            estate.sandbox
        });
        estate
    }

    /// The same, and the plugin has yet to be compiled.
    fn cold(clusters: &[(&str, String)], settings: &str, options: &str) -> Self {
        let sandbox = Sandbox::new();
        let identity = age::x25519::Identity::generate();
        let recipients = [&identity, &age::x25519::Identity::generate()].map(|one| one.to_public().to_string());
        private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        std::fs::create_dir(sandbox.path("store")).expect("the store's folder");
        let component = plugin("kubernetes").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).expect("the plugin kubernetes"));
        let mut config = format!(
            r#"
[store.main]
type = "local"
path = "store"
recipients = {recipients:?}
identity = {{ file = "identity.txt" }}

[plugin.kubernetes]
source = "{source}"
sha256 = "{digest}"

[plugin.kubernetes.grant.artifacts]
inspect = ["inventory[.]json", ".*[.]objects[.].*"]

[target.there]
[target.there.options]
{options}

[job.clusters]
plugin = "kubernetes"
store = "main"

[job.clusters.settings]
{settings}
"#,
            source = component.display(),
        );
        let kinds = requested_kinds();
        for (label, place) in clusters {
            config.push_str(&format!("[cluster.{label}]\n{place}\n"));
            for (may, verbs, effect, scratch) in [
                ("\"list\", \"get\"", "\"backup\", \"verify\", \"restore\", \"diagnose\"", "reads", false),
                ("\"dry-run\"", "\"verify\", \"restore\"", "reads", false),
                ("\"apply\"", "\"restore\"", "changes", false),
                ("\"apply\", \"delete\"", "\"verify\"", "changes", true),
            ] {
                config.push_str(&format!(
                    "[[plugin.kubernetes.grant.kube.{label}]]\nmay = [{may}]\nkinds = {kinds:?}\nverbs = [{verbs}]\n\
                     effect = \"{effect}\"\nscratch = {scratch}\n"
                ));
            }
        }
        sandbox.config(&config);
        Self { sandbox }
    }

    /// Runs `strongroom` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sandbox.run(args)
    }

    /// Makes a backup that must end with this exit code, and returns its id.
    #[track_caller]
    pub fn backup(&self, code: i32) -> String {
        let made = self.run(&["backup", "clusters", "--output", "json"]);
        made.check_code(code);
        made.json()["id"].as_str().expect("a backup has an id").to_owned()
    }
}

/// Creates objects: what lies in no namespace first, then accounts, and quotas behind what they count.
pub fn create(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    let stage = |object: &Value| match object["kind"].as_str() {
        _ if object["metadata"]["namespace"].is_null() => 0,
        Some("ServiceAccount") => 1,
        Some("ResourceQuota") => 3,
        _ => 2,
    };
    for wanted in 0..4 {
        let some: Vec<Value> = objects.iter().filter(|object| stage(object) == wanted).cloned().collect();
        cluster.create_many(&some)?;
    }
    Ok(())
}

/// Every object of the estate in a cluster, by kind, namespace and name.
pub fn snapshot(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let items = cluster.list_many(LABEL)?;
    let key = |item: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &item["metadata"];
        format!(
            "{} {} {}/{}",
            text(&item["apiVersion"]),
            text(&item["kind"]),
            text(&metadata["namespace"]),
            text(&metadata["name"])
        )
    };
    // Those that the cluster makes from its Services get new names.
    let made = |item: &&Value| item["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"].is_string();
    Ok(items.iter().filter(|item| !made(item)).map(|item| (key(item), item.clone())).collect())
}

/// Deletes every object of the estate, and waits until all of it is gone.
pub fn wipe(cluster: &Cluster) -> Result<()> {
    let list = cluster.kubectl(["api-resources", "--verbs=list,delete", "--namespaced=false", "--output=name"])?;
    let first = "namespaces";
    let mut kinds: Vec<&str> = list.lines().filter(|name| *name != first).collect();
    kinds.insert(0, first);
    cluster.kubectl(["delete", &kinds.join(","), "--selector", LABEL, "--wait=true", "--timeout=120s"]).map(drop)
}
