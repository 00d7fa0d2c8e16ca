//! What every store must do, as sentences: one suite that runs against any of them.
//!
//! Test equipment. Each function takes a store and a folder that is its own, leaves what it put
//! there, and panics with the sentence's breach. [`run`] runs all of them.

use super::{Condition, Lock, ObjectInfo, Store, crc64nvme, len_of};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::stream::{Budget, BudgetSettings};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt, stream};
use jiff::SignedDuration;
use std::sync::Arc;

/// The smallest part that S3 takes, unless it is the last one.
pub const SMALLEST_PART_BYTES: usize = 5 * 1024 * 1024;

/// A sentence that holds for every store.
pub type Sentence = for<'a> fn(&'a dyn Store, &'a str) -> BoxFuture<'a, ()>;

macro_rules! sentences {
    ($($name:ident),* $(,)?) => {
        /// The suite: the sentence's name, and the check.
        pub const SENTENCES: &[(&str, Sentence)] = &[
            $((stringify!($name), |store, folder| $name(store, folder).boxed()),)*
        ];
    };
}

sentences! {
    what_was_put_comes_back,
    a_read_uses_the_memory_that_it_is_given,
    an_object_is_described_as_it_is,
    a_missing_object_is_not_found,
    the_same_bytes_may_be_put_again_and_others_may_not,
    of_two_racing_puts_one_wins,
    an_object_is_replaced_only_when_it_is_unchanged,
    ranges_are_exact_at_their_borders,
    a_range_beyond_the_end_is_damage,
    a_get_takes_no_more_than_its_limit,
    an_empty_object_is_an_object,
    strange_keys_are_kept_as_they_are,
    listings_have_every_object_once_in_order,
    listings_are_paged,
    folders_are_those_with_objects_beneath,
    removing_twice_succeeds,
    an_upload_of_one_part_becomes_an_object,
    an_upload_of_no_part_becomes_an_empty_object,
    parts_may_come_in_any_order,
    a_part_sent_again_replaces_the_first,
    an_upload_is_invisible_until_it_is_complete,
    an_upload_never_replaces_an_object,
    completing_twice_succeeds,
    a_missing_part_is_refused,
    a_wrong_checksum_of_a_part_is_damage,
    an_aborted_upload_leaves_nothing,
    a_pending_upload_is_found_and_aborted,
    an_upload_is_as_young_as_its_last_part,
    objects_are_no_older_than_the_stores_clock_says,
    every_version_can_be_removed_for_good,
    nothing_is_locked_that_nobody_locked,
}

/// Runs every sentence in a folder of its own beneath `folder`.
///
/// # Panics
/// When one does not hold; the message has its name.
pub async fn run(store: &Arc<dyn Store>, folder: &str) {
    for (name, check) in SENTENCES {
        let own = format!("{folder}/{name}");
        let checked = std::panic::AssertUnwindSafe(check(&**store, &own)).catch_unwind().await;
        assert!(checked.is_ok(), "{} breaks \"{}\" (see above)", store.describe(), name.replace('_', " "));
    }
}

fn key(folder: &str, name: &str) -> ObjectKey {
    ObjectKey::parse(&format!("{folder}/{name}")).expect("the suite's keys are valid")
}

#[track_caller]
fn ok<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("it failed: {error:?}"))
}

