//! Short texts that decide something: names, keys, numbers with units, patterns of slots.

use super::{Input, check_error};
use serde_json::json;
use std::fmt::Display;
use std::str::FromStr;
use strongroom::catalog::PublicKey;
use strongroom::error::{Error, Kind};
use strongroom::id::{ArtifactName, BackupId, Label, ObjectKey};
use strongroom::policy::slot::{SlotRule, SlotText, Template};
use strongroom::stream::{Identity, Recipients};
use strongroom::{keytext, plugin, unit};

const NAMES: &[&str] = &[
    "orders",
    "shop-orders.dump",
    "20261120T020000Z-x7k2m9qd",
    "orders/20261120T020000Z-x7k2m9qd/data/shop.dump.0001.zst.age",
    "srhost1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "age13cgr9jv94r4840qycftjuqremdefuhqeasgkr5jc53xe0svwmyss2ny0pk",
    "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSQ6XVZ7",
    "250ms",
    "18446744073709551615d",
    "64KiB",
    "16777216 TiB",
    "--db={database}",
    "{{}}{scratch}",
    "a\u{10ffff}\u{10ff80}b",
    "base64:/w==",
];

const WORDS: &[&str] = &[
    "/",
    "..",
    ".",
    "//",
    "\\",
    "\u{0}",
    "\u{7f}",
    "\u{1b}",
    "\u{202e}",
    "{",
    "}",
    "{{",
    "}}",
    "=",
    "-",
    "_",
    "\u{10ff00}",
    "\u{10ff2f}",
    "\u{10fff4}\u{10ff8f}\u{10ffbe}\u{10ff80}",
    "\n",
    "\r\n",
    " ",
    "#",
    "ü",
    "base64:",
    "AGE-SECRET-KEY-1",
];

/// Text that is accepted is the only way to write what it means.
fn one_way<T: FromStr<Err = Error> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(parsed) => assert_eq!(parsed.to_string(), text, "two ways to write it"),
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }
}

