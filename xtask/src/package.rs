//! Packages of the operating system, by name, through its own client.

use crate::cache;
use crate::command::{self, on_path};
use anyhow::{Context, Result, bail};

/// A package and how to see that it is there.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its name in Debian.
    pub name: &'static str,
    /// A program that it brings; a library has none.
    pub program: Option<&'static str>,
}

/// A package that brings the program of this name.
const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, program: Some(program) }
}

/// A package that brings a shared library or data.
const fn library(name: &'static str) -> Package {
    Package { name, program: None }
}

/// What the tests use of the operating system. PostgreSQL is not here: it is unpacked into the cache, so
/// that nothing is started or configured on the machine; the libraries that it loads are.
pub const PACKAGES: &[Package] = &[
    program("git", "git"),
    program("age", "age"),
    program("zstd", "zstd"),
    program("b3sum", "b3sum"),
    program("jq", "jq"),
    program("minisign", "minisign"),
    program("openssl", "openssl"),
    program("podman", "podman"),
    program("strace", "strace"),
    program("runc", "runc"),
    program("busybox-static", "busybox"),
    program("python3", "python3"),
    program("python3-pip", "pip"),
    library("libgssapi-krb5-2"),
    library("libicu72"),
    library("libldap-2.5-0"),
    library("libllvm14"),
    library("liblz4-1"),
    library("libpam0g"),
    library("libpq5"),
    library("libreadline8"),
    library("libuuid1"),
    library("libxml2"),
    library("libxslt1.1"),
    library("libzstd1"),
    library("tzdata"),
];

/// Installs what is missing of [`PACKAGES`], as root or through `sudo -n`. On a machine without
/// `apt-get` the programs must be there already; what is missing is then named.
pub fn ensure() -> Result<()> {
    let has_apt = on_path("apt-get").is_some();
    let mut missing = Vec::new();
    for package in PACKAGES {
        let there = match package.program {
            Some(program) => on_path(program).is_some(),
            None => !has_apt || is_installed(package.name)?,
        };
        if !there {
            missing.push(package.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !has_apt {
        bail!("the tests need what Debian packages as: {list}; install them and run this again");
    }
    eprintln!("  installing {list}");
    refresh()
        .and_then(|()| {
            let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
            args.extend(&missing);
            as_root(&args)
        })
        .with_context(|| format!("could not install packages; as root: apt-get update && apt-get install {list}"))
}

/// Gets the newest list of packages.
pub fn refresh() -> Result<()> {
    as_root(&["update", "-q"])
}

/// Runs `apt-get` as root. Its words go to standard error, so that the tests have the last ones on
/// standard output.
fn as_root(args: &[&str]) -> Result<()> {
    // Through `env`, since sudo hands no variable on. Another client of apt may be at work for a while.
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"];
    let start =
        if cache::is_root()? { command::run(apt[0]).args(&apt[1..]) } else { command::run("sudo").arg("-n").args(apt) };
    let output = start.args(args).capture()?;
    if output.code != Some(0) {
        eprint!("{}{}", output.stdout, output.stderr);
        bail!("apt-get {} failed with {}", args.join(" "), command::exit(output.code));
    }
    Ok(())
}

fn is_installed(package: &str) -> Result<bool> {
    let query = command::run("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).capture()?;
    Ok(query.stdout == "installed")
}
