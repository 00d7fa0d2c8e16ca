//! Every change of stored bytes is found, before a wrong byte leaves, and named.

use super::*;

/// The artifact is refused, and whatever left before was right.
fn check_refused(
    kit: &Kit,
    record: &ArtifactRecord,
    from: &MemorySegments,
    identity: Option<&Identity>,
    plain: &[u8],
    what: &str,
) -> Error {
    let mut before = Vec::new();
    let error = (|| {
        let mut reader = kit.open(record, from, identity)?;
        while let Some(bytes) = reader.next_chunk()? {
            before.extend_from_slice(&bytes);
        }
        Ok(())
    })();
    assert!(plain.starts_with(&before), "{what}: wrong bytes left");
    let error: Error = match error {
        Err(error) => error,
        Ok(()) => panic!("{what}: not found"),
    };
    assert!(matches!(error.kind(), Kind::Damaged | Kind::Denied), "{what}: {error:?}");
    error
}

fn flip(bytes: &Bytes, at: usize, mask: u8) -> Option<Bytes> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= mask;
    Some(bytes.into())
}

#[test]
fn every_flipped_byte_of_a_small_artifact_is_found() {
    let kit = Kit::new();
    let identity = Identity::generate();
    let plain = text(700);
    for (options, identity) in [
        (options(), None),
        (WriteOptions { compression: Compression::Raw, ..options() }, None),
        (sealed_for(&identity), Some(&identity)),
    ] {
        for plain in [&plain[..], &[]] {
            let (segments, record) = kit.store(plain, options.clone());
            let whole = segments.visible()[&1].clone();
            for at in 0..whole.len() {
                segments.put(1, flip(&whole, at, 1 << (at % 8)));
                let what = format!("byte {at} of {}, encrypted {}", whole.len(), record.encrypted);
                check_refused(&kit, &record, &segments, identity, plain, &what);
                let error = kit.check(&record, &segments).unwrap_err();
                assert_eq!((error.kind(), error.facts().len()), (Kind::Damaged, 1), "{what}");
            }
            segments.put(1, Some(whole));
            assert!(kit.read(&record, &segments, identity).unwrap() == plain);
        }
    }
}

#[test]
fn a_flip_is_named_by_artifact_segment_and_offset_and_nothing_behind_it_leaves() {
    let kit = Kit::new();
    for identity in [None, Some(Identity::generate())] {
        let plain = noise(9 * FRAME_BYTES, 6);
        let (segments, record) = kit.store(&plain, identity.as_ref().map_or_else(options, sealed_for));
        assert!(record.segments.len() > 3);
        let third = segments.visible()[&3].clone();
        segments.put(3, flip(&third, FRAME_BYTES + 500_000, 4));
        let error = check_refused(&kit, &record, &segments, identity.as_ref(), &plain, "a flip in a frame");
        let message = error.message();
        let offset: usize =
            message.strip_prefix("artifact \"shop.dump\" segment 0003 at stored offset ").unwrap().parse().unwrap();
        assert!((FRAME_BYTES..FRAME_BYTES + 4096).contains(&offset), "the frame's start: {message}");
        let error = kit.check(&record, &segments).unwrap_err();
        assert!(error.facts()[0].1.contains("segment 0003"), "{error:?}");
        // Random access proves as much: the frame before is good, this one is not.
        let reader = kit.open(&record, &segments, identity.as_ref()).unwrap();
        assert!(reader.read_at(4 * FRAME_BYTES as u64, 100).is_ok());
        assert_eq!(reader.read_at(5 * FRAME_BYTES as u64, 100).unwrap_err().kind(), Kind::Damaged);
    }
}

#[test]
fn segments_that_are_missing_cut_swapped_doubled_or_from_elsewhere_are_found() {
    let kit = Kit::new();
    for identity in [None, Some(Identity::generate())] {
        let options = || identity.as_ref().map_or_else(options, sealed_for);
        let plain = noise(7 * FRAME_BYTES, 7);
        let (segments, record) = kit.store(&plain, options());
        let good = segments.visible();
        // The same artifact as it was a day before: equal sizes, other bytes.
        let (older, _) = kit.store(&noise(7 * FRAME_BYTES, 8), options());
        let older = older.visible();
        type Changes = Vec<(u32, Option<Bytes>)>;
        let cases: Vec<(&str, Changes)> = vec![
            ("first missing", vec![(1, None)]),
            ("last missing", vec![(4, None)]),
            ("cut by one byte", vec![(2, Some(good[&2].slice(..good[&2].len() - 1)))]),
            ("cut in the middle", vec![(2, Some(good[&2].slice(..FRAME_BYTES)))]),
            ("cut to nothing", vec![(2, Some(Bytes::new()))]),
            ("swapped", vec![(1, Some(good[&2].clone())), (2, Some(good[&1].clone()))]),
            ("doubled", vec![(2, Some(good[&1].clone()))]),
            ("an older one put back", vec![(3, Some(older[&3].clone()))]),
            ("all of an older one", older.iter().map(|(number, bytes)| (*number, Some(bytes.clone()))).collect()),
        ];
        for (what, changes) in cases {
            let numbers: Vec<_> = changes.iter().map(|(number, _)| format!("segment {number:04}")).collect();
            for (number, bytes) in changes {
                segments.put(number, bytes);
            }
            check_refused(&kit, &record, &segments, identity.as_ref(), &plain, what);
            let error = kit.check(&record, &segments).unwrap_err();
            assert_eq!(error.facts().len(), numbers.len(), "{what}: {error:?}");
            for (fact, number) in error.facts().iter().zip(&numbers) {
                assert!(fact.1.contains(number.as_str()), "{what}: {error:?}");
            }
            for (number, bytes) in &good {
                segments.put(*number, Some(bytes.clone()));
            }
        }
        assert!(kit.read(&record, &segments, identity.as_ref()).unwrap() == plain);
    }
}

