//! `backup`: every cluster is walked kind by kind, in restore order; some clusters at the same time, and
//! always one that has answered, so that a slow one holds up none of the others. One that fails leaves
//! them whole. What comes next in a walk is asked for beforehand.
//!
//! Memory: one page of objects here, and the pages of [`AHEAD`] lists in the host for each cluster that is
//! being walked.

use crate::conversion;
use crate::head::Head;
use crate::inventory::{self, Archive, ClusterInventory, Inventory, attribute};
use crate::kind::{self, is, is_secret};
use crate::policy::{Policy, Verdict};
use crate::restore::served;
use crate::secret;
use crate::settings::Settings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use strongroom_plugin::kube::{Cluster, Kind, Listing, Page, Ready, Reference};
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::ArchiveWriter;

/// Things that are named one by one in a report; the rest are counted.
const MAX_SKIPPED: usize = 5_000;
/// Kinds of one cluster that may fail to answer, one after the other, before the cluster is given up.
const MAX_SILENT_KINDS: usize = 3;
/// Times that the list of one kind may fail: each may be another granted namespace.
const MAX_FAILED_LISTS: usize = 100;
/// Namespaces that a fact names as being deleted.
const MAX_TERMINATING: usize = 20;
/// Clusters that are asked for their kinds at the same time, besides those that are walked.
const OPENING: usize = 16;
/// Lists that are asked for behind the one that is being packed: small kinds take as long as an answer
/// takes, and there are some hundred of them.
const AHEAD: usize = 2;
/// Bytes of facts that counts per kind may take; beyond it they are in the inventory only.
const COUNTS_BYTES: usize = 40 << 10;

/// What is left out though it was to be captured, and why.
#[derive(Debug, Default)]
struct Skipped {
    named: Vec<(String, String)>,
    unnamed: u64,
}

impl Skipped {
    fn add(&mut self, what: String, why: impl Into<String>) {
        if self.named.len() < MAX_SKIPPED {
            self.named.push((what, why.into()));
        } else {
            self.unnamed += 1;
        }
    }
}

/// What concerns every cluster.
#[derive(Debug, Default)]
struct Totals {
    skipped: Skipped,
    excluded: u64,
    claims: u64,
    seen: u64,
    /// Namespaces that are being deleted, by the labels of their clusters.
    terminating: BTreeMap<String, Vec<String>>,
}

/// One cluster on its way into archives.
#[derive(Debug)]
struct Walk {
    cluster: Cluster,
    todo: VecDeque<Kind>,
    /// The kind that is being packed, and behind it those whose lists were asked for.
    packings: VecDeque<Packing>,
    inventory: ClusterInventory,
    /// Kinds that are converted by a webhook, as their definitions say.
    converted: BTreeSet<(String, String)>,
    silent: usize,
}

/// One kind that is being packed.
#[derive(Debug)]
struct Packing {
    kind: Kind,
    /// Namespaces to list one by one, behind the lists in progress; an empty text is all of them.
    namespaces: VecDeque<String>,
    /// The list that is being packed, and behind it those that were asked for.
    listings: VecDeque<Listing>,
    /// What went wrong with the list the last time, and how often something did.
    failed: Option<String>,
    failures: usize,
    writer: Option<(ArchiveWriter, Archive)>,
    restarted: bool,
}

/// What a list had.
enum Listed {
    Page(Page),
    /// Its end; there is another namespace.
    Another,
    /// The end of all lists of the kind.
    Nothing,
}

