//! How much is asked of a store at once: more while the store is what everybody waits for, half as
//! soon as it asks to be left alone.
//!
//! Parts that are sent or read go through a window. It begins small, grows by one when a whole
//! window of them has succeeded while it was full, and halves when the store answers 503, 429 or
//! `SlowDown`. It never grows beyond what the budget of the process has memory for, since a part
//! that waits here holds its buffer. A place is held for one attempt: who waits to try again holds
//! none. What waits here waits for requests only, so nobody waits in a circle.

use super::bandwidth::Bandwidth;
use super::{Condition, Lock, ObjectInfo, ObjectLock, ObjectVersion, Page, PendingUpload, Properties, Store, Upload};
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Parts under way at the beginning: enough to keep a near store busy.
const FIRST_IN_FLIGHT: usize = 2;
/// The most parts under way where nobody says otherwise: 4 of one budget and one each of 4 transfers.
const DEFAULT_IN_FLIGHT: usize = 8;

/// How much of a store may be used.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Parts that are sent or read at the same time, at most; at least 1.
    pub most_in_flight: usize,
    /// What is sent, together.
    pub upload: Option<Arc<Bandwidth>>,
    /// What is read, together.
    pub download: Option<Arc<Bandwidth>>,
}

impl Default for Pace {
    /// Up to 8 parts at once, no limit on bytes.
    fn default() -> Self {
        Self { most_in_flight: DEFAULT_IN_FLIGHT, upload: None, download: None }
    }
}

/// The number of parts that may be under way now, and who waits for a place.
#[derive(Debug)]
pub struct Window(Mutex<State>);

#[derive(Debug)]
struct State {
    most: usize,
    size: usize,
    n_under_way: usize,
    /// Parts that succeeded while the window was full, since it last changed.
    n_full: usize,
    /// How often it was halved: what began before the last time says nothing new.
    n_halved: u64,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// The right to have one part under way; given back when it is dropped.
#[derive(Debug)]
struct Place {
    window: Arc<Window>,
    n_halved: u64,
    /// The window had no other place left.
    was_full: bool,
}

impl Window {
    /// A window that never grows beyond `most`.
    fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        Arc::new(Self(Mutex::new(State {
            most,
            size: FIRST_IN_FLIGHT.min(most),
            n_under_way: 0,
            n_full: 0,
            n_halved: 0,
            waiting: VecDeque::new(),
        })))
    }

    /// How many parts may be under way now.
    pub fn size(&self) -> usize {
        self.lock().size
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let waiting = {
                let mut state = self.lock();
                if state.n_under_way < state.size {
                    return self.place(&mut state);
                }
                let (place, waiting) = oneshot::channel();
                state.waiting.push_back(place);
                waiting
            };
            // The sender stays in the queue until it is used, so this can not fail.
            if let Ok(place) = waiting.await {
                return place;
            }
        }
    }

    fn place(self: &Arc<Self>, state: &mut State) -> Place {
        state.n_under_way += 1;
        let was_full = state.n_under_way >= state.size;
        Place { window: self.clone(), n_halved: state.n_halved, was_full }
    }

    /// Gives free places to those who wait longest.
    fn admit(self: &Arc<Self>) {
        loop {
            let (sender, place) = {
                let mut state = self.lock();
                if state.n_under_way >= state.size {
                    return;
                }
                let Some(sender) = state.waiting.pop_front() else { return };
                // One that was given up is passed over; a place for it would come back to this lock.
                if sender.is_closed() {
                    continue;
                }
                (sender, self.place(&mut state))
            };
            // If it is given up right now, the place comes back as it is dropped.
            let _ = sender.send(place);
        }
    }

    /// A part has arrived: grows the window when that was full for a whole round.
    fn succeeded(&self, place: &Place) {
        let mut state = self.lock();
        if !place.was_full && state.waiting.is_empty() {
            return;
        }
        state.n_full += 1;
        if state.n_full >= state.size && state.size < state.most {
            state.size += 1;
            state.n_full = 0;
        }
    }

    /// The store asks to be left alone: halves the window, once for all that were under way together.
    fn slow_down(&self, began_after: u64) {
        let mut state = self.lock();
        if began_after == state.n_halved {
            state.size = (state.size / 2).max(1);
            state.n_halved += 1;
            state.n_full = 0;
        }
    }

    fn n_halved(&self) -> u64 {
        self.lock().n_halved
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.window.lock().n_under_way -= 1;
        self.window.admit();
    }
}

/// Whether the answer was that there is too much at once.
fn asks_for_less(error: &Error) -> bool {
    error.is_retryable() && error.retry_after_wait().is_some()
}

/// A store that is asked for no more at once than it takes well. Below the layer that tries again.
#[derive(Clone, Debug)]
pub struct PacedStore {
    inner: Arc<dyn Store>,
    window: Arc<Window>,
    /// Limits that the store itself does not keep: of one that takes and gives whole parts.
    upload: Option<Arc<Bandwidth>>,
    download: Option<Arc<Bandwidth>>,
}

