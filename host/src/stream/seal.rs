//! Sealing: segments as ordinary age files (age-encryption.org/v1) with X25519 recipients.
//!
//! The `age` crate writes and parses headers; wrappers around its recipient and identity see the
//! file key. The payload (64 KiB messages of ChaCha20-Poly1305 with a counter as nonce) is sealed
//! and opened here, any chunk at any time, so that it happens in parallel and in ranges. This
//! module never stores a key and never prints one.

use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};
use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::cell::Cell;
use std::collections::HashSet;
use std::io::Cursor;
use zeroize::Zeroizing;

/// Plaintext of one message of the payload, in bytes. Source: age-encryption.org/v1, "Payload".
pub const CHUNK_BYTES: usize = 64 << 10;
/// Authentication tag of one message, in bytes.
pub const TAG_BYTES: usize = 16;
/// One whole message at rest, in bytes.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Nonce of the payload, which follows the header and is counted as part of it here.
const NONCE_BYTES: usize = 16;
/// The longest header that is written or read, in bytes: some 600 recipients.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// How many messages a payload of `plain_bytes` has.
pub fn n_chunks(plain_bytes: u64) -> u64 {
    plain_bytes.div_ceil(CHUNK_BYTES as u64).max(1)
}

/// Length of the payload that holds `plain_bytes`, header not counted; `None` beyond 2^64.
pub fn sealed_bytes(plain_bytes: u64) -> Option<u64> {
    plain_bytes.checked_add(n_chunks(plain_bytes) * TAG_BYTES as u64)
}

/// Who can read what is written: public keys only.
#[derive(Clone)]
pub struct Recipients(Vec<age::x25519::Recipient>);

impl Recipients {
    /// Parses `age1…` strings; at least one. Errors: `Invalid`, quoting the string.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let parse = |text: &S| {
            let text = text.as_ref().trim();
            // A secret key pasted in the wrong place must not come back in a message.
            let shown = if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                "AGE-SECRET-KEY-…".to_owned()
            } else {
                text.chars().take(80).flat_map(char::escape_debug).collect()
            };
            text.parse().map_err(|reason: &str| {
                Error::invalid(format!("\"{shown}\" is not an age recipient"))
                    .fact("expected", "an X25519 public key, age1…")
                    .hint("`age-keygen -y key.txt` prints the recipient of an identity")
                    .because(reason)
            })
        };
        let recipients: Vec<_> = texts.iter().map(parse).collect::<Result<_>>()?;
        if recipients.is_empty() {
            return Err(Error::invalid("there is no recipient to seal for").hint("name at least one age1… key"));
        }
        Ok(Self(recipients))
    }

    /// The public keys as text, in the order given.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.to_strings()).finish()
    }
}

/// Private keys that can open segments. They are overwritten in memory when it is dropped.
#[derive(Clone)]
pub struct Identity(Vec<age::x25519::Identity>);

impl Identity {
    /// Parses the text of an age identity file: one `AGE-SECRET-KEY-1…` a line, empty lines and
    /// `#` comments between them. Errors: `Invalid`, with the number of the line and nothing of
    /// its text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut identities = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            identities.push(line.parse().map_err(|reason: &str| {
                Error::invalid(format!("line {} of the age identity is not a secret key", i + 1))
                    .fact("expected", "AGE-SECRET-KEY-1… or a comment")
                    .because(reason)
            })?);
        }
        if identities.is_empty() {
            return Err(Error::invalid("the age identity holds no secret key").hint("`age-keygen` makes one"));
        }
        Ok(Self(identities))
    }

    /// A new key, for `store init` and for tests.
    pub fn generate() -> Self {
        Self(vec![age::x25519::Identity::generate()])
    }

    /// The public keys that belong to it.
    pub fn to_recipients(&self) -> Recipients {
        Recipients(self.0.iter().map(age::x25519::Identity::to_public).collect())
    }

    /// The text of an identity file with these keys. Secret.
    pub fn to_secret(&self) -> crate::secret::Secret {
        let lines: Vec<_> = self.0.iter().map(age::x25519::Identity::to_string).collect();
        let mut text = String::with_capacity(lines.len() * 80);
        for line in &lines {
            text.push_str(line.expose_secret());
            text.push('\n');
        }
        crate::secret::Secret::new(text)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// The key of one segment's payload: seals and opens its messages in any order.
pub struct PayloadKey(LessSafeKey);

impl PayloadKey {
    fn derive(file_key: &[u8; 16], nonce: &[u8]) -> Result<Self> {
        let label: &[u8] = if failpoint::is_broken(Breakage::OwnPayloadKey) { b"parcel" } else { b"payload" };
        let key = Zeroizing::new(age_core::primitives::hkdf(nonce, label, file_key));
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice())
            .map_err(|_| Error::failed("the cipher did not take the payload key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts message `index` (from 0) in place and returns its tag. `is_last` for the last
    /// message of the payload only; the others hold exactly [`CHUNK_BYTES`]. An index must never
    /// be sealed twice with different bytes.
    pub fn seal(&self, index: u64, is_last: bool, chunk: &mut [u8]) -> Result<[u8; TAG_BYTES]> {
        let sealed = self.0.seal_in_place_separate_tag(nonce(index, is_last), Aad::empty(), chunk);
        let tag = sealed.map_err(|_| Error::failed(format!("could not seal message {index}")))?;
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Decrypts message `index` with its tag at the end into `plain`, which has exactly the length
    /// of the message without the tag. Errors: `Damaged`; `plain` is then without meaning.
    pub fn open(&self, index: u64, is_last: bool, sealed: &[u8], plain: &mut [u8]) -> Result<()> {
        let broken = || Error::damaged(format!("sealed message {index} is not as it was written"));
        let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or_else(broken)?;
        if text.len() != plain.len() {
            return Err(broken());
        }
        self.0.open_separate_gather(nonce(index, is_last), Aad::empty(), text, tag, plain).map_err(|_| broken())
    }
}

/// 11 bytes of counter, big-endian, and 1 for the last message.
fn nonce(index: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&index.to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

/// A file key on its way from the `age` crate to us.
type Caught = Cell<Option<Zeroizing<[u8; 16]>>>;

struct CatchingRecipient<'a> {
    inner: &'a age::x25519::Recipient,
    caught: &'a Caught,
}

impl age::Recipient for CatchingRecipient<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        self.caught.set(Some(Zeroizing::new(*file_key.expose_secret())));
        self.inner.wrap_file_key(file_key)
    }
}

struct CatchingIdentity<'a> {
    inner: &'a age::x25519::Identity,
    caught: &'a Caught,
}

impl age::Identity for CatchingIdentity<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let file_key = self.inner.unwrap_stanza(stanza)?;
        if let Ok(file_key) = &file_key {
            self.caught.set(Some(Zeroizing::new(*file_key.expose_secret())));
        }
        Some(file_key)
    }
}

