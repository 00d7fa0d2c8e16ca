//! The engines of the process, one for each size of stack, and the threads that count their time.
//!
//! Left out on purpose: the async ABI, shared memory, 64-bit memories and collected garbage. What
//! is not there cannot be attacked.

use super::limits::Limits;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wasmtime::{Config, Engine};

/// How often the guest can be stopped: one tick of its processor budget.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// What host functions have of a stack besides the guest's part, in bytes: as much as the runtime
/// leaves them by itself (2 MiB, of which the guest gets 512 KiB).
const HOST_STACK_BYTES: usize = 1536 << 10;

/// The engine for guests with the default stack, made at its first use.
pub(super) fn shared() -> Result<Engine> {
    with_stack(Limits::default().stack_bytes)
}

/// The engine whose guests have a stack of so many bytes, made at its first use: how deep calls may
/// nest belongs to an engine. Compiled code is the same for all of them. There are as many as
/// configurations have sizes, and each lives as long as the process.
pub(super) fn with_stack(stack_bytes: usize) -> Result<Engine> {
    static ENGINES: Mutex<BTreeMap<usize, Engine>> = Mutex::new(BTreeMap::new());
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = engines.get(&stack_bytes) {
        return Ok(engine.clone());
    }
    let engine = start(stack_bytes)
        .map_err(|e| Error::failed("could not start the WebAssembly engine").because(format!("{e:#}")))?;
    engines.insert(stack_bytes, engine.clone());
    Ok(engine)
}

/// An engine without the thread that counts time: for compiling, not for running.
pub(super) fn unticked() -> wasmtime::Result<Engine> {
    configured(Limits::default().stack_bytes)
}

fn configured(stack_bytes: usize) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_memory64(false)
        .max_wasm_stack(stack_bytes)
        .async_stack_size(stack_bytes.saturating_add(HOST_STACK_BYTES));
    Engine::new(&config)
}

fn start(stack_bytes: usize) -> wasmtime::Result<Engine> {
    let engine = configured(stack_bytes)?;
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
