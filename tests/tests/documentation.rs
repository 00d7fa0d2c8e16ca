//! Pages that say what the code says: they are compared with it, so they cannot fall behind.

use regex::Regex;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use strongroom::config::Config;
use strongroom::config::ceiling::key::CEILING;
use strongroom::config::key::{Key, Names, ROOT, Section, Shape};
use strongroom::metrics::alert::{Subject, groups};
use strongroom::metrics::builtin::{BUILTIN, Builtin};
use strongroom::plugin::manifest::PluginManifest;
use strongroom_tests::root;

/// Between these lines of `docs/configuration.md` lies what is made from the table of keys.
const BEGIN: &str = "<!-- made from host/src/config/key.rs -->\n";
const END: &str = "<!-- end -->\n";

/// The reference of the configuration: every key with its shape and documentation.
fn reference() -> String {
    let mut text = String::new();
    write_section(&mut text, "", &ROOT);
    text
}

fn write_section(text: &mut String, path: &str, section: &'static Section) {
    let heading = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    writeln!(text, "\n### {heading}\n\n{}\n\n| key | holds | what it does |\n| --- | --- | --- |", section.doc)
        .unwrap();
    let (planned, built): (Vec<&Key>, Vec<&Key>) =
        section.keys.iter().partition(|key| matches!(key.shape, Shape::NotBuilt(_)));
    for key in &built {
        let required = if key.required { ", required" } else { "" };
        let (holds, doc) = (holds(&key.shape), key.doc.replace('|', "\\|"));
        writeln!(text, "| `{}` | {holds}{required} | {doc} |", key.name).unwrap();
    }
    if !planned.is_empty() {
        writeln!(text, "\nNot built yet, and refused with this advice:\n").unwrap();
    }
    for key in planned {
        if let Shape::NotBuilt(instead) = &key.shape {
            writeln!(text, "- `{}`: {instead}", key.name).unwrap();
        }
    }
    for key in built {
        let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        write_tables(text, &below, &key.shape);
    }
}

/// The sections that lie beneath a key.
fn write_tables(text: &mut String, path: &str, shape: &'static Shape) {
    match shape {
        Shape::Table(section) | Shape::Tables(section) => write_section(text, path, section),
        Shape::Map(Names::Variable, _) => {}
        Shape::Map(_, inner) => write_tables(text, &format!("{path}.LABEL"), inner),
        Shape::List(inner) => write_tables(text, path, inner),
        Shape::Union(shapes) => shapes.iter().for_each(|shape| write_tables(text, path, shape)),
        _ => {}
    }
}

/// What a shape holds, for a person.
fn holds(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Whole(least, most) => format!("{least} to {most}"),
        Shape::Size(least, most) => {
            format!("size, {} to {}", strongroom::unit::bytes(*least), strongroom::unit::bytes(*most))
        }
        Shape::Duration => "duration".to_owned(),
        Shape::Word(words) => words.known.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or "),
        Shape::Json => "table of the plugin's own".to_owned(),
        Shape::Secret => "secret".to_owned(),
        Shape::List(inner) => format!("list of {}", holds(inner)),
        Shape::Map(Names::Variable, inner) => format!("{} by variable", holds(inner)),
        Shape::Map(_, inner) => format!("{} by label", holds(inner)),
        Shape::Table(_) => "table".to_owned(),
        Shape::Tables(_) => "table, or list of them".to_owned(),
        Shape::Union(shapes) => shapes.iter().map(holds).collect::<Vec<_>>().join(", or "),
        Shape::NotBuilt(_) => String::new(),
    }
}

/// Fails unless what lies between the markers of `page` is `made`; leaves the right page beside the build.
#[track_caller]
fn check_made(page: &str, begin: &str, made: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(begin).expect("the page says where the made part begins");
    let (_, after) = rest.split_once(END).expect("the page says where the made part ends");
    let expected = format!("{before}{begin}{made}\n{END}{after}");
    if text != expected {
        // A change of the code is one command away from the change of its page.
        let right = root().join("target").join(path.file_name().unwrap());
        std::fs::write(&right, expected).unwrap();
        panic!("{page} is not what the code says: cp {} {}", right.display(), path.display());
    }
}

#[test]
fn the_configuration_page_has_every_key_as_the_host_knows_it() {
    check_made("docs/configuration.md", BEGIN, &reference());
}

/// Between this line of `docs/ceiling.md` and [`END`] lies what is made from the table of a ceiling's keys.
const BEGIN_CEILING: &str = "<!-- made from host/src/config/ceiling/key.rs -->\n";

#[test]
fn the_ceiling_page_has_every_key_as_the_host_knows_it() {
    let mut text = String::new();
    write_section(&mut text, "", &CEILING);
    check_made("docs/ceiling.md", BEGIN_CEILING, &text);
}

/// Between this line of `docs/output.md` and [`END`] lies what is made from the types of the results.
const BEGIN_OUTPUT: &str = "<!-- made from the types that --output json writes -->\n";

