//! A command that runs on this machine.

use super::Place;
use crate::error::{Error, IoContext, Result};
use crate::policy::exec::{CommandLine, StdinGrant};
use crate::stream::{ByteSource, Leash, Origin, Source};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// How it ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Code.
    pub code: Option<i32>,
    /// Signal.
    pub signal: Option<i32>,
    /// End of standard error.
    pub stderr: String,
}

/// A running process.
pub struct Process {
    label: String,
    inspect: bool,
    stdout: Option<std::process::ChildStdout>,
    exit: Arc<(Mutex<Option<Exit>>, Condvar)>,
    cancel: CancellationToken,
    waits_for: Vec<Leash>,
}

struct Stdout {
    pipe: std::process::ChildStdout,
    exit: Arc<(Mutex<Option<Exit>>, Condvar)>,
}

impl ByteSource for Stdout {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        use std::io::Read;
        let n = self.pipe.read(buf).doing(|| "read output".to_owned())?;
        if n == 0 {
            let (place, told) = &*self.exit;
            let exit = told.wait_while(place.lock().unwrap(), |exit| exit.is_none()).unwrap();
            if exit.as_ref().and_then(|e| e.code) != Some(0) {
                return Err(Error::failed("the command failed"));
            }
        }
        Ok(n)
    }
}

/// Starts it.
pub async fn spawn(
    command: CommandLine,
    place: Arc<Place>,
    _scratch: Option<PathBuf>,
    stdin: Option<Source>,
    _stall: Duration,
    cancel: CancellationToken,
) -> Result<Process> {
    #[expect(clippy::disallowed_methods, reason = "the home of commands")]
    let mut std = std::process::Command::new(&command.program);
    std.args(&command.args).env_clear().envs(command.env.clone()).envs(&place.env);
    std.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = std.spawn().doing(|| format!("start \"{}\"", command.program))?;
    let stdout = child.stdout.take();
    let mut pipe = tokio::process::ChildStdin::from_std(child.stdin.take().unwrap()).unwrap();
    let waits_for = stdin.as_ref().map(|s| s.waits_for.clone()).unwrap_or_default();
    let text = match command.stdin { StdinGrant::Text { text, .. } => text, _ => String::new() };
    let handle = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let _ = handle.block_on(pipe.write_all(text.as_bytes()));
        if let Some(mut source) = stdin {
            while let Ok(Some(chunk)) = source.body.next_chunk() {
                if handle.block_on(pipe.write_all(&chunk)).is_err() { break }
            }
        }
    });
    let exit = Arc::new((Mutex::new(None), Condvar::new()));
    let tell = Arc::clone(&exit);
    let pid = child.id();
    let stop = cancel.clone();
    let killer = tokio::spawn(async move {
        stop.cancelled().await;
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    std::thread::spawn(move || {
        use std::io::Read;
        use std::os::unix::process::ExitStatusExt;
        let mut text = String::new();
        let _ = child.stderr.take().unwrap().read_to_string(&mut text);
        let status = child.wait().unwrap();
        killer.abort();
        *tell.0.lock().unwrap() = Some(Exit { code: status.code(), signal: status.signal(), stderr: text });
        tell.1.notify_all();
    });
    Ok(Process { label: command.label, inspect: command.inspect, stdout, exit, cancel, waits_for })
}

impl Process {
    /// Output, once.
    pub fn stdout(&mut self) -> Result<Source> {
        let pipe = self.stdout.take().ok_or_else(|| Error::invalid("the output was taken already"))?;
        let mut source = Source::new(Origin::Exec { command: self.label.clone() }, Stdout { pipe, exit: Arc::clone(&self.exit) });
        source.inspect = self.inspect;
        Ok(source)
    }

    /// Waits.
    pub async fn wait(&mut self) -> Result<Exit> {
        drop(self.stdout.take());
        let exit = Arc::clone(&self.exit);
        tokio::task::spawn_blocking(move || {
            let (place, told) = &*exit;
            told.wait_while(place.lock().unwrap(), |exit| exit.is_none()).unwrap().clone().unwrap()
        })
        .await
        .map_err(|e| Error::failed("x").because(e))
    }

    /// What must leave the guest's hands.
    pub fn waits_for(&self) -> &[Leash] {
        &self.waits_for
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stdout.is_some() { self.cancel.cancel(); }
    }
}
