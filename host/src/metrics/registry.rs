//! The registry: every series of this machine, kept across runs in the state directory.
//!
//! One file, replaced as a whole under a lock (`flock`): a run that is killed at any moment leaves the
//! series as they were before it, or as they are after it. Then the file for the textfile collector is
//! written, under the same lock, so that it never goes back in time. Everything here blocks.

use super::changes::{Change, Changes};
use super::series::{Histogram, Key, Kind, RESERVED, exact, finite, lines};
use super::text;
use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Point};
use jiff::{SignedDuration, Timestamp};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The format of the file.
const FORMAT: u32 = 1;

/// How long a series stays that no run touches: longer than a yearly job pauses.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(400 * 24);

/// Largest file that is read, in bytes: some hundred jobs with a thousand long series each.
const MAX_BYTES: u64 = 256 << 20;

/// The label that says whose a series is.
pub const JOB: &str = "backup_job";

/// The series of this machine.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

/// The value of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Of a counter or a gauge.
    Number(Number),
    /// Of a histogram.
    Histogram(Histogram),
}

/// A finite number that JSON gives back bit by bit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(#[serde(with = "exact")] pub f64);

impl Value {
    /// Of a number.
    pub fn of(value: f64) -> Self {
        Self::Number(Number(value))
    }
}

/// A series as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is.
    pub kind: Kind,
    /// Its value.
    pub value: Value,
    /// When a run changed it last.
    pub touched: Timestamp,
}

/// The file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Page {
    format: u32,
    series: Vec<Line>,
}

#[derive(Deserialize, Serialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    kept: Kept,
}

/// What a merge left.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Everything as text for Prometheus.
    pub text: String,
    /// What somebody should know, a sentence each.
    pub warnings: Vec<String>,
}

/// The lock, held while the file is read and replaced.
struct Locked {
    _lock: File,
}

impl Registry {
    /// The registry of a state directory. Nothing is read or made yet.
    pub fn new(state: &Path) -> Self {
        Self { dir: state.join("metrics") }
    }

    /// Merges what a run wants changed, and writes `textfile`. Series that `changes` does not name
    /// stay as they are. Of a job's plugin at most `limit` lines are kept: those that were changed last.
    ///
    /// Durable when it returns. Errors: the file cannot be locked, read or replaced; nothing is changed
    /// then. A file that is damaged is put aside and counts as empty; that the textfile cannot be
    /// written is a warning.
    pub fn merge(&self, changes: &Changes, limit: usize, now: Timestamp, textfile: Option<&Path>) -> Result<Merged> {
        let _locked = self.lock()?;
        let mut merged = Merged::default();
        let mut series = match self.load() {
            Ok(series) => series,
            Err(Unreadable::Damaged(what)) => {
                merged.warnings.push(self.put_aside(&what)?);
                BTreeMap::new()
            }
            Err(Unreadable::Failed(error)) => return Err(error),
        };
        apply(&mut series, changes, now, &mut merged.warnings);
        forget(&mut series, changes, limit, now);
        self.save(&series)?;
        merged.text = text::render(&series);
        if let Some(path) = textfile
            && let Err(error) = write_textfile(path, &merged.text)
        {
            let causes: Vec<_> = std::iter::successors(std::error::Error::source(&error), |error| error.source())
                .map(|cause| format!(": {cause}"))
                .collect();
            merged.warnings.push(format!("the metrics are not where Prometheus looks: {error}{}", causes.concat()));
        }
        Ok(merged)
    }

    /// The text of what is there now. Errors: as [`Self::merge`]; `Damaged` for a damaged file.
    pub fn text(&self) -> Result<String> {
        Ok(text::render(&self.read()?))
    }

    /// Whether there is a series of this metric about this job.
    pub fn knows(&self, metric: &str, job: &str) -> Result<bool> {
        let is_it = |key: &Key| key.name == metric && key.labels.get(JOB).is_some_and(|of| of == job);
        Ok(self.read()?.keys().any(is_it))
    }

    fn read(&self) -> Result<BTreeMap<Key, Kept>> {
        // Replaced by renaming: without the lock it is whole as well.
        self.load().map_err(|unreadable| match unreadable {
            Unreadable::Failed(error) => error,
            Unreadable::Damaged(what) => Error::damaged(format!("\"{}\" is damaged: {what}", self.file().display())),
        })
    }

