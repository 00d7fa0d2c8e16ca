//! The programs that Strongroom is compared with, in fixed versions, and what each of them says its version is.

use crate::cache::Cache;
use crate::command;
use crate::prerequisite::{Piece, get, go_build};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// All of them, built from the Go module proxy. The times are CPU seconds on a machine of 2025.
const PEERS: &[Piece] = &[
    // 18 s
    Piece { name: "bin/s5cmd", version: "v2.3.0", build: s5cmd },
    // 253 s
    Piece { name: "bin/rclone", version: "v1.75.1", build: rclone },
    // 152 s
    Piece { name: "bin/restic", version: "v0.19.1", build: restic },
    // 124 s
    Piece { name: "bin/kopia", version: "v0.22.3", build: kopia },
    // 5 s
    Piece { name: "bin/age", version: "v1.3.2", build: age },
];

fn s5cmd(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/peak/s5cmd/v2", version, "github.com/peak/s5cmd/v2")
}

fn rclone(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/rclone/rclone", version, "github.com/rclone/rclone")
}

fn restic(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/restic/restic", version, "github.com/restic/restic/cmd/restic")
}

fn kopia(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/kopia/kopia", version, "github.com/kopia/kopia")
}

fn age(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "filippo.io/age", version, "filippo.io/age/cmd/age")
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Peers {
    cache: Cache,
    zstd: PathBuf,
    keygen: PathBuf,
}

impl Peers {
    /// Gets what is missing and says where everything is.
    pub fn ensure() -> Result<Self> {
        get(PEERS)?;
        Self::locate()
    }

    /// Where everything is that was got before.
    pub fn locate() -> Result<Self> {
        let on_path = |name: &str| {
            command::on_path(name)
                .with_context(|| format!("there is no \"{name}\" on PATH: run `cargo xtask test prerequisites`"))
        };
        Ok(Self { cache: Cache::locate()?, zstd: on_path("zstd")?, keygen: on_path("age-keygen")? })
    }

    /// One of those that were built, or a server of the tests.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        self.cache.path(&format!("bin/{name}"))
    }

    /// The machine's own `zstd`.
    pub fn zstd(&self) -> &Path {
        &self.zstd
    }

    /// The machine's own `age-keygen`.
    pub fn keygen(&self) -> &Path {
        &self.keygen
    }

    /// Name and version of each, as the programs themselves say it; those that do not know it, as it was got.
    pub fn versions(&self) -> Result<Vec<(String, String)>> {
        let mut versions = vec![("zstd".to_owned(), version(&command::run(&self.zstd).arg("--version").read()?))];
        for (name, argument) in
            [("restic", "version"), ("kopia", "--version"), ("rclone", "version"), ("s5cmd", "version")]
        {
            let said = command::run(self.path(name)?).arg(argument).env("RCLONE_CONFIG", "/notfound").read()?;
            versions.push((name.to_owned(), version(&said)));
        }
        for (name, said) in &mut versions {
            // Go programs built outside their release process may not know their version.
            let got = PEERS.iter().find(|peer| peer.name == format!("bin/{name}")).map(|peer| peer.version);
            if let Some(got) = got.filter(|got| !said.contains(got.trim_start_matches('v'))) {
                *said = format!("{} (as it was got; it says \"{said}\")", got.trim_start_matches('v'));
            }
        }
        for name in ["age", "versitygw", "minio"] {
            let got =
                std::fs::read_to_string(self.cache.root().join(format!("bin/{name}.version"))).unwrap_or_default();
            versions.push((name.to_owned(), got.trim().trim_start_matches('v').to_owned()));
        }
        Ok(versions)
    }
}

/// The first word that has a digit and a dot in it, without what surrounds it.
fn version(said: &str) -> String {
    let is_version = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = said.split_whitespace().find(is_version).unwrap_or(said);
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).trim_start_matches('v').chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, expected) in [
            ("*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***", "1.5.4"),
            ("restic 0.19.1 compiled with go1.26.8 on linux/amd64", "0.19.1"),
            ("rclone v1.75.1\n- os/version: debian 12.9", "1.75.1"),
            ("v2.3.0-0000000", "2.3.0-0000000"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(version(said), expected);
        }
    }
}
