//! Certificates for first steps with TLS: a CA in a directory, and node and client certificates signed by it.
//!
//! Keys are ECDSA P-256; only the owner can read their files. Existing files are never overwritten. Only a CA
//! made by this command is supported: its name is always the same, so that its key alone suffices to sign.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::args::CertCommand;
use crate::exit::Exit;
use crate::output::Output;

const CA_NAME: &str = "Caskade CA";
const CA_DAYS: u32 = 3650;
/// Certificates are valid from this time before now, because clocks of other machines may be behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// Creates the certificate and its key, and prints the paths of both files.
pub(crate) fn run(command: &CertCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let (dir, name, made) = match command {
        CertCommand::Ca { dir } => (dir, "ca".to_owned(), make_ca()?),
        CertCommand::Node { dir, names, days } => {
            let name = names.first().context("a node needs a name")?;
            let made = make_signed(dir, name, names, *days, ExtendedKeyUsagePurpose::ServerAuth)?;
            (dir, file_name(name)?, made)
        }
        CertCommand::Client { dir, name, days } => {
            let made = make_signed(dir, name, &[], *days, ExtendedKeyUsagePurpose::ClientAuth)?;
            (dir, file_name(name)?, made)
        }
    };
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create {}; nothing was written", dir.display()))?;
    for path in [&cert, &key] {
        ensure!(!path.exists(), "{} exists already; nothing was written; move it away first", path.display());
    }
    write(&key, 0o600, &made.key)?;
    write(&cert, 0o644, &made.cert)?;
    tell(&cert, &key, out)?;
    Ok(Exit::Done)
}

fn tell(cert: &Path, key: &Path, out: &mut Output) -> anyhow::Result<()> {
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    out.either(&format!("{cert}\n{key}"), &serde_json::json!({ "cert": cert, "key": key }))?;
    Ok(())
}

/// A certificate and its key in PEM.
struct Made {
    cert: String,
    key: String,
}

fn make_ca() -> anyhow::Result<Made> {
    let key = KeyPair::generate().context("cannot create a key; nothing was written")?;
    let cert = ca_params().self_signed(&key).context("cannot create the CA; nothing was written")?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

fn ca_params() -> CertificateParams {
    let mut params = params(CA_NAME, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_signed(
    dir: &Path,
    name: &str,
    names: &[String],
    days: u32,
    usage: ExtendedKeyUsagePurpose,
) -> anyhow::Result<Made> {
    let path = dir.join("ca.key");
    let ca_key = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; nothing was written; create a CA with: caskctl cert ca --dir DIR",
            path.display()
        )
    })?;
    let ca_key = KeyPair::from_pem(&ca_key)
        .with_context(|| format!("{} is not a key in PEM; nothing was written", path.display()))?;
    // A signed certificate depends only on the name and the key of the CA; both equal those in ca.crt.
    let ca = ca_params().self_signed(&ca_key).context("cannot use the CA; nothing was written")?;
    let key = KeyPair::generate().context("cannot create a key; nothing was written")?;
    let mut params = params(name, days);
    params.subject_alt_names = CertificateParams::new(names)
        .context("a name is neither a host name nor an address; nothing was written")?
        .subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let cert =
        params.signed_by(&key, &ca, &ca_key).context("cannot create the certificate; nothing was written")?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
    params
}

/// Returns the file name for a host: an address, or letters, digits, `-`, `_` and `.`.
fn file_name(name: &str) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = name.parse::<IpAddr>().is_ok()
        || (name.chars().all(plain) && !name.starts_with('.') && !name.is_empty() && name != "ca");
    ensure!(
        fits,
        "'{name}' cannot be a file name; nothing was written; use letters, digits, '-', '_' and '.'"
    );
    Ok(name.replace(':', "_"))
}

fn write(path: &PathBuf, mode: u32, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
    .with_context(|| format!("cannot write {}", path.display()))
}