pub(crate) fn backup(request: &BackupRequest<Settings>) -> Result<Report> {
    let settings = &request.settings;
    let policy = Policy::parse(settings)?;
    let mut totals = Totals::default();
    let mut waiting: VecDeque<&String> = settings.clusters.iter().collect();
    let (mut opening, mut walks): (Vec<Cluster>, Vec<Walk>) = (Vec::new(), Vec::new());
    let mut done: Vec<ClusterInventory> = Vec::new();
    let mut last_error = None;
    let mut give_up = |label: &str, error: Error, totals: &mut Totals| {
        log::error!(cluster = label, "the cluster could not be backed up: {error}");
        totals.skipped.add(format!("cluster {label}"), error.to_string());
        last_error = Some(error);
    };
    loop {
        while opening.len() < OPENING
            && let Some(label) = waiting.pop_front()
        {
            match kube::open(label) {
                Ok(cluster) => opening.push(cluster),
                Err(error) => give_up(label, error, &mut totals),
            }
        }
        let has_room = walks.len() < settings.parallel_clusters.max(1);
        match ready(if has_room { opening.as_slice() } else { &[] }, &walks)? {
            None => break,
            Some(Ready::Cluster(place)) => {
                let cluster = opening.remove(place);
                let label = cluster.label().to_owned();
                match Walk::begin(cluster, &policy, &mut totals) {
                    Ok(walk) => walks.push(walk),
                    Err(error) => give_up(&label, error, &mut totals),
                }
            }
            Some(Ready::Listing(place)) => {
                // To the end, so that each has its turn.
                let mut walk = walks.remove(place);
                if walk.step(&policy, &mut totals)? {
                    walks.push(walk);
                } else {
                    log::info!(cluster = walk.inventory.label, objects = objects(&walk.inventory), "packed");
                    done.push(walk.inventory);
                }
            }
        }
    }
    if let (true, Some(error)) = (done.is_empty(), last_error) {
        return Err(error);
    }
    let place = |label: &String| settings.clusters.iter().position(|cluster| cluster == label);
    done.sort_by_key(|cluster| place(&cluster.label));
    let inventory = Inventory { clusters: done, ..Inventory::new() };
    storage::put_bytes(inventory::NAME, "application/json", &inventory.to_json()?)?;
    let before = request.previous.as_ref().and_then(|made| made.source_id.as_deref());
    let source = source_id(&inventory, &settings.clusters, before);
    if source.is_none() {
        log::warn!("not every cluster has said which one it is: the next run is not held against this one");
    }
    Ok(report(&inventory, source, totals))
}

/// Which clusters the job backs up. One that did not say so now is the one that it was `before`: a cluster that is
/// away for a day is no other source. `None` while one of them has never been seen.
fn source_id(inventory: &Inventory, labels: &[String], before: Option<&str>) -> Option<String> {
    let known: BTreeMap<&str, &str> =
        before.into_iter().flat_map(|ids| ids.split(',')).filter_map(|id| id.split_once('=')).collect();
    let one = |label: &String| {
        let now = inventory.clusters.iter().find(|cluster| cluster.label == *label);
        let uid = now.and_then(|cluster| cluster.uid.as_deref()).or_else(|| known.get(label.as_str()).copied())?;
        Some(format!("{label}={uid}"))
    };
    labels.iter().map(one).collect::<Option<Vec<_>>>().map(|ids| ids.join(","))
}

/// The cluster that can be begun with, or the walk that can take a step, without waiting for any other;
/// none when there are none.
fn ready(opening: &[Cluster], walks: &[Walk]) -> Result<Option<Ready>> {
    if opening.is_empty() && walks.is_empty() {
        return Ok(None);
    }
    // One that waits for no list asks for one in its next step, or ends.
    if let Some(place) = walks.iter().position(|walk| walk.listing().is_none()) {
        return Ok(Some(Ready::Listing(place)));
    }
    if opening.is_empty() && walks.len() == 1 {
        return Ok(Some(Ready::Listing(0)));
    }
    let opening: Vec<&Cluster> = opening.iter().collect();
    let listings: Vec<&Listing> = walks.iter().filter_map(Walk::listing).collect();
    kube::first_ready(&opening, &listings).map(Some)
}

