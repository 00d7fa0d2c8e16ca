//! `plugin inspect`: what a component is and what it could do, without running it.
//!
//! Everything a vendor wrote is shown as data: cut, escaped, and in quotes.

mod concern;
pub mod diff;
mod kube;
#[cfg(test)]
mod tests;
mod text;

pub use concern::Concern;

use super::capability::{CAPABILITIES, Risk};
use super::component::{Component, Import};
use super::manifest::{ExecRequest, KubeRequest, PluginManifest, RawExecGrant, RawSlot, RawStdin, unknown_commands};
use super::speech::{line, whole};
use crate::policy::exec::StdinGrant;
use crate::policy::storage::BucketVerb;
use crate::policy::{Effect, Grants, Verb};
use serde::Serialize;
use std::collections::BTreeSet;

/// The name of the shape of [`Inspection`] as JSON. Keys may be added; none is removed or changed.
pub const SCHEMA: &str = "strongroom.inspect/1";

/// What a component is. As JSON its shape is [`SCHEMA`]; as text it is for people.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Name from the manifest.
    pub name: String,
    /// Version from the manifest.
    pub version: String,
    /// One line from the manifest.
    pub summary: String,
    /// SPDX expression from the manifest.
    pub licence: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Versions of the contract that it runs on.
    pub contract: Vec<String>,
    /// Oldest host that it runs on.
    pub minimum_host: Option<String>,
    /// Tools that made it, as the file says.
    pub toolchain: Vec<Tool>,
    /// What it imports.
    pub imports: Vec<Interface>,
    /// What it asks for.
    pub requests: Vec<Request>,
    /// What is effective under the grants that were given, if any were, and under every ceiling.
    pub effective: Option<Vec<Effective>>,
    /// Its signature, as far as it was looked at.
    pub signature: Signature,
    /// Whether a configuration has approved exactly these bytes.
    pub approval: Option<ApprovalState>,
    /// Ceilings that are over the configuration; without any, an operator may grant everything.
    pub ceilings: Vec<String>,
    /// What `--fail-on` can fail on, in the order of its words.
    pub concerns: Vec<Concern>,
    /// What a person who decides should know.
    pub notes: Vec<String>,
}

/// A tool that made the component.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// An imported interface.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// Its name with its version.
    pub name: String,
    /// Of WASI: there is nothing behind it.
    pub inert: bool,
    /// Of WASI's files: a private scratch directory that may hold so much is behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch_bytes: Option<u64>,
    /// Its functions.
    pub functions: Vec<Function>,
}

/// An imported function.
#[derive(Clone, Debug, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// How far it reaches; absent for what is inert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// What it does.
    pub does: String,
    /// Whether a request covers it: if not, it is imported and never allowed.
    pub requested: bool,
    /// Whether what is effective covers it; absent where no configuration was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<bool>,
}

/// A signature and what it is worth.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Signature {
    /// What it is worth.
    pub state: SignatureState,
    /// Number of the key, as minisign prints it.
    pub key_id: Option<String>,
    /// The trusted comment, once the signature was checked.
    pub comment: Option<String>,
    /// Why it is not believed.
    pub reason: Option<String>,
}

/// What a signature is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureState {
    /// There is none.
    #[default]
    None,
    /// There is one, and no key is trusted that it could be checked with.
    Unchecked,
    /// It is by a trusted key, over these bytes.
    Good,
    /// It is by another key, or not over these bytes.
    Refused,
}

/// What a configuration says of these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// Its digest is the pinned one.
    Approved,
    /// No digest is pinned: nothing of it runs.
    NeverApproved,
    /// Another digest is pinned: nothing of it runs.
    OtherBytes,
    /// It never runs again, whatever is approved.
    Revoked,
}

/// What surrounds a component: all of it may be absent.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    /// What the configuration grants.
    pub grants: Option<&'a Grants>,
    /// See [`Inspection::signature`].
    pub signature: Signature,
    /// See [`Inspection::approval`].
    pub approval: Option<ApprovalState>,
    /// See [`Inspection::ceilings`].
    pub ceilings: Vec<String>,
    /// What jobs make of the grants that they narrow, each in a sentence.
    pub narrowed: Vec<String>,
}

