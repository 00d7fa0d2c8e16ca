//! Files in a granted bucket, several under way at once, and the list of them, by which a later export
//! knows what of an earlier one is no longer meant. Nothing that no export wrote is overwritten or removed.

use crate::settings::Options;
use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use strongroom_plugin::bytes::Sink;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, Existing, Writing};

/// The list of the files of an export.
const INDEX: &str = "strongroom-export.txt";
/// How the list begins while an export is under way. One that was interrupted leaves it so, with what the
/// export before it wrote; which files it wrote itself nobody knows then.
const UNFINISHED: &str = "# unfinished: an export is under way, or was interrupted";
/// The longest list that is read: a million files.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// Writes under way at once; the host has a limit of its own.
const IN_FLIGHT: usize = 8;

/// Files that are being written.
pub(super) struct Files {
    bucket: Option<Bucket>,
    prefix: String,
    earlier: Earlier,
    under_way: VecDeque<(String, Writing)>,
    written: BTreeSet<String>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) written: usize,
    pub(super) removed: usize,
}

impl Files {
    /// Opens the bucket of the options, and says in it that an export is under way; a plan writes nothing.
    ///
    /// Errors: `Invalid` for a place that holds something and no export.
    pub(super) fn open(options: &Options, plan_only: bool) -> Result<Self> {
        let Some(label) = options.to_bucket.as_deref() else {
            return Err(Error::invalid("options.to_bucket: name the bucket that the files are written into"));
        };
        if !options.to_prefix.is_empty() && !options.to_prefix.ends_with('/') {
            return Err(Error::invalid(format!(
                "options.to_prefix: {:?} does not end with a slash",
                options.to_prefix
            )));
        }
        let mut files = Self {
            bucket: None,
            prefix: options.to_prefix.clone(),
            earlier: Earlier::default(),
            under_way: VecDeque::new(),
            written: BTreeSet::new(),
        };
        if !plan_only {
            let bucket = storage::open_bucket(label)?;
            files.earlier = match files.read_index(&bucket)? {
                Some(earlier) => earlier,
                None => {
                    files.check_empty(&bucket)?;
                    Earlier::default()
                }
            };
            files.bucket = Some(bucket);
            let begun = format!("{UNFINISHED}\n{}", lines(&files.earlier.paths));
            files.put(INDEX, begun.as_bytes(), Existing::Replace)?;
            files.wait()?;
        }
        Ok(files)
    }

    /// What an earlier export wrote; none where there was none.
    fn read_index(&self, bucket: &Bucket) -> Result<Option<Earlier>> {
        let key = format!("{}{INDEX}", self.prefix);
        let mut text = String::new();
        match bucket.attributes(&key, None).and_then(|_| bucket.read(&key, None)) {
            Ok(source) => drop(source.take(MAX_INDEX_BYTES).read_to_string(&mut text)?),
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(Earlier::parse(&text)))
    }

    /// Whether nothing lies where an export is to begin. What begins with a dot is no content of a
    /// repository: `.git`, `.github`.
    fn check_empty(&self, bucket: &Bucket) -> Result<()> {
        for object in bucket.objects(&self.prefix) {
            let key = object?.key;
            let within = key.strip_prefix(self.prefix.as_str()).unwrap_or(&key);
            if !within.starts_with('.') {
                return Err(Error::invalid(format!(
                    "the place holds {within:?} and is no earlier export: name an empty directory, or one that \
                     begins empty within a repository"
                )));
            }
        }
        Ok(())
    }

    /// Writes a file of the export.
    ///
    /// Errors: `Conflict` for one that is there and that no export wrote, `Invalid` for one that was written
    /// already.
    pub(super) fn write(&mut self, path: &str, body: &[u8]) -> Result<()> {
        let existing = self.claim(path)?;
        self.put(path, body, existing)
    }

    /// A file that is written bit by bit.
    pub(super) fn stream(&mut self, path: &str) -> Result<Stream> {
        let existing = self.claim(path)?;
        self.begin(path, existing)
    }

    /// Whether a file that is there may be replaced: where an export wrote it.
    fn claim(&mut self, path: &str) -> Result<Existing> {
        if !self.written.insert(path.to_owned()) {
            return Err(Error::invalid(format!(
                "two objects have the file {path}: map_namespaces or to_clusters bring them together"
            )));
        }
        Ok(if self.earlier.wrote(path) { Existing::Replace } else { Existing::Keep })
    }