impl Walk {
    fn begin(cluster: Cluster, policy: &Policy, totals: &mut Totals) -> Result<Self> {
        let label = cluster.label();
        // First, since the host has them already, or knows why it does not.
        let found = cluster.kinds()?;
        let version = cluster.version()?;
        for (group, why) in found.failed.into_iter().filter(|(api, _)| policy.wants_group(served::group(api))) {
            totals.skipped.add(format!("{label}: {group}"), format!("its API did not answer: {why}"));
        }
        let mut kinds: Vec<Kind> = found.kinds.into_iter().filter(|kind| policy.wants(kind)).collect();
        kind::sort(&mut kinds);
        let uid = kinds
            .iter()
            .find(|kind| is(kind, "", "Namespace"))
            .and_then(|namespaces| cluster.get(&Reference::new(namespaces, None, "kube-system")).ok())
            .and_then(|object| crate::head::uid(&object));
        let inventory = ClusterInventory { label: label.to_owned(), version, uid, archives: Vec::new() };
        let (todo, packings) = (kinds.into(), VecDeque::new());
        Ok(Self { cluster, todo, packings, inventory, converted: BTreeSet::new(), silent: 0 })
    }

    /// The list that the next step waits for.
    fn listing(&self) -> Option<&Listing> {
        self.packings.front()?.listings.front()
    }

    /// Asks for what comes next.
    fn look_ahead(&mut self, policy: &Policy) {
        while self.packings.len() <= AHEAD
            && let Some(kind) = self.todo.pop_front()
        {
            self.packings.push_back(Packing::new(kind, policy));
        }
        let mut left = 1 + AHEAD;
        for packing in &mut self.packings {
            packing.ask(&self.cluster, left);
            left = left.saturating_sub(packing.listings.len());
        }
    }

    /// One page, which is there already. False when the cluster is done. Errors: of the store, which concern
    /// every cluster.
    fn step(&mut self, policy: &Policy, totals: &mut Totals) -> Result<bool> {
        let was_asked = self.listing().is_some();
        self.look_ahead(policy);
        if !was_asked && self.listing().is_some() {
            // It is waited for together with all others.
            return Ok(true);
        }
        let Some(mut packing) = self.packings.pop_front() else { return Ok(false) };
        match packing.next_page(&self.cluster) {
            Ok(Listed::Page(page)) => {
                self.silent = 0;
                packing.failed = None;
                packing.restarted |= page.restarted;
                self.pack(&mut packing, &page, policy, totals)?;
                self.packings.push_front(packing);
            }
            Ok(Listed::Another) => self.packings.push_front(packing),
            Ok(Listed::Nothing) => self.finish(packing, totals)?,
            Err(error) => {
                let what = format!("{}: {}", self.inventory.label, packing.kind);
                let text = error.to_string();
                // The host has tried again already, and a list that failed in the same way twice is given
                // up. Another answer is another granted namespace.
                packing.failures += 1;
                let again = packing.failed.as_ref() == Some(&text) || packing.failures > MAX_FAILED_LISTS;
                if !again {
                    totals.skipped.add(what, format!("{text}{}", packing.so_far()));
                    packing.failed = Some(text);
                }
                if again || error.is_retryable() {
                    packing.listings.pop_front();
                }
                self.silent += usize::from(error.is_retryable());
                if self.silent >= MAX_SILENT_KINDS {
                    self.leave_the_rest(&mut packing, &error, totals);
                }
                self.packings.push_front(packing);
            }
        }
        Ok(true)
    }

    /// Gives up what is still to be listed, of the kind that is being packed as well; what of it was packed stays.
    fn leave_the_rest(&mut self, packing: &mut Packing, error: &Error, totals: &mut Totals) {
        let has_more = !packing.namespaces.is_empty() || !packing.listings.is_empty();
        packing.namespaces.clear();
        packing.listings.clear();
        let this = has_more.then(|| packing.kind.clone());
        let begun = self.packings.drain(..).map(|packing| packing.kind);
        let rest: Vec<String> =
            this.into_iter().chain(begun).chain(self.todo.drain(..)).map(|kind| kind.to_string()).collect();
        if !rest.is_empty() {
            let why = format!("the cluster no longer answers: {error}");
            totals.skipped.add(format!("{}: {}", self.inventory.label, rest.join(", ")), why);
        }
    }

