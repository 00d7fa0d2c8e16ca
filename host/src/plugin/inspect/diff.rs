//! `plugin diff`: what a new version can do that the old one could not.
//!
//! Only what widens counts as more: fewer verbs, fewer bytes, or a change that became a reading are
//! less. A command line that is not the same is another command, whatever it is called.

use crate::plugin::component::Component;
use crate::plugin::manifest::{BucketRequest, ExecRequest, KubeRequest};
use crate::plugin::speech::line;
use crate::policy::{Effect, Verb};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// The name of the shape of [`Difference`] as JSON. Keys may be added; none is removed or changed.
pub const SCHEMA: &str = "strongroom.diff/1";

/// What differs between two components, for who decides on the new one.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The old one.
    pub old: Side,
    /// The new one.
    pub new: Side,
    /// What the new one can do, or asks to do, and the old one could not.
    pub more: Vec<Change>,
    /// What the old one could do, or asked to do, and the new one does not.
    pub less: Vec<Change>,
    /// What else is different and gives it nothing.
    pub other: Vec<String>,
}

/// One of two components.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Name from the manifest.
    pub name: String,
    /// Version from the manifest.
    pub version: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// One thing that is there on one side only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `import`, `exec`, `bucket`, `kube` or `artifacts`.
    pub kind: &'static str,
    /// The function, or the name of the request.
    pub name: String,
    /// What exactly.
    pub what: String,
    /// Why, as the vendor says; empty for imports.
    pub reason: String,
}

impl Difference {
    /// Whether the new one can do, or asks for, anything more.
    pub fn is_more(&self) -> bool {
        !self.more.is_empty()
    }
}

/// A request in a form that can be compared.
struct Asked {
    change: Change,
    /// Everything that must be equal for two requests to be the same thing.
    body: String,
    verbs: BTreeSet<Verb>,
    /// Single powers, each by its name: what may be done, whether bytes are read, whether it changes.
    powers: BTreeSet<String>,
}

impl Asked {
    /// Whether `other` covers all of it.
    fn is_within(&self, other: &Asked) -> bool {
        (self.change.kind, &self.body) == (other.change.kind, &other.body)
            && self.verbs.is_subset(&other.verbs)
            && self.powers.is_subset(&other.powers)
    }
}

/// What differs between `old` and `new`.
pub fn diff(old: &Component, new: &Component) -> Difference {
    let (was, is) = (asked(old), asked(new));
    let beyond = |these: &[Asked], those: &[Asked]| -> Vec<Change> {
        these
            .iter()
            .filter(|one| !those.iter().any(|other| one.is_within(other)))
            .map(|one| one.change.clone())
            .collect()
    };
    Difference {
        schema: SCHEMA,
        old: side(old),
        new: side(new),
        more: beyond(&is, &was),
        less: beyond(&was, &is),
        other: other(old, new),
    }
}

fn side(component: &Component) -> Side {
    let manifest = &component.manifest;
    Side { name: manifest.name.clone(), version: manifest.version.clone(), sha256: component.sha256.clone() }
}

fn asked(component: &Component) -> Vec<Asked> {
    let request = &component.manifest.request;
    let mut all: Vec<Asked> = component
        .imports
        .values()
        .flat_map(|import| import.functions.iter().map(move |function| (import, function)))
        .map(|(import, function)| {
            let name = format!("{}/{}#{}", import.package, import.interface, line(function));
            let entry = super::CAPABILITIES
                .iter()
                .find(|c| import.is_contract() && c.interface == import.interface && c.function == function);
            let what =
                entry.map_or_else(|| "inert".to_owned(), |entry| format!("{}: {}", entry.risk.name(), entry.does));
            let change = Change { kind: "import", name: name.clone(), what, reason: String::new() };
            Asked { change, body: name, verbs: BTreeSet::new(), powers: BTreeSet::new() }
        })
        .collect();
    all.extend(request.exec.iter().map(exec));
    all.extend(request.bucket.iter().map(bucket));
    all.extend(request.kube.iter().map(kube));
    if let Some(artifacts) = &request.artifacts {
        let change = Change {
            kind: "artifacts",
            name: "artifacts".to_owned(),
            what: super::artifact_what(&artifacts.inspect),
            reason: line(&artifacts.reason),
        };
        let powers = artifacts.inspect.iter().cloned().collect();
        all.push(Asked { change, body: String::new(), verbs: BTreeSet::new(), powers });
    }
    all
}