    /// Waits for the lock of sending: what is sent last is what was merged last.
    pub fn lock_for_sending(&self) -> Result<impl Drop + use<>> {
        Ok(Sending(self.locked("sending")?))
    }

    fn file(&self) -> PathBuf {
        self.dir.join("series.json")
    }

    fn lock(&self) -> Result<Locked> {
        Ok(Locked { _lock: self.locked("lock")? })
    }

    fn locked(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        let doing = || format!("lock \"{}\"", path.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).doing(doing)?;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .doing(doing)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).doing(doing)?;
        Ok(file)
    }

    fn load(&self) -> std::result::Result<BTreeMap<Key, Kept>, Unreadable> {
        let path = self.file();
        let doing = || format!("read \"{}\"", path.display());
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Ok(about) if about.len() > MAX_BYTES => return Err(Unreadable::Damaged("it is too large".to_owned())),
            other => {
                other.doing(doing).map_err(Unreadable::Failed)?;
            }
        }
        let bytes = std::fs::read(&path).doing(doing).map_err(Unreadable::Failed)?;
        let page: Page = serde_json::from_slice(&bytes).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        if page.format != FORMAT {
            // A later version of the host wrote it: it is not ours to replace.
            let error = Error::invalid(format!("\"{}\" has a format that this host does not know", path.display()))
                .fact("expected", FORMAT.to_string())
                .fact("got", page.format.to_string())
                .hint("use the newer host here, or give this one another state directory");
            return Err(Unreadable::Failed(error));
        }
        Ok(page.series.into_iter().map(|line| (line.key, line.kept)).collect())
    }

    fn save(&self, series: &BTreeMap<Key, Kept>) -> Result<()> {
        let line = |(key, kept): (&Key, &Kept)| Line { key: key.clone(), kept: kept.clone() };
        let page = Page { format: FORMAT, series: series.iter().map(line).collect() };
        let bytes = serde_json::to_vec(&page).map_err(|e| Error::failed("could not write the metrics").because(e))?;
        replace(&self.file(), &bytes, 0o600, Point::RegistryWritten)?;
        failpoint::reach(Point::RegistryMerged);
        Ok(())
    }

    fn put_aside(&self, what: &str) -> Result<String> {
        let (path, aside) = (self.file(), self.dir.join("series.json.damaged"));
        std::fs::rename(&path, &aside).doing(|| format!("put the damaged \"{}\" aside", path.display()))?;
        Ok(format!(
            "the metrics of earlier runs are damaged ({what}) and begin anew; what is left is \"{}\"",
            aside.display()
        ))
    }
}

/// Releases the lock of sending when it is dropped.
struct Sending(File);

