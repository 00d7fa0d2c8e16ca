//! Labelled buckets as data. Their calls block, so each runs on a thread of its own.

use super::super::bytes::{GuestSource, Watch, blocking};
use super::task::Task;
use super::{GuestWriting, object_for_guest};
use crate::bucket::SharedBucket;
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::storage;
use crate::plugin::guard::{Deadline, Refusal};
use crate::plugin::state::{State, Underway, all_wait_for_guest};
use crate::policy::Call;
use crate::policy::storage::{BucketCall, BucketVerb};
use std::sync::Arc;
use wasmtime::component::Resource;

/// A bucket in the guest's hands: an opening is a promise of nothing, each call is decided on its own.
pub struct GuestBucket {
    label: String,
    shared: SharedBucket,
}

impl GuestBucket {
    pub(super) fn new(label: String, shared: SharedBucket) -> Self {
        Self { label, shared }
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

impl State {
    fn bucket(&self, this: &Resource<GuestBucket>) -> Result<(String, SharedBucket), Refusal> {
        let bucket = self.table.get(this)?;
        Ok((bucket.label.clone(), Arc::clone(&bucket.shared)))
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
        self.guard.pass("storage.bucket.objects", Some(&call), Deadline::Stall, work).await
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
            let key = key.clone();
            Ok(blocking(move || bucket.attributes(&key, version.as_deref())).await??)
        };
        self.guard.pass("storage.bucket.attributes", Some(&call), Deadline::Stall, work).await
    }

    async fn read(
        &mut self,
        this: Resource<GuestBucket>,
        key: String,
        version: Option<String>,
    ) -> Result<Resource<GuestSource>, Refusal> {
        let (label, bucket) = self.bucket(&this)?;
        let guard = self.guard.clone();
        let work = async {
            let (its_label, its_key) = (label.clone(), key.clone());
            let mut source = blocking(move || bucket.read(&its_label, &its_key, version.as_deref())).await??;
            source.inspect = guard.policy().inspects_object(&label, &key);
            self.push_source(source, None)
        };
        let call = call(&label, Some(BucketVerb::Read), Some(&key), None);
        guard.pass("storage.bucket.read", Some(&call), Deadline::Stall, work).await
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
            let place = Arc::clone(&self.write_places)
                .acquire_owned()
                .await
                .map_err(|e| Error::cancelled("the run has ended").because(e))?;
            let (watch, stop) = (Watch::default(), self.run.cancel.child_token());
            let waits_for = source.waits_for.clone();
            let (source, key) = (watch.over(source, &stop), key.clone());
            let work = tokio::task::spawn_blocking(move || {
                let written = bucket.write(&key, &attributes, source, overwrite);
                drop(place);
                written
            });
            let task = Task::new(work, vec![stop], waits_for, watch, &self.reaper);
            self.writings.push(Underway { task: task.abort_handle(), waits_for: task.waits_for().to_vec() });
            Ok(self.table.push(GuestWriting { task, _permit: permit })?)
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
        self.guard.pass("storage.bucket.read-config", Some(&call), Deadline::Stall, work).await
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
