use super::PluginManifest;
use crate::error::Kind;
use crate::policy::kube::{KubeGrant, KubeVerb, NamePattern};
use crate::policy::{Effect, Grants, Verb, When};
use serde_json::json;
use std::collections::BTreeMap;

const GOOD: &str = r#"
name = "demo"
version = "1.2.3"
summary = "Backs up a demonstration"
licence = "Apache-2.0"
component = ["0.1"]

[settings]
type = "object"
additionalProperties = false
required = ["databases"]
[settings.properties.databases]
type = "array"
minItems = 1
items = { type = "string", pattern = "^[a-z]+$" }
[settings.properties.bucket]
type = "string"
[settings.properties.level]
enum = ["low", "high"]

[options]
type = "object"

[request.artifacts]
reason = "the dump"

[[request.exec]]
name = "dump"
reason = "reads the database"
program = "demo_dump"
args = ["--db={database}", "--dir", "{scratch}"]
slots = { database = { setting = "databases" } }
secrets = ["PASSWORD"]
verbs = ["backup"]
effect = "reads"

[[request.bucket]]
setting = "bucket"
reason = "to read"
may = ["list", "read"]
verbs = ["backup"]
effect = "reads"
"#;

/// With `from` replaced by `to`, the manifest is refused in these words.
#[track_caller]
fn check_refused(from: &str, to: &str, words: &str) {
    assert!(GOOD.contains(from), "nothing to replace: {from}");
    let error = PluginManifest::parse(&GOOD.replacen(from, to, 1)).expect_err(words);
    assert_eq!(error.kind(), Kind::Invalid);
    let text = crate::plugin::tests::in_full(&error);
    assert!(text.contains(words), "no {words:?} in\n{text}");
}

#[test]
fn a_whole_manifest_is_read() {
    let manifest = PluginManifest::parse(GOOD).unwrap();
    manifest.check_host().unwrap();
    assert_eq!(manifest.request.exec[0].grant.args, ["--db={database}", "--dir", "{scratch}"]);
    assert_eq!(manifest.request.bucket[0].setting, "bucket");
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    check_refused("licence =", "license =", "unknown key \"license\"; did you mean \"licence\"?");
    check_refused(
        "program =",
        "programm =",
        "request.exec \"dump\": unknown key \"programm\"; did you mean \"program\"?",
    );
    check_refused("may =", "maay =", "request.bucket \"bucket\": unknown key \"maay\"; did you mean \"may\"?");
    check_refused("setting = \"databases\" }", "settings = \"databases\" }", "did you mean \"setting\"?");
    check_refused("[request.artifacts]", "[request.artefacts]", "did you mean \"artifacts\"?");
    check_refused("name = \"demo\"", "name = \"demo\"\nzebra = 1", "unknown key \"zebra\"");
}

#[test]
fn every_mistake_is_named_with_its_place() {
    check_refused("name = \"demo\"", "name = \"Demo!\"", "name: \"Demo!\" is not a valid name");
    check_refused("1.2.3", "1.2", "version: \"1.2\" is not a version");
    check_refused("[\"0.1\"]", "[]", "component: names no version");
    check_refused("[\"0.1\"]", "[\"one\"]", "component: \"one\" is not a version");
    check_refused("summary = \"Backs up a demonstration\"", "", "\"summary\" is missing");
    check_refused("Backs up a demonstration", " ", "summary: is empty");
    check_refused("Backs up a demonstration", "a\\u001b[2J", "summary: holds the character \\u{1b}");
    check_refused("reason = \"reads the database\"", "reason = \"\"", "request.exec \"dump\".reason: is empty");
    check_refused("reason = \"the dump\"", "", "request.artifacts: \"reason\" is missing");
    check_refused("effect = \"reads\"", "", "request.exec \"dump\": \"effect\" is missing");
    check_refused("verbs = [\"backup\"]", "verbs = []", "request.exec \"dump\".verbs: is empty");
    check_refused("verbs = [\"backup\"]", "verbs = [\"explode\"]", "unknown variant `explode`");
    check_refused("may = [\"list\", \"read\"]", "may = []", "request.bucket \"bucket\".may: is empty");
    check_refused("\"demo_dump\"", "\"demo dump\"", "is not the name or path of a program");
    check_refused("[\"PASSWORD\"]", "[\"PASS WORD\"]", "\"PASS WORD\" is not the name of an environment variable");
    check_refused("setting = \"bucket\"", "setting = \"nowhere\"", "setting \"nowhere\" is in no schema");
    check_refused("name = \"demo\"", "name = ", "line 2, column");
}

