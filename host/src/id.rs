//! Names and identifiers, parsed once: below the configuration nothing checks them again.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text as it was written.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> { $check(text)?; Ok(Self(text.to_owned())) }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> { $check(&text)?; Ok(Self(text)) }
        }
        impl From<$name> for String { fn from(name: $name) -> String { name.0 } }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

text_type! {
    /// What an operator calls a job, store, bucket, target or plugin: `[a-z0-9][a-z0-9_-]{0,62}`.
    Label, check_label
}
text_type! {
    /// An artifact of a backup: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    ArtifactName, check_artifact_name
}
text_type! {
    /// A backup: its time of start in UTC and 8 random characters, `20261120T020000Z-x7k2m9qd`.
    /// Sorting ids as text sorts backups by time, to the second.
    BackupId, check_backup_id
}

fn check_label(text: &str) -> Result<()> {
    let ok = (1..=63).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        && !text.starts_with(['-', '_']);
    if ok { Ok(()) } else { Err(bad("name", text, "1 to 63 of a-z 0-9 _ -, beginning with a letter or digit")) }
}

fn check_artifact_name(text: &str) -> Result<()> {
    let ok = (1..=128).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric();
    if ok { Ok(()) } else { Err(bad("artifact name", text, "[A-Za-z0-9][A-Za-z0-9._-]{0,127}")) }
}

fn check_backup_id(text: &str) -> Result<()> {
    let b = text.as_bytes();
    let ok = b.len() == 25
        && b[..8].iter().all(u8::is_ascii_digit)
        && b[8] == b'T'
        && b[9..15].iter().all(u8::is_ascii_digit)
        && b[15] == b'Z'
        && b[16] == b'-'
        && b[17..].iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if ok { Ok(()) } else { Err(bad("backup id", text, "an id such as 20261120T020000Z-x7k2m9qd")) }
}

fn bad(what: &str, got: &str, expected: &str) -> Error {
    let shown: String = got.chars().take(140).flat_map(char::escape_debug).collect();
    Error::invalid(format!("\"{shown}\" is not a valid {what}")).fact("expected", expected)
}

impl BackupId {
    /// A new id for a backup that starts at `now`.
    pub fn generate(now: jiff::Timestamp) -> Result<Self> {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::failed("could not get random bytes for a backup id").because(e.to_string()))?;
        let suffix: String = random.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect();
        format!("{}-{suffix}", now.strftime("%Y%m%dT%H%M%SZ")).parse()
    }

    /// The second in which it started, such as `20261120T020000Z`; sorts by time.
    pub fn second(&self) -> &str {
        self.0.split_once('-').map_or(self.as_str(), |(second, _)| second)
    }
}

/// A key in a store: relative, `/`-separated, without empty, `.` or `..` parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Parses a key that came from outside.
    pub fn parse(text: &str) -> Result<Self> {
        let ok = !text.is_empty()
            && text.len() <= 1024
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !text.bytes().any(|b| b < 0x20 || b == 0x7f || b == b'\\');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(bad("object key", text, "relative parts separated by single slashes"))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
