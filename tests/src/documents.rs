//! A sandbox with a job whose component is a directory tree: the plugin `bucket`, a store, an age
//! identity, and grants as `plugin approve` writes them.

use crate::relay::{private, sha256};
use crate::warm::Warm;
use crate::{Output, Running, Sandbox, plugin};
use age::secrecy::ExposeSecret;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// What differs between one such sandbox and another.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// More lines of the job's `settings`, as TOML.
    pub settings: String,
    /// All lines of `[store.main]` but recipients and identity; a folder of the sandbox unless set.
    pub store: Option<String>,
}

/// A sandbox with the job `documents`: the bucket `documents` is what is backed up, the bucket and
/// target `found` where it is restored into.
#[derive(Debug)]
pub struct Documents {
    /// Where everything is.
    pub sandbox: Sandbox,
    recipients: [String; 2],
}

impl Documents {
    /// A local store, and settings that name the bucket only.
    pub fn new() -> Self {
        Self::with(&Setup::default())
    }

    /// Makes two empty trees, identity and configuration, and approves the plugin by its digest.
    pub fn with(setup: &Setup) -> Self {
        static WARM: Warm = Warm::new("bucket");
        let documents = Self::cold(setup);
        WARM.give(&documents.sandbox, || {
            let documents = Self::cold(&Setup::default());
            documents.run(&["diagnose", "documents"]);
            documents.sandbox
        });
        documents
    }

    /// The same, and the plugin has yet to be compiled.
    fn cold(setup: &Setup) -> Self {
        let sandbox = Sandbox::new();
        let identity = age::x25519::Identity::generate();
        // The second is the one that somebody keeps offline.
        let recipients = [&identity, &age::x25519::Identity::generate()].map(|one| one.to_public().to_string());
        private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        for folder in ["store", "documents", "found"] {
            std::fs::create_dir(sandbox.path(folder)).expect("a folder of the sandbox");
        }
        let documents = Self { sandbox, recipients };
        documents.configure(setup);
        documents
    }

    /// Writes the configuration again, and approves the plugin.
    pub fn configure(&self, setup: &Setup) {
        let component = plugin("bucket").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).expect("the plugin bucket"));
        self.sandbox.config(&format!(
            r#"
[store.main]
{store}
recipients = {recipients:?}
identity = {{ file = "identity.txt" }}

[bucket.documents]
type = "local"
path = "documents"

[bucket.found]
type = "local"
path = "found"

[target.found]
options = {{ to_bucket = "found" }}

[plugin.bucket]
source = "{source}"

[job.documents]
plugin = "bucket"
store = "main"

[job.documents.settings]
bucket = "documents"
{settings}
"#,
            store = setup.store.as_deref().unwrap_or("type = \"local\"\npath = \"store\""),
            recipients = self.recipients,
            source = component.display(),
            settings = setup.settings,
        ));
        self.run(&["plugin", "approve", "bucket", "--digest", &digest]).check_code(0);
    }

    /// The tree that is backed up.
    pub fn source(&self) -> PathBuf {
        self.sandbox.path("documents")
    }

    /// The tree that is restored into.
    pub fn found(&self) -> PathBuf {
        self.sandbox.path("found")
    }

    /// Runs `strongroom` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sandbox.run(args)
    }

    /// Makes a backup that must end with this exit code, and returns its id.
    #[track_caller]
    pub fn backup(&self, code: i32) -> String {
        let made = self.run(&["backup", "documents", "--output", "json"]);
        made.check_code(code);
        made.json()["id"].as_str().expect("a backup has an id").to_owned()
    }

    /// Restores into `found` with more arguments.
    pub fn restore(&self, id: &str, more: &[&str]) -> Output {
        let args = ["restore", "documents", id, "--target", "found"];
        self.sandbox.run(args.iter().chain(more))
    }
}

impl Default for Documents {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits for the end of a command, and returns the most memory that it held at once, in bytes.
pub fn finish_with_peak(running: Running, timeout: Duration) -> Result<(Output, u64)> {
    let status = format!("/proc/{}/status", running.pid());
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        // The kernel keeps the peak; a process that has ended has none any more.
        while let Some(kib) = peak_of(&status) {
            peak = kib;
            std::thread::sleep(Duration::from_millis(10));
        }
        peak * 1024
    });
    let output = running.finish(timeout)?;
    Ok((output, watch.join().expect("the thread that watches")))
}

fn peak_of(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
