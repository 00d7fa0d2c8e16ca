use super::*;
use crate::error::Kind;
use crate::stream::source::InMemory;
use crate::stream::{ByteSource, Leash, Origin, Source, SourceInfo};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

/// Delivers `chunks` although it said `len`, then ends as `end` says.
struct Body {
    len: Option<u64>,
    rest: Vec<u8>,
    end: Option<Kind>,
}

impl ByteSource for Body {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: self.len, attributes: vec![("mode".into(), "0604".into())] })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.rest.len()).min(10_000);
        buf[..n].copy_from_slice(&self.rest[..n]);
        self.rest.drain(..n);
        match self.end {
            Some(kind) if n == 0 && !buf.is_empty() => Err(Error::new(kind, "the disk broke")),
            _ => Ok(n),
        }
    }
}

struct Unopened(Kind);

impl ByteSource for Unopened {
    fn open(&mut self) -> Result<SourceInfo> {
        Err(Error::new(self.0, "it is gone"))
    }
    fn read(&mut self, _buf: &mut [u8]) -> Result<usize> {
        Err(Error::new(self.0, "it is gone"))
    }
}

fn body(len: usize, bytes: usize, end: Option<Kind>) -> Source {
    let rest = (0..bytes).map(|i| u8::try_from(i % 253).unwrap()).collect();
    Source::new(Origin::Bucket { label: "data".into() }, Body { len: Some(len as u64), rest, end })
}

fn memory(bytes: impl Into<Bytes>) -> Source {
    Source::new(Origin::Plugin, InMemory::new(bytes))
}

fn read_all(source: &mut dyn ByteSource) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = source.next_chunk()? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

type Attributes = Vec<(String, String)>;

struct Made {
    tar: Vec<u8>,
    index: Vec<u8>,
    failed: Vec<(String, String)>,
}

/// Packs on a runtime while another thread reads the tar, as a run does.
fn packed(entries: Vec<(String, Attributes, Source)>) -> Result<Made> {
    let (mut input, mut tar, end) = pack(PackOptions::default())?;
    let reader = std::thread::spawn(move || read_all(&mut tar));
    let fed = block_on(async move {
        for (path, attributes, body) in entries {
            input.add(path, attributes, body).await?;
        }
        input.finish().await
    });
    let tar = reader.join().unwrap();
    fed?;
    let tar = tar?;
    let mut packed = end.take()?;
    Ok(Made { tar, index: read_all(&mut *packed.index)?, failed: packed.failed })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn pairs(all: &[(&str, &str)]) -> Attributes {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn reader(made: &Made, with_index: bool) -> ArchiveReader {
    let index: Option<Box<dyn ByteSource>> =
        with_index.then(|| Box::new(InMemory::new(made.index.clone())) as Box<dyn ByteSource>);
    ArchiveReader::new(Box::new(InMemory::new(made.tar.clone())), index, Origin::Archive)
}

fn entries_of(mut reader: ArchiveReader) -> Result<Vec<(Entry, Result<Vec<u8>>)>> {
    let mut all = Vec::new();
    while let Some((entry, mut source)) = reader.next_entry()? {
        source.leash.release();
        let bytes = read_all(&mut *source.body);
        drop(source);
        all.push((entry, bytes));
    }
    Ok(all)
}

struct Memory(Vec<u8>);

impl RandomAccess for Memory {
    fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        let start = self.0.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let end = self.0.len().min(start.saturating_add(len));
        Ok(Bytes::copy_from_slice(&self.0[start..end]))
    }
}

fn indexed(made: &Made) -> Result<IndexedArchive> {
    let tar = Arc::new(Mutex::new(Memory(made.tar.clone())));
    IndexedArchive::open(tar, Arc::new(Mutex::new(Memory(made.index.clone()))), Origin::Archive)
}

fn every_kind() -> Vec<(String, Attributes, Source)> {
    let long = format!("{}/{}", "d".repeat(120), "ü".repeat(90));
    let odd = "n\u{10ffff}".to_owned() + &"y".repeat(120);
    vec![
        ("dir".into(), pairs(&[("type", "dir"), ("mode", "1755"), ("mtime-ns", "7000000000")]), memory("")),
        (
            "dir/small".into(),
            pairs(&[("xattr.user.k=%", "base64:/w=="), ("mtime-ns", "1234567890123456789")]),
            memory("hello"),
        ),
        ("dir/link".into(), pairs(&[("type", "symlink"), ("link-target", "../\u{10ffff}x")]), memory("")),
        ("dir/far".into(), pairs(&[("type", "symlink"), ("link-target", &"t/".repeat(90))]), memory("")),
        (long, pairs(&[("uid", "4294967294"), ("gid", "5000000"), ("mtime-ns", "-1")]), memory(vec![9; 512])),
        (odd, pairs(&[("mode", "weird"), ("meta.a b", "x\ny"), ("sparse", "true")]), memory("raw")),
        ("../s3//key/".into(), pairs(&[("type", "blob")]), memory("strange")),
        ("reserved\u{10ff2f}".into(), Vec::new(), memory("")),
        ("large".into(), Vec::new(), body(400_000, 400_000, None)),
    ]
}

#[test]
fn entries_come_back_with_bytes_and_attributes_with_and_without_the_index() {
    let given: Vec<_> = every_kind().into_iter().map(|(path, attributes, _)| (path, attributes)).collect();
    let made = packed(every_kind()).unwrap();
    assert_eq!(made.failed, []);
    for with_index in [true, false] {
        let back = entries_of(reader(&made, with_index)).unwrap();
        assert_eq!(back.len(), given.len());
        for ((path, attributes), (entry, bytes)) in given.iter().zip(&back) {
            assert_eq!(&entry.path, path);
            assert_eq!(bytes.as_ref().unwrap().len() as u64, entry.size);
            for attribute in attributes {
                assert!(entry.attributes.contains(attribute), "{path}: {attribute:?} in {:?}", entry.attributes);
            }
        }
        assert_eq!(back[1].1.as_ref().unwrap(), b"hello");
        assert!(back[8].0.attributes.contains(&("mode".to_owned(), "0604".to_owned())), "the body's own");
    }
}

#[test]
fn one_entry_is_read_from_its_place() {
    let made = packed(every_kind()).unwrap();
    let archive = indexed(&made).unwrap();
    for (entry, bytes) in entries_of(reader(&made, true)).unwrap() {
        let (found, mut source) = archive.entry(&entry.path).unwrap();
        assert_eq!(found, entry);
        assert_eq!(read_all(&mut *source.body).unwrap(), bytes.unwrap());
    }
    assert_eq!(archive.entry("nothing").unwrap_err().kind(), Kind::NotFound);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "GNU tar is the reader that this promises")]
