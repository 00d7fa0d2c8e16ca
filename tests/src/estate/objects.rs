//! The objects of an estate. Nothing of them runs: replicas are 0, jobs are suspended.

use serde_json::{Value, json};

/// The label that every object carries.
pub const LABEL: &str = "estate=yes";

/// Kinds that [`objects`] makes, as `group/Kind`.
pub const KINDS: usize = 52;

/// Config maps of a namespace without the label `bulk`: enough to look at, where each is looked at by itself.
const FEW: usize = 60;

/// Definitions that an estate has.
const DEFINITIONS: usize = 12;

/// Every object, those that others need first. `maps` is the number of config maps: what makes a cluster large.
pub fn objects(namespaces: &[&str], maps: usize) -> Vec<Value> {
    let mut all: Vec<Value> = (0..DEFINITIONS).map(definition).collect();
    for namespace in namespaces {
        all.push(of("v1", "Namespace", None, namespace, json!({})));
    }
    all.extend(cluster_wide(namespaces[0]));
    for namespace in namespaces {
        all.extend(within(namespace));
        for n in 0..maps / namespaces.len() {
            let data = json!({"data": {"text": format!("{n}: {}", "word ".repeat(n % 300)), "yes": "no", "run.sh": "set -e\nexec\n"}});
            let mut map = of("v1", "ConfigMap", Some(namespace), &format!("map-{n:05}"), data);
            if n >= FEW {
                map["metadata"]["labels"]["bulk"] = "yes".into();
            }
            all.push(map);
        }
        for n in 0..60 {
            let data = json!({"type": "Opaque", "stringData": {"password": format!("secret-{namespace}-{n}"), "user": "shop"}});
            all.push(of("v1", "Secret", Some(namespace), &format!("secret-{n:03}"), data));
        }
    }
    all
}

/// Objects of defined kinds: to be created once their definitions are established.
pub fn custom(namespaces: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for namespace in namespaces {
        for kind in 0..DEFINITIONS {
            for n in 0..8 {
                let spec =
                    json!({"spec": {"size": n, "unknown": {"kept": [1, "two", null]}}, "status": {"ready": true}});
                all.push(of(
                    "estate.example.org/v1",
                    &format!("Thing{kind}"),
                    Some(namespace),
                    &format!("thing.{n}"),
                    spec,
                ));
            }
        }
    }
    all
}

/// An object with the estate's label.
pub fn of(api_version: &str, kind: &str, namespace: Option<&str>, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "labels": {"estate": "yes"}},
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
        object.extend(rest);
    }
    object
}

fn definition(n: usize) -> Value {
    let (kind, plural) = (format!("Thing{n}"), format!("thing{n}s"));
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let spec = json!({"spec": {
        "group": "estate.example.org", "scope": "Namespaced",
        "names": {"plural": plural, "singular": format!("thing{n}"), "kind": kind},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }});
    of("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &format!("{plural}.estate.example.org"), spec)
}

fn cluster_wide(namespace: &str) -> Vec<Value> {
    let nothing = json!({"matchLabels": {"estate": "never"}});
    let webhook = json!({"webhooks": [{
        "name": "nothing.estate.example.org", "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": namespace, "name": "plain"}}, "objectSelector": nothing,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    }]});
    let rule = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]});
    vec![
        of("storage.k8s.io/v1", "StorageClass", None, "estate", json!({"provisioner": "estate.example.org/none"})),
        of("storage.k8s.io/v1", "CSIDriver", None, "estate.example.org", json!({"spec": {"attachRequired": false}})),
        of("scheduling.k8s.io/v1", "PriorityClass", None, "estate", json!({"value": 7})),
        of("node.k8s.io/v1", "RuntimeClass", None, "estate", json!({"handler": "estate"})),
        of(
            "networking.k8s.io/v1",
            "IngressClass",
            None,
            "estate",
            json!({"spec": {"controller": "estate.example.org/none"}}),
        ),
        of("rbac.authorization.k8s.io/v1", "ClusterRole", None, "estate:reader", rule),
        of(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            None,
            "estate:reader",
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "estate:reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": namespace}],
            }),
        ),
        of("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", None, "estate", webhook.clone()),
        of("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", None, "estate", webhook),
        of(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            None,
            "estate",
            json!({"spec": {
                "failurePolicy": "Ignore", "validations": [{"expression": "true"}],
                "matchConstraints": {"objectSelector": {"matchLabels": {"estate": "never"}}, "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]},
                ]},
            }}),
        ),
        of(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
            None,
            "estate",
            json!({"spec": {"policyName": "estate", "validationActions": ["Warn"]}}),
        ),
        of(
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            None,
            "estate",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}}),
        ),
        of(
            "flowcontrol.apiserver.k8s.io/v1",
            "FlowSchema",
            None,
            "estate",
            json!({"spec": {"matchingPrecedence": 9000, "priorityLevelConfiguration": {"name": "estate"}}}),
        ),
        of(
            "v1",
            "PersistentVolume",
            None,
            "estate",
            json!({"spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "estate", "nfs": {"server": "127.0.0.1", "path": "/none"},
            }}),
        ),
    ]
}