    fn pack(&mut self, packing: &mut Packing, page: &Page, policy: &Policy, totals: &mut Totals) -> Result<()> {
        let kind = packing.kind.clone();
        let unseen = is_secret(&kind);
        for (place, json) in page.objects.iter().enumerate() {
            totals.seen += 1;
            let head = match Head::parse(json) {
                Ok(head) => head,
                Err(error) => {
                    let what = format!("{}: {kind}", self.inventory.label);
                    totals.skipped.add(what, format!("an object of the list is none: {error}"));
                    continue;
                }
            };
            let name = head.metadata.name.as_ref();
            match policy.judge(&kind, &head, json.len()) {
                Verdict::Keep => {}
                Verdict::Exclude => {
                    totals.excluded += 1;
                    continue;
                }
                Verdict::TooLarge => {
                    let what = format!("{}: {kind} {}", self.inventory.label, shown(head.namespace(), name));
                    totals.skipped.add(what, format!("{} bytes are more than max_object_bytes", json.len()));
                    continue;
                }
            }
            let (writer, archive) = match &mut packing.writer {
                Some(open) => open,
                none => none.insert(self.begin_archive(&kind)?),
            };
            let path = inventory::path(head.namespace(), name);
            if unseen {
                let attributes = [(attribute::SEEN.to_owned(), secret::to_keep(json))];
                let body = packing.listings.front().map(|listing| listing.body(place)).transpose()?;
                let Some(body) = body else { continue };
                writer.add(&path, &attributes, body)?;
            } else {
                writer.add_bytes(&path, &[], json.as_bytes())?;
            }
            archive.objects += 1;
            archive.bytes += json.len() as u64;
            totals.claims += u64::from(is(&kind, "", "PersistentVolumeClaim"));
            if head.metadata.deleted.is_some() && is(&kind, "", "Namespace") {
                totals.terminating.entry(self.inventory.label.clone()).or_default().push(name.to_owned());
            }
            if is(&kind, "apiextensions.k8s.io", "CustomResourceDefinition") {
                let definition = serde_json::from_str(json)?;
                self.converted.extend(conversion::converted(&definition));
            }
        }
        run::progress("objects", totals.seen, None);
        Ok(())
    }

    fn begin_archive(&self, kind: &Kind) -> Result<(ArchiveWriter, Archive)> {
        let artifact =
            inventory::artifact(&self.inventory.label, self.inventory.archives.len() + 1, kind, is_secret(kind));
        let archive = Archive {
            artifact: artifact.clone(),
            group: kind.group.clone(),
            version: kind.version.clone(),
            kind: kind.kind.clone(),
            plural: kind.plural.clone(),
            namespaced: kind.namespaced,
            objects: 0,
            bytes: 0,
            restarted: false,
            converted: self.converted.contains(&(kind.group.clone(), kind.kind.clone())),
        };
        Ok((storage::create_archive(artifact)?, archive))
    }

    fn finish(&mut self, packing: Packing, totals: &mut Totals) -> Result<()> {
        let Some((writer, mut archive)) = packing.writer else { return Ok(()) };
        let finished = writer.finish()?;
        archive.objects = archive.objects.saturating_sub(finished.failed.len() as u64);
        archive.restarted = packing.restarted;
        for (path, why) in finished.failed {
            totals.skipped.add(format!("{}: {} {path}", self.inventory.label, packing.kind), why);
        }
        self.inventory.archives.push(archive);
        Ok(())
    }
}

impl Packing {
    fn new(kind: Kind, policy: &Policy) -> Self {
        let literals = policy.literal_namespaces().filter(|_| kind.namespaced);
        let mut namespaces: VecDeque<String> = literals.into_iter().flatten().map(str::to_owned).collect();
        if namespaces.is_empty() {
            // All of them, told apart by a text that no namespace has.
            namespaces.push_back(String::new());
        }
        let listings = VecDeque::new();
        Self { kind, namespaces, listings, failed: None, failures: 0, writer: None, restarted: false }
    }

