//! The order in which kinds are restored. Pure.

use strongroom_plugin::kube::Kind;

/// When a kind is restored: the lowest first. What has one rank may be restored at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rank(u8);

impl Rank {
    /// Objects of kinds that are defined in the cluster, and of kinds that are not known here.
    pub(crate) const CUSTOM: Rank = Rank(17);
    /// Those whose definition converts through a webhook, which must run first.
    pub(crate) const CONVERTED: Rank = Rank(18);
    /// What counts and judges objects as they are made: quotas, and behind them webhooks.
    pub(crate) const JUDGES: [Rank; 2] = [Rank(15), Rank(19)];
}

/// Kinds as `group/Kind` and their ranks.
const ORDER: &[(u8, &[&str])] = &[
    (0, &["apiextensions.k8s.io/CustomResourceDefinition"]),
    (1, &["/Namespace"]),
    (
        2,
        &[
            "storage.k8s.io/StorageClass",
            "storage.k8s.io/CSIDriver",
            "storage.k8s.io/VolumeAttributesClass",
            "scheduling.k8s.io/PriorityClass",
            "node.k8s.io/RuntimeClass",
            "networking.k8s.io/IngressClass",
            "resource.k8s.io/DeviceClass",
            "flowcontrol.apiserver.k8s.io/PriorityLevelConfiguration",
            "flowcontrol.apiserver.k8s.io/FlowSchema",
        ],
    ),
    (3, &["/ServiceAccount"]),
    (4, &["rbac.authorization.k8s.io/ClusterRole", "rbac.authorization.k8s.io/Role"]),
    (5, &["rbac.authorization.k8s.io/ClusterRoleBinding", "rbac.authorization.k8s.io/RoleBinding"]),
    (6, &["/Secret", "/ConfigMap", "/LimitRange"]),
    (7, &["/PersistentVolume"]),
    (8, &["/PersistentVolumeClaim"]),
    (9, &["/Service", "networking.k8s.io/NetworkPolicy"]),
    (10, &["/Endpoints", "discovery.k8s.io/EndpointSlice", "networking.k8s.io/Ingress"]),
    (
        11,
        &[
            "apps/Deployment",
            "apps/StatefulSet",
            "apps/DaemonSet",
            "batch/CronJob",
            "/ReplicationController",
            "/PodTemplate",
        ],
    ),
    (12, &["apps/ReplicaSet", "apps/ControllerRevision", "batch/Job"]),
    (13, &["/Pod"]),
    (14, &["autoscaling/HorizontalPodAutoscaler", "policy/PodDisruptionBudget"]),
    // Behind what it counts, so that it does not refuse what was there.
    (15, &["/ResourceQuota"]),
    (16, &["apiregistration.k8s.io/APIService"]),
    // Behind everything that they would look at before what answers for them runs.
    (
        19,
        &[
            "admissionregistration.k8s.io/ValidatingAdmissionPolicy",
            "admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding",
            "admissionregistration.k8s.io/MutatingAdmissionPolicy",
            "admissionregistration.k8s.io/MutatingAdmissionPolicyBinding",
            "admissionregistration.k8s.io/ValidatingWebhookConfiguration",
            "admissionregistration.k8s.io/MutatingWebhookConfiguration",
        ],
    ),
];

/// The rank of a kind, by `group` and `kind`.
pub(crate) fn rank(group: &str, kind: &str) -> Rank {
    let is = |name: &&str| name.split_once('/') == Some((group, kind));
    ORDER.iter().find(|(_, names)| names.iter().any(is)).map_or(Rank::CUSTOM, |(rank, _)| Rank(*rank))
}

/// Whether objects of this kind are Secrets, which are never seen.
pub(crate) fn is_secret(kind: &Kind) -> bool {
    is(kind, "", "Secret")
}

/// Whether it is this kind.
pub(crate) fn is(kind: &Kind, group: &str, name: &str) -> bool {
    kind.group == group && kind.kind == name
}

/// Puts kinds into the order in which they are restored: by rank, then by group and name.
pub(crate) fn sort(kinds: &mut [Kind]) {
    kinds.sort_by(|a, b| {
        let key = |kind: &Kind| (rank(&kind.group, &kind.kind), kind.group.clone(), kind.kind.clone());
        key(a).cmp(&key(b))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_before_them() {
        let of = |name: &str| {
            let (group, kind) = name.split_once('/').unwrap();
            rank(group, kind)
        };
        for (first, then) in [
            ("apiextensions.k8s.io/CustomResourceDefinition", "/Namespace"),
            ("/Namespace", "storage.k8s.io/StorageClass"),
            ("storage.k8s.io/StorageClass", "/PersistentVolume"),
            ("/ServiceAccount", "rbac.authorization.k8s.io/Role"),
            ("rbac.authorization.k8s.io/Role", "rbac.authorization.k8s.io/RoleBinding"),
            ("/Secret", "apps/Deployment"),
            ("/PersistentVolume", "/PersistentVolumeClaim"),
            ("/PersistentVolumeClaim", "apps/StatefulSet"),
            ("apps/Deployment", "apps/ReplicaSet"),
            ("apps/ReplicaSet", "/Pod"),
            ("batch/CronJob", "batch/Job"),
            ("apps/Deployment", "example.com/Anything"),
            ("/Pod", "/ResourceQuota"),
            ("example.com/Anything", "admissionregistration.k8s.io/MutatingWebhookConfiguration"),
        ] {
            assert!(of(first) < of(then), "{first} before {then}");
        }
        assert_eq!(of("apps/Pod"), Rank::CUSTOM, "another group is another kind");
        assert!(
            Rank::CUSTOM < Rank::CONVERTED
                && Rank::CONVERTED < of("admissionregistration.k8s.io/ValidatingAdmissionPolicy")
        );
    }
}
