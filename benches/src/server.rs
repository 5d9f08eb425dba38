//! A real server in a process of its own, set up with the command line as an operator would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use stepbox_client::{Client, ClientConfig};
use tempfile::TempDir;

use crate::BenchError;

/// Longest wait for an answer: reached only where something hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// The optimizer's learning rate.
const LEARNING_RATE: &str = "0.001";

/// A running server with AdamW deployed, which is killed when it is dropped.
pub(crate) struct Server {
    process: Child,
    address: String,
    folder: TempDir,
}

#[derive(Deserialize)]
struct NewKey {
    public_key: String,
}

#[derive(Deserialize)]
struct Listening {
    listening: String,
}

/// Who is to have a part in the job.
pub(crate) struct Setup<'a> {
    pub workers: usize,
    /// Identities that may see the status.
    pub operators: &'a [String],
    /// Whether its log, which is written all the same, is not shown.
    pub is_quiet: bool,
}

impl Server {
    /// Makes certificates for as many workers, a publisher and a configuration, starts `program serve` with them, and
    /// deploys the component.
    pub(crate) fn start(program: &Path, component: &[u8], workers: usize) -> Result<Self, BenchError> {
        Self::set_up(program, component, &Setup { workers, operators: &[], is_quiet: false })
    }

    /// As [`start`](Self::start), with others besides the workers.
    pub(crate) fn set_up(program: &Path, component: &[u8], setup: &Setup<'_>) -> Result<Self, BenchError> {
        let Setup { workers, operators, is_quiet } = *setup;
        let folder = TempDir::new().map_err(BenchError::system("make a temporary folder"))?;
        let stepbox = Stepbox { program, folder: folder.path() };
        stepbox.run(&["ca", "init", "--directory", "."])?;
        stepbox.run(&["ca", "issue", "--directory", ".", "--name", "server", "--server"])?;
        stepbox.run(&["ca", "issue", "--directory", ".", "--name", "deployer"])?;
        let names: Vec<String> = (0..workers).map(|rank| format!("worker-{rank}")).collect();
        for name in names.iter().chain(operators) {
            stepbox.run(&["ca", "issue", "--directory", ".", "--name", name])?;
        }
        let made = stepbox.run(&["key", "new", "--out", "publisher.key", "--json"])?;
        let key: NewKey = stepbox.understood("key new", &made)?;
        stepbox.write(
            "publishers.toml",
            format!("[[publisher]]\nname = 'bench'\npublic_key = '{}'\n[end]\n", key.public_key),
        )?;
        stepbox.write("component.wasm", component)?;
        let version = ["--version", "1.0.0", "--out", "signed.wasm"];
        stepbox
            .run(&[&["sign", "component.wasm", "--key", "publisher.key", "--name", "adamw"][..], &version].concat())?;
        stepbox.write(
            "server.toml",
            format!(
                "listen = '127.0.0.1:0'\nstate_directory = 'state'\n\
                 [tls]\nca = 'ca.pem'\ncertificate = 'server.pem'\nkey = 'server.key'\n\
                 [job]\nworkers = {names:?}\nround_timeout_seconds = {}\n\
                 [access]\ndeployers = ['deployer']\npublishers = ['deployer']\noperators = {operators:?}\n[trust]\nstore = 'publishers.toml'\n",
                ANSWER_TIMEOUT.as_secs()
            ),
        )?;
        let (process, line) = stepbox.serve(is_quiet)?;
        // From here on the process ends with this value, whatever fails.
        let mut server = Self { process, address: String::new(), folder };
        let stepbox = Stepbox { program, folder: server.folder.path() };
        server.address = stepbox.understood::<Listening>("serve", &line)?.listening;
        let deploy = ["deploy", "signed.wasm", "--learning-rate", LEARNING_RATE, "--server", &server.address];
        let credentials = ["--ca", "ca.pem", "--certificate", "deployer.pem", "--key", "deployer.key"];
        stepbox.run(&[&deploy[..], &credentials].concat())?;
        Ok(server)
    }

