//! The way to a cluster, step by step, for `diagnose`: a cluster that does not answer is a finding.

use super::failure::{self, Doing};
use super::request::{Ask, JSON};
use super::{Cluster, certificate, connect};
use crate::error::{Error, Result};
use http::{Method, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use jiff::Timestamp;
use kube::client::ConfigExt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tower::Service;

/// How long one step may take: somebody waits.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The steps, in order.
const STEPS: [&str; 5] = ["dns", "tcp", "tls", "authentication", "health"];

/// Where API servers listen.
const USUAL_PORTS: [u16; 4] = [6443, 443, 80, 8080];
/// How long each of them may take to answer.
const PORT_TIMEOUT: Duration = Duration::from_secs(2);

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// Not looked at, because one before it failed.
    Skipped,
}

/// One step on the way.
#[derive(Clone, Debug)]
pub struct ProbeStep {
    /// `dns`, `tcp`, `tls`, `authentication` or `health`.
    pub step: &'static str,
    /// What came of it.
    pub outcome: StepOutcome,
    /// What was seen, or what went wrong and what to do.
    pub evidence: String,
    /// How long it took.
    pub took: Duration,
}

/// How a cluster is reached.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Every step once, in order.
    pub steps: Vec<ProbeStep>,
    /// End of the server's certificate, where it was seen.
    pub certificate_ends: Option<Timestamp>,
    /// End of the host's token or certificate, where it says.
    pub credential_ends: Option<Timestamp>,
}

impl Cluster {
    /// Goes to the cluster step by step. Never an error: what is wrong is in the answer.
    pub async fn probe(&self) -> Health {
        let mut health = Health::default();
        if let Err(error) = Box::pin(self.steps(&mut health)).await {
            let step = STEPS[health.steps.len().min(STEPS.len() - 1)];
            let facts = error.facts().iter().map(|(name, value)| format!("; {name}: {value}"));
            let hint = error.hint_text().map(|hint| format!("; {hint}"));
            let evidence = std::iter::once(error.message().to_owned()).chain(facts).chain(hint).collect();
            let took = Duration::ZERO;
            health.steps.push(ProbeStep { step, outcome: StepOutcome::Failed, evidence, took });
        }
        for step in &STEPS[health.steps.len().min(STEPS.len())..] {
            let evidence = "a step before it failed".to_owned();
            health.steps.push(ProbeStep { step, outcome: StepOutcome::Skipped, evidence, took: Duration::ZERO });
        }
        health
    }

    async fn steps(&self, health: &mut Health) -> Result<()> {
        let credentials = self.spec.credentials.as_ref().map(|fetch| fetch()).transpose()?;
        let ends = match &credentials {
            Some(super::Credentials::Token(token)) => certificate::end_of_token(token.expose()),
            Some(super::Credentials::Certificate { certificate, .. }) => certificate::end_of_pem(certificate.expose()),
            None => None,
        };
        let config = connect::config(&self.spec, credentials)?;
        health.credential_ends = ends.or_else(|| ends_of(&config.auth_info));
        let first = config.proxy_url.clone().unwrap_or_else(|| config.cluster_url.clone());
        let (host, port) = place(&first);
        let through = if config.proxy_url.is_some() { " (the proxy)" } else { "" };

        let began = Instant::now();
        let found = within(tokio::net::lookup_host((host.as_str(), port))).await;
        let found: Vec<_> = match found {
            Ok(found) => found.collect(),
            Err(error) => return Err(self.no_way(&host, "its name does not resolve", &error)),
        };
        let shown: Vec<_> = found.iter().take(4).map(|address| address.ip().to_string()).collect();
        health.passed(began, format!("{host} is {}{through}", shown.join(", ")));

        let began = Instant::now();
        let connected = within(TcpStream::connect(found.as_slice())).await;
        if let Err(error) = connected {
            let others = answering(&found, USUAL_PORTS.iter().copied().filter(|other| *other != port)).await;
            return Err(self
                .no_way(&format!("{host}:{port}"), "nothing answers there", &error)
                .fact("other ports where API servers are found", others));
        }
        health.passed(began, format!("{host}:{port} answers{through}"));

        let began = Instant::now();
        let evidence = self.tls(&config, health).await?;
        health.passed(began, evidence);

        let began = Instant::now();
        let who = self.who_am_i().await?;
        health.passed(began, who);

        let began = Instant::now();
        let mut ask = Ask::get("/readyz".to_owned(), Doing::plain("ask whether it is ready"));
        (ask.once, ask.accept) = (true, "*/*");
        let said = self.send_ok(&ask).await?;
        health.passed(
            began,
            format!("it says: {}", String::from_utf8_lossy(&said).trim().chars().take(200).collect::<String>()),
        );
        Ok(())
    }

    fn no_way(&self, to: &str, why: &str, error: &std::io::Error) -> Error {
        Error::unavailable(format!("{self}: no way to {to}: {why}")).fact("got", error.to_string())
    }

