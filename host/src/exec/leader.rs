//! What a supervisor watches: a process of this machine, or a session with a program in a pod.

use super::pod::session::{Outcome, Session};
use crate::error::{Error, IoContext, Result};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};
use std::os::fd::OwnedFd;
use std::process::Child;

/// How a leader ended.
#[derive(Debug)]
pub(super) struct Gone {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why nobody knows how it ended.
    pub lost: Option<Error>,
}

/// See the module.
pub(super) enum Leader {
    /// A process, leader of its group.
    Child { child: Child, pid: Pid, pidfd: OwnedFd },
    /// A session.
    Session(Session),
}

impl Leader {
    /// Takes a child over. When that fails, the child is ended and reaped.
    pub(super) fn child(mut child: Child) -> Result<Self> {
        let watch = |child: &Child| -> Result<_> {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| Error::failed("the system gave a process no number"))?;
            Ok((pid, pidfd_open(pid, PidfdFlags::empty()).doing(|| "watch a process".to_owned())?))
        };
        match watch(&child) {
            Ok((pid, pidfd)) => Ok(Self::Child { child, pid, pidfd }),
            Err(error) => {
                // Nothing else can be done about a failure to end what could not be watched.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// Readable once it has ended.
    pub(super) fn over(&self) -> &OwnedFd {
        match self {
            Self::Child { pidfd, .. } => pidfd,
            Self::Session(session) => session.over(),
        }
    }

    /// How it ended, once it has. A process stays unreaped; of a session this is said once.
    pub(super) fn look(&self) -> Option<Gone> {
        match self {
            Self::Child { pid, .. } => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
                let status = waitid(WaitId::Pid(*pid), options).ok()??;
                Some(Gone { code: status.exit_status(), signal: status.terminating_signal(), lost: None })
            }
            Self::Session(session) => Some(match session.outcome()? {
                Outcome::Exited(code) => Gone { code: Some(code), signal: None, lost: None },
                Outcome::Lost(error) => Gone { code: None, signal: None, lost: Some(error) },
            }),
        }
    }

    /// Signals the group of a process; a session ends at any signal, and its program sees a closed input.
    pub(super) fn signal(&self, signal: Signal) {
        match self {
            // Fails only when nothing is left of the group.
            Self::Child { pid, .. } => drop(kill_process_group(*pid, signal)),
            Self::Session(session) => session.end(),
        }
    }

    /// What ends it when nobody can watch it.
    pub(super) fn group(&self) -> Option<Pid> {
        match self {
            Self::Child { pid, .. } => Some(*pid),
            Self::Session(_) => None,
        }
    }

    /// Takes the number of a dead process back.
    pub(super) fn reap(&mut self) {
        if let Self::Child { child, .. } = self {
            let _ = child.wait();
        }
    }
}
