//! Canaries: secrets that a test plants, and every form in which they could come out.

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|i| text.push(char::from(alphabet[(word >> (18 - 6 * i)) as usize & 63])));
    }
    text
}

/// Every form that is searched for: as it is, percent-encoded, hex of either case, base64 of both alphabets
/// at each alignment (without the letters that depend on what stands around it).
pub fn forms(secret: &str) -> Vec<String> {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let percent = |upper: bool| -> String {
        let code = |b: u8| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") };
        secret.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { code(b) }).collect()
    };
    let mut all = vec![secret.to_owned(), percent(true), percent(false), percent(true).replace("%20", "+")];
    all.push(secret.bytes().map(|b| format!("{b:02x}")).collect());
    all.push(secret.bytes().map(|b| format!("{b:02X}")).collect());
    for alphabet in [STANDARD, URL] {
        for shift in 0..3 {
            let text = base64(&[&vec![b' '; shift], secret.as_bytes()].concat(), alphabet);
            let first = (shift * 8_usize).div_ceil(6);
            let end = (shift + secret.len()) * 8 / 6;
            all.push(text[first..end].to_owned());
        }
    }
    all
}

/// Fails the test if any of these is in what was written to `place`.
#[track_caller]
pub fn check_none(canaries: &[String], place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for canary in canaries {
        assert!(!text.contains(canary.as_str()), "{place} holds \"{canary}\"");
    }
}
