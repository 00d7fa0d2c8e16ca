//! A job whose plugin asks a cluster for what a test says: the guest `cluster`, which does one deed after
//! the other and reports what came of each, and whatever grants a test writes.

use super::front::Front;
use super::{Cluster, User};
use crate::relay::sha256;
use crate::{Output, Sandbox, plugin};
use age::secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A job whose plugin asks the cluster `a` for what a test says.
#[derive(Debug)]
pub struct Rig {
    /// Where everything is.
    pub sandbox: Sandbox,
    recipient: String,
    grants: String,
    /// `[cluster.a]`, as TOML lines.
    pub way: String,
}

impl Rig {
    /// Reached as this user.
    pub fn new(cluster: &Cluster, user: &User, grants: &str) -> Self {
        let kubeconfig = cluster.kubeconfig(user).unwrap();
        let way = format!("context = {:?}\nkubeconfig = {:?}", user.name(), kubeconfig);
        Self::at(&way, grants)
    }

    /// Reached as the administrator.
    pub fn admin(cluster: &Cluster, grants: &str) -> Self {
        let way = format!("context = \"admin\"\nkubeconfig = {:?}", cluster.admin_kubeconfig());
        Self::at(&way, grants)
    }

    /// Through a front that does something wrong.
    pub fn behind(front: &Front, grants: &str) -> Self {
        Self::at(&format!("api = {:?}\ntoken = {{ env = \"CLUSTER_TOKEN\" }}\ntimeout = \"2s\"", front.url()), grants)
    }

    /// Reached in this way.
    pub fn at(way: &str, grants: &str) -> Self {
        let mut sandbox = Sandbox::new();
        sandbox.set_env("CLUSTER_TOKEN", "the front has its own");
        std::fs::create_dir(sandbox.path("store")).unwrap();
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        crate::relay::private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        Self { recipient, sandbox, grants: grants.to_owned(), way: way.to_owned() }
    }

    /// Writes the configuration: a backup, a verification and a diagnosis do these deeds.
    pub fn configure(&self, deeds: &Value) {
        let component = plugin("guests/cluster").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).unwrap());
        let deeds: toml::Value = serde_json::from_value(without_null(deeds)).unwrap();
        let Self { way, grants, recipient, .. } = self;
        self.sandbox.config(&format!(
            "[store.main]\ntype = \"local\"\npath = \"store\"\nrecipients = [{recipient:?}]\nidentity = {{ file = \"identity.txt\" }}\n\n[cluster.a]\n{way}\n\n[plugin.asks]\nsource = {component:?}\nsha256 = \"{digest}\"\n\n[plugin.asks.grant.artifacts]\n\n{grants}\n\n[job.orders]\nplugin = \"asks\"\nstore = \"main\"\nsettings = {{ deeds = {deeds} }}\n"
        ));
    }

    /// What came of each deed of a backup.
    #[track_caller]
    pub fn backup(&self, deeds: &[Value]) -> Vec<Value> {
        self.configure(&json!(deeds));
        let made = self.sandbox.run(["backup", "orders", "--output", "json"]);
        made.check_code(0);
        let facts = made.json()["facts"].clone();
        let facts: Vec<Value> = facts.as_array().into_iter().flatten().map(answer_of).collect();
        assert_eq!(facts.len(), deeds.len(), "{}", made.stderr);
        facts
    }

    /// What came of one deed of a backup.
    #[track_caller]
    pub fn ask(&self, deed: Value) -> Value {
        self.backup(&[deed]).remove(0)
    }

    fn restore(&self, flags: &[&str], deeds: &[Value]) -> Output {
        let option = format!("deeds={}", json!(deeds));
        let args = ["restore", "orders", "latest", "--output", "json", "--option", &option];
        self.sandbox.run(args.iter().chain(flags))
    }

    /// What came of each deed of a restore of the last backup.
    #[track_caller]
    pub fn restored(&self, flags: &[&str], deeds: &[Value]) -> Vec<Value> {
        let done = self.restore(flags, deeds);
        done.check_code(0);
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        for step in done.json()["steps"].as_array().into_iter().flatten() {
            told.entry(step["target"].to_string()).or_default().push_str(step["note"].as_str().unwrap());
        }
        let steps: Vec<Value> =
            told.values().map(|told| serde_json::from_str(told).expect("the guest reports JSON")).collect();
        assert_eq!(steps.len(), deeds.len(), "{}", done.stderr);
        steps
    }

    /// What came of one deed of a restore.
    #[track_caller]
    pub fn change(&self, deed: Value) -> Value {
        self.restored(&[], &[deed]).remove(0)
    }
}

/// TOML has no null.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_null(value)))
            .collect(),
        Value::Array(list) => list.iter().map(without_null).collect(),
        other => other.clone(),
    }
}

/// What came of a deed, from a fact of the backup.
pub fn answer_of(fact: &Value) -> Value {
    serde_json::from_str(fact["value"].as_str().expect("a fact has a value")).expect("the guest reports JSON")
}

/// A grant for the cluster `a`, as TOML.
pub fn grant(may: &[&str], kinds: &[&str], more: &str) -> String {
    let changes = may.iter().any(|verb| ["apply", "delete"].contains(verb));
    let effect = if changes { "changes" } else { "reads" };
    let verbs = if changes { json!(["restore"]) } else { json!(["backup", "restore", "diagnose", "verify"]) };
    format!(
        "[[plugin.asks.grant.kube.a]]\nmay = {}\nkinds = {}\nverbs = {verbs}\neffect = {effect:?}\n{more}\n\n",
        json!(may),
        json!(kinds)
    )
}

/// A grant to list and get.
pub fn reads(kinds: &[&str], more: &str) -> String {
    grant(&["list", "get"], kinds, more)
}
