//! What a run tells whoever watches it. The command line draws it; a test collects it.
//!
//! Nothing depends on it: a run that nobody watches ([`Silent`]) does the same.

use crate::plugin::context::{Level, Step};

/// Receives the progress of a run. Calls come from many threads and must not block for long.
///
/// Text is a vendor's where the arguments say so: implementations escape and cut it.
pub trait Progress: Send + Sync {
    /// An artifact begins.
    fn artifact_started(&self, name: &str);
    /// Bytes of it so far: as the component produced them, and as they are stored. Called about
    /// once a frame.
    fn artifact_bytes(&self, name: &str, read: u64, stored: u64);
    /// It is stored, with its final sizes.
    fn artifact_done(&self, name: &str, read: u64, stored: u64);
    /// It was abandoned or it failed.
    fn artifact_dropped(&self, name: &str);
    /// A step that the plugin names, and how far it is.
    fn stage(&self, name: &str, done: u64, total: Option<u64>);
    /// A step of a restore, as it happens.
    fn step(&self, step: &Step);
    /// Something that the operator should know; the run goes on. The host's own words.
    fn warn(&self, text: &str);
    /// A log line of a plugin.
    fn log(&self, level: Level, plugin: &str, text: &str);
    /// The run is over: nothing comes after this.
    fn finish(&self);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn artifact_started(&self, _: &str) {}
    fn artifact_bytes(&self, _: &str, _: u64, _: u64) {}
    fn artifact_done(&self, _: &str, _: u64, _: u64) {}
    fn artifact_dropped(&self, _: &str) {}
    fn stage(&self, _: &str, _: u64, _: Option<u64>) {}
    fn step(&self, _: &Step) {}
    fn warn(&self, _: &str) {}
    fn log(&self, _: Level, _: &str, _: &str) {}
    fn finish(&self) {}
}
