//! From a label's data to a client: kubeconfigs, addresses, service accounts, proxies.

use super::{Cluster, ClusterSpec, Credentials, Way, context, credential, proxy};
use crate::error::{Error, Result};
use crate::secret::{Redactor, Secret};
use base64::Engine;
use kube::config::{AuthInfo, Kubeconfig};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a connection may take to be there: as long as three lost packets of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Credentials are not fetched again sooner than this after the last time.
const FETCH_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Most bytes of what a program of a kubeconfig said that are shown.
const SHOWN_BYTES: usize = 400;

/// A client, and since when.
pub(super) struct Connection {
    client: kube::Client,
    since: Instant,
    /// Counts how often credentials were fetched.
    generation: u64,
}

impl Cluster {
    /// The client, and its generation.
    pub(super) async fn connected(&self) -> Result<(kube::Client, u64)> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok((connection.client.clone(), connection.generation));
        }
        let client = client(&self.spec, &self.redactor).await?;
        *connection = Some(Connection { client: client.clone(), since: Instant::now(), generation: 0 });
        Ok((client, 0))
    }

    /// Fetches the credentials again, after the server refused those of `generation`. `false` when
    /// that was done only just now, and would give the same.
    pub(super) async fn renew(&self, generation: u64) -> Result<bool> {
        let mut connection = self.connection.lock().await;
        match &*connection {
            // Somebody else has done it.
            Some(connection) if connection.generation > generation => return Ok(true),
            // The first time nothing is known about how old they are.
            Some(connection) if connection.generation > 0 && connection.since.elapsed() < FETCH_AGAIN_AFTER => {
                return Ok(false);
            }
            _ => {}
        }
        let client = Box::pin(client(&self.spec, &self.redactor)).await?;
        *connection = Some(Connection { client, since: Instant::now(), generation: generation + 1 });
        Ok(true)
    }
}