/// Something that the plugin asks for.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// `exec`, `bucket`, `kube`, `artifacts`, `scratch` or `metrics`.
    pub kind: &'static str,
    /// Name of the command, or the setting that names the bucket or cluster.
    pub name: String,
    /// Why, as the vendor says.
    pub reason: String,
    /// What exactly: the command line, or what is done with the bucket.
    pub what: String,
    /// What may fill the holes of the command line, each as `name: what it admits`.
    pub slots: Vec<String>,
    /// Secrets that it asks for, by name.
    pub secrets: Vec<String>,
    /// Verbs it is for.
    pub verbs: Vec<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Its changes stay in scratch places.
    pub scratch: bool,
    /// Whether the plugin reads the bytes itself.
    pub inspect: bool,
}

/// Something that the plugin may do under given grants.
#[derive(Clone, Debug, Serialize)]
pub struct Effective {
    /// `exec`, `bucket`, `kube`, `artifacts`, `scratch` or `metrics`.
    pub kind: &'static str,
    /// Label of the grant.
    pub name: String,
    /// What exactly.
    pub what: String,
    /// Verbs it holds for.
    pub verbs: Vec<Verb>,
    /// Whether it changes something.
    pub effect: Effect,
    /// Whether the plugin reads the bytes itself.
    pub inspect: bool,
}

/// What `component` is, and with `grants`, what of it is effective.
pub fn inspect(component: &Component, grants: Option<&Grants>) -> Inspection {
    inspect_in(component, Surroundings { grants, ..Surroundings::default() })
}

/// What `component` is, in what surrounds it.
pub fn inspect_in(component: &Component, surroundings: Surroundings<'_>) -> Inspection {
    let manifest = &component.manifest;
    let Surroundings { grants, signature, approval, ceilings, narrowed } = surroundings;
    let effective_grants = grants.map(|grants| manifest.effective(grants));
    let imports: Vec<_> = component
        .imports
        .iter()
        .map(|(name, import)| {
            let scratch = scratch_bytes(component, effective_grants.as_ref());
            interface(name, import, manifest, effective_grants.as_ref(), scratch)
        })
        .collect();
    let mut inspection = Inspection {
        schema: SCHEMA,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        summary: line(&manifest.summary),
        licence: line(&manifest.licence),
        sha256: component.sha256.clone(),
        size_bytes: component.size,
        contract: manifest.component.clone(),
        minimum_host: manifest.minimum_host.clone(),
        toolchain: component
            .toolchain
            .iter()
            .map(|(name, version)| Tool { name: name.clone(), version: version.clone() })
            .collect(),
        notes: {
            let scratch = scratch_bytes(component, effective_grants.as_ref());
            let notes = notes(component, &imports, &ceilings, scratch);
            let of_no_use = grants.iter().flat_map(|grants| never_requested(manifest, grants));
            of_no_use.chain(narrowed).chain(notes).collect()
        },
        requests: requests(manifest),
        effective: effective_grants.as_ref().map(effective),
        concerns: Vec::new(),
        imports,
        signature,
        approval,
        ceilings,
    };
    inspection.concerns = concern::of(&inspection, component, effective_grants.as_ref());
    inspection
}

fn interface(
    name: &str,
    import: &Import,
    manifest: &PluginManifest,
    grants: Option<&Grants>,
    scratch: Option<u64>,
) -> Interface {
    let scratch_bytes = scratch.filter(|_| import.package == super::component::WASI_FILES);
    let functions = import.functions.iter().map(|function| {
        let entry = CAPABILITIES
            .iter()
            .find(|c| import.is_contract() && c.interface == import.interface && c.function == function);
        Function {
            name: line(function),
            risk: entry.map(|entry| entry.risk),
            does: match (entry, scratch_bytes) {
                (Some(entry), _) => entry.does.to_owned(),
                (None, Some(_)) => "within the scratch directory".to_owned(),
                (None, None) => "inert".to_owned(),
            },
            requested: entry.is_none_or(|entry| is_requested(manifest, entry.interface, entry.function)),
            granted: grants.and_then(|grants| entry.map(|entry| is_granted(grants, entry.interface, entry.function))),
        }
    });
    let inert = !import.is_contract() && scratch_bytes.is_none();
    Interface { name: name.to_owned(), inert, scratch_bytes, functions: functions.collect() }
}

