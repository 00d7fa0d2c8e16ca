//! The way of entries from whoever adds them to the tar: opened ahead of their turn by several threads,
//! taken in order, and handed over many at once.
//!
//! A small file is opened and read in some ten microseconds, which is less than it costs to wake a
//! thread. So nobody is woken for one entry where several can be had:
//! - openers take a fair share of what waits, up to [`GRAB`] entries, and fill all of their places at once;
//! - an opener that finds nothing to do lingers for [`LINGER`] before it sleeps, and meanwhile only
//!   [`GRAB`] waiting entries wake it;
//! - the tar takes everything that is ready, and opens the next entry itself when nobody has begun it;
//! - whoever waits for room is woken when half of the room is free.
//!
//! At most [`ENTRIES_AHEAD`] entries are in the queue or taken and not used up, so what is read ahead is
//! bounded however the tar stalls, and no opener waits for memory that a later entry holds.

use super::{ENTRIES_AHEAD, locked};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Most entries that one thread opens at a time.
const GRAB: usize = 16;
/// How long an opener without work waits for more than one entry: some dozen small files.
const LINGER: Duration = Duration::from_millis(1);

/// Entries on their way. `J` is what is to be opened, `R` what came of it.
pub(super) struct Queue<J, R> {
    state: Mutex<State<J, R>>,
    /// For openers that sleep or linger.
    work: Condvar,
    /// For the tar.
    opened: Condvar,
    /// For whoever adds.
    room: Notify,
    openers: usize,
    open: fn(J) -> R,
    /// What came of an entry whose opening panicked.
    lost: fn() -> R,
}

struct State<J, R> {
    /// In the order in which they were added.
    places: VecDeque<Place<J, R>>,
    /// Number of the first place, counted from the first entry that was ever added.
    first: u64,
    /// Places from here on wait for somebody to open them.
    n_begun: usize,
    /// Entries that the tar has taken and not used up.
    n_taken: usize,
    input: Input,
    /// Nobody reads the tar any more.
    is_gone: bool,
    /// Openers that sleep or linger, and how many of them were called and have not come yet.
    n_idle: usize,
    n_called: usize,
    is_lingering: bool,
    tar_waits: bool,
    input_waits: bool,
}

enum Place<J, R> {
    Waiting(J),
    Begun,
    Opened(R),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Finished,
    Dropped,
}

/// What the tar gets.
pub(super) enum Taken<R> {
    /// The next entries in order; at least one.
    Entries(VecDeque<R>),
    /// None is ready, and the tar may not wait.
    NotYet,
    /// There will be none: the archive was finished.
    Finished,
    /// There will be none: whoever adds is gone.
    Dropped,
}

/// Nobody reads the tar any more.
#[derive(Debug)]
pub(super) struct Gone;

