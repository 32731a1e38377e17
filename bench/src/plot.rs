//! Series as small charts in one SVG that shows in light and dark.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 96.0;
const STYLE: &str = "text{font:11px sans-serif;fill:#444}.v{fill:none;stroke:#2563eb;stroke-width:1}.m{stroke:#dc2626;stroke-width:1.5}\
.o{stroke:#16a34a;stroke-width:1.5;stroke-dasharray:3 3}@media(prefers-color-scheme:dark){text{fill:#ccc}.v{stroke:#7aa2ff}.m{stroke:#ff7b7b}}";

/// A chart for each series: its values, the changes that Weir found (whole lines, upper half), and those that Apache Otava found
/// (broken lines, lower half).
pub fn page(names: &[&str], series: &[Vec<f64>], ours: &[Vec<usize>], theirs: &[Vec<usize>]) -> String {
    let height = (HEIGHT + 24.0) * series.len() as f64 + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\"><style>{STYLE}</style>\n\
         <text x=\"0\" y=\"14\">Changes found: whole lines (upper half) by weir, broken lines (lower half) by Apache Otava</text>\n"
    );
    for (at, values) in series.iter().enumerate() {
        let top = 24.0 + (HEIGHT + 24.0) * at as f64;
        let _ = writeln!(out, "<g transform=\"translate(0 {top})\"><text x=\"0\" y=\"12\">{}</text>", names[at]);
        chart(&mut out, values, &ours[at], &theirs[at]);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn chart(out: &mut String, values: &[f64], ours: &[usize], theirs: &[usize]) {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    let x = |index: usize| index as f64 * WIDTH / values.len().max(2) as f64;
    let y = |value: f64| 16.0 + HEIGHT - (value - low) / (high - low).max(f64::MIN_POSITIVE) * HEIGHT;
    let points: Vec<String> =
        values.iter().enumerate().map(|(index, value)| format!("{:.0},{:.0}", x(index), y(*value))).collect();
    let _ = writeln!(out, "<polyline class=\"v\" points=\"{}\"/>", points.join(" "));
    for (class, changes, from, to) in [("m", ours, 16.0, 64.0), ("o", theirs, 64.0, 112.0)] {
        for index in changes {
            let at = x(*index);
            let _ = writeln!(out, "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{from}\" y2=\"{to}\"/>");
        }
    }
}
