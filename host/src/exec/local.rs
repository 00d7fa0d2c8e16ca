//! Commands on this machine.
//!
//! The environment of a granted program is built from nothing: `LANG=C.UTF-8`, a `PATH` of
//! `/usr/bin:/bin` for scripts, `HOME=/nonexistent` (so that no dot file of the host's user is
//! read), both of them the scratch directory's where the command uses it; then the grant's `env`,
//! the job's `env` and the secrets, later ones winning.

use super::image::Image;
use super::launch::{Killer, Prepared, Start};
use super::{Fetched, Place, Program, cannot_start};
use crate::error::{Error, IoContext, Kind, Result};
use crate::policy::exec::CommandLine;
use crate::secret::Secret;
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use zeroize::Zeroizing;

/// The most file descriptors that a granted program may have open; what Debian gives a shell is 1024.
const OPEN_FILES: u64 = 4096;

/// Builds the command; nothing runs yet. `program` is the file that is run instead of what lies at its path.
pub(super) fn prepare(
    command: &CommandLine,
    program: Option<Program>,
    place: &Place,
    secrets: &Fetched,
    user: Option<&str>,
    scratch: Option<&Path>,
) -> Result<Prepared> {
    check_program(command)?;
    let scratch = if command.uses_scratch {
        Some(scratch.ok_or_else(|| cannot_start(Kind::Invalid, command, "the run has no scratch directory"))?)
    } else {
        None
    };
    #[expect(clippy::disallowed_methods, reason = "the one home of granted commands on this machine")]
    let mut child = Command::new(&command.program);
    child.current_dir(scratch.unwrap_or(Path::new("/")));
    let owner = match user {
        Some(name) => become_user(&mut child, command, name, scratch)?,
        None => None,
    };
    child.process_group(0);
    confine(&mut child, NewPrivileges::Never, command.memory_bytes);
    let plain = |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.to_owned()));
    let home = scratch.unwrap_or(Path::new("/nonexistent")).to_string_lossy();
    let mut all = vec![plain("LANG", "C.UTF-8"), plain("PATH", "/usr/bin:/bin"), plain("HOME", &home)];
    if scratch.is_some() {
        all.push(plain("TMPDIR", &home));
    }
    all.extend(environment(command, place, secrets)?);
    let mut files = Vec::new();
    for (variable, name) in &command.secret_files {
        if let Some(secret) = secrets.get(name) {
            let file = secret_file(secret, owner)
                .map_err(|error| error.while_doing(format!("could not give secret {name:?} to {:?}", command.label)))?;
            all.push(plain(variable, &format!("/proc/self/fd/{}", file.as_raw_fd())));
            files.push(file);
        }
    }
    let image = Image::new(command.program.as_bytes(), &command.args, &all).map_err(|error| {
        cannot_start(Kind::Invalid, command, "its command line or environment cannot be handed over")
            .because_of_io(error)
    })?;
    image.install(&mut child, files, program);
    Ok(Prepared { start: Start::Process(child), killer: Killer::Group, marker: None })
}

/// A file in memory that holds the secret and that nobody can change, readable by its owner only.
fn secret_file(secret: &Secret, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("secret", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut rest = secret.expose().as_bytes();
        let mut at = 0;
        while !rest.is_empty() {
            // By place, so that a program which reads the descriptor itself begins at the beginning.
            let n = rustix::io::pwrite(&file, rest, at)?;
            rest = &rest[n..];
            at += n as u64;
        }
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file)
    };
    make().doing(|| "make a file in memory".to_owned())
}

/// Grant's, job's and secret variables, later ones winning. A secret that the job does not have is
/// left out: a server may trust its local user. The values are overwritten when they are let go.
pub(super) fn environment(
    command: &CommandLine,
    place: &Place,
    secrets: &Fetched,
) -> Result<Vec<(String, Zeroizing<String>)>> {
    let grant = command.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let job = place.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let secrets = command.secrets.iter().filter_map(|name| Some((name.as_str(), secrets.get(name)?.expose())));
    let mut all = Vec::new();
    for (name, value) in grant.chain(job).chain(secrets) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(cannot_start(
                Kind::Invalid,
                command,
                format!("the variable {name:?} holds a NUL or has no name"),
            ));
        }
        all.push((name.to_owned(), Zeroizing::new(value.to_owned())));
    }
    Ok(all)
}

/// Whether a program may gain rights that its caller has not (set-user-ID, file capabilities).
#[derive(Clone, Copy)]
pub(super) enum NewPrivileges {
    /// `no_new_privs`.
    Never,
    /// For the container's client: a rootless podman needs `newuidmap`.
    Allowed,
}

