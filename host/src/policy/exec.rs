//! Commands: the grant is the whole command line (`docs/exec.md`).
//!
//! A guest gives a label and values for slots. This module never hands on a value that its slot
//! has not admitted, and never takes a part of a command line from anywhere but the grant.

mod destination;
mod environment;
#[cfg(test)]
mod tests;

pub use environment::{forbidden_name, names_a_destination};

use super::narrowing::name_of;
use super::slot::{Piece, SlotKind, SlotRule, Template, quoted};
use super::{Decision, Mistake, Policy, When, toml_key, toml_text};
use crate::stream::Origin;
use destination::Reach;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The hole that the host fills with the run's scratch directory; it needs no slot of its own.
pub const SCRATCH: &str = "scratch";
/// Most bytes of all arguments and environment of one command, half of what Linux usually takes
/// (`ARG_MAX`, 2 MiB).
pub const COMMAND_BYTES: usize = 1 << 20;

/// One command line that the operator granted.
#[derive(Clone, Debug)]
pub struct ExecGrant {
    /// Absolute path of the program, where the command runs.
    pub program: String,
    /// The only program that may lie there, by the SHA-256 of its file in lower case; for this machine.
    pub sha256: Option<String>,
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
    /// Secrets that it gets as a file, by the environment variable that holds the path.
    pub secret_files: BTreeMap<String, String>,
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
    /// SHA-256 of the program's file that was opened to be run; `None` where nothing was opened.
    pub program: Option<&'a str>,
}

/// A command line with its slots filled: what will run, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The label of the grant.
    pub label: String,
    /// Absolute path of the program.
    pub program: String,
    /// See [`ExecGrant::sha256`]: another file is not run.
    pub sha256: Option<String>,
    /// Arguments in full.
    pub args: Vec<String>,
    /// Environment of the grant in full, without the job's `env` and without secrets.
    pub env: Vec<(String, String)>,
    /// Names of secrets to inject.
    pub secrets: Vec<String>,
    /// Secrets to inject as a file, by the variable that gets its path.
    pub secret_files: BTreeMap<String, String>,
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
    /// The most private memory that each of its processes may write, in bytes, on this machine; set by whoever runs it.
    pub memory_bytes: Option<u64>,
    /// Whether `{scratch}` occurs: the command runs in the run's scratch directory.
    pub uses_scratch: bool,
}

impl CommandLine {
    /// A program with these arguments and nothing else: it gets no environment, no secret and no input, its output is
    /// not for the guest, and it waits as long as the job allows. What it may have more is set by whoever asks for it.
    pub fn plain(label: &str, program: &str, args: &[&str]) -> Self {
        Self {
            label: label.to_owned(),
            program: program.to_owned(),
            sha256: None,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
            secrets: Vec::new(),
            secret_files: BTreeMap::new(),
            stdin: StdinGrant::None,
            inspect: false,
            partial_stdin: false,
            detects_short_input: false,
            timeout: None,
            memory_bytes: None,
            uses_scratch: false,
        }
    }
}

impl ExecGrant {
    /// What is wrong with the grant by itself, all of it; the configuration refuses to load with any.
    pub fn check(&self) -> Vec<Mistake> {
        self.check_permitting(&|_| false)
    }

