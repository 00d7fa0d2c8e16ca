//! A sandbox with jobs of the guest `meter`, a local store without encryption, and a textfile.

use crate::relay::sha256;
use crate::warm::Warm;
use crate::{Output, Sandbox, plugin};
use std::path::PathBuf;

/// The jobs of a meter, and what it is granted.
#[derive(Debug)]
pub struct Meter {
    /// Where everything is.
    pub sandbox: Sandbox,
    /// Lines of `[metrics]`; the textfile unless changed.
    pub metrics: String,
    /// Lines of `[plugin.meter.grant.metrics]`; the whole table is left out when this is empty.
    pub grant: String,
    /// Lines of `[plugin.meter.limits]`.
    pub limits: String,
    /// Lines before all tables.
    pub top: String,
    /// Jobs with the lines of their settings.
    pub jobs: Vec<(String, String)>,
    /// Lines of every job.
    pub of_job: String,
}

impl Meter {
    /// One job `orders` that measures nothing by itself, with the prefix `meter_` granted.
    pub fn new() -> Self {
        static WARM: Warm = Warm::new("guests/meter");
        let meter = Self::cold();
        WARM.give(&meter.sandbox, || {
            let meter = Self::cold();
            meter.run(&["diagnose", "orders"]);
            meter.sandbox
        });
        meter
    }

    /// The same, and the plugin has yet to be compiled.
    fn cold() -> Self {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("store")).expect("the store's folder");
        let meter = Self {
            sandbox,
            metrics: "textfile = \"strongroom.prom\"".to_owned(),
            grant: "prefix = \"meter_\"".to_owned(),
            limits: String::new(),
            top: String::new(),
            jobs: vec![("orders".to_owned(), String::new())],
            of_job: String::new(),
        };
        meter.configure();
        meter
    }

    /// Changes the settings of a job, or adds one, and writes the configuration.
    pub fn set(&mut self, job: &str, settings: &str) {
        self.jobs.retain(|(name, _)| name != job);
        self.jobs.push((job.to_owned(), settings.to_owned()));
        self.configure();
    }

    /// Writes the configuration.
    pub fn configure(&self) {
        let component = plugin("guests/meter").unwrap_or_else(|error| panic!("{error:#}"));
        let digest = sha256(&std::fs::read(&component).expect("the guest meter"));
        let Self { metrics, grant, limits, top, of_job, .. } = self;
        let grant = if grant.is_empty() { String::new() } else { format!("[plugin.meter.grant.metrics]\n{grant}\n") };
        let mut text = format!(
            "{top}\n[store.main]\ntype = \"local\"\npath = \"store\"\nencryption = \"off\"\n\n[metrics]\n{metrics}\n\n\
             [plugin.meter]\nsource = \"{}\"\nsha256 = \"{digest}\"\n\n[plugin.meter.limits]\n{limits}\n\n\
             [plugin.meter.grant.artifacts]\n\n{grant}\n",
            component.display()
        );
        for (job, settings) in &self.jobs {
            text.push_str(&format!(
                "[job.{job}]\nplugin = \"meter\"\nstore = \"main\"\n{of_job}\n[job.{job}.settings]\n{settings}\n\n"
            ));
        }
        self.sandbox.config(&text);
    }

    /// Runs `strongroom` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sandbox.run(args)
    }

    /// Where the textfile is.
    pub fn textfile(&self) -> PathBuf {
        self.sandbox.path("strongroom.prom")
    }

    /// The text of the textfile; empty while it is not there.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.textfile()).unwrap_or_default()
    }

    /// The value of a series, by the beginning of its line without the space.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("there is no {series} in\n{}", self.text()))
    }

    /// The value of a series if it is there.
    pub fn find(&self, series: &str) -> Option<f64> {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))?;
        Some(line.parse().expect("a number"))
    }

    /// What a backup of `orders` was answered, call by call.
    #[track_caller]
    pub fn answers(&self) -> Vec<String> {
        let made = self.run(&["backup", "orders", "--output", "json"]);
        made.check_code(0);
        let facts = made.json()["facts"].as_array().cloned().expect("a list of facts");
        facts.iter().map(|fact| fact["value"].as_str().expect("text").to_owned()).collect()
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// Settings that make calls, each `(what, name, more keys)`.
pub fn calls(calls: &[(&str, &str, &str)]) -> String {
    let call = |(what, name, more): &(&str, &str, &str)| format!("  {{ do = \"{what}\", name = {name:?}{more} }},\n");
    format!("calls = [\n{}]", calls.iter().map(call).collect::<String>())
}
