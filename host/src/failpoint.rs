//! Fail points: named moments at which a test stops or kills the process, and steps that it takes away.
//!
//! They exist where debug assertions are compiled in, which the binary of the test suites is and a
//! release is not: there [`reach`] is nothing and [`is_broken`] is `false`, so the compiler removes
//! both and every name (`tests/tests/failpoint.rs` looks). This module never decides anything in a
//! process that nobody told to.
//!
//! Two variables tell it. `STRONGROOM_FAIL` is a comma-separated list of
//!
//! - `NAME=kill`: SIGKILL to this process when the point is reached; `NAME@3=kill` the third time;
//! - `NAME=panic:VARIABLE`: panic with what VARIABLE of the environment holds in the message;
//! - `NAME=stop:PATH`: make the empty file PATH, then wait until it is removed (or for being killed);
//! - `trace=PATH`: add a line with its name to PATH whenever a point is reached;
//! - `lease=MILLISECONDS`: how long a lease must stand still, instead of a minute.
//!
//! `STRONGROOM_BREAK` is a comma-separated list of [`Breakage`]s. What is misspelt panics: a test
//! must not pass because nothing happened.

#[cfg(debug_assertions)]
mod armed;

use std::time::Duration;

/// Declares an enumeration whose cases have names, with the table of all of them.
macro_rules! named {
    ($(#[$about:meta])* $type:ident { $($(#[doc = $doc:literal])+ $case:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type { $($(#[doc = $doc])+ $case,)* }

        impl $type {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$case),*];

            /// Its name in the variable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$case => $name,)* }
            }

            /// What it is, in one line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$case => concat!($($doc),+),)* }
            }
        }
    };
}

named! {
    /// A moment of a run.
    Point {
        /// The host key is on the disk under its temporary name.
        KeyFlushed = "key.flushed",
        /// The host key has its name, and the folder is not flushed.
        KeyNamed = "key.named",
        /// A compiled plugin is written under its temporary name.
        CacheWritten = "cache.written",
        /// A compiled plugin has its name.
        CacheNamed = "cache.named",
        /// A run of a job holds the job's lease.
        LeaseTaken = "lease.taken",
        /// The lease in the store was renewed.
        LeaseRenewed = "lease.renewed",
        /// A run is about to give its lease back.
        LeaseReleasing = "lease.releasing",
        /// A run gave its lease back.
        LeaseReleased = "lease.released",
        /// The plugin lies beside the backups.
        PluginKept = "plugin.kept",
        /// The scratch directory of a run is there.
        ScratchMade = "scratch.made",
        /// A segment was begun in the store.
        SegmentBegun = "segment.begun",
        /// A part was acknowledged by the store.
        PartStored = "part.stored",
        /// Every part of an artifact is stored, and its segments are about to become visible.
        SegmentCompleting = "segment.completing",
        /// A segment is visible in the store.
        SegmentComplete = "segment.complete",
        /// An artifact is whole in the store.
        ArtifactStored = "artifact.stored",
        /// The store was asked for every segment.
        BackupConfirmed = "backup.confirmed",
        /// The record is signed and about to be written.
        RecordWriting = "record.writing",
        /// The store acknowledged the record.
        RecordWritten = "record.written",
        /// The record was read back and is right: the backup is made.
        RecordRead = "record.read",
        /// An object of a failed run was removed.
        DiscardRemoved = "discard.removed",
        /// A prune holds the lease and knows what it will remove.
        PrunePlanned = "prune.planned",
        /// The note that a record is removed is there, and so is the record.
        PruneNoted = "prune.noted",
        /// A prune removed a record.
        PruneRecord = "prune.record",
        /// A prune removed an object that belongs to no backup.
        PruneObject = "prune.object",
        /// A prune aborted an upload.
        PruneUpload = "prune.upload",
        /// Local store: there is an empty temporary file.
        LocalBegun = "local.begun",
        /// Local store: bytes were written to a temporary file.
        LocalWritten = "local.written",
        /// Local store: a temporary file is on the disk and has not got its name.
        LocalFlushed = "local.flushed",
        /// Local store: an object has its name, which is not on the disk yet.
        LocalNamed = "local.named",
        /// Local store: an object and its name are on the disk.
        LocalDurable = "local.durable",
        /// Local store: a folder was made, and its name is not on the disk yet.
        LocalFolder = "local.folder",
        /// Local store: an object was removed, and that is not on the disk yet.
        LocalRemoved = "local.removed",
        /// S3: the server knows an upload.
        S3Begun = "s3.begun",
        /// S3: the server has a part.
        S3Part = "s3.part",
        /// S3: the server answered the completion of an upload, and was not asked for the object yet.
        S3Completed = "s3.completed",
        /// S3: the server has a whole object.
        S3Put = "s3.put",
        /// A verification is about to call its plugin.
        VerifyBegun = "verify.begun",
        /// A verification compared an artifact.
        VerifyRead = "verify.read",
        /// A verification is about to keep what it found.
        VerifyWriting = "verify.writing",
        /// What a verification found is in the store.
        VerifyWritten = "verify.written",
        /// A restore is about to call its plugin.
        RestoreBegun = "restore.begun",
        /// A restore may change its target from here on.
        RestoreChanging = "restore.changing",
        /// The plugin is done, and what was written is not flushed.
        RestoreReturned = "restore.returned",
        /// What a restore wrote is on the disk.
        RestoreFlushed = "restore.flushed",
        /// Restore into a bucket: a file is written under its temporary name.
        BucketWritten = "bucket.written",
        /// Restore into a bucket: a file has its name.
        BucketNamed = "bucket.named",
        /// The metrics are written under a temporary name.
        RegistryWritten = "registry.written",
        /// The metrics of a run are merged, and the textfile is the old one.
        RegistryMerged = "registry.merged",
        /// The textfile is written under a temporary name.
        RegistryTextfile = "registry.textfile",
    }
}

