//! Names of bytes as text: how a file name that is not UTF-8 becomes a key, and comes back.
//!
//! A byte that is not UTF-8 is the character U+10FF00 plus the byte. Real characters of that range
//! (U+10FF00 to U+10FFFF) are written byte by byte in the same way, so that nothing is ambiguous:
//! [`encode`] and [`decode`] are inverse to each other, and `decode` refuses what `encode` never writes.

use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a value begins with when the rest is base64.
const BASE64: &str = "base64:";

/// The character that stands for byte 0.
const BASE: u32 = 0x10_FF00;

/// Any bytes as text. Valid UTF-8 outside the reserved range stays as it is.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if u32::from(c) >= BASE {
                let mut buf = [0; 4];
                text.extend(c.encode_utf8(&mut buf).bytes().map(stand_in));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(stand_in));
    }
    text
}

/// The bytes that `text` stands for. Errors: `Invalid` for text that [`encode`] never writes, such as
/// a stand-in for a slash.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut stood_in = false;
    for c in text.chars() {
        match u32::from(c).checked_sub(BASE).map(u8::try_from) {
            Some(Ok(byte)) => {
                bytes.push(byte);
                stood_in = true;
            }
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if stood_in && encode(&bytes) != text {
        return Err(Error::invalid(format!("{text:?} is not a key"))
            .fact("expected", "characters from U+10FF00 only where a byte is not UTF-8"));
    }
    Ok(bytes)
}

fn stand_in(byte: u8) -> char {
    char::from_u32(BASE + u32::from(byte)).expect("U+10FF00 to U+10FFFF are characters")
}

/// A value as text: itself if it is UTF-8 and does not begin with `base64:`, else `base64:` and base64.
pub fn value_text(value: Vec<u8>) -> String {
    match String::from_utf8(value) {
        Ok(text) if !text.starts_with(BASE64) => text,
        Ok(text) => format!("{BASE64}{}", STANDARD.encode(text)),
        Err(bytes) => format!("{BASE64}{}", STANDARD.encode(bytes.as_bytes())),
    }
}

/// The bytes of a value; `None` when it is not what [`value_text`] writes.
pub fn value_bytes(text: &str) -> Option<Vec<u8>> {
    text.strip_prefix(BASE64).map_or_else(|| Some(text.as_bytes().to_vec()), |coded| STANDARD.decode(coded).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_value_comes_back(value in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(value_bytes(&value_text(value.clone())), Some(value));
        }

        #[test]
        fn a_value_that_looks_like_base64_comes_back(value in "(base64:)?[ -~]{0,20}") {
            prop_assert_eq!(value_bytes(&value_text(value.clone().into_bytes())), Some(value.into_bytes()));
        }

        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn text_of_the_reserved_range_comes_back(text in "[\u{10fef0}-\u{10ffff}a-c/]{0,12}") {
            prop_assert_eq!(decode(&encode(text.as_bytes())).unwrap(), text.as_bytes());
        }

        #[test]
        fn decoded_text_is_what_encode_writes(text in "[\u{10ff00}-\u{10ffff}a-c/]{0,6}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn parts_are_encoded_one_by_one(a in prop::collection::vec(1_u8.., 0..9), b in prop::collection::vec(1_u8.., 0..9)) {
            let whole = [a.as_slice(), b"/", &b].concat();
            prop_assert_eq!(encode(&whole), format!("{}/{}", encode(&a), encode(&b)));
        }
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_a_character_of_its_own() {
        assert_eq!(encode(b"a\xff"), "a\u{10ffff}");
        assert_eq!(encode("\u{10ff80}".as_bytes()), "\u{10fff4}\u{10ff8f}\u{10ffbe}\u{10ff80}");
        assert_eq!(encode("plain/ä".as_bytes()), "plain/ä");
    }

    #[test]
    fn stand_ins_for_text_are_refused() {
        for wrong in ["\u{10ff2f}", "\u{10ff2e}\u{10ff2e}", "\u{10ff00}", "\u{10ffc3}\u{10ffa4}"] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