#[test]
fn slots_are_declared_where_they_are_used_and_used_where_they_are_declared() {
    check_refused("--db={database}", "--db={databse}", "slot \"{databse}\" is used and not declared");
    check_refused("--db={database}", "--db=x", "slots.database: is declared and used nowhere");
    check_refused("--db={database}", "--db={database", "request.exec \"dump\".args: ");
    check_refused("{ setting = \"databases\" }", "{ pattern = \"(\" }", "slots.database: ");
    check_refused("{ setting = \"databases\" }", "{ pattern = \"a\", glob = \"b\" }", "exactly one of");
    check_refused("{ setting = \"databases\" }", "{ setting = \"tables\" }", "setting \"tables\" is in no schema");
    check_refused("database = {", "scratch = \"x\", database = {", "fills {scratch} by itself");
    check_refused("effect = \"reads\"", "effect = \"reads\"\nstdin = \"anything\"", "stdin: expected");
    check_refused(
        "effect = \"reads\"",
        "effect = \"reads\"\nstdin = { artifact = \"a\", made_by = \"nobody\" }",
        "no request is named \"nobody\"",
    );
}

#[test]
fn schemas_are_json_schemas_of_tables() {
    check_refused("[options]\ntype = \"object\"", "[options]\ntype = \"tabel\"", "options: is not a JSON Schema");
    check_refused("[options]\ntype = \"object\"", "[options]\ntype = \"array\"", "has to be of type \"object\"");
    check_refused(
        "[options]\ntype = \"object\"",
        "[options]\ntype = \"object\"\n\"$ref\" = \"https://example.invalid/x\"",
        "options",
    );
}

#[test]
fn all_mistakes_are_said_at_once() {
    let error = PluginManifest::parse(&GOOD.replace("licence", "license").replace("effect", "efect")).unwrap_err();
    assert_eq!(error.message(), "the manifest has 6 mistakes");
    assert_eq!(error.facts().len(), 6);
}

#[test]
fn a_newer_contract_or_host_is_refused() {
    let newer = PluginManifest::parse(&GOOD.replace("[\"0.1\"]", "[\"0.2\"]")).unwrap();
    assert!(newer.check_host().unwrap_err().to_string().contains("contract"));
    let newer = PluginManifest::parse(&GOOD.replace("version = ", "minimum_host = \"99.0.0\"\nversion = ")).unwrap();
    assert!(newer.check_host().unwrap_err().to_string().contains("needs a newer host"));
}

#[test]
fn settings_are_held_against_the_schema_with_place_expected_and_got() {
    let manifest = PluginManifest::parse(GOOD).unwrap();
    manifest.check_settings(&json!({ "databases": ["shop"] })).unwrap();
    for (settings, path, expected, got) in [
        (json!({ "databases": [5] }), "settings.databases[0]", "type string", "5"),
        (json!({ "databases": ["A"] }), "settings.databases[0]", "a match of ^[a-z]+$", "\"A\""),
        (json!({ "databases": [] }), "settings.databases", "at least 1 items", "[]"),
        (json!({}), "settings", "key \"databases\"", "a table without it"),
        (json!({ "databases": ["a"], "x": 1 }), "settings", "only keys of the schema", "x"),
        (json!({ "databases": ["a"], "level": "mid" }), "settings.level", "one of [\"low\",\"high\"]", "\"mid\""),
    ] {
        let error = manifest.check_settings(&settings).expect_err(path);
        assert_eq!(error.message(), format!("\"{path}\" is not what plugin \"demo\" takes"));
        assert_eq!(error.facts()[..2], [("expected", expected.to_owned()), ("got", got.to_owned())], "{path}");
    }
}

#[test]
fn without_a_schema_only_an_empty_table_is_taken() {
    let manifest = PluginManifest::parse(&GOOD.replace("[options]\ntype = \"object\"\n", "")).unwrap();
    manifest.check_options(&json!({})).unwrap();
    manifest.check_options(&serde_json::Value::Null).unwrap();
    let error = manifest.check_options(&json!({ "target": "x" })).unwrap_err();
    assert_eq!(error.message(), "\"options.target\" is not what plugin \"demo\" takes");
}

/// A request for clusters, of the setting that the manifest has.
const KUBE: &str = r#"
[[request.kube]]
setting = "bucket"
reason = "to read"
may = ["list", "get"]
kinds = ["*", "/Secret"]
verbs = ["backup"]
effect = "reads"
"#;

