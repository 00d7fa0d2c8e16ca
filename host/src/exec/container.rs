//! Commands in a running container, through docker's or podman's own client.
//!
//! The client has no way to end what it started, so the host finds it: every command carries a
//! random word in its environment, and a fixed script inside the container ends whatever has that
//! word in `/proc/*/environ`, with its process group: early when it must, and again when its handles
//! are gone. A program that gives its children another
//! environment and another session escapes it. A second fixed script runs the program. It says so
//! on standard error first, so that the client's own exit codes (125, 126, 127) are told from the
//! program's, and writes a marker behind the last byte of output: a client can exit with 0 although
//! it has lost bytes, so output without the marker is an error. It also reads what the program left
//! of its input: podman 4.3 drops all output when an input ends unread. Both scripts need `/bin/sh`
//! in the container; neither holds anything but positional arguments. Values of variables are in
//! the client's environment only, never in its arguments.

use super::launch::{Inside, Killer, Prepared, Start};
use super::local::{NewPrivileges, confine, environment};
use super::{Place, TICK, cannot_start};
use crate::error::{Error, Kind, Result};
use crate::policy::exec::{CommandLine, StdinGrant, forbidden_name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that holds the random word.
const WORD: &str = "STRONGROOM_EXEC";

/// Where a client that is only a word is looked for: never in the `PATH` of whoever started the host.
const CLIENT_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// How long one call of the client that ends a program may take.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// Says whether the program can be run, runs it, says that it has ended and how many bytes of its
/// input it left, and writes the marker behind its output. Arguments: the marker, whether there is
/// an input (`fed` or `alone`), program, arguments. SIGTERM is the program's; the shell outlives it.
const START: &str = r#"marker=$1; input=$2; shift 2
if [ ! -e "$1" ]; then echo "$marker missing" >&2; exit 127; fi
if [ -d "$1" ] || [ ! -x "$1" ]; then echo "$marker denied" >&2; exit 126; fi
trap : TERM
echo "$marker run" >&2
"$@"
code=$?
echo "$marker end" >&2
if [ "$input" = fed ]; then
  left=0
  if command -v wc >/dev/null 2>&1; then
    left=$(wc -c)
  else
    while IFS= read -r line || [ -n "$line" ]; do left=1; done 2>/dev/null
  fi
  echo "$marker left $left" >&2
fi
printf '\000%s' "$marker"
exit "$code""#;

/// Signals everything that has the word in its environment, and its group where it leads one.
/// Arguments: signal, word. Prints how many there were. Needs nothing but the shell; `grep` is
/// faster, since a shell reads byte by byte, but not every one can search between NULs.
pub(super) const END: &str = r#"files=
if printf 'a\0b\0' | grep -qzF b 2>/dev/null; then
  files=$(grep -lzsF -- "$2" /proc/[0-9]*/environ)
else
  for file in /proc/[0-9]*/environ; do
    while IFS= read -r line || [ -n "$line" ]; do
      case $line in *"$2"*) files="$files $file"; break ;; esac
    done 2>/dev/null <"$file"
  done 2>/dev/null
