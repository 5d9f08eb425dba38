//! `cargo bench -p stepbox-benches --bench update [-- --json]`: what the sandbox costs, by tensor size.

use std::path::Path;

use stepbox_benches::update::{UpdateFigures, measure};

const SIZES: [(usize, usize); 4] = [(1 << 14, 200), (1 << 16, 100), (1 << 20, 30), (1 << 24, 7)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components/adamw.wasm");
    let component =
        std::fs::read(&path).map_err(|error| format!("{}: {error}; run `cargo xtask guests` first", path.display()))?;
    let figures: Vec<UpdateFigures> =
        SIZES.iter().map(|(elements, steps)| measure(&component, &[*elements], *steps)).collect::<Result<_, _>>()?;
    if json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    println!("AdamW step, ns a parameter (median, minimum to maximum)");
    println!("{:>12} {:>24} {:>24} {:>8}", "parameters", "sandboxed", "native", "ratio");
    for row in figures {
        let show = |spread: stepbox_benches::Spread| {
            format!("{:.2} ({:.2} to {:.2})", spread.median, spread.minimum, spread.maximum)
        };
        println!(
            "{:>12} {:>24} {:>24} {:>8.2}",
            row.parameters,
            show(row.sandboxed),
            show(row.native),
            row.ratio.median
        );
    }
    Ok(())
}
