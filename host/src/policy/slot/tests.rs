use super::*;
use proptest::prelude::*;
use serde_json::json;

fn rule(pattern: &str) -> SlotRule {
    SlotRule::pattern(pattern).unwrap()
}

#[track_caller]
fn check_admits(rule: &SlotRule, values: &[&str]) {
    for value in values {
        assert_eq!(rule.admits(value, &json!({})), Ok(()), "{value:?}");
    }
}

#[track_caller]
fn check_refuses(rule: &SlotRule, values: &[&str]) {
    for value in values {
        assert!(rule.admits(value, &json!({})).is_err(), "{} admitted {value:?}", rule.describe());
    }
}

#[test]
fn a_pattern_is_anchored_at_both_ends() {
    check_admits(&rule("[a-z]+"), &["shop"]);
    check_refuses(&rule("[a-z]+"), &["", "shop1", "1shop", "shop\n", "\nshop", "sh op", "shop\u{0}"]);
    check_admits(&rule("a|ab"), &["a", "ab"]);
    check_refuses(&rule("a|b"), &["ax", "xb", "a\nb"]);
    check_refuses(&rule("(?m)^a$"), &["a\nb", "b\na"]);
}

#[test]
fn a_pattern_cannot_escape_from_its_anchors() {
    for text in ["a)|(?:b", "a)|b|(c", "(?x)a#", "(?x)a #)\n|(b", "[", "(", "a{2,1}", r"\"] {
        assert!(SlotRule::pattern(text).is_err(), "{text}");
    }
}

#[test]
fn a_pattern_that_would_be_large_is_refused() {
    for text in [r"\w{1000}{1000}".to_owned(), "a".repeat(1025), format!("{}a{}", "(".repeat(50), ")".repeat(50))] {
        let error = SlotRule::pattern(&text).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Invalid);
    }
}

#[test]
fn a_leading_dash_needs_a_pattern_that_begins_with_one() {
    check_refuses(&rule(".*"), &["-x", "--file=/etc/passwd", "-"]);
    check_refuses(&rule("[-a-z]+"), &["-x"]);
    check_refuses(&SlotRule::glob("*").unwrap(), &["-x", ""]);
    for pattern in ["-[a-z]", r"\-[a-z]", "^-[a-z]"] {
        check_admits(&rule(pattern), &["-x"]);
    }
    check_admits(&SlotRule::glob("-*").unwrap(), &["-x"]);
    check_admits(&rule(".*"), &["x-"]);
}

#[test]
fn control_characters_need_a_pattern_that_names_them() {
    check_refuses(&rule("(?s).*"), &["a\nb", "a\tb", "a\0b", "a\rb", "a\u{1b}[2J", "a\u{7f}", "a\u{85}b"]);
    check_refuses(&rule(r"[^x]*\\n"), &["a\n\\n"]);
    check_refuses(&rule(r"\s*"), &["\n"]);
    check_admits(&rule(r"[a-z]+(\n[a-z]+)*"), &["a\nb"]);
    check_admits(&rule(r"a\tb"), &["a\tb"]);
    check_refuses(&rule(r"(?s).*\n.*\x00"), &["a\n\0"]);
}

#[test]
fn a_star_stands_for_harmless_characters_only() {
    let shop = SlotRule::glob("shop-*").unwrap();
    check_admits(&shop, &["shop-", "shop-orders", "shop-a.b_C9-"]);
    check_refuses(
        &shop,
        &["shop", "xshop-a", "shop-a/b", "shop-a b", "shop-ä", "shop-a'b", "shop-a=b", "shop-\u{ff0d}"],
    );
    check_refuses(&SlotRule::glob("a.b").unwrap(), &["axb"]);
    for text in ["shop-?", "[a-z]", "{a,b}", r"a\*"] {
        assert!(SlotRule::glob(text).is_err(), "{text}");
    }
}

#[test]
fn a_setting_admits_exactly_what_the_operator_wrote() {
    let rule = SlotRule::setting("databases").unwrap();
    let many = json!({ "databases": ["shop", "bill.ng", "-x", "a\nb", 7] });
    for good in ["shop", "bill.ng"] {
        assert_eq!(rule.admits(good, &many), Ok(()));
    }
    for bad in ["billing", "Shop", "shop ", "", "-x", "a\nb", "7", "shop,bill.ng"] {
        assert!(rule.admits(bad, &many).is_err(), "{bad:?}");
    }
    assert_eq!(rule.admits("shop", &json!({ "databases": "shop" })), Ok(()));
    let nothing =
        [json!({}), json!(null), json!([]), json!({ "databases": null }), json!({ "databases": { "shop": 1 } })];
    for settings in nothing {
        assert!(rule.admits("shop", &settings).is_err(), "{settings}");
    }
}

