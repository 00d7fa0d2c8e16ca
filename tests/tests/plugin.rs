//! Plugins through the command line: what is not one, what was not approved, what was not granted, and
//! how approving goes.

use strongroom_tests::documented::check_documented;
use strongroom_tests::relay::sha256;
use strongroom_tests::{Output, Sandbox, plugin, program};

/// The guest `relay`, as bytes.
fn relay() -> Vec<u8> {
    let path = plugin("guests/relay").unwrap_or_else(|error| panic!("{error:#}"));
    std::fs::read(path).unwrap()
}

/// Lines that a person wrote around those that `approve` writes.
const COMMENTS: [&str; 3] = ["# backups of the shop", "# the plugin of the shop", "plugin = \"shop\" # which one"];

/// A sandbox whose plugin `shop` is these bytes, approved as those with `digest`.
fn sandbox(component: &[u8], digest: &str, grants: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("shop.wasm", component);
    std::fs::create_dir(sandbox.path("store")).unwrap();
    sandbox.config(&format!(
        r#"# backups of the shop
[store.main]
type = "local"
path = "store"
encryption = "off"

# the plugin of the shop
[plugin.shop]
source = "shop.wasm"
{digest}
{grants}

[job.orders]
plugin = "shop" # which one
store = "main"
settings = {{ {settings} }}
"#,
        digest = if digest.is_empty() { String::new() } else { format!("sha256 = \"{digest}\"") },
    ));
    sandbox
}

/// The same with the digest of the bytes that are there.
fn approved(component: &[u8], grants: &str, settings: &str) -> Sandbox {
    sandbox(component, &sha256(component), grants, settings)
}

fn config_of(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap()
}

/// One error with this exit code that says each of these, and nothing in the store.
#[track_caller]
fn check_refused(sandbox: &Sandbox, output: &Output, code: i32, says: &[&str]) {
    output.check_code(code);
    for text in says {
        output.check_stderr(text);
    }
    let errors = output.stderr.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "one error: {}", output.stderr);
    assert_eq!(std::fs::read_dir(sandbox.path("store/orders")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_digest_that_does_not_match_is_denied_for_every_verb_and_says_how_to_approve() {
    let component = relay();
    let sandbox = sandbox(&component, &"0".repeat(64), "", "");
    for verb in [&["backup", "orders"][..], &["diagnose", "orders"], &["restore", "orders", "latest"]] {
        let says = ["not the one that was approved", &"0".repeat(64), &sha256(&component), "plugin approve shop"];
        check_refused(&sandbox, &sandbox.run(verb), 4, &says);
    }
}

#[test]
fn a_plugin_without_a_digest_was_never_approved() {
    let sandbox = sandbox(&relay(), "", "", "");
    check_refused(&sandbox, &sandbox.run(["backup", "orders"]), 4, &["was not approved", "plugin approve shop"]);
    let denied = sandbox.run(["audit", "show", "--decision", "denied", "--output", "json"]);
    let lines = denied.check_code(0).json()["lines"].as_array().unwrap().clone();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0]["sha256"], sha256(&relay()));
}

#[test]
fn what_is_not_a_component_is_said_and_by_which_file() {
    let component = relay();
    let half = &component[..component.len() / 2];
    let cases: [(&[u8], &str); 6] = [
        (b"#!/bin/sh\n", "not a WebAssembly component"),
        (b"", "not a WebAssembly component"),
        (b"\0asm\x01\0\0\0", "a core WebAssembly module, not a component"),
        (&component[..6], "not a WebAssembly component"),
        (half, "truncated"),
        (&component[..component.len() - 1], "truncated"),
    ];
    for (bytes, says) in cases {
        let sandbox = approved(bytes, "", "");
        check_refused(&sandbox, &sandbox.run(["backup", "orders"]), 2, &["plugin \"shop\"", says, "hint"]);
        let approve = sandbox.run(["plugin", "approve", "shop", "--print"]);
        check_refused(&sandbox, &approve, 2, &["plugin \"shop\"", says]);
        let inspect = sandbox.run(["plugin", "inspect", "./shop.wasm"]);
        check_refused(&sandbox, &inspect, 2, &["./shop.wasm", says]);
    }
}

