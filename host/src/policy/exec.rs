//! Commands: the grant is the whole command line (`docs/exec.md`).

use super::When;
use super::slot::{SlotRule, Template};
use crate::stream::Origin;
use std::collections::BTreeMap;
use std::time::Duration;

/// One command line that the operator granted.
#[derive(Clone, Debug)]
pub struct ExecGrant {
    /// Absolute path of the program, where the command runs.
    pub program: String,
    /// Arguments; `{slot}` stands for a slot's value, and an argument that is exactly a repeated
    /// slot is repeated with it.
    pub args: Vec<Template>,
    /// Environment, besides the job's own `env`.
    pub env: BTreeMap<String, Template>,
    /// What the program reads.
    pub stdin: StdinGrant,
    /// The slots by name.
    pub slots: BTreeMap<String, SlotRule>,
    /// Names of the secrets that it gets, as environment variables.
    pub secrets: Vec<String>,
    /// Whether the guest may read its output (`exec.run`, `source.read`).
    pub inspect: bool,
    /// When it holds.
    pub when: When,
    /// A reader of standard input that stops early and exits with 0 succeeded.
    pub partial_stdin: bool,
    /// The program itself fails when its input ends too soon.
    pub detects_short_input: bool,
    /// Longest time without progress; `None` is the limit of the job.
    pub timeout: Option<Duration>,
}

/// What a granted command reads on standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StdinGrant {
    /// Nothing: it is closed.
    None,
    /// Exactly this text; with `hold` it stays open until the process is dropped.
    Text {
        /// The text.
        text: String,
        /// Whether standard input stays open after it.
        hold: bool,
    },
    /// An artifact of the backup in scope.
    Artifact {
        /// Names that are accepted: a pattern of the slots' language.
        name: SlotRule,
        /// The label of the command that must have made it.
        made_by: String,
    },
    /// Whatever the plugin gives: code execution for every program that reads a language.
    Plugin,
}

/// What a guest asks for.
#[derive(Clone, Debug)]
pub struct ExecCall<'a> {
    /// The label.
    pub command: &'a str,
    /// Slot names and values as given.
    pub slots: &'a [(String, String)],
    /// Origin of the source given as standard input.
    pub stdin: Option<&'a Origin>,
    /// `exec.run`, whose output the guest reads.
    pub reads_output: bool,
}

/// A command line with its slots filled: what will run, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The label of the grant.
    pub label: String,
    /// Absolute path of the program.
    pub program: String,
    /// Arguments in full.
    pub args: Vec<String>,
    /// Environment of the grant in full, without the job's `env` and without secrets.
    pub env: Vec<(String, String)>,
    /// Names of secrets to inject.
    pub secrets: Vec<String>,
    /// What it reads; for `Artifact` and `Plugin` a source comes along.
    pub stdin: StdinGrant,
    /// Whether the guest may read its output.
    pub inspect: bool,
    /// See [`ExecGrant::partial_stdin`].
    pub partial_stdin: bool,
    /// See [`ExecGrant::detects_short_input`].
    pub detects_short_input: bool,
    /// Longest time without progress.
    pub timeout: Option<Duration>,
    /// Whether `{scratch}` occurs: the command runs in the run's scratch directory.
    pub uses_scratch: bool,
}
