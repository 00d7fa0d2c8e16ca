//! Commands in pods of a real cluster: bytes, environment, exit codes, cuts, and who is chosen.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

mod binary;
mod postgres;

use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom::cluster::{ClusterSpec, IN_FLIGHT, PATIENCE, TIMEOUT, Way as WayTo};
use strongroom::error::{Error, Kind, Result};
use strongroom::exec::{Choice, Place, Pod, PodSpec, RunIn, Several, settled, spawn};
use strongroom::policy::exec::{CommandLine, StdinGrant};
use strongroom::secret::Secret;
use strongroom::stream::source::InMemory;
use strongroom::stream::{ByteSource, Origin, Proof, Source, SourceInfo};
use strongroom_tests::dice::Dice;
use strongroom_tests::kube::front::{Act, Front};
use strongroom_tests::kube::{Cluster, User};
use strongroom_tests::tool::{LONG, check_error, line, read_all, read_line, run, sh, start};
use strongroom_tests::wait_until;
use strongroom_tests::wire::{Way, Wire};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "correct horse 'battery' \\ \"staple\"";

fn cluster() -> &'static Cluster {
    tokio::task::block_in_place(|| Cluster::shared("pod"))
}

/// A namespace with a pod `tool` whose only container is `main`.
fn tool(cluster: &Cluster) -> String {
    tokio::task::block_in_place(|| {
        let namespace = cluster.namespace("pod").unwrap();
        let spec = json!({"containers": [{"name": "main", "image": "tool:1"}]});
        cluster.pod(&namespace, "tool", &json!({"app": "tool"}), &spec).unwrap();
        namespace
    })
}

/// Where the container `main` of a pod runs.
fn home(cluster: &Cluster, namespace: &str, pod: &str) -> PathBuf {
    cluster.pods_dir().join(namespace).join(pod).join("main")
}

fn spec(namespace: &str, choice: Choice) -> PodSpec {
    PodSpec {
        cluster: "test".to_owned(),
        namespace: namespace.to_owned(),
        choice,
        container: None,
        service_account: None,
        image: None,
    }
}

/// The place of a pod, through a port of the loopback, as this user.
fn place_as(cluster: &Cluster, user: &User, port: u16, spec: PodSpec, several: Several) -> Place {
    let kubeconfig = tokio::task::block_in_place(|| cluster.kubeconfig_at(user, port)).unwrap();
    let way = WayTo::Kubeconfig { path: Some(kubeconfig), context: user.name().to_owned(), exec_credentials: false };
    place_by(way, spec, several)
}

fn place_by(way: WayTo, spec: PodSpec, several: Several) -> Place {
    let connection = strongroom::cluster::Cluster::new(ClusterSpec {
        label: "test".to_owned(),
        way,
        credentials: None,
        impersonate: None,
        proxy: None,
        proxies: strongroom::cluster::Proxies::default(),
        timeout: TIMEOUT,
        patience: PATIENCE,
        requests_per_second: None,
        in_flight: IN_FLIGHT,
    });
    Place {
        run_in: RunIn::Pod(spec.clone()),
        env: BTreeMap::new(),
        secrets: BTreeMap::from([("PGPASSWORD".to_owned(), Secret::new(SECRET.to_owned()))]).into(),
        pod: Some(Pod::new(spec, connection, several)),
    }
}

fn place(cluster: &Cluster, namespace: &str) -> Place {
    let spec = spec(namespace, Choice::Selector("app=tool".to_owned()));
    place_as(cluster, cluster.admin(), cluster.port(), spec, Several::Refuse)
}

fn given(bytes: impl Into<bytes::Bytes>) -> Source {
    Source::new(Origin::Plugin, InMemory::new(bytes))
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// Command lines of processes that run in this directory.
fn running(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir))
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| !line.is_empty())
        .collect()
}

