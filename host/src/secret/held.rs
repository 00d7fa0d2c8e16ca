//! Every redactor of this process, for the one text that no code hands to one: what a panic says.
//!
//! Keeps none of them alive, and never waits: whoever panics may hold any lock.

use super::redact::{Redactor, Shared};
use std::sync::{Mutex, PoisonError, TryLockError, Weak};
use zeroize::Zeroizing;

static HELD: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// One more; those that are gone are forgotten.
pub(super) fn add(redactor: Weak<Shared>) {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|redactor| redactor.strong_count() > 0);
    held.push(redactor);
}

/// The text without any secret that a redactor of this process knows now; `None` when somebody is teaching
/// one just now, so that nobody knows.
pub fn blotted(text: &str) -> Option<Zeroizing<String>> {
    let held: Vec<Redactor> = {
        let held = match HELD.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        held.iter().filter_map(Weak::upgrade).map(Redactor::sharing).collect()
    };
    let mut text = Zeroizing::new(text.to_owned());
    for redactor in held {
        text = Zeroizing::new(redactor.text_at_once(&text)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    /// Other tests make redactors at the same time.
    fn surely(text: &str) -> String {
        std::iter::repeat_with(|| blotted(text)).flatten().next().map(|said| said.to_string()).unwrap()
    }

    #[test]
    fn what_any_redactor_knows_is_blotted_out_until_it_is_gone() {
        let redactors =
            ["held secret one", "held secret two"].map(|text| Redactor::new([&Secret::new(text.to_owned())]));
        let later = Redactor::default();
        later.learn(&Secret::new("held secret three".to_owned()));
        let text = "a held secret one, held%20secret%20two, held secret three.";
        assert_eq!(surely(text), "a ***, ***, ***.");
        drop(redactors);
        assert_eq!(surely(text), "a held secret one, held%20secret%20two, ***.");
    }

    #[test]
    fn while_one_is_being_taught_nobody_knows() {
        let redactor = Redactor::new([&Secret::new("held secret four".to_owned())]);
        let said = redactor.while_it_learns(|| blotted("held secret four"));
        assert!(said.is_none());
        assert_eq!(surely("held secret four"), "***");
    }
}
