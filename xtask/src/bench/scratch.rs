//! The folder in which everything happens: in memory where the machine offers it, so that no disk is measured.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// File system in memory on Linux.
const MEMORY: &str = "/dev/shm";

/// What the folders of all runs are called, before the id of their process.
const PREFIX: &str = "strongroom-bench-";

/// A folder of this run, removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A new folder in memory, or beneath the machine's temporary folder where that is not offered.
    pub fn new() -> Result<Self> {
        let memory = Path::new(MEMORY);
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        remove_left_over(&parent)?;
        let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An empty folder in it: what was there is removed.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("could not clear {}", path.display()))?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Removes folders of runs that were killed: in memory they cost what nobody sees.
fn remove_left_over(parent: &Path) -> Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            std::fs::remove_dir_all(entry.path()).with_context(|| format!("could not remove what {name} left"))?;
        }
    }
    Ok(())
}

/// Bytes of all files beneath a path.
pub fn bytes_beneath(path: &Path) -> Result<u64> {
    let mut sum = 0;
    let mut left = vec![path.to_path_buf()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().with_context(|| format!("could not look at {}", path.display()))?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else {
            sum += metadata.len();
        }
    }
    Ok(sum)
}
