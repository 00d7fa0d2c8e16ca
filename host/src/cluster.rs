//! Clusters: the way to a Kubernetes API server, and what is asked of it.
//!
//! A cluster is known by the operator's label. Nothing is sent before the first question. This module
//! never decides what a plugin may ask (that is the policy's), and shows no credential to anybody.
//! Trying again happens in `request`, and nowhere else.

mod access;
mod ahead;
mod blot;
mod certificate;
mod connect;
mod context;
mod credential;
mod discovery;
mod failure;
mod list;
mod logs;
mod object;
mod owner;
mod path;
mod probe;
mod proxy;
mod request;
mod seen;
mod split;
mod wait;
mod write;

pub use access::Question;
pub use ahead::Ahead;
pub use blot::{Marks, PURPOSE_MARKS, Values};
pub use discovery::{Discovery, Kind};
pub use list::{Admit, Listed, Listing, Page, Scope, Selection, Shown};
pub use object::{Labels, MAX_OBJECT_BYTES, Moved, Object, is_secret, labels_in};
pub use probe::{Health, ProbeStep, StepOutcome};
pub use proxy::Proxies;
pub use seen::{Before, Seen};
pub use write::{Change, MayTouch, WriteMode, WriteOptions, Written};

use crate::error::{Error, Result};
use crate::secret::{Redactor, Secret};
use connect::Connection;
use discovery::Known;
use request::{Pace, Standing};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// `timeout` unless set: how long a server may say nothing. The server's own limit for most requests
/// is 60 s as well. <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/>
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// `patience` unless set: the restart of an API server, or the election of another etcd.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `in_flight` unless set: requests to one cluster at once. The server gives some hundred at once to
/// all of its clients, and 16 are as fast as more.
pub const IN_FLIGHT: usize = 16;

/// Where a cluster is and who we are there: plain data, of the configuration.
#[derive(Clone)]
pub struct ClusterSpec {
    /// The operator's label.
    pub label: String,
    /// Where its server is.
    pub way: Way,
    /// Who we are, instead of what the kubeconfig or the pod says.
    pub credentials: Option<FetchCredentials>,
    /// The user to act as (`as`), which the cluster must allow.
    pub impersonate: Option<String>,
    /// URL of a proxy, instead of the one that the kubeconfig or the environment names.
    pub proxy: Option<String>,
    /// What the environment says about proxies; not for the cluster that this process runs in.
    pub proxies: Proxies,
    /// How long the server may say nothing; see [`TIMEOUT`].
    pub timeout: Duration,
    /// How long one request is tried again to a server that has answered before; see [`PATIENCE`]. Once that
    /// was in vain, the next ones are given up after few attempts, until it answers again.
    pub patience: Duration,
    /// Requests in a second at most; no limit of our own unless set.
    pub requests_per_second: Option<u32>,
    /// Requests at once; see [`IN_FLIGHT`].
    pub in_flight: usize,
}

/// Fetches credentials where the configuration says; called again when the server refuses the old ones.
pub type FetchCredentials = Arc<dyn Fn() -> Result<Credentials> + Send + Sync>;

/// Who we are to a server.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A bearer token.
    Token(Secret),
    /// A client certificate and its key, both PEM.
    Certificate {
        /// The certificate, with those that it was signed by.
        certificate: Secret,
        /// Its key.
        key: Secret,
    },
}

/// Where the server of a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A context of a kubeconfig.
    Kubeconfig {
        /// The file; what `KUBECONFIG` names, or `~/.kube/config`, unless set.
        path: Option<PathBuf>,
        /// The context.
        context: String,
        /// Whether the programs may run that the kubeconfig names to get credentials.
        exec_credentials: bool,
    },
    /// An address.
    Address {
        /// `https://…`
        server: String,
        /// File of the certificates that its certificate is signed by; the machine's unless set.
        ca: Option<PathBuf>,
    },
    /// The cluster that this process runs in, with the pod's service account.
    InCluster,
}

/// The clusters of a configuration, by label: as everybody reaches them, and as who restores does.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    /// For backups and diagnoses.
    pub reading: BTreeMap<String, Arc<Cluster>>,
    /// For restores, and for verifications, which may try one.
    pub restoring: BTreeMap<String, Arc<Cluster>>,
}

impl Clusters {
    /// Those of who restores, or of anybody else.
    pub fn of(&self, restores: bool) -> BTreeMap<String, Arc<Cluster>> {
        if restores { self.restoring.clone() } else { self.reading.clone() }
    }
}

/// One cluster, shared by all who ask it.
pub struct Cluster {
    spec: ClusterSpec,
    /// Knows our credentials from when they are fetched.
    redactor: Redactor,
    connection: tokio::sync::Mutex<Option<Connection>>,
    known: tokio::sync::Mutex<Option<Arc<Known>>>,
    places: Arc<tokio::sync::Semaphore>,
    pace: Pace,
    /// Whether it is worth waiting for.
    standing: Mutex<Standing>,
}

impl Cluster {
    /// A cluster; nothing is asked of it yet.
    pub fn new(spec: ClusterSpec) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(tokio::sync::Semaphore::new(spec.in_flight.max(1))),
            pace: Pace::new(spec.requests_per_second),
            connection: tokio::sync::Mutex::default(),
            known: tokio::sync::Mutex::default(),
            standing: Mutex::default(),
            redactor: Redactor::default(),
            spec,
        })
    }

    /// The operator's label.
    pub fn label(&self) -> &str {
        &self.spec.label
    }

    /// Requests that are worth having under way at once.
    pub fn in_flight(&self) -> usize {
        self.spec.in_flight.max(1)
    }

    /// Address of the server, as ceilings compare it. Reads the kubeconfig, asks no server and runs no
    /// program.
    ///
    /// Errors: `Invalid` for a kubeconfig that does not say it.
    pub fn server(&self) -> Result<String> {
        let config = connect::config(&self.spec, None)?;
        Ok(config.cluster_url.to_string().trim_end_matches('/').to_owned())
    }

    /// A client of it, for protocols that are not spoken here, such as commands in pods. It tries
    /// nothing again.
    ///
    /// Errors: `Invalid` for a configuration that leads nowhere, `Denied` for a program of the
    /// kubeconfig that may not run, `Failed` for one that did not give credentials.
    pub async fn client(&self) -> Result<kube::Client> {
        Ok(self.connected().await?.0)
    }

    /// Finds the credentials that this cluster was or will be sent, for text that it wrote.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The version of the server, such as `v1.36.3`.
    pub async fn version(&self) -> Result<String> {
        let answer = self.get_json("/version", "ask for its version").await?;
        let version = answer["gitVersion"].as_str().map(str::to_owned);
        version.ok_or_else(|| Error::failed(format!("{self} did not say which version it has")))
    }
}

impl std::fmt::Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cluster \"{}\"", self.spec.label)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClusterSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterSpec").field("label", &self.label).field("way", &self.way).finish_non_exhaustive()
    }
}
