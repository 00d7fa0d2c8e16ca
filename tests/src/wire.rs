//! A piece of wire between a client and a server of the loopback, which can be cut.
//!
//! It passes bytes on and looks at none of them, so it is for what is encrypted. A cut closes every
//! connection that is open; later ones pass again.

use anyhow::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A way that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A running wire; gone when it is dropped.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    /// Bytes that have passed, up and down.
    passed: [AtomicU64; 2],
    /// Where it is cut.
    cut: Mutex<Option<(Way, u64)>>,
    /// How often it was cut.
    cuts: watch::Sender<u64>,
}

impl Wire {
    /// A wire to a port of the loopback. Needs the runtime.
    pub async fn to(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { server, passed: Default::default(), cut: Mutex::default(), cuts: watch::Sender::new(0) });
        let for_all = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            // Connections are tasks of this one, so that dropping the wire ends them all.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                connections.spawn(async move {
                    let mut cut = shared.cuts.subscribe();
                    // A server that is not there closes the connection, as without a wire.
                    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server)).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        _ = async { tokio::join!(
                            shared.pass(Way::Up, from_client, to_server),
                            shared.pass(Way::Down, from_server, to_client),
                        ) } => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { port, shared, accepting })
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that have passed this way.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.passed[way as usize].load(Ordering::SeqCst)
    }

    /// Cuts it once, when so many bytes more have passed this way.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        let at = self.passed(way) + bytes;
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some((way, at));
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        *self.shared.cuts.borrow()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn pass(&self, way: Way, mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            let sent = self.until_the_cut(way, n);
            if to.write_all(&buffer[..sent]).await.is_err() {
                break;
            }
            if sent < n {
                self.cuts.send_modify(|cuts| *cuts += 1);
                // The end comes from there, for this connection as for the others.
                return std::future::pending().await;
            }
        }
        // The other way may still have something to say.
        let _ = to.shutdown().await;
    }

    /// How many of these bytes still pass.
    fn until_the_cut(&self, way: Way, n: usize) -> usize {
        let before = self.passed[way as usize].fetch_add(n as u64, Ordering::SeqCst);
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        match *cut {
            Some((cut_way, at)) if cut_way == way && before + n as u64 > at => {
                *cut = None;
                usize::try_from(at.saturating_sub(before)).unwrap_or(n)
            }
            _ => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_until_the_cut_and_again_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                client.write_all(b"0123456789").await.unwrap();
            }
        });
        let wire = Wire::to(server).await.unwrap();
        let read = || async {
            let mut client = TcpStream::connect(("127.0.0.1", wire.port())).await.unwrap();
            let mut all = Vec::new();
            drop(client.read_to_end(&mut all).await);
            all
        };
        assert_eq!(read().await, b"0123456789");
        wire.cut_after(Way::Down, 4);
        assert_eq!(read().await, b"0123");
        assert_eq!((read().await.as_slice(), wire.cuts(), wire.passed(Way::Down)), (&b"0123456789"[..], 1, 30));
    }
}
