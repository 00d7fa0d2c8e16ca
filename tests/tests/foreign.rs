//! Plugins from other toolchains: Rust with a WASI, Python and JavaScript make a real backup, and what
//! WASI they bring is inert.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use std::fs;
use strongroom_tests::relay::{private, sha256};
use strongroom_tests::{Sandbox, plugin};

/// A sandbox with the job `shop`, made with the guest `name`.
fn sandbox(name: &str) -> Sandbox {
    use age::secrecy::ExposeSecret;
    let sandbox = Sandbox::new();
    let identity = age::x25519::Identity::generate();
    private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
    fs::create_dir(sandbox.path("store")).unwrap();
    let lines: String = (1..=50_000).map(|n| format!("order {n}\n")).collect();
    sandbox.write("shop.txt", lines);
    let component = plugin(&format!("foreign/{name}")).unwrap_or_else(|error| panic!("{error:#}"));
    sandbox.config(&format!(
        r#"
[store.main]
type = "local"
path = "store"
recipients = ["{recipient}"]
identity = {{ file = "identity.txt" }}

[plugin.{name}]
source = "{component}"
sha256 = "{digest}"

[plugin.{name}.grant.artifacts]

[plugin.{name}.grant.exec.dump]
program = "/bin/cat"
args = ["{dir}/{{file}}"]
slots = {{ file = "shop[.]txt" }}
verbs = ["backup"]
effect = "reads"

[plugin.{name}.grant.exec.count]
program = "/usr/bin/wc"
args = ["-l"]
stdin = {{ artifact = "data[.]txt", made_by = "dump" }}
inspect = true
verbs = ["verify"]
effect = "reads"

[plugin.{name}.grant.exec.load]
program = "/bin/cp"
args = ["/dev/stdin", "{dir}/{{file}}"]
slots = {{ file = "back[.]txt" }}
stdin = {{ artifact = "data[.]txt", made_by = "dump" }}
verbs = ["restore"]
effect = "changes"

[job.shop]
plugin = "{name}"
store = "main"
"#,
        recipient = identity.to_public(),
        component = component.display(),
        digest = sha256(&fs::read(&component).unwrap()),
        dir = sandbox.dir().display(),
    ));
    sandbox
}

/// The four verbs, each as with any other plugin; the facts of the backup.
#[track_caller]
fn check_verbs(name: &str) -> (Sandbox, serde_json::Value) {
    let sandbox = sandbox(name);
    let made = sandbox.run(["backup", "shop", "--output", "json", "-v"]);
    let id = made.check_code(0).json()["id"].as_str().unwrap().to_owned();
    let verdict = sandbox.run(["verify", "shop", &id, "--depth", "contents", "--output", "json"]).check_code(0).json();
    let check = verdict["checks"].as_array().unwrap().iter().find(|check| check["id"] == format!("{name}.lines"));
    assert_eq!(check.unwrap()["evidence"], "50000 lines");
    sandbox.run(["restore", "shop", &id, "--plan"]).check_code(0);
    assert!(!sandbox.path("back.txt").exists(), "a plan wrote");
    sandbox.run(["restore", "shop", &id]).check_code(0);
    assert_eq!(fs::read(sandbox.path("back.txt")).unwrap(), fs::read(sandbox.path("shop.txt")).unwrap());
    sandbox.run(["diagnose", "shop"]).check_code(5).check_stdout("this plugin knows nothing of its system");
    let shown = sandbox.run(["show", "shop", &id, "--output", "json"]).check_code(0).json();
    (sandbox, shown)
}

/// What the guest saw of the machine, as it reported it.
#[track_caller]
fn check_saw_nothing(shown: &serde_json::Value) {
    let facts: Vec<(String, String)> = serde_json::from_value(shown["record"]["facts"].clone()).unwrap();
    let saw = |place: &str| facts.iter().find(|(key, _)| key == place).map(|(_, saw)| saw.as_str());
    assert_eq!(saw("environment"), Some("0"));
    assert!(matches!(saw("arguments"), None | Some("0")), "{facts:?}");
    for place in ["/etc/passwd", "/", ".", "/proc/self/environ"] {
        assert!(saw(place).unwrap().starts_with("gone"), "{place}: {facts:?}");
    }
    for place in ["written", "network"] {
        assert!(saw(place).is_none_or(|saw| saw.starts_with("gone")), "{place}: {facts:?}");
    }
}

#[track_caller]
fn check_inspected(name: &str, inert: bool) {
    let sandbox = Sandbox::new();
    let component = plugin(&format!("foreign/{name}")).unwrap();
    let text = sandbox.run(["plugin", "inspect", component.to_str().unwrap()]);
    assert_eq!(text.check_code(0).stdout.contains("inert"), inert, "{}", text.stdout);
    let failing = sandbox.run(["plugin", "inspect", component.to_str().unwrap(), "--fail-on", "wasi,secrets"]);
    if inert {
        failing.check_code(5).check_stderr("fails on: wasi");
    } else {
        failing.check_code(0);
    }
}

#[test]
fn a_plugin_in_rust_with_a_wasi_makes_a_real_backup_and_its_wasi_is_inert() {
    let (_sandbox, shown) = check_verbs("wasip2");
    check_saw_nothing(&shown);
    assert!(!std::path::Path::new("/tmp/strongroom-wasip2").exists());
    check_inspected("wasip2", true);
}

#[test]
fn a_plugin_in_python_makes_a_real_backup_and_its_wasi_is_inert() {
    let (_sandbox, shown) = check_verbs("python");
    check_saw_nothing(&shown);
    check_inspected("python", true);
}

#[test]
fn a_plugin_in_javascript_makes_a_real_backup_and_imports_no_wasi() {
    check_verbs("javascript");
    check_inspected("javascript", false);
}

#[test]
fn a_component_of_another_toolchain_gets_its_manifest_once() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "plugin.toml",
        "name = \"other\"\nversion = \"1.0.0\"\nsummary = \"x\"\nlicence = \"MIT\"\ncomponent = [\"0.1\"]\n",
    );
    let build = |file: &str| sandbox.run(["plugin", "build", ".", "--component", file, "--out", "made.wasm"]);
    build("missing.wasm").check_code(1).check_stderr("missing.wasm");
    sandbox.write("text.wasm", "this is no component");
    build("text.wasm").check_code(2).check_stderr("not a WebAssembly component");
    sandbox.write("core.wasm", b"\0asm\x01\0\0\0");
    build("core.wasm").check_code(2).check_stderr("a core WebAssembly module");
    // One that has a manifest already would have two.
    let whole = plugin("foreign/wasip2").unwrap();
    build(whole.to_str().unwrap()).check_code(2).check_stderr("manifest");
    assert!(!sandbox.path("made.wasm").exists(), "nothing is written unless it is whole");
}
