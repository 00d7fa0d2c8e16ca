use super::*;
use crate::stream::ByteSource;
use crate::stream::source::InMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longer than anything here takes; a test that reaches it has failed.
const LONG: Duration = Duration::from_secs(60);
/// For processes that never make progress.
const SHORT: Duration = Duration::from_millis(300);

fn line(program: &str, args: &[&str]) -> CommandLine {
    CommandLine::plain("tool", program, args)
}

fn sh(script: &str) -> CommandLine {
    line("/bin/sh", &["-c", script])
}

fn reads_plugin(line: CommandLine) -> CommandLine {
    CommandLine { stdin: StdinGrant::Plugin, ..line }
}

fn here() -> Place {
    Place { run_in: RunIn::Local { user: None }, env: BTreeMap::new(), secrets: Secrets::default(), pod: None }
}

async fn start(line: CommandLine, stdin: Option<Source>, stall: Duration) -> Result<Process> {
    spawn(line, Arc::new(here()), None, stdin, stall, CancellationToken::new()).await
}

async fn run(line: CommandLine, place: Place) -> Result<Output> {
    spawn(line, Arc::new(place), None, None, LONG, CancellationToken::new()).await?.run_to_end(1 << 20).await
}

fn source(body: impl ByteSource + 'static) -> Option<Source> {
    Some(Source::new(Origin::Plugin, body))
}

