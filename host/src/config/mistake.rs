//! Mistakes in a configuration: all of them at once, each with its place and a marked excerpt.
//!
//! A literal secret never gets into an excerpt: what the reader masks is blotted out before
//! anything is shown.

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity};
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// One mistake, or something that is merely worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, with the key's full name; lower case, no full stop.
    pub message: String,
    /// What stands at the mark, such as `expected text, got a whole number`.
    pub label: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// The other place that it is about, in another file.
    pub elsewhere: Option<Elsewhere>,
}

/// A place in another file that a mistake is about as well, such as the rule of a ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The file as it was named.
    pub file: String,
    /// Its text.
    pub source: String,
    /// Where, in bytes of it.
    pub span: Range<usize>,
    /// What it is.
    pub message: String,
    /// What stands at the mark.
    pub label: String,
}

/// Where a mistake is and what it is, for programs (`--output json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// See [`Mistake::message`].
    pub message: String,
    /// See [`Mistake::label`].
    pub found: String,
    /// See [`Mistake::help`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How excerpts are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// ASCII only, no colour: for logs and pipes.
    Plain,
    /// With colour, for a terminal.
    Terminal,
}

/// Every mistake of one file, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Mistakes {
    file: String,
    source: String,
    list: Vec<Mistake>,
    masked: Vec<Range<usize>>,
}

impl Mistakes {
    /// None so far.
    pub(super) fn new(file: &str, source: &str) -> Self {
        Self { file: file.to_owned(), source: source.to_owned(), list: Vec::new(), masked: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Mistake {
        let end = self.source.len();
        let span = span.start.min(end)..span.end.min(end);
        let at = self.list.len();
        self.list.push(Mistake { message: message.into(), label: label.into(), help: None, span, elsewhere: None });
        &mut self.list[at]
    }

    /// The first mistake that is about a rule of a ceiling.
    pub fn over_a_ceiling(&self) -> Option<&str> {
        self.list.iter().find(|mistake| mistake.elsewhere.is_some()).map(|mistake| mistake.message.as_str())
    }

    /// The text at `span` is never shown.
    pub(super) fn mask(&mut self, span: Range<usize>) {
        self.masked.push(span);
    }

    /// Sorted by place, once and for all.
    pub(super) fn finish(mut self) -> Self {
        self.list.sort_by_key(|mistake| (mistake.span.start, mistake.span.end));
        self.list.dedup();
        // Wherever one stands, it is never shown.
        self.masked.extend(identities(&self.source));
        for mistake in &mut self.list {
            for text in
                [Some(&mut mistake.message), Some(&mut mistake.label), mistake.help.as_mut()].into_iter().flatten()
            {
                for found in identities(text).into_iter().rev() {
                    text.replace_range(found, "…");
                }
            }
        }
        let mut shown = String::with_capacity(self.source.len());
        let mut rest = self.source.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            let ends_line = c == '\n' || (c == '\r' && rest.peek().is_some_and(|(_, next)| *next == '\n'));
            let hidden = self.masked.iter().any(|span| span.contains(&at));
            // A lone carriage return, which an excerpt would count as a line, or what commands a terminal.
            let is_control = c.is_control() && c != '\t';
            match c {
                c if ends_line => shown.push(c),
                c if hidden => shown.push(blot(c, '*')),
                c if is_control => shown.push(blot(c, '?')),
                c => shown.push(c),
            }
        }
        self.source = shown;
        self.masked.clear();
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The mistakes in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }

    /// Each with file, line and column.
    pub fn placed(&self) -> Vec<Placed> {
        self.list
            .iter()
            .map(|mistake| {
                let (line, column) = self.place_of(mistake.span.start);
                Placed {
                    file: self.file.clone(),
                    line,
                    column,
                    message: mistake.message.clone(),
                    found: mistake.label.clone(),
                    hint: mistake.help.clone(),
                }
            })
            .collect()
    }

    fn place_of(&self, at: usize) -> (usize, usize) {
        let before = self.source.get(..at).unwrap_or(&self.source);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Marked excerpts of all of them, one after the other.
    pub fn draw(&self, drawing: Drawing, width: usize) -> String {
        self.draw_as(drawing, width, Severity::Error)
    }

    /// The same, as warnings.
    pub fn draw_warnings(&self, drawing: Drawing, width: usize) -> String {
        self.draw_as(drawing, width, Severity::Warning)
    }

    fn draw_as(&self, drawing: Drawing, width: usize, severity: Severity) -> String {
        let theme = match drawing {
            Drawing::Plain => GraphicalTheme::none(),
            Drawing::Terminal => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width)
            .with_context_lines(1)
            .with_links(false)
            .without_syntax_highlighting();
        let mut out = String::new();
        for mistake in &self.list {
            let drawn = Drawn {
                mistake,
                severity,
                source: NamedSource::new(&self.file, self.source.clone()),
                other: mistake.elsewhere.as_ref().map(Other::new),
            };
            if handler.render_report(&mut out, &drawn).is_err() {
                // A report that cannot be drawn (a span in a strange place) is still told.
                out.push_str(&format!("{}: {}\n", mistake.message, mistake.label));
            }
            out.push('\n');
        }
        // The handler pads lines; logs and snapshots want none of that.
        out.lines().map(str::trim_end).fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}

/// The fewest letters in a row that are taken for those of an age identity, which has 58.
const IDENTITY_BYTES: usize = 32;

/// What an age identity says of itself, behind `AGE-`.
const SECRET: &[u8] = b"SECRET-KEY-";

/// Where age identities stand in a text: whole, in any case, or mangled by whoever copied them. A word counts that
/// says `SECRET-KEY-`, and one with a long run of capital letters and digits that is not a digest in hexadecimal.
fn identities(text: &str) -> Vec<Range<usize>> {
    let is_of_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_of_key = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let word = bytes[start..].iter().take_while(|byte| is_of_word(**byte)).count();
        let word = start..start + word;
        let letters = &bytes[word.clone()];
        let says_so = letters
            .windows(SECRET.len())
            .position(|part| part.eq_ignore_ascii_case(SECRET))
            .is_some_and(|at| at + SECRET.len() < letters.len());
        let looks_so = letters
            .split(|byte| !is_of_key(byte))
            .any(|run| run.len() >= IDENTITY_BYTES && run.iter().any(|byte| *byte > b'F'));
        start = word.end + 1;
        if says_so || looks_so {
            found.push(word);
        }
    }
    found
}

/// What stands for a character that is not shown: as long in bytes, so that every other place stays where it is,
/// and one character, so that columns do.
fn blot(c: char, ascii: char) -> char {
    match c.len_utf8() {
        1 => ascii,
        2 => '\u{b7}',
        3 => '\u{2022}',
        _ => '\u{1f512}',
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.list.len();
        let noun = if n == 1 { "mistake" } else { "mistakes" };
        write!(f, "{n} {noun} in \"{}\"", self.file)
    }
}

impl std::error::Error for Mistakes {}

struct Drawn<'a> {
    mistake: &'a Mistake,
    severity: Severity,
    source: NamedSource<String>,
    other: Option<Other>,
}

/// The other place of a mistake, drawn below it.
struct Other {
    message: String,
    label: LabeledSpan,
    source: NamedSource<String>,
}

impl Other {
    fn new(elsewhere: &Elsewhere) -> Self {
        let Elsewhere { file, source, span, message, label } = elsewhere;
        let end = span.end.min(source.len());
        let start = span.start.min(end);
        Self {
            message: message.clone(),
            label: LabeledSpan::new(Some(label.clone()), start, end - start),
            source: NamedSource::new(file, source.clone()),
        }
    }
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Other {}

impl miette::Diagnostic for Other {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Advice)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(self.label.clone())))
    }
}

