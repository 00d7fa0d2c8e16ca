//! The end of standard error, and what a container's wrapper says in it.

use crate::exec::STDERR_BYTES;
use crate::exec::pod::sum::Measured;
use crate::secret::Redactor;
use crate::stream::Proof;
use std::collections::VecDeque;
use std::ops::Range;

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
    /// The wrapper cannot tell a cut input from one that has ended.
    Bare,
    /// The client ended without a word of the wrapper.
    Never,
}

/// Keeps the last [`STDERR_BYTES`]. Memory: that, and twice the longest form of a secret.
pub(in crate::exec) struct Tail {
    redactor: Redactor,
    marker: Option<Marker>,
    started: Started,
    program_ended: bool,
    left_input: bool,
    proof: Option<Proof>,
    measured: Option<Measured>,
    kept: VecDeque<u8>,
    overflowed: bool,
}

/// The lines that a wrapper writes, and what is not known yet to be none of them.
struct Marker {
    text: String,
    seen: Vec<u8>,
}

/// A line of the wrapper.
#[derive(Clone, Copy)]
enum Word {
    Started(Started),
    /// The program has ended; the wrapper reads what is left of its input.
    Ended,
    /// Whether anything was left.
    Left(bool),
    /// The program runs, and its output will be measured like this.
    Runs(Proof),
    /// What was measured.
    Measured(Measured),
    /// Fewer bytes of its input arrived than were sent; whoever sent them sees it too.
    Short,
}

impl Tail {
    pub(in crate::exec) fn new(redactor: Redactor, marker: Option<String>) -> Self {
        let started = if marker.is_some() { Started::NotYet } else { Started::Yes };
        let marker = marker.map(|text| Marker { text, seen: Vec::new() });
        let (program_ended, left_input) = (false, false);
        Self {
            redactor,
            marker,
            started,
            program_ended,
            left_input,
            proof: None,
            measured: None,
            kept: VecDeque::new(),
            overflowed: false,
        }
    }

    pub(in crate::exec) fn started(&self) -> Started {
        self.started
    }

    /// Whether the wrapper said that the program has ended, which is before its client does.
    pub(in crate::exec) fn program_ended(&self) -> bool {
        self.program_ended
    }

    /// Whether the wrapper said that the program had not read all of its input.
    pub(in crate::exec) fn left_input(&self) -> bool {
        self.left_input
    }

    /// How the wrapper measures the output.
    pub(in crate::exec) fn proof(&self) -> Option<Proof> {
        self.proof
    }

    /// What the wrapper has measured of the output.
    pub(in crate::exec) fn measured(&self) -> Option<Measured> {
        self.measured
    }

    /// Nothing comes any more.
    pub(in crate::exec) fn ended(&mut self) {
        if self.started == Started::NotYet {
            self.started = Started::Never;
        }
    }

    pub(in crate::exec) fn push(&mut self, bytes: &[u8]) {
        let Some(mut marker) = self.marker.take() else { return self.keep(bytes) };
        marker.seen.extend_from_slice(bytes);
        while let Some((line, word)) = marker.find() {
            match word {
                Word::Started(started) => self.started = started,
                Word::Ended => self.program_ended = true,
                Word::Left(left) => self.left_input = left,
                Word::Runs(proof) => (self.started, self.proof) = (Started::Yes, Some(proof)),
                Word::Measured(measured) => self.measured = Some(measured),
                Word::Short => {}
            }
            self.keep(&marker.seen[..line.start]);
            marker.seen.drain(..line.end);
        }
        // The rest may be the beginning of a line of the wrapper.
        let safe = marker.seen.len().saturating_sub(marker.text.len() + LONGEST_WORD);
        self.keep(&marker.seen[..safe]);
        marker.seen.drain(..safe);
        self.marker = Some(marker);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let most = STDERR_BYTES + 2 * self.redactor.longest_match();
        if self.kept.len() > most {
            self.overflowed = true;
            self.kept.drain(..self.kept.len() - most);
        }
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

/// Room for ` sum `, two numbers of 32 and 64 bits with spaces around them, and a newline.
const LONGEST_WORD: usize = 64;

impl Marker {
    /// Where a line of the wrapper lies, and what it says.
    fn find(&self) -> Option<(Range<usize>, Word)> {
        let start = self.seen.windows(self.text.len()).position(|window| window == self.text.as_bytes())?;
        let rest = &self.seen[start + self.text.len()..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let word = match &rest[..end] {
            b" run" => Word::Started(Started::Yes),
            b" missing" => Word::Started(Started::Missing),
            b" denied" => Word::Started(Started::Denied),
            b" bare" => Word::Started(Started::Bare),
            b" run cksum" => Word::Runs(Proof::Cksum),
            b" run count" => Word::Runs(Proof::Count),
            b" run marker" => Word::Runs(Proof::Marker),
            b" end" => Word::Ended,
            word if word.starts_with(b" short ") => Word::Short,
            word => match word.strip_prefix(b" sum ") {
                Some(numbers) => Word::Measured(Measured::parse(std::str::from_utf8(numbers).ok()?)?),
                None => Word::Left(word.strip_prefix(b" left ")?.trim_ascii() != b"0"),
            },
        };
        Some((start..start + self.text.len() + end + 1, word))
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
    fn the_wrappers_lines_are_taken_out_wherever_they_are_cut() {
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
        let text = "mark-1 run\nwords\nno newmark-1 end\nmark-1 left   17\nlate words\n";
        for cut in 0..text.len() {
            let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
            tail.push(&text.as_bytes()[..cut]);
            tail.push(&text.as_bytes()[cut..]);
            assert!(tail.program_ended() && tail.left_input());
            assert_eq!(tail.text(), "words\nno newlate words\n");
        }
        let text = "mark-1 run cksum\nwords\nmark-1 short 3\nmark-1 end\nmark-1 sum 3352050827 12\nlate\n";
        for cut in 0..text.len() {
            let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
            tail.push(&text.as_bytes()[..cut]);
            tail.push(&text.as_bytes()[cut..]);
            assert_eq!((tail.started(), tail.proof()), (Started::Yes, Some(Proof::Cksum)));
            assert_eq!((tail.measured(), tail.text().as_str()), (Measured::parse("3352050827 12"), "words\nlate\n"));
        }
        let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
        tail.push(b"mark-1 run\nmark-1 end\nmark-1 left 0\n");
        assert!(tail.program_ended() && !tail.left_input());
        let mut tail = Tail::new(Redactor::new([]), Some("mark-1".to_owned()));
        tail.push(b"Error: no such container\nmark-2 run\n");
        tail.ended();
        assert_eq!(tail.started(), Started::Never);
        assert!(tail.text().starts_with("Error: no such container"));
    }
}
