//! Commands in a pod, through the cluster's API server.
//!
//! An exec into a pod has no environment and no kill, its arguments stand in the API server's audit log,
//! its output can be cut and still be called a success, and its input can be cut and look ended. So a fixed
//! script of the host's own runs there (`script`): the granted command line, variables and secrets are the
//! first lines of its standard input; it says on standard error what happens, writes a marker behind the
//! last byte of output, and counts that output beside its source. Only protocols with an end of input (v5) are
//! spoken (`session`). What must end early is found by a random word in its environment, by the same
//! script as in containers. Where that cannot be reached any more, the program may outlive its run: a
//! warning says so.

mod choose;
pub(super) mod flow;
mod script;
pub(super) mod session;
pub(super) mod sum;

use super::container::{END, random_word};
use super::launch::{Inside, Killer, Prepared, Start};
use super::local::environment;
use super::{Fetched, Place, cannot_start, check_unpinned};
use crate::cluster::Cluster;
use crate::error::{Error, Kind, Result};
use crate::policy::exec::{CommandLine, StdinGrant};
use choose::Chosen;
use http::{Request, StatusCode};
use rustix::process::Signal;
use script::Mode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// How long ending a program may take to be answered.
const ENDING_TIME: Duration = Duration::from_secs(10);

/// Where commands of a job run, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Label of the cluster.
    pub cluster: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Which pod.
    pub choice: Choice,
    /// Name of the container; may be left out where there is one only.
    pub container: Option<String>,
    /// The service account that the pod must have.
    pub service_account: Option<String>,
    /// The image that the container must have: its name as the pod's specification or its status has it,
    /// or `sha256:` and its digest.
    pub image: Option<String>,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The pod of this name.
    Name(String),
    /// A ready one that this label selector matches.
    Selector(String),
}

/// What happens when several pods match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    /// The first by name is taken, and a warning says so: for who only reads.
    First,
    /// It is an error: data and secrets would go to any of them.
    Refuse,
}

/// The pod of one run: chosen at its first command, the same for all others.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    cluster: Arc<Cluster>,
    several: Several,
    chosen: tokio::sync::OnceCell<Chosen>,
}

impl Pod {
    /// Nothing is asked of the cluster yet.
    pub fn new(spec: PodSpec, cluster: Arc<Cluster>, several: Several) -> Arc<Self> {
        Arc::new(Self { spec, cluster, several, chosen: tokio::sync::OnceCell::new() })
    }

    /// `selector "app=pg" in namespace "db" of cluster "prod"`.
    fn shown(&self) -> String {
        let choice = match &self.spec.choice {
            Choice::Name(name) => format!("name \"{name}\""),
            Choice::Selector(selector) => format!("selector \"{selector}\""),
        };
        format!("{choice} in namespace \"{}\" of {}", self.spec.namespace, self.cluster)
    }

    /// `"pg-0/postgres" in namespace "db" of cluster "prod"`.
    fn place(&self, chosen: &Chosen) -> String {
        format!("\"{}/{}\" in namespace \"{}\" of {}", chosen.name, chosen.container, self.spec.namespace, self.cluster)
    }

    /// Opens a session with `/bin/sh` and these arguments. Errors: those of the cluster, in words.
    async fn open(&self, chosen: &Chosen, arguments: &[&str], opening: Zeroizing<Vec<u8>>) -> Result<session::Open> {
        let mut query = format!("container={}&stdin=true&stdout=true&stderr=true", encoded(&chosen.container));
        for argument in ["/bin/sh", "-c"].iter().chain(arguments) {
            query.push_str("&command=");
            query.push_str(&encoded(argument));
        }
        let (namespace, name) = (encoded(&self.spec.namespace), encoded(&chosen.name));
        let target = format!("/api/v1/namespaces/{namespace}/pods/{name}/exec?{query}");
        let request = Request::get(target).body(Vec::new());
        let request = request.map_err(|error| Error::invalid("the command makes no request").because(error))?;
        let client = self.cluster.client().await?;
        let connection = Box::pin(client.connect(request)).await.map_err(|error| self.refused(chosen, &error))?;
        if !connection.supports_stream_close() {
            return Err(Error::unavailable(format!("{} cannot say where standard input ends", self.cluster))
                .fact("expected", "the protocol v5.channel.k8s.io")
                .fact("got", "v4.channel.k8s.io")
                .hint("Kubernetes 1.30 and newer have it; look for a proxy on the way that takes it away"));
        }
        let redactor = self.cluster.redactor().clone();
        Ok(session::Open::new(connection, opening, self.place(chosen), redactor).await)
    }