#[track_caller]
fn refused<T>(result: Result<T>, kind: Kind) {
    match result {
        Ok(_) => panic!("it succeeded and should have been refused as {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
    }
}

/// Bytes that differ by seed and do not compress to nothing.
pub fn sample(seed: u8, n_bytes: usize) -> Bytes {
    let mut bytes = vec![0; n_bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn put(store: &dyn Store, key: &ObjectKey, body: &Bytes) -> ObjectInfo {
    ok(store.put(key, body.clone(), Condition::Absent).await)
}

async fn read_all(store: &dyn Store, key: &ObjectKey) -> Bytes {
    ok(store.get(key, 1 << 30).await).0
}

async fn what_was_put_comes_back(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(1, 100_000));
    put(store, &key, &body).await;
    assert_eq!(read_all(store, &key).await, body);
    assert_eq!(ok(store.read(&key, 0..100_000).await), body);
}

async fn a_read_uses_the_memory_that_it_is_given(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(4, 100_000));
    put(store, &key, &body).await;
    let room = ok(Budget::new(BudgetSettings::default())).begin().room().await;
    let mut places = Vec::new();
    for piece in [0..100_000, 50_000..100_000, 7..8] {
        let range = u64::try_from(piece.start).unwrap_or(u64::MAX)..u64::try_from(piece.end).unwrap_or(u64::MAX);
        let read = ok(store.read_into(&key, range, &room).await);
        assert_eq!(read, body.slice(piece));
        places.push(read.as_ptr().addr());
    }
    assert!(places.iter().all(|place| *place == places[0]), "each read was dropped before the next: {places:?}");
}

async fn an_object_is_described_as_it_is(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(2, 1000));
    let told = put(store, &key, &body).await;
    let head = ok(store.head(&key).await);
    let (_, got) = ok(store.get(&key, 1000).await);
    for info in [&told, &head, &got] {
        assert_eq!((info.key.as_str(), info.size), (key.as_str(), 1000));
        assert!(info.etag.is_some() && info.etag == head.etag, "{info:?} {head:?}");
        assert!(info.crc64nvme.is_none_or(|crc| crc == crc64nvme(&body)), "{info:?}");
    }
    let listed = ok(store.list(folder, None).await);
    assert_eq!((listed.objects[0].key.as_str(), listed.objects[0].size), (key.as_str(), 1000));
}

async fn a_missing_object_is_not_found(store: &dyn Store, folder: &str) {
    let key = key(folder, "missing");
    refused(store.head(&key).await, Kind::NotFound);
    refused(store.get(&key, 10).await, Kind::NotFound);
    refused(store.read(&key, 0..1).await, Kind::NotFound);
    refused(store.read(&key, 0..0).await, Kind::NotFound);
    let gone = Condition::Unchanged("\"5d41402abc4b2a76b9719d911017c592\"".to_owned());
    let replaced = store.put(&key, sample(1, 10), gone).await;
    let kind = replaced.err().map(|error| error.kind());
    assert!(matches!(kind, Some(Kind::Conflict | Kind::NotFound)), "{kind:?}");
}

async fn the_same_bytes_may_be_put_again_and_others_may_not(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(3, 500));
    put(store, &key, &body).await;
    put(store, &key, &body).await;
    refused(store.put(&key, sample(4, 500), Condition::Absent).await, Kind::Conflict);
    refused(store.put(&key, sample(3, 499), Condition::Absent).await, Kind::Conflict);
    assert_eq!(read_all(store, &key).await, body);
}

async fn of_two_racing_puts_one_wins(store: &dyn Store, folder: &str) {
    for round in 0..8 {
        let key = key(folder, &format!("{round}"));
        let racers = (0..4).map(|racer| store.put(&key, sample(racer, 300), Condition::Absent));
        let results = join_all(racers).await;
        let winners: Vec<_> = (0..4_u8).filter(|racer| results[usize::from(*racer)].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for loser in results.into_iter().filter(Result::is_err) {
            refused(loser, Kind::Conflict);
        }
        assert_eq!(read_all(store, &key).await, sample(winners[0], 300));
    }
}

async fn an_object_is_replaced_only_when_it_is_unchanged(store: &dyn Store, folder: &str) {
    let key = key(folder, "lease");
    let tag = |info: ObjectInfo| Condition::Unchanged(info.etag.expect("a small object has an entity tag"));
    let first = tag(put(store, &key, &sample(1, 200)).await);
    let second = tag(ok(store.put(&key, sample(2, 200), first.clone()).await));
    refused(store.put(&key, sample(3, 200), first).await, Kind::Conflict);
    let racers = (10..14).map(|racer| store.put(&key, sample(racer, 200), second.clone()));
    let n_winners = join_all(racers).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(n_winners, 1);
}

async fn ranges_are_exact_at_their_borders(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(5, 1000));
    put(store, &key, &body).await;
    for (start, end) in [(0, 1), (999, 1000), (0, 1000), (1, 999), (500, 500), (0, 0), (1000, 1000)] {
        let got = ok(store.read(&key, start..end).await);
        let (from, to) = (usize::try_from(start).expect("small"), usize::try_from(end).expect("small"));
        assert_eq!(got, body.slice(from..to), "{start}..{end}");
    }
}

