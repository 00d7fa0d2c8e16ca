//! Why a cluster did not take an object, from what it said. Pure.

use strongroom_plugin::Error;

/// What stood in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It exists.
    Exists,
    /// Somebody else owns fields of it.
    OwnedByOthers(String),
    /// A field cannot be changed once it is set.
    Immutable(String),
    /// The quota of this name is used up.
    Quota(String),
    /// The webhook of this name refused, or did not answer.
    Webhook(String),
    /// The webhook that converts objects of this kind did not.
    Conversion(String),
    /// Its namespace, of this name, is being deleted.
    Terminating(String),
    /// Its namespace is not there.
    NoNamespace,
    /// Its kind, or this version of it, is not there.
    NoKind,
    /// Somebody deleted it while it was being written.
    Vanished,
    /// It is larger than what the cluster keeps its objects in takes.
    TooLarge,
    /// The identity of the host may not.
    Forbidden,
    /// A rule of the cluster that is no webhook: pod security, limits, a policy, a service account that is missing.
    Admission,
    /// The operator's grant does not cover it.
    NotGranted,
    /// The server holds it for wrong.
    Invalid,
    /// Anything else.
    Other,
}

/// Reads an answer of the server.
pub(crate) fn obstacle(error: &Error) -> Obstacle {
    let text = error.message();
    let has = |words: &str| text.contains(words);
    if let Some(name) = between(text, "exceeded quota: ", &[',', ' ']) {
        return Obstacle::Quota(name.to_owned());
    }
    if (has("admission webhook") || has("failed calling webhook"))
        && let Some(name) = between(text, "webhook \"", &['"'])
    {
        return Obstacle::Webhook(name.to_owned());
    }
    if let Some((kind, _)) = text.split_once("conversion webhook for ").and_then(|(_, rest)| rest.split_once(" failed"))
    {
        return Obstacle::Conversion(kind.to_owned());
    }
    if has("because it is being terminated") {
        let name = between(text, "new content in namespace ", &[' ']).unwrap_or("NAME");
        return Obstacle::Terminating(name.to_owned());
    }
    if has("request is too large") || has("Request entity too large") || has("trying to send message larger than max") {
        return Obstacle::TooLarge;
    }
    match error {
        Error::Conflict(_) if has("conflict with \"") => Obstacle::OwnedByOthers(text.to_owned()),
        Error::Conflict(_) if has("has been modified") => Obstacle::Other,
        Error::Conflict(_) => Obstacle::Exists,
        Error::Denied(_) => Obstacle::NotGranted,
        Error::NotFound(_) if has("namespaces \"") => Obstacle::NoNamespace,
        Error::NotFound(_) if has("does not serve") || has("could not find the requested resource") => Obstacle::NoKind,
        Error::NotFound(_) => Obstacle::Vanished,
        _ if has("immutable")
            || has("may not be changed")
            || has("may not change once set")
            || has("Forbidden: updates to") =>
        {
            Obstacle::Immutable(text.to_owned())
        }
        _ if has(" may not ") || has("forbidden: User \"") => Obstacle::Forbidden,
        _ if has("is forbidden") => Obstacle::Admission,
        _ if has("no matches for kind") || has("could not find the requested resource") => Obstacle::NoKind,
        Error::Invalid(_) => Obstacle::Invalid,
        _ => Obstacle::Other,
    }
}

