//! What of a recorded object is restored: which objects never come back, and which fields belong to the
//! cluster that they came from. Pure.

use crate::clean::{at, map_mut, owners_by_name, remove, server_metadata, text, to_intent};
use crate::mapping::list_mut;
use crate::settings::Options;
use serde_json::Value;
use strongroom_plugin::kube::Kind;

/// Fields that are dropped unless they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) addresses: bool,
    pub(crate) volumes: bool,
    pub(crate) nodes: bool,
    pub(crate) finished: bool,
    pub(crate) webhooks: bool,
    pub(crate) finalizers: bool,
}

impl Keep {
    /// Nothing that belongs to one cluster: what two clusters are compared by.
    pub(crate) const INTENT: Keep =
        Keep { addresses: false, volumes: false, nodes: false, finished: true, webhooks: true, finalizers: true };

    /// What the options say.
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            addresses: options.keep_addresses,
            volumes: options.keep_volumes,
            nodes: options.keep_nodes,
            finished: options.finished,
            webhooks: options.webhooks,
            finalizers: options.finalizers,
        }
    }
}

/// Labels that tie a Job's pods to its uid.
const JOB_UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Finalizers by which a deletion waits for others; on an object that is not being deleted they only
/// mean that somebody had begun to.
const DELETION_FINALIZERS: [&str; 2] = ["foregroundDeletion", "orphan"];

/// Why an object is never restored, or not unless asked for. `None` for one that is.
pub(crate) fn refuses(kind: &Kind, object: &Value, keep: Keep) -> Option<&'static str> {
    let label = |name: &str| text(object, &["metadata", "labels", name]);
    let annotation = |name: &str| text(object, &["metadata", "annotations", name]);
    if at(object, &["metadata", "deletionTimestamp"]).is_some() {
        return Some("it was being deleted");
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Node") => Some("a node registers itself"),
        ("" | "events.k8s.io", "Event") => Some("events are made by the cluster"),
        ("coordination.k8s.io", "Lease") => Some("a lease belongs to whoever holds it now"),
        ("", "Secret") => match text(object, &["type"]) {
            Some("kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token") => {
                Some("a token of another cluster is worth nothing, and the cluster makes its own")
            }
            _ => None,
        },
        ("", "ConfigMap")
            if matches!(
                text(object, &["metadata", "name"]),
                Some(
                    "kube-root-ca.crt"
                        | "extension-apiserver-authentication"
                        | "kube-apiserver-legacy-service-account-token-tracking"
                )
            ) =>
        {
            Some("the cluster writes its own authority into it")
        }
        ("discovery.k8s.io", "EndpointSlice")
            if label("endpointslice.kubernetes.io/managed-by").is_some_and(|by| by.ends_with(".k8s.io")) =>
        {
            Some("the cluster makes it from its Service")
        }
        ("", "Endpoints")
            if label("endpoints.kubernetes.io/managed-by").is_some()
                || annotation("endpoints.kubernetes.io/last-change-trigger-time").is_some() =>
        {
            Some("the cluster makes it from its Service")
        }
        ("apiregistration.k8s.io", "APIService") if label("kube-aggregator.kubernetes.io/automanaged").is_some() => {
            Some("the API server makes it")
        }
        ("batch", "Job") if !keep.finished && job_is_finished(object) => {
            Some("it has finished, and restoring it would run it again; finished = true does")
        }
        ("", "Pod") if !keep.finished && pod_is_finished(object) => {
            Some("it has finished, and restoring it would run it again; finished = true does")
        }
        ("admissionregistration.k8s.io", _) if !keep.webhooks => Some("webhooks = false leaves it out"),
        _ => None,
    }
}

fn job_is_finished(job: &Value) -> bool {
    let conditions = at(job, &["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        matches!(text(condition, &["type"]), Some("Complete" | "Failed"))
            && text(condition, &["status"]) == Some("True")
    })
}

fn pod_is_finished(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), Some("Succeeded" | "Failed"))
}

