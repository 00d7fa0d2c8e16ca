//! Commands in a real container: bytes, environment, exit codes, and ends.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use strongroom::error::{Error, Kind, Result};
use strongroom::exec::{Place, RunIn};
use strongroom::policy::exec::{CommandLine, StdinGrant};
use strongroom::secret::Secret;
use strongroom::stream::source::InMemory;
use strongroom::stream::{ByteSource, Origin, Source};
use strongroom_tests::container::Container;
use strongroom_tests::tool::{check_error, line, read_all, read_line, run, sh, start};

const SECRET: &str = "correct-horse-battery";

/// A mark of this run, so that nothing is looked at that another one left.
fn own(mark: &str) -> String {
    format!("{mark}-{}", std::process::id())
}

fn inside(container: &Container, mark: &str) -> Place {
    Place {
        run_in: RunIn::Container { name: container.name().to_owned(), client: container.client().to_vec() },
        env: BTreeMap::from([("TEST_MARK".to_owned(), own(mark))]),
        secrets: BTreeMap::from([("PGPASSWORD".to_owned(), Secret::new(SECRET.to_owned()))]).into(),
        pod: None,
    }
}

/// Processes in another PID namespace than ours whose environment holds this mark of ours.
fn processes_inside(mark: &str) -> Vec<OwnedFd> {
    let mark = format!("TEST_MARK={}", own(mark));
    let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let wanted = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        environment.windows(mark.len()).any(|window| window == mark.as_bytes()) && namespace.is_ok_and(|ns| ns != ours)
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(wanted);
    pids.filter_map(|pid| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()).collect()
}

