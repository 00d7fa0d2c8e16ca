//! `storage`: the run's artifacts, archives, and labelled buckets.
//!
//! The bytes of an artifact pass from source to store on tasks of their own; the guest holds a
//! handle that says when they have arrived. A handle that is dropped takes its artifact with it.

mod archive;
mod bucket;
mod task;

pub use archive::{GuestArchive, GuestArchiveReader};
pub use bucket::GuestBucket;
pub(crate) use bucket::ReadBack;

use super::bytes::{GuestSource, Watch};
use crate::error::{Error, Result};
use crate::id::ArtifactName;
use crate::plugin::bindings::strongroom::plugin::storage;
use crate::plugin::budget::{Limit, Permit};
use crate::plugin::context::PutOptions;
use crate::plugin::guard::{Deadline, Refusal};
use crate::plugin::state::{State, all_wait_for_guest, check_leashes, for_a_place};
use crate::policy::Call;
use crate::policy::storage::{ArtifactCall, ArtifactVerb};
use crate::record::ArtifactRecord;
use task::{Task, Told};
use wasmtime::component::Resource;

/// An artifact on its way, in the guest's hands.
pub struct GuestTransfer {
    task: Task<ArtifactRecord>,
    _permit: Permit,
}

/// An object on its way into a bucket, in the guest's hands.
pub struct GuestWriting {
    task: Task<crate::bucket::Object>,
    /// Whether the guest has learned how it ended.
    is_known: bool,
    _permit: Permit,
}

fn artifact_call(verb: ArtifactVerb, name: &str) -> Call<'_> {
    Call::Artifact(ArtifactCall { verb, name })
}

fn artifact_for_guest(record: &ArtifactRecord) -> storage::Artifact {
    storage::Artifact {
        name: record.name.to_string(),
        size: record.size,
        stored_size: record.stored_bytes(),
        blake3: record.blake3.clone(),
    }
}

fn options_from_guest(options: storage::PutOptions) -> Result<PutOptions> {
    /// Media types are some tens of bytes.
    const MAX_MEDIA_TYPE_BYTES: usize = 255;
    let ok = |text: &String| text.len() <= MAX_MEDIA_TYPE_BYTES && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if options.media_type.as_ref().is_some_and(|text| !ok(text)) {
        return Err(Error::invalid("the media type is not up to 255 characters of ASCII"));
    }
    Ok(PutOptions { media_type: options.media_type, compress: options.compress })
}

/// An object in the guest's terms.
fn object_for_guest(object: crate::bucket::Object) -> storage::Object {
    use crate::bucket::ObjectKind;
    storage::Object {
        key: object.key,
        kind: match object.kind {
            ObjectKind::File => storage::ObjectKind::File,
            ObjectKind::Dir => storage::ObjectKind::Dir,
            ObjectKind::Symlink => storage::ObjectKind::Symlink,
            ObjectKind::Special => storage::ObjectKind::Special,
            ObjectKind::DeleteMarker => storage::ObjectKind::DeleteMarker,
        },
        version: object.version,
        is_latest: object.is_latest,
        size: object.size,
        etag: object.etag,
        last_modified_ms: object.last_modified_ms,
    }
}

impl State {
    /// Counts one more artifact of this backup.
    fn count_artifact(&mut self) -> Result<()> {
        if self.n_artifacts >= self.run.limits.artifacts {
            return Err(self.guard.spent(Limit::Artifacts));
        }
        self.n_artifacts += 1;
        Ok(())
    }

    /// Counts one more entry of an archive of this backup.
    fn count_entry(&mut self) -> Result<()> {
        if self.n_entries >= self.run.limits.archive_entries {
            return Err(self.guard.spent(Limit::ArchiveEntries));
        }
        self.n_entries += 1;
        Ok(())
    }

    /// Whether one more transfer would find a place, now or later, without the guest.
    fn check_transfer_places(&mut self) -> Result<()> {
        if all_wait_for_guest(&mut self.transfers) && self.transfers.len() >= self.run.limits.open_transfers {
            return Err(Error::invalid(
                "the put would never begin: every transfer under way waits for a stream or an archive that the plugin itself holds",
            ));
        }
        Ok(())
    }
}

