//! Metrics end to end: what runs leave in the textfile, whatever happens to them; what a plugin may write
//! and ask, and everything that it may not.

use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use strongroom_tests::meter::{Meter, calls};
use strongroom_tests::prometheus::{Daemon, Listener, program};
use strongroom_tests::{Output, TIMEOUT, wait_until};

/// The labels of the built-in metrics of a job.
fn labels(job: &str) -> String {
    format!("{{backup_job=\"{job}\",plugin=\"meter\",store=\"main\"}}")
}

/// A series of `orders`.
fn of_orders(name: &str) -> String {
    format!("{name}{}", labels("orders"))
}

/// The lines of a text that are about a job.
fn lines_of(text: &str, job: &str) -> Vec<String> {
    text.lines().filter(|line| line.contains(&format!("backup_job=\"{job}\""))).map(str::to_owned).collect()
}

/// Fails unless promtool takes the textfile and finds nothing to complain about.
#[track_caller]
fn check_text(meter: &Meter) {
    let said = meter.sandbox.command(program("promtool"), ["check", "metrics"]).stdin(meter.text()).run();
    said.check_code(0);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""), "{}", meter.text());
}

#[test]
fn after_each_run_the_file_says_what_became_of_it() {
    let mut meter = Meter::new();
    meter.of_job = "keep = { last = 1 }".to_owned();
    meter.set(
        "orders",
        &calls(&[
            ("set", "meter_rows", ", labels = { table = \"a \\\"b\\\" \\\\ é\" }, value = \"12.5\""),
            ("add", "meter_reads_total", ", value = \"3\""),
            ("observe", "meter_wait_seconds", ", value = \"0.2\""),
            ("observe", "meter_wait_seconds", ", value = \"400\""),
        ]),
    );
    assert_eq!(meter.answers(), ["done", "done", "done", "done"]);
    check_text(&meter);
    let success = meter.value(&of_orders("backup_last_success_timestamp_seconds"));
    assert_eq!(meter.value(&of_orders("backup_success_total")), 1.0);
    assert_eq!(meter.value(&of_orders("backup_failure_total")), 0.0);
    assert_eq!(meter.value(&of_orders("backup_size_bytes")), 9.0);
    assert!(meter.value(&of_orders("backup_stored_bytes")) > 9.0);
    assert_eq!(meter.value("meter_reads_total{backup_job=\"orders\",plugin=\"meter\"}"), 3.0);
    let escaped = "meter_rows{backup_job=\"orders\",plugin=\"meter\",table=\"a \\\"b\\\" \\\\ é\"}";
    assert_eq!(meter.value(escaped), 12.5);
    assert_eq!(meter.value("meter_wait_seconds_bucket{backup_job=\"orders\",plugin=\"meter\",le=\"0.5\"}"), 1.0);
    assert_eq!(meter.value("meter_wait_seconds_count{backup_job=\"orders\",plugin=\"meter\"}"), 2.0);
    assert!(
        meter.value("backup_storage_free_bytes{store=\"main\"}")
            < meter.value("backup_storage_size_bytes{store=\"main\"}")
    );

    // A failed run changes what is about failures, and keeps what its plugin counted before it failed.
    meter.set("orders", &format!("fail = true\n{}", calls(&[("add", "meter_reads_total", ", value = \"1\"")])));
    meter.run(&["backup", "orders"]).check_code(1);
    assert_eq!(meter.value(&of_orders("backup_last_success_timestamp_seconds")), success);
    assert_eq!(meter.value(&of_orders("backup_failure_total")), 1.0);
    let failure = meter.value(&of_orders("backup_last_failure_timestamp_seconds"));
    assert!(failure >= success);
    assert_eq!(meter.value(&of_orders("backup_last_run_timestamp_seconds")), failure);
    assert_eq!(meter.value("meter_reads_total{backup_job=\"orders\",plugin=\"meter\"}"), 4.0);

    // One that skipped something is no success.
    meter.set("orders", "skip = \"the rest\"");
    meter.run(&["backup", "orders"]).check_code(3);
    assert_eq!(meter.value(&of_orders("backup_incomplete_total")), 1.0);
    assert_eq!(meter.value(&of_orders("backup_skipped_items")), 1.0);
    assert_eq!(meter.value(&of_orders("backup_last_success_timestamp_seconds")), success);

    // One that could not even be made ready is a failure as well.
    std::fs::rename(meter.sandbox.path("store"), meter.sandbox.path("elsewhere")).unwrap();
    std::fs::write(meter.sandbox.path("store"), "").unwrap();
    assert_ne!(meter.run(&["backup", "orders"]).code, Some(0));
    assert_eq!(meter.value(&of_orders("backup_failure_total")), 2.0);
    std::fs::remove_file(meter.sandbox.path("store")).unwrap();
    std::fs::rename(meter.sandbox.path("elsewhere"), meter.sandbox.path("store")).unwrap();
    check_text(&meter);
}

