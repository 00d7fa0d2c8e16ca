//! Who is measured, and how each of them backs up and restores: the command lines that a user would write.

use super::host::{Host, JOB, Job};
use super::input::Input;
use super::measure::{Pipeline, Process};
use super::peer::Peers;
use super::place::{ACCESS_KEY, Place, SECRET_KEY};
use super::scratch::Scratch;
use super::sink::BUCKET;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;

/// Password of every repository of restic and kopia.
const PASSWORD: &str = "strongroom-bench";
/// Name of the one thing that is backed up.
const NAME: &str = "stream";

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The release host.
    Strongroom,
    /// `zstd | age | s5cmd pipe`.
    S5cmd,
    /// `zstd | age | rclone rcat`.
    Rclone,
    /// `zstd | age > file`.
    File,
    /// restic with its own defaults.
    Restic,
    /// kopia with its own defaults, which compress nothing.
    Kopia,
    /// kopia with the compression that its documentation calls the fastest.
    KopiaZstd,
    /// zstd on frames of 2 MiB and nothing else: no backup, but the floor of every pipeline's CPU.
    ZstdAlone,
    /// The same, hashed, sealed, hashed and sent: the floor of every backup of this format.
    WorkAlone,
}

impl Contender {
    /// Every contender.
    pub const ALL: [Self; 9] = [
        Self::Strongroom,
        Self::S5cmd,
        Self::Rclone,
        Self::File,
        Self::Restic,
        Self::Kopia,
        Self::KopiaZstd,
        Self::ZstdAlone,
        Self::WorkAlone,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strongroom => "strongroom",
            Self::S5cmd => "zstd | age | s5cmd",
            Self::Rclone => "zstd | age | rclone",
            Self::File => "zstd | age > file",
            Self::Restic => "restic",
            Self::Kopia => "kopia",
            Self::KopiaZstd => "kopia zstd-fastest",
            Self::ZstdAlone => "zstd alone",
            Self::WorkAlone => "zstd, hashes, seal, send",
        }
    }

    /// The contender of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contender| contender.name() == name)
    }

    /// Whether it is a pipeline of the shell.
    pub fn is_pipeline(self) -> bool {
        matches!(self, Self::S5cmd | Self::Rclone | Self::File)
    }

    /// Whether it is told a level; the others have one of their own.
    pub fn has_level(self) -> bool {
        !matches!(self, Self::Restic | Self::Kopia | Self::KopiaZstd)
    }

    /// The first part of every key that it stores.
    fn prefix(self) -> &'static str {
        match self {
            // The plugin beside it stays, as it does from one night to the next.
            Self::Strongroom => "strongroom/bench",
            Self::S5cmd => "s5cmd",
            Self::Rclone => "rclone",
            Self::File => "file",
            Self::Restic => "restic",
            Self::Kopia => "kopia",
            Self::KopiaZstd => "kopia-zstd",
            Self::ZstdAlone => "nothing",
            Self::WorkAlone => "work-alone",
        }
    }
}

/// What all command lines are made from.
#[derive(Debug)]
pub struct Arena {
    /// The folder of this run.
    pub scratch: Scratch,
    /// A folder of the build, which is on a disk unless somebody builds in memory.
    pub build: PathBuf,
    /// Programs of others.
    pub peers: Peers,
    /// The host.
    pub host: Host,
    /// `zstd-alone`.
    pub zstd_alone: PathBuf,
    /// `kube-alone`.
    pub kube_alone: PathBuf,
}

/// A contender at work in a place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Who.
    pub contender: Contender,
    /// Where to or from.
    pub place: &'a Place,
    /// What.
    pub input: Input,
    /// Bytes of it.
    pub bytes: u64,
    /// The level, for those that are told one.
    pub level: u32,
}

