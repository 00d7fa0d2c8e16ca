//! The private scratch directory of a plugin with WASI: used well, filled up, and left behind.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use strongroom_tests::relay::sha256;
use strongroom_tests::{Sandbox, plugin, wait_until};

/// A sandbox whose job `shop` does `deed` in a scratch directory of 8 MiB and 50 files.
fn sandbox(deed: &str, grant: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("store")).unwrap();
    sandbox.write("shop.txt", "order\n");
    configure(&sandbox, deed, grant);
    sandbox
}

fn configure(sandbox: &Sandbox, deed: &str, grant: &str) {
    let component = plugin("foreign/wasip2").unwrap_or_else(|error| panic!("{error:#}"));
    sandbox.config(&format!(
        r#"
[store.main]
type = "local"
path = "store"
encryption = "off"

[plugin.wasip2]
source = "{component}"
sha256 = "{digest}"

[plugin.wasip2.limits]
scratch_files = 50
scratch_open = 20

[plugin.wasip2.grant.artifacts]
{grant}

[plugin.wasip2.grant.exec.dump]
program = "/bin/cat"
args = ["{dir}/{{file}}"]
slots = {{ file = "shop[.]txt" }}
verbs = ["backup"]
effect = "reads"

[job.shop]
plugin = "wasip2"
store = "main"
settings = {{ do = "{deed}" }}
"#,
        component = component.display(),
        digest = sha256(&fs::read(&component).unwrap()),
        dir = sandbox.dir().display(),
    ));
}

const GRANT: &str = "[plugin.wasip2.grant.scratch]\nbytes = \"8MiB\"\nverbs = [\"backup\"]";

