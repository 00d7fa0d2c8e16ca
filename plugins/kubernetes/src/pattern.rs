//! Patterns of names, kinds and objects, as settings and options write them. Pure.
//!
//! `*` is any text and `?` any one character, also in the parts of a kind: `apps/*`, `*/Event`.

use strongroom_plugin::kube::Kind;
use strongroom_plugin::{Error, Result};

/// A pattern of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    /// A pattern that matches something. Errors: `Invalid` for an empty one.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("an empty pattern matches no name"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name itself, where it is one and no pattern.
    pub(crate) fn literal(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(self.0.as_str())
    }

    /// Whether it matches the whole name. Time is at worst pattern times name; there is no recursion.
    pub(crate) fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut token) = (0, 0);
    // The last star, and where in the name to go on after a miss.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(token) {
            Some(b'*') => {
                star = Some((token + 1, at));
                token += 1;
            }
            // A character of several bytes is skipped as a whole.
            Some(b'?') => {
                at += 1;
                while name.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    at += 1;
                }
                token += 1;
            }
            Some(byte) if *byte == name[at] => {
                at += 1;
                token += 1;
            }
            _ => match star {
                Some((back, from)) => {
                    star = Some((back, from + 1));
                    (token, at) = (back, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[token.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

/// A list of patterns of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Globs(Vec<Glob>);

impl Globs {
    /// Parses each of them.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        Ok(Self(texts.iter().map(|text| Glob::parse(text)).collect::<Result<_>>()?))
    }

    /// Whether one matches.
    pub(crate) fn any(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }

    /// Whether there is none, or one that matches.
    pub(crate) fn none_or_any(&self, name: &str) -> bool {
        self.0.is_empty() || self.any(name)
    }

    /// The names, where there are some and all of them are names and no patterns.
    pub(crate) fn literals(&self) -> Option<Vec<&str>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().map(Glob::literal).collect()
    }
}

/// A pattern of kinds: `group/Kind`, `/Kind` for the core group, `Kind` for any group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KindPattern {
    group: Glob,
    kind: Glob,
    core: bool,
}

impl KindPattern {
    /// Parses one. Errors: `Invalid` for one that can match no kind.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (group, kind) = text.split_once('/').unwrap_or(("*", text));
        if kind.is_empty() || kind.contains('/') {
            return Err(Error::invalid(format!(
                "{text:?} is no kind: write group/Kind, /Kind for the core group, or Kind for any group"
            )));
        }
        let core = group.is_empty();
        Ok(Self { group: Glob(group.to_owned()), kind: Glob(kind.to_owned()), core })
    }

    /// Whether it matches.
    pub(crate) fn matches(&self, group: &str, kind: &str) -> bool {
        self.in_group(group) && self.kind.matches(kind)
    }

    fn in_group(&self, group: &str) -> bool {
        if self.core { group.is_empty() } else { self.group.matches(group) }
    }
}

/// A list of patterns of kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(Vec<KindPattern>);

impl Kinds {
    /// Parses each of them.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        Ok(Self(texts.iter().map(|text| KindPattern::parse(text)).collect::<Result<_>>()?))
    }

    /// Whether one matches.
    pub(crate) fn any(&self, kind: &Kind) -> bool {
        self.0.iter().any(|pattern| pattern.matches(&kind.group, &kind.kind))
    }

    /// Whether one matches whatever kind there is in a group.
    pub(crate) fn all_of(&self, group: &str) -> bool {
        let every = |pattern: &&KindPattern| pattern.kind.0.bytes().all(|byte| byte == b'*');
        self.0.iter().filter(every).any(|pattern| pattern.in_group(group))
    }

    /// Whether there is none, or one that may match some kind of a group.
    pub(crate) fn none_or_some_of(&self, group: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.in_group(group))
    }

    /// Whether there is none, or one that matches.
    pub(crate) fn none_or_any(&self, kind: &Kind) -> bool {
        self.0.is_empty() || self.any(kind)
    }
}

/// A pattern of objects: `group/Kind:namespace/name`, or `group/Kind:name` for what lies in no namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectPattern {
    kind: KindPattern,
    namespace: Option<Glob>,
    name: Glob,
}