    /// Asks for up to so many of its lists. What goes wrong does so again when its turn comes, and is told then.
    fn ask(&mut self, cluster: &Cluster, lists: usize) {
        while self.listings.len() < lists
            && let Some(namespace) = self.namespaces.front()
            && let Ok(listing) = self.list(cluster, namespace)
        {
            self.namespaces.pop_front();
            self.listings.push_back(listing);
        }
    }

    /// What of the kind is in the backup though its list failed.
    fn so_far(&self) -> String {
        self.writer.as_ref().map_or_else(String::new, |(_, archive)| {
            format!("; {} of its objects were listed before, and are in the backup", archive.objects)
        })
    }

    fn list(&self, cluster: &Cluster, namespace: &str) -> Result<Listing> {
        let list = cluster.list(&self.kind);
        let list = if namespace.is_empty() { list } else { list.namespace(namespace) };
        list.start()
    }

    /// The next page of the list in progress.
    fn next_page(&mut self, cluster: &Cluster) -> Result<Listed> {
        if let Some(listing) = self.listings.front_mut() {
            if let Some(page) = listing.next_page()? {
                return Ok(Listed::Page(page));
            }
            self.listings.pop_front();
        } else if let Some(namespace) = self.namespaces.pop_front() {
            // It could not be asked for ahead, and now says why.
            self.listings.push_back(self.list(cluster, &namespace)?);
        }
        let is_over = self.listings.is_empty() && self.namespaces.is_empty();
        Ok(if is_over { Listed::Nothing } else { Listed::Another })
    }
}