async fn a_range_beyond_the_end_is_damage(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    put(store, &key, &sample(6, 1000)).await;
    for range in [999..1001, 1000..1001, 0..1001, 5000..5001, 1001..1001] {
        refused(store.read(&key, range).await, Kind::Damaged);
    }
}

async fn a_get_takes_no_more_than_its_limit(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    put(store, &key, &sample(7, 1000)).await;
    ok(store.get(&key, 1000).await);
    refused(store.get(&key, 999).await, Kind::Limit);
}

async fn an_empty_object_is_an_object(store: &dyn Store, folder: &str) {
    let key = key(folder, "empty");
    put(store, &key, &Bytes::new()).await;
    assert_eq!(ok(store.head(&key).await).size, 0);
    assert!(read_all(store, &key).await.is_empty());
    refused(store.put(&key, sample(1, 1), Condition::Absent).await, Kind::Conflict);
}

async fn strange_keys_are_kept_as_they_are(store: &dyn Store, folder: &str) {
    let names = [
        "with space",
        "plus+sign",
        "per%20cent",
        "amp&er=sand",
        "ünï-¢ødé-✓",
        "quote\"'s",
        "a..b",
        ".hidden",
        "~tilde",
        "semi;colon,comma",
        "question?mark#hash",
        "brackets[]{}()",
        "at@sign:colon",
        "<tag>",
        "star*",
        "UPPER",
        "upper",
    ];
    for (seed, name) in (0..).zip(names) {
        put(store, &key(folder, name), &sample(seed, 20)).await;
    }
    for (seed, name) in (0..).zip(names) {
        assert_eq!(read_all(store, &key(folder, name)).await, sample(seed, 20), "{name}");
    }
    let mut expected: Vec<_> = names.map(|name| format!("{folder}/{name}")).into();
    expected.sort();
    let listed: Vec<_> = ok(store.list(&format!("{folder}/"), None).await).objects.into_iter().map(|o| o.key).collect();
    assert_eq!(listed, expected);
    for name in names {
        ok(store.delete(&key(folder, name), None).await);
    }
    assert!(ok(store.list(&format!("{folder}/"), None).await).objects.is_empty());
}

async fn listings_have_every_object_once_in_order(store: &dyn Store, folder: &str) {
    // A directory sorts among files as if its name ended in a slash.
    let names = ["a", "a-b", "a.b", "b/c", "b/c.d/e", "b/c-d", "b.c", "b0", "c/d/e/f"];
    for name in names.iter().rev() {
        // A local store cannot hold both "a" and "a/…", and nothing here asks it to.
        put(store, &key(folder, name), &sample(1, 5)).await;
    }
    let mut expected: Vec<_> = names.map(|name| format!("{folder}/{name}")).into();
    expected.sort();
    let keys = |page: super::Page| page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
    assert_eq!(keys(ok(store.list(&format!("{folder}/"), None).await)), expected);
    for (index, after) in expected.iter().enumerate() {
        let rest = keys(ok(store.list(&format!("{folder}/"), Some(after)).await));
        assert_eq!(rest, expected[index + 1..], "after {after}");
    }
    let under_b = keys(ok(store.list(&format!("{folder}/b/c"), None).await));
    assert_eq!(under_b, ["b/c", "b/c-d", "b/c.d/e"].map(|name| format!("{folder}/{name}")));
    assert!(ok(store.list(&format!("{folder}/nothing"), None).await).objects.is_empty());
}

