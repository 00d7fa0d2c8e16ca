//! Signed documents and the lease: what lies in a store and decides what is believed.

use super::{Input, check_error};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use strongroom::catalog::lease::{Lease, Request};
use strongroom::catalog::{HostKey, Verification, signed};
use strongroom::error::Kind;
use strongroom::id::ObjectKey;
use strongroom::record::BackupRecord;
use strongroom::store::memory::MemoryStore;
use strongroom::store::{Condition, Store};
use tokio_util::sync::CancellationToken;

/// A record with everything that one can have.
pub(super) const RECORD: &str = r#"{
  "format": 1,
  "job": "orders",
  "id": "20261120T020000Z-x7k2m9qd",
  "started": "2026-11-20T02:00:00Z",
  "finished": "2026-11-20T02:04:10.25Z",
  "outcome": "complete",
  "plugin": {
    "name": "postgres",
    "version": "0.1.0",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  },
  "host": {
    "version": "0.1.0",
    "machine": "db-backup-1"
  },
  "settings": {
    "databases": ["shop", "tab\tle"],
    "level": -3,
    "deep": [[[{"a": null, "b": true}]]]
  },
  "source_id": "7301",
  "artifacts": [
    {
      "name": "shop.dump",
      "size": 2097153,
      "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
      "media_type": "application/vnd.postgresql.dump",
      "origin": {
        "kind": "exec",
        "command": "pg_dump"
      },
      "encrypted": true,
      "segments": [
        {
          "stored_bytes": 31337,
          "zstd_bytes": 31121,
          "frames": 2,
          "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
          "crc64nvme": "0123456789abcdef"
        }
      ]
    },
    {
      "name": "files.tar",
      "size": 0,
      "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
      "origin": {
        "kind": "artifact",
        "name": "old.tar",
        "made_by": {
          "kind": "bucket",
          "label": "photos"
        }
      },
      "encrypted": false,
      "segments": [
        {
          "stored_bytes": 82,
          "zstd_bytes": 82,
          "frames": 1,
          "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
          "crc64nvme": "0000000000000000"
        }
      ],
      "index": "files.tar.index"
    }
  ],
  "facts": [
    ["server_version", "18.6"]
  ],
  "skipped": [
    ["photos/a", "it could not be read"]
  ],
  "not_captured": ["replication slots"],
  "needs": ["20261119T020000Z-aaaaaaaa"],
  "state": "{\"lsn\": \"0/1\"}",
  "warnings": ["much smaller than the last ones"],
  "extra": {
    "later": [1, 2.5]
  }
}"#;

const VERIFIED: &str = r#"{
  "job": "orders",
  "id": "20261120T020000Z-x7k2m9qd",
  "at": "2026-11-21T03:15:00.25Z",
  "depth": "contents",
  "passed": false,
  "findings": [
    ["segments", "shop.dump: segment 0002 is missing"]
  ]
}"#;

const WORDS: &[&str] = &[
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    ",\n  \"signature\": {",
    "\n    \"key\": \"srhost1-",
    "\\u0000",
    "\\ud800",
    "\"extra\": {},",
    "\"format\": 2,",
    "\"kind\": \"artifact\", \"name\": \"x\", \"made_by\": {",
    "-271821-04-20T00:00:00Z",
    "2026-11-20T02:00:60+23:59[Europe/Rome]",
    " ",
    "\n",
    "}",
    "\u{feff}",
];

fn key() -> &'static HostKey {
    static KEY: OnceLock<HostKey> = OnceLock::new();
    KEY.get_or_init(|| HostKey::ephemeral().expect("random bytes"))
}

/// A record: `record.json`.
pub(super) fn record(input: &mut Input<'_>) {
    document::<BackupRecord>(input, signed::RECORD, RECORD);
}

/// What a verification found: `verified/*.json`.
pub(super) fn verified(input: &mut Input<'_>) {
    document::<Verification>(input, signed::VERIFICATION, VERIFIED);
}

fn document<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &mut Input<'_>, purpose: &str, text: &str) {
    match input.byte() % 3 {
        0 => changed_after_signing::<T>(input, purpose, text),
        1 => {
            let text = input.edited(&[text.as_bytes()], WORDS);
            signed_content::<T>(purpose, &text);
        }
        _ => {
            let mut value: Value = serde_json::from_str(text).expect("the base is JSON");
            for _ in 0..=input.byte() % 4 {
                change_value(input, &mut value);
            }
            signed_content::<T>(purpose, serde_json::to_string_pretty(&value).expect("JSON").as_bytes());
        }
    }
}

/// Whatever is changed in a signed file, it is refused; only the very same bytes are not.
fn changed_after_signing<T: Serialize + DeserializeOwned>(input: &mut Input<'_>, purpose: &str, text: &str) {
    let content: T = serde_json::from_str(text).expect("the base is one");
    let good = signed::seal(purpose, &content, key()).expect("sealed");
    let bytes = input.edited(&[&good], WORDS);
    match signed::open::<T>(purpose, &bytes) {
        Ok(_) => assert!(bytes == good, "accepted: {}", String::from_utf8_lossy(&bytes)),
        Err(error) => {
            assert!(bytes != good);
            check_error(&error, &[Kind::Damaged]);
        }
    }
}

