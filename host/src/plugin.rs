//! Plugins: loading, linking and calling them. The only user of wasmtime.
//!
//! From guest to effect there are three hops: a function in `capability`, the guard, and the
//! service that [`context::RunContext`] lends. Nothing here decides what is allowed (`policy` does),
//! and no generated type leaves this module.

mod bindings;
mod budget;
pub mod build;
mod cache;
pub mod capability;
pub mod compiler;
pub mod component;
pub mod context;
mod engine;
mod guard;
pub mod inspect;
mod instance;
mod ledger;
pub mod limits;
mod linker;
mod load;
mod log;
pub mod manifest;
mod observer;
mod scratch;
pub mod signature;
pub mod speech;
mod state;
#[cfg(test)]
mod tests;
pub mod verb;

pub use cache::Cache;
pub use guard::{Denial, Denials};
pub use instance::Instance;
pub use ledger::HandleUse;
pub use load::{Approval, Plugin, Trust};
pub use observer::{Ended, Noted, Observer, Stop, Unobserved};
