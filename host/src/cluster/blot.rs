//! What of a Secret is shown to whoever may not see its values: its keys, and in their place a text of
//! ours, or a mark that tells a value that has changed from one that has not.
//!
//! A mark is a keyed hash of the value with the name of its Secret and its key, under a key that only this
//! host has. It says nothing about the value, not even its length; that two values are equal only where they
//! lie under the same name. It is made only where its reader cannot write (a backup, a plan): who could write
//! a guess and look at its mark would learn whether it was right. `docs/decisions/clusters.md` has the reasons.

use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// What stands in the place of a value: base64 of [`BLOTTED_TEXT`], so that whoever decodes it finds that.
pub(super) const BLOTTED: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbQ==";

/// The same where text stands.
const BLOTTED_TEXT: &str = "redacted by strongroom";

/// How a mark begins: 24 bytes, which are 32 characters of base64.
const MARK_TEXT: &str = "redacted by strongroom; ";

/// Base64 of [`MARK_TEXT`].
const MARK: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbTsg";

/// Hex digits of a mark that say whose key made it, and those that stand for the value: 24 and 72 bits.
const KEY_DIGITS: usize = 6;
const VALUE_DIGITS: usize = 18;

/// Where `kubectl apply` keeps a copy of the whole object, a Secret's values in it.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the key of marks is derived for.
pub const PURPOSE_MARKS: &str = "strongroom 2026 clusters: marks of values";

/// Makes marks under one key.
pub struct Marks {
    key: Zeroizing<[u8; 32]>,
    /// Tells marks of this key from those of others.
    id: String,
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Marks {
    /// Marks under this key, which nobody else may have.
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let id = blake3::keyed_hash(&key, b"which key is this").to_hex()[..KEY_DIGITS].to_owned();
        Self { key, id }
    }

    /// The mark of a value in base64, as all values of a Secret are.
    fn of(&self, secret: (&str, &str), field: &str, value: &Value) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // Each with its length, so that no two lists of parts are one text.
        for part in [secret.0, secret.1, field, &value] {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
        }
        let tag = hasher.finalize().to_hex();
        STANDARD.encode(format!("{MARK_TEXT}{}{}", self.id, &tag[..VALUE_DIGITS]))
    }
}

/// How the values of a Secret are shown.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// As they are.
    Whole,
    /// Not at all, but for marks where there are any.
    Blotted(Option<&'a Marks>),
}

/// Blots out what a Secret holds. Its keys stay.
pub(super) fn blot(body: &mut Map<String, Value>, marks: Option<&Marks>) {
    let text = |body: &Map<String, Value>, key: &str| {
        let found = body.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let (namespace, name) = (text(body, "namespace"), text(body, "name"));
    for (key, with) in [("data", BLOTTED), ("stringData", BLOTTED_TEXT)] {
        match body.get_mut(key) {
            Some(Value::Object(values)) => {
                for (field, value) in values.iter_mut() {
                    *value = match marks.filter(|_| key == "data") {
                        Some(marks) => marks.of((&namespace, &name), field, value).into(),
                        None => with.into(),
                    };
                }
            }
            Some(other) if !other.is_null() => *other = Value::Null,
            _ => {}
        }
    }
    let annotations = body.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    if let Some(last) = annotations.and_then(|annotations| annotations.get_mut(LAST_APPLIED)) {
        *last = BLOTTED_TEXT.into();
    }
}

/// The text of a Secret without what it holds.
///
/// Errors: `Failed` for what is no object; then nothing of it is shown.
pub(super) fn blotted(text: &str, marks: Option<&Marks>) -> Result<String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(mut body)) => {
            blot(&mut body, marks);
            Ok(Value::Object(body).to_string())
        }
        _ => Err(Error::failed("a Secret is not JSON as it must be")),
    }
}

