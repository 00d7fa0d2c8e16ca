//! What a cluster, or what lies before it, does wrong.

use super::{MAPS, PATIENCE, SECRETS, check_case, cluster, config_map, many};
use serde_json::{Value, json};
use std::time::Duration;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::kube::rig::{Rig, answer_of, grant, reads};
use strongroom_tests::kube::{Cluster, Server};
use strongroom_tests::relay::private;
use strongroom_tests::{Sandbox, wait_until};

#[test]
fn a_list_that_expires_half_way_loses_nothing_and_hands_nothing_out_twice() {
    let cluster = cluster();
    let namespace = cluster.namespace("expire").unwrap();
    many(cluster, &namespace, 1100);
    // The third page is held until the cluster has forgotten of which moment the list is.
    let (gate, released) = Front::gate();
    let front = Front::start(cluster, move |request, _| {
        let is_third = request.contains("configmaps?") && request.contains("continue=") && gate.passes() == 1;
        if request.contains("continue=") {
            gate.count();
        };
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
    assert_eq!((names.len(), n_names), (1101, 1101), "each once, the one that was deleted behind us included");
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
    let other_ca = other.write("ca.pem", include_str!("../../../host/src/cluster/certificate/until-2049.pem"));
    let with = |api: &str, ca: &std::path::Path| {
        format!("api = {api:?}\nca = {ca:?}\ntoken = {{ env = \"TOKEN\" }}\ntimeout = \"5s\"")
    };
    let ca = cluster.ca_file();
    let expired = cluster
        .kubectl(["create", "serviceaccount", "old", "-n", &namespace])
        .and_then(|_| cluster.service_account_token(&namespace, "old", -120))
        .unwrap();
    let free = strongroom_tests::free_port().unwrap();
    for (way, given, case, says) in [
        (
            with(&format!("https://127.0.0.1:{free}"), &ca),
            token.token(),
            "unavailable",
            "nothing answers at its address",
        ),
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
    let outcomes: Vec<&str> =
        health["steps"].as_array().unwrap().iter().map(|step| step[1].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["passed", "passed", "failed", "skipped", "skipped"], "{health}");
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
        if what == "429" {
            let asked = front.requests(&format!("GET /api/v1/namespaces/{namespace}/configmaps?"));
            let waited = asked[1].at - asked[0].at;
            assert!(waited >= Duration::from_secs(1), "it said when to come back: {waited:?}");
        }
    }
    // A create whose answer was lost is not sent again: it would tell of a conflict with itself.
    let front =
        Front::start(
            cluster,
            |request, _| if request.starts_with("POST /api/v1/namespaces") { Act::LoseAnswer } else { Act::Pass },
        );
    let rig = Rig::behind(&front, &(reads(&["*"], "") + &grant(&["apply"], &["*"], "")));
    rig.backup(&[]);
    let answer = rig.change(json!({"do": "apply", "mode": "create", "objects": [config_map(&namespace, "lost", "v")]}));
    check_case(&answer[0], "unavailable", &["the connection broke"]);
    assert_eq!(front.n_requests("POST /api/v1/namespaces"), 1);
}

#[test]
fn a_server_that_was_waited_for_in_vain_has_few_attempts_until_it_answers_again() {
    let cluster = cluster();
    let namespace = cluster.namespace("vain").unwrap();
    let is_gone = ["/secrets?", "/services?", "/endpoints?"];
    let front = Front::start(cluster, move |request, _| match is_gone.iter().any(|kind| request.contains(kind)) {
        true => Act::Gone,
        false => Act::Pass,
    });
    // Four attempts end within 1.4 s, and the fifth begins before the time is over.
    let mut rig = Rig::behind(&front, &reads(&["*", "/Secret", "/ServiceAccount"], ""));
    rig.way.push_str("\npatience = \"4s\"");
    let of = |kind: &str| json!({"do": "list", "kind": kind, "namespace": namespace, "once": true});
    let accounts = "/v1/serviceaccounts/ServiceAccount";
    let kinds = [MAPS, SECRETS, "/v1/services/Service", accounts, "/v1/endpoints/Endpoints"];
    let answers = rig.backup(&kinds.map(of));
    for (place, fails) in [false, true, true, false, true].into_iter().enumerate() {
        assert_eq!(answers[place]["errors"].as_array().unwrap().len(), usize::from(fails), "{place}: {answers:#?}");
    }
    let n = |plural: &str| front.n_requests(&format!("GET /api/v1/namespaces/{namespace}/{plural}?"));
    assert!(n("secrets") > 4, "it had answered: {}", n("secrets"));
    assert_eq!(n("services"), 4, "it was given up");
    assert!(n("endpoints") > 4, "it had answered again: {}", n("endpoints"));
}

#[test]
fn a_group_that_is_down_is_reported_and_a_server_that_stands_still_is_waited_for_but_not_for_ever() {
    let cluster = Cluster::start().unwrap();
    cluster.register_api_without_server().unwrap();
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
        request if request.starts_with("GET /apis HTTP") => Act::Answer(
            200,
            "X: y",
            concat!(
                r#"{"kind":"APIGroupList","groups":[{"name":"apps","versions":[{"version":"v1"}],"preferredVersion":{"version":"v1"}},"#,
                r#"{"name":"down.example.org","versions":[{"version":"v1"}]}]}"#
            ),
        ),
        _ => Act::Pass,
    });
    let rig = Rig::behind(&front, &reads(&["*"], ""));
    let answer = rig.ask(json!({"do": "kinds", "kind": MAPS}));
    assert_eq!((&answer["found"], &answer["failed"][0][0]), (&json!(true), &json!("down.example.org/v1")), "{answer}");
    let way = format!("context = \"admin\"\nkubeconfig = {:?}\ntimeout = \"1s\"", cluster.admin_kubeconfig());
    let rig = Rig::at(&way, &reads(&["*"], ""));
    let paused = cluster.pause(Server::ApiServer).unwrap();
    check_case(&rig.ask(json!({"do": "version"})), "timed-out", &["cluster \"a\": could not ask for its version"]);
    drop(paused);
    let version = rig.ask(json!({"do": "version"}));
    assert!(version.as_str().unwrap().starts_with("v1."), "{version}");
}

