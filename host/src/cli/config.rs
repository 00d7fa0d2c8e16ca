//! `strongroom config`

use super::exit::Exit;
use super::{Globals, load};
use crate::config::mistake::Placed;
use crate::config::{Config, environment};
use crate::error::Error;
use clap::{Args, Subcommand};
use serde::Serialize;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `config` can do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Finds every mistake in the configuration at once
    #[command(
        after_help = "Examples:\n  strongroom config check\n  strongroom config check --secrets              on the machine that has them\n  strongroom --config /etc/strongroom/strongroom.toml config check --output json"
    )]
    Check {
        /// A secret that cannot be had here is a mistake (2), and no mere warning
        #[arg(long)]
        secrets: bool,
    },
    /// Prints a JSON Schema of the configuration, for editors
    #[command(
        after_help = "Example:\n  strongroom config schema > strongroom.schema.json\n  (and as the first line of strongroom.toml: #:schema ./strongroom.schema.json)"
    )]
    Schema,
}

/// The result of `config check` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct Checked {
    /// The file.
    file: String,
    stores: Vec<String>,
    buckets: Vec<String>,
    plugins: Vec<String>,
    targets: Vec<String>,
    jobs: Vec<String>,
    warnings: Vec<Placed>,
    /// What is to be said of secrets on this machine: those that cannot be had, files that everybody can read.
    secrets: Vec<String>,
}

/// Runs it.
pub fn run(args: &ConfigArgs, globals: &Globals) -> anyhow::Result<Exit> {
    match args.command {
        ConfigCommand::Check { secrets } => check(globals, secrets),
        ConfigCommand::Schema => {
            let mut text = serde_json::to_string_pretty(&crate::config::schema::schema())?;
            text.push('\n');
            globals.output().write(&text)?;
            Ok(Exit::Done)
        }
    }
}

fn check(globals: &Globals, must_have: bool) -> anyhow::Result<Exit> {
    let output = globals.output();
    let config = load(&globals.config_file()?, &globals.ceilings()?)?;
    let (wrong, noticed) = config.check_secrets(environment::process);
    if must_have && !wrong.is_empty() {
        return Err(missing(&wrong).into());
    }
    if !output.is_json() && !config.warnings.is_empty() {
        output.note(&config.warnings.draw_warnings(output.drawing(), output.width()));
    }
    let secrets: Vec<String> = wrong.iter().map(|error| error.message().to_owned()).chain(noticed).collect();
    if !output.is_json() {
        secrets.iter().for_each(|said| output.note(&format!("warning: {said}")));
    }
    output.result(&checked(&config, secrets), || summary(&config))?;
    Ok(Exit::Done)
}

/// All that cannot be had, as one error.
fn missing(wrong: &[Error]) -> Error {
    let error = Error::invalid(format!("{} secret(s) cannot be had on this machine", wrong.len()));
    let error = wrong.iter().fold(error, |all, one| all.fact("secret", one.message()));
    error.hint("set the variables and make the files, readable by strongroom only, or correct the references")
}

fn checked(config: &Config, secrets: Vec<String>) -> Checked {
    Checked {
        secrets,
        file: config.path.display().to_string(),
        stores: config.stores.keys().map(ToString::to_string).collect(),
        buckets: config.buckets.keys().map(ToString::to_string).collect(),
        plugins: config.plugins.keys().map(ToString::to_string).collect(),
        targets: config.targets.keys().map(ToString::to_string).collect(),
        jobs: config.jobs.keys().map(ToString::to_string).collect(),
        warnings: config.warnings.placed(),
    }
}

fn summary(config: &Config) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let mut parts = vec![
        count(config.jobs.len(), "job"),
        count(config.stores.len(), "store"),
        count(config.plugins.len(), "plugin"),
    ];
    if !config.buckets.is_empty() {
        parts.push(count(config.buckets.len(), "bucket"));
    }
    if !config.targets.is_empty() {
        parts.push(count(config.targets.len(), "target"));
    }
    format!("{}: no mistakes: {}\n", config.path.display(), parts.join(", "))
}
