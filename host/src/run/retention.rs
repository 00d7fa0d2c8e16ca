//! Which backups of a job are kept, and why: a pure function of what is recorded, the rules and a clock.
//!
//! It never sees a store. Whatever its input, the newest good backup and the newest verified one of
//! every source are kept, and so is everything that a kept one needs.

use crate::clock;
use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};
use crate::id::BackupId;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A backup may be this much younger than the store's clock says before it is taken to be of the
/// future: the difference at which S3 refuses requests.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> (`RequestTimeTooSkewed`)
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(15);

/// `keep = { … }` of a job: of how many periods the newest backup is kept. Zero keeps none by that rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many backups, whenever they were made.
    pub last: u32,
    /// The newest of each of the last so many hours that have one.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week, which begins on Monday.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

/// One of the rules of [`Keep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// [`Keep::last`]
    Last,
    /// [`Keep::hourly`]
    Hourly,
    /// [`Keep::daily`]
    Daily,
    /// [`Keep::weekly`]
    Weekly,
    /// [`Keep::monthly`]
    Monthly,
    /// [`Keep::yearly`]
    Yearly,
}

impl Keep {
    /// Every rule with its number of periods.
    pub fn rules(&self) -> [(Rule, u32); 6] {
        [
            (Rule::Last, self.last),
            (Rule::Hourly, self.hourly),
            (Rule::Daily, self.daily),
            (Rule::Weekly, self.weekly),
            (Rule::Monthly, self.monthly),
            (Rule::Yearly, self.yearly),
        ]
    }

    /// Whether no rule keeps anything.
    pub fn is_nothing(&self) -> bool {
        self.rules().iter().all(|(_, periods)| *periods == 0)
    }
}

impl Rule {
    /// As the configuration writes it.
    pub fn word(self) -> &'static str {
        match self {
            Rule::Last => "last",
            Rule::Hourly => "hourly",
            Rule::Daily => "daily",
            Rule::Weekly => "weekly",
            Rule::Monthly => "monthly",
            Rule::Yearly => "yearly",
        }
    }

    /// The period in which `at` lies; two backups of one period have the same text. `None` for
    /// [`Rule::Last`], where each backup is a period of its own.
    fn period(self, at: &Zoned) -> Option<String> {
        let text = match self {
            Rule::Last => return None,
            // With the offset: when clocks go back, the same hour comes twice.
            Rule::Hourly => at.strftime("%Y-%m-%d %H:00 %:z").to_string(),
            Rule::Daily => at.strftime("%Y-%m-%d").to_string(),
            Rule::Weekly => {
                let date = at.date();
                let monday = date.saturating_sub(i64::from(date.weekday().to_monday_zero_offset()).days());
                format!("week of {}", monday.strftime("%Y-%m-%d"))
            }
            Rule::Monthly => at.strftime("%Y-%m").to_string(),
            Rule::Yearly => at.strftime("%Y").to_string(),
        };
        Some(text)
    }
}

/// What a verification proved, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The bytes at rest are those recorded.
    Stored,
    /// The component's own reader accepts them.
    Contents,
    /// They were restored.
    Restored,
}

impl Proof {
    const ALL: [Proof; 3] = [Proof::Stored, Proof::Contents, Proof::Restored];

    /// As a reason says it.
    pub fn word(self) -> &'static str {
        match self {
            Proof::Stored => "its stored bytes",
            Proof::Contents => "its contents",
            Proof::Restored => "a restore",
        }
    }
}

/// What the decision is made from: a backup whose record is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BackupId,
    /// When it was started.
    pub at: Timestamp,
    /// What was backed up: backups of one source never displace those of another.
    pub source: Option<String>,
    /// Complete, and its last verification did not fail. The others count only among themselves.
    pub is_good: bool,
    /// The deepest verification that it passed; `None` without any, or when the last one failed.
    pub proof: Option<Proof>,
    /// The backups that restoring it needs.
    pub needs: Vec<BackupId>,
    /// Backups that need it and are no candidates: nobody sees their records, and they can be restored.
    pub needed_by: Vec<BackupId>,
    /// What keeps the store from removing it.
    pub locked: Option<String>,
}

/// Why a backup is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The newest of a period that a rule keeps.
    Rule(Rule, Option<String>),
    /// The last good one of its source.
    LastGood,
    /// The last one of its source that a verification proved this of.
    LastVerified(Proof),
    /// Another one that is kept needs it.
    NeededBy(BackupId),
    /// The store would not remove it.
    Locked(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Rule(rule, Some(period)) => write!(f, "{} ({period})", rule.word()),
            Reason::Rule(rule, None) => f.write_str(rule.word()),
            Reason::LastGood => f.write_str("the last good one"),
            Reason::LastVerified(proof) => write!(f, "the last one verified by {}", proof.word()),
            Reason::NeededBy(id) => write!(f, "needed by {id}"),
            Reason::Locked(what) => write!(f, "locked: {what}"),
        }
    }
}