impl storage::Host for State {
    async fn put(
        &mut self,
        name: String,
        body: Resource<GuestSource>,
        options: storage::PutOptions,
    ) -> Result<Resource<GuestTransfer>, Refusal> {
        let taken = self.take_source(body)?;
        let guard = self.guard.clone();
        let work = async {
            let source = taken?.source;
            let name: ArtifactName = name.parse()?;
            let options = options_from_guest(options)?;
            self.check_transfer_places()?;
            self.count_artifact()?;
            let permit = self.stream_place()?;
            let (watch, stop) = (Watch::default(), self.run.cancel.child_token());
            let mut waits_for = source.waits_for.clone();
            let transfer = self.run.artifacts.put(name, watch.over(source, &stop), options);
            let transfer = for_a_place(&guard, &self.transfers, transfer).await??;
            waits_for.extend(transfer.waits_for);
            let told = Told { later: guard.later(), bytes: |record: &ArtifactRecord| record.size };
            let stops = vec![transfer.cancel, stop];
            let task = Task::new(transfer.done, stops, waits_for, watch, &self.reaper, told);
            self.transfers.push(task.underway());
            Ok(self.table.push(GuestTransfer { task, _permit: permit })?)
        };
        // It waits for a place, which others take as long as they make progress.
        guard.pass("storage.put", Some(&artifact_call(ArtifactVerb::Put, &name)), Deadline::Own, work).await
    }

    async fn first_done(&mut self, transfers: Vec<Resource<GuestTransfer>>) -> Result<u32, Refusal> {
        let guard = self.guard.clone();
        let mut waits = Vec::new();
        // There cannot be more of them than there are places; naming one twice says nothing new.
        let most = self.run.limits.open_streams;
        let too_many = transfers.len() > most;
        for transfer in transfers.iter().take(most) {
            waits.push(self.table.get(transfer)?.task.watcher());
        }
        let work = async {
            if too_many {
                return Err(Error::invalid("first-done of more transfers than can be open at once")
                    .fact("expected", format!("at most {most}, the limit open_streams"))
                    .into());
            }
            if waits.is_empty() {
                return Err(Error::invalid("first-done of no transfer would never end").into());
            }
            if let Some(done) = waits.iter().position(task::Watcher::is_done) {
                return Ok(u32::try_from(done).unwrap_or(u32::MAX));
            }
            if waits.iter().all(|wait| check_leashes(wait.waits_for(), "the wait").is_err()) {
                check_leashes(waits[0].waits_for(), "the wait for the first transfer")?;
            }
            let stall = self.run.limits.stall;
            let all = waits.into_iter().map(|wait| Box::pin(async move { wait.done(stall).await }));
            let (ended, first, _) = futures_util::future::select_all(all).await;
            if !ended {
                return Err(self.guard.stalled().into());
            }
            Ok(u32::try_from(first).unwrap_or(u32::MAX))
        };
        guard.pass("storage.first-done", None, Deadline::Own, work).await
    }

