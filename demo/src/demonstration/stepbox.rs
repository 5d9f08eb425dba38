//! Running the program `stepbox` as a script would: with `--json`, and with its exit codes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

/// A verb takes a second at most, admission of a component some seconds on a busy machine; longer is a hang.
const VERB_TIMEOUT: Duration = Duration::from_secs(120);

/// Exit codes of `stepbox` where a server, or trust, refuses: for whatever has none of its own, and by kind.
const REFUSED: i32 = 3;
const REFUSED_BY_KIND: std::ops::Range<i32> = 10..100;

/// The program and the folder it works in.
pub(super) struct Stepbox {
    program: PathBuf,
    folder: PathBuf,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What `stepbox` says where it was refused.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) message: String,
}

impl Refused {
    pub(super) fn unexpected(self) -> anyhow::Error {
        anyhow!("{} [{}]", self.message, self.code)
    }
}

impl Stepbox {
    pub(super) fn new(program: &Path, folder: &Path) -> Result<Self> {
        ensure!(program.is_file(), "{} is not there; `cargo xtask demo` builds it", program.display());
        // Processes run in the folder, so a relative path would lead elsewhere.
        let program = program.canonicalize().with_context(|| program.display().to_string())?;
        Ok(Self { program, folder: folder.to_owned() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program, not yet started, which ends when the demonstration does. Its output is nobody's yet.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            // Who shows it as root means it.
            command.env("STEPBOX_ALLOW_ROOT", "1");
        }
        command
    }

    /// Runs a verb and reads its report. A refusal is an outcome; any other failure is an error.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Result<Value, Refused>> {
        #[derive(Deserialize)]
        struct Failure {
            error: Refused,
        }
        let verb = arguments[0];
        let running = self.command(&[&["--json"], arguments].concat()).output();
        let output = tokio::time::timeout(VERB_TIMEOUT, running)
            .await
            .with_context(|| format!("`stepbox {verb}` did not end within {VERB_TIMEOUT:?}"))?
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let not_understood = || format!("`stepbox {verb}` printed what is not understood");
        match output.status.code() {
            Some(0) => Ok(Ok(serde_json::from_slice(&output.stdout).with_context(not_understood)?)),
            Some(code) if code == REFUSED || REFUSED_BY_KIND.contains(&code) => {
                let failure: Failure = serde_json::from_slice(&output.stdout).with_context(not_understood)?;
                Ok(Err(failure.error))
            }
            _ => bail!("`stepbox {verb}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// A verb that has no reason to be refused.
    async fn must(&self, arguments: &[&str]) -> Result<Value> {
        self.run(arguments).await?.map_err(Refused::unexpected)
    }

    pub(super) async fn make_authority(&self) -> Result<()> {
        self.must(&["ca", "init", "--directory", "certificates"]).await.map(drop)
    }

    /// A certificate of the authority.
    pub(super) async fn issue(&self, name: &str, options: &[&str]) -> Result<Identity> {
        let arguments = [&["ca", "issue", "--directory", "certificates", "--name", name], options].concat();
        self.must(&arguments).await?;
        let file = |name: &str| self.folder.join("certificates").join(name);
        Ok(Identity {
            name: name.to_owned(),
            ca: file("ca.pem"),
            certificate: file(&format!("{name}.pem")),
            key: file(&format!("{name}.key")),
        })
    }

    /// A signing key: its file, and the public key as trust files take it.
    pub(super) async fn new_key(&self, file: &str) -> Result<(PathBuf, String)> {
        #[derive(Deserialize)]
        struct NewKey {
            public_key: String,
        }
        let report = self.must(&["key", "new", "--out", file]).await?;
        let report: NewKey = serde_json::from_value(report).context("`stepbox key new` names no public key")?;
        Ok((self.folder.join(file), report.public_key))
    }

    /// Signs a component; the signed one goes to `out` in the folder.
    pub(super) async fn sign(
        &self,
        component: &Path,
        key: &Path,
        name: &str,
        version: &str,
        out: &str,
    ) -> Result<PathBuf> {
        let component = component.canonicalize()?;
        let [component, key] = [&component, key].map(|path: &Path| path.to_str());
        let (component, key) = component.zip(key).context("a path is not UTF-8")?;
        self.must(&["sign", component, "--key", key, "--name", name, "--version", version, "--out", out]).await?;
        Ok(self.folder.join(out))
    }
}

impl Identity {
    /// The options that connect to a server as this identity, for `stepbox` and for `digits-worker`.
    pub(super) fn connection(&self, server: &str) -> [String; 8] {
        let file = |path: &Path| path.display().to_string();
        [
            "--server".into(),
            server.into(),
            "--ca".into(),
            file(&self.ca),
            "--certificate".into(),
            file(&self.certificate),
            "--key".into(),
            file(&self.key),
        ]
    }
}