impl ObjectPattern {
    /// Parses one. Errors: `Invalid`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{text:?} names no object: write group/Kind:namespace/name"));
        let (kind, place) = text.split_once(':').ok_or_else(bad)?;
        let (namespace, name) = match place.split_once('/') {
            Some((namespace, name)) => (Some(Glob::parse(namespace)?), name),
            None => (None, place),
        };
        Ok(Self { kind: KindPattern::parse(kind)?, namespace, name: Glob::parse(name).map_err(|_| bad())? })
    }

    /// Whether it is this object.
    pub(crate) fn matches(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> bool {
        let inside = match (&self.namespace, namespace) {
            (Some(glob), Some(namespace)) => glob.matches(namespace),
            (None, None) => true,
            _ => false,
        };
        inside && self.kind.matches(&kind.group, &kind.kind) && self.name.matches(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn kind(name: &str) -> Kind {
        let (group, kind) = name.split_once('/').unwrap();
        let (group, kind) = (group.to_owned(), kind.to_owned());
        let plural = format!("{}s", kind.to_lowercase());
        Kind { group, version: "v1".into(), kind, plural, namespaced: true, verbs: vec!["list".into()] }
    }

    #[test]
    fn names_match_as_a_whole() {
        for (glob, yes, no) in [
            ("shop", &["shop"][..], &["shop-2", "a-shop", ""][..]),
            ("shop-*", &["shop-", "shop-a"], &["shop", "ashop-"]),
            ("*-x-*", &["a-x-b", "-x-", "a-x-x-b"], &["a-x", "x"]),
            ("?", &["a", "ä"], &["", "ab"]),
            ("*", &["", "a"], &[]),
            ("a*b*c", &["abc", "aXbXbc"], &["ab", "acb"]),
        ] {
            let parsed = Glob::parse(glob).unwrap();
            yes.iter().for_each(|name| assert!(parsed.matches(name), "{glob} matches {name:?}"));
            no.iter().for_each(|name| assert!(!parsed.matches(name), "{glob} does not match {name:?}"));
        }
        assert!(Glob::parse("").is_err());
        assert!(!Glob::parse(&"*a".repeat(60)).unwrap().matches(&("a".repeat(10_000) + "b")));
        let literals = Globs::parse(&["a".into(), "b".into()]).unwrap();
        assert_eq!(literals.literals(), Some(vec!["a", "b"]));
        assert_eq!(Globs::parse(&["a*".into()]).unwrap().literals(), None);
    }

    #[test]
    fn kinds_are_written_with_their_group() {
        for (pattern, yes, no) in [
            ("/Secret", &["/Secret"][..], &["example.com/Secret", "/Secrets"][..]),
            ("Secret", &["/Secret", "example.com/Secret"], &["/Pod"]),
            ("apps/*", &["apps/Deployment"], &["/Pod", "x.apps/Y"]),
            ("*/Event", &["/Event", "events.k8s.io/Event"], &["/Events"]),
            ("*.example.com/*", &["a.example.com/X"], &["example.com/X"]),
            ("*", &["/Pod", "a/B"], &[]),
        ] {
            let kinds = Kinds::parse(&[pattern.to_owned()]).unwrap();
            yes.iter().for_each(|name| assert!(kinds.any(&kind(name)), "{pattern} matches {name}"));
            no.iter().for_each(|name| assert!(!kinds.any(&kind(name)), "{pattern} does not match {name}"));
        }
        let kinds = Kinds::parse(&["apps/*".to_owned(), "*.example.com/Shop".to_owned()]).unwrap();
        assert!(kinds.all_of("apps") && !kinds.all_of("a.example.com") && !kinds.all_of(""));
        assert!(kinds.none_or_some_of("apps") && kinds.none_or_some_of("a.example.com") && !kinds.none_or_some_of(""));
        assert!(Kinds::default().none_or_some_of("x") && !Kinds::default().all_of("x"));
        for wrong in ["", "apps/", "a/b/c"] {
            assert!(Kinds::parse(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn objects_are_written_with_kind_and_place() {
        let pattern = ObjectPattern::parse("/ConfigMap:*/kube-root-ca.crt").unwrap();
        assert!(pattern.matches(&kind("/ConfigMap"), Some("shop"), "kube-root-ca.crt"));
        assert!(!pattern.matches(&kind("/ConfigMap"), None, "kube-root-ca.crt"));
        assert!(!pattern.matches(&kind("/Secret"), Some("shop"), "kube-root-ca.crt"));
        let cluster = ObjectPattern::parse("rbac.authorization.k8s.io/ClusterRole:system:*").unwrap();
        assert!(cluster.matches(&kind("rbac.authorization.k8s.io/ClusterRole"), None, "system:node"));
        assert!(ObjectPattern::parse("/ConfigMap").is_err() && ObjectPattern::parse("/ConfigMap:a/").is_err());
    }
}
