//! Every fault of a store between the real binary and a real server: a backup is whole or it is not there,
//! what is read is what was stored, and the one error says what happened and what to do.
//!
//! One server, one proxy and one sandbox for each test; the proxy does one thing after the other.

use std::time::{Duration, Instant};
use strongroom_tests::behind::{Behind, Seen, TWO_PARTS, relay_with, setup_at};
use strongroom_tests::proxy::{Act, Rule, SAYS_CLOSED, SAYS_RESET};
use strongroom_tests::relay::{Setup, sh};
use strongroom_tests::s3::{self, SECRET_KEY, Server};
use strongroom_tests::{Output, free_port};

/// A request that stands still is given up after a second, and tried again for some seconds only.
const IN_A_HURRY: &str = "stall = \"1s\"\npatience = \"4s\"";
/// Longer than any test: the request is never answered.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// An artifact of one PUT.
const ONE_PUT: &str = "seq 1 1000";

const PART: (&str, &str) = ("PUT", "partNumber=");
const CREATE: (&str, &str) = ("POST", "?uploads");
const COMPLETE: (&str, &str) = ("POST", "?uploadId=");
const RECORD: (&str, &str) = ("PUT", "record.json");
const LEASE: (&str, &str) = ("PUT", "lease.json");
const SEGMENT: (&str, &str) = ("PUT", "out.0001");
const ANY: (&str, &str) = ("", "");

fn first(times: u32, of: (&'static str, &'static str), act: Act) -> Rule {
    Rule::first(times, of.0, of.1, act)
}

fn always(of: (&'static str, &'static str), act: Act) -> Rule {
    Rule::always(of.0, of.1, act)
}

fn busy(status: u16) -> Act {
    match status {
        503 => Act::Answer(503, "SlowDown", "please reduce your request rate"),
        429 => Act::Answer(429, "TooManyRequests", "too many"),
        status => Act::Answer(status, "InternalError", "we encountered an internal error"),
    }
}

impl Shape {
    fn produce(self) -> Vec<String> {
        sh(match self {
            Shape::Parts => TWO_PARTS,
            Shape::Put => ONE_PUT,
        })
    }
}

/// Whether the artifact is uploaded in parts or is one PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Parts,
    Put,
}

fn configure(behind: &Behind, shape: Shape) {
    let setup = setup_at(behind.proxy.port(), s3::BUCKET);
    behind.relay.configure(&Setup { produce: shape.produce(), store: IN_A_HURRY.into(), ..setup });
}