async fn read_all(mut source: Source) -> (Vec<u8>, Result<()>) {
    let read = move || {
        let mut all = Vec::new();
        loop {
            match source.body.next_chunk() {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                Ok(None) => return (all, Ok(())),
                Err(error) => return (all, Err(error)),
            }
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn read_line(source: &mut Source) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while tokio::task::block_in_place(|| source.body.read(&mut byte)).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Waits for the end of a process that is not our child (or still is), and fails if it does not come.
#[track_caller]
fn check_ends(pid: &str) {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let most = Timespec { tv_sec: 30, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&most)).unwrap();
    assert_eq!(ended, 1, "{pid:?} still runs");
}

#[track_caller]
fn check_error(error: &Error, kind: Kind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let shown = format!("{error:?} {:?}", error.hint_text());
    for part in parts {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_through_a_program_unchanged() {
    let bytes: Vec<u8> = (0..30_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let given = source(InMemory::new(bytes.clone()));
    let mut process = start(reads_plugin(line("/bin/cat", &[])), given, LONG).await.unwrap();
    let output = process.stdout().unwrap();
    assert_eq!(output.origin, Origin::Exec { command: "tool".to_owned(), proof: None });
    assert!(!output.inspect && output.leash.is_held());
    let (read, end) = read_all(output).await;
    end.unwrap();
    assert!(read == bytes);
    assert!(process.wait().await.unwrap().is_success());
    assert!(process.stdout().unwrap_err().message().contains("taken already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_built_from_nothing() {
    let mut place = here();
    place.env = BTreeMap::from([("PGHOST".to_owned(), "db".to_owned()), ("BOTH".to_owned(), "job".to_owned())]);
    let secret = |text: &str| Secret::new(text.to_owned());
    place.secrets = Secrets::from(BTreeMap::from([
        ("PGPASSWORD".to_owned(), secret("correct horse")),
        ("OTHER".to_owned(), secret("battery staple")),
    ]));
    let command = CommandLine {
        env: vec![("PGDATABASE".to_owned(), "shop".to_owned()), ("BOTH".to_owned(), "grant".to_owned())],
        secrets: vec!["PGPASSWORD".to_owned(), "NOT_GIVEN".to_owned()],
        ..line("/usr/bin/env", &[])
    };
    let mut process = spawn(command, Arc::new(place), None, None, LONG, CancellationToken::new()).await.unwrap();
    let (out, end) = read_all(process.stdout().unwrap()).await;
    end.unwrap();
    let out = String::from_utf8(out).unwrap();
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    let expected = [
        "BOTH=job",
        "HOME=/nonexistent",
        "LANG=C.UTF-8",
        "PATH=/usr/bin:/bin",
        "PGDATABASE=shop",
        "PGHOST=db",
        "PGPASSWORD=correct horse",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn collected_output_holds_no_secret_in_any_of_its_forms() {
    // base64 of "correct horse/battery", by itself and of "x" before it.
    let script = r#"echo "plain $WORD."; echo url correct%20horse%2Fbattery; echo Y29ycmVjdCBob3JzZS9iYXR0ZXJ5; \
        echo eGNvcnJlY3QgaG9yc2UvYmF0dGVyeQ==; printf 'cut correct hor'; sleep 0.1; echo 'se/battery'; \
        echo "other $OTHER"; head -c 200000 /dev/zero | tr '\0' a; printf 'correct horse/battery'"#;
    let secret = |text: &str| Secret::new(text.to_owned());
    let secrets = [("WORD", "correct horse/battery"), ("OTHER", "staple:9 of ten")];
    let secrets = secrets.map(|(name, text)| (name.to_owned(), secret(text)));
    let place = Place { secrets: BTreeMap::from(secrets).into(), ..here() };
    let command = CommandLine { secrets: vec!["WORD".to_owned(), "OTHER".to_owned()], ..sh(script) };
    let out = String::from_utf8(run(command, place).await.unwrap().stdout).unwrap();
    let long = "a".repeat(200_000);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["plain ***.", "url ***", "***"]);
    // What stands beside the secret in base64 is left, with the characters that both share.
    assert!(lines[3].starts_with("eG") && lines[3].contains("***") && !lines[3].contains("JlY3Qg"), "{}", lines[3]);
    assert_eq!(lines[4..], ["cut ***", "other ***", &format!("{long}***")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_confined() {
    let script =
        "grep NoNewPrivs /proc/self/status; ulimit -c; ulimit -Hc; ulimit -n; umask; pwd; ls /proc/self/fd | wc -l";
    let out = String::from_utf8(run(sh(script), here()).await.unwrap().stdout).unwrap();
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    let files: u64 = lines[3].parse().unwrap();
    assert_eq!([&lines[..3], &lines[4..6]].concat(), ["NoNewPrivs:\t1", "0", "0", "0077", "/"]);
    assert!(files <= 4096);
    // Standard input, output and error, and the directory that ls reads.
    assert_eq!(lines[6], "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_uses_the_scratch_directory_runs_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let command = CommandLine { uses_scratch: true, ..sh("pwd; echo $HOME; echo $TMPDIR") };
    let cancel = CancellationToken::new();
    let process = spawn(command, Arc::new(here()), Some(path.clone()), None, LONG, cancel).await.unwrap();
    let out = String::from_utf8(process.run_to_end(4096).await.unwrap().stdout).unwrap();
    assert_eq!(out, format!("{0}\n{0}\n{0}\n", path.display()));
    let command = CommandLine { uses_scratch: true, ..sh("pwd") };
    check_error(&start(command, None, LONG).await.unwrap_err(), Kind::Invalid, &["no scratch directory"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_has_its_own_rights_only() {
    let place = |user: &str| Place { run_in: RunIn::Local { user: Some(user.to_owned()) }, ..here() };
    let error = run(sh("id -u"), place("no-such-user")).await.unwrap_err();
    check_error(&error, Kind::NotFound, &["no user \"no-such-user\"", "run_in"]);
    let result = run(sh("id -u; id -G"), place("nobody")).await;
    if rustix::process::geteuid().is_root() {
        assert_eq!(String::from_utf8(result.unwrap().stdout).unwrap(), "65534\n65534\n");
    } else {
        check_error(&result.unwrap_err(), Kind::Denied, &["only root", "running as"]);
    }
}

#[test]
fn users_are_found_by_their_whole_name() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/:/bin/sh\nbroken\nodd:x:a:b:::\n";
    assert_eq!(local::find_user(passwd, "postgres"), Some((101, 104)));
    for name in ["post", "postgres2", "", "x", "broken", "odd"] {
        assert_eq!(local::find_user(passwd, name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let script = script.to_str().unwrap().to_owned();
    check_error(&start(line(&script, &[]), None, LONG).await.unwrap_err(), Kind::Denied, &["not executable", &script]);
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (program, kind, reason) in [
        ("/no/such/program", Kind::NotFound, "there is no such file"),
        ("/etc", Kind::Denied, "it is not a file"),
        ("/etc/passwd", Kind::Denied, "it is not executable"),
        ("cat", Kind::Invalid, "not an absolute path"),
        (&script, Kind::NotFound, "interpreter"),
    ] {
        let error = start(line(program, &[]), None, LONG).await.unwrap_err();
        check_error(&error, kind, &["could not start \"tool\"", program, reason]);
    }
    let nul = CommandLine { env: vec![("A".to_owned(), "b\0c".to_owned())], ..sh("true") };
    check_error(&start(nul, None, LONG).await.unwrap_err(), Kind::Invalid, &["NUL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_comes_along_exactly_when_the_grant_reads_one() {
    let error = start(reads_plugin(line("/bin/cat", &[])), None, LONG).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["no source"]);
    let error = start(line("/bin/cat", &[]), source(InMemory::new("x")), LONG).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["a source"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_program_that_fails_never_ends_well() {
    let script = "head -c 10000000 /dev/zero; echo one >&2; echo the last words >&2; exit 3";
    let mut process = start(sh(script), None, LONG).await.unwrap();
    let (read, end) = read_all(process.stdout().unwrap()).await;
    assert_eq!(read.len(), 10_000_000);
    check_error(&end.unwrap_err(), Kind::Failed, &["\"tool\" failed", "/bin/sh", "exit code: 3", "the last words"]);
    let exit = process.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.stderr.as_str()), (Some(3), None, "one\nthe last words\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_program_that_is_killed_never_ends_well() {
    let mut process = start(sh("echo half; kill -9 $$"), None, LONG).await.unwrap();
    let (read, end) = read_all(process.stdout().unwrap()).await;
    assert_eq!(read, b"half\n");
    check_error(&end.unwrap_err(), Kind::Failed, &["was killed", "SIGKILL", "out-of-memory"]);
    let exit = process.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_failed_fails_again() {
    let mut process = start(sh("exit 1"), None, LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    let mut buf = [0; 16];
    tokio::task::block_in_place(|| {
        assert!(output.body.read(&mut buf).is_err());
        assert!(output.body.read(&mut buf).is_err());
    });
    let mut process = start(sh("exit 0"), None, LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    tokio::task::block_in_place(|| {
        assert_eq!(output.body.read(&mut buf).unwrap(), 0);
        assert_eq!(output.body.read(&mut buf).unwrap(), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_closes_its_output_has_not_succeeded_yet() {
    let mut process = start(sh("echo whole; exec >&-; sleep 0.2; exit 4"), None, LONG).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    check_error(&end.unwrap_err(), Kind::Failed, &["exit code: 4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_holds_the_output_open_keeps_it_from_ending_well() {
    let mut process = start(sh("sleep 1000 & echo $!; exit 0"), None, SHORT).await.unwrap();
    let mut output = process.stdout().unwrap();
    let child = read_line(&mut output).await;
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), Kind::TimedOut, &["no progress"]);
    drop(process);
    check_ends(&child);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handles_ends_the_whole_group() {
    let mut process = start(sh("sh -c 'sleep 1000 & echo $!; wait' & echo $$; wait"), None, LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pids = [read_line(&mut output).await, read_line(&mut output).await];
    drop(process);
    // The output alone keeps it alive.
    let (send, receive) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        receive.recv().unwrap();
        drop(output);
    });
    let leader = Pid::from_raw(pids[1].parse().unwrap()).unwrap();
    assert!(rustix::process::test_kill_process(leader).is_ok());
    send.send(()).unwrap();
    for pid in pids {
        check_ends(&pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ignores_sigterm_is_killed_before_the_host_has_settled() {
    let mut process = start(sh("trap '' TERM; echo $$; while :; do sleep 1; done"), None, LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pid = read_line(&mut output).await;
    drop((process, output));
    check_ends(&pid);
    // Other tests run at the same time and have their own: it returns, and no later than that.
    settled(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_ends_is_ended() {
    let mut process = start(sh("echo $$; exec sleep 1000"), None, SHORT).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pid = read_line(&mut output).await;
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), Kind::TimedOut, &["no progress", "waited", "timeout"]);
    check_ends(&pid);
    assert_eq!(process.wait().await.unwrap().signal, Some(15));

    let mut process = start(sh("exec sleep 1000"), None, SHORT).await.unwrap();
    check_error(&process.wait().await.unwrap_err(), Kind::TimedOut, &["no progress"]);
    let granted = CommandLine { timeout: Some(SHORT), ..sh("exec sleep 1000") };
    let error = start(granted, None, LONG).await.unwrap().run_to_end(10).await.unwrap_err();
    check_error(&error, Kind::TimedOut, &["no progress"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_writes_to_standard_error_for_ever_is_bounded_and_ended() {
    let mut process = start(sh("echo $$; exec yes xyzzy >&2"), None, SHORT).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pid = read_line(&mut output).await;
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), Kind::TimedOut, &["no progress"]);
    check_ends(&pid);
    let exit = process.wait().await.unwrap();
    assert!(exit.stderr.len() <= STDERR_BYTES && exit.stderr.len() > STDERR_BYTES / 2);
    assert!(exit.stderr.contains("xyzzy\nxyzzy\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_reading_and_waiting() {
    let cancel = CancellationToken::new();
    let command = || sh("echo $$; exec sleep 1000");
    let mut process = spawn(command(), Arc::new(here()), None, None, LONG, cancel.clone()).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pid = read_line(&mut output).await;
    let mut other = spawn(command(), Arc::new(here()), None, None, LONG, cancel.clone()).await.unwrap();
    let reading = tokio::spawn(read_all(output));
    let waiting = tokio::spawn(async move { other.wait().await });
    cancel.cancel();
    check_error(&reading.await.unwrap().1.unwrap_err(), Kind::Cancelled, &["cancelled"]);
    check_error(&waiting.await.unwrap().unwrap_err(), Kind::Cancelled, &["cancelled"]);
    check_ends(&pid);
    let error = spawn(command(), Arc::new(here()), None, None, LONG, cancel).await;
    drop(error);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_blotted_out_of_standard_error_and_errors() {
    let mut place = here();
    place.secrets = BTreeMap::from([("PGPASSWORD".to_owned(), Secret::new("hunter2/hunter2".to_owned()))]).into();
    let script = r#"printf '%s is wrong, hunter2%%2Fhunter2 too\n' "$PGPASSWORD" >&2; printf hunter >&2; printf 2/hunter2 >&2; exit 1"#;
    let command = CommandLine { secrets: vec!["PGPASSWORD".to_owned()], ..sh(script) };
    let cancel = CancellationToken::new();
    let mut process = spawn(command, Arc::new(place), None, None, LONG, cancel).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    let error = format!("{:?}", end.unwrap_err());
    assert!(!error.contains("hunter2") && error.contains("is wrong"), "{error}");
    assert_eq!(process.wait().await.unwrap().stderr, "*** is wrong, *** too\n***");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_can_be_a_file_in_memory_that_nobody_can_change() {
    let mut place = here();
    let secret = |text: &str| Secret::new(text.to_owned());
    place.secrets = BTreeMap::from([("PGPASS".to_owned(), secret("db:5432:shop:app:correct horse"))]).into();
    let script = r#"echo "$PGPASSFILE"; stat -Lc '%a %s' "$PGPASSFILE"; cat "$PGPASSFILE"; echo; cat "$PGPASSFILE"; echo
        { echo changed > "$PGPASSFILE" || echo more >> "$PGPASSFILE"; } 2>/dev/null || echo sealed
        env | grep -c horse; ls "${PGPASSFILE%/*}" | wc -l"#;
    let secret_files = [("PGPASSFILE", "PGPASS"), ("OTHER", "NOT_GIVEN")];
    let secret_files = secret_files.map(|(variable, name)| (variable.to_owned(), name.to_owned())).into();
    let command = CommandLine { secret_files, ..sh(script) };
    let place = Arc::new(place);
    let mut process = spawn(command, place.clone(), None, None, LONG, CancellationToken::new()).await.unwrap();
    let (out, end) = read_all(process.stdout().unwrap()).await;
    end.unwrap();
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("/proc/self/fd/"), "{out}");
    let pgpass = "db:5432:shop:app:correct horse";
    // Standard streams, this file, and the directory that `ls` reads.
    assert_eq!(lines[1..], ["400 30", pgpass, pgpass, "sealed", "0", "5"], "{out}");
    // The redactor knows it, also the password alone.
    assert_eq!(place.secrets.redactor().text("password correct horse"), "password ***");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_blotted_out_is_refused() {
    let mut place = here();
    place.secrets = BTreeMap::from([("PGPASSWORD".to_owned(), Secret::new("secret".to_owned()))]).into();
    let command = CommandLine { secrets: vec!["PGPASSWORD".to_owned()], ..sh("true") };
    check_error(&run(command, place).await.unwrap_err(), Kind::Invalid, &["PGPASSWORD", "too short"]);
}

/// Gives some bytes, then what the test wants.
struct Then<F>(Option<Vec<u8>>, F);

impl<F: FnMut() -> Result<usize> + Send> ByteSource for Then<F> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.0.take() {
            Some(bytes) => {
                buf[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            None => (self.1)(),
        }
    }
}

/// A program that acts when its input ends, or when it is asked to end, does neither when its input fails.
async fn check_never_acts(mut fail: impl FnMut() -> Result<usize> + Send + 'static, kind: Kind, parts: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let acted = scratch.path().join("acted");
    let script = format!("act() {{ : >'{}'; exit 0; }}; trap act TERM; cat; act", acted.display());
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let body = Then(Some(b"BEGIN;\n".to_vec()), move || {
        receive.recv().unwrap();
        fail()
    });
    let mut process = start(reads_plugin(sh(&script)), source(body), LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    assert_eq!(read_line(&mut output).await, "BEGIN;");
    send.send(()).unwrap();
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), kind, parts);
    check_error(&process.wait().await.unwrap_err(), kind, parts);
    assert!(!acted.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_never_an_end_of_input() {
    let fails = || Err(Error::damaged("frame 7 is not as recorded"));
    check_never_acts(fails, Kind::Damaged, &["standard input of \"tool\" failed", "frame 7", "killed before"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_panics_is_never_an_end_of_input() {
    check_never_acts(|| panic!("a bug in a source"), Kind::Failed, &["panicked"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_after_the_program_exited_fails_the_command() {
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let late = Then(Some(b"all of it".to_vec()), move || {
        receive.recv().unwrap();
        Err(Error::damaged("the last frame is not as recorded"))
    });
    let mut process = start(reads_plugin(line("/usr/bin/head", &["-c", "9"])), source(late), LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    let mut buf = [0; 9];
    assert_eq!(tokio::task::block_in_place(|| output.body.read(&mut buf)).unwrap(), 9);
    send.send(()).unwrap();
    let (_, end) = read_all(output).await;
    check_error(&end.unwrap_err(), Kind::Damaged, &["standard input"]);
    check_error(&process.wait().await.unwrap_err(), Kind::Damaged, &["standard input"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_early_succeeds_only_where_that_is_granted() {
    for bytes in [100, 10_000_000] {
        for partial_stdin in [false, true] {
            let command = CommandLine { partial_stdin, ..reads_plugin(line("/usr/bin/head", &["-c", "10"])) };
            let mut process = start(command, source(InMemory::new(vec![b'x'; bytes])), LONG).await.unwrap();
            let (read, end) = read_all(process.stdout().unwrap()).await;
            assert_eq!(read, b"xxxxxxxxxx");
            if partial_stdin {
                end.unwrap();
                assert!(process.wait().await.unwrap().is_success());
            } else {
                check_error(&end.unwrap_err(), Kind::Failed, &["stopped reading", "partial_stdin = true"]);
                check_error(&process.wait().await.unwrap_err(), Kind::Failed, &["stopped reading"]);
            }
        }
    }
    let command = CommandLine { partial_stdin: true, ..reads_plugin(sh("head -c 10 >/dev/null; exit 5")) };
    let mut process = start(command, source(InMemory::new(vec![b'x'; 10_000_000])), LONG).await.unwrap();
    assert_eq!(process.wait().await.unwrap().code, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_text_is_all_that_a_program_reads() {
    let text = |hold| StdinGrant::Text { text: "one\ntwo\n".to_owned(), hold };
    let output = run(CommandLine { stdin: text(false), ..line("/bin/cat", &[]) }, here()).await.unwrap();
    assert_eq!(output.stdout, b"one\ntwo\n");
    let none = run(line("/bin/cat", &[]), here()).await.unwrap();
    assert_eq!(none.stdout, b"");

    let mut process = start(CommandLine { stdin: text(true), ..sh("echo $$; exec cat") }, None, LONG).await.unwrap();
    let mut output = process.stdout().unwrap();
    let pid = read_line(&mut output).await;
    assert_eq!([read_line(&mut output).await, read_line(&mut output).await], ["one", "two"]);
    check_error(&process.wait().await.unwrap_err(), Kind::Invalid, &["never end", "held open"]);
    drop((process, output));
    check_ends(&pid);

    let held = start(CommandLine { stdin: text(true), ..line("/bin/cat", &[]) }, None, LONG).await.unwrap();
    check_error(&held.run_to_end(10).await.unwrap_err(), Kind::Invalid, &["never end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_program_that_ends_by_itself_says_how() {
    let stdin = StdinGrant::Text { text: "x\n".to_owned(), hold: true };
    let command = CommandLine { stdin, ..sh("read line; echo no such database >&2; exit 2") };
    let mut process = start(command, None, LONG).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    check_error(&end.unwrap_err(), Kind::Failed, &["exit code: 2", "no such database"]);
    assert_eq!(process.wait().await.unwrap().code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_takes_is_thrown_away() {
    let mut process = start(sh("head -c 5000000 /dev/zero; exit 7"), None, LONG).await.unwrap();
    assert_eq!(process.wait().await.unwrap().code, Some(7));
    assert_eq!(process.wait().await.unwrap().code, Some(7));
    assert!(process.stdout().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_run_is_limited() {
    let process = start(line("/usr/bin/head", &["-c", "100", "/dev/zero"]), None, LONG).await.unwrap();
    let output = process.run_to_end(100).await.unwrap();
    assert_eq!((output.stdout.len(), output.exit.code), (100, Some(0)));
    let process = start(line("/usr/bin/yes", &[]), None, LONG).await.unwrap();
    check_error(&process.run_to_end(100).await.unwrap_err(), Kind::Limit, &["larger", "100 B"]);
    let process = start(sh("echo partial; exit 9"), None, LONG).await.unwrap();
    let output = process.run_to_end(100).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.exit.code), (b"partial\n".as_slice(), Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_waits_for_what_the_guest_holds() {
    let pipe = Leash::held();
    let given = Source { waits_for: vec![pipe.clone()], ..source(InMemory::new("x")).unwrap() };
    let mut process = start(reads_plugin(line("/bin/cat", &[])), Some(given), LONG).await.unwrap();
    assert_eq!(process.waits_for().iter().filter(|leash| leash.is_held()).count(), 1);
    let output = process.stdout().unwrap();
    assert_eq!(output.waits_for.len(), 1);
    assert_eq!(process.waits_for().iter().filter(|leash| leash.is_held()).count(), 2);
    drop(output);
    pipe.release();
    assert!(process.waits_for().iter().all(|leash| !leash.is_held()));
}

#[tokio::test(flavor = "multi_thread")]
async fn letting_go_of_the_output_tells_the_program_to_stop() {
    let mut process = start(line("/usr/bin/yes", &[]), None, LONG).await.unwrap();
    drop(process.stdout().unwrap());
    let exit = process.wait().await.unwrap();
    assert!(!exit.is_success(), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_program_runs_and_another_one_at_its_path_does_not() {
    let right = Program::open("/bin/echo").unwrap().sha256().to_owned();
    let echo = |sha256: &str| CommandLine { sha256: Some(sha256.to_owned()), ..line("/bin/echo", &["x"]) };
    assert_eq!(run(echo(&right), here()).await.unwrap().stdout, b"x\n");
    let wrong = "0".repeat(64);
    let error = run(echo(&wrong), here()).await.unwrap_err();
    check_error(&error, Kind::Denied, &["tool", "/bin/echo", "not the one that is pinned", &wrong, &right, "sha256"]);
    let missing = CommandLine { program: "/nonexistent".to_owned(), ..echo(&right) };
    check_error(&run(missing, here()).await.unwrap_err(), Kind::NotFound, &["tool", "/nonexistent"]);
    // Whoever has opened another file than the pinned one is refused as well.
    let cat = Program::open("/bin/cat").unwrap();
    let cancel = CancellationToken::new();
    let started = spawn_opened(echo(&right), Some(cat), Arc::new(here()), None, None, LONG, cancel).await;
    check_error(&started.unwrap_err(), Kind::Denied, &["not the one that is pinned"]);
    let inside = RunIn::Container { name: "db".to_owned(), client: vec!["/bin/true".to_owned()] };
    let error = run(echo(&right), Place { run_in: inside, ..here() }).await.unwrap_err();
    check_error(&error, Kind::Invalid, &["pins a program of this machine", "the container's", "take sha256 out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_wants_more_memory_than_it_may_have_fails_and_the_error_names_the_limit() {
    let dd = |memory_bytes| CommandLine {
        memory_bytes,
        ..line("/bin/dd", &["if=/dev/zero", "bs=200M", "count=1", "of=/dev/null"])
    };
    let output = run(dd(Some(64 << 20)), here()).await.unwrap();
    assert!(!output.exit.is_success() && output.exit.stderr.contains("memory"), "{output:?}");
    for memory_bytes in [None, Some(1 << 30)] {
        assert!(run(dd(memory_bytes), here()).await.unwrap().exit.is_success(), "{memory_bytes:?}");
    }
    let mut process = start(dd(Some(64 << 20)), None, LONG).await.unwrap();
    let (_, end) = read_all(process.stdout().unwrap()).await;
    let parts = ["\"tool\" failed", "memory exhausted", "command_memory", "64.0 MiB", "[plugin.….limits]"];
    check_error(&end.unwrap_err(), Kind::Failed, &parts);
    // What fails for another reason says nothing of it; what ends as programs without memory do, says it.
    let failing = |script: &str| CommandLine { memory_bytes: Some(64 << 20), ..sh(script) };
    for (script, named) in
        [("exit 3", false), ("kill -s ABRT $$", true), ("kill -s SEGV $$", true), ("kill -s KILL $$", false)]
    {
        let mut process = start(failing(script), None, LONG).await.unwrap();
        let (_, end) = read_all(process.stdout().unwrap()).await;
        let error = format!("{:?}", end.unwrap_err());
        assert_eq!(error.contains("command_memory"), named, "{script}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_a_program_only_reserves_are_not_counted() {
    // bash reads its own limits; a limit of addresses would be one of them.
    let command = CommandLine { memory_bytes: Some(64 << 20), ..line("/bin/bash", &["-c", "ulimit -v; ulimit -d"]) };
    let output = run(command, here()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "unlimited\n65536\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_swaps_a_pinned_program_without_end_never_has_his_own_run() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    let put = |name: &str, text: &str| {
        let new = path.with_extension(name);
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    let (good, evil) = ("#!/bin/sh\necho good\n", "#!/bin/sh\necho evil\n");
    put("first", good);
    let sha256 = Program::open(path.to_str().unwrap()).unwrap().sha256().to_owned();
    let command = CommandLine { sha256: Some(sha256), ..line(path.to_str().unwrap(), &[]) };
    let done = std::sync::atomic::AtomicBool::new(false);
    /// Ends the other thread also when this one fails.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (mut n_run, mut n_refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                put("evil", evil);
                put("good", good);
            }
        });
        let _done = Done(&done);
        tokio::task::block_in_place(|| {
            for _ in 0..300 {
                match tokio::runtime::Handle::current().block_on(run(command.clone(), here())) {
                    Ok(output) => {
                        assert_eq!(output.stdout, b"good\n");
                        n_run += 1;
                    }
                    Err(error) => {
                        // A child of another test may still hold the file open for writing.
                        if !format!("{error:?}").contains("busy") {
                            check_error(&error, Kind::Denied, &["not the one that is pinned"]);
                            n_refused += 1;
                        }
                    }
                }
            }
        });
    });
    assert!(n_run > 0 && n_refused > 0, "{n_run} ran, {n_refused} were refused");
}