/// Begins an age file: its header with the payload's nonce, and the key of the payload.
pub fn begin_file(recipients: &Recipients) -> Result<(Vec<u8>, PayloadKey)> {
    let caught = Caught::default();
    let catching: Vec<_> = recipients.0.iter().map(|inner| CatchingRecipient { inner, caught: &caught }).collect();
    let mut header = Vec::new();
    age::Encryptor::with_recipients(catching.iter().map(|recipient| recipient as &dyn age::Recipient))
        .map_err(|error| Error::failed("could not wrap a file key").because(error.to_string()))?
        .wrap_output(&mut header)
        .map_err(|error| Error::failed("could not write the header of an age file").because(error))?;
    if header.len() > MAX_HEADER_BYTES {
        return Err(Error::limit(format!("{} recipients are too many for one header", recipients.0.len()))
            .fact("expected", format!("at most {MAX_HEADER_BYTES} bytes"))
            .fact("got", format!("{} bytes", header.len())));
    }
    let file_key = caught.take().ok_or_else(|| Error::failed("the age header was written without a file key"))?;
    let payload_nonce = header.len().checked_sub(NONCE_BYTES).map(|start| &header[start..]);
    let payload_nonce = payload_nonce.ok_or_else(|| Error::failed("the age header has no nonce"))?;
    let key = PayloadKey::derive(&file_key, payload_nonce)?;
    Ok((header, key))
}

