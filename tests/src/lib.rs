//! The test kit: the real binary in a sandbox of its own, and real servers on this machine.
//!
//! Hermetic: a sandbox has its own home, state and cache folders and an environment made from nothing;
//! servers listen on loopback only. Nothing passes by skipping: what a test needs and does not find is a
//! failure that names the command that gets it (`cargo xtask test`). Processes are ended by their id,
//! and only those that the kit started.

pub mod behind;
pub mod bomb;
pub mod canary;
pub mod container;
pub mod dice;
pub mod documented;
pub mod documents;
pub mod durable;
pub mod echo;
pub mod estate;
pub mod fixture;
pub mod hostile;
pub mod kube;
pub mod meter;
pub mod object_lock;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod relay;
pub mod rogue;
pub mod s3;
pub mod sandbox;
pub mod snapshot;
pub mod terminal;
pub mod tool;
pub mod tree;
pub mod wait;
pub mod warm;
pub mod wire;

#[doc(hidden)]
pub use insta;
pub use sandbox::{Output, Running, Sandbox, TIMEOUT};
pub use wait::{free_port, wait_until};

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Compiles the plugin that the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The root of this checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_path_buf()
}

/// Something in the cache of built servers, such as `bin/minio` or `postgres-18`; the error names the
/// command that gets it.
pub fn cached(name: &str) -> Result<PathBuf> {
    xtask::cache::Cache::locate()?.path(name)
}

/// The environment of a program in Go that runs for a moment. `kubectl version` took 36 ms of processor time with it
/// and 65 without (2026-11-22): its end frees what it would collect, and a second thread is not worth starting. The
/// limit is for one that holds more than any does here.
pub const BRIEF_GO: [(&str, &str); 3] = [("GOGC", "off"), ("GOMAXPROCS", "1"), ("GOMEMLIMIT", "256MiB")];

/// That of a server in Go: it collects once its heap has grown to five times what it holds, instead of two, or to
/// 512 MiB, whatever the machine has. None here needs half of that.
pub const SERVING_GO: [(&str, &str); 2] = [("GOGC", "400"), ("GOMEMLIMIT", "512MiB")];

/// A program of this machine by its name; the error names the command that gets it.
pub fn program(name: &str) -> Result<PathBuf> {
    xtask::command::on_path(name)
        .with_context(|| format!("the program \"{name}\" is not on PATH: run `cargo xtask test prerequisites`"))
}

/// The host binary under test: `$STRONGROOM_BIN` (which `cargo xtask test` sets), else the one in the
/// build folder, which must be newer than every source of the host.
pub fn host_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STRONGROOM_BIN") {
        return Ok(path.into());
    }
    let path = xtask::workspace::Workspace::find()?.host();
    let how = "build it with `cargo build --workspace --bin strongroom`";
    let Ok(built) = path.metadata().and_then(|metadata| metadata.modified()) else {
        bail!("there is no host binary at {}: {how}", path.display());
    };
    if let Some((source, _)) = newest(&root().join("host"))?.filter(|(_, changed)| *changed > built) {
        bail!("{} is older than {}: {how}", path.display(), source.display());
    }
    Ok(path)
}

/// A built plugin, such as `bucket` or `guests/exec`: `$STRONGROOM_PLUGINS` (which `cargo xtask test`
/// sets), else `target/plugins`.
pub fn plugin(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("STRONGROOM_PLUGINS") {
        Some(folder) => folder.into(),
        None => xtask::workspace::Workspace::find()?.plugins(),
    };
    let path = folder.join(format!("{name}.wasm"));
    if !path.is_file() {
        bail!("there is no plugin at {}: build all of them with `cargo xtask test plugins`", path.display());
    }
    Ok(path)
}

/// Every file under `dir`, sorted, without build folders.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() && entry.file_name() != "target" => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn newest(dir: &Path) -> Result<Option<(PathBuf, SystemTime)>> {
    let mut newest: Option<(PathBuf, SystemTime)> = None;
    for path in files(dir)? {
        let changed = path.metadata()?.modified()?;
        if path.extension().is_some_and(|extension| extension == "rs")
            && newest.as_ref().is_none_or(|(_, latest)| changed > *latest)
        {
            newest = Some((path, changed));
        }
    }
    Ok(newest)
}
