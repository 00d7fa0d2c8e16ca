//! Real Kubernetes clusters: API server with RBAC, etcd, controllers, and a node that executes.
//!
//! A cluster takes about 4 s and 475 MB, so the tests of one suite share theirs ([`Cluster::shared`]) and
//! have a namespace each ([`Cluster::namespace`]). Its node is `tests/kube/podlet`: containers are processes
//! of this machine. Everything lies in a scratch directory and goes with it, also when the test panics or
//! is killed: see [`keeper`].
//!
//! The audit log of the API server holds every request for exec with its arguments, and nothing else.

pub mod forward;
pub mod front;
pub mod hook;
pub mod keeper;
mod many;
mod pki;
pub mod rig;
pub mod user;

use crate::{BRIEF_GO, SERVING_GO, cached, free_port, wait_until};
use anyhow::{Context, Result, bail};
use keeper::Keeper;
pub use keeper::{Paused, Server};
use pki::Pki;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
pub use user::User;

/// The name of the node.
pub const NODE: &str = "local";

/// A cluster is up after 4 s on an idle machine; tests share theirs with builds.
const START_WAIT: Duration = Duration::from_secs(120);

/// A running cluster; stopped, and its directory removed, when this is dropped or the process ends.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    port: u16,
    etcd: u16,
    pki: Pki,
    admin: User,
    keeper: Keeper,
    counter: AtomicU64,
}

impl Cluster {
    /// Starts a cluster with a node; returns when the node is ready and pods can be created in `default`.
    pub fn start() -> Result<Self> {
        Self::start_with(&[], &SERVING_GO)
    }

    /// The same with more arguments for the API server, such as `--max-requests-inflight=2`, and with this environment
    /// for the servers instead of one that saves processor time.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let mut last = None;
        // Somebody else may take a free port first.
        for _ in 0..3 {
            match Self::start_once(arguments, environment) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// The cluster of this name that the tests of this process share: started by who asks first, stopped
    /// when the process ends. Panics when it cannot be started.
    pub fn shared(name: &'static str) -> &'static Self {
        static ALL: Mutex<BTreeMap<&'static str, &'static OnceLock<Cluster>>> = Mutex::new(BTreeMap::new());
        // Not held while one starts: others may start meanwhile.
        let place = *ALL.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(|| {
            let place: &'static OnceLock<Cluster> = Box::leak(Box::default());
            place
        });
        place.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("the cluster \"{name}\": {error:#}")))
    }

    fn start_once(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let (keeper, dir) = Keeper::start(environment)?;
        let (port, etcd) = (free_port()?, free_port()?);
        let pki = Pki::make(&dir.join("pki"))?;
        let admin = pki.user("admin", &["system:masters"])?;
        let mut cluster = Self { dir, port, etcd, pki, admin, keeper, counter: AtomicU64::new(0) };
        cluster.start_servers(arguments).map_err(|error| {
            let logs = Server::ALL.map(|server| cluster.keeper.end_of_log(server));
            error.context(logs.concat())
        })?;
        Ok(cluster)
    }

    fn start_servers(&mut self, arguments: &[&str]) -> Result<()> {
        self.write_kubeconfig(&self.admin_kubeconfig(), &self.admin, self.port)?;
        let controllers = self.pki.user("system:kube-controller-manager", &["system:masters"])?;
        let controllers = self.kubeconfig(&controllers)?;
        let (etcd, api) = (self.etcd_command()?, self.api_server_command(arguments)?);
        self.keeper.spawn(Server::Etcd, etcd)?;
        self.keeper.spawn(Server::ApiServer, api)?;
        wait_until("the API server's port", START_WAIT, || match self.keeper.check_alive() {
            Ok(()) => Ok(TcpStream::connect(("127.0.0.1", self.port)).ok().map(|_| Ok(()))),
            dead => Ok(Some(dead)),
        })??;
        self.until("the API server", &["get", "--raw", "/readyz"], |said| said == "ok")?;
        // Not earlier: the controller manager gives up after 10 s without an API server.
        let (manager, node) = (self.controller_manager_command(&controllers)?, self.podlet_command()?);
        self.keeper.spawn(Server::ControllerManager, manager)?;
        self.keeper.spawn(Server::Podlet, node)?;
        self.wait_for_service_account("default")?;
        let is_ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.until("the node", &["get", "node", NODE, "-o", is_ready], |said| said == "True")
    }

    /// Asks kubectl until it answers as `is_ready` wants.
    fn until(&mut self, what: &str, args: &[&str], is_ready: impl Fn(&str) -> bool) -> Result<()> {
        wait_until(what, START_WAIT, || match self.keeper.check_alive() {
            Ok(()) => Ok(is_ready(self.kubectl(args)?.trim()).then_some(Ok(()))),
            dead => Ok(Some(dead)),
        })?
    }

