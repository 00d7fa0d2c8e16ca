//! The `kube` interface against real clusters: what is granted is done, what is not is refused through
//! every function, and whatever a cluster does wrong ends in one clear error.

mod faults;
mod login;
mod mark;

use serde_json::{Value, json};
use std::time::Duration;
use strongroom_tests::kube::Cluster;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::kube::rig::{Rig, grant, reads};
use strongroom_tests::relay::{private, sha256};
use strongroom_tests::{Sandbox, plugin, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds as the guest names them.
const MAPS: &str = "/v1/configmaps/ConfigMap";
const SECRETS: &str = "/v1/secrets/Secret";
const NAMESPACES: &str = "/v1/namespaces/Namespace";
const PODS: &str = "/v1/pods/Pod";

fn cluster() -> &'static Cluster {
    Cluster::shared("kube")
}

fn config_map(namespace: &str, name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"k": value}})
}

fn secret(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace, "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": "{\"stringData\":{\"password\":\"hunter2hunter2\"}}",
    }}, "stringData": {"password": "hunter2hunter2"}})
}

/// What a Secret of the tests holds, in base64.
const HELD: &str = "aHVudGVyMmh1bnRlcjI=";

#[track_caller]
fn check_case(answer: &Value, case: &str, says: &[&str]) {
    let text = answer.as_str().unwrap_or_else(|| panic!("expected {case}, got {answer}"));
    assert!(text.starts_with(&format!("{case}: ")), "expected {case}, got {text}");
    for says in says {
        assert!(text.contains(says), "expected {says:?} in {text}");
    }
}

fn many(cluster: &Cluster, namespace: &str, n: usize) {
    let items: Vec<Value> = (0..n).map(|n| config_map(namespace, &format!("m-{n:05}"), "v")).collect();
    for items in items.chunks(500) {
        cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).unwrap();
    }
}

#[test]
fn objects_are_listed_in_pages_with_what_lists_leave_out_and_stored_unseen() {
    let cluster = cluster();
    let namespace = cluster.namespace("list").unwrap();
    many(cluster, &namespace, 520);
    cluster.apply(&config_map(&namespace, "with.dots", "\"{[\\u00e9\n")).unwrap();
    let rig = Rig::admin(cluster, &(reads(&["*", "/Secret"], "") + &grant(&["apply", "delete"], &["*"], "")));
    let answers = rig.backup(&[
        json!({"do": "version"}),
        json!({"do": "kinds", "kind": MAPS}),
        json!({"do": "list", "kind": MAPS, "namespace": namespace, "archive": "maps"}),
        json!({"do": "list", "kind": MAPS, "namespace": namespace, "fields": "metadata.name=with.dots", "texts": true}),
        json!({"do": "get", "kind": MAPS, "namespace": namespace, "name": "with.dots"}),
        json!({"do": "get", "kind": "rbac.authorization.k8s.io/v1/clusterroles/ClusterRole", "cluster_wide": true, "name": "system:discovery"}),
        json!({"do": "list", "kind": MAPS, "namespace": namespace, "labels": "none=such", "beyond": true}),
        json!({"do": "list", "kind": NAMESPACES, "cluster_wide": true}),
    ]);
    check_case(&answers[7], "denied", &[]);
    assert!(answers[0].as_str().unwrap().starts_with("v1."), "{}", answers[0]);
    assert_eq!((&answers[1]["found"], &answers[1]["failed"]), (&json!(true), &json!([])));
    // With kube-root-ca.crt.
    assert_eq!((&answers[2]["objects"], &answers[2]["pages"]), (&json!(522), &json!(2)), "{}", answers[2]);
    let listed: Value = serde_json::from_str(answers[3]["texts"][0].as_str().unwrap()).unwrap();
    let got: Value = serde_json::from_str(answers[4].as_str().unwrap()).unwrap();
    assert_eq!(listed, got, "an object of a list is the object itself");
    assert_eq!(
        (&got["apiVersion"], &got["kind"], &got["data"]["k"]),
        (&json!("v1"), &json!("ConfigMap"), &json!("\"{[\\u00e9\n"))
    );
    check_case(&answers[5], "denied", &[]);
    assert_eq!(answers[6]["objects"], 0);
    assert!(answers[6]["errors"][0].as_str().unwrap().starts_with("invalid: "), "{}", answers[6]);
    // They come back as they were, into another namespace, without having been seen.
    let other = cluster.namespace("list").unwrap();
    cluster.kubectl(["delete", "configmap", "kube-root-ca.crt", "-n", &other]).unwrap();
    let into = json!({"do": "apply-unseen", "archive": "maps", "to": other, "mode": "merge"});
    assert_eq!(rig.change(into), "applied");
    let read = |namespace: &str| {
        let items = cluster.get(&["configmaps", "-n", namespace]).unwrap()["items"].clone();
        let data = |item: &Value| (item["metadata"]["name"].clone(), item["data"].clone());
        items.as_array().unwrap().iter().map(data).collect::<Vec<_>>()
    };
    assert_eq!(read(&namespace), read(&other));
}

