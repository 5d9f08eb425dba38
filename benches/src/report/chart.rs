//! Charts as SVG, written by hand: lines over sizes, and bars side by side.
//!
//! Colours are those of Okabe and Ito ("Color Universal Design", 2008), which differ for colour-blind readers too; lines
//! have markers of different shapes besides. Text and axes follow the page: dark on light, and light on dark where the
//! reader prefers it.

use std::fmt::Write;

use super::axis::{Axis, Range, Scale};
use super::table::number;
use crate::count;

/// A picture of some figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Name of its file, without extension.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// Its lines or bars.
    pub series: Vec<Series>,
}

/// Figures that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: String,
    points: Points,
}

#[derive(Debug, Clone, PartialEq)]
enum Points {
    /// `(x, y)`.
    Line(Vec<(f64, f64)>),
    /// A bar for each of the axis's names.
    Bars(Vec<f64>),
}

impl Series {
    /// A line through points `(x, y)`, with its name.
    pub fn line((name, points): (String, Vec<(f64, f64)>)) -> Self {
        Self { name, points: Points::Line(points) }
    }

    /// A bar for each of the names of the horizontal axis.
    pub fn bars(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self { name: name.into(), points: Points::Bars(values) }
    }

    fn values(&self) -> Vec<f64> {
        match &self.points {
            Points::Line(points) => points.iter().map(|(_, value)| *value).collect(),
            Points::Bars(values) => values.clone(),
        }
    }
}

const WIDTH: f64 = 760.0;
/// Of the chart without its legend.
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Of a line of the legend.
const LEGEND_LINE: f64 = 22.0;

