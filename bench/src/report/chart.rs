//! Line charts as SVG, written by hand: five elements and a style sheet are all that is needed, and a
//! chart that takes its colours from the page is right in light and in dark.
//!
//! Axes are linear, logarithmic, or the *tail* of a distribution, where 90 %, 99 %, 99.9 % are equally far
//! apart: that is where latencies differ.

use std::fmt::Write;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From the first value to the second.
    Linear,
    /// Powers of ten.
    Log,
    /// Quantiles, 0 to 1.
    Tail,
}

/// An axis.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    /// A value as text.
    pub(super) text: fn(f64) -> String,
    /// The axis has 0 on it.
    pub(super) from_zero: bool,
}

/// A line.
pub(super) struct Line {
    pub(super) name: String,
    /// The same for the same thing in every chart of a page.
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
    /// The area below it is filled.
    pub(super) filled: bool,
    /// Values hold from one point to the next: counts of slices.
    pub(super) steps: bool,
}

/// A chart.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 38.0;
/// Colours of the style sheet; further lines take them again.
pub(super) const COLOURS: usize = 8;

/// An axis with its range.
struct Span {
    axis: Axis,
    low: f64,
    high: f64,
    /// Of the drawing.
    from: f64,
    to: f64,
}

impl Span {
    fn new(axis: Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Span {
        let shown = values.map(|value| place(axis.scale, value)).filter(|value| value.is_finite());
        let (mut low, mut high) =
            shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if !low.is_finite() {
            (low, high) = (0.0, 1.0);
        }
        if axis.scale == Scale::Linear && axis.from_zero {
            low = low.min(0.0);
            high *= 1.08;
        }
        if axis.scale == Scale::Log {
            // Some room, so that lines do not lie on the frame.
            (low, high) = (low - 0.1, high + 0.1);
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        Span { axis, low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (place(self.axis.scale, value) - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values that are marked.
    fn ticks(&self) -> Vec<f64> {
        match self.axis.scale {
            Scale::Linear => {
                let step = nice((self.high - self.low) / 5.0);
                let first = (self.low / step).ceil() as i64;
                (first..=(self.high / step).floor() as i64).map(|n| n as f64 * step).collect()
            }
            Scale::Log => {
                let mantissas: &[f64] = if self.high - self.low < 1.6 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let decades = self.low.floor() as i32..=self.high.ceil() as i32;
                let all = decades.flat_map(|n| mantissas.iter().map(move |m| m * 10f64.powi(n)));
                all.filter(|value| (self.low..=self.high).contains(&value.log10())).collect()
            }
            Scale::Tail => [0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999]
                .into_iter()
                .filter(|&value| place(Scale::Tail, value) <= self.high + 1e-9)
                .collect(),
        }
    }
}

/// Where a value lies on a scale.
fn place(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.max(1e-9).log10(),
        // The slowest of all would lie at infinity.
        Scale::Tail => -(1.0 - value).max(1e-6).log10(),
    }
}

/// 1, 2 or 5 times a power of ten, not less than `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= step * 0.999).unwrap_or(power)
}

/// Text that stands in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    /// A figure with title, drawing and legend.
    pub(super) fn html(&self) -> String {
        let mut out = format!("<figure><figcaption>{}</figcaption>{}", escape(&self.title), self.svg());
        if self.lines.len() > 1 {
            out.push_str("<ul class=legend>");
            for line in &self.lines {
                let name = escape(&line.name);
                let _ = write!(out, "<li><i class=\"k{}\"></i>{name}</li>", line.colour % COLOURS);
            }
            out.push_str("</ul>");
        }
        out.push_str("</figure>\n");
        out
    }

    fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Span::new(self.x, points().map(|point| point.0), LEFT, width - RIGHT);
        let y = Span::new(self.y, points().map(|point| point.1), height - BOTTOM, TOP);
        let title = escape(&self.title);
        let mut out =
            format!("<svg viewBox=\"0 0 {width} {height}\" role=img aria-label=\"{title}\"><g class=grid>");
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = write!(out, "<path d=\"M{LEFT} {at:.1}H{:.1}\"/>", width - RIGHT);
        }
        out.push_str("</g><g class=tick>");
        for tick in y.ticks() {
            let text = (self.y.text)(tick);
            let _ =
                write!(out, "<text x=\"{}\" y=\"{:.1}\" class=e>{text}</text>", LEFT - 8.0, y.at(tick) + 4.0);
        }
        let mut last = f64::NEG_INFINITY;
        for tick in x.ticks() {
            // Labels that would touch are left out.
            if x.at(tick) - last < 44.0 {
                continue;
            }
            last = x.at(tick);
            let (at, text) = (x.at(tick), (self.x.text)(tick));
            let class = if at > width - 40.0 { "e" } else { "m" };
            let at = if class == "e" { width - RIGHT } else { at };
            let base = height - BOTTOM + 16.0;
            let _ = write!(out, "<text x=\"{at:.1}\" y=\"{base:.1}\" class={class}>{text}</text>");
        }
        let middle = (LEFT + width - RIGHT) / 2.0;
        let label = self.x.label;
        let _ = write!(out, "<text x=\"{middle:.1}\" y=\"{:.1}\" class=m>{label}</text></g>", height - 4.0);
        let _ = write!(out, "<path class=base d=\"M{LEFT} {0:.1}H{1:.1}\"/>", height - BOTTOM, width - RIGHT);
        for line in &self.lines {
            self.draw(&mut out, line, line.colour % COLOURS, &x, &y);
        }
        out.push_str("</svg>");
        out
    }

