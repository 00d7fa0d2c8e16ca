//! What a cluster refuses, or cannot do: each is named with who refused it and what to do, and stops
//! nothing else.

use super::{b, config_map, of_namespace, steps};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use strongroom_tests::estate::Estate;
use strongroom_tests::kube::Cluster;
use strongroom_tests::kube::hook::{Hook, REASON, Way};
use strongroom_tests::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster whose APIs and definitions break while tests run, and in which nothing else is.
pub(super) fn faulty() -> &'static Cluster {
    Cluster::shared("faulty")
}

/// A setting of who backs it up and wants none of what breaks.
pub(super) const WITHOUT_FAULTS: &str = "exclude_kinds = [\"*/Event\", \"coordination.k8s.io/*\", \"/Node\", \
    \"certificates.k8s.io/*\", \"fault.example.org/*\", \"late.example.org/*\", \"down.example.org/*\"]";

/// A config map that a webhook of this name looks at.
fn hooked(namespace: &str, name: &str, hook: &str) -> Value {
    let mut object = config_map(namespace, name, "recorded");
    object["metadata"]["labels"] = json!({"hook": hook});
    object
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Names of the objects of a kind in a namespace, without what the cluster puts there itself.
fn names(cluster: &Cluster, kind: &str, namespace: &str) -> BTreeSet<String> {
    let found = cluster.kubectl(["get", kind, "-n", namespace, "-o", "name"]).unwrap();
    let name = |line: &str| line.rsplit('/').next().unwrap().to_owned();
    found.lines().map(name).filter(|name| name != "kube-root-ca.crt").collect()
}

/// The one text among these that speaks of something.
#[track_caller]
fn about<'a>(texts: &'a [String], of: &str) -> &'a str {
    texts.iter().find(|text| text.contains(of)).unwrap_or_else(|| panic!("nothing about {of}: {texts:#?}"))
}

#[test]
fn a_webhook_that_refuses_or_says_nothing_is_named_and_stops_nothing_else() {
    let hook = Hook::start(b()).unwrap();
    let (from, to) = (b().namespace("hooked").unwrap(), b().namespace("guarded").unwrap());
    let secret = |name: &str, hook: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": "hunter2hunter2"},
            "metadata": {"name": name, "namespace": from, "labels": {"hook": hook}}})
    };
    b().create(&list(&[
        config_map(&from, "free", "recorded"),
        hooked(&from, "unwanted", "refuse"),
        hooked(&from, "late", "hang"),
        hooked(&from, "lenient", "ignored"),
        secret("sealed", "refuse"),
        secret("waiting", "hang"),
    ]))
    .unwrap();
    let options = format!("map_namespaces = {{ {from} = {to:?} }}\nkinds = [\"/ConfigMap\", \"/Secret\"]");
    let estate = of_namespace(&from, &options);
    let id = estate.backup(0);

    let webhooks = [("refuse", Way::Refuse, "Fail"), ("hang", Way::Hang, "Fail"), ("ignored", Way::Hang, "Ignore")]
        .map(|(name, way, policy)| hook.validating(&to, name, way, policy));
    b().apply(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": to}, "webhooks": webhooks}))
        .unwrap();
    let refused = || Ok(b().would_take(&hooked(&to, "probe", "refuse")).err());
    wait_until("the webhooks are asked", PATIENCE, refused).unwrap();

    let check = |told: &[String]| {
        let unwanted = about(told, &format!("/ConfigMap {to}/unwanted"));
        assert!(unwanted.contains("refuse.hooks.example.org") && unwanted.contains(REASON), "{unwanted}");
        assert!(unwanted.contains("has to take it"), "{unwanted}");
        let late = about(told, &format!("/ConfigMap {to}/late"));
        assert!(late.contains("failed calling webhook") && late.contains("hang.hooks.example.org"), "{late}");
        // Of a Secret only who refused it: what a webhook says may quote it.
        let sealed = about(told, &format!("/Secret {to}/sealed"));
        assert!(sealed.contains("refuse.hooks.example.org") && !sealed.contains(REASON), "{sealed}");
        assert!(about(told, &format!("/Secret {to}/waiting")).contains("hang.hooks.example.org"), "{told:#?}");
        assert!(!told.iter().any(|text| text.contains("free") || text.contains("lenient")), "{told:#?}");
    };
    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    check(&steps(plan.check_code(0), &["restore"])[..4]);
    let asked = hook.n_calls(Way::Hang);
    assert!(asked >= 3, "a plan asks webhooks as well: {asked}");
    let restored = estate.run(&restore);
    restored.check_code(6);
    let told: Vec<String> =
        steps(&restored, &["restore"]).into_iter().filter(|step| !step.contains("refused, named above")).collect();
    check(&told);
    assert_eq!(names(b(), "configmaps", &to), ["free", "lenient"].map(str::to_owned).into());
    assert_eq!(names(b(), "secrets", &to), BTreeSet::new());
}

