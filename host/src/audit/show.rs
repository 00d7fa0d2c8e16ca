//! Reads lines back, by what they tell. It believes nothing: `verify` says whether they are as written.

use super::index::runs_dir;
use super::line::{Event, Line, MAX_LINE_BYTES, Verdict};
use crate::error::{IoContext, Result};
use jiff::Timestamp;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Which lines are wanted; what is not set is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Runs, by id or the beginning of one; empty means all.
    pub runs: Vec<String>,
    /// Name of the plugin, with or without its version.
    pub plugin: Option<String>,
    /// The job of the run.
    pub job: Option<String>,
    /// What was decided.
    pub decision: Option<Verdict>,
    /// Function, or the interface that it is in: `exec` is every function of it.
    pub function: Option<String>,
    /// What the line tells.
    pub event: Option<Event>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Whether a line is wanted; `job` is that of its run.
    pub fn admits(&self, line: &Line, job: Option<&str>) -> bool {
        let under = |wanted: &str, name: &str, separator: char| {
            name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(separator))
        };
        let functions = || line.function.iter().chain(line.calls.iter().map(|counted| &counted.function));
        self.plugin.as_deref().is_none_or(|wanted| line.plugin.as_deref().is_some_and(|name| under(wanted, name, ' ')))
            && self.job.as_deref().is_none_or(|wanted| job == Some(wanted))
            && self.decision.is_none_or(|wanted| line.decision == Some(wanted))
            && self.function.as_deref().is_none_or(|wanted| functions().any(|name| under(wanted, name, '.')))
            && self.event.is_none_or(|wanted| line.event == wanted)
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at < until)
    }
}

/// When a chain began, by its first line; names say it to the second only.
fn begun(path: &Path) -> Result<Option<Timestamp>> {
    let doing = || format!("read the audit log \"{}\"", path.display());
    let file = std::fs::File::open(path).doing(doing)?;
    let mut text = Vec::new();
    BufReader::new(std::io::Read::take(file, MAX_LINE_BYTES as u64)).read_until(b'\n', &mut text).doing(doing)?;
    Ok(serde_json::from_slice::<Line>(&text).ok().map(|line| line.at))
}

/// Calls `each` with every line that is wanted, run by run, oldest first. Text that is no line is passed
/// over and counted; the number is returned.
pub fn read(dir: &Path, filter: &Filter, mut each: impl FnMut(&Line)) -> Result<u64> {
    let runs = runs_dir(dir);
    let entries = match std::fs::read_dir(&runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).doing(|| format!("list \"{}\"", runs.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.doing(|| format!("list \"{}\"", runs.display()))?.path();
        let run = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let is_wanted = filter.runs.is_empty() || filter.runs.iter().any(|wanted| run.starts_with(wanted.as_str()));
        if path.extension().is_some_and(|extension| extension == "jsonl") && is_wanted {
            paths.push((begun(&path)?, path));
        }
    }
    paths.sort();
    let mut unread = 0;
    for (_, path) in paths {
        let doing = || format!("read the audit log \"{}\"", path.display());
        let mut reader = BufReader::new(std::fs::File::open(&path).doing(doing)?);
        let (mut text, mut job) = (Vec::new(), None);
        loop {
            text.clear();
            let most = MAX_LINE_BYTES as u64 + 1;
            std::io::Read::take(std::io::Read::by_ref(&mut reader), most).read_until(b'\n', &mut text).doing(doing)?;
            if text.is_empty() {
                break;
            }
            match serde_json::from_slice::<Line>(&text) {
                Ok(line) => {
                    if line.event == Event::Begin {
                        job.clone_from(&line.job);
                    }
                    if filter.admits(&line, job.as_deref()) {
                        each(&line);
                    }
                }
                Err(_) => unread += 1,
            }
        }
    }
    Ok(unread)
}
