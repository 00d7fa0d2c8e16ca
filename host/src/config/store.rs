//! `[store.x]`, and a store that is named on the command line because there is no configuration.

use super::fields::Fields;
use super::key::MIN_S3_PART_BYTES;
use super::{Meaning, SecretRef};
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::store::s3::STALL_WAIT;
use crate::store::{LockMode, ObjectLock};
use crate::stream::{Compression, MIN_PART_BYTES, MIN_SEGMENT_BYTES};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[store.x]`
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Where it is.
    pub place: StorePlace,
    /// `recipients`: age public keys; none and `encryption = "off"` means bare zstd.
    pub recipients: Vec<String>,
    /// False with `encryption = "off"`.
    pub encrypted: bool,
    /// `identity`: needed only to read.
    pub identity: Option<SecretRef>,
    /// `level`: zstd level, 1 to 19, or "auto"; 2 unless set.
    pub level: Compression,
    /// `part_bytes`, `parts_per_segment`: 8 MiB and 950 unless set.
    pub part_bytes: usize,
    /// See `part_bytes`.
    pub parts_per_segment: u32,
    /// `parts_in_flight`: 4 unless set.
    pub parts_in_flight: usize,
    /// `patience`: how long one request is tried again; as the verb has it unless set.
    pub patience: Option<Duration>,
    /// `upload_rate`, `download_rate`: bytes a second; no limit unless set.
    pub upload_rate: Option<u64>,
    /// See `upload_rate`.
    pub download_rate: Option<u64>,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// `type = "local"`, `path`.
    Local {
        /// The directory.
        path: PathBuf,
    },
    /// `type = "s3"`.
    S3(S3Config),
}

/// `type = "s3"` of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    /// `bucket`.
    pub bucket: String,
    /// `prefix`, without slashes at its ends.
    pub prefix: String,
    /// `region`; `us-east-1` unless set.
    pub region: String,
    /// `endpoint`, for servers other than AWS.
    pub endpoint: Option<String>,
    /// `path_style`; true when an endpoint is set.
    pub path_style: bool,
    /// `access_key`; the platform's standard chain unless set.
    pub access_key: Option<SecretRef>,
    /// `secret_key`.
    pub secret_key: Option<SecretRef>,
    /// `session_token`.
    pub session_token: Option<SecretRef>,
    /// `object_lock`; nothing is locked unless set.
    pub object_lock: Option<ObjectLock>,
    /// `stall`; [`STALL_WAIT`] unless set.
    pub stall: Duration,
}

const DEFAULT_PART_BYTES: usize = 8 << 20;
const DEFAULT_PARTS_PER_SEGMENT: u32 = 950;
const DEFAULT_PARTS_IN_FLIGHT: usize = 4;
const DEFAULT_REGION: &str = "us-east-1";

/// Keys that only one type of store has.
const LOCAL_KEYS: &[&str] = &["path"];
const S3_KEYS: &[&str] = &[
    "bucket",
    "prefix",
    "region",
    "endpoint",
    "path_style",
    "access_key",
    "secret_key",
    "session_token",
    "object_lock",
    "stall",
];

impl StoreConfig {
    /// A store to read from without a configuration: `s3://bucket/prefix?endpoint=…&region=…&path_style=…`,
    /// or the path of a directory. Credentials come from the platform's standard chain
    /// (`AWS_ACCESS_KEY_ID` and its like), never from the address.
    ///
    /// Errors: `Invalid`.
    pub fn from_url(text: &str, identity: Option<&Path>) -> Result<Self> {
        Ok(Self {
            place: parse_url(text)?,
            recipients: Vec::new(),
            encrypted: identity.is_some(),
            identity: identity.map(|path| SecretRef::File(path.to_owned())),
            level: Compression::default(),
            part_bytes: DEFAULT_PART_BYTES,
            parts_per_segment: DEFAULT_PARTS_PER_SEGMENT,
            parts_in_flight: DEFAULT_PARTS_IN_FLIGHT,
            patience: None,
            upload_rate: None,
            download_rate: None,
        })
    }
}

