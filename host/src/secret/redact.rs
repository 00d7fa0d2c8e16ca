//! Blots secrets out of text, also where they were encoded or cut into chunks.
//!
//! For text only: bytes on their way into an artifact are never touched.

use super::{MIN_SECRET_BYTES, Secret, held};
use base64::Engine as _;
use std::sync::{Arc, PoisonError, RwLock, TryLockError};
use zeroize::Zeroizing;

/// Finds secrets in text and replaces them.
///
/// A secret is found as it is, percent-encoded (wholly or in part, `+` for a space), with
/// backslashes before its special characters, in hex, and in base64 of both alphabets at any of the
/// three alignments, that is also inside the base64 of a longer text. Of a secret that holds others
/// (lines, a URL with a password, fields with colons) the parts of at least [`MIN_SECRET_BYTES`] are
/// found alone as well. Matches that overlap are blotted out together. The mask is a character that
/// occurs in no secret, so that what is left and the masks cannot form one either.
///
/// Copies share what they know: a secret that one has learned is found by all of them from then on,
/// also by streams that are under way.
#[derive(Clone)]
pub struct Redactor(Arc<Shared>);

/// What copies share.
pub(super) type Shared = RwLock<Arc<Known>>;

/// The secrets at one time; replaced as a whole.
pub(super) struct Known {
    needles: Vec<Arc<Needle>>,
    mask: String,
    /// Longest text that one needle can match, in bytes.
    longest: usize,
    /// Shortest, in bytes.
    shortest: usize,
    /// Bytes that a match can begin with: most places of a text need no second look.
    begins: Box<[bool; 256]>,
}

struct Needle {
    text: Zeroizing<Vec<u8>>,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is, each byte perhaps `%XX` or behind a backslash.
    Text,
    /// Two digits for each byte, of either case.
    Hex,
    /// Base64 of either alphabet.
    Base64,
}

