//! The questions of `plugin approve`: every bucket, cluster and namespace, every slot, every command in
//! full. No answer is yes, and each question takes less than what was asked for.

use super::super::super::ask::answer;
pub(super) use super::super::super::ask::yes;
use super::super::super::output::Output;
use super::super::super::{propose, vendor};
use crate::config::Config;
use crate::config::edit::{RawExec, RawGrants, RawKube, RawMetrics, RawScratch};
use crate::error::{Error, Result};
use crate::id::Label;
use crate::plugin::inspect::admits;
use crate::plugin::manifest::{PluginManifest, RawSlot};
use crate::plugin::speech;
use crate::policy::slot::{Piece, SlotRule, Template};
use std::collections::{BTreeMap, BTreeSet};

/// What the settings of the plugin's jobs name, by setting.
pub(super) struct Settings(BTreeMap<String, BTreeSet<String>>);

impl Settings {
    pub(super) fn of(config: &Config, label: &Label) -> Self {
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for job in config.jobs.values().filter(|job| job.plugin == *label) {
            for (name, value) in job.settings.as_object().into_iter().flatten() {
                let one = value.as_str().into_iter();
                let many = value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
                named.entry(name.clone()).or_default().extend(one.chain(many).map(str::to_owned));
            }
        }
        Self(named)
    }

    /// The values of a setting, and whether some are left out.
    fn values(&self, setting: &str) -> String {
        const SHOWN: usize = 8;
        let Some(values) = self.0.get(setting).filter(|values| !values.is_empty()) else {
            return "no job names any yet".to_owned();
        };
        let shown: Vec<_> = values.iter().take(SHOWN).map(|value| speech::whole(value)).collect();
        let more = if values.len() > SHOWN { format!(", and {} more", values.len() - SHOWN) } else { String::new() };
        format!("the jobs name {}{more}", shown.join(", "))
    }
}

/// Asks which buckets are meant by each setting that names one: offered is what jobs and targets name.
pub(super) fn buckets(
    manifest: &PluginManifest,
    config: &Config,
    known: &mut propose::Known,
    output: &Output,
) -> Result<()> {
    let asked = manifest.request.bucket.iter().map(|request| (&request.setting, &request.reason)).collect();
    let configured = config.buckets.keys().map(Label::as_str).collect();
    places("bucket", &asked, &configured, &mut known.buckets, output)
}

/// Settings of a job that name namespaces, by the custom of plugins for clusters: what they say is offered.
const NAMESPACES: [&str; 2] = ["namespaces", "namespace"];

/// The option of a target that names them.
const SCRATCH_PREFIX: &str = "scratch_prefix";

/// Asks which clusters are meant, and which namespaces of each: there is no default.
pub(super) fn clusters(
    manifest: &PluginManifest,
    config: &Config,
    settings: &Settings,
    known: &mut propose::Known,
    output: &Output,
) -> Result<()> {
    let asked = manifest.request.kube.iter().map(|request| (&request.setting, &request.reason)).collect();
    let configured = config.clusters.keys().map(Label::as_str).collect();
    places("cluster", &asked, &configured, &mut known.clusters, output)?;
    let labels: BTreeSet<String> = known.clusters.values().flatten().cloned().collect();
    for label in labels {
        let mut given: Vec<String> = known.namespaces.get(&label).into_iter().flatten().cloned().collect();
        if given.is_empty() {
            let named = NAMESPACES.iter().filter_map(|setting| settings.0.get(*setting));
            given = named.flatten().cloned().collect();
        }
        output.complain(&format!("\nwhich namespaces of cluster \"{}\"?", vendor::line(&label, 64)));
        let question = if given.is_empty() {
            "names, where * stands for any characters; * alone for all and what lies in none; or nothing for none:"
                .to_owned()
        } else {
            let shown: Vec<_> = given.iter().map(|name| speech::whole(name)).collect();
            format!("y for {}, other names, or nothing for none:", shown.join(", "))
        };
        let answer = answer(&question)?;
        let chosen: BTreeSet<String> = match Answer::of(&answer) {
            Answer::Yes => given.into_iter().collect(),
            Answer::No => BTreeSet::new(),
            Answer::Other(names) => names.into_iter().collect(),
        };
        if chosen.is_empty() {
            known.clusters.values_mut().for_each(|labels| labels.retain(|one| *one != label));
        }
        known.namespaces.insert(label.clone(), chosen);
        let here = |setting: &String| known.clusters.get(setting).is_some_and(|labels| labels.contains(&label));
        if manifest.request.kube.iter().any(|request| request.scratch && here(&request.setting)) {
            scratch_namespaces(&label, config, known, output)?;
        }
    }
    Ok(())
}

