//! One entry's header as tar blocks, and back: ustar, with pax records where ustar has no room.
//!
//! `mode`, `uid`, `gid`, `mtime-ns`, `type` and `link-target` go into the fields that tar has for them,
//! `xattr.*` into the records that GNU tar and star read (`SCHILY.xattr.*`). Whatever does not fit
//! there goes into `STRONGROOM.attribute.*`, so that no attribute is lost.
//! Sources: POSIX.1-2017 "pax", and GNU tar's manual for `SCHILY.xattr` and its `%` escapes.

use super::{Entry, MAX_ATTRIBUTES_BYTES, MAX_PATH_BYTES};
use crate::error::{Error, Result};
use crate::keytext;
use std::collections::BTreeMap;
use std::ops::Range;

pub(super) const BLOCK: usize = 512;
/// Bytes of an empty block pair, which ends an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// Most bytes of pax records before an entry: its path twice, its attributes, and their syntax.
const MAX_PAX_BYTES: u64 = 1 << 20;
const _: () = assert!(2 * MAX_PATH_BYTES + MAX_ATTRIBUTES_BYTES + 64 * super::MAX_ATTRIBUTES < 1 << 20);

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
const OURS: &str = "STRONGROOM.attribute.";
const OUR_PATH: &str = "STRONGROOM.path";
const XATTR: &str = "SCHILY.xattr.";

/// Zeros after a body of this size, up to the next block.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % 512).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// The blocks before an entry's body.
pub(super) fn head(entry: &Entry) -> Vec<u8> {
    let mut header = Header::default();
    let attributes: BTreeMap<&str, &str> = entry.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let target = attributes.get("link-target").and_then(|target| keytext::decode(target).ok());
    let kind = match (attributes.get("type").copied(), entry.size, &target) {
        (Some("dir"), 0, None) => b'5',
        (Some("symlink"), 0, Some(target)) if !target.is_empty() && !target.contains(&0) => b'2',
        _ => b'0',
    };
    header.block[TYPE] = kind;
    header.octal(MODE, if kind == b'5' { 0o700 } else { 0o600 });
    for range in [UID, GID, MTIME] {
        header.octal(range, 0);
    }
    header.path(&entry.path);
    if !header.octal(SIZE, entry.size) {
        header.record("size", entry.size.to_string().as_bytes());
    }
    for (name, value) in attributes {
        if !header.attribute(kind, name, value, target.as_deref()) {
            header.record(&format!("{OURS}{}", escape(name)), value.as_bytes());
        }
    }
    header.finish()
}

struct Header {
    block: [u8; BLOCK],
    pax: Vec<u8>,
}

impl Default for Header {
    fn default() -> Self {
        let mut block = [0; BLOCK];
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        Self { block, pax: Vec::new() }
    }
}

impl Header {
    /// Writes a number with a NUL at its end; false when the field is too short.
    fn octal(&mut self, field: Range<usize>, value: u64) -> bool {
        let digits = field.len() - 1;
        let text = format!("{value:0digits$o}");
        let fits = text.len() == digits;
        self.block[field][..digits].copy_from_slice(if fits { text.as_bytes() } else { &[b'0'; 11][..digits] });
        fits
    }

