//! Stores against real servers and real faults.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use anyhow::Result;
use bytes::Bytes;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use strongroom::error::{Error, Kind};
use strongroom::id::ObjectKey;
use strongroom::secret::Secret;
use strongroom::store::check::{self, Ability};
use strongroom::store::conformance::{self, SMALLEST_PART_BYTES, sample};
use strongroom::store::local::LocalStore;
use strongroom::store::memory::MemoryStore;
use strongroom::store::retry::{RetryPolicy, RetryStore};
use strongroom::store::s3::{S3Spec, S3Store};
use strongroom::store::{Condition, ObjectInfo, Store, StoreSpec, crc64nvme};
use strongroom_tests::free_port;
use strongroom_tests::proxy::{Act, CHECKSUMS, Proxy, Rule, SAYS_CLOSED, SAYS_RESET};
use strongroom_tests::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY, Server};

/// Enough attempts for every fault here, without the patience that real networks need.
const QUICK: RetryPolicy = RetryPolicy {
    max_attempts: Some(6),
    first_wait: Duration::from_millis(10),
    longest_wait: Duration::from_millis(100),
    budget: Duration::from_secs(60),
};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

async fn open(spec: S3Spec) -> Arc<dyn Store> {
    Arc::new(S3Store::open(spec).await.unwrap())
}

// Conformance: the same sentences everywhere.

#[tokio::test]
async fn the_store_in_memory_does_what_every_store_does() {
    conformance::run(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), "suite").await;
}

#[tokio::test]
async fn a_local_store_behind_the_retry_layer_does_what_every_store_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = strongroom::store::open(StoreSpec::Local { path: dir.path().to_owned() }).await.unwrap();
    conformance::run(&store, "suite").await;
}

#[tokio::test]
async fn versitygw_does_what_every_store_does() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    conformance::run(&open(server.spec()).await, "suite").await;
    let prefixed = S3Spec { prefix: "a/prefix".to_owned(), ..server.spec() };
    conformance::run(&strongroom::store::open(StoreSpec::S3(prefixed)).await.unwrap(), "suite").await;
}

#[tokio::test]
async fn minio_does_what_every_store_does() {
    let server = S3Server::start(Server::Minio).await.unwrap();
    conformance::run(&open(server.spec()).await, "suite").await;
    let prefixed = S3Spec { prefix: "a/prefix".to_owned(), ..server.spec() };
    conformance::run(&strongroom::store::open(StoreSpec::S3(prefixed)).await.unwrap(), "suite").await;
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_does_what_every_store_does() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        s3::keep_versions(server.port()).await.unwrap();
        let store = open(server.spec()).await;
        let about_removal = |name: &str| name.contains("version") || name.contains("clock") || name.contains("locked");
        for (name, check) in conformance::SENTENCES.iter().filter(|(name, _)| about_removal(name)) {
            check(&*store, name).await;
        }
    }
}

#[tokio::test]
async fn a_store_sees_nothing_outside_its_prefix() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let whole = open(server.spec()).await;
    let inside = open(S3Spec { prefix: "team/".to_owned(), ..server.spec() }).await;
    for name in ["team/a", "team2/b", "c"] {
        whole.put(&key(name), sample(1, 10), Condition::Absent).await.unwrap();
    }
    let listed: Vec<_> = inside.list("", None).await.unwrap().objects.into_iter().map(|object| object.key).collect();
    assert_eq!(listed, ["a"]);
    assert!(inside.folders("").await.unwrap().is_empty());
    assert_eq!(inside.head(&key("c")).await.unwrap_err().kind(), Kind::NotFound);
}

// `store check`.

async fn check_is_accepted(server: Server, unable: &[&str]) {
    let server = S3Server::start(server).await.unwrap();
    let store = open(server.spec()).await;
    let report = check::run(&store).await.unwrap();
    report.accept().unwrap();
    let found: Vec<_> = report.findings.iter().filter(|f| f.ability != Ability::Able).map(|f| f.id).collect();
    assert_eq!(found, unable, "{report:#?}");
    assert!(store.list("", None).await.unwrap().objects.is_empty(), "it cleans up after itself");
    assert!(store.pending_uploads("").await.unwrap().is_empty());
}

