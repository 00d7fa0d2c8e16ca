//! Lists in pages: of any length, in flat memory, through expired tokens, with nothing handed out twice.
//!
//! The first page is asked for when a list is made, and the next one is on its way while this one is looked
//! at. Memory: two pages, each of at most [`MAX_PAGE_BYTES`] and mostly of [`GOOD_PAGE_BYTES`].

use super::ahead::Ahead;
use super::blot::{Marks, blotted};
use super::failure::{self, Doing, Status};
use super::object::{Labels, labels_of};
use super::request::Ask;
use super::{Cluster, Kind, is_secret, path, split};
use crate::error::{Error, Kind as ErrorKind, Result};
use bytes::Bytes;
use http::StatusCode;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Objects of a page at most: what kubectl asks for, and what the contract promises.
const PAGE_OBJECTS: u32 = 500;

/// Pages are asked for smaller when they become longer than this.
const GOOD_PAGE_BYTES: usize = 8 << 20;

/// A page that is longer than this is given up and asked for again with fewer objects.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// A list that expires more often than this is read slower than the cluster forgets.
const MAX_RESTARTS: u32 = 20;

/// How an object is handed out, by its namespace, its name, and its labels on demand.
pub type Admit = Arc<dyn Fn(Option<&str>, &str, &dyn Fn() -> Labels) -> Shown + Send + Sync>;

/// How an object of a list is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Not at all.
    Not,
    /// Where it is a Secret, without its values.
    Blotted,
    /// As it is.
    Whole,
}

/// What is listed.
#[derive(Clone)]
pub struct Selection {
    /// The kind.
    pub kind: Kind,
    /// Where, one after the other.
    pub scopes: Vec<Scope>,
    /// In the server's words.
    pub label_selector: Option<String>,
    /// In the server's words.
    pub field_selector: Option<String>,
    /// What of it is handed out, and how.
    pub admit: Admit,
}

/// A place to list: all of it, a namespace, or one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// None is all namespaces, and what lies in none.
    pub namespace: Option<String>,
    /// Only the object of this name.
    pub name: Option<String>,
}

/// Objects of a list.
#[derive(Debug, Default)]
pub struct Page {
    body: Bytes,
    objects: Vec<Listed>,
    /// Whether the list expired and was begun anew behind the last object handed out: then it is not
    /// of one moment.
    pub restarted: bool,
    is_secret: bool,
}

/// An object of a page: where it lies in the server's answer.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What the server leaves out of objects in lists: the opening with version and kind, or nothing.
    opening: Arc<str>,
    span: Range<usize>,
    namespace: Option<String>,
    name: String,
    is_blotted: bool,
}

/// A list in progress.
pub struct Listing {
    cluster: Arc<Cluster>,
    selection: Arc<Selection>,
    /// Where the next page begins; none at the end.
    at: Option<Cursor>,
    ahead: Option<Ahead<(Cursor, Result<Fetched>)>>,
}

#[derive(Clone, Debug)]
struct Cursor {
    scopes: VecDeque<Scope>,
    token: Option<String>,
    /// The last object that was read, as the server sorts: `namespace/name`.
    last: String,
    /// What comes up to here has been handed out.
    behind: Option<String>,
    limit: u32,
    is_sorted: bool,
    restarts: u32,
}

struct Fetched {
    page: Page,
    next: Option<Cursor>,
}

impl Page {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Namespace and name of an object.
    pub fn key(&self, place: usize) -> Option<(Option<&str>, &str)> {
        self.objects.get(place).map(|object| (object.namespace.as_deref(), object.name.as_str()))
    }

    /// The whole object at this place, as it was listed.
    pub fn whole(&self, place: usize) -> Option<Bytes> {
        let object = self.objects.get(place)?;
        let text = self.body.get(object.span.clone())?;
        let mut whole = Vec::with_capacity(object.opening.len() + text.len());
        whole.extend_from_slice(object.opening.as_bytes());
        whole.extend_from_slice(text);
        Some(whole.into())
    }