    /// The same, where every ceiling lets it set some of the variables that are dangerous.
    pub fn check_permitting(&self, permitted: &dyn Fn(&str) -> bool) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut say = |key: &str, message: String, hint: &str| {
            mistakes.push(Mistake { key: key.to_owned(), message, hint: hint.to_owned() });
        };
        let absolute = self.program.starts_with('/') && !self.program.ends_with('/');
        if !absolute || self.program.chars().any(char::is_control) || self.program.split('/').any(|part| part == "..") {
            let message = format!("program {} is not an absolute path", quoted(&self.program));
            say("program", message, "write the path of the program itself, such as /usr/lib/postgresql/18/bin/pg_dump");
        }
        for mistake in self.when.check() {
            say(&mistake.key, mistake.message, &mistake.hint);
        }
        self.check_slots(&mut say);
        self.check_destinations(&mut say);
        self.check_environment(permitted, &mut say);
        self.check_stdin(&mut say);
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            say("timeout", "a timeout of nothing ends every command at once".to_owned(), "leave it out, or write 10m");
        }
        mistakes
    }

    /// Names of every secret that it gets, in whatever way.
    pub fn all_secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().chain(self.secret_files.values()).map(String::as_str)
    }

    fn check_slots(&self, say: &mut impl FnMut(&str, String, &str)) {
        let mut used = BTreeSet::new();
        let args = self.args.iter().map(|arg| ("args".to_owned(), arg, true));
        let env = self.env.iter().map(|(name, value)| (format!("env.{name}"), value, false));
        for (key, template, repeats) in args.chain(env) {
            for name in template.slots() {
                used.insert(name);
                match self.slots.get(name) {
                    None if name == SCRATCH => {}
                    None => say(
                        &key,
                        format!("{} is not one of the slots", quoted(name)),
                        "add it under slots, or write {{ and }} for braces",
                    ),
                    Some(rule) if rule.max_count > 1 && !(repeats && template.lone_slot().is_some()) => say(
                        &key,
                        format!("the repeated slot {} is part of other text", quoted(name)),
                        "make it an argument of its own: \"{slot}\"",
                    ),
                    Some(_) => {}
                }
            }
        }
        for (name, rule) in &self.slots {
            let key = format!("slots.{name}");
            if !super::slot::is_slot_name(name) {
                say(
                    &key,
                    format!("{} is not a name for a slot", quoted(name)),
                    "use a-z 0-9 _ -, beginning with a letter",
                );
            } else if name == SCRATCH && rule.kind != SlotKind::Scratch {
                say(&key, "the host fills {scratch}".to_owned(), "leave the slot out, or give it another name");
            } else if !used.contains(name.as_str()) {
                say(
                    &key,
                    "no argument and no variable uses it".to_owned(),
                    "remove it, or write {slot} where it belongs",
                );
            }
        }
    }

    /// A plugin that fills host, port or user of a command that has secrets takes them where it likes.
    fn check_destinations(&self, say: &mut impl FnMut(&str, String, &str)) {
        for (name, reach) in self.reaching_slots() {
            let shown = quoted(name);
            match (reach, self.slots.get(name)) {
                (Reach::Decides(what), _) => {
                    let message =
                        format!("slot {shown} fills {what}: it decides where a secret goes, and a plugin may not");
                    say(
                        "args",
                        message,
                        "write the value itself, or set the variable that the program reads in the job's env",
                    );
                }
                (Reach::MayConnect, Some(rule)) => {
                    let Some(admitted) = destination::admitted_connection(rule) else { continue };
                    let message = format!(
                        "slot {shown} may be {}: a program can read that as where a secret goes, and a plugin may not say it",
                        quoted(&admitted)
                    );
                    say(
                        "args",
                        message,
                        "exclude = : and / from its pattern, take { setting = … }, or give it as a variable such as PGDATABASE; a path belongs behind its option in one argument, such as --file={path}",
                    );
                }
                (Reach::MayConnect, None) => {}
            }
        }
    }

    /// Slots of arguments that could aim a secret, where the command has any; not those that the host fills.
    fn reaching_slots(&self) -> Vec<(&str, Reach)> {
        if self.all_secrets().next().is_none() {
            return Vec::new();
        }
        destination::reaches(&self.args, &|name| is_scratch(name, &self.slots))
    }

    fn check_environment(&self, permitted: &dyn Fn(&str) -> bool, say: &mut impl FnMut(&str, String, &str)) {
        for (name, secret) in &self.secret_files {
            let key = format!("secret_files.{name}");
            if let Some(wrong) = [name, secret].into_iter().find(|name| !environment::is_name(name)) {
                let message = format!("{} is not the name of a variable", quoted(wrong));
                say(&key, message, "use A-Z 0-9 _, not beginning with a digit");
            } else if let Some(reason) = forbidden_name(name).filter(|_| !environment::takes_secret_file(name)) {
                let message = format!("a grant may not set {name}: {reason}");
                say(&key, message, "use the variable in which the program expects the path of a file with a secret");
            } else if self.env.contains_key(name) || self.secrets.contains(name) {
                say(&key, format!("{name} is set by the grant already"), "remove one of them");
            }
        }
        let secrets = self.secrets.iter().map(|name| ("secrets".to_owned(), name, None));
        let env = self.env.iter().map(|(name, value)| (format!("env.{name}"), name, Some(value)));
        for (key, name, value) in env.chain(secrets) {
            if !environment::is_name(name) {
                say(
                    &key,
                    format!("{} is not the name of a variable", quoted(name)),
                    "use A-Z 0-9 _, not beginning with a digit",
                );
            } else if let Some(reason) = forbidden_name(name).filter(|_| value.is_none() || !permitted(name)) {
                say(
                    &key,
                    format!("a grant may not set {name}: {reason}"),
                    "if the job needs it, set it in the job's env",
                );
            } else if value.is_some_and(|value| value.slots().next().is_some()) && names_a_destination(name) {
                let message = format!("{name} decides where a secret goes, and a plugin may not fill it");
                say(&key, message, "set it in the job's env");
            } else if value.is_none() && self.env.contains_key(name) {
                say(&key, format!("{name} is a secret and a variable of the grant"), "remove one of them");
            }
        }
    }

    fn check_stdin(&self, say: &mut impl FnMut(&str, String, &str)) {
        match &self.stdin {
            StdinGrant::Text { text, .. } if text.contains('\0') => {
                say("stdin", "the text holds a NUL".to_owned(), "programs that read text stop at it");
            }
            StdinGrant::Artifact { made_by, .. } if made_by.is_empty() => {
                say(
                    "stdin",
                    "made_by is empty".to_owned(),
                    "name the command that wrote the artifact, such as pg_dump",
                );
            }
            StdinGrant::Artifact { .. } if !self.when.reads_artifacts() => say(
                "verbs",
                "artifacts are read back by verify and restore only".to_owned(),
                "write verbs = [\"restore\"], or take the artifact from stdin",
            ),
            _ => {}
        }
        let reads = !matches!(self.stdin, StdinGrant::None);
        let source = matches!(self.stdin, StdinGrant::Artifact { .. } | StdinGrant::Plugin);
        if self.partial_stdin && !reads {
            say("partial_stdin", "the command has no standard input".to_owned(), "remove it");
        }
        if self.detects_short_input && !source {
            say("detects_short_input", "the command reads no artifact".to_owned(), "remove it");
        }
    }
}

