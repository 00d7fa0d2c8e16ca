//! What went wrong, in words that end an investigation: of Secrets nothing that they hold, and of what a
//! server or a proxy says nothing that are our credentials.

use super::Cluster;
use super::request::Answer;
use crate::error::{Error, Kind};
use http::StatusCode;
use serde::Deserialize;
use std::time::Duration;

/// Most bytes of a server's own words.
const SHOWN_CHARS: usize = 600;
/// Most fields of a conflict that are named.
const SHOWN_FIELDS: usize = 8;

/// What is being done, for messages.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    verb: &'static str,
    /// Plural with its group, such as `deployments.apps`.
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    /// What the server says of it may quote what is in a Secret.
    is_secret: bool,
}

impl Doing {
    /// Something that is no object.
    pub(super) fn plain(verb: &'static str) -> Self {
        Self { verb, resource: None, namespace: None, name: None, is_secret: false }
    }

    /// Something with objects.
    pub(super) fn to(verb: &'static str, kind: &super::Kind, namespace: Option<&str>, name: Option<&str>) -> Self {
        let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
        Self {
            verb,
            resource: Some(format!("{}{group}", kind.plural)),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            is_secret: super::is_secret(&kind.group, &kind.kind),
        }
    }
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verb)?;
        if let Some(resource) = &self.resource {
            write!(f, " {resource}")?;
        }
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace \"{namespace}\"")?;
        }
        Ok(())
    }
}

/// What a server says when it refuses: `Status` of the API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    message: String,
    reason: String,
    details: Option<Details>,
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "continue")]
    token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
    field: String,
}

impl Status {
    pub(super) fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| Self {
            // A proxy, or an aggregated API that is none.
            message: String::from_utf8_lossy(&answer.body).trim().to_owned(),
            ..Self::default()
        })
    }

    /// The token with which a list that has expired may go on, at another moment.
    pub(super) fn token(&self) -> Option<&str> {
        self.metadata.token.as_deref().filter(|token| !token.is_empty())
    }

    fn causes(&self) -> &[Cause] {
        self.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default()
    }

    /// Conflicts of field managers: each with the manager and its fields.
    fn conflicts(&self) -> Option<String> {
        let mut managers: Vec<(&str, Vec<&str>)> = Vec::new();
        for cause in self.causes().iter().filter(|cause| cause.reason == "FieldManagerConflict") {
            match managers.iter_mut().find(|(message, _)| *message == cause.message) {
                Some((_, fields)) => fields.push(&cause.field),
                None => managers.push((&cause.message, vec![&cause.field])),
            }
        }
        let one = |(message, fields): &(&str, Vec<&str>)| {
            let shown: Vec<_> = fields.iter().take(SHOWN_FIELDS).copied().collect();
            let more = if fields.len() > SHOWN_FIELDS {
                format!(" and {} more", fields.len() - SHOWN_FIELDS)
            } else {
                String::new()
            };
            format!("{message} over {}{more}", shown.join(", "))
        };
        (!managers.is_empty()).then(|| managers.iter().map(one).collect::<Vec<_>>().join("; "))
    }

    /// Whether fields are in conflict with those of this manager, and of no other.
    pub(super) fn is_conflict_with(&self, manager: &str) -> bool {
        let own = format!("conflict with \"{manager}\"");
        let mut causes = self.causes().iter().filter(|cause| cause.reason == "FieldManagerConflict").peekable();
        causes.peek().is_some() && causes.all(|cause| cause.message.starts_with(&own))
    }

    /// Whether a conflict is one with an object of this name that is there: over its version, or its fields.
    pub(super) fn is_about_one_that_exists(&self, kind: &super::Kind, name: &str) -> bool {
        let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
        let begin =
            format!("Operation cannot be fulfilled on {}{group} \"{name}\": the object has been modified", kind.plural);
        self.message.starts_with(&begin) || self.conflicts().is_some()
    }

    /// What the server said, or of a Secret only what cannot quote it. Uncut, and with our credentials if it
    /// says them.
    fn said(&self, is_secret: bool) -> String {
        if let Some(conflicts) = self.conflicts() {
            return conflicts;
        }
        if !is_secret {
            return self.message.clone();
        }
        let webhook =
            self.message.split_once(" denied the request").map(|(who, _)| format!("{who} denied the request"));
        let called = self.message.split_once("failed calling webhook \"").and_then(|(_, rest)| rest.split_once('"'));
        let called = called.map(|(name, _)| format!("failed calling webhook \"{name}\""));
        let quota = self.message.split_once("exceeded quota").map(|(_, rest)| format!("exceeded quota{rest}"));
        let fields: Vec<_> = self.causes().iter().map(|cause| format!("{}: {}", cause.field, cause.reason)).collect();
        let reason = (!self.reason.is_empty()).then(|| self.reason.clone());
        let mut said: Vec<String> = reason.into_iter().collect();
        said.extend(webhook);
        said.extend(called);
        said.extend(quota);
        said.extend((!fields.is_empty()).then(|| fields.join(", ")));
        said.join(": ")
    }
}

