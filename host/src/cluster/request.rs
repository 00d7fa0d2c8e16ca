//! One request: places, pace, time and trying again. The only place that does the latter.
//!
//! A server that says when to come back is believed. A request is sent again only if that cannot do a
//! thing twice: because it changes nothing, says the same again, or was surely not looked at.

use super::Cluster;
use super::failure::{self, Doing};
use crate::error::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// JSON, as the server sends and takes it.
pub(super) const JSON: &str = "application/json";

/// Most bytes of an answer that is no list: an object has at most 1.5 MiB in etcd, and somewhat more
/// where an aggregated API keeps it elsewhere.
pub(super) const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Attempts where nobody says that the next one will fare better: at a server that never answered or was
/// given up, and after an error of its own. Waits of 0.2, 0.4 and 0.8 s lie between them.
const FEW_ATTEMPTS: u32 = 4;

/// How long a request is tried to a server that was given up: each further kind of a cluster that died must
/// not cost the whole patience again.
const AFTER_GIVING_UP: Duration = Duration::from_secs(30);

/// The longest wait of our own.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The longest wait that a server may ask for.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(60);

/// After this many failures of one request somebody who waits is told.
const WARN_AFTER: u32 = 4;

/// What is sent.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) accept: &'static str,
    /// Media type and bytes.
    pub(super) body: Option<(&'static str, Bytes)>,
    /// What it is, for messages.
    pub(super) doing: Doing,
    /// Most bytes of the answer.
    pub(super) max_bytes: usize,
    /// Whether sending it twice is the same as sending it once.
    pub(super) repeatable: bool,
    /// Whether it is tried once only.
    pub(super) once: bool,
}

impl Ask {
    /// Reads something.
    pub(super) fn get(target: String, doing: Doing) -> Self {
        Self {
            method: Method::GET,
            target,
            accept: JSON,
            body: None,
            doing,
            max_bytes: MAX_ANSWER_BYTES,
            repeatable: true,
            once: false,
        }
    }

    /// Sends a body.
    pub(super) fn send(method: Method, target: String, media: &'static str, body: Vec<u8>, doing: Doing) -> Self {
        let repeatable = method != Method::POST;
        Self { method, body: Some((media, body.into())), repeatable, ..Self::get(target, doing) }
    }
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// What is known of a server from how requests to it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has never answered.
    #[default]
    Unknown,
    /// The last answer was one that counts: it is waited for.
    Answers,
    /// A request was given up, and it has not answered since.
    GivenUp,
}

impl Standing {
    /// Whether one more attempt begins after this many failures and this much time, the next wait counted.
    /// `asked` is that the server itself said when to come back.
    fn tries_again(self, asked: bool, failed: u32, elapsed: Duration, patience: Duration) -> bool {
        let is_short = match self {
            Self::Unknown => !asked,
            Self::Answers => false,
            Self::GivenUp => true,
        };
        let time = if self == Self::GivenUp { patience.min(AFTER_GIVING_UP) } else { patience };
        elapsed < time && (!is_short || failed < FEW_ATTEMPTS)
    }
}

/// What became of an answer.
enum Judged {
    /// It counts.
    Counts,
    /// The server is busy for longer than it is waited for.
    Busy,
    /// The request is sent again after this.
    Again(Duration),
}

/// How one attempt ended without an answer.
struct Broken {
    error: Error,
    /// Whether the server surely has not looked at it.
    unseen: bool,
    /// Whether it can fare better next time.
    may_pass: bool,
}

