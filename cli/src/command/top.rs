//! The dashboard.

use caskade_tui::Options;

use crate::client::{Addr, Client};
use crate::exit::Exit;

/// Shows the dashboard until the user leaves it.
pub(crate) async fn run(addr: &Addr) -> anyhow::Result<Exit> {
    // Report an unreachable node here, because the dashboard would only show an empty screen.
    drop(Client::connect(addr).await?);
    let options = Options { login: addr.login().clone(), ..Options::from(addr.to_string().as_str()) };
    caskade_tui::run(options).await?;
    Ok(Exit::Done)
}
