//! Prints the hash of a password for ACL rules.

use anyhow::{Context as _, anyhow};
use caskade_api::password::Secret;
use caskade_tui::login::Login;
use serde_json::json;

use crate::exit::Exit;
use crate::output::Output;

/// Prints the ACL rule that gives a user this password.
pub(crate) fn run(login: &Login, out: &mut Output) -> anyhow::Result<Exit> {
    let password = login.password().context("no password was given; use --askpass or CASKADE_PASSWORD")?;
    let secret =
        Secret::argon2(password.as_bytes()).map_err(|cause| anyhow!("cannot hash the password: {cause}"))?;
    let rule = format!("#{}", secret.text());
    out.either(&rule, &json!({ "rule": rule }))?;
    Ok(Exit::Done)
}
