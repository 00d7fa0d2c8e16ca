//! A real cluster on the cores that are measured: API server, etcd, controllers and a node, as in the tests. It is
//! started by `kube-alone`, which also is the bare client, so that nothing of it has to be built for anything else.

use super::measure::Process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running cluster; it ends when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct Cluster {
    child: Child,
    program: PathBuf,
    said: Value,
    home: PathBuf,
}

impl Cluster {
    /// Starts one. `home` is an empty folder for kubectl.
    pub fn start(program: &Path, home: PathBuf) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("cluster")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the child has a standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let cluster =
            Self { child, program: program.to_owned(), said: serde_json::from_str(&line).unwrap_or_default(), home };
        cluster.say("kubeconfig").context("the cluster did not start: what is above says why")?;
        Ok(cluster)
    }

    fn say(&self, key: &str) -> Result<&str> {
        self.said[key].as_str().with_context(|| format!("the cluster says no {key}"))
    }

    /// The kubeconfig of somebody who may do everything, in the context `admin`.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(self.say("kubeconfig")?.into())
    }

    /// The namespace of the pod `worker`.
    pub fn namespace(&self) -> Result<&str> {
        self.say("namespace")
    }

    /// The bare client doing this with the cluster.
    pub fn bare(&self, command: &str, numbers: &[u64]) -> Result<Process> {
        let numbers = numbers.iter().map(u64::to_string);
        Ok(Process::new(&self.program).args([command]).args([self.kubeconfig()?]).args(numbers))
    }

    /// kubectl with these arguments.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Process> {
        let process = Process::new(self.say("kubectl")?).args(arguments);
        Ok(process.env("KUBECONFIG", self.say("kubeconfig")?).env("HOME", &self.home))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its standard input ends with this, and then it does.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