#[test]
fn a_request_for_clusters_is_checked_as_a_grant_is() {
    let manifest = PluginManifest::parse(&format!("{GOOD}{KUBE}")).unwrap();
    assert_eq!(manifest.request.kube[0].setting, "bucket");
    for (from, to, words) in [
        ("kinds =", "kindss =", "did you mean \"kinds\"?"),
        ("\"/Secret\"", "\"Secret\"", "\"Secret\" is not a kind"),
        ("\"get\"]", "\"apply\"]", "apply changes the cluster, and effect says \"reads\""),
        ("setting = \"bucket\"", "setting = \"nowhere\"", "is in no schema"),
    ] {
        let error = PluginManifest::parse(&format!("{GOOD}{}", KUBE.replacen(from, to, 1))).expect_err(words);
        let text = crate::plugin::tests::in_full(&error);
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn a_grant_of_a_cluster_is_cut_down_to_what_is_requested() {
    let manifest = PluginManifest::parse(&format!("{GOOD}{KUBE}")).unwrap();
    let wide = KubeGrant {
        may: KubeVerb::ALL.into(),
        kinds: ["*", "/Pod", "/Secret", "example.org/Widget"].map(str::to_owned).into(),
        namespaces: vec![NamePattern::new("shop")],
        names: Vec::new(),
        labels: BTreeMap::new(),
        inspect: true,
        secret_data: true,
        when: When { verbs: [Verb::Backup, Verb::Restore].into(), effect: Effect::Changes, scratch: false },
    };
    let effective = |grant: &KubeGrant| {
        let grants = Grants { kube: [("prod".to_owned(), vec![grant.clone()])].into(), ..Grants::default() };
        manifest.effective(&grants).kube.remove("prod").map(|mut grants| grants.remove(0))
    };
    let narrow = effective(&wide).unwrap();
    assert_eq!(narrow.may, [KubeVerb::List, KubeVerb::Get].into());
    assert_eq!(narrow.kinds, ["*", "/Secret", "example.org/Widget"].map(str::to_owned).into());
    assert_eq!(narrow.when.verbs, [Verb::Backup].into());
    assert!(!narrow.inspect && !narrow.secret_data && narrow.namespaces == wide.namespaces);
    let pods = KubeGrant { kinds: ["/Pod".to_owned()].into(), ..wide.clone() };
    assert!(effective(&pods).is_none(), "what gives power is requested by name, or not at all");
    let never = KubeGrant { may: [KubeVerb::Delete].into(), ..wide };
    assert!(effective(&never).is_none());
}

#[test]
fn every_manifest_in_this_repository_is_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut read = 0;
    for folder in ["plugins", "tests/guests"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path().join("plugin.toml");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let manifest = PluginManifest::parse(&text);
            manifest.unwrap_or_else(|e| panic!("{}: {}", path.display(), crate::plugin::tests::in_full(&e)));
            read += 1;
        }
    }
    assert!(read >= 3, "{read}");
}

#[test]
fn a_scratch_directory_is_asked_for_with_a_reason_a_size_and_verbs() {
    let with =
        |lines: &str| GOOD.replace("[request.artifacts]", &format!("[request.scratch]\n{lines}\n[request.artifacts]"));
    let good = "reason = \"an index\"\nbytes = \"64MiB\"\nverbs = [\"backup\"]";
    let manifest = PluginManifest::parse(&with(good)).unwrap();
    assert_eq!(manifest.request.scratch.unwrap().max_bytes(), 64 << 20);
    for (from, to, words) in [
        ("reason = \"an index\"", "", "request.scratch: \"reason\" is missing"),
        ("an index", " ", "request.scratch.reason: is empty"),
        ("64MiB", "1KiB", "request.scratch.bytes: is from 64.0 KiB to 1.0 TiB"),
        ("64MiB", "much", "request.scratch.bytes: \"much\" is not a size"),
        ("[\"backup\"]", "[]", "request.scratch.verbs: is empty"),
        ("bytes =", "byte =", "did you mean \"bytes\"?"),
    ] {
        let error = PluginManifest::parse(&with(&good.replace(from, to))).expect_err(words);
        let mut said = error.to_string();
        error.facts().iter().for_each(|(_, value)| said.push_str(value));
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_scratch_directory_is_no_larger_than_it_is_granted_or_asked_for() {
    use crate::policy::scratch::ScratchGrant;
    use crate::policy::{Grants, Verb};
    let lines =
        "[request.scratch]\nreason = \"x\"\nbytes = \"1MiB\"\nverbs = [\"backup\", \"verify\"]\n[request.artifacts]";
    let manifest = PluginManifest::parse(&GOOD.replace("[request.artifacts]", lines)).unwrap();
    let effective = |bytes, verbs: &[Verb]| {
        let scratch = Some(ScratchGrant { bytes, verbs: verbs.iter().copied().collect() });
        manifest.effective(&Grants { scratch, ..Grants::default() }).scratch
    };
    let both = [Verb::Backup, Verb::Restore];
    assert_eq!(effective(1 << 30, &both), Some(ScratchGrant { bytes: 1 << 20, verbs: [Verb::Backup].into() }));
    assert_eq!(effective(1 << 16, &both).unwrap().bytes, 1 << 16);
    assert_eq!(effective(1 << 20, &[Verb::Restore]), None);
    let scratch = effective(1 << 20, &both);
    let without = PluginManifest::parse(GOOD).unwrap();
    assert_eq!(without.effective(&Grants { scratch, ..Grants::default() }).scratch, None);
}
