//! Standard output: one result, as text or as JSON. Everything else goes to standard error.

use crate::config::mistake::Drawing;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document on standard output.
    Json,
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How results are written.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// `--output`
    pub format: Format,
    /// `--quiet`
    pub quiet: bool,
    /// `--color`
    pub colour: Colour,
}

impl Output {
    /// Whether the result is JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes the one result of a verb: `value` as JSON, or `text`. A reader that went away
    /// (`| head`) is no error.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.is_json() {
            let mut json = serde_json::to_string_pretty(value)?;
            json.push('\n');
            return self.write(&json);
        }
        self.write(&text())
    }

    /// Writes text to standard output as it is.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// Writes a line for people to standard error, unless `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Writes a line to standard error, whatever was asked for. Nothing is left to do when that fails.
    pub fn complain(&self, text: &str) {
        let mut err = io::stderr().lock();
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let _ = write!(err, "{text}{newline}");
    }

    /// Whether standard error takes colours and cursor movements.
    pub fn is_lively(&self) -> bool {
        match self.colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => io::stderr().is_terminal() && crate::config::environment::process("NO_COLOR").is_none(),
        }
    }

    /// How excerpts of the configuration are drawn on standard error.
    pub fn drawing(&self) -> Drawing {
        if self.is_lively() { Drawing::Terminal } else { Drawing::Plain }
    }

    /// Columns that excerpts are wrapped at.
    pub fn width(&self) -> usize {
        100
    }
}
