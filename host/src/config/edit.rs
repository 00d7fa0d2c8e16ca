//! Writes what `plugin approve` decided into the text of a configuration: comments, order and
//! formatting of everything else stay.
//!
//! Pure: [`super::file::replace`] writes the file.

use super::key::{ROOT, Section, Shape};
use crate::error::{Error, Result};
use crate::plugin::manifest::RawExecGrant;
use crate::policy::kube::{KubeGrant, KubeVerb, NamePattern};
use crate::policy::storage::BucketVerb;
use crate::policy::{Effect, Verb, When};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// The way from the root to a plugin's grants in the table of keys; the second is a plugin's label.
const PLUGIN_PATH: [&str; 3] = ["plugin", "", "grant"];

/// Everything that a plugin is granted, as it is written: it replaces what was granted before.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RawGrants {
    /// `grant.exec.*`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exec: BTreeMap<String, RawExec>,
    /// `grant.bucket.*`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bucket: BTreeMap<String, Vec<RawBucket>>,
    /// `grant.kube.*`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kube: BTreeMap<String, Vec<RawKube>>,
    /// `grant.artifacts`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<RawArtifacts>,
    /// `grant.scratch`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<RawScratch>,
    /// `grant.metrics`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RawMetrics>,
}

/// `grant.exec.x`
#[derive(Clone, Debug, Serialize)]
pub struct RawExec {
    /// Absolute path of the program, where the command runs.
    pub program: String,
    /// The only program that may lie there, by the digest of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub grant: RawExecGrant,
}

/// `grant.bucket.x`, or one of them.
#[derive(Clone, Debug, Serialize)]
pub struct RawBucket {
    /// What may be done.
    pub may: BTreeSet<BucketVerb>,
    /// Keys that it holds for; none is the whole bucket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Whether the plugin may read the bytes itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inspect: bool,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Changes only scratch places.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scratch: bool,
}

/// `grant.kube.x`, or one of them.
#[derive(Clone, Debug, Serialize)]
pub struct RawKube {
    /// What may be done.
    pub may: BTreeSet<KubeVerb>,
    /// With which kinds.
    pub kinds: BTreeSet<String>,
    /// Namespaces; none is all of them, and what lies in none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Whether the plugin may read bodies itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inspect: bool,
    /// Whether it sees the values of Secrets.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secret_data: bool,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Changes only scratch places.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scratch: bool,
}

impl RawKube {
    /// The grant that it is once it is written.
    pub fn as_grant(&self) -> KubeGrant {
        KubeGrant {
            may: self.may.clone(),
            kinds: self.kinds.clone(),
            namespaces: self.namespaces.iter().map(NamePattern::new).collect(),
            names: Vec::new(),
            labels: BTreeMap::new(),
            inspect: self.inspect,
            secret_data: self.secret_data,
            when: When { verbs: self.verbs.clone(), effect: self.effect, scratch: self.scratch },
        }
    }
}

/// `grant.artifacts`
#[derive(Clone, Debug, Default, Serialize)]
pub struct RawArtifacts {
    /// Patterns of the artifacts whose bytes the plugin may read itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inspect: Vec<String>,
}

/// `grant.scratch`
#[derive(Clone, Debug, Serialize)]
pub struct RawScratch {
    /// What its files may hold together, such as `64MiB`.
    pub bytes: String,
    /// Verbs it holds for.
    pub verbs: BTreeSet<Verb>,
}

/// `grant.metrics`
#[derive(Clone, Debug, Default, Serialize)]
pub struct RawMetrics {
    /// What names that it writes begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Names that it may query.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub query: BTreeSet<String>,
    /// Labels that its queries get.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Verbs it holds for; none is all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub verbs: BTreeSet<Verb>,
}

