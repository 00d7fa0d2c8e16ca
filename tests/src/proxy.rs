//! A small HTTP/1.1 proxy between a client and a real server that does one thing wrong.
//!
//! One request at a time on a connection, bodies with `Content-Length` or chunks, no TLS. It reads
//! a whole request before it passes it on, so it is for tests of correctness and not of speed.

use anyhow::{Context, Result, bail};
use aws_lc_rs::{digest, hmac};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the proxy does to a request that matches.
#[derive(Clone, Debug)]
pub enum Act {
    /// Removes request headers and signs again, as a gateway with credentials of its own does.
    Strip(&'static [&'static str]),
    /// Answers with this status, error code and message itself; the server sees nothing.
    Answer(u16, &'static str, &'static str),
    /// Passes the request on and resets the connection instead of answering.
    LoseAnswer,
    /// Passes the request on and answers 200 with an error in the body.
    ErrorInOk(&'static str),
    /// Passes the request on and answers with this status and error code instead.
    AnswerAfter(u16, &'static str, &'static str),
    /// Answers 501 to requests whose headers have one of these words, in lower case.
    NotImplemented(&'static [&'static str]),
    /// Acknowledges a PUT or a completion itself; the server sees nothing: a liar.
    Acknowledge,
    /// Resets the connection after this many bytes of the request's body.
    ResetInRequest(usize),
    /// Sends at most this many bytes of the response's body, never all of them, and closes the connection.
    TruncateResponse(usize),
    /// The same, and resets the connection.
    ResetInResponse(usize),
    /// Reads the request and then does nothing for this long.
    Stall(Duration),
    /// Passes the request on, and then does nothing for this long instead of answering.
    HoldAnswer(Duration),
    /// Passes the request on, holds its answer for this long, and then passes that on whole.
    LateAnswer(Duration),
    /// Passes the request on and answers with a `Date` that is this much later: for whoever asks the server for
    /// the time, everything in it is that much older.
    Later(Duration),
    /// Closes the connection at once.
    Drop,
    /// Flips a bit in the middle of the request's body.
    FlipRequest,
    /// Flips a bit in the middle of the response's body.
    FlipResponse,
    /// Passes the request on and answers with another CRC64NVME than the server did.
    OtherChecksum,
    /// Signs again with a date that is years ago, as a machine does whose clock is off; the server itself
    /// answers.
    OldDate,
}

/// What a client of ours says of an answer that was cut by [`Act::TruncateResponse`].
pub const SAYS_CLOSED: &str = "end of file before message length reached";
/// What it says of one that was cut by [`Act::ResetInResponse`].
pub const SAYS_RESET: &str = "Connection reset by peer";

/// Headers that a gateway drops which knows no checksums.
pub const CHECKSUMS: [&str; 5] = [
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-type",
    "x-amz-checksum-mode",
];

/// Which requests are touched.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method, such as `PUT`; empty for any.
    pub method: &'static str,
    /// What the path and query must contain; empty for any.
    pub contains: &'static str,
    /// How many matching requests are let through first.
    pub after: u32,
    /// How many matching requests are touched.
    pub times: u32,
    /// What happens to them.
    pub act: Act,
}

impl Rule {
    /// Every matching request.
    pub fn always(method: &'static str, contains: &'static str, act: Act) -> Self {
        Self { method, contains, after: 0, times: u32::MAX, act }
    }

    /// The first `times` matching requests.
    pub fn first(times: u32, method: &'static str, contains: &'static str, act: Act) -> Self {
        Self { method, contains, after: 0, times, act }
    }
}

/// Rules of which none has matched yet.
fn counted(rules: Vec<Rule>) -> Vec<(Rule, u32)> {
    rules.into_iter().map(|rule| (rule, 0)).collect()
}

/// Access key and secret key to sign with again.
pub type Keys = (&'static str, &'static str);

/// A running proxy; stops when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    keys: Keys,
    rules: Mutex<Vec<(Rule, u32)>>,
    touched: AtomicU32,
    seen: Mutex<Vec<String>>,
}

