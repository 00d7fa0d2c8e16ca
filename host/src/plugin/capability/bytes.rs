//! `bytes`: sources, pipes and tees. Bytes enter the guest only where the policy says `inspect`.

use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::bytes;
use crate::plugin::budget::Permit;
use crate::plugin::guard::{Deadline, Refusal, lock};
use crate::plugin::ledger::Ledger;
use crate::plugin::state::{State, check_leashes};
use crate::policy::Call;
use crate::stream::{ByteSource, Leash, PipeSink, Source, SourceInfo, pipe, tee};
use futures_util::poll;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

/// Most bytes that one `source.read` returns.
const MAX_READ_BYTES: u32 = 1 << 20;

/// What stands between a pipe and its last reader, as far as the guest can hold it.
#[derive(Clone, Debug, Default)]
pub(super) struct Downstream(Arc<Mutex<Vec<Leash>>>);

impl Downstream {
    pub(super) fn add(&self, leash: Leash) {
        lock(&self.0).push(leash);
    }

    fn is_held(&self) -> bool {
        lock(&self.0).iter().any(Leash::is_held)
    }
}

/// A source in the guest's hands.
pub struct GuestSource {
    /// Away while a read is under way, and for ever after one that was given up.
    source: Option<Source>,
    leash: Leash,
    /// The pipe that it is the end of.
    downstream: Option<Downstream>,
    /// Of the handle that gave it, or its own.
    ledger: Arc<Ledger>,
    _permit: Permit,
}

impl Drop for GuestSource {
    fn drop(&mut self) {
        self.leash.release();
    }
}

/// The writable end of a pipe in the guest's hands.
pub struct GuestSink {
    /// Away after a write that was given up: the pipe has ended badly.
    sink: Option<PipeSink>,
    downstream: Downstream,
    ledger: Arc<Ledger>,
    _permit: Permit,
}

/// A source that has left the guest's hands.
pub(super) struct Taken {
    pub(super) source: Source,
    pub(super) downstream: Option<Downstream>,
    ledger: Arc<Ledger>,
}

impl State {
    /// Gives the guest a source, whose reads `ledger` counts.
    pub(super) fn push_source(
        &mut self,
        source: Source,
        downstream: Option<Downstream>,
        ledger: Arc<Ledger>,
    ) -> Result<Resource<GuestSource>, Refusal> {
        let permit = self.stream_place()?;
        let leash = source.leash.clone();
        Ok(self.table.push(GuestSource { source: Some(source), leash, downstream, ledger, _permit: permit })?)
    }

    /// Takes a source out of the guest's hands, whatever becomes of the call.
    ///
    /// The inner result is an error of a source whose read was given up: it has no bytes any more.
    pub(super) fn take_source(&mut self, this: Resource<GuestSource>) -> Result<Result<Taken>, Refusal> {
        let mut guest = self.table.delete(this)?;
        guest.leash.release();
        let (downstream, ledger) = (guest.downstream.take(), Arc::clone(&guest.ledger));
        Ok(guest.source.take().ok_or_else(given_up).map(|source| Taken { source, downstream, ledger }))
    }
}

fn given_up() -> Error {
    Error::invalid("the source has ended badly: an earlier read of it was given up")
}

/// Runs blocking work on its own thread; a panic there is an error here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::failed("the host failed inside a call of the plugin").because(e))
}

impl bytes::HostSource for State {
    async fn read(&mut self, this: Resource<GuestSource>, max: u32) -> Result<Vec<u8>, Refusal> {
        let guard = self.guard.clone();
        let guest = self.table.get_mut(&this)?;
        let Some((origin, granted)) = guest.source.as_ref().map(|source| (source.origin.clone(), source.inspect))
        else {
            return Err(given_up().into());
        };
        let ledger = Arc::clone(&guest.ledger);
        let work = async {
            let max = usize::try_from(max.min(MAX_READ_BYTES)).unwrap_or_default();
            if max == 0 {
                return Err(Error::invalid("a read of 0 bytes has no answer but the end").into());
            }
            check_leashes(guest.source.as_ref().map(|s| s.waits_for.as_slice()).unwrap_or_default(), "the read")?;
            let mut source = guest.source.take().ok_or_else(given_up)?;
            let (source, read) = blocking(move || {
                let mut buf = vec![0; max];
                let read = source.body.read(&mut buf).map(|n| {
                    buf.truncate(n);
                    buf
                });
                (source, read)
            })
            .await?;
            guest.source = Some(source);
            let read = read?;
            guard.moved(read.len());
            Ok(read)
        };
        guard
            .pass_on(
                &ledger,
                "bytes.source.read",
                Some(&Call::Read { origin: &origin, granted }),
                Deadline::Stall,
                work,
            )
            .await
    }

