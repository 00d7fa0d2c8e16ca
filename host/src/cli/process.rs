//! What concerns the process as a whole: signals, core dumps, the log.

use super::exit::Exit;
use super::{Globals, vendor};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
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

/// Most that is shown of what a panic says, in bytes.
const MAX_PANIC_BYTES: usize = 2 << 10;

/// A fault of the host's own says what it is and where, and nothing that is secret: whatever a panic was
/// about, its message is said without every secret that this process holds, and without what a terminal
/// obeys. A backtrace, where one is asked for, names functions and no values.
pub fn no_secrets_in_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("without a message");
        // Another thread may be busy with its secrets for a moment; this one may be for ever.
        let known = std::iter::repeat_with(|| crate::secret::blotted(message).ok_or_else(std::thread::yield_now));
        let known = known.take(1000).find_map(std::result::Result::ok);
        let message = known.as_ref().map_or("its message may hold a secret and is withheld", |text| text.as_str());
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let frames =
            if backtrace.status() == BacktraceStatus::Captured { format!("{backtrace}") } else { String::new() };
        let text = format!(
            "strongroom panicked at {place}: {}\n{frames}this is a fault of strongroom: please report it with these lines\n",
            vendor::line(message, MAX_PANIC_BYTES),
        );
        // There is nobody else to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }));
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
