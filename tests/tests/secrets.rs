//! Secrets reach no guest, log, error, record or audit line: canaries are planted wherever a secret can
//! come from, everything that a run writes is searched for every form of them.

use base64::Engine as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strongroom::config::{SecretRef, secret};
use strongroom::exec::{self, Place, RunIn};
use strongroom::policy::exec::CommandLine;
use strongroom_tests::canary::{check_none, forms};
use strongroom_tests::echo::{self, Echo};
use strongroom_tests::kube::rig::{Rig, grant, reads};
use strongroom_tests::meter::{Meter, calls};
use strongroom_tests::relay::{Relay, Setup, private, sh, sha256};
use strongroom_tests::{Sandbox, files, wait_until};
use tokio_util::sync::CancellationToken;

/// A secret by environment, one by file, and a connection string that holds a third.
const BY_ENV: &str = "canary+env/9b1f=secret";
const BY_FILE: &str = "canary file 77d2 & more";
const PASSWORD: &str = "canaryPwd0815xyz";
const BY_URI: &str = "postgresql://app:canaryPwd0815xyz@db.example.org:5432/shop?sslmode=require";

/// All canaries in all forms.
fn canaries() -> Vec<String> {
    [BY_ENV, BY_FILE, PASSWORD, BY_URI].iter().flat_map(|secret| forms(secret)).collect()
}

/// A shell script that says every secret in every form, also cut into pieces that are written one after
/// the other, to standard output or error.
fn say(to: &str) -> String {
    let pieces = "printf %s \"$S\" | while IFS= read -r -n 1 c; do printf %s \"$c\"; done; echo";
    format!(
        "say() {{ S=$1; echo \"plain $S\"; printf %s \"$S\" | base64 -w0; echo; printf ' %s' \"$S\" | base64 -w0; echo; \
         printf '  %s' \"$S\" | base64 -w0 | tr '+/' '-_'; echo; \
         printf %s \"$S\" | od -An -tx1 -v | tr -d '\\n' | sed 's/ /%/g'; echo; \
         printf %s \"$S\" | od -An -tx1 -v | tr -d ' \\n'; echo; \
         printf %s \"$S\" | od -An -tx1 -v | tr -d ' \\n' | tr a-f A-F; echo; \
         printf %s \"$S\" | sed 's/%/%25/g;s/ /%20/g;s/&/%26/g;s/+/%2B/g;s,/,%2F,g;s/=/%3D/g;s/:/%3A/g;s/@/%40/g;s/?/%3F/g'; echo; \
         {pieces}; }} ; for s in \"$BY_ENV\" \"$BY_FILE\" \"$BY_URI\"; do say \"$s\"; done >&{to}"
    )
}

/// A relay whose commands get all the secrets. The files that hold them lie outside of what is searched.
fn relay(produce: &str, query: &str, outside: &Path) -> Relay {
    let bash = |script: &str| vec!["/bin/bash".to_owned(), "-c".to_owned(), script.to_owned()];
    let names = "secrets = [\"BY_ENV\", \"BY_FILE\", \"BY_URI\"]";
    let mut relay = Relay::cold(Setup { produce: bash(produce), produce_more: names.into(), ..Setup::default() });
    let file = outside.join("secret");
    std::fs::write(&file, format!("{BY_FILE}\n")).unwrap();
    private(&file);
    relay.sandbox.set_env("FROM_ENV", BY_ENV).set_env("FROM_URI", BY_URI);
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let asked = format!(
        "program = \"/bin/bash\"\nargs = [\"-c\", {query:?}]\n{names}",
        query = query.replace('{', "{{").replace('}', "}}")
    );
    let config = config.replace("program = \"/bin/sh\"\nargs = [\"-c\", \"echo fine\"]", &asked);
    let secrets = format!(
        "\n[job.orders.secrets]\nBY_ENV = {{ env = \"FROM_ENV\" }}\nBY_FILE = {{ file = {:?} }}\nBY_URI = {{ env = \"FROM_URI\" }}\n",
        file.display().to_string()
    );
    std::fs::write(&path, format!("{config}{secrets}")).unwrap();
    relay
}

