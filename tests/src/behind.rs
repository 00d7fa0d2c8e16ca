//! A relay that reaches a real object store through a proxy which does what a test says.

use crate::proxy::{Proxy, Rule};
use crate::relay::{Relay, Setup, sh};
use crate::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY, Server};
use std::collections::BTreeSet;
use std::sync::Arc;
use strongroom::store::Store;
use strongroom::store::s3::S3Store;

/// Two parts: small enough to be quick, large enough to be a real multipart upload.
pub const TWO_PARTS: &str = "head -c 9000000 /dev/urandom";

/// TOML of an S3 store at a port of the loopback; the keys are in the environment.
pub fn at(port: u16, bucket: &str) -> String {
    format!(
        "type = \"s3\"\nbucket = \"{bucket}\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\n\
         access_key = {{ env = \"ACCESS_KEY\" }}\nsecret_key = {{ env = \"SECRET_KEY\" }}"
    )
}

/// A setup whose store is a bucket at a port of the loopback.
pub fn setup_at(port: u16, bucket: &str) -> Setup {
    Setup { produce: sh(TWO_PARTS), place: at(port, bucket), ..Setup::default() }
}

/// A relay with this setup, and the credentials of the servers here.
pub fn relay_with(setup: Setup) -> Relay {
    let mut relay = Relay::new(setup);
    relay.sandbox.set_env("ACCESS_KEY", ACCESS_KEY).set_env("SECRET_KEY", SECRET_KEY);
    relay
}

/// A real server, a proxy in front of it, and a relay that knows the proxy only.
#[derive(Debug)]
pub struct Behind {
    /// The server.
    pub server: S3Server,
    /// What is between.
    pub proxy: Proxy,
    /// Who goes through it.
    pub relay: Relay,
}

impl Behind {
    /// Starts all three; `store` are more lines of `[store.main]`. The proxy changes nothing yet.
    pub async fn start(kind: Server, store: &str) -> Self {
        let server = S3Server::start(kind).await.unwrap_or_else(|error| panic!("{error:#}"));
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), Vec::new()).await.expect("a proxy");
        let relay = relay_with(Setup { store: store.to_owned(), ..setup_at(proxy.port(), s3::BUCKET) });
        Self { server, proxy, relay }
    }

    /// From now on the proxy does this.
    pub fn set(&self, rule: Rule) {
        self.proxy.set_rules(vec![rule]);
    }

    /// What is in the server, asked without the proxy.
    pub async fn seen(&self) -> Seen {
        let store: Arc<dyn Store> = Arc::new(S3Store::open(self.server.spec()).await.expect("a client"));
        Seen::of(&store).await
    }
}

/// What is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Ids of backups that have a record.
    pub recorded: BTreeSet<String>,
    /// Objects of runs that have none.
    pub orphans: Vec<String>,
    /// Keys of uploads that were neither completed nor aborted.
    pub pending: Vec<String>,
}

impl Seen {
    /// Asks a store, which must answer.
    pub async fn of(store: &Arc<dyn Store>) -> Self {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = store.list("orders/", after.as_deref()).await.expect("a listing");
            keys.extend(page.objects.into_iter().map(|object| object.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let id = |key: &str| key.split('/').nth(1).unwrap_or_default().to_owned();
        let recorded: BTreeSet<_> =
            keys.iter().filter(|key| key.ends_with("/record.json")).map(|key| id(key)).collect();
        let is_orphan = |key: &String| key.matches('/').count() > 1 && !recorded.contains(&id(key));
        let orphans = keys.iter().filter(|key| is_orphan(key)).cloned().collect();
        let pending = store.pending_uploads("").await.expect("uploads").into_iter().map(|upload| upload.key).collect();
        Self { recorded, orphans, pending }
    }

    /// Fails the test when something lies here that belongs to no backup.
    #[track_caller]
    pub fn check_tidy(&self, after: &str) {
        assert!(self.orphans.is_empty() && self.pending.is_empty(), "left after {after}: {self:#?}");
    }
}