#[test]
fn what_a_secret_holds_reaches_the_plugin_through_no_function() {
    let cluster = cluster();
    let namespace = cluster.namespace("secret").unwrap();
    cluster.apply(&secret(&namespace, "db")).unwrap();
    let at = format!("namespaces = [{namespace:?}]\ninspect = true");
    let rig = Rig::admin(
        cluster,
        &(reads(&["/Secret"], &at) + &grant(&["apply"], &["/Secret"], &format!("namespaces = [{namespace:?}]"))),
    );
    let named = json!({"kind": SECRETS, "namespace": namespace, "name": "db"});
    let with = |deed: Value| {
        let mut whole = named.clone();
        deed.as_object().unwrap().iter().for_each(|(key, value)| whole[key] = value.clone());
        whole
    };
    let answers = rig.backup(&[
        with(json!({"do": "get"})),
        with(json!({"do": "list", "texts": true, "archive": "secrets"})),
        with(json!({"do": "body"})),
        with(json!({"do": "wait", "condition": "Ready", "value": "True", "timeout_ms": 10})),
    ]);
    assert!(answers[0].as_str().unwrap().contains("\"password\""), "its keys are seen: {}", answers[0]);
    check_case(&answers[2], "denied", &[]);
    check_case(&answers[3], "timed-out", &[]);
    let tried =
        |mode: &str| with(json!({"do": "apply-unseen", "from": [named], "mode": mode, "dry_run": true, "texts": true}));
    let blotted: Value = answers[0].clone();
    let more = rig.restored(
        &[],
        &[
            tried("merge"),
            tried("replace"),
            tried("create"),
            json!({"do": "apply", "objects": [blotted], "mode": "replace"}),
            // A value that the server refuses: its own words would quote it.
            json!({"do": "apply", "mode": "merge", "objects": [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace}, "data": {"k": "hunter2hunter2!"}},
            ]}),
        ],
    );
    check_case(&more[2][0], "conflict", &["AlreadyExists"]);
    check_case(&more[3][0], "invalid", &["blotted out"]);
    assert!(more[4][0].as_str().is_some_and(|text| text.contains("could not merge secrets \"db\"")), "{}", more[4]);
    for (n, answer) in answers.iter().chain(&more).enumerate() {
        let text = answer.to_string();
        assert!(!text.contains(HELD) && !text.contains("hunter2"), "answer {n}: {text}");
    }
    // What was stored is whole, and was not blotted out.
    let stored = cluster.get(&["secret", "db", "-n", &namespace]).unwrap();
    assert_eq!(stored["data"]["password"], HELD);
    cluster.kubectl(["delete", "secret", "db", "-n", &namespace]).unwrap();
    assert_eq!(rig.change(json!({"do": "apply-unseen", "archive": "secrets", "mode": "create"})), "applied");
    let restored = cluster.get(&["secret", "db", "-n", &namespace]).unwrap();
    assert_eq!(
        (&restored["data"], &restored["metadata"]["annotations"]),
        (&stored["data"], &stored["metadata"]["annotations"])
    );
    let files = std::fs::read_to_string(rig.sandbox.path("strongroom.toml")).unwrap();
    assert!(!files.contains("hunter2"));
}