fn gnu_tar_reads_what_was_packed() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = every_kind();
    entries.retain(|(path, ..)| !path.starts_with(".."));
    let made = packed(entries).unwrap();
    std::fs::write(dir.path().join("a.tar"), &made.tar).unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let done = std::process::Command::new("tar")
        .args(["-C", "out", "--no-same-owner", "-xpf", "a.tar"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let out = dir.path().join("out");
    assert_eq!(std::fs::read(out.join("dir/small")).unwrap(), b"hello");
    assert_eq!(std::fs::metadata(out.join("large")).unwrap().len(), 400_000);
    assert_eq!(std::fs::metadata(out.join("d".repeat(120)).join("ü".repeat(90))).unwrap().len(), 512);
    let mut odd = b"n\xff".to_vec();
    odd.extend([b'y'; 120]);
    let odd = out.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&odd));
    assert_eq!(std::fs::read(odd).unwrap(), b"raw");
    let small = std::fs::metadata(out.join("dir/small")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&small), 123_456_789);
    assert_eq!(std::fs::read_link(out.join("dir/far")).unwrap().to_str().unwrap(), "t/".repeat(90));
}

#[test]
fn the_tar_crate_reads_what_was_packed() {
    let made = packed(every_kind()).unwrap();
    let mut archive = ::tar::Archive::new(made.tar.as_slice());
    let sizes: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().size()).collect();
    let expected: Vec<_> = entries_of(reader(&made, true)).unwrap().into_iter().map(|(entry, _)| entry.size).collect();
    assert_eq!(sizes, expected);
}

#[test]
fn sizes_beyond_8_gib_have_a_record() {
    let entry = Entry { path: "huge".into(), attributes: Vec::new(), size: (8 << 30) + 5 };
    let head = tar::head(&entry);
    let tar::Block::Pax(len) = tar::parse_block(&head[..512]).unwrap() else { panic!("no records") };
    let pax = tar::Pax::parse(&head[512..512 + usize::try_from(len).unwrap()]).unwrap();
    let block: &[u8; 512] = head[head.len() - 512..].try_into().unwrap();
    assert_eq!(tar::parse_entry(block, pax).unwrap().size, (8 << 30) + 5);
}

