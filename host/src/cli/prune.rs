//! `strongroom prune`

use super::exit::Exit;
use super::measure::Measure;
use super::output::Output;
use super::session::Session;
use super::table::{Align, Table};
use super::{Globals, ask};
use crate::catalog::lease;
use crate::error::Error;
use crate::failpoint;
use crate::record::Outcome;
use crate::run::leftover::{Fate, Why};
use crate::run::prune::{self, Left, Plan, Planned, Request};
use crate::{clock, unit};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Arguments of `prune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom prune orders --dry-run      what would be removed and what is kept, and why
  strongroom prune orders --yes          from a timer: nobody is asked
  strongroom prune orders --orphans      also what runs left that were killed, once it is a week old

A backup is removed by its record; its data goes with a later prune, a day after that at the earliest.")]
pub struct PruneArgs {
    /// The job, as in [job.NAME], with `keep`
    pub job: String,
    /// Show the plan, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do what the plan says without asking
    #[arg(long, short, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Also remove folders and uploads of runs that made no backup, once their youngest part is a week old
    #[arg(long)]
    pub orphans: bool,
}

/// Runs it.
pub async fn run(args: PruneArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let output = globals.output();
    let session = Session::open(globals, cancel)?;
    let measure = Measure::begin(&session, &args.job).filter(|_| !args.dry_run);
    let planned = async {
        let request = request(&session, &args).await?;
        let plan = prune::plan(&request).await?;
        Ok::<_, anyhow::Error>((request, plan))
    };
    let planned = planned.await;
    let is_nothing = planned.as_ref().is_ok_and(|(_, plan)| plan.is_empty());
    let measure = match measure {
        Some(measure) if planned.is_err() || is_nothing => {
            measure.pruned(&session, is_nothing, 0).await;
            None
        }
        other => other,
    };
    let (request, plan) = planned?;
    let mut shown = Prune::of(&request, &plan);
    if args.dry_run || plan.is_empty() {
        shown.dry_run = args.dry_run;
        drop(session);
        return shown.print(&output);
    }
    if !output.is_json() {
        output.note(&shown.plan_text());
    }
    if !args.yes {
        confirm(&args.job)?;
    }
    let done = prune::prune(&request, &plan).await;
    if let Some(measure) = measure {
        let n_removed = done.as_ref().map_or(0, |done| done.backups.len());
        measure.pruned(&session, done.as_ref().is_ok_and(|done| done.failed.is_none()), n_removed).await;
    }
    let done = done?;
    drop(session);
    shown.done(&done);
    if let Some(error) = done.failed {
        if !output.is_json() {
            output.complain(&shown.done_text());
        }
        let next = || format!("run it again, it goes on where it stopped: strongroom prune {}", args.job);
        return Err(super::report::with_next_step(error, next).into());
    }
    output.result(&shown, || shown.done_text())?;
    Ok(Exit::Done)
}

async fn request(session: &Session, args: &PruneArgs) -> anyhow::Result<Request> {
    let (job, config) = session.config.job(&args.job)?;
    let Some(keep) = config.keep else {
        return Err(Error::invalid(format!("job \"{job}\" does not say what is kept, so nothing is removed"))
            .fact("expected", format!("keep in [job.{job}]"))
            .hint("write what is kept, such as keep = { daily = 7, weekly = 4, monthly = 12 }, and look at it with --dry-run")
            .into());
    };
    Ok(Request {
        job: job.clone(),
        catalog: session.catalog(&config.store, None).await?,
        keep,
        zone: config.timezone.clone(),
        with_orphans: args.orphans,
        host_key: Arc::new(session.host_key()?),
        lock_dir: session.directories.state.join("locks"),
        lease_duration: failpoint::lease_duration(lease::DURATION),
        progress: session.progress.clone(),
        cancel: session.cancel.clone(),
    })
}

fn confirm(job: &str) -> anyhow::Result<()> {
    if !ask::is_possible() {
        return Err(Error::denied(format!("nobody can be asked whether backups of job \"{job}\" are to be removed"))
            .fact("reason", "this is not a terminal")
            .hint(format!(
                "look at the plan with `strongroom prune {job} --dry-run`, then run it with --yes; nothing was removed"
            ))
            .into());
    }
    if !ask::yes("remove what the plan says?")? {
        return Err(Error::cancelled("nothing was removed").into());
    }
    Ok(())
}

/// The result of `prune` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Prune {
    /// The job.
    pub job: String,
    /// Where its backups are, without credentials.
    pub store: String,
    /// Whether only the plan was asked for.
    pub dry_run: bool,
    /// The store's clock, by which ages are counted.
    pub now: Timestamp,
    /// Every backup, oldest first.
    pub backups: Vec<PlannedBackup>,
    /// Folders without a backup.
    pub folders: Vec<PlannedFolder>,
    /// Uploads that were begun and neither completed nor aborted.
    pub uploads: Vec<PlannedUpload>,
    /// Backups that were removed now; their data stays for a day.
    pub removed: Vec<String>,
    /// Objects and versions that were removed now.
    pub removed_objects: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Objects and versions that were to be removed and are locked.
    pub locked_objects: u64,
    /// Uploads that were aborted now.
    pub aborted_uploads: u64,
}

/// A backup, and what is decided about it.
#[derive(Debug, Serialize)]
pub struct PlannedBackup {
    /// Its id.
    pub id: String,
    /// When it was started, in UTC.
    pub started: Timestamp,
    /// Whole, or with something skipped.
    pub outcome: Outcome,
    /// What was backed up, if the plugin says so.
    pub source_id: Option<String>,
    /// Bytes at rest.
    pub stored_bytes: u64,
    /// Whether it is kept.
    pub keep: bool,
    /// Why it is kept, or why nothing keeps it.
    pub reasons: Vec<String>,
}

/// A folder without a backup, and what is decided about it.
#[derive(Debug, Serialize)]
pub struct PlannedFolder {
    /// The id that names it.
    pub id: String,
    /// Objects and versions in it.
    pub objects: usize,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Whether it is removed.
    pub remove: bool,
    /// Why it is removed, or why not now.
    pub reason: String,
}

/// An upload that was begun, and what is decided about it.
#[derive(Debug, Serialize)]
pub struct PlannedUpload {
    /// The key that it would have become.
    pub key: String,
    /// When its last part was stored, by the store's clock.
    pub last_part: Timestamp,
    /// Whether it is aborted.
    pub abort: bool,
}

impl Prune {
    fn of(request: &Request, plan: &Plan) -> Self {
        Self {
            job: request.job.to_string(),
            store: request.catalog.store().describe(),
            dry_run: false,
            now: plan.now,
            backups: plan.backups.iter().filter_map(PlannedBackup::of).collect(),
            folders: plan.folders.iter().map(PlannedFolder::of).collect(),
            uploads: plan
                .uploads
                .iter()
                .map(|begun| PlannedUpload {
                    key: begun.upload.key.clone(),
                    last_part: begun.last_part,
                    abort: begun.is_abandoned,
                })
                .collect(),
            removed: Vec::new(),
            removed_objects: 0,
            freed_bytes: 0,
            locked_objects: 0,
            aborted_uploads: 0,
        }
    }

    fn done(&mut self, done: &prune::Pruned) {
        self.removed = done.backups.iter().map(ToString::to_string).collect();
        self.removed_objects = done.n_objects;
        self.freed_bytes = done.freed_bytes;
        self.locked_objects = done.n_locked;
        self.aborted_uploads = done.n_uploads;
    }

    /// Prints the plan of a prune that removes nothing.
    fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || {
            let end = if self.dry_run { "nothing was removed" } else { "there is nothing to remove" };
            format!("{}{end}\n", self.plan_text())
        })?;
        Ok(Exit::Done)
    }

    fn plan_text(&self) -> String {
        let mut table = Table::new(&[
            ("BACKUP", Align::Left),
            ("STORED", Align::Right),
            ("PLAN", Align::Left),
            ("WHY", Align::Left),
        ]);
        for backup in &self.backups {
            let plan = if backup.keep { "keep" } else { "REMOVE" };
            table.row([
                backup.id.clone(),
                unit::bytes(backup.stored_bytes),
                plan.to_owned(),
                backup.reasons.join(", "),
            ]);
        }
        let mut text = if self.backups.is_empty() { "no backups\n".to_owned() } else { table.render() };
        for folder in &self.folders {
            let plan = if folder.remove { "remove" } else { "leave" };
            let (n, size) = (count(folder.objects, "object"), unit::bytes(folder.stored_bytes));
            text.push_str(&format!("{plan} {}: {n}, {size}: {}\n", folder.id, folder.reason));
        }
        for upload in &self.uploads {
            let plan = if upload.abort { "abort" } else { "leave" };
            let key = super::vendor::line(&upload.key, 512);
            text.push_str(&format!("{plan} the upload of {key}: last part {}\n", clock::show(upload.last_part)));
        }
        let n_removed = self.backups.iter().filter(|backup| !backup.keep).count();
        let kept = self.backups.len() - n_removed;
        text.push_str(&format!("plan for \"{}\": {} kept, {n_removed} to remove\n", self.job, count(kept, "backup")));
        text
    }

    fn done_text(&self) -> String {
        let mut parts = vec![format!("removed {}", count(self.removed.len(), "backup"))];
        if !self.removed.is_empty() {
            let whose = if self.removed.len() == 1 { "its" } else { "their" };
            parts.push(format!("{whose} data stays for a day and goes with a later prune"));
        }
        if self.removed_objects > 0 {
            let n = count(usize::try_from(self.removed_objects).unwrap_or(usize::MAX), "object");
            parts.push(format!("freed {} in {n}", unit::bytes(self.freed_bytes)));
        }
        if self.locked_objects > 0 {
            parts.push(format!("{} locked and left", self.locked_objects));
        }
        if self.aborted_uploads > 0 {
            let n = count(usize::try_from(self.aborted_uploads).unwrap_or(usize::MAX), "upload");
            parts.push(format!("aborted {n}"));
        }
        format!("{}\n", parts.join("; "))
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl PlannedBackup {
    fn of(planned: &Planned) -> Option<Self> {
        let record = planned.listed.trusted()?;
        let mut reasons: Vec<String> = planned.verdict.reasons.iter().map(ToString::to_string).collect();
        if !planned.verdict.is_kept() {
            reasons.push("no rule keeps it".to_owned());
        }
        if record.outcome == Outcome::Incomplete {
            reasons.push("incomplete: it counts only among its like".to_owned());
        } else if planned.listed.verified.last().is_some_and(|last| !last.passed) {
            reasons.push("its last verification failed: it counts only among its like".to_owned());
        }
        Some(Self {
            id: record.id.to_string(),
            started: record.started,
            outcome: record.outcome,
            source_id: record.source_id.clone(),
            stored_bytes: record.artifacts.iter().fold(0, |sum, artifact| sum.saturating_add(artifact.stored_bytes())),
            keep: planned.verdict.is_kept(),
            reasons,
        })
    }
}

impl PlannedFolder {
    fn of(left: &Left) -> Self {
        let what = |why: &Why| match why {
            Why::Pruned => "data of a backup that was removed",
            Why::Orphan => "left by a run that made no backup",
        };
        let reason = match &left.fate {
            Fate::Remove(why) => what(why).to_owned(),
            Fate::Wait(why, until) => format!("{}, not before {}", what(why), clock::show(*until)),
            Fate::Locked(why, lock) => format!("{}, locked: {lock}", what(why)),
            Fate::Ask => format!("{}; --orphans removes it", what(&Why::Orphan)),
            Fate::Keep(why) => (*why).to_owned(),
        };
        Self {
            id: left.folder.id.to_string(),
            objects: left.n_objects,
            stored_bytes: left.stored_bytes,
            remove: matches!(left.fate, Fate::Remove(_)),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(id: &str, keep: bool, reason: &str) -> PlannedBackup {
        PlannedBackup {
            id: id.to_owned(),
            started: "2026-11-20T02:00:00Z".parse().unwrap(),
            outcome: Outcome::Complete,
            source_id: None,
            stored_bytes: 20 << 20,
            keep,
            reasons: vec![reason.to_owned()],
        }
    }

    #[test]
    fn the_plan_says_of_everything_what_happens_to_it_and_why() {
        let folder = PlannedFolder {
            id: "20261101T020000Z-cccccccc".to_owned(),
            objects: 1,
            stored_bytes: 312,
            remove: true,
            reason: "data of a backup that was removed".to_owned(),
        };
        let upload = PlannedUpload {
            key: "orders/20261102T020000Z-dddddddd/data/a.0001.zst.age".to_owned(),
            last_part: "2026-11-02T02:00:00Z".parse().unwrap(),
            abort: false,
        };
        let mut prune = Prune {
            job: "orders".to_owned(),
            store: "local".to_owned(),
            dry_run: true,
            now: "2026-11-21T00:00:00Z".parse().unwrap(),
            backups: vec![
                backup("20261119T020000Z-aaaaaaaa", false, "no rule keeps it"),
                backup("20261120T020000Z-bbbbbbbb", true, "daily (2026-11-20)"),
            ],
            folders: vec![folder],
            uploads: vec![upload],
            removed: Vec::new(),
            removed_objects: 0,
            freed_bytes: 0,
            locked_objects: 0,
            aborted_uploads: 0,
        };
        insta::assert_snapshot!(prune.plan_text(), @r#"
        BACKUP                       STORED  PLAN    WHY
        20261119T020000Z-aaaaaaaa  20.0 MiB  REMOVE  no rule keeps it
        20261120T020000Z-bbbbbbbb  20.0 MiB  keep    daily (2026-11-20)
        remove 20261101T020000Z-cccccccc: 1 object, 312 B: data of a backup that was removed
        leave the upload of orders/20261102T020000Z-dddddddd/data/a.0001.zst.age: last part 2026-11-02T02:00:00Z
        plan for "orders": 1 backup kept, 1 to remove
        "#);
        prune.removed = vec!["20261119T020000Z-aaaaaaaa".to_owned()];
        (prune.removed_objects, prune.freed_bytes, prune.locked_objects, prune.aborted_uploads) = (3, 2048, 1, 2);
        insta::assert_snapshot!(prune.done_text(), @"removed 1 backup; its data stays for a day and goes with a later prune; freed 2.0 KiB in 3 objects; 1 locked and left; aborted 2 uploads");
    }
}