#[test]
fn verifications_restores_and_prunes_are_measured_and_plans_are_not() {
    let mut meter = Meter::new();
    meter.of_job = "keep = { last = 1 }".to_owned();
    meter.set("orders", &calls(&[("add", "meter_reads_total", ", value = \"1\"")]));
    for _ in 0..3 {
        meter.run(&["backup", "orders"]).check_code(0);
    }
    let before = meter.text();
    for plan in [
        &["backup", "orders", "--dry-run"][..],
        &["restore", "orders", "latest", "--plan"],
        &["prune", "orders", "--dry-run"],
        &["list", "orders"],
        &["verify", "nothing"],
    ] {
        meter.run(plan);
        assert_eq!(meter.text(), before, "{plan:?}");
    }
    // What a diagnosis counts is kept, and nothing else is said of it.
    meter.run(&["diagnose", "orders"]);
    assert_eq!(meter.value("meter_reads_total{backup_job=\"orders\",plugin=\"meter\"}"), 4.0);
    meter.run(&["verify", "orders"]).check_code(0);
    assert_eq!(meter.value(&of_orders("backup_verification_success_total")), 1.0);
    assert_eq!(meter.find(&of_orders("backup_restore_test_last_success_timestamp_seconds")), None);
    meter.run(&["restore", "orders", "latest"]).check_code(0);
    assert_eq!(meter.value(&of_orders("backup_restore_success_total")), 1.0);
    assert!(meter.find(&of_orders("backup_restore_test_last_success_timestamp_seconds")).is_some());
    meter.run(&["prune", "orders", "--yes"]).check_code(0);
    assert_eq!(meter.value(&of_orders("backup_prune_removed_total")), 2.0);
    assert_eq!(meter.value(&of_orders("backup_prune_success_total")), 1.0);
    // A backup whose bytes are gone: the verification fails, and so does the restore.
    for file in strongroom_tests::files(&meter.sandbox.path("store/orders")).unwrap() {
        if file.to_string_lossy().contains("/data/") {
            std::fs::write(file, "damaged").unwrap();
        }
    }
    meter.run(&["verify", "orders"]).check_code(5);
    assert_eq!(meter.value(&of_orders("backup_verification_failure_total")), 1.0);
    let failure = meter.value(&of_orders("backup_verification_last_failure_timestamp_seconds"));
    assert_eq!(meter.value(&of_orders("backup_verification_last_run_timestamp_seconds")), failure);
    // A job that is not there has no metrics.
    meter.run(&["restore", "orders", "20200101T000000Z-aaaaaaaa"]).check_code(1);
    assert_eq!(meter.value(&of_orders("backup_restore_failure_total")), 1.0);
    check_text(&meter);
}

