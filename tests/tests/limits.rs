//! Every limit of a plugin: its key changes it, going beyond it is an error that names it, and
//! `docs/limits.md` says so.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use strongroom::config::Config;
use strongroom::config::key::{Key, ROOT, Section, Shape};
use strongroom::plugin::limits::Limits;
use strongroom_tests::relay::sha256;
use strongroom_tests::{Sandbox, bomb, plugin, root};

/// How a limit is gone beyond.
enum Beyond {
    /// The guest `rogue` does this; the run ends with the limit's error.
    Rogue(&'static str),
    /// The same, and the run goes on: the limit's words are a warning.
    RogueIsCut(&'static str),
    /// A component is loaded that takes minutes to compile.
    Bomb,
    /// A suite of its own goes beyond it.
    Elsewhere,
}

use Beyond::{Bomb, Elsewhere, Rogue, RogueIsCut};

/// Each limit with a value that is too little, and what then goes beyond it.
const LIMITS: &[(&str, &str, Beyond)] = &[
    ("memory", "\"1MiB\"", Rogue("nothing")),
    ("stack", "\"64KiB\"", Rogue("recurse-some")),
    ("table_elements", "1", Rogue("nothing")),
    ("instances", "1", Rogue("nothing")),
    ("cpu", "\"1s\"", Rogue("loop")),
    ("wall_clock", "\"1s\"", Rogue("sleep")),
    ("stall", "\"1s\"", Rogue("store-endless")),
    ("handles", "100", Rogue("flood-handles")),
    ("open_streams", "10", Rogue("flood-pipes")),
    ("processes", "1", Rogue("spawn-two-endless")),
    // `tests/tests/exec.rs`, with a program that allocates.
    ("command_memory", "\"64MiB\"", Elsewhere),
    ("artifacts", "1", Rogue("spawn-two")),
    ("archive_entries", "950", Rogue("many-archives-one-limit")),
    ("entry_path", "3999", Rogue("long-path")),
    ("call_bytes", "\"64KiB\"", Rogue("large-entry")),
    ("log_bytes", "\"1KiB\"", RogueIsCut("log-flood")),
    // Written metrics are of the suite of `metrics`.
    ("metric_series", "10", Elsewhere),
    // `tests/tests/scratch.rs`, with a guest that has a WASI.
    ("scratch_files", "10", Elsewhere),
    ("scratch_open", "10", Elsewhere),
    // Nothing goes beyond it: the next one waits.
    ("open_transfers", "1", Elsewhere),
    ("compile_memory", "\"256MiB\"", Bomb),
    ("compile_cpu", "\"1s\"", Bomb),
    ("compile_time", "\"1s\"", Bomb),
];

/// Deeds that go beyond the default as well, since they never end.
const ENDLESS: &[&str] = &["cpu", "wall_clock", "stall", "handles", "open_streams"];

/// The keys of `[plugin.x.limits]`.
fn keys() -> &'static [Key] {
    fn within(section: &'static Section, name: &str) -> &'static Shape {
        &section.keys.iter().find(|key| key.name == name).unwrap().shape
    }
    let Shape::Map(_, Shape::Table(plugin)) = within(&ROOT, "plugin") else { panic!("plugins are tables") };
    let Shape::Table(limits) = within(plugin, "limits") else { panic!("limits are a table") };
    limits.keys
}

fn parsed(line: &str) -> Limits {
    let text = format!("[plugin.p]\nsource = \"p.wasm\"\n[plugin.p.limits]\n{line}\n");
    let config = Config::parse(&text, Path::new("s.toml"), Path::new("/")).unwrap_or_else(|e| panic!("{e:?}"));
    config.plugin("p").unwrap().1.limits.clone()
}

/// The line of a limit in the documentation.
#[track_caller]
fn documented(key: &str) -> String {
    let text = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
    line.unwrap_or_else(|| panic!("docs/limits.md has no row for {key}")).to_owned()
}

#[test]
fn every_limit_is_changed_by_its_key_and_documented_with_its_default() {
    let tested: BTreeSet<&str> = LIMITS.iter().map(|(key, ..)| *key).collect();
    let known: BTreeSet<&str> = keys().iter().map(|key| key.name).collect();
    assert_eq!(tested, known, "a limit without a row in this test");
    let default = format!("{:?}", Limits::default());
    let mut fields = BTreeSet::new();
    for (key, value, _) in LIMITS {
        let set = format!("{:?}", parsed(&format!("{key} = {value}")));
        let of = |text: &str| text.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let changed: Vec<_> = of(&set).into_iter().zip(of(&default)).filter(|(is, was)| is != was).collect();
        assert_eq!(changed.len(), 1, "{key} changes exactly one limit: {changed:?}");
        assert!(fields.insert(changed[0].0.split(':').next().unwrap().to_owned()), "{key} changes what another does");
        // What the table of keys says of the default is what the documentation says, and true.
        let doc = keys().iter().find(|one| one.name == *key).unwrap().doc;
        let words = doc.rsplit_once("; ").unwrap().1.trim_end_matches(" unless set.");
        assert!(documented(key).contains(&format!("| {} |", words.trim_matches('"'))), "{key}: {words} in its row");
        assert_eq!(format!("{:?}", parsed(&format!("{key} = {words}"))), default, "{key}: {words} is the default");
    }
    let all = default.matches(": ").count();
    assert_eq!(fields.len(), all, "a limit that no key sets: {default}");
}

/// A sandbox whose job is the guest `rogue`; the component is compiled once for all runs in it.
struct Kit {
    sandbox: Sandbox,
    component: PathBuf,
}

impl Kit {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        for folder in ["store", "data"] {
            fs::create_dir(sandbox.path(folder)).unwrap();
        }
        let component = plugin("guests/rogue").unwrap_or_else(|error| panic!("{error:#}"));
        Self { sandbox, component }
    }

    /// Standard error of a backup in which the guest does `deed` within `limits`, and its exit code.
    fn backup(&self, deed: &str, limits: &str) -> (Option<i32>, String) {
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

[plugin.rogue.grant.artifacts]

[plugin.rogue.grant.bucket.data]
may = ["list", "read"]
verbs = ["backup"]
effect = "reads"

[plugin.rogue.grant.exec.echo]
program = "/bin/echo"
args = ["{{word}}"]
slots = {{ word = "[a-z]{{1,20}}" }}
verbs = ["backup"]
effect = "reads"

[plugin.rogue.grant.exec.endless]
program = "/bin/sleep"
args = ["1000"]
timeout = "1h"
verbs = ["backup"]
effect = "reads"

[job.orders]
plugin = "rogue"
store = "main"
settings = {{ do = "{deed}" }}
"#,
            source = self.component.display(),
            digest = sha256(&fs::read(&self.component).unwrap()),
        ));
        let output = self.sandbox.run(["backup", "orders", "-v"]);
        (output.code, output.stderr)
    }
}

