//! A front before a cluster's API server that does what a test says: plain HTTP on 127.0.0.1, with
//! `kubectl proxy` behind it, which has the administrator's credentials.

use super::Cluster;
use crate::wait_until;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything here waits for the other side.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// The API server answers.
    Pass,
    /// The front answers itself: status, one more header, and a JSON body.
    Answer(u16, &'static str, &'static str),
    /// So many bytes of the API server's answer, and no more.
    Cut(usize),
    /// The API server gets it, and its answer is lost.
    LoseAnswer,
    /// Nothing is answered; the connection stays.
    Silent,
    /// The API server does not get it, and the connection is closed.
    Gone,
    /// The API server gets it once the gate is opened.
    Hold(Gate),
    /// The API server gets it, and its answer is handed on once the gate is opened.
    HoldAnswer(Gate),
    /// The connection becomes a WebSocket, as asked, but the API server does not hear of `v5.channel.k8s.io`.
    WithoutV5,
}

/// What holds a request until a test lets it go.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<Held>, Condvar, AtomicUsize)>);

#[derive(Debug, Default)]
struct Held {
    is_held: bool,
    is_open: bool,
}

impl Gate {
    /// How often [`Gate::count`] was called.
    pub fn passes(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }

    /// Counts something.
    pub fn count(&self) {
        self.0.2.fetch_add(1, Ordering::SeqCst);
    }

    fn hold(&self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_held = true;
        self.0.1.notify_all();
        drop(self.0.1.wait_timeout_while(held, PATIENCE, |held| !held.is_open));
    }

    /// Returns when a request is held. Panics when none comes.
    #[track_caller]
    pub fn wait_until_held(&self) {
        let held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_held, waited) =
            self.0.1.wait_timeout_while(held, PATIENCE, |held| !held.is_held).expect("no panic inside");
        assert!(!waited.timed_out(), "no request came to the gate");
    }

    /// Lets the request go.
    pub fn release(&self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_open = true;
        self.0.1.notify_all();
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its first line, such as `GET /version HTTP/1.1`.
    pub line: String,
    /// The bearer token that came with it; the front itself believes any.
    pub token: Option<String>,
    /// When it was read.
    pub at: Instant,
}

/// Decides about a request, and its number among those for which the same was asked.
type Script = dyn Fn(&Asked, usize) -> Act + Send + Sync;

/// A running front; it ends when it is dropped.
#[derive(Debug)]
pub struct Front {
    port: u16,
    proxy: Child,
    is_over: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Asked>>>,
}

impl Front {
    /// A gate, twice: for the script and for the test.
    pub fn gate() -> (Gate, Gate) {
        let gate = Gate::default();
        (gate.clone(), gate)
    }

    /// A front whose every request `script` decides, by its first line and by how many requests of the same
    /// path, without the query, came before it.
    pub fn start(cluster: &Cluster, script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::start_seeing(cluster, move |asked, n| script(&asked.line, n))
    }

    /// The same with a script that sees the whole request.
    pub fn start_seeing(cluster: &Cluster, script: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::try_start(cluster, Arc::new(script)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(cluster: &Cluster, script: Arc<Script>) -> Result<Self> {
        let upstream = crate::free_port()?;
        let mut command = cluster.kubectl_command(&cluster.admin_kubeconfig())?;
        command.args(["proxy", &format!("--port={upstream}"), "--accept-hosts=.*", "--reject-paths=^$"]);
        let proxy = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let listener = TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        let front =
            Self { port: listener.local_addr()?.port(), proxy, is_over: Arc::default(), requests: Arc::default() };
        let connect = || Ok(TcpStream::connect(("127.0.0.1", upstream)).ok());
        wait_until("kubectl proxy answers", PATIENCE, connect)?;
        let (is_over, requests) = (front.is_over.clone(), front.requests.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (script, requests, is_over) = (script.clone(), requests.clone(), is_over.clone());
                // A client that goes away is no failure of the front.
                std::thread::spawn(move || drop(serve(client, upstream, &script, &requests, &is_over)));
            }
        });
        Ok(front)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many requests began so.
    pub fn n_requests(&self, beginning: &str) -> usize {
        self.requests(beginning).len()
    }

    /// The requests that began so, in the order in which they arrived.
    pub fn requests(&self, beginning: &str) -> Vec<Asked> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|request| request.line.starts_with(beginning)).cloned().collect()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        drop(self.proxy.kill());
        drop(self.proxy.wait());
    }
}

/// One request on one connection.
fn serve(
    client: TcpStream,
    upstream: u16,
    script: &Arc<Script>,
    requests: &Mutex<Vec<Asked>>,
    is_over: &AtomicBool,
) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut head, mut length, mut token) = (first.clone(), 0, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
        if name.eq_ignore_ascii_case("authorization") {
            token = value.trim().strip_prefix("Bearer ").map(str::to_owned);
        }
        // Each request has a connection of its own behind the front as well, with the proxy's credentials.
        if !["connection", "authorization", "host"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked = Asked { line: first.trim().to_owned(), token, at: Instant::now() };
    let path = |asked: &Asked| asked.line.split('?').next().unwrap_or_default().to_owned();
    let n_before = {
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        let n_before = requests.iter().filter(|one| path(one) == path(&asked)).count();
        requests.push(asked.clone());
        n_before
    };
    let act = script(&asked, n_before);
    let (mut limit, mut held) = (usize::MAX, None);
    match act {
        Act::Answer(status, header, body) => {
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} x\r\n{header}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            client.write_all(answer.as_bytes())?;
            return Ok(());
        }
        Act::Gone => return Ok(()),
        Act::Silent => {
            // Until the client has had enough.
            client.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut byte = [0];
            while !is_over.load(Ordering::SeqCst) {
                match client.read(&mut byte) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error)
                        if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
            return Ok(());
        }
        Act::Hold(gate) => gate.hold(),
        Act::HoldAnswer(gate) => held = Some(gate),
        Act::Cut(bytes) => limit = bytes,
        Act::LoseAnswer => limit = 0,
        Act::WithoutV5 => return without_v5(reader, client, upstream, &head),
        Act::Pass => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    write!(server, "{head}Host: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if let Some(gate) = held {
        gate.hold();
    }
    client.write_all(&answer[..answer.len().min(limit)])?;
    client.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Passes everything on, both ways, until one side has had enough.
fn without_v5(mut reader: BufReader<TcpStream>, mut client: TcpStream, upstream: u16, head: &str) -> Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let head = head.replace("v5.channel.k8s.io, ", "");
    write!(server, "{head}Host: 127.0.0.1\r\nConnection: Upgrade\r\n\r\n")?;
    let mut up = server.try_clone()?;
    let upwards = std::thread::spawn(move || {
        // Whichever side goes away first ends it.
        drop(std::io::copy(&mut reader, &mut up));
        drop(up.shutdown(Shutdown::Both));
    });
    drop(std::io::copy(&mut server, &mut client));
    drop(client.shutdown(Shutdown::Both));
    drop(upwards.join());
    Ok(())
}