/// The beginning of what somebody else wrote, without our credentials.
fn shown(cluster: &Cluster, text: &str) -> String {
    // Before it is cut: half a secret would not be found.
    cluster.redactor().text(text).chars().take(SHOWN_CHARS).collect()
}

/// A refusal of the server.
pub(super) fn refused(cluster: &Cluster, doing: &Doing, answer: &Answer) -> Error {
    let status = Status::of(answer);
    let said = shown(cluster, &status.said(doing.is_secret));
    let code = answer.status;
    let with = |kind: Kind| {
        let said = if said.is_empty() { code.to_string() } else { said.clone() };
        Error::new(kind, format!("{cluster}: could not {doing}: {said}")).fact("status", code.as_u16().to_string())
    };
    match code {
        StatusCode::UNAUTHORIZED => {
            Error::denied(format!("{cluster}: could not {doing}: the server does not accept the host's credentials"))
                .fact("status", "401")
                .hint(format!(
                    "the token may have expired, or belong to another cluster: see `token`, `context` and `restore` of [cluster.{}]",
                    cluster.label()
                ))
        }
        // What the API server's own authorizer says; an admission rule has other words for its refusal.
        StatusCode::FORBIDDEN if status.message.contains("forbidden: User \"") => {
            let error = Error::denied(format!("{cluster}: the host's identity may not {doing}"))
                .fact("status", "403")
                .hint("grant it in the cluster with a Role or ClusterRole, or leave it out");
            error.fact("the server says", said)
        }
        StatusCode::FORBIDDEN => with(Kind::Denied),
        StatusCode::NOT_FOUND => with(Kind::NotFound),
        StatusCode::CONFLICT => with(Kind::Conflict),
        StatusCode::GONE => with(Kind::Unavailable).hint("what was asked for has expired: ask again"),
        StatusCode::PAYLOAD_TOO_LARGE => with(Kind::Limit),
        StatusCode::BAD_REQUEST
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => with(Kind::Invalid),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            with(Kind::Unavailable)
        }
        StatusCode::GATEWAY_TIMEOUT => with(Kind::TimedOut),
        _ => with(Kind::Failed),
    }
}

/// An object that is there already, in the words of a server that was asked to create it.
pub(super) fn exists(cluster: &Cluster, doing: &Doing) -> Error {
    Error::new(Kind::Conflict, format!("{cluster}: could not {doing}: it already exists")).fact("status", "409")
}

/// No answer came.
pub(super) struct Unreached {
    pub(super) error: Error,
    /// Whether the request surely was not looked at.
    pub(super) unseen: bool,
    /// Whether it can fare better next time.
    pub(super) may_pass: bool,
}

/// Why there was no answer. What a library says of it is the last link of the chain.
pub(super) fn unreached(cluster: &Cluster, doing: &Doing, error: &kube::Error) -> Unreached {
    let mut chain = Vec::new();
    let (mut io, mut unseen) = (None, false);
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        chain.push(error.to_string());
        if let Some(found) = error.downcast_ref::<std::io::Error>() {
            io = io.or(Some(found.kind()));
            // An error that was wrapped in one of the system is not in its chain of sources.
            at = found.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
            continue;
        }
        if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            unseen |= client.is_connect();
        }
        at = error.source();
    }
    let whole = chain.join(": ");
    let (kind, why, hint, may_pass) = diagnose(&whole, io);
    let last = chain.pop().unwrap_or_default();
    let mut found = Error::new(kind, format!("{cluster}: could not {doing}: {why}")).fact("got", shown(cluster, &last));
    if !hint.is_empty() {
        found = found.hint(hint.replace("LABEL", cluster.label()));
    }
    Unreached { error: found, unseen, may_pass }
}