impl fmt::Debug for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.message)
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.mistake.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        let other = self.other.as_ref()? as &dyn miette::Diagnostic;
        Some(Box::new(std::iter::once(other)))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.mistake.span.clone();
        Some(Box::new(std::iter::once(LabeledSpan::new(Some(self.mistake.label.clone()), span.start, span.len()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_found_whole_and_mangled_and_nothing_else_is() {
        let key = "1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSQ6XVZ7";
        for secret in [
            format!("AGE-SECRET-KEY-{key}"),
            format!("GE-SECRET-KEY-{key}"),
            format!("age-secret-key-{key}").to_lowercase(),
            key.to_owned(),
            key[20..].to_owned(),
            format!("xAGE-SECRTKEY-{key}"),
        ] {
            let text = format!("a = \"ü{secret}\" # b");
            let found = identities(&text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(&text[found[0].clone()], secret, "{text}");
        }
        for harmless in [
            "AGE-SECRET-KEY-…",
            "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "age13cgr9jv94r4840qycftjuqremdefuhqeasgkr5jc53xe0svwmyss2ny0pk",
            "AKIAIOSFODNN7EXAMPLE",
            "A_LONG_NAME_OF_A_VARIABLE_OF_THE_ENVIRONMENT",
        ] {
            assert!(identities(harmless).is_empty(), "{harmless}");
        }
    }
}