/// Whether grants cover a function on any occasion.
fn is_granted(grants: &Grants, interface: &str, function: &str) -> bool {
    let buckets = || grants.buckets.values().flatten();
    let may = |verbs: &[BucketVerb]| buckets().any(|bucket| verbs.iter().any(|verb| bucket.may.contains(verb)));
    let inspects = || {
        grants.exec.values().any(|exec| exec.inspect)
            || buckets().any(|bucket| bucket.inspect)
            || grants.artifacts.as_ref().is_some_and(|artifacts| !artifacts.inspect.is_empty())
    };
    match (interface, function) {
        ("exec", "run") => grants.exec.values().any(|exec| exec.inspect),
        ("exec", _) => !grants.exec.is_empty(),
        ("bytes", "source.read") => inspects() || grants.kube.values().flatten().any(|kube| kube.inspect),
        ("kube", function) => kube::covers(function, grants.kube.values().flatten()),
        ("metrics", "query" | "query-range") => {
            grants.metrics.as_ref().is_some_and(|metrics| !metrics.query.is_empty())
        }
        ("metrics", _) => grants.metrics.as_ref().is_some_and(|metrics| metrics.prefix.is_some()),
        ("storage", "open-bucket") => !grants.buckets.is_empty(),
        ("storage", function) => match bucket_verbs_of(function) {
            Some(verbs) => may(verbs),
            None => grants.artifacts.is_some(),
        },
        _ => true,
    }
}

/// The verbs of which a function on buckets needs one; `None` for the others.
fn bucket_verbs_of(function: &str) -> Option<&'static [BucketVerb]> {
    Some(match function {
        "bucket.objects" => &[BucketVerb::List],
        "bucket.attributes" | "bucket.read" => &[BucketVerb::Read],
        "bucket.write" | "writing.wait" => &[BucketVerb::Write, BucketVerb::Overwrite],
        "bucket.delete" => &[BucketVerb::Delete, BucketVerb::DeleteVersion],
        "bucket.read-config" => &[BucketVerb::ReadConfig],
        "bucket.write-config" => &[BucketVerb::WriteConfig],
        _ => return None,
    })
}

/// Whether the manifest's requests cover a function at all.
fn is_requested(manifest: &PluginManifest, interface: &str, function: &str) -> bool {
    let request = &manifest.request;
    let may = |verbs: &[BucketVerb]| request.bucket.iter().any(|b| verbs.iter().any(|verb| b.may.contains(verb)));
    match (interface, function) {
        ("exec", "run") => request.exec.iter().any(|exec| exec.grant.inspect),
        ("exec", _) => !request.exec.is_empty(),
        ("bytes", "source.read") => {
            request.exec.iter().any(|exec| exec.grant.inspect)
                || request.bucket.iter().any(|bucket| bucket.inspect)
                || request.kube.iter().any(|kube| kube.inspect)
                || request.artifacts.as_ref().is_some_and(|artifacts| !artifacts.inspect.is_empty())
        }
        ("kube", function) => {
            let asked: Vec<_> = request.kube.iter().map(KubeRequest::as_grant).collect();
            kube::covers(function, asked.iter())
        }
        ("metrics", "query" | "query-range") => {
            request.metrics.as_ref().is_some_and(|metrics| !metrics.query.is_empty())
        }
        ("metrics", _) => request.metrics.as_ref().is_some_and(|metrics| metrics.prefix.is_some()),
        ("storage", "open-bucket") => !request.bucket.is_empty(),
        ("storage", function) => match bucket_verbs_of(function) {
            Some(verbs) => may(verbs),
            None => request.artifacts.is_some(),
        },
        _ => true,
    }
}

