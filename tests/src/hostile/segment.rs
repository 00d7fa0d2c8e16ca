//! Stored bytes: tails, frames, age files, and whole artifacts of segments.

use super::{Input, check_error, in_full};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use strongroom::error::{Error, Kind, Result};
use strongroom::record::ArtifactRecord;
use strongroom::stream::digest::{crc64nvme, piece, show_crc};
use strongroom::stream::frame::{FRAME_BYTES, FrameDecoder, FrameEncoder, MAX_FRAME_STORED_BYTES};
use strongroom::stream::memory::MemorySegments;
use strongroom::stream::seal::{self, CHUNK_BYTES, SEALED_CHUNK_BYTES, TAG_BYTES};
use strongroom::stream::source::InMemory;
use strongroom::stream::tail::Tail;
use strongroom::stream::{
    Budget, BudgetSettings, ByteSource, Compression, Identity, MIN_PART_BYTES, Origin, Recipients, Source,
    WriteOptions, check_stored, open_artifact, write_artifact,
};
use tokio_util::sync::CancellationToken;

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    std::iter::repeat_with(|| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// Text that compresses.
fn text(len: usize) -> Vec<u8> {
    (0_u64..).flat_map(|i| format!("{i}\tcustomer {}\tactive\n", i % 977).into_bytes()).take(len).collect()
}

/// The closing frames of a segment.
pub(super) fn tail(input: &mut Input<'_>) {
    let mut good = Tail::default();
    let n = 1 + input.below(5);
    for i in 0..n {
        let plain = if i + 1 == n { input.below(FRAME_BYTES + 1) } else { FRAME_BYTES };
        let stored = 1 + input.below(MAX_FRAME_STORED_BYTES);
        let size = |bytes: usize| u32::try_from(bytes).expect("a frame is small");
        good.push(size(stored), size(plain), [input.byte(); 32]);
    }
    let encoded = good.encode().expect("five frames have a tail");
    assert_eq!(Tail::parse(&encoded, good.n_frames(), good.zstd_bytes()).expect("a good tail"), good);
    let bytes = input.edited(&[&encoded], &["\0\0\0\0", "[*M\u{18}", "^*M\u{18}"]);
    let (n_frames, zstd_bytes) = match input.byte() % 4 {
        0 => (input.number(), input.number()),
        1 => (input.number() % 8, good.zstd_bytes()),
        2 => (good.n_frames(), input.number()),
        _ => (good.n_frames(), good.zstd_bytes()),
    };
    match Tail::parse(&bytes, n_frames, zstd_bytes) {
        Ok(tail) => {
            assert!(tail.encode().expect("a tail") == bytes, "two ways to write a tail");
            assert_eq!((tail.n_frames(), tail.zstd_bytes()), (n_frames, zstd_bytes));
        }
        Err(error) => check_error(&error, &[Kind::Damaged]),
    }
}

/// A frame whose chaining value nobody has compared yet.
pub(super) fn frame(input: &mut Input<'_>) {
    let len = input.below(40_000);
    let plain = if input.byte().is_multiple_of(2) { text(len) } else { noise(len, 3) };
    let compression = match input.byte() % 4 {
        0 => Compression::Raw,
        level => Compression::Level(i32::from(level)),
    };
    let mut stored = vec![0; MAX_FRAME_STORED_BYTES];
    let n = FrameEncoder::new().encode(&plain, compression, &mut stored).expect("a frame");
    let bytes = input.edited(&[&stored[..n]], &["(\u{b5}/\u{fd}", "P*M\u{18}"]);
    let room = match input.byte() % 3 {
        0 => len,
        1 => input.below(FRAME_BYTES + 1),
        _ => len.saturating_add_signed(isize::from(input.byte()) - 128).min(FRAME_BYTES),
    };
    let decode = || {
        let mut out = vec![0xa5; room];
        FrameDecoder::new().decode(&bytes, &mut out).map(|()| out)
    };
    match decode() {
        Ok(out) => {
            assert!(decode().expect("decoded once") == out, "decoded twice and not the same");
            assert!(bytes != stored[..n] || out == plain, "what was not changed is not what it was");
        }
        Err(error) => {
            check_error(&error, &[Kind::Damaged]);
            assert!(bytes != stored[..n] || room != len, "a good frame is refused");
        }
    }
}

fn identities() -> &'static [Identity; 2] {
    static IDENTITIES: OnceLock<[Identity; 2]> = OnceLock::new();
    IDENTITIES.get_or_init(|| [Identity::generate(), Identity::generate()])
}

