//! Requests against grants: what is effective, and which TOML would grant what is missing.

use super::check::nearest;
use super::{ExecRequest, PluginManifest, RawExecGrant};
use crate::exec;
use crate::policy::metrics::MetricsGrant;
use crate::policy::slot::SlotRule;
use crate::policy::{Grants, exec::ExecGrant};
use serde::Serialize;

impl PluginManifest {
    /// What is effective of `grants`: nothing that the manifest does not request.
    ///
    /// A grant may hold less than its request, and then it does; one that holds more is cut down to
    /// what each request asks for by itself, on its occasions. What a granted command line looks like is
    /// the operator's word alone.
    pub fn effective(&self, grants: &Grants) -> Grants {
        let exec = self.request.exec.iter().filter_map(|request| {
            let granted = grants.exec.get(&request.name)?;
            Some((request.name.clone(), narrow_exec(granted, &request.grant)))
        });
        let buckets = grants.buckets.iter().map(|(label, granted)| {
            (label.clone(), granted.iter().flat_map(|grant| self.narrow_bucket(grant)).collect::<Vec<_>>())
        });
        Grants {
            exec: exec.filter(|(_, grant)| !grant.when.verbs.is_empty()).collect(),
            buckets: buckets.filter(|(_, grants)| !grants.is_empty()).collect(),
            kube: {
                let kube = grants.kube.iter().map(|(label, granted)| {
                    (label.clone(), granted.iter().flat_map(|grant| self.narrow_kube(grant)).collect::<Vec<_>>())
                });
                kube.filter(|(_, grants)| !grants.is_empty()).collect()
            },
            artifacts: self.request.artifacts.as_ref().and_then(|request| {
                let mut granted = grants.artifacts.clone()?;
                if request.inspect.is_empty() {
                    granted.inspect.clear();
                }
                // The manifest was checked: every pattern of it is one.
                let requested = request.inspect.iter().filter_map(|pattern| SlotRule::pattern(pattern).ok());
                granted.requested = Some(requested.collect());
                Some(granted)
            }),
            scratch: self.request.scratch.as_ref().and_then(|request| {
                let mut granted = grants.scratch.clone()?;
                granted.verbs.retain(|verb| request.verbs.contains(verb));
                granted.bytes = granted.bytes.min(request.max_bytes());
                (!granted.verbs.is_empty()).then_some(granted)
            }),
            metrics: self.narrow_metrics(grants.metrics.as_ref()),
            withheld: grants.withheld.clone(),
            ceilings: grants.ceilings.clone(),
        }
    }

    /// No name is written or queried that the manifest did not ask for.
    fn narrow_metrics(&self, granted: Option<&MetricsGrant>) -> Option<MetricsGrant> {
        let request = self.request.metrics.as_ref()?;
        let mut grant = granted?.clone();
        grant.when.verbs.retain(|verb| request.verbs.contains(verb));
        grant.query.retain(|name| request.query.contains(name));
        grant.prefix = match (grant.prefix, &request.prefix) {
            // The longer of two prefixes covers less.
            (Some(granted), Some(asked)) if granted.starts_with(asked.as_str()) => Some(granted),
            (Some(granted), Some(asked)) if asked.starts_with(&granted) => Some(asked.clone()),
            _ => None,
        };
        let is_empty = grant.when.verbs.is_empty() || (grant.prefix.is_none() && grant.query.is_empty());
        (!is_empty).then_some(grant)
    }
}

fn narrow_exec(granted: &ExecGrant, request: &RawExecGrant) -> ExecGrant {
    let mut grant = granted.clone();
    grant.when.verbs.retain(|verb| request.verbs.contains(verb));
    grant.inspect &= request.inspect;
    grant
}

/// A granted command that no request is named like: a plugin can never run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCommand<'a> {
    /// Its name in the grants.
    pub name: &'a str,
    /// The requested name that is most like it, if one is.
    pub nearest: Option<&'a str>,
}