/// Asks which namespaces test restores may make and remove. Offered is what begins with the option of a target.
fn scratch_namespaces(label: &str, config: &Config, known: &mut propose::Known, output: &Output) -> Result<()> {
    let mut given: Vec<String> = known.scratch_namespaces.get(label).into_iter().flatten().cloned().collect();
    if given.is_empty() {
        let prefixes = config.targets.values().filter_map(|target| target.options[SCRATCH_PREFIX].as_str());
        given = prefixes.map(|prefix| format!("{prefix}*")).collect();
    }
    let shown = vendor::line(label, 64);
    output.complain(&format!("\nwhich namespaces of cluster \"{shown}\" may test restores make and remove?"));
    let question = if given.is_empty() {
        "names that nothing else has, such as try-*, or nothing for no test restores:".to_owned()
    } else {
        let shown: Vec<_> = given.iter().map(|name| speech::whole(name)).collect();
        format!("y for {}, other names, or nothing for no test restores:", shown.join(", "))
    };
    let chosen = match Answer::of(&answer(&question)?) {
        Answer::Yes => given.into_iter().collect(),
        Answer::No => BTreeSet::new(),
        Answer::Other(names) => names.into_iter().collect(),
    };
    known.scratch_namespaces.insert(label.to_owned(), chosen);
    Ok(())
}

/// Asks which buckets or clusters are meant by each setting that names one.
fn places(
    what: &str,
    asked: &Vec<(&String, &String)>,
    configured: &BTreeSet<&str>,
    known: &mut BTreeMap<String, BTreeSet<String>>,
    output: &Output,
) -> Result<()> {
    let settings: BTreeSet<&String> = asked.iter().map(|(setting, _)| *setting).collect();
    for setting in settings {
        let offered: Vec<String> = known.get(setting).into_iter().flatten().cloned().collect();
        output.complain(&format!("\nwhich {what} is \"{}\"?", vendor::line(setting, 128)));
        for (_, reason) in asked.iter().filter(|(name, _)| *name == setting) {
            output.complain(&format!("  why, says the vendor: {}", vendor::line(reason, vendor::MAX_BYTES)));
        }
        let question = if offered.is_empty() {
            format!("label(s) of {what}s, or nothing for none:")
        } else {
            format!("y for {}, other label(s), or nothing for none:", offered.join(", "))
        };
        let answer = answer(&question)?;
        let chosen: BTreeSet<String> = match Answer::of(&answer) {
            Answer::Yes => offered.into_iter().collect(),
            Answer::No => BTreeSet::new(),
            Answer::Other(labels) => labels.into_iter().collect(),
        };
        for label in &chosen {
            if !configured.contains(label.as_str()) {
                return Err(Error::invalid(format!("there is no {what} \"{}\"", vendor::line(label, 64)))
                    .hint("add it to the configuration first, or name another one"));
            }
        }
        known.insert(setting.clone(), chosen);
    }
    Ok(())
}

