//! The capabilities: one host function after the other, each through the guard.
//!
//! [`CAPABILITIES`] is the registry: `plugin inspect`, the decoder and the tests read it, and a
//! function that is not in it cannot be imported.

#[allow(unreachable_pub, reason = "generated code names the handles of the guest as its own")]
pub(super) mod bytes;
#[allow(unreachable_pub, reason = "generated code names the handles of the guest as its own")]
pub(super) mod exec;
#[allow(unreachable_pub, reason = "generated code names the handles of the guest as its own")]
pub(super) mod kube;
pub(super) mod metrics;
pub(super) mod run;
#[allow(unreachable_pub, reason = "generated code names the handles of the guest as its own")]
pub(super) mod storage;

/// What a function can do for a plugin, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Nothing beyond the run itself, within limits.
    Bounded,
    /// Stores or lists artifacts of the run.
    Stores,
    /// Moves data that the plugin does not see.
    Moves,
    /// Brings data into the plugin's memory.
    Inspects,
    /// Changes something outside the run.
    Changes,
    /// Runs commands.
    Executes,
    /// Has power over a cluster, or reads every Secret of one.
    Administers,
}

impl Risk {
    /// The class as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Risk::Bounded => "bounded",
            Risk::Stores => "stores",
            Risk::Moves => "moves",
            Risk::Inspects => "inspects",
            Risk::Changes => "changes",
            Risk::Executes => "executes",
            Risk::Administers => "administers",
        }
    }
}

/// One function of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its interface.
    pub interface: &'static str,
    /// Its name; a method as `resource.method`.
    pub function: &'static str,
    /// What it does, for a person who decides.
    pub does: &'static str,
    /// How far it reaches.
    pub risk: Risk,
}

const fn entry(interface: &'static str, function: &'static str, risk: Risk, does: &'static str) -> Capability {
    Capability { interface, function, does, risk }
}

