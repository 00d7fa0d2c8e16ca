//! A forward proxy on 127.0.0.1: it makes tunnels (CONNECT), counts them, and asks for a password where a
//! test says so. Every name leads to this machine, as names behind a proxy are nobody else's business.

use anyhow::{Context, Result};
use base64::Engine;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A running proxy; it takes nobody any more when it is dropped.
#[derive(Debug)]
pub struct Forward {
    port: u16,
    is_over: Arc<AtomicBool>,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Forward {
    /// A proxy; with `login`, only for who says this `user:password`. Panics when it cannot be started.
    pub fn start(login: Option<&str>) -> Self {
        Self::try_start(login).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(login: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        let proxy = Self { port: listener.local_addr()?.port(), is_over: Arc::default(), targets: Arc::default() };
        let (is_over, targets) = (proxy.is_over.clone(), proxy.targets.clone());
        let login = login.map(|login| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login)));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (targets, login) = (targets.clone(), login.clone());
                // A client that goes away is no failure of the proxy.
                std::thread::spawn(move || drop(serve(client, login.as_deref(), &targets)));
            }
        });
        Ok(proxy)
    }

    /// Where it listens: host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it made tunnels to so far, each as `host:port`.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// One tunnel, to the end of either side.
fn serve(client: TcpStream, login: Option<&str>, targets: &Mutex<Vec<String>>) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut said = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("proxy-authorization")
        {
            said = Some(value.trim().to_owned());
        }
    }
    if login.is_some() && said.as_deref() != login {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    }
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let target = target.context("not a CONNECT")?;
    let port: u16 = target.rsplit_once(':').context("a target without a port")?.1.parse()?;
    targets.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_client, mut to_server) = (reader, server.try_clone()?);
    let up = std::thread::spawn(move || {
        // Either side may end it at any time.
        drop(std::io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    let mut from_server = server;
    drop(std::io::copy(&mut from_server, &mut client));
    drop(client.shutdown(Shutdown::Both));
    drop(up.join());
    Ok(())
}
