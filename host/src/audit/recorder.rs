//! Writes down what a plugin does: the observer of one run.

use super::batch::Batches;
use super::line::{Argument, Counted, Event, Line, Verdict, cut};
use super::{Chain, Summary};
use crate::error::{Error, Kind, Result};
use crate::plugin::{Ended, HandleUse, Noted, Observer, Stop};
use crate::policy::{Call, Decision, Policy};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Calls of one function, allowed or denied, that have lines of their own in one run. Of the rest those
/// that change an object of a bucket share lines before and after them, some hundreds each, and those that wait
/// for one flush share the line that names them; those that start a
/// program, store an artifact or change a cluster still have theirs; and those that change nothing are
/// counted. A guest that calls without end would otherwise fill the disk.
pub const MAX_LINES: u64 = 1000;

/// The bucket's write, which is flushed where it is done: those under way together share a flush.
const SHARES_FLUSH: &str = "storage.bucket.write";

/// The word for a call that did a part of what it was to do.
const INCOMPLETE: &str = "incomplete";

/// The observer that writes the audit log of one run.
pub struct Recorder {
    chain: Arc<Chain>,
    summary: Summary,
    policy: Arc<Policy>,
    /// Lines by what they tell and by function.
    written: Mutex<BTreeMap<(Event, &'static str), u64>>,
    /// Changes beyond those that have lines of their own.
    batches: Arc<Batches>,
}

impl Recorder {
    /// Writes into `chain`. `policy` is the run's: it gives the command lines behind labels.
    pub fn new(chain: Arc<Chain>, summary: Summary, policy: Arc<Policy>) -> Arc<Self> {
        Arc::new(Self { chain, summary, policy, written: Mutex::default(), batches: Arc::default() })
    }

