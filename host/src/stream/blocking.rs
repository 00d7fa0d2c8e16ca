//! The bridge from a blocking thread to a future.
//!
//! The threads of this module are plain threads, so that a source that hangs can be left behind;
//! what they wait for (permits, channels, cancellation) is asynchronous. It never polls on a timer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks this thread until the future is ready.
///
/// For futures that need no runtime to make progress (channels, permits, tokens). On a thread of
/// the async runtime it would hold up everything else that runs there.
pub(crate) fn wait_for<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            // A wake-up between the poll and here makes `park` return at once.
            Poll::Pending => std::thread::park(),
        }
    }
}
