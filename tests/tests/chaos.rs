//! A guest that calls everything at random: the host never panics, never hangs, and keeps nothing.
//!
//! The long form is `cargo xtask soak chaos`.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use strongroom::plugin::capability::CAPABILITIES;
use strongroom_tests::kube::Cluster;
use strongroom_tests::process::with_variable;
use strongroom_tests::relay::{private, sha256};
use strongroom_tests::{Output, Sandbox, free_port, plugin, wait_until};
use xtask::soak::turns;

/// Turns of the short form; each is a run of all four verbs and of a plan.
const TURNS: u64 = 3;
/// Sequences of one run: a run of its own has its own process.
const PER_RUN: u64 = 25;
/// Worlds at once, each with a sandbox of its own.
const WORLDS: usize = 6;
/// Far longer than a run takes on a busy machine; one that reaches it hangs.
const LONG: Duration = Duration::from_secs(300);

/// A sandbox with the job `wild`; the guest's settings are written anew for each run.
struct Chaos {
    sandbox: Sandbox,
    component: String,
    digest: String,
    recipient: String,
    mark: String,
    namespace: String,
    /// A port that nobody listens on.
    closed: u16,
}

/// The cluster is the suite's of `kube`, where each world has a namespace.
fn cluster() -> &'static Cluster {
    Cluster::shared("kube")
}

impl Chaos {
    fn new() -> Self {
        use age::secrecy::ExposeSecret;
        let sandbox = Sandbox::new();
        let identity = age::x25519::Identity::generate();
        private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        for folder in ["store", "data"] {
            fs::create_dir(sandbox.path(folder)).unwrap();
        }
        let component = plugin("guests/chaos").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&fs::read(&component).unwrap());
        let mark = format!("MARK_{}", sandbox.dir().file_name().unwrap().to_string_lossy().replace('-', "_"));
        let recipient = identity.to_public().to_string();
        let namespace = cluster().namespace("chaos").unwrap();
        cluster().apply(&config_map(&namespace)).unwrap();
        let (component, closed) = (component.display().to_string(), free_port().unwrap());
        Self { sandbox, component, digest, recipient, mark, namespace, closed }
    }

    fn configure(&self, seed: u64, sequences: u64, calls: u64, forge: bool) {
        self.sandbox.config(&format!(
            r#"
[store.main]
type = "local"
path = "store"
recipients = ["{recipient}"]
identity = {{ file = "identity.txt" }}

[bucket.data]
type = "local"
path = "data"

[cluster.prod]
context = "admin"
kubeconfig = {kubeconfig:?}
timeout = "20s"

[metrics]
textfile = "chaos.prom"
prometheus = {{ url = "http://127.0.0.1:{closed}" }}

[plugin.chaos]
source = "{component}"
sha256 = "{digest}"

[plugin.chaos.limits]
stall = "20s"
log_bytes = "64KiB"

[plugin.chaos.grant.artifacts]
inspect = ["seen.*"]

[plugin.chaos.grant.exec.echo]
program = "/bin/echo"
args = ["{{word}}"]
slots = {{ word = "[a-z]{{1,20}}" }}
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"

[plugin.chaos.grant.exec.seen]
program = "/bin/echo"
args = ["{{word}}"]
slots = {{ word = "[a-z]{{1,20}}" }}
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"
inspect = true

[plugin.chaos.grant.exec.much]
program = "/usr/bin/seq"
args = ["1", "1000000"]
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"

[plugin.chaos.grant.exec.fail]
program = "/bin/false"
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"

[plugin.chaos.grant.exec.copy]
program = "/bin/cat"
stdin = "plugin"
partial_stdin = true
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"
inspect = true

[plugin.chaos.grant.exec.change]
program = "/usr/bin/touch"
args = ["{dir}/{{word}}"]
slots = {{ word = "changed-[a-z]{{1,20}}" }}
verbs = ["restore"]
effect = "changes"

[[plugin.chaos.grant.bucket.data]]
may = ["list", "read"]
inspect = true
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"

[[plugin.chaos.grant.bucket.data]]
may = ["write", "delete"]
verbs = ["restore"]
effect = "changes"

[[plugin.chaos.grant.kube.prod]]
may = ["list", "get", "logs"]
kinds = ["*", "/Secret", "/Pod"]
namespaces = ["{namespace}"]
inspect = true
verbs = ["backup", "verify", "restore", "diagnose"]
effect = "reads"

[[plugin.chaos.grant.kube.prod]]
may = ["apply", "delete"]
kinds = ["*", "/Secret"]
namespaces = ["{namespace}"]
verbs = ["restore"]
effect = "changes"

[plugin.chaos.grant.metrics]
prefix = "chaos_"
query = ["up"]

[job.wild]
plugin = "chaos"
store = "main"
env = {{ {mark} = "1" }}

[job.wild.settings]
seed = {seed}
sequences = {sequences}
calls = {calls}
forge = {forge}
namespace = "{namespace}"
"#,
            kubeconfig = cluster().admin_kubeconfig(),
            closed = self.closed,
            namespace = self.namespace,
            recipient = self.recipient,
            component = self.component,
            digest = self.digest,
            dir = self.sandbox.dir().display(),
            mark = self.mark,
        ));
    }

    /// Runs a verb to its end, and looks at what no run may leave behind.
    #[track_caller]
    fn run(&self, what: &str, args: &[&str]) -> Output {
        let output = self.sandbox.strongroom(args).timeout(LONG).run();
        let text = format!("{what}, {args:?}\n--- stdout\n{}\n--- stderr\n{}", output.stdout, output.stderr);
        assert!(matches!(output.code, Some(0 | 1 | 3 | 4 | 5 | 6)), "code {:?}: {text}", output.code);
        for never in ["panicked at", "wall_clock", "never should", "is a fault of strongroom"] {
            assert!(!text.contains(never), "{never:?} in {text}");
        }
        assert!(!text.contains('\u{1b}'), "a control character in {text}");
        assert_eq!(with_variable(&self.mark), Vec::<String>::new(), "left running by {text}");
        let left: Vec<_> =
            files(&self.sandbox.path("store/.tmp")).into_iter().filter(|name| !name.starts_with("lease-")).collect();
        assert_eq!(left, Vec::<String>::new(), "left in the store by {text}");
        assert_eq!(files(&self.sandbox.path("tmp")), Vec::<String>::new(), "left in the scratch folder by {text}");
        output
    }
}

