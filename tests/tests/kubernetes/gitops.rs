//! A repository made from a backup of two clusters, and what differs between two clusters or two moments.

use super::{b, config_map, files, fixture};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::Cluster;
use strongroom_tests::{BRIEF_GO, cached, wait_until};

/// What these tests make in the cluster of the estate.
pub(super) const NAMESPACES: [&str; 2] = ["gitops", "drift-of-two"];

/// A namespace of this name in both clusters, with what the controllers put into it, and a sandbox whose job
/// backs up nothing else.
fn in_both(namespace: &str) -> ([&'static Cluster; 2], Estate) {
    let clusters = [&fixture().a, b()];
    for cluster in clusters {
        cluster.kubectl(["create", "namespace", namespace]).unwrap();
    }
    for cluster in clusters {
        let made = || cluster.kubectl(["get", "sa/default", "cm/kube-root-ca.crt", "-n", namespace]).map(Some);
        wait_until("what controllers make", std::time::Duration::from_secs(60), made).unwrap();
    }
    let settings = format!("clusters = [\"a\", \"b\"]\nnamespaces = [{namespace:?}]\ncluster_resources = false");
    (clusters, Estate::new(&[("a", clusters[0]), ("b", clusters[1])], &settings, ""))
}

fn secret(namespace: &str, name: &str, password: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "stringData": {"user": "shop", "password": password}})
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// `kustomize build` as Argo CD calls it: nothing outside of the repository is read but a base.
fn build(folder: &Path) -> String {
    let mut command = std::process::Command::new(cached("kube/kustomize").unwrap());
    let output = command.arg("build").arg(folder).env_clear().envs(BRIEF_GO).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What applying these manifests would change in a cluster, as kubectl shows it.
fn would_change(cluster: &Cluster, manifests: &str) -> String {
    let mut child = cluster
        .kubectl_command(&cluster.admin_kubeconfig())
        .unwrap()
        .args(["diff", "--server-side", "--force-conflicts", "-f", "-"])
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // 1 is a difference, more is an error.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless the overlay of a cluster is that cluster: it has each of its objects, and would change none.
#[track_caller]
fn check_is(cluster: &Cluster, namespace: &str, overlay: &Path) {
    let built = build(overlay);
    assert_eq!(would_change(cluster, &built), "");
    let live = cluster.kubectl(["get", "configmaps,services", "-n", namespace, "-o", "name"]).unwrap();
    for name in live.lines().map(|line| line.split('/').nth(1).unwrap()).filter(|name| *name != "kube-root-ca.crt") {
        assert!(built.contains(&format!("\n  name: {name}\n")), "{name} in {built}");
    }
}

fn without<'a>(
    files: &BTreeMap<String, Vec<u8>>,
    names: impl IntoIterator<Item = &'a str>,
) -> BTreeMap<String, String> {
    let mut files = files.clone();
    names.into_iter().for_each(|name| assert!(files.remove(name).is_some(), "{name} is gone"));
    files.into_iter().map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap())).collect()
}

