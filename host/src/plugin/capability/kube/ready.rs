//! Waiting for many at once, so that one cluster that is slow holds up none of the others.

use super::{GuestCluster, GuestListing, MAX_OBJECTS, too_many};
use crate::cluster::Ahead;
use crate::error::Error;
use crate::plugin::bindings::strongroom::plugin::kube;
use crate::plugin::guard::{Deadline, Refusal};
use crate::plugin::state::State;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

impl GuestCluster {
    /// Asks for its kinds, if they are not asked for yet. What it returns is cancelled when they are there.
    fn ask_for_kinds(&mut self) -> CancellationToken {
        let cluster = &self.cluster;
        let asked = self.kinds.get_or_insert_with(|| {
            let cluster = cluster.clone();
            Ahead::start(async move { cluster.kinds().await })
        });
        asked.is_there()
    }
}

impl State {
    /// What has its answer first. Each of them was decided when it was opened.
    pub(super) async fn first_to_answer(
        &mut self,
        clusters: &[Resource<GuestCluster>],
        listings: &[Resource<GuestListing>],
    ) -> Result<kube::Ready, Refusal> {
        let n_handles = clusters.len() + listings.len();
        let mut answers = Vec::new();
        for (place, this) in (0_u32..).zip(clusters).take(MAX_OBJECTS) {
            answers.push((kube::Ready::Cluster(place), Some(self.table.get_mut(this)?.ask_for_kinds())));
        }
        for (place, this) in (0_u32..).zip(listings).take(MAX_OBJECTS) {
            answers.push((kube::Ready::Listing(place), self.table.get_mut(this)?.ask()));
        }
        let guard = self.guard.clone();
        let work = async move {
            if n_handles > MAX_OBJECTS {
                return Err(too_many("clusters and lists", n_handles).into());
            }
            // What has ended, well or badly, says so at once.
            let is_there =
                |answer: &Option<CancellationToken>| answer.as_ref().is_none_or(CancellationToken::is_cancelled);
            if let Some((ready, _)) = answers.iter().find(|(_, answer)| is_there(answer)) {
                return Ok(*ready);
            }
            if answers.is_empty() {
                return Err(Error::invalid("there is nothing to wait for: no cluster and no list").into());
            }
            let waits = answers.into_iter().filter_map(|(ready, answer)| {
                let answer = answer?;
                Some(Box::pin(async move {
                    answer.cancelled().await;
                    ready
                }))
            });
            Ok(futures_util::future::select_all(waits).await.0)
        };
        guard.pass("kube.first-ready", None, Deadline::Own, work).await
    }
}
