//! `plugin build` and `plugin inspect` of the guest.

use super::{all_grants, build_rogue, rogue};
use crate::plugin::component::Component;
use crate::plugin::inspect::inspect;

#[test]
fn building_twice_gives_the_same_digest_and_no_wasi() {
    let dir = tempfile::tempdir().unwrap();
    let built = build_rogue(&dir.path().join("again.wasm"));
    assert_eq!(built.component.sha256, crate::plugin::component::digest(rogue()));
    assert!(!built.component.imports_wasi());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
}

#[test]
fn no_directory_of_this_machine_is_in_a_component() {
    let bytes = rogue();
    for path in [env!("CARGO_MANIFEST_DIR"), env!("CARGO")] {
        let dir = std::path::Path::new(path).parent().unwrap().to_str().unwrap();
        assert!(!bytes.windows(dir.len()).any(|window| window == dir.as_bytes()), "{dir}");
    }
}

#[test]
fn inspect_says_what_a_plugin_is_and_could_do() {
    let component = Component::decode(rogue()).unwrap();
    let inspection = inspect(&component, Some(&all_grants()));
    let text = inspection.to_string();
    for words in [
        "rogue 0.1.0",
        "exec \"echo\"  for backup, diagnose; reads\n    echo {word}\n    slot word: \"[a-z]{1,20}\"\n    why: \"a producer of bytes\"",
        "effective under this configuration",
        "/bin/echo {word}",
        "spawn                executes  starts a granted command",
        "bucket.write         changes   writes an object of a bucket",
        "bucket.delete        changes   deletes an object of a bucket  (imported, never allowed)",
        "code execution for every program that reads a language",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["schema"], "strongroom.inspect/1");
    assert_eq!(json["sha256"], component.sha256.as_str());
    let exec =
        json["imports"].as_array().unwrap().iter().find(|i| i["name"] == "strongroom:plugin/exec@0.1.0").unwrap();
    assert_eq!(exec["functions"][0]["risk"].as_str().map(|_| ()), Some(()));
    assert_eq!(exec["inert"], false);
}
