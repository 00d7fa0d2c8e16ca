//! What was read: values whose shape is right, with their places, and typed access to them.

use super::SecretRef;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// A value whose shape was found to be right.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) datum: Datum,
    pub(super) span: Range<usize>,
}

/// What a [`Field`] holds, by its shape.
#[derive(Clone, Debug)]
pub(super) enum Datum {
    Text(String),
    Flag(bool),
    /// Numbers and sizes.
    Whole(u64),
    Duration(Duration),
    Json(Value),
    Secret(SecretRef),
    List(Vec<Field>),
    Map(Vec<Named>),
    Table(Fields),
    Tables(Vec<Fields>),
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) field: Field,
}

/// A table that was read: only known keys, only of the right shape.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    /// Its full name, such as `store.main`.
    pub(super) path: String,
    /// The place of its name.
    pub(super) span: Range<usize>,
    pub(super) known: BTreeMap<&'static str, Field>,
    /// Every key that was written, or meant, whether or not its value was right: what was told once
    /// is not told again as missing.
    pub(super) given: BTreeSet<&'static str>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Field> {
        self.known.get(name)
    }

    /// The place of a key's value, or of the table where it is absent.
    pub(super) fn span_of(&self, name: &str) -> Range<usize> {
        self.get(name).map_or_else(|| self.span.clone(), |field| field.span.clone())
    }

    /// Whether a key was written, right or wrong.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// Whether a key was written and its value was wrong, which has been told.
    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.has(name) && !self.known.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.datum {
            Datum::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name).map(|field| &field.datum), Some(Datum::Flag(true)))
    }

    pub(super) fn flag_or(&self, name: &str, otherwise: bool) -> bool {
        match self.get(name).map(|field| &field.datum) {
            Some(Datum::Flag(flag)) => *flag,
            _ => otherwise,
        }
    }

    pub(super) fn whole<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        match &self.get(name)?.datum {
            Datum::Whole(n) => T::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        match &self.get(name)?.datum {
            Datum::Duration(duration) => Some(*duration),
            _ => None,
        }
    }

    pub(super) fn json(&self, name: &str) -> Value {
        match self.get(name).map(|field| &field.datum) {
            Some(Datum::Json(value)) => value.clone(),
            _ => Value::Object(serde_json::Map::new()),
        }
    }

    pub(super) fn secret(&self, name: &str) -> Option<&SecretRef> {
        match &self.get(name)?.datum {
            Datum::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> &[Field] {
        match self.get(name).map(|field| &field.datum) {
            Some(Datum::List(list)) => list,
            _ => &[],
        }
    }

    /// The texts of a list, with their places.
    pub(super) fn texts(&self, name: &str) -> Vec<(&str, Range<usize>)> {
        self.list(name)
            .iter()
            .filter_map(|field| match &field.datum {
                Datum::Text(text) => Some((text.as_str(), field.span.clone())),
                _ => None,
            })
            .collect()
    }

    pub(super) fn map(&self, name: &str) -> &[Named] {
        match self.get(name).map(|field| &field.datum) {
            Some(Datum::Map(map)) => map,
            _ => &[],
        }
    }

    pub(super) fn tables(&self, name: &str) -> &[Fields] {
        match self.get(name).map(|field| &field.datum) {
            Some(Datum::Tables(tables)) => tables,
            _ => &[],
        }
    }

    pub(super) fn table(&self, name: &str) -> Option<&Fields> {
        match &self.get(name)?.datum {
            Datum::Table(fields) => Some(fields),
            _ => None,
        }
    }
}

impl Named {
    pub(super) fn table(&self) -> Option<&Fields> {
        match &self.field.datum {
            Datum::Table(fields) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn tables(&self) -> &[Fields] {
        match &self.field.datum {
            Datum::Tables(tables) => tables,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.field.datum {
            Datum::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn secret(&self) -> Option<&SecretRef> {
        match &self.field.datum {
            Datum::Secret(secret) => Some(secret),
            _ => None,
        }
    }
}
