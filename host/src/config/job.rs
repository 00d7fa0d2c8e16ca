//! `[job.x]` and `[target.x]`: what is backed up, where its commands run, what surrounds them, what is kept.

use super::fields::{Fields, Named};
use super::read::{escape, looks_secret, nearest};
use super::secret::KeyedSecret;
use super::{Depth, JobConfig, Meaning, SecretRef, TargetConfig, VerbConfig, VerifyConfig};
use crate::clock;
use crate::exec::{Choice, PodSpec, RunIn};
use crate::id::Label;
use crate::policy::narrowing::Narrowing;
use crate::policy::{Grants, Verb};
use crate::run::retention::Keep;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// What the names of strongroom's own variables begin with; one of them marks a command in a container.
const OWN_VARIABLES: &str = "STRONGROOM_";

impl JobConfig {
    /// Environment and secrets of its commands in a verb, where they run in the job's own place: the job's, and
    /// over them by name what the verb has of its own. Each secret comes with the key that refers to it.
    pub fn surroundings(&self, label: &Label, verb: Verb) -> (BTreeMap<String, String>, Vec<KeyedSecret<'_>>) {
        let none = VerbConfig::default();
        let own = self.verbs.get(&verb).unwrap_or(&none);
        let is_own = |name: &String| own.env.contains_key(name) || own.secrets.contains_key(name);
        let mut env = self.env.clone();
        env.retain(|name, _| !is_own(name));
        env.extend(own.env.clone());
        let keyed = |name: &String, table: String| (name.clone(), format!("{table}.secrets.{name}"));
        let of_job = self.secrets.iter().filter(|(name, _)| !is_own(name));
        let of_job = of_job.map(|(name, reference)| (keyed(name, format!("job.{label}")), reference));
        let secrets = self.verbs.get(&verb).into_iter().flat_map(|own| &own.secrets);
        let secrets = secrets.map(|(name, reference)| (keyed(name, format!("job.{label}.{}", verb.name())), reference));
        let secrets = of_job.chain(secrets).map(|((name, key), reference)| KeyedSecret { name, key, reference });
        (env, secrets.collect())
    }

    /// What holds of its plugin's grants in this job, or in one of its verbs.
    pub fn narrowed(&self, grants: &Grants, verb: Option<Verb>) -> Grants {
        let mut narrowed = grants.clone();
        let of_verb = verb.and_then(|verb| self.verbs.get(&verb)?.grants.as_ref());
        self.grants.iter().chain(of_verb).for_each(|narrowing| narrowed.narrow(narrowing));
        narrowed
    }

    /// Lets a grant hold in a verb that nobody could name, since it is made for one run.
    pub fn lend(&mut self, verb: Verb, name: &str) {
        let of_verb = self.verbs.get_mut(&verb).and_then(|own| own.grants.as_mut());
        self.grants.iter_mut().chain(of_verb).for_each(|narrowing| narrowing.names.extend([name.to_owned()]));
    }
}

/// The names of what a plugin is granted, as it is written: also of what is wrong, which has been told.
fn granted(plugin: &Fields) -> BTreeSet<String> {
    let Some(grant) = plugin.table("grant") else { return BTreeSet::new() };
    let labelled = ["exec", "bucket", "kube"]
        .into_iter()
        .flat_map(|kind| grant.map(kind).iter().map(move |entry| format!("{kind}.{}", entry.name)));
    let whole = ["artifacts", "scratch", "metrics"].into_iter().filter(|kind| grant.has(kind));
    labelled.chain(whole.map(str::to_owned)).collect()
}

