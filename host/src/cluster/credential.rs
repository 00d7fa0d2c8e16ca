//! What of our credentials a server, a proxy or a panic could say again: the cluster's redactor knows it
//! before it is sent. Shows none, and decides nothing.

use super::Credentials;
use crate::secret::{MIN_SECRET_BYTES, Redactor, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::AuthInfo;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

/// Those that the host fetched itself.
pub(super) fn learn(redactor: &Redactor, credentials: &Credentials) {
    match credentials {
        Credentials::Token(token) => learn_one(redactor, token),
        // A certificate is shown to everybody who listens.
        Credentials::Certificate { key, .. } => learn_one(redactor, key),
    }
}

/// Those that a kubeconfig or the environment holds, and of files those that are sent to nobody: what
/// changes while a client lives is learned when it is sent ([`client`]).
pub(super) fn learn_config(redactor: &Redactor, config: &kube::Config) {
    let auth = &config.auth_info;
    // The library shows them in no other way.
    if let Ok(serde_json::Value::Object(mut written)) = serde_json::to_value(auth) {
        for key in ["token", "password", "client-key-data"] {
            let Some(serde_json::Value::String(text)) = written.remove(key) else { continue };
            let decoded = STANDARD.decode(&text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            if let Some(pem) = decoded.filter(|_| key == "client-key-data") {
                learn_one(redactor, &Secret::new(pem));
            }
            learn_one(redactor, &Secret::new(text));
        }
    }
    if let Some(key) = auth.client_key.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
        learn_one(redactor, &Secret::new(key));
    }
    for (key, value) in auth.auth_provider.iter().flat_map(|provider| &provider.config) {
        if key.contains("token") || key.contains("secret") {
            learn_one(redactor, &Secret::new(value.clone()));
        }
    }
    let authority = config.proxy_url.as_ref().and_then(http::Uri::authority);
    if let Some((user, _)) = authority.and_then(|authority| authority.as_str().rsplit_once('@')) {
        let password = user.split_once(':').map_or(user, |(_, password)| password);
        learn_one(redactor, &decoded(password));
    }
}

/// A part of a URL as it was meant; the redactor finds it as it was written too.
fn decoded(text: &str) -> Secret {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let code = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        let code = code.filter(|_| first == b'%');
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    Secret::new(String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned()))
}

/// One that is too short to be told from words is no secret to anybody.
fn learn_one(redactor: &Redactor, secret: &Secret) {
    if secret.expose().len() >= MIN_SECRET_BYTES {
        redactor.learn(secret);
    }
}

/// A client whose requests say nothing of us that the redactor does not know. A program of the kubeconfig
/// may run. Needs the runtime.
pub(super) fn client(mut config: kube::Config, redactor: &Redactor) -> Result<kube::Client, kube::Error> {
    let auth = &config.auth_info;
    let is_fixed = auth.exec.is_none() && auth.auth_provider.is_none() && auth.token_file.is_none();
    // A token that the library fetches, and fetches again, is seen nowhere but in what it sends.
    let layer = if is_fixed { None } else { config.auth_layer()? };
    let Some(layer) = layer else { return ClientBuilder::try_from(config).map(ClientBuilder::build) };
    let namespace = config.default_namespace.clone();
    config.auth_info = AuthInfo {
        exec: None,
        auth_provider: None,
        token_file: None,
        token: None,
        username: None,
        password: None,
        ..config.auth_info
    };
    let client = ClientBuilder::try_from(config)?.build();
    let learning = Learning { client, redactor: redactor.clone() };
    Ok(kube::Client::new(layer.layer(learning), namespace))
}

/// Learns the credentials of each request, and passes it on.
#[derive(Clone)]
struct Learning {
    client: kube::Client,
    redactor: Redactor,
}

impl Service<Request<Body>> for Learning {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The client waits for its own place.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let said = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some((_, token)) = said.and_then(|said| said.split_once(' ')) {
            learn_one(&self.redactor, &Secret::new(token.to_owned()));
        }
        let client = self.client.clone();
        Box::pin(async move { client.send(request).await.map_err(BoxError::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(auth: serde_json::Value) -> kube::Config {
        let mut config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        config.auth_info = serde_json::from_value(auth).unwrap();
        config
    }

    #[test]
    fn what_a_kubeconfig_and_the_way_hold_is_known() {
        let redactor = Redactor::default();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "-----BEGIN KEY-----\nbGluZS1vZi1hLWZpbGU=\n-----END KEY-----\n").unwrap();
        let inline = STANDARD.encode("-----BEGIN KEY-----\nbGluZS1pbi1saW5l\n-----END KEY-----\n");
        let mut config = config(serde_json::json!({
            "token": "token-of-kubeconfig", "username": "admin", "password": "password-of-kubeconfig",
            "client-key": file, "client-key-data": inline,
            "auth-provider": {"name": "oidc", "config": {"id-token": "token-of-provider", "idp": "https://idp.example"}},
        }));
        config.proxy_url = Some("http://me:p%40ssword-of-proxy@proxy:3128".parse().unwrap());
        learn_config(&redactor, &config);
        for secret in [
            "token-of-kubeconfig",
            "password-of-kubeconfig",
            "bGluZS1vZi1hLWZpbGU=",
            "bGluZS1pbi1saW5l",
            &inline,
            "token-of-provider",
            "p@ssword-of-proxy",
            "p%40ssword-of-proxy",
        ] {
            assert!(!redactor.text(&format!("x {secret} y")).contains(secret), "{secret}");
        }
        for open in ["admin", "https://idp.example", "proxy:3128"] {
            assert_eq!(redactor.text(open), open);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_of_a_file_or_a_program_is_known_once_it_is_sent_also_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "token-of-a-file").unwrap();
        let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"token-of-a-program"}}"#;
        let exec = serde_json::json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": "/bin/echo", "args": [credential],
        }});
        for (auth, token) in [(serde_json::json!({"tokenFile": file}), "token-of-a-file"), (exec, "token-of-a-program")]
        {
            let redactor = Redactor::default();
            let client = client(config(auth), &redactor).unwrap();
            assert_eq!(redactor.text(token), token, "nothing was sent yet");
            // Nobody listens there.
            client.send(Request::get("/version").body(Body::empty()).unwrap()).await.unwrap_err();
            assert_eq!(redactor.text(&format!("Bearer {token}.")), "Bearer ***.");
        }
    }
}