/// The granted commands that the manifest does not request: misspelt ones, and those of another version.
pub fn unknown_commands<'a>(manifest: &'a PluginManifest, grants: &'a Grants) -> Vec<UnknownCommand<'a>> {
    let requested: Vec<&str> = manifest.request.exec.iter().map(|request| request.name.as_str()).collect();
    let unknown = grants.exec.keys().filter(|name| !requested.contains(&name.as_str()));
    unknown.map(|name| UnknownCommand { name, nearest: nearest(name, &requested) }).collect()
}

/// The TOML that is missing in `grants` for interfaces that the component imports and of which
/// nothing at all is granted; `None` when there is no such interface.
///
/// `label` is the plugin's name in the configuration.
pub fn missing_grants(
    manifest: &PluginManifest,
    label: &str,
    imports: impl Fn(&str) -> bool,
    grants: &Grants,
) -> Option<String> {
    let effective = manifest.effective(grants);
    let mut toml = String::new();
    if imports("exec") && effective.exec.is_empty() {
        for request in &manifest.request.exec {
            toml.push_str(&exec_toml(label, request));
        }
    }
    if imports("storage") && effective.artifacts.is_none() && effective.buckets.is_empty() {
        if let Some(artifacts) = &manifest.request.artifacts {
            toml.push_str(&format!("[plugin.{label}.grant.artifacts]\n"));
            if !artifacts.inspect.is_empty() {
                toml.push_str(&format!("inspect = {}\n", inline(&artifacts.inspect)));
            }
        }
        for bucket in &manifest.request.bucket {
            toml.push_str(&format!("[[plugin.{label}.grant.bucket.LABEL]]\n"));
            toml.push_str(&format!("may = {}\nverbs = {}\n", inline(&bucket.may), inline(&bucket.verbs)));
            toml.push_str(&format!("effect = {}\n", inline(&bucket.effect)));
        }
    }
    if imports("kube") && effective.kube.is_empty() {
        for kube in &manifest.request.kube {
            toml.push_str(&format!("[[plugin.{label}.grant.kube.LABEL]]\n"));
            toml.push_str(&format!("may = {}\nkinds = {}\n", inline(&kube.may), inline(&kube.kinds)));
            toml.push_str(&format!("verbs = {}\neffect = {}\n", inline(&kube.verbs), inline(&kube.effect)));
        }
    }
    if let Some(request) =
        manifest.request.metrics.as_ref().filter(|_| imports("metrics") && effective.metrics.is_none())
    {
        toml.push_str(&format!("[plugin.{label}.grant.metrics]\n"));
        if let Some(prefix) = &request.prefix {
            toml.push_str(&format!("prefix = {}\n", inline(prefix)));
        }
        if !request.query.is_empty() {
            toml.push_str(&format!("query = {}\n", inline(&request.query)));
        }
        if request.verbs != MetricsGrant::all_verbs() {
            toml.push_str(&format!("verbs = {}\n", inline(&request.verbs)));
        }
    }
    (!toml.is_empty()).then_some(toml)
}

/// A requested command line as the grant that would allow it. A grant names a whole path: that of the
/// program on this machine, where there is one.
fn exec_toml(label: &str, request: &ExecRequest) -> String {
    let mut lines = format!("[plugin.{label}.grant.exec.{}]\n", request.name);
    match exec::find_program(&request.program, exec::STANDARD_PATH) {
        Some(found) => lines.push_str(&format!("program = {}\n", inline(&found))),
        None => lines.push_str(&format!(
            "program = {} # not found on this machine: write its whole path\n",
            inline(&request.program)
        )),
    }
    let Ok(toml::Value::Table(table)) = toml::Value::try_from(&request.grant) else { return lines };
    for (key, value) in
        table.iter().filter(|(key, value)| *key != "args" || value.as_array().is_none_or(|a| !a.is_empty()))
    {
        lines.push_str(&format!("{key} = {}\n", inline(value)));
    }
    lines
}

/// A value on one line of TOML.
fn inline(value: &impl Serialize) -> String {
    toml::Value::try_from(value).map(|value| value.to_string()).unwrap_or_default()
}