#[test]
fn two_clusters_share_a_base_and_their_overlays_are_those_clusters() {
    const NAMESPACE: &str = NAMESPACES[0];
    let ([a, b], estate) = in_both(NAMESPACE);
    let port = json!([{"port": 80}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE}, "spec": {"ports": port}});
    let of = |name: &str, text: &str| config_map(NAMESPACE, name, text);
    let password = secret(NAMESPACE, "db", "hunter2hunter2");
    a.apply(&list(&[of("same", "x"), of("differs", "1"), of("only-a", "x"), service.clone(), password.clone()]))
        .unwrap();
    b.apply(&list(&[of("same", "x"), of("differs", "2"), service, password])).unwrap();
    let export = |id: &str, to: &str| {
        estate.run(&[
            "export",
            "clusters",
            id,
            "--to",
            to,
            "--repository",
            "https://git.example.org/ops.git",
            "--revision",
            "main",
            "--path",
            "clusters/",
        ])
    };
    let path = |name: &str| estate.sandbox.path(name);
    let first = estate.backup(0);
    export(&first, "ops").check_code(0);
    let exported = files(&path("ops"));
    let maps: Vec<_> = exported.keys().filter(|name| name.contains("configmap/")).collect();
    assert_eq!(
        maps,
        [
            "base/gitops/configmap/same.yaml",
            "overlays/a/gitops/configmap/differs.yaml",
            "overlays/a/gitops/configmap/only-a.yaml",
            "overlays/b/gitops/configmap/differs.yaml",
        ]
    );
    assert!(
        exported.contains_key("base/gitops/service/web.yaml"),
        "addresses are no difference: {:?}",
        exported.keys()
    );
    check_is(a, NAMESPACE, &path("ops/overlays/a"));
    check_is(b, NAMESPACE, &path("ops/overlays/b"));
    // The overlay of one is not the other.
    assert!(would_change(b, &build(&path("ops/overlays/a"))).contains("only-a"));
    let text = |name: &str| String::from_utf8(exported[name].clone()).unwrap();
    insta::assert_snapshot!(text("argocd/b.yaml"), @"
    apiVersion: argoproj.io/v1alpha1
    kind: Application
    metadata:
      name: b
      namespace: argocd
    spec:
      destination:
        name: b
      project: default
      source:
        path: clusters/overlays/b
        repoURL: https://git.example.org/ops.git
        targetRevision: main
      syncPolicy:
        syncOptions:
          - ServerSideApply=true
          - RespectIgnoreDifferences=true
    ");
    let left_out = text("left-out.txt");
    for label in ["a", "b"] {
        let line = format!("{label}: /Secret gitops/db: a Secret of type Opaque with the keys password, user");
        assert!(left_out.contains(&line), "{left_out}");
    }
    for (name, bytes) in &exported {
        let text = String::from_utf8_lossy(bytes);
        assert!(
            !text.contains("hunter2") && !text.contains("aHVudGVy") && !text.contains("cmVkYWN0"),
            "{name}: {text}"
        );
    }

    // Later they are more alike, and what is no longer meant goes; what nobody exported stays.
    for foreign in ["README.md", "overlays/a/notes.md", "base/gitops/configmap/mine.yaml"] {
        estate.sandbox.write(format!("ops/{foreign}"), "mine");
    }
    b.apply(&of("differs", "1")).unwrap();
    a.kubectl(["delete", "configmap", "only-a", "-n", NAMESPACE]).unwrap();
    let second = estate.backup(0);
    export(&second, "ops").check_code(0).check_stdout("remove files").check_stdout("3 of an earlier export");
    let again = files(&path("ops"));
    let overlays = again.keys().filter(|name| name.starts_with("overlays/") && name.contains("configmap/")).count();
    assert!(again.contains_key("base/gitops/configmap/differs.yaml") && overlays == 0, "{:?}", again.keys());
    check_is(a, NAMESPACE, &path("ops/overlays/a"));
    check_is(b, NAMESPACE, &path("ops/overlays/b"));
    // Into a repository that has nothing yet the same bytes are written.
    estate.sandbox.write("fresh/.git/config", "mine");
    export(&second, "fresh").check_code(0);
    let fresh = without(&files(&path("fresh")), [".git/config"]);
    assert_eq!(without(&again, ["README.md", "overlays/a/notes.md", "base/gitops/configmap/mine.yaml"]), fresh);

    // What is no export is left as it is.
    estate.sandbox.write("full/notes.md", "mine");
    export(&second, "full").check_error(2, &["holds \"notes.md\" and is no earlier export"]);
    assert_eq!(files(&path("full")).keys().collect::<Vec<_>>(), ["notes.md"]);
    // A file of somebody in the place of one of the export's stops it, and stays; the next export goes on.
    estate.sandbox.write("mixed/strongroom-export.txt", "");
    let mine = estate.sandbox.write("mixed/base/gitops/configmap/same.yaml", "mine");
    export(&second, "mixed").check_error(6, &["base/gitops/configmap/same.yaml", "no export wrote it"]);
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
    assert!(files(&path("mixed"))["strongroom-export.txt"].starts_with(b"# unfinished"));
    std::fs::remove_file(mine).unwrap();
    export(&second, "mixed").check_code(0);
    assert_eq!(without(&files(&path("mixed")), []), fresh);
}