#[tokio::test]
async fn both_real_servers_are_accepted_as_destinations() {
    check_is_accepted(Server::Versitygw, &["versions", "object-lock"]).await;
    check_is_accepted(Server::Minio, &["versions", "object-lock"]).await;
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_is_checked_and_left_without_any() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        s3::keep_versions(server.port()).await.unwrap();
        let store = open(server.spec()).await;
        let report = check::run(&store).await.unwrap();
        report.accept().unwrap();
        assert_eq!(report.finding("versions").unwrap().ability, Ability::Able, "{report:#?}");
        assert_eq!(report.finding("delete").unwrap().ability, Ability::Able, "{report:#?}");
        let left =
            std::fs::read_dir(server.dir().join("data/backups")).unwrap().flatten().map(|entry| entry.file_name());
        assert!(!left.into_iter().any(|name| name == check::FOLDER), "nothing is left, not even markers");
    }
}

#[tokio::test]
async fn a_gateway_that_strips_the_condition_is_refused_with_the_reason() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let strip = Rule::always("", "", Act::Strip(&["If-None-Match"]));
    let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![strip]).await.unwrap();
    let store = open(s3::spec(proxy.port())).await;
    let report = check::run(&store).await.unwrap();
    let refusing: Vec<_> = report.findings.iter().filter(|f| f.refuses).map(|f| f.id).collect();
    assert_eq!(refusing, ["conditional-put", "conditional-complete"], "{report:#?}");
    let error = report.accept().unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.message().contains("overwrites objects although it is asked not to"), "{error:?}");
    let direct = open(server.spec()).await;
    assert!(direct.list("", None).await.unwrap().objects.is_empty());
    assert!(direct.pending_uploads("").await.unwrap().is_empty());
}

// Errors that a person reads.

/// Kind, and words that the whole text must have; nothing in it may be a credential.
#[track_caller]
fn check_error(error: &Error, kind: Kind, words: &[&str]) {
    let text = format!("{error:?}; hint: {}", error.hint_text().unwrap_or("none"));
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in: {text}");
    }
    for secret in [SECRET_KEY, "another-secret-key"] {
        assert!(!text.contains(secret), "{text}");
    }
}

async fn put_error(spec: S3Spec) -> Error {
    open(spec).await.put(&key("a"), sample(1, 10), Condition::Absent).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let port = free_port().unwrap();
    let error = put_error(s3::spec(port)).await;
    check_error(&error, Kind::Unavailable, &["store \"a\"", &format!("127.0.0.1:{port}"), "nothing listens"]);
    let nowhere = S3Spec { endpoint: Some("https://s3.nowhere.invalid".to_owned()), ..s3::spec(port) };
    check_error(&put_error(nowhere).await, Kind::Unavailable, &["s3.nowhere.invalid", "does not resolve"]);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = S3Spec { stall: Duration::from_millis(300), ..s3::spec(listener.local_addr().unwrap().port()) };
    check_error(&put_error(spec).await, Kind::TimedOut, &["no progress for 300 ms"]);
}

