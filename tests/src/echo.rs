//! A store that says everything it knows: it refuses each request with an answer that holds what the
//! test gives it, and keeps what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The server; its threads end with their connections, its listener with the process.
#[derive(Debug)]
pub struct Echo {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    says: Vec<String>,
    turn: AtomicUsize,
    sent: Mutex<String>,
}

impl Echo {
    /// Starts it on a free port of the loopback. Each answer holds the next one of `says`.
    pub fn start(says: Vec<String>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { says, turn: AtomicUsize::new(0), sent: Mutex::default() });
        let served = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let served = served.clone();
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || drop(served.serve(connection)));
            }
        });
        Ok(Self { port, shared })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether this text was in any request.
    pub fn was_sent(&self, text: &str) -> bool {
        self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner).contains(text)
    }
}

impl Shared {
    /// One connection, request after request.
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut writer = connection;
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
            });
            std::io::copy(&mut (&mut reader).take(length.unwrap_or(0)), &mut std::io::sink())?;
            let is_head = head.starts_with("HEAD ");
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).push_str(&head);
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let says = self.says[turn % self.says.len()].replace('&', "&amp;").replace('<', "&lt;");
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>you said {says}, see</Message></Error>"
            );
            let header = self.says[turn % self.says.len()].replace(['\r', '\n'], " ");
            write!(
                writer,
                "HTTP/1.1 403 Forbidden\r\nx-amz-request-id: {header}\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{}",
                body.len(),
                if is_head { "" } else { &body },
            )?;
        }
    }
}
