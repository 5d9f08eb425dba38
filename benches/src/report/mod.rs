//! Figures for people: a table for the terminal, a folder with everything.

mod axis;
mod chart;
mod folder;
mod table;

pub use axis::Axis;
pub use chart::{Chart, Series};
pub use folder::{About, write};
pub use table::{markdown, text};
