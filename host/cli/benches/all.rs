//! `cargo bench -p stepbox`: `stepbox bench all`. As a test, which is how CI runs it, quickly and for its own sake.

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let components = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_stepbox"));
    bench.args(["bench", "all", "--components"]).arg(components);
    if !measured {
        bench.arg("--quick");
    }
    match bench.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run stepbox: {error}");
            ExitCode::FAILURE
        }
    }
}
