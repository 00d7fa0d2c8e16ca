//! What becomes of a folder that holds no backup: a pure function of what lies in it and a clock.
//!
//! Its age is that of the youngest thing in it by the store's clock, so a run that is still at work
//! keeps its own folder young. What is locked goes as a whole when the last lock has ended.

use crate::failpoint::{self, Breakage};
use crate::id::BackupId;
use crate::store::Lock;
use jiff::{SignedDuration, Timestamp};

/// How long the data of a removed backup stays: whoever has read its record can finish reading it.
pub const GRACE: SignedDuration = SignedDuration::from_hours(24);
/// How old the youngest thing must be before what has no record is taken to be abandoned.
pub const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A folder of a job without a record that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The id in its name.
    pub id: BackupId,
    /// Versions of its record are there, and its name was removed by somebody.
    pub has_hidden_record: bool,
    /// When its record was removed last by a prune, by the store's clock.
    pub removed: Option<Timestamp>,
    /// When the youngest object, marker or part in it was stored, by the store's clock.
    pub youngest: Option<Timestamp>,
    /// The job's lease names it: its run may be at work.
    pub is_leased: bool,
    /// What keeps the store from removing something in it, as far as the store was asked.
    pub locked: Option<Lock>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is removed.
    Remove(Why),
    /// It is removed later, not before this time.
    Wait(Why, Timestamp),
    /// The store keeps something in it for longer than it would stay, and why: it is removed as a whole, once
    /// nothing in it is locked.
    Locked(Why, String),
    /// It would be removed if orphans were asked for.
    Ask,
    /// It stays, and why.
    Keep(&'static str),
}

/// Why a folder is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A prune removed the record.
    Pruned,
    /// A run was interrupted, or could not clean up.
    Orphan,
}

impl Folder {
    /// Decides at `now` by the store's clock.
    pub fn fate(&self, now: Timestamp, with_orphans: bool) -> Fate {
        let after = |at: Timestamp, wait| at.saturating_add(wait).unwrap_or(Timestamp::MAX);
        if self.has_hidden_record {
            return Fate::Keep("its record was removed by somebody else, and the store still has versions of it");
        }
        if self.is_leased {
            return Fate::Keep("the job's lease names it: its run may be at work");
        }
        if let Some(removed) = self.removed {
            let due = after(removed, GRACE);
            if let Some(lock) = self.lock_beyond(due, now) {
                return Fate::Locked(Why::Pruned, lock);
            }
            return if due < now { Fate::Remove(Why::Pruned) } else { Fate::Wait(Why::Pruned, due) };
        }
        let due = self.youngest.map_or(Timestamp::MIN, |youngest| after(youngest, ORPHAN_AGE));
        if let Some(lock) = self.lock_beyond(due, now) {
            return Fate::Locked(Why::Orphan, lock);
        }
        match (due < now || failpoint::is_broken(Breakage::IgnoreAge), with_orphans) {
            (false, _) => Fate::Wait(Why::Orphan, due),
            (true, true) => Fate::Remove(Why::Orphan),
            (true, false) => Fate::Ask,
        }
    }

    /// Whether its fate depends on locks, so that the store must be asked for them.
    pub fn may_go(&self, now: Timestamp) -> bool {
        match self.fate(now, true) {
            // The data of a backup that was removed had no locks a moment ago.
            Fate::Wait(why, _) => why == Why::Orphan,
            Fate::Remove(_) | Fate::Ask => true,
            Fate::Locked(..) | Fate::Keep(_) => false,
        }
    }

    /// What keeps something in it at `now`, and after `due` too.
    fn lock_beyond(&self, due: Timestamp, now: Timestamp) -> Option<String> {
        self.locked.as_ref().filter(|lock| lock.ends() > due)?.keeps(now)
    }
}