impl PacedStore {
    /// A window over a store that keeps limits on bytes by itself.
    pub fn window_only(inner: Arc<dyn Store>, pace: &Pace) -> Self {
        Self { inner, window: Window::new(pace.most_in_flight), upload: None, download: None }
    }

    /// A window and limits on bytes, which wait before each part.
    pub fn new(inner: Arc<dyn Store>, pace: &Pace) -> Self {
        Self { upload: pace.upload.clone(), download: pace.download.clone(), ..Self::window_only(inner, pace) }
    }

    /// The window.
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }

    /// A request that moves a part.
    async fn move_part<T>(
        &self,
        limit: Option<&Arc<Bandwidth>>,
        bytes: u64,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let place = self.window.enter().await;
        pass(limit, bytes).await;
        let answer = request.await;
        match &answer {
            Ok(_) => self.window.succeeded(&place),
            Err(error) if asks_for_less(error) => self.window.slow_down(place.n_halved),
            Err(_) => {}
        }
        answer
    }

    /// Any other request: it has no place, and its answer counts all the same.
    async fn ask<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let n_halved = self.window.n_halved();
        request.await.inspect_err(|error| {
            if asks_for_less(error) {
                self.window.slow_down(n_halved);
            }
        })
    }
}

async fn pass(limit: Option<&Arc<Bandwidth>>, bytes: u64) {
    if let Some(limit) = limit {
        limit.pass(usize::try_from(bytes).unwrap_or(usize::MAX)).await;
    }
}

#[async_trait]
impl Store for PacedStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn local_root(&self) -> Option<std::path::PathBuf> {
        self.inner.local_root()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        pass(self.upload.as_ref(), super::len_of(&body)).await;
        self.ask(self.inner.put(key, body, condition)).await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let inner = self.ask(self.inner.begin_upload(key)).await?;
        Ok(Arc::new(PacedUpload { inner, store: self.clone() }))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let bytes = range.end.saturating_sub(range.start);
        self.move_part(self.download.as_ref(), bytes, self.inner.read_into(key, range, room)).await
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        let got = self.ask(self.inner.get(key, limit)).await?;
        // How much it is was not known before.
        pass(self.download.as_ref(), super::len_of(&got.0)).await;
        Ok(got)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.ask(self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.ask(self.inner.list(prefix, after)).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.ask(self.inner.folders(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        self.ask(self.inner.delete(key, version)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.ask(self.inner.pending_uploads(prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.ask(self.inner.abort_pending(upload)).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.ask(self.inner.now()).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.ask(self.inner.versions(prefix)).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.ask(self.inner.lock_of(version)).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.ask(self.inner.last_part(upload)).await
    }

    async fn properties(&self) -> Result<Properties> {
        self.ask(self.inner.properties()).await
    }

    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.ask(self.inner.folders_of_versions(prefix)).await
    }

    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self { inner: self.inner.pinned(versions)?, ..self.clone() }))
    }

    fn object_lock(&self) -> Option<ObjectLock> {
        self.inner.object_lock()
    }

    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        self.ask(self.inner.extend_lock(key)).await
    }
}

struct PacedUpload {
    inner: Arc<dyn Upload>,
    store: PacedStore,
}

