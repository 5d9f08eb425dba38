//! The workspace's own tasks, run as `cargo xtask <task>`.

#![forbid(unsafe_code)]

mod attack;
mod bench;
mod bench_mxnet;
mod demo;
mod fuzz;
mod guests;
mod process;
mod release;
mod stages;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests, measures and demonstrates Stepbox.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong arguments; `attack` and `demo` hand on their own.\n\
                  Progress goes to standard error, results to standard output."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Attack a real server in every way the threat model names while workers train through it
    #[command(after_help = "Examples:\n  cargo xtask attack\n  cargo xtask attack --list\n  \
                      cargo xtask attack --json | jq '.[] | select(.contained | not)'")]
    Attack(attack::Options),
    /// Measure what the project claims, into docs/benchmarks
    #[command(after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench reduce --json\n  \
                      cargo xtask bench all --quick")]
    Bench(bench::Options),
    /// Measure whole rounds beside MXNet 1.9.1's, which it installs from PyPI
    #[command(
        long_about = "Measure whole rounds beside MXNet 1.9.1's, which it installs from PyPI.\n\n\
                      Needs Linux on x86-64 and Python 3.8 to 3.11 with venv; benches/mxnet/README.md has more.",
        after_help = "Examples:\n  cargo xtask bench-mxnet\n  cargo xtask bench-mxnet -- --json\n  \
                      cargo xtask bench-mxnet -- --workers 4 --parameters 1000000 --repetitions 1"
    )]
    BenchMxnet(bench_mxnet::Options),
    /// Train a model through a server with a signed optimizer, and attack it
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --json | jq .accuracy")]
    Demo(demo::Options),
    /// Run the fuzz targets, and say how many inputs each tried and how far it came
    #[command(
        after_help = "Examples:\n  cargo xtask fuzz --seconds 3600\n  cargo xtask fuzz --target frame,signature --json\n\n\
                      Needs a nightly toolchain (`rustup toolchain install nightly`)."
    )]
    Fuzz(fuzz::Options),
    /// Build every optimizer, hostile test guest and benchmark guest as a WebAssembly component
    #[command(
        long_about = "Build every optimizer, hostile test guest and benchmark guest as a WebAssembly component.\n\n\
                      Writes target/guests/components/<name>.wasm, hostile/<name>.wasm for the tests' hostile guests,\n\
                      and benches/<name>.wasm for what benchmarks compare with. An unchanged tree is left alone; the same source gives the same bytes.\n\n\
                      The toolchain is the first of these that works: wasm32-unknown-unknown is installed;\n\
                      `rustup target add`, for at most 30 s; Debian packages, unpacked into the cache\n\
                      ($XDG_CACHE_HOME/stepbox). docs/building.md has more.",
        after_help = "Examples:\n  cargo xtask guests\n  cargo xtask guests --only adamw,hostile/endless-loop\n  \
                      cargo xtask guests --json | jq -r '.[] | .sha256 + \"  \" + .path' | sha256sum -c"
    )]
    Guests(guests::Options),
    /// Write what is handed out: the program, the optimizers, a bill of materials, and digests
    #[command(
        long_about = "Write what is handed out: the program, the optimizers, a bill of materials, and digests.\n\n\
                      Writes target/release-files: stepbox, optimizers/<name>.wasm, stepbox.cdx.json (CycloneDX 1.5)\n\
                      and SHA256SUMS. SOURCE_DATE_EPOCH sets the bill's time, which otherwise has none.",
        after_help = "Examples:\n  cargo xtask release\n  cargo xtask release --output dist --json\n  \
                      cargo xtask release --only adamw --output /tmp/look"
    )]
    Release(release::Options),
    /// Run every check that a change must pass; stops at the first that fails
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --only fmt,clippy\n  \
                      cargo xtask test --skip fuzz,asan\n  cargo xtask test --list")]
    Test(stages::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Attack(options) => attack::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::BenchMxnet(options) => bench_mxnet::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Guests(options) => {
            let components = guests::build(&options)?;
            if options.json {
                println!("{}", serde_json::to_string_pretty(&components)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Release(options) => release::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Test(options) => stages::run(&options),
    }
}
