//! Who sees the calls of a guest: the audit log's place. Nothing here decides or changes a call.

use super::ledger::HandleUse;
use crate::error::{Error, Result};
use crate::policy::{Call, Decision};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sees every call.
#[async_trait]
pub trait Observer: Send + Sync {
    /// A call that the policy has decided on, before anything happens; returns where it stands in what was
    /// written. If this fails, the call does not happen and the guest is ended.
    ///
    /// Not told: calls on a handle that are allowed, which [`Observer::closed`] counts.
    async fn decided(&self, function: &'static str, call: &Call<'_>, decision: &Decision) -> Result<Noted>;

    /// An allowed call has ended, well or with an error. Of a call whose work goes on behind the guest's
    /// back this is the end of that work.
    fn ended(&self, ended: &Ended<'_>) -> Result<()>;

    /// A handle is gone, and this is what it was used for.
    fn closed(&self, _: &HandleUse) {}

    /// The guest was stopped, or a call of it by a limit.
    fn stopped(&self, _: Stop, _: &str) {}

    /// Makes durable what was written down so far. Blocks.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// Where a call stands that was written down before it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Number of the line; 0 where none was written.
    pub line: u64,
    /// Which of the calls that share the line it is, from 0.
    pub nth: usize,
}

/// Writes nothing down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

#[async_trait]
impl Observer for Unobserved {
    async fn decided(&self, _: &'static str, _: &Call<'_>, _: &Decision) -> Result<Noted> {
        Ok(Noted::default())
    }

    fn ended(&self, _: &Ended<'_>) -> Result<()> {
        Ok(())
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The function, such as `storage.put`.
    pub function: &'static str,
    /// The call and what was decided; `None` when it ended behind the guest's back.
    pub call: Option<(&'a Call<'a>, &'a Decision)>,
    /// The rule that allowed it.
    pub rule: &'a str,
    /// What [`Observer::decided`] returned.
    pub noted: Noted,
    /// Why it failed.
    pub error: Option<&'a Error>,
    /// Of a call that does many things, how many of them were not done; 0 where all were, or none is told apart.
    pub failed: u64,
    /// Bytes that it moved, where they are known.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A trap, a panic or an exit.
    Trap,
    /// One of its limits is spent.
    Limit,
}

/// The end of a call whose work goes on when the call has returned. Dropped without [`Later::done`], it
/// tells that the work was given up.
pub(super) struct Later {
    observer: Arc<dyn Observer>,
    function: &'static str,
    rule: String,
    noted: Noted,
    began: Instant,
    told: bool,
}

impl Later {
    pub(super) fn new(observer: Arc<dyn Observer>, function: &'static str, rule: &str, noted: Noted) -> Self {
        Self { observer, function, rule: rule.to_owned(), noted, began: Instant::now(), told: false }
    }

    /// It has ended: well with so many bytes, or with this error.
    pub(super) fn done(mut self, error: Option<&Error>, bytes: u64) {
        self.tell(error, bytes);
    }

    /// Somebody else tells.
    pub(super) fn forget(mut self) {
        self.told = true;
    }

    fn tell(&mut self, error: Option<&Error>, bytes: u64) {
        self.told = true;
        let Self { function, noted, .. } = *self;
        let took = self.began.elapsed();
        let ended = Ended { function, call: None, rule: &self.rule, noted, error, failed: 0, bytes, took };
        // Nobody is left to answer: an observer that cannot write keeps that in mind, and the run fails.
        if let Err(error) = self.observer.ended(&ended) {
            tracing::debug!(%error, "the end of a call was not written down");
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Some(&Error::cancelled("it was given up")), 0);
        }
    }
}