/// Kind, words, what to do, and whether trying again can help.
fn diagnose(whole: &str, io: Option<std::io::ErrorKind>) -> (Kind, &'static str, &'static str, bool) {
    use std::io::ErrorKind as Io;
    let has = |words: &str| whole.contains(words);
    if has("UnknownIssuer") || has("unknown issuer") || has("BadSignature") {
        return (
            Kind::Failed,
            "the server's certificate is not signed by the authority that is expected",
            "is it another cluster, or has its authority changed? See `ca` of [cluster.LABEL], or certificate-authority of the kubeconfig",
            false,
        );
    }
    if has("NotValidForName") || has("not valid for name") {
        return (
            Kind::Failed,
            "the server's certificate is for another name",
            "write the name that the certificate has into the address, or tls-server-name into the kubeconfig",
            false,
        );
    }
    // Before the server's own: an alert says what it thinks of ours.
    if has("received fatal alert") {
        return (
            Kind::Denied,
            "the server refused the host's certificate",
            "it may have expired, or be of another cluster: see `client_certificate` of [cluster.LABEL], or the kubeconfig",
            false,
        );
    }
    if has("Expired") || has("certificate expired") {
        return (
            Kind::Failed,
            "the server's certificate has expired",
            "renew it (kubeadm certs check-expiration), and look at this machine's clock",
            false,
        );
    }
    if has("invalid peer certificate") {
        return (Kind::Failed, "the server's certificate is not valid", "see `ca` of [cluster.LABEL]", false);
    }
    if has("dns error") || has("failed to lookup address") {
        return (
            Kind::Unavailable,
            "its name does not resolve",
            "correct the address, or the DNS of this machine; behind a proxy set `proxy` of [cluster.LABEL]",
            true,
        );
    }
    if has("InvalidMessage") || has("corrupt message") || has("WRONG_VERSION") {
        return (
            Kind::Failed,
            "what answers does not speak TLS",
            "is the port right, or is a proxy in between?",
            false,
        );
    }
    if has("unsuccessful tunnel") || has("tunnel error") || has("proxy") {
        return (
            Kind::Unavailable,
            "the proxy did not let it through",
            "see `proxy` of [cluster.LABEL], HTTPS_PROXY and NO_PROXY",
            true,
        );
    }
    match io {
        Some(Io::ConnectionRefused) => (
            Kind::Unavailable,
            "nothing answers at its address",
            "is the API server running, and is its address right?",
            true,
        ),
        Some(Io::HostUnreachable | Io::NetworkUnreachable) => {
            (Kind::Unavailable, "there is no way to its address", "look at routes, VPN and firewall", true)
        }
        Some(Io::TimedOut) => {
            (Kind::TimedOut, "no connection in time", "look at routes, VPN and firewall: something drops packets", true)
        }
        _ => (Kind::Unavailable, "the connection broke", "", true),
    }
}

/// A server that says nothing.
pub(super) fn silent(cluster: &Cluster, doing: &Doing, timeout: Duration) -> Error {
    Error::timed_out(format!(
        "{cluster}: could not {doing}: the server said nothing for {}",
        crate::unit::duration(timeout)
    ))
    .hint(format!("if it is only slow, raise `timeout` of [cluster.{}]", cluster.label()))
}

/// An answer that nobody could keep.
pub(super) fn too_long(cluster: &Cluster, doing: &Doing, most: usize) -> Error {
    let most = crate::unit::bytes(most as u64);
    Error::limit(format!("{cluster}: could not {doing}: the answer is longer than {most}"))
}

