//! `strongroom alerts`

use super::Globals;
use super::exit::Exit;
use crate::config::{Config, JobConfig};
use crate::error::Result;
use crate::id::Label;
use crate::metrics::alert::{self, Group, Subject};
use clap::Args;
use serde::Serialize;

/// Arguments of `alerts`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom alerts > /etc/prometheus/rules/strongroom.yml
  strongroom alerts orders photos     the rules of two jobs, and of their stores
  strongroom alerts --output json     the same as JSON, which Prometheus reads as well")]
pub struct AlertsArgs {
    /// Jobs, as in [job.NAME] [default: all of them]
    pub jobs: Vec<String>,
}

/// The result of `alerts` as JSON: a rule file of Prometheus. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Rules {
    /// Groups of rules: one for each job, one for stores, one with names that dashboards have.
    pub groups: Vec<Group>,
}

/// Runs it. Reads the configuration alone: nothing is asked, and nothing has to be there.
pub fn run(args: &AlertsArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let config = globals.load()?;
    let subjects = subjects(&config, &args.jobs)?;
    let rules = Rules { groups: alert::groups(&subjects) };
    globals.output().result(&rules, || alert::yaml(&rules.groups))?;
    Ok(Exit::Done)
}

/// The jobs that rules are made for, each once, in the order of the configuration.
fn subjects(config: &Config, names: &[String]) -> Result<Vec<Subject>> {
    let wanted = names.iter().map(|name| config.job(name).map(|(label, _)| label)).collect::<Result<Vec<_>>>()?;
    let jobs = config.jobs.iter().filter(|(label, _)| wanted.is_empty() || wanted.contains(label));
    Ok(jobs.map(|(label, job)| subject(label, job)).collect())
}

fn subject(label: &Label, job: &JobConfig) -> Subject {
    Subject {
        job: label.to_string(),
        plugin: job.plugin.to_string(),
        store: job.store.to_string(),
        objective: job.objective,
        is_pruned: job.keep.is_some(),
    }
}
