//! Object lock: what is written cannot be removed before a day that the server keeps.
//!
//! A lock protects a version and not a name: whoever may write can still put something else under the
//! name, or delete it. The catalogue finds the version that a record names all the same. This module
//! decides what is locked and for how long, and sends nothing.

use super::check::FOLDER;
use crate::clock;
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use jiff::{SignedDuration, Timestamp};

/// Last part of the key of a lease: the one object that is written over, and so never locked.
pub const LEASE: &str = "lease.json";

/// Days that a lock may last at most: 100 years, the longest that S3 takes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>
pub const MAX_DAYS: u32 = 36_500;

/// Who may end a lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody, not even the owner of the account.
    Compliance,
    /// Whoever has a right of its own for it.
    Governance,
}

impl LockMode {
    /// As it is written in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Compliance => "compliance",
            Self::Governance => "governance",
        }
    }
}

/// How objects are locked when they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may end it early.
    pub mode: LockMode,
    /// How long it lasts from the moment of writing, in days of 24 hours.
    pub days: u32,
}

impl ObjectLock {
    /// Whether an object with this key is locked.
    pub fn covers(&self, key: &ObjectKey) -> bool {
        let mut parts = key.as_str().split('/');
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        first != Some(FOLDER) && !(second == Some(LEASE) && third.is_none())
    }

    /// The end of a lock that begins now, by this machine's clock. `Invalid` beyond what dates can say.
    pub fn until(&self) -> Result<Timestamp> {
        clock::now()
            .checked_add(SignedDuration::from_hours(i64::from(self.days) * 24))
            .map_err(|error| Error::invalid(format!("a lock of {} days has no end", self.days)).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_locked_but_leases_and_probes() {
        let lock = ObjectLock { mode: LockMode::Compliance, days: 30 };
        let covers = |key: &str| lock.covers(&ObjectKey::parse(key).unwrap());
        for key in [
            "orders/20261120T020000Z-x7k2m9qd/record.json",
            "orders/20261120T020000Z-x7k2m9qd/data/lease.json.0001.zst.age",
            "orders/20261120T020000Z-x7k2m9qd/lease.json",
            "plugins/00.wasm",
        ] {
            assert!(covers(key), "{key}");
        }
        for key in ["orders/lease.json", "strongroom-check/1-2/object"] {
            assert!(!covers(key), "{key}");
        }
    }

    #[test]
    fn a_lock_lasts_as_many_days_as_it_says() {
        let before = clock::now();
        let until = ObjectLock { mode: LockMode::Governance, days: 30 }.until().unwrap();
        let hours = (until - before).total(jiff::Unit::Hour).unwrap();
        assert!((720.0..720.1).contains(&hours), "{hours}");
    }
}
