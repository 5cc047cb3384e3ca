//! Placeholder.
use super::{Action, ActionError, Effect, Entry, Outcome};

/// Placeholder.
pub fn evaluate(_action: &Action, _current: Option<&Entry>, _now_ms: u64) -> Result<(Effect, Outcome), ActionError> {
    Err(ActionError::Overflow)
}
