//! Waiting for what says nothing when it is ready.

use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Longest pause between two questions, however dear they are.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Asks `ready` until it returns something, or fails with `what` after `deadline`. What takes long to answer is asked
/// seldom: one that starts a program, as kubectl does, would keep a core busy that others wait for.
///
/// Only for what cannot be awaited: a server that answers, a file that appears.
pub fn wait_until<T>(what: &str, deadline: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut last = None;
    loop {
        let asked = Instant::now();
        match ready() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if begun.elapsed() > deadline {
            let message = format!("{what}: not within {deadline:?}");
            return match last {
                Some(error) => Err(error.context(message)),
                None => bail!(message),
            };
        }
        let left = deadline.saturating_sub(begun.elapsed());
        std::thread::sleep(pause.max(asked.elapsed() * 2).min(LONGEST_PAUSE).min(left));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A port on 127.0.0.1 that nobody listens on. The system gives each port out once before it begins
/// again, so tests that run at the same time get different ones.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_value_or_with_the_last_reason() {
        let mut left = 3;
        let got = wait_until("counting", Duration::from_secs(10), || {
            left -= 1;
            Ok((left == 0).then_some("ready"))
        });
        assert_eq!(got.unwrap(), "ready");
        let error = wait_until::<()>("the server", Duration::ZERO, || bail!("refused")).unwrap_err();
        assert_eq!(format!("{error:#}"), "the server: not within 0ns: refused");
    }

    #[test]
    fn a_slow_question_is_asked_seldom() {
        let mut n_asked = 0;
        let ask = || {
            n_asked += 1;
            std::thread::sleep(Duration::from_millis(40));
            Ok(None::<()>)
        };
        // At once, twice its time later, and at the deadline; five times if it were asked again and again.
        wait_until("never", Duration::from_millis(200), ask).unwrap_err();
        assert!(n_asked <= 3, "{n_asked}");
    }
}
