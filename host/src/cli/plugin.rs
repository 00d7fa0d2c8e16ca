//! `strongroom plugin`

mod approve;
mod inspect;
mod sign;

use super::Globals;
use super::exit::Exit;
use crate::config::environment;
use crate::plugin::build::BuildOptions;
pub use approve::ApproveArgs;
pub(super) use approve::parse_program;
use clap::{Args, Subcommand};
pub(super) use inspect::parse_key;
pub use inspect::{DiffArgs, InspectArgs};
use serde::Serialize;
pub use sign::{KeygenArgs, SignArgs};
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
        after_help = "Examples:\n  strongroom plugin build plugins/postgres\n  strongroom plugin build . --out postgres.wasm\n  strongroom plugin build . --component made-by-componentize-py.wasm"
    )]
    Build {
        /// Folder of the plugin's crate, with plugin.toml
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// A component that another toolchain made: plugin.toml of the folder is put into it, and nothing is compiled
        #[arg(long, value_name = "FILE")]
        component: Option<PathBuf>,
        /// Where to put the component [default: NAME.wasm in this directory]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows what a plugin is, what it imports, what it asks for and why; runs nothing
    #[command(after_help = "\
Examples:
  strongroom plugin inspect postgres.wasm
  strongroom plugin inspect postgres --output json
  strongroom plugin inspect vendor.wasm --fail-on stdin-from-plugin,inspect   in a pipeline")]
    Inspect(InspectArgs),
    /// Shows what a new version of a plugin can do that the old one could not
    #[command(after_help = "\
Examples:
  strongroom plugin diff postgres-1.2.wasm postgres-1.3.wasm
  strongroom plugin diff old.wasm new.wasm --fail-on-more   in a pipeline")]
    Diff(DiffArgs),
    /// Shows what a plugin asks for, and writes digest and grants into the configuration
    #[command(after_help = "\
Examples:
  strongroom plugin approve postgres           asks, then writes
  strongroom plugin approve postgres --print   a patch for review instead
  strongroom plugin approve postgres --digest SHA256 --program pg_dump=/usr/lib/postgresql/18/bin/pg_dump")]
    Approve(ApproveArgs),
    /// Signs a component, so that whoever trusts the key can tell that it is yours
    #[command(after_help = "\
Example:
  strongroom plugin sign postgres.wasm --key vendor.key
  minisign -V -p vendor.pub -m postgres.wasm   (what whoever gets it can do as well)")]
    Sign(SignArgs),
    /// Makes a pair of keys for signing, in the format of minisign
    #[command(after_help = "\
Examples:
  strongroom plugin keygen vendor                asks for a password; writes vendor.key and vendor.pub
  strongroom plugin keygen vendor --unencrypted  for a machine that signs by itself")]
    Keygen(KeygenArgs),
}

/// Runs it.
pub async fn run(args: PluginArgs, globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    match args.command {
        PluginCommand::Build { folder, component, out } => build(folder, component, out, globals).await,
        PluginCommand::Inspect(args) => inspect::inspect(&args, globals),
        PluginCommand::Diff(args) => inspect::diff(&args, globals),
        PluginCommand::Approve(args) => approve::approve(&args, globals),
        PluginCommand::Sign(args) => sign::sign(&args, globals),
        PluginCommand::Keygen(args) => sign::keygen(&args, globals),
    }
}

async fn build(
    folder: PathBuf,
    component: Option<PathBuf>,
    out: Option<PathBuf>,
    globals: &Globals,
) -> anyhow::Result<Exit> {
    let cargo = environment::process("CARGO").unwrap_or_else(|| "cargo".into());
    let options = BuildOptions { crate_dir: folder, component, out, cargo };
    let built = tokio::task::spawn_blocking(move || crate::plugin::build::build(&options)).await??;
    let shown = ShownBuild {
        file: built.path.display().to_string(),
        name: &built.component.manifest.name,
        version: &built.component.manifest.version,
        sha256: &built.component.sha256,
    };
    globals
        .output()
        .result(&shown, || format!("{}\n  {} {}, sha256 {}\n", shown.file, shown.name, shown.version, shown.sha256))?;
    Ok(Exit::Done)
}

/// The result of `plugin build` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct ShownBuild<'a> {
    /// Where the component is.
    file: String,
    /// Name and version from its manifest.
    name: &'a str,
    version: &'a str,
    /// SHA-256 of its bytes.
    sha256: &'a str,
}
