//! What a child becomes: program, arguments and environment, in memory that is overwritten.
//!
//! The standard library keeps copies of a command's environment and frees them as they are. Here the
//! only copy in the host is one buffer, wiped when the command is let go; the child itself makes the
//! system call with it, as the last thing between fork and exec. There is no look into `PATH` and no
//! shell for what has no interpreter line. A program that was opened before is run from its open file, and
//! nothing is looked for at its path any more.

use super::Program;
use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicPtr;
use zeroize::Zeroizing;

/// A pointer that may be sent to another thread. As large as a plain one, which the list for the
/// system needs.
type Text = AtomicPtr<c_char>;

/// Program, arguments and environment, each text with its NUL.
pub(super) struct Image {
    /// Every text, one after another. Never grows, so that no copy is left behind.
    texts: Zeroizing<Vec<u8>>,
    /// Where each text of `texts` begins; the first is the program.
    arguments: Vec<usize>,
    variables: Vec<usize>,
}

impl Image {
    /// Of these texts. A later variable wins over an earlier one of the same name.
    ///
    /// Errors: `InvalidInput` for a text that holds a NUL, or a name that holds `=` or nothing.
    pub(super) fn new(
        program: &[u8],
        arguments: &[impl AsRef<[u8]>],
        environment: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)],
    ) -> io::Result<Self> {
        let pairs = || environment.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let last = |at: usize, name: &[u8]| !pairs().skip(at + 1).any(|(later, _)| later == name);
        let chosen = || pairs().enumerate().filter(move |(at, (name, _))| last(*at, name)).map(|(_, pair)| pair);
        let all = || std::iter::once(program).chain(arguments.iter().map(AsRef::as_ref));
        let wrong = all().any(|text| text.contains(&0))
            || pairs().any(|(name, value)| {
                name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0)
            });
        if wrong {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a text holds a NUL, or a variable has no name"));
        }
        let bytes: usize = all().map(|text| text.len() + 1).sum::<usize>()
            + chosen().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        let mut image =
            Self { texts: Zeroizing::new(Vec::with_capacity(bytes)), arguments: Vec::new(), variables: Vec::new() };
        for text in all() {
            image.arguments.push(image.texts.len());
            image.texts.extend_from_slice(text);
            image.texts.push(0);
        }
        for (name, value) in chosen() {
            image.variables.push(image.texts.len());
            for part in [name, b"=", value, b"\0"] {
                image.texts.extend_from_slice(part);
            }
        }
        Ok(image)
    }

    /// Makes `child` become this, with `files` open under the numbers that they have here; from the file
    /// of `program`, where there is one. Call it last: what is registered after it is never reached.
    #[expect(unsafe_code, reason = "the standard library keeps copies of an environment that are not overwritten")]
    pub(super) fn install(self, child: &mut Command, files: Vec<OwnedFd>, program: Option<Program>) {
        // SAFETY: this is how POSIX declares it.
        unsafe extern "C" {
            /// `execve` of the C library, which the standard library links.
            fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
            /// The same of an open file: `execveat` with an empty path.
            fn fexecve(file: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
        }
        let Self { mut texts, arguments, variables } = self;
        let base = texts.as_mut_ptr();
        // The buffer's own memory does not move with it.
        let list = |offsets: Vec<usize>| -> Vec<Text> {
            let texts = offsets.into_iter().map(|at| Text::new(base.wrapping_add(at).cast()));
            texts.chain([Text::new(std::ptr::null_mut())]).collect()
        };
        let (arguments, variables) = (list(arguments), list(variables));
        let program = program.map(Program::into_parts);
        let become_it = move || {
            let _kept = &texts;
            for file in &files {
                rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?;
            }
            // The interpreter of a script opens it once more, as /dev/fd/N.
            if let Some((file, true)) = &program {
                rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?;
            }
            let (argv, envp) = (arguments.as_ptr().cast::<*const c_char>(), variables.as_ptr().cast::<*const c_char>());
            // SAFETY: both lists end in a null pointer and every other entry points into `texts`, which this
            // closure owns, at a text that ends in a NUL; `AtomicPtr<T>` has the representation of `*mut T`.
            // The file is open for as long as this closure lives. Both calls may be made between fork and exec, and
            // return only when they have failed.
            unsafe {
                match &program {
                    Some((file, _)) => fexecve(file.as_raw_fd(), argv, envp),
                    None => execve(*argv, argv, envp),
                };
            }
            Err(io::Error::last_os_error())
        };
        // SAFETY: the closure makes plain system calls. It takes no lock, allocates nothing and touches no
        // state that is shared with other threads of the host.
        unsafe { child.pre_exec(become_it) };
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} arguments, {} variables)", self.arguments.len(), self.variables.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn become_of(image: Image, program: Option<Program>) -> io::Result<std::process::Output> {
        #[expect(clippy::disallowed_methods, reason = "what is under test makes commands of it")]
        let mut child = Command::new("/nonexistent");
        image.install(&mut child, Vec::new(), program);
        child.stdin(Stdio::null()).output()
    }

    #[test]
    fn a_child_gets_these_arguments_and_variables_and_nothing_else() {
        let environment = [("B", "old"), ("A", "1 =x"), ("B", "new"), ("EMPTY", "")];
        let image = Image::new(b"/bin/sh", &["-c", "printf '%s|' \"$@\"; env", "sh", "a b", ""], &environment).unwrap();
        let out = String::from_utf8(become_of(image, None).unwrap().stdout).unwrap();
        let (arguments, variables) = out.rsplit_once('|').unwrap();
        assert_eq!(arguments, "a b|");
        // Some shells add two of their own.
        let mut variables: Vec<_> =
            variables.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
        variables.sort_unstable();
        assert_eq!(variables, ["A=1 =x", "B=new", "EMPTY="]);
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused_and_what_cannot_be_run_is_an_error_of_the_system() {
        let none: [(&str, &str); 0] = [];
        for (arguments, environment) in
            [("a\0b", ("A", "1")), ("a", ("A\0", "1")), ("a", ("A", "\0")), ("a", ("", "x")), ("a", ("A=B", "x"))]
        {
            let error = Image::new(b"/bin/true", &[arguments], &[environment]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{arguments:?} {environment:?}");
        }
        let image = Image::new(b"/nonexistent/program", &["x"], &none).unwrap();
        assert_eq!(become_of(image, None).unwrap_err().kind(), io::ErrorKind::NotFound);
        // No shell takes over what has no interpreter line.
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), "echo ran by a shell\n").unwrap();
        std::fs::set_permissions(script.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let script = script.into_temp_path();
        let path = script.to_str().unwrap();
        let run = || become_of(Image::new(path.as_bytes(), &["x"], &none).unwrap(), None).unwrap_err();
        // A child of another test may still hold the file open for writing (26 is ETXTBSY).
        let busy = |error: &io::Error| error.raw_os_error() == Some(26);
        let error = std::iter::repeat_with(run).find(|error| !busy(error)).unwrap();
        assert_eq!(error.raw_os_error(), Some(8), "ENOEXEC, and not {error}");
    }

    /// A program of a folder that is gone with it.
    fn installed(dir: &std::path::Path, text: &[u8]) -> std::path::PathBuf {
        let path = dir.join("program");
        let new = dir.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    /// What it prints, run from the file that was open before another one took its name.
    fn replaced(text: &[u8], arguments: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = installed(dir.path(), text);
        let program = Program::open(path.to_str().unwrap()).unwrap();
        assert_eq!(program.sha256(), crate::plugin::component::digest(text));
        installed(dir.path(), b"#!/bin/sh\necho another; exit 1\n");
        let none: [(&str, &str); 0] = [];
        let image = Image::new(path.as_os_str().as_encoded_bytes(), arguments, &none).unwrap();
        let output = match become_of(image, Some(program)) {
            // A child of another test may still hold the file open for writing (26 is ETXTBSY).
            Err(error) if error.raw_os_error() == Some(26) => return replaced(text, arguments),
            output => output.unwrap(),
        };
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_open_program_is_what_runs_whatever_lies_at_its_path_by_then() {
        let echo = std::fs::read("/bin/echo").unwrap();
        assert_eq!(replaced(&echo, &["it", "runs"]), "it runs\n");
        // A program that is no script has no file open that it was not given.
        let ls = std::fs::read("/bin/ls").unwrap();
        let open = replaced(&ls, &["-l", "/proc/self/fd"]);
        assert!(open.contains("-> ") && !open.contains("/program"), "{open}");
        assert_eq!(replaced(b"#!/bin/sh\necho \"script of $#\"\n", &["a", "b"]), "script of 2\n");
    }

    #[test]
    fn what_is_no_file_is_no_program_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [pipe.as_path(), dir.path()] {
            let error = Program::open(path.to_str().unwrap()).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Invalid, "{error:?}");
        }
        assert_eq!(Program::open("/nonexistent").unwrap_err().kind(), crate::error::Kind::NotFound);
    }
}
