//! A cluster that goes away in the middle of a backup or of a restore.

use super::{b, config_map, deployment, steps};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::relay::private;

/// How long any run here may take: less than the patience that a cluster is given unless its operator says
/// otherwise.
const SOON: Duration = Duration::from_secs(90);

/// A front before the cluster `b`, behind which it is gone from the request on of which `is_last` says so, and
/// until the flag is taken back.
fn dying(is_last: impl Fn(&str) -> bool + Send + Sync + 'static) -> (Front, Arc<AtomicBool>) {
    let is_gone = Arc::new(AtomicBool::new(false));
    let flag = is_gone.clone();
    let dies = AtomicBool::new(true);
    let front = Front::start(b(), move |request, _| {
        if dies.load(Ordering::SeqCst) && is_last(request) {
            dies.store(false, Ordering::SeqCst);
            flag.store(true, Ordering::SeqCst);
        }
        if flag.load(Ordering::SeqCst) { Act::Gone } else { Act::Pass }
    });
    (front, is_gone)
}

fn behind(front: &Front) -> String {
    format!("api = {:?}\ntoken = {{ file = \"token\" }}\npatience = \"2s\"", front.url())
}

/// Creates so many config maps, which are listed before the one that every namespace has.
fn many(namespace: &str, n: usize) {
    let maps: Vec<_> = (0..n).map(|n| config_map(namespace, &format!("a-{n:04}"), "x")).collect();
    b().create(&json!({"apiVersion": "v1", "kind": "List", "items": maps})).unwrap();
}

fn record(estate: &Estate, id: &str) -> Value {
    estate.run(&["show", "clusters", id, "--output", "json"]).check_code(0).json()["record"].clone()
}

#[test]
fn a_cluster_that_dies_in_the_middle_of_its_walk_leaves_the_other_whole_and_is_the_same_when_it_is_back() {
    let namespace = b().namespace("midway").unwrap();
    many(&namespace, 600);
    b().apply(&deployment(&namespace, 0, "x")).unwrap();
    // The second page of config maps is not answered any more.
    let (front, is_gone) = dying(|request| request.contains("/configmaps?") && request.contains("continue="));
    let there = format!("context = \"admin\"\nkubeconfig = {:?}", b().admin_kubeconfig());
    // Each kind is listed in each namespace, also in those that are not there.
    let absent = (1..=9).map(|n| format!("never-{n}"));
    let namespaces = json!(std::iter::once(namespace).chain(absent).collect::<Vec<_>>());
    let settings = format!("clusters = [\"mortal\", \"b\"]\nnamespaces = {namespaces}\ncluster_resources = false");
    let estate = Estate::at(&[("mortal", behind(&front)), ("b", there)], &settings, "");
    private(&estate.sandbox.write("token", "none"));

    let began = Instant::now();
    let id = estate.backup(3);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let found = record(&estate, &id);
    assert_eq!(found["outcome"], "incomplete");
    let fact = |record: &Value, name: &str| -> String {
        let facts = record["facts"].as_array().unwrap().iter();
        let of = |fact: &&Value| fact[0] == name;
        facts.clone().find(of).unwrap_or_else(|| panic!("no fact {name}: {facts:?}"))[1].as_str().unwrap().to_owned()
    };
    // What was listed before is there, and is not taken for all of it.
    assert_eq!(fact(&found, "mortal/v1/ConfigMap"), "500");
    let skipped: Vec<String> = found["skipped"].as_array().unwrap().iter().map(Value::to_string).collect();
    let torn = skipped.iter().find(|one| one.contains("mortal: /ConfigMap")).expect("it is named");
    assert!(torn.contains("500 of its objects were listed before, and are in the backup"), "{torn}");
    assert!(skipped.iter().any(|one| one.contains("the cluster no longer answers")), "{skipped:#?}");
    assert!(skipped.iter().all(|one| one.contains("mortal: ")), "{skipped:#?}");
    let kinds = |record: &Value, cluster: &str| -> BTreeSet<String> {
        let facts = record["facts"].as_array().unwrap().iter().filter_map(|fact| fact[0].as_str());
        facts.filter_map(|name| name.strip_prefix(&format!("{cluster}/"))).map(str::to_owned).collect()
    };
    let workload = "apps/v1/Deployment";
    assert!(kinds(&found, "b").contains(workload) && !kinds(&found, "mortal").contains(workload), "{found:#}");
    assert!(skipped.iter().any(|one| one.contains("apps/Deployment")), "{skipped:#?}");
    assert_eq!(fact(&found, "b/v1/ConfigMap"), "600");
    // Nor was it asked for what was left of the kind that it died in.
    assert_eq!(front.n_requests("GET /api/v1/namespaces/never-9/configmaps"), 0);
    estate.run(&["verify", "clusters", &id]).check_code(0);

    // It is back: the next run is whole, and is one of the same clusters.
    is_gone.store(false, Ordering::SeqCst);
    let whole = record(&estate, &estate.backup(0));
    assert_eq!(fact(&whole, "mortal/v1/ConfigMap"), "600");
    assert_eq!(kinds(&whole, "mortal"), kinds(&whole, "b"));
    assert_eq!(whole["source_id"], found["source_id"]);
    assert!(whole["source_id"].as_str().is_some_and(|id| id.contains("mortal=")), "{whole:#}");
}

#[test]
fn a_cluster_that_goes_away_in_the_middle_of_a_restore_ends_it_and_a_second_one_goes_on() {
    let (from, to) = (b().namespace("before").unwrap(), b().namespace("after").unwrap());
    many(&from, 900);
    let is_late = format!("POST /api/v1/namespaces/{to}/configmaps");
    let n_posts = std::sync::atomic::AtomicUsize::new(0);
    let (front, is_gone) =
        dying(move |request| request.starts_with(&is_late) && n_posts.fetch_add(1, Ordering::SeqCst) == 450);
    let settings = format!(
        "clusters = [\"b\"]\nnamespaces = [{from:?}]\ncluster_resources = false\nkinds = [\"/ConfigMap\", \"/Service\"]"
    );
    let options = format!("map_namespaces = {{ {from} = {to:?} }}");
    let estate = Estate::at(&[("b", behind(&front))], &settings, &options);
    private(&estate.sandbox.write("token", "none"));
    let id = estate.backup(0);

    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    let began = Instant::now();
    let broken = estate.run(&restore);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_ne!(broken.code, Some(0));
    let ended = steps(&broken, &["restore cluster"]);
    assert!(ended.len() == 1 && ended[0].contains("what is listed as done stays"), "{ended:#?}");
    assert!(ended[0].contains("the restore can be started again"), "{ended:#?}");
    let there = || b().kubectl(["get", "configmaps", "-n", &to, "-o", "name"]).unwrap().lines().count() - 1;
    let n = there();
    let created = steps(&broken, &["create"]);
    assert!((400..900).contains(&n), "{n}");
    // Of those whose answers were lost it cannot know.
    let told = created.iter().find(|step| step.contains("/ConfigMap")).expect("what was created is counted");
    let told: usize = told.split("\"note\":\"").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(told <= n && told + 32 >= n, "{told} of {n}");

    is_gone.store(false, Ordering::SeqCst);
    estate.run(&restore).check_code(0);
    assert_eq!(there(), 900);
}
