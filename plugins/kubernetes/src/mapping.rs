//! Other names in the target: namespaces, storage classes, image registries. Pure.

use crate::clean::{at_mut, map_mut};
use crate::kind::is;
use crate::settings::Options;
use serde_json::Value;
use std::collections::BTreeMap;
use strongroom_plugin::kube::Kind;

/// The label that every namespace has with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Names in the backup and names in the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) namespaces: BTreeMap<String, String>,
    /// Put in front of every namespace that `namespaces` does not name.
    pub(crate) namespace_prefix: String,
    storage_classes: BTreeMap<String, String>,
    images: BTreeMap<String, String>,
}

impl Mapping {
    /// What the options say.
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            namespaces: options.map_namespaces.clone(),
            namespace_prefix: String::new(),
            storage_classes: options.map_storage_classes.clone(),
            images: options.map_images.clone(),
        }
    }

    /// The same with other names for namespaces: those of this map, and this in front of all others.
    pub(crate) fn moved(&self, namespaces: BTreeMap<String, String>, prefix: &str) -> Self {
        Self { namespaces, namespace_prefix: prefix.to_owned(), ..self.clone() }
    }

    /// The name of a namespace in the target.
    pub(crate) fn namespace(&self, name: &str) -> String {
        match self.namespaces.get(name) {
            Some(to) => to.clone(),
            None => format!("{}{name}", self.namespace_prefix),
        }
    }

    /// Whether namespaces have other names.
    fn moves_namespaces(&self) -> bool {
        !self.namespaces.is_empty() || !self.namespace_prefix.is_empty()
    }

    /// Puts the names of the target into an object.
    pub(crate) fn apply(&self, kind: &Kind, object: &mut Value) {
        if self.moves_namespaces() {
            self.move_namespaces(kind, object);
        }
        if !self.storage_classes.is_empty() {
            self.change_classes(kind, object);
        }
        if !self.images.is_empty() {
            for path in pod_specs(kind) {
                self.change_images(at_mut(object, path));
            }
        }
    }

    fn change_namespace(&self, value: Option<&mut Value>) {
        if let Some(name) = value.and_then(text_mut) {
            *name = self.namespace(name);
        }
    }

    /// Names of namespaces in what selects namespaces by their labels.
    fn change_selector(&self, selector: Option<&mut Value>) {
        let Some(selector) = selector else { return };
        self.change_namespace(at_mut(selector, &["matchLabels", NAME_LABEL]));
        for expression in list_mut(selector, &["matchExpressions"]) {
            if expression["key"] == NAME_LABEL {
                for value in list_mut(expression, &["values"]) {
                    self.change_namespace(Some(value));
                }
            }
        }
    }

    /// The user or group that stands for the service accounts of a namespace.
    fn change_accounts(&self, name: Option<&mut Value>) {
        let Some(name) = name.and_then(text_mut) else { return };
        if let Some(namespace) = name.strip_prefix("system:serviceaccounts:") {
            *name = format!("system:serviceaccounts:{}", self.namespace(namespace));
        } else if let Some((namespace, account)) =
            name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            *name = format!("system:serviceaccount:{}:{account}", self.namespace(namespace));
        }
    }

    fn move_namespaces(&self, kind: &Kind, object: &mut Value) {
        self.change_namespace(at_mut(object, &["metadata", "namespace"]));
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Namespace") => {
                self.change_namespace(at_mut(object, &["metadata", "name"]));
                self.change_namespace(at_mut(object, &["metadata", "labels", NAME_LABEL]));
            }
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
                for subject in list_mut(object, &["subjects"]) {
                    self.change_namespace(subject.get_mut("namespace"));
                    self.change_accounts(subject.get_mut("name"));
                }
            }
            ("", "PersistentVolume") => self.change_namespace(at_mut(object, &["spec", "claimRef", "namespace"])),
            ("admissionregistration.k8s.io", _) => {
                for webhook in list_mut(object, &["webhooks"]) {
                    self.change_namespace(at_mut(webhook, &["clientConfig", "service", "namespace"]));
                    self.change_selector(at_mut(webhook, &["namespaceSelector"]));
                }
                self.change_selector(at_mut(object, &["spec", "matchConstraints", "namespaceSelector"]));
                self.change_selector(at_mut(object, &["spec", "matchResources", "namespaceSelector"]));
                self.change_namespace(at_mut(object, &["spec", "paramRef", "namespace"]));
            }
            ("apiregistration.k8s.io", "APIService") => {
                self.change_namespace(at_mut(object, &["spec", "service", "namespace"]));
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => self.change_namespace(at_mut(
                object,
                &["spec", "conversion", "webhook", "clientConfig", "service", "namespace"],
            )),
            ("networking.k8s.io", "NetworkPolicy") => {
                for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
                    for rule in list_mut(object, &["spec", rules]) {
                        for peer in list_mut(rule, &[peers]) {
                            self.change_selector(at_mut(peer, &["namespaceSelector"]));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn change_class(&self, value: Option<&mut Value>) {
        if let Some(name) = value.and_then(text_mut)
            && let Some(to) = self.storage_classes.get(name.as_str())
        {
            name.clone_from(to);
        }
    }

    fn change_classes(&self, kind: &Kind, object: &mut Value) {
        if is(kind, "", "PersistentVolumeClaim") || is(kind, "", "PersistentVolume") {
            self.change_class(at_mut(object, &["spec", "storageClassName"]));
            let annotation = "volume.beta.kubernetes.io/storage-class";
            self.change_class(at_mut(object, &["metadata", "annotations", annotation]));
        }
        for path in pod_specs(kind) {
            for volume in at_mut(object, path).into_iter().flat_map(|spec| list_mut(spec, &["volumes"])) {
                self.change_class(at_mut(volume, &["ephemeral", "volumeClaimTemplate", "spec", "storageClassName"]));
            }
        }
        if is(kind, "apps", "StatefulSet") {
            for template in list_mut(object, &["spec", "volumeClaimTemplates"]) {
                self.change_class(at_mut(template, &["spec", "storageClassName"]));
            }
        }
    }

    fn change_images(&self, spec: Option<&mut Value>) {
        let Some(spec) = spec else { return };
        for containers in ["initContainers", "containers", "ephemeralContainers"] {
            for container in list_mut(spec, &[containers]) {
                if let Some(Value::String(image)) = container.get_mut("image") {
                    *image = self.image(image);
                }
            }
        }
    }

    /// The longest beginning that is mapped wins; it ends at a `/`, `:` or `@`, or is the whole name.
    fn image(&self, image: &str) -> String {
        let ends_well = |from: &str| {
            from.ends_with('/') || image[from.len()..].chars().next().is_none_or(|next| "/:@".contains(next))
        };
        let fits = |from: &&String| image.starts_with(from.as_str()) && ends_well(from);
        match self.images.keys().filter(fits).max_by_key(|from| from.len()) {
            Some(from) => format!("{}{}", self.images[from], &image[from.len()..]),
            None => image.to_owned(),
        }
    }
}

fn text_mut(value: &mut Value) -> Option<&mut String> {
    if let Value::String(text) = value { Some(text) } else { None }
}

/// Where pods are described in objects of a kind.
fn pod_specs(kind: &Kind) -> &'static [&'static [&'static str]] {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &[&["spec"]],
        ("", "PodTemplate") => &[&["template", "spec"]],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => &[&["spec", "template", "spec"]],
        ("batch", "CronJob") => &[&["spec", "jobTemplate", "spec", "template", "spec"]],
        _ => &[],
    }
}

/// The items of a list at a path; none where there is no list.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    let (last, above) = path.split_last().map_or(("", path), |(last, above)| (*last, above));
    let list = map_mut(value, above).and_then(|map| map.get_mut(last)).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mapping: &Mapping, of: &str, before: Value, after: &Value) {
        let (group, name) = of.split_once('/').unwrap();
        let kind = Kind {
            group: group.into(),
            version: "v1".into(),
            kind: name.into(),
            plural: "x".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let mut object = before;
        mapping.apply(&kind, &mut object);
        assert_eq!(&object, after, "{of}");
    }

    fn mapping(namespaces: &[(&str, &str)], classes: &[(&str, &str)], images: &[(&str, &str)]) -> Mapping {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Mapping {
            namespaces: map(namespaces),
            namespace_prefix: String::new(),
            storage_classes: map(classes),
            images: map(images),
        }
    }

    #[test]
    fn namespaces_are_mapped_wherever_they_are_named() {
        let to = mapping(&[("shop", "shop-2")], &[], &[]);
        check(
            &to,
            "/ConfigMap",
            json!({"metadata": {"namespace": "shop"}}),
            &json!({"metadata": {"namespace": "shop-2"}}),
        );
        check(&to, "/ConfigMap", json!({"metadata": {"namespace": "db"}}), &json!({"metadata": {"namespace": "db"}}));
        check(
            &to,
            "/Namespace",
            json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}}),
            &json!({"metadata": {"name": "shop-2", "labels": {"kubernetes.io/metadata.name": "shop-2"}}}),
        );
        check(
            &to,
            "rbac.authorization.k8s.io/ClusterRoleBinding",
            json!({"subjects": [{"name": "a", "namespace": "shop"}, {"name": "u"}]}),
            &json!({"subjects": [{"name": "a", "namespace": "shop-2"}, {"name": "u"}]}),
        );
        check(
            &to,
            "admissionregistration.k8s.io/MutatingWebhookConfiguration",
            json!({"webhooks": [{"clientConfig": {"service": {"namespace": "shop"}}}, {"clientConfig": {"url": "x"}}]}),
            &json!({"webhooks": [{"clientConfig": {"service": {"namespace": "shop-2"}}}, {"clientConfig": {"url": "x"}}]}),
        );
        let peer = |name: &str| json!({"spec": {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]}]}});
        check(&to, "networking.k8s.io/NetworkPolicy", peer("shop"), &peer("shop-2"));
        let by_expression = |names: &[&str]| {
            let expressions = json!([
                {"key": "kubernetes.io/metadata.name", "operator": "In", "values": names},
                {"key": "team", "operator": "In", "values": ["shop"]},
            ]);
            json!({"matchExpressions": expressions})
        };
        let egress =
            |names: &[&str]| json!({"spec": {"egress": [{"to": [{"namespaceSelector": by_expression(names)}]}]}});
        check(&to, "networking.k8s.io/NetworkPolicy", egress(&["db", "shop"]), &egress(&["db", "shop-2"]));
        let hook = |name: &str| json!({"webhooks": [{"namespaceSelector": by_expression(&[name])}]});
        check(&to, "admissionregistration.k8s.io/ValidatingWebhookConfiguration", hook("shop"), &hook("shop-2"));
        let binding = |name: &str| json!({"spec": {"paramRef": {"namespace": name}, "matchResources": {"namespaceSelector": by_expression(&[name])}}});
        check(
            &to,
            "admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding",
            binding("shop"),
            &binding("shop-2"),
        );
        let subjects = |name: &str| {
            let (all, one) =
                (format!("system:serviceaccounts:{name}"), format!("system:serviceaccount:{name}:deployer"));
            json!({"subjects": [{"name": all}, {"name": one}, {"name": "system:serviceaccounts"}]})
        };
        check(&to, "rbac.authorization.k8s.io/RoleBinding", subjects("shop"), &subjects("shop-2"));
        let scratch = Mapping { namespace_prefix: "try-".into(), ..to };
        assert_eq!((scratch.namespace("db").as_str(), scratch.namespace("shop").as_str()), ("try-db", "shop-2"));
    }

    #[test]
    fn storage_classes_and_images_are_mapped() {
        let to = mapping(
            &[],
            &[("fast", "ssd")],
            &[("old.test/", "new.test/mirror/"), ("old.test/x", "x.test"), ("nginx", "r.test/nginx")],
        );
        check(
            &to,
            "/PersistentVolumeClaim",
            json!({"spec": {"storageClassName": "fast"}}),
            &json!({"spec": {"storageClassName": "ssd"}}),
        );
        check(
            &to,
            "/ConfigMap",
            json!({"spec": {"storageClassName": "fast"}}),
            &json!({"spec": {"storageClassName": "fast"}}),
        );
        check(
            &to,
            "apps/StatefulSet",
            json!({"spec": {"volumeClaimTemplates": [{"spec": {"storageClassName": "fast"}}]}}),
            &json!({"spec": {"volumeClaimTemplates": [{"spec": {"storageClassName": "ssd"}}]}}),
        );
        let ephemeral = |class: &str| {
            let volume = json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": class}}}});
            json!({"spec": {"template": {"spec": {"volumes": [{"emptyDir": {}}, volume]}}}})
        };
        check(&to, "apps/Deployment", ephemeral("fast"), &ephemeral("ssd"));
        let cron = |image: &str| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}}});
        for (image, mapped) in [
            ("old.test/shop:1", "new.test/mirror/shop:1"),
            ("old.test/x@sha256:0", "x.test@sha256:0"),
            ("old.test/xy", "new.test/mirror/xy"),
            ("nginx:1", "r.test/nginx:1"),
            ("nginx", "r.test/nginx"),
            ("nginxy", "nginxy"),
            ("docker.test/nginx", "docker.test/nginx"),
        ] {
            check(&to, "batch/CronJob", cron(image), &cron(mapped));
        }
    }
}