impl Drop for Sending {
    fn drop(&mut self) {
        // Closing the file would do it as well, but for a copy of it that a child might hold.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

enum Unreadable {
    Damaged(String),
    Failed(Error),
}

fn apply(series: &mut BTreeMap<Key, Kept>, changes: &Changes, now: Timestamp, warnings: &mut Vec<String>) {
    for (key, change) in &changes.series {
        let kind = change.kind();
        let others: Vec<&Key> = series
            .range(Key { name: key.name.clone(), labels: BTreeMap::new() }..)
            .take_while(|(other, _)| other.name == key.name)
            .filter(|(_, kept)| kept.kind != kind)
            .map(|(other, _)| other)
            .collect();
        if others.iter().any(|other| other.labels.get(JOB) != key.labels.get(JOB)) {
            let job = key.labels.get(JOB).map(String::as_str).unwrap_or_default();
            let warning = format!(
                "the metric \"{}\" of job \"{job}\" is a {} and another job has one of that name that is not: it is left out",
                key.name,
                kind.name()
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            continue;
        }
        // A new version of the job's own plugin may know better what it is.
        let others: Vec<Key> = others.into_iter().cloned().collect();
        others.iter().for_each(|other| drop(series.remove(other)));
        let value = match (series.get(key).map(|kept| &kept.value), change) {
            (Some(Value::Number(there)), Change::Add(more)) => Value::of(finite(there.0 + more)),
            (Some(Value::Number(there)), Change::Raise(to)) => Value::of(there.0.max(*to)),
            (Some(Value::Histogram(there)), Change::Observe(more)) => {
                let mut sum = there.clone();
                sum.merge(more);
                Value::Histogram(sum)
            }
            (_, Change::Add(value) | Change::Set(value) | Change::Raise(value)) => Value::of(*value),
            (_, Change::Observe(histogram)) => Value::Histogram(histogram.clone()),
        };
        series.insert(key.clone(), Kept { kind, value, touched: now });
    }
}

/// Lets go of what nobody has touched for long, and of what a job's plugin has too much of.
fn forget(series: &mut BTreeMap<Key, Kept>, changes: &Changes, limit: usize, now: Timestamp) {
    let horizon = now.saturating_sub(FORGOTTEN_AFTER).unwrap_or(Timestamp::MIN);
    series.retain(|_, kept| kept.touched >= horizon);
    let is_plugins = |key: &Key| !RESERVED.iter().any(|prefix| key.name.starts_with(prefix));
    let mut jobs: Vec<&String> =
        changes.series.keys().filter(|key| is_plugins(key)).filter_map(|key| key.labels.get(JOB)).collect();
    jobs.dedup();
    for job in jobs {
        let mut own: Vec<(Timestamp, Key, usize)> = series
            .iter()
            .filter(|(key, _)| is_plugins(key) && key.labels.get(JOB) == Some(job))
            .map(|(key, kept)| (kept.touched, key.clone(), lines(kept.kind, &key.name)))
            .collect();
        own.sort();
        let mut n_lines: usize = own.iter().map(|(.., lines)| lines).sum();
        for (_, key, lines) in own {
            if n_lines <= limit {
                break;
            }
            series.remove(&key);
            n_lines -= lines;
        }
    }
}

/// The file for the textfile collector: readable for everybody, since the collector is somebody else.
fn write_textfile(path: &Path, text: &str) -> Result<()> {
    replace(path, text.as_bytes(), 0o644, Point::RegistryTextfile)
}

/// Replaces a file: what is there is the old one or the new one, whole, also after a power failure.
///
/// The temporary file begins with a dot and does not end like the file, so that no collector reads it.
/// It is never opened through a link: the folder may belong to somebody else.
fn replace(path: &Path, bytes: &[u8], mode: u32, written: Point) -> Result<()> {
    let doing = || format!("write \"{}\"", path.display());
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("\"{}\" names no file", path.display())))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    let temporary = folder.join(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(doing),
        _ => {}
    }
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        // Whatever the process masks.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        failpoint::reach(written);
        std::fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    let done = write().doing(doing);
    if done.is_err() {
        // The first error wins.
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::super::series::Labels;
    use super::*;

    fn key(name: &str, job: &str, more: &str) -> Key {
        let labels = Labels::from([(JOB.to_owned(), job.to_owned()), ("x".to_owned(), more.to_owned())]);
        Key { name: name.to_owned(), labels }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_763_712_000 + second).unwrap()
    }

    fn of(kind: Kind, name: &str, job: &str, n: usize, value: f64) -> Changes {
        let mut changes = Changes::default();
        for n in 0..n {
            changes.put_for_plugin(kind, key(name, job, &n.to_string()), value, usize::MAX).unwrap();
        }
        changes
    }

    #[test]
    fn a_run_changes_its_own_series_and_no_other() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::new(state.path());
        let textfile = state.path().join("s.prom");
        let merge = |changes: &Changes, second| {
            let merged = registry.merge(changes, 100, at(second), Some(&textfile)).unwrap();
            assert_eq!(std::fs::read_to_string(&textfile).unwrap(), merged.text);
            assert!(merged.warnings.is_empty(), "{:?}", merged.warnings);
            merged.text
        };
        merge(&of(Kind::Counter, "a_total", "one", 1, 2.5), 0);
        merge(&of(Kind::Gauge, "b", "two", 1, 7.0), 1);
        merge(&of(Kind::Histogram, "c_seconds", "two", 1, 7.0), 1);
        merge(&of(Kind::Histogram, "c_seconds", "two", 1, 8.0), 1);
        let text = merge(&of(Kind::Counter, "a_total", "one", 1, 1.5), 2);
        for line in [
            "a_total{backup_job=\"one\",x=\"0\"} 4\n",
            "b{backup_job=\"two\",x=\"0\"} 7\n",
            "_sum{backup_job=\"two\",x=\"0\"} 15\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(registry.text().unwrap(), text);
        assert_eq!(std::fs::metadata(&textfile).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_job_keeps_what_it_touched_last_and_everybody_forgets_what_is_old() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::new(state.path());
        registry.merge(&of(Kind::Gauge, "b", "two", 5, 1.0), 5, at(0), None).unwrap();
        registry.merge(&of(Kind::Gauge, "b", "one", 5, 1.0), 5, at(1), None).unwrap();
        let text = registry.merge(&of(Kind::Gauge, "c", "one", 3, 1.0), 5, at(2), None).unwrap().text;
        assert_eq!(text.matches("b{backup_job=\"one\"").count(), 2, "{text}");
        assert_eq!((text.matches("c{").count(), text.matches("b{backup_job=\"two\"").count()), (3, 5), "{text}");
        let later = at(401 * 24 * 3600);
        let text = registry.merge(&of(Kind::Gauge, "d", "one", 1, 1.0), 5, later, None).unwrap().text;
        assert_eq!(text.matches("{").count(), 1, "{text}");
    }

    #[test]
    fn a_name_has_one_kind_among_jobs_and_a_job_may_change_its_own() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::new(state.path());
        registry.merge(&of(Kind::Gauge, "a", "one", 2, 1.0), 100, at(0), None).unwrap();
        let merged = registry.merge(&of(Kind::Histogram, "a", "two", 2, 1.0), 100, at(1), None).unwrap();
        assert_eq!(merged.warnings.len(), 1, "{:?}", merged.warnings);
        assert!(!merged.text.contains("two"));
        let merged = registry.merge(&of(Kind::Histogram, "a", "one", 1, 1.0), 100, at(1), None).unwrap();
        assert!(merged.warnings.is_empty() && !merged.text.contains("gauge"), "{merged:?}");
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_one_of_a_later_host_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::new(state.path());
        let changes = of(Kind::Gauge, "a", "one", 1, 1.0);
        registry.merge(&changes, 100, at(0), None).unwrap();
        let file = state.path().join("metrics/series.json");
        let whole = std::fs::read_to_string(&file).unwrap();
        for damaged in [&whole[..whole.len() / 2], "", "{}", "[1]", &whole.replace("\"1\"", "\"NaN\"")] {
            std::fs::write(&file, damaged).unwrap();
            assert!(registry.text().is_err(), "{damaged}");
            let merged = registry.merge(&changes, 100, at(0), None).unwrap();
            assert!(merged.warnings[0].contains("begin anew"), "{:?}", merged.warnings);
            assert_eq!(std::fs::read_to_string(state.path().join("metrics/series.json.damaged")).unwrap(), damaged);
        }
        std::fs::write(&file, "{\"format\":2,\"series\":[]}").unwrap();
        assert!(registry.merge(&changes, 100, at(0), None).unwrap_err().message().contains("does not know"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"format\":2,\"series\":[]}");
    }

    #[test]
    fn many_merges_at_once_lose_nothing() {
        let state = tempfile::tempdir().unwrap();
        let textfile = state.path().join("s.prom");
        std::thread::scope(|scope| {
            for job in 0..8 {
                let (state, textfile) = (state.path(), &textfile);
                scope.spawn(move || {
                    let registry = Registry::new(state);
                    for _ in 0..10 {
                        let changes = of(Kind::Counter, "a_total", &format!("j{job}"), 1, 1.0);
                        registry.merge(&changes, 100, at(0), Some(textfile)).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&textfile).unwrap();
        assert_eq!(text.matches("} 10\n").count(), 8, "{text}");
    }

    #[test]
    fn a_link_in_the_collectors_folder_leads_nowhere() {
        let state = tempfile::tempdir().unwrap();
        let victim = state.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, state.path().join(".s.prom.tmp")).unwrap();
        std::os::unix::fs::symlink(&victim, state.path().join("s.prom")).unwrap();
        let registry = Registry::new(state.path());
        let textfile = state.path().join("s.prom");
        let merged = registry.merge(&of(Kind::Gauge, "a", "one", 1, 1.0), 9, at(0), Some(&textfile)).unwrap();
        assert!(merged.warnings.is_empty(), "{:?}", merged.warnings);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(&textfile).unwrap(), merged.text);
        // A folder that is not there is a warning, and the series are kept all the same.
        let nowhere = state.path().join("nowhere/s.prom");
        let merged = registry.merge(&of(Kind::Gauge, "a", "one", 1, 2.0), 9, at(0), Some(&nowhere)).unwrap();
        assert!(merged.warnings[0].contains("nowhere/s.prom"), "{:?}", merged.warnings);
        assert!(registry.text().unwrap().contains("} 2\n"));
    }
}
