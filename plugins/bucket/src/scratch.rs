//! A test restore: into `strongroom-verify-ID/` of the target's bucket, compared entry by entry, removed
//! in every case.

use crate::ARCHIVE;
use crate::selection::{Mapping, Selection};
use crate::settings::{Options, Settings};
use crate::tally::some_of;
use crate::writer::{Order, write_all};
use std::collections::HashSet;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, Existing, ObjectKind};

/// What every scratch place's name begins with; a grant for tests needs no other prefix.
pub(crate) const SCRATCH: &str = "strongroom-verify-";
/// Differences that are named one by one.
const NAMED: usize = 100;

/// One object as the archive or the bucket has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    key: String,
    kind: String,
    size: u64,
}

/// What came back otherwise than it was backed up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    named: Vec<String>,
    n: u64,
    compared: u64,
}

impl Differences {
    fn add(&mut self, what: String) {
        self.n += 1;
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }
}

pub(crate) fn verify_by_restore(request: &VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
    let title = "a test restore gives back what was backed up";
    let Some(label) = request.options.to_bucket.as_deref() else {
        return Ok(vec![
            Check::failed("bucket.restore.compares", title)
                .evidence("the target names no bucket to restore into")
                .remedy("set options = { to_bucket = \"…\" } in the [target.…] of this verification"),
        ]);
    };
    let parent = request.options.to_prefix.as_deref().unwrap_or("");
    Mapping::new("", Some(parent))?;
    let scratch = format!("{parent}{SCRATCH}{}/", request.backup.backup_id);
    let then: Settings = request.backup.settings()?;
    let mapping = Mapping::new(&then.prefix, Some(&scratch))?;
    let bucket = storage::open_bucket(label)?;
    // Left over from a verification of this backup that was killed.
    remove(&bucket, &scratch)?;
    let compared = restore_and_compare(request, &bucket, &mapping);
    let removed = remove(&bucket, &scratch);

    let check = match compared {
        Ok(differences) if differences.n == 0 => Check::passed("bucket.restore.compares", title).evidence(format!(
            "{} entries restored into bucket {label:?}; kinds, sizes and attributes are those of the backup",
            differences.compared
        )),
        Ok(differences) => Check::failed("bucket.restore.compares", title)
            .evidence(format!(
                "{} of {} entries came back otherwise: {}",
                differences.n,
                differences.compared,
                some_of(&differences.named, differences.n)
            ))
            .cause("the target's file system does not keep these attributes, or the host may not set owners there")
            .cause("the grant does not name owners")
            .cause("something else writes into the scratch place")
            .remedy("use a target on a file system like the source's, with a host that runs as the same user"),
        Err(error @ (Error::Denied(_) | Error::Unavailable(_) | Error::TimedOut(_) | Error::Limit(_))) => {
            return Err(error);
        }
        Err(error) => Check::failed("bucket.restore.compares", title)
            .evidence(error.to_string())
            .cause("the target is full, or cannot hold a name or an attribute of the backup")
            .remedy(format!("look at the space and the kind of file system of bucket {label:?}, then verify again")),
    };
    let removal = match removed {
        Ok(n) => Check::passed("bucket.restore.removed", "the test restore was removed again")
            .evidence(format!("{n} objects removed")),
        Err(error) => Check::failed("bucket.restore.removed", "the test restore was removed again")
            .evidence(error.to_string())
            .remedy(format!("remove {scratch:?} from bucket {label:?} by hand")),
    };
    Ok(vec![check, removal])
}

fn restore_and_compare(
    request: &VerifyRequest<Settings, Options>,
    bucket: &Bucket,
    mapping: &Mapping,
) -> Result<Differences> {
    let selection = Selection::parse(&[], &[])?;
    let lost: HashSet<&str> = request.backup.skipped.iter().map(|(path, _)| path.as_str()).collect();
    let order =
        Order { bucket, mapping, selection: &selection, lost: &lost, existing: Existing::Keep, keep_going: false };
    let written = write_all(&order);
    written.result()?;
    let expected = storage::open_archive(ARCHIVE)?.filter_map(|entry| match entry {
        Ok((entry, _)) if lost.contains(entry.path.as_str()) => None,
        Ok((entry, _)) => Some(mapping.key(&entry.path).map(|key| Seen {
            key,
            kind: entry.attribute("type").unwrap_or("file").to_owned(),
            size: entry.size,
        })),
        Err(error) => Some(Err(error)),
    });
    let root = mapping.to().trim_end_matches('/');
    let found = bucket.objects(mapping.to()).filter_map(|object| match object {
        Ok(object) if object.key == root => None,
        Ok(object) => Some(Ok(Seen { key: object.key, kind: kind_of(object.kind).to_owned(), size: object.size })),
        Err(error) => Some(Err(error)),
    });
    let mut differences = compare(expected, found)?;
    differences.n += written.n_differing;
    differences.named.extend(written.differing);
    differences.named.truncate(NAMED);
    Ok(differences)
}