fn within(namespace: &str) -> Vec<Value> {
    let here =
        |api_version: &str, kind: &str, name: &str, rest: Value| of(api_version, kind, Some(namespace), name, rest);
    let labels = json!({"app": "estate"});
    let pod = json!({"containers": [{"name": "main", "image": "old.example.org/shop:1"}]});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let selector = json!({"matchLabels": labels});
    let mut once = pod.clone();
    once["restartPolicy"] = "Never".into();
    let job = json!({"suspend": true, "template": {"spec": once}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "other"});
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let nowhere = json!({"metadata": {"labels": labels}, "spec": {"nodeSelector": {"nowhere": "yes"}, "containers": [{"name": "main", "image": "x"}]}});
    let pending = json!({"schedulerName": "nobody", "serviceAccountName": "robot", "containers": [{"name": "main", "image": "old.example.org/shop:1"}]});
    let rule = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let reader = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"});
    let robot = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": namespace}]);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let backend = json!({"service": {"name": "plain", "port": {"number": 80}}});
    vec![
        here("v1", "ServiceAccount", "robot", json!({})),
        here("rbac.authorization.k8s.io/v1", "Role", "reader", json!({"rules": rule})),
        here("rbac.authorization.k8s.io/v1", "RoleBinding", "reader", json!({"roleRef": reader, "subjects": robot})),
        here(
            "v1",
            "LimitRange",
            "limits",
            json!({"spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "9Gi"}}]}}),
        ),
        here("v1", "PersistentVolumeClaim", "data", json!({"spec": claim})),
        here("v1", "Service", "plain", json!({"spec": {"selector": labels, "ports": port}})),
        here("v1", "Service", "headless", json!({"spec": {"clusterIP": "None", "selector": labels, "ports": port}})),
        here("v1", "Service", "outside", json!({"spec": {"type": "NodePort", "ports": port}})),
        here(
            "v1",
            "Endpoints",
            "external",
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
        ),
        here(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "own",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": [{"port": 80}]}),
        ),
        here(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "none",
            json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        ),
        here(
            "networking.k8s.io/v1",
            "Ingress",
            "web",
            json!({"spec": {"ingressClassName": "estate", "defaultBackend": backend}}),
        ),
        here(
            "apps/v1",
            "Deployment",
            "web",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template}}),
        ),
        here(
            "apps/v1",
            "StatefulSet",
            "store",
            json!({"spec": {"replicas": 0, "serviceName": "headless", "selector": selector, "template": template}}),
        ),
        here("apps/v1", "DaemonSet", "agent", json!({"spec": {"selector": selector, "template": nowhere}})),
        here(
            "apps/v1",
            "ReplicaSet",
            "alone",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template}}),
        ),
        here("apps/v1", "ControllerRevision", "kept", json!({"revision": 3, "data": {"any": "thing"}})),
        here(
            "v1",
            "ReplicationController",
            "old",
            json!({"spec": {"replicas": 0, "selector": labels, "template": template}}),
        ),
        here("v1", "PodTemplate", "form", json!({"template": template})),
        here("v1", "Pod", "pending", json!({"spec": pending})),
        here("batch/v1", "Job", "suspended", json!({"spec": job})),
        here(
            "batch/v1",
            "CronJob",
            "nightly",
            json!({"spec": {"schedule": "0 2 * * *", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": once}}}}}),
        ),
        here(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "web",
            json!({"spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3}}),
        ),
        here("policy/v1", "PodDisruptionBudget", "web", json!({"spec": {"minAvailable": 1, "selector": selector}})),
        here("v1", "ResourceQuota", "room", json!({"spec": {"hard": {"pods": "50"}}})),
    ]
}
