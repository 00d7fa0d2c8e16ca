//! The one engine of the process, and the thread that counts its time.
//!
//! Left out on purpose: the async ABI, shared memory, 64-bit memories and collected garbage. What
//! is not there cannot be attacked.

use crate::error::{Error, Result};
use std::sync::LazyLock;
use std::time::Duration;
use wasmtime::{Config, Engine};

/// How often the guest can be stopped: one tick of its processor budget.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Stack of a guest in bytes; a deeper recursion is a trap. Rust guests need some tens of KiB.
const MAX_WASM_STACK_BYTES: usize = 512 << 10;

/// The engine, made at its first use.
pub(super) fn shared() -> Result<&'static Engine> {
    static ENGINE: LazyLock<std::result::Result<Engine, String>> =
        LazyLock::new(|| start().map_err(|e| format!("{e:#}")));
    ENGINE.as_ref().map_err(|why| Error::failed("could not start the WebAssembly engine").because(why.clone()))
}

/// An engine without the thread that counts time: for compiling, not for running.
pub(super) fn unticked() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_memory64(false)
        .max_wasm_stack(MAX_WASM_STACK_BYTES);
    Engine::new(&config)
}

fn start() -> wasmtime::Result<Engine> {
    let engine = unticked()?;
    let weak = engine.weak();
    std::thread::Builder::new().name("plugin-ticks".to_owned()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(engine)
}

/// Compiles a component in this process; [`super::compiler`] does it in one of its own.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>> {
    engine
        .precompile_component(bytes)
        .map_err(|e| Error::invalid("the component cannot be compiled").because(format!("{e:#}")))
}
