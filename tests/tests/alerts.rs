//! `strongroom alerts`: rules that promtool accepts, that fire when they should and not otherwise; and once
//! for real, from runs to a Prometheus and on to an Alertmanager.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;
use strongroom_tests::documented::check_documented;
use strongroom_tests::meter::Meter;
use strongroom_tests::prometheus::{Daemon, Listener, promtool};
use strongroom_tests::wait_until;

/// A configuration with three jobs, of which `orders` has an objective, and old backups that are removed.
fn meter() -> Meter {
    let mut meter = Meter::new();
    meter.of_job = "objective = \"2h\"\nkeep = { last = 3 }".to_owned();
    meter.configure();
    meter
}

/// The rules of `orders` in a file of the sandbox.
fn rules(meter: &Meter) -> String {
    let output = meter.run(&["alerts"]);
    output.check_code(0);
    meter.sandbox.write("rules.yml", &output.stdout);
    output.stdout
}

/// Series of `orders`, from 1970 on, a value every `minutes`: `STEP` is that in seconds, `N` as many as it takes.
fn series(name: &str, values: &str, minutes: u32) -> String {
    let labels = match name {
        "backup_storage_free_bytes" | "backup_storage_size_bytes" => "store=\"main\"",
        _ => "backup_job=\"orders\",plugin=\"meter\",store=\"main\",instance=\"db1\"",
    };
    let n = if minutes == SHORT { 2_000 } else { 2_400 };
    let values = values.replace("STEP", &(minutes * 60).to_string()).replace('N', &n.to_string());
    format!("      - series: '{name}{{{labels}}}'\n        values: '{values}'\n")
}

/// Minutes between two looks, for what happens within a day.
const SHORT: u32 = 1;
/// The same for what takes months.
const LONG: u32 = 60;

const SUCCESS: &str = "backup_last_success_timestamp_seconds";
const FAILURE: &str = "backup_last_failure_timestamp_seconds";
const INCOMPLETE: &str = "backup_last_incomplete_timestamp_seconds";
const RUN: &str = "backup_last_run_timestamp_seconds";
const VERIFIED: &str = "backup_verification_last_success_timestamp_seconds";
const NOT_VERIFIED: &str = "backup_verification_last_failure_timestamp_seconds";
const VERIFICATION: &str = "backup_verification_last_run_timestamp_seconds";
const RESTORED: &str = "backup_restore_test_last_success_timestamp_seconds";

/// An alert, series that make it fire with the minute at which it does, and series that do not.
#[derive(Clone, Copy)]
struct Case {
    alert: &'static str,
    severity: &'static str,
    fires: &'static [(&'static str, &'static str)],
    at: u32,
    /// What else fires then.
    quiet: &'static [(&'static str, &'static str)],
}

/// A job that is well: what every case begins with, unless it names the series itself.
const WELL: &[(&str, &str)] = &[
    (SUCCESS, "0+STEPxN"),
    (RUN, "0+STEPxN"),
    (VERIFIED, "0+STEPxN"),
    (VERIFICATION, "0+STEPxN"),
    (RESTORED, "0+STEPxN"),
    ("backup_duration_seconds", "3600xN"),
    ("backup_storage_free_bytes", "20xN"),
    ("backup_storage_size_bytes", "100xN"),
];