#[test]
fn segments_that_changed_places_are_named_by_who_reads_contents_where_that_is_quick() {
    let kit = Kit::new();
    // What reading says after two segments changed places.
    let swapped = |plain: &[u8]| {
        let (segments, record) = kit.store(plain, options());
        let good = segments.visible();
        segments.put(1, Some(good[&2].clone()));
        segments.put(2, Some(good[&1].clone()));
        kit.open(&record, &segments, None).map(drop).unwrap_err()
    };
    let error = swapped(&noise(4 * FRAME_BYTES, 7));
    let said = format!("{error:?}");
    assert!(said.contains("segment 0001: its bytes are not the recorded ones"), "{said}");
    assert!(said.contains("segment 0002: its bytes are not the recorded ones"), "{said}");
    assert!(!said.contains("--depth contents"), "that is what was done: {said}");
    // Reading all of a large artifact again would take its time: who does is said instead.
    let error = swapped(&noise(FRAME_BYTES, 7).repeat(130));
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.hint_text().unwrap().contains("`verify --depth stored` tells which segment"), "{error:?}");
    assert!(!format!("{error:?}").contains("segment 0001"), "{error:?}");
}

#[test]
fn bytes_behind_the_recorded_end_are_found_without_a_key() {
    let kit = Kit::new();
    let (segments, record) = kit.store(&text(1000), options());
    segments.put(1, Some([&segments.visible()[&1][..], b"x"].concat().into()));
    assert_eq!(kit.check(&record, &segments).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn a_record_that_can_not_be_true_is_refused_before_anything_is_allocated() {
    let kit = Kit::new();
    let (segments, good) = kit.store(&noise(3 * FRAME_BYTES, 9), options());
    type Edit = fn(&mut ArtifactRecord);
    let edits: [(&str, Edit); 14] = [
        ("size", |r| r.size = u64::MAX),
        ("size by one", |r| r.size += 1),
        ("size less", |r| r.size -= 1),
        ("frames", |r| r.segments[0].frames = u64::MAX),
        ("no frames", |r| r.segments[0].frames = 0),
        ("one frame more", |r| r.segments[0].frames += 1),
        ("size and frames", |r| {
            r.segments[0].frames += 1;
            r.size += FRAME_BYTES as u64;
        }),
        ("content", |r| r.segments[0].zstd_bytes = u64::MAX),
        ("stored", |r| r.segments[0].stored_bytes = u64::MAX),
        ("both", |r| {
            r.segments[0].zstd_bytes = u64::MAX;
            r.segments[0].stored_bytes = u64::MAX;
        }),
        ("digest", |r| r.blake3 = "00".repeat(32)),
        ("no digest", |r| r.blake3 = "zz".into()),
        ("no segments", |r| r.segments.clear()),
        ("segments in another order", |r| r.segments.reverse()),
    ];
    for (what, edit) in edits {
        let mut record = good.clone();
        edit(&mut record);
        let error = kit.open(&record, &segments, None).and_then(|mut reader| read_all(&mut reader)).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{what}: {error:?}");
    }
}

#[test]
fn a_record_with_arbitrary_numbers_never_panics() {
    let kit = Kit::new();
    let (segments, good) = kit.store(&text(3 * FRAME_BYTES), options());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>());
    runner
        .run(&numbers, |(size, stored_bytes, zstd_bytes, frames, encrypted)| {
            let segment =
                SegmentRecord { stored_bytes, zstd_bytes, frames: frames % 100_000, ..good.segments[0].clone() };
            let record = ArtifactRecord { size, encrypted, segments: vec![segment], ..good.clone() };
            let opened = kit.open(&record, &segments, Some(&Identity::generate()));
            prop_assert!(opened.is_err());
            prop_assert!(kit.check(&record, &segments).is_err());
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_foreign_identity_or_none_is_denied_and_says_what_to_do() {
    let kit = Kit::new();
    let (segments, record) = kit.store(&text(100), sealed_for(&Identity::generate()));
    for identity in [None, Some(&Identity::generate())] {
        let error = kit.open(&record, &segments, identity).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{error:?}");
        assert!(error.origin().hint_text().is_some());
    }
    kit.check(&record, &segments).unwrap();
}

#[test]
fn a_tail_that_changes_while_the_artifact_is_read_is_found() {
    let kit = Kit::new();
    let plain = noise(11 * FRAME_BYTES, 10);
    let (segments, record) = kit.store(&plain, options());
    assert!(record.segments.len() > 5);
    let mut reader = kit.open(&record, &segments, None).unwrap();
    // The first segment's tail is no longer at hand, so it is read again.
    let first = segments.visible()[&1].clone();
    segments.put(1, flip(&first, first.len() - 100, 1));
    let error = read_all(&mut reader).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error:?}");
    assert!(error.message().contains("segment 0001"), "{error:?}");
}
