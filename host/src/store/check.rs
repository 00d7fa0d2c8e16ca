//! `store check`: asks a store with real requests what it can do, and says what follows from it.
//!
//! Works in a folder of its own under `strongroom-check/` and removes it again. It never touches
//! another object, and decides nothing by what a server says of itself where it can be tried.

use super::{Condition, ObjectInfo, Store, Upload, crc64nvme, len_of};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::unit;
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The folder that the probes work in.
pub const FOLDER: &str = "strongroom-check";

/// The smallest part that S3 takes, unless it is the last one.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Signatures fail at a difference of 15 minutes; one is worth knowing of long before.
const SKEW_WARNED: Duration = Duration::from_secs(60);
/// Requests whose median is the latency.
const N_LATENCY: usize = 5;
/// Writers that race for one name.
const N_RACERS: u8 = 4;

/// Whether a store can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// It was tried and it works.
    Able,
    /// It was tried and it does not.
    Unable,
    /// It could not be tried, or the store does not say.
    Unknown,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name, such as `conditional-put`.
    pub id: &'static str,
    /// What was asked, as a person says it.
    pub title: &'static str,
    /// The answer.
    pub ability: Ability,
    /// What was seen.
    pub evidence: String,
    /// What it means for backups; empty where all is well.
    pub consequence: &'static str,
    /// Whether it rules the store out as a destination.
    pub refuses: bool,
}

/// What the probes found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The store as a person calls it.
    pub store: String,
    /// One for each probe, in the order in which they ran.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether backups may be stored there.
    pub fn is_accepted(&self) -> bool {
        !self.findings.iter().any(|finding| finding.refuses)
    }

    /// The finding with this id.
    pub fn finding(&self, id: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.id == id)
    }

    /// `Denied` with the reasons, when the store cannot be a destination.
    pub fn accept(&self) -> Result<()> {
        let refusing: Vec<_> = self.findings.iter().filter(|finding| finding.refuses).collect();
        let Some(first) = refusing.first() else { return Ok(()) };
        let mut error = Error::denied(format!("{} cannot hold backups: {}", self.store, first.consequence));
        for finding in refusing {
            error = error.fact(finding.id, finding.evidence.clone());
        }
        Err(error.hint("use a server that does this, or go to it directly instead of through a gateway"))
    }
}

/// More versions than the check makes of any object, on a store that keeps no condition.
const MAX_VERSIONS: u32 = 16;

/// What a probe is about, and what follows when the store cannot do it.
#[derive(Clone, Copy)]
struct Probe {
    id: &'static str,
    title: &'static str,
    without: &'static str,
    required: bool,
}

const PUT: Probe = Probe { id: "put", title: "stores an object", without: "nothing can be stored", required: true };
const READ_BACK: Probe = Probe {
    id: "read-back",
    title: "gives the same bytes back",
    without: "what is stored cannot be read again",
    required: true,
};
const RANGE: Probe = Probe {
    id: "range-read",
    title: "reads a part of an object",
    without: "restores and verification need ranges",
    required: true,
};
const LIST: Probe = Probe {
    id: "list",
    title: "lists an object right after it was stored",
    without: "backups would not be found",
    required: true,
};
const CONDITIONAL_PUT: Probe = Probe {
    id: "conditional-put",
    title: "stores only if nothing is there (If-None-Match)",
    without: "it overwrites objects although it is asked not to, so two runs could destroy each other's backup",
    required: true,
};
const MULTIPART: Probe = Probe {
    id: "multipart",
    title: "puts an object together from parts",
    without: "objects larger than one part cannot be stored",
    required: true,
};
const CONDITIONAL_COMPLETE: Probe = Probe {
    id: "conditional-complete",
    title: "completes parts only if nothing is there",
    without: "it overwrites large objects although it is asked not to, so a backup could be replaced",
    required: true,
};
const CONDITIONAL_REPLACE: Probe = Probe {
    id: "conditional-replace",
    title: "replaces an object only if it is unchanged (If-Match)",
    without: "leases are kept by a lock on this machine only: never run one job from two machines; every run warns",
    required: false,
};
const CHECKSUM_KEPT: Probe = Probe {
    id: "checksum-kept",
    title: "keeps the CRC64NVME of an object",
    without: "objects are read back before a backup is recorded, which costs time and traffic",
    required: false,
};
const CHECKSUM_CHECKED: Probe = Probe {
    id: "checksum-checked",
    title: "refuses bytes that do not have their checksum",
    without: "bytes that change on the way are noticed only when they are read back",
    required: false,
};
const ABORT: Probe = Probe {
    id: "abort",
    title: "forgets an upload that is aborted",
    without: "failed runs leave parts behind that cost money",
    required: false,
};
const PENDING: Probe = Probe {
    id: "pending-uploads",
    title: "lists uploads that were never completed",
    without: "what killed runs leave behind cannot be found: set a lifecycle rule on the bucket",
    required: false,
};
const DELETE: Probe =
    Probe { id: "delete", title: "removes objects", without: "retention cannot remove old backups", required: false };
