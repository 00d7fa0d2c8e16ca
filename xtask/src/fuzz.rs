//! `cargo xtask soak fuzz`: libFuzzer over the functions of `tests/src/hostile/`, which are property tests
//! in `cargo xtask test`.
//!
//! The stable compiler of the workspace is enough: coverage is a pass of LLVM that it has. Only crates of
//! ours are instrumented (`tests/fuzz/instrument.sh`), so that the libraries are built once and the fuzzer follows
//! branches of ours. `cargo fuzz run --fuzz-dir tests/fuzz TARGET` works as well, with a nightly compiler.

use crate::command::{self, exit};
use crate::soak::{Length, Outcome};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The most memory that a target may hold, in MiB, before libFuzzer calls it a failure.
const MEMORY_MIB: u64 = 1024;
/// The longest that one input may take, in seconds, on a machine that does other things too.
const INPUT_SECONDS: u64 = 60;

/// Runs the named targets, or all of them, each for its minutes or number of inputs.
pub fn run(workspace: &Workspace, names: &[String], length: Length) -> Result<Outcome> {
    let all = targets(workspace)?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("\"{unknown}\" is not a fuzz target; there are: {}", all.join(", "));
    }
    let chosen = if names.is_empty() { all } else { names.to_vec() };
    build(workspace)?;
    let (mut inputs, mut failed) = (0, Vec::new());
    for name in &chosen {
        match fuzz(workspace, name, length)? {
            (n, true) => {
                println!("{name}: {n} inputs");
                inputs += n;
            }
            (n, false) => {
                println!("{name}: FAILED after {n} inputs");
                inputs += n;
                failed.push(name.as_str());
            }
        }
    }
    let mut done = format!("{inputs} inputs to {} targets", chosen.len());
    if !failed.is_empty() {
        done.push_str(&format!("; failed: {}", failed.join(", ")));
    }
    Ok(Outcome { passed: failed.is_empty(), done })
}

/// Where the targets are built: not the workspace's own folder, since the flags differ.
fn target(workspace: &Workspace) -> PathBuf {
    workspace.target.join("fuzz")
}

/// Names of the targets: the files of `tests/fuzz/fuzz_targets`.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let dir = workspace.root.join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("could not list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn build(workspace: &Workspace) -> Result<()> {
    let dir = workspace.root.join("tests/fuzz");
    command::run("cargo")
        .args(["build", "--quiet", "--locked", "--bins"])
        .dir(&dir)
        .env("CARGO_TARGET_DIR", target(workspace))
        .env("RUSTC_WRAPPER", dir.join("instrument.sh"))
        .check()
}

/// Runs one target; what it found before is where it begins. Gives the number of inputs and whether
/// nothing was found.
fn fuzz(workspace: &Workspace, name: &str, length: Length) -> Result<(u64, bool)> {
    let corpus = target(workspace).join("corpus").join(name);
    let found = target(workspace).join("found");
    for dir in [&corpus, &found] {
        std::fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    }
    let seeds = workspace.root.join("tests/fixtures/hostile").join(name);
    let length = match length {
        Length::Count(n) => format!("-runs={n}"),
        Length::Minutes(n) => format!("-max_total_time={}", 60 * n),
    };
    let mut run = command::run(target(workspace).join("debug").join(name))
        .args([length, format!("-rss_limit_mb={MEMORY_MIB}"), format!("-timeout={INPUT_SECONDS}")])
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        .args(["-print_final_stats=1", "-max_len=16384", "-verbosity=1"])
        .arg(&corpus);
    if seeds.is_dir() {
        run = run.arg(&seeds);
    }
    let output = run.capture()?;
    let passed = output.code == Some(0);
    if !passed {
        // The end holds what was found, and where it lies.
        let lines: Vec<&str> = output.stderr.lines().collect();
        println!("{}\n{name} ended with {}", lines[lines.len().saturating_sub(60)..].join("\n"), exit(output.code));
    }
    Ok((executed(&output.stderr), passed))
}

/// How many inputs were run, as libFuzzer says at its end; when it was stopped by what it found, as it said last.
fn executed(stderr: &str) -> u64 {
    let last = stderr.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let progress = || stderr.lines().rev().find_map(|line| line.strip_prefix('#')?.split_whitespace().next());
    last.map(str::trim).or_else(progress).and_then(|number| number.trim_end_matches(':').parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted_also_when_something_was_found() {
        let whole = "#2\tINITED cov: 5\n#1024\tNEW cov: 9\nDone 2000 runs in 1 second(s)\nstat::number_of_executed_units: 2000\nstat::peak_rss_mb: 40\n";
        assert_eq!(executed(whole), 2000);
        assert_eq!(executed("#2\tINITED cov: 5\n#1024\tNEW cov: 9\n==1== ERROR: libFuzzer: deadly signal\n"), 1024);
        assert_eq!(executed("nothing"), 0);
    }
}