impl<J: Send + 'static, R: Send + 'static> Queue<J, R> {
    /// An empty queue, at which `openers` threads are going to [`Self::work`]: at least one.
    pub(super) fn new(openers: usize, open: fn(J) -> R, lost: fn() -> R) -> Arc<Self> {
        let state = State {
            places: VecDeque::new(),
            first: 0,
            n_begun: 0,
            n_taken: 0,
            input: Input::Open,
            is_gone: false,
            n_idle: 0,
            n_called: 0,
            is_lingering: false,
            tar_waits: false,
            input_waits: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            opened: Condvar::new(),
            room: Notify::new(),
            openers,
            open,
            lost,
        })
    }

    /// Adds an entry; waits while [`ENTRIES_AHEAD`] are on their way. Given up half-way, nothing was added.
    pub(super) async fn push(&self, job: J) -> Result<(), Gone> {
        let mut most = ENTRIES_AHEAD;
        loop {
            {
                let mut state = locked(&self.state);
                if state.is_gone {
                    return Err(Gone);
                }
                if state.places.len() + state.n_taken < most {
                    state.places.push_back(Place::Waiting(job));
                    self.call_opener(&mut state);
                    return Ok(());
                }
                state.input_waits = true;
            }
            most = ENTRIES_AHEAD / 2 + 1;
            self.room.notified().await;
        }
    }

    /// No entry follows.
    pub(super) fn finish(&self) -> Result<(), Gone> {
        self.end(Input::Finished)
    }

    /// Whoever adds is gone; after [`Self::finish`] this changes nothing.
    pub(super) fn drop_input(&self) {
        // Nobody is left who would want to know.
        let _ = self.end(Input::Dropped);
    }

    fn end(&self, how: Input) -> Result<(), Gone> {
        let mut state = locked(&self.state);
        if state.input == Input::Open {
            state.input = how;
        }
        self.work.notify_all();
        self.opened.notify_all();
        if state.is_gone { Err(Gone) } else { Ok(()) }
    }

    /// Nobody takes entries any more: what waits is dropped, and whoever adds is told.
    pub(super) fn leave(&self) {
        let dropped = {
            let mut state = locked(&self.state);
            state.is_gone = true;
            state.n_begun = 0;
            std::mem::take(&mut state.places)
        };
        self.work.notify_all();
        self.room.notify_one();
        drop(dropped);
    }

    /// Opens entries on this thread until no more can come.
    pub(super) fn work(&self) {
        let mut state = locked(&self.state);
        loop {
            if state.is_gone {
                return;
            }
            if state.n_waiting() > 0 {
                state = self.open_some(state);
                continue;
            }
            if state.input != Input::Open {
                return;
            }
            state = self.rest(state);
        }
    }

    /// Waits until there may be work.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State<J, R>>) -> MutexGuard<'a, State<J, R>> {
        let lingers = !state.is_lingering;
        let until = Instant::now() + LINGER;
        state.is_lingering |= lingers;
        state.n_idle += 1;
        let over = |state: &State<J, R>| state.n_called > 0 || state.is_gone || state.input != Input::Open;
        let mut is_late = false;
        while !(over(&state) || lingers && is_late) {
            if lingers {
                let left = until.saturating_duration_since(Instant::now());
                let (woken, waited) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                (state, is_late) = (woken, waited.timed_out());
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.n_idle -= 1;
        state.n_called = state.n_called.saturating_sub(1).min(state.n_idle);
        if lingers {
            state.is_lingering = false;
            if is_late && state.n_waiting() == 0 {
                return self.sleep(state);
            }
        }
        state
    }

    /// As [`Self::rest`], until it is called.
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<J, R>>) -> MutexGuard<'a, State<J, R>> {
        state.n_idle += 1;
        while state.n_called == 0 && !state.is_gone && state.input == Input::Open {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.n_idle -= 1;
        state.n_called = state.n_called.saturating_sub(1).min(state.n_idle);
        state
    }

    /// Wakes an opener if one sleeps and it is worth it.
    fn call_opener(&self, state: &mut State<J, R>) {
        let is_worth_it = !state.is_lingering || state.n_waiting() >= GRAB;
        // Whoever was called takes its share of what has come since.
        if is_worth_it && state.n_called == 0 && state.n_idle > 0 {
            state.n_called += 1;
            self.work.notify_one();
        }
    }

    /// Opens a share of what waits, without the lock, and fills the places.
    fn open_some<'a>(&'a self, mut state: MutexGuard<'a, State<J, R>>) -> MutexGuard<'a, State<J, R>> {
        // The tar opens as well.
        let n = state.n_waiting().div_ceil(self.openers + 1).clamp(1, GRAB);
        let (from, at) = (state.first + state.n_begun as u64, state.n_begun);
        let jobs: Vec<J> = state.places.range_mut(at..at + n).filter_map(Place::begin).collect();
        state.n_begun += jobs.len();
        if state.n_waiting() > 0 {
            self.call_opener(&mut state);
        }
        drop(state);
        let open = |job| catch_unwind(AssertUnwindSafe(|| (self.open)(job))).unwrap_or_else(|_| (self.lost)());
        let opened: Vec<R> = jobs.into_iter().map(open).collect();
        let mut state = locked(&self.state);
        if state.is_gone {
            // Sources may take their time to be dropped.
            drop(state);
            drop(opened);
            return locked(&self.state);
        }
        // Begun places stay until they are filled, so they still lie where they were counted.
        let at = usize::try_from(from - state.first).unwrap_or(usize::MAX);
        for (place, opened) in state.places.iter_mut().skip(at).zip(opened) {
            *place = Place::Opened(opened);
        }
        if state.tar_waits && matches!(state.places.front(), Some(Place::Opened(_))) {
            self.opened.notify_one();
        }
        state
    }

    /// What is ready at the front, in order. What was taken before has been used up.
    pub(super) fn take(&self, may_wait: bool) -> Taken<R> {
        let mut state = locked(&self.state);
        state.n_taken = 0;
        loop {
            let mut ready = VecDeque::new();
            while ready.len() < ENTRIES_AHEAD / 2 && matches!(state.places.front(), Some(Place::Opened(_))) {
                if let Some(Place::Opened(opened)) = state.places.pop_front() {
                    ready.push_back(opened);
                    state.first += 1;
                    state.n_begun -= 1;
                }
            }
            state.n_taken = ready.len();
            if state.input_waits && state.places.len() + state.n_taken <= ENTRIES_AHEAD / 2 {
                state.input_waits = false;
                self.room.notify_one();
            }
            if !ready.is_empty() {
                return Taken::Entries(ready);
            }
            match (state.places.is_empty(), state.input) {
                (true, Input::Finished) => return Taken::Finished,
                (true, Input::Dropped) => return Taken::Dropped,
                _ if !may_wait => return Taken::NotYet,
                (false, _) if state.n_begun == 0 => state = self.open_some(state),
                _ => {
                    state.tar_waits = true;
                    state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.tar_waits = false;
                }
            }
        }
    }
}

