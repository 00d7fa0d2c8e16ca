//! Archives: a tar and its index, each read as if somebody else had made it.

use super::{Input, check_error};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use strongroom::error::{Kind, Result};
use strongroom::stream::archive::{ArchiveReader, Entry, IndexReader, IndexedArchive, PackOptions, RandomAccess, pack};
use strongroom::stream::source::InMemory;
use strongroom::stream::{ByteSource, Origin, Source, SourceInfo};

const BLOCK: usize = 512;

/// Entry and body.
type Whole = (Entry, Vec<u8>);

/// A body with attributes of its own.
struct Body {
    rest: Bytes,
    attributes: Vec<(String, String)>,
}

impl ByteSource for Body {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.rest.len() as u64), attributes: self.attributes.clone() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"))
}

fn all_of(source: &mut dyn ByteSource) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = source.next_chunk()? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Tar and index of these entries.
fn packed(entries: &[Whole]) -> (Vec<u8>, Vec<u8>) {
    let (mut input, mut tar, end) = pack(PackOptions { openers: 1, ..PackOptions::default() }).expect("an archive");
    let entries = entries.to_vec();
    let adding = runtime().spawn(async move {
        for (entry, body) in entries {
            let body = Body { rest: body.into(), attributes: entry.attributes };
            input.add(entry.path, Vec::new(), Source::new(Origin::Plugin, body)).await.expect("an entry that was read");
        }
        input.finish().await.expect("an end");
    });
    let bytes = all_of(&mut tar).expect("a tar");
    runtime().block_on(adding).expect("added");
    let mut rest = end.take().expect("an index");
    assert_eq!(rest.n_failed, 0, "{:?}", rest.failed);
    (bytes, all_of(rest.index.as_mut()).expect("an index"))
}

/// The good archive that changes begin with: everything that an entry can be.
fn good() -> &'static (Vec<Whole>, Vec<u8>, Vec<u8>) {
    static GOOD: OnceLock<(Vec<Whole>, Vec<u8>, Vec<u8>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let entry = |path: &str, attributes: &[(&str, &str)], body: &[u8]| {
            let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            (Entry { path: path.to_owned(), attributes, size: body.len() as u64 }, body.to_vec())
        };
        let long = format!("{}/file", "folder".repeat(40));
        let entries = [
            entry("a.txt", &[("mode", "0644"), ("mtime-ns", "1700000000123456789"), ("uid", "0")], b"hello"),
            entry("folder/", &[("type", "dir"), ("mode", "0755")], b""),
            entry("link", &[("type", "symlink"), ("link-target", "../a.txt")], b""),
            entry(&long, &[("xattr.user.x", "base64:/w=="), ("content-type", "text/=%plain")], &[7; 600]),
            entry("ä\u{10ffff}\u{10ff80}", &[("mtime-ns", "-1"), ("gid", "4294967295")], b""),
            entry("large", &[], &vec![b'x'; 140 * 1024]),
        ];
        let (tar, index) = packed(&entries);
        let read = entries_of(&tar, Some(&index)).0;
        assert_eq!(read.len(), entries.len());
        (read, tar, index)
    })
}