/// A client of this cluster. Nothing is sent yet, but a program of the kubeconfig may run. What it will say of
/// who we are the redactor knows before the server does.
async fn client(spec: &ClusterSpec, redactor: &Redactor) -> Result<kube::Client> {
    let credentials = match &spec.credentials {
        Some(fetch) => {
            let fetch = fetch.clone();
            Some(blocking(move || fetch()).await??)
        }
        None => None,
    };
    credentials.iter().for_each(|credentials| credential::learn(redactor, credentials));
    let config = config(spec, credentials)?;
    let known = redactor.clone();
    let built = blocking(move || {
        credential::learn_config(&known, &config);
        credential::client(config, &known)
    });
    built.await?.map_err(|error| not_built(&spec.label, redactor, error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("the host failed while it connected to a cluster").because(error))
}

/// What a program of the kubeconfig wrote may hold a token: of its output only errors are shown.
fn not_built(label: &str, redactor: &Redactor, error: kube::Error) -> Error {
    let what = format!("could not get credentials of cluster \"{label}\"");
    match error {
        kube::Error::Auth(kube::client::AuthError::AuthExecRun { cmd, out }) => {
            // Before it is cut: half a secret would not be found.
            let said = redactor.text(String::from_utf8_lossy(&out.stderr).trim());
            let said: String = said.chars().take(SHOWN_BYTES).collect();
            Error::failed(what)
                .fact("program", format!("\"{cmd}\" of the kubeconfig ended with {}", out.status))
                .fact("it said", said)
                .hint("run it by hand, as the user that strongroom runs as")
        }
        kube::Error::Auth(error) => Error::failed(what).because(error),
        error => Error::invalid(format!("could not use the configuration of cluster \"{label}\"")).because(error),
    }
}

/// What kube-rs needs. Reads files; runs nothing.
///
/// Errors: `Invalid`; `Denied` for a kubeconfig that would run a program, or would believe any server.
pub(super) fn config(spec: &ClusterSpec, credentials: Option<Credentials>) -> Result<kube::Config> {
    let label = &spec.label;
    let mut config = match &spec.way {
        Way::Kubeconfig { path, context, exec_credentials } => {
            let kubeconfig = read(label, path.as_deref())?;
            check_context(label, path.as_deref(), &kubeconfig, context)?;
            let config = context::config(label, &kubeconfig, context, &spec.proxies)?;
            if spec.credentials.is_none() && !exec_credentials {
                check_runs_nothing(label, context, &config.auth_info)?;
            }
            config
        }
        Way::Address { server, ca } => {
            let kubeconfig = kubeconfig_of(label, server, ca.as_deref())?;
            context::config(label, &kubeconfig, OWN_CONTEXT, &spec.proxies)?
        }
        Way::InCluster => kube::Config::incluster().map_err(|error| {
            Error::invalid(format!("cluster \"{label}\" is the one that strongroom runs in, and it runs in none"))
                .hint("write context = \"…\" or api = \"https://…\", or run it in a pod with a service account")
                .because(error)
        })?,
    };
    check_server(label, &config)?;
    if spec.credentials.is_some() {
        config.auth_info = auth_info(credentials);
    }
    if let Some(user) = &spec.impersonate {
        config.auth_info.impersonate = Some(user.clone());
    }
    if let Some(proxy) = &spec.proxy {
        let wrong = |why: &str| Error::invalid(format!("could not use the proxy of cluster \"{label}\": {why}"));
        config.proxy_url = Some(proxy::parse(proxy).map_err(wrong)?);
    }
    config.connect_timeout = Some(spec.timeout.min(CONNECT_TIMEOUT));
    // What a silent server means is decided in `request`, and so is what is tried again.
    config.read_timeout = None;
    config.default_retry = false;
    Ok(config)
}

fn read(label: &str, path: Option<&Path>) -> Result<Kubeconfig> {
    let read = match path {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    read.map_err(|error| {
        let file =
            path.map_or_else(|| "KUBECONFIG, or ~/.kube/config".to_owned(), |path| format!("\"{}\"", path.display()));
        Error::invalid(format!("could not read the kubeconfig of cluster \"{label}\""))
            .fact("file", file)
            .hint(format!("write kubeconfig = \"PATH\" into [cluster.{label}], or correct it"))
            .because(error)
    })
}

fn check_context(label: &str, path: Option<&Path>, kubeconfig: &Kubeconfig, context: &str) -> Result<()> {
    if kubeconfig.contexts.iter().any(|named| named.name == context) {
        return Ok(());
    }
    let known: Vec<_> = kubeconfig.contexts.iter().map(|named| named.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let file = path.map_or_else(|| "the kubeconfig".to_owned(), |path| format!("\"{}\"", path.display()));
    Err(Error::invalid(format!("cluster \"{label}\": there is no context \"{context}\" in {file}"))
        .fact("expected", format!("one of: {known}"))
        .hint(format!("correct context in [cluster.{label}]")))
}

/// A kubeconfig can name programs that are run to get credentials: only the operator may say yes.
fn check_runs_nothing(label: &str, context: &str, auth: &AuthInfo) -> Result<()> {
    let program = match (&auth.exec, &auth.auth_provider) {
        (Some(exec), _) => exec.command.clone().unwrap_or_default(),
        (None, Some(provider)) => format!("of the auth provider {}", provider.name),
        (None, None) => return Ok(()),
    };
    Err(Error::denied(format!("cluster \"{label}\": the kubeconfig wants to run a program to get credentials"))
        .fact("context", context)
        .fact("program", program)
        .hint(format!(
            "if it may, write exec_credentials = true into [cluster.{label}]; or give it a token of its own"
        )))
}

/// A server that anybody could stand in for would get our credentials.
fn check_server(label: &str, config: &kube::Config) -> Result<()> {
    if config.accept_invalid_certs {
        return Err(Error::denied(format!("cluster \"{label}\": the kubeconfig believes any server"))
            .fact("key", "insecure-skip-tls-verify")
            .hint("put the cluster's certificate into the kubeconfig (certificate-authority), or write api and ca"));
    }
    let host = config.cluster_url.host().unwrap_or_default();
    let is_here = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
    if config.cluster_url.scheme_str() != Some("https") && !is_here {
        return Err(Error::denied(format!("cluster \"{label}\": its server is not reached by https"))
            .fact("server", config.cluster_url.to_string())
            .hint("credentials would be readable on the way: write https://"));
    }
    Ok(())
}

/// The one context of a kubeconfig of our own.
const OWN_CONTEXT: &str = "it";

/// The same as a kubeconfig would say it, so that everything else counts in the same way.
fn kubeconfig_of(label: &str, server: &str, ca: Option<&Path>) -> Result<Kubeconfig> {
    let mut cluster = serde_json::json!({ "server": server });
    if let Some(ca) = ca {
        cluster["certificate-authority"] = ca.to_string_lossy().into();
    }
    let whole = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "it", "cluster": cluster }],
        "users": [{ "name": "we", "user": {} }],
        "contexts": [{ "name": OWN_CONTEXT, "context": { "cluster": "it", "user": "we" } }],
    });
    serde_json::from_value(whole)
        .map_err(|error| Error::invalid(format!("could not use the address of cluster \"{label}\"")).because(error))
}

