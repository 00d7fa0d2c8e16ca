//! Who we are to a cluster and which way leads there: service accounts, certificates, impersonation,
//! tokens that are replaced, proxies, and how fast we may ask.

use super::{MAPS, PATIENCE, check_case, cluster, config_map, many};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use strongroom_tests::kube::Cluster;
use strongroom_tests::kube::forward::Forward;
use strongroom_tests::kube::front::{Act, Asked, Front};
use strongroom_tests::kube::rig::{Rig, answer_of, grant, reads};
use strongroom_tests::kube::user::{Credential, User};
use strongroom_tests::relay::private;
use strongroom_tests::{host_binary, wait_until};

fn list(namespace: &str) -> Value {
    json!({"do": "list", "kind": MAPS, "namespace": namespace})
}

/// A token user who may list config maps in a namespace.
fn reader(cluster: &Cluster, namespace: &str) -> User {
    let user = cluster.token_user(namespace, "reader").unwrap();
    cluster.allow(&user, Some(namespace), &[("", "configmaps", "get,list")]).unwrap();
    user
}

/// Waits until a role that was just made is seen, and returns the list that it allows.
#[track_caller]
fn listed(mut ask: impl FnMut() -> Value) -> Value {
    let allowed = || Ok(Some(ask()).filter(|answer| answer["errors"] == json!([])));
    wait_until("the new role", PATIENCE, allowed).unwrap()
}

#[test]
fn in_a_pod_the_service_accounts_files_say_who_we_are() {
    // What a kubelet does: the files of the account at their place, which only this process sees.
    const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mount = format!(
        "mount -t tmpfs none /var/run && mkdir -p {PLACE} && mount --bind \"$1\" {PLACE} && shift && exec \"$@\""
    );
    let cluster = cluster();
    let namespace = cluster.namespace("inside").unwrap();
    let user = reader(cluster, &namespace);
    let mut rig = Rig::at("in_cluster = true", &reads(&["/ConfigMap"], ""));
    check_case(&rig.ask(list(&namespace)), "invalid", &["it runs in none"]);

    let port = cluster.port().to_string();
    rig.sandbox.set_env("KUBERNETES_SERVICE_HOST", "127.0.0.1").set_env("KUBERNETES_SERVICE_PORT", port);
    // Nobody's business in a cluster: its own server is never behind a proxy.
    rig.sandbox.set_env("HTTPS_PROXY", "http://127.0.0.1:1");
    rig.sandbox.write("account/token", user.token());
    rig.sandbox.write("account/namespace", &namespace);
    rig.sandbox.write("account/ca.crt", std::fs::read(cluster.ca_file()).unwrap());
    rig.configure(&json!([list(&namespace), {"do": "probe"}]));
    let begin =
        ["--user", "--map-root-user", "--mount", "sh", "-c", mount.as_str(), "sh"].map(std::path::PathBuf::from);
    let program = [rig.sandbox.path("account"), host_binary().unwrap()];
    let args = ["backup", "orders", "--output", "json"].map(std::path::PathBuf::from);
    let backup = || {
        let made = rig.sandbox.command("unshare", begin.iter().chain(&program).chain(&args)).run();
        made.check_code(0);
        let facts = made.json()["facts"].clone();
        facts.as_array().unwrap().iter().map(answer_of).collect::<Value>()
    };
    let allowed = || Ok(Some(backup()).filter(|answers| answers[0]["errors"] == json!([])));
    let answers = wait_until("the new role", PATIENCE, allowed).unwrap();
    assert_eq!(answers[0]["objects"], 1, "{answers}");
    check_passed(&answers[1], user.name());
}

/// Fails unless every step to a cluster but the last passed, as this user.
#[track_caller]
fn check_passed(health: &Value, name: &str) {
    let steps = health["steps"].as_array().unwrap();
    assert!(steps.iter().take(4).all(|step| step[1] == "passed"), "{health}");
    assert!(steps[3][2].as_str().unwrap().contains(name), "{health}");
}

#[test]
fn whoever_we_act_as_is_who_the_cluster_sees_and_for_restores_it_is_another() {
    let cluster = cluster();
    let namespace = cluster.namespace("act-as").unwrap();
    let (reader, writer) = (reader(cluster, &namespace), cluster.certificate_user("writer").unwrap());
    cluster.allow(&writer, Some(&namespace), &[("", "configmaps", "get,list,create,patch")]).unwrap();
    let grants = reads(&["*"], "") + &grant(&["apply"], &["*"], "");
    let way = format!("context = \"admin\"\nkubeconfig = {:?}\nas = {:?}", cluster.admin_kubeconfig(), reader.name());
    let one = Rig::at(&way, &grants);
    listed(|| one.ask(list(&namespace)));
    let answers = one.backup(&[list("default"), json!({"do": "probe"})]);
    check_case(&answers[0]["errors"][0], "failed", &["may not list configmaps in namespace \"default\""]);
    check_passed(&answers[1], reader.name());
    let write = json!({"do": "apply", "mode": "merge", "objects": [config_map(&namespace, "x", "v")]});
    check_case(&one.change(write.clone())[0], "failed", &["may not merge configmaps \"x\""]);

    let two = Rig::at(&format!("{way}\nrestore = {{ as = {:?} }}", writer.name()), &grants);
    check_passed(&two.ask(json!({"do": "probe"})), reader.name());
    let written = || Ok(Some(two.change(write.clone())).filter(|answer| *answer == json!(["created"])));
    wait_until("the writer's role", PATIENCE, written).unwrap();
}

