//! `diagnose`: what would keep a backup of the bucket from being whole, or a restore from working.
//! Changes nothing. Free space, the store and the host itself are the host's own checks.

use crate::scratch::SCRATCH;
use crate::selection::Selection;
use crate::settings::{Settings, SpecialFiles};
use crate::tally::{Tally, some_of};
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, ObjectKind};

/// Objects whose attributes are read, which needs each of them to be opened.
const SAMPLE: u64 = 10_000;
/// Keys that are kept to be named.
const NAMED: usize = 20;

/// What a listing of the whole bucket found.
#[derive(Debug, Default)]
struct Findings {
    tally: Tally,
    sampled: u64,
    unreadable: Names,
    unlistable: Names,
    special: Names,
    world_writable: Names,
    leftovers: Names,
}

#[derive(Debug, Default)]
struct Names {
    named: Vec<String>,
    n: u64,
}

impl Names {
    fn add(&mut self, key: &str) {
        self.n += 1;
        if self.named.len() < NAMED {
            self.named.push(key.to_owned());
        }
    }

    fn show(&self) -> String {
        some_of(&self.named, self.n)
    }
}

pub(crate) fn diagnose(request: &DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
    let settings = &request.settings;
    let selection = Selection::parse(&[], &settings.exclude)?;
    let title = "the bucket can be opened and listed to its end";
    let found = storage::open_bucket(&settings.bucket).and_then(|bucket| look(&bucket, settings, &selection));
    let mut checks = match found {
        Ok(found) => {
            let listed = Check::passed("bucket.lists", title).evidence(found.tally.show());
            [vec![listed], findings(&found, settings), plausible(&found.tally, request.last.as_ref())].concat()
        }
        Err(error) => vec![
            Check::failed("bucket.lists", title)
                .evidence(error.to_string())
                .cause("the bucket's path is missing, not mounted, or not a directory")
                .cause("the host may not read it, or the plugin is not granted to list it")
                .remedy(format!("ls -ld the path of [bucket.{}] in strongroom.toml", settings.bucket))
                .remedy("strongroom plugin approve bucket"),
        ],
    };
    let unused = selection.unused_exclusions();
    if !unused.is_empty() {
        checks.push(
            Check::warned("bucket.exclude.matches", "every exclusion matches something")
                .evidence(format!("nothing matches {}", unused.join(", ")))
                .cause("a pattern with a typing mistake: * stays inside a name, **/ crosses directories"),
        );
    }
    checks.extend(last_backup(request.last.as_ref(), settings.max_age_hours, run::now()));
    Ok(checks)
}

fn look(bucket: &Bucket, settings: &Settings, selection: &Selection) -> Result<Findings> {
    let mut found = Findings::default();
    for object in bucket.objects(&settings.prefix) {
        let object = object?;
        if !selection.holds(&object.key) {
            continue;
        }
        let name = object.key.rsplit('/').next().unwrap_or(&object.key);
        if (name.starts_with(".strongroom-") && name.ends_with(".part")) || name.starts_with(SCRATCH) {
            found.leftovers.add(&object.key);
        }
        match object.kind {
            ObjectKind::File => found.tally.count(Some("file"), object.size),
            ObjectKind::Dir => found.tally.count(Some("dir"), 0),
            ObjectKind::Symlink => found.tally.count(Some("symlink"), 0),
            ObjectKind::Special => match bucket.attributes(&object.key, None) {
                Ok(attributes) if is(&attributes, "type", "dir") => found.unlistable.add(&object.key),
                Ok(_) => found.special.add(&object.key),
                Err(Error::NotFound(_)) => {}
                Err(_) => found.unlistable.add(&object.key),
            },
            ObjectKind::DeleteMarker => {}
        }
        if matches!(object.kind, ObjectKind::File | ObjectKind::Dir) && found.sampled < SAMPLE {
            found.sampled += 1;
            match bucket.attributes(&object.key, None) {
                Ok(attributes) if world_writable(&attributes) => found.world_writable.add(&object.key),
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(_) => found.unreadable.add(&object.key),
            }
        }
    }
    Ok(found)
}

fn is(attributes: &[(String, String)], name: &str, value: &str) -> bool {
    attributes.iter().any(|(key, got)| key == name && got == value)
}

