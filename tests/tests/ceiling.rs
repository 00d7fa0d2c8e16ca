//! The ceiling of the machine where it really lies, `/etc/strongroom/ceiling.toml`: read by the binary as
//! it is installed, without any stand-in. Each command has an `/etc` of its own, in a mount namespace.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use strongroom_tests::relay::sha256;
use strongroom_tests::{Output, Sandbox, host_binary, plugin};

/// Where it lies, for every user of the machine.
const CEILING: &str = "/etc/strongroom/ceiling.toml";
/// A user that is neither root nor the one who runs the tests; who it is does not matter.
const NOBODY: u32 = 65534;
/// Allows what the job needs, and no other program.
const ALLOWS: &str = "artifacts = \"any\"\n\n[[exec]]\nprogram = \"/bin/cat\"\n";

/// A sandbox with the job `orders`, and an `/etc` to be mounted.
struct Machine {
    sandbox: Sandbox,
}

impl Machine {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let component = fs::read(plugin("guests/relay").unwrap_or_else(|error| panic!("{error:#}"))).unwrap();
        fs::create_dir(sandbox.path("store")).unwrap();
        sandbox.write("relay.wasm", &component);
        sandbox.config(&format!(
            r#"
[store.main]
type = "local"
path = "store"
encryption = "off"

[plugin.shop]
source = "relay.wasm"
sha256 = "{}"

[plugin.shop.grant.artifacts]

[plugin.shop.grant.exec.produce]
program = "/bin/cat"
args = ["{{value}}"]
slots = {{ value = "[a-z0-9./-]{{1,64}}" }}
verbs = ["backup"]
effect = "reads"

[job.orders]
plugin = "shop"
store = "main"
settings = {{ value = "/etc/hostname" }}
"#,
            sha256(&component)
        ));
        let machine = Self { sandbox };
        machine.reset(ALLOWS);
        machine
    }

    /// `/etc` as it should be: of root, and closed to everybody else.
    fn reset(&self, ceiling: &str) {
        let etc = self.etc();
        drop(fs::remove_dir_all(&etc));
        for folder in [etc.clone(), etc.join("strongroom")] {
            fs::create_dir(&folder).unwrap();
            mode(&folder, 0o755);
        }
        self.sandbox.write("etc/hostname", "machine\n");
        mode(&self.sandbox.write("etc/strongroom/ceiling.toml", ceiling), 0o644);
    }

    fn etc(&self) -> PathBuf {
        self.sandbox.path("etc")
    }

    fn ceiling(&self) -> PathBuf {
        self.sandbox.path("etc/strongroom/ceiling.toml")
    }

    /// Runs the real binary; only it sees this `/etc`.
    fn run(&self, args: &[&str]) -> Output {
        assert!(
            rustix::process::geteuid().is_root(),
            "whose file a ceiling is can only be shown as root: run the tests as root, as CI does"
        );
        let (binary, etc) = (host_binary().unwrap_or_else(|error| panic!("{error:#}")), self.etc());
        let script = "mount --bind \"$1\" /etc && shift && exec \"$@\"";
        let begin = ["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"].map(Path::new);
        let words = begin.into_iter().chain([etc.as_path(), binary.as_path()]).chain(args.iter().map(Path::new));
        self.sandbox.command("unshare", words).run()
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_ceiling_of_the_machine_is_read_from_where_it_lies_and_binds_every_verb() {
    let machine = Machine::new();
    machine.run(&["plugin", "inspect", "shop"]).check_code(0).check_stdout(&format!("ceiling    {CEILING}"));
    machine.run(&["backup", "orders"]).check_code(0);
    machine.reset(&ALLOWS.replace("/bin/cat", "/bin/true"));
    let digest = sha256(&fs::read(machine.sandbox.path("relay.wasm")).unwrap());
    for verb in [
        &["backup", "orders"][..],
        &["verify", "orders"],
        &["restore", "orders", "latest"],
        &["diagnose", "orders"],
        &["list", "orders"],
        &["config", "check"],
        &["plugin", "inspect", "shop"],
        &["plugin", "approve", "shop", "--digest", &digest],
    ] {
        let output = machine.run(verb);
        output.check_error(2, &["is over the ceiling", CEILING, "/bin/cat"]);
    }
    // Another ceiling is added to it, and takes nothing of it away.
    let any = machine.sandbox.write("any.toml", "exec = \"any\"\nartifacts = \"any\"\nbucket = \"any\"\n");
    mode(&any, 0o644);
    let added = machine.run(&["backup", "orders", "--ceiling", any.to_str().unwrap()]);
    added.check_error(2, &["is over the ceiling", CEILING]);
    // What is wrong is no missing ceiling.
    machine.reset("exec = ");
    machine.run(&["backup", "orders"]).check_error(2, &[CEILING]);
    fs::remove_file(machine.ceiling()).unwrap();
    machine.run(&["plugin", "inspect", "shop"]).check_code(0).check_stdout("ceiling    none");
    machine.run(&["backup", "orders"]).check_code(0);
}

#[test]
fn a_machine_ceiling_that_others_could_change_is_an_error_that_names_what_they_could_change() {
    type Prepare = fn(&Machine);
    let cases: [(&str, Prepare, &str); 9] = [
        ("a group can write the file", |m| mode(&m.ceiling(), 0o664), "chmod go-w \"/etc/strongroom/ceiling.toml\""),
        ("all can write the file", |m| mode(&m.ceiling(), 0o646), "chmod go-w \"/etc/strongroom/ceiling.toml\""),
        (
            "a group can write its folder",
            |m| mode(&m.etc().join("strongroom"), 0o775),
            "chmod go-w \"/etc/strongroom\"",
        ),
        ("all can write its folder", |m| mode(&m.etc().join("strongroom"), 0o777), "chmod go-w \"/etc/strongroom\""),
        ("all can write the folder above", |m| mode(&m.etc(), 0o777), "chmod go-w \"/etc\""),
        (
            "its folder is another user's",
            |m| chown(m.etc().join("strongroom"), Some(NOBODY), None).unwrap(),
            "chown root \"/etc/strongroom\"",
        ),
        (
            "a link into a folder that all can write",
            |m| {
                let open = m.sandbox.path("etc/open");
                fs::create_dir(&open).unwrap();
                fs::rename(m.ceiling(), open.join("ceiling.toml")).unwrap();
                mode(&open, 0o777);
                symlink("../open/ceiling.toml", m.ceiling()).unwrap();
            },
            "chmod go-w \"/etc/open\"",
        ),
        (
            "a link of another user",
            |m| {
                fs::rename(m.ceiling(), m.etc().join("real.toml")).unwrap();
                symlink("/etc/real.toml", m.ceiling()).unwrap();
                lchown(m.ceiling(), Some(NOBODY), None).unwrap();
            },
            "chown root \"/etc/strongroom/ceiling.toml\"",
        ),
        (
            "a link that leads nowhere, as to a file system that is not mounted",
            |m| {
                fs::remove_file(m.ceiling()).unwrap();
                symlink("/etc/policy/ceiling.toml", m.ceiling()).unwrap();
            },
            "leads nowhere",
        ),
    ];
    let machine = Machine::new();
    for (what, prepare, says) in cases {
        machine.reset(ALLOWS);
        prepare(&machine);
        for verb in [&["backup", "orders"][..], &["plugin", "inspect", "shop"]] {
            let output = machine.run(verb);
            assert!(output.stderr.contains(says), "{what}: no {says:?} in\n{}", output.stderr);
            output.check_error(4, &["the ceiling", CEILING]);
        }
    }
    // A folder in its place is none, and no missing one either.
    machine.reset(ALLOWS);
    fs::remove_file(machine.ceiling()).unwrap();
    fs::create_dir(machine.ceiling()).unwrap();
    machine.run(&["backup", "orders"]).check_error(4, &["is not a file", CEILING]);
}

#[test]
fn a_machine_ceiling_may_belong_to_the_security_team_and_be_a_link_that_only_it_and_root_can_change() {
    let machine = Machine::new();
    machine.run(&["backup", "orders"]).check_code(0);
    // Whoever owns the file decides what is in it; the way to it is root's.
    chown(machine.ceiling(), Some(NOBODY), None).unwrap();
    machine.run(&["plugin", "inspect", "shop"]).check_code(0).check_stdout(CEILING);
    fs::rename(machine.ceiling(), machine.etc().join("team.toml")).unwrap();
    symlink("/etc/team.toml", machine.ceiling()).unwrap();
    machine.run(&["plugin", "inspect", "shop"]).check_code(0).check_stdout(CEILING);
    machine.run(&["backup", "orders"]).check_code(0);
    // And it still holds.
    fs::write(machine.etc().join("team.toml"), "").unwrap();
    machine.run(&["backup", "orders"]).check_error(2, &["is over the ceiling", CEILING]);
}

#[test]
fn a_bucket_that_is_a_link_out_of_what_the_ceiling_allows_is_refused_before_anything_of_it_is_read() {
    let sandbox = Sandbox::new();
    let component = plugin("bucket").unwrap_or_else(|error| panic!("{error:#}"));
    let digest = sha256(&fs::read(&component).unwrap());
    sandbox.write("allowed/shop/report.txt", "within");
    sandbox.write("allowed/other/report.txt", "within as well");
    sandbox.write("elsewhere/report.txt", "canary of elsewhere");
    for folder in ["store", "found"] {
        fs::create_dir(sandbox.path(folder)).unwrap();
    }
    sandbox.config(&format!(
        "[store.main]\ntype = \"local\"\npath = \"store\"\nencryption = \"off\"\n\n[bucket.shop]\ntype = \"local\"\n\
         path = \"allowed/shop\"\n\n[plugin.bucket]\nsource = {component:?}\n\n[job.shop]\nplugin = \"bucket\"\n\
         store = \"main\"\nsettings = {{ bucket = \"shop\" }}\n"
    ));
    sandbox.run(["plugin", "approve", "bucket", "--digest", &digest]).check_code(0);
    let allowed = sandbox.path("allowed");
    let rule = |path: &Path| {
        let may = ["list", "read", "read-config"];
        format!("artifacts = \"any\"\n\n[[bucket]]\npath = {path:?}\nmay = {may:?}\ninspect = true\n")
    };
    mode(&sandbox.write("ceiling.toml", rule(&allowed)), 0o644);
    let backup = || sandbox.run(["backup", "shop", "--ceiling", "ceiling.toml"]);
    backup().check_code(0);
    let shop = sandbox.path("allowed/shop");
    let stored = || strongroom_tests::files(&sandbox.path("store")).unwrap().len();
    let before = stored();
    fs::remove_dir_all(&shop).unwrap();
    for target in
        ["../elsewhere", "other/../../elsewhere", sandbox.path("elsewhere").to_str().unwrap(), "../allowed/way"]
    {
        // The last one by a second link.
        drop(fs::remove_file(sandbox.path("allowed/way")));
        symlink(sandbox.path("elsewhere"), sandbox.path("allowed/way")).unwrap();
        symlink(target, &shop).unwrap();
        let refused = backup();
        let real = sandbox.path("elsewhere").canonicalize().unwrap();
        refused.check_error(4, &["a grant of plugin \"bucket\" is over the ceiling", "ceiling.toml"]);
        refused.check_stderr(&format!("no rule for the directory {:?}", real.to_str().unwrap()));
        assert!(!refused.stderr.contains("canary of elsewhere"), "{}", refused.stderr);
        assert_eq!(stored(), before, "nothing of {target} was stored");
        // Without the ceiling it is the operator's own link.
        fs::remove_file(&shop).unwrap();
    }
    symlink("other", &shop).unwrap();
    backup().check_code(0);
    let audited = sandbox.run(["audit", "show", "--output", "json"]);
    audited.check_code(0).check_stdout("is over the ceiling");
}

#[test]
fn a_kubeconfig_runs_a_program_only_for_the_server_that_the_ceiling_names() {
    let machine = Machine::new();
    let sandbox = &machine.sandbox;
    let ran = sandbox.path("ran");
    sandbox.write(
        "kubeconfig",
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: 'http://127.0.0.1:1'}}\nusers:\n- name: u\n  \
             user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: /usr/bin/touch, args: [{ran:?}], interactiveMode: Never}}}}\n\
             contexts:\n- name: x\n  context: {{cluster: c, user: u}}\n"
        ),
    );
    let config = fs::read_to_string(sandbox.path("strongroom.toml")).unwrap();
    let pod = "run_in = { pod = { cluster = \"prod\", namespace = \"db\", name = \"pg-0\" } }";
    sandbox.config(&config.replace("[job.orders]", &format!(
        "[cluster.prod]\ncontext = \"x\"\nkubeconfig = \"kubeconfig\"\nexec_credentials = true\ntimeout = \"2s\"\n\n[job.orders]\n{pod}"
    )));
    let rule = |server: &str, more: &str| {
        format!("{ALLOWS}\n[[kube]]\nserver = {server:?}\nmay = [\"list\"]\nkinds = [\"*\"]\n{more}\n")
    };
    machine.reset(&rule("http://127.0.0.1:1", ""));
    let written = machine.run(&["backup", "orders"]);
    written.check_error(2, &["cluster.prod is over the ceiling", "exec_credentials", CEILING]);
    machine.reset(&rule("https://other", "exec_credentials = true"));
    let resolved = machine.run(&["backup", "orders"]);
    resolved.check_error(4, &["cluster \"prod\" is over the ceiling", "http://127.0.0.1:1", CEILING]);
    assert!(!ran.exists(), "the program did not run");
    machine.reset(&rule("http://127.0.0.1:1", "exec_credentials = true"));
    // It may run now, and gives nothing that is credentials.
    assert_ne!(machine.run(&["backup", "orders"]).code, Some(0));
    assert!(ran.exists(), "the program ran");
}
