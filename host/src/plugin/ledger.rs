//! What a handle is used for: its calls are counted, and told once when it is gone. So a million
//! entries of an archive are one line of the audit log.

use super::guard::lock;
use super::observer::Observer;
use crate::error::Error;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Counts the calls on one handle. What a handle hands out (the sources of a bucket, the entries of an
/// archive) shares its ledger. Memory: some 100 bytes for each function that was called.
pub(super) struct Ledger {
    observer: Arc<dyn Observer>,
    always: bool,
    began: Instant,
    used: Mutex<HandleUse>,
}

/// What a handle was used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandleUse {
    /// What it is, such as `bucket`.
    pub kind: &'static str,
    /// Of what, such as the bucket's label.
    pub subject: String,
    /// The rule that allowed the last call that was decided.
    pub rule: Option<String>,
    /// Calls by function.
    pub calls: BTreeMap<&'static str, u64>,
    /// How many of them failed.
    pub failed: u64,
    /// Bytes that they moved, where they are known.
    pub bytes: u64,
    /// How it ended, where that is known.
    pub outcome: Option<String>,
    /// How long it was there.
    pub lasted: Duration,
}

impl Ledger {
    /// For a handle of this kind; told only when something was called on it.
    pub(super) fn new(observer: Arc<dyn Observer>, kind: &'static str, subject: &str) -> Arc<Self> {
        Self::make(observer, kind, subject, false)
    }

    /// For a handle that is always told.
    pub(super) fn always(observer: Arc<dyn Observer>, kind: &'static str, subject: &str) -> Arc<Self> {
        Self::make(observer, kind, subject, true)
    }

    fn make(observer: Arc<dyn Observer>, kind: &'static str, subject: &str, always: bool) -> Arc<Self> {
        let used = Mutex::new(HandleUse { kind, subject: subject.to_owned(), ..HandleUse::default() });
        Arc::new(Self { observer, always, began: Instant::now(), used })
    }

    /// One more call.
    pub(super) fn count(&self, function: &'static str, rule: Option<&str>, bytes: u64, error: Option<&Error>) {
        let mut used = lock(&self.used);
        *used.calls.entry(function).or_default() += 1;
        used.failed += u64::from(error.is_some());
        used.bytes = used.bytes.saturating_add(bytes);
        if let Some(rule) = rule.filter(|rule| used.rule.as_deref() != Some(*rule)) {
            used.rule = Some(rule.to_owned());
        }
    }

    /// Bytes that are known only at the end.
    pub(super) fn count_bytes(&self, bytes: u64) {
        let mut used = lock(&self.used);
        used.bytes = used.bytes.saturating_add(bytes);
    }

    /// How it ended.
    pub(super) fn outcome(&self, outcome: String) {
        lock(&self.used).outcome = Some(outcome);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let mut used = std::mem::take(&mut *lock(&self.used));
        used.lasted = self.began.elapsed();
        if self.always || !used.calls.is_empty() {
            self.observer.closed(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::plugin::observer::{Ended, Noted};
    use crate::policy::{Call, Decision};
    use async_trait::async_trait;

    #[derive(Default)]
    struct Lines(Mutex<Vec<HandleUse>>);

    #[async_trait]
    impl Observer for Lines {
        async fn decided(&self, _: &'static str, _: &Call<'_>, _: &Decision) -> Result<Noted> {
            Ok(Noted::default())
        }
        fn ended(&self, _: &Ended<'_>) -> Result<()> {
            Ok(())
        }
        fn closed(&self, used: &HandleUse) {
            lock(&self.0).push(used.clone());
        }
    }

    #[test]
    fn a_million_calls_are_told_once_and_a_handle_that_was_not_used_is_not() {
        let lines = Arc::new(Lines::default());
        drop(Ledger::new(lines.clone(), "source", "unread"));
        let ledger = Ledger::new(lines.clone(), "bucket", "documents");
        let entry = ledger.clone();
        for n in 0..1_000_000_u64 {
            let failed = Error::failed("x");
            entry.count("storage.bucket.read", Some("rule"), 3, (n == 7).then_some(&failed));
        }
        drop(ledger);
        assert!(lock(&lines.0).is_empty(), "an entry is still there");
        drop(entry);
        drop(Ledger::always(lines.clone(), "process", "pg_dump"));
        let told = lock(&lines.0);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].calls, BTreeMap::from([("storage.bucket.read", 1_000_000)]));
        assert_eq!((told[0].failed, told[0].bytes, told[0].rule.as_deref()), (1, 3_000_000, Some("rule")));
        assert_eq!(told[1].kind, "process");
    }
}
