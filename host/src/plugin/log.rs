//! The log of a run: what a guest says, in bounds.

use super::context::{Level, Reporter};
use super::guard::lock;
use super::limits::Limits;
use super::speech;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Most fields of one log line.
const MAX_FIELDS: usize = 32;
/// What a line costs besides its text, in bytes: empty lines are not free.
const LINE_BYTES: usize = 16;
/// The field in which the SDK's panic hook says where.
const PANIC_FIELD: &str = "panicked-at";

/// Where the lines of a run go; a copy is the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Inner>);

struct Inner {
    reporter: Arc<dyn Reporter>,
    used_bytes: AtomicUsize,
    max_bytes: usize,
    /// Said once, in place of the first line that has no room.
    full: String,
    panic: Mutex<Option<String>>,
}

impl Log {
    pub(super) fn new(reporter: Arc<dyn Reporter>, limits: &Limits, label: &str) -> Self {
        let full = format!("{}; further lines are left out", super::budget::Limit::LogBytes.spent(label, limits));
        Self(Arc::new(Inner {
            reporter,
            used_bytes: AtomicUsize::new(0),
            max_bytes: limits.log_bytes,
            full,
            panic: Mutex::default(),
        }))
    }

    /// One line, cut, escaped and counted.
    pub(super) fn line(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let message = speech::line(message);
        let fields: Vec<_> = fields.iter().take(MAX_FIELDS).map(|(k, v)| (speech::line(k), speech::line(v))).collect();
        if let Some((_, place)) = fields.iter().find(|(key, _)| key == PANIC_FIELD) {
            *lock(&self.0.panic) = Some(format!("{message} (at {place})"));
        }
        let bytes = LINE_BYTES + message.len() + fields.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        let before =
            self.0.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(bytes)));
        let before = before.unwrap_or(usize::MAX);
        if before.saturating_add(bytes) <= self.0.max_bytes {
            self.0.reporter.log(level, &message, &fields);
        } else if before <= self.0.max_bytes {
            self.0.reporter.log(Level::Warn, &self.0.full, &[]);
        }
    }

    /// The last panic that the guest reported of itself.
    pub(super) fn panic(&self) -> Option<String> {
        lock(&self.0.panic).clone()
    }
}

/// Standard output or error of a guest from another toolchain: its lines are log lines.
pub(super) struct LineWriter {
    log: Log,
    line: Vec<u8>,
}

impl LineWriter {
    pub(super) fn new(log: Log) -> Self {
        Self { log, line: Vec::new() }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.log.line(Level::Info, &String::from_utf8_lossy(&line), &[]);
    }
}

impl AsyncWrite for LineWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        for byte in data {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= speech::MAX_TEXT_BYTES {
                self.end_line();
            }
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}
