//! Lists of objects, where they are granted and nowhere else.

use super::look::body_source;
use super::{GuestCluster, Named, Open};
use crate::cluster::{Admit, Kind, Listing, Page, Scope, Selection, Shown};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::kube;
use crate::plugin::budget::Permit;
use crate::plugin::capability::bytes::GuestSource;
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::ledger::Ledger;
use crate::plugin::state::State;
use crate::policy::Call;
use crate::policy::kube::{KubeCall, KubeObject, KubeScope, KubeVerb};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

/// A list in the guest's hands, with its last page.
pub struct GuestListing {
    label: String,
    /// Away while a page is under way, and for ever after one that was given up.
    listing: Option<Listing>,
    page: Page,
    named: Named,
    ledger: Arc<Ledger>,
    _permit: Permit,
}

impl GuestListing {
    /// Asks for its next page, if it is not asked for yet; see [`Listing::ask`]. `None` where there is none to
    /// wait for.
    pub(super) fn ask(&mut self) -> Option<CancellationToken> {
        self.listing.as_mut()?.ask()
    }
}

impl State {
    pub(super) async fn list_objects(
        &mut self,
        this: &Resource<GuestCluster>,
        selection: kube::Selection,
    ) -> Result<Resource<GuestListing>, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let kube::Selection { kind, namespace, label_selector, field_selector } = selection;
        let named = Named::of(&kind, namespace, None);
        let objects = [named.object(None)];
        let call = Call::Kube(KubeCall { cluster: &open.label, verb: Some(KubeVerb::List), objects: &objects });
        let work = async {
            let kind = open.resolve(&kind).await?;
            let scopes = scopes(&guard, &open, &kind, named.namespace.as_deref()).await?;
            let admit = admit(guard.clone(), open.label.clone(), &kind);
            let selection = Selection { kind, scopes, label_selector, field_selector, admit };
            let listing = GuestListing {
                label: open.label.clone(),
                listing: Some(Listing::new(open.cluster.clone(), selection)),
                page: Page::default(),
                named: named.clone(),
                ledger: open.ledger.clone(),
                _permit: self.stream_place()?,
            };
            Ok(self.table.push(listing)?)
        };
        guard.pass_on(&open.ledger, "kube.cluster.objects", Some(&call), Deadline::Own, work).await
    }
}

/// Where a list looks: what is granted, and of that what is asked for.
async fn scopes(guard: &Guard, open: &Open, kind: &Kind, asked: Option<&str>) -> Result<Vec<Scope>> {
    let is_namespace = kind.group.is_empty() && kind.kind == "Namespace";
    if let Some(namespace) = asked {
        // The decision was about exactly this one.
        return Ok(vec![Scope { namespace: Some(namespace.to_owned()), name: None }]);
    }
    let (mut names, patterns) = match guard.policy().kube_scope(&open.label, &kind.name(), kind.namespaced) {
        KubeScope::All => return Ok(vec![Scope::default()]),
        KubeScope::Some { names, patterns } => (names, patterns),
    };
    if !patterns.is_empty() {
        let all = Box::pin(open.cluster.namespaces()).await.map_err(|error| {
            let hint = "a grant that names namespaces by a pattern needs the right to list them: name them in full";
            error.hint(hint)
        })?;
        names.extend(all.into_iter().filter(|name| patterns.iter().any(|pattern| pattern.admits(name))));
    }
    Ok(in_order(names, is_namespace))
}

/// One place for each namespace, or for each namespace as an object.
fn in_order(names: BTreeSet<String>, is_namespace: bool) -> Vec<Scope> {
    let scope = |name: String| {
        if is_namespace {
            Scope { namespace: None, name: Some(name) }
        } else {
            Scope { namespace: Some(name), name: None }
        }
    };
    names.into_iter().map(scope).collect()
}

/// Asks the policy about every object of a list: a namespace may be granted with only some of its names.
fn admit(guard: Guard, label: String, kind: &Kind) -> Admit {
    let (name_of_kind, namespaced) = (kind.name(), kind.namespaced);
    let is_secret = crate::cluster::is_secret(&kind.group, &kind.kind);
    Arc::new(move |namespace, name, labels| {
        let policy = guard.policy();
        let at = KubeObject { kind: &name_of_kind, namespaced, namespace, name: Some(name), labels: None };
        if !policy.kube_asks_for_labels(&label, KubeVerb::List, &at) && !is_secret {
            // Mostly so: nothing is decoded.
            return Shown::Whole;
        }
        let labels = labels();
        let at = KubeObject { labels: Some(&labels), ..at };
        if !policy.kube_allows(&label, KubeVerb::List, &at) {
            Shown::Not
        } else if is_secret && !policy.kube_shows_secret(&label, KubeVerb::List, &at) {
            Shown::Blotted
        } else {
            Shown::Whole
        }
    })
}

impl kube::HostListing for State {
    async fn next_page(&mut self, this: Resource<GuestListing>) -> Result<Option<kube::Page>, Refusal> {
        let (guard, marks) = (self.guard.clone(), self.run.marks.clone());
        let guest = self.table.get_mut(&this)?;
        let ledger = Arc::clone(&guest.ledger);
        let work = async {
            let mut listing = guest
                .listing
                .take()
                .ok_or_else(|| Error::invalid("the list has ended badly: an earlier page of it was given up"))?;
            guest.page = Page::default();
            let page = Box::pin(listing.next_page()).await;
            guest.listing = Some(listing);
            let Some(page) = page? else { return Ok(None) };
            let objects = page.texts(marks.as_deref())?;
            guard.moved(objects.iter().map(String::len).sum());
            let restarted = page.restarted;
            guest.page = page;
            Ok(Some(kube::Page { objects, restarted }))
        };
        // It was decided when the list was begun, and every object of it is looked at.
        guard.pass_on(&ledger, "kube.listing.next-page", None, Deadline::Own, work).await
    }

    async fn body(&mut self, this: Resource<GuestListing>, place: u32) -> Result<Resource<GuestSource>, Refusal> {
        let guard = self.guard.clone();
        let guest = self.table.get(&this)?;
        let (label, ledger) = (guest.label.clone(), Arc::clone(&guest.ledger));
        let found = usize::try_from(place).ok().and_then(|place| {
            let (namespace, name) = guest.page.key(place)?;
            let at = KubeObject { namespace, name: Some(name), ..guest.named.object(None) };
            let whole = guest.page.whole(place)?;
            let labels = crate::cluster::labels_in(&whole);
            let at = KubeObject { labels: Some(&labels), ..at };
            Some((guard.policy().kube_inspects(&label, KubeVerb::List, &at), whole))
        });
        let work = async {
            let (inspect, whole) =
                found.ok_or_else(|| Error::invalid(format!("the last page has no object at place {place}")))?;
            self.push_source(body_source(&label, whole, inspect), None, Arc::clone(&ledger))
        };
        guard.pass_on(&ledger, "kube.listing.body", None, Deadline::Own, work).await
    }

    async fn drop(&mut self, this: Resource<GuestListing>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
