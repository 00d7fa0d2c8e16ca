//! What speed is made of, counted rather than timed: requests of tiny artifacts, parts at once, bytes of
//! a limited store.

use bytes::Bytes;
use std::sync::Arc;
use strongroom::id::ObjectKey;
use strongroom::store::bandwidth::Bandwidth;
use strongroom::store::pace::{Pace, PacedStore};
use strongroom::store::s3::{S3Spec, S3Store};
use strongroom::store::{Store, Upload, crc64nvme};
use strongroom_tests::proxy::{Act, Proxy, Rule};
use strongroom_tests::relay::{Relay, Setup, private, sh};
use strongroom_tests::s3::{self, ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};

/// Artifacts in one backup; a thousand when they are timed by hand.
const TINY: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_tiny_artifact_costs_one_write_and_one_question() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), Vec::new()).await.unwrap();
    let relay = Relay::new(Setup {
        settings: format!("artifacts = []\ntiny = {TINY}"),
        place: format!(
            "type = \"s3\"\nbucket = \"{BUCKET}\"\nendpoint = \"http://127.0.0.1:{}\"\n\
             access_key = {{ file = \"access\" }}\nsecret_key = {{ file = \"secret\" }}",
            proxy.port()
        ),
        ..Setup::default()
    });
    private(&relay.sandbox.write("access", ACCESS_KEY));
    private(&relay.sandbox.write("secret", SECRET_KEY));
    let made = tokio::task::spawn_blocking(move || relay.run(&["backup", "orders", "--output", "json"])).await.unwrap();
    made.check_code(0);
    assert_eq!(made.json()["artifacts"].as_array().unwrap().len(), TINY);
    let requests = proxy.requests();
    let count =
        |method: &str| requests.iter().filter(|line| line.starts_with(method) && line.contains("/data/tiny-")).count();
    assert_eq!(["PUT", "HEAD", "GET", "POST", "DELETE"].map(count), [TINY, TINY, 0, 0, 0], "{requests:#?}");
}

/// A part of an upload, and its checksum.
fn part(fill: u8, len: usize) -> (Bytes, u64) {
    let body = Bytes::from(vec![fill; len]);
    let crc = crc64nvme(&body);
    (body, crc)
}

async fn upload_to(store: &PacedStore) -> Arc<dyn Upload> {
    let upload = store.begin_upload(&ObjectKey::parse("job/a").unwrap()).await.unwrap();
    upload.expect_more();
    upload
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_slow_down_is_asked_for_half_as_much() {
    const PART: usize = 5 << 20;
    for (status, code) in [(503, "SlowDown"), (503, "ServiceUnavailable"), (429, "TooManyRequests")] {
        let server = S3Server::start(Server::Versitygw).await.unwrap();
        // Four parts that arrive, then one that does not.
        let rule =
            Rule { method: "PUT", contains: "partNumber", after: 4, times: 1, act: Act::Answer(status, code, "busy") };
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![rule]).await.unwrap();
        let store = S3Store::open(s3::spec(proxy.port())).await.unwrap();
        let store = PacedStore::window_only(Arc::new(store), &Pace { most_in_flight: 4, ..Pace::default() });
        let upload = upload_to(&store).await;
        assert_eq!(store.window().size(), 2);
        // Four at once want to go where two may: the store is what they wait for.
        let mut sending = tokio::task::JoinSet::new();
        for number in 1..=4 {
            let (upload, (body, crc)) = (Arc::clone(&upload), part(7, PART));
            sending.spawn(async move { upload.part(number, body, crc).await });
        }
        sending.join_all().await.into_iter().for_each(Result::unwrap);
        assert_eq!(store.window().size(), 3, "it grew by one in a round");
        let (body, crc) = part(7, PART);
        let refused = upload.part(5, body.clone(), crc).await.unwrap_err();
        assert!(refused.is_retryable(), "{refused:?}");
        assert_eq!(store.window().size(), 1, "{status} {code}");
        upload.part(5, body, crc).await.unwrap();
        upload.abort().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_body_goes_through_the_limit_of_its_direction() {
    const PART: usize = 5 << 20;
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    // So high that it never waits: what is counted is what would wait.
    let (up, down) = (Arc::new(Bandwidth::new(1 << 40)), Arc::new(Bandwidth::new(1 << 40)));
    let spec: S3Spec = server.spec();
    let store: Arc<dyn Store> =
        Arc::new(S3Store::open_limited(spec, Some(Arc::clone(&up)), Some(Arc::clone(&down))).await.unwrap());
    let key = ObjectKey::parse("job/a").unwrap();
    let upload = store.begin_upload(&key).await.unwrap();
    let (one, two) = (part(1, PART), part(2, 1_000));
    upload.part(1, one.0.clone(), one.1).await.unwrap();
    upload.part(2, two.0.clone(), two.1).await.unwrap();
    let whole = [one.0, two.0].concat();
    upload.complete(2, whole.len() as u64, crc64nvme(&whole)).await.unwrap();
    assert_eq!((up.n_bytes(), down.n_bytes()), (whole.len() as u64, 0));
    assert!(store.read(&key, 0..whole.len() as u64).await.unwrap() == whole);
    assert_eq!((up.n_bytes(), down.n_bytes()), (whole.len() as u64, whole.len() as u64));
}

#[test]
fn a_level_that_follows_its_store_is_higher_behind_a_slow_one_and_not_behind_a_fast_one() {
    /// By which the header of an age file differs from that of another one, at most: it holds some noise.
    const HEADERS: u64 = 1000;
    // Small parts, so that few of them are on their way; text that each level makes smaller than the one before,
    // which is not so of everything.
    let sources = strongroom_tests::root().join("host/src");
    let produce = format!("for n in $(seq 20); do find {} -name '*.rs' -exec cat {{}} +; done", sources.display());
    let setup = |level: &str| Setup {
        produce: sh(&produce),
        store: format!("part_bytes = \"256KiB\"\n{level}"),
        ..Setup::default()
    };
    let relay = Relay::new(setup("level = 2"));
    let stored = |level: &str, args: &[&str]| {
        relay.configure(&setup(level));
        let made = relay.run(&[&["backup", "orders", "--output", "json"], args].concat()).check_code(0).json();
        made["stored_bytes"].as_u64().unwrap()
    };
    let fixed = stored("level = 2", &["--dry-run"]);
    // Nothing is as fast as a store that keeps nothing: the level stays, or falls where the processor is slower
    // than the producer.
    let fast = stored("level = \"auto\"", &["--dry-run"]);
    assert!(fast + HEADERS >= fixed, "{fast} and not {fixed} bytes or more");
    // No processor is as slow as this.
    let slow = stored("level = \"auto\"\nupload_rate = \"2MiB\"", &[]);
    assert!(slow + HEADERS < fixed, "{slow} and not less than {fixed} bytes");
    relay.run(&["verify", "orders", "latest", "--depth", "contents"]).check_code(0);
    let shown = relay.run(&["show", "orders", "latest", "--output", "json"]).check_code(0).json();
    assert_eq!(shown["record"]["extra"]["level"], "auto", "{shown:#}");
}
