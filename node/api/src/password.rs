//! Hashes of passwords. Passwords themselves are never stored.
//!
//! Redis stores SHA-256, which is fast to compute, also for a thief of the file. An Argon2 hash is slow for
//! both. Its costs are bounded, so that no rule can make log-ins exhaust the machine.

use std::fmt;

use argon2::password_hash::rand_core::{OsRng, RngCore as _};
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Argon2, Params};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Maximum memory of an Argon2 hash, in KiB.
const ARGON2_MEMORY_KIB_MAX: u32 = 64 * 1024;
/// Maximum passes over the memory of an Argon2 hash.
const ARGON2_PASSES_MAX: u32 = 16;
/// Maximum lanes of an Argon2 hash.
const ARGON2_LANES_MAX: u32 = 8;
/// Longest text of an Argon2 hash, in bytes.
const PHC_BYTES_MAX: usize = 512;

/// The hash of one password of a user.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// SHA-256 of the password.
    Sha256([u8; 32]),
    /// An Argon2 hash in the PHC text form: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
    Argon2(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Sha256(..)",
            Self::Argon2(_) => "Argon2(..)",
        })
    }
}

impl Secret {
    /// Creates the SHA-256 hash of a password, as Redis stores it.
    pub fn sha256(password: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(password).into())
    }

    /// Creates an Argon2id hash of a password, with the costs that OWASP recommends (19 MiB, two passes).
    ///
    /// # Errors
    /// The password is longer than Argon2 takes (4 GiB).
    pub fn argon2(password: &[u8]) -> Result<Self, String> {
        let salt = SaltString::generate(&mut OsRng);
        let hash = Argon2::default().hash_password(password, &salt).map_err(|error| error.to_string())?;
        Ok(Self::Argon2(hash.to_string()))
    }

    /// Parses the output of [`Secret::text`]: 64 lower-case hexadecimal digits, or an Argon2 hash within the
    /// bounds.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.starts_with(b"$argon2") {
            return parse_argon2(text);
        }
        let mut hash = [0; 32];
        if text.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = hex(high)? << 4 | hex(low)?;
        }
        Some(Self::Sha256(hash))
    }

    /// Returns the hash as text, as in ACL LIST and in ACL files but without the `#`.
    pub fn text(&self) -> String {
        match self {
            Self::Sha256(hash) => hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::Argon2(text) => text.clone(),
        }
    }

    /// Returns whether `password` matches. The time does not depend on how much of the hash matches.
    pub fn matches(&self, password: &[u8]) -> bool {
        match self {
            Self::Sha256(hash) => hash.ct_eq(&<[u8; 32]>::from(Sha256::digest(password))).into(),
            Self::Argon2(text) => PasswordHash::new(text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
        }
    }

    /// Returns whether [`Secret::matches`] is slow.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Argon2(_))
    }
}

fn parse_argon2(text: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= PHC_BYTES_MAX)?;
    let hash = PasswordHash::new(text).ok()?;
    argon2::Algorithm::try_from(hash.algorithm).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let bounded = params.m_cost() <= ARGON2_MEMORY_KIB_MAX
        && params.t_cost() <= ARGON2_PASSES_MAX
        && params.p_cost() <= ARGON2_LANES_MAX;
    (bounded && hash.salt.is_some() && hash.hash.is_some()).then(|| Secret::Argon2(text.to_owned()))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Creates a password of `bits` random bits, rounded up to whole hexadecimal digits (ACL GENPASS).
pub fn generate(bits: usize) -> String {
    let digits = bits.div_ceil(4);
    let mut bytes = vec![0; digits.div_ceil(2)];
    OsRng.fill_bytes(&mut bytes);
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_parsed_as_it_was_and_matches_only_its_password() {
        for secret in [Secret::sha256(b"p"), Secret::argon2(b"p").unwrap()] {
            let read = Secret::parse(secret.text().as_bytes()).unwrap();
            assert_eq!(read, secret);
            assert!(read.matches(b"p") && !read.matches(b"q") && !read.matches(b""));
        }
        assert_eq!(
            Secret::sha256(b"x").text(),
            "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        );
    }

    #[test]
    fn a_hash_that_costs_too_much_is_rejected() {
        let parse = |costs: &str| {
            Secret::parse(
                format!("$argon2id$v=19${costs}$c29tZXNhbHRzYWx0$Zm9vYmFyZm9vYmFyZm9vYg").as_bytes(),
            )
        };
        assert!(parse("m=19456,t=2,p=1").is_some());
        for costs in ["m=4194304,t=2,p=1", "m=19456,t=4000,p=1", "m=19456,t=2,p=200", "m=x,t=2,p=1"] {
            assert!(parse(costs).is_none(), "{costs}");
        }
        for text in ["", "$argon2id", "$argon2id$", "00", &"G".repeat(64), &"A".repeat(64)] {
            assert!(Secret::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn generated_passwords_have_the_length_asked_for() {
        assert_eq!(generate(5).len(), 2);
        assert_eq!(generate(256).len(), 64);
        assert_ne!(generate(256), generate(256));
    }
}
