use super::*;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

fn redactor(secrets: &[&str]) -> Redactor {
    let secrets: Vec<_> = secrets.iter().map(|text| Secret::new((*text).to_owned())).collect();
    Redactor::new(&secrets)
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

#[test]
fn a_secret_is_blotted_out_in_every_form() {
    let secret = "p@ss w/rd\"90";
    let redactor = redactor(&[secret]);
    for text in [
        secret.to_owned(),
        "p%40ss%20w%2Frd%2290".to_owned(),
        "p%40ss+w%2frd%2290".to_owned(),
        percent(secret),
        "p@ss w/rd\\\"90".to_owned(),
        STANDARD.encode(secret),
    ] {
        assert_eq!(redactor.text(&format!("got {text}, sorry")).replace('=', ""), "got ***, sorry", "{text}");
    }
    for prefix in ["", "a", "ab", "user:"] {
        for encoded in
            [STANDARD.encode(format!("{prefix}{secret}??>>")), URL_SAFE.encode(format!("{prefix}{secret}??>>"))]
        {
            let out = redactor.text(&encoded);
            assert!(out.contains("***") && out.len() < encoded.len(), "{encoded} {out}");
        }
    }
}

#[test]
fn hex_and_the_parts_of_a_secret_that_holds_others_are_found_too() {
    let found = redactor(&["correct horse"]);
    assert_eq!(found.text("636f727265637420686f727365 636F727265637420686F727365"), "*** ***");
    for (secret, part) in [
        ("postgresql://app:correct%20horse@db/shop", "correct%20horse"),
        ("redis://:battery-staple@cache:6379", "battery-staple"),
        ("db:5432:shop:app:battery-staple", "battery-staple"),
        ("first line of it\nsecond line\n", "second line"),
        ("app:battery-staple", "battery-staple"),
    ] {
        let found = redactor(&[secret]);
        assert_eq!(found.text(&format!("<{part}> {}", STANDARD.encode(part)))[..5], *"<***>", "{secret}");
        assert!(found.finds(part) && found.finds(secret) && !found.finds("shop, db, app, 5432, line"), "{secret}");
    }
    // A part that is too short by itself would eat words.
    assert_eq!(
        redactor(&["https://db.example.org:5432/shop"]).text("5432/shop db.example.org"),
        "5432/shop db.example.org"
    );
}

#[test]
fn overlapping_secrets_go_together_and_the_rest_stays() {
    assert_eq!(redactor(&["abcabcabc"]).text("x abcabcabcabc y"), "x *** y");
    assert_eq!(redactor(&["password1", "word12345"]).text("password12345!"), "***!");
    assert_eq!(redactor(&["password1"]).text("password, passwords and password"), "password, passwords and password");
    assert_eq!(redactor(&[""]).text("nothing to hide"), "nothing to hide");
    assert_eq!(redactor(&[]).text("nothing to hide"), "nothing to hide");
}

#[test]
fn the_mask_cannot_be_a_part_of_a_secret() {
    assert_eq!(redactor(&["********"]).text("********************"), "###");
    assert_eq!(redactor(&["***abc###"]).text("***abc###abc###"), "███abc###");
    assert_eq!(redactor(&["%25%2525"]).text("%25%2525 %2525%252525"), "*** ***");
}

#[test]
fn a_secret_shows_nothing_of_itself_and_must_be_long_enough() {
    let secret = Secret::new("hunter2hunter2".to_owned());
    assert_eq!(format!("{secret:?} {:?}", Redactor::new([&secret])), "Secret(…) Redactor(…)");
    assert!(secret.check("P").is_ok());
    let error = Secret::new("hunter2".to_owned()).check("P").unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"));
    assert!(Secret::new("hunter2\0hunter2".to_owned()).check("P").is_err());
}

fn in_chunks(redactor: &Redactor, text: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut stream = redactor.stream();
    let mut rest = text;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        stream.push(chunk, &mut out);
        rest = tail;
    }
    stream.finish(&mut out);
    out
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

proptest! {
    #[test]
    fn no_output_contains_the_secret_however_it_is_cut(
        secret in "(?s).{8,24}",
        parts in prop::collection::vec((0_usize..6, "(?s).{0,9}"), 1..8),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let redactor = redactor(&[&secret]);
        let mut text = Vec::new();
        for (form, noise) in &parts {
            let piece = match form {
                0 => secret.clone(),
                1 => percent(&secret),
                2 => STANDARD.encode(&secret),
                3 => secret.chars().take(4).collect(),
                4 => secret.chars().skip(1).collect(),
                _ => String::new(),
            };
            text.extend_from_slice(piece.as_bytes());
            text.extend_from_slice(noise.as_bytes());
        }
        let out = in_chunks(&redactor, &text, &sizes);
        for hidden in [secret.as_bytes(), percent(&secret).as_bytes(), STANDARD.encode(&secret).trim_end_matches('=').as_bytes()] {
            // The last character of base64 that is not full depends on what follows: without it.
            let hidden = if hidden.len() > secret.len() { &hidden[..hidden.len() - 1] } else { hidden };
            prop_assert!(!contains(&out, hidden));
        }
        prop_assert_eq!(in_chunks(&redactor, &text, &[text.len().max(1)]), out);
    }

    #[test]
    fn text_without_the_secret_is_left_alone(text in "[a-z ]{0,200}", sizes in prop::collection::vec(1_usize..40, 1..6)) {
        let out = in_chunks(&redactor(&["SECRET-0123456789"]), text.as_bytes(), &sizes);
        prop_assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn base64_of_a_longer_text_does_not_give_the_secret_away(
        before in prop::collection::vec(any::<u8>(), 0..9),
        after in prop::collection::vec(any::<u8>(), 0..9),
        secret in "[ -~]{8,20}",
    ) {
        let whole = [before.as_slice(), secret.as_bytes(), after.as_slice()].concat();
        let out = redactor(&[&secret]).text(&STANDARD.encode(&whole));
        // Every alignment loses its middle: nothing that is left decodes to 4 or more bytes of the secret in place.
        prop_assert!(!contains(out.as_bytes(), STANDARD.encode(&whole).as_bytes()));
        let blotted = out.contains(['*', '#', '█']);
        prop_assert!(blotted);
    }
}
