//! `strongroom restore`

use super::exit::{AfterChange, Exit};
use super::measure::Measure;
use super::output::Output;
use super::progress::step_line;
use super::session::{Needs, Session};
use super::{BareStore, Globals, lost};
use crate::catalog::Listed;
use crate::error::Error;
use crate::plugin::context::{CheckOutcome, Step};
use crate::plugin::signature::TrustedKey;
use crate::policy::Verb;
use crate::run::restore;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore orders latest --plan                        what would be done; changes nothing
  strongroom restore orders 20261120T020000Z-x7k2m9qd --target scratch
  strongroom restore orders latest --option databases=shop --option rename=shop_old

The machine is lost: with the store's address, its credentials and the identity, in an empty directory
  export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…
  strongroom list --store-url 's3://backups/prod?region=eu-west-1'
  strongroom restore files ID --store-url 's3://backups/prod?region=eu-west-1' --identity identity.txt --trust-signer KEY --bucket found=./found --option to_bucket=found --grant-requested")]
pub struct RestoreArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// The backup: its id, the beginning of one, or "latest"
    pub id: String,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub plan: bool,
    /// Where to, as in [target.NAME] [default: where the job's commands run]
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// A restore option of the plugin; VALUE is JSON, or else text. `plugin inspect` shows which there are
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = parse_option)]
    pub options: Vec<(String, serde_json::Value)>,
    /// Restore a backup that something is missing from
    #[arg(long)]
    pub allow_incomplete: bool,
    /// Believe records signed by this key, as `key show` prints it on the host that made them
    #[arg(long, value_name = "KEY")]
    pub trust_signer: Option<String>,
    /// For a store that no configuration describes.
    #[command(flatten)]
    pub bare: BareStore,
    /// Without a configuration: grant the plugin what it asks for to restore, for this run only
    #[arg(long, requires = "store_url")]
    pub grant_requested: bool,
    /// Without a configuration: a minisign public key that is trusted to have signed the plugin [default: those of the ceiling]
    #[arg(long = "trusted-key", value_name = "KEY", requires = "store_url", value_parser = super::plugin::parse_key)]
    pub trusted_keys: Vec<TrustedKey>,
    /// Without a configuration: a directory to restore into, by the label that options name it with
    #[arg(long = "bucket", value_name = "LABEL=DIR", requires = "store_url", value_parser = parse_pair)]
    pub buckets: Vec<(String, String)>,
    /// Without a configuration: a variable of the plugin's commands, such as PGHOST=127.0.0.1
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "store_url", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
    /// Without a configuration: a secret of the plugin's commands, from a variable or a file of yours
    #[arg(long = "secret", value_name = "NAME=env:VARIABLE|file:PATH", requires = "store_url", value_parser = parse_pair)]
    pub secrets: Vec<(String, String)>,
    /// Without a configuration: path of a program that the plugin asks for [default: looked for on this machine]
    #[arg(long = "program", value_name = "NAME=PATH", requires = "store_url", value_parser = super::plugin::parse_program)]
    pub programs: Vec<(String, String)>,
}

pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

impl RestoreArgs {
    /// Restore options: those of the target below those of the command line.
    pub fn options_over(&self, target: &serde_json::Value) -> serde_json::Value {
        let mut options = target.as_object().cloned().unwrap_or_default();
        options.extend(self.options.iter().cloned());
        serde_json::Value::Object(options)
    }
}

pub(super) fn parse_option(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        return Err("expected a key before =".to_owned());
    }
    // `true`, `3` and `["a"]` are what they look like; `shop` is text.
    let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
    Ok((key.to_owned(), value))
}

/// Runs it.
pub async fn run(args: RestoreArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let session = match args.bare.config()? {
        None => Session::open(globals, cancel)?,
        Some(store) => lost::session(&args, store, globals, cancel).await?,
    };
    // A machine that is lost measures nothing, and a plan changes nothing.
    let is_measured = args.bare.store_url.is_none() && !args.plan;
    let measure = Measure::begin(&session, &args.job).filter(|_| is_measured);
    let done = carry_out(&session, &args).await;
    if let Some(measure) = measure {
        measure.restored(&session, done.as_ref().is_ok_and(|(_, restored)| restored.result.is_ok())).await;
    }
    let (listed, restored) = done?;
    drop(session);
    let Some(record) = listed.trusted() else {
        return Err(listed.not_believed().into());
    };
    if let Err(error) = restored.result {
        let next = || format!("see whether the backup is whole: strongroom verify {} {}", args.job, record.id);
        let error = super::report::with_next_step(error, next);
        return Err(stopped(&args, restored.steps, restored.changed_target, error, globals));
    }
    let shown = Restored {
        job: &args.job,
        backup: record.id.as_str(),
        target: args.target.as_deref(),
        plan: args.plan,
        skipped: super::backup::skipped(&record.skipped),
        not_captured: &record.not_captured,
        steps: &restored.steps,
    };
    shown.print(&globals.output())
}

