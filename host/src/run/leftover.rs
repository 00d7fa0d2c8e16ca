//! What becomes of a folder that holds no backup: a pure function of what lies in it and a clock.
//!
//! Its age is that of the youngest thing in it by the store's clock, so a run that is still at work
//! keeps its own folder young.

use crate::id::BackupId;
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
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is removed.
    Remove(Why),
    /// It is removed later, not before this time.
    Wait(Why, Timestamp),
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
            return if due < now { Fate::Remove(Why::Pruned) } else { Fate::Wait(Why::Pruned, due) };
        }
        let due = self.youngest.map_or(Timestamp::MIN, |youngest| after(youngest, ORPHAN_AGE));
        match (due < now, with_orphans) {
            (false, _) => Fate::Wait(Why::Orphan, due),
            (true, true) => Fate::Remove(Why::Orphan),
            (true, false) => Fate::Ask,
        }
    }
}

/// Whether an upload whose last part is of this time is abandoned at `now`, by the store's clock.
pub fn is_abandoned(last_part: Timestamp, now: Timestamp) -> bool {
    last_part.saturating_add(ORPHAN_AGE).unwrap_or(Timestamp::MAX) < now
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn folder() -> Folder {
        let id = "20261120T020000Z-x7k2m9qd".parse().unwrap();
        Folder { id, has_hidden_record: false, removed: None, youngest: None, is_leased: false }
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
    fn an_upload_is_abandoned_a_week_after_its_last_part() {
        assert!(!is_abandoned(now(), now()));
        assert!(!is_abandoned(now() - ORPHAN_AGE, now()));
        assert!(is_abandoned(now() - ORPHAN_AGE - HOUR, now()));
    }
}
