//! Finds where the values of a JSON text begin and end, without decoding them: a list of 500 objects
//! is cut into its objects at the speed of memory.
//!
//! What is found is the server's own text; whatever is judged or sent is decoded in `object`.

use crate::error::{Error, Result};

/// The members of an object, each as its raw key without quotes and the text of its value.
pub(super) struct Members<'a>(Walk<'a>);

/// The elements of an array.
pub(super) struct Elements<'a>(Walk<'a>);

struct Walk<'a> {
    text: &'a str,
    at: usize,
    /// What stands before the next item: the opening bracket, or a comma.
    is_first: bool,
    close: u8,
    is_over: bool,
}

/// The members of the object that `text` is.
pub(super) fn members(text: &str) -> Result<Members<'_>> {
    Ok(Members(Walk::begin(text, b'{', b'}')?))
}

/// The elements of the array that `text` is; none for `null`.
pub(super) fn elements(text: &str) -> Result<Elements<'_>> {
    if text.trim() == "null" {
        return Ok(Elements(Walk { text, at: text.len(), is_first: false, close: b']', is_over: true }));
    }
    Ok(Elements(Walk::begin(text, b'[', b']')?))
}

impl<'a> Walk<'a> {
    fn begin(text: &'a str, open: u8, close: u8) -> Result<Self> {
        let at = skip_space(text.as_bytes(), 0);
        if text.as_bytes().get(at) != Some(&open) {
            return Err(malformed());
        }
        Ok(Self { text, at: at + 1, is_first: true, close, is_over: false })
    }

    /// Steps to the next item; `false` at the end.
    fn step(&mut self) -> Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        let bytes = self.text.as_bytes();
        self.at = skip_space(bytes, self.at);
        match bytes.get(self.at) {
            Some(byte) if *byte == self.close => {
                self.is_over = true;
                return Ok(false);
            }
            Some(b',') if !self.is_first => self.at = skip_space(bytes, self.at + 1),
            Some(_) if self.is_first => {}
            _ => return Err(malformed()),
        }
        self.is_first = false;
        Ok(true)
    }

    fn value(&mut self) -> Result<&'a str> {
        let begin = skip_space(self.text.as_bytes(), self.at);
        self.at = value_end(self.text.as_bytes(), begin)?;
        self.text.get(begin..self.at).ok_or_else(malformed)
    }
}

impl<'a> Members<'a> {
    fn member(&mut self) -> Result<Option<(&'a str, &'a str)>> {
        if !self.0.step()? {
            return Ok(None);
        }
        let key = self.0.value()?;
        let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).ok_or_else(malformed)?;
        let colon = skip_space(self.0.text.as_bytes(), self.0.at);
        if self.0.text.as_bytes().get(colon) != Some(&b':') {
            return Err(malformed());
        }
        self.0.at = colon + 1;
        Ok(Some((key, self.0.value()?)))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<(&'a str, &'a str)>;

    fn next(&mut self) -> Option<Self::Item> {
        let member = self.member().transpose();
        self.0.is_over |= matches!(member, Some(Err(_)));
        member
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a str>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.step() {
            Ok(false) => None,
            Ok(true) => {
                let value = self.0.value();
                self.0.is_over |= value.is_err();
                Some(value)
            }
            Err(error) => {
                self.0.is_over = true;
                Some(Err(error))
            }
        }
    }
}

fn malformed() -> Error {
    Error::failed("the server's answer is not JSON as it must be")
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The end of the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize) -> Result<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return Err(malformed()),
        }
    }
}

/// The end of the value that begins at `at`.
fn value_end(bytes: &[u8], mut at: usize) -> Result<usize> {
    match bytes.get(at) {
        Some(b'"') => string_end(bytes, at),
        Some(b'{' | b'[') => {
            let mut depth = 0_usize;
            loop {
                match bytes.get(at) {
                    Some(b'"') => {
                        at = string_end(bytes, at)?;
                        continue;
                    }
                    Some(b'{' | b'[') => depth += 1,
                    Some(b'}' | b']') => depth -= 1,
                    Some(_) => {}
                    None => return Err(malformed()),
                }
                at += 1;
                if depth == 0 {
                    return Ok(at);
                }
            }
        }
        Some(_) => {
            let begin = at;
            while bytes.get(at).is_some_and(|b| !matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')) {
                at += 1;
            }
            if at == begin { Err(malformed()) } else { Ok(at) }
        }
        None => Err(malformed()),
    }
}

/// The text of a JSON string, as it was written between its quotes.
pub(super) fn text(raw: &str) -> Option<String> {
    match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(plain.to_owned()),
        _ => serde_json::from_str(raw).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\\\\\"{}\\[\\],:é]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-z\\\\\"{},]{0,6}", inner, 0..6)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_cut_is_what_a_decoder_finds(value in json(), pretty in any::<bool>()) {
            let whole = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            match &value {
                Value::Array(list) => {
                    let found: Vec<Value> =
                        elements(&whole).unwrap().map(|text| serde_json::from_str(text.unwrap()).unwrap()).collect();
                    prop_assert_eq!(&found, list);
                }
                Value::Object(map) => {
                    let found: serde_json::Map<String, Value> = members(&whole)
                        .unwrap()
                        .map(|member| {
                            let (key, value) = member.unwrap();
                            (text(&format!("\"{key}\"")).unwrap(), serde_json::from_str(value).unwrap())
                        })
                        .collect();
                    prop_assert_eq!(&found, map);
                }
                _ => prop_assert!(members(&whole).is_err()),
            }
        }

        #[test]
        fn no_text_makes_it_panic_or_run_for_ever(text in "[\\[\\]{},:\"\\\\ a0é]{0,40}") {
            for found in [members(&text).map(Iterator::count), elements(&text).map(Iterator::count)] {
                prop_assert!(found.is_err() || found.is_ok_and(|n| n <= text.len()));
            }
        }
    }
}
