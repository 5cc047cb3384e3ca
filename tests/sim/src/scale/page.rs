//! The figures of `docs/scale.md`: measured, drawn and written into the page between two marks.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::cluster::{Seen, grow};
use super::gossip::{Cost, heard_per_s, in_per_report_max, in_per_s_max, measure};

/// Sizes of the simulated clusters, and of those in which real gossip is measured.
const SIMULATED: [usize; 5] = [5, 20, 100, 300, 1000];
const MEASURED: [usize; 6] = [3, 5, 10, 20, 35, 50];
/// Duration of each measurement.
const MEASURE_TIME: Duration = Duration::from_secs(15);
/// Bytes of the measured reports: more than those of simulated nodes, whose names and addresses are short and
/// which copy little.
const REPORT_BYTES: u64 = 512;
/// First line before the figures on the page, and first line after them.
const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Width and height of the drawing, and of the room around the curve.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Numbers of nodes at the left and the right end.
const NODES_MIN: f64 = 2.0;
const NODES_MAX: f64 = 1200.0;

/// Measures everything, and writes page and curve into the folder of the documents.
///
/// # Errors
/// A measurement fails, or the page cannot be read or written.
pub fn write(docs: &Path) -> anyhow::Result<()> {
    let path = docs.join("scale.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, rest) = page.split_once(BEGIN).context("the page has no mark where the figures begin")?;
    let (_, tail) = rest.split_once(END).context("the page has no mark where the figures end")?;
    let mut clusters = Vec::new();
    for nodes in SIMULATED {
        clusters.push(apart(move || grow(nodes))?);
    }
    let mut costs = Vec::new();
    for nodes in MEASURED {
        costs.push(apart(move || measure(nodes, REPORT_BYTES as usize, MEASURE_TIME))?);
    }
    let tables = tables(&clusters, &costs);
    std::fs::write(&path, format!("{head}{BEGIN}\n{tables}{END}{tail}"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let image = docs.join("images").join("gossip.svg");
    std::fs::write(&image, curve(&clusters, &costs))
        .with_context(|| format!("cannot write {}", image.display()))
}

/// Runs a measurement on a thread of its own, as every simulation does.
fn apart<T: Send + 'static>(f: impl FnOnce() -> Result<T, String> + Send + 'static) -> anyhow::Result<T> {
    let result = std::thread::spawn(f).join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?;
    result.map_err(anyhow::Error::msg)
}

fn tables(clusters: &[Seen], costs: &[Cost]) -> String {
    let mut text = String::from(
        "\n| nodes | ring, ms | join committed, ms | it serves, ms | its copies made, ms | copies moved | reports heard a \
         second | most in one second | bytes of a report |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for seen in clusters {
        let ms = |time: Duration| time.as_millis();
        let _ = writeln!(
            text,
            "| {} | {:.1} | {} | {} | {} | {} | {:.1} | {} | {:.0} |",
            seen.nodes,
            seen.ring.as_secs_f64() * 1000.0,
            ms(seen.committed),
            ms(seen.serving),
            ms(seen.complete),
            seen.copies_moved,
            seen.heard_per_s,
            seen.most_in_a_second,
            seen.report_bytes,
        );
    }
    text.push_str(
        "\n| nodes | reports heard a second | KiB received a second | KiB sent a second | bytes received for a report \
         heard | bound |\n|---|---|---|---|---|---|\n",
    );
    let bound = in_per_report_max(REPORT_BYTES);
    for cost in costs {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {bound} |",
            cost.nodes,
            cost.heard_per_s,
            cost.in_per_s / 1024.0,
            cost.out_per_s / 1024.0,
            cost.in_per_report,
        );
    }
    let _ = writeln!(
        text,
        "\nBound for any size, with reports of {REPORT_BYTES} bytes: {} KiB a second.",
        in_per_s_max(REPORT_BYTES).div_ceil(1024)
    );
    text
}

/// Scale of the drawing.
struct Scale {
    most: f64,
}

impl Scale {
    fn x(&self, nodes: f64) -> f64 {
        let part = (nodes / NODES_MIN).ln() / (NODES_MAX / NODES_MIN).ln();
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, bytes: f64) -> f64 {
        HEIGHT - BOTTOM - (bytes / self.most).min(1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn line(&self, of: impl Fn(u64) -> f64, style: &str) -> String {
        let mut nodes: Vec<u64> = (2..100).chain((100..=1000).step_by(20)).collect();
        // A curve ends where it leaves the drawing.
        nodes.retain(|nodes| of(*nodes) <= self.most);
        let points: Vec<String> =
            nodes.iter().map(|n| format!("{:.1},{:.1}", self.x(*n as f64), self.y(of(*n)))).collect();
        format!("<polyline fill=\"none\" {style} points=\"{}\"/>\n", points.join(" "))
    }
}

fn curve(clusters: &[Seen], costs: &[Cost]) -> String {
    let bound = in_per_report_max(REPORT_BYTES) as f64;
    let typical = costs.iter().map(|cost| cost.in_per_report).fold(0.0, f64::max);
    let scale = Scale { most: (in_per_s_max(REPORT_BYTES) as f64 * 1.15 / 51_200.0).ceil() * 51_200.0 };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"18\" \
         font-size=\"14\">Gossip received by one node, KiB a second</text>\n"
    );
    axes(&mut svg, &scale);
    svg += &scale.line(|n| heard_per_s(n) * bound, "stroke=\"#b33\" stroke-width=\"2\"");
    svg += &scale.line(|n| heard_per_s(n) * typical, "stroke=\"#27c\" stroke-width=\"2\"");
    let every_second = |n: u64| n.saturating_sub(1) as f64 * typical;
    svg += &scale.line(every_second, "stroke=\"#999\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\"");
    for cost in costs {
        let (x, y) = (scale.x(cost.nodes as f64), scale.y(cost.in_per_s));
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#27c\"/>");
    }
    for seen in clusters {
        let (x, y) = (scale.x(seen.nodes as f64) - 4.0, scale.y(seen.heard_per_s * typical) - 4.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"8\" height=\"8\" fill=\"none\" stroke=\"#262\" stroke-width=\"2\"/>"
        );
    }
    let legend = [
        ("#b33", "bound"),
        ("#27c", "dots: real gossipsub, all bytes; line: the highest cost of a report"),
        ("#262", "squares: reports that simulated nodes heard, at that cost"),
        ("#777", "dashed: if every node reported every second"),
    ];
    for (i, (colour, text)) in legend.iter().enumerate() {
        let y = TOP + 20.0 + 16.0 * i as f64;
        let _ = writeln!(svg, "<text x=\"80\" y=\"{y}\" fill=\"{colour}\">{text}</text>");
    }
    svg + "</svg>\n"
}

fn axes(svg: &mut String, scale: &Scale) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for kib in (0..=(scale.most / 1024.0) as u64).step_by(100) {
        let y = scale.y(kib as f64 * 1024.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{kib}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    for nodes in [2, 5, 10, 20, 50, 100, 200, 500, 1000] {
        let x = scale.x(f64::from(nodes));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#333\"/><text x=\"{x:.1}\" y=\"{}\" \
             text-anchor=\"middle\">{nodes}</text>",
            bottom + 19.0
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#333\"/><text x=\"{}\" y=\"{}\" \
         text-anchor=\"middle\">nodes (logarithmic)</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 10.0
    );
}
