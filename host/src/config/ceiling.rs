//! Ceilings: files of the security team that are over every configuration.
//!
//! The one of the machine ([`MACHINE_WIDE`]) is always read where it is there: no flag, variable or
//! key turns it off, `--ceiling` can only add others. A ceiling counts only when nobody but root and
//! its owner can change it, or anything on the way to it. What it means is `policy::ceiling`'s.

pub mod key;
mod path;
mod surroundings;
#[cfg(test)]
mod tests;

use super::fields::Fields;
use super::mistake::{Elsewhere, Mistakes};
use super::read;
use crate::error::{Error, Kind, Result};
use crate::plugin::Trust;
use crate::plugin::component;
use crate::plugin::signature::TrustedKey;
use crate::policy::ceiling::{
    Allowed, ArtifactRule, Bounds, BucketRule, Ceiling, ExecRule, KubeRule, MetricsRule, Over, Pattern, Place,
    ScratchRule,
};
use crate::policy::kube::KubeVerb;
use crate::policy::{Effect, Verb};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The ceiling of the whole machine.
pub const MACHINE_WIDE: &str = "/etc/strongroom/ceiling.toml";

/// In builds with debug assertions, names a file that is read besides [`MACHINE_WIDE`] in its role, so
/// that tests can show it without being root. It adds a ceiling and turns none off; a release knows
/// nothing of it.
#[cfg(debug_assertions)]
const STAND_IN: &str = "STRONGROOM_TEST_MACHINE_CEILING";

/// Every ceiling that is over a configuration.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    files: Vec<CeilingFile>,
}

/// A ceiling with the text that it came from, for excerpts.
#[derive(Clone, Debug)]
struct CeilingFile {
    text: String,
    is_machine_wide: bool,
    ceiling: Arc<Ceiling>,
}

impl Ceilings {
    /// None: for what reads no configuration of a person.
    pub fn none() -> Self {
        Self::default()
    }

    /// The machine's own, where there is one, and those that are named.
    ///
    /// Errors: `Denied` for one that others can change or that cannot be read; `Invalid` with
    /// [`Mistakes`] for one that is wrong; `Invalid` for a named one that is not there.
    pub fn load(named: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        for path in machine_wide() {
            files.extend(read_file(&path, true)?);
        }
        for path in named {
            let file = read_file(path, false)?.ok_or_else(|| {
                Error::invalid(format!("there is no ceiling \"{}\"", path.display())).hint("correct --ceiling")
            })?;
            files.push(file);
        }
        Ok(Self { files })
    }

    /// A ceiling from its text, for tests and tools.
    ///
    /// Errors: `Invalid`, with [`Mistakes`] as its source.
    pub fn with(mut self, file: &str, text: &str) -> Result<Self> {
        let ceiling = Arc::new(parse(file, text)?);
        self.files.push(CeilingFile { text: text.to_owned(), is_machine_wide: false, ceiling });
        Ok(self)
    }

    /// The ceilings themselves.
    pub fn list(&self) -> Vec<Arc<Ceiling>> {
        self.files.iter().map(|file| Arc::clone(&file.ceiling)).collect()
    }

    /// Whom to believe under these ceilings: never more keys, never fewer revocations, and signatures
    /// wherever one of them demands them.
    #[must_use]
    pub fn narrow(&self, mut trust: Trust) -> Trust {
        for ceiling in self.list() {
            trust.required |= ceiling.signatures_required;
            trust.revoked.extend(ceiling.revoked.iter().cloned());
            if !ceiling.trusted_keys.is_empty() {
                trust.keys.retain(|key| ceiling.trusted_keys.iter().any(|one| one == key.as_str()));
            }
        }
        trust
    }

    /// Every key that a ceiling lets a configuration trust.
    pub fn keys(&self) -> Vec<TrustedKey> {
        let ceilings = self.list();
        let keys = ceilings.iter().flat_map(|ceiling| &ceiling.trusted_keys);
        keys.filter_map(|key| TrustedKey::parse(key).ok()).collect()
    }