#[tokio::test]
async fn wrong_credentials_and_missing_buckets_are_told_apart() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        let mut wrong_secret = server.spec();
        wrong_secret.credentials.as_mut().unwrap().secret_key = Secret::new("another-secret-key".to_owned());
        let words = ["status: 403", "SignatureDoesNotMatch", "secret key", "bucket \"backups\""];
        check_error(&put_error(wrong_secret).await, Kind::Denied, &words);

        let mut wrong_key = server.spec();
        wrong_key.credentials.as_mut().unwrap().access_key = Secret::new("somebody-else".to_owned());
        check_error(&put_error(wrong_key).await, Kind::Denied, &["InvalidAccessKeyId", "access_key"]);

        let missing = open(S3Spec { bucket: "missing".to_owned(), ..server.spec() }).await;
        let words = ["bucket \"missing\"", "create"];
        let put = missing.put(&key("a"), sample(1, 10), Condition::Absent).await.unwrap_err();
        check_error(&put, Kind::Failed, &words);
        check_error(&missing.head(&key("a")).await.unwrap_err(), Kind::Failed, &words);
        check_error(&missing.get(&key("a"), 10).await.unwrap_err(), Kind::Failed, &words);
        check_error(&missing.list("", None).await.unwrap_err(), Kind::Failed, &words);
        let upload = missing.begin_upload(&key("a")).await.unwrap();
        let part = upload.part(2, sample(1, 10), crc64nvme(&sample(1, 10))).await.unwrap_err();
        check_error(&part, Kind::Failed, &words);
        upload.abort().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_s3_is_said_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    });
    let error = open(s3::spec(port)).await.list("", None).await.unwrap_err();
    check_error(&error, Kind::Unavailable, &["list", &format!("127.0.0.1:{port}")]);
    server.await.unwrap();
}

// Faults between client and a real server.

/// A server, a store that reaches it through the proxy with retries, and one that reaches it
/// directly.
struct Faulty {
    _server: S3Server,
    proxy: Proxy,
    store: Arc<dyn Store>,
    direct: Arc<dyn Store>,
}

impl Faulty {
    async fn start(kind: Server, rules: Vec<Rule>) -> Result<Self> {
        let server = S3Server::start(kind).await?;
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), rules).await?;
        let spec = S3Spec { stall: Duration::from_secs(2), ..s3::spec(proxy.port()) };
        let store = Arc::new(RetryStore::new(open(spec).await, QUICK));
        let direct = open(server.spec()).await;
        Ok(Self { _server: server, proxy, store, direct })
    }

    /// Uploads two parts as the pipeline does: completes, or aborts after an error.
    async fn upload(&self) -> Result<ObjectInfo, Error> {
        let upload = self.store.begin_upload(&key("job/a")).await?;
        let sending = async {
            for (number, part) in (1..).zip(parts()) {
                upload.part(number, part.clone(), crc64nvme(&part)).await?;
            }
            let whole = parts().concat();
            upload.complete(2, u64::try_from(whole.len()).unwrap(), crc64nvme(&whole)).await
        };
        let result = sending.await;
        if result.is_err() {
            upload.abort().await.unwrap();
        }
        result
    }

    async fn check_nothing_pending(&self) {
        let pending = self.direct.pending_uploads("").await.unwrap();
        assert!(pending.is_empty(), "{pending:?} after {:#?}", self.proxy.requests());
    }

    async fn check_whole(&self) {
        let (body, _) = self.direct.get(&key("job/a"), 1 << 30).await.unwrap();
        assert!(body == parts().concat());
    }
}

fn parts() -> [Bytes; 2] {
    [sample(1, SMALLEST_PART_BYTES), sample(2, 300_000)]
}

/// The upload succeeds in spite of the fault, is whole, and leaves nothing pending.
async fn check_survives(rule: Rule, n_touched: u32) {
    let shown = format!("{rule:?}");
    let faulty = Faulty::start(Server::Versitygw, vec![rule]).await.unwrap();
    let info = faulty.upload().await.unwrap_or_else(|error| panic!("{shown}: {error:?}"));
    assert_eq!(info.size, u64::try_from(parts().concat().len()).unwrap(), "{shown}");
    assert_eq!(faulty.proxy.touched(), n_touched, "{shown}: {:#?}", faulty.proxy.requests());
    faulty.check_whole().await;
    faulty.check_nothing_pending().await;
}

const CREATE: &str = "?uploads";
const PART_2: &str = "partNumber=2";
const COMPLETE: &str = "?uploadId=";

