//! An S3 server that costs next to no CPU, so that clients and not the server are what is measured.
//!
//! It checks no signature, computes no checksum and writes nothing to a disk. Bodies larger than
//! [`SMALL_BYTES`] are thrown away as they arrive ([`Keeps::Small`]) or stay in memory as they came
//! ([`Keeps::Everything`]), to be served again in ranges. It listens on the loopback only. It is no test of
//! anything: what a backup is worth is measured against real servers beside it.

mod http;
mod object;
mod pace;
mod route;

pub use pace::{Failure, Pace};

use anyhow::{Context, Result};
use object::Objects;
use pace::Gate;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bucket that it has; any other name works too.
pub const BUCKET: &str = "backups";

/// Bodies up to this size are always kept: records, leases, indexes and plugins are read again.
pub const SMALL_BYTES: u64 = 2 << 20;

/// What happens to bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Only bodies up to [`SMALL_BYTES`]; reading another one is an error 500.
    Small,
    /// All of them, in memory.
    Everything,
}

/// A running server. Dropping it ends its listener; connections end with their clients.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    keeps: Keeps,
    objects: Mutex<Objects>,
    gate: Gate,
    over: AtomicBool,
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Listens on a free port of the loopback.
    pub fn start(keeps: Keeps) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("could not listen on the loopback")?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { keeps, objects: Mutex::default(), gate: Gate::default(), over: AtomicBool::new(false) });
        let inside = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if inside.over.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&inside);
                // A client that goes away in the middle is that client's failure, and it says so itself.
                std::thread::spawn(move || drop(route::serve(stream, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where clients find it.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How fast it takes bodies from now on; counting begins anew.
    pub fn set_pace(&self, pace: Pace) {
        self.shared.gate.set(pace);
    }

    /// Forgets every object whose key begins with `prefix`, and every upload.
    pub fn clear(&self, prefix: &str) {
        self.shared.objects().clear(prefix);
    }

    /// Bytes of all objects whose key begins with `prefix`, whether their bodies were kept or not.
    pub fn stored_bytes(&self, prefix: &str) -> u64 {
        self.shared.objects().list(prefix, "").map(|(_, object)| object.bytes).sum()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // The listener waits in `accept`; a connection wakes it up.
        drop(TcpStream::connect(self.address));
    }
}

#[cfg(test)]
mod tests;