impl Policy {
    /// The command line in full, or the refusal.
    ///
    /// `scratch` is the path of the run's scratch directory where the command runs; a command
    /// that uses `{scratch}` is refused without one. Pure: nothing is looked up, nothing runs.
    pub fn command_line(&self, call: &ExecCall<'_>, scratch: Option<&str>) -> Result<CommandLine, Decision> {
        let rule = self.exec_rule(call.command);
        let deny = |reason: String, missing: String| Decision::deny(&rule, reason, missing);
        let Some(grant) = self.grants.exec.get(call.command) else {
            if let Some(withheld) = self.withheld(&name_of("exec", call.command)) {
                return Err(withheld);
            }
            return Err(deny(
                format!("the command {} is not granted", quoted(call.command)),
                format!("[{rule}], which `strongroom plugin approve` writes"),
            ));
        };
        grant.when.holds(self.occasion).map_err(|reason| deny(reason, grant.when.missing(&rule, self.occasion)))?;
        if call.reads_output && !grant.inspect {
            let reason = format!("the plugin may not read the output of {}", quoted(call.command));
            return Err(deny(reason, format!("[{rule}]\ninspect = true")));
        }
        let slots = self.fill_slots(&rule, grant, call, scratch)?;
        self.check_stdin(&rule, grant, call)?;
        let uses_scratch = |template: &Template| template.slots().any(|name| is_scratch(name, &grant.slots));
        let line = CommandLine {
            label: call.command.to_owned(),
            program: grant.program.clone(),
            sha256: grant.sha256.clone(),
            args: fill_arguments(&grant.args, &slots).map_err(|reason| deny(reason, String::new()))?,
            env: grant
                .env
                .iter()
                .map(|(name, value)| Ok((name.clone(), fill(value, &slots)?)))
                .collect::<Result<_, String>>()
                .map_err(|reason| deny(reason, String::new()))?,
            secrets: grant.secrets.clone(),
            secret_files: grant.secret_files.clone(),
            stdin: grant.stdin.clone(),
            inspect: grant.inspect,
            partial_stdin: grant.partial_stdin,
            detects_short_input: grant.detects_short_input,
            timeout: grant.timeout,
            memory_bytes: None,
            uses_scratch: grant.args.iter().chain(grant.env.values()).any(uses_scratch),
        };
        let bytes: usize = line.args.iter().chain(line.env.iter().flat_map(|(a, b)| [a, b])).map(|s| s.len() + 1).sum();
        if bytes > COMMAND_BYTES {
            return Err(deny(
                format!("the command line is {bytes} bytes long, of at most {COMMAND_BYTES}"),
                String::new(),
            ));
        }
        self.under_ceilings(&rule, grant, &line, scratch)?;
        match (&grant.sha256, call.program) {
            (Some(pinned), Some(got)) if pinned != got => {
                let program = quoted(&grant.program);
                let reason = format!(
                    "the program {program} is not the one that is pinned: expected sha256 {pinned}, got sha256 {got}"
                );
                let missing = format!("# once you know what changed it\n[{rule}]\nsha256 = {}", toml_text(got));
                Err(deny(reason, missing))
            }
            _ => Ok(line),
        }
    }

