//! A table as a bar chart in SVG: medians as bars, the range as a whisker, the aim as a dashed mark. Pure.

use std::fmt::Write as _;

use super::report::{Figure, Kind, Row, Table};

const WIDTH: f64 = 860.0;
/// For the names on the left, by their characters, and for the figure behind a bar.
const CHARACTER: f64 = 6.8;
const NARROWEST: f64 = 200.0;
const WIDEST: f64 = 470.0;
const FIGURE: f64 = 120.0;
const TOP: f64 = 52.0;
const STEP: f64 = 30.0;
const BAR: f64 = 18.0;

/// Where bars begin, and how long one of 1 is.
#[derive(Clone, Copy)]
struct Scale {
    left: f64,
    one: f64,
}

impl Scale {
    fn of(table: &Table) -> Option<Self> {
        let highest = highest(table).filter(|highest| *highest > 0.0)?;
        let longest = table.rows.iter().map(|row| row.name.chars().count()).max()? as f64;
        let left = (longest * CHARACTER + 26.0).clamp(NARROWEST, WIDEST);
        Some(Self { left, one: (WIDTH - left - FIGURE) / highest })
    }

    fn at(self, value: f64) -> f64 {
        self.left + value * self.one
    }
}

/// `None` if there is nothing to draw.
pub fn svg(table: &Table) -> Option<String> {
    let scale = Scale::of(table)?;
    let height = TOP + STEP * table.rows.len() as f64 + 14.0;
    let title = escaped(&format!("{}, {}", table.title.replace('`', ""), table.unit));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"16\" fill=\"#1b1f24\">{title}</text>\n"
    );
    for (index, row) in table.rows.iter().enumerate() {
        draw(&mut svg, table, row, TOP + STEP * index as f64, scale);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn highest(table: &Table) -> Option<f64> {
    let of_row = |row: &Row| match &row.figure {
        Figure::Measured { spread, verdict, .. } => {
            let aim = verdict.and_then(|verdict| table.allowed(verdict.aim)).unwrap_or(0.0);
            Some(spread.max.max(aim))
        }
        Figure::Missing(_) => None,
    };
    table.rows.iter().filter_map(of_row).max_by(f64::total_cmp)
}

fn draw(svg: &mut String, table: &Table, row: &Row, y: f64, scale: Scale) {
    let (middle, left, name) = (y + BAR / 2.0, scale.left, escaped(&row.name.replace('`', "")));
    let baseline = middle + 4.5;
    let mut line = |text: String| svg.push_str(&(text + "\n"));
    line(format!(
        "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\" fill=\"#1b1f24\">{name}</text>",
        left - 10.0
    ));
    let Figure::Measured { spread, ratio, verdict } = &row.figure else {
        line(format!("<text x=\"{left}\" y=\"{baseline}\" fill=\"#8c959f\">not available</text>"));
        return;
    };
    let colour = match row.kind {
        Kind::Reference => "#8c959f",
        Kind::Floor => "#c9d1d9",
        Kind::Ours => "#2f6feb",
    };
    line(format!(
        "<rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
        spread.median * scale.one
    ));
    line(format!(
        "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#1b1f24\" stroke-width=\"1.5\"/>",
        scale.at(spread.min),
        scale.at(spread.max)
    ));
    let aim = verdict.and_then(|verdict| Some((table.allowed(verdict.aim)?, verdict.kept)));
    if let Some((allowed, kept)) = aim {
        let colour = if kept { "#1a7f37" } else { "#cf222e" };
        line(format!(
            "<path d=\"M{:.1} {}V{}\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"4 2\"/>",
            scale.at(allowed),
            y - 4.0,
            y + BAR + 4.0
        ));
    }
    let mut words = format!("{:.*}", table.digits, spread.median);
    if let Some(ratio) = ratio {
        let _ = write!(words, " ({ratio:.2} ×)"); // Writing to a string does not fail.
    }
    let end = scale.at(spread.max.max(aim.map_or(0.0, |(allowed, _)| allowed)));
    line(format!("<text x=\"{:.1}\" y=\"{baseline}\" fill=\"#57606a\">{words}</text>", end + 8.0));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Aim;

    #[test]
    fn bars_are_to_scale_and_text_is_escaped() {
        let mut table = Table::new("start", "a <b> & \"c\"", "ms", 0);
        table.reference("runc", &[100.0]);
        table.ours("cold", &[400.0], Some(Aim::Ratio(2.0)));
        table.missing(Kind::Ours, "pool", "no");
        let svg = svg(&table).unwrap();
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;, ms"), "{svg}");
        // 400 ms take what names and figures leave: 860 - 200 - 120.
        assert!(svg.contains("width=\"135.0\"") && svg.contains("width=\"540.0\""), "{svg}");
        // The aim is at 200 ms, and was missed.
        assert!(svg.contains("M470.0") && svg.contains("#cf222e"), "{svg}");
        assert!(svg.contains("400 (4.00 ×)") && svg.contains("not available"), "{svg}");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn nothing_measured_is_no_chart() {
        let mut table = Table::new("start", "t", "ms", 0);
        table.missing(Kind::Ours, "pool", "no");
        assert_eq!(svg(&table), None);
    }
}
