//! The attack suite by the real binary: a hostile plugin that was approved does the worst that it can.
//! After each attack there is the refusal, a line of it in the audit log, nothing that is left behind, and
//! a next run that works.
//!
//! What each limit does by itself, and attacks that need no binary, are shown in
//! `host/src/plugin/tests/hostile.rs`; `docs/security.md` has the whole list.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use regex::Regex;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use strongroom::plugin::capability::CAPABILITIES;
use strongroom::plugin::manifest::SECTION;
use strongroom_tests::rogue::{Attack, LineOf, Rogue};
use strongroom_tests::{bomb, plugin, root, wait_until};

/// Every attack in turn, by one host.
#[track_caller]
fn check_all(attacks: &[Attack]) {
    let rogue = Rogue::new();
    for attack in attacks {
        rogue.check(attack);
    }
    rogue.check_log();
}

#[test]
fn what_eats_the_host_is_stopped_by_a_limit_and_the_host_goes_on() {
    let limit = |deed, limits, name: &'static [&'static str]| {
        Attack::new(deed, 1, name, LineOf("limit", "", name[0])).under(limits)
    };
    check_all(&[
        limit("loop", "cpu = \"200ms\"", &["\"cpu\"", "[plugin.rogue.limits] cpu = "]),
        limit("memory", "memory = \"32MiB\"", &["\"memory\""]),
        limit("flood-pipes", "open_streams = 10", &["\"open_streams\""]),
        limit("flood-handles", "handles = 100", &["\"handles\""]),
        limit("call-bytes", "", &["\"call_bytes\""]),
        Attack::new("flood-processes", 1, &["\"processes\""], LineOf("after", "exec.spawn", "limit"))
            .under("processes = 3"),
        limit("many-archives-one-limit", "archive_entries = 950", &["\"archive_entries\""]),
        Attack::new("facts", 1, &["\"facts\""], LineOf("end", "", "limit")),
    ]);
}

#[test]
fn a_guest_that_breaks_is_ended_alone() {
    let trap = |deed, says| Attack::new(deed, 1, says, LineOf("trap", "", ""));
    check_all(&[
        trap("trap", &["stopped in \"backup\""]),
        trap("panic", &["it panicked", "nothing works"]),
        trap("recurse", &["nest too deep"]),
        trap("huge-argument", &["stopped in \"backup\""]),
        trap("use-a-handle-twice", &["stopped in \"backup\""]),
        trap("trap", &["stopped in \"verify\""]).in_verb(&["verify", "latest"]),
        trap("trap", &["stopped in \"restore\""]).in_verb(&["restore", "latest"]),
        // The other checks of a diagnosis go on.
        Attack { code: 5, ..trap("trap", &["stopped in \"diagnose\""]).in_verb(&["diagnose"]) },
    ]);
}

#[test]
fn a_handle_of_an_earlier_run_is_none_however_it_was_carried_over() {
    let rogue = Rogue::new();
    // What a record keeps of a backup is told to the next one: here the number of a handle that it had.
    let deed = "handle-of-the-last-run";
    rogue.configure(deed, "", "program = \"/usr/bin/yes\"");
    let made = rogue.sandbox.run(["backup", "evil", "--output", "json"]);
    assert_eq!(made.check_code(0).json()["facts"][0]["name"], "handle", "{}", made.stdout);
    rogue.newest_chain();
    rogue.check(&Attack::new(deed, 1, &["stopped in \"backup\"", "handle index"], LineOf("trap", "", "handle index")));
    // What a plugin keeps in its own memory is not there in the next run of the same job.
    for _ in 0..2 {
        rogue.configure("handle-in-a-static", "", "program = \"/usr/bin/yes\"");
        let made = rogue.sandbox.run(["backup", "evil", "--output", "json"]).check_code(0).json();
        assert_eq!(made["facts"][0]["value"], "empty", "{made}");
        rogue.newest_chain();
    }
    rogue.check_serves(deed);
    rogue.check_log();
}

