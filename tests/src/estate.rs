//! A cluster with something in it: objects of more than fifty kinds, and a sandbox with the job
//! `clusters`, whose component is the plugin `kubernetes`.

mod objects;

pub use objects::{KINDS, LABEL, custom, objects};

use crate::kube::Cluster;
use crate::relay::{private, sha256};
use crate::{Output, Sandbox, plugin, root};
use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

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

/// Creates objects: what lies in no namespace first, the rest with some kubectls at a time.
pub fn create(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    const AT_ONCE: usize = 3;
    let (within, wide): (Vec<Value>, Vec<Value>) =
        objects.iter().cloned().partition(|object| object["metadata"]["namespace"].is_string());
    create_at_once(cluster, &wide, 1)?;
    create_at_once(cluster, &within, AT_ONCE)
}

fn create_at_once(cluster: &Cluster, objects: &[Value], at_once: usize) -> Result<()> {
    let mut running = Vec::new();
    if objects.is_empty() {
        return Ok(());
    }
    for some in objects.chunks(objects.len().div_ceil(at_once)) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": some}).to_string();
        let mut child = cluster
            .kubectl_command(&cluster.admin_kubeconfig())?
            .args(["create", "--validate=false", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start kubectl")?;
        let mut stdin = child.stdin.take().context("the child has no standard input")?;
        let feed = std::thread::spawn(move || drop(stdin.write_all(list.as_bytes())));
        running.push((child, feed));
    }
    for (child, feed) in running {
        let output = child.wait_with_output()?;
        drop(feed.join());
        if !output.status.success() {
            bail!("kubectl create ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

/// Every object of the estate in a cluster, by kind, namespace and name.
pub fn snapshot(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let resources = cluster.kubectl(["api-resources", "--verbs=list,create", "--output=name"])?;
    let all: Vec<&str> = resources.lines().filter(|name| !name.starts_with("events")).collect();
    let found = cluster.get(&[&all.join(","), "--all-namespaces", "--selector", LABEL])?;
    let items = found["items"].as_array().context("a list has items")?;
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
