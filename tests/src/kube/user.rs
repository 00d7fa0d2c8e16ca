//! Users of a cluster: client certificates, tokens of service accounts, kubeconfigs, and what they may do.

use super::Cluster;
use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Somebody who asks the API server for something.
#[derive(Clone, Debug)]
pub struct User {
    pub(super) name: String,
    pub(super) credential: Credential,
}

/// How somebody shows who it is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A client certificate, in PEM.
    Certificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A bearer token.
    Token(String),
}

impl User {
    /// The name by which RBAC knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it shows who it is.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Its bearer token. Panics for the owner of a certificate.
    pub fn token(&self) -> &str {
        match &self.credential {
            Credential::Token(token) => token,
            Credential::Certificate { .. } => panic!("{} has a certificate and no token", self.name),
        }
    }

    /// Somebody with a token that the API server may or may not know.
    pub fn with_token(token: impl Into<String>) -> Self {
        Self { name: "token".to_owned(), credential: Credential::Token(token.into()) }
    }
}

/// What somebody may do: API group (empty for the core), resources and verbs, each separated by commas.
pub type Rule<'a> = (&'a str, &'a str, &'a str);

impl Cluster {
    /// Somebody new with a client certificate, who may do nothing yet.
    pub fn certificate_user(&self, prefix: &str) -> Result<User> {
        self.pki.user(&format!("{prefix}-{}", self.number()), &[])
    }

    /// Somebody new with a token: a service account in `namespace`, who may do nothing yet.
    pub fn token_user(&self, namespace: &str, prefix: &str) -> Result<User> {
        let account = format!("{prefix}-{}", self.number());
        self.kubectl(["create", "serviceaccount", &account, "--namespace", namespace])?;
        self.service_account_token(namespace, &account, 3600)
    }

    /// A token of a service account that is valid for this many seconds from now. The API server forgives a
    /// minute, and believes a token that it has seen for up to 10 s longer: -120 is one that has expired, -50
    /// one that will soon.
    pub fn service_account_token(&self, namespace: &str, account: &str, seconds: i64) -> Result<User> {
        let object = self.get(&["serviceaccount", account, "--namespace", namespace])?;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let name = format!("system:serviceaccount:{namespace}:{account}");
        // Issued a minute ago at least, so that an expired one is well-formed.
        let issued = now.min(now + seconds) - 60;
        let claims = json!({
            "iss": self.url(), "aud": [self.url()], "sub": name,
            "iat": issued, "nbf": issued, "exp": now + seconds,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": object["metadata"]["uid"]},
            },
        });
        let header = json!({"alg": "ES256", "typ": "JWT"});
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.signing_key()?)?;
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        Ok(User { name, credential: Credential::Token(token) })
    }

    fn signing_key(&self) -> Result<Vec<u8>> {
        let pem = std::fs::read_to_string(self.pki.key("service-account"))?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(body).context("the key is not PEM")
    }

    /// Lets somebody do something, in one namespace or in all of them.
    pub fn allow(&self, user: &User, namespace: Option<&str>, rules: &[Rule<'_>]) -> Result<()> {
        let name = format!("allowed-{}", self.number());
        let rules: Vec<Value> = rules
            .iter()
            .map(|(group, resources, verbs)| {
                let [resources, verbs] = [resources, verbs].map(|list| list.split(',').collect::<Vec<_>>());
                json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
            })
            .collect();
        let (role, binding) = match namespace {
            Some(_) => ("Role", "RoleBinding"),
            None => ("ClusterRole", "ClusterRoleBinding"),
        };
        let object = |kind: &str, rest: Value| {
            let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind});
            object["metadata"] = json!({"name": name});
            if let Some(namespace) = namespace {
                object["metadata"]["namespace"] = json!(namespace);
            }
            for (key, value) in rest.as_object().into_iter().flatten() {
                object[key] = value.clone();
            }
            object
        };
        let group = "rbac.authorization.k8s.io";
        let subject = json!({"kind": "User", "name": user.name, "apiGroup": group});
        let reference = json!({"kind": role, "name": name, "apiGroup": group});
        let items = [
            object(role, json!({"rules": rules})),
            object(binding, json!({"subjects": [subject], "roleRef": reference})),
        ];
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
    }

    /// A kubeconfig with one context, named as the user.
    pub fn kubeconfig(&self, user: &User) -> Result<PathBuf> {
        self.kubeconfig_at(user, self.port)
    }

    /// The same for somebody who reaches the API server through another port of the loopback, such as a proxy's.
    pub fn kubeconfig_at(&self, user: &User, port: u16) -> Result<PathBuf> {
        let path = self.dir.join(format!("user-{}.kubeconfig", self.number()));
        self.write_kubeconfig(&path, user, port)?;
        Ok(path)
    }

    pub(super) fn write_kubeconfig(&self, path: &Path, user: &User, port: u16) -> Result<()> {
        let encoded = |path: &Path| -> Result<String> { Ok(STANDARD.encode(std::fs::read(path)?)) };
        let credential = match &user.credential {
            Credential::Token(token) => json!({"token": token}),
            Credential::Certificate { certificate, key } => {
                json!({"client-certificate-data": encoded(certificate)?, "client-key-data": encoded(key)?})
            }
        };
        let server = format!("https://127.0.0.1:{port}");
        let cluster = json!({"server": server, "certificate-authority-data": encoded(&self.pki.ca())?});
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": user.name,
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user.name, "user": credential}],
            "contexts": [{"name": user.name, "context": {"cluster": "test", "user": user.name}}],
        });
        std::fs::write(path, config.to_string()).with_context(|| format!("could not write {}", path.display()))
    }
}