    /// The files that they came from.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.ceiling.file.clone()).collect()
    }

    /// Whether the machine has one that nothing turns off.
    pub fn has_machine_wide(&self) -> bool {
        self.files.iter().any(|file| file.is_machine_wide)
    }

    /// The ceiling's side of a grant that is over it.
    pub(super) fn elsewhere(&self, over: &Over) -> Option<Elsewhere> {
        let file = self.files.iter().find(|file| file.ceiling.file == over.file)?;
        let span = over.rule.as_ref().map_or(0..0, |place| place.span.clone());
        let label = if over.rule.is_some() { "this rule comes closest" } else { "this ceiling is over it" };
        Some(Elsewhere {
            file: over.file.clone(),
            source: file.text.clone(),
            span,
            message: "the ceiling".to_owned(),
            label: label.to_owned(),
        })
    }
}

fn machine_wide() -> Vec<PathBuf> {
    #[cfg_attr(not(debug_assertions), expect(unused_mut, reason = "only tests add to it"))]
    let mut paths = vec![PathBuf::from(MACHINE_WIDE)];
    #[cfg(debug_assertions)]
    paths.extend(super::environment::process(STAND_IN).map(PathBuf::from));
    paths
}

fn read_file(path: &Path, is_machine_wide: bool) -> Result<Option<CeilingFile>> {
    let text = match path::read_guarded(path) {
        Ok(text) => text,
        // Only what is not there is no ceiling; what cannot be looked at is one that cannot be read.
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ceiling = Arc::new(parse(&path.display().to_string(), &text)?);
    Ok(Some(CeilingFile { text, is_machine_wide, ceiling }))
}

fn parse(file: &str, text: &str) -> Result<Ceiling> {
    let mut reading = Reading { text, mistakes: Mistakes::new(file, text) };
    let root = read::read(text, &key::CEILING, &mut reading.mistakes);
    let ceiling = reading.ceiling(file, &root);
    let mistakes = reading.mistakes.finish();
    if !mistakes.is_empty() {
        return Err(Error::invalid(format!("the ceiling \"{file}\" is not valid")).because(mistakes));
    }
    Ok(ceiling)
}

struct Reading<'a> {
    text: &'a str,
    mistakes: Mistakes,
}

