//! A bucket that is opened when it is first used: a job runs although a bucket that it does not use is
//! missing, a restore elsewhere although the source is gone, and a diagnosis can say what is missing.

use super::{Bucket, LocalBucket, Object, ObjectPage};
use crate::error::Result;
use crate::stream::Source;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A directory tree as a bucket, opened by the first call that needs it and then held open.
///
/// Each call until then fails as [`LocalBucket::open`] does, naming the label.
#[derive(Debug)]
pub struct OnDemand {
    label: String,
    path: PathBuf,
    open: OnceLock<LocalBucket>,
}

impl OnDemand {
    /// The bucket `label` at `path`, not opened yet.
    pub fn new(label: String, path: PathBuf) -> Self {
        Self { label, path, open: OnceLock::new() }
    }

    fn get(&self) -> Result<&LocalBucket> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let bucket = LocalBucket::open(&self.path).map_err(|error| {
            error
                .while_doing(format!("could not open bucket \"{}\"", self.label))
                .hint(format!("make the directory, mount it, or correct path in [bucket.{}]", self.label))
        })?;
        // Two threads may both have opened it: one of them wins.
        Ok(self.open.get_or_init(|| bucket))
    }
}

impl Bucket for OnDemand {
    fn describe(&self) -> String {
        format!("local bucket at {:?}", self.path)
    }

    fn objects(&self, prefix: &str, after: Option<&str>) -> Result<ObjectPage> {
        self.get()?.objects(prefix, after)
    }

    fn attributes(&self, key: &str, version: Option<&str>) -> Result<Vec<(String, String)>> {
        self.get()?.attributes(key, version)
    }

    fn is_open(&self) -> bool {
        self.open.get().is_some_and(Bucket::is_open)
    }

    fn read(&self, label: &str, key: &str, version: Option<&str>) -> Result<Source> {
        self.get()?.read(label, key, version)
    }

    fn write(&self, key: &str, attributes: &[(String, String)], body: Source, overwrite: bool) -> Result<Object> {
        self.get()?.write(key, attributes, body, overwrite)
    }

    fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        self.get()?.delete(key, version)
    }

    fn read_config(&self, part: &str) -> Result<Option<String>> {
        self.get()?.read_config(part)
    }

    fn write_config(&self, part: &str, json: &str) -> Result<()> {
        self.get()?.write_config(part, json)
    }

    /// Nothing was written into a bucket that was never opened.
    fn flush(&self) -> Result<()> {
        self.open.get().map_or(Ok(()), Bucket::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_missing_bucket_is_an_error_when_it_is_used_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = OnDemand::new("media".to_owned(), dir.path().join("later"));
        bucket.flush().unwrap();
        let error = bucket.objects("", None).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("\"media\""), "{error}");
        std::fs::create_dir(dir.path().join("later")).unwrap();
        assert_eq!(bucket.objects("", None).unwrap().objects, []);
        bucket.flush().unwrap();
    }
}
