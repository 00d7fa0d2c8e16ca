//! From what a plugin asks for to what it would be granted: programs found, buckets named.
//!
//! Decides nothing: `plugin approve` shows it and asks, and a restore without a configuration grants
//! it only where the operator says so.

use crate::config::edit::{RawArtifacts, RawBucket, RawExec, RawGrants};
use crate::error::{Error, Result};
use crate::plugin::manifest::PluginManifest;
use crate::policy::Verb;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Directories that hold programs by version, the newest of which is meant; before `PATH`, where
/// Debian's `psql` and its like are wrappers in Perl.
const VERSIONED: &[(&str, &str)] = &[("/usr/lib/postgresql", "bin"), ("/opt/postgresql", "bin")];

/// What the operator said beforehand.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Paths of programs by the name that the manifest gives them.
    pub(super) programs: BTreeMap<String, String>,
    /// Labels of buckets by the setting or option that names them.
    pub(super) buckets: BTreeMap<String, BTreeSet<String>>,
    /// Only requests that hold for this verb.
    pub(super) only: Option<Verb>,
}

/// The grants that cover what the manifest asks for.
///
/// Errors: `NotFound` for a program that is not on this machine, with the flag that names it.
pub(super) fn grants(manifest: &PluginManifest, known: &Known, path: &str) -> Result<RawGrants> {
    let wanted = |verbs: &BTreeSet<Verb>| known.only.is_none_or(|only| verbs.contains(&only));
    let mut grants = RawGrants::default();
    for request in manifest.request.exec.iter().filter(|request| wanted(&request.grant.verbs)) {
        let program = match known.programs.get(&request.program) {
            Some(given) => given.clone(),
            None => find(&request.program, path).ok_or_else(|| {
                Error::not_found(format!("there is no program \"{}\" on this machine", request.program))
                    .fact("asked for by", format!("command \"{}\": {}", request.name, request.reason))
                    .hint(format!("install it, or say where it is: --program {}=/PATH", request.program))
            })?,
        };
        grants.exec.insert(request.name.clone(), RawExec { program, grant: request.grant.clone() });
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
    if let Some(request) = &manifest.request.artifacts {
        grants.artifacts = Some(RawArtifacts { inspect: request.inspect.clone() });
    }
    Ok(grants)
}

/// The labels that a JSON table names under the settings that requests of buckets refer to.
pub(super) fn buckets_named(
    manifest: &PluginManifest,
    table: &serde_json::Value,
    into: &mut BTreeMap<String, BTreeSet<String>>,
) {
    for request in &manifest.request.bucket {
        let labels: Vec<&str> = match &table[&request.setting] {
            serde_json::Value::String(label) => vec![label],
            serde_json::Value::Array(list) => list.iter().filter_map(serde_json::Value::as_str).collect(),
            _ => Vec::new(),
        };
        into.entry(request.setting.clone()).or_default().extend(labels.into_iter().map(str::to_owned));
    }
}

/// Where a program is: an absolute path is itself; else the newest version, else on `path`.
fn find(program: &str, path: &str) -> Option<String> {
    if program.starts_with('/') {
        return is_program(Path::new(program)).then(|| program.to_owned());
    }
    let versioned = VERSIONED
        .iter()
        .flat_map(|(root, below)| newest_first(Path::new(root)).into_iter().map(move |d| d.join(below)));
    let on_path = path.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let found = versioned.chain(on_path).map(|dir| dir.join(program)).find(|path| is_program(path))?;
    found.to_str().map(str::to_owned)
}

fn newest_first(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// A grant in full, as it would be written, for a person who decides: nothing is left out or cut,
/// and nothing of it can drive a terminal.
pub(super) fn toml(grant: &impl serde::Serialize) -> Result<String> {
    let text =
        toml::to_string(grant).map_err(|error| Error::failed("could not write a grant as TOML").because(error))?;
    Ok(text.lines().map(|line| format!("  {}\n", super::vendor::lines(line))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_or_is_itself() {
        assert_eq!(find("sh", "/nonexistent:/bin").as_deref(), Some("/bin/sh"));
        assert_eq!(find("/bin/sh", "").as_deref(), Some("/bin/sh"));
        assert_eq!(find("sh", "relative:"), None);
        assert_eq!(find("/etc/passwd", ""), None);
        assert_eq!(find("strongroom-no-such-program", "/bin"), None);
    }
}
