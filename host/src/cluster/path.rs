//! Paths of the API. A name is a segment of a path and can be nothing else.

use super::Kind;
use crate::error::{Error, Result};

/// Longest name of an object, in bytes. <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
const MAX_NAME_BYTES: usize = 253;

/// The path of a kind, in a namespace or over all.
///
/// Errors: `Invalid` for a namespace that is none.
pub(super) fn collection(kind: &Kind, namespace: Option<&str>) -> Result<String> {
    let mut path = match kind.group.as_str() {
        "" => format!("/api/{}", encode(&kind.version)),
        group => format!("/apis/{}/{}", encode(group), encode(&kind.version)),
    };
    if let Some(namespace) = namespace.filter(|_| kind.namespaced) {
        check_segment("namespace", namespace)?;
        path.push_str(&format!("/namespaces/{}", encode(namespace)));
    }
    path.push('/');
    path.push_str(&encode(&kind.plural));
    Ok(path)
}

/// The path of one object.
///
/// Errors: `Invalid` for a name that is none, and for a namespace too many or too few.
pub(super) fn object(kind: &Kind, namespace: Option<&str>, name: &str) -> Result<String> {
    check_segment("name", name)?;
    match (kind.namespaced, namespace) {
        (true, None) => {
            return Err(Error::invalid(format!(
                "\"{}\" of kind \"{}\" lies in a namespace, and none is named",
                shown(name),
                kind.kind
            )));
        }
        (false, Some(namespace)) => {
            return Err(Error::invalid(format!(
                "\"{}\" of kind \"{}\" lies in no namespace, and \"{}\" is named",
                shown(name),
                kind.kind,
                shown(namespace)
            )));
        }
        _ => {}
    }
    Ok(format!("{}/{}", collection(kind, namespace)?, encode(name)))
}

/// What the server itself refuses in a path: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#path-segment-names>
fn check_segment(what: &str, text: &str) -> Result<()> {
    let fits = !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && !matches!(text, "." | "..")
        && !text.contains(['/', '%'])
        && !text.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("\"{}\" is not a {what}", shown(text)))
        .fact("expected", format!("1 to {MAX_NAME_BYTES} bytes that are not \".\" or \"..\" and hold no / and no %")))
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Everything but letters, digits and `-._~` as `%XX`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A query of those that have a value.
pub(super) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let pairs: Vec<_> =
        pairs.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", encode(value)))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, plural: &str, namespaced: bool) -> Kind {
        Kind {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: "K".to_owned(),
            plural: plural.to_owned(),
            namespaced,
            verbs: Vec::new(),
            has_status: false,
        }
    }

    #[test]
    fn names_with_dots_and_colons_are_one_segment() {
        let roles = kind("rbac.authorization.k8s.io", "clusterroles", false);
        let path = object(&roles, None, "system:controller.x").unwrap();
        assert_eq!(path, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Acontroller.x");
        let path = object(&kind("", "configmaps", true), Some("shop"), "a.b").unwrap();
        assert_eq!(path, "/api/v1/namespaces/shop/configmaps/a.b");
    }

    #[test]
    fn nothing_leaves_its_segment() {
        let maps = kind("", "configmaps", true);
        for name in ["", ".", "..", "x/../../secrets/y", "a%2fb", "a\nb", &"a".repeat(254)] {
            assert!(object(&maps, Some("shop"), name).is_err(), "{name:?}");
            assert!(object(&maps, Some(name), "x").is_err(), "{name:?}");
        }
        assert!(object(&maps, None, "x").is_err());
        assert!(object(&kind("", "nodes", false), Some("shop"), "x").is_err());
        assert_eq!(object(&maps, Some("shop"), "a?b#c d").unwrap(), "/api/v1/namespaces/shop/configmaps/a%3Fb%23c%20d");
        assert_eq!(query(&[("labelSelector", Some("a=b&limit=1")), ("x", None)]), "?labelSelector=a%3Db%26limit%3D1");
    }
}