#[test]
fn drift_between_clusters_and_moments_is_told_by_field_and_of_secrets_by_key() {
    const NAMESPACE: &str = NAMESPACES[1];
    let ([a, b], estate) = in_both(NAMESPACE);
    let of = |name: &str, text: &str| config_map(NAMESPACE, name, text);
    let secret = |name: &str, password: &str| secret(NAMESPACE, name, password);
    a.apply(&list(&[
        of("same", "x"),
        of("differs", "1"),
        of("only-a", "x"),
        secret("equal", "hunter2hunter2"),
        secret("rotated", "hunter2hunter2"),
    ]))
    .unwrap();
    b.apply(&list(&[
        of("same", "x"),
        of("differs", "2"),
        secret("equal", "hunter2hunter2"),
        secret("rotated", "hunter3hunter3"),
    ]))
    .unwrap();
    // More keys than an archive can list beside a Secret.
    let keys: serde_json::Map<String, Value> = (0..3_000).map(|n| (format!("k{n}"), "x".into())).collect();
    let mut many = secret("many", "hunter2hunter2");
    many["stringData"] = keys.into();
    a.apply(&many).unwrap();
    let diff = |one: &str, other: &str, more: &[&str]| {
        let args = ["diff", "clusters", one, other, "--output", "json"];
        let found = estate.run(&[&args[..], more].concat());
        let all = found.check_code(0).json()["differences"].clone();
        assert!(!found.stdout.contains("cmVkYWN0") && !found.stdout.contains("aHVudGVy"), "{}", found.stdout);
        let mut all: Vec<_> = all
            .as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{} {} {}", one["change"], one["object"], one["fields"]).replace(['\\', '"'], ""))
            .collect();
        all.sort();
        all
    };
    let first = estate.backup(0);
    let as_b = ["--option", "to_clusters={\"a\":\"b\"}", "--option", "clusters=[\"a\"]"];
    let between = [
        "changed b: /ConfigMap drift-of-two/differs data.text 1 -> 2",
        "changed b: /Secret drift-of-two/rotated data.password (its value is not shown)",
        "removed b: /ConfigMap drift-of-two/only-a ",
        "removed b: /Secret drift-of-two/many ",
    ];
    assert_eq!(diff(&first, &first, &as_b), between, "of one backup");
    assert_eq!(diff(&first, "live", &as_b), between, "a cluster as it was, and another as it is");
    assert_eq!(diff(&first, &first, &[]), [""; 0]);
    assert_eq!(diff(&first, "live", &[]), [""; 0]);

    // One Secret is written again and holds what it held; the other holds something else.
    for note in ["note=x", "note-"] {
        a.kubectl(["annotate", "secret", "equal", note, "-n", NAMESPACE]).unwrap();
    }
    a.apply(&secret("rotated", "hunter4hunter4")).unwrap();
    let second = estate.backup(0);
    for other in [second.as_str(), "live"] {
        assert_eq!(
            diff(&first, other, &[]),
            ["changed a: /Secret drift-of-two/rotated data.password (its value is not shown)"],
            "{other}"
        );
    }
    // What is restored is the value, and a plan finds nothing that is changed by a mark.
    let restore = ["restore", "clusters", &first, "--option", "clusters=[\"a\"]", "--option", "kinds=[\"/Secret\"]"];
    let plan = estate.run(&[&restore[..], &["--plan", "--output", "json"]].concat());
    assert!(!plan.check_code(0).stdout.contains("cmVkYWN0"), "{}", plan.stdout);
    // It says that the value is another now, and what existing = merge would do to it.
    let told = "data.password (its value is not shown)";
    for (existing, action) in [("leave", "leave alone"), ("merge", "change"), ("replace", "change")] {
        let option = format!("existing={existing}");
        let plan = estate.run(&[&restore[..], &["--plan", "--output", "json", "--option", &option]].concat());
        let found = super::steps(plan.check_code(0), &["leave alone", "change"]);
        let rotated: Vec<_> = found.iter().filter(|step| step.contains("drift-of-two/rotated")).collect();
        assert!(rotated.len() == 1 && rotated[0].contains(action) && rotated[0].contains(told), "{found:#?}");
        assert!(!found.iter().any(|step| step.contains("drift-of-two/equal")), "{found:#?}");
    }
    a.kubectl(["delete", "secret", "rotated", "many", "-n", NAMESPACE]).unwrap();
    estate.run(&restore).check_code(0);
    let many = a.get(&["secret", "many", "-n", NAMESPACE]).unwrap();
    assert_eq!(many["data"].as_object().map(serde_json::Map::len), Some(3_000), "its keys were not listed, and kept");
    let restored = a.get(&["secret", "rotated", "-n", NAMESPACE]).unwrap();
    assert_eq!(restored["data"]["password"], "aHVudGVyMmh1bnRlcjI=");
}