#[test]
fn killed_while_it_merges_a_run_leaves_whole_files_and_the_next_one_goes_on() {
    let meter = Meter::new();
    let mut merged = 0.0;
    let mut check = |fail: Option<&str>, counts: bool| {
        let before = meter.text();
        let prepared = meter.sandbox.strongroom(["backup", "orders"]);
        match fail {
            Some(point) => {
                let killed = prepared.env("STRONGROOM_FAIL", format!("{point}=kill")).run();
                assert_eq!(killed.signal, Some(9), "{point}: {killed:?}");
                // The file for Prometheus is the old one, whole.
                assert_eq!(meter.text(), before, "{point}");
                merged += f64::from(u8::from(counts));
            }
            None => {
                prepared.run().check_code(0);
                merged += 1.0;
                assert_eq!(meter.value(&of_orders("backup_success_total")), merged);
                check_text(&meter);
            }
        }
    };
    check(None, true);
    for (point, counts) in [("registry.written", false), ("registry.merged", true), ("registry.textfile", true)] {
        check(Some(point), counts);
        check(None, true);
    }
    // Nothing that the killed ones wrote is left.
    let left: Vec<_> =
        std::fs::read_dir(meter.sandbox.dir()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

#[test]
fn runs_at_the_same_time_change_only_their_own_series() {
    let mut meter = Meter::new();
    let jobs = ["one", "two", "three", "four"];
    for job in jobs {
        meter.set(
            job,
            &format!(
                "fail = {}\n{}",
                job == "four",
                calls(&[
                    ("add", "meter_reads_total", ", value = \"1\""),
                    ("observe", "meter_wait_seconds", ", value = \"1\"")
                ])
            ),
        );
    }
    for _ in 0..2 {
        let running: Vec<_> = jobs.map(|job| meter.sandbox.strongroom(["backup", job]).start().unwrap()).into();
        for (job, running) in jobs.into_iter().zip(running) {
            running.finish(TIMEOUT).unwrap().check_code(i32::from(job == "four"));
        }
    }
    for job in jobs {
        let count = |name: &str| meter.value(&format!("{name}{}", labels(job)));
        let expected = if job == "four" { (0.0, 2.0) } else { (2.0, 0.0) };
        assert_eq!((count("backup_success_total"), count("backup_failure_total")), expected, "{job}");
        assert_eq!(meter.value(&format!("meter_reads_total{{backup_job=\"{job}\",plugin=\"meter\"}}")), 2.0);
        assert_eq!(meter.value(&format!("meter_wait_seconds_count{{backup_job=\"{job}\",plugin=\"meter\"}}")), 2.0);
    }
    check_text(&meter);
    let before = meter.text();
    meter.run(&["backup", "four"]).check_code(1);
    for job in &jobs[..3] {
        assert_eq!(lines_of(&meter.text(), job), lines_of(&before, job));
    }
}

#[test]
fn a_new_machine_learns_from_the_store_when_all_was_well_last() {
    let mut meter = Meter::new();
    meter.run(&["backup", "orders"]).check_code(0);
    meter.run(&["verify", "orders"]).check_code(0);
    let success = meter.value(&of_orders("backup_last_success_timestamp_seconds"));
    let key = meter.run(&["key", "show", "--output", "json"]).check_code(0).json();
    let key = key["public_key"].as_str().or(key["key"].as_str()).unwrap_or_else(|| panic!("{key}")).to_owned();
    // Another machine: another state, and it trusts the first one.
    std::fs::remove_file(meter.textfile()).unwrap();
    meter.top = format!("trusted_hosts = [\"{key}\"]");
    meter.set("orders", "fail = true");
    meter.run(&["backup", "orders", "--state-dir", "new"]).check_code(1);
    assert_eq!(meter.value(&of_orders("backup_last_success_timestamp_seconds")), success);
    assert!(meter.value(&of_orders("backup_verification_last_success_timestamp_seconds")) >= success);
    assert_eq!(meter.find(&of_orders("backup_restore_test_last_success_timestamp_seconds")), None);
    assert_eq!(meter.value(&of_orders("backup_success_total")), 0.0);
    // One that trusts nobody knows of no backup that is good.
    std::fs::remove_file(meter.textfile()).unwrap();
    meter.top.clear();
    meter.configure();
    meter.run(&["backup", "orders", "--state-dir", "other"]).check_code(1);
    assert_eq!(meter.find(&of_orders("backup_last_success_timestamp_seconds")), None);
}

#[test]
fn a_gateway_gets_the_metrics_and_one_that_is_gone_or_refuses_is_only_a_warning() {
    let mut meter = Meter::new();
    let gateway = Listener::answering("202 Accepted", "").unwrap();
    let url = format!("http://127.0.0.1:{}/prefix/", gateway.port);
    meter.sandbox.write("password", "open sesame\n");
    strongroom_tests::relay::private(&meter.sandbox.path("password"));
    meter.metrics =
        format!("pushgateway = {{ url = \"{url}\", username = \"backup\", password = {{ file = \"password\" }} }}");
    meter.configure();
    let output = meter.run(&["backup", "orders"]);
    output.check_code(0);
    let seen = gateway.seen();
    assert_eq!(seen.len(), 1);
    // "strongroom" in base64, and the name of this machine.
    assert!(
        seen[0].line.starts_with("PUT /prefix/metrics/job@base64/c3Ryb25ncm9vbQ==/instance@base64/"),
        "{}",
        seen[0].line
    );
    assert!(seen[0].headers.contains("authorization: Basic YmFja3VwOm9wZW4gc2VzYW1l\n"), "{}", seen[0].headers);
    assert!(seen[0].body.contains(&format!("backup_success_total{} 1\n", labels("orders"))), "{}", seen[0].body);
    assert_eq!(meter.text(), "", "no textfile was asked for");

    let refusing = Listener::answering("400 Bad Request", "pushed metrics are \u{1b}[31minvalid").unwrap();
    let redirecting = Listener::answering("302 Found", "").unwrap();
    let gone = strongroom_tests::free_port().unwrap();
    for (port, says) in [(refusing.port, "HTTP 400"), (redirecting.port, "HTTP 302"), (gone, "does not answer")] {
        meter.metrics = format!("pushgateway = \"http://127.0.0.1:{port}\"");
        meter.configure();
        let output = meter.run(&["backup", "orders"]);
        output.check_code(0).check_stderr("the metrics were not pushed").check_stderr(says);
        assert!(!output.stderr.contains('\u{1b}') && !output.stderr.contains("sesame"), "{}", output.stderr);
    }
    // A textfile that cannot be written is one, too.
    meter.metrics = "textfile = \"nowhere/strongroom.prom\"".to_owned();
    meter.configure();
    meter.run(&["backup", "orders"]).check_code(0).check_stderr("the metrics are not where Prometheus looks");
}

#[test]
fn a_real_gateway_takes_what_is_pushed() {
    let mut meter = Meter::new();
    let gateway = Daemon::pushgateway(&meter.sandbox).unwrap();
    meter.metrics = format!("pushgateway = \"http://127.0.0.1:{}\"", gateway.port);
    meter.set("orders", &calls(&[("observe", "meter_wait_seconds", ", value = \"1\"")]));
    meter.run(&["backup", "orders"]).check_code(0);
    meter.run(&["backup", "orders"]).check_code(0);
    let text = gateway.get("/metrics").unwrap();
    let line = text.lines().find(|line| line.starts_with("backup_success_total{backup_job=\"orders\",instance=\""));
    assert!(line.is_some_and(|line| line.contains("job=\"strongroom\"") && line.ends_with(" 2")), "{text}");
    assert!(text.contains("meter_wait_seconds_bucket{"), "{text}");
}

#[test]
fn a_plugin_writes_nothing_but_what_it_was_granted() {
    let mut meter = Meter::new();
    let long = "v".repeat(300);
    let long_value = format!(", labels = {{ x = \"{long}\" }}, value = \"1\"");
    let one = ", value = \"1\"";
    let cases: &[(&str, &str, &str, &str)] = &[
        // Other prefixes, look-alikes, and what only the host writes.
        ("set", "other_rows", one, "Denied("),
        ("set", "Meter_rows", one, "Denied("),
        ("set", "m\u{435}ter_rows", one, "Denied("),
        ("set", " meter_rows", one, "Denied("),
        ("add", "other_total", one, "Denied("),
        ("observe", "other_seconds", one, "Denied("),
        ("set", "backup_last_success_timestamp_seconds", one, "Denied("),
        ("add", "backup_success_total", one, "Denied("),
        ("set", "meter_rows\nbackup_last_success_timestamp_seconds", one, "Denied("),
        ("set", "meter_rows{backup_job=\"other\"}", one, "Denied("),
        ("set", "meter_:rows", one, "Denied("),
        // Names that would change the meaning of the text.
        ("set", "meter_rows_total", one, "Invalid("),
        ("add", "meter_rows", one, "Invalid("),
        ("set", "meter_wait_bucket", one, "Invalid("),
        ("observe", "meter_wait_sum", one, "Invalid("),
        // Labels.
        ("set", "meter_rows", ", labels = { backup_job = \"other\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", ", labels = { job = \"node\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", ", labels = { __name__ = \"up\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", ", labels = { le = \"1\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", ", labels = { x = \"1\\nup 1\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", ", labels = { \"x\\\"} 1\\nup{y\" = \"1\" }, value = \"1\"", "Invalid("),
        ("set", "meter_rows", &long_value, "Limit("),
        // Values.
        ("set", "meter_rows", ", value = \"NaN\"", "Invalid("),
        ("set", "meter_rows", ", value = \"inf\"", "Invalid("),
        ("observe", "meter_wait_seconds", ", value = \"-inf\"", "Invalid("),
        ("add", "meter_reads_total", ", value = \"-1\"", "Invalid("),
        ("add", "meter_reads_total", ", value = \"NaN\"", "Invalid("),
        // And what is allowed still is; then a second kind for the same name.
        ("set", "meter_rows", one, "done"),
        ("observe", "meter_rows", one, "Conflict("),
        // Queries are another grant.
        ("query", "up", "", "Denied("),
        ("query-range", "up", ", range_ms = 1000, step_ms = 100", "Denied("),
    ];
    let made: Vec<_> = cases.iter().map(|(what, name, more, _)| (*what, *name, *more)).collect();
    meter.set("orders", &calls(&made));
    let answers = meter.answers();
    for ((what, name, more, expected), answer) in cases.iter().zip(&answers) {
        assert!(answer.starts_with(expected), "{what} {name} {more}: expected {expected}, got {answer}");
    }
    assert_eq!(answers.len(), cases.len());
    check_text(&meter);
    let written: BTreeSet<_> =
        meter.text().lines().filter(|line| line.starts_with("meter_")).map(str::to_owned).collect();
    assert_eq!(written, ["meter_rows{backup_job=\"orders\",plugin=\"meter\"} 1".to_owned()].into());
}

#[test]
fn a_grant_for_other_verbs_or_no_grant_at_all_lets_nothing_through() {
    let mut meter = Meter::new();
    let every = calls(&[
        ("add", "meter_reads_total", ", value = \"1\""),
        ("set", "meter_rows", ", value = \"1\""),
        ("observe", "meter_wait_seconds", ", value = \"1\""),
        ("query", "up", ""),
        ("query-range", "up", ", range_ms = 1000, step_ms = 100"),
    ]);
    meter.grant = "prefix = \"meter_\"\nquery = [\"up\"]\nverbs = [\"diagnose\"]".to_owned();
    meter.set("orders", &every);
    for answer in meter.answers() {
        assert!(answer.starts_with("Denied("), "{answer}");
    }
    assert!(!meter.text().contains("meter_"));
    // Nothing is granted: the plugin does not even load, and the error says what is missing.
    meter.grant.clear();
    meter.configure();
    meter.run(&["backup", "orders"]).check_error(4, &["[plugin.meter.grant.metrics]", "prefix = \"meter_\""]);
    // What the manifest does not ask for cannot be granted.
    meter.grant = "prefix = \"other_\"\nquery = [\"node_load1\"]".to_owned();
    meter.configure();
    meter.run(&["backup", "orders"]).check_error(4, &["[plugin.meter.grant.metrics]"]);
}

#[test]
fn a_flood_of_series_ends_at_the_limit_and_floods_no_later_run() {
    let mut meter = Meter::new();
    meter.limits = "metric_series = 20".to_owned();
    meter.set("orders", "flood = 1000");
    let answers = meter.answers();
    assert!(answers[0].contains("Some((20, Limit(") && answers[0].contains("metric_series"), "{answers:?}");
    assert_eq!(meter.text().matches("meter_flood{").count(), 20);
    // The next run has its own twenty: the oldest go.
    meter.set("orders", &calls(&[("set", "meter_rows", ", value = \"1\"")]));
    assert_eq!(meter.answers(), ["done"]);
    assert_eq!(meter.text().matches("meter_flood{").count(), 19);
    check_text(&meter);
}

#[test]
fn the_audit_log_counts_what_was_written_and_has_a_line_for_each_query() {
    let mut meter = Meter::new();
    let prometheus =
        Listener::answering("200 OK", r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#).unwrap();
    meter.metrics = format!("prometheus = \"http://127.0.0.1:{}\"", prometheus.port);
    meter.grant = "prefix = \"meter_\"\nquery = [\"up\"]".to_owned();
    let mut all: Vec<_> = (0..50).map(|_| ("add", "meter_reads_total", ", value = \"1\"")).collect();
    all.extend([("query", "up", ""), ("query", "meter_rows / up", "")]);
    meter.set("orders", &calls(&all));
    let answers = meter.answers();
    assert_eq!(answers[50], "", "an empty answer");
    assert!(answers[51].starts_with("Denied("), "{}", answers[51]);
    let shown = meter.run(&["audit", "show", "--output", "json", "--last", "1000"]).check_code(0).json();
    let lines = shown["lines"].as_array().unwrap();
    let of = |function: &str| lines.iter().filter(|line| line["function"] == function).collect::<Vec<_>>();
    assert!(of("metrics.add").is_empty(), "writes are counted");
    let counted =
        lines.iter().find(|line| line["calls"].to_string().contains("metrics.add")).expect("a line of counted calls");
    assert!(counted["calls"].to_string().contains("50"), "{counted}");
    assert_eq!(counted["rule"], "plugin.meter.grant.metrics");
    let queries = of("metrics.query");
    let argument = |line: &Value| line["arguments"].to_string();
    assert!(
        queries.iter().any(|line| line["decision"] == "allowed" && argument(line).contains("\"up\"")),
        "{queries:#?}"
    );
    let denied = queries.iter().find(|line| line["decision"] == "denied").expect("the refusal");
    assert!(argument(denied).contains("meter_rows") && argument(denied).contains("\"up\""), "{denied}");
    // What was sent is not what the plugin wrote, and the denied one was not sent.
    let seen = prometheus.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].line.starts_with("POST /api/v1/query ") && seen[0].body.starts_with("query=up&"), "{seen:?}");
    meter.run(&["audit", "verify"]).check_code(0);
}

#[test]
fn what_a_plugin_asks_for_of_metrics_is_shown_before_it_is_granted() {
    let meter = Meter::new();
    let shown = meter.run(&["plugin", "inspect", "meter"]);
    shown.check_code(0).check_stdout("writes metrics that begin with \"meter_\"; asks Prometheus for");
    shown.check_stdout("numbers to write and numbers to read");
    // Granted is the prefix alone.
    shown.check_stdout("effective under this configuration");
    let json = meter.run(&["plugin", "inspect", "meter", "--output", "json"]).check_code(0).json();
    let functions: Vec<_> =
        json["imports"].as_array().unwrap().iter().flat_map(|one| one["functions"].as_array().unwrap()).collect();
    let granted = |name: &str| {
        functions.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}"))["granted"].clone()
    };
    assert_eq!((granted("set"), granted("query")), (true.into(), false.into()));
    let digest = json["sha256"].as_str().unwrap();
    let approved = meter.run(&["plugin", "approve", "meter", "--digest", digest]);
    approved.check_code(0);
    let config = std::fs::read_to_string(meter.sandbox.path("strongroom.toml")).unwrap();
    let after = &config[config.find("[plugin.meter.grant.metrics]").expect("a grant")..];
    assert!(after.contains("prefix = \"meter_\"") && after.contains("\"meter_rows\""), "{after}");
    meter.run(&["config", "check"]).check_code(0);
}