fn shown(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl Meaning<'_> {
    pub(super) fn target(&mut self, root: &Fields, fields: &Fields) -> Option<TargetConfig> {
        let (env, secrets) = self.surroundings(fields);
        Some(TargetConfig { run_in: self.run_in(root, fields), env, secrets, options: fields.json("options") })
    }

    pub(super) fn job(&mut self, root: &Fields, fields: &Fields) -> Option<JobConfig> {
        let (env, secrets) = self.surroundings(fields);
        let run_in = self.run_in(root, fields);
        let verify = fields.table("verify").map(|verify| self.verify(root, verify)).unwrap_or_default();
        let plugin = self.label(root, fields, "plugin", "plugin");
        let store = self.label(root, fields, "store", "store");
        let (grants, verbs) = self.narrowings(root, fields);
        Some(JobConfig {
            plugin: plugin?,
            store: store?,
            run_in,
            env,
            secrets,
            grants,
            verbs,
            settings: fields.json("settings"),
            verify,
            objective: fields.duration("objective"),
            keep: fields.table("keep").map(|keep| self.keep(keep)),
            timezone: self.timezone(fields),
        })
    }

    /// `grants` of the job, and what is different in each of its verbs.
    fn narrowings(&mut self, root: &Fields, job: &Fields) -> (Option<Narrowing>, BTreeMap<Verb, VerbConfig>) {
        let plugin = root.map("plugin").iter().find(|plugin| Some(plugin.name.as_str()) == job.text("plugin"));
        // Of a plugin that is not there, which has been told, nothing is known.
        let granted = plugin.and_then(Named::table).filter(|plugin| !plugin.is_refused("grant")).map(granted);
        let whose = format!("plugin.{}.grant", job.text("plugin").unwrap_or_default());
        let grants = self.narrowing(job, granted.as_ref(), &whose, None);
        let (held, holder) = match &grants {
            Some(narrowing) => (Some(&narrowing.names), narrowing.rule()),
            None => (granted.as_ref(), whose),
        };
        let mut verbs = BTreeMap::new();
        for verb in [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose] {
            let Some(fields) = job.table(verb.name()) else { continue };
            let (env, secrets) = self.surroundings(fields);
            let grants = self.narrowing(fields, held, &holder, granted.as_ref());
            verbs.insert(verb, VerbConfig { env, secrets, grants });
        }
        (grants, verbs)
    }

    /// `grants` of a job or of one of its verbs: nothing that `held`, which `holder` says, does not have.
    /// `granted` is what the plugin has, where a job may have left it out.
    fn narrowing(
        &mut self,
        fields: &Fields,
        held: Option<&BTreeSet<String>>,
        holder: &str,
        granted: Option<&BTreeSet<String>>,
    ) -> Option<Narrowing> {
        if !fields.has("grants") || fields.is_refused("grants") {
            return None;
        }
        let mut names = BTreeSet::new();
        for (name, span) in fields.texts("grants") {
            names.insert(name.to_owned());
            let Some(held) = held.filter(|held| !held.contains(name)) else { continue };
            let known = if held.is_empty() { "nothing".to_owned() } else { shown(held) };
            let message = format!("{}.grants: {holder} has no \"{}\"", fields.path, escape(name));
            let near =
                || nearest(name, held.iter().map(String::as_str)).map(|near| format!("did you mean \"{near}\"?"));
            let is_left_out = granted.is_some_and(|granted| granted.contains(name));
            self.mistakes.add(span, message, format!("expected some of what it has: {known}")).help =
                if is_left_out { Some(format!("name it in {holder} as well")) } else { near() };
        }
        Some(Narrowing { table: fields.path.clone(), names })
    }

    fn keep(&mut self, fields: &Fields) -> Keep {
        let periods = |name| fields.whole(name).unwrap_or(0);
        let keep = Keep {
            last: periods("last"),
            hourly: periods("hourly"),
            daily: periods("daily"),
            weekly: periods("weekly"),
            monthly: periods("monthly"),
            yearly: periods("yearly"),
        };
        let is_told =
            ["last", "hourly", "daily", "weekly", "monthly", "yearly"].iter().any(|key| fields.is_refused(key));
        if keep.is_nothing() && !is_told {
            let label = "expected a number above 0 for last, hourly, daily, weekly, monthly or yearly";
            self.mistakes.add(fields.span.clone(), format!("{} keeps nothing", fields.path), label).help = Some(
                "write keep = { daily = 7, weekly = 4, monthly = 12 }, or leave keep out to keep everything".to_owned(),
            );
        }
        keep
    }

    fn timezone(&mut self, fields: &Fields) -> TimeZone {
        let Some(name) = fields.text("timezone") else { return TimeZone::UTC };
        clock::zone(name).unwrap_or_else(|error| {
            let label = error.facts().iter().map(|(_, expected)| format!("expected {expected}")).collect::<String>();
            let message = format!("{}.timezone: there is no time zone \"{}\"", fields.path, escape(name));
            self.mistakes.add(fields.span_of("timezone"), message, label).help = error.hint_text().map(str::to_owned);
            TimeZone::UTC
        })
    }

    fn verify(&mut self, root: &Fields, fields: &Fields) -> VerifyConfig {
        let depth = match fields.text("depth") {
            Some("stored") => Depth::Stored,
            Some("restore") => Depth::Restore,
            _ => Depth::Contents,
        };
        let target = self.label(root, fields, "target", "target");
        let on_source = fields.flag("on_source");
        if depth == Depth::Restore && !fields.has("target") && !on_source && !fields.is_refused("on_source") {
            self.mistakes
                .add(fields.span_of("depth"), format!("{} restores and names no target", fields.path), "where to?")
                .help = Some(
                "write target = \"…\" with a [target.…], or on_source = true to restore beside the source itself"
                    .to_owned(),
            );
        }
        if on_source && fields.has("target") {
            let label = "expected one of target and on_source";
            self.mistakes.add(
                fields.span_of("on_source"),
                format!("{}.on_source contradicts target", fields.path),
                label,
            );
        }
        VerifyConfig { depth, target, on_source }
    }

    /// `env` and `secrets`, which a job and a target have alike.
    fn surroundings(&mut self, fields: &Fields) -> (BTreeMap<String, String>, BTreeMap<String, SecretRef>) {
        let mut env = BTreeMap::new();
        for entry in fields.map("env") {
            let Some(text) = entry.text() else { continue };
            if looks_secret(&entry.name) {
                self.mistakes.mask(entry.field.span.clone());
                let message = format!("{}.env.{} looks like a secret as text", fields.path, entry.name);
                self.mistakes.add(entry.name_span.clone(), message, "env is for hosts, ports and users").help = Some(
                    format!("write secrets = {{ {} = {{ env = \"NAME\" }} }} or {{ file = \"PATH\" }}", entry.name),
                );
            }
            env.insert(entry.name.clone(), text.to_owned());
        }
        for entry in fields.map("env").iter().chain(fields.map("secrets")) {
            if entry.name.to_ascii_uppercase().starts_with(OWN_VARIABLES) {
                let message = format!("{} may not set {}", fields.path, entry.name);
                let label = "strongroom itself reads variables with such names";
                self.mistakes.add(entry.name_span.clone(), message, label);
            }
        }
        let mut secrets = BTreeMap::new();
        for entry in fields.map("secrets") {
            let Some(secret) = entry.secret() else { continue };
            if env.contains_key(&entry.name) {
                let message = format!("{} sets {} in env and in secrets", fields.path, entry.name);
                self.mistakes.add(entry.name_span.clone(), message, "expected one of them");
            }
            secrets.insert(entry.name.clone(), self.secret_ref(secret));
        }
        (env, secrets)
    }

    fn run_in(&mut self, root: &Fields, fields: &Fields) -> RunIn {
        let here = RunIn::Local { user: None };
        let Some(place) = fields.table("run_in") else { return here };
        for key in ["user", "container"] {
            let bad = |text: &str| {
                text.is_empty() || text.starts_with('-') || text.chars().any(|c| c.is_whitespace() || c.is_control())
            };
            if place.text(key).is_some_and(bad) {
                let label = "expected a name that does not begin with - and holds no spaces";
                self.mistakes.add(place.span_of(key), format!("{}.{key} is not a name", place.path), label);
            }
        }
        if let Some(pod) = place.table("pod") {
            for key in ["user", "container", "client"].into_iter().filter(|key| place.has(key)) {
                let message = format!("{} names a pod and a {key}", place.path);
                self.mistakes.add(place.span_of(key), message, "expected one of them").help =
                    Some("name a container of the pod as pod = { …, container = \"…\" }".to_owned());
            }
            return self.pod(root, pod).map_or(here, RunIn::Pod);
        }
        match (place.text("user"), place.text("container")) {
            (Some(_), Some(_)) => {
                self.mistakes
                    .add(
                        place.span_of("user"),
                        format!("{} names a user and a container", place.path),
                        "expected one of them",
                    )
                    .help =
                    Some("to be another user inside a container, name the client with its arguments".to_owned());
                here
            }
            (user, None) => {
                if place.has("client") {
                    let label = "a client is for a container";
                    self.mistakes.add(
                        place.span_of("client"),
                        format!("{}.client without container", place.path),
                        label,
                    );
                }
                RunIn::Local { user: user.map(str::to_owned) }
            }
            (None, Some(name)) => RunIn::Container { name: name.to_owned(), client: self.client(place) },
        }
    }

    fn pod(&mut self, root: &Fields, pod: &Fields) -> Option<PodSpec> {
        for key in ["namespace", "selector", "name", "container", "service_account", "image"] {
            let is_bad = |text: &str| text.is_empty() || text.chars().any(char::is_control);
            if pod.text(key).is_some_and(is_bad) {
                let label = "expected a text without line breaks";
                self.mistakes.add(pod.span_of(key), format!("{}.{key} says nothing", pod.path), label);
            }
        }
        let choice = match (pod.text("name"), pod.text("selector")) {
            (Some(name), None) => Some(Choice::Name(name.to_owned())),
            (None, Some(selector)) => Some(Choice::Selector(selector.to_owned())),
            (Some(_), Some(_)) => {
                let message = format!("{} has a name and a selector", pod.path);
                self.mistakes.add(pod.span_of("name"), message, "expected one of them");
                None
            }
            (None, None) if pod.is_refused("name") || pod.is_refused("selector") => None,
            (None, None) => {
                let message = format!("{} does not say which pod", pod.path);
                self.mistakes.add(pod.span.clone(), message, "expected selector or name").help =
                    Some("write selector = \"app=…\", or name = \"…\"".to_owned());
                None
            }
        };
        let cluster = self.label(root, pod, "cluster", "cluster");
        let owned = |key| pod.text(key).map(str::to_owned);
        Some(PodSpec {
            cluster: cluster?.to_string(),
            namespace: owned("namespace")?,
            choice: choice?,
            container: owned("container"),
            service_account: owned("service_account"),
            image: owned("image"),
        })
    }

    fn client(&mut self, place: &Fields) -> Vec<String> {
        if let Some(word) = place.text("client") {
            return vec![word.to_owned()];
        }
        if !place.has("client") || place.is_refused("client") {
            return vec!["docker".to_owned()];
        }
        let client: Vec<String> = place.texts("client").into_iter().map(|(text, _)| text.to_owned()).collect();
        if !client.first().is_some_and(|program| program.starts_with('/')) {
            self.mistakes
                .add(
                    place.span_of("client"),
                    format!("{}.client does not begin with a program", place.path),
                    "expected an absolute path first",
                )
                .help = Some("write client = [\"/usr/bin/podman\"], or client = \"podman\"".to_owned());
        }
        client
    }
}