    /// Tells what was only counted, and what shares a line that is not written yet, once the guest is gone.
    /// Errors: nothing more can be written, or something could not be.
    pub fn finish(&self) -> Result<()> {
        self.batches.finish(&self.chain)?;
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        let only_counted = |((event, _), n): &((Event, &'static str), u64)| *event != Event::Before && *n > MAX_LINES;
        for ((event, function), n) in written.into_iter().filter(only_counted) {
            let calls = vec![Counted { function: function.to_owned(), calls: n - MAX_LINES }];
            let detail = Some(format!("\"{}\" lines beyond the first {MAX_LINES}", event.name()));
            self.chain.append(Line { calls, detail, ..Line::of(Event::Counted) })?;
        }
        self.chain.healthy()
    }

    /// Whether one more line of this function may be written.
    fn counts(&self, event: Event, function: &'static str) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let n = written.entry((event, function)).or_default();
        *n += 1;
        *n <= MAX_LINES
    }

    fn call(&self, event: Event, function: &'static str, call: &Call<'_>, decision: &Decision) -> Line {
        Line {
            function: Some(function.to_owned()),
            // An allowed rule is the operator's own words; of a denied one the guest chose some.
            rule: Some(if decision.allowed { cut(&decision.rule) } else { self.summary.text(&decision.rule) }),
            decision: Some(if decision.allowed { Verdict::Allowed } else { Verdict::Denied }),
            arguments: self.summary.of(call, &self.policy),
            ..Line::of(event)
        }
    }
}

#[async_trait]
impl Observer for Recorder {
    async fn decided(&self, function: &'static str, call: &Call<'_>, decision: &Decision) -> Result<Noted> {
        if !decision.allowed {
            if self.counts(Event::Deny, function) {
                let detail = Some(self.summary.text(&decision.reason));
                self.chain.append(Line { detail, ..self.call(Event::Deny, function, call, decision) })?;
            }
            return Ok(Noted::default());
        }
        if !call.acts() {
            return Ok(Noted::default());
        }
        let of_a_bucket = matches!(call, Call::Bucket(_));
        let noted = if of_a_bucket && !self.counts(Event::Before, function) {
            self.batches.join(&self.chain, function, call, decision, (&self.summary, &self.policy))?
        } else {
            if !of_a_bucket {
                self.batches.settle(&self.chain)?;
            }
            Noted { line: self.chain.append(self.call(Event::Before, function, call, decision))?, nth: 0 }
        };
        if function != SHARES_FLUSH {
            let (batches, chain) = (self.batches.clone(), self.chain.clone());
            tokio::task::spawn_blocking(move || batches.flush(&chain))
                .await
                .map_err(|e| Error::failed("the host failed while it flushed the audit log").because(e))??;
        }
        Ok(noted)
    }

    fn ended(&self, ended: &Ended<'_>) -> Result<()> {
        let Ended { function, noted, error, failed, bytes, took, .. } = *ended;
        if noted.line > 0 && self.batches.ended(&self.chain, &self.summary, ended)? {
            return Ok(());
        }
        let told = match (ended.call, noted.line) {
            (_, before @ 1..) => Line {
                function: Some(function.to_owned()),
                rule: Some(cut(ended.rule)),
                before: Some(before),
                ..Line::of(Event::After)
            },
            (Some((call, decision)), 0) if self.counts(Event::Call, function) => {
                self.call(Event::Call, function, call, decision)
            }
            _ => return Ok(()),
        };
        self.chain.append(Line {
            failed: (failed > 0).then_some(failed),
            bytes: (bytes > 0).then_some(bytes),
            duration_us: Some(micros(took)),
            outcome: Some(if error.is_none() && failed > 0 { INCOMPLETE } else { outcome(error) }.to_owned()),
            detail: error.map(|error| self.summary.text(error.message())),
            ..told
        })?;
        Ok(())
    }

    fn closed(&self, used: &HandleUse) {
        let calls =
            used.calls.iter().map(|(function, calls)| Counted { function: (*function).to_owned(), calls: *calls });
        let line = Line {
            function: Some(used.kind.to_owned()),
            rule: used.rule.as_deref().map(|rule| self.summary.text(rule)),
            arguments: vec![Argument {
                name: "of".to_owned(),
                value: Some(self.summary.text(&used.subject)),
                hash: None,
            }],
            calls: calls.collect(),
            failed: (used.failed > 0).then_some(used.failed),
            bytes: (used.bytes > 0).then_some(used.bytes),
            duration_us: Some(micros(used.lasted)),
            outcome: used.outcome.as_deref().map(cut),
            ..Line::of(Event::Closed)
        };
        self.keep(used.kind, line);
    }

    fn stopped(&self, how: Stop, message: &str) {
        let (event, what) = match how {
            Stop::Trap => (Event::Trap, "trap"),
            Stop::Limit => (Event::Limit, "limit"),
        };
        self.keep(what, Line { detail: Some(self.summary.text(message)), ..Line::of(event) });
    }

    fn flush(&self) -> Result<()> {
        self.batches.flush(&self.chain)
    }
}

impl Recorder {
    /// A line where nobody can be told that it failed: the chain keeps that in mind, and the run fails.
    fn keep(&self, what: &'static str, line: Line) {
        if self.counts(line.event, what)
            && let Err(error) = self.chain.append(line)
        {
            tracing::debug!(%error, "a line of the audit log was not written");
        }
    }
}

pub(super) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// The word for how something ended, as lines write it.
pub fn outcome(error: Option<&Error>) -> &'static str {
    match error.map(Error::kind) {
        None => "ok",
        Some(Kind::Invalid) => "invalid",
        Some(Kind::NotFound) => "not-found",
        Some(Kind::Conflict) => "conflict",
        Some(Kind::Denied) => "denied",
        Some(Kind::Unavailable) => "unavailable",
        Some(Kind::TimedOut) => "timed-out",
        Some(Kind::Limit) => "limit",
        Some(Kind::Damaged) => "damaged",
        Some(Kind::Cancelled) => "cancelled",
        Some(Kind::Failed) => "failed",
    }
}
