//! Signatures on components: the format of minisign, prehashed (`ED`), checkable with `minisign -V`.
//!
//! What is signed are the bytes of the file, so nothing of a component is looked into before. The
//! trusted comment is signed as well and checked with it. A key is believed because an operator
//! named it, never because it came with a plugin.

use super::speech;
use crate::error::{Error, Result};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};
use std::io::Cursor;

/// What the name of a signature's file ends in, after the component's whole name.
pub const SUFFIX: &str = ".minisig";

/// Longest signature file in bytes: two comments and two lines of base64.
pub const MAX_BYTES: usize = 16 << 10;

/// A public key that an operator trusts, as minisign writes it: 56 characters of base64.
#[derive(Clone)]
pub struct TrustedKey {
    text: String,
    key: PublicKey,
}

/// A signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Number of the key, as minisign prints it.
    pub key_id: String,
    /// The public key that it was checked with.
    pub key: String,
    /// The trusted comment, escaped for one line.
    pub comment: String,
}

/// A new pair of keys, each as the text of its file.
pub struct NewKeys {
    /// For who signs; keep it off the machines that run plugins.
    pub secret: Secret,
    /// For who trusts; its second line goes into `trusted_keys`.
    pub public: String,
    /// The second line of `public`.
    pub public_line: String,
    /// Number of the key.
    pub key_id: String,
}

impl std::fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrustedKey").field(&self.text).finish()
    }
}

impl PartialEq for TrustedKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl TrustedKey {
    /// A key as `minisign` prints it and as the second line of its `.pub` file holds it.
    ///
    /// Errors: `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid("this is not a public key of minisign")
                .fact("expected", "56 characters of base64 that begin with \"RW\"")
                .hint("paste the second line of the vendor's .pub file")
        };
        let text = text.trim();
        if !text.starts_with("RW") || text.len() != 56 {
            return Err(refuse());
        }
        let key = PublicKey::from_base64(text).map_err(|error| refuse().because(error.to_string()))?;
        Ok(Self { text: text.to_owned(), key })
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its number, as minisign prints it.
    pub fn id(&self) -> String {
        key_id(self.key.keynum())
    }
}

/// Eight bytes, the last one first, in upper case.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

