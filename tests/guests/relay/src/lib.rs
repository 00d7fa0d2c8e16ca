//! A guest for tests: stores what granted commands write, and hands it back to others. What the
//! commands are is up to the test, so it stands for any component.

use serde::Deserialize;
use std::io::Write;
use strongroom_plugin::prelude::*;

struct Relay;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "one_artifact")]
    artifacts: Vec<String>,
    value: Option<String>,
    skip: Option<String>,
    source_id: Option<String>,
    #[serde(default)]
    fail: bool,
    #[serde(default)]
    careless: bool,
    /// Artifacts of some bytes that the guest makes itself, besides the others.
    #[serde(default)]
    tiny: u32,
}

fn one_artifact() -> Vec<String> {
    vec!["out".to_owned()]
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Options {
    fail_after: Option<usize>,
}

/// Stores so many artifacts of some bytes each, some of them at once, and returns their bytes.
fn store_tiny(n: u32) -> Result<u64> {
    let mut under_way = std::collections::VecDeque::new();
    let mut bytes = 0;
    for i in 0..n {
        let (mut sink, source) = bytes::pipe()?;
        sink.write_all(format!("tiny artifact {i}").as_bytes())?;
        sink.finish()?;
        under_way.push_back(storage::put(format!("tiny-{i:05}"), source).start()?);
        if under_way.len() > 64
            && let Some(oldest) = under_way.pop_front()
        {
            bytes += oldest.wait()?.size;
        }
    }
    for transfer in under_way {
        bytes += transfer.wait()?.size;
    }
    Ok(bytes)
}

impl Plugin for Relay {
    type Settings = Settings;
    type Options = Options;

    fn backup(request: BackupRequest<Settings>) -> Result<Report> {
        let settings = request.settings;
        let mut under_way = Vec::new();
        for name in &settings.artifacts {
            let mut produce = exec::command("produce");
            if let Some(value) = &settings.value {
                produce = produce.slot("value", value);
            }
            let process = produce.spawn()?;
            let transfer = storage::put(name, process.stdout()?).start()?;
            under_way.push((process, transfer));
        }
        let mut bytes = store_tiny(settings.tiny)?;
        for (process, transfer) in under_way {
            bytes += transfer.wait()?.size;
            if !settings.careless {
                process.wait()?.success()?;
            }
        }
        if settings.fail {
            return Err(Error::failed("the test told it to fail at its end"));
        }
        let mut report = Report::new()
            .fact("bytes", bytes)
            .fact("previous", request.previous.map_or_else(|| "none".to_owned(), |made| made.backup_id));
        if let Some(what) = settings.skip {
            report = report.skipped(what, "the test said so");
        }
        if let Some(id) = settings.source_id {
            report = report.source_id(id);
        }
        Ok(report)
    }

    fn verify(_request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        for artifact in storage::artifacts()? {
            let process = exec::command("check").stdin(storage::get(&artifact.name)?).spawn()?;
            checks.push(match process.wait()?.success() {
                Ok(_) => Check::passed("relay.reads", artifact.name).evidence("read to its end"),
                Err(error) => Check::failed("relay.reads", artifact.name).evidence(error.to_string()),
            });
        }
        Ok(checks)
    }

    fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
        for (n, artifact) in storage::artifacts()?.into_iter().enumerate() {
            if request.plan_only {
                Step::skipped("consume", artifact.name).note("planned").report();
                continue;
            }
            if request.options.fail_after == Some(n) {
                Step::failed("consume", artifact.name).note("the test said so").report();
                return Err(Error::failed("the test told it to stop half-way"));
            }
            let process = exec::command("consume").stdin(storage::get(&artifact.name)?).spawn()?;
            process.wait()?.success()?;
            Step::passed("consume", artifact.name).report();
        }
        Ok(())
    }

    fn diagnose(_request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
        let output = exec::command("query").run()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(vec![match output.exit.success() {
            Ok(_) => Check::passed("relay.query", "the component answers").evidence(said),
            Err(error) => Check::failed("relay.query", "the component answers")
                .evidence(error.to_string())
                .cause("it is stopped")
                .remedy("start it"),
        }])
    }
}

strongroom_plugin::export!(Relay);
