//! The chain of one run: an append-only file that is written by one process and locked while it lives.
//!
//! A line is in the operating system's hands when [`Chain::append`] returns, so it survives the end of
//! the process; [`Chain::flush`] brings it to the disk. What cannot be written breaks the chain for good:
//! every later line fails as well, and with it the run.

use super::index::Index;
use super::line::{Event, Line};
use super::{Beginning, Log};
use crate::clock;
use crate::error::{Error, IoContext, Result};
use crate::record::{AuditAnchor, IndexAnchor, PluginIdentity};
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most bytes that are kept for the next line: far more than most lines have.
const MAX_KEPT_BYTES: usize = 4 << 10;

/// The chain of one run. Memory: a line.
pub struct Chain {
    log: Log,
    run: String,
    job: Option<String>,
    verb: &'static str,
    path: PathBuf,
    /// Locked (`flock`) while the run lives.
    file: File,
    state: Mutex<State>,
    /// Number of the last line that is on the disk. Held while flushing, so that whoever comes
    /// meanwhile shares the next flush.
    flushed: Mutex<u64>,
    begun: Instant,
}

struct State {
    seq: u64,
    last: String,
    first: String,
    bytes: u64,
    /// What every line names, lent to a line while it is sealed.
    names: Names,
    /// The line that is being written; kept so that the next one needs no memory of its own.
    text: Vec<u8>,
    /// Why nothing more can be written.
    broken: Option<String>,
    anchored: Option<u64>,
    closed: bool,
}

/// The run and, once it is loaded, the plugin with the digest of its bytes.
#[derive(Default)]
struct Names {
    run: String,
    plugin: Option<String>,
    sha256: Option<String>,
}

impl Names {
    /// Gives a line what it does not say itself, or takes that back: a second call undoes the first.
    fn swap(&mut self, line: &mut Line, with_plugin: bool) {
        std::mem::swap(&mut self.run, &mut line.run);
        if with_plugin {
            std::mem::swap(&mut self.plugin, &mut line.plugin);
            std::mem::swap(&mut self.sha256, &mut line.sha256);
        }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({})", self.path.display())
    }
}

/// The state of a chain: hash of its first line, of its last, and how many lines.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) first: String,
    pub(super) last: String,
    pub(super) lines: u64,
}

