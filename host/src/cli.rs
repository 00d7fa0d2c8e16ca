//! The command line: verbs, their arguments, how results and errors are printed, exit codes.
//!
//! The only place that prints. A verb is one file in `cli/` with its arguments, its run and its
//! printing; adding one is that file, one line in [`Command`] and one arm in [`run`].

pub mod alerts;
mod ask;
pub mod audit;
pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod diagnose;
pub mod diff;
pub mod exit;
pub mod export;
pub mod key;
mod lend;
pub mod list;
mod lost;
mod measure;
pub mod output;
pub mod plugin;
pub mod process;
pub mod progress;
mod propose;
pub mod prune;
pub mod report;
pub mod restore;
pub mod session;
pub mod show;
pub mod store;
pub mod table;
mod unbuilt;
pub mod vendor;
pub mod verify;

use crate::config::Config;
use crate::config::ceiling::Ceilings;
use crate::config::place::Directories;
use crate::error::{Error, Result};
use crate::progress::Progress;
use clap::{Args, Parser, Subcommand};
use exit::Exit;
use output::{Colour, Format, Output};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Backs up, verifies, restores and diagnoses stateful systems. What is particular to a system is
/// a sandboxed plugin; every byte at rest is zstd in age.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  strongroom config check
  strongroom backup orders
  strongroom list orders
  strongroom restore orders latest --target scratch --plan

Exit codes:
  0 done, 1 failed (nothing recorded or changed), 2 usage or configuration, 3 incomplete, 4 denied,
  5 a check failed, 6 a restore stopped after it had changed the target, 130 cancelled"
)]
pub struct Cli {
    /// For every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Globals {
    /// Configuration file [default: ./strongroom.toml, this user's, then /etc/strongroom/strongroom.toml]
    #[arg(long, global = true, value_name = "FILE", env = "STRONGROOM_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Directory for what must survive, such as the host's key [default: by platform convention]
    #[arg(long, global = true, value_name = "DIR", env = "STRONGROOM_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Directory for what can be made again, such as compiled plugins [default: by platform convention]
    #[arg(long, global = true, value_name = "DIR", env = "STRONGROOM_CACHE_DIR", hide_env_values = true)]
    pub cache_dir: Option<PathBuf>,
    /// Another ceiling over every grant, besides /etc/strongroom/ceiling.toml; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    pub ceiling: Vec<PathBuf>,
    /// How the result is written to standard output
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// No progress and no notes; results and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice says everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colours and bars
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Colour,
}

impl Globals {
    /// How results are written.
    pub fn output(&self) -> Output {
        Output { format: self.output, quiet: self.quiet, colour: self.color }
    }

    /// What a run reports its progress to.
    pub fn progress(&self) -> Arc<dyn Progress> {
        progress::for_output(&self.output(), self.verbose)
    }

    /// Directories of this user.
    ///
    /// Errors: `NotFound` without a home.
    pub fn directories(&self) -> Result<Directories> {
        Directories::find(self.state_dir.as_deref(), self.cache_dir.as_deref())
    }

    /// The configuration file that is meant.
    ///
    /// Errors: `Invalid` when there is none.
    pub fn config_file(&self) -> Result<PathBuf> {
        self.directories()?.config_file(self.config.as_deref())
    }

    /// Everything that is over the configuration.
    ///
    /// Errors: those of [`Ceilings::load`].
    pub fn ceilings(&self) -> Result<Ceilings> {
        Ceilings::load(&self.ceiling)
    }

    /// The configuration, read and checked; its warnings are shown.
    ///
    /// Errors: those of [`Config::load`]; a missing file is `Invalid` here, exit code 2.
    pub fn load(&self) -> Result<Config> {
        let path = self.config_file()?;
        let config = load(&path, &self.ceilings()?)?;
        let output = self.output();
        if !config.warnings.is_empty() && !output.quiet {
            for warning in config.warnings.placed() {
                output.note(&format!(
                    "warning: {}:{}:{}: {}: {}",
                    warning.file, warning.line, warning.column, warning.message, warning.found
                ));
            }
        }
        Ok(config)
    }
}

/// Reads a configuration; that it is missing is a mistake of the command line.
fn load(path: &Path, ceilings: &Ceilings) -> Result<Config> {
    Config::load(path, ceilings).map_err(|error| match error.kind() {
        crate::error::Kind::NotFound => Error::invalid(format!("there is no configuration \"{}\"", path.display()))
            .hint("name another one with --config, or write it (README, sixty seconds to a first backup)")
            .because(error),
        _ => error,
    })
}

