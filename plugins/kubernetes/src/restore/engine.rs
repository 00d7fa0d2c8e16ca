//! Writing the objects of one cluster, rank by rank, some hundred in one call.
//!
//! Memory: one batch, the uids of what was restored (some 100 bytes each), and the paths of objects
//! whose owners come later.

use super::served::{Served, served};
use super::told::{Deed, Told};
use crate::clean::text;
use crate::conversion;
use crate::difference::{differences, show};
use crate::explain::{Obstacle, obstacle};
use crate::head;
use crate::inventory::{Archive, ClusterInventory};
use crate::kind::{Rank, is, is_secret, rank};
use crate::mapping::Mapping;
use crate::owner::{OwnerReference, Owners};
use crate::recorded::{self, Recorded};
use crate::rules::{self, Keep};
use crate::secret;
use crate::selection::Selection;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;
use strongroom_plugin::bytes::Source;
use strongroom_plugin::kube::{Change, Cluster, Kind, Mode, Reference, Unseen, Write, Written};
use strongroom_plugin::prelude::*;

/// Objects in one call, and bytes of their JSON: many times what the host keeps in flight, a fraction of
/// what one call may carry.
const BATCH_OBJECTS: usize = 400;
const BATCH_BYTES: usize = 4 << 20;

/// The label of namespaces that a test restore made and removes again.
pub(crate) const SCRATCH_LABEL: &str = "strongroom/scratch";

/// The note on such a namespace that says when its test restore was last known to run, in milliseconds since 1970.
pub(crate) const ALIVE_NOTE: &str = "strongroom/scratch-alive";

/// That is said this often, as long as something is done in them.
const ALIVE_EVERY: Duration = Duration::from_secs(60);

/// Bytes of live objects of one kind and namespace that a plan keeps to compare with; beyond it each is
/// asked for by itself.
const LIVE_BYTES: usize = 48 << 20;

/// How objects are written.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) mode: Mode,
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
    pub(crate) status: bool,
    pub(crate) keep: Keep,
    pub(crate) mapping: Mapping,
    pub(crate) wait: Duration,
    /// A test restore: nothing of it may run, and its namespaces carry this value of [`SCRATCH_LABEL`].
    pub(crate) scratch: Option<String>,
}

/// One object in a batch.
#[derive(Debug)]
struct Item {
    kind: Rc<Kind>,
    namespace: Option<String>,
    name: String,
    old_uid: Option<String>,
    /// The object as it is sent; of a Secret what is seen of it.
    json: String,
    /// Of a Secret that is restored under its own name: it with marks in the place of its values.
    marked: Option<String>,
    /// The recorded status, with what names the object.
    status: Option<Value>,
    /// What a person should know of it.
    note: String,
}

impl Item {
    fn reference(&self) -> Reference {
        Reference::new(&self.kind, self.namespace.as_deref(), self.name.as_str())
    }
}

/// What is being restored into one cluster.
pub(crate) struct Engine<'a> {
    cluster: Cluster,
    inventory: &'a ClusterInventory,
    selection: &'a Selection,
    how: &'a How,
    /// Kinds of the target, and its APIs that do not answer.
    kinds: Vec<Kind>,
    down: Vec<(String, String)>,
    owners: Owners,
    /// Owners that are not in the target.
    nowhere: HashSet<String>,
    batch: Vec<Item>,
    batch_bytes: usize,
    secrets: Vec<(Item, Unseen)>,
    /// Statuses to be written, by what they are of.
    statuses: Vec<(String, String)>,
    /// What is there of one kind and namespace, for a plan that leaves it alone.
    live: Option<Live>,
    /// Archive and path of objects whose owners come later.
    deferred: Vec<(usize, String)>,
    /// Namespaces and kinds that this plan would create.
    coming_namespaces: HashSet<String>,
    /// Namespaces that this restore has made, and those that were there already.
    made_namespaces: HashSet<String>,
    taken_namespaces: HashSet<String>,
    /// When the namespaces of a test restore were last said to be in use.
    alive: Timestamp,
    coming_kinds: HashSet<(String, String)>,
    /// Definitions that were written, to be waited for, with group and kind of what they define.
    definitions: Vec<(Reference, (String, String))>,
    /// Services behind which objects are converted.
    services: BTreeSet<(String, String)>,
    /// Whether the cluster said nothing of an object since it was last known to answer.
    is_silent: bool,
    done: u64,
}

