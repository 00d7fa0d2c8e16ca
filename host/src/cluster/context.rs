//! From a context of a kubeconfig to what a client needs: its server, its authority, its user. Reads the
//! files that it names; asks nobody, runs nothing, and reads nothing of the environment.

use super::proxy::{self, Proxies};
use crate::error::{Error, Result};
use base64::Engine;
use kube::config::{Cluster, Context, Kubeconfig, NamedCluster};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// What kube-rs needs for a context, as whoever wrote the kubeconfig has meant it. The proxy is that of
/// the kubeconfig, or else that of the environment.
///
/// Errors: `Invalid`, naming what cannot be used.
pub(super) fn config(label: &str, kubeconfig: &Kubeconfig, context: &str, proxies: &Proxies) -> Result<kube::Config> {
    let wrong = |why: String| Error::invalid(format!("could not use the configuration of cluster \"{label}\": {why}"));
    let named = kubeconfig.contexts.iter().find(|named| named.name == context);
    let Some(Context { cluster: name, user, namespace, .. }) = named.and_then(|named| named.context.as_ref()) else {
        return Err(wrong(format!("the context \"{context}\" says nothing")));
    };
    let is_named = |named: &&NamedCluster| &named.name == name;
    let cluster = kubeconfig.clusters.iter().find(is_named).and_then(|named| named.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| wrong(format!("the kubeconfig has no cluster \"{name}\"")))?;
    let server = cluster.server.as_deref().unwrap_or_default();
    let server = server.parse::<http::Uri>().ok().filter(|server| server.host().is_some());
    let server = server.ok_or_else(|| wrong(format!("the server of \"{name}\" is not a URL")))?;

    let mut config = kube::Config::new(server);
    // A context without a user, or with one that is not there, is nobody: so does kubectl read it.
    let found = kubeconfig.auth_infos.iter().find(|info| Some(&info.name) == user.as_ref());
    config.auth_info = found.and_then(|info| info.auth_info.clone()).unwrap_or_default();
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        let told = cluster.try_into();
        exec.cluster = Some(told.map_err(|error: kube::config::KubeconfigError| wrong(error.to_string()))?);
    }
    if let Some(namespace) = namespace {
        config.default_namespace.clone_from(namespace);
    }
    config.root_cert = authority(cluster).map_err(wrong)?;
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    let own = cluster.proxy_url.as_deref().map(str::trim).filter(|proxy| !proxy.is_empty());
    let (from, proxy) = match own {
        Some(own) => (format!("proxy-url of \"{name}\""), Some(own)),
        None => ("HTTPS_PROXY".to_owned(), proxies.of(&config.cluster_url)),
    };
    config.proxy_url = proxy.map(proxy::parse).transpose().map_err(|why| wrong(format!("{from}: {why}")))?;
    Ok(config)
}

/// The certificates by which the server is known; none where those of the machine count.
///
/// Errors: why they cannot be used.
fn authority(cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>, String> {
    let (from, pem) = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) if !data.is_empty() => {
            let from = "certificate-authority-data".to_owned();
            let decoded = base64::engine::general_purpose::STANDARD.decode(data);
            let pem = decoded.map_err(|error| format!("{from} is not base64: {error}"))?;
            (from, pem)
        }
        (_, Some(path)) if !path.is_empty() => {
            let from = format!("\"{path}\"");
            let pem = std::fs::read(path).map_err(|error| format!("{from} cannot be read: {error}"))?;
            (from, pem)
        }
        _ => return Ok(None),
    };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|found| found.map(|der| der.as_ref().to_vec())).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(certificates)),
        _ => Err(format!("{from} holds no certificates")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Made with openssl; what it says is of no account here.
    const CERTIFICATE: &str = include_str!("certificate/until-2049.pem");

    fn kubeconfig(cluster: &Value) -> Kubeconfig {
        serde_json::from_value(json!({
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
                {"name": "nobody", "context": {"cluster": "c", "user": "absent"}},
                {"name": "nowhere", "context": {"cluster": "absent", "user": "u"}},
            ],
        }))
        .unwrap()
    }

    fn proxies(not_for: &str) -> Proxies {
        Proxies { https: Some("env:1".to_owned()), not_for: not_for.to_owned() }
    }

    #[test]
    fn a_context_says_server_authority_user_and_namespace() {
        let data = base64::engine::general_purpose::STANDARD.encode(CERTIFICATE);
        let whole =
            json!({"server": "https://k:6443/x", "certificate-authority-data": data, "tls-server-name": "other"});
        let found = config("prod", &kubeconfig(&whole), "x", &Proxies::default()).unwrap();
        assert_eq!(found.cluster_url.to_string(), "https://k:6443/x");
        assert_eq!((found.default_namespace.as_str(), found.tls_server_name.as_deref()), ("shop", Some("other")));
        assert_eq!(found.root_cert.map(|certificates| certificates.len()), Some(1));
        assert!(found.auth_info.token.is_some() && found.proxy_url.is_none() && !found.accept_invalid_certs);
        let nobody =
            config("prod", &kubeconfig(&json!({"server": "https://k"})), "nobody", &Proxies::default()).unwrap();
        assert!(nobody.auth_info.token.is_none() && nobody.root_cert.is_none());
    }

    #[test]
    fn a_kubeconfigs_proxy_counts_before_that_of_the_environment() {
        for (own, not_for, expected) in [
            (None, "", Some("http://env:1/")),
            (None, "k", None),
            (Some(""), "", Some("http://env:1/")),
            (Some("http://own:2"), "", Some("http://own:2/")),
            // What is excepted is so from the environment's proxy.
            (Some("http://own:2"), "*", Some("http://own:2/")),
        ] {
            let cluster = json!({"server": "https://k:6443", "proxy-url": own});
            let found = config("prod", &kubeconfig(&cluster), "x", &proxies(not_for)).unwrap();
            assert_eq!(found.proxy_url.map(|uri| uri.to_string()).as_deref(), expected, "{own:?} {not_for:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_and_a_password_is_not() {
        for (cluster, context, says) in [
            (json!({"server": "https://k"}), "nowhere", "no cluster \"absent\""),
            (json!({}), "x", "the server of \"c\" is not a URL"),
            (
                json!({"server": "https://k", "certificate-authority": "/absent.pem"}),
                "x",
                "\"/absent.pem\" cannot be read",
            ),
            (json!({"server": "https://k", "certificate-authority-data": "?"}), "x", "is not base64"),
            (json!({"server": "https://k", "certificate-authority-data": "aGk="}), "x", "holds no certificates"),
            (json!({"server": "https://k", "proxy-url": "socks5://u:hunter2@p"}), "x", "proxy-url of \"c\": only http"),
        ] {
            let error = config("prod", &kubeconfig(&cluster), context, &Proxies::default()).unwrap_err();
            let said = format!("{error:?}");
            assert!(said.contains(says) && said.contains("cluster \"prod\"") && !said.contains("hunter2"), "{said}");
        }
    }
}
