//! The test kit's Kubernetes clusters are real: what they refuse, run and answer.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use strongroom_tests::kube::{Cluster, NODE, Server, User};
use strongroom_tests::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

fn cluster() -> &'static Cluster {
    Cluster::shared("cluster")
}

/// Fails unless this user's kubectl is refused with each of these words.
#[track_caller]
fn check_refused(cluster: &Cluster, user: &User, args: &[&str], says: &[&str]) {
    let error = cluster.kubectl_as(user, args).expect_err("it is refused").to_string();
    for text in says {
        assert!(error.contains(text), "expected {text:?} in {error}");
    }
}

#[test]
fn rbac_lets_users_do_what_they_were_allowed_and_nothing_else() {
    let cluster = cluster();
    let (own, other) = (cluster.namespace("rbac").unwrap(), cluster.namespace("rbac").unwrap());
    for user in [cluster.token_user(&own, "reader").unwrap(), cluster.certificate_user("reader").unwrap()] {
        check_refused(cluster, &user, &["get", "configmaps", "-n", &own], &["Forbidden", user.name()]);
        cluster.allow(&user, Some(&own), &[("", "configmaps", "get,list")]).unwrap();
        // The API server sees a new role a moment after it has stored it.
        let read = || cluster.kubectl_as(&user, ["get", "configmaps", "-n", &own]).map(Some);
        assert!(wait_until("the new role", PATIENCE, read).unwrap().contains("kube-root-ca.crt"));
        check_refused(cluster, &user, &["get", "configmaps", "-n", &other], &["Forbidden"]);
        check_refused(
            cluster,
            &user,
            &["delete", "configmap", "kube-root-ca.crt", "-n", &own],
            &["Forbidden", "delete"],
        );
        check_refused(cluster, &user, &["get", "secrets", "-n", &own], &["Forbidden", "secrets"]);
    }
}

#[test]
fn tokens_that_have_expired_or_were_made_up_are_not_believed() {
    let cluster = cluster();
    let namespace = cluster.namespace("tokens").unwrap();
    cluster.kubectl(["create", "serviceaccount", "robot", "-n", &namespace]).unwrap();
    let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    let valid = cluster.service_account_token(&namespace, "robot", 600).unwrap();
    assert_eq!(cluster.kubectl_as(&valid, whoami).unwrap(), valid.name());
    for user in [
        cluster.service_account_token(&namespace, "robot", -120).unwrap(),
        User::with_token(format!("{}x", valid.token())),
        User::with_token("made-up"),
    ] {
        check_refused(cluster, &user, &["get", "pods", "-n", &namespace], &["Unauthorized"]);
    }
}

#[test]
fn objects_of_a_custom_kind_must_fit_its_schema() {
    let cluster = cluster();
    let namespace = cluster.namespace("schema").unwrap();
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "required": ["size"],
        "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 5}},
    }}});
    cluster
        .apply(&json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.schema.example.org"},
            "spec": {
                "group": "schema.example.org", "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        }))
        .unwrap();
    cluster.kubectl(["wait", "--for=condition=Established", "crd/widgets.schema.example.org"]).unwrap();
    let widget = |name: &str, size: Value| {
        json!({"apiVersion": "schema.example.org/v1", "kind": "Widget",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"size": size}})
    };
    let apply = || cluster.apply(&widget("small", json!(2))).map(Some);
    wait_until("the new kind is served", PATIENCE, apply).unwrap();
    for (size, why) in [(json!(6), "less than or equal to 5"), (json!("two"), "numeric")] {
        let error = cluster.apply(&widget("wrong", size)).unwrap_err().to_string();
        assert!(error.contains(why), "expected {why:?} in {error}");
    }
    let found = cluster.get(&["widgets", "-n", &namespace]).unwrap();
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["items"][0]["spec"]["size"], 2);
}

#[test]
fn a_deployment_becomes_running_processes_and_goes_with_them() {
    let cluster = cluster();
    let namespace = cluster.namespace("deployment").unwrap();
    let container =
        json!({"name": "main", "image": "none", "command": ["/bin/sh", "-c", "echo $POD_NAME; exec sleep 3600"]});
    cluster
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]},
            }},
        }))
        .unwrap();
    cluster.kubectl(["rollout", "status", "deployment/web", "-n", &namespace, "--timeout=60s"]).unwrap();
    let pods = cluster.get(&["pods", "-l", "app=web", "-n", &namespace]).unwrap();
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["phase"]), (&json!(NODE), &json!("Running")));
        // The container is ready a moment before its shell has spoken.
        let said = || {
            let said = cluster.kubectl(["logs", name, "-n", &namespace])?;
            Ok((said.trim() == name).then_some(()))
        };
        wait_until("the container speaks", PATIENCE, said).unwrap();
    }
    let runs = processes_in(&cluster.pods_dir().join(&namespace));
    assert_eq!(runs.len(), 2, "{runs:?}");
    cluster.kubectl(["delete", "namespace", &namespace, "--timeout=60s"]).unwrap();
    assert_eq!(processes_in(&cluster.pods_dir().join(&namespace)), Vec::<String>::new());
}

