//! Running other programs: with a time limit where they may hang, with their words kept for the error message.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a program with a time limit is asked whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// What a program did within its time.
pub struct Outcome {
    /// `None` if it was killed because its time was over.
    pub status: Option<ExitStatus>,
    /// Standard output and standard error, in the order in which they were written.
    pub output: String,
}

impl Outcome {
    /// Whether it ended by itself, with exit code 0.
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Why it did not succeed, in a line: the time limit, or the last thing it said.
    pub fn reason(&self, limit: Duration) -> String {
        let Some(status) = self.status else {
            return format!("no answer within {} s", limit.as_secs());
        };
        match self.output.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) => format!("{status}: {line}"),
            None => status.to_string(),
        }
    }
}

/// Runs `command` with no input and kills it when `limit` has passed.
///
/// Its output goes to a file and not to a pipe: what a killed program has left running cannot hold us up.
pub fn run_within(limit: Duration, command: &mut Command) -> Result<Outcome> {
    let mut output = unnamed_file()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    let mut bytes = Vec::new();
    output.seek(SeekFrom::Start(0))?;
    output.read_to_end(&mut bytes)?;
    Ok(Outcome { status, output: String::from_utf8_lossy(&bytes).into_owned() })
}

/// Runs `command` and returns its standard output; its standard error is passed on only if it fails.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} failed ({}):\n{}", name(command), output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} did not print text", name(command)))
}

/// Runs `command` with our own input and output, and hands on its exit code.
pub fn handed_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    match status.code() {
        // An exit code has eight bits wherever this program runs.
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        None => bail!("{} was ended by a signal ({status})", name(command)),
    }
}

/// Whether a program of this name is on the search path.
pub fn is_available(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The program's name, for messages.
fn name(command: &Command) -> String {
    format!("`{}`", command.get_program().to_string_lossy())
}

/// A file that is gone when it is closed.
fn unnamed_file() -> Result<File> {
    let path = std::env::temp_dir().join(format!("stepbox-xtask-{}-{:?}", std::process::id(), Instant::now()));
    let file = File::options()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_said_to_have_given_no_answer() {
        let limit = Duration::from_millis(50);
        let outcome = run_within(limit, Command::new("sleep").arg("600")).unwrap();
        assert!(outcome.status.is_none());
        assert!(!outcome.succeeded());
        assert!(outcome.reason(Duration::from_secs(30)).contains("no answer within 30 s"));
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let outcome = run_within(Duration::from_secs(60), &mut command).unwrap();
        assert!(!outcome.succeeded());
        assert_eq!(outcome.output, "first\nthe reason\n");
        assert!(outcome.reason(Duration::from_secs(60)).ends_with("the reason"));
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error_with_its_name() {
        let error = run_within(Duration::from_secs(1), &mut Command::new("no-such-program")).err().unwrap();
        assert!(format!("{error:#}").contains("`no-such-program`"));
    }

    #[test]
    fn an_exit_code_is_handed_on() {
        assert_eq!(handed_on(Command::new("sh").args(["-c", "exit 3"])).unwrap(), ExitCode::from(3));
        let error = handed_on(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap_err();
        assert!(error.to_string().contains("ended by a signal"), "{error}");
    }
}
