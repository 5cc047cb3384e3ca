//! The cluster in two lines: its health in a sentence, and its main values.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::{cut, lines, name, panel, title};
use crate::health::{health, keys};
use crate::model::{Model, Snapshot};
use crate::theme::{self, Level};
use crate::units;

/// Returns the number of rows that the panel takes.
pub(super) fn height(model: &Model) -> u16 {
    4 + u16::from(warning(model).is_some())
}

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let inner = panel(title("Cluster", ""), area, buf);
    let width = usize::from(inner.width);
    let health = health(model);
    let style = Style::new().fg(health.level.color()).add_modifier(Modifier::BOLD);
    let sentence = cut(&health.text, width.saturating_sub(2));
    let mut rows = vec![Line::from(vec![
        Span::styled(format!("{} ", health.level.symbol()), style),
        Span::styled(sentence, style),
    ])];
    rows.push(match &model.snapshot {
        Some(snapshot) => facts(model, snapshot, width),
        None => Line::from(Span::styled(
            "name the client address of a running node with --addr (default port 7900)",
            theme::muted(),
        )),
    });
    if let Some(warning) = warning(model) {
        rows.push(Line::from(vec![
            Span::styled(format!("{} ", Level::Warning.symbol()), theme::WARN),
            Span::styled(cut(&warning, width.saturating_sub(2)), theme::text()),
        ]));
    }
    lines(rows, inner, buf);
}

/// Returns the warnings of the node and the requests that it rejected.
fn warning(model: &Model) -> Option<String> {
    let snapshot = model.snapshot.as_ref()?;
    let all: Vec<&str> =
        snapshot.status.warnings.iter().chain(&snapshot.missing).map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Returns values with their labels, the most important first; omits those that do not fit.
fn facts(model: &Model, snapshot: &Snapshot, width: usize) -> Line<'static> {
    let status = &snapshot.status;
    let count = keys(model).map_or("-".to_owned(), |(count, estimate)| {
        format!("{}{}", if estimate { "≈" } else { "" }, units::count(count))
    });
    let up = status.members.iter().filter(|member| member.state == "up").count();
    let start = |text: &str, count: usize| text.chars().take(count).collect::<String>();
    let id_length = if width >= 150 { 32 } else { 8 };
    let facts = [
        ("keys", count),
        ("nodes", format!("{up}/{} up", status.members.len())),
        (
            "coordinator",
            status.coordinator.as_deref().map_or("none".to_owned(), |id| format!("★ {}", name(id))),
        ),
        ("epoch", status.epoch.to_string()),
        ("ring", start(&status.ring_hash, 8)),
        ("copies", format!("{}/{}", status.copies_now, status.replication_factor)),
        ("cluster", start(&status.cluster_id, id_length)),
        ("voters", status.voters.len().to_string()),
        ("asked", format!("{} {}", name(&status.node_id), status.state)),
        ("build", status.build.clone()),
    ];
    let gap = if width >= 100 { "   " } else { "  " };
    let mut line = Line::default();
    for (label, value) in facts.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        let gap = if line.spans.is_empty() { "" } else { gap };
        if line.width() + gap.len() + label.len() + 1 + value.chars().count() > width {
            break;
        }
        line.push_span(Span::styled(format!("{gap}{label} "), theme::muted()));
        line.push_span(Span::styled(value, theme::text()));
    }
    line
}
