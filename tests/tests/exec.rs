//! What an operator can say about commands beyond their words: the program's own bytes, how much memory they
//! get, and which of them and with which credentials in which verb of a job.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use strongroom_tests::canary::{check_none, forms};
use strongroom_tests::relay::{Relay, Setup, sh, sha256};

/// Changes the configuration of a relay where `from` stands.
#[track_caller]
fn edit(relay: &Relay, from: &str, to: &str) {
    let path = relay.sandbox.path("strongroom.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Adds lines to `[job.orders]`.
fn job(relay: &Relay, lines: &str) {
    edit(relay, "\n[job.orders.settings]", &format!("{lines}\n\n[job.orders.settings]"));
}

/// Lines of the audit log, by event.
fn audit(relay: &Relay, event: &str) -> Vec<Value> {
    let shown = relay.run(&["audit", "show", "--output", "json"]);
    shown.check_code(0);
    let lines = shown.json()["lines"].as_array().unwrap().clone();
    lines.into_iter().filter(|line| line["event"] == event).collect()
}

/// Puts a program at a path, as a package does: written beside it and renamed.
fn install(path: &Path, program: &[u8]) -> String {
    let beside = path.with_extension("new");
    fs::write(&beside, program).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(beside, path).unwrap();
    sha256(program)
}

#[test]
fn a_program_that_was_replaced_is_not_run_and_the_log_has_its_line() {
    let outside = tempfile::tempdir().unwrap();
    let (path, marker) = (outside.path().join("tool"), outside.path().join("ran"));
    let good = install(&path, b"#!/bin/sh\necho data\n");
    let evil = format!("#!/bin/sh\n: > {}\necho data\n", marker.display());
    let setup = |pinned: &str| Setup {
        produce: vec![path.display().to_string()],
        produce_more: format!("sha256 = \"{}\"", pinned.to_uppercase()),
        ..Setup::default()
    };
    let relay = Relay::new(setup(&good));
    relay.backup();
    let before = audit(&relay, "before");
    let words = format!("{}", before[0]["arguments"]);
    assert!(words.contains("\"sha256\"") && words.contains(&good), "the log has what it was held to: {words}");
    relay.run(&["plugin", "inspect", "relay"]).check_code(0).check_stdout(&format!("only while its sha256 is {good}"));

    let replaced = install(&path, evil.as_bytes());
    let refused = relay.run(&["backup", "orders"]);
    refused.check_code(4);
    for part in [&good, &replaced, "is not the one that is pinned", "plugin.relay.grant.exec.produce"] {
        refused.check_stderr(part);
    }
    let denied = audit(&relay, "deny");
    assert_eq!((denied.len(), &denied[0]["rule"]), (1, &"plugin.relay.grant.exec.produce".into()), "{denied:?}");
    assert!(denied[0]["detail"].as_str().unwrap().contains(&replaced), "{denied:?}");
    assert_eq!(audit(&relay, "before").len(), before.len(), "nothing was about to be started");
    assert!(!marker.exists(), "it was run");
    let diagnosed = relay.run(&["diagnose", "orders"]);
    diagnosed.check_code(5).check_stdout(&replaced);
    assert!(!marker.exists(), "it was asked for its version");

    // The operator looks, and pins what is there now; what is granted otherwise stays.
    let digest = sha256(&fs::read(strongroom_tests::plugin("guests/relay").unwrap()).unwrap());
    let program = format!("cat={}", path.display());
    let approve =
        ["plugin", "approve", "relay", "--digest", &digest, "--program", &program, "--program", "true=/bin/true"];
    relay.run(&approve).check_code(0);
    let text = fs::read_to_string(relay.sandbox.path("strongroom.toml")).unwrap();
    assert!(text.contains(&good.to_uppercase()), "the digest of a program that stays is kept:\n{text}");
    relay.run(&[&approve[..], &["--pin-programs"]].concat()).check_code(0);
    let text = fs::read_to_string(relay.sandbox.path("strongroom.toml")).unwrap();
    assert!(text.contains(&replaced) && !text.contains(&good.to_uppercase()), "{text}");
    assert!(text.contains(&sha256(&fs::read("/bin/true").unwrap())), "every program is pinned:\n{text}");
}

#[test]
fn a_digest_is_for_commands_of_this_machine() {
    let digest = "0".repeat(64);
    let relay = Relay::new(Setup { produce_more: format!("sha256 = \"{digest}\""), ..Setup::default() });
    job(&relay, "run_in = { container = \"db\" }");
    let refused = relay.run(&["config", "check"]);
    refused.check_code(2).check_stderr("its commands run in a container, and plugin.relay.grant.exec.produce");
    // A job that does not hold it is no mistake.
    job(&relay, "grants = [\"artifacts\", \"exec.query\"]");
    relay.run(&["config", "check"]).check_code(0);
}

#[test]
fn a_command_that_wants_more_memory_than_its_limit_fails_and_the_error_names_it() {
    let dd = ["/bin/dd", "if=/dev/zero", "bs=200M", "count=1", "status=none"].map(str::to_owned);
    let setup = |limits: &str, skipping: &str| Setup {
        produce: dd.to_vec(),
        limits: limits.to_owned(),
        settings: skipping.to_owned(),
        ..Setup::default()
    };
    let relay = Relay::new(setup("command_memory = \"64MiB\"", ""));
    let failed = relay.run(&["backup", "orders"]);
    failed.check_code(1);
    for part in ["memory exhausted", "it may have reached its limit \"command_memory\", 64.0 MiB", ".limits]"] {
        failed.check_stderr(part);
    }
    // A guest that asks how it ended, and not for its bytes, is told nothing of it; people are.
    edit(
        &relay,
        "program = \"/bin/sh\"\nargs = [\"-c\", \"echo fine\"]",
        "program = \"/bin/dd\"\nargs = [\"if=/dev/zero\", \"bs=200M\", \"count=1\", \"of=/dev/null\"]",
    );
    relay.run(&["diagnose", "orders", "-v"]).check_code(5).check_stderr("command_memory");
    relay.configure(&setup("", ""));
    relay.backup();
}

/// What a command says of itself: who it is, and what its password is, as a digest.
fn says(file: &Path) -> String {
    format!("echo \"$WHO $(printf %s \"$PW\" | sha256sum | cut -c1-64)\" >> {}", file.display())
}

#[test]
fn a_restore_has_other_credentials_than_a_backup_and_neither_sees_the_others() {
    const READER: &str = "canary-reader-1a2b3c";
    const OWNER: &str = "canary-owner-9z8y7x";
    let outside = tempfile::tempdir().unwrap();
    let said = outside.path().join("said");
    let mut relay = Relay::new(Setup {
        produce: sh(&format!("{}; echo data", says(&said))),
        produce_more: "secrets = [\"PW\"]".to_owned(),
        consume: sh(&format!("cat > /dev/null; {}", says(&said))),
        ..Setup::default()
    });
    edit(
        &relay,
        "[plugin.relay.grant.exec.consume]",
        "[plugin.relay.grant.exec.consume]\nsecrets = [\"PW\", \"ALONE\"]",
    );
    job(&relay, "env = { WHO = \"reader\" }\nsecrets = { PW = { env = \"READER\" } }");
    let path = relay.sandbox.path("strongroom.toml");
    let text = fs::read_to_string(&path).unwrap();
    let more = "\n[job.orders.restore]\nenv = { WHO = \"owner\" }\nsecrets = { PW = { env = \"OWNER\" }, ALONE = { env = \"OWNER\" } }\n\
                \n[target.elsewhere]\nenv = { WHO = \"target\" }\n";
    fs::write(&path, format!("{text}{more}")).unwrap();
    let last = || fs::read_to_string(&said).unwrap().lines().last().unwrap().to_owned();
    let of = |who: &str, secret: &str| format!("{who} {}", sha256(secret.as_bytes()));

    // A backup needs nothing of a restore: the owner's password is not even there.
    relay.sandbox.set_env("READER", READER);
    relay.backup();
    assert_eq!(last(), of("reader", READER));
    relay.run(&["config", "check", "--secrets"]).check_code(2).check_stderr("job.orders.restore.secrets.PW");
    let missing = relay.run(&["restore", "orders", "latest"]);
    missing.check_code(2).check_stderr("\"OWNER\" of job.orders.restore.secrets.");
    assert_eq!(last(), of("reader", READER), "nothing was started");

    relay.sandbox.set_env("OWNER", OWNER);
    relay.run(&["config", "check", "--secrets"]).check_code(0);
    let restored = relay.run(&["restore", "orders", "latest", "-vv"]);
    restored.check_code(0);
    assert_eq!(last(), of("owner", OWNER));
    // A target's own are all that there is.
    relay.run(&["restore", "orders", "latest", "--target", "elsewhere"]).check_code(0);
    assert_eq!(last(), of("target", ""));
    relay.backup();
    assert_eq!(last(), of("reader", READER));
    // What only a restore is given is not missed by a diagnosis.
    let diagnosed = relay.run(&["diagnose", "orders", "--output", "json"]).json();
    let found = diagnosed["checks"].as_array().unwrap().iter().find(|check| check["id"] == "host.secrets").cloned();
    assert_eq!(found.as_ref().map(|check| &check["outcome"]), Some(&"passed".into()), "{found:?}");
    let canaries: Vec<String> = [READER, OWNER].iter().flat_map(|secret| forms(secret)).collect();
    for output in
        [restored, relay.run(&["audit", "show", "--output", "json"]), relay.run(&["diagnose", "orders", "-vv"])]
    {
        check_none(&canaries, "standard output", output.stdout.as_bytes());
        check_none(&canaries, "standard error", output.stderr.as_bytes());
    }
}

#[test]
fn what_a_job_narrows_away_is_denied_with_the_job_as_the_reason() {
    let relay = Relay::new(Setup { produce: sh("echo data"), ..Setup::default() });
    let path = relay.sandbox.path("strongroom.toml");
    let text = fs::read_to_string(&path).unwrap();
    let other = "\n[job.other]\nplugin = \"relay\"\nstore = \"main\"\n";
    fs::write(&path, format!("{text}{other}")).unwrap();
    job(&relay, "grants = [\"artifacts\", \"exec.check\", \"exec.query\"]\ndiagnose = { grants = [\"exec.check\"] }");
    relay.run(&["config", "check"]).check_code(0);

    let denied = relay.run(&["backup", "orders"]);
    denied.check_code(4);
    for part in [
        "job.orders narrows its plugin's grants, and \"exec.produce\" is not among them",
        "job.orders.grants",
        "grants = [\"artifacts\", \"exec.check\", \"exec.query\", \"exec.produce\"]",
    ] {
        denied.check_stderr(part);
    }
    let lines = audit(&relay, "deny");
    assert_eq!((lines.len(), &lines[0]["rule"]), (1, &"job.orders.grants".into()), "{lines:?}");
    assert!(lines[0]["detail"].as_str().unwrap().contains("job.orders narrows"), "{lines:?}");
    // The job holds it and the verb does not.
    relay.run(&["diagnose", "orders"]).check_stdout("job.orders.diagnose narrows its plugin's grants");
    assert_eq!(audit(&relay, "deny")[1]["rule"], "job.orders.diagnose.grants");

    // Another job of the same plugin has all of it, and what it uses is used.
    relay.run(&["backup", "other"]).check_code(0);
    let unused = relay.run(&["audit", "unused"]);
    unused.check_code(0).check_stdout("unused: plugin.relay.grant.exec.consume");
    assert!(!unused.stdout.contains("unused: plugin.relay.grant.exec.produce"), "{}", unused.stdout);
    let inspected = relay.run(&["plugin", "inspect", "relay"]);
    inspected.check_stdout("job.orders narrows its grants; in it hold: artifacts, exec.check, exec.query");
    inspected.check_stdout("job.orders.diagnose narrows its grants; in it hold: exec.check");
}
