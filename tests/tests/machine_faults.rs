//! Faults of the machine under the real binary: a full disk, a disk that does not keep what it took, rights
//! that are lost half-way, too little memory, too few files. A backup is whole or it is not there.
//!
//! Real faults, made by the kernel: file systems in a mount namespace of their own, limits of the process,
//! and a system call filter for `fsync`, which nothing else can make fail on purpose.

use std::path::Path;
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::{Output, Sandbox, host_binary, plugin, program};

/// Segments of 4 MiB in four parts, so that little data is several of them.
const SMALL: &str = "part_bytes = \"1MiB\"\nparts_per_segment = 4";
/// Two segments that do not compress.
const PRODUCE: &str = "head -c 6000000 /dev/urandom";

fn setup() -> Setup {
    Setup { produce: sh(PRODUCE), store: SMALL.into(), ..Setup::default() }
}

fn relay() -> Relay {
    Relay::new(setup())
}

/// Runs a script in a mount namespace of its own; `strongroom` in it is the real binary.
fn run_mounted(sandbox: &Sandbox, script: &str) -> Output {
    use std::os::unix::fs::MetadataExt;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let rights: &[&str] = if is_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let binary = host_binary().unwrap_or_else(|error| panic!("{error:#}"));
    let script = format!("strongroom() {{ '{}' \"$@\"; }}\n{script}", binary.display());
    sandbox.command("unshare", rights.iter().chain(&["/bin/sh", "-c", &script])).run()
}

/// What is in the mounted store besides locks and the plugin, a name a line.
const FIND: &str = "find store -type f ! -name lock ! -name 'lease*' ! -path 'store/plugins/*'";

/// One error with this code that says each of these and what to do next.
#[track_caller]
fn check_error(output: &Output, code: i32, says: &[&str]) {
    output.check_error(code, says).check_stderr("hint:");
}

#[test]
fn a_disk_that_fills_up_at_any_point_keeps_a_whole_backup_or_none() {
    let relay = relay();
    // From too small for the plugin to large enough for everything; around the size of it all in small
    // steps, so that the disk is full at the last segment, at the record and at what lies between.
    let plugin = std::fs::metadata(plugin("guests/relay").unwrap()).unwrap().len();
    let all = i64::try_from((plugin + 6_000_000) / 1024).unwrap();
    let around = [-3000, -1500, -500, -100, -40, -16, 0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128];
    let sizes: Vec<i64> = [64, 1024].into_iter().chain(around.map(|kib| all + kib)).collect();
    let mut whole = 0;
    for kib in &sizes {
        let script = format!(
            "mount -t tmpfs -o size={kib}k none store\nstrongroom backup orders\ncode=$?\n{FIND}\n\
             strongroom verify orders >&2 && echo verified\nexit $code"
        );
        let output = run_mounted(&relay.sandbox, &script);
        if output.code == Some(0) {
            output.check_stdout("record.json").check_stdout("verified");
            whole += 1;
        } else {
            assert_eq!(output.code, Some(1), "{kib} KiB: {output:#?}");
            output.check_stderr("the disk is full");
            assert_eq!(output.stdout, "", "left at {kib} KiB: {output:#?}");
        }
    }
    assert!((1..sizes.len() - 3).contains(&whole), "some are too small and some are not: {whole} of {sizes:?}");
}

#[test]
fn a_full_disk_for_state_or_scratch_is_said_with_its_place() {
    let relay = relay();
    let script = "mkdir -p home/.local/state && mount -t tmpfs -o size=4k,nr_inodes=1 none home/.local/state\n\
                  strongroom backup orders";
    check_full(&run_mounted(&relay.sandbox, script), ".local/state");
    let script = "mount -t tmpfs -o size=4k,nr_inodes=1 none tmp && strongroom backup orders";
    check_full(&run_mounted(&relay.sandbox, script), "tmp");
    assert_eq!(relay.listed(), Vec::<String>::new());
    relay.backup();
}

#[track_caller]
fn check_full(output: &Output, place: &str) {
    check_error(output, 1, &[place, "No space left on device"]);
}

/// Starts a program in which these system calls fail with EIO, and in all of its children: a filter of the
/// kernel, set by perl, which every Debian has. Numbers of `prctl`, `fsync` and `fdatasync` by machine.
const NO_FSYNC: &str = r#"
my ($prctl, @calls) = `uname -m` =~ /aarch64/ ? (167, 82, 83) : (157, 74, 75);
my $ins = sub { pack("SCCL", @_) };
my $filter = $ins->(0x20, 0, 0, 0);
my $n = @calls;
for my $i (0 .. $n - 1) { $filter .= $ins->(0x15, $n - $i, 0, $calls[$i]); }
$filter .= $ins->(0x06, 0, 0, 0x7fff0000) . $ins->(0x06, 0, 0, 0x00050005);
my $program = pack("Sx![P]P", $n + 3, $filter);
syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
syscall($prctl, 22, 2, $program, 0, 0) == 0 or die "seccomp: $!";
exec @ARGV or die "exec: $!";
"#;

