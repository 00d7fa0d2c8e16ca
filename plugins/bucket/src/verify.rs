//! `verify`: every entry of the archive read through by the host against its digest in the index, the
//! counts compared with the facts; with depth `restore`, a test restore as well.

use crate::settings::{Options, Settings};
use crate::tally::{Tally, size};
use crate::{ARCHIVE, scratch};
use std::collections::HashSet;
use strongroom_plugin::prelude::*;

pub(crate) fn verify(request: &VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
    let title = "every entry of the archive is as it was packed";
    let mut checks = match read_through(&request.backup) {
        Ok(tally) => vec![
            Check::passed("bucket.archive.reads", title).evidence(format!("{}, each against its BLAKE3", tally.show())),
            counts(&tally, &request.backup),
        ],
        Err(error @ (Error::Denied(_) | Error::Unavailable(_) | Error::TimedOut(_) | Error::Limit(_))) => {
            return Err(error);
        }
        Err(error) => {
            return Ok(vec![
                Check::failed("bucket.archive.reads", title)
                    .evidence(error.to_string())
                    .cause("the artifact or its index was changed or damaged")
                    .remedy("strongroom verify JOB --depth stored")
                    .remedy("strongroom backup JOB"),
            ]);
        }
    };
    if !request.backup.skipped.is_empty() {
        checks.push(
            Check::warned("bucket.complete", "everything that was to be captured was")
                .evidence(format!(
                    "{} objects were skipped, such as {:?}",
                    request.backup.skipped.len(),
                    request.backup.skipped[0].0
                ))
                .remedy(format!("strongroom show JOB {}", request.backup.backup_id)),
        );
    }
    if request.depth == Depth::Restore {
        checks.extend(scratch::verify_by_restore(request)?);
    }
    Ok(checks)
}

/// Counts the entries that are whole. The host checks each body against the index, also one that
/// nobody reads, so that no byte needs to come in here.
fn read_through(backup: &Made) -> Result<Tally> {
    let lost: HashSet<&str> = backup.skipped.iter().map(|(path, _)| path.as_str()).collect();
    let mut tally = Tally::default();
    let mut seen = 0_u64;
    for entry in storage::open_archive(ARCHIVE)? {
        let (entry, _) = entry?;
        seen += 1;
        if seen.is_multiple_of(1_000) {
            run::progress("entries", seen, Tally::of(backup).map(|tally| tally.entries()));
        }
        if !lost.contains(entry.path.as_str()) {
            tally.count(entry.attribute("type"), entry.size);
        }
    }
    Ok(tally)
}

fn counts(tally: &Tally, backup: &Made) -> Check {
    let (id, title) = ("bucket.counts.match", "the archive holds what the backup's facts say");
    let Some(expected) = Tally::of(backup) else {
        return Check::failed(id, title).evidence("the backup has no facts to compare with");
    };
    let evidence = format!("found {}; recorded {}", tally.show(), expected.show());
    let same = |tally: &Tally| (tally.files, tally.directories, tally.links);
    if same(tally) != same(&expected) {
        // Beyond 10,000 the record only counts what was skipped, so those cannot be told apart here.
        let unnamed =
            backup.skipped.last().is_some_and(|(path, _)| path.starts_with("and ") && path.ends_with(" more"));
        let check = if unnamed { Check::warned(id, title) } else { Check::failed(id, title) };
        return check.evidence(evidence).cause("the archive was made by something else than this plugin");
    }
    // A file may change between being listed and being opened; what was opened is what is stored.
    let changed = tally.bytes.abs_diff(expected.bytes);
    if changed > 0 && backup.skipped.is_empty() {
        return Check::passed(id, title)
            .evidence(format!("{evidence}; {} came or went between listing and reading", size(changed)));
    }
    Check::passed(id, title).evidence(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(facts: &[(&str, &str)], skipped: &[&str]) -> Made {
        Made {
            backup_id: "20261120T020000Z-x7k2m9qd".into(),
            created: Timestamp { ms: 0 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: facts.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            skipped: skipped.iter().map(|path| ((*path).into(), "why".into())).collect(),
            state: String::new(),
        }
    }

    const FACTS: [(&str, &str); 4] = [("files", "2"), ("directories", "1"), ("links", "0"), ("bytes-listed", "10")];

    #[test]
    fn counts_are_held_against_the_facts() {
        let tally = Tally { files: 2, directories: 1, links: 0, bytes: 10 };
        for (tally, made, outcome) in [
            (tally, made(&FACTS, &[]), Outcome::Passed),
            (Tally { bytes: 12, ..tally }, made(&FACTS, &[]), Outcome::Passed),
            (Tally { files: 1, ..tally }, made(&FACTS, &[]), Outcome::Failed),
            (Tally { directories: 0, ..tally }, made(&FACTS, &[]), Outcome::Failed),
            (Tally { links: 1, ..tally }, made(&FACTS, &["x"]), Outcome::Failed),
            (Tally { files: 1, ..tally }, made(&FACTS, &["x", "and 5 more"]), Outcome::Warned),
            (tally, made(&FACTS[1..], &[]), Outcome::Failed),
            (tally, made(&[], &[]), Outcome::Failed),
        ] {
            assert_eq!(counts(&tally, &made).outcome, outcome, "{tally:?} {:?}", made.skipped);
        }
    }
}
