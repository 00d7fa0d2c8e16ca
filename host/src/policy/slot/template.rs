//! Text with holes.

use super::quoted;
use crate::error::{Error, Result};
use std::str::FromStr;

/// Text with `{slot}` holes, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Literal text and holes in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as written; `{{` and `}}` stand for braces.
    Text(String),
    /// The value of this slot.
    Slot(String),
}

impl Template {
    /// Parses text in which `{name}` is a hole and `{{` and `}}` are braces.
    ///
    /// Names of slots are `[a-z][a-z0-9_-]{0,62}`. A NUL is refused: no argument can hold one.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |got: String| {
            Error::invalid(format!("{} is not text with slots", quoted(text)))
                .fact("expected", "{slot} for a slot, {{ and }} for braces")
                .fact("got", got)
        };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.next_if_eq(&c).is_some() => literal.push(c),
                '{' => {
                    let mut name = String::new();
                    let closed = loop {
                        match chars.next() {
                            Some('}') => break true,
                            Some(c) => name.push(c),
                            None => break false,
                        }
                    };
                    if !closed || !is_slot_name(&name) {
                        return Err(refuse(format!("slot {}", quoted(&name))));
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Slot(name));
                }
                '}' => return Err(refuse("a single }".to_owned())),
                '\0' => return Err(refuse("a NUL".to_owned())),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// The names of its holes, in order, with repetitions.
    pub fn slots(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Slot(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The slot, when the whole text is one hole and nothing else.
    pub fn lone_slot(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Slot(name)] => Some(name),
            _ => None,
        }
    }

    /// The text itself, when it has no holes.
    pub fn literal(&self) -> Option<String> {
        match self.pieces.as_slice() {
            [] => Some(String::new()),
            [Piece::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// The text with its holes filled; `None` when `value` knows one of them not.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Slot(name) => value(name),
            })
            .collect()
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Piece::Slot(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

/// `[a-z][a-z0-9_-]{0,62}`.
pub(in crate::policy) fn is_slot_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 63
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}
