//! HTTP to a Prometheus and to a Pushgateway: one request at a time, bounded in time and bytes.
//!
//! No redirect is followed and no proxy of the environment is used: an address is what the operator
//! wrote, and its credentials go nowhere else. The credentials are in no error, also where the server or a
//! proxy says them.

use super::series::Labels;
use crate::error::{Error, IoContext, Result};
use crate::secret::{MIN_SECRET_BYTES, Redactor, Secret};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer to a query.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a Pushgateway: nobody waits for a backup longer because of it.
pub const PUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Most series of an answer.
const MAX_SERIES: usize = 1000;
/// Most steps of a range: what Prometheus itself allows for one series.
pub const MAX_STEPS: u64 = 11_000;
/// Most points of an answer, of all series together: 2.4 MB in the guest.
const MAX_POINTS: usize = 150_000;
/// Longest part of an error's text that is shown, in characters.
const SHOWN_CHARS: usize = 300;

/// How to say who we are.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// A bearer token.
    Token(Secret),
    /// User and password.
    Basic(String, Secret),
}

/// A server and the way to it.
#[derive(Clone)]
pub struct Server {
    url: Uri,
    authorization: Option<HeaderValue>,
    /// Finds the credentials in what the server says.
    redactor: Redactor,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.url)
    }
}

/// A range of time of a query, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From here.
    pub start_ms: u64,
    /// To here, included.
    pub end_ms: u64,
    /// A point each.
    pub step_ms: u64,
}

/// A series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels, with its name as `__name__` where it has one.
    pub labels: Vec<(String, String)>,
    /// Milliseconds since 1970, and the value then.
    pub points: Vec<(u64, f64)>,
}

impl Window {
    /// Whether it is one that may be asked for.
    ///
    /// Errors: `Invalid`, `Limit`.
    pub fn check(self) -> Result<()> {
        if self.step_ms == 0 || self.end_ms < self.start_ms {
            return Err(Error::invalid("the range of a query ends before it begins, or has no step"));
        }
        let range = self.end_ms - self.start_ms;
        let most = u64::try_from(super::promql::MAX_REACH.as_millis()).unwrap_or(u64::MAX);
        if range > most {
            return Err(Error::limit("the range of a query is too long")
                .fact("expected", format!("at most {}", crate::unit::duration(super::promql::MAX_REACH))));
        }
        if range / self.step_ms >= MAX_STEPS {
            return Err(Error::limit("the range of a query has too many steps")
                .fact("expected", format!("at most {MAX_STEPS}"))
                .fact("got", (range / self.step_ms + 1).to_string()));
        }
        Ok(())
    }
}

impl Server {
    /// The way to `url`, such as `https://prometheus.example.org/prefix`, whose certificate is believed
    /// by the file `ca` alone, or by the system's where there is none. Nothing is sent yet.
    ///
    /// Errors: `Invalid` for a URL that is none, and for a file without certificates; those of reading it.
    pub fn new(url: &str, credentials: &Credentials, ca: Option<&Path>) -> Result<Self> {
        let url: Uri = url
            .trim_end_matches('/')
            .parse()
            .map_err(|error| Error::invalid("the address of a server of metrics is not a URL").because(error))?;
        let redactor = Redactor::default();
        match credentials {
            Credentials::Token(secret) | Credentials::Basic(_, secret) if secret.expose().len() >= MIN_SECRET_BYTES => {
                redactor.learn(secret);
            }
            _ => {}
        }
        let client = client(url.scheme_str() == Some("https"), ca)?;
        let authorization = match credentials {
            Credentials::None => None,
            Credentials::Token(token) => Some(format!("Bearer {}", token.expose())),
            Credentials::Basic(user, password) => {
                let both = format!("{user}:{}", password.expose());
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both)))
            }
        };
        let authorization = authorization.map(|text| {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| Error::invalid("the credentials of a server of metrics cannot be sent in a header"))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Self { url, authorization: authorization.transpose()?, redactor, client })
    }

    /// Asks for the value now, or over a range of time. `labels` are in no answer that does not have them.
    ///
    /// Errors: `Unavailable` and `TimedOut` of the way, `Invalid` for what the server does not take,
    /// `Failed` for what it refuses (credentials), `Limit` for an answer that is too large.
    pub async fn query(&self, promql: &str, window: Option<Window>) -> Result<Vec<Sample>> {
        let mut form = vec![("query", promql.to_owned()), ("timeout", format!("{}s", QUERY_TIMEOUT.as_secs()))];
        // One more than there may be; servers before 3.0 do not know it.
        form.push(("limit", (MAX_SERIES + 1).to_string()));
        let path = match window {
            None => "/api/v1/query",
            Some(Window { start_ms, end_ms, step_ms }) => {
                form.push(("start", seconds(start_ms)));
                form.push(("end", seconds(end_ms)));
                form.push(("step", seconds(step_ms)));
                "/api/v1/query_range"
            }
        };
        let body = form.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&");
        let (status, bytes) = self
            .send(Method::POST, path, "application/x-www-form-urlencoded", body.into_bytes(), QUERY_TIMEOUT)
            .await?;
        answer(status, &bytes, &self.redactor)
    }

    /// Replaces the group of these labels in a Pushgateway with `text`.
    ///
    /// Errors: `Unavailable`, `TimedOut`, and `Failed` for what it refuses.
    pub async fn push(&self, group: &Labels, text: String) -> Result<()> {
        // A value of a group may hold any character, in base64.
        let part = |(label, value): (&String, &String)| {
            format!("/{label}@base64/{}", base64::engine::general_purpose::URL_SAFE.encode(value))
        };
        let job = group.iter().filter(|(label, _)| *label == "job").map(part);
        let others = group.iter().filter(|(label, _)| *label != "job").map(part);
        let path: String = std::iter::once("/metrics".to_owned()).chain(job).chain(others).collect();
        let (status, bytes) =
            self.send(Method::PUT, &path, "text/plain; version=0.0.4", text.into_bytes(), PUSH_TIMEOUT).await?;
        if (200..300).contains(&status) {
            return Ok(());
        }
        Err(Error::failed("the Pushgateway did not take the metrics")
            .fact("server", self.url.to_string())
            .fact("got", format!("HTTP {status}: {}", shown(&bytes, &self.redactor))))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &'static str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(u16, Bytes)> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Error::unavailable("the server of metrics does not answer")
                .fact("server", self.url.to_string())
                .because(self.redactor.text(&error.to_string()))
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.to_string().trim_end_matches('/')))
            .header(CONTENT_TYPE, HeaderValue::from_static(content))
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::failed("could not make a request of metrics").because(error))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| unreachable(&chain(&error)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    return Error::limit("the answer of the server of metrics is too large")
                        .fact("expected", format!("at most {}", crate::unit::bytes(MAX_ANSWER_BYTES as u64)));
                }
                unreachable(&error)
            })?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            Err(Error::timed_out(format!("no answer within {}", crate::unit::duration(timeout)))
                .fact("server", self.url.to_string()))
        })
    }
}