async fn listings_are_paged(store: &dyn Store, folder: &str) {
    let names: Vec<_> = (0..1005).map(|n| format!("{folder}/{}/{n:04}", n % 3)).collect();
    let puts = names.clone().into_iter().map(|name| async move {
        let key = ObjectKey::parse(&name).expect("the suite's keys are valid");
        put(store, &key, &Bytes::from_static(b"x")).await;
    });
    stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    let (mut listed, mut after, mut n_pages) = (Vec::new(), None, 0);
    loop {
        let page = ok(store.list(&format!("{folder}/"), after.as_deref()).await);
        assert!(page.objects.len() <= super::PAGE_OBJECTS);
        listed.extend(page.objects.into_iter().map(|object| object.key));
        n_pages += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut expected = names;
    expected.sort();
    assert_eq!((listed == expected, n_pages), (true, 2), "{} of {} objects", listed.len(), expected.len());
}

async fn folders_are_those_with_objects_beneath(store: &dyn Store, folder: &str) {
    for name in ["x/1", "x/2", "y/deep/er/1", "file", "z.w/1"] {
        put(store, &key(folder, name), &sample(1, 5)).await;
    }
    assert_eq!(ok(store.folders(&format!("{folder}/")).await), ["x", "y", "z.w"]);
    assert_eq!(ok(store.folders(&format!("{folder}/y/")).await), ["deep"]);
    assert!(ok(store.folders(&format!("{folder}/none/")).await).is_empty());
    ok(store.delete(&key(folder, "z.w/1"), None).await);
    assert_eq!(ok(store.folders(&format!("{folder}/")).await), ["x", "y"]);
}

async fn removing_twice_succeeds(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    put(store, &key, &sample(1, 10)).await;
    for _ in 0..2 {
        ok(store.delete(&key, None).await);
        refused(store.head(&key).await, Kind::NotFound);
    }
    put(store, &key, &sample(2, 10)).await;
}

/// Uploads these parts in this order of numbers and completes.
async fn upload(store: &dyn Store, key: &ObjectKey, parts: &[Bytes], order: &[u32]) -> Result<ObjectInfo> {
    let upload = store.begin_upload(key).await?;
    for number in order {
        let body = &parts[usize::try_from(*number - 1).expect("small")];
        upload.part(*number, body.clone(), crc64nvme(body)).await?;
    }
    let whole = parts.concat();
    let n_parts = u32::try_from(parts.len()).expect("small");
    upload.complete(n_parts, len_of(&whole), crc64nvme(&whole)).await
}

/// Two parts that every S3 server takes.
fn two_parts(seed: u8) -> [Bytes; 2] {
    [sample(seed, SMALLEST_PART_BYTES), sample(seed + 1, 1234)]
}

async fn check_nothing_pending(store: &dyn Store, folder: &str) {
    let pending = ok(store.pending_uploads(folder).await);
    assert!(pending.is_empty(), "{pending:?}");
}

async fn an_upload_of_one_part_becomes_an_object(store: &dyn Store, folder: &str) {
    let (key, body) = (key(folder, "a"), sample(8, 70_000));
    let info = ok(upload(store, &key, std::slice::from_ref(&body), &[1]).await);
    assert_eq!((info.size, info.key.as_str()), (70_000, key.as_str()));
    assert_eq!(read_all(store, &key).await, body);
    check_nothing_pending(store, folder).await;
}

async fn an_upload_of_no_part_becomes_an_empty_object(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    ok(upload(store, &key, &[], &[]).await);
    assert_eq!(ok(store.head(&key).await).size, 0);
}

async fn parts_may_come_in_any_order(store: &dyn Store, folder: &str) {
    let parts = [sample(1, SMALLEST_PART_BYTES), sample(2, SMALLEST_PART_BYTES), sample(3, 77)];
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
        let key = key(folder, &format!("{order:?}").replace([' ', '[', ']', ','], ""));
        let info = ok(upload(store, &key, &parts, &order).await);
        assert!(info.crc64nvme.is_none_or(|crc| crc == crc64nvme(&parts.concat())), "{info:?}");
        assert_eq!(read_all(store, &key).await, parts.concat(), "{order:?}");
    }
    let key = key(folder, "together");
    let uploading = ok(store.begin_upload(&key).await);
    let mut all = Vec::new();
    for (number, part) in (1..).zip(parts.clone()) {
        let crc = crc64nvme(&part);
        all.push(uploading.part(number, part, crc));
    }
    for sent in join_all(all).await {
        ok(sent);
    }
    let whole = parts.concat();
    ok(uploading.complete(3, len_of(&whole), crc64nvme(&whole)).await);
    assert_eq!(read_all(store, &key).await, whole);
    check_nothing_pending(store, folder).await;
}