/// Entries up to the end or to an error.
fn entries_of(tar: &[u8], index: Option<&[u8]>) -> (Vec<Whole>, Result<()>) {
    let source = |bytes: &[u8]| Box::new(InMemory::new(bytes.to_vec())) as Box<dyn ByteSource>;
    let mut reader = ArchiveReader::new(source(tar), index.map(source), Origin::Archive);
    let mut all = Vec::new();
    let end = loop {
        match reader.next_entry() {
            Ok(Some((entry, mut body))) => {
                // A stream that only its reader can end is not waited for.
                body.leash.release();
                match all_of(body.body.as_mut()) {
                    Ok(bytes) => all.push((entry, bytes)),
                    Err(error) => break Err(error),
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // Behind an error there is nothing more.
    assert!(matches!(reader.next_entry(), Ok(None) | Err(_)));
    (all, end)
}

/// Makes every block that looks like a header one whose checksum is right, so that changes get past it.
fn with_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

const WORDS: &[&str] = &[
    "99999999 path=x\n",
    "0 x=y\n",
    "6 x=y\n",
    "00000000000\0",
    "77777777777\0",
    "0000644\0",
    "ustar\x0000",
    "\0\0\0\0\0\0\0\0",
];

const KEYWORDS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "mtime",
    "uid",
    "gid",
    "SCHILY.xattr.user.x",
    "SCHILY.xattr.",
    "STRONGROOM.path",
    "STRONGROOM.attribute.type",
    "STRONGROOM.attribute.mtime-ns",
    "GNU.sparse.major",
];

const VALUES: &[&str] = &[
    "",
    "a",
    "/x",
    "../../../x",
    "folder/",
    "0",
    "512",
    "18446744073709551615",
    "18446744073709551616",
    "+5",
    "-1",
    "-0.5",
    "1700000000.123456789",
    "170141183460469231731687303715.999999999",
    "9223372036854775807.999999999",
    "-9223372036854775808.1",
    ".",
    "base64:/w==",
    "\u{10ff00}",
    "a=b\n",
];

/// A tar with these records and fields, and with lengths and sums that hold.
fn made_tar(input: &mut Input<'_>) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..=input.byte() % 3 {
        let mut records = Vec::new();
        for _ in 0..input.byte() % 5 {
            let keyword = if input.byte().is_multiple_of(8) { input.text() } else { (*input.one(KEYWORDS)).to_owned() };
            let value = if input.byte().is_multiple_of(4) { input.text() } else { (*input.one(VALUES)).to_owned() };
            let rest = 3 + keyword.len() + value.len();
            let len = (rest + 1..).find(|len| *len == rest + len.to_string().len()).expect("some length fits");
            records.extend(format!("{len} {keyword}={value}\n").into_bytes());
        }
        if !records.is_empty() {
            tar.extend(header(b'x', "pax", &format!("{:011o}", records.len()), input));
            tar.extend(&records);
            tar.resize(tar.len().next_multiple_of(BLOCK), 0);
        }
        let kind = *b"0250\0L"[..].get(usize::from(input.byte() % 6)).expect("six kinds");
        let body = input.below(700);
        let size = if kind == b'0' { body } else { 0 };
        tar.extend(header(kind, input.one(VALUES), &format!("{size:011o}"), input));
        tar.extend(vec![b'b'; size.next_multiple_of(BLOCK)]);
    }
    tar.extend([0; 2 * BLOCK]);
    with_checksums(&mut tar);
    tar
}

fn header(kind: u8, name: &str, size: &str, input: &mut Input<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let octal = |input: &mut Input<'_>, digits: u32| {
        let number = if input.byte().is_multiple_of(4) { input.number() } else { 0o644 };
        format!("{:01$o}\0", number % 8_u64.pow(digits), digits as usize)
    };
    let fields = [
        (0, name.to_owned()),
        (100, octal(input, 7)),
        (108, octal(input, 7)),
        (116, octal(input, 7)),
        (124, size.to_owned()),
        (136, octal(input, 11)),
        (157, input.one(VALUES).to_owned()),
        (257, "ustar\x0000".to_owned()),
        (345, if input.byte().is_multiple_of(8) { input.text() } else { String::new() }),
    ];
    for (at, text) in fields {
        let n = text.len().min(BLOCK - at);
        block[at..at + n].copy_from_slice(&text.as_bytes()[..n]);
    }
    block[156] = kind;
    block
}

fn changed_tar(input: &mut Input<'_>) -> Vec<u8> {
    let (_, tar, _) = good();
    let how = input.byte();
    let mut bytes = if how == u8::MAX {
        input.rest().to_vec()
    } else if how.is_multiple_of(4) {
        made_tar(input)
    } else {
        // Most of the archive is one large body; headers and records are before it.
        let mut tar = tar.clone();
        let cut = if input.byte().is_multiple_of(4) { tar.len() } else { 12 * BLOCK };
        let mut rest = tar.split_off(cut.min(tar.len()));
        for _ in 0..=input.byte() % 4 {
            if input.byte().is_multiple_of(2) {
                input.change(&mut tar, &[&good().1], WORDS);
            } else {
                // In place, so that what is behind stays where it was.
                let word = input.one(WORDS).as_bytes();
                let at = input.below(tar.len().max(1));
                let n = word.len().min(tar.len().saturating_sub(at));
                tar[at..at + n].copy_from_slice(&word[..n]);
            }
        }
        tar.append(&mut rest);
        tar
    };
    if !input.byte().is_multiple_of(4) {
        with_checksums(&mut bytes);
    }
    bytes
}

/// A tar that somebody else may have made.
pub(super) fn tar(input: &mut Input<'_>) {
    let tar = changed_tar(input);
    let (entries, end) = entries_of(&tar, None);
    if let Err(error) = &end {
        check_error(error, &[Kind::Damaged, Kind::Limit]);
    }
    let bodies: usize = entries.iter().map(|(_, body)| body.len()).sum();
    assert!(entries.len() * BLOCK + bodies <= tar.len(), "more came out than went in");
    for (entry, body) in &entries {
        assert_eq!(entry.size, body.len() as u64, "{entry:?}");
        assert!(entry.attributes.windows(2).all(|pair| pair[0].0 < pair[1].0), "{entry:?}");
    }
    // An archive of ours holds each path once.
    let mut seen = BTreeSet::new();
    let once: Vec<Whole> = entries.into_iter().filter(|(entry, _)| seen.insert(entry.path.clone())).collect();
    let (again, index) = packed(&once);
    let (reread, end) = entries_of(&again, Some(&index));
    end.expect("what was packed is read");
    for (was, is) in once.iter().zip(&reread) {
        assert_eq!(was.0, is.0);
        assert!(was.1 == is.1, "another body of {:?}", was.0.path);
    }
    assert_eq!(once.len(), reread.len());
}

/// Bytes in memory at any place.
struct Placed(Vec<u8>);

impl RandomAccess for Placed {
    fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(Bytes::copy_from_slice(&self.0[start..self.0.len().min(start.saturating_add(len))]))
    }
}

