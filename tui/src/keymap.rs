//! The table of keys: key handling, the footer and the help screen derive from it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::model::Screen;

/// Action of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Show or hide the help.
    Help,
    /// Close the help, else open the overview.
    Back,
    /// Next screen.
    NextScreen,
    /// Previous screen.
    PreviousScreen,
    /// Open this screen.
    Go(Screen),
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// Ten lines up.
    PageUp,
    /// Ten lines down.
    PageDown,
    /// The first line.
    First,
    /// The last line.
    Last,
    /// Show the selected node.
    Open,
    /// Ask the nodes now.
    Refresh,
    /// Ask another node from now on.
    OtherNode,
    /// Show the next columns of the node table.
    Columns,
}

/// One row of the table.
pub struct Binding {
    /// The keys; each of them triggers the action.
    pub keys: &'static [(KeyCode, KeyModifiers)],
    /// Label of the keys.
    pub label: &'static str,
    /// The action.
    pub action: Action,
    /// Text on the help screen; empty if an earlier row explains the action.
    pub help: &'static str,
    /// Text in the footer; empty: not shown there.
    pub short: &'static str,
}

const NONE: KeyModifiers = KeyModifiers::NONE;

const fn row(
    keys: &'static [(KeyCode, KeyModifiers)],
    label: &'static str,
    action: Action,
    help: &'static str,
    short: &'static str,
) -> Binding {
    Binding { keys, label, action, help, short }
}

/// All keys.
#[rustfmt::skip]
pub const KEYMAP: &[Binding] = &[
    row(&[(KeyCode::Char('1'), NONE)], "1", Action::Go(Screen::Overview), "overview: health, nodes, load, tasks, newest events", ""),
    row(&[(KeyCode::Char('2'), NONE)], "2", Action::Go(Screen::Ring), "ring: balance of the copies, map of the partitions", ""),
    row(&[(KeyCode::Char('3'), NONE)], "3", Action::Go(Screen::Tasks), "tasks: background work such as migrations", ""),
    row(&[(KeyCode::Char('4'), NONE)], "4", Action::Go(Screen::Events), "events of the cluster, newest first", ""),
    row(&[(KeyCode::Char('5'), NONE)], "5", Action::Go(Screen::Node), "node: all values of one node", ""),
    row(&[(KeyCode::Tab, NONE), (KeyCode::Right, NONE), (KeyCode::Char('l'), NONE)], "Tab →", Action::NextScreen, "next screen", "screens"),
    row(&[(KeyCode::BackTab, NONE), (KeyCode::BackTab, KeyModifiers::SHIFT), (KeyCode::Left, NONE), (KeyCode::Char('h'), NONE)], "Shift-Tab ←", Action::PreviousScreen, "previous screen", ""),
    row(&[(KeyCode::Up, NONE), (KeyCode::Char('k'), NONE)], "↑ k", Action::Up, "previous line or node", ""),
    row(&[(KeyCode::Down, NONE), (KeyCode::Char('j'), NONE)], "↓ j", Action::Down, "next line or node", "select"),
    row(&[(KeyCode::PageUp, NONE)], "PgUp", Action::PageUp, "ten lines up", ""),
    row(&[(KeyCode::PageDown, NONE)], "PgDn", Action::PageDown, "ten lines down", ""),
    row(&[(KeyCode::Home, NONE), (KeyCode::Char('g'), NONE)], "Home g", Action::First, "first line", ""),
    row(&[(KeyCode::End, NONE), (KeyCode::Char('G'), NONE)], "End G", Action::Last, "last line", ""),
    row(&[(KeyCode::Char('c'), NONE)], "c", Action::Columns, "next columns of the node table, if not all fit", "columns"),
    row(&[(KeyCode::Enter, NONE)], "Enter", Action::Open, "show the selected node", "node"),
    row(&[(KeyCode::Char('r'), NONE)], "r", Action::Refresh, "ask the nodes now", ""),
    row(&[(KeyCode::Char('n'), NONE)], "n", Action::OtherNode, "ask another node from now on", "other node"),
    row(&[(KeyCode::Esc, NONE), (KeyCode::Backspace, NONE)], "Esc", Action::Back, "close the help, or return to the overview", ""),
    row(&[(KeyCode::Char('?'), NONE), (KeyCode::F(1), NONE)], "?", Action::Help, "this help", "help"),
    row(&[(KeyCode::Char('q'), NONE), (KeyCode::Char('c'), KeyModifiers::CONTROL)], "q", Action::Quit, "quit (also Ctrl-C)", "quit"),
];

/// Returns the action of `key`, if it has one.
pub fn action(key: &KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    // Terminals differ in whether they report the shift key with characters such as '?' and 'G'.
    let modifiers = match key.code {
        KeyCode::Char(_) => key.modifiers - KeyModifiers::SHIFT,
        _ => key.modifiers,
    };
    let pressed = (key.code, modifiers);
    KEYMAP.iter().find(|row| row.keys.contains(&pressed)).map(|row| row.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_actions() {
        let all: Vec<_> = KEYMAP.iter().flat_map(|row| row.keys).collect();
        for (at, key) in all.iter().enumerate() {
            assert!(!all[..at].contains(key), "{key:?} is bound twice");
        }
    }

    #[test]
    fn every_screen_has_a_key() {
        for screen in Screen::ALL {
            assert!(KEYMAP.iter().any(|row| row.action == Action::Go(screen)), "{screen:?}");
        }
    }

    #[test]
    fn shift_is_part_of_a_character() {
        assert_eq!(action(&KeyEvent::new(KeyCode::Char('?'), KeyModifiers::SHIFT)), Some(Action::Help));
        assert_eq!(action(&KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Action::Quit));
        assert_eq!(action(&KeyEvent::new(KeyCode::Char('x'), KeyModifiers::NONE)), None);
    }
}