/// Asks for each grant. What is not granted is left out; the plugin is told `denied` when it tries.
pub(super) fn grants(
    manifest: &PluginManifest,
    mut grants: RawGrants,
    settings: &Settings,
    output: &Output,
) -> Result<RawGrants> {
    // A slot that several commands have in the same way is asked about once.
    let mut answered: BTreeMap<(String, String), Option<RawSlot>> = BTreeMap::new();
    let mut granted = BTreeMap::new();
    for (name, mut exec) in std::mem::take(&mut grants.exec) {
        let reason = manifest.request.exec.iter().find(|request| request.name == name);
        let reason = reason.map(|request| request.reason.as_str()).unwrap_or_default();
        output.complain(&format!("\ncommand \"{}\"\n{}", vendor::line(&name, 128), propose::toml(&exec)?));
        output.complain(&format!("  why, says the vendor: {}", vendor::line(reason, vendor::MAX_BYTES)));
        let mut refused = false;
        for (slot, rule) in &mut exec.grant.slots {
            let key = (slot.clone(), admits(rule));
            let answer = match answered.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let answer = ask_slot(slot, rule, settings, output)?;
                    answered.insert(key, answer.clone());
                    answer
                }
            };
            match answer {
                Some(answer) => *rule = answer,
                None => refused = true,
            }
        }
        if refused {
            output.complain("  not granted: a slot of it may be filled with nothing");
            continue;
        }
        output.complain(&format!("  runs: {}", command_line(&exec, settings)));
        if yes("grant it?")? {
            granted.insert(name, exec);
        }
    }
    grants.exec = granted;
    let mut without = Vec::new();
    for (label, several) in &grants.bucket {
        for grant in several {
            output.complain(&format!("\nbucket \"{label}\"\n{}", propose::toml(grant)?));
        }
        if !yes("grant it?")? {
            without.push(label.clone());
        }
    }
    without.iter().for_each(|label| drop(grants.bucket.remove(label)));
    for (label, several) in std::mem::take(&mut grants.kube) {
        for asked in several {
            output.complain(&format!("\ncluster \"{label}\"\n{}", propose::toml(&asked)?));
            if let Some(granted) = ask_cluster(asked, output)? {
                grants.kube.entry(label.clone()).or_default().push(granted);
            }
        }
    }
    if let Some(artifacts) = &grants.artifacts {
        if !artifacts.inspect.is_empty() {
            output
                .complain(&format!("\nthe plugin itself would read artifacts named {}", artifacts.inspect.join(", ")));
        }
        if !yes("\nstore and read the artifacts of its own backups: grant it?")? {
            grants.artifacts = None;
        }
    }
    if let (Some(scratch), Some(request)) = (&grants.scratch, &manifest.request.scratch) {
        output.complain(&format!("\nscratch directory\n{}", propose::toml(scratch)?));
        output.complain(&format!("  why, says the vendor: {}", vendor::line(&request.reason, vendor::MAX_BYTES)));
        grants.scratch = ask_scratch(scratch.clone(), output)?;
    }
    if let Some(metrics) = &grants.metrics {
        let reason = manifest.request.metrics.as_ref().map(|request| request.reason.as_str()).unwrap_or_default();
        output.complain(&format!("\nmetrics\n{}", propose::toml(metrics)?));
        output.complain(&format!("  why, says the vendor: {}", vendor::line(reason, vendor::MAX_BYTES)));
        grants.metrics = ask_metrics(metrics.clone(), output)?;
    }
    Ok(grants)
}

/// What was answered to a question that offers something.
enum Answer {
    /// What is offered.
    Yes,
    /// Nothing of it.
    No,
    /// These words instead, at least one.
    Other(Vec<String>),
}

impl Answer {
    fn of(answer: &str) -> Self {
        let words = answer.split([',', ' ']).filter(|word| !word.is_empty());
        match answer {
            "" | "n" | "N" | "no" => Answer::No,
            "y" | "Y" | "yes" => Answer::Yes,
            _ => Answer::Other(words.map(str::to_owned).collect()),
        }
    }
}

/// One grant of a cluster as it is, for other kinds of objects, or not at all.
fn ask_cluster(mut grant: RawKube, output: &Output) -> Result<Option<RawKube>> {
    loop {
        if grant.as_grant().is_administrator() {
            output.complain("  whoever holds this is the cluster's administrator");
        }
        match Answer::of(&answer("grant it? y, other kinds than these, or nothing to refuse:")?) {
            Answer::No => return Ok(None),
            Answer::Yes => return Ok(Some(grant)),
            Answer::Other(kinds) => {
                let other = RawKube { kinds: kinds.into_iter().collect(), ..grant.clone() };
                let mistakes = other.as_grant().check();
                mistakes.iter().for_each(|mistake| output.complain(&format!("  {}", speech::whole(&mistake.message))));
                if mistakes.is_empty() {
                    output.complain(&propose::toml(&other)?);
                    grant = other;
                }
            }
        }
    }
}

