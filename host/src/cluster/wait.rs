//! Waiting for a condition of an object.

use super::{Cluster, Kind};
use crate::error::{Error, Result};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// The object is looked at so often: at first, and at last.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_secs(1);

impl Cluster {
    /// Waits until the status condition `condition` of an object has `value`. An object that is not there
    /// yet is waited for as well.
    ///
    /// Errors: `TimedOut`, with what the condition was at last; those of the server.
    pub async fn wait(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        (condition, value): (&str, &str),
        timeout: Duration,
    ) -> Result<()> {
        let until = Instant::now() + timeout;
        let mut look = FIRST_LOOK;
        loop {
            let seen = match Box::pin(self.existing(kind, namespace, name)).await? {
                None => "the object is not there".to_owned(),
                Some(object) => match found(object.body.get("status"), condition) {
                    Some(found) if found["status"].as_str() == Some(value) => return Ok(()),
                    Some(found) => {
                        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
                        format!("it is {} ({}: {})", text("status"), text("reason"), text("message"))
                    }
                    None => "it has no such condition".to_owned(),
                },
            };
            if Instant::now() + look >= until {
                return Err(Error::timed_out(format!(
                    "{self}: \"{name}\" of kind \"{}\" did not become {condition}={value} in {}: {seen}",
                    kind.kind,
                    crate::unit::duration(timeout)
                )));
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LAST_LOOK);
        }
    }
}

/// The condition of this type.
fn found<'a>(status: Option<&'a Value>, condition: &str) -> Option<&'a Value> {
    status?.get("conditions")?.as_array()?.iter().find(|one| one["type"].as_str() == Some(condition))
}
