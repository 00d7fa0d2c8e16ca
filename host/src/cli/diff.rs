//! `strongroom diff`: what is different between a backup and another one, or the system as it is. What a
//! difference is, is the plugin's; nothing is changed.

use super::exit::Exit;
use super::lend;
use super::output::Output;
use super::session::{Needs, Session};
use super::{Globals, vendor};
use crate::error::{IoContext, Result};
use crate::plugin::context::{CheckOutcome, Step};
use crate::policy::Verb;
use crate::run::restore;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

/// What stands for the system as it is, in the place of a backup.
const LIVE: &str = "live";

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom diff clusters latest live                   what has changed since the last backup
  strongroom diff clusters 20261119T02 latest            between two backups
  strongroom diff clusters latest live --option to_clusters='{\"a\":\"b\"}' --option clusters='[\"a\"]'
                                                         how cluster b differs from the backup of a
  strongroom diff clusters latest latest --option to_clusters='{\"a\":\"b\"}' --option clusters='[\"a\"]'
                                                         the same as both were when they were backed up")]
pub struct DiffArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// The backup: its id, the beginning of one, or "latest"
    pub id: String,
    /// What it is compared with: another backup of the job, or "live"
    #[arg(value_name = "ID|live")]
    pub other: String,
    /// A restore option of the plugin, such as namespaces; VALUE is JSON, or else text
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = super::restore::parse_option)]
    pub options: Vec<(String, Value)>,
    /// End with 5 where there is a difference
    #[arg(long)]
    pub exit_code: bool,
    /// Compare backups that something is missing from
    #[arg(long)]
    pub allow_incomplete: bool,
}

/// Runs it.
pub async fn run(args: DiffArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let mut session = Session::open(globals, cancel)?;
    session.config.job(&args.job)?;
    // Readable by this user alone, and gone at the end.
    let scratch = tempfile::Builder::new()
        .prefix("strongroom-diff-")
        .tempdir()
        .doing(|| "make a directory for one side of a comparison".to_owned())?;
    let lent = lend::lend(&mut session, &args.job, scratch.path())?;
    let job = session.job(&args.job, Needs { identity: true, ..Needs::of(Verb::Restore) }).await?;
    let manifest = &job.plugin.component().manifest;
    lend::check_knows(manifest, "diff", "compare")?;
    let listed = job.catalog.find(&job.name, &args.id).await?;
    let with = |to: &str, bucket: bool| -> Result<Value> {
        let mut options: Map<String, Value> = args.options.iter().cloned().collect();
        options.insert(lend::TO.to_owned(), to.into());
        if bucket {
            options.insert("to_bucket".to_owned(), lent.as_str().into());
        }
        let options = Value::Object(options);
        manifest.check_options(&options)?;
        Ok(options)
    };
    let how = |plugin: Value, plan_only: bool| restore::Options {
        plan_only,
        allow_incomplete: args.allow_incomplete,
        into: Some(lent.clone()),
        plugin,
    };
    let is_live = args.other == LIVE;
    let mut other = LIVE.to_owned();
    if !is_live {
        let second = job.catalog.find(&job.name, &args.other).await?;
        let written = restore::restore(&job, &second, how(with("lines", true)?, false)).await?;
        written.result?;
        other = written.id.to_string();
    }
    let compared = restore::restore(&job, &listed, how(with("compare", !is_live)?, true)).await?;
    compared.result?;
    drop(session);
    let differences: Vec<ObjectDifference<'_>> = compared.steps.iter().filter_map(ObjectDifference::of).collect();
    let not_compared = compared.steps.iter().filter_map(NotCompared::of).collect();
    let found = Drift { job: &args.job, backup: compared.id.as_str(), other: &other, differences, not_compared };
    found.print(&globals.output(), args.exit_code)
}

/// The result of `diff` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Drift<'a> {
    /// The job.
    pub job: &'a str,
    /// The backup.
    pub backup: &'a str,
    /// What it was compared with: a backup, or `live`.
    pub other: &'a str,
    /// What is different, in the order of the backup.
    pub differences: Vec<ObjectDifference<'a>>,
    /// What could not be compared; the process then ends with 3.
    pub not_compared: Vec<NotCompared<'a>>,
}

/// One object that is different.
#[derive(Debug, Serialize)]
pub struct ObjectDifference<'a> {
    /// `added`, `removed` or `changed`, from the backup to the other side.
    pub change: &'a str,
    /// The object.
    pub object: &'a str,
    /// What is different in it, as the plugin says.
    pub fields: &'a str,
}

impl<'a> ObjectDifference<'a> {
    /// A step that is a difference is one to look at; the others only count.
    fn of(step: &'a Step) -> Option<Self> {
        let differs = step.outcome == CheckOutcome::Warned;
        differs.then_some(Self { change: &step.action, object: &step.target, fields: &step.note })
    }
}

/// Objects that could not be compared.
#[derive(Debug, Serialize)]
pub struct NotCompared<'a> {
    /// Which.
    pub objects: &'a str,
    /// Why not.
    pub why: &'a str,
}

impl<'a> NotCompared<'a> {
    /// A step that failed.
    fn of(step: &'a Step) -> Option<Self> {
        (step.outcome == CheckOutcome::Failed).then_some(Self { objects: &step.target, why: &step.note })
    }
}

impl Drift<'_> {
    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output, exit_code: bool) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(match (exit_code && !self.differences.is_empty(), self.not_compared.is_empty()) {
            (true, _) => Exit::CheckFailed,
            (false, false) => Exit::Incomplete,
            (false, true) => Exit::Done,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            let (change, object) = (vendor::line(difference.change, 64), vendor::line(difference.object, 512));
            text.push_str(&format!("{change} {object}\n"));
            if !difference.fields.is_empty() {
                text.push_str(&format!("  {}\n", vendor::line(difference.fields, 1_024)));
            }
        }
        for NotCompared { objects, why } in &self.not_compared {
            text.push_str(&format!("not compared: {}\n  {}\n", vendor::line(objects, 512), vendor::line(why, 1_024)));
        }
        let n = match self.differences.len() {
            0 => "no difference".to_owned(),
            1 => "1 difference".to_owned(),
            n => format!("{n} differences"),
        };
        text.push_str(&format!("{n} between {} of \"{}\" and {}\n", self.backup, self.job, self.other));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_and_what_is_the_same_is_not() {
        let step = |action: &str, outcome, target: &str, note: &str| Step {
            action: action.to_owned(),
            target: target.to_owned(),
            outcome,
            note: note.to_owned(),
        };
        let steps = [
            step("changed", CheckOutcome::Warned, "prod: apps/Deployment shop/web", "spec.replicas 3 -> 5"),
            step("removed", CheckOutcome::Warned, "prod: /ConfigMap shop/old", ""),
            step("same", CheckOutcome::Skipped, "120 objects", ""),
        ];
        let mut drift = Drift {
            job: "clusters",
            backup: "20261120T020000Z-x7k2m9qd",
            other: LIVE,
            differences: steps.iter().filter_map(ObjectDifference::of).collect(),
            not_compared: steps.iter().filter_map(NotCompared::of).collect(),
        };
        insta::assert_snapshot!(drift.text(), @r#"
        changed prod: apps/Deployment shop/web
          spec.replicas 3 -> 5
        removed prod: /ConfigMap shop/old
        2 differences between 20261120T020000Z-x7k2m9qd of "clusters" and live
        "#);
        drift.differences.clear();
        insta::assert_snapshot!(drift.text(), @r#"no difference between 20261120T020000Z-x7k2m9qd of "clusters" and live"#);
    }
}
