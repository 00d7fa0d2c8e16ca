//! Plugins: loading, linking and calling them. The only user of wasmtime.

pub mod context;
pub mod limits;
pub mod manifest;
