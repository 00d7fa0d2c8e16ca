//! The `strongroom` command.

use std::process::ExitCode;
use strongroom::cli::{self, exit::Exit, process};
use strongroom::error::Error;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    strongroom::footprint::share_heaps();
    process::no_core_dumps();
    process::no_secrets_in_panics();
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = strongroom::plugin::compiler::child(&arguments) {
        return ExitCode::from(code);
    }
    let cli = match cli::parse(arguments) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    process::log_to_stderr(&cli.globals);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::failed("could not start").because_of_io(error);
            cli::report::print(&error.into(), &cli.globals.output());
            return Exit::Failed.into();
        }
    };
    let cancel = CancellationToken::new();
    runtime.spawn(process::cancel_on_signals(cancel.clone()));
    let exit = runtime.block_on(cli::run(cli, cancel));
    // Blocking work that ignores its cancellation must not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    exit.into()
}