#[test]
fn no_canary_is_in_anything_that_any_verb_writes() {
    let outside = tempfile::tempdir().unwrap();
    let canaries = canaries();
    let proof = outside.path().join("said");
    let fails = format!(
        "{{ {say}; }} 2>> {proof}; {say_again}; exit 3",
        say = say("2"),
        say_again = say("2"),
        proof = proof.display()
    );
    let good = format!("{}; echo data", say("2"));
    for (produce, code) in [(fails, 1), (good, 0)] {
        let relay = relay(&produce, &format!("{}; {}", say("1"), say("2")), outside.path());
        let identity = std::fs::read_to_string(relay.sandbox.path("identity.txt")).unwrap();
        let verbs: [(&[&str], i32); 30] = [
            (&["backup", "orders", "-vv"], code),
            (&["backup", "orders", "--output", "json"], code),
            (&["backup", "orders", "--dry-run", "-v"], code),
            (&["verify", "orders", "-vv"], code),
            (&["verify", "orders", "--output", "json"], code),
            (&["restore", "orders", "latest", "-vv"], code),
            (&["restore", "orders", "latest", "--output", "json"], code),
            (&["diagnose", "orders", "-vv"], -1),
            (&["diagnose", "orders", "--output", "json"], -1),
            (&["list", "--output", "json"], 0),
            (&["show", "orders", "latest", "--output", "json"], code),
            (&["audit", "show", "--output", "json"], 0),
            (&["config", "check", "-vv"], 0),
            (&["config", "check", "--secrets", "--output", "json"], 0),
            (&["config", "schema"], 0),
            (&["list", "orders", "-vv"], 0),
            (&["show", "orders", "latest", "-vv"], code),
            (&["verify", "orders", "--depth", "stored", "-vv"], code),
            (&["prune", "orders", "-vv"], -1),
            (&["prune", "orders", "--orphans", "--output", "json"], -1),
            (&["restore", "orders", "latest", "--plan", "-vv"], code),
            (&["audit", "show", "-vv"], 0),
            (&["audit", "verify", "--store", "main", "-vv"], 0),
            (&["audit", "verify", "--output", "json"], 0),
            (&["audit", "unused"], 0),
            (&["audit", "unused", "--output", "json"], 0),
            (&["plugin", "inspect", "relay", "-vv"], 0),
            (&["plugin", "approve", "relay", "--print"], -1),
            (&["key", "show", "-vv"], 0),
            (&["store", "check", "main", "-vv"], 0),
        ];
        for (args, code) in verbs {
            // A level that is asked for in the usual way changes nothing: libraries stay silent.
            let output = relay.sandbox.strongroom(args).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").run();
            if code >= 0 {
                output.check_code(code);
            }
            for (place, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
                check_none(&canaries, &format!("{place} of {args:?}"), text.as_bytes());
                check_none(&forms(identity.trim()), &format!("{place} of {args:?}"), text.as_bytes());
            }
        }
        let key = std::fs::read_to_string(relay.sandbox.path("home/.local/state/strongroom/host.key")).unwrap();
        let seed = key.lines().last().unwrap();
        let mut n_searched = 0;
        for file in files(relay.sandbox.dir()).unwrap() {
            let (name, bytes) = (file.display().to_string(), std::fs::read(&file).unwrap());
            check_none(&canaries, &name, &bytes);
            let text = String::from_utf8_lossy(&bytes);
            assert!(name.ends_with("host.key") || !text.contains(seed), "{name} holds the host's key");
            if !name.ends_with("identity.txt") {
                check_none(&forms(identity.trim()), &name, &bytes);
            }
            n_searched += 1;
        }
        // Configuration, identity, key, compiled plugin, audit log of every run, and the store.
        assert!(n_searched >= 12, "{n_searched}");
    }
    // The commands did say all of it.
    let said = std::fs::read_to_string(proof).unwrap();
    for secret in [BY_ENV, BY_FILE, BY_URI] {
        assert!(forms(secret).iter().filter(|form| said.contains(form.as_str())).count() >= 5, "{said}");
    }
}

