//! Compiling a plugin in a child: what the child can reach, and what becomes of one that takes too much.

use rustix::io::{FdFlags, fcntl_setfd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use strongroom::error::{Error, Kind};
use strongroom::plugin::compiler::{Bounds, Compiler, VERB};
use strongroom::plugin::{Cache, Plugin};
use strongroom::policy::Grants;
use strongroom::policy::storage::ArtifactGrant;
use strongroom_tests::relay::sha256;
use strongroom_tests::{bomb, host_binary, plugin, wait_until};

fn relay() -> Vec<u8> {
    std::fs::read(plugin("guests/relay").unwrap_or_else(|error| panic!("{error:#}"))).unwrap()
}

fn host() -> PathBuf {
    host_binary().unwrap_or_else(|error| panic!("{error:#}"))
}

/// Loads `bytes` as the guest relay with this compiler, into an empty cache.
async fn load(bytes: Vec<u8>, program: &Path, bounds: Bounds) -> Result<Plugin, Error> {
    let dir = tempfile::tempdir().unwrap();
    let compiler = Compiler::Child { program: program.to_owned(), bounds };
    let cache = Cache::open(&dir.path().join("cache"), &dir.path().join("state"), compiler)?;
    let text = r#"
[plugin.shop]
source = "shop.wasm"
[plugin.shop.grant.exec.query]
program = "/bin/true"
verbs = ["diagnose"]
effect = "reads"
inspect = true
"#;
    let config = strongroom::config::Config::parse(text, Path::new("s.toml"), Path::new("/")).unwrap();
    let (_, plugin) = config.plugin("shop").unwrap();
    let grants = Grants { artifacts: Some(ArtifactGrant::default()), ..plugin.grants.clone() };
    Plugin::load("shop", bytes.clone(), &sha256(&bytes), &grants, &cache).await
}

/// A script that stands in for the compiler, and says what it was given.
fn script(dir: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("compiler");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn in_full(error: &Error) -> String {
    let mut text = format!("{error:?}");
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        text.push_str(&format!("\n{cause:?} {cause}"));
        at = cause.source();
    }
    text
}

#[tokio::test]
async fn a_component_is_compiled_by_the_host_binary_itself() {
    load(relay(), &host(), Bounds::default()).await.unwrap_or_else(|error| panic!("{}", in_full(&error)));
}

#[tokio::test]
async fn the_child_gets_no_variable_and_no_file_but_its_pipes() {
    let dir = tempfile::tempdir().unwrap();
    // A file that this process holds without the flag, as a shell or a service manager leaves one open.
    let leaked = std::fs::File::open("/etc/passwd").unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    // The shell itself sets PWD and holds its script open.
    let tell = r#"n=0; for fd in /proc/$$/fd/*; do [ "$(readlink "$fd")" = /etc/passwd ] && n=1; done
echo "leaked=$n in $(pwd) with $(tr '\0' ' ' < /proc/$$/environ)|" >&2; exit 65"#;
    let error = load(relay(), &script(dir.path(), tell), Bounds::default()).await.err().expect("refused");
    let text = in_full(&error);
    assert!(text.contains("leaked=0 in / with |"), "{text}");
    drop(leaked);
}

#[test]
fn the_child_can_open_no_file_write_none_and_gain_no_right() {
    let mut child = Command::new(host())
        .args([VERB, "4000000000", "77"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    // It waits for its component with everything given up.
    let limits = wait_until("the limits are set", Duration::from_secs(60), || {
        let limits = read("limits");
        Ok(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 3 ")).then_some(limits))
    })
    .unwrap();
    for (name, value) in [
        ("Max file size", "0"),
        ("Max core file size", "0"),
        ("Max address space", "4000000000"),
        ("Max cpu time", "77"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line[name.len()..].split_whitespace().next() == Some(value), "{line}");
    }
    assert!(read("status").contains("NoNewPrivs:\t1"));
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[tokio::test]
async fn a_compile_bomb_is_stopped_by_its_time_or_its_memory_and_says_which() {
    let little = Bounds { cpu_seconds: 2, ..Bounds::default() };
    let error = load(bomb::in_component(relay()), &host(), little).await.err().expect("it takes minutes");
    assert_eq!(error.kind(), Kind::Limit, "{}", in_full(&error));
    assert!(in_full(&error).contains("too much time: its limit \"compile_cpu\""), "{}", in_full(&error));

    let narrow = Bounds { memory_bytes: 250 << 20, ..Bounds::default() };
    let error = load(bomb::in_component(relay()), &host(), narrow).await.err().expect("it takes hundreds of MiB");
    assert_eq!(error.kind(), Kind::Limit, "{}", in_full(&error));
    assert!(in_full(&error).contains("too much memory: its limit \"compile_memory\""), "{}", in_full(&error));
}

#[tokio::test]
async fn a_compiler_that_stands_still_is_killed_and_one_that_lies_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let short = Bounds { wall_clock: Duration::from_millis(300), ..Bounds::default() };
    let error = load(relay(), &script(dir.path(), "exec sleep 1000"), short).await.err().expect("killed");
    assert_eq!(error.kind(), Kind::Limit, "{}", in_full(&error));
    for (what, text) in [("nothing", "exit 0"), ("text", "echo hello"), ("a signal", "kill -9 $$")] {
        let error = load(relay(), &script(dir.path(), text), Bounds::default()).await.err().expect(what);
        assert_eq!(error.kind(), Kind::Failed, "{what}: {}", in_full(&error));
    }
}
