//! Real Prometheus, Alertmanager and Pushgateway, unpacked from Debian's packages, on loopback; and a
//! small HTTP server that gives out a file and keeps what it was sent.

use crate::sandbox::Prepared;
use crate::{Output, Running, Sandbox, TIMEOUT, cached, free_port, wait_until};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A program of the packages, such as `promtool`.
pub fn program(name: &str) -> PathBuf {
    let piece = if name == "prometheus-pushgateway" { "pushgateway" } else { "prometheus" };
    let folder = cached(piece).unwrap_or_else(|error| panic!("{error:#}"));
    folder.join("bin").join(name)
}

/// What `promtool` says of these arguments.
pub fn promtool(sandbox: &Sandbox, args: &[&str]) -> Output {
    sandbox.command(program("promtool"), args).run()
}

/// A server of the packages. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    _running: Running,
}

impl Daemon {
    /// Starts `name` with `args`, which get the port that it is to listen on, and waits until `/-/ready` of
    /// it answers with `status`.
    pub fn start(sandbox: &Sandbox, name: &str, status: u16, args: impl Fn(u16) -> Vec<String>) -> Result<Self> {
        // Between asking for a port and listening on it somebody else may have taken it.
        let mut last = None;
        for _ in 0..3 {
            let port = free_port()?;
            let running = Self::command(sandbox, name, args(port)).start()?;
            let process = PathBuf::from(format!("/proc/{}", running.pid()));
            let is_ready = || {
                let answers = get(port, "/-/ready").is_ok_and(|(got, _)| got == status);
                Ok(if answers { Some(true) } else { (!process.exists()).then_some(false) })
            };
            if wait_until(name, TIMEOUT, is_ready)? {
                return Ok(Self { port, _running: running });
            }
            last = Some(running.finish(TIMEOUT)?);
        }
        bail!("{name} ended at once: {last:?}")
    }

    /// Debian's Alertmanager reads its templates from a fixed place: they are put there for it alone.
    fn command(sandbox: &Sandbox, name: &str, args: Vec<String>) -> Prepared {
        let program = program(name);
        if name != "prometheus-alertmanager" {
            return sandbox.command(program, args);
        }
        let share = program.parent().and_then(Path::parent).expect("a program lies in bin").join("usr/share");
        let script = "mount --bind \"$1\" /usr/share && shift && exec \"$@\"";
        let begin = ["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"].map(PathBuf::from);
        let all = begin.into_iter().chain([share, program]).chain(args.into_iter().map(PathBuf::from));
        sandbox.command("unshare", all)
    }

    /// A Prometheus with this configuration, whose data lies in the sandbox.
    pub fn prometheus(sandbox: &Sandbox, config: &str) -> Result<Self> {
        Self::prometheus_with(sandbox, config, 200, &[])
    }

    /// The same with more arguments, ready when it answers with `status`: behind TLS it answers 400 to us.
    pub fn prometheus_with(sandbox: &Sandbox, config: &str, status: u16, more: &[String]) -> Result<Self> {
        let config = sandbox.write("prometheus/prometheus.yml", config);
        let data = sandbox.path("prometheus/data");
        Self::start(sandbox, "prometheus", status, |port| {
            let mut args = vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", data.display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--log.level=warn".to_owned(),
            ];
            args.extend_from_slice(more);
            args
        })
    }

    /// An Alertmanager that tells nobody.
    pub fn alertmanager(sandbox: &Sandbox) -> Result<Self> {
        let config = sandbox
            .write("alertmanager/alertmanager.yml", "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n");
        let data = sandbox.path("alertmanager/data");
        Self::start(sandbox, "prometheus-alertmanager", 200, |port| {
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.path={}", data.display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--cluster.listen-address=".to_owned(),
                "--log.level=warn".to_owned(),
            ]
        })
    }

    /// A Pushgateway.
    pub fn pushgateway(sandbox: &Sandbox) -> Result<Self> {
        Self::start(sandbox, "prometheus-pushgateway", 200, |port| {
            vec![format!("--web.listen-address=127.0.0.1:{port}"), "--log.level=warn".to_owned()]
        })
    }

    /// What it answers to a GET.
    pub fn get(&self, path: &str) -> Result<String> {
        match get(self.port, path)? {
            (200, body) => Ok(body),
            (status, body) => bail!("GET {path}: HTTP {status}: {body}"),
        }
    }

    /// The same as JSON.
    pub fn json(&self, path: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.get(path)?)?)
    }
}

fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// Headers, one in a line, names in lower case.
    pub headers: String,
    /// Body.
    pub body: String,
}

/// An HTTP server that answers everything with a status and a file, or a text.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Listener {
    /// Gives out what is in `file` whenever it is asked; 404 while it is not there.
    pub fn file(file: &Path) -> Result<Self> {
        let file = file.to_path_buf();
        Self::start(move || match std::fs::read_to_string(&file) {
            Ok(text) => ("200 OK", text),
            Err(_) => ("404 Not Found", String::new()),
        })
    }

    /// Answers `status` with this body.
    pub fn answering(status: &'static str, body: &'static str) -> Result<Self> {
        Self::start(move || (status, body.to_owned()))
    }

    /// What arrived so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn start(answer: impl Fn() -> (&'static str, String) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (seen.clone(), Arc::new(answer));
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = serve(stream, &kept, &*answer);
                });
            }
        });
        Ok(Self { port, seen })
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn() -> (&'static str, String)) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut request = Request { line: String::new(), headers: String::new(), body: String::new() };
    reader.read_line(&mut request.line)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(':').context("a header without a colon")?;
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.trim().parse()?;
        }
        request.headers.push_str(&format!("{name}: {}\n", value.trim()));
    }
    reader.by_ref().take(length).read_to_string(&mut request.body)?;
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let (status, body) = answer();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(())
}
