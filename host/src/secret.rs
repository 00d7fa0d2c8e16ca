//! Secrets: held in memory that is overwritten when it is let go, and blotted out of text.
//!
//! This module never prints, logs or serialises a secret.

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