/// Whether an upload whose last part is of this time is abandoned at `now`, by the store's clock.
pub fn is_abandoned(last_part: Timestamp, now: Timestamp) -> bool {
    let due = last_part.saturating_add(ORPHAN_AGE).unwrap_or(Timestamp::MAX);
    due < now || failpoint::is_broken(Breakage::IgnoreAge)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn folder() -> Folder {
        let id = "20261120T020000Z-x7k2m9qd".parse().unwrap();
        Folder { id, has_hidden_record: false, removed: None, youngest: None, is_leased: false, locked: None }
    }

    fn now() -> Timestamp {
        "2026-12-01T00:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check_fate(folder: &Folder, expected: &Fate) {
        let with_orphans = folder.fate(now(), true);
        assert_eq!(with_orphans, *expected, "{folder:?}");
        let without = match expected {
            Fate::Remove(Why::Orphan) => Fate::Ask,
            other => other.clone(),
        };
        assert_eq!(folder.fate(now(), false), without, "{folder:?}");
    }

    #[test]
    fn the_data_of_a_removed_backup_stays_for_a_day_however_old_it_is() {
        let old = Some(now() - SignedDuration::from_hours(1000));
        let second = SignedDuration::from_secs(1);
        let since = |age| Folder { removed: Some(now() - age), youngest: old, ..folder() };
        check_fate(&since(GRACE - HOUR), &Fate::Wait(Why::Pruned, now() + HOUR));
        check_fate(&since(GRACE), &Fate::Wait(Why::Pruned, now()));
        check_fate(&since(GRACE + second), &Fate::Remove(Why::Pruned));
    }

    #[test]
    fn a_folder_without_a_record_is_an_orphan_when_its_youngest_is_older_than_a_week() {
        let aged = |age| Folder { youngest: Some(now() - age), ..folder() };
        check_fate(&aged(HOUR), &Fate::Wait(Why::Orphan, now() - HOUR + ORPHAN_AGE));
        check_fate(&aged(ORPHAN_AGE), &Fate::Wait(Why::Orphan, now()));
        check_fate(&aged(ORPHAN_AGE + HOUR), &Fate::Remove(Why::Orphan));
        // A clock that ran ahead keeps it longer, never shorter.
        check_fate(&aged(-HOUR), &Fate::Wait(Why::Orphan, now() + HOUR + ORPHAN_AGE));
    }

    #[test]
    fn what_a_lease_names_and_what_has_a_hidden_record_stays_at_any_age() {
        let old = now() - SignedDuration::from_hours(10_000);
        for removed in [None, Some(old)] {
            let folder = Folder { removed, youngest: Some(old), ..folder() };
            let leased = Folder { is_leased: true, ..folder.clone() };
            assert!(matches!(leased.fate(now(), true), Fate::Keep(why) if why.contains("lease")));
            let hidden = Folder { has_hidden_record: true, ..folder };
            assert!(matches!(hidden.fate(now(), true), Fate::Keep(why) if why.contains("versions")));
        }
    }

    #[test]
    fn what_is_locked_stays_until_its_last_lock_has_ended() {
        let until = |at| Lock::Until { mode: "compliance".to_owned(), until: at };
        let orphan = |lock| Folder { youngest: Some(now() - HOUR), locked: Some(lock), ..folder() };
        let due = now() - HOUR + ORPHAN_AGE;
        // A lock that ends before it would be removed anyhow says nothing.
        check_fate(&orphan(until(due - HOUR)), &Fate::Wait(Why::Orphan, due));
        check_fate(
            &orphan(until(due + HOUR)),
            &Fate::Locked(Why::Orphan, "compliance retention until 2026-12-08T00:00:00Z".to_owned()),
        );
        check_fate(&orphan(Lock::Held), &Fate::Locked(Why::Orphan, "legal hold".to_owned()));
        let old = |lock| Folder { youngest: Some(now() - ORPHAN_AGE - HOUR), ..orphan(lock) };
        check_fate(&old(until(now())), &Fate::Remove(Why::Orphan));
        assert!(matches!(old(until(now() + HOUR)).fate(now(), true), Fate::Locked(Why::Orphan, _)));
        let removed = |lock| Folder { removed: Some(now() - GRACE - HOUR), ..old(lock) };
        check_fate(&removed(until(now() - HOUR)), &Fate::Remove(Why::Pruned));
        assert!(matches!(removed(Lock::Held).fate(now(), false), Fate::Locked(Why::Pruned, _)));
    }

    #[test]
    fn the_store_is_asked_for_locks_only_where_they_decide() {
        let old = Some(now() - SignedDuration::from_hours(10_000));
        let orphan = Folder { youngest: old, ..folder() };
        assert!(orphan.may_go(now()));
        assert!(Folder { youngest: Some(now()), ..folder() }.may_go(now()), "the plan says until when");
        assert!(Folder { removed: old, ..orphan.clone() }.may_go(now()));
        assert!(!Folder { removed: Some(now()), ..orphan.clone() }.may_go(now()));
        assert!(!Folder { is_leased: true, ..orphan.clone() }.may_go(now()));
        assert!(!Folder { has_hidden_record: true, ..orphan }.may_go(now()));
    }

    #[test]
    fn an_upload_is_abandoned_a_week_after_its_last_part() {
        assert!(!is_abandoned(now(), now()));
        assert!(!is_abandoned(now() - ORPHAN_AGE, now()));
        assert!(is_abandoned(now() - ORPHAN_AGE - HOUR, now()));
    }
}