#[test]
fn a_secret_goes_into_the_environment_of_its_command_only_and_no_core_is_dumped() {
    let outside = tempfile::tempdir().unwrap();
    let marker = outside.path().join("pid");
    let wait = format!("echo $$ > {}; exec sleep 605", marker.display());
    let relay = relay(&wait, "true", outside.path());
    let running = relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    let child = wait_until("the command", std::time::Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&marker).unwrap_or_default();
        Ok(text.ends_with('\n').then(|| text.trim().to_owned()))
    })
    .unwrap();
    let canaries = canaries();
    for pid in [running.pid().to_string(), child.clone()] {
        check_none(&canaries, "a command line", &std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    // The command has what it was granted, and nothing of what the host has.
    let environ = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    let mut names: Vec<_> = environ
        .split(|byte| *byte == 0)
        .filter_map(|pair| Some(String::from_utf8_lossy(pair).split_once('=')?.0.to_owned()))
        // The shell's own.
        .filter(|name| !["PWD", "SHLVL", "_"].contains(&name.as_str()))
        .collect();
    names.sort();
    assert_eq!(names, ["BY_ENV", "BY_FILE", "BY_URI", "HOME", "LANG", "PATH"]);
    // Of a process that may not be dumped, these files belong to root, whoever runs it.
    assert_eq!(std::fs::metadata(format!("/proc/{}/environ", running.pid())).unwrap().uid(), 0);
    running.signal(rustix::process::Signal::INT).unwrap();
    running.finish(std::time::Duration::from_secs(30)).unwrap().check_code(130);
}

#[test]
fn credentials_of_a_store_are_in_nothing_that_is_said_of_it_whatever_it_answers() {
    const ACCESS: &str = "CANARYACCESSKEY77";
    const KEY: &str = "canary/secret+key=0451 x";
    const TOKEN: &str = "canary-token//9F+d==end";
    let canaries: Vec<String> = [ACCESS, KEY, TOKEN].iter().flat_map(|secret| forms(secret)).collect();
    let outside = tempfile::tempdir().unwrap();
    let key = outside.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    private(&key);
    // Everything that it was sent and knows comes back in the answer, a form at a time.
    let server = Echo::start(canaries.clone()).unwrap();
    let place = format!(
        "type = \"s3\"\nbucket = \"backups\"\nendpoint = \"http://127.0.0.1:{}\"\npath_style = true\npatience = \"2s\"\naccess_key = {{ env = \"S3_ACCESS\" }}\nsecret_key = {{ file = {:?} }}\nsession_token = {{ env = \"S3_TOKEN\" }}",
        server.port(),
        key.display().to_string()
    );
    let mut relay = Relay::new(Setup { place, ..Setup::default() });
    relay.sandbox.set_env("S3_ACCESS", ACCESS).set_env("S3_TOKEN", TOKEN);
    let mut said = String::new();
    let mut check = |args: &[&str]| {
        let output = relay.sandbox.strongroom(args).env("RUST_LOG", "trace").run();
        assert_ne!(output.code, Some(0), "{args:?} cannot succeed");
        for (place, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
            check_none(&canaries, &format!("{place} of {args:?}"), text.as_bytes());
            said.push_str(text);
        }
    };
    for format in [&["-vv"][..], &["--output", "json"]] {
        for verb in [
            &["backup", "orders"][..],
            &["list", "orders"],
            &["show", "orders", "latest"],
            &["verify", "orders", "--depth", "stored"],
            &["verify", "orders"],
            &["restore", "orders", "latest"],
            &["prune", "orders"],
            &["diagnose", "orders"],
            &["store", "check", "main"],
            &["audit", "verify", "--store", "main"],
        ] {
            check(&[verb, format].concat());
        }
    }
    // A secret that stands where it does not belong is not shown by the mistake either.
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", server.port());
    for wrong in [format!("http://user:{TOKEN}@127.0.0.1:9"), format!("http://127.0.0.1:9/?token={TOKEN}")] {
        std::fs::write(&path, config.replace(&endpoint, &wrong)).unwrap();
        check(&["config", "check"]);
        check(&["backup", "orders", "--output", "json"]);
    }
    assert!(server.was_sent(TOKEN) && server.was_sent(ACCESS), "the credentials were used");
    assert!(said.contains("***"), "what the server said was shown, without them:\n{said}");
    for file in files(relay.sandbox.dir()).unwrap() {
        if file != path {
            check_none(&canaries, &file.display().to_string(), &std::fs::read(&file).unwrap());
        }
    }
}

/// Runs these in a sandbox; how often a credential was blotted out of what they wrote. No canary is in that,
/// and in no file.
#[track_caller]
fn blotted(sandbox: &Sandbox, canaries: &[String], runs: &[&[&str]]) -> usize {
    let mut n_blotted = 0;
    for args in runs {
        let output = sandbox.strongroom(*args).env("RUST_LOG", "trace").run();
        for (place, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
            check_none(canaries, &format!("{place} of {args:?}"), text.as_bytes());
            n_blotted += text.matches("***").count();
        }
    }
    for file in files(sandbox.dir()).unwrap() {
        let bytes = std::fs::read(&file).unwrap();
        check_none(canaries, &file.display().to_string(), &bytes);
    }
    n_blotted
}

#[test]
fn credentials_of_a_cluster_are_in_nothing_that_is_said_of_it_whatever_it_answers() {
    const TOKEN: &str = "canary.cluster-token+0451/x==";
    const MAPS: &str = "/v1/configmaps/ConfigMap";
    let canaries = forms(TOKEN);
    let server = Echo::answering(vec![canaries.join(" ")], echo::as_cluster).unwrap();
    let way = format!(
        "api = \"http://127.0.0.1:{}\"\ntoken = {{ env = \"CLUSTER_TOKEN\" }}\ntimeout = \"2s\"",
        server.port()
    );
    let grants = [reads(&["*"], ""), grant(&["apply", "delete"], &["*"], "")].concat();
    let mut rig = Rig::at(&way, &grants);
    rig.sandbox.set_env("CLUSTER_TOKEN", TOKEN);
    let of = |what: &str| json!({"do": what, "kind": MAPS, "namespace": "shop", "name": "a"});
    let deeds: Vec<_> = ["probe", "version", "kinds", "list", "get", "body", "logs"].map(of).into();
    rig.configure(&json!([deeds.clone(), deeds].concat()));
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}});
    let change = json!([{"do": "apply", "objects": [object]}, {"do": "delete", "objects": [of("")]}]);
    let option = format!("deeds={change}");
    let n = blotted(
        &rig.sandbox,
        &canaries,
        &[
            &["backup", "orders", "-vv"],
            &["backup", "orders", "--output", "json"],
            &["verify", "orders", "--output", "json"],
            &["diagnose", "orders", "--output", "json"],
            &["restore", "orders", "latest", "--output", "json", "--option", &option],
            &["restore", "orders", "latest", "--plan", "--option", &option],
            &["show", "orders", "latest", "--output", "json"],
            &["audit", "show", "--output", "json"],
        ],
    );
    assert!(server.was_sent(TOKEN), "the credentials were used");
    assert!(n > 20, "what the server said was shown, without them: {n} times");
}

