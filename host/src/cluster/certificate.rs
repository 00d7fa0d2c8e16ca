//! When certificates and tokens end. Nothing here believes or refuses one: that is TLS's and the
//! server's business.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;

/// Tags of DER. <https://www.itu.int/rec/T-REC-X.690>
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// One value: its tag, its content, and what follows.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let n = usize::from(first & 0x7f);
        if n == 0 || n > 4 {
            return None;
        }
        let (len, rest) = rest.split_at_checked(n)?;
        (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// End of a certificate: `tbsCertificate.validity.notAfter` of RFC 5280, section 4.1.
pub(super) fn end_of_der(der: &[u8]) -> Option<Timestamp> {
    let (SEQUENCE, certificate, _) = value(der)? else { return None };
    let (SEQUENCE, body, _) = value(certificate)? else { return None };
    let mut rest = body;
    if let (VERSION, _, after) = value(rest)? {
        rest = after;
    }
    // Serial number, algorithm and issuer come before.
    for _ in 0..3 {
        rest = value(rest)?.2;
    }
    let (SEQUENCE, validity, _) = value(rest)? else { return None };
    let (tag, text, _) = value(value(validity)?.2)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// `YYMMDDHHMMSSZ`, or with a year of four digits.
fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let whole = match (tag, text.get(..2)?.parse::<u32>().ok()?) {
        (UTC_TIME, year) if year >= 50 => format!("19{text}"),
        (UTC_TIME, _) => format!("20{text}"),
        (GENERALIZED_TIME, _) => text.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| whole.get(range);
    let (date, clock) = (part(0..8)?, part(8..14)?);
    if whole.get(14..)? != "Z" {
        return None;
    }
    format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &clock[..2], &clock[2..4], &clock[4..])
        .parse()
        .ok()
}

/// End of the first certificate of a PEM text.
pub(super) fn end_of_pem(pem: &str) -> Option<Timestamp> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.split_whitespace().collect();
    end_of_der(&STANDARD.decode(body).ok()?)
}

/// End of a token that says so: `exp` of a JSON Web Token, RFC 7519, section 4.1.4.
pub(super) fn end_of_token(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let seconds = claims["exp"].as_i64()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with openssl: EC P-256, valid from 2026-01-02 03:04:05 to 2049-12-31 23:59:59.
    const UNTIL_2049: &str = include_str!("certificate/until-2049.pem");
    /// The same, to 2051-06-07 08:09:10: a year that two digits cannot hold.
    const UNTIL_2051: &str = include_str!("certificate/until-2051.pem");

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_of_its_forms() {
        assert_eq!(end_of_pem(UNTIL_2049).unwrap().to_string(), "2049-12-31T23:59:59Z");
        assert_eq!(end_of_pem(UNTIL_2051).unwrap().to_string(), "2051-06-07T08:09:10Z");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let body: String = UNTIL_2049.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        assert!(end_of_der(&der).is_some());
        for len in 0..der.len().min(160) {
            assert_eq!(end_of_der(&der[..len]), None, "{len}");
        }
        assert_eq!(end_of_pem("no"), None);
        assert_eq!(time(UTC_TIME, "500101000000Z").unwrap().to_string(), "1950-01-01T00:00:00Z");
        assert_eq!(time(UTC_TIME, "2é"), None);
    }

    #[test]
    fn a_token_says_its_end_or_nothing() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(end_of_token(&token(r#"{"exp":1700000000}"#)).unwrap().to_string(), "2023-11-14T22:13:20Z");
        for no in [token("{}"), token("x"), "plain".to_owned(), String::new()] {
            assert_eq!(end_of_token(&no), None);
        }
    }
}