#[test]
fn a_guest_that_is_slow_on_purpose_is_stopped_by_time() {
    let wall = |deed| {
        Attack::new(deed, 1, &["\"wall_clock\""], LineOf("limit", "", "\"wall_clock\"")).under("wall_clock = \"2s\"")
    };
    check_all(&[
        // Always some progress, never an end.
        wall("drip"),
        wall("nap-with-a-process"),
        wall("sleep"),
        // A call for each byte costs the guest's own time.
        Attack::new("nibble", 1, &["\"cpu\""], LineOf("limit", "", "\"cpu\"")).under("cpu = \"300ms\""),
        // No progress at all.
        Attack::new("wait-for-endless", 1, &["made no progress"], LineOf("after", "storage.put", ""))
            .under("stall = \"1s\"")
            .with_endless("program = \"/bin/sleep\"\nargs = [\"600\"]"),
    ]);
}

#[test]
fn waits_that_only_the_guest_could_end_and_work_that_it_leaves_behind_make_no_backup() {
    let waits = |deed| Attack::new(deed, 2, &["would never "], LineOf("closed", "", ""));
    let leaves = |deed| Attack::new(deed, 1, &["stored nothing"], LineOf("after", "storage.put", "cancelled"));
    check_all(&[
        waits("wait-for-own-pipe"),
        waits("fill-own-pipe"),
        waits("read-own-pipe"),
        waits("wait-with-output-in-hand"),
        waits("wait-for-filter-of-own-pipe"),
        waits("wait-for-tee-of-split-tee"),
        leaves("drop-transfer"),
        leaves("leave-transfer"),
        Attack::new("drop-sink", 1, &[], LineOf("after", "storage.put", "")),
        Attack::new("nothing", 1, &["stored nothing"], LineOf("end", "", "failed")),
    ]);
}

#[test]
fn what_is_not_granted_is_denied_and_written_down_whatever_it_looks_like() {
    let denied = |deed, function: &'static str| Attack::new(deed, 4, &["may not call"], LineOf("deny", function, ""));
    let all_refused = |deed, function| Attack::new(deed, 0, &[], LineOf("deny", function, ""));
    check_all(&[
        denied("spawn-unknown", "exec.spawn"),
        denied("spawn-slot", "exec.spawn"),
        all_refused("look-alike-commands", "exec.spawn"),
        all_refused("bad-slots", "exec.spawn"),
        all_refused("slots-beside", "exec.spawn"),
        all_refused("look-alike-labels", "storage.open-bucket"),
        denied("run-unseen", "exec.run"),
        denied("read-unseen", "bytes.source.read"),
        denied("read-unseen-tee", "bytes.source.read"),
        denied("bucket-unknown", "storage.open-bucket"),
        // Changes, where nothing may be changed.
        denied("bucket-write", "storage.bucket.write"),
        denied("bucket-overwrite", "storage.bucket.write"),
        denied("bucket-delete", "storage.bucket.delete"),
        denied("bucket-delete-version", "storage.bucket.delete"),
        denied("bucket-read-config", "storage.bucket.read-config"),
        denied("bucket-write-config", "storage.bucket.write-config"),
        denied("bucket-write", "storage.bucket.write").in_verb(&["restore", "latest", "--plan"]),
        // They wait for the process behind it: it ends by the refusal, or they would stall.
        Attack { code: 5, ..denied("put-endless", "storage.put").in_verb(&["diagnose"]) },
        denied("bucket-write-endless", "storage.bucket.write"),
        // A shell that the operator grants with a script of theirs takes no other one.
        denied("program-of-its-own", "exec.spawn")
            .with_endless("program = \"/bin/sh\"\nargs = [\"-s\"]\nstdin = { text = \"exit 0\\n\" }"),
        denied("pipe", "storage.put").in_verb(&["verify", "latest"]),
        denied("archive", "storage.create-archive").in_verb(&["restore", "latest"]),
        // Only the policy makes a denial.
        Attack::new("cry-denied", 1, &["reported: says who"], LineOf("end", "", "failed")),
    ]);
}

