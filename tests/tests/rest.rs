//! What lies in the store: readable with standard tools, and every damage to it is found and named.

use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_tests::relay::{Relay, Setup, private, sh};
use strongroom_tests::{Sandbox, program, root, wait_until};

const PRODUCE: &str = "head -c 9000000 /dev/urandom; seq 1 2000000";
const SMALL_SEGMENTS: &str = "part_bytes = \"1MiB\"\nparts_per_segment = 4";

/// A relay whose artifact is of several segments, and its one backup.
fn several_segments() -> (Relay, String) {
    let relay = Relay::new(Setup { produce: sh(PRODUCE), store: SMALL_SEGMENTS.into(), ..Setup::default() });
    let id = relay.backup();
    assert!(relay.segments(&id).len() >= 3, "{:?}", relay.segments(&id));
    (relay, id)
}

fn key_of(relay: &Relay) -> String {
    let shown = relay.run(&["key", "show"]);
    let text = shown.check_code(0).stdout.clone();
    text.split_whitespace().find(|word| word.starts_with("srhost1-")).expect("a host key").to_owned()
}

fn recorded_digest(relay: &Relay, id: &str) -> String {
    let shown = relay.run(&["show", "orders", id, "--output", "json"]);
    shown.json()["record"]["artifacts"][0]["blake3"].as_str().expect("a digest").to_owned()
}

/// What the machine's own `b3sum` says.
fn b3sum(relay: &Relay, path: &Path) -> String {
    let tool = program("b3sum").unwrap_or_else(|error| panic!("{error:#}"));
    let output = relay.sandbox.command(tool, [path]).run();
    output.check_code(0).stdout.split_whitespace().next().expect("a digest").to_owned()
}

fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_backup_comes_back_byte_for_byte() {
    let (relay, id) = several_segments();
    let copy = relay.sandbox.path("copy");
    relay.configure(&Setup { consume: sh(&format!("cat > {}", copy.display())), ..Setup::default() });
    relay.run(&["verify", "orders", "latest", "--depth", "stored"]).check_code(0);
    relay.run(&["verify", "orders", &id, "--depth", "contents"]).check_code(0);
    relay.run(&["restore", "orders", &id]).check_code(0);
    assert_eq!(recorded_digest(&relay, &id), b3sum(&relay, &copy));
}

#[test]
fn a_backup_can_be_read_with_age_and_zstd_alone() {
    let (relay, id) = several_segments();
    let folder = relay.store().join("orders").join(&id);
    let (out, identity) = (relay.sandbox.path("by-hand"), relay.sandbox.path("identity.txt"));
    let script = root().join("tests/restore-by-hand.sh");
    let path = std::env::var("PATH").unwrap();
    let by_hand = || {
        let args: [&Path; 5] = [&script, &folder, Path::new("out"), &out, &identity];
        relay.sandbox.command("sh", args).env("PATH", &path).run()
    };
    by_hand().check_code(0);
    assert_eq!(recorded_digest(&relay, &id), b3sum(&relay, &out));
    std::fs::remove_file(&out).unwrap();
    // A last segment that is missing shows only against the record, so the script compares.
    std::fs::remove_file(relay.segments(&id).last().unwrap()).unwrap();
    assert_ne!(by_hand().code, Some(0));
}

/// `verify` at every depth must find it and name artifact and segment; `restore` hands nothing on as
/// whole that is not.
#[track_caller]
fn check_damage_is_named(relay: &Relay, id: &str, segment: &str) {
    for depth in ["stored", "contents"] {
        let output = relay.run(&["verify", "orders", id, "--depth", depth]);
        output.check_code(5);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("\"out\"") && said.contains(segment), "depth {depth}: {said}");
    }
    let copy = relay.sandbox.path("damaged-copy");
    let consume = sh(&format!("cat > {0}.tmp && mv {0}.tmp {0}", copy.display()));
    relay.configure(&Setup { consume, ..Setup::default() });
    let output = relay.run(&["restore", "orders", id]);
    assert!(matches!(output.code, Some(1 | 6)), "{output:?}");
    assert!(!copy.exists(), "a consumer never sees an end of what is damaged");
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let (relay, id) = several_segments();
    let segment = relay.segments(&id)[1].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(&segment, &bytes);
    check_damage_is_named(&relay, &id, "0002");
}

