//! A sandbox with a job whose component is whatever a test says: the guest `relay`, a local store, an
//! age identity, and grants that the test writes.

use crate::warm::Warm;
use crate::{Output, Sandbox, plugin};
use age::secrecy::ExposeSecret;
use std::path::{Path, PathBuf};

/// What differs between one relay and another.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What `produce` runs.
    pub produce: Vec<String>,
    /// More lines of the grant `produce`.
    pub produce_more: String,
    /// What `consume` runs.
    pub consume: Vec<String>,
    /// The job's `settings`, as TOML lines.
    pub settings: String,
    /// The plugin's `limits`, as TOML lines.
    pub limits: String,
    /// Where `[store.main]` is, as TOML lines.
    pub place: String,
    /// More lines of `[store.main]`.
    pub store: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            produce: sh("seq 1 300000"),
            produce_more: String::new(),
            consume: sh("cat > /dev/null"),
            settings: String::new(),
            limits: String::new(),
            place: "type = \"local\"\npath = \"store\"".into(),
            store: String::new(),
        }
    }
}

/// A command line that a shell runs.
pub fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

/// A sandbox with the job `orders`.
#[derive(Debug)]
pub struct Relay {
    /// Where everything is.
    pub sandbox: Sandbox,
    setup: Setup,
    recipient: String,
}

impl Relay {
    /// Writes identity and configuration; the store is the folder `store` of the sandbox.
    pub fn new(setup: Setup) -> Self {
        static WARM: Warm = Warm::new("guests/relay");
        let relay = Self::cold(setup);
        WARM.give(&relay.sandbox, || {
            let relay = Self::cold(Setup::default());
            relay.run(&["diagnose", "orders"]).check_code(0);
            relay.sandbox
        });
        relay
    }

    /// The same, and its plugin has yet to be compiled.
    pub fn cold(setup: Setup) -> Self {
        let sandbox = Sandbox::new();
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        std::fs::create_dir(sandbox.path("store")).expect("the store's folder");
        let relay = Self { sandbox, setup, recipient };
        relay.configure(&relay.setup.clone());
        relay
    }

    /// Writes the configuration again with another setup.
    pub fn configure(&self, setup: &Setup) {
        let component = plugin("guests/relay").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).expect("the guest relay"));
        let line = |command: &[String]| {
            let quoted: Vec<_> =
                command.iter().map(|arg| format!("{:?}", arg.replace('{', "{{").replace('}', "}}"))).collect();
            format!("program = {}\nargs = [{}]", quoted[0], quoted[1..].join(", "))
        };
        let Setup { produce, produce_more, consume, settings, limits, place, store } = setup;
        self.sandbox.config(&format!(
            r#"
[store.main]
{place}
recipients = ["{recipient}"]
identity = {{ file = "identity.txt" }}
{store}

[plugin.relay]
source = "{source}"
sha256 = "{digest}"

[plugin.relay.limits]
{limits}

[plugin.relay.grant.artifacts]

[plugin.relay.grant.exec.produce]
{produce}
verbs = ["backup"]
effect = "reads"
{produce_more}

[plugin.relay.grant.exec.check]
program = "/bin/sh"
args = ["-c", "cat > /dev/null"]
stdin = {{ artifact = "[A-Za-z0-9._-]+", made_by = "produce" }}
verbs = ["verify"]
effect = "reads"

[plugin.relay.grant.exec.consume]
{consume}
stdin = {{ artifact = "[A-Za-z0-9._-]+", made_by = "produce" }}
verbs = ["restore"]
effect = "changes"

[plugin.relay.grant.exec.query]
program = "/bin/sh"
args = ["-c", "echo fine"]
inspect = true
verbs = ["diagnose"]
effect = "reads"

[job.orders]
plugin = "relay"
store = "main"

[job.orders.settings]
{settings}
"#,
            recipient = self.recipient,
            source = component.display(),
            produce = line(produce),
            consume = line(consume),
        ));
    }

    /// Runs `strongroom` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sandbox.run(args)
    }

    /// Makes a backup that must succeed, and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        let made = self.run(&["backup", "orders", "--output", "json"]);
        made.check_code(0);
        made.json()["id"].as_str().expect("a backup has an id").to_owned()
    }

    /// Ids of the backups that `list` shows.
    pub fn listed(&self) -> Vec<String> {
        let listed = self.run(&["list", "orders", "--output", "json"]);
        listed.check_code(0);
        let backups = listed.json()["backups"].as_array().cloned().expect("a list of backups");
        backups.iter().map(|backup| backup["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.sandbox.path("store")
    }

    /// Files of the store that could be taken for a backup: everything but locks, leases and plugins.
    pub fn stored(&self) -> Vec<PathBuf> {
        let root = self.store();
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder of the store").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() {
                    if entry.path() != root.join("plugins") {
                        folders.push(entry.path());
                    }
                } else if name != "lock" && !name.starts_with("lease-") {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// The segments of one backup.
    pub fn segments(&self, id: &str) -> Vec<PathBuf> {
        let folder = self.store().join("orders").join(id).join("data");
        self.stored().into_iter().filter(|path| path.starts_with(&folder)).collect()
    }
}

/// Takes a file's rights away from everybody else.
pub fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("rights of a file");
}

/// SHA-256 in hex, by the machine's own `sha256sum`.
pub fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("sha256sum reads");
    let output = child.wait_with_output().expect("sha256sum ends");
    String::from_utf8(output.stdout).expect("text").split_whitespace().next().expect("a digest").to_owned()
}
