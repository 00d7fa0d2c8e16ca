//! The project's own commands: what `cargo xtask` runs, and the cache that the tests share with it.
//!
//! This crate never uses the host as a library. It builds it, starts it and reads what it prints, as a
//! user would. The test kit (`tests/`) depends on [`cache`], so that there is one rule for where built
//! servers are.

#![allow(
    clippy::disallowed_methods,
    reason = "a build tool starts programs and reads the environment; the bans are for the host"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a build tool talks to the person who started it")]

pub mod advisory;
pub mod bench;
pub mod cache;
pub mod cluster;
pub mod command;
pub mod fixture;
pub mod foreign;
pub mod fuzz;
pub mod package;
pub mod prerequisite;
pub mod program;
pub mod promise;
pub mod quickstart;
pub mod release;
pub mod reproduce;
pub mod soak;
pub mod stage;
pub mod summary;
pub mod workspace;
