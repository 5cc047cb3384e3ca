//! Takes the terminal and gives it back: at the end, on an error, on a panic of any thread.
//!
//! Giving back is harmless when there is nothing to give back, so that every path may do it.

use std::io::{self, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours; dropping gives it back.
pub struct Taken {
    /// What is drawn on.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Taken {
    /// Takes the terminal: raw mode, the alternate screen, no cursor.
    pub fn take() -> io::Result<Self> {
        restore_on_panic(give_back);
        TAKEN.store(true, Ordering::SeqCst);
        let taken = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match taken {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether it is ours still: a panic of any thread gives it back.
pub fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// Gives the terminal back if it is ours. Errors are of no use here: there is nowhere to tell them.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = leave(&mut io::stdout());
    }
}

/// The sequences that undo what taking wrote.
fn leave(out: &mut impl Write) -> io::Result<()> {
    execute!(out, LeaveAlternateScreen, Show)
}

/// Runs `restore` before a panic's message is printed; the hook that was there still prints it.
fn restore_on_panic(restore: fn()) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_shows_the_cursor_on_the_main_screen() {
        let mut out = Vec::new();
        leave(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\u{1b}[?1049l\u{1b}[?25h");
    }

    #[test]
    fn a_panic_restores_first() {
        static RESTORED: AtomicBool = AtomicBool::new(false);
        restore_on_panic(|| RESTORED.store(true, Ordering::SeqCst));
        let panicked = std::thread::spawn(|| panic!("on purpose")).join();
        assert!(panicked.is_err());
        assert!(RESTORED.load(Ordering::SeqCst));
    }

    #[test]
    fn giving_back_what_was_not_taken_does_nothing() {
        give_back();
        give_back();
        assert!(!TAKEN.load(Ordering::SeqCst));
    }
}