#[tokio::test]
async fn an_answer_lost_after_the_server_had_committed_is_a_success() {
    check_survives(Rule::first(1, "POST", COMPLETE, Act::LoseAnswer), 1).await;
    check_survives(Rule::first(1, "POST", COMPLETE, Act::AnswerAfter(500, "InternalError", "late")), 1).await;
}

#[tokio::test]
async fn an_error_inside_a_200_is_decided_by_what_is_there() {
    check_survives(Rule::first(1, "POST", COMPLETE, Act::ErrorInOk("InternalError")), 1).await;
    check_survives(Rule::first(1, "POST", COMPLETE, Act::Answer(200, "InternalError", "nothing was done")), 1).await;
}

#[tokio::test]
async fn no_such_upload_after_a_complete_is_a_success() {
    check_survives(Rule::first(1, "POST", COMPLETE, Act::AnswerAfter(404, "NoSuchUpload", "gone")), 1).await;
}

#[tokio::test]
async fn what_is_there_decides_in_the_same_call_without_a_second_attempt() {
    let acts = [
        Act::LoseAnswer,
        Act::ErrorInOk("InternalError"),
        Act::AnswerAfter(404, "NoSuchUpload", "gone"),
        Act::AnswerAfter(409, "ConditionalRequestConflict", "a race"),
        Act::AnswerAfter(412, "PreconditionFailed", "there is one"),
        Act::AnswerAfter(503, "SlowDown", "slower"),
    ];
    for act in acts {
        let mut faulty = Faulty::start(Server::Versitygw, vec![Rule::always("POST", COMPLETE, act)]).await.unwrap();
        faulty.store = open(s3::spec(faulty.proxy.port())).await;
        faulty.upload().await.unwrap();
        assert_eq!(faulty.proxy.touched(), 1);
        faulty.check_whole().await;
        faulty.check_nothing_pending().await;
    }
}

#[tokio::test]
async fn a_conflict_in_a_race_that_nobody_won_is_tried_again() {
    let race = Act::Answer(409, "ConditionalRequestConflict", "a race");
    check_survives(Rule::first(2, "POST", COMPLETE, race), 2).await;
}