impl StoreConfig {
    /// Its address for `--store-url`, without credentials.
    pub fn to_url(&self) -> String {
        let s3 = match &self.place {
            StorePlace::Local { path } => return path.display().to_string(),
            StorePlace::S3(s3) => s3,
        };
        let prefix = if s3.prefix.is_empty() { String::new() } else { format!("/{}", s3.prefix) };
        let endpoint = s3.endpoint.as_ref().map_or_else(String::new, |endpoint| format!("endpoint={endpoint}&"));
        format!("s3://{}{prefix}?{endpoint}region={}&path_style={}", s3.bucket, s3.region, s3.path_style)
    }
}

fn parse_url(text: &str) -> Result<StorePlace> {
    let bad = |got: &str| {
        Error::invalid(format!("\"{}\" is not the address of a store", super::read::escape(text)))
            .fact("expected", "s3://bucket/prefix?endpoint=https://…&region=…, or the path of a directory")
            .fact("got", got.to_owned())
    };
    let Some(rest) = text.strip_prefix("s3://") else {
        if let Some((scheme, _)) = text.split_once("://") {
            if scheme == "file" {
                return Err(bad("a file URL").hint("write the path alone"));
            }
            return Err(bad(&format!("the scheme \"{}\"", super::read::escape(scheme))));
        }
        if text.is_empty() {
            return Err(bad("nothing"));
        }
        return Ok(StorePlace::Local { path: PathBuf::from(text) });
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains('@') {
        return Err(bad("credentials in it").hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"));
    }
    check_bucket(bucket).map_err(bad)?;
    let prefix = prefix.trim_matches('/').to_owned();
    if !prefix.is_empty() {
        ObjectKey::parse(&prefix)?;
    }
    let mut s3 = S3Config {
        bucket: bucket.to_owned(),
        prefix,
        region: DEFAULT_REGION.to_owned(),
        endpoint: None,
        path_style: false,
        access_key: None,
        secret_key: None,
        session_token: None,
        object_lock: None,
        stall: STALL_WAIT,
    };
    let mut path_style = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "endpoint" => {
                check_endpoint(value).map_err(bad)?;
                s3.endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            "region" if !value.is_empty() => s3.region = value.to_owned(),
            "path_style" if matches!(value, "true" | "false") => path_style = Some(value == "true"),
            _ => {
                return Err(bad(&format!("\"{}\"", super::read::escape(pair)))
                    .hint("after the ? there may be endpoint, region and path_style (true or false)"));
            }
        }
    }
    s3.path_style = path_style.unwrap_or(s3.endpoint.is_some());
    Ok(StorePlace::S3(s3))
}

fn check_bucket(name: &str) -> Result<(), &'static str> {
    let ok = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.as_bytes().last().is_some_and(u8::is_ascii_alphanumeric);
    if ok { Ok(()) } else { Err("a bucket name that S3 does not take: 3 to 63 of a-z 0-9 . -") }
}

fn check_endpoint(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return Err("an endpoint that does not begin with https:// or http://");
    };
    let host = rest.trim_end_matches('/');
    if host.contains('@') {
        return Err("an endpoint with credentials in it");
    }
    if host.is_empty() || host.contains(['/', '?', '#']) || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("an endpoint that is not a host and a port");
    }
    Ok(())
}