/// What a plugin is answered to queries, with a real server behind it.
#[test]
fn a_plugin_asks_a_real_prometheus_for_granted_names_alone() {
    let mut meter = Meter::new();
    let exposed = meter.sandbox.write(
        "exposed",
        "meter_rows{team=\"shop\",table=\"a\"} 5\nmeter_rows{team=\"pay\",table=\"b\"} 7\nsecret_rows 31337.5\n",
    );
    let listener = Listener::file(&exposed).unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: shop, static_configs: [{{ targets: [\"127.0.0.1:{}\"] }}] }}]\n",
        listener.port
    );
    let prometheus = Daemon::prometheus(&meter.sandbox, &config).unwrap();
    wait_until("the first scrape", Duration::from_secs(60), || {
        let found = prometheus.json("/api/v1/query?query=secret_rows")?;
        Ok(found["data"]["result"][0].is_object().then_some(()))
    })
    .unwrap();
    meter.metrics = format!("prometheus = \"http://127.0.0.1:{}\"", prometheus.port);
    meter.grant = "query = [\"up\", \"meter_rows\"]".to_owned();
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("query", "meter_rows", "", &["__name__=meter_rows", "table=a", "Some(5.0)", "table=b", "Some(7.0)"]),
        ("query", "sum(meter_rows)", "", &[": 1 points, last Some(12.0)"]),
        ("query", "scalar(sum(meter_rows)) * 2", "", &["Some(24.0)"]),
        ("query", "meter_rows{table=~\"b|c\"} > 6", "", &["Some(7.0)"]),
        ("query-range", "max(up)", ", range_ms = 600000, step_ms = 1000", &["points, last Some(1.0)"]),
        // Every way to another name, to all names, or to none.
        ("query", "secret_rows", "", &["Denied("]),
        ("query", "meter_rows + secret_rows", "", &["Denied("]),
        ("query", "meter_rows or ignoring(x) secret_rows", "", &["Denied("]),
        ("query", "{__name__=\"secret_rows\"}", "", &["Denied("]),
        ("query", "{__name__=~\"meter_rows|secret_rows\"}", "", &["Denied("]),
        ("query", "{__name__=\"meter_rows\"}", "", &["Denied("]),
        ("query", "{job=\"shop\"}", "", &["Denied("]),
        ("query", "meter_rows{__name__=\"secret_rows\"}", "", &["Invalid("]),
        ("query", "count({__name__=~\".+\"})", "", &["Denied("]),
        ("query", "max_over_time(secret_rows[5m:1m])", "", &["Denied("]),
        ("query", "meter_rows # \nor secret_rows", "", &["Denied("]),
        ("query", "meter_rows{a=\"\\\"} or secret_rows{b=\\\"\"}", "", &[""]),
        ("query", "topk(scalar(secret_rows), meter_rows)", "", &["Denied("]),
        ("query", "absent(secret_rows)", "", &["Denied("]),
        ("query", "label_replace(secret_rows, \"__name__\", \"meter_rows\", \"\", \"\")", "", &["Denied("]),
        ("query", "meter_r\u{43e}ws", "", &["Invalid("]),
        ("query", "Meter_rows", "", &["Denied("]),
        ("query", "1 + 1", "", &["Denied("]),
        ("query", "time()", "", &["Denied("]),
        // Times that reach anywhere, and ranges that are too long or too fine.
        ("query", "meter_rows @ 0", "", &["Invalid("]),
        ("query", "meter_rows offset 500d", "", &["Limit("]),
        ("query", "max_over_time(meter_rows[90d:1s])", "", &["Limit("]),
        ("query-range", "meter_rows", ", range_ms = 100000000, step_ms = 1", &["Limit("]),
        ("query-range", "meter_rows", ", range_ms = 1000, step_ms = 0", &["Invalid("]),
        // The server's own refusals.
        ("query", "meter_rows[5m] + 1", "", &["Invalid("]),
    ];
    let made: Vec<_> = cases.iter().map(|(what, name, more, _)| (*what, *name, *more)).collect();
    meter.set("orders", &calls(&made));
    let answers = meter.answers();
    for ((_, name, _, expected), answer) in cases.iter().zip(&answers) {
        for text in *expected {
            assert!(answer.contains(text), "{name}: expected {text}, got {answer}");
        }
        assert!(!answer.contains("31337"), "{name}: {answer}");
    }
    // The operator's labels are in every selector, and no query gets around them.
    meter.grant.push_str("\nlabels = { team = \"shop\" }");
    let around = [
        ("meter_rows", "Some(5.0)"),
        ("meter_rows{team=\"pay\"}", ""),
        ("meter_rows{team=~\".*\"}", "Some(5.0)"),
        ("sum(meter_rows) + sum(meter_rows{table=\"b\"} or meter_rows)", "Some(10.0)"),
        ("max_over_time(meter_rows{team!=\"shop\"}[1h:1m])", ""),
        ("meter_rows{x=\"\\\"}\"} or meter_rows", "Some(5.0)"),
    ];
    meter.set("orders", &calls(&around.map(|(query, _)| ("query", query, ""))));
    for (answer, (query, expected)) in meter.answers().iter().zip(around) {
        let is_it = if expected.is_empty() { answer.is_empty() } else { answer.ends_with(expected) };
        assert!(is_it && !answer.contains("pay"), "{query}: {answer}");
    }
}

#[test]
fn a_prometheus_that_is_not_there_or_is_something_else_fails_the_query_and_not_the_run() {
    let mut meter = Meter::new();
    meter.grant = "query = [\"up\"]".to_owned();
    let ask = calls(&[("query", "up", "")]);
    let html = Listener::answering("200 OK", "<html>").unwrap();
    let away = Listener::answering("302 Found", "").unwrap();
    let closed = Listener::answering("401 Unauthorized", "").unwrap();
    let gone = strongroom_tests::free_port().unwrap();
    meter.sandbox.write("token", "very secret token\n");
    strongroom_tests::relay::private(&meter.sandbox.path("token"));
    for (port, says) in
        [(html.port, "Failed("), (away.port, "Failed("), (closed.port, "Failed("), (gone, "Unavailable(")]
    {
        meter.metrics = format!("prometheus = {{ url = \"http://127.0.0.1:{port}\", token = {{ file = \"token\" }} }}");
        meter.set("orders", &ask);
        let answers = meter.answers();
        assert!(answers[0].starts_with(says) && !answers[0].contains("secret token"), "{answers:?}");
    }
    assert!(closed.seen()[0].headers.contains("authorization: Bearer very secret token\n"));
    meter.metrics.clear();
    meter.set("orders", &ask);
    assert!(meter.answers()[0].starts_with("Failed("));
    // A token that is not there is a mistake of the configuration.
    meter.metrics = format!("prometheus = {{ url = \"http://127.0.0.1:{gone}\", token = {{ file = \"absent\" }} }}");
    meter.set("orders", &ask);
    meter.run(&["backup", "orders"]).check_error(2, &["metrics.prometheus.token"]);
}

#[test]
fn a_server_behind_tls_is_believed_by_the_authority_that_is_named() {
    let mut meter = Meter::new();
    let openssl = strongroom_tests::program("openssl").unwrap();
    for (name, subject) in [("server", "/CN=prometheus"), ("other", "/CN=other")] {
        let key = format!("{name}.key");
        let certificate = format!("{name}.pem");
        let args = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            subject,
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        meter.sandbox.command(&openssl, args).run().check_code(0);
    }
    let web = meter.sandbox.write("web.yml", "tls_server_config: { cert_file: server.pem, key_file: server.key }\n");
    let prometheus =
        Daemon::prometheus_with(&meter.sandbox, "global: {}\n", 400, &[format!("--web.config.file={}", web.display())])
            .unwrap();
    meter.grant = "query = [\"up\"]".to_owned();
    let url = format!("https://127.0.0.1:{}", prometheus.port);
    for (more, says) in [(", ca = \"server.pem\"", ""), (", ca = \"other.pem\"", "Unavailable("), ("", "Unavailable(")]
    {
        meter.metrics = format!("prometheus = {{ url = \"{url}\"{more} }}");
        meter.set("orders", &calls(&[("query", "up", "")]));
        let answers = meter.answers();
        assert!(
            if says.is_empty() { answers[0].is_empty() } else { answers[0].starts_with(says) },
            "{more}: {answers:?}"
        );
    }
    meter.metrics = format!("prometheus = {{ url = \"{url}\", ca = \"server.key\" }}");
    meter.configure();
    meter.run(&["backup", "orders"]).check_error(2, &["metrics.prometheus", "holds no certificates"]);
}

/// Every secret of `[metrics]` is a reference, and every address one that can be used.
#[test]
fn a_configuration_that_would_lose_metrics_or_secrets_is_refused() {
    let mut meter = Meter::new();
    let check = |output: Output, says: &str| {
        output.check_code(2).check_stderr(says);
        assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
    };
    for (lines, says) in [
        ("textfile = \"strongroom.txt\"", "does not end in .prom"),
        ("pushgateway = \"http://u:hunter2@gateway\"", "holds a user or a password"),
        ("prometheus = { url = \"http://p.example\", token = { env = \"T\" } }", "unencrypted"),
        ("prometheus = { url = \"https://p\", password = \"hunter2hunter2\" }", "metrics.prometheus.password"),
    ] {
        meter.metrics = lines.to_owned();
        meter.configure();
        check(meter.run(&["config", "check"]), says);
    }
    meter.metrics.clear();
    for (lines, says) in [
        ("prefix = \"backup_\"", "only the host writes"),
        ("query = [\"up.*\"]", "is not the name of a metric"),
        ("prefix = \"meter_\"\nlabels = { __name__ = \"x\" }", "is not the name of a label"),
        ("prefix = \"meter_\"\nverbs = []", "a grant for no verb"),
    ] {
        meter.grant = lines.to_owned();
        meter.configure();
        check(meter.run(&["config", "check"]), says);
    }
}

#[test]
fn a_grant_of_metrics_over_the_ceiling_is_refused() {
    let mut meter = Meter::new();
    let all = "bucket = \"any\"\nartifacts = \"any\"\n";
    for (rule, grant, says) in [
        ("", "prefix = \"meter_\"", "is over the ceiling"),
        ("[metrics]\nprefixes = [\"other_\"]", "prefix = \"meter_\"", "is over the ceiling"),
        (
            "[metrics]\nprefixes = [\"meter_\"]\nquery = [\"up\"]",
            "prefix = \"meter_\"\nquery = [\"meter_rows\"]",
            "is over the ceiling",
        ),
        ("[metrics]\nprefixes = [\"meter_\"]\nquery = [\"up\"]", "prefix = \"meter_\"\nquery = [\"up\"]", ""),
    ] {
        let ceiling = meter.sandbox.write("ceiling.toml", format!("{all}{rule}\n"));
        strongroom_tests::relay::private(&ceiling);
        meter.grant = grant.to_owned();
        meter.configure();
        let output = meter.run(&["config", "check", "--ceiling", "ceiling.toml"]);
        if says.is_empty() {
            output.check_code(0);
        } else {
            output.check_code(2).check_stderr("plugin.meter.grant.metrics").check_stderr(says);
        }
    }
}