/// A document with a good signature, as a newer or a broken host might write one. Signed by the letter of
/// `docs/format.md` and not by the code under test, which never writes such a thing.
fn signed_content<T: Serialize + DeserializeOwned + PartialEq + Debug>(purpose: &str, text: &[u8]) {
    let unsigned = text.strip_suffix(b"\n}").unwrap_or(text);
    let signature = key().sign(&[purpose.as_bytes(), b"\n", unsigned].concat());
    let ending = format!(
        ",\n  \"signature\": {{\n    \"key\": \"{}\",\n    \"value\": \"{}\"\n  }}\n}}\n",
        key().public(),
        URL_SAFE_NO_PAD.encode(signature)
    );
    let file = [unsigned, ending.as_bytes()].concat();
    match signed::open::<T>(purpose, &file) {
        Ok(opened) => {
            assert_eq!(&opened.signer, key().public());
            let again = signed::seal(purpose, &opened.content, key()).expect("what was read can be written");
            let reread = signed::open::<T>(purpose, &again).expect("what was written can be read");
            assert_eq!(reread.content, opened.content);
            assert!(signed::seal(purpose, &reread.content, key()).expect("sealed") == again, "two ways to write it");
        }
        Err(error) => check_error(&error, &[Kind::Damaged, Kind::Invalid]),
    }
}

/// Puts something else into one place of a JSON value.
fn change_value(input: &mut Input<'_>, value: &mut Value) {
    let depth = input.byte() % 6;
    let mut at = value;
    for _ in 0..depth {
        let n = match &*at {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if n == 0 {
            break;
        }
        let i = input.below(n);
        at = match at {
            Value::Object(map) => map.values_mut().nth(i).expect("counted"),
            Value::Array(list) => &mut list[i],
            _ => return,
        };
    }
    let nested =
        |n: u8| (0..n).fold(json!("x"), |inner, _| json!({ "kind": "artifact", "name": "x", "made_by": inner }));
    match input.byte() % 12 {
        0 => *at = Value::Null,
        1 => *at = json!(input.number()),
        2 => *at = json!(-1),
        3 => *at = json!(input.text()),
        4 => *at = json!([]),
        5 => *at = json!({}),
        6 => *at = json!(0.1),
        7 => *at = json!({ "kind": "archive" }),
        8 => *at = nested(input.byte() % 100),
        9 => {
            if let Value::Object(map) = at {
                map.insert(input.text(), json!(1));
            }
        }
        10 => {
            if let Value::Array(list) = at {
                list.extend(list.clone());
            }
        }
        _ => match at {
            Value::Object(map) => {
                let i = input.below(map.len().max(1));
                if let Some(name) = map.keys().nth(i).cloned() {
                    map.remove(&name);
                }
            }
            Value::Array(list) if !list.is_empty() => {
                list.remove(input.below(list.len()));
            }
            _ => *at = json!(true),
        },
    }
}

const LEASE: &str = r#"{
  "state": "free",
  "holder": "db-backup-1 (4711)",
  "run": "20261120T020000Z-x7k2m9qd",
  "counter": 7,
  "duration_ms": 60000
}"#;

/// What decides about a lease.
#[derive(Deserialize)]
struct Said {
    state: String,
    counter: u64,
}

/// The lease of a job: `lease.json`.
pub(super) fn lease(input: &mut Input<'_>) {
    let held = LEASE.replace("free", "held");
    let there =
        input.edited(&[LEASE.as_bytes(), held.as_bytes()], &["free", "held", "null", "{", "}", "\"state\":\"free\","]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let at = ObjectKey::parse("orders/lease.json").expect("a key");
        store.put(&at, Bytes::from(there.clone()), Condition::Absent).await.expect("put");
        let request = Request {
            job: "orders".parse().expect("a label"),
            run: "20261121T020000Z-bbbbbbbb".parse().expect("an id"),
            holder: "other (1)".to_owned(),
            duration: Duration::from_secs(60),
            lock_dir: "/nonexistent".into(),
            pace: Arc::new(strongroom::catalog::lease::Monotonic::new()),
        };
        // Whoever would have to wait is stopped: taking over needs a whole duration, which no test sits through.
        let stopped = CancellationToken::new();
        stopped.cancel();
        // What an unknown member holds is nobody's business, not even whether it is text or fits into a number.
        let said: Option<Said> = serde_json::from_str(&String::from_utf8_lossy(&there)).ok();
        let is_free = said.as_ref().is_some_and(|said| said.state == "free");
        match Lease::take(&store, request, &stopped).await {
            Ok(lease) => {
                assert!(is_free, "taken at first sight: {}", String::from_utf8_lossy(&there));
                let before = said.expect("it was read").counter;
                let (now, _) = store.get(&at, 1 << 20).await.expect("a lease");
                let now: Value = serde_json::from_slice(&now).expect("JSON");
                assert_eq!((&now["state"], &now["counter"]), (&json!("held"), &json!(before.wrapping_add(1))));
                lease.release().await.expect("released");
                let (now, _) = store.get(&at, 1 << 20).await.expect("a lease");
                let now: Value = serde_json::from_slice(&now).expect("JSON");
                assert_eq!((&now["state"], &now["run"]), (&json!("free"), &json!("20261121T020000Z-bbbbbbbb")));
            }
            Err(error) => {
                check_error(&error, &[Kind::Cancelled, Kind::Limit]);
                let (now, _) = store.get(&at, 1 << 24).await.expect("a lease");
                assert!(now == there, "a lease that was not taken was changed");
            }
        }
    });
}
