//! Rows as a table.

use std::fmt::Write;

use crate::{Goal, Row};

/// A table for the terminal, a block for each benchmark.
pub fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for (bench, rows) in by_bench(rows) {
        let cells: Vec<[String; 4]> = rows.iter().map(|row| cells(row)).collect();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        // Writing to a string does not fail.
        let _ = writeln!(text, "{bench}");
        for [case, value, against, goal] in &cells {
            let [a, b, c] = widths;
            let line = format!("  {case:<a$}  {value:>b$}  {against:<c$}  {goal}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// A table for a page, with a heading for each benchmark.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for (bench, rows) in by_bench(rows) {
        let _ = writeln!(text, "## {bench}\n\n| what | figure | against | goal |\n|---|---:|---|---|");
        for row in rows {
            let _ = writeln!(text, "| {} |", cells(row).join(" | "));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// Rows of the same benchmark together, in their order.
fn by_bench(rows: &[Row]) -> Vec<(&str, Vec<&Row>)> {
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|(bench, _)| *bench == row.bench) {
            Some((_, group)) => group.push(row),
            None => groups.push((&row.bench, vec![row])),
        }
    }
    groups
}

fn cells(row: &Row) -> [String; 4] {
    let [least, most] = row.spread;
    let spread = if least == most { String::new() } else { format!(" ({} to {})", number(least), number(most)) };
    let value = format!("{} {}{spread}", number(row.value), row.unit);
    let against = match (row.ratio, row.baseline) {
        (Some(ratio), Some(baseline)) => format!("{ratio:.2} × {} of {}", number(baseline), row.against),
        _ => String::new(),
    };
    let goal = row.goal.map_or(String::new(), |goal| {
        let bound = match goal {
            Goal::RatioAtMost(bound) => format!("at most {bound} ×"),
            Goal::RatioAtLeast(bound) => format!("at least {bound} ×"),
            Goal::ValueAtMost(bound) => format!("at most {bound} {}", row.unit),
        };
        match row.met {
            Some(true) => format!("{bound}: met"),
            Some(false) => format!("{bound}: missed"),
            None => format!("{bound}: not measured"),
        }
    });
    [row.case.clone(), value, against, goal]
}

/// Three digits that matter.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".into(),
        _ if size >= 99.95 => format!("{value:.0}"),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spread;

    fn row() -> Row {
        Row::new("reduce", "mean of 4", "GB/s", Spread::of(vec![20.0, 25.0, 30.0]))
            .against("probe", 31.25, 0.8)
            .goal(Goal::RatioAtLeast(0.85))
    }

    #[test]
    fn a_line_says_figure_spread_baseline_and_goal() {
        let line = "mean of 4  25.0 GB/s (20.0 to 30.0)  0.80 × 31.2 of probe  at least 0.85 ×: missed";
        assert_eq!(text(&[row()]), format!("reduce\n  {line}"));
    }

    #[test]
    fn a_page_has_a_table_for_each_benchmark() {
        let other = Row::new("wire", "push", "GB/s", Spread::of(vec![1.0]));
        let page = markdown(&[row(), other, row()]);
        assert_eq!(page.matches("| what |").count(), 2);
        assert!(page.ends_with(
            "## wire\n\n| what | figure | against | goal |\n|---|---:|---|---|\n| push | 1.00 GB/s |  |  |"
        ));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.0, 0.0012, 0.123, 9.99, 9.996, 99.96, 12345.6].map(number),
            ["0", "1.20e-3", "0.12", "9.99", "10.0", "100", "12346"]
        );
    }
}
