//! One line of a chain: what it says, how it is sealed, how it is checked.
//!
//! A line is a JSON object whose last member is `mac`: the keyed BLAKE3 of every byte of the line before
//! the comma that precedes it, 16 bytes in hex. So checking needs no canonical form of JSON.

use super::Keys;
use crate::error::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest line that is read, in bytes. The longest that is written has the names of a batch ([`super::batch`]),
/// each letter of which JSON may write as six: some 220 KiB.
pub(super) const MAX_LINE_BYTES: usize = 256 << 10;
/// Longest text of a member, in bytes; what is cut says so.
pub(super) const MAX_TEXT_BYTES: usize = 512;

const MAC: &[u8] = b",\"mac\":\"";
const END: &[u8] = b"\"}";
/// Hex digits of a code: 128 bits, which nobody guesses.
const MAC_DIGITS: usize = 32;

/// One line of the audit log, as it lies in a chain's file. Keys are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Number in its chain, from 1.
    pub seq: u64,
    /// BLAKE3 of the line before, without its newline; of the first line: of the index's last line then.
    pub prev: String,
    /// When it was written.
    pub at: Timestamp,
    /// The run whose chain it is in.
    pub run: String,
    /// What it tells.
    pub event: Event,
    /// `begin`: the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// `begin`: the verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// Name and version of the plugin, from its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// SHA-256 of the plugin's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The function that was called, such as `exec.spawn`; of `closed`: the kind of handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The rule that decided, such as `plugin.postgres.grant.exec.pg_dump`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What it decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// What the call was given, in short. Of calls that share lines: where they were made, in the first `before` and
    /// in `after`; the name that each was given, in further lines `before`; and the names of those that failed, as
    /// `failed key`, in `after`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Argument>,
    /// `after`: number of the line that was written before the call. Of a `before` that names calls which share lines:
    /// number of the first of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// `closed`, `counted`, and `after` of calls that share a line: how often each function was called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Counted>,
    /// How many of these calls failed; of `after`: how many of the objects of the call were not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Bytes that were moved, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long it took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// What came of it: `ok`, `incomplete` where a part of it failed, or the kind of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The code that only this host's key makes: keyed BLAKE3, 128 bits in hex. Always the last member.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
}

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A chain begins.
    Begin,
    /// The configuration is not that of the last run.
    Configuration,
    /// A plugin was loaded, or refused.
    Load,
    /// A plugin was approved.
    Approve,
    /// A call that changes something is about to be made, or the first of several that share the line; the
    /// line is on the disk before it is.
    Before,
    /// Such a call has ended, or all that shared the line.
    After,
    /// A call that changes nothing, when it has ended.
    Call,
    /// A call was denied.
    Deny,
    /// A handle is gone: the calls on it, counted.
    Closed,
    /// Calls of one function beyond those that have lines of their own, counted at the end.
    Counted,
    /// The plugin trapped, panicked or exited.
    Trap,
    /// A limit was spent.
    Limit,
    /// The chain so far goes into the record of the backup.
    Anchor,
    /// The chain ends as it should.
    End,
    /// The run was killed; a later one wrote this last line.
    Crash,
}

impl Event {
    /// The word as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Event::Begin => "begin",
            Event::Configuration => "configuration",
            Event::Load => "load",
            Event::Approve => "approve",
            Event::Before => "before",
            Event::After => "after",
            Event::Call => "call",
            Event::Deny => "deny",
            Event::Closed => "closed",
            Event::Counted => "counted",
            Event::Trap => "trap",
            Event::Limit => "limit",
            Event::Anchor => "anchor",
            Event::End => "end",
            Event::Crash => "crash",
        }
    }
}

/// What a policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The call was allowed.
    Allowed,
    /// It was denied.
    Denied,
}

/// An argument of a call, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// What it is, such as `program` or `slot.database`.
    pub name: String,
    /// Its text, cut where it is long; absent where it holds a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its keyed hash where the text is absent or cut: equal values have equal hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// Calls of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// The function.
    pub function: String,
    /// How many calls.
    pub calls: u64,
}

impl Line {
    /// A line that tells this, with nothing else in it; the chain fills in its place.
    pub fn of(event: Event) -> Self {
        Self {
            seq: 0,
            prev: String::new(),
            at: Timestamp::UNIX_EPOCH,
            run: String::new(),
            event,
            job: None,
            verb: None,
            plugin: None,
            sha256: None,
            function: None,
            rule: None,
            decision: None,
            arguments: Vec::new(),
            before: None,
            calls: Vec::new(),
            failed: None,
            bytes: None,
            duration_us: None,
            outcome: None,
            detail: None,
            mac: String::new(),
        }
    }

    /// The line as it is stored, with its newline, and its hash.
    pub(super) fn seal(&self, keys: &Keys) -> Result<(Vec<u8>, String)> {
        let mut text = Vec::new();
        let hash = self.seal_into(keys, &mut text)?;
        Ok((text, hash.to_hex().to_string()))
    }

    /// The same in a place that is used again and again: what was there is written over.
    pub(super) fn seal_into(&self, keys: &Keys, text: &mut Vec<u8>) -> Result<blake3::Hash> {
        let key = keys.lines.as_ref().ok_or_else(|| Error::failed("a line is sealed by its host only"))?;
        text.clear();
        unsealed_into(self, text)?;
        let code = blake3::keyed_hash(key, text).to_hex();
        text.extend_from_slice(MAC);
        text.extend_from_slice(&code.as_bytes()[..MAC_DIGITS]);
        text.extend_from_slice(END);
        let hash = blake3::hash(text);
        text.push(b'\n');
        Ok(hash)
    }

    /// Checks a line (without its newline) by itself and reads it. The error says what is wrong.
    pub(super) fn open(text: &[u8], keys: &Keys) -> Result<Self, String> {
        let ending = MAC.len() + MAC_DIGITS + END.len();
        let at = text.len().checked_sub(ending).ok_or("it is too short to be a line")?;
        let (unsealed, ending) = text.split_at(at);
        let digits = ending.strip_prefix(MAC).and_then(|rest| rest.strip_suffix(END));
        let digits = digits.ok_or("it does not end in a code")?;
        if let Some(key) = &keys.lines
            && blake3::keyed_hash(key, unsealed).to_hex().as_bytes()[..MAC_DIGITS] != *digits
        {
            return Err("its code is not of these bytes: the line was changed, or not written by this host".to_owned());
        }
        serde_json::from_slice(text).map_err(|error| format!("it is not a line that this version reads: {error}"))
    }
}

/// JSON without its closing brace, to which the seal is appended.
pub(super) fn unsealed(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    unsealed_into(value, &mut text)?;
    Ok(text)
}

/// The same, added to what is there.
fn unsealed_into(value: &impl Serialize, text: &mut Vec<u8>) -> Result<()> {
    let begin = text.len();
    serde_json::to_writer(&mut *text, value)
        .map_err(|e| Error::failed("could not write a line of the audit log as JSON").because(e))?;
    match text.pop() {
        Some(b'}') if text.len() > begin + 1 => Ok(()),
        _ => Err(Error::failed("a line of the audit log must be a JSON object with members")),
    }
}

/// BLAKE3 of a line without its newline, in hex.
pub(super) fn hash(line: &[u8]) -> String {
    blake3::hash(line).to_hex().to_string()
}

/// Text of at most [`MAX_TEXT_BYTES`], cut at a character.
pub(super) fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}
