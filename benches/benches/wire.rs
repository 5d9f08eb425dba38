//! `cargo bench -p stepbox-benches --bench wire [-- --full] [-- --json]`: pushes and pulls by a real server against a raw
//! rustls pipe. A quick look at 16 Mi and 10,000 parameters; `--full` takes more sizes and more rounds.

use std::path::Path;

use stepbox_benches::wire::{Options, measure};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let options = if given("--full") {
        Options { parameters: vec![1 << 16, 1 << 20, 1 << 24], rounds: 15, workers: vec![1, 2, 4], small_rounds: 5000 }
    } else {
        Options { parameters: vec![1 << 24], rounds: 9, workers: vec![1, 2, 4], small_rounds: 1000 }
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components/sgd.wasm");
    let component =
        std::fs::read(&path).map_err(|error| format!("{}: {error}; run `cargo xtask guests` first", path.display()))?;
    let rows = measure(&component, "sgd", &options)?;
    if given("--json") {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!("{:<78} {:>30} {:>9} {:>6}", "wire", "median (minimum to maximum)", "pipe", "ratio");
    for row in &rows {
        let [low, high] = row.spread;
        let shown = format!("{:.2} ({low:.2} to {high:.2}) {}", row.value, row.unit);
        let figure = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
        println!("{:<78} {shown:>30} {:>9} {:>6}", row.case, figure(row.baseline), figure(row.ratio));
    }
    Ok(())
}
