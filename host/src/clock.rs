//! The one place that reads the wall clock.

use crate::error::{Error, Result};
use jiff::Timestamp;

/// Now, in UTC.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A time as records and messages write it: UTC with zone, to the second.
pub fn show(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Milliseconds since 1970-01-01 UTC, never negative.
pub fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// A time from milliseconds since 1970-01-01 UTC.
pub fn from_millis(ms: u64) -> Result<Timestamp> {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or_else(|| Error::invalid(format!("{ms} ms since 1970 is not a time")))
}