    /// The program whose file is to be opened, and looked at, before this call is decided: that of a
    /// grant which pins one, where nothing else is against the call.
    pub fn pinned_program(&self, call: &ExecCall<'_>) -> Option<&str> {
        let grant = self.grants.exec.get(call.command).filter(|grant| grant.sha256.is_some())?;
        self.command_line(call, Some("/scratch")).is_ok().then_some(grant.program.as_str())
    }

    /// Whether every ceiling lets this command line run; what is missing is nobody's to grant here.
    ///
    /// The scratch directory has another path in every run: to a ceiling it is `{scratch}`.
    fn under_ceilings(
        &self,
        rule: &str,
        grant: &ExecGrant,
        line: &CommandLine,
        scratch: Option<&str>,
    ) -> Result<(), Decision> {
        if self.grants.ceilings.is_empty() {
            return Ok(());
        }
        let mut shown = line.clone();
        if let Some(path) = scratch.filter(|path| line.uses_scratch && !path.is_empty()) {
            shown.args.iter_mut().for_each(|arg| *arg = arg.replace(path, "{scratch}"));
        }
        match self.grants.ceilings.iter().find_map(|ceiling| ceiling.command(grant, &shown).err()) {
            None => Ok(()),
            Some(over) => {
                Err(Decision::deny(format!("{rule}, under the ceiling {}", over.at()), over.reason, String::new()))
            }
        }
    }

    /// Whether standard output of this command may be read by the guest.
    pub fn inspects_command(&self, command: &str) -> bool {
        self.grants.exec.get(command).is_some_and(|grant| grant.inspect && grant.when.holds(self.occasion).is_ok())
    }

    pub(super) fn exec_rule(&self, command: &str) -> String {
        format!("plugin.{}.grant.exec.{}", toml_key(&self.plugin), toml_key(command))
    }

    /// Every hole of the grant with the values that fill it.
    fn fill_slots<'a>(
        &self,
        rule: &str,
        grant: &'a ExecGrant,
        call: &ExecCall<'a>,
        scratch: Option<&'a str>,
    ) -> Result<BTreeMap<&'a str, Vec<&'a str>>, Decision> {
        let deny = |reason: String, missing: String| Decision::deny(rule, reason, missing);
        let mut filled: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let reaching = grant.reaching_slots();
        for (name, value) in call.slots {
            let Some(slot) = grant.slots.get(name).filter(|slot| slot.kind != SlotKind::Scratch) else {
                let reason = if is_scratch(name, &grant.slots) {
                    "the host fills {scratch}".to_owned()
                } else {
                    format!("the command has no slot {}", quoted(name))
                };
                return Err(deny(reason, String::new()));
            };
            let values = filled.entry(name).or_default();
            if values.len() >= slot.max_count {
                let reason = match slot.max_count {
                    1 => format!("slot {} is given twice", quoted(name)),
                    most => format!("slot {} is given more than {most} times", quoted(name)),
                };
                return Err(deny(
                    reason,
                    format!("[{rule}.slots]\n{name} = {{ …, max_count = {} }}", slot.max_count + 1),
                ));
            }
            if let Err(reason) = slot.admits(value, &self.settings) {
                let reason = format!("slot {} may not be {}: {reason}", quoted(name), quoted(value));
                return Err(deny(reason, widened(rule, name, slot, value)));
            }
            // The grant was asked whether its pattern excludes this, as far as patterns can be asked.
            let is_pattern = matches!(slot.kind, SlotKind::Pattern(..));
            if is_pattern && destination::could_connect(value) && reaching.iter().any(|(reached, _)| reached == name) {
                let reason = format!(
                    "slot {} may not be {}: a program could read it as where its secret goes",
                    quoted(name),
                    quoted(value)
                );
                return Err(deny(reason, String::new()));
            }
            values.push(value);
        }
        if let Some((name, _)) = grant
            .slots
            .iter()
            .find(|(name, slot)| slot.kind != SlotKind::Scratch && !filled.contains_key(name.as_str()))
        {
            return Err(deny(format!("slot {} is not given", quoted(name)), String::new()));
        }
        let holes = grant.args.iter().chain(grant.env.values()).flat_map(Template::slots);
        for name in holes.filter(|name| is_scratch(name, &grant.slots)) {
            let Some(path) = scratch else {
                return Err(deny("the run has no scratch directory".to_owned(), String::new()));
            };
            filled.insert(name, vec![path]);
        }
        Ok(filled)
    }

    fn check_stdin(&self, rule: &str, grant: &ExecGrant, call: &ExecCall<'_>) -> Result<(), Decision> {
        let deny = |reason: String, missing: String| Err(Decision::deny(rule, reason, missing));
        match (&grant.stdin, call.stdin) {
            (StdinGrant::None | StdinGrant::Text { .. }, None) | (StdinGrant::Plugin, Some(_)) => Ok(()),
            (StdinGrant::None | StdinGrant::Text { .. }, Some(origin)) => deny(
                "standard input is part of the grant, and it takes none from the plugin".to_owned(),
                match origin {
                    Origin::Artifact { name, made_by } => format!("[{rule}]\n{}", artifact_stdin(name, made_by)),
                    _ => format!("[{rule}]\nstdin = \"plugin\""),
                },
            ),
            (StdinGrant::Artifact { .. } | StdinGrant::Plugin, None) => {
                deny("the command reads standard input, and none is given".to_owned(), String::new())
            }
            (StdinGrant::Artifact { name, made_by }, Some(Origin::Artifact { name: given, made_by: maker })) => {
                if let Err(reason) = name.admits(given, &self.settings) {
                    let reason = format!("it may not read the artifact {}: {reason}", quoted(given));
                    return deny(reason, format!("[{rule}]\n{}", artifact_stdin(given, maker)));
                }
                match &**maker {
                    Origin::Exec { command, .. } if command == made_by => Ok(()),
                    other => deny(
                        format!("the artifact {} was not made by {}, but {other}", quoted(given), quoted(made_by)),
                        format!("[{rule}]\n{}", artifact_stdin(given, other)),
                    ),
                }
            }
            (StdinGrant::Artifact { .. }, Some(other)) => deny(
                format!("it reads artifacts of the backup only, and this comes from {other}"),
                format!("[{rule}]\nstdin = \"plugin\""),
            ),
        }
    }
}

