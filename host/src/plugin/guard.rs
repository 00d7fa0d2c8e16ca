//! The one function that every call of a guest goes through.
//!
//! A guest is told that it was denied and nothing more; the operator is told the rule, the reason
//! and the TOML that is missing. Nothing here decides: that is the policy's.

use super::budget::{Limit, Meter};
use super::ledger::Ledger;
use super::limits::Limits;
use super::observer::{Ended, Later, Noted, Observer, Stop};
use crate::error::{Error, Kind, Result};
use crate::policy::{Call, Decision, Policy};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use wasmtime::component::ResourceTableError;

/// All that a guest learns of a denial.
pub(super) const DENIED: &str = "the operator's grants do not cover this call";

/// Most distinct denials that are kept for the operator.
const MAX_DENIALS: usize = 100;
/// Most errors that are kept in full behind what the guest was told of them.
const MAX_RECENT: usize = 16;

/// A call that the policy refused, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The function that was called, such as `exec.spawn`.
    pub function: &'static str,
    /// The rule that decided.
    pub rule: String,
    /// Why.
    pub reason: String,
    /// The TOML that would allow it; empty where nothing would.
    pub missing: String,
    /// How often.
    pub count: u64,
}

/// The denials of a run, at most 100 distinct ones; a copy sees the same list.
#[derive(Clone, Debug, Default)]
pub struct Denials(Arc<Mutex<Vec<Denial>>>);

impl Denials {
    /// What was denied so far, in order.
    pub fn list(&self) -> Vec<Denial> {
        lock(&self.0).clone()
    }

    fn add(&self, function: &'static str, decision: &Decision) {
        let mut list = lock(&self.0);
        let same = |d: &&mut Denial| d.function == function && d.rule == decision.rule && d.reason == decision.reason;
        if let Some(denial) = list.iter_mut().find(same) {
            denial.count += 1;
        } else if list.len() < MAX_DENIALS {
            list.push(Denial {
                function,
                rule: decision.rule.clone(),
                reason: decision.reason.clone(),
                missing: decision.missing.clone(),
                count: 1,
            });
        }
    }
}

/// A lock that a panic elsewhere cannot make useless: what it holds is whole after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a call was not done.
#[derive(Debug)]
pub enum Refusal {
    /// The policy refused it; the error is for the operator.
    Denied(Error),
    /// The guest is answered with kind and message.
    Answer(Error),
    /// The guest is ended.
    End(wasmtime::Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Answer(error)
    }
}

impl From<ResourceTableError> for Refusal {
    fn from(error: ResourceTableError) -> Self {
        Refusal::End(error.into())
    }
}

impl From<Refusal> for wasmtime::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(error) | Refusal::Answer(error) => wasmtime::Error::new(error),
            Refusal::End(error) => error,
        }
    }
}

