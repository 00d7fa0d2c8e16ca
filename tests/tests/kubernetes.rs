//! The plugin `kubernetes` from end to end: real clusters with their controllers running, the real
//! binary, objects of fifty kinds.

mod away;
mod gitops;
mod moving;
mod parallel;
mod refused;
mod scratch;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use strongroom_tests::estate::{self, Estate};
use strongroom_tests::kube::Cluster;
use strongroom_tests::{Output, cached, wait_until};

/// Namespaces of the estate in cluster `a`.
const NAMESPACES: [&str; 2] = ["shop", "db"];
/// Config maps in it.
const MAPS: usize = 1_640;

/// Fields that a cluster gives an object anew, and that must therefore differ or be missing after a
/// restore: everything else of every object is compared.
const GIVEN_ANEW: &[&[&str]] = &[
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "creationTimestamp"],
    &["metadata", "generation"],
    // Who manages what is given back; the times at which they last did are not.
    &["metadata", "managedFields"],
    // Written by controllers from what is there.
    &["status"],
    // Addresses of this cluster.
    &["spec", "clusterIP"],
    &["spec", "clusterIPs"],
    // Names the Job's uid.
    &["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"],
    &["spec", "template", "metadata", "labels", "batch.kubernetes.io/controller-uid"],
    &["spec", "template", "metadata", "labels", "controller-uid"],
];

/// Annotations that only tell the order or the time of changes, which begin anew.
const COUNTED_ANEW: &[&str] = &[
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "endpoints.kubernetes.io/last-change-trigger-time",
];

fn remove(value: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        [last] => drop(value.as_object_mut().and_then(|map| map.remove(*last))),
        [first, rest @ ..] => {
            if let Some(inner) = value.get_mut(*first) {
                remove(inner, rest);
            }
        }
    }
}

/// An object without what a cluster gives it anew.
fn lasting(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == "Service" && object["spec"]["clusterIP"] == "None" {
        object["spec"]["headless"] = true.into();
    }
    GIVEN_ANEW.iter().for_each(|path| remove(&mut object, path));
    COUNTED_ANEW.iter().for_each(|note| remove(&mut object, &["metadata", "annotations", note]));
    if object["metadata"]["annotations"].as_object().is_some_and(serde_json::Map::is_empty) {
        remove(&mut object, &["metadata", "annotations"]);
    }
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        remove(port, &["nodePort"]);
    }
    for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
        remove(owner, &["uid"]);
    }
    object
}

/// Who manages which fields of an object, in which way: without times, and without those of its status.
fn managers(object: &Value) -> BTreeSet<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let lasting = entries.filter(|entry| entry["subresource"].is_null()).map(|entry| {
        let (manager, operation, fields) = (&entry["manager"], &entry["operation"], &entry["fieldsV1"]);
        format!("{manager} {operation} {fields}")
    });
    lasting.collect()
}

/// Fails unless both hold the same objects, less what a cluster gives anew.
#[track_caller]
fn check_same(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    let missing: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    let more: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, more {more:?}");
    let differing: Vec<_> = before
        .iter()
        .map(|(key, object)| (key, lasting(object), lasting(&after[key])))
        .filter(|(_, before, after)| before != after)
        .collect();
    assert!(differing.is_empty(), "{} objects, first: {:#?}", differing.len(), &differing[..differing.len().min(5)]);
}

/// Steps of a restore or a plan with one of these actions.
fn steps(output: &Output, actions: &[&str]) -> Vec<String> {
    let json = output.json();
    let all = json["steps"].as_array().expect("steps").iter();
    all.filter(|step| actions.iter().any(|action| step["action"] == *action)).map(ToString::to_string).collect()
}

/// Cluster `a` with an estate, and a backup of it together with cluster `b`, made once.
struct Fixture {
    a: Cluster,
    estate: Estate,
    backup: String,
    before: BTreeMap<String, Value>,
}