/// Whether a Secret has a value of ours: written so, one of its own would be lost.
pub(super) fn is_blotted(body: &Map<String, Value>) -> bool {
    let held = |key: &str, is_ours: fn(&str) -> bool| {
        let values = body.get(key).and_then(Value::as_object);
        values.is_some_and(|values| values.values().any(|value| value.as_str().is_some_and(is_ours)))
    };
    held("data", |value| value == BLOTTED || value.starts_with(MARK))
        || held("stringData", |value| value == BLOTTED_TEXT || value.starts_with(MARK_TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn marks(key: u8) -> Marks {
        Marks::new(Zeroizing::new([key; 32]))
    }

    fn secret(namespace: &str, name: &str, field: &str, value: &str) -> String {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "data": {field: STANDARD.encode(value)}})
        .to_string()
    }

    fn mark(key: u8, secret: &str) -> String {
        let text = blotted(secret, Some(&marks(key))).unwrap();
        let object: Value = serde_json::from_str(&text).unwrap();
        let values: Vec<_> = object["data"].as_object().unwrap().values().cloned().collect();
        assert_eq!(values.len(), 1);
        values[0].as_str().unwrap().to_owned()
    }

    #[test]
    fn the_words_of_ours_are_what_they_say() {
        assert_eq!(STANDARD.encode(BLOTTED_TEXT), BLOTTED);
        assert_eq!(STANDARD.encode(MARK_TEXT), MARK);
        let mark = mark(1, &secret("shop", "db", "password", "hunter2"));
        assert!(mark.starts_with(MARK) && mark.len() == 64, "{mark}");
        let told = String::from_utf8(STANDARD.decode(mark).unwrap()).unwrap();
        assert!(told[MARK_TEXT.len()..].bytes().all(|digit| digit.is_ascii_hexdigit()), "{told}");
    }

    #[test]
    fn a_mark_is_of_one_value_under_one_name_and_one_key() {
        let one = mark(1, &secret("shop", "db", "password", "hunter2"));
        assert_eq!(one, mark(1, &secret("shop", "db", "password", "hunter2")));
        for other in [
            mark(1, &secret("shop", "db", "password", "hunter3")),
            mark(1, &secret("shop", "db", "passwor", "dhunter2")),
            mark(1, &secret("shop", "other", "password", "hunter2")),
            mark(1, &secret("sho", "pdb", "password", "hunter2")),
            mark(2, &secret("shop", "db", "password", "hunter2")),
        ] {
            assert_ne!(one, other);
        }
        let key_of = |mark: &str| mark[MARK.len()..MARK.len() + 8].to_owned();
        assert_eq!(key_of(&one), key_of(&mark(1, &secret("a", "b", "c", "d"))));
        assert_ne!(key_of(&one), key_of(&mark(2, &secret("a", "b", "c", "d"))));
        assert!(!format!("{:?}", marks(7)).contains("7, 7"));
    }

    #[test]
    fn what_is_marked_is_not_written_back() {
        for text in [
            blotted(&secret("a", "b", "c", "d"), Some(&marks(1))).unwrap(),
            blotted(&secret("a", "b", "c", "d"), None).unwrap(),
            json!({"stringData": {"x": format!("{MARK_TEXT}abc")}}).to_string(),
            json!({"stringData": {"x": BLOTTED_TEXT}}).to_string(),
        ] {
            assert!(is_blotted(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap()), "{text}");
        }
        assert!(!is_blotted(serde_json::from_str::<Value>(&secret("a", "b", "c", "d")).unwrap().as_object().unwrap()));
    }

    proptest! {
        #[test]
        fn whatever_a_secret_holds_nothing_of_it_is_left(value in "[a-zA-Z0-9]{9,80}", odd in any::<u64>()) {
            let last = json!({"data": {"k": STANDARD.encode(&value)}}).to_string();
            let text = json!({"kind": "Secret", "data": {"k": STANDARD.encode(&value), "n": odd, "null": null},
                "stringData": {"k": value}, "metadata": {"name": "x", "annotations": {LAST_APPLIED: last}}}).to_string();
            for marks in [None, Some(&marks(3))] {
                let shown = blotted(&text, marks).unwrap();
                prop_assert!(!shown.contains(&value) && !shown.contains(&STANDARD.encode(&value)), "{}", shown);
                prop_assert!(shown.contains("\"k\"") && shown.contains("\"n\"") && shown.contains("\"null\""));
            }
        }
    }
}
