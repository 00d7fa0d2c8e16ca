//! The end of standard error, and the word of a container's wrapper at its beginning.

use crate::exec::STDERR_BYTES;
use crate::secret::Redactor;
use std::collections::VecDeque;

/// Whether the program itself runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Started {
    /// The container's client has been started; the wrapper has not said anything yet.
    NotYet,
    Yes,
    /// The wrapper did not find the program.
    Missing,
    /// The wrapper may not run the program.
    Denied,
    /// The client ended without a word of the wrapper.
    Never,
}

/// Keeps the last [`STDERR_BYTES`]. Memory: that, and twice the longest form of a secret.
pub(in crate::exec) struct Tail {
    redactor: Redactor,
    marker: Option<Marker>,
    started: Started,
    /// What a wrapper writes last when its program left some of its input unread.
    early: Option<String>,
    kept: VecDeque<u8>,
    overflowed: bool,
}

/// The line that a wrapper writes, and what came before it is whole.
struct Marker {
    text: String,
    seen: Vec<u8>,
}

impl Tail {
    pub(in crate::exec) fn new(redactor: Redactor, marker: Option<String>) -> Self {
        let started = if marker.is_some() { Started::NotYet } else { Started::Yes };
        let early = marker.as_ref().map(|marker| format!("{marker} early\n"));
        let marker = marker.map(|text| Marker { text, seen: Vec::new() });
        Self { redactor, marker, started, early, kept: VecDeque::new(), overflowed: false }
    }

    pub(in crate::exec) fn started(&self) -> Started {
        self.started
    }

    /// Nothing comes any more.
    pub(in crate::exec) fn ended(&mut self) {
        if self.started == Started::NotYet {
            self.started = Started::Never;
        }
    }

    pub(in crate::exec) fn push(&mut self, bytes: &[u8]) {
        let Some(marker) = &mut self.marker else { return self.keep(bytes) };
        marker.seen.extend_from_slice(bytes);
        let found = marker.find();
        if found.is_none() && marker.seen.len() <= STDERR_BYTES {
            return;
        }
        let mut seen = std::mem::take(&mut marker.seen);
        self.marker = None;
        if let Some((line, started)) = found {
            self.started = started;
            seen.drain(line);
        }
        self.keep(&seen);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let most = STDERR_BYTES + 2 * self.redactor.longest_match();
        if self.kept.len() > most {
            self.overflowed = true;
            self.kept.drain(..self.kept.len() - most);
        }
    }

    /// Whether the last line is the wrapper's, which says that its program left some of its input unread.
    /// The line is taken out.
    pub(in crate::exec) fn take_early(&mut self) -> bool {
        let Some(line) = self.early.as_deref() else { return false };
        let is_there =
            self.kept.len() >= line.len() && self.kept.iter().skip(self.kept.len() - line.len()).eq(line.as_bytes());
        if is_there {
            self.kept.truncate(self.kept.len() - line.len());
        }
        is_there
    }

    /// What was kept, without secrets.
    pub(in crate::exec) fn text(&mut self) -> String {
        if let Some(marker) = self.marker.take() {
            self.keep(&marker.seen);
        }
        let kept = self.kept.make_contiguous();
        let mut out = Vec::new();
        let mut stream = self.redactor.stream();
        // The first bytes may be the end of a secret whose beginning is gone: they are passed over.
        let edge = if self.overflowed { (2 * self.redactor.longest_match()).min(kept.len()) } else { 0 };
        stream.push(&kept[..edge], &mut out);
        out.clear();
        stream.push(&kept[edge..], &mut out);
        stream.finish(&mut out);
        let from = out.len().saturating_sub(STDERR_BYTES);
        // Once more: bytes that are no text become characters now, and those may stand in a secret.
        self.redactor.text(&String::from_utf8_lossy(&out[from..]))
    }
}

impl Marker {
    /// Where the wrapper's line lies, and what it says.
    fn find(&self) -> Option<(std::ops::Range<usize>, Started)> {
        let start = self.seen.windows(self.text.len()).position(|window| window == self.text.as_bytes())?;
        let rest = &self.seen[start + self.text.len()..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let started = match &rest[..end] {
            b" run" => Started::Yes,
            b" missing" => Started::Missing,
            b" denied" => Started::Denied,
            _ => return None,
        };
        Some((start..start + self.text.len() + end + 1, started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn the_end_of_standard_error_is_kept_without_secrets_wherever_it_was_cut() {
        let secret = Secret::new("hunter2hunter2".to_owned());
        for shift in 0..40 {
            let mut tail = Tail::new(Redactor::new([&secret]), None);
            tail.push(&vec![b'.'; shift]);
            for _ in 0..10_000 {
                tail.push(b"hunter2hunter2\n");
            }
            tail.push(b"last words\xff\n");
            let text = tail.text();
            assert!(!text.contains("hunter2") && !text.contains("unter2\n"), "{shift}");
            assert!(text.ends_with("last words\u{fffd}\n") && text.len() <= STDERR_BYTES + 2);
        }
    }

    #[test]
    fn the_wrappers_line_is_taken_out_wherever_it_is_cut() {
        for (word, started) in [("run", Started::Yes), ("missing", Started::Missing), ("denied", Started::Denied)] {
            let text = format!("warning: client\nmark-1 {word}\nwords\n");
            for cut in 0..text.len() {
                let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
                assert_eq!(tail.started(), Started::NotYet);
                tail.push(&text.as_bytes()[..cut]);
                tail.push(&text.as_bytes()[cut..]);
                assert_eq!((tail.started(), tail.text().as_str()), (started, "warning: client\nwords\n"));
            }
        }
        let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
        tail.push(b"mark-1 run\nmark-1 early\nwords\nmark-1 ear");
        assert!(!tail.take_early(), "only at the end");
        tail.push(b"ly\n");
        assert!(tail.take_early());
        assert_eq!(tail.text(), "mark-1 early\nwords\n");
        let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
        tail.push(b"Error: no such container\nmark-2 run\n");
        tail.ended();
        assert_eq!(tail.started(), Started::Never);
        assert!(tail.text().starts_with("Error: no such container"));
    }
}