#[test]
fn a_truncated_segment_is_found_and_named() {
    let (relay, id) = several_segments();
    let segment = relay.segments(&id)[0].clone();
    let bytes = std::fs::read(&segment).unwrap();
    overwrite(&segment, &bytes[..bytes.len() - 1]);
    check_damage_is_named(&relay, &id, "0001");
}

#[test]
fn a_missing_segment_is_found_and_named() {
    let (relay, id) = several_segments();
    let segments = relay.segments(&id);
    std::fs::remove_file(segments.last().unwrap()).unwrap();
    check_damage_is_named(&relay, &id, &format!("{:04}", segments.len()));
}

#[test]
fn segments_that_were_swapped_are_found_and_named() {
    let (relay, id) = several_segments();
    let segments = relay.segments(&id);
    let (first, second) = (std::fs::read(&segments[0]).unwrap(), std::fs::read(&segments[1]).unwrap());
    overwrite(&segments[0], &second);
    overwrite(&segments[1], &first);
    check_damage_is_named(&relay, &id, "0001");
}

#[test]
fn a_segment_of_another_backup_is_found_and_named() {
    let (relay, id) = several_segments();
    let other = relay.backup();
    let foreign = std::fs::read(&relay.segments(&other)[0]).unwrap();
    overwrite(&relay.segments(&id)[0], &foreign);
    check_damage_is_named(&relay, &id, "0001");
    relay.run(&["verify", "orders", &other]).check_code(0);
}

#[test]
fn an_edited_record_is_listed_as_such_and_never_restored() {
    let (relay, id) = several_segments();
    let record = relay.store().join("orders").join(&id).join("record.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let edited = text.replace("\"outcome\": \"complete\"", "\"outcome\": \"incomplete\"");
    assert_ne!(text, edited);
    overwrite(&record, edited.as_bytes());
    let listed = relay.run(&["list", "orders", "--output", "json"]);
    assert_eq!(listed.json()["backups"], serde_json::json!([]));
    assert!(listed.json()["unreadable"][0]["reason"].as_str().unwrap().contains("not what was signed"));
    let output = relay.run(&["restore", "orders", &id, "--allow-incomplete"]);
    output.check_code(1).check_stderr("not what was signed");
}

#[test]
fn a_record_of_an_unknown_host_is_listed_and_restored_only_when_its_key_is_named() {
    let (relay, id) = several_segments();
    let key = key_of(&relay);
    std::fs::remove_dir_all(relay.sandbox.path("home/.local/state")).unwrap();
    let listed = relay.run(&["list", "orders"]);
    listed.check_code(0).check_stdout("unknown signer").check_stdout(&key);
    relay.run(&["restore", "orders", &id]).check_code(4).check_stderr("--trust-signer");
    relay.run(&["verify", "orders", "latest"]).check_code(1).check_stderr("not trusted");
    let other = "srhost1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    relay.run(&["restore", "orders", &id, "--trust-signer", other]).check_code(4);
    relay.run(&["restore", "orders", &id, "--trust-signer", &key]).check_code(0);
}

#[test]
fn a_wrong_or_missing_identity_is_said_and_stored_depth_needs_none() {
    use age::secrecy::ExposeSecret;
    let (relay, id) = several_segments();
    let identity = relay.sandbox.path("identity.txt");
    std::fs::remove_file(&identity).unwrap();
    relay.run(&["restore", "orders", &id]).check_code(2).check_stderr("identity");
    relay.run(&["verify", "orders", &id, "--depth", "stored"]).check_code(0);
    std::fs::write(&identity, "not an identity").unwrap();
    private(&identity);
    relay.run(&["restore", "orders", &id]).check_code(2).check_stderr("identity");
    std::fs::write(&identity, age::x25519::Identity::generate().to_string().expose_secret()).unwrap();
    relay.run(&["restore", "orders", &id]).check_code(4).check_stderr("identity");
}

#[test]
fn an_incomplete_backup_ends_with_3_and_is_restored_only_when_told() {
    let relay = Relay::new(Setup { settings: "skip = \"table secrets\"".into(), ..Setup::default() });
    let made = relay.run(&["backup", "orders", "--output", "json"]);
    made.check_code(3);
    assert_eq!(made.json()["outcome"], "incomplete");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    relay.run(&["list", "orders"]).check_code(0).check_stdout("incomplete");
    let refused = relay.run(&["restore", "orders", &id]);
    refused.check_code(4).check_stderr("table secrets").check_stderr("--allow-incomplete");
    // What was missing from the backup is still missing: that is what 3 says.
    relay.run(&["restore", "orders", &id, "--allow-incomplete"]).check_code(3).check_stdout("table secrets");
}

