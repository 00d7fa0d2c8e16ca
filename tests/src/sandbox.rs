//! A place of its own for the real binary: folders, environment, configuration, and an end to every
//! process that was started in it.

use crate::snapshot;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a command may take unless a test says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The variable that names steps to be left out; see `strongroom::failpoint`.
const BREAK: &str = "STRONGROOM_BREAK";

/// A scratch folder with its own home, state and cache, and an environment made from nothing.
///
/// Everything in it is removed when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    env: BTreeMap<OsString, OsString>,
}

impl Sandbox {
    /// An empty sandbox.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("strongroom-test-").tempdir().expect("a scratch folder");
        let mut sandbox = Self { dir, env: BTreeMap::new() };
        for (name, folder) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "home/.config"),
            ("XDG_STATE_HOME", "home/.local/state"),
            ("XDG_CACHE_HOME", "home/.cache"),
            ("XDG_DATA_HOME", "home/.local/share"),
            ("TMPDIR", "tmp"),
        ] {
            let path = sandbox.path(folder);
            std::fs::create_dir_all(&path).expect("a folder of the sandbox");
            sandbox.env.insert(name.into(), path.into());
        }
        for (name, value) in [
            ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("NO_COLOR", "1"),
            ("COLUMNS", "100"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            sandbox.env.insert(name.into(), value.into());
        }
        // What `cargo xtask soak promises` takes away, to see the test fail.
        if let Some(broken) = std::env::var_os(BREAK) {
            sandbox.env.insert(BREAK.into(), broken);
        }
        sandbox
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// Sets a variable for every command that is started from now on.
    pub fn set_env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Writes a file, with the folders above it, and returns its path.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file of the sandbox has a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file of the sandbox");
        path
    }

    /// Writes `strongroom.toml`, which commands started here find by themselves.
    pub fn config(&self, toml: &str) -> PathBuf {
        self.write("strongroom.toml", toml)
    }

    /// Runs `strongroom` with these arguments to its end, within [`TIMEOUT`].
    ///
    /// Panics when it cannot be started or does not end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.strongroom(args).run()
    }

    /// The host binary with these arguments, not started yet.
    pub fn strongroom<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Prepared {
        let program = crate::host_binary().unwrap_or_else(|error| panic!("{error:#}"));
        self.command(program, args)
    }

    /// Any program with the sandbox's environment and folder, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Prepared {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(&self.env).current_dir(self.dir()).process_group(0);
        let paths = vec![(self.dir().to_string_lossy().into_owned(), "$DIR".to_owned())];
        Prepared { command, stdin: Vec::new(), timeout: TIMEOUT, paths }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

/// A command of a sandbox that was not started yet.
#[derive(Debug)]
pub struct Prepared {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
    paths: Vec<(String, String)>,
}

impl Prepared {
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads; nothing unless set.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Starts it in another folder.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// How long it may take; [`TIMEOUT`] unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Replaces `text` by `name` in what a snapshot sees.
    #[must_use]
    pub fn hide(mut self, text: impl Into<String>, name: impl Into<String>) -> Self {
        self.paths.push((text.into(), name.into()));
        self
    }

    /// The command itself, for who connects it otherwise.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end. Panics when it cannot be started or does not end in time.
    pub fn run(self) -> Output {
        let timeout = self.timeout;
        self.start().and_then(|running| running.finish(timeout)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Starts it and returns at once. Its process group is killed when the handle is dropped.
    pub fn start(mut self) -> Result<Running> {
        let shown = format!("{:?}", self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("could not start {shown}"))?;
        let pid = Pid::from_child(&child);
        let mut stdin = child.stdin.take().context("the child has no standard input")?;
        let given = std::mem::take(&mut self.stdin);
        // A program that does not read its input to the end closes the pipe: not this side's failure.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&given)));
        let stdout = collect(child.stdout.take().context("the child has no standard output")?);
        let stderr = collect(child.stderr.take().context("the child has no standard error")?);
        let (ended, end) = channel();
        std::thread::spawn(move || drop(ended.send(child.wait())));
        Ok(Running {
            pid,
            shown,
            end,
            feed: Some(feed),
            stdout: Some(stdout),
            stderr: Some(stderr),
            over: false,
            paths: self.paths,
        })
    }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error is what the test sees.
        drop(pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// A command that was started and is waited for, or killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    shown: String,
    end: Receiver<std::io::Result<ExitStatus>>,
    feed: Option<JoinHandle<()>>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    over: bool,
    paths: Vec<(String, String)>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends it a signal: it alone, not what it has started.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("could not signal {}", self.shown))
    }

    /// Waits for its end. After `timeout` its process group is killed and this is an error.
    pub fn finish(mut self, timeout: Duration) -> Result<Output> {
        let status = match self.end.recv_timeout(timeout) {
            Ok(status) => status.with_context(|| format!("could not wait for {}", self.shown))?,
            Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for {}", self.shown),
            Err(RecvTimeoutError::Timeout) => {
                self.kill_group();
                let said = self.text();
                bail!("{} did not end within {timeout:?}\n{}{}", self.shown, said.0, said.1);
            }
        };
        self.over = true;
        let (stdout, stderr) = self.text();
        let paths = std::mem::take(&mut self.paths);
        Ok(Output { code: status.code(), signal: status.signal(), stdout, stderr, paths })
    }

    fn text(&mut self) -> (String, String) {
        let join = |thread: Option<JoinHandle<Vec<u8>>>| {
            let bytes = thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if let Some(feed) = self.feed.take() {
            drop(feed.join());
        }
        (join(self.stdout.take()), join(self.stderr.take()))
    }

    fn kill_group(&self) {
        // Gone already is what was wanted.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.kill_group();
        }
    }
}

/// How a command ended and what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    paths: Vec<(String, String)>,
}

