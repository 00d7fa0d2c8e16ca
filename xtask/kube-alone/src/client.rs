//! The bare client: it reads no object, and writes what it was given.

use crate::object::{COLLECTIONS, Object, definition, namespaces, object};
use anyhow::{Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Requests at once.
const IN_FLIGHT: usize = 16;
/// Objects of a page.
const PAGE: u64 = 500;
/// What comes before the objects of a list, and what comes behind them, is shorter than this.
const EDGE_BYTES: usize = 4096;
/// Whoever writes calls itself so.
const MANAGER: &str = "bench";
const APPLY: &str = "application/apply-patch+yaml";
/// A definition is served some hundred milliseconds after it was created.
const SERVED_WAIT: Duration = Duration::from_secs(60);

/// A connection to a cluster.
pub(crate) struct Client(kube::Client);

impl Client {
    /// The context `admin` of a kubeconfig.
    pub(crate) async fn new(kubeconfig: &Path) -> Result<Self> {
        let options = KubeConfigOptions { context: Some("admin".to_owned()), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
        Ok(Self(kube::Client::try_from(config)?))
    }

    async fn send(&self, method: Method, target: &str, body: Option<String>) -> Result<(StatusCode, Vec<u8>)> {
        let mut request = Request::builder().method(method).uri(target).header("accept", "application/json");
        if body.is_some() {
            request = request.header("content-type", APPLY);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.into_bytes()));
        let (head, mut body) = self.0.send(request.body(body)?).await?.into_parts();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                whole.extend_from_slice(&data);
            }
        }
        Ok((head.status, whole))
    }

    async fn write(&self, path: &str, json: String, dry_run: bool) -> Result<()> {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let target = format!("{path}?fieldManager={MANAGER}&force=true{dry_run}");
        let (status, answer) = self.send(Method::PATCH, &target, Some(json)).await?;
        if !status.is_success() {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Namespaces for so many objects, and the definition of their kind.
    pub(crate) async fn prepare(&self, objects: u64) -> Result<()> {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.bench.example.org";
        self.write(path, definition().to_string(), false).await?;
        for name in namespaces(objects) {
            let json = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.write(&format!("/api/v1/namespaces/{name}"), json.to_string(), false).await?;
        }
        let begun = Instant::now();
        while self.send(Method::GET, COLLECTIONS[1], None).await?.0 != StatusCode::OK {
            if begun.elapsed() > SERVED_WAIT {
                bail!("the definition is not served");
            }
            // Nothing announces it: it is asked for until it is there.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// All objects of both kinds, in pages; how many they are.
    pub(crate) async fn list(&self) -> Result<u64> {
        let mut found = 0;
        for collection in COLLECTIONS {
            let mut token = String::new();
            loop {
                let (status, page) = self.send(Method::GET, &format!("{collection}?limit={PAGE}{token}"), None).await?;
                if status != StatusCode::OK {
                    bail!("{collection}: {status} {}", String::from_utf8_lossy(&page));
                }
                match next(&page) {
                    Some(next) => {
                        found += PAGE;
                        token = format!("&continue={next}");
                    }
                    None => {
                        found += u64::try_from(objects_of(&page)?)?;
                        break;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Writes objects as they are, or tries to.
    pub(crate) async fn apply(&self, range: Range<u64>, variant: u64, dry_run: bool) -> Result<u64> {
        let objects = range.end - range.start;
        let one = |n: u64| async move {
            let Object { path, json } = object(n, variant);
            self.write(&path, json.to_string(), dry_run).await
        };
        stream::iter(range).map(one).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
        Ok(objects)
    }

    /// Deletes objects; those that are not there are none.
    pub(crate) async fn clear(&self, range: Range<u64>) -> Result<u64> {
        let objects = range.end - range.start;
        let one = |n: u64| async move {
            let Object { path, .. } = object(n, 0);
            let (status, answer) = self.send(Method::DELETE, &path, None).await?;
            if !status.is_success() && status != StatusCode::NOT_FOUND {
                bail!("{path}: {status} {}", String::from_utf8_lossy(&answer));
            }
            Ok(())
        };
        stream::iter(range).map(one).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
        Ok(objects)
    }
}

/// The token of the next page. The server writes what a list says of itself in front of built-in objects, and behind
/// those of a definition.
fn next(page: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&page[..page.len().min(EDGE_BYTES)]);
    let tail = String::from_utf8_lossy(&page[page.len().saturating_sub(EDGE_BYTES)..]);
    let before = head.split("\"items\":").next();
    let behind = tail.rsplit_once("],\"kind\":").map(|(_, behind)| behind);
    let (_, rest) = [before, behind].into_iter().flatten().find_map(|edge| edge.split_once("\"continue\":\""))?;
    rest.split('"').next().filter(|token| !token.is_empty()).map(str::to_owned)
}

/// Objects of a list's last page.
fn objects_of(page: &[u8]) -> Result<usize> {
    Ok(std::str::from_utf8(page)?.matches("\"uid\":\"").count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_whether_there_is_another_and_the_last_one_is_counted() {
        let page = br#"{"kind":"L","metadata":{"resourceVersion":"7","continue":"abc","remainingItemCount":3},"items":[{"metadata":{"uid":"u"}}]}"#;
        assert_eq!(next(page).as_deref(), Some("abc"));
        let custom = br#"{"apiVersion":"v1","items":[{"metadata":{"uid":"u"}}],"kind":"L","metadata":{"continue":"def","resourceVersion":"7"}}"#;
        assert_eq!(next(custom).as_deref(), Some("def"));
        let ends = br#"{"apiVersion":"v1","items":[{"metadata":{"uid":"u"},"data":{"continue":"x"}}],"kind":"L","metadata":{"continue":"","resourceVersion":"7"}}"#;
        assert_eq!((next(ends), objects_of(ends).unwrap()), (None, 1));
        let last = br#"{"kind":"L","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"uid":"u"},"data":{"continue":"x"}}]}"#;
        assert_eq!((next(last), objects_of(last).unwrap()), (None, 1));
        let none = br#"{"kind":"L","metadata":{"resourceVersion":"7","continue":""},"items":[]}"#;
        assert_eq!((next(none), objects_of(none).unwrap()), (None, 0));
    }
}
