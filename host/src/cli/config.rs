//! `strongroom config`

use super::exit::Exit;
use super::{Globals, load};
use crate::config::Config;
use crate::config::mistake::Placed;
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
        after_help = "Examples:\n  strongroom config check\n  strongroom --config /etc/strongroom/strongroom.toml config check --output json"
    )]
    Check,
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
}

/// Runs it.
pub fn run(args: &ConfigArgs, globals: &Globals) -> anyhow::Result<Exit> {
    match args.command {
        ConfigCommand::Check => check(globals),
        ConfigCommand::Schema => {
            let mut text = serde_json::to_string_pretty(&crate::config::schema::schema())?;
            text.push('\n');
            globals.output().write(&text)?;
            Ok(Exit::Done)
        }
    }
}

fn check(globals: &Globals) -> anyhow::Result<Exit> {
    let output = globals.output();
    let config = load(&globals.config_file()?, &globals.ceilings()?)?;
    if !output.is_json() && !config.warnings.is_empty() {
        output.note(&config.warnings.draw_warnings(output.drawing(), output.width()));
    }
    output.result(&checked(&config), || summary(&config))?;
    Ok(Exit::Done)
}

fn checked(config: &Config) -> Checked {
    Checked {
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