#[test]
fn webhooks_are_restored_behind_everything_that_they_would_look_at() {
    let hook = Hook::start(b()).unwrap();
    let namespace = b().namespace("ordered").unwrap();
    let mut object = hooked(&namespace, "looked-at", "refuse");
    object["metadata"]["labels"]["ordered"] = namespace.as_str().into();
    b().create(&object).unwrap();
    // One whose owner comes behind it, so that it waits for a while, and not until the webhook is there.
    let mut owner = config_map(&namespace, "z-owner", "x");
    owner["metadata"]["labels"] = json!({"ordered": namespace});
    b().create(&owner).unwrap();
    let uid = b().get(&["configmap", "z-owner", "-n", &namespace]).unwrap()["metadata"]["uid"].clone();
    let mut owned = hooked(&namespace, "a-owned", "refuse");
    owned["metadata"]["labels"]["ordered"] = namespace.as_str().into();
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "z-owner", "uid": uid}]);
    b().create(&owned).unwrap();
    let webhook = hook.validating(&namespace, "refuse", Way::Refuse, "Fail");
    let kind = "ValidatingWebhookConfiguration";
    b().apply(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "webhooks": [webhook],
        "metadata": {"name": namespace, "labels": {"ordered": namespace}}}))
        .unwrap();
    let settings = format!(
        "clusters = [\"b\"]\nnamespaces = [{namespace:?}]\nlabels = \"ordered={namespace}\"\n\
         kinds = [\"/ConfigMap\", \"admissionregistration.k8s.io/*\"]"
    );
    let estate = Estate::new(&[("b", b())], &settings, "");
    let id = estate.backup(0);

    let probe = hooked(&namespace, "probe", "refuse");
    let delete = |what: &[&str]| b().kubectl([&["delete"][..], what].concat()).unwrap();
    delete(&["validatingwebhookconfiguration", &namespace]);
    delete(&["configmap", "looked-at", "a-owned", "z-owner", "-n", &namespace]);
    wait_until("the webhook is gone", PATIENCE, || b().would_take(&probe).map(Some)).unwrap();
    let restore = ["restore", "clusters", &id, "--output", "json"];
    let plan = estate.run(&[&restore[..], &["--plan"]].concat());
    let creates = steps(plan.check_code(0), &["create"]);
    let place = |of: &str| creates.iter().position(|step| step.contains(of)).unwrap_or_else(|| panic!("{creates:#?}"));
    assert!(place("/ConfigMap") < place(kind), "{creates:#?}");
    estate.run(&restore).check_code(0);
    assert_eq!(names(b(), "configmaps", &namespace), ["looked-at", "a-owned", "z-owner"].map(str::to_owned).into());

    // And now it is there, and refuses.
    wait_until("the webhook is back", PATIENCE, || Ok(b().would_take(&probe).err())).unwrap();
    delete(&["configmap", "looked-at", "-n", &namespace]);
    estate.run(&restore).check_code(6).check_stdout("refuse.hooks.example.org").check_stdout(REASON);
}

/// The checks of a diagnosis by their ids.
fn diagnosed(estate: &Estate) -> std::collections::BTreeMap<String, Value> {
    let output = estate.run(&["diagnose", "clusters", "--output", "json"]);
    let checks = output.json()["checks"].as_array().unwrap_or_else(|| panic!("{}", output.stderr)).clone();
    checks.into_iter().map(|check| (check["id"].as_str().unwrap().to_owned(), check)).collect()
}

