//! `cargo xtask`: see `cargo xtask help`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a build tool talks to the person who started it")]

use anyhow::Result;
use std::process::ExitCode;
use xtask::workspace::Workspace;
use xtask::{bench, fixture, quickstart, release, soak, stage};

/// A command of `cargo xtask`.
struct Task {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&Workspace, &[String]) -> Result<bool>,
}

/// Every command, in the order in which help shows them.
const TASKS: &[Task] = &[
    Task {
        name: "fixture",
        arguments: "",
        help: "keep a small backup made by this version in tests/fixtures/backups, for every later one to restore",
        run: fixture::run,
    },
    Task {
        name: "quickstart",
        arguments: "",
        help: "build host and plugins, then back up, verify, damage, diagnose and restore real files",
        run: quickstart::run,
    },
    Task {
        name: "soak",
        arguments: "[NAME …] [--count N | --minutes N] [--list]",
        help: "run the long harnesses, or those named, and write what came of them into docs/reliability.md",
        run: soak::run,
    },
    Task {
        name: "test",
        arguments: "[STAGE | TEST-NAME …]",
        help: "get what the tests need, then run every check and every test, or only those named",
        run: stage::run,
    },
    Task {
        name: "bench",
        arguments: "[--check | --save] [--only ROWS] [--input NAME] [--rounds N] [--mib N] [--quick] [--long]",
        help: "measure the release host against what would be used instead, in one run",
        run: bench::run,
    },
    Task {
        name: "release",
        arguments: "--key MINISIGN-SECRET-KEY [--out DIR]",
        help: "build what is published: binary, plugins, bill of materials, checksums and their signature",
        run: release::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", &[][..]),
    };
    if matches!(name, "help" | "--help" | "-h") {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprintln!("error: \"{name}\" is not a command of cargo xtask\n\n{}", help());
        return ExitCode::from(2);
    };
    match Workspace::find().and_then(|workspace| (task.run)(&workspace, rest)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> String {
    let mut text = "usage: cargo xtask COMMAND\n\n".to_owned();
    for task in TASKS {
        text.push_str(&format!("  {} {}\n      {}\n", task.name, task.arguments, task.help));
    }
    text.push_str("\nstages of test: ");
    text.push_str(&stage::names().join(", "));
    text.push('\n');
    text
}