    fn refused(&self, chosen: &Chosen, error: &kube::Error) -> Error {
        let what = format!("could not run a command in {}", self.place(chosen));
        let kube::Error::Api(status) = error else {
            return Error::unavailable(what).because(self.cluster.redactor().text(&error.to_string()));
        };
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Before it is cut: half a secret would not be found.
        let said: String = self.cluster.redactor().text(&status.message).chars().take(400).collect();
        let error = match code {
            StatusCode::FORBIDDEN => Error::denied(what).hint(
                "give its role the verbs get and create on pods/exec, and get and list on pods, in this namespace",
            ),
            StatusCode::UNAUTHORIZED => Error::denied(what).hint("renew the cluster's credentials"),
            StatusCode::NOT_FOUND => Error::not_found(what),
            StatusCode::BAD_REQUEST => Error::invalid(what),
            _ => Error::unavailable(what),
        };
        error.fact("the cluster said", format!("{}: {said}", code.as_u16()))
    }

    /// Runs a short fixed text to its end; what it printed.
    async fn ask(&self, chosen: &Chosen, arguments: &[&str]) -> Result<String> {
        let (out, out_child) = tokio_pipe()?;
        let (errs, errs_child) = tokio_pipe()?;
        let open = self.open(chosen, arguments, Zeroizing::default()).await?;
        let session = open.start(None, session::Out::pipe(out_child)?, errs_child)?;
        // One line each: they fit into their pipes.
        let (said, complained) = (text(out).await, text(errs).await);
        // Its pipes have ended, so the outcome is there or comes at once.
        loop {
            match session.outcome() {
                Some(session::Outcome::Exited(0)) => return Ok(said),
                Some(session::Outcome::Exited(code)) => {
                    return Err(Error::failed(format!("it ended with exit code {code}: {}", complained.trim())));
                }
                Some(session::Outcome::Lost(error)) => return Err(error),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

fn tokio_pipe() -> Result<(tokio::net::unix::pipe::Receiver, std::os::fd::OwnedFd)> {
    use crate::error::IoContext;
    let (read, write) = super::launch::pipe()?;
    let read = tokio::net::unix::pipe::Receiver::from_owned_fd(read).doing(|| "make a pipe".to_owned())?;
    Ok((read, write))
}

async fn text(pipe: tokio::net::unix::pipe::Receiver) -> String {
    use tokio::io::AsyncReadExt;
    let mut said = Vec::new();
    // A part is as good as all: whoever asked for a number tells it from anything else.
    let _ = pipe.take(4096).read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// Opens the session of a command. Nothing of it runs before the session is started.
///
/// `size` is the exact length of what it reads, where that is known. Who acts on what it reads gets
/// nothing of unknown length: a cut would look like an end.
pub(super) async fn prepare(
    command: &CommandLine,
    place: &Place,
    secrets: &Fetched,
    pod: &Arc<Pod>,
    size: Option<u64>,
) -> Result<Prepared> {
    if !command.program.starts_with('/') {
        return Err(cannot_start(Kind::Invalid, command, "the program is not an absolute path"));
    }
    check_unpinned(command, "the pod's")?;
    if command.uses_scratch {
        return Err(cannot_start(Kind::Invalid, command, "the run's scratch directory is not in the pod")
            .hint("run this command on this machine"));
    }
    if !command.secret_files.is_empty() {
        return Err(cannot_start(Kind::Invalid, command, "a secret as a file of this machine is not in the pod")
            .hint("use `secrets` instead of `secret_files` in the grant, or run this command on this machine"));
    }
    let mode = mode(command, size)?;
    let word = random_word()?;
    let marker = format!("strongroom-exec-{word}");
    let opening = script::opening(command, &marker, mode, &environment(command, place, secrets)?)?;
    let name = |error: Error| error.while_doing(format!("could not start {:?}", command.label));
    let chosen = pod.chosen().await.map_err(name)?;
    let killer = PodKiller { pod: pod.clone(), chosen: chosen.clone(), word, runtime: Handle::current() };
    if matches!(mode, Mode::Counted(_)) && !matches!(command.stdin, StdinGrant::Text { .. }) {
        killer.check(command).await?;
    }
    let open = pod.open(&chosen, &[script::START, "sh"], opening).await.map_err(name)?;
    Ok(Prepared {
        start: Start::Session(Box::new(open)),
        killer: Killer::Inside(Box::new(killer)),
        marker: Some(marker),
    })
}

fn mode(command: &CommandLine, size: Option<u64>) -> Result<Mode> {
    Ok(match &command.stdin {
        StdinGrant::None => Mode::Alone,
        StdinGrant::Text { text, .. } => Mode::Counted(u64::try_from(text.len()).unwrap_or(u64::MAX)),
        _ if command.detects_short_input => Mode::Fed,
        _ => match size {
            Some(size) => Mode::Counted(size),
            None => {
                return Err(cannot_start(
                    Kind::Invalid,
                    command,
                    "nobody knows beforehand how long its input is, and a cut on the way into the pod would look like the end of it",
                )
                .hint("give it an artifact; or, if the program itself refuses an input that is cut, write detects_short_input = true in its grant"));
            }
        },
    })
}

/// Ends one program inside its pod.
struct PodKiller {
    pod: Arc<Pod>,
    chosen: Chosen,
    word: String,
    runtime: Handle,
}

impl PodKiller {
    /// Whether a program in this pod could be ended when its input is cut: the script must find at least itself.
    async fn check(&self, command: &CommandLine) -> Result<()> {
        let arguments = [script::CARRY, "sh", "0", self.word.as_str(), END];
        let found = match self.pod.ask(&self.chosen, &arguments).await {
            Ok(said) if said.trim().parse::<u32>().is_ok_and(|found| found > 0) => return Ok(()),
            Ok(said) => Error::failed(format!("the script answered {:?}", said.trim())),
            Err(error) => error,
        };
        let reason = "a program in the pod could not be ended if its input were cut";
        Err(cannot_start(Kind::Unavailable, command, reason)
            .fact("pod", self.pod.place(&self.chosen))
            .hint("look whether the container has /bin/sh and /proc")
            .because(found))
    }
}

impl Inside for PodKiller {
    /// Called on the supervisor's thread, never on the runtime's own.
    fn send(&self, signal: Signal) -> Result<(), String> {
        let signal = if signal == Signal::KILL { "KILL" } else { "TERM" };
        let arguments = [END, "sh", signal, self.word.as_str()];
        // A timer is made where there is a runtime.
        let asked = async { tokio::time::timeout(ENDING_TIME, self.pod.ask(&self.chosen, &arguments)).await };
        match self.runtime.block_on(asked) {
            Ok(Ok(_)) => Ok(()),
            // For the log, with what it was because of.
            Ok(Err(error)) => Err(format!("{error:?}")),
            Err(_) => Err(format!("no answer in {} s", ENDING_TIME.as_secs())),
        }
    }

    fn place(&self) -> String {
        self.pod.place(&self.chosen)
    }
}

/// For a part of a URL: everything but what needs no encoding in any of them.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}
