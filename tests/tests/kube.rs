//! The `kube` interface against real clusters: what is granted is done, what is not is refused through
//! every function, and whatever a cluster does wrong ends in one clear error.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::kube::{Cluster, Server, User};
use strongroom_tests::relay::{private, sha256};
use strongroom_tests::{Output, Sandbox, plugin, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds as the guest names them.
const MAPS: &str = "/v1/configmaps/ConfigMap";
const SECRETS: &str = "/v1/secrets/Secret";
const NAMESPACES: &str = "/v1/namespaces/Namespace";
const PODS: &str = "/v1/pods/Pod";

fn cluster() -> &'static Cluster {
    Cluster::shared("kube")
}

/// A job whose plugin asks the cluster `a` for what a test says.
struct Rig {
    sandbox: Sandbox,
    grants: String,
    /// `[cluster.a]`, as TOML lines.
    way: String,
}

impl Rig {
    /// Reached as this user.
    fn new(cluster: &Cluster, user: &User, grants: &str) -> Self {
        let kubeconfig = cluster.kubeconfig(user).unwrap();
        let way = format!("context = {:?}\nkubeconfig = {:?}", user.name(), kubeconfig);
        Self::at(&way, grants)
    }

    fn admin(cluster: &Cluster, grants: &str) -> Self {
        let way = format!("context = \"admin\"\nkubeconfig = {:?}", cluster.admin_kubeconfig());
        Self::at(&way, grants)
    }

    /// Through a front that does something wrong.
    fn behind(front: &Front, grants: &str) -> Self {
        Self::at(&format!("api = {:?}\ntoken = {{ env = \"CLUSTER_TOKEN\" }}\ntimeout = \"2s\"", front.url()), grants)
    }

    fn at(way: &str, grants: &str) -> Self {
        let mut sandbox = Sandbox::new();
        sandbox.set_env("CLUSTER_TOKEN", "the front has its own");
        std::fs::create_dir(sandbox.path("store")).unwrap();
        Self { sandbox, grants: grants.to_owned(), way: way.to_owned() }
    }

    fn configure(&self, deeds: &Value) {
        let component = plugin("guests/cluster").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).unwrap());
        let deeds: toml::Value = serde_json::from_value(without_null(deeds)).unwrap();
        let Self { way, grants, .. } = self;
        self.sandbox.config(&format!(
            "[store.main]\ntype = \"local\"\npath = \"store\"\nencryption = \"off\"\n\n[cluster.a]\n{way}\n\n[plugin.asks]\nsource = {component:?}\nsha256 = \"{digest}\"\n\n[plugin.asks.grant.artifacts]\n\n{grants}\n\n[job.orders]\nplugin = \"asks\"\nstore = \"main\"\nsettings = {{ deeds = {deeds} }}\n"
        ));
    }

    /// What came of each deed of a backup.
    #[track_caller]
    fn backup(&self, deeds: &[Value]) -> Vec<Value> {
        self.configure(&json!(deeds));
        let made = self.sandbox.run(["backup", "orders", "--output", "json"]);
        made.check_code(0);
        let facts = made.json()["facts"].clone();
        let facts: Vec<Value> = facts.as_array().into_iter().flatten().map(answer_of).collect();
        assert_eq!(facts.len(), deeds.len(), "{}", made.stderr);
        facts
    }

    /// What came of one deed of a backup.
    #[track_caller]
    fn ask(&self, deed: Value) -> Value {
        self.backup(&[deed]).remove(0)
    }

    fn restore(&self, flags: &[&str], deeds: &[Value]) -> Output {
        let option = format!("deeds={}", json!(deeds));
        let args = ["restore", "orders", "latest", "--output", "json", "--option", &option];
        self.sandbox.run(args.iter().chain(flags))
    }

    /// What came of each deed of a restore of the last backup.
    #[track_caller]
    fn restored(&self, flags: &[&str], deeds: &[Value]) -> Vec<Value> {
        let done = self.restore(flags, deeds);
        done.check_code(0);
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        for step in done.json()["steps"].as_array().into_iter().flatten() {
            told.entry(step["target"].to_string()).or_default().push_str(step["note"].as_str().unwrap());
        }
        let steps: Vec<Value> =
            told.values().map(|told| serde_json::from_str(told).expect("the guest reports JSON")).collect();
        assert_eq!(steps.len(), deeds.len(), "{}", done.stderr);
        steps
    }

    /// What came of one deed of a restore.
    #[track_caller]
    fn change(&self, deed: Value) -> Value {
        self.restored(&[], &[deed]).remove(0)
    }
}

