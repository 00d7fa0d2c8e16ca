//! Clusters and backups that do not stand still: what vanishes while it is looked at, what two do at once,
//! what is another thing than the plan said, and what somebody has put into a backup.

use super::{b, config_map, of_namespace, steps};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::User;
use strongroom_tests::kube::front::{Act, Front, Gate};
use strongroom_tests::relay::private;
use strongroom_tests::{Output, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// An empty list of config maps, and one that is not there, as an API server says it.
const NONE: &str = r#"{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"1"},"items":[]}"#;
const GONE: &str = r#"{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"configmaps \"other\" not found"}"#;

/// Objects that are restored by two at once.
const MANY: usize = 120;

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A sandbox whose job reaches cluster `b` as `b`, and through a front as `front`.
fn behind(front: &Front, namespace: &str, kinds: &str) -> Estate {
    let direct = format!("context = \"admin\"\nkubeconfig = {:?}", b().admin_kubeconfig());
    let through = format!("api = {:?}\ntoken = {{ file = \"token\" }}", front.url());
    let settings =
        format!("clusters = [\"front\"]\nnamespaces = [{namespace:?}]\ncluster_resources = false\nkinds = [{kinds}]");
    let estate = Estate::at(&[("b", direct), ("front", through)], &settings, "");
    private(&estate.sandbox.write("token", "the front has its own"));
    estate
}

#[test]
fn what_vanishes_while_it_is_looked_at_is_kept_by_a_backup_and_told_by_a_restore() {
    let namespace = b().namespace("vanish").unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "brief", "namespace": namespace},
        "stringData": {"password": "hunter2hunter2"}});
    let object = config_map(&namespace, "replaced", "recorded");
    b().create(&list(&[secret, object, config_map(&namespace, "other", "recorded")])).unwrap();
    let (listed, put) = (Gate::default(), Gate::default());
    // What a plan is told of an object that comes behind its list, and goes again.
    let planning = Arc::new(AtomicBool::new(false));
    let plans = planning.clone();
    let acts = [("GET", "/secrets?", listed.clone(), true), ("PUT", "/configmaps/replaced?", put.clone(), false)];
    let front = Front::start(b(), move |request, n| {
        let fits =
            |(method, path, ..): &&(&str, &str, Gate, bool)| request.starts_with(method) && request.contains(path);
        match acts.iter().find(fits) {
            _ if plans.load(Ordering::SeqCst) && request.starts_with("GET") => match request {
                request if request.contains("/configmaps?") => Act::Answer(200, "X: y", NONE),
                request if request.contains("/configmaps/other") => Act::Answer(404, "X: y", GONE),
                _ => Act::Pass,
            },
            Some((_, _, gate, true)) if n == 0 => Act::HoldAnswer(gate.clone()),
            Some((_, _, gate, false)) => Act::Hold(gate.clone()),
            _ => Act::Pass,
        }
    });
    let estate = behind(&front, &namespace, "\"/ConfigMap\", \"/Secret\"");
    let start = |args: &[&str]| estate.sandbox.strongroom(args).start().unwrap();
    let backup = start(&["backup", "clusters", "--output", "json"]);
    listed.wait_until_held();
    b().kubectl(["delete", "secret", "brief", "-n", &namespace]).unwrap();
    listed.release();
    let made = backup.finish(PATIENCE).unwrap();
    let id = made.check_code(0).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(front.n_requests(&format!("GET /api/v1/namespaces/{namespace}/secrets/")), 0, "a list is enough");

    // Replaced, it is read, and gone before it is written.
    b().kubectl(["patch", "configmap", "replaced", "-n", &namespace, "-p", r#"{"data":{"text":"edited"}}"#]).unwrap();
    let args = ["restore", "clusters", &id, "--output", "json", "--option", "existing=replace"];
    let restore = start(&args);
    put.wait_until_held();
    b().kubectl(["delete", "configmap", "replaced", "-n", &namespace]).unwrap();
    put.release();
    let restored = restore.finish(PATIENCE).unwrap();
    let told = steps(restored.check_code(6), &["restore"]);
    let of = told.iter().find(|step| step.contains(&format!("/ConfigMap {namespace}/replaced"))).unwrap();
    assert!(of.contains("somebody deleted it meanwhile: start the restore again"), "{of}");
    let secret = b().get(&["secret", "brief", "-n", &namespace]).unwrap();
    assert_eq!(secret["data"]["password"], "aHVudGVyMmh1bnRlcjI=", "what vanished behind the list was in the backup");
    // Started again, it does what is left.
    estate.run(&args).check_code(0);
    assert_eq!(b().get(&["configmap", "replaced", "-n", &namespace]).unwrap()["data"]["text"], "recorded");

    planning.store(true, Ordering::SeqCst);
    let plan = estate.run(&["restore", "clusters", &id, "--output", "json", "--plan"]);
    let creates = steps(plan.check_code(0), &["create"]);
    let other = creates.iter().find(|step| step.contains(&format!("/ConfigMap {namespace}/other")));
    let other = other.unwrap_or_else(|| panic!("{creates:#?}"));
    assert!(other.contains("it was there a moment ago, and is gone"), "{other}");
}

#[test]
fn two_restores_at_once_make_every_object_once_and_owners_are_right() {
    let namespace = b().namespace("both").unwrap();
    b().create(&config_map(&namespace, "a-owner", "x")).unwrap();
    let uid = b().get(&["configmap", "a-owner", "-n", &namespace]).unwrap()["metadata"]["uid"].clone();
    let owned = |n: usize| {
        let mut object = config_map(&namespace, &format!("owned-{n:03}"), "x");
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "a-owner", "uid": uid}]);
        object
    };
    b().create(&list(&(0..MANY).map(owned).collect::<Vec<_>>())).unwrap();
    // One of them has looked, and stands before its first object, while the other does everything.
    let gate = Gate::default();
    let held = gate.clone();
    let front = Front::start(b(), move |request, n| match request.starts_with("POST /api/v1/namespaces/") {
        true if n == 0 => Act::Hold(held.clone()),
        _ => Act::Pass,
    });
    let estate = behind(&front, &namespace, "\"/ConfigMap\"");
    let id = estate.backup(0);
    b().kubectl(["delete", "configmap", "a-owner", "-n", &namespace, "--cascade=background"]).unwrap();
    let all = || b().get(&["configmaps", "-n", &namespace]).map(|found| found["items"].as_array().unwrap().clone());
    wait_until("all of it is gone", PATIENCE, || Ok((all()?.len() == 1).then_some(()))).unwrap();

    let restore = ["restore", "clusters", &id, "--output", "json"];
    let first = estate.sandbox.strongroom(restore).start().unwrap();
    gate.wait_until_held();
    let second = estate.run(&[&restore[..], &["--option", "to_clusters={\"front\":\"b\"}"]].concat());
    gate.release();
    let first = first.finish(PATIENCE).unwrap();
    let count = |output: &Output, action: &str| {
        let notes = steps(output.check_code(0), &[action]);
        notes.iter().any(|step| step.contains(&format!("{} objects", MANY + 1)))
    };
    assert!(count(&second, "create") && count(&first, "leave alone"), "{}\n{}", second.stdout, first.stdout);
    let found = all().unwrap();
    let named = |name: &str| found.iter().find(|object| object["metadata"]["name"] == name).unwrap();
    let owner = &named("a-owner")["metadata"]["uid"];
    assert_eq!(found.len(), MANY + 2, "with kube-root-ca.crt");
    for object in found.iter().filter(|object| object["metadata"]["name"].as_str().unwrap().starts_with("owned-")) {
        assert_eq!(&object["metadata"]["ownerReferences"][0]["uid"], owner, "{object:#}");
    }
}

