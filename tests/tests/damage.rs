//! Damage to whole backups, in process: whatever is changed in a store of a fixture is found, named by
//! artifact, segment and offset, and no wrong byte reaches the consumer before.
//!
//! The streaming core alone is damaged in `host/src/stream/tests/damage.rs`; here are records, verifications,
//! archives, several segments, and what belongs to another backup. `cargo xtask soak damage` flips every byte of
//! the large ones too.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use strongroom::catalog::{Catalog, HostKey, Trust};
use strongroom::error::{Error, Kind, Result};
use strongroom::id::{BackupId, Label, ObjectKey};
use strongroom::record::ArtifactRecord;
use strongroom::store::memory::MemoryStore;
use strongroom::store::{Condition, Store, StoreSegments};
use strongroom::stream::{Budget, BudgetSettings, ByteSource, Identity, MIN_PART_BYTES, check_stored, open_artifact};
use strongroom_tests::fixture::Fixture;
use strongroom_tests::relay::private;
use tokio_util::sync::CancellationToken;
use xtask::soak::turns;

/// Artifacts up to this size are changed at every byte in an ordinary run.
const SMALL_BYTES: usize = 3_000;
/// Bytes of each larger segment that are flipped in an ordinary run, besides its borders.
const FLIPS: u64 = 150;
/// The most bytes between the place that an error names and the flipped byte: a frame at rest and its tags.
const MOST_BYTES_OFF: u64 = 2_105_344 + 33 * 16;

/// The nonce in front of an age file's payload is proven by the first message behind it, which is what is named.
const NONCE_BYTES: u64 = 16;

/// One store of a fixture in memory, and what is needed to read it.
struct Kit {
    runtime: tokio::runtime::Runtime,
    budget: Arc<Budget>,
    store: Arc<dyn Store>,
    catalog: Catalog,
    identity: Identity,
    objects: BTreeMap<String, Vec<u8>>,
}

/// An artifact of a backup.
#[derive(Clone)]
struct Stored {
    job: Label,
    id: BackupId,
    record: ArtifactRecord,
    plain: Vec<u8>,
}

impl Kit {
    fn new(fixture: &Fixture, store: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let settings = BudgetSettings { n_workers: 1, n_parts_in_flight: 4, part_bytes: MIN_PART_BYTES };
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("host.key");
        std::fs::copy(fixture.folder.join("host.key"), &path).unwrap();
        private(&path);
        let key = HostKey::load(&path).unwrap();
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let kit = Self {
            runtime,
            budget: Budget::new(settings).unwrap(),
            catalog: Catalog::new(memory.clone(), Trust::new([key.public().clone()])),
            store: memory,
            identity: Identity::parse(&std::fs::read_to_string(fixture.folder.join("identity.txt")).unwrap()).unwrap(),
            objects: fixture.objects(store),
        };
        for (key, bytes) in &kit.objects {
            kit.put(key, Some(bytes));
        }
        kit
    }

    /// Puts bytes in the place of an object, or takes it away.
    fn put(&self, key: &str, bytes: Option<&[u8]>) {
        let key = ObjectKey::parse(key).unwrap();
        self.runtime.block_on(async {
            self.store.delete(&key, None).await.unwrap();
            if let Some(bytes) = bytes {
                self.store.put(&key, Bytes::copy_from_slice(bytes), Condition::Absent).await.unwrap();
            }
        });
    }

    fn put_back(&self, key: &str) {
        self.put(key, self.objects.get(key).map(Vec::as_slice));
    }

    /// Every backup: job and id.
    fn backups(&self) -> Vec<(Label, BackupId)> {
        let keys = self.objects.keys().filter_map(|key| key.strip_suffix("/record.json"));
        keys.map(|key| key.split_once('/').unwrap())
            .map(|(job, id)| (job.parse().unwrap(), id.parse().unwrap()))
            .collect()
    }

    /// Every artifact, read as it is.
    fn artifacts(&self) -> Vec<Stored> {
        let mut all = Vec::new();
        for (job, id) in self.backups() {
            let listed = self.runtime.block_on(self.catalog.read(&job, &id)).unwrap();
            for record in listed.trusted().unwrap().artifacts.clone() {
                let mut stored = Stored { job: job.clone(), id: id.clone(), record, plain: Vec::new() };
                let (plain, end) = self.read(&stored);
                end.unwrap();
                self.check(&stored).unwrap();
                stored.plain = plain;
                all.push(stored);
            }
        }
        assert!(all.len() >= 4, "{}", all.len());
        all
    }

    fn segments(&self, stored: &Stored) -> Arc<StoreSegments> {
        let Stored { job, id, record, .. } = stored;
        Arc::new(StoreSegments::new(self.store.clone(), job, id, &record.name, record.encrypted).unwrap())
    }

