//! Who is believed and what may be granted at most: signatures, revocation, ceilings, approval, and
//! what a security engineer reads before any of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use strongroom_tests::documented::check_documented;
use strongroom_tests::relay::sha256;
use strongroom_tests::{Output, Sandbox, plugin, program};

fn relay() -> Vec<u8> {
    std::fs::read(plugin("guests/relay").unwrap_or_else(|error| panic!("{error:#}"))).unwrap()
}

/// The same plugin in other bytes: a custom section at the end, named "x", with nothing in it.
fn next_version() -> Vec<u8> {
    [relay(), b"\0\x02\x01x".to_vec()].concat()
}

/// The guest with another manifest, of the same length: nothing else of the file changes.
fn with_manifest(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = relay();
    let mut n_replaced = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            n_replaced += 1;
        }
    }
    assert!(n_replaced > 0, "no {from:?}");
    bytes
}

/// Grants that let the guest make a backup.
const GRANTS: &str = r#"
[plugin.shop.grant.artifacts]

[plugin.shop.grant.exec.produce]
program = "/bin/cat"
args = ["{value}"]
slots = { value = "[a-z0-9./-]{1,64}" }
verbs = ["backup"]
effect = "reads"
"#;

/// A sandbox whose plugin `shop` is the guest, with these lines at the top and in its table.
fn sandbox(top: &str, in_plugin: &str, grants: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("shop.wasm", relay());
    std::fs::create_dir(sandbox.path("store")).unwrap();
    configure(&sandbox, top, in_plugin, grants);
    sandbox
}

fn configure(sandbox: &Sandbox, top: &str, in_plugin: &str, grants: &str) {
    sandbox.config(&format!(
        r#"{top}
# kept
[store.main]
type = "local"
path = "store"
encryption = "off"

[plugin.shop]
source = "shop.wasm"
{in_plugin}
{grants}

[job.orders]
plugin = "shop"
store = "main"
settings = {{ value = "/etc/hostname" }}
"#
    ));
}

fn pinned() -> String {
    format!("sha256 = \"{}\"", sha256(&relay()))
}

/// Denied, in these words, and nothing in the store.
#[track_caller]
fn check_denied(sandbox: &Sandbox, output: &Output, says: &[&str]) {
    output.check_code(4);
    for text in says {
        output.check_stderr(text);
    }
    assert_eq!(std::fs::read_dir(sandbox.path("store/orders")).map_or(0, Iterator::count), 0);
}

/// Makes the keys `NAME.key` and `NAME.pub`, and returns the public key.
fn keygen(sandbox: &Sandbox, name: &str) -> String {
    let made = sandbox.run(["plugin", "keygen", name, "--unencrypted", "--output", "json"]);
    let made = made.check_code(0).json();
    check_documented(&made, "ShownKeys");
    made["public_key"].as_str().unwrap().to_owned()
}

fn sign(sandbox: &Sandbox, name: &str) -> Output {
    sandbox.run(["plugin", "sign", "shop.wasm", "--key", &format!("{name}.key"), "--output", "json"])
}

#[test]
fn a_signature_is_checked_with_the_operators_keys_before_anything_is_looked_into() {
    let sandbox = sandbox("signatures = \"required\"", &pinned(), GRANTS);
    let [old, new] = ["old", "new"].map(|name| keygen(&sandbox, name));
    let both = format!("signatures = \"required\"\ntrusted_keys = [\"{old}\", \"{new}\"]");
    configure(&sandbox, &both, &pinned(), GRANTS);
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["is not signed", ".minisig"]);
    check_denied(&sandbox, &sandbox.run(["plugin", "approve", "shop", "--print"]), &["is not signed"]);

    for name in ["old", "new"] {
        check_documented(&sign(&sandbox, name).check_code(0).json(), "ShownSignature");
        sandbox.run(["backup", "orders"]).check_code(0);
    }
    // A key that is changed is left out at the end.
    std::fs::remove_dir_all(sandbox.path("store/orders")).unwrap();
    let only_old = format!("signatures = \"required\"\ntrusted_keys = [\"{old}\"]");
    configure(&sandbox, &only_old, &pinned(), GRANTS);
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["by a key that is not trusted"]);
    // For one plugin another key may count.
    configure(&sandbox, &only_old, &format!("{}\ntrusted_keys = [\"{new}\"]", pinned()), GRANTS);
    sandbox.run(["backup", "orders"]).check_code(0);
    // Optional, a signature that is there must be good all the same.
    std::fs::remove_dir_all(sandbox.path("store/orders")).unwrap();
    configure(&sandbox, &format!("trusted_keys = [\"{old}\"]"), &pinned(), GRANTS);
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["by a key that is not trusted"]);
    std::fs::remove_file(sandbox.path("shop.wasm.minisig")).unwrap();
    sandbox.run(["backup", "orders"]).check_code(0);
}

