//! Users as text, for ACL LIST, ACL GETUSER and ACL files.

use super::user::{KeyPattern, Selector, User};

impl Selector {
    /// Returns the rules for commands: `+@all -get`.
    pub fn commands_text(&self) -> String {
        let mut text = String::from(if self.all_commands { "+@all" } else { "-@all" });
        for rule in &self.rules {
            text.push_str(if rule.allow { " +" } else { " -" });
            text.push_str(&rule.text);
        }
        text
    }

    /// Returns the patterns for keys: `~a* %R~b*`.
    pub fn keys_text(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        self.keys.iter().map(pattern_text).collect::<Vec<_>>().join(&b' ')
    }

    /// Returns the patterns for channels: `&a* &b*`.
    pub fn channels_text(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        self.channels
            .iter()
            .map(|channel| [b"&".as_slice(), channel].concat())
            .collect::<Vec<_>>()
            .join(&b' ')
    }

    /// Returns the rules as in the line of the user.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        if self.all_keys || !self.keys.is_empty() {
            parts.push(self.keys_text());
        }
        if !self.all_channels {
            parts.push(b"resetchannels".to_vec());
        }
        if self.all_channels || !self.channels.is_empty() {
            parts.push(self.channels_text());
        }
        parts.push(self.commands_text().into_bytes());
        parts.join(&b' ')
    }
}

fn pattern_text(pattern: &KeyPattern) -> Vec<u8> {
    let sign: &[u8] = match (pattern.reads, pattern.writes) {
        (true, false) => b"%R~",
        (false, true) => b"%W~",
        _ => b"~",
    };
    [sign, &pattern.pattern].concat()
}

impl User {
    /// Returns the flags: `on` or `off`, and `nopass` if it is set.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        if self.nopass {
            flags.push("nopass");
        }
        flags
    }

    /// Returns the hashes of the passwords, without `#`.
    pub fn passwords(&self) -> impl ExactSizeIterator<Item = String> {
        self.secrets.iter().map(|secret| secret.text())
    }

    /// Returns the permissions outside selectors.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    /// Returns the selectors.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Returns the line of ACL LIST: rules that define an equal user.
    pub fn line(&self) -> Vec<u8> {
        let mut line = format!("user {} {}", self.name, self.flags().join(" "));
        for password in self.passwords() {
            line.push_str(" #");
            line.push_str(&password);
        }
        let mut line = line.into_bytes();
        line.push(b' ');
        line.extend(self.root.text());
        for selector in &self.selectors {
            line.extend_from_slice(b" (");
            line.extend(selector.text());
            line.push(b')');
        }
        line
    }
}