fn exec(request: &ExecRequest) -> Asked {
    let grant = &request.grant;
    let mut powers = powers(grant.inspect, grant.effect.unwrap_or(Effect::Changes), grant.scratch);
    powers.extend(grant.secrets.iter().map(|name| format!("secret {name}")));
    // What is compared by itself is taken out of what must be equal.
    let mut rest = grant.clone();
    (rest.inspect, rest.effect, rest.scratch) = (false, None, false);
    rest.secrets.clear();
    rest.verbs.clear();
    let body = serde_json::to_string(&(&request.name, &request.program, &rest)).unwrap_or_default();
    let shown = super::request_of_exec(request);
    let slots: String = shown.slots.iter().map(|slot| format!("; {slot}")).collect();
    let secrets: String = shown.secrets.iter().map(|name| format!("; secret {name}")).collect();
    let when = super::text::when(&shown.verbs, shown.effect, shown.scratch, shown.inspect);
    let what = format!("{}{slots}{secrets}; {when}", shown.what);
    let change = Change { kind: "exec", name: shown.name, what, reason: shown.reason };
    Asked { change, body, verbs: grant.verbs.clone(), powers }
}

fn bucket(request: &BucketRequest) -> Asked {
    let mut powers = powers(request.inspect, request.effect, request.scratch);
    powers.extend(request.may.iter().map(|verb| verb.name().to_owned()));
    let verbs: Vec<_> = request.verbs.iter().copied().collect();
    let when = super::text::when(&verbs, request.effect, request.scratch, request.inspect);
    let change = Change {
        kind: "bucket",
        name: line(&request.setting),
        what: format!("{}; {when}", super::bucket_verbs(&request.may)),
        reason: line(&request.reason),
    };
    Asked { change, body: request.setting.clone(), verbs: request.verbs.clone(), powers }
}

fn kube(request: &KubeRequest) -> Asked {
    let mut powers = powers(request.inspect, request.effect, request.scratch);
    powers.extend(request.may.iter().map(|verb| verb.name().to_owned()));
    powers.extend(request.kinds.iter().map(|kind| format!("kind {kind}")));
    if request.secret_data {
        powers.insert("values of Secrets".to_owned());
    }
    let shown = super::kube::request(request);
    let when = super::text::when(&shown.verbs, request.effect, request.scratch, request.inspect);
    let what = format!("{}; {when}", shown.what);
    let change = Change { kind: "kube", name: shown.name, what, reason: shown.reason };
    Asked { change, body: request.setting.clone(), verbs: request.verbs.clone(), powers }
}

/// Changes outside of scratch places are more than those inside.
fn powers(inspect: bool, effect: Effect, scratch: bool) -> BTreeSet<String> {
    let mut powers = BTreeSet::new();
    if inspect {
        powers.insert("inspect".to_owned());
    }
    match (effect, scratch) {
        (Effect::Reads, _) => {}
        // Marked scratch, it may be used by verify as well, so neither is within the other.
        (Effect::Changes, true) => drop(powers.insert("changes scratch places".to_owned())),
        (Effect::Changes, false) => drop(powers.insert("changes".to_owned())),
    }
    powers
}

fn other(old: &Component, new: &Component) -> Vec<String> {
    let (was, is) = (&old.manifest, &new.manifest);
    let mut other = Vec::new();
    if was.name != is.name {
        other.push(format!("it is called {:?} now, and was called {:?}", is.name, was.name));
    }
    if was.settings != is.settings {
        other.push("its settings are described in another way: look whether your jobs' still fit".to_owned());
    }
    if was.options != is.options {
        other.push("its restore options are described in another way".to_owned());
    }
    if was.licence != is.licence {
        other.push(format!("its licence is {:?}, and was {:?}", line(&is.licence), line(&was.licence)));
    }
    if old.toolchain != new.toolchain {
        other.push("other tools made it".to_owned());
    }
    other
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { old, new, .. } = self;
        writeln!(f, "{} {} -> {} {}", old.name, old.version, new.name, new.version)?;
        writeln!(f, "  sha256 {} -> {}", old.sha256, new.sha256)?;
        if self.more.is_empty() {
            let words =
                if old.sha256 == new.sha256 { "the same bytes" } else { "nothing that the old one could not do" };
            writeln!(f, "  {words}")?;
        }
        for (title, changes) in [("can do and could not", &self.more), ("could do and cannot", &self.less)] {
            if !changes.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for Change { kind, name, what, reason } in changes {
                writeln!(f, "  {kind} {name:?}\n    {what}")?;
                if !reason.is_empty() {
                    writeln!(f, "    why: {reason:?}")?;
                }
            }
        }
        if !self.other.is_empty() {
            writeln!(f, "\nbesides")?;
        }
        for line in &self.other {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}