const VERSIONS: Probe = Probe {
    id: "versions",
    title: "keeps versions of objects",
    without: "an object that is overwritten or deleted by somebody else is lost",
    required: false,
};
const OBJECT_LOCK: Probe = Probe {
    id: "object-lock",
    title: "can lock objects",
    without: "whoever has these credentials can delete backups",
    required: false,
};
const LIST_VERSIONS: Probe = Probe {
    id: "list-versions",
    title: "lists the versions of objects",
    without: "a backup whose names were overwritten or deleted is not found although it is locked: allow s3:ListBucketVersions and s3:GetBucketVersioning",
    required: false,
};
const LEASE: Probe = Probe {
    id: "lease",
    title: "lets leases be replaced without a trace",
    without: "its default retention locks leases too, and each of their renewals leaves a version that stays until its lock ends: turn that off, and set object_lock in the store's configuration instead",
    required: false,
};
const CLOCK: Probe = Probe {
    id: "clock",
    title: "agrees with this machine about the time",
    without: "requests may be refused and ages are wrong: set the clocks",
    required: false,
};
const LATENCY: Probe = Probe { id: "latency", title: "answers", without: "", required: false };

/// Runs every probe. An error only when the store cannot be reached or lets nobody in; whatever
/// can be found out is a finding.
pub async fn run(store: &Arc<dyn Store>) -> Result<Report> {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random)
        .map_err(|e| Error::failed("could not get random bytes for a folder name").because(e.to_string()))?;
    let folder = format!("{FOLDER}/{}-{:016x}", clock::millis(clock::now()), u64::from_be_bytes(random));
    let mut check = Check { store: &**store, folder, findings: Vec::new(), began: Vec::new() };
    let probed = check.probe().await;
    let cleaned = check.clean_up().await;
    probed?;
    check.note(
        DELETE,
        match cleaned {
            Ok(n_objects) => Seen::able(format!("removed {n_objects} objects of this check")),
            Err(error) => Seen::unable(&error),
        },
    );
    Ok(Report { store: store.describe(), findings: check.findings })
}

/// What a probe saw.
struct Seen {
    ability: Ability,
    evidence: String,
}

impl Seen {
    fn able(evidence: impl Into<String>) -> Self {
        Self { ability: Ability::Able, evidence: evidence.into() }
    }

    fn not(evidence: impl Into<String>) -> Self {
        Self { ability: Ability::Unable, evidence: evidence.into() }
    }

    fn unknown(evidence: impl Into<String>) -> Self {
        Self { ability: Ability::Unknown, evidence: evidence.into() }
    }

    fn unable(error: &Error) -> Self {
        let mut text = error.to_string();
        for (label, value) in error.facts() {
            text.push_str(&format!("; {label}: {value}"));
        }
        // An answer that may be another one in a minute proves nothing.
        if error.is_retryable() { Self::unknown(text) } else { Self::not(text) }
    }

