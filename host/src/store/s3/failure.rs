//! What a server or the network said, as an error for a person and a decision for the caller.

use super::place::Place;
use crate::error::{Error, Kind};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// A server that asks to slow down without saying for how long is left alone for this long.
const SLOW_DOWN: Duration = Duration::from_secs(1);
/// What is kept of a text that the server wrote.
const QUOTED_CHARS: usize = 1024;

/// What to do about a server that answers, and does not do it for now.
const IN_TROUBLE: &str = "the server is overloaded or restarting: look at its own log, then try again; a lower `parts_in_flight` asks less of it";

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) status: Option<u16>,
    pub(super) code: Option<String>,
}

impl Failure {
    /// Whether the server answered with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the request may have taken effect all the same, or had before: what is there
    /// decides, not this answer.
    pub(super) fn leaves_open(&self) -> bool {
        match self.status {
            // Lost, timed out, or never sent: a connection that breaks does not say which.
            None => true,
            Some(200 | 409 | 412 | 500..=599) => true,
            Some(_) => self.is("NoSuchUpload"),
        }
    }

    /// Whether the server does not know what was asked for, such as a checksum.
    pub(super) fn is_unsupported(&self) -> bool {
        const CODES: [&str; 4] = ["NotImplemented", "InvalidRequest", "InvalidArgument", "UnsupportedArgument"];
        matches!(self.status, Some(400 | 501)) && self.code.as_deref().is_none_or(|code| CODES.contains(&code))
    }
}

/// Nothing moved for as long as `stall`.
pub(super) fn stalled(place: &Place, doing: &str, stall: Duration) -> Failure {
    let error = Error::timed_out(format!("could not {doing}"))
        .fact("store", place.describe())
        .fact("got", format!("no progress for {}", crate::unit::duration(stall)))
        .hint("the server or the network stands still: check both, then try again");
    Failure { error, status: None, code: None }
}

/// Makes the error for a request; `doing` completes "could not …".
pub(super) fn explain<E>(place: &Place, doing: &str, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let answer = Answer::of(service.err(), service.raw());
            answer.explain(place, doing)
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            let text = place.scrub(&chain(error));
            let error = Error::unavailable(format!("could not {doing}"))
                .fact("store", place.describe())
                .fact("status", status.to_string())
                .hint("what answers there does not speak S3, or something between changes its answers")
                .because(text);
            // An answer that cannot be read says nothing about what happened.
            Failure { error, status: None, code: None }
        }
        _ => not_answered(place, doing, error),
    }
}

/// The parts of an answer that matter.
struct Answer {
    status: u16,
    code: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    region: Option<String>,
}

impl Answer {
    fn of(error: &impl ProvideErrorMetadata, raw: &HttpResponse) -> Self {
        let header = |name: &str| raw.headers().get(name).map(str::to_owned);
        Self {
            status: raw.status().as_u16(),
            code: error.code().map(str::to_owned),
            message: error.message().map(str::to_owned),
            request_id: header("x-amz-request-id"),
            retry_after: header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
            region: header("x-amz-bucket-region"),
        }
    }

    fn explain(self, place: &Place, doing: &str) -> Failure {
        let (kind, hint) = self.decide(place);
        let mut error = Error::new(kind, format!("could not {doing}"))
            .fact("store", place.describe())
            .fact("status", self.status.to_string());
        if let Some(code) = &self.code {
            error = error.fact("code", place.scrub(code));
        }
        if let Some(message) = self.message.as_deref().filter(|message| !message.is_empty()) {
            error = error.fact("server said", place.scrub(message));
        }
        if let Some(id) = &self.request_id {
            error = error.fact("request id", place.scrub(id));
        }
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        let asks = matches!(self.status, 429 | 503) || self.code.as_deref() == Some("SlowDown");
        if let Some(wait) = self.retry_after.or(asks.then_some(SLOW_DOWN)) {
            error = error.retry_after(wait);
        }
        Failure { error, status: Some(self.status), code: self.code }
    }