#[test]
fn a_signature_over_other_bytes_and_a_comment_that_was_changed_are_denied() {
    let sandbox = sandbox("", &pinned(), GRANTS);
    let key = keygen(&sandbox, "vendor");
    configure(&sandbox, &format!("trusted_keys = [\"{key}\"]"), &pinned(), GRANTS);
    sign(&sandbox, "vendor").check_code(0);
    let good = std::fs::read_to_string(sandbox.path("shop.wasm.minisig")).unwrap();
    sandbox.write("shop.wasm.minisig", good.replace("version:1.2.3", "version:9.9.9"));
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["not one over these bytes and this comment"]);
    sandbox.write("shop.wasm.minisig", "nonsense");
    sandbox.run(["backup", "orders"]).check_code(2).check_stderr("not one of minisign");
    // The good signature does not stand in for other bytes that somebody has approved.
    sandbox.write("shop.wasm.minisig", &good);
    sandbox.write("shop.wasm", next_version());
    let other = format!("sha256 = \"{}\"", sha256(&next_version()));
    configure(&sandbox, &format!("trusted_keys = [\"{key}\"]"), &other, GRANTS);
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["not one over these bytes and this comment"]);
}

#[test]
fn minisign_itself_checks_our_signatures_and_we_check_its_own() {
    let minisign = program("minisign").unwrap_or_else(|error| panic!("{error:#}"));
    let sandbox = sandbox("", &pinned(), GRANTS);
    sandbox.write("password", "correct horse battery\n");
    let password = sandbox.path("password");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let with_password = ["--password-file", "password"];
    sandbox.run(["plugin", "keygen", "vendor"].iter().chain(&with_password)).check_code(0).check_stdout("encrypted");
    let key = sandbox.path("vendor.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let sign = ["plugin", "sign", "shop.wasm", "--key", "vendor.key"];
    sandbox.run(sign.iter().chain(&with_password)).check_code(0);
    let check = ["-V", "-p", "vendor.pub", "-m", "shop.wasm"];
    sandbox.command(&minisign, check).run().check_code(0).check_stdout("Trusted comment: plugin:relay version:1.2.3");

    // The other way round: with our encrypted key, and with a key of its own.
    let theirs = ["-S", "-s", "vendor.key", "-m", "shop.wasm", "-t", "by minisign"];
    sandbox.command(&minisign, theirs).stdin("correct horse battery\n").run().check_code(0);
    let public = std::fs::read_to_string(sandbox.path("vendor.pub")).unwrap();
    let public = public.lines().nth(1).unwrap();
    let required = format!("signatures = \"required\"\ntrusted_keys = [\"{public}\"]");
    configure(&sandbox, &required, &pinned(), GRANTS);
    sandbox.run(["backup", "orders"]).check_code(0);
    sandbox.command(&minisign, ["-G", "-W", "-p", "own.pub", "-s", "own.key"]).run().check_code(0);
    sandbox.run(["plugin", "sign", "shop.wasm", "--key", "own.key"]).check_code(0);
    sandbox.command(&minisign, ["-V", "-p", "own.pub", "-m", "shop.wasm"]).run().check_code(0);
    // The old kind, which is not prehashed, is refused.
    sandbox.command(&minisign, ["-S", "-l", "-W", "-s", "own.key", "-m", "shop.wasm"]).run().check_code(0);
    let own = std::fs::read_to_string(sandbox.path("own.pub")).unwrap();
    let required = format!("signatures = \"required\"\ntrusted_keys = [\"{}\"]", own.lines().nth(1).unwrap());
    configure(&sandbox, &required, &pinned(), GRANTS);
    sandbox.run(["backup", "orders"]).check_code(4).check_stderr("of the old kind");
}

#[test]
fn keys_are_never_overwritten_read_by_others_or_opened_with_a_wrong_password() {
    let sandbox = sandbox("", "", "");
    keygen(&sandbox, "vendor");
    sandbox.run(["plugin", "keygen", "vendor", "--unencrypted"]).check_code(1).check_stderr("is there already");
    std::fs::set_permissions(sandbox.path("vendor.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    sign(&sandbox, "vendor").check_code(4);
    sandbox.run(["plugin", "keygen", "asked"]).check_code(4).check_stderr("--password-file");
    for (name, text) in [("right", "one long password\n"), ("wrong", "another password\n")] {
        std::fs::set_permissions(sandbox.write(name, text), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    sandbox.run(["plugin", "keygen", "locked", "--password-file", "right"]).check_code(0);
    let locked = ["plugin", "sign", "shop.wasm", "--key", "locked.key", "--password-file"];
    sandbox.run(locked.iter().chain(&["wrong"])).check_code(4).check_stderr("does not open");
    assert!(!sandbox.path("shop.wasm.minisig").exists());
    sandbox.run(locked.iter().chain(&["right"])).check_code(0);
    sandbox.write("not.wasm", "text");
    let text = sandbox.run(["plugin", "sign", "not.wasm", "--key", "vendor.key"]);
    text.check_code(2).check_stderr("not a WebAssembly component");
}

#[test]
fn a_revoked_digest_never_runs_again_whatever_is_approved() {
    let revoked = format!("revoked = [\"{}\"]", sha256(&relay()).to_uppercase());
    let sandbox = sandbox(&revoked, &pinned(), GRANTS);
    check_denied(&sandbox, &sandbox.run(["backup", "orders"]), &["was revoked"]);
    let digest = sha256(&relay());
    check_denied(&sandbox, &sandbox.run(["plugin", "approve", "shop", "--digest", &digest]), &["was revoked"]);
    let inspection = sandbox.run(["plugin", "inspect", "shop", "--fail-on", "not-approved"]);
    inspection.check_code(5).check_stdout("revoked: it never runs again");
}

/// A ceiling that allows exactly [`GRANTS`].
const CEILING: &str = r#"[[exec]]
program = "/bin/cat"
args = ["/etc/host[a-z]+"]

[artifacts]
"#;

/// Writes a ceiling that nobody else can change.
fn ceiling(sandbox: &Sandbox, name: &str, text: &str) -> String {
    let path = sandbox.write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

#[test]
fn a_grant_over_the_ceiling_is_a_mistake_of_the_configuration_that_names_both_lines() {
    let grants = GRANTS.replace("/bin/cat", "/bin/sh");
    let sandbox = sandbox("", &pinned(), &grants);
    let path = ceiling(&sandbox, "ceiling.toml", CEILING);
    sandbox.run(["config", "check"]).check_code(0);
    for verb in [&["config", "check"][..], &["backup", "orders"], &["list", "orders"], &["plugin", "inspect", "shop"]] {
        let output = sandbox.run(verb.iter().chain(&["--ceiling", &path]));
        output.check_code(2);
        output.check_stderr("plugin.shop.grant.exec.produce is over the ceiling");
        output.check_stderr("strongroom.toml:").check_stderr("program = \"/bin/sh\"");
        output.check_stderr("no rule for the program");
    }
    let json = sandbox.run(["config", "check", "--ceiling", &path, "--output", "json"]);
    assert!(json.check_code(2).json()["error"]["mistakes"][0]["message"].as_str().unwrap().contains(&path));
}

#[test]
fn the_ceiling_of_the_machine_holds_and_no_flag_turns_it_off() {
    let mut sandbox = sandbox("", &pinned(), GRANTS);
    let machine = ceiling(&sandbox, "machine.toml", "artifacts = \"any\"\n");
    let any = ceiling(&sandbox, "any.toml", "exec = \"any\"\nartifacts = \"any\"\nbucket = \"any\"\n");
    sandbox.run(["backup", "orders"]).check_code(0);
    // In test builds this names a file in the role of the machine's own; it adds one.
    sandbox.set_env("STRONGROOM_TEST_MACHINE_CEILING", &machine);
    sandbox.run(["backup", "orders"]).check_code(2).check_stderr("over the ceiling");
    sandbox.run(["backup", "orders", "--ceiling", &any]).check_code(2).check_stderr("machine.toml");
    // One that is damaged or cannot be trusted is no ceiling less, but an error.
    std::fs::set_permissions(&machine, std::fs::Permissions::from_mode(0o666)).unwrap();
    sandbox.run(["backup", "orders"]).check_code(4).check_stderr("others can change the ceiling");
    std::fs::set_permissions(&machine, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&machine, "exec = ").unwrap();
    sandbox.run(["backup", "orders"]).check_code(2).check_stderr("ceiling");
    std::fs::write(&machine, CEILING).unwrap();
    sandbox.run(["backup", "orders"]).check_code(0);
    sandbox.run(["plugin", "inspect", "shop"]).check_code(0).check_stdout("machine.toml");
    sandbox.run(["backup", "orders", "--ceiling", "nowhere.toml"]).check_code(2).check_stderr("there is no ceiling");
}

#[test]
fn a_slot_that_the_grant_admits_and_the_ceiling_does_not_is_denied_when_it_is_filled() {
    let sandbox = sandbox("", &pinned(), GRANTS);
    let path = ceiling(&sandbox, "ceiling.toml", &CEILING.replace("/etc/host[a-z]+", "/srv/[a-z]+"));
    let output = sandbox.run(["backup", "orders", "--ceiling", &path]);
    check_denied(&sandbox, &output, &["under the ceiling", "ceiling.toml:1", "/etc/hostname"]);
    let path = ceiling(&sandbox, "other.toml", CEILING);
    sandbox.run(["backup", "orders", "--ceiling", &path]).check_code(0);
}

#[test]
fn approving_writes_nothing_that_is_over_the_ceiling() {
    let sandbox = sandbox("", "", "");
    let path = ceiling(&sandbox, "ceiling.toml", CEILING);
    let before = std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap();
    let digest = sha256(&relay());
    let output = sandbox.run(["plugin", "approve", "shop", "--digest", &digest, "--ceiling", &path]);
    output.check_code(2).check_stderr("is over the ceiling");
    assert_eq!(std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap(), before);
}

#[test]
fn grants_that_are_broken_are_replaced_by_approving_again() {
    let digest = sha256(&relay());
    for broken in [
        "[plugin.shop.grant.exec.produce]\nprogram = 5\n",
        "[plugin.shop.grant.exec.produce]\nprogram = \"relative\"\nverbs = [\"backup\"]\neffect = \"reads\"\n",
        "[plugin.shop.grant.exek.produce]\nprogram = \"/bin/cat\"\n",
        "[plugin.shop.grant]\nkube = 5\n",
    ] {
        let sandbox = sandbox("", &pinned(), broken);
        sandbox.run(["backup", "orders"]).check_code(2);
        let approved = sandbox.run(["plugin", "approve", "shop", "--digest", &digest]);
        approved.check_code(0).check_stderr("is not valid, and is replaced");
        assert!(std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap().contains("# kept"));
        sandbox.run(["backup", "orders"]).check_code(0);
    }
    // What else is wrong is shown where it is, and nothing is written.
    let sandbox = sandbox("stoer = 1", &pinned(), "[plugin.shop.grant.exec.produce]\nprogram = 5\n");
    let refused = sandbox.run(["plugin", "approve", "shop", "--digest", &digest]);
    refused.check_code(2).check_stderr("stoer").check_stderr("strongroom.toml:1:1");
}

/// Runs `plugin approve` on a terminal of its own and types `answers`.
fn approve_on_a_terminal(sandbox: &Sandbox, answers: &str) -> Output {
    let binary = strongroom_tests::host_binary().unwrap_or_else(|error| panic!("{error:#}"));
    let script = program("script").unwrap_or_else(|error| panic!("{error:#}"));
    let line = format!("'{}' plugin approve shop", binary.display());
    sandbox.command(script, ["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").stdin(answers).run()
}

#[test]
fn a_slot_has_no_default_and_the_command_line_is_shown_as_it_would_run() {
    let sandbox = sandbox("", "", "");
    // check, consume: granted. produce: a slot of the operator's own, after one that is no pattern.
    let output = approve_on_a_terminal(&sandbox, "y\ny\n(\n/etc/hostname\ny\ny\ny\ny\n");
    output.check_code(0);
    output.check_stdout("the jobs name /etc/hostname").check_stdout("not a pattern");
    output.check_stdout("/cat </etc/hostname>");
    let text = std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap();
    assert!(text.contains("slots = { value = \"/etc/hostname\" }"), "{text}");
    sandbox.run(["backup", "orders"]).check_code(0);

    let refused = self::sandbox("", "", "");
    let output = approve_on_a_terminal(&refused, "y\ny\n\ny\ny\ny\n");
    output.check_code(0).check_stdout("not granted: a slot of it may be filled with nothing");
    assert!(!std::fs::read_to_string(refused.path("strongroom.toml")).unwrap().contains("grant.exec.produce"));
}

#[test]
fn a_slot_can_be_narrowed_without_a_terminal() {
    let sandbox = sandbox("", "", "");
    let digest = sha256(&relay());
    let approve = ["plugin", "approve", "shop", "--digest", &digest, "--slot"];
    sandbox.run(approve.iter().chain(&["value=/etc/hostname"])).check_code(0);
    assert!(std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap().contains("value = \"/etc/hostname\""));
    sandbox.run(approve.iter().chain(&["other=x"])).check_code(2).check_stderr("no command that the plugin asks for");
    sandbox.run(approve.iter().chain(&["value=("])).check_code(2);
}

#[test]
fn a_file_that_is_replaced_between_two_looks_is_the_other_file_or_the_approved_one() {
    let sandbox = sandbox("", &pinned(), GRANTS);
    sandbox.run(["backup", "orders"]).check_code(0);
    let (good, evil) = (sandbox.write("good.wasm", relay()), sandbox.write("evil.wasm", next_version()));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (link, place) = (sandbox.path("link"), sandbox.path("shop.wasm"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for target in [&evil, &good] {
                    std::os::unix::fs::symlink(target, &link).unwrap();
                    std::fs::rename(&link, &place).unwrap();
                }
            }
        });
        for _ in 0..6 {
            let output = sandbox.run(["backup", "orders", "--output", "json"]);
            if output.code == Some(0) {
                let id = output.json()["id"].as_str().unwrap().to_owned();
                let shown = sandbox.run(["show", "orders", &id, "--output", "json"]);
                assert_eq!(shown.check_code(0).json()["record"]["plugin"]["sha256"], sha256(&relay()));
            } else {
                output.check_code(4).check_stdout("not the one that was approved");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // Whatever was tried, the only plugin that a backup has kept is the approved one.
    let kept: Vec<_> =
        std::fs::read_dir(sandbox.path("store/plugins")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept, [std::ffi::OsString::from(format!("{}.wasm", sha256(&relay())))]);
}

#[test]
fn inspect_fails_a_pipeline_on_what_it_is_told_to() {
    let sandbox = sandbox("", &pinned(), GRANTS);
    let file = |words: &str| sandbox.run(["plugin", "inspect", "./shop.wasm", "--fail-on", words]);
    file("exec,inspect").check_code(5).check_stderr("fails on: exec, inspect");
    file("wasi,secrets,never-allowed,stdin-from-plugin").check_code(0);
    file("unsigned").check_code(5);
    file("nonsense").check_code(2);
    // Of a plugin of the configuration only what is effective counts: `query` is not granted.
    let of_plugin = |words: &str| sandbox.run(["plugin", "inspect", "shop", "--fail-on", words]);
    of_plugin("exec").check_code(5);
    of_plugin("inspect,changes,not-approved").check_code(0).check_stdout("(not granted)");
    of_plugin("no-ceiling")
        .check_code(5)
        .check_stdout("no ceiling: whoever writes the configuration may grant anything");
    let key = keygen(&sandbox, "vendor");
    sign(&sandbox, "vendor").check_code(0);
    let trusting = ["plugin", "inspect", "./shop.wasm", "--fail-on", "unsigned", "--trusted-key", &key];
    sandbox.run(trusting).check_code(0).check_stdout("signature  good");
    let json = sandbox.run(trusting.iter().chain(&["--output", "json"])).check_code(0).json();
    check_documented(&json, "Inspection");
    assert_eq!(json["signature"]["state"], "good");
}

#[test]
fn diff_says_what_a_new_version_can_do_and_the_old_one_could_not() {
    let sandbox = sandbox("", "", "");
    sandbox.write("next.wasm", with_manifest("version = \"1.2.3\"", "version = \"1.2.4\""));
    let same = sandbox.run(["plugin", "diff", "./shop.wasm", "./next.wasm", "--fail-on-more"]);
    assert_eq!(same.check_code(0).stdout.lines().count(), 3, "{}", same.stdout);
    let evil = with_manifest("slots = { value = \"[a-z0-9./-]{1,64}\" }", "slots = { value = \"[^@]{1,900}\"  } #   ");
    sandbox.write("evil.wasm", evil);
    let more = sandbox.run(["plugin", "diff", "shop", "./evil.wasm", "--fail-on-more"]);
    more.check_code(5)
        .check_stdout("can do and could not")
        .check_stdout("exec \"produce\"")
        .check_stdout("[^@]{1,900}");
    let json = sandbox.run(["plugin", "diff", "shop", "./evil.wasm", "--output", "json"]).check_code(0).json();
    check_documented(&json, "Difference");
    assert_eq!(json["more"][0]["kind"], "exec");
}

/// The commands and answers that the README's section on security shows.
fn sessions() -> Vec<(String, Vec<String>)> {
    let readme = std::fs::read_to_string(strongroom_tests::root().join("README.md")).unwrap();
    let section = readme.split("\n## Security\n").nth(1).expect("the section").split("\n## ").next().unwrap();
    let blocks = section.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut sessions: Vec<(String, Vec<String>)> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ strongroom "), sessions.last_mut()) {
            (Some(command), _) => sessions.push((command.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("the first line is a command: {line}"),
        }
    }
    sessions
}

/// Whether what was printed has these lines in their order; `…` stands for anything.
fn is_shown(printed: &str, lines: &[String]) -> Result<(), String> {
    let mut rest = printed.lines();
    for line in lines.iter().filter(|line| !line.trim().is_empty() && line.trim() != "…") {
        let parts: Vec<String> = line.trim().split('…').map(regex::escape).collect();
        let wanted = regex::Regex::new(&format!("^{}$", parts.join(".*"))).map_err(|error| error.to_string())?;
        if !rest.any(|line| wanted.is_match(line.trim())) {
            return Err(format!("no {line:?}, or not in this place, in\n{printed}"));
        }
    }
    Ok(())
}

#[test]
fn the_security_sessions_of_the_readme_are_what_a_reader_sees() {
    let sandbox = Sandbox::new();
    let bucket = std::fs::read(plugin("bucket").unwrap_or_else(|error| panic!("{error:#}"))).unwrap();
    sandbox.write("bucket.wasm", &bucket);
    sandbox.write("bucket-next.wasm", [bucket.clone(), b"\0\x02\x01x".to_vec()].concat());
    for folder in ["backups", "documents"] {
        std::fs::create_dir(sandbox.path(folder)).unwrap();
    }
    sandbox.config(
        "[store.main]\ntype = \"local\"\npath = \"backups\"\nencryption = \"off\"\n\n[bucket.documents]\ntype = \"local\"\n\
         path = \"documents\"\n\n[plugin.bucket]\nsource = \"bucket.wasm\"\n\n[job.documents]\nplugin = \"bucket\"\n\
         store = \"main\"\nsettings = { bucket = \"documents\" }\n",
    );
    let sessions = sessions();
    let verbs = ["inspect", "diff", "approve", "keygen", "sign"];
    for verb in verbs {
        assert!(
            sessions.iter().any(|(command, _)| command.starts_with(&format!("plugin {verb}"))),
            "no session of {verb}"
        );
    }
    for (command, lines) in sessions {
        let digest = sha256(&bucket);
        let args: Vec<String> =
            command.split(' ').map(|word| if word == "SHA256" { digest.clone() } else { word.to_owned() }).collect();
        let output = sandbox.run(&args);
        let printed = format!("{}{}", output.stdout, output.stderr);
        is_shown(&printed, &lines).unwrap_or_else(|why| panic!("`strongroom {command}` prints {why}"));
    }
    assert!(Path::new(&sandbox.path("vendor.pub")).exists());
}