/// A requested command for people.
fn request_of_exec(exec: &ExecRequest) -> Request {
    let grant = &exec.grant;
    let env = grant.env.iter().map(|(name, value)| format!("{name}={value}"));
    let command: Vec<_> = env.chain([exec.program.clone()]).chain(grant.args.iter().cloned()).collect();
    let stdin = match &grant.stdin {
        None => String::new(),
        Some(RawStdin::Text { text, hold }) => format!(" < {text:?}{}", if *hold { ", kept open" } else { "" }),
        Some(RawStdin::Artifact { artifact, made_by }) => format!(" < artifact {artifact:?} made by {made_by:?}"),
        Some(RawStdin::Word(_)) => " < whatever the plugin gives".to_owned(),
    };
    Request {
        kind: "exec",
        name: exec.name.clone(),
        reason: line(&exec.reason),
        what: whole(&format!("{}{stdin}", command.join(" "))),
        slots: grant.slots.iter().map(|(name, slot)| whole(&format!("{name}: {}", admits(slot)))).collect(),
        secrets: secrets_of(grant),
        verbs: grant.verbs.iter().copied().collect(),
        effect: grant.effect.unwrap_or(Effect::Changes),
        scratch: grant.scratch,
        inspect: grant.inspect,
    }
}

/// The secrets that a command asks for, and how it gets them if not as a variable of the same name.
fn secrets_of(grant: &RawExecGrant) -> Vec<String> {
    let files = grant.secret_files.iter().map(|(variable, name)| format!("{name} as the file {variable}"));
    grant.secrets.iter().cloned().chain(files).map(|text| whole(&text)).collect()
}

fn requests(manifest: &PluginManifest) -> Vec<Request> {
    let request = &manifest.request;
    let exec = request.exec.iter().map(request_of_exec);
    let buckets = request.bucket.iter().map(|bucket| Request {
        kind: "bucket",
        name: line(&bucket.setting),
        reason: line(&bucket.reason),
        what: bucket_verbs(&bucket.may),
        slots: Vec::new(),
        secrets: Vec::new(),
        verbs: bucket.verbs.iter().copied().collect(),
        effect: bucket.effect,
        scratch: bucket.scratch,
        inspect: bucket.inspect,
    });
    let artifacts = request.artifacts.iter().map(|artifacts| Request {
        kind: "artifacts",
        name: "artifacts".to_owned(),
        reason: line(&artifacts.reason),
        what: artifact_what(&artifacts.inspect),
        slots: Vec::new(),
        secrets: Vec::new(),
        verbs: vec![Verb::Backup, Verb::Verify, Verb::Restore],
        effect: Effect::Reads,
        scratch: false,
        inspect: !artifacts.inspect.is_empty(),
    });
    let scratch = request.scratch.iter().map(|scratch| Request {
        kind: "scratch",
        name: super::scratch::GUEST_PATH.to_owned(),
        reason: line(&scratch.reason),
        what: scratch_what(scratch.max_bytes()),
        slots: Vec::new(),
        secrets: Vec::new(),
        verbs: scratch.verbs.iter().copied().collect(),
        effect: Effect::Reads,
        scratch: false,
        inspect: false,
    });
    let metrics = request.metrics.iter().map(|metrics| Request {
        kind: "metrics",
        name: "metrics".to_owned(),
        reason: line(&metrics.reason),
        what: metrics_what(metrics.prefix.as_deref(), &metrics.query),
        slots: Vec::new(),
        secrets: Vec::new(),
        verbs: metrics.verbs.iter().copied().collect(),
        effect: Effect::Reads,
        scratch: false,
        inspect: !metrics.query.is_empty(),
    });
    let clusters = request.kube.iter().map(kube::request);
    exec.chain(buckets).chain(clusters).chain(artifacts).chain(scratch).chain(metrics).collect()
}

