//! `strongroom plugin`

use super::Globals;
use super::exit::Exit;
use crate::error::Error;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Arguments of `plugin`.
#[derive(Debug, Args)]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// What `plugin` can do.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Builds a plugin: a component with its manifest inside
    #[command(
        after_help = "Examples:\n  strongroom plugin build plugins/postgres\n  strongroom plugin build . --out postgres.wasm"
    )]
    Build {
        /// Folder of the plugin's crate, with plugin.toml
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Where to put the component [default: NAME.wasm in this directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows what a plugin is, what it imports, what it asks for and why; runs nothing
    #[command(
        after_help = "Examples:\n  strongroom plugin inspect postgres.wasm\n  strongroom plugin inspect postgres --output json"
    )]
    Inspect {
        /// A component's file, or a plugin as in [plugin.NAME]
        plugin: String,
    },
    /// Shows what a plugin asks for, and writes digest and grants into the configuration
    #[command(after_help = "\
Examples:
  strongroom plugin approve postgres           asks, then writes
  strongroom plugin approve postgres --print   a patch for review instead
  strongroom plugin approve postgres --yes --program pg_dump=/usr/lib/postgresql/18/bin/pg_dump")]
    Approve {
        /// The plugin, as in [plugin.NAME]
        plugin: String,
        /// Print a patch and write nothing
        #[arg(long)]
        print: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Path of a program that the plugin asks for, where its commands run [default: looked for on this machine]
        #[arg(long = "program", value_name = "NAME=PATH", value_parser = parse_program)]
        programs: Vec<(String, String)>,
    },
}

fn parse_program(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => Ok((name.to_owned(), path.to_owned())),
        _ => Err("expected NAME=PATH with an absolute path".to_owned()),
    }
}

/// Runs it.
pub async fn run(_args: PluginArgs, _globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    Err(Error::failed("internal error: `strongroom plugin` is not wired to its run").into())
}
