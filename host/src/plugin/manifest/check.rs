//! Reads a manifest and finds every mistake in it at once.
//!
//! Unknown keys are looked for here and not by serde: it cannot refuse them in flattened tables,
//! and it stops at the first.

use super::{MAX_BYTES, MetricsRequest, PluginManifest, Requests};
use crate::error::{Error, Result};
use crate::id::Label;
use crate::plugin::speech::{self, is_harmless};
use crate::policy::exec::SCRATCH;
use crate::policy::metrics::MetricsGrant;
use crate::policy::scratch::{MAX_BYTES as MAX_SCRATCH_BYTES, MIN_BYTES};
use crate::policy::slot::{SlotRule, SlotText, Template};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// The longest reason or summary, in bytes: it is shown to a person who decides.
const MAX_TEXT_BYTES: usize = 1024;

/// The keys of one kind of table: what is known, and what must be there.
struct Keys {
    known: &'static [&'static str],
    required: &'static [&'static str],
}

const TOP: Keys = Keys {
    known: &["name", "version", "summary", "licence", "component", "minimum_host", "settings", "options", "request"],
    required: &["name", "version", "summary", "licence", "component"],
};
const REQUEST: Keys = Keys { known: &["exec", "bucket", "kube", "artifacts", "scratch", "metrics"], required: &[] };
const EXEC: Keys = Keys {
    known: &[
        "name",
        "reason",
        "program",
        "args",
        "env",
        "stdin",
        "slots",
        "secrets",
        "secret_files",
        "inspect",
        "verbs",
        "effect",
        "scratch",
        "partial_stdin",
        "detects_short_input",
        "timeout",
    ],
    required: &["name", "reason", "program", "verbs", "effect"],
};
const STDIN_TEXT: Keys = Keys { known: &["text", "hold"], required: &["text"] };
const STDIN_ARTIFACT: Keys = Keys { known: &["artifact", "made_by"], required: &["artifact", "made_by"] };
const SLOT: Keys = Keys { known: &["pattern", "glob", "setting", "max_bytes", "max_count"], required: &[] };
const BUCKET: Keys = Keys {
    known: &["setting", "reason", "may", "inspect", "verbs", "effect", "scratch"],
    required: &["setting", "reason", "may", "verbs", "effect"],
};
const KUBE: Keys = Keys {
    known: &["setting", "reason", "may", "kinds", "inspect", "secret_data", "verbs", "effect", "scratch"],
    required: &["setting", "reason", "may", "kinds", "verbs", "effect"],
};
const METRICS: Keys = Keys { known: &["reason", "prefix", "query", "verbs"], required: &["reason"] };
const ARTIFACTS: Keys = Keys { known: &["reason", "inspect"], required: &["reason"] };
const SCRATCH_DIRECTORY: Keys = Keys { known: &["reason", "bytes", "verbs"], required: &["reason", "bytes", "verbs"] };

/// Mistakes so far, each with the place it is at.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, at: &str, what: impl std::fmt::Display) {
        self.0.push(if at.is_empty() { what.to_string() } else { format!("{at}: {what}") });
    }

    fn keys(&mut self, at: &str, table: &Table, keys: &Keys) {
        for key in table.keys().filter(|key| !keys.known.contains(&key.as_str())) {
            let near = nearest(key, keys.known).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            self.add(at, format!("unknown key \"{}\"{near}", key.escape_debug()));
        }
        for key in keys.required.iter().filter(|key| !table.contains_key(**key)) {
            self.add(at, format!("\"{key}\" is missing"));
        }
    }

    fn into_error(self) -> Option<Error> {
        let hint = "correct plugin.toml and build the plugin again";
        match self.0.len() {
            0 => None,
            1 => Some(Error::invalid(format!("the manifest is not valid: {}", self.0[0])).hint(hint)),
            n => Some(
                self.0
                    .into_iter()
                    .fold(Error::invalid(format!("the manifest has {n} mistakes")), |e, m| e.fact("mistake", m))
                    .hint(hint),
            ),
        }
    }
}

/// The known key that was most likely meant.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