/// The document with `[plugin.<label>]` pinned to `digest` and granted exactly `grants`.
///
/// What is equal to what was there stays byte for byte, so approving an equal plugin again returns
/// the document unchanged.
///
/// Errors: `Invalid` when the document is not TOML or a table on the way is something else;
/// `NotFound` without `[plugin.<label>]`.
pub fn approve(document: &str, label: &str, digest: &str, grants: &RawGrants) -> Result<String> {
    let mut edited: DocumentMut =
        document.parse().map_err(|error| Error::invalid("the configuration is not TOML").because(error))?;
    let desired = serde_json::to_value(grants)
        .map_err(|error| Error::failed("could not write the grants as TOML").because(error))?;
    let known = edited.get("plugin").and_then(|plugins| plugins.get(label));
    let before = known.map(json_of).ok_or_else(|| {
        Error::not_found(format!("there is no plugin \"{label}\" in the configuration"))
            .hint(format!("add [plugin.{label}] with source = \"PATH\""))
    })?;
    if before["sha256"] == digest && normal(&before["grant"]) == normal(&desired) {
        return Ok(document.to_owned());
    }
    let plugins = child(edited.as_table_mut(), "plugin", "plugin")?;
    let plugin = child(plugins, label, &format!("plugin.{label}"))?;
    set(plugin, "sha256", &Json::String(digest.to_owned()), None);
    let none = Map::new();
    let desired = desired.as_object().unwrap_or(&none);
    if desired.is_empty() && !plugin.contains_key("grant") {
        return Ok(edited.to_string());
    }
    let shape = PLUGIN_PATH.iter().fold(None, |shape, name| match shape {
        None => ROOT.keys.iter().find(|key| key.name == *name).map(|key| &key.shape),
        some => shape_within(some, name),
    });
    let grant = child(plugin, "grant", &format!("plugin.{label}.grant"))?;
    for kind in ["exec", "bucket", "kube"] {
        let wanted = desired.get(kind).and_then(Json::as_object).unwrap_or(&none);
        if wanted.is_empty() {
            grant.remove(kind);
            continue;
        }
        let path = format!("plugin.{label}.grant.{kind}");
        let table = child(grant, kind, &path)?;
        let stale: Vec<String> =
            table.iter().map(|(name, _)| name.to_owned()).filter(|name| !wanted.contains_key(name)).collect();
        for name in stale {
            table.remove(&name);
        }
        for (name, wanted) in wanted {
            write_grant(table, name, wanted, shape_within(shape_within(shape, kind), name))?;
        }
    }
    for one in ["artifacts", "scratch", "metrics"] {
        match desired.get(one) {
            None => drop(grant.remove(one)),
            Some(wanted) => write_grant(grant, one, wanted, shape_within(shape, one))?,
        }
    }
    Ok(edited.to_string())
}

/// The digests that commands of `[plugin.<label>]` are pinned by, as they are written, by command: each with
/// its program. None of a document that is not TOML, and none that is no digest.
pub fn pins(document: &str, label: &str) -> BTreeMap<String, (String, String)> {
    let Ok(read) = document.parse::<DocumentMut>() else { return BTreeMap::new() };
    let grant = read.get("plugin").and_then(|plugins| plugins.get(label)?.get("grant")?.get("exec"));
    let commands = grant.and_then(Item::as_table_like).into_iter().flat_map(TableLike::iter);
    let text = |command: &Item, key: &str| command.get(key).and_then(Item::as_str).map(str::to_owned);
    let pin = |(name, command): (&str, &Item)| {
        let sha256 = text(command, "sha256").filter(|text| super::digest(text).is_some())?;
        Some((name.to_owned(), (text(command, "program")?, sha256)))
    };
    commands.filter_map(pin).collect()
}

/// The document without what `[plugin.<label>]` is granted, for when that cannot be read any more.
///
/// Errors: `Invalid` when the document is not TOML.
pub fn without_grants(document: &str, label: &str) -> Result<String> {
    let mut edited: DocumentMut =
        document.parse().map_err(|error| Error::invalid("the configuration is not TOML").because(error))?;
    let plugin = edited.get_mut("plugin").and_then(Item::as_table_like_mut).and_then(|plugins| plugins.get_mut(label));
    if let Some(plugin) = plugin.and_then(Item::as_table_like_mut) {
        plugin.remove("grant");
    }
    Ok(edited.to_string())
}

/// The document with the recipients of `[store.<label>]` replaced, and its identity named; so that
/// an identity that was just made is the one that opens the next backup.
///
/// Errors: `Invalid` when the document is not TOML; `NotFound` without the table; `Conflict` when
/// the store names an identity or recipients already, since backups may have been made for them.
pub fn set_identity(document: &str, label: &str, recipients: &[String], identity: &std::path::Path) -> Result<String> {
    let mut edited: DocumentMut =
        document.parse().map_err(|error| Error::invalid("the configuration is not TOML").because(error))?;
    let store = edited
        .get_mut("store")
        .and_then(Item::as_table_like_mut)
        .and_then(|stores| stores.get_mut(label))
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| {
            Error::not_found(format!("there is no store \"{label}\" in the configuration"))
                .hint(format!("add [store.{label}] with type and path, or type and bucket"))
        })?;
    if store.get("identity").is_some() || !is_default(&store.get("recipients").map_or(Json::Null, json_of)) {
        return Err(Error::conflict(format!("store \"{label}\" names an identity or recipients already"))
            .hint("leave --new-identity out; to change recipients, add the new ones and keep the old identity for old backups"));
    }
    let identity = identity.to_str().ok_or_else(|| Error::invalid("the path of the identity is not UTF-8"))?;
    set(store, "recipients", &Json::from(recipients), None);
    set(store, "identity", &serde_json::json!({ "file": identity }), None);
    Ok(edited.to_string())
}