#[test]
fn a_certificate_and_its_key_may_come_from_references() {
    let cluster = cluster();
    let namespace = cluster.namespace("certificate").unwrap();
    let user = cluster.certificate_user("holder").unwrap();
    let other = cluster.certificate_user("other").unwrap();
    cluster.allow(&user, Some(&namespace), &[("", "configmaps", "list")]).unwrap();
    let way = format!(
        "api = {:?}\nca = {:?}\nclient_certificate = {{ file = \"own.crt\" }}\nclient_key = {{ env = \"OWN_KEY\" }}",
        cluster.url(),
        cluster.ca_file()
    );
    let files = |user: &User| match user.credential() {
        Credential::Certificate { certificate, key } => [certificate, key].map(|path| text(path)),
        Credential::Token(_) => panic!("it has a certificate"),
    };
    let ([certificate, key], [_, key_of_another]) = (files(&user), files(&other));
    let mut rig = Rig::at(&way, &reads(&["/ConfigMap"], ""));
    private(&rig.sandbox.write("own.crt", &certificate));
    rig.sandbox.set_env("OWN_KEY", &key);
    assert_eq!(listed(|| rig.ask(list(&namespace)))["objects"], 1);
    let health = rig.ask(json!({"do": "probe"}));
    check_passed(&health, user.name());
    assert!(health["credential"].as_u64() > Some(0), "the end of the certificate: {health}");

    rig.sandbox.set_env("OWN_KEY", &key_of_another);
    let answer = rig.ask(list(&namespace)).to_string();
    assert!(answer.contains("cluster \\\"a\\\"") && !answer.contains("PRIVATE KEY"), "{answer}");
    assert!(!key_of_another.lines().any(|line| line.len() > 20 && answer.contains(line)), "{answer}");
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The front takes one token at a time, as an API server does whose tokens end.
#[test]
fn a_token_that_ends_half_way_is_read_again_and_the_list_goes_on_with_the_new_one() {
    let cluster = cluster();
    let namespace = cluster.namespace("half-way").unwrap();
    many(cluster, &namespace, 520);
    let refused = || Act::Answer(401, "X: y", r#"{"kind":"Status","reason":"Unauthorized","message":"Unauthorized"}"#);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("token");
    std::fs::write(&file, "the first token\n").unwrap();
    private(&file);
    let (valid, path) = (Mutex::new("the first token"), file.clone());
    let front = Front::start_seeing(cluster, move |asked: &Asked, _| {
        let mut valid = valid.lock().unwrap();
        if asked.line.contains("configmaps?") && asked.line.contains("continue=") && *valid == "the first token" {
            // Whoever keeps the file writes a new one; the old one ends.
            std::fs::write(&path, "the second token\n").unwrap();
            *valid = "the second token";
        }
        if asked.token.as_deref() == Some(*valid) { Act::Pass } else { refused() }
    });
    let mut rig = Rig::behind(&front, &reads(&["/ConfigMap"], ""));
    rig.way = rig.way.replace("{ env = \"CLUSTER_TOKEN\" }", &format!("{{ file = {file:?} }}"));
    let answer = rig.ask(list(&namespace));
    assert_eq!((&answer["objects"], &answer["errors"]), (&json!(521), &json!([])), "{answer}");
    let pages = front.requests(&format!("GET /api/v1/namespaces/{namespace}/configmaps?"));
    let tokens: Vec<_> = pages.iter().map(|page| page.token.as_deref().unwrap_or_default()).collect();
    assert_eq!(tokens, ["the first token", "the first token", "the second token"]);

    // Where there is no other token the answer is the server's.
    std::fs::write(&file, "the first token\n").unwrap();
    check_case(&rig.ask(list(&namespace)), "failed", &["does not accept the host's credentials"]);
}

#[test]
fn a_proxy_leads_to_servers_that_nothing_else_leads_to_and_exceptions_are_exceptions() {
    let cluster = cluster();
    let namespace = cluster.namespace("proxy").unwrap();
    let user = reader(cluster, &namespace);
    let direct = format!("api = {:?}\nca = {:?}\ntoken = {{ env = \"TOKEN\" }}", cluster.url(), cluster.ca_file());
    let behind = direct.replace(&cluster.url(), &cluster.url_behind_proxy());
    let rig = |way: &str, env: &[(&str, &str)]| {
        let mut rig = Rig::at(way, &reads(&["/ConfigMap"], ""));
        rig.sandbox.set_env("TOKEN", user.token());
        for (name, value) in env {
            rig.sandbox.set_env(name, value);
        }
        rig
    };
    let plain = rig(&direct, &[]);
    listed(|| plain.ask(list(&namespace)));

    let target = cluster.url_behind_proxy().replace("https://", "");
    let expect_through = |way: &str, env: &[(&str, &str)], proxy: &Forward| {
        let answers = rig(way, env).backup(&[list(&namespace), json!({"do": "probe"})]);
        assert_eq!((&answers[0]["objects"], &answers[0]["errors"]), (&json!(1), &json!([])), "{way} {env:?}");
        check_passed(&answers[1], user.name());
        assert!(answers[1].to_string().contains("(the proxy)"), "{}", answers[1]);
        let targets = proxy.targets();
        assert!(!targets.is_empty() && targets.iter().all(|one| *one == target), "{targets:?}");
    };
    let open = || {
        let proxy = Forward::start(None);
        let url = format!("http://{}", proxy.address());
        (proxy, url)
    };
    // Those that fail are tried again for a moment: all at once.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (proxy, url) = open();
            expect_through(&format!("{behind}\nproxy = {url:?}"), &[("NO_PROXY", "*")], &proxy);
        });
        scope.spawn(|| {
            // The exception is the address of the proxy, and not of the server.
            let (proxy, url) = open();
            expect_through(&behind, &[("HTTPS_PROXY", &url), ("NO_PROXY", "127.0.0.1, ,localhost")], &proxy);
        });
        scope.spawn(|| {
            let (proxy, url) = open();
            let env = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "example.org,.cluster.invalid")];
            let answer = rig(&behind, &env).ask(list(&namespace));
            check_case(&answer, "unavailable", &["its name does not resolve"]);
            assert_eq!(proxy.targets(), [""; 0]);
        });
        scope.spawn(|| {
            // A server of this machine is never behind a proxy of the environment.
            let (proxy, url) = open();
            let answer = rig(&direct, &[("HTTPS_PROXY", url.as_str())]).ask(list(&namespace));
            assert_eq!((&answer["objects"], proxy.targets().len()), (&json!(1), 0), "{answer}");
        });
        scope.spawn(|| {
            let proxy = Forward::start(Some("backup:open sesame"));
            let address = format!("backup:open%20sesame@{}", proxy.address());
            expect_through(&behind, &[("https_proxy", &address)], &proxy);
        });
        scope.spawn(|| {
            let proxy = Forward::start(Some("backup:open sesame"));
            let wrong = format!("http://backup:hunter2hunter2@{}", proxy.address());
            let answer = rig(&behind, &[("HTTPS_PROXY", &wrong)]).ask(list(&namespace));
            check_case(&answer, "unavailable", &["the proxy did not let it through"]);
            assert!(!answer.to_string().contains("hunter2") && proxy.targets().is_empty(), "{answer}");
        });
        scope.spawn(|| {
            let (proxy, url) = open();
            let rig = rig("", &[("NO_PROXY", "*")]);
            let kubeconfig = json!({
                "apiVersion": "v1", "kind": "Config",
                "clusters": [{"name": "c", "cluster": {
                    "server": cluster.url_behind_proxy(), "certificate-authority": cluster.ca_file(), "proxy-url": url,
                }}],
                "users": [{"name": "u", "user": {"token": user.token()}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            });
            let file = rig.sandbox.write("kubeconfig", kubeconfig.to_string());
            let way = format!("context = \"x\"\nkubeconfig = {file:?}");
            expect_through(&way, &[("NO_PROXY", "*")], &proxy);
        });
    });
}

#[test]
fn no_more_is_asked_in_a_second_than_the_operator_allows() {
    const PER_SECOND: u32 = 25;
    let cluster = cluster();
    let namespace = cluster.namespace("pace").unwrap();
    let front = Front::start(cluster, |_, _| Act::Pass);
    let mut rig = Rig::behind(&front, &reads(&["/ConfigMap"], ""));
    rig.way.push_str(&format!("\nrequests_per_second = {PER_SECOND}"));
    let get = json!({"do": "get", "kind": MAPS, "namespace": namespace, "name": "kube-root-ca.crt"});
    let began = Instant::now();
    let answers = rig.backup(&vec![get; 30]);
    let took = began.elapsed();
    assert!(
        answers.iter().all(|answer| answer.as_str().is_some_and(|text| text.contains("kube-root-ca"))),
        "{answers:?}"
    );
    // Between the first and the last lie as many moments as there are requests behind the first. A slow
    // machine takes longer, and none can take less.
    let n_requests = u32::try_from(front.n_requests("")).unwrap();
    assert!(n_requests > 30, "{n_requests}");
    assert!(took >= Duration::from_secs(1) * (n_requests - 1) / PER_SECOND, "{n_requests} in {took:?}");
}
