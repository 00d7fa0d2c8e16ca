//! The ceiling: what nobody may be granted more than, whoever writes the configuration.
//!
//! It can only take away. What it does not list cannot be granted; a rule gives what is sharp
//! (changes, bytes in the plugin, standard input from the plugin) only where it says so. Commands
//! are compared by program and arguments, buckets by their place: a label is a word of the vendor's
//! or the operator's, and binds nobody. Pure: where ceilings lie is `config::ceiling`'s business.

mod surroundings;
#[cfg(test)]
mod tests;

use super::exec::{CommandLine, ExecGrant, StdinGrant};
use super::kube::{KubeGrant, KubeVerb, NamePattern};
use super::metrics::MetricsGrant;
use super::scratch::ScratchGrant;
use super::slot::{SlotKind, SlotRule, Template, quoted};
use super::storage::{ArtifactGrant, BucketGrant, BucketVerb};
use super::{Effect, Verb, When};
use crate::error::Result;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What one ceiling allows of one kind of grant.
#[derive(Clone, Debug, Default)]
pub enum Allowed<R> {
    /// None at all: the ceiling does not name the kind.
    #[default]
    Nothing,
    /// `"any"`: this kind is not limited.
    Any,
    /// What at least one of these rules covers as a whole.
    Rules(Vec<R>),
}

/// One ceiling file.
#[derive(Clone, Debug, Default)]
pub struct Ceiling {
    /// The file, as messages name it.
    pub file: String,
    /// SHA-256 of its text, in hex: the audit log says which ceiling held.
    pub sha256: String,
    /// Commands.
    pub exec: Allowed<ExecRule>,
    /// Buckets.
    pub buckets: Allowed<BucketRule>,
    /// The artifacts of the plugin's own backups.
    pub artifacts: Allowed<ArtifactRule>,
    /// A private scratch directory.
    pub scratch: Allowed<ScratchRule>,
    /// Resources of clusters.
    pub kube: Allowed<KubeRule>,
    /// Metrics.
    pub metrics: Allowed<MetricsRule>,
    /// Every plugin needs a signature, whatever the configuration says.
    pub signatures_required: bool,
    /// The only keys that may sign plugins, as minisign writes public keys; none named: any that the
    /// configuration trusts.
    pub trusted_keys: Vec<String>,
    /// SHA-256 of components that must never run, in lower case.
    pub revoked: BTreeSet<String>,
}

/// A regular expression over a whole text. Unlike in a slot, a `-` at the start is nothing special.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: regex::Regex,
    text: String,
}

/// Where a rule stands in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its line, from 1.
    pub line: usize,
    /// Its bytes in the file.
    pub span: Range<usize>,
}

/// When a rule allows a grant to hold.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Verbs; empty is all.
    pub verbs: BTreeSet<Verb>,
    /// The most: `Reads` allows no grant that changes anything.
    pub effect: Effect,
    /// Whether bytes may enter the plugin.
    pub inspect: bool,
}

/// A command line, or a family of them.
#[derive(Clone, Debug)]
pub struct ExecRule {
    /// Where it stands.
    pub place: Place,
    /// The whole path of the program.
    pub program: Pattern,
    /// Every argument of the command as it runs matches one of these; `None` is any arguments.
    pub args: Option<Vec<Pattern>>,
    /// Arguments that must be there, word for word, such as `-X`.
    pub must_have: Vec<String>,
    /// Names of variables that the grant may set; `None` is any that a grant may.
    pub env: Option<Vec<Pattern>>,
    /// Names of variables that a grant may set although they are dangerous, such as `LD_LIBRARY_PATH`.
    pub dangerous_env: BTreeSet<String>,
    /// Names of secrets; `None` is any.
    pub secrets: Option<Vec<Pattern>>,
    /// Whether standard input may come from the plugin: code execution for a program that reads a
    /// language.
    pub stdin_from_plugin: bool,
    /// Texts that a grant may give on standard input; none named: no text.
    pub stdin_text: Vec<Pattern>,
    /// When.
    pub bounds: Bounds,
}