impl Chain {
    /// Makes the file with its first line, flushed. `prev` is the hash that the index ends with.
    pub(super) fn create(log: &Log, path: &Path, beginning: &Beginning, prev: &str) -> Result<Self> {
        let doing = || format!("make the audit log \"{}\"", path.display());
        let file =
            std::fs::OpenOptions::new().append(true).read(true).create_new(true).mode(0o600).open(path).doing(doing)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).doing(doing)?;
        let chain = Self {
            log: log.clone(),
            run: beginning.run.to_string(),
            job: beginning.job.clone(),
            verb: beginning.verb,
            path: path.to_owned(),
            file,
            state: Mutex::new(State {
                seq: 0,
                last: prev.to_owned(),
                first: String::new(),
                bytes: 0,
                names: Names { run: beginning.run.to_string(), ..Names::default() },
                // Longer than most lines, so that they are written once and never moved.
                text: Vec::with_capacity(1024),
                broken: None,
                anchored: None,
                closed: false,
            }),
            flushed: Mutex::new(0),
            begun: Instant::now(),
        };
        let uname = rustix::system::uname();
        let detail = format!(
            "strongroom {} on {}, user {}, process {}{}",
            env!("CARGO_PKG_VERSION"),
            uname.nodename().to_string_lossy(),
            rustix::process::geteuid().as_raw(),
            std::process::id(),
            if beginning.dry { ", changes nothing" } else { "" },
        );
        chain.append(Line {
            job: beginning.job.clone(),
            verb: Some(beginning.verb.to_owned()),
            detail: Some(detail),
            ..Line::of(Event::Begin)
        })?;
        let first = chain.state().last.clone();
        chain.state().first = first;
        chain.flush()?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).doing(|| format!("flush \"{}\"", folder.display()))?;
        Ok(chain)
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every later line names this plugin.
    pub fn set_plugin(&self, plugin: &PluginIdentity) {
        let mut state = self.state();
        state.names.plugin = Some(format!("{} {}", plugin.name, plugin.version));
        state.names.sha256 = Some(plugin.sha256.clone());
    }

    /// Appends a line and returns its number. It is not on the disk before [`Self::flush`].
    pub fn append(&self, mut line: Line) -> Result<u64> {
        let mut held = self.state();
        let state = &mut *held;
        self.check(state)?;
        line.seq = state.seq + 1;
        line.at = now();
        // Nothing of what every line says is copied for it.
        let with_plugin = line.plugin.is_none() && state.names.plugin.is_some();
        state.names.swap(&mut line, with_plugin);
        std::mem::swap(&mut state.last, &mut line.prev);
        let sealed = line.seal_into(&self.log.keys, &mut state.text);
        std::mem::swap(&mut state.last, &mut line.prev);
        state.names.swap(&mut line, with_plugin);
        let hash = sealed?;
        if let Err(error) = (&self.file).write_all(&state.text) {
            // Half a line would look like one that a crash has torn.
            let cut = self.file.set_len(state.bytes);
            let left = cut.err().map(|error| format!("; half a line is left: {error}")).unwrap_or_default();
            return Err(self.break_off(state, format!("{error}{left}")));
        }
        state.bytes += state.text.len() as u64;
        state.seq = line.seq;
        state.last.clear();
        state.last.push_str(&hash.to_hex());
        // A line with the names of a batch is a rare one.
        state.text.shrink_to(MAX_KEPT_BYTES);
        Ok(line.seq)
    }

    /// Brings every line that was appended so far to the disk. Callers that come while a flush is under
    /// way share the next one. Blocks.
    ///
    /// Errors: also when the file is not the one that the run began with, or has another length.
    pub fn flush(&self) -> Result<()> {
        let wanted = {
            let state = self.state();
            self.check(&state)?;
            state.seq
        };
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        if *flushed >= wanted {
            return Ok(());
        }
        let upto = {
            let mut state = self.state();
            self.check(&state)?;
            if let Some(reason) = self.replaced(state.bytes) {
                return Err(self.break_off(&mut state, reason));
            }
            state.seq
        };
        if let Err(error) = self.file.sync_data() {
            return Err(self.break_off(&mut self.state(), error.to_string()));
        }
        *flushed = upto;
        Ok(())
    }

    /// Whether every line so far could be written.
    pub fn healthy(&self) -> Result<()> {
        self.check(&self.state())
    }

    /// The chain and the index so far, for the record of the backup: a line says so, and is flushed.
    pub fn anchor(&self) -> Result<AuditAnchor> {
        self.append(Line::of(Event::Anchor))?;
        self.flush()?;
        let index = Index::new(&self.log.dir, &self.log.keys).lock()?.ends();
        let mut state = self.state();
        state.anchored = Some(index.lines);
        Ok(AuditAnchor {
            run: self.run.clone(),
            lines: state.seq,
            hash: state.last.clone(),
            index: IndexAnchor { lines: index.lines, hash: index.last },
        })
    }

    /// The last line, flushed, and the end of the chain in the index. `outcome` is `ok`, or the kind of
    /// the error. Nothing is appended afterwards; a second call does nothing.
    ///
    /// What was anchored counts from here on: call it with `ok` only when the record is committed.
    pub fn close(&self, outcome: &str) -> Result<()> {
        if self.state().closed {
            return Ok(());
        }
        let took = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.append(Line { outcome: Some(outcome.to_owned()), duration_us: Some(took), ..Line::of(Event::End) })?;
        self.flush()?;
        let (ends, anchored) = {
            let mut state = self.state();
            state.closed = true;
            let ends = Ends { first: state.first.clone(), last: state.last.clone(), lines: state.seq };
            (ends, state.anchored.filter(|_| outcome == "ok"))
        };
        let mut index = Index::new(&self.log.dir, &self.log.keys).lock()?;
        index.close(&self.run, &ends, outcome, anchored)
    }

    /// The same, without blocking the runtime.
    pub async fn close_async(self: &Arc<Self>, outcome: &'static str) -> Result<()> {
        let chain = self.clone();
        tokio::task::spawn_blocking(move || chain.close(outcome))
            .await
            .map_err(|e| Error::failed("the host failed while it closed the audit log").because(e))?
    }

    pub(super) fn ends(&self) -> Ends {
        let state = self.state();
        Ends { first: state.first.clone(), last: state.last.clone(), lines: state.seq }
    }

    pub(super) fn job(&self) -> Option<&str> {
        self.job.as_deref()
    }

    pub(super) fn verb(&self) -> &'static str {
        self.verb
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves a chain that is longer than it knows, which the next flush finds.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, state: &State) -> Result<()> {
        match &state.broken {
            Some(reason) => Err(self.broken(reason)),
            None if state.closed => Err(Error::failed(format!("the audit log \"{}\" is closed", self.path.display()))),
            None => Ok(()),
        }
    }

    fn break_off(&self, state: &mut State, reason: String) -> Error {
        let error = self.broken(&reason);
        state.broken = Some(reason);
        error
    }

    fn broken(&self, reason: &str) -> Error {
        Error::failed(format!("could not write the audit log \"{}\"", self.path.display()))
            .fact("reason", reason)
            .hint("what cannot be written down is not done: make room or give the rights back, then run it again")
    }

    /// Why the file at this path is not the one that is being written; `None` when it is.
    fn replaced(&self, bytes: u64) -> Option<String> {
        let (ours, there) = match (self.file.metadata(), std::fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours, there),
            (Err(error), _) | (_, Err(error)) => return Some(format!("the file is gone: {error}")),
        };
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Some("another file lies in its place".to_owned());
        }
        (ours.len() != bytes).then(|| format!("somebody changed it: {} bytes long, not {bytes}", ours.len()))
    }
}

/// Now, to the microsecond.
pub(super) fn now() -> Timestamp {
    let now = clock::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