#[test]
fn credentials_for_metrics_are_in_nothing_that_is_said_of_their_servers_whatever_they_answer() {
    const TOKEN: &str = "canary.prometheus-token+0451/x==";
    const ASKS: &str = "canary.prometheus-Password77";
    const PUSHES: &str = "canary/pushgateway+Password=88";
    let canaries: Vec<String> = [TOKEN, ASKS, PUSHES].iter().flat_map(|secret| forms(secret)).collect();
    let start = |secret: &str| Echo::answering(vec![forms(secret).join(" ")], echo::as_metrics).unwrap();
    let [asked, asked_by_name, pushed] = [TOKEN, ASKS, PUSHES].map(start);
    let mut meter = Meter::new();
    for (name, secret) in [("P_TOKEN", TOKEN), ("P_ASKS", ASKS), ("P_PUSHES", PUSHES)] {
        meter.sandbox.set_env(name, secret);
    }
    meter.grant = "prefix = \"meter_\"\nquery = [\"up\"]".to_owned();
    let range = ", range_ms = 60000, step_ms = 1000";
    let asks: Vec<_> = (0..3).flat_map(|_| [("query", "up", ""), ("query-range", "up", range)]).collect();
    let by_token = "token = { env = \"P_TOKEN\" }";
    let by_name = "username = \"me\", password = { env = \"P_ASKS\" }";
    for (server, who) in [(&asked, by_token), (&asked_by_name, by_name)] {
        meter.metrics = format!(
            "prometheus = {{ url = \"http://127.0.0.1:{}\", {who} }}\npushgateway = {{ url = \"http://127.0.0.1:{}\", username = \"me\", password = {{ env = \"P_PUSHES\" }} }}",
            server.port(),
            pushed.port()
        );
        meter.set("orders", &calls(&asks));
        let runs: [&[&str]; 5] = [
            &["backup", "orders", "-vv"],
            &["backup", "orders", "--output", "json"],
            &["verify", "orders"],
            &["show", "orders", "latest", "--output", "json"],
            &["audit", "show", "--output", "json"],
        ];
        let n = blotted(&meter.sandbox, &canaries, &runs);
        assert!(n > 10, "what the servers said was shown, without them: {n} times");
    }
    let basic = |password: &str| base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
    assert!(asked.was_sent(TOKEN) && asked_by_name.was_sent(&basic(ASKS)) && pushed.was_sent(&basic(PUSHES)));
}

