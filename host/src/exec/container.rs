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
//! the client's environment only, never in its arguments. The rest of that environment is the host's own,
//! without the variables that secrets are read from.

use super::image::Image;
use super::launch::{Inside, Killer, Prepared, Start};
use super::local::{NewPrivileges, confine, environment};
use super::{Fetched, Place, TICK, cannot_start, check_unpinned};
use crate::error::{Error, Kind, Result};
use crate::policy::exec::{CommandLine, StdinGrant, forbidden_name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The variable that holds the random word.
const WORD: &str = "STRONGROOM_EXEC";

/// Where a client that is only a word is looked for: never in the `PATH` of whoever started the host.
const CLIENT_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// The paths that a client may have: its own, or where a word is looked for.
pub fn client_places(client: &str) -> Vec<String> {
    if client.starts_with('/') {
        return vec![client.to_owned()];
    }
    CLIENT_DIRS.iter().map(|dir| format!("{dir}/{client}")).collect()
}

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
    /// Variables of the host that the client does not get.
    withheld: BTreeSet<String>,
}

/// Whether the ending script has the word in its own environment and finds itself.
#[derive(Clone, Copy)]
enum Carries {
    Nothing,
    Word,
}

/// Builds the client's command; nothing runs yet, unless the command reads a source (see below).
pub(super) fn prepare(
    command: &CommandLine,
    place: &Place,
    secrets: &Fetched,
    name: &str,
    client: &[String],
) -> Result<Prepared> {
    if !command.program.starts_with('/') {
        return Err(cannot_start(Kind::Invalid, command, "the program is not an absolute path"));
    }
    check_unpinned(command, "the container's")?;
    let named = name.bytes().enumerate().all(|(i, b)| b.is_ascii_alphanumeric() || (i > 0 && b"_.-".contains(&b)));
    if name.is_empty() || !named {
        return Err(cannot_start(Kind::Invalid, command, format!("{name:?} is not the name of a container")));
    }
    if command.uses_scratch {
        return Err(cannot_start(Kind::Invalid, command, "the run's scratch directory is not in the container")
            .hint("run this command on this machine"));
    }
    if !command.secret_files.is_empty() {
        return Err(cannot_start(Kind::Invalid, command, "a container gets secrets as variables, not as files")
            .hint("use `secrets` instead of `secret_files` in the grant, or run this command on this machine"));
    }
    let word = random_word()?;
    let killer = ContainerKiller {
        client: client_in(client, &CLIENT_DIRS.map(Path::new), command)?,
        container: name.to_owned(),
        word: word.clone(),
        withheld: place.secrets.withheld().clone(),
    };
    killer.check_client(command)?;
    let mut arguments = vec!["exec".to_owned()];
    if !matches!(command.stdin, StdinGrant::None) {
        arguments.push("-i".to_owned());
    }
    let mut set = |text: String| arguments.extend(["-e".to_owned(), text]);
    set(format!("{WORD}={word}"));
    let mut variables = Vec::new();
    for (variable, value) in environment(command, place, secrets)? {
        let secret = command.secrets.contains(&variable);
        match forbidden_name(&variable) {
            None => {
                set(variable.clone());
                variables.push((variable, value));
            }
            // These mean something to the client itself: they go in as text, which a secret must not.
            Some(_) if !secret => set(format!("{variable}={}", value.as_str())),
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
    let wrapper = [name, "/bin/sh", "-c", START, "sh", &marker, input, &command.program];
    arguments.extend(wrapper.map(str::to_owned));
    arguments.extend(command.args.iter().cloned());
    let (mut child, image) = killer.client(&arguments, &variables)?;
    child.process_group(0).current_dir("/");
    confine(&mut child, NewPrivileges::Allowed, None);
    image.install(&mut child, Vec::new(), None);
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
        let mut arguments = vec!["exec".to_owned()];
        if let Carries::Word = carries {
            arguments.extend(["-e".to_owned(), format!("{WORD}={}", self.word)]);
        }
        arguments.extend(
            [self.container.as_str(), "/bin/sh", "-c", END, "sh", signal, self.word.as_str()].map(str::to_owned),
        );
        let (mut client, image) = self.client(&arguments, &[]).map_err(|error| error.to_string())?;
        image.install(&mut client, Vec::new(), None);
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

    fn check_client(&self, command: &CommandLine) -> Result<()> {
        let program = self.client.first().map(String::as_str).unwrap_or_default();
        if program.starts_with('/') && std::fs::metadata(program).is_err() {
            return Err(cannot_start(Kind::NotFound, command, format!("there is no container client {program:?}"))
                .hint("install podman or docker, or correct `client` in run_in"));
        }
        Ok(())
    }

    /// The client with these arguments behind its own. Its environment is the host's, which holds the
    /// client's settings and stays outside the container, without what is withheld, and with `variables`.
    fn client(&self, arguments: &[String], variables: &[(String, Zeroizing<String>)]) -> Result<(Command, Image)> {
        let Some((program, first)) = self.client.split_first().filter(|(program, _)| program.starts_with('/')) else {
            return Err(
                Error::invalid("the container's client is not an absolute path").fact("got", self.client.join(" "))
            );
        };
        // Every value is overwritten when it is let go: among them are those that are withheld.
        let wipe = |text: OsString| Zeroizing::new(text.into_vec());
        let own: Vec<_> = std::env::vars_os().map(|(name, value)| (name.into_vec(), wipe(value))).collect();
        let mut environment: Vec<(&[u8], &[u8])> = own
            .iter()
            .filter(|(name, _)| !self.withheld.iter().any(|withheld| withheld.as_bytes() == name))
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect();
        environment.extend(variables.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let arguments = [first, arguments].concat();
        let image = Image::new(program.as_bytes(), &arguments, &environment).map_err(|error| {
            Error::invalid("the command line of the container's client cannot be handed over").because_of_io(error)
        })?;
        #[expect(clippy::disallowed_methods, reason = "the one home of granted commands in containers")]
        let client = Command::new(program);
        Ok((client, image))
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
        CommandLine::plain("tool", "/bin/true", &[])
    }

    #[test]
    fn the_client_has_the_environment_of_the_host_without_what_secrets_are_read_from() {
        let here: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        let (withheld, kept) = here.split_first().unwrap();
        let killer = ContainerKiller {
            client: vec!["/usr/bin/env".to_owned()],
            container: "db".to_owned(),
            word: "word".to_owned(),
            withheld: BTreeSet::from([withheld.clone()]),
        };
        let (mut client, image) =
            killer.client(&["-0".to_owned()], &[("PGPASSWORD".to_owned(), Zeroizing::new("x y".to_owned()))]).unwrap();
        image.install(&mut client, Vec::new(), None);
        let out = String::from_utf8(client.output().unwrap().stdout).unwrap();
        let mut names: Vec<&str> = out.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = kept.iter().map(String::as_str).chain(["PGPASSWORD"]).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert!(out.contains("PGPASSWORD=x y"));
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