/// Restores, once everything that it needs was found.
async fn carry_out(session: &Session, args: &RestoreArgs) -> Result<(Listed, restore::Restored), Error> {
    let target = args.target.as_deref().map(|target| session.config.target(target)).transpose()?;
    let mut of_target = target.map_or_else(|| serde_json::json!({}), |(_, config)| config.options.clone());
    if of_target.is_null() {
        of_target = serde_json::json!({});
    }
    let into = target.map(|(label, _)| label.clone());
    let needs = Needs { verb: Verb::Restore, identity: true, target: into.clone() };
    let mut job = session.job(&args.job, needs).await?;
    if let Some(key) = &args.trust_signer {
        job.catalog = job.catalog.trusting(key.parse()?);
    }
    let plugin = args.options_over(&of_target);
    job.plugin.component().manifest.check_options(&plugin)?;
    let listed = job.catalog.find(&job.name, &args.id).await?;
    let options = restore::Options { plan_only: args.plan, allow_incomplete: args.allow_incomplete, into, plugin };
    let restored = restore::restore(&job, &listed, options).await?;
    Ok((listed, restored))
}

/// The error of a restore that stopped, after the list of what was done: exit code 6 where the
/// target was changed.
fn stopped(args: &RestoreArgs, steps: Vec<Step>, changed: bool, error: Error, globals: &Globals) -> anyhow::Error {
    if args.plan || !changed {
        return error.into();
    }
    let output = globals.output();
    if !output.is_json() {
        output.complain("what was done before it stopped:");
        steps.iter().for_each(|step| output.complain(&format!("  {}", step_line(step))));
    }
    AfterChange { error, steps }.into()
}

/// The result of `restore` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Restored<'a> {
    /// The job.
    pub job: &'a str,
    /// The backup.
    pub backup: &'a str,
    /// Where to; `null` for the place of the job itself.
    pub target: Option<&'a str>,
    /// Whether nothing was changed.
    pub plan: bool,
    /// What was missing from the backup in the first place.
    pub skipped: Vec<super::backup::Skipped<'a>>,
    /// What this method never holds.
    pub not_captured: &'a [String],
    /// What was done, in its order; of a plan, what would be.
    pub steps: &'a [Step],
}

impl Restored<'_> {
    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(if self.skipped.is_empty() { Exit::Done } else { Exit::Incomplete })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.plan {
            for step in self.steps {
                text.push_str(&format!("would {}\n", would(step)));
            }
        } else {
            for step in self.steps.iter().filter(|step| step.outcome != CheckOutcome::Passed) {
                text.push_str(&format!("{}\n", step_line(step)));
            }
        }
        for skipped in &self.skipped {
            let (what, reason) = (super::vendor::line(skipped.what, 256), super::vendor::line(skipped.reason, 512));
            text.push_str(&format!("not in the backup: {what}: {reason}\n"));
        }
        for what in self.not_captured {
            text.push_str(&format!("never in such a backup: {}\n", super::vendor::line(what, 512)));
        }
        let place = self.target.map_or("where it came from".to_owned(), |target| format!("into \"{target}\""));
        let n = self.steps.len();
        let steps = if n == 1 { "1 step".to_owned() } else { format!("{n} steps") };
        text.push_str(&if self.plan {
            format!("plan for {} of \"{}\" {place}: {steps}; nothing was changed\n", self.backup, self.job)
        } else {
            format!("restored {} of \"{}\" {place}: {steps}\n", self.backup, self.job)
        });
        text
    }
}

fn would(step: &Step) -> String {
    let (action, target) = (super::vendor::line(&step.action, 256), super::vendor::line(&step.target, 256));
    if step.note.is_empty() {
        format!("{action} {target}")
    } else {
        format!("{action} {target} ({})", super::vendor::line(&step.note, 512))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_json_or_else_text() {
        for (text, expected) in [
            ("databases=shop", json!("shop")),
            ("force=true", json!(true)),
            ("jobs=4", json!(4)),
            ("databases=[\"a\",\"b\"]", json!(["a", "b"])),
            ("where=a=b", json!("a=b")),
            ("empty=", json!("")),
        ] {
            assert_eq!(parse_option(text).unwrap().1, expected, "{text}");
        }
        for wrong in ["databases", "=x", ""] {
            assert!(parse_option(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_says_what_would_be_done_and_a_restore_what_did_not_go_well() {
        let step = |action: &str, outcome, note: &str| Step {
            action: action.to_owned(),
            target: "shop".to_owned(),
            outcome,
            note: note.to_owned(),
        };
        let steps = [
            step("create database", CheckOutcome::Passed, ""),
            step("restore owner", CheckOutcome::Skipped, "no such role"),
        ];
        let mut restored = Restored {
            job: "orders",
            backup: "20261120T020000Z-x7k2m9qd",
            target: Some("scratch"),
            plan: true,
            skipped: Vec::new(),
            not_captured: &["replication slots".to_owned()],
            steps: &steps,
        };
        insta::assert_snapshot!(restored.text(), @r#"
        would create database shop
        would restore owner shop (no such role)
        never in such a backup: replication slots
        plan for 20261120T020000Z-x7k2m9qd of "orders" into "scratch": 2 steps; nothing was changed
        "#);
        restored.plan = false;
        insta::assert_snapshot!(restored.text(), @r#"
        restore owner shop: skipped (no such role)
        never in such a backup: replication slots
        restored 20261120T020000Z-x7k2m9qd of "orders" into "scratch": 2 steps
        "#);
    }
}
