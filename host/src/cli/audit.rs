//! `strongroom audit`

mod cost;

use super::Globals;
use super::exit::Exit;
use super::output::Output;
use super::session::Session;
use super::table::{Align, Table};
use super::vendor;
use crate::audit::show::{self, Filter};
use crate::audit::unused;
use crate::audit::verify::{self, Finding, State, VerifiedChain};
use crate::audit::{Argument, Beginning, Configuration, Event, Keys, Line, Log, Verdict};
use crate::catalog::PublicKey;
use crate::clock;
use crate::config::Config;
use crate::config::mistake::Mistakes;
use crate::config::narrow::{self, UnusedGrant};
use crate::error::{Error, Result};
use crate::id::{BackupId, Label};
use crate::plugin::component;
use crate::record::AuditAnchor;
use clap::{Args, Subcommand, ValueEnum};
pub use cost::{AuditCost, CostArgs};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What `audit` can do.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Shows what plugins did
    Show(ShowArgs),
    /// Finds every line that was changed, removed, added or moved, and names the first
    Verify(VerifyArgs),
    /// Lists grants that no run has used, and prints narrower ones
    Unused(UnusedArgs),
    /// Measures what a line and a flush cost on this machine
    Cost(CostArgs),
}

/// Arguments of `audit show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit show --job orders --since 24h
  strongroom audit show --decision denied
  strongroom audit show 20261120T020000Z-x7k2m9qd --function exec --output json")]
pub struct ShowArgs {
    /// Runs, by id or the beginning of one [default: all]
    pub runs: Vec<String>,
    /// Lines of this plugin, by the name in its manifest
    #[arg(long, value_name = "NAME")]
    pub plugin: Option<String>,
    /// Runs of this job
    #[arg(long)]
    pub job: Option<String>,
    /// Calls that were allowed, or denied
    #[arg(long, value_enum)]
    pub decision: Option<Decided>,
    /// Calls of this function, or of an interface: exec.spawn, storage
    #[arg(long)]
    pub function: Option<String>,
    /// From this time on: 2026-11-20, 2026-11-20T02:00:00Z, or so long ago: 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// The last so many lines
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub last: usize,
}

/// `--decision`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Decided {
    /// The call was allowed.
    Allowed,
    /// It was denied.
    Denied,
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit verify
  strongroom audit verify --store main                       compares it with the records of the backups there
  strongroom audit verify 20261120T020000Z-x7k2m9qd
  strongroom audit verify --copy ./evidence --signer KEY     a copy of another host's log, without its key

Exit code 5 when something is not as it was written.")]
pub struct VerifyArgs {
    /// Runs, by id or the beginning of one [default: all]
    pub runs: Vec<String>,
    /// All runs; the default
    #[arg(long, conflicts_with = "runs")]
    pub all: bool,
    /// Compares with the records of this store, as in [store.NAME]; several times for several stores
    #[arg(long = "store", value_name = "STORE")]
    pub stores: Vec<String>,
    /// Checks a copy of a log in this directory: signatures and hashes, without the host's key
    #[arg(long, value_name = "DIR", requires = "signer", conflicts_with = "stores")]
    pub copy: Option<PathBuf>,
    /// The public key of the host that wrote the copy, as `key show` prints it there
    #[arg(long, value_name = "KEY", requires = "copy")]
    pub signer: Option<String>,
}

/// Arguments of `audit unused`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit unused
  strongroom audit unused --since 90d --output json")]
pub struct UnusedArgs {
    /// Runs from this time on [default: all that are kept]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<Timestamp>,
}

/// Runs it.
pub async fn run(args: AuditArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    match args.command {
        AuditCommand::Show(args) => show(args, globals),
        AuditCommand::Verify(args) => verify(args, globals, cancel).await,
        AuditCommand::Unused(args) => unused(&args, globals),
        AuditCommand::Cost(args) => cost::run(&args, globals),
    }
}

/// A time, or how long ago.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = crate::unit::parse_duration(text) {
        return clock::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    let midnight = format!("{text}T00:00:00Z");
    text.parse::<Timestamp>()
        .or_else(|_| midnight.parse())
        .map_err(|_| "expected a date, a time such as 2026-11-20T02:00:00Z, or how long ago, such as 24h".to_owned())
}

