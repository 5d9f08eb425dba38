//! `cargo bench -p stepbox-benches --bench admission [-- --all] [-- --json]`: from a signed file to its first step, cold and
//! cached, of AdamW or of every optimizer there is.

use std::path::Path;

use stepbox_benches::Row;
use stepbox_benches::admission::measure;

const REPETITIONS: usize = 15;
const REPETITIONS_OF_ALL: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let has = |option: &str| std::env::args().any(|argument| argument == option);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components");
    let mut names = vec!["adamw".to_owned()];
    if has("--all") {
        let files = std::fs::read_dir(&folder)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
        let files: Vec<String> = files.collect::<std::io::Result<_>>()?;
        names = files.iter().filter_map(|file| file.strip_suffix(".wasm")).map(str::to_owned).collect();
        names.sort();
    }
    let mut rows: Vec<Row> = Vec::new();
    for name in &names {
        let path = folder.join(format!("{name}.wasm"));
        let component = std::fs::read(&path)
            .map_err(|error| format!("{}: {error}; run `cargo xtask guests` first", path.display()))?;
        let repetitions = if names.len() > 1 { REPETITIONS_OF_ALL } else { REPETITIONS };
        rows.extend(measure(name, &component, None, repetitions).map_err(|error| format!("{name}: {error}"))?);
    }
    if has("--json") {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!("admission, ms (median, minimum to maximum)");
    for row in rows {
        let met = row.met.map_or("", |met| if met { "  goal met" } else { "  goal missed" });
        println!("{:<78} {:>8.2} ({:.2} to {:.2}){met}", row.case, row.value, row.spread[0], row.spread[1]);
    }
    Ok(())
}