fn wait_until_nothing_runs(dir: &Path) {
    let gone = || {
        let left = running(dir);
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    };
    tokio::task::block_in_place(|| wait_until("the end of what runs in the pod", LONG, gone)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_pod_passes_bytes_environment_and_exit_codes() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let here = || place(cluster, &namespace);

    let bytes = numbers(30_000_000);
    let cat = CommandLine { stdin: StdinGrant::Plugin, ..line("/bin/cat", &[]) };
    for detects_short_input in [false, true] {
        let cat = CommandLine { detects_short_input, ..cat.clone() };
        let mut process = start(cat, here(), Some(given(bytes.clone()))).await.unwrap();
        let source = process.stdout().unwrap();
        assert_eq!(source.origin, Origin::Exec { command: "tool".to_owned(), proof: Some(Proof::Cksum) });
        let (read, end) = read_all(source).await;
        end.unwrap();
        assert!(read == bytes, "{} bytes came back", read.len());
        assert!(process.wait().await.unwrap().is_success());
    }

    let mut with_env = here();
    with_env.env.insert("PATH".to_owned(), "/opt/only/here:/bin".to_owned());
    with_env.env.insert("LINES".to_owned(), "one\n\n  three\n".to_owned());
    let command = CommandLine {
        env: vec![("PGDATABASE".to_owned(), "shop".to_owned())],
        secrets: vec!["PGPASSWORD".to_owned()],
        ..sh("echo $PGDATABASE; echo \"$PGPASSWORD\" | wc -c; echo $PATH; echo \"[$LINES]\"")
    };
    let output = run(command, with_env).await.unwrap();
    let expected = format!("shop\n{}\n/opt/only/here:/bin\n[one\n\n  three\n]\n", SECRET.len() + 1);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    let output = run(CommandLine { secrets: vec!["PGPASSWORD".to_owned()], ..line("/bin/env", &[]) }, here()).await;
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(output.contains("PGPASSWORD=***"), "the secret is blotted out of what a guest is given: {output}");
    let without = String::from_utf8(run(line("/bin/env", &[]), here()).await.unwrap().stdout).unwrap();
    assert!(!without.contains("PGPASSWORD"), "a secret that the command was not granted");

    // The wrapper's own codes are told from the program's, whatever the program answers.
    for code in [0, 1, 37, 125, 126, 127, 137, 255] {
        let output = run(sh(&format!("echo out; echo err >&2; exit {code}")), here()).await.unwrap();
        assert_eq!((output.exit.code, output.exit.stderr.as_str()), (Some(code), "err\n"));
        assert_eq!(output.stdout, b"out\n");
    }
    assert_eq!(run(sh("kill -9 $$"), here()).await.unwrap().exit.code, Some(137));
    let strange = ["$(id)", "`id`", "a b", "'", "\"", "&x=1#%41+", "-n", "", "two\nlines\n", ".", "\\n \\", " a "];
    let output = run(line("/bin/echo", &strange), here()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", strange.join(" ")));
    let error = start(line("/bin/nothing", &[]), here(), None).await.unwrap_err();
    check_error(&error, Kind::NotFound, &["/bin/nothing", "no such file"]);
    let error = start(line("/etc/passwd", &[]), here(), None).await.unwrap_err();
    check_error(&error, Kind::Denied, &["not executable"]);

    let hold = StdinGrant::Text { text: "one\n".to_owned(), hold: true };
    let mut held = start(CommandLine { stdin: hold, ..line("/bin/cat", &[]) }, here(), None).await.unwrap();
    let mut output = held.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "one");
    drop((held, output));
    wait_until_nothing_runs(&home(cluster, &namespace, "tool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_and_secrets_are_in_no_line_of_the_audit_log_and_in_no_list_of_processes() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let mut here = place(cluster, &namespace);
    here.env.insert("TEST_ENV".to_owned(), "value-of-the-job".to_owned());
    let mut command = line("/bin/sh", &["-c", "echo ready; sleep 1000; exit 0", "sh", "slot-of-an-argument"]);
    command.env = vec![("PGDATABASE".to_owned(), "slot-of-a-variable".to_owned())];
    command.secrets = vec!["PGPASSWORD".to_owned()];
    let mut process = start(command, here, None).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "ready");
    let (mut wrappers, mut programs) = (0, 0);
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(arguments) = std::fs::read(entry.unwrap().path().join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        for hidden in [SECRET, "value-of-the-job", "slot-of-a-variable"] {
            assert!(!arguments.contains(hidden), "{arguments}");
        }
        wrappers += usize::from(arguments.starts_with("/bin/sh -c sr_nl="));
        // What a program is started with is what its process is listed with.
        if arguments.contains("slot-of-an-argument") {
            assert_eq!(arguments, "/bin/sh -c echo ready; sleep 1000; exit 0 sh slot-of-an-argument ");
            programs += 1;
        }
    }
    assert!(wrappers >= 1 && programs >= 1, "{wrappers} wrappers and {programs} programs were looked at");
    drop((process, output));
    wait_until_nothing_runs(&home(cluster, &namespace, "tool"));
    let log = cluster.audit_log().unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&namespace)).collect();
    assert!(lines.iter().any(|line| line.contains("sr_nl") && line.contains("pods/tool/exec")), "{lines:?}");
    for line in lines {
        for hidden in ["correct", "horse", "battery", "value-of", "slot-of", "sleep"] {
            assert!(!line.contains(hidden), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handles_ends_the_program_in_its_pod_with_its_children() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let script = "trap '' TERM; sleep 1000 & (sleep 1000 & wait) & echo ready; while :; do sleep 1; done";
    let mut process = start(sh(script), place(cluster, &namespace), None).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "ready");
    assert!(running(&home(cluster, &namespace, "tool")).len() >= 4);
    drop((process, output));
    wait_until_nothing_runs(&home(cluster, &namespace, "tool"));
    assert!(run(line("/bin/true", &[]), place(cluster, &namespace)).await.unwrap().exit.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_a_pod_that_stops_early_succeeds_only_where_that_is_granted() {
    let cluster = cluster();
    let namespace = tool(cluster);
    for (bytes, detects_short_input) in [(100, false), (10_000_000, false), (100, true), (10_000_000, true)] {
        for partial_stdin in [false, true] {
            let ten = line("/bin/dd", &["bs=10", "count=1", "status=none"]);
            let command = CommandLine { partial_stdin, detects_short_input, stdin: StdinGrant::Plugin, ..ten };
            let place = place(cluster, &namespace);
            let mut process = start(command, place, Some(given(vec![b'x'; bytes]))).await.unwrap();
            let (read, end) = read_all(process.stdout().unwrap()).await;
            assert_eq!(read, b"xxxxxxxxxx");
            if partial_stdin {
                end.unwrap();
                assert!(process.wait().await.unwrap().is_success());
            } else {
                check_error(&end.unwrap_err(), Kind::Failed, &["stopped reading", "exit code: 0"]);
            }
        }
    }
}

/// Gives what a test says, when it says it, and ends when that lets go.
struct Talk {
    said: std::sync::mpsc::Receiver<&'static [u8]>,
    len: u64,
}

impl ByteSource for Talk {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { len: Some(self.len), ..SourceInfo::default() })
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Ok(said) = self.said.recv() else { return Ok(0) };
        buf[..said.len()].copy_from_slice(said);
        Ok(said.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_answers_every_line_as_it_comes_and_sees_the_end_of_its_input_as_one() {
    let cluster = cluster();
    let namespace = tool(cluster);
    for detects_short_input in [false, true] {
        let script = "while IFS= read -r line; do echo \"got $line\"; done; echo over";
        let command = CommandLine { detects_short_input, stdin: StdinGrant::Plugin, ..sh(script) };
        let (say, said) = std::sync::mpsc::channel();
        let source = Source::new(Origin::Plugin, Talk { said, len: 8 });
        let mut process = start(command, place(cluster, &namespace), Some(source)).await.unwrap();
        let mut output = process.stdout().unwrap();
        for (line, answer) in [(&b"one\n"[..], "got one"), (b"two\n", "got two")] {
            say.send(line).unwrap();
            assert_eq!(read_line(&mut output).await, answer);
        }
        drop(say);
        let (rest, end) = read_all(output).await;
        end.unwrap();
        assert_eq!(rest, b"over\n");
        assert!(process.wait().await.unwrap().is_success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_say_where_an_input_ends_is_refused() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let front = tokio::task::block_in_place(|| {
        Front::start(cluster, |request, _| if request.contains("/exec?") { Act::WithoutV5 } else { Act::Pass })
    });
    let way = WayTo::Address { server: front.url(), ca: None };
    let place = place_by(way, spec(&namespace, Choice::Name("tool".to_owned())), Several::Refuse);
    let error = run(sh("touch ran"), place).await.unwrap_err();
    let says = ["could not start \"tool\"", "cannot say where standard input ends", "v4.channel.k8s.io"];
    check_error(&error, Kind::Unavailable, &says);
    let home = home(cluster, &namespace, "tool");
    wait_until_nothing_runs(&home);
    assert!(!home.join("ran").exists());
}

/// Of no known length.
struct Endless;

impl ByteSource for Endless {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        Ok(buf.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_acts_on_a_cut_input_gets_none_whose_length_nobody_knows() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let command = CommandLine { stdin: StdinGrant::Plugin, ..line("/bin/cat", &[]) };
    let source = Source::new(Origin::Plugin, Endless);
    let error = start(command, place(cluster, &namespace), Some(source)).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["how long its input is", "detects_short_input"]);
    assert_eq!(running(&home(cluster, &namespace, "tool")), Vec::<String>::new());
}

/// `seq 1 N`, and what it writes.
fn sequence() -> (CommandLine, Vec<u8>) {
    let text: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    (line("/bin/seq", &["1", "300000"]), text.into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_cut_on_the_wire_is_never_a_success() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let wire = Wire::to(cluster.port()).await.unwrap();
    let through = || {
        let spec = spec(&namespace, Choice::Name("tool".to_owned()));
        place_as(cluster, cluster.admin(), wire.port(), spec, Several::Refuse)
    };
    let (command, expected) = sequence();
    let mut process = start(command.clone(), through(), None).await.unwrap();
    let (read, end) = read_all(process.stdout().unwrap()).await;
    end.unwrap();
    assert!(read == expected);
    drop(process);
    assert_eq!(settled(LONG).await, 0);
    // What is not output came before it, but for some words at the end: so this many bytes end inside.
    let (total, length) = (wire.passed(Way::Down), expected.len() as u64);
    let mut dice = Dice::seeded();
    for _ in xtask::soak::turns(10, "cuts of an output") {
        let (cuts, at) = (wire.cuts(), total - length + dice.below(length * 9 / 10));
        wire.cut_after(Way::Down, at);
        let error = match start(command.clone(), through(), None).await {
            // The channels overtake one another: output can come before the word that the program runs.
            Err(error) => {
                check_error(&error, Kind::Unavailable, &["could not start \"tool\""]);
                error
            }
            Ok(mut process) => {
                let (read, end) = read_all(process.stdout().unwrap()).await;
                let error = end.expect_err("the output was cut");
                // So can the program's exit code, before a cut in what it wrote.
                let shown = format!("{error:?}");
                let is_known = ["nobody knows how \"tool\" ended", "\"tool\" was cut on its way out"];
                assert!(is_known.iter().any(|known| shown.contains(known)), "{shown}");
                assert!(expected.starts_with(&read) && read.len() < expected.len(), "{} bytes", read.len());
                error
            }
        };
        assert_eq!(wire.cuts(), cuts + 1, "cut at {at}: {error:?}");
        // The host looks for what is left in the pod before the next cut is counted.
        assert_eq!(settled(LONG).await, 0);
    }
    wait_until_nothing_runs(&home(cluster, &namespace, "tool"));
}

/// A node that loses bytes and reports a success, in the middle and at the end.
#[tokio::test(flavor = "multi_thread")]
async fn output_of_which_a_node_loses_a_byte_is_never_a_success() {
    let cluster = cluster();
    let (command, expected) = sequence();
    for from in [1_000_000, expected.len() - 1] {
        let namespace = tokio::task::block_in_place(|| {
            let namespace = cluster.namespace("lossy").unwrap();
            let env = json!([{"name": "PODLET_LOSES", "value": format!("{from}:1")}]);
            let spec = json!({"containers": [{"name": "main", "image": "tool:1", "env": env}]});
            cluster.pod(&namespace, "tool", &json!({"app": "tool"}), &spec).unwrap();
            namespace
        });
        let mut process = start(command.clone(), place(cluster, &namespace), None).await.unwrap();
        let (read, end) = read_all(process.stdout().unwrap()).await;
        assert_eq!(read.len(), expected.len() - 1, "one byte was lost");
        let error = end.expect_err("a byte was lost");
        check_error(&error, Kind::Failed, &["the output of \"tool\" is not what it was where it ran"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_cut_on_the_wire_is_never_the_end_of_it() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let wire = Wire::to(cluster.port()).await.unwrap();
    let bytes = numbers(2_000_000);
    let home = home(cluster, &namespace, "tool");
    let script = "act() { touch acted; exit 0; }; trap act TERM; cat >/dev/null; act";
    let command = CommandLine { stdin: StdinGrant::Plugin, ..sh(script) };
    let start_through = async || {
        let spec = spec(&namespace, Choice::Name("tool".to_owned()));
        let place = place_as(cluster, cluster.admin(), wire.port(), spec, Several::Refuse);
        start(command.clone(), place, Some(given(bytes.clone()))).await
    };
    assert!(start_through().await.unwrap().wait().await.unwrap().is_success());
    assert_eq!(settled(LONG).await, 0);
    std::fs::remove_file(home.join("acted")).unwrap();
    let (total, length) = (wire.passed(Way::Up), bytes.len() as u64);
    let mut dice = Dice::seeded();
    for _ in xtask::soak::turns(10, "cuts of an input") {
        let (cuts, at) = (wire.cuts(), total - length + dice.below(length * 9 / 10));
        wire.cut_after(Way::Up, at);
        let error = start_through().await.unwrap().wait().await.unwrap_err();
        assert_eq!(wire.cuts(), cuts + 1, "cut at {at}");
        check_error(&error, Kind::Unavailable, &["\"tool\""]);
        assert_eq!(settled(LONG).await, 0);
        wait_until_nothing_runs(&home);
        assert!(!home.join("acted").exists(), "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_in_the_middle_is_a_failure_and_its_successor_another_pod() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let here = Arc::new(place(cluster, &namespace));
    let script = "seq 1 1000; echo ready; exec sleep 1000";
    let begin = || spawn(sh(script), here.clone(), None, None, LONG, CancellationToken::new());
    let mut process = begin().await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "1");
    tokio::task::block_in_place(|| {
        cluster.kubectl(["delete", "pod", "tool", "-n", &namespace, "--grace-period=1"]).unwrap();
    });
    let (_, end) = read_all(output).await;
    let error = end.unwrap_err();
    // The node may still say how it ended; else nobody knows.
    assert!(matches!(error.kind(), Kind::Failed | Kind::Unavailable), "{error:?}");
    check_error(&begin().await.unwrap_err(), Kind::Unavailable, &["the pod of this run is not there any more"]);
    tokio::task::block_in_place(|| {
        let spec = json!({"containers": [{"name": "main", "image": "tool:1"}]});
        cluster.pod(&namespace, "tool", &json!({"app": "tool"}), &spec).unwrap();
    });
    check_error(&begin().await.unwrap_err(), Kind::Unavailable, &["another pod of the same name"]);
    // Another run may use it.
    assert!(run(line("/bin/true", &[]), place(cluster, &namespace)).await.unwrap().exit.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_is_ready_has_the_pinned_account_and_image_and_is_the_only_one_for_a_restore() {
    let cluster = cluster();
    let namespace = tool(cluster);
    tokio::task::block_in_place(|| {
        cluster.kubectl(["create", "serviceaccount", "robot", "-n", &namespace]).unwrap();
        let two = json!({"serviceAccountName": "robot", "containers": [
            {"name": "main", "image": "tool:2"}, {"name": "side", "image": "side:1"}]});
        cluster.pod(&namespace, "two", &json!({"app": "two"}), &two).unwrap();
        let shut = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "shut", "namespace": namespace, "labels": {"app": "shut"}},
            "spec": {"containers": [{"name": "main", "image": "tool:1"}],
                "readinessGates": [{"conditionType": "example.org/gate"}]},
        });
        cluster.apply(&shut).unwrap();
        cluster
            .kubectl(["wait", "--for=jsonpath={.status.phase}=Running", "pod/shut", "--timeout=60s", "-n", &namespace])
            .unwrap();
    });
    let selector = |text: &str| spec(&namespace, Choice::Selector(text.to_owned()));
    let name = |text: &str| spec(&namespace, Choice::Name(text.to_owned()));
    let text = |text: &str| Some(text.to_owned());
    let all = "app in (tool,two)";
    let tried = async |spec: PodSpec, several: Several| {
        let place = place_as(cluster, cluster.admin(), cluster.port(), spec, several);
        let output = run(sh("echo $POD_DIR"), place).await?;
        let dir = String::from_utf8(output.stdout).unwrap();
        let parts: Vec<_> = dir.trim().rsplit('/').take(2).collect();
        Ok::<_, Error>(format!("{}/{}", parts[1], parts[0]))
    };
    for (spec, several, expected) in [
        (selector("app=tool"), Several::Refuse, "tool/main"),
        (name("tool"), Several::Refuse, "tool/main"),
        (PodSpec { container: text("side"), ..selector("app=two") }, Several::Refuse, "two/side"),
        (PodSpec { container: text("main"), ..selector(all) }, Several::First, "tool/main"),
        // A pin leaves one of them.
        (
            PodSpec { container: text("main"), service_account: text("robot"), ..selector(all) },
            Several::Refuse,
            "two/main",
        ),
        (PodSpec { image: text("tool:1"), container: text("main"), ..selector(all) }, Several::Refuse, "tool/main"),
    ] {
        assert_eq!(tried(spec.clone(), several).await.unwrap(), expected, "{spec:?}");
    }
    for (spec, kind, says) in [
        (selector("app=nothing"), Kind::NotFound, &["there is no pod for selector \"app=nothing\""][..]),
        (name("nothing"), Kind::NotFound, &["nothing"]),
        (selector("app=shut"), Kind::Unavailable, &["\"shut\" is not ready"]),
        (selector("app=two"), Kind::Unavailable, &["several containers", "\"main\", \"side\""]),
        (PodSpec { container: text("third"), ..name("two") }, Kind::Unavailable, &["no container \"third\""]),
        (
            PodSpec { container: text("main"), ..selector(all) },
            Kind::Invalid,
            &["several pods", "\"tool\"; \"two\"", "name = \"POD\""],
        ),
        (
            PodSpec { service_account: text("robot"), ..name("tool") },
            Kind::Unavailable,
            &["service account \"default\""],
        ),
        (PodSpec { image: text("tool:2"), ..name("tool") }, Kind::Unavailable, &["image \"tool:1\""]),
    ] {
        let error = tried(spec, Several::Refuse).await.unwrap_err();
        check_error(&error, kind, says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_run_commands_is_told_what_is_missing() {
    let cluster = cluster();
    let namespace = tool(cluster);
    let user = tokio::task::block_in_place(|| cluster.token_user(&namespace, "runner")).unwrap();
    let try_it = async || {
        let place = place_as(
            cluster,
            &user,
            cluster.port(),
            spec(&namespace, Choice::Name("tool".to_owned())),
            Several::Refuse,
        );
        run(line("/bin/true", &[]), place).await
    };
    check_error(&try_it().await.unwrap_err(), Kind::Denied, &["may not get pods \"tool\""]);
    tokio::task::block_in_place(|| cluster.allow(&user, Some(&namespace), &[("", "pods", "get,list")])).unwrap();
    let may_look = || {
        let args = ["auth", "can-i", "get", "pods", "-n", &namespace];
        cluster.kubectl_as(&user, args).map(Some)
    };
    tokio::task::block_in_place(|| wait_until("the new role", LONG, may_look)).unwrap();
    check_error(&try_it().await.unwrap_err(), Kind::Denied, &["403", "get and create on pods/exec"]);
    tokio::task::block_in_place(|| cluster.allow(&user, Some(&namespace), &[("", "pods/exec", "get,create")])).unwrap();
    let may_run = || {
        let args = ["auth", "can-i", "create", "pods", "--subresource=exec", "-n", &namespace];
        cluster.kubectl_as(&user, args).map(Some)
    };
    tokio::task::block_in_place(|| wait_until("the new role", LONG, may_run)).unwrap();
    assert!(try_it().await.unwrap().exit.is_success());
}
