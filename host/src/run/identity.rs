//! The age identity of a store, as late as it is needed: what only lists, plans without a backup, or
//! finds nothing that is encrypted never has it in memory.

use crate::error::{Error, Result};
use crate::secret::{Redactor, Secret};
use crate::stream::Identity;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the secret comes from; its errors name the place and never the value.
type Fetch = dyn Fn() -> Result<Secret> + Send + Sync;

/// An identity that is fetched when the first artifact is about to be opened, and held from then on until
/// this is dropped, which overwrites it.
pub struct LateIdentity {
    what: String,
    fetch: Box<Fetch>,
    held: Mutex<Option<Arc<Identity>>>,
    /// Knows the identity once it is held: for what a panic says.
    redactor: Redactor,
}

impl LateIdentity {
    /// Nothing is fetched yet. `what` names it in errors, such as `the identity of store "main"`.
    pub fn new(what: String, fetch: impl Fn() -> Result<Secret> + Send + Sync + 'static) -> Arc<Self> {
        let (held, redactor) = (Mutex::default(), Redactor::default());
        Arc::new(Self { what, fetch: Box::new(fetch), held, redactor })
    }

    /// The identity; fetched by the first call that succeeds, and the same from then on.
    ///
    /// Errors: `Invalid`, with what is wrong with it or with the place where it should be.
    pub fn get(&self) -> Result<Arc<Identity>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = &*held {
            return Ok(identity.clone());
        }
        let parsed = (self.fetch)().and_then(|secret| {
            self.redactor.learn(&secret);
            Identity::parse(secret.expose())
        });
        let identity = Arc::new(parsed.map_err(|error| {
            Error::invalid(format!("{} cannot be used", self.what))
                .hint("it is the file that age-keygen or `store init` wrote; the recovery sheet says where it is kept")
                .because(error)
        })?);
        *held = Some(identity.clone());
        Ok(identity)
    }
}

impl std::fmt::Debug for LateIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LateIdentity({})", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn an_identity_is_fetched_when_it_is_needed_and_not_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let key = Identity::generate().to_secret();
        let late = LateIdentity::new("the identity of store \"main\"".to_owned(), move || {
            // The first time it is not there.
            match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Error::invalid("the file is gone")),
                _ => Ok(Secret::new(key.expose().to_owned())),
            }
        });
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        let error = late.get().unwrap_err();
        assert!(error.message().contains("the identity of store \"main\"") && error.hint_text().is_some(), "{error:?}");
        let (first, again) = (late.get().unwrap(), late.get().unwrap());
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!(format!("{late:?}"), "LateIdentity(the identity of store \"main\")");
    }

    #[test]
    fn what_is_no_identity_is_refused_without_being_shown() {
        let late = LateIdentity::new("the identity".to_owned(), || Ok(Secret::new("hunter2 hunter2".to_owned())));
        let error = format!("{:?}", late.get().unwrap_err());
        assert!(error.contains("not a secret key") && !error.contains("hunter2"), "{error}");
    }
}
