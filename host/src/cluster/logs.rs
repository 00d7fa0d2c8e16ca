//! The log of a container as a stream.

use super::failure::{self, Doing};
use super::request::Answer;
use super::{Cluster, path};
use crate::error::{Error, Result};
use crate::stream::{Origin, Source, pipe};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio_util::sync::CancellationToken;

/// Most bytes of a refusal that are read.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

impl Cluster {
    /// The log of a container, as it is now; its length is not known beforehand. Cut off by the server
    /// or the network, it ends in an error.
    ///
    /// Errors: those of the server.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        tail_lines: Option<u32>,
        cancel: &CancellationToken,
    ) -> Result<Source> {
        let kind = self.resolve("", "v1", "pods", "Pod").await?;
        let doing = Doing::to("read the log of", &kind, Some(namespace), Some(pod));
        let tail = tail_lines.map(|lines| lines.to_string());
        let query = path::query(&[("container", container), ("tailLines", tail.as_deref())]);
        let target = format!("{}/log{query}", path::object(&kind, Some(namespace), pod)?);
        let request = Request::get(&target)
            .body(Body::empty())
            .map_err(|error| Error::invalid("could not make a request of it").because(error))?;
        let timeout = self.spec.timeout;
        let silent = || failure::silent(self, &doing, timeout);
        let client = self.client().await?;
        let sent = tokio::time::timeout(timeout, client.send(request)).await.map_err(|_| silent())?;
        let response = sent.map_err(|error| failure::unreached(self, &doing, error).error)?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let mut said = Vec::new();
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(timeout, body.frame()).await {
                said.extend_from_slice(&frame.into_data().unwrap_or_default());
                if said.len() > MAX_REFUSAL_BYTES {
                    break;
                }
            }
            return Err(failure::refused(self, &doing, &Answer { status, body: said.into() }));
        }
        let (mut sink, mut source) = pipe(cancel.clone());
        // Both ends are the host's: nobody waits for the plugin.
        sink.leash.release();
        source.leash.release();
        source.waits_for.clear();
        source.origin = Origin::Cluster { label: self.label().to_owned() };
        source.inspect = false;
        let cancel = cancel.clone();
        // Dropped unfinished, the sink makes the reader fail: a log that was cut does not end well.
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    () = cancel.cancelled() => return,
                    frame = tokio::time::timeout(timeout, body.frame()) => frame,
                };
                match frame {
                    Ok(Some(Ok(frame))) => {
                        let Ok(data) = frame.into_data() else { continue };
                        if sink.write(data).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => {
                        // A reader that is gone has nobody to tell.
                        let _ = sink.finish();
                        return;
                    }
                    Ok(Some(Err(_))) | Err(_) => return,
                }
            }
        });
        Ok(source)
    }
}