    async fn create_archive(
        &mut self,
        name: String,
        options: storage::PutOptions,
    ) -> Result<Resource<GuestArchive>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let name: ArtifactName = name.parse()?;
            let shown = name.to_string();
            let options = options_from_guest(options)?;
            self.check_transfer_places()?;
            self.count_artifact()?;
            let permit = self.stream_place()?;
            let writer = self.run.artifacts.create_archive(name, options);
            let writer = for_a_place(&guard, &self.transfers, writer).await??;
            let ledger = guard.ledger_always("archive", &shown);
            let archive = GuestArchive::new(writer, self.run.cancel.child_token(), ledger, permit);
            self.transfers.push(archive.underway());
            Ok(self.table.push(archive)?)
        };
        guard.pass("storage.create-archive", Some(&artifact_call(ArtifactVerb::Put, &name)), Deadline::Own, work).await
    }

    async fn finish_archive(&mut self, archive: Resource<GuestArchive>) -> Result<storage::FinishedArchive, Refusal> {
        let archive = self.table.delete(archive)?;
        let guard = self.guard.clone();
        let stall = self.run.limits.stall;
        let ledger = archive.ledger();
        let work = async {
            let (record, failed) = archive.finish(stall, &guard).await?;
            ledger.count_bytes(record.size);
            ledger.outcome("ok".to_owned());
            Ok(storage::FinishedArchive { artifact: artifact_for_guest(&record), failed })
        };
        guard.pass_on(&ledger, "storage.finish-archive", None, Deadline::Own, work).await
    }

    async fn artifacts(&mut self) -> Result<Vec<storage::Artifact>, Refusal> {
        let guard = self.guard.clone();
        let work = async { Ok(self.run.artifacts.list().iter().map(artifact_for_guest).collect()) };
        guard.pass("storage.artifacts", Some(&artifact_call(ArtifactVerb::List, "")), Deadline::Own, work).await
    }

    async fn get(&mut self, name: String) -> Result<Resource<GuestSource>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let parsed: ArtifactName = name.parse()?;
            let mut source = self.run.artifacts.get(&parsed).await?;
            source.inspect = guard.policy().inspects_artifact(&name);
            let ledger = guard.ledger("artifact", parsed.as_str());
            self.push_source(source, None, ledger)
        };
        guard.pass("storage.get", Some(&artifact_call(ArtifactVerb::Get, &name)), Deadline::Stall, work).await
    }

    async fn open_archive(&mut self, name: String) -> Result<Resource<GuestArchiveReader>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let parsed: ArtifactName = name.parse()?;
            let permit = self.stream_place()?;
            let reader = self.run.artifacts.open_archive(&parsed).await?;
            let inspect = guard.policy().inspects_artifact(&name);
            let ledger = guard.ledger("archive-reader", parsed.as_str());
            Ok(self.table.push(GuestArchiveReader::new(reader, inspect, ledger, permit))?)
        };
        guard.pass("storage.open-archive", Some(&artifact_call(ArtifactVerb::Get, &name)), Deadline::Stall, work).await
    }

    async fn open_bucket(&mut self, label: String) -> Result<Resource<GuestBucket>, Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let shared = self.run.buckets.get(&label).ok_or_else(|| {
                Error::not_found(format!("no bucket is named \"{}\"", crate::plugin::speech::line(&label)))
                    .hint(format!("add [bucket.{}] to the configuration", crate::plugin::speech::line(&label)))
            })?;
            let ledger = guard.ledger("bucket", &label);
            Ok(self.table.push(GuestBucket::new(label.clone(), shared.clone(), ledger))?)
        };
        guard.pass("storage.open-bucket", Some(&bucket::call(&label, None, None, None)), Deadline::Own, work).await
    }
}

impl storage::HostTransfer for State {
    async fn wait(&mut self, this: Resource<GuestTransfer>) -> Result<storage::Artifact, Refusal> {
        let guard = self.guard.clone();
        let (stall, transfer) = (self.run.limits.stall, self.table.get_mut(&this)?);
        let work = async {
            check_leashes(transfer.task.waits_for(), "the wait for the transfer")?;
            if !transfer.task.watcher().done(stall).await {
                transfer.task.stop();
                return Err(guard.stalled().into());
            }
            Ok(artifact_for_guest(&transfer.task.outcome()?))
        };
        guard.pass("storage.transfer.wait", None, Deadline::Own, work).await
    }

    async fn drop(&mut self, this: Resource<GuestTransfer>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl storage::HostWriting for State {
    async fn wait(&mut self, this: Resource<GuestWriting>) -> Result<storage::Object, Refusal> {
        let guard = self.guard.clone();
        let (stall, writing) = (self.run.limits.stall, self.table.get_mut(&this)?);
        let n_unknown = &mut self.n_unknown_writings;
        let work = async {
            check_leashes(writing.task.waits_for(), "the wait for the object")?;
            let done = writing.task.watcher().done(stall).await;
            if !std::mem::replace(&mut writing.is_known, true) {
                *n_unknown = n_unknown.saturating_sub(1);
            }
            if !done {
                writing.task.stop();
                return Err(guard.stalled().into());
            }
            Ok(object_for_guest(writing.task.outcome()?))
        };
        guard.pass("storage.writing.wait", None, Deadline::Own, work).await
    }

    async fn drop(&mut self, this: Resource<GuestWriting>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
