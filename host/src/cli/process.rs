//! What concerns the process as a whole: signals, core dumps, the log.

use super::Globals;
use super::exit::Exit;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Memory holds secrets and plaintext: a crash must not write it to disk, and no other process of this
/// user may read it. (The second also covers a core that is handed to a program, which limits do not.)
pub fn no_core_dumps() {
    // Neither can fail for one's own process; a kernel without it has no such thing either.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Lowering a limit of one's own is always allowed; where it is not known there are no core dumps.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Log lines go to standard error: warnings, with `-v` notes, with `-vv` the developer's.
/// Libraries stay at warnings, since their lines may hold headers of requests; the client of clusters says
/// nothing, since each of its errors is told, or was overcome, by who asked.
pub fn log_to_stderr(globals: &Globals) {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let rest = if globals.quiet { "error" } else { "warn" };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{rest},kube_client=off,strongroom={level}")))
        .with_writer(std::io::stderr)
        .with_ansi(globals.output().is_lively())
        .with_target(false)
        .finish();
    // Set once at the start; a second one (in a test) leaves the first in place.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The first Ctrl-C, SIGTERM or SIGHUP cancels, so that uploads are aborted and processes ended;
/// the second one ends the process at once with 130.
pub async fn cancel_on_signals(cancel: CancellationToken) {
    // Caught and not acted upon: a write beyond `ulimit -f` is an error with a name then, and no death.
    let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<Signal>, _> = kinds.into_iter().map(signal).collect();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "signals are not caught: Ctrl-C ends at once");
            return;
        }
    };
    any(&mut signals).await;
    tracing::warn!("stopping, and cleaning up; once more ends at once");
    cancel.cancel();
    any(&mut signals).await;
    std::process::exit(i32::from(Exit::Cancelled.code()));
}

async fn any(signals: &mut [Signal]) {
    futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}
