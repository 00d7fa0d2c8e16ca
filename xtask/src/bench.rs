//! `cargo xtask bench`: Strongroom as a user would run it, against what a user would run instead, interleaved in
//! one run. `docs/performance.md` says what is measured and how, and holds the last table.
//!
//! The host that is measured is the release binary, started as a process with a configuration file; nothing of it
//! is linked in here. This program is built in release mode too and takes its place, since it serves as producer,
//! consumer and S3 sink.

pub mod check;
pub mod cluster;
pub mod contender;
pub mod host;
pub mod input;
pub mod measure;
pub mod options;
pub mod peer;
pub mod place;
pub mod report;
pub mod role;
pub mod rows;
pub mod scratch;
pub mod sink;
pub mod table;

use crate::command;
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use contender::Arena;
use host::Host;
use options::Options;
use peer::Peers;
use rows::Bench;
use scratch::Scratch;
use std::path::{Path, PathBuf};
use std::time::Instant;
use table::Table;

/// What is built before anything is measured.
const BINARIES: [&str; 4] = ["strongroom", "xtask", "kube-alone", "zstd-alone"];

/// `cargo xtask bench`. Returns whether it succeeded: a goal that is not met is no failure, a ratio that became
/// worse or is gone is one with `--check`.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    if role::take(arguments)? {
        return Ok(true);
    }
    let options = Options::parse(arguments)?;
    if !is_release(workspace)? {
        return build_and_continue(workspace, arguments);
    }
    let begun = Instant::now();
    let scratch = Scratch::new()?;
    let peers = Peers::locate()?;
    let host = Host::prepare(workspace, &scratch, peers.keygen())?;
    let about = about(&host, &peers, &options)?;
    let arena = Arena {
        scratch,
        build: workspace.target.join("bench"),
        peers,
        host,
        zstd_alone: workspace.release("zstd-alone"),
        kube_alone: workspace.release("kube-alone"),
    };
    let mut bench = Bench::new(arena, options);
    (bench.table.about, bench.table.bytes) = (about, bench.options.bytes);
    bench.run()?;
    println!("== measured in {:.0} s", begun.elapsed().as_secs_f64());
    conclude(workspace, &bench.options, bench.table)
}

/// Whether this is the program that was built for measuring.
fn is_release(workspace: &Workspace) -> Result<bool> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    Ok(workspace.release("xtask").canonicalize().is_ok_and(|release| release == own))
}

/// Builds everything in release mode, gets the peers, and goes on in the release build of this program.
fn build_and_continue(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    println!("== building the release host (a first build takes a quarter of an hour)");
    let binaries = BINARIES.iter().flat_map(|name| ["--bin", name]);
    command::run("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--workspace"])
        .args(binaries)
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .check()?;
    stage::wasm_target()?;
    println!("== getting what it is compared with");
    crate::prerequisite::servers()?;
    Peers::ensure()?;
    command::run(workspace.release("xtask")).arg("bench").args(arguments).dir(&workspace.root).check()?;
    Ok(true)
}

/// Writes what was found beside the build, and into the documentation or against it as the options say.
fn conclude(workspace: &Workspace, options: &Options, table: Table) -> Result<bool> {
    let docs = workspace.root.join("docs");
    let (page, data) = (docs.join("performance.md"), docs.join("performance.json"));
    write(&workspace.target.join("bench"), &table)?;
    if options.check {
        let worse = check::compare(&read(&data)?, &table, options.is_whole())?;
        for line in &worse {
            println!("not as in the last table: {line}");
        }
        if !worse.is_empty() {
            return Ok(false);
        }
        println!("every ratio is within {:.0} % of the last table or better", check::TOLERANCE * 100.0);
    }
    if options.save {
        let mut whole = if data.exists() { read(&data)? } else { Table::default() };
        whole.merge(table)?;
        std::fs::write(&data, json(&whole)?)?;
        let text = std::fs::read_to_string(&page).with_context(|| format!("could not read {}", page.display()))?;
        std::fs::write(&page, report::replace(&text, &report::markdown(&whole))?)?;
        println!("saved in docs/performance.md and docs/performance.json");
    }
    Ok(true)
}

fn write(dir: &Path, table: &Table) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("table.json"), json(table)?)?;
    std::fs::write(dir.join("table.md"), report::markdown(table))?;
    println!("written to {}", dir.join("table.md").display());
    Ok(())
}

fn json(table: &Table) -> Result<String> {
    Ok(serde_json::to_string_pretty(&table.to_json())? + "\n")
}

fn read(data: &PathBuf) -> Result<Table> {
    let text = std::fs::read_to_string(data).with_context(|| {
        format!("there is no last table at {}: make one with `cargo xtask bench --save`", data.display())
    })?;
    Table::from_json(&serde_json::from_str(&text)?).with_context(|| format!("{} is not a table", data.display()))
}

/// Machine, versions and settings; versions are asked of the programs.
fn about(host: &Host, peers: &Peers, options: &Options) -> Result<Vec<(String, String)>> {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows the number names a distribution's build, or whose machine it is.
    let kernel = kernel.split(['-', '\n']).next().unwrap_or_default();
    let n_cores = std::thread::available_parallelism()?;
    let rustc = command::run("rustc").arg("--version").read()?;
    let mut about = vec![
        (
            "machine".to_owned(),
            format!("{n_cores} cores of {}", model.map_or("an unnamed processor", |(_, name)| name)),
        ),
        ("system".to_owned(), format!("{} {kernel}", std::env::consts::OS)),
        ("strongroom".to_owned(), format!("{}, {rustc}", host.version()?)),
        ("plaintext of a run".to_owned(), format!("{} MiB", options.bytes >> 20)),
        ("rounds".to_owned(), options.rounds.to_string()),
    ];
    about.extend(peers.versions()?);
    Ok(about)
}
