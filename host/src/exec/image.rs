//! What a child becomes: program, arguments and environment, in memory that is overwritten.
//!
//! The standard library keeps copies of a command's environment and frees them as they are. Here the
//! only copy in the host is one buffer, wiped when the command is let go; the child itself makes the
//! system call with it, as the last thing between fork and exec. There is no look into `PATH` and no
//! shell for what has no interpreter line.

use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::OwnedFd;
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

    /// Makes `child` become this, with `files` open under the numbers that they have here. Call it last:
    /// what is registered after it is never reached.
    #[expect(unsafe_code, reason = "the standard library keeps copies of an environment that are not overwritten")]
    pub(super) fn install(self, child: &mut Command, files: Vec<OwnedFd>) {
        // SAFETY: this is how POSIX declares it.
        unsafe extern "C" {
            /// `execve` of the C library, which the standard library links.
            fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
        }
        let Self { mut texts, arguments, variables } = self;
        let base = texts.as_mut_ptr();
        // The buffer's own memory does not move with it.
        let list = |offsets: Vec<usize>| -> Vec<Text> {
            let texts = offsets.into_iter().map(|at| Text::new(base.wrapping_add(at).cast()));
            texts.chain([Text::new(std::ptr::null_mut())]).collect()
        };
        let (arguments, variables) = (list(arguments), list(variables));
        let become_it = move || {
            let _kept = &texts;
            for file in &files {
                rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?;
            }
            let (argv, envp) = (arguments.as_ptr().cast::<*const c_char>(), variables.as_ptr().cast::<*const c_char>());
            // SAFETY: both lists end in a null pointer and every other entry points into `texts`, which this
            // closure owns, at a text that ends in a NUL; `AtomicPtr<T>` has the representation of `*mut T`.
            // `execve` may be called between fork and exec, and returns only when it has failed.
            unsafe {
                let program = *argv;
                execve(program, argv, envp);
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

    fn become_of(image: Image, files: Vec<OwnedFd>) -> io::Result<std::process::Output> {
        #[expect(clippy::disallowed_methods, reason = "what is under test makes commands of it")]
        let mut child = Command::new("/nonexistent");
        image.install(&mut child, files);
        child.stdin(Stdio::null()).output()
    }

    #[test]
    fn a_child_gets_these_arguments_and_variables_and_nothing_else() {
        let environment = [("B", "old"), ("A", "1 =x"), ("B", "new"), ("EMPTY", "")];
        let image = Image::new(b"/bin/sh", &["-c", "printf '%s|' \"$@\"; env", "sh", "a b", ""], &environment).unwrap();
        let out = String::from_utf8(become_of(image, Vec::new()).unwrap().stdout).unwrap();
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
        assert_eq!(become_of(image, Vec::new()).unwrap_err().kind(), io::ErrorKind::NotFound);
        // No shell takes over what has no interpreter line.
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), "echo ran by a shell\n").unwrap();
        std::fs::set_permissions(script.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let script = script.into_temp_path();
        let path = script.to_str().unwrap();
        let run = || become_of(Image::new(path.as_bytes(), &["x"], &none).unwrap(), Vec::new()).unwrap_err();
        // A child of another test may still hold the file open for writing (26 is ETXTBSY).
        let busy = |error: &io::Error| error.raw_os_error() == Some(26);
        let error = std::iter::repeat_with(run).find(|error| !busy(error)).unwrap();
        assert_eq!(error.raw_os_error(), Some(8), "ENOEXEC, and not {error}");
    }
}