impl Output {
    /// Fails the test, with all that was printed, unless it ended with this exit code.
    #[track_caller]
    pub fn check_code(&self, code: i32) -> &Self {
        assert!(self.code == Some(code), "expected exit code {code}, got\n{}", self.raw());
        self
    }

    /// Fails the test unless standard error has this text in it.
    #[track_caller]
    pub fn check_stderr(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "expected {text:?} on standard error, got\n{}", self.raw());
        self
    }

    /// Fails the test unless standard output has this text in it.
    #[track_caller]
    pub fn check_stdout(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "expected {text:?} on standard output, got\n{}", self.raw());
        self
    }

    /// Fails the test unless it ended with this exit code and one error that says each of these.
    #[track_caller]
    pub fn check_error(&self, code: i32, says: &[&str]) -> &Self {
        self.check_code(code);
        for text in says {
            self.check_stderr(text);
        }
        let errors = self.stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert!(errors == 1, "one error, got {errors}\n{}", self.raw());
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON ({error})\n{}", self.raw()))
    }

    /// Everything, with what differs between two runs replaced: what a snapshot compares.
    pub fn shown(&self) -> String {
        let paths: Vec<_> = self.paths.iter().map(|(path, name)| (path.as_str(), name.as_str())).collect();
        snapshot::filtered(&self.raw(), &paths)
    }

    fn raw(&self) -> String {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        let mut text = format!("{end}\n");
        for (name, content) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !content.is_empty() {
                text.push_str(&format!("--- {name}\n{}\n", content.trim_end()));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_sees_only_the_environment_of_its_sandbox() {
        let mut sandbox = Sandbox::new();
        sandbox.set_env("EXTRA", "1");
        let output = sandbox.command("/usr/bin/env", ["-0"]).run();
        let names: Vec<_> =
            output.stdout.split('\0').filter_map(|line| line.split_once('=')).map(|pair| pair.0).collect();
        let expected = [
            "AWS_EC2_METADATA_DISABLED",
            "COLUMNS",
            "EXTRA",
            "HOME",
            "LANG",
            "NO_COLOR",
            "PATH",
            "TMPDIR",
            "TZ",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
            "XDG_STATE_HOME",
        ];
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn input_output_and_exit_code_are_those_of_the_command() {
        let sandbox = Sandbox::new();
        let output = sandbox.command("/bin/sh", ["-c", "cat; echo in $PWD >&2; exit 3"]).stdin("given").run();
        assert_eq!(output.shown(), "exit code 3\n--- stdout\ngiven\n--- stderr\nin $DIR");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_what_it_started() {
        let sandbox = Sandbox::new();
        let script = "sleep 1000 & echo $!; wait";
        let running = sandbox.command("/bin/sh", ["-c", script]).start().unwrap();
        let error = running.finish(Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("did not end within 300ms"), "{error}");
        let grandchild: i32 = error.lines().last().unwrap().parse().unwrap();
        let gone =
            || Ok((!Path::new(&format!("/proc/{grandchild}/status")).exists() || is_zombie(grandchild)).then_some(()));
        crate::wait_until("the grandchild ends", Duration::from_secs(10), gone).unwrap();
    }

    /// Ended and not yet collected by whoever adopted it.
    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("State:\tZ"))
    }
}
