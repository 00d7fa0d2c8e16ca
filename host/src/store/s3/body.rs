//! Request bodies that say how far they got, and the wait that ends when nothing moves any more.

use crate::store::bandwidth::{Bandwidth, SLICE_BYTES};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// When something last moved.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    moved_ms: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), moved_ms: AtomicU64::new(0) })
    }

    /// Something moved just now.
    pub(super) fn moved(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// The result of `work`, or `None` once nothing has moved for as long as `stall`. There is no
    /// limit on the whole: a slow network is slow, a dead one is dead.
    pub(super) async fn watch<T>(&self, stall: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        self.moved();
        loop {
            let seen = self.moved_ms.load(Ordering::Relaxed);
            let dead = self.began + Duration::from_millis(seen) + stall;
            tokio::select! {
                done = &mut work => return Some(done),
                () = tokio::time::sleep_until(dead) => {
                    if self.moved_ms.load(Ordering::Relaxed) == seen {
                        return None;
                    }
                }
            }
        }
    }
}

/// Bytes that are sent in slices without being copied: small enough to see a slow network move, and
/// no faster than the limit allows.
pub(super) struct Sliced {
    rest: Bytes,
    progress: Arc<Progress>,
    limit: Option<Arc<Bandwidth>>,
    /// The wait for the next slice's turn.
    turn: Option<Pin<Box<Sleep>>>,
}

impl Sliced {
    pub(super) fn new(body: Bytes, progress: Arc<Progress>, limit: Option<Arc<Bandwidth>>) -> Self {
        Self { rest: body, progress, limit, turn: None }
    }
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let mut n = this.rest.len().min(SLICE_BYTES);
        if let Some(limit) = &this.limit {
            n = n.min(limit.slice_bytes());
            let now = Instant::now();
            let turn = this.turn.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit.reserve(n, now))));
            ready!(turn.as_mut().poll(cx));
            this.turn = None;
        }
        self.progress.moved();
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(n)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(super::super::len_of(&self.rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limited_body_is_whole_and_counted_slice_by_slice() {
        for limit in [None, Some(Arc::new(Bandwidth::new(100 << 20))), Some(Arc::new(Bandwidth::new(1 << 20)))] {
            let bytes: Vec<u8> = (0..150_000_u32).map(|i| i.to_le_bytes()[0]).collect();
            let mut body = Sliced::new(bytes.clone().into(), Progress::new(), limit.clone());
            let mut sent: Vec<Bytes> = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                sent.push(frame.unwrap().into_data().unwrap());
            }
            assert!(sent.concat() == bytes);
            let most = limit.as_ref().map_or(SLICE_BYTES, |limit| limit.slice_bytes());
            assert!(sent.iter().all(|slice| slice.len() <= most) && sent.len() == bytes.len().div_ceil(most));
            assert_eq!(limit.map_or(150_000, |limit| limit.n_bytes()), 150_000);
        }
    }

    #[tokio::test]
    async fn a_wait_ends_when_nothing_moves_and_not_before() {
        let progress = Progress::new();
        let stall = Duration::from_millis(60);
        let slow = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                progress.moved();
            }
        };
        assert_eq!(progress.watch(stall, slow).await, Some(()));
        assert_eq!(progress.watch(stall, std::future::pending::<()>()).await, None);
    }
}
