//! What is done with `/scratch`, through the ordinary functions of the standard library.

use crate::strongroom::plugin::run;
use crate::strongroom::plugin::types::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};

type Facts = Vec<(String, String)>;

fn fact(key: &str, value: impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}

/// The word behind `"do":` in the settings; good enough for what the tests send.
fn deed(settings: &str) -> &str {
    settings.split("\"do\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default()
}

/// Does what the setting `do` says; what fails is the plugin's error, in the words of the system.
pub fn act(settings: &str) -> Result<Facts, Error> {
    let said = |error: io::Error| Error::Failed(format!("{:?}: {error}", error.kind()));
    match deed(settings) {
        "" => Ok(vec![]),
        "use" => use_well().map_err(said),
        "escape" => Ok(escape()),
        "write" => fill(|file, _| file.write_all(&[7; 64 << 10])).map_err(said),
        "append" => {
            let mut file = OpenOptions::new().create(true).append(true).open("/scratch/appended").map_err(said)?;
            fill(|_, _| file.write_all(&[7; 64 << 10])).map_err(said)
        }
        "set-size" => fill(|file, n| file.set_len(n << 20)).map_err(said),
        "hole" => fill(|file, n| {
            file.seek(SeekFrom::Start(n << 20))?;
            file.write_all(b"x")
        })
        .map_err(said),
        "files" => fill(|_, n| File::create(format!("/scratch/empty-{n}")).map(drop)).map_err(said),
        "open" => {
            let mut held = Vec::new();
            fill(|_, n| {
                held.push(File::create(format!("/scratch/held-{n}"))?);
                Ok(())
            })
            .map_err(said)
        }
        "deep" => {
            let mut path = "/scratch".to_owned();
            for _ in 0..100 {
                path.push_str("/nested");
                fs::create_dir(&path).map_err(said)?;
            }
            Ok(vec![fact("deep", fs::metadata(&path).is_ok())])
        }
        "trap" => {
            fs::write("/scratch/left", "left behind").map_err(said)?;
            std::process::abort()
        }
        "sleep" => {
            fs::write("/scratch/left", "left behind").map_err(said)?;
            run::log(run::Level::Info, "asleep", &[]);
            run::sleep_ms(u64::MAX);
            Ok(vec![])
        }
        other => Err(Error::Invalid(format!("nothing is named \"{other}\""))),
    }
}

/// Goes on until it fails, or for a long time.
fn fill(mut more: impl FnMut(&mut File, u64) -> io::Result<()>) -> io::Result<Facts> {
    let mut file = File::create("/scratch/filled")?;
    for n in 0..100_000 {
        more(&mut file, n)?;
    }
    Ok(vec![])
}

fn use_well() -> io::Result<Facts> {
    let names = |folder: &str| -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    let mut facts = vec![fact("at first", names("/scratch")?.join(","))];
    fs::create_dir_all("/scratch/a/b")?;
    fs::write("/scratch/a/b/file", "one ")?;
    OpenOptions::new().append(true).open("/scratch/a/b/file")?.write_all(b"two three")?;
    let mut file = OpenOptions::new().read(true).write(true).open("/scratch/a/b/file")?;
    file.set_len(7)?;
    file.seek(SeekFrom::Start(4))?;
    let mut end = String::new();
    file.read_to_string(&mut end)?;
    facts.push(fact("end", end));
    fs::rename("/scratch/a/b/file", "/scratch/file")?;
    fs::copy("/scratch/file", "/scratch/copy")?;
    facts.push(fact("copy", fs::read_to_string("/scratch/copy")?));
    fs::remove_file("/scratch/file")?;
    facts.push(fact("listed", names("/scratch")?.join(",")));
    fs::remove_dir_all("/scratch/a")?;
    // Space that is given back can be used again: more in all than there is at once.
    for n in 0..200 {
        fs::write("/scratch/copy", vec![n; 1 << 20])?;
        if n % 2 == 0 {
            fs::remove_file("/scratch/copy")?;
        }
    }
    facts.push(fact("at last", names("/scratch")?.join(",")));
    Ok(facts)
}

fn escape() -> Facts {
    let said = |result: io::Result<()>| match result {
        Ok(()) => "there".to_owned(),
        Err(error) => format!("refused: {:?}", error.kind()),
    };
    let mut facts = Vec::new();
    for path in ["/etc/passwd", "/scratch/../etc/passwd", "/scratch/../../etc/passwd", "/scratch/..", "../etc", "/"] {
        facts.push(fact(&format!("read {path}"), said(File::open(path).map(drop))));
        facts.push(fact(&format!("write {path}/new"), said(fs::write(format!("{path}/new"), "x"))));
    }
    fs::write("/scratch/own", "own").unwrap_or_default();
    #[allow(deprecated, reason = "the only one that the standard library has here")]
    let soft = fs::soft_link("/etc/passwd", "/scratch/soft");
    facts.push(fact("soft link", said(soft)));
    facts.push(fact("hard link", said(fs::hard_link("/scratch/own", "/scratch/hard"))));
    facts.push(fact("move out", said(fs::rename("/scratch/own", "/scratch/../own"))));
    facts
}
