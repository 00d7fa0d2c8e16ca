//! Labelled buckets as data. Their calls block, so each runs on a thread of its own.

use super::super::bytes::{GuestSource, Watch, blocking};
use super::task::{Task, Told};
use super::{GuestWriting, object_for_guest};
use crate::bucket::{ObjectKind, SharedBucket};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::storage;
use crate::plugin::guard::{Deadline, Refusal, lock};
use crate::plugin::ledger::Ledger;
use crate::plugin::state::{State, all_wait_for_guest, for_a_place};
use crate::policy::Call;
use crate::policy::storage::{BucketCall, BucketVerb};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use wasmtime::component::Resource;

/// A bucket in the guest's hands: an opening is a promise of nothing, each call is decided on its own.
pub struct GuestBucket {
    label: String,
    shared: SharedBucket,
    /// Counts what is read of it, its objects' bytes included.
    ledger: Arc<Ledger>,
}

impl GuestBucket {
    pub(super) fn new(label: String, shared: SharedBucket, ledger: Arc<Ledger>) -> Self {
        Self { label, shared, ledger }
    }
}

/// Attributes of files as the file system gave them right after they were written, for the question
/// that mostly follows: going to another thread once more for each of a million small files would
/// cost more than the files. Each is given once, and only the last [`READ_BACK`] are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadBack(Arc<Mutex<VecDeque<ReadBackOf>>>);

/// Label and key of a file, and its attributes.
type ReadBackOf = (String, String, Vec<(String, String)>);

/// More than there are writes under way.
const READ_BACK: usize = 32;

impl ReadBack {
    fn keep(&self, label: String, key: String, attributes: Vec<(String, String)>) {
        let mut kept = lock(&self.0);
        if kept.len() == READ_BACK {
            kept.pop_front();
        }
        kept.push_back((label, key, attributes));
    }

    /// Takes what is kept of a file; also when it is about to change.
    fn take(&self, label: &str, key: &str) -> Option<Vec<(String, String)>> {
        let mut kept = lock(&self.0);
        let at = kept.iter().position(|(of_label, of_key, _)| of_label == label && of_key == key)?;
        kept.remove(at).map(|(_, _, attributes)| attributes)
    }
}

pub(super) fn call<'a>(
    bucket: &'a str,
    verb: Option<BucketVerb>,
    key: Option<&'a str>,
    part: Option<&'a str>,
) -> Call<'a> {
    Call::Bucket(BucketCall { bucket, verb, key, part })
}

/// What is left of attributes that a guest gives without a grant of `owners`: nothing that makes a
/// file another user's, or one that runs as another user, or one that a security module believes.
fn without_owners(attributes: Vec<(String, String)>) -> Vec<(String, String)> {
    /// Set-user-id and set-group-id, also of directories.
    const SET_ID: u32 = 0o6000;
    let kept = |(name, value): (String, String)| match name.as_str() {
        "uid" | "gid" => None,
        "mode" => {
            // What is no mode is left for the bucket to refuse.
            let octal = value.bytes().all(|b| matches!(b, b'0'..=b'7'));
            let mode = u32::from_str_radix(&value, 8).ok().filter(|_| octal);
            Some((name, mode.map_or(value, |mode| format!("{:04o}", mode & !SET_ID))))
        }
        // Names are encoded, but no encoding of another name begins with these letters.
        _ => (!name.starts_with("xattr.") || name.starts_with("xattr.user.")).then_some((name, value)),
    };
    attributes.into_iter().filter_map(kept).collect()
}

impl State {
    fn bucket(&self, this: &Resource<GuestBucket>) -> Result<(String, SharedBucket), Refusal> {
        let bucket = self.table.get(this)?;
        Ok((bucket.label.clone(), Arc::clone(&bucket.shared)))
    }

    fn ledger_of(&self, this: &Resource<GuestBucket>) -> Result<Arc<Ledger>, Refusal> {
        Ok(Arc::clone(&self.table.get(this)?.ledger))
    }
}