named! {
    /// A step that is left out or done wrongly, to see a test fail: `cargo xtask soak promises`.
    Breakage {
        /// A record lies in the store from the beginning of its run, and is replaced at the end.
        RecordFirst = "record-first",
        /// The store is not asked for every segment before the record is written.
        SkipConfirm = "skip-confirm",
        /// The checksum in the server's answer is not compared, and the object is not asked for.
        IgnoreAnswer = "ignore-answer",
        /// The local store does not flush a file before it gets its name.
        SkipFileFlush = "skip-file-flush",
        /// The local store does not flush the folder in which a file got its name.
        SkipNameFlush = "skip-name-flush",
        /// The local store does not flush the folder in which it made a folder.
        SkipFolderFlush = "skip-folder-flush",
        /// What a restore wrote into a bucket is not flushed.
        SkipRestoreFlush = "skip-restore-flush",
        /// A frame is handed on whatever its digest is.
        IgnoreFrameDigest = "ignore-frame-digest",
        /// The chaining values of the segments are not held against the record.
        IgnoreChaining = "ignore-chaining",
        /// Stored bytes are not held against the record.
        IgnoreStoredDigest = "ignore-stored-digest",
        /// A signature is taken for good whatever it is.
        IgnoreSignature = "ignore-signature",
        /// A lease whose holder died is never taken over.
        NeverTakeOver = "never-take-over",
        /// What a verification proved keeps nothing from being pruned.
        ForgetVerified = "forget-verified",
        /// What a kept backup needs is pruned.
        ForgetNeeds = "forget-needs",
        /// What a run left is removed at once, and not when it is a week old.
        IgnoreAge = "ignore-age",
        /// The end of a pipe is an end whatever became of the program.
        AcceptFailedProducer = "accept-failed-producer",
        /// A program whose input broke off is not killed, so that it takes that for an end.
        AcceptBrokenInput = "accept-broken-input",
        /// The key of a payload is derived in a way of our own.
        OwnPayloadKey = "own-payload-key",
        /// One part in eight stays in memory for ever.
        KeepParts = "keep-parts",
        /// A part gives its permit back as soon as it has a buffer, and not when it is stored.
        ReleaseParts = "release-parts",
        /// The small entries that an archive has packed stay in memory for ever.
        KeepEntries = "keep-entries",
        /// The closing frames of segments have other numbers than those that were released.
        OtherTail = "other-tail",
        /// A record of the first format is refused.
        ForgetFormat = "forget-format",
    }
}

/// Says that a point was reached. Returns unless a test told otherwise.
#[inline(always)]
pub fn reach(point: Point) {
    #[cfg(debug_assertions)]
    armed::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

/// Whether a test takes this step away.
#[inline(always)]
pub fn is_broken(breakage: Breakage) -> bool {
    #[cfg(debug_assertions)]
    return armed::is_broken(breakage);
    #[cfg(not(debug_assertions))]
    {
        let _ = breakage;
        false
    }
}

/// How long a lease must stand still before it is taken over: `usual` unless a test is in a hurry.
#[inline(always)]
pub fn lease_duration(usual: Duration) -> Duration {
    #[cfg(debug_assertions)]
    return armed::lease_duration().unwrap_or(usual);
    #[cfg(not(debug_assertions))]
    usual
}