const CASES: &[Case] = &[
    // The objective is two hours, and it holds for five minutes.
    Case {
        alert: "BackupOverdue",
        severity: "critical",
        fires: &[(SUCCESS, "0xN")],
        at: 126,
        quiet: &[(SUCCESS, "120xN")],
    },
    Case {
        alert: "BackupMetricsAbsent",
        severity: "critical",
        fires: &[(SUCCESS, "_xN")],
        at: 16,
        quiet: &[(SUCCESS, "_x10 0+STEPxN")],
    },
    Case {
        alert: "BackupExecutionError",
        severity: "critical",
        fires: &[(FAILURE, "600xN"), (RUN, "600xN")],
        at: 11,
        quiet: &[(FAILURE, "600xN"), (RUN, "660xN")],
    },
    Case {
        alert: "BackupFailure",
        severity: "critical",
        fires: &[(FAILURE, "600xN")],
        at: 1440,
        quiet: &[(FAILURE, "-86400xN")],
    },
    Case {
        alert: "BackupIncomplete",
        severity: "warning",
        fires: &[(INCOMPLETE, "600xN"), (RUN, "600xN")],
        at: 11,
        quiet: &[(INCOMPLETE, "600xN"), (RUN, "601xN")],
    },
    Case {
        alert: "BackupDurationHigh",
        severity: "warning",
        fires: &[("backup_duration_seconds", "3601xN")],
        at: 1,
        quiet: &[("backup_duration_seconds", "3600xN")],
    },
    Case {
        alert: "BackupVerificationFailure",
        severity: "critical",
        fires: &[(NOT_VERIFIED, "60xN"), (VERIFICATION, "60xN")],
        at: 1,
        quiet: &[(NOT_VERIFIED, "60xN"), (VERIFICATION, "61xN")],
    },
    // Never verified, an hour after the first backup.
    Case {
        alert: "BackupNotVerified",
        severity: "warning",
        fires: &[(VERIFIED, "_xN")],
        at: 61,
        quiet: &[(VERIFIED, "0xN")],
    },
    // A month and two looks after the last time.
    Case {
        alert: "BackupNotVerified",
        severity: "warning",
        fires: &[(VERIFIED, "0xN")],
        at: 31 * 1440 + 120,
        quiet: &[(VERIFIED, "3600xN")],
    },
    Case {
        alert: "DRTestOverdue",
        severity: "warning",
        fires: &[(RESTORED, "_xN")],
        at: 61,
        quiet: &[(RESTORED, "0xN")],
    },
    Case {
        alert: "DRTestOverdue",
        severity: "warning",
        fires: &[(RESTORED, "0xN")],
        at: 92 * 1440 + 120,
        quiet: &[(RESTORED, "3600xN")],
    },
    Case {
        alert: "BackupPruneFailure",
        severity: "warning",
        fires: &[
            ("backup_prune_last_failure_timestamp_seconds", "5xN"),
            ("backup_prune_last_run_timestamp_seconds", "5xN"),
        ],
        at: 1,
        quiet: &[
            ("backup_prune_last_failure_timestamp_seconds", "5xN"),
            ("backup_prune_last_run_timestamp_seconds", "6xN"),
        ],
    },
    Case {
        alert: "BackupStorageLow",
        severity: "warning",
        fires: &[("backup_storage_free_bytes", "19xN")],
        at: 11,
        quiet: &[("backup_storage_free_bytes", "20xN")],
    },
    Case {
        alert: "BackupStorageLow",
        severity: "critical",
        fires: &[("backup_storage_free_bytes", "9xN")],
        at: 11,
        quiet: &[("backup_storage_free_bytes", "10xN")],
    },
];

/// A rule of the file by its alert and its severity.
fn rule<'a>(groups: &'a Value, alert: &str, severity: &str) -> &'a Value {
    let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let is_it = |rule: &&Value| rule["alert"] == alert && rule["labels"]["severity"] == severity;
    rules.into_iter().find(is_it).unwrap_or_else(|| panic!("there is no rule {alert} ({severity})"))
}

/// How often a case is looked at.
fn minutes(case: &Case) -> u32 {
    if case.at > 2_000 { LONG } else { SHORT }
}