    async fn drop(&mut self, this: Resource<GuestSource>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl bytes::HostSink for State {
    async fn write(&mut self, this: Resource<GuestSink>, data: Vec<u8>) -> Result<(), Refusal> {
        let guard = self.guard.clone();
        let guest = self.table.get_mut(&this)?;
        let Some(mut sink) = guest.sink.take() else {
            return Err(Error::invalid("the pipe has ended badly: an earlier write was given up").into());
        };
        let ledger = Arc::clone(&guest.ledger);
        let n_bytes = data.len();
        let work = async {
            // Taken out above: a write that is given up half-way must not be followed by another one.
            let write = sink.write(data.into());
            let mut write = pin!(write);
            let written = match poll!(&mut write) {
                Poll::Ready(written) => written,
                Poll::Pending if guest.downstream.is_held() => {
                    return Err(Error::invalid(
                        "the write would never end: the pipe is full, and the plugin itself holds its other end",
                    )
                    .into());
                }
                Poll::Pending => write.await,
            };
            written?;
            guard.moved(n_bytes);
            Ok(())
        };
        let written = guard.pass_on(&ledger, "bytes.sink.write", None, Deadline::Stall, work).await;
        // Else the sink goes, so the reader fails, and no longer waits for the guest.
        if written.is_ok() {
            self.table.get_mut(&this)?.sink = Some(sink);
        }
        written
    }

    async fn drop(&mut self, this: Resource<GuestSink>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl bytes::Host for State {
    async fn pipe(&mut self) -> Result<(Resource<GuestSink>, Resource<GuestSource>), Refusal> {
        let guard = self.guard.clone();
        let work = async {
            let permit = self.stream_place()?;
            let (sink, source) = pipe(self.run.cancel.clone());
            let downstream = Downstream::default();
            downstream.add(source.leash.clone());
            let ledger = guard.ledger("pipe", "");
            let sink =
                GuestSink { sink: Some(sink), downstream: downstream.clone(), ledger: ledger.clone(), _permit: permit };
            let source = self.push_source(source, Some(downstream), ledger)?;
            Ok((self.table.push(sink)?, source))
        };
        guard.pass("bytes.pipe", None, Deadline::Own, work).await
    }

    async fn finish(&mut self, sink: Resource<GuestSink>) -> Result<(), Refusal> {
        let mut guest = self.table.delete(sink)?;
        let ledger = Arc::clone(&guest.ledger);
        let work = async {
            let sink = guest
                .sink
                .take()
                .ok_or_else(|| Error::invalid("the pipe has ended badly: an earlier write was given up"))?;
            Ok(sink.finish()?)
        };
        self.guard.pass_on(&ledger, "bytes.finish", None, Deadline::Own, work).await
    }

    async fn tee(
        &mut self,
        source: Resource<GuestSource>,
    ) -> Result<(Resource<GuestSource>, Resource<GuestSource>), Refusal> {
        let taken = self.take_source(source)?;
        let guard = self.guard.clone();
        let work = async {
            let Taken { source, downstream, ledger } = taken?;
            let (one, two) = tee(source, self.run.cancel.clone());
            if let Some(downstream) = &downstream {
                downstream.add(one.leash.clone());
                downstream.add(two.leash.clone());
            }
            let one = self.push_source(one, downstream.clone(), ledger.clone())?;
            Ok((one, self.push_source(two, downstream, ledger)?))
        };
        guard.pass("bytes.tee", None, Deadline::Own, work).await
    }
}

/// Whoever moves the bytes has the same limit and knows more of what stalled: it may say so first.
const SPEAK_FIRST: Duration = Duration::from_secs(3);

/// Awaits `work` as long as one of these moves; `None` when none has for `stall` and [`SPEAK_FIRST`].
pub(in crate::plugin) async fn while_moving<F: Future>(
    watches: &[Watch],
    stall: Duration,
    work: F,
) -> Option<F::Output> {
    let come = || watches.iter().map(Watch::seen).fold(0, u64::wrapping_add);
    let mut work = pin!(work);
    loop {
        let seen = come();
        match tokio::time::timeout(stall.saturating_add(SPEAK_FIRST), &mut work).await {
            Ok(output) => return Some(output),
            Err(_) if come() == seen => return None,
            Err(_) => {}
        }
    }
}

/// How far the bytes of a call have come: what its waits take for progress.
#[derive(Clone, Debug, Default)]
pub(in crate::plugin) struct Watch(Arc<AtomicU64>);

impl Watch {
    pub(super) fn seen(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Awaits `work` as long as something moves; `None` when nothing has for `stall` and
    /// [`SPEAK_FIRST`].
    pub(super) async fn moving<F: Future>(&self, stall: Duration, work: F) -> Option<F::Output> {
        while_moving(std::slice::from_ref(self), stall, work).await
    }

    /// The source as it is, but that its bytes are counted and that it ends when `stop` is cancelled.
    pub(super) fn over(&self, mut source: Source, stop: &CancellationToken) -> Source {
        let body = std::mem::replace(&mut source.body, Box::new(crate::stream::source::InMemory::new(Vec::new())));
        source.body = Box::new(Watched { body, seen: Arc::clone(&self.0), stop: stop.clone() });
        source
    }
}

struct Watched {
    body: Box<dyn ByteSource>,
    seen: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Watched {
    fn check(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(Error::cancelled("the plugin gave the stream up")) } else { Ok(()) }
    }
}

impl ByteSource for Watched {
    fn open(&mut self) -> Result<SourceInfo> {
        self.check()?;
        let info = self.body.open();
        self.seen.fetch_add(1, Ordering::Relaxed);
        info
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.check()?;
        let n = self.body.read(buf)?;
        self.seen.fetch_add(n as u64 + 1, Ordering::Relaxed);
        Ok(n)
    }

    fn next_chunk(&mut self) -> Result<Option<::bytes::Bytes>> {
        self.check()?;
        let chunk = self.body.next_chunk()?;
        self.seen.fetch_add(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64) + 1, Ordering::Relaxed);
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_lasts_as_long_as_one_of_its_streams_moves() {
        let watches = [Watch::default(), Watch::default()];
        let nothing = while_moving(&watches, Duration::ZERO, std::future::pending::<()>()).await;
        assert_eq!(nothing, None);
        let moved = Arc::clone(&watches[1].0);
        // Longer than a wait for nothing, with a byte on its way.
        let slow = async move {
            for _ in 0..4 {
                tokio::time::sleep(SPEAK_FIRST / 3).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert_eq!(while_moving(&watches, Duration::ZERO, slow).await, Some(()));
    }
}
