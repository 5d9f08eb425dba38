//! The catalogue agrees with the components.

use std::collections::BTreeSet;

use stepbox_optimizer_tests::{Catalogue, repository, shipped};

#[test]
fn the_catalogue_lists_every_shipped_optimizer_as_it_is() {
    let written = Catalogue::written();
    let names = BTreeSet::from_iter(written.optimizer.iter().map(|entry| entry.name.clone()));
    assert_eq!(names, BTreeSet::from_iter(shipped()));
    assert_eq!(written, written.clone().renewed(), "run the command at the top of optimizers/catalogue.toml");
}

#[test]
fn the_documentations_table_is_the_catalogue() {
    let page = std::fs::read_to_string(repository().join("docs/optimizers.md")).expect("the page is there");
    let table: String = page.lines().filter(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert_eq!(table, Catalogue::written().table(), "run the command at the top of optimizers/catalogue.toml");
}
