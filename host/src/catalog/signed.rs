//! Signed JSON: a document that a person can read, and whose exact bytes are signed.
//!
//! The signature is the document's last member. What is signed is the purpose, a newline, and
//! every byte of the file before the comma that precedes `"signature"`; so checking it needs no
//! canonical form of JSON, only the bytes as they lie there. `docs/format.md` has an example.

use super::key::{HostKey, PublicKey};
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Purpose of a record's signature; a signature for one purpose is none for another.
pub const RECORD: &str = "strongroom record 1";
/// Purpose of the signature of what a verification found.
pub const VERIFICATION: &str = "strongroom verification 1";
/// Purpose of the signature of a note that a record was removed.
pub const REMOVAL: &str = "strongroom removal 1";

const MARK: &str = ",\n  \"signature\": {";

/// A document whose signature is good; whether its signer is believed is another question.
#[derive(Debug)]
pub struct Opened<T> {
    /// What it says.
    pub content: T,
    /// Who signed it.
    pub signer: PublicKey,
}

/// The signed document as it is stored.
pub fn seal<T: Serialize>(purpose: &str, content: &T, key: &HostKey) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(content)
        .map_err(|e| Error::failed("could not write a signed document as JSON").because(e))?;
    let unsigned = text
        .strip_suffix("\n}")
        .ok_or_else(|| Error::failed("a signed document must be a JSON object with members"))?;
    let signature = key.sign(&message(purpose, unsigned));
    Ok(format!("{unsigned}{}", tail(key.public(), &signature)).into_bytes())
}

/// Checks the signature and reads the document. Errors: `Damaged` when the signature is not of
/// these bytes, `Invalid` when it is good and the content is not of this shape.
pub fn open<T: DeserializeOwned>(purpose: &str, bytes: &[u8]) -> Result<Opened<T>> {
    let damaged = |what: &str| Error::damaged(format!("the signature cannot be checked: {what}"));
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("the document is not text"))?;
    let at = text.rfind(MARK).ok_or_else(|| damaged("the document does not end in one"))?;
    let (unsigned, ending) = text.split_at(at);
    let (key, signature) = parse_tail(ending).ok_or_else(|| damaged("its last member is malformed"))?;
    if !key.verifies(&message(purpose, unsigned), &signature) {
        return Err(Error::damaged("the signature is not of these bytes").fact("signer named", key.to_string()));
    }
    let content = serde_json::from_str(&format!("{unsigned}\n}}")).map_err(|e| {
        Error::invalid("the signature is good, and the content is not what this version reads").because(e)
    })?;
    Ok(Opened { content, signer: key })
}

fn message(purpose: &str, unsigned: &str) -> Vec<u8> {
    [purpose.as_bytes(), b"\n", unsigned.as_bytes()].concat()
}

fn tail(key: &PublicKey, signature: &[u8]) -> String {
    let value = URL_SAFE_NO_PAD.encode(signature);
    format!("{MARK}\n    \"key\": \"{key}\",\n    \"value\": \"{value}\"\n  }}\n}}\n")
}

fn parse_tail(ending: &str) -> Option<(PublicKey, Vec<u8>)> {
    let rest = ending.strip_prefix(MARK)?.strip_prefix("\n    \"key\": \"")?;
    let (key, rest) = rest.split_once('"')?;
    let (value, _) = rest.strip_prefix(",\n    \"value\": \"")?.split_once('"')?;
    let (key, signature) = (key.parse().ok()?, URL_SAFE_NO_PAD.decode(value).ok()?);
    // One way to write it, so that nothing can hide behind the signature.
    (tail(&key, &signature) == ending).then_some((key, signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Doc {
        text: String,
        n: u64,
    }

    fn sealed() -> (HostKey, Vec<u8>) {
        let key = HostKey::ephemeral().unwrap();
        let bytes = seal(RECORD, &Doc { text: "a \",\n  \"signature\": {".into(), n: 7 }, &key).unwrap();
        (key, bytes)
    }

    #[test]
    fn a_sealed_document_opens_and_names_its_signer() {
        let (key, bytes) = sealed();
        let opened = open::<Doc>(RECORD, &bytes).unwrap();
        assert_eq!((opened.content.n, &opened.signer), (7, key.public()));
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (key, bytes) = sealed();
        for at in 0..bytes.len() {
            for bit in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                if let Ok(opened) = open::<Doc>(RECORD, &changed) {
                    panic!("byte {at} ^ {bit:#x} was not noticed; signer {} (was {})", opened.signer, key.public());
                }
            }
        }
    }

    #[test]
    fn what_is_added_cut_or_signed_for_something_else_is_refused() {
        let (_, bytes) = sealed();
        for end in 0..bytes.len() {
            assert!(open::<Doc>(RECORD, &bytes[..end]).is_err(), "cut at {end}");
        }
        let mut longer = bytes.clone();
        longer.push(b' ');
        assert_eq!(open::<Doc>(RECORD, &longer).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(open::<Doc>(VERIFICATION, &bytes).unwrap_err().kind(), Kind::Damaged);
    }
}
