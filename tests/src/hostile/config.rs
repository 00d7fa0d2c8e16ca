//! The configuration: whatever a person writes is understood or refused at its place.

use super::{Input, check_error};
use std::path::Path;
use strongroom::config::Config;
use strongroom::config::mistake::{Drawing, Mistakes};
use strongroom::error::Kind;

/// Every key that there is.
const WHOLE: &str = include_str!("../../../host/src/config/tests/whole.toml");

const SMALL: &str = "[store.main]\ntype = \"local\"\npath = \"/backups\"\nencryption = \"off\"\n\n[plugin.files]\nsource = \"files.wasm\"\n\n[job.home]\nplugin = \"files\"\nstore = \"main\"\nsettings = { bucket = \"b\", 'ü' = [1, { x = 1979-05-27T07:32:00Z }] }\n";

/// An identity in the wrong place, whose letters are looked for in everything that is said.
const IDENTITY: &str = "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSQ6XVZ7";
/// As many letters in a row as may be seen of it: most of the key is then still unknown.
const SEEN_BYTES: usize = 31;

/// Whether a text shows more of the identity than that.
fn gives_away(text: &str) -> bool {
    let key = &IDENTITY.as_bytes()["AGE-SECRET-KEY-".len()..];
    text.as_bytes().windows(SEEN_BYTES + 1).any(|seen| key.windows(SEEN_BYTES + 1).any(|part| part == seen))
}

const WORDS: &[&str] = &[
    "\"",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{ env = \"X\" }",
    "{ file = \"x\" }",
    " = ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "ü",
    "\u{202e}",
    "\u{1b}[2J",
    "#",
    ".",
    "[store.main]\n",
    "[job.home]\n",
    "[target.x]\n",
    "[plugin.postgres.grant.exec.x]\n",
    "true",
    "inf",
    "nan",
    "-0",
    "0x7fffffffffffffff",
    "1979-05-27",
    "\"99999999999999999999TiB\"",
    "\"18446744073709551615d\"",
    "\"{\"",
    "\"{{}\"",
    "\"(\"",
    "secret_key = \"hunter2hunter2\"\n",
    IDENTITY,
];

/// `strongroom.toml`.
pub(super) fn config(input: &mut Input<'_>) {
    let text = input.edited_text(&[WHOLE, SMALL], WORDS);
    check(&text);
}

fn parse(text: &str) -> strongroom::error::Result<Config> {
    Config::parse(text, Path::new("strongroom.toml"), Path::new("/etc/strongroom"))
}

fn check(text: &str) {
    let first = parse(text);
    match (&first, parse(&format!("{text}\n# the end\n"))) {
        (Ok(config), Ok(again)) => {
            let shown = |config: &Config| {
                let parts = (&config.trusted_hosts, &config.stores, &config.buckets, &config.plugins);
                format!("{parts:?} {:?} {:?}", config.targets, config.jobs)
            };
            assert_eq!(shown(config), shown(&again), "a comment changed what it means");
            assert!(config.path == Path::new("strongroom.toml"));
            check_placed(&config.warnings, text);
        }
        (Ok(_), Err(error)) => panic!("a comment made it wrong: {error:?}"),
        (Err(error), _) => {
            check_error(error, &[Kind::Invalid]);
            let source = std::error::Error::source(error).expect("mistakes");
            let mistakes = source.downcast_ref::<Mistakes>().expect("mistakes");
            assert!(!mistakes.is_empty(), "refused without a mistake");
            check_placed(mistakes, text);
        }
    }
}

/// Each has file, line and column, a message and no secret; drawing them shows the place.
fn check_placed(mistakes: &Mistakes, text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    for placed in mistakes.placed() {
        assert_eq!(placed.file, "strongroom.toml");
        let line = placed.line.checked_sub(1).and_then(|i| lines.get(i));
        let line = line.unwrap_or_else(|| panic!("line {} of {}: {}", placed.line, lines.len(), placed.message));
        assert!((1..=line.chars().count() + 1).contains(&placed.column), "{}:{}", placed.line, placed.column);
        for said in [Some(&placed.message), Some(&placed.found), placed.hint.as_ref()].into_iter().flatten() {
            assert!(!said.is_empty() && !gives_away(said), "{said:?}");
            let control = said.chars().find(|c| c.is_control() && *c != '\n');
            assert!(control.is_none(), "{control:?} in {said:?}");
        }
    }
    // Drawing repeats the file for every mistake; a few hundred are enough to see how it is done.
    if mistakes.len() > 200 {
        return;
    }
    let drawn = mistakes.draw(Drawing::Plain, 100);
    assert!(!gives_away(&drawn), "{drawn}");
    let control = drawn.chars().find(|c| c.is_control() && *c != '\n');
    assert!(control.is_none(), "{control:?} in {drawn:?}");
    for placed in mistakes.placed() {
        let place = format!("strongroom.toml:{}:", placed.line);
        assert!(drawn.contains(&place), "no {place} in\n{drawn}");
    }
}