/// TOML has no null.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), without_null(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_null).collect(),
        other => other.clone(),
    }
}

fn answer_of(fact: &Value) -> Value {
    serde_json::from_str(fact["value"].as_str().expect("a fact has a value")).expect("the guest reports JSON")
}

fn grant(may: &[&str], kinds: &[&str], more: &str) -> String {
    let changes = may.iter().any(|verb| ["apply", "delete"].contains(verb));
    let effect = if changes { "changes" } else { "reads" };
    let verbs = if changes { json!(["restore"]) } else { json!(["backup", "restore", "diagnose", "verify"]) };
    format!(
        "[[plugin.asks.grant.kube.a]]\nmay = {}\nkinds = {}\nverbs = {verbs}\neffect = {effect:?}\n{more}\n\n",
        json!(may),
        json!(kinds)
    )
}

fn reads(kinds: &[&str], more: &str) -> String {
    grant(&["list", "get"], kinds, more)
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
    many(cluster, &namespace, 700);
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
    ]);
    assert!(answers[0].as_str().unwrap().starts_with("v1."), "{}", answers[0]);
    assert_eq!((&answers[1]["found"], &answers[1]["failed"]), (&json!(true), &json!([])));
    // With kube-root-ca.crt.
    assert_eq!((&answers[2]["objects"], &answers[2]["pages"]), (&json!(702), &json!(2)), "{}", answers[2]);
    let listed: Value = serde_json::from_str(answers[3]["texts"][0].as_str().unwrap()).unwrap();
    let got: Value = serde_json::from_str(answers[4].as_str().unwrap()).unwrap();
    assert_eq!(listed, got, "an object of a list is the object itself");
    assert_eq!((&got["apiVersion"], &got["kind"], &got["data"]["k"]), (&json!("v1"), &json!("ConfigMap"), &json!("\"{[\\u00e9\n")));
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
fn a_list_that_expires_half_way_loses_nothing_and_hands_nothing_out_twice() {
    let cluster = Cluster::start().unwrap();
    let namespace = cluster.namespace("expire").unwrap();
    many(&cluster, &namespace, 1700);
    // The third page is held until the cluster has forgotten of which moment the list is.
    let (gate, released) = Front::gate();
    let front = Front::start(&cluster, move |request, _| {
        let is_third = request.contains("configmaps?") && request.contains("continue=") && gate.passes() == 1;
        if request.contains("continue=") { gate.count() };
        if is_third { Act::Hold(gate.clone()) } else { Act::Pass }
    });
    let mut rig = Rig::behind(&front, &reads(&["*"], ""));
    // Held for as long as it takes.
    rig.way = rig.way.replace("2s", "60s");
    rig.configure(&json!([{"do": "list", "kind": MAPS, "namespace": namespace, "names": true}]));
    let running = rig.sandbox.strongroom(["backup", "orders", "--output", "json"]).start().unwrap();
    released.wait_until_held();
    cluster.kubectl(["delete", "configmap", "m-00003", "-n", &namespace]).unwrap();
    cluster.forget_history().unwrap();
    released.release();
    let made = running.finish(PATIENCE).unwrap();
    made.check_code(0);
    let answer = answer_of(&made.json()["facts"][0]);
    assert!(answer["restarted"].as_u64() >= Some(1), "{} restarts", answer["restarted"]);
    assert_eq!(answer["errors"], json!([]));
    let mut names: Vec<String> = answer["names"].as_array().unwrap().iter().map(Value::to_string).collect();
    let n_names = names.len();
    names.dedup();
    assert_eq!((names.len(), n_names), (1701, 1701), "each once, the one that was deleted behind us included");
}

