//! Real S3 servers in scratch directories on free loopback ports: versitygw and MinIO.
//!
//! Programs come from a cache outside the tree. One that is missing is a failure that names the
//! command that makes it, never a skipped test.

use crate::{SERVING_GO, cached, free_port};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strongroom::secret::Secret;
use strongroom::store::s3::{S3Credentials, S3Spec, S3Store};
use xtask::bench::place::answers;

/// Access key of every server here.
pub const ACCESS_KEY: &str = "strongroom-test";
/// Secret key of every server here.
pub const SECRET_KEY: &str = "strongroom-test-secret";
/// The bucket that every server here has.
pub const BUCKET: &str = "backups";
/// MinIO takes up to 4 s on an idle machine; tests share theirs with builds.
const START_WAIT: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Light, the default.
    Versitygw,
    /// The reference.
    Minio,
}

/// A running server; stopped, and its directory removed, when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    port: u16,
    scratch: tempfile::TempDir,
}

impl S3Server {
    /// Starts a server and creates [`BUCKET`]; returns when it answers.
    pub async fn start(server: Server) -> Result<Self> {
        let mut last = None;
        // Somebody else may take the free port first.
        for _ in 0..3 {
            match tokio::task::spawn_blocking(move || Self::start_once(server)).await? {
                Ok(started) => {
                    create_bucket(started.port, BUCKET).await?;
                    return Ok(started);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    fn start_once(server: Server) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("strongroom-s3-").tempdir()?;
        let port = free_port()?;
        let dir = |name: &str| -> Result<PathBuf> {
            let path = scratch.path().join(name);
            std::fs::create_dir(&path)?;
            Ok(path)
        };
        let (data, home) = (dir("data")?, dir("home")?);
        let mut command = match server {
            Server::Versitygw => {
                let (iam, versions) = (dir("iam")?, dir("versions")?);
                let mut command = Command::new(cached("bin/versitygw")?);
                command
                    .args(["-q", "--access", ACCESS_KEY, "--secret", SECRET_KEY])
                    .args(["--port", &format!("127.0.0.1:{port}"), "--iam-dir"])
                    .arg(iam)
                    .args(["posix", "--versioning-dir"])
                    .arg(versions)
                    .arg(&data);
                command
            }
            Server::Minio => {
                let mut command = Command::new(cached("bin/minio")?);
                command.args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")]).arg(&data);
                command
            }
        };
        command
            .env_clear()
            .env("HOME", home)
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .envs(SERVING_GO)
            .stdin(Stdio::null())
            .stdout(File::create(scratch.path().join("stdout"))?)
            .stderr(File::create(scratch.path().join("stderr"))?);
        let child = command.spawn().with_context(|| format!("could not start {server:?}"))?;
        let mut started = Self { child, port, scratch };
        started.wait_until_ready(server)?;
        Ok(started)
    }

    fn wait_until_ready(&mut self, server: Server) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_WAIT {
            if let Some(status) = self.child.try_wait()? {
                bail!("{server:?} ended with {status} instead of starting: {}", self.log());
            }
            if answers(self.port) {
                return Ok(());
            }
            // Nothing announces that a foreign server is ready: it is asked until it answers.
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{server:?} did not answer within {START_WAIT:?}: {}", self.log())
    }

    /// What the server wrote, for messages.
    pub fn log(&self) -> String {
        ["stdout", "stderr"]
            .map(|name| std::fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default())
            .join("\n")
    }

    /// The server's port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's scratch directory; objects of versitygw are files beneath `data`.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// How to reach [`BUCKET`], in a hurry: 5 s without progress are a stall.
    pub fn spec(&self) -> S3Spec {
        spec(self.port)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Killed and waited for: a scratch server has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How to reach [`BUCKET`] at a port of the loopback.
pub fn spec(port: u16) -> S3Spec {
    S3Spec {
        blotted: Vec::new(),
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        path_style: true,
        credentials: Some(S3Credentials {
            access_key: Secret::new(ACCESS_KEY.to_owned()),
            secret_key: Secret::new(SECRET_KEY.to_owned()),
            session_token: None,
        }),
        allow_plaintext: false,
        stall: Duration::from_secs(5),
        lock: None,
    }
}

/// Creates a bucket at a port of the loopback.
pub async fn create_bucket(port: u16, bucket: &str) -> Result<()> {
    let store = S3Store::open(S3Spec { bucket: bucket.to_owned(), ..spec(port) }).await?;
    Ok(store.create_bucket().await?)
}

/// A client of the server at a port of the loopback, with the same credentials as everybody here.
pub fn client(port: u16) -> aws_sdk_s3::Client {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "strongroom-test"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Makes [`BUCKET`] at a port of the loopback keep versions.
pub async fn keep_versions(port: u16) -> Result<()> {
    use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
    let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client(port).put_bucket_versioning().bucket(BUCKET).versioning_configuration(versions).send().await?;
    Ok(())
}
