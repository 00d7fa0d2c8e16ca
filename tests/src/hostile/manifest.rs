//! What a plugin says of itself: the vendor's word, which is shown to people and compared, never trusted.

use super::{Input, check_error};
use serde_json::Value;
use std::sync::OnceLock;
use strongroom::error::Kind;
use strongroom::plugin::component::Component;
use strongroom::plugin::manifest::{PluginManifest, SECTION};

const POSTGRES: &str = include_str!("../../../plugins/postgres/plugin.toml");
const BUCKET: &str = include_str!("../../../plugins/bucket/plugin.toml");
const ROGUE: &str = include_str!("../../guests/rogue/plugin.toml");

const WORDS: &[&str] = &[
    "\"",
    "[[request.exec]]\n",
    "[[request.bucket]]\n",
    "[request.artifacts]\n",
    "[settings.properties.x]\n",
    "reason = \"\"\n",
    "reason = \"\\u001b[2J\"\n",
    "effect = \"changes\"\n",
    "stdin = { text = \"x\", hold = true }\n",
    "stdin = \"plugin\"\n",
    "slots = { x = { pattern = \"(\", max_bytes = -1 } }\n",
    "\"$ref\" = \"#\"\n",
    "\"$ref\" = \"https://example.invalid/x\"\n",
    "pattern = \"(a+)+$\"\n",
    "{scratch}",
    "{",
    "1e9",
    "nan",
    "1979-05-27T07:32:00Z",
    "99.0.0",
    "\u{202e}",
    "\u{0}",
    "\n",
];

/// The text of `plugin.toml`.
pub(super) fn text(input: &mut Input<'_>) {
    let text = input.edited_text(&[POSTGRES, BUCKET, ROGUE], WORDS);
    match PluginManifest::parse(&text) {
        Ok(manifest) => {
            // Its own words, written anew, are read as the same.
            let said = without_nulls(serde_json::to_value(&manifest).expect("a manifest is data"));
            let again = toml::to_string(&said).expect("a manifest is TOML");
            let reread = PluginManifest::parse(&again).unwrap_or_else(|e| panic!("{e:?}\n{again}"));
            let reread = without_nulls(serde_json::to_value(&reread).expect("a manifest is data"));
            assert_eq!(said, reread);
            // Deciding by it never panics.
            let _ = (manifest.check_host(), manifest.check_settings(&said), manifest.check_options(&Value::Null));
        }
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }
}

/// TOML has no null: a key that is null is one that is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// A guest's component without its manifest, which `plugin build` puts at the end.
fn bare() -> &'static [u8] {
    static BARE: OnceLock<Vec<u8>> = OnceLock::new();
    BARE.get_or_init(|| {
        let whole = std::fs::read(crate::plugin("guests/rogue").expect("a built guest")).expect("a readable guest");
        let section = section(SECTION, ROGUE.as_bytes());
        whole.strip_suffix(section.as_slice()).expect("the manifest is the last section").to_vec()
    })
}

/// A number as WebAssembly writes it.
fn leb(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        out.push(if n == 0 { byte } else { byte | 0x80 });
        if n == 0 {
            return out;
        }
    }
}

/// A custom section.
fn section(name: &str, data: &[u8]) -> Vec<u8> {
    let content = [&leb(name.len())[..], name.as_bytes(), data].concat();
    [&[0], &leb(content.len())[..], &content].concat()
}

/// A component inside a component: section 4.
fn nested(inner: &[u8]) -> Vec<u8> {
    [&[4], &leb(inner.len())[..], inner].concat()
}

/// The section `strongroom:manifest`, and the component around it.
pub(super) fn component(input: &mut Input<'_>) {
    const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
    let manifest = section(SECTION, ROGUE.as_bytes());
    let mut bytes = bare().to_vec();
    match input.byte() % 6 {
        0 => {
            let text = input.edited(&[ROGUE.as_bytes()], WORDS);
            bytes.extend(section(SECTION, &text));
            let text = String::from_utf8(text);
            let expected = text.ok().and_then(|text| PluginManifest::parse(&text).ok());
            match Component::decode(&bytes) {
                Ok(component) => {
                    let expected = serde_json::to_value(expected.expect("a good manifest")).expect("data");
                    assert_eq!(serde_json::to_value(&component.manifest).expect("data"), expected);
                }
                // A good manifest may ask for what the code does not import.
                Err(error) => check_error(&error, &[Kind::Invalid]),
            }
        }
        1 => {
            // Two of them, anywhere: refused, and so is none.
            let n = usize::from(input.byte() % 3);
            let mut sections = vec![manifest; n];
            for name in ["name", "strongroom:manifes", "strongroom:manifest2", "producers"] {
                let at = input.below(sections.len() + 1);
                sections.insert(at, section(name, input.take(8)));
            }
            let first = input.below(2) * sections.first().map_or(0, Vec::len);
            let all = sections.concat();
            bytes.splice(HEADER.len()..HEADER.len(), all[..first].to_vec()).for_each(drop);
            bytes.extend(&all[first..]);
            // What is in the sections that are not ours may be malformed, which is refused as well.
            assert!(n == 1 || Component::decode(&bytes).is_err(), "{n} manifests");
            let _ = Component::decode(&bytes);
        }
        2 => {
            // One that is inside of another component is not the outermost's word.
            let mut inner = [HEADER, &manifest].concat();
            for _ in 0..input.byte() % 12 {
                inner = [HEADER, &nested(&inner)].concat();
            }
            bytes.extend(nested(&inner));
            if input.byte().is_multiple_of(2) {
                bytes.extend(&manifest);
            }
            let error = Component::decode(&bytes).map(drop).expect_err("a nested manifest");
            check_error(&error, &[Kind::Invalid, Kind::Limit]);
        }
        3 => {
            // Near the end, where the manifest is, or anywhere else.
            bytes.extend(&manifest);
            let whole = bytes.clone();
            let start = if input.byte().is_multiple_of(2) { whole.len() - manifest.len() - 64 } else { 0 };
            let mut end = bytes.split_off(start);
            for _ in 0..=input.byte() % 4 {
                input.change(&mut end, &[&manifest, HEADER], &[SECTION]);
            }
            bytes.extend(end);
            decode_twice(&bytes);
        }
        4 => {
            let mut small = [HEADER, &manifest].concat();
            for _ in 0..input.byte() % 8 {
                input.change(&mut small, &[&manifest, HEADER], &[SECTION]);
            }
            decode_twice(&small);
        }
        _ => decode_twice(&[HEADER, input.rest()].concat()),
    }
}

/// Decoding is a function of the bytes, and an error is one that can be shown.
fn decode_twice(bytes: &[u8]) {
    match (Component::decode(bytes), Component::decode(bytes)) {
        (Ok(one), Ok(two)) => assert_eq!((one.sha256, one.imports), (two.sha256, two.imports)),
        (Err(one), Err(two)) => {
            check_error(&one, &[Kind::Invalid, Kind::Limit]);
            assert_eq!(format!("{one:?}"), format!("{two:?}"));
        }
        _ => panic!("decoded once and not twice"),
    }
}