/// Live objects of one kind and namespace by their names; none where they are too many.
#[derive(Debug)]
struct Live {
    kind: Rc<Kind>,
    namespace: Option<String>,
    objects: Option<HashMap<String, String>>,
}

/// What becomes of a recorded object whose owners are not all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unowned {
    /// It waits for them.
    Wait,
    /// It is restored without them.
    Drop,
}

impl<'a> Engine<'a> {
    /// Opens the target.
    pub(crate) fn open(
        label: &str,
        inventory: &'a ClusterInventory,
        selection: &'a Selection,
        how: &'a How,
    ) -> Result<Self> {
        let cluster = kube::open(label)?;
        let found = cluster.kinds()?;
        for (group, why) in &found.failed {
            log::warn!(cluster = label, "the API {group} does not answer: {why}");
        }
        Ok(Self {
            cluster,
            inventory,
            selection,
            how,
            kinds: found.kinds,
            down: found.failed,
            owners: Owners::default(),
            nowhere: HashSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            secrets: Vec::new(),
            statuses: Vec::new(),
            live: None,
            deferred: Vec::new(),
            coming_namespaces: HashSet::new(),
            made_namespaces: HashSet::new(),
            taken_namespaces: HashSet::new(),
            alive: run::now(),
            coming_kinds: HashSet::new(),
            definitions: Vec::new(),
            services: BTreeSet::new(),
            is_silent: false,
            done: 0,
        })
    }

    /// The target.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Restores everything that is meant. Errors: of the cluster or the store as a whole; what is wrong
    /// with one object is told.
    pub(crate) fn run(mut self, told: &mut Told) -> Result<()> {
        self.restore(told)
    }

    /// The same, and the engine can be asked afterwards.
    pub(crate) fn restore(&mut self, told: &mut Told) -> Result<()> {
        let mut order: Vec<(Rank, usize)> =
            self.inventory.archives.iter().enumerate().map(|(place, archive)| (rank_of(archive), place)).collect();
        order.sort();
        let mut before = None;
        for (rank, place) in order {
            if !self.selection.kind(&self.inventory.archives[place].kind()) {
                continue;
            }
            if before.is_some_and(|before| before != rank) {
                self.end_of_rank(told)?;
            }
            if rank == Rank::CONVERTED && before != Some(rank) && !self.how.dry_run {
                for (service, error) in conversion::wait(&self.cluster, &self.kinds, &self.services, self.how.wait) {
                    let note = format!("{error}; objects that it converts may be refused until it is ready");
                    told.name(Outcome::Warned, "wait for", &service, note);
                }
            }
            if Rank::JUDGES.iter().any(|judge| before < Some(*judge) && rank >= *judge) {
                self.deferred(false, told)?;
            }
            before = Some(rank);
            self.archive(place, told)?;
        }
        self.end_of_rank(told)?;
        self.deferred(true, told)?;
        self.end_of_rank(told)
    }

    /// Of a test restore: namespaces that somebody else had made when it wanted to.
    pub(crate) fn taken_namespaces(&self) -> &HashSet<String> {
        &self.taken_namespaces
    }

