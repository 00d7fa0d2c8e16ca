//! YAML of JSON values, as the readers of manifests take it: block style, stable order, every text
//! quoted that some version of YAML would take for something else. Pure.
//!
//! `apiVersion`, `kind`, `metadata` and within it `name` and `namespace` come first, everything else in
//! the order of its name.

use serde_json::{Map, Value};

/// Fields that come first, in this order, where they are.
const FIRST: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "namespace"];
/// Longer keys need the long form (`?`): readers look this far for the colon.
const MAX_KEY: usize = 1_000;
/// Depth from which values are written in flow style, so that indentation does not square their length.
const MAX_BLOCK_DEPTH: usize = 30;

/// One document with its `\n` at the end.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0, false),
        scalar => {
            inline(&mut out, scalar, 0);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    out
}

fn indentation(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The fields of a mapping, one line or more each; the first is not indented where it follows a dash.
fn mapping(out: &mut String, map: &Map<String, Value>, depth: usize, behind_dash: bool) {
    let mut fields: Vec<(&String, &Value)> = map.iter().collect();
    let place = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    fields.sort_by(|(a, _), (b, _)| (place(a), a).cmp(&(place(b), b)));
    for (number, (name, value)) in fields.into_iter().enumerate() {
        if number > 0 || !behind_dash {
            indentation(out, depth);
        }
        let key = scalar(name);
        if key.len() > MAX_KEY {
            out.push_str("? ");
            out.push_str(&key);
            out.push('\n');
            indentation(out, depth);
        } else {
            out.push_str(&key);
        }
        out.push(':');
        nested(out, value, depth);
    }
}

fn sequence(out: &mut String, list: &[Value], depth: usize, behind_dash: bool) {
    for (number, value) in list.iter().enumerate() {
        if number > 0 || !behind_dash {
            indentation(out, depth);
        }
        out.push('-');
        match value {
            Value::Object(map) if !map.is_empty() && depth < MAX_BLOCK_DEPTH => {
                out.push(' ');
                mapping(out, map, depth + 1, true);
            }
            Value::Array(items) if !items.is_empty() && depth < MAX_BLOCK_DEPTH => {
                out.push(' ');
                sequence(out, items, depth + 1, true);
            }
            other => nested(out, other, depth),
        }
    }
}

/// What stands behind a key or a dash, to the end of its line or block.
fn nested(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() && depth < MAX_BLOCK_DEPTH => {
            out.push('\n');
            mapping(out, map, depth + 1, false);
        }
        Value::Array(list) if !list.is_empty() && depth < MAX_BLOCK_DEPTH => {
            out.push('\n');
            sequence(out, list, depth + 1, false);
        }
        other => {
            out.push(' ');
            inline(out, other, depth);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
}

/// A scalar, a block of text, or a whole value in flow style.
fn inline(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(text) if is_block(text) => block(out, text, depth),
        Value::String(text) => out.push_str(&scalar(text)),
        Value::Number(number) => out.push_str(&float(number)),
        // JSON with its texts escaped is YAML, and says `true`, `null`, `{}` and `[]`.
        other => flow(out, other),
    }
}

fn flow(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&float(number)),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Array(list) => {
            out.push('[');
            for (number, value) in list.iter().enumerate() {
                out.push_str(if number > 0 { ", " } else { "" });
                flow(out, value);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (number, (name, value)) in map.iter().enumerate() {
                out.push_str(if number > 0 { ", " } else { "" });
                out.push_str(&quoted(name));
                out.push_str(": ");
                flow(out, value);
            }
            out.push('}');
        }
    }
}

/// A number; one with an exponent gets a point, without which YAML 1.1 takes it for text.
fn float(number: &serde_json::Number) -> String {
    let text = number.to_string();
    match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let point = if mantissa.contains('.') { "" } else { ".0" };
            let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
            format!("{mantissa}{point}e{sign}{exponent}")
        }
        None => text,
    }
}

/// A text on one line: plain where nothing takes it for anything else.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Words that some version of YAML takes for no text.
const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];

