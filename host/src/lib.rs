//! Strongroom: a backup host whose component knowledge lives in sandboxed plugins.
//!
//! Levels, lowest first; a module imports only from levels below its own
//! (`tests/tests/map.rs` checks it):
//!
//! | level | modules |
//! | --- | --- |
//! | 0 | `error`, `id`, `keytext`, `unit`, `secret`, `clock`, `failpoint`, `footprint` |
//! | 1 | `policy` (pure), `stream`, `record` |
//! | 2 | `store`, `bucket`, `cluster`, `metrics` (never each other) |
//! | 3 | `exec`: commands, which may run in a pod of a cluster |
//! | 4 | `plugin` (the only user of wasmtime), `catalog` |
//! | 5 | `run`: the story of a backup, from top to bottom; `progress`, `audit` |
//! | 6 | `config`, `cli`, `main` |

pub mod audit;
pub mod bucket;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod error;
pub mod exec;
pub mod failpoint;
pub mod footprint;
pub mod id;
pub mod keytext;
pub mod metrics;
pub mod plugin;
pub mod policy;
pub mod progress;
pub mod record;
pub mod run;
pub mod secret;
pub mod store;
pub mod stream;
pub mod unit;
