//! Work on a task of its own, of which the guest holds a handle.

use crate::error::{Error, Result};
use crate::plugin::capability::bytes::Watch;
use crate::plugin::guard::lock;
use crate::plugin::observer::Later;
use crate::plugin::state::{Reaper, Underway};
use crate::stream::Leash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

/// Work under way. Dropping it tells the work to stop and gives it to the reaper.
pub(super) struct Task<T> {
    outcome: Arc<Mutex<Option<Result<T>>>>,
    done: watch::Receiver<bool>,
    stop: Vec<CancellationToken>,
    waits_for: Vec<Leash>,
    watch: Watch,
    abort: AbortHandle,
}

/// Waits for a [`Task`] without holding it.
pub(super) struct Watcher {
    done: watch::Receiver<bool>,
    waits_for: Vec<Leash>,
    watch: Watch,
}

/// Who is told how the work ended, and how many bytes that were.
pub(super) struct Told<T> {
    pub(super) later: Option<Later>,
    pub(super) bytes: fn(&T) -> u64,
}

impl<T> Told<T> {
    fn tell(self, result: &Result<T>) {
        let Some(later) = self.later else { return };
        match result {
            Ok(value) => later.done(None, (self.bytes)(value)),
            Err(error) => later.done(Some(error), 0),
        }
    }
}

impl<T: Send + 'static> Task<T> {
    pub(super) fn new(
        work: JoinHandle<Result<T>>,
        stop: Vec<CancellationToken>,
        waits_for: Vec<Leash>,
        watch: Watch,
        reaper: &Reaper,
        told: Told<T>,
    ) -> Self {
        let (tell, done) = watch::channel(false);
        let outcome = Arc::new(Mutex::new(None));
        let abort = work.abort_handle();
        let place = Arc::clone(&outcome);
        reaper.add(tokio::spawn(async move {
            let result =
                work.await.unwrap_or_else(|e| Err(Error::failed("the host failed in the background").because(e)));
            told.tell(&result);
            *lock(&place) = Some(result);
            // Nobody may be waiting any more.
            let _ = tell.send(true);
        }));
        Self { outcome, done, stop, waits_for, watch, abort }
    }

    /// As [`Self::new`], for work that blocks a thread: it says itself that it is done, without a task
    /// between, which counts where there are a million small files.
    pub(super) fn blocking(
        work: impl FnOnce() -> Result<T> + Send + 'static,
        stop: Vec<CancellationToken>,
        waits_for: Vec<Leash>,
        watch: Watch,
        reaper: &Reaper,
        told: Told<T>,
    ) -> Self {
        let (tell, done) = watch::channel(false);
        let outcome = Arc::new(Mutex::new(None));
        let place = Arc::clone(&outcome);
        let work = tokio::task::spawn_blocking(move || {
            let panicked = |_| Err(Error::failed("the host failed in the background"));
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked);
            told.tell(&result);
            *lock(&place) = Some(result);
            // Nobody may be waiting any more.
            let _ = tell.send(true);
        });
        let abort = work.abort_handle();
        reaper.add(work);
        Self { outcome, done, stop, waits_for, watch, abort }
    }

    pub(super) fn watcher(&self) -> Watcher {
        Watcher { done: self.done.clone(), waits_for: self.waits_for.clone(), watch: self.watch.clone() }
    }

    pub(super) fn waits_for(&self) -> &[Leash] {
        &self.waits_for
    }

    /// What is known of it when the guest has let go of its handle.
    pub(super) fn underway(&self) -> Underway {
        Underway { task: Some(self.abort.clone()), waits_for: self.waits_for.clone(), watch: self.watch.clone() }
    }

    /// Tells the work to stop; it cleans up behind itself.
    pub(super) fn stop(&self) {
        self.stop.iter().for_each(CancellationToken::cancel);
    }
}

impl<T: Clone> Task<T> {
    /// What came of it, once it is done. A failure is given once.
    pub(super) fn outcome(&self) -> Result<T> {
        let mut place = lock(&self.outcome);
        match place.take() {
            Some(Ok(value)) => {
                *place = Some(Ok(value.clone()));
                Ok(value)
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::failed("it has failed, as an earlier wait for it said")),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.stop.iter().for_each(CancellationToken::cancel);
    }
}

impl Watcher {
    pub(super) fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    pub(super) fn waits_for(&self) -> &[Leash] {
        &self.waits_for
    }

    /// Waits until the work is done; false when it made no progress for as long as `stall`.
    pub(super) async fn done(mut self, stall: Duration) -> bool {
        let done = self.done.wait_for(|done| *done);
        self.watch.moving(stall, done).await.is_some()
    }
}
