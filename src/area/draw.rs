//! The picture of a plan: who lies where in the compute area, and when. Time runs to the right, bytes upwards.
//!
//! Layers repeat each other, so the picture shows what comes before them, the first layer, and what comes after.
#![forbid(unsafe_code)]

use super::plan::{Entry, Plan};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

const LEFT: f64 = 92.0;
const TOP: f64 = 86.0;
const PLOT_WIDTH: f64 = 840.0;
const PLOT_HEIGHT: f64 = 440.0;
const LEGEND_WIDTH: f64 = 258.0;
const LEGEND_ROW: f64 = 24.0;
/// Width of the place where layers are left out.
const CUT_WIDTH: f64 = 34.0;

/// Told apart by hue and by lightness (Tol's muted and light schemes).
const COLOURS: [&str; 16] = [
    "#88ccee", "#ddcc77", "#cc6677", "#44aa99", "#aa99cc", "#ee8866", "#99bb55", "#ffaabb",
    "#77aadd", "#c0b0a0", "#bbcc33", "#cc99bb", "#eedd88", "#66aa66", "#9fb4c7", "#d98c5f",
];

const STYLE: &str = "text{font-family:'Inter','Helvetica Neue','DejaVu Sans',sans-serif;\
    font-size:13px;fill:#1f2933}.title{font-size:19px;font-weight:600}.dim{fill:#66737f}\
    .small{font-size:11.5px}.phase{font-size:12.5px;font-weight:600}";

impl Plan {
    /// Draws the plan as an SVG document.
    ///
    /// Needs [`Phase`](super::Phase)s to find the layers; without a repeated phase the whole pass is drawn.
    pub fn svg(&self, title: &str) -> String {
        let time = TimeAxis::of(self);
        let legend = self.legend(&time);
        let body = TOP + PLOT_HEIGHT + 70.0;
        let height = body.max(TOP + legend.len() as f64 * LEGEND_ROW + 30.0);
        let width = LEFT + PLOT_WIDTH + LEGEND_WIDTH;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        self.draw_head(&mut svg, title);
        self.draw_phases(&mut svg, &time);
        self.draw_scale(&mut svg);
        self.draw_entries(&mut svg, &time, &legend);
        draw_cut(&mut svg, &time);
        self.draw_bounds(&mut svg);
        draw_legend(&mut svg, &legend);
        svg.push_str("</svg>\n");
        svg
    }

    /// Names that are to be seen, each with its largest size and its colour; the largest first.
    fn legend(&self, time: &TimeAxis) -> Vec<(&'static str, u64, &'static str)> {
        let mut largest = BTreeMap::new();
        for entry in self.entries().iter().filter(|entry| time.shows(entry)) {
            let bytes = largest.entry(entry.name).or_insert(0);
            *bytes = entry.bytes.max(*bytes);
        }
        let mut names: Vec<_> = largest.into_iter().collect();
        names.sort_by_key(|&(name, bytes)| (std::cmp::Reverse(bytes), name));
        let colours = COLOURS.iter().cycle();
        names
            .into_iter()
            .zip(colours)
            .map(|((name, bytes), colour)| (name, bytes, *colour))
            .collect()
    }

    fn draw_head(&self, svg: &mut String, title: &str) {
        text(svg, LEFT, 34.0, "class=\"title\"", title);
        let (total, bound) = (self.total_bytes(), self.lower_bound());
        let distance = match total - bound {
            0 => "as small as can be".to_string(),
            more => format!("{} above it", size(more)),
        };
        let line = format!(
            "compute area {} · most bytes alive at one time {} ({distance}) · {} requests",
            size(total),
            size(bound),
            self.entries().len()
        );
        text(svg, LEFT, 58.0, "class=\"dim\"", &line);
    }

    /// Bands with the phases' names below.
    fn draw_phases(&self, svg: &mut String, time: &TimeAxis) {
        let end = time.end;
        let ends = self.phases().iter().skip(1).map(|phase| phase.begin).chain([end]);
        let shown = self.phases().iter().zip(ends).filter_map(|(phase, end)| {
            let (left, right) = time.span(phase.begin, end.checked_sub(1)?)?;
            (right > left).then_some((phase.name, left, right))
        });
        for (index, (name, left, right)) in shown.enumerate() {
            let fill = if index % 2 == 0 { "#f3f5f7" } else { "#e8ecf0" };
            rect(svg, left, TOP, right - left, PLOT_HEIGHT, &format!("fill=\"{fill}\""));
            let fits = right - left > 7.5 * name.chars().count() as f64;
            let lower = if fits { 20.0 } else { 20.0 + 15.0 * (index % 2) as f64 };
            let y = TOP + PLOT_HEIGHT + lower;
            text(svg, (left + right) / 2.0, y, "class=\"phase\" text-anchor=\"middle\"", name);
        }
    }