fn kind_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::File => "file",
        ObjectKind::Dir => "dir",
        ObjectKind::Symlink => "symlink",
        ObjectKind::Special => "special",
        ObjectKind::DeleteMarker => "delete-marker",
    }
}

/// Compares two sequences in the order of keys, in memory of one object each. Directories above what
/// was backed up exist without having been backed up, so they are no difference.
fn compare(
    expected: impl Iterator<Item = Result<Seen>>,
    found: impl Iterator<Item = Result<Seen>>,
) -> Result<Differences> {
    let mut differences = Differences::default();
    let mut found = found.peekable();
    for expected in expected {
        let expected = expected?;
        differences.compared += 1;
        while let Some(other) = found.next_if(|seen| seen.as_ref().is_ok_and(|seen| seen.key < expected.key)) {
            let other = other?;
            if other.kind != "dir" {
                differences.add(format!("{} was not in the backup", other.key));
            }
        }
        match found.next_if(|seen| seen.as_ref().map_or(true, |seen| seen.key == expected.key)).transpose()? {
            None => differences.add(format!("{} is missing", expected.key)),
            Some(got) if got != expected => differences.add(format!(
                "{}: a {} of {} B instead of a {} of {} B",
                got.key, got.kind, got.size, expected.kind, expected.size
            )),
            Some(_) => {}
        }
    }
    for other in found {
        let other = other?;
        if other.kind != "dir" {
            differences.add(format!("{} was not in the backup", other.key));
        }
    }
    Ok(differences)
}

/// Removes everything beneath a scratch place, and the place. Memory: keys of its directories.
fn remove(bucket: &Bucket, scratch: &str) -> Result<u64> {
    let mut removed = 0;
    let mut dirs = vec![scratch.trim_end_matches('/').to_owned()];
    for object in bucket.objects(scratch) {
        let object = object?;
        if object.kind == ObjectKind::Dir {
            dirs.push(object.key);
        } else {
            delete(bucket, &object.key, &mut removed)?;
        }
    }
    for dir in dirs.iter().rev() {
        delete(bucket, dir, &mut removed)?;
    }
    Ok(removed)
}

fn delete(bucket: &Bucket, key: &str, removed: &mut u64) -> Result<()> {
    match bucket.delete(key, None) {
        Ok(()) => *removed += 1,
        Err(Error::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(all: &[(&str, &str, u64)]) -> Vec<Result<Seen>> {
        all.iter().map(|(key, kind, size)| Ok(Seen { key: (*key).into(), kind: (*kind).into(), size: *size })).collect()
    }

    fn check(expected: &[(&str, &str, u64)], found: &[(&str, &str, u64)], differences: &[&str]) {
        let got = compare(seen(expected).into_iter(), seen(found).into_iter()).unwrap();
        assert_eq!(got.named, differences);
        assert_eq!((got.n, got.compared), (differences.len() as u64, expected.len() as u64));
    }

    #[test]
    fn every_difference_of_two_listings_is_named() {
        let tree = [("a", "dir", 0), ("a/b", "file", 3), ("c", "symlink", 0)];
        check(&tree, &tree, &[]);
        check(&tree, &[], &["a is missing", "a/b is missing", "c is missing"]);
        check(&[], &tree, &["a/b was not in the backup", "c was not in the backup"]);
        check(
            &tree,
            &[("a", "dir", 0), ("a/a", "file", 0), ("a/b", "file", 4), ("c", "dir", 0)],
            &[
                "a/a was not in the backup",
                "a/b: a file of 4 B instead of a file of 3 B",
                "c: a dir of 0 B instead of a symlink of 0 B",
            ],
        );
        // Directories above a prefix are there without having been backed up.
        check(&tree[1..2], &tree[..2], &[]);
    }

    #[test]
    fn an_error_of_either_side_is_no_difference() {
        let broken = || vec![Err(Error::failed("broke"))].into_iter();
        assert!(compare(broken(), seen(&[]).into_iter()).is_err());
        assert!(compare(seen(&[]).into_iter(), broken()).is_err());
        assert!(compare(seen(&[("a", "dir", 0)]).into_iter(), broken()).is_err());
    }
}
