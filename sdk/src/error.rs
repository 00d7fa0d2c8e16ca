//! The one error of a plugin. A plugin decides on the case; the text is for people.

use crate::bindings::strongroom::plugin::types::Error as Wit;
use std::fmt;

/// Result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work: what the host answered, or what the plugin says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The operator's grant does not cover the call. The text never says what would be allowed.
    Denied(String),
    /// The call, a setting or an option is malformed.
    Invalid(String),
    /// What was named is not there.
    NotFound(String),
    /// It exists already, or it changed underneath the caller.
    Conflict(String),
    /// Nothing happened, and the same call may succeed later. The host has already retried.
    Unavailable(String),
    /// It made no progress in the time it had.
    TimedOut(String),
    /// One of the plugin's own limits is spent.
    Limit(String),
    /// It was tried and it failed.
    Failed(String),
}

impl Error {
    /// [`Error::Failed`] with this text: lower case, no full stop, what was attempted on what.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// [`Error::Invalid`] with this text.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// [`Error::Conflict`] with this text.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict(message.into())
    }

    /// The text alone.
    pub fn message(&self) -> &str {
        match self {
            Self::Denied(text)
            | Self::Invalid(text)
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text)
            | Self::TimedOut(text)
            | Self::Limit(text)
            | Self::Failed(text) => text,
        }
    }

    /// The same case with `what` was attempted put before its text.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        let text = match &mut self {
            Self::Denied(text)
            | Self::Invalid(text)
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text)
            | Self::TimedOut(text)
            | Self::Limit(text)
            | Self::Failed(text) => text,
        };
        *text = format!("{what}: {text}");
        self
    }

    /// The same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

impl From<Wit> for Error {
    fn from(error: Wit) -> Self {
        match error {
            Wit::Denied(text) => Self::Denied(text),
            Wit::Invalid(text) => Self::Invalid(text),
            Wit::NotFound(text) => Self::NotFound(text),
            Wit::Conflict(text) => Self::Conflict(text),
            Wit::Unavailable(text) => Self::Unavailable(text),
            Wit::TimedOut(text) => Self::TimedOut(text),
            Wit::Limit(text) => Self::Limit(text),
            Wit::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<Error> for Wit {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(text) => Self::Denied(text),
            Error::Invalid(text) => Self::Invalid(text),
            Error::NotFound(text) => Self::NotFound(text),
            Error::Conflict(text) => Self::Conflict(text),
            Error::Unavailable(text) => Self::Unavailable(text),
            Error::TimedOut(text) => Self::TimedOut(text),
            Error::Limit(text) => Self::Limit(text),
            Error::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(format!("unexpected JSON: {error}"))
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Failed(format!("text is not UTF-8: {error}"))
    }
}

impl From<std::string::FromUtf8Error> for Error {
    fn from(error: std::string::FromUtf8Error) -> Self {
        error.utf8_error().into()
    }
}

/// An error of the host that went through [`std::io::Read`] or [`std::io::Write`] keeps its case.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(inner) => inner,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn an_error_keeps_its_case_through_io_and_context() {
        let io: std::io::Error = Error::Denied("no".to_owned()).into();
        assert_eq!(Error::from(io).context("read \"x\""), Error::Denied("read \"x\": no".to_owned()));
    }
}
