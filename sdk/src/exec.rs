//! Runs the command lines that the operator granted, where the operator said.
//!
//! A plugin names a command and fills its slots; it never writes an argument list, an
//! environment or a host name. Secrets are put in by the host.

use crate::bindings::strongroom::plugin::exec as wit;
use crate::bytes::Source;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A granted command that is about to run. Nothing happens before [`Command::spawn`] or
/// [`Command::run`].
#[derive(Debug)]
#[must_use = "it runs when it is spawned"]
pub struct Command {
    invocation: wit::Invocation,
}

/// The command that the manifest and the grant call `name`.
pub fn command(name: impl Into<String>) -> Command {
    Command { invocation: wit::Invocation { command: name.into(), slots: Vec::new(), stdin: None, timeout_ms: None } }
}

impl Command {
    /// Fills a slot. A repeated slot is filled once for each value.
    pub fn slot(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.invocation.slots.push((name.into(), value.into()));
        self
    }

    /// What the command reads, where its grant takes it from the plugin or from an artifact.
    pub fn stdin(mut self, source: Source) -> Self {
        self.invocation.stdin = Some(source.0);
        self
    }

    /// Longest time without progress, that is without a byte of its input or output; the grant and
    /// the job limit it besides.
    pub fn timeout(mut self, duration: Duration) -> Self {
        self.invocation.timeout_ms = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Starts it.
    pub fn spawn(self) -> Result<Process> {
        let name = self.invocation.command.clone();
        let inner = wit::spawn(self.invocation).map_err(|error| Error::from(error).context(quoted(&name)))?;
        Ok(Process { name, inner })
    }

    /// Runs it to its end and takes at most 1 MiB of output; the grant must say `inspect`.
    /// An exit code other than 0 is not an error here: ask [`Output::success`].
    pub fn run(self) -> Result<Output> {
        let name = self.invocation.command.clone();
        let output = wit::run(self.invocation).map_err(|error| Error::from(error).context(quoted(&name)))?;
        Ok(Output { exit: Exit::new(name, output.exit), stdout: output.stdout })
    }
}

fn quoted(name: &str) -> String {
    format!("command \"{name}\"")
}

/// A running program. It lives while this or its standard output lives; then it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    inner: wit::Process,
}

impl Process {
    /// Standard output, once. It ends well only when the program has exited with 0.
    pub fn stdout(&self) -> Result<Source> {
        Ok(Source(self.inner.stdout().map_err(|error| Error::from(error).context(quoted(&self.name)))?))
    }

    /// Waits for its end. Output that nobody took is thrown away. Refused at once while this
    /// plugin itself still holds what the program waits for.
    pub fn wait(&self) -> Result<Exit> {
        let exit = self.inner.wait().map_err(|error| Error::from(error).context(quoted(&self.name)))?;
        Ok(Exit::new(self.name.clone(), exit))
    }
}

/// Lines of standard error in the text of an error.
const SAID_LINES: usize = 3;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The granted command's name.
    pub command: String,
    /// None when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The end of standard error, at most 64 KiB, with granted secrets blotted out.
    pub stderr: String,
}

impl Exit {
    fn new(command: String, exit: wit::Exit) -> Self {
        Self { command, code: exit.code, signal: exit.signal, stderr: exit.stderr }
    }

    /// Nothing if it exited with 0; else [`Error::Failed`] with the code and what it [said](Self::said).
    pub fn success(&self) -> Result<()> {
        let how = match (self.code, self.signal) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        let said = self.said();
        let colon = if said.is_empty() { "" } else { ": " };
        Err(Error::Failed(format!("{} {how}{colon}{said}", quoted(&self.command))))
    }

    /// Three lines of standard error, joined by `; `: the last one that calls itself an error and what
    /// follows it (programs quote a failed statement at length behind the reason), else the last ones.
    pub fn said(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let names_error = |line: &&str| {
            let line = line.to_ascii_lowercase();
            line.contains("error:") || line.contains("fatal:")
        };
        let last_three = lines.len().saturating_sub(SAID_LINES);
        let from = lines.iter().rposition(names_error).unwrap_or(last_three);
        lines.iter().skip(from).take(SAID_LINES).copied().collect::<Vec<_>>().join("; ")
    }
}

/// What a program left that ran to its end.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote, whole.
    pub stdout: Vec<u8>,
}

impl Output {
    /// What it wrote, if it exited with 0.
    pub fn success(self) -> Result<Vec<u8>> {
        self.exit.success()?;
        Ok(self.stdout)
    }

    /// The text it wrote, without white space at its ends, if it exited with 0.
    pub fn text(self) -> Result<String> {
        let name = self.exit.command.clone();
        let text = String::from_utf8(self.success()?).map_err(|error| Error::from(error).context(quoted(&name)))?;
        Ok(text.trim().to_owned())
    }

    /// The JSON it wrote, if it exited with 0.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let name = self.exit.command.clone();
        let bytes = self.success()?;
        serde_json::from_slice(&bytes).map_err(|error| Error::from(error).context(quoted(&name)))
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    fn check_exit(code: Option<i32>, signal: Option<i32>, stderr: &str, expected: Result<(), &str>) {
        let exit = Exit { command: "pg_dump".to_owned(), code, signal, stderr: stderr.to_owned() };
        assert_eq!(exit.success().map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn an_exit_other_than_0_is_an_error_with_the_last_lines() {
        check_exit(Some(0), None, "notice", Ok(()));
        check_exit(Some(3), None, "a\nb\n\nc\nd\n", Err("command \"pg_dump\" exited with 3: b; c; d"));
        let long = "start\npg_restore: error: ERROR:  no such table\nCommand was: CREATE\n b\n c\n d\n";
        let reason = "pg_restore: error: ERROR:  no such table; Command was: CREATE; b";
        check_exit(Some(1), None, long, Err(&format!("command \"pg_dump\" exited with 1: {reason}")));
        check_exit(None, Some(9), "", Err("command \"pg_dump\" was ended by signal 9"));
        check_exit(None, None, "", Err("command \"pg_dump\" ended in an unknown way"));
    }
}
