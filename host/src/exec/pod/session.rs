//! One command in a pod, over `v5.channel.k8s.io`: pipes and a flow on this side, a WebSocket on the other.
//!
//! The first byte of a message is its channel. Reading and writing do not wait for one another, so that a
//! program that reads and writes at once cannot stand still between the two. Whatever is not read here
//! holds the program back: the pipes, the flow, one message, and what lies in the connection are all the memory.
//! A session that ends without the status of its program is lost, never a success.

use super::flow::Inlet;
use crate::error::{Error, IoContext, Result};
use crate::secret::Redactor;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use zeroize::Zeroizing;

/// Channels of the protocol:
/// <https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apimachinery/pkg/util/remotecommand/constants.go>
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// How much is asked of the connection at a time. More would be filled with zeros for every message that is
/// smaller, and a message of the API server has 32 KiB.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of standard input in one message at most.
const MESSAGE_BYTES: usize = 64 * 1024;
/// How often a silent connection is used, so that nothing on the way forgets it: less than the 60 s after
/// which common proxies do.
const PING: Duration = Duration::from_secs(30);
/// How long the server may take to close the connection once it has sent the status, before it is left.
const CLOSING: Duration = Duration::from_secs(5);

/// How long output without a word of the wrapper is offered to who may read it.
const UNREAD: Duration = Duration::from_secs(1);

/// Output that is held until the first word of the wrapper is there: the channels overtake one another, and
/// nobody reads output of a program that is not known to run. The wrapper speaks first, so that this is
/// much more than what ever comes before.
const EARLY_BYTES: usize = 16 << 20;

type Incoming = Pin<Box<dyn Stream<Item = Result<Message, SocketError>> + Send>>;
type Outgoing = Pin<Box<dyn Sink<Message, Error = SocketError> + Send>>;

/// Where output goes.
pub(in crate::exec) enum Out {
    /// Until nobody reads it any more.
    Pipe(Option<pipe::Sender>),
    /// To a thread of this process.
    Flow(Inlet),
}

impl Out {
    /// The writing end of a pipe. Needs the runtime.
    pub(super) fn pipe(fd: OwnedFd) -> Result<Self> {
        let sender = pipe::Sender::from_owned_fd(fd).doing(doing)?;
        Ok(Self::Pipe(Some(sender)))
    }

    /// Waits until there is room. When nobody reads any more, the rest is thrown away, so that the session goes on.
    async fn pass(&mut self, data: Bytes) {
        match self {
            Self::Flow(inlet) => inlet.pass(data).await,
            Self::Pipe(open) => {
                if let Some(pipe) = open
                    && pipe.write_all(&data).await.is_err()
                {
                    *open = None;
                }
            }
        }
    }
}

fn doing() -> String {
    "pass on the bytes of a command in a pod".to_owned()
}

/// A connection on which nothing was sent yet.
pub(in crate::exec) struct Open {
    incoming: Incoming,
    outgoing: Outgoing,
    opening: Zeroizing<Vec<u8>>,
    /// The pod, for messages.
    place: String,
    /// Finds the cluster's credentials in what it says.
    redactor: Redactor,
}

/// How a session ended.
#[derive(Debug)]
pub(in crate::exec) enum Outcome {
    /// The program has ended with this code.
    Exited(i32),
    /// Nobody knows how it ended.
    Lost(Error),
}

/// A session that runs by itself until it is dropped.
pub(in crate::exec) struct Session {
    over: Arc<OwnedFd>,
    outcome: Arc<Mutex<Option<Outcome>>>,
    task: AbortHandle,
}