#[test]
fn a_disk_that_does_not_keep_what_it_took_is_no_backup() {
    let relay = relay();
    let id = relay.backup();
    let before = relay.stored();
    let perl = program("perl").unwrap();
    let binary = host_binary().unwrap();
    let args: [&Path; 5] = [Path::new("-e"), Path::new(NO_FSYNC), &binary, Path::new("backup"), Path::new("orders")];
    let failed = relay.sandbox.command(perl, args).run();
    check_error(&failed, 1, &["write", "Input/output error"]);
    assert_eq!(relay.stored(), before, "nothing is left of it");
    assert_eq!(relay.listed(), [id.as_str()]);
    // The disk is well again.
    let next = relay.backup();
    relay.run(&["verify", "orders", &next]).check_code(0);
}

/// Starts a program in which the K-th of these system calls fails with EIO, counted over all of its threads and
/// children, and says how many there were: the kernel asks this program about each. Arguments: K, the file for
/// the count, the command. Numbers of `prctl`, `seccomp`, `fsync` and `fdatasync` by machine; then those of
/// SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_RET_USER_NOTIF, and the two ioctls.
const ONE_FSYNC: &str = r#"
use strict;
my ($k, $count, @command) = @ARGV;
my ($prctl, $seccomp, @calls) = `uname -m` =~ /aarch64/ ? (167, 277, 82, 83) : (157, 317, 74, 75);
my $ins = sub { pack("SCCL", @_) };
my $filter = $ins->(0x20, 0, 0, 0);
my $n = @calls;
for my $i (0 .. $n - 1) { $filter .= $ins->(0x15, $n - $i, 0, $calls[$i]); }
$filter .= $ins->(0x06, 0, 0, 0x7fff0000) . $ins->(0x06, 0, 0, 0x7fc00000);
my $program = pack("Sx![P]P", $n + 3, $filter);
syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
my $listener = syscall($seccomp, 1, 8, $program);
$listener >= 0 or die "seccomp: $!";
open(my $calls, "+<&=", $listener) or die "listener: $!";
my $child = fork() // die "fork: $!";
if ($child == 0) { exec @command or die "exec: $!"; }
my $seen = 0;
until (waitpid($child, 1) == $child) {
    my $ready = "";
    vec($ready, fileno($calls), 1) = 1;
    next unless select($ready, undef, undef, 0.02) > 0;
    my $call = "\0" x 80;
    # A thread that died meanwhile takes its call back.
    ioctl($calls, 0xC0502100, $call) or next;
    $seen += 1;
    my $answer = $seen == $k ? pack("QqlL", unpack("Q", $call), 0, -5, 0) : pack("QqlL", unpack("Q", $call), 0, 0, 1);
    ioctl($calls, 0xC0182101, $answer);
}
my $status = $?;
open(my $out, ">", $count) or die "count: $!";
print $out $seen;
close($out);
exit($status & 127 ? 128 + ($status & 127) : $status >> 8);
"#;

#[test]
fn whichever_flush_fails_there_is_a_whole_backup_or_none() {
    let relay = Relay::new(Setup { produce: sh("seq 1 1000"), ..Setup::default() });
    relay.backup();
    let (perl, binary, count) = (program("perl").unwrap(), host_binary().unwrap(), relay.sandbox.path("count"));
    let records = || relay.stored().iter().filter(|path| path.ends_with("record.json")).count();
    let (mut n_failed, mut n_spared) = (0, 0);
    for k in 1.. {
        let (n_before, number) = (records(), k.to_string());
        let args = [Path::new("-e"), Path::new(ONE_FSYNC), Path::new(&number), &count, &binary];
        let output = relay.sandbox.command(&perl, args.into_iter().chain(["backup", "orders"].map(Path::new))).run();
        let n_seen: u32 = std::fs::read_to_string(&count).unwrap().parse().unwrap();
        let n_made = records() - n_before;
        if output.code == Some(0) {
            assert_eq!(n_made, 1, "flush {k}: {output:#?}");
            n_spared += 1;
        } else {
            check_error(&output, 1, &["Input/output error"]);
            assert_eq!(n_made, 0, "flush {k}: {output:#?}");
            n_failed += 1;
        }
        // Nothing claims to be a backup that is none.
        let listed = relay.listed();
        assert_eq!(listed.len(), records(), "flush {k}: {output:#?}");
        let is_listed = |path: &Path| listed.iter().any(|id| path.to_string_lossy().contains(id.as_str()));
        let left: Vec<_> = relay.stored().into_iter().filter(|path| !is_listed(path)).collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new(), "flush {k}: {output:#?}");
        if n_seen < k {
            break;
        }
    }
    assert!(n_failed >= 4 && n_spared >= 1, "the segment, its name, the record and its name: {n_failed}, {n_spared}");
    for id in relay.listed() {
        relay.run(&["verify", "orders", &id]).check_code(0);
    }
}

