//! `[cluster.x]`: where a cluster is, and who we are there. Read and checked as data; nothing is asked
//! of a cluster, and no secret is fetched.

use super::fields::Fields;
use super::{Meaning, SecretRef};
use crate::cluster::{IN_FLIGHT, PATIENCE, TIMEOUT, Way};
use std::time::Duration;

/// `[cluster.x]`
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `context` and `kubeconfig`, `api` and `ca`, or `in_cluster`.
    pub way: Way,
    /// Who we are.
    pub identity: Identity,
    /// `restore`: who we are when something is verified by restore, or restored; as always unless set.
    pub restore: Option<Identity>,
    /// `proxy`.
    pub proxy: Option<String>,
    /// `timeout`; [`TIMEOUT`] unless set.
    pub timeout: Duration,
    /// `patience`; [`PATIENCE`] unless set.
    pub patience: Duration,
    /// `requests_per_second`; no limit of our own unless set.
    pub requests_per_second: Option<u32>,
    /// `in_flight`; [`IN_FLIGHT`] unless set.
    pub in_flight: usize,
}

/// Who we are in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `context` of `restore`: another one of the same kubeconfig.
    pub context: Option<String>,
    /// `token`, or `client_certificate` with `client_key`.
    pub credentials: Option<CredentialRefs>,
    /// `as`.
    pub impersonate: Option<String>,
}

/// Credentials by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialRefs {
    /// `token`
    Token(SecretRef),
    /// `client_certificate` and `client_key`, both PEM.
    Certificate {
        /// The certificate.
        certificate: SecretRef,
        /// Its key.
        key: SecretRef,
    },
}

/// Ways to a cluster, of which each has one.
const WAYS: [&str; 3] = ["context", "api", "in_cluster"];

impl ClusterConfig {
    /// The way that is taken by who restores, or by anybody else.
    pub fn way_for(&self, restores: bool) -> Way {
        match (&self.way, self.identity_for(restores).context.as_ref()) {
            (Way::Kubeconfig { path, exec_credentials, .. }, Some(context)) => {
                Way::Kubeconfig { path: path.clone(), context: context.clone(), exec_credentials: *exec_credentials }
            }
            (way, _) => way.clone(),
        }
    }

    /// Who restores, or anybody else.
    pub fn identity_for(&self, restores: bool) -> &Identity {
        self.restore.as_ref().filter(|_| restores).unwrap_or(&self.identity)
    }
}

