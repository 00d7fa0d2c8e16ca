//! What the command line prints and how it ends: mistakes, results as JSON, warnings, secrets, and a whole
//! session as a person sees it.

use regex::Regex;
use std::path::{Path, PathBuf};
use strongroom_tests::documented::check_documented;
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::{Output, Sandbox, files};

/// One error with exit code 2 that says each of these.
#[track_caller]
fn check_usage(output: &Output, says: &[&str]) {
    output.check_code(2);
    for text in says {
        output.check_stderr(text);
    }
    let errors = output.stderr.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "one error: {}", output.stderr);
    assert_eq!(output.stdout, "");
}

// Mistakes of the command line.

#[test]
fn what_the_configuration_does_not_name_is_told_with_what_it_does() {
    let relay = Relay::new(Setup::default());
    for (args, says) in [
        (&["backup", "order"][..], ["there is no job \"order\"", "orders"]),
        (&["verify", "order"], ["there is no job \"order\"", "orders"]),
        (&["restore", "order", "latest"], ["there is no job \"order\"", "orders"]),
        (&["diagnose", "order"], ["there is no job \"order\"", "orders"]),
        (&["show", "order", "latest"], ["there is no job \"order\"", "orders"]),
        (&["list", "--store", "mian"], ["there is no store \"mian\"", "main"]),
        (&["store", "check", "mian"], ["there is no store \"mian\"", "main"]),
        (&["store", "init", "mian"], ["there is no store \"mian\"", "main"]),
        (&["plugin", "inspect", "rely"], ["there is no plugin \"rely\"", "relay"]),
        (&["plugin", "approve", "rely"], ["there is no plugin \"rely\"", "relay"]),
        (
            &["restore", "orders", "latest", "--target", "scratch"],
            ["there is no target \"scratch\"", "[target.scratch]"],
        ),
        (&["verify", "orders", "--depth", "restore", "--target", "x"], ["there is no target \"x\"", "[target.x]"]),
        (&["verify", "orders", "--depth", "restore"], ["needs a place to restore into", "--target"]),
        (&["verify", "orders", "--depth", "bottom"], ["bottom", "stored"]),
        (&["frobnicate"], ["frobnicate", "--help"]),
        (&["backup"], ["<JOB>", "Usage"]),
        (&["backup", "orders", "--fast"], ["--fast", "Usage"]),
        (&["restore", "orders", "latest", "--option", "fail_after"], ["KEY=VALUE", "fail_after"]),
        (&["list", "--quiet", "--verbose"], ["--quiet", "--verbose"]),
    ] {
        check_usage(&relay.run(args), &says);
    }
}

#[test]
fn restore_options_that_break_the_schema_are_named_before_anything_is_done() {
    let relay = Relay::new(Setup::default());
    let id = relay.backup();
    for (option, says) in
        [("nope=1", ["only keys of the schema", "nope"]), ("fail_after=soon", ["options.fail_after", "type integer"])]
    {
        check_usage(&relay.run(&["restore", "orders", &id, "--option", option]), &says);
    }
}

#[test]
fn an_id_is_the_beginning_of_exactly_one_backup_for_every_verb() {
    let relay = Relay::new(Setup::default());
    let (first, second) = (relay.backup(), relay.backup());
    for verb in ["verify", "restore", "show"] {
        check_usage(&relay.run(&[verb, "orders", "2"]), &["2", &first, &second]);
        let unknown = relay.run(&[verb, "orders", "20010101T000000Z-aaaaaaaa"]);
        unknown.check_code(1).check_stderr("no backup").check_stderr("20010101T000000Z-aaaaaaaa");
        relay.run(&[verb, "orders", &first]).check_code(0);
    }
    let empty = Relay::new(Setup::default());
    empty.run(&["restore", "orders", "latest"]).check_code(1).check_stderr("no backup");
    assert_eq!(empty.listed(), Vec::<String>::new());
}

// Results for programs.

