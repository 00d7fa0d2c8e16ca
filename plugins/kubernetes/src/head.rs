//! What a backup looks at in an object: its head. Text is borrowed, the rest is passed over.

use serde::Deserialize;
use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

/// The part of an object that decides whether it is kept.
#[derive(Debug, Deserialize)]
pub(crate) struct Head<'a> {
    #[serde(borrow)]
    pub(crate) metadata: Metadata<'a>,
    /// The type of a Secret.
    #[serde(rename = "type", default, borrow)]
    pub(crate) secret_type: Option<OneText<'a>>,
}

/// A value that is text in Secrets, and anything in other kinds.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneText<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(serde::de::IgnoredAny),
}

impl OneText<'_> {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }
}

/// Text that is borrowed where it has no escapes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// It is compared and ordered as the text that it is.
impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The metadata that counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) namespace: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(crate) uid: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(crate) labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(rename = "ownerReferences", default)]
    pub(crate) owners: Option<Vec<Owner>>,
    /// When somebody deleted it, where it is still there.
    #[serde(rename = "deletionTimestamp", default, borrow)]
    pub(crate) deleted: Option<Text<'a>>,
}

/// An owner of an object.
#[derive(Debug, Deserialize)]
pub(crate) struct Owner {
    #[serde(default)]
    pub(crate) controller: Option<bool>,
}

impl<'a> Head<'a> {
    /// Reads the head of an object.
    pub(crate) fn parse(json: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The namespace; none where it lies in none.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.metadata.namespace.as_ref().map(|text| text.0.as_ref()).filter(|namespace| !namespace.is_empty())
    }

    /// A label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        labels.get(name).map(|value| value.0.as_ref())
    }

    /// Whether a controller owns it.
    pub(crate) fn is_controlled(&self) -> bool {
        self.metadata.owners.iter().flatten().any(|owner| owner.controller == Some(true))
    }
}

/// The uid of an object, from its JSON; none if it has none.
pub(crate) fn uid(json: &str) -> Option<String> {
    Head::parse(json).ok()?.metadata.uid.map(|uid| uid.0.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_read_without_copying() {
        let json = r#"{"kind":"Pod","spec":{"x":[1,{"metadata":2}]},"type":{"a":1},"metadata":{"name":"web\n","namespace":"shop",
            "uid":"u","resourceVersion":"7","labels":{"app":"shop"},"ownerReferences":[{"kind":"ReplicaSet","controller":true}]}}"#;
        let head = Head::parse(json).unwrap();
        assert_eq!(
            (head.metadata.name.as_ref(), head.namespace(), head.label("app")),
            ("web\n", Some("shop"), Some("shop"))
        );
        assert!(matches!(head.metadata.namespace, Some(Text(Cow::Borrowed(_)))));
        assert!(head.is_controlled() && head.secret_type.unwrap().text().is_none());
        assert_eq!(uid(json).as_deref(), Some("u"));
        let secret = Head::parse(r#"{"metadata":{"name":"a","labels":null},"type":"Opaque"}"#).unwrap();
        assert_eq!(secret.secret_type.as_ref().and_then(OneText::text), Some("Opaque"));
        assert!(!secret.is_controlled() && secret.label("app").is_none() && secret.metadata.deleted.is_none());
        let going = Head::parse(r#"{"metadata":{"name":"a","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#).unwrap();
        assert!(going.metadata.deleted.is_some());
        assert!(Head::parse(r#"{"metadata":{}}"#).is_err() && Head::parse("{").is_err());
    }
}