#[test]
fn a_plugin_file_that_is_missing_is_named_with_what_to_do() {
    let sandbox = approved(&relay(), "", "");
    std::fs::remove_file(sandbox.path("shop.wasm")).unwrap();
    for verb in [&["backup", "orders"][..], &["plugin", "approve", "shop"], &["plugin", "inspect", "shop"]] {
        check_refused(&sandbox, &sandbox.run(verb), 2, &["shop.wasm", "plugin build"]);
    }
}

#[test]
fn an_import_that_is_not_granted_is_denied_and_the_lines_of_the_message_are_what_is_missing() {
    let component = relay();
    let settings = "value = \"/etc/passwd\"";
    let bare = approved(&component, "", settings);
    let refused = bare.run(["backup", "orders"]);
    check_refused(&bare, &refused, 4, &["plugin \"shop\"", "granted nothing of", "[plugin.shop.grant.artifacts]"]);
    let lines = refused.stderr.lines().skip_while(|line| !line.contains("missing:")).skip(1);
    let toml: Vec<&str> = lines.map(str::trim).take_while(|line| !line.starts_with("hint:")).collect();
    let copied = approved(&component, &toml.join("\n"), settings);
    copied.run(["config", "check"]).check_code(0);
    copied.run(["backup", "orders"]).check_code(0);
    copied.run(["verify", "orders"]).check_code(0);
    copied.run(["restore", "orders", "latest"]).check_code(0);
    copied.run(["diagnose", "orders"]).check_code(0);
}

#[test]
fn an_import_that_nobody_knows_is_refused_by_its_name() {
    let (known, unknown) = (b"strongroom:plugin/run@0.1.0", b"strongroom:plugin/rum@0.1.0");
    let mut component = relay();
    let mut n_replaced = 0;
    for at in 0..component.len() - known.len() {
        if component[at..].starts_with(known) {
            component[at..at + known.len()].copy_from_slice(unknown);
            n_replaced += 1;
        }
    }
    assert!(n_replaced > 0);
    let sandbox = approved(&component, "", "");
    let says = ["plugin \"shop\"", "strongroom:plugin/rum@0.1.0"];
    check_refused(&sandbox, &sandbox.run(["backup", "orders"]), 2, &says);
}

#[test]
fn settings_that_break_the_schema_are_named_by_their_path() {
    let grants = "[plugin.shop.grant.artifacts]\n[plugin.shop.grant.exec.produce]\nprogram = \"/bin/true\"\n\
                  verbs = [\"backup\"]\neffect = \"reads\"";
    for (settings, says) in [
        ("artifacts = \"one\"", ["settings.artifacts", "type array"]),
        ("artifacts = [\"one\", 2]", ["settings.artifacts[1]", "type string"]),
        ("tiny = 10001", ["settings.tiny", "at most 10000"]),
        ("artefacts = [\"one\"]", ["only keys of the schema", "artefacts"]),
    ] {
        let sandbox = approved(&relay(), grants, settings);
        let output = sandbox.run(["backup", "orders"]);
        check_refused(&sandbox, &output, 2, &["job \"orders\"", "plugin \"shop\"", says[0], says[1]]);
    }
}