    fn record(&mut self, key: &str, value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.pax.extend_from_slice(format!("{len} {key}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
    }

    fn path(&mut self, path: &str) {
        let raw = match keytext::decode(path) {
            Ok(raw) if !raw.contains(&0) => raw,
            _ => {
                self.record(OUR_PATH, path.as_bytes());
                path.as_bytes().to_vec()
            }
        };
        if raw.len() <= NAME.len() {
            self.block[..raw.len()].copy_from_slice(&raw);
            return;
        }
        let from = raw.len() - NAME.len() - 1;
        let split = (from..raw.len() - 1).find(|at| raw[*at] == b'/').filter(|at| (1..=PREFIX.len()).contains(at));
        if let Some(at) = split {
            self.block[PREFIX][..at].copy_from_slice(&raw[..at]);
            self.block[NAME][..raw.len() - at - 1].copy_from_slice(&raw[at + 1..]);
            return;
        }
        self.block[NAME].copy_from_slice(&raw[..NAME.len()]);
        if std::str::from_utf8(&raw).is_err() {
            self.record("hdrcharset", b"BINARY");
        }
        self.record("path", &raw);
    }

    /// Puts an attribute where tar has a place for exactly it; false where it has none.
    fn attribute(&mut self, kind: u8, name: &str, value: &str, target: Option<&[u8]>) -> bool {
        let number = |radix| u64::from_str_radix(value, radix).ok();
        match name {
            "type" => value == kind_name(kind),
            "mode" => match number(8).filter(|mode| *mode <= 0o7777 && format!("{mode:04o}") == value) {
                Some(mode) => self.octal(MODE, mode),
                None => false,
            },
            "uid" | "gid" => match number(10).filter(|id| id.to_string() == value) {
                Some(id) => {
                    if !self.octal(if name == "uid" { UID } else { GID }, id) {
                        self.record(name, value.as_bytes());
                    }
                    true
                }
                None => false,
            },
            "mtime-ns" => match value.parse::<i128>().ok().filter(|ns| in_time(*ns) && ns.to_string() == value) {
                Some(ns) => {
                    let whole = u64::try_from(ns).ok().filter(|ns| ns % 1_000_000_000 == 0);
                    if !whole.is_some_and(|ns| self.octal(MTIME, ns / 1_000_000_000)) {
                        self.record("mtime", seconds(ns).as_bytes());
                    }
                    true
                }
                None => false,
            },
            "link-target" => match target.filter(|_| kind == b'2') {
                Some(target) if target.len() <= LINK.len() => {
                    self.block[LINK][..target.len()].copy_from_slice(target);
                    true
                }
                Some(target) => {
                    self.record("linkpath", target);
                    true
                }
                None => false,
            },
            _ => match (name.strip_prefix("xattr."), keytext::value_bytes(value)) {
                (Some(xattr), Some(bytes)) if !xattr.is_empty() && keytext::value_text(bytes.clone()) == value => {
                    self.record(&format!("{XATTR}{}", escape(xattr)), &bytes);
                    true
                }
                _ => false,
            },
        }
    }

    fn finish(mut self) -> Vec<u8> {
        seal(&mut self.block);
        if self.pax.is_empty() {
            return self.block.to_vec();
        }
        let mut extra = Header::default();
        extra.block[..17].copy_from_slice(b"PaxHeaders/record");
        extra.block[TYPE] = b'x';
        for (range, value) in [(MODE, 0o600), (UID, 0), (GID, 0), (MTIME, 0)] {
            extra.octal(range, value);
        }
        let len = u64::try_from(self.pax.len()).unwrap_or(u64::MAX);
        extra.octal(SIZE, len);
        seal(&mut extra.block);
        self.pax.resize(self.pax.len() + padding(len), 0);
        [extra.block.as_slice(), &self.pax, &self.block].concat()
    }
}

fn seal(block: &mut [u8; BLOCK]) {
    let sum = checksum(block);
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Sum of the block's bytes, with spaces in place of the sum itself.
fn checksum(block: &[u8]) -> u32 {
    let all: u32 = block.iter().copied().map(u32::from).sum();
    let own: u32 = block[CHECKSUM].iter().copied().map(u32::from).sum();
    all - own + 8 * u32::from(b' ')
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        b'5' => "dir",
        b'2' => "symlink",
        _ => "file",
    }
}

/// Times that fit into 64 bits of seconds.
fn in_time(ns: i128) -> bool {
    i64::try_from(ns.div_euclid(1_000_000_000)).is_ok()
}

fn seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}.{:09}", ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000)
}

/// `=` ends a keyword, so it is escaped, as is the escape.
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('=', "%3D")
}

fn unescape(name: &str) -> String {
    name.replace("%3D", "=").replace("%25", "%")
}

fn damaged(got: impl Into<String>) -> Error {
    Error::damaged("could not read an archive's header").fact("got", got)
}

/// What a block says that is not the body of anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Half of the end of an archive.
    Empty,
    /// Pax records of this many bytes follow, for the entry after them.
    Pax(u64),
    /// An entry, of which the records may say more.
    Entry(Box<[u8; BLOCK]>),
}

/// Tells the blocks between bodies apart. Any 512 bytes give a block or `Damaged`.
pub(super) fn parse_block(bytes: &[u8]) -> Result<Block> {
    let block: &[u8; BLOCK] = bytes.try_into().map_err(|_| damaged("less than a block"))?;
    if block.iter().all(|b| *b == 0) {
        return Ok(Block::Empty);
    }
    if number(&block[CHECKSUM]) != Some(u64::from(checksum(block))) {
        return Err(damaged("a block whose checksum does not match"));
    }
    match block[TYPE] {
        b'x' => match number(&block[SIZE]) {
            Some(len) if len <= MAX_PAX_BYTES => Ok(Block::Pax(len)),
            _ => Err(damaged("pax records of more than 1 MiB")),
        },
        b'0' | b'2' | b'5' | 0 => Ok(Block::Entry(Box::new(*block))),
        other => Err(damaged(format!("an entry of type {:?}", char::from(other)))),
    }
}