/// An age file, header and payload.
pub(super) fn sealed(input: &mut Input<'_>) {
    let [one, two] = identities();
    let recipients = match input.byte() % 2 {
        0 => one.to_recipients(),
        _ => Recipients::parse(&[two.to_recipients().to_strings(), one.to_recipients().to_strings()].concat())
            .expect("two recipients"),
    };
    let plain = noise([0, 1, 100, CHUNK_BYTES, CHUNK_BYTES + 1][input.below(5)], 4);
    let (mut good, key) = seal::begin_file(&recipients).expect("a file");
    let header_bytes = good.len();
    let n_chunks = seal::n_chunks(plain.len() as u64);
    for i in 0..n_chunks {
        let start = usize::try_from(i).expect("few") * CHUNK_BYTES;
        let mut chunk = plain[start..plain.len().min(start + CHUNK_BYTES)].to_vec();
        let tag = key.seal(i, i + 1 == n_chunks, &mut chunk).expect("sealed");
        good.extend(chunk);
        good.extend(tag);
    }
    let words = ["-> X25519 ", "\n--- ", "age-encryption.org/v1\n", "-> grease\n\n", "\n", "-> ", "="];
    let bytes = if input.byte().is_multiple_of(2) {
        // The header is where something is parsed.
        let mut head = input.edited(&[&good[..header_bytes]], &words);
        head.extend(&good[header_bytes..]);
        head
    } else {
        input.edited(&[&good], &words)
    };
    let opened = (|| {
        let (header, key) = seal::open_file(&bytes, one)?;
        let mut out = Vec::new();
        let sealed = bytes.get(header..).unwrap_or_default();
        let n = sealed.len().div_ceil(SEALED_CHUNK_BYTES).max(1);
        for (i, chunk) in sealed.chunks(SEALED_CHUNK_BYTES).enumerate() {
            let mut opened = vec![0; chunk.len().saturating_sub(TAG_BYTES)];
            key.open(i as u64, i + 1 == n, chunk, &mut opened)?;
            out.extend(opened);
        }
        if sealed.is_empty() { Err(Error::damaged("no payload")) } else { Ok(out) }
    })();
    match opened {
        Ok(out) => assert!(out == plain && bytes == good, "another file was opened"),
        Err(error) => {
            check_error(&error, &[Kind::Damaged, Kind::Denied, Kind::Limit]);
            assert!(bytes != good, "a good file is refused: {error:?}");
        }
    }
}

/// A runtime and a budget of small parts, which make several segments of a few MiB.
struct Kit {
    runtime: tokio::runtime::Runtime,
    budget: Arc<Budget>,
}

/// An artifact as it was stored.
#[derive(Clone)]
struct Stored {
    plain: Arc<Vec<u8>>,
    segments: BTreeMap<u32, Bytes>,
    record: ArtifactRecord,
    identity: Option<Identity>,
}

fn kit() -> &'static (Kit, Vec<Stored>) {
    static KIT: OnceLock<(Kit, Vec<Stored>)> = OnceLock::new();
    KIT.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let settings = BudgetSettings { n_workers: 1, n_parts_in_flight: 4, part_bytes: MIN_PART_BYTES };
        let kit = Kit { runtime: runtime.expect("a runtime"), budget: Budget::new(settings).expect("a budget") };
        let identity = &identities()[0];
        let mut all = Vec::new();
        // The large ones last: most inputs are spent on the small ones, whose every byte is in reach.
        for (name, plain, raw) in [
            ("shop.dump", text(700), false),
            ("shop.dump", text(705), true),
            ("empty", Vec::new(), false),
            ("noise", noise(70_000, 5), false),
            ("large", [noise(2 * FRAME_BYTES, 6), text(5000)].concat(), false),
        ] {
            for identity in [None, Some(identity)] {
                all.push(kit.store(name, plain.clone(), raw, identity));
            }
        }
        (kit, all)
    })
}

