//! Sets up the terminal and restores it: at the end, on an error, on a panic of any thread.
//!
//! Restoring is idempotent, so that every path may do it.

use std::io::{self, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Whether the dashboard has set up the terminal and not restored it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in dashboard mode; dropping the value restores it.
pub struct Taken {
    /// The drawing surface.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Taken {
    /// Sets up the terminal: raw mode, alternate screen, no cursor. On an error the terminal is restored.
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

/// Returns whether the terminal is still in dashboard mode. A panic of any thread restores it.
pub fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// Restores the terminal if it is in dashboard mode. Ignores errors, because they could not be shown.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = leave(&mut io::stdout());
    }
}

/// Writes the sequences that undo those of [`Taken::take`].
fn leave(out: &mut impl Write) -> io::Result<()> {
    execute!(out, LeaveAlternateScreen, Show)
}

/// Runs `restore` before a panic message is printed; the previous hook still prints it.
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
    fn panic_restores_the_terminal_before_its_message() {
        static RESTORED: AtomicBool = AtomicBool::new(false);
        restore_on_panic(|| RESTORED.store(true, Ordering::SeqCst));
        let panicked = std::thread::spawn(|| panic!("on purpose")).join();
        assert!(panicked.is_err());
        assert!(RESTORED.load(Ordering::SeqCst));
    }

    #[test]
    fn restoring_a_terminal_that_was_not_set_up_does_nothing() {
        give_back();
        give_back();
        assert!(!TAKEN.load(Ordering::SeqCst));
    }
}
