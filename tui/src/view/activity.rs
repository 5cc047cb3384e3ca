//! Load over time: commands per second and latencies, as sparklines with the present value.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect, Spacing};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, SparklineBar, Widget};

use super::{panel, title};
use crate::model::{History, Model, Sample};
use crate::theme;
use crate::units;

/// One curve.
struct Curve {
    label: &'static str,
    /// Addition to the label in wide panels of the whole cluster.
    whose: &'static str,
    figure: fn(&Sample) -> f64,
    shown: fn(f64) -> String,
    color: Color,
}

const CURVES: [Curve; 4] = [
    Curve {
        label: "ops/s",
        whose: "",
        figure: |sample| sample.ops_per_s,
        shown: units::rate,
        color: theme::ACCENT,
    },
    Curve {
        label: "p50",
        whose: "",
        figure: |sample| sample.p50_us as f64,
        shown: latency,
        color: theme::BUSY,
    },
    Curve {
        label: "p99",
        whose: " worst node",
        figure: |sample| sample.p99_us as f64,
        shown: latency,
        color: Color::Indexed(179),
    },
    Curve {
        label: "client bytes/s",
        whose: "",
        figure: |sample| sample.bytes_in_per_s + sample.bytes_out_per_s,
        shown: units::bytes_per_s,
        color: Color::Indexed(140),
    },
];

fn latency(micros: f64) -> String {
    units::latency_us(micros as u64)
}

/// Draws the load of the whole cluster.
pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    curves("Load", true, &model.history, model.interval_ms, area, buf);
}

/// Draws the curves of one history in a panel.
pub(super) fn curves(
    name: &str,
    of_cluster: bool,
    history: &History,
    interval_ms: u64,
    area: Rect,
    buf: &mut Buffer,
) {
    let count = if area.width >= 140 { 4 } else { 3 };
    let share = (area.width.saturating_sub(4) / count as u16).saturating_sub(2);
    let seconds = (u64::from(share) * interval_ms / 1000).max(1);
    let inner = panel(title(name, format!("last {}", units::seconds(seconds))), area, buf);
    let layout = Layout::horizontal(vec![Constraint::Fill(1); count]).spacing(Spacing::Space(2));
    for (curve, area) in CURVES.iter().zip(inner.layout_vec(&layout)) {
        draw_curve(curve, of_cluster && area.width >= 36, history, area, buf);
    }
}

fn draw_curve(curve: &Curve, say_whose: bool, history: &History, area: Rect, buf: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let width = usize::from(area.width);
    let values: Vec<Option<f64>> =
        history.iter().rev().take(width).map(|sample| sample.as_ref().map(curve.figure)).collect();
    let now = values.first().copied().flatten().map_or("-".to_owned(), curve.shown);
    let max = values.iter().flatten().copied().fold(0.0, f64::max);
    let mut line = Line::from(vec![
        Span::styled(format!("{}{} ", curve.label, if say_whose { curve.whose } else { "" }), theme::muted()),
        Span::styled(now, Style::new().fg(curve.color).add_modifier(Modifier::BOLD)),
    ]);
    let peak = format!("max {}", if max > 0.0 { (curve.shown)(max) } else { "-".to_owned() });
    let room = width.saturating_sub(line.width());
    if room > peak.chars().count() + 1 {
        line.push_span(Span::styled(format!("{peak:>room$}"), theme::muted()));
    }
    buf.set_line(area.x, area.y, &line, area.width);
    let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
    // Even a zero draws one step, so that the length of the history is visible.
    let steps = f64::from(below.height.max(1)) * 8.0;
    let bars: Vec<SparklineBar> = values.iter().map(|value| bar(*value, max, steps)).collect();
    Sparkline::default()
        .data(bars)
        .max(steps as u64)
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol("╌")
        .absent_value_style(theme::faint())
        .style(Style::new().fg(curve.color))
        .render(below, buf);
}

/// Returns a bar of at least one step, so that a low value differs from a moment without an answer.
fn bar(value: Option<f64>, max: f64, steps: f64) -> SparklineBar {
    let height = value.map(|value| if max > 0.0 { (value / max * steps).round().max(1.0) as u64 } else { 1 });
    SparklineBar::from(height)
}
