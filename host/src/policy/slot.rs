//! Slots: the holes in a granted command line, and what may fill them.
//!
//! There is one pattern language: regular expressions, anchored at both ends. A glob is shorthand
//! for one. This module never quotes, trims or repairs a value: it admits it as it is or refuses it.

mod template;
#[cfg(test)]
mod tests;

pub(super) use template::is_slot_name;
pub use template::{Piece, Template};

use crate::error::{Error, Result};
use regex::RegexBuilder;

/// Longest value of a slot in bytes, unless its rule says otherwise.
pub const DEFAULT_MAX_BYTES: usize = 1024;
/// The most that `max_bytes` may say: half of what Linux takes as one argument (`MAX_ARG_STRLEN`, 128 KiB).
pub const MOST_BYTES: usize = 64 * 1024;
/// The most that `max_count` may say.
pub const MOST_VALUES: usize = 1024;
/// Longest text of a pattern or glob in bytes.
const PATTERN_BYTES: usize = 1024;
/// Memory of one compiled pattern in bytes; counted repetitions of large classes run into it.
const COMPILED_BYTES: usize = 1 << 20;
/// Deepest nesting of groups in a pattern.
const NESTING: u32 = 16;
/// What `*` stands for in a glob.
const GLOB_STAR: &str = "[A-Za-z0-9_.-]";

/// What a slot accepts.
///
/// Whatever the kind: no NUL and no other control character, ever, except a newline or a tab where
/// a pattern says `\n` or `\t`; no `-` at the start, unless a pattern itself begins with `-` or
/// `\-` (after an optional `^`); no more bytes than `max_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRule {
    /// Where its values come from.
    pub kind: SlotKind,
    /// Longest value in bytes.
    pub max_bytes: usize,
    /// How many values it takes; more than 1 only where the slot is an argument of its own.
    pub max_count: usize,
}

/// Where the values of a slot come from.
#[derive(Clone, Debug)]
pub enum SlotKind {
    /// An anchored regular expression over the whole value, and its text without the anchors.
    Pattern(regex::Regex, String),
    /// Exactly what the operator wrote in the job's setting of this name (a string, or a list of them).
    Setting(String),
    /// Filled by the host with the run's scratch directory.
    Scratch,
}

/// A slot as it is written in a grant or a manifest, one key each.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotText<'a> {
    /// An anchored regular expression.
    pub pattern: Option<&'a str>,
    /// `*` stands for letters, digits, `_`, `.` and `-`; everything else for itself.
    pub glob: Option<&'a str>,
    /// Name of a setting of the job.
    pub setting: Option<&'a str>,
    /// See [`SlotRule::max_bytes`]; [`DEFAULT_MAX_BYTES`] unless given.
    pub max_bytes: Option<usize>,
    /// See [`SlotRule::max_count`]; 1 unless given.
    pub max_count: Option<usize>,
}

impl SlotRule {
    /// A rule from its written form: exactly one of `pattern`, `glob` and `setting`.
    pub fn parse(text: SlotText<'_>) -> Result<Self> {
        let rule = match (text.pattern, text.glob, text.setting) {
            (Some(pattern), None, None) => Self::pattern(pattern)?,
            (None, Some(glob), None) => Self::glob(glob)?,
            (None, None, Some(setting)) => Self::setting(setting)?,
            _ => {
                return Err(Error::invalid("a slot does not say what it accepts")
                    .fact("expected", "exactly one of pattern, glob and setting")
                    .hint("write it as \"[0-9a-z_]+\", { glob = \"shop-*\" } or { setting = \"databases\" }"));
            }
        };
        let max_bytes = text.max_bytes.unwrap_or(DEFAULT_MAX_BYTES);
        let max_count = text.max_count.unwrap_or(1);
        for (key, got, most) in [("max_bytes", max_bytes, MOST_BYTES), ("max_count", max_count, MOST_VALUES)] {
            if !(1..=most).contains(&got) {
                return Err(
                    Error::invalid(format!("{key} = {got} is out of range")).fact("expected", format!("1 to {most}"))
                );
            }
        }
        Ok(Self { max_bytes, max_count, ..rule })
    }

    /// A rule of one value that the whole regular expression `text` must match.
    pub fn pattern(text: &str) -> Result<Self> {
        let refuse = |got: String| {
            Error::invalid(format!("{} is not a pattern for a slot", quoted(text)))
                .fact("expected", "a regular expression over the whole value, such as [0-9a-z_]+")
                .fact("got", got)
        };
        if text.len() > PATTERN_BYTES {
            return Err(refuse(format!("{} bytes of at most {PATTERN_BYTES}", text.len())));
        }
        let compile = |text: &str| RegexBuilder::new(text).size_limit(COMPILED_BYTES).nest_limit(NESTING).build();
        // Alone first: `a)|(?:b` is only valid inside the group that anchors it, where it would escape from it.
        compile(text).map_err(|error| refuse(why(&error)))?;
        let regex = compile(&format!(r"\A(?:{text})\z")).map_err(|error| refuse(why(&error)))?;
        Ok(Self::of(SlotKind::Pattern(regex, text.to_owned())))
    }