#[tokio::test]
async fn the_lost_answer_to_a_creation_leaves_no_upload_behind() {
    check_survives(Rule::first(1, "POST", CREATE, Act::LoseAnswer), 1).await;
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_part_is_ridden_out() {
    check_survives(Rule::first(2, "PUT", PART_2, Act::ResetInRequest(100_000)), 2).await;
    check_survives(Rule::first(2, "PUT", "partNumber=1", Act::Drop), 2).await;
}

#[tokio::test]
async fn bursts_of_server_errors_are_ridden_out() {
    check_survives(Rule::first(3, "PUT", PART_2, Act::Answer(500, "InternalError", "oops")), 3).await;
    check_survives(Rule::first(1, "PUT", PART_2, Act::Answer(503, "SlowDown", "slower")), 1).await;
    check_survives(Rule::first(1, "POST", COMPLETE, Act::Answer(429, "TooManyRequests", "slower")), 1).await;
}

#[tokio::test]
async fn a_stalled_part_is_sent_again() {
    check_survives(Rule::first(1, "PUT", PART_2, Act::Stall(Duration::from_secs(60))), 1).await;
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_a_success_and_a_foreign_object_is_not() {
    let lost = || Rule::first(1, "PUT", "", Act::LoseAnswer);
    let faulty = Faulty::start(Server::Minio, vec![lost()]).await.unwrap();
    faulty.store.put(&key("a"), sample(1, 99), Condition::Absent).await.unwrap();
    assert_eq!(faulty.proxy.touched(), 1);
    let faulty = Faulty::start(Server::Versitygw, vec![lost()]).await.unwrap();
    faulty.direct.put(&key("a"), sample(2, 99), Condition::Absent).await.unwrap();
    let error = faulty.store.put(&key("a"), sample(1, 99), Condition::Absent).await.unwrap_err();
    check_error(&error, Kind::Conflict, &["\"a\" holds something else already"]);
}

#[tokio::test]
async fn a_lease_whose_renewal_lost_its_answer_is_renewed() {
    let faulty = Faulty::start(Server::Versitygw, vec![Rule::first(1, "PUT", "lease", Act::LoseAnswer)]).await.unwrap();
    let first = faulty.direct.put(&key("lease.json"), sample(1, 200), Condition::Absent).await.unwrap();
    let unchanged = Condition::Unchanged(first.etag.unwrap());
    let second = faulty.store.put(&key("lease.json"), sample(2, 200), unchanged.clone()).await.unwrap();
    assert_eq!(faulty.direct.head(&key("lease.json")).await.unwrap().etag, second.etag);
    let late = faulty.store.put(&key("lease.json"), sample(3, 200), unchanged).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Conflict, "{late:?}");
}

/// The upload fails with this kind, and leaves neither an object nor anything pending.
async fn check_fails(kind: Server, rule: Rule, expected: Kind, words: &[&str]) {
    let faulty = Faulty::start(kind, vec![rule]).await.unwrap();
    check_error(&faulty.upload().await.unwrap_err(), expected, words);
    assert_eq!(faulty.direct.head(&key("job/a")).await.unwrap_err().kind(), Kind::NotFound);
    faulty.check_nothing_pending().await;
}

#[tokio::test]
async fn a_fault_that_stays_is_one_error_and_leaves_nothing() {
    let stays = |method, contains| Rule::always(method, contains, Act::Answer(500, "InternalError", "for ever"));
    let words = ["could not complete the upload of \"job/a\"", "status: 500", "for ever", "attempts: 6 in"];
    check_fails(Server::Versitygw, stays("POST", COMPLETE), Kind::Unavailable, &words).await;
    check_fails(Server::Minio, stays("PUT", PART_2), Kind::Unavailable, &["store part 2", "attempts: 6 in"]).await;
    let denied = Rule::always("PUT", PART_2, Act::Answer(403, "AccessDenied", "no"));
    check_fails(Server::Versitygw, denied, Kind::Denied, &["AccessDenied", "right to read, write"]).await;
}

#[tokio::test]
async fn bytes_that_change_on_the_way_are_refused_by_both_servers() {
    for server in [Server::Versitygw, Server::Minio] {
        let flip = Rule::always("PUT", PART_2, Act::FlipRequest);
        check_fails(server, flip, Kind::Damaged, &["store part 2 of \"job/a\"", "status: 400"]).await;
    }
}

#[tokio::test]
async fn a_server_that_acknowledges_and_drops_is_found() {
    let lie = Rule::always("POST", COMPLETE, Act::Acknowledge);
    check_fails(Server::Versitygw, lie, Kind::Damaged, &["is not there after it was completed"]).await;
}

#[tokio::test]
async fn a_read_that_ends_early_is_tried_again_and_never_short() {
    let faulty = Faulty::start(Server::Versitygw, Vec::new()).await.unwrap();
    faulty.direct.put(&key("a"), sample(1, 100_000), Condition::Absent).await.unwrap();
    let ends = [(Act::TruncateResponse(1000), SAYS_CLOSED), (Act::ResetInResponse(1000), SAYS_RESET)];
    for (act, says) in ends {
        let cut = |times| Rule::first(times, "GET", "/a", act.clone());
        faulty.proxy.set_rules(vec![cut(2)]);
        assert_eq!(faulty.store.read(&key("a"), 0..100_000).await.unwrap(), sample(1, 100_000));
        assert_eq!(faulty.proxy.touched(), 2);
        faulty.proxy.set_rules(vec![cut(u32::MAX)]);
        let error = faulty.store.read(&key("a"), 0..100_000).await.unwrap_err();
        check_error(&error, Kind::Unavailable, &["1000 of 100000 bytes", says]);
    }
}

#[tokio::test]
async fn an_object_of_one_part_is_one_put() {
    let faulty = Faulty::start(Server::Versitygw, Vec::new()).await.unwrap();
    let upload = faulty.store.begin_upload(&key("a")).await.unwrap();
    let body = sample(1, 1000);
    upload.part(1, body.clone(), crc64nvme(&body)).await.unwrap();
    upload.complete(1, 1000, crc64nvme(&body)).await.unwrap();
    let requests = faulty.proxy.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].starts_with("PUT /backups/a"), "{requests:?}");
}