/// Drops what belongs to the cluster that an object came from. Status, managed fields and owners are
/// not touched.
pub(crate) fn apply(kind: &Kind, object: &mut Value, keep: Keep) {
    server_metadata(object);
    finalizers(object, keep);
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => remove(object, &["spec", "finalizers"]),
        ("", "Service") if !keep.addresses => service(object),
        ("", "Pod") if !keep.nodes => remove(object, &["spec", "nodeName"]),
        ("", "PersistentVolumeClaim") if !keep.volumes => claim(object),
        ("", "PersistentVolume") => {
            remove(object, &["spec", "claimRef", "uid"]);
            remove(object, &["spec", "claimRef", "resourceVersion"]);
            if !keep.volumes {
                remove(object, &["metadata", "annotations", "pv.kubernetes.io/bound-by-controller"]);
            }
        }
        ("batch", "Job") => job(object),
        ("batch", "CronJob") => {
            // Where somebody made the CronJob from a Job, its labels came along.
            for label in JOB_UID_LABELS {
                remove(object, &["spec", "jobTemplate", "spec", "template", "metadata", "labels", label]);
            }
        }
        ("", "ServiceAccount") => service_account(object),
        _ => {}
    }
}

/// What is meant by an object: all that two clusters, or two moments, are compared by.
pub(crate) fn intent(kind: &Kind, object: &mut Value) {
    apply(kind, object, Keep::INTENT);
    to_intent(object);
    owners_by_name(object);
}

/// Puts a workload to sleep for a test restore, so that nothing of it runs. False for what cannot sleep,
/// or would take addresses, hosts or volumes that something else uses: it is left out.
pub(crate) fn put_to_sleep(kind: &Kind, object: &mut Value) -> bool {
    let mut set = |path: &[&str], field: &str, value: Value| {
        if let Some(map) = map_mut(object, path) {
            map.insert(field.to_owned(), value);
        }
    };
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") | ("", "ReplicationController") => {
            set(&["spec"], "replicas", 0.into());
        }
        ("batch", "Job" | "CronJob") => set(&["spec"], "suspend", true.into()),
        ("apps", "DaemonSet") => {
            let nowhere = serde_json::json!({"strongroom/nowhere": "true"});
            set(&["spec", "template", "spec"], "nodeSelector", nowhere);
        }
        ("", "Service") => {
            if !matches!(text(object, &["spec", "type"]), None | Some("ClusterIP")) {
                return false;
            }
        }
        ("", "ConfigMap" | "Secret" | "ServiceAccount" | "LimitRange" | "PodTemplate" | "Namespace")
        | ("rbac.authorization.k8s.io", "Role" | "RoleBinding")
        | ("networking.k8s.io", "NetworkPolicy")
        | ("policy", "PodDisruptionBudget") => {}
        // Objects of other kinds may have controllers that make things outside of the cluster.
        _ => return false,
    }
    true
}

