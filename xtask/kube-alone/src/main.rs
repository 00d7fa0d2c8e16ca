//! `kube-alone COMMAND`: a bare client of a cluster, which does nothing but ask and write, and the cluster that the
//! rows `kube` of the benchmark are about. It is what no client of that API server can be much faster than.
//!
//! - `cluster`: starts one and says as JSON how to reach it; it ends when standard input does;
//! - `fill KUBECONFIG OBJECTS`: namespaces, a definition, and so many objects;
//! - `list KUBECONFIG`: all of them in pages, unread; prints how many there are;
//! - `apply KUBECONFIG FIRST OBJECTS VARIANT`: server-side apply, 16 in flight;
//! - `try KUBECONFIG FIRST OBJECTS VARIANT`: the same as a dry run;
//! - `clear KUBECONFIG FIRST OBJECTS`: deletes them;
//! - `write FILE FIRST OBJECTS VARIANT`: the same objects as a file for kubectl.

#![allow(clippy::print_stdout, reason = "a number or a line of JSON is its only result")]

mod client;
mod object;

use anyhow::{Context, Result, bail};
use client::Client;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use strongroom_tests::cached;
use strongroom_tests::kube::Cluster;

/// What the API server does unless told otherwise; the kit turns it off for tests of lists that expire.
const AS_SHIPPED: &str = "--feature-gates=ListFromCacheSnapshot=true";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cluster"] => return cluster(),
        ["write", file, first, objects, variant] => {
            let list = object::list(range(first, objects)?, variant.parse()?);
            return std::fs::write(file, list).with_context(|| format!("could not write {file}"));
        }
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let count = runtime.block_on(async {
        match words.as_slice() {
            ["fill", kubeconfig, objects] => {
                let client = Client::new(Path::new(kubeconfig)).await?;
                let objects = objects.parse()?;
                client.prepare(objects).await?;
                client.apply(0..objects, 0, false).await
            }
            ["list", kubeconfig] => Client::new(Path::new(kubeconfig)).await?.list().await,
            [how @ ("apply" | "try"), kubeconfig, first, objects, variant] => {
                let client = Client::new(Path::new(kubeconfig)).await?;
                client.apply(range(first, objects)?, variant.parse()?, *how == "try").await
            }
            ["clear", kubeconfig, first, objects] => {
                Client::new(Path::new(kubeconfig)).await?.clear(range(first, objects)?).await
            }
            _ => bail!("not a command of kube-alone: {}", words.join(" ")),
        }
    })?;
    println!("{count}");
    Ok(())
}

fn range(first: &str, objects: &str) -> Result<std::ops::Range<u64>> {
    let first: u64 = first.parse()?;
    Ok(first..first + objects.parse::<u64>()?)
}

/// A cluster with its controllers and a pod in which commands can be run, until standard input ends.
fn cluster() -> Result<()> {
    let cluster = Cluster::start_with(&[AS_SHIPPED], &[])?;
    let namespace = cluster.namespace("exec")?;
    let spec = json!({"containers": [{"name": "main", "image": "tool:1"}]});
    cluster.pod(&namespace, "worker", &json!({"app": "worker"}), &spec)?;
    let said = json!({
        "kubeconfig": cluster.admin_kubeconfig(),
        "kubectl": cached("kube/kubectl")?,
        "namespace": namespace,
    });
    println!("{said}");
    std::io::stdout().flush()?;
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}