#[test]
fn rights_that_are_lost_half_way_are_no_backup_and_what_is_left_is_named() {
    let relay = Relay::new(Setup { store: SMALL.into(), ..Setup::default() });
    let id = relay.backup();
    // The producer itself takes the right to write away, in the middle of what it writes.
    let (store, binary) = (relay.store(), host_binary().unwrap());
    let chmod = |mode: &str| format!("chmod {mode} '{0}/.tmp' '{0}/orders'", store.display());
    let produce = format!("head -c 6000000 /dev/urandom; {}; head -c 6000000 /dev/urandom", chmod("500"));
    relay.configure(&Setup { produce: sh(&produce), store: SMALL.into(), ..Setup::default() });
    // Rights do not bind root, unless it gives that power away.
    let as_others = ["--bounding-set=-dac_override,-dac_read_search", "--"].map(Path::new);
    let backup = [binary.as_path(), Path::new("backup"), Path::new("orders")];
    let output = if rustix::process::geteuid().is_root() {
        relay.sandbox.command("setpriv", as_others.iter().chain(&backup)).run()
    } else {
        relay.sandbox.command(backup[0], &backup[1..]).run()
    };
    check_error(&output, 4, &["Permission denied", "give this user read and write access", "left behind"]);
    assert_eq!(relay.listed(), [id.as_str()], "and it is still read");
    // What could not be removed has no name in the store; prune finds it by its age.
    let left: Vec<_> = relay.stored().into_iter().filter(|path| path.starts_with(store.join(".tmp"))).collect();
    assert!(!left.is_empty());
    relay.sandbox.command("/bin/sh", ["-c", &chmod("700")]).run().check_code(0);
    relay.configure(&Setup { produce: sh(PRODUCE), store: SMALL.into(), ..Setup::default() });
    relay.backup();
}

/// Runs verbs under a limit, from far too little to enough: each succeeds or says why, and what it leaves is
/// never a backup that is not whole. Returns how many backups succeeded.
fn check_limited(relay: &Relay, limits: &[String], says: &[&str]) -> usize {
    let binary = host_binary().unwrap();
    let mut made = 0;
    for limit in limits {
        let run = |args: &str| {
            let script = format!("{limit} && exec '{}' {args}", binary.display());
            relay.sandbox.command("/bin/sh", ["-c", &script]).run()
        };
        let backup = run("backup orders");
        let listed = relay.listed();
        if backup.code == Some(0) {
            made += 1;
        } else {
            assert!(says.iter().any(|text| backup.stderr.contains(text)), "{limit}: {backup:#?}");
        }
        assert_eq!(listed.len(), made, "{limit}: {backup:#?}");
        let is_listed = |path: &Path| listed.iter().any(|id| path.to_string_lossy().contains(id.as_str()));
        let left: Vec<_> = relay.stored().into_iter().filter(|path| !is_listed(path)).collect();
        // A process that the kernel ends cannot tidy up: what it leaves lies under `.tmp`, for prune.
        let hidden = |path: &&std::path::PathBuf| path.starts_with(relay.store().join(".tmp"));
        assert_eq!(left.iter().filter(hidden).count(), left.len(), "{limit}: {left:?}");
        assert!(backup.code.is_none_or(|code| code > 128) || left.is_empty(), "{limit}: {left:?}\n{backup:#?}");
    }
    for id in relay.listed() {
        relay.run(&["verify", "orders", &id]).check_code(0);
    }
    made
}

#[test]
fn too_few_open_files_end_a_backup_with_a_reason_and_never_half_way() {
    let relay = Relay::cold(setup());
    let limits: Vec<_> = [8, 12, 16, 20, 24, 32, 64, 1024].map(|n| format!("ulimit -n {n}")).into();
    let made = check_limited(&relay, &limits, &["open files", "EMFILE"]);
    assert!((1..limits.len()).contains(&made), "{made} of {}", limits.len());
}

#[test]
fn too_little_memory_ends_a_backup_with_a_reason_and_never_half_way() {
    let relay = relay();
    let data = [8, 16, 24, 32, 48, 64, 1024].map(|mib| format!("ulimit -d {}", mib * 1024));
    let space = [256, 1024, 4096].map(|mib| format!("ulimit -v {}", mib * 1024));
    let limits: Vec<_> = data.into_iter().chain(space).collect();
    let made = check_limited(&relay, &limits, &["memory", "allocat", "thread", "Resource temporarily unavailable"]);
    assert!((1..limits.len()).contains(&made), "{made} of {}", limits.len());
}

#[test]
fn a_file_that_may_not_become_that_large_is_said_with_what_to_do() {
    let relay = relay();
    let script = format!("ulimit -f 1000 && exec '{}' backup orders", host_binary().unwrap().display());
    let output = relay.sandbox.command("/bin/sh", ["-c", &script]).run();
    check_error(&output, 1, &["ulimit -f", "parts_per_segment"]);
    assert_eq!(relay.listed(), Vec::<String>::new());
    assert_eq!(relay.stored(), Vec::<std::path::PathBuf>::new());
}
