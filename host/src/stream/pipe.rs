//! A bounded pipe inside the host.

use super::{ByteSource, Source};
use super::source::Origin;
use crate::error::{Error, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

/// The writable end; dropped unfinished, the reader fails.
pub struct PipeSink {
    tx: mpsc::Sender<Option<Bytes>>,
    end: mpsc::Sender<()>,
}

struct Reader {
    rx: mpsc::Receiver<Option<Bytes>>,
    end: mpsc::Receiver<()>,
    rest: Bytes,
    ended: bool,
}

/// A pipe of at most 8 chunks.
pub fn pipe() -> (PipeSink, Source) {
    let (tx, rx) = mpsc::channel(8);
    let (end, end_rx) = mpsc::channel(1);
    (PipeSink { tx, end }, {
        let mut source = Source::new(Origin::Plugin, Reader { rx, end: end_rx, rest: Bytes::new(), ended: false });
        source.inspect = true;
        source
    })
}

impl PipeSink {
    /// Writes.
    pub async fn write(&self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.tx.send(Some(data)).await.map_err(|_| Error::failed("the reader of the pipe is gone"))
    }

    /// Ends it well.
    pub fn finish(self) {
        let _ = self.end.try_send(());
    }
}

impl ByteSource for Reader {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.rest.is_empty() && !self.ended {
            match self.rx.blocking_recv() {
                Some(Some(data)) => self.rest = data,
                Some(None) | None => {
                    if self.end.try_recv().is_err() {
                        return Err(Error::failed("the pipe was dropped unfinished"));
                    }
                    self.ended = true;
                }
            }
        }
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// Two sources with the same bytes.
pub fn tee(mut source: Source) -> (Source, Source) {
    let (origin, inspect, waits_for) = (source.origin.clone(), source.inspect, source.waits_for.clone());
    let ((a, mut one), (b, mut two)) = (pipe(), pipe());
    for end in [&mut one, &mut two] {
        (end.origin, end.inspect, end.waits_for) = (origin.clone(), inspect, waits_for.clone());
    }
    std::thread::spawn(move || {
        loop {
            match source.body.next_chunk() {
                Ok(Some(chunk)) => {
                    if a.tx.blocking_send(Some(chunk.clone())).is_err() || b.tx.blocking_send(Some(chunk)).is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    a.finish();
                    b.finish();
                    return;
                }
                Err(_) => return,
            }
        }
    });
    (one, two)
}