/// What a scratch directory is, in words.
fn scratch_what(bytes: u64) -> String {
    format!("a private scratch directory of at most {}", crate::unit::bytes(bytes))
}

/// What a slot admits, in words.
pub fn admits(slot: &RawSlot) -> String {
    match slot {
        RawSlot::Pattern(pattern) => format!("{pattern:?}"),
        RawSlot::Table { pattern: Some(pattern), .. } => format!("{pattern:?}"),
        RawSlot::Table { glob: Some(glob), .. } => format!("names like {glob:?}"),
        RawSlot::Table { setting: Some(setting), .. } => format!("what the setting {setting:?} names"),
        RawSlot::Table { .. } => "nothing".to_owned(),
    }
}

fn artifact_what(inspect: &[String]) -> String {
    if inspect.is_empty() {
        "stores and reads back its own artifacts, without seeing them".to_owned()
    } else {
        whole(&format!("stores and reads back its own artifacts; reads the bytes of {}", inspect.join(", ")))
    }
}

fn metrics_what(prefix: Option<&str>, query: &BTreeSet<String>) -> String {
    let writes = prefix.map(|prefix| format!("writes metrics that begin with {prefix:?}"));
    let names = || query.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let asks = (!query.is_empty()).then(|| format!("asks Prometheus for {}", names()));
    whole(&writes.into_iter().chain(asks).collect::<Vec<_>>().join("; "))
}

fn bucket_verbs(may: &BTreeSet<BucketVerb>) -> String {
    may.iter().map(|verb| verb.name()).collect::<Vec<_>>().join(", ")
}

fn effective(grants: &Grants) -> Vec<Effective> {
    let exec = grants.exec.iter().map(|(name, grant)| Effective {
        kind: "exec",
        name: name.clone(),
        what: whole(&command_line(grant)),
        verbs: grant.when.verbs.iter().copied().collect(),
        effect: grant.when.effect,
        inspect: grant.inspect,
    });
    let buckets = grants.buckets.iter().flat_map(|(label, grants)| {
        grants.iter().map(move |grant| Effective {
            kind: "bucket",
            name: label.clone(),
            what: format!("{} under {:?}", bucket_verbs(&grant.may), grant.prefixes),
            verbs: grant.when.verbs.iter().copied().collect(),
            effect: grant.when.effect,
            inspect: grant.inspect,
        })
    });
    let artifacts = grants.artifacts.iter().map(|grant| Effective {
        kind: "artifacts",
        name: "artifacts".to_owned(),
        what: artifact_what(&grant.inspect.iter().map(crate::policy::slot::SlotRule::describe).collect::<Vec<_>>()),
        verbs: vec![Verb::Backup, Verb::Verify, Verb::Restore],
        effect: Effect::Reads,
        inspect: !grant.inspect.is_empty(),
    });
    let clusters =
        grants.kube.iter().flat_map(|(label, grants)| grants.iter().map(|grant| kube::effective(label, grant)));
    let scratch = grants.scratch.iter().map(|grant| Effective {
        kind: "scratch",
        name: super::scratch::GUEST_PATH.to_owned(),
        what: scratch_what(grant.bytes),
        verbs: grant.verbs.iter().copied().collect(),
        effect: Effect::Reads,
        inspect: false,
    });
    let metrics = grants.metrics.iter().map(|grant| {
        let labels: String = grant.labels.iter().map(|(name, value)| format!("; only with {name}={value:?}")).collect();
        Effective {
            kind: "metrics",
            name: "metrics".to_owned(),
            what: whole(&format!("{}{labels}", metrics_what(grant.prefix.as_deref(), &grant.query))),
            verbs: grant.when.verbs.iter().copied().collect(),
            effect: grant.when.effect,
            inspect: !grant.query.is_empty(),
        }
    });
    exec.chain(buckets).chain(clusters).chain(artifacts).chain(scratch).chain(metrics).collect()
}