#[track_caller]
fn check_end(processes: &[OwnedFd]) {
    let most = Timespec { tv_sec: 60, tv_nsec: 0 };
    for process in processes {
        let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&most)).unwrap();
        assert_eq!(ended, 1, "a process still runs in the container");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_container_passes_bytes_environment_and_exit_codes() {
    let container = Container::start().unwrap();

    let bytes: Vec<u8> = (0..30_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let given = Source::new(Origin::Plugin, InMemory::new(bytes.clone()));
    let cat = CommandLine { stdin: StdinGrant::Plugin, ..line("/bin/cat", &[]) };
    let mut process = start(cat, inside(&container, "bytes"), Some(given)).await.unwrap();
    let (read, end) = read_all(process.stdout().unwrap()).await;
    end.unwrap();
    assert!(read == bytes, "{} bytes came back", read.len());
    assert!(process.wait().await.unwrap().is_success());
    drop(process);

    let mut place = inside(&container, "environment");
    place.env.insert("PATH".to_owned(), "/opt/only/here:/bin".to_owned());
    let command = CommandLine {
        env: vec![("PGDATABASE".to_owned(), "shop".to_owned())],
        secrets: vec!["PGPASSWORD".to_owned()],
        ..line("/bin/env", &[])
    };
    let own_mark = format!("TEST_MARK={}", own("environment"));
    let output = String::from_utf8(run(command, place).await.unwrap().stdout).unwrap();
    // The secret is there; in what the guest is given it is blotted out.
    for expected in ["PGDATABASE=shop", own_mark.as_str(), "PGPASSWORD=***", "PATH=/opt/only/here:/bin"] {
        assert!(output.lines().any(|line| line == expected), "{expected} is not in {output}");
    }
    let without = String::from_utf8(run(line("/bin/env", &[]), inside(&container, "x")).await.unwrap().stdout).unwrap();
    assert!(!without.contains("PGPASSWORD"), "a secret that the command was not granted");

    // The client's own codes are told from the program's, whatever the program answers.
    for code in [0, 1, 3, 125, 126, 127, 255] {
        let output =
            run(sh(&format!("echo out; echo err >&2; exit {code}")), inside(&container, "codes")).await.unwrap();
        assert_eq!((output.exit.code, output.exit.stderr.as_str()), (Some(code), "err\n"));
        assert_eq!(output.stdout, b"out\n");
    }
    let killed = run(sh("kill -9 $$"), inside(&container, "killed")).await.unwrap();
    assert_eq!(killed.exit.code, Some(137));
    let strange =
        run(line("/bin/echo", &["$(id)", "`id`", "a b", "'", "\"", "-n"]), inside(&container, "args")).await.unwrap();
    assert_eq!(strange.stdout, b"$(id) `id` a b ' \" -n\n");

    let hold = StdinGrant::Text { text: "one\n".to_owned(), hold: true };
    let mut held =
        start(CommandLine { stdin: hold, ..line("/bin/cat", &[]) }, inside(&container, "held"), None).await.unwrap();
    let mut output = held.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "one");
    // The program, and the wrapper that waits for its end.
    let processes = processes_inside("held");
    assert_eq!(processes.len(), 2);
    drop((held, output));
    check_end(&processes);

    let script = "echo \"$PGPASSWORD is wrong\" >&2; exit 1";
    let command = CommandLine { secrets: vec!["PGPASSWORD".to_owned()], ..sh(script) };
    let mut process = start(command, inside(&container, "stderr"), None).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    check_error(&end.unwrap_err(), Kind::Failed, &["exit code: 1", "*** is wrong"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_nobodys_arguments() {
    let container = Container::start().unwrap();
    let command = CommandLine { secrets: vec!["PGPASSWORD".to_owned()], ..sh("echo ready; exec sleep 1000") };
    let mut process = start(command, inside(&container, "secrets"), None).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "ready");
    let mut clients = 0;
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(arguments) = std::fs::read(entry.unwrap().path().join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!arguments.contains(SECRET), "{arguments}");
        clients += usize::from(arguments.contains(container.name()) && arguments.contains("-e\0PGPASSWORD\0"));
    }
    assert_eq!(clients, 1, "the client was looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handles_ends_the_program_inside_with_its_children() {
    let container = Container::start().unwrap();
    let script = "trap '' TERM; sleep 1000 & (sleep 1000 & wait) & echo ready; while :; do sleep 1; done";
    let mut process = start(sh(script), inside(&container, "dropped"), None).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "ready");
    let processes = processes_inside("dropped");
    assert!(processes.len() >= 4, "{} processes", processes.len());
    drop((process, output));
    check_end(&processes);
    // The container itself goes on.
    assert!(run(line("/bin/true", &[]), inside(&container, "after")).await.unwrap().exit.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_outlives_its_parent_in_the_container_is_ended() {
    let container = Container::start().unwrap();
    // It ends long after nobody reads its output any more, which is not its end.
    let script = "sleep 1000 & echo ready; sleep 1; exit 0";
    let mut process = start(sh(script), inside(&container, "orphan"), None).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "ready");
    drop(output);
    let exit = process.wait().await.unwrap();
    assert_eq!(exit.code, Some(0));
    let processes = processes_inside("orphan");
    assert_eq!(processes.len(), 1, "the child goes on without its parent");
    drop(process);
    check_end(&processes);
}

/// Gives one line, and fails when it is told to.
struct FailsWhenTold(Option<&'static [u8]>, std::sync::mpsc::Receiver<()>);

impl ByteSource for FailsWhenTold {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if let Some(bytes) = self.0.take() {
            buf[..bytes.len()].copy_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.1.recv().unwrap();
        Err(Error::damaged("frame 7 is not as recorded"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_never_an_end_of_input_in_a_container() {
    // With grep in the image: the other way to find what must end.
    let container = Container::start_with(|root| Ok(symlink("busybox", root.join("bin/grep"))?)).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let given = Source::new(Origin::Plugin, FailsWhenTold(Some(b"BEGIN;\n"), receive));
    let script = "act() { touch /tmp/acted; exit 0; }; trap act TERM; cat; act";
    let command = CommandLine { stdin: StdinGrant::Plugin, ..sh(script) };
    let mut process = start(command, inside(&container, "fails"), Some(given)).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "BEGIN;");
    send.send(()).unwrap();
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), Kind::Damaged, &["standard input of \"tool\" failed", "frame 7"]);
    let acted = run(sh("ls /tmp"), inside(&container, "look")).await.unwrap();
    assert_eq!(acted.stdout, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_whole_although_the_input_was_not_read() {
    // Podman 4.3 loses all of the output now and then, with exit code 0, when an input ends unread.
    let container = Container::start().unwrap();
    let expected: String = (1..=500).map(|n| format!("{n}\n")).collect();
    for _ in 0..40 {
        let given = Source::new(Origin::Plugin, InMemory::new(vec![0; 3_000_000]));
        let seq = line("/bin/seq", &["1", "500"]);
        let command = CommandLine { stdin: StdinGrant::Plugin, partial_stdin: true, ..seq };
        let mut process = start(command, inside(&container, "unread"), Some(given)).await.unwrap();
        let (read, end) = read_all(process.stdout().unwrap()).await;
        end.unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), expected);
    }
    // Few bytes, which lie in the client's buffers when the program has ended.
    let given = Source::new(Origin::Plugin, InMemory::new(b"never read".to_vec()));
    let command = CommandLine { stdin: StdinGrant::Plugin, ..line("/bin/true", &[]) };
    let mut process = start(command, inside(&container, "few"), Some(given)).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    check_error(&end.unwrap_err(), Kind::Failed, &["stopped reading before the end of its input"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_a_client_cut_is_never_whole() {
    let container = Container::start().unwrap();
    // A client that passes on some bytes of the output only, and the exit code as it was.
    let dir = tempfile::tempdir().unwrap();
    let cutting = dir.path().join("cutting");
    let client = container.client().join(" ");
    let script = format!(
        "#!/bin/bash\nset -o pipefail\ncase \"$*\" in\n*/bin/seq*) {client} \"$@\" | (head -c \"$(cat {}/count)\"; cat >/dev/null) ;;\n*) exec {client} \"$@\" ;;\nesac\n",
        dir.path().display()
    );
    std::fs::write(&cutting, script).unwrap();
    std::fs::set_permissions(&cutting, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let place = || Place {
        run_in: RunIn::Container {
            name: container.name().to_owned(),
            client: vec![cutting.to_str().unwrap().to_owned()],
        },
        ..inside(&container, "cut")
    };
    // `seq 1 500` writes 1,892 bytes; the marker behind them is 49.
    for count in [0, 1, 100, 1891, 1892, 1893, 1940] {
        std::fs::write(dir.path().join("count"), count.to_string()).unwrap();
        let mut process = start(line("/bin/seq", &["1", "500"]), place(), None).await.unwrap();
        let (_, end) = read_all(process.stdout().unwrap()).await;
        check_error(&end.unwrap_err(), Kind::Failed, &["the output of \"tool\" was cut"]);
        let error = run(line("/bin/seq", &["1", "500"]), place()).await.unwrap_err();
        check_error(&error, Kind::Failed, &["the output of \"tool\" was cut"]);
    }
    std::fs::write(dir.path().join("count"), "1941").unwrap();
    assert_eq!(run(line("/bin/seq", &["1", "500"]), place()).await.unwrap().stdout.len(), 1892);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_a_container_that_stops_early_succeeds_only_where_that_is_granted() {
    let container = Container::start().unwrap();
    for bytes in [100, 10_000_000] {
        for partial_stdin in [false, true] {
            // It takes no more than it needs, other than a `head` with a buffer.
            let ten = line("/bin/dd", &["bs=10", "count=1"]);
            let command = CommandLine { partial_stdin, stdin: StdinGrant::Plugin, ..ten };
            let given = Source::new(Origin::Plugin, InMemory::new(vec![b'x'; bytes]));
            let mut process = start(command, inside(&container, "early"), Some(given)).await.unwrap();
            let (read, end) = read_all(process.stdout().unwrap()).await;
            assert_eq!(read, b"xxxxxxxxxx");
            if partial_stdin {
                end.unwrap();
                assert!(process.wait().await.unwrap().is_success());
            } else {
                check_error(&end.unwrap_err(), Kind::Failed, &["stopped reading", "exit code: 0"]);
                check_error(&process.wait().await.unwrap_err(), Kind::Failed, &["stopped reading"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let container = Container::start().unwrap();
    let place = || inside(&container, "missing");
    let error = run(line("/bin/no-such-program", &[]), place()).await.unwrap_err();
    check_error(
        &error,
        Kind::NotFound,
        &["could not start \"tool\"", "/bin/no-such-program", "no such file in the container"],
    );
    for program in ["/etc", "/etc/passwd"] {
        check_error(&run(line(program, &[]), place()).await.unwrap_err(), Kind::Denied, &[program, "not executable"]);
    }
    check_error(&run(line("sh", &[]), place()).await.unwrap_err(), Kind::Invalid, &["absolute path"]);
    let scratch = CommandLine { uses_scratch: true, ..sh("true") };
    check_error(
        &run(scratch, place()).await.unwrap_err(),
        Kind::Invalid,
        &["scratch directory is not in the container"],
    );

    let named = |name: &str| {
        let client = container.client().to_vec();
        Place { run_in: RunIn::Container { name: name.to_owned(), client }, ..inside(&container, "named") }
    };
    check_error(&run(sh("true"), named("nobody")).await.unwrap_err(), Kind::NotFound, &["nobody", "no such container"]);
    for name in ["", "-it", "--privileged", "a b", "a/b"] {
        check_error(&run(sh("true"), named(name)).await.unwrap_err(), Kind::Invalid, &["not the name of a container"]);
    }
    let client = |client: &str| Place {
        run_in: RunIn::Container { name: container.name().to_owned(), client: vec![client.to_owned()] },
        ..inside(&container, "client")
    };
    check_error(&run(sh("true"), client("/no/such/podman")).await.unwrap_err(), Kind::NotFound, &["/no/such/podman"]);
    check_error(&run(sh("true"), client("bin/podman")).await.unwrap_err(), Kind::Invalid, &["absolute path"]);
    let unknown = run(sh("true"), client("no-such-client")).await.unwrap_err();
    check_error(&unknown, Kind::NotFound, &["no container client \"no-such-client\"", "/usr/bin"]);

    let secret = |name: &str| BTreeMap::from([(name.to_owned(), Secret::new(SECRET.to_owned()))]).into();
    let file = CommandLine { secret_files: [("X".to_owned(), "S".to_owned())].into(), ..sh("true") };
    let error = run(file, Place { secrets: secret("S"), ..place() }).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["as variables, not as files"]);
    let secret = Place { secrets: secret("PATH"), ..place() };
    let error = run(CommandLine { secrets: vec!["PATH".to_owned()], ..sh("true") }, secret).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["PATH", "variable of the client"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_shell_is_refused_before_anything_is_read() {
    let container = Container::start_with(|root| Ok(std::fs::remove_file(root.join("bin/sh"))?)).unwrap();
    let error = run(line("/bin/true", &[]), inside(&container, "shell")).await.unwrap_err();
    check_error(&error, Kind::Unavailable, &["client failed", "/bin/sh"]);
    let (_send, receive) = std::sync::mpsc::channel();
    let given = Source::new(Origin::Plugin, FailsWhenTold(None, receive));
    let command = CommandLine { stdin: StdinGrant::Plugin, ..line("/bin/cat", &[]) };
    let error = start(command, inside(&container, "shell"), Some(given)).await.unwrap_err();
    check_error(&error, Kind::Unavailable, &["could not be ended if its input failed", container.name()]);
}
