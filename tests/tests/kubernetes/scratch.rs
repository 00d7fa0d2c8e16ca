//! Test restores: into namespaces of their own, beside each other, and after one that was killed.

use super::{b, config_map, deployment, of_namespace};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::wait_until;

const PATIENCE: Duration = Duration::from_secs(120);

const VERIFY: &[&str] =
    &["verify", "clusters", "latest", "--depth", "restore", "--target", "there", "--output", "json"];

/// Namespaces that test restores made, and that are not being deleted, with this prefix.
fn made(prefix: &str) -> Vec<String> {
    let found = b().get(&["namespaces", "--selector", "strongroom/scratch"]).unwrap();
    let lasting = |item: &&Value| item["metadata"]["deletionTimestamp"].is_null();
    let names = found["items"].as_array().unwrap().iter().filter(lasting).map(|item| &item["metadata"]["name"]);
    names.map(|name| name.as_str().unwrap().to_owned()).filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn a_test_restore_into_namespaces_of_its_own_is_compared_and_removed() {
    let namespace = b().namespace("tried").unwrap();
    b().apply(&config_map(&namespace, "a", "x")).unwrap();
    b().apply(&deployment(&namespace, 2, "old.example.org/x")).unwrap();
    let estate = of_namespace(&namespace, "scratch_prefix = \"try-\"");
    estate.backup(0);
    let pods = estate.sandbox.path("pods");
    let mut watch = b()
        .kubectl_command(&b().admin_kubeconfig())
        .unwrap()
        .args(["get", "pods", "--all-namespaces", "--watch", "--no-headers"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&pods).unwrap())
        .spawn()
        .unwrap();
    let seen = || Ok(std::fs::read_to_string(&pods)?.contains(&namespace).then_some(()));
    wait_until("pods are watched", Duration::from_secs(60), seen).unwrap();
    let checks = estate.run(VERIFY).check_code(0).json()["checks"].clone();
    for id in [
        "kubernetes.archive.reads",
        "kubernetes.counts.match",
        "kubernetes.restore.accepted.b",
        "kubernetes.restore.compares.b",
    ] {
        let check = checks.as_array().unwrap().iter().find(|check| check["id"] == id);
        let check = check.unwrap_or_else(|| panic!("no check {id}: {checks:#}"));
        assert_eq!(check["outcome"], "passed", "{check:#}");
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    let pods = std::fs::read_to_string(&pods).unwrap();
    assert!(!pods.contains("try-"), "workloads sleep: {pods}");
    assert!(pods.contains(&namespace), "it was watched: {pods}");
    assert_eq!(made("try-"), [""; 0], "nothing of it is left");

    // A namespace with that prefix that no test restore made is somebody's, and is not touched.
    let foreign = format!("try-{namespace}");
    b().kubectl(["create", "namespace", &foreign]).unwrap();
    b().apply(&config_map(&foreign, "theirs", "x")).unwrap();
    estate.run(VERIFY).check_code(0);
    assert_eq!(b().get(&["configmap", "theirs", "-n", &foreign]).unwrap()["data"]["text"], "x");
    b().kubectl(["delete", "namespace", &foreign, "--wait=false"]).unwrap();
}

/// What the check of this name says.
#[track_caller]
fn said(checks: &Value, id: &str) -> String {
    let check = checks["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
    let check = check.unwrap_or_else(|| panic!("no check {id}: {checks:#}"));
    assert_eq!(check["outcome"], "passed", "{check:#}");
    check["evidence"].to_string()
}

#[test]
fn two_test_restores_at_once_are_each_whole_and_what_a_killed_one_left_is_removed() {
    // Names as long as they may be have to be shortened.
    let namespace = b().namespace(&"long".repeat(14)).unwrap();
    b().apply(&config_map(&namespace, "a", "x")).unwrap();
    // A test restore stands still when it looks at what it has restored, as often as it is told to.
    let (gate, held) = Front::gate();
    let (kill_gate, kill_held) = Front::gate();
    let front = Front::start(b(), {
        let gates = std::sync::Mutex::new(vec![kill_gate, gate]);
        move |request, _| {
            let looks = request.starts_with("GET /api/v1/namespaces/held-") && request.contains("/configmaps?");
            match if looks { gates.lock().unwrap().pop() } else { None } {
                Some(gate) => Act::Hold(gate),
                None => Act::Pass,
            }
        }
    });
    let behind = |front: &Front| format!("api = {:?}\ntoken = {{ file = \"token\" }}", front.url());
    let settings =
        format!("clusters = [\"b\"]\nnamespaces = [{namespace:?}]\nkinds = [\"/Namespace\", \"/ConfigMap\"]");
    let estate = Estate::at(&[("b", behind(&front))], &settings, "scratch_prefix = \"held-\"");
    strongroom_tests::relay::private(&estate.sandbox.write("token", "none"));
    estate.backup(0);

    let first = estate.sandbox.strongroom(VERIFY).start().unwrap();
    held.wait_until_held();
    let of_first = made("held-");
    assert!(of_first.len() == 1 && of_first[0].len() == 63, "{of_first:?}");
    // While that one stands still, a second one is made, held and killed.
    let second = estate.sandbox.strongroom(VERIFY).start().unwrap();
    kill_held.wait_until_held();
    let both = made("held-");
    assert!(both.len() == 2 && both.contains(&of_first[0]), "{both:?}");
    drop(second);
    kill_held.release();
    held.release();
    let checks = first.finish(PATIENCE).unwrap().check_code(0).json();
    assert!(said(&checks, "kubernetes.restore.compares.b").contains("are those of the backup"));
    said(&checks, "kubernetes.restore.removed.b");
    let left = made("held-");
    assert!(left.len() == 1 && left != of_first, "the first removed its own, and the second was killed: {left:?}");

    // It may still be under way, for all that anybody knows.
    let checks = estate.run(VERIFY).check_code(0).json();
    let told = said(&checks, "kubernetes.restore.removed.b");
    assert!(told.contains(&left[0]) && told.contains("less than 60 min ago"), "{told}");
    assert_eq!(made("held-"), left);
    let note = "strongroom/scratch-alive=1000";
    b().kubectl(["annotate", "namespace", &left[0], "--overwrite", note]).unwrap();
    let checks = estate.run(VERIFY).check_code(0).json();
    let told = said(&checks, "kubernetes.restore.removed.b");
    assert!(told.contains("1 that a killed test restore had left"), "{told}");
    wait_until("it is gone", PATIENCE, || Ok(made("held-").is_empty().then_some(()))).unwrap();
}
