//! Keys and certificates of one cluster, made by `openssl`.

use super::user::{Credential, User};
use crate::program;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A name of the API server that resolves nowhere: only a proxy leads to it.
pub(super) const BEHIND_PROXY: &str = "api.cluster.invalid";

/// Names by which servers are reached.
const NAMES: &str = "DNS:api.cluster.invalid,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1";

/// A folder with a CA, what it has signed, and the key of service accounts' tokens.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
    openssl: PathBuf,
}

impl Pki {
    /// Makes everything that the servers need.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let pki = Self { dir: dir.to_path_buf(), openssl: program("openssl")? };
        pki.run(&[
            &["req", "-x509", "-days", "3650", "-subj", "/CN=strongroom-test"][..],
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.crt"],
            &["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ])?;
        let names = format!("subjectAltName={NAMES}");
        pki.issue("api-server", "/CN=kube-apiserver", "serverAuth", &names)?;
        pki.issue("podlet", "/CN=podlet", "serverAuth", &names)?;
        pki.issue("api-server-client", "/CN=api-server", "clientAuth", "")?;
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        pki.run(&[&["genpkey", "-out", "service-account.key"][..], &curve])?;
        pki.run(&[&["pkey", "-pubout", "-in", "service-account.key", "-out", "service-account.crt"]])?;
        Ok(pki)
    }

    /// Issues a client certificate.
    pub(super) fn user(&self, name: &str, groups: &[&str]) -> Result<User> {
        let file = format!("user-{}", name.replace([':', '/'], "-"));
        let groups: String = groups.iter().map(|group| format!("/O={group}")).collect();
        self.issue(&file, &format!("{groups}/CN={name}"), "clientAuth", "")?;
        let credential = Credential::Certificate { certificate: self.certificate(&file), key: self.key(&file) };
        Ok(User { name: name.to_owned(), credential })
    }

    /// The CA's certificate.
    pub(super) fn ca(&self) -> PathBuf {
        self.certificate("ca")
    }

    /// The certificate of `name`; of the service accounts' key, which has none, its public half.
    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The key of `name`.
    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    fn issue(&self, name: &str, subject: &str, usage: &str, extension: &str) -> Result<()> {
        let [request, extensions] = ["csr", "ext"].map(|end| format!("{name}.{end}"));
        let (key, certificate) = (self.key(name), self.certificate(name));
        let (key, certificate) = (key.to_string_lossy(), certificate.to_string_lossy());
        let text = format!(
            "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n{extension}\n"
        );
        std::fs::write(self.dir.join(&extensions), text)?;
        self.run(&[
            &["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject][..],
            &["-keyout", &key, "-out", &request],
        ])?;
        // A random serial number: users are issued at the same time.
        self.run(&[
            &["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "3650"][..],
            &["-set_serial", &serial()?, "-extfile", &extensions, "-out", &certificate],
        ])
    }

    fn run(&self, args: &[&[&str]]) -> Result<()> {
        let output = Command::new(&self.openssl)
            .args(args.concat())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .context("could not start openssl")?;
        if !output.status.success() {
            bail!("openssl {args:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

fn serial() -> Result<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).context("there is no randomness")?;
    Ok(u64::from_be_bytes(bytes).to_string())
}
