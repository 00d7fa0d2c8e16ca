//! A plugin for `wasm32-wasip2`: one file of data, and a look at what its WASI holds. With the setting
//! `do` it uses its scratch directory, well or badly.

mod scratch;

wit_bindgen::generate!({ path: "../../../wit", world: "plugin" });

use exports::strongroom::plugin::component::{
    BackupReport, BackupRequest, Check, DiagnoseRequest, Guest, RestoreRequest, VerifyRequest,
};
use strongroom::plugin::bytes::Source;
use strongroom::plugin::exec::{self, Invocation};
use strongroom::plugin::run;
use strongroom::plugin::storage::{self, PutOptions};
use strongroom::plugin::types::{Error, Outcome, Step};

struct Plugin;

/// What of the machine this program can reach; in an inert WASI nothing of it.
fn seen() -> Vec<(String, String)> {
    let mut facts = vec![
        ("environment".to_owned(), std::env::vars_os().count().to_string()),
        ("arguments".to_owned(), std::env::args_os().count().to_string()),
    ];
    let said = |gone: Result<(), std::io::Error>| match gone {
        Ok(()) => "there".to_owned(),
        Err(error) => format!("gone: {:?}", error.kind()),
    };
    for path in ["/etc/passwd", "/", ".", "/proc/self/environ"] {
        facts.push((path.to_owned(), said(std::fs::metadata(path).map(drop))));
    }
    facts.push(("written".to_owned(), said(std::fs::write("/tmp/strongroom-wasip2", "x"))));
    facts
}

fn invocation(command: &str, file: Option<&str>, stdin: Option<Source>) -> Invocation {
    let slots = file.map(|file| ("file".to_owned(), file.to_owned()));
    Invocation { command: command.to_owned(), slots: slots.into_iter().collect(), stdin, timeout_ms: None }
}

impl Guest for Plugin {
    fn backup(request: BackupRequest) -> Result<BackupReport, Error> {
        println!("printed by Rust");
        let done = scratch::act(&request.settings)?;
        let process = exec::spawn(invocation("dump", Some("shop.txt"), None))?;
        let options = PutOptions { media_type: Some("text/plain".to_owned()), compress: true };
        let artifact = storage::put("data.txt", process.stdout()?, &options)?.wait()?;
        let mut facts = vec![("size".to_owned(), artifact.size.to_string())];
        facts.extend(seen());
        facts.extend(done);
        let source_id = Some("shop".to_owned());
        Ok(BackupReport {
            source_id,
            facts,
            skipped: vec![],
            not_captured: vec![],
            needs: vec![],
            state: String::new(),
        })
    }

    fn verify(_: VerifyRequest) -> Result<Vec<Check>, Error> {
        let output = exec::run(invocation("count", None, Some(storage::get("data.txt")?)))?;
        let lines = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(vec![Check {
            id: "wasip2.lines".to_owned(),
            title: "the lines can be counted".to_owned(),
            outcome: if output.exit.code == Some(0) { Outcome::Passed } else { Outcome::Failed },
            evidence: format!("{lines} lines"),
            causes: vec![],
            remedies: vec![],
        }])
    }

    fn restore(request: RestoreRequest) -> Result<(), Error> {
        if !request.plan_only {
            let process = exec::spawn(invocation("load", Some("back.txt"), Some(storage::get("data.txt")?)))?;
            if process.wait()?.code != Some(0) {
                return Err(Error::Failed("load failed".to_owned()));
            }
        }
        run::report_step(&Step {
            action: "write".to_owned(),
            target: "back.txt".to_owned(),
            outcome: Outcome::Passed,
            note: String::new(),
        });
        Ok(())
    }

    fn diagnose(_: DiagnoseRequest) -> Result<Vec<Check>, Error> {
        Err(Error::Failed("this plugin knows nothing of its system".to_owned()))
    }
}

export!(Plugin);
