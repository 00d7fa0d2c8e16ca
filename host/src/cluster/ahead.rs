//! What is asked for before somebody waits for it.

use crate::error::{Error, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// An answer on its way. Dropping it gives the question up.
pub struct Ahead<T> {
    task: AbortOnDropHandle<T>,
    is_there: CancellationToken,
}

impl<T: Send + 'static> Ahead<T> {
    /// Asks.
    pub fn start(ask: impl Future<Output = T> + Send + 'static) -> Self {
        let is_there = CancellationToken::new();
        // Also where asking panics.
        let told = is_there.clone().drop_guard();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let _told = told;
            ask.await
        }));
        Self { task, is_there }
    }

    /// Is cancelled when the answer is there.
    pub fn is_there(&self) -> CancellationToken {
        self.is_there.clone()
    }

    /// The answer, waited for.
    ///
    /// Errors: `Failed` where asking panicked.
    pub async fn answer(self) -> Result<T> {
        self.task.await.map_err(|error| Error::failed("the host failed while it asked a cluster").because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn an_answer_is_told_of_before_it_is_taken_and_also_where_there_is_none() {
        let (answer, asked) = oneshot::channel::<u32>();
        let ahead = Ahead::start(async move { asked.await.unwrap() });
        assert!(!ahead.is_there().is_cancelled());
        answer.send(7).unwrap();
        ahead.is_there().cancelled().await;
        assert_eq!(ahead.answer().await.unwrap(), 7);

        let (answer, asked) = oneshot::channel::<u32>();
        let ahead = Ahead::start(async move { asked.await.unwrap() });
        drop(answer);
        ahead.is_there().cancelled().await;
        assert!(ahead.answer().await.is_err());
    }

    #[tokio::test]
    async fn a_question_that_nobody_waits_for_is_given_up() {
        let held = Arc::new(());
        let inside = held.clone();
        let ahead = Ahead::start(async move {
            let _inside = inside;
            std::future::pending::<()>().await;
        });
        let over = ahead.is_there();
        drop(ahead);
        over.cancelled().await;
        // Dropped with what asked, which may be just behind the word that it is over.
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