async fn a_part_sent_again_replaces_the_first(store: &dyn Store, folder: &str) {
    let (wrong, right) = (two_parts(10), two_parts(20));
    let whole = right.concat();
    for n_parts in [1, 2] {
        let key = key(folder, &format!("{n_parts}"));
        let uploading = ok(store.begin_upload(&key).await);
        for parts in [&wrong, &right] {
            for (number, part) in (1..=n_parts).zip(parts) {
                ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
            }
        }
        let expected = if n_parts == 1 { &right[0][..] } else { &whole[..] };
        ok(uploading.complete(n_parts, len_of(expected), crc64nvme(expected)).await);
        assert_eq!(read_all(store, &key).await, expected);
    }
}

async fn an_upload_is_invisible_until_it_is_complete(store: &dyn Store, folder: &str) {
    let (key, parts) = (key(folder, "a"), two_parts(30));
    let uploading = ok(store.begin_upload(&key).await);
    for (number, part) in (1..).zip(&parts) {
        ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
        refused(store.head(&key).await, Kind::NotFound);
        assert!(ok(store.list(folder, None).await).objects.is_empty());
    }
    let whole = parts.concat();
    ok(uploading.complete(2, len_of(&whole), crc64nvme(&whole)).await);
    assert_eq!(ok(store.head(&key).await).size, len_of(&whole));
}

async fn an_upload_never_replaces_an_object(store: &dyn Store, folder: &str) {
    for (name, parts) in [("one", vec![sample(1, 10)]), ("two", two_parts(40).to_vec())] {
        let (key, there) = (key(folder, name), sample(9, 99));
        put(store, &key, &there).await;
        let uploading = ok(store.begin_upload(&key).await);
        for (number, part) in (1..).zip(&parts) {
            ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
        }
        let whole = parts.concat();
        let n_parts = u32::try_from(parts.len()).expect("small");
        refused(uploading.complete(n_parts, len_of(&whole), crc64nvme(&whole)).await, Kind::Conflict);
        ok(uploading.abort().await);
        assert_eq!(read_all(store, &key).await, there);
    }
    check_nothing_pending(store, folder).await;
}

async fn completing_twice_succeeds(store: &dyn Store, folder: &str) {
    for (name, parts) in [("one", vec![sample(1, 10)]), ("two", two_parts(50).to_vec())] {
        let uploading = ok(store.begin_upload(&key(folder, name)).await);
        for (number, part) in (1..).zip(&parts) {
            ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
        }
        let whole = parts.concat();
        let n_parts = u32::try_from(parts.len()).expect("small");
        for _ in 0..2 {
            ok(uploading.complete(n_parts, len_of(&whole), crc64nvme(&whole)).await);
        }
        ok(uploading.abort().await);
        assert_eq!(read_all(store, &key(folder, name)).await, whole, "an abort afterwards removes nothing");
    }
}

async fn a_missing_part_is_refused(store: &dyn Store, folder: &str) {
    let (key, parts) = (key(folder, "a"), two_parts(60));
    let whole = parts.concat();
    for present in [1, 2] {
        let uploading = ok(store.begin_upload(&key).await);
        let part = &parts[present - 1];
        ok(uploading.part(u32::try_from(present).expect("small"), part.clone(), crc64nvme(part)).await);
        assert!(uploading.complete(2, len_of(&whole), crc64nvme(&whole)).await.is_err());
        ok(uploading.abort().await);
        refused(store.head(&key).await, Kind::NotFound);
    }
    check_nothing_pending(store, folder).await;
}

async fn a_wrong_checksum_of_a_part_is_damage(store: &dyn Store, folder: &str) {
    let (key, parts) = (key(folder, "a"), two_parts(70));
    for wrong in [1, 2] {
        let uploading = ok(store.begin_upload(&key).await);
        for (number, part) in (1..).zip(&parts) {
            let crc = crc64nvme(part);
            if number == wrong {
                refused(uploading.part(number, part.clone(), crc ^ 1).await, Kind::Damaged);
            } else {
                ok(uploading.part(number, part.clone(), crc).await);
            }
        }
        ok(uploading.abort().await);
    }
    refused(store.head(&key).await, Kind::NotFound);
    check_nothing_pending(store, folder).await;
}