fn b() -> &'static Cluster {
    Cluster::shared("b")
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let a = Cluster::start().unwrap();
        estate::create(&a, &estate::objects(&NAMESPACES, MAPS)).unwrap();
        a.kubectl(["wait", "--for=condition=Established", "crd", "--all"]).unwrap();
        estate::create(&a, &estate::custom(&NAMESPACES)).unwrap();
        // What an operator would make, which goes when its owner does.
        let owner = a.get(&["thing0", "thing.0", "-n", "shop"]).unwrap();
        let mut owned = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
            "metadata": {"name": "owned", "namespace": "shop", "labels": {"estate": "yes"}},
        });
        owned["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "estate.example.org/v1", "kind": "Thing0", "name": "thing.0", "uid": owner["metadata"]["uid"],
            "controller": true,
        }]);
        a.apply(&owned).unwrap();

        // The cluster makes one in every namespace, and this is what an operator puts into it.
        let pulls = r#"{"metadata":{"labels":{"estate":"yes"},"annotations":{"note":"kept"}},"imagePullSecrets":[{"name":"registry"}]}"#;
        let patched = || Ok(a.kubectl(["patch", "serviceaccount", "default", "-n", "shop", "-p", pulls]).ok());
        wait_until("the namespace has its service account", Duration::from_secs(60), patched).unwrap();

        let estate = Estate::new(
            &[("a", &a), ("b", b())],
            "clusters = [\"a\", \"b\"]",
            "to_clusters = { a = \"b\" }\nclusters = [\"a\"]\nmap_namespaces = { shop = \"shop-2\", db = \"db-2\" }\n\
             map_images = { \"old.example.org/\" = \"new.example.org/mirror/\" }",
        );
        let backup = estate.backup(0);
        let before = estate::snapshot(&a).unwrap();
        let kinds: BTreeSet<_> = before
            .values()
            .map(|object| (&object["apiVersion"], &object["kind"]))
            .map(|kind| format!("{kind:?}"))
            .collect();
        assert!(kinds.len() >= estate::KINDS, "{} kinds: {kinds:#?}", kinds.len());
        assert!(before.len() >= 2_000, "{} objects", before.len());
        Fixture { a, estate, backup, before }
    })
}

#[test]
fn a_cluster_that_was_wiped_comes_back_object_by_object() {
    let Fixture { a, estate, backup, before } = fixture();
    let shown = estate.run(&["show", "clusters", backup, "--output", "json"]);
    let facts = shown.check_code(0).json()["record"]["facts"].to_string();
    assert!(facts.contains("a/v1/ConfigMap") && facts.contains("b.version"), "{facts}");
    estate.run(&["verify", "clusters", backup]).check_code(0);

    estate::wipe(a).unwrap();
    assert_eq!(estate::snapshot(a).unwrap().len(), 0);
    let only_a = ["--option", "clusters=[\"a\"]"];
    let restored = estate.run(&[&["restore", "clusters", backup, "--output", "json"][..], &only_a].concat());
    restored.check_code(0);
    let after = estate::snapshot(a).unwrap();
    check_same(before, &after);
    // Who managed which fields before manages them again.
    for (key, object) in before.iter().filter(|(key, _)| key.starts_with("v1 ConfigMap")) {
        assert_eq!(managers(&after[key]), managers(object), "{key}");
    }
    // The reference to the owner names the new one.
    let (owned, owner) = (&after["v1 ConfigMap shop/owned"], &after["estate.example.org/v1 Thing0 shop/thing.0"]);
    assert_eq!(owned["metadata"]["ownerReferences"][0]["uid"], owner["metadata"]["uid"]);
    // Secrets came back with their data, which the plugin has never seen.
    let secret = &after["v1 Secret db/secret-007"];
    assert_eq!(secret["data"], before["v1 Secret db/secret-007"]["data"]);

    let plan = estate.run(&[&["restore", "clusters", backup, "--plan", "--output", "json"][..], &only_a].concat());
    assert_eq!(steps(plan.check_code(0), &["create", "change", "restore", "conflict", "leave alone"]), [""; 0]);
    let drift = estate.run(&[&["diff", "clusters", backup, "live", "--output", "json"][..], &only_a].concat());
    let drift = drift.check_code(0).json();
    let is_ours = |one: &&Value| !gitops::NAMESPACES.iter().any(|name| one["object"].to_string().contains(name));
    let differences: Vec<_> = drift["differences"].as_array().unwrap().iter().filter(is_ours).collect();
    assert_eq!(differences, [&json!(null); 0], "of what the estate holds");
}