impl Reading<'_> {
    fn ceiling(&mut self, file: &str, root: &Fields) -> Ceiling {
        Ceiling {
            file: file.to_owned(),
            sha256: component::digest(self.text.as_bytes()),
            exec: self.allowed(root, "exec", Self::exec),
            buckets: self.allowed(root, "bucket", Self::bucket),
            artifacts: self.allowed(root, "artifacts", |reading, fields| {
                Some(ArtifactRule { place: reading.place(fields), inspect: fields.flag("inspect") })
            }),
            scratch: self.allowed(root, "scratch", |reading, fields| {
                Some(ScratchRule {
                    place: reading.place(fields),
                    bytes: fields.whole("bytes")?,
                    verbs: bounds(fields).verbs,
                })
            }),
            kube: self.allowed(root, "kube", Self::kube),
            metrics: self.allowed(root, "metrics", |reading, fields| {
                let prefixes = fields.texts("prefixes").into_iter().map(|(text, _)| text.to_owned()).collect();
                let query = reading.patterns(fields, "query").unwrap_or_default();
                Some(MetricsRule { place: reading.place(fields), prefixes, query })
            }),
            signatures_required: root.text("signatures") == Some("required"),
            trusted_keys: trusted_keys(root, &mut self.mistakes).iter().map(|key| key.as_str().to_owned()).collect(),
            revoked: revoked(root, &mut self.mistakes),
        }
    }

    fn allowed<R>(&mut self, root: &Fields, key: &str, rule: impl Fn(&mut Self, &Fields) -> Option<R>) -> Allowed<R> {
        if root.text(key).is_some() {
            return Allowed::Any;
        }
        if !root.has(key) {
            return Allowed::Nothing;
        }
        Allowed::Rules(root.tables(key).iter().filter_map(|fields| rule(self, fields)).collect())
    }

    fn exec(&mut self, fields: &Fields) -> Option<ExecRule> {
        let words = |key: &str| fields.texts(key).into_iter().map(|(text, _)| text.to_owned()).collect::<Vec<_>>();
        Some(ExecRule {
            place: self.place(fields),
            program: self.pattern(fields, "program")?,
            args: self.patterns(fields, "args"),
            must_have: words("must_have"),
            env: self.patterns(fields, "env"),
            dangerous_env: words("dangerous_env").into_iter().collect(),
            secrets: self.patterns(fields, "secrets"),
            stdin_from_plugin: fields.flag("stdin_from_plugin"),
            stdin_text: self.patterns(fields, "stdin_text").unwrap_or_default(),
            bounds: bounds(fields),
        })
    }

    fn bucket(&mut self, fields: &Fields) -> Option<BucketRule> {
        let text = fields.text("path")?;
        if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
            self.mistakes.add(fields.span_of("path"), "this is not an absolute path", "expected a path without ..");
        }
        Some(BucketRule {
            place: self.place(fields),
            path: PathBuf::from(text),
            may: self.words(fields, "may", super::grant::bucket_verb),
            bounds: bounds(fields),
        })
    }

    fn kube(&mut self, fields: &Fields) -> Option<KubeRule> {
        Some(KubeRule {
            place: self.place(fields),
            server: self.pattern(fields, "server")?,
            may: self.words(fields, "may", KubeVerb::parse),
            kinds: fields.texts("kinds").into_iter().map(|(text, _)| text.to_owned()).collect(),
            namespaces: self.patterns(fields, "namespaces"),
            exec_credentials: fields.flag("exec_credentials"),
            bounds: bounds(fields),
        })
    }

    fn words<W: Ord>(&mut self, fields: &Fields, key: &str, word: impl Fn(&str) -> Option<W>) -> BTreeSet<W> {
        let mut words = BTreeSet::new();
        for (text, span) in fields.texts(key) {
            match word(text) {
                Some(word) => drop(words.insert(word)),
                None => {
                    let message = format!("\"{}\" is not known in \"{key}\"", read::escape(text));
                    self.mistakes.add(span, message, "expected a word as in a grant");
                }
            }
        }
        words
    }

    fn pattern(&mut self, fields: &Fields, key: &str) -> Option<Pattern> {
        let text = fields.text(key)?;
        self.parsed(text, fields.span_of(key))
    }

    fn patterns(&mut self, fields: &Fields, key: &str) -> Option<Vec<Pattern>> {
        fields
            .has(key)
            .then(|| fields.texts(key).into_iter().filter_map(|(text, span)| self.parsed(text, span)).collect())
    }

    fn parsed(&mut self, text: &str, span: std::ops::Range<usize>) -> Option<Pattern> {
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let facts: Vec<_> = error.facts().iter().map(|(name, value)| format!("{name} {value}")).collect();
                self.mistakes.add(span, "this is not a pattern", facts.join(", "));
                None
            }
        }
    }

    fn place(&self, fields: &Fields) -> Place {
        let before = self.text.get(..fields.span.start).unwrap_or_default();
        Place { line: before.matches('\n').count() + 1, span: fields.span.clone() }
    }
}

fn bounds(fields: &Fields) -> Bounds {
    let verbs = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose];
    let named: Vec<&str> = fields.texts("verbs").into_iter().map(|(text, _)| text).collect();
    Bounds {
        verbs: verbs.into_iter().filter(|verb| named.contains(&verb.name())).collect(),
        effect: if fields.text("effect") == Some("changes") { Effect::Changes } else { Effect::Reads },
        inspect: fields.flag("inspect"),
    }
}

/// `trusted_keys` of a file: public keys of minisign.
pub(super) fn trusted_keys(fields: &Fields, mistakes: &mut Mistakes) -> Vec<TrustedKey> {
    let mut keys = Vec::new();
    for (text, span) in fields.texts("trusted_keys") {
        match TrustedKey::parse(text) {
            Ok(key) => keys.push(key),
            Err(error) => {
                let expected = error.facts().first().map(|(_, value)| value.clone()).unwrap_or_default();
                mistakes.add(span, format!("trusted_keys: {error}"), format!("expected {expected}")).help =
                    error.hint_text().map(str::to_owned);
            }
        }
    }
    keys
}

/// `revoked` of a file: digests in lower case.
pub(super) fn revoked(fields: &Fields, mistakes: &mut Mistakes) -> BTreeSet<String> {
    let mut digests = BTreeSet::new();
    for (text, span) in fields.texts("revoked") {
        match super::digest(text) {
            Some(digest) => drop(digests.insert(digest)),
            None => drop(mistakes.add(span, "revoked: this is not a digest", "expected 64 hex digits")),
        }
    }
    digests
}