impl Cluster {
    /// Sends a request until there is an answer that counts, be it a refusal.
    ///
    /// Errors: no answer (`Unavailable`, `TimedOut`, `Failed` for certificates and names that are
    /// wrong), `Limit` for one that is too long.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer> {
        let _place =
            self.places.acquire().await.map_err(|error| Error::cancelled("the run has ended").because(error))?;
        let began = Instant::now();
        let (mut failed, mut renewed) = (0_u32, false);
        loop {
            let (client, generation) = Box::pin(self.connected()).await?;
            self.pace.wait().await;
            let wait = match self.attempt(&client, ask).await {
                Ok((answer, headers)) => {
                    if answer.status == StatusCode::UNAUTHORIZED && !renewed && !ask.once {
                        renewed = true;
                        if Box::pin(self.renew(generation)).await? {
                            continue;
                        }
                    }
                    match self.judge(ask, &answer, &headers, failed + 1, began) {
                        Judged::Again(wait) => wait,
                        Judged::Busy => {
                            self.set_standing(Standing::GivenUp);
                            return Ok(answer);
                        }
                        Judged::Counts => {
                            self.set_standing(Standing::Answers);
                            return Ok(answer);
                        }
                    }
                }
                Err(broken) => {
                    let wait = own_wait(failed + 1);
                    let is_repeated = !ask.once && broken.may_pass && (ask.repeatable || broken.unseen);
                    let has_time = self.tries_again(false, failed + 1, began.elapsed() + wait);
                    if is_repeated && !has_time {
                        self.set_standing(Standing::GivenUp);
                    }
                    if !is_repeated || !has_time {
                        let attempts = (failed > 0).then(|| (failed + 1).to_string());
                        let error = attempts.into_iter().fold(broken.error, |error, n| error.fact("attempts", n));
                        return Err(error);
                    }
                    wait
                }
            };
            failed += 1;
            if failed == WARN_AFTER {
                tracing::warn!(cluster = self.label(), failed, "the cluster is in trouble; trying again");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The same, and everything but success is an error.
    pub(super) async fn send_ok(&self, ask: &Ask) -> Result<Bytes> {
        let answer = self.send(ask).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(failure::refused(self, &ask.doing, &answer)) }
    }

    /// Reads a JSON document.
    pub(super) async fn get_json(&self, target: &str, verb: &'static str) -> Result<serde_json::Value> {
        let body = self.send_ok(&Ask::get(target.to_owned(), Doing::plain(verb))).await?;
        serde_json::from_slice(&body).map_err(|error| failure::not_json(self, &error))
    }

    /// Whether an answer counts, or how long to wait before the next attempt.
    fn judge(&self, ask: &Ask, answer: &Answer, headers: &HeaderMap, failed: u32, began: Instant) -> Judged {
        if ask.once {
            return Judged::Counts;
        }
        let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let asked = asked.map(|seconds| Duration::from_secs(seconds).min(LONGEST_ASKED_WAIT));
        // Whoever says when to come back has not done it.
        if answer.status == StatusCode::TOO_MANY_REQUESTS || (answer.status.is_server_error() && asked.is_some()) {
            let wait = asked.unwrap_or_default().max(own_wait(failed));
            let has_time = self.tries_again(true, failed, began.elapsed() + wait);
            return if has_time { Judged::Again(wait) } else { Judged::Busy };
        }
        let passes = match answer.status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => ask.repeatable,
            // A webhook that fails would be called again and again: only reading is tried.
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT => ask.method == Method::GET,
            _ => false,
        };
        if passes && failed < FEW_ATTEMPTS { Judged::Again(own_wait(failed)) } else { Judged::Counts }
    }

    fn tries_again(&self, asked: bool, failed: u32, elapsed: Duration) -> bool {
        let standing = *self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.tries_again(asked, failed, elapsed, self.spec.patience)
    }

    fn set_standing(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    async fn attempt(&self, client: &kube::Client, ask: &Ask) -> Result<(Answer, HeaderMap), Broken> {
        let timeout = self.spec.timeout;
        let silent =
            |unseen: bool| Broken { error: failure::silent(self, &ask.doing, timeout), unseen, may_pass: true };
        let request = request(ask).map_err(|error| Broken { error, unseen: true, may_pass: false })?;
        let sent = tokio::time::timeout(timeout, client.send(request)).await.map_err(|_| silent(false))?;
        let response = sent.map_err(|error| {
            let found = failure::unreached(self, &ask.doing, &error);
            Broken { error: found.error, unseen: found.unseen, may_pass: found.may_pass }
        })?;
        let (head, mut body) = response.into_parts();
        let mut whole = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(timeout, body.frame()).await.map_err(|_| silent(false))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                let found = failure::unreached(self, &ask.doing, &error);
                Broken { error: found.error, unseen: false, may_pass: found.may_pass }
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > ask.max_bytes {
                let error = failure::too_long(self, &ask.doing, ask.max_bytes);
                return Err(Broken { error, unseen: false, may_pass: false });
            }
            whole.extend_from_slice(&data);
        }
        Ok((Answer { status: head.status, body: whole.freeze() }, head.headers))
    }
}