    /// The handshake, by itself where nothing is in between; else with the first request.
    async fn tls(&self, config: &kube::Config, health: &mut Health) -> Result<String> {
        if config.cluster_url.scheme_str() != Some("https") {
            return Ok("it is not encrypted, and on this machine".to_owned());
        }
        if config.proxy_url.is_some() {
            let mut ask = Ask::get("/version".to_owned(), Doing::plain("make a connection"));
            ask.once = true;
            self.send(&ask).await?;
            return Ok(
                "the server's certificate is the expected authority's; its end is not seen through a proxy".to_owned()
            );
        }
        let (doing, uri) = (Doing::plain("make a connection"), config.cluster_url.clone());
        let broken = |error: kube::Error| failure::unreached(self, &doing, &error).error;
        let config = config.clone();
        // A program of the kubeconfig may run here for a certificate.
        let connector = tokio::task::spawn_blocking(move || {
            let mut http = HttpConnector::new();
            http.enforce_http(false);
            config.rustls_https_connector_with_connector(http)
        });
        let connector = connector.await.map_err(|e| Error::failed("the host failed while it connected").because(e))?;
        let mut connector = connector.map_err(broken)?;
        let handshake = async {
            poll_fn(|context| connector.poll_ready(context)).await?;
            connector.call(uri).await
        };
        let stream = match tokio::time::timeout(STEP_TIMEOUT, handshake).await {
            Ok(stream) => stream.map_err(|error| broken(kube::Error::Service(error)))?,
            Err(_) => return Err(failure::silent(self, &doing, STEP_TIMEOUT)),
        };
        let hyper_rustls::MaybeHttpsStream::Https(stream) = stream else {
            return Ok("it is not encrypted".to_owned());
        };
        let leaf = stream.inner().get_ref().1.peer_certificates().and_then(<[_]>::first);
        health.certificate_ends = leaf.and_then(|leaf| certificate::end_of_der(leaf.as_ref()));
        Ok(match health.certificate_ends {
            Some(ends) => format!("the server's certificate is the expected authority's, and ends {ends}"),
            None => "the server's certificate is the expected authority's".to_owned(),
        })
    }

    /// Who the server takes us for; it is enough that it takes us for somebody.
    async fn who_am_i(&self) -> Result<String> {
        let target = "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned();
        let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#.as_bytes().to_vec();
        let mut ask = Ask::send(Method::POST, target, JSON, body, Doing::plain("ask who the host is"));
        ask.once = true;
        let answer = self.send(&ask).await?;
        if answer.status.is_success() {
            let review: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let name = review["status"]["userInfo"]["username"].as_str().unwrap_or_default();
            let name = self.redactor().text(name);
            return Ok(format!("the server takes the host for \"{name}\""));
        }
        if answer.status == http::StatusCode::UNAUTHORIZED {
            return Err(failure::refused(self, &ask.doing, &answer));
        }
        // Servers before 1.28 cannot be asked: they refuse whom they do not know all the same.
        Ok("the server accepts the host's credentials".to_owned())
    }
}

impl Health {
    fn passed(&mut self, began: Instant, evidence: String) {
        let step = STEPS[self.steps.len().min(STEPS.len() - 1)];
        self.steps.push(ProbeStep { step, outcome: StepOutcome::Passed, evidence, took: began.elapsed() });
    }
}

/// Which of these ports take a connection, in words. Nothing is sent to them.
async fn answering(hosts: &[SocketAddr], ports: impl Iterator<Item = u16>) -> String {
    let ports: Vec<u16> = ports.collect();
    let tries = ports.iter().map(|port| {
        let places: Vec<_> = hosts.iter().map(|host| SocketAddr::new(host.ip(), *port)).collect();
        async move {
            tokio::time::timeout(PORT_TIMEOUT, TcpStream::connect(places.as_slice())).await.is_ok_and(|c| c.is_ok())
        }
    });
    let answers = futures_util::future::join_all(tries).await;
    let list = |ports: &mut dyn Iterator<Item = &u16>| ports.map(u16::to_string).collect::<Vec<_>>().join(", ");
    match list(&mut ports.iter().zip(&answers).filter(|(_, answers)| **answers).map(|(port, _)| port)) {
        none if none.is_empty() => format!("{}: none answers", list(&mut ports.iter())),
        some => format!("{some} answers: is this the port in the configuration?"),
    }
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(STEP_TIMEOUT, work).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Host without brackets, and port.
fn place(uri: &Uri) -> (String, u16) {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    (host, uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 }))
}

/// The end of what a kubeconfig holds; of files that it names as well.
fn ends_of(auth: &kube::config::AuthInfo) -> Option<Timestamp> {
    use base64::Engine;
    let decoded = |text: &String| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        String::from_utf8(bytes).ok()
    };
    let file = |path: &String| std::fs::read_to_string(path).ok();
    let certificate = auth.client_certificate_data.as_ref().and_then(decoded);
    let certificate = certificate.or_else(|| auth.client_certificate.as_ref().and_then(file));
    if let Some(certificate) = certificate {
        return certificate::end_of_pem(&certificate);
    }
    let inline = || serde_json::to_value(auth).ok().and_then(|auth| auth["token"].as_str().map(str::to_owned));
    let token = auth.token_file.as_ref().and_then(file).or_else(inline)?;
    certificate::end_of_token(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_answers_instead_is_named() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = other.local_addr().unwrap();
        // Nobody listens at port 1 of a machine that runs tests.
        assert_eq!(answering(&[there], [1].into_iter()).await, "1: none answers");
        let found = answering(&[there], [1, there.port()].into_iter()).await;
        assert_eq!(found, format!("{} answers: is this the port in the configuration?", there.port()));
    }
}