#[tokio::test]
async fn a_first_part_that_others_follow_is_sent_at_once_and_may_stay_the_only_one() {
    for kind in [Server::Versitygw, Server::Minio] {
        let faulty = Faulty::start(kind, Vec::new()).await.unwrap();
        let upload = faulty.store.begin_upload(&key("a")).await.unwrap();
        let body = sample(1, 1000);
        upload.expect_more();
        upload.part(1, body.clone(), crc64nvme(&body)).await.unwrap();
        let sent = faulty.proxy.requests().into_iter().filter(|request| request.contains("partNumber=1")).count();
        assert_eq!(sent, 1, "{:?}", faulty.proxy.requests());
        upload.complete(1, 1000, crc64nvme(&body)).await.unwrap();
        assert_eq!(faulty.direct.get(&key("a"), 1000).await.unwrap().0, body);
        faulty.check_nothing_pending().await;
    }
}

// Servers that know less.

/// What the suite says of writing, with a proxy in front that does this to every request.
async fn check_writes_behind(act: Act) {
    let faulty = Faulty::start(Server::Versitygw, vec![Rule::always("", "", act)]).await.unwrap();
    let writing = conformance::SENTENCES
        .iter()
        .filter(|(name, _)| ["part", "put", "upload", "replaced", "complet"].iter().any(|word| name.contains(word)));
    for (name, check) in writing {
        check(&*faulty.store, name).await;
    }
}

#[tokio::test]
async fn a_server_without_crc64nvme_is_sent_crc32c() {
    check_writes_behind(Act::NotImplemented(&["crc64nvme"])).await;
}

#[tokio::test]
async fn a_server_without_any_crc_is_sent_md5_and_objects_are_compared_byte_for_byte() {
    check_writes_behind(Act::NotImplemented(&["crc64nvme", "crc32c"])).await;
}

#[tokio::test]
async fn a_gateway_that_drops_checksums_is_sent_md5() {
    check_writes_behind(Act::Strip(&CHECKSUMS)).await;
}

#[tokio::test]
async fn a_server_that_knows_crc64nvme_is_not_sent_md5_again() {
    for kind in [Server::Versitygw, Server::Minio] {
        let no_md5 = Rule::always("PUT", "job", Act::NotImplemented(&["content-md5"]));
        let faulty = Faulty::start(kind, vec![no_md5]).await.unwrap();
        faulty.store.put(&key("first"), sample(1, 10), Condition::Absent).await.unwrap();
        faulty.upload().await.unwrap();
        faulty.store.put(&key("job/b"), sample(1, 10), Condition::Absent).await.unwrap();
        faulty.check_whole().await;
    }
}

// Credentials of the platform.