fn log_dir(globals: &Globals) -> Result<PathBuf> {
    Ok(globals.directories()?.state.join("audit"))
}

fn show(args: ShowArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let filter = Filter {
        runs: args.runs,
        plugin: args.plugin,
        job: args.job,
        decision: args.decision.map(|decided| match decided {
            Decided::Allowed => Verdict::Allowed,
            Decided::Denied => Verdict::Denied,
        }),
        function: args.function,
        event: None,
        since: args.since,
        until: args.until,
    };
    let mut lines = VecDeque::new();
    let mut left_out = 0;
    let unread = show::read(&log_dir(globals)?, &filter, |line| {
        lines.push_back(line.clone());
        if lines.len() > args.last {
            lines.pop_front();
            left_out += 1;
        }
    })?;
    let output = globals.output();
    if unread > 0 {
        output.note(&format!("warning: {unread} line(s) cannot be read: strongroom audit verify"));
    }
    AuditLines { lines: lines.make_contiguous(), left_out, unread }.print(&output)
}

async fn verify(args: VerifyArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let (dir, keys, anchors) = match (&args.copy, &args.signer) {
        (Some(copy), Some(signer)) => (copy.clone(), Keys::public_only(signer.parse::<PublicKey>()?), Vec::new()),
        _ => {
            let session = if args.stores.is_empty() {
                Session::with(globals, Config::default(), cancel)?
            } else {
                Session::open(globals, cancel)?.in_a_hurry()
            };
            let host_key = Arc::new(session.host_key()?);
            let log = session.audit(&host_key);
            let mut anchors = Vec::new();
            for store in &args.stores {
                anchors.extend(anchors_of(&session, session.config.store(store)?.0, host_key.public()).await?);
            }
            (log.dir().to_owned(), log.keys().clone(), anchors)
        }
    };
    let wanted = (!args.runs.is_empty()).then_some(args.runs.as_slice());
    let (n_records, read_dir) = (anchors.len(), dir.clone());
    let owned: Option<Vec<String>> = wanted.map(<[String]>::to_vec);
    let report = tokio::task::spawn_blocking(move || verify::verify(&read_dir, &keys, owned.as_deref(), &anchors))
        .await
        .map_err(|e| Error::failed("the host failed while it verified the audit log").because(e))??;
    for name in &args.runs {
        if !report.runs.iter().any(|run| run.run.starts_with(name.as_str())) && report.findings.is_empty() {
            return Err(Error::not_found(format!("the audit log has no run \"{}\"", vendor::line(name, 64)))
                .fact("where", dir.display().to_string())
                .hint("see which there are: strongroom audit show --function none, or strongroom audit verify")
                .into());
        }
    }
    let shown = AuditVerified {
        log: &dir.display().to_string(),
        runs: &report.runs,
        findings: &report.findings,
        index_lines: report.index_lines,
        anchored_lines: report.anchored,
        records: n_records,
    };
    shown.print(&globals.output())
}

/// What the records of a store say of this host's log.
async fn anchors_of(session: &Session, store: &Label, own: &PublicKey) -> Result<Vec<AuditAnchor>> {
    let catalog = session.catalog(store, None).await?;
    let mut anchors = Vec::new();
    for job in catalog.jobs().await? {
        let backups = catalog.backups(&job).await?;
        let ours = backups.iter().filter(|backup| backup.signer.as_ref() == Some(own));
        anchors.extend(ours.filter_map(|backup| backup.trusted()?.audit()));
    }
    Ok(anchors)
}

fn unused(args: &UnusedArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let path = globals.config_file()?;
    // Read once as a whole, so that a mistake is told as one.
    globals.load()?;
    let text = crate::config::file::read_guarded(&path)?;
    let usage = unused::usage(&log_dir(globals)?, args.since)?;
    let narrowed = narrow::narrow(&text, &usage.rules)?;
    let runs: Vec<_> = usage.runs.iter().map(|(verb, n)| format!("{n} {}", verb.name())).collect();
    let shown = AuditUnused { runs: &runs.join(", "), unused: &narrowed.unused, toml: &narrowed.toml };
    shown.print(&globals.output())
}

