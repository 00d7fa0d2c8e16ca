//! Starting programs, with errors that name the whole command.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A command line that is started once.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
}

/// Output of a command that was captured.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command line for `program`.
pub fn run(program: impl AsRef<OsStr>) -> Run {
    let shown = program.as_ref().to_string_lossy().into_owned();
    Run { command: Command::new(program), shown }
}

impl Run {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Run::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable from its environment.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Starts it in this folder.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it with its output on the terminal; fails unless it exits with 0.
    pub fn check(mut self) -> Result<()> {
        self.command.stdin(Stdio::null());
        let status = self.command.status().with_context(|| format!("could not start `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// The same for a program that may ask the person at the terminal, such as for a password.
    pub fn check_asking(mut self) -> Result<()> {
        let status = self.command.status().with_context(|| format!("could not start `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// Runs it and returns what it printed, whatever its exit code.
    pub fn capture(mut self) -> Result<Output> {
        self.command.stdin(Stdio::null());
        let output = self.command.output().with_context(|| format!("could not start `{}`", self.shown))?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and returns its standard output without the last newline; fails unless it exits with 0.
    pub fn read(self) -> Result<String> {
        let shown = self.shown.clone();
        let output = self.capture()?;
        if output.code != Some(0) {
            bail!("`{shown}` failed with {}\n{}{}", exit(output.code), output.stdout, output.stderr);
        }
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Runs it, hands each line of its standard output to `see` as it comes, and says whether it
    /// exited with 0. Standard error stays on the terminal.
    pub fn lines(mut self, mut see: impl FnMut(&str)) -> Result<bool> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("could not start `{}`", self.shown))?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        // By bytes: a test may print what is not UTF-8, and its result lines still count.
        while reader.read_until(b'\n', &mut line)? > 0 {
            see(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
            line.clear();
        }
        Ok(child.wait()?.success())
    }
}

/// An exit code for a person.
pub fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"))
}

/// The path of `name` on `PATH`, if it is there.
pub fn on_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps some programs (runc) where an ordinary user's PATH does not look.
    let more = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| path.is_file())
}
