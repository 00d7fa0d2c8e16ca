//! `zstd-alone LEVEL THREADS`: compresses standard input in frames of 2 MiB, as the host cuts them, and throws
//! them away. Prints the number of compressed bytes. It is the floor below which no pipeline's CPU can be.

#![allow(clippy::print_stdout, reason = "a number is its only result")]

use anyhow::{Context, Result};
use std::io::Read;
use std::sync::Mutex;
use zstd_safe::{CCtx, CParameter, compress_bound};

/// Plaintext of a frame in bytes, as in `host/src/stream/frame.rs`.
const FRAME_BYTES: usize = 2 << 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<i32>());
    let mut next = || arguments.next().context("usage: zstd-alone LEVEL THREADS")?.context("not a number");
    let (level, n_threads) = (next()?, next()?);
    let input = Mutex::new(std::io::stdin());
    let compressed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(|| work(&input, level))).collect();
        let add = |sum: Result<u64>, worker: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
            let more = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            Ok(sum? + more)
        };
        workers.into_iter().fold(Ok(0), add)
    })?;
    println!("{compressed}");
    Ok(())
}

/// Takes frames from the input until it ends, and returns the sum of their compressed sizes.
fn work(input: &Mutex<std::io::Stdin>, level: i32) -> Result<u64> {
    let zstd = |code| anyhow::anyhow!("zstd: {}", zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd)?;
    let mut plain = Vec::with_capacity(FRAME_BYTES);
    let mut compressed = vec![0; compress_bound(FRAME_BYTES)];
    let mut sum = 0;
    loop {
        plain.clear();
        let limit = u64::try_from(FRAME_BYTES)?;
        let input = input.lock().map_err(|_| anyhow::anyhow!("another worker panicked"))?;
        input.lock().take(limit).read_to_end(&mut plain)?;
        drop(input);
        if plain.is_empty() {
            return Ok(sum);
        }
        let n = context.compress2(&mut compressed[..], &plain).map_err(zstd)?;
        sum += u64::try_from(n)?;
    }
}
