use super::diff::diff;
use super::*;
use crate::plugin::component::{Component, Import, embed_manifest};
use crate::plugin::manifest::ScratchRequest;
use crate::plugin::tests::decode::{bare, manifest};
use crate::policy::scratch::ScratchGrant;
use serde_json::Value;

/// The shape that others build on, as it is checked in.
const PUBLISHED: &str = include_str!("../../../../docs/inspect.schema.json");

fn rogue(change: impl FnOnce(String) -> String) -> Component {
    let bytes = embed_manifest(bare(), &change(manifest()));
    Component::decode(&bytes).unwrap_or_else(|error| panic!("{}", crate::plugin::tests::in_full(&error)))
}

/// The same with WASI and a request of a scratch directory.
fn with_files(bytes: &str) -> Component {
    let mut component = rogue(|text| text);
    for interface in ["types", "preopens"] {
        let import = Import {
            package: "wasi:filesystem".to_owned(),
            interface: interface.to_owned(),
            version: "0.2.6".to_owned(),
            functions: vec!["x".to_owned()],
        };
        component.imports.insert(format!("wasi:filesystem/{interface}@0.2.6"), import);
    }
    let request =
        ScratchRequest { reason: "an index".to_owned(), bytes: bytes.to_owned(), verbs: [Verb::Backup].into() };
    component.manifest.request.scratch = Some(request);
    component
}

/// Every surrounding that there can be, one after the other.
fn inspections() -> Vec<Inspection> {
    let component = rogue(|text| text);
    let grants = crate::plugin::tests::all_grants();
    let signature = Signature {
        state: SignatureState::Good,
        key_id: Some("D371709CAC38E4BB".to_owned()),
        comment: Some("c".to_owned()),
        reason: None,
    };
    vec![
        inspect(&component, None),
        inspect(&component, Some(&Grants::default())),
        inspect_in(
            &component,
            Surroundings {
                grants: Some(&grants),
                signature,
                approval: Some(ApprovalState::Approved),
                ceilings: vec!["/etc/strongroom/ceiling.toml".to_owned()],
                narrowed: vec!["job.orders narrows its grants; in it hold: artifacts".to_owned()],
            },
        ),
    ]
}

#[test]
fn the_json_of_an_inspection_has_the_published_shape() {
    let schema: Value = serde_json::from_str(PUBLISHED).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let granted =
        Grants { scratch: Some(ScratchGrant { bytes: 1 << 20, verbs: [Verb::Backup].into() }), ..Grants::default() };
    let files = with_files("64MiB");
    let with_scratch = [inspect(&files, None), inspect(&files, Some(&granted))];
    for inspection in inspections().into_iter().chain(with_scratch) {
        let json = serde_json::to_value(&inspection).unwrap();
        let wrong: Vec<String> =
            validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{json:#}");
    }
    // The words of a closed list are in the schema as well.
    let words = &schema["properties"]["concerns"]["items"]["enum"];
    assert_eq!(words, &serde_json::json!(Concern::ALL.map(Concern::name)));
    for concern in Concern::ALL {
        assert_eq!(serde_json::to_value(concern).unwrap(), concern.name());
        assert_eq!(Concern::parse(concern.name()), Some(concern));
    }
}

#[test]
fn concerns_are_what_is_asked_for_of_a_file_and_what_is_effective_of_a_plugin() {
    let [file, nothing, granted] = inspections().try_into().unwrap();
    use Concern::{Changes, Exec, NeverAllowed, NoCeiling, StdinFromPlugin, Unsigned};
    assert_eq!(file.concerns, [Exec, StdinFromPlugin, Concern::Inspect, Changes, NeverAllowed, Unsigned, NoCeiling]);
    assert_eq!(nothing.concerns, [NeverAllowed, Unsigned, NoCeiling], "nothing is granted");
    assert_eq!(granted.concerns, [Exec, StdinFromPlugin, Concern::Inspect, Changes, NeverAllowed]);
    assert!(nothing.imports.iter().flat_map(|i| &i.functions).any(|f| f.name == "spawn" && f.granted == Some(false)));
    assert!(file.to_string().contains("no ceiling: whoever writes the configuration may grant anything"));
    assert!(granted.to_string().contains("signature  good, by key D371709CAC38E4BB"));
    assert!(nothing.to_string().contains("(not granted)"));
}

#[test]
fn secrets_and_wasi_concern_somebody_where_they_are() {
    let mut grants = crate::plugin::tests::all_grants();
    let (plain, files) = (rogue(|text| text), with_files("1MiB"));
    let holds = |component: &Component, grants: Option<&Grants>, concern| {
        inspect(component, grants).concerns.contains(&concern)
    };
    let asks = rogue(|text| text.replacen("effect = \"reads\"", "effect = \"reads\"\nsecrets = [\"TOKEN\"]", 1));
    assert!(holds(&asks, None, Concern::Secrets) && !holds(&plain, None, Concern::Secrets));
    assert!(!holds(&asks, Some(&grants), Concern::Secrets), "it gets none, whatever it asks for");
    grants.exec.get_mut("echo").unwrap().secrets = vec!["TOKEN".to_owned()];
    assert!(holds(&plain, Some(&grants), Concern::Secrets));
    let file = [("TOKEN_FILE".to_owned(), "TOKEN".to_owned())].into();
    let echo = grants.exec.get_mut("echo").unwrap();
    (echo.secrets, echo.secret_files) = (Vec::new(), file);
    assert!(holds(&plain, Some(&grants), Concern::Secrets));
    for grants in [None, Some(&grants)] {
        assert!(holds(&files, grants, Concern::Wasi) && !holds(&plain, grants, Concern::Wasi));
    }
}

#[test]
fn what_is_granted_and_never_requested_is_noted() {
    let mut grants = crate::plugin::tests::all_grants();
    grants.scratch = Some(ScratchGrant { bytes: 1 << 20, verbs: [Verb::Backup].into() });
    let delete = grants.buckets["data"][0].clone();
    grants.buckets.insert(
        "other".to_owned(),
        vec![crate::policy::storage::BucketGrant { may: [BucketVerb::Delete].into(), ..delete }],
    );
    let notes = inspect(&rogue(|text| text), Some(&grants)).notes;
    for what in ["scratch", "bucket \"other\""] {
        let note = format!("granted, and no request covers any of it: {what}");
        assert!(notes.contains(&note), "{note}: {notes:?}");
    }
    assert_eq!(notes.iter().filter(|note| note.starts_with("granted, ")).count(), 2, "{notes:?}");
}

#[test]
fn a_request_is_shown_whole_however_long_it_is() {
    let hidden = "x".repeat(5000);
    let component = rogue(|text| {
        text.replacen("args = [\"{word}\"]", &format!("args = [\"{{word}}\", \"{hidden}\", \"--evil\"]"), 1)
    });
    assert!(inspect(&component, None).to_string().contains("--evil"));
}

/// What the new one can do more, as kind and name.
fn more(change: impl FnOnce(String) -> String) -> Vec<(&'static str, String)> {
    let difference = diff(&rogue(|text| text), &rogue(change));
    difference.more.into_iter().map(|change| (change.kind, change.name)).collect()
}

#[test]
fn only_what_widens_a_request_is_more() {
    assert!(more(|text| text.replace("a producer of bytes", "another reason")).is_empty());
    let echo = |with: &'static str| {
        more(move |text| {
            text.replacen("slots = { word = \"[a-z]{1,20}\" }\nverbs = [\"backup\", \"diagnose\"]", with, 1)
        })
    };
    let same = "slots = { word = \"[a-z]{1,20}\" }\n";
    let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    assert!(echo(leak(&format!("{same}verbs = [\"backup\"]"))).is_empty(), "fewer verbs are less");
    for wider in [
        format!("{same}verbs = [\"backup\", \"diagnose\", \"verify\"]"),
        format!("{same}verbs = [\"backup\", \"diagnose\"]\ninspect = true"),
        format!("{same}verbs = [\"backup\", \"diagnose\"]\nsecrets = [\"PASSWORD\"]"),
        format!("{same}verbs = [\"backup\", \"diagnose\"]\nstdin = \"plugin\""),
        "slots = { word = \".*\" }\nverbs = [\"backup\", \"diagnose\"]".to_owned(),
    ] {
        assert_eq!(echo(leak(&wider)), [("exec", "echo".to_owned())], "{wider}");
    }
    assert_eq!(more(|text| text.replace("\"readable.*\"", "\".*\"")), [("artifacts", "artifacts".to_owned())]);
    assert_eq!(more(|text| text.replace("\"write\"]", "\"write\", \"delete\"]")), [("bucket", "bucket".to_owned())]);
}