/// The whole of an error of the library: its own text names no cause.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn client(is_https: bool, ca: Option<&Path>) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::failed("could not prepare TLS").because(error))?;
    let config = match ca {
        // A machine without certificates can do without TLS.
        _ if !is_https => builder.with_root_certificates(rustls::RootCertStore::empty()),
        None => builder.with_native_roots().doing(|| "read the system's certificates".to_owned())?,
        Some(path) => builder.with_root_certificates(roots(path)?),
    }
    .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector))
}

fn roots(path: &Path) -> Result<rustls::RootCertStore> {
    let wrong = || Error::invalid(format!("\"{}\" holds no certificates", path.display()));
    let bytes = std::fs::read(path).doing(|| format!("read the certificates \"{}\"", path.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| wrong().because(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong().because(error))?;
    }
    if roots.is_empty() {
        return Err(wrong().hint("it is a PEM file with BEGIN CERTIFICATE"));
    }
    Ok(roots)
}

/// Milliseconds as the seconds of the API.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A value of a form.
fn encode(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The beginning of what a server says, on one line and without our credentials.
fn shown(bytes: &[u8], redactor: &Redactor) -> String {
    // Before it is cut: half a secret would not be found.
    let said = redactor.text(String::from_utf8_lossy(bytes).trim());
    said.chars().take(SHOWN_CHARS).collect::<String>().escape_debug().to_string()
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Instant>),
    Matrix(Vec<Range>),
    Scalar((f64, String)),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Instant {
    metric: Labels,
    value: Option<(f64, String)>,
}

#[derive(Deserialize)]
struct Range {
    metric: Labels,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// What an answer says.
fn answer(status: u16, bytes: &[u8], redactor: &Redactor) -> Result<Vec<Sample>> {
    let got = || format!("HTTP {status}: {}", shown(bytes, redactor));
    let answer: Answer = match (status, serde_json::from_slice(bytes)) {
        (401 | 403, _) => {
            return Err(Error::failed("Prometheus does not take our credentials").fact("got", got()));
        }
        (_, Ok(answer)) => answer,
        (500..=599 | 429, Err(_)) => return Err(Error::unavailable("Prometheus is in trouble").fact("got", got())),
        (_, Err(error)) => {
            // It quotes what it could not read.
            let why = redactor.text(&error.to_string());
            return Err(Error::failed("this is no answer of Prometheus").fact("got", got()).because(why));
        }
    };
    if answer.status != "success" {
        let text = format!("Prometheus refused the query: {}", shown(answer.error.as_bytes(), redactor));
        return Err(match status {
            400 | 422 => Error::invalid(text),
            503 => Error::unavailable(text),
            _ => Error::failed(text),
        });
    }
    let series: Vec<(Labels, Vec<(f64, String)>)> = match answer.data {
        Some(Data::Vector(all)) => all.into_iter().map(|one| (one.metric, one.value.into_iter().collect())).collect(),
        Some(Data::Matrix(all)) => all.into_iter().map(|one| (one.metric, one.values)).collect(),
        Some(Data::Scalar(value)) => vec![(Labels::new(), vec![value])],
        Some(Data::String(_)) => return Err(Error::invalid("the query has a text as its result, and no number")),
        None => return Err(Error::failed("Prometheus answered a query with nothing")),
    };
    let n_points: usize = series.iter().map(|(_, points)| points.len()).sum();
    if series.len() > MAX_SERIES || n_points > MAX_POINTS {
        return Err(Error::limit("the answer to a query is too large")
            .fact("expected", format!("at most {MAX_SERIES} series and {MAX_POINTS} points"))
            .fact("got", format!("{} series and {n_points} points", series.len()))
            .hint("aggregate in the query, or ask for longer steps"));
    }
    series
        .into_iter()
        .map(|(labels, points)| {
            let points = points.into_iter().map(|(at, value)| Ok((millis(at), number(&value)?)));
            Ok(Sample { labels: labels.into_iter().collect(), points: points.collect::<Result<_>>()? })
        })
        .collect()
}

fn number(text: &str) -> Result<f64> {
    text.parse().map_err(|error| Error::failed("Prometheus gave a value that is no number").because(error))
}

/// A time of the API. It is rounded to a millisecond; what is no time is 0.
fn millis(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds)
        .map_or(0, |at| u64::try_from(at.saturating_add(Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn answers_of_every_kind_become_samples() {
        let vector = br#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","a":"b"},"value":[1763712000.123,"NaN"]}]}}"#;
        let samples = answer(200, vector, &Redactor::default()).unwrap();
        assert_eq!(samples[0].labels, [("__name__".to_owned(), "up".to_owned()), ("a".to_owned(), "b".to_owned())]);
        assert_eq!(samples[0].points[0].0, 1_763_712_000_123);
        assert!(samples[0].points[0].1.is_nan());
        let matrix = br#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"],[2.5,"+Inf"]]}]}}"#;
        assert_eq!(answer(200, matrix, &Redactor::default()).unwrap()[0].points, [(1000, 1.0), (2500, f64::INFINITY)]);
        let scalar = br#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}"#;
        assert_eq!(
            answer(200, scalar, &Redactor::default()).unwrap(),
            [Sample { labels: vec![], points: vec![(1000, 2.0)] }]
        );
    }

    #[test]
    fn whatever_a_server_says_instead_is_an_error_of_the_right_kind() {
        let many: Vec<_> = (0..=MAX_SERIES).map(|_| r#"{"metric":{},"value":[1,"1"]}"#).collect();
        let many = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, many.join(","));
        for (status, text, kind) in [
            (400, r#"{"status":"error","errorType":"bad_data","error":"parse \u001b[31m"}"#, Kind::Invalid),
            (422, r#"{"status":"error","error":"too many samples"}"#, Kind::Invalid),
            (503, r#"{"status":"error","error":"timeout"}"#, Kind::Unavailable),
            (502, "<html>", Kind::Unavailable),
            (401, "", Kind::Failed),
            (200, "<html>", Kind::Failed),
            (302, "", Kind::Failed),
            (200, r#"{"status":"success"}"#, Kind::Failed),
            (200, r#"{"status":"success","data":{"resultType":"string","result":[1,"x"]}}"#, Kind::Invalid),
            (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"x"]}}"#, Kind::Failed),
            (200, &many, Kind::Limit),
        ] {
            let error = answer(status, text.as_bytes(), &Redactor::default()).unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {text:.80} {error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }

    #[test]
    fn our_credentials_are_in_nothing_that_a_server_says_wherever_it_is_cut() {
        let secret = Secret::new("hunter2-hunter2".to_owned());
        for credentials in [Credentials::Token(secret.clone()), Credentials::Basic("me".to_owned(), secret)] {
            let server = Server::new("http://127.0.0.1:1", &credentials, None).unwrap();
            for before in [0, SHOWN_CHARS - 8] {
                let echo = format!("{} hunter2-hunter2 bWU6aHVudGVyMi1odW50ZXIy", "x".repeat(before));
                let wrong = format!(r#"{{"status":"success","data":{{"resultType":"{echo}"}}}}"#);
                let refused = format!(r#"{{"status":"error","error":"{echo}"}}"#);
                for (status, text) in [(401, &echo), (400, &refused), (422, &refused), (502, &echo), (200, &wrong)] {
                    let error = format!("{:?}", answer(status, text.as_bytes(), &server.redactor).unwrap_err());
                    assert!(!error.contains("hunter2") && !error.contains("aHVudGVy"), "{status}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_range_is_bounded_in_steps_and_time() {
        let check = |start_ms, end_ms, step_ms| Window { start_ms, end_ms, step_ms }.check();
        assert!(check(0, 10_999_000, 1000).is_ok() && check(5, 5, 1).is_ok());
        for (start, end, step) in [(0, 11_000_000, 1000), (1, 0, 1), (0, 1, 0), (0, u64::MAX, u64::MAX)] {
            assert!(check(start, end, step).is_err(), "{start} {end} {step}");
        }
        assert_eq!((seconds(1_500), encode("a b\n{é}=1")), ("1.500".to_owned(), "a%20b%0A%7B%C3%A9%7D%3D1".to_owned()));
        assert_eq!((millis(f64::NAN), millis(-1.0), millis(1e30)), (0, 0, 0));
    }
}