impl Open {
    /// `opening` is what goes before standard input.
    pub(super) async fn new(
        connection: kube::client::Connection,
        opening: Zeroizing<Vec<u8>>,
        place: String,
        redactor: Redactor,
    ) -> Self {
        // Nothing was read yet, so nothing is lost of what lies in between.
        let bare = connection.into_stream().into_inner();
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES);
        let (outgoing, incoming) = WebSocketStream::from_raw_socket(bare, Role::Client, Some(config)).await.split();
        Self { incoming: Box::pin(incoming), outgoing: Box::pin(outgoing), opening, place, redactor }
    }

    /// Starts passing bytes between these and the program. Without `stdin` it sees the end of its input
    /// behind the opening. Needs the runtime.
    pub(in crate::exec) fn start(self, stdin: Option<OwnedFd>, stdout: Out, stderr: OwnedFd) -> Result<Session> {
        let stdin = stdin.map(pipe::Receiver::from_owned_fd).transpose().doing(doing)?;
        let stderr = Out::pipe(stderr)?;
        let over = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing(doing)?);
        let outcome = Arc::<Mutex<Option<Outcome>>>::default();
        let end = End { over: over.clone(), outcome: outcome.clone(), place: self.place.clone() };
        let task = tokio::spawn(async move {
            let Self { incoming, outgoing, opening, place, redactor } = self;
            let writing = async {
                // What stops writing is seen by reading as well, with more words.
                let _ = write(outgoing, &opening, stdin).await;
                std::future::pending::<Outcome>().await
            };
            let outcome = tokio::select! {
                outcome = read(incoming, stdout, stderr, (&place, &redactor)) => outcome,
                outcome = writing => outcome,
            };
            end.say(outcome);
        });
        Ok(Session { over, outcome, task: task.abort_handle() })
    }
}

impl Session {
    /// Readable once there is an outcome.
    pub(in crate::exec) fn over(&self) -> &OwnedFd {
        &self.over
    }

    /// The outcome, once.
    pub(in crate::exec) fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes the connection.
    pub(in crate::exec) fn end(&self) {
        self.task.abort();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says how a session ended, also when its task is aborted. By then its pipes are closed.
struct End {
    over: Arc<OwnedFd>,
    outcome: Arc<Mutex<Option<Outcome>>>,
    place: String,
}

impl End {
    fn say(&self, outcome: Outcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        // Fails only when the counter is full, and then it has been said.
        let _ = rustix::io::write(&self.over, &1_u64.to_ne_bytes());
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // After an outcome that was taken already this says nothing to anybody.
        self.say(Outcome::Lost(lost(&self.place).fact("reason", "the connection was closed by strongroom")));
    }
}

fn lost(place: &str) -> Error {
    Error::unavailable("the connection to a command in a pod was lost").fact("pod", place)
}

/// Standard input, and pings, until the connection breaks.
async fn write(mut to: Outgoing, opening: &[u8], mut stdin: Option<pipe::Receiver>) -> Result<(), SocketError> {
    for part in opening.chunks(MESSAGE_BYTES) {
        to.send(message(STDIN, part)).await?;
    }
    let mut ping = tokio::time::interval(PING);
    ping.reset();
    let mut is_closed = false;
    let mut buffer = BytesMut::new();
    loop {
        if stdin.is_none() && !std::mem::replace(&mut is_closed, true) {
            to.send(message(CLOSE, &[STDIN])).await?;
        }
        tokio::select! {
            _ = ping.tick() => to.send(Message::Ping(Bytes::new())).await?,
            n = next(&mut stdin, &mut buffer), if stdin.is_some() => match n {
                // An error of our own pipe is no end: nothing more is sent, and the program waits to be ended.
                Err(_) => return Ok(()),
                Ok(0) => stdin = None,
                Ok(_) => to.send(Message::Binary(buffer.split().freeze())).await?,
            },
        }
    }
}

/// Reads what there is behind the byte of the channel. Given up half-way, nothing is lost.
async fn next(stdin: &mut Option<pipe::Receiver>, buffer: &mut BytesMut) -> std::io::Result<usize> {
    let Some(stdin) = stdin else { return Ok(0) };
    buffer.clear();
    buffer.reserve(MESSAGE_BYTES);
    buffer.put_u8(STDIN);
    stdin.read_buf(&mut buffer.limit(MESSAGE_BYTES)).await
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut all = BytesMut::with_capacity(bytes.len() + 1);
    all.put_u8(channel);
    all.put_slice(bytes);
    Message::Binary(all.freeze())
}

/// Standard output and error until the status, and what comes behind that.
async fn read(mut from: Incoming, mut stdout: Out, mut stderr: Out, (place, redactor): (&str, &Redactor)) -> Outcome {
    let mut outcome = None;
    let mut early = Some(BytesMut::new());
    let broken = loop {
        let next = match &outcome {
            None => from.next().await,
            Some(_) => tokio::time::timeout(CLOSING, from.next()).await.unwrap_or(None),
        };
        let mut bytes = match next {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(_))) | None => break None,
            Some(Ok(_)) => continue,
            Some(Err(error)) => break Some(error),
        };
        let Ok(channel) = bytes.try_get_u8() else { continue };
        match (channel, &mut early) {
            (STDOUT, Some(held)) if held.len() + bytes.len() <= EARLY_BYTES => held.put_slice(&bytes),
            (STDOUT, _) => {
                stdout.pass(early.take().unwrap_or_default().freeze()).await;
                stdout.pass(bytes).await;
            }
            (STDERR, _) => {
                stderr.pass(bytes).await;
                stdout.pass(early.take().unwrap_or_default().freeze()).await;
            }
            (STATUS, _) => outcome = Some(status(&bytes, place, redactor)),
            _ => {}
        }
    };
    if let Some(held) = early {
        // Nobody waits for what came without a word; as much as there is room for is shown.
        let _ = tokio::time::timeout(UNREAD, stdout.pass(held.freeze())).await;
    }
    outcome.unwrap_or_else(|| {
        let lost = lost(place).fact("expected", "the status of the command");
        if let Some(error) = broken {
            return Outcome::Lost(lost.because(error));
        }
        Outcome::Lost(
            lost.fact("got", "an end of the connection without it")
                .hint("run it again; if it stays so, look at what lies between here and the node: proxies, the API server, the kubelet"),
        )
    })
}

