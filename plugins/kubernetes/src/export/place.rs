//! Where a manifest lies: `namespace/kind.group/name.yaml`, `_cluster` for what lies in no namespace. Pure.

use strongroom_plugin::kube::Kind;

/// Longest name of a file without its ending; file systems take 255 bytes.
const MAX_NAME: usize = 200;

/// The path of an object's file. Two objects of one cluster never have the same.
pub(super) fn file(kind: &Kind, namespace: Option<&str>, name: &str) -> String {
    let dot = if kind.group.is_empty() { "" } else { "." };
    let folder = format!("{}{dot}{}", kind.kind.to_lowercase(), kind.group);
    format!("{}/{}/{}.yaml", namespace.unwrap_or("_cluster"), short(&folder), short(&escape(name)))
}

/// `%` and the number of each byte that some file system does not take; no name in a cluster holds a `%`.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// A name that is too long is cut, and told apart from others by a hash of the whole.
fn short(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let cut = (0..=MAX_NAME - 17).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    format!("{}-{:016x}", &name[..cut], fnv(name))
}

/// FNV-1a of 64 bits, which is the same in every version of everything: a file keeps its name.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_long_name_is_cut_in_the_same_way_for_ever() {
        assert_eq!(
            (fnv(""), fnv("a"), fnv("foobar")),
            (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8)
        );
        let short = short(&"n".repeat(253));
        assert!(short.len() == MAX_NAME && short.starts_with("nnn"), "{short}");
    }

    #[test]
    fn every_object_has_a_file_of_its_own() {
        let kind = |group: &str, kind: &str| Kind {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: "x".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let long = "n".repeat(253);
        let files: Vec<String> = [
            (kind("apps", "Deployment"), Some("shop"), "web"),
            (kind("", "Namespace"), None, "shop"),
            (kind("rbac.authorization.k8s.io", "ClusterRole"), None, "system:node"),
            (kind("rbac.authorization.k8s.io", "ClusterRole"), None, "system_3Anode"),
            (kind("", "ConfigMap"), Some("shop"), long.as_str()),
            (kind("", "ConfigMap"), Some("shop"), &long[..252]),
        ]
        .iter()
        .map(|(kind, namespace, name)| file(kind, *namespace, name))
        .collect();
        assert_eq!(
            files[..4],
            [
                "shop/deployment.apps/web.yaml",
                "_cluster/namespace/shop.yaml",
                "_cluster/clusterrole.rbac.authorization.k8s.io/system%3Anode.yaml",
                "_cluster/clusterrole.rbac.authorization.k8s.io/system_3Anode.yaml",
            ]
        );
        assert_eq!(files.iter().collect::<BTreeSet<_>>().len(), files.len());
        assert!(files.iter().all(|file| file.split('/').all(|part| part.len() <= 255)));
    }
}