impl Redactor {
    /// A redactor for these secrets; empty ones are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let redactor = Self(Arc::new(RwLock::new(Arc::new(Known::of(Vec::new())))));
        held::add(Arc::downgrade(&redactor.0));
        secrets.into_iter().for_each(|secret| redactor.learn(secret));
        redactor
    }

    /// From now on finds this one too. One that is known already costs a look.
    pub fn learn(&self, secret: &Secret) {
        let bytes = secret.expose().as_bytes();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_text = |needle: &Arc<Needle>| needle.form == Form::Text && *needle.text == *bytes;
        if bytes.is_empty() || known.needles.iter().any(is_text) {
            return;
        }
        let mut needles = known.needles.clone();
        for text in std::iter::once(bytes).chain(parts(secret.expose())) {
            needles.push(Arc::new(Needle { text: Zeroizing::new(text.to_vec()), form: Form::Text }));
            needles.push(Arc::new(Needle { text: in_hex(text), form: Form::Hex }));
            needles.extend((0..3).filter_map(|shift| in_base64(text, shift)).map(Arc::new));
        }
        *known = Arc::new(Known::of(needles));
    }

    /// A copy of those that share this.
    pub(super) fn sharing(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        self.known().blotted(text)
    }

    /// The same without waiting; `None` while it learns.
    pub(super) fn text_at_once(&self, text: &str) -> Option<String> {
        let known = match self.0.try_read() {
            Ok(known) => known.clone(),
            Err(TryLockError::Poisoned(known)) => known.into_inner().clone(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(known.blotted(text))
    }

    /// Whether a secret is in the text, in any form.
    pub fn finds(&self, text: &str) -> bool {
        self.known().finds(text)
    }

    /// The longest text that a secret can be found in, in bytes: what a cut may leave of one.
    pub fn longest_match(&self) -> usize {
        self.known().longest
    }

    /// For text that comes in chunks. Holds back at most three times the longest secret.
    pub fn stream(&self) -> RedactStream {
        let (redactor, known) = (self.clone(), self.known());
        RedactStream { redactor, known, held: Zeroizing::new(Vec::new()), marks: Vec::new(), in_mask: false }
    }

    /// What happens while somebody teaches it.
    #[cfg(test)]
    pub(super) fn while_it_learns<T>(&self, happens: impl FnOnce() -> T) -> T {
        let _learning = self.0.write().unwrap_or_else(PoisonError::into_inner);
        happens()
    }

    fn known(&self) -> Arc<Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Known {
    fn of(needles: Vec<Arc<Needle>>) -> Self {
        let longest = needles.iter().map(|needle| needle.longest_match()).max().unwrap_or(0);
        let shortest = needles.iter().map(|needle| needle.text.len()).min().unwrap_or(0);
        let mut begins = Box::new([false; 256]);
        for byte in needles.iter().flat_map(|needle| needle.begins()) {
            begins[usize::from(byte)] = true;
        }
        Self { mask: mask(&needles), longest, shortest, begins, needles }
    }

    /// Most texts are short and hold none, and every value of the audit log is looked at.
    fn finds(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        let last = bytes.len().saturating_sub(self.shortest);
        bytes.len() >= self.shortest
            && (0..=last)
                .filter(|start| bytes.get(*start).is_some_and(|byte| self.begins[usize::from(*byte)]))
                .any(|start| self.needles.iter().any(|needle| needle.matches_at(bytes, start).is_some()))
    }

    /// Marks the bytes of every match that ends beyond `fresh`.
    fn mark(&self, bytes: &[u8], fresh: usize, marks: &mut [bool]) {
        for (start, byte) in bytes.iter().enumerate() {
            if !self.begins[usize::from(*byte)] {
                continue;
            }
            for needle in &self.needles {
                if let Some(end) = needle.matches_at(bytes, start).filter(|end| *end > fresh) {
                    marks[start..end].fill(true);
                }
            }
        }
    }

    /// Appends what is not marked, and one mask for each run of bytes that is. Whether the last byte was
    /// marked, as the one before the first was (`in_mask`).
    fn masked(&self, bytes: impl Iterator<Item = (u8, bool)>, mut in_mask: bool, out: &mut Vec<u8>) -> bool {
        for (byte, marked) in bytes {
            match (marked, in_mask) {
                (false, _) => out.push(byte),
                (true, false) => out.extend_from_slice(self.mask.as_bytes()),
                (true, true) => {}
            }
            in_mask = marked;
        }
        in_mask
    }

    /// The whole text without what is known.
    fn blotted(&self, text: &str) -> String {
        if !self.finds(text) {
            return text.to_owned();
        }
        let mut marks = vec![false; text.len()];
        self.mark(text.as_bytes(), 0, &mut marks);
        let mut out = Vec::with_capacity(text.len());
        self.masked(text.bytes().zip(marks), false, &mut out);
        // A match begins and ends at characters, since a secret is whole characters: nothing is lost here.
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new([])
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor(…)")
    }
}

/// Text on its way through a [`Redactor`].
pub struct RedactStream {
    redactor: Redactor,
    /// What was known when the bytes that are held were last looked at.
    known: Arc<Known>,
    /// The end of what was pushed: bytes that a secret which is not whole yet may begin in.
    held: Zeroizing<Vec<u8>>,
    /// Whether each byte of `held` belongs to a secret.
    marks: Vec<bool>,
    in_mask: bool,
}

impl RedactStream {
    /// Takes the next chunk and appends to `out` what is known to be harmless.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let known = self.redactor.known();
        // What was learned meanwhile may lie whole in the bytes that were held back.
        let fresh = if Arc::ptr_eq(&known, &self.known) { self.held.len() } else { 0 };
        self.known = known;
        self.held.extend_from_slice(chunk);
        self.marks.resize(self.held.len(), false);
        // Matches that ended within the older bytes are marked already; newer ones begin at most
        // `longest - 1` bytes before the chunk, which is all that is held.
        self.known.mark(&self.held, fresh, &mut self.marks);
        self.emit(self.held.len().saturating_sub(self.known.longest.saturating_sub(1)), out);
    }

    /// Appends the rest to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.push(&[], out);
        self.emit(self.held.len(), out);
    }

    fn emit(&mut self, n: usize, out: &mut Vec<u8>) {
        let marked = self.held.drain(..n).zip(self.marks.drain(..n));
        self.in_mask = self.known.masked(marked, self.in_mask, out);
    }
}

impl Needle {
    fn longest_match(&self) -> usize {
        match self.form {
            Form::Text => self.text.len() * 3,
            Form::Base64 | Form::Hex => self.text.len(),
        }
    }

    /// Bytes that a match can begin with.
    fn begins(&self) -> Vec<u8> {
        let Some(&first) = self.text.first() else { return Vec::new() };
        match self.form {
            Form::Text => vec![first, b'%', b'\\', if first == b' ' { b'+' } else { first }],
            Form::Hex => vec![first, first.to_ascii_uppercase()],
            Form::Base64 => (0..=u8::MAX).filter(|byte| standard(*byte) == first).collect(),
        }
    }