/// Runs `plugin approve` on a terminal of its own and types `answers`.
fn approve_on_a_terminal(sandbox: &Sandbox, answers: &str) -> Output {
    let binary = strongroom_tests::host_binary().unwrap_or_else(|error| panic!("{error:#}"));
    let script = program("script").unwrap_or_else(|error| panic!("{error:#}"));
    let line = format!("'{}' plugin approve shop", binary.display());
    sandbox.command(script, ["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").stdin(answers).run()
}

/// What an operator reads before each question, so that no line of the request is unseen.
const ASKED: [&str; 6] = [
    "command \"check\"",
    "command \"consume\"",
    "command \"produce\"",
    "command \"query\"",
    "artifacts",
    "write exactly this",
];

#[test]
fn approving_on_a_terminal_asks_for_each_grant_and_keeps_every_comment() {
    let component = relay();
    let sandbox = sandbox(&component, "", "", "value = \"/etc/passwd\"");
    sandbox.run(["backup", "orders"]).check_code(4);
    let output = approve_on_a_terminal(&sandbox, "y\ny\ny\ny\ny\ny\ny\n");
    output.check_code(0);
    for text in ASKED {
        output.check_stdout(text);
    }
    output.check_stdout("takes the bytes of an artifact back").check_stdout("slot").check_stdout("approved");
    let written = config_of(&sandbox);
    assert!(written.contains(&sha256(&component)), "{written}");
    COMMENTS.iter().for_each(|line| assert!(written.contains(line), "{line:?} is lost: {written}"));
    sandbox.run(["backup", "orders"]).check_code(0);
    sandbox.run(["verify", "orders"]).check_code(0);
}

#[test]
fn what_is_not_granted_on_the_terminal_is_left_out_and_denied_later() {
    let sandbox = sandbox(&relay(), "", "", "value = \"/etc/passwd\"");
    // `consume`, the only one that changes something, is the second question.
    approve_on_a_terminal(&sandbox, "y\nn\ny\ny\ny\ny\ny\n").check_code(0);
    assert!(!config_of(&sandbox).contains("grant.exec.consume"));
    sandbox.run(["backup", "orders"]).check_code(0);
    let refused = sandbox.run(["restore", "orders", "latest"]);
    refused.check_code(4).check_stderr("\"consume\"").check_stderr("[plugin.shop.grant.exec.consume]");
}

#[test]
fn without_the_last_yes_nothing_is_written() {
    let sandbox = sandbox(&relay(), "", "", "");
    let before = config_of(&sandbox);
    approve_on_a_terminal(&sandbox, "y\ny\ny\ny\ny\ny\nn\n").check_code(130).check_stdout("nothing was written");
    // An empty answer is no.
    approve_on_a_terminal(&sandbox, "\n\n\n\n\n\n\n").check_code(130);
    assert_eq!(config_of(&sandbox), before);
}

#[test]
fn without_a_terminal_only_the_bytes_that_are_named_are_approved() {
    let component = relay();
    let sandbox = sandbox(&component, "", "", "value = \"/etc/passwd\"");
    let before = config_of(&sandbox);
    let digest = sha256(&component);
    let nobody = sandbox.run(["plugin", "approve", "shop"]);
    check_refused(&sandbox, &nobody, 4, &["not a terminal", &format!("plugin approve shop --digest {digest}")]);
    let other = sandbox.run(["plugin", "approve", "shop", "--digest", &"1".repeat(64)]);
    check_refused(&sandbox, &other, 4, &["--digest", &digest, &"1".repeat(64)]);
    assert_eq!(config_of(&sandbox), before);
    sandbox.run(["plugin", "approve", "shop", "--digest", &digest]).check_code(0);
    let after = config_of(&sandbox);
    COMMENTS.iter().for_each(|line| assert!(after.contains(line), "{line:?} is lost: {after}"));
    sandbox.run(["backup", "orders"]).check_code(0);
    sandbox.run(["plugin", "approve", "shop", "--digest", &digest]).check_code(0).check_stdout("approved already");
    assert_eq!(config_of(&sandbox), after);
}

#[test]
fn print_shows_a_patch_that_can_be_applied_and_writes_nothing() {
    let sandbox = sandbox(&relay(), "", "", "value = \"/etc/passwd\"");
    let before = config_of(&sandbox);
    let printed = sandbox.run(["plugin", "approve", "shop", "--print"]);
    printed.check_code(0).check_stdout("+[plugin.shop.grant.artifacts]").check_stdout("+sha256 = ");
    assert_eq!(config_of(&sandbox), before);
    sandbox.run(["backup", "orders"]).check_code(4);
    // What is not a line of the patch is a line of the file, in its order.
    let kept = printed.stdout.lines().filter(|line| !line.starts_with(['+', '-', '@']));
    let mut rest = before.lines();
    kept.for_each(|line| assert!(rest.any(|own| own == &line[1..]), "{line:?} is not in the file"));
}

#[test]
fn other_bytes_are_refused_until_they_are_approved_again() {
    let component = relay();
    let sandbox = sandbox(&component, "", "", "value = \"/etc/passwd\"");
    sandbox.run(["plugin", "approve", "shop", "--digest", &sha256(&component)]).check_code(0);
    sandbox.run(["backup", "orders"]).check_code(0);
    // A custom section at the end, named "x", with nothing in it: other bytes that mean the same.
    let mut next = component.clone();
    next.extend_from_slice(b"\0\x02\x01x");
    sandbox.write("shop.wasm", &next);
    sandbox.run(["backup", "orders"]).check_code(4).check_stderr("not the one that was approved");
    sandbox.run(["plugin", "approve", "shop", "--digest", &sha256(&component)]).check_code(4);
    sandbox.run(["plugin", "approve", "shop", "--digest", &sha256(&next)]).check_code(0);
    sandbox.run(["backup", "orders"]).check_code(0);
}

#[test]
fn a_program_that_is_not_installed_is_named_with_the_flag_that_says_where_it_is() {
    let component = relay();
    let mut sandbox = sandbox(&component, "", "", "value = \"/etc/passwd\"");
    let (digest, before) = (sha256(&component), config_of(&sandbox));
    let empty = sandbox.path("tmp");
    sandbox.set_env("PATH", &empty);
    let approve = ["plugin", "approve", "shop", "--digest", &digest];
    let says = ["no program \"cat\"", "makes the bytes of an artifact", "--program cat=/PATH"];
    check_refused(&sandbox, &sandbox.run(approve), 1, &says);
    assert_eq!(config_of(&sandbox), before);
    let named = ["--program", "cat=/bin/cat", "--program", "true=/bin/true"];
    sandbox.run(approve.iter().chain(&named)).check_code(0);
    sandbox.run(["backup", "orders"]).check_code(0);
    let relative = sandbox.run(approve.iter().chain(&["--program", "cat=bin/cat"]));
    relative.check_code(2).check_stderr("absolute path");
}

#[test]
fn inspection_as_json_is_as_documented_for_a_file_and_for_a_plugin_of_the_configuration() {
    let component = relay();
    let sandbox = sandbox(&component, "", "", "");
    let file = sandbox.run(["plugin", "inspect", "./shop.wasm", "--output", "json"]);
    let file = file.check_code(0).json();
    check_documented(&file, "Inspection");
    assert_eq!(file["sha256"], sha256(&component));
    assert_eq!(file["effective"], serde_json::Value::Null);
    let reasons = file["requests"].as_array().unwrap().iter().map(|request| request["reason"].as_str().unwrap());
    assert!(reasons.clone().count() == 5 && reasons.into_iter().all(|reason| !reason.is_empty()));

    let approval = sandbox.run(["plugin", "approve", "shop", "--digest", &sha256(&component), "--output", "json"]);
    check_documented(&approval.check_code(0).json(), "ShownApproval");
    let labelled = sandbox.run(["plugin", "inspect", "shop", "--output", "json"]);
    let labelled = labelled.check_code(0).json();
    check_documented(&labelled, "Inspection");
    assert_eq!(labelled["effective"].as_array().unwrap().len(), 5);
}
