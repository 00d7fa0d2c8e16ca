//! The run that a plugin is part of: progress, time, pauses. Always granted, and bounded.

use crate::Timestamp;
use crate::bindings::strongroom::plugin::run as wit;
use std::sync::Once;
use std::time::Duration;

/// The time now.
pub fn now() -> Timestamp {
    Timestamp { ms: wit::now_ms() }
}

/// Waits this long, rounded up to a millisecond.
pub fn sleep(duration: Duration) {
    wit::sleep_ms(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
}

/// Says how far a step is, such as tables counted; `total` where it is known.
pub fn progress(step: &str, done: u64, total: Option<u64>) {
    wit::progress(step, done, total);
}

/// A guest has no standard error: without this a panic would be a bare trap.
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("a panic without a message");
            let location = info.location().map_or_else(String::new, ToString::to_string);
            wit::log(wit::Level::Error, message, &[("panicked-at".to_owned(), location)]);
        }));
    });
}
