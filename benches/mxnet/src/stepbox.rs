//! Stepbox's side: the program `stepbox` as an operator uses it, and workers of this package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::process::{Process, output_of};
use crate::work::LEARNING_RATE;

/// The component that computes what MXNet's Adam does.
const OPTIMIZER: &str = "adam";

/// How Stepbox's processes are started.
#[derive(Debug, Clone)]
pub struct Stepbox {
    program: PathBuf,
    worker: PathBuf,
    component: PathBuf,
}

impl Stepbox {
    /// With the program `stepbox`, this package's own program, and the folder of the built components.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn new(program: &Path, worker: &Path, components: &Path) -> Result<Self> {
        // Processes run in folders of their own, so relative paths would lead elsewhere.
        let find = |path: &Path| {
            path.canonicalize().with_context(|| format!("{}: `cargo xtask bench-mxnet` builds it", path.display()))
        };
        let component = components.join(OPTIMIZER).with_extension("wasm");
        Ok(Self { program: find(program)?, worker: find(worker)?, component: find(&component)? })
    }

    /// Makes certificates and keys, starts a server, deploys Adam, and starts workers.
    ///
    /// # Errors
    /// One of these steps fails.
    pub async fn start(&self, workers: u32, parameters: u32, rounds: u64, folder: &Path) -> Result<Cluster> {
        let names: Vec<String> = (0..workers).map(|rank| format!("worker-{rank}")).collect();
        let public_key = self.make_identities(&names, folder).await?;
        write_configuration(&names, &public_key, folder)?;

        let mut command = self.command(folder, &["serve", "--json", "--config", "server.toml"]);
        let mut server = Process::start("stepbox-server", command.env("RUST_LOG", "warn"), folder)?;
        let address = listening(&server.line().await?)?;

        let rate = LEARNING_RATE.to_string();
        let mut deploy = self.command(folder, &["deploy", "adam.signed.wasm", "--learning-rate", &rate]);
        output_of(deploy.args(connection("deployer", &address))).await.context("the optimizer cannot be deployed")?;

        let weights = folder.join("stepbox.weights");
        let workers = names.iter().map(|name| {
            let mut command = Command::new(&self.worker);
            command.current_dir(folder).arg("worker").args(connection(name, &address));
            command.args(["--parameters", &parameters.to_string(), "--rounds", &rounds.to_string()]);
            command.arg("--weights").arg(&weights);
            Process::start(format!("stepbox-{name}"), &mut command, folder)
        });
        let workers = workers.collect::<Result<_>>()?;
        Cluster::of(server, workers, Vec::new(), weights).await
    }

    /// Certificates for everybody, and the signed component. Returns the publisher's key as a trust file takes it.
    async fn make_identities(&self, workers: &[String], folder: &Path) -> Result<String> {
        #[derive(Deserialize)]
        struct NewKey {
            public_key: String,
        }
        let authority = ["--directory", "certificates"];
        let run = async |arguments: &[&str]| output_of(&mut self.command(folder, arguments)).await;
        run(&[&["ca", "init"], &authority[..]].concat()).await?;
        run(&[&["ca", "issue", "--name", "server", "--server"], &authority[..]].concat()).await?;
        for name in workers.iter().map(String::as_str).chain(["deployer"]) {
            run(&[&["ca", "issue", "--name", name], &authority[..]].concat()).await?;
        }
        let report = run(&["--json", "key", "new", "--out", "publisher.key"]).await?;
        let component = self.component.to_str().context("the component's path is not UTF-8")?;
        let name = ["--name", OPTIMIZER, "--version", "1.0.0", "--out", "adam.signed.wasm"];
        run(&[&["sign", component, "--key", "publisher.key"], &name[..]].concat()).await?;
        let NewKey { public_key } = serde_json::from_slice(&report).context("`stepbox key new` names no public key")?;
        Ok(public_key)
    }

    fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(folder);
        if rustix::process::geteuid().is_root() {
            // Who benchmarks as root means it.
            command.env("STEPBOX_ALLOW_ROOT", "1");
        }
        command
    }
}

fn write_configuration(workers: &[String], public_key: &str, folder: &Path) -> Result<()> {
    // All defaults but for names, files and the address.
    let server = format!(
        "listen = '127.0.0.1:0'\nstate_directory = 'state'\n\
         [tls]\nca = 'certificates/ca.pem'\ncertificate = 'certificates/server.pem'\nkey = 'certificates/server.key'\n\
         [job]\nworkers = {workers:?}\naggregation = 'mean'\n\
         [access]\ndeployers = ['deployer']\npublishers = ['deployer']\n\
         [trust]\nstore = 'publishers.toml'\n"
    );
    fs::write(folder.join("server.toml"), server).context("server.toml")?;
    let publishers = format!("[[publisher]]\nname = 'Benchmark'\npublic_key = '{public_key}'\n[end]\n");
    fs::write(folder.join("publishers.toml"), publishers).context("publishers.toml")
}

/// Options that connect to a server as somebody, for `stepbox` and for the worker.
fn connection(name: &str, address: &str) -> [String; 8] {
    let file = |extension| format!("certificates/{name}.{extension}");
    let [ca, certificate, key] = ["certificates/ca.pem".to_owned(), file("pem"), file("key")];
    ["--server".into(), address.into(), "--ca".into(), ca, "--certificate".into(), certificate, "--key".into(), key]
}

/// The address in the line that a server prints once it listens.
fn listening(line: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Listening {
        listening: String,
    }
    let Listening { listening } = serde_json::from_str(line).with_context(|| format!("the server printed `{line}`"))?;
    ensure!(!listening.is_empty(), "the server printed no address");
    Ok(listening)
}
