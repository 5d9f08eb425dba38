//! Runs the real program in a folder of its own.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// The program, to be run in this folder and with nothing of the user's configuration.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepbox"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("XDG_CONFIG_HOME", self.0.path())
            .env_remove("RUST_LOG")
            .envs(allow_root())
            .env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs it with words separated by spaces.
    pub fn run(&self, arguments: &str) -> Run {
        Run(self.command(arguments.split_whitespace()).output().unwrap())
    }

    /// Runs it, and it must succeed.
    pub fn done(&self, arguments: &str) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.code(), 0, "stepbox {arguments}: {}", run.stderr());
        run
    }

    /// Makes a key and a trust file that trusts it.
    pub fn publisher(&self, name: &str) {
        let made = self.done(&format!("key new --out {name}.key --json")).json();
        let public_key = made["public_key"].as_str().unwrap();
        let trust = format!("[[publisher]]\nname = '{name}'\npublic_key = '{public_key}'\n[end]\n");
        self.write(&format!("{name}.toml"), trust);
    }
}

/// What a server needs to be told where the tests run as root.
pub fn allow_root() -> Option<(&'static str, &'static str)> {
    rustix::process::geteuid().is_root().then_some(("STEPBOX_ALLOW_ROOT", "1"))
}

pub struct Run(Output);

impl Run {
    /// Runs any command.
    pub fn of(mut command: Command) -> Self {
        Self(command.output().unwrap())
    }

    pub fn code(&self) -> i32 {
        self.0.status.code().expect("not ended by a signal")
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The one object on standard output.
    pub fn json(&self) -> Value {
        let stdout = self.stdout();
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }
}

/// The bytes of a component built by `cargo xtask guests`.
pub fn component(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests` first", path.display()))
}

#[cfg(unix)]
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
