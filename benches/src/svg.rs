//! Horizontal bar charts as SVG text. One group of bars per question, each on its own scale; the value stands behind
//! its bar, so that nothing overlaps however long a bar is. Colours follow the reader's light or dark theme.

use std::fmt::Write;

/// A chart.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Above everything.
    pub title: String,
    /// Below the title, smaller.
    pub subtitle: String,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// Bars that are compared with each other.
#[derive(Debug, Clone)]
pub struct Group {
    /// Above the bars.
    pub title: String,
    /// Where a line is drawn through the bars, such as at a ratio of 1.
    pub reference: Option<f64>,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One value.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Before the bar.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// What is written behind it.
    pub text: String,
    /// A range that is drawn as a thin line over its end.
    pub range: Option<(f64, f64)>,
    /// How it is coloured.
    pub role: Role,
}

/// How a bar is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What this is about.
    Subject,
    /// What others are compared with.
    Baseline,
    /// The rest.
    Other,
}

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 16.0;
const LABELS: f64 = 150.0;
/// Room for the text behind the longest bar.
const TEXTS: f64 = 90.0;
const ROW: f64 = 20.0;
const BAR: f64 = 13.0;
const GROUP_TITLE: f64 = 30.0;

const STYLE: &str = "\
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 17px; font-weight: 600; }
  .group { font-size: 13px; font-weight: 600; }
  .muted { fill: #57606a; }
  .subject { fill: #d9480f; } .baseline { fill: #868e96; } .other { fill: #4c8ed9; }
  .range { stroke: #24292f; stroke-width: 1.5; }
  .reference { stroke: #57606a; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .muted { fill: #9198a1; }
    .subject { fill: #ff8c42; } .baseline { fill: #7d858f; } .other { fill: #4c8ed9; }
    .range { stroke: #e6edf3; }
    .reference { stroke: #9198a1; }
  }
";

impl Chart {
    /// The whole file.
    pub fn to_svg(&self) -> String {
        let mut body = String::new();
        let mut y = MARGIN + 16.0;
        text(&mut body, MARGIN, y, "title", "start", &self.title);
        y += 20.0;
        text(&mut body, MARGIN, y, "muted", "start", &self.subtitle);
        y += 4.0;
        for group in &self.groups {
            y = group.draw(&mut body, y);
        }
        let height = y + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n<style>\n{STYLE}</style>\n{body}</svg>\n",
            escaped(&self.title)
        )
    }
}

impl Group {
    /// Draws below `top` and returns where it ends.
    fn draw(&self, out: &mut String, top: f64) -> f64 {
        text(out, MARGIN, top + GROUP_TITLE - 9.0, "group", "start", &self.title);
        let start = MARGIN + LABELS;
        let longest = self
            .bars
            .iter()
            .flat_map(|bar| [bar.value, bar.range.map_or(0.0, |(_, high)| high)])
            .chain(self.reference)
            .filter(|value| value.is_finite())
            .fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - MARGIN - TEXTS - start) / longest;
        let mut y = top + GROUP_TITLE;
        for bar in &self.bars {
            bar.draw(out, start, y, scale, self.reference);
            y += ROW;
        }
        if let Some(value) = self.reference {
            let x = start + value * scale;
            let (from, to) = (top + GROUP_TITLE, y - (ROW - BAR));
            line(out, "reference", [x, from, x, to]);
        }
        y
    }
}

impl Bar {
    fn draw(&self, out: &mut String, start: f64, y: f64, scale: f64, reference: Option<f64>) {
        let class = match self.role {
            Role::Subject => "subject",
            Role::Baseline => "baseline",
            Role::Other => "other",
        };
        text(out, start - 8.0, y + BAR - 2.0, "", "end", &self.label);
        let length = if self.value.is_finite() { (self.value * scale).max(0.0) } else { 0.0 };
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{start:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
        );
        let mut end = start + length;
        if let Some((low, high)) = self.range {
            let middle = y + BAR / 2.0;
            line(out, "range", [start + low * scale, middle, start + high * scale, middle]);
            end = end.max(start + high * scale);
        }
        // Behind the reference line too, which would cross the text of a slightly shorter bar.
        end = end.max(reference.map_or(0.0, |value| start + value * scale));
        text(out, end + 7.0, y + BAR - 2.0, "muted", "start", &self.text);
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(content)
    );
}

fn line(out: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_one_svg_element_with_escaped_text() {
        let bar = Bar {
            label: "a<b".to_owned(),
            value: 2.0,
            text: "2 & more".to_owned(),
            range: Some((1.5, 2.5)),
            role: Role::Subject,
        };
        let group = Group { title: "g".to_owned(), reference: Some(1.0), bars: vec![bar] };
        let svg = Chart { title: "t".to_owned(), subtitle: String::new(), groups: vec![group] }.to_svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a&lt;b") && svg.contains("2 &amp; more"));
        assert_eq!(svg.matches("<line").count(), 2);
    }

    #[test]
    fn texts_stay_inside_however_large_a_value_is() {
        let bar =
            |value| Bar { label: String::new(), value, text: "x".to_owned(), range: None, role: Role::Other };
        let group = Group { title: String::new(), reference: None, bars: vec![bar(1.0), bar(1e9)] };
        let mut out = String::new();
        group.draw(&mut out, 0.0);
        let limit = format!("x=\"{:.1}\"", WIDTH - MARGIN - TEXTS + 7.0);
        assert!(out.contains(&limit), "{out}");
    }
}