/// Anyone may change it; a directory with the sticky bit is no finding.
fn world_writable(attributes: &[(String, String)]) -> bool {
    let mode =
        attributes.iter().find(|(name, _)| name == "mode").and_then(|(_, mode)| u32::from_str_radix(mode, 8).ok());
    mode.is_some_and(|mode| mode & 0o002 != 0 && mode & 0o1000 == 0)
}

fn findings(found: &Findings, settings: &Settings) -> Vec<Check> {
    let Findings { sampled, unreadable, unlistable, special, world_writable, leftovers, .. } = found;
    let judge = |names: &Names, bad: Outcome, id: &str, title: &str, good: String| {
        if names.n == 0 {
            Check::passed(id, title).evidence(good)
        } else {
            Check::new(bad, id, title).evidence(format!("{}: {}", names.n, names.show()))
        }
    };
    let special_is = if settings.special_files == SpecialFiles::Report { Outcome::Warned } else { Outcome::Passed };
    vec![
        if found.tally.entries() == 0 {
            Check::failed("bucket.has-objects", "there is something to back up")
                .evidence(format!("nothing under prefix {:?} of bucket {:?}", settings.prefix, settings.bucket))
                .cause("a file system that is not mounted, a prefix with a typing mistake, or exclusions that match everything")
        } else {
            Check::passed("bucket.has-objects", "there is something to back up").evidence(found.tally.show())
        },
        judge(
            unreadable,
            Outcome::Failed,
            "bucket.readable",
            "files and directories can be opened",
            format!("{sampled} were opened (at most {SAMPLE} are)"),
        )
        .cause_if(unreadable.n > 0, "their modes keep the host's user out")
        .remedy_if(unreadable.n > 0, "run the host as a user who may read them: setfacl -R -m u:USER:rX PATH"),
        judge(unlistable, Outcome::Failed, "bucket.listable", "every directory can be listed", "all of them".into())
            .cause_if(unlistable.n > 0, "their modes keep the host's user out, or they lie 16 KiB of path deep")
            .remedy_if(unlistable.n > 0, "run the host as a user who may list them, or name them in exclude"),
        judge(special, special_is, "bucket.special", "no sockets, devices or pipes", "none".into()).remedy_if(
            special.n > 0 && special_is == Outcome::Warned,
            "set special_files = \"ignore\" if they need no backup: with \"report\" the backup is incomplete",
        ),
        judge(
            world_writable,
            Outcome::Warned,
            "bucket.world-writable",
            "nothing can be changed by everybody",
            format!("{sampled} were looked at (at most {SAMPLE} are)"),
        )
        .remedy_if(world_writable.n > 0, "chmod o-w them, unless everybody is meant to change what is backed up"),
        judge(
            leftovers,
            Outcome::Warned,
            "bucket.leftovers",
            "no leftovers of restores that were killed",
            "none".into(),
        )
        .cause_if(leftovers.n > 0, "a restore or a verification was killed, or one is running now")
        .remedy_if(leftovers.n > 0, "remove them when no restore is running"),
    ]
}

/// Adds advice only to a finding.
trait Advice {
    fn cause_if(self, when: bool, cause: &str) -> Self;
    fn remedy_if(self, when: bool, remedy: &str) -> Self;
}

impl Advice for Check {
    fn cause_if(self, when: bool, cause: &str) -> Self {
        if when { self.cause(cause) } else { self }
    }

    fn remedy_if(self, when: bool, remedy: &str) -> Self {
        if when { self.remedy(remedy) } else { self }
    }
}

/// Holds what is there now against the last backup: below half is suspicious.
fn plausible(now: &Tally, last: Option<&Made>) -> Vec<Check> {
    let Some(then) = last.and_then(Tally::of) else { return Vec::new() };
    let (id, title) = ("bucket.size.plausible", "the bucket is about as large as at its last backup");
    let evidence = format!("now {}; then {} (threshold: half of it)", now.show(), then.show());
    let halved = |now: u64, then: u64| now < then / 2;
    vec![if halved(now.files, then.files) || halved(now.bytes, then.bytes) {
        Check::warned(id, title)
            .evidence(evidence)
            .cause("data was deleted, or part of the tree is not mounted")
            .remedy("look before the next backup; older backups are in: strongroom list JOB")
    } else {
        Check::passed(id, title).evidence(evidence)
    }]
}