fn is_plain(text: &str) -> bool {
    // Numbers, dates, times, `.inf`, `~`, `<<` and `=` do not begin with a letter.
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "_-./+=@%,() :".contains(c);
    begins
        && text.chars().all(ordinary)
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Whether a character may stand in YAML as it is, on one line.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether a text is written as a block of lines: several lines that survive as they are.
fn is_block(text: &str) -> bool {
    let Some(first) = text.lines().next() else { return false };
    text.trim_end_matches('\n').contains('\n')
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        // A reader finds the indentation by the first line, and some lose white space at ends of lines.
        && !first.is_empty()
        && !first.starts_with([' ', '\t'])
        && !text.split('\n').any(|line| line.ends_with([' ', '\t']) || line.starts_with('\t'))
}

fn block(out: &mut String, text: &str, depth: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    for line in body.split('\n') {
        if !line.is_empty() {
            indentation(out, depth + 1);
            out.push_str(line);
        }
        out.push('\n');
    }
    // Line ends beyond the first are lines of their own.
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(yaml: &str) -> Value {
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
    }

    fn check(value: &Value, expected: &str) {
        let yaml = document(value);
        assert_eq!(yaml, expected);
        assert_eq!(&read(&yaml), value);
    }

    #[test]
    fn manifests_are_written_as_people_write_them() {
        check(
            &json!({
                "spec": {"b": [1, "two", {"name": "x", "image": "r.test/x:1"}, [], [[true]]], "a": {}},
                "metadata": {"labels": {"app.kubernetes.io/name": "shop"}, "namespace": "shop", "name": "web"},
                "kind": "ConfigMap", "apiVersion": "v1",
                "data": {"run.sh": "#!/bin/sh\nset -e\n\nexec shop\n", "kept": "a\nb", "more": "a\nb\n\n\n"},
            }),
            "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: web
  namespace: shop
  labels:
    app.kubernetes.io/name: shop
data:
  kept: |-
    a
    b
  more: |+
    a
    b


  run.sh: |
    #!/bin/sh
    set -e

    exec shop
spec:
  a: {}
  b:
    - 1
    - two
    - name: x
      image: r.test/x:1
    - []
    - - - true
",
        );
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        for text in [
            "",
            "yes",
            "No",
            "ON",
            "y",
            "null",
            "~",
            "true",
            "False",
            "1",
            "-1",
            "1.5",
            "1e3",
            "0x1f",
            "0o17",
            "017",
            "1_000",
            "12:30:45",
            "2026-01-01",
            ".inf",
            ".NaN",
            "<<",
            "=",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "a:",
            " a",
            "a ",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "{a",
            "[a",
            "]",
            "'a",
            "\"a",
            "\\a",
            "?",
            "? a",
            "-",
            "a\tb",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "ä",
            "日本",
            "\u{1f980}",
            "a\r\nb",
            "\n",
            "\n\n",
            "a\n",
            " a\nb",
            "a \nb",
            "a\n\tb",
            "a\n b\n",
            "---",
            "...",
            "--- a\n--- b",
            "a\n---\nb",
        ] {
            for value in [
                json!(text),
                json!({"k": text}),
                json!({text: 1}),
                json!([text, [text]]),
                json!({"a": {"b": text}, "c": 1}),
            ] {
                assert_eq!(read(&document(&value)), value, "{text:?}");
            }
            let plain = document(&json!(text));
            assert!(plain.starts_with('"') || plain.starts_with('|'), "{text:?} is written {plain:?}");
        }
        for plain in ["a", "shop-1", "r.test/shop:1.2@sha256", "10.0.0.1/8x", "/bin/sh", "a b", "http://x.test:80/a"] {
            let written = document(&json!(plain));
            assert_eq!(read(&written), json!(plain));
            assert_eq!(written.starts_with('"'), plain.starts_with('1'), "{written}");
        }
    }

    #[test]
    fn numbers_long_keys_and_deep_values_survive() {
        for value in [
            json!([0, -1, 18_446_744_073_709_551_615_u64, -9_223_372_036_854_775_808_i64, 1.5, 1e300, 1e-7, 0.1]),
            json!({"k".repeat(5_000): {"x": [1]}, "a": 1}),
            (0..60)
                .fold(json!({"end": "a\nb"}), |inner, n| if n % 2 == 0 { json!([inner]) } else { json!({"d": inner}) }),
        ] {
            assert_eq!(read(&document(&value)), value);
        }
        assert!(document(&json!(1e300)).contains("1.0e+300"));
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z]{0,6}",
            "[ -~\n\t]{0,20}",
            "[a\n ]{0,12}",
            prop::collection::vec(any::<char>(), 0..8).prop_map(|chars| chars.into_iter().collect()),
            "[0-9eE.+:_-]{1,8}",
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any_text().prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any_text(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(value in any_value()) {
            let yaml = document(&value);
            prop_assert_eq!(read(&yaml), value.clone(), "{}", yaml);
            prop_assert_eq!(document(&value), yaml);
        }
    }
}