#[test]
fn values_of_secrets_are_shown_where_they_are_granted_and_only_there() {
    let cluster = cluster();
    let (open, closed) = (cluster.namespace("open").unwrap(), cluster.namespace("closed").unwrap());
    for namespace in [&open, &closed] {
        cluster.apply(&secret(namespace, "db")).unwrap();
    }
    let grants = reads(&["/Secret"], &format!("namespaces = [{open:?}]\nsecret_data = true\ninspect = true"))
        + &reads(&["/Secret"], &format!("namespaces = [{closed:?}]\ninspect = true"));
    let rig = Rig::admin(cluster, &grants);
    let ask = |what: &str, namespace: &str| json!({"do": what, "kind": SECRETS, "namespace": namespace, "name": "db", "texts": true});
    let answers = rig.backup(&[
        ask("get", &open),
        ask("body", &open),
        ask("get", &closed),
        ask("body", &closed),
        json!({"do": "list", "kind": SECRETS, "texts": true}),
    ]);
    assert!(answers[0].to_string().contains(HELD) && answers[1].to_string().contains(HELD));
    assert!(!answers[2].to_string().contains(HELD));
    check_case(&answers[3], "denied", &[]);
    let texts: Vec<&str> = answers[4]["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(texts.iter().filter(|text| text.contains(HELD)).count(), 1, "{texts:?}");
    assert!(texts.iter().filter(|text| text.contains(HELD)).all(|text| text.contains(&open)));
}

#[test]
fn what_is_not_granted_is_refused_through_every_function() {
    let cluster = cluster();
    let (own, other) = (cluster.namespace("own").unwrap(), cluster.namespace("other").unwrap());
    for namespace in [&own, &other] {
        cluster.apply(&config_map(namespace, "x", "v")).unwrap();
        cluster.apply(&secret(namespace, "db")).unwrap();
    }
    let at = format!("namespaces = [{own:?}]\nnames = [\"x*\"]\n");
    let rig = Rig::admin(cluster, &(reads(&["/ConfigMap"], &at) + &grant(&["apply", "delete"], &["/ConfigMap"], &at)));
    let functions = |kind: &str, namespace: &str, name: &str, label: &str| {
        let base = json!({"kind": kind, "namespace": namespace, "name": name, "cluster": label});
        let with = |deed: &str| {
            let mut whole = base.clone();
            whole["do"] = deed.into();
            whole
        };
        vec![
            with("list"),
            with("get"),
            with("body"),
            json!({"do": "wait", "kind": kind, "namespace": namespace, "name": name, "cluster": label, "condition": "A", "value": "B"}),
        ]
    };
    let mut refused = Vec::new();
    // Another kind, namespace, name, and cluster.
    refused.extend(functions(SECRETS, &own, "db", "a"));
    refused.extend(functions(MAPS, &other, "x", "a"));
    refused.extend(functions(MAPS, &own, "kube-root-ca.crt", "a").into_iter().skip(1));
    refused.extend(functions(MAPS, &own, "x", "b"));
    refused.push(json!({"do": "probe", "cluster": "b"}));
    refused.push(json!({"do": "version", "cluster": "b"}));
    refused.push(json!({"do": "kinds", "cluster": "b"}));
    refused.push(json!({"do": "can-i", "cluster": "b", "questions": [{"verb": "list", "kind": MAPS}]}));
    refused.push(json!({"do": "logs", "namespace": own, "name": "x"}));
    for (n, answer) in rig.backup(&refused).iter().enumerate() {
        check_case(answer, "denied", &[]);
        assert!(
            !answer.to_string().contains("granted for"),
            "it never says what would be allowed: {} {answer}",
            refused[n]
        );
    }
    // A kind under another's name, and names that leave their place.
    let tricks = rig.backup(&[
        json!({"do": "get", "kind": "/v1/secrets/ConfigMap", "namespace": own, "name": "x"}),
        json!({"do": "list", "kind": "/v1/secrets/ConfigMap", "namespace": own}),
        json!({"do": "get", "kind": MAPS, "namespace": own, "name": "x/../../secrets/db"}),
        json!({"do": "get", "kind": MAPS, "namespace": own, "name": "x%2f..%2f..%2fsecrets%2fdb"}),
        json!({"do": "get", "kind": MAPS, "cluster_wide": true, "namespace": own, "name": "x"}),
        json!({"do": "list", "kind": MAPS, "namespace": own, "labels": "a=b&fieldSelector=x"}),
    ]);
    for answer in &tricks[..5] {
        assert!(
            answer.as_str().is_some_and(|text| text.starts_with("invalid: ") || text.starts_with("denied: ")),
            "{answer}"
        );
    }
    assert!(tricks[5]["errors"][0].as_str().is_some_and(|text| text.starts_with("invalid: ")), "{}", tricks[5]);
    // Lists over everything see only what is granted.
    let seen = rig.ask(json!({"do": "list", "kind": MAPS, "names": true}));
    assert_eq!(seen["names"], json!([[own, "x"]]));
    // Each object of a call is decided on its own, and a plan changes nothing.
    let token = json!({"apiVersion": "/v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "x", "namespace": own, "annotations": {"kubernetes.io/service-account.name": "default"}}});
    let objects = json!([
        config_map(&own, "x-new", "v"),
        config_map(&other, "x", "w"),
        config_map(&own, "y", "v"),
        secret(&own, "x"),
        token
    ]);
    let apply = json!({"do": "apply", "mode": "merge", "objects": objects});
    let planned = rig.restored(&["--plan"], std::slice::from_ref(&apply));
    planned[0].as_array().unwrap().iter().for_each(|answer| check_case(answer, "denied", &[]));
    let done = rig.change(apply);
    assert_eq!(done[0], "created");
    (1..5).for_each(|n| check_case(&done[n], "denied", &[]));
    let gone = rig.change(json!({"do": "delete", "objects": [
        {"kind": MAPS, "namespace": own, "name": "x-new"}, {"kind": MAPS, "namespace": other, "name": "x"},
        {"kind": SECRETS, "namespace": own, "name": "db"}, {"kind": MAPS, "namespace": own, "name": "x-absent"},
    ]}));
    assert_eq!(gone[0], "deleted");
    check_case(&gone[1], "denied", &[]);
    check_case(&gone[2], "denied", &[]);
    check_case(&gone[3], "not-found", &["x-absent"]);
    assert_eq!(cluster.get(&["configmap", "x", "-n", &other]).unwrap()["data"]["k"], "v");
    // A backup changes nothing and tries nothing.
    let tried =
        rig.ask(json!({"do": "apply", "mode": "merge", "dry_run": true, "objects": [config_map(&own, "x", "w")]}));
    check_case(&tried[0], "denied", &[]);
    // The operator is told what the plugin is not.
    let denied = rig.sandbox.run(["audit", "show", "--output", "json"]);
    denied.check_stdout("the kind \\\"/Secret\\\", which gives power over the cluster, is not granted");
}

#[test]
fn labels_decide_where_they_are_granted() {
    let cluster = cluster();
    let namespace = cluster.namespace("label").unwrap();
    let labelled = |name: &str, app: &str| {
        let mut object = config_map(&namespace, name, "v");
        object["metadata"]["labels"] = json!({"app": app});
        object
    };
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [labelled("ours", "shop-1"), labelled("theirs", "bank")]})).unwrap();
    let at =
        format!("namespaces = [{:?}]\nlabels = [\"app=shop-*\"]\n", format!("{}*", &namespace[..namespace.len() - 1]));
    let rig = Rig::admin(cluster, &(reads(&["/ConfigMap"], &at) + &grant(&["apply", "delete"], &["/ConfigMap"], &at)));
    let named = |what: &str, name: &str| json!({"do": what, "kind": MAPS, "namespace": namespace, "name": name});
    let answers = rig.backup(&[
        json!({"do": "list", "kind": MAPS, "names": true}),
        named("get", "ours"),
        named("get", "theirs"),
        named("body", "theirs"),
    ]);
    assert_eq!(answers[0]["names"], json!([[namespace, "ours"]]));
    assert!(answers[1].as_str().unwrap().contains("shop-1"));
    check_case(&answers[2], "denied", &[]);
    check_case(&answers[3], "denied", &[]);
    let done = rig.change(json!({"do": "apply", "mode": "merge", "force": true, "objects": [
        labelled("ours", "shop-2"), labelled("theirs", "shop-1"), labelled("new", "bank"), labelled("fresh", "shop-3"),
    ]}));
    assert_eq!((&done[0], &done[3]), (&json!("changed"), &json!("created")));
    // What is there and not granted is not taken over by writing the label into it.
    check_case(&done[1], "failed", &["not granted"]);
    check_case(&done[2], "denied", &[]);
    let gone = rig.change(json!({"do": "delete", "objects": [
        {"kind": MAPS, "namespace": namespace, "name": "theirs"}, {"kind": MAPS, "namespace": namespace, "name": "fresh"},
    ]}));
    check_case(&gone[0], "failed", &["not granted"]);
    assert_eq!(gone[1], "deleted");
}

