//! Fail points are in the binary of the tests and in no release, and every breakage has a test that notices.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;
use strongroom::failpoint::{Breakage, Point};
use strongroom_tests::{host_binary, root};
use xtask::promise::BREACHES;

/// Calls everything that the host calls, as the host does.
const PROGRAM: &str = r#"
#[path = "FILE"]
mod failpoint;

fn main() {
    failpoint::reach(failpoint::Point::RecordWritten);
    let usual = std::time::Duration::from_secs(60);
    println!("{} {:?}", failpoint::is_broken(failpoint::Breakage::SkipConfirm), failpoint::lease_duration(usual));
}
"#;

/// Every text by which a fail point could be told of or known.
fn texts() -> Vec<&'static str> {
    let names = Point::ALL.iter().map(|point| point.name()).chain(Breakage::ALL.iter().map(|one| one.name()));
    names.filter(|name| name.contains(['.', '-'])).chain(["STRONGROOM_FAIL", "STRONGROOM_BREAK"]).collect()
}

fn found_in(binary: &[u8]) -> BTreeSet<&'static str> {
    let texts = texts();
    let escaped: Vec<_> = texts.iter().map(|text| regex::escape(text)).collect();
    let any = regex::bytes::Regex::new(&escaped.join("|")).unwrap();
    let found: BTreeSet<_> = any.find_iter(binary).map(|found| found.as_bytes()).collect();
    texts.into_iter().filter(|text| found.contains(text.as_bytes())).collect()
}

#[test]
fn without_debug_assertions_a_fail_point_is_nothing_and_leaves_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("main.rs"), dir.path().join("program"));
    let file = root().join("host/src/failpoint.rs");
    std::fs::write(&source, PROGRAM.replace("FILE", file.to_str().unwrap())).unwrap();
    let rustc = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-A", "warnings", "-C", "debug-assertions=no", "-o"])
        .args([&program, &source])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(rustc.status.success(), "{}", String::from_utf8_lossy(&rustc.stderr));
    // What would kill it and break it, were it there.
    let output = Command::new(&program)
        .env("STRONGROOM_FAIL", "record.written=kill,lease=1")
        .env("STRONGROOM_BREAK", "skip-confirm")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "false 60s\n", "{output:?}");
    assert_eq!(found_in(&std::fs::read(&program).unwrap()), BTreeSet::new());
}

#[test]
fn the_binary_of_the_tests_has_them_and_a_release_is_built_without_what_they_need() {
    let found = found_in(&std::fs::read(host_binary().unwrap()).unwrap());
    assert!(found.contains("STRONGROOM_FAIL") && found.contains("record.written"), "{found:?}");
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    for (name, profile) in manifest["profile"].as_table().unwrap() {
        let has = profile.get("debug-assertions").is_some();
        assert!(!has, "[profile.{name}] sets debug-assertions: a release would have fail points, or tests none");
    }
}

#[test]
fn a_point_kills_stops_or_is_traced_and_what_is_misspelt_is_no_silent_success() {
    let sandbox = strongroom_tests::Sandbox::new();
    let trace = sandbox.path("trace");
    let show = |fail: &str| sandbox.strongroom(["key", "show"]).env("STRONGROOM_FAIL", fail).run();
    assert_eq!(show("key.flushed=kill").signal, Some(9));
    show(&format!("trace={}", trace.display())).check_code(0);
    assert_eq!(std::fs::read_to_string(trace).unwrap(), "key.flushed\nkey.named\n");
    std::fs::remove_file(sandbox.path("home/.local/state/strongroom/host.key")).unwrap();
    assert_ne!(show("key.flashed=kill").code, Some(0));
}

/// The rows of the table of promises, as the page must have them.
fn rows() -> String {
    let mut text = String::new();
    for breach in BREACHES {
        let breakage = Breakage::ALL.iter().find(|one| one.name() == breach.breakage);
        let about = breakage.map_or("", |one| one.about()).trim().trim_end_matches('.');
        let name = breach.test.rsplit("::").next().expect("a name");
        writeln!(text, "| {} | `{}`: {about} | `{}::{name}` |", breach.promise, breach.breakage, breach.file).unwrap();
    }
    text
}

#[test]
fn every_breakage_has_a_test_that_is_to_notice_it_and_stands_on_the_page() {
    let known: BTreeSet<_> = Breakage::ALL.iter().map(|breakage| breakage.name()).collect();
    let guarded: BTreeSet<_> = BREACHES.iter().map(|breach| breach.breakage).collect();
    assert_eq!(guarded, known, "xtask/src/promise.rs and host/src/failpoint.rs");
    let promises: BTreeSet<_> = BREACHES.iter().map(|breach| breach.promise).collect();
    assert!([1, 2, 3, 4, 5, 6, 7, 10].iter().all(|promise| promises.contains(promise)), "{promises:?}");
    for breach in BREACHES {
        let source = std::fs::read_to_string(root().join(breach.file)).unwrap_or_default();
        let name = breach.test.rsplit("::").next().expect("a name");
        assert!(source.contains(&format!("fn {name}(")), "{}::{name}", breach.file);
    }
    let page = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    assert!(page.contains(&rows()), "docs/reliability.md, section \"Promises\", must have these rows:\n{}", rows());
}