#[test]
fn every_verb_prints_the_json_that_is_documented_and_nothing_else() {
    let relay = Relay::new(Setup::default());
    let verbs: [(&[&str], &str); 12] = [
        (&["backup", "orders", "--dry-run"], "Done"),
        (&["backup", "orders"], "Done"),
        (&["verify", "orders"], "Findings"),
        (&["verify", "orders", "--depth", "stored"], "Findings"),
        (&["diagnose", "orders"], "Findings"),
        (&["list"], "Listing"),
        (&["show", "orders", "latest"], "Shown"),
        (&["key", "show"], "ShownKey"),
        (&["store", "check", "main"], "StoreChecked"),
        (&["store", "init", "main"], "RecoverySheet"),
        (&["plugin", "inspect", "relay"], "Inspection"),
        (&["config", "check"], "Checked"),
    ];
    for (args, shape) in verbs {
        let output = relay.run(&[args, &["--output", "json"]].concat());
        check_documented(&output.check_code(0).json(), shape);
    }
}

#[test]
fn restore_prints_the_json_that_is_documented() {
    let relay = Relay::new(Setup { settings: "skip = \"table secrets\"".into(), ..Setup::default() });
    let made = relay.run(&["backup", "orders", "--output", "json"]);
    let id = made.check_code(3).json()["id"].as_str().unwrap().to_owned();
    for plan in [&["--plan"][..], &[]] {
        let args = ["restore", "orders", &id, "--allow-incomplete", "--output", "json"];
        let output = relay.run(&[&args[..], plan].concat());
        let restored = output.check_code(3).json();
        check_documented(&restored, "Restored");
        assert_eq!(restored["plan"], !plan.is_empty());
        assert_eq!(restored["skipped"][0]["what"], "table secrets");
    }
}

#[test]
fn every_error_is_json_too_and_only_on_standard_output() {
    let relay = Relay::new(Setup { produce: sh("echo boom >&2; exit 3"), ..Setup::default() });
    for (args, code, kind) in [
        (&["backup", "orders"][..], 1, "failed"),
        (&["backup", "nope"], 2, "invalid"),
        (&["frobnicate"], 2, "invalid"),
        (&["backup", "orders", "--fast"], 2, "invalid"),
        (&["plugin", "approve", "relay"], 4, "denied"),
        (&["verify", "orders"], 1, "not-found"),
        (&["--config", "nowhere.toml", "list"], 2, "invalid"),
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let output = relay.run(&args);
        let error = output.check_code(code).json();
        check_documented(&error, "Report");
        assert_eq!(error["error"]["kind"], kind, "{args:?}: {error:#}");
        assert!(!output.stderr.contains("error:"), "{}", output.stderr);
    }
}

#[test]
fn quiet_prints_results_and_errors_only() {
    let relay = Relay::new(Setup::default());
    for args in [&["backup", "orders"][..], &["verify", "orders"], &["list"], &["restore", "orders", "latest"]] {
        let output = relay.run(&[args, &["--quiet"]].concat());
        assert_eq!(output.check_code(0).stderr, "", "{args:?}");
    }
    let failed = relay.run(&["backup", "nope", "--quiet"]);
    assert!(failed.check_code(2).stderr.starts_with("error: "), "{}", failed.stderr);
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.run(["completions", shell]);
        script.check_code(0).check_stdout("diagnose").check_stdout("dry-run");
        let file = sandbox.write(format!("completions.{shell}"), &script.stdout);
        // Of shells that are not on every machine the text above is all that can be looked at.
        if shell == "bash" || Path::new("/usr/bin").join(shell).exists() {
            sandbox.command(shell, ["-n", file.to_str().unwrap()]).run().check_code(0);
        }
    }
}

// What the host notices.

#[test]
fn diagnose_shows_every_check_of_the_host_before_those_of_the_plugin() {
    let relay = Relay::new(Setup { produce_more: "secrets = [\"CANARY\"]".into(), ..Setup::default() });
    relay.backup();
    relay.run(&["verify", "orders"]).check_code(0);
    let output = relay.run(&["diagnose", "orders", "--output", "json"]);
    let found = output.check_code(0).json();
    let checks = found["checks"].as_array().unwrap();
    let evidence = |id: &str| {
        let check = checks.iter().find(|check| check["id"] == id);
        check.unwrap_or_else(|| panic!("no {id} in {found:#}"))["evidence"].as_str().unwrap().to_owned()
    };
    for (id, says) in [
        ("host.memory", "available"),
        ("host.disk", "free"),
        ("host.program", "on this machine"),
        ("host.secrets", "CANARY"),
        ("host.store", "written in"),
        ("host.clock", "apart"),
        ("host.age", "Z-"),
        ("host.verified", "depth contents"),
        ("relay.query", "fine"),
    ] {
        assert!(evidence(id).contains(says), "{id}: {}", evidence(id));
    }
    assert_eq!(checks.last().unwrap()["id"], "relay.query");
}