#[test]
fn an_object_as_long_as_etcd_takes_goes_round_and_a_longer_one_is_refused() {
    let cluster = cluster();
    let namespace = cluster.namespace("long").unwrap();
    let rig = Rig::admin(cluster, &(reads(&["*"], "") + &grant(&["apply", "delete"], &["*"], "")));
    let long = config_map(&namespace, "long", &"x".repeat(1_040_000));
    let front_file = rig.sandbox.write("long.json", long.to_string());
    cluster.kubectl(["create", "-f", front_file.to_str().unwrap()]).unwrap();
    let named =
        json!({"do": "list", "kind": MAPS, "namespace": namespace, "fields": "metadata.name=long", "archive": "long"});
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
fn a_server_that_refuses_a_token_is_given_the_one_that_is_there_now() {
    let cluster = cluster();
    let namespace = cluster.namespace("again").unwrap();
    let front = Front::start(cluster, |request, n| match request.contains("configmaps?") && n == 0 {
        true => Act::Answer(401, "X: y", r#"{"kind":"Status","reason":"Unauthorized","message":"Unauthorized"}"#),
        false => Act::Pass,
    });
    let mut rig = Rig::behind(&front, &reads(&["/ConfigMap"], ""));
    // A file that the kubelet or a vault writes again, with an end of line.
    private(&rig.sandbox.write("token", "a token that is one\n"));
    rig.way = rig.way.replace("{ env = \"CLUSTER_TOKEN\" }", "{ file = \"token\" }");
    let answer = rig.ask(json!({"do": "list", "kind": MAPS, "namespace": namespace}));
    assert_eq!((&answer["objects"], &answer["errors"]), (&json!(1), &json!([])), "{answer}");
    assert_eq!(front.n_requests(&format!("GET /api/v1/namespaces/{namespace}/configmaps")), 2);
}