/// A store without a configuration, when the machine is lost.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Without a configuration")]
pub struct BareStore {
    /// Address of the store: s3://BUCKET/PREFIX?endpoint=URL&region=NAME, or the path of a directory.
    /// Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "ADDRESS")]
    pub store_url: Option<String>,
    /// File with the age identity that can read the backups
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

impl BareStore {
    /// The store that is named, if any.
    ///
    /// Errors: `Invalid` for an address that is none.
    pub fn config(&self) -> Result<Option<crate::config::StoreConfig>> {
        self.store_url
            .as_deref()
            .map(|url| crate::config::StoreConfig::from_url(url, self.identity.as_deref()))
            .transpose()
    }
}

/// The verbs, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Backs a job up
    Backup(backup::BackupArgs),
    /// Checks a backup: the stored bytes, that the system's own reader accepts them, or a test restore
    Verify(verify::VerifyArgs),
    /// Restores a backup, or shows what restoring it would do
    Restore(restore::RestoreArgs),
    /// Writes a backup of clusters as manifests for a Git repository; Secrets are left out
    Export(export::ExportArgs),
    /// Compares a backup with another one, or with the system as it is
    Diff(diff::DiffArgs),
    /// Looks for what will go wrong: the plugin's checks and the host's own
    Diagnose(diagnose::DiagnoseArgs),
    /// Lists backups
    List(list::ListArgs),
    /// Shows everything that is recorded of a backup
    Show(show::ShowArgs),
    /// Removes the backups that the job's rules do not keep, after showing which and why
    Prune(prune::PruneArgs),
    /// The key of this host, which signs its records
    Key(key::KeyArgs),
    /// Stores: prepare one, or find out what it can do
    Store(store::StoreArgs),
    /// Plugins: build, look into, approve
    Plugin(plugin::PluginArgs),
    /// The log of what plugins did: read it, check it, find grants that nothing uses
    Audit(audit::AuditArgs),
    /// Prints rules for Prometheus that alert on overdue, failed and unverified backups
    Alerts(alerts::AlertsArgs),
    /// The configuration: check it, or print its schema
    Config(config::ConfigArgs),
    /// Prints completions for a shell
    Completions(completions::CompletionsArgs),
}

/// Parses the command line. What clap has to say itself (help, version, usage) is printed here.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Cli, Exit> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    Cli::try_parse_from(&arguments).map_err(|error| {
        let wants_json = arguments.iter().any(|argument| argument == "--output=json")
            || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
        let format = if wants_json { Format::Json } else { Format::Text };
        let output = Output { format, quiet: false, colour: Colour::Auto };
        if let Some(unbuilt) = unbuilt::answer(&error, &arguments) {
            report::print(&unbuilt.into(), &output);
            return Exit::Usage;
        }
        if wants_json && error.use_stderr() {
            let text = error.render().to_string();
            let message = text.trim().trim_start_matches("error: ").to_owned();
            report::print(&Error::invalid(message).into(), &output);
            return Exit::Usage;
        }
        // Where help cannot be printed, nothing can say so.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Done }
    })
}

/// Runs a verb, prints its result or its error, and says how the process ends.
pub async fn run(cli: Cli, cancel: CancellationToken) -> Exit {
    let Cli { globals, command } = cli;
    // Each future is large (a whole run); boxed, they do not add up on one stack frame.
    let result = match command {
        Command::Backup(args) => Box::pin(backup::run(args, &globals, cancel)).await,
        Command::Verify(args) => Box::pin(verify::run(args, &globals, cancel)).await,
        Command::Restore(args) => Box::pin(restore::run(args, &globals, cancel)).await,
        Command::Export(args) => Box::pin(export::run(args, &globals, cancel)).await,
        Command::Diff(args) => Box::pin(diff::run(args, &globals, cancel)).await,
        Command::Diagnose(args) => Box::pin(diagnose::run(args, &globals, cancel)).await,
        Command::List(args) => Box::pin(list::run(args, &globals, cancel)).await,
        Command::Show(args) => Box::pin(show::run(args, &globals, cancel)).await,
        Command::Prune(args) => Box::pin(prune::run(args, &globals, cancel)).await,
        Command::Key(args) => Box::pin(key::run(args, &globals, cancel)).await,
        Command::Store(args) => Box::pin(store::run(args, &globals, cancel)).await,
        Command::Plugin(args) => Box::pin(plugin::run(args, &globals, cancel)).await,
        Command::Audit(args) => Box::pin(audit::run(args, &globals, cancel)).await,
        Command::Alerts(args) => alerts::run(&args, &globals),
        Command::Config(args) => config::run(&args, &globals),
        Command::Completions(args) => completions::run(&args, &globals),
    };
    // A program that was asked to end needs some seconds: it must not outlive the process unseen.
    let left = crate::exec::settled(std::time::Duration::from_secs(10)).await;
    if left > 0 {
        globals.output().complain(&format!("warning: {left} program(s) did not end when they were told to"));
    }
    result.unwrap_or_else(|error| {
        report::print(&error, &globals.output());
        Exit::of_error(&error)
    })
}

#[cfg(test)]
mod tests;
