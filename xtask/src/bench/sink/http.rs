//! As much of HTTP/1.1 as S3 clients speak to a server on the same machine: requests with a known length,
//! kept-alive connections, `Expect: 100-continue`, and bodies in `aws-chunked` encoding.

use super::object::Slice;
use super::pace::Gate;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Bytes that are taken from a connection at once.
const READ_BYTES: usize = 256 << 10;
/// Longest line of a head; S3 keys have up to 1 KiB, signatures some hundred bytes.
const LINE_BYTES: u64 = 16 << 10;

/// A request without its body.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Bucket and key, decoded, without the leading slash.
    pub(super) path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A header by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query; one without a value is empty.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Bytes of the body on the wire.
    pub(super) fn content_length(&self) -> io::Result<u64> {
        let is_put = matches!(self.method.as_str(), "PUT" | "POST");
        match self.header("content-length") {
            Some(text) => text.parse().map_err(|_| malformed("Content-Length is not a number")),
            None if is_put && self.header("transfer-encoding").is_some() => Err(malformed("a body of unknown length")),
            None => Ok(0),
        }
    }

    /// Whether the body is wrapped in signed or trailed chunks.
    fn is_chunked(&self) -> bool {
        self.header("x-amz-content-sha256").is_some_and(|text| text.starts_with("STREAMING-"))
    }

    /// Bytes of the body as the client means it.
    pub(super) fn body_bytes(&self) -> io::Result<u64> {
        match self.header("x-amz-decoded-content-length") {
            Some(text) if self.is_chunked() => text.parse().map_err(|_| malformed("decoded length is not a number")),
            _ => self.content_length(),
        }
    }
}

/// An answer; its body is sent slice by slice, nothing is copied together.
#[derive(Debug, Default)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<Slice>,
    /// The length to state when no body is sent, as the answer to `HEAD` does.
    pub(super) stated_bytes: Option<u64>,
}

impl Response {
    pub(super) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// A whole body of text.
    pub(super) fn text(status: u16, text: &str) -> Self {
        let body = vec![Slice::of(text.as_bytes().to_vec())];
        Self { body, ..Self::empty(status) }.with("Content-Type", "application/xml")
    }

    /// The answer without its body where the method forbids one (RFC 9110, 9.3.2).
    pub(super) fn for_method(mut self, method: &str) -> Self {
        if method == "HEAD" {
            self.stated_bytes = self.stated_bytes.or_else(|| u64::try_from(self.body_bytes()).ok());
            self.body.clear();
        }
        self
    }

    fn body_bytes(&self) -> usize {
        self.body.iter().map(|slice| slice.bytes().len()).sum()
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let writer = stream.try_clone()?;
        Ok(Self { reader: BufReader::with_capacity(READ_BYTES, stream), writer })
    }

    /// The next request, or `None` when the client has closed the connection.
    pub(super) fn next(&mut self) -> io::Result<Option<Request>> {
        let Some(first) = self.line()? else { return Ok(None) };
        let mut words = first.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(malformed("the first line is no request"));
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?.ok_or_else(|| malformed("the head ends too soon"))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        let request = Request {
            method: method.to_owned(),
            path: decode(path).trim_start_matches('/').to_owned(),
            query: query.collect(),
            headers,
        };
        if request.header("expect").is_some_and(|text| text.eq_ignore_ascii_case("100-continue")) {
            self.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(Some(request))
    }

    /// Takes so many bytes of a request's body and throws them away.
    pub(super) fn drain(&mut self, bytes: u64, gate: &Gate) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let n = u64::try_from(self.reader.fill_buf()?.len()).unwrap_or(u64::MAX).min(left);
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            gate.pass(n);
            self.reader.consume(usize::try_from(n).map_err(io::Error::other)?);
            left -= n;
        }
        Ok(())
    }

    /// Takes a request's body as the client means it.
    pub(super) fn keep(&mut self, request: &Request, gate: &Gate) -> io::Result<Vec<u8>> {
        let expected = request.body_bytes()?;
        let mut body = Vec::with_capacity(usize::try_from(expected).map_err(io::Error::other)?);
        let mut wire = self.reader.by_ref().take(request.content_length()?);
        if request.is_chunked() {
            while let Some(n) = chunk(&mut wire)? {
                wire.by_ref().take(n).read_to_end(&mut body)?;
                gate.pass(n);
                line_of(&mut wire)?;
            }
            // What follows the last chunk are checksums in trailers.
            io::copy(&mut wire, &mut io::sink())?;
        } else {
            wire.read_to_end(&mut body)?;
            gate.pass(expected);
        }
        if u64::try_from(body.len()).ok() != Some(expected) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    /// Sends an answer, its body no faster than the gate lets it through.
    pub(super) fn send(&mut self, response: &Response, gate: &Gate) -> io::Result<()> {
        let bytes =
            response.stated_bytes.map_or_else(|| response.body_bytes().to_string(), |stated| stated.to_string());
        let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if response.status != 204 {
            head.push_str(&format!("Content-Length: {bytes}\r\n"));
        }
        head.push_str("\r\n");
        self.writer.write_all(head.as_bytes())?;
        for slice in &response.body {
            for bytes in slice.bytes().chunks(gate.slice_bytes()) {
                gate.pass(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                self.writer.write_all(bytes)?;
            }
        }
        Ok(())
    }

    /// A line of a head without its end; `None` at the end of the connection.
    fn line(&mut self) -> io::Result<Option<String>> {
        line_of(&mut self.reader)
    }
}

/// A line without its end; `None` when there is nothing more.
fn line_of(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(malformed("a line is too long or cut"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| malformed("a head that is not UTF-8"))
}

/// The length of the next `aws-chunked` chunk; `None` for the last one. The line is
/// `HEX` or `HEX;chunk-signature=…` (AWS, "Signature calculations: transferring payload in multiple chunks").
fn chunk(wire: &mut impl BufRead) -> io::Result<Option<u64>> {
    let line = line_of(wire)?.ok_or_else(|| malformed("the last chunk is missing"))?;
    let digits = line.split(';').next().unwrap_or_default();
    let n = u64::from_str_radix(digits.trim(), 16).map_err(|_| malformed("a chunk without a length"))?;
    Ok((n > 0).then_some(n))
}

/// Percent-decoding; what is not a valid escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        404 => "Not Found",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Slow Down",
        _ => "Error",
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