/// Ends the guest: a call that cannot be written down does not happen, and no later one does.
fn unwritten(error: Error) -> Refusal {
    Refusal::End(wasmtime::Error::new(error))
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline {
    /// It waits for nothing, or is timed where it waits.
    Own,
    /// It moves bytes or awaits them: the limit `stall`.
    Stall,
}

/// The guard of one run.
#[derive(Clone)]
pub(super) struct Guard(Arc<Inner>);

struct Inner {
    label: String,
    policy: Policy,
    limits: Limits,
    observer: Arc<dyn Observer>,
    denials: Denials,
    meter: Meter,
    recent: Mutex<VecDeque<(String, Error)>>,
    /// Calls on no handle; taken when the run ends.
    run: Mutex<Option<Arc<Ledger>>>,
    /// What is being done for the guest now, until its end is told. A guest makes one call at a time.
    current: Mutex<Option<Later>>,
    /// Bytes that the call moved.
    moved: AtomicU64,
    /// Things of the call that were not done.
    failed: AtomicU64,
}

impl Guard {
    pub(super) fn new(label: &str, policy: Policy, limits: &Limits, observer: Arc<dyn Observer>) -> Self {
        Self(Arc::new(Inner {
            label: label.to_owned(),
            policy,
            run: Mutex::new(Some(Ledger::new(observer.clone(), "run", label))),
            observer,
            denials: Denials::default(),
            meter: Meter::new(limits.cpu),
            limits: limits.clone(),
            recent: Mutex::default(),
            current: Mutex::default(),
            moved: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }))
    }

    /// A ledger for one handle: its calls are counted and become one line.
    pub(super) fn ledger(&self, kind: &'static str, subject: &str) -> Arc<Ledger> {
        Ledger::new(self.0.observer.clone(), kind, subject)
    }

    /// The same for a handle whose end is told even when nothing was called on it.
    pub(super) fn ledger_always(&self, kind: &'static str, subject: &str) -> Arc<Ledger> {
        Ledger::always(self.0.observer.clone(), kind, subject)
    }

    /// Counts bytes that the call under way has moved.
    pub(super) fn moved(&self, bytes: usize) {
        self.0.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts things that the call under way was to do, and did not.
    pub(super) fn failed(&self, n: usize) {
        self.0.failed.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Takes the end of the call under way over: whoever gets it tells how the call ended, when what it
    /// has begun has. `None` outside a call that the policy decided.
    pub(super) fn later(&self) -> Option<Later> {
        lock(&self.0.current).take()
    }

    /// Makes what was written down of calls so far durable. Blocks.
    pub(super) fn flush(&self) -> Result<()> {
        self.0.observer.flush()
    }

    /// Tells that the guest was stopped.
    pub(super) fn stopped(&self, how: Stop, message: &str) {
        self.0.observer.stopped(how, message);
    }

    /// Tells of a call that was broken off, and of the calls that were made on no handle; nothing is
    /// counted after it.
    pub(super) fn close(&self) {
        drop(self.later());
        drop(lock(&self.0.run).take());
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    pub(super) fn denials(&self) -> &Denials {
        &self.0.denials
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// The plugin's name in the configuration.
    pub(super) fn label(&self) -> &str {
        &self.0.label
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn spent(&self, limit: Limit) -> Error {
        limit.spent(&self.0.label, &self.0.limits)
    }

    /// Does `work` for the guest, if the policy allows `call`: decision, audit, deadline, audit.
    ///
    /// `call` is `None` for what needs no decision, or was decided when the handle was made. When
    /// nothing can be written down of it any more, the guest is ended.
    pub(super) async fn pass<T>(
        &self,
        function: &'static str,
        call: Option<&Call<'_>>,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let run = if call.is_none() { lock(&self.0.run).clone() } else { None };
        self.metered(run.as_deref(), function, call, deadline, work).await
    }

    /// The same for a call on a handle, which its ledger counts unless it is refused.
    pub(super) async fn pass_on<T>(
        &self,
        ledger: &Ledger,
        function: &'static str,
        call: Option<&Call<'_>>,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        self.metered(Some(ledger), function, call, deadline, work).await
    }

    async fn metered<T>(
        &self,
        ledger: Option<&Ledger>,
        function: &'static str,
        call: Option<&Call<'_>>,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        self.0.meter.charge();
        let result = self.observed(ledger, function, call, deadline, work).await;
        self.0.meter.resume();
        result
    }

    async fn observed<T>(
        &self,
        ledger: Option<&Ledger>,
        function: &'static str,
        call: Option<&Call<'_>>,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let inner = &*self.0;
        let began = Instant::now();
        let decided = call.map(|call| (call, inner.policy.decide(call)));
        let mut noted = Noted::default();
        if let Some((call, decision)) = &decided {
            if ledger.is_none() || !decision.allowed {
                noted = inner.observer.decided(function, call, decision).await.map_err(unwritten)?;
            }
            if !decision.allowed {
                return Err(self.deny(function, decision.clone()));
            }
            *lock(&inner.current) = Some(Later::new(inner.observer.clone(), function, &decision.rule, noted));
        }
        let result = self.within(deadline, work).await;
        let bytes = inner.moved.swap(0, Ordering::Relaxed);
        let failed = inner.failed.swap(0, Ordering::Relaxed);
        let current = lock(&inner.current).take();
        let error = match &result {
            Ok(_) | Err(Refusal::End(_)) => None,
            Err(Refusal::Denied(error) | Refusal::Answer(error)) => Some(error),
        };
        match (ledger, decided, current) {
            (Some(ledger), decided, current) => {
                current.into_iter().for_each(Later::forget);
                ledger.count(function, decided.as_ref().map(|(_, decision)| decision.rule.as_str()), bytes, error);
                if let Some(error) = error.filter(|error| error.kind() == Kind::Limit) {
                    inner.observer.stopped(Stop::Limit, error.message());
                }
            }
            (None, Some((call, decision)), Some(current)) => {
                current.forget();
                let (call, took) = (Some((call, &decision)), began.elapsed());
                let ended = Ended { function, call, rule: &decision.rule, noted, error, failed, bytes, took };
                inner.observer.ended(&ended).map_err(unwritten)?;
            }
            // Its end is told later, or there is nobody who counts any more.
            (None, ..) => {}
        }
        result
    }

    /// Notes a denial; the error is the operator's.
    pub(super) fn deny(&self, function: &'static str, decision: Decision) -> Refusal {
        self.0.denials.add(function, &decision);
        let Decision { rule, reason, missing, .. } = decision;
        let mut error = Error::denied(format!("plugin \"{}\" may not call {function}", self.0.label))
            .fact("reason", reason)
            .fact("rule", rule);
        if !missing.is_empty() {
            error = error.hint(format!("if it should, add to the configuration:\n{missing}"));
        }
        Refusal::Denied(error)
    }

    async fn within<T>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        match deadline {
            Deadline::Own => work.await,
            Deadline::Stall => {
                tokio::time::timeout(self.0.limits.stall, work).await.unwrap_or_else(|_| Err(self.stalled().into()))
            }
        }
    }

    /// The error of a call that made no progress for the limit `stall`.
    pub(super) fn stalled(&self) -> Error {
        let error = self.spent(Limit::Stall);
        let hint = error.hint_text().unwrap_or_default().to_owned();
        Error::timed_out(format!("no progress for {}", crate::unit::duration(self.0.limits.stall))).hint(hint)
    }

    /// Keeps an error in full and gives what the guest is told of it.
    pub(super) fn tell(&self, error: Error, told: &str) -> String {
        let told = super::speech::line(told);
        let mut recent = lock(&self.0.recent);
        if recent.len() == MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back((told.clone(), error));
        told
    }

    /// A finding of the guest with the causes of the host's own error that it passes on: the guest is
    /// told what failed, and only the operator why.
    pub(super) fn explained(&self, text: &str) -> String {
        let shown = super::speech::line(text);
        let recent = lock(&self.0.recent);
        let behind = recent.iter().rev().find(|(told, _)| text.contains(told.as_str()));
        let first = behind.and_then(|(_, error)| std::error::Error::source(error));
        let causes: Vec<_> = std::iter::successors(first, |error| error.source()).map(ToString::to_string).collect();
        if causes.is_empty() { shown } else { format!("{shown}; because: {}", causes.join(": ")) }
    }

    /// The error in full behind a text that the guest passes on, if it was told it in this run.
    pub(super) fn behind(&self, text: &str) -> Option<Error> {
        let mut recent = lock(&self.0.recent);
        let at = recent.iter().rposition(|(told, _)| text.contains(told.as_str()))?;
        recent.remove(at).map(|(_, error)| error)
    }
}

/// The kind that a guest is answered with. What the operating system or a server denied is a
/// failure for the guest: `denied` is the policy's word alone.
pub(super) fn kind_for_guest(kind: Kind) -> Kind {
    match kind {
        Kind::Denied | Kind::Damaged | Kind::Cancelled => Kind::Failed,
        other => other,
    }
}
