//! From what a plugin asks for to what it would be granted: programs found, buckets named.
//!
//! Decides nothing: `plugin approve` shows it and asks, and a restore without a configuration grants
//! it only where the operator says so.

use crate::config::edit::{RawArtifacts, RawBucket, RawExec, RawGrants, RawKube, RawMetrics, RawScratch};
use crate::error::{Error, Result};
use crate::plugin::manifest::PluginManifest;
use crate::policy::Verb;
use crate::policy::metrics::MetricsGrant;
use std::collections::{BTreeMap, BTreeSet};

/// What the operator said beforehand.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Paths of programs by the name that the manifest gives them.
    pub(super) programs: BTreeMap<String, String>,
    /// Labels of buckets by the setting or option that names them.
    pub(super) buckets: BTreeMap<String, BTreeSet<String>>,
    /// Labels of clusters by the setting or option that names them.
    pub(super) clusters: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces by the cluster's label; `*` is all of them, and what lies in none.
    pub(super) namespaces: BTreeMap<String, BTreeSet<String>>,
    /// Those of test restores, which makes and removes them: requests for these alone are granted nothing else.
    pub(super) scratch_namespaces: BTreeMap<String, BTreeSet<String>>,
    /// Only requests that hold for this verb.
    pub(super) only: Option<Verb>,
}

/// The grants that cover what the manifest asks for.
///
/// Errors: `NotFound` for a program that is not on this machine, with the flag that names it; `Invalid`
/// for a cluster of which nobody has said which namespaces are meant.
pub(super) fn grants(manifest: &PluginManifest, known: &Known, path: &str) -> Result<RawGrants> {
    let wanted = |verbs: &BTreeSet<Verb>| known.only.is_none_or(|only| verbs.contains(&only));
    let mut grants = RawGrants::default();
    for request in manifest.request.exec.iter().filter(|request| wanted(&request.grant.verbs)) {
        let program = match known.programs.get(&request.program) {
            Some(given) => given.clone(),
            None => crate::exec::find_program(&request.program, path).ok_or_else(|| {
                Error::not_found(format!("there is no program \"{}\" on this machine", request.program))
                    .fact("asked for by", format!("command \"{}\": {}", request.name, request.reason))
                    .hint(format!("install it, or say where it is: --program {}=/PATH", request.program))
            })?,
        };
        grants.exec.insert(request.name.clone(), RawExec { program, sha256: None, grant: request.grant.clone() });
    }
    for request in manifest.request.bucket.iter().filter(|request| wanted(&request.verbs)) {
        for label in known.buckets.get(&request.setting).into_iter().flatten() {
            grants.bucket.entry(label.clone()).or_default().push(RawBucket {
                may: request.may.clone(),
                prefixes: Vec::new(),
                inspect: request.inspect,
                verbs: request.verbs.clone(),
                effect: request.effect,
                scratch: request.scratch,
            });
        }
    }
    for request in manifest.request.kube.iter().filter(|request| wanted(&request.verbs)) {
        for label in known.clusters.get(&request.setting).into_iter().flatten() {
            let said = if request.scratch { &known.scratch_namespaces } else { &known.namespaces };
            let named = said.get(label).filter(|named| !named.is_empty());
            if request.scratch && named.is_none() {
                // Who wants no test restores grants nothing for them.
                continue;
            }
            let namespaces = named.ok_or_else(|| {
                Error::invalid(format!("nobody has said which namespaces of cluster \"{label}\" are meant"))
                    .fact("asked for by", format!("setting \"{}\": {}", request.setting, request.reason))
                    .hint(format!(
                        "name them: --namespace {label}=NAME, or --namespace '{label}=*' for all, and what lies in none"
                    ))
            })?;
            grants.kube.entry(label.clone()).or_default().push(RawKube {
                may: request.may.clone(),
                kinds: request.kinds.clone(),
                namespaces: if namespaces.contains("*") { Vec::new() } else { namespaces.iter().cloned().collect() },
                inspect: request.inspect,
                secret_data: request.secret_data,
                verbs: request.verbs.clone(),
                effect: request.effect,
                scratch: request.scratch,
            });
        }
    }
    if let Some(request) = &manifest.request.artifacts {
        grants.artifacts = Some(RawArtifacts { inspect: request.inspect.clone() });
    }
    if let Some(request) = manifest.request.scratch.as_ref().filter(|request| wanted(&request.verbs)) {
        grants.scratch = Some(RawScratch { bytes: request.bytes.clone(), verbs: request.verbs.clone() });
    }
    if let Some(request) = manifest.request.metrics.as_ref().filter(|request| wanted(&request.verbs)) {
        let all = request.verbs == MetricsGrant::all_verbs();
        grants.metrics = Some(RawMetrics {
            prefix: request.prefix.clone(),
            query: request.query.clone(),
            labels: BTreeMap::new(),
            verbs: if all { BTreeSet::new() } else { request.verbs.clone() },
        });
    }
    Ok(grants)
}

/// The labels that a JSON table names under the settings that requests of buckets refer to.
pub(super) fn buckets_named(
    manifest: &PluginManifest,
    table: &serde_json::Value,
    into: &mut BTreeMap<String, BTreeSet<String>>,
) {
    named(manifest.request.bucket.iter().map(|request| &request.setting), table, into);
}

/// The same for requests of clusters.
pub(super) fn clusters_named(
    manifest: &PluginManifest,
    table: &serde_json::Value,
    into: &mut BTreeMap<String, BTreeSet<String>>,
) {
    named(manifest.request.kube.iter().map(|request| &request.setting), table, into);
}

fn named<'a>(
    settings: impl Iterator<Item = &'a String>,
    table: &serde_json::Value,
    into: &mut BTreeMap<String, BTreeSet<String>>,
) {
    for setting in settings {
        let labels: Vec<&str> = match &table[setting] {
            serde_json::Value::String(label) => vec![label],
            serde_json::Value::Array(list) => list.iter().filter_map(serde_json::Value::as_str).collect(),
            serde_json::Value::Object(map) => map.values().filter_map(serde_json::Value::as_str).collect(),
            _ => Vec::new(),
        };
        into.entry(setting.clone()).or_default().extend(labels.into_iter().map(str::to_owned));
    }
}

/// A grant in full, as it would be written, for a person who decides: nothing is left out or cut,
/// and nothing of it can drive a terminal.
pub(super) fn toml(grant: &impl serde::Serialize) -> Result<String> {
    let text =
        toml::to_string(grant).map_err(|error| Error::failed("could not write a grant as TOML").because(error))?;
    Ok(text.lines().map(|line| format!("  {}\n", super::vendor::lines(line))).collect())
}