fn auth_info(credentials: Option<Credentials>) -> AuthInfo {
    let base64 = |secret: &Secret| base64::engine::general_purpose::STANDARD.encode(secret.expose());
    match credentials {
        Some(Credentials::Token(token)) => {
            AuthInfo { token: Some(token.expose().to_owned().into()), ..AuthInfo::default() }
        }
        Some(Credentials::Certificate { certificate, key }) => AuthInfo {
            client_certificate_data: Some(base64(&certificate)),
            client_key_data: Some(base64(&key).into()),
            ..AuthInfo::default()
        },
        None => AuthInfo::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PATIENCE, Proxies, TIMEOUT};
    use super::*;
    use crate::error::Kind;

    fn spec(way: Way) -> ClusterSpec {
        ClusterSpec {
            label: "prod".to_owned(),
            way,
            credentials: None,
            impersonate: None,
            proxy: None,
            proxies: Proxies::default(),
            timeout: TIMEOUT,
            patience: PATIENCE,
            requests_per_second: None,
            in_flight: 4,
        }
    }

    fn refused(spec: &ClusterSpec) -> (Kind, String) {
        let error = config(spec, None).unwrap_err();
        (error.kind(), format!("{error:?} {}", error.hint_text().unwrap_or_default()))
    }

    fn kubeconfig(user: &str, cluster: &str) -> (tempfile::TempDir, Way) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {cluster}\nusers:\n- name: u\n  user: {user}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\n"
        );
        std::fs::write(&path, text).unwrap();
        (scratch, Way::Kubeconfig { path: Some(path), context: "x".to_owned(), exec_credentials: false })
    }

    #[test]
    fn a_program_of_a_kubeconfig_runs_only_when_the_operator_says_so() {
        let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, interactiveMode: Never}}";
        let (_kept, way) = kubeconfig(exec, "{server: 'https://k:6443'}");
        let (kind, said) = refused(&spec(way.clone()));
        assert_eq!(kind, Kind::Denied);
        assert!(said.contains("get-token") && said.contains("exec_credentials = true"), "{said}");
        let Way::Kubeconfig { path, context, .. } = way else { unreachable!() };
        let allowed = Way::Kubeconfig { path, context, exec_credentials: true };
        assert!(config(&spec(allowed.clone()), None).is_ok());
        // Credentials of our own take the place of the program.
        let own: super::super::FetchCredentials =
            std::sync::Arc::new(|| Ok(Credentials::Token(Secret::new("t".to_owned()))));
        let spec = ClusterSpec { credentials: Some(own), ..spec(allowed) };
        let config = config(&spec, None).unwrap();
        assert!(config.auth_info.exec.is_none());
    }

    #[test]
    fn a_server_that_anybody_could_stand_in_for_is_refused() {
        let (_kept, way) = kubeconfig("{token: t}", "{server: 'https://k:6443', insecure-skip-tls-verify: true}");
        let (kind, said) = refused(&spec(way));
        assert!(kind == Kind::Denied && said.contains("insecure-skip-tls-verify"), "{said}");
        let plain = |server: &str| spec(Way::Address { server: server.to_owned(), ca: None });
        assert_eq!(refused(&plain("http://k:6443")).0, Kind::Denied);
        assert!(config(&plain("http://127.0.0.1:8001"), None).is_ok());
    }

    #[test]
    fn what_a_kubeconfig_does_not_hold_is_named_with_what_it_holds() {
        let (_kept, way) = kubeconfig("{token: t}", "{server: 'https://k:6443'}");
        let Way::Kubeconfig { path, .. } = way else { unreachable!() };
        let other = Way::Kubeconfig { path, context: "y".to_owned(), exec_credentials: false };
        let (kind, said) = refused(&spec(other));
        assert!(kind == Kind::Invalid && said.contains("\"y\"") && said.contains("one of: x"), "{said}");
        let absent = Way::Kubeconfig { path: Some("/nowhere".into()), context: "x".into(), exec_credentials: false };
        assert_eq!(refused(&spec(absent)).0, Kind::Invalid);
    }

    #[test]
    fn who_we_are_is_ours_to_say() {
        let (_kept, way) = kubeconfig("{token: theirs}", "{server: 'https://k:6443', proxy-url: 'http://p:1'}");
        let own: super::super::FetchCredentials =
            std::sync::Arc::new(|| Ok(Credentials::Token(Secret::new("t".to_owned()))));
        let spec = ClusterSpec {
            credentials: Some(own),
            impersonate: Some("auditor".to_owned()),
            proxy: Some("http://q:2".to_owned()),
            ..spec(way)
        };
        let config = config(&spec, Some(Credentials::Token(Secret::new("ours".to_owned())))).unwrap();
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("auditor"));
        assert_eq!(config.proxy_url.unwrap().to_string(), "http://q:2/");
        assert!(config.auth_info.token.is_some() && config.auth_info.token_file.is_none());
    }
}
