//! Changes of which a run may make millions: some hundreds of them share a line before and a line after.
//!
//! What each of them is about is named before it is made: by a line that those share which wait for the same flush.
//! The line after names the ones that failed.

use super::line::{Argument, Counted, Event, Line, Verdict, cut};
use super::recorder::{micros, outcome};
use super::{Chain, Summary};
use crate::error::{Error, Result};
use crate::plugin::{Ended, Noted};
use crate::policy::{Call, Decision, Policy};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most calls that share a line before and a line after.
pub(super) const MAX_CALLS: usize = 500;
/// Names of one batch, in bytes, beyond which the next one begins: in JSON they are at most six times as
/// long, which fits into a line.
const MAX_NAME_BYTES: usize = 32 << 10;

/// The batches of one run that have a line before them and none after. Memory: for each kind of change
/// (function, rule, bucket, verb) the names of at most [`MAX_CALLS`] calls, twice where the last of a batch
/// take their time.
#[derive(Default)]
pub(super) struct Batches {
    open: Mutex<Vec<Batch>>,
    /// Held by who flushes: those that come meanwhile are named together by the next one.
    flushing: Mutex<()>,
}

struct Batch {
    /// The line before it.
    line: u64,
    function: &'static str,
    rule: String,
    /// What all of its calls have in common: where, and what is done.
    place: Vec<Argument>,
    /// What each call is about, in the order in which they began.
    about: Vec<Argument>,
    about_bytes: usize,
    /// How many of them a line has named.
    n_named: usize,
    under_way: usize,
    /// What those that failed were about, in the order in which they ended.
    not_well: Vec<Argument>,
    bytes: u64,
    /// How the first one that failed did.
    trouble: Option<(&'static str, String)>,
    began: Instant,
}

impl Batches {
    /// Takes one more call in, into a new batch where none takes it. It must be named, and what names it flushed,
    /// before it is made.
    pub(super) fn join(
        &self,
        chain: &Chain,
        function: &'static str,
        call: &Call<'_>,
        decision: &Decision,
        (summary, policy): (&Summary, &Policy),
    ) -> Result<Noted> {
        let mut place = summary.of(call, policy);
        let about = match place.pop_if(|last| matches!(last.name.as_str(), "key" | "part")) {
            Some(about) => about,
            None => Argument { name: "key".to_owned(), value: None, hash: None },
        };
        let mut batches = self.lock();
        let takes = |batch: &&mut Batch| {
            batch.function == function && batch.rule == decision.rule && batch.place == place && !batch.is_full()
        };
        if let Some(batch) = batches.iter_mut().find(takes) {
            chain.healthy()?;
            return Ok(batch.take(about));
        }
        let line = chain.append(Line {
            function: Some(function.to_owned()),
            rule: Some(cut(&decision.rule)),
            decision: Some(Verdict::Allowed),
            arguments: place.clone(),
            detail: Some(format!(
                "the first of at most {MAX_CALLS} such calls: lines behind it name each before it is made"
            )),
            ..Line::of(Event::Before)
        })?;
        let mut batch = Batch {
            line,
            function,
            rule: decision.rule.clone(),
            place,
            about: Vec::new(),
            about_bytes: 0,
            n_named: 0,
            under_way: 0,
            not_well: Vec::new(),
            bytes: 0,
            trouble: None,
            began: Instant::now(),
        };
        let noted = batch.take(about);
        batches.push(batch);
        Ok(noted)
    }

    /// Names every call that no line has named yet, and makes all lines so far durable. Blocks.
    pub(super) fn flush(&self, chain: &Chain) -> Result<()> {
        let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().iter_mut().try_for_each(|batch| batch.name(chain))?;
        chain.flush()
    }

    /// A call has ended; false when it is in no batch. The last one of a full batch brings its line.
    pub(super) fn ended(&self, chain: &Chain, summary: &Summary, ended: &Ended<'_>) -> Result<bool> {
        let mut batches = self.lock();
        let Some(at) = batches.iter().position(|batch| batch.line == ended.noted.line) else { return Ok(false) };
        batches[at].count(summary, ended);
        if batches[at].is_full() && batches[at].under_way == 0 {
            batches.swap_remove(at).tell(chain)?;
        }
        Ok(true)
    }

    /// Something else is about to change: what has ended is told before it.
    pub(super) fn settle(&self, chain: &Chain) -> Result<()> {
        self.tell(chain, |batch| batch.under_way == 0)
    }

    /// The run is at its end: everything is told.
    pub(super) fn finish(&self, chain: &Chain) -> Result<()> {
        self.tell(chain, |_| true)
    }

    fn tell(&self, chain: &Chain, which: impl FnMut(&mut Batch) -> bool) -> Result<()> {
        let mut batches = self.lock();
        let mut told: Vec<Batch> = batches.extract_if(.., which).collect();
        told.sort_by_key(|batch| batch.line);
        told.into_iter().try_for_each(|batch| batch.tell(chain))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Batch>> {
        // A panic while it is held leaves a call that never ends, which the line after says.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.about.len() >= MAX_CALLS || self.about_bytes >= MAX_NAME_BYTES
    }

    fn take(&mut self, about: Argument) -> Noted {
        self.about_bytes += [&about.value, &about.hash].into_iter().flatten().map(String::len).sum::<usize>();
        self.about.push(about);
        self.under_way += 1;
        Noted { line: self.line, nth: self.about.len() - 1 }
    }

    fn count(&mut self, summary: &Summary, ended: &Ended<'_>) {
        self.under_way = self.under_way.saturating_sub(1);
        self.bytes = self.bytes.saturating_add(ended.bytes);
        let Some(error) = ended.error else { return };
        if let Some(about) = self.about.get(ended.noted.nth) {
            self.not_well.push(Argument { name: format!("failed {}", about.name), ..about.clone() });
        }
        let told = |error: &Error| (outcome(Some(error)), summary.text(error.message()));
        self.trouble.get_or_insert_with(|| told(error));
    }

    fn name(&mut self, chain: &Chain) -> Result<()> {
        let unnamed = &self.about[self.n_named..];
        if unnamed.is_empty() {
            return Ok(());
        }
        chain.append(Line {
            function: Some(self.function.to_owned()),
            before: Some(self.line),
            arguments: unnamed.to_vec(),
            ..Line::of(Event::Before)
        })?;
        self.n_named = self.about.len();
        Ok(())
    }

    /// Writes the line after it, and names first who was to be named: a call that was given up before it was made.
    fn tell(mut self, chain: &Chain) -> Result<()> {
        self.name(chain)?;
        chain.append(self.after()).map(drop)
    }

    fn after(self) -> Line {
        let failed = u64::try_from(self.not_well.len()).unwrap_or(u64::MAX);
        let calls = u64::try_from(self.about.len()).unwrap_or(u64::MAX);
        let (word, trouble) = self.trouble.unzip();
        let open = (self.under_way > 0).then(|| format!("{} of them have not told how they ended", self.under_way));
        Line {
            function: Some(self.function.to_owned()),
            rule: Some(cut(&self.rule)),
            before: Some(self.line),
            arguments: self.place.into_iter().chain(self.not_well).collect(),
            calls: vec![Counted { function: self.function.to_owned(), calls }],
            failed: (failed > 0).then_some(failed),
            bytes: (self.bytes > 0).then_some(self.bytes),
            duration_us: Some(micros(self.began.elapsed())),
            outcome: Some(word.unwrap_or("ok").to_owned()),
            detail: [trouble, open].into_iter().flatten().reduce(|all, more| format!("{all}; {more}")),
            ..Line::of(Event::After)
        }
    }
}