#[test]
fn nothing_new_is_said_in_three_lines() {
    let (old, new) = (rogue(|text| text), rogue(|text| text.replace("version = \"0.1.0\"", "version = \"0.1.1\"")));
    let text = diff(&old, &new).to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.starts_with("rogue 0.1.0 -> rogue 0.1.1\n") && text.ends_with("nothing that the old one could not do\n")
    );
    let gone = diff(&old, &rogue(|text| text.replace("\"write\"]", "\"write\", \"delete\"]")));
    assert!(
        gone.is_more() && !diff(&rogue(|text| text.replace("\"write\"]", "\"write\", \"delete\"]")), &old).is_more()
    );
}

#[test]
fn files_of_wasi_are_inert_unless_there_is_a_scratch_directory_and_then_it_is_said_how_large() {
    let component = with_files("64MiB");
    let asked = inspect(&component, None).to_string();
    for words in [
        "wasi:filesystem/types@0.2.6  a private scratch directory of at most 64.0 MiB, 1 functions",
        "scratch \"/scratch\"  for backup; reads",
        "why: \"an index\"",
        "WASI has a private scratch directory of at most 64.0 MiB and no other file",
    ] {
        assert!(asked.contains(words), "{words}: {asked}");
    }
    let grants = Grants::default();
    let nothing = inspect(&component, Some(&grants)).to_string();
    assert!(nothing.contains("wasi:filesystem/types@0.2.6  inert, 1 functions"), "{nothing}");
    assert!(nothing.contains("WASI is inert: no files"), "{nothing}");
    let grants = Grants { scratch: Some(ScratchGrant { bytes: 1 << 20, verbs: [Verb::Backup].into() }), ..grants };
    let granted = inspect(&component, Some(&grants)).to_string();
    assert!(granted.contains("a private scratch directory of at most 1.0 MiB"), "{granted}");
}

#[test]
fn a_scratch_directory_that_grows_is_more_and_one_that_shrinks_is_less() {
    let (small, large) = (with_files("64MiB"), with_files("65MiB"));
    assert!(diff(&small, &large).is_more());
    let shrunk = diff(&large, &small);
    assert!(!shrunk.is_more() && shrunk.less.len() == 1, "{shrunk}");
    let same = diff(&small, &small);
    assert!(same.more.is_empty() && same.less.is_empty());
}