    /// What leaves, and how it ended.
    fn read(&self, stored: &Stored) -> (Vec<u8>, Result<()>) {
        let identity = stored.record.encrypted.then_some(&self.identity);
        let (segments, cancel) = (self.segments(stored), CancellationToken::new());
        let open = open_artifact(&stored.record, segments, identity, &self.budget, cancel);
        let mut out = Vec::new();
        let end = self.runtime.block_on(open).and_then(|mut reader| {
            while let Some(bytes) = reader.next_chunk()? {
                out.extend_from_slice(&bytes);
            }
            Ok(())
        });
        (out, end)
    }

    fn check(&self, stored: &Stored) -> Result<()> {
        let segments = self.segments(stored);
        let check = check_stored(&stored.record, segments.as_ref(), &self.budget, |_| {}, CancellationToken::new());
        self.runtime.block_on(check)
    }

    /// Damage of segment `number`, at byte `at` where it is one byte: both ways to look find it and name it, and
    /// nothing wrong leaves before.
    fn check_found(&self, stored: &Stored, number: u32, at: Option<usize>, what: &str) {
        let (out, end) = self.read(stored);
        assert!(stored.plain.starts_with(&out), "{what}: a wrong byte left");
        let error = end.map(|()| panic!("{what}: not found")).unwrap_err();
        let name = format!("artifact \"{}\"", stored.record.name);
        let segment = format!("segment {number:04}");
        let said = said(&error);
        assert!(matches!(error.kind(), Kind::Damaged | Kind::Denied), "{what}: {said}");
        assert!(said.contains(&name) && said.contains(&segment), "{what}: {said}");
        match (at, offset_in(&said)) {
            (Some(at), Some(offset)) => {
                let at = at as u64;
                assert!(offset <= at + NONCE_BYTES && at <= offset + MOST_BYTES_OFF, "{what}: {said}");
            }
            // A byte that changes no frame: the checksum of the segment tells, and does not know where.
            (Some(_), None) => {
                let is_open =
                    !stored.record.encrypted && said.contains("the stored bytes are not those that were recorded");
                assert!(is_open, "{what}: no offset in {said}");
            }
            (None, _) => {}
        }
        let error = self.check(stored).map(|()| panic!("{what}: the check found nothing")).unwrap_err();
        let said = self::said(&error);
        assert_eq!(error.kind(), Kind::Damaged, "{what}: {said}");
        assert!(said.contains(&name) && said.contains(&segment), "{what}: {said}");
    }
}

fn said(error: &Error) -> String {
    format!("{error:?}")
}

