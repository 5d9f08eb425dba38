//! Updates `optimizers/catalogue.toml` and the table in `docs/optimizers.md` from the built components.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;

use stepbox_optimizer_tests::{Catalogue, repository};

fn main() -> Result<(), Box<dyn Error>> {
    let catalogue = Catalogue::written().renewed();
    let path = repository().join("optimizers/catalogue.toml");
    let text = fs::read_to_string(&path)?;
    let comments: String =
        text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    fs::write(&path, format!("{comments}\n{}", toml::to_string(&catalogue)?))?;

    let path = repository().join("docs/optimizers.md");
    let page = fs::read_to_string(&path)?;
    let is_table = |line: &&str| line.starts_with('|');
    let before: Vec<_> = page.lines().take_while(|line| !is_table(line)).collect();
    let after: Vec<_> = page.lines().skip(before.len()).skip_while(is_table).collect();
    fs::write(&path, format!("{}\n{}{}\n", before.join("\n"), catalogue.table(), after.join("\n")))?;
    println!("{} optimizers", catalogue.optimizer.len());
    Ok(())
}
