//! Commands in pods through the real binary: what the record says of them, and what is no backup.

use super::{cluster, home};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use strongroom_tests::kube::Cluster;
use strongroom_tests::relay::{self, Relay, sh};
use strongroom_tests::tool::LONG;
use strongroom_tests::wait_until;

/// More than the long form of anything here takes.
const HOUR: Duration = Duration::from_secs(3600);

/// A relay whose commands run in pods of one namespace.
struct InPods {
    relay: Relay,
    namespace: String,
    written: String,
}

impl InPods {
    fn new(cluster: &Cluster, setup: relay::Setup) -> Self {
        let namespace = cluster.namespace("relay").unwrap();
        let relay = Relay::new(setup);
        let written = std::fs::read_to_string(relay.sandbox.path("strongroom.toml")).unwrap();
        let kubeconfig = cluster.admin_kubeconfig();
        let written = format!("[cluster.test]\nkubeconfig = {kubeconfig:?}\ncontext = \"admin\"\n{written}");
        Self { relay, namespace, written }
    }

    /// Makes a pod with one container `main`, whose `PATH` holds these programs alone; `None` is this machine's.
    fn pod(&self, cluster: &Cluster, name: &str, programs: Option<&[(&str, &str)]>) {
        let mut container = json!({"name": "main", "image": "tool:1"});
        if let Some(programs) = programs {
            let bin = cluster.pods_dir().join(&self.namespace).join(format!("{name}-bin"));
            std::fs::create_dir_all(&bin).unwrap();
            for (name, is) in programs {
                std::os::unix::fs::symlink(is, bin.join(name)).unwrap();
            }
            container["env"] = json!([{"name": "PATH", "value": bin}]);
        }
        cluster.pod(&self.namespace, name, &json!({"app": "tool"}), &json!({"containers": [container]})).unwrap();
    }

    /// Lets the job's commands run in the pod that this says, as keys of `run_in.pod`.
    fn choose(&self, choice: &str) -> &Self {
        let namespace = &self.namespace;
        let run_in = format!("run_in = {{ pod = {{ cluster = \"test\", namespace = {namespace:?}, {choice} }} }}");
        self.relay.sandbox.config(&self.written.replace("[job.orders]", &format!("[job.orders]\n{run_in}")));
        self
    }

    /// How the record says that the output of a backup was proven.
    fn proof(&self, id: &str) -> Value {
        let shown = self.relay.run(&["show", "orders", id, "--output", "json"]).check_code(0).json();
        let origin = &shown["record"]["artifacts"][0]["origin"];
        assert_eq!(origin["kind"], "exec", "{shown}");
        origin["proof"].clone()
    }
}

const PERL: (&str, &str) = ("perl", "/usr/bin/perl");
const TEE: (&str, &str) = ("tee", "/usr/bin/tee");
const CKSUM: (&str, &str) = ("cksum", "/usr/bin/cksum");
const WC: (&str, &str) = ("wc", "/usr/bin/wc");
/// Without it, what is to be ended is found more slowly.
const GREP: (&str, &str) = ("grep", "/usr/bin/grep");

fn busybox(name: &str) -> (&str, &str) {
    (name, "/bin/busybox")
}

#[test]
fn the_record_says_how_an_output_was_proven_by_what_the_image_has() {
    let cluster = cluster();
    // Words of the shell itself: there is no other program.
    let produce = sh("n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); echo \"line $n\"; done");
    let consume = sh("n=0; while read -r line; do n=$((n + 1)); done; echo \"$n, $line\" >restored");
    let pods = InPods::new(cluster, relay::Setup { produce, consume, ..relay::Setup::default() });
    // Debian's busybox does not know cksum, and says so only when it is called.
    let small = ["tee", "cksum", "wc", "grep"].map(busybox);
    for (name, programs, proof, can_restore) in [
        ("whole", &[PERL, TEE, CKSUM, WC, GREP][..], "cksum", true),
        ("no-perl", &[TEE, CKSUM, WC, GREP], "cksum", true),
        ("busybox", &small, "count", true),
        ("no-cksum", &[TEE, WC, GREP], "count", true),
        ("no-wc", &[TEE, CKSUM, GREP], "cksum", false),
        ("no-sum", &[TEE, GREP], "marker", false),
        ("no-tee", &[PERL, CKSUM, WC, GREP], "cksum", true),
        ("neither", &[CKSUM, WC, GREP], "marker", false),
    ] {
        pods.pod(cluster, name, Some(programs));
        let id = pods.choose(&format!("name = {name:?}")).relay.backup();
        assert_eq!(pods.proof(&id), proof, "{name}");
        let restored = pods.relay.run(&["restore", "orders", &id]);
        let found = home(cluster, &pods.namespace, name).join("restored");
        if can_restore {
            restored.check_code(0);
            assert_eq!(std::fs::read_to_string(found).unwrap(), "3000, \n", "{name}");
        } else {
            // A cut input would look like its end, so the program is not even started.
            assert_ne!(restored.code, Some(0), "{}", restored.shown());
            restored.check_stderr("the container has no wc, or neither tee nor perl");
            assert!(!found.exists(), "{name}");
        }
    }
}