    /// The objects as text, Secrets without their values unless they are granted, but with marks of them
    /// where there are any.
    pub fn texts(&self, marks: Option<&Marks>) -> Result<Vec<String>> {
        let text = |place: usize| {
            let whole = self.whole(place).unwrap_or_default();
            let whole = String::from_utf8(whole.into()).map_err(|_| Error::failed("a list is not text"))?;
            let is_blotted = self.is_secret && self.objects.get(place).is_none_or(|object| object.is_blotted);
            if is_blotted { blotted(&whole, marks) } else { Ok(whole) }
        };
        (0..self.len()).map(text).collect()
    }
}

impl Listing {
    /// A list, whose first page is asked for. Call it on the async runtime.
    pub fn new(cluster: Arc<Cluster>, selection: Selection) -> Self {
        let at = Cursor::begin(&selection);
        let mut listing = Self { cluster, selection: Arc::new(selection), at, ahead: None };
        listing.ask();
        listing
    }

    /// Asks for the next page, if it is not asked for yet. What it returns is cancelled when the page, the end
    /// or an error is there; `None` behind the end.
    pub fn ask(&mut self) -> Option<CancellationToken> {
        if let Some(cursor) = self.at.take() {
            let (cluster, selection) = (self.cluster.clone(), self.selection.clone());
            self.ahead = Some(Ahead::start(async move { fetch(&cluster, &selection, cursor).await }));
        }
        self.ahead.as_ref().map(Ahead::is_there)
    }

    /// The next page with at least one object; none at the end.
    ///
    /// After an error that trying again may change, the next call tries this page again. After any
    /// other it goes on with the next namespace that was to be listed.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        loop {
            self.ask();
            let Some(ahead) = self.ahead.take() else { return Ok(None) };
            let (cursor, fetched) = ahead.answer().await?;
            let Fetched { page, next } = match fetched {
                Ok(fetched) => fetched,
                Err(error) => {
                    self.at = if error.is_retryable() { Some(cursor) } else { cursor.next_scope() };
                    return Err(error);
                }
            };
            self.at = next;
            self.ask();
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
    }
}

impl Cursor {
    /// Before the first page; none where there is no place to list.
    fn begin(selection: &Selection) -> Option<Self> {
        let at = Self {
            scopes: selection.scopes.iter().cloned().collect(),
            token: None,
            last: String::new(),
            behind: None,
            limit: PAGE_OBJECTS,
            is_sorted: true,
            restarts: 0,
        };
        (!at.scopes.is_empty()).then_some(at)
    }

    /// The beginning of the next place, if there is one.
    fn next_scope(mut self) -> Option<Self> {
        self.scopes.pop_front();
        self.token = None;
        self.last.clear();
        self.behind = None;
        self.is_sorted = true;
        (!self.scopes.is_empty()).then_some(self)
    }

    /// Begins anew behind what was read, at another moment.
    fn restart(&mut self, token: Option<&str>, cluster: &Cluster, kind: &Kind) -> Result<()> {
        self.restarts += 1;
        let expired = |why: &str| {
            Error::unavailable(format!("{cluster}: the list of {} expired, and {why}", kind.plural))
                .hint("the cluster forgets old versions (etcd compaction) before the list is read: read it faster, or when less is changed")
        };
        if self.restarts > MAX_RESTARTS {
            return Err(expired(&format!("so did {MAX_RESTARTS} before it")));
        }
        match token {
            Some(token) => self.token = Some(token.to_owned()),
            None if !self.is_sorted => return Err(expired("it is in no order in which it could go on")),
            None => {
                self.token = None;
                self.behind = Some(self.last.clone());
            }
        }
        Ok(())
    }
}