/// The result of `audit show` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct AuditLines<'a> {
    /// The last lines that were asked for, oldest first.
    pub lines: &'a [Line],
    /// How many earlier ones are left out.
    pub left_out: u64,
    /// How many lines of the files could not be read.
    pub unread: u64,
}

impl AuditLines<'_> {
    /// Prints it.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("TIME", Align::Left),
            ("RUN", Align::Left),
            ("LINE", Align::Right),
            ("WHAT", Align::Left),
            ("FUNCTION", Align::Left),
            ("OUTCOME", Align::Left),
            ("BYTES", Align::Right),
            ("DETAILS", Align::Left),
        ]);
        for line in self.lines {
            table.row([
                clock::show(line.at),
                line.run.clone(),
                line.seq.to_string(),
                line.event.name().to_owned(),
                line.function.clone().unwrap_or_default(),
                outcome(line),
                line.bytes.map(crate::unit::bytes).unwrap_or_default(),
                details(line),
            ]);
        }
        let earlier = match self.left_out {
            0 => String::new(),
            n => format!("{n} earlier line(s) are left out: --last N shows more\n"),
        };
        format!("{}{earlier}", table.render())
    }
}

fn outcome(line: &Line) -> String {
    match (line.decision, &line.outcome) {
        (Some(Verdict::Denied), _) => "denied".to_owned(),
        (_, Some(outcome)) => outcome.clone(),
        (Some(Verdict::Allowed), None) => "allowed".to_owned(),
        (None, None) => String::new(),
    }
}

/// Most arguments of a line of several changes that the table shows.
const SHOWN_OF_A_BATCH: usize = 8;

fn details(line: &Line) -> String {
    let shown = |argument: &Argument| match (&argument.value, &argument.hash) {
        (Some(value), _) => format!("{}={value}", argument.name),
        (None, hash) => format!("{}=<secret {}>", argument.name, hash.as_deref().unwrap_or("?")),
    };
    let mut parts: Vec<String> = match (&line.verb, &line.job) {
        (Some(verb), Some(job)) => vec![format!("{verb} of {job}")],
        (Some(verb), None) => vec![verb.clone()],
        _ => Vec::new(),
    };
    // Of changes that share a line the first few are named here, and all of them in the JSON.
    let most = if line.event == Event::After && !line.calls.is_empty() { SHOWN_OF_A_BATCH } else { usize::MAX };
    parts.extend(line.arguments.iter().take(most).map(shown));
    if let Some(more) = line.arguments.len().checked_sub(most).filter(|more| *more > 0) {
        parts.push(format!("and {more} more"));
    }
    parts.extend(line.calls.iter().map(|counted| format!("{} x {}", counted.calls, counted.function)));
    parts.extend(line.failed.map(|n| format!("{n} failed")));
    parts.extend(line.before.map(|n| format!("of line {n}")));
    parts.extend(line.detail.clone());
    parts.join(" ")
}

/// The result of `audit verify` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct AuditVerified<'a> {
    /// Where the log is.
    pub log: &'a str,
    /// The chains that were checked, oldest first.
    pub runs: &'a [VerifiedChain],
    /// What is not as it was written; empty when all is well.
    pub findings: &'a [Finding],
    /// Lines of the index.
    pub index_lines: u64,
    /// Lines of the index that the record of a backup anchors.
    pub anchored_lines: u64,
    /// Records of stores that were compared.
    pub records: usize,
}

impl AuditVerified<'_> {
    /// Prints it and says how the process ends: 5 when something is wrong.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(if self.findings.is_empty() { Exit::Done } else { Exit::CheckFailed })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { file, line, what } in self.findings {
            let place = line.map(|line| format!(":{line}")).unwrap_or_default();
            text.push_str(&format!("bad: {}{place}: {}\n", vendor::line(file, 512), vendor::line(what, 512)));
        }
        for run in self.runs.iter().filter(|run| run.state == State::Killed) {
            text.push_str(&format!("note: run {} was killed after line {}\n", vendor::line(&run.run, 64), run.lines));
        }
        let lines: u64 = self.runs.iter().map(|run| run.lines).sum();
        let records = match self.records {
            0 => "not compared with any store".to_owned(),
            n => format!("compared with {n} record(s)"),
        };
        let verdict = match self.findings.len() {
            0 => "as written".to_owned(),
            n => format!("{n} finding(s)"),
        };
        text.push_str(&format!("{verdict}: {} run(s), {lines} lines, {records}\n", self.runs.len()));
        text
    }
}

