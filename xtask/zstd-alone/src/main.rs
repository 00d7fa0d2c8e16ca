//! `zstd-alone LEVEL THREADS [HOST:PORT]`: compresses standard input in frames of 2 MiB, as the host cuts them, and
//! throws them away. Prints the number of compressed bytes. It is the floor below which no pipeline's CPU can be.
//!
//! With an address it does to the bytes all that a backup of this format has to: BLAKE3 of what is read,
//! ChaCha20-Poly1305 of what is compressed, BLAKE3 of what is sealed, and a socket that takes it. It keeps no order,
//! makes no parts, waits for no answer and keeps no key: no backup, but the floor of those that seal.

#![allow(clippy::print_stdout, reason = "a number is its only result")]

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use zstd_safe::{CCtx, CParameter, compress_bound};

/// Plaintext of a frame in bytes, as in `host/src/stream/frame.rs`.
const FRAME_BYTES: usize = 2 << 20;
/// What is hashed while it is in the cache, in bytes, as in `host/src/stream/digest.rs`.
const WINDOW_BYTES: usize = 256 << 10;
/// Plaintext of one message of an age file, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// The length that an upload announces, in bytes: it breaks off before.
const NEVER_REACHED: u64 = 1 << 40;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (level, n_threads, address) = match words.as_slice() {
        [level, n_threads] => (level, n_threads, None),
        [level, n_threads, address] => (level, n_threads, Some(address.as_str())),
        _ => anyhow::bail!("usage: zstd-alone LEVEL THREADS [HOST:PORT]"),
    };
    let level: i32 = level.parse().context("LEVEL is not a number")?;
    let n_threads: u32 = n_threads.parse().context("THREADS is not a number")?;
    let input = Mutex::new(std::io::stdin());
    let work = |number| {
        let sealed = address.map(|address| Sealed::begin(address, number)).transpose()?;
        work(&input, level, sealed)
    };
    let compressed = std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..n_threads).map(|number| scope.spawn(move || work(number))).collect();
        let add = |sum: Result<u64>, worker: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
            let more = worker.join().map_err(|_| anyhow!("a worker panicked"))??;
            Ok(sum? + more)
        };
        workers.into_iter().fold(Ok(0), add)
    })?;
    println!("{compressed}");
    Ok(())
}

/// Takes frames from the input until it ends, and returns the sum of their compressed sizes.
fn work(input: &Mutex<std::io::Stdin>, level: i32, mut sealed: Option<Sealed>) -> Result<u64> {
    let zstd = |code| anyhow!("zstd: {}", zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd)?;
    let mut plain = Vec::with_capacity(FRAME_BYTES);
    let mut compressed = vec![0; compress_bound(FRAME_BYTES)];
    let mut sum = 0;
    loop {
        plain.clear();
        let input = input.lock().map_err(|_| anyhow!("another worker panicked"))?;
        let step = if sealed.is_some() { WINDOW_BYTES } else { FRAME_BYTES };
        while plain.len() < FRAME_BYTES {
            let at = plain.len();
            if input.lock().take(u64::try_from(step)?).read_to_end(&mut plain)? == 0 {
                break;
            }
            if let Some(sealed) = &mut sealed {
                sealed.plain.update(&plain[at..]);
            }
        }
        drop(input);
        if plain.is_empty() {
            return Ok(sum);
        }
        let n = context.compress2(&mut compressed[..], &plain).map_err(zstd)?;
        sum += u64::try_from(n)?;
        if let Some(sealed) = &mut sealed {
            sealed.send(&mut compressed[..n])?;
        }
    }
}

/// What becomes of a worker's frames beyond compressing.
struct Sealed {
    socket: TcpStream,
    key: LessSafeKey,
    n_messages: u64,
    plain: blake3::Hasher,
    stored: blake3::Hasher,
}

impl Sealed {
    /// Begins an upload that will never be whole: the server throws away what comes.
    fn begin(address: &str, number: u32) -> Result<Self> {
        let mut socket = TcpStream::connect(address).with_context(|| format!("could not connect to {address}"))?;
        write!(
            socket,
            "PUT /backups/work-alone/{number} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {NEVER_REACHED}\r\n\r\n"
        )?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(|_| anyhow!("no key"))?;
        let (plain, stored) = (blake3::Hasher::new(), blake3::Hasher::new());
        Ok(Self { socket, key: LessSafeKey::new(key), n_messages: 0, plain, stored })
    }

    /// Seals a frame message by message, hashes windows of it while they are in the cache, and sends all of it.
    fn send(&mut self, frame: &mut [u8]) -> Result<()> {
        for window in frame.chunks_mut(WINDOW_BYTES) {
            for message in window.chunks_mut(CHUNK_BYTES) {
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&self.n_messages.to_be_bytes());
                self.n_messages += 1;
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), message);
                tag.map(drop).map_err(|_| anyhow!("could not seal"))?;
            }
            self.stored.update(window);
        }
        self.socket.write_all(frame).context("the server takes no more")
    }
}
