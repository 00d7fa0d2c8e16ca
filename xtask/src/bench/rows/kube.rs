//! Objects of a cluster, beside a bare client of the same API server and beside kubectl; the output of a command in a
//! pod, beside `kubectl exec`. The API server has the same cores: what it costs is in every figure, and ratios say
//! what is added to it.

use super::{Bench, DEFAULT_LEVEL};
use crate::bench::cluster::Cluster;
use crate::bench::host::{JOB, Job};
use crate::bench::input::Input;
use crate::bench::measure::{Measured, Pipeline, Process};
use crate::bench::place::{Kind, Place};
use crate::bench::table::{Better, RATIO, float, median};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Objects in a second, of 2 KB.
const BACKUP_GOAL: f64 = 10_000.0;
const RESTORE_GOAL: f64 = 800.0;
const PLAN_GOAL: f64 = 500.0;
/// Of what the bare client reaches in the same run.
const OF_LIST_GOAL: f64 = 0.5;
const OF_APPLY_GOAL: f64 = 0.7;
/// Of what `kubectl exec` reaches.
const OF_EXEC_GOAL: f64 = 0.9;
/// Peak memory of the host with 200,000 objects, in MiB.
const MEMORY_GOAL: f64 = 150.0;
/// How many times the objects of the other row are backed up where memory is looked at.
const MEMORY_TIMES: u64 = 10;
/// How many times the bytes of other rows come out of a pod: to connect, and to learn what the pod has, takes half a
/// second once.
const EXEC_TIMES: u64 = 4;
const MIB: u64 = 1 << 20;

/// What is restored and planned: the objects of ten namespaces. `kubectl` is slow: it writes those of one.
const CHOSEN: &str = "namespaces=[\"bench-00?\"]";
const CHOSEN_OBJECTS: u64 = 5_000;
const KUBECTL_OBJECTS: u64 = 500;

/// Seconds of each kind of work, round by round.
#[derive(Debug, Default)]
struct Seconds {
    list: Vec<f64>,
    get: Vec<f64>,
    backup: Vec<f64>,
    apply: Vec<f64>,
    attempt: Vec<f64>,
    kubectl: Vec<f64>,
    restore: Vec<f64>,
    plan_changes: Vec<f64>,
    plan_creates: Vec<f64>,
}

/// A filled cluster, and the job that backs it up into a local store in memory.
struct Scene {
    cluster: Cluster,
    _place: Place,
    objects: u64,
}

impl Scene {
    fn start(bench: &Bench, objects: u64) -> Result<Self> {
        let cluster = start(bench)?;
        println!("  filling the cluster with {objects} objects");
        bench.arena.quietly(cluster.bare("fill", &[objects])?)?;
        let place = bench.start(Kind::Local)?;
        let job = Job::Objects { kubeconfig: cluster.kubeconfig()? };
        bench.arena.host.configure(&place, DEFAULT_LEVEL, &job)?;
        Ok(Self { cluster, _place: place, objects })
    }

    /// The bare client and kubectl print what they did; what they print is checked.
    fn bare(&self, bench: &Bench, command: &str, numbers: &[u64], expected: u64) -> Result<f64> {
        let (measured, said) = measure(bench, self.cluster.bare(command, numbers)?)?;
        let done: u64 = said.trim().parse().with_context(|| format!("kube-alone {command} printed {said}"))?;
        // The cluster has some config maps of its own.
        if done < expected {
            bail!("kube-alone {command}: {done} objects instead of {expected}");
        }
        Ok(measured.seconds)
    }