#[test]
fn going_beyond_a_limit_is_an_error_that_names_its_key_and_is_the_documented_one() {
    let kit = Kit::new();
    for (key, value, beyond) in LIMITS {
        let (Rogue(deed) | RogueIsCut(deed)) = beyond else { continue };
        let (code, text) = kit.backup(deed, &format!("{key} = {value}"));
        let wanted = if matches!(beyond, RogueIsCut(_)) { &[0, 1, 3][..] } else { &[1] };
        assert!(code.is_some_and(|code| wanted.contains(&code)), "{key}: code {code:?}\n{text}");
        let words = documented(key);
        let words = words.split('|').nth(4).unwrap().trim().trim_matches('`').to_owned();
        assert!(text.contains(&words), "{key}: not {words:?} in\n{text}");
        assert!(text.contains(key), "{key} is not named in\n{text}");
        if !matches!(beyond, RogueIsCut(_)) {
            assert!(text.contains(&format!("[plugin.rogue.limits] {key} = ")), "{key}: no way out in\n{text}");
        }
        if !ENDLESS.contains(key) {
            let (_, text) = kit.backup(deed, "");
            assert!(!text.contains(&words), "{key}: by default it is not gone beyond, but\n{text}");
        }
    }
}

#[test]
fn a_compiler_that_goes_beyond_a_limit_is_ended_and_the_error_names_it() {
    let mut kit = Kit::new();
    let whole = bomb::in_component(fs::read(&kit.component).unwrap());
    kit.component = kit.sandbox.write("bomb.wasm", whole);
    for (key, value, _) in LIMITS.iter().filter(|(.., beyond)| matches!(beyond, Bomb)) {
        let (code, text) = kit.backup("nothing", &format!("{key} = {value}"));
        assert_eq!(code, Some(1), "{key}:\n{text}");
        let words = documented(key);
        let words = words.split('|').nth(4).unwrap().trim().trim_matches('`').to_owned();
        assert!(text.contains(&words) && text.contains("plugin \"rogue\""), "{key}: not {words:?} in\n{text}");
    }
}