    fn draw(&self, out: &mut String, line: &Line, colour: usize, x: &Span, y: &Span) {
        if line.points.is_empty() {
            return;
        }
        let mut path = String::new();
        for (index, &(at_x, at_y)) in line.points.iter().enumerate() {
            let (px, py) = (x.at(at_x), y.at(at_y));
            let _ = match (index, line.steps) {
                (0, _) => write!(path, "M{px:.1} {py:.1}"),
                (_, true) => write!(path, "H{px:.1}V{py:.1}"),
                (_, false) => write!(path, "L{px:.1} {py:.1}"),
            };
        }
        let (first, last) = (x.at(line.points[0].0), x.at(line.points[line.points.len() - 1].0));
        if line.filled {
            let base = self.height - BOTTOM;
            let _ = write!(out, "<path class=\"a{colour}\" d=\"{path}L{last:.1} {base:.1}H{first:.1}Z\"/>");
        }
        let _ = write!(out, "<path class=\"l{colour}\" d=\"{path}\"/>");
        // Wide and invisible, so that a pointer finds a line and the browser says what it is.
        let name = escape(&line.name);
        let axis = escape(self.y.label);
        let _ = write!(out, "<path class=hit d=\"{path}\"><title>{name}, {axis}</title></path>");
        for &(at_x, at_y) in line.points.iter().filter(|_| line.points.len() <= 60 && !line.steps) {
            let (px, py) = (x.at(at_x), y.at(at_y));
            let text = escape(&format!("{name}: {} at {}", (self.y.text)(at_y), (self.x.text)(at_x)));
            let _ = write!(
                out,
                "<circle class=\"p{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=3><title>{text}</title></circle>"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "x", scale, text: |value| format!("{value}"), from_zero: scale == Scale::Linear }
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let span = |scale, low, high| Span::new(axis(scale), [low, high].into_iter(), 0.0, 100.0);
        assert_eq!(span(Scale::Linear, 0.0, 9.0).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(span(Scale::Log, 1e3, 1e6).ticks(), [1e3, 1e4, 1e5, 1e6]);
        assert_eq!(span(Scale::Tail, 0.0, 0.9995).ticks(), [0.0, 0.9, 0.99, 0.999]);
        assert!((span(Scale::Tail, 0.0, 1.0).at(0.999) - 50.0).abs() < 1e-6);
        assert_eq!(nice(0.013), 0.02);
    }

    #[test]
    fn nothing_to_draw_and_hostile_names_are_still_a_chart() {
        let line = Line {
            name: "<b>".to_owned(),
            colour: 8,
            points: vec![(f64::NAN, 1.0)],
            filled: true,
            steps: false,
        };
        let empty = Line { name: String::new(), colour: 1, points: Vec::new(), filled: false, steps: true };
        let chart = Chart {
            title: "a & b".to_owned(),
            x: axis(Scale::Tail),
            y: axis(Scale::Log),
            lines: vec![line, empty],
            width: 300.0,
            height: 200.0,
        };
        let html = chart.html();
        assert!(html.contains("&lt;b&gt;") && html.contains("a &amp; b") && !html.contains("<b>"), "{html}");
        assert!(html.ends_with("</figure>\n"));
    }
}
