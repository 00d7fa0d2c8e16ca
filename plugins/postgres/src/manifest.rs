//! Holds the manifest and the code together: what one names, the other has.

use crate::settings::{Options, Settings};
use std::collections::{BTreeMap, BTreeSet};
use toml::Value;

const MANIFEST: &str = include_str!("../plugin.toml");

/// The labels whose standard input is each file of `sql/`.
const TEXTS: [(&str, &str, &[&str]); 18] = [
    ("amcheck_install", include_str!("../sql/amcheck_install.sql"), &["scratch_amcheck_install"]),
    ("analyze", include_str!("../sql/analyze.sql"), &["analyze", "scratch_analyze", "verify_analyze"]),
    ("apply_global", include_str!("../sql/apply_global.sql"), &["apply_global", "scratch_apply_global"]),
    ("available", include_str!("../sql/available.sql"), &["available"]),
    ("cluster", include_str!("../sql/cluster.sql"), &["cluster", "scratch_cluster"]),
    ("contents", include_str!("../sql/contents.sql"), &["contents"]),
    ("counts", include_str!("../sql/counts.sql"), &["counts", "scratch_counts", "verify_counts"]),
    (
        "create_database",
        include_str!("../sql/create_database.sql"),
        &["create_database", "scratch_create", "verify_create"],
    ),
    ("diagnose", include_str!("../sql/diagnose.sql"), &["diagnose_server"]),
    ("diagnose_database", include_str!("../sql/diagnose_database.sql"), &["diagnose_database"]),
    ("drop_database", include_str!("../sql/drop_database.sql"), &["drop_staging", "scratch_drop", "verify_drop"]),
    ("globals", include_str!("../sql/globals.sql"), &["globals_rows", "scratch_globals_rows"]),
    ("inventory", include_str!("../sql/inventory.sql"), &["inventory", "scratch_inventory", "verify_inventory"]),
    ("lock", include_str!("../sql/lock.sql"), &["verify_lock"]),
    ("replace_database", include_str!("../sql/replace_database.sql"), &["replace_database"]),
    ("role_passwords", include_str!("../sql/role_passwords.sql"), &["role_passwords"]),
    ("session", include_str!("../sql/session.sql"), &["session"]),
    ("snapshot", include_str!("../sql/snapshot.sql"), &["snapshot"]),
];

/// The requests for commands by their names.
fn requests() -> BTreeMap<String, Value> {
    let manifest: Value = toml::from_str(MANIFEST).unwrap();
    let requests = manifest["request"]["exec"].as_array().unwrap();
    requests.iter().map(|request| (request["name"].as_str().unwrap().to_owned(), request.clone())).collect()
}

fn text(request: &Value) -> Option<&str> {
    request.get("stdin")?.get("text")?.as_str()
}

#[test]
fn the_texts_of_the_manifest_are_the_files_in_sql() {
    let requests = requests();
    let mut seen = BTreeSet::new();
    for (file, sql, labels) in TEXTS {
        for label in labels {
            assert_eq!(
                text(&requests[*label]),
                Some(sql),
                "{label} is not sql/{file}.sql: copy the file into plugin.toml"
            );
            seen.insert((*label).to_owned());
        }
    }
    let with_text: BTreeSet<String> =
        requests.iter().filter(|(_, request)| text(request).is_some()).map(|(name, _)| name.clone()).collect();
    assert_eq!(seen, with_text);
}

#[test]
fn every_request_says_why_and_what_it_changes() {
    for (name, request) in requests() {
        assert!(request["reason"].as_str().is_some_and(|reason| reason.len() > 15), "{name}");
        let changes = request["effect"].as_str() == Some("changes");
        let verbs: Vec<&str> = request["verbs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let scratch = request.get("scratch").and_then(Value::as_bool).unwrap_or_default();
        assert!(!changes || verbs == ["restore"] || (scratch && verbs == ["verify"]), "{name}");
    }
}

#[test]
fn no_request_takes_standard_input_from_the_plugin() {
    for (name, request) in requests() {
        let stdin = request.get("stdin");
        assert!(stdin.is_none_or(|stdin| stdin.get("text").is_some() || stdin.get("made_by").is_some()), "{name}");
    }
}

#[test]
fn what_can_drop_a_database_without_being_asked_is_bound_to_scratch_names() {
    for (name, request) in requests() {
        if text(&request).is_some_and(|text| text.contains("DROP DATABASE")) && name != "replace_database" {
            let slot = request["slots"]["name"].as_str().unwrap();
            assert!(
                slot.starts_with("strongroom_verify_[") || slot.starts_with("strongroom_restore_["),
                "{name}: {slot}"
            );
        }
    }
}

#[test]
fn what_reads_passwords_or_dumps_is_not_inspected() {
    for name in ["pg_dump", "globals", "globals_without_passwords", "role_passwords", "restore_passwords", "decode"] {
        assert!(requests()[name].get("inspect").is_none(), "{name}");
    }
}

#[test]
fn the_schemas_name_the_keys_that_the_code_reads() {
    let manifest: Value = toml::from_str(MANIFEST).unwrap();
    let example = |table: &str| -> serde_json::Value {
        let properties = manifest[table]["properties"].as_table().unwrap();
        let defaults = properties.iter().filter_map(|(key, schema)| Some((key.clone(), schema.get("default")?)));
        let map: serde_json::Map<String, serde_json::Value> =
            defaults.map(|(key, value)| (key, serde_json::to_value(value).unwrap())).collect();
        map.into()
    };
    // The defaults of the schemas are those of the code; unknown keys are refused by both.
    let settings: Settings = serde_json::from_value(example("settings")).unwrap();
    assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
    let options: Options = serde_json::from_value(example("options")).unwrap();
    assert_eq!(format!("{options:?}"), format!("{:?}", Options::default()));
}