/// The records before an entry, by keyword.
#[derive(Debug, Default)]
pub(super) struct Pax(BTreeMap<String, Vec<u8>>);

impl Pax {
    /// Any bytes give records or `Damaged`.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut all = BTreeMap::new();
        while !bytes.is_empty() {
            let bad = || damaged("a pax record that is not as it should be");
            let space = bytes.iter().take(8).position(|b| *b == b' ').ok_or_else(bad)?;
            let digits = std::str::from_utf8(&bytes[..space]).map_err(|_| bad())?;
            let len: usize = digits.parse().map_err(|_| bad())?;
            let record = bytes.get(space + 1..len).ok_or_else(bad)?;
            let (b'\n', record) = record.split_last().ok_or_else(bad)? else { return Err(bad()) };
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            all.insert(keytext::encode(&record[..equals]), record[equals + 1..].to_vec());
            bytes = &bytes[len..];
        }
        Ok(Self(all))
    }
}

/// An entry from its header and the records before it.
pub(super) fn parse_entry(block: &[u8; BLOCK], mut pax: Pax) -> Result<Entry> {
    let field = |range: Range<usize>| number(&block[range]).ok_or_else(|| damaged("a field that is not a number"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| damaged("a record that is not UTF-8"));
    let decimal = |pax: &mut Pax, key: &str, range: Range<usize>| match pax.0.remove(key) {
        None => field(range),
        Some(value) => text(value)?.parse().map_err(|_| damaged(format!("a {key} that is not a number"))),
    };
    let kind = match block[TYPE] {
        0 => b'0',
        kind => kind,
    };
    let size = decimal(&mut pax, "size", SIZE)?;
    let size = if kind == b'0' || size == 0 { size } else { return Err(damaged("a directory or link with a body")) };
    let raw = match pax.0.remove("path") {
        Some(path) => path,
        None => match (until_nul(&block[PREFIX]), until_nul(&block[NAME])) {
            (b"", name) => name.to_vec(),
            (prefix, name) => [prefix, b"/", name].concat(),
        },
    };
    let path = match pax.0.remove(OUR_PATH) {
        Some(path) => text(path)?,
        None => keytext::encode(&raw),
    };
    super::check_path(&path).map_err(|error| damaged(error.message()))?;
    let mut all = BTreeMap::from([
        ("type".to_owned(), kind_name(kind).to_owned()),
        ("mode".to_owned(), format!("{:04o}", field(MODE)? & 0o7777)),
        ("uid".to_owned(), decimal(&mut pax, "uid", UID)?.to_string()),
        ("gid".to_owned(), decimal(&mut pax, "gid", GID)?.to_string()),
    ]);
    let mtime = match pax.0.remove("mtime") {
        Some(value) => nanoseconds(&text(value)?).ok_or_else(|| damaged("a time that is not one"))?,
        None => i128::from(field(MTIME)?) * 1_000_000_000,
    };
    all.insert("mtime-ns".to_owned(), mtime.to_string());
    let linkpath = pax.0.remove("linkpath");
    if kind == b'2' {
        let target = linkpath.unwrap_or_else(|| until_nul(&block[LINK]).to_vec());
        all.insert("link-target".to_owned(), keytext::encode(&target));
    }
    for (key, value) in pax.0 {
        if let Some(name) = key.strip_prefix(XATTR) {
            all.insert(format!("xattr.{}", unescape(name)), keytext::value_text(value));
        } else if let Some(name) = key.strip_prefix(OURS) {
            all.insert(unescape(name), text(value)?);
        }
    }
    let attributes = super::merged(all.into_iter().collect(), Vec::new()).map_err(|error| damaged(error.message()))?;
    Ok(Entry { path, attributes, size })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// An octal field: digits, with spaces or NULs after them.
fn number(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|b| !b.is_ascii_digit()).unwrap_or(field.len());
    let rest_is_empty = field[end..].iter().all(|b| matches!(b, 0 | b' '));
    let digits = std::str::from_utf8(&field[..end]).ok().filter(|_| rest_is_empty)?;
    u64::from_str_radix(digits, 8).ok()
}

/// Seconds with up to nine decimals as nanoseconds.
fn nanoseconds(text: &str) -> Option<i128> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 9 || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = whole.parse::<i128>().ok()?.checked_mul(1_000_000_000)?;
    let ns = sign * whole.checked_add(format!("{part:0<9}").parse().ok()?)?;
    in_time(ns).then_some(ns)
}