/// The number behind the last `stored offset`, which is the innermost place.
fn offset_in(said: &str) -> Option<u64> {
    let (_, rest) = said.rsplit_once("stored offset ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Runs `check` for each store of each fixture.
fn for_each_store(check: impl Fn(&Kit)) {
    for fixture in Fixture::all() {
        for store in ["sealed", "plain"] {
            check(&Kit::new(&fixture, store));
        }
    }
}

#[test]
fn every_flipped_byte_of_a_small_artifact_is_found_and_named() {
    for_each_store(|kit| {
        let mut n_flips = 0;
        for stored in kit.artifacts() {
            let [_] = stored.record.segments[..] else { continue };
            let key = kit.segments(&stored).key(1).unwrap().to_string();
            let good = kit.objects[&key].clone();
            if good.len() > SMALL_BYTES {
                continue;
            }
            for at in 0..good.len() {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << (at % 8);
                kit.put(&key, Some(&bytes));
                kit.check_found(&stored, 1, Some(at), &format!("byte {at} of {key}"));
                n_flips += 1;
            }
            kit.put_back(&key);
        }
        assert!(n_flips > 500, "{n_flips}");
    });
}

#[test]
fn flipped_bytes_of_large_segments_are_found_and_named() {
    for_each_store(|kit| {
        for stored in kit.artifacts() {
            for number in 1..=u32::try_from(stored.record.segments.len()).unwrap() {
                let key = kit.segments(&stored).key(number).unwrap().to_string();
                let good = &kit.objects[&key];
                if good.len() <= SMALL_BYTES {
                    continue;
                }
                // Header, first and last message, and the tail; then all over the segment, by a step that meets
                // every byte before it meets one again.
                let borders =
                    [0, 1, 30, 100, 199, 300, good.len() - 1, good.len() - 17, good.len() - 60, good.len() - 120];
                let step =
                    [104_729, 7_919, 1_299_709].into_iter().find(|step| !good.len().is_multiple_of(*step)).unwrap();
                let spread = turns(FLIPS, "flips of a large segment")
                    .take(good.len())
                    .map(|i| usize::try_from(i).unwrap().wrapping_mul(step) % good.len());
                for at in borders.into_iter().chain(spread) {
                    let mut bytes = good.clone();
                    bytes[at] ^= 1 << (at % 8);
                    kit.put(&key, Some(&bytes));
                    kit.check_found(&stored, number, Some(at), &format!("byte {at} of {key}"));
                }
                kit.put_back(&key);
            }
        }
    });
}

#[test]
fn an_artifact_cut_at_any_length_is_found_and_named() {
    for_each_store(|kit| {
        for stored in kit.artifacts() {
            let number = u32::try_from(stored.record.segments.len()).unwrap();
            let key = kit.segments(&stored).key(number).unwrap().to_string();
            let good = kit.objects[&key].clone();
            let step = if good.len() <= SMALL_BYTES { 1 } else { good.len() / 60 + 1 };
            for len in (0..good.len()).step_by(step).chain([good.len() - 1]) {
                kit.put(&key, Some(&good[..len]));
                kit.check_found(&stored, number, None, &format!("{key} cut to {len} bytes"));
            }
            kit.put(&key, Some(&[&good[..], b"x"].concat()));
            let error = kit.check(&stored).unwrap_err();
            assert!(said(&error).contains(&format!("segment {number:04}")), "{key} with a byte more: {error:?}");
            assert!(kit.read(&stored).0 == stored.plain[..], "what lies behind the recorded end is never read");
            kit.put(&key, None);
            kit.check_found(&stored, number, None, &format!("{key} deleted"));
            kit.put_back(&key);
        }
    });
}

#[test]
fn a_segment_of_another_artifact_or_backup_is_found_and_named() {
    for_each_store(|kit| {
        let all = kit.artifacts();
        let places = |stored: &Stored| -> Vec<(u32, String)> {
            let segments = kit.segments(stored);
            let numbers = 1..=u32::try_from(stored.record.segments.len()).unwrap();
            numbers.map(|number| (number, segments.key(number).unwrap().to_string())).collect()
        };
        let mut n_swaps = 0;
        for stored in &all {
            for (number, key) in places(stored) {
                for (_, other) in all.iter().flat_map(places) {
                    // The two equal artifacts of one backup without encryption are the same bytes.
                    if kit.objects[&key] == kit.objects[&other] {
                        continue;
                    }
                    kit.put(&key, Some(&kit.objects[&other]));
                    kit.check_found(stored, number, None, &format!("{other} in the place of {key}"));
                    n_swaps += 1;
                }
                kit.put_back(&key);
            }
        }
        assert!(n_swaps >= 15, "{n_swaps}");
    });
}

#[test]
fn a_record_that_is_not_byte_for_byte_what_was_signed_is_never_believed() {
    for_each_store(|kit| {
        let backups = kit.backups();
        for (job, id) in &backups {
            let key = format!("{job}/{id}/record.json");
            let good = kit.objects[&key].clone();
            let is_believed = |bytes: Option<&[u8]>| {
                kit.put(&key, bytes);
                let listed = kit.runtime.block_on(kit.catalog.read(job, id));
                listed.is_ok_and(|listed| listed.trusted().is_some())
            };
            for at in 0..good.len() {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << (at % 8);
                assert!(!is_believed(Some(&bytes)), "byte {at} of {key}");
                assert!(!is_believed(Some(&good[..at])), "{key} cut to {at} bytes");
            }
            assert!(!is_believed(Some(&[&good[..], b"\n"].concat())), "{key} with a byte more");
            for (other_job, other_id) in &backups {
                let other = &kit.objects[&format!("{other_job}/{other_id}/record.json")];
                assert_eq!(is_believed(Some(other)), *other == good, "{other_job}/{other_id} at {key}");
            }
            assert!(!is_believed(None), "{key} deleted");
            let listed = kit.runtime.block_on(kit.catalog.backups(job)).unwrap();
            assert!(listed.iter().all(|listed| listed.id != *id), "a backup without its record is listed");
            assert!(is_believed(Some(&good)));
        }
    });
}

#[test]
fn a_verification_that_is_not_what_was_signed_says_nothing() {
    for fixture in Fixture::all() {
        let kit = Kit::new(&fixture, "sealed");
        let key = kit.objects.keys().find(|key| key.contains("/verified/")).unwrap().clone();
        let good = kit.objects[&key].clone();
        let (job, rest) = key.split_once('/').unwrap();
        let (job, id): (Label, BackupId) = (job.parse().unwrap(), rest.split_once('/').unwrap().0.parse().unwrap());
        let n_verified = |bytes: &[u8]| {
            kit.put(&key, Some(bytes));
            let listed = kit.runtime.block_on(async {
                let listed = kit.catalog.read(&job, &id).await?;
                kit.catalog.with_verifications(vec![listed]).await
            });
            listed.unwrap()[0].verified.len()
        };
        let n = n_verified(&good);
        assert!(n > 0);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            assert_eq!(n_verified(&bytes), n - 1, "byte {at} of {key}");
            assert_eq!(n_verified(&good[..at]), n - 1, "{key} cut to {at} bytes");
        }
        // That of another backup is not its own.
        let other = kit.objects.iter().find(|(other, _)| other.contains("/verified/") && !other.contains(id.as_str()));
        assert_eq!(n_verified(other.unwrap().1), n - 1);
    }
}