#[test]
fn a_restore_that_stops_half_way_ends_with_6_and_lists_what_was_done() {
    let relay = Relay::new(Setup { settings: "artifacts = [\"a\", \"b\", \"c\"]".into(), ..Setup::default() });
    let id = relay.backup();
    let output = relay.run(&["restore", "orders", &id, "--option", "fail_after=1"]);
    output.check_code(6);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(said.contains("half-way") && said.contains("the test said so"), "{said}");
    let plan = relay.run(&["restore", "orders", &id, "--plan"]);
    plan.check_code(0).check_stdout("planned");
}

#[test]
fn a_dry_run_says_what_would_be_stored_and_stores_nothing() {
    let relay = Relay::new(Setup::default());
    let output = relay.run(&["backup", "orders", "--dry-run", "--output", "json"]);
    output.check_code(0);
    assert_eq!(output.json()["artifacts"][0]["name"], "out");
    assert_eq!(relay.stored(), Vec::<PathBuf>::new());
}

#[test]
fn ids_that_do_not_exist_or_are_ambiguous_are_said() {
    let relay = Relay::new(Setup::default());
    let (first, second) = (relay.backup(), relay.backup());
    relay.run(&["show", "orders", "20010101T000000Z-aaaaaaaa"]).check_code(1).check_stderr("no backup");
    relay.run(&["show", "orders", "19"]).check_code(1).check_stderr("no backup");
    relay.run(&["show", "orders", "2"]).check_code(2).check_stderr(&first).check_stderr(&second);
}

#[test]
fn without_encryption_the_segments_are_plain_zstd() {
    let relay = Relay::new(Setup::default());
    let path = relay.sandbox.path("strongroom.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let keep = |line: &&str| !line.starts_with("recipients") && !line.starts_with("identity");
    let text = text.lines().filter(keep).collect::<Vec<_>>().join("\n");
    std::fs::write(&path, text.replace("path = \"store\"", "path = \"store\"\nencryption = \"off\"")).unwrap();
    let id = relay.backup();
    let segment = relay.segments(&id)[0].clone();
    assert!(segment.to_string_lossy().ends_with("out.0001.zst"));
    relay.run(&["verify", "orders", &id]).check_code(0);
    let plain = relay.sandbox.command("zstd", ["-dc", segment.to_str().unwrap()]).run();
    plain.check_code(0).check_stdout("299999\n300000\n");
}

#[test]
fn two_runs_of_one_job_do_not_overlap() {
    let relay = Relay::new(Setup::default());
    let (begun, go) = (relay.sandbox.path("begun"), relay.sandbox.path("go"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo done", begun.display(), go.display());
    relay.configure(&Setup { produce: sh(&script), ..Setup::default() });
    let running = relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    wait_until("the first run", Duration::from_secs(60), || Ok(begun.exists().then_some(()))).unwrap();
    relay.run(&["backup", "orders"]).check_code(1).check_stderr("another run of job \"orders\" is at work");
    std::fs::write(go, "").unwrap();
    running.finish(Duration::from_secs(60)).unwrap().check_code(0);
    assert_eq!(relay.listed().len(), 1);
}

#[test]
fn a_lost_machine_is_restored_from_store_identity_and_key_alone() {
    let (relay, id) = several_segments();
    let key = key_of(&relay);
    let empty = Sandbox::new();
    std::fs::copy(relay.sandbox.path("identity.txt"), empty.path("identity.txt")).unwrap();
    private(&empty.path("identity.txt"));
    let store = relay.store();
    let url = store.to_str().unwrap();
    empty.run(["list", "--store-url", url]).check_code(0).check_stdout(&id).check_stdout(&key);
    let args = ["restore", "orders", &id, "--store-url", url, "--identity", "identity.txt", "--trust-signer", &key];
    // What it would be allowed to do is shown first, and nothing is granted silently.
    empty.run(args).check_code(4).check_stderr("--grant-requested");
    let plan = empty.run(args.iter().copied().chain(["--grant-requested", "--plan"]));
    plan.check_code(0).check_stdout("out");
    empty.run(args.iter().copied().chain(["--grant-requested"])).check_code(0);
}