impl Kit {
    fn store(&self, name: &str, plain: Vec<u8>, raw: bool, identity: Option<&Identity>) -> Stored {
        let segments = MemorySegments::default();
        let name: strongroom::id::ArtifactName = name.parse().expect("a name");
        let options = WriteOptions {
            parts_per_segment: 11,
            recipients: identity.map(|identity| Arc::new(identity.to_recipients())),
            compression: if raw { Compression::Raw } else { Compression::default() },
            ..WriteOptions::new(name.clone())
        };
        let source = Source::new(Origin::Plugin, InMemory::new(plain.clone()));
        let to = Arc::new(segments.clone());
        let write = write_artifact(source, options, &self.budget, to, |_| {}, CancellationToken::new());
        let stored = self.runtime.block_on(write).expect("stored");
        let record = ArtifactRecord {
            name,
            size: stored.size,
            blake3: stored.blake3,
            media_type: None,
            origin: Origin::Plugin,
            encrypted: stored.encrypted,
            segments: stored.segments,
            index: None,
        };
        Stored { plain: Arc::new(plain), segments: segments.visible(), record, identity: identity.cloned() }
    }

    /// What leaves of these segments, and how it ended.
    fn read(&self, now: &Stored) -> (Vec<u8>, Result<()>) {
        let mut out = Vec::new();
        let from = Arc::new(memory(&now.segments));
        let open = open_artifact(&now.record, from, now.identity.as_ref(), &self.budget, CancellationToken::new());
        let end = self.runtime.block_on(open).and_then(|mut reader| {
            while let Some(bytes) = reader.next_chunk()? {
                out.extend_from_slice(&bytes);
            }
            Ok(())
        });
        (out, end)
    }

    fn read_at(&self, now: &Stored, at: u64, len: usize) -> Result<Bytes> {
        let from = Arc::new(memory(&now.segments));
        let open = open_artifact(&now.record, from, now.identity.as_ref(), &self.budget, CancellationToken::new());
        self.runtime.block_on(open)?.read_at(at, len)
    }

    fn check(&self, now: &Stored) -> Result<()> {
        let from = memory(&now.segments);
        self.runtime.block_on(check_stored(&now.record, &from, &self.budget, |_| {}, CancellationToken::new()))
    }
}

fn memory(segments: &BTreeMap<u32, Bytes>) -> MemorySegments {
    let memory = MemorySegments::default();
    for (number, bytes) in segments {
        memory.put(*number, Some(bytes.clone()));
    }
    memory
}

/// An artifact whose segments, or the numbers in whose record, are not what they were.
pub(super) fn segment(input: &mut Input<'_>) {
    let (kit, all) = kit();
    // One in sixteen is a large one.
    let which = usize::from(input.byte()) % 128;
    let good = &all[if which < 8 { 8 + which % 2 } else { which % 8 }];
    let mut now = good.clone();
    for _ in 0..=input.byte() % 3 {
        change(input, &mut now, all);
    }
    let is_same = now.segments == good.segments && now.record == good.record;

    let (out, end) = kit.read(&now);
    assert!(good.plain.starts_with(&out), "a wrong byte left");
    match end {
        Ok(()) => assert!(out == *good.plain, "cut short without an error"),
        Err(error) => {
            assert!(!is_same, "a good artifact is refused: {error:?}");
            check_named(&error, &now.record);
        }
    }
    match kit.check(&now) {
        Ok(()) => assert!(is_as_recorded(&now), "the check found nothing"),
        Err(error) => {
            assert!(!is_as_recorded(&now), "what is stored as recorded is found damaged: {error:?}");
            check_named(&error, &now.record);
        }
    }
    let at = input.below(good.plain.len() + 2);
    let len = 1 + input.below(300);
    if let Ok(bytes) = kit.read_at(&now, at as u64, len) {
        assert!(good.plain.get(at..at + len) == Some(&bytes[..]), "a wrong byte at {at}");
    }
}

