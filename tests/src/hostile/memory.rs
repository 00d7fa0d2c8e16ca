//! Counts what a thread holds, to find sizes that an input claims and somebody believes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constant and without a destructor: reading them allocates nothing, at any time of a thread's life.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts bytes by thread. A program says `#[global_allocator]` to use it.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: usize, grows: bool) {
    let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
    let held = HELD.get().saturating_add(if grows { bytes } else { -bytes });
    HELD.set(held);
    if held > PEAK.get() {
        PEAK.set(held);
    }
}

// SAFETY: every call goes to `System` with its arguments as they came; counting touches only integers of the
// thread and neither allocates nor unwinds.
#[allow(unsafe_code, reason = "an allocator is unsafe to implement; there is no other way to count what is held")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), true);
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), false);
        // SAFETY: see above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), true);
        // SAFETY: see above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        count(layout.size(), false);
        count(new_bytes, true);
        // SAFETY: see above.
        unsafe { System.realloc(at, layout, new_bytes) }
    }
}

/// Runs `body` and returns the most bytes that this thread held meanwhile beyond what it held before; 0
/// where [`Counting`] is not the allocator.
pub fn peak_of(body: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    body();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}
