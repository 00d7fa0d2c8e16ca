//! Secrets: held in memory that is overwritten when it is let go, and blotted out of text.
//!
//! This module never prints, logs or serialises a secret.

mod held;
mod late;
mod redact;

pub use held::blotted;
pub use late::{Fetch, Secrets};
pub use redact::{RedactStream, Redactor};

use crate::error::{Error, Result};
use std::fmt;
use zeroize::Zeroizing;

/// The shortest secret that can be blotted out of text without eating words, in bytes.
pub const MIN_SECRET_BYTES: usize = 8;

/// A resolved secret. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the value over.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// Refuses a secret that could not be blotted out of text (shorter than [`MIN_SECRET_BYTES`])
    /// or not be handed to a program (with a NUL). `name` is what the configuration calls it.
    pub fn check(&self, name: &str) -> Result<()> {
        let bytes = self.0.len();
        if bytes < MIN_SECRET_BYTES {
            return Err(Error::invalid(format!("secret {name:?} is too short to be blotted out of messages"))
                .fact("expected", format!("at least {MIN_SECRET_BYTES} bytes"))
                .fact("got", format!("{bytes} bytes"))
                .hint("give the account a longer password"));
        }
        if self.0.contains('\0') {
            return Err(Error::invalid(format!("secret {name:?} holds a NUL, which no variable can hold")));
        }
        Ok(())
    }

    /// The value, for the one place that hands it to a child process or a server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
