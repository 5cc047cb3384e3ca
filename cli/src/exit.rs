//! Results of commands and their exit codes.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// Result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Executed (exit code 0).
    Done,
    /// Executed, and the answer is no (exit code 1): the key is absent, the condition does not hold.
    No,
    /// Failed (exit code 2); the command has printed the error already.
    Failed,
}

impl Exit {
    /// Returns `Done` for true, `No` for false.
    pub(crate) fn yes(yes: bool) -> Self {
        if yes { Self::Done } else { Self::No }
    }
}

/// Prints the error, if any, and returns the exit code. A closed output pipe (`| head`) is not an error.
pub(crate) fn report(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Ok(Exit::Failed) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed too, only the exit code is left.
            let _ = writeln!(io::stderr(), "caskctl: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_pipe_is_quiet() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(report(Err(broken.into())), ExitCode::SUCCESS);
        assert_eq!(report(Err(anyhow::anyhow!("no"))), ExitCode::from(2));
    }
}