impl Meaning<'_> {
    pub(super) fn store(&mut self, fields: &Fields) -> Option<StoreConfig> {
        let place = match fields.text("type") {
            Some("local") => {
                self.foreign(fields, S3_KEYS, "s3");
                self.present(fields, "path", "the directory");
                self.path(fields, "path").map(|path| StorePlace::Local { path })
            }
            Some(_) => {
                self.foreign(fields, LOCAL_KEYS, "local");
                self.s3(fields).map(StorePlace::S3)
            }
            None => None,
        };
        let part_bytes = fields.whole("part_bytes").unwrap_or(DEFAULT_PART_BYTES);
        let least = usize::try_from(MIN_S3_PART_BYTES).unwrap_or(usize::MAX);
        if matches!(place, Some(StorePlace::S3(_))) && part_bytes < least {
            self.mistakes.add(
                fields.span_of("part_bytes"),
                format!("{}.part_bytes is too small", fields.path),
                format!("S3 takes parts of at least {}", crate::unit::bytes(MIN_S3_PART_BYTES)),
            );
        } else if !part_bytes.is_power_of_two() || part_bytes < MIN_PART_BYTES {
            // BLAKE3 is computed by parts, and only a power of two is a subtree of it.
            self.mistakes.add(
                fields.span_of("part_bytes"),
                format!("{}.part_bytes is not a power of two", fields.path),
                "expected a size such as 8MiB, 16MiB or 32MiB",
            );
        }
        let parts_per_segment = fields.whole("parts_per_segment").unwrap_or(DEFAULT_PARTS_PER_SEGMENT);
        let segment_bytes = u64::from(parts_per_segment).saturating_mul(u64::try_from(part_bytes).unwrap_or(u64::MAX));
        if segment_bytes < MIN_SEGMENT_BYTES {
            self.mistakes.add(
                fields.span_of("parts_per_segment"),
                format!("{}.parts_per_segment is too small for parts of this size", fields.path),
                format!(
                    "{} make a segment, and one frame with its header needs {}",
                    crate::unit::bytes(segment_bytes),
                    crate::unit::bytes(MIN_SEGMENT_BYTES)
                ),
            );
        }
        let encrypted = fields.text("encryption") != Some("off");
        let recipients = self.recipients(fields, encrypted);
        Some(StoreConfig {
            place: place?,
            recipients,
            encrypted,
            identity: fields.secret("identity").map(|secret| self.secret_ref(secret)),
            level: match (fields.text("level"), fields.whole::<u8>("level")) {
                (Some(_), _) => Compression::Auto,
                (None, Some(level)) => Compression::Level(i32::from(level)),
                (None, None) => Compression::default(),
            },
            part_bytes,
            parts_per_segment,
            parts_in_flight: fields.whole("parts_in_flight").unwrap_or(DEFAULT_PARTS_IN_FLIGHT),
            patience: fields.duration("patience"),
            upload_rate: fields.whole("upload_rate"),
            download_rate: fields.whole("download_rate"),
        })
    }

    fn object_lock(&mut self, fields: &Fields) -> Option<ObjectLock> {
        let fields = fields.table("object_lock")?;
        let mode = match fields.text("mode")? {
            "compliance" => LockMode::Compliance,
            _ => LockMode::Governance,
        };
        Some(ObjectLock { mode, days: fields.whole("days")? })
    }

    fn s3(&mut self, fields: &Fields) -> Option<S3Config> {
        self.present(fields, "bucket", "the bucket");
        if let Some(Err(got)) = fields.text("bucket").map(check_bucket) {
            self.mistakes.add(fields.span_of("bucket"), format!("{}.bucket is not a bucket", fields.path), got);
        }
        let prefix = fields.text("prefix").unwrap_or_default().trim_matches('/').to_owned();
        if !prefix.is_empty() && ObjectKey::parse(&prefix).is_err() {
            let label = "expected relative parts separated by single slashes";
            self.mistakes.add(fields.span_of("prefix"), format!("{}.prefix is not a prefix", fields.path), label);
        }
        if let Some(Err(got)) = fields.text("endpoint").map(check_endpoint) {
            // A user, or what follows a host, may be a password or a token.
            if fields.text("endpoint").is_some_and(|url| url.contains(['@', '?', '#'])) {
                self.mistakes.mask(fields.span_of("endpoint"));
            }
            self.mistakes
                .add(fields.span_of("endpoint"), format!("{}.endpoint is not usable", fields.path), got)
                .help = Some(
                "write it as \"https://s3.example.org:9000\"; keys belong in access_key and secret_key".to_owned(),
            );
        }
        for (one, other) in
            [("access_key", "secret_key"), ("secret_key", "access_key"), ("session_token", "secret_key")]
        {
            if fields.has(one) && !fields.has(other) {
                self.mistakes.add(
                    fields.span_of(one),
                    format!("{}.{one} is set without {other}", fields.path),
                    "expected both, or neither",
                );
            }
        }
        let endpoint = fields.text("endpoint").map(|url| url.trim_end_matches('/').to_owned());
        let object_lock = self.object_lock(fields);
        let secret = |name: &str| fields.secret(name).map(|secret| self.secret_ref(secret));
        Some(S3Config {
            bucket: fields.text("bucket")?.to_owned(),
            prefix,
            region: fields.text("region").unwrap_or(DEFAULT_REGION).to_owned(),
            path_style: fields.flag_or("path_style", endpoint.is_some()),
            endpoint,
            access_key: secret("access_key"),
            secret_key: secret("secret_key"),
            session_token: secret("session_token"),
            object_lock,
            stall: fields.duration("stall").unwrap_or(STALL_WAIT),
        })
    }

    fn recipients(&mut self, fields: &Fields, encrypted: bool) -> Vec<String> {
        if fields.is_refused("encryption") || fields.is_refused("recipients") {
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let texts = fields.texts("recipients");
        for (text, span) in &texts {
            self.recipient(fields, text, span.clone());
            if !seen.insert(*text) {
                self.mistakes.add(
                    span.clone(),
                    format!("{}.recipients names a key twice", fields.path),
                    "named before",
                );
            }
        }
        if encrypted && texts.is_empty() {
            self.mistakes
                .add(fields.span_of("recipients"), format!("{} has no recipients", fields.path), "backups are encrypted unless told otherwise")
                .help = Some(
                "make a key with `age-keygen -o identity.txt`, keep it elsewhere, and write its public key: recipients = [\"age1…\"]; or write encryption = \"off\"".to_owned(),
            );
        }
        if !encrypted && fields.has("recipients") {
            self.mistakes
                .add(
                    fields.span_of("encryption"),
                    format!("{}.encryption is off and there are recipients", fields.path),
                    "expected one of them",
                )
                .help = Some("remove recipients, or write encryption = \"on\"".to_owned());
        }
        if encrypted && texts.len() == 1 {
            self.warnings
                .add(
                    fields.span_of("recipients"),
                    format!("{} has one recipient only", fields.path),
                    "whoever loses this key loses every backup",
                )
                .help = Some("add the public key of a second identity that is kept offline".to_owned());
        }
        texts.into_iter().map(|(text, _)| text.to_owned()).collect()
    }

    fn recipient(&mut self, fields: &Fields, text: &str, span: Range<usize>) {
        let path = format!("{}.recipients", fields.path);
        if text.to_uppercase().starts_with("AGE-SECRET-KEY-") {
            self.mistakes.mask(span.clone());
            self.mistakes.add(span, format!("{path} holds a secret key"), "expected the public key (age1…)").help =
                Some(
                    "`age-keygen -y identity.txt` prints the public key; make a new identity, this one was in a file"
                        .to_owned(),
                );
            return;
        }
        if let Err(reason) = text.parse::<age::x25519::Recipient>() {
            self.mistakes.add(span, format!("{path}: this is not an age public key"), reason.to_owned()).help =
                Some("expected an X25519 key as `age-keygen` prints it: age1 and 58 characters".to_owned());
        }
    }

    fn foreign(&mut self, fields: &Fields, keys: &[&'static str], kind: &str) {
        for key in keys.iter().copied().filter(|key| fields.has(key)) {
            self.mistakes.add(
                fields.span_of(key),
                format!("{}.{key} belongs to type = \"{kind}\"", fields.path),
                format!("this store is of type = \"{}\"", fields.text("type").unwrap_or_default()),
            );
        }
    }

    fn present(&mut self, fields: &Fields, key: &str, what: &str) {
        if !fields.has(key) {
            let kind = fields.text("type").unwrap_or_default();
            self.mistakes.add(
                fields.span.clone(),
                format!("{}.{key} is missing", fields.path),
                format!("type = \"{kind}\" needs {key}, {what}"),
            );
        }
    }
}
