//! A command on a terminal of its own, and somebody who waits for a question before they answer.

use crate::sandbox::Prepared;
use crate::{Sandbox, host_binary, program, wait_until};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Longer than any question takes to come on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is typed when a text has appeared.
#[derive(Clone, Copy, Debug)]
pub enum Typed<'a> {
    /// A line, as soon as the text is there.
    Line(&'a str, &'a str),
    /// A line that nobody may see: only when the terminal shows nothing of what is typed any more.
    Hidden(&'a str, &'a str),
}

/// What was on the terminal when the command had ended.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The exit code.
    pub code: Option<i32>,
    /// Everything that the terminal showed, what was typed included where it was shown.
    pub text: String,
}

impl Seen {
    /// Fails the test, with all that was shown, unless the command ended with this exit code.
    #[track_caller]
    pub fn check_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "on the terminal:\n{}", self.text);
        self
    }

    /// Fails the test unless this was shown.
    #[track_caller]
    pub fn check_shown(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "no {text:?} on the terminal:\n{}", self.text);
        self
    }
}

/// Runs `strongroom` with these words on a terminal, and types.
///
/// Panics when a text that is waited for does not appear.
#[track_caller]
pub fn converse(sandbox: &Sandbox, words: &[&str], typed: &[Typed<'_>]) -> Seen {
    let binary = host_binary().unwrap_or_else(|error| panic!("{error:#}"));
    let script = program("script").unwrap_or_else(|error| panic!("{error:#}"));
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    // The first line is the name of the terminal.
    let line = format!("tty; exec '{}' {}", binary.display(), quoted.join(" "));
    let prepared = sandbox.command(script, ["-qec", &line, "/dev/null"].map(OsStr::new)).env("SHELL", "/bin/sh");
    talk(sandbox, prepared, typed)
}

#[track_caller]
fn talk(sandbox: &Sandbox, prepared: Prepared, typed: &[Typed<'_>]) -> Seen {
    let mut command = prepared.into_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("script starts");
    let (mut keyboard, mut screen) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let (send, shown) = channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut buffer) {
            if send.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut seen = Screen { shown, text: Vec::new(), from: 0 };
    let terminal = seen.line();
    for one in typed {
        let (Typed::Line(wanted, line) | Typed::Hidden(wanted, line)) = one;
        seen.wait_for(wanted);
        if matches!(one, Typed::Hidden(..)) {
            let is_hidden = || {
                let settings = sandbox.command("stty", ["-F", &terminal, "-a"]).run();
                Ok(settings.stdout.split_whitespace().any(|word| word == "-echo").then_some(()))
            };
            wait_until("the terminal hides what is typed", PATIENCE, is_hidden).unwrap_or_else(|e| panic!("{e:#}"));
        }
        writeln!(keyboard, "{line}").expect("the terminal takes a line");
    }
    seen.rest();
    drop(keyboard);
    let code = child.wait().expect("script ends").code();
    reader.join().expect("the thread that reads the screen");
    Seen { code, text: String::from_utf8_lossy(&seen.text).replace("\r\n", "\n") }
}

/// What was shown so far, and how far it was looked at.
struct Screen {
    shown: Receiver<Vec<u8>>,
    text: Vec<u8>,
    from: usize,
}

impl Screen {
    /// The rest of the line that begins here.
    fn line(&mut self) -> String {
        let begin = self.from;
        self.wait_for("\n");
        String::from_utf8_lossy(&self.text[begin..self.from]).trim().to_owned()
    }

    #[track_caller]
    fn wait_for(&mut self, wanted: &str) {
        loop {
            let found = self.text[self.from..].windows(wanted.len()).position(|window| window == wanted.as_bytes());
            if let Some(at) = found {
                self.from += at + wanted.len();
                return;
            }
            match self.shown.recv_timeout(PATIENCE) {
                Ok(more) => self.text.extend(more),
                Err(_) => panic!("no {wanted:?} on the terminal:\n{}", String::from_utf8_lossy(&self.text)),
            }
        }
    }

    /// Everything until the command has ended.
    #[track_caller]
    fn rest(&mut self) {
        loop {
            match self.shown.recv_timeout(PATIENCE) {
                Ok(more) => self.text.extend(more),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it waits for more than was typed:\n{}", String::from_utf8_lossy(&self.text))
                }
            }
        }
    }
}