#[test]
fn nobody_fills_the_scratch_directory_but_the_host() {
    check_refuses(&SlotRule::scratch(), &["", "/tmp", "/"]);
}

#[test]
fn a_value_that_is_too_long_is_refused_before_it_is_matched() {
    check_admits(&rule("a*"), &[&"a".repeat(1024)]);
    check_refuses(&rule("a*"), &[&"a".repeat(1025), &"a".repeat(1 << 20)]);
    let short = SlotRule::parse(SlotText { pattern: Some("a*"), max_bytes: Some(3), ..SlotText::default() }).unwrap();
    check_admits(&short, &["aaa"]);
    check_refuses(&short, &["aaaa"]);
}

#[test]
fn a_rule_says_exactly_one_thing_within_limits() {
    let text = SlotText::default();
    for bad in [
        text,
        SlotText { pattern: Some("a"), glob: Some("a"), ..text },
        SlotText { pattern: Some("a"), setting: Some("a"), ..text },
        SlotText { pattern: Some("a"), max_bytes: Some(0), ..text },
        SlotText { pattern: Some("a"), max_bytes: Some(MOST_BYTES + 1), ..text },
        SlotText { pattern: Some("a"), max_count: Some(0), ..text },
        SlotText { pattern: Some("a"), max_count: Some(MOST_VALUES + 1), ..text },
        SlotText { setting: Some(""), ..text },
    ] {
        assert!(SlotRule::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn templates_parse_or_say_what_they_expect() {
    let template = Template::parse("--x={a}{b-2}{{}}").unwrap();
    assert_eq!(template.slots().collect::<Vec<_>>(), ["a", "b-2"]);
    assert_eq!(template.to_string(), "--x={a}{b-2}{{}}");
    assert_eq!(template.fill(|name| Some(if name == "a" { "1" } else { "{a}" })).unwrap(), "--x=1{a}{}");
    assert_eq!(Template::parse("{a}").unwrap().lone_slot(), Some("a"));
    assert_eq!(Template::parse("{a} ").unwrap().lone_slot(), None);
    assert_eq!(Template::parse("").unwrap().fill(|_| None).unwrap(), "");
    for bad in ["{", "}", "{}", "{a", "a}", "{A}", "{1}", "{a b}", "{{a}", "{-a}", "\0", "{a\0}"] {
        assert!(Template::parse(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_admitted_value_holds_a_control_character_or_begins_with_a_dash(
        value in "(?s)-?.{0,8}[\\x00-\\x1f-]?.{0,8}",
        which in 0_usize..4,
    ) {
        let settings = json!({ "s": [value.clone()] });
        let rule = [
            SlotRule::pattern("(?s).*").unwrap(),
            SlotRule::pattern(r"(?:.|\s|\x00)*").unwrap(),
            SlotRule::glob("*").unwrap(),
            SlotRule::setting("s").unwrap(),
        ][which].clone();
        if rule.admits(&value, &settings).is_ok() {
            prop_assert!(!value.starts_with('-'));
            prop_assert!(!value.chars().any(char::is_control));
            prop_assert!(value.len() <= DEFAULT_MAX_BYTES);
        }
    }

    #[test]
    fn no_pattern_at_all_admits_a_nul(pattern in "(?s).{0,12}", value in "(?s).{0,4}\\x00.{0,4}") {
        if let Ok(rule) = SlotRule::pattern(&pattern) {
            let refused = rule.admits(&value, &json!(null)).is_err();
            prop_assert!(refused);
        }
    }

    #[test]
    fn a_glob_admits_what_its_stars_stand_for(parts in prop::collection::vec("[a-z/]{0,3}", 1..4), fill in "[A-Za-z0-9_.-]{1,5}") {
        let rule = SlotRule::glob(&parts.join("*")).unwrap();
        let value = parts.join(&fill);
        prop_assume!(!value.starts_with('-'));
        prop_assert_eq!(rule.admits(&value, &json!({})), Ok(()));
    }

    #[test]
    fn any_text_survives_a_template_with_doubled_braces(text in "[^\\x00]{0,40}") {
        let template = Template::parse(&text.replace('{', "{{").replace('}', "}}")).unwrap();
        prop_assert_eq!(template.fill(|_| None), Some(text));
    }
}
