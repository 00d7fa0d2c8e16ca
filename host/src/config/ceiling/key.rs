//! The table of a ceiling's keys: decoding, advice for unknown keys and `docs/ceiling.md` read it.

use crate::config::key::{Key, Section, Shape, Words};
use crate::policy::scratch::MAX_BYTES;

const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: true, doc }
}

const fn may(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: false, doc }
}

const ANY: Shape = Shape::Word(&Words { known: &["any"], not_built: &[] });
const TEXTS: Shape = Shape::List(&Shape::Text);
const VERBS: Shape =
    Shape::List(&Shape::Word(&Words { known: &["backup", "verify", "restore", "diagnose"], not_built: &[] }));
const EFFECT: Shape = Shape::Word(&Words { known: &["reads", "changes"], not_built: &[] });

const VERBS_DOC: &str = "Verbs that a grant may name; all unless set.";
const EFFECT_DOC: &str = "The most: \"reads\" unless set; \"changes\" allows grants that change something.";
const INSPECT_DOC: &str = "Whether bytes may enter the plugin. False unless set.";

/// The whole file.
pub static CEILING: Section = Section {
    name: "ceiling",
    doc: "What may be granted at most. What is not named here cannot be granted.",
    keys: &[
        may("exec", Shape::Union(&[ANY, Shape::Tables(&EXEC)]), "Commands: rules, or \"any\"."),
        may("bucket", Shape::Union(&[ANY, Shape::Tables(&BUCKET)]), "Buckets by their place: rules, or \"any\"."),
        may(
            "artifacts",
            Shape::Union(&[ANY, Shape::Tables(&ARTIFACTS)]),
            "The artifacts of a plugin's own backups: a rule, or \"any\".",
        ),
        may(
            "scratch",
            Shape::Union(&[ANY, Shape::Tables(&SCRATCH)]),
            "A private scratch directory for plugins with WASI: a rule, or \"any\".",
        ),
        may("kube", Shape::Union(&[ANY, Shape::Tables(&KUBE)]), "Resources of clusters: rules, or \"any\"."),
        may("metrics", Shape::Union(&[ANY, Shape::Tables(&METRICS)]), "Metrics: rules, or \"any\"."),
        may(
            "signatures",
            Shape::Word(&Words { known: &["required", "optional"], not_built: &[] }),
            "\"required\": every plugin must be signed, whatever the configuration says. \"optional\" unless set.",
        ),
        may(
            "trusted_keys",
            TEXTS,
            "The only minisign public keys that a configuration may trust. Any that it names unless set.",
        ),
        may("revoked", TEXTS, "SHA-256 of components that must never run."),
    ],
};

static EXEC: Section = Section {
    name: "exec rule",
    doc: "A family of command lines. Patterns are regular expressions over the whole text.",
    keys: &[
        must("program", Shape::Text, "Pattern of the program's whole path."),
        may("args", TEXTS, "Every argument of the command as it runs matches one of these. Any arguments unless set."),
        may("must_have", TEXTS, "Arguments that must be there, word for word, such as \"-X\" of psql."),
        may("env", TEXTS, "Patterns of variables that the grant may set. Any that a grant may set unless set."),
        may(
            "dangerous_env",
            TEXTS,
            "Variables that a grant may set although no grant may otherwise, such as \"LD_LIBRARY_PATH\"; a job or a target may set them only where they are named here.",
        ),
        may("secrets", TEXTS, "Patterns of the secrets that it may get. Any unless set."),
        may(
            "stdin_from_plugin",
            Shape::Flag,
            "Whether its standard input may come from the plugin: code execution for a program that reads a language. False unless set.",
        ),
        may(
            "stdin_text",
            TEXTS,
            "Patterns of texts that a grant may give on its standard input, \"(?s).*\" for any. None unless set.",
        ),
        may("verbs", VERBS, VERBS_DOC),
        may("effect", EFFECT, EFFECT_DOC),
        may("inspect", Shape::Flag, INSPECT_DOC),
    ],
};

static BUCKET: Section = Section {
    name: "bucket rule",
    doc: "A place that buckets may be.",
    keys: &[
        must("path", Shape::Text, "Directory that the bucket is, or lies beneath."),
        must("may", TEXTS, "What may be done at most: list, read, write and so on, as in a grant."),
        may("verbs", VERBS, VERBS_DOC),
        may("effect", EFFECT, EFFECT_DOC),
        may("inspect", Shape::Flag, INSPECT_DOC),
    ],
};

static ARTIFACTS: Section = Section {
    name: "artifacts rule",
    doc: "The artifacts of a plugin's own backups.",
    keys: &[may("inspect", Shape::Flag, "Whether a plugin may read bytes of them itself. False unless set.")],
};

static SCRATCH: Section = Section {
    name: "scratch rule",
    doc: "A private scratch directory for plugins with WASI.",
    keys: &[
        must("bytes", Shape::Size(0, MAX_BYTES), "What its files may hold together at most."),
        may("verbs", VERBS, VERBS_DOC),
    ],
};

static KUBE: Section = Section {
    name: "kube rule",
    doc: "Resources of a cluster.",
    keys: &[
        must("server", Shape::Text, "Pattern of the API server's address."),
        must("may", TEXTS, "What may be done at most: list, get, dry-run, apply, delete, logs."),
        must("kinds", TEXTS, "Kinds as group/Kind; \"*\" leaves out those that give power over the cluster."),
        may(
            "namespaces",
            TEXTS,
            "Patterns of namespaces. All of them, and what lies in none, unless set. A grant for shop-* needs the pattern shop-.* or a wider one.",
        ),
        may(
            "exec_credentials",
            Shape::Flag,
            "Whether the kubeconfig of such a cluster may run a program to get credentials. False unless set.",
        ),
        may("verbs", VERBS, VERBS_DOC),
        may("effect", EFFECT, EFFECT_DOC),
        may("inspect", Shape::Flag, INSPECT_DOC),
    ],
};

static METRICS: Section = Section {
    name: "metrics rule",
    doc: "Metrics.",
    keys: &[
        may("prefixes", TEXTS, "What names that are written may begin with. None unless set."),
        may("query", TEXTS, "Patterns of names that may be queried. None unless set."),
    ],
};
