//! A server that says everything it knows: it refuses each request with an answer that holds what the
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

/// Status and body of an answer that holds this text; the number is that of the request.
pub type Answer = fn(&str, usize) -> (&'static str, String);

#[derive(Debug)]
struct Shared {
    says: Vec<String>,
    answer: Answer,
    turn: AtomicUsize,
    sent: Mutex<String>,
}

impl Echo {
    /// Starts a store on a free port of the loopback. Each answer holds the next one of `says`.
    pub fn start(says: Vec<String>) -> std::io::Result<Self> {
        Self::answering(says, as_store)
    }

    /// The same, and what it says is made an answer by `answer`.
    pub fn answering(says: Vec<String>, answer: Answer) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { says, answer, turn: AtomicUsize::new(0), sent: Mutex::default() });
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
            let (status, body) = (self.answer)(&self.says[turn % self.says.len()], turn);
            let header = self.says[turn % self.says.len()].replace(['\r', '\n'], " ");
            write!(
                writer,
                "HTTP/1.1 {status}\r\nx-amz-request-id: {header}\r\ncontent-length: {}\r\n\r\n{}",
                body.len(),
                if is_head { "" } else { &body },
            )?;
        }
    }
}

/// A refusal of S3.
fn as_store(says: &str, _: usize) -> (&'static str, String) {
    let says = says.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>you said {says}, see</Message></Error>"
    );
    ("403 Forbidden", body)
}

/// Refusals of a Kubernetes API server, and of a proxy before it, one after the other.
pub fn as_cluster(says: &str, turn: usize) -> (&'static str, String) {
    let status = |message: String| serde_json::json!({"kind": "Status", "status": "Failure", "message": message});
    match turn % 5 {
        0 => ("403 Forbidden", status(format!("you cannot say {says}")).to_string()),
        1 => ("403 Forbidden", format!("<html>{says}</html>")),
        2 => ("400 Bad Request", status(format!("{} {says}", "x".repeat(580))).to_string()),
        3 => {
            let mut conflict = status(String::new());
            let cause = serde_json::json!({"reason": "FieldManagerConflict", "message": says, "field": says});
            conflict["details"] = serde_json::json!({"causes": [cause]});
            ("409 Conflict", conflict.to_string())
        }
        _ => ("401 Unauthorized", says.to_owned()),
    }
}

/// Refusals of a Prometheus, of a Pushgateway, and of a proxy before them, one after the other.
pub fn as_metrics(says: &str, turn: usize) -> (&'static str, String) {
    let error =
        |text: String| serde_json::json!({"status": "error", "errorType": "bad_data", "error": text}).to_string();
    match turn % 5 {
        0 => ("400 Bad Request", error(says.to_owned())),
        1 => ("401 Unauthorized", says.to_owned()),
        2 => ("422 Unprocessable Entity", error(format!("{} {says}", "x".repeat(280)))),
        3 => ("502 Bad Gateway", format!("<html>{says}</html>")),
        _ => ("400 Bad Request", serde_json::json!({"status": "success", "data": {"resultType": says}}).to_string()),
    }
}