/// Names of everything beneath a folder; none when it is not there.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What lies in the namespace of a world.
fn config_map(namespace: &str) -> Value {
    let metadata = json!({ "name": "first", "namespace": namespace });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "k": "first" } })
}

/// The objects of a namespace once the cluster has put its own there.
fn settled(namespace: &str) -> Vec<[String; 3]> {
    wait_until("the cluster's own objects", LONG, || {
        let objects = objects(namespace);
        let own = |[_, name, _]: &[String; 3]| name.contains("kube-root-ca.crt");
        Ok(objects.iter().any(own).then_some(objects))
    })
    .unwrap()
}

/// Every object of the two kinds that may be written, by what tells of a change.
fn objects(namespace: &str) -> Vec<[String; 3]> {
    let list = cluster().get(&["configmaps,secrets", "--namespace", namespace]).unwrap();
    let of = |item: &Value| {
        [&item["kind"], &item["metadata"]["name"], &item["metadata"]["resourceVersion"]].map(ToString::to_string)
    };
    list["items"].as_array().unwrap().iter().map(of).collect()
}

/// What a backup, a plan, a verification or a diagnosis may never have touched.
#[track_caller]
fn check_unchanged(chaos: &Chaos, before: &[[String; 3]], what: &str) {
    let changed = files(chaos.sandbox.dir()).into_iter().find(|name| name.starts_with("changed-"));
    assert_eq!(changed, None, "{what} ran a command that changes something");
    assert_eq!(files(&chaos.sandbox.path("data")), ["one"], "{what} changed the bucket");
    assert_eq!(fs::read(chaos.sandbox.path("data/one")).unwrap(), b"first", "{what} changed an object");
    assert_eq!(objects(&chaos.namespace), *before, "{what} changed the cluster");
}

/// The functions that the host was called for in a world, as its audit log has them: all of them, and those of
/// which a call was allowed.
fn called(chaos: &Chaos) -> (BTreeSet<String>, BTreeSet<String>) {
    let folder = chaos.sandbox.path("home/.local/state/strongroom/audit/runs");
    let (mut all, mut allowed) = (BTreeSet::new(), BTreeSet::new());
    for path in strongroom_tests::files(&folder).unwrap() {
        for line in fs::read_to_string(path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let counted = line["calls"].as_array().into_iter().flatten().map(|counted| &counted["function"]);
            for function in counted.chain([&line["function"]]).filter_map(Value::as_str) {
                all.insert(function.to_owned());
                if line["event"] != "deny" && line["decision"] != "denied" {
                    allowed.insert(function.to_owned());
                }
            }
        }
    }
    (all, allowed)
}