/// What is left of runs in the folder for scratch directories.
fn left(sandbox: &Sandbox) -> Vec<PathBuf> {
    fs::read_dir(sandbox.path("tmp")).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// The facts of a backup that was made.
#[track_caller]
fn facts(sandbox: &Sandbox) -> Vec<(String, String)> {
    let made = sandbox.run(["backup", "shop", "--output", "json"]).check_code(0).json();
    let id = made["id"].as_str().unwrap().to_owned();
    let shown = sandbox.run(["show", "shop", &id, "--output", "json"]).check_code(0).json();
    assert_eq!(left(sandbox), Vec::<PathBuf>::new());
    serde_json::from_value(shown["record"]["facts"].clone()).unwrap()
}

#[test]
fn a_scratch_directory_is_used_like_any_other_and_is_empty_again_in_the_next_run() {
    let sandbox = sandbox("use", GRANT);
    for _ in 0..2 {
        let facts = facts(&sandbox);
        for (key, value) in
            [("at first", ""), ("end", "two"), ("copy", "one two"), ("listed", "a,copy"), ("at last", "copy")]
        {
            assert!(facts.contains(&(key.to_owned(), value.to_owned())), "{key}: {facts:?}");
        }
    }
    let shown = sandbox.run(["audit", "show", "--output", "json"]);
    let text = &shown.check_code(0).stdout;
    for words in ["scratch.open", "plugin.wasip2.grant.scratch", "held 1.0 MiB at most"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let inspected = sandbox.run(["plugin", "inspect", "wasip2"]);
    inspected.check_code(0).check_stdout("a private scratch directory of at most 8.0 MiB and no other file");
}

#[test]
fn a_directory_that_no_run_opened_is_an_unused_grant_and_one_for_more_verbs_a_wide_one() {
    let unused = |sandbox: &Sandbox| {
        let json = sandbox.run(["audit", "unused", "--output", "json"]).check_code(0).json();
        let of = |one: &&serde_json::Value| one["rule"] == "plugin.wasip2.grant.scratch";
        let what = json["unused"].as_array().unwrap().iter().filter(of).map(|one| one["what"].to_string());
        (what.collect::<Vec<_>>(), json["toml"].as_str().unwrap().to_owned())
    };
    let wide = GRANT.replace("[\"backup\"]", "[\"backup\", \"restore\"]");
    let sandbox = sandbox("use", &wide);
    let (what, toml) = unused(&sandbox);
    assert_eq!(what, ["\"all of it\""]);
    assert!(!toml.contains("grant.scratch"), "{toml}");
    facts(&sandbox);
    let (what, toml) = unused(&sandbox);
    assert_eq!(what, ["\"verbs: restore\""]);
    assert!(toml.contains("[plugin.wasip2.grant.scratch]\nbytes = \"8MiB\"\nverbs = [\"backup\"]"), "{toml}");
    // What is left is what the same backup needs.
    configure(&sandbox, "use", GRANT);
    facts(&sandbox);
    assert_eq!(unused(&sandbox).0, Vec::<String>::new());
}

#[test]
fn without_a_grant_for_the_verb_there_is_no_directory() {
    for grant in ["", "[plugin.wasip2.grant.scratch]\nbytes = \"8MiB\"\nverbs = [\"restore\"]"] {
        let sandbox = sandbox("use", grant);
        let output = sandbox.run(["backup", "shop"]);
        output.check_code(1).check_stderr("plugin \"wasip2\" 0.1.0 reported: ");
        assert!(!output.stderr.contains("has used up"), "{}", output.stderr);
        assert_eq!(left(&sandbox), Vec::<PathBuf>::new());
    }
}

#[test]
fn nothing_outside_is_read_written_or_linked_to() {
    let sandbox = sandbox("escape", GRANT);
    let facts = facts(&sandbox);
    let tried: Vec<_> = facts.iter().filter(|(key, _)| key.contains(' ')).collect();
    assert_eq!(tried.len(), 15, "{facts:?}");
    assert!(tried.iter().all(|(_, said)| said.starts_with("refused")), "{facts:?}");
    assert!(!sandbox.path("tmp/own").exists());
}

#[test]
fn a_directory_that_is_full_is_the_error_of_the_run_and_names_what_is_spent() {
    for (deed, key) in [
        ("write", "grant.scratch.bytes"),
        ("append", "grant.scratch.bytes"),
        ("set-size", "grant.scratch.bytes"),
        ("hole", "grant.scratch.bytes"),
        ("files", "scratch_files"),
        ("deep", "scratch_files"),
        ("open", "scratch_open"),
    ] {
        let sandbox = sandbox(deed, GRANT);
        let output = sandbox.run(["backup", "shop"]);
        output.check_code(1).check_stderr("has used up its").check_stderr(key).check_stderr("[plugin.wasip2.");
        assert_eq!(left(&sandbox), Vec::<PathBuf>::new(), "{deed}");
        let shown = sandbox.run(["audit", "show", "--output", "json"]);
        assert!(shown.check_code(0).stdout.contains("has used up its"), "{deed}: the audit log says nothing of it");
    }
}

#[test]
fn what_a_trap_or_a_kill_leaves_is_removed_by_the_run_itself_or_by_the_next_one() {
    let sandbox = sandbox("trap", GRANT);
    sandbox.run(["backup", "shop"]).check_code(1).check_stderr("stopped in \"backup\"");
    assert_eq!(left(&sandbox), Vec::<PathBuf>::new());

    configure(&sandbox, "sleep", GRANT);
    let running = sandbox.strongroom(["backup", "shop"]).start().unwrap();
    let file = || {
        let found = left(&sandbox).into_iter().map(|path| path.join("left")).find(|path| path.exists());
        Ok(found.filter(|path| fs::read(path).is_ok_and(|text| text == b"left behind")))
    };
    let file = wait_until("the file of the plugin", Duration::from_secs(120), file).unwrap();
    // A run beside it neither sees nor removes it.
    let beside = sandbox.strongroom(["diagnose", "shop", "--output", "json"]).run();
    assert!(file.exists(), "{}", beside.stderr);
    running.signal(Signal::KILL).unwrap();
    running.finish(Duration::from_secs(60)).unwrap();
    assert!(file.exists());
    configure(&sandbox, "use", GRANT);
    // The dead run's lease is a lock of this machine, and free.
    facts(&sandbox);
    assert!(!file.exists());
}