#[test]
fn three_modes_do_what_they_say_and_a_conflict_names_who_and_what() {
    let cluster = cluster();
    let namespace = cluster.namespace("modes").unwrap();
    let rig = Rig::admin(cluster, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    rig.backup(&[]);
    let apply = |mode: &str, object: &Value, more: Value| {
        let mut deed = json!({"do": "apply", "mode": mode, "objects": [object], "texts": true});
        more.as_object().unwrap().iter().for_each(|(key, value)| deed[key] = value.clone());
        deed
    };
    let (one, two) = (config_map(&namespace, "x", "1"), config_map(&namespace, "x", "2"));
    let answers = rig.restored(
        &["--plan"],
        &[apply("create", &one, json!({"dry_run": true})), apply("merge", &one, json!({"dry_run": true}))],
    );
    assert_eq!((&answers[0][0]["change"], &answers[1][0]["change"]), (&json!("created"), &json!("created")));
    assert!(cluster.get(&["configmap", "x", "-n", &namespace]).is_err(), "a dry run does nothing");
    let answers = rig.restored(&[], &[
        apply("create", &one, json!({})),
        apply("create", &one, json!({})),
        apply("merge", &one, json!({})),
        apply("merge", &two, json!({"dry_run": true})),
        apply("replace", &one, json!({})),
        apply("replace", &two, json!({})),
        apply("replace", &config_map(&namespace, "new", "1"), json!({})),
        apply("merge", &config_map("no-such-namespace", "x", "1"), json!({})),
        apply("merge", &json!({"apiVersion": "example.org/v1", "kind": "Gone", "metadata": {"name": "x"}}), json!({})),
        apply("merge", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": namespace}, "data": {"k": 7}}), json!({})),
    ]);
    assert_eq!(answers[0][0]["change"], "created");
    check_case(&answers[1][0], "conflict", &["\"x\"", "already exists"]);
    assert_eq!(answers[2][0]["change"], "unchanged");
    assert_eq!(answers[3][0]["change"], "changed");
    assert!(answers[3][0]["before"].as_str().unwrap().contains("\"k\":\"1\""), "{}", answers[3]);
    assert_eq!((&answers[4][0]["change"], &answers[5][0]["change"]), (&json!("unchanged"), &json!("changed")));
    assert_eq!(answers[6][0]["change"], "created");
    check_case(&answers[7][0], "not-found", &["no-such-namespace"]);
    check_case(&answers[8][0], "not-found", &["example.org/v1"]);
    assert!(
        answers[9][0].as_str().unwrap().starts_with("invalid: ")
            || answers[9][0].as_str().unwrap().starts_with("failed: ")
    );
    // Somebody else owns it now.
    cluster
        .kubectl([
            "patch",
            "configmap",
            "x",
            "-n",
            &namespace,
            "--field-manager=somebody",
            "-p",
            r#"{"data":{"k":"theirs"}}"#,
        ])
        .unwrap();
    let answers = rig.restored(&[], &[apply("merge", &one, json!({})), apply("merge", &one, json!({"force": true}))]);
    check_case(&answers[0][0], "conflict", &["somebody", ".data.k"]);
    assert_eq!(answers[1][0]["change"], "changed");
    // What was seen is not what is there.
    let mut seen = one.clone();
    seen["metadata"]["resourceVersion"] = "1".into();
    check_case(&rig.change(apply("replace", &seen, json!({})))[0], "conflict", &["modified"]);
}

#[test]
fn many_that_are_tried_are_listed_and_one_that_changed_since_is_asked_for() {
    let cluster = cluster();
    let namespace = cluster.namespace("tried").unwrap();
    many(cluster, &namespace, 40);
    let objects: Vec<_> = (0..42).map(|n| config_map(&namespace, &format!("m-{n:05}"), "w")).collect();
    let deed = |objects: &[Value]| json!({"do": "apply", "mode": "merge", "force": true, "dry_run": true, "objects": objects, "texts": true});
    // While the first of them is tried, somebody changes it and makes one that was not there.
    let somewhere = namespace.clone();
    let front = Front::start(cluster, move |line, n| {
        if line.starts_with("PATCH ") && line.contains("m-00000") && n == 0 {
            cluster.apply(&config_map(&somewhere, "m-00000", "theirs")).unwrap();
            cluster.apply(&config_map(&somewhere, "m-00041", "w")).unwrap();
        }
        Act::Pass
    });
    let rig = Rig::behind(&front, &(reads(&["*"], "") + &grant(&["apply"], &["*"], "")));
    rig.backup(&[]);
    let asked = |name: &str| front.n_requests(&format!("GET /api/v1/namespaces/{namespace}/configmaps{name}"));
    let answers = rig.restored(&["--plan"], &[deed(&objects)]);
    let answers = answers[0].as_array().unwrap();
    let changes: Vec<_> = answers.iter().map(|answer| answer["change"].as_str().unwrap_or_default()).collect();
    assert!(changes[..40].iter().all(|change| *change == "changed"), "{answers:?}");
    assert_eq!(changes[40], "created");
    assert!(answers[0]["before"].as_str().unwrap().contains("theirs"), "{}", answers[0]);
    assert!(answers[1]["before"].as_str().unwrap().contains("\"k\":\"v\""), "{}", answers[1]);
    // One list, and those of which the list is not what was tried on.
    let alone = asked("/");
    assert!(asked("?") == 1 && (1..=2).contains(&alone), "{} lists, {alone} alone", asked("?"));
    // A few are asked for one by one.
    rig.restored(&["--plan"], &[deed(&objects[1..4])]);
    assert_eq!((asked("?"), asked("/")), (1, alone + 3));
}

#[test]
fn where_lists_are_refused_many_that_are_tried_are_asked_for_one_by_one() {
    let cluster = cluster();
    let namespace = cluster.namespace("unlisted").unwrap();
    many(cluster, &namespace, 30);
    const REFUSED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"no lists"}"#;
    let front = Front::start(cluster, |line, _| match line.starts_with("GET ") && line.contains("/configmaps?") {
        true => Act::Answer(403, "X: y", REFUSED),
        false => Act::Pass,
    });
    let rig = Rig::behind(&front, &(reads(&["*"], "") + &grant(&["apply"], &["*"], "")));
    rig.backup(&[]);
    let objects: Vec<_> = (0..30).map(|n| config_map(&namespace, &format!("m-{n:05}"), "w")).collect();
    let deed = json!({"do": "apply", "mode": "merge", "force": true, "dry_run": true, "objects": objects});
    let answers = rig.restored(&["--plan"], &[deed]);
    assert!(answers[0].as_array().unwrap().iter().all(|change| *change == "changed"), "{answers:?}");
    assert_eq!(front.n_requests(&format!("GET /api/v1/namespaces/{namespace}/configmaps/")), 30);
}

#[test]
fn recorded_managers_are_the_owners_again() {
    let cluster = cluster();
    let namespace = cluster.namespace("owners").unwrap();
    let run = |args: &[&str]| cluster.kubectl(args).unwrap();
    run(&["create", "configmap", "one", "-n", &namespace, "--from-literal=a=1", "--field-manager=helm"]);
    cluster.apply(&config_map(&namespace, "several", "1")).unwrap();
    run(&[
        "patch",
        "configmap",
        "several",
        "-n",
        &namespace,
        "--field-manager=somebody",
        "-p",
        r#"{"data":{"other":"2"}}"#,
    ]);
    let managers = |name: &str| {
        let object = cluster.get(&["configmap", name, "-n", &namespace, "--show-managed-fields"]).unwrap();
        let entry =
            |entry: &Value| (entry["manager"].clone(), entry["operation"].clone(), entry["fieldsV1"].to_string());
        let mut entries: Vec<_> = object["metadata"]["managedFields"].as_array().unwrap().iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.0.to_string());
        (entries, object["data"].clone())
    };
    let before = [managers("one"), managers("several")];
    assert_eq!((before[0].0.len(), before[1].0.len()), (1, 2));
    let rig = Rig::admin(cluster, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    rig.ask(json!({"do": "list", "kind": MAPS, "namespace": namespace, "fields": "metadata.name!=kube-root-ca.crt", "archive": "maps"}));
    run(&["delete", "configmap", "one", "several", "-n", &namespace]);
    assert_eq!(rig.change(json!({"do": "apply-unseen", "archive": "maps", "mode": "create"})), "applied");
    assert_eq!([managers("one"), managers("several")], before);
}

#[test]
fn what_one_manager_applied_comes_back_in_one_request_and_never_over_one_that_is_there() {
    let cluster = cluster();
    let namespace = cluster.namespace("applied").unwrap();
    cluster.apply(&config_map(&namespace, "applied", "1")).unwrap();
    // The server fills in what the manager did not write, and which is not the manager's.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "filled", "namespace": namespace},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    cluster.apply(&service).unwrap();
    let managers = |kind: &str, name: &str| {
        let object = cluster.get(&[kind, name, "-n", &namespace, "--show-managed-fields"]).unwrap();
        let entry = |entry: &Value| json!([entry["manager"], entry["operation"], entry["fieldsV1"]]);
        object["metadata"]["managedFields"].as_array().unwrap().iter().map(entry).collect::<Vec<_>>()
    };
    let before = [managers("configmap", "applied"), managers("service", "filled")];
    assert_eq!(before[0].len(), 1);
    let front = Front::start(cluster, |_, _| Act::Pass);
    let rig = Rig::behind(&front, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    let list = |kind: &str, name: &str, archive: &str| json!({"do": "list", "kind": kind, "namespace": namespace, "fields": format!("metadata.name={name}"), "archive": archive});
    rig.backup(&[list(MAPS, "applied", "maps"), list("/v1/services/Service", "filled", "services")]);
    let create = |archive: &str| rig.change(json!({"do": "apply-unseen", "archive": archive, "mode": "create"}));
    cluster.kubectl(["patch", "configmap", "applied", "-n", &namespace, "-p", r#"{"data":{"k":"theirs"}}"#]).unwrap();
    check_case(&create("maps"), "conflict", &["already exists"]);
    assert_eq!(cluster.get(&["configmap", "applied", "-n", &namespace]).unwrap()["data"]["k"], "theirs");

    cluster.kubectl(["delete", "-n", &namespace, "configmap/applied", "service/filled"]).unwrap();
    let path = format!("/api/v1/namespaces/{namespace}");
    let n_writes = |kind: &str| {
        let n = |method: &str| front.n_requests(&format!("{method} {path}/{kind}"));
        (n("PATCH"), n("POST"))
    };
    assert_eq!(n_writes("configmaps"), (1, 0), "the one that was there");
    assert_eq!((create("maps"), create("services")), (json!("applied"), json!("applied")));
    assert_eq!((n_writes("configmaps"), n_writes("services")), ((2, 0), (2, 0)));
    assert_eq!([managers("configmap", "applied"), managers("service", "filled")], before);
}

#[test]
fn of_many_the_first_to_answer_is_named_and_nothing_is_waited_for_in_vain() {
    let cluster = cluster();
    let namespace = cluster.namespace("first").unwrap();
    let front = Front::start(cluster, |request, _| {
        // A list that is never answered beside one that is.
        if request.contains("fieldSelector") { Act::Silent } else { Act::Pass }
    });
    let rig = Rig::behind(&front, &reads(&["*"], ""));
    let wait = |clusters: u32, lists: &Value| json!({"do": "first-ready", "clusters": clusters, "kind": MAPS, "namespace": namespace, "fields": lists});
    let answers = rig.backup(&[
        wait(0, &json!([])),
        wait(1001, &json!([])),
        wait(2, &json!([])),
        wait(0, &json!(["metadata.name=x", "", "metadata.name=y"])),
    ]);
    check_case(&answers[0], "invalid", &["nothing to wait for"]);
    check_case(&answers[1], "invalid", &["too many clusters and lists"]);
    assert!(answers[2] == json!(["cluster", 0]) || answers[2] == json!(["cluster", 1]), "{}", answers[2]);
    assert_eq!(answers[3], json!(["listing", 1]));
}

#[test]
fn status_conditions_access_and_logs() {
    let cluster = cluster();
    let namespace = cluster.namespace("look").unwrap();
    cluster
        .pod(
            &namespace,
            "talks",
            &json!({"app": "talks"}),
            &json!({"containers": [
                {"name": "main", "image": "none", "command": ["/bin/sh", "-c", "echo it said so; exec sleep 600"]},
            ]}),
        )
        .unwrap();
    let user = cluster.token_user(&namespace, "robot").unwrap();
    cluster.allow(&user, Some(&namespace), &[("", "pods,pods/log,configmaps", "get,list")]).unwrap();
    let rig = Rig::new(cluster, &user, &(grant(&["get", "list", "logs"], &["/Pod", "/ConfigMap"], "inspect = true")));
    let pod = json!({"kind": PODS, "namespace": namespace, "name": "talks"});
    let wait = |condition: &str, timeout: u64| {
        let mut deed = pod.clone();
        deed["do"] = "wait".into();
        (deed["condition"], deed["value"], deed["timeout_ms"]) = (condition.into(), "True".into(), timeout.into());
        deed
    };
    let logs = || {
        let said = rig.ask(json!({"do": "logs", "namespace": namespace, "name": "talks", "container": "main"}));
        Ok(said.as_str().filter(|said| said.contains("it said so")).map(str::to_owned))
    };
    wait_until("the pod's log", PATIENCE, logs).unwrap();
    let answers = rig.backup(&[
        wait("Ready", 30_000),
        wait("NoSuchCondition", 100),
        json!({"do": "can-i", "questions": [
            {"verb": "list", "kind": MAPS, "namespace": namespace},
            {"verb": "delete", "kind": MAPS, "namespace": namespace},
            {"verb": "list", "kind": MAPS},
        ]}),
        json!({"do": "can-i", "questions": [{"verb": "list;", "kind": MAPS}]}),
        json!({"do": "logs", "namespace": namespace, "name": "absent"}),
        json!({"do": "probe"}),
    ]);
    assert_eq!(answers[0], "it is");
    check_case(&answers[1], "timed-out", &["NoSuchCondition", "no such condition"]);
    assert_eq!(answers[2], json!([true, false, false]));
    check_case(&answers[3], "invalid", &[]);
    check_case(&answers[4], "not-found", &["absent"]);
    let steps = answers[5]["steps"].as_array().unwrap();
    assert!(steps.iter().take(4).all(|step| step[1] == "passed"), "{steps:?}");
    assert_eq!(
        steps.iter().map(|step| step[0].as_str().unwrap()).collect::<Vec<_>>(),
        ["dns", "tcp", "tls", "authentication", "health"]
    );
    assert!(steps[3][2].as_str().unwrap().contains("robot"), "{steps:?}");
    assert!(
        answers[5]["certificate"].as_u64() > Some(0) && answers[5]["credential"].as_u64() > Some(0),
        "{}",
        answers[5]
    );
}

#[test]
fn what_a_restore_wrote_stands_in_the_audit_log_before_and_after() {
    let cluster = cluster();
    let namespace = cluster.namespace("audit").unwrap();
    let rig = Rig::admin(cluster, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    rig.backup(&[]);
    let objects: Vec<Value> = (0..40).map(|n| config_map(&namespace, &format!("m-{n}"), "v")).collect();
    let made = rig.change(json!({"do": "apply", "mode": "create", "objects": objects, "count": true}));
    assert_eq!(made, json!({"created": 40}));
    let log = rig.sandbox.run(["audit", "show", "--output", "json"]);
    log.check_code(0);
    log.check_stdout("\"40 /ConfigMap\"").check_stdout("kube.cluster.apply").check_stdout("blake3 ");
    assert_eq!(log.stdout.matches("\"40 /ConfigMap\"").count(), 1, "one line before, and one after that refers to it");
    // All but one of them are there now: the call is done, and most of it is not.
    let mut more = objects;
    more.push(config_map(&namespace, "new", "v"));
    let made = rig.change(json!({"do": "apply", "mode": "create", "objects": more, "count": true}));
    assert_eq!(made.as_object().map(|made| (made.len(), made["created"].clone())), Some((41, json!(1))), "{made}");
    let shown = rig.sandbox.run(["audit", "show", "--function", "kube.cluster.apply", "--output", "json"]);
    let lines = shown.check_code(0).json()["lines"].clone();
    let after = lines.as_array().expect("lines").iter().filter(|line| line["event"] == "after");
    let said: Vec<_> = after.map(|line| (line["outcome"].clone(), line["failed"].clone())).collect();
    assert_eq!(said, [(json!("ok"), Value::Null), (json!("incomplete"), json!(40))], "{lines:#}");
    rig.sandbox.run(["audit", "verify"]).check_code(0);
}

#[test]
fn who_reads_and_who_restores_are_two_and_both_may_come_from_a_program() {
    let cluster = cluster();
    let namespace = cluster.namespace("two").unwrap();
    let (reader, writer) =
        (cluster.token_user(&namespace, "reader").unwrap(), cluster.token_user(&namespace, "writer").unwrap());
    cluster.allow(&reader, Some(&namespace), &[("", "configmaps", "get,list")]).unwrap();
    cluster.allow(&writer, Some(&namespace), &[("", "configmaps", "get,list,create,patch")]).unwrap();
    let at = format!("api = {:?}\nca = {:?}\ntoken = {{ env = \"READER\" }}", cluster.url(), cluster.ca_file());
    let grants = reads(&["*"], "") + &grant(&["apply"], &["*"], "");
    let rig = |way: &str| {
        let mut rig = Rig::at(way, &grants);
        rig.sandbox.set_env("READER", reader.token()).set_env("WRITER", writer.token());
        rig
    };
    let write = |name: &str| json!({"do": "apply", "mode": "merge", "objects": [config_map(&namespace, name, "v")]});
    let one = rig(&at);
    let list = json!({"do": "list", "kind": MAPS, "namespace": namespace});
    let listed = || Ok(Some(one.ask(list.clone())).filter(|answer| answer["errors"] == json!([])));
    wait_until("the reader's role", PATIENCE, listed).unwrap();
    check_case(&one.change(write("x"))[0], "failed", &["may not merge configmaps \"x\""]);
    let two = rig(&format!("{at}\nrestore = {{ token = {{ env = \"WRITER\" }} }}"));
    two.backup(&[]);
    let written = || Ok(Some(two.change(write("x"))).filter(|answer| *answer == json!(["created"])));
    wait_until("the writer's role", PATIENCE, written).unwrap();
    // Who reads may ask what who restores may do, and does nothing as that.
    let may = |restores: bool| json!({"verb": "create", "kind": MAPS, "namespace": namespace, "restores": restores});
    assert_eq!(two.ask(json!({"do": "can-i", "questions": [may(false), may(true)]})), json!([false, true]));
    // A kubeconfig that runs a program: refused, until the operator says that it may.
    let script = two.sandbox.write("credentials", format!(
        "#!/bin/sh\necho '{}'\n",
        json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": reader.token()}})
    ));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let kubeconfig = two.sandbox.write("kubeconfig", json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url(), "certificate-authority": cluster.ca_file()}}],
        "users": [{"name": "u", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": script, "interactiveMode": "Never"}}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }).to_string());
    let way = format!("context = \"x\"\nkubeconfig = {kubeconfig:?}");
    check_case(&rig(&way).ask(list.clone()), "failed", &["wants to run a program"]);
    let allowed = rig(&format!("{way}\nexec_credentials = true")).ask(list.clone());
    assert_eq!(allowed["errors"], json!([]), "{allowed}");
}

#[test]
fn an_operator_sees_who_becomes_administrator_and_says_which_namespaces_are_meant() {
    let rig = Rig::at("in_cluster = true", "");
    rig.configure(&json!([]));
    let component = plugin("guests/cluster").unwrap();
    let digest = sha256(&std::fs::read(&component).unwrap());
    let inspected =
        rig.sandbox.run(["plugin", "inspect", component.to_str().unwrap(), "--fail-on", "cluster-administrator"]);
    inspected.check_code(5).check_stdout("cluster administrator").check_stdout("sees the values of Secrets");
    let approve = |more: &[&str]| {
        let args = ["plugin", "approve", "asks", "--digest", &digest, "--cluster", "clusters=a"];
        rig.sandbox.run(args.iter().chain(more))
    };
    approve(&[]).check_error(2, &["which namespaces of cluster \"a\"", "--namespace a=NAME"]);
    approve(&["--namespace", "a=shop", "--namespace", "a=shop-*"]).check_code(0);
    let written = std::fs::read_to_string(rig.sandbox.path("strongroom.toml")).unwrap();
    assert_eq!(written.matches("namespaces = [\"shop\", \"shop-*\"]").count(), 2, "{written}");
    rig.sandbox.run(["config", "check"]).check_code(0);
    let effective = rig.sandbox.run(["plugin", "inspect", "asks"]);
    effective.check_code(0).check_stdout("in shop, shop-*");
    approve(&["--namespace", "a=*"]).check_code(0);
    let written = std::fs::read_to_string(rig.sandbox.path("strongroom.toml")).unwrap();
    assert!(!written.contains("namespaces"), "{written}");
}

/// The grants with which a verification makes and removes namespaces are for no others.
#[test]
fn test_restores_are_granted_namespaces_of_their_own_or_nothing() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("store")).unwrap();
    let component = plugin("kubernetes").unwrap();
    let digest = sha256(&std::fs::read(&component).unwrap());
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    sandbox.config(&format!(
        "[store.main]\ntype = \"local\"\npath = \"store\"\nrecipients = [{recipient:?}]\n\n[cluster.a]\nin_cluster = true\n\n\
         [plugin.kubernetes]\nsource = {component:?}\n\n[target.there]\noptions = {{ to_clusters = {{ a = \"a\" }}, scratch_prefix = \"try-\" }}\n\n\
         [job.orders]\nplugin = \"kubernetes\"\nstore = \"main\"\nsettings = {{ clusters = [\"a\"] }}\nverify = {{ depth = \"restore\", target = \"there\" }}\n"
    ));
    let scratch = |more: &[&str]| -> Vec<toml::Value> {
        let args = ["plugin", "approve", "kubernetes", "--digest", &digest, "--namespace", "a=shop"];
        sandbox.run(args.iter().chain(["--cluster", "to_clusters=a"].iter()).chain(more)).check_code(0);
        let text = std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap();
        let written: toml::Value = toml::from_str(&text).unwrap();
        let all = written["plugin"]["kubernetes"]["grant"]["kube"]["a"].as_array().unwrap().clone();
        assert!(all.len() >= 3, "{text}");
        let is_scratch = |grant: &toml::Value| grant.get("scratch") == Some(&true.into());
        let (scratch, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_scratch);
        assert!(others.iter().all(|grant| grant["namespaces"] == vec!["shop"].into()), "{text}");
        scratch
    };
    let mistyped = ["plugin", "approve", "kubernetes", "--digest", &digest, "--scratch-namespace", "b=try-*"];
    sandbox.run(mistyped).check_error(2, &["there is no cluster \"b\"", "the label of a cluster: a"]);
    assert_eq!(scratch(&[]), []);
    let granted = scratch(&["--scratch-namespace", "a=try-*"]);
    assert!(granted.len() == 1 && granted[0]["namespaces"] == vec!["try-*"].into(), "{granted:?}");
    assert!(granted[0]["may"].as_array().unwrap().contains(&"delete".into()), "{granted:?}");
}

/// What the plugin does not see is held against the grants before it is sent all the same.
#[test]
fn unseen_objects_go_only_where_and_as_what_they_are_granted_and_bodies_are_read_with_inspect_only() {
    let cluster = cluster();
    let (own, other) = (cluster.namespace("own").unwrap(), cluster.namespace("other").unwrap());
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": own}});
    cluster.apply(&account).unwrap();
    cluster.apply(&config_map(&own, "x", "v")).unwrap();
    let secret = |name: &str, kind: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "stringData": {"a": "b"}, "metadata": {"name": name,
            "namespace": own, "annotations": {"kubernetes.io/service-account.name": "robot"}}})
    };
    cluster.apply(&secret("plain", "Opaque")).unwrap();
    cluster.apply(&secret("token", "kubernetes.io/service-account-token")).unwrap();
    let within = format!("namespaces = [{own:?}]");
    let reading = reads(&["/ConfigMap", "/Secret"], &within);
    let reference = |kind: &str, name: &str| json!({"kind": kind, "namespace": own, "name": name});
    let unseen = |from: &Value, to: Option<&str>| json!({"do": "apply-unseen", "mode": "merge", "force": true, "from": [from], "to": to});
    let (map, plain, token) = (reference(MAPS, "x"), reference(SECRETS, "plain"), reference(SECRETS, "token"));
    // May write config maps here: not elsewhere, and no Secret.
    let maps = Rig::admin(cluster, &(reading.clone() + &grant(&["apply"], &["/ConfigMap"], &within)));
    maps.backup(&[]);
    assert_eq!(maps.change(unseen(&map, None)).as_array().map(Vec::len), Some(1));
    for denied in [unseen(&map, Some(&other)), unseen(&plain, None), unseen(&token, None)] {
        let answer = maps.change(denied).to_string();
        assert!(answer.contains("denied"), "{answer}");
    }
    // May write Secrets here: not one that is the token of a service account.
    let all = Rig::admin(cluster, &(reading + &grant(&["apply"], &["/Secret"], &within)));
    all.backup(&[]);
    for (deed, is_denied) in
        [(unseen(&plain, None), false), (unseen(&plain, Some(&other)), true), (unseen(&token, None), true)]
    {
        let answer = all.change(deed).to_string();
        assert_eq!(answer.contains("denied"), is_denied, "{answer}");
    }
    assert!(
        cluster.get(&["configmap", "x", "-n", &other]).is_err()
            && cluster.get(&["secret", "plain", "-n", &other]).is_err()
    );

    let bodies = json!({"do": "list", "kind": MAPS, "namespace": own, "names": true, "bodies": true});
    let blind = Rig::admin(cluster, &reads(&["/ConfigMap"], "")).ask(bodies.clone());
    assert!(blind["errors"].to_string().contains("denied") && blind["texts"] == json!([]), "{blind}");
    let seeing = Rig::admin(cluster, &reads(&["/ConfigMap"], "inspect = true")).ask(bodies);
    assert_eq!((&seeing["errors"], seeing["texts"].as_array().map(Vec::len)), (&json!([]), Some(2)), "{seeing}");
}

