//! `[plugin.x.grant]`: from keys to the policy's own types. What a grant may say by itself is
//! decided there; here each refusal gets its place in the file.

use super::Meaning;
use super::fields::{Fields, Named};
use super::read::looks_secret;
use crate::error::Result;
use crate::policy::ceiling::{Ceiling, Over};
use crate::policy::exec::{ExecGrant, StdinGrant};
use crate::policy::kube::{KubeGrant, KubeVerb, NamePattern};
use crate::policy::metrics::MetricsGrant;
use crate::policy::scratch::ScratchGrant;
use crate::policy::slot::{SlotRule, SlotText, Template};
use crate::policy::storage::{ArtifactGrant, BucketGrant, BucketVerb};
use crate::policy::{Effect, Grants, Mistake, Verb, When};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

impl Meaning<'_> {
    pub(super) fn grants(&mut self, fields: &Fields) -> Grants {
        let mut grants = Grants::default();
        for entry in fields.map("exec") {
            let Some(exec) = entry.table() else { continue };
            if let Some(grant) = self.exec(exec) {
                // Only where there is a ceiling, and every one of them says so.
                let permitted = |name: &str| {
                    let ceilings = self.ceilings.list();
                    !ceilings.is_empty() && ceilings.iter().all(|one| one.allows_dangerous(name, &grant.program))
                };
                let found = grant.check_permitting(&permitted);
                self.check(exec, found);
                self.under_ceilings(exec, |ceiling| ceiling.exec_grant(&grant));
                grants.exec.insert(entry.name.clone(), grant);
            }
        }
        for entry in fields.map("bucket") {
            for bucket in entry.tables() {
                if let Some(grant) = self.bucket_grant(bucket) {
                    self.check(bucket, grant.check());
                    if let Some(path) = self.bucket_paths.get(&entry.name).cloned() {
                        self.under_ceilings(bucket, |ceiling| ceiling.bucket_grant(&path, &grant));
                    }
                    grants.buckets.entry(entry.name.clone()).or_default().push(grant);
                }
            }
        }
        for entry in fields.map("kube") {
            for kube in entry.tables() {
                if let Some(grant) = self.kube_grant(kube) {
                    self.check(kube, grant.check());
                    // Of a kubeconfig the address is known only when it is read.
                    if let Some(server) = self.servers.get(&entry.name).cloned() {
                        self.under_ceilings(kube, |ceiling| ceiling.kube_grant(&server, &grant));
                    }
                    grants.kube.entry(entry.name.clone()).or_default().push(grant);
                }
            }
        }
        if let Some(artifacts) = fields.table("artifacts") {
            let inspect = artifacts.texts("inspect");
            let rules = inspect.iter().filter_map(|(text, span)| {
                self.parsed(&format!("{}.inspect", artifacts.path), span.clone(), SlotRule::pattern(text))
            });
            let grant = ArtifactGrant { inspect: rules.collect(), requested: None };
            self.check(artifacts, grant.check());
            self.under_ceilings(artifacts, |ceiling| ceiling.artifact_grant(&grant));
            grants.artifacts = Some(grant);
        }
        if let Some(scratch) = fields.table("scratch")
            && let (Some(bytes), true) = (scratch.whole("bytes"), scratch.has("verbs"))
        {
            let verbs = scratch.texts("verbs").iter().filter_map(|(text, _)| verb(text)).collect();
            let grant = ScratchGrant { bytes, verbs };
            self.check(scratch, grant.check());
            self.under_ceilings(scratch, |ceiling| ceiling.scratch_grant(&grant));
            grants.scratch = Some(grant);
        }
        if let Some(metrics) = fields.table("metrics") {
            grants.metrics = self.metrics_grant(metrics);
        }
        grants.ceilings = self.ceilings.list();
        grants
    }

    /// What is over a ceiling is a mistake with two places: its own, and the rule that it breaks.
    pub(super) fn under_ceilings(
        &mut self,
        fields: &Fields,
        check: impl Fn(&Ceiling) -> std::result::Result<(), Over>,
    ) {
        for ceiling in self.ceilings.list() {
            let Err(over) = check(&ceiling) else { continue };
            let elsewhere = self.ceilings.elsewhere(&over);
            let message = format!("{} is over the ceiling {}", fields.path, over.at());
            let help =
                format!("grant less, or ask whoever owns \"{}\": a ceiling can only be changed there", over.file);
            let mistake = self.mistakes.add(fields.span_of(over.key), message, over.reason);
            mistake.help = Some(help);
            mistake.elsewhere = elsewhere;
        }
    }

    fn exec(&mut self, fields: &Fields) -> Option<ExecGrant> {
        let args: Vec<_> = fields
            .texts("args")
            .into_iter()
            .filter_map(|(text, span)| self.parsed(&format!("{}.args", fields.path), span, Template::parse(text)))
            .collect();
        let mut env = BTreeMap::new();
        for entry in fields.map("env") {
            let template = Template::parse(entry.text().unwrap_or_default());
            let path = format!("{}.env.{}", fields.path, entry.name);
            if looks_secret(&entry.name) {
                self.mistakes.mask(entry.field.span.clone());
                let help = format!("write secrets = [\"{0}\"] in the grant, and {0} in the job's secrets", entry.name);
                let message = format!("{path} looks like a secret as text");
                self.mistakes.add(entry.name_span.clone(), message, "env is for hosts, ports and users").help =
                    Some(help);
            }
            env.extend(self.parsed(&path, entry.field.span.clone(), template).map(|text| (entry.name.clone(), text)));
        }
        let mut slots = BTreeMap::new();
        for entry in fields.map("slots") {
            let text = match entry.table() {
                None => SlotText { pattern: entry.text(), ..SlotText::default() },
                Some(table) => SlotText {
                    pattern: table.text("pattern"),
                    glob: table.text("glob"),
                    setting: table.text("setting"),
                    max_bytes: table.whole("max_bytes"),
                    max_count: table.whole("max_count"),
                },
            };
            let path = format!("{}.slots.{}", fields.path, entry.name);
            let rule = self.parsed(&path, entry.field.span.clone(), SlotRule::parse(text));
            slots.extend(rule.map(|rule| (entry.name.clone(), rule)));
        }
        let stdin = self.stdin(fields);
        let sha256 = self.pinned(fields);
        // A part that was refused is missing from here on; the grant as a whole is then not judged,
        // or it would be blamed for what was lost.
        let refused = ["sha256", "args", "env", "slots", "secrets", "secret_files", "timeout"]
            .iter()
            .any(|key| fields.is_refused(key));
        let whole = !refused
            && sha256.is_some() == fields.has("sha256")
            && args.len() == fields.list("args").len()
            && env.len() == fields.map("env").len()
            && slots.len() == fields.map("slots").len();
        let when = self.when(fields)?;
        let program = fields.text("program")?;
        whole.then_some(())?;
        Some(ExecGrant {
            program: program.to_owned(),
            sha256,
            args,
            env,
            stdin: stdin?,
            slots,
            secrets: fields.texts("secrets").into_iter().map(|(name, _)| name.to_owned()).collect(),
            secret_files: fields
                .map("secret_files")
                .iter()
                .filter_map(|entry| Some((entry.name.clone(), entry.text()?.to_owned())))
                .collect(),
            inspect: fields.flag("inspect"),
            when,
            partial_stdin: fields.flag("partial_stdin"),
            detects_short_input: fields.flag("detects_short_input"),
            timeout: fields.duration("timeout"),
        })
    }

    /// The digest that a grant pins its program by.
    fn pinned(&mut self, fields: &Fields) -> Option<String> {
        let text = fields.text("sha256")?;
        if let Some(digest) = super::digest(text) {
            return Some(digest);
        }
        let got = format!("expected 64 hex digits, got {} characters", text.chars().count());
        self.mistakes.add(fields.span_of("sha256"), format!("{}.sha256 is not a digest", fields.path), got).help =
            Some("write what `sha256sum` prints of the program's file".to_owned());
        None
    }

    fn stdin(&mut self, fields: &Fields) -> Option<StdinGrant> {
        if !fields.has("stdin") {
            return Some(StdinGrant::None);
        }
        if fields.is_refused("stdin") {
            return None;
        }
        let Some(table) = fields.table("stdin") else {
            return Some(StdinGrant::Plugin);
        };
        if ["text", "hold", "artifact", "made_by"].iter().any(|key| table.is_refused(key)) {
            return None;
        }
        match (table.text("text"), table.text("artifact"), table.text("made_by")) {
            (Some(text), None, None) => Some(StdinGrant::Text { text: text.to_owned(), hold: table.flag("hold") }),
            (None, Some(pattern), Some(made_by)) if !table.has("hold") => {
                let rule = SlotRule::pattern(pattern);
                let name = self.parsed(&format!("{}.artifact", table.path), table.span_of("artifact"), rule)?;
                Some(StdinGrant::Artifact { name, made_by: made_by.to_owned() })
            }
            _ => {
                self.mistakes
                    .add(fields.span_of("stdin"), format!("{}.stdin says neither one thing nor the other", fields.path), "expected one of three forms")
                    .help = Some(
                    "write { text = \"…\" }, { text = \"…\", hold = true }, { artifact = \"PATTERN\", made_by = \"COMMAND\" } or \"plugin\"".to_owned(),
                );
                None
            }
        }
    }

    fn bucket_grant(&mut self, fields: &Fields) -> Option<BucketGrant> {
        let when = self.when(fields)?;
        let may: BTreeSet<BucketVerb> = fields.texts("may").iter().filter_map(|(text, _)| bucket_verb(text)).collect();
        let prefixes = if fields.has("prefixes") {
            fields.texts("prefixes").into_iter().map(|(prefix, _)| prefix.to_owned()).collect()
        } else {
            vec![String::new()]
        };
        fields.has("may").then_some(BucketGrant { may, prefixes, inspect: fields.flag("inspect"), when })
    }

    fn kube_grant(&mut self, fields: &Fields) -> Option<KubeGrant> {
        let when = self.when(fields)?;
        let patterns = |key: &str| fields.texts(key).into_iter().map(|(text, _)| NamePattern::new(text)).collect();
        let mut labels = BTreeMap::new();
        for (text, span) in fields.texts("labels") {
            match text.split_once('=').filter(|(key, _)| !key.is_empty() && !key.contains('*')) {
                Some((key, value)) => drop(labels.insert(key.to_owned(), NamePattern::new(value))),
                None => drop(self.mistakes.add(
                    span,
                    format!("{}.labels: this is not a label", fields.path),
                    "expected \"key=value\"",
                )),
            }
        }
        // A label that was refused would leave a wider grant behind.
        let whole = labels.len() == fields.list("labels").len()
            && !["may", "kinds", "namespaces", "names", "labels"].iter().any(|key| fields.is_refused(key));
        let grant = KubeGrant {
            may: fields.texts("may").iter().filter_map(|(text, _)| KubeVerb::parse(text)).collect(),
            kinds: fields.texts("kinds").into_iter().map(|(kind, _)| kind.to_owned()).collect(),
            namespaces: patterns("namespaces"),
            names: patterns("names"),
            labels,
            inspect: fields.flag("inspect"),
            secret_data: fields.flag("secret_data"),
            when,
        };
        (whole && fields.has("may") && fields.has("kinds")).then_some(grant)
    }

    fn metrics_grant(&mut self, fields: &Fields) -> Option<MetricsGrant> {
        // A part that was refused is missing: the rest would be another grant.
        if ["prefix", "query", "labels", "verbs"].iter().any(|key| fields.is_refused(key)) {
            return None;
        }
        let verbs = if fields.has("verbs") {
            fields.texts("verbs").iter().filter_map(|(text, _)| verb(text)).collect()
        } else {
            MetricsGrant::all_verbs()
        };
        let label = |entry: &Named| Some((entry.name.clone(), entry.text()?.to_owned()));
        let grant = MetricsGrant {
            prefix: fields.text("prefix").map(str::to_owned),
            query: fields.texts("query").into_iter().map(|(name, _)| name.to_owned()).collect(),
            labels: fields.map("labels").iter().filter_map(label).collect(),
            when: MetricsGrant::when(verbs),
        };
        self.check(fields, grant.check());
        self.under_ceilings(fields, |ceiling| ceiling.metrics_grant(&grant));
        Some(grant)
    }

    fn when(&mut self, fields: &Fields) -> Option<When> {
        if !fields.has("verbs") {
            return None;
        }
        let verbs = fields.texts("verbs").iter().filter_map(|(text, _)| verb(text)).collect();
        let effect = match fields.text("effect")? {
            "changes" => Effect::Changes,
            _ => Effect::Reads,
        };
        Some(When { verbs, effect, scratch: fields.flag("scratch") })
    }

    fn parsed<T>(&mut self, path: &str, span: Range<usize>, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let facts: Vec<_> = error.facts().iter().map(|(name, value)| format!("{name} {value}")).collect();
                self.mistakes.add(span, format!("{path}: {}", error.message()), facts.join(", ")).help =
                    error.hint_text().map(str::to_owned);
                None
            }
        }
    }

    /// Puts what the policy says about a grant where the operator wrote it.
    fn check(&mut self, fields: &Fields, found: Vec<Mistake>) {
        for Mistake { key, message, hint } in found {
            let (first, rest) = key.split_once('.').unwrap_or((&key, ""));
            let entry = fields.map(first).iter().find(|entry| entry.name == rest);
            let span = entry.map_or_else(|| fields.span_of(first), |entry| entry.name_span.clone());
            self.mistakes.add(span, format!("{}.{key} cannot be granted", fields.path), message).help =
                (!hint.is_empty()).then_some(hint);
        }
    }
}

fn verb(text: &str) -> Option<Verb> {
    [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into_iter().find(|verb| verb.name() == text)
}

pub(super) fn bucket_verb(text: &str) -> Option<BucketVerb> {
    use BucketVerb::{Delete, DeleteVersion, List, Overwrite, Owners, Read, ReadConfig, Write, WriteConfig};
    [List, Read, Write, Overwrite, Owners, Delete, DeleteVersion, ReadConfig, WriteConfig]
        .into_iter()
        .find(|verb| verb.name() == text)
}
