//! The command as a process: exit codes, and what goes to which stream. Hermetic: no environment,
//! a home and a working directory of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

const GOOD: &str = "[store.disk]\ntype = \"local\"\npath = \"backups\"\nencryption = \"off\"\n";
const BAD: &str = "[store.disk]\ntype = \"local\"\npaht = \"backups\"\nencryption = \"off\"\n\n[job.a]\nplugin = \"p\"\nstore = \"disc\"\nschedule = \"daily\"\n";

/// A directory with this configuration, which only its owner can write.
fn scratch(config: Option<&str>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    if let Some(text) = config {
        let path = directory.path().join("strongroom.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    directory
}

#[expect(clippy::disallowed_methods, reason = "the host itself is what is started here")]
fn run(directory: &Path, arguments: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("HOME", directory.join("home"))
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error as one text.
fn whole(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    format!(
        "exit: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap()
    )
}

#[test]
fn a_good_configuration_is_summed_up() {
    insta::assert_snapshot!(whole(scratch(Some(GOOD)).path(), &["config", "check"]));
}

#[test]
fn a_good_configuration_as_json() {
    insta::assert_snapshot!(whole(scratch(Some(GOOD)).path(), &["config", "check", "--output", "json"]));
}

#[test]
fn a_wrong_configuration_shows_every_mistake_and_exits_with_2() {
    insta::assert_snapshot!(whole(scratch(Some(BAD)).path(), &["config", "check"]));
}

#[test]
fn a_wrong_configuration_as_json_has_the_place_of_every_mistake() {
    insta::assert_snapshot!(whole(scratch(Some(BAD)).path(), &["config", "check", "--output=json"]));
}

#[test]
fn a_missing_configuration_says_where_it_was_looked_for() {
    let directory = scratch(None);
    let shown = whole(directory.path(), &["config", "check"]).replace(&directory.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown);
    insta::assert_snapshot!(whole(directory.path(), &["--config", "missing.toml", "config", "check"]));
}

#[test]
fn a_configuration_that_others_can_write_is_refused_with_4() {
    let directory = scratch(Some(GOOD));
    let path = directory.path().join("strongroom.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = run(directory.path(), &["config", "check"]);
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("others can write") && stderr.contains("chmod go-w"), "{stderr}");
}

#[test]
fn a_verb_that_is_not_built_says_what_to_use_now() {
    let directory = scratch(None);
    insta::assert_snapshot!(whole(directory.path(), &["copy", "orders"]));
    insta::assert_snapshot!(whole(directory.path(), &["plugin", "push", "x", "--output", "json"]));
}

#[test]
fn a_wrong_command_line_exits_with_2_and_help_with_0() {
    let directory = scratch(None);
    for (arguments, code) in [
        (&["bakcup"][..], 2),
        (&["backup"], 2),
        (&["backup", "a", "--nonsense"], 2),
        (&[], 2),
        (&["--help"], 0),
        (&["restore", "--help"], 0),
        (&["--version"], 0),
    ] {
        let output = run(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(output.stdout.is_empty(), code == 2, "{arguments:?}: help goes to standard output, errors do not");
    }
    let output = run(directory.path(), &["backup", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["error"]["kind"]), (Some(2), &serde_json::json!("invalid")));
}

#[test]
fn the_schema_is_json_on_standard_output_alone() {
    let output = run(scratch(None).path(), &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["properties"]["store"]["type"], "object");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn completions_know_the_verbs_and_none_that_is_not_built() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(scratch(None).path(), &["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("approve"), "{shell}");
        assert!(!script.contains("serve"), "{shell}");
    }
}