#[test]
fn what_could_not_be_read_whole_is_marked_named_and_never_read_as_whole() {
    let small = 1_000;
    let large = usize::try_from(SMALL_BYTES).unwrap() * 3;
    for size in [small, large] {
        let gone = || Source::new(Origin::Plugin, Unopened(Kind::NotFound));
        let given = vec![
            ("short".to_owned(), Vec::new(), body(size, size - 100, None)),
            ("broken".to_owned(), Vec::new(), body(size, size - 100, Some(Kind::Failed))),
            ("cut".to_owned(), Vec::new(), body(size, size + 1, None)),
            ("changed".to_owned(), Vec::new(), body(size, size, Some(Kind::Conflict))),
            ("gone".to_owned(), Vec::new(), gone()),
            ("denied".to_owned(), Vec::new(), Source::new(Origin::Plugin, Unopened(Kind::Denied))),
            ("whole".to_owned(), Vec::new(), body(size, size, None)),
        ];
        let made = packed(given).unwrap();
        let failed: Vec<_> = made.failed.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(failed, ["short", "broken", "cut", "changed", "gone", "denied"]);
        assert!(made.failed.iter().all(|(_, reason)| !reason.is_empty()));
        let back = entries_of(reader(&made, true)).unwrap();
        let names: Vec<_> = back.iter().map(|(entry, bytes)| (entry.path.as_str(), bytes.is_ok())).collect();
        let expected = [("short", false), ("broken", false), ("cut", false), ("changed", false), ("whole", true)];
        assert_eq!(names, expected);
        let archive = indexed(&made).unwrap();
        assert_eq!(archive.entry("gone").unwrap_err().kind(), Kind::NotFound);
        assert!(read_all(&mut *archive.entry("short").unwrap().1.body).is_err());
        // In the tar itself the missing bytes are zeros, and every size is right.
        let bare = entries_of(reader(&made, false)).unwrap();
        let bytes = bare[0].1.as_ref().unwrap();
        assert_eq!(bytes.len(), size);
        assert!(bytes[size - 100..].iter().all(|b| *b == 0) && bytes[size - 101] != 0);
    }
}

#[test]
fn a_body_that_no_archive_can_take_is_refused() {
    let held = Leash::held();
    let mut piped = memory("x");
    piped.waits_for.push(held);
    let exec = Source::new(Origin::Exec { command: "pg_dump".into(), proof: None }, InMemory::new("x"));
    for (source, kind) in [(piped, Kind::Invalid), (exec, Kind::Invalid)] {
        assert_eq!(packed(vec![("p".into(), Vec::new(), source)]).err().unwrap().kind(), kind);
    }
    let unknown = Source::new(Origin::Plugin, Body { len: None, rest: vec![1], end: None });
    assert_eq!(packed(vec![("p".into(), Vec::new(), unknown)]).err().unwrap().kind(), Kind::Invalid);
    let cancelled = Source::new(Origin::Plugin, Unopened(Kind::Cancelled));
    assert_eq!(packed(vec![("p".into(), Vec::new(), cancelled)]).err().unwrap().kind(), Kind::Cancelled);
}

#[test]
fn paths_that_no_entry_can_have_are_refused() {
    let long = "x".repeat(MAX_PATH_BYTES + 1);
    for (path, kind) in [("", Kind::Invalid), ("a\0b", Kind::Invalid), (&long, Kind::Invalid)] {
        assert_eq!(packed(vec![(path.into(), Vec::new(), memory(""))]).err().unwrap().kind(), kind);
    }
    let twice = vec![("a".into(), Vec::new(), memory("")), ("a".into(), Vec::new(), memory(""))];
    assert_eq!(packed(twice).err().unwrap().kind(), Kind::Conflict);
    let heavy = vec![("xattr.user.a".to_owned(), "v".repeat(MAX_ATTRIBUTES_BYTES))];
    assert_eq!(packed(vec![("a".into(), heavy, memory(""))]).err().unwrap().kind(), Kind::Limit);
    assert!(index_name(&"n".repeat(122)).is_ok() && index_name(&"n".repeat(123)).is_err());
}

