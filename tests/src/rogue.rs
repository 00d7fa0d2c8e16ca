//! A sandbox with the job `evil`, whose plugin does the one bad thing that it is told to; and what must be
//! true after each: a line in the audit log, nothing left behind, and a host that goes on serving.

use crate::process::with_variable;
use crate::relay::sha256;
use crate::{Output, Running, Sandbox, files, plugin};
use anyhow::Result;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What the operator grants; `endless` is another program in some tests.
const GRANTS: &str = r#"
[plugin.rogue.grant.artifacts]
inspect = ["readable.*"]

[plugin.rogue.grant.exec.echo]
program = "/bin/echo"
args = ["{word}"]
slots = { word = "[a-z]{1,20}" }
verbs = ["backup"]
effect = "reads"

[plugin.rogue.grant.exec.seen]
program = "/bin/echo"
args = ["{word}"]
slots = { word = "[a-z]{1,20}" }
verbs = ["backup"]
effect = "reads"
inspect = true

[plugin.rogue.grant.exec.watched]
program = "/usr/bin/yes"
verbs = ["backup"]
effect = "reads"
inspect = true

[plugin.rogue.grant.exec.feed]
program = "/bin/cat"
stdin = { artifact = "expected\\.sql", made_by = "seen" }
verbs = ["verify"]
effect = "reads"

[plugin.rogue.grant.exec.copy]
program = "/bin/cat"
stdin = "plugin"
verbs = ["backup"]
effect = "reads"

[[plugin.rogue.grant.bucket.data]]
may = ["list", "read"]
verbs = ["backup", "restore"]
effect = "reads"

[[plugin.rogue.grant.bucket.data]]
may = ["write"]
verbs = ["restore"]
effect = "changes"
"#;

/// One attack on the host.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// What the guest is told to do.
    pub deed: &'static str,
    /// The verb and what follows the job.
    pub verb: &'static [&'static str],
    /// The plugin's `limits`, as TOML lines.
    pub limits: &'static str,
    /// What `endless` runs, as TOML lines of its grant.
    pub endless: &'static str,
    /// The exit code.
    pub code: i32,
    /// What the operator reads.
    pub says: &'static [&'static str],
    /// The line of the audit log that tells of it.
    pub line: LineOf,
}

