//! The palette, and the symbol that goes with each state: colour is never the only sign.
//!
//! Colours are of the 256-colour palette, which every terminal in use shows alike.

use ratatui::style::{Color, Modifier, Style};

/// Text that matters less: labels, borders' titles, units.
pub const MUTED: Color = Color::Indexed(245);
/// Borders and unfilled bars.
pub const FAINT: Color = Color::Indexed(238);
/// Figures and names.
pub const TEXT: Color = Color::Indexed(253);
/// The one accent: the open tab, the coordinator, headings.
pub const ACCENT: Color = Color::Indexed(79);
/// All is well.
pub const GOOD: Color = Color::Indexed(114);
/// Worth a look.
pub const WARN: Color = Color::Indexed(221);
/// Wrong.
pub const BAD: Color = Color::Indexed(203);
/// Work in progress.
pub const BUSY: Color = Color::Indexed(75);
/// Behind the selected row.
pub const SELECTED: Color = Color::Indexed(236);

/// Colours of the nodes on the ring map, repeated from the ninth node on (the letter tells them apart).
const NODES: [Color; 8] = [
    Color::Indexed(75),
    Color::Indexed(79),
    Color::Indexed(179),
    Color::Indexed(140),
    Color::Indexed(174),
    Color::Indexed(108),
    Color::Indexed(67),
    Color::Indexed(144),
];

/// How serious something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Being worked on.
    Busy,
    /// Worth a look.
    Warning,
    /// Needs somebody.
    Bad,
}

impl Level {
    /// Its colour.
    pub const fn color(self) -> Color {
        match self {
            Self::Good => GOOD,
            Self::Busy => BUSY,
            Self::Warning => WARN,
            Self::Bad => BAD,
        }
    }

    /// Its symbol, one column wide.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Busy => "◐",
            Self::Warning => "▲",
            Self::Bad => "✖",
        }
    }

    /// The level of an event's severity; an unknown one is shown as a warning.
    pub fn of_severity(severity: &str) -> Self {
        match severity {
            "info" => Self::Good,
            "error" => Self::Bad,
            _ => Self::Warning,
        }
    }

    /// The level of a node's state.
    pub fn of_state(state: &str) -> Self {
        match state {
            "up" => Self::Good,
            "joining" => Self::Busy,
            "down" => Self::Bad,
            _ => Self::Warning,
        }
    }
}

/// Plain text.
pub const fn text() -> Style {
    Style::new().fg(TEXT)
}

/// Labels.
pub const fn muted() -> Style {
    Style::new().fg(MUTED)
}

/// Borders.
pub const fn faint() -> Style {
    Style::new().fg(FAINT)
}

/// Headings.
pub const fn heading() -> Style {
    Style::new().fg(ACCENT).add_modifier(Modifier::BOLD)
}

/// The colour of node number `index` on the ring map.
pub fn node(index: usize) -> Color {
    NODES.get(index % NODES.len()).copied().unwrap_or(TEXT)
}

/// The letter of node number `index` on the ring map: `A`..`Z`, then `+`, which the balance panel explains.
pub fn letter(index: usize) -> char {
    u8::try_from(index).ok().filter(|index| *index < 26).map_or('+', |index| char::from(b'A' + index))
}
