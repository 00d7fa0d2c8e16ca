//! The bucket plugin from end to end: directory trees through the real binary, backed up, verified,
//! restored and compared in everything that a file system can hold.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strongroom_tests::check_snapshot;
use strongroom_tests::documents::{Documents, Setup, finish_with_peak};
use strongroom_tests::tree::{self, differences};

const MIB: u64 = 1 << 20;

/// What a test restore uses: its own folder beneath the target's bucket, and no other.
const LEFT_BY_A_TEST: &str = "strongroom-verify-";

/// Names that a program which takes names for text, arguments or patterns trips over.
const NAMES: &[&[u8]] = &[
    b"plain.txt",
    b"with space",
    b" ",
    b"new\nline",
    b"-rf",
    b"--option=value",
    b".hidden",
    b"tab\tand\x01\x1b[31m",
    b"quote'\"\\back",
    b"*?[a-z]{x,y}",
    b"$(id) `id` %00 %s",
    b"\xff\xfe is not UTF-8",
    b"cut \xe2\x82",
    "ümlaut 日本 \u{1F980}".as_bytes(),
    // The characters that stand for bytes in keys, as characters.
    "\u{10FF2F}\u{10FFFF}".as_bytes(),
    b"PaxHeaders",
];

fn beneath(root: &Path, name: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(name))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A tree with everything that a backup keeps; directories get their times last.
fn plant(root: &Path) {
    for (i, name) in NAMES.iter().enumerate() {
        std::fs::write(beneath(root, name), format!("file {i}")).unwrap();
        let folder = root.join("folders");
        std::fs::create_dir_all(beneath(&folder, name)).unwrap();
        std::fs::write(beneath(&beneath(&folder, name), name), [0xff, 0, u8::try_from(i).unwrap()]).unwrap();
        symlink(OsStr::from_bytes(name), beneath(&folder, &[name, b" link".as_slice()].concat())).unwrap();
    }
    std::fs::write(root.join("n".repeat(255)), "a name of 255 bytes").unwrap();
    let deep = root.join(vec!["d".repeat(240); 14].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("at the bottom"), "of 3.4 KB of path").unwrap();

    std::fs::write(root.join("empty file"), "").unwrap();
    std::fs::create_dir(root.join("empty folder")).unwrap();
    for (name, target) in [
        ("dangling", "nowhere/at/all"),
        ("absolute", "/etc/hostname"),
        ("to a folder", "empty folder"),
        ("upwards", "../../.."),
        ("loop", "loop"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink("t".repeat(4_000), root.join("a long target")).unwrap();

    std::fs::write(root.join("one name"), "of one file with two names").unwrap();
    std::fs::hard_link(root.join("one name"), root.join("another name")).unwrap();
    let attributed = root.join("attributed");
    std::fs::write(&attributed, "x").unwrap();
    tree::set_xattr(&attributed, "user.text", "ümlaut".as_bytes());
    tree::set_xattr(&attributed, "user.binary", &[0, 0xff, b'\n', b'=']);
    tree::set_xattr(&attributed, "user.empty", b"");
    tree::set_xattr(&root.join("empty folder"), "user.of-a-folder", &[b'v'; 2_000]);

    for mode in [0o400, 0o444, 0o600, 0o755, 0o4755, 0o2711, 0o1666, 0o666] {
        let path = root.join(format!("mode {mode:o}"));
        std::fs::write(&path, "x").unwrap();
        set_mode(&path, mode);
    }
    for mode in [0o700, 0o2775, 0o1777, 0o555] {
        let path = root.join(format!("folder of mode {mode:o}"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("within"), "x").unwrap();
        set_mode(&path, mode);
    }
    if rustix::process::geteuid().is_root() {
        for (name, uid, gid) in [("of somebody", 1_234, 4_321), ("of nobody", 65_534, 65_534)] {
            std::fs::write(root.join(name), "x").unwrap();
            chown(root.join(name), Some(uid), Some(gid)).unwrap();
            set_mode(&root.join(name), 0o6755);
        }
        std::os::unix::fs::lchown(root.join("dangling"), Some(77), Some(78)).unwrap();
    }

    tree::sparse(&root.join("sparse"), 2 << 30, &[(0, b"first"), (1_234_567_890, b"middle"), ((2 << 30) - 4, b"last")]);
    tree::sparse(&root.join("only a hole"), 5_000_000, &[]);
    tree::noise(&root.join("of 300 MB"), 300_000_000);
    for size in [1, 511, 512, 513, 131_071, 131_072, 131_073, 2_097_152, 2_097_153] {
        tree::noise(&root.join(format!("of {size} bytes")), size);
    }

    for (name, seconds, nanoseconds) in [
        ("plain.txt", 1_700_000_000, 123_456_789),
        ("with space", 0, 0),
        ("-rf", 0, 1),
        (".hidden", -1, 999_999_999),
        // 2106-02-07, one second beyond 32 bits.
        ("empty file", 4_294_967_296, 999_999_999),
        ("dangling", 86_400, 5),
        ("folder of mode 2775/within", 1, 1),
        ("folder of mode 2775", 0, 7),
        ("folder of mode 555", 4_294_967_296, 3),
        ("empty folder", 946_684_800, 1),
        ("folders", 1_000_000_000, 500),
    ] {
        tree::set_mtime(&root.join(name), seconds, nanoseconds);
    }
}

/// A socket and a pipe, which hold nothing to back up.
fn plant_special(root: &Path) {
    drop(UnixListener::bind(root.join("a socket")).unwrap());
    mknodat(CWD, root.join("a pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Ids and outcomes of the checks that did not pass.
fn findings(output: &strongroom_tests::Output) -> Vec<String> {
    let json = output.json();
    let checks = json["checks"].as_array().expect("checks").iter();
    let text = |check: &serde_json::Value, key: &str| check[key].as_str().expect("text").to_owned();
    let found = checks.map(|check| (text(check, "id"), text(check, "outcome")));
    found.filter(|(_, outcome)| outcome != "passed").map(|(id, outcome)| format!("{id}: {outcome}")).collect()
}

fn evidence(output: &strongroom_tests::Output, id: &str) -> String {
    let json = output.json();
    let check = json["checks"].as_array().expect("checks").iter().find(|check| check["id"] == id);
    check.unwrap_or_else(|| panic!("no check {id}: {json:#}"))["evidence"].as_str().expect("text").to_owned()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_tree_with_everything_comes_back_as_it_was() {
    let documents = Documents::new();
    plant(&documents.source());
    let id = documents.backup(0);
    documents.run(&["list", "documents"]).check_code(0).check_stdout(&id);
    let shown = documents.run(&["show", "documents", &id, "--output", "json"]);
    let record = shown.check_code(0).json()["record"].clone();
    assert_eq!((&record["outcome"], &record["skipped"]), (&"complete".into(), &serde_json::json!([])));
    assert!(record["not_captured"].to_string().contains("hard links"), "{record:#}");

    let verified = documents.run(&["verify", "documents", &id, "--output", "json"]);
    assert_eq!(findings(verified.check_code(0)), [""; 0]);
    documents.restore(&id, &[]).check_code(0);
    assert_eq!(differences(&documents.source(), &documents.found()), [""; 0]);
    for name in ["sparse", "only a hole"] {
        let held = documents.found().join(name).metadata().unwrap().blocks() * 512;
        assert!(held < MIB, "{name} takes {held} B");
    }
}

#[test]
fn the_archive_is_a_tar_file_that_others_read() {
    let documents =
        Documents::with(&Setup { store: Some("type = \"local\"\npath = \"store\"".into()), ..Setup::default() });
    for name in NAMES {
        std::fs::write(beneath(&documents.source(), name), name).unwrap();
    }
    std::fs::create_dir(documents.source().join("empty folder")).unwrap();
    symlink("plain.txt", documents.source().join("link")).unwrap();
    tree::set_mtime(&documents.source().join("plain.txt"), 1_700_000_000, 123_456_789);
    let id = documents.backup(0);
    let script = format!(
        "set -e; cd store/documents/{id}/data; \
         for s in objects.[0-9]*.zst.age; do age -d -i ../../../../identity.txt \"$s\"; done \
         | zstd -d | tar -xpf - -C ../../../../found"
    );
    documents.sandbox.command("sh", ["-c", script.as_str()]).run().check_code(0);
    assert_eq!(differences(&documents.source(), &documents.found()), [""; 0]);
}

#[test]
fn special_files_are_reported_as_skipped_or_ignored_when_told() {
    let documents = Documents::new();
    std::fs::write(documents.source().join("file"), "x").unwrap();
    plant_special(&documents.source());
    let made = documents.run(&["backup", "documents"]);
    made.check_code(3).check_stdout("skipped: a pipe: a fifo").check_stdout("skipped: a socket: a socket");
    let refused = documents.restore("latest", &[]);
    refused.check_code(4).check_stderr("--allow-incomplete");
    assert!(is_empty(&documents.found()));
    documents.restore("latest", &["--allow-incomplete"]).check_code(3);
    assert_eq!(differences(&documents.source(), &documents.found()), [""; 0]);

    documents.configure(&Setup { settings: "special_files = \"ignore\"".into(), ..Setup::default() });
    let made = documents.run(&["backup", "documents", "--output", "json"]);
    made.check_code(0);
    assert_eq!(made.json()["skipped"], serde_json::json!([]));
    assert!(made.json()["not_captured"].to_string().contains("2 sockets, devices and pipes"), "{}", made.stdout);
}

#[test]
fn files_that_change_or_vanish_while_they_are_read_are_reported_and_the_rest_is_whole() {
    let documents = Documents::new();
    let root = documents.source();
    let large = ["1 appended", "2 truncated", "3 replaced"];
    for name in large {
        tree::sparse(&root.join(name), 1 << 30, &[(7, b"data")]);
    }
    // More than are opened ahead of their turn lie between a file that is being read and the last one.
    std::fs::create_dir(root.join("5")).unwrap();
    tree::many(&root.join("5"), 300, 100);
    std::fs::write(root.join("6 vanishes"), "x").unwrap();
    std::fs::write(root.join("7 stays"), "x").unwrap();

    let running = documents.sandbox.strongroom(["backup", "documents", "--output", "json"]).start().unwrap();
    let file = |name: &str| root.join(name);
    tree::while_reading(running.pid(), &file(large[0]), || {
        let path = file(large[0]);
        let size = path.metadata().unwrap().len();
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size + 1).unwrap();
        std::fs::remove_file(file("6 vanishes")).unwrap();
    })
    .unwrap();
    tree::while_reading(running.pid(), &file(large[1]), || {
        std::fs::OpenOptions::new().write(true).open(file(large[1])).unwrap().set_len(10).unwrap();
    })
    .unwrap();
    tree::while_reading(running.pid(), &file(large[2]), || {
        std::fs::write(file("new"), "another file").unwrap();
        std::fs::rename(file("new"), file(large[2])).unwrap();
    })
    .unwrap();
    let made = running.finish(strongroom_tests::TIMEOUT).unwrap();
    made.check_code(3);
    let skipped = made.json()["skipped"].as_array().unwrap().clone();
    let reason_of = |name: &str| {
        let found = skipped.iter().find(|skipped| skipped["what"] == name);
        found.unwrap_or_else(|| panic!("{name:?} is not among {skipped:#?}"))["reason"].to_string()
    };
    large.iter().for_each(|name| assert!(reason_of(name).contains("changed while"), "{}", reason_of(name)));
    assert!(reason_of("6 vanishes").contains("No such file"), "{}", reason_of("6 vanishes"));
    assert_eq!(skipped.len(), 4, "{skipped:#?}");

    documents.run(&["verify", "documents", "--output", "json"]).check_code(0);
    documents.restore("latest", &[]).check_code(4).check_stderr("--allow-incomplete");
    assert!(is_empty(&documents.found()));
    documents.restore("latest", &["--allow-incomplete"]).check_code(3).check_stdout(large[1]);
    for name in large {
        std::fs::remove_file(file(name)).unwrap();
    }
    assert_eq!(differences(&root, &documents.found()), [""; 0]);
}

/// A small tree of two folders, and its backup.
fn two_folders(setup: &Setup) -> (Documents, String) {
    let documents = Documents::with(setup);
    for folder in ["a", "b"] {
        std::fs::create_dir(documents.source().join(folder)).unwrap();
        for name in ["one.txt", "two.log"] {
            std::fs::write(documents.source().join(folder).join(name), format!("{name} of {folder}")).unwrap();
        }
        tree::set_mtime(&documents.source().join(folder), 1_000_000_000, 0);
    }
    let id = documents.backup(0);
    (documents, id)
}

#[test]
fn a_plan_lists_what_would_be_done_and_changes_nothing() {
    let (documents, id) = two_folders(&Setup::default());
    check_snapshot!(documents.restore(&id, &["--plan", "--quiet"]), @r#"
    exit code 0
    --- stdout
    would write files found (4 files, 48 B)
    would make directories found (2 directories, last)
    never in such a backup: that names were hard links to one file: each is a file of its own
    never in such a backup: access and birth times, inode flags, extended attributes of links
    plan for <id> of "documents" into "found": 2 steps; nothing was changed
    "#);
    assert!(is_empty(&documents.found()));
    std::fs::create_dir(documents.found().join("a")).unwrap();
    std::fs::write(documents.found().join("a/one.txt"), "mine").unwrap();
    let plan = documents.restore(&id, &["--plan"]);
    plan.check_code(0).check_stdout("would write a/one.txt (it is there, and the restore would refuse to begin)");
    assert_eq!(tree::count(&documents.found()), 2);
}

#[test]
fn what_is_there_is_never_overwritten_unless_told() {
    let (documents, id) = two_folders(&Setup::default());
    let mine = documents.found().join("a/one.txt");
    std::fs::create_dir(documents.found().join("a")).unwrap();
    std::fs::write(&mine, "mine").unwrap();
    let refused = documents.restore(&id, &[]);
    refused.check_code(1).check_stderr("\"a/one.txt\"").check_stderr("overwrite = true");
    assert_eq!((std::fs::read(&mine).unwrap(), tree::count(&documents.found())), (b"mine".to_vec(), 2));

    // Beside what is there, and only what is named.
    let beside = ["--option", "to_prefix=deep/er/", "--option", "include=[\"**/*.txt\"]"];
    documents.restore(&id, &beside).check_code(0);
    assert!(documents.found().join("deep/er/b/one.txt").is_file());
    assert!(!documents.found().join("deep/er/b/two.log").exists());
    let kept = documents.found().join("deep/er/b").metadata().unwrap();
    assert_eq!(kept.mtime(), 1_000_000_000, "folders above what was chosen get their attributes");
    let nothing = documents.restore(&id, &["--option", "include=[\"nothing/**\"]", "--option", "to_prefix=x/"]);
    nothing.check_code(2).check_stderr("include and exclude");
    std::fs::remove_dir_all(documents.found().join("deep")).unwrap();

    documents.restore(&id, &["--option", "overwrite=true"]).check_code(0);
    assert_eq!(differences(&documents.source(), &documents.found()), [""; 0]);
}

#[test]
fn a_prefix_and_exclusions_choose_what_is_backed_up() {
    let settings = "prefix = \"a/\"\nexclude = [\"**/*.log\"]".to_owned();
    let (documents, id) = two_folders(&Setup { settings, ..Setup::default() });
    documents.restore(&id, &[]).check_code(0);
    assert_eq!(tree::count(&documents.found()), 2, "the folder a and one.txt");
    documents.restore(&id, &["--option", "to_prefix="]).check_code(0);
    assert!(documents.found().join("one.txt").is_file());
}

#[test]
fn a_bucket_may_be_reached_through_a_link_and_links_within_are_never_followed() {
    let (documents, id) = two_folders(&Setup::default());
    std::fs::remove_dir(documents.found()).unwrap();
    std::fs::create_dir(documents.sandbox.path("real")).unwrap();
    symlink("real", documents.found()).unwrap();
    documents.restore(&id, &[]).check_code(0);
    assert_eq!(differences(&documents.source(), &documents.sandbox.path("real")), [""; 0]);
    // A link in the place of a folder of the backup leads nowhere.
    let outside = documents.sandbox.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::remove_dir_all(documents.sandbox.path("real/a")).unwrap();
    symlink(&outside, documents.sandbox.path("real/a")).unwrap();
    let stopped = documents.restore(&id, &["--option", "overwrite=true"]);
    stopped.check_code(6).check_stderr("something on the way that is not a directory, or a link");
    assert!(is_empty(&outside));
}

/// Runs `strongroom` with `found` on a file system of so many bytes, shows what is left on it, and
/// ends as `strongroom` did. Nobody else sees the file system, and it is gone with the command.
fn on_a_small_file_system(documents: &Documents, mib: u64, args: &[&str]) -> strongroom_tests::Output {
    let binary = strongroom_tests::host_binary().unwrap();
    let script = format!(
        "mount -t tmpfs -o size={mib}m,mode=755 small found || exit 99; \"$@\"; code=$?; find found | sort; exit $code"
    );
    let root = if rustix::process::geteuid().is_root() { "--fork" } else { "--map-root-user" };
    let begin = ["--mount", root, "sh", "-c", script.as_str(), "sh", binary.to_str().unwrap()];
    documents.sandbox.command("unshare", begin.iter().chain(args)).run()
}

fn more_than_8_mib(documents: &Documents) {
    for i in 0..10 {
        std::fs::write(documents.source().join(format!("a small {i}")), "x").unwrap();
    }
    for i in 0..4 {
        tree::noise(&documents.source().join(format!("b large {i}")), 4 << 20);
    }
}

#[test]
fn a_restore_onto_a_full_file_system_ends_with_6_and_the_list_of_what_was_done() {
    let documents = Documents::new();
    more_than_8_mib(&documents);
    let id = documents.backup(0);
    let stopped = on_a_small_file_system(&documents, 8, &["restore", "documents", &id, "--target", "found"]);
    stopped.check_code(6).check_stderr("what was done before it stopped:").check_stderr("write files found: done (");
    stopped.check_stderr("No space left on device").check_stderr("b large");
    stopped.check_stdout("found/a small 9");
    assert!(!stopped.stdout.contains(".part"), "no half file is left: {}", stopped.stdout);

    let args = ["restore", "documents", &id, "--target", "found", "--output", "json"];
    let stopped = on_a_small_file_system(&documents, 8, &args);
    stopped.check_code(6).check_stdout("\"action\": \"write files\"").check_stdout("\"note\": \"could not write");
}

#[test]
fn a_restore_where_nothing_may_be_written_says_so() {
    let (documents, id) = two_folders(&Setup::default());
    let script = "mount --bind found found && mount -o remount,ro,bind found || exit 99; exec \"$@\"";
    let binary = strongroom_tests::host_binary().unwrap();
    let args = ["restore", "documents", id.as_str(), "--target", "found"];
    let root = if rustix::process::geteuid().is_root() { "--fork" } else { "--map-root-user" };
    let begin = ["--mount", root, "sh", "-c", script, "sh", binary.to_str().unwrap()];
    let stopped = documents.sandbox.command("unshare", begin.iter().chain(&args)).run();
    // The host cannot know what a step that failed has left: it says 6, and the list.
    stopped.check_code(6).check_stderr("Read-only file system").check_stderr("write file a/one.txt: failed");
    assert!(is_empty(&documents.found()));
}

#[test]
fn a_test_restore_is_compared_and_removed_in_every_case() {
    let documents = Documents::new();
    more_than_8_mib(&documents);
    std::fs::create_dir(documents.source().join("folder")).unwrap();
    symlink("folder", documents.source().join("link")).unwrap();
    let id = documents.backup(0);
    std::fs::write(documents.found().join("mine"), "x").unwrap();
    let verify = ["verify", "documents", &id, "--depth", "restore", "--target", "found", "--output", "json"];

    let good = documents.run(&verify);
    assert_eq!(findings(good.check_code(0)), [""; 0]);
    assert!(evidence(&good, "bucket.restore.compares").starts_with("16 entries"), "{}", good.stdout);
    assert_eq!(tree::count(&documents.found()), 1);

    let full = on_a_small_file_system(&documents, 8, &verify);
    full.check_code(5).check_stdout("No space left on device");
    assert!(!full.stdout.contains(&format!("found/{LEFT_BY_A_TEST}")), "{}", full.stdout);

    // What a killed one left is removed by the next, and counted by nobody as a difference.
    let scratch = documents.found().join(format!("{LEFT_BY_A_TEST}{id}"));
    std::fs::create_dir_all(scratch.join("folder/of a dead run")).unwrap();
    std::fs::write(scratch.join("a small 1"), "half").unwrap();
    documents.run(&verify).check_code(0);
    assert_eq!(tree::count(&documents.found()), 1);

    let nowhere = documents.run(&["verify", "documents", &id, "--depth", "restore"]);
    nowhere.check_code(2).check_stderr("--target NAME");
}

/// How many small files the test takes; 100,000 were measured by hand.
const MANY: usize = 20_000;

#[test]
fn twenty_thousand_small_files_are_one_archive_in_little_memory() {
    let documents = Documents::new();
    tree::many(&documents.source(), MANY, 4_096);
    let mut measured = Vec::new();
    let mut run = |args: &[&str]| {
        let begun = Instant::now();
        let running = documents.sandbox.strongroom(args).start().unwrap();
        let (output, peak) = finish_with_peak(running, Duration::from_secs(300)).unwrap();
        output.check_code(0);
        assert!(peak < 150 * MIB, "{args:?} held {} MiB", peak / MIB);
        measured.push(format!(
            "{}: {:.0} files/s, {} MiB",
            args[0],
            MANY as f64 / begun.elapsed().as_secs_f64(),
            peak / MIB
        ));
        output
    };
    let made = run(&["backup", "documents", "--output", "json"]).json();
    run(&["verify", "documents", "--output", "json"]);
    run(&["restore", "documents", "latest", "--target", "found"]);
    assert_eq!(made["artifacts"].as_array().unwrap().len(), 2, "one archive and its index");
    let fact = |name: &str| {
        let facts = made["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["name"] == name).unwrap()["value"].as_str().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!((fact("files"), fact("directories")), (MANY, MANY / 1_000));
    assert_eq!(fact("bytes-listed"), MANY * 4_096);
    assert_eq!(tree::count(&documents.found()), MANY + MANY / 1_000);
    assert_eq!(differences(&documents.source(), &documents.found()), [""; 0]);
    #[allow(clippy::print_stderr, reason = "what was measured is shown with --nocapture")]
    {
        eprintln!("{MANY} files of 4 KiB: {}", measured.join("; "));
    }
}

#[test]
fn a_healthy_bucket_is_diagnosed_as_such() {
    let (documents, _) = two_folders(&Setup::default());
    documents.run(&["verify", "documents"]).check_code(0);
    let healthy = documents.run(&["diagnose", "documents", "--output", "json"]);
    assert_eq!(findings(healthy.check_code(0)), [""; 0], "{}", healthy.stdout);
    assert!(evidence(&healthy, "bucket.lists").starts_with("4 files of 48 B"), "{}", healthy.stdout);
}

#[test]
fn what_may_not_be_read_is_found_by_diagnose_and_skipped_by_backup() {
    let (documents, _) = two_folders(&Setup::default());
    for (name, mode) in [("a/one.txt", 0o000), ("b", 0o000)] {
        set_mode(&documents.source().join(name), mode);
    }
    // Root reads everything, unless every capability is taken away: then modes hold for it, too.
    let unprivileged = |args: &[&str]| {
        let binary = strongroom_tests::host_binary().unwrap();
        if !rustix::process::geteuid().is_root() {
            return documents.run(args);
        }
        let begin = ["--bounding-set=-all", "--inh-caps=-all", binary.to_str().unwrap()];
        documents.sandbox.command("setpriv", begin.iter().chain(args)).run()
    };
    let ill = unprivileged(&["diagnose", "documents", "--output", "json"]);
    ill.check_code(5);
    let found = findings(&ill);
    for id in ["bucket.readable: failed", "bucket.listable: failed"] {
        assert!(found.iter().any(|found| found == id), "{found:?}");
    }
    assert_eq!(evidence(&ill, "bucket.readable"), "1: \"a/one.txt\"");
    assert_eq!(evidence(&ill, "bucket.listable"), "1: \"b\"");
    let made = unprivileged(&["backup", "documents"]);
    made.check_code(3)
        .check_stdout("skipped: a/one.txt: ")
        .check_stdout("Permission denied")
        .check_stdout("skipped: b: ");
    set_mode(&documents.source().join("b"), 0o700);
}

#[test]
fn a_missing_bucket_is_found_by_diagnose_and_stops_only_what_uses_it() {
    let (documents, id) = two_folders(&Setup::default());
    std::fs::rename(documents.source(), documents.sandbox.path("away")).unwrap();
    let ill = documents.run(&["diagnose", "documents", "--output", "json"]);
    assert!(findings(ill.check_code(5)).contains(&"bucket.lists: failed".to_owned()), "{}", ill.stdout);
    assert!(evidence(&ill, "bucket.lists").contains("No such file or directory"), "{}", ill.stdout);
    let failed = documents.run(&["backup", "documents"]);
    failed.check_code(1).check_stderr("bucket \"documents\"").check_stderr("No such file or directory");
    // The source is lost, and that is what a backup is for.
    documents.restore(&id, &[]).check_code(0);
    assert_eq!(differences(&documents.sandbox.path("away"), &documents.found()), [""; 0]);
}

#[test]
fn a_tree_that_shrinks_below_half_is_warned_of_in_record_output_and_diagnosis() {
    let documents = Documents::new();
    for i in 0..10 {
        tree::noise(&documents.source().join(format!("file {i}")), 100_000);
    }
    for _ in 0..2 {
        documents.backup(0);
    }
    for i in 0..7 {
        std::fs::remove_file(documents.source().join(format!("file {i}"))).unwrap();
    }
    let ill = documents.run(&["diagnose", "documents", "--output", "json"]);
    assert!(findings(ill.check_code(0)).contains(&"bucket.size.plausible: warned".to_owned()), "{}", ill.stdout);
    let made = documents.run(&["backup", "documents"]);
    made.check_code(0).check_stderr("size is ").check_stderr("the median of the last 2 backups");
    made.check_stderr("fact \"files\" is 3, less than half of 10");
    let shown = documents.run(&["show", "documents", "latest", "--output", "json"]);
    let warnings = shown.json()["record"]["warnings"].to_string();
    assert!(warnings.contains("less than half of 10"), "{}", shown.stdout);
}