#[test]
fn a_backup_much_smaller_than_the_last_ones_is_warned_of_in_output_and_record() {
    let relay = Relay::new(Setup::default());
    for _ in 0..3 {
        relay.backup();
    }
    relay.configure(&Setup { produce: sh("seq 1 100"), ..Setup::default() });
    let says = "less than half of 1.9 MiB, the median of the last 3 backups";
    let made = relay.run(&["backup", "orders"]);
    made.check_code(0).check_stdout(says);
    // Its id, since all four were made within a second or two.
    let id = Regex::new(r"\d{8}T\d{6}Z-[a-z0-9]{8}").unwrap().find(&made.stdout).unwrap().as_str();
    let shown = relay.run(&["show", "orders", id, "--output", "json"]);
    let warnings = shown.json()["record"]["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains(says), "{warnings}");
    relay.run(&["show", "orders", id]).check_code(0).check_stdout(says);
}

#[test]
fn records_of_trusted_hosts_count_like_our_own() {
    let relay = Relay::new(Setup::default());
    let id = relay.backup();
    let shown = relay.run(&["key", "show", "--output", "json"]).json();
    let key = shown["public_key"].as_str().unwrap();
    std::fs::remove_dir_all(relay.sandbox.path("home/.local/state")).unwrap();
    let signer = |relay: &Relay| {
        let listed = relay.run(&["list", "--output", "json"]);
        listed.json()["backups"][0]["signer"].clone()
    };
    assert_eq!(signer(&relay), "unknown");
    relay.run(&["restore", "orders", &id]).check_code(4);
    let config = std::fs::read_to_string(relay.sandbox.path("strongroom.toml")).unwrap();
    relay.sandbox.config(&format!("trusted_hosts = [\"{key}\"]\n{config}"));
    assert_eq!(signer(&relay), "trusted");
    relay.run(&["verify", "orders", "latest"]).check_code(0);
    relay.run(&["restore", "orders", "latest"]).check_code(0);
    relay.sandbox.config(&format!("trusted_hosts = [\"srhost1-short\"]\n{config}"));
    check_usage(&relay.run(&["list"]), &["trusted_hosts"]);
}

// Secrets.

/// With characters that change in a URL.
const CANARY: &str = "c@nary/s3cret+of:the=shop";
const CANARY_IN_URL: &str = "c%40nary%2Fs3cret%2Bof%3Athe%3Dshop";
const CANARY_IN_BASE64: &str = "Y0BuYXJ5L3MzY3JldCtvZjp0aGU9c2hvcA==";

#[track_caller]
fn check_no_canary(place: &str, bytes: &[u8]) {
    // The last characters of base64 depend on what follows.
    for form in [CANARY, CANARY_IN_URL, &CANARY_IN_BASE64[..28]] {
        let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!found, "{form:?} is in {place}: {}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_secret_that_a_command_prints_is_nowhere_in_any_form() {
    let show = "printf 'plain %s\\n' \"$CANARY\" >&2; printf %s \"$CANARY\" | base64 >&2; \
                printf %s \"$CANARY\" | sed 's/@/%40/g;s,/,%2F,g;s/+/%2B/g;s/:/%3A/g;s/=/%3D/g' >&2; echo >&2";
    // Proves that the command does print every form: to a file outside of what is searched.
    let proof = tempfile::tempdir().unwrap();
    let proven = proof.path().join("said");
    let also = format!("({show}) 2> {}", proven.display());
    for end in ["exit 3", "echo data", "echo data; kill -9 $$"] {
        let mut relay = Relay::new(Setup {
            produce: sh(&format!("{also}; {show}; {end}")),
            produce_more: "secrets = [\"CANARY\"]".into(),
            ..Setup::default()
        });
        relay.sandbox.set_env("CANARY_SOURCE", CANARY);
        let path = relay.sandbox.path("strongroom.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        let secrets = "[job.orders.secrets]\nCANARY = { env = \"CANARY_SOURCE\" }\n";
        std::fs::write(&path, format!("{config}\n{secrets}")).unwrap();
        for flags in [&[][..], &["-vv"], &["--output", "json"], &["--dry-run"]] {
            let output = relay.run(&[&["backup", "orders"], flags].concat());
            output.check_code(i32::from(end != "echo data"));
            check_no_canary("standard output", output.stdout.as_bytes());
            check_no_canary("standard error", output.stderr.as_bytes());
        }
        relay.run(&["show", "orders", "latest"]);
        for file in files(relay.sandbox.dir()).unwrap() {
            check_no_canary(&file.display().to_string(), &std::fs::read(&file).unwrap());
        }
        let said = std::fs::read_to_string(&proven).unwrap();
        assert!([CANARY, CANARY_IN_URL, CANARY_IN_BASE64].iter().all(|form| said.contains(form)), "{said}");
    }
}

// A session as a person sees it.

/// [`Output::shown`] without what this machine has (memory, disk, its name, its key) and without what age
/// makes of random length: the header of each segment.
fn shown(output: &Output) -> String {
    let table = [
        (r"[\d.]+ [KMGT]iB (available of|free at)", "<size> $1"),
        (r"available of [\d.]+ [KMGT]iB", "available of <size>"),
        (r"srhost1-[A-Za-z0-9_-]{43}", "<host key>"),
        (r"(?m)^(host: +)[^,]+,", "$1<machine>,"),
        (r"(on this machine: ).*", "$1<version>"),
        (r"\b(33[67]|67[234])\.\d KiB", "<at rest>"),
        (r"stored offset \d+", "stored offset <n>"),
    ];
    table.iter().fold(output.shown(), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    })
}

#[test]
fn a_session_from_the_first_backup_to_a_restore_reads_like_this() {
    let relay = Relay::new(Setup { settings: "artifacts = [\"orders\", \"customers\"]".into(), ..Setup::default() });
    for (name, args) in [
        ("store-init", &["store", "init", "main"][..]),
        ("store-check", &["store", "check", "main"]),
        ("config-check", &["config", "check"]),
        ("list-nothing", &["list"]),
        ("dry-run", &["backup", "orders", "--dry-run"]),
        ("backup", &["backup", "orders"]),
        ("verify", &["verify", "orders"]),
        ("verify-stored", &["verify", "orders", "--depth", "stored"]),
        ("list", &["list"]),
        ("show", &["show", "orders", "latest"]),
        ("restore-plan", &["restore", "orders", "latest", "--plan"]),
        ("restore", &["restore", "orders", "latest"]),
        ("diagnose", &["diagnose", "orders"]),
    ] {
        insta::assert_snapshot!(format!("session-{name}"), shown(&relay.run(args)));
    }
}

#[test]
fn a_session_in_which_everything_goes_wrong_reads_like_this() {
    let relay = Relay::new(Setup::default());
    let fails = Setup { produce: sh("head -c 3000000 /dev/zero; echo 'disk on fire' >&2; exit 3"), ..Setup::default() };
    relay.configure(&fails);
    insta::assert_snapshot!("trouble-backup", shown(&relay.run(&["backup", "orders"])));
    relay.configure(&Setup { settings: "artifacts = [\"a\", \"b\"]".into(), ..Setup::default() });
    let id = relay.backup();
    let stopped = relay.run(&["restore", "orders", &id, "--option", "fail_after=1"]);
    insta::assert_snapshot!("trouble-restore", shown(&stopped));
    let segment: PathBuf = relay.segments(&id)[0].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&segment).unwrap();
    std::fs::write(&segment, bytes).unwrap();
    insta::assert_snapshot!("trouble-verify", shown(&relay.run(&["verify", "orders"])));
    let unreadable = relay.run(&["restore", "orders", &id]);
    insta::assert_snapshot!("trouble-damaged", shown(&unreadable));
}