/// The shape of a key of a table, where the table of keys knows it.
fn shape_within(shape: Option<&'static Shape>, name: &str) -> Option<&'static Shape> {
    match shape? {
        Shape::Table(section) | Shape::Tables(section) => {
            section.keys.iter().find(|key| key.name == name).map(|key| &key.shape)
        }
        Shape::Map(_, inner) => Some(inner),
        Shape::Union(shapes) => shapes.iter().find_map(|shape| shape_within(Some(shape), name)),
        _ => None,
    }
}

/// Where a key stands among its siblings in the documentation; what is not there comes last.
fn position(shape: Option<&'static Shape>, name: &str) -> usize {
    let section: Option<&Section> = match shape {
        Some(Shape::Table(section) | Shape::Tables(section)) => Some(section),
        Some(Shape::Union(shapes)) => shapes.iter().find_map(|shape| match shape {
            Shape::Table(section) => Some(*section),
            _ => None,
        }),
        _ => None,
    };
    section.and_then(|section| section.keys.iter().position(|key| key.name == name)).unwrap_or(usize::MAX)
}

/// One grant: a table, or several of them.
fn write_grant(parent: &mut Table, name: &str, wanted: &Json, shape: Option<&'static Shape>) -> Result<()> {
    let wanted = match wanted {
        Json::Array(list) if list.len() == 1 => &list[0],
        other => other,
    };
    if parent.get(name).is_some_and(|item| normal(&json_of(item)) == normal(wanted)) {
        return Ok(());
    }
    match wanted {
        Json::Array(list) => {
            let tables = list.iter().map(|wanted| new_table(wanted, shape));
            parent.insert(name, Item::ArrayOfTables(tables.collect::<ArrayOfTables>()));
        }
        Json::Object(fields) => match parent.get_mut(name).and_then(Item::as_table_like_mut) {
            Some(table) => update(table, fields, shape),
            None => drop(parent.insert(name, Item::Table(new_table(wanted, shape)))),
        },
        _ => return Err(Error::failed(format!("the grant \"{name}\" is not a table"))),
    }
    Ok(())
}

/// Makes a table hold exactly `wanted`; what is equal stays as it is written.
fn update(table: &mut dyn TableLike, wanted: &Map<String, Json>, shape: Option<&'static Shape>) {
    let stale: Vec<String> = table
        .iter()
        .filter(|(name, item)| wanted.get(*name).is_none_or(is_default) && !is_default(&normal(&json_of(item))))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in stale {
        table.remove(&name);
    }
    for (name, value) in in_order(wanted, shape) {
        match (table.get_mut(name), value) {
            (Some(item), _) if normal(&json_of(item)) == normal(value) => {}
            (Some(item), Json::Object(fields)) if item.is_table_like() => {
                if let Some(inner) = item.as_table_like_mut() {
                    update(inner, fields, shape_within(shape, name));
                }
            }
            _ => set(table, name, value, shape_within(shape, name)),
        }
    }
}

fn set(table: &mut dyn TableLike, name: &str, value: &Json, shape: Option<&'static Shape>) {
    let new = value_of(value, 0, shape);
    match table.get_mut(name) {
        Some(Item::Value(old)) if normal(&json_of(&Item::Value(old.clone()))) == normal(value) => {}
        Some(Item::Value(old)) => {
            // The comment behind a value belongs to its line, and stays.
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        Some(item) => *item = Item::Value(new),
        None => drop(table.insert(name, Item::Value(new))),
    }
}

fn new_table(wanted: &Json, shape: Option<&'static Shape>) -> Table {
    let mut table = Table::new();
    let none = Map::new();
    for (name, value) in in_order(wanted.as_object().unwrap_or(&none), shape) {
        table.insert(name, Item::Value(value_of(value, 0, shape_within(shape, name))));
    }
    table
}

/// Keys in the order of the documentation, without those that hold what they hold by default.
fn in_order<'a>(wanted: &'a Map<String, Json>, shape: Option<&'static Shape>) -> Vec<(&'a str, &'a Json)> {
    let mut fields: Vec<_> =
        wanted.iter().filter(|(_, value)| !is_default(value)).map(|(name, value)| (name.as_str(), value)).collect();
    fields.sort_by_key(|(name, _)| position(shape, name));
    fields
}

/// Longest list on one line, in characters.
const LINE: usize = 96;

fn value_of(json: &Json, depth: usize, shape: Option<&'static Shape>) -> Value {
    match json {
        Json::Null => Value::from(""),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(n) => Value::from(n),
            None => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => {
            let mut array: Array = list.iter().map(|inner| value_of(inner, depth + 1, None)).collect();
            if depth == 0 && array.to_string().chars().count() > LINE {
                for value in array.iter_mut() {
                    value.decor_mut().set_prefix("\n    ");
                }
                array.set_trailing("\n");
                array.set_trailing_comma(true);
            }
            Value::Array(array)
        }
        Json::Object(fields) => {
            let mut table = InlineTable::new();
            for (name, value) in in_order(fields, shape) {
                table.insert(name, value_of(value, depth + 1, shape_within(shape, name)));
            }
            Value::InlineTable(table)
        }
    }
}

/// Absent keys and keys that say what is so anyway mean the same.
fn is_default(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(false) => true,
        Json::Array(list) => list.is_empty(),
        Json::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A grant in a form in which equal grants are equal.
fn normal(json: &Json) -> Json {
    match json {
        Json::Array(list) if list.len() == 1 && list[0].is_object() => normal(&list[0]),
        Json::Array(list) => Json::Array(list.iter().map(normal).collect()),
        Json::Object(fields) => {
            let mut fields: Map<String, Json> = fields
                .iter()
                .map(|(name, value)| {
                    let mut value = normal(value);
                    // Sets: their order means nothing.
                    if let (true, Json::Array(list)) =
                        (matches!(name.as_str(), "verbs" | "may" | "secrets"), &mut value)
                    {
                        list.sort_by_key(Json::to_string);
                    }
                    (name.clone(), value)
                })
                .filter(|(_, value)| !is_default(value))
                .collect();
            if fields.len() == 1
                && let Some(pattern) = fields.remove("pattern")
            {
                return pattern;
            }
            Json::Object(fields)
        }
        other => other.clone(),
    }
}

fn json_of(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => json_of_value(value),
        Item::Table(table) => Json::Object(table.iter().map(|(name, item)| (name.to_owned(), json_of(item))).collect()),
        Item::ArrayOfTables(tables) => {
            Json::Array(tables.iter().map(|table| json_of(&Item::Table(table.clone()))).collect())
        }
    }
}

fn json_of_value(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::String(text.value().clone()),
        Value::Integer(n) => Json::from(*n.value()),
        Value::Float(n) => Json::from(*n.value()),
        Value::Boolean(flag) => Json::Bool(*flag.value()),
        Value::Datetime(at) => Json::String(at.value().to_string()),
        Value::Array(list) => Json::Array(list.iter().map(json_of_value).collect()),
        Value::InlineTable(table) => {
            Json::Object(table.iter().map(|(name, value)| (name.to_owned(), json_of_value(value))).collect())
        }
    }
}