impl Meaning<'_> {
    pub(super) fn cluster(&mut self, fields: &Fields) -> Option<ClusterConfig> {
        let way = self.way(fields);
        let mut identity = self.identity(fields);
        // The context is the way itself here.
        identity.context = None;
        let restore = fields.table("restore").map(|restore| {
            if restore.has("context") && !fields.has("context") {
                self.odd(restore, "context", "only a cluster that has a context can have another one to restore");
            }
            if !["context", "token", "client_certificate", "as"].iter().any(|key| restore.has(key)) {
                self.odd(restore, "", "it says nothing: name a token, a certificate, a context or a user");
            }
            let found = self.identity(restore);
            // Whoever is only another user is reached with the same credentials.
            let credentials =
                found.credentials.clone().or_else(|| identity.credentials.clone().filter(|_| found.context.is_none()));
            Identity { credentials, ..found }
        });
        if fields.has("api") && !fields.is_refused("api") && identity.credentials.is_none() {
            let refused = ["token", "client_certificate", "client_key"].iter().any(|key| fields.is_refused(key));
            if !refused {
                self.mistakes
                    .add(
                        fields.span.clone(),
                        format!("{} has no credentials", fields.path),
                        "expected a token or a certificate",
                    )
                    .help = Some("write token = { env = \"…\" }, or client_certificate and client_key".to_owned());
            }
        }
        if let Some(proxy) = fields.text("proxy")
            && !["http://", "https://"].iter().any(|scheme| proxy.starts_with(scheme))
        {
            self.odd(fields, "proxy", "expected the URL of a proxy: http://… or https://…");
        }
        if fields.text("proxy").is_some_and(|proxy| proxy.contains('@')) {
            let span = fields.span_of("proxy");
            // What stands there is not quoted.
            self.mistakes.mask(span.clone());
            self.mistakes
                .add(span, format!("{}.proxy holds a user or a password", fields.path), "expected host and port alone")
                .help = Some("put the whole URL into HTTPS_PROXY of the environment, and leave proxy away".to_owned());
        }
        Some(ClusterConfig {
            way: way?,
            identity,
            restore,
            proxy: fields.text("proxy").map(str::to_owned),
            timeout: fields.duration("timeout").unwrap_or(TIMEOUT),
            patience: fields.duration("patience").unwrap_or(PATIENCE),
            requests_per_second: fields.whole("requests_per_second"),
            in_flight: fields.whole("in_flight").unwrap_or(IN_FLIGHT),
        })
    }

    fn way(&mut self, fields: &Fields) -> Option<Way> {
        let given: Vec<&str> = WAYS.into_iter().filter(|way| fields.has(way)).collect();
        let [way] = given.as_slice() else {
            let got = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
            self.mistakes
                .add(
                    fields.span.clone(),
                    format!("{} does not say where it is", fields.path),
                    format!("expected one of {}, got {got}", WAYS.join(", ")),
                )
                .help =
                Some("write context = \"…\" of a kubeconfig, or api = \"https://…\", or in_cluster = true".to_owned());
            return None;
        };
        let own: &[&str] = match *way {
            "context" => &["kubeconfig", "exec_credentials"],
            "api" => &["ca"],
            _ => &[],
        };
        for key in ["kubeconfig", "exec_credentials", "ca"].into_iter().filter(|key| !own.contains(key)) {
            if fields.has(key) {
                self.odd(fields, key, &format!("it means nothing beside {way}"));
            }
        }
        match *way {
            "context" => Some(Way::Kubeconfig {
                path: if fields.has("kubeconfig") { Some(self.path(fields, "kubeconfig")?) } else { None },
                context: fields.text("context")?.to_owned(),
                exec_credentials: fields.flag("exec_credentials"),
            }),
            "api" => {
                let server = fields.text("api")?;
                if let Err(why) = check_server(server) {
                    self.odd(fields, "api", why);
                    return None;
                }
                let ca = if fields.has("ca") { Some(self.path(fields, "ca")?) } else { None };
                Some(Way::Address { server: server.trim_end_matches('/').to_owned(), ca })
            }
            _ => {
                if !fields.is_refused("in_cluster") && !fields.flag("in_cluster") {
                    self.odd(fields, "in_cluster", "expected true, or another way");
                    return None;
                }
                Some(Way::InCluster)
            }
        }
    }

    fn identity(&mut self, fields: &Fields) -> Identity {
        let reference = |meaning: &Self, key: &str| fields.secret(key).map(|secret| meaning.secret_ref(secret));
        let (token, certificate, key) =
            (reference(self, "token"), reference(self, "client_certificate"), reference(self, "client_key"));
        if fields.has("token") && fields.has("client_certificate") {
            self.odd(fields, "client_certificate", "there is a token already: one of them is who we are");
        }
        for (one, other) in [("client_certificate", "client_key"), ("client_key", "client_certificate")] {
            if fields.has(one) && !fields.has(other) {
                self.odd(fields, one, &format!("it is nothing without {other}"));
            }
        }
        let credentials = match (token, certificate, key) {
            (Some(token), ..) => Some(CredentialRefs::Token(token)),
            (None, Some(certificate), Some(key)) => Some(CredentialRefs::Certificate { certificate, key }),
            _ => None,
        };
        let text = |key: &str| fields.text(key).map(str::to_owned);
        Identity { context: text("context"), credentials, impersonate: text("as") }
    }

    /// A value that is no mistake of its shape.
    fn odd(&mut self, fields: &Fields, key: &str, why: &str) {
        let dot = if key.is_empty() { "" } else { "." };
        self.mistakes.add(fields.span_of(key), format!("{}{dot}{key} cannot be used", fields.path), why);
    }
}

/// What is reached without TLS must be on this machine.
fn check_server(server: &str) -> Result<(), &'static str> {
    let here = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    let is_here = here
        .iter()
        .any(|prefix| server.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
    let Some(rest) = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://").filter(|_| is_here))
    else {
        return Err("expected https://…: credentials would be readable on the way");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty()
        || host.contains('@')
        || server.contains(['?', '#'])
        || server.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err("expected a host, a port where it is not 443, and no credentials");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_reached_by_tls_or_lies_here() {
        for good in [
            "https://k",
            "https://k:6443/",
            "https://10.0.0.1:6443/k8s/clusters/c-1",
            "http://127.0.0.1:8001",
            "http://[::1]",
        ] {
            assert_eq!(check_server(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "k:6443",
            "http://k",
            "http://127.0.0.1.example.org",
            "https://",
            "https://u:p@k",
            "https://k?x",
            "https://k k",
        ] {
            assert!(check_server(bad).is_err(), "{bad}");
        }
    }
}