/// Reads pages until one holds something or the list ends. On an error the cursor is where it was.
async fn fetch(cluster: &Cluster, selection: &Selection, mut cursor: Cursor) -> (Cursor, Result<Fetched>) {
    let mut restarted = false;
    loop {
        match Box::pin(page(cluster, selection, &mut cursor, &mut restarted)).await {
            Ok(Some((mut page, token))) => {
                page.restarted = restarted;
                let now = cursor.clone();
                let next = match token {
                    Some(token) => Some(Cursor { token: Some(token), ..cursor.clone() }),
                    None => cursor.clone().next_scope(),
                };
                if page.is_empty()
                    && let Some(next) = next
                {
                    cursor = next;
                    continue;
                }
                return (now, Ok(Fetched { page, next }));
            }
            Ok(None) => {}
            Err(error) => return (cursor, Err(error)),
        }
    }
}

/// One page and the token of the next one; `None` when it has to be asked for in another way, which
/// the cursor says.
async fn page(
    cluster: &Cluster,
    selection: &Selection,
    cursor: &mut Cursor,
    restarted: &mut bool,
) -> Result<Option<(Page, Option<String>)>> {
    let kind = &selection.kind;
    let scope = cursor.scopes.front().cloned().unwrap_or_default();
    let named = scope.name.as_ref().map(|name| format!("metadata.name={name}"));
    let fields: Vec<&str> = selection.field_selector.as_deref().into_iter().chain(named.as_deref()).collect();
    let fields = fields.join(",");
    let limit = cursor.limit.to_string();
    let query = path::query(&[
        ("limit", Some(&limit)),
        ("continue", cursor.token.as_deref()),
        ("labelSelector", selection.label_selector.as_deref()),
        ("fieldSelector", Some(fields.as_str()).filter(|fields| !fields.is_empty())),
    ]);
    let target = format!("{}{query}", path::collection(kind, scope.namespace.as_deref())?);
    let doing = Doing::to("list", kind, scope.namespace.as_deref(), scope.name.as_deref());
    let mut ask = Ask::get(target, doing);
    ask.max_bytes = MAX_PAGE_BYTES;
    let answer = match cluster.send(&ask).await {
        Err(error) if error.kind() == ErrorKind::Limit && cursor.limit > 1 => {
            cursor.limit = (cursor.limit / 8).max(1);
            return Ok(None);
        }
        answer => answer?,
    };
    if answer.status == StatusCode::GONE && cursor.token.is_some() {
        cursor.restart(Status::of(&answer).token(), cluster, kind)?;
        *restarted = true;
        return Ok(None);
    }
    if !answer.status.is_success() {
        return Err(failure::refused(cluster, &ask.doing, &answer));
    }
    let n_bytes = answer.body.len();
    let found = read(cluster, selection, cursor, answer.body)?;
    if n_bytes > GOOD_PAGE_BYTES {
        cursor.limit = (cursor.limit / 2).max(1);
    } else if n_bytes < GOOD_PAGE_BYTES / 8 {
        cursor.limit = (cursor.limit * 2).min(PAGE_OBJECTS);
    }
    Ok(Some(found))
}

/// Cuts a list into its objects.
fn read(cluster: &Cluster, selection: &Selection, cursor: &mut Cursor, body: Bytes) -> Result<(Page, Option<String>)> {
    let odd = || Error::failed(format!("{cluster}: a list of {} is not as it must be", selection.kind.plural));
    let text = std::str::from_utf8(&body).map_err(|_| odd())?;
    let offset_of = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let opening: Arc<str> = format!(
        "{{\"apiVersion\":{},\"kind\":{},",
        serde_json::Value::from(selection.kind.api_version()),
        serde_json::Value::from(selection.kind.kind.as_str())
    )
    .into();
    let (mut token, mut objects) = (None, Vec::new());
    for member in split::members(text)? {
        match member? {
            ("metadata", metadata) => {
                for member in split::members(metadata)? {
                    if let ("continue", value) = member? {
                        token = split::text(value).filter(|token| !token.is_empty());
                    }
                }
            }
            ("items", items) => {
                for item in split::elements(items)? {
                    let item = item?;
                    let head = Head::of(item).ok_or_else(odd)?;
                    if !cursor.take(&head) {
                        continue;
                    }
                    let shown = (selection.admit)(head.namespace.as_deref(), &head.name, &|| labels_of(item));
                    if shown == Shown::Not {
                        continue;
                    }
                    let begin = offset_of(item);
                    // Without its own bracket, which the opening has.
                    let (opening, begin, end) = if head.is_whole {
                        (Arc::from(""), begin, begin + item.len())
                    } else {
                        (opening.clone(), begin + 1, begin + item.len())
                    };
                    let Head { namespace, name, .. } = head;
                    let is_blotted = shown == Shown::Blotted;
                    objects.push(Listed { opening, span: begin..end, namespace, name, is_blotted });
                }
            }
            _ => {}
        }
    }
    let is_secret = is_secret(&selection.kind.group, &selection.kind.kind);
    let page = Page { body, objects, restarted: false, is_secret };
    Ok((page, token))
}

