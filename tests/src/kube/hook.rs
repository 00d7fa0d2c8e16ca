//! What an API server calls: a webhook that admits, refuses, or says nothing, and one that converts. HTTPS
//! on 127.0.0.1, with a certificate that the cluster's own authority has signed; what it does is told by
//! the path, so that one serves every configuration of a test.

use super::Cluster;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often one that says nothing looks whether somebody is still there.
const GLANCE: Duration = Duration::from_millis(100);

/// Why [`Hook`] refuses.
pub const REASON: &str = "nothing is admitted on a Saturday";

/// What is done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Every object is admitted.
    Admit,
    /// None is, for [`REASON`].
    Refuse,
    /// Nothing is answered until the API server has had enough.
    Hang,
    /// Objects are what they were, under the version that is wanted.
    Convert,
}

impl Way {
    fn path(self) -> &'static str {
        match self {
            Way::Admit => "/admit",
            Way::Refuse => "/refuse",
            Way::Hang => "/hang",
            Way::Convert => "/convert",
        }
    }

    fn of(path: &str) -> Option<Self> {
        [Way::Admit, Way::Refuse, Way::Hang, Way::Convert].into_iter().find(|way| way.path() == path)
    }
}

/// A running webhook; it ends when it is dropped.
#[derive(Debug)]
pub struct Hook {
    port: u16,
    bundle: String,
    is_over: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Way>>>,
}

impl Hook {
    /// Starts one that the API server of a cluster believes.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let bundle = STANDARD.encode(std::fs::read(cluster.ca_file())?);
        // The API server's own certificate is for 127.0.0.1 as well.
        let certificates = CertificateDer::pem_file_iter(cluster.pki.certificate("api-server"))?;
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(cluster.pki.key("api-server"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").context("could not listen on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let hook = Self { port, bundle, is_over: Arc::default(), calls: Arc::default() };
        let (is_over, calls) = (hook.is_over.clone(), hook.calls.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (config, is_over, calls) = (config.clone(), is_over.clone(), calls.clone());
                // An API server that goes away is no failure of the webhook.
                std::thread::spawn(move || drop(serve(client, config, &is_over, &calls)));
            }
        });
        Ok(hook)
    }

    /// `clientConfig` of a webhook that does this.
    pub fn client(&self, way: Way) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{}", self.port, way.path()), "caBundle": self.bundle})
    }

    /// A validating webhook that is asked about everything that is written in a namespace with the label
    /// `hook: NAME`, and waited for a second.
    pub fn validating(&self, namespace: &str, name: &str, way: Way, failure_policy: &str) -> Value {
        json!({
            "name": format!("{name}.hooks.example.org"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": failure_policy, "timeoutSeconds": 1, "clientConfig": self.client(way),
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "objectSelector": {"matchLabels": {"hook": name}},
            "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}],
        })
    }

    /// How often it was asked to do this.
    pub fn n_calls(&self, way: Way) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|one| **one == way).count()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// One request on one connection.
fn serve(client: TcpStream, config: Arc<ServerConfig>, is_over: &AtomicBool, calls: &Mutex<Vec<Way>>) -> Result<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, client));
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let path = first.split_whitespace().nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
    let Some(way) = Way::of(path) else { bail!("nobody is at {path}") };
    calls.lock().unwrap_or_else(PoisonError::into_inner).push(way);
    let mut stream = stream.into_inner();
    if way == Way::Hang {
        stream.sock.set_read_timeout(Some(GLANCE))?;
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Err(error)
                    if !is_over.load(Ordering::SeqCst)
                        && matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                _ => return Ok(()),
            }
        }
    }
    let answer = answer(way, &serde_json::from_slice(&body)?).to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{answer}", answer.len())?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// The review with its answer.
fn answer(way: Way, review: &Value) -> Value {
    let request = &review["request"];
    let response = match way {
        Way::Convert => {
            let mut objects: Vec<Value> = request["objects"].as_array().cloned().unwrap_or_default();
            objects.iter_mut().for_each(|object| object["apiVersion"] = request["desiredAPIVersion"].clone());
            json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects})
        }
        Way::Refuse => json!({"uid": request["uid"], "allowed": false, "status": {"code": 403, "message": REASON}}),
        Way::Admit | Way::Hang => json!({"uid": request["uid"], "allowed": true}),
    };
    json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response})
}