#[test]
fn no_secret_is_in_what_a_panic_of_the_host_says_wherever_it_happens() {
    let outside = tempfile::tempdir().unwrap();
    let mut relay = relay("echo data", "true", outside.path());
    let identity = std::fs::read_to_string(relay.sandbox.path("identity.txt")).unwrap();
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap().to_owned();
    relay.sandbox.set_env("IDENTITY", &identity);
    relay.backup();
    let secrets: Vec<String> = [canaries(), forms(&identity)].concat();
    // Everywhere the secret has been given to a command, or the identity has opened a backup: on the thread
    // that tells the story, on one that stores, in a task.
    let cases: [(&[&str], &str, &str); 6] = [
        (&["backup", "orders"], "part.stored", "FROM_ENV"),
        (&["backup", "orders"], "segment.completing", "FROM_ENV"),
        (&["backup", "orders"], "artifact.stored", "FROM_ENV"),
        (&["backup", "orders"], "record.writing", "FROM_ENV"),
        (&["verify", "orders"], "verify.read", "IDENTITY"),
        (&["restore", "orders", "latest"], "restore.returned", "IDENTITY"),
    ];
    for (args, point, variable) in cases {
        for format in [&["-vv"][..], &["--output", "json"]] {
            let fail = format!("{point}=panic:{variable}");
            let words = args.iter().chain(format);
            let command = relay.sandbox.strongroom(words).env("STRONGROOM_FAIL", &fail);
            let output = command.env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace").run();
            assert!(output.code.is_some_and(|code| code != 0), "{fail}: {output:#?}");
            output.check_stderr("panicked at ").check_stderr("armed.rs:").check_stderr("it holds ***");
            output.check_stderr("this is a fault of strongroom");
            for (place, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
                check_none(&secrets, &format!("{place} of {args:?} with {fail}"), text.as_bytes());
            }
        }
    }
    for file in files(relay.sandbox.dir()).unwrap().iter().filter(|file| !file.ends_with("identity.txt")) {
        check_none(&secrets, &file.display().to_string(), &std::fs::read(file).unwrap());
    }
    // What panics again and again leaves a host that goes on.
    relay.backup();
}