impl Cursor {
    /// Takes note of an object; `false` for one that was handed out before the list was begun anew.
    fn take(&mut self, head: &Head) -> bool {
        // As etcd sorts them, which is not the order of pairs: `a-b/x` comes before `a/x`.
        let key = match &head.namespace {
            Some(namespace) => format!("{namespace}/{}", head.name),
            None => head.name.clone(),
        };
        if self.behind.as_ref().is_some_and(|behind| key <= *behind) {
            return false;
        }
        self.is_sorted &= self.last < key;
        self.last = key;
        true
    }
}

/// What is to be known of an object to hand it on.
struct Head {
    namespace: Option<String>,
    name: String,
    /// Whether it says its version and kind itself, as custom resources do.
    is_whole: bool,
}

impl Head {
    fn of(item: &str) -> Option<Self> {
        let mut head = Self { namespace: None, name: String::new(), is_whole: false };
        for member in split::members(item).ok()? {
            match member.ok()? {
                ("apiVersion", _) => head.is_whole = true,
                ("metadata", metadata) => {
                    for member in split::members(metadata).ok()? {
                        match member.ok()? {
                            ("name", value) => head.name = split::text(value)?,
                            ("namespace", value) => head.namespace = split::text(value).filter(|text| !text.is_empty()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (!head.name.is_empty()).then_some(head)
    }
}

impl Cluster {
    /// Names of all namespaces, for a grant that names them by a pattern.
    pub async fn namespaces(self: &Arc<Self>) -> Result<Vec<String>> {
        let kind = self.resolve("", "v1", "namespaces", "Namespace").await?;
        let selection = Selection {
            kind,
            scopes: vec![Scope::default()],
            label_selector: None,
            field_selector: None,
            admit: Arc::new(|_, _, _| Shown::Blotted),
        };
        let mut listing = Listing::new(self.clone(), selection);
        let mut names = Vec::new();
        while let Some(page) = listing.next_page().await? {
            names.extend((0..page.len()).filter_map(|place| page.key(place).map(|(_, name)| name.to_owned())));
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterSpec, PATIENCE, Proxies, TIMEOUT, Way};
    use super::*;

    fn cluster() -> Arc<Cluster> {
        Cluster::new(ClusterSpec {
            label: "prod".to_owned(),
            way: Way::InCluster,
            credentials: None,
            impersonate: None,
            proxy: None,
            proxies: Proxies::default(),
            timeout: TIMEOUT,
            patience: PATIENCE,
            requests_per_second: None,
            in_flight: 1,
        })
    }

    fn selection(kind: &str) -> Selection {
        let kind = Kind {
            group: String::new(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: format!("{}s", kind.to_lowercase()),
            namespaced: true,
            verbs: Vec::new(),
            has_status: false,
        };
        Selection {
            kind,
            scopes: vec![Scope::default()],
            label_selector: None,
            field_selector: None,
            admit: Arc::new(|_, name, labels| match name {
                "hidden" => Shown::Not,
                "open" => Shown::Whole,
                _ if labels().contains_key("secret") => Shown::Not,
                _ => Shown::Blotted,
            }),
        }
    }

    fn begin(selection: &Selection) -> Cursor {
        Cursor::begin(selection).unwrap()
    }

    fn items(names: &[(&str, &str)]) -> String {
        let item = |(namespace, name): &(&str, &str)| {
            format!(
                "{{\"metadata\":{{\"namespace\":\"{namespace}\",\"name\":\"{name}\"}},\"data\":{{\"k\":\"dg==\"}}}}"
            )
        };
        let items: Vec<_> = names.iter().map(item).collect();
        format!("{{\"kind\":\"L\",\"metadata\":{{\"continue\":\"t\"}},\"items\":[{}]}}\n", items.join(","))
    }

    fn keys(page: &Page) -> Vec<String> {
        (0..page.len())
            .map(|n| page.key(n).map(|(ns, name)| format!("{}/{name}", ns.unwrap_or("_"))).unwrap())
            .collect()
    }

    #[test]
    fn objects_get_back_what_lists_leave_out_and_keep_their_text() {
        let selection = selection("ConfigMap");
        let list = r#"{"metadata":{},"items":[
            {"metadata":{"name":"a","namespace":"n","labels":{"x":"y"}},"data":{"k":"\u00e9 \"q\" }"}},
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}},
            {"metadata":{"name":"hidden"}}, {"metadata":{"name":"c","labels":{"secret":"1"}}}]}"#;
        let (page, token) = read(&cluster(), &selection, &mut begin(&selection), list.into()).unwrap();
        assert_eq!((keys(&page), token), (vec!["n/a".to_owned(), "_/b".to_owned()], None));
        let texts = page.texts(None).unwrap();
        assert_eq!(
            texts[0],
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n","labels":{"x":"y"}},"data":{"k":"\u00e9 \"q\" }"}}"#
        );
        assert_eq!(texts[1], r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}"#);
        assert_eq!(page.whole(0).unwrap(), texts[0].as_bytes());
        assert_eq!(page.whole(2), None);
    }

    #[test]
    fn the_text_of_a_secret_is_blotted_and_its_body_is_whole() {
        let selection = selection("Secret");
        let list = items(&[("n", "db"), ("n", "open")]);
        let (page, _) = read(&cluster(), &selection, &mut begin(&selection), list.into()).unwrap();
        let texts = page.texts(None).unwrap();
        assert!(!texts[0].contains("dg==") && texts[1].contains("dg=="));
        assert!(String::from_utf8(page.whole(0).unwrap().into()).unwrap().contains("dg=="));
    }

    #[test]
    fn a_list_that_is_begun_anew_hands_nothing_out_twice_and_leaves_nothing_out() {
        let (cluster, selection) = (cluster(), selection("ConfigMap"));
        let mut cursor = begin(&selection);
        // As etcd sorts: '-' comes before '/'.
        let (page, token) = read(&cluster, &selection, &mut cursor, items(&[("a-b", "x"), ("a", "m")]).into()).unwrap();
        assert_eq!((keys(&page).len(), token.as_deref()), (2, Some("t")));
        cursor.restart(None, &cluster, &selection.kind).unwrap();
        assert_eq!(cursor.token, None);
        // One was deleted, one was added before and one behind what was read.
        let again = items(&[("a-b", "new"), ("a", "m"), ("a", "n"), ("b", "a")]);
        let (page, _) = read(&cluster, &selection, &mut cursor, again.into()).unwrap();
        assert_eq!(keys(&page), ["a/n", "b/a"]);
        // The server's own way to go on is taken where it offers one.
        cursor.restart(Some("other"), &cluster, &selection.kind).unwrap();
        assert_eq!(cursor.token.as_deref(), Some("other"));
    }

    #[test]
    fn a_list_in_no_order_is_not_begun_anew() {
        let (cluster, selection) = (cluster(), selection("ConfigMap"));
        let mut cursor = begin(&selection);
        read(&cluster, &selection, &mut cursor, items(&[("b", "x"), ("a", "m")]).into()).unwrap();
        let error = cursor.restart(None, &cluster, &selection.kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let mut cursor = begin(&selection);
        let restarts = (0..=MAX_RESTARTS).map(|_| cursor.restart(None, &cluster, &selection.kind).is_ok());
        assert_eq!(restarts.filter(|ok| !ok).count(), 1);
    }
}