/// Opens the age file that begins with `head` (at least the whole header): the length of the
/// header with the nonce, and the key of the payload.
///
/// Errors: `Damaged` when it is not an age file or its header was changed, `Denied` when no key of
/// the identity opens it.
pub fn open_file(head: &[u8], identity: &Identity) -> Result<(usize, PayloadKey)> {
    use age::DecryptError as Age;
    let caught = Caught::default();
    let mut cursor = Cursor::new(head);
    let decryptor = age::Decryptor::new_buffered(&mut cursor).map_err(|error| match error {
        Age::UnknownFormat => Error::damaged("it is an age file of a version that is not known"),
        other => Error::damaged("it does not begin like an age file").because(other.to_string()),
    })?;
    let catching: Vec<_> = identity.0.iter().map(|inner| CatchingIdentity { inner, caught: &caught }).collect();
    // This checks the header's MAC as well; the reader that it returns is not used.
    let opened = decryptor.decrypt(catching.iter().map(|identity| identity as &dyn age::Identity)).map(drop);
    opened.map_err(|error| match error {
        Age::NoMatchingKeys => Error::denied("no key of the identity opens it")
            .fact("tried", identity.to_recipients().to_strings().join(", "))
            .hint("use the identity of one of its recipients; `verify --depth stored` tells whether its header is damaged"),
        Age::InvalidMac => Error::damaged("the header of the age file was changed"),
        other => Error::damaged("the age file could not be opened").because(other.to_string()),
    })?;
    let header_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let payload_nonce = header_bytes.checked_sub(NONCE_BYTES).and_then(|start| head.get(start..header_bytes));
    let payload_nonce = payload_nonce.ok_or_else(|| Error::damaged("the header of the age file has no end"))?;
    let file_key = caught.take().ok_or_else(|| Error::failed("the age header was opened without a file key"))?;
    Ok((header_bytes, PayloadKey::derive(&file_key, payload_nonce)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;
    use std::io::Read;

    fn seal_all(recipients: &Recipients, plain: &[u8]) -> Vec<u8> {
        let (mut file, key) = begin_file(recipients).unwrap();
        let n = n_chunks(plain.len() as u64);
        let header_bytes = file.len() as u64;
        for i in 0..n {
            let start = usize::try_from(i).unwrap() * CHUNK_BYTES;
            let mut chunk = plain[start..plain.len().min(start + CHUNK_BYTES)].to_vec();
            let tag = key.seal(i, i + 1 == n, &mut chunk).unwrap();
            file.extend(chunk);
            file.extend(tag);
        }
        assert_eq!(file.len() as u64, header_bytes + sealed_bytes(plain.len() as u64).unwrap());
        file
    }

    #[test]
    fn the_age_crate_reads_what_was_sealed_here() {
        let one = Identity::generate();
        let two = Identity::generate();
        let both = Recipients::parse(&[one.to_recipients().to_strings(), two.to_recipients().to_strings()].concat());
        let both = both.unwrap();
        for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let file = seal_all(&both, &plain);
            for identity in [&one, &two] {
                let decryptor = age::Decryptor::new(&file[..]).unwrap();
                let mut back = Vec::new();
                decryptor
                    .decrypt([&identity.0[0] as &dyn age::Identity].into_iter())
                    .unwrap()
                    .read_to_end(&mut back)
                    .unwrap();
                assert!(back == plain, "{len}");
            }
        }
    }

    #[test]
    fn what_the_age_crate_sealed_is_opened_here_chunk_by_chunk() {
        let identity = Identity::generate();
        let plain: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|i| (i % 13) as u8).collect();
        let file = age::encrypt(&identity.to_recipients().0[0], &plain).unwrap();
        let (header, key) = open_file(&file, &identity).unwrap();
        for i in [3_usize, 1, 0, 2] {
            let sealed = &file[header + i * SEALED_CHUNK_BYTES..file.len().min(header + (i + 1) * SEALED_CHUNK_BYTES)];
            let mut out = vec![0; sealed.len() - TAG_BYTES];
            key.open(i as u64, i == 3, sealed, &mut out).unwrap();
            assert!(plain[i * CHUNK_BYTES..].starts_with(&out), "{i}");
            for (index, is_last) in [(i as u64 + 1, i == 3), (i as u64, i != 3)] {
                assert_eq!(key.open(index, is_last, sealed, &mut out).unwrap_err().kind(), Kind::Damaged);
            }
        }
    }

    #[test]
    fn a_foreign_identity_is_denied_and_a_changed_header_is_never_opened() {
        let identity = Identity::generate();
        let file = seal_all(&identity.to_recipients(), b"x");
        assert_eq!(open_file(&file, &Identity::generate()).map(|_| ()).unwrap_err().kind(), Kind::Denied);
        let (header, _) = open_file(&file, &identity).unwrap();
        // The nonce at the end is proven by the first message, not by the header's MAC.
        for at in 0..header - NONCE_BYTES {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let kind = open_file(&changed, &identity).map(|_| ()).unwrap_err().kind();
            assert!(matches!(kind, Kind::Damaged | Kind::Denied), "byte {at}: {kind:?}");
        }
        for short in 0..header {
            assert!(open_file(&file[..short], &identity).is_err(), "{short}");
        }
    }

    #[test]
    fn an_identity_file_may_hold_comments_and_several_keys() {
        let (one, two) = (Identity::generate(), Identity::generate());
        let text = format!("# created\r\n\n{}  \n# other\n{}", one.to_secret().expose(), two.to_secret().expose());
        let both = Identity::parse(&text).unwrap();
        for sealed_for in [&one, &two] {
            assert!(open_file(&seal_all(&sealed_for.to_recipients(), b"x"), &both).is_ok());
        }
        assert_eq!(format!("{both:?}"), "Identity(…)");
    }

    #[test]
    fn wrong_keys_are_refused_without_showing_a_secret() {
        let secret = Identity::generate().to_secret();
        let error = Recipients::parse(&[secret.expose()]).unwrap_err();
        assert!(!format!("{error:?}").contains(secret.expose().trim()), "{error:?}");
        let broken = secret.expose().trim().replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2");
        let error = Identity::parse(&format!("# one\n{broken}")).unwrap_err();
        assert_eq!(error.message(), "line 2 of the age identity is not a secret key");
        assert!(!format!("{error:?}").contains(&broken[20..]), "{error:?}");
        for wrong in ["", "age1", "age1xyz", "ssh-ed25519 AAAA"] {
            assert_eq!(Recipients::parse(&[wrong]).unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
        assert_eq!(Recipients::parse::<&str>(&[]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(Identity::parse("# nothing").unwrap_err().kind(), Kind::Invalid);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_age_file_and_never_a_panic(bytes: Vec<u8>) {
            prop_assert!(open_file(&bytes, &Identity::generate()).is_err());
        }
    }
}