#[test]
fn a_backup_goes_into_another_cluster_under_other_names_and_then_nothing_is_left_to_do() {
    let Fixture { estate, backup, before, .. } = fixture();
    let restore = ["restore", "clusters", backup, "--target", "there", "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    let creates = steps(plan.check_code(0), &["create"]);
    assert!(creates.iter().any(|step| step.contains("/Namespace shop-2")), "{creates:#?}");
    // What its own namespace must come before is named as well, and that claims begin empty.
    let named = |what: &str| creates.iter().find(|step| step.contains(what)).unwrap_or_else(|| panic!("{creates:#?}"));
    assert!(named("apps/Deployment shop-2/web").contains("not tried, since its namespace comes first"));
    assert!(named("/PersistentVolumeClaim shop-2/").contains("the volume begins empty; not tried"));
    assert_eq!(steps(&plan, &["restore", "conflict", "change"]), [""; 0]);
    assert_eq!(estate::snapshot(b()).unwrap().len(), 0, "a plan changes nothing");

    estate.run(&restore).check_code(0);
    let after = estate::snapshot(b()).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after.keys().all(|key| !key.contains(" shop/") && !key.contains(" db/")));
    let image = &after["apps/v1 Deployment shop-2/web"]["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "new.example.org/mirror/shop:1");
    let binding = &after["rbac.authorization.k8s.io/v1 ClusterRoleBinding /estate:reader"];
    assert_eq!(binding["subjects"][0]["namespace"], "shop-2");

    let again = estate.run(&[&restore[..], &["--plan"]].concat());
    assert_eq!(steps(again.check_code(0), &["create", "change", "restore", "conflict", "leave alone"]), [""; 0]);
}

/// An option that leaves out what only makes a cluster large: each manifest is a file.
const FEW: &str = "labels=estate=yes,bulk!=yes";

/// Runs `kustomize build` on a folder.
fn build(folder: &Path) -> String {
    let output = std::process::Command::new(cached("kube/kustomize").unwrap())
        .args(["build", "--load-restrictor=LoadRestrictionsNone"])
        .arg(folder)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below a folder with its bytes.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn manifests_make_an_equal_cluster_whose_manifests_are_the_same_bytes() {
    let Fixture { estate, backup, .. } = fixture();
    let export = |job_id: &str, to: &str, more: &[&str]| {
        let args = ["export", "clusters", job_id, "--to", to, "--option", FEW];
        estate.run(&[&args[..], more].concat()).check_code(0);
        files(&estate.sandbox.path(to))
    };
    let only_a = ["--option", "clusters=[\"a\"]"];
    let first = export(backup, "manifests", &only_a);
    assert_eq!(first, export(backup, "again", &only_a), "twice the same bytes");
    assert_eq!(first, export(backup, "manifests", &only_a), "over itself as well");
    for (name, bytes) in &first {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("c2VjcmV0L") && !text.contains("secret-shop-"), "{name} has a secret: {text}");
        assert!(
            !text.contains("\nstatus:") && !text.contains("uid:") && !text.contains("clusterIP: 10."),
            "{name}: {text}"
        );
    }
    let listed = String::from_utf8_lossy(&first["left-out.txt"]).into_owned();
    assert!(
        listed.contains("a: /Secret shop/secret-007: a Secret of type Opaque with the keys password, user"),
        "{listed}"
    );
    assert!(first["argocd/a.yaml"].starts_with(b"apiVersion: argoproj.io/v1alpha1\nkind: Application\n"));

    let built = build(&estate.sandbox.path("manifests/overlays/a"));
    assert_eq!(built.matches("\n---\n").count() + 1, first.keys().filter(|name| name.starts_with("base/")).count() - 1);
    let c = refused::faulty();
    // Objects of kinds that are only being defined are refused once.
    for attempt in 0..2 {
        let mut child = c
            .kubectl_command(&c.admin_kubeconfig())
            .unwrap()
            .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, text) = (child.stdin.take().unwrap(), built.clone());
        let feed = std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, text.as_bytes())));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        assert!(attempt == 0 || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        c.kubectl(["wait", "--for=condition=Established", "crd", "--selector", estate::LABEL]).unwrap();
    }
    let second = Estate::new(&[("c", c)], &format!("clusters = [\"c\"]\n{}", refused::WITHOUT_FAULTS), "");
    let id = second.backup(0);
    let as_a = ["--option", "to_clusters={\"c\":\"a\"}", "--option", FEW];
    let args = ["export", "clusters", &id, "--to", "manifests"];
    second.run(&[&args[..], &as_a].concat()).check_code(0);
    let mut found = files(&second.sandbox.path("manifests"));
    let mut expected = first.clone();
    // Secrets are in no manifest, and so not in the second cluster.
    found.remove("left-out.txt");
    expected.remove("left-out.txt");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert_eq!(String::from_utf8_lossy(&found[name]), String::from_utf8_lossy(bytes), "{name}");
    }
}