/// The child as a table with a header of its own: an inline one becomes one with its comments, a
/// missing one is made.
fn child<'a>(parent: &'a mut Table, name: &str, path: &str) -> Result<&'a mut Table> {
    let lost = || Error::failed(format!("[{path}] is not a table any more"));
    if !parent.get(name).is_some_and(Item::is_table) {
        let above = parent.key(name).and_then(|key| key.leaf_decor().prefix()).cloned();
        let (mut table, behind) = match parent.get_mut(name).map(std::mem::take) {
            None | Some(Item::None) => (Table::new(), None),
            Some(Item::Value(Value::InlineTable(inline))) => {
                let behind = inline.decor().suffix().cloned();
                (inline.into_table(), behind)
            }
            Some(_) => return Err(Error::invalid(format!("[{path}] is not a table"))),
        };
        // One that holds only tables needs no header of its own.
        table.set_implicit(true);
        if let Some(behind) = behind {
            table.decor_mut().set_suffix(behind);
        }
        if let Some(above) = above.filter(|above| above.as_str().is_some_and(|text| text.contains('#'))) {
            table.decor_mut().set_prefix(above);
        }
        if let Some(item) = parent.get_mut(name) {
            *item = Item::Table(table);
        } else {
            parent.insert(name, Item::Table(table));
        }
        if let Some(mut key) = parent.key_mut(name) {
            // Spaces around an inline key would end up inside the header.
            key.fmt();
        }
    }
    parent.get_mut(name).and_then(Item::as_table_mut).ok_or_else(lost)
}

#[cfg(test)]
mod tests;