impl storage::HostBucket for State {
    async fn objects(
        &mut self,
        this: Resource<GuestBucket>,
        prefix: String,
        after: Option<String>,
    ) -> Result<storage::Page, Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let call = call(&label, Some(BucketVerb::List), Some(&prefix), None);
        let work = async {
            let prefix = prefix.clone();
            let page = blocking(move || bucket.objects(&prefix, after.as_deref())).await??;
            Ok(storage::Page { objects: page.objects.into_iter().map(object_for_guest).collect(), next: page.next })
        };
        let ledger = self.ledger_of(&this)?;
        self.guard.pass_on(&ledger, "storage.bucket.objects", Some(&call), Deadline::Stall, work).await
    }

    async fn attributes(
        &mut self,
        this: Resource<GuestBucket>,
        key: String,
        version: Option<String>,
    ) -> Result<Vec<(String, String)>, Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let call = call(&label, Some(BucketVerb::Read), Some(&key), None);
        let work = async {
            let read_back = if version.is_none() { self.read_back.take(&label, &key) } else { None };
            if let Some(attributes) = read_back {
                return Ok(attributes);
            }
            let key = key.clone();
            Ok(blocking(move || bucket.attributes(&key, version.as_deref())).await??)
        };
        let ledger = self.ledger_of(&this)?;
        self.guard.pass_on(&ledger, "storage.bucket.attributes", Some(&call), Deadline::Stall, work).await
    }

    async fn read(
        &mut self,
        this: Resource<GuestBucket>,
        key: String,
        version: Option<String>,
    ) -> Result<Resource<GuestSource>, Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let (guard, ledger) = (self.guard.clone(), self.ledger_of(&this)?);
        let work = async {
            let (its_label, its_key) = (label.clone(), key.clone());
            // A thread for each of a million small files would cost more than the files.
            let mut source = if bucket.is_open() {
                bucket.read(&its_label, &its_key, version.as_deref())?
            } else {
                blocking(move || bucket.read(&its_label, &its_key, version.as_deref())).await??
            };
            source.inspect = guard.policy().inspects_object(&label, &key);
            self.push_source(source, None, Arc::clone(&ledger))
        };
        let call = call(&label, Some(BucketVerb::Read), Some(&key), None);
        guard.pass_on(&ledger, "storage.bucket.read", Some(&call), Deadline::Stall, work).await
    }

    async fn write(
        &mut self,
        this: Resource<GuestBucket>,
        key: String,
        attributes: Vec<(String, String)>,
        body: Resource<GuestSource>,
        existing: storage::Existing,
    ) -> Result<Resource<GuestWriting>, Refusal> {
        let taken = self.take_source(body)?;
        let (label, bucket) = self.bucket(&this)?;
        let guard = self.guard.clone();
        let overwrite = matches!(existing, storage::Existing::Replace);
        let verb = if overwrite { BucketVerb::Overwrite } else { BucketVerb::Write };
        let call = call(&label, Some(verb), Some(&key), None);
        let work = async {
            let source = taken?.source;
            if all_wait_for_guest(&mut self.writings) && self.write_places.available_permits() == 0 {
                return Err(Error::invalid(
                    "the write would never begin: every one under way waits for a stream that the plugin itself holds",
                )
                .into());
            }
            let permit = self.stream_place()?;
            let place = for_a_place(&guard, &self.writings, Arc::clone(&self.write_places).acquire_owned())
                .await?
                .map_err(|e| Error::cancelled("the run has ended").because(e))?;
            let (watch, stop) = (Watch::default(), self.run.cancel.child_token());
            let waits_for = source.waits_for.clone();
            let (source, key) = (watch.over(source, &stop), key.clone());
            let keeps_owners = self.guard.policy().keeps_owners(&label, &key);
            let attributes = if keeps_owners { attributes } else { without_owners(attributes) };
            let (label, read_back) = (label.clone(), self.read_back.clone());
            read_back.take(&label, &key);
            let told = Told { later: guard.later(), bytes: |object: &crate::bucket::Object| object.size };
            let its_guard = guard.clone();
            let work = move || {
                // Writes that are under way together share a flush of what was written down of them.
                let written = its_guard.flush().and_then(|()| bucket.write(&key, &attributes, source, overwrite));
                if written.as_ref().is_ok_and(|object| object.kind == ObjectKind::File)
                    && let Ok(attributes) = bucket.attributes(&key, None)
                {
                    read_back.keep(label, key, attributes);
                }
                drop(place);
                written
            };
            let task = Task::blocking(work, vec![stop], waits_for, watch, &self.reaper, told);
            self.writings.push(task.underway());
            self.n_unknown_writings += 1;
            Ok(self.table.push(GuestWriting { task, is_known: false, _permit: permit })?)
        };
        // It waits for a place, which others take as long as they make progress.
        guard.pass("storage.bucket.write", Some(&call), Deadline::Own, work).await
    }

    async fn delete(
        &mut self,
        this: Resource<GuestBucket>,
        key: String,
        version: Option<String>,
    ) -> Result<(), Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let verb = if version.is_some() { BucketVerb::DeleteVersion } else { BucketVerb::Delete };
        let call = call(&label, Some(verb), Some(&key), None);
        let work = async {
            self.read_back.take(&label, &key);
            let key = key.clone();
            Ok(blocking(move || bucket.delete(&key, version.as_deref())).await??)
        };
        self.guard.pass("storage.bucket.delete", Some(&call), Deadline::Stall, work).await
    }

    async fn read_config(&mut self, this: Resource<GuestBucket>, part: String) -> Result<Option<String>, Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let call = call(&label, Some(BucketVerb::ReadConfig), None, Some(&part));
        let work = async {
            let part = part.clone();
            Ok(blocking(move || bucket.read_config(&part)).await??)
        };
        let ledger = self.ledger_of(&this)?;
        self.guard.pass_on(&ledger, "storage.bucket.read-config", Some(&call), Deadline::Stall, work).await
    }

    async fn write_config(&mut self, this: Resource<GuestBucket>, part: String, json: String) -> Result<(), Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let call = call(&label, Some(BucketVerb::WriteConfig), None, Some(&part));
        let work = async {
            let part = part.clone();
            Ok(blocking(move || bucket.write_config(&part, &json)).await??)
        };
        self.guard.pass("storage.bucket.write-config", Some(&call), Deadline::Stall, work).await
    }

    async fn drop(&mut self, this: Resource<GuestBucket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn attributes_after_a_write_are_given_once_and_only_the_last_are_kept() {
        let kept = ReadBack::default();
        let mode = pairs(&[("mode", "0644")]);
        for n in 0..=READ_BACK {
            kept.keep("a".to_owned(), n.to_string(), mode.clone());
        }
        assert_eq!(kept.take("a", "0"), None, "it was the oldest");
        assert_eq!(kept.take("b", "1"), None, "another bucket");
        assert_eq!((kept.take("a", "1"), kept.take("a", "1")), (Some(mode), None));
    }

    #[test]
    fn without_owners_nothing_is_left_that_gives_power() {
        let kept = pairs(&[("type", "file"), ("mtime-ns", "-5"), ("xattr.user.note", "a"), ("sparse", "true")]);
        let taken = pairs(&[
            ("uid", "0"),
            ("gid", "0"),
            ("xattr.security.capability", "base64:AQAAAg=="),
            ("xattr.trusted.overlay.opaque", "y"),
            ("xattr.system.posix_acl_access", "x"),
            ("xattr.", "x"),
            ("xattr.user", "x"),
            ("xattr.\u{10ff75}ser.x", "x"),
        ]);
        assert_eq!(without_owners([kept.clone(), taken].concat()), kept);
    }

    #[test]
    fn without_owners_a_mode_loses_its_set_id_bits_only() {
        for (given, left) in [
            ("4755", "0755"),
            ("0002755", "0755"),
            ("7777", "1777"),
            ("1777", "1777"),
            ("0640", "0640"),
            // Not modes: the bucket refuses them.
            ("+4755", "+4755"),
            ("rwxs", "rwxs"),
            ("", ""),
            ("77777777777777", "77777777777777"),
        ] {
            assert_eq!(without_owners(pairs(&[("mode", given)])), pairs(&[("mode", left)]), "{given:?}");
        }
    }
}