/// A tar and an index of which one is not what it was.
pub(super) fn indexed(input: &mut Input<'_>) {
    let (whole, tar, index) = good();
    let words = [
        "\"outcome\":\"unread\"",
        "\"whole\"",
        "\"short\"",
        "null",
        "{\"entries\":6}\n",
        "{\"strongroom_index\":2}\n",
        "{",
        "}",
        "\\u0000",
    ];
    let (tar_now, index_now) = match input.byte() % 2 {
        0 => (changed_tar(input), index.clone()),
        _ => (tar.clone(), input.edited(&[index], &words)),
    };
    let kinds = [Kind::Damaged, Kind::Failed, Kind::Limit, Kind::NotFound];
    let (read, end) = entries_of(&tar_now, Some(&index_now));
    if index_now == *index {
        // The index is proven in itself: what comes is what was packed, in its order, up to an error.
        for (was, is) in whole.iter().zip(&read) {
            assert_eq!(was.0, is.0);
            assert!(was.1 == is.1, "another body of {:?}", was.0.path);
        }
        assert!(end.is_err() || read.len() == whole.len(), "ended early without an error");
    } else {
        // What an index says of a body has to be true of it.
        for (entry, body) in &read {
            assert!(whole.iter().any(|(was, bytes)| was.path == entry.path && bytes == body), "{entry:?}");
        }
    }
    if let Err(error) = &end {
        check_error(error, &kinds);
    }

    let mut lines = IndexReader::new(Box::new(InMemory::new(index_now.clone())));
    let lines = std::iter::from_fn(|| lines.next_line().ok().flatten());
    for line in lines.collect::<Vec<_>>() {
        let again = serde_json::to_string(&line).expect("a line");
        assert_eq!(serde_json::from_str::<strongroom::stream::archive::IndexLine>(&again).expect("a line"), line);
    }
    let (at, places) = (Arc::new(Mutex::new(Placed(tar_now))), Arc::new(Mutex::new(Placed(index_now))));
    match IndexedArchive::open(at, places, Origin::Archive) {
        Ok(archive) => {
            for (was, bytes) in whole {
                match archive.entry(&was.path).and_then(|(_, mut body)| all_of(body.body.as_mut())) {
                    Ok(body) => assert!(body == *bytes, "another body of {:?}", was.path),
                    Err(error) => check_error(&error, &kinds),
                }
            }
        }
        Err(error) => check_error(&error, &kinds),
    }
}
