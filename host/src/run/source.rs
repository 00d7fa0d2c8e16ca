//! Whether a backup is of the source that the job has always backed up.
//!
//! A database that was replaced by an empty one is still there, answers, and is backed up without
//! an error. Only its own identity says that it is another one, so a new identity fails the job
//! until the operator has named it. That is kept in the record, and is said once.

use super::Job;
use crate::catalog::Listed;
use crate::clock;
use crate::error::{Error, Result};
use crate::record::BackupRecord;
use serde_json::json;
use std::collections::BTreeMap;

/// Where a record says that its source was confirmed as a new one.
pub const CONFIRMED: &str = "new_source";

/// Fails unless the source of `record` is one of those that were backed up before, or the one that the
/// operator confirmed, which is noted in the record. A job without backups, and one whose plugin
/// names no source, has nothing to compare with.
///
/// Errors: `Denied` for another source, and for a confirmation of another one than was found.
pub(super) fn check(job: &Job, record: &mut BackupRecord, earlier: &[Listed]) -> Result<()> {
    let mut known: BTreeMap<&str, &BackupRecord> = BTreeMap::new();
    for earlier in earlier.iter().filter_map(Listed::trusted) {
        known.extend(earlier.source_id.as_deref().map(|source| (source, earlier)));
    }
    let Some(found) = record.source_id.clone() else { return Ok(()) };
    if let Some(confirmed) = job.new_source.as_ref().filter(|confirmed| **confirmed != found) {
        return Err(Error::denied(format!(
            "job \"{}\" found another source than the one that was confirmed",
            job.name
        ))
        .fact("confirmed", confirmed.clone())
        .fact("got", found)
        .hint("nothing was recorded; look at what the job connects to"));
    }
    if known.is_empty() || known.contains_key(found.as_str()) {
        return Ok(());
    }
    if job.new_source.is_none() {
        let mut error = Error::denied(format!("job \"{}\" would back up another source than before", job.name));
        for (source, last) in &known {
            let made = format!("{source}, last in {} of {}", last.id, clock::show(last.started));
            error = error.fact("expected", made);
        }
        return Err(error.fact("got", found.clone()).hint(format!(
            "nothing was recorded; if it was replaced on purpose, say so once: strongroom backup {} --new-source '{found}'; backups of the old source are kept apart, and never rotated out by those of the new one",
            job.name
        )));
    }
    let before: Vec<&str> = known.into_keys().collect();
    record.extra.insert(CONFIRMED.to_owned(), json!({ "confirmed": found, "before": before }));
    Ok(())
}