/// Where the types are, in the order of the page: all of a file, or one after `#`.
const RESULTS: &[(&str, &[&str])] = &[
    ("`backup`", &["host/src/cli/backup.rs"]),
    ("`verify`, `diagnose`", &["host/src/cli/check.rs", "host/src/plugin/context.rs"]),
    ("`restore`", &["host/src/cli/restore.rs"]),
    ("`export`", &["host/src/cli/export.rs"]),
    ("`diff`", &["host/src/cli/diff.rs"]),
    ("`list`", &["host/src/cli/list.rs"]),
    ("`show`", &["host/src/cli/show.rs"]),
    ("`prune`", &["host/src/cli/prune.rs"]),
    ("`key show`", &["host/src/cli/key.rs"]),
    ("`store init`, `store check`", &["host/src/cli/store.rs"]),
    (
        "`plugin inspect`, `plugin diff`, `plugin build`, `plugin approve`, `plugin sign`, `plugin keygen`",
        &[
            "host/src/plugin/inspect.rs",
            "host/src/plugin/inspect/concern.rs",
            "host/src/plugin/inspect/diff.rs",
            "host/src/cli/plugin.rs",
            "host/src/cli/plugin/approve.rs",
            "host/src/cli/plugin/sign.rs",
        ],
    ),
    (
        "`audit show`, `audit verify`, `audit unused`, `audit cost`",
        &[
            "host/src/cli/audit.rs",
            "host/src/cli/audit/cost.rs",
            "host/src/audit/line.rs",
            "host/src/audit/verify.rs",
            "host/src/config/narrow.rs",
        ],
    ),
    ("`alerts`", &["host/src/cli/alerts.rs", "host/src/metrics/alert.rs"]),
    ("`config check`", &["host/src/cli/config.rs"]),
    ("Errors", &["host/src/cli/report.rs", "host/src/config/mistake.rs"]),
    (
        "Words",
        &[
            "host/src/record.rs#Outcome",
            "host/src/config.rs#Depth",
            "host/src/policy.rs#Verb",
            "host/src/policy.rs#Effect",
            "host/src/plugin/capability.rs#Risk",
        ],
    ),
];

/// Every type that is written as JSON, with its fields or words and their documentation.
fn shapes() -> String {
    let mut text = String::new();
    for (title, files) in RESULTS {
        writeln!(text, "\n## {title}").unwrap();
        for file in *files {
            let (path, only) = file.split_once('#').map_or((*file, None), |(path, only)| (path, Some(only)));
            let source = std::fs::read_to_string(root().join(path)).unwrap();
            write_types(&mut text, &source, only);
        }
    }
    text
}

fn write_types(text: &mut String, source: &str, only: Option<&str>) {
    let mut doc: Vec<&str> = Vec::new();
    let mut attributes = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(sentence) = line.strip_prefix("/// ") {
            doc.push(sentence);
        } else if line.starts_with("#[") {
            attributes.push_str(line);
        } else {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).filter(|word| *word != "pub").collect();
            let is_type = matches!(words.first(), Some(&("struct" | "enum"))) && line.ends_with('{');
            if is_type && attributes.contains("Serialize") && only.is_none_or(|only| only == words[1]) {
                let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
                writeln!(text, "\n### {}\n\n{}\n", words[1], doc.join(" ")).unwrap();
                write_members(text, &body, words[0] == "enum");
            }
            doc.clear();
            attributes.clear();
        }
    }
}

fn write_members(text: &mut String, body: &[&str], is_enum: bool) {
    let heading =
        if is_enum { "| word | meaning |\n| --- | --- |" } else { "| key | holds | meaning |\n| --- | --- | --- |" };
    writeln!(text, "{heading}").unwrap();
    let mut doc: Vec<&str> = Vec::new();
    let mut may_be_absent = "";
    let mut renamed = None;
    for line in body.iter().map(|line| line.trim()) {
        if let Some(sentence) = line.strip_prefix("/// ") {
            doc.push(sentence);
        } else if line.starts_with("#[serde(") {
            renamed = line.split_once("rename = \"").and_then(|(_, rest)| rest.split('"').next());
            may_be_absent = if line.contains("skip_serializing_if") { ", may be absent" } else { "" };
        } else if !line.starts_with("#[") {
            let meaning = doc.join(" ").replace('|', "\\|").replace("[`", "`").replace("`]", "`");
            let member = line.trim_start_matches("pub ").trim_end_matches(',');
            match member.split_once(": ") {
                Some((name, kind)) => {
                    let name = renamed.unwrap_or(name);
                    writeln!(text, "| `{name}` | {}{may_be_absent} | {meaning} |", kind_of(kind)).unwrap();
                }
                None => writeln!(text, "| `{}` | {meaning} |", kebab(member)).unwrap(),
            }
            doc.clear();
            may_be_absent = "";
            renamed = None;
        }
    }
}