#[test]
fn an_identity_is_asked_for_when_an_artifact_is_about_to_be_opened() {
    let outside = tempfile::tempdir().unwrap();
    let relay = relay("echo data", "true", outside.path());
    let id = relay.backup();
    std::fs::rename(relay.sandbox.path("identity.txt"), relay.sandbox.path("kept.txt")).unwrap();
    // What opens nothing does not need it.
    relay.backup();
    for args in [
        &["list", "orders"][..],
        &["show", "orders", &id],
        &["verify", "orders", &id, "--depth", "stored"],
        &["audit", "verify", "--store", "main"],
    ] {
        relay.run(args).check_code(0);
    }
    relay.run(&["restore", "orders", "20010101T000000Z-aaaaaaaa"]).check_error(1, &["20010101T000000Z-aaaaaaaa"]);
    // What opens something says so before the plugin is started, a plan as well.
    let runs = || files(&relay.sandbox.path("home/.local/state/strongroom/audit/runs")).unwrap().len();
    let before = runs();
    for args in [&["verify", "orders", &id][..], &["restore", "orders", &id], &["restore", "orders", &id, "--plan"]] {
        relay.run(args).check_error(2, &["the identity of store \"main\" cannot be used", "store.main.identity"]);
    }
    assert_eq!(runs(), before, "no plugin was started");
    std::fs::rename(relay.sandbox.path("kept.txt"), relay.sandbox.path("identity.txt")).unwrap();
    relay.run(&["verify", "orders", &id]).check_code(0);
}

