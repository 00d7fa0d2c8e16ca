//! Where backups go: the draining sink, a real S3 server, or a folder.

use super::peer::Peers;
use super::scratch::{Scratch, bytes_beneath};
use super::sink::{BUCKET, Failure, Keeps, Pace, Sink};
use crate::command;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Access key of every server.
pub const ACCESS_KEY: &str = "strongroom-bench";
/// Secret key of every server.
pub const SECRET_KEY: &str = "strongroom-bench-secret";
/// MinIO takes some seconds.
const START_WAIT: Duration = Duration::from_secs(60);

/// From one continent to another.
const FAR: Duration = Duration::from_millis(50);
/// Every so many-th write is answered with 503.
const REFUSED: u64 = 10;
/// One in a hundred writes is answered with 500 or 503.
const FAILED: u64 = 100;
/// Every so many-th part is cut, which also who sends few large ones meets.
const RESET: u64 = 10;

/// A place for backups.
#[derive(Debug)]
pub enum Place {
    /// A folder; each contender has its own beneath it.
    Folder(PathBuf),
    /// The sink of this crate.
    Sink(Sink),
    /// A real server.
    Server(Server),
}

/// The servers that a place can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder in memory.
    Local,
    /// The sink, throwing large bodies away.
    Drain,
    /// The same, every answer 50 ms later.
    Far,
    /// The same, with every tenth write refused.
    Refusing,
    /// The same, with one in a hundred writes answered with an error of the server's own.
    Failing,
    /// The same, with every tenth part cut in its middle.
    Resetting,
    /// The sink, keeping everything in memory.
    Keep,
    /// versitygw over a folder in memory.
    Versitygw,
    /// MinIO over a folder in memory.
    Minio,
}

impl Kind {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Drain | Self::Keep => "sink",
            Self::Far => "50 ms away",
            Self::Refusing => "refusing",
            Self::Failing => "failing",
            Self::Resetting => "resetting",
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
        }
    }

    /// Starts it.
    pub fn start(self, scratch: &Scratch, peers: &Peers) -> Result<Place> {
        Ok(match self {
            Self::Local => Place::Folder(scratch.empty("place")?),
            Self::Drain => Place::Sink(Sink::start(Keeps::Small)?),
            Self::Far => Self::paced(Pace::Delay(FAR))?,
            Self::Refusing => Self::paced(Pace::FailEvery(REFUSED, Failure::Refused))?,
            Self::Failing => Self::paced(Pace::FailEvery(FAILED, Failure::Answered))?,
            Self::Resetting => Self::paced(Pace::FailEvery(RESET, Failure::Reset))?,
            Self::Keep => Place::Sink(Sink::start(Keeps::Everything)?),
            Self::Versitygw | Self::Minio => Place::Server(Server::start(self, scratch, peers)?),
        })
    }

    fn paced(pace: Pace) -> Result<Place> {
        let sink = Sink::start(Keeps::Small)?;
        sink.set_pace(pace);
        Ok(Place::Sink(sink))
    }

    /// Whether a contender may fail there, which is then a result.
    pub fn is_harsh(self) -> bool {
        matches!(self, Self::Failing | Self::Resetting)
    }
}

impl Place {
    /// The URL of an S3 server; `None` for a folder.
    pub fn endpoint(&self) -> Option<String> {
        match self {
            Self::Folder(_) => None,
            Self::Sink(sink) => Some(format!("http://127.0.0.1:{}", sink.port())),
            Self::Server(server) => Some(format!("http://127.0.0.1:{}", server.port)),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(dir) => Some(dir),
            Self::Sink(_) | Self::Server(_) => None,
        }
    }

    /// Removes everything whose key begins with `prefix/`, so that every run starts alike and memory stays flat.
    pub fn clear(&self, prefix: &str, peers: &Peers) -> Result<()> {
        match self {
            Self::Folder(dir) => {
                let dir = dir.join(prefix);
                if dir.exists() { Ok(std::fs::remove_dir_all(dir)?) } else { Ok(()) }
            }
            Self::Sink(sink) => {
                sink.clear(&format!("{prefix}/"));
                Ok(())
            }
            Self::Server(server) => server.clear(prefix, peers),
        }
    }

    /// Bytes of everything whose key begins with `prefix/`. Servers may add some of their own.
    pub fn stored_bytes(&self, prefix: &str) -> Result<u64> {
        match self {
            Self::Folder(dir) => bytes_beneath(&dir.join(prefix)),
            Self::Sink(sink) => Ok(sink.stored_bytes(&format!("{prefix}/"))),
            Self::Server(server) => bytes_beneath(&server.data.join(BUCKET).join(prefix)),
        }
    }
}

/// A real S3 server; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    data: PathBuf,
}

impl Server {
    fn start(kind: Kind, scratch: &Scratch, peers: &Peers) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let dir = scratch.empty(kind.name())?;
        let make = |name: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::create_dir(&path)?;
            Ok(path)
        };
        let (data, home) = (make("data")?, make("home")?);
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(peers.path(kind.name())?);
        if kind == Kind::Minio {
            command.args(["server", "--quiet", "--address", &address]).arg(&data);
        } else {
            command.args(["-q", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &address, "--iam-dir"]);
            command.arg(make("iam")?).arg("posix").arg(&data);
        }
        let log = dir.join("log");
        let child = command
            .env_clear()
            .env("HOME", home)
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::create(dir.join("errors"))?)
            .spawn()
            .with_context(|| format!("could not start {}", kind.name()))?;
        let server = Self { child, port, data };
        server.wait(kind)?;
        s5cmd(peers, port)?.args(["mb", &format!("s3://{BUCKET}")]).read()?;
        Ok(server)
    }

    fn wait(&self, kind: Kind) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_WAIT {
            if answers(self.port) {
                return Ok(());
            }
            // Nothing announces that a foreign server is ready: it is asked until it answers.
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} did not answer within {START_WAIT:?}", kind.name())
    }

    fn clear(&self, prefix: &str, peers: &Peers) -> Result<()> {
        let output = s5cmd(peers, self.port)?.args(["rm", &format!("s3://{BUCKET}/{prefix}/*")]).capture()?;
        if output.code != Some(0) && !output.stderr.contains("no object found") {
            bail!("could not clear the bucket: {}{}", output.stdout, output.stderr);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed and waited for: a scratch server has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn s5cmd(peers: &Peers, port: u16) -> Result<command::Run> {
    Ok(command::run(peers.path("s5cmd")?)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .args(["--endpoint-url", &format!("http://127.0.0.1:{port}")]))
}

/// Whether something there speaks HTTP and serves. Servers listen before they can, and say 503 then.
pub fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    // Nobody is let in without a signature, and that is an answer.
    ask().is_ok_and(|head| head.starts_with("HTTP/1.1 4"))
}