/// A sandbox with the shared cluster `b`, for one namespace of it.
fn of_namespace(namespace: &str, options: &str) -> Estate {
    let settings = format!("clusters = [\"b\"]\nnamespaces = [{namespace:?}]\ncluster_resources = false");
    Estate::new(&[("b", b())], &settings, options)
}

fn config_map(namespace: &str, name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"text": text}})
}

/// A deployment "web" of one container.
fn deployment(namespace: &str, replicas: u32, image: &str) -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": image}]}}},
    })
}

#[test]
fn a_cluster_that_cannot_be_reached_leaves_the_others_whole_and_the_run_incomplete() {
    let namespace = b().namespace("whole").unwrap();
    b().apply(&config_map(&namespace, "kept", "x")).unwrap();
    let there = format!("context = \"admin\"\nkubeconfig = {:?}", b().admin_kubeconfig());
    let gone = format!("api = \"https://127.0.0.1:1\"\nca = {:?}\ntoken = {{ file = \"token\" }}", b().ca_file());
    let settings = format!("clusters = [\"gone\", \"b\"]\nnamespaces = [{namespace:?}]\ncluster_resources = false");
    let estate = Estate::at(&[("gone", gone.clone()), ("b", there.clone())], &settings, "");
    strongroom_tests::relay::private(&estate.sandbox.write("token", "none"));
    let id = estate.backup(3);
    let shown = estate.run(&["show", "clusters", &id, "--output", "json"]);
    let record = shown.check_code(0).json()["record"].clone();
    assert_eq!(record["outcome"], "incomplete");
    assert!(record["skipped"].to_string().contains("cluster gone"), "{}", record["skipped"]);
    assert!(record["facts"].to_string().contains("b/v1/ConfigMap"), "{}", record["facts"]);
    assert_eq!(record["source_id"], Value::Null, "which cluster the other is, nobody knows yet");

    // The one that was away comes, goes and comes again: it is the same job all the time.
    let config = estate.sandbox.path("strongroom.toml");
    let away = std::fs::read_to_string(&config).unwrap();
    let whole = away.replace(&gone, &there);
    assert_ne!(whole, away);
    let mut sources = std::collections::BTreeSet::new();
    for (text, code) in [(&whole, 0), (&away, 3), (&whole, 0)] {
        std::fs::write(&config, text).unwrap();
        let id = estate.backup(code);
        let shown = estate.run(&["show", "clusters", &id, "--output", "json"]);
        sources.insert(shown.check_code(0).json()["record"]["source_id"].to_string());
    }
    assert!(sources.len() == 1 && sources.iter().all(|id| id.contains("gone=") && id.contains(",b=")), "{sources:?}");
    std::fs::write(&config, &away).unwrap();

    let found = estate.run(&["diagnose", "clusters", "--output", "json"]);
    let checks = found.check_code(5).json()["checks"].clone();
    let outcome = |id: &str| {
        let check = checks.as_array().unwrap().iter().find(|check| check["id"] == id);
        check.unwrap_or_else(|| panic!("no check {id}: {checks:#}"))["outcome"].clone()
    };
    assert_eq!(outcome("kubernetes.tcp.gone"), "failed");
    let tcp = checks.as_array().unwrap().iter().find(|check| check["id"] == "kubernetes.tcp.gone").unwrap();
    assert!(
        tcp["evidence"].to_string().contains("other ports where API servers are found: 6443, 443, 80, 8080"),
        "{tcp}"
    );
    assert_eq!(outcome("kubernetes.clusters.reachable"), "failed");
    for id in ["dns", "tcp", "tls", "authentication", "health", "latency", "rights", "apis", "size"] {
        assert_eq!(outcome(&format!("kubernetes.{id}.b")), "passed", "{id}");
    }
}