/// Okabe and Ito's blue, vermilion, green, purple, orange and sky blue.
const COLOURS: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #222 } .title { font-size: 16px; font-weight: 600 } \
                     .axis { stroke: #555 } .grid { stroke: #ccc } .page { fill: #fff } \
                     @media (prefers-color-scheme: dark) { text { fill: #eee } .axis { stroke: #aaa } \
                     .grid { stroke: #444 } .page { fill: #16181d } }";

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let height = HEIGHT + LEGEND_LINE * self.series.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"{title}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"28\">{title}</text>\n",
            title = escaped(&self.title)
        );
        let values: Vec<f64> = self.series.iter().flat_map(Series::values).collect();
        let y = self.y.range(values.iter().copied());
        self.vertical_axis(&mut svg, &y);
        match &self.x.scale {
            Scale::Names(names) => self.bars(&mut svg, names, &y),
            Scale::Linear | Scale::Logarithmic => self.lines(&mut svg, &y),
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let label = escaped(&self.x.label);
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", HEIGHT - 16.0);
        for (index, series) in self.series.iter().enumerate() {
            let line = HEIGHT + LEGEND_LINE * index as f64 + 6.0;
            let shape = match series.points {
                Points::Line(_) => index % 4,
                Points::Bars(_) => SQUARE,
            };
            mark(&mut svg, shape, COLOURS[index % COLOURS.len()], LEFT + 6.0, line - 4.0);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{line}\">{}</text>", LEFT + 20.0, escaped(&series.name));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn vertical_axis(&self, svg: &mut String, range: &Range) {
        for &tick in &range.ticks {
            let y = height_of(range, tick);
            let (end, text) = (WIDTH - RIGHT, LEFT - 8.0);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let _ = writeln!(svg, "<text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 4.0, plain(tick));
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = writeln!(
            svg,
            "<text transform=\"translate(18 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(&self.y.label)
        );
        let (floor, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let _ = writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{floor}\" y2=\"{floor}\"/>");
    }

    fn lines(&self, svg: &mut String, y: &Range) {
        let lines = self.series.iter().map(|series| match &series.points {
            Points::Line(points) => points.as_slice(),
            Points::Bars(_) => &[],
        });
        let range = self.x.range(lines.clone().flatten().map(|(value, _)| *value).collect::<Vec<_>>().into_iter());
        let place = |value: f64| LEFT + 20.0 + range.place(value) * (WIDTH - RIGHT - LEFT - 40.0);
        for &tick in &range.ticks {
            let (x, line) = (place(tick), HEIGHT - BOTTOM + 20.0);
            let name = if tick >= 1.0 && tick.fract() == 0.0 { count(tick as usize) } else { plain(tick) };
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{line}\" text-anchor=\"middle\">{name}</text>");
        }
        for (index, points) in lines.enumerate() {
            let places: Vec<_> = points.iter().map(|(x, value)| (place(*x), height_of(y, *value))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let colour = COLOURS[index % COLOURS.len()];
            let path = path.join(" ");
            let _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
            places.into_iter().for_each(|(x, y)| mark(svg, index % 4, colour, x, y));
        }
    }

    fn bars(&self, svg: &mut String, names: &[String], y: &Range) {
        let group = (WIDTH - RIGHT - LEFT) / names.len().max(1) as f64;
        let bar = group * 0.8 / self.series.len().max(1) as f64;
        for (position, name) in names.iter().enumerate() {
            let start = LEFT + group * position as f64;
            let (middle, line) = (start + group / 2.0, HEIGHT - BOTTOM + 20.0);
            let _ =
                writeln!(svg, "<text x=\"{middle:.1}\" y=\"{line}\" text-anchor=\"middle\">{}</text>", escaped(name));
            for (index, series) in self.series.iter().enumerate() {
                let Some(&value) = series.values().get(position) else { continue };
                let (x, top) = (start + group * 0.1 + bar * index as f64, height_of(y, value));
                let (height, colour) = (HEIGHT - BOTTOM - top, COLOURS[index % COLOURS.len()]);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                    bar - 2.0
                );
                let (middle, above, value) = (x + bar / 2.0 - 1.0, top - 4.0, number(value));
                let _ = writeln!(svg, "<text x=\"{middle:.1}\" y=\"{above:.1}\" text-anchor=\"middle\">{value}</text>");
            }
        }
    }
}

/// Where a value lies from the top.
fn height_of(range: &Range, value: f64) -> f64 {
    HEIGHT - BOTTOM - range.place(value) * (HEIGHT - BOTTOM - TOP)
}

/// A number on an axis, without digits that say nothing.
fn plain(tick: f64) -> String {
    let text = format!("{tick:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The sign of bars.
const SQUARE: usize = 1;

/// A series's sign: a circle, a square, a triangle or a diamond.
fn mark(svg: &mut String, shape: usize, colour: &str, x: f64, y: f64) {
    let _ = match shape {
        0 => writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>"),
        SQUARE => writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>",
            x - 4.5,
            y - 4.5
        ),
        2 => writeln!(svg, "<path d=\"M{x:.1} {:.1}l6 10h-12z\" fill=\"{colour}\"/>", y - 6.0),
        _ => writeln!(svg, "<path d=\"M{x:.1} {:.1}l6 6-6 6-6-6z\" fill=\"{colour}\"/>", y - 6.0),
    };
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_values() {
        let chart = Chart {
            file: "f".into(),
            title: "A & B".into(),
            x: Axis::names("gradients", vec!["1".into(), "2".into()]),
            y: Axis::linear("GB/s"),
            series: vec![Series::bars("mean <of>", vec![5.0, 10.0])],
        };
        let svg = chart.svg();
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect x=") && line.contains("width=\"26") || line.contains("width=\"266"))
            .filter_map(|line| line.split("height=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(heights.len(), 2, "{svg}");
        assert!((heights[1] / heights[0] - 2.0).abs() < 0.01, "{heights:?}");
        assert!(svg.contains("A &amp; B") && svg.contains("mean &lt;of&gt;") && svg.contains(">GB/s<"));
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let chart = Chart {
            file: "f".into(),
            title: "t".into(),
            x: Axis::logarithmic("parameters"),
            y: Axis::linear("ns"),
            series: vec![Series::line(("one".into(), vec![(16384.0, 1.0), (65536.0, 2.0)]))],
        };
        let svg = chart.svg();
        assert!(svg.contains("points=\"90.0,195.0 720.0,50.0\""), "{svg}");
        assert!(svg.contains(">16 Ki<") && svg.contains(">64 Ki<"));
    }
}
