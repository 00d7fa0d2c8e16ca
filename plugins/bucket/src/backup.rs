//! `backup`: one pass over the listing. Files go into the archive as sources, which the host opens
//! ahead of their turn; directories and links as attributes.

use crate::ARCHIVE;
use crate::selection::Selection;
use crate::settings::{Settings, SpecialFiles};
use crate::tally::Tally;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Object, ObjectKind};

/// Things that are named one by one in a report; the rest are counted. The host names as many
/// failed entries of an archive.
const MAX_SKIPPED: usize = 10_000;
/// How often progress is reported, in objects.
const PROGRESS: u64 = 1_000;

/// What is left out, and why.
#[derive(Debug, Default)]
struct Skipped {
    named: Vec<(String, String)>,
    unnamed: u64,
}

impl Skipped {
    fn add(&mut self, key: String, why: String) {
        if self.named.len() < MAX_SKIPPED {
            self.named.push((key, why));
        } else {
            self.unnamed += 1;
        }
    }
}

pub(crate) fn backup(request: &BackupRequest<Settings>) -> Result<Report> {
    let Settings { bucket: label, prefix, exclude, special_files, .. } = &request.settings;
    let selection = Selection::parse(&[], exclude)?;
    let bucket = storage::open_bucket(label)?;
    let archive = storage::create_archive(ARCHIVE)?;
    let expected = request.previous.as_ref().and_then(Tally::of).map(|tally| tally.entries());
    let mut tally = Tally::default();
    let mut skipped = Skipped::default();
    let (mut seen, mut excluded, mut ignored) = (0_u64, 0_u64, 0_u64);
    for object in bucket.objects(prefix) {
        let object = object?;
        seen += 1;
        if seen.is_multiple_of(PROGRESS) {
            run::progress("objects", seen, expected);
        }
        if !selection.holds(&object.key) {
            excluded += 1;
            continue;
        }
        match object.kind {
            ObjectKind::File => {
                archive.add(&object.key, &[], bucket.read(&object.key, None)?)?;
                tally.count(Some("file"), object.size);
            }
            ObjectKind::Dir | ObjectKind::Symlink => match bucket.attributes(&object.key, None) {
                Ok(attributes) => {
                    archive.add_bytes(&object.key, &attributes, &[])?;
                    tally.count(Some(kind_name(&object)), 0);
                }
                Err(error) => skipped.add(object.key, lost(error)?),
            },
            ObjectKind::Special => match bucket.attributes(&object.key, None) {
                Ok(attributes) => match special_kind(&attributes) {
                    Some(_) if *special_files == SpecialFiles::Ignore => ignored += 1,
                    Some(kind) => skipped.add(object.key, format!("a {kind}, which has no bytes to back up")),
                    None => skipped.add(object.key, "a directory that could not be listed".to_owned()),
                },
                Err(error) => skipped.add(object.key, lost(error)?),
            },
            ObjectKind::DeleteMarker => ignored += 1,
        }
    }
    run::progress("objects", seen, Some(seen));
    if seen == 0 {
        let what = if prefix.is_empty() { String::new() } else { format!(" under prefix {prefix:?}") };
        log::warn!(bucket = label, "nothing was found{what}");
    }
    let done = archive.finish()?;
    let failed = u64::try_from(failed_entries(&done.failed)).unwrap_or(u64::MAX);
    tally.files = tally.files.saturating_sub(failed);
    done.failed.into_iter().for_each(|(key, why)| skipped.add(key, why));
    log::info!(files = tally.files, bytes = tally.bytes, archive = done.artifact.size, "packed bucket {label}");

    let mut report = tally.into_facts(Report::new().source_id(format!("{label}/{prefix}")));
    report = report.fact("excluded", excluded).fact("files-not-whole", failed);
    if ignored > 0 {
        report = report.not_captured(format!("{ignored} sockets, devices and pipes (special_files = \"ignore\")"));
    }
    report = report
        .not_captured("that names were hard links to one file: each is a file of its own")
        .not_captured("access and birth times, inode flags, extended attributes of links");
    for (key, why) in skipped.named {
        report = report.skipped(key, why);
    }
    if skipped.unnamed > 0 {
        report =
            report.skipped(format!("and {} more", skipped.unnamed), "the run's log and the archive's index have more");
    }
    Ok(report)
}

fn kind_name(object: &Object) -> &'static str {
    if object.kind == ObjectKind::Dir { "dir" } else { "symlink" }
}

/// What a special file is; `None` for a directory that was listed as special.
fn special_kind(attributes: &[(String, String)]) -> Option<&str> {
    attributes.iter().find(|(name, _)| name == "type").map(|(_, kind)| kind.as_str()).filter(|kind| *kind != "dir")
}

/// Why one object is left out; an error that concerns more than the object ends the backup.
fn lost(error: Error) -> Result<String> {
    match error {
        Error::NotFound(_) => Ok("it vanished while the bucket was listed".to_owned()),
        Error::Denied(text) | Error::Conflict(text) | Error::Failed(text) | Error::Invalid(text) => Ok(text),
        error => Err(error),
    }
}

/// How many entries are not whole: the host names the first ones and counts the rest in a last one.
fn failed_entries(failed: &[(String, String)]) -> usize {
    match failed.last() {
        Some((last, _)) if failed.len() > MAX_SKIPPED => {
            let more =
                last.strip_prefix("and ").and_then(|rest| rest.strip_suffix(" more")).and_then(|n| n.parse().ok());
            more.map_or(failed.len(), |more: usize| failed.len() - 1 + more)
        }
        _ => failed.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(n: usize) -> Vec<(String, String)> {
        vec![("k".to_owned(), "gone".to_owned()); n]
    }

    #[test]
    fn failed_entries_that_are_only_counted_count() {
        assert_eq!(failed_entries(&failed(0)), 0);
        assert_eq!(failed_entries(&failed(3)), 3);
        let mut many = failed(MAX_SKIPPED);
        many.push(("and 7 more".to_owned(), String::new()));
        assert_eq!(failed_entries(&many), MAX_SKIPPED + 7);
        // A file may be called so, too.
        assert_eq!(failed_entries(&[("and 7 more".to_owned(), String::new())]), 1);
    }

    #[test]
    fn one_lost_object_is_skipped_and_a_lost_bucket_ends_the_backup() {
        assert!(lost(Error::NotFound("x".into())).unwrap().contains("vanished"));
        assert_eq!(lost(Error::Denied("no".into())).unwrap(), "no");
        assert!(lost(Error::Unavailable("x".into())).is_err() && lost(Error::Limit("x".into())).is_err());
    }

    #[test]
    fn names_beyond_the_bound_are_counted() {
        let mut skipped = Skipped::default();
        (0..MAX_SKIPPED + 5).for_each(|i| skipped.add(i.to_string(), String::new()));
        assert_eq!((skipped.named.len(), skipped.unnamed), (MAX_SKIPPED, 5));
    }
}