/// A Rust type for somebody who reads JSON.
fn kind_of(kind: &str) -> String {
    let kind = kind.trim_start_matches('&').trim_start_matches("'a ").trim_start_matches("'static ");
    let inside = |outer: &str| kind.strip_prefix(outer)?.strip_suffix(['>', ']']).map(kind_of);
    if let Some(inner) = inside("Option<") {
        return format!("{inner} or `null`");
    }
    if let Some(inner) = inside("Vec<").or_else(|| inside("[")) {
        return format!("list of {inner}");
    }
    match kind.rsplit("::").next().unwrap().trim_end_matches("<'a>").trim_end_matches("<'_>") {
        "str" | "String" => "text".to_owned(),
        "bool" => "`true` or `false`".to_owned(),
        "u8" | "u32" | "u64" | "usize" | "f64" => "number".to_owned(),
        "Timestamp" => "time".to_owned(),
        "Labels" => "texts by name".to_owned(),
        "BackupRecord" => "[record](format.md#the-record)".to_owned(),
        "RawGrants" => "[grants](configuration.md#pluginlabelgrant)".to_owned(),
        name => format!("[{name}](#{})", name.to_lowercase()),
    }
}

/// `DoIt` as serde writes it: `do-it`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[test]
fn the_output_page_has_every_shape_as_the_host_writes_it() {
    let shapes = shapes();
    let link = Regex::new(r"\]\(#([a-z]+)\)").unwrap();
    for name in link.captures_iter(&shapes) {
        let is_there =
            shapes.lines().filter_map(|line| line.strip_prefix("### ")).any(|title| title.to_lowercase() == name[1]);
        assert!(
            is_there,
            "type \"{}\" is named in a result and its shape is not on the page: add it to RESULTS",
            &name[1]
        );
    }
    check_made("docs/output.md", BEGIN_OUTPUT, &shapes);
}

/// Between this line of `docs/metrics.md` and [`END`] lies what is made from the table of metrics and the rules.
const BEGIN_METRICS: &str = "<!-- made from host/src/metrics/builtin.rs and host/src/metrics/alert.rs -->\n";

#[test]
fn the_metrics_page_has_every_metric_and_every_alert_as_the_host_knows_them() {
    let mut text = "\n### Metrics\n\n| name | kind | labels | what it is |\n| --- | --- | --- | --- |\n".to_owned();
    for Builtin { name, kind, help, labels } in BUILTIN {
        writeln!(text, "| `{name}` | {} | {} | {help} |", kind.name(), labels.join(", ")).unwrap();
    }
    text.push_str("\n### Rules\n\n");
    let subject = |job: &str, plugin: &str| Subject {
        job: job.to_owned(),
        plugin: plugin.to_owned(),
        store: "main".to_owned(),
        objective: None,
        is_pruned: true,
    };
    let mut seen = BTreeSet::new();
    text.push_str("| alert | severity | for | fires when |\n| --- | --- | --- | --- |\n");
    for rule in groups(&[subject("orders", "redis"), subject("orders", "postgres"), subject("orders", "bucket")])
        .iter()
        .flat_map(|group| &group.rules)
    {
        let Some(alert) = &rule.alert else { continue };
        let severity = &rule.labels["severity"];
        if seen.insert((alert.clone(), severity.clone())) {
            let lasting = rule.lasting.as_deref().unwrap_or("at once");
            writeln!(text, "| `{alert}` | {severity} | {lasting} | `{}` |", rule.expr).unwrap();
        }
    }
    check_made("docs/metrics.md", BEGIN_METRICS, &text);
}

/// Blocks of TOML on a page.
fn toml_blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What a reader fills in, filled in; and what `store init --new-identity` adds to a store, added.
fn filled_in(block: &str) -> String {
    let encrypted = block.contains("recipients");
    let block = if encrypted {
        block.to_owned()
    } else {
        block.replace("[store.main]\n", "[store.main]\nrecipients = [\"age1…\"]\n")
    };
    block
        .replacen("age1…", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", 1)
        .replace("age1…", "age1wegd5q0cf8uv3zjqd75tyt0wsq8x9v0whjlgkzc4rcyx00cu548qw6pmnm")
        .replace("srhost1-…", "srhost1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .replace("sha256 = \"…\"", &format!("sha256 = \"{}\"", "0".repeat(64)))
}

#[test]
fn every_configuration_that_a_page_shows_is_one_that_the_host_accepts() {
    let mut n_checked = 0;
    for page in ["README.md", "docs/configuration.md"] {
        for block in toml_blocks(page).iter().filter(|block| block.contains("[job.")) {
            let parsed = Config::parse(&filled_in(block), Path::new(page), &root());
            assert!(parsed.is_ok(), "{page}:\n{block}\n{:?}", parsed.err());
            n_checked += 1;
        }
    }
    assert_eq!(n_checked, 3, "configurations were found where they are known to be");
}

#[test]
fn the_manifest_that_the_readme_shows_is_one_that_the_host_accepts() {
    let blocks = toml_blocks("README.md");
    let manifests: Vec<_> = blocks.iter().filter(|block| block.contains("[[request.exec]]")).collect();
    assert_eq!(manifests.len(), 1, "the README shows one plugin");
    let parsed = PluginManifest::parse(manifests[0]).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(parsed.name, "sqlite");
}