#[test]
fn what_a_cluster_refuses_is_named_and_stops_nothing_else() {
    let (from, to) = (b().namespace("refuse").unwrap(), b().namespace("tight").unwrap());
    for name in ["one", "two", "three"] {
        b().apply(&config_map(&from, name, "recorded")).unwrap();
    }
    let port = json!([{"port": 80}]);
    b().apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": from}, "spec": {"ports": port}}))
        .unwrap();
    let estate =
        of_namespace(&from, &format!("map_namespaces = {{ {from} = {to:?} }}\nexclude_kinds = [\"/Endpoints\"]"));
    let id = estate.backup(0);
    // One is there and is another, one does not fit the quota any more.
    b().apply(&config_map(&to, "one", "edited")).unwrap();
    let hard = json!({"hard": {"count/configmaps": "2"}});
    b().apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": to}, "spec": hard}))
        .unwrap();
    let used = ["get", "resourcequota", "small", "-n", to.as_str(), "-o", "jsonpath={.status.used}"];
    wait_until("the quota to count", Duration::from_secs(60), || {
        Ok::<_, anyhow::Error>(b().kubectl(used)?.contains("\"2\"").then_some(()))
    })
    .unwrap();

    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    let left = steps(plan.check_code(0), &["leave alone"]);
    assert!(left[0].contains("data.text") && left[0].contains("edited") && left[0].contains("recorded"), "{left:#?}");
    let refused = steps(&plan, &["restore"]);
    for name in ["two", "three"] {
        let told = refused.iter().find(|step| step.contains(&format!("/ConfigMap {to}/{name}"))).expect("it is named");
        assert!(told.contains("exceeded quota: small") && told.contains("raise the ResourceQuota \\\"small"), "{told}");
    }
    let restored = estate.run(&restore);
    let error = restored.check_code(6).json();
    let text = error.to_string();
    assert!(text.contains("exceeded quota") && text.contains("raise the ResourceQuota"), "{error:#}");
    b().kubectl(["get", "service", "web", "-n", &to]).unwrap();
    // A job that backs up what is in there is told before its restore is.
    let there = of_namespace(&to, "");
    let found = there.run(&["diagnose", "clusters", "--output", "json"]).json()["checks"].clone();
    let quota = found.as_array().unwrap().iter().find(|check| check["id"] == "kubernetes.quota.b").unwrap();
    assert!(quota["outcome"] != "passed" && quota["evidence"].to_string().contains("small"), "{quota:#}");
    let kept = b().get(&["configmap", "one", "-n", &to]).unwrap();
    assert_eq!(kept["data"]["text"], "edited", "what exists stays");

    // Another manager's field: a conflict that names it; forced, it is taken over.
    let merge = [&restore[..], &["--option", "existing=merge", "--option", "names=[\"one\"]"]].concat();
    let conflict = estate.run(&[&merge[..], &["--plan"]].concat());
    let found = steps(conflict.check_code(0), &["conflict"]);
    assert!(found.len() == 1 && found[0].contains("kubectl") && found[0].contains("data.text"), "{found:#?}");
    estate.run(&[&merge[..], &["--option", "force=true"]].concat()).check_code(0);
    assert_eq!(b().get(&["configmap", "one", "-n", &to]).unwrap()["data"]["text"], "recorded");
}

