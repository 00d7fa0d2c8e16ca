//! Files in a granted bucket, several under way at once, and the list of them, by which a later export
//! knows what of an earlier one is no longer meant.

use crate::settings::Options;
use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use strongroom_plugin::bytes::Sink;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::{Bucket, Existing, Writing};

/// The list of the files of an export.
const INDEX: &str = "strongroom-export.txt";
/// The longest list that is read: a million files.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// Writes under way at once; the host has a limit of its own.
const IN_FLIGHT: usize = 8;

/// Files that are being written.
pub(super) struct Files {
    bucket: Option<Bucket>,
    prefix: String,
    under_way: VecDeque<Writing>,
    written: BTreeSet<String>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) written: usize,
    pub(super) removed: usize,
}

impl Files {
    /// Opens the bucket of the options; a plan writes nothing.
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
        let bucket = if plan_only { None } else { Some(storage::open_bucket(label)?) };
        Ok(Self { bucket, prefix: options.to_prefix.clone(), under_way: VecDeque::new(), written: BTreeSet::new() })
    }

    /// Writes a file, over one that is there.
    pub(super) fn write(&mut self, path: &str, body: &[u8]) -> Result<()> {
        let mut stream = self.stream(path)?;
        stream.write_all(body)?;
        stream.finish()
    }

    /// A file that is written bit by bit.
    pub(super) fn stream(&mut self, path: &str) -> Result<Stream> {
        self.written.insert(path.to_owned());
        let Some(bucket) = &self.bucket else { return Ok(Stream(None)) };
        while self.under_way.len() >= IN_FLIGHT
            && let Some(first) = self.under_way.pop_front()
        {
            first.wait()?;
        }
        let (sink, source) = bytes::pipe()?;
        let mode = [("mode".to_owned(), "0644".to_owned())];
        self.under_way.push_back(bucket.write(&format!("{}{path}", self.prefix), &mode, source, Existing::Replace)?);
        Ok(Stream(Some(sink)))
    }

    /// Waits for every file, removes those of an earlier export that were not written again, and writes
    /// the list anew.
    pub(super) fn finish(mut self) -> Result<Done> {
        let earlier = self.earlier()?;
        let list: String = self.written.iter().map(|path| format!("{path}\n")).collect();
        let (mut removed, written) = (0, self.written.len());
        let stale: Vec<String> = earlier.difference(&self.written).cloned().collect();
        self.write(INDEX, list.as_bytes())?;
        while let Some(first) = self.under_way.pop_front() {
            first.wait()?;
        }
        for path in stale {
            let Some(bucket) = &self.bucket else { break };
            match bucket.delete(&format!("{}{path}", self.prefix), None) {
                Ok(()) => removed += 1,
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Done { written, removed })
    }

    /// What an earlier export wrote; nothing where there was none.
    fn earlier(&self) -> Result<BTreeSet<String>> {
        let Some(bucket) = &self.bucket else { return Ok(BTreeSet::new()) };
        let key = format!("{}{INDEX}", self.prefix);
        let mut text = String::new();
        match bucket.attributes(&key, None).and_then(|_| bucket.read(&key, None)) {
            Ok(source) => drop(source.take(MAX_INDEX_BYTES).read_to_string(&mut text)?),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(parse(&text))
    }
}

/// Paths of an index. One that leads elsewhere was not written by an export, and is not touched.
fn parse(text: &str) -> BTreeSet<String> {
    let ours = |path: &&str| {
        !path.is_empty()
            && !path.starts_with('/')
            && !path.split('/').any(|part| part == ".." || part == "." || part.is_empty())
    };
    text.lines().filter(ours).map(str::to_owned).collect()
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
        let list = parse("base/a.yaml\n\n/etc/passwd\n../x\nbase/../../x\nargocd/prod.yaml\n");
        assert_eq!(list.into_iter().collect::<Vec<_>>(), ["argocd/prod.yaml", "base/a.yaml"]);
    }
}