    /// Four to eight lines at round numbers of bytes.
    fn draw_scale(&self, svg: &mut String) {
        let total = self.total_bytes();
        let mut step = 1u64;
        while total / step > 8 {
            step = step.saturating_mul(2);
        }
        for bytes in (0..=total).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let y = self.y(bytes);
            line(svg, (LEFT, y), (LEFT + PLOT_WIDTH, y), "stroke=\"#d3dae0\"");
            text(
                svg,
                LEFT - 10.0,
                y + 4.0,
                "class=\"dim small\" text-anchor=\"end\"",
                &size(bytes),
            );
        }
    }

    fn draw_entries(
        &self,
        svg: &mut String,
        time: &TimeAxis,
        legend: &[(&'static str, u64, &'static str)],
    ) {
        for entry in self.entries().iter().filter(|entry| entry.bytes > 0) {
            let Some((left, right)) = time.span(entry.begin, entry.end) else { continue };
            let (top, bottom) = (self.y(entry.offset + entry.bytes), self.y(entry.offset));
            let colour = legend.iter().find(|row| row.0 == entry.name).map_or("#ccc", |row| row.2);
            let (width, height) = (right - left, (bottom - top).max(0.75));
            let _ = writeln!(
                svg,
                "<g><title>{}: {}, bytes {} to {}</title>",
                escaped(entry.name),
                size(entry.bytes),
                entry.offset,
                entry.offset + entry.bytes
            );
            let edge = match height > 4.0 {
                true => " rx=\"2\" stroke=\"#ffffff\" stroke-width=\"0.8\"",
                false => "",
            };
            let style = format!("fill=\"{colour}\"{edge}");
            rect(svg, left, top, width, height, &style);
            draw_label(svg, entry, (left + right) / 2.0, (top + bottom) / 2.0, width, height);
            svg.push_str("</g>\n");
        }
    }

    /// The end of the area, and the most bytes that live at one time.
    fn draw_bounds(&self, svg: &mut String) {
        let bound = self.y(self.lower_bound());
        let end = self.y(self.total_bytes());
        let right = LEFT + PLOT_WIDTH;
        line(svg, (LEFT, end), (right, end), "stroke=\"#1f2933\" stroke-width=\"1.5\"");
        let dashed = "stroke=\"#b3261e\" stroke-width=\"1.5\" stroke-dasharray=\"7 5\"";
        line(svg, (LEFT, bound), (right, bound), dashed);
        let floor = TOP + PLOT_HEIGHT;
        line(svg, (LEFT, floor), (right, floor), "stroke=\"#1f2933\" stroke-width=\"1.5\"");
        let of_time = "class=\"dim small\" text-anchor=\"end\"";
        text(svg, right, floor + 50.0, of_time, "time, in requests and returns \u{2192}");
    }

    fn y(&self, bytes: u64) -> f64 {
        TOP + PLOT_HEIGHT * (1.0 - bytes as f64 / self.total_bytes().max(1) as f64)
    }
}

/// Which times are shown, and where.
struct TimeAxis {
    /// The first part, and what comes after the layers that are left out.
    parts: [Range<u32>; 2],
    n_left_out: usize,
    end: u32,
}

impl TimeAxis {
    /// Leaves out all layers but the first: the phases between the first repetition of a name and the last end of
    /// the repeated group.
    fn of(plan: &Plan) -> TimeAxis {
        let end = plan.entries().iter().map(|e| e.end.max(e.begin) + 1).max().unwrap_or(0);
        let phases = plan.phases();
        let repeats = |i: usize, j: usize| phases[i].name == phases[j].name;
        let first = (0..phases.len())
            .find_map(|i| (i + 1..phases.len()).find(|&j| repeats(i, j)).map(|j| (i, j)));
        let whole = TimeAxis { parts: [0..end, end..end], n_left_out: 0, end };
        let Some((first, second)) = first else { return whole };
        let period = second - first;
        let mut behind = second;
        while behind < phases.len() && repeats(behind, behind - period) {
            behind += 1;
        }
        let n_left_out = (behind - second) / period;
        let behind = phases.get(second + n_left_out * period).map_or(end, |phase| phase.begin);
        TimeAxis { parts: [0..phases[second].begin, behind..end], n_left_out, end }
    }

    /// Where the layers that are left out would be, and how many they are.
    fn cut(&self) -> Option<(f64, usize)> {
        (self.n_left_out > 0).then(|| (self.x(self.parts[0].end), self.n_left_out))
    }