fn command_line(grant: &crate::policy::exec::ExecGrant) -> String {
    let env = grant.env.iter().map(|(name, value)| format!("{name}={value}"));
    let args = grant.args.iter().map(ToString::to_string);
    let stdin = match &grant.stdin {
        StdinGrant::None => String::new(),
        StdinGrant::Text { text, hold } => format!(" < {text:?}{}", if *hold { ", kept open" } else { "" }),
        StdinGrant::Artifact { name, made_by } => format!(" < artifact {} made by {made_by:?}", name.describe()),
        StdinGrant::Plugin => " < whatever the plugin gives".to_owned(),
    };
    let pinned = grant.sha256.iter().map(|sha256| format!("; only while its sha256 is {sha256}"));
    let line = env.chain([grant.program.clone()]).chain(args).collect::<Vec<_>>().join(" ");
    format!("{line}{stdin}{}", pinned.collect::<String>())
}

/// The size of the scratch directory that there is under these grants, or that is asked for where
/// there are none.
fn scratch_bytes(component: &Component, grants: Option<&Grants>) -> Option<u64> {
    match grants {
        Some(grants) => grants.scratch.as_ref().map(|grant| grant.bytes),
        None => component.manifest.request.scratch.as_ref().map(super::manifest::ScratchRequest::max_bytes),
    }
}

/// What is granted and can never be used: a command that is not requested, with which the plugin is not loaded,
/// and grants of which nothing is left.
fn never_requested(manifest: &PluginManifest, grants: &Grants) -> Vec<String> {
    let commands = unknown_commands(manifest, grants).into_iter().map(|command| {
        let near = command.nearest.map(|near| format!(" (did you mean \"{near}\"?)")).unwrap_or_default();
        format!("granted, never requested: exec \"{}\"{near}; the plugin does not load with it", command.name)
    });
    let effective = manifest.effective(grants);
    let buckets = grants.buckets.keys().filter(|label| !effective.buckets.contains_key(*label));
    let clusters = grants.kube.keys().filter(|label| !effective.kube.contains_key(*label));
    let labelled = buckets.map(|label| ("bucket", label)).chain(clusters.map(|label| ("kube", label)));
    let labelled = labelled.map(|(kind, label)| format!("{kind} \"{label}\""));
    let whole = [
        ("artifacts", grants.artifacts.is_some() && effective.artifacts.is_none()),
        ("scratch", grants.scratch.is_some() && effective.scratch.is_none()),
        ("metrics", grants.metrics.is_some() && effective.metrics.is_none()),
    ];
    let whole = whole.into_iter().filter(|(_, gone)| *gone).map(|(kind, _)| kind.to_owned());
    let of_no_use = labelled.chain(whole).map(|what| format!("granted, and no request covers any of it: {what}"));
    commands.chain(of_no_use).collect()
}

fn notes(component: &Component, imports: &[Interface], ceilings: &[String], scratch: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    for exec in component.manifest.request.exec.iter().filter(|e| matches!(e.grant.stdin, Some(RawStdin::Word(_)))) {
        notes.push(format!(
            "\"{}\" reads what the plugin gives it: that is code execution for every program that reads a language",
            exec.name
        ));
    }
    if component.imports_wasi() {
        let files =
            scratch.map_or_else(|| "no files".to_owned(), |bytes| format!("{} and no other file", scratch_what(bytes)));
        let inert = if scratch.is_some() { "WASI has" } else { "WASI is inert:" };
        notes.push(format!("{inert} {files}, environment, arguments or network behind it; output goes to the log"));
    }
    let beyond: Vec<_> =
        imports.iter().flat_map(|i| &i.functions).filter(|f| !f.requested).map(|f| f.name.as_str()).collect();
    if !beyond.is_empty() {
        notes.push(format!("imported, never allowed: {}", beyond.join(", ")));
    }
    if ceilings.is_empty() {
        notes.push("no ceiling: whoever writes the configuration may grant anything".to_owned());
    }
    notes
}