#[test]
fn a_difference_between_two_backups_is_told_field_by_field() {
    let namespace = b().namespace("drift").unwrap();
    for (name, text) in [("same", "x"), ("edited", "before"), ("gone", "x")] {
        b().apply(&config_map(&namespace, name, text)).unwrap();
    }
    let estate = of_namespace(&namespace, "");
    let first = estate.backup(0);
    b().apply(&config_map(&namespace, "edited", "after")).unwrap();
    b().apply(&config_map(&namespace, "new", "x")).unwrap();
    b().kubectl(["delete", "configmap", "gone", "-n", &namespace]).unwrap();
    let second = estate.backup(0);
    for other in [second.as_str(), "live"] {
        let found = estate.run(&["diff", "clusters", &first, other, "--exit-code", "--output", "json"]);
        let mut differences: Vec<String> = found.check_code(5).json()["differences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{} {} {}", one["change"], one["object"], one["fields"]).replace(['\\', '"'], ""))
            .collect();
        differences.sort();
        assert_eq!(
            differences,
            [
                format!("added b: /ConfigMap {namespace}/new "),
                format!("changed b: /ConfigMap {namespace}/edited data.text before -> after"),
                format!("removed b: /ConfigMap {namespace}/gone "),
            ],
            "{other}"
        );
    }
    let none = estate.run(&["diff", "clusters", &second, "live", "--exit-code"]);
    none.check_code(0).check_stdout("no difference");
}

#[test]
fn immutable_fields_are_explained_replacing_takes_everything_and_lost_owners_are_dropped() {
    let (from, to) = (b().namespace("old").unwrap(), b().namespace("new").unwrap());
    let mut fixed = config_map(&from, "fixed", "recorded");
    fixed["immutable"] = true.into();
    b().apply(&fixed).unwrap();
    b().apply(&config_map(&from, "edited", "recorded")).unwrap();
    let boss = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "boss", "namespace": from}});
    b().apply(&boss).unwrap();
    let uid = b().get(&["serviceaccount", "boss", "-n", &from]).unwrap()["metadata"]["uid"].clone();
    let mut owned = config_map(&from, "owned", "x");
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": "boss", "uid": uid}]);
    b().apply(&owned).unwrap();
    let options = format!("map_namespaces = {{ {from} = {to:?} }}\nkinds = [\"/ConfigMap\"]\nexisting = \"replace\"");
    let estate = of_namespace(&from, &options);
    let id = estate.backup(0);

    let mut other = config_map(&to, "fixed", "edited");
    other["immutable"] = true.into();
    b().apply(&other).unwrap();
    let mut edited = config_map(&to, "edited", "edited");
    edited["data"]["more"] = "of it".into();
    b().apply(&edited).unwrap();

    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    let changes = steps(plan.check_code(0), &["change"]);
    assert!(changes.iter().any(|step| step.contains("data.more") && step.contains("data.text")), "{changes:#?}");
    let restored = estate.run(&restore);
    let text = restored.check_code(6).json().to_string();
    assert!(text.contains("immutable") && text.contains("cannot be changed in place"), "{text}");
    assert!(text.contains("without its owner ServiceAccount boss"), "{text}");
    let found = |name: &str| b().get(&["configmap", name, "-n", &to]).unwrap();
    assert_eq!(found("edited")["data"], json!({"text": "recorded"}), "replaced as a whole");
    assert_eq!(found("fixed")["data"]["text"], "edited");
    assert_eq!(found("owned")["metadata"]["ownerReferences"], Value::Null);
}
