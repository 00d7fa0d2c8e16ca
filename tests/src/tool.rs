//! Commands as the policy would hand them on, for suites that start some in containers and pods.

use std::sync::Arc;
use std::time::Duration;
use strongroom::error::{Error, Kind, Result};
use strongroom::exec::{Output, Place, Process, spawn};
use strongroom::policy::exec::CommandLine;
use strongroom::stream::Source;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that reaches it has failed.
pub const LONG: Duration = Duration::from_secs(120);

/// A granted command that reads nothing, and whose output may be seen.
pub fn line(program: &str, args: &[&str]) -> CommandLine {
    CommandLine { inspect: true, ..CommandLine::plain("tool", program, args) }
}

/// The same for a script of the shell.
pub fn sh(script: &str) -> CommandLine {
    line("/bin/sh", &["-c", script])
}

/// Starts it there.
///
/// Errors: those of [`spawn`].
pub async fn start(line: CommandLine, place: Place, stdin: Option<Source>) -> Result<Process> {
    spawn(line, Arc::new(place), None, stdin, LONG, CancellationToken::new()).await
}

/// Starts it there, and waits for its end and all of its output, at most 1 MiB.
pub async fn run(line: CommandLine, place: Place) -> Result<Output> {
    start(line, place, None).await?.run_to_end(1 << 20).await
}

/// Everything that came, and how it ended.
pub async fn read_all(mut source: Source) -> (Vec<u8>, Result<()>) {
    let read = move || {
        let mut all = Vec::new();
        loop {
            match source.body.next_chunk() {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                Ok(None) => return (all, Ok(())),
                Err(error) => return (all, Err(error)),
            }
        }
    };
    tokio::task::spawn_blocking(read).await.expect("a reader of a source does not panic")
}

/// The next line, without its end; fails the test where the source fails.
pub async fn read_line(source: &mut Source) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while tokio::task::block_in_place(|| source.body.read(&mut byte)).expect("the line comes") == 1 && byte[0] != b'\n'
    {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("the line is text")
}

/// Fails unless the error is of this kind and all of it, with its facts, causes and hint, holds these parts.
#[track_caller]
pub fn check_error(error: &Error, kind: Kind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let shown = format!("{error:?}; hint: {}", error.origin().hint_text().or(error.hint_text()).unwrap_or_default());
    for part in parts {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
}
