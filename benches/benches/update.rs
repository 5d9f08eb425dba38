//! `cargo bench -p stepbox-benches --bench update [-- --json]`: what the sandbox costs, by tensor size.

use std::path::Path;

use stepbox_benches::Row;
use stepbox_benches::update::measure;

const SIZES: [(usize, usize); 4] = [(1 << 14, 200), (1 << 16, 100), (1 << 20, 30), (1 << 24, 9)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components/adamw.wasm");
    let component =
        std::fs::read(&path).map_err(|error| format!("{}: {error}; run `cargo xtask guests` first", path.display()))?;
    let mut rows: Vec<Row> = Vec::new();
    for (elements, steps) in SIZES {
        rows.extend(measure(&component, elements, steps)?);
    }
    if json {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    for row in rows {
        println!(
            "{:50} {:.2} ({:.2} to {:.2}) against {:.2}: {:.2} {:?}",
            row.case,
            row.value,
            row.spread[0],
            row.spread[1],
            row.baseline.unwrap_or(0.0),
            row.ratio.unwrap_or(0.0),
            row.met
        );
    }
    Ok(())
}
