//! The lease of a job: two runs of one job do not overlap.
//!
//! No integrity depends on it: ids are random and records are written only if absent, so two runs
//! that overlap make two whole backups. A local store is leased by a file lock, which the kernel
//! releases when the process ends in whatever way. Any other store holds `lease.json`: created
//! only if absent, renewed and released only over the object that was seen, never deleted. It is
//! taken over only after its counter stood still for a whole duration on the taker's own monotonic
//! clock, so no two clocks are ever compared.
//!
//! Where the store keeps versions, whoever writes the lease removes the version that it replaced: else a
//! run of an hour would leave 180 of them for ever.
//!
//! A store that does not keep the condition of a replacement (it ignores `If-Match`, or does not
//! know it) is found out by asking for one that must be refused, in every run. Then only runs on
//! this machine are kept apart, by a file lock, and every run warns.

mod pace;

pub use pace::{Monotonic, Pace};

use super::layout;
use crate::error::{Error, IoContext, Kind, Result};
use crate::failpoint::{self, Breakage, Point};
use crate::footprint;
use crate::id::{BackupId, Label, ObjectKey};
use crate::store::{Condition, ObjectInfo, Store};
use bytes::Bytes;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a counter must stand still before a lease is taken over; renewed every third of it.
pub const DURATION: Duration = Duration::from_secs(60);

/// An entity tag that no object has: a replacement of it must be refused.
const NOBODYS_TAG: &str = "\"00000000000000000000000000000000\"";

/// Longest `lease.json` that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Held,
    Free,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseFile {
    state: State,
    holder: String,
    run: BackupId,
    counter: u64,
    duration_ms: u64,
}

/// Who asks for a lease, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The job.
    pub job: Label,
    /// The run's id.
    pub run: BackupId,
    /// Machine and process, for the message that another run gets.
    pub holder: String,
    /// See [`DURATION`].
    pub duration: Duration,
    /// Directory for file locks of jobs whose store cannot hold a lease.
    pub lock_dir: PathBuf,
    /// The clock that stands between two readings of a counter.
    pub pace: Arc<dyn Pace>,
}

/// A lease that is held. [`Lease::release`] gives it back; dropping it stops renewing it, and
/// others take it over once it has stood still.
#[derive(Debug)]
pub struct Lease {
    kind: Held,
    /// What the operator should know, such as that only this machine is kept out.
    pub warning: Option<String>,
    /// The run that it was taken over from, which may be at work still without knowing that it was.
    pub taken_from: Option<BackupId>,
}

/// How a lease in the store was had.
struct Taken {
    mine: LeaseFile,
    seen: Seen,
    from: Option<BackupId>,
}

/// The object that is replaced next.
#[derive(Clone, Debug)]
struct Seen {
    etag: String,
    /// The store's name for this version of it, where it keeps any.
    version: Option<String>,
}

impl Seen {
    /// Errors: `Invalid` of a store that gives objects no entity tags.
    fn of(info: ObjectInfo) -> Result<Self> {
        let no_tags = || Error::invalid("the store gives objects no entity tags");
        Ok(Self { etag: info.etag.ok_or_else(no_tags)?, version: info.version })
    }

    fn unchanged(&self) -> Condition {
        Condition::Unchanged(self.etag.clone())
    }
}

#[derive(Debug)]
enum Held {
    File { _lock: std::fs::File },
    Object { renewing: tokio::task::JoinHandle<Result<()>>, stop: CancellationToken, watch: Watch },
}

/// Who asks when the lease in the store was renewed last.
#[derive(Debug)]
struct Watch {
    renewals: watch::Receiver<Renewals>,
    pace: Arc<dyn Pace>,
    duration: Duration,
}

/// When the requests were sent of the last renewal that succeeded, and of the last one that did not.
#[derive(Clone, Copy, Debug)]
struct Renewals {
    succeeded: Duration,
    failed: Option<Duration>,
}