#[test]
fn a_secret_that_cannot_be_had_is_found_before_anything_is_done_and_by_a_check() {
    let outside = tempfile::tempdir().unwrap();
    let marker = outside.path().join("ran");
    let mut relay = relay(&format!("touch {}; echo data", marker.display()), "true", outside.path());
    relay.run(&["config", "check", "--secrets"]).check_code(0);
    let file = outside.path().join("secret");
    let put = |content: &str, mode| {
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    for (content, says) in [(None, "is not there"), (Some("short"), "too short"), (Some(""), "is empty")] {
        match content {
            Some(text) => put(text, 0o600),
            None => std::fs::remove_file(&file).unwrap(),
        }
        relay.run(&["backup", "orders"]).check_error(2, &["job.orders.secrets.BY_FILE", says]);
        // Where a configuration is written there may be no secrets: a warning, and a mistake when asked for.
        let warned = relay.run(&["config", "check"]);
        warned.check_code(0).check_stderr("warning: ").check_stderr("job.orders.secrets.BY_FILE");
        relay.run(&["config", "check", "--secrets"]).check_error(2, &["cannot be had", "job.orders.secrets.BY_FILE"]);
    }
    put(BY_FILE, 0o600);
    relay.sandbox.set_env("FROM_ENV", "");
    relay.run(&["backup", "orders"]).check_error(2, &["FROM_ENV", "is not set"]);
    assert!(!marker.exists() && relay.stored().is_empty(), "nothing was started or stored");
    relay.sandbox.set_env("FROM_ENV", BY_ENV);
    put(BY_FILE, 0o644);
    relay.run(&["backup", "orders"]).check_code(0).check_stderr("everybody on this machine can read");
}

#[test]
fn a_secret_is_read_when_its_command_starts() {
    const LATER: &str = "canary of later 5521";
    let outside = tempfile::tempdir().unwrap();
    let (file, got) = (outside.path().join("secret"), outside.path().join("got"));
    let relay = relay("echo data", "true", outside.path());
    // The first command changes the file, as a rotation would; the second one gets what is there then.
    let rotates = format!(
        "cat > /dev/null; printf %s \\\"$BY_FILE\\\" | sha256sum >> {got}; printf %s '{LATER}' > {file}; echo had '{LATER}' >&2",
        got = got.display(),
        file = file.display()
    );
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let (head, consume) = config.split_once("[plugin.relay.grant.exec.consume]").unwrap();
    let consume = consume.replacen("cat > /dev/null", &rotates, 1);
    let consume = consume.replacen("verbs = [\"restore\"]", "verbs = [\"restore\"]\nsecrets = [\"BY_FILE\"]", 1);
    let artifacts = "[job.orders.settings]\nartifacts = [\"one\", \"two\"]\n";
    let consume = consume.replacen("[job.orders.settings]\n", artifacts, 1);
    std::fs::write(&path, format!("{head}[plugin.relay.grant.exec.consume]{consume}")).unwrap();
    relay.backup();
    let output = relay.run(&["restore", "orders", "latest", "-vv"]);
    check_none(&canaries(), "standard error", output.check_code(0).stderr.as_bytes());
    let got = std::fs::read_to_string(&got).unwrap();
    let digests: Vec<_> = got.lines().map(|line| &line[..64]).collect();
    assert_eq!(digests, [sha256(BY_FILE.as_bytes()), sha256(LATER.as_bytes())]);
}

/// How often these bytes are in this process's memory, of which only their complement is given.
fn in_memory(complement: &[u8]) -> usize {
    use std::io::{Read, Seek, SeekFrom};
    const CHUNK: usize = 1 << 20;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0_u8; CHUNK + complement.len()];
    let mut found = 0;
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        for at in (from..to).step_by(CHUNK) {
            // What was read before must not be found as a part of this process.
            chunk.fill(0);
            let most = usize::try_from(to - at).unwrap().min(chunk.len());
            memory.seek(SeekFrom::Start(at)).unwrap();
            let n = memory.read(&mut chunk[..most]).unwrap_or(0);
            let is = |at: usize| chunk[at..].iter().zip(complement).all(|(byte, other)| *byte == !other);
            let first = !complement[0];
            let starts = (0..n.saturating_sub(complement.len())).filter(|at| chunk[*at] == first);
            found += starts.filter(|at| is(*at)).count();
        }
    }
    chunk.fill(0);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_of_a_secret_is_left_in_the_host_when_its_command_has_ended() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("secret");
    // Made by another process, so that this one never had it but through the code under test.
    let script = format!(
        "printf '\\177%s' \"$(od -An -N24 -tx1 /dev/urandom | tr -d ' \\n')\" > {0}; chmod 600 {0}",
        file.display()
    );
    let made = std::process::Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
    assert!(made.success());
    let complement: Vec<u8> = {
        let mut bytes = std::fs::read(&file).unwrap();
        let complement = bytes.iter().map(|byte| !byte).collect();
        bytes.fill(0);
        std::hint::black_box(&bytes);
        complement
    };
    assert_eq!((complement.len(), in_memory(&complement)), (49, 0));

    let secrets = BTreeMap::from([("P".to_owned(), SecretRef::File(file.clone()))]);
    let (secrets, _) = secret::late(secret::of_table(&secrets, "job.x.secrets"), |_| None).unwrap();
    // Before a command needs it nothing of it is kept.
    assert_eq!(in_memory(&complement), 0, "a reference was kept as a value");
    let run_in = RunIn::Local { user: None };
    let place = Arc::new(Place { run_in, env: BTreeMap::new(), secrets, pod: None });
    let script = "[ ${#P} = 49 ] && [ \"$(cat $F)\" = \"$P\" ]";
    let command = CommandLine {
        secrets: vec!["P".to_owned()],
        secret_files: BTreeMap::from([("F".to_owned(), "P".to_owned())]),
        ..CommandLine::plain("tool", "/bin/sh", &["-c", script])
    };
    let patience = Duration::from_secs(60);
    let started = exec::spawn(command, place.clone(), None, None, patience, CancellationToken::new()).await;
    let mut process = started.unwrap();
    assert!(process.wait().await.unwrap().is_success(), "the command had the secret");
    // The redactor has it, which shows that it would be found.
    assert!(in_memory(&complement) > 0);
    drop((process, place));
    assert_eq!(exec::settled(patience).await, 0);
    assert_eq!(in_memory(&complement), 0, "a copy was left behind");
}

#[test]
fn forms_of_a_secret_are_those_that_programs_write() {
    let sandbox = strongroom_tests::Sandbox::new();
    for secret in [BY_ENV, BY_FILE, BY_URI] {
        let output = sandbox.command("/bin/sh", ["-c", "base64 -w0"]).stdin(secret).run();
        assert!(output.stdout.contains(&forms(secret)[6]), "{}", output.stdout);
    }
    assert_eq!(sh("x").len(), 3);
}
