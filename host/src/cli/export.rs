//! `strongroom export`: a restore into files. What the files are is the plugin's; where they may lie is
//! said by the command line.

use super::Globals;
use super::exit::{AfterChange, Exit};
use super::lend;
use super::output::Output;
use super::progress::step_line;
use super::session::{Needs, Session};
use crate::error::IoContext;
use crate::plugin::context::{CheckOutcome, Step};
use crate::policy::Verb;
use crate::run::restore;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom export clusters latest --to ./manifests
  strongroom export clusters latest --to ops/clusters --repository https://git.example.com/ops.git --path clusters/
  strongroom export clusters latest --to ./shop --option namespaces='[\"shop\"]'")]
pub struct ExportArgs {
    /// The job, as in [job.NAME]
    pub job: String,
    /// The backup: its id, the beginning of one, or "latest"
    pub id: String,
    /// Directory to write into: an empty one, or that of an earlier export. What that wrote and this one
    /// does not is removed, and files of others stay
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Address of the repository that the directory will lie in, for the Argo CD Application
    #[arg(long, value_name = "URL")]
    pub repository: Option<String>,
    /// Revision of the repository that is to be followed
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Path of the directory in the repository, such as clusters/
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// A restore option of the plugin, such as namespaces; VALUE is JSON, or else text
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = super::restore::parse_option)]
    pub options: Vec<(String, serde_json::Value)>,
    /// Export a backup that something is missing from
    #[arg(long)]
    pub allow_incomplete: bool,
    /// Believe records signed by this key, as `key show` prints it on the host that made them
    #[arg(long, value_name = "KEY")]
    pub trust_signer: Option<String>,
}

/// Runs it.
pub async fn run(args: ExportArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let mut session = Session::open(globals, cancel)?;
    session.config.job(&args.job)?;
    std::fs::create_dir_all(&args.to).doing(|| format!("make \"{}\"", args.to.display()))?;
    let bucket = lend::lend(&mut session, &args.job, &args.to)?;
    let mut job = session.job(&args.job, Needs { identity: true, ..Needs::of(Verb::Restore) }).await?;
    if let Some(key) = &args.trust_signer {
        job.catalog = job.catalog.trusting(key.parse()?);
    }
    let manifest = &job.plugin.component().manifest;
    lend::check_knows(manifest, "export", "files")?;
    let mut options: serde_json::Map<String, serde_json::Value> = args.options.iter().cloned().collect();
    options.insert(lend::TO.to_owned(), "files".into());
    options.insert("to_bucket".to_owned(), bucket.as_str().into());
    for (name, value) in [("repository", &args.repository), ("revision", &args.revision), ("path", &args.path)] {
        if let Some(value) = value {
            options.insert(name.to_owned(), value.as_str().into());
        }
    }
    let options = serde_json::Value::Object(options);
    manifest.check_options(&options)?;
    let listed = job.catalog.find(&job.name, &args.id).await?;
    let how = restore::Options {
        plan_only: false,
        allow_incomplete: args.allow_incomplete,
        into: Some(bucket),
        plugin: options,
    };
    let restored = restore::restore(&job, &listed, how).await?;
    drop(session);
    if let Err(error) = restored.result {
        return Err(if restored.changed_target {
            AfterChange { error, steps: restored.steps }.into()
        } else {
            error.into()
        });
    }
    let directory = args.to.display().to_string();
    Exported { job: &args.job, backup: restored.id.as_str(), directory: &directory, steps: &restored.steps }
        .print(&globals.output())
}

/// The result of `export` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Exported<'a> {
    /// The job.
    pub job: &'a str,
    /// The backup.
    pub backup: &'a str,
    /// Where the files are.
    pub directory: &'a str,
    /// What was written, and what was left out.
    pub steps: &'a [Step],
}

impl Exported<'_> {
    /// Prints it and says how the process ends.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let mut text: String = self
            .steps
            .iter()
            .filter(|step| step.outcome != CheckOutcome::Passed || !step.note.is_empty())
            .map(|step| format!("{}\n", step_line(step)))
            .collect();
        text.push_str(&format!("exported {} of \"{}\" to {}\n", self.backup, self.job, self.directory));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_says_what_it_left_out() {
        let step = |action: &str, outcome, note: &str| Step {
            action: action.to_owned(),
            target: "command-line".to_owned(),
            outcome,
            note: note.to_owned(),
        };
        let steps = [
            step("write manifests", CheckOutcome::Passed, "34 files"),
            step("write manifests", CheckOutcome::Skipped, "2 objects are left out"),
        ];
        let exported =
            Exported { job: "clusters", backup: "20261120T020000Z-x7k2m9qd", directory: "./manifests", steps: &steps };
        insta::assert_snapshot!(exported.text(), @r#"
        write manifests command-line: done (34 files)
        write manifests command-line: skipped (2 objects are left out)
        exported 20261120T020000Z-x7k2m9qd of "clusters" to ./manifests
        "#);
    }
}