async fn an_aborted_upload_leaves_nothing(store: &dyn Store, folder: &str) {
    for n_parts in [0, 1, 2] {
        let (key, parts) = (key(folder, &format!("{n_parts}")), two_parts(80));
        let uploading = ok(store.begin_upload(&key).await);
        for (number, part) in (1..=n_parts).zip(&parts) {
            ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
        }
        for _ in 0..2 {
            ok(uploading.abort().await);
        }
        let late = uploading.part(1, parts[0].clone(), crc64nvme(&parts[0])).await;
        assert!(late.is_err(), "an aborted upload takes no more parts");
        refused(store.head(&key).await, Kind::NotFound);
    }
    check_nothing_pending(store, folder).await;
}

async fn a_pending_upload_is_found_and_aborted(store: &dyn Store, folder: &str) {
    let (key, parts) = (key(folder, "a"), two_parts(90));
    let uploading = ok(store.begin_upload(&key).await);
    for (number, part) in (1..).zip(&parts) {
        ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
    }
    let pending = ok(store.pending_uploads(folder).await);
    assert_eq!(pending.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), [key.as_str()]);
    assert!(ok(store.pending_uploads(&format!("{folder}/other")).await).is_empty());
    for _ in 0..2 {
        ok(store.abort_pending(&pending[0]).await);
    }
    check_nothing_pending(store, folder).await;
    let whole = parts.concat();
    let late: Result<_, Error> = uploading.complete(2, len_of(&whole), crc64nvme(&whole)).await;
    assert!(late.is_err(), "an upload that was aborted elsewhere cannot be completed");
    refused(store.head(&key).await, Kind::NotFound);
    ok(uploading.abort().await);
}

/// Clocks that are read in whole seconds, cut off, differ by up to one.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

async fn an_upload_is_as_young_as_its_last_part(store: &dyn Store, folder: &str) {
    let (key, parts) = (key(folder, "a"), two_parts(91));
    let uploading = ok(store.begin_upload(&key).await);
    uploading.expect_more();
    for (number, part) in (1..).zip(&parts) {
        ok(uploading.part(number, part.clone(), crc64nvme(part)).await);
    }
    let pending = ok(store.pending_uploads(folder).await);
    let (last, now) = (ok(store.last_part(&pending[0]).await), ok(store.now().await));
    assert!(pending[0].begun - SECOND <= last && last <= now + SECOND, "{} {last} {now}", pending[0].begun);
    ok(uploading.abort().await);
}

async fn objects_are_no_older_than_the_stores_clock_says(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    let before = ok(store.now().await);
    put(store, &key, &sample(92, 10)).await;
    let after = ok(store.now().await);
    let stored = ok(store.head(&key).await).modified;
    assert!(before - SECOND <= stored && stored <= after + SECOND, "{before} {stored} {after}");
    let versions = ok(store.versions(&format!("{folder}/")).await);
    assert!(versions.iter().all(|version| before - SECOND <= version.modified && version.modified <= after + SECOND));
}

async fn every_version_can_be_removed_for_good(store: &dyn Store, folder: &str) {
    let key = key(folder, "a");
    // Beside it lies one whose name begins like it.
    let neighbour = self::key(folder, "ab");
    put(store, &neighbour, &sample(93, 7)).await;
    put(store, &key, &sample(94, 5)).await;
    // Where versions are kept, this leaves one and a marker, over which not every server stores again.
    ok(store.delete(&key, None).await);
    let versions = ok(store.versions(key.as_str()).await);
    assert!(
        versions.iter().any(|version| version.key == neighbour.as_str() && version.size == 7 && !version.is_marker)
    );
    for version in versions.iter().filter(|version| version.key == key.as_str()) {
        ok(store.delete(&key, version.id.as_deref()).await);
    }
    let left = ok(store.versions(key.as_str()).await);
    assert_eq!(left.iter().map(|version| version.key.as_str()).collect::<Vec<_>>(), [neighbour.as_str()]);
}

async fn nothing_is_locked_that_nobody_locked(store: &dyn Store, folder: &str) {
    put(store, &key(folder, "a"), &sample(96, 5)).await;
    for version in ok(store.versions(&format!("{folder}/")).await) {
        assert_eq!(ok(store.lock_of(&version).await), Lock::Free);
    }
}