#[async_trait]
impl Upload for PacedUpload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()> {
        let bytes = super::len_of(&body);
        let part = self.inner.part(number, body, crc64nvme);
        self.store.move_part(self.store.upload.as_ref(), bytes, part).await
    }

    fn expect_more(&self) {
        self.inner.expect_more();
    }

    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo> {
        self.store.ask(self.inner.complete(n_parts, size, crc64nvme)).await
    }

    async fn abort(&self) -> Result<()> {
        self.store.ask(self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::crc64nvme;
    use crate::store::memory::MemoryStore;
    use crate::stream::blocking::wait_for;
    use futures_util::FutureExt;
    use std::pin::Pin;
    use std::time::Duration;

    type Entering = Pin<Box<dyn Future<Output = Place> + Send>>;

    fn entering(window: &Arc<Window>) -> Entering {
        let window = window.clone();
        Box::pin(async move { window.enter().await })
    }

    /// A store with more to do than fits: `wanted` parts want to be under way at once, and the
    /// oldest of those that are is answered, `n` times.
    fn answer(window: &Arc<Window>, wanted: usize, n: usize, well: bool) {
        let mut under_way: VecDeque<Place> = VecDeque::new();
        let mut waiting: Vec<Entering> = Vec::new();
        for _ in 0..n {
            while under_way.len() + waiting.len() < wanted {
                waiting.push(entering(window));
            }
            waiting.retain_mut(|request| match request.as_mut().now_or_never() {
                Some(place) => {
                    under_way.push_back(place);
                    false
                }
                None => true,
            });
            let place = under_way.pop_front().expect("somebody is always under way");
            if well { window.succeeded(&place) } else { window.slow_down(place.n_halved) }
        }
    }

    #[test]
    fn it_grows_by_one_a_round_while_the_store_is_what_is_waited_for_and_not_beyond_the_memory() {
        let window = Window::new(5);
        assert_eq!(window.size(), 2);
        for (answers, size) in [(1, 2), (1, 3), (2, 3), (1, 4), (4, 5), (100, 5)] {
            answer(&window, 9, answers, true);
            assert_eq!(window.size(), size);
        }
    }

    #[test]
    fn it_stays_while_there_is_less_to_do_than_it_has_places() {
        let window = Window::new(8);
        answer(&window, 1, 100, true);
        assert_eq!(window.size(), 2);
    }

    #[test]
    fn it_halves_once_for_all_that_were_under_way_and_grows_again() {
        let window = Window::new(8);
        answer(&window, 20, 100, true);
        assert_eq!(window.size(), 8);
        let together: Vec<_> = (0..8).map(|_| wait_for(window.enter())).collect();
        together.iter().for_each(|place| window.slow_down(place.n_halved));
        assert_eq!(window.size(), 4, "eight answers to one burst");
        let mut next = entering(&window);
        assert!(next.as_mut().now_or_never().is_none(), "eight are under way, and four may be");
        drop(together);
        drop(next);
        answer(&window, 20, 4, true);
        assert_eq!(window.size(), 5);
        for size in [2, 1, 1] {
            answer(&window, 20, 1, false);
            assert_eq!(window.size(), size);
        }
        answer(&window, 20, 1, true);
        assert_eq!(window.size(), 2);
    }

    #[test]
    fn places_go_to_who_waits_longest_and_are_not_lost_by_who_gives_up() {
        let window = Window::new(1);
        let held = wait_for(window.enter());
        let mut waiting: Vec<_> = (0..3).map(|_| entering(&window)).collect();
        assert!(waiting.iter_mut().all(|request| request.as_mut().now_or_never().is_none()));
        drop(waiting.remove(0));
        drop(held);
        assert!(waiting[1].as_mut().now_or_never().is_none());
        let place = waiting[0].as_mut().now_or_never().expect("the older one that still waits");
        drop(place);
        assert!(waiting[1].as_mut().now_or_never().is_some());
    }

    /// A store that answers parts and reads as it is told.
    #[derive(Debug, Default)]
    struct Moody {
        answers: Mutex<VecDeque<Error>>,
    }

    #[async_trait]
    impl Upload for Moody {
        async fn part(&self, _: u32, _: Bytes, _: u64) -> Result<()> {
            let next = self.answers.lock().unwrap().pop_front();
            next.map_or(Ok(()), Err)
        }
        async fn complete(&self, _: u32, _: u64, _: u64) -> Result<ObjectInfo> {
            Err(Error::failed("not asked here"))
        }
        async fn abort(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_an_answer_that_asks_for_less_halves_it() {
        let wait = Duration::from_secs(1);
        for (error, size) in [
            (Error::unavailable("503 SlowDown").retry_after(wait), 2),
            (Error::unavailable("the connection broke"), 4),
            (Error::timed_out("no progress"), 4),
            (Error::denied("403").retry_after(wait), 4),
        ] {
            let store =
                PacedStore::window_only(Arc::new(MemoryStore::new()), &Pace { most_in_flight: 4, ..Pace::default() });
            answer(store.window(), 9, 100, true);
            let upload = Moody { answers: Mutex::new(VecDeque::from([error])) };
            let upload = PacedUpload { inner: Arc::new(upload), store: store.clone() };
            assert!(wait_for(upload.part(1, Bytes::new(), 0)).is_err());
            assert_eq!(store.window().size(), size);
            wait_for(upload.part(1, Bytes::new(), 0)).unwrap();
        }
    }

    #[tokio::test]
    async fn both_directions_are_counted_each_by_itself() {
        let (up, down) = (Arc::new(Bandwidth::new(u64::MAX)), Arc::new(Bandwidth::new(u64::MAX)));
        let pace = Pace { upload: Some(up.clone()), download: Some(down.clone()), ..Pace::default() };
        let store = PacedStore::new(Arc::new(MemoryStore::new()), &pace);
        let key = ObjectKey::parse("a/b").unwrap();
        let upload = store.begin_upload(&key).await.unwrap();
        for number in 1..=3 {
            let body = Bytes::from(vec![7; 1000]);
            let crc = crc64nvme(&body);
            upload.part(number, body, crc).await.unwrap();
        }
        upload.complete(3, 3000, crc64nvme(&[7; 3000])).await.unwrap();
        assert_eq!((up.n_bytes(), down.n_bytes()), (3000, 0));
        store.read(&key, 500..2500).await.unwrap();
        store.get(&key, 5000).await.unwrap();
        assert_eq!((up.n_bytes(), down.n_bytes()), (3000, 5000));
        store.put(&ObjectKey::parse("c").unwrap(), Bytes::from_static(b"12"), Condition::Absent).await.unwrap();
        assert_eq!((up.n_bytes(), down.n_bytes()), (3002, 5000));
    }
}