/// A test of promtool: the input, and whether the rule fires.
fn write_case(text: &mut String, groups: &Value, case: &Case, fires: bool) {
    let minutes = minutes(case);
    let given = if fires { case.fires } else { case.quiet };
    let mut all = String::new();
    let well = WELL.iter().filter(|(name, _)| given.iter().all(|(own, _)| own != name));
    given.iter().chain(well).for_each(|(name, values)| all.push_str(&series(name, values, minutes)));
    let rule = rule(groups, case.alert, case.severity);
    // The text of the alert is the rule's, with the number that it stands for: compared by promtool, too.
    let labels: String = rule["labels"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| format!("              {name}: {value}\n"))
        .collect();
    let alert = case.alert;
    writeln!(
        text,
        "  - interval: {minutes}m\n    name: {alert} {}\n    input_series:\n{all}    promql_expr_test:",
        if fires { "fires" } else { "does not fire" }
    )
    .unwrap();
    // The state as a series: 1 while it fires. Its labels are the rule's and those of the expression.
    let severity = case.severity;
    let at = case.at;
    let expr =
        format!("count(ALERTS{{alertname=\"{alert}\",severity=\"{severity}\",alertstate=\"firing\"}}) or vector(0)");
    writeln!(
        text,
        "      - expr: {}\n        eval_time: {at}m\n        exp_samples:\n          - value: {}",
        Value::from(expr),
        u8::from(fires)
    )
    .unwrap();
    if fires {
        let by = rule["labels"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(", ");
        let expr =
            format!("count by ({by}) (ALERTS{{alertname=\"{alert}\",severity=\"{severity}\",alertstate=\"firing\"}})");
        let labels = labels.replace("              ", "").replace(": ", "=").trim().replace('\n', ",");
        writeln!(text, "      - expr: {}\n        eval_time: {at}m\n        exp_samples:\n          - value: 1\n            labels: '{{{labels}}}'", Value::from(expr)).unwrap();
    }
}

#[test]
fn every_alert_fires_when_it_should_and_not_a_moment_before() {
    let meter = meter();
    rules(&meter);
    let output = meter.run(&["alerts", "--output", "json"]);
    let groups = output.check_code(0).json();
    check_documented(&groups, "Rules");
    let begin = |minutes: u32| format!("rule_files: [rules.yml]\nevaluation_interval: {minutes}m\ntests:\n");
    let (mut short, mut long) = (begin(SHORT), begin(LONG));
    let mut tested = BTreeSet::new();
    for case in CASES {
        let text = if minutes(case) == LONG { &mut long } else { &mut short };
        write_case(text, &groups, case, true);
        write_case(text, &groups, case, false);
        tested.insert((case.alert.to_owned(), case.severity.to_owned()));
    }
    // A job that is well has no alert at all, in three months.
    let well: String = WELL.iter().map(|(name, values)| series(name, values, LONG)).collect();
    let end = 93 * 1440;
    writeln!(long, "  - interval: {LONG}m\n    name: a job that is well\n    input_series:\n{well}    promql_expr_test:\n      - expr: count(count_over_time(ALERTS[93d])) or vector(0)\n        eval_time: {end}m\n        exp_samples:\n          - value: 0").unwrap();
    // Dashboards of a component find its own names.
    let labels = "{backup_job=\"orders\",plugin=\"meter\",store=\"main\"}";
    writeln!(short, "  - interval: 1m\n    name: names of the component\n    input_series:\n      - series: 'backup_success_total{labels}'\n        values: '0+1x10'\n    promql_expr_test:\n      - expr: meter_backup_success_total\n        eval_time: 5m\n        exp_samples:\n          - value: 5\n            labels: 'meter_backup_success_total{labels}'").unwrap();
    for (name, text) in [("short.yml", short), ("long.yml", long)] {
        meter.sandbox.write(name, &text);
        promtool(&meter.sandbox, &["test", "rules", name]).check_code(0).check_stdout("SUCCESS");
    }
    let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let all: BTreeSet<_> = rules
        .filter(|rule| rule["alert"].is_string())
        .map(|rule| {
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            (word(&rule["alert"]), word(&rule["labels"]["severity"]))
        })
        .collect();
    assert_eq!(tested, all, "every rule has a case");
}

#[test]
fn promtool_accepts_the_rules_as_yaml_and_as_json_whatever_jobs_are_called() {
    let mut meter = meter();
    for job in ["a", "with-dash_and-more", "0"] {
        meter.set(job, "");
    }
    rules(&meter);
    promtool(&meter.sandbox, &["check", "rules", "rules.yml"]).check_code(0).check_stdout("SUCCESS");
    let json = meter.run(&["alerts", "--output", "json"]);
    meter.sandbox.write("rules.json", &json.stdout);
    promtool(&meter.sandbox, &["check", "rules", "rules.json"]).check_code(0).check_stdout("SUCCESS");
    // Both say the same.
    let n = json.json()["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["rules"].as_array().unwrap().len())
        .sum::<usize>();
    let found = promtool(&meter.sandbox, &["check", "rules", "rules.yml"]);
    found.check_stdout(&format!("{n} rules found"));
    let one = meter.run(&["alerts", "a"]);
    one.check_code(0);
    assert!(one.stdout.contains("strongroom-a\"") && !one.stdout.contains("orders"), "{}", one.stdout);
    meter.run(&["alerts", "ordres"]).check_error(2, &["there is no job \"ordres\"", "did you mean \"orders\"?"]);
}

/// Whether the names of on-call guides are there for the components that they are about.
#[test]
fn overdue_backups_of_known_components_have_the_names_that_on_call_knows() {
    let meter = meter();
    let config = std::fs::read_to_string(meter.sandbox.path("strongroom.toml")).unwrap();
    for (plugin, alert) in
        [("postgres", "PostgreSQLBackupFailure"), ("bucket", "MinIOBackupFailure"), ("redis", "BackupOverdue")]
    {
        meter.sandbox.config(
            &config
                .replace("plugin.meter", &format!("plugin.{plugin}"))
                .replace("plugin = \"meter\"", &format!("plugin = \"{plugin}\"")),
        );
        let rules = rules(&meter);
        assert!(rules.contains(&format!("alert: \"{alert}\"")), "{rules}");
        promtool(&meter.sandbox, &["check", "rules", "rules.yml"]).check_code(0);
        // Under that name it fires when it does under the other.
        let groups = meter.run(&["alerts", "--output", "json"]).check_code(0).json();
        let overdue = CASES.iter().find(|case| case.alert == "BackupOverdue").unwrap();
        let mut text = format!("rule_files: [rules.yml]\nevaluation_interval: {SHORT}m\ntests:\n");
        for fires in [true, false] {
            write_case(&mut text, &groups, &Case { alert, ..*overdue }, fires);
        }
        meter.sandbox.write("named.yml", text.replace("plugin=\"meter\"", &format!("plugin=\"{plugin}\"")));
        promtool(&meter.sandbox, &["test", "rules", "named.yml"]).check_code(0).check_stdout("SUCCESS");
    }
}

/// Ten runs, each a process: five jobs twice. `second` fails the second time, `first` the first time.
#[test]
fn of_ten_runs_two_fail_and_the_right_alerts_arrive() {
    let mut meter = meter();
    let jobs = ["one", "two", "three", "first", "second"];
    meter.jobs.clear();
    for job in jobs {
        meter.set(job, if job == "first" { "fail = true" } else { "" });
    }
    rules(&meter);
    let alertmanager = Daemon::alertmanager(&meter.sandbox).unwrap();
    let listener = Listener::file(&meter.textfile()).unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{rules}\"]\n\
         alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: [\"127.0.0.1:{to}\"] }}] }}] }}\n\
         scrape_configs: [{{ job_name: node, static_configs: [{{ targets: [\"127.0.0.1:{from}\"] }}] }}]\n",
        rules = meter.sandbox.path("rules.yml").display(),
        to = alertmanager.port,
        from = listener.port,
    );
    for job in jobs {
        meter.run(&["backup", job]).check_code(i32::from(job == "first"));
    }
    meter.set("first", "");
    meter.set("second", "fail = true");
    for job in jobs {
        meter.run(&["backup", job]).check_code(i32::from(job == "second"));
    }
    let prometheus = Daemon::prometheus(&meter.sandbox, &config).unwrap();
    let expected: BTreeSet<String> =
        ["BackupExecutionError second critical", "BackupFailure first critical", "BackupFailure second critical"]
            .map(str::to_owned)
            .into();
    let arrived = || -> anyhow::Result<BTreeSet<String>> {
        let alerts = alertmanager.json("/api/v2/alerts")?;
        let word = |alert: &Value, label: &str| alert["labels"][label].as_str().unwrap_or_default().to_owned();
        Ok(alerts
            .as_array()
            .into_iter()
            .flatten()
            .map(|alert| {
                format!("{} {} {}", word(alert, "alertname"), word(alert, "backup_job"), word(alert, "severity"))
            })
            // Whatever this machine's disk is like.
            .filter(|text| !text.starts_with("BackupStorageLow"))
            .collect())
    };
    wait_until("the alerts at the Alertmanager", Duration::from_secs(60), || {
        let found = arrived()?;
        Ok((found == expected).then_some(()))
    })
    .unwrap_or_else(|error| {
        panic!("{error:#}: {:?} {}", arrived(), prometheus.get("/api/v1/rules").unwrap_or_default())
    });
    // All jobs were seen, under names that Prometheus did not change.
    let found =
        prometheus.json("/api/v1/query?query=count(backup_last_run_timestamp_seconds)%20by%20(backup_job)").unwrap();
    assert_eq!(found["data"]["result"].as_array().unwrap().len(), 5, "{found}");
    // No other alert is even about to fire but for what was never done. One that was about to before the
    // first scrape is forgotten at the next look.
    let pending = || -> anyhow::Result<BTreeSet<String>> {
        let alerts = prometheus.json("/api/v1/alerts")?;
        let all = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let names = all.iter().filter(|alert| alert["state"] == "pending");
        let names = names.map(|alert| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned());
        Ok(names.filter(|name| name != "BackupStorageLow").collect())
    };
    let expected: BTreeSet<_> = ["BackupNotVerified", "DRTestOverdue"].map(str::to_owned).into();
    wait_until("what is about to fire", Duration::from_secs(60), || Ok((pending()? == expected).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", pending()));
}
