//! The clock that leases are watched with: it only goes forward, and nobody can set it.

use async_trait::async_trait;
use std::time::Duration;
use tokio::time::Instant;

/// A monotonic clock, and waiting by it. Readings of two of them are never compared.
#[async_trait]
pub trait Pace: Send + Sync + std::fmt::Debug {
    /// Time since some moment of its own.
    fn now(&self) -> Duration;

    /// Returns after this much time has passed by this clock.
    async fn wait(&self, duration: Duration);
}

/// The machine's monotonic clock. It stands still while the machine sleeps, so a sleeping taker is
/// more patient and never less.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Monotonic {
    /// The clock, beginning at zero.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for Monotonic {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Pace for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
