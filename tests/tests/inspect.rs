//! What `plugin inspect` says of the plugins of this repository: all of it, before anything runs.

use strongroom_tests::{Sandbox, check_snapshot, plugin};

/// The inspection of a plugin's file, in an empty directory and without a configuration.
fn inspect(name: &str, more: &[&str]) -> strongroom_tests::Output {
    let path = plugin(name).unwrap_or_else(|error| panic!("{error:#}"));
    let sandbox = Sandbox::new();
    let args = ["plugin", "inspect", path.to_str().unwrap()];
    sandbox.strongroom(args.iter().chain(more)).run()
}

#[test]
fn plugins_import_nothing_but_the_contract_and_give_a_reason_for_every_request() {
    for name in ["bucket", "postgres"] {
        let inspection = inspect(name, &["--output", "json"]);
        let json = inspection.check_code(0).json();
        let imports = json["imports"].as_array().unwrap();
        assert!(!imports.is_empty());
        for import in imports {
            let interface = import["name"].as_str().unwrap();
            assert!(interface.starts_with("strongroom:plugin/"), "{name} imports {interface}");
            for function in import["functions"].as_array().unwrap() {
                assert_eq!(function["requested"], true, "{name} imports {function} and asks for nothing that needs it");
            }
        }
        let requests = json["requests"].as_array().unwrap();
        assert!(!requests.is_empty());
        for request in requests {
            let reason = request["reason"].as_str().unwrap_or_default();
            assert!(reason.split_whitespace().count() >= 3, "{name} gives no reason for {request}");
        }
        assert!(!inspection.stdout.contains("wasi"), "{}", inspection.stdout);
    }
}

#[test]
fn the_bucket_plugin_asks_for_this_and_no_more() {
    let inspection = inspect("bucket", &[]);
    check_snapshot!(inspection, @"");
}
