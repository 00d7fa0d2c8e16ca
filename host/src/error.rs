//! One error type for the whole host.
//!
//! An error says what was attempted on what, what was expected and found, and what to do next.
//! Its [`Kind`] is the decision of the caller: the exit code, the case that a plugin sees, and
//! whether trying again can help all follow from it.

use std::fmt;
use std::time::Duration;
use tokio::task::JoinError;

/// Result of everything in the host that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The command line, the configuration or a call is malformed.
    Invalid,
    /// What was named is not there.
    NotFound,
    /// It exists already, or it changed underneath the caller.
    Conflict,
    /// A policy, a server or the operating system refused it.
    Denied,
    /// Nothing happened, and the same call may succeed later.
    Unavailable,
    /// It did not make progress in the time that it had.
    TimedOut,
    /// One of the configured limits is spent.
    Limit,
    /// Stored bytes are not those that were recorded.
    Damaged,
    /// The operator, or the end of the run, stopped it.
    Cancelled,
    /// It was tried and it failed.
    Failed,
}

/// An error for a person: message, facts, hint and the chain of sources.
///
/// Messages are lower case without a full stop and quote what they name. The source is never
/// repeated in the message; the command line prints the chain once.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    facts: Vec<(&'static str, String)>,
    hint: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident,)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) })*
    };
}

impl Error {
    /// An error of this kind; the message says what was attempted on what.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            facts: Vec::new(),
            hint: None,
            retry_after: None,
            source: None,
        }))
    }

    constructors! {
        /// See [`Kind::Invalid`].
        invalid => Invalid,
        /// See [`Kind::NotFound`].
        not_found => NotFound,
        /// See [`Kind::Conflict`].
        conflict => Conflict,
        /// See [`Kind::Denied`].
        denied => Denied,
        /// See [`Kind::Unavailable`].
        unavailable => Unavailable,
        /// See [`Kind::TimedOut`].
        timed_out => TimedOut,
        /// See [`Kind::Limit`].
        limit => Limit,
        /// See [`Kind::Damaged`].
        damaged => Damaged,
        /// See [`Kind::Cancelled`].
        cancelled => Cancelled,
        /// See [`Kind::Failed`].
        failed => Failed,
    }

    /// Adds a line of evidence, such as `("expected", "8 MiB")`.
    #[must_use]
    pub fn fact(mut self, label: &'static str, value: impl Into<String>) -> Self {
        self.0.facts.push((label, value.into()));
        self
    }

    /// Adds what to do next; a second hint replaces the first.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused this one. Of a task that panicked only that it did: what the panic said
    /// may hold anything, and was told, without secrets, when it happened.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = source.into();
        let panicked = source.downcast_ref::<JoinError>().is_some_and(JoinError::is_panic);
        self.0.source = Some(if panicked { "a task of the host panicked".into() } else { source });
        self
    }

    /// Adds the I/O error that caused this one, and what to do where it says something about the machine:
    /// that replaces a hint about what was attempted.
    #[must_use]
    pub fn because_of_io(self, source: std::io::Error) -> Self {
        match hint_of_io(&source) {
            Some(hint) => self.hint(hint).because(source),
            None => self.because(source),
        }
    }

    /// Adds how long the other side asked to be left alone (`Retry-After`, `SlowDown`).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Wraps this error in one that says what was being done; the kind stays.
    #[must_use]
    pub fn while_doing(self, message: impl Into<String>) -> Self {
        Self::new(self.kind(), message).because(self)
    }

    /// The decision of the caller.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message alone, without facts, hint and sources.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Lines of evidence in the order in which they were added.
    pub fn facts(&self) -> &[(&'static str, String)] {
        &self.0.facts
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How long the other side asked to be left alone before the next attempt.
    pub fn retry_after_wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable | Kind::TimedOut)
    }

    /// The innermost [`Error`] of the chain: the place where it began.
    pub fn origin(&self) -> &Error {
        let mut at = self;
        while let Some(inner) = at.0.source.as_deref().and_then(|source| source.downcast_ref::<Error>()) {
            at = inner;
        }
        at
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        for (label, value) in &self.0.facts {
            write!(f, "; {label}: {value}")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, "; because {source:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Maps an I/O error onto the kind that decides what the caller does.
pub fn kind_of_io(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => Kind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
        Io::AlreadyExists => Kind::Conflict,
        Io::TimedOut => Kind::TimedOut,
        Io::ConnectionRefused
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::NotConnected
        | Io::Interrupted => Kind::Unavailable,
        Io::InvalidInput | Io::InvalidData => Kind::Invalid,
        _ => Kind::Failed,
    }
}

/// What to do about an I/O error that says something about the machine rather than about the file.
pub fn hint_of_io(error: &std::io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    use std::io::ErrorKind as Io;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match (error.kind(), errno) {
        (Io::StorageFull, _) => Some("the disk is full: free some space on it"),
        (Io::QuotaExceeded, _) => Some("the quota of this user is spent: raise it, or free some space"),
        (Io::ReadOnlyFilesystem, _) => Some("the file system is mounted read-only"),
        (Io::OutOfMemory, _) => Some(
            "there is too little memory: raise the limit of this process (`ulimit -v` counts address space, of which a plugin reserves some GiB)",
        ),
        (Io::WouldBlock, _) => {
            Some("the system gives this process no more threads: too little memory, or too many of them (`ulimit -u`)")
        }
        (_, Some(Errno::MFILE)) => Some("too many files are open: raise the limit of this process (`ulimit -n`)"),
        (_, Some(Errno::NFILE)) => Some("too many files are open on this machine: raise `fs.file-max`"),
        (_, Some(Errno::IO)) => {
            Some("the disk or its file system fails: look at the kernel's log, and do not trust it with backups")
        }
        _ => None,
    }
}

/// Turns an I/O result into ours, saying what was attempted.
pub trait IoContext<T> {
    /// `what` completes "could not …", such as `read "/etc/x"`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(kind_of_io(&error), format!("could not {}", what())).because_of_io(error))
    }
}

impl<T> IoContext<T> for std::result::Result<T, rustix::io::Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(std::io::Error::from).doing(what)
    }
}
