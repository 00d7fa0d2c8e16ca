//! Clusters of the configuration, ready to be asked: their credentials are fetched when they are first
//! needed, and again when a server refuses the old ones.

use super::Session;
use crate::cluster::{Cluster, ClusterSpec, Clusters, Credentials, FetchCredentials, Proxies, Way};
use crate::config::{ClusterConfig, CredentialRefs, Identity, PluginConfig, SecretRef, environment, secret};
use crate::error::{Error, Result};
use crate::id::Label;
use crate::progress::Progress;
use crate::secret::Secret;
use std::sync::Arc;

impl Session {
    /// Every cluster of the configuration; none is asked before it is used.
    pub(super) fn clusters(&self) -> Clusters {
        let all = |restores: bool| {
            let made = self.config.clusters.iter();
            made.map(|(label, config)| (label.to_string(), self.make_cluster(label, config, restores))).collect()
        };
        Clusters { reading: all(false), restoring: all(true) }
    }

    /// The cluster of this label, as who restores reaches it, or as anybody else does.
    ///
    /// Errors: `Invalid`, with the nearest known name; `Denied` where its kubeconfig would run a program that
    /// a ceiling does not let run.
    pub fn cluster(&self, label: &str, restores: bool) -> Result<Arc<Cluster>> {
        let (label, config) = self.config.cluster(label)?;
        let cluster = self.make_cluster(label, config, restores);
        self.check_credentials(label, config, &cluster)?;
        Ok(cluster)
    }

    /// Whether a program of the kubeconfig may run for the server that the kubeconfig names: the
    /// configuration alone could not tell which one that is.
    fn check_credentials(&self, label: &Label, config: &ClusterConfig, cluster: &Cluster) -> Result<()> {
        let ceilings = self.config.ceilings.list();
        let Way::Kubeconfig { exec_credentials: true, .. } = config.way else { return Ok(()) };
        if ceilings.is_empty() {
            return Ok(());
        }
        let server = cluster.server()?;
        match ceilings.iter().find_map(|ceiling| ceiling.credentials_program(Some(&server)).err()) {
            None => Ok(()),
            Some(over) => Err(Error::denied(format!("cluster \"{label}\" is over the ceiling"))
                .fact("key", format!("cluster.{label}.exec_credentials"))
                .fact("server", server)
                .fact("ceiling", over.at())
                .fact("reason", over.reason)),
        }
    }

    fn make_cluster(&self, label: &Label, config: &ClusterConfig, restores: bool) -> Arc<Cluster> {
        let identity = config.identity_for(restores);
        let part = if restores && config.restore.is_some() { ".restore" } else { "" };
        Cluster::new(ClusterSpec {
            label: label.to_string(),
            way: config.way_for(restores),
            credentials: fetch(identity, format!("cluster.{label}{part}"), self.progress.clone()),
            impersonate: identity.impersonate.clone(),
            proxy: config.proxy.clone(),
            proxies: proxies(&environment::process),
            timeout: config.timeout,
            patience: config.patience,
            requests_per_second: config.requests_per_second,
            in_flight: config.in_flight,
        })
    }

    /// Whether every cluster that is granted has the address that the ceilings allow: of a kubeconfig
    /// the configuration alone could not tell.
    pub(super) fn check_clusters(&self, label: &Label, plugin: &PluginConfig) -> Result<()> {
        let ceilings = self.config.ceilings.list();
        if ceilings.is_empty() {
            return Ok(());
        }
        for (name, grants) in &plugin.grants.kube {
            for restores in [false, true] {
                let server = self.cluster(name, restores)?.server()?;
                let over = ceilings
                    .iter()
                    .find_map(|ceiling| grants.iter().find_map(|grant| ceiling.kube_grant(&server, grant).err()));
                if let Some(over) = over {
                    return Err(Error::denied(format!("a grant of plugin \"{label}\" is over the ceiling"))
                        .fact("grant", format!("plugin.{label}.grant.kube.{name}"))
                        .fact("server", server)
                        .fact("ceiling", over.at())
                        .fact("reason", over.reason));
                }
            }
        }
        Ok(())
    }
}

/// The proxies of the environment, under the names that everybody knows, in either case.
fn proxies(lookup: environment::Lookup<'_>) -> Proxies {
    let text = |names: [&str; 2]| names.into_iter().find_map(|name| lookup(name)?.into_string().ok());
    Proxies { https: text(["HTTPS_PROXY", "https_proxy"]), not_for: text(["NO_PROXY", "no_proxy"]).unwrap_or_default() }
}

fn fetch(identity: &Identity, path: String, progress: Arc<dyn Progress>) -> Option<FetchCredentials> {
    let credentials = identity.credentials.clone()?;
    let resolve = move |reference: &SecretRef, key: &str| -> Result<Secret> {
        let found = secret::resolve(reference, &format!("{path}.{key}"), &environment::process)?;
        if let Some(warning) = found.warning {
            progress.warn(&warning);
        }
        Ok(found.secret)
    };
    Some(Arc::new(move || {
        Ok(match &credentials {
            CredentialRefs::Token(token) => Credentials::Token(trimmed(&resolve(token, "token")?)),
            CredentialRefs::Certificate { certificate, key } => Credentials::Certificate {
                certificate: resolve(certificate, "client_certificate")?,
                key: resolve(key, "client_key")?,
            },
        })
    }))
}

/// A token is one word: white space around it is an editor's.
fn trimmed(token: &Secret) -> Secret {
    Secret::new(token.expose().trim().to_owned())
}
