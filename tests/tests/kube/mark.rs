//! Marks in the place of a Secret's values: who gets them, and what they tell.

use super::{HELD, SECRETS, cluster, secret};
use serde_json::{Value, json};
use strongroom_tests::kube::rig::{Rig, grant, reads};

/// How marks begin, and what stands there without one.
const MARK: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbTsg";
const TEXT: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbQ==";

/// What stands in the place of the password in the text of a Secret.
#[track_caller]
fn password(text: &Value) -> String {
    let object: Value = serde_json::from_str(text.as_str().expect("an object's text")).expect("JSON");
    object["data"]["password"].as_str().expect("a password").to_owned()
}

#[test]
fn marks_tell_equal_values_from_others_and_only_to_who_cannot_write() {
    let cluster = cluster();
    let namespace = cluster.namespace("mark").unwrap();
    for name in ["db", "other"] {
        cluster.apply(&secret(&namespace, name)).unwrap();
    }
    let at = format!("namespaces = [{namespace:?}]");
    let rig = Rig::admin(cluster, &(reads(&["/Secret"], &at) + &grant(&["apply"], &["/Secret"], &at)));
    let named = |name: &str| json!({"kind": SECRETS, "namespace": namespace, "name": name});
    let get = |name: &str| {
        let mut deed = named(name);
        deed["do"] = "get".into();
        deed
    };
    let list =
        json!({"do": "list", "kind": SECRETS, "namespace": namespace, "fields": "metadata.name=db", "texts": true});
    let write = |dry_run: bool| json!({"do": "apply-unseen", "from": [named("db")], "mode": "merge", "force": true, "dry_run": dry_run, "texts": true});
    // A backup: one value under one name has one mark, in every function and every run.
    let made = rig.backup(&[get("db"), list.clone(), get("other"), get("db")]);
    let mark = password(&made[0]);
    assert!(mark.starts_with(MARK) && !mark.contains(HELD), "{mark}");
    assert_eq!((password(&made[1]["texts"][0]), password(&made[3])), (mark.clone(), mark.clone()));
    assert_ne!(password(&made[2]), mark, "the same value of another Secret");
    // A plan, in which nothing is written: the same. What would be written has no marks, or a guess could be tried.
    let planned = rig.restored(&["--plan"], &[get("db"), list.clone(), write(true)]);
    assert_eq!((password(&planned[0]), password(&planned[1]["texts"][0])), (mark.clone(), mark.clone()));
    assert_eq!((password(&planned[2][0]["object"]), password(&planned[2][0]["before"])), (TEXT.into(), TEXT.into()));
    // A restore, which writes: none.
    let restored = rig.restored(&[], &[get("db"), list, write(false), get("other")]);
    let seen = [&restored[0], &restored[1]["texts"][0], &restored[2][0]["object"], &restored[3]].map(password);
    assert_eq!(seen, [TEXT; 4]);
    for answer in made.iter().chain(&planned).chain(&restored) {
        assert!(!answer.to_string().contains(HELD) && !answer.to_string().contains("hunter2"), "{answer}");
    }
    // What has another value has another mark.
    let mut changed = secret(&namespace, "db");
    changed["stringData"]["password"] = "hunter3hunter3".into();
    cluster.apply(&changed).unwrap();
    let again = password(&rig.ask(get("db")));
    assert!(again.starts_with(MARK) && again != mark, "{again}");
}
