//! `cargo bench -p stepbox-benches --bench rows [-- --rows 10000000] [-- --json]`: lazy Adam on embeddings of 16 columns,
//! 10,000 rows of which are touched in a round.

use std::path::Path;

use stepbox_benches::Spread;
use stepbox_benches::rows::{RowFigures, measure};

const TOUCHED: u64 = 10_000;

/// The smallest and, unless asked for otherwise, the largest embedding: 128 MB of state.
const ROWS: [u64; 2] = [100_000, 1_000_000];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let asked = arguments.iter().position(|argument| argument == "--rows").and_then(|at| arguments.get(at + 1));
    let largest = asked.map_or(Ok(ROWS[1]), |rows| rows.parse())?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components/lazy-adam.wasm");
    let component =
        std::fs::read(&path).map_err(|error| format!("{}: {error}; run `cargo xtask guests` first", path.display()))?;
    let figures: Vec<RowFigures> =
        [ROWS[0], largest].iter().map(|rows| measure(&component, *rows, TOUCHED)).collect::<Result<_, _>>()?;
    if json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    println!("lazy Adam, 16 columns, ns a touched row (median, minimum to maximum)");
    println!("{:>12} {:>10} {:>24} {:>22}", "rows", "touched", "sandboxed", "against the smallest");
    for row in &figures {
        let Spread { median, minimum, maximum } = row.per_touched_row;
        let ratio = median / figures[0].per_touched_row.median;
        let shown = format!("{median:.0} ({minimum:.0} to {maximum:.0})");
        println!("{:>12} {:>10} {shown:>24} {ratio:>22.2}", row.rows, row.touched);
    }
    Ok(())
}