/// What is decided about one backup: kept for these reasons, or removed when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Why it is kept, each reason once.
    pub reasons: BTreeSet<Reason>,
}

impl Verdict {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides about every candidate, in their order.
///
/// Periods are those of `zone`. A rule counts periods that have a backup, not periods that have
/// passed: a job that makes no backups loses none. Errors: `Denied` when a backup is of the future
/// by more than [`CLOCK_TOLERANCE`], since it would count as the newest of everything; `Invalid`
/// when no rule keeps anything.
pub fn decide(keep: &Keep, zone: &TimeZone, now: Timestamp, candidates: &[Candidate]) -> Result<Vec<Verdict>> {
    if keep.is_nothing() {
        return Err(Error::invalid("no rule keeps anything"));
    }
    refuse_the_future(now, candidates)?;

    let mut reasons = vec![BTreeSet::new(); candidates.len()];
    for group in groups(candidates) {
        for (rule, periods) in keep.rules() {
            keep_newest(rule, periods, zone, candidates, &group, &mut reasons);
        }
    }
    for group in groups(candidates).iter().filter(|group| group.first().is_some_and(|n| candidates[*n].is_good)) {
        if let Some(newest) = group.first() {
            reasons[*newest].insert(Reason::LastGood);
        }
        for proof in Proof::ALL {
            if failpoint::is_broken(Breakage::ForgetVerified) {
                break;
            }
            if let Some(newest) = group.iter().find(|n| candidates[**n].proof >= Some(proof)) {
                reasons[*newest].insert(Reason::LastVerified(proof));
            }
        }
    }
    for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
        reasons.extend(candidate.locked.clone().map(Reason::Locked));
    }
    if !failpoint::is_broken(Breakage::ForgetNeeds) {
        for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
            reasons.extend(candidate.needed_by.iter().cloned().map(Reason::NeededBy));
        }
        keep_what_is_needed(candidates, &mut reasons);
    }

    let verdict = |(candidate, reasons): (&Candidate, BTreeSet<Reason>)| Verdict { id: candidate.id.clone(), reasons };
    Ok(candidates.iter().zip(reasons).map(verdict).collect())
}

fn refuse_the_future(now: Timestamp, candidates: &[Candidate]) -> Result<()> {
    let latest = now.saturating_add(CLOCK_TOLERANCE).unwrap_or(Timestamp::MAX);
    match candidates.iter().find(|candidate| candidate.at > latest) {
        None => Ok(()),
        Some(candidate) => Err(Error::denied(format!("backup {} is of the future: nothing is pruned", candidate.id))
            .fact("started", clock::show(candidate.at))
            .fact("the store's clock", clock::show(now))
            .hint(
                "set the clocks of the store and of the machine that made it; `strongroom store check` compares them",
            )),
    }
}

/// Backups that count among themselves: of one source, and good or not; newest first.
fn groups(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<(Option<&str>, bool), Vec<usize>> = BTreeMap::new();
    for (n, candidate) in candidates.iter().enumerate() {
        groups.entry((candidate.source.as_deref(), candidate.is_good)).or_default().push(n);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    let newest_first =
        |a: &usize, b: &usize| (candidates[*b].at, &candidates[*b].id).cmp(&(candidates[*a].at, &candidates[*a].id));
    groups.iter_mut().for_each(|group| group.sort_by(newest_first));
    groups
}

/// Keeps the newest backup of each of the newest `periods` periods that have one.
fn keep_newest(
    rule: Rule,
    periods: u32,
    zone: &TimeZone,
    candidates: &[Candidate],
    newest_first: &[usize],
    reasons: &mut [BTreeSet<Reason>],
) {
    let mut seen = BTreeSet::new();
    let mut left = periods;
    for n in newest_first {
        if left == 0 {
            return;
        }
        let period = rule.period(&candidates[*n].at.to_zoned(zone.clone()));
        if period.as_ref().is_none_or(|period| seen.insert(period.clone())) {
            reasons[*n].insert(Reason::Rule(rule, period));
            left -= 1;
        }
    }
}

/// Keeps what a kept backup needs, and what that needs.
fn keep_what_is_needed(candidates: &[Candidate], reasons: &mut [BTreeSet<Reason>]) {
    let place: BTreeMap<&BackupId, usize> = candidates.iter().enumerate().map(|(n, c)| (&c.id, n)).collect();
    let mut to_follow: VecDeque<usize> = (0..candidates.len()).filter(|n| !reasons[*n].is_empty()).collect();
    while let Some(n) = to_follow.pop_front() {
        for needed in candidates[n].needs.iter().filter_map(|id| place.get(id).copied()).filter(|m| *m != n) {
            let was_kept = !reasons[needed].is_empty();
            reasons[needed].insert(Reason::NeededBy(candidates[n].id.clone()));
            if !was_kept {
                to_follow.push_back(needed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