    /// A rule of one value from a glob: `*` stands for letters, digits, `_`, `.` and `-` only.
    /// A glob of nothing but `*` wants at least one of them.
    pub fn glob(text: &str) -> Result<Self> {
        if let Some(other) = text.chars().find(|c| matches!(c, '?' | '[' | ']' | '{' | '}' | '\\')) {
            return Err(Error::invalid(format!("{} is not a glob for a slot", quoted(text)))
                .fact("expected", "text in which only * is special")
                .fact("got", format!("\"{}\"", other.escape_debug()))
                .hint("write it as a pattern, such as \"shop-[0-9]+\""));
        }
        if !text.is_empty() && text.bytes().all(|b| b == b'*') {
            return Self::pattern(&format!("{GLOB_STAR}+"));
        }
        let star = format!("{GLOB_STAR}*");
        Self::pattern(&text.split('*').map(regex::escape).collect::<Vec<_>>().join(&star))
    }

    /// A rule that admits exactly what the operator wrote in the job's setting `name`.
    pub fn setting(name: &str) -> Result<Self> {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("{} is not the name of a setting", quoted(name)))
                .fact("expected", "1 to 128 bytes of text"));
        }
        Ok(Self::of(SlotKind::Setting(name.to_owned())))
    }

    /// A rule that the host fills with the run's scratch directory; a guest cannot.
    pub fn scratch() -> Self {
        Self { max_bytes: MOST_BYTES, ..Self::of(SlotKind::Scratch) }
    }

    fn of(kind: SlotKind) -> Self {
        Self { kind, max_bytes: DEFAULT_MAX_BYTES, max_count: 1 }
    }

    /// Whether `value` may fill the slot; the error says why not, for the operator.
    ///
    /// `settings` is the job's `settings` table. A setting that is missing or is neither a string
    /// nor a list of strings admits nothing.
    pub fn admits(&self, value: &str, settings: &serde_json::Value) -> Result<(), String> {
        if value.len() > self.max_bytes {
            return Err(format!("it is {} bytes long, of at most {}", value.len(), self.max_bytes));
        }
        let said = match &self.kind {
            SlotKind::Pattern(_, text) => Said::by(text),
            SlotKind::Setting(_) | SlotKind::Scratch => Said::default(),
        };
        if let Some(bad) = value.chars().find(|&c| c.is_control() && !said.allows_control(c)) {
            return Err(format!("it holds the control character {}", bad.escape_debug()));
        }
        if value.starts_with('-') && !said.dash {
            return Err("it begins with \"-\", which a program takes for an option".to_owned());
        }
        match &self.kind {
            SlotKind::Pattern(regex, _) if regex.is_match(value) => Ok(()),
            SlotKind::Pattern(_, text) => Err(format!("it does not match {}", quoted(text))),
            SlotKind::Setting(name) if written(settings, name).any(|text| text == value) => Ok(()),
            SlotKind::Setting(name) => Err(format!("the job's setting {} does not name it", quoted(name))),
            SlotKind::Scratch => Err("the host fills it with the run's scratch directory".to_owned()),
        }
    }

    /// The rule as a person reads it, such as `"shop-[0-9]+"` or `setting "databases"`.
    pub fn describe(&self) -> String {
        match &self.kind {
            SlotKind::Pattern(_, text) => quoted(text),
            SlotKind::Setting(name) => format!("setting {}", quoted(name)),
            SlotKind::Scratch => "the run's scratch directory".to_owned(),
        }
    }
}

/// What the text of a pattern asks for by itself.
#[derive(Default)]
struct Said {
    dash: bool,
    newline: bool,
    tab: bool,
}

impl Said {
    fn by(pattern: &str) -> Self {
        let start = pattern.strip_prefix('^').unwrap_or(pattern);
        let mut said = Self { dash: start.starts_with('-') || start.starts_with(r"\-"), ..Self::default() };
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            let escaped = if c == '\\' { chars.next() } else { None };
            said.newline |= c == '\n' || escaped == Some('n');
            said.tab |= c == '\t' || escaped == Some('t');
        }
        said
    }

    fn allows_control(&self, c: char) -> bool {
        (c == '\n' && self.newline) || (c == '\t' && self.tab)
    }
}

/// What the operator wrote in a setting: one string, or each string of a list.
fn written<'a>(settings: &'a serde_json::Value, name: &str) -> impl Iterator<Item = &'a str> {
    let value = settings.get(name);
    let one = value.and_then(serde_json::Value::as_str);
    let many = value.and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    one.into_iter().chain(many.iter().filter_map(serde_json::Value::as_str))
}

/// The last line of a regex error: its first lines draw the pattern once more.
fn why(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

/// Text that may come from a guest, quoted, escaped and cut for a message.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 120;
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

impl PartialEq for SlotKind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (SlotKind::Pattern(_, a), SlotKind::Pattern(_, b)) | (SlotKind::Setting(a), SlotKind::Setting(b)) => a == b,
            (SlotKind::Scratch, SlotKind::Scratch) => true,
            _ => false,
        }
    }
}

impl Eq for SlotKind {}
