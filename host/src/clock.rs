//! The one place that reads the wall clock, and the system's time zones.

use crate::error::{Error, Result};
use jiff::Timestamp;
pub use jiff::tz::TimeZone;
use std::path::Path;

/// Now, in UTC.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A time as records and messages write it: UTC with zone, to the second.
pub fn show(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Where the system keeps its time zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// The time zone of this name, such as `Europe/Berlin`, from the system's database; `UTC` needs none.
///
/// Errors: `Invalid` when the system does not know it.
pub fn zone(name: &str) -> Result<TimeZone> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let unknown = || {
        Error::invalid(format!("there is no time zone \"{}\" on this system", name.escape_debug()))
            .fact("expected", format!("\"UTC\", or a name of \"{ZONES}\" such as \"Europe/Berlin\""))
            .hint("where the system has no time zones, install tzdata")
    };
    let is_name = name.len() <= 64
        && name.split('/').all(|part| {
            part.starts_with(|first: char| first.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
        });
    if !is_name {
        return Err(unknown());
    }
    let rules = std::fs::read(Path::new(ZONES).join(name)).map_err(|error| unknown().because(error))?;
    TimeZone::tzif(name, &rules).map_err(|error| unknown().because(error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_those_of_the_system_and_no_other_files() {
        for known in ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5"] {
            assert!(zone(known).is_ok(), "{known}");
        }
        for unknown in ["", "Europe", "Europe/Nowhere", "../../etc/passwd", "/etc/passwd", "Europe/../UTC", "tzdata.zi"]
        {
            let error = zone(unknown).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Invalid, "{unknown}");
        }
    }
}