    fn from(result: Result<Self>) -> Self {
        result.unwrap_or_else(|error| Self::unable(&error))
    }
}

struct Check<'a> {
    store: &'a dyn Store,
    folder: String,
    findings: Vec<Finding>,
    /// Uploads to be aborted whatever happens.
    began: Vec<Arc<dyn Upload>>,
}

/// Bytes that differ by seed.
fn sample(seed: u8, n_bytes: usize) -> Bytes {
    let mut bytes = vec![0; n_bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

impl Check<'_> {
    fn key(&self, name: &str) -> Result<ObjectKey> {
        ObjectKey::parse(&format!("{}/{name}", self.folder))
    }

    fn note(&mut self, probe: Probe, seen: Seen) {
        let able = seen.ability == Ability::Able;
        self.findings.push(Finding {
            id: probe.id,
            title: probe.title,
            ability: seen.ability,
            evidence: seen.evidence,
            consequence: if able { "" } else { probe.without },
            refuses: probe.required && seen.ability == Ability::Unable,
        });
    }

    async fn probe(&mut self) -> Result<()> {
        // The first request decides whether there is a store to speak of.
        let (key, body) = (self.key("object")?, sample(0, 4096));
        let stored = self.store.put(&key, body.clone(), Condition::Absent).await?;
        self.note(PUT, Seen::able(format!("stored {} bytes", stored.size)));
        let seen = Seen::from(self.read_back(&key, &body).await);
        self.note(READ_BACK, seen);
        let seen = Seen::from(self.range(&key, &body).await);
        self.note(RANGE, seen);
        let seen = Seen::from(self.list(&key).await);
        self.note(LIST, seen);
        let seen = Seen::from(self.conditional_put(&key).await);
        self.note(CONDITIONAL_PUT, seen);
        let multipart = self.multipart().await;
        let large = multipart.as_ref().ok().cloned();
        self.note(MULTIPART, Seen::from(multipart.map(|info| Seen::able(format!("{} bytes in 2 parts", info.size)))));
        let seen = match &large {
            Some(_) => Seen::from(self.conditional_complete().await),
            None => Seen::unknown("not tried, since uploads in parts do not work"),
        };
        self.note(CONDITIONAL_COMPLETE, seen);
        let seen = Seen::from(self.conditional_replace().await);
        self.note(CONDITIONAL_REPLACE, seen);
        let seen = Seen::from(self.checksum_kept(&key, &body, large.as_ref()).await);
        self.note(CHECKSUM_KEPT, seen);
        let seen = Seen::from(self.checksum_checked().await);
        self.note(CHECKSUM_CHECKED, seen);
        let (pending, abort) = self.abort().await;
        self.note(PENDING, pending);
        self.note(ABORT, abort);
        self.properties().await;
        let seen = Seen::from(self.clock().await);
        self.note(CLOCK, seen);
        let seen = Seen::from(self.latency(&key).await);
        self.note(LATENCY, seen);
        Ok(())
    }

    async fn read_back(&self, key: &ObjectKey, body: &Bytes) -> Result<Seen> {
        let (got, _) = self.store.get(key, len_of(body)).await?;
        Ok(if got == body { Seen::able("the same bytes") } else { Seen::not("other bytes than were stored") })
    }

    async fn range(&self, key: &ObjectKey, body: &Bytes) -> Result<Seen> {
        let got = self.store.read(key, 1000..3000).await?;
        let same = got == body.slice(1000..3000);
        Ok(if same { Seen::able("bytes 1000 to 3000 of 4096") } else { Seen::not("other bytes than the range holds") })
    }

    async fn list(&self, key: &ObjectKey) -> Result<Seen> {
        let page = self.store.list(&format!("{}/", self.folder), None).await?;
        let folders = self.store.folders(&format!("{FOLDER}/")).await?;
        let own = self.folder.rsplit('/').next().unwrap_or("");
        Ok(match (page.objects.iter().any(|object| object.key == key.as_str()), folders.iter().any(|f| f == own)) {
            (true, true) => Seen::able("the object and its folder"),
            (true, false) => Seen::not("the object, but not its folder"),
            (false, _) => Seen::not("the object is not in the listing"),
        })
    }

    /// One after the other, and at the same time: some servers keep the condition only while
    /// nobody races.
    async fn conditional_put(&self, key: &ObjectKey) -> Result<Seen> {
        match self.store.put(key, sample(100, 4096), Condition::Absent).await {
            Ok(_) => return Ok(Seen::not("a second object replaced the first one")),
            Err(error) if error.kind() == Kind::Conflict => {}
            Err(error) => return Err(error),
        }
        let raced = self.key("raced")?;
        let racers = (0..N_RACERS).map(|racer| self.store.put(&raced, sample(racer, 1024), Condition::Absent));
        let mut n_winners = 0;
        for result in join_all(racers).await {
            match result {
                Ok(_) => n_winners += 1,
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(match n_winners {
            1 => Seen::able(format!("a second object was refused, and of {N_RACERS} at once one was stored")),
            n => Seen::not(format!("of {N_RACERS} at once {n} were told that they were stored")),
        })
    }

    /// Begins an upload of two parts that end in `seed`, ready to be completed.
    async fn two_parts(&mut self, key: &ObjectKey, seed: u8) -> Result<(Arc<dyn Upload>, u64, u64)> {
        let upload = self.store.begin_upload(key).await?;
        self.began.push(Arc::clone(&upload));
        let (first, second) = (sample(seed, PART_BYTES), sample(seed + 1, 4096));
        upload.part(1, first.clone(), crc64nvme(&first)).await?;
        upload.part(2, second.clone(), crc64nvme(&second)).await?;
        let crc = super::combine_crc64nvme(crc64nvme(&first), crc64nvme(&second), len_of(&second));
        Ok((upload, len_of(&first) + len_of(&second), crc))
    }

    async fn multipart(&mut self) -> Result<ObjectInfo> {
        let key = self.key("parts")?;
        let (upload, size, crc) = self.two_parts(&key, 10).await?;
        let info = upload.complete(2, size, crc).await?;
        let tail = self.store.read(&key, size - 4096..size).await?;
        if tail != sample(11, 4096) {
            return Err(Error::damaged("the parts were put together wrongly"));
        }
        Ok(info)
    }

    async fn conditional_complete(&mut self) -> Result<Seen> {
        let key = self.key("parts")?;
        let (upload, size, crc) = self.two_parts(&key, 20).await?;
        match upload.complete(2, size, crc).await {
            Ok(_) => Ok(Seen::not("a second object replaced the first one")),
            Err(error) if error.kind() == Kind::Conflict => Ok(Seen::able("a second object was refused")),
            Err(error) => Err(error),
        }
    }

    async fn conditional_replace(&self) -> Result<Seen> {
        let key = self.key("lease")?;
        let first = self.store.put(&key, sample(1, 256), Condition::Absent).await?;
        let Some(etag) = first.etag else { return Ok(Seen::not("objects have no entity tag")) };
        self.store.put(&key, sample(2, 256), Condition::Unchanged(etag.clone())).await?;
        match self.store.put(&key, sample(3, 256), Condition::Unchanged(etag)).await {
            Ok(_) => Ok(Seen::not("an object was replaced although it had changed")),
            Err(error) if error.kind() == Kind::Conflict => {
                Ok(Seen::able("the first replacement was taken, a late one was refused"))
            }
            Err(error) => Err(error),
        }
    }

    async fn checksum_kept(&self, key: &ObjectKey, body: &Bytes, large: Option<&ObjectInfo>) -> Result<Seen> {
        let small = self.store.head(key).await?.crc64nvme;
        if small.is_some_and(|crc| crc != crc64nvme(body)) {
            return Ok(Seen::not("it keeps another checksum than the object has"));
        }
        Ok(match (small, large.map(|info| info.crc64nvme)) {
            (Some(_), Some(Some(_))) => Seen::able("of an object, and of one made from parts"),
            (Some(_), None) => Seen::able("of an object; not tried with one made from parts"),
            (Some(_), Some(None)) => Seen::not("of an object, but not of one made from parts"),
            (None, _) => Seen::not("it says none"),
        })
    }

    async fn checksum_checked(&mut self) -> Result<Seen> {
        let key = self.key("wrong")?;
        let upload = self.store.begin_upload(&key).await?;
        self.began.push(Arc::clone(&upload));
        let (first, second) = (sample(30, PART_BYTES), sample(31, 4096));
        upload.part(1, first.clone(), crc64nvme(&first)).await?;
        Ok(match upload.part(2, second.clone(), crc64nvme(&second) ^ 1).await {
            Ok(()) => Seen::not("a part with a wrong checksum was accepted"),
            Err(error) if error.kind() == Kind::Damaged => Seen::able("a part with a wrong checksum was refused"),
            Err(error) => {
                Seen::unknown(format!("a part with a wrong checksum was refused for another reason: {error}"))
            }
        })
    }

    /// Whether an open upload is listed, and whether it is gone after it was aborted.
    async fn abort(&mut self) -> (Seen, Seen) {
        match self.abort_found().await {
            Ok((true, true)) => (Seen::able("found one that was begun"), Seen::able("it was gone afterwards")),
            Ok((true, false)) => (Seen::able("found one that was begun"), Seen::not("it was still listed afterwards")),
            Ok((false, _)) => {
                (Seen::not("one that was begun is not listed"), Seen::unknown("accepted, but cannot be seen"))
            }
            Err(error) => (Seen::unable(&error), Seen::unable(&error)),
        }
    }

    async fn abort_found(&mut self) -> Result<(bool, bool)> {
        let key = self.key("pending")?;
        let (upload, ..) = self.two_parts(&key, 40).await?;
        let listed = |uploads: &[super::PendingUpload]| uploads.iter().any(|upload| upload.key == key.as_str());
        let before = listed(&self.store.pending_uploads(&self.folder).await?);
        upload.abort().await?;
        let after = listed(&self.store.pending_uploads(&self.folder).await?);
        Ok((before, !after))
    }

    async fn properties(&mut self) {
        let said = |property: Option<bool>, yes: &str, no: &str| match property {
            Some(true) => Seen::able(yes),
            Some(false) => Seen::not(no),
            None => Seen::unknown("the store does not say"),
        };
        let must_lock = self.store.object_lock().is_some();
        let (versions, lock, default) = match self.store.properties().await {
            Ok(it) => (
                said(it.versions, "turned on", "not turned on"),
                said(it.object_lock, "turned on for the bucket", "not turned on for the bucket"),
                it.locks_for_days,
            ),
            Err(error) => (Seen::unknown(error.to_string()), Seen::unknown(error.to_string()), None),
        };
        self.note(VERSIONS, versions);
        // A configuration that asks for a lock is not satisfied without one.
        self.note(Probe { required: must_lock, ..OBJECT_LOCK }, lock);
        if must_lock {
            let seen = Seen::from(self.list_versions().await);
            self.note(LIST_VERSIONS, seen);
        }
        if let Some(days) = default {
            self.note(LEASE, Seen::not(format!("the bucket locks whatever is stored in it for {days} days")));
        }
    }

    /// Whether the versions of what this check stored are shown, by their ids.
    async fn list_versions(&self) -> Result<Seen> {
        let versions = self.store.versions(&format!("{}/", self.folder)).await?;
        Ok(match versions.iter().filter(|version| version.id.is_some()).count() {
            0 => Seen::not("it does not show their ids"),
            n => Seen::able(format!("{n} of this check")),
        })
    }

    /// Stores an object and compares the time that it got with ours, before and after.
    async fn clock(&self) -> Result<Seen> {
        let key = self.key("clock")?;
        let before = clock::now();
        self.store.put(&key, sample(1, 16), Condition::Absent).await?;
        let after = clock::now();
        let theirs = self.store.head(&key).await?.modified;
        // Theirs has whole seconds, cut off.
        let early = before.as_millisecond() - theirs.as_millisecond() - 1000;
        let late = theirs.as_millisecond() - after.as_millisecond();
        let off = Duration::from_millis(u64::try_from(early.max(late).max(0)).unwrap_or(0));
        let evidence = if off.is_zero() {
            "within a second".to_owned()
        } else {
            format!("at least {} {}", unit::duration(off), if early > late { "behind" } else { "ahead" })
        };
        Ok(if off < SKEW_WARNED { Seen::able(evidence) } else { Seen::not(evidence) })
    }

    async fn latency(&self, key: &ObjectKey) -> Result<Seen> {
        let mut times = Vec::new();
        for _ in 0..N_LATENCY {
            let began = Instant::now();
            self.store.head(key).await?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(Seen::able(format!("median {:.1} ms", times[N_LATENCY / 2].as_secs_f64() * 1000.0)))
    }

    /// Removes an object, and under versioning each of its versions, so that none is paid for.
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        for _ in 0..MAX_VERSIONS {
            match self.store.head(key).await {
                Ok(info) => self.store.delete(key, info.version.as_deref()).await?,
                Err(error) if error.kind() == Kind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::failed(format!("\"{key}\" is still there after {MAX_VERSIONS} removals")))
    }

    /// Aborts what is open and removes every object and version that the check made.
    async fn clean_up(&self) -> Result<usize> {
        let mut first = Ok(());
        for upload in &self.began {
            first = first.and(upload.abort().await);
        }
        let mut n_objects = 0;
        loop {
            let page = self.store.list(&format!("{}/", self.folder), None).await?;
            for object in &page.objects {
                self.remove(&ObjectKey::parse(&object.key)?).await?;
            }
            n_objects += page.objects.len();
            if page.next.is_none() {
                break;
            }
        }
        let left = self.store.list(&format!("{}/", self.folder), None).await?;
        if !left.objects.is_empty() {
            return Err(Error::failed(format!(
                "{} objects are still listed after they were removed",
                left.objects.len()
            )));
        }
        first.map(|()| n_objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::memory::MemoryStore;

    async fn check(fault: Option<Fault>) -> (MemoryStore, Result<Report>) {
        let memory = MemoryStore::new();
        let inner: Arc<dyn Store> = Arc::new(memory.clone());
        let store: Arc<dyn Store> = match fault {
            Some(fault) => Arc::new(FaultyStore::new(inner, fault)),
            None => inner,
        };
        (memory, run(&store).await)
    }

    #[tokio::test]
    async fn a_good_store_is_accepted_and_left_empty() {
        let (memory, report) = check(None).await;
        let report = report.unwrap();
        report.accept().unwrap();
        let unable: Vec<_> = report.findings.iter().filter(|f| f.ability != Ability::Able).map(|f| f.id).collect();
        assert_eq!(unable, ["versions", "object-lock"]);
        assert!(memory.list("", None).await.unwrap().objects.is_empty());
        assert!(memory.pending_uploads("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_with_a_fault_is_refused_with_the_reason() {
        let table = [
            (Fault::Lie, "read-back"),
            (Fault::FlipReads, "read-back"),
            (Fault::TruncateReads, "range-read"),
            (Fault::FailFrom(Op::List, 1), "list"),
            (Fault::FailFrom(Op::BeginUpload, 1), "multipart"),
        ];
        for (fault, id) in table {
            let report = check(Some(fault)).await.1.unwrap();
            assert!(!report.is_accepted(), "{fault:?}");
            let finding = report.finding(id).unwrap();
            assert!(finding.refuses && !finding.consequence.is_empty(), "{fault:?}: {finding:?}");
            assert_eq!(report.accept().unwrap_err().kind(), Kind::Denied);
        }
    }

    #[tokio::test]
    async fn a_store_that_nothing_can_be_put_into_is_an_error() {
        let (_, report) = check(Some(Fault::FailFrom(Op::Put, 1))).await;
        assert_eq!(report.unwrap_err().kind(), Kind::Failed);
    }
}