    /// Says of the namespaces of a test restore that they are in use, where that was not said just now.
    pub(crate) fn keep_alive(&mut self) -> Result<()> {
        let (now, Some(scratch)) = (run::now(), &self.how.scratch) else { return Ok(()) };
        if self.made_namespaces.is_empty() || now.since(self.alive) < ALIVE_EVERY {
            return Ok(());
        }
        self.alive = now;
        let said: Vec<String> = self.made_namespaces.iter().map(|name| alive(name, scratch, now)).collect();
        // What could not be said now is said the next time; it is believed for an hour.
        self.cluster.apply(&said, Write::new(Mode::Merge).force(true)).map(drop)
    }

    /// Everything of a rank is written before the next begins.
    fn end_of_rank(&mut self, told: &mut Told) -> Result<()> {
        self.flush(told)?;
        let definitions = std::mem::take(&mut self.definitions);
        if definitions.is_empty() {
            return Ok(());
        }
        for (definition, _) in &definitions {
            if let Err(error) = self.cluster.wait(definition, "Established", "True", self.how.wait) {
                told.name(
                    Outcome::Warned,
                    "wait for",
                    &definition.to_string(),
                    format!("{error}; objects of its kind will be refused until it is established"),
                );
            }
        }
        // An established kind is served a moment later.
        let begun = run::now();
        loop {
            self.kinds = self.cluster.kinds()?.kinds;
            let served = |(group, name): &(String, String)| self.kinds.iter().any(|kind| is(kind, group, name));
            if definitions.iter().all(|(_, id)| served(id)) || run::now().since(begun) >= self.how.wait {
                return Ok(());
            }
            run::sleep(Duration::from_millis(100));
        }
    }

    fn archive(&mut self, place: usize, told: &mut Told) -> Result<()> {
        let archive = &self.inventory.archives[place];
        let kind = Rc::new(archive.kind());
        let there = match served(&self.cluster, &self.kinds, &self.down, &self.coming_kinds, archive)? {
            Served::Yes => true,
            Served::Coming => false,
            Served::No(why) => {
                told.count(&kind.name(), Deed::Refused);
                told.name(Outcome::Failed, "restore", &kind.name(), why);
                return Ok(());
            }
        };
        for recorded in recorded::open(archive)? {
            self.object(place, &kind, there, recorded?, Unowned::Wait, told)?;
        }
        Ok(())
    }