    fn backup(&self, bench: &Bench) -> Result<Measured> {
        let (measured, said) = measure(bench, bench.arena.host.process(&["backup", JOB, "--output", "json"]))?;
        let said: Value = serde_json::from_str(&said).context("a backup speaks JSON")?;
        let facts = said["facts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kept = facts.iter().find(|fact| fact["name"] == "a.objects").and_then(|fact| fact["value"].as_str());
        let kept: u64 = kept.and_then(|kept| kept.parse().ok()).context("a backup says how many objects it has")?;
        if kept < self.objects {
            bail!("the backup has {kept} objects instead of {}", self.objects);
        }
        Ok(measured)
    }

    /// A restore or plan of what is chosen; every object must have met this fate.
    fn restore(&self, bench: &Bench, options: &[&str], action: &str) -> Result<f64> {
        let arguments = [&["restore", JOB, "latest", "--output", "json", "--option", CHOSEN], options].concat();
        let (measured, said) = measure(bench, bench.arena.host.process(&arguments))?;
        let said: Value = serde_json::from_str(&said).context("a restore speaks JSON")?;
        let steps = said["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Each kind is summed up in a step whose note begins with the number of its objects.
        let sums = steps
            .iter()
            .filter(|step| step["action"] == action)
            .filter_map(|step| step["note"].as_str()?.strip_suffix(" objects")?.parse::<u64>().ok());
        let done: u64 = sums.sum();
        if done != CHOSEN_OBJECTS {
            bail!("{action}: {done} objects instead of {CHOSEN_OBJECTS}: {said}");
        }
        Ok(measured.seconds)
    }

    fn clear(&self, bench: &Bench, objects: u64) -> Result<()> {
        bench.arena.quietly(self.cluster.bare("clear", &[0, objects])?).map(drop)
    }
}

fn start(bench: &Bench) -> Result<Cluster> {
    Cluster::start(&bench.arena.kube_alone, bench.arena.scratch.empty("kubectl")?)
}

fn measure(bench: &Bench, process: Process) -> Result<(Measured, String)> {
    let output = bench.arena.scratch.path("output");
    let log = bench.arena.host.log().to_path_buf();
    let measured = Pipeline::new(vec![process], output.clone(), log).run()?;
    Ok((measured, std::fs::read_to_string(output)?))
}

/// Backup, restore and plan, each beside what does as little as can be done.
pub(super) fn speed(bench: &mut Bench) -> Result<()> {
    let objects = bench.options.objects;
    let scene = Scene::start(bench, objects)?;
    let file = bench.arena.scratch.path("kubectl.json");
    let words = ["write".to_owned(), file.display().to_string(), "0".into(), KUBECTL_OBJECTS.to_string(), "0".into()];
    bench.arena.quietly(Process::new(&bench.arena.kube_alone).args(words))?;
    let file = file.display().to_string();
    let get = ["get", "configmaps,widgets", "--all-namespaces", "--output", "json"];
    let apply = ["apply", "--server-side", "--filename", &file];
    // The first backup fills the cache of plugins and makes this host's key.
    scene.backup(bench)?;
    let (mut seconds, mut peak) = (Seconds::default(), 0);
    for _ in 0..bench.options.rounds {
        seconds.list.push(scene.bare(bench, "list", &[], objects)?);
        let backup = scene.backup(bench)?;
        seconds.backup.push(backup.seconds);
        peak = peak.max(backup.peak_bytes);
        seconds.get.push(measure(bench, scene.cluster.kubectl(&get)?)?.0.seconds);

        // Every object differs in one field from what is recorded.
        scene.bare(bench, "apply", &[0, CHOSEN_OBJECTS, 1], CHOSEN_OBJECTS)?;
        let merge = ["--plan", "--option", "existing=merge", "--option", "force=true"];
        seconds.plan_changes.push(scene.restore(bench, &merge, "change")?);
        seconds.attempt.push(scene.bare(bench, "try", &[0, CHOSEN_OBJECTS, 0], CHOSEN_OBJECTS)?);

        scene.clear(bench, CHOSEN_OBJECTS)?;
        seconds.plan_creates.push(scene.restore(bench, &["--plan"], "create")?);
        seconds.restore.push(scene.restore(bench, &[], "create")?);
        scene.clear(bench, CHOSEN_OBJECTS)?;
        seconds.kubectl.push(measure(bench, scene.cluster.kubectl(&apply)?)?.0.seconds);
        scene.clear(bench, KUBECTL_OBJECTS)?;
        // The last, so that all objects are there as they were.
        seconds.apply.push(scene.bare(bench, "apply", &[0, CHOSEN_OBJECTS, 0], CHOSEN_OBJECTS)?);
    }
    report(bench, &seconds, objects);
    let what = format!("a backup of {objects} objects: peak memory of the host");
    bench.find("memory", what, float(peak) / float(MIB), "MiB", Better::Lower, None);
    Ok(())
}

fn report(bench: &mut Bench, seconds: &Seconds, objects: u64) {
    let rate = |objects: u64, seconds: &[f64]| float(objects) / median(seconds);
    let (list, backup) = (rate(objects, &seconds.list), rate(objects, &seconds.backup));
    let (apply, restore) = (rate(CHOSEN_OBJECTS, &seconds.apply), rate(CHOSEN_OBJECTS, &seconds.restore));
    let changes = rate(CHOSEN_OBJECTS, &seconds.plan_changes);
    let attempt = rate(CHOSEN_OBJECTS, &seconds.attempt);
    for (id, what, value, goal) in [
        ("backup", "backup of objects", backup, Some(BACKUP_GOAL)),
        ("list", "a bare client's paged lists of them, unread", list, None),
        ("get", "`kubectl get --output json` of them", rate(objects, &seconds.get), None),
        ("restore", "restore of objects", restore, Some(RESTORE_GOAL)),
        ("apply", "a bare client's server-side apply of them, 16 in flight", apply, None),
        ("kubectl", "`kubectl apply --server-side` of them", rate(KUBECTL_OBJECTS, &seconds.kubectl), None),
        (
            "plan-create",
            "plan of objects that are not there",
            rate(CHOSEN_OBJECTS, &seconds.plan_creates),
            Some(PLAN_GOAL),
        ),
        ("plan-change", "plan of objects that differ in a field, merged", changes, Some(PLAN_GOAL)),
        ("try", "a bare client's server-side apply of the same as a dry run, 16 in flight", attempt, None),
    ] {
        bench.find(id, what.to_owned(), value, "/s", Better::Higher, goal);
    }
    for (id, what, ratio, goal) in [
        ("backup-of-list", "backup / a bare client's lists", backup / list, Some(OF_LIST_GOAL)),
        ("restore-of-apply", "restore / a bare client's server-side apply", restore / apply, Some(OF_APPLY_GOAL)),
        ("plan-of-try", "plan of what differs / a bare client's dry run of it", changes / attempt, None),
    ] {
        bench.find(id, what.to_owned(), ratio, RATIO, Better::Higher, goal);
    }
}

/// Peak memory of a backup and of a plan, over so many objects that what grows with them would show.
pub(super) fn memory(bench: &mut Bench) -> Result<()> {
    let objects = bench.options.objects * MEMORY_TIMES;
    let scene = Scene::start(bench, objects)?;
    let backup = scene.backup(bench)?;
    let (plan, _) =
        measure(bench, bench.arena.host.process(&["restore", JOB, "latest", "--plan", "--output", "json"]))?;
    for (id, what, measured) in [("backup", "a backup", backup), ("plan", "a plan", plan)] {
        let peak = float(measured.peak_bytes) / float(MIB);
        let text = format!("{what} of {objects} objects: peak memory of the host");
        bench.find(id, text, peak, "MiB", Better::Lower, Some(MEMORY_GOAL));
        let text = format!("{what} of {objects} objects");
        bench.find(&format!("{id}-speed"), text, float(objects) / measured.seconds, "/s", Better::Higher, None);
    }
    Ok(())
}

/// One long stream out of a pod. Of bytes that cannot be compressed, so that the stream itself is measured.
pub(super) fn exec(bench: &mut Bench) -> Result<()> {
    let (input, bytes) = (Input::Noise, bench.options.bytes * EXEC_TIMES);
    bench.input(input)?;
    let cluster = start(bench)?;
    let place = bench.start(Kind::Local)?;
    let file = bench.arena.scratch.path(input.name());
    let (kubeconfig, namespace) = (cluster.kubeconfig()?, cluster.namespace()?.to_owned());
    let words = bench.arena.host.producer(&file, bytes).words();
    let job = Job::Pod { kubeconfig, namespace: namespace.clone(), file, bytes };
    bench.arena.host.configure(&place, DEFAULT_LEVEL, &job)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = [&["exec", "--namespace", &namespace, "worker", "--"], words.as_slice()].concat();
    let log = bench.arena.host.log().to_path_buf();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds {
        let output = bench.arena.scratch.path("output");
        let processes = vec![cluster.kubectl(&command)?, bench.arena.host.consumer()];
        let other = Pipeline::new(processes, output.clone(), log.clone()).run()?;
        place.clear("strongroom/bench", &bench.arena.peers)?;
        let process = bench.arena.host.process(&["backup", JOB]);
        let backup = Pipeline::new(vec![process], output, log.clone()).run()?;
        if backup.moved_bytes != bytes {
            bail!("the pod wrote {} bytes instead of {bytes}", backup.moved_bytes);
        }
        own.push(float(bytes) / 1e6 / backup.seconds);
        // The producer says what it wrote, and the consumer what it got, which may be less: kubernetes#124571.
        let got = other.moved_bytes.saturating_sub(bytes);
        if got != bytes {
            println!("  kubectl exec lost {} bytes", bytes.saturating_sub(got));
        }
        others.push(float(got) / 1e6 / other.seconds);
    }
    let (own, other) = (median(&own), median(&others));
    let name = input.name();
    bench.find("backup", format!("backup of a command's output in a pod, {name}"), own, "MB/s", Better::Higher, None);
    bench.find("kubectl", format!("`kubectl exec` of it, thrown away, {name}"), other, "MB/s", Better::Higher, None);
    let what = format!("backup of a command's output in a pod / `kubectl exec`, {name}");
    bench.find("backup-of-kubectl", what, own / other, RATIO, Better::Higher, Some(OF_EXEC_GOAL));
    Ok(())
}