/// The result of `audit unused` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct AuditUnused<'a> {
    /// The runs that were looked at, by verb.
    pub runs: &'a str,
    /// What none of them used.
    pub unused: &'a [UnusedGrant],
    /// The grants without it, of every plugin that has more than it used.
    pub toml: &'a str,
}

impl AuditUnused<'_> {
    /// Prints it.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let runs = if self.runs.is_empty() { "none" } else { self.runs };
        let mut text = format!("runs: {runs}\n");
        if self.unused.is_empty() {
            text.push_str("every grant was used\n");
            return text;
        }
        for UnusedGrant { rule, what } in self.unused {
            text.push_str(&format!("unused: {rule}: {what}\n"));
        }
        text.push_str("\n# A verb that never ran uses nothing: keep what a restore needs.\n");
        text.push_str(&vendor::lines(self.toml));
        text
    }
}

/// What the audit log compares of a configuration.
pub(super) fn configuration(config: &Config) -> Configuration {
    let path = std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
    // One that was made for this run lies nowhere.
    let path = if path.is_file() { path.display().to_string() } else { String::new() };
    Configuration { path, sections: config.sections.texts().clone() }
}

/// Writes down that a plugin was refused when it was loaded, and returns the error. `bytes` is `None` where
/// its file was not read to its end.
pub(super) fn refused(log: &Log, config: &Config, job: &Label, bytes: Option<&[u8]>, error: Error) -> Error {
    let line = crate::audit::refused(bytes.map(component::digest), &config.ceilings.list(), &error);
    match note(log, "load", Some(job), config, line, crate::audit::outcome(Some(&error))) {
        Ok(()) => error,
        // Nothing happened: what was refused is what the operator asked about.
        Err(unwritten) => error.fact("audit log", unwritten.to_string()),
    }
}

/// Writes down that a configuration is over a ceiling, if that is what is wrong with it, and returns the error.
pub(super) fn over_a_ceiling(globals: &Globals, error: Error) -> Error {
    let source = std::error::Error::source(&error);
    let mistake = source.and_then(|source| source.downcast_ref::<Mistakes>()).and_then(Mistakes::over_a_ceiling);
    let Some(mistake) = mistake.map(str::to_owned) else { return error };
    let write = || -> Result<()> {
        let config = Config::default();
        let session = Session::with(globals, Config::default(), CancellationToken::new())?;
        let log = session.audit(&Arc::new(session.host_key()?));
        let path = globals.config_file()?.display().to_string();
        let line = crate::audit::over_a_ceiling(&path, &globals.ceilings()?.list(), &mistake);
        note(&log, "load", None, &config, line, "denied")
    };
    match write() {
        Ok(()) => error,
        Err(unwritten) => error.fact("audit log", unwritten.to_string()),
    }
}

/// Writes down that a plugin was approved, before it is.
pub(super) fn approved(globals: &Globals, config: &Config, label: &Label, sha256: &str) -> Result<()> {
    let session = Session::with(globals, Config::default(), CancellationToken::new())?;
    let log = session.audit(&Arc::new(session.host_key()?));
    let line = Line {
        sha256: Some(sha256.to_owned()),
        detail: Some(format!("plugin \"{label}\" of the configuration")),
        outcome: Some("ok".to_owned()),
        ..Line::of(Event::Approve)
    };
    note(&log, "approve", None, config, line, "ok")
}

fn note(
    log: &Log,
    verb: &'static str,
    job: Option<&Label>,
    config: &Config,
    line: Line,
    outcome: &'static str,
) -> Result<()> {
    let run = BackupId::generate(clock::now())?;
    let (job, configuration) = (job.map(ToString::to_string), configuration(config));
    log.note(&Beginning { run, job, verb, dry: false, configuration }, line, outcome)
}