/// What the status says: `Success`, an exit code, or why there was no program.
fn status(text: &[u8], place: &str, redactor: &Redactor) -> Outcome {
    let failed = |said: &str| {
        let said: String = redactor.text(said).chars().take(400).collect();
        let hint = "look whether the container runs and its image has /bin/sh: without that, no command runs there";
        Outcome::Lost(
            Error::unavailable("a command in a pod could not be run")
                .fact("pod", place)
                .fact("the node said", said)
                .hint(hint),
        )
    };
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(text) else {
        return failed("a status that is not JSON");
    };
    if status["status"] == "Success" {
        return Outcome::Exited(0);
    }
    let code = status["details"]["causes"].as_array().into_iter().flatten();
    let code =
        code.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str()?.parse().ok());
    match code {
        // A failure whose code is 0 is none that can be believed.
        Some(code) if code != 0 && status["reason"] == "NonZeroExitCode" => Outcome::Exited(code),
        _ => failed(status["message"].as_str().unwrap_or("a failure without words")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_success_is_success_and_only_a_code_is_an_end() {
        let exit = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        for (status, expected) in [
            (json!({"status": "Success"}), Some(0)),
            (exit("37"), Some(37)),
            (exit("137"), Some(137)),
            (exit("0"), None),
            (exit("x"), None),
            (json!({"status": "Failure", "reason": "InternalError", "message": "no such file: /bin/sh"}), None),
            (json!({}), None),
            (json!("Success"), None),
        ] {
            let got = match super::status(status.to_string().as_bytes(), "db/pg-0", &Redactor::default()) {
                Outcome::Exited(code) => Some(code),
                Outcome::Lost(_) => None,
            };
            assert_eq!(got, expected, "{status}");
        }
        assert!(matches!(super::status(b"{", "db/pg-0", &Redactor::default()), Outcome::Lost(_)));
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_a_status_is_lost() {
        for ending in [None, Some(Ok(Message::Close(None))), Some(Err(SocketError::ConnectionClosed))] {
            let messages = [Ok(message(STDOUT, b"some"))].into_iter().chain(ending);
            let (out, mut reader) = pipe::pipe().unwrap();
            let (errs, _) = pipe::pipe().unwrap();
            let (out, errs) = (Out::Pipe(Some(out)), Out::Pipe(Some(errs)));
            let outcome =
                read(Box::pin(futures_util::stream::iter(messages)), out, errs, ("db/pg-0", &Redactor::default()))
                    .await;
            assert!(matches!(outcome, Outcome::Lost(_)));
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"some");
        }
    }
}