/// Every function that a plugin can import.
pub const CAPABILITIES: &[Capability] = &[
    entry("run", "log", Risk::Bounded, "writes a log line of the run"),
    entry("run", "progress", Risk::Bounded, "reports progress"),
    entry("run", "report-step", Risk::Bounded, "reports a step of a restore"),
    entry("run", "now-ms", Risk::Bounded, "reads the clock"),
    entry("run", "sleep-ms", Risk::Bounded, "waits"),
    entry("bytes", "source.read", Risk::Inspects, "reads bytes of a stream that is granted with inspect"),
    entry("bytes", "sink.write", Risk::Bounded, "writes its own bytes into a pipe"),
    entry("bytes", "pipe", Risk::Bounded, "makes a pipe inside the host"),
    entry("bytes", "finish", Risk::Bounded, "ends a pipe well"),
    entry("bytes", "tee", Risk::Moves, "doubles a stream without seeing it"),
    entry("storage", "transfer.wait", Risk::Stores, "waits for an artifact to be stored"),
    entry("storage", "first-done", Risk::Stores, "waits for the first of several artifacts"),
    entry("storage", "put", Risk::Stores, "stores a stream as an artifact of the backup being made"),
    entry("storage", "create-archive", Risk::Stores, "begins an artifact that holds many small things"),
    entry("storage", "archive.add", Risk::Stores, "adds a stream to an archive"),
    entry("storage", "archive.add-bytes", Risk::Stores, "adds its own bytes to an archive"),
    entry("storage", "finish-archive", Risk::Stores, "ends an archive"),
    entry("storage", "artifacts", Risk::Stores, "lists the artifacts of the backup in scope"),
    entry("storage", "get", Risk::Moves, "reads an artifact back, without seeing it"),
    entry("storage", "open-archive", Risk::Moves, "opens an archive of the backup in scope"),
    entry("storage", "archive-reader.next", Risk::Moves, "hands on the next entry of an archive"),
    entry("storage", "archive-reader.open", Risk::Moves, "hands on one entry of an archive"),
    entry("storage", "open-bucket", Risk::Moves, "opens a bucket that is granted by its label"),
    entry("storage", "bucket.objects", Risk::Moves, "lists keys of a bucket"),
    entry("storage", "bucket.attributes", Risk::Moves, "reads headers, tags and modes of an object"),
    entry("storage", "bucket.read", Risk::Moves, "hands on an object's bytes, without seeing them"),
    entry("storage", "bucket.write", Risk::Changes, "writes an object of a bucket"),
    entry("storage", "writing.wait", Risk::Changes, "waits for an object to be written"),
    entry("storage", "bucket.delete", Risk::Changes, "deletes an object of a bucket"),
    entry("storage", "bucket.read-config", Risk::Moves, "reads a part of a bucket's configuration"),
    entry("storage", "bucket.write-config", Risk::Changes, "changes a part of a bucket's configuration"),
    entry("exec", "spawn", Risk::Executes, "starts a granted command"),
    entry("exec", "process.stdout", Risk::Moves, "hands on a command's output, without seeing it"),
    entry("exec", "process.wait", Risk::Executes, "waits for a command to end and reads the end of its standard error"),
    entry("exec", "run", Risk::Executes, "runs a granted command and reads its output"),
    entry("kube", "open", Risk::Bounded, "opens a cluster that is granted by its label"),
    entry("kube", "first-ready", Risk::Bounded, "waits for whichever of its clusters and lists answers first"),
    entry("kube", "probe", Risk::Bounded, "tries the way to a granted cluster"),
    entry("kube", "cluster.version", Risk::Bounded, "asks a cluster for its version"),
    entry("kube", "cluster.kinds", Risk::Bounded, "asks a cluster which kinds it has"),
    entry("kube", "cluster.can-i", Risk::Bounded, "asks a cluster what the host may do there"),
    entry("kube", "cluster.objects", Risk::Inspects, "lists objects of a cluster, Secrets without their data"),
    entry("kube", "listing.next-page", Risk::Inspects, "reads the next objects of a list"),
    entry("kube", "listing.body", Risk::Moves, "hands on a listed object, without seeing it"),
    entry("kube", "cluster.get", Risk::Inspects, "reads an object of a cluster, a Secret without its data"),
    entry("kube", "cluster.body", Risk::Moves, "hands on an object, without seeing it"),
    entry("kube", "cluster.apply", Risk::Changes, "creates, merges or replaces objects of a cluster"),
    entry("kube", "cluster.apply-unseen", Risk::Changes, "the same with stored objects, without seeing them"),
    entry("kube", "cluster.delete", Risk::Changes, "deletes objects of a cluster"),
    entry("kube", "cluster.wait", Risk::Bounded, "waits for a condition of an object"),
    entry("kube", "cluster.logs", Risk::Moves, "hands on the log of a pod, without seeing it"),
    entry("metrics", "add", Risk::Bounded, "adds to a counter under its prefix"),
    entry("metrics", "set", Risk::Bounded, "sets a gauge under its prefix"),
    entry("metrics", "observe", Risk::Bounded, "adds to a histogram under its prefix"),
    entry("metrics", "query", Risk::Inspects, "asks the operator's Prometheus about granted metrics"),
    entry("metrics", "query-range", Risk::Inspects, "the same over a range of time"),
];

/// Interfaces of WASI 0.2 that are linked, and can do nothing: there are no files, arguments,
/// environment or network behind them (no socket is ever made), and output goes to the plugin's log.
pub(super) const INERT_WASI: &[(&str, &[&str])] = &[
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &["wall-clock", "monotonic-clock"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:sockets",
        &["network", "instance-network", "tcp", "tcp-create-socket", "udp", "udp-create-socket", "ip-name-lookup"],
    ),
];

/// Whether an interface of WASI is one of those that are linked.
pub(super) fn is_inert_wasi(package: &str, interface: &str) -> bool {
    INERT_WASI.iter().any(|(inert, interfaces)| *inert == package && interfaces.contains(&interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_registry_holds_exactly_the_functions_of_the_contract() {
        let mut resolve = wit_parser::Resolve::default();
        let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let (package, _) = resolve.push_dir(wit).unwrap();
        let imported = resolve.packages[package].interfaces.iter().filter(|(name, _)| *name != "component");
        let contract: BTreeSet<_> = imported
            .flat_map(|(name, id)| {
                let functions = resolve.interfaces[*id].functions.keys();
                functions.map(move |f| (name.clone(), f.rsplit(']').next().unwrap().to_owned()))
            })
            .collect();
        let registry: BTreeSet<_> =
            CAPABILITIES.iter().map(|c| (c.interface.to_owned(), c.function.to_owned())).collect();
        assert_eq!(registry, contract);
        assert_eq!(registry.len(), CAPABILITIES.len(), "no function is there twice");
    }
}