    /// The kind of the error, and what to do about it.
    fn decide(&self, place: &Place) -> (Kind, Option<String>) {
        let hint = |text: &str| Some(text.to_owned());
        match self.code.as_deref().unwrap_or("") {
            "NoSuchBucket" => {
                let text = format!("create bucket \"{}\", or correct `bucket`, `region` and `endpoint`", place.bucket);
                return (Kind::Failed, Some(text));
            }
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
                return (
                    Kind::Denied,
                    hint("give these credentials the right to read, write, list and delete in the bucket"),
                );
            }
            "SignatureDoesNotMatch" => {
                return (Kind::Denied, hint("the secret key is wrong, or something between changes requests"));
            }
            "InvalidAccessKeyId" | "InvalidToken" | "NotSignedUp" => {
                return (Kind::Denied, hint("the server does not know this access key: check `access_key`"));
            }
            "ExpiredToken" | "TokenRefreshRequired" => {
                return (Kind::Denied, hint("the session token has expired: get new credentials"));
            }
            "RequestTimeTooSkewed" | "RequestExpired" => {
                return (Kind::Denied, hint("this machine's clock and the server's differ too much: set the clock"));
            }
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
                let text = match &self.region {
                    Some(region) => format!("set `region = \"{}\"`", place.scrub(region)),
                    None => "set `region` to where the bucket is".to_owned(),
                };
                return (Kind::Invalid, Some(text));
            }
            "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
                return (Kind::Damaged, hint("something between here and the store changes bytes"));
            }
            "InvalidRange" => return (Kind::Damaged, None),
            "PreconditionFailed" => return (Kind::Conflict, None),
            "ConditionalRequestConflict" | "OperationAborted" => {
                return (Kind::Unavailable, hint("somebody else writes to the same name at the same time"));
            }
            "NoSuchUpload" => {
                return (Kind::Failed, hint("the upload was completed or aborted, perhaps by another process"));
            }
            "NoSuchKey" | "NotFound" | "NoSuchVersion" => return (Kind::NotFound, None),
            "EntityTooLarge" => return (Kind::Limit, hint("the server takes smaller parts: lower `part_bytes`")),
            "XMinioStorageFull" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "InsufficientCapacity" => {
                return (Kind::Failed, hint("the store is full: give it more space, or prune old backups"));
            }
            "SlowDown"
            | "ServiceUnavailable"
            | "InternalError"
            | "RequestTimeout"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "SlowDownWrite"
            | "SlowDownRead" => return (Kind::Unavailable, hint(IN_TROUBLE)),
            _ => {}
        }
        match self.status {
            404 => (Kind::NotFound, None),
            401 | 403 => (Kind::Denied, hint("check the access key, the secret key and their rights to the bucket")),
            301 | 307 | 308 => (Kind::Invalid, hint("the bucket is elsewhere: check `region` and `endpoint`")),
            409 | 412 => (Kind::Conflict, None),
            416 => (Kind::Damaged, None),
            507 => (Kind::Failed, hint("the store is full: give it more space, or prune old backups")),
            408 | 429 | 500 | 502 | 503 | 504 => (Kind::Unavailable, hint(IN_TROUBLE)),
            _ => (Kind::Failed, hint("`strongroom store check` finds out what this server can do")),
        }
    }
}

/// Nobody answered: the network, a name, a certificate, or no credentials to ask with.
fn not_answered(place: &Place, doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = chain(error);
    let lower = text.to_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    let (kind, hint) = if has(&["credential", "identity"]) {
        (
            Kind::Denied,
            "no usable credentials: set `access_key` and `secret_key`, or provide them as the platform does \
             (environment, profile, instance role)"
                .to_owned(),
        )
    } else if has(&["dns error", "failed to lookup address", "name or service not known", "name resolution"]) {
        (Kind::Unavailable, format!("the name in \"{}\" does not resolve: check `endpoint` and DNS", place.endpoint()))
    } else if has(&["certificate", "tls", "handshake"]) {
        (Kind::Failed, "the server's certificate is not trusted here, or it does not speak TLS".to_owned())
    } else if has(&["connection refused"]) {
        (Kind::Unavailable, format!("nothing listens at \"{}\": is the server up?", place.endpoint()))
    } else if has(&["timed out", "timeout"]) {
        (Kind::TimedOut, format!("\"{}\" does not answer: check network and firewall", place.endpoint()))
    } else {
        (Kind::Unavailable, "the connection broke: check the network, then try again".to_owned())
    };
    let error = Error::new(kind, format!("could not {doing}"))
        .fact("store", place.describe())
        .hint(hint)
        .because(place.scrub(&text));
    Failure { error, status: None, code: None }
}