#[test]
fn keys_that_lead_out_of_a_bucket_reach_nothing() {
    let rogue = Rogue::new();
    rogue.check_serves("nothing");
    // What could not be read was promised and is missing: the backup says so.
    rogue.check(&Attack::new("read-bad-keys", 3, &["INCOMPLETE", "stolen-9"], LineOf("closed", "bucket", "")));
    let write = Attack::new("write-bad-keys", 0, &[], LineOf("deny", "storage.bucket.delete", ""));
    rogue.check(&write.in_verb(&["restore", "latest"]));
    // Whatever it managed to write has a plain name, and lies in the bucket.
    let outside = fs::read_dir(rogue.sandbox.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let known = ["data", "home", "outside.txt", "store", "strongroom.toml", "tmp"];
    assert_eq!(
        outside.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>(),
        known.map(String::from).into()
    );
    assert_eq!(fs::read_to_string(rogue.sandbox.path("data/one")).unwrap(), "first");
    assert_eq!(fs::read_link(rogue.sandbox.path("data/link")).unwrap().to_str(), Some(".."));
    rogue.check_log();
}

#[test]
fn what_a_guest_says_reaches_people_bounded_escaped_and_attributed() {
    let rogue = Rogue::new();
    let said = rogue.check(&Attack::new(
        "speak",
        1,
        &["plugin \"rogue\" 0.1.0 reported: \\u{1b}[2Jforged\\u{a}line"],
        LineOf("end", "", "failed"),
    ));
    assert!(!said.stderr.lines().any(|line| line.starts_with("line")), "a forged line in {}", said.stderr);
    let log = rogue.check(
        &Attack::new("log-flood", 1, &["\"log_bytes\""], LineOf("closed", "run", "")).under("log_bytes = \"1KiB\""),
    );
    assert!(log.stderr.matches("log_bytes").count() == 1, "said once: {}", log.stderr);
    assert!(log.stderr.len() < 8 << 10, "{} bytes", log.stderr.len());
    // A message of 100 kB, a hundred fields, twenty thousand stages.
    let words = rogue.check(&Attack::new("words-as-a-channel", 0, &[], LineOf("closed", "run", "")));
    assert!(words.stdout.len() + words.stderr.len() < 64 << 10, "{} bytes", words.stderr.len());
    let longest = words.stderr.lines().map(str::len).max().unwrap();
    assert!(longest < 4 << 10, "a line of {longest} bytes");
    rogue.check_log();
}

#[test]
fn names_are_a_narrow_channel_with_a_count_and_a_length() {
    let rogue = Rogue::new();
    let names = Attack::new("names-as-a-channel", 1, &["\"artifacts\""], LineOf("after", "storage.put", "limit"));
    rogue.check(&names.under("artifacts = 5"));
    rogue.check(&Attack::new("look-alike-names", 1, &["stored nothing"], LineOf("after", "storage.put", "invalid")));
    rogue.check(&Attack::new("bad-name", 2, &["artifact name"], LineOf("after", "storage.put", "invalid")));
    // A name is taken once: nothing is written over, and the first one is what is recorded.
    rogue.check(&Attack::new("overwrite", 0, &[], LineOf("after", "storage.put", "conflict")));
    rogue.check_log();
}

#[test]
fn an_artifact_of_one_command_is_never_fed_to_a_program_that_was_meant_for_anothers() {
    let rogue = Rogue::new();
    // Stored under the name that is expected, by another command than the one that is granted.
    rogue.configure("swap", "", "program = \"/usr/bin/yes\"");
    rogue.sandbox.run(["backup", "evil"]).check_code(0);
    let id = rogue.newest_chain()[0]["run"].as_str().unwrap().to_owned();
    rogue.configure("feed-swapped", "", "program = \"/usr/bin/yes\"");
    let fed = rogue.sandbox.run(["verify", "evil", &id, "--depth", "contents"]);
    fed.check_code(4).check_stderr("may not call exec.spawn").check_stderr("expected.sql");
    rogue.check_line(LineOf("deny", "exec.spawn", ""), "feed-swapped");
    rogue.check_nothing_left("feed-swapped");
    rogue.check_serves("feed-swapped");
    rogue.check_log();
}

#[test]
fn artifacts_of_another_job_are_out_of_reach() {
    let rogue = Rogue::new();
    rogue.configure("archive", "", "program = \"/usr/bin/yes\"");
    // Another job of the same plugin in the same store; what it has stored lies beside.
    let config = fs::read_to_string(rogue.sandbox.path("strongroom.toml")).unwrap();
    rogue.sandbox.config(&config.replace("[job.evil]", "[job.orders]"));
    rogue.sandbox.run(["backup", "orders"]).check_code(0);
    rogue.newest_chain();
    rogue.check_serves("the backup of another job");
    let other = Attack::new("other-job", 0, &[], LineOf("call", "storage.get", "not-found"));
    rogue.check(&other.in_verb(&["verify", "latest", "--depth", "contents"]));
    rogue.check(&other.in_verb(&["restore", "latest"]));
    rogue.check_log();
}

#[test]
fn entries_of_an_archive_that_may_not_be_seen_stay_unseen() {
    let rogue = Rogue::new();
    rogue.configure("archive", "", "program = \"/usr/bin/yes\"");
    rogue.sandbox.run(["backup", "evil"]).check_code(0);
    let id = rogue.newest_chain()[0]["run"].as_str().unwrap().to_owned();
    for deed in ["read-unseen-entry", "open-unseen-entry"] {
        for verb in [&["verify", "evil", &id, "--depth", "contents"][..], &["restore", "evil", &id]] {
            rogue.configure(deed, "", "program = \"/usr/bin/yes\"");
            rogue.sandbox.run(verb).check_error(4, &["may not call bytes.source.read"]);
            rogue.check_line(LineOf("deny", "bytes.source.read", ""), deed);
        }
        rogue.check_nothing_left(deed);
    }
    rogue.check_serves("what may not be seen");
    rogue.check_log();
}

#[test]
fn ctrl_c_ends_a_guest_that_never_calls_the_host_again() {
    let rogue = Rogue::new();
    rogue.check_serves("nothing");
    let recorded = rogue.records();
    for (deed, signal) in [
        ("spin-beside-a-process", Signal::INT),
        ("spin-beside-a-process", Signal::TERM),
        ("nap-with-a-process", Signal::INT),
    ] {
        let known: BTreeSet<_> = rogue.chains().into_iter().collect();
        let running = rogue.start(deed, "cpu = \"1h\"").unwrap();
        let begun = || {
            let new = rogue.chains().into_iter().find(|path| !known.contains(path));
            let text = new.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            let last = if deed.starts_with("spin") { "storage.put" } else { "exec.spawn" };
            Ok(text.contains(last).then_some(()))
        };
        wait_until("the guest has its process", Duration::from_secs(120), begun).unwrap();
        running.signal(signal).unwrap();
        // A guest that is in its own code is asked every 10 ms; a busy machine takes its time.
        let output = running.finish(Duration::from_secs(60)).unwrap();
        output.check_error(130, &["was stopped"]);
        let what = format!("{deed} and {signal:?}");
        assert_eq!(rogue.records(), recorded, "a backup was recorded by {what}");
        rogue.check_nothing_left(&what);
        rogue.check_line(LineOf("end", "", "cancelled"), &what);
        rogue.check_serves(&what);
        fs::remove_dir_all(rogue.sandbox.path("store/evil")).unwrap();
        rogue.check_serves(&what);
    }
    rogue.check_log();
}

/// A section of a component: its number, its length and what is in it.
fn section(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number][..], &length(content.len()), content].concat()
}

