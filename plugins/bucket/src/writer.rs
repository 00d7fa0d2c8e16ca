//! Writing a backup's entries into a bucket: files as they come out of the archive, several at once,
//! then links, then directories from the deepest up, so that no directory's time is changed by what
//! is written after it.
//!
//! Memory: keys and attributes of the links and directories, some 200 bytes each.

use crate::ARCHIVE;
use crate::selection::{Mapping, Selection, above};
use crate::tally::Tally;
use std::collections::{HashSet, VecDeque};
use strongroom_plugin::bytes::Source;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, Existing, Writing};

/// Writes under way at once; the host has a limit of its own.
const IN_FLIGHT: usize = 8;
/// Keys that a message names at most.
const NAMED: usize = 100;

/// What to write, and how.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) bucket: &'a Bucket,
    pub(crate) mapping: &'a Mapping,
    pub(crate) selection: &'a Selection,
    /// Paths that the backup does not hold whole.
    pub(crate) lost: &'a HashSet<&'a str>,
    pub(crate) existing: Existing,
    pub(crate) keep_going: bool,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) tally: Tally,
    /// Directories that were there already and stayed as they were.
    pub(crate) kept: u64,
    /// Entries that the backup does not hold whole.
    pub(crate) lost: u64,
    /// Entries that could not be written.
    pub(crate) failed: u64,
    /// Keys whose attributes came back otherwise than wanted, with the names of those attributes.
    pub(crate) differing: Vec<String>,
    pub(crate) n_differing: u64,
    error: Option<Error>,
}

/// A link or directory that waits for its turn; attributes as JSON, which is smaller.
struct Later {
    key: String,
    attributes: String,
}

struct Going {
    key: String,
    kind: &'static str,
    size: u64,
    attributes: Vec<(String, String)>,
    writing: Writing,
}

/// Writes everything that the order names. What was done is returned whatever happens; the first
/// error is in [`Written::result`].
pub(crate) fn write_all(order: &Order<'_>) -> Written {
    let mut writer = Writer { order, written: Written::default(), going: VecDeque::new() };
    let done = writer.run();
    writer.drain(0);
    if let Err(error) = done {
        writer.written.error.get_or_insert(error);
    }
    writer.written
}

impl Written {
    /// The first error.
    pub(crate) fn result(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }
}

struct Writer<'a> {
    order: &'a Order<'a>,
    written: Written,
    going: VecDeque<Going>,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<()> {
        let order = self.order;
        let mut links = Vec::new();
        let mut dirs = Vec::new();
        // Directories above what was chosen are written too, or it would lie in nameless ones.
        let mut needed: HashSet<String> = HashSet::new();
        for entry in storage::open_archive(ARCHIVE)? {
            let (entry, body) = entry?;
            let chosen = order.selection.holds(&entry.path);
            let kind = entry.attribute("type").map(str::to_owned);
            let kind = kind.as_deref();
            if chosen && !order.selection.is_everything() {
                needed.extend(above(&entry.path).map(str::to_owned));
            }
            if kind == Some("dir") || (chosen && kind == Some("symlink")) {
                let key = order.mapping.key(&entry.path)?;
                let later = (entry.path, chosen, Later { key, attributes: serde_json::to_string(&entry.attributes)? });
                let waiting = if kind == Some("dir") { &mut dirs } else { &mut links };
                waiting.push(later);
                continue;
            }
            if !chosen {
                continue;
            }
            if order.lost.contains(entry.path.as_str()) {
                self.written.lost += 1;
                Step::skipped("write", &entry.path).note("the backup does not hold it whole").report();
                continue;
            }
            let key = order.mapping.key(&entry.path)?;
            self.start(key, "file", entry.size, entry.attributes, body)?;
        }
        for (_, _, link) in links {
            self.start_later(link, "symlink")?;
        }
        self.drain(0);
        self.stop_if_failed()?;
        for (path, chosen, dir) in dirs.into_iter().rev() {
            if chosen || needed.contains(&path) {
                // One after another: each must come after all beneath it.
                self.start_later(dir, "dir")?;
                self.drain(0);
            }
        }
        self.stop_if_failed()
    }

    fn start_later(&mut self, later: Later, kind: &'static str) -> Result<()> {
        let (sink, source) = bytes::pipe()?;
        sink.finish()?;
        self.start(later.key, kind, 0, serde_json::from_str(&later.attributes)?, source)
    }

    fn start(
        &mut self,
        key: String,
        kind: &'static str,
        size: u64,
        attributes: Vec<(String, String)>,
        body: Source,
    ) -> Result<()> {
        match self.order.bucket.write(&key, &attributes, body, self.order.existing) {
            Ok(writing) => self.going.push_back(Going { key, kind, size, attributes, writing }),
            Err(error) => self.failed(&key, kind, error),
        }
        self.drain(IN_FLIGHT - 1);
        self.stop_if_failed()
    }

    /// Waits until at most `left` writes are under way.
    fn drain(&mut self, left: usize) {
        while self.going.len() > left {
            let Some(going) = self.going.pop_front() else { return };
            match going.writing.wait() {
                Ok(_) => self.written(&going),
                Err(error) => self.failed(&going.key, going.kind, error),
            }
        }
    }

    fn written(&mut self, going: &Going) {
        self.written.tally.count(Some(going.kind), going.size);
        let entries = self.written.tally.entries();
        if entries.is_multiple_of(1_000) {
            run::progress("entries", entries, None);
        }
        match self.order.bucket.attributes(&going.key, None) {
            Ok(got) => {
                let names = differing(&going.attributes, &got);
                if !names.is_empty() {
                    self.differs(format!("{} ({})", going.key, names.join(", ")));
                }
            }
            Err(error) => self.differs(format!("{} ({error})", going.key)),
        }
    }

    fn differs(&mut self, what: String) {
        self.written.n_differing += 1;
        if self.written.differing.len() < NAMED {
            self.written.differing.push(what);
        }
    }

    fn failed(&mut self, key: &str, kind: &str, error: Error) {
        if kind == "dir" && matches!(error, Error::Conflict(_)) && self.order.existing == Existing::Keep {
            self.written.kept += 1;
            return;
        }
        self.written.failed += 1;
        if self.written.failed <= NAMED as u64 {
            let next = match &error {
                Error::Conflict(_) => "what is there was left as it is; restore elsewhere, or with overwrite = true",
                Error::Denied(_) => {
                    "nothing is there under this name from this restore; give the host the permission, then restore again with overwrite = true"
                }
                _ => "nothing is there under this name from this restore; what was written before stays",
            };
            Step::failed(format!("write {kind}"), key).note(format!("{error}; {next}")).report();
        }
        self.written.error.get_or_insert(error);
    }

    fn stop_if_failed(&self) -> Result<()> {
        if self.order.keep_going { Ok(()) } else { self.written.result() }
    }
}

/// Names of the wanted attributes that are not what they should be. Holes are not compared: how a
/// file system keeps zeros is its own affair.
pub(crate) fn differing<'a>(wanted: &'a [(String, String)], got: &[(String, String)]) -> Vec<&'a str> {
    wanted.iter().filter(|pair| pair.0 != "sparse" && !got.contains(pair)).map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_attributes_that_are_missing_or_other_are_named() {
        let pairs =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let wanted = pairs(&[("type", "file"), ("uid", "7"), ("mode", "0644"), ("sparse", "true")]);
        let got = pairs(&[("type", "file"), ("uid", "0"), ("mtime-ns", "1")]);
        assert_eq!(differing(&wanted, &got), ["uid", "mode"]);
        assert_eq!(differing(&got, &got), [""; 0]);
    }
}