/// Ids of processes whose working directory is beneath this.
fn processes_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let runs_there = |path: &Path| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    entries
        .filter(|entry| runs_there(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn exec_goes_through_the_node_with_input_output_and_exit_code() {
    let cluster = cluster();
    let namespace = cluster.namespace("exec").unwrap();
    let spec = json!({"containers": [
        {"name": "main", "image": "none", "env": [{"name": "COLOUR", "value": "blue"}]},
        {"name": "nobody", "image": "none", "securityContext": {"runAsUser": 65534, "runAsGroup": 65534}},
    ]});
    cluster.pod(&namespace, "tool", &json!({}), &spec).unwrap();
    let exec = |container: &str, script: &str, input: &str| {
        let mut child = cluster
            .kubectl_command(&cluster.admin_kubeconfig())
            .unwrap()
            .args(["exec", "-i", "tool", "-n", &namespace, "-c", container, "--", "/bin/sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = exec("main", "cat; echo $COLOUR; echo bad >&2; exit 37", "given\n");
    assert_eq!((code, out.as_str()), (Some(37), "given\nblue\n"));
    assert!(err.starts_with("bad\n") && err.contains("exit code 37"), "{err}");
    assert_eq!(exec("main", "kill -9 $$", "").0, Some(137));
    assert_eq!(exec("nobody", "id -u; id -g", "").1, "65534\n65534\n");
    let audited = cluster.audit_log().unwrap();
    assert!(audited.contains("/namespaces/exec") && audited.contains("COLOUR"), "exec is audited with its arguments");
}

#[test]
fn a_pod_whose_gate_is_shut_runs_and_is_not_ready() {
    let cluster = cluster();
    let namespace = cluster.namespace("gate").unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shut", "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}], "readinessGates": [{"conditionType": "example.org/gate"}]},
    });
    cluster.apply(&pod).unwrap();
    let args = ["wait", "--for=jsonpath={.status.phase}=Running", "pod/shut", "--timeout=60s", "-n", &namespace];
    cluster.kubectl(args).unwrap();
    let ready = || {
        let pod = cluster.get(&["pod", "shut", "-n", &namespace]).unwrap();
        let conditions = pod["status"]["conditions"].as_array().unwrap().clone();
        conditions.iter().find(|c| c["type"] == "Ready").unwrap()["status"].clone()
    };
    assert_eq!(ready(), "False");
    let open = r#"{"status":{"conditions":[{"type":"example.org/gate","status":"True"}]}}"#;
    cluster.kubectl(["patch", "pod", "shut", "-n", &namespace, "--subresource=status", "-p", open]).unwrap();
    wait_until("the pod is ready", PATIENCE, || Ok((ready() == "True").then_some(()))).unwrap();
}

#[test]
fn a_list_whose_history_is_forgotten_has_to_begin_again() {
    let cluster = cluster();
    let namespace = cluster.namespace("history").unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?limit=1");
    cluster.kubectl(["create", "configmap", "another", "-n", &namespace]).unwrap();
    let first: Value = serde_json::from_str(&cluster.kubectl(["get", "--raw", &path]).unwrap()).unwrap();
    let next = format!("{path}&continue={}", first["metadata"]["continue"].as_str().unwrap());
    cluster.kubectl(["get", "--raw", &next]).unwrap();
    cluster.kubectl(["create", "configmap", "later", "-n", &namespace]).unwrap();
    cluster.forget_history().unwrap();
    let error = cluster.kubectl(["get", "--raw", &next]).unwrap_err().to_string();
    assert!(error.contains("too old") || error.contains("Expired"), "{error}");
}

#[test]
fn a_server_can_stand_still_and_nothing_is_left_of_a_cluster_that_is_dropped() {
    let cluster = Cluster::start().unwrap();
    let spec = json!({"containers": [{"name": "main", "image": "none", "command": ["/bin/sleep", "3600"]}]});
    cluster.pod("default", "left", &json!({}), &spec).unwrap();
    let paused = cluster.pause(Server::ApiServer).unwrap();
    let error = cluster.kubectl(["get", "nodes", "--request-timeout=1s"]).unwrap_err().to_string();
    assert!(error.contains("imeout") || error.contains("deadline"), "{error}");
    drop(paused);
    cluster.kubectl(["get", "nodes"]).unwrap();
    let dir = cluster.dir().to_path_buf();
    assert_eq!(named(&dir).len(), 5, "four servers and who looks after them");
    assert_eq!(processes_in(&cluster.pods_dir()).len(), 1);
    drop(cluster);
    assert_eq!((named(&dir), processes_in(&dir)), (Vec::new(), Vec::new()));
    assert!(!dir.exists());
}

/// Command lines with this directory in them.
fn named(dir: &Path) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&*dir.to_string_lossy())).collect()
}

/// What a test that is killed leaves behind: played by a process of this test's own program.
#[test]
fn a_test_that_is_killed_leaves_nothing_of_its_cluster() {
    const CHILD: &str = "STRONGROOM_TEST_CLUSTER_CHILD";
    if let Some(place) = std::env::var_os(CHILD) {
        let cluster = Cluster::start().unwrap();
        std::fs::write(place, cluster.dir().to_str().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("place");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::a_test_that_is_killed_leaves_nothing_of_its_cluster", "--nocapture"])
        .env(CHILD, &place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let found = wait_until("the other test's cluster", 2 * PATIENCE, || {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("it ended with {status}");
        }
        Ok(std::fs::read_to_string(&place).ok().filter(|text| !text.is_empty()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let dir = std::path::PathBuf::from(found.unwrap());
    let gone = || Ok((!dir.exists() && named(&dir).is_empty()).then_some(()));
    wait_until("the end of its cluster", PATIENCE, gone).unwrap();
}
