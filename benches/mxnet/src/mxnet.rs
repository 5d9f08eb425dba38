//! MXNet's side: a scheduler, a server and workers, each a process of Python.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::process::{Process, output_of};
use crate::work::LEARNING_RATE;

/// The release that is compared with, the last one there was.
const VERSION: &str = "1.9.1";

/// How MXNet's processes are started.
#[derive(Debug, Clone)]
pub struct MxNet {
    python: PathBuf,
    program: PathBuf,
    environment: Vec<(String, String)>,
    separate: bool,
}

impl MxNet {
    /// With a Python (a path) that has MXNet, and variables besides those that name role and cluster. `separate` pushes and pulls
    /// with two calls in place of `pushpull`.
    ///
    /// # Errors
    /// It is not the MXNet to compare with.
    pub async fn new(python: &Path, environment: Vec<(String, String)>, separate: bool) -> Result<Self> {
        // Processes run in folders of their own. Not resolved: an environment's Python is known by where its link lies.
        let python = std::path::absolute(python).with_context(|| python.display().to_string())?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("role.py");
        let asked = output_of(Command::new(&python).args(["-c", "import mxnet; print(mxnet.__version__)"])).await;
        let version = String::from_utf8(asked.context("MXNet cannot be used")?)?;
        ensure!(version.trim() == VERSION, "this is MXNet {}, not {VERSION}", version.trim());
        Ok(Self { python, program, environment, separate })
    }

    /// What stands beside a baseline.
    pub fn describe(&self) -> String {
        let environment: String = self.environment.iter().map(|(name, value)| format!(", {name}={value}")).collect();
        format!("MXNet {VERSION} dist_sync, plaintext{environment}")
    }

    /// Starts a cluster.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, workers: u32, parameters: u32, rounds: u64, folder: &Path) -> Result<Cluster> {
        // MXNet takes no port that is bound already, nor says which one it has taken: find a free one and let it go.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let command = |role: &str| {
            let mut command = Command::new(&self.python);
            command.arg(&self.program).current_dir(folder).env("DMLC_ROLE", role);
            command.envs([("DMLC_PS_ROOT_URI", "127.0.0.1"), ("DMLC_NODE_HOST", "127.0.0.1")]);
            command.env("DMLC_PS_ROOT_PORT", port.to_string()).env("DMLC_NUM_SERVER", "1");
            command.env("DMLC_NUM_WORKER", workers.to_string());
            // With one server an array has nowhere else to go; splitting it would only cost.
            command.env("MXNET_KVSTORE_BIGARRAY_BOUND", i32::MAX.to_string());
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            command
        };
        let weights = folder.join("mxnet.weights");
        let scheduler = Process::start("mxnet-scheduler", &mut command("scheduler"), folder)?;
        let server = Process::start("mxnet-server", &mut command("server"), folder)?;
        let workers = (0..workers).map(|index| {
            let mut command = command("worker");
            command.args(["--parameters", &parameters.to_string(), "--rounds", &rounds.to_string()]);
            command.args(["--learning-rate", &LEARNING_RATE.to_string()]).arg("--weights").arg(&weights);
            if self.separate {
                command.arg("--separate");
            }
            Process::start(format!("mxnet-worker-{index}"), &mut command, folder)
        });
        let workers = workers.collect::<Result<_>>()?;
        Cluster::of(server, workers, vec![scheduler], weights).await
    }
}