/// A place that a bucket may be.
#[derive(Clone, Debug)]
pub struct BucketRule {
    /// Where it stands.
    pub place: Place,
    /// The directory that the bucket's root is, or lies beneath.
    pub path: PathBuf,
    /// What may be done at most.
    pub may: BTreeSet<BucketVerb>,
    /// When.
    pub bounds: Bounds,
}

/// Artifacts of the plugin's own backups.
#[derive(Clone, Debug)]
pub struct ArtifactRule {
    /// Where it stands.
    pub place: Place,
    /// Whether the plugin may read bytes of them itself.
    pub inspect: bool,
}

/// A private scratch directory.
#[derive(Clone, Debug)]
pub struct ScratchRule {
    /// Where it stands.
    pub place: Place,
    /// What its files may hold together, in bytes.
    pub bytes: u64,
    /// Verbs; empty is all.
    pub verbs: BTreeSet<Verb>,
}

/// Resources of a cluster.
#[derive(Clone, Debug)]
pub struct KubeRule {
    /// Where it stands.
    pub place: Place,
    /// Address of the cluster's API server: a label binds nobody.
    pub server: Pattern,
    /// What may be done at most.
    pub may: BTreeSet<KubeVerb>,
    /// Kinds, as `group/Kind`; a kind that gives power over the cluster only if it is named in full.
    pub kinds: BTreeSet<String>,
    /// Namespaces; none named: all.
    pub namespaces: Option<Vec<Pattern>>,
    /// Whether the kubeconfig may run a program to get credentials.
    pub exec_credentials: bool,
    /// When.
    pub bounds: Bounds,
}

/// Metrics.
#[derive(Clone, Debug)]
pub struct MetricsRule {
    /// Where it stands.
    pub place: Place,
    /// What names that are written begin with.
    pub prefixes: Vec<String>,
    /// Names that may be queried.
    pub query: Vec<Pattern>,
}

/// A grant, or a call, that a ceiling does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// The key of the grant that is too much, such as `args`.
    pub key: &'static str,
    /// Why, with what the ceiling says.
    pub reason: String,
    /// The ceiling's file.
    pub file: String,
    /// The rule that comes closest, if there is one for this program or place.
    pub rule: Option<Place>,
}

impl Over {
    /// The ceiling's line, as `FILE:LINE`.
    pub fn at(&self) -> String {
        match &self.rule {
            Some(place) => format!("{}:{}", self.file, place.line),
            None => self.file.clone(),
        }
    }
}

