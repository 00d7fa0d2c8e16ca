//! `cargo xtask test`: every check and every test, in an order that fails early and compiles once.
//!
//! Every stage builds with `--workspace`. Selecting one crate would give cargo another set of features for
//! the libraries that build scripts and macros use, and the host's dependencies would be compiled twice.

use crate::advisory;
use crate::cache::{self, Cache};
use crate::command::{self, Run};
use crate::foreign;
use crate::prerequisite;
use crate::program::{self, Program, Runner};
use crate::quickstart;
use crate::summary::Summary;
use crate::workspace::{Workspace, folders};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// A part of `cargo xtask test`.
struct Stage {
    name: &'static str,
    /// What it shows.
    what: &'static str,
    run: fn(&Workspace) -> Result<()>,
}

/// Every stage before the tests themselves, in order: what is cheap and fails often comes first.
const STAGES: &[Stage] = &[
    Stage { name: "format", what: "the code is formatted", run: format },
    Stage { name: "prerequisites", what: "packages, servers and tools are there", run: prerequisites },
    Stage { name: "deny", what: "licences, bans, sources and advisories of every dependency", run: deny },
    Stage { name: "clippy", what: "no warning in any target", run: clippy },
    Stage { name: "doc", what: "documentation without warnings", run: doc },
    Stage { name: "host", what: "the host binary", run: host },
    Stage { name: "plugins", what: "plugins and guest programs as components", run: plugins },
    Stage { name: "quickstart", what: "the first thing that a newcomer runs", run: quickstart::check },
];

/// Names of the stages, in order, the tests last.
pub fn names() -> Vec<&'static str> {
    STAGES.iter().map(|stage| stage.name).chain(["tests"]).collect()
}

/// Runs everything, or the stages and tests that are named. Returns whether all of it succeeded; the
/// last line on standard output is the sum of the test runner's results where tests ran.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    let (stages, filters): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|name| names().contains(&name.as_str()));
    let everything = arguments.is_empty();
    let with_tests = everything || !filters.is_empty() || stages.iter().any(|name| *name == "tests");
    for stage in STAGES {
        let named = stages.iter().any(|name| *name == stage.name);
        // Tests drive the built host and its plugins, so naming a test brings these along.
        let needed = with_tests && matches!(stage.name, "host" | "plugins");
        if everything || named || needed {
            timed(stage.name, stage.what, || (stage.run)(workspace))?;
        }
    }
    if !with_tests {
        return Ok(true);
    }
    let (succeeded, summary) = timed("tests", "every test", || tests(workspace, &filters))?;
    if !filters.is_empty() && summary == Summary::default() {
        bail!("no stage and no test has a name like {filters:?}; stages: {}", names().join(", "));
    }
    for name in &summary.failures {
        println!("failed: {name}");
    }
    println!("{summary}");
    Ok(succeeded && summary.failed == 0)
}

/// Runs a stage between two lines that name it and say how long it took.
fn timed<T>(name: &str, what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}: {what}");
    let begun = Instant::now();
    let result = run().with_context(|| format!("stage \"{name}\" failed (run it alone: cargo xtask test {name})"));
    let seconds = begun.elapsed().as_secs_f64();
    println!("== {name}: {} after {seconds:.1} s", if result.is_ok() { "done" } else { "FAILED" });
    result
}

/// A cargo command in this checkout, quiet about what it compiles.
fn cargo(workspace: &Workspace, arguments: &[&str]) -> Run {
    command::run("cargo").args(arguments).dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target)
}

fn format(workspace: &Workspace) -> Result<()> {
    cargo(workspace, &["fmt", "--all", "--check"]).check()
}

fn prerequisites(_workspace: &Workspace) -> Result<()> {
    wasm_target()?;
    target(foreign::TARGET)?;
    prerequisite::ensure()
}

fn deny(workspace: &Workspace) -> Result<()> {
    // The fuzz targets are a workspace of their own, which nothing else here builds.
    cargo(workspace, &["update", "--quiet", "--locked", "--workspace", "--manifest-path", "tests/fuzz/Cargo.toml"])
        .check()?;
    let program = Cache::locate()?.path("bin/cargo-deny")?;
    command::run(&program)
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])
        .dir(&workspace.root)
        .check()?;
    advisory::check(&program, &workspace.root)
}

fn clippy(workspace: &Workspace) -> Result<()> {
    cargo(workspace, &["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-Dwarnings"]).check()
}