/// Takes turns until there are no more, in several worlds at once: a run waits far more than it works.
fn in_worlds(turns: impl Iterator<Item = u64> + Send, turn: impl Fn(&Chaos, u64) + Sync, end: impl Fn(&Chaos) + Sync) {
    let turns = Mutex::new(turns);
    let next = || turns.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                let Some(mut seed) = next() else { return };
                let chaos = Chaos::new();
                chaos.sandbox.write("data/one", "first");
                loop {
                    turn(&chaos, seed);
                    match next() {
                        Some(another) => seed = another,
                        None => break,
                    }
                }
                end(&chaos);
            });
        }
    });
}

#[test]
fn a_guest_that_calls_anything_at_random_gets_nothing_and_leaves_nothing() {
    let turn = |chaos: &Chaos, seed: u64| {
        let what = format!("seed {seed}");
        chaos.configure(0, 1, 0, false);
        let made = chaos.run("calm", &["backup", "wild", "--output", "json"]);
        let calm = made.check_code(0).json()["id"].as_str().unwrap().to_owned();
        // The cluster itself adds to a namespace: a bundle of certificates, some time after it was made.
        let before = settled(&chaos.namespace);
        chaos.configure(seed, PER_RUN, 60, false);
        chaos.run(&what, &["backup", "wild"]);
        check_unchanged(chaos, &before, &what);
        chaos.run(&what, &["diagnose", "wild"]);
        chaos.run(&what, &["verify", "wild", &calm, "--depth", "contents"]);
        chaos.run(&what, &["restore", "wild", &calm, "--plan"]);
        check_unchanged(chaos, &before, &what);
        chaos.run(&what, &["restore", "wild", &calm]);
        fs::remove_dir_all(chaos.sandbox.path("data")).unwrap();
        chaos.sandbox.write("data/one", "first");
        for name in files(chaos.sandbox.dir()).into_iter().filter(|name| name.starts_with("changed-")) {
            fs::remove_file(chaos.sandbox.path(name)).unwrap();
        }
    };
    let functions = Mutex::new((BTreeSet::new(), BTreeSet::new()));
    // Whatever was recorded on the way is whole.
    let end = |chaos: &Chaos| {
        chaos.configure(0, 1, 0, false);
        let listed = chaos.run("list", &["list", "wild", "--output", "json"]).check_code(0).json();
        for backup in listed["backups"].as_array().unwrap() {
            let id = backup["id"].as_str().unwrap();
            chaos.run("at the end", &["verify", "wild", id, "--depth", "stored"]).check_code(0);
        }
        assert!(chaos.sandbox.dir().parent().unwrap().join("etc").metadata().is_err());
        let (all, allowed) = called(chaos);
        let mut functions = functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.0.extend(all);
        functions.1.extend(allowed);
    };
    in_worlds(turns(TURNS, "runs of five times 25 random sequences"), turn, end);
    // It did call everything, and of clusters and metrics with success as far as the policy goes. What only
    // speaks to the operator is no call of the log, and a bucket's configuration is granted to nobody.
    let (all, allowed) = functions.into_inner().unwrap();
    let names = || {
        let logged = CAPABILITIES.iter().filter(|capability| capability.interface != "run");
        logged.map(|capability| format!("{}.{}", capability.interface, capability.function))
    };
    let never: Vec<_> = names().filter(|name| !all.contains(name)).collect();
    assert!(never.is_empty(), "never called: {never:?}, of {all:?}");
    let denied: Vec<_> = names().filter(|name| !allowed.contains(name) && !name.contains("-config")).collect();
    assert!(denied.is_empty(), "never allowed: {denied:?}");
}

#[test]
fn a_guest_that_makes_up_handles_is_stopped_and_leaves_nothing() {
    let turn = |chaos: &Chaos, seed: u64| {
        let before = settled(&chaos.namespace);
        chaos.configure(seed, 2, 60, true);
        chaos.run(&format!("seed {seed}"), &["backup", "wild"]);
        check_unchanged(chaos, &before, "a backup with made-up handles");
    };
    in_worlds(turns(2 * TURNS, "backups with made-up handles"), turn, |_| {});
}