    /// The furthest end of a match that begins at `start`.
    fn matches_at(&self, text: &[u8], start: usize) -> Option<usize> {
        match self.form {
            Form::Base64 => {
                let end = start.checked_add(self.text.len()).filter(|end| *end <= text.len())?;
                let same = |(a, b): (&u8, &u8)| standard(*a) == *b;
                text[start..end].iter().zip(self.text.iter()).all(same).then_some(end)
            }
            Form::Hex => {
                let end = start.checked_add(self.text.len()).filter(|end| *end <= text.len())?;
                text[start..end].eq_ignore_ascii_case(&self.text).then_some(end)
            }
            Form::Text => {
                if text.len() - start < self.text.len() {
                    return None;
                }
                // All places where the rest of the secret may go on: more than one only where the
                // secret itself holds what looks encoded, such as `%25`.
                let (&first, rest) = self.text.split_first()?;
                let mut places: Vec<usize> = after(text, start, first).collect();
                for &byte in rest {
                    let mut next: Vec<usize> = places.iter().flat_map(|&at| after(text, at, byte)).collect();
                    next.sort_unstable();
                    next.dedup();
                    if next.is_empty() {
                        return None;
                    }
                    places = next;
                }
                places.last().copied()
            }
        }
    }
}

/// Where `byte` ends in `text` if it stands at `at` in any of its forms.
fn after(text: &[u8], at: usize, byte: u8) -> impl Iterator<Item = usize> {
    let rest = text.get(at..).unwrap_or_default();
    let plain = rest.first() == Some(&byte) || (byte == b' ' && rest.first() == Some(&b'+'));
    let escaped = !byte.is_ascii_alphanumeric() && rest.first() == Some(&b'\\') && rest.get(1) == Some(&byte);
    let hex = |i: usize| rest.get(i).and_then(|b| char::from(*b).to_digit(16));
    let encoded =
        rest.first() == Some(&b'%') && hex(1).zip(hex(2)).is_some_and(|(high, low)| high * 16 + low == u32::from(byte));
    [(plain, 1), (escaped, 2), (encoded, 3)].into_iter().filter(|(is, _)| *is).map(move |(_, n)| at + n)
}

/// What a secret holds that is one by itself: each of several lines, the password of a URL as it is
/// written there, the last of several fields (`host:port:database:user:password`).
fn parts(secret: &str) -> impl Iterator<Item = &[u8]> {
    let lines = secret.lines().filter(move |line| line.len() < secret.trim_end().len());
    let inner = secret.lines().filter_map(|line| match line.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split(['/', '?', '#']).next()?;
            Some(authority.rsplit_once('@')?.0.split_once(':')?.1)
        }
        None => Some(line.rsplit_once(':')?.1),
    });
    lines.chain(inner).map(str::trim).filter(|part| part.len() >= MIN_SECRET_BYTES).map(str::as_bytes)
}

/// Two digits for each byte.
fn in_hex(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(Vec::with_capacity(secret.len() * 2));
    text.extend(secret.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
    text
}

/// The characters of base64 that depend on the secret alone when `shift` bytes stand before it.
fn in_base64(secret: &[u8], shift: usize) -> Option<Needle> {
    let mut bytes = Zeroizing::new(vec![0; shift]);
    bytes.extend_from_slice(secret);
    let encoded = Zeroizing::new(base64::engine::general_purpose::STANDARD_NO_PAD.encode(&*bytes));
    let first = (shift * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    // Shorter than 4 characters (a secret of 3 bytes) says too little to be told from words.
    (end >= first + 4)
        .then(|| Needle { text: Zeroizing::new(encoded.as_bytes()[first..end].to_vec()), form: Form::Base64 })
}

/// The URL-safe alphabet as the standard one.
fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// A run of the first character that no needle holds.
fn mask(needles: &[Arc<Needle>]) -> String {
    let free = |c: &char| {
        let mut bytes = [0; 4];
        let bytes = c.encode_utf8(&mut bytes).as_bytes();
        !needles.iter().any(|needle| needle.text.windows(bytes.len()).any(|window| window == bytes))
    };
    let candidates = ['*', '#', '█'].into_iter().chain('\u{e000}'..='\u{f8ff}');
    candidates.into_iter().find(free).map(|c| String::from_iter([c; 3])).unwrap_or_default()
}

#[cfg(test)]
mod tests;
