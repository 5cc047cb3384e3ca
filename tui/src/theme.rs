//! The palette and the symbols of states. Colour is never the only sign of a state.
//!
//! Colours are from the 256-colour palette, which terminals show alike.

use ratatui::style::{Color, Modifier, Style};

/// Less important text: labels, titles of borders, units.
pub const MUTED: Color = Color::Indexed(245);
/// Borders and unfilled bars.
pub const FAINT: Color = Color::Indexed(238);
/// Figures and names.
pub const TEXT: Color = Color::Indexed(253);
/// Accent: the open tab, the coordinator, headings.
pub const ACCENT: Color = Color::Indexed(79);
/// [`Level::Good`].
pub const GOOD: Color = Color::Indexed(114);
/// [`Level::Warning`].
pub const WARN: Color = Color::Indexed(221);
/// [`Level::Bad`].
pub const BAD: Color = Color::Indexed(203);
/// [`Level::Busy`].
pub const BUSY: Color = Color::Indexed(75);
/// Background of the selected row.
pub const SELECTED: Color = Color::Indexed(236);

/// Colours of the nodes on the ring map, repeated from the ninth node on; the letter distinguishes them.
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

/// Severity of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Normal.
    Good,
    /// Work in progress.
    Busy,
    /// [`Level::Warning`].
    Warning,
    /// An operator must act.
    Bad,
}

impl Level {
    /// Returns the colour of the level.
    pub const fn color(self) -> Color {
        match self {
            Self::Good => GOOD,
            Self::Busy => BUSY,
            Self::Warning => WARN,
            Self::Bad => BAD,
        }
    }

    /// Returns the symbol of the level, one column wide.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Busy => "◐",
            Self::Warning => "▲",
            Self::Bad => "✖",
        }
    }

    /// Returns the level of an event's severity; an unknown severity is a warning.
    pub fn of_severity(severity: &str) -> Self {
        match severity {
            "info" => Self::Good,
            "error" => Self::Bad,
            _ => Self::Warning,
        }
    }

    /// Returns the level of a node's state; an unknown state is a warning.
    pub fn of_state(state: &str) -> Self {
        match state {
            "up" => Self::Good,
            "joining" => Self::Busy,
            "down" => Self::Bad,
            _ => Self::Warning,
        }
    }
}

/// Returns the style of values and names.
pub const fn text() -> Style {
    Style::new().fg(TEXT)
}

/// Returns the style of labels.
pub const fn muted() -> Style {
    Style::new().fg(MUTED)
}

/// Returns the style of borders.
pub const fn faint() -> Style {
    Style::new().fg(FAINT)
}

/// Returns the style of headings.
pub const fn heading() -> Style {
    Style::new().fg(ACCENT).add_modifier(Modifier::BOLD)
}

/// Returns the colour of node number `index` on the ring map.
pub fn node(index: usize) -> Color {
    NODES.get(index % NODES.len()).copied().unwrap_or(TEXT)
}

/// Returns the letter of node number `index` on the ring map: `A` to `Z`, then `+` for all further nodes.
pub fn letter(index: usize) -> char {
    u8::try_from(index).ok().filter(|index| *index < 26).map_or('+', |index| char::from(b'A' + index))
}