/// Whether the last backup is younger than the settings ask for. Without them the host holds it against the job's
/// objective, and says whether it is complete.
fn last_backup(last: Option<&Made>, max_age_hours: Option<u64>, now: Timestamp) -> Option<Check> {
    let (id, title) = ("bucket.backup.age", "the last backup is recent");
    let max_age_hours = max_age_hours?;
    let Some(last) = last else {
        return Some(Check::warned(id, title).evidence("there is none").remedy("strongroom backup JOB"));
    };
    let hours = now.since(last.created).as_secs() / 3600;
    let evidence = format!("{} is {hours} h old (threshold: {max_age_hours} h)", last.backup_id);
    Some(if hours >= max_age_hours {
        Check::failed(id, title)
            .evidence(evidence)
            .cause("the schedule does not run, or its runs fail")
            .remedy("strongroom backup JOB")
    } else {
        Check::passed(id, title).evidence(evidence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(created_ms: u64, facts: &[(&str, &str)]) -> Made {
        Made {
            backup_id: "20261120T020000Z-x7k2m9qd".into(),
            created: Timestamp { ms: created_ms },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: facts.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            skipped: Vec::new(),
            state: String::new(),
        }
    }

    fn outcomes(checks: &[Check]) -> Vec<Outcome> {
        checks.iter().map(|check| check.outcome).collect()
    }

    #[test]
    fn the_last_backup_is_judged_by_the_age_that_the_settings_name() {
        let now = Timestamp { ms: 48 * 3_600_000 };
        let outcome = |last: Option<&Made>, limit| last_backup(last, limit, now).map(|check| check.outcome);
        assert_eq!(outcome(None, Some(24)), Some(Outcome::Warned));
        assert_eq!(outcome(Some(&made(30 * 3_600_000, &[])), Some(24)), Some(Outcome::Passed));
        assert_eq!(outcome(Some(&made(24 * 3_600_000, &[])), Some(24)), Some(Outcome::Failed));
        assert_eq!(outcome(Some(&made(0, &[])), None), None, "the job's objective is the host's to judge");
    }

    #[test]
    fn a_bucket_that_lost_more_than_half_is_suspicious() {
        let facts = [("files", "100"), ("directories", "1"), ("links", "0"), ("bytes-listed", "1000")];
        let then = made(0, &facts);
        for (files, bytes, outcome) in [
            (100, 1000, Outcome::Passed),
            (50, 500, Outcome::Passed),
            (49, 1000, Outcome::Warned),
            (100, 499, Outcome::Warned),
        ] {
            let now = Tally { files, directories: 0, links: 0, bytes };
            assert_eq!(outcomes(&plausible(&now, Some(&then))), [outcome], "{files} {bytes}");
        }
        assert!(plausible(&Tally::default(), None).is_empty());
    }

    #[test]
    fn modes_that_let_everybody_write_are_found() {
        let mode = |mode: &str| world_writable(&[("mode".to_owned(), mode.to_owned())]);
        assert!(mode("0666") && mode("0777") && mode("0002"));
        assert!(!mode("0644") && !mode("1777") && !mode("rubbish") && !world_writable(&[]));
    }

    #[test]
    fn an_empty_bucket_and_unreadable_files_fail() {
        let settings: Settings = serde_json::from_str(r#"{"bucket":"data"}"#).unwrap();
        let mut found = Findings::default();
        found.unreadable.add("secret");
        found.special.add("pipe");
        let by_id = |settings: &Settings, id: &str| {
            findings(&found, settings).into_iter().find(|check| check.id == id).unwrap().outcome
        };
        assert_eq!(by_id(&settings, "bucket.has-objects"), Outcome::Failed);
        assert_eq!(by_id(&settings, "bucket.readable"), Outcome::Failed);
        assert_eq!(by_id(&settings, "bucket.special"), Outcome::Warned);
        assert_eq!(by_id(&settings, "bucket.listable"), Outcome::Passed);
        let ignoring = Settings { special_files: SpecialFiles::Ignore, ..settings };
        assert_eq!(by_id(&ignoring, "bucket.special"), Outcome::Passed);
    }
}
