//! Writing stored objects that the plugin does not see. The policy is asked about what the host finds
//! in them. Memory: bodies of [`BATCH_BYTES`] and one more.

use super::write::Deed;
use super::{GuestCluster, MAX_OBJECTS, too_many};
use crate::cluster::{MAX_OBJECT_BYTES, Moved, Object, WriteMode};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::{kube, types};
use crate::plugin::capability::bytes::blocking;
use crate::plugin::guard::Refusal;
use crate::plugin::state::{State, check_leashes};
use crate::stream::Source;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use wasmtime::component::Resource;

/// Bodies that are in memory at once, in bytes: enough for all that is in flight.
const BATCH_BYTES: usize = 16 << 20;

/// A stored object whose body is not read yet.
type Stored = (usize, Result<Source>, Moved);

impl State {
    pub(super) async fn apply_stored(
        &mut self,
        this: &Resource<GuestCluster>,
        objects: Vec<kube::Unseen>,
        options: kube::WriteOptions,
    ) -> Result<Vec<Result<kube::Written, types::Error>>, Refusal> {
        let open = self.kube(this)?;
        let n_objects = objects.len();
        let mut stored: VecDeque<Stored> = VecDeque::new();
        // All leave the guest's hands, whatever becomes of the call.
        for (place, unseen) in objects.into_iter().enumerate() {
            let kube::Unseen { body, namespace, owners } = unseen;
            let source = self.take_source(body)?.map(|taken| taken.source);
            stored.push_back((place, source, Moved { namespace, owners: owners.into_iter().collect() }));
        }
        if n_objects > MAX_OBJECTS {
            return Err(too_many("objects", n_objects).into());
        }
        let room = AtomicUsize::new(self.room());
        let keep_status = options.status;
        let keeps_managers = matches!(mode(options.mode), WriteMode::Create);
        let mut answers = Vec::new();
        while !stored.is_empty() {
            let (mut deeds, mut n_bytes) = (Vec::new(), 0);
            while n_bytes < BATCH_BYTES {
                let Some((place, source, moved)) = stored.pop_front() else { break };
                match read(source).await {
                    Ok(text) => match Object::parse(&text) {
                        Ok(mut object) => {
                            n_bytes += text.len();
                            object.prepare(&moved, keep_status);
                            if !keeps_managers {
                                object.forget_managers();
                            }
                            deeds.push((place, Deed::write(object)));
                        }
                        Err(error) => answers.push((place, Err(error.into()))),
                    },
                    Err(error) => answers.push((place, Err(error.into()))),
                }
            }
            let written = self.write_all(&open, "kube.cluster.apply-unseen", deeds, options, &room).await?;
            answers.extend(written);
        }
        self.in_order(n_objects, answers)
    }
}

fn mode(mode: kube::WriteMode) -> WriteMode {
    match mode {
        kube::WriteMode::Create => WriteMode::Create,
        kube::WriteMode::Merge => WriteMode::Merge,
        kube::WriteMode::Replace => WriteMode::Replace,
    }
}

/// The whole body of a stored object; its end is proven.
async fn read(source: Result<Source>) -> Result<Vec<u8>> {
    let mut source = source?;
    check_leashes(&source.waits_for, "the read of a stored object")?;
    blocking(move || {
        let mut whole = Vec::new();
        while let Some(chunk) = source.body.next_chunk()? {
            if whole.len() + chunk.len() > MAX_OBJECT_BYTES {
                return Err(Error::limit("a stored object is longer than any server takes")
                    .fact("expected", format!("at most {}", crate::unit::bytes(MAX_OBJECT_BYTES as u64))));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    })
    .await?
}
