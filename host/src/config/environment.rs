//! The one place that reads the environment. Everything else asks a [`Lookup`], which tests can fix.

use std::ffi::OsString;

/// Finds a variable of the environment; unset and empty are both `None`.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
#[expect(clippy::disallowed_methods, reason = "the one home of the environment")]
pub fn process(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
