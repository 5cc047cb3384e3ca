//! How a run ends.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was done.
    Done,
    /// It was done, and the answer is no: the key is absent, the condition does not hold.
    No,
    /// Something failed; it has been said already.
    Failed,
}

impl Exit {
    /// `Done` for yes, `No` for no.
    pub(crate) fn yes(yes: bool) -> Self {
        if yes { Self::Done } else { Self::No }
    }
}

/// Tells the error, if there is one, and gives the exit code. A reader that has gone away (`| head`) is no error.
pub(crate) fn report(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Ok(Exit::Failed) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody to tell if this fails too.
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