/// The texts of an error and its sources, outermost first, repetitions left out.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string();
        if !texts.iter().any(|seen| seen.contains(&text)) {
            texts.push(text);
        }
        at = error.source();
    }
    texts.join(": ")
}

/// What a server wrote, cut and without control characters.
pub(super) fn quote(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Redactor, Secret};

    fn place() -> Place {
        Place {
            bucket: "backups".to_owned(),
            prefix: String::new(),
            endpoint: Some("https://s3.example.invalid".to_owned()),
            region: "eu-west-1".to_owned(),
            redactor: Redactor::new([&Secret::new("hunter2-hunter2".to_owned())]),
        }
    }

    fn answer(status: u16, code: Option<&str>) -> Answer {
        Answer {
            status,
            code: code.map(str::to_owned),
            message: Some("your key hunter2-hunter2\nis bad".to_owned()),
            request_id: Some("R1".to_owned()),
            retry_after: None,
            region: None,
        }
    }

    #[test]
    fn every_answer_has_the_kind_that_its_caller_needs() {
        let table = [
            (404, Some("NoSuchBucket"), Kind::Failed),
            (404, Some("NoSuchKey"), Kind::NotFound),
            (404, None, Kind::NotFound),
            (404, Some("NoSuchUpload"), Kind::Failed),
            (403, Some("AccessDenied"), Kind::Denied),
            (403, Some("SignatureDoesNotMatch"), Kind::Denied),
            (403, Some("RequestTimeTooSkewed"), Kind::Denied),
            (401, None, Kind::Denied),
            (301, Some("PermanentRedirect"), Kind::Invalid),
            (400, Some("BadDigest"), Kind::Damaged),
            (400, Some("XAmzContentChecksumMismatch"), Kind::Damaged),
            (400, Some("RequestTimeout"), Kind::Unavailable),
            (409, Some("ConditionalRequestConflict"), Kind::Unavailable),
            (412, Some("PreconditionFailed"), Kind::Conflict),
            (412, None, Kind::Conflict),
            (416, None, Kind::Damaged),
            (429, None, Kind::Unavailable),
            (500, Some("InternalError"), Kind::Unavailable),
            (200, Some("InternalError"), Kind::Unavailable),
            (503, Some("SlowDown"), Kind::Unavailable),
            (507, Some("XMinioStorageFull"), Kind::Failed),
            (418, Some("Teapot"), Kind::Failed),
        ];
        for (status, code, expected) in table {
            let failure = answer(status, code).explain(&place(), "read \"k\"");
            assert_eq!(failure.error.kind(), expected, "{status} {code:?}");
        }
    }

    #[test]
    fn an_error_quotes_the_server_and_never_a_credential() {
        let error = answer(403, Some("InvalidAccessKeyId")).explain(&place(), "write \"k\"").error;
        let text = format!("{error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("your key *** is bad") && text.contains("request id: R1"), "{text}");
        assert!(text.contains("s3 bucket \"backups\" at https://s3.example.invalid"), "{text}");
    }

    #[test]
    fn a_server_that_asks_to_slow_down_is_left_alone() {
        let slow = answer(503, Some("SlowDown")).explain(&place(), "x").error;
        assert_eq!(slow.retry_after_wait(), Some(SLOW_DOWN));
        let told = Answer { retry_after: Some(Duration::from_secs(7)), ..answer(503, None) }.explain(&place(), "x");
        assert_eq!(told.error.retry_after_wait(), Some(Duration::from_secs(7)));
        assert_eq!(answer(500, None).explain(&place(), "x").error.retry_after_wait(), None);
    }

    #[test]
    fn what_is_there_decides_after_answers_that_leave_it_open() {
        let open = |status, code| answer(status, code).explain(&place(), "x").leaves_open();
        assert!(open(200, Some("InternalError")) && open(404, Some("NoSuchUpload")) && open(409, None));
        assert!(open(412, None) && open(500, None) && open(503, Some("SlowDown")));
        assert!(!open(403, Some("AccessDenied")) && !open(400, Some("BadDigest")) && !open(404, Some("NoSuchBucket")));
    }
}