fn request(ask: &Ask) -> Result<Request<Body>> {
    let mut builder = Request::builder().method(&ask.method).uri(&ask.target).header(header::ACCEPT, ask.accept);
    let body = match &ask.body {
        Some((media, bytes)) => {
            builder = builder.header(header::CONTENT_TYPE, *media);
            Body::from(bytes.clone())
        }
        None => Body::empty(),
    };
    builder.body(body).map_err(|error| Error::invalid("could not make a request of it").because(error))
}

/// Our own wait after failure number `failed` (from 1): doubled each time, and random from half of it
/// to all of it, so that many do not come back together.
fn own_wait(failed: u32) -> Duration {
    let ceiling = Duration::from_millis(200).saturating_mul(1 << (failed - 1).min(10)).min(LONGEST_WAIT);
    let mut random = [0_u8; 1];
    // Without randomness the wait is the shortest: jitter is a courtesy.
    let _ = getrandom::fill(&mut random);
    ceiling / 2 + ceiling * u32::from(random[0]) / (2 * 255)
}

/// A limit of requests in a second: each has a moment of its own.
pub(super) struct Pace {
    every: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(requests_per_second: Option<u32>) -> Self {
        let every = requests_per_second.map(|n| Duration::from_secs(1) / n.max(1));
        Self { every, next: Mutex::default() }
    }

    /// How long the next request waits, which takes its moment.
    fn take(&self, now: Instant) -> Duration {
        let Some(every) = self.every else { return Duration::ZERO };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + every);
        at - now
    }

    async fn wait(&self) {
        let wait = self.take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Whether an error says that what was named is not there.
pub(super) fn is_absent(error: &Error) -> bool {
    error.kind() == Kind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_moments_and_none_are_saved_up() {
        let pace = Pace::new(Some(10));
        let now = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| pace.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 300]);
        let later = now + Duration::from_secs(60);
        assert_eq!([pace.take(later).as_millis(), pace.take(later).as_millis()], [0, 100]);
        let free = Pace::new(None);
        assert!((0..100).all(|_| free.take(now).is_zero()));
    }

    #[test]
    fn a_server_that_was_given_up_is_not_waited_for_by_each_request() {
        use Standing::{Answers, GivenUp, Unknown};
        let patience = crate::cluster::PATIENCE;
        let seconds = Duration::from_secs;
        for (standing, asked, failed, elapsed, again) in [
            (Answers, false, 40, 119, true),
            (Answers, false, 1, 120, false),
            (Answers, true, 40, 119, true),
            // Who never answered may be nobody; who says when to come back is there.
            (Unknown, false, 3, 1, true),
            (Unknown, false, 4, 1, false),
            (Unknown, false, 1, 120, false),
            (Unknown, true, 40, 119, true),
            (GivenUp, false, 3, 1, true),
            (GivenUp, false, 4, 1, false),
            (GivenUp, true, 4, 1, false),
            // One attempt that nobody answers takes as long as `timeout`, and is then the only one.
            (GivenUp, false, 1, 60, false),
        ] {
            let found = standing.tries_again(asked, failed, seconds(elapsed), patience);
            assert_eq!(found, again, "{standing:?} {asked} {failed} {elapsed}");
        }
        assert!(!GivenUp.tries_again(false, 1, seconds(2), seconds(2)), "who wants less patience has less");
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        for failed in 1..40 {
            let wait = own_wait(failed);
            assert!(wait <= LONGEST_WAIT && wait >= Duration::from_millis(100), "{failed}: {wait:?}");
        }
        assert!(own_wait(20) >= LONGEST_WAIT / 2);
    }
}