pub(super) fn parse(text: &str) -> Result<PluginManifest> {
    if text.len() > MAX_BYTES {
        return Err(Error::invalid("the manifest is too long")
            .fact("expected", format!("at most {}", crate::unit::bytes(MAX_BYTES as u64)))
            .fact("got", crate::unit::bytes(text.len() as u64)));
    }
    let table: Table = text.parse().map_err(|e| not_toml(text, &e))?;
    let mut mistakes = Mistakes::default();
    check_characters("", &Value::Table(table.clone()), &mut mistakes);
    check_shape(&table, &mut mistakes);
    // What serde would say of a missing or unknown key has been said already, and better.
    if let Some(error) = mistakes.into_error() {
        return Err(error);
    }
    let manifest: PluginManifest = toml::from_str(text).map_err(|e| not_toml(text, &e))?;
    let mut mistakes = Mistakes::default();
    check_identity(&manifest, &mut mistakes);
    super::schema::check("settings", &manifest.settings).unwrap_or_else(|e| mistakes.add("settings", e));
    super::schema::check("options", &manifest.options).unwrap_or_else(|e| mistakes.add("options", e));
    check_requests(&manifest, &mut mistakes);
    mistakes.into_error().map_or(Ok(manifest), Err)
}

/// Text that would do something to a terminal, or look like other text, is in no manifest: a person
/// reads it and decides. Newlines and tabs may stand in a program's input.
fn check_characters(at: &str, value: &Value, mistakes: &mut Mistakes) {
    let strange = |text: &str| text.chars().find(|c| !is_harmless(*c) && !matches!(c, '\n' | '\t'));
    match value {
        Value::String(text) => {
            if let Some(c) = strange(text) {
                mistakes.add(at, format!("holds the character {}, which is not seen", c.escape_unicode()));
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| check_characters(at, inner, mistakes)),
        Value::Table(table) => {
            for (key, inner) in table {
                if let Some(c) = strange(key).or_else(|| key.chars().find(|c| c.is_control())) {
                    mistakes.add(at, format!("a key holds the character {}, which is not seen", c.escape_unicode()));
                }
                let below = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                check_characters(&below.escape_debug().to_string(), inner, mistakes);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

fn not_toml(text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    // The parser quotes words of the manifest as they are.
    let what = speech::line(error.message().lines().next().unwrap_or_default().trim_end_matches('.'));
    Error::invalid(format!("the manifest is not valid: line {line}, column {column}: {what}"))
        .hint("correct plugin.toml and build the plugin again")
}

/// Unknown, missing and misplaced keys, everywhere but inside the two schemas.
fn check_shape(top: &Table, mistakes: &mut Mistakes) {
    mistakes.keys("", top, &TOP);
    let Some(request) = table_at(top.get("request"), "request", mistakes) else { return };
    mistakes.keys("request", request, &REQUEST);
    for (at, exec) in tables_at(request.get("exec"), "request.exec", mistakes) {
        mistakes.keys(&at, exec, &EXEC);
        check_stdin_shape(&at, exec.get("stdin"), mistakes);
        let slots = table_at(exec.get("slots"), &format!("{at}.slots"), mistakes);
        for (name, slot) in slots.into_iter().flatten() {
            let at = format!("{at}.slots.{}", name.escape_debug());
            match slot {
                Value::String(_) => {}
                Value::Table(slot) => {
                    mistakes.keys(&at, slot, &SLOT);
                    let kinds = ["pattern", "glob", "setting"].iter().filter(|kind| slot.contains_key(**kind)).count();
                    if kinds != 1 {
                        mistakes.add(&at, "takes exactly one of \"pattern\", \"glob\" and \"setting\"");
                    }
                }
                _ => mistakes.add(&at, "expected a pattern or a table with \"pattern\", \"glob\" or \"setting\""),
            }
        }
    }
    for (at, bucket) in tables_at(request.get("bucket"), "request.bucket", mistakes) {
        mistakes.keys(&at, bucket, &BUCKET);
    }
    for (at, kube) in tables_at(request.get("kube"), "request.kube", mistakes) {
        mistakes.keys(&at, kube, &KUBE);
    }
    if let Some(artifacts) = table_at(request.get("artifacts"), "request.artifacts", mistakes) {
        mistakes.keys("request.artifacts", artifacts, &ARTIFACTS);
    }
    if let Some(scratch) = table_at(request.get("scratch"), "request.scratch", mistakes) {
        mistakes.keys("request.scratch", scratch, &SCRATCH_DIRECTORY);
    }
    if let Some(metrics) = table_at(request.get("metrics"), "request.metrics", mistakes) {
        mistakes.keys("request.metrics", metrics, &METRICS);
    }
}

fn check_stdin_shape(at: &str, stdin: Option<&Value>, mistakes: &mut Mistakes) {
    let at = format!("{at}.stdin");
    match stdin {
        None => {}
        Some(Value::String(word)) if word == "plugin" => {}
        Some(Value::Table(table)) if table.contains_key("text") => mistakes.keys(&at, table, &STDIN_TEXT),
        Some(Value::Table(table)) => mistakes.keys(&at, table, &STDIN_ARTIFACT),
        Some(_) => {
            mistakes.add(&at, "expected { text = \"…\" }, { artifact = \"…\", made_by = \"…\" } or \"plugin\"");
        }
    }
}

fn table_at<'a>(value: Option<&'a Value>, at: &str, mistakes: &mut Mistakes) -> Option<&'a Table> {
    match value {
        None => None,
        Some(Value::Table(table)) => Some(table),
        Some(other) => {
            mistakes.add(at, format!("expected a table, got {}", other.type_str()));
            None
        }
    }
}

/// The tables of an array, each with its place by name where it has one.
fn tables_at<'a>(value: Option<&'a Value>, at: &str, mistakes: &mut Mistakes) -> Vec<(String, &'a Table)> {
    let Some(value) = value else { return Vec::new() };
    let Some(array) = value.as_array() else {
        mistakes.add(at, format!("expected an array of tables ([[{at}]]), got {}", value.type_str()));
        return Vec::new();
    };
    let mut tables = Vec::new();
    for (n, value) in array.iter().enumerate() {
        if let Some(table) = table_at(Some(value), &format!("{at}[{n}]"), mistakes) {
            let name = table.get("name").or_else(|| table.get("setting")).and_then(Value::as_str);
            let at = name.map_or_else(|| format!("{at}[{n}]"), |name| format!("{at} \"{}\"", name.escape_debug()));
            tables.push((at, table));
        }
    }
    tables
}

fn check_identity(manifest: &PluginManifest, mistakes: &mut Mistakes) {
    check_label("name", &manifest.name, mistakes);
    check_version("version", &manifest.version, mistakes);
    if let Some(minimum) = &manifest.minimum_host {
        check_version("minimum_host", minimum, mistakes);
    }
    check_line("summary", &manifest.summary, mistakes);
    check_line("licence", &manifest.licence, mistakes);
    if manifest.component.is_empty() {
        mistakes.add("component", "names no version of the contract, such as \"0.1\"");
    }
    for version in &manifest.component {
        if !(version.split('.').count() == 2 && version.split('.').all(is_number)) {
            mistakes.add("component", format!("\"{}\" is not a version such as \"0.1\"", version.escape_debug()));
        }
    }
}

fn check_label(at: &str, text: &str, mistakes: &mut Mistakes) {
    if let Err(error) = text.parse::<Label>() {
        let expected = error.facts().first().map(|(_, value)| value.as_str()).unwrap_or_default();
        mistakes.add(at, format!("{error}: expected {expected}"));
    }
}

fn check_line(at: &str, text: &str, mistakes: &mut Mistakes) {
    if text.trim().is_empty() {
        mistakes.add(at, "is empty");
    } else if text.len() > MAX_TEXT_BYTES {
        mistakes.add(at, format!("is longer than {MAX_TEXT_BYTES} bytes"));
    } else if text.contains(char::is_control) {
        mistakes.add(at, "has control characters; it is one line of text");
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit())
}

fn check_version(at: &str, text: &str, mistakes: &mut Mistakes) {
    if version_numbers(text).is_none() {
        mistakes.add(at, format!("\"{}\" is not a version such as \"1.2.3\"", text.escape_debug()));
    }
}

/// The three numbers of `major.minor.patch`.
pub(super) fn version_numbers(text: &str) -> Option<[u32; 3]> {
    let parts: Vec<&str> = text.split('.').collect();
    let [major, minor, patch] = parts.as_slice() else { return None };
    if ![major, minor, patch].into_iter().all(|part| is_number(part)) {
        return None;
    }
    Some([major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?])
}

fn check_requests(manifest: &PluginManifest, mistakes: &mut Mistakes) {
    let Requests { exec, bucket, kube, artifacts, scratch, metrics } = &manifest.request;
    let mut names = BTreeSet::new();
    for request in exec {
        let at = format!("request.exec \"{}\"", request.name.escape_debug());
        check_label(&at, &request.name, mistakes);
        if !names.insert(&request.name) {
            mistakes.add(&at, "is there twice");
        }
        check_line(&format!("{at}.reason"), &request.reason, mistakes);
        if request.program.is_empty() || request.program.contains(|c: char| c.is_control() || c.is_whitespace()) {
            mistakes.add(&format!("{at}.program"), "is not the name or path of a program");
        }
        if request.grant.verbs.is_empty() {
            mistakes.add(&format!("{at}.verbs"), "is empty");
        }
        check_slots(&at, manifest, &request.grant, mistakes);
        let files = request.grant.secret_files.iter().flat_map(|(variable, secret)| [variable, secret]);
        for name in request.grant.env.keys().chain(&request.grant.secrets).chain(files) {
            if !is_variable(name) {
                mistakes.add(&at, format!("\"{}\" is not the name of an environment variable", name.escape_debug()));
            }
        }
        for name in request.grant.secrets.iter().filter(|name| request.grant.env.contains_key(*name)) {
            mistakes.add(&at, format!("\"{name}\" is both in \"env\" and in \"secrets\""));
        }
        let taken = |name: &&String| request.grant.env.contains_key(*name) || request.grant.secrets.contains(name);
        for name in request.grant.secret_files.keys().filter(taken) {
            mistakes.add(&at, format!("\"{name}\" is in \"secret_files\" and set otherwise as well"));
        }
        if let Some(timeout) = &request.grant.timeout
            && let Err(error) = crate::unit::parse_duration(timeout)
        {
            mistakes.add(&format!("{at}.timeout"), error);
        }
    }
    for request in bucket {
        let at = format!("request.bucket \"{}\"", request.setting.escape_debug());
        check_line(&format!("{at}.reason"), &request.reason, mistakes);
        check_setting(&at, manifest, &request.setting, mistakes);
        if request.verbs.is_empty() {
            mistakes.add(&format!("{at}.verbs"), "is empty");
        }
        if request.may.is_empty() {
            mistakes.add(&format!("{at}.may"), "is empty");
        }
    }
    for request in kube {
        let at = format!("request.kube \"{}\"", request.setting.escape_debug());
        check_line(&format!("{at}.reason"), &request.reason, mistakes);
        check_setting(&at, manifest, &request.setting, mistakes);
        for mistake in request.as_grant().check() {
            mistakes.add(&format!("{at}.{}", mistake.key), mistake.message);
        }
    }
    if let Some(request) = scratch {
        check_scratch(request, mistakes);
    }
    if let Some(request) = artifacts {
        check_line("request.artifacts.reason", &request.reason, mistakes);
        for pattern in &request.inspect {
            if let Err(error) = SlotRule::pattern(pattern) {
                mistakes.add("request.artifacts.inspect", said(&error));
            }
        }
    }
    if let Some(request) = metrics {
        check_metrics(request, mistakes);
    }
}

fn check_metrics(request: &MetricsRequest, mistakes: &mut Mistakes) {
    check_line("request.metrics.reason", &request.reason, mistakes);
    if request.prefix.is_none() && request.query.is_empty() {
        mistakes.add("request.metrics", "asks for nothing: write \"prefix\", \"query\" or both");
    }
    // What could never be granted is a mistake of the manifest.
    let grant = MetricsGrant {
        prefix: request.prefix.clone(),
        query: request.query.clone(),
        labels: BTreeMap::new(),
        when: MetricsGrant::when(request.verbs.clone()),
    };
    for mistake in grant.check() {
        mistakes.add(&format!("request.metrics.{}", mistake.key), mistake.message);
    }
}

fn check_scratch(request: &super::ScratchRequest, mistakes: &mut Mistakes) {
    check_line("request.scratch.reason", &request.reason, mistakes);
    if request.verbs.is_empty() {
        mistakes.add("request.scratch.verbs", "is empty");
    }
    match crate::unit::parse_bytes(&request.bytes) {
        Ok(bytes) if (MIN_BYTES..=MAX_SCRATCH_BYTES).contains(&bytes) => {}
        Ok(_) => {
            let (least, most) = (crate::unit::bytes(MIN_BYTES), crate::unit::bytes(MAX_SCRATCH_BYTES));
            mistakes.add("request.scratch.bytes", format!("is from {least} to {most}"));
        }
        Err(error) => mistakes.add("request.scratch.bytes", said(&error)),
    }
}

/// The name of an environment variable as POSIX has it, in either case.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_slots(at: &str, manifest: &PluginManifest, grant: &super::RawExecGrant, mistakes: &mut Mistakes) {
    let mut used = BTreeSet::new();
    let texts = grant.args.iter().map(|arg| ("args", arg)).chain(grant.env.values().map(|value| ("env", value)));
    for (place, text) in texts {
        match Template::parse(text) {
            Ok(template) => used.extend(template.slots().map(str::to_owned)),
            Err(error) => mistakes.add(&format!("{at}.{place}"), said(&error)),
        }
    }
    for name in used.iter().filter(|name| *name != SCRATCH && !grant.slots.contains_key(*name)) {
        mistakes.add(at, format!("slot \"{{{}}}\" is used and not declared in \"slots\"", name.escape_debug()));
    }
    for (name, slot) in &grant.slots {
        let at = format!("{at}.slots.{}", name.escape_debug());
        if name == SCRATCH {
            mistakes.add(&at, "the host fills {scratch} by itself; take it out of \"slots\"");
        } else if !used.contains(name) {
            mistakes.add(&at, "is declared and used nowhere in \"args\" or \"env\"");
        }
        let text = match slot {
            super::RawSlot::Pattern(pattern) => SlotText { pattern: Some(pattern), ..SlotText::default() },
            super::RawSlot::Table { pattern, glob, setting, max_bytes, max_count } => SlotText {
                pattern: pattern.as_deref(),
                glob: glob.as_deref(),
                setting: setting.as_deref(),
                max_bytes: *max_bytes,
                max_count: *max_count,
            },
        };
        if let Some(setting) = text.setting {
            check_setting(&at, manifest, setting, mistakes);
        }
        if let Err(error) = SlotRule::parse(text) {
            mistakes.add(&at, said(&error));
        }
    }
    if let Some(super::RawStdin::Artifact { made_by, .. }) = &grant.stdin
        && !manifest.request.exec.iter().any(|request| &request.name == made_by)
    {
        mistakes.add(&format!("{at}.stdin.made_by"), format!("no request is named \"{}\"", made_by.escape_debug()));
    }
}

/// An error of the policy on one line, with what was expected and found.
fn said(error: &Error) -> String {
    let facts = error.facts().iter().map(|(label, value)| format!(", {label} {value}"));
    std::iter::once(error.to_string()).chain(facts).collect()
}

/// Whether a setting that a request refers to is one of those that the schemas name.
fn check_setting(at: &str, manifest: &PluginManifest, setting: &str, mistakes: &mut Mistakes) {
    let first = setting.split(['.', '[']).next().unwrap_or_default();
    let known = [&manifest.settings, &manifest.options]
        .iter()
        .any(|schema| schema.get("properties").is_some_and(|properties| properties.get(first).is_some()));
    if !known {
        let setting = setting.escape_debug();
        mistakes.add(at, format!("setting \"{setting}\" is in no schema under \"settings\" or \"options\""));
    }
}
