//! Streams that stay in the host. A source handed from one call to another is moved natively.

use crate::Result;
use crate::bindings::strongroom::plugin::bytes as wit;
use std::io::{self, BufReader, Read, Write};

/// What one call of the host returns at most, in bytes (`bytes.wit`).
const MAX_READ_BYTES: usize = 1 << 20;

/// Written to the host per call at most: a fraction of what a call may carry, so that the reader
/// of a pipe starts early.
const MAX_WRITE_BYTES: usize = 256 << 10;

/// The readable end of a stream. [`Read`] needs the grant `inspect`; handing it on does not.
///
/// The end of what it reads is proven: a program that failed, or bytes that are not those
/// recorded, end in an error instead.
#[derive(Debug)]
pub struct Source(pub(crate) wit::Source);

impl Source {
    /// The text line by line, without its line ends.
    pub fn lines(self) -> io::Lines<BufReader<Source>> {
        io::BufRead::lines(BufReader::with_capacity(64 << 10, self))
    }

    /// Between 1 and `max_bytes` bytes, as soon as there are any; empty is the end.
    pub fn next_chunk(&mut self, max_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.read(u32::try_from(max_bytes.clamp(1, MAX_READ_BYTES)).unwrap_or(u32::MAX))?)
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let chunk = self.next_chunk(buf.len())?;
        // The host never returns more than it was asked for; if it did, bytes would be lost.
        let Some(head) = buf.get_mut(..chunk.len()) else {
            return Err(io::Error::other("the host returned more bytes than it was asked for"));
        };
        head.copy_from_slice(&chunk);
        Ok(chunk.len())
    }
}

/// The writable end of a pipe. Dropping it unfinished makes the reader fail.
#[derive(Debug)]
pub struct Sink(wit::Sink);

impl Sink {
    /// Ends the pipe well.
    pub fn finish(self) -> Result<()> {
        Ok(wit::finish(self.0)?)
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let part = &buf[..buf.len().min(MAX_WRITE_BYTES)];
        if !part.is_empty() {
            self.0.write(part).map_err(crate::Error::from)?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bounded pipe inside the host. Hand the source on before writing much: a write waits while
/// the pipe is full.
pub fn pipe() -> Result<(Sink, Source)> {
    let (sink, source) = wit::pipe()?;
    Ok((Sink(sink), Source(source)))
}

/// Two sources with the same bytes. The slower reader holds the faster one back; if either
/// fails, both do.
pub fn tee(source: Source) -> Result<(Source, Source)> {
    let (one, other) = wit::tee(source.0)?;
    Ok((Source(one), Source(other)))
}