#[test]
fn a_ceiling_is_over_every_way_to_a_cluster() {
    let cluster = cluster();
    let rig = Rig::admin(cluster, &reads(&["/ConfigMap"], "namespaces = [\"shop-*\"]"));
    rig.configure(&json!([{"do": "version"}]));
    let run = |server: &str, namespaces: &str| {
        let ceiling = rig.sandbox.write("ceiling.toml", format!(
            "artifacts = \"any\"\n[[kube]]\nserver = {server:?}\nmay = [\"list\", \"get\"]\nkinds = [\"*\"]\nnamespaces = [{namespaces:?}]\n"
        ));
        private(&ceiling);
        rig.sandbox.run(["backup", "orders", "--ceiling", ceiling.to_str().unwrap()])
    };
    // The address is the kubeconfig's: a label binds nobody.
    run("https://prod[.]example[.]org", "shop-.*").check_error(4, &["over the ceiling", &cluster.url()]);
    run("https://127[.]0[.]0[.]1:[0-9]+", "shop-a").check_error(4, &["over the ceiling", "shop-*"]);
    run("https://127[.]0[.]0[.]1:[0-9]+", "shop-.*").check_code(0);
}

#[test]
fn nothing_changes_a_cluster_but_a_restore_that_is_no_plan() {
    let cluster = cluster();
    let namespace = cluster.namespace("still").unwrap();
    cluster.apply(&config_map(&namespace, "x", "v")).unwrap();
    // Everything, on every occasion, as far as the configuration lets it be written.
    let all = "[[plugin.asks.grant.kube.a]]\nmay = [\"list\", \"get\", \"dry-run\", \"apply\", \"delete\"]\nkinds = [\"*\"]\nverbs = [\"backup\", \"verify\", \"restore\", \"diagnose\"]\neffect = \"changes\"\n";
    let rig = Rig::admin(cluster, all);
    let named = json!({"kind": MAPS, "namespace": namespace, "name": "x"});
    let mut deeds = vec![json!({"do": "delete", "objects": [named]})];
    for mode in ["create", "merge", "replace"] {
        let objects = json!([config_map(&namespace, "x", "w"), config_map(&namespace, "new", "w")]);
        deeds.push(json!({"do": "apply", "mode": mode, "force": true, "objects": objects}));
        deeds.push(json!({"do": "apply-unseen", "mode": mode, "force": true, "from": [named], "to": "default"}));
    }
    let before = || cluster.get(&["configmaps", "-n", &namespace]).unwrap()["items"].clone();
    let untouched = before();
    let check_denied = |answers: &[Value]| {
        for answer in answers.iter().flat_map(|answer| answer.as_array().expect("one answer for each object")) {
            check_case(answer, "denied", &[]);
        }
    };
    check_denied(&rig.backup(&deeds));
    check_denied(&rig.restored(&["--plan"], &deeds));
    rig.sandbox.run(["verify", "orders"]).check_code(0);
    rig.sandbox.run(["diagnose", "orders"]).check_code(0);
    assert_eq!(before(), untouched);
    assert!(cluster.get(&["configmap", "x", "-n", "default"]).is_err());
    // The same deed is done where it may be.
    assert_eq!(rig.change(deeds[0].clone()), json!(["deleted"]));
}