    /// Objects whose owners came later: again and again, as long as that helps, and at the end without them.
    fn deferred(&mut self, is_end: bool, told: &mut Told) -> Result<()> {
        self.flush(told)?;
        let mut unowned = Unowned::Wait;
        while !self.deferred.is_empty() {
            let waiting = std::mem::take(&mut self.deferred);
            let n = waiting.len();
            let mut open: Option<(usize, Rc<Kind>, recorded::Objects)> = None;
            for (place, path) in waiting {
                let (kind, objects) = match &mut open {
                    Some((of, kind, objects)) if *of == place => (kind.clone(), objects),
                    other => {
                        let archive = &self.inventory.archives[place];
                        let (_, kind, objects) =
                            other.insert((place, Rc::new(archive.kind()), recorded::open(archive)?));
                        (kind.clone(), objects)
                    }
                };
                let recorded = objects.object(&path)?;
                self.object(place, &kind, true, recorded, unowned, told)?;
            }
            self.flush(told)?;
            if self.deferred.len() == n {
                if !is_end {
                    break;
                }
                unowned = Unowned::Drop;
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        place: usize,
        kind: &Rc<Kind>,
        there: bool,
        recorded: Recorded,
        unowned: Unowned,
        told: &mut Told,
    ) -> Result<()> {
        if !self.selection.place(kind, recorded.namespace.as_deref(), &recorded.name) {
            return Ok(());
        }
        let mut object: Value =
            serde_json::from_str(&recorded.json).map_err(|error| Error::from(error).context(&recorded.path))?;
        if !self.selection.labels(&object) {
            return Ok(());
        }
        if let Some(why) = rules::refuses(kind, &object, self.how.keep) {
            told.count(&kind.name(), Deed::NotMeant);
            let shown = Reference::new(kind, recorded.namespace.as_deref(), recorded.name.as_str()).to_string();
            if self.how.dry_run || why.contains("finished") || why.contains("deleted") {
                told.name(Outcome::Skipped, "leave out", &shown, why.to_owned());
            }
            return Ok(());
        }
        if self.how.scratch.is_some() && !rules::put_to_sleep(kind, &mut object) {
            return Ok(());
        }
        let mut unknown = self.owners.unknown(&object);
        if !unknown.is_empty() {
            if unowned == Unowned::Wait && !self.how.dry_run && unknown.iter().any(|owner| self.comes(owner)) {
                self.deferred.push((place, recorded.path));
                return Ok(());
            }
            self.look_for(&unknown, recorded.namespace.as_deref())?;
            unknown = self.owners.unknown(&object);
        }
        let mut note = String::new();
        if self.how.dry_run {
            // Nothing is written, so that what this restore would bring is not there either.
            unknown.retain(|owner| !self.is_recorded(owner));
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.iter().map(|owner| format!("{} {}", owner.kind, owner.name)).collect();
            note = format!("without its owner {}, which is not there", names.join(", "));
        }
        let old_uid = text(&object, &["metadata", "uid"]).map(str::to_owned);
        let owners = self.owners.pairs(&object);
        self.owners.rebuild(&mut object);
        let item = self.item(kind, &recorded, object, old_uid, note);
        self.done += 1;
        if self.how.dry_run
            && (!there || item.namespace.as_ref().is_some_and(|name| self.coming_namespaces.contains(name)))
        {
            // The server could only say that the namespace or the kind is not there yet.
            told.count(&kind.name(), Deed::Created);
            let first = if there { "its namespace" } else { "its kind" };
            self.tell_created(&item, &format!("not tried, since {first} comes first"), told);
            return Ok(());
        }
        if self.how.dry_run
            && self.how.mode == Mode::Create
            && let Some(live) = self.live(&item)?
        {
            return self.stays(&item, &live, told);
        }
        match recorded.unseen {
            Some(body) => self.add_secret(item, body, owners, told),
            None => self.add(item, told),
        }
    }

    /// The object that is there in the place of this one, where it is known without asking for it: a list
    /// answers for five hundred objects at once.
    fn live(&mut self, item: &Item) -> Result<Option<String>> {
        let fits = |live: &Live| Rc::ptr_eq(&live.kind, &item.kind) && live.namespace == item.namespace;
        if !self.live.as_ref().is_some_and(fits) {
            let objects = self.list_live(item)?;
            self.live = Some(Live { kind: item.kind.clone(), namespace: item.namespace.clone(), objects });
        }
        let known = self.live.as_mut().and_then(|live| live.objects.as_mut());
        Ok(known.and_then(|objects| objects.remove(&item.name)))
    }

    fn list_live(&self, item: &Item) -> Result<Option<HashMap<String, String>>> {
        let list = self.cluster.list(&item.kind);
        let list = match &item.namespace {
            Some(namespace) => list.namespace(namespace),
            None => list,
        };
        let (mut objects, mut bytes) = (HashMap::new(), 0);
        let listed = list.start().and_then(|mut listing| {
            while let Some(page) = listing.next_page()? {
                for json in page.objects {
                    bytes += json.len();
                    if let Ok(head) = head::Head::parse(&json) {
                        let name = head.metadata.name.into_owned();
                        objects.insert(name, json);
                    }
                }
                if bytes > LIVE_BYTES {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match listed {
            Ok(all) => Ok(all.then_some(objects)),
            Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => Err(error),
            // Who may not list may still ask what creating one would do.
            Err(_) => Ok(None),
        }
    }

    fn item(
        &self,
        kind: &Rc<Kind>,
        recorded: &Recorded,
        mut object: Value,
        old_uid: Option<String>,
        note: String,
    ) -> Item {
        // On request it stays in the object as well: where it has no sub-resource it is a field like any
        // other, and where it has one, the server passes over it here.
        let status = object.get("status").cloned().filter(|_| self.how.status);
        if let (None, Some(map)) = (&status, object.as_object_mut()) {
            map.remove("status");
        }
        rules::apply(kind, &mut object, self.how.keep);
        self.how.mapping.apply(kind, &mut object);
        if let (Some(value), true) = (&self.how.scratch, is(kind, "", "Namespace")) {
            object["metadata"]["labels"][SCRATCH_LABEL] = value.as_str().into();
            object["metadata"]["annotations"][ALIVE_NOTE] = run::now().ms.to_string().into();
        }
        if (self.how.mode != Mode::Create || self.how.dry_run)
            && let Some(metadata) = crate::clean::map_mut(&mut object, &["metadata"])
        {
            metadata.remove("managedFields");
        }
        let name = text(&object, &["metadata", "name"]).unwrap_or(&recorded.name).to_owned();
        let namespace = recorded.namespace.as_deref().map(|name| self.how.mapping.namespace(name));
        let status = status.map(|status| {
            json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {"name": name, "namespace": namespace}, "status": status,
            })
        });
        let json = object.to_string();
        let is_itself = namespace == recorded.namespace && name == recorded.name;
        let marked = recorded.marked.clone().filter(|_| is_itself);
        Item { kind: kind.clone(), namespace, name, old_uid, json, marked, status, note }
    }

    /// Whether an owner may still come in this restore.
    fn comes(&self, owner: &OwnerReference) -> bool {
        !self.nowhere.contains(&owner.uid) && self.is_recorded(owner)
    }

    /// Whether what is restored has objects of an owner's kind.
    fn is_recorded(&self, owner: &OwnerReference) -> bool {
        self.inventory.archives.iter().any(|archive| {
            archive.group == owner.group && archive.kind == owner.kind && self.selection.kind(&archive.kind())
        })
    }

    /// Looks in the target for owners by their names.
    fn look_for(&mut self, owners: &[OwnerReference], namespace: Option<&str>) -> Result<()> {
        for owner in owners {
            if self.nowhere.contains(&owner.uid) {
                continue;
            }
            let kind = self.kinds.iter().find(|kind| kind.group == owner.group && kind.kind == owner.kind);
            let found = kind.map(|kind| {
                let namespace = namespace.filter(|_| kind.namespaced).map(|name| self.how.mapping.namespace(name));
                self.cluster.get(&Reference::new(kind, namespace.as_deref(), owner.name.as_str()))
            });
            match found.transpose() {
                Ok(Some(object)) => {
                    if let Some(uid) = head::uid(&object) {
                        self.owners.restored(&owner.uid, &uid);
                    }
                }
                Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => return Err(error),
                Ok(None) | Err(_) => {
                    self.nowhere.insert(owner.uid.clone());
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, item: Item, told: &mut Told) -> Result<()> {
        self.batch_bytes += item.json.len();
        self.batch.push(item);
        if self.batch.len() >= BATCH_OBJECTS || self.batch_bytes >= BATCH_BYTES {
            self.flush(told)?;
        }
        Ok(())
    }

    fn add_secret(&mut self, item: Item, body: Source, owners: Vec<(String, String)>, told: &mut Told) -> Result<()> {
        let unseen = Unseen { body, namespace: item.namespace.clone(), owners };
        self.secrets.push((item, unseen));
        if self.secrets.len() >= BATCH_OBJECTS {
            self.flush(told)?;
        }
        Ok(())
    }

    fn write(&self) -> Write {
        Write::new(self.how.mode).dry_run(self.how.dry_run).force(self.how.force)
    }

    fn flush(&mut self, told: &mut Told) -> Result<()> {
        self.batch_bytes = 0;
        let mut items = std::mem::take(&mut self.batch);
        if !items.is_empty() {
            let objects: Vec<String> = items.iter_mut().map(|item| std::mem::take(&mut item.json)).collect();
            let written = self.cluster.apply(&objects, self.write())?;
            for ((mut item, json), result) in items.into_iter().zip(objects).zip(written) {
                item.json = json;
                self.settle(item, result, told)?;
            }
            self.check_answers()?;
        }
        let secrets = std::mem::take(&mut self.secrets);
        if !secrets.is_empty() {
            let (items, bodies): (Vec<Item>, Vec<Unseen>) = secrets.into_iter().unzip();
            let written = self.cluster.apply_unseen(bodies, self.write())?;
            for (item, result) in items.into_iter().zip(written) {
                self.settle(item, result, told)?;
            }
            self.check_answers()?;
        }
        let statuses = std::mem::take(&mut self.statuses);
        for some in statuses.chunks(BATCH_OBJECTS) {
            // Status has one owner, its controller, which writes it again; until then it is what was recorded.
            let write = Write::new(Mode::Merge).status(true).force(true);
            let objects: Vec<String> = some.iter().map(|(_, json)| json.clone()).collect();
            for ((shown, _), written) in some.iter().zip(self.cluster.apply(&objects, write)?) {
                match written {
                    Err(error) if !has_no_status(&error) => {
                        told.name(Outcome::Warned, "restore status", shown, error.to_string());
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        run::progress("objects", self.done, None);
        self.keep_alive()
    }

    /// One object may get no answer for a reason of its own, such as an API behind which nothing runs. Where the
    /// cluster itself answers nothing any more, the objects behind it would each be waited for in vain.
    fn check_answers(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_silent) {
            return Ok(());
        }
        match self.cluster.version() {
            Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn settle(&mut self, item: Item, result: Result<Written>, told: &mut Told) -> Result<()> {
        self.is_silent |= matches!(result, Err(Error::Unavailable(_) | Error::TimedOut(_)));
        match result {
            Ok(written) => self.was_written(item, &written, told),
            Err(error) => match obstacle(&error) {
                Obstacle::Exists if self.how.mode == Mode::Create => self.exists(&item, told),
                obstacle => {
                    let advice = obstacle.advice();
                    let semicolon = if advice.is_empty() { "" } else { "; " };
                    let action = if matches!(obstacle, Obstacle::OwnedByOthers(_)) { "conflict" } else { "restore" };
                    told.count(&item.kind.name(), Deed::Refused);
                    told.name(
                        Outcome::Failed,
                        action,
                        &item.reference().to_string(),
                        format!("{error}{semicolon}{advice}"),
                    );
                    Ok(())
                }
            },
        }
    }

    fn was_written(&mut self, item: Item, written: &Written, told: &mut Told) -> Result<()> {
        let kind = item.kind.name();
        let shown = item.reference().to_string();
        if let (Some(old), Some(new)) = (&item.old_uid, head::uid(&written.object)) {
            self.owners.restored(old, &new);
        }
        if is(&item.kind, "apiextensions.k8s.io", "CustomResourceDefinition") {
            self.defined(&item, written.change)?;
        }
        match written.change {
            Change::Created => {
                told.count(&kind, Deed::Created);
                if is(&item.kind, "", "Namespace") {
                    let made = if self.how.dry_run { &mut self.coming_namespaces } else { &mut self.made_namespaces };
                    made.insert(item.name.clone());
                }
                self.tell_created(&item, "", told);
            }
            Change::Changed => {
                let fields = match &written.before {
                    Some(before) => self.differing(&item.kind, before, &written.object)?,
                    None => None,
                };
                let (fields, as_recorded) = match fields {
                    None if self.how.dry_run && is_secret(&item.kind) => self.values(&item)?.parts(),
                    fields => (fields, Deed::Unchanged),
                };
                match fields {
                    // Only fields that the server keeps for itself, such as who manages what.
                    None if self.how.dry_run => told.count(&kind, as_recorded),
                    fields => {
                        told.count(&kind, Deed::Changed);
                        if self.how.dry_run {
                            told.name(Outcome::Passed, "change", &shown, fields.unwrap_or_default());
                        }
                    }
                }
            }
            Change::Unchanged => told.count(&kind, Deed::Unchanged),
        }
        if let (Some(status), false) = (item.status, self.how.dry_run) {
            self.statuses.push((shown, status.to_string()));
        }
        Ok(())
    }

    /// Names an object that is made, or would be, with what a person should know of it.
    fn tell_created(&self, item: &Item, note: &str, told: &mut Told) {
        let is_claim = is(&item.kind, "", "PersistentVolumeClaim");
        let data = if is_claim { "its data is not in the backup: the volume begins empty" } else { "" };
        let outcome = if item.note.is_empty() && !is_claim { Outcome::Passed } else { Outcome::Warned };
        let notes: Vec<&str> = [item.note.as_str(), data, note].into_iter().filter(|note| !note.is_empty()).collect();
        if self.how.dry_run || outcome == Outcome::Warned {
            told.name(outcome, "create", &item.reference().to_string(), notes.join("; "));
        }
    }

    /// A definition that is written, or would be.
    fn defined(&mut self, item: &Item, change: Change) -> Result<()> {
        let definition: Value = serde_json::from_str(&item.json)?;
        self.services.extend(conversion::service(&definition));
        let Some(id) = conversion::defined(&definition) else { return Ok(()) };
        if self.how.dry_run {
            // One that stays as it is serves nothing that it does not serve now.
            if change != Change::Unchanged {
                self.coming_kinds.insert(id);
            }
        } else {
            self.definitions.push((item.reference(), id));
        }
        Ok(())
    }

    /// An object that exists and is left alone; a plan says in what it differs.
    fn exists(&mut self, item: &Item, told: &mut Told) -> Result<()> {
        let kind = item.kind.name();
        if !self.how.dry_run {
            if self.is_made_beside(item) {
                return self.merge(item, told);
            }
            if is(&item.kind, "", "Namespace") {
                self.taken_namespaces.insert(item.name.clone());
            }
            if is(&item.kind, "apiextensions.k8s.io", "CustomResourceDefinition") {
                self.services.extend(conversion::service(&serde_json::from_str(&item.json)?));
            }
            told.count(&kind, Deed::Left);
            return Ok(());
        }
        let live = match self.cluster.get(&item.reference()) {
            Ok(live) => live,
            Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => return Err(error),
            Err(Error::NotFound(_)) => {
                told.count(&kind, Deed::Created);
                let note = "it was there a moment ago, and is gone".to_owned();
                told.name(Outcome::Passed, "create", &item.reference().to_string(), note);
                return Ok(());
            }
            Err(error) => {
                told.count(&kind, Deed::Left);
                told.name(Outcome::Skipped, "leave alone", &item.reference().to_string(), error.to_string());
                return Ok(());
            }
        };
        self.stays(item, &live, told)
    }

    /// Whether the cluster made the object itself when this restore made its namespace.
    fn is_made_beside(&self, item: &Item) -> bool {
        is(&item.kind, "", "ServiceAccount")
            && item.name == "default"
            && item.namespace.as_ref().is_some_and(|name| self.made_namespaces.contains(name))
    }

    /// Gives an object that the cluster made itself what is recorded of it.
    fn merge(&self, item: &Item, told: &mut Told) -> Result<()> {
        let mut object: Value = serde_json::from_str(&item.json)?;
        crate::clean::remove(&mut object, &["metadata", "managedFields"]);
        let written = self.cluster.apply(&[object.to_string()], Write::new(Mode::Merge).force(true))?;
        match written.into_iter().next() {
            Some(Err(error)) => {
                told.count(&item.kind.name(), Deed::Refused);
                told.name(Outcome::Failed, "restore", &item.reference().to_string(), error.to_string());
            }
            _ => told.count(&item.kind.name(), Deed::Created),
        }
        Ok(())
    }

    /// Says in what an object that stays as it is differs from what is recorded.
    fn stays(&self, item: &Item, live: &str, told: &mut Told) -> Result<()> {
        let kind = item.kind.name();
        let (fields, as_recorded) = match self.differing(&item.kind, live, &item.json)? {
            None if is_secret(&item.kind) => values(item, live)?.parts(),
            fields => (fields, Deed::Unchanged),
        };
        match fields {
            None => told.count(&kind, as_recorded),
            Some(fields) => {
                told.count(&kind, Deed::Left);
                let note = format!("it exists, and stays as it is; recorded otherwise: {fields}");
                told.name(Outcome::Skipped, "leave alone", &item.reference().to_string(), note);
            }
        }
        Ok(())
    }

    /// As [`values`], of the Secret that is there now.
    fn values(&mut self, item: &Item) -> Result<Values> {
        let live = match self.live(item)? {
            Some(live) => live,
            None => match self.cluster.get(&item.reference()) {
                Ok(live) => live,
                Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => return Err(error),
                Err(_) => return Ok(Values::Unknown),
            },
        };
        values(item, &live)
    }

    /// The fields in which two objects differ in what they mean.
    fn differing(&self, kind: &Kind, from: &str, to: &str) -> Result<Option<String>> {
        let meant = |json: &str| -> Result<Value> {
            let mut object = serde_json::from_str(json)?;
            rules::intent(kind, &mut object);
            Ok(object)
        };
        let (mut from, mut to) = (meant(from)?, meant(to)?);
        // Of values [`values`] tells.
        drop(secret::compare(&mut from, &mut to));
        let found = differences(&from, &to);
        Ok((!found.is_empty()).then(|| show(&found)))
    }
}

/// What a namespace of a test restore carries while it is in use. The label stands here as well: whoever
/// applies an object without one of its own fields removes that.
fn alive(name: &str, scratch: &str, now: Timestamp) -> String {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": { (SCRATCH_LABEL): scratch },
            "annotations": { (ALIVE_NOTE): now.ms.to_string() },
        },
    })
    .to_string()
}

/// What the marks of two Secrets say of their values.
enum Values {
    Equal,
    Differ(String),
    /// There are no marks, or of another key, name or namespace.
    Unknown,
}

impl Values {
    /// The values that differ, and what becomes of the object where none is known to.
    fn parts(self) -> (Option<String>, Deed) {
        match self {
            Self::Equal => (None, Deed::Unchanged),
            Self::Differ(fields) => (Some(fields), Deed::Left),
            Self::Unknown => (None, Deed::Alike),
        }
    }
}

/// Compares the values of a Secret with those of the live one.
fn values(item: &Item, live: &str) -> Result<Values> {
    let data = |json: &str| -> Result<Value> {
        let mut object: Value = serde_json::from_str(json)?;
        Ok(json!({ "data": object.get_mut("data").map(Value::take) }))
    };
    let (mut recorded, mut live) = (data(item.marked.as_deref().unwrap_or(&item.json))?, data(live)?);
    let told = secret::compare(&mut recorded, &mut live);
    Ok(match (told.changed.is_empty(), told.is_all) {
        (false, _) => Values::Differ(show(&told.changed)),
        (true, true) => Values::Equal,
        (true, false) => Values::Unknown,
    })
}

/// Whether a status was refused because there is no sub-resource for it: then it went with the object.
fn has_no_status(error: &Error) -> bool {
    matches!(error, Error::Invalid(text) if text.contains("has no status that is written so"))
}

fn rank_of(archive: &Archive) -> Rank {
    if archive.converted { Rank::CONVERTED } else { rank(&archive.group, &archive.kind) }
}