/// Whether every segment of the record is there with its size and its two sums.
fn is_as_recorded(now: &Stored) -> bool {
    let segments = (1..).zip(&now.record.segments);
    let mut fitting = segments.map(|(number, record)| {
        now.segments.get(&number).is_some_and(|bytes| {
            bytes.len() as u64 == record.stored_bytes
                && piece(0, bytes).alone.to_string() == record.blake3
                && show_crc(crc64nvme(bytes)) == record.crc64nvme
        })
    });
    !now.record.segments.is_empty() && fitting.all(|fits| fits)
}

/// The error names the artifact, and the segment unless the record itself cannot be true.
fn check_named(error: &Error, record: &ArtifactRecord) {
    check_error(error, &[Kind::Damaged, Kind::Denied]);
    let said = in_full(error);
    assert!(said.contains(&format!("artifact \"{}\"", record.name)), "{said}");
    let is_of_the_record = ["contradicts itself", "is encrypted", "no segment", "the record is not true"];
    let names_segment = (1..=record.segments.len()).any(|n| said.contains(&format!("segment {n:04}")));
    assert!(names_segment || is_of_the_record.iter().any(|words| said.contains(words)), "{said}");
}

/// One change of stored bytes or of the record.
fn change(input: &mut Input<'_>, now: &mut Stored, all: &[Stored]) {
    let n = now.record.segments.len();
    let number = u32::try_from(1 + input.below(n.max(1))).expect("few");
    let other = &all[input.below(all.len())];
    match input.byte() % 16 {
        0 => drop(now.segments.remove(&number)),
        1 => {
            // Another artifact's, or that of another time.
            let from = u32::try_from(1 + input.below(other.segments.len())).expect("few");
            now.segments.insert(number, other.segments[&from].clone());
        }
        2 => {
            let to = u32::try_from(1 + input.below(n.max(1))).expect("few");
            let (a, b) = (now.segments.get(&number).cloned(), now.segments.get(&to).cloned());
            now.segments.extend(a.map(|a| (to, a)).into_iter().chain(b.map(|b| (number, b))));
        }
        3 => {
            if let Some(bytes) = now.segments.get_mut(&number) {
                *bytes = bytes.slice(..input.below(bytes.len() + 1));
            }
        }
        4 => now.record.size = near(input, now.record.size),
        5 => now.record.encrypted = !now.record.encrypted,
        6 => now.record.blake3 = blake3_of(input, &other.record.blake3),
        7 if n > 0 => {
            let i = input.below(n);
            let segment = &mut now.record.segments[i];
            match input.byte() % 6 {
                0 => segment.frames = near(input, segment.frames),
                1 => segment.zstd_bytes = near(input, segment.zstd_bytes),
                2 => segment.stored_bytes = near(input, segment.stored_bytes),
                3 => {
                    segment.zstd_bytes = near(input, segment.zstd_bytes);
                    segment.stored_bytes = segment.zstd_bytes;
                }
                4 => segment.blake3 = blake3_of(input, &other.record.blake3),
                _ => segment.crc64nvme = format!("{:016x}", input.number()),
            }
        }
        8 if n > 0 => {
            let i = input.below(n);
            match input.byte() % 3 {
                0 => drop(now.record.segments.remove(i)),
                1 => now.record.segments.insert(i, other.record.segments[0].clone()),
                _ => now.record.segments.reverse(),
            }
        }
        _ => {
            if let Some(bytes) = now.segments.get_mut(&number) {
                let mut changed = bytes.to_vec();
                input.change(&mut changed, &[&other.segments[&1]], &["\0\0\0\0"]);
                *bytes = changed.into();
            }
        }
    }
}

fn near(input: &mut Input<'_>, number: u64) -> u64 {
    match input.byte() % 4 {
        0 => input.number(),
        1 => number.wrapping_add(1),
        2 => number.wrapping_sub(1),
        _ => number.wrapping_add(u64::from(input.byte()) * FRAME_BYTES as u64),
    }
}

fn blake3_of(input: &mut Input<'_>, other: &str) -> String {
    match input.byte() % 3 {
        0 => other.to_owned(),
        1 => input.text(),
        _ => format!("{:064x}", input.number()),
    }
}
