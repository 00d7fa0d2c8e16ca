//! Where a bucket is, how to get in, and what may be said of it.

use super::failure::quote;
use crate::error::{Error, Result};
use crate::secret::{Redactor, Secret};
use crate::store::ObjectLock;
use std::time::Duration;

/// How long a connection may take to come about.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long a request may go without progress, unless set otherwise.
pub const STALL_WAIT: Duration = Duration::from_secs(60);
/// Where a bucket is and how to get in.
#[derive(Clone, Debug)]
pub struct S3Spec {
    /// The bucket.
    pub bucket: String,
    /// Put before every key with a slash between; empty for the whole bucket.
    pub prefix: String,
    /// The bucket's region; servers other than AWS mostly ignore it.
    pub region: String,
    /// Base URL of the server; `None` for AWS.
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path (most servers other than AWS) or in the host name.
    pub path_style: bool,
    /// Explicit credentials; the platform's standard chain (environment, profile, container,
    /// instance) without them.
    pub credentials: Option<S3Credentials>,
    /// Credentials that the platform's chain may come upon: blotted out of messages like explicit ones.
    pub blotted: Vec<Secret>,
    /// Whether plain HTTP may leave this machine. What is encrypted at rest stays secret then, but
    /// whoever sits between sees names and sizes, and can make requests fail.
    pub allow_plaintext: bool,
    /// How long a request may go without progress; [`STALL_WAIT`] unless set otherwise.
    pub stall: Duration,
    /// How objects are locked when they are written.
    pub lock: Option<ObjectLock>,
}

/// Explicit credentials, resolved.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// Access key id.
    pub access_key: Secret,
    /// Secret access key.
    pub secret_key: Secret,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
}

/// What errors and descriptions say of the bucket, and what they must not say.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
    /// Finds the credentials, also those of the platform once they were asked for.
    pub(super) redactor: Redactor,
}

impl Place {
    pub(super) fn endpoint(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region))
    }

    pub(super) fn describe(&self) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!(", prefix \"{}\"", self.prefix) };
        format!("s3 bucket \"{}\" at {}{prefix}", self.bucket, self.endpoint())
    }

    /// What somebody else wrote, without our credentials and fit for one line.
    pub(super) fn scrub(&self, text: &str) -> String {
        // Before it is cut: half a secret would not be found.
        quote(&self.redactor.text(text))
    }
}

/// Plain HTTP is for this machine, or for whom it is allowed by name.
pub(super) fn check_endpoint(endpoint: &str, allow_plaintext: bool) -> Result<()> {
    // An endpoint with credentials in it is not repeated in the message.
    if endpoint.contains('@') {
        return Err(
            Error::invalid("the store's endpoint must not hold credentials").hint("use `access_key` and `secret_key`")
        );
    }
    let bad = || {
        Error::invalid(format!("\"{}\" is not an endpoint", quote(endpoint)))
            .fact("expected", "a URL such as https://s3.example.com")
    };
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(bad)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    if host.is_empty() || endpoint.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad());
    }
    match scheme {
        "https" => Ok(()),
        "http" => {
            let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            if local || allow_plaintext {
                return Ok(());
            }
            Err(Error::invalid(format!("the endpoint \"{endpoint}\" is plain HTTP to another machine"))
                .hint("use https: what travels in plain can be read and changed on the way"))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_or_by_permission() {
        for ok in ["https://s3.example.com", "http://127.0.0.1:9000", "http://localhost", "http://[::1]:9000/"] {
            assert!(check_endpoint(ok, false).is_ok(), "{ok}");
        }
        for refused in [
            "http://10.0.0.1:9000",
            "http://minio.svc",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "ftp://x",
            "https://",
            "s3.example.com",
            "https://a b",
        ] {
            assert!(check_endpoint(refused, false).is_err(), "{refused}");
        }
        assert!(check_endpoint("http://minio.svc", true).is_ok());
        let leak = check_endpoint("https://user:hunter2@host", true).unwrap_err();
        assert!(!format!("{leak:?}").contains("hunter2"));
    }
}