fi
n=0
for file in $files; do
  pid=${file#/proc/}; pid=${pid%/environ}
  n=$((n + 1))
  kill -s "$1" -- "-$pid" 2>/dev/null || kill -s "$1" "$pid" 2>/dev/null
done
echo "$n""#;

/// Ends one program inside its container.
pub(super) struct ContainerKiller {
    client: Vec<String>,
    container: String,
    word: String,
}

/// Whether the ending script has the word in its own environment and finds itself.
#[derive(Clone, Copy)]
enum Carries {
    Nothing,
    Word,
}

/// Builds the client's command; nothing runs yet, unless the command reads a source (see below).
pub(super) fn prepare(command: &CommandLine, place: &Place, name: &str, client: &[String]) -> Result<Prepared> {
    if !command.program.starts_with('/') {
        return Err(cannot_start(Kind::Invalid, command, "the program is not an absolute path"));
    }
    let named = name.bytes().enumerate().all(|(i, b)| b.is_ascii_alphanumeric() || (i > 0 && b"_.-".contains(&b)));
    if name.is_empty() || !named {
        return Err(cannot_start(Kind::Invalid, command, format!("{name:?} is not the name of a container")));
    }
    if command.uses_scratch {
        return Err(cannot_start(Kind::Invalid, command, "the run's scratch directory is not in the container")
            .hint("run this command on this machine"));
    }
    let word = random_word()?;
    let killer = ContainerKiller {
        client: client_in(client, &CLIENT_DIRS.map(Path::new), command)?,
        container: name.to_owned(),
        word: word.clone(),
    };
    let mut child = killer.client(command)?;
    child.arg("exec");
    if !matches!(command.stdin, StdinGrant::None) {
        child.arg("-i");
    }
    child.arg("-e").arg(format!("{WORD}={word}"));
    for (variable, value) in environment(command, place)? {
        let secret = command.secrets.contains(&variable);
        match forbidden_name(&variable) {
            None => {
                child.arg("-e").arg(&variable).env(&variable, value.as_str());
            }
            // These mean something to the client itself: they go in as text, which a secret must not.
            Some(_) if !secret => {
                child.arg("-e").arg(format!("{variable}={}", value.as_str()));
            }
            Some(reason) => {
                return Err(cannot_start(
                    Kind::Invalid,
                    command,
                    format!("the secret {variable:?} has the name of a variable of the client: {reason}"),
                ));
            }
        }
    }
    let marker = format!("strongroom-exec-{word}");
    let input = if matches!(command.stdin, StdinGrant::None) { "alone" } else { "fed" };
    child.arg(name).args(["/bin/sh", "-c", START, "sh", &marker, input, &command.program]).args(&command.args);
    child.process_group(0).current_dir("/");
    confine(&mut child, NewPrivileges::Allowed);
    Ok(Prepared { start: Start::Process(child), killer: Killer::Inside(Box::new(killer)), marker: Some(marker) })
}

impl Inside for ContainerKiller {
    /// The script must find at least itself.
    fn check(&self, command: &CommandLine) -> Result<()> {
        let found = match self.signal("0", Carries::Word) {
            Ok(0) => Err("the script found no process, not even itself".to_owned()),
            found => found,
        };
        found.map(drop).map_err(|said| {
            cannot_start(
                Kind::Unavailable,
                command,
                "a program in the container could not be ended if its input failed",
            )
            .fact("container", self.container.clone())
            .fact("client said", said)
            .hint("look whether the container runs and has /bin/sh and /proc")
        })
    }

    fn send(&self, signal: Signal) -> Result<(), String> {
        self.signal(if signal == Signal::KILL { "KILL" } else { "TERM" }, Carries::Nothing).map(drop)
    }

    fn place(&self) -> String {
        format!("container {:?}", self.container)
    }
}

impl ContainerKiller {
    /// Runs the fixed script; how many processes had the word.
    fn signal(&self, signal: &str, carries: Carries) -> Result<u32, String> {
        let mut client = self.bare_client().map_err(|error| error.to_string())?;
        client.arg("exec");
        if let Carries::Word = carries {
            client.args(["-e", &format!("{WORD}={}", self.word)]);
        }
        client.args([&self.container, "/bin/sh", "-c", END, "sh", signal, &self.word]);
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = client.spawn().map_err(|error| error.to_string())?;
        let ended = wait_for(&child, CLIENT_TIME);
        if !ended {
            // It is killed here because it took too long; the answer says so.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let mut said = String::new();
        let mut from = |pipe: Option<&mut dyn std::io::Read>| {
            // Both answers are one line: they fit into their pipes, and a part is as good as all.
            let _ = pipe.map(|pipe| pipe.take(4096).read_to_string(&mut said));
        };
        if status.success() {
            from(child.stdout.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
            return said.trim().parse().map_err(|_| format!("it answered {said:?}"));
        }
        if ended {
            from(child.stderr.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
        }
        Err(if ended { said.trim().to_owned() } else { format!("no answer in {} s", CLIENT_TIME.as_secs()) })
    }

    fn client(&self, command: &CommandLine) -> Result<Command> {
        let client = self.bare_client()?;
        if std::fs::metadata(client.get_program()).is_err() {
            let path = client.get_program().to_string_lossy().into_owned();
            return Err(cannot_start(Kind::NotFound, command, format!("there is no container client {path:?}"))
                .hint("install podman or docker, or correct `client` in run_in"));
        }
        Ok(client)
    }

    /// The client with the host's own environment, which holds its settings and stays outside the container.
    fn bare_client(&self) -> Result<Command> {
        let Some((program, args)) = self.client.split_first().filter(|(program, _)| program.starts_with('/')) else {
            return Err(
                Error::invalid("the container's client is not an absolute path").fact("got", self.client.join(" "))
            );
        };
        #[expect(clippy::disallowed_methods, reason = "the one home of granted commands in containers")]
        let mut client = Command::new(program);
        client.args(args);
        Ok(client)
    }
}

/// The client with an absolute program: a word such as `podman` is looked for in `dirs`, in order.
fn client_in(client: &[String], dirs: &[&Path], command: &CommandLine) -> Result<Vec<String>> {
    let Some((word, args)) = client.split_first().filter(|(word, _)| !word.is_empty() && !word.contains('/')) else {
        return Ok(client.to_vec());
    };
    let runs = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let program = dirs.iter().map(|dir| dir.join(word)).find(runs).ok_or_else(|| {
        let dirs: Vec<_> = dirs.iter().map(|dir| format!("{dir:?}")).collect();
        cannot_start(Kind::NotFound, command, format!("there is no container client {word:?}"))
            .fact("looked in", dirs.join(", "))
            .hint("install it, or name another one: client = \"podman\" in run_in, or client = [\"/path/to/it\"]")
    })?;
    let program = program.into_os_string().into_string();
    let program = program.map_err(|program| Error::invalid(format!("{program:?} is not UTF-8")))?;
    Ok([&[program], args].concat())
}

/// Waits for a child without reaping it; false when it takes longer than `most`.
fn wait_for(child: &std::process::Child, most: Duration) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return true };
    let began = Instant::now();
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    while began.elapsed() < most {
        if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&tick)).is_ok_and(|n| n > 0) {
            return true;
        }
    }
    false
}