impl Proxy {
    /// Starts one in front of a server on the loopback.
    pub async fn start(server: u16, keys: Keys, rules: Vec<Rule>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server,
            keys,
            rules: Mutex::new(counted(rules)),
            touched: AtomicU32::new(0),
            seen: Mutex::default(),
        });
        let for_all = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            // Connections are tasks of this one, so that dropping the proxy ends them all.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                // A connection that ends early is what this proxy is for.
                connections.spawn(async move { drop(shared.serve(client).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, shared, accepting })
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does something else from now on; nothing was touched by that yet.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        *self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = counted(rules);
        self.shared.touched.store(0, Ordering::SeqCst);
    }

    /// How many requests were touched.
    pub fn touched(&self) -> u32 {
        self.shared.touched.load(Ordering::SeqCst)
    }

    /// Every request so far, as method, path and query.
    pub fn requests(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request or a response: its first line, its headers, its body.
#[derive(Clone, Debug)]
struct Message {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn head(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    fn answer(status: u16, body: &str) -> Self {
        let reason = if status == 200 { "OK" } else { "Error" };
        Self {
            line: format!("HTTP/1.1 {status} {reason}"),
            headers: vec![
                ("Content-Type".to_owned(), "application/xml".to_owned()),
                ("Content-Length".to_owned(), body.len().to_string()),
                ("x-amz-request-id".to_owned(), "PROXY".to_owned()),
            ],
            body: body.as_bytes().to_vec(),
        }
    }
}

/// A day long before any test.
const OLD_DAY: &str = "20200101";

/// An authorization header whose scope begins with this day.
fn on_day(authorization: &str, day: &str) -> Option<String> {
    let (before, credential) = authorization.split_once("Credential=")?;
    let (key, scope) = credential.split_once('/')?;
    Some(format!("{before}Credential={key}/{day}{}", scope.get(8..)?))
}

/// An HTTP date, moved.
fn later(date: &str, by: Duration) -> Result<String> {
    let date = DateTime::from_str(date, DateTimeFormat::HttpDate)?;
    let moved = DateTime::from_secs(date.secs() + i64::try_from(by.as_secs())?);
    Ok(moved.fmt(DateTimeFormat::HttpDate)?)
}

fn error_body(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
}

type Wire = BufReader<TcpStream>;

/// The first line and the headers; `None` at the end of the connection.
async fn read_head(wire: &mut Wire) -> Result<Option<Message>> {
    let mut message = Message { line: String::new(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() && !message.line.is_empty() {
            return Ok(Some(message));
        }
        if message.line.is_empty() {
            line.clone_into(&mut message.line);
        } else {
            let (name, value) = line.split_once(':').with_context(|| format!("not a header: {line}"))?;
            message.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

/// The body, of which at most `limit` bytes are read.
async fn read_body(wire: &mut Wire, head: &Message, limit: usize) -> Result<Vec<u8>> {
    let chunked = head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    if !chunked {
        let len: usize = head.header("content-length").unwrap_or("0").parse()?;
        let mut body = vec![0; len.min(limit)];
        wire.read_exact(&mut body).await?;
        return Ok(body);
    }
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        wire.read_line(&mut line).await?;
        let len = usize::from_str_radix(line.trim(), 16)?;
        if wire.take(len as u64).read_to_end(&mut body).await? != len {
            bail!("a body ended in the middle of a chunk of {len} bytes");
        }
        let mut end = String::new();
        wire.read_line(&mut end).await?;
        if len == 0 {
            return Ok(body);
        }
    }
}

/// Closes so that the other side sees a reset and not an end.
fn reset(wire: Wire) -> Result<()> {
    wire.into_inner().set_zero_linger()?;
    Ok(())
}

impl Shared {
    /// What happens to this request, counted.
    fn act(&self, target: &str, method: &str) -> Option<Act> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.iter_mut().find_map(|(rule, n_seen)| {
            if (!rule.method.is_empty() && rule.method != method) || !target.contains(rule.contains) {
                return None;
            }
            let n = *n_seen;
            *n_seen += 1;
            (n >= rule.after && n - rule.after < rule.times).then(|| {
                self.touched.fetch_add(1, Ordering::SeqCst);
                rule.act.clone()
            })
        })
    }

    async fn serve(&self, client: TcpStream) -> Result<()> {
        let mut client = BufReader::new(client);
        let mut server: Option<Wire> = None;
        while let Some(mut request) = read_head(&mut client).await? {
            let mut words = request.line.split(' ');
            let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {target}"));
            let act = self.act(&target, &method);
            let limit = match act {
                Some(Act::Drop) => return Ok(()),
                Some(Act::ResetInRequest(n)) => n,
                _ => usize::MAX,
            };
            request.body = read_body(&mut client, &request, limit).await?;
            match &act {
                Some(Act::ResetInRequest(_)) => return reset(client),
                Some(Act::Stall(wait)) => {
                    tokio::time::sleep(*wait).await;
                    return Ok(());
                }
                Some(Act::Answer(status, code, message)) => {
                    send(&mut client, &Message::answer(*status, &error_body(code, message)), &method).await?;
                    continue;
                }
                Some(Act::Acknowledge) => {
                    let body = if method == "POST" {
                        "<CompleteMultipartUploadResult><ETag>&quot;lie&quot;</ETag></CompleteMultipartUploadResult>"
                    } else {
                        ""
                    };
                    let mut answer = Message::answer(200, body);
                    answer.headers.push(("ETag".to_owned(), "\"lie\"".to_owned()));
                    send(&mut client, &answer, &method).await?;
                    continue;
                }
                Some(Act::NotImplemented(words)) => {
                    let headers = String::from_utf8_lossy(&request.head()).to_lowercase();
                    if words.iter().any(|word| headers.contains(word)) {
                        let body = error_body("NotImplemented", "a header you provided is not implemented");
                        send(&mut client, &Message::answer(501, &body), &method).await?;
                        continue;
                    }
                }
                Some(Act::FlipRequest) => {
                    let middle = request.body.len() / 2;
                    if let Some(byte) = request.body.get_mut(middle) {
                        *byte ^= 1;
                    }
                }
                Some(Act::Strip(names)) => self.strip(&mut request, &method, &target, names)?,
                Some(Act::OldDate) => {
                    for (name, value) in &mut request.headers {
                        if name.eq_ignore_ascii_case("x-amz-date") {
                            value.replace_range(..8, OLD_DAY);
                        } else if name.eq_ignore_ascii_case("authorization") {
                            *value = on_day(value, OLD_DAY).context("no date in the signature")?;
                        }
                    }
                    self.strip(&mut request, &method, &target, &[])?;
                }
                Some(Act::Later(_)) => self.sign_now(&mut request, &method, &target)?,
                _ => {}
            }
            let mut response = self.forward(&mut server, &request, &method).await?;
            match act {
                Some(Act::LoseAnswer) => return reset(client),
                Some(Act::HoldAnswer(wait)) => {
                    tokio::time::sleep(wait).await;
                    return Ok(());
                }
                Some(Act::LateAnswer(wait)) => {
                    tokio::time::sleep(wait).await;
                    send(&mut client, &response, &method).await?;
                }
                Some(Act::Later(by)) => {
                    for (_, value) in response.headers.iter_mut().filter(|(name, _)| name.eq_ignore_ascii_case("date"))
                    {
                        *value = later(value, by)?;
                    }
                    send(&mut client, &response, &method).await?;
                }
                Some(Act::OtherChecksum) => {
                    let is_checksum = |name: &str| name.eq_ignore_ascii_case("x-amz-checksum-crc64nvme");
                    for (_, value) in response.headers.iter_mut().filter(|(name, _)| is_checksum(name)) {
                        // Eight bytes in base64, and certainly not those.
                        let other = if value.starts_with('A') { 'B' } else { 'A' };
                        value.replace_range(..1, &other.to_string());
                    }
                    send(&mut client, &response, &method).await?;
                }
                Some(Act::ErrorInOk(code)) => {
                    send(&mut client, &Message::answer(200, &error_body(code, "it went wrong")), &method).await?;
                }
                Some(Act::AnswerAfter(status, code, message)) => {
                    send(&mut client, &Message::answer(status, &error_body(code, message)), &method).await?;
                }
                Some(Act::FlipResponse) => {
                    let middle = response.body.len() / 2;
                    if let Some(byte) = response.body.get_mut(middle) {
                        *byte ^= 1;
                    }
                    send(&mut client, &response, &method).await?;
                }
                Some(Act::TruncateResponse(n)) => return send_beginning(&mut client, &response, n).await,
                Some(Act::ResetInResponse(n)) => {
                    send_beginning(&mut client, &response, n).await?;
                    return reset(client);
                }
                _ => send(&mut client, &response, &method).await?,
            }
        }
        Ok(())
    }

    /// Sends a request to the server and reads its answer, on a connection that is kept.
    async fn forward(&self, server: &mut Option<Wire>, request: &Message, method: &str) -> Result<Message> {
        let wire = match server {
            Some(wire) => wire,
            None => server.insert(BufReader::new(TcpStream::connect(("127.0.0.1", self.server)).await?)),
        };
        wire.write_all(&request.head()).await?;
        wire.write_all(&request.body).await?;
        wire.flush().await?;
        let mut response = loop {
            let head = read_head(wire).await?.context("the server closed the connection")?;
            if !head.line.contains(" 100 ") {
                break head;
            }
        };
        let bodiless = method == "HEAD" || response.line.contains(" 204 ") || response.line.contains(" 304 ");
        if !bodiless {
            response.body = read_body(wire, &response, usize::MAX).await?;
            response.headers.retain(|(name, _)| {
                !name.eq_ignore_ascii_case("transfer-encoding") && !name.eq_ignore_ascii_case("content-length")
            });
            response.headers.push(("Content-Length".to_owned(), response.body.len().to_string()));
        }
        if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            *server = None;
        }
        Ok(response)
    }

    /// Signs with the time of this machine: a client believes the time that it was told, and the server does not.
    fn sign_now(&self, request: &mut Message, method: &str, target: &str) -> Result<()> {
        let now = strongroom::clock::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        for (name, value) in &mut request.headers {
            if name.eq_ignore_ascii_case("x-amz-date") {
                value.clone_from(&now);
            } else if name.eq_ignore_ascii_case("authorization") {
                *value = on_day(value, &now[..8]).context("no date in the signature")?;
            }
        }
        self.strip(request, method, target, &[])
    }

    /// Removes headers, from the signature as well (AWS Signature Version 4).
    fn strip(&self, request: &mut Message, method: &str, target: &str, names: &[&str]) -> Result<()> {
        let stripped = |name: &str| names.iter().any(|strip| strip.eq_ignore_ascii_case(name));
        request.headers.retain(|(name, _)| !stripped(name));
        let authorization = request.header("authorization").context("the request is not signed")?.to_owned();
        let field = |name: &str| {
            let rest = authorization.split_once(&format!("{name}="))?.1;
            Some(rest.split([',', ' ']).next().unwrap_or(rest).to_owned())
        };
        let credential = field("Credential").context("no credential in the signature")?;
        let signed = field("SignedHeaders").context("no headers in the signature")?;
        let signed = signed.split(';').filter(|name| !stripped(name)).collect::<Vec<_>>().join(";");
        let scope = credential.split_once('/').context("no scope in the signature")?.1.to_owned();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        pairs.sort();
        let mut canonical = format!("{method}\n{path}\n{}\n", pairs.join("&"));
        for name in signed.split(';') {
            let _ = writeln!(canonical, "{name}:{}", request.header(name).unwrap_or(""));
        }
        let payload = request.header("x-amz-content-sha256").context("no hash of the payload")?;
        let _ = write!(canonical, "\n{signed}\n{payload}");
        let date = request.header("x-amz-date").context("no date")?;
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
        );
        let mut key = format!("AWS4{}", self.keys.1).into_bytes();
        for part in scope.split('/') {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes()).as_ref());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.keys.0
        );
        for (name, value) in &mut request.headers {
            if name.eq_ignore_ascii_case("authorization") {
                value.clone_from(&authorization);
            }
        }
        if signed.is_empty() {
            bail!("nothing is left to sign");
        }
        Ok(())
    }
}

async fn send(client: &mut Wire, message: &Message, method: &str) -> Result<()> {
    client.write_all(&message.head()).await?;
    if method != "HEAD" {
        client.write_all(&message.body).await?;
    }
    client.flush().await?;
    Ok(())
}

/// An answer whose body is cut after `n` bytes, or before its last one.
async fn send_beginning(client: &mut Wire, message: &Message, n: usize) -> Result<()> {
    client.write_all(&message.head()).await?;
    client.write_all(&message.body[..n.min(message.body.len().saturating_sub(1))]).await?;
    client.flush().await?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