/// A scratch directory of the size that is asked for, of another one, or none.
fn ask_scratch(scratch: RawScratch, output: &Output) -> Result<Option<RawScratch>> {
    let question =
        format!("a private directory, removed when the run ends: y for {}, another size, or nothing:", scratch.bytes);
    loop {
        match answer(&question)?.as_str() {
            "" | "n" | "N" | "no" => return Ok(None),
            "y" | "Y" | "yes" => return Ok(Some(scratch)),
            size => match crate::unit::parse_bytes(size) {
                Ok(_) => return Ok(Some(RawScratch { bytes: size.to_owned(), ..scratch })),
                Err(error) => output.complain(&format!("  {error}")),
            },
        }
    }
}

/// Metrics as they are asked for, with fewer names to query, or none.
fn ask_metrics(mut metrics: RawMetrics, output: &Output) -> Result<Option<RawMetrics>> {
    if !metrics.query.is_empty() {
        output.complain("  it would see those metrics of everybody: write labels = { … } into the grant to narrow it");
        let names: Vec<&str> = metrics.query.iter().map(String::as_str).collect();
        let question = format!("which may it ask for? y for {}, some of them, or nothing for none:", names.join(", "));
        match Answer::of(&answer(&question)?) {
            Answer::Yes => {}
            Answer::No => metrics.query.clear(),
            Answer::Other(names) => metrics.query.retain(|name| names.contains(name)),
        }
        if metrics.query.is_empty() && metrics.prefix.is_none() {
            output.complain("  not granted: nothing is left of it");
            return Ok(None);
        }
        output.complain(&propose::toml(&metrics)?);
    }
    Ok(yes("grant it?")?.then_some(metrics))
}

/// What may fill a slot, or that nothing may.
fn ask_slot(name: &str, proposed: &RawSlot, settings: &Settings, output: &Output) -> Result<Option<RawSlot>> {
    let offered = match proposed {
        RawSlot::Table { setting: Some(setting), .. } => {
            format!("what the setting \"{}\" names; {}", vendor::line(setting, 128), settings.values(setting))
        }
        _ => format!("{}, the vendor proposes; {}", speech::whole(&admits(proposed)), settings.values(name)),
    };
    output.complain(&format!("  slot \"{}\": {offered}", vendor::line(name, 64)));
    loop {
        let answer = answer("  what may fill it? y for that, a pattern of your own, or nothing to refuse:")?;
        match answer.as_str() {
            "" | "n" | "N" | "no" => return Ok(None),
            "y" | "Y" | "yes" => return Ok(Some(proposed.clone())),
            pattern => match SlotRule::pattern(pattern) {
                Ok(_) => return Ok(Some(RawSlot::Pattern(pattern.to_owned()))),
                Err(error) => output.complain(&format!("  {error}")),
            },
        }
    }
}

/// The command line as it would run, each hole as what may fill it.
fn command_line(exec: &RawExec, settings: &Settings) -> String {
    let filled = |text: &String| {
        let Ok(template) = Template::parse(text) else { return text.clone() };
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Slot(name) => match exec.grant.slots.get(name) {
                Some(RawSlot::Table { setting: Some(setting), .. }) => match settings.0.get(setting) {
                    Some(values) if values.len() == 1 => values.iter().cloned().collect(),
                    Some(values) if values.len() > 1 => {
                        format!("<{}>", values.iter().cloned().collect::<Vec<_>>().join("|"))
                    }
                    _ => format!("<setting {setting}>"),
                },
                Some(slot) => format!("<{}>", admits(slot).trim_matches('"')),
                None => format!("<{name}>"),
            },
        };
        template.pieces.iter().map(piece).collect()
    };
    let env = exec.grant.env.iter().map(|(name, value)| format!("{name}={}", filled(value)));
    let secrets = exec.grant.secrets.iter().map(|name| format!("{name}=(secret)"));
    let files = exec.grant.secret_files.iter().map(|(variable, name)| format!("{variable}=(file with {name})"));
    let words = env.chain(secrets).chain(files).chain([exec.program.clone()]).chain(exec.grant.args.iter().map(filled));
    let line: Vec<String> = words.map(|word| quoted(&speech::whole(&word))).collect();
    line.join(" ")
}

/// A word as a shell would need it, so that a person sees where one argument ends.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+<>|[]{}^".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
