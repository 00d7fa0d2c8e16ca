//! `restore`: a plan, or the entries back into a bucket. Never over what is there unless told to, and
//! what is in the way is found before anything is written.

use crate::ARCHIVE;
use crate::selection::{Mapping, Selection};
use crate::settings::{Options, Settings};
use crate::tally::{Tally, size, some_of};
use crate::writer::{Order, Written, write_all};
use std::collections::HashSet;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, Existing};

/// Keys in the way that are named one by one.
const NAMED: usize = 100;

/// What a restore would do.
#[derive(Debug, Default)]
struct Plan {
    tally: Tally,
    lost: Vec<String>,
    /// Files and links that something is in the way of.
    taken: Vec<String>,
    n_taken: u64,
    /// Directories that are there already.
    dirs_there: u64,
}

pub(crate) fn restore(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let options = &request.options;
    let label = options.to_bucket.as_deref().unwrap_or(&request.settings.bucket);
    let then: Settings = request.backup.settings()?;
    let mapping = Mapping::new(&then.prefix, options.to_prefix.as_deref())?;
    let selection = Selection::parse(&options.include, &options.exclude)?;
    let lost: HashSet<&str> = request.backup.skipped.iter().map(|(path, _)| path.as_str()).collect();
    let bucket = storage::open_bucket(label)?;

    // Nothing can be in the way in an empty place, and the archive need not be read twice.
    let occupied = bucket.objects(mapping.to()).next().transpose()?.is_some();
    if request.plan_only || (occupied && !options.overwrite) {
        let plan = plan(&bucket, &mapping, &selection, &lost, occupied)?;
        if plan.tally.entries() == 0 && plan.lost.is_empty() {
            return Err(nothing_chosen());
        }
        if request.plan_only {
            plan.report(label, mapping.to(), options.overwrite);
        }
        if plan.n_taken > 0 && !options.overwrite {
            return if request.plan_only { Ok(()) } else { Err(plan.refuse(label)) };
        }
        if request.plan_only {
            return Ok(());
        }
    }

    let existing = if options.overwrite { Existing::Replace } else { Existing::Keep };
    let order = Order {
        bucket: &bucket,
        mapping: &mapping,
        selection: &selection,
        lost: &lost,
        existing,
        keep_going: options.keep_going,
    };
    let written = write_all(&order);
    report(&written, label);
    written.result()?;
    if written.tally.entries() + written.lost + written.kept == 0 {
        return Err(nothing_chosen());
    }
    Ok(())
}

fn nothing_chosen() -> Error {
    Error::invalid("nothing in the backup matches include and exclude")
}

fn plan(
    bucket: &Bucket,
    mapping: &Mapping,
    selection: &Selection,
    lost: &HashSet<&str>,
    occupied: bool,
) -> Result<Plan> {
    let mut plan = Plan::default();
    for entry in storage::open_archive(ARCHIVE)? {
        let (entry, _) = entry?;
        if !selection.holds(&entry.path) {
            continue;
        }
        if lost.contains(entry.path.as_str()) {
            plan.lost.push(entry.path);
            continue;
        }
        let kind = entry.attribute("type");
        plan.tally.count(kind, entry.size);
        if occupied {
            let key = mapping.key(&entry.path)?;
            let there = match bucket.attributes(&key, None) {
                Ok(there) => there,
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let is_dir = there.iter().any(|(name, value)| name == "type" && value == "dir");
            if kind == Some("dir") && is_dir {
                plan.dirs_there += 1;
            } else {
                plan.n_taken += 1;
                if plan.taken.len() < NAMED {
                    plan.taken.push(key);
                }
            }
        }
    }
    Ok(plan)
}

impl Plan {
    fn report(&self, label: &str, to: &str, overwrite: bool) {
        let place = if to.is_empty() { label.to_owned() } else { format!("{label}, beneath {to:?}") };
        let Tally { files, links, directories, bytes } = self.tally;
        if files > 0 {
            Step::passed("write files", &place).note(format!("{files} files, {}", size(bytes))).report();
        }
        if links > 0 {
            Step::passed("make links", &place).note(format!("{links} links, after the files")).report();
        }
        if directories > 0 {
            let there = self.dirs_there;
            let note = match (there, overwrite) {
                (0, _) => format!("{directories} directories, last"),
                (_, true) => {
                    format!("{directories} directories, last; {there} are there and get the backup's attributes")
                }
                (_, false) => format!("{directories} directories, last; {there} are there and stay as they are"),
            };
            Step::passed("make directories", &place).note(note).report();
        }
        for key in &self.taken {
            if overwrite {
                Step::warned("replace", key).note("it is there, and would be replaced").report();
            } else {
                Step::failed("write", key).note("it is there, and the restore would refuse to begin").report();
            }
        }
        let more = self.n_taken - self.taken.len() as u64;
        if more > 0 {
            Step::warned("write", format!("{more} more keys")).note("something is there already").report();
        }
        for path in self.lost.iter().take(NAMED) {
            Step::skipped("write", path).note("the backup does not hold it whole").report();
        }
    }

    /// What is in the way, as steps and as the error of a restore that did not begin.
    fn refuse(&self, label: &str) -> Error {
        for key in &self.taken {
            // Not a failed one, which would say that the target may have been changed.
            Step::skipped("write", key).note("it is there already; nothing was changed").report();
        }
        Error::conflict(format!(
            "{} keys are there already in bucket {label:?}, and nothing was written: {}; \
             restore beneath another to_prefix, or with overwrite = true",
            self.n_taken,
            some_of(&self.taken, self.n_taken)
        ))
    }
}

fn report(written: &Written, label: &str) {
    let Tally { files, links, directories, bytes } = written.tally;
    for (action, n, note) in [
        ("write files", files, format!("{files} files, {}", size(bytes))),
        ("make links", links, format!("{links} links")),
        ("make directories", directories, format!("{directories} directories")),
    ] {
        if n > 0 {
            Step::passed(action, label).note(note).report();
        }
    }
    if written.kept > 0 {
        Step::skipped("set attributes of directories", label)
            .note(format!("{} were there already and stay as they were", written.kept))
            .report();
    }
    if written.failed > 0 {
        Step::failed("write", label)
            .note(format!("{} entries could not be written; what is listed above as done stays", written.failed))
            .report();
    }
    if written.n_differing > 0 {
        Step::warned("set attributes", label)
            .note(format!(
                "not as in the backup: {}; owners need a host that runs as root and a grant of owners, xattrs a file system that has them",
                some_of(&written.differing, written.n_differing)
            ))
            .report();
    }
}