#[test]
fn what_came_after_the_plan_is_not_overwritten_and_told() {
    let namespace = b().namespace("planned").unwrap();
    for name in ["one", "two"] {
        b().create(&config_map(&namespace, name, "recorded")).unwrap();
    }
    let estate = of_namespace(&namespace, "kinds = [\"/ConfigMap\"]");
    let id = estate.backup(0);
    b().kubectl(["delete", "configmap", "one", "two", "-n", &namespace]).unwrap();
    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    let creates = steps(plan.check_code(0), &["create"]);
    assert!(creates.iter().any(|step| step.contains("/one")) && creates.iter().any(|step| step.contains("/two")));

    b().apply(&config_map(&namespace, "one", "somebody else's")).unwrap();
    let merge = [&restore[..], &["--option", "existing=merge"]].concat();
    let merged = estate.run(&merge);
    let told = steps(merged.check_code(6), &["conflict"]);
    assert!(told.len() == 1 && told[0].contains("/one") && told[0].contains("data.text"), "{told:#?}");
    let done = estate.run(&restore);
    let left = steps(done.check_code(0), &["leave alone"]);
    assert!(left.len() == 1 && left[0].contains("2 objects exist already"), "{left:#?}");
    let text = |name: &str| b().get(&["configmap", name, "-n", &namespace]).unwrap()["data"]["text"].clone();
    assert_eq!([text("one"), text("two")], ["somebody else's", "recorded"]);
}