impl Entry<'_> {
    /// Makes everything ready for a backup into an empty place, and says how it is made.
    pub fn backup(&self, arena: &Arena) -> Result<Pipeline> {
        self.clear(arena)?;
        let (level, bytes) = (self.level.to_string(), self.bytes);
        let file = arena.scratch.path(self.input.name());
        let producer = arena.host.producer(&file, bytes);
        let mut output = None;
        let processes = match self.contender {
            Contender::Strongroom => {
                arena.host.configure(self.place, self.level, &Job::Stream { file, bytes })?;
                vec![arena.host.process(&["backup", JOB, "--output", "json"])]
            }
            Contender::ZstdAlone | Contender::WorkAlone => {
                let threads = std::thread::available_parallelism()?.to_string();
                let mut arguments = vec![level, threads];
                if self.contender == Contender::WorkAlone {
                    arguments.push(self.endpoint()?.trim_start_matches("http://").to_owned());
                }
                vec![producer, Process::new(&arena.zstd_alone).args(arguments)]
            }
            Contender::S5cmd | Contender::Rclone | Contender::File => {
                let mut line = vec![
                    producer,
                    Process::new(arena.peers.zstd()).args(["-q", "-c", "-T0", &format!("-{level}")]),
                    Process::new(arena.peers.path("age")?).args(["-r", arena.host.recipient()]),
                ];
                match self.contender {
                    Contender::S5cmd => line.push(self.s5cmd(arena)?.args(["pipe", &self.object()])),
                    Contender::Rclone => line.push(self.rclone(arena)?.args(["rcat", &self.remote()])),
                    _ => output = Some(self.file()?),
                }
                line
            }
            Contender::Restic => {
                arena.quietly(self.restic(arena)?.args(["init"]))?;
                vec![producer, self.restic(arena)?.args(["backup", "--stdin", "--stdin-filename", NAME])]
            }
            Contender::Kopia | Contender::KopiaZstd => {
                arena.scratch.empty(&self.own())?;
                arena.quietly(self.kopia(arena)?.args(["repository", "create"]).args(self.repository()?))?;
                if self.contender == Contender::KopiaZstd {
                    let policy = ["policy", "set", "--global", "--compression=zstd-fastest"];
                    arena.quietly(self.kopia(arena)?.args(policy))?;
                }
                let snapshot = ["snapshot", "create", "--no-progress", "--stdin-file", NAME, "/bench"];
                vec![producer, self.kopia(arena)?.args(snapshot)]
            }
        };
        Ok(self.pipeline(arena, processes, output))
    }

    /// How what [`Self::backup`] stored is brought back, into a process that drains its standard input.
    pub fn restore(&self, arena: &Arena) -> Result<Pipeline> {
        let consumer = arena.host.consumer();
        let age = || -> Result<Process> {
            Ok(Process::new(arena.peers.path("age")?).args(["-d", "-i"]).args([arena.host.identity()]))
        };
        let zstd = || Process::new(arena.peers.zstd()).args(["-q", "-d", "-c"]);
        let processes = match self.contender {
            Contender::Strongroom => {
                let job = Job::Stream { file: arena.scratch.path(self.input.name()), bytes: self.bytes };
                arena.host.configure(self.place, self.level, &job)?;
                vec![arena.host.process(&["restore", JOB, "latest", "--output", "json"])]
            }
            Contender::S5cmd => vec![self.s5cmd(arena)?.args(["cat", &self.object()]), age()?, zstd(), consumer],
            Contender::Rclone => vec![self.rclone(arena)?.args(["cat", &self.remote()]), age()?, zstd(), consumer],
            Contender::File => vec![age()?.args([self.file()?]), zstd(), consumer],
            Contender::Restic => vec![self.restic(arena)?.args(["dump", "latest", NAME]), consumer],
            Contender::Kopia | Contender::KopiaZstd => {
                let listed = arena.quietly(self.kopia(arena)?.args(["snapshot", "list", "--all", "--json"]))?;
                let listed: Value = serde_json::from_str(&listed).context("kopia's list of snapshots is not JSON")?;
                let root = listed[0]["rootEntry"]["obj"].as_str().context("kopia lists no snapshot")?;
                vec![self.kopia(arena)?.args(["show", &format!("{root}/{NAME}")]), consumer]
            }
            Contender::ZstdAlone | Contender::WorkAlone => bail!("{} stores nothing", self.contender.name()),
        };
        Ok(self.pipeline(arena, processes, None))
    }

    /// Removes what it stored before.
    pub fn clear(&self, arena: &Arena) -> Result<()> {
        self.place.clear(self.contender.prefix(), &arena.peers)
    }

    /// Bytes that it stored.
    pub fn stored_bytes(&self, arena: &Arena) -> Result<u64> {
        if matches!(self.contender, Contender::ZstdAlone | Contender::WorkAlone) {
            let said = std::fs::read_to_string(arena.scratch.path("output"))?;
            return said.trim().parse().context("zstd-alone says how many bytes are left");
        }
        self.place.stored_bytes(self.contender.prefix())
    }

    fn pipeline(&self, arena: &Arena, processes: Vec<Process>, output: Option<PathBuf>) -> Pipeline {
        let output = output.unwrap_or_else(|| arena.scratch.path("output"));
        Pipeline::new(processes, output, arena.host.log().to_path_buf())
    }

    fn endpoint(&self) -> Result<String> {
        self.place.endpoint().with_context(|| format!("{} needs an S3 server", self.contender.name()))
    }

    fn object(&self) -> String {
        format!("s3://{BUCKET}/{}/{NAME}", self.contender.prefix())
    }

    fn remote(&self) -> String {
        format!("bench:{BUCKET}/{}/{NAME}", self.contender.prefix())
    }

    fn file(&self) -> Result<PathBuf> {
        let folder = self.place.folder().context("a file needs a folder")?.join(self.contender.prefix());
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(NAME))
    }

    fn s5cmd(&self, arena: &Arena) -> Result<Process> {
        let program = Process::new(arena.peers.path("s5cmd")?);
        Ok(with_keys(program).args(["--endpoint-url", &self.endpoint()?]))
    }

    fn rclone(&self, arena: &Arena) -> Result<Process> {
        let program = Process::new(arena.peers.path("rclone")?);
        Ok(with_keys(program)
            .env("RCLONE_CONFIG", "/notfound")
            .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
            .env("RCLONE_CONFIG_BENCH_PROVIDER", "Other")
            .env("RCLONE_CONFIG_BENCH_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_BENCH_ENDPOINT", self.endpoint()?)
            .env("RCLONE_CONFIG_BENCH_NO_CHECK_BUCKET", "true"))
    }

    fn restic(&self, arena: &Arena) -> Result<Process> {
        let prefix = self.contender.prefix();
        let repository = match self.place.folder() {
            Some(folder) => folder.join(prefix).display().to_string(),
            None => format!("s3:{}/{BUCKET}/{prefix}", self.endpoint()?),
        };
        let program = Process::new(arena.peers.path("restic")?);
        Ok(with_keys(program)
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_REPOSITORY", repository)
            .env("RESTIC_CACHE_DIR", arena.scratch.path("restic-cache"))
            .args(["--quiet"]))
    }

    /// The folder in which kopia keeps what belongs to a repository: configuration, cache and log.
    fn own(&self) -> String {
        format!("own-{}", self.contender.prefix())
    }

    fn kopia(&self, arena: &Arena) -> Result<Process> {
        let own = arena.scratch.path(&self.own());
        let program = Process::new(arena.peers.path("kopia")?);
        Ok(with_keys(program)
            .env("KOPIA_PASSWORD", PASSWORD)
            .env("KOPIA_CONFIG_PATH", own.join("repository.config"))
            .env("KOPIA_CACHE_DIRECTORY", own.join("cache"))
            .env("KOPIA_LOG_DIR", own.join("log"))
            .env("KOPIA_CHECK_FOR_UPDATES", "false"))
    }

    /// The place as `kopia repository create` is told it.
    fn repository(&self) -> Result<Vec<String>> {
        let prefix = self.contender.prefix();
        Ok(match self.place.folder() {
            Some(folder) => {
                let folder = folder.join(prefix);
                std::fs::create_dir_all(&folder)?;
                vec!["filesystem".to_owned(), format!("--path={}", folder.display())]
            }
            None => vec![
                "s3".to_owned(),
                format!("--bucket={BUCKET}"),
                format!("--prefix={prefix}/"),
                format!("--endpoint={}", self.endpoint()?.trim_start_matches("http://")),
                "--disable-tls".to_owned(),
                "--region=us-east-1".to_owned(),
            ],
        })
    }
}

impl Arena {
    /// Runs one process outside all measurements and returns what it printed.
    pub fn quietly(&self, process: Process) -> Result<String> {
        let output = self.scratch.path("quietly");
        Pipeline::new(vec![process], output.clone(), self.scratch.path("quietly.log")).run()?;
        Ok(std::fs::read_to_string(output)?)
    }
}

fn with_keys(process: Process) -> Process {
    process
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_a_name_of_its_own_and_is_found_by_it() {
        for contender in Contender::ALL {
            assert_eq!(Contender::parse(contender.name()), Some(contender));
            let prefixes = Contender::ALL.iter().filter(|other| other.prefix() == contender.prefix());
            assert_eq!(prefixes.count(), 1, "{}", contender.name());
        }
    }
}
