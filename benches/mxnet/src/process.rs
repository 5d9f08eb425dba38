//! Processes that end with the driver, what they say, and what the kernel says of them.

use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Starting takes seconds, a round a second; longer is a hang. MXNet does hang where one of its processes has died.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Lines of standard error that are shown when a process dies.
const SHOWN_LOG_LINES: usize = 15;

/// A process, which is killed when this is dropped. Its standard input stays open until then.
pub struct Process {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts it; its standard error goes to `NAME.log` in a folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: impl Into<String>, command: &mut Command, folder: &Path) -> Result<Self> {
        let name = name.into();
        let log = folder.join(format!("{name}.log"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).with_context(|| log.display().to_string())?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))?;
        let stdin = child.stdin.take().context("a process has no standard input")?;
        let stdout = child.stdout.take().context("a process has no standard output")?;
        Ok(Self { name, child, stdin, lines: BufReader::new(stdout).lines(), log })
    }

    /// The process's id.
    ///
    /// # Errors
    /// It has ended.
    pub fn id(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// It has ended or hangs.
    pub async fn line(&mut self) -> Result<String> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => bail!("{} has ended; it said\n{}", self.name, self.complaint()),
            Err(_) => bail!("{} has said nothing for {ANSWER_TIMEOUT:?}\n{}", self.name, self.complaint()),
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It has ended.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        let written = self.stdin.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(|error| anyhow!("{} does not listen ({error}); it said\n{}", self.name, self.complaint()))
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> anyhow::Error {
        let how = self.child.wait().await;
        let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow!("{} has ended ({how}); it said\n{}", self.name, self.complaint())
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It fails; with its standard error.
pub async fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.as_std().get_program().display().to_string();
    let output = tokio::time::timeout(ANSWER_TIMEOUT, command.stdin(Stdio::null()).kill_on_drop(true).output());
    let output =
        output.await.with_context(|| format!("{name} hangs"))?.with_context(|| format!("cannot start {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// Whatever comes first: the result, or the end of a process that must not end.
///
/// # Errors
/// Those of `doing`, and that the process has ended.
pub async fn unless_ended<T>(process: &mut Process, doing: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = doing => result,
        error = process.ended() => Err(error),
    }
}

/// Processor time, user and system, that a process has used with all its threads, living and ended.
///
/// # Errors
/// The process has ended, or this is not Linux.
#[cfg(target_os = "linux")]
pub fn processor_time(id: u32) -> Result<Duration> {
    // What utime and stime of /proc/ID/stat add up to, but in nanoseconds and not in hundredths of a second.
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(id.cast_signed()))?;
    Ok(nix::time::clock_gettime(clock)?.into())
}

/// Processor time of another process, for which there is no interface here.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn processor_time(_id: u32) -> Result<Duration> {
    bail!("the processor time of another process can be read on Linux only")
}

/// The most memory that a process has had resident, in bytes.
///
/// # Errors
/// The process has ended, or this is not Linux.
pub fn peak_memory(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).context(path)?;
    parse_peak_memory(&status).context("the kernel does not tell a process's peak memory")
}

fn parse_peak_memory(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kibibytes.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_read_in_bytes() {
        assert_eq!(parse_peak_memory("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 7 kB\n"), Some(2 << 20));
        assert_eq!(parse_peak_memory("VmPeak:\t 9 kB\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_works_uses_processor_time_and_memory() {
        let id = std::process::id();
        let before = processor_time(id).unwrap();
        while processor_time(id).unwrap() == before {
            std::hint::spin_loop();
        }
        assert!(peak_memory(id).unwrap() > 1 << 16);
    }

    #[tokio::test]
    async fn a_process_that_dies_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; read line; echo \"$line\"; echo the reason >&2; exit 3"]);
        let mut process = Process::start("worker", &mut command, folder.path()).unwrap();
        assert_eq!(process.line().await.unwrap(), "first");
        process.tell("second").await.unwrap();
        assert_eq!(process.line().await.unwrap(), "second");
        assert!(process.line().await.unwrap_err().to_string().contains("the reason"));
    }

    #[tokio::test]
    async fn a_process_that_must_not_end_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start("server", &mut Command::new("true"), folder.path()).unwrap();
        let error = unless_ended(&mut process, std::future::pending::<Result<()>>()).await.unwrap_err();
        assert!(error.to_string().contains("server has ended"), "{error}");
    }
}