    fn put(&mut self, path: &str, body: &[u8], existing: Existing) -> Result<()> {
        let mut stream = self.begin(path, existing)?;
        let written = stream.write_all(body).map_err(Error::from).and_then(|()| stream.finish());
        match (written, self.under_way.pop_back()) {
            // Who takes the bytes knows why it does not.
            (Err(error), Some((_, last))) => Err(explained(last.wait().err().unwrap_or(error), path)),
            (written, last) => {
                self.under_way.extend(last);
                written
            }
        }
    }

    fn begin(&mut self, path: &str, existing: Existing) -> Result<Stream> {
        let Some(bucket) = &self.bucket else { return Ok(Stream(None)) };
        while self.under_way.len() >= IN_FLIGHT
            && let Some((path, first)) = self.under_way.pop_front()
        {
            first.wait().map_err(|error| explained(error, &path))?;
        }
        let (sink, source) = bytes::pipe()?;
        let mode = [("mode".to_owned(), "0644".to_owned())];
        let writing = bucket.write(&format!("{}{path}", self.prefix), &mode, source, existing)?;
        self.under_way.push_back((path.to_owned(), writing));
        Ok(Stream(Some(sink)))
    }

    fn wait(&mut self) -> Result<()> {
        while let Some((path, first)) = self.under_way.pop_front() {
            first.wait().map_err(|error| explained(error, &path))?;
        }
        Ok(())
    }

    /// Waits for every file, removes those of an earlier export that were not written again, and writes
    /// the list anew.
    pub(super) fn finish(mut self) -> Result<Done> {
        self.wait()?;
        let mut removed = 0;
        for path in self.earlier.paths.difference(&self.written) {
            let Some(bucket) = &self.bucket else { break };
            match bucket.delete(&format!("{}{path}", self.prefix), None) {
                Ok(()) => removed += 1,
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.put(INDEX, lines(&self.written).as_bytes(), Existing::Replace)?;
        self.wait()?;
        Ok(Done { written: self.written.len(), removed })
    }
}

fn lines(paths: &BTreeSet<String>) -> String {
    paths.iter().map(|path| format!("{path}\n")).collect()
}

/// Why a file was not written.
fn explained(error: Error, path: &str) -> Error {
    match error {
        Error::Conflict(_) => {
            Error::conflict(format!("the file {path} is there already, and no export wrote it: move it out of the way"))
        }
        other => other.context(path),
    }
}

/// What an earlier export wrote.
#[derive(Debug, Default, PartialEq, Eq)]
struct Earlier {
    paths: BTreeSet<String>,
    /// It was interrupted, and may have written any file.
    is_unfinished: bool,
}

impl Earlier {
    /// Paths of an index. One that leads elsewhere was not written by an export, and is not touched.
    fn parse(text: &str) -> Self {
        let ours = |path: &&str| {
            !path.is_empty()
                && !path.starts_with(['/', '#'])
                && *path != INDEX
                && !path.split('/').any(|part| part == ".." || part == "." || part.is_empty())
        };
        Self {
            paths: text.lines().filter(ours).map(str::to_owned).collect(),
            is_unfinished: text.starts_with(UNFINISHED),
        }
    }

    fn wrote(&self, path: &str) -> bool {
        self.is_unfinished || self.paths.contains(path)
    }
}

/// A file on its way; none in a plan.
pub(super) struct Stream(Option<Sink>);

impl Stream {
    /// Ends it well.
    pub(super) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Sink::finish)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match &mut self.0 {
            Some(sink) => sink.write(buf),
            None => Ok(buf.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_beneath_the_export_are_taken_from_its_list() {
        let list =
            Earlier::parse("base/a.yaml\n\n/etc/passwd\n../x\nbase/../../x\nstrongroom-export.txt\nargocd/prod.yaml\n");
        assert_eq!(list.paths.iter().collect::<Vec<_>>(), ["argocd/prod.yaml", "base/a.yaml"]);
        assert!(list.wrote("base/a.yaml") && !list.wrote("base/b.yaml"));
    }

    #[test]
    fn one_that_was_interrupted_may_have_written_anything() {
        let list = Earlier::parse(&format!("{UNFINISHED}\nbase/a.yaml\n"));
        assert_eq!(list.paths.iter().collect::<Vec<_>>(), ["base/a.yaml"]);
        assert!(list.wrote("base/b.yaml"));
    }

    #[test]
    fn a_file_that_nobody_exported_is_named() {
        let said = explained(Error::conflict("it exists"), "base/a.yaml").to_string();
        assert!(said.contains("base/a.yaml") && said.contains("no export wrote it"), "{said}");
        assert!(explained(Error::failed("full"), "x").to_string().contains("x: full"));
    }
}