fn shown(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// The first names, and how many more there are.
fn first(names: &[String]) -> String {
    let mut shown = names[..names.len().min(MAX_TERMINATING)].join(",");
    if names.len() > MAX_TERMINATING {
        shown.push_str(&format!(" and {} more", names.len() - MAX_TERMINATING));
    }
    shown
}

fn objects(cluster: &ClusterInventory) -> u64 {
    cluster.archives.iter().map(|archive| archive.objects).sum()
}

fn report(inventory: &Inventory, source: Option<String>, totals: Totals) -> Report {
    let mut report = Report::new();
    if let Some(source) = source {
        report = report.source_id(source);
    }
    report = report.fact("clusters", inventory.clusters.len()).fact("excluded", totals.excluded);
    for cluster in &inventory.clusters {
        let label = &cluster.label;
        let bytes: u64 = cluster.archives.iter().map(|archive| archive.bytes).sum();
        report = report
            .fact(format!("{label}.version"), &cluster.version)
            .fact(format!("{label}.kinds"), cluster.archives.len())
            .fact(format!("{label}.objects"), objects(cluster))
            .fact(format!("{label}.bytes"), bytes);
        let torn: Vec<&str> =
            cluster.archives.iter().filter(|archive| archive.restarted).map(|archive| archive.kind.as_str()).collect();
        if !torn.is_empty() {
            report = report.fact(format!("{label}.not-of-one-moment"), torn.join(","));
        }
        if let Some(names) = totals.terminating.get(label) {
            report = report.fact(format!("{label}.terminating"), first(names));
        }
    }
    let mut uncounted = 0_u64;
    for cluster in &inventory.clusters {
        for archive in &cluster.archives {
            if report.facts_bytes() > COUNTS_BYTES {
                uncounted += 1;
                continue;
            }
            let of = format!("{}/{}/{}", cluster.label, archive.kind().api_version(), archive.kind);
            report = report.fact(of, archive.objects);
        }
    }
    if uncounted > 0 {
        report = report.fact("kinds-counted-in-the-inventory-only", uncounted);
    }
    if totals.claims > 0 {
        report = report.not_captured(format!("the data of {} persistent volume claims", totals.claims));
    }
    report = report
        .not_captured("tokens of service accounts, which every cluster makes itself")
        .not_captured("one moment across kinds: each kind is listed by itself");
    for (what, why) in totals.skipped.named {
        report = report.skipped(what, why);
    }
    if totals.skipped.unnamed > 0 {
        report = report.skipped(format!("and {} more", totals.skipped.unnamed), "the run's log has more");
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: &str, objects: u64) -> Archive {
        Archive {
            artifact: kind.to_owned(),
            group: "apps".into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: "x".into(),
            namespaced: true,
            objects,
            bytes: 10,
            restarted: kind == "Torn",
            converted: false,
        }
    }

    #[test]
    fn facts_stay_within_what_the_host_takes() {
        let archives: Vec<Archive> = (0..3_000).map(|n| archive(&format!("Kind{n}"), 1)).collect();
        let cluster = ClusterInventory { label: "prod".into(), version: "v1".into(), uid: None, archives };
        let inventory = Inventory { clusters: vec![cluster], ..Inventory::new() };
        let report = report(&inventory, None, Totals::default());
        assert!(report.facts_bytes() < Report::MAX_FACTS_BYTES);
        assert!(format!("{report:?}").contains("kinds-counted-in-the-inventory-only"));
    }

    #[test]
    fn a_report_names_versions_counts_and_what_is_torn() {
        let archives = vec![archive("Deployment", 3), archive("Torn", 4)];
        let cluster =
            ClusterInventory { label: "prod".into(), version: "v1.36.3".into(), uid: Some("u".into()), archives };
        let going = (0..22).map(|n| format!("ns-{n}")).collect();
        let terminating = BTreeMap::from([("prod".to_owned(), going)]);
        let totals = Totals { claims: 2, excluded: 5, terminating, ..Totals::default() };
        let inventory = Inventory { clusters: vec![cluster], ..Inventory::new() };
        let source = source_id(&inventory, &["prod".to_owned()], None);
        let text = format!("{:?}", report(&inventory, source, totals));
        for part in [
            "\"prod=u\"",
            "(\"prod.version\", \"v1.36.3\")",
            "(\"prod.objects\", \"7\")",
            "(\"prod/apps/v1/Deployment\", \"3\")",
            "(\"prod.not-of-one-moment\", \"Torn\")",
            "(\"excluded\", \"5\")",
            "(\"prod.terminating\", \"ns-0,ns-1,",
            "ns-19 and 2 more\")",
            "the data of 2 persistent volume claims",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_cluster_that_is_away_is_the_one_that_it_was() {
        let cluster = |label: &str, uid: Option<&str>| ClusterInventory {
            label: label.into(),
            version: "v1".into(),
            uid: uid.map(Into::into),
            archives: Vec::new(),
        };
        let labels = ["a", "b"].map(str::to_owned);
        for (clusters, before, expected) in [
            (vec![cluster("a", Some("1")), cluster("b", Some("2"))], None, Some("a=1,b=2")),
            (vec![cluster("b", Some("2"))], Some("a=1,b=2"), Some("a=1,b=2")),
            (vec![cluster("a", None), cluster("b", Some("2"))], Some("a=1,b=2"), Some("a=1,b=2")),
            (vec![cluster("a", Some("3")), cluster("b", Some("2"))], Some("a=1,b=2"), Some("a=3,b=2")),
            (vec![cluster("b", Some("2"))], None, None),
            (vec![cluster("b", Some("2"))], Some("b=2"), None),
        ] {
            let inventory = Inventory { clusters, ..Inventory::new() };
            assert_eq!(source_id(&inventory, &labels, before).as_deref(), expected);
        }
    }

    #[test]
    fn what_is_skipped_is_named_up_to_a_bound() {
        let mut skipped = Skipped::default();
        (0..MAX_SKIPPED + 3).for_each(|n| skipped.add(n.to_string(), "x"));
        assert_eq!((skipped.named.len(), skipped.unnamed), (MAX_SKIPPED, 3));
    }
}