/// Sets what a child keeps for its life: no core dump, few files, private files, no new rights, at most
/// `memory` bytes, and its end when the host dies.
///
/// Memory is what each process by itself may write and shares with nobody (`RLIMIT_DATA` since Linux 4.7);
/// addresses are not limited, since databases and Java reserve far more of them than they use.
#[expect(unsafe_code, reason = "the standard library offers no other place between fork and exec")]
pub(super) fn confine(child: &mut Command, privileges: NewPrivileges, memory: Option<u64>) {
    let most = getrlimit(Resource::Nofile).maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    let files = Rlimit { current: Some(most), maximum: Some(most) };
    let memory = memory.map(|wanted| {
        let most = getrlimit(Resource::Data).maximum.map_or(wanted, |most| most.min(wanted));
        Rlimit { current: Some(most), maximum: Some(most) }
    });
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let never = matches!(privileges, NewPrivileges::Never);
    let before_exec = move || {
        setrlimit(Resource::Core, no_core)?;
        if let Some(memory) = memory {
            setrlimit(Resource::Data, memory)?;
        }
        if never {
            setrlimit(Resource::Nofile, files)?;
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            rustix::thread::set_no_new_privs(true)?;
        }
        // Holds for the thread that forked, which is why one thread starts them all (`launch`).
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure makes plain system calls through rustix's raw backend. It takes no lock,
    // allocates nothing and touches no state that is shared with other threads of the host.
    unsafe { child.pre_exec(before_exec) };
}

/// Keeps files that the host itself inherited (from a shell, `make` or a service manager) from its
/// children. What the host opens is closed on exec anyway. Called once, before the first child.
#[expect(unsafe_code, reason = "a number of /proc/self/fd is not a handle of this process's own code")]
pub fn keep_inherited_files_from_children() {
    // Without /proc nothing is known of such files, and containers without it are no place for a host.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        // SAFETY: the number is used for one system call that sets a flag. If another thread closed the
        // file meanwhile, the call fails; if it opened another one, that one has the flag already.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
    }
}

/// The standard library's error for all of these is `ENOENT` or `EACCES` without a name.
fn check_program(command: &CommandLine) -> Result<()> {
    let path = Path::new(&command.program);
    if !path.is_absolute() {
        return Err(cannot_start(Kind::Invalid, command, "the program is not an absolute path"));
    }
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(cannot_start(Kind::NotFound, command, "there is no such file")
                .hint("install it, or correct `program` in the grant"));
        }
        Err(error) => {
            return Err(
                cannot_start(crate::error::kind_of_io(&error), command, "it cannot be looked at").because(error)
            );
        }
    };
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        let reason = if found.is_file() { "it is not executable" } else { "it is not a file" };
        return Err(cannot_start(Kind::Denied, command, reason).hint("correct `program` in the grant, or its mode"));
    }
    Ok(())
}

/// Makes the child another user, with that user's own group and no others; the scratch directory
/// becomes that user's. The ids, where they are not the host's own.
fn become_user(
    child: &mut Command,
    command: &CommandLine,
    name: &str,
    scratch: Option<&Path>,
) -> Result<Option<(u32, u32)>> {
    let users = std::fs::read_to_string("/etc/passwd").doing(|| "read \"/etc/passwd\"".to_owned())?;
    let Some((uid, gid)) = find_user(&users, name) else {
        return Err(cannot_start(Kind::NotFound, command, format!("this machine has no user {name:?}"))
            .hint("correct `run_in`; users from a directory service must be in /etc/passwd as well"));
    };
    let own = rustix::process::geteuid();
    if own.as_raw() == uid {
        return Ok(None);
    }
    if !own.is_root() {
        return Err(cannot_start(Kind::Denied, command, format!("only root can become user {name:?}"))
            .fact("running as", format!("user id {}", own.as_raw()))
            .hint(format!("run strongroom as root or as {name}, or remove `user` from run_in")));
    }
    // The standard library drops all supplementary groups when root sets a user id.
    child.gid(gid).uid(uid);
    if let Some(scratch) = scratch {
        // Never through a link: the directory is that user's already, who may have put one in its place.
        std::os::unix::fs::lchown(scratch, Some(uid), Some(gid))
            .doing(|| format!("give {scratch:?} to user {name:?}"))?;
    }
    Ok(Some((uid, gid)))
}

/// User and group id of `name` in the text of `/etc/passwd`.
pub(super) fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// What the system said when the program was there and could not be started all the same.
pub(super) fn start_error(command: &CommandLine, error: std::io::Error) -> Error {
    let kind = match crate::error::kind_of_io(&error) {
        Kind::NotFound => Kind::NotFound,
        Kind::Denied => Kind::Denied,
        _ => Kind::Failed,
    };
    cannot_start(kind, command, "the system refused")
        .hint("a script needs the interpreter of its first line; a scratch directory must be open to its user")
        .because_of_io(error)
}
