//! Reads settings and options, and says where in them a value is wrong.

use crate::{Error, Result};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::fmt;

/// Reads `json`, which is the table `name`. A wrong value is [`Error::Invalid`] with its path,
/// such as `settings.counts.budget: invalid type: …`.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, json: &str) -> Result<T> {
    let value: Value =
        serde_json::from_str(json).map_err(|error| Error::Invalid(format!("{name} is not JSON: {error}")))?;
    T::deserialize(Tracked(&value)).map_err(|error| {
        let mut path = name.to_owned();
        // Steps were collected from the inside to the outside.
        for step in error.path.iter().rev() {
            path.push_str(step);
        }
        Error::Invalid(format!("{path}: {}", error.message))
    })
}

/// A value whose errors collect the path to it on their way out.
struct Tracked<'a>(&'a Value);

#[derive(Debug)]
struct AtPath {
    path: Vec<String>,
    message: String,
}

impl AtPath {
    fn under(mut self, step: String) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for AtPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AtPath {}

impl de::Error for AtPath {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string() }
    }
}

impl From<serde_json::Error> for AtPath {
    fn from(error: serde_json::Error) -> Self {
        de::Error::custom(error)
    }
}

impl<'de> de::Deserializer<'de> for Tracked<'de> {
    type Error = AtPath;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, AtPath> {
        match self.0 {
            Value::Array(items) => {
                SeqAccessDeserializer::new(Items { items: items.iter(), at: 0 }).deserialize_any(visitor)
            }
            Value::Object(map) => {
                MapAccessDeserializer::new(Fields { fields: map.iter(), value: None }).deserialize_any(visitor)
            }
            scalar => Ok(scalar.deserialize_any(visitor)?),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, AtPath> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, AtPath> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, AtPath> {
        Ok(de::Deserializer::deserialize_enum(self.0, name, variants, visitor)?)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = AtPath;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<Option<T::Value>, AtPath> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        seed.deserialize(Tracked(item)).map(Some).map_err(|error| error.under(format!("[{at}]")))
    }
}

struct Fields<'de> {
    fields: serde_json::map::Iter<'de>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = AtPath;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, AtPath> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> std::result::Result<V::Value, AtPath> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Tracked(value)).map_err(|error| error.under(format!(".{key}")))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::Error;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Example {
        #[serde(default)]
        databases: Option<Vec<String>>,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default)]
        rename: BTreeMap<String, Count>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Server,
        Database,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Count(u8);

    fn check_refused(json: &str, message: &str) {
        let error = parse::<Example>("settings", json).unwrap_err();
        assert_eq!(error, Error::Invalid(message.to_owned()));
    }

    #[test]
    fn good_settings_are_read() {
        let read: Example = parse("settings", r#"{"databases":["a","b"],"mode":"server","rename":{"a":1}}"#).unwrap();
        assert_eq!(
            format!("{read:?}"),
            r#"Example { databases: Some(["a", "b"]), mode: Some(Server), rename: {"a": Count(1)} }"#
        );
        let empty: Example = parse("settings", "{}").unwrap();
        assert!(empty.databases.is_none());
    }

    #[test]
    fn a_wrong_value_is_named_by_its_path() {
        check_refused(
            r#"{"databases":["a",3]}"#,
            "settings.databases[1]: invalid type: integer `3`, expected a string",
        );
        check_refused(r#"{"rename":{"a":900}}"#, "settings.rename.a: invalid value: integer `900`, expected u8");
        check_refused(r#"{"mode":"x"}"#, "settings.mode: unknown variant `x`, expected `server` or `database`");
        check_refused(r#"{"x":1}"#, "settings: unknown field `x`, expected one of `databases`, `mode`, `rename`");
        check_refused("[", "settings is not JSON: EOF while parsing a list at line 1 column 1");
    }
}