/// A line of the audit log: its event, its function, and a text of its outcome or detail. What is empty is
/// not looked at.
#[derive(Clone, Copy, Debug)]
pub struct LineOf(pub &'static str, pub &'static str, pub &'static str);

impl Attack {
    /// A backup that ends with this code.
    pub const fn new(deed: &'static str, code: i32, says: &'static [&'static str], line: LineOf) -> Self {
        Self { deed, verb: &["backup"], limits: "", endless: ENDLESS, code, says, line }
    }

    /// The same with other limits.
    #[must_use]
    pub const fn under(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// The same in another verb.
    #[must_use]
    pub const fn in_verb(self, verb: &'static [&'static str]) -> Self {
        Self { verb, ..self }
    }

    /// The same with another program behind `endless`.
    #[must_use]
    pub const fn with_endless(self, endless: &'static str) -> Self {
        Self { endless, ..self }
    }
}

/// A command that writes for ever.
const ENDLESS: &str = "program = \"/usr/bin/yes\"";

/// The sandbox.
#[derive(Debug)]
pub struct Rogue {
    /// Where everything is.
    pub sandbox: Sandbox,
    component: PathBuf,
    digest: String,
    mark: String,
    known: RefCell<BTreeSet<PathBuf>>,
}

impl Rogue {
    /// With the guest `rogue` as it was built.
    pub fn new() -> Self {
        let component = plugin("guests/rogue").unwrap_or_else(|error| panic!("{error:#}"));
        let sandbox = Sandbox::new();
        for folder in ["store", "data"] {
            std::fs::create_dir(sandbox.path(folder)).expect("a folder");
        }
        sandbox.write("data/one", "first");
        sandbox.write("outside.txt", "outside");
        std::os::unix::fs::symlink("..", sandbox.path("data/link")).expect("a link");
        let digest = sha256(&std::fs::read(&component).expect("the guest rogue"));
        let name = sandbox.dir().file_name().expect("a sandbox has a name").to_string_lossy().replace('-', "_");
        Self { sandbox, component, digest, mark: format!("MARK_{name}"), known: RefCell::default() }
    }

    /// Puts other bytes in the guest's place, approved like it.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.component = self.sandbox.write("replaced.wasm", bytes);
        self.digest = sha256(bytes);
    }

    /// The SHA-256 of the component that is configured.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Writes the configuration for a deed.
    pub fn configure(&self, deed: &str, limits: &str, endless: &str) {
        self.sandbox.config(&format!(
            r#"
[store.main]
type = "local"
path = "store"
encryption = "off"

[bucket.data]
type = "local"
path = "data"

[plugin.rogue]
source = "{source}"
sha256 = "{digest}"

[plugin.rogue.limits]
{limits}
{GRANTS}
[plugin.rogue.grant.exec.endless]
{endless}
verbs = ["backup", "diagnose"]
effect = "reads"

[job.evil]
plugin = "rogue"
store = "main"
env = {{ {mark} = "1" }}
settings = {{ do = "{deed}" }}
"#,
            source = self.component.display(),
            digest = self.digest,
            mark = self.mark,
        ));
    }

    /// Starts a backup of a deed, to be disturbed.
    pub fn start(&self, deed: &str, limits: &str) -> Result<Running> {
        self.configure(deed, limits, ENDLESS);
        self.sandbox.strongroom(["backup", "evil"]).start()
    }

    /// Does it and looks at everything that must hold after it.
    #[track_caller]
    pub fn check(&self, attack: &Attack) -> Output {
        let Attack { deed, verb, limits, endless, code, says, line } = *attack;
        self.configure(deed, limits, endless);
        let recorded = self.records();
        let output = self.sandbox.run([verb[0], "evil"].iter().chain(&verb[1..]));
        let what = format!("{deed} in {verb:?}\n--- stdout\n{}\n--- stderr\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(code), "{what}");
        for text in says {
            assert!(what.contains(text), "no {text:?} in {what}");
        }
        for never in ["panicked at", "is a fault of strongroom"] {
            assert!(!what.contains(never), "{never:?} in {what}");
        }
        assert!(!what.contains('\u{1b}'), "a control character in {what}");
        if !matches!(code, 0 | 3) {
            assert_eq!(self.records(), recorded, "a backup was recorded by {what}");
        }
        self.check_nothing_left(&what);
        self.check_line(line, &what);
        self.check_serves(&what);
        output
    }

    /// A line of the newest chain tells of it, and the chain has its end.
    #[track_caller]
    pub fn check_line(&self, line: LineOf, what: &str) {
        let LineOf(event, function, text) = line;
        let lines = self.newest_chain();
        let holds = |key: &str, line: &Value, wanted: &str| line[key].as_str().unwrap_or_default().contains(wanted);
        let tells = |line: &&Value| {
            holds("event", line, event)
                && holds("function", line, function)
                && (holds("detail", line, text) || holds("outcome", line, text))
        };
        assert!(lines.iter().any(|line| tells(&line)), "no {line:?} in {lines:#?}\nof {what}");
        assert_eq!(lines.last().expect("a chain has lines")["event"], "end", "of {what}");
    }

    /// The lines of the one run that was made since the last look.
    #[track_caller]
    pub fn newest_chain(&self) -> Vec<Value> {
        let mut known = self.known.borrow_mut();
        let all: BTreeSet<PathBuf> = self.chains().into_iter().collect();
        let new: Vec<_> = all.difference(&known).cloned().collect();
        assert_eq!(new.len(), 1, "one run since the last look: {new:?}");
        *known = all;
        let text = std::fs::read_to_string(&new[0]).expect("a chain");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// The files of all chains.
    pub fn chains(&self) -> Vec<PathBuf> {
        files(&self.sandbox.path("home/.local/state/strongroom/audit/runs")).unwrap_or_default()
    }

    /// Nothing of a run is left: no process, no half-made object, no scratch file, and nothing outside of
    /// the bucket has changed.
    #[track_caller]
    pub fn check_nothing_left(&self, what: &str) {
        assert_eq!(with_variable(&self.mark), Vec::<String>::new(), "left running by {what}");
        let names = |folder: &str| -> Vec<String> {
            let found = files(&self.sandbox.path(folder)).unwrap_or_default();
            found.iter().map(|path| path.display().to_string()).filter(|name| !name.contains("/lease-")).collect()
        };
        assert_eq!(names("store/.tmp"), Vec::<String>::new(), "left in the store by {what}");
        assert_eq!(names("tmp"), Vec::<String>::new(), "left in the scratch folder by {what}");
        let outside = std::fs::read_to_string(self.sandbox.path("outside.txt")).unwrap_or_default();
        assert_eq!(outside, "outside", "changed by {what}");
    }

    /// The next run in the same state directory works.
    #[track_caller]
    pub fn check_serves(&self, what: &str) {
        self.configure("spawn", "", ENDLESS);
        let next = self.sandbox.run(["backup", "evil"]);
        assert_eq!(next.code, Some(0), "the next backup after {what}\n{}", next.stderr);
        self.newest_chain();
    }

    /// The log of all that happened is as it was written.
    #[track_caller]
    pub fn check_log(&self) {
        self.sandbox.run(["audit", "verify", "--store", "main"]).check_code(0);
    }

    /// How many backups there are.
    pub fn records(&self) -> usize {
        let is_record = |path: &&PathBuf| path.ends_with("record.json");
        files(&self.sandbox.path("store")).unwrap_or_default().iter().filter(is_record).count()
    }
}

impl Default for Rogue {
    fn default() -> Self {
        Self::new()
    }
}
