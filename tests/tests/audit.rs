//! The audit log of real runs: what it says, what anchors it, and that a run which cannot write it down
//! does not happen.

use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_tests::documented::check_documented;
use strongroom_tests::documents::{Documents, Setup as DocumentsSetup};
use strongroom_tests::relay::{Relay, Setup, sh, sha256};
use strongroom_tests::{Sandbox, files, wait_until};

/// Where the log of a sandbox lies.
fn log_of(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("home/.local/state/strongroom/audit")
}

/// The files of chains, oldest first.
fn chains(sandbox: &Sandbox) -> Vec<PathBuf> {
    files(&log_of(sandbox).join("runs")).unwrap_or_default()
}

/// The lines that `audit show` gives.
#[track_caller]
fn show(sandbox: &Sandbox, more: &[&str]) -> Vec<Value> {
    let output = sandbox.run([&["audit", "show", "--output", "json", "--last", "100000"], more].concat());
    let json = output.check_code(0).json();
    check_documented(&json, "AuditLines");
    assert_eq!(json["unread"], 0);
    json["lines"].as_array().unwrap().clone()
}

fn words(lines: &[Value], key: &str) -> Vec<String> {
    lines.iter().map(|line| line[key].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn check_whole(sandbox: &Sandbox, more: &[&str]) -> Value {
    let output = sandbox.run([&["audit", "verify", "--output", "json"], more].concat());
    let json = output.check_code(0).json();
    check_documented(&json, "AuditVerified");
    json
}

/// The log is not as it was written: exit code 5, and this file (and line) is named.
#[track_caller]
fn check_bad(sandbox: &Sandbox, more: &[&str], file: &Path, line: Option<u64>) {
    let output = sandbox.run([&["audit", "verify", "--output", "json"], more].concat());
    let json = output.check_code(5).json();
    check_documented(&json, "AuditVerified");
    let found = json["findings"].as_array().unwrap().iter().any(|finding| {
        finding["file"] == file.display().to_string() && line.is_none_or(|line| finding["line"] == line)
    });
    assert!(found, "{} {line:?}: {json:#}", file.display());
    sandbox.run([&["audit", "verify"], more].concat()).check_code(5).check_stdout("bad: ");
}

#[test]
fn a_backup_leaves_a_chain_that_says_what_was_done_and_its_record_anchors_it() {
    let relay = Relay::new(Setup { produce_more: "env = { COLOUR = \"green\" }".into(), ..Setup::default() });
    let id = relay.backup();
    let lines = show(&relay.sandbox, &[&id]);
    let events = words(&lines, "event");
    let at = |event: &str, function: &str| {
        lines
            .iter()
            .position(|line| line["event"] == event && line["function"] == function)
            .unwrap_or_else(|| panic!("no {event} of {function}: {lines:#?}"))
    };
    assert_eq!(events[..3], ["begin", "configuration", "load"], "{events:?}");
    assert_eq!(events[events.len() - 2..], ["anchor", "end"], "{events:?}");
    for function in ["exec.spawn", "storage.put"] {
        let (before, after) = (&lines[at("before", function)], &lines[at("after", function)]);
        assert_eq!((&before["decision"], &after["outcome"]), (&"allowed".into(), &"ok".into()));
        assert_eq!(after["before"], before["seq"]);
        assert!(after["duration_us"].is_number());
    }
    let spawn = &lines[at("before", "exec.spawn")];
    assert_eq!(spawn["rule"], "plugin.relay.grant.exec.produce");
    assert_eq!((&spawn["plugin"], &spawn["sha256"].as_str().unwrap().len()), (&"relay 1.2.3".into(), &64));
    let arguments: Vec<_> =
        spawn["arguments"].as_array().unwrap().iter().map(|a| format!("{}={}", a["name"], a["value"])).collect();
    assert_eq!(
        arguments,
        [
            r#""command"="produce""#,
            r#""program"="/bin/sh""#,
            r#""argument"="-c""#,
            r#""argument"="seq 1 300000""#,
            r#""variable"="COLOUR=green""#
        ]
    );
    assert_eq!(lines[at("after", "storage.put")]["bytes"], 1_988_895);
    assert_eq!(lines[at("closed", "process")]["outcome"], "exit 0");
    assert_eq!(lines.last().unwrap()["outcome"], "ok");

    let shown = relay.run(&["show", "orders", &id, "--output", "json"]);
    let text = shown.check_code(0).stdout.clone();
    let anchor = &lines[lines.len() - 2];
    assert!(
        text.contains("\"audit\"") && text.contains(lines.last().unwrap()["prev"].as_str().unwrap()),
        "{anchor} {text}"
    );
    let verified = check_whole(&relay.sandbox, &["--store", "main"]);
    assert_eq!((&verified["records"], &verified["runs"][0]["state"]), (&1.into(), &"ended".into()));
}

#[test]
fn every_verb_has_a_chain_and_lines_are_found_by_what_they_tell() {
    let relay = Relay::new(Setup::default());
    let id = relay.backup();
    for args in [
        &["verify", "orders"][..],
        &["restore", "orders", "latest"],
        &["diagnose", "orders"],
        &["backup", "orders", "--dry-run"],
    ] {
        relay.run(args).check_code(0);
    }
    let begins: Vec<_> = show(&relay.sandbox, &[]).into_iter().filter(|line| line["event"] == "begin").collect();
    assert_eq!(words(&begins, "verb"), ["backup", "verify", "restore", "diagnose", "backup"]);
    let of = |more: &[&str]| show(&relay.sandbox, more);
    let all = of(&[]).len();
    assert_eq!(of(&["--job", "orders"]).len(), all);
    assert_eq!(of(&["--job", "others"]).len(), 0);
    assert_eq!(of(&["--plugin", "relay"]).len(), of(&["--plugin", "relay 1.2.3"]).len());
    assert_eq!(of(&["--plugin", "rel"]).len(), 0);
    assert!(of(&["--function", "exec.spawn"]).iter().all(|line| line["function"] == "exec.spawn"));
    assert!(of(&["--function", "exec"]).len() > of(&["--function", "exec.spawn"]).len());
    assert_eq!(of(&["--decision", "denied"]).len(), 0);
    assert_eq!(of(&["--since", "1h"]).len(), all);
    assert_eq!(of(&["--until", "1h"]).len(), 0);
    assert_eq!(of(&["--since", "2001-01-01", "--until", "2001-01-02T00:00:00Z"]).len(), 0);
    assert!(of(&[&id[..24]]).iter().all(|line| line["run"] == id.as_str()));
    let last = relay.run(&["audit", "show", "--last", "3"]);
    last.check_code(0).check_stdout("earlier line(s) are left out");
    assert_eq!(last.stdout.lines().count(), 5, "{}", last.stdout);
    relay.run(&["audit", "show", "--since", "soon"]).check_code(2).check_stderr("expected a date");
    relay.run(&["audit", "verify", "2001"]).check_code(1).check_stderr("no run \"2001\"");
    assert_eq!(check_whole(&relay.sandbox, &[&id])["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn what_somebody_changed_or_removed_is_named_and_all_of_it_gone_is_missed_by_the_store() {
    let relay = Relay::new(Setup::default());
    relay.backup();
    relay.backup();
    let path = chains(&relay.sandbox)[0].clone();
    let kept = std::fs::read(&path).unwrap();
    let text = String::from_utf8(kept.clone()).unwrap();
    let line = 1 + text[..text.find("exec.spawn").unwrap()].matches('\n').count() as u64;
    std::fs::write(&path, text.replacen("exec.spawn", "exec.spawm", 1)).unwrap();
    check_bad(&relay.sandbox, &[], &path, Some(line));
    let without: String =
        text.lines().enumerate().filter(|(n, _)| *n as u64 + 1 != line).map(|(_, l)| format!("{l}\n")).collect();
    std::fs::write(&path, without).unwrap();
    check_bad(&relay.sandbox, &[], &path, Some(line));
    std::fs::remove_file(&path).unwrap();
    check_bad(&relay.sandbox, &[], &path, None);
    std::fs::write(&path, &kept).unwrap();
    check_whole(&relay.sandbox, &["--all"]);

    // A copy, for somebody who has the public key only.
    let key = relay.run(&["key", "show"]).check_code(0).stdout.trim().to_owned();
    let copy = log_of(&relay.sandbox).display().to_string();
    let elsewhere = Sandbox::new();
    check_whole(&elsewhere, &["--copy", &copy, "--signer", &key]);
    std::fs::write(&path, text.replacen("exec.spawn", "exec.spawm", 1)).unwrap();
    check_bad(&elsewhere, &["--copy", &copy, "--signer", &key], &path, Some(line + 1));

    std::fs::remove_dir_all(log_of(&relay.sandbox)).unwrap();
    check_whole(&relay.sandbox, &[]);
    check_bad(&relay.sandbox, &["--store", "main"], &path, None);
}

#[test]
fn killed_in_the_middle_the_log_says_so_and_goes_on() {
    let relay = Relay::new(Setup::default());
    let marker = relay.sandbox.path("begun");
    relay
        .configure(&Setup { produce: sh(&format!("echo > {}; exec sleep 603", marker.display())), ..Setup::default() });
    let running = relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    wait_until("the producer", Duration::from_secs(60), || Ok(marker.exists().then_some(()))).unwrap();
    assert_eq!(check_whole(&relay.sandbox, &[])["runs"][0]["state"], "running");
    running.signal(Signal::KILL).unwrap();
    assert!(running.finish(Duration::from_secs(30)).unwrap().signal.is_some());
    assert_eq!(check_whole(&relay.sandbox, &[])["runs"][0]["state"], "killed");
    let events = words(&show(&relay.sandbox, &[]), "event");
    assert!(events.contains(&"before".to_owned()), "what was about to be done is on the disk: {events:?}");

    relay.configure(&Setup::default());
    relay.backup();
    let lines = show(&relay.sandbox, &[]);
    let crash = lines.iter().find(|line| line["event"] == "crash").unwrap();
    assert_eq!(crash["outcome"], "killed");
    let verified = check_whole(&relay.sandbox, &["--store", "main"]);
    let mut states = words(verified["runs"].as_array().unwrap(), "state");
    states.sort();
    assert_eq!(states, ["ended", "killed"]);
}

#[test]
fn a_log_that_is_taken_away_ends_the_run_which_names_its_file() {
    let relay = Relay::new(Setup::default());
    let runs = log_of(&relay.sandbox).join("runs");
    let script = format!("rm {}/*.jsonl; seq 1 1000", runs.display());
    relay.configure(&Setup { produce: sh(&script), ..Setup::default() });
    let output = relay.run(&["backup", "orders"]);
    output.check_code(1).check_stderr("audit log").check_stderr(&runs.display().to_string()).check_stderr("gone");
    assert_eq!((relay.listed(), relay.stored()), (Vec::new(), Vec::new()));
}

#[test]
fn on_a_full_disk_nothing_is_done_that_is_not_written_down() {
    let artifacts: Vec<String> = (0..14).map(|n| format!("\"part-{n}\"")).collect();
    let settings = format!("artifacts = [{}]", artifacts.join(", "));
    let setup = Setup { produce: sh("echo small"), settings, ..Setup::default() };
    let relay = Relay::new(setup.clone());
    relay.backup();
    // From its first command on, no file of the host may grow beyond 8 KiB, as on a disk that is full: the
    // kernel refuses the rest.
    let full = sh("prlimit --pid $PPID --fsize=8192 && echo small");
    relay.configure(&Setup { produce: full, ..setup.clone() });
    let program = strongroom_tests::host_binary().unwrap();
    let script = format!("trap '' XFSZ; exec {} backup orders", program.display());
    let output = relay.sandbox.command("/bin/sh", ["-c", &script]).run();
    output.check_code(1);
    for says in ["could not write the audit log", "runs/", "File too large"] {
        output.check_stderr(says);
    }
    assert_eq!(relay.listed().len(), 1);
    let left = chains(&relay.sandbox);
    assert_eq!(left.len(), 2);
    // The chain has no half line, and the next run closes it.
    check_whole(&relay.sandbox, &["--store", "main"]);
    relay.configure(&setup);
    relay.backup();
    check_whole(&relay.sandbox, &["--store", "main"]);
}

#[test]
fn what_was_denied_refused_approved_or_over_a_limit_has_its_line() {
    let setup = || Setup {
        produce: vec!["/bin/echo".into(), "VALUE".into()],
        produce_more: "slots = { value = \"[a-z]+\" }".into(),
        settings: "value = \"postgres://app:hunter2hunter2@db/x\"".into(),
        ..Setup::default()
    };
    let relay = Relay::new(setup());
    let path = relay.sandbox.path("strongroom.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"VALUE\"", "\"{value}\"");
    std::fs::write(&path, &text).unwrap();
    relay.run(&["backup", "orders"]).check_code(4);
    let denied = show(&relay.sandbox, &["--decision", "denied"]);
    assert_eq!(words(&denied, "event"), ["deny"]);
    assert_eq!(words(&denied, "rule"), ["plugin.relay.grant.exec.produce"]);
    let slot = &denied[0]["arguments"][1];
    assert_eq!((&slot["name"], slot["value"].is_null(), slot["hash"].is_string()), (&"slot.value".into(), true, true));

    let digest = text.split("sha256 = \"").nth(1).unwrap()[..64].to_owned();
    std::fs::write(&path, text.replace(&digest, &"0".repeat(64))).unwrap();
    relay.run(&["backup", "orders"]).check_code(4);
    let refused = show(&relay.sandbox, &["--decision", "denied"]);
    assert_eq!(words(&refused, "event"), ["deny", "load"]);
    assert_eq!(refused[1]["sha256"], digest.as_str(), "the digest of what was there");
    relay.run(&["plugin", "approve", "relay", "--digest", &digest]).check_code(0);
    let approved: Vec<_> = show(&relay.sandbox, &[]).into_iter().filter(|line| line["event"] == "approve").collect();
    assert_eq!(words(&approved, "sha256"), [digest.as_str()]);

    let limits = "wall_clock = \"1s\"".to_owned();
    relay.configure(&Setup { produce: sh("exec sleep 604"), limits, ..Setup::default() });
    relay.run(&["backup", "orders"]).check_code(1).check_stderr("wall_clock");
    let lines = show(&relay.sandbox, &[]);
    let limit = lines.iter().find(|line| line["event"] == "limit").unwrap();
    assert!(limit["detail"].as_str().unwrap().contains("wall_clock"), "{limit}");
    let changed: Vec<_> = lines.iter().filter(|line| line["event"] == "configuration").collect();
    assert_eq!(changed.len(), 3, "each change once: {changed:#?}");
    assert!(changed[1]["detail"].as_str().unwrap().ends_with(": plugin.relay.sha256"), "{changed:#?}");
    check_whole(&relay.sandbox, &[]);
}

/// The arguments of a line as `name=value`.
fn arguments(line: &Value) -> Vec<String> {
    let shown = |one: &Value| format!("{}={}", one["name"].as_str().unwrap(), one["value"].as_str().unwrap_or("?"));
    line["arguments"].as_array().map(|all| all.iter().map(shown).collect()).unwrap_or_default()
}

#[test]
fn the_log_says_under_which_ceilings_and_signatures_a_plugin_was_loaded_or_refused() {
    let relay = Relay::new(Setup { produce: sh("echo data"), ..Setup::default() });
    let ceiling = |name: &str, text: &str| {
        let path = relay.sandbox.write(name, text);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        (path.display().to_string(), sha256(text.as_bytes()))
    };
    let (any, digest) = ceiling("any.toml", "exec = \"any\"\nartifacts = \"any\"\nbucket = \"any\"\n");
    relay.run(&["backup", "orders", "--ceiling", &any]).check_code(0);
    let loads =
        || -> Vec<Value> { show(&relay.sandbox, &[]).into_iter().filter(|line| line["event"] == "load").collect() };
    assert_eq!(arguments(&loads()[0]), ["signature=not checked".to_owned(), format!("ceiling={any} sha256 {digest}")]);

    // A signature, and the key that made it.
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let source = config.split("source = \"").nth(1).unwrap().split('"').next().unwrap();
    std::fs::copy(source, relay.sandbox.path("relay.wasm")).unwrap();
    let keygen = relay.run(&["plugin", "keygen", "vendor", "--unencrypted", "--output", "json"]);
    let key = keygen.check_code(0).json();
    let [public, id] = ["public_key", "key_id"].map(|name| key[name].as_str().unwrap().to_owned());
    let config = config.replacen(source, "relay.wasm", 1);
    std::fs::write(&path, format!("signatures = \"required\"\ntrusted_keys = [\"{public}\"]\n{config}")).unwrap();
    relay.run(&["backup", "orders"]).check_code(4);
    relay.run(&["plugin", "sign", "relay.wasm", "--key", "vendor.key"]).check_code(0);
    relay.run(&["backup", "orders"]).check_code(0);
    std::fs::write(relay.sandbox.path("relay.wasm.minisig"), "nonsense").unwrap();
    relay.run(&["backup", "orders"]).check_code(2);
    let lines = loads();
    let outcomes = words(&lines, "outcome");
    assert_eq!(outcomes, ["ok", "denied", "ok", "invalid"], "{lines:#?}");
    assert!(lines[1]["detail"].as_str().unwrap().contains("is not signed"), "{:#}", lines[1]);
    assert!(arguments(&lines[2])[0].starts_with(&format!("signature=key {id} (")), "{:#}", lines[2]);
    assert!(lines[3]["detail"].as_str().unwrap().contains("not one of minisign"), "{:#}", lines[3]);

    // A ceiling that refuses what the configuration grants: with its digest and the grant.
    let (less, digest) = ceiling("less.toml", "artifacts = \"any\"\n");
    relay.run(&["backup", "orders", "--ceiling", &less]).check_code(2);
    let lines = loads();
    let last = lines.last().unwrap();
    assert_eq!((&last["decision"], &last["outcome"]), (&"denied".into(), &"denied".into()));
    assert!(arguments(last).contains(&format!("ceiling={less} sha256 {digest}")), "{last:#}");
    assert!(last["detail"].as_str().unwrap().contains("plugin.relay.grant.exec."), "{last:#}");
    // What is wrong for another reason is nobody's attempt at anything.
    std::fs::write(&path, "nonsense").unwrap();
    relay.run(&["backup", "orders", "--ceiling", &less]).check_code(2);
    assert_eq!(loads().len(), lines.len());
    check_whole(&relay.sandbox, &[]);
}

#[test]
fn verifying_stored_bytes_has_a_chain_although_no_plugin_runs() {
    let relay = Relay::new(Setup { produce: sh("echo data"), ..Setup::default() });
    let id = relay.backup();
    relay.run(&["verify", "orders", "--depth", "stored"]).check_code(0);
    let segment = relay.segments(&id).remove(0);
    std::fs::write(&segment, "damaged").unwrap();
    relay.run(&["verify", "orders", "--depth", "stored"]).check_code(5);
    let lines = show(&relay.sandbox, &[]);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<_>>();
    assert_eq!(words(&of("begin"), "verb"), ["backup", "verify-stored", "verify-stored"]);
    assert_eq!(words(&of("end"), "outcome"), ["ok", "ok", "ok"], "that something is damaged is what it found out");
    assert_eq!(of("load").len(), 1);
    // It uses no grant, and is no run in which one was not used.
    assert_eq!(relay.run(&["audit", "unused", "--output", "json"]).json()["runs"], "1 backup");
    check_whole(&relay.sandbox, &["--store", "main"]);
}

#[test]
fn what_a_line_costs_can_be_asked_for_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(["audit", "cost", "--rounds", "2", "--output", "json"]);
    let json = output.check_code(0).json();
    check_documented(&json, "AuditCost");
    assert_eq!(json["lines"], 1000);
    assert!((300..1200).contains(&json["line_bytes"].as_u64().unwrap()), "{json}");
    sandbox.run(["audit", "cost", "--rounds", "1"]).check_code(0).check_stdout("a line: ");
    let left = files(&sandbox.path("home/.local/state/strongroom")).unwrap_or_default();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn thousands_of_entries_are_a_few_lines_and_every_object_that_is_written_is_named() {
    // More than a run has lines of its own for, and than two lines may share.
    const N_OWN: usize = 1000;
    const N_FILES: usize = 2100;
    let documents = Documents::with(&DocumentsSetup::default());
    for n in 0..N_FILES {
        std::fs::write(documents.source().join(format!("{n}.txt")), n.to_string()).unwrap();
    }
    let id = documents.backup(0);
    let backup = show(&documents.sandbox, &[&id]);
    assert!(backup.len() < 20, "{} lines for {N_FILES} entries: {backup:#?}", backup.len());
    let calls = |function: &str| -> u64 {
        let counted = backup.iter().flat_map(|line| line["calls"].as_array().cloned().unwrap_or_default());
        counted.filter(|one| one["function"] == function).map(|one| one["calls"].as_u64().unwrap()).sum()
    };
    assert!(calls("storage.bucket.read") >= N_FILES as u64, "{backup:#?}");
    assert!(calls("storage.archive.add") >= N_FILES as u64, "{backup:#?}");

    documents.restore(&id, &[]).check_code(0);
    let lines = show(&documents.sandbox, &[]);
    let of = |event: &str| {
        let is = |line: &&Value| line["event"] == event && line["function"] == "storage.bucket.write";
        lines.iter().filter(is).collect::<Vec<_>>()
    };
    let (before, after) = (of("before"), of("after"));
    assert!(after.len() <= N_OWN + 4, "{} lines for {N_FILES} objects", after.len());
    let keys = |line: &&Value| -> Vec<String> {
        let all = line["arguments"].as_array().into_iter().flatten();
        all.filter(|argument| argument["name"] == "key")
            .map(|argument| argument["value"].as_str().unwrap().to_owned())
            .collect()
    };
    // By a line of its own, or by one that it shares with those that waited for the same flush.
    let mut named: Vec<String> = before.iter().flat_map(keys).collect();
    named.sort();
    let mut expected: Vec<String> = (0..N_FILES).map(|n| format!("{n}.txt")).collect();
    expected.sort();
    assert_eq!(
        named.iter().filter(|key| key.ends_with(".txt")).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    // The last of them point back at the first.
    let shared = after.iter().find(|line| line["calls"][0]["calls"] == 500).expect("a full one");
    let first = lines.iter().find(|line| line["seq"] == shared["before"] && line["run"] == shared["run"]).unwrap();
    assert!(first["detail"].as_str().unwrap().contains("name each before it is made"), "{first}");
    assert!(before.iter().any(|line| line["before"] == first["seq"]), "{first}");
    documents.run(&["audit", "show", "--last", "100000"]).check_code(0).check_stdout("500 x storage.bucket.write");
    check_whole(&documents.sandbox, &["--store", "main"]);
    // They are used grants like any other.
    let unused = documents.run(&["audit", "unused", "--output", "json"]).check_code(0).json();
    let found = |one: &&Value| one["rule"] == "plugin.bucket.grant.bucket.found";
    for one in unused["unused"].as_array().unwrap().iter().filter(found) {
        let what = one["what"].as_str().unwrap().replace("may: ", "");
        assert!(!what.split(", ").any(|word| word == "write" || word == "all of it"), "{unused:#}");
    }
}

#[test]
fn every_step_of_the_load_order_has_an_error_and_a_line_of_its_own() {
    let relay = Relay::cold(Setup { produce: sh("echo data"), ..Setup::default() });
    let path = relay.sandbox.path("strongroom.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let source = good.split("source = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let bytes = std::fs::read(&source).unwrap();
    let digest = sha256(&bytes);
    let keygen = relay.run(&["plugin", "keygen", "vendor", "--unencrypted", "--output", "json"]).check_code(0).json();
    let signed = format!("signatures = \"required\"\ntrusted_keys = [{}]\n", keygen["public_key"]);
    let here = good.replace(&source, "relay.wasm");
    let plugin = relay.sandbox.path("relay.wasm");
    let signature = relay.sandbox.path("relay.wasm.minisig");
    // What it is about, what is done to a good place, the configuration, and what is said and written.
    type Spoil<'a> = &'a dyn Fn();
    let nothing: Spoil<'_> = &|| {};
    let too_large: Spoil<'_> = &|| std::fs::File::create(&plugin).unwrap().set_len(128 << 20).unwrap();
    let no_text: Spoil<'_> = &|| std::fs::write(&signature, b"\xff\xfe").unwrap();
    let no_file: Spoil<'_> = &|| std::fs::create_dir(&signature).unwrap();
    let other: Spoil<'_> = &|| std::fs::write(&plugin, [&bytes[..], b"\0"].concat()).unwrap();
    let cut: Spoil<'_> = &|| std::fs::write(&plugin, &bytes[..bytes.len() / 2]).unwrap();
    let cut_digest = sha256(&bytes[..bytes.len() / 2]);
    let gone: Spoil<'_> = &|| std::fs::remove_file(&plugin).unwrap();
    let without = |part: &str| here.split_once(&format!("[plugin.relay.grant.{part}]")).unwrap().0.to_owned();
    let job = &here[here.find("[job.orders]").unwrap()..];
    let hurried = here.replace("[plugin.relay.limits]\n", "[plugin.relay.limits]\ncompile_time = \"1ms\"\n");
    let steps: [(&str, Spoil<'_>, String, &str); 10] = [
        ("there is no file", gone, here.clone(), "there is no plugin"),
        ("size", too_large, here.clone(), "larger than a component may be"),
        ("a signature that is no text", no_text, format!("{signed}{here}"), "is not text"),
        ("a signature that cannot be read", no_file, format!("{signed}{here}"), "could not read the signature"),
        ("revoked", nothing, format!("revoked = [\"{digest}\"]\n{here}"), "was revoked"),
        ("digest", other, here.clone(), "not the one that was approved"),
        ("signature", nothing, format!("{signed}{here}"), "is not signed"),
        ("what it is", cut, here.replace(&digest, &cut_digest), "could not load plugin"),
        ("grants", nothing, format!("{}\n{job}", without("artifacts")), "imports what it is granted nothing of"),
        ("compiled", nothing, hurried, "could not compile plugin"),
    ];
    let mut said = std::collections::BTreeSet::new();
    for (n, (step, spoil, config, says)) in steps.iter().enumerate() {
        std::fs::write(&plugin, &bytes).unwrap();
        if signature.is_dir() {
            std::fs::remove_dir(&signature).unwrap();
        } else if signature.exists() {
            std::fs::remove_file(&signature).unwrap();
        }
        spoil();
        std::fs::write(&path, config).unwrap();
        let output = relay.run(&["backup", "orders"]);
        assert_ne!(output.code, Some(0), "{step}");
        output.check_stderr(says);
        let loads: Vec<_> =
            show(&relay.sandbox, &["--job", "orders"]).into_iter().filter(|line| line["event"] == "load").collect();
        assert_eq!(loads.len(), n + 1, "one line for {step}: {loads:#?}");
        let line = loads.last().unwrap();
        assert!(line["detail"].as_str().unwrap().contains(says), "{step}: {line:#}");
        assert!(line["outcome"] != "ok" && line["decision"] == "denied", "{step}: {line:#}");
        // What was not read to its end has no digest.
        assert_eq!(line["sha256"].is_null(), n < 2, "{step}: {line:#}");
        assert!(said.insert(line["detail"].to_string()), "{step} says what another step says: {line:#}");
    }
    assert_eq!((relay.listed(), relay.stored()), (Vec::new(), Vec::new()));
    check_whole(&relay.sandbox, &[]);
}

#[test]
fn grants_that_nothing_used_are_listed_with_narrower_ones() {
    let relay = Relay::new(Setup::default());
    relay.backup();
    let output = relay.run(&["audit", "unused", "--output", "json"]);
    let json = output.check_code(0).json();
    check_documented(&json, "AuditUnused");
    assert_eq!(json["runs"], "1 backup");
    let rules = words(json["unused"].as_array().unwrap(), "rule");
    let unused = ["check", "consume", "query"].map(|name| format!("plugin.relay.grant.exec.{name}"));
    assert_eq!(rules, unused);
    let text = json["toml"].as_str().unwrap();
    assert!(text.contains("[plugin.relay.grant.exec.produce]") && !text.contains("consume"), "{text}");

    for args in [&["verify", "orders"][..], &["restore", "orders", "latest"], &["diagnose", "orders"]] {
        relay.run(args).check_code(0);
    }
    relay.run(&["audit", "unused"]).check_code(0).check_stdout("every grant was used");
    // The narrower grants are a configuration that makes the same backup.
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = config.split_once("[plugin.relay.grant.artifacts]").unwrap();
    let job = &rest[rest.find("[job.orders]").unwrap()..];
    std::fs::write(&path, format!("{head}\n{text}\n{job}")).unwrap();
    relay.backup();
    relay.run(&["verify", "orders"]).check_code(4);
}

/// The security section of the README shows a session: these are its commands and what they print.
#[test]
fn the_session_that_the_readme_shows_is_what_one_sees() {
    let readme = std::fs::read_to_string(strongroom_tests::root().join("README.md")).unwrap();
    let section = readme.split("\n## What plugins did\n").nth(1).expect("a section on the audit log");
    let session = section.split("```console\n").nth(1).expect("a session").split("```").next().unwrap();
    let relay = Relay::new(Setup { produce: sh("echo data"), ..Setup::default() });
    relay.backup();
    let mut shown = String::new();
    for line in session.lines().filter_map(|line| line.strip_prefix("$ strongroom ")) {
        let output = relay.run(&line.split(' ').collect::<Vec<_>>());
        let text = output.check_code(0).shown().replace("exit code 0\n--- stdout\n", "");
        shown.push_str(&format!("$ strongroom {line}\n{}", text.split("\n--- stderr").next().unwrap()));
        shown.push('\n');
    }
    let squeezed = |text: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).filter(|line| !line.is_empty()).collect()
    };
    assert_eq!(squeezed(session), squeezed(&shown), "README.md shows:\n{session}\nand it is:\n{shown}");
}
