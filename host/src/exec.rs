//! Runs granted command lines where the operator said.
//!
//! This module decides nothing: what arrives here was allowed, with every slot filled.

mod process;

pub use process::{Exit, Process, spawn};

use crate::secret::Secret;
use std::collections::BTreeMap;

/// Where the commands of a job run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunIn {
    /// On this machine, as the user of the host or as another one.
    Local {
        /// User name to become; needs the right to do so.
        user: Option<String>,
    },
    /// In a running container, through docker's or podman's own client.
    Container {
        /// Name or id of the container.
        name: String,
        /// The client and the arguments that come before its verb, such as `["/usr/bin/podman"]`.
        client: Vec<String>,
    },
}

/// What the operator gives to every command of a job: where it runs and what surrounds it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where commands run.
    pub run_in: RunIn,
    /// The job's `env`: hosts, ports, users. Wins over the grant's own.
    pub env: BTreeMap<String, String>,
    /// Secrets by the name of the environment variable; a command gets only those its grant names.
    pub secrets: BTreeMap<String, Secret>,
}