/// The one file below a folder whose name has this in it.
fn file(folder: &Path, part: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains(part)).collect();
    assert_eq!(found.len(), 1, "{part} in {}: {found:?}", folder.display());
    found.remove(0)
}

#[test]
fn objects_that_were_put_into_a_backup_reach_no_cluster() {
    let (from, to) = (b().namespace("signed").unwrap(), b().namespace("spared").unwrap());
    b().create(&config_map(&from, "mine", "good")).unwrap();
    let options = format!("map_namespaces = {{ {from} = {to:?} }}\nkinds = [\"/ConfigMap\"]");
    let estate = of_namespace(&from, &options);
    let good = estate.backup(0);
    // What an attacker would like to have restored, encrypted for the same recipients.
    b().kubectl(["delete", "configmap", "mine", "-n", &from]).unwrap();
    b().create(&config_map(&from, "theirs", "evil")).unwrap();
    let evil = estate.backup(0);
    let place = |id: &str| estate.sandbox.path("store/clusters").join(id);
    let restore = |id: &str| {
        let done = estate.run(&["restore", "clusters", id, "--target", "there"]);
        let there = b().kubectl(["get", "configmaps", "-n", &to, "-o", "name"]).unwrap();
        assert_eq!(there.trim(), "configmap/kube-root-ca.crt", "nothing was written");
        done
    };
    let swap = |part: &str, below: &str| {
        let [mine, theirs] = [&good, &evil].map(|id| file(&place(id).join(below), part));
        let kept = std::fs::read(&mine).unwrap();
        std::fs::copy(theirs, &mine).unwrap();
        (mine, kept)
    };
    // Other objects under the good record; then a record that names other objects, which is not signed.
    let (path, kept) = swap(".configmaps.0", "data");
    restore(&good).check_error(1, &["configmaps"]);
    std::fs::write(path, kept).unwrap();
    let (path, kept) = swap("record.json", "");
    restore(&good).check_error(1, &["is not what was signed"]);
    let edited = String::from_utf8(kept.clone()).unwrap().replacen("\"1\"", "\"2\"", 1);
    std::fs::write(&path, edited).unwrap();
    restore(&good).check_error(1, &["is not what was signed"]);
    // As it was, it is restored.
    std::fs::write(path, kept).unwrap();
    estate.run(&["restore", "clusters", &good, "--target", "there"]).check_code(0);
    assert_eq!(b().get(&["configmap", "mine", "-n", &to]).unwrap()["data"]["text"], "good");
}

#[test]
fn a_diagnosis_says_what_a_restore_may_not_do_and_asks_as_who_restores() {
    let namespace = b().namespace("rights").unwrap();
    let user = |prefix: &str, verbs: &str| {
        let user = b().token_user(&namespace, prefix).unwrap();
        b().allow(&user, None, &[("", "namespaces,configmaps", verbs)]).unwrap();
        user
    };
    let (reader, writer) = (user("reader", "get,list"), user("writer", "get,list,create,patch"));
    let estate = |restore: Option<&User>| {
        let mut way = format!("api = {:?}\nca = {:?}\ntoken = {{ env = \"READER\" }}", b().url(), b().ca_file());
        if restore.is_some() {
            way.push_str("\nrestore = { token = { env = \"WRITER\" } }");
        }
        let settings = format!("clusters = [\"b\"]\nnamespaces = [{namespace:?}]\nkinds = [\"/ConfigMap\"]");
        let mut estate = Estate::at(&[("b", way)], &settings, "");
        estate.sandbox.set_env("READER", reader.token());
        if let Some(user) = restore {
            estate.sandbox.set_env("WRITER", user.token());
        }
        estate
    };
    let checks = |estate: &Estate| {
        let found = estate.run(&["diagnose", "clusters", "--output", "json"]).json()["checks"].clone();
        ["kubernetes.rights.b", "kubernetes.restore-rights.b"].map(|id| {
            let check = found.as_array().unwrap().iter().find(|check| check["id"] == id);
            check.unwrap_or_else(|| panic!("no check {id}: {found:#}")).clone()
        })
    };
    let two = estate(Some(&writer));
    let all = || Ok(checks(&two).iter().all(|check| check["outcome"] == "passed").then_some(()));
    wait_until("both may do what they are for", PATIENCE, all).unwrap();
    let [reads, restores] = checks(&estate(None));
    assert_eq!((&reads["outcome"], &restores["outcome"]), (&json!("passed"), &json!("warned")), "{restores:#}");
    let text = restores.to_string();
    assert!(text.contains("create") && text.contains("patch") && text.contains("ConfigMap"), "{text}");
    assert!(!text.contains("get v1") && text.contains("[cluster.b]"), "{text}");
}