/// The fault is ridden out: one more backup, whole, and nothing else.
async fn check_survives(behind: &Behind, shape: Shape, before: &Seen, rule: Rule) -> Seen {
    let shown = format!("{shape:?}, {rule:?}");
    behind.set(rule);
    let made = behind.relay.run(&["backup", "orders", "--output", "json"]);
    assert!(behind.proxy.touched() > 0, "{shown} touched nothing: {:#?}", behind.proxy.requests());
    assert_eq!(made.code, Some(0), "{shown}\n{made:#?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    behind.proxy.set_rules(Vec::new());
    let verified = behind.relay.run(&["verify", "orders", &id, "--depth", "stored"]);
    assert_eq!(verified.code, Some(0), "{shown}\n{verified:#?}");
    let after = behind.seen().await;
    after.check_tidy(&shown);
    let mut expected = before.recorded.clone();
    expected.insert(id);
    assert_eq!(after.recorded, expected, "{shown}");
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_passes_is_ridden_out_by_a_backup() {
    let behind = Behind::start(Server::Versitygw, IN_A_HURRY).await;
    let mut seen = behind.seen().await;
    let reset = || Act::ResetInRequest(1_000_000);
    let late = |code| Act::AnswerAfter(500, code, "it was done all the same");
    let parts = [
        // Resets in the middle of a part, and connections that are closed at once.
        first(3, PART, reset()),
        first(3, ANY, Act::Drop),
        // Bursts of refusals.
        first(4, PART, busy(500)),
        first(2, PART, busy(503)),
        first(2, PART, busy(429)),
        first(5, ANY, busy(500)),
        first(1, LEASE, busy(503)),
        first(1, RECORD, busy(503)),
        // The server has done it, and its answer is lost or wrong.
        first(1, CREATE, Act::LoseAnswer),
        first(1, PART, Act::LoseAnswer),
        first(1, COMPLETE, Act::LoseAnswer),
        first(1, RECORD, Act::LoseAnswer),
        first(1, LEASE, Act::LoseAnswer),
        first(1, COMPLETE, late("InternalError")),
        first(1, COMPLETE, Act::AnswerAfter(404, "NoSuchUpload", "the upload does not exist")),
        first(1, COMPLETE, Act::ErrorInOk("InternalError")),
        first(1, COMPLETE, Act::Answer(200, "InternalError", "nothing was done")),
        first(1, COMPLETE, Act::AnswerAfter(409, "ConditionalRequestConflict", "a race")),
        first(1, COMPLETE, Act::Answer(409, "ConditionalRequestConflict", "a race that nobody won")),
        first(1, COMPLETE, Act::AnswerAfter(412, "PreconditionFailed", "there is one")),
        first(1, RECORD, Act::AnswerAfter(409, "ConditionalRequestConflict", "a race")),
        first(1, RECORD, Act::AnswerAfter(412, "PreconditionFailed", "there is one")),
        // It stands still for longer than a request may.
        first(1, PART, Act::Stall(FOR_EVER)),
        first(1, RECORD, Act::Stall(FOR_EVER)),
        first(1, ("GET", "list-type=2"), Act::Stall(FOR_EVER)),
        // What is read back is cut.
        first(1, READ_RECORD, Act::TruncateResponse(100)),
        first(1, READ_RECORD, Act::ResetInResponse(100)),
    ];
    for rule in parts {
        seen = check_survives(&behind, Shape::Parts, &seen, rule).await;
    }
    configure(&behind, Shape::Put);
    let put = [
        first(2, SEGMENT, Act::ResetInRequest(100)),
        first(1, SEGMENT, Act::LoseAnswer),
        first(1, SEGMENT, busy(503)),
        first(1, SEGMENT, late("InternalError")),
        first(1, SEGMENT, Act::AnswerAfter(412, "PreconditionFailed", "there is one")),
        first(1, SEGMENT, Act::Stall(FOR_EVER)),
    ];
    for rule in put {
        seen = check_survives(&behind, Shape::Put, &seen, rule).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_stands_still_is_given_up_and_decided_by_what_is_there() {
    // Five times as long as any other request.
    let behind = Behind::start(Server::Versitygw, "stall = \"1s\"\npatience = \"1m\"").await;
    let mut seen = behind.seen().await;
    for act in [Act::Stall(FOR_EVER), Act::HoldAnswer(FOR_EVER)] {
        seen = check_survives(&behind, Shape::Parts, &seen, first(1, COMPLETE, act)).await;
    }
    let says: &[&str] = &["could not complete the upload", "no progress for 5.0 s", "out"];
    check_ends(&behind, Ends(Shape::Parts, always(COMPLETE, Act::Stall(FOR_EVER)), 1, says, Leaves::Nothing)).await;
}

/// What a failed run may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Nothing,
    /// What cannot be removed is named.
    Named,
    /// Everything, since the record may still appear.
    Everything,
}

/// A fault that ends a backup: exit code, what the one error says, and what may be left.
struct Ends(Shape, Rule, i32, &'static [&'static str], Leaves);

/// There is no record; the error says what it must; the leavings are what may be left.
async fn check_ends(behind: &Behind, case: Ends) {
    let Ends(shape, rule, code, says, leaves) = case;
    let shown = format!("{shape:?}, {rule:?}");
    configure(behind, shape);
    let before = behind.seen().await;
    behind.set(rule);
    let output = behind.relay.run(&["backup", "orders"]);
    assert!(behind.proxy.touched() > 0, "{shown} touched nothing: {:#?}", behind.proxy.requests());
    check_said(&shown, &output, code, says);
    behind.proxy.set_rules(Vec::new());
    let after = behind.seen().await;
    assert_eq!(after.recorded, before.recorded, "{shown}");
    let fresh = |all: &[String], before: &[String]| all.iter().filter(|key| !before.contains(key)).count();
    let left = fresh(&after.orphans, &before.orphans) + fresh(&after.pending, &before.pending);
    match leaves {
        Leaves::Nothing => assert_eq!(left, 0, "left after {shown}: {after:#?}"),
        Leaves::Named => assert!(left > 0 && output.stderr.contains("left behind"), "{shown}\n{output:#?}"),
        Leaves::Everything => {
            assert!(left > 0 && output.stderr.contains("nothing was removed"), "{shown}\n{output:#?}");
        }
    }
}

#[track_caller]
fn check_said(shown: &str, output: &Output, code: i32, says: &[&str]) {
    let errors = output.stderr.lines().filter(|line| line.starts_with("error:")).count();
    let missing: Vec<_> = says.iter().filter(|text| !output.stderr.contains(**text)).collect();
    assert!(
        output.code == Some(code) && errors == 1 && missing.is_empty() && output.stderr.contains("hint:"),
        "{shown}: expected {code} and {missing:?}\n{output:#?}"
    );
    assert!(!output.stderr.contains(SECRET_KEY), "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_stays_ends_a_backup_with_its_cause_and_leaves_no_record() {
    use Leaves::{Everything, Named, Nothing};
    use Shape::{Parts, Put};
    let behind = Behind::start(Server::Versitygw, IN_A_HURRY).await;
    let expired = || Act::Answer(400, "ExpiredToken", "the provided token has expired");
    let denied = || Act::Answer(403, "AccessDenied", "Access Denied");
    let full = || Act::Answer(507, "XMinioStorageFull", "the drive is full");
    let cases = [
        // Refusals that do not end.
        Ends(Parts, always(PART, busy(503)), 1, &["SlowDown", "attempts", "out"], Nothing),
        Ends(Parts, always(PART, busy(429)), 1, &["TooManyRequests", "attempts"], Nothing),
        Ends(Put, always(SEGMENT, busy(500)), 1, &["InternalError", "attempts"], Nothing),
        Ends(Put, always(LEASE, busy(500)), 1, &["lease", "InternalError"], Nothing),
        Ends(Parts, always(PART, Act::ResetInRequest(1_000_000)), 1, &["the connection broke", "attempts"], Nothing),
        Ends(Parts, always(PART, Act::Stall(FOR_EVER)), 1, &["no progress for 1.0 s", "stands still"], Nothing),
        // It is not known whether the record will be there.
        Ends(Put, always(RECORD, busy(500)), 1, &["it is not known whether", "strongroom show"], Everything),
        // Acknowledged and dropped, at each step.
        Ends(Parts, always(PART, Act::Acknowledge), 1, &["out"], Nothing),
        Ends(Parts, always(COMPLETE, Act::Acknowledge), 1, &["not there after it was completed"], Nothing),
        Ends(Put, always(SEGMENT, Act::Acknowledge), 1, &["store"], Nothing),
        Ends(Put, always(RECORD, Act::Acknowledge), 1, &["acknowledged"], Nothing),
        // A wrong checksum.
        Ends(Parts, first(1, PART, Act::FlipRequest), 1, &["BadDigest", "changes bytes"], Nothing),
        Ends(Put, first(1, SEGMENT, Act::FlipRequest), 1, &["BadDigest", "changes bytes"], Nothing),
        Ends(Put, first(1, RECORD, Act::FlipRequest), 1, &["BadDigest", "changes bytes"], Nothing),
        // Rights that end half-way: for one thing, and for everything, so that nothing can be tidied up.
        Ends(Parts, Rule { after: 1, ..always(PART, denied()) }, 4, &["AccessDenied", "out"], Nothing),
        Ends(Parts, always(COMPLETE, denied()), 4, &["AccessDenied", "out"], Nothing),
        Ends(Put, always(RECORD, denied()), 4, &["AccessDenied", "record.json"], Nothing),
        Ends(Parts, always(PART, expired()), 4, &["ExpiredToken", "get new credentials"], Nothing),
        Ends(Put, always(RECORD, expired()), 4, &["ExpiredToken", "get new credentials"], Nothing),
        // The store is full.
        Ends(Parts, always(PART, full()), 1, &["the store is full"], Nothing),
        // The clock is off, and the server itself says so.
        Ends(Put, always(ANY, Act::OldDate), 4, &["RequestTimeTooSkewed", "set the clock"], Nothing),
    ];
    for case in cases {
        check_ends(&behind, case).await;
    }
    // Credentials that expire for everything once the first part is stored: lease, plugin and listing came before.
    configure(&behind, Parts);
    behind.proxy.set_rules(Vec::new());
    let n_before = behind.proxy.requests().len();
    behind.relay.run(&["backup", "orders"]).check_code(0);
    let of_run = behind.proxy.requests().split_off(n_before);
    let at_part = of_run.iter().position(|request| request.contains("partNumber=")).expect("a part");
    let after = u32::try_from(at_part).unwrap() + 1;
    let expires = Rule { after, ..always(ANY, expired()) };
    check_ends(&behind, Ends(Parts, expires, 4, &["ExpiredToken", "get new credentials"], Named)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_another_checksum_is_no_backup() {
    let behind = Behind::start(Server::Versitygw, IN_A_HURRY).await;
    let (of_part, of_put): (&[&str], &[&str]) = (&["another one in the answer"], &["others, by their checksum"]);
    for (shape, of, says) in [(Shape::Put, SEGMENT, of_put), (Shape::Parts, PART, of_part)] {
        check_ends(&behind, Ends(shape, first(1, of, Act::OtherChecksum), 1, says, Leaves::Nothing)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_take_the_clock_says_so_itself() {
    let behind = Behind::start(Server::Minio, IN_A_HURRY).await;
    let says: &[&str] = &["RequestTimeTooSkewed", "set the clock"];
    let case = Ends(Shape::Put, always(ANY, Act::OldDate), 4, says, Leaves::Nothing);
    check_ends(&behind, case).await;
    check_said("list", &behind_a_wrong_clock(&behind, &["list"]), 4, says);
    check_said("verify", &behind_a_wrong_clock(&behind, &["verify", "orders"]), 4, says);
}

fn behind_a_wrong_clock(behind: &Behind, args: &[&str]) -> Output {
    behind.set(always(ANY, Act::OldDate));
    behind.relay.run(args)
}

#[test]
fn a_name_that_does_not_resolve_is_named_by_every_verb() {
    let setup = setup_at(free_port().unwrap(), s3::BUCKET);
    let place = setup.place.replace("http://127.0.0.1", "https://s3.nowhere.invalid");
    let relay = relay_with(Setup { place, store: IN_A_HURRY.into(), produce: sh(ONE_PUT), ..setup });
    for verb in [
        &["backup", "orders"][..],
        &["list"],
        &["verify", "orders"],
        &["restore", "orders", "latest"],
        &["show", "orders", "latest"],
        &["store", "check", "main"],
    ] {
        let output = relay.run(verb);
        check_said(&format!("{verb:?}"), &output, 1, &["s3.nowhere.invalid", "does not resolve", "DNS"]);
    }
}

// Reading what is there.

/// A backup of two parts, of which one is kept, and a consumer that keeps only what ended well.
async fn with_a_backup() -> (Behind, String) {
    let behind = Behind::start(Server::Versitygw, IN_A_HURRY).await;
    let copy = behind.relay.sandbox.path("copy");
    let setup = setup_at(behind.proxy.port(), s3::BUCKET);
    let consume = sh(&format!("cat > {0}.tmp && mv {0}.tmp {0}", copy.display()));
    let settings = "[job.orders.keep]\nlast = 1".into();
    behind.relay.configure(&Setup { consume, settings, store: IN_A_HURRY.into(), ..setup });
    let id = behind.relay.backup();
    (behind, id)
}

const LISTING: (&str, &str) = ("GET", "list-type=2");
const READ_RECORD: (&str, &str) = ("GET", "record.json");
const READ_DATA: (&str, &str) = ("GET", "/data/");

const BROKE: &str = "broke in the middle of the answer";

/// What reads a backup: `list` reads no data.
fn readers(id: &str) -> [Vec<String>; 4] {
    [
        vec!["list", "orders"],
        vec!["verify", "orders", id, "--depth", "stored"],
        vec!["verify", "orders", id, "--depth", "contents"],
        vec!["restore", "orders", id],
    ]
    .map(|args| args.into_iter().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_passes_is_ridden_out_by_whoever_reads() {
    let (behind, id) = with_a_backup().await;
    let copy = behind.relay.sandbox.path("copy");
    let cuts = [Act::TruncateResponse(1000), Act::ResetInResponse(1000)];
    let others = [busy(500), busy(503), Act::LoseAnswer, Act::Drop, Act::Stall(FOR_EVER)];
    for act in others.into_iter().chain(cuts) {
        for of in [LISTING, READ_RECORD, READ_DATA] {
            for args in readers(&id) {
                if of == READ_DATA && args[0] == "list" || of == LISTING && args[0] != "list" {
                    continue;
                }
                behind.set(first(1, of, act.clone()));
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let output = behind.relay.run(&args);
                assert_eq!(output.code, Some(0), "{of:?} {act:?} {args:?}\n{output:#?}");
                assert!(behind.proxy.touched() > 0, "{of:?} {act:?} {args:?}");
                if args[0] == "restore" {
                    assert_eq!(std::fs::metadata(&copy).unwrap().len(), 9_000_000);
                    std::fs::remove_file(&copy).unwrap();
                }
            }
        }
    }
}

/// A fault that ends whoever reads data: exit code for one that looks and for one that restores, and
/// what the error says.
struct Stops(Rule, i32, &'static [&'static str]);

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_stays_ends_a_reader_with_its_cause_and_is_not_taken_for_damage() {
    let (behind, id) = with_a_backup().await;
    let copy = behind.relay.sandbox.path("copy");
    let expired = Act::Answer(400, "ExpiredToken", "the provided token has expired");
    let cases = [
        Stops(always(READ_DATA, busy(503)), 1, &["SlowDown", "attempts"]),
        Stops(always(READ_DATA, Act::TruncateResponse(1000)), 1, &[BROKE, SAYS_CLOSED, "attempts"]),
        Stops(always(READ_DATA, Act::ResetInResponse(1000)), 1, &[BROKE, SAYS_RESET, "attempts"]),
        Stops(always(READ_DATA, Act::Stall(FOR_EVER)), 1, &["no progress for 1.0 s"]),
        Stops(Rule { after: 1, ..always(READ_DATA, expired.clone()) }, 4, &["ExpiredToken", "get new credentials"]),
        Stops(always(READ_RECORD, Act::OldDate), 4, &["RequestTimeTooSkewed", "set the clock"]),
    ];
    for Stops(rule, code, says) in cases {
        for args in readers(&id).iter().skip(1) {
            behind.set(rule.clone());
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let output = behind.relay.run(&args);
            // What was fed to a consumer may have changed the target: that is what 6 says.
            let code = if args[0] == "restore" && output.code == Some(6) { 6 } else { code };
            check_said(&format!("{rule:?} {args:?}"), &output, code, says);
            assert!(!copy.exists(), "a consumer saw an end of what ended early: {rule:?}");
        }
    }
    // Nothing of all that was written down as a verification that failed.
    behind.proxy.set_rules(Vec::new());
    let shown = behind.relay.run(&["show", "orders", &id, "--output", "json"]).check_code(0).json();
    assert_eq!(shown["verified"], serde_json::json!([]));
}

/// What a prune would decide about one backup, and why.
fn planned(behind: &Behind, id: &str) -> (bool, String) {
    let plan = behind.relay.run(&["prune", "orders", "--dry-run", "--output", "json"]).check_code(0).json();
    let backup = plan["backups"].as_array().unwrap().iter().find(|backup| backup["id"] == id).expect("the backup");
    (backup["keep"].as_bool().unwrap(), backup["reasons"].to_string())
}

/// The verifications of a backup that are kept: how deep each was, and whether it passed.
fn verifications(behind: &Behind, id: &str) -> Vec<(String, bool)> {
    let shown = behind.relay.run(&["show", "orders", id, "--output", "json"]).check_code(0).json();
    let of = |one: &serde_json::Value| (one["depth"].as_str().unwrap().to_owned(), one["passed"].as_bool().unwrap());
    shown["verified"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_their_way_are_damage_until_a_later_reading_says_otherwise() {
    let (behind, older) = with_a_backup().await;
    let copy = behind.relay.sandbox.path("copy");
    let id = behind.relay.backup();
    assert!(!planned(&behind, &older).0, "one of the two is kept");
    for args in readers(&id).iter().skip(1) {
        behind.set(always(READ_DATA, Act::FlipResponse));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = behind.relay.run(&args);
        assert!(matches!(output.code, Some(1 | 5 | 6)), "{args:?}\n{output:#?}");
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("\"out\"") && said.contains("0001"), "{args:?}\n{said}");
        assert!(!copy.exists(), "a consumer saw an end of what was damaged");
    }
    behind.proxy.set_rules(Vec::new());
    // Each verification that failed is written down, and one such backup displaces none that is good.
    let mut verified = vec![("stored".to_owned(), false), ("contents".to_owned(), false)];
    assert_eq!(verifications(&behind, &id), verified);
    let (is_kept, why) = planned(&behind, &id);
    assert!(is_kept && why.contains("its last verification failed") && !why.contains("the last good one"), "{why}");
    let (is_kept, why) = planned(&behind, &older);
    assert!(is_kept && why.contains("the last good one"), "{why}");
    // The bytes at rest were never changed: one good verification, of whatever depth, makes it what it was.
    behind.relay.run(&["verify", "orders", &id, "--depth", "stored"]).check_code(0);
    verified.push(("stored".to_owned(), true));
    assert_eq!(verifications(&behind, &id), verified);
    let (is_kept, why) = planned(&behind, &id);
    assert!(is_kept && why.contains("the last good one"), "{why}");
    assert!(why.contains("the last one verified by its stored bytes") && !why.contains("failed"), "{why}");
    assert!(!planned(&behind, &older).0);
}

/// Half of the time that a request may stand still.
const LATE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_half_a_minute_late_is_waited_for_and_never_asked_for_again() {
    let behind = Behind::start(Server::Versitygw, "").await;
    let copy = behind.relay.sandbox.path("copy");
    let setup = setup_at(behind.proxy.port(), s3::BUCKET);
    behind.relay.configure(&Setup { consume: sh(&format!("cat > {}", copy.display())), ..setup });
    let older = behind.relay.backup();
    let run = |args: &[&str]| {
        let n_before = behind.proxy.requests().len();
        let began = Instant::now();
        let output = behind.relay.run(&[args, &["-vv"]].concat());
        output.check_code(0);
        for retry in ["trying again", "in trouble", "recovered"] {
            assert!(!output.stderr.contains(retry), "{retry}: {output:#?}");
        }
        (output, began.elapsed(), behind.proxy.requests().split_off(n_before))
    };
    let count = |requests: &[String], of: (&str, &str)| {
        requests.iter().filter(|request| request.starts_with(of.0) && request.contains(of.1)).count()
    };
    let restore = ["restore", "orders", &older];
    let n_reads = count(&run(&restore).2, READ_DATA);
    assert!(n_reads > 0);
    std::fs::remove_file(&copy).unwrap();

    // Both at once: half a minute is long enough for one test.
    let late = |of| first(1, of, Act::LateAnswer(LATE));
    behind.proxy.set_rules(vec![late(PART), late(READ_DATA)]);
    let (made, restored) = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| run(&restore));
        (run(&["backup", "orders", "--output", "json"]), restoring.join().unwrap())
    });
    assert_eq!(behind.proxy.touched(), 2);
    assert!(made.1 >= LATE && restored.1 >= LATE, "{:?}, {:?}", made.1, restored.1);
    for part in ["partNumber=1&", "partNumber=2&"] {
        assert_eq!(count(&made.2, ("PUT", part)), 1, "{:#?}", made.2);
    }
    assert_eq!(count(&restored.2, READ_DATA), n_reads, "{:#?}", restored.2);
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), 9_000_000);
    behind.proxy.set_rules(Vec::new());
    let id = made.0.json()["id"].as_str().unwrap().to_owned();
    behind.relay.run(&["verify", "orders", &id]).check_code(0);
    behind.seen().await.check_tidy("two late answers");
}
