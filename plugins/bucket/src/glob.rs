//! Globs over keys. `*` and `?` stay inside a name, `**` does not, `**/` is any number of directories,
//! also none. Every other character stands for itself. Time is linear in the key for usual patterns
//! and at worst key times pattern; there is no recursion.

use strongroom_plugin::{Error, Result};

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Star,
    Deep,
    DeepDirs,
}

impl Glob {
    /// Parses a pattern. Errors: `Invalid` for one that can match no key.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Err(Error::invalid(format!("glob {text:?} {why}")));
        if text.is_empty() {
            return bad("is empty");
        }
        if text.starts_with('/') {
            return bad("begins with a slash, but keys do not");
        }
        if text.ends_with('/') {
            return bad("ends with a slash; a directory is named without it, and means all beneath it");
        }
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let begins_name = tokens.last().is_none_or(|last| matches!(last, Token::Char('/') | Token::DeepDirs));
            let (token, len) = match c {
                '*' if begins_name && rest.starts_with("**/") => (Token::DeepDirs, 3),
                '*' if rest.starts_with("**") => (Token::Deep, 2),
                '*' => (Token::Star, 1),
                '?' => (Token::One, 1),
                c => (Token::Char(c), c.len_utf8()),
            };
            tokens.push(token);
            rest = &rest[len..];
        }
        Ok(Self { text: text.to_owned(), tokens })
    }

    /// The pattern as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole key.
    pub(crate) fn matches(&self, key: &str) -> bool {
        let mut at = 0;
        let mut token = 0;
        // The last star inside a name, and the last that crosses slashes: where to go on after a miss.
        let mut star: Option<(usize, usize)> = None;
        let mut deep: Option<(usize, usize, bool)> = None;
        loop {
            let next = key[at..].chars().next();
            match (self.tokens.get(token), next) {
                (Some(Token::Star), _) => {
                    star = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                (Some(Token::Deep | Token::DeepDirs), _) => {
                    deep = Some((token + 1, at, self.tokens[token] == Token::DeepDirs));
                    star = None;
                    token += 1;
                    continue;
                }
                (Some(Token::Char(wanted)), Some(c)) if *wanted == c => {
                    (token, at) = (token + 1, at + c.len_utf8());
                    continue;
                }
                (Some(Token::One), Some(c)) if c != '/' => {
                    (token, at) = (token + 1, at + c.len_utf8());
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            if let Some((back, from)) = star
                && let Some(c) = key[from..].chars().next().filter(|c| *c != '/')
            {
                star = Some((back, from + c.len_utf8()));
                (token, at) = (back, from + c.len_utf8());
            } else if let Some((back, from, dirs)) = deep {
                let skipped = if dirs {
                    key[from..].find('/').map(|slash| slash + 1)
                } else {
                    key[from..].chars().next().map(char::len_utf8)
                };
                let Some(skipped) = skipped else { return false };
                star = None;
                deep = Some((back, from + skipped, dirs));
                (token, at) = (back, from + skipped);
            } else {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_keys() {
        for (glob, yes, no) in [
            ("a", &["a"][..], &["b", "a/b", "ab", ""][..]),
            ("*", &["a", "abc", "ä"], &["a/b", "a/"]),
            ("*.tmp", &["x.tmp", ".tmp", "a.tmp.tmp"], &["x.tmp2", "d/x.tmp"]),
            ("**/*.tmp", &["x.tmp", "d/x.tmp", "d/e/x.tmp"], &["d/x.tmp/y"]),
            ("**", &["a", "a/b/c", ""], &[]),
            ("cache/**", &["cache/a", "cache/a/b", "cache/"], &["cache", "a/cache/b"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a/bz", "az", "a/z/y"]),
            ("a**z", &["az", "a/b/z", "abz"], &["a/b/zy"]),
            ("?a?", &["bab", "ä\u{61}ö"], &["ba", "/a/", "baab"]),
            ("*a*b", &["ab", "xaxb", "aaabb"], &["ba", "a/b", "xaxbx"]),
            ("**/a/*/b", &["a/x/b", "q/a/x/b", "a/y/a/x/b"], &["a/b", "a/x/y/b"]),
            ("[a].{b}", &["[a].{b}"], &["a.b"]),
        ] {
            let parsed = Glob::parse(glob).unwrap();
            yes.iter().for_each(|key| assert!(parsed.matches(key), "{glob} matches {key:?}"));
            no.iter().for_each(|key| assert!(!parsed.matches(key), "{glob} does not match {key:?}"));
        }
    }

    #[test]
    fn globs_that_can_match_no_key_are_refused() {
        for wrong in ["", "/a", "a/", "/"] {
            assert!(Glob::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let glob = Glob::parse(&"*a".repeat(100)).unwrap();
        assert!(!glob.matches(&("a".repeat(16_000) + "b")));
        let glob = Glob::parse(&"**a".repeat(100)).unwrap();
        assert!(!glob.matches(&("a".repeat(16_000) + "b")));
    }
}
