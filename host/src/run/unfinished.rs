//! What a restore that never ended may have left: a note in the state directory, written before the
//! first call that may change the target and removed at the end of the run, however it ends.
//!
//! A run that ends says itself what the target holds; the note is for the next run after one that
//! was killed or lost its machine. Nothing is decided by it: without it a restore does the same.

use crate::clock;
use crate::error::{Error, IoContext, Result};
use crate::id::{BackupId, Label};
use crate::plugin::context::{CheckOutcome, Step};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most of a note that is read, in bytes: thousands of steps.
const MAX_BYTES: u64 = 1 << 20;
/// Steps that a message names.
const SHOWN_STEPS: usize = 8;

/// The first line of a note.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    backup: BackupId,
    began: Timestamp,
}

/// A step that was done, on a line of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    action: String,
    target: String,
}

/// The note of one place that a job restores into.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    /// What the place is called in a message.
    place: String,
    /// Locked while its run lives; `None` until the target may change.
    file: Mutex<Option<File>>,
}

impl Note {
    /// The note of `job` restoring into `target`, or to where it came from. Nothing is written yet.
    pub fn new(dir: &Path, job: &Label, target: Option<&Label>) -> Self {
        let (name, place) = match target {
            Some(target) => (format!("{job}@{target}"), format!("target \"{target}\"")),
            None => (job.to_string(), format!("the place that job \"{job}\" restores into")),
        };
        Self { path: dir.join(format!("{name}.jsonl")), place, file: Mutex::default() }
    }

    /// What to say about an earlier restore into this place that never ended; `None` when there is
    /// none, or when it is still at work. A note that cannot be read is said as well.
    pub fn earlier(&self) -> Option<String> {
        let file = File::open(&self.path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
        let mut lines = BufReader::new(file.take(MAX_BYTES)).lines().map_while(std::result::Result::ok);
        let head: Option<Head> = lines.next().and_then(|line| serde_json::from_str(&line).ok());
        let what = head.map_or_else(
            || "an earlier restore".to_owned(),
            |head| format!("the restore of backup {} that began at {}", head.backup, clock::show(head.began)),
        );
        // The last line may have been cut off.
        let done: Vec<Done> = lines.map_while(|line| serde_json::from_str(&line).ok()).collect();
        let mut steps: Vec<_> = done.iter().take(SHOWN_STEPS).map(|d| format!("{} {}", d.action, d.target)).collect();
        if done.len() > SHOWN_STEPS {
            steps.push(format!("{} more", done.len() - SHOWN_STEPS));
        }
        let steps =
            if steps.is_empty() { "no step was finished".to_owned() } else { format!("done: {}", steps.join(", ")) };
        Some(format!(
            "{what} was interrupted after it had begun to change {}, which may hold a part of it ({steps})",
            self.place
        ))
    }

    /// Writes the note, on the disk when this returns, unless it is written. Call it before the
    /// target may change.
    pub fn begin(&self, backup: &BackupId) -> Result<()> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Ok(());
        }
        let what = || format!("note in \"{}\" that a restore begins", self.path.display());
        let dir = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(what)?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path).doing(what)?;
        // Two restores into one place: the first one's note is kept, and this one has none.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let head = Head { backup: backup.clone(), began: clock::now() };
        let line = line(&head)?;
        file.set_len(0)
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(dir)?.sync_all())
            // The folder may be new; the one above it came with the host's key.
            .and_then(|()| dir.parent().map_or(Ok(()), |above| File::open(above)?.sync_all()))
            .doing(what)?;
        *slot = Some(file);
        Ok(())
    }

    /// Adds a step that changed the target. Not flushed: a power cut may lose it, a kill does not.
    pub fn step(&self, step: &Step) {
        if !matches!(step.outcome, CheckOutcome::Passed | CheckOutcome::Warned) {
            return;
        }
        let done = Done { action: step.action.clone(), target: step.target.clone() };
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = slot.as_mut()
            && let Err(error) =
                line(&done).and_then(|line| file.write_all(line.as_bytes()).doing(|| "write".to_owned()))
        {
            tracing::warn!(path = %self.path.display(), %error, "could not note a step of the restore");
        }
    }

    /// The run ends and says itself what the target holds.
    pub fn end(&self) {
        let slot = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        if slot.is_some()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the next restore will say that this one was interrupted");
        }
    }
}

fn line(what: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(what).map_err(|e| Error::failed("could not write a note as JSON").because(e))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: &str, outcome: CheckOutcome) -> Step {
        Step { action: action.to_owned(), target: "shop".to_owned(), outcome, note: String::new() }
    }

    #[test]
    fn what_a_dead_restore_did_is_told_once_and_a_living_one_is_not_spoken_of() {
        let dir = tempfile::tempdir().unwrap();
        let note = |target: Option<&str>| {
            Note::new(
                &dir.path().join("restores"),
                &"orders".parse().unwrap(),
                target.map(|t| t.parse().unwrap()).as_ref(),
            )
        };
        let backup: BackupId = "20261120T020000Z-x7k2m9qd".parse().unwrap();
        let dying = note(Some("scratch"));
        assert_eq!(dying.earlier(), None);
        dying.step(&step("plan", CheckOutcome::Passed));
        dying.begin(&backup).unwrap();
        dying.begin(&backup).unwrap();
        dying.step(&step("create", CheckOutcome::Passed));
        dying.step(&step("own", CheckOutcome::Skipped));
        assert_eq!(note(Some("scratch")).earlier(), None, "it is still at work");
        drop(dying);
        let told = note(Some("scratch")).earlier().unwrap();
        assert!(told.contains(backup.as_str()) && told.contains("target \"scratch\""), "{told}");
        assert!(told.ends_with("(done: create shop)"), "{told}");
        assert_eq!(note(None).earlier(), None, "another place");

        let next = note(Some("scratch"));
        next.begin(&backup).unwrap();
        next.end();
        assert_eq!(note(Some("scratch")).earlier(), None, "it ended");
    }

    #[test]
    fn a_note_that_was_cut_off_anywhere_still_says_that_there_was_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note::new(dir.path(), &"orders".parse().unwrap(), None);
        note.begin(&"20261120T020000Z-x7k2m9qd".parse().unwrap()).unwrap();
        note.step(&step("create", CheckOutcome::Warned));
        *note.file.lock().unwrap() = None;
        let whole = std::fs::read(&note.path).unwrap();
        for end in 0..=whole.len() {
            std::fs::write(&note.path, &whole[..end]).unwrap();
            assert!(note.earlier().unwrap().contains("was interrupted"), "cut at {end}");
        }
    }
}