    fn etcd_command(&self) -> Result<Command> {
        let mut command = Command::new(cached("kube/etcd")?);
        let url = format!("http://127.0.0.1:{}", self.etcd);
        // There is no peer, so nobody ever connects to this.
        let peer = "http://127.0.0.1:0";
        command
            .arg(format!("--data-dir={}", self.dir.join("etcd").display()))
            .args(["--name=only", "--unsafe-no-fsync", "--log-level=warn"])
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=only={peer}"));
        Ok(command)
    }

    fn api_server_command(&self, arguments: &[&str]) -> Result<Command> {
        // The arguments of a command in a pod are in the request's address; nothing else is asked of this log.
        let exec = json!({"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods/exec"]}]});
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [exec, {"level": "None"}]});
        let policy_file = self.dir.join("audit-policy.json");
        std::fs::write(&policy_file, policy.to_string())?;
        let mut command = Command::new(cached("kube/kube-apiserver")?);
        let mut option = |name: &str, value: &dyn AsRef<OsStr>| {
            let mut text = std::ffi::OsString::from(format!("--{name}="));
            text.push(value);
            command.arg(text);
        };
        option("etcd-servers", &format!("http://127.0.0.1:{}", self.etcd));
        option("bind-address", &"127.0.0.1");
        option("advertise-address", &"127.0.0.1");
        option("endpoint-reconciler-type", &"none");
        option("secure-port", &self.port.to_string());
        option("cert-dir", &self.dir);
        option("tls-cert-file", &self.pki.certificate("api-server"));
        option("tls-private-key-file", &self.pki.key("api-server"));
        option("client-ca-file", &self.pki.ca());
        option("authorization-mode", &"RBAC");
        option("service-account-issuer", &self.url());
        option("service-account-key-file", &self.pki.certificate("service-account"));
        option("service-account-signing-key-file", &self.pki.key("service-account"));
        option("service-cluster-ip-range", &"10.96.0.0/16");
        option("allow-privileged", &"true");
        option("profiling", &"false");
        option("kubelet-certificate-authority", &self.pki.ca());
        option("kubelet-client-certificate", &self.pki.certificate("api-server-client"));
        option("kubelet-client-key", &self.pki.key("api-server-client"));
        option("kubelet-preferred-address-types", &"InternalIP");
        // Else it answers lists that go on from copies of its own, minutes after etcd has forgotten them.
        option("feature-gates", &"ListFromCacheSnapshot=false");
        option("audit-policy-file", &policy_file);
        option("audit-log-path", &self.audit_log_file());
        command.args(arguments);
        Ok(command)
    }

    fn controller_manager_command(&self, kubeconfig: &Path) -> Result<Command> {
        let mut command = Command::new(cached("kube/kube-controller-manager")?);
        for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{name}={}", kubeconfig.display()));
        }
        command
            .arg(format!("--service-account-private-key-file={}", self.pki.key("service-account").display()))
            .arg(format!("--root-ca-file={}", self.pki.ca().display()))
            .args(["--use-service-account-credentials=false", "--leader-elect=false", "--profiling=false"])
            .args(["--bind-address=127.0.0.1", "--secure-port=0"])
            // Its own limit of 20 requests a second is for clusters that somebody else uses too.
            .args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
        Ok(command)
    }

    fn podlet_command(&self) -> Result<Command> {
        let mut command = Command::new(cached("kube/podlet")?);
        command
            .arg(format!("--kubeconfig={}", self.admin_kubeconfig().display()))
            .arg(format!("--node={NODE}"))
            .arg(format!("--cert={}", self.pki.certificate("podlet").display()))
            .arg(format!("--key={}", self.pki.key("podlet").display()))
            .arg(format!("--client-ca={}", self.pki.ca().display()))
            .arg(format!("--root={}", self.pods_dir().display()));
        Ok(command)
    }

    /// Where its API server is.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The same under a name that resolves nowhere: only a proxy leads to it.
    pub fn url_behind_proxy(&self) -> String {
        format!("https://{}:{}", pki::BEHIND_PROXY, self.port)
    }

    /// The API server's port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the CA that signed the API server's certificate, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.ca()
    }

    /// The cluster's scratch directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where containers run: `NAMESPACE/POD/CONTAINER` beneath this.
    pub fn pods_dir(&self) -> PathBuf {
        self.dir.join("pods")
    }

    /// A kubeconfig, and the context `admin` in it, of somebody who may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Somebody who may do everything, with a client certificate.
    pub fn admin(&self) -> &User {
        &self.admin
    }

    /// One JSON line for each stage of each request for exec so far, with its address and arguments.
    pub fn audit_log(&self) -> Result<String> {
        std::fs::read_to_string(self.audit_log_file()).context("could not read the API server's audit log")
    }

    fn audit_log_file(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// What a server wrote.
    pub fn log(&self, server: Server) -> String {
        self.keeper.log(server)
    }

    /// Makes a server stand still (SIGSTOP) until the guard is dropped: it accepts connections and never
    /// answers. Only for a cluster that is not shared.
    pub fn pause(&self, server: Server) -> Result<Paused<'_>> {
        self.keeper.pause(server)
    }

    /// Creates a namespace of a new name that begins with `prefix`; pods can be created in it.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{}", self.number());
        self.kubectl(["create", "namespace", &name])?;
        self.wait_for_service_account(&name)?;
        Ok(name)
    }

    /// Creating a pod fails until the controllers have made its namespace's `default`.
    fn wait_for_service_account(&self, namespace: &str) -> Result<()> {
        wait_until("a default service account", START_WAIT, || {
            self.kubectl(["get", "serviceaccount", "default", "--namespace", namespace]).map(Some)
        })?;
        Ok(())
    }

    /// A number that this cluster has not given out.
    fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs kubectl as the administrator and returns what it prints; the error has what it complained about.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.kubectl_with(&self.admin_kubeconfig(), args, b"")
    }

    /// The same as another user.
    pub fn kubectl_as<S: AsRef<OsStr>>(&self, user: &User, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.kubectl_with(&self.kubeconfig(user)?, args, b"")
    }

    /// kubectl with a kubeconfig, not started yet.
    pub fn kubectl_command(&self, kubeconfig: &Path) -> Result<Command> {
        let mut command = Command::new(cached("kube/kubectl")?);
        command.env_clear().env("HOME", self.dir.join("home")).env("KUBECONFIG", kubeconfig);
        Ok(command)
    }

    fn kubectl_with<S: AsRef<OsStr>>(
        &self,
        kubeconfig: &Path,
        args: impl IntoIterator<Item = S>,
        stdin: &[u8],
    ) -> Result<String> {
        let mut command = self.kubectl_command(kubeconfig)?;
        command.args(args).envs(BRIEF_GO).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("could not start kubectl")?;
        let mut pipe = child.stdin.take().context("the child has no standard input")?;
        let given = stdin.to_vec();
        // Who does not read its input to the end closes the pipe: not this side's failure.
        let feed = std::thread::spawn(move || drop(pipe.write_all(&given)));
        let output = child.wait_with_output()?;
        drop(feed.join());
        if !output.status.success() {
            bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Creates or changes one object, or those of a `List`, as the administrator (server-side apply).
    pub fn apply(&self, object: &Value) -> Result<()> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_with(&self.admin_kubeconfig(), args, object.to_string().as_bytes()).map(drop)
    }

    /// Registers the API `v1.down.example.org`, behind which there is no server.
    pub fn register_api_without_server(&self) -> Result<()> {
        let spec = json!({"group": "down.example.org", "version": "v1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"name": "nobody", "namespace": "default"}});
        self.apply(&json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.down.example.org"}, "spec": spec}))
    }

    /// Whether the server would take an object: the error says why not, in its own words.
    pub fn would_take(&self, object: &Value) -> Result<()> {
        let args = ["create", "--dry-run=server", "--validate=false", "-f", "-"];
        self.kubectl_with(&self.admin_kubeconfig(), args, object.to_string().as_bytes()).map(drop)
    }

    /// Creates one object, or those of a `List`, however long they are: nothing is noted of it in them.
    pub fn create(&self, object: &Value) -> Result<()> {
        let args = ["create", "--validate=false", "-f", "-"];
        self.kubectl_with(&self.admin_kubeconfig(), args, object.to_string().as_bytes()).map(drop)
    }

    /// What `kubectl get ARGS -o json` prints: an object or a list.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(["get", "-o", "json"].iter().chain(args))?)?)
    }

    /// Creates a pod and waits until it is ready. `spec` is its specification; images are only names.
    pub fn pod(&self, namespace: &str, name: &str, labels: &Value, spec: &Value) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": spec,
        }))?;
        let timeout = format!("--timeout={}s", START_WAIT.as_secs());
        self.kubectl(["wait", "--for=condition=Ready", "pod", name, "--namespace", namespace, &timeout]).map(drop)
    }

    /// Makes etcd forget all but the present state: lists that began before, and go on with their
    /// continue tokens, are answered with 410.
    pub fn forget_history(&self) -> Result<()> {
        let now = self.etcd_call("range", &json!({"key": "AA=="}))?;
        let revision = now["header"]["revision"].as_str().context("etcd did not say its revision")?;
        self.etcd_call("compaction", &json!({"revision": revision, "physical": true})).map(drop)
    }

    /// A call of etcd's JSON gateway.
    fn etcd_call(&self, method: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let mut connection = TcpStream::connect(("127.0.0.1", self.etcd))?;
        connection.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(
            connection,
            "POST /v3/kv/{method} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("etcd's answer has no body")?;
        if !head.contains(" 200 ") {
            bail!("etcd answered {answer}");
        }
        Ok(serde_json::from_str(body)?)
    }
}