/// A definition of the group `fault.example.org`.
fn definition(plural: &str, kind: &str, versions: &[(&str, bool)], more: &Value) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let mut versions: Vec<Value> = versions
        .iter()
        .map(|(name, storage)| json!({"name": name, "served": true, "storage": storage, "schema": schema}))
        .collect();
    for version in &mut versions {
        version.as_object_mut().unwrap().extend(more["version"].as_object().cloned().unwrap_or_default());
    }
    let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind});
    let mut spec = json!({"group": "fault.example.org", "scope": "Namespaced", "names": names, "versions": versions});
    spec.as_object_mut().unwrap().extend(more["spec"].as_object().cloned().unwrap_or_default());
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec,
        "metadata": {"name": format!("{plural}.fault.example.org")}})
}

fn fault(version: &str, kind: &str, namespace: &str) -> Value {
    json!({"apiVersion": format!("fault.example.org/{version}"), "kind": kind, "spec": {"size": 3},
        "metadata": {"name": "one", "namespace": namespace}})
}

#[test]
fn definitions_that_changed_conversions_that_are_down_and_apis_without_a_server_are_told_of() {
    let (cluster, hook) = (faulty(), Hook::start(faulty()).unwrap());
    let namespace = cluster.namespace("versions").unwrap();
    let converting = |client: &Value| {
        let webhook = json!({"clientConfig": client, "conversionReviewVersions": ["v1"]});
        definition(
            "shapes",
            "Shape",
            &[("v1", true), ("v2", false)],
            &json!({"spec": {"conversion": {
                "strategy": "Webhook", "webhook": webhook,
            }}}),
        )
    };
    let (alive, dead) = (hook.client(Way::Convert), json!({"url": "https://127.0.0.1:1/convert"}));
    let sub_resource = json!({"version": {"subresources": {"status": {}}}});
    cluster
        .apply(&list(&[
            converting(&alive),
            definition("olds", "Old", &[("v1", true)], &Value::Null),
            definition("stateds", "Stated", &[("v1", true)], &sub_resource),
            definition("looses", "Loose", &[("v1", true)], &Value::Null),
        ]))
        .unwrap();
    let kinds = ["shapes", "olds", "stateds", "looses"].map(|kind| format!("crd/{kind}.fault.example.org"));
    let established = ["wait", "--for=condition=Established"].map(str::to_owned);
    cluster.kubectl(established.iter().chain(&kinds)).unwrap();
    let mut loose = fault("v1", "Loose", &namespace);
    loose["status"] = json!({"ready": "yes"});
    for object in
        [fault("v1", "Shape", &namespace), fault("v1", "Old", &namespace), fault("v1", "Stated", &namespace), loose]
    {
        // A kind is served a moment after it is established.
        wait_until("the kind is served", PATIENCE, || cluster.apply(&object).map(Some)).unwrap();
    }
    let stated = ["stateds.fault.example.org", "one", "-n", &namespace];
    let patch =
        [&["patch"][..], &stated, &["--subresource=status", "--type=merge", "-p", r#"{"status":{"ready":"yes"}}"#]];
    cluster.kubectl(patch.concat()).unwrap();

    let estate = |kinds: &str| {
        let settings =
            format!("clusters = [\"f\"]\nnamespaces = [{namespace:?}]\ncluster_resources = false\nkinds = [{kinds}]");
        Estate::new(&[("f", cluster)], &settings, "wait_seconds = 1")
    };
    let healthy = estate("\"fault.example.org/*\"");
    let backup = || {
        let id = healthy.backup(0);
        let shown = healthy.run(&["show", "clusters", &id, "--output", "json"]);
        let facts = shown.check_code(0).json()["record"]["facts"].to_string();
        let all = ["v2/Shape", "v1/Old", "v1/Stated", "v1/Loose"];
        Ok(all.iter().all(|kind| facts.contains(&format!("f/fault.example.org/{kind}"))).then_some(id))
    };
    let id = wait_until("discovery has the kinds", PATIENCE, backup).unwrap();

    // Everything breaks.
    for kind in ["shapes", "stateds", "looses"] {
        cluster.kubectl(["delete", &format!("{kind}.v1.fault.example.org"), "one", "-n", &namespace]).unwrap();
    }
    cluster.apply(&fault("v1", "Shape", &namespace)).unwrap();
    cluster.apply(&converting(&dead)).unwrap();
    cluster.kubectl(["delete", "crd", "olds.fault.example.org"]).unwrap();
    cluster.apply(&definition("olds", "Old", &[("v2", true)], &Value::Null)).unwrap();
    cluster.register_api_without_server().unwrap();
    let broken = estate("\"fault.example.org/*\", \"down.example.org/*\"");
    let incomplete = || {
        let made = broken.run(&["backup", "clusters", "--output", "json"]);
        let skipped = made.json()["skipped"].to_string();
        let told = ["f: down.example.org/v1", "f: fault.example.org/Shape", "conversion webhook", "127.0.0.1:1"];
        Ok((made.code == Some(3) && told.iter().all(|text| skipped.contains(text))).then_some(()))
    };
    wait_until("the backup is incomplete, and says of what", PATIENCE, incomplete).unwrap();
    // Who does not want its kinds is not told of them: other backups are whole.
    healthy.run(&["verify", "clusters", &id]).check_code(0);
    cluster.kubectl(["delete", "shapes.v1.fault.example.org", "one", "-n", &namespace]).unwrap();

    let restore = ["restore", "clusters", &id, "--output", "json", "--target", "there"];
    for (flags, code) in [(&["--plan"][..], 0), (&[], 6)] {
        let done = healthy.run(&[&restore[..], flags].concat());
        let told = steps(done.check_code(code), &["restore"]);
        let old = about(&told, "fault.example.org/Old");
        assert!(old.contains("fault.example.org/v1") && old.contains("it serves fault.example.org/v2"), "{old}");
        let shape = about(&told, &format!("Shape {namespace}/one"));
        assert!(shape.contains("conversion webhook for fault.example.org/v2, Kind=Shape"), "{shape}");
        assert!(shape.contains("what converts fault.example.org/v2, Kind=Shape has to answer first"), "{shape}");
    }
    let get = |kind: &str| cluster.get(&[&format!("{kind}.v1.fault.example.org"), "one", "-n", &namespace]).unwrap();
    assert_eq!([get("stateds")["status"].clone(), get("looses")["status"].clone()], [Value::Null, Value::Null]);

    for (estate, check, says) in [
        (&broken, "kubernetes.apis.f", "down.example.org"),
        (&healthy, "kubernetes.versions.f", "fault.example.org/v1"),
    ] {
        let check = &diagnosed(estate)[check];
        assert!(check["outcome"] != "passed" && check["evidence"].to_string().contains(says), "{check:#}");
    }

    // A comparison says what it could not look at, and takes nothing of it for gone.
    let compared = healthy.run(&["diff", "clusters", &id, "live", "--output", "json"]);
    let drift = compared.check_code(3).json();
    assert!(!drift["differences"].to_string().contains("fault.example.org/Old"), "{drift:#}");
    let not_compared = drift["not_compared"].to_string();
    assert!(not_compared.contains("f: fault.example.org/Old") && not_compared.contains("it serves"), "{drift:#}");
    let whole = broken.run(&["diff", "clusters", "latest", "live", "--allow-incomplete", "--output", "json"]);
    let down = whole.check_code(3).json()["not_compared"].to_string();
    assert!(down.contains("f: down.example.org/v1") && down.contains("does not answer"), "{down}");

    // What converts runs again, and status is asked for.
    cluster.apply(&converting(&alive)).unwrap();
    let shape = fault("v2", "Shape", &namespace);
    wait_until("shapes are converted", PATIENCE, || cluster.would_take(&shape).map(Some)).unwrap();
    for kind in ["stateds", "looses"] {
        cluster.kubectl(["delete", &format!("{kind}.v1.fault.example.org"), "one", "-n", &namespace]).unwrap();
    }
    let again = healthy.run(&[&restore[..], &["--option", "status=true"]].concat());
    let told = steps(again.check_code(6), &["restore", "restore status"]);
    assert!(told.iter().all(|step| step.contains("fault.example.org/Old")), "{told:#?}");
    assert_eq!(get("shapes")["spec"]["size"], 3);
    for kind in ["stateds", "looses"] {
        assert_eq!(get(kind)["status"], json!({"ready": "yes"}), "{kind}");
    }
}

#[test]
fn what_converts_objects_is_waited_for_before_they_are_restored() {
    let cluster = faulty();
    let namespace = cluster.namespace("converter").unwrap();
    let mark = json!({"converter": namespace});
    let placed = |kind: &str, api: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "hook", "namespace": namespace, "labels": mark}});
    let labels = json!({"app": "hook"});
    let (mut workload, mut service) = (placed("Deployment", "apps/v1"), placed("Service", "v1"));
    // It is not available within the time of this test.
    workload["spec"] = json!({"replicas": 1, "minReadySeconds": 500, "selector": {"matchLabels": labels}, "template": {
        "metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "hook"}]}}});
    service["spec"] = json!({"selector": labels, "ports": [{"port": 443}]});
    let client = json!({"service": {"namespace": namespace, "name": "hook"}});
    // One version alone: nothing is ever converted, and nothing refused.
    let mut gears = definition(
        "gears",
        "Gear",
        &[("v1", true)],
        &json!({"spec": {"conversion": {
            "strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]},
        }}}),
    );
    gears["metadata"] = json!({"name": "gears.late.example.org", "labels": mark});
    gears["spec"]["group"] = "late.example.org".into();
    let mut gear = fault("v1", "Gear", &namespace);
    gear["apiVersion"] = "late.example.org/v1".into();
    gear["metadata"]["labels"] = mark;
    cluster.apply(&list(&[workload, service, gears])).unwrap();
    wait_until("the kind is served", PATIENCE, || cluster.apply(&gear).map(Some)).unwrap();

    let settings = format!(
        "clusters = [\"f\"]\nnamespaces = [{namespace:?}]\nlabels = \"converter={namespace}\"\n\
         kinds = [\"apiextensions.k8s.io/*\", \"/Service\", \"apps/Deployment\", \"late.example.org/Gear\"]"
    );
    let estate = Estate::new(&[("f", cluster)], &settings, "wait_seconds = 5");
    let backup = || {
        let id = estate.backup(0);
        let shown = estate.run(&["show", "clusters", &id, "--output", "json"]);
        Ok(shown.check_code(0).json()["record"]["facts"].to_string().contains("v1/Gear").then_some(id))
    };
    let id = wait_until("discovery has the kind", PATIENCE, backup).unwrap();
    let delete = |what: &[&str]| cluster.kubectl([&["delete"][..], what].concat()).unwrap();
    let restore = || {
        let restored = estate.run(&["restore", "clusters", &id, "--target", "there", "--output", "json"]);
        cluster.get(&["gears.late.example.org", "one", "-n", &namespace]).unwrap();
        steps(restored.check_code(0), &["wait for"])
    };
    // The definition is written by the first restore, and is there in the second.
    delete(&["crd", "gears.late.example.org"]);
    for again in [false, true] {
        if again {
            delete(&["gears.late.example.org", "one", "-n", &namespace]);
        }
        let waited = restore();
        assert!(waited.len() == 1 && waited[0].contains(&format!("/Service {namespace}/hook")), "{waited:#?}");
        assert!(waited[0].contains("did not become Available=True"), "{waited:#?}");
    }
    let ready = r#"{"spec":{"minReadySeconds":0,"replicas":0}}"#;
    cluster.kubectl(["patch", "deployment", "hook", "-n", &namespace, "-p", ready]).unwrap();
    cluster.kubectl(["wait", "--for=condition=Available", "deployment/hook", "-n", &namespace]).unwrap();
    delete(&["gears.late.example.org", "one", "-n", &namespace]);
    assert_eq!(restore(), [""; 0]);
    delete(&["crd", "gears.late.example.org"]);
}

#[test]
fn a_namespace_that_is_being_deleted_is_a_fact_of_a_backup_and_explained_by_a_restore() {
    let namespace = b().namespace("stuck").unwrap();
    let mut held = config_map(&namespace, "held", "x");
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    b().create(&list(&[held, config_map(&namespace, "lost", "x")])).unwrap();
    let estate = of_namespace(&namespace, "");
    let id = estate.backup(0);
    b().kubectl(["delete", "namespace", &namespace, "--wait=false"]).unwrap();
    let gone = || Ok((names(b(), "configmaps", &namespace) == ["held".to_owned()].into()).then_some(()));
    wait_until("what nothing holds is deleted", PATIENCE, gone).unwrap();

    let later = estate.backup(0);
    let shown = estate.run(&["show", "clusters", &later, "--output", "json"]);
    let facts = shown.check_code(0).json()["record"]["facts"].clone();
    assert!(facts.as_array().unwrap().contains(&json!(["b.terminating", namespace])), "{facts:#}");

    let found = diagnosed(&estate);
    let stuck = &found["kubernetes.namespaces.b"];
    assert!(stuck["outcome"] != "passed" && stuck["evidence"].to_string().contains(&namespace), "{stuck:#}");

    let restore = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
    for (flags, code) in [(&["--plan"][..], 0), (&[], 6)] {
        let done = estate.run(&[&restore[..], flags].concat());
        let told = steps(done.check_code(code), &["restore"]);
        let lost = about(&told, &format!("/ConfigMap {namespace}/lost"));
        assert!(lost.contains("is being terminated") && lost.contains("held by finalizers"), "{lost}");
        assert!(lost.contains(&format!("kubectl get namespace {namespace} -o yaml")), "{lost}");
    }
    // Nothing waits for the finalizer any longer than this test.
    let release =
        ["patch", "configmap", "held", "-n", &namespace, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    b().kubectl(release).unwrap();
}

/// What an object of the next test is padded with, in bytes: with its 40 containers it is some 1,562,000
/// bytes long as etcd is given it, which takes 1.5 MiB (1,572,864 bytes) in one request. Other names for its
/// images add 19,000.
const PADDING: usize = 1_550_000;

#[test]
fn an_object_just_below_the_limit_of_etcd_goes_round_and_one_beyond_it_is_named() {
    let [from, to, beyond] = ["long", "longer", "longest"].map(|name| b().namespace(name).unwrap());
    let container = |n: usize| json!({"name": format!("c-{n}"), "image": format!("old.example.org/x{n}:1")});
    let mut containers: Vec<Value> = (0..40).map(container).collect();
    containers[0]["env"] = json!([{"name": "PADDING", "value": "x".repeat(PADDING)}]);
    let labels = json!({"app": "x"});
    let claim = |class: &str| json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class});
    let small = json!({"metadata": {"labels": labels}, "spec": {"containers": [container(0)]}});
    let placed = |kind: &str, api: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": from}});
    let [mut template, mut data, mut set] =
        [("PodTemplate", "v1", "form"), ("PersistentVolumeClaim", "v1", "data"), ("StatefulSet", "apps/v1", "store")]
            .map(|(kind, api, name)| placed(kind, api, name));
    template["template"] = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    data["spec"] = claim("fast");
    set["spec"] = json!({"replicas": 0, "serviceName": "none", "selector": {"matchLabels": labels}, "template": small,
        "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": claim("fast")}]});
    b().create(&list(&[template, data, set])).unwrap();
    let estate = of_namespace(&from, "kinds = [\"/PodTemplate\", \"/PersistentVolumeClaim\", \"apps/StatefulSet\"]");
    let id = estate.backup(0);
    let restore = |to: &str, registry: &str| {
        let option = |name: &str, from: &str, to: &str| format!("{name}={}", json!({from: to}));
        let [place, class, images] = [
            option("map_namespaces", &from, to),
            option("map_storage_classes", "fast", "slow"),
            option("map_images", "old.example.org/", registry),
        ];
        let args = ["restore", "clusters", &id, "--target", "there", "--output", "json"];
        estate.run(&[&args[..], &["--option", &place, "--option", &class, "--option", &images]].concat())
    };
    restore(&to, "new.example.org/mirror/").check_code(0);
    let restored = b().get(&["podtemplate", "form", "-n", &to]).unwrap();
    assert!(restored.to_string().len() > 1_555_000, "{} bytes", restored.to_string().len());
    let containers = &restored["template"]["spec"]["containers"];
    assert_eq!(containers[0]["env"][0]["value"].as_str().map(str::len), Some(PADDING));
    assert_eq!(containers[39]["image"], "new.example.org/mirror/x39:1");
    let claim = b().get(&["persistentvolumeclaim", "data", "-n", &to]).unwrap();
    let set = b().get(&["statefulset", "store", "-n", &to]).unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "slow");
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"], "slow");
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "new.example.org/mirror/x0:1");

    // Other names for its images make it longer than the target's etcd takes.
    let refused = restore(&beyond, &format!("{}.example.org/", "n".repeat(490)));
    let told = steps(refused.check_code(6), &["restore"]);
    let form = about(&told, &format!("/PodTemplate {beyond}/form"));
    assert!(form.contains("too large") && form.contains("--max-request-bytes"), "{form}");
    assert_eq!(names(b(), "persistentvolumeclaims", &beyond), ["data".to_owned()].into());
}
