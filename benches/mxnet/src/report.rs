//! What the run says: rows for scripts, a table for people.

use stepbox_benches::{Goal, Row, Spread};

use crate::cell::Cell;
use crate::measurement::{Compared, Figures};

/// The part of MXNet's time that a round may take.
pub const GOAL: f64 = 0.5;

/// The most that weights of the two sides may differ by: a tenth of what one step of Adam moves them.
pub const DIFFERENCE: f64 = 1e-4;

/// The rows of a cell.
pub fn rows(cell: Cell, figures: &Figures, against: &str) -> Vec<Row> {
    let row = |what: &str, unit: &str, compared: Compared| {
        let row = Row::new("mxnet", format!("{cell}, {what}"), unit, compared.value);
        row.against(against, compared.baseline.median, compared.ratio.median)
    };
    let difference = Spread::of(vec![figures.difference.into()]);
    vec![
        row("wall time of a round", "ms", figures.wall()).goal(Goal::RatioAtMost(GOAL)),
        row("server's processor time of a round", "ms", figures.server()).goal(Goal::RatioAtMost(GOAL)),
        row("server's peak memory", "MB", figures.memory()),
        Row::new("mxnet", format!("{cell}, largest difference of a weight"), "", difference)
            .goal(Goal::ValueAtMost(DIFFERENCE)),
    ]
}

/// The head of the table.
pub fn head() -> String {
    let columns = "Stepbox    MXNet  ratio (range)     ";
    let [wall, server] = ["wall time of a round, ms", "server's processor time, ms"];
    format!("{:>14}  {wall:<35}  {server:<35}  peak, MB\n", "")
        + &format!("{:>11} {:>2}  {columns} {columns} Stepbox  MXNet  weights", "parameters", "W")
}

/// A cell's line of the table.
pub fn line(cell: Cell, figures: &Figures) -> String {
    let both = |compared: Compared| {
        let Compared { value, baseline, ratio } = compared;
        let met = if ratio.median <= GOAL { ' ' } else { '!' };
        let range = format!("({:.2} to {:.2})", ratio.minimum, ratio.maximum);
        format!("{:>7.2} {:>8.2}   {:>4.2}{met}{range:<14}", value.median, baseline.median, ratio.median)
    };
    let (memory, difference) = (figures.memory(), figures.difference);
    format!(
        "{:>11} {:>2}  {} {} {:>7.0} {:>6.0}  {difference:.0e}",
        cell.parameters,
        cell.workers,
        both(figures.wall()),
        both(figures.server()),
        memory.value.median,
        memory.baseline.median
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Side;

    fn figures(wall: f64, difference: f32) -> Figures {
        let side = |wall: f64, memory: f64| Side {
            wall: vec![wall; 3],
            server: vec![wall / 2.0; 3],
            peak_memory: vec![memory],
        };
        Figures { stepbox: side(wall, 300.0), mxnet: side(10.0, 400.0), difference }
    }

    const CELL: Cell = Cell { workers: 2, parameters: 10_000 };

    #[test]
    fn rows_carry_the_ratio_and_whether_it_was_reached() {
        let rows = |wall, difference| rows(CELL, &figures(wall, difference), "MXNet");
        let [wall, server, memory, weights] = rows(4.0, 1e-6).try_into().unwrap();
        assert_eq!((wall.value, wall.baseline, wall.ratio, wall.met), (4.0, Some(10.0), Some(0.4), Some(true)));
        assert_eq!((server.ratio, server.met), (Some(0.4), Some(true)));
        assert_eq!((memory.ratio, memory.met), (Some(0.75), None));
        assert_eq!(weights.met, Some(true));
        assert_eq!(wall.case, "2 workers, 10000 parameters, wall time of a round");
        assert!(rows(6.0, 1e-3).iter().all(|row| row.met != Some(true)));
    }

    #[test]
    fn a_goal_that_is_missed_is_marked() {
        assert_eq!(line(CELL, &figures(4.0, 1e-6)).matches('!').count(), 0);
        assert_eq!(line(CELL, &figures(6.0, 1e-6)).matches('!').count(), 2);
    }

    #[test]
    fn the_table_is_no_wider_than_a_screen() {
        assert!(head().lines().all(|line| line.len() <= 120));
        assert!(line(CELL, &figures(4.0, 1e-6)).len() <= 120);
    }
}