impl Lease {
    /// Takes the lease of a job. `lost` is cancelled when somebody else takes it over meanwhile.
    ///
    /// Errors: `Conflict` when another run is at work; `Cancelled`.
    pub async fn take(store: &Arc<dyn Store>, request: Request, lost: &CancellationToken) -> Result<Self> {
        if let Some(root) = store.local_root() {
            // Beside the temporary files, which no listing shows.
            let path = root.join(crate::store::local::TEMPORARY).join(format!("lease-{}", request.job));
            return Ok(Self { kind: lock_file(&path, &request.job)?, warning: None, taken_from: None });
        }
        match acquire(store, &request, lost).await {
            Ok(Taken { mine, seen, from }) => {
                let stop = CancellationToken::new();
                let (told, renewals) = watch::channel(Renewals { succeeded: request.pace.now(), failed: None });
                let watch = Watch { renewals, pace: request.pace.clone(), duration: request.duration };
                let ends = Ends { stop: stop.clone(), lost: lost.clone(), told };
                let renewing = tokio::spawn(renew(store.clone(), request, mine, seen, ends));
                Ok(Self { kind: Held::Object { renewing, stop, watch }, warning: None, taken_from: from })
            }
            Err(error) if error.kind() == Kind::Invalid => {
                let path = request.lock_dir.join(format!("{}.lock", request.job));
                let warning = format!(
                    "{} cannot hold a lease ({error}): only runs on this machine are kept from overlapping",
                    store.describe()
                );
                // Nobody could take it over by its counter: the next run would wait for nothing.
                if let Err(error) = remove_lease(store, &request.job).await {
                    tracing::debug!(job = %request.job, %error, "could not remove a lease that nobody can hold");
                }
                Ok(Self { kind: lock_file(&path, &request.job)?, warning: Some(warning), taken_from: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether nobody else can have the lease at this moment. At once while it was renewed lately; else the next
    /// renewal is waited for, and says. A process that was stopped and a machine that slept learn here what
    /// happened meanwhile, before they do what must not overlap.
    pub async fn stands(&self, lost: &CancellationToken) -> bool {
        let Held::Object { watch: Watch { renewals, pace, duration }, .. } = &self.kind else { return true };
        let (mut renewals, asked) = (renewals.clone(), pace.now());
        // Renewed every third: what is older than two of them is late.
        if asked.saturating_sub(renewals.borrow().succeeded) < *duration * 2 / 3 {
            return !lost.is_cancelled();
        }
        // One that was sent before the question may have been under way all the time.
        let says = |seen: &Renewals| seen.succeeded >= asked || seen.failed.is_some_and(|sent| sent >= asked);
        tokio::select! {
            biased;
            () = lost.cancelled() => false,
            seen = renewals.wait_for(says) => seen.is_ok_and(|seen| seen.succeeded >= asked),
        }
    }

    /// Gives the lease back. An error means that others will have to wait until it has stood still.
    pub async fn release(mut self) -> Result<()> {
        match &mut self.kind {
            Held::File { .. } => Ok(()),
            Held::Object { renewing, stop, .. } => {
                stop.cancel();
                renewing.await.map_err(|e| Error::failed("the task that renews the lease ended badly").because(e))?
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::Object { renewing, .. } = &self.kind {
            renewing.abort();
        }
    }
}

/// Removes `lease.json` with every version of it: over a delete marker not every server stores again.
async fn remove_lease(store: &Arc<dyn Store>, job: &Label) -> Result<()> {
    let key = layout::lease(job)?;
    for version in store.versions(key.as_str()).await?.iter().filter(|version| version.key == key.as_str()) {
        store.delete(&key, version.id.as_deref()).await?;
    }
    Ok(())
}

fn lock_file(path: &Path, job: &Label) -> Result<Held> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing(|| format!("make \"{}\"", folder.display()))?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .doing(|| format!("open the lock of job \"{job}\" at \"{}\"", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Held::File { _lock: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(busy(job).fact("lock", path.display().to_string())),
        Err(errno) => Err(errno).doing(|| format!("lock \"{}\"", path.display())),
    }
}

fn busy(job: &Label) -> Error {
    Error::conflict(format!("another run of job \"{job}\" is at work"))
        .hint("wait until it has ended, then run this again")
}

/// The run that holds the lease of a job by what `lease.json` says, without taking it. `None` when
/// it is free or there is none, and for a local store, whose locks end with their run.
pub async fn held_by(store: &Arc<dyn Store>, job: &Label) -> Result<Option<BackupId>> {
    if store.local_root().is_some() {
        return Ok(None);
    }
    match store.get(&layout::lease(job)?, MAX_BYTES).await {
        Ok((bytes, _)) => Ok(read(&bytes).filter(|lease| lease.state == State::Held).map(|lease| lease.run)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(bytes: &[u8]) -> Option<LeaseFile> {
    serde_json::from_slice(bytes).ok()
}

async fn acquire(store: &Arc<dyn Store>, request: &Request, cancel: &CancellationToken) -> Result<Taken> {
    let key = layout::lease(&request.job)?;
    let mut mine = LeaseFile {
        state: State::Held,
        holder: request.holder.clone(),
        run: request.run.clone(),
        counter: 1,
        duration_ms: u64::try_from(request.duration.as_millis()).unwrap_or(u64::MAX),
    };
    match store.put(&key, encode(&mine)?, Condition::Absent).await {
        Ok(info) => {
            let seen = Seen::of(info)?;
            refuses_others(store, request, &mine, Condition::Unchanged(NOBODYS_TAG.to_owned())).await?;
            return Ok(Taken { mine, seen, from: None });
        }
        Err(error) if error.kind() == Kind::Conflict => bring_back(store, &key).await?,
        Err(error) => return Err(error.while_doing(format!("could not take the lease of job \"{}\"", request.job))),
    }
    let mut watched: Option<(Bytes, Duration)> = None;
    loop {
        let (bytes, info) = store.get(&key, MAX_BYTES).await?;
        let stale = Seen::of(info)?;
        let seen = read(&bytes);
        let free = seen.as_ref().is_some_and(|lease| lease.state == State::Free);
        let patience = seen.as_ref().map_or(request.duration, |lease| {
            Duration::from_millis(lease.duration_ms).clamp(Duration::from_millis(200), Duration::from_secs(600))
        });
        let stood_still = match &watched {
            Some((before, since)) if *before == bytes => request.pace.now().saturating_sub(*since) >= patience,
            // Given back while it was watched.
            Some(_) if free => false,
            Some(_) => {
                let holder =
                    seen.map_or_else(|| "unknown".to_owned(), |lease| format!("{} (run {})", lease.holder, lease.run));
                return Err(busy(&request.job).fact("holder", holder));
            }
            None => {
                watched = Some((bytes.clone(), request.pace.now()));
                false
            }
        };
        if stood_still && failpoint::is_broken(Breakage::NeverTakeOver) {
            return Err(busy(&request.job));
        }
        if free || stood_still {
            mine.counter = seen.as_ref().map_or(0, |lease| lease.counter).wrapping_add(1);
            let taken = match store.put(&key, encode(&mine)?, stale.unchanged()).await {
                Ok(info) => Seen::of(info)?,
                Err(error) if error.kind() == Kind::Conflict => return Err(busy(&request.job).because(error)),
                Err(error) => return Err(not_kept(error)),
            };
            refuses_others(store, request, &mine, stale.unchanged()).await?;
            forget(store, &key, &stale, &taken).await;
            return Ok(Taken { mine, seen: taken, from: seen.filter(|_| !free).map(|lease| lease.run) });
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Error::cancelled("cancelled while waiting for the job's lease")),
            () = request.pace.wait(patience / 8) => {}
        }
    }
}

/// Undoes the deletion of a lease's name under versioning: some servers take a deleted name for one that
/// is there, so that it could be neither made nor replaced.
async fn bring_back(store: &Arc<dyn Store>, key: &ObjectKey) -> Result<()> {
    if !store.head(key).await.is_err_and(|error| error.kind() == Kind::NotFound) {
        return Ok(());
    }
    for version in store.versions(key.as_str()).await? {
        if version.key == key.as_str() && version.is_marker {
            tracing::warn!(%key, "somebody deleted the name of the lease; it is brought back");
            store.delete(key, version.id.as_deref()).await?;
        }
    }
    Ok(())
}

/// Asks for a replacement that must be refused, since what it would replace is not there.
///
/// Errors: `Invalid` when it is not refused, or the store does not know the condition.
async fn refuses_others(store: &Arc<dyn Store>, request: &Request, mine: &LeaseFile, stale: Condition) -> Result<()> {
    let other = LeaseFile { counter: mine.counter.wrapping_add(1), ..mine.clone() };
    match store.put(&layout::lease(&request.job)?, encode(&other)?, stale).await {
        Err(error) if error.kind() == Kind::Conflict => Ok(()),
        Ok(_) => Err(Error::invalid("it replaces an object although it is asked not to")),
        Err(error) => Err(not_kept(error)),
    }
}

/// An answer to a conditional replacement that is neither yes nor no: the store does not know the condition.
fn not_kept(error: Error) -> Error {
    match error.kind() {
        Kind::Failed | Kind::NotFound => {
            Error::invalid("it does not know how to replace an object only if it is unchanged").because(error)
        }
        _ => error,
    }
}

/// Removes the version that was replaced, where the store keeps versions. Nobody reads it again; one that
/// may not be removed stays.
async fn forget(store: &Arc<dyn Store>, key: &ObjectKey, replaced: &Seen, by: &Seen) {
    // Where versions are suspended the new object has the name of the old one, and is it.
    let Some(version) = replaced.version.as_deref().filter(|version| by.version.as_deref() != Some(*version)) else {
        return;
    };
    if let Err(error) = store.delete(key, Some(version)).await {
        tracing::debug!(%key, version, %error, "could not remove a version of the lease that was replaced");
    }
}

/// How a renewal is told to end, and what it tells.
struct Ends {
    /// Cancelled by whoever gives the lease back.
    stop: CancellationToken,
    /// Cancelled here when somebody else has it.
    lost: CancellationToken,
    /// How renewals went.
    told: watch::Sender<Renewals>,
}

async fn renew(
    store: Arc<dyn Store>,
    request: Request,
    mut lease: LeaseFile,
    mut seen: Seen,
    Ends { stop, lost, told }: Ends,
) -> Result<()> {
    let key = layout::lease(&request.job)?;
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = request.pace.wait(request.duration / 3) => false,
        };
        if is_last {
            lease.state = State::Free;
        }
        lease.counter = lease.counter.wrapping_add(1);
        let sent = request.pace.now();
        match footprint::seldom(store.put(&key, encode(&lease)?, seen.unchanged())).await {
            Ok(info) => {
                let written = Seen::of(info)?;
                forget(&store, &key, &seen, &written).await;
                seen = written;
                told.send_modify(|seen| seen.succeeded = sent);
                if is_last {
                    return Ok(());
                }
                failpoint::reach(Point::LeaseRenewed);
            }
            Err(error) if error.kind() == Kind::Conflict => {
                // Either the answer to an earlier renewal was lost, or somebody else has it.
                let (bytes, info) = match store.get(&key, MAX_BYTES).await {
                    Ok(there) => there,
                    Err(error) if is_last => return Err(error),
                    Err(error) => {
                        tracing::warn!(job = %request.job, %error, "could not read the lease");
                        continue;
                    }
                };
                match (read(&bytes), Seen::of(info)) {
                    // The same again would be refused again.
                    (_, Ok(there)) if is_last && there.etag == seen.etag => return Err(error),
                    (Some(there), Ok(found)) if there.run == lease.run && there.holder == lease.holder => seen = found,
                    _ => {
                        tracing::error!(job = %request.job, "another run took the lease over: this one stops");
                        lost.cancel();
                        return Err(busy(&request.job)
                            .fact("reason", "the lease was taken over while this run did not renew it"));
                    }
                }
            }
            Err(error) if is_last => return Err(error),
            // The store may be back by the next turn; others wait a whole duration before they take it.
            Err(error) => {
                tracing::warn!(job = %request.job, %error, "could not renew the lease");
                told.send_modify(|seen| seen.failed = Some(sent));
            }
        }
    }
}

fn encode(lease: &LeaseFile) -> Result<Bytes> {
    serde_json::to_vec_pretty(lease)
        .map(Bytes::from)
        .map_err(|e| Error::failed("could not write a lease as JSON").because(e))
}

#[cfg(test)]
mod tests;
