//! What a run tells whoever watches it. The command line draws it; nothing here prints.

use crate::plugin::context::{Level, Step};

/// Receives the progress of a run. Calls are cheap and come from any thread.
pub trait Progress: Send + Sync {
    /// The run went on to its next stage, such as `storing` or `committing`.
    fn stage(&self, _stage: &str) {}
    /// An artifact began to be stored or read.
    fn artifact_started(&self, _name: &str) {}
    /// Plaintext bytes that have gone through so far.
    fn artifact_bytes(&self, _name: &str, _bytes: u64) {}
    /// It is done, with its size and its size at rest.
    fn artifact_done(&self, _name: &str, _bytes: u64, _stored_bytes: u64) {}
    /// It was abandoned.
    fn artifact_failed(&self, _name: &str, _reason: &str) {}
    /// A step that the plugin names moved on.
    fn plugin_progress(&self, _plugin: &str, _step: &str, _done: u64, _total: Option<u64>) {}
    /// A log line of the plugin. Its text is the vendor's.
    fn plugin_log(&self, _plugin: &str, _level: Level, _message: &str, _fields: &[(String, String)]) {}
    /// A step of a restore or of a plan.
    fn restore_step(&self, _step: &Step) {}
    /// Something that the operator should know; the run goes on.
    fn warning(&self, _text: &str) {}
}

/// Nobody watches.
pub struct Unwatched;

impl Progress for Unwatched {}
