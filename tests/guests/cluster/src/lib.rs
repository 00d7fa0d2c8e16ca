//! A guest that asks clusters for what its settings or options say, one deed after the other, and
//! reports what came of each: as facts of a backup, as steps of a restore, as checks of a diagnosis.
//!
//! It speaks the contract without the SDK, so that it can ask for what the SDK would not.

wit_bindgen::generate!({ path: "../../../wit", world: "plugin" });

use exports::strongroom::plugin::component::{
    BackupReport, BackupRequest, Check, DiagnoseRequest, Guest, RestoreRequest, VerifyRequest,
};
use serde_json::{Value, json};
use strongroom::plugin::bytes::{self, Source};
use strongroom::plugin::kube::{self, Cluster, Kind, Reference, Unseen, WriteMode, WriteOptions};
use strongroom::plugin::run;
use strongroom::plugin::storage::{self, PutOptions};
use strongroom::plugin::types::{Error, Outcome, Step};

struct Asks;

const PLAIN: PutOptions = PutOptions { media_type: None, compress: true };

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn option(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `group/version/plural/Kind`, and whether it lies in namespaces.
fn kind(deed: &Value) -> Kind {
    let whole = text(&deed["kind"]);
    let mut parts = whole.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Kind {
        group: next(),
        version: next(),
        plural: next(),
        kind: next(),
        namespaced: deed["cluster_wide"] != true,
        verbs: Vec::new(),
    }
}

fn reference(deed: &Value) -> Reference {
    Reference { kind: kind(deed), namespace: option(&deed["namespace"]), name: text(&deed["name"]) }
}

fn options(deed: &Value) -> WriteOptions {
    WriteOptions {
        mode: match deed["mode"].as_str() {
            Some("merge") => WriteMode::Merge,
            Some("replace") => WriteMode::Replace,
            _ => WriteMode::Create,
        },
        dry_run: deed["dry_run"] == true,
        force: deed["force"] == true,
        status: deed["status"] == true,
    }
}

fn case(error: &Error) -> String {
    let (case, text) = match error {
        Error::Denied(text) => ("denied", text),
        Error::Invalid(text) => ("invalid", text),
        Error::NotFound(text) => ("not-found", text),
        Error::Conflict(text) => ("conflict", text),
        Error::Unavailable(text) => ("unavailable", text),
        Error::TimedOut(text) => ("timed-out", text),
        Error::Limit(text) => ("limit", text),
        Error::Failed(text) => ("failed", text),
    };
    format!("{case}: {text}")
}

fn read(source: &Source) -> Result<Value, Error> {
    let mut whole = Vec::new();
    loop {
        let chunk = source.read(1 << 20)?;
        if chunk.is_empty() {
            return Ok(String::from_utf8_lossy(&whole).into_owned().into());
        }
        whole.extend_from_slice(&chunk);
    }
}

fn short(object: &str) -> Value {
    let object: Value = serde_json::from_str(object).unwrap_or_default();
    json!([object["metadata"]["namespace"], object["metadata"]["name"]])
}

fn list_objects(cluster: &Cluster, deed: &Value) -> Result<Value, Error> {
    let listing = cluster.objects(&kube::Selection {
        kind: kind(deed),
        namespace: option(&deed["namespace"]),
        label_selector: option(&deed["labels"]),
        field_selector: option(&deed["fields"]),
    })?;
    let archive = option(&deed["archive"]).map(|name| storage::create_archive(&name, &PLAIN)).transpose()?;
    let (mut names, mut texts, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut pages, mut objects, mut bytes, mut restarted) = (0_u64, 0_u64, 0_usize, 0_u64);
    loop {
        let page = match listing.next_page() {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(error) => {
                errors.push(case(&error));
                if errors.len() > 8 || deed["once"] == true {
                    break;
                }
                continue;
            }
        };
        pages += 1;
        restarted += u64::from(page.restarted);
        for (place, object) in page.objects.iter().enumerate() {
            objects += 1;
            bytes += object.len();
            if deed["names"] == true {
                names.push(short(object));
            }
            if deed["texts"] == true {
                texts.push(object.clone());
            }
            if deed["bodies"] == true {
                let body = listing.body(u32::try_from(place).unwrap_or(u32::MAX))?;
                match read(&body) {
                    Ok(text) => texts.push(text.to_string()),
                    Err(error) => errors.push(case(&error)),
                }
            }
            if let Some(archive) = &archive {
                let body = listing.body(u32::try_from(place).unwrap_or(u32::MAX))?;
                archive.add(&format!("{objects:06}.json"), &[], body)?;
            }
        }
        // So slowly that the cluster has forgotten what it was asked for.
        if let Some(wait) = deed["wait_ms"].as_u64().filter(|_| pages == 1) {
            run::log(run::Level::Info, "the first page is here", &[]);
            run::sleep_ms(wait);
        }
    }
    if deed["beyond"] == true {
        errors.extend(listing.body(100_000).err().map(|error| case(&error)));
    }
    if let Some(archive) = archive {
        storage::finish_archive(archive)?;
    }
    Ok(json!({
        "objects": objects, "pages": pages, "bytes": bytes, "restarted": restarted,
        "names": names, "texts": texts, "errors": errors,
    }))
}

fn written(all: Vec<Result<kube::Written, Error>>, deed: &Value) -> Value {
    let one = |one: Result<kube::Written, Error>| match one {
        Ok(written) => {
            let change = format!("{:?}", written.change).rsplit("::").next().unwrap_or_default().to_lowercase();
            if deed["texts"] == true {
                json!({"change": change, "object": written.object, "before": written.before})
            } else {
                change.into()
            }
        }
        Err(error) => case(&error).into(),
    };
    if deed["count"] == true {
        let mut counts = std::collections::BTreeMap::new();
        for value in all.into_iter().map(one) {
            *counts.entry(text(&value)).or_insert(0_u64) += 1;
        }
        return json!(counts);
    }
    all.into_iter().map(one).collect()
}

fn apply_unseen(cluster: &Cluster, deed: &Value) -> Result<Value, Error> {
    let mut bodies = Vec::new();
    if let Some(archive) = option(&deed["archive"]) {
        let archive = storage::open_archive(&archive)?;
        while let Some((_, body)) = archive.next()? {
            bodies.push(body);
            // One entry is read at a time.
            if deed["one_by_one"] != false {
                let unseen = bodies.drain(..).map(|body| unseen(body, deed)).collect();
                let done = cluster.apply_unseen(unseen, options(deed))?;
                if let Some(Err(error)) = done.into_iter().next() {
                    return Err(error);
                }
            }
        }
        return Ok("applied".into());
    }
    for from in list(&deed["from"]) {
        bodies.push(cluster.body(&reference(from))?);
    }
    let unseen = bodies.into_iter().map(|body| unseen(body, deed)).collect();
    Ok(written(cluster.apply_unseen(unseen, options(deed))?, deed))
}

fn unseen(body: Source, deed: &Value) -> Unseen {
    let owners = list(&deed["owners"]).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    Unseen { body, namespace: option(&deed["to"]), owners }
}

/// Waits for one cluster so many times over, and for a list for each of the fields.
fn first_ready(cluster: &Cluster, deed: &Value) -> Result<Value, Error> {
    let begin = |fields: &Value| {
        cluster.objects(&kube::Selection {
            kind: kind(deed),
            namespace: option(&deed["namespace"]),
            label_selector: None,
            field_selector: option(fields).filter(|fields| !fields.is_empty()),
        })
    };
    let listings = list(&deed["fields"]).map(begin).collect::<Result<Vec<_>, _>>()?;
    let clusters: Vec<&Cluster> = (0..deed["clusters"].as_u64().unwrap_or_default()).map(|_| cluster).collect();
    let listings: Vec<_> = listings.iter().collect();
    Ok(match kube::first_ready(&clusters, &listings)? {
        kube::Ready::Cluster(place) => json!(["cluster", place]),
        kube::Ready::Listing(place) => json!(["listing", place]),
    })
}

fn perform(deed: &Value) -> Result<Value, Error> {
    let label = deed["cluster"].as_str().unwrap_or("a");
    if deed["do"] == "probe" {
        let health = kube::probe(label)?;
        let steps = health.steps.iter().map(|step| {
            let outcome = format!("{:?}", step.outcome).rsplit("::").next().unwrap_or_default().to_lowercase();
            json!([step.step, outcome, step.evidence])
        });
        let steps: Vec<_> = steps.collect();
        return Ok(json!({
            "steps": steps, "certificate": health.certificate_ends_ms, "credential": health.credential_ends_ms,
        }));
    }
    let cluster = kube::open(label)?;
    match deed["do"].as_str().unwrap_or_default() {
        "version" => Ok(cluster.version()?.into()),
        "kinds" => {
            let found = cluster.kinds()?;
            let kinds: Vec<_> = found
                .kinds
                .iter()
                .map(|kind| format!("{}/{}/{}/{}", kind.group, kind.version, kind.plural, kind.kind))
                .collect();
            Ok(json!({"kinds": kinds.len(), "failed": found.failed, "found": kinds.contains(&text(&deed["kind"]))}))
        }
        "list" => list_objects(&cluster, deed),
        "first-ready" => first_ready(&cluster, deed),
        "get" => Ok(cluster.get(&reference(deed))?.into()),
        "body" => {
            let source = cluster.body(&reference(deed))?;
            match option(&deed["put"]) {
                Some(name) => Ok(storage::put(&name, source, &PLAIN)?.wait()?.size.into()),
                None => read(&source),
            }
        }
        "logs" => {
            let source = cluster.logs(
                &text(&deed["namespace"]),
                &text(&deed["name"]),
                option(&deed["container"]).as_deref(),
                None,
            )?;
            read(&source)
        }
        "apply" => {
            let objects: Vec<String> = list(&deed["objects"])
                .map(|object| match object {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect();
            Ok(written(cluster.apply(&objects, options(deed))?, deed))
        }
        "apply-unseen" => apply_unseen(&cluster, deed),
        "delete" => {
            let references: Vec<_> = list(&deed["objects"]).map(reference).collect();
            let done = cluster.delete(&references)?;
            Ok(done.into_iter().map(|one| one.map_or_else(|error| case(&error), |()| "deleted".to_owned())).collect())
        }
        "wait" => {
            let timeout = deed["timeout_ms"].as_u64().unwrap_or(10_000);
            cluster.wait(&reference(deed), &text(&deed["condition"]), &text(&deed["value"]), timeout)?;
            Ok("it is".into())
        }
        "can-i" => {
            let question = |deed: &Value| kube::Question {
                verb: text(&deed["verb"]),
                kind: kind(deed),
                namespace: option(&deed["namespace"]),
                restores: deed["restores"] == true,
            };
            let questions: Vec<_> = list(&deed["questions"]).map(question).collect();
            Ok(cluster.can_i(&questions)?.into())
        }
        other => Err(Error::Invalid(format!("the guest does not know how to {other}"))),
    }
}

/// Does what it is told; a deed that fails is an answer as well.
fn all(told: &str) -> Vec<(String, String)> {
    let told: Value = serde_json::from_str(told).unwrap_or_default();
    let answer = |deed: &Value| perform(deed).unwrap_or_else(|error| case(&error).into()).to_string();
    list(&told["deeds"]).enumerate().map(|(n, deed)| (format!("{n:03}"), answer(deed))).collect()
}

impl Guest for Asks {
    fn backup(request: BackupRequest) -> Result<BackupReport, Error> {
        // A backup without an artifact is none.
        let (sink, source) = bytes::pipe()?;
        sink.write(b"it was asked")?;
        bytes::finish(sink)?;
        storage::put("note", source, &PLAIN)?.wait()?;
        Ok(BackupReport {
            source_id: None,
            facts: all(&request.settings),
            skipped: Vec::new(),
            not_captured: Vec::new(),
            needs: Vec::new(),
            state: String::new(),
        })
    }

    fn verify(request: VerifyRequest) -> Result<Vec<Check>, Error> {
        Ok(all(&request.settings).into_iter().map(check).collect())
    }

    fn restore(request: RestoreRequest) -> Result<(), Error> {
        for (target, told) in all(&request.options) {
            // The host cuts a note at 1 KiB: a long one is told in pieces.
            let mut rest: &[char] = &told.chars().collect::<Vec<_>>();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(200));
                let (target, note) = (target.clone(), piece.iter().collect());
                run::report_step(&Step { action: "did".to_owned(), target, outcome: Outcome::Passed, note });
                rest = behind;
            }
        }
        Ok(())
    }

    fn diagnose(request: DiagnoseRequest) -> Result<Vec<Check>, Error> {
        Ok(all(&request.settings).into_iter().map(check).collect())
    }
}

fn check((id, evidence): (String, String)) -> Check {
    Check {
        title: id.clone(),
        id: format!("cluster.{id}"),
        outcome: Outcome::Passed,
        evidence,
        causes: Vec::new(),
        remedies: Vec::new(),
    }
}

export!(Asks);