/// A number as WebAssembly writes lengths: seven bits in a byte, the least first.
fn length(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).unwrap());
    bytes
}

/// The section of a manifest with these bytes, which `plugin build` puts at the end.
fn manifest(content: &[u8]) -> Vec<u8> {
    section(0, &[&length(SECTION.len())[..], SECTION.as_bytes(), content].concat())
}

/// Every occurrence of `from` replaced by `to`, which is as long.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "no {from:?}");
    places.iter().for_each(|at| bytes[*at..at + to.len()].copy_from_slice(to.as_bytes()));
    bytes
}

#[test]
fn components_that_are_not_what_they_must_be_are_refused_with_a_line_even_when_they_were_approved() {
    /// The first bytes of every component.
    const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
    /// Number of the section that holds a component.
    const COMPONENT: u8 = 4;
    let whole = fs::read(plugin("guests/rogue").unwrap()).unwrap();
    let text = fs::read_to_string(root().join("tests/guests/rogue/plugin.toml")).unwrap();
    let bare = whole.strip_suffix(manifest(text.as_bytes()).as_slice()).expect("the manifest is the last section");
    let with = |text: &str| [bare, &manifest(text.as_bytes())].concat();
    let nested = section(COMPONENT, &[HEADER, &manifest(text.as_bytes())].concat());
    let without_exec = text.split("[[request.exec]]").next().unwrap();
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("a second manifest", [&whole[..], &manifest(text.as_bytes())].concat(), "has 2 sections"),
        ("a manifest in a nested component", [&whole[..], &nested].concat(), "nested part"),
        ("no manifest", bare.to_vec(), "no section"),
        ("a manifest that requests no command, and an import of exec", with(without_exec), "exec"),
        ("a manifest that is no text", [bare, &manifest(b"\xff\xfe")].concat(), "UTF-8"),
        ("a contract that is not there", with(&text.replace("[\"0.1\"]", "[\"9.9\"]")), "9.9"),
        (
            "an import that looks like ours",
            replaced(&whole, "strongroom:plugin/exec@0.1.0", "strongroom:plugin/exce@0.1.0"),
            "exce",
        ),
        (
            "exports that look like the verbs",
            replaced(&whole, "strongroom:plugin/component@0.1.0", "strongroom:plugin/componemt@0.1.0"),
            "component",
        ),
        ("cut in half", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "a core WebAssembly module"),
    ];
    let mut rogue = Rogue::new();
    for (what, bytes, says) in cases {
        rogue.replace(&bytes);
        rogue.configure("spawn", "", "program = \"/usr/bin/yes\"");
        let output = rogue.sandbox.run(["backup", "evil"]);
        assert!(matches!(output.code, Some(1 | 2 | 4)), "{what}: {output:#?}");
        assert!(output.stderr.contains(says), "{what}: no {says:?} in\n{}", output.stderr);
        let lines = rogue.newest_chain();
        let load = lines.iter().find(|line| line["event"] == "load").unwrap_or_else(|| panic!("{what}: {lines:#?}"));
        assert_eq!(load["sha256"], rogue.digest(), "{what}");
        assert!(load["outcome"] != "ok" && load["detail"].is_string(), "{what}: {load:#}");
        rogue.replace(&whole);
        rogue.check_serves(what);
    }
    rogue.check_log();
}

