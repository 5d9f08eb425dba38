//! The native side: AdamW that is built in, or the author's own crate in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use optimizer_adamw::AdamW;
use stepbox_guest::{Gradient, Native, bench};

use super::Tensor;
use crate::BenchError;
use crate::turns::Contestant;

/// What the built-in baseline is called in a row.
pub(super) const BUILT_IN: &str = "AdamW, the same source, native, in place";

/// Native AdamW, in place, without checks.
pub(super) struct BuiltIn {
    native: Native<AdamW>,
    gradient: Arc<Vec<f32>>,
}

impl BuiltIn {
    pub(super) fn new(tensor: &Tensor) -> Self {
        let described = stepbox_guest::Tensor::new("tensor", &tensor.shape, 0);
        let native = Native::of_tensor(AdamW::default(), described, bench::parameters(tensor.elements()));
        Self { native: native.unchecked(), gradient: Arc::clone(&tensor.gradient) }
    }

    pub(super) fn digest(&self) -> u64 {
        bench::digest(self.native.parameters())
    }
}

impl Contestant for BuiltIn {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let since = Instant::now();
        for _ in 0..count {
            let context =
                bench::context(self.native.rounds() + 1, <AdamW as stepbox_guest::Optimizer>::LEARNING_RATE as f32);
            // AdamW fails no round.
            let _ = self.native.try_round(&context, Gradient::Dense(&self.gradient));
        }
        Ok(since.elapsed())
    }
}

/// The example that an author's crate has for this (see `stepbox_guest::bench`).
const EXAMPLE: &str = "native_bench";

/// An author's crate, built for this machine, running in a process of its own that steps when it is told to.
pub(super) struct NativeCrate {
    folder: PathBuf,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl NativeCrate {
    /// Builds the crate's example and starts it. It is built for this very processor: a baseline should be the best there
    /// is.
    pub(super) fn start(folder: &Path) -> Result<Self, BenchError> {
        let fail = |reason: String| BenchError::NativeCrate { folder: folder.to_owned(), reason };
        let manifest = folder.join("Cargo.toml");
        if !folder.join("examples").join(format!("{EXAMPLE}.rs")).is_file() {
            return Err(fail(format!(
                "there is no examples/{EXAMPLE}.rs; it is `fn main() -> std::io::Result<()> {{ \
                 stepbox_guest::bench::serve::<YourOptimizer>() }}`"
            )));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut process = Command::new(cargo)
            .args(["run", "--release", "--quiet", "--example", EXAMPLE, "--manifest-path"])
            .arg(&manifest)
            // With a target that is named the flags do not concern what is built without one, so that neither has the other
            // compiled anew.
            .args(["--config", "build.rustflags=[\"-Ctarget-cpu=native\"]", "--target", "host-tuple"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| fail(format!("cannot start cargo: {error}")))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(fail("it has no standard input and output".into()));
        };
        Ok(Self { folder: folder.to_owned(), process, requests, answers: BufReader::new(answers) })
    }

    /// Makes a tensor, in place of the one before.
    pub(super) fn tensor(&mut self, shape: &[u64]) -> Result<(), BenchError> {
        let extents: Vec<String> = shape.iter().map(u64::to_string).collect();
        self.ask(&format!("tensor {}", extents.join(" ")), "ready").map(|_| ())
    }

    /// A digest of the parameters' bits.
    pub(super) fn digest(&mut self) -> Result<u64, BenchError> {
        let answer = self.ask("digest", "digest ")?;
        u64::from_str_radix(&answer, 16).map_err(|_| self.wrong("digest", &answer))
    }

    /// What follows `expected` in the answer.
    fn ask(&mut self, request: &str, expected: &str) -> Result<String, BenchError> {
        let mut answer = String::new();
        let asked = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        asked
            .and_then(|()| self.answers.read_line(&mut answer))
            .map_err(|error| self.wrong(request, &error.to_string()))?;
        match answer.trim_end().strip_prefix(expected) {
            Some(rest) => Ok(rest.to_owned()),
            None if answer.is_empty() => Err(self.wrong(request, "nothing: it has ended; its errors are above")),
            None => Err(self.wrong(request, answer.trim_end())),
        }
    }

    fn wrong(&self, request: &str, answer: &str) -> BenchError {
        BenchError::NativeCrate {
            folder: self.folder.clone(),
            reason: format!("`{request}` was answered with {answer}"),
        }
    }
}

impl Contestant for NativeCrate {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let answer = self.ask(&format!("steps {count}"), "nanoseconds ")?;
        answer.parse().map(Duration::from_nanos).map_err(|_| self.wrong("steps", &answer))
    }
}

impl Drop for NativeCrate {
    fn drop(&mut self) {
        // cargo waits for the program, which ends with its input; if it does not, it is stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