/// Everything that has a textual form of its own.
pub(super) fn name(input: &mut Input<'_>) {
    let bytes = {
        let bases: Vec<&[u8]> = NAMES.iter().map(|name| name.as_bytes()).collect();
        input.edited(&bases, WORDS)
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    one_way::<Label>(&text);
    one_way::<ArtifactName>(&text);
    one_way::<BackupId>(&text);
    one_way::<PublicKey>(&text);
    match ObjectKey::parse(&text) {
        Ok(key) => {
            assert_eq!(key.as_str(), text);
            // Whatever is accepted stays beneath the store's root on any file system.
            assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")) && !text.contains(['\\', '\0']));
        }
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }

    assert_eq!(keytext::decode(&keytext::encode(&bytes)).expect("what was encoded"), bytes);
    match keytext::decode(&text) {
        Ok(decoded) => assert_eq!(keytext::encode(&decoded), text, "two ways to write a key"),
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }
    assert_eq!(keytext::value_bytes(&keytext::value_text(bytes.clone())), Some(bytes.clone()));

    match Template::parse(&text) {
        Ok(template) => {
            let again = Template::parse(&template.to_string()).expect("what was written");
            assert_eq!(again, template);
            let filled = template.fill(|_| Some("")).expect("every slot has a value");
            assert!(
                filled.len() <= text.len() && template.fill(|_| None).is_none() == template.slots().next().is_some()
            );
        }
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }

    match Recipients::parse(&[&text]) {
        Ok(recipients) => {
            let again = recipients.to_strings();
            assert_eq!(Recipients::parse(&again).expect("what was written").to_strings(), again);
        }
        Err(error) => check_error(&error, &[Kind::Invalid]),
    }
    match Identity::parse(&text) {
        Ok(identity) => {
            let again = Identity::parse(identity.to_secret().expose()).expect("what was written");
            assert_eq!(again.to_recipients().to_strings(), identity.to_recipients().to_strings());
        }
        Err(error) => {
            check_error(&error, &[Kind::Invalid]);
            // Long enough to be no word of the message.
            let said = format!("{error:?}");
            let shown = text.lines().map(str::trim).find(|line| line.len() > 24 && said.contains(line));
            assert!(shown.is_none(), "a line of an identity is shown: {said}");
        }
    }
    for parsed in [unit::parse_bytes(&text), unit::parse_duration(&text).map(|d| d.as_secs())] {
        if let Err(error) = parsed {
            check_error(&error, &[Kind::Invalid]);
        }
    }
    let line = plugin::speech::line(&text);
    assert!(line.len() <= plugin::speech::MAX_TEXT_BYTES + '…'.len_utf8() && !line.chars().any(char::is_control));
    assert_eq!(plugin::speech::line(&line), line, "escaped twice");
}

const PATTERNS: &[&str] = &[
    "[0-9a-z_]+",
    "shop-[0-9]{1,4}",
    "^(?:a|b)$",
    "-[a-z]",
    r"\-\-x\n\t",
    "(?i)(?s).*",
    r"\p{L}+[^\x00]?",
    "((((a{9}){9}){9}){9})",
    "a)|(?:b",
    "",
];
const GLOBS: &[&str] = &["shop-*", "*", "**", "*.dump", "a*b*c", "", "-*", "plain"];
const VALUES: &[&str] = &["shop-1", "a", "-x", "--x\n\t", "aXbYc", "x.dump", "", "ü", "a/b", "1979"];

/// The pattern or glob of a slot, with values that want to fill it.
pub(super) fn slot(input: &mut Input<'_>) {
    let is_glob = input.byte().is_multiple_of(3);
    let text = if is_glob { input.edited_text(GLOBS, WORDS) } else { input.edited_text(PATTERNS, WORDS) };
    let max_bytes = (input.byte().is_multiple_of(4)).then(|| input.below(70_000));
    let max_count = (input.byte().is_multiple_of(8)).then(|| input.below(2_000));
    let written = match is_glob {
        true => SlotText { glob: Some(&text), max_bytes, max_count, ..SlotText::default() },
        false => SlotText { pattern: Some(&text), max_bytes, max_count, ..SlotText::default() },
    };
    let rule = match SlotRule::parse(written) {
        Ok(rule) => rule,
        Err(error) => return check_error(&error, &[Kind::Invalid]),
    };
    assert_eq!(SlotRule::parse(written).expect("parsed once"), rule);
    assert!(!rule.describe().chars().any(char::is_control));
    for _ in 0..4 {
        let value = input.edited_text(VALUES, WORDS);
        let settings = json!({ "x": value });
        match rule.admits(&value, &settings) {
            Ok(()) => {
                assert!(value.len() <= rule.max_bytes);
                let names_a_dash = text.trim_start_matches('^').trim_start_matches('\\').starts_with('-');
                assert!(!value.starts_with('-') || names_a_dash, "{text:?} admits the option {value:?}");
                let controls = value.chars().filter(|c| c.is_control());
                assert!(controls.clone().all(|c| matches!(c, '\n' | '\t')), "{text:?} admits {value:?}");
                let names_one = |c: char, escape: &str| text.contains(c) || text.contains(escape);
                assert!(controls.clone().all(|c| names_one(c, if c == '\n' { "\\n" } else { "\\t" })), "{value:?}");
                assert!(!is_glob || is_match(&text, &value), "{text:?} admits {value:?}");
                // Anchored at both ends: a NUL around it is never swallowed.
                for around in [format!("{value}\0"), format!("\0{value}")] {
                    assert!(rule.admits(&around, &settings).is_err(), "{text:?} admits {around:?}");
                }
            }
            Err(why) => {
                assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}");
                let is_plain =
                    value.len() <= rule.max_bytes && !value.starts_with('-') && !value.contains(char::is_control);
                assert!(!is_glob || !is_plain || !is_match(&text, &value), "{text:?} refuses {value:?}: {why}");
            }
        }
    }
}

/// What a glob means, by its own words: `*` stands for letters, digits, `_`, `.` and `-`, and a glob of
/// nothing but stars wants at least one of them.
fn is_match(glob: &str, value: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let value: Vec<char> = value.chars().collect();
    let only_stars = !glob.is_empty() && glob.iter().all(|c| *c == '*');
    let is_starred = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // Row by row: which beginnings of the value the glob so far can be.
    let mut row = vec![false; value.len() + 1];
    row[0] = true;
    for c in glob {
        let mut next = vec![false; value.len() + 1];
        for i in 0..=value.len() {
            next[i] = match c {
                '*' => row[i] || (i > 0 && next[i - 1] && is_starred(value[i - 1])),
                c => i > 0 && row[i - 1] && value[i - 1] == c,
            };
        }
        row = next;
    }
    row[value.len()] && !(only_stars && value.is_empty())
}
