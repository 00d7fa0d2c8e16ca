//! What a Kubernetes cluster for tests is made of: API server, controller manager, kubectl and etcd, built
//! from the module in `tests/kube` (its `go.sum` pins every byte), the node of that module, and kustomize.
//!
//! The first build takes ten minutes of two cores and 100 MB of downloads; with Go's own caches kept, a
//! new version of one program takes seconds.

use crate::prerequisite::{Piece, go};
use crate::workspace::Workspace;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The version of Kubernetes in `tests/kube/go.mod`.
const KUBERNETES: &str = "v1.36.3";

/// Every program, cheapest first. The times are CPU seconds on a machine of 2025.
pub(crate) const PIECES: &[Piece] = &[
    // 30 s
    Piece { name: "kube/etcd", version: "v3.6.8", build: etcd },
    // 90 s; of no use to anybody else, so its version is the digest of its sources
    Piece { name: "kube/podlet", version: "b94407a4bcf5", build: podlet },
    // 20 s
    Piece { name: "kube/kustomize", version: "v5.8.1", build: kustomize },
    // 900 s, most of it code that the next two use as well
    Piece { name: "kube/kube-apiserver", version: KUBERNETES, build: kube_apiserver },
    // 200 s
    Piece { name: "kube/kube-controller-manager", version: KUBERNETES, build: kube_controller_manager },
    // 100 s
    Piece { name: "kube/kubectl", version: KUBERNETES, build: kubectl },
];

fn etcd(dir: &Path, _version: &str) -> Result<PathBuf> {
    build(dir, "go.etcd.io/etcd/server/v3")
}

fn podlet(dir: &Path, _version: &str) -> Result<PathBuf> {
    build(dir, "./podlet")
}

fn kube_apiserver(dir: &Path, _version: &str) -> Result<PathBuf> {
    build(dir, "k8s.io/kubernetes/cmd/kube-apiserver")
}

fn kube_controller_manager(dir: &Path, _version: &str) -> Result<PathBuf> {
    build(dir, "k8s.io/kubernetes/cmd/kube-controller-manager")
}

fn kubectl(dir: &Path, _version: &str) -> Result<PathBuf> {
    build(dir, "k8s.io/kubernetes/cmd/kubectl")
}

fn kustomize(dir: &Path, version: &str) -> Result<PathBuf> {
    let package = format!("sigs.k8s.io/kustomize/kustomize/v5@{version}");
    go()?.dir(dir).args(["install", "-trimpath", "-ldflags", "-s -w", &package]).env("GOBIN", dir).read()?;
    Ok(dir.join("kustomize"))
}

/// Builds one package of the module in `tests/kube`.
fn build(dir: &Path, package: &str) -> Result<PathBuf> {
    let made = dir.join("program");
    go()?
        .dir(&module()?)
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags(), "-o"])
        .arg(&made)
        .arg(package)
        .read()?;
    Ok(made)
}

/// Built without its makefile, Kubernetes calls itself v0.0.0, which its own clients refuse.
fn flags() -> String {
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in
            [("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "clean")]
        {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

fn module() -> Result<PathBuf> {
    Ok(Workspace::find()?.root.join("tests/kube"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    /// The digest of what podlet is made of, short.
    fn digest_of_podlet() -> Result<String> {
        let module = module()?;
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(module.join("podlet"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.extend([module.join("go.mod"), module.join("go.sum")]);
        files.sort();
        let mut sums = command::run("sha256sum").dir(&module);
        for file in files {
            sums = sums.arg(file.strip_prefix(&module)?);
        }
        let path = std::env::temp_dir().join(format!("strongroom-podlet-{}", std::process::id()));
        std::fs::write(&path, sums.read()?)?;
        let sum = command::run("sha256sum").arg(&path).read();
        std::fs::remove_file(&path)?;
        Ok(sum?.chars().take(12).collect())
    }

    #[test]
    fn versions_are_those_of_the_module() {
        let text = std::fs::read_to_string(module().unwrap().join("go.mod")).unwrap();
        for (name, version) in [("k8s.io/kubernetes", KUBERNETES), ("go.etcd.io/etcd/server/v3", "v3.6.8")] {
            assert!(
                text.contains(&format!("\t{name} {version}")),
                "tests/kube/go.mod does not require {name} {version}"
            );
        }
    }

    #[test]
    fn podlet_s_version_is_the_digest_of_its_sources() {
        let digest = digest_of_podlet().unwrap();
        let piece = PIECES.iter().find(|piece| piece.name == "kube/podlet").unwrap();
        assert_eq!(
            piece.version, digest,
            "podlet has changed: write its digest into PIECES, so that it is built again"
        );
    }
}
