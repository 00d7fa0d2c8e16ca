//! `strongroom completions`

use super::exit::Exit;
use super::{Cli, Globals};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom completions bash > /etc/bash_completion.d/strongroom")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the completions.
pub fn run(args: &CompletionsArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "strongroom", &mut script);
    globals.output().write(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}