fn doc(workspace: &Workspace) -> Result<()> {
    cargo(workspace, &["doc", "--quiet", "--locked", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .check()
}

/// Builds the host binary of the dev profile.
pub fn host(workspace: &Workspace) -> Result<()> {
    cargo(workspace, &["build", "--quiet", "--locked", "--workspace", "--bin", "strongroom"]).check()
}

/// Builds every plugin and every guest program with the host's own `plugin build`, as a vendor would.
pub fn plugins(workspace: &Workspace) -> Result<()> {
    for name in workspace.plugin_names()? {
        build_plugin(workspace, &format!("plugins/{name}"), &name)?;
    }
    let guests = workspace.root.join("tests/guests");
    if guests.is_dir() {
        for name in folders(&guests)? {
            build_plugin(workspace, &format!("tests/guests/{name}"), &format!("guests/{name}"))?;
        }
    }
    foreign::build(workspace)
}

/// Builds the crate in folder `krate` to `target/plugins/NAME.wasm`.
pub fn build_plugin(workspace: &Workspace, krate: &str, name: &str) -> Result<()> {
    let output = workspace.plugins().join(format!("{name}.wasm"));
    let parent = output.parent().context("a plugin has a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
    command::run(workspace.host())
        .args(["plugin", "build", krate, "--out"])
        .arg(&output)
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .read()
        .map(drop)
}

/// Makes sure that Rust can compile plugins: adds their target where rustup is there.
pub fn wasm_target() -> Result<()> {
    target("wasm32-unknown-unknown")
}

/// Makes sure that Rust can compile for `target`.
pub fn target(target: &str) -> Result<()> {
    let libraries = command::run("rustc").args(["--print", "target-libdir", "--target", target]).read()?;
    if std::path::Path::new(&libraries).is_dir() {
        return Ok(());
    }
    if command::on_path("rustup").is_none() {
        bail!(
            "this Rust has no standard library for {target}, which plugins are built for, and no rustup to add it; install the package that brings it (Debian: libstd-rust-dev-wasm32)"
        );
    }
    command::run("rustup").args(["target", "add", target]).read().map(drop)
}

/// Test programs that run at the same time, each with as many tests at a time as there are cores: they wait for
/// servers and processes half of their time.
const PROGRAMS_AT_ONCE: usize = 3;

/// The variable that names a folder of one test run, in which what one test program has compiled lies for the others.
pub const WARM: &str = "STRONGROOM_TEST_WARM";

/// The folder that [`WARM`] names; it goes with the run.
struct Warm(PathBuf);

impl Warm {
    fn make(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join(format!("tmp/warm-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

/// Builds every test program.
pub fn test_programs(workspace: &Workspace) -> Result<Vec<Program>> {
    let building = ["test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
    program::build(cargo(workspace, &building))?.context("the tests do not compile")
}

fn tests(workspace: &Workspace, filters: &[&String]) -> Result<(bool, Summary)> {
    let programs = test_programs(workspace)?;
    let n_threads = std::thread::available_parallelism()?.get();
    let threads = format!("--test-threads={n_threads}");
    let filters: Vec<String> = filters.iter().copied().cloned().collect();
    let warm = Warm::make(workspace)?;
    let documented = ["test", "--locked", "--workspace", "--no-fail-fast", "--doc", "--", &threads];
    let documented: Vec<_> = documented.into_iter().chain(filters.iter().map(String::as_str)).collect();
    let documented = cargo(workspace, &documented);
    let runner = Runner {
        n_at_once: PROGRAMS_AT_ONCE,
        arguments: vec![threads],
        filters,
        environment: vec![
            ("STRONGROOM_BIN", workspace.host().into()),
            ("STRONGROOM_PLUGINS", workspace.plugins().into()),
            (cache::VARIABLE, Cache::locate()?.root().into()),
            (WARM, warm.0.as_os_str().into()),
            // A snapshot that differs fails; nothing is rewritten beneath a test.
            ("INSTA_UPDATE", "no".into()),
        ],
        output: workspace.target.join("test-output"),
        seconds: workspace.target.join("test-seconds.json"),
    };
    let (succeeded, mut summary) = runner.run(programs, show)?;
    let is_documented = documented.lines(|line| {
        summary.see(line);
        show(line);
    })?;
    Ok((succeeded && is_documented, summary))
}

/// Prints what a test program said, but not what those say of which no test was asked for.
fn show(line: &str) {
    let is_noise = line.is_empty()
        || line == "running 0 tests"
        || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored");
    if !is_noise {
        println!("{line}");
    }
}