impl Obstacle {
    /// What to do next; empty where the server's own words say enough.
    pub(crate) fn advice(&self) -> String {
        match self {
            Self::Exists => "it is there already: existing = \"merge\" or \"replace\" changes it".to_owned(),
            Self::OwnedByOthers(_) => "force = true takes the fields over".to_owned(),
            Self::Immutable(_) => {
                "it cannot be changed in place: delete the object and restore it, or leave it as it is".to_owned()
            }
            Self::Quota(name) => format!("raise the ResourceQuota \"{name}\", or restore less"),
            Self::Webhook(name) => {
                format!("the webhook \"{name}\" has to take it: look at what it says, or restore without it")
            }
            Self::Conversion(kind) => format!(
                "what converts {kind} has to answer first: look at spec.conversion of its definition, restore the workload behind it, and start the restore again"
            ),
            Self::Terminating(name) => format!(
                "wait until the namespace is gone, and start the restore again; one that stays is held by finalizers: kubectl get namespace {name} -o yaml"
            ),
            Self::Vanished => "somebody deleted it meanwhile: start the restore again".to_owned(),
            Self::TooLarge => {
                "the target keeps no object of this size: see --max-request-bytes of its etcd (1.5 MiB unless set)".to_owned()
            }
            Self::NoNamespace => "restore its namespace as well, or map it with map_namespaces".to_owned(),
            Self::NoKind => {
                "the cluster does not serve this version of the kind: install its definition, or an older version of the cluster"
                    .to_owned()
            }
            Self::Forbidden => "give the identity of the host this right in the cluster".to_owned(),
            Self::Admission => {
                "a rule of the cluster refuses it, whoever asks: look at what it says (pod security, LimitRange, ValidatingAdmissionPolicy, a service account that is not there)"
                    .to_owned()
            }
            Self::NotGranted => "strongroom plugin approve shows what the plugin asks for".to_owned(),
            Self::Invalid | Self::Other => String::new(),
        }
    }
}

/// The text behind `before`, up to one of `ends`.
fn between<'a>(text: &'a str, before: &str, ends: &[char]) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(&rest[..rest.find(ends).unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_server_says_what_stood_in_the_way() {
        for (error, expected) in [
            (Error::Conflict("configmaps \"a\" already exists".into()), Obstacle::Exists),
            (Error::Conflict("roles \"kube-controller-manager\" already exists".into()), Obstacle::Exists),
            (Error::Conflict("the object has been modified; please apply your changes to the latest version".into()), Obstacle::Other),
            (
                Error::Failed("pods \"a\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1".into()),
                Obstacle::Quota("small".into()),
            ),
            (
                Error::Invalid("admission webhook \"no.example.com\" denied the request: no".into()),
                Obstacle::Webhook("no.example.com".into()),
            ),
            (
                Error::Failed("Internal error occurred: failed calling webhook \"slow.example.com\": context deadline exceeded".into()),
                Obstacle::Webhook("slow.example.com".into()),
            ),
            (
                Error::Failed("configmaps \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated".into()),
                Obstacle::Terminating("shop".into()),
            ),
            (
                Error::Failed("conversion webhook for example.org/v2, Kind=Shop failed: Post \"https://x.test\": refused".into()),
                Obstacle::Conversion("example.org/v2, Kind=Shop".into()),
            ),
            (Error::Failed("etcdserver: request is too large".into()), Obstacle::TooLarge),
            (Error::NotFound("configmaps \"a\" not found".into()), Obstacle::Vanished),
            (Error::NotFound("cluster \"a\" does not serve \"Shop\" of \"example.org/v1\"".into()), Obstacle::NoKind),
            (Error::NotFound("namespaces \"shop\" not found".into()), Obstacle::NoNamespace),
            (Error::NotFound("the server could not find the requested resource".into()), Obstacle::NoKind),
            (Error::Failed("the identity may not create \"configmaps\" in namespace \"a\"".into()), Obstacle::Forbidden),
            (
                Error::Failed("pods \"a\" is forbidden: User \"b\" cannot create resource \"pods\" in API group \"\"".into()),
                Obstacle::Forbidden,
            ),
            (
                Error::Failed("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": a container cannot be privileged".into()),
                Obstacle::Admission,
            ),
            (Error::Denied("no".into()), Obstacle::NotGranted),
            (Error::Invalid("spec.x: Required value".into()), Obstacle::Invalid),
            (Error::Unavailable("gone".into()), Obstacle::Other),
        ] {
            assert_eq!(obstacle(&error), expected, "{error}");
        }
        for immutable in [
            Error::Invalid("spec.selector: Invalid value: field is immutable".into()),
            Error::Invalid("spec: Forbidden: updates to statefulset spec for fields other than".into()),
        ] {
            assert!(matches!(obstacle(&immutable), Obstacle::Immutable(_)));
        }
        let owned = Error::Conflict("conflict with \"kubectl\" using apps/v1 over .spec.replicas".into());
        assert!(matches!(obstacle(&owned), Obstacle::OwnedByOthers(_)));
        assert!(obstacle(&owned).advice().contains("force"));
    }
}
