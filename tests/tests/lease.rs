//! The lease of a job between two hosts that meet in the store alone: real processes, a real server, and
//! a holder that is killed, sleeps, or is as quick as the other.
//!
//! Each host has a home, a state directory and a key of its own.

use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use strongroom_tests::behind::{relay_with, setup_at};
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::s3::{self, BUCKET, S3Server, Server};
use strongroom_tests::{Running, TIMEOUT, wait_until};

/// How long a lease stands still before it is taken over, here: long enough that a busy machine renews it.
const STANDS_STILL: Duration = Duration::from_secs(3);

/// A host with the job `orders` at a server.
fn host(server: &S3Server) -> Relay {
    let mut relay = relay_with(Setup { produce: sh("echo data"), ..setup_at(server.port(), BUCKET) });
    relay.sandbox.set_env("STRONGROOM_FAIL", format!("lease={}", STANDS_STILL.as_millis()));
    relay
}

/// A backup that has stored a part, and whose producer does not end.
fn begin(host: &Relay, server: &S3Server) -> Running {
    let produce = sh("head -c 20000000 /dev/urandom; exec sleep 600");
    host.configure(&Setup { produce, ..setup_at(server.port(), BUCKET) });
    let trace = host.sandbox.path("trace");
    let fail = format!("lease={},trace={}", STANDS_STILL.as_millis(), trace.display());
    let running = host.sandbox.strongroom(["backup", "orders"]).env("STRONGROOM_FAIL", fail).start().unwrap();
    let has_part = || std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("s3.part"));
    wait_until("the first part", TIMEOUT, || Ok(has_part().then_some(()))).unwrap();
    running
}

/// What `lease.json` says.
async fn lease(server: &S3Server) -> serde_json::Value {
    let object = s3::client(server.port()).get_object().bucket(BUCKET).key("orders/lease.json").send().await.unwrap();
    serde_json::from_slice(&object.body.collect().await.unwrap().into_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_killed_loses_its_lease_to_another_one() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (one, other) = (host(&server), host(&server));
    let running = begin(&one, &server);
    let held = lease(&server).await;
    assert_eq!(held["state"], "held", "{held}");
    running.signal(Signal::KILL).unwrap();
    assert_eq!(running.finish(TIMEOUT).unwrap().signal, Some(9));

    let began = Instant::now();
    other.run(&["backup", "orders"]).check_code(0).check_stderr("did not end and left no backup");
    assert!(began.elapsed() >= STANDS_STILL, "it was taken over after {:?}", began.elapsed());
    let (made, free) = (other.listed(), lease(&server).await);
    let [id] = made.as_slice() else { panic!("the dead run left no backup: {made:?}") };
    assert_eq!((&free["state"], &free["run"]), (&"free".into(), &id.as_str().into()), "{free}");
    assert_ne!(held["run"], free["run"]);
    assert_ne!(held["holder"], free["holder"], "machine and process");
    // Nor did it leave anything that keeps its host from the next one.
    other.run(&["verify", "orders", id]).check_code(0);
    one.configure(&Setup { produce: sh("echo data"), ..setup_at(server.port(), BUCKET) });
    let again = one.backup();
    assert_eq!(one.listed().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([id.clone(), again]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_slept_through_its_lease_makes_no_backup() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (one, other) = (host(&server), host(&server));
    let running = begin(&one, &server);
    running.signal(Signal::STOP).unwrap();
    let id = other.backup();
    // Its producer never ends: what ends it is that it is told.
    running.signal(Signal::CONT).unwrap();
    let woken = running.finish(TIMEOUT).unwrap();
    woken.check_code(1).check_stderr("another run of job \"orders\" is at work").check_stderr("was taken over");
    assert_eq!(other.listed(), std::slice::from_ref(&id));
    other.run(&["verify", "orders", &id]).check_code(0);
    assert_eq!(lease(&server).await["run"], id.as_str(), "it did not take it back");
    // Nor did it leave anything: it could still tidy up.
    let left = s3::client(server.port()).list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert!(left.uploads().is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_begin_at_once_neither_breaks_the_other() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let hosts = [host(&server), host(&server)];
    let (mut made, mut n_refused) = (BTreeSet::new(), 0);
    for _ in 0..4 {
        let running = hosts.each_ref().map(|host| {
            let args = ["backup", "orders", "--output", "json"];
            (host, host.sandbox.strongroom(args).start().unwrap())
        });
        let mut n_made = 0;
        for (host, running) in running {
            let output = running.finish(TIMEOUT).unwrap();
            if output.code == Some(0) {
                n_made += 1;
                let id = output.json()["id"].as_str().unwrap().to_owned();
                host.run(&["verify", "orders", &id]).check_code(0);
                assert!(made.insert(id));
            } else {
                n_refused += 1;
                output.check_code(1).check_stdout("another run of job \\\"orders\\\" is at work");
            }
        }
        // Whoever is refused is refused because the other one is at work, and that one ends well.
        assert!(n_made >= 1, "{n_refused} were refused");
    }
    assert_eq!(hosts[0].listed().into_iter().collect::<BTreeSet<_>>(), made);
    assert_eq!(lease(&server).await["state"], "free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_in_a_bucket_with_versions_leaves_one_version() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        s3::keep_versions(server.port()).await.unwrap();
        let host = host(&server);
        // Some renewals, of which each is a version.
        let trace = host.sandbox.path("trace");
        let wait = "while [ $(grep -c lease.renewed trace) -lt 3 ]; do sleep 0.05; done; echo data";
        host.configure(&Setup {
            produce: sh(&format!("cd {}; {wait}", host.sandbox.dir().display())),
            ..setup_at(server.port(), BUCKET)
        });
        std::fs::write(&trace, "").unwrap();
        for _ in 0..2 {
            let fail = format!("lease=300,trace={}", trace.display());
            host.sandbox.strongroom(["backup", "orders"]).env("STRONGROOM_FAIL", fail).run().check_code(0);
        }
        let listed = s3::client(server.port()).list_object_versions().bucket(BUCKET).prefix("orders/lease.json");
        let listed = listed.send().await.unwrap();
        assert_eq!((listed.versions().len(), listed.delete_markers().len()), (1, 0), "{kind:?} {listed:?}");
        assert_eq!(lease(&server).await["state"], "free");
    }
}