    /// Left and right of what lives from `begin` to `end`, both included; `None` when it is left out.
    fn span(&self, begin: u32, end: u32) -> Option<(f64, f64)> {
        let inside = self.parts.iter().filter(|part| begin < part.end && part.start <= end);
        let (mut left, mut right) = (None, 0.0);
        for part in inside {
            left = left.or(Some(self.x(begin.max(part.start))));
            right = self.x_of_end(end.saturating_add(1).min(part.end));
        }
        left.map(|left| (left, right))
    }

    fn shows(&self, entry: &Entry) -> bool {
        entry.bytes > 0 && self.span(entry.begin, entry.end).is_some()
    }

    /// Where `time` begins.
    fn x(&self, time: u32) -> f64 {
        let is_behind = self.n_left_out > 0 && time >= self.parts[1].start;
        let gap = if is_behind { CUT_WIDTH } else { 0.0 };
        LEFT + gap + self.n_before(time) as f64 * self.unit()
    }

    /// Where what lives up to `time` ends.
    fn x_of_end(&self, time: u32) -> f64 {
        if time == self.parts[0].end { LEFT + f64::from(time) * self.unit() } else { self.x(time) }
    }

    /// Shown units of time before `time`.
    fn n_before(&self, time: u32) -> u32 {
        let before = |part: &Range<u32>| time.clamp(part.start, part.end) - part.start;
        self.parts.iter().map(before).sum()
    }

    fn unit(&self) -> f64 {
        let gap = if self.n_left_out > 0 { CUT_WIDTH } else { 0.0 };
        (PLOT_WIDTH - gap) / f64::from(self.n_before(self.end).max(1))
    }
}

/// Pales the place where layers are left out and tells how many.
fn draw_cut(svg: &mut String, time: &TimeAxis) {
    let Some((left, n_layers)) = time.cut() else { return };
    rect(svg, left, TOP, CUT_WIDTH, PLOT_HEIGHT, "fill=\"#ffffff\" fill-opacity=\"0.72\"");
    let (x, y) = (left + CUT_WIDTH / 2.0 + 4.0, TOP + PLOT_HEIGHT / 2.0);
    let turned =
        format!("class=\"small\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\"");
    let layers = if n_layers == 1 { "layer" } else { "layers" };
    text(svg, x, y, &turned, &format!("{n_layers} more {layers} like this one"));
}

/// Name and size inside a region's rectangle, as far as they fit.
fn draw_label(svg: &mut String, entry: &Entry, x: f64, y: f64, width: f64, height: f64) {
    let fits = |text: &str| width > 7.2 * text.chars().count() as f64 + 6.0;
    let both = format!("{} {}", entry.name, size(entry.bytes));
    let label = if fits(&both) { &both } else { entry.name };
    if height >= 13.0 && fits(label) {
        text(svg, x, y + 4.0, "class=\"small\" text-anchor=\"middle\"", label);
    } else if width >= 14.0 && height > 7.2 * entry.name.chars().count() as f64 + 6.0 {
        let x = x + 4.0;
        let turned =
            format!("class=\"small\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\"");
        text(svg, x, y, &turned, entry.name);
    }
}

fn draw_legend(svg: &mut String, legend: &[(&'static str, u64, &'static str)]) {
    let left = LEFT + PLOT_WIDTH + 26.0;
    let right = LEFT + PLOT_WIDTH + LEGEND_WIDTH - 24.0;
    for (index, (name, bytes, colour)) in legend.iter().enumerate() {
        let y = TOP + index as f64 * LEGEND_ROW;
        rect(svg, left, y, 15.0, 15.0, &format!("rx=\"2\" fill=\"{colour}\""));
        text(svg, left + 24.0, y + 12.0, "", name);
        text(svg, right, y + 12.0, "class=\"dim\" text-anchor=\"end\"", &size(*bytes));
    }
    let y = TOP + legend.len() as f64 * LEGEND_ROW + 8.0;
    let dashed = "stroke=\"#b3261e\" stroke-width=\"1.5\" stroke-dasharray=\"7 5\"";
    line(svg, (left, y), (left + 15.0, y), dashed);
    text(svg, left + 24.0, y + 4.0, "class=\"dim small\"", "most bytes alive at one time");
}

fn rect(svg: &mut String, x: f64, y: f64, width: f64, height: f64, style: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" {style}/>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.2}\" y1=\"{:.2}\" x2=\"{:.2}\" y2=\"{:.2}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.2}\" y=\"{y:.2}\" {style}>{}</text>", escaped(text));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Bytes in the unit that keeps the number below 1024.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value.fract() == 0.0 => format!("{value:.0} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}