/// 128 random bits in hex.
pub(super) fn random_word() -> Result<String> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Error::failed("could not get random bytes").because(error.to_string()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> CommandLine {
        CommandLine {
            label: "tool".to_owned(),
            program: "/bin/true".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            stdin: StdinGrant::None,
            inspect: false,
            partial_stdin: false,
            detects_short_input: false,
            timeout: None,
            uses_scratch: false,
        }
    }

    #[test]
    fn a_client_that_is_a_word_is_looked_for_in_fixed_directories() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |dir: &Path, name: &str, mode| {
            std::fs::write(dir.join(name), "").unwrap();
            std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        // What cannot be run is not found.
        put(first.path(), "podman", 0o644);
        std::fs::create_dir(first.path().join("docker")).unwrap();
        put(second.path(), "podman", 0o755);
        put(second.path(), "docker", 0o755);
        put(first.path(), "both", 0o755);
        put(second.path(), "both", 0o755);
        let dirs = [first.path(), second.path()];
        let find = |client: &[&str]| {
            let client: Vec<_> = client.iter().map(|text| (*text).to_owned()).collect();
            client_in(&client, &dirs, &command())
        };
        let at = |dir: &Path, name: &str| dir.join(name).to_str().unwrap().to_owned();
        assert_eq!(find(&["podman"]).unwrap(), [at(second.path(), "podman")]);
        assert_eq!(find(&["docker", "-H", "x"]).unwrap(), [at(second.path(), "docker"), "-H".into(), "x".into()]);
        assert_eq!(find(&["both"]).unwrap(), [at(first.path(), "both")]);
        assert_eq!(find(&["/opt/bin/podman", "--log"]).unwrap(), ["/opt/bin/podman", "--log"]);
        let error = find(&["nerdctl"]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        let shown = format!("{error:?}");
        for part in ["nerdctl", first.path().to_str().unwrap(), second.path().to_str().unwrap()] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
    }
}
