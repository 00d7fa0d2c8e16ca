//! `strongroom key`

use super::Globals;
use super::exit::Exit;
use super::output::Output;
use super::session::Session;
use crate::config::Config;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What `key` can do.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Prints the public half of this host's key, for `trusted_hosts` of other hosts
    #[command(after_help = "Example:\n  strongroom key show")]
    Show,
}

/// Runs it.
pub async fn run(args: KeyArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let KeyCommand::Show = args.command;
    // The key is this machine's own: no configuration is needed to show it.
    let session = Session::with(globals, Config::default(), cancel)?;
    let key = session.host_key()?.public().to_string();
    let file = session.host_key_file().display().to_string();
    ShownKey { public_key: &key, file }.print(&globals.output())
}

/// The result of `key show` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct ShownKey<'a> {
    /// The public key, as `trusted_hosts` and `--trust-signer` take it.
    pub public_key: &'a str,
    /// Where its private half lies.
    pub file: String,
}

impl ShownKey<'_> {
    /// Prints it: as text the key alone, so that it can be pasted.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || format!("{}\n", self.public_key))?;
        Ok(Exit::Done)
    }
}