/// What of a command is compared: as the operator granted it, or as it is about to run.
enum Arguments<'a> {
    /// Arguments with holes are left to each call.
    Granted(&'a ExecGrant),
    /// All of them.
    Filled(&'a [String]),
}

/// How near a rule came, and what was wrong. The nearest one is shown.
type Miss = (u8, &'static str, String);

impl Pattern {
    /// Errors: `Invalid` for what is no regular expression, or too large a one.
    pub fn parse(text: &str) -> Result<Self> {
        match SlotRule::pattern(text)?.kind {
            SlotKind::Pattern(regex, text) => Ok(Self { regex, text }),
            SlotKind::Setting(_) | SlotKind::Scratch => {
                Err(crate::error::Error::failed("a pattern became something else"))
            }
        }
    }

    /// Whether all of `text` matches.
    pub fn admits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl Pattern {
    /// Whether it surely matches whatever a name pattern stands for: the same pattern as a regular
    /// expression, or one that leaves its end as open. What might not is not.
    fn covers(&self, name: &NamePattern) -> bool {
        if name.is_exact() {
            return self.admits(name.as_str());
        }
        let parts: Vec<_> = name.as_str().split('*').map(regex::escape).collect();
        let literal = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let open = self.text.strip_suffix(".*").filter(|start| literal(start));
        self.text == parts.join(".*")
            || open.is_some_and(|start| name.as_str().split('*').next().is_some_and(|first| first.starts_with(start)))
    }
}

impl<R> Allowed<R> {
    /// `Ok` when a rule covers it; else the nearest miss, with its rule's place.
    fn check(
        &self,
        kind: &'static str,
        place: impl Fn(&R) -> &Place,
        covers: impl Fn(&R) -> std::result::Result<(), Miss>,
    ) -> std::result::Result<(), (Option<Place>, &'static str, String)> {
        let rules = match self {
            Allowed::Any => return Ok(()),
            Allowed::Nothing => return Err((None, "", format!("the ceiling does not name \"{kind}\" at all"))),
            Allowed::Rules(rules) => rules,
        };
        let mut nearest: Option<(Miss, &R)> = None;
        for rule in rules {
            match covers(rule) {
                Ok(()) => return Ok(()),
                Err(miss) if nearest.as_ref().is_none_or(|(best, _)| best.0 < miss.0) => nearest = Some((miss, rule)),
                Err(_) => {}
            }
        }
        match nearest {
            Some(((near, key, reason), rule)) => Err(((near > 0).then(|| place(rule).clone()), key, reason)),
            None => Err((None, "", format!("the ceiling allows nothing of \"{kind}\""))),
        }
    }
}

impl Ceiling {
    /// Whether a command may be granted. Arguments with slots are held against the ceiling when the
    /// command is about to run ([`Self::command`]), once they are known.
    pub fn exec_grant(&self, grant: &ExecGrant) -> std::result::Result<(), Over> {
        let names: Vec<&str> = grant.env.keys().chain(grant.secret_files.keys()).map(String::as_str).collect();
        self.exec(&grant.program, &Arguments::Granted(grant), &names, grant)
    }

    /// Whether a command may run with these arguments.
    pub fn command(&self, grant: &ExecGrant, line: &CommandLine) -> std::result::Result<(), Over> {
        let env = line.env.iter().map(|(name, _)| name);
        let names: Vec<&str> = env.chain(line.secret_files.keys()).map(String::as_str).collect();
        self.exec(&line.program, &Arguments::Filled(&line.args), &names, grant)
    }

    fn exec(
        &self,
        program: &str,
        arguments: &Arguments<'_>,
        names: &[&str],
        grant: &ExecGrant,
    ) -> std::result::Result<(), Over> {
        let covers = |rule: &ExecRule| rule.covers(program, arguments, names, grant);
        self.over(self.exec.check("exec", |rule| &rule.place, covers), "program")
    }

    /// Whether a bucket at `path` may be granted so.
    pub fn bucket_grant(&self, path: &Path, grant: &BucketGrant) -> std::result::Result<(), Over> {
        let covers = |rule: &BucketRule| rule.covers(path, grant);
        self.over(self.buckets.check("bucket", |rule| &rule.place, covers), "may")
    }

    /// Whether the artifacts of its own backups may be granted so.
    pub fn artifact_grant(&self, grant: &ArtifactGrant) -> std::result::Result<(), Over> {
        let covers = |rule: &ArtifactRule| {
            if grant.inspect.is_empty() || rule.inspect {
                return Ok(());
            }
            Err((1, "inspect", "the ceiling lets no bytes of artifacts into the plugin".to_owned()))
        };
        self.over(self.artifacts.check("artifacts", |rule| &rule.place, covers), "inspect")
    }

    /// Whether a scratch directory may be granted so.
    pub fn scratch_grant(&self, grant: &ScratchGrant) -> std::result::Result<(), Over> {
        let covers = |rule: &ScratchRule| {
            if grant.bytes > rule.bytes {
                let most = crate::unit::bytes(rule.bytes);
                return Err((1, "bytes", format!("the ceiling allows a scratch directory of at most {most}")));
            }
            let bounds = Bounds { verbs: rule.verbs.clone(), effect: Effect::Reads, inspect: false };
            bounds.cover(2, &grant.when(), false)
        };
        self.over(self.scratch.check("scratch", |rule| &rule.place, covers), "bytes")
    }

    /// Whether resources of a cluster may be granted so.
    pub fn kube_grant(&self, server: &str, grant: &KubeGrant) -> std::result::Result<(), Over> {
        let covers = |rule: &KubeRule| rule.covers(server, grant);
        self.over(self.kube.check("kube", |rule| &rule.place, covers), "may")
    }

    /// Whether metrics may be granted so.
    pub fn metrics_grant(&self, grant: &MetricsGrant) -> std::result::Result<(), Over> {
        let covers = |rule: &MetricsRule| rule.covers(grant);
        self.over(self.metrics.check("metrics", |rule| &rule.place, covers), "prefix")
    }

    /// Whether a grant may set a variable that none may otherwise.
    pub fn allows_dangerous(&self, name: &str, program: &str) -> bool {
        match &self.exec {
            Allowed::Nothing | Allowed::Any => false,
            Allowed::Rules(rules) => {
                rules.iter().any(|rule| rule.program.admits(program) && rule.dangerous_env.contains(name))
            }
        }
    }

    fn over(
        &self,
        checked: std::result::Result<(), (Option<Place>, &'static str, String)>,
        otherwise: &'static str,
    ) -> std::result::Result<(), Over> {
        checked.map_err(|(rule, key, reason)| Over {
            key: if key.is_empty() { otherwise } else { key },
            reason,
            file: self.file.clone(),
            rule,
        })
    }
}

impl Bounds {
    /// `near` is what a miss counts for here.
    fn cover(&self, near: u8, when: &When, inspect: bool) -> std::result::Result<(), Miss> {
        if !self.verbs.is_empty()
            && let Some(verb) = when.verbs.iter().find(|verb| !self.verbs.contains(*verb))
        {
            return Err((near, "verbs", format!("the ceiling does not allow it for {}", verb.name())));
        }
        if when.effect == Effect::Changes && self.effect == Effect::Reads {
            return Err((near, "effect", "the ceiling allows it to read, and to change nothing".to_owned()));
        }
        if inspect && !self.inspect {
            return Err((near, "inspect", "the ceiling lets none of its bytes into the plugin".to_owned()));
        }
        Ok(())
    }
}

impl ExecRule {
    fn covers(
        &self,
        program: &str,
        arguments: &Arguments<'_>,
        names: &[&str],
        grant: &ExecGrant,
    ) -> std::result::Result<(), Miss> {
        if !self.program.admits(program) {
            return Err((0, "program", format!("the ceiling has no rule for the program {}", quoted(program))));
        }
        self.covers_arguments(arguments)?;
        let admitted = |patterns: &[Pattern], name: &str| patterns.iter().any(|pattern| pattern.admits(name));
        if let Some(allowed) = &self.env
            && let Some(name) =
                names.iter().find(|name| !admitted(allowed, name) && !self.dangerous_env.contains(**name))
        {
            return Err((2, "env", format!("the ceiling does not let it set {}", quoted(name))));
        }
        if let Some(allowed) = &self.secrets
            && let Some(name) = grant.all_secrets().find(|name| !admitted(allowed, name))
        {
            return Err((2, "secrets", format!("the ceiling does not give it the secret {}", quoted(name))));
        }
        if grant.stdin == StdinGrant::Plugin && !self.stdin_from_plugin {
            return Err((2, "stdin", "the ceiling lets no plugin write its standard input".to_owned()));
        }
        if let StdinGrant::Text { text, .. } = &grant.stdin
            && !self.stdin_text.iter().any(|pattern| pattern.admits(text))
        {
            let reason = format!("the ceiling does not give it the text {} on standard input", quoted(text));
            return Err((2, "stdin", reason));
        }
        self.bounds.cover(3, &grant.when, grant.inspect)
    }

    fn covers_arguments(&self, arguments: &Arguments<'_>) -> std::result::Result<(), Miss> {
        let known: Vec<String> = match arguments {
            Arguments::Filled(args) => args.to_vec(),
            Arguments::Granted(grant) => grant.args.iter().filter_map(Template::literal).collect(),
        };
        if let Some(missing) = self.must_have.iter().find(|must| !known.contains(must)) {
            return Err((1, "args", format!("the ceiling wants the argument {} as it is", quoted(missing))));
        }
        let Some(allowed) = &self.args else { return Ok(()) };
        let admitted = |arg: &&String| allowed.iter().any(|pattern| pattern.admits(arg));
        match known.iter().find(|arg| !admitted(arg)) {
            None => Ok(()),
            Some(arg) => {
                let patterns: Vec<_> = allowed.iter().take(8).map(|pattern| quoted(&pattern.text)).collect();
                let more = if allowed.len() > 8 { ", …" } else { "" };
                Err((
                    1,
                    "args",
                    format!("the argument {} is none of the ceiling's: {}{more}", quoted(arg), patterns.join(", ")),
                ))
            }
        }
    }
}

impl BucketRule {
    fn covers(&self, path: &Path, grant: &BucketGrant) -> std::result::Result<(), Miss> {
        // A path that climbs lies beneath nothing.
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        if climbs || !path.starts_with(&self.path) {
            return Err((
                0,
                "may",
                format!("the ceiling has no rule for the directory {}", quoted(&path.to_string_lossy())),
            ));
        }
        if let Some(verb) = grant.may.iter().find(|verb| !self.may.contains(*verb)) {
            return Err((1, "may", format!("the ceiling does not allow {}", quoted(verb.name()))));
        }
        self.bounds.cover(2, &grant.when, grant.inspect)
    }
}

impl KubeRule {
    fn covers(&self, server: &str, grant: &KubeGrant) -> std::result::Result<(), Miss> {
        if !self.server.admits(server) {
            return Err((0, "cluster", format!("the ceiling has no rule for the cluster at {}", quoted(server))));
        }
        if let Some(verb) = grant.may.iter().find(|verb| !self.may.contains(*verb)) {
            return Err((1, "may", format!("the ceiling does not allow {}", quoted(verb.name()))));
        }
        let everything = self.kinds.contains("*");
        let covered = |kind: &&String| self.kinds.contains(*kind) || (everything && !super::kube::is_powerful(kind));
        if let Some(kind) = grant.kinds.iter().find(|kind| !covered(kind)) {
            return Err((1, "kinds", format!("the ceiling does not allow the kind {}", quoted(kind))));
        }
        if let Some(allowed) = &self.namespaces {
            if grant.namespaces.is_empty() {
                return Err((1, "namespaces", "the ceiling does not allow all namespaces".to_owned()));
            }
            let admitted = |name: &NamePattern| allowed.iter().any(|pattern| pattern.covers(name));
            if let Some(name) = grant.namespaces.iter().find(|name| !admitted(name)) {
                let reason = format!("the ceiling does not allow the namespace {}", quoted(name.as_str()));
                return Err((1, "namespaces", reason));
            }
        }
        // The values of Secrets are bytes of the plugin as well.
        self.bounds.cover(2, &grant.when, grant.inspect || grant.secret_data)
    }
}

impl MetricsRule {
    fn covers(&self, grant: &MetricsGrant) -> std::result::Result<(), Miss> {
        if let Some(prefix) = &grant.prefix
            && !self.prefixes.iter().any(|allowed| prefix.starts_with(allowed.as_str()))
        {
            return Err((1, "prefix", format!("the ceiling allows no names that begin with {}", quoted(prefix))));
        }
        match grant.query.iter().find(|name| !self.query.iter().any(|pattern| pattern.admits(name))) {
            Some(name) => Err((1, "query", format!("the ceiling allows no queries for {}", quoted(name)))),
            None => Ok(()),
        }
    }
}