/// Checks the text of a `.minisig` file over `bytes` with the key of `keys` that its number names.
///
/// Errors: `Invalid` for what is not such a file; `Denied` for a key that is not trusted, for a
/// signature over other bytes or another comment, and for the old kind that is not prehashed.
pub fn verify(bytes: &[u8], signature: &str, keys: &[TrustedKey]) -> Result<Signed> {
    let parsed = parse(signature)?;
    let id = key_id(parsed.keynum());
    // Several keys may bear one number: it is a name and no proof.
    let named: Vec<&TrustedKey> = keys.iter().filter(|key| key.id() == id).collect();
    if named.is_empty() {
        let known: Vec<_> = keys.iter().map(TrustedKey::id).collect();
        return Err(Error::denied("the signature is by a key that is not trusted")
            .fact(
                "expected",
                if known.is_empty() { "no key is trusted".to_owned() } else { format!("key {}", known.join(", ")) },
            )
            .fact("got", format!("key {id}"))
            .hint("if the key is the vendor's, add its public key to trusted_keys"));
    }
    if !parsed.is_prehashed() {
        return Err(Error::denied("the signature is of the old kind, which is not accepted")
            .fact("expected", "a prehashed signature (ED)")
            .hint("sign it again: strongroom plugin sign, or minisign -S -H"));
    }
    let mut why = String::new();
    for key in named {
        match minisign::verify(&key.key, &parsed, Cursor::new(bytes), true, false, false) {
            Ok(()) => {
                let comment = parsed.trusted_comment().unwrap_or_default();
                return Ok(Signed { key_id: id, key: key.text.clone(), comment: speech::line(&comment) });
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(Error::denied("the signature is not one over these bytes and this comment")
        .fact("key", id)
        .hint("the file or its signature was changed: fetch both again from the vendor")
        .because(why.to_lowercase()))
}

/// The parts of a signature file, none of them believed. The library wants lines of the right length.
fn parse(text: &str) -> Result<SignatureBox> {
    let refuse = |got: &str| {
        Error::invalid("the signature file is not one of minisign")
            .fact("expected", "two comments, each followed by a line of base64")
            .fact("got", got.to_owned())
    };
    if text.len() > MAX_BYTES {
        return Err(refuse("a file that is too long"));
    }
    let lines: Vec<&str> = text.lines().collect();
    let [_, signature, _, global] = lines.as_slice() else { return Err(refuse(&format!("{} lines", lines.len()))) };
    for (what, line, bytes) in [("signature", signature, 74), ("signature of the comment", global, 64)] {
        let decoded = STANDARD
            .decode(line.trim())
            .map_err(|error| refuse(&format!("a {what} that is no base64")).because(error))?;
        if decoded.len() != bytes {
            return Err(refuse(&format!("a {what} of {} bytes", decoded.len())));
        }
    }
    SignatureBox::from_string(text).map_err(|error| refuse("another text").because(error.to_string().to_lowercase()))
}

/// Makes a pair of keys. With a password the secret key is encrypted as minisign does it (scrypt);
/// without, it lies in its file as it is.
///
/// Errors: `Failed` without random numbers.
pub fn generate(password: Option<&Secret>) -> Result<NewKeys> {
    let failed = |error: minisign::PError| Error::failed("could not make a pair of keys").because(error.to_string());
    let (pair, kind) = match password {
        Some(password) => (KeyPair::generate_encrypted_keypair(Some(password.expose().to_owned())), "encrypted"),
        None => (KeyPair::generate_unencrypted_keypair(), "unencrypted"),
    };
    let pair = pair.map_err(failed)?;
    let comment = format!("strongroom {kind} secret key for plugins");
    let secret = pair.sk.to_box(Some(&comment)).map_err(failed)?;
    let public = pair.pk.to_box().map_err(failed)?;
    Ok(NewKeys {
        secret: Secret::new(secret.into_string()),
        public_line: pair.pk.to_base64(),
        key_id: key_id(pair.pk.keynum()),
        public: public.into_string(),
    })
}

/// Whether the text of a secret key's file is encrypted: then a password is needed.
///
/// Errors: `Invalid` for what is no such file.
pub fn is_encrypted(secret: &Secret) -> Result<bool> {
    let bytes = secret.expose().lines().nth(1).and_then(|line| STANDARD.decode(line.trim()).ok());
    match bytes.as_ref().and_then(|bytes| bytes.get(2..4)) {
        Some(b"Sc") => Ok(true),
        Some([0, 0]) => Ok(false),
        _ => Err(Error::invalid("this is not a secret key of minisign")
            .fact("expected", "a comment and a line of base64")
            .hint("name the file that `strongroom plugin keygen` or `minisign -G` wrote")),
    }
}

/// Signs `bytes`: the text of the `.minisig` file, and what checking it says.
///
/// Errors: `Invalid` for a key file that is none; `Denied` for a wrong password.
pub fn sign(bytes: &[u8], secret: &Secret, password: Option<&Secret>, comment: &str) -> Result<(String, Signed)> {
    let key = open(secret, password)?;
    let failed = |error: minisign::PError| Error::failed("could not sign").because(error.to_string());
    let public = PublicKey::from_secret_key(&key).map_err(failed)?;
    let id = key_id(public.keynum());
    let untrusted = format!("signature of a strongroom plugin by key {id}");
    let signed = minisign::sign(Some(&public), &key, Cursor::new(bytes), Some(comment), Some(&untrusted));
    let text = signed.map_err(failed)?.into_string();
    // What is handed out is what will be checked elsewhere.
    let checked = verify(bytes, &text, &[TrustedKey { text: public.to_base64(), key: public }])?;
    Ok((text, checked))
}

fn open(secret: &Secret, password: Option<&Secret>) -> Result<SecretKey> {
    let encrypted = is_encrypted(secret)?;
    let boxed = SecretKeyBox::from_string(secret.expose())
        .map_err(|error| Error::invalid("this is not a secret key of minisign").because(error.to_string()))?;
    let opened = match (encrypted, password) {
        (true, Some(password)) => SecretKey::from_box(boxed, Some(password.expose().to_owned())),
        (true, None) => return Err(Error::invalid("the secret key is encrypted, and there is no password")),
        // minisign itself leaves the checksum of an unencrypted key empty. That the key is whole shows
        // when what it has signed is checked.
        (false, _) => match secret.expose().lines().nth(1).and_then(|line| STANDARD.decode(line.trim()).ok()) {
            Some(bytes) if bytes.ends_with(&[0; 32]) => SecretKey::from_bytes(&bytes),
            _ => SecretKey::from_unencrypted_box(boxed),
        },
    };
    opened.map_err(|error| {
        let why = error.to_string().to_lowercase();
        let error = if encrypted {
            Error::denied("the password does not open the secret key")
        } else {
            Error::invalid("the secret key is damaged")
        };
        error.because(why)
    })
}

/// The key in the text of a `.pub` file, or the key alone.
///
/// Errors: `Invalid`.
pub fn public_key(text: &str) -> Result<TrustedKey> {
    match text.trim().lines().count() {
        1 => TrustedKey::parse(text),
        _ => {
            let key = PublicKeyBox::from_string(text).and_then(PublicKeyBox::into_public_key).map_err(|error| {
                Error::invalid("this is not the public key file of minisign").because(error.to_string())
            })?;
            TrustedKey::parse(&key.to_base64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn pair() -> (NewKeys, TrustedKey) {
        let new = generate(None).unwrap();
        let key = TrustedKey::parse(&new.public_line).unwrap();
        (new, key)
    }

    #[test]
    fn a_signature_counts_only_for_its_bytes_its_comment_and_a_key_that_is_trusted() {
        let (new, key) = pair();
        let (_, other) = pair();
        let (text, signed) = sign(b"component", &new.secret, None, "shop 1.0.0").unwrap();
        assert_eq!((signed.comment.as_str(), signed.key_id), ("shop 1.0.0", new.key_id.clone()));
        assert!(verify(b"component", &text, &[other.clone(), key.clone()]).is_ok(), "several keys, for rotation");
        assert_eq!(public_key(&new.public).unwrap(), key);

        let forged = text.replace("shop 1.0.0", "shop 2.0.0");
        for (what, bytes, text, keys) in [
            ("other bytes", b"componenT".as_slice(), &text, vec![key.clone()]),
            ("another comment", b"component", &forged, vec![key.clone()]),
            ("another key", b"component", &text, vec![other]),
            ("no key", b"component", &text, vec![]),
        ] {
            assert_eq!(verify(bytes, text, &keys).expect_err(what).kind(), Kind::Denied, "{what}");
        }
    }

    #[test]
    fn every_flipped_character_of_a_signature_is_refused() {
        let (new, key) = pair();
        let (text, _) = sign(b"component", &new.secret, None, "c").unwrap();
        let signed_from = text.find('\n').unwrap() + 1;
        for at in (signed_from..text.len()).filter(|at| text.as_bytes()[*at] != b'\n') {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // What follows the last full byte of base64 carries nothing, and is refused all the same.
            assert!(verify(b"component", &changed, std::slice::from_ref(&key)).is_err(), "{at}: {changed}");
        }
    }

    #[test]
    fn what_is_no_signature_and_what_is_no_key_is_said_and_never_panics() {
        let (new, key) = pair();
        let (text, _) = sign(b"x", &new.secret, None, "c").unwrap();
        let cut: Vec<String> = (0..text.len()).step_by(7).map(|at| text[..at].to_owned()).collect();
        let strange =
            ["", "\n\n\n\n", "a\nb\nc\nd", "untrusted comment: \nQQ==\ntrusted comment: \nQQ==\n", &"x".repeat(20_000)];
        for text in cut.iter().map(String::as_str).chain(strange) {
            assert!(verify(b"x", text, std::slice::from_ref(&key)).is_err(), "{text:?}");
        }
        for text in
            ["", "RW", "RWx", &"A".repeat(56), &format!("RW{}", "=".repeat(54)), &format!("RW{}", "é".repeat(27))]
        {
            assert!(TrustedKey::parse(text).is_err(), "{text:?}");
        }
        assert!(is_encrypted(&Secret::new("nothing".to_owned())).is_err());
    }

    #[test]
    fn an_encrypted_key_opens_with_its_password_only() {
        let password = Secret::new("correct horse".to_owned());
        let new = generate(Some(&password)).unwrap();
        assert!(is_encrypted(&new.secret).unwrap());
        assert!(sign(b"x", &new.secret, Some(&password), "c").is_ok());
        assert_eq!(sign(b"x", &new.secret, None, "c").unwrap_err().kind(), Kind::Invalid);
        let wrong = Secret::new("wrong horse".to_owned());
        assert_eq!(sign(b"x", &new.secret, Some(&wrong), "c").unwrap_err().kind(), Kind::Denied);
    }
}
