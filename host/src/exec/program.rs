//! A program's file, opened once: what was looked at is what runs, whatever lies at its path by then.

use crate::error::{Error, IoContext, Result};
use aws_lc_rs::digest::{Context, SHA256};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// How much of a file is read at once.
const READ_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
    sha256: String,
    is_script: bool,
}

impl Program {
    /// Opens a program of this machine and reads it to its end. Blocks. Memory: 1 MiB.
    ///
    /// Errors: those of the file; `Invalid` for what is none.
    pub fn open(path: &str) -> Result<Self> {
        let attempt = || format!("read the program {path:?}");
        let hint = "a program that is pinned by its digest must be there, and readable by the user of strongroom";
        // A pipe would wait for a writer.
        let wait_for_nobody = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).custom_flags(wait_for_nobody).open(path);
        let mut file = opened.doing(attempt).map_err(|error| error.hint(hint))?;
        if !file.metadata().doing(attempt)?.is_file() {
            return Err(Error::invalid(format!("the program {path:?} is not a file")).hint(hint));
        }
        let (sha256, is_script) = hashed(&mut file).doing(attempt)?;
        Ok(Self { file: file.into(), sha256, is_script })
    }

    /// SHA-256 of what was read, in hex, as `sha256sum` prints it.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The open file, and whether it must stay open for an interpreter that reads it.
    pub(super) fn into_parts(self) -> (OwnedFd, bool) {
        (self.file, self.is_script)
    }
}

fn hashed(file: &mut File) -> std::io::Result<(String, bool)> {
    let mut context = Context::new(&SHA256);
    let mut buf = vec![0; READ_BYTES];
    let mut first: Vec<u8> = Vec::new();
    loop {
        match file.read(&mut buf)? {
            0 => break,
            n => {
                first.extend(buf[..n].iter().take(2 - first.len().min(2)));
                context.update(&buf[..n]);
            }
        }
    }
    let digest = context.finish();
    Ok((digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(), first == b"#!"))
}