#[test]
fn what_a_secret_holds_reaches_the_plugin_through_no_function() {
    let cluster = cluster();
    let namespace = cluster.namespace("secret").unwrap();
    cluster.apply(&secret(&namespace, "db")).unwrap();
    let at = format!("namespaces = [{namespace:?}]\ninspect = true");
    let rig = Rig::admin(cluster, &(reads(&["/Secret"], &at) + &grant(&["apply"], &["/Secret"], &format!("namespaces = [{namespace:?}]"))));
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
    let tried = |mode: &str| with(json!({"do": "apply-unseen", "from": [named], "mode": mode, "dry_run": true, "texts": true}));
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
    check_case(&more[4][0], "invalid", &[]);
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
    assert_eq!((&restored["data"], &restored["metadata"]["annotations"]), (&stored["data"], &stored["metadata"]["annotations"]));
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
        vec![with("list"), with("get"), with("body"), json!({"do": "wait", "kind": kind, "namespace": namespace, "name": name, "cluster": label, "condition": "A", "value": "B"})]
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
    refused.push(json!({"do": "logs", "namespace": own, "name": "x"}));
    for (n, answer) in rig.backup(&refused).iter().enumerate() {
        check_case(answer, "denied", &[]);
        assert!(!answer.to_string().contains("granted for"), "it never says what would be allowed: {} {answer}", refused[n]);
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
        assert!(answer.as_str().is_some_and(|text| text.starts_with("invalid: ") || text.starts_with("denied: ")), "{answer}");
    }
    assert!(tricks[5]["errors"][0].as_str().is_some_and(|text| text.starts_with("invalid: ")), "{}", tricks[5]);
    // Lists over everything see only what is granted.
    let seen = rig.ask(json!({"do": "list", "kind": MAPS, "names": true}));
    assert_eq!(seen["names"], json!([[own, "x"]]));
    // Each object of a call is decided on its own, and a plan changes nothing.
    let objects = json!([config_map(&own, "x-new", "v"), config_map(&other, "x", "w"), config_map(&own, "y", "v"), secret(&own, "x")]);
    let apply = json!({"do": "apply", "mode": "merge", "objects": objects});
    let planned = rig.restored(&["--plan"], &[apply.clone()]);
    planned[0].as_array().unwrap().iter().for_each(|answer| check_case(answer, "denied", &[]));
    let done = rig.change(apply);
    assert_eq!(done[0], "created");
    (1..4).for_each(|n| check_case(&done[n], "denied", &[]));
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
    let tried = rig.ask(json!({"do": "apply", "mode": "merge", "dry_run": true, "objects": [config_map(&own, "x", "w")]}));
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
    let at = format!("namespaces = [{:?}]\nlabels = [\"app=shop-*\"]\n", format!("{}*", &namespace[..namespace.len() - 1]));
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
    let done = rig.change(json!({"do": "apply", "mode": "merge", "objects": [
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
    let answers = rig.restored(&["--plan"], &[apply("create", &one, json!({"dry_run": true})), apply("merge", &one, json!({"dry_run": true}))]);
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
    assert!(answers[9][0].as_str().unwrap().starts_with("invalid: ") || answers[9][0].as_str().unwrap().starts_with("failed: "));
    // Somebody else owns it now.
    cluster.kubectl(["patch", "configmap", "x", "-n", &namespace, "--field-manager=somebody", "-p", r#"{"data":{"k":"theirs"}}"#]).unwrap();
    let answers = rig.restored(&[], &[
        apply("merge", &one, json!({})),
        apply("merge", &one, json!({"force": true})),
    ]);
    check_case(&answers[0][0], "conflict", &["somebody", ".data.k"]);
    assert_eq!(answers[1][0]["change"], "changed");
    // What was seen is not what is there.
    let mut seen = one.clone();
    seen["metadata"]["resourceVersion"] = "1".into();
    check_case(&rig.change(apply("replace", &seen, json!({})))[0], "conflict", &["modified"]);
}

#[test]
fn recorded_managers_are_the_owners_again() {
    let cluster = cluster();
    let namespace = cluster.namespace("owners").unwrap();
    let run = |args: &[&str]| cluster.kubectl(args).unwrap();
    run(&["create", "configmap", "one", "-n", &namespace, "--from-literal=a=1", "--field-manager=helm"]);
    cluster.apply(&config_map(&namespace, "several", "1")).unwrap();
    run(&["patch", "configmap", "several", "-n", &namespace, "--field-manager=somebody", "-p", r#"{"data":{"other":"2"}}"#]);
    let managers = |name: &str| {
        let object = cluster.get(&["configmap", name, "-n", &namespace, "--show-managed-fields"]).unwrap();
        let entry = |entry: &Value| (entry["manager"].clone(), entry["operation"].clone(), entry["fieldsV1"].to_string());
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
fn status_conditions_access_and_logs() {
    let cluster = cluster();
    let namespace = cluster.namespace("look").unwrap();
    cluster
        .pod(&namespace, "talks", &json!({"app": "talks"}), &json!({"containers": [
            {"name": "main", "image": "none", "command": ["/bin/sh", "-c", "echo it said so; exec sleep 600"]},
        ]}))
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
    assert_eq!(steps.iter().map(|step| step[0].as_str().unwrap()).collect::<Vec<_>>(), ["dns", "tcp", "tls", "authentication", "health"]);
    assert!(steps[3][2].as_str().unwrap().contains("robot"), "{steps:?}");
    assert!(answers[5]["certificate"].as_u64() > Some(0) && answers[5]["credential"].as_u64() > Some(0), "{}", answers[5]);
}

#[test]
fn a_cluster_that_is_not_what_it_should_be_ends_in_one_clear_error() {
    let cluster = cluster();
    let namespace = cluster.namespace("wrong").unwrap();
    let list = json!({"do": "list", "kind": MAPS, "namespace": namespace});
    let token = cluster.token_user(&namespace, "robot").unwrap();
    cluster.allow(&token, Some(&namespace), &[("", "configmaps", "list")]).unwrap();
    let (url, port) = (cluster.url(), cluster.port());
    let other = Sandbox::new();
    let other_ca = other.write("ca.pem", include_str!("../../host/src/cluster/certificate/until-2049.pem"));
    let with = |api: &str, ca: &std::path::Path| format!("api = {api:?}\nca = {ca:?}\ntoken = {{ env = \"TOKEN\" }}\ntimeout = \"5s\"");
    let ca = cluster.ca_file();
    let expired = cluster.kubectl(["create", "serviceaccount", "old", "-n", &namespace]).and_then(|_| cluster.service_account_token(&namespace, "old", -120)).unwrap();
    let free = strongroom_tests::free_port().unwrap();
    for (way, given, case, says) in [
        (with(&format!("https://127.0.0.1:{free}"), &ca), token.token(), "unavailable", "nothing answers at its address"),
        (with("https://no.such.host.invalid:6443", &ca), token.token(), "unavailable", "its name does not resolve"),
        (with(&url, &other_ca), token.token(), "failed", "not signed by the authority that is expected"),
        (with(&url, &ca), "made-up", "failed", "does not accept the host's credentials"),
        (with(&url, &ca), expired.token(), "failed", "does not accept the host's credentials"),
        (with(&url, &ca) + "\nas = \"somebody\"", token.token(), "failed", "may not"),
        (with(&url, &ca) + &format!("\nproxy = \"http://127.0.0.1:{free}\""), token.token(), "unavailable", ""),
    ] {
        let mut rig = Rig::at(&way, &reads(&["/ConfigMap"], ""));
        rig.sandbox.set_env("TOKEN", given);
        check_case(&rig.ask(list.clone()), case, &["cluster \"a\"", says]);
    }
    let mut rig = Rig::at(&with(&url, &ca), &reads(&["/ConfigMap", "/Secret"], ""));
    rig.sandbox.set_env("TOKEN", token.token());
    // The role is seen a moment after it was made.
    let listed = || Ok(Some(rig.ask(list.clone())).filter(|answer| answer["errors"] == json!([])));
    wait_until("the new role", PATIENCE, listed).unwrap();
    let answers = rig.backup(&[
        json!({"do": "list", "kind": SECRETS, "namespace": namespace}),
        json!({"do": "list", "kind": MAPS, "namespace": "default"}),
        json!({"do": "get", "kind": MAPS, "namespace": namespace, "name": "kube-root-ca.crt"}),
    ]);
    let refused = |answer: &Value, says: &str| check_case(&answer["errors"][0], "failed", &[says]);
    refused(&answers[0], &format!("may not list secrets in namespace \"{namespace}\""));
    refused(&answers[1], "may not list configmaps in namespace \"default\"");
    check_case(&answers[2], "failed", &["may not get configmaps \"kube-root-ca.crt\""]);
    // A namespace that may not be listed does not hide those that may.
    let grants = reads(&["/ConfigMap"], &format!("namespaces = [\"default\", {namespace:?}]"));
    let mut rig = Rig::at(&with(&url, &ca), &grants);
    rig.sandbox.set_env("TOKEN", token.token());
    let answer = rig.ask(json!({"do": "list", "kind": MAPS, "names": true}));
    assert_eq!(answer["names"], json!([[namespace, "kube-root-ca.crt"]]), "{answer}");
    refused(&answer, "namespace \"default\"");
    // The way there, step by step.
    let mut rig = Rig::at(&with(&format!("https://127.0.0.1:{port}"), &other_ca), &reads(&["/ConfigMap"], ""));
    rig.sandbox.set_env("TOKEN", token.token());
    let health = rig.ask(json!({"do": "probe"}));
    let outcomes: Vec<&str> = health["steps"].as_array().unwrap().iter().map(|step| step[1].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["passed", "passed", "failed", "skipped", "skipped"], "{health}");
}

#[test]
fn a_token_that_is_replaced_half_way_is_read_again() {
    let cluster = cluster();
    let namespace = cluster.namespace("renew").unwrap();
    let user = cluster.token_user(&namespace, "robot").unwrap();
    cluster.allow(&user, Some(&namespace), &[("", "configmaps", "get,list")]).unwrap();
    let scratch = Sandbox::new();
    let file = scratch.write("token", format!("{}\n", user.token()));
    private(&file);
    let way = format!("api = {:?}\nca = {:?}\ntoken = {{ file = {file:?} }}", cluster.url(), cluster.ca_file());
    let rig = Rig::at(&way, &reads(&["/ConfigMap"], ""));
    let list = json!({"do": "list", "kind": MAPS, "namespace": namespace});
    let listed = || Ok(Some(rig.ask(list.clone())).filter(|answer| answer["errors"] == json!([])));
    wait_until("the new role", PATIENCE, listed).unwrap();
    std::fs::write(&file, "a token that has expired").unwrap();
    check_case(&rig.ask(list.clone()), "failed", &["does not accept the host's credentials"]);
}

#[test]
fn bursts_of_429_and_503_and_answers_that_are_cut_are_ridden_out() {
    let cluster = cluster();
    let namespace = cluster.namespace("burst").unwrap();
    many(cluster, &namespace, 20);
    let list = json!({"do": "list", "kind": MAPS, "namespace": namespace});
    let busy = |status: u16, wait: &'static str| Act::Answer(status, wait, r#"{"kind":"Status","message":"busy"}"#);
    for (what, acts) in [
        ("429", vec![busy(429, "Retry-After: 1"), busy(429, "Retry-After: 0"), busy(429, "X: y")]),
        ("503", vec![busy(503, "Retry-After: 0"), busy(503, "X: y")]),
        ("cut", vec![Act::Cut(300), Act::Cut(0)]),
        ("silent", vec![Act::Silent]),
    ] {
        let front = Front::start(cluster, move |request, n| match request.contains("configmaps?") {
            true => acts.get(n).cloned().unwrap_or(Act::Pass),
            false => Act::Pass,
        });
        let rig = Rig::behind(&front, &reads(&["/ConfigMap"], ""));
        let answer = rig.ask(list.clone());
        assert_eq!((&answer["objects"], &answer["errors"]), (&json!(21), &json!([])), "{what}: {answer}");
    }
    // A create whose answer was lost is not sent again: it would tell of a conflict with itself.
    let front = Front::start(cluster, |request, _| if request.starts_with("POST /api/v1/namespaces") { Act::LoseAnswer } else { Act::Pass });
    let rig = Rig::behind(&front, &(reads(&["*"], "") + &grant(&["apply"], &["*"], "")));
    rig.backup(&[]);
    let answer = rig.change(json!({"do": "apply", "mode": "create", "objects": [config_map(&namespace, "lost", "v")]}));
    check_case(&answer[0], "unavailable", &["the connection broke"]);
    assert_eq!(front.n_requests("POST /api/v1/namespaces"), 1);
}

#[test]
fn an_api_group_that_is_down_is_reported_and_the_others_are_there() {
    let cluster = Cluster::start().unwrap();
    cluster
        .apply(&json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.down.example.org"},
            "spec": {"group": "down.example.org", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true, "service": {"name": "nobody", "namespace": "default"}}}))
        .unwrap();
    let rig = Rig::admin(&cluster, &reads(&["*"], ""));
    let down = || {
        let answer = rig.ask(json!({"do": "kinds", "kind": MAPS}));
        Ok(Some(answer).filter(|answer| answer["failed"][0][0] == "down.example.org/v1"))
    };
    let answer = wait_until("the group is seen to be down", PATIENCE, down).unwrap();
    assert_eq!(answer["found"], true);
    let front = Front::start(&cluster, |request, _| match request {
        // A server that has no answer for all at once.
        request if request.starts_with("GET /api HTTP") => {
            Act::Answer(200, "X: y", r#"{"kind":"APIVersions","versions":["v1"]}"#)
        }
        request if request.starts_with("GET /apis HTTP") => Act::Answer(200, "X: y", concat!(
            r#"{"kind":"APIGroupList","groups":[{"name":"apps","versions":[{"version":"v1"}],"preferredVersion":{"version":"v1"}},"#,
            r#"{"name":"down.example.org","versions":[{"version":"v1"}]}]}"#
        )),
        _ => Act::Pass,
    });
    let rig = Rig::behind(&front, &reads(&["*"], ""));
    let answer = rig.ask(json!({"do": "kinds", "kind": MAPS}));
    assert_eq!((&answer["found"], &answer["failed"][0][0]), (&json!(true), &json!("down.example.org/v1")), "{answer}");
}

#[test]
fn an_object_as_long_as_etcd_takes_goes_round_and_a_longer_one_is_refused() {
    let cluster = cluster();
    let namespace = cluster.namespace("long").unwrap();
    let rig = Rig::admin(cluster, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    let long = config_map(&namespace, "long", &"x".repeat(1_040_000));
    let front_file = rig.sandbox.write("long.json", long.to_string());
    cluster.kubectl(["create", "-f", front_file.to_str().unwrap()]).unwrap();
    let named = json!({"do": "list", "kind": MAPS, "namespace": namespace, "fields": "metadata.name=long", "archive": "long"});
    let answer = rig.ask(named);
    assert!(answer["bytes"].as_u64() > Some(1_040_000), "{answer}");
    cluster.kubectl(["delete", "configmap", "long", "-n", &namespace]).unwrap();
    assert_eq!(rig.change(json!({"do": "apply-unseen", "archive": "long", "mode": "create"})), "applied");
    assert_eq!(cluster.get(&["configmap", "long", "-n", &namespace]).unwrap()["data"], long["data"]);
    // One that vanished between list and get.
    let gone = rig.ask(json!({"do": "get", "kind": MAPS, "namespace": namespace, "name": "vanished"}));
    check_case(&gone, "not-found", &["\"vanished\"", &namespace]);
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
    rig.sandbox.run(["audit", "verify"]).check_code(0);
}

#[test]
fn a_cluster_that_stands_still_is_waited_for_and_not_for_ever() {
    let cluster = Cluster::start().unwrap();
    let user = cluster.admin().name().to_owned();
    let way = format!("context = {user:?}\nkubeconfig = {:?}\ntimeout = \"1s\"", cluster.admin_kubeconfig());
    let rig = Rig::at(&way, &reads(&["*"], ""));
    let paused = cluster.pause(Server::ApiServer).unwrap();
    check_case(&rig.ask(json!({"do": "version"})), "timed-out", &["said nothing for 1s"]);
    drop(paused);
    let version = rig.ask(json!({"do": "version"}));
    assert!(version.as_str().unwrap().starts_with("v1."), "{version}");
    let namespaces = rig.ask(json!({"do": "list", "kind": NAMESPACES, "cluster_wide": true}));
    check_case(&namespaces, "denied", &[]);
}