impl<J, R> State<J, R> {
    fn n_waiting(&self) -> usize {
        self.places.len() - self.n_begun
    }
}

impl<J, R> Place<J, R> {
    fn begin(&mut self) -> Option<J> {
        match std::mem::replace(self, Place::Begun) {
            Place::Waiting(job) => Some(job),
            other => {
                *self = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::blocking::wait_for;
    use futures_util::FutureExt;
    use std::sync::mpsc::{Receiver, channel};

    type Numbers = Queue<u32, Result<u32, &'static str>>;

    fn numbers(openers: usize) -> Arc<Numbers> {
        Queue::new(openers, |n| if n == 13 { panic!("on purpose") } else { Ok(n) }, || Err("lost"))
    }

    fn with_openers(openers: usize) -> (Arc<Numbers>, Vec<std::thread::JoinHandle<()>>) {
        let queue = numbers(openers);
        let start = |_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.work())
        };
        let threads = (0..openers).map(start).collect();
        (queue, threads)
    }

    fn take_all(queue: &Numbers) -> (Vec<Result<u32, &'static str>>, &'static str) {
        let mut all = Vec::new();
        loop {
            match queue.take(true) {
                Taken::Entries(more) => all.extend(more),
                Taken::Finished => return (all, "finished"),
                Taken::Dropped => return (all, "dropped"),
                Taken::NotYet => unreachable!("it may wait"),
            }
        }
    }

    #[test]
    fn entries_come_out_in_their_order_however_many_open_them() {
        for openers in [1, 2, 7] {
            let (queue, threads) = with_openers(openers);
            let adder = Arc::clone(&queue);
            let adding = std::thread::spawn(move || {
                for n in 100..5_000 {
                    wait_for(adder.push(n)).unwrap();
                }
                adder.finish().unwrap();
                adder.drop_input();
            });
            let (all, end) = take_all(&queue);
            assert!(all.into_iter().eq((100..5_000).map(Ok)), "{openers}");
            assert_eq!(end, "finished");
            adding.join().unwrap();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn no_more_entries_are_ahead_than_may_be_and_half_of_the_places_are_free_before_more_are_taken() {
        let queue = numbers(1);
        let n_ahead = u32::try_from(ENTRIES_AHEAD).unwrap();
        for n in 100..100 + n_ahead {
            queue.push(n).now_or_never().unwrap().unwrap();
        }
        let mut more = Box::pin(queue.push(7));
        assert!(more.as_mut().now_or_never().is_none());
        let mut taken = 0;
        while taken < ENTRIES_AHEAD / 2 {
            let Taken::Entries(ready) = queue.take(true) else { panic!("there are entries") };
            taken += ready.len();
            assert!(more.as_mut().now_or_never().is_none() || taken > ENTRIES_AHEAD / 2, "{taken}");
        }
        while more.as_mut().now_or_never().is_none() {
            assert!(matches!(queue.take(true), Taken::Entries(_)), "room comes before the end");
        }
    }

    #[test]
    fn whoever_may_not_wait_is_told_that_nothing_is_ready() {
        let queue = numbers(1);
        assert!(matches!(queue.take(false), Taken::NotYet));
        wait_for(queue.push(1)).unwrap();
        assert!(matches!(queue.take(false), Taken::NotYet), "it is not opened");
        assert!(matches!(queue.take(true), Taken::Entries(_)), "now it is, by the tar itself");
    }

    #[test]
    fn one_entry_alone_is_opened_by_a_thread_that_slept() {
        static OPENED: Mutex<Option<std::sync::mpsc::Sender<u32>>> = Mutex::new(None);
        let (tell, opened): (_, Receiver<u32>) = channel();
        *OPENED.lock().unwrap() = Some(tell);
        let queue: Arc<Queue<u32, u32>> = Queue::new(
            1,
            |n| {
                OPENED.lock().unwrap().as_ref().unwrap().send(n).unwrap();
                n
            },
            || 0,
        );
        let worker = Arc::clone(&queue);
        let thread = std::thread::spawn(move || worker.work());
        for n in 1..50 {
            // Nobody takes anything: the opener alone comes for it, lingering or called.
            wait_for(queue.push(n)).unwrap();
            assert_eq!(opened.recv().unwrap(), n);
        }
        queue.drop_input();
        thread.join().unwrap();
    }

    #[test]
    fn an_opening_that_panics_loses_its_own_entry_only() {
        let (queue, threads) = with_openers(3);
        for n in [1, 2, 13, 3, 4] {
            wait_for(queue.push(n)).unwrap();
        }
        queue.finish().unwrap();
        assert_eq!(take_all(&queue), (vec![Ok(1), Ok(2), Err("lost"), Ok(3), Ok(4)], "finished"));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn when_the_tar_is_gone_everybody_ends_and_what_waited_is_dropped() {
        let (queue, threads) = with_openers(2);
        queue.leave();
        assert!(wait_for(queue.push(1)).is_err());
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        let queue = numbers(1);
        for n in 100..100 + u32::try_from(ENTRIES_AHEAD).unwrap() {
            wait_for(queue.push(n)).unwrap();
        }
        let waiting = Arc::clone(&queue);
        let pusher = std::thread::spawn(move || wait_for(waiting.push(1)).is_err());
        queue.leave();
        assert!(pusher.join().unwrap());
        assert!(queue.finish().is_err());
    }

    #[test]
    fn an_input_that_is_dropped_is_not_finished() {
        let queue = numbers(0);
        wait_for(queue.push(1)).unwrap();
        queue.drop_input();
        assert_eq!(take_all(&queue), (vec![Ok(1)], "dropped"));
    }
}