#[tokio::test]
async fn without_explicit_credentials_the_platform_is_asked() {
    if let Ok(port) = std::env::var(CHILD) {
        let spec = S3Spec { credentials: None, ..s3::spec(port.parse().unwrap()) };
        let put = open(spec).await.put(&key("a"), sample(1, 10), Condition::Absent).await;
        if std::env::var("AWS_ACCESS_KEY_ID").is_ok() {
            put.unwrap();
        } else {
            check_error(&put.unwrap_err(), Kind::Denied, &["no usable credentials", "access_key"]);
        }
        return;
    }
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    for given in [&keys[..], &[]] {
        let output = command("/proc/self/exe")
            .args(["--exact", "store::without_explicit_credentials_the_platform_is_asked", "--nocapture"])
            .env_clear()
            .env("HOME", server.dir())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env(CHILD, server.port().to_string())
            .envs(given.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

// Faults of the machine under a local store. Each runs in a process of its own, since limits and
// users are those of a process: the test starts itself again with the directory in the environment.

const CHILD: &str = "STRONGROOM_TEST_STORE_CHILD";

/// The store in the directory that the parent gave; `None` in the parent.
fn given_to_child() -> Option<LocalStore> {
    Some(LocalStore::open(std::env::var(CHILD).ok()?.as_ref()).unwrap())
}

fn command(program: &str) -> Command {
    Command::new(program)
}

/// Runs this test again in a child that `shell` prepares before it becomes the test.
#[track_caller]
fn run_child(test: &str, dir: &std::path::Path, shell: &str) {
    let exe = std::env::current_exe().unwrap();
    let script = format!("{shell} exec \"$0\" --exact {test} --nocapture");
    let output = command("/bin/sh").arg("-c").arg(script).arg(exe).env(CHILD, dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A put and an upload that cannot fit fail with advice, and leave nothing.
async fn check_does_not_fit(store: LocalStore, words: &[&str]) {
    let big = sample(1, 4 << 20);
    let error = store.put(&key("a"), big.clone(), Condition::Absent).await.unwrap_err();
    check_error(&error, Kind::Failed, words);
    let upload = store.begin_upload(&key("b")).await.unwrap();
    let part = upload.part(1, big.clone(), crc64nvme(&big)).await.unwrap_err();
    check_error(&part, Kind::Failed, words);
    upload.abort().await.unwrap();
    assert!(store.list("", None).await.unwrap().objects.is_empty());
    assert!(store.pending_uploads("").await.unwrap().is_empty());
    store.put(&key("small"), sample(1, 1000), Condition::Absent).await.unwrap();
}

#[tokio::test]
async fn a_file_size_limit_is_an_error_with_advice_and_leaves_nothing() {
    if let Some(store) = given_to_child() {
        return check_does_not_fit(store, &["ulimit"]).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // 2 MiB in blocks of 512 bytes; the signal is ignored, so that the write fails instead.
    let test = "store::a_file_size_limit_is_an_error_with_advice_and_leaves_nothing";
    run_child(test, dir.path(), "trap '' XFSZ; ulimit -f 4096;");
}

#[tokio::test]
async fn a_full_disk_is_an_error_with_advice_and_leaves_nothing() {
    if let Some(store) = given_to_child() {
        return check_does_not_fit(store, &["the disk is full"]).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // A disk of its own in a mount namespace of its own; a user namespace makes that possible
    // without being root.
    let exe = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=2m none \"$1\" && exec \"$0\" --exact \
                  store::a_full_disk_is_an_error_with_advice_and_leaves_nothing --nocapture";
    let rights: &[&str] = if is_root() { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let output = command("unshare")
        .args(rights)
        .args(["/bin/sh", "-c", script])
        .arg(exe)
        .arg(dir.path())
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn a_directory_without_permission_is_denied_with_advice() {
    if let Some(store) = given_to_child() {
        let error = store.put(&key("a"), sample(1, 10), Condition::Absent).await.unwrap_err();
        check_error(&error, Kind::Denied, &["read and write access"]);
        check_error(&store.begin_upload(&key("a")).await.err().unwrap(), Kind::Denied, &["read and write access"]);
        check_error(&store.head(&key("there")).await.unwrap_err(), Kind::Denied, &["read and write access"]);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put(&key("there"), sample(1, 10), Condition::Absent).await.unwrap();
    use std::os::unix::fs::PermissionsExt;
    let set = |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    set(&dir.path().join("there"), 0o000).unwrap();
    set(&dir.path().join(".tmp"), 0o555).unwrap();
    set(dir.path(), 0o555).unwrap();
    let test = "store::a_directory_without_permission_is_denied_with_advice";
    if is_root() {
        // Root may do anything, so the child is nobody.
        use std::os::unix::process::CommandExt;
        let output = command("/proc/self/exe")
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, dir.path())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    } else {
        run_child(test, dir.path(), "");
    }
    set(dir.path(), 0o755).unwrap();
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