/// An answer that is no JSON.
pub(super) fn not_json(cluster: &Cluster, error: &serde_json::Error) -> Error {
    // Its text may quote what was read: only the place is told.
    Error::failed(format!("{cluster} answered with what is not JSON as it must be"))
        .fact("at", format!("line {}, column {}", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterSpec, PATIENCE, Proxies, TIMEOUT, Way};
    use super::*;
    use serde_json::json;

    fn cluster() -> std::sync::Arc<Cluster> {
        Cluster::new(ClusterSpec {
            label: "prod".to_owned(),
            way: Way::InCluster,
            credentials: None,
            impersonate: None,
            proxy: None,
            proxies: Proxies::default(),
            timeout: TIMEOUT,
            patience: PATIENCE,
            requests_per_second: None,
            in_flight: 1,
        })
    }

    fn kind(group: &str, kind: &str, plural: &str) -> super::super::Kind {
        super::super::Kind {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced: true,
            verbs: Vec::new(),
            has_status: false,
        }
    }

    fn said(status: u16, body: &serde_json::Value, doing: &Doing) -> (Kind, String) {
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_string().into() };
        let error = refused(&cluster(), doing, &answer);
        (error.kind(), error.message().to_owned())
    }

    #[test]
    fn a_conflict_names_managers_and_fields() {
        let cause = |manager: &str, field: &str| json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\" using apps/v1"), "field": field});
        let body = json!({"reason": "Conflict", "message": "Apply failed", "details": {"causes": [
            cause("kubectl", ".spec.replicas"), cause("helm", ".spec.x"), cause("kubectl", ".spec.paused"),
        ]}});
        let doing = Doing::to("merge", &kind("apps", "Deployment", "deployments"), Some("shop"), Some("web"));
        let (kind, message) = said(409, &body, &doing);
        assert_eq!(kind, Kind::Conflict);
        insta::assert_snapshot!(message, @r#"cluster "prod": could not merge deployments.apps "web" in namespace "shop": conflict with "kubectl" using apps/v1 over .spec.replicas, .spec.paused; conflict with "helm" using apps/v1 over .spec.x"#);
    }

    #[test]
    fn a_refusal_by_rbac_names_verb_kind_and_namespace() {
        let body =
            json!({"reason": "Forbidden", "message": "configmaps is forbidden: User \"b\" cannot list resource"});
        let doing = Doing::to("list", &kind("", "ConfigMap", "configmaps"), Some("shop"), None);
        let (kind, message) = said(403, &body, &doing);
        assert_eq!(kind, Kind::Denied);
        insta::assert_snapshot!(message, @r#"cluster "prod": the host's identity may not list configmaps in namespace "shop""#);
    }

    #[test]
    fn of_a_secret_nothing_is_told_that_could_be_in_it() {
        let doing = Doing::to("create", &kind("", "Secret", "secrets"), Some("shop"), Some("db"));
        let body = json!({
            "reason": "Invalid",
            "message": "Secret \"db\" is invalid: data[p]: Invalid value: \"hunter2hunter2\": no",
            "details": {"causes": [{"reason": "FieldValueInvalid", "message": "Invalid value: \"hunter2hunter2\"", "field": "data[p]"}]},
        });
        let (_, message) = said(422, &body, &doing);
        assert!(!message.contains("hunter2") && message.contains("data[p]: FieldValueInvalid"), "{message}");
        let body = json!({"message": "admission webhook \"guard.example.org\" denied the request: hunter2hunter2"});
        let (_, message) = said(400, &body, &doing);
        assert!(!message.contains("hunter2") && message.contains("guard.example.org"), "{message}");
        let text = "Internal error occurred: failed calling webhook \"slow.example.org\": Post \"https://hunter2hunter2\": timed out";
        let (_, message) = said(500, &json!({"reason": "InternalError", "message": text}), &doing);
        assert!(!message.contains("hunter2") && message.contains("webhook \"slow.example.org\""), "{message}");
    }

    #[test]
    fn our_credentials_are_in_nothing_that_a_server_says_wherever_it_is_cut() {
        let cluster = cluster();
        cluster.redactor().learn(&crate::secret::Secret::new("hunter2-hunter2".to_owned()));
        let doing = Doing::to("list", &kind("", "ConfigMap", "configmaps"), Some("shop"), None);
        for before in [0, SHOWN_CHARS - 8] {
            let echo = format!("{} you said Bearer hunter2-hunter2, aHVudGVyMi1odW50ZXIy", "x".repeat(before));
            let cause = json!({"reason": "FieldManagerConflict", "message": &echo, "field": &echo});
            let conflict = json!({"message": &echo, "details": {"causes": [cause]}});
            for (status, body) in [(403, json!(&echo)), (500, json!({"message": &echo})), (409, conflict)] {
                let answer = Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_string().into() };
                let text = format!("{:?}", refused(&cluster, &doing, &answer));
                assert!(!text.contains("hunter2") && !text.contains("aHVudG"), "{status}: {text}");
            }
            let broken = unreached(&cluster, &doing, &kube::Error::Service(echo.into())).error;
            assert!(!format!("{broken:?}").contains("hunter2"), "{broken:?}");
        }
    }

    #[test]
    fn what_a_library_says_becomes_a_cause_and_a_step() {
        use std::io::ErrorKind as Io;
        for (text, io, kind, may_pass) in [
            ("invalid peer certificate: UnknownIssuer", None, Kind::Failed, false),
            ("invalid peer certificate: Expired", None, Kind::Failed, false),
            ("invalid peer certificate: NotValidForName", None, Kind::Failed, false),
            ("received fatal alert: CertificateExpired", None, Kind::Denied, false),
            ("dns error: failed to lookup address information", None, Kind::Unavailable, true),
            ("tcp connect error", Some(Io::ConnectionRefused), Kind::Unavailable, true),
            ("connection closed before message completed", None, Kind::Unavailable, true),
            ("deadline has elapsed", Some(Io::TimedOut), Kind::TimedOut, true),
        ] {
            let (got, _, _, again) = diagnose(text, io);
            assert_eq!((got, again), (kind, may_pass), "{text}");
        }
    }
}
