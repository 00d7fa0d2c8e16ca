//! Clusters of one job at the same time: what is slow or dead holds up none of the others.

use super::{b, config_map};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::{files, wait_until};

/// Bounds the test, and nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the archive of the config maps of this cluster is in the store, whole.
fn is_stored(store: &Path, cluster: &str) -> anyhow::Result<bool> {
    let begin = format!("{cluster}.");
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files(store)?.iter().map(|path| name(path)).any(|name| name.starts_with(&begin) && name.ends_with(".zst.age")))
}

#[test]
fn a_list_that_expires_in_the_middle_is_called_one_of_two_moments() {
    let namespace = b().namespace("torn").unwrap();
    let maps: Vec<_> = (0..600).map(|n| config_map(&namespace, &format!("m-{n:03}"), "x")).collect();
    b().create(&json!({"apiVersion": "v1", "kind": "List", "items": maps})).unwrap();
    // The page behind the first one is refused once: what it goes on from has expired.
    let expired = AtomicBool::new(false);
    let torn = Front::start(b(), move |request, _| {
        let goes_on = request.contains("/configmaps?") && request.contains("continue=");
        if goes_on && !expired.swap(true, Ordering::SeqCst) {
            Act::Answer(410, "x-test: expired", EXPIRED)
        } else {
            Act::Pass
        }
    });
    let settings = format!(
        "clusters = [\"torn\"]\nnamespaces = [{namespace:?}]\nkinds = [\"/ConfigMap\", \"/ServiceAccount\"]\ncluster_resources = false"
    );
    let behind = format!("api = {:?}\ntoken = {{ file = \"token\" }}", torn.url());
    let estate = Estate::at(&[("torn", behind)], &settings, "");
    strongroom_tests::relay::private(&estate.sandbox.write("token", "none"));
    let id = estate.backup(0);
    let record = estate.run(&["show", "clusters", &id, "--output", "json"]).check_code(0).json()["record"].clone();
    let facts = record["facts"].to_string();
    assert!(facts.contains(r#"["torn.not-of-one-moment","ConfigMap"]"#), "{facts}");
    // 600, and the one that every namespace has is excluded.
    assert!(facts.contains(r#"["torn/v1/ConfigMap","600"]"#), "nothing twice, nothing lost: {facts}");
    estate.run(&["verify", "clusters", &id]).check_code(0);
}

/// What an API server says of a token that is too old.
const EXPIRED: &str = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410,"message":"the provided continue parameter is too old"}"#;

#[test]
fn a_cluster_that_is_slow_or_dead_holds_up_none_of_the_others() {
    let namespace = b().namespace("beside").unwrap();
    for name in ["one", "two", "three"] {
        b().apply(&config_map(&namespace, name, "x")).unwrap();
    }
    // One answers no question at first, the other answers what kinds it has and then no list.
    let (late_gate, late) = Front::gate();
    let late_front = Front::start(b(), move |_, _| Act::Hold(late_gate.clone()));
    let (slow_gate, slow) = Front::gate();
    let slow_front =
        Front::start(
            b(),
            move |request, _| {
                if request.contains("/configmaps?") { Act::Hold(slow_gate.clone()) } else { Act::Pass }
            },
        );
    let behind = |front: &Front| format!("api = {:?}\ntoken = {{ file = \"token\" }}", front.url());
    let clusters = [
        ("gone", format!("api = \"https://127.0.0.1:1\"\nca = {:?}\ntoken = {{ file = \"token\" }}", b().ca_file())),
        ("late", behind(&late_front)),
        ("slow", behind(&slow_front)),
        ("b", format!("context = \"admin\"\nkubeconfig = {:?}", b().admin_kubeconfig())),
    ];
    let settings = format!(
        "clusters = [\"gone\", \"late\", \"slow\", \"b\"]\nnamespaces = [{namespace:?}]\nkinds = [\"/ConfigMap\"]\ncluster_resources = false"
    );
    let estate = Estate::at(&clusters, &settings, "");
    strongroom_tests::relay::private(&estate.sandbox.write("token", "none"));
    let running = estate.sandbox.strongroom(["backup", "clusters", "--output", "json"]).start().unwrap();
    late.wait_until_held();
    slow.wait_until_held();
    let store = estate.sandbox.path("store");
    // While both are held.
    let stored = || Ok(is_stored(&store, "b")?.then_some(()));
    wait_until("the archive of the cluster that answers", PATIENCE, stored).unwrap();
    assert!(!is_stored(&store, "slow").unwrap() && !is_stored(&store, "late").unwrap());
    slow.release();
    wait_until("that of the slow one", PATIENCE, || Ok(is_stored(&store, "slow")?.then_some(()))).unwrap();
    assert!(!is_stored(&store, "late").unwrap());
    late.release();
    let made = running.finish(PATIENCE).unwrap();
    // One of them is dead.
    made.check_code(3);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let record = estate.run(&["show", "clusters", &id, "--output", "json"]).check_code(0).json()["record"].clone();
    let skipped = record["skipped"].as_array().unwrap();
    assert!(skipped.len() == 1 && skipped[0].to_string().contains("cluster gone"), "{skipped:?}");
    for cluster in ["late", "slow", "b"] {
        let facts = record["facts"].as_array().unwrap();
        assert!(facts.contains(&json!([format!("{cluster}.objects"), "3"])), "{facts:?}");
    }
    estate.run(&["verify", "clusters", &id]).check_code(0);
}