#[test]
fn a_table_that_grows_for_ever_ends_at_its_limit_and_the_host_goes_on() {
    let whole = fs::read(plugin("guests/rogue").unwrap()).unwrap();
    let bomb = bomb::growing_table(&whole);
    let mut rogue = Rogue::new();
    for limits in ["", "table_elements = 5000"] {
        rogue.replace(&bomb);
        rogue.configure("spawn", limits, "program = \"/usr/bin/yes\"");
        let output = rogue.sandbox.run(["backup", "evil"]);
        output.check_error(1, &["\"table_elements\"", "elements of one table", "[plugin.rogue.limits]"]);
        rogue.check_line(LineOf("limit", "", "\"table_elements\""), limits);
        rogue.check_nothing_left(limits);
        rogue.replace(&whole);
        rogue.check_serves(limits);
    }
    rogue.check_log();
}

/// `interface.function` of the rows of the page's table of functions.
fn functions_of_the_page() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let section = page.split("\n## Every function of the contract\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let name = Regex::new("`([a-z]+\\.[a-z.-]+)`").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| {
        let first = format!("`{}", row.split(" | ").next().unwrap());
        name.captures_iter(&first).map(|found| found[1].to_owned()).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_function_of_the_contract_has_an_attack_that_fails() {
    let named = functions_of_the_page();
    let distinct: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    assert_eq!(distinct.len(), named.len(), "a function has one row: {named:?}");
    // An interface whose functions are not built yet cannot be imported at all.
    let is_built = |interface: &str| root().join(format!("host/src/plugin/capability/{interface}.rs")).is_file();
    let built = CAPABILITIES.iter().filter(|capability| is_built(capability.interface));
    let contract: Vec<String> = built.map(|c| format!("{}.{}", c.interface, c.function)).collect();
    let missing: Vec<_> = contract.iter().filter(|name| !distinct.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "add an attack for each, and a row to docs/security.md: {missing:?}");
    let unknown: Vec<_> = named.iter().filter(|name| !contract.contains(name)).collect();
    assert!(unknown.is_empty(), "rows of docs/security.md that name no function that is built: {unknown:?}");
}