#[test]
fn a_pod_that_is_deleted_in_the_middle_of_a_backup_leaves_none() {
    let cluster = cluster();
    let produce = sh("seq 1 100000; : >begun; exec sleep 1000");
    let pods = InPods::new(cluster, relay::Setup { produce, ..relay::Setup::default() });
    pods.pod(cluster, "tool", None);
    pods.choose("selector = \"app=tool\"");
    let running = pods.relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    let begun = home(cluster, &pods.namespace, "tool").join("begun");
    wait_until("the producer in its pod", LONG, || Ok(begun.exists().then_some(()))).unwrap();
    cluster.kubectl(["delete", "pod", "tool", "-n", &pods.namespace, "--grace-period=1"]).unwrap();
    let ended = running.finish(LONG).unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.shown());
    ended.check_stderr("\"produce\"");
    assert_eq!(pods.relay.listed(), Vec::<String>::new());
    let is_record = |path: &Path| path.ends_with("record.json");
    assert!(!pods.relay.stored().iter().any(|path| is_record(path)), "{:?}", pods.relay.stored());
}

#[test]
fn several_pods_stop_a_restore_and_a_backup_takes_the_first() {
    let cluster = cluster();
    let pods = InPods::new(cluster, relay::Setup { produce: sh("echo $POD_NAME"), ..relay::Setup::default() });
    for name in ["tool-b", "tool-a"] {
        pods.pod(cluster, name, None);
    }
    let id = pods.choose("selector = \"app=tool\"").relay.backup();
    let refused = pods.relay.run(&["restore", "orders", &id]);
    refused.check_code(2).check_stderr("several pods match").check_stderr("name = \"POD\"");
    pods.choose("name = \"tool-b\"").relay.run(&["restore", "orders", &id]).check_code(0);
    for (choice, says) in [
        ("selector = \"app=tool\", name = \"tool-b\"", "has a name and a selector"),
        ("container = \"main\"", "does not say which pod"),
    ] {
        pods.choose(choice).relay.run(&["config", "check"]).check_code(2).check_stderr(says);
    }
    for (choice, says) in [
        ("name = \"tool-b\", container = \"other\"", "has no container \"other\", but \"main\""),
        ("selector = \"app=other\"", "there is no pod for selector \"app=other\""),
    ] {
        let failed = pods.choose(choice).relay.run(&["backup", "orders"]);
        assert_ne!(failed.code, Some(0), "{}", failed.shown());
        failed.check_stderr(says);
    }
    assert_eq!(pods.relay.listed(), [id]);
}

#[test]
fn gigabytes_pass_out_of_a_pod_and_into_it_unchanged() {
    let cluster = cluster();
    // Lines of `seq`: 62.9 MB, or 4.39 GB, which no number of 32 bits counts.
    let (lines, what) = match xtask::soak::is_long() {
        false => (8_000_000, "streams of 63 MB out of a pod, and into it"),
        true => (450_000_000, "streams of 4.39 GB out of a pod, and into it"),
    };
    let seq = format!("seq 1 {lines}");
    let setup = relay::Setup { produce: sh(&format!("exec {seq}")), ..relay::Setup::default() };
    let pods = InPods::new(cluster, relay::Setup { consume: sh("sha256sum >digest"), ..setup });
    pods.pod(cluster, "tool", None);
    pods.choose("name = \"tool\"");
    let here = pods.relay.sandbox.command("/bin/sh", ["-c", &format!("{seq} | sha256sum")]);
    let here = here.timeout(HOUR).run().check_code(0).stdout.clone();
    for _ in xtask::soak::turns(1, what) {
        let made = pods.relay.sandbox.strongroom(["backup", "orders", "--output", "json"]).timeout(HOUR).run();
        let id = made.check_code(0).json()["id"].as_str().unwrap().to_owned();
        assert_eq!(pods.proof(&id), "cksum");
        pods.relay.sandbox.strongroom(["restore", "orders", &id]).timeout(HOUR).run().check_code(0);
        let there = std::fs::read_to_string(home(cluster, &pods.namespace, "tool").join("digest")).unwrap();
        assert_eq!(there, here);
    }
}