    /// A registered worker. Its own runtime must be the current one.
    pub(crate) async fn worker(&self, rank: usize) -> Result<Client, BenchError> {
        let file = |name: &str| self.folder.path().join(name);
        let (certificate, key) = (file(&format!("worker-{rank}.pem")), file(&format!("worker-{rank}.key")));
        let mut config = ClientConfig::new(&self.address, file("ca.pem"), certificate, key);
        config.request_timeout = ANSWER_TIMEOUT;
        let client = Client::connect(&config).await?;
        client.register().await?;
        Ok(client)
    }

    /// Where it listens.
    pub(crate) fn socket_address(&self) -> Result<SocketAddr, BenchError> {
        self.address.parse().map_err(|error| BenchError::system("find the server")(std::io::Error::other(error)))
    }

    /// The folder with the authority and all certificates.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Has [`memory`](Self::memory) tell of the most from now on, where the system can do that.
    pub(crate) fn forget_peak_memory(&self) {
        // See proc_pid_clear_refs(5).
        let _ = fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5");
    }

    /// Processor time that the server has used, in seconds. `None` where the system does not tell.
    pub(crate) fn processor_seconds(&self) -> Option<f64> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        // By thread and to the nanosecond; threads that ended are missing, but the server keeps its own.
        let of_thread =
            |thread: &Path| fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok();
        let threads = fs::read_dir(process.join("task")).ok()?;
        let nanoseconds: Option<u64> = threads.map(|thread| of_thread(&thread.ok()?.path())).sum();
        match nanoseconds {
            Some(nanoseconds) if nanoseconds > 0 => Some(nanoseconds as f64 / 1e9),
            _ => ticks(&fs::read_to_string(process.join("stat")).ok()?),
        }
    }

    /// Memory of the server in bytes: the most it ever had, and what it has now. `None` where the system does not tell.
    pub(crate) fn memory(&self) -> Option<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
        };
        Some((field("VmHWM:")?, field("VmRSS:")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing that is needed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of `/proc/PID/stat`, in ticks of 10 ms (`USER_HZ`, which is 100 wherever Linux runs).
fn ticks(stat: &str) -> Option<f64> {
    // The name, in parentheses, may have spaces in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// The program `stepbox`, run in a folder.
struct Stepbox<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl Stepbox<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.args(arguments).current_dir(self.folder).stdin(Stdio::null());
        // Nothing of the user's own configuration.
        command.env("XDG_CONFIG_HOME", self.folder).env("RUST_LOG", "warn");
        if rustix::process::geteuid().is_root() {
            // Who benchmarks as root means it.
            command.env("STEPBOX_ALLOW_ROOT", "1");
        }
        command
    }

    /// Runs it to its end and returns its standard output.
    fn run(&self, arguments: &[&str]) -> Result<String, BenchError> {
        let output = self.command(arguments).output().map_err(|error| self.failed(arguments, error.to_string()))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(self.failed(arguments, reason));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the server and returns its first line.
    fn serve(&self, is_quiet: bool) -> Result<(Child, String), BenchError> {
        let arguments = ["serve", "--config", "server.toml", "--json"];
        let mut command = self.command(&arguments);
        if is_quiet {
            command.stderr(Stdio::null());
        }
        let started = command.stdout(Stdio::piped()).spawn();
        let mut process = started.map_err(|error| self.failed(&arguments, error.to_string()))?;
        let mut line = String::new();
        let read = process.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        match read {
            Some(Ok(bytes)) if bytes > 0 => Ok((process, line)),
            _ => {
                let _ = process.kill();
                let _ = process.wait();
                Err(self.failed(&arguments, "it ended before it listened; its errors are above".into()))
            }
        }
    }

    fn understood<'a, T: Deserialize<'a>>(&self, verb: &str, output: &'a str) -> Result<T, BenchError> {
        serde_json::from_str(output).map_err(|error| self.failed(&[verb], format!("it printed {output:?}: {error}")))
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), BenchError> {
        fs::write(self.folder.join(name), content).map_err(BenchError::system(format!("write {name}")))
    }

    fn failed(&self, arguments: &[&str], reason: String) -> BenchError {
        BenchError::Program { program: format!("{} {}", self.program.display(), arguments.join(" ")), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "1 (a (b) c) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(2.0));
        assert_eq!(ticks("nonsense"), None);
    }
}