#[test]
fn an_archive_that_is_not_finished_never_ends_well() {
    let (mut input, mut tar, end) = pack(PackOptions::default()).unwrap();
    block_on(async {
        input.add("a".into(), Vec::new(), memory("x")).await.unwrap();
        drop(input);
    });
    assert_eq!(read_all(&mut tar).unwrap_err().kind(), Kind::Cancelled);
    assert!(end.take().is_err());
}

#[test]
fn a_tar_that_nobody_reads_stops_whoever_adds() {
    let (mut input, tar, _end) = pack(PackOptions::default()).unwrap();
    drop(tar);
    let error = block_on(input.add("a".into(), Vec::new(), memory("x"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
}

#[test]
fn small_bodies_outlive_the_next_entry_and_large_ones_fail_when_passed_over() {
    let large = usize::try_from(SMALL_BYTES).unwrap() + 1;
    let made = packed(vec![
        ("small".into(), Vec::new(), memory("kept")),
        ("large".into(), Vec::new(), body(large, large, None)),
        ("last".into(), Vec::new(), memory("end")),
    ])
    .unwrap();
    let mut reader = reader(&made, true);
    let (_, mut small) = reader.next_entry().unwrap().unwrap();
    let (_, mut large) = reader.next_entry().unwrap().unwrap();
    assert!(large.body.next_chunk().unwrap().is_some());
    let (last, _) = reader.next_entry().unwrap().unwrap();
    assert_eq!(last.path, "last");
    assert_eq!(read_all(&mut *small.body).unwrap(), b"kept");
    assert_eq!(large.body.next_chunk().unwrap_err().kind(), Kind::Invalid);
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn the_next_entry_waits_for_a_body_that_the_host_moves() {
    let large = usize::try_from(SMALL_BYTES).unwrap() * 4;
    let made = packed(vec![
        ("large".into(), Vec::new(), body(large, large, None)),
        ("last".into(), Vec::new(), memory("end")),
    ])
    .unwrap();
    let mut reader = reader(&made, true);
    let (_, mut source) = reader.next_entry().unwrap().unwrap();
    source.leash.release();
    let mover = std::thread::spawn(move || read_all(&mut *source.body));
    assert_eq!(reader.next_entry().unwrap().unwrap().0.path, "last");
    assert_eq!(mover.join().unwrap().unwrap().len(), large);
}

#[test]
fn every_flipped_byte_is_noticed_or_changes_nothing_that_was_asked() {
    let made = packed(vec![
        ("a".into(), pairs(&[("mode", "0644")]), memory("some bytes")),
        ("b".into(), pairs(&[("mtime-ns", "5")]), memory("other")),
    ])
    .unwrap();
    let good = entries_of(reader(&made, true)).unwrap();
    let good: Vec<_> = good.into_iter().map(|(entry, bytes)| (entry, bytes.unwrap())).collect();
    for at in 0..made.tar.len() {
        let mut bad = Made { tar: made.tar.clone(), index: made.index.clone(), failed: Vec::new() };
        bad.tar[at] ^= 0x41;
        let Ok(back) = entries_of(reader(&bad, true)) else { continue };
        for ((entry, bytes), expected) in back.into_iter().zip(&good) {
            if let Ok(bytes) = bytes {
                assert_eq!((&entry, &bytes), (&expected.0, &expected.1), "byte {at}");
            }
        }
    }
    for len in 0..made.tar.len() {
        let bad = Made { tar: made.tar[..len].to_vec(), index: made.index.clone(), failed: Vec::new() };
        assert!(entries_of(reader(&bad, true)).is_err(), "cut at {len}");
        assert!(entries_of(reader(&bad, false)).is_err(), "cut at {len}, no index");
    }
    for len in 0..made.index.len() {
        let bad = Made { tar: made.tar.clone(), index: made.index[..len].to_vec(), failed: Vec::new() };
        assert!(entries_of(reader(&bad, true)).is_err() && indexed(&bad).is_err(), "index cut at {len}");
    }
}

/// The functions that fuzzing calls: any bytes give entries or an error.
fn check_any_bytes(tar: &[u8], index: &[u8]) {
    let made = Made { tar: tar.to_vec(), index: index.to_vec(), failed: Vec::new() };
    for with_index in [true, false] {
        let mut reader = reader(&made, with_index);
        while let Ok(Some((_, mut source))) = reader.next_entry() {
            let _ = source.body.next_chunk();
        }
    }
    if let Ok(archive) = indexed(&made) {
        let _ = archive.entry("a");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_bytes_are_an_archive_or_an_error(tar in prop::collection::vec(any::<u8>(), 0..2_000), index in prop::collection::vec(any::<u8>(), 0..300)) {
        check_any_bytes(&tar, &index);
    }

    #[test]
    fn a_header_with_any_field_is_an_entry_or_an_error(at in 0_usize..512, value in prop::collection::vec(any::<u8>(), 1..24), pax in "[0-9]{0,3} ?[a-zA-Z.]{0,12}=?[0-9.-]{0,12}\n?") {
        let mut head = tar::head(&Entry { path: "a/b".into(), attributes: pairs(&[("mtime-ns", "3000000000")]), size: 3 });
        for (i, b) in value.iter().enumerate() {
            if let Some(byte) = head.get_mut(at + i) { *byte = *b; }
        }
        let sum: u32 = head[..148].iter().chain(&head[156..]).copied().map(u32::from).sum::<u32>() + 8 * 32;
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        head.extend([0; 1536]);
        check_any_bytes(&head, b"");
        if let (Ok(tar::Block::Entry(block)), Ok(pax)) = (tar::parse_block(&head[..512]), tar::Pax::parse(pax.as_bytes())) {
            let _ = tar::parse_entry(&block, pax);
        }
    }

    #[test]
    fn any_line_is_an_entry_or_an_error(line in "(\\{\"path\":\"a\",\"offset\":)?[0-9]{0,21}[ -~]{0,80}") {
        let _ = index::IndexLine::parse(line.as_bytes());
        check_any_bytes(&[], line.as_bytes());
    }

    #[test]
    fn any_entry_comes_back_from_its_header(path in "[a-c/\u{10ff80}-\u{10ffff}ü\n=]{1,300}", size in any::<u64>(),
        attributes in prop::collection::btree_map("(type|mode|uid|gid|mtime-ns|link-target|xattr\\.[a-z=%]{1,4}|meta\\.[a-z=% ]{0,4})",
            "(dir|file|symlink|-?[0-9]{1,25}|0[0-7]{3}|base64:[a-zA-Z]{4}|[a-zü\n\u{10ffff}]{0,120})", 0..6)) {
        let entry = Entry { path, attributes: attributes.into_iter().collect(), size };
        let head = tar::head(&entry);
        prop_assert_eq!(head.len() % 512, 0);
        let mut pax = tar::Pax::default();
        if let tar::Block::Pax(len) = tar::parse_block(&head[..512]).unwrap() {
            pax = tar::Pax::parse(&head[512..512 + usize::try_from(len).unwrap()]).unwrap();
        }
        let block: &[u8; 512] = head[head.len() - 512..].try_into().unwrap();
        let back = tar::parse_entry(block, pax).unwrap();
        prop_assert_eq!(&back.path, &entry.path);
        prop_assert_eq!(back.size, entry.size);
        for attribute in &entry.attributes {
            prop_assert!(back.attributes.contains(attribute), "{:?} in {:?}", attribute, back.attributes);
        }
    }
}

#[test]
fn a_body_that_was_passed_over_is_checked_all_the_same() {
    for size in [10, usize::try_from(SMALL_BYTES).unwrap() + 1] {
        let two =
            || vec![("a".to_owned(), Vec::new(), body(size, size, None)), ("b".to_owned(), Vec::new(), memory("x"))];
        let mut made = packed(two()).unwrap();
        made.tar[512 + size / 2] ^= 1;
        let mut reader = reader(&made, true);
        let error = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a wrong body of {size} bytes was passed over unnoticed"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Damaged);
    }
}

#[test]
fn a_time_that_no_clock_can_show_is_refused() {
    let head = tar::head(&Entry { path: "a".into(), ..Entry::default() });
    let block: &[u8; tar::BLOCK] = head.as_slice().try_into().unwrap();
    let entry = |records: &[u8]| tar::parse_entry(block, tar::Pax::parse(records).unwrap());
    assert!(entry(b"16 mtime=12.000\n").is_ok());
    for records in [
        &b"50 mtime=170141183460469231731687303715.999999999\n"[..],
        b"51 mtime=-170141183460469231731687303715.999999999\n",
        b"39 mtime=9223372036854775808.000000000\n",
    ] {
        assert_eq!(entry(records).unwrap_err().kind(), Kind::Damaged, "{}", records.escape_ascii());
    }
}
