//! What is there before many objects are tried: a few lists say as much as a request for each, and cost the server
//! far less.

use super::list::{Listing, Scope, Selection, Shown};
use super::object::Object;
use super::{Cluster, Kind};
use crate::error::Result;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A list costs as much as asking for so many objects.
const WORTH_A_LIST: usize = 20;

/// A list that hands out more than so many times the objects that are wanted, and more than a page of them, is given
/// up: asking for each is cheaper then.
const MOST_OF_OTHERS: usize = 8;
const PAGE_OBJECTS: usize = 500;

/// Objects of one kind that lie together: version, kind and namespace.
type Place = (String, String, Option<String>);

/// What lists showed. Memory: the objects that were asked about.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<Place, BTreeMap<String, Bytes>>);

/// What is known of an object before it is written.
#[derive(Debug)]
pub enum Before {
    /// Nothing: it is to be asked for.
    Unread,
    /// A list showed it, or that it was not there. It may be another by now.
    Listed(Option<Object>),
}

impl Seen {
    /// Lists the places in which many of `objects` lie. Of others, and where a list fails or would be long, nothing
    /// is known: whoever asks for the object itself hears why. Call it on the async runtime.
    pub async fn read(cluster: &Arc<Cluster>, objects: impl Iterator<Item = &Object>) -> Self {
        let mut wanted: BTreeMap<Place, BTreeSet<String>> = BTreeMap::new();
        for object in objects {
            wanted.entry(place(object)).or_default().insert(object.name().to_owned());
        }
        let mut seen = Self::default();
        for (place, names) in wanted.into_iter().filter(|(_, names)| names.len() >= WORTH_A_LIST) {
            let Ok(kind) = Box::pin(cluster.resolve_object(&place.0, &place.1)).await else { continue };
            if kind.namespaced != place.2.is_some() {
                // Writing it is refused; a list would be of other places.
                continue;
            }
            if let Ok(Some(found)) = Box::pin(list(cluster, kind, place.2.clone(), &names)).await {
                seen.0.insert(place, found);
            }
        }
        seen
    }

    /// What is known of the object of this name.
    pub fn before(&self, object: &Object) -> Before {
        match self.0.get(&place(object)).map(|found| found.get(object.name())) {
            None => Before::Unread,
            Some(None) => Before::Listed(None),
            Some(Some(body)) => match serde_json::from_slice(body) {
                Ok(body) => Before::Listed(Some(Object { body })),
                Err(_) => Before::Unread,
            },
        }
    }
}

fn place(object: &Object) -> Place {
    (object.api_version().to_owned(), object.kind().to_owned(), object.namespace().map(str::to_owned))
}

/// Those of `names` that are there, by their names; `None` where there are too many others.
async fn list(
    cluster: &Arc<Cluster>,
    kind: Kind,
    namespace: Option<String>,
    names: &BTreeSet<String>,
) -> Result<Option<BTreeMap<String, Bytes>>> {
    let selection = Selection {
        kind,
        scopes: vec![Scope { namespace, name: None }],
        label_selector: None,
        field_selector: None,
        admit: Arc::new(|_, _, _| Shown::Whole),
    };
    let most = (names.len() * MOST_OF_OTHERS).max(PAGE_OBJECTS);
    let (mut found, mut n_listed) = (BTreeMap::new(), 0);
    let mut listing = Listing::new(cluster.clone(), selection);
    while let Some(page) = listing.next_page().await? {
        n_listed += page.len();
        if n_listed > most {
            return Ok(None);
        }
        for i in 0..page.len() {
            if let Some((_, name)) = page.key(i)
                && names.contains(name)
                && let Some(body) = page.whole(i)
            {
                found.insert(name.to_owned(), body);
            }
        }
    }
    Ok(Some(found))
}
