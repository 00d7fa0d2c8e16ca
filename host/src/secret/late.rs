//! Secrets that are fetched when they are needed, and let go right after.
//!
//! Holds where they come from, never what they are; the redactor keeps what it must find.

use super::{Redactor, Secret};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Fetches one secret, each time anew. Its errors name the key of the configuration, never the value.
pub type Fetch = dyn Fn() -> Result<Secret> + Send + Sync;

/// The secrets of a job or a target by name. Copies share the redactor.
///
/// Memory: of every secret that was fetched, the forms that the redactor looks for, overwritten when
/// the last copy is dropped.
#[derive(Clone, Default)]
pub struct Secrets {
    sources: BTreeMap<String, Arc<Fetch>>,
    redactor: Redactor,
    withheld: Arc<BTreeSet<String>>,
}

impl Secrets {
    /// Fetched from these sources; none of them is asked before it is needed.
    pub fn new(sources: BTreeMap<String, Arc<Fetch>>) -> Self {
        Self { sources, ..Self::default() }
    }

    /// Variables of the host's own environment that no child inherits, since secrets are in them.
    #[must_use]
    pub fn withholding(self, variables: BTreeSet<String>) -> Self {
        Self { withheld: Arc::new(variables), ..self }
    }

    /// What [`Self::withholding`] was told.
    pub fn withheld(&self) -> &BTreeSet<String> {
        &self.withheld
    }

    /// Whether there is a secret of this name; it is not fetched.
    pub fn has(&self, name: &str) -> bool {
        self.sources.contains_key(name)
    }

    /// Fetches a secret for the child process that is about to start; `None` where there is none of this
    /// name. The redactor knows it before the caller does.
    ///
    /// Errors: those of its source; `Invalid` for one that could not be blotted out or handed over
    /// ([`Secret::check`]).
    pub fn fetch(&self, name: &str) -> Result<Option<Secret>> {
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        let secret = source().map_err(|error: Error| error.while_doing(format!("could not fetch secret {name:?}")))?;
        secret.check(name)?;
        self.redactor.learn(&secret);
        Ok(Some(secret))
    }

    /// Finds every secret that was fetched so far. What was written before a secret was fetched cannot
    /// hold it.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}

impl From<BTreeMap<String, Secret>> for Secrets {
    /// Of values that are there already: they are held as long as this is.
    fn from(values: BTreeMap<String, Secret>) -> Self {
        let held = |(name, secret): (String, Secret)| (name, Arc::new(move || Ok(secret.clone())) as Arc<Fetch>);
        Self::new(values.into_iter().map(held).collect())
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.sources.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_secret_is_fetched_when_it_is_needed_and_known_to_every_copy_from_then_on() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let fetch: Arc<Fetch> = Arc::new(move || {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            Ok(Secret::new(format!("correct horse {n}")))
        });
        let secrets = Secrets::new(BTreeMap::from([("P".to_owned(), fetch)]));
        let (copy, redactor) = (secrets.clone(), secrets.redactor().clone());
        let mut stream = redactor.stream();
        let mut out = Vec::new();
        stream.push(b"correct hor", &mut out);
        assert!(secrets.has("P") && !secrets.has("Q"));
        assert_eq!(
            (asked.load(Ordering::Relaxed), redactor.text("correct horse 0")),
            (0, "correct horse 0".to_owned())
        );

        assert_eq!(secrets.fetch("P").unwrap().unwrap().expose(), "correct horse 0");
        assert_eq!(copy.fetch("P").unwrap().unwrap().expose(), "correct horse 1", "each time anew");
        assert!(secrets.fetch("Q").unwrap().is_none());
        // Both values are found: whoever was given the first may still say it.
        assert_eq!(redactor.text("correct horse 0, correct horse 1"), "***, ***");
        // A stream that was under way has said what it was given before; what follows is found.
        stream.push(b"se and correct horse 1.", &mut out);
        stream.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "correct horse and ***.");
        assert_eq!(format!("{secrets:?}"), "{\"P\"}");
    }

    #[test]
    fn what_cannot_be_fetched_or_blotted_out_is_an_error_that_names_it_and_not_its_value() {
        let short: Arc<Fetch> = Arc::new(|| Ok(Secret::new("hunter2".to_owned())));
        let gone: Arc<Fetch> = Arc::new(|| Err(Error::invalid("the file is gone")));
        let secrets = Secrets::new(BTreeMap::from([("SHORT".to_owned(), short), ("GONE".to_owned(), gone)]));
        for name in ["SHORT", "GONE"] {
            let error = format!("{:?}", secrets.fetch(name).unwrap_err());
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
    }
}