/// A hole that the host fills: `{scratch}`, or a slot that was declared to be it.
fn is_scratch(name: &str, slots: &BTreeMap<String, SlotRule>) -> bool {
    slots.get(name).map_or(name == SCRATCH, |slot| slot.kind == SlotKind::Scratch)
}

fn fill_arguments(args: &[Template], slots: &BTreeMap<&str, Vec<&str>>) -> Result<Vec<String>, String> {
    let mut filled = Vec::new();
    for arg in args {
        match arg.lone_slot().and_then(|name| slots.get(name)) {
            Some(values) => filled.extend(values.iter().map(|value| (*value).to_owned())),
            None => filled.push(fill(arg, slots)?),
        }
    }
    Ok(filled)
}

fn fill(template: &Template, slots: &BTreeMap<&str, Vec<&str>>) -> Result<String, String> {
    let mut filled = String::new();
    for piece in &template.pieces {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Slot(name) => match slots.get(name.as_str()).map(Vec::as_slice) {
                Some([value]) => filled.push_str(value),
                Some(_) => return Err(format!("slot {} repeats inside other text", quoted(name))),
                None => return Err(format!("the grant declares no slot {}", quoted(name))),
            },
        }
    }
    Ok(filled)
}

/// TOML that would admit `value`; empty where no rule could.
fn widened(rule: &str, name: &str, slot: &SlotRule, value: &str) -> String {
    if value.chars().any(char::is_control) || value.len() > slot.max_bytes {
        return String::new();
    }
    match &slot.kind {
        SlotKind::Pattern(_, text) => {
            let dash =
                if value.starts_with('-') { regex::escape(value) } else { format!("{text}|{}", regex::escape(value)) };
            format!("[{rule}.slots]\n{} = {}", toml_key(name), toml_text(&dash))
        }
        SlotKind::Setting(setting) => {
            format!("settings = {{ {} = [{}] }} in the job", toml_key(setting), toml_text(value))
        }
        SlotKind::Scratch => String::new(),
    }
}

fn artifact_stdin(name: &str, maker: &Origin) -> String {
    match maker {
        Origin::Exec { command, .. } => {
            format!("stdin = {{ artifact = {}, made_by = {} }}", toml_text(&regex::escape(name)), toml_text(command))
        }
        _ => "stdin = \"plugin\"".to_owned(),
    }
}