fn finalizers(object: &mut Value, keep: Keep) {
    let Some(metadata) = map_mut(object, &["metadata"]) else { return };
    if !keep.finalizers {
        metadata.remove("finalizers");
    } else if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
        list.retain(|finalizer| !DELETION_FINALIZERS.iter().any(|one| finalizer == one));
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// A headless Service (`None`) is one on purpose; every other address is given by the cluster.
fn service(object: &mut Value) {
    if text(object, &["spec", "clusterIP"]).is_some_and(|address| address != "None") {
        remove(object, &["spec", "clusterIP"]);
        remove(object, &["spec", "clusterIPs"]);
    }
    remove(object, &["spec", "healthCheckNodePort"]);
    for port in list_mut(object, &["spec", "ports"]) {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
}

fn claim(object: &mut Value) {
    remove(object, &["spec", "volumeName"]);
    for note in [
        "pv.kubernetes.io/bind-completed",
        "pv.kubernetes.io/bound-by-controller",
        "volume.kubernetes.io/selected-node",
    ] {
        remove(object, &["metadata", "annotations", note]);
    }
}

fn job(object: &mut Value) {
    if at(object, &["spec", "manualSelector"]).and_then(Value::as_bool) == Some(true) {
        return;
    }
    remove(object, &["spec", "selector"]);
    for label in JOB_UID_LABELS {
        remove(object, &["metadata", "labels", label]);
        remove(object, &["spec", "template", "metadata", "labels", label]);
    }
}

/// Tokens that old clusters made for it, by their names; the cluster makes new ones.
fn service_account(object: &mut Value) {
    let Some(name) = text(object, &["metadata", "name"]).map(|name| format!("{name}-token-")) else { return };
    let Some(map) = object.as_object_mut() else { return };
    if let Some(Value::Array(secrets)) = map.get_mut("secrets") {
        secrets.retain(|secret| !text(secret, &["name"]).is_some_and(|secret| secret.starts_with(&name)));
        if secrets.is_empty() {
            map.remove("secrets");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(of: &str) -> Kind {
        let (group, name) = of.split_once('/').unwrap();
        let (group, kind) = (group.to_owned(), name.to_owned());
        Kind { group, version: "v1".into(), kind, plural: "x".into(), namespaced: true, verbs: Vec::new() }
    }

    const PLAIN: Keep =
        Keep { addresses: false, volumes: false, nodes: false, finished: false, webhooks: true, finalizers: true };

    fn check(of: &str, before: Value, after: &Value) {
        let mut object = before;
        apply(&kind(of), &mut object, PLAIN);
        assert_eq!(&object, after, "{of}");
    }

    #[test]
    fn fields_of_the_old_cluster_are_dropped() {
        check(
            "/Service",
            json!({"metadata": {"uid": "u"}, "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                "healthCheckNodePort": 3, "ports": [{"port": 80, "nodePort": 30080}], "type": "NodePort"}}),
            &json!({"metadata": {}, "spec": {"ports": [{"port": 80}], "type": "NodePort"}}),
        );
        let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        check("/Service", headless.clone(), &headless);
        check("/Pod", json!({"spec": {"nodeName": "n", "x": 1}}), &json!({"spec": {"x": 1}}));
        check(
            "/PersistentVolumeClaim",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes", "mine": "1"}}, "spec": {"volumeName": "pv", "x": 1}}),
            &json!({"metadata": {"annotations": {"mine": "1"}}, "spec": {"x": 1}}),
        );
        check(
            "/PersistentVolume",
            json!({"spec": {"claimRef": {"name": "c", "namespace": "a", "uid": "u", "resourceVersion": "3"}}}),
            &json!({"spec": {"claimRef": {"name": "c", "namespace": "a"}}}),
        );
        check(
            "batch/Job",
            json!({"metadata": {"labels": {"controller-uid": "u", "app": "x"}}, "spec": {"selector": {"matchLabels": {}},
                "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "u"}}, "spec": {}}}}),
            &json!({"metadata": {"labels": {"app": "x"}}, "spec": {"template": {"spec": {}}}}),
        );
        let manual = json!({"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}});
        check("batch/Job", manual.clone(), &manual);
        check(
            "/ServiceAccount",
            json!({"metadata": {"name": "robot"}, "secrets": [{"name": "robot-token-x7k2m"}, {"name": "mine"}]}),
            &json!({"metadata": {"name": "robot"}, "secrets": [{"name": "mine"}]}),
        );
        check(
            "example.com/Shop",
            json!({"metadata": {"finalizers": ["foregroundDeletion", "example.com/close"]}, "spec": {"clusterIP": "x"}}),
            &json!({"metadata": {"finalizers": ["example.com/close"]}, "spec": {"clusterIP": "x"}}),
        );
    }

    #[test]
    fn what_was_asked_for_is_kept() {
        let keep =
            Keep { addresses: true, volumes: true, nodes: true, finished: true, webhooks: true, finalizers: false };
        for (of, object) in [
            ("/Service", json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"nodePort": 3}]}})),
            ("/PersistentVolumeClaim", json!({"spec": {"volumeName": "pv"}})),
            ("/Pod", json!({"spec": {"nodeName": "n"}})),
        ] {
            let mut kept = object.clone();
            apply(&kind(of), &mut kept, keep);
            assert_eq!(kept, object);
        }
        let mut object = json!({"metadata": {"finalizers": ["example.com/close"]}});
        apply(&kind("/ConfigMap"), &mut object, keep);
        assert_eq!(object, json!({"metadata": {}}));
    }

    #[test]
    fn nothing_of_a_test_restore_runs() {
        for (of, before, after) in [
            ("apps/Deployment", json!({"spec": {"replicas": 3}}), json!({"spec": {"replicas": 0}})),
            ("batch/CronJob", json!({"spec": {"suspend": false}}), json!({"spec": {"suspend": true}})),
            ("/ConfigMap", json!({"data": {}}), json!({"data": {}})),
            ("/Service", json!({"spec": {"type": "ClusterIP"}}), json!({"spec": {"type": "ClusterIP"}})),
        ] {
            let mut object = before;
            assert!(put_to_sleep(&kind(of), &mut object), "{of}");
            assert_eq!(object, after, "{of}");
        }
        for (of, mut object) in [
            ("/Pod", json!({})),
            ("/PersistentVolumeClaim", json!({})),
            ("/Service", json!({"spec": {"type": "LoadBalancer"}})),
            ("networking.k8s.io/Ingress", json!({})),
            ("example.com/Database", json!({})),
        ] {
            assert!(!put_to_sleep(&kind(of), &mut object), "{of}");
        }
    }

    #[test]
    fn equal_objects_of_two_clusters_mean_the_same() {
        let of = |uid: &str, ip: &str| {
            json!({"metadata": {"name": "web", "uid": uid, "resourceVersion": uid, "ownerReferences": [{"name": "o", "uid": uid}]},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}, "status": {"x": uid}})
        };
        let (mut one, mut other) = (of("a", "10.0.0.1"), of("b", "10.0.0.2"));
        intent(&kind("/Service"), &mut one);
        intent(&kind("/Service"), &mut other);
        assert_eq!(one, other);
    }

    #[test]
    fn some_objects_are_never_restored() {
        for (of, object) in [
            ("/Node", json!({})),
            ("events.k8s.io/Event", json!({})),
            ("coordination.k8s.io/Lease", json!({})),
            ("/Secret", json!({"type": "kubernetes.io/service-account-token"})),
            ("/ConfigMap", json!({"metadata": {"name": "kube-root-ca.crt"}})),
            (
                "discovery.k8s.io/EndpointSlice",
                json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}}}),
            ),
            (
                "/Endpoints",
                json!({"metadata": {"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "t"}}}),
            ),
            (
                "apiregistration.k8s.io/APIService",
                json!({"metadata": {"labels": {"kube-aggregator.kubernetes.io/automanaged": "true"}}}),
            ),
            ("batch/Job", json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}})),
            ("/Pod", json!({"status": {"phase": "Succeeded"}})),
            ("/ConfigMap", json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ] {
            assert!(refuses(&kind(of), &object, PLAIN).is_some(), "{of} {object}");
        }
        for (of, object) in [
            ("/Secret", json!({"type": "Opaque"})),
            ("example.com/Secret", json!({"type": "kubernetes.io/service-account-token"})),
            (
                "discovery.k8s.io/EndpointSlice",
                json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "me"}}}),
            ),
            ("/Endpoints", json!({"metadata": {"name": "outside"}})),
            ("batch/Job", json!({"status": {"conditions": [{"type": "Complete", "status": "False"}]}})),
            ("/Pod", json!({"status": {"phase": "Running"}})),
        ] {
            assert_eq!(refuses(&kind(of), &object, PLAIN), None, "{of} {object}");
        }
        let hook = kind("admissionregistration.k8s.io/MutatingWebhookConfiguration");
        assert_eq!(refuses(&hook, &json!({}), PLAIN), None);
        assert!(refuses(&hook, &json!({}), Keep { webhooks: false, ..PLAIN }).is_some());
    }
}
